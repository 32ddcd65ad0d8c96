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

from pose_lab.ops.enlarging import Enlargement, between, first_pixel, patches
from pose_lab.ops.nms import ranks
from pose_lab.ops.order import by_falling_score

SMALL = 8  # pixels: the side of a small block, about
FAN = 4  # small blocks along a side of a block
ROUNDING = 1e-6  # what equal sums may differ by
GROWTH = 4
GUESS = 8
TOGETHER = 1 << 20  # numbers that are held at once, about


class Blocks:
    """Heatmaps and tags in blocks.

    A small block are the squares of the tags between a few cells, and what is made of them by enlarging.

    Args:
        heat: (G, h, w).
        tags: (G, T, h', w'), h and w whole multiples of h' and w'. They are enlarged to the heatmaps' size first, then
            both to the input's.
    """

    def __init__(self, heat: Enlargement, tags: Tensor) -> None:
        self.heat, self.tags = heat, tags.contiguous()
        self.factor = heat.maps.shape[2] // tags.shape[3]
        self.cells = max(1, SMALL // (self.factor * heat.factor))
        self.side = self.cells * self.factor  # squares of the heatmaps
        before = (self.factor - 1) // 2  # so many begin in front of the first
        rows, columns = (-(-(before + squares) // (self.side * FAN)) for squares in heat.highest.shape[1:])
        self.columns = columns
        behind = (size * self.side * FAN - before - squares for size, squares in zip((rows,columns),heat.highest.shape[1:]))
        below, right = behind
        highest = F.pad(heat.highest, (before, right, before, below), value=-torch.inf)
        border = (1, columns * FAN * self.cells + 1 - tags.shape[3], 1, rows * FAN * self.cells + 1 - tags.shape[2])
        tags = F.pad(tags, border, mode="replicate")
        # (G, L, S) and (G, L, T, S)
        self.highest = _fans(_pooled(highest, self.side, self.side, torch.maximum))
        self.low, self.high = (
            _fans(_pooled(tags, self.cells + 2, self.cells, extreme)).transpose(1, 2).contiguous() for extreme in (torch.minimum, torch.maximum)
        )
        self.large = self.highest.amax(2), self.low.amin(3).mT, self.high.amax(3).mT

    def within(self, which: Tensor, means: Tensor, large: Tensor) -> Tensor:
        """(M, S) what the pixels of the small blocks of block `large` (M,) each are worth at most."""
        index = which * self.highest.shape[1] + large
        highest, low, high = (one.flatten(0, 1).index_select(0, index) for one in (self.highest, self.low, self.high))
        return _most(highest, low - means[..., None], high - means[..., None])

    def pixels(self, which: Tensor, means: Tensor, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """(s, s, M) what all pixels of small blocks (M,) are worth, s a side, and their places row by row."""
        fans = (large // self.columns, small // FAN), (large % self.columns, small % FAN)
        tag_squares = [(block * FAN + within) * self.cells for block, within in fans]
        squares = [first_pixel(first, self.factor) + 1 for first in tag_squares]
        heat = self.heat.in_squares(which, *squares, self.side)
        count = self.tags.shape[1]
        channels = which * count + torch.arange(count, device=which.device)[:, None]  # (T, M)
        cells = patches(self.tags.flatten(0, 1), channels, *(first - 1 for first in tag_squares), self.cells + 2)
        cells = between(cells, self.factor)[: self.side + 1, : self.side + 1]  # of the heatmaps
        values = heat - _rounded(between(cells, self.heat.factor) - means.T, 2)
        steps = torch.arange(len(heat), device=which.device)[:, None]
        y, x = (
            (first_pixel(first, self.heat.factor) + steps).clamp(0, size - 1)
            for first, size in zip(squares, (self.heat.height, self.heat.width), strict=True)
        )
        return values, y[:, None] * self.heat.width + x


def _pooled(maps: Tensor, window: int, step: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(..., rows, columns) the extremes of windows, cell after cell: faster than reducing small windows."""
    for dim in (-2, -1):
        maps = reduce(extreme, maps.unfold(dim, window, step).unbind(-1))
    return maps


def _fans(blocks: Tensor) -> Tensor:
    """(..., rows, columns) small blocks -> (..., L, S)."""
    fans = blocks.unflatten(-2, (-1, FAN)).unflatten(-1, (-1, FAN)).transpose(-3, -2)
    return fans.flatten(-2).flatten(-3, -2).contiguous()


def _most(highest: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """What heatmap minus rounded distance of tags is worth at the best pixel of blocks, at most.

    Args:
        highest: (N, M) the greatest pixel of the heatmap.
        below, above: (N, T, M) the least and greatest difference of tags.
    """
    return highest - _rounded(torch.maximum(below, -above).clamp_(min=0), 1)


def _least(highest: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Likewise, at least."""
    return highest - _rounded(torch.maximum(above, -below), 1)


def _rounded(difference: Tensor, dim: int) -> Tensor:
    """The rounded length of differences of tags."""
    return difference.square().sum(dim).sqrt_().round_()


def best_pixels(blocks: Blocks, which: Tensor, means: Tensor) -> Tensor:
    """Where heatmap minus rounded tag distance is greatest in a map; of equal pixels the first, row by row.

    Args:
        blocks: the maps.
        which: (N,) int64, of them.
        means: (N, T) the tags that distances are to.

    Returns:
        (N, 2) int64 x, y in the input.
    """
    size = max(1, TOGETHER // blocks.large[1][0].numel())
    parts = zip(which.split(size), means.split(size), strict=True)
    places = torch.cat([_best_pixels(blocks, *part) for part in parts])
    return torch.stack([places % blocks.heat.width, places // blocks.heat.width], 1)


def _best_pixels(blocks: Blocks, which: Tensor, means: Tensor) -> Tensor:
    """(N,) places row by row."""
    rows, large, enough = _large(blocks, which, means)
    most = blocks.within(which[rows], means[rows], large)
    pair, small = (most >= enough[rows, None]).nonzero(as_tuple=True)
    rows, large, most = rows[pair], large[pair], most[pair, small]
    order = by_falling_score(rows, most)
    rows, large, small, most = (one[order] for one in (rows, large, small, most))
    rank = ranks(rows)
    beyond = blocks.heat.height * blocks.heat.width
    best, first = torch.full_like(enough, -torch.inf), rows.new_full(which.shape, beyond)
    end = 1
    while len(rows):
        now = rank < end
        row = rows[now]
        values, places = blocks.pixels(which[row], means[row], large[now], small[now])
        higher = best.scatter_reduce(0, row, values.flatten(0, 1).amax(0), "amax")
        first = first.where(higher == best, beyond)
        first = first.scatter_reduce(0, row, places.where(values == higher[row], beyond).flatten(0, 1).amin(0), "amin")
        best = higher
        left = (~now & (most >= torch.maximum(enough, best - ROUNDING)[rows])).nonzero()[:, 0]
        rows, large, small, most, rank = (one[left] for one in (rows, large, small, most, rank))
        end = GROWTH * end + 1
    return first


def _large(blocks: Blocks, which: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    highest, low, high = (one[which] for one in blocks.large)
    low, high = low - means[..., None], high - means[..., None]
    enough = _least(highest, low, high).amax(1)
    most = _most(highest, low, high)
    if GUESS:
        top = most.topk(min(GUESS, most.shape[1]), 1).indices
        rows = torch.arange(len(top), device=top.device)[:, None].expand_as(top).flatten()
        small = blocks.within(which[rows], means[rows], top.flatten()).argmax(1)
        values, _ = blocks.pixels(which[rows], means[rows], top.flatten(), small)
        enough = torch.maximum(enough, values.flatten(0, 1).amax(0).view(top.shape).amax(1))
    enough = enough - ROUNDING
    rows, large = (most >= enough[:, None]).nonzero(as_tuple=True)
    return rows, large, enough
