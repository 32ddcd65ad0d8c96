"""COCO's layout and its relatives: COCO-WholeBody with its further keypoints, videos of PoseTrack18 and JHMDB.

https://cocodataset.org/#format-data; COCO-WholeBody: Jin et al., ECCV 2020; PoseTrack18: Andriluka et al., CVPR 2018.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pose_lab.data.layouts.files import box_around, parsed_json
from pose_lab.data.records import Content, Record
from pose_lab.data.rules import ReadingRules

_PARTS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


def read(path: Path, rules: ReadingRules) -> Content:
    """An object with lists `images` and `annotations`."""
    content = parsed_json(path)
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(records, list) for records in lists):
        raise ValueError(f"{path} is not in COCO's layout: it must be an object with lists `images` and `annotations`")
    return Content(*lists)  # type: ignore[arg-type]


def read_wholebody(path: Path, rules: ReadingRules) -> Content:
    """COCO-WholeBody: keypoints of feet, face and hands stand in lists of their own behind those of the body."""
    content = read(path, rules)
    whole = [person for person in content.people if isinstance(person, dict) and _has_parts(person)]
    if content.people and not whole:
        raise ValueError(f"{path} is not COCO-WholeBody's: no annotation has {', '.join(_PARTS[1:])}")
    content.people = [_joined(person) for person in content.people]
    return content


def _has_parts(person: Record) -> bool:
    return all(isinstance(person.get(part), list) for part in _PARTS)


def _joined(person: Any) -> Any:
    if not isinstance(person, dict) or not _has_parts(person):
        return person  # the checks tell what is wrong with it
    return person | {"keypoints": [number for part in _PARTS for number in person[part]]}


def read_video(path: Path, rules: ReadingRules) -> Content:
    """A file of videos, or a folder with one for each: frames are named `.../VIDEO/NUMBER.jpg`, people have `track_id`.

    A frame's `ignore_regions_x` and `ignore_regions_y` are polygons; the box of each also becomes an ignored person.
    Their ids are -1, -2, ... Frames that say they are not labelled are left out.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .json file; expected is one for each video")
    contents = [read(file, rules) for file in files]
    frames = [image for content in contents for image in content.images]
    people = [person for content in contents for person in content.people]
    unlabelled = {frame.get("id") for frame in frames if isinstance(frame, dict) and not frame.get("is_labeled", True)}
    images = [_frame(frame, path) for frame in frames if _field(frame, "id") not in unlabelled]
    people = [_tracked(person, rules) for person in people if _field(person, "image_id") not in unlabelled]
    left_out = {"frames that are not labelled": len(frames) - len(images)}
    return Content(images, [*people, *_ignored(images, rules)], left_out)


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


def _frame(image: Any, path: Path) -> Any:
    """An image record with its video and number, as its file name says, and its ignored regions."""
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
        return image  # the checks tell what is wrong with it
    file = PurePosixPath(image["file_name"])
    if not file.stem.isdigit() or not file.parent.name:
        raise ValueError(f"{path}: frame {image['file_name']!r} is not named VIDEO/NUMBER")
    video = {"sequence": str(image.get("vid_id", file.parent.name)), "frame": int(file.stem)}
    try:
        corners = zip(image.get("ignore_regions_x", ()), image.get("ignore_regions_y", ()), strict=True)
        regions = [np.array([x, y], np.float64).T for x, y in corners]
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: ignore_regions_x and ignore_regions_y of frame {file} are not polygons with as many x as y"
        ) from None
    return image | video | {"regions": [polygon.tolist() for polygon in regions if polygon.size]}


def _tracked(person: Any, rules: ReadingRules) -> Any:
    """A person record with its head box, and a box made of the keypoints where it has none."""
    if not isinstance(person, dict) or not isinstance(person.get("keypoints"), list):
        return person
    found: Record = {}
    if not person.get("bbox") and len(person["keypoints"]) == 3 * len(rules.skeleton):
        found["bbox"] = box_around(np.array(person["keypoints"], np.float64).reshape(-1, 3), rules)
    head = person.get("bbox_head")
    if isinstance(head, list) and len(head) == 4 and all(isinstance(number, int | float) for number in head):
        x, y, width, height = head
        found["head_box"] = [x, y, x + width, y + height]
    return person | found


def _ignored(images: list[Any], rules: ReadingRules) -> list[Record]:
    """The box of each ignored region as a person of whom nothing is known."""
    nothing = [0] * (3 * len(rules.skeleton))
    regions = [(_field(image, "id"), polygon) for image in images for polygon in _field(image, "regions") or ()]
    records = []
    for number, (image_id, polygon) in enumerate(regions, start=1):
        low, high = np.min(polygon, 0), np.max(polygon, 0)
        record = {"id": -number, "image_id": image_id, "iscrowd": 1, "keypoints": nothing}
        records.append(record | {"bbox": [*low.tolist(), *(high - low).tolist()]})
    return records
