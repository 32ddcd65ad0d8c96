"""Reading annotation files: parsed and checked once, then memory-mapped from a cache folder.

The cache folder's name is a hash of the file's absolute path, size and time of change, of the reading rules and of this
reader's version, so a changed file is read anew. It holds one `.npy` per array of `Annotations` and the digest of their
contents; it is written under a lock, to a temporary name, and renamed. What was left out on reading is told at every
opening. Which layouts can be read: `pose_lab/data/layouts`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.cache import locked, writing
from pose_lab.data.layouts import LAYOUTS
from pose_lab.data.records import checked
from pose_lab.data.rules import BadRecords, ReadingRules
from pose_lab.poses import Annotations

__all__ = [
    "BadRecords",
    "ReadingRules",
    "fingerprint",
    "indexed",
    "load_annotations",
    "map_pages",
    "referenced",
    "references",
    "select",
    "with_people",
]

_VERSION = 6  # raise it when what is stored changes
_WHAT = "the annotation index"
_OF_IMAGES = ("image_ids", "file_names", "sizes", "crowd_index", "sequences", "frames")
_OF_PEOPLE = (
    *("instance_ids", "boxes", "keypoints", "areas", "ignore", "num_keypoints"),
    *("track_ids", "head_boxes", "joints_3d"),
)
_OF_REGIONS = ("region_points", "region_index", "region_images")
_OUTLINES = ("unlabelled_codes", "unlabelled_starts")
_ARRAYS = (*_OF_IMAGES, *_OF_PEOPLE, "image_index", *_OF_REGIONS, *_OUTLINES)
_log = logging.getLogger(__name__)


def load_annotations(path: Path, rules: ReadingRules, cache: Path) -> Annotations:
    """All annotations of a file, memory-mapped; the first call reads the file and fills the cache.

    Args:
        path: a file, or a folder of files, in the layout `rules.layout`.
        rules: how to read it.
        cache: folder for indices, made if absent.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not such a file, or has bad records and `rules.bad_records` is "error".
        OSError: if the file cannot be read or the cache cannot be written.
    """
    folder = indexed(path, rules, cache)
    if report := (folder / "left_out").read_text():
        _log.warning("%s", report)
    stored = {name: folder / f"{name}.npy" for name in _ARRAYS}
    arrays = {name: np.load(file, mmap_mode="r") for name, file in stored.items() if file.exists()}
    return Annotations(**arrays, pixel_shift=rules.pixel_shift)


def fingerprint(path: Path, rules: ReadingRules, cache: Path) -> str:
    """A digest of a file's annotations as they are read; equal contents give equal digests, wherever the file lies."""
    return (indexed(path, rules, cache) / "digest").read_text()


def indexed(path: Path, rules: ReadingRules, cache: Path) -> Path:
    """The cache folder of an annotation file, filled if need be. Arguments and errors as `load_annotations`."""
    folder = cache / "annotations" / _key(path, rules)
    if not folder.exists():
        with locked(_WHAT, folder):
            if not folder.exists():
                _fill(folder, path, rules)
    return folder


def references(annotations: Annotations) -> dict[str, Any]:
    """The fields of annotations with file names in place of memory-mapped arrays, so that a pickle stays small."""
    values = ((field.name, getattr(annotations, field.name)) for field in fields(annotations))
    return {name: Path(v.filename) if isinstance(v, np.memmap) and v.filename else v for name, v in values}


def referenced(values: dict[str, Any]) -> Annotations:
    """The inverse of `references`."""
    opened = {name: np.load(v, mmap_mode="r") if isinstance(v, Path) else v for name, v in values.items()}
    return Annotations(**opened)


def map_pages(annotations: Annotations) -> None:
    """Read memory-mapped arrays once, so that processes forked later share their pages with this one."""
    for field in fields(annotations):
        values = getattr(annotations, field.name)
        if isinstance(values, np.memmap) and values.size:
            values.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].sum()


def select(annotations: Annotations, images: NDArray[np.int64]) -> Annotations:
    """The annotations of some images (ascending indices), copied."""
    people = np.isin(annotations.image_index, images)
    image_index = np.searchsorted(images, annotations.image_index[people])
    arrays = _rows_of(annotations, _OF_IMAGES, images) | _rows_of(annotations, _OF_PEOPLE, people)
    parts = _regions_of(annotations, images) | _outlines_of(annotations, images)
    return replace(annotations, image_index=image_index, **arrays, **parts)


def _rows_of(annotations: Annotations, names: tuple[str, ...], rows: NDArray[Any]) -> dict[str, Any]:
    arrays = {name: getattr(annotations, name) for name in names}
    return {name: array[rows] for name, array in arrays.items() if array is not None}


def _regions_of(annotations: Annotations, images: NDArray[np.int64]) -> dict[str, Any]:
    if annotations.region_images is None or annotations.region_index is None or annotations.region_points is None:
        return {}
    regions = np.isin(annotations.region_images, images)
    corners = regions[annotations.region_index]
    return {
        "region_images": np.searchsorted(images, annotations.region_images[regions]),
        "region_index": np.cumsum(regions)[annotations.region_index[corners]] - 1,
        "region_points": annotations.region_points[corners],
    }


def _outlines_of(annotations: Annotations, images: NDArray[np.int64]) -> dict[str, Any]:
    codes, starts = annotations.unlabelled_codes, annotations.unlabelled_starts
    if codes is None or starts is None:
        return {}
    lengths = np.diff(starts)
    kept = np.zeros(len(lengths), np.bool_)
    kept[images] = True
    return {
        "unlabelled_codes": codes[np.repeat(kept, lengths)],
        "unlabelled_starts": np.concatenate([[0], np.cumsum(lengths[images])]),
    }


def with_people(annotations: Annotations) -> NDArray[np.int64]:
    """Indices of the images that show at least one person who counts in the evaluation."""
    counted = ~annotations.ignore & (annotations.num_keypoints > 0)
    return np.unique(annotations.image_index[counted])


def _key(path: Path, rules: ReadingRules) -> str:
    if not path.exists():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    parts = [str(path.resolve()), states, _VERSION, repr(rules)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _fill(folder: Path, path: Path, rules: ReadingRules) -> None:
    annotations, left_out = checked(LAYOUTS[rules.layout](path, rules), path, rules)
    with writing(_WHAT, folder.parent):
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        try:
            (temporary / "left_out").write_text(left_out)
            _store(annotations, temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _store(annotations: Annotations, folder: Path) -> None:
    digest = hashlib.sha256(str(annotations.pixel_shift).encode())
    for name in _ARRAYS:
        if getattr(annotations, name) is None:
            continue
        array = np.ascontiguousarray(getattr(annotations, name))
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
        np.save(folder / f"{name}.npy", array)
    (folder / "digest").write_text(digest.hexdigest())
