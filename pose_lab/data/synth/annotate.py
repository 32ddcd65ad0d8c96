"""Annotations from a rendered frame: visibility by depth, boxes, areas and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as masks

from pose_lab.data.synth.body import FLESH, Shapes, Skeletons3D
from pose_lab.data.synth.camera import Camera
from pose_lab.data.synth.layout import crowd_index
from pose_lab.data.synth.render import Frame
from pose_lab.data.synth.settings import SynthSettings
from pose_lab.data.synth.solids import BACKGROUND
from pose_lab.skeletons import Skeleton

Floats = NDArray[np.float64]
_PIXEL_INDEX = 0.5  # COCO's keypoints count from pixel centres: continuous coordinate minus one half


@dataclass(frozen=True)
class People:
    """The annotated people of a picture, and at most one crowd region, last.

    Attributes:
        keypoints: (N, K, 3) x, y, visibility as in COCO's files; zeros where unlabelled.
        joints: (N, K, 3) millimetres in camera coordinates; NaN for a crowd region.
        boxes: (N, 4) x, y, width, height.
        areas: (N,) visible pixels.
        segmentations: compressed run lengths, as pycocotools reads them.
        crowd: (N,) bool, whether it is a crowd region.
        crowd_index: of the picture.
    """

    keypoints: Floats
    joints: Floats
    boxes: Floats
    areas: Floats
    segmentations: list[dict[str, object]]
    crowd: NDArray[np.bool_]
    crowd_index: float


def annotate(settings: SynthSettings, skeleton: Skeleton, camera: Camera, frame: Frame, body: Skeletons3D,
             shapes: Shapes, far: int) -> People:  # fmt: skip
    """Annotates everybody of whom anything can be seen; the last `far` people together as one crowd region."""
    near = len(shapes.stature) - far
    joints = camera.seen(body.stacked(skeleton.keypoints))
    flesh = _flesh(skeleton) * (shapes.stature * shapes.girth)[:, None]
    points = camera.project(joints)
    visibility, open_view = see(points, joints[..., 2], flesh, frame)
    owner = np.minimum(np.ascontiguousarray(frame.owner.T), near)  # the far group's members all become `near`
    silhouettes = owner == np.arange(near + 1, dtype=owner.dtype)[:, None, None]
    encoded = masks.encode(silhouettes.view(np.uint8).transpose(2, 1, 0))  # column by column, as run lengths count
    areas = masks.area(encoded).astype(np.float64)
    kept = np.flatnonzero(areas > 0)
    boxes = masks.toBbox([encoded[i] for i in kept]).reshape(len(kept), 4)
    crowd = kept == near
    keypoints, poses = np.zeros((near + 1, len(skeleton), 3)), np.full((near + 1, len(skeleton), 3), np.nan)
    poses[:near] = joints[:near]
    labelled = (open_view[:near].mean(axis=1) >= settings.min_visible) & (areas[:near] >= settings.min_area)
    keypoints[:near] = _in_file(points[:near], visibility[:near] * labelled[:, None], camera)
    people = ~crowd
    index = crowd_index(keypoints[kept][people, :, :2], keypoints[kept][people, :, 2] > 0, _corners(boxes[people]))
    runs = [{"size": list(encoded[i]["size"]), "counts": encoded[i]["counts"].decode("ascii")} for i in kept]
    return People(keypoints[kept], poses[kept], boxes, areas[kept], runs, crowd, index)


def see(points: Floats, depth: Floats, flesh: Floats, frame: Frame) -> tuple[Floats, NDArray[np.bool_]]:
    """Which keypoints can be seen.

    A keypoint is hidden behind another body or a thing that is nearer, and behind the own body if its surface is nearer
    by more than the flesh that covers the joint.

    Args:
        points: (P, K, 2) continuous pixels.
        depth: (P, K) millimetres.
        flesh: (P, K) millimetres.
        frame: the rendered picture; person p owns the pixels with `owner == p`.

    Returns:
        Visibility (P, K): 0 outside the picture, 1 hidden, 2 visible; and whether it is in the picture with nothing
        of anybody or anything else before it (P, K).
    """
    height, width = frame.owner.shape
    x, y = (np.floor(points[..., axis]) for axis in (0, 1))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (depth > 0)
    column, row = (np.where(inside, value, 0).astype(np.int64) for value in (x, y))
    owner, nearness = frame.owner[row, column], frame.nearness[row, column]
    own = owner == np.arange(len(points))[:, None]
    behind_own = own & (nearness * (depth - flesh) > 1)
    behind_other = ~own & (owner != BACKGROUND) & (nearness * depth > 1)
    visibility = np.where(inside, np.where(behind_own | behind_other, 1.0, 2.0), 0.0)
    return visibility, inside & ~behind_other


def _flesh(skeleton: Skeleton) -> Floats:
    return np.array([FLESH[name.removeprefix("left_").removeprefix("right_")] for name in skeleton.keypoints])


def _in_file(points: Floats, visibility: Floats, camera: Camera) -> Floats:
    """Keypoints (P, K, 3) as COCO's files hold them."""
    last = np.array([camera.width, camera.height]) - 1
    pixels = np.round(np.clip(points - _PIXEL_INDEX, 0, last), 1)
    return np.where(visibility[..., None] > 0, np.concatenate([pixels, visibility[..., None]], axis=2), 0.0)


def _corners(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
