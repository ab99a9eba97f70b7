"""Which part of a batch a replica, or a worker, is computing."""

import contextlib
import contextvars
import dataclasses

from keras import ops, tree

_part = contextvars.ContextVar("part", default=None)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a batch.

    Args:
        index: scalar int32 tensor, which one.
        share: scalar float32 tensor, its rows over the whole batch's.
        total: function from a scalar tensor, some count in this part, to that in all parts.
        gather: function from tensors, of this part's rows, to the pair of those of all parts' rows,
            and how many of these come before this part's.
        gradients: list that takes gradients instead of the optimizer; None for the optimizer.
    """

    index: object
    share: object
    total: object
    gather: object
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


def over_whole_batch(function):
    """Let a function of rows see those of the whole batch, whatever part is being computed.

    Losses and metrics that compare rows with one another need it, and say so to parameter servers
    by an attribute `compares_rows`, for servers' workers see nothing of one another.

    Args:
        function: from tensors `(rows, …)` to a tensor with a value for each row.

    Returns:
        The same function, of the part's rows and with their values.
    """

    def of_part(*tensors):
        part = current_part()
        if part is None:
            return function(*tensors)
        whole, before = part.gather(*tensors)
        return function(*whole)[before : before + ops.shape(tensors[0])[0]]

    return of_part
