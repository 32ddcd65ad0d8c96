"""Greedy non-maximum suppression over the classes and pictures of a batch, all at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

# Above these numbers classes are suppressed one by one: boxes of a class on a CPU, for speed; pairs, for memory.
_MANY_BOXES = 256
_MANY_PAIRS = 1 << 25


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

    Equal scores keep the order of the rows.

    Args:
        boxes: (N, 4) float32 xyxy.
        scores: (N,).
        categories: (N,) int64.
        image_index: (N,) int64, ascending.
        max_iou: a larger intersection over union is suppressed.
        max_candidates: the rows of a picture that take part, by score.
        max_kept: the rows of a picture that are returned, over all classes.
        class_offset: boxes are moved this far per class before they are compared, as common code does to keep classes
            apart; here it only reproduces the rounding.

    Returns:
        (P,) rows, by picture and falling score.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    if not len(order):
        return order
    order = order[torch.argsort(image_index[order], stable=True)] if _several(image_index) else order
    rank = _ranks_by_image(image_index[order])
    groups = (image_index << 32) + categories
    moved = boxes + (categories * class_offset).to(boxes)[:, None]
    # whom the best rows leave alone does not depend on the others: in a crowd they alone give enough
    for limit in (min(2 * max_kept, max_candidates), max_candidates):
        rows = order[rank < limit]
        kept = rows[_kept(moved[rows], groups[rows], max_iou)]
        number = _ranks_by_image(image_index[kept])
        if limit == max_candidates or _enough(image_index[kept], image_index[order[rank == limit]], max_kept):
            break
    return kept[number < max_kept]


def _several(image_index: Tensor) -> bool:
    """Whether rows, ascending by image, belong to more than one."""
    return bool(image_index[0] != image_index[-1])


def _ranks_by_image(image_index: Tensor) -> Tensor:
    if _several(image_index):
        return ranks(image_index)
    return torch.arange(len(image_index), device=image_index.device)


def _enough(kept: Tensor, images: Tensor, count: int) -> bool:
    """Whether each of the images occurs at least `count` times among the kept rows' images."""
    if not len(images):
        return True
    return bool((torch.bincount(kept, minlength=int(images[-1]) + 1)[images] >= count).all())


def _kept(boxes: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """(N,) bool: which boxes (N, 4), best first within each group, survive."""
    order = torch.argsort(groups, stable=True)
    _, group, counts = torch.unique_consecutive(groups[order], return_inverse=True, return_counts=True)
    rank = ranks(group)
    size = int(counts.max())
    kept = torch.zeros_like(groups, dtype=torch.bool)
    if (size > _MANY_BOXES and not boxes.is_cuda) or len(counts) * size**2 > _MANY_PAIRS:
        for rows in order.split(counts.tolist()):
            falling = torch.arange(len(rows), 0, -1, device=boxes.device, dtype=boxes.dtype)
            kept[rows[nms(boxes[rows], falling, max_iou)]] = True
        return kept
    table = boxes.new_zeros(len(counts), size, 4)
    table[group, rank] = boxes[order]
    kept[order] = greedy(_overlaps(table, max_iou))[group, rank]
    return kept


def _overlaps(boxes: Tensor, max_iou: float) -> Tensor:
    """(G, M, M) whether box i is earlier than box j and overlaps it too much, as numbers 0 and 1."""
    corners = boxes.movedim(-1, 0).contiguous()
    low, high = corners[:2], corners[2:]
    sides = torch.minimum(high[..., :, None], high[..., None, :])
    sides.sub_(torch.maximum(low[..., :, None], low[..., None, :])).clamp_(min=0)
    overlap = sides[0].mul_(sides[1])
    area = (high - low).prod(0)
    union = torch.add(area[:, :, None], area[:, None], out=sides[1]).sub_(overlap)
    earlier = boxes.new_ones(boxes.shape[1], boxes.shape[1]).triu(1)
    return (overlap.div_(union) > _rounded_down(max_iou)) * earlier


def _rounded_down(limit: float) -> float:
    """The largest float32 that is no more than `limit`: comparing with it equals comparing in double precision."""
    nearest = np.float32(limit)
    return float(nearest if float(nearest) <= limit else np.nextafter(nearest, np.float32(0)))


def greedy(overlaps: Tensor) -> Tensor:
    """(G, M) bool: the candidates that no kept earlier one overlaps.

    Args:
        overlaps: (G, M, M) float, 1 where candidate i is earlier than candidate j and overlaps it, else 0.

    Each round settles at least one more box of every chain of overlaps, so the fixed point is the greedy result.
    """
    kept = overlaps.new_ones(overlaps.shape[:2])
    while True:
        again = (torch.bmm(kept[:, None], overlaps)[:, 0] == 0).to(kept)
        if torch.equal(again, kept):
            return kept > 0
        kept = again
