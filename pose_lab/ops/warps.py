"""Affine maps of the plane as (..., 2, 3) tensors: build, compose, invert, apply to points and boxes.

A map M sends a point p to M[:, :2] p + M[:, 2]. Leading dimensions broadcast, so one map per person or per picture
needs no loop. Coordinates are continuous: (0, 0) is the outer corner of the first pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pose_lab.ops.precision import full_precision


def scaling(scale: Tensor, offset: Tensor) -> Tensor:
    """The maps p -> scale * p + offset.

    Args:
        scale: (..., 2) factors of x and y; negative ones mirror.
        offset: (..., 2) added afterwards.

    Returns:
        (..., 2, 3)
    """
    return torch.cat([torch.diag_embed(scale), offset.unsqueeze(-1)], dim=-1)


def rotation(angle: Tensor) -> Tensor:
    """(..., 2, 2) rotations by an angle (...) in radians, from x towards y."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


@full_precision
def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map that applies `inner` first and then `outer`; both (..., 2, 3)."""
    linear = outer[..., :2] @ inner[..., :2]
    offset = apply_to_points(outer, inner[..., None, :, 2]).squeeze(-2)
    return torch.cat([linear, offset.unsqueeze(-1)], dim=-1)


@full_precision
def invert(affine: Tensor) -> Tensor:
    """The inverse maps, (..., 2, 3).

    Raises:
        torch.linalg.LinAlgError: if a map is not invertible.
    """
    linear = torch.linalg.inv(affine[..., :2])
    return torch.cat([linear, -linear @ affine[..., 2:]], dim=-1)


@full_precision
def apply_to_points(affine: Tensor, points: Tensor) -> Tensor:
    """Map points.

    Args:
        affine: (..., 2, 3).
        points: (..., P, 2).

    Returns:
        (..., P, 2)
    """
    return points @ affine[..., :2].transpose(-1, -2) + affine[..., None, :, 2]


def apply_to_boxes(affine: Tensor, boxes: Tensor) -> Tensor:
    """The smallest upright boxes around the mapped boxes.

    Args:
        affine: (..., 2, 3), one map per box (or one for all).
        boxes: (..., 4) xyxy.

    Returns:
        (..., 4) xyxy
    """
    corners = boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
    mapped = apply_to_points(affine, corners)
    return torch.cat([mapped.amin(-2), mapped.amax(-2)], dim=-1)


def area_scale(affine: Tensor) -> Tensor:
    """(...) by which factor the maps change areas."""
    return torch.linalg.det(affine[..., :2]).abs()
