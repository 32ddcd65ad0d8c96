"""KAPAO's post-processing as a paper's reader would write it: what ours is held against, in time and result.

Own code from the published rules: two passes of suppression over all rows, then one keypoint object after the other.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from pose_lab.methods.kapao_inference import Inference
from pose_lab.nets.csp import BOX_COLUMNS, FIRST_CLASS, OBJECTNESS
from pose_lab.ops.boxes import to_corners

Found = tuple[Tensor, Tensor, Tensor, Tensor]  # boxes, scores, categories, rows


def people_of(
    rows: Tensor, frame: tuple[int, int], num_keypoints: int, settings: Inference
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Poses (P, K, 3) x, y, score, and their scores (P,), of one picture that is the network's input itself.

    Args:
        rows: (R, 3 K + 6) all decoded rows.
        frame: height and width, to which keypoint objects and the first two keypoints of poses are clipped.
        num_keypoints: K.
        settings: thresholds; the published ones for the two passes.
    """
    limits = torch.tensor([frame[1], frame[0]] * 2)
    pose_classes, keypoint_classes = torch.tensor([0]), torch.arange(1, num_keypoints + 1)
    _, pose_scores, _, found = _pass(rows, settings.pose_confidence, settings.pose_iou, pose_classes, settings)
    boxes, scores, categories, _ = _pass(
        rows, settings.keypoint_confidence, settings.keypoint_iou, keypoint_classes, settings
    )
    points = found[:, FIRST_CLASS + 1 + num_keypoints :].clone()
    points[:, :4] = points[:, :4].clamp(min=0).minimum(limits)
    poses = np.zeros((len(points), num_keypoints, 3), np.float32)
    poses[..., :2] = points.view(-1, num_keypoints, 2).numpy()
    able = (pose_scores > settings.fusion_confidence).numpy()
    poses[able] = _fused(poses[able], boxes.clamp(min=0).minimum(limits), scores, categories, settings.fusion_distance)
    return poses, pose_scores.numpy()


def _pass(rows: Tensor, confidence: float, max_iou: float, wanted: Tensor, settings: Inference) -> Found:
    rows = rows[rows[:, OBJECTNESS] > confidence]
    last = FIRST_CLASS + (rows.shape[1] - 3) // 3
    scores, categories = (rows[:, FIRST_CLASS:last] * rows[:, OBJECTNESS, None]).max(1)
    chosen = (scores > confidence) & (categories[:, None] == wanted).any(1)
    rows, scores, categories = rows[chosen], scores[chosen], categories[chosen]
    order = scores.argsort(descending=True, stable=True)[: settings.max_candidates]
    rows, scores, categories = rows[order], scores[order], categories[order]
    boxes = to_corners(rows[:, :BOX_COLUMNS])
    kept = nms(boxes + categories[:, None] * settings.class_offset, scores, max_iou)[: settings.max_detections]
    return boxes[kept], scores[kept], categories[kept], rows[kept]


def _fused(
    poses: NDArray[np.float32], boxes: Tensor, scores: Tensor, categories: Tensor, max_distance: float
) -> NDArray[np.float32]:
    if not len(poses):
        return poses
    for box, score, keypoint in zip(boxes.numpy(), scores.numpy(), categories.numpy() - 1, strict=True):
        centre = (box[:2] + box[2:]) / 2
        distances = np.linalg.norm(poses[:, keypoint, :2] - centre, axis=-1)
        nearest = distances.argmin()
        if score > poses[nearest, keypoint, 2] and distances[nearest] < max_distance:
            poses[nearest, keypoint] = (*centre, score)
    return poses
