"""Unpacking archives: into a folder aside first, then each file to its place, so that no half file has a final name."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, ValueError)


def unpack(archive: Path, aside: Path, root: Path) -> None:
    """Puts what an archive holds below a folder; a file that is no archive is moved there.

    Args:
        archive: .zip, .tar or compressed .tar, or any other file.
        aside: folder to work in, on the same file system; emptied before and removed afterwards.
        root: where the contents go; files of the same name are replaced.

    Raises:
        ValueError: if the archive is damaged (its own sums are checked) or wants to write outside the folder.
        OSError: if it cannot be written.
    """
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _extract(archive, aside)
        for file in sorted(path for path in aside.rglob("*") if not path.is_dir()):
            place = root / file.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as content:
                _refuse_outside(content.namelist(), folder)
                content.extractall(folder)
        elif archive.name.endswith(_TAR):
            with tarfile.open(archive) as content:
                content.extractall(folder, filter="data")
        else:
            shutil.copy(archive, folder / archive.name)
    except _BROKEN as error:
        raise ValueError(f"{archive.name} is damaged or no archive: {error}") from None


def _refuse_outside(names: list[str], folder: Path) -> None:
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name!r} would be written outside")
