"""Leeds Sports Pose and its extended training set: `joints.mat` beside a folder of images im0001.jpg, ...

Johnson and Everingham, BMVC 2010 and CVPR 2011. One person a picture. The two files differ:
LSP has (3, 14, 2000), third row 1 where a joint is hidden; the first half is for training, the second for testing.
The extended set has (14, 3, 10000), third column 1 where a joint is labelled; all of it is for training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.layouts.files import box_around, image_records, parsed_matlab, refuse_part
from pose_lab.data.records import Content
from pose_lab.data.rules import ReadingRules

_PARTS = ("train", "test")


def read(path: Path, rules: ReadingRules) -> Content:
    """LSP's parts are "train" and "test"; the extended set has only "train"."""
    joints, K = np.asarray(parsed_matlab(path, "joints"), np.float64), len(rules.skeleton)
    if joints.ndim != 3 or joints.shape[:2] not in ((3, K), (K, 3)):
        raise ValueError(
            f"{path}: `joints` is {joints.shape}, expected (3, {K}, images) or (extended set) ({K}, 3, images)"
        )
    extended = joints.shape[:2] == (K, 3)
    keypoints = _extended(joints) if extended else _original(joints)
    refuse_part(path, rules, _PARTS[:1] if extended else _PARTS)
    names = [f"im{number:0{5 if extended else 4}d}.jpg" for number in range(1, len(keypoints) + 1)]
    half = len(keypoints) // 2
    used = slice(None) if extended else slice(half) if rules.part == "train" else slice(half, None)
    first = len(keypoints[: used.start or 0])
    images = image_records(names[used], path, rules)
    for image in images:
        image["id"] += first  # the number in the file's name
    people = [
        {"id": image["id"], "image_id": image["id"], "keypoints": points.ravel(), "bbox": box_around(points, rules)}
        for image, points in zip(images, keypoints[used], strict=True)
    ]
    return Content(images, people)


def _original(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, 3) with visibility 2, or 1 where hidden."""
    people = joints.transpose(2, 1, 0).copy()
    people[..., 2] = 2 - people[..., 2]
    return people


def _extended(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, 3) with visibility 2, or 0 where not labelled."""
    people = joints.transpose(2, 0, 1).copy()
    people[..., 2] = 2 * people[..., 2]
    return people
