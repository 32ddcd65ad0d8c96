"""Boxes as tensors: conversions, clipping and overlap. Pure functions; boxes lie in the last dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width, height -> x1, y1, x2, y2."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


def to_centres(boxes: Tensor) -> Tensor:
    """(..., 4) x1, y1, x2, y2 -> centre, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def clip(points: Tensor, sizes: Tensor) -> Tensor:
    """Points or corners (..., 2 n) of x, y pairs moved into 0..width, 0..height.

    Args:
        points: (..., 2 n) x, y, x, y, ...
        sizes: (..., 2) height and width, broadcast against the points.
    """
    pairs = points.unflatten(-1, (-1, 2)).clamp(min=0)
    return torch.minimum(pairs, sizes.flip(-1).to(points)[..., None, :]).flatten(-2)


def complete_iou(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU (Zheng et al., AAAI 2020) of paired boxes, as YOLOv5 computes it.

    Args:
        boxes: (..., 4) centre, width, height; the predictions.
        others: (..., 4) centre, width, height; the targets.
        eps: added to heights, union and diagonal against division by zero.

    Returns:
        (...) IoU minus the distance and aspect terms, at most 1; the aspect term's weight has no gradient.
    """
    (low, high), (other_low, other_high) = to_corners(boxes).split(2, -1), to_corners(others).split(2, -1)
    w, h = boxes[..., 2], boxes[..., 3] + eps
    other_w, other_h = others[..., 2], others[..., 3] + eps
    overlap = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(-1)
    iou = overlap / (w * h + other_w * other_h - overlap + eps)
    diagonal = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).square().sum(-1) + eps
    distance = (boxes[..., :2] - others[..., :2]).square().sum(-1)
    aspect = 4 / math.pi**2 * (torch.atan(other_w / other_h) - torch.atan(w / h)).square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + eps))
    return iou - (distance / diagonal + weight * aspect)
