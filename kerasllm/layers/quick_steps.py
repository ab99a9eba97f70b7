"""One token after another on TensorFlow's CPU kernels: the same mathematics in other operations.

What is quick for many tokens at once is not for one, and what is quick here is nothing for a phone:
only the loop that generates asks for it.
"""

import contextlib
import contextvars

from keras import ops

_write_rows = contextvars.ContextVar("write_rows", default=None)


@contextlib.contextmanager
def quick_steps(write_rows):
    """Within this context, compute what is done for a single token as TensorFlow does it fastest.

    Args:
        write_rows: as `ops.slice_update`, to write the rows of a cache. On TensorFlow, that is an
            operation of XLA: it copies the whole cache for each new token, and not every runtime
            has it.

    Example:
        >>> with quick_steps(lambda rows, start, new: ("written at", start)):
        ...     rows_writer()(np.zeros(3), (1,), np.ones(1))
        ('written at', (1,))
    """
    token = _write_rows.set(write_rows)
    try:
        yield
    finally:
        _write_rows.reset(token)


def rows_writer():
    """The function that writes the rows of a cache."""
    return _write_rows.get() or ops.slice_update


def is_quick_step(x, axis):
    """Whether a single token is computed, within `quick_steps`.

    Args:
        x: tensor.
        axis: int, that of the tokens.

    Returns:
        bool.
    """
    return _write_rows.get() is not None and len(x.shape) > axis and x.shape[axis] == 1
