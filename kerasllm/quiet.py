"""Hold back what C++ libraries print although they were told not to."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def quiet():
    """Do what the environment variable `TF_CPP_MIN_LOG_LEVEL=3` asks for, where libraries don't.

    TensorFlow prints lines while it is imported, before it reads that variable, and LiteRT prints
    one a process and never reads it. Both write to file descriptor 2, past `sys.stderr`. So that
    goes to a temporary file here, whose content is shown only if the block fails.

    Example:
        >>> with quiet():
        ...     import tensorflow as tf
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # not at Ctrl-C, of which the user knows
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
