"""From the ids of texts to the rows of a batch: special tokens, truncation, padding."""

from typing import NamedTuple

import numpy as np

FIRST, SECOND = "A", "B"  # the places of the two texts in a template


class Template(NamedTuple):
    """How a row is put together: each part is `FIRST`, `SECOND` or an id, with its segment.

    Args:
        single: tuple of `(part, segment)`, the row of a text.
        pair: tuple of `(part, segment)`, the row of two texts.
        with_segments: bool, whether a batch has `segment_ids`.
    """

    single: tuple
    pair: tuple
    with_segments: bool

    @property
    def ends(self):
        """The ids before a text in its row, and those after it: a pair of tuples."""
        ids = [part for part, _ in self.single]
        place = ids.index(FIRST)
        return tuple(ids[:place]), tuple(ids[place + 1 :])

    def room(self, max_length, with_pairs):
        """Number of ids of texts that fit between the special tokens of a row."""
        parts = self.pair if with_pairs else self.single
        special = sum(part not in (FIRST, SECOND) for part, _ in parts)
        if max_length < max(special, 1):
            raise ValueError(
                f"`max_length` must be at least {max(special, 1)}, the number of special tokens "
                f"in a row. Received: {max_length}"
            )
        return max_length - special


def keep_first(first, second, room):
    """How many of `first` ids stay where `first + second` must fit into `room`.

    This is Hugging Face's 'longest_first': the shorter text may fill half the room, the longer
    one the rest; of equal ones the second is taken for the longer.
    """
    return min(first, room // 2) if first <= second else room - min(second, room // 2)


def make_batch(template, firsts, seconds, *, max_length, pad_to, padding_side, pad_id):
    """Puts a batch together.

    Args:
        template: `Template`.
        firsts: list of lists of ids.
        seconds: the same for the second texts, or None.
        max_length: int, the longest row; what is longer loses ids at its end.
        pad_to: int, the width of the result, or None: the longest row of this batch.
        padding_side: `"right"` or `"left"`.
        pad_id: int, the id in the padding.

    Returns:
        dict of int32 arrays `(batch, length)`.
    """
    if pad_to is not None and pad_to < max_length:
        raise ValueError(
            f"`pad_to` must be at least `max_length`. Received: pad_to={pad_to}, "
            f"max_length={max_length}"
        )
    if padding_side not in ("right", "left"):
        raise ValueError(
            f'`padding_side` must be "right" or "left". Received: padding_side={padding_side!r}'
        )
    room = template.room(max_length, seconds is not None)
    if seconds is None:
        rows = [_row(template.single, {FIRST: ids[:room]}) for ids in firsts]
    else:
        if len(firsts) != len(seconds):
            raise ValueError(
                "`pairs` must have as many texts as `texts`. Received: "
                f"{len(firsts)} texts and {len(seconds)} pairs"
            )
        keeps = [keep_first(len(a), len(b), room) for a, b in zip(firsts, seconds)]
        rows = [
            _row(template.pair, {FIRST: a[:keep], SECOND: b[: room - keep]})
            for a, b, keep in zip(firsts, seconds, keeps)
        ]
    # An empty batch is as wide as that of an empty text in a graph.
    width = pad_to or max([2, *(len(ids) for ids, _ in rows)])
    left = padding_side == "left"
    batch = {
        "token_ids": _padded([ids for ids, _ in rows], width, pad_id, left),
        "padding_mask": _padded([[1] * len(ids) for ids, _ in rows], width, 0, left),
    }
    if template.with_segments:
        batch["segment_ids"] = _padded([segments for _, segments in rows], width, 0, left)
    return batch


def _row(parts, texts):
    """Ids and segments of one row."""
    ids, segments = [], []
    for part, segment in parts:
        new = texts.get(part, [part])
        ids += new
        segments += [segment] * len(new)
    return ids, segments


def _padded(rows, width, value, left):
    array = np.full((len(rows), width), value, np.int32)
    for index, row in enumerate(rows):
        start = width - len(row) if left else 0
        array[index, start : start + len(row)] = row
    return array
