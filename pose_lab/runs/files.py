"""Writing files so that a reader never sees half of one, and reading them with errors that name the file."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

WRITE_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, then start the same command again (nothing is lost)",
    errno.EDQUOT: "your disk quota is used up: free some space, then start the same command again (nothing is lost)",
    errno.EFBIG: "no file may become that large there: raise the limit (ulimit -f), or choose another results=FOLDER",
    errno.EROFS: "the file system is read-only: choose another folder with results=FOLDER",
    errno.EACCES: "no permission to write there: choose another folder with results=FOLDER, or mend its permissions",
    errno.EPERM: "no permission to write there: choose another folder with results=FOLDER, or mend its permissions",
    errno.ENOLCK: "that file system has no locks: choose another folder with results=FOLDER",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another folder with results=FOLDER",
    errno.EEXIST: "a file of that name is in the way: move it, or choose another folder with results=FOLDER",
}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write below `folder` into one message that says what to do.

    Raises:
        OSError: of the same kind and number, with the folder and the advice.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_ADVICE or "cannot write in" in str(error):
            raise
        raise OSError(error.errno, f"cannot write in {folder}: {WRITE_ADVICE[error.errno]}") from error


def make_folder(path: Path) -> Path:
    """Makes a folder with its parents if it is not there; returns it."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_file(path: Path, fill: Callable[[Path], object], sync: bool = True) -> None:
    """Lets `fill` write a temporary file beside `path`, then renames it into place.

    Args:
        path: the file to make or to replace; its folder is made if needed.
        fill: writes the whole content to the path it is given, which ends like `path` does.
        sync: wait until it is on the disk; without, a power failure may leave the file empty.

    Raises:
        OSError: the disk is full, read-only or forbidden; the old file is then untouched.
    """
    make_folder(path.parent)
    with explained(path.parent):
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.name, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            fill(temporary)
            if sync:
                _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Writes a whole file or leaves the old one; see `write_file`."""
    write_file(path, lambda temporary: temporary.write_bytes(content), sync)


def write_text(path: Path, content: str, sync: bool = True) -> None:
    """Writes a whole UTF-8 file or leaves the old one; see `write_file`."""
    write_bytes(path, content.encode(), sync)


def write_json(path: Path, content: Any, sync: bool = True) -> None:
    """Writes a whole JSON file or leaves the old one; see `write_file`."""
    write_text(path, json.dumps(content, indent=2) + "\n", sync)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not whole JSON; the message names it and the place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it and start the command again") from error


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column; none if there is no such file."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows that have the same columns as a CSV file, whole or not at all; see `write_file`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), sync=False)


class FileLock:
    """A lock on a file that the operating system frees when the process ends, however it ends.

    A POSIX record lock: it works between the nodes of a cluster where the shared file system has locks, and forked
    children (the workers of a data loader) do not keep it alive. Closing any handle of the file frees it, so a process
    never opens a lock file that it holds.
    """

    _held: ClassVar[dict[Path, IO[bytes]]] = {}

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def acquire(self, block: bool = False) -> bool:
        """Takes the lock; False if it is held already and `block` is off."""
        if self.path in self._held:
            return False
        make_folder(self.path.parent)
        with explained(self.path.parent):
            file = open(self.path, "ab")  # noqa: SIM115, it stays open as long as the lock is held
            if not _lock(file, fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB):
                file.close()
                return False
        self._held[self.path] = file
        return True

    def release(self) -> None:
        """Frees the lock if this process holds it."""
        if self.path in self._held:
            self._held.pop(self.path).close()

    def is_held(self) -> bool:
        """Whether this or another process holds the lock; needs only permission to read."""
        if self.path in self._held:
            return True
        try:
            with open(self.path, "rb") as file:
                return not _lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False


def _lock(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.lockf(file, operation)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
