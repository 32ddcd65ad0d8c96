"""From records in COCO's manner, which every layout is read into, to flat arrays; every record is checked.

An image record has `id`, `file_name`, `width`, `height`, and may have `crowdIndex`, `sequence` (text), `frame` and
`regions` (polygons, lists of x, y). A person record has `id`, `image_id`, `bbox` (x, y, width, height), `keypoints`
(x, y, visibility of each), and may have `area`, `iscrowd`, `segmentation` (COCO's), `track_id`, `head_box` (xyxy) and
`joints_3d` (x, y, z of each).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data import outlines
from pose_lab.data.rules import ReadingRules
from pose_lab.poses import Annotations
from pose_lab.skeletons import mapping

_AS_IN_THE_FILE = ("coco", "wholebody")  # layouts whose records stand in the file as they are read, in its order
_NAMED = 5  # how many bad records a message names
_SHOWN = 30  # how many characters of a record that is no object

Record = dict[str, Any]


@dataclass
class Content:
    """What a layout found in its files.

    Attributes:
        images: records.
        people: records.
        left_out: how many things were left out on purpose, by what they are.
    """

    images: list[Record]
    people: list[Record]
    left_out: dict[str, int] = field(default_factory=dict)


def checked(content: Content, path: Path, rules: ReadingRules) -> tuple[Annotations, str]:
    """The annotations, and a report of what was left out.

    Raises:
        ValueError: if records are bad and `rules.bad_records` is "error".
    """
    annotations, faults = _examined(content, rules)
    reports = []
    if faults.records:
        places = _places(content) if rules.layout in _AS_IN_THE_FILE else {}
        listed = [f"{len(bad)} {what} ({_first(bad, places)})" for what, bad in faults.records.items()]
        message = f"{path}: {sum(map(len, faults.records.values()))} bad records: {'; '.join(listed)}"
        if rules.bad_records == "error":
            raise ValueError(
                f"{message}. Mend the file, or set `data.bad_records: skip` to leave them out (`bad_records=skip` of "
                "pose_lab.evaluate)"
            )
        reports.append(f"{message}. They are left out.")
    if meant := ", ".join(f"{count} {what}" for what, count in content.left_out.items() if count):
        reports.append(f"{path}: {meant} are left out.")
    return annotations, " ".join(reports)


def examined(content: Content, rules: ReadingRules) -> tuple[Annotations, dict[str, list[Any]]]:
    """The annotations without bad records, and the ids of those by what is wrong with them."""
    annotations, faults = _examined(content, rules)
    return annotations, {what: [_id(record) for record in bad] for what, bad in faults.records.items()}


def _examined(content: Content, rules: ReadingRules) -> tuple[Annotations, _Faults]:
    faults = _Faults()
    images = sorted(_sound_images(content.images, rules, faults), key=lambda image: image["id"])
    people = _sound_people(content.people, {image["id"] for image in images}, rules, faults)
    if rules.sizes:
        people = _with_sound_outlines(people, images, faults)
    return _arrays(images, people, rules), faults


class _Faults:
    """Collects bad records by what is wrong with them."""

    def __init__(self) -> None:
        self.records: dict[str, list[Any]] = {}

    def sound(self, records: Sequence[Record], wrong: Callable[[Record], str | None]) -> list[Record]:
        """The records that `wrong` finds nothing to say about; the others are noted."""
        kept = []
        for record in records:
            if reason := wrong(record):
                self.records.setdefault(reason, []).append(record)
            else:
                kept.append(record)
        return kept


def _id(record: Any) -> Any:
    """A record's id, or the beginning of something that is no record."""
    return record.get("id", "without id") if isinstance(record, dict) else repr(record)[:_SHOWN]


def _places(content: Content) -> dict[int, str]:
    """Where each record stands in its list, by the object's identity."""
    lists = {"image": content.images, "annotation": content.people}
    return {
        id(record): f"{kind} {n}" for kind, records in lists.items() for n, record in reversed([*enumerate(records)])
    }


def _first(records: Sequence[Any], places: Mapping[int, str]) -> str:
    """The first bad records as "annotation 12: id 221722", or as "id 221722" where the place is unknown."""
    names = []
    for record in records[:_NAMED]:
        name, place = _id(record), places.get(id(record))
        own = f"id {name}" if isinstance(record, dict) and "id" in record else str(name)
        names.append(own if place is None else f"{place}: {own}")
    return ", ".join(names) + (", ..." if len(records) > _NAMED else "")


def _sound_images(images: list[Record], rules: ReadingRules, faults: _Faults) -> list[Record]:
    seen: set[int] = set()

    def wrong(image: Record) -> str | None:
        if not isinstance(image, dict):
            return "images that are no objects"
        if not all(key in image for key in ("id", "file_name", "width", "height")):
            return "images without id, file_name, width or height"
        if image["width"] is None:
            return "images whose file is missing or no image, so that their size is unknown"
        if not (_integer(image["id"]) and _integer(image["width"], np.int32) and _integer(image["height"], np.int32)):
            return "images whose id, width or height is not a whole number"
        if not isinstance(image["file_name"], str):
            return "images whose file_name is no text"
        if not isinstance(image.get("crowdIndex"), int | float | None):
            return "images whose crowdIndex is no number"
        if not math.isfinite(_number(image.get("crowdIndex", 0))) and image.get("crowdIndex") is not None:
            return "images whose crowdIndex is NaN or infinite"
        if rules.sizes and (image["width"] <= 0 or image["height"] <= 0):
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
        if not _integer(person.get("track_id", -1)):
            return "annotations whose track_id is not a whole number"
        if not _integer(person.get("num_keypoints", 0)) or person.get("num_keypoints", 0) < 0:
            return "annotations whose num_keypoints is not a whole number from 0 on"
        if person["image_id"] not in image_ids:
            return "annotations of an image that is not in the list"
        return _wrong_shape(person, rules)

    people = faults.sound(people, wrong)
    return _with_sound_numbers(people, rules, faults)


def _wrong_shape(person: Record, rules: ReadingRules) -> str | None:
    keypoints, box = person.get("keypoints"), person.get("bbox")
    if not isinstance(keypoints, list | np.ndarray):
        return "annotations without keypoints"
    if len(keypoints) != 3 * len(rules.skeleton):
        name, expected = rules.skeleton.name, len(rules.skeleton)
        return (
            f"annotations with {len(keypoints) / 3:g} keypoints (skeleton {name}, `data.annotated_as`, has {expected})"
        )
    if not isinstance(box, list | np.ndarray) or len(box) != 4:
        return "annotations without a box of four numbers"
    if rules.area_factor is None and "area" not in person:
        return "annotations without area"
    return None


def _with_sound_numbers(people: list[Record], rules: ReadingRules, faults: _Faults) -> list[Record]:
    """Check boxes, keypoints and areas, all people at once."""
    boxes = _numbers(people, "bbox", (4,))
    keypoints = _numbers(people, "keypoints", (len(rules.skeleton), 3))
    areas = _areas(people, boxes, rules.area_factor)
    broken = (keypoints[..., 2] > 0) & ~np.isfinite(keypoints).all(2)
    checks = {
        "annotations whose box is not finite numbers": ~np.isfinite(boxes).all(1),
        "annotations whose area is not a finite number": ~np.isfinite(areas),
        "annotations with a box of zero size": ~(boxes[:, 2:] > 0).all(1),
        "annotations whose area is negative": areas < 0,
        "annotations whose labelled keypoints are not finite numbers": broken.any(1),
        "annotations whose visibility is not 0, 1 or 2": ~_visibility_is_sound(keypoints[..., 2], rules).all(1),
    }
    reasons = {id(people[row]): reason for reason, bad in reversed(checks.items()) for row in np.flatnonzero(bad)}
    return faults.sound(people, lambda person: reasons.get(id(person)))


def _with_sound_outlines(people: list[Record], images: list[Record], faults: _Faults) -> list[Record]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}

    def wrong(person: Record) -> str | None:
        size = sizes[person["image_id"]]
        return outlines.fault(person.get("segmentation"), size) if _is_unlabelled(person) else None

    return faults.sound(people, wrong)


def _is_unlabelled(person: Record) -> bool:
    """Whether somebody is a crowd region or has no keypoints."""
    return bool(person.get("iscrowd", 0)) or not np.any(np.asarray(person["keypoints"][2::3]) > 0)


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


def _visibility_is_sound(visibility: NDArray[np.float64], rules: ReadingRules) -> NDArray[np.bool_]:
    flags = np.isin(visibility, (0, 1, 2))
    return flags if rules.least_confidence is None else flags | ((visibility > 0) & (visibility < 1))


def _flags(visibility: NDArray[np.float64], rules: ReadingRules) -> NDArray[np.float64]:
    """Visibility as 0, 1 or 2, where the file may have confidences between 0 and 1."""
    if rules.least_confidence is None:
        return visibility
    confidence = (visibility > 0) & (visibility < 1)
    return np.where(confidence, np.where(visibility >= rules.least_confidence, 2, 0), visibility)


def _arrays(images: list[Record], people: list[Record], rules: ReadingRules) -> Annotations:
    index = {image["id"]: i for i, image in enumerate(images)}
    people = sorted(people, key=lambda person: index[person["image_id"]])
    corner_size = _numbers(people, "bbox", (4,))
    keypoints = _keypoints(people, rules)
    labelled = keypoints[..., 2] > 0
    keypoints += np.array((rules.pixel_shift, rules.pixel_shift, 0))
    shown = rules.shown or rules.skeleton
    return Annotations(
        image_ids=np.array([image["id"] for image in images], np.int64),
        file_names=np.array([image["file_name"].encode() for image in images], np.bytes_),
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
        crowd_index=np.array([_number(image.get("crowdIndex")) for image in images], np.float64),
        instance_ids=np.array([person["id"] for person in people], np.int64),
        image_index=np.array([index[person["image_id"]] for person in people], np.int64),
        boxes=np.concatenate([corner_size[:, :2], corner_size[:, :2] + corner_size[:, 2:]], 1),
        keypoints=keypoints,
        areas=_areas(people, corner_size, rules.area_factor),
        ignore=np.array([bool(person.get("iscrowd", 0)) for person in people], np.bool_),
        num_keypoints=(labelled & np.array(shown.counted)).sum(1).astype(np.int32),
        pixel_shift=rules.pixel_shift,
        **_of_videos(images, people),
        **_regions(images),
        **(_outlines(images, people) if rules.sizes else {}),
        head_boxes=_optional(people, "head_box", (4,)),
        joints_3d=_joints(people, rules),
    )


def _keypoints(people: list[Record], rules: ReadingRules) -> NDArray[np.float64]:
    """(N, K, 3) of the skeleton that is shown, in coordinates of the file."""
    keypoints = np.nan_to_num(_numbers(people, "keypoints", (len(rules.skeleton), 3)))
    keypoints[..., 2] = _flags(keypoints[..., 2], rules)
    return keypoints if rules.shown is None else mapping(rules.skeleton, rules.shown)(keypoints)


def _joints(people: list[Record], rules: ReadingRules) -> NDArray[np.float32] | None:
    joints = _optional(people, "joints_3d", (len(rules.skeleton), 3))
    if joints is None or rules.shown is None:
        return None if joints is None else joints.astype(np.float32)
    points, found = mapping(rules.skeleton, rules.shown).points(joints)
    return np.where(found[None, :, None], points, np.nan).astype(np.float32)


def _optional(people: list[Record], name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """(N, *shape) numbers of a field that some people have, NaN for the others; None if nobody has it."""
    if not any(name in person for person in people):
        return None
    nothing = [math.nan] * math.prod(shape)
    return _numbers([{name: person.get(name, nothing)} for person in people], name, shape)


def _of_videos(images: list[Record], people: list[Record]) -> dict[str, Any]:
    if not images or not all("sequence" in image for image in images):
        return {}
    arrays: dict[str, Any] = {
        "sequences": np.array([image["sequence"].encode() for image in images], np.bytes_),
        "frames": np.array([image["frame"] for image in images], np.int64),
    }
    if any("track_id" in person for person in people):
        arrays["track_ids"] = np.array([person.get("track_id", -1) for person in people], np.int64)
    return arrays


def _regions(images: list[Record]) -> dict[str, Any]:
    if not any("regions" in image for image in images):
        return {}
    regions = [(i, polygon) for i, image in enumerate(images) for polygon in image.get("regions", ())]
    counts = [len(polygon) for _, polygon in regions]
    points = [corner for _, polygon in regions for corner in polygon]
    return {
        "region_points": np.array(points, np.float64).reshape(-1, 2),
        "region_index": np.repeat(np.arange(len(regions)), counts),
        "region_images": np.array([i for i, _ in regions], np.int64),
    }


def _outlines(images: list[Record], people: list[Record]) -> dict[str, Any]:
    """Masks of the people whom nobody labelled, where any of them has an outline."""
    unlabelled: dict[int, list[Record]] = {}
    for person in people:
        if _is_unlabelled(person):
            unlabelled.setdefault(person["image_id"], []).append(person)
    if not any(person.get("segmentation") for records in unlabelled.values() for person in records):
        return {}
    codes = [_code(image, unlabelled.get(image["id"], [])) for image in images]
    return {
        "unlabelled_codes": np.frombuffer(b"".join(codes), np.uint8),
        "unlabelled_starts": np.cumsum([0, *map(len, codes)]),
    }


def _code(image: Record, people: list[Record]) -> bytes:
    if not people:
        return b""
    boxes = _numbers(people, "bbox", (4,))
    boxes[:, 2:] += boxes[:, :2]
    return outlines.encoded([person.get("segmentation") for person in people], boxes, (image["height"], image["width"]))
