"""Which code a run runs: its commit and uncommitted difference, and a snapshot for jobs that start later.

A job may wait for days, be requeued weeks later, and must run what was submitted. A snapshot holds the package with its
configs, and the experiments and sweeps that were found; equal code shares one. Code of one's own outside of the
package (a network in the working directory) is not in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pose_lab
from pose_lab.runs import search_path
from pose_lab.runs.files import explained, make_folder, read_json, write_json, write_text

PACKAGE = Path(pose_lab.__file__).parent
RECORD = "origin.json"  # of a snapshot
DIFFERENCE = "code.diff"  # of a run folder
LARGEST = 1_000_000  # bytes of an untracked file that still goes into a difference


@dataclass(frozen=True)
class Origin:
    """Where code comes from.

    Attributes:
        commit: the checkout's; None for code outside of a checkout.
        difference: what `git diff` finds against that commit, new files included; empty if there is nothing.
    """

    commit: str | None = None
    difference: str = ""

    @property
    def short(self) -> str | None:
        """The commit in seven digits, with a plus sign if files differ from it."""
        return None if self.commit is None else self.commit[:7] + ("+" if self.difference else "")

    def write(self, folder: Path) -> None:
        """Writes `code.diff`: the commit in its first line, then the difference, which `git apply` takes as it is."""
        write_text(folder / DIFFERENCE, f"commit {self.commit or 'unknown'}\n{self.difference}")


@cache
def origin() -> Origin:
    """Of the code that this process runs."""
    record = PACKAGE.parent / RECORD
    if record.exists():
        return Origin(**read_json(record))
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed, perhaps inside another project
        return Origin()
    commit = _git("rev-parse", "HEAD")
    return Origin(commit.strip(), "".join(_differences())) if commit else Origin()


def snapshot(parent: Path, config_folders: Sequence[Path] = ()) -> tuple[Path, Mapping[str, str]]:
    """Copies the code to `parent/<digest>` unless it is there.

    Args:
        parent: the folder of snapshots.
        config_folders: further folders of configs (Hydra's `--config-dir`).

    Returns:
        The snapshot's folder, and for each of `config_folders` the copy's path.

    Raises:
        OSError: the folder cannot be written; the message says what to do.
    """
    files = dict(_files(config_folders))
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    target = parent / digest.hexdigest()[:12]
    if not target.exists():
        _copy(files, target)
    return target, {str(folder): str(target / f"config{n}") for n, folder in enumerate(config_folders)}


def environment(folder: Path) -> dict[str, str]:
    """Variables that make a Python process run the snapshot, whatever its working directory holds."""
    inherited = [path for path in (str(Path.cwd()), os.environ.get("PYTHONPATH")) if path]
    paths = [str(folder), *inherited]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "POSE_LAB_ROOT": str(folder)}


def _files(config_folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The snapshot's files by their name in it; of two of a name the later counts."""
    for path in PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{PACKAGE.name}/{path.relative_to(PACKAGE)}", path
    for root in reversed(search_path.roots()):
        for folder in search_path.FOLDERS.values():
            yield from ((f"{folder}/{path.name}", path) for path in (root / folder).glob("*.yaml"))
    for number, given in enumerate(config_folders):
        yield from ((f"config{number}/{path.relative_to(given)}", path) for path in given.rglob("*.yaml"))


def _copy(files: Mapping[str, Path], target: Path) -> None:
    make_folder(target.parent)
    with explained(target.parent), tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as temporary:
        copy = Path(temporary, "copy")
        for name, path in files.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy / name)
        write_json(copy / RECORD, asdict(origin()))
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():  # else another process made the same one
                raise


def _differences() -> Iterator[str]:
    yield _git("diff", "--no-ext-diff", "--no-color", "HEAD") or ""
    top = Path((_git("rev-parse", "--show-toplevel") or "").strip())
    for name in (_git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", str(top)) or "").split("\0"):
        if name and (top / name).is_file() and (top / name).stat().st_size <= LARGEST:
            # it ends with status 1, as the files differ
            yield _git("-C", str(top), "diff", "--no-index", "--no-color", "/dev/null", name, expected=1) or ""


def _git(*arguments: str, expected: int = 0) -> str | None:
    """What git answers in the package's folder; None if it ends with another status, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == expected else None
