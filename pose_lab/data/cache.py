"""Writing to the cache folder: one process at a time, and every failure told with the folder and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_ADVICE = {
    errno.ENOSPC: "free some space there, or ",
    errno.EDQUOT: "free some space there, or ",
    errno.EACCES: "allow writing there, or ",
    errno.EPERM: "allow writing there, or ",
}


@contextmanager
def writing(what: str, folder: Path, instead: str = "set `data.cache` elsewhere") -> Iterator[None]:
    """Explains failures to write.

    Args:
        what: is written.
        folder: where.
        instead: what else can be done.

    Raises:
        OSError: in place of any that is raised inside.
    """
    try:
        yield
    except OSError as error:
        reason, first = error.strerror or str(error), _ADVICE.get(error.errno or 0, "")
        raise OSError(error.errno, f"cannot write {what} to {folder} ({reason}); {first}{instead}") from None


@contextmanager
def locked(what: str, path: Path) -> Iterator[None]:
    """Holds the lock of a file or folder of the cache; other processes wait. Arguments and errors as `writing`."""
    lock = FileLock(f"{path}.lock")
    with writing(what, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
