"""The tokens that begin the words of a text, inside a graph."""

import tensorflow as tf

from kerasllm.tokenizers.byte_level_bpe import ByteLevelBPETokenizer
from kerasllm.tokenizers.wordpiece import WordPieceTokenizer

SPACE = "▁"  # of SentencePiece
BLANK = ("Ġ", SPACE)  # a space as a token of its own


class WordsInGraph(tf.Module):
    """Encodes words that are joined by spaces, and says which token begins each of them.

    No token reaches over the space between two words, so each is encoded by itself. (Only LLaMA 2's
    kind of SentencePiece joins that space to a ▁ which somebody has typed.)

    Args:
        tokenizer: of `kerasllm.tokenizers`.
        in_graph: what its `in_graph` gives.

    Raises:
        ValueError: a token of the tokenizer may reach over a space.
    """

    def __init__(self, tokenizer, in_graph):
        super().__init__(name="words")
        self._in_graph = in_graph
        self._gap, self._skips = _rules(tokenizer, in_graph)
        entries = map(tokenizer.token, range(tokenizer.vocab_size))
        with tf.init_scope():  # a tensor of the module, also where a graph is being traced
            self._is_blank = tf.constant([entry in BLANK for entry in entries])

    def __call__(self, words):
        """Encodes the words of texts.

        Args:
            words: string `tf.RaggedTensor` `(batch, None)`, without white space in them.

        Returns:
            Two `tf.RaggedTensor` `(batch, None)`: int32 ids of the texts' tokens; and int32, for
            each word, the place of its first token among them, -1 where it has none.
        """
        row = words.value_rowids()
        is_first = tf.range(tf.size(row, tf.int64)) == tf.gather(words.row_starts(), row)
        tokens = self._encode(words.values, is_first)  # (words, None)
        first, count = tokens.row_starts(), tokens.row_lengths()
        if self._skips != "no":
            padded = tf.concat([tokens.values, [0]], 0)  # so that there is one at each `first`
            blank = tf.gather(self._is_blank, tf.gather(padded, first)) & (count > 0)
            blank &= (self._skips == "all") | ~is_first
            first, count = (x + tf.cast(blank, x.dtype) * by for x, by in ((first, 1), (count, -1)))
        ids = words.with_values(tokens).merge_dims(1, 2)
        place = first - tf.gather(ids.row_starts(), row)
        return ids, words.with_values(tf.cast(tf.where(count > 0, place, -1), tf.int32))

    def _encode(self, words, is_first):
        if self._gap is None:
            return self._in_graph.encode(words)
        return self._in_graph.encode_sections(
            tf.where(is_first, words, self._gap + words), is_first
        )


def _rules(tokenizer, in_graph):
    """What stands before a word, and whose space may be a token of its own.

    That is None where a tokenizer takes each word for itself. The second is `"no"`, `"later"` words
    or `"all"`, where the space before the first one counts as none of its characters either.
    """
    if isinstance(tokenizer, WordPieceTokenizer):
        return None, "no"
    found = tokenizer._rust.get_added_tokens_decoder().values()
    added = [token for token in found if tokenizer.allow_special_tokens or not token.special]
    wide = [t.content for t in added if t.rstrip or t.content != "".join(t.content.split())]
    if wide:
        raise _error(f"{wide[0]!r}, which may take the space behind it too")
    if isinstance(tokenizer, ByteLevelBPETokenizer):
        if tokenizer.prefix_is_kept:
            raise _error("a space before each text that counts as a part of it")
        return " ", "all"
    steps = tokenizer._steps["normalizer"]
    prepends = any(step["type"] == "Prepend" for step in steps)
    if in_graph._at_space and not prepends:
        return "", "no"
    spaces = all(step.get("pattern") == {"String": " "} for step in steps if "prepend" not in step)
    if in_graph._cut is not None and spaces and not (prepends and added):
        # A normalizer that prepends a space does so to each part of a text.
        return ("" if prepends else " "), "later"
    raise _error("one that doesn't split texts at white space first")


def _error(received):
    return ValueError(
        "`tokenizer` must have tokens that don't reach over a space, for the tags of words in a "
        f"graph. Received: {received} (tag in Python instead)."
    )
