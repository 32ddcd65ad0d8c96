"""FLIC: `examples.mat` beside a folder of film frames; upper bodies.

Sapp and Taskar, CVPR 2013. `coords` is (2, 29) with a column for each of the joints below; those that the annotators
left out are NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.layouts.files import box_around, elements, field, parsed_matlab, refuse_part
from pose_lab.data.records import Content, Record
from pose_lab.data.rules import ReadingRules

_COLUMNS = {
    "left_shoulder": 0, "left_elbow": 1, "left_wrist": 2, "right_shoulder": 3, "right_elbow": 4, "right_wrist": 5,
    "left_hip": 6, "right_hip": 9, "left_eye": 12, "right_eye": 13, "nose": 16,
}  # fmt: skip
_PARTS = ("train", "test")


def read(path: Path, rules: ReadingRules) -> Content:
    """The examples of the part "train" (`istrain`) or "test" (`istest`)."""
    refuse_part(path, rules, _PARTS)
    examples = elements(parsed_matlab(path, "examples"))
    used = [(n, e) for n, e in enumerate(examples, start=1) if np.any(field(e, f"is{rules.part}", path))]
    images: dict[str, Record] = {}
    people = []
    for number, example in used:
        image = images.setdefault(str(field(example, "filepath", path)), {"id": len(images) + 1})
        image.update(_size(example, path))
        points = _keypoints(number, example, path, rules)
        box = box_around(points, rules)
        people.append({"id": number, "image_id": image["id"], "keypoints": points.ravel(), "bbox": box})
    return Content([image | {"file_name": name} for name, image in images.items()], people)


def _size(example: Any, path: Path) -> Record:
    height, width = np.ravel(field(example, "imgdims", path))[:2]
    return {"height": int(height), "width": int(width)}


def _keypoints(number: int, example: Any, path: Path, rules: ReadingRules) -> NDArray[np.float64]:
    coords = np.asarray(field(example, "coords", path), np.float64)
    if coords.ndim != 2 or len(coords) != 2 or coords.shape[1] <= max(_COLUMNS.values()):
        raise ValueError(f"{path}: `coords` of example {number} is {coords.shape}, expected (2, 29)")
    xy = coords[:, [_COLUMNS[name] for name in rules.skeleton.keypoints]].T
    labelled = np.isfinite(xy).all(axis=1, keepdims=True)
    return np.concatenate([np.where(labelled, xy, 0), 2 * labelled], axis=1)
