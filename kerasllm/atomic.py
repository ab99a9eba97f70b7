"""Write a file or folder aside, and move it into place only when it is whole."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def whole(path):
    """Give a temporary path beside `path`; when the block ends well, move it there.

    A file replaces the one at `path`. A folder becomes `path`; where that folder is there already,
    each entry replaces the one of the same name in it, and the other entries stay. If the block is
    left by an error or by Ctrl-C, what it wrote is removed, and `path` stays as it was.

    Args:
        path: str or path-like, where the result shall be. Missing parent folders are made.

    Yields:
        `pathlib.Path` that does not exist yet.

    Raises:
        OSError: the folder of `path` can't be made or written; the message names it.

    Example:
        >>> with whole("report.html") as aside:
        ...     _ = aside.write_text("<h1>done</h1>")
    """
    path = pathlib.Path(path).absolute()
    missing = [folder for folder in path.parents if not folder.exists()]
    with _errors_naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its goal, because a rename is atomic only within one file system.
        room = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield room / path.name
        with _errors_naming(path):
            _move(room / path.name, path)
    finally:
        shutil.rmtree(room, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):  # it isn't empty, because all went well
                folder.rmdir()


@contextlib.contextmanager
def _errors_naming(path):
    """Let an error of the file system name the output that a user asked for."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"`{path}` can't be written: {error.strerror or error}. Choose another output path."
        ) from None


def _move(new, path):
    if not (new.is_dir() and path.is_dir()):
        os.replace(new, path)
        return
    for entry in new.iterdir():
        goal = path / entry.name
        if goal.is_dir() and not goal.is_symlink():
            shutil.rmtree(goal)
        elif entry.is_dir():
            goal.unlink(missing_ok=True)
        os.replace(entry, goal)
