"""Long texts as several rows that overlap, and where in its text each token stands."""

from typing import NamedTuple

import numpy as np

from kerasllm.tokenizers.rows import FIRST, SECOND, make_batch
from kerasllm.tokenizers.texts import check_iterable, encode_batch, to_str


class Windows(NamedTuple):
    """Rows of a batch, each of which holds a piece of a text.

    Args:
        inputs: dict of int32 arrays `(windows, length)`, as a tokenizer gives them.
        texts: int32 array `(windows,)`, the index of the text that a window is of; a text's
            windows follow one another.
        offsets: int32 array `(windows, length, 2)`: where in that text the characters begin and
            end that a token stands for, white space around them left out; -1 at special tokens,
            at padding, and at the first text of a pair.
    """

    inputs: dict
    texts: np.ndarray
    offsets: np.ndarray


def make_windows(template, rust, texts, pairs, *, max_length, stride, pad_id):
    """Cuts texts, or the second texts of pairs, into windows.

    Args:
        template: `Template`, how a row is put together.
        rust: `tokenizers.Tokenizer`.
        texts: list of texts.
        pairs: list of the second texts, which are cut then; or None. A first text keeps at most
            half of the room in a row.
        max_length: int, the longest row, special tokens included.
        stride: int, tokens from the beginning of a window to that of the next, at most as many as
            a window holds; None for one window a text, which loses what is longer.
        pad_id: int, the id in the padding.

    Returns:
        `Windows`.
    """
    if stride is not None and stride < 1:
        raise ValueError(f"`stride` must be at least 1, or None. Received: {stride}.")
    room = template.room(max_length, pairs is not None)
    if room < 1:
        raise ValueError(
            f"`max_length` must leave room for a text. Received: {max_length}, all of which are "
            "special tokens"
        )
    if pairs is None:
        firsts, cut = [[]] * len(texts), _encoded(rust, texts, "texts")
    else:
        firsts = [ids[: room // 2] for ids in encode_batch(rust, texts, "texts")]
        cut = _encoded(rust, pairs, "pairs")
        if len(firsts) != len(cut):
            raise ValueError(
                "`pairs` must have as many texts as `texts`. Received: "
                f"{len(firsts)} texts and {len(cut)} pairs"
            )
    indices, before, pieces, places = [], [], [], []  # of each window
    for index, (first, (ids, offsets)) in enumerate(zip(firsts, cut)):
        space = room - len(first)
        for start in _starts(len(ids), space, stride):
            indices.append(index)
            before.append(first)
            pieces.append(ids[start : start + space])
            places.append(offsets[start : start + space])
    inputs = make_batch(
        template,
        *((pieces, None) if pairs is None else (before, pieces)),
        max_length=max_length,
        pad_to=None,
        padding_side="right",
        pad_id=pad_id,
    )
    special = _special_before(template, pairs is not None)
    placed = np.full((*inputs["token_ids"].shape, 2), -1, np.int32)
    for row, (first, offsets) in enumerate(zip(before, places)):
        start = special + len(first)
        placed[row, start : start + len(offsets)] = offsets
    return Windows(inputs, np.array(indices, np.int32), placed)


def _special_before(template, with_pairs):
    """Number of special tokens before the text that is cut."""
    parts = [part for part, _ in (template.pair if with_pairs else template.single)]
    return parts.index(SECOND) - 1 if with_pairs else parts.index(FIRST)


def _starts(length, space, stride):
    """Where the windows begin that hold all of so many tokens."""
    if stride is None or length <= space:
        return [0]
    step = min(stride, space)
    return range(0, length - space + step, step)


def _encoded(rust, texts, argument):
    """Ids and offsets `(tokens, 2)` of each text."""
    check_iterable(texts, argument)
    texts = [to_str(text, f"{argument}[{i}]") for i, text in enumerate(texts)]
    encodings = rust.encode_batch(texts, add_special_tokens=False)
    return [(item.ids, _trimmed(item.offsets, text)) for item, text in zip(encodings, texts)]


def _trimmed(offsets, text):
    """Offsets without the white space that byte-level tokens begin with."""
    offsets = np.array(offsets, np.int32).reshape(-1, 2)
    solid = np.array([not char.isspace() for char in text] + [True])
    places = np.arange(len(solid))
    after = np.minimum.accumulate(np.where(solid, places, len(text))[::-1])[::-1]
    before = np.maximum.accumulate(np.where(solid, places + 1, 0))
    starts = np.minimum(after[offsets[:, 0]], offsets[:, 1])
    ends = np.where(offsets[:, 1] > 0, before[offsets[:, 1] - 1], 0)
    return np.stack([starts, np.maximum(ends, starts)], axis=1)
