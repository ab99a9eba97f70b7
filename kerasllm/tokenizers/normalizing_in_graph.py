"""Hugging Face's normalizers inside a graph, made of tables that `code_points` asks them for."""

import base64
import re

import numpy as np
import tensorflow as tf
from tokenizers import normalizers

from kerasllm.tokenizers.code_points import (
    MAX_BYTES,
    charsmap,
    compositions,
    forms_of,
    mark_ranks,
)
from kerasllm.tokenizers.patterns import to_re2, white_space

CODE_BITS = 21
NOTHING = -1
SIMPLE = ("Lowercase", "StripAccents", "Nmt")


def steps_in_graph(steps):
    """Gives the functions from strings to strings that the steps of a normalizer are.

    Args:
        steps: list of dict, the normalizers of a `tokenizer.json`, in turn.

    Raises:
        ValueError: where a step has no exact form in a graph.
    """
    functions, steps = [], list(steps)
    while steps:
        step = steps.pop(0)
        kind = step["type"]
        if kind in ("NFC", "NFD", "NFKC", "NFKD"):
            if steps and steps[0]["type"] == "StripAccents":
                # Without marks, their order is of no matter, and characters stand alone.
                steps.pop(0)
                both = [getattr(normalizers, kind)(), normalizers.StripAccents()]
                functions.append(OfEachCharacter(normalizers.Sequence(both).normalize_str))
            else:
                functions.append(NormalForm(kind))
        elif kind == "Precompiled":
            functions.append(Precompiled(step["precompiled_charsmap"]))
        elif kind in SIMPLE:
            functions.append(OfEachCharacter(getattr(normalizers, kind)().normalize_str))
        else:
            functions.append(_of_strings(step))
    return functions


def _of_strings(step):
    kind = step["type"]
    if kind == "Prepend":
        return lambda texts: tf.where(texts == "", texts, step["prepend"] + texts)
    if kind == "Strip":
        ends = ["^[{}]+"] * step["strip_left"] + ["[{}]+$"] * step["strip_right"]
        pattern, content = "|".join(ends).format(*[white_space()] * len(ends)), ""
    elif "String" in step["pattern"]:
        pattern, content = re.escape(step["pattern"]["String"]), step["content"]
    else:
        cut, pattern = to_re2(step["pattern"]["Regex"])
        if cut is not None:
            raise ValueError(
                "`normalizer` must replace a pattern that TensorFlow's regular expressions can "
                f"follow exactly, in a graph. Received: {step} (tokenize in Python instead)"
            )
        content = step["content"]
    content = content.replace("\\", r"\\")
    return lambda texts: tf.strings.regex_replace(texts, pattern, content)


class _Table:
    """What characters become, by their code points.

    Args:
        forms: dict from `str` of one character to the `str` that it becomes.
        others: further texts that something may become; their numbers follow.
    """

    def __init__(self, forms, others=()):
        texts = list(dict.fromkeys([*forms.values(), *others]))
        self.numbers = {text: index + 1 for index, text in enumerate(texts)}  # 0 is: itself
        kinds = np.zeros(0x110000, np.int32)
        for char, text in forms.items():
            kinds[ord(char)] = self.numbers[text]
        blocks, numbers = np.unique(kinds.reshape(-1, 256), axis=0, return_inverse=True)
        self._kinds = tf.constant(blocks.reshape(-1))
        self._blocks = tf.constant(numbers.reshape(-1).astype(np.int32))
        width = max([1, *map(len, texts)])
        codes = [[*map(ord, text), *[NOTHING] * (width - len(text))] for text in texts]
        self._codes = tf.constant([[NOTHING] * width, *codes], tf.int32)

    def kinds(self, code):
        """Number of what each of `code` becomes, 0 where it stays."""
        block = tf.gather(self._blocks, tf.bitwise.right_shift(code, 8))
        return tf.gather(self._kinds, block * 256 + code % 256)

    def replace(self, code, row, kind):
        """What `code` becomes where it becomes `kind`, and the row of each."""
        codes = tf.gather(self._codes, kind)  # (codes, most that one becomes)
        first = tf.where(kind == 0, code, codes[:, 0])
        codes = tf.concat([first[:, None], codes[:, 1:]], axis=1)
        kept = codes != NOTHING
        row = tf.boolean_mask(tf.broadcast_to(row[:, None], tf.shape(codes)), kept)
        return tf.boolean_mask(codes, kept), row


def _decoded(texts):
    codes = tf.strings.unicode_decode(texts, "UTF-8")
    return codes.values, codes.value_rowids()


def _encoded(code, row, texts):
    batch = tf.size(texts, tf.int64)
    codes = tf.RaggedTensor.from_value_rowids(code, row, batch, validate=False)
    return tf.strings.unicode_encode(codes, "UTF-8")


class OfEachCharacter:
    """A normalizer that looks at one character at a time.

    Args:
        normalize: function from `str` to `str`, of Hugging Face's.
    """

    def __init__(self, normalize):
        self._table = _Table(forms_of(normalize))

    def __call__(self, texts):
        """Normalizes strings `(batch,)`."""
        code, row = _decoded(texts)
        return _encoded(*self._table.replace(code, row, self._table.kinds(code)), texts)


class Precompiled:
    """SentencePiece's own normalizer, in the way of Hugging Face's tokenizers.

    Args:
        encoded: str, the character map in base 64.
    """

    def __init__(self, encoded):
        keys, graphemes = charsmap(base64.b64decode(encoded))
        single = {key: text for key, text in keys.items() if len(key) == 1}
        longer = {key: text for key, text in keys.items() if len(key) > 1}
        self._table = _Table(single, longer.values())
        ordered = sorted(
            (_number(map(ord, key)), self._table.numbers[longer[key]]) for key in longer
        )
        self._keys = tf.constant([key for key, _ in ordered], tf.int64)
        self._numbers = tf.constant([number for _, number in ordered], tf.int32)
        self._extend, self._prepend, self._control = (
            tf.constant(sorted(map(ord, chars)), tf.int32)
            for chars in (graphemes.extend, graphemes.prepend, graphemes.control)
        )

    def __call__(self, texts):
        """Normalizes strings `(batch,)`."""
        code, row = _decoded(texts)
        kind, begins = self._table.kinds(code), self._begins(code, row)
        grapheme, count = tf.cumsum(tf.cast(begins, tf.int32)) - 1, tf.size(code)
        size = tf.math.unsorted_segment_sum(_num_bytes(code), grapheme, count)
        is_short = begins & (tf.gather(size, grapheme) <= MAX_BYTES)
        kind = tf.where(is_short & (kind == 0), self._of_several(code, begins), kind)
        # Of a short grapheme whose beginning is known, nothing but that stays.
        known = tf.cast(is_short & (kind > 0), tf.int32)
        is_known = tf.gather(tf.math.unsorted_segment_max(known, grapheme, count), grapheme) > 0
        kept = begins | ~is_known
        code, row, kind = (tf.boolean_mask(part, kept) for part in (code, row, kind))
        return _encoded(*self._table.replace(code, row, kind), texts)

    def _begins(self, code, row):
        """Whether a grapheme begins at each code point."""
        before = tf.concat([[10], code], 0)[:-1]
        same_row = tf.concat([[False], row[1:] == row[:-1]], 0)[: tf.size(row)]
        joined = _among(code, self._extend) & ~_among(before, self._control)
        joined |= _among(before, self._prepend) & ~_among(code, self._control)
        joined |= (before == 13) & (code == 10)
        return ~(joined & same_row)

    def _of_several(self, code, begins):
        """Number of what each of `code` becomes with those after it, 0 where nothing else."""
        second = tf.where(_after(begins, True), 0, _after(code, 0))
        third = tf.where(second == 0, 0, _after(second, 0))
        found = tf.zeros_like(code)
        for codes in ((code, second, third), (code, second, tf.zeros_like(code))):
            key = _number(tf.cast(part, tf.int64) for part in codes)
            place = tf.minimum(tf.searchsorted(self._keys, key), tf.size(self._keys) - 1)
            hit = tf.gather(self._keys, place) == key
            found = tf.where(hit, tf.gather(self._numbers, place), found)
        return found


def _number(codes):
    """One number for up to three code points."""
    first, second, third = [*codes, 0, 0][:3]
    return (first * 2**CODE_BITS + second) * 2**CODE_BITS + third


def _after(values, end):
    """What follows each of `values`."""
    return tf.concat([values[1:], [end]], 0)[: tf.size(values)]


def _among(codes, ordered):
    place = tf.minimum(tf.searchsorted(ordered, codes), tf.size(ordered) - 1)
    return tf.gather(ordered, place) == codes


def _num_bytes(code):
    return 1 + sum(tf.cast(code >= first, tf.int32) for first in (0x80, 0x800, 0x10000))


class NormalForm:
    """A normal form of Unicode, by the tables of the `tokenizers` package.

    TensorFlow Text's are older: it takes marks of the last years for letters.

    Args:
        name: `"NFC"`, `"NFD"`, `"NFKC"` or `"NFKD"`.
    """

    def __init__(self, name):
        decompose = normalizers.NFKD() if "K" in name else normalizers.NFD()
        self._table = _Table(forms_of(decompose.normalize_str))
        # The marks come in the order of their ranks, so these are the numbers of the table.
        self._ranks = _Table({mark: chr(rank) for mark, rank in mark_ranks().items()})
        self._composes = name.endswith("C")
        pairs = sorted((_pair(*map(ord, key)), ord(char)) for key, char in compositions().items())
        self._pairs = tf.constant([pair for pair, _ in pairs], tf.int64)
        self._composed = tf.constant([char for _, char in pairs], tf.int32)

    def __call__(self, texts):
        """Normalizes strings `(batch,)`."""
        code, row = _decoded(texts)
        code, row = self._table.replace(code, row, self._table.kinds(code))
        rank = self._rank(code)
        # Sorts each run of combining marks; nothing passes another character.
        run = tf.cumsum(tf.cast(rank == 0, tf.int64)) + row
        order = tf.argsort(run * 256 + tf.cast(rank, tf.int64), stable=True)
        code = tf.gather(code, order)
        if self._composes:
            more, unknown = tf.constant(True), tf.TensorShape([None])
            code, row, _ = tf.while_loop(
                lambda code, row, more: more,
                self._compose,
                [code, row, more],
                [unknown, unknown, more.shape],
            )
        return _encoded(code, row, texts)

    def _rank(self, code):
        return self._ranks.kinds(code)

    def _compose(self, code, row, _):
        """Joins to each character the first mark, or character after it, that it composes with."""
        rank, position = self._rank(code), tf.range(tf.size(code))
        is_mark = rank > 0
        starter = tf.boolean_mask(position, ~is_mark)
        # The last character before each that is no mark.
        number = tf.cumsum(tf.cast(~is_mark, tf.int32), exclusive=True) - 1
        base = tf.gather(tf.concat([starter, [0]], 0), tf.maximum(number, 0))
        before = tf.concat([[0], rank], 0)[:-1]
        near = base == position - 1
        near |= is_mark & (before < rank)  # no equal mark between them
        near &= (number >= 0) & (tf.gather(row, base) == row)
        pair = _pair(tf.cast(tf.gather(code, base), tf.int64), tf.cast(code, tf.int64))
        place = tf.minimum(tf.searchsorted(self._pairs, pair), tf.size(self._pairs) - 1)
        fits = near & (tf.gather(self._pairs, place) == pair)
        size = tf.size(code)
        first = tf.math.unsorted_segment_min(tf.where(fits, position, size), base, size)
        joins = fits & (tf.gather(first, base) == position)
        into, what = tf.boolean_mask(base, joins), tf.boolean_mask(place, joins)
        code = tf.tensor_scatter_nd_update(code, into[:, None], tf.gather(self._composed, what))
        kept = ~joins
        return tf.boolean_mask(code, kept), tf.boolean_mask(row, kept), tf.reduce_any(joins)


def _pair(first, second):
    return first * 2**CODE_BITS + second
