import errno
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pose_lab.runs import files
from pose_lab.runs.checkpoints import WholeCheckpoints
from pose_lab.runs.errors import said
from pose_lab.runs.files import FileLock, read_json, write_file, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})

    def fails(temporary: Path):
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_file(path, fails)
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "results=FOLDER"), (errno.EACCES, "results")],
)
def test_a_refused_write_says_where_and_what_to_do(tmp_path, number, advice):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def refused(_: Path):
        raise OSError(number, "refused")

    with pytest.raises(OSError, match=advice) as error:
        write_file(path, refused)
    assert error.value.errno == number
    assert str(tmp_path) in str(error.value)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@contextmanager
def largest_file(size: int):
    """The system refuses what goes beyond, as a full disk does, in the middle of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_checkpoint_without_room_says_so_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"weight": torch.zeros(9)}, path)
    old = path.read_bytes()
    large = {"weights": [torch.zeros(300_000) for _ in range(4)]}
    with largest_file(2_000_000), pytest.raises(OSError, match="cannot write in") as error:
        WholeCheckpoints().save_checkpoint(large, path)
    assert error.value.errno == errno.EFBIG
    assert said(error.value) == f"cannot write in {tmp_path}: {files.WRITE_ADVICE[errno.EFBIG]}"
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_below_a_file_is_explained(tmp_path):
    write_text(tmp_path / "a", "a file")
    with pytest.raises(OSError, match="results=FOLDER"):
        write_text(tmp_path / "a" / "b" / "c.txt", "x")


def test_half_a_json_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_files_are_readable_by_the_group_as_the_umask_says(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_umask", lambda: 0o022)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


HOLDER = """
import sys
from pathlib import Path
from pose_lab.runs.files import FileLock
print(FileLock(Path(sys.argv[1])).acquire(), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_free_again_when_its_process_is_killed(tmp_path):
    lock = FileLock(tmp_path / "lock")
    assert not lock.is_held()
    command = [sys.executable, "-c", HOLDER, str(lock.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert lock.is_held()
        assert not lock.acquire()
        holder.kill()
    assert not lock.is_held()
    assert lock.acquire()
    assert lock.is_held()
    assert not FileLock(tmp_path / "lock").acquire()
    lock.release()
    assert not lock.is_held()
