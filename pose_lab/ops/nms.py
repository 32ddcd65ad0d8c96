"""Greedy non-maximum suppression over the classes and pictures of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def ranks(groups: Tensor) -> Tensor:
    """(N,) position of each row within its group, for rows sorted by group."""
    rows = torch.arange(len(groups), device=groups.device)
    return rows - torch.searchsorted(groups, groups)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    categories: Tensor,
    image_index: Tensor,
    max_iou: float,
    max_candidates: int,
    max_kept: int,
    class_offset: float,
) -> Tensor:
    """Keeps the best boxes of every picture; a box is dropped if a better kept one of its class overlaps it too much.

    Classes are kept apart by moving their boxes `class_offset` pixels apart, in the boxes' precision. Equal scores keep
    the order of the rows.

    Args:
        boxes: (N, 4) float32 xyxy.
        scores: (N,).
        categories: (N,) int64.
        image_index: (N,) int64.
        max_iou: a larger intersection over union is suppressed.
        max_candidates: the rows of a picture that take part, by score.
        max_kept: the rows of a picture that are returned, over all classes.
        class_offset: at least the largest coordinate.

    Returns:
        (P,) rows, by picture and falling score.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(image_index[order], stable=True)]
    order = order[ranks(image_index[order]) < max_candidates]
    _, counts = torch.unique_consecutive(image_index[order], return_counts=True)
    moved = boxes + (categories * class_offset).to(boxes)[:, None]
    parts = [rows[nms(moved[rows], scores[rows], max_iou)[:max_kept]] for rows in order.split(counts.tolist())]
    return torch.cat(parts) if parts else order
