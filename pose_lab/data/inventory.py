"""The image files that a split really has: their names and sizes, and which of them cannot be shown.

Whether a file decodes is found out once. What is sound is remembered in the cache folder, by name, size in bytes, time
of change and annotated size; what is not is looked at again each time, as it may have been mended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pose_lab.data import images
from pose_lab.data.cache import locked, writing

_VERSION = 1  # raise it when files are judged otherwise
_WHAT = "the list of sound images"

State = tuple[int, ...]  # size in bytes and time of change (ns); in the list of sound files also height and width


def listing(folder: Path, names: Iterable[str]) -> dict[str, State]:
    """Size and time of change of those names that are files below `folder`; folders are listed, not asked per file."""
    wanted = set(names)
    parents = {os.path.dirname(name) for name in wanted}  # noqa: PTH120 (118,000 Path objects are slow)
    return {name: state for parent in parents for name, state in _files(folder, parent) if name in wanted}


def _files(folder: Path, parent: str) -> Iterable[tuple[str, State]]:
    if (folder / parent).is_dir():
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                if entry.is_file():
                    status = entry.stat()
                    yield os.path.join(parent, entry.name), (status.st_size, status.st_mtime_ns)  # noqa: PTH118


def digest(names: Iterable[str], found: dict[str, State]) -> str:
    """A digest of names and sizes in bytes, wherever the files lie."""
    content = json.dumps([(name, found[name][0]) for name in names])
    return hashlib.sha256(content.encode()).hexdigest()


def defects(folder: Path, sizes: dict[str, tuple[int, int]], found: dict[str, State], cache: Path) -> dict[str, str]:
    """What is wrong with image files, each decoded once and compared with its annotated size.

    Args:
        folder: of the images.
        sizes: height and width of each file, as annotated.
        found: what `listing` says of them.
        cache: the cache folder.

    Returns:
        name of each unusable file, and why.

    Raises:
        OSError: if the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([str(folder.resolve()), _VERSION]).encode()).hexdigest()[:24]
    store = cache / "images" / f"{key}.json"
    states = {name: (*found[name], *size) for name, size in sizes.items()}
    if not _unknown(states, _sound(store)):
        return {}
    with locked(_WHAT, store):
        sound = _sound(store)  # another process may have looked meanwhile
        unknown = _unknown(states, sound)
        print(f"Checking {len(unknown):,} images in {folder} that are not known to be sound.", flush=True)
        bad = looked_at(folder, {name: sizes[name] for name in unknown})
        with writing(_WHAT, store.parent):
            _remember(store, sound | {name: states[name] for name in unknown if name not in bad})
    return bad


def _sound(store: Path) -> dict[str, State]:
    try:
        return {name: tuple(state) for name, state in json.loads(store.read_bytes()).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _unknown(states: dict[str, State], sound: dict[str, State]) -> list[str]:
    return [name for name, state in states.items() if sound.get(name) != state]


def looked_at(folder: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, str]:
    """As `defects`, without remembering anything."""
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda name: images.defect(folder / name, sizes[name]), sizes)
        return {name: reason for name, reason in zip(sizes, reasons, strict=True) if reason}


def _remember(store: Path, sound: dict[str, State]) -> None:
    temporary = store.with_suffix(".writing")
    try:
        temporary.write_text(json.dumps(sound))
        temporary.replace(store)
    finally:
        temporary.unlink(missing_ok=True)
