"""Reading COCO-layout annotation files: parsed and checked once, then memory-mapped from a cache folder.

The cache folder's name is a hash of the file's absolute path, size and time of change, of the reading rules and of this
reader's version, so a changed file is read anew. It holds one `.npy` per field of `Annotations` and the digest of their
contents; it is written under a lock, to a temporary name, and renamed. What was left out on reading is told at every
opening.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.cache import locked, writing
from pose_lab.poses import Annotations
from pose_lab.skeletons import Skeleton

_VERSION = 2  # raise it when what is stored changes
_WHAT = "the annotation index"
_NAMED = 5  # how many bad records a message names
_SHOWN = 30  # how many characters of a record that is no object
_OF_IMAGES = ("image_ids", "file_names", "sizes", "crowd_index")
_OF_PEOPLE = ("instance_ids", "boxes", "keypoints", "areas", "ignore", "num_keypoints")
_ARRAYS = (*_OF_IMAGES, *_OF_PEOPLE, "image_index")
_log = logging.getLogger(__name__)

BadRecords = Literal["error", "skip"]
Record = dict[str, Any]


@dataclass(frozen=True)
class ReadingRules:
    """How an annotation file is read.

    Attributes:
        skeleton: the keypoints that every record must have.
        area_factor: area = this times box width times height; None takes the record's own `area`.
        pixel_shift: added to the file's keypoints to get continuous coordinates.
        bad_records: "error" stops at records that contradict themselves or the file, "skip" leaves them out.
    """

    skeleton: Skeleton
    area_factor: float | None = None
    pixel_shift: float = 0.5
    bad_records: BadRecords = "error"


def load_annotations(path: Path, rules: ReadingRules, cache: Path) -> Annotations:
    """All annotations of a file, memory-mapped; the first call reads the file and fills the cache.

    Args:
        path: a JSON file in COCO's keypoint layout.
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
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
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
    of_images = {name: getattr(annotations, name)[images] for name in _OF_IMAGES}
    of_people = {name: getattr(annotations, name)[people] for name in _OF_PEOPLE}
    return replace(annotations, image_index=image_index, **of_images, **of_people)


def with_people(annotations: Annotations) -> NDArray[np.int64]:
    """Indices of the images that show at least one person who counts in the evaluation."""
    counted = ~annotations.ignore & (annotations.num_keypoints > 0)
    return np.unique(annotations.image_index[counted])


def _key(path: Path, rules: ReadingRules) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"annotation file {path} does not exist") from None
    parts = [str(path.resolve()), status.st_size, status.st_mtime_ns, _VERSION, repr(rules)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _fill(folder: Path, path: Path, rules: ReadingRules) -> None:
    annotations, left_out = _read(path, rules)
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
        array = np.ascontiguousarray(getattr(annotations, name))
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
        np.save(folder / f"{name}.npy", array)
    (folder / "digest").write_text(digest.hexdigest())


def _read(path: Path, rules: ReadingRules) -> tuple[Annotations, str]:
    """The annotations, and a report of what was left out."""
    images, people = _parsed(path)
    faults = _Faults(path, rules.bad_records)
    images = sorted(_sound_images(images, faults), key=lambda image: image["id"])
    people = _sound_people(people, {image["id"] for image in images}, rules, faults)
    report = faults.report()
    return _arrays(images, people, rules), report


def _parsed(path: Path) -> tuple[list[Record], list[Record]]:
    """The file's lists of images and of annotations."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, f"cannot read the annotation file {path} ({error.strerror})") from None
    try:
        content = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} ({len(data)} bytes) is cut off or not JSON: {error}; get the file again") from None
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(records, list) for records in lists):
        raise ValueError(f"{path} is not in COCO's layout: it must be an object with lists `images` and `annotations`")
    return lists[0], lists[1]  # type: ignore[return-value]


class _Faults:
    """Collects bad records by what is wrong with them, and reports them together."""

    def __init__(self, path: Path, policy: BadRecords) -> None:
        self.path, self.policy = path, policy
        self.found: dict[str, list[Any]] = {}

    def sound(self, records: Sequence[Record], wrong: Callable[[Record], str | None]) -> list[Record]:
        """The records that `wrong` finds nothing to say about; the others are noted."""
        kept = []
        for record in records:
            if reason := wrong(record):
                name = record.get("id", "without id") if isinstance(record, dict) else repr(record)[:_SHOWN]
                self.found.setdefault(reason, []).append(name)
            else:
                kept.append(record)
        return kept

    def report(self) -> str:
        """Raise or tell what was found, as the policy says; nothing if nothing was."""
        if not self.found:
            return ""
        listed = [f"{len(ids)} {what} (ids {_first(ids)})" for what, ids in self.found.items()]
        message = f"{self.path}: {sum(map(len, self.found.values()))} bad records: {'; '.join(listed)}"
        if self.policy == "error":
            raise ValueError(f"{message}. Mend the file, or set `data.bad_records: skip` to leave them out")
        return f"{message}. They are left out."


def _first(items: Sequence[Any]) -> str:
    return ", ".join(str(item) for item in items[:_NAMED]) + (", ..." if len(items) > _NAMED else "")


def _sound_images(images: list[Record], faults: _Faults) -> list[Record]:
    seen: set[int] = set()

    def wrong(image: Record) -> str | None:
        if not isinstance(image, dict):
            return "images that are no objects"
        if not all(key in image for key in ("id", "file_name", "width", "height")):
            return "images without id, file_name, width or height"
        if not (_integer(image["id"]) and _integer(image["width"], np.int32) and _integer(image["height"], np.int32)):
            return "images whose id, width or height is not a whole number"
        if not isinstance(image["file_name"], str):
            return "images whose file_name is no text"
        if not isinstance(image.get("crowdIndex"), int | float | None):
            return "images whose crowdIndex is no number"
        if image["width"] <= 0 or image["height"] <= 0:
            return "images of zero size"
        if image["id"] in seen:
            return "images with an id that occurred before"
        seen.add(image["id"])
        return None

    return faults.sound(images, wrong)


def _integer(value: Any, kind: type[np.signedinteger[Any]] = np.int64) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < np.iinfo(kind).bits


def _sound_people(people: list[Record], image_ids: set[int], rules: ReadingRules, faults: _Faults) -> list[Record]:
    seen: set[int] = set()

    def wrong(person: Record) -> str | None:
        if not isinstance(person, dict):
            return "annotations that are no objects"
        if not _integer(person.get("id")) or not _integer(person.get("image_id")):
            return "annotations without id or image_id"
        if person["id"] in seen:
            return "annotations with an id that occurred before"
        seen.add(person["id"])
        if person["image_id"] not in image_ids:
            return "annotations of an image that is not in the list"
        return _wrong_shape(person, rules)

    people = faults.sound(people, wrong)
    return _with_sound_numbers(people, rules, faults)


def _wrong_shape(person: Record, rules: ReadingRules) -> str | None:
    keypoints, box = person.get("keypoints"), person.get("bbox")
    if not isinstance(keypoints, list):
        return "annotations without keypoints"
    if len(keypoints) != 3 * len(rules.skeleton):
        name, expected = rules.skeleton.name, len(rules.skeleton)
        return f"annotations with {len(keypoints) / 3:g} keypoints (skeleton {name}, `data.skeleton`, has {expected})"
    if not isinstance(box, list) or len(box) != 4:
        return "annotations without a box of four numbers"
    if rules.area_factor is None and "area" not in person:
        return "annotations without area"
    return None


def _with_sound_numbers(people: list[Record], rules: ReadingRules, faults: _Faults) -> list[Record]:
    """Check boxes, keypoints and areas, all people at once."""
    boxes = _numbers(people, "bbox", (4,))
    keypoints = _numbers(people, "keypoints", (len(rules.skeleton), 3))
    labelled = keypoints[..., 2] > 0
    checks = {
        "annotations whose box is not finite": ~np.isfinite(boxes).all(1),
        "annotations whose area is not finite": ~np.isfinite(_areas(people, boxes, rules.area_factor)),
        "annotations with a box of zero size": ~(boxes[:, 2:] > 0).all(1),
        "annotations whose labelled keypoints are not finite": (labelled & ~np.isfinite(keypoints).all(2)).any(1),
        "annotations whose visibility is not 0, 1 or 2": ~np.isin(keypoints[..., 2], (0, 1, 2)).all(1),
    }
    reasons = {id(people[row]): reason for reason, bad in reversed(checks.items()) for row in np.flatnonzero(bad)}
    return faults.sound(people, lambda person: reasons.get(id(person)))


def _numbers(records: list[Record], field: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(N, *shape) numbers of a field; whatever is not a number becomes NaN."""
    values = [record[field] for record in records]
    flat = (len(records), math.prod(shape)) if shape else (len(records),)
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or array.shape != flat:
        array = np.array([[_number(v) for v in value] if shape else _number(value) for value in values], np.float64)
    return array.reshape(len(records), *shape)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:  # a whole number that no float holds
        return np.nan


def _areas(people: list[Record], corner_size: NDArray[np.float64], factor: float | None) -> NDArray[np.float64]:
    return _numbers(people, "area", ()) if factor is None else factor * corner_size[:, 2:].prod(1)


def _arrays(images: list[Record], people: list[Record], rules: ReadingRules) -> Annotations:
    index = {image["id"]: i for i, image in enumerate(images)}
    people = sorted(people, key=lambda person: index[person["image_id"]])
    corner_size = _numbers(people, "bbox", (4,))
    keypoints = _numbers(people, "keypoints", (len(rules.skeleton), 3))
    labelled = keypoints[..., 2] > 0
    keypoints = np.nan_to_num(keypoints) + np.array((rules.pixel_shift, rules.pixel_shift, 0))
    return Annotations(
        image_ids=np.array([image["id"] for image in images], np.int64),
        file_names=np.array([image["file_name"].encode() for image in images], np.bytes_),
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
        crowd_index=np.array([_number(image.get("crowdIndex")) for image in images], np.float64),
        instance_ids=np.array([person["id"] for person in people], np.int64),
        image_index=np.array([index[person["image_id"]] for person in people], np.int64),
        boxes=np.concatenate([corner_size[:, :2], corner_size[:, :2] + corner_size[:, 2:]], 1),
        keypoints=keypoints.astype(np.float32),
        areas=_areas(people, corner_size, rules.area_factor),
        ignore=np.array([bool(person.get("iscrowd", 0)) for person in people], np.bool_),
        num_keypoints=(labelled & np.array(rules.skeleton.counted)).sum(1).astype(np.int32),
        pixel_shift=rules.pixel_shift,
    )
