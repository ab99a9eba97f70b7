"""SentencePiece's two models inside a graph."""

import tensorflow as tf

from kerasllm.tokenizers.joining_in_graph import join, texts_of, without
from kerasllm.tokenizers.merges_in_graph import Merges
from kerasllm.tokenizers.normalizing_in_graph import steps_in_graph
from kerasllm.tokenizers.patterns import white_space
from kerasllm.tokenizers.pipeline_in_graph import PipelineInGraph
from kerasllm.tokenizers.splitting_in_graph import CUT, parts, valid
from kerasllm.tokenizers.unigram_in_graph import Unigram

SPACE = "▁"
UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"


class SentencePieceInGraph(PipelineInGraph):
    """A `SentencePieceTokenizer` made of TensorFlow operations: see its `in_graph`."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        model = tokenizer._model()
        special = {token.content for token in tokenizer._special_added()}
        with tf.init_scope():  # tensors of the module, also where a graph is being traced
            self._normalizers = steps_in_graph(tokenizer._steps["normalizer"])
            if model["type"] == "Unigram":
                self._ids, self._cut = _unigram(model, special), None
            else:
                self._ids = CharacterBPE(model, special, tokenizer.vocab_size)
                self._cut = _word_border(model)
            self._pieces = _Pieces(tokenizer, special)
        self._read_pre_tokenizer(tokenizer._steps["pre_tokenizer"])

    def _read_pre_tokenizer(self, steps):
        kinds = [step["type"] for step in steps]
        if kinds not in ([], ["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
            raise ValueError(
                "`pre_tokenizer` must be none, Metaspace, or WhitespaceSplit and Metaspace, in a "
                f"graph. Received: {', '.join(kinds)} (tokenize in Python instead)"
            )
        self._at_space = "WhitespaceSplit" in kinds
        metaspace = steps[-1] if steps else {}
        self._scheme = metaspace.get("prepend_scheme", "never")
        self._writes_space = bool(steps)
        if metaspace.get("split", False):
            self._cut = SPACE, CUT + SPACE.encode()
        if self._at_space and self._scheme == "first":
            raise ValueError(
                "`prepend_scheme` must be always or never where text is split at white space, in "
                "a graph. Received: first (tokenize in Python instead)"
            )
        if metaspace.get("replacement", SPACE) != SPACE:
            raise ValueError(
                f"`replacement` must be {SPACE} in a graph. Received: {metaspace['replacement']!r}"
            )

    def _encode_plain(self, texts, is_first):
        if self._at_space:
            texts = parts(tf.strings.regex_replace(texts, f"[{white_space()}]+", CUT))
            words = texts.with_values(self._words(texts.values, None)).merge_dims(1, 2)
        else:
            words = self._words(texts, is_first)
        different, index = tf.unique(words.values)
        return words.with_values(tf.gather(self._ids(different), index)).merge_dims(1, 2)

    def _words(self, texts, is_first):
        """Words `(batch, None)` of strings `(batch,)`, with ▁ for a space."""
        if self._writes_space:
            texts = tf.strings.regex_replace(texts, " ", SPACE)
        if self._scheme != "never":
            bare = (texts != "") & ~tf.strings.regex_full_match(texts, f"(?s){SPACE}.*")
            bare = bare & is_first if self._scheme == "first" else bare
            texts = tf.where(bare, SPACE + texts, texts)
        if self._cut is not None:
            texts = tf.strings.regex_replace(texts, *self._cut)
        return parts(texts)

    def _text(self, ids):
        return self._pieces.text(ids)


def _unigram(model, special):
    if model.get("byte_fallback"):
        raise ValueError(
            "`model.byte_fallback` must be false for Unigram in a graph. Received: true (tokenize "
            "in Python instead)"
        )
    pieces = [(None if piece in special else piece, score) for piece, score in model["vocab"]]
    return Unigram(pieces, model["unk_id"])


def _word_border(model):
    """Where a text can be cut before it is merged: before a ▁, if no entry has one in its middle.

    Then no merge goes over the border, and the merges of the two sides do not see each other.
    """
    if any(SPACE in entry.lstrip(SPACE) for entry in model["vocab"]):
        return None
    return f"([^{SPACE}])({SPACE})", rb"\1" + CUT + rb"\2"


class CharacterBPE:
    """Byte-pair encoding of characters, those without an entry being bytes or unknown.

    Args:
        model: dict, the `model` of a `tokenizer.json`.
        special: set of `str`, entries that no merge may make.
        vocab_size: int, the number of entries.
    """

    def __init__(self, model, special, vocab_size):
        vocab = model["vocab"]
        chars = sorted((ord(entry), i) for entry, i in vocab.items() if len(entry) == 1)
        chars = chars or [(-1, -1)]
        self._codes = tf.constant([code for code, _ in chars], tf.int32)
        self._char_ids = tf.constant([index for _, index in chars], tf.int32)
        merges = [(a, b) for a, b in model["merges"] if a + b not in special]
        self._merges = Merges([(vocab[a], vocab[b], vocab[a + b]) for a, b in merges], vocab_size)
        in_bytes = [vocab.get(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_ids = None
        if model.get("byte_fallback"):
            if None in in_bytes:
                raise ValueError(
                    "`model.vocab` must hold all 256 bytes where `byte_fallback` is true, in a "
                    f"graph. Received: {in_bytes.count(None)} less (tokenize in Python instead)"
                )
            self._byte_ids = tf.constant(in_bytes, tf.int32)
        self._unk_id = vocab.get(model.get("unk_token"), -1)
        self._fuses = bool(model.get("fuse_unk"))

    def __call__(self, words):
        """Gives the ids of strings `(batch,)`, a ragged int32 `(batch, None)`."""
        codes = tf.strings.unicode_decode(words, "UTF-8")
        place = tf.searchsorted(self._codes, codes.values)
        place = tf.minimum(place, tf.size(self._codes) - 1)
        known = tf.gather(self._codes, place) == codes.values
        ids, word = tf.gather(self._char_ids, place), codes.value_rowids()
        if self._byte_ids is None:
            ids, word = self._with_unknown(ids, word, known)
        else:
            chars = tf.strings.unicode_encode(codes.values[:, None], "UTF-8")
            chars = tf.where(known, "-", chars)  # one byte in place of each that is known
            byte = tf.io.decode_raw(tf.strings.reduce_join(chars), tf.uint8)
            char = tf.repeat(tf.range(tf.size(chars)), tf.strings.length(chars))
            in_bytes = tf.gather(self._byte_ids, tf.cast(byte, tf.int32))
            ids = tf.where(tf.gather(known, char), tf.gather(ids, char), in_bytes)
            word = tf.gather(word, char)
        return self._merges(ids, word, codes.nrows())

    def _with_unknown(self, ids, word, known):
        ids = tf.where(known, ids, self._unk_id)
        kept = ids >= 0
        if self._fuses:
            again = ~known[1:] & ~known[:-1] & (word[1:] == word[:-1])
            kept &= tf.concat([[True], ~again], 0)[: tf.size(ids)]
        return tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept)


class _Pieces:
    """The texts of ids."""

    def __init__(self, tokenizer, special):
        steps = tokenizer._steps["decoder"]
        kinds = [step["type"] for step in steps]
        tokens = [tokenizer._rust.id_to_token(i) for i in range(tokenizer.vocab_size)]
        self._is_special = tf.constant([token in special for token in tokens])
        self._strips = "Strip" in kinds
        in_bytes = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
        in_bytes = in_bytes if "ByteFallback" in kinds else {}
        self._is_byte = tf.constant([token in in_bytes for token in tokens])
        texts = [in_bytes.get(token) or token.replace(SPACE, " ").encode() for token in tokens]
        if kinds == ["Metaspace"]:
            dropped = steps[0]["prepend_scheme"] != "never"
            first = [token.replace(SPACE, "" if dropped else " ").encode() for token in tokens]
        elif kinds in (
            ["Replace", "ByteFallback", "Fuse"],
            ["Replace", "ByteFallback", "Fuse", "Strip"],
        ) and _reads_spaces(steps):
            first = texts
        else:
            raise ValueError(
                "`decoder` must be Metaspace, or Replace, ByteFallback, Fuse and Strip as in "
                f"LLaMA, in a graph. Received: {steps} (decode in Python instead)"
            )
        self._texts, self._first = tf.constant(texts), tf.constant(first)

    def text(self, ids):
        """Strings `(batch,)` of ragged ids `(batch, None)`."""
        ids = without(ids, self._is_special)
        texts = texts_of(ids, self._texts, self._first)
        is_byte = tf.gather(self._is_byte, ids.values)
        joined = join(self._without_broken(texts, is_byte, ids.value_rowids()), ids)
        return tf.strings.regex_replace(joined, "^ ", "") if self._strips else joined

    def _without_broken(self, texts, is_byte, row):
        """`texts` with U+FFFD for each byte of a run of bytes that is no UTF-8."""
        same = tf.concat([[False], (row[1:] == row[:-1]) & is_byte[1:] & is_byte[:-1]], 0)
        run = tf.cumsum(tf.cast(~same[: tf.size(row)], tf.int32)) - 1
        whole = tf.strings.unsorted_segment_join(texts, run, tf.size(row))
        broken = tf.gather(whole != valid(whole), run)
        return tf.where(broken, UNKNOWN_CHAR, texts)


def _reads_spaces(steps):
    strips = [step for step in steps if step["type"] == "Strip"]
    return (
        steps[0]["pattern"] == {"String": SPACE}
        and steps[0]["content"] == " "
        and all((s["content"], s["start"], s["stop"]) == (" ", 1, 0) for s in strips)
    )
