"""Where in its text each token stands, inside a graph."""

import functools

import tensorflow as tf

from kerasllm.tokenizers.byte_level_bpe import ByteLevelBPETokenizer
from kerasllm.tokenizers.splitting_in_graph import valid
from kerasllm.tokenizers.wordpiece import WordPieceTokenizer


@functools.cache
def _spaces():
    """The code points that `str.isspace` takes for white space."""
    return [code for code in range(0x110000) if chr(code).isspace()]


class OffsetsInGraph(tf.Module):
    """Encodes texts, and says of each token which characters it stands for, as `windows` does.

    Each token stands for a number of units: of WordPiece, characters of the normalized text; of
    byte-level BPE, bytes. It is known of which character of the text each unit comes, and tokens
    leave none out, so their lengths say where they stand.

    Args:
        tokenizer: `WordPieceTokenizer`, or `ByteLevelBPETokenizer` without normalizer.
        in_graph: what its `in_graph` gives.

    Raises:
        ValueError: of the tokenizer's tokens it can't be known so.
    """

    def __init__(self, tokenizer, in_graph):
        super().__init__(name="offsets")
        _check(tokenizer)
        self._in_graph = in_graph
        units = _pieces if isinstance(tokenizer, WordPieceTokenizer) else _bytes
        self._units = lambda texts, chars: units(tokenizer, in_graph, texts, chars)

    def __call__(self, texts):
        """Encodes texts.

        Args:
            texts: strings `(batch,)`.

        Returns:
            Three int32 `tf.RaggedTensor` `(batch, None)`: ids, and where in the characters of the
            text each begins and ends, white space around it left out.
        """
        texts = valid(texts)
        chars = tf.strings.unicode_split(texts, "UTF-8")
        ids, lengths, units = self._units(texts, chars)
        source = tf.repeat(tf.range(tf.size(chars.values)), units)  # the character of each unit
        end = tf.cumsum(lengths)
        # A token of nothing stands for no character: it ends where the one before it does.
        starts = tf.gather(source, end - lengths)
        ends = tf.gather(source, tf.maximum(end - 1, 0)) + 1
        starts, ends = _trimmed(starts, ends, chars.values)
        first = tf.cast(tf.gather(chars.row_starts(), ids.value_rowids()), tf.int32)
        return ids, ids.with_values(starts - first), ids.with_values(ends - first)


def _check(tokenizer):
    kind = type(tokenizer).__name__
    if isinstance(tokenizer, WordPieceTokenizer):
        wrong = "allow_special_tokens=True" * tokenizer.allow_special_tokens
    elif isinstance(tokenizer, ByteLevelBPETokenizer):
        model, (normalizers, _) = tokenizer._model(), tokenizer._steps
        wrong = (
            f"the normalizer {', '.join(normalizers)}" * bool(normalizers)
            or "tokens that stand for themselves" * bool(_visible(tokenizer))
            or "a space before each text that counts as a part of it" * tokenizer.prefix_is_kept
            or "a vocabulary without some bytes" * (not _has_all_bytes(model["vocab"]))
        )
    else:
        wrong = "it"
    if wrong:
        raise ValueError(
            "`tokenizer` must be WordPiece, without special tokens in texts, or byte-level BPE "
            "with all bytes and no normalizer, for the places of tokens in a graph. Received: "
            f"{kind} with {wrong} (find answers in Python instead)."
        )


def _visible(tokenizer):
    """The tokens that the tokenizer finds in a text before its model sees it."""
    added = tokenizer._rust.get_added_tokens_decoder().values()
    return [t.content for t in added if tokenizer.allow_special_tokens or not t.special]


def _has_all_bytes(vocab):
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet()) <= set(vocab)


def _pieces(tokenizer, in_graph, texts, chars):
    """Ids, of how many characters of the normalized text each is, and each character becomes."""
    words = tf.strings.split(in_graph._normalized(texts))
    ids = in_graph._pieces.tokenize(in_graph._words(texts))  # (batch, words, tokens)
    entries = [entry.removeprefix("##") for entry in tokenizer.vocab]
    lengths = tf.gather(tf.constant([len(entry) for entry in entries]), ids.flat_values)
    # What is unknown is so as a whole word.
    word = tf.strings.length(words.values, unit="UTF8_CHAR")
    word = tf.gather(word, ids.values.value_rowids())
    lengths = tf.where(ids.flat_values == tokenizer.unk_id, word, lengths)
    plain = tf.strings.regex_replace(in_graph._normalized(chars.values), " ", "")
    return ids.merge_dims(1, 2), lengths, tf.strings.length(plain, unit="UTF8_CHAR")


def _bytes(tokenizer, in_graph, texts, chars):
    """Ids, of how many bytes each is, and each character."""
    ids = in_graph.encode(texts)
    lengths = tf.gather(tf.strings.length(in_graph._bytes), ids.values)
    if in_graph._prefix:  # the space that is put before a text is none of its bytes
        bare = (texts != "") & (tf.strings.substr(texts, 0, 1) != " ")
        first = tf.boolean_mask(ids.row_starts(), bare)
        lengths = tf.tensor_scatter_nd_sub(lengths, first[:, None], tf.ones_like(first, tf.int32))
    return ids, lengths, tf.strings.length(chars.values)


def _trimmed(starts, ends, chars):
    """`tokenizers.windows._trimmed`, for all texts at once."""
    code = tf.strings.unicode_decode(chars, "UTF-8").values  # each is one character
    solid = ~tf.reduce_any(code[:, None] == tf.constant(_spaces()), axis=1)
    places = tf.cast(tf.where(solid)[:, 0], tf.int32)  # of what is no white space, in turn
    count = tf.cumsum(tf.cast(solid, tf.int32))
    before = tf.concat([[0], places + 1], 0)
    after = tf.concat([places, [tf.size(code)]], 0)
    first, last = tf.gather(count, starts), tf.gather(count, ends - 1)
    first -= tf.cast(tf.gather(solid, starts), tf.int32)
    starts = tf.minimum(tf.gather(after, first), ends)
    return starts, tf.maximum(tf.gather(before, last), starts)
