"""Byte-level byte-pair encoding inside a graph."""

import tensorflow as tf
from tokenizers import pre_tokenizers

from kerasllm.tokenizers.merges_in_graph import Merges
from kerasllm.tokenizers.normalizing_in_graph import steps_in_graph
from kerasllm.tokenizers.patterns import GPT2, digits, to_re2
from kerasllm.tokenizers.pipeline_in_graph import PipelineInGraph
from kerasllm.tokenizers.splitting_in_graph import cut_around, cut_between, parts, valid


class ByteLevelBPEInGraph(PipelineInGraph):
    """A `ByteLevelBPETokenizer` made of TensorFlow operations: see its `in_graph`."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        normalizers, steps = tokenizer._steps
        with tf.init_scope():
            self._normalizers = steps_in_graph([{"type": kind} for kind in normalizers])
        self._prefix = steps[-1]["add_prefix_space"]
        self._cuts = [cut for step in steps for cut in _cuts(step)]
        if self._prefix and len(steps) > 1:
            raise ValueError(
                "`add_prefix_space` must be false in a graph where text is split before. "
                "Received: true (tokenize in Python instead)"
            )
        model = tokenizer._model()
        ids, byte_of = model["vocab"], _byte_of_char()
        with tf.init_scope():  # tensors of the module, also where a graph is being traced
            self._byte_ids = tf.constant(_byte_ids(model, byte_of), tf.int32)
            merges = [(ids[a], ids[b], ids[a + b]) for a, b in model["merges"]]
            self._merges = Merges(merges, tokenizer.vocab_size)
            self._whole = None
            if model.get("ignore_merges"):
                words = {_bytes_of(token, byte_of): i for token, i in ids.items()}
                table = tf.lookup.KeyValueTensorInitializer(
                    list(words), list(words.values()), tf.string, tf.int32
                )
                self._whole = tf.lookup.StaticHashTable(table, -1)
            special = {token.content for token in tokenizer._special_added()}
            tokens = [tokenizer._rust.id_to_token(i) for i in range(tokenizer.vocab_size)]
            self._bytes = tf.constant(
                [b"" if token in special else _bytes_of(token, byte_of) for token in tokens]
            )

    def _encode_plain(self, texts, is_first):
        if self._prefix:
            bare = (texts != "") & (tf.strings.substr(texts, 0, 1) != " ")
            texts = tf.where(bare, " " + texts, texts)
        for cut, pattern in self._cuts:
            texts = cut(texts, pattern)
        words = parts(texts)
        different, index = tf.unique(words.values)
        return words.with_values(tf.gather(self._ids(different), index)).merge_dims(1, 2)

    def _ids(self, words):
        """Ids `(batch, None)` of words `(batch,)`."""
        byte = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        ids = tf.gather(self._byte_ids, tf.cast(byte, tf.int32))
        word = tf.repeat(tf.range(tf.size(words, tf.int64)), tf.strings.length(words))
        kept = ids >= 0
        if self._whole is not None:
            # A word that is an entry stays whole: it goes through as the one id that it is.
            whole = self._whole.lookup(words)
            starts = tf.cumsum(tf.strings.length(words), exclusive=True)
            is_whole = tf.gather(whole >= 0, word)
            ids = tf.where(is_whole, tf.gather(whole, word), ids)
            kept &= ~is_whole | (tf.range(tf.size(ids)) == tf.gather(starts, word))
        ids, word = tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept)
        return self._merges(ids, word, tf.size(words, tf.int64))

    def _text(self, ids):
        return valid(tf.strings.reduce_join(tf.gather(self._bytes, ids).to_tensor(""), axis=1))


def _cuts(step):
    """What cuts text as a pre-tokenizer does: `(function, pattern)`, in turn."""
    kind = step["type"]
    if kind == "Digits":
        return [(cut_around, digits() + ("" if step["individual_digits"] else "+"))]
    if kind == "ByteLevel":
        if not step.get("use_regex", True):
            return []
        pattern = GPT2
    else:
        if step["behavior"] != "Isolated" or step["invert"] or "Regex" not in step["pattern"]:
            raise ValueError(
                "`pre_tokenizer` must split by a pattern, isolated and not inverted, in a graph. "
                f"Received: {step} (tokenize in Python instead)"
            )
        pattern = step["pattern"]["Regex"]
    cut, pattern = to_re2(pattern)
    return [*([(cut_between, cut)] if cut else []), (cut_around, pattern)]


def _byte_of_char():
    """The byte that each character of a byte-level vocabulary stands for."""
    printable = [*range(ord("!"), 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + index): byte for index, byte in enumerate(others)}
    if set(table) != set(pre_tokenizers.ByteLevel.alphabet()):
        raise RuntimeError(
            "The tokenizers package must write bytes as GPT-2 does. Received: another alphabet "
            "(install another release of it)"
        )
    return table


def _byte_ids(model, byte_of):
    """The id of each byte; -1 where the vocabulary has none, for the byte is left out then."""
    ids = {byte: model["vocab"].get(char, -1) for char, byte in byte_of.items()}
    if min(ids.values()) < 0 and model.get("unk_token") is not None:
        raise ValueError(
            "`model.vocab` must hold all 256 bytes in a graph. Received: "
            f"{sum(index < 0 for index in ids.values())} less (tokenize in Python instead)"
        )
    return [ids[byte] for byte in range(256)]


def _bytes_of(token, byte_of):
    """The bytes that a token of the vocabulary stands for; of an added one, those of its text."""
    if all(char in byte_of for char in token):
        return bytes(byte_of[char] for char in token)
    return token.encode()
