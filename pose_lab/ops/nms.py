"""Greedy non-maximum suppression over the classes and pictures of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from pose_lab.ops.compiled import Array, compiled, in_loops
from pose_lab.ops.order import by_falling_score, rows_where

_TOGETHER = 1 << 15  # boxes in one call on a GPU, whose memory grows with their square


def ranks(groups: Tensor) -> Tensor:
    """(N,) position of each row within its group, for rows sorted by group."""
    rows = torch.arange(len(groups), device=groups.device)
    return rows - torch.searchsorted(groups, groups)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    categories: Tensor,
    groups: Tensor,
    chosen: Tensor,
    max_iou: float,
    max_candidates: int,
    max_kept: int,
    class_offset: float,
) -> Tensor:
    """Keeps the best boxes of every group; a box is dropped if a better kept one of its class overlaps it too much.

    Groups have nothing to do with each other: the pictures of a batch, say. Equal scores keep the order of the rows.

    Args:
        boxes: (N, 4) float32 xyxy, without NaN.
        scores: (N,) float32.
        categories: (N,) int64.
        groups: (N,) int64, ascending.
        chosen: (N,) bool, which of them take part; the others might not be there.
        max_iou: a larger intersection over union is suppressed.
        max_candidates: the rows of a group that take part, by score.
        max_kept: the rows of a group that are returned, over all classes.
        class_offset: boxes are moved this far per class (farther where a box reaches farther), so that no two classes
            touch; in float32 that rounds them, as in the published code.

    Returns:
        (P,) rows, by group and falling score.
    """
    rows = rows_where(chosen)
    if not len(rows):
        return rows
    limits = max_iou, max_candidates, max_kept, class_offset
    if not in_loops(boxes):
        return _together(boxes, scores, categories, groups, rows, *limits)
    order = rows[torch.argsort(scores[rows], descending=True, stable=True)]
    return _in_turn(boxes, categories, groups, order, *limits)


@compiled("int64[:](float32[:, :], int64[:], int64[:], int64[:], float64, int64, int64, float32)")
def _in_turn(
    boxes: Array,
    categories: Array,
    groups: Array,
    order: Array,
    max_iou: float,
    max_candidates: int,
    max_kept: int,
    class_offset: float,
) -> Array:
    """The rows that stay, by group and in the given order; a box meets the kept ones of its own class and group."""
    num_groups, num_classes, low, high = 0, 0, boxes[order[0], 0], boxes[order[0], 0]
    for row in order:
        num_groups, num_classes = max(num_groups, groups[row] + 1), max(num_classes, categories[row] + 1)
        for side in range(4):
            low, high = min(low, boxes[row, side]), max(high, boxes[row, side])
    offset, zero = max(high - low, class_offset), np.float32(0)
    seen, left = np.zeros(num_groups, np.int64), np.zeros(num_groups, np.int64)
    latest = np.full(num_groups * num_classes, -1)  # of each class the last position in `kept`; `before` has the others
    kept, before, moved = np.empty_like(order), np.empty_like(order), np.empty((len(order), 4), np.float32)
    count = 0
    for row in order:
        group = groups[row]
        seen[group] += 1
        if seen[group] > max_candidates or left[group] == max_kept:
            continue
        shift = np.float32(categories[row]) * offset
        x1, y1, x2, y2 = boxes[row, 0] + shift, boxes[row, 1] + shift, boxes[row, 2] + shift, boxes[row, 3] + shift
        chain = group * num_classes + categories[row]
        other = latest[chain]
        while other >= 0:
            box = moved[other]
            width, height = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
            inside = max(width, zero) * max(height, zero)
            both = (x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1])
            if inside / (both - inside) > max_iou:
                break
            other = before[other]
        if other < 0:
            kept[count], before[count] = row, latest[chain]
            moved[count, 0], moved[count, 1], moved[count, 2], moved[count, 3] = x1, y1, x2, y2
            latest[chain] = count
            left[group] += 1
            count += 1
    rows, start = np.empty(count, np.int64), np.cumsum(left) - left
    for row in kept[:count]:
        rows[start[groups[row]]] = row
        start[groups[row]] += 1
    return rows


def _together(
    boxes: Tensor,
    scores: Tensor,
    categories: Tensor,
    groups: Tensor,
    rows: Tensor,
    max_iou: float,
    max_candidates: int,
    max_kept: int,
    class_offset: float,
) -> Tensor:
    """As `_in_turn` with few calls, so that a GPU does not wait for the host in every group.

    Classes are moved apart. So are groups, in double precision, where that rounds nothing; an overlap of just `max_iou`
    may therefore be judged otherwise than in float32.
    """
    boxes, scores, categories, groups = (values.index_select(0, rows) for values in (boxes, scores, categories, groups))
    low, high = boxes.aminmax()
    boxes = boxes + (categories * (high - low).clamp(min=class_offset))[:, None]
    order = by_falling_score(groups, scores)
    counts = torch.bincount(groups).tolist()
    low, high = boxes.aminmax()
    apart = boxes.double() + (groups * (high - low + 1).double())[:, None]
    if max(counts) > max_candidates:
        order = order[ranks(groups[order]) < max_candidates]
    falling = torch.arange(len(order), 0, -1, dtype=apart.dtype, device=apart.device)
    parts = order.split(_parts([min(count, max_candidates) for count in counts]))
    found = torch.cat([part[nms(apart[part], falling[: len(part)], max_iou)] for part in parts])
    return rows[found[ranks(groups[found]) < max_kept]]


def _parts(counts: list[int]) -> list[int]:
    """The boxes of neighbouring groups together, up to `_TOGETHER` where a group alone has not more."""
    parts: list[int] = []
    for count in counts:
        if parts and parts[-1] + count <= _TOGETHER:
            parts[-1] += count
        else:
            parts.append(count)
    return parts


def greedy(overlaps: Tensor) -> Tensor:
    """(G, M) bool: the candidates that no kept earlier one overlaps.

    Each round settles at least one more candidate of every chain of overlaps, so the fixed point is the greedy result.

    Args:
        overlaps: (G, M, M) bool, where candidate i is earlier than candidate j and overlaps it.
    """
    kept = overlaps.new_ones(overlaps.shape[:2])
    while True:
        again = ~(overlaps & kept[:, :, None]).any(1)
        if torch.equal(again, kept):
            return kept
        kept = again


def highest_around(maps: Tensor, window: int) -> Tensor:
    """The greatest number within a square around each place of maps (..., h, w) without NaN.

    A few passes over the maps beat a max-pool on CPUs.
    """
    for dim in (-2, -1):
        highest, size = maps.clone(), maps.shape[dim]
        for step in range(1, min(window // 2, size - 1) + 1):
            for start, other in ((0, step), (step, 0)):
                part = highest.narrow(dim, start, size - step)
                torch.maximum(part, maps.narrow(dim, other, size - step), out=part)
        maps = highest
    return maps
