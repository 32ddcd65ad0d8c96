"""The annotated people of a batch, carried along by the maps of its plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose_lab.data.augment import Plan
from pose_lab.ops import warps
from pose_lab.poses import Annotations, Instances


@dataclass(frozen=True)
class People:
    """Annotated people before any change, with the source of the plan that shows them.

    Attributes:
        source_row: (N,) int64, ascending row of the plan's sources.
        boxes: (N, 4) float64 xyxy, pixels of the source.
        keypoints: (N, K, 3) float64.
        areas: (N,) float64.
        ignore: (N,) bool.
        track_ids: (N,) int64, or None.
        joints_3d: (N, K, 3) float32, or None.
    """

    source_row: Tensor
    boxes: Tensor
    keypoints: Tensor
    areas: Tensor
    ignore: Tensor
    track_ids: Tensor | None = None
    joints_3d: Tensor | None = None


def people_of(annotations: Annotations, starts: NDArray[np.int64], images: NDArray[np.int64]) -> People:
    """The people of several images, in the images' order; an image may occur more than once.

    Args:
        annotations: of the data set.
        starts: `annotations.starts`.
        images: (S,) indices of images.
    """
    counts = starts[images + 1] - starts[images]
    first = np.cumsum(counts) - counts
    rows = np.arange(counts.sum()) + np.repeat(starts[images] - first, counts)
    return People(
        source_row=torch.from_numpy(np.repeat(np.arange(len(images)), counts)),
        boxes=torch.from_numpy(annotations.boxes[rows]),
        keypoints=torch.from_numpy(annotations.keypoints[rows]),
        areas=torch.from_numpy(annotations.areas[rows]),
        ignore=torch.from_numpy(annotations.ignore[rows]),
        track_ids=None if annotations.track_ids is None else torch.from_numpy(annotations.track_ids[rows]),
        joints_3d=None if annotations.joints_3d is None else torch.from_numpy(annotations.joints_3d[rows]),
    )


def carried(people: People, plan: Plan, flip: tuple[int, ...], keep_cut: bool) -> Instances:
    """The people as the frames show them.

    Args:
        people: of the plan's sources.
        plan: of the batch.
        flip: (K,) the skeleton's left/right exchange.
        keep_cut: keypoints beyond the visible part of their picture are moved onto its border and stay visible.

    Returns:
        Boxes are cut to the visible part of their picture, not to the frame; people whose box does not meet the frame
        are left out.
    """
    row, frame_index = people.source_row, plan.frame_index[people.source_row]
    to_frame, limits = plan.to_frame[row], plan.visible[row]
    keypoints, labelled = placed_keypoints(people.keypoints, plan.place[row], limits, keep_cut)
    keypoints = framed_keypoints(keypoints, to_frame, plan.frame)
    boxes = cut(warps.apply_to_boxes(plan.place[row], people.boxes), limits)
    boxes = warps.apply_to_boxes(to_frame, boxes)
    mirrored = plan.flipped[frame_index]
    instances = Instances(
        image_index=frame_index,
        boxes=boxes.float(),
        keypoints=torch.where(mirrored[:, None, None], keypoints[:, list(flip)], keypoints).float(),
        labelled=torch.where(mirrored[:, None], labelled[:, list(flip)], labelled),
        areas=(people.areas * warps.area_scale(plan.source_to_frame)[row]).float(),
        zoom=plan.zoom[frame_index].float(),
        ignore=people.ignore,
        track_ids=people.track_ids,
        joints_3d=None if people.joints_3d is None else mirrored_joints(people.joints_3d, mirrored, flip),
    )
    return instances[meets_frame(boxes, plan.frame)]


def mirrored_joints(joints: Tensor, mirrored: Tensor, flip: tuple[int, ...]) -> Tensor:
    """Joints (N, K, 3) in camera coordinates, of which the people of a mask (N,) are exchanged left for right."""
    return torch.where(mirrored[:, None, None], joints[:, list(flip)] * joints.new_tensor((-1, 1, 1)), joints)


def placed_keypoints(keypoints: Tensor, place: Tensor, limits: Tensor, keep_cut: bool) -> tuple[Tensor, Tensor]:
    """Carry keypoints (N, K, 3) to the canvas by maps (N, 2, 3); what the limits (N, 4) cut off loses its visibility.

    Args:
        keypoints: x, y, visibility.
        place: maps.
        limits: xyxy on the canvas.
        keep_cut: move them onto the border instead (published KAPAO).

    Returns:
        keypoints (N, K, 3) and which of them are labelled (N, K).
    """
    labelled = keypoints[..., 2] > 0
    points = warps.apply_to_points(place, keypoints[..., :2])
    inside = points.clamp(limits[:, None, :2], limits[:, None, 2:])
    if keep_cut:
        points, visible = inside, labelled
    else:
        visible = labelled & (points == inside).all(-1)
    return torch.cat([points, (keypoints[..., 2] * visible)[..., None]], -1), labelled


def framed_keypoints(keypoints: Tensor, to_frame: Tensor, frame: tuple[int, int]) -> Tensor:
    """Carry keypoints (N, K, 3) by maps (N, 2, 3) to a frame (height, width); outside it they lose their visibility."""
    points = warps.apply_to_points(to_frame, keypoints[..., :2])
    inside = (points >= 0) & (points <= torch.tensor(frame[::-1]))
    return torch.cat([points, keypoints[..., 2:] * inside.all(-1, keepdim=True)], -1)


def cut(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes (N, 4) cut to limits (N, 4), both xyxy; a box outside becomes a line or point on the border."""
    return boxes.clamp(limits[:, [0, 1, 0, 1]], limits[:, [2, 3, 2, 3]])


def meets_frame(boxes: Tensor, frame: tuple[int, int]) -> Tensor:
    """(N,) whether boxes (N, 4) cover any of a frame (height, width)."""
    limits = torch.tensor([0, 0, frame[1], frame[0]], dtype=boxes.dtype)
    inside = cut(boxes, limits[None])
    return (inside[:, 2:] > inside[:, :2]).all(-1)
