"""Greedy non-maximum suppression over the classes and pictures of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

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
    max_ious: Sequence[float],
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
        groups: (N,) int64 in 0..G-1.
        max_ious: (G,) per group; a larger intersection over union is suppressed.
        max_candidates: the rows of a group that take part, by score.
        max_kept: the rows of a group that are returned, over all classes.
        class_offset: boxes are moved this far per class (farther where a box reaches farther), so that no two classes
            touch; in float32 that rounds them, as in the published code.

    Returns:
        (P,) rows, by group and falling score.
    """
    if not len(boxes):
        return torch.zeros_like(groups)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    low, high = boxes.aminmax()
    apart = (boxes + (categories * (high - low).clamp(min=class_offset))[:, None])[order]
    counts = torch.bincount(groups, minlength=len(max_ious)).tolist()
    suppress_all = _together if boxes.is_cuda else _in_turn
    return order[suppress_all(apart, counts, max_ious, max_candidates, max_kept)]


def _in_turn(
    boxes: Tensor, counts: Sequence[int], max_ious: Sequence[float], max_candidates: int, max_kept: int
) -> Tensor:
    """Rows that are kept, one group after the other; the boxes (N, 4) come by group and falling score."""
    falling = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype)
    kept, start = [], 0
    for count, max_iou in zip(counts, max_ious, strict=True):
        # whom the best rows leave alone does not depend on the others: in a crowd they alone give enough
        for limit in (min(2 * max_kept, max_candidates), max_candidates):
            best = slice(start, start + min(count, limit))
            rows = nms(boxes[best], falling[best], max_iou)[:max_kept]
            if len(rows) == max_kept or count <= limit:
                break
        kept.append(rows + start)
        start += count
    return torch.cat(kept)


def _together(
    boxes: Tensor, counts: Sequence[int], max_ious: Sequence[float], max_candidates: int, max_kept: int
) -> Tensor:
    """The same with few calls, so that a GPU does not wait for the host in every group.

    Groups are moved apart in double precision, where that rounds nothing.
    """
    sizes = torch.tensor(counts, device=boxes.device)
    groups = torch.repeat_interleave(sizes, output_size=len(boxes))
    low, high = boxes.aminmax()
    apart = boxes.double() + (groups * (high - low + 1).double())[:, None]
    rows = torch.arange(len(boxes), device=boxes.device)
    rows = rows[ranks(groups) < max_candidates] if max(counts) > max_candidates else rows
    parts = _parts([min(count, max_candidates) for count in counts], max_ious)
    kept = []
    for part, max_iou in zip(rows.split([size for size, _ in parts]), [iou for _, iou in parts], strict=True):
        kept.append(part[nms(apart[part], -part.double(), max_iou)])
    found = torch.cat(kept)
    return found[ranks(groups[found]) < max_kept]


def _parts(counts: Sequence[int], max_ious: Sequence[float]) -> list[tuple[int, float]]:
    """Neighbouring groups of one threshold joined, up to `_TOGETHER` boxes: their number and threshold."""
    parts: list[tuple[int, float]] = []
    for count, max_iou in zip(counts, max_ious, strict=True):
        if parts and parts[-1][1] == max_iou and parts[-1][0] + count <= _TOGETHER:
            parts[-1] = (parts[-1][0] + count, max_iou)
        else:
            parts.append((count, max_iou))
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
