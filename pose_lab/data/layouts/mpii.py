"""MPII Human Pose: the official MATLAB file, and the common JSON list of people.

Andriluka et al., CVPR 2014, http://human-pose.mpi-inf.mpg.de. A person's box is the square of 200 `scale` pixels around
its `objpos` (in the JSON: `center`), as the data set's page defines the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pose_lab.data.layouts.files import elements, field, image_records, parsed_json, parsed_matlab, refuse_part, square
from pose_lab.data.records import Content, Record
from pose_lab.data.rules import ReadingRules

_SCALE = 200  # pixels of height that a scale of 1 stands for
_PARTS = ("train", "test")


def read(path: Path, rules: ReadingRules) -> Content:
    """Either file; the MATLAB file holds both parts, "train" (`img_train` is 1) and "test", which has no keypoints."""
    return _read_matlab(path, rules) if path.suffix == ".mat" else _read_json(path, rules)


def _read_json(path: Path, rules: ReadingRules) -> Content:
    people = parsed_json(path)
    if not isinstance(people, list) or not all(isinstance(person, dict) and "image" in person for person in people):
        raise ValueError(
            f"{path} is not MPII's: expected a list of people with image, center, scale, joints, joints_vis"
        )
    images = image_records(list(dict.fromkeys(str(person["image"]) for person in people)), path, rules)
    ids = {image["file_name"]: image["id"] for image in images}
    records = [_json_record(number, person, path, rules) for number, person in enumerate(people, start=1)]
    return Content(images, [r | {"image_id": ids[str(p["image"])]} for r, p in zip(records, people, strict=True)])


def _json_record(number: int, person: Record, path: Path, rules: ReadingRules) -> Record:
    keypoints = np.zeros((len(rules.skeleton), 3))
    try:
        if "joints" in person:  # the test part has none
            labelled = np.array(person["joints_vis"], np.float64) > 0
            keypoints = np.column_stack([np.array(person["joints"], np.float64), 2 * labelled])
        box = square(person["center"], _SCALE * person["scale"], rules)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: center, scale, joints or joints_vis of person {number} cannot be read: {error!r}"
        ) from None
    record = {"id": number, "keypoints": keypoints.ravel(), "bbox": box}
    return record | ({"head_box": _head_box(person["head_box"], rules)} if "head_box" in person else {})


def _read_matlab(path: Path, rules: ReadingRules) -> Content:
    refuse_part(path, rules, _PARTS)
    release = parsed_matlab(path, "RELEASE")
    wanted = np.atleast_1d(field(release, "img_train", path)) == (rules.part == "train")
    annotated = [a for a, use in zip(elements(field(release, "annolist", path)), wanted, strict=True) if use]
    images = image_records([str(field(a.image, "name", path)) for a in annotated], path, rules)
    pairs = [(image, person) for image, a in zip(images, annotated, strict=True) for person in elements(a.annorect)]
    found = [(image, person) for image, person in pairs if _has_place(person)]
    people = [_matlab_record(n, image, person, path, rules) for n, (image, person) in enumerate(found, start=1)]
    return Content(images, people, {"people without a place and a scale": len(pairs) - len(found)})


def _has_place(person: Any) -> bool:
    return hasattr(getattr(person, "objpos", None), "x") and np.size(getattr(person, "scale", ())) == 1


def _matlab_record(number: int, image: Record, person: Any, path: Path, rules: ReadingRules) -> Record:
    keypoints = np.zeros((len(rules.skeleton), 3))
    points = getattr(getattr(person, "annopoints", None), "point", ())
    for point in elements(points) if np.size(points) else ():
        hidden = str(getattr(point, "is_visible", "")) == "0"  # text, a number, or empty where nobody said
        keypoints[int(field(point, "id", path))] = point.x, point.y, 1 if hidden else 2
    centre = (float(person.objpos.x), float(person.objpos.y))
    record = {"id": number, "image_id": image["id"], "keypoints": keypoints.ravel()}
    record["bbox"] = square(centre, _SCALE * float(person.scale), rules)
    corners = [getattr(person, name, ()) for name in ("x1", "y1", "x2", "y2")]
    return record | ({"head_box": _head_box(corners, rules)} if all(np.size(c) == 1 for c in corners) else {})


def _head_box(corners: Sequence[Any], rules: ReadingRules) -> list[float]:
    """The annotated head rectangle in continuous coordinates; its diagonal stays, PCKh is measured by it."""
    return [float(corner) + rules.pixel_shift for corner in corners]
