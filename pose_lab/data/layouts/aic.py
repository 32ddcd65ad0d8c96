"""AI Challenger human keypoints: the official list of pictures, and the same in COCO's layout.

Wu et al., 2017. Of the official file, visibility 1 means visible, 2 hidden, 3 absent; boxes are xyxy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pose_lab.data.layouts import coco
from pose_lab.data.layouts.files import image_records, parsed_json
from pose_lab.data.records import Content, Record
from pose_lab.data.rules import ReadingRules

_VISIBILITY: dict[float, int] = {1: 2, 2: 1, 3: 0}  # of the official file, as COCO's
_FIELDS = ("image_id", "keypoint_annotations", "human_annotations")


def read(path: Path, rules: ReadingRules) -> Content:
    """Either file: the official one is a list, the converted one an object."""
    pictures = parsed_json(path)
    if isinstance(pictures, dict):
        return coco.read(path, rules)
    if not isinstance(pictures, list) or not all(map(_is_picture, pictures)):
        raise ValueError(f"{path} is not AI Challenger's: expected a list of pictures with {', '.join(_FIELDS)}")
    images = image_records([f"{picture['image_id']}.jpg" for picture in pictures], path, rules)
    people: list[Record] = []
    for image, picture in zip(images, pictures, strict=True):
        for name, keypoints in picture["keypoint_annotations"].items():
            record = {"id": len(people) + 1, "image_id": image["id"], "keypoints": _as_coco(keypoints)}
            people.append(record | {"bbox": _corner_size(picture["human_annotations"].get(name))})
    return Content(images, people)


def _is_picture(value: Any) -> bool:
    if not isinstance(value, dict) or not set(_FIELDS) <= set(value):
        return False
    people, boxes = value["keypoint_annotations"], value["human_annotations"]
    return isinstance(people, dict) and isinstance(boxes, dict) and all(isinstance(p, list) for p in people.values())


def _as_coco(keypoints: list[Any]) -> list[Any]:
    """Values that are no such visibility stay, so that the checks refuse them."""
    return [_VISIBILITY.get(v, -1) if n % 3 == 2 and isinstance(v, int | float) else v for n, v in enumerate(keypoints)]


def _corner_size(corners: Any) -> list[float] | None:
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    x0, y0, x1, y1 = np.array(corners, np.float64).tolist()
    return [x0, y0, x1 - x0, y1 - y0]
