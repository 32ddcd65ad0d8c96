"""Which code a run runs: its commit and uncommitted difference, and a snapshot for jobs that start later.

A job may wait for days, be requeued weeks later, and must run what was submitted. A snapshot holds the package with its
configs, and the experiments and sweeps that were found; equal code shares one. Code of one's own outside of the
package (a network in the working directory) is not in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pose_lab
from pose_lab.runs import search_path
from pose_lab.runs.files import explained, make_folder, read_json, write_json, write_text

PACKAGE = Path(pose_lab.__file__).parent
RECORD = "origin.json"  # of a snapshot
DIFFERENCE = "code.diff"  # of a run folder
LARGEST = 1_000_000  # bytes of one file's difference that are kept
MOST = 5_000_000  # and of all together
NEW_FILES = 500  # of untracked files so many are looked at, in the order of their names
SNIFFED = 8000  # first bytes of a file: one with a zero byte among them is not text, as for git


@dataclass(frozen=True)
class Origin:
    """Where code comes from.

    Attributes:
        commit: the checkout's; None for code outside of a checkout.
        difference: what `git diff` finds against that commit, new files included; empty if there is nothing.
        left_out: names of files that differ, too, and why their difference is not kept.
    """

    commit: str | None = None
    difference: str = ""
    left_out: Sequence[str] = ()

    @property
    def short(self) -> str | None:
        """The commit in seven digits, with a plus sign if files differ from it."""
        return None if self.commit is None else self.commit[:7] + ("+" if self.difference or self.left_out else "")

    def write(self, folder: Path) -> None:
        """Writes `code.diff`, which `git apply` takes as it is: the commit, what was left out, the difference."""
        lines = [f"commit {self.commit or 'unknown'}", *(f"left out: {text}" for text in self.left_out)]
        write_text(folder / DIFFERENCE, "\n".join(lines) + f"\n{self.difference}")


@cache
def origin() -> Origin:
    """Of the code that this process runs."""
    record = PACKAGE.parent / RECORD
    if record.exists():
        return Origin(**read_json(record))
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed, perhaps inside another project
        return Origin()
    commit = _git("rev-parse", "HEAD")
    return Origin(commit.strip(), *_difference()) if commit else Origin()


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
    target = parent / _digest(files)[:12]
    if not target.exists():
        _copy(files, target)
    return target, {str(folder): str(target / f"config{n}") for n, folder in enumerate(config_folders)}


@cache
def fingerprint() -> str:
    """A hash of the package's Python code."""
    return _digest({str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")})


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


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


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


def _difference() -> tuple[str, list[str]]:
    """The difference to the commit, and what it leaves out and why; one `git diff`, however many files there are."""
    top = Path((_git("rev-parse", "--show-toplevel") or "").strip())
    listed = _git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", str(top)) or ""
    new, left_out = _texts(top, [name for name in listed.split("\0") if name])
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary, "index")  # a copy, in which new files are announced so that `git diff` shows them
        with suppress(FileNotFoundError):
            shutil.copyfile(PACKAGE / (_git("rev-parse", "--git-path", "index") or "").strip(), index)
        announce = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
        if new and _git("-C", str(top), "--literal-pathspecs", *announce, given="\0".join(new), index=index) is None:
            left_out += [f"{name} (git could not read it)" for name in new]
        text = _git("-C", str(top), "diff", "--no-ext-diff", "--no-color", "HEAD", index=index) or ""
    kept, used = [], 0
    for part in re.split(r"^(?=diff --git )", text, flags=re.MULTILINE):
        why = _why_not(part, used)
        if why is None:
            kept.append(part)
            used += len(part)
        else:
            left_out.append(f"{part.split(chr(10), 1)[0].rpartition(' b/')[2]} ({why})")
    return "".join(kept), left_out


def _texts(top: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of untracked files those whose content may be kept, and the others with the reason."""
    kept, left_out = [], []
    for name in names[:NEW_FILES]:
        path = top / name
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST:
            left_out.append(f"{name} (larger than {LARGEST:,} bytes)")
        elif _is_text(path):
            kept.append(name)
        else:
            left_out.append(f"{name} (not text)")
    if len(names) > NEW_FILES:
        left_out.append(f"{len(names) - NEW_FILES:,} further new files (more than {NEW_FILES})")
    return kept, left_out


def _is_text(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(SNIFFED)
    except OSError:  # not to be read, or gone
        return False


def _why_not(part: str, used: int) -> str | None:
    """Why one file's difference is not kept; None if it is."""
    if re.search(r"^Binary files ", part, re.MULTILINE):
        return "not text"
    if len(part) > LARGEST:
        return f"its difference is larger than {LARGEST:,} bytes"
    return f"all differences together are larger than {MOST:,} bytes" if used + len(part) > MOST else None


def _git(*arguments: str, given: str = "", index: Path | None = None) -> str | None:
    """What git answers in the package's folder; None if it ends with another status, or there is no git."""
    environment = os.environ | ({} if index is None else {"GIT_INDEX_FILE": str(index)})
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, input=given.encode(), env=environment, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if not done.returncode else None
