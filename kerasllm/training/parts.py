"""Which part of a batch a replica, or a worker, is computing."""

import contextlib
import contextvars
import dataclasses

from keras.src import tree

_part = contextvars.ContextVar("part", default=None)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a batch.

    Args:
        index: scalar int32 tensor, which one.
        share: scalar float32 tensor, its rows over the whole batch's.
        total: function from a scalar tensor, some count in this part, to that in all parts.
        total_weight: the same for a sum of the rows' weights.
        gradients: list that takes gradients instead of the optimizer; None for the optimizer.
    """

    index: object
    share: object
    total: object
    total_weight: object
    gradients: list = None


def current_part():
    """The part that this thread computes, `Part`; None outside of any."""
    return _part.get()


def first_tensor(data):
    """The first tensor of a batch or a part of one.

    Each other one has as many rows, or with several tasks others, of which a part has its share.
    """
    return next(x for x in tree.flatten(data) if x is not None)


@contextlib.contextmanager
def part_of_batch(part):
    """Compute a part of a batch.

    Args:
        part: `Part`.
    """
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)
