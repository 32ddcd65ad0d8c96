"""Greedy non-maximum suppression over the classes and pictures of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from pose_lab.ops.order import by_falling_score

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
    max_iou: float,
    max_candidates: int,
    max_kept: int,
    class_offset: float,
) -> Tensor:
    """Keeps the best boxes of every group; a box is dropped if a better kept one of its class overlaps it too much.

    Groups have nothing to do with each other: the pictures of a batch, say. Equal scores keep the order of the rows.

    Args:
        boxes: (N, 4) float32 xyxy.
        scores: (N,).
        categories: (N,) int64.
        groups: (N,) int64, ascending.
        max_iou: a larger intersection over union is suppressed.
        max_candidates: the rows of a group that take part, by score.
        max_kept: the rows of a group that are returned, over all classes.
        class_offset: boxes are moved this far per class (farther where a box reaches farther), so that no two classes
            touch; in float32 that rounds them, as in the published code.

    Returns:
        (P,) rows, by group and falling score.
    """
    if not len(boxes):
        return torch.zeros_like(groups)
    low, high = boxes.aminmax()
    apart = boxes + (categories * (high - low).clamp(min=class_offset))[:, None]
    suppress_all = _together if boxes.is_cuda else _in_turn
    return suppress_all(apart, scores, groups, max_iou, max_candidates, max_kept)


def _in_turn(
    boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float, max_candidates: int, max_kept: int
) -> Tensor:
    """One group after the other."""
    kept, start = [], 0
    for count in torch.bincount(groups).tolist():
        order = torch.argsort(scores[start : start + count], descending=True, stable=True) + start
        # whom the best rows leave alone does not depend on the others: in a crowd they alone give enough
        for limit in (min(2 * max_kept, max_candidates), max_candidates):
            best = order[:limit]
            rows = nms(boxes.index_select(0, best), scores.index_select(0, best), max_iou)[:max_kept]
            if len(rows) == max_kept or count <= limit:
                break
        kept.append(best.index_select(0, rows))
        start += count
    return torch.cat(kept)


def _together(
    boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float, max_candidates: int, max_kept: int
) -> Tensor:
    """The same with few calls, so that a GPU does not wait for the host in every group.

    Groups are moved apart in double precision, where that rounds nothing.
    """
    order = by_falling_score(groups, scores)
    counts = torch.bincount(groups).tolist()
    low, high = boxes.aminmax()
    apart = boxes.double() + (groups * (high - low + 1).double())[:, None]
    if max(counts) > max_candidates:
        order = order[ranks(groups[order]) < max_candidates]
    falling = torch.arange(len(order), 0, -1, dtype=apart.dtype, device=apart.device)
    parts = order.split(_parts([min(count, max_candidates) for count in counts]))
    found = torch.cat([part[nms(apart[part], falling[: len(part)], max_iou)] for part in parts])
    return found[ranks(groups[found]) < max_kept]


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
