"""HigherHRNet's refinement: the pixel of a map where heatmap and a person's tags fit best, without looking everywhere.

Maps are divided into blocks, and these into smaller ones. The heatmap's greatest pixel and the range of the tags bound,
from above and below, what the best pixel of a block is worth; only small blocks that may hold the best one of the map
are enlarged and looked at.

Source: the published code of HigherHRNet (arXiv 1908.10357), which scans every enlarged map for every person. Shape
letters: G maps (one for each kind of keypoint and image), T tags, N searches, h x w cells of the heatmaps, h' x w' of
the tags, L blocks of S small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from pose_lab.ops.enlarging import between, first_pixel, highest_in_squares, patches
from pose_lab.ops.nms import ranks
from pose_lab.ops.order import by_falling_score

SMALL = 8  # pixels: the side of a small block, about
FAN = 4  # small blocks along a side of a block
ROUNDING = 1e-6  # what equal sums may differ by
TOGETHER = 1 << 20  # numbers that are held at once, about


class Blocks:
    """Heatmaps and tags in blocks.

    A small block holds the pixels between the centres of `cells` cells of the tags and the next ones.

    Args:
        heat: (G, h, w).
        tags: (G, T, h', w'), h and w whole multiples of h' and w'. Tags are enlarged to the heatmaps' size first, then
            both to the input's.
        factor: by which the input is larger than the heatmaps.
    """

    def __init__(self, heat: Tensor, tags: Tensor, factor: int) -> None:
        self.heat, self.tags, self.factor = heat, tags, factor
        self.tag_factor = heat.shape[2] // tags.shape[3]
        self.cells = max(1, SMALL // (self.tag_factor * factor))
        side = self.cells * self.tag_factor  # squares of the heatmaps
        before = (self.tag_factor - 1) // 2  # so many begin in front of the first square
        rows, columns = (-(-(before + cells + 1) // (side * FAN)) * FAN for cells in heat.shape[1:])
        self.columns = columns // FAN
        highest = F.pad(
            highest_in_squares(heat, factor),
            (before, columns * side - before - heat.shape[2] - 1, before, rows * side - before - heat.shape[1] - 1),
            value=-torch.inf,
        )
        border = (1, columns * self.cells + 1 - tags.shape[3], 1, rows * self.cells + 1 - tags.shape[2])
        tags = F.pad(tags, border, mode="replicate")
        # (G, L, S) and (G, T, L, S)
        self.highest = _fans(_pooled(highest, side, side, torch.maximum))
        self.low = _fans(_pooled(tags, self.cells + 2, self.cells, torch.minimum))
        self.high = _fans(_pooled(tags, self.cells + 2, self.cells, torch.maximum))
        self.large = self.highest.amax(2), self.low.amin(3), self.high.amax(3)

    def within(self, maps: Tensor, means: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        """(M, S) bounds, see `_bounds`, of the small blocks of block `large` (M,) each."""
        low, high = (one.transpose(1, 2)[maps, large] for one in (self.low, self.high))
        return _bounds(self.highest[maps, large], low, high, means)

    def pixels(self, maps: Tensor, means: Tensor, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """(s, s, M) the values of all pixels of small blocks (M,), s a side, and their places row by row."""
        firsts, places = [], []
        for block, within, cells in zip(
            (large // self.columns, large % self.columns), (small // FAN, small % FAN), self.heat.shape[1:], strict=True
        ):
            tag = (block * FAN + within) * self.cells
            cell = first_pixel(tag, self.tag_factor)
            steps = torch.arange(self.cells * self.tag_factor * self.factor, device=maps.device)
            pixel = first_pixel(cell + 1, self.factor) + steps[:, None]
            firsts.append((tag - 1, cell))
            places.append(pixel.clamp(0, cells * self.factor - 1))
        (tag_rows, rows), (tag_columns, columns) = firsts
        side = self.cells * self.tag_factor + 1
        heat = between(patches(self.heat, maps, rows, columns, side), self.factor)
        count = self.tags.shape[1]
        which = maps * count + torch.arange(count, device=maps.device)[:, None]  # (T, M)
        tags = between(
            patches(self.tags.flatten(0, 1), which, tag_rows, tag_columns, self.cells + 2), self.tag_factor
        )
        tags = between(tags[:side, :side], self.factor)
        values = heat - _rounded(tags - means.T, 2)
        return values, places[0][:, None] * (self.heat.shape[2] * self.factor) + places[1]


def _pooled(maps: Tensor, window: int, step: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(..., rows, columns) the extremes of windows, cell after cell: faster than reducing small windows."""
    for dim in (-2, -1):
        maps = reduce(extreme, maps.unfold(dim, window, step).unbind(-1))
    return maps


def _fans(blocks: Tensor) -> Tensor:
    """(..., rows, columns) small blocks -> (..., L, S)."""
    fans = blocks.unflatten(-2, (-1, FAN)).unflatten(-1, (-1, FAN)).transpose(-3, -2)
    return fans.flatten(-2).flatten(-3, -2).contiguous()


def _bounds(highest: Tensor, low: Tensor, high: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """What heatmap minus rounded distance of tags from means is worth at the best pixel of blocks: at most, at least.

    Args:
        highest: (N, L) the greatest pixel of the heatmap.
        low, high: (N, T, L) the range of the tags.
        means: (N, T).
    """
    below, above = low - means[..., None], high - means[..., None]
    near, far = torch.maximum(below, -above).clamp_(min=0), torch.maximum(above, -below)
    return highest - _rounded(near, 1), highest - _rounded(far, 1)


def _rounded(difference: Tensor, dim: int) -> Tensor:
    """The rounded length of differences of tags."""
    return difference.square().sum(dim).sqrt_().round_()


def best_pixels(blocks: Blocks, maps: Tensor, means: Tensor) -> Tensor:
    """Where heatmap minus rounded tag distance is greatest in a map; of equal pixels the first, row by row.

    Args:
        blocks: the maps.
        maps: (N,) int64, which of them.
        means: (N, T) the tags that distances are to.

    Returns:
        (N, 2) int64 x, y in the input.
    """
    size = max(1, TOGETHER // blocks.large[1][0].numel())
    return torch.cat([_best_pixels(blocks, *part) for part in zip(maps.split(size), means.split(size), strict=True)])


def _best_pixels(blocks: Blocks, maps: Tensor, means: Tensor) -> Tensor:
    most, least = _bounds(*(one[maps] for one in blocks.large), means)
    limit = least.amax(1) - ROUNDING
    rows, large = (most >= limit[:, None]).nonzero(as_tuple=True)
    most, least = blocks.within(maps[rows], means[rows], large)
    limit = limit.scatter_reduce(0, rows, least.amax(1) - ROUNDING, "amax")
    pair, small = (most >= limit[rows, None]).nonzero(as_tuple=True)
    rows, large, most = rows[pair], large[pair], most[pair, small]
    order = by_falling_score(rows, most)
    rows, large, small, most = (one[order] for one in (rows, large, small, most))
    rank = ranks(rows)
    beyond = blocks.heat[0].numel() * blocks.factor**2
    best, first = torch.full_like(limit, -torch.inf), rows.new_full(maps.shape, beyond)
    start, end = 0, 1
    while True:
        now = ((rank >= start) & (rank < end) & (most >= torch.maximum(limit, best - ROUNDING)[rows])).nonzero()[:, 0]
        if not len(now):
            break
        row = rows[now]
        values, places = blocks.pixels(maps[row], means[row], large[now], small[now])
        higher = best.scatter_reduce(0, row, values.flatten(0, 1).amax(0), "amax")
        first = first.where(higher == best, beyond)
        first = first.scatter_reduce(0, row, places.where(values == higher[row], beyond).flatten(0, 1).amin(0), "amin")
        best = higher
        start, end = end, 2 * end + 1
    width = blocks.heat.shape[2] * blocks.factor
    return torch.stack([first % width, first // width], 1)
