"""HigherHRNet's refinement: the pixel of a map where heatmap and a person's tags fit best, without looking everywhere.

What a pixel is worth, its heatmap's value minus the rounded distance of its tags, is bounded within a block of pixels
by the greatest pixel of the heatmap and the range of the tags. Maps are divided into blocks, and these into smaller
ones; only small blocks that may hold the best pixel are enlarged and looked at, the most promising ones first.

Source: the published code of HigherHRNet (arXiv 1908.10357), which scans every enlarged map for every person. Shape
letters: G maps (one for each kind of keypoint and image), T tags, N searches, h x w cells of the heatmaps, h' x w' of
the tags, L blocks of S small ones, M any number of these, s pixels along the side of a small one.
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

SMALL = 8  # pixels: the side of a small block
FAN = 4  # small blocks along the side of a block
GUESSES = 8  # blocks of a search that are looked into before the others are judged
GROWTH = 4  # a search's next round looks at so many times as many small blocks
ROUNDING = 1e-6  # what equal sums may differ by
TOGETHER = 1 << 20  # numbers that are held at once, about


class Blocks:
    """Heatmaps and tags in blocks.

    A small block holds the pixels between the tags of a few neighbouring cells.

    Args:
        heat: of heatmaps (G, h, w).
        tags: (G, T, h', w'), h and w whole multiples of h' and w'. They are enlarged to the heatmaps' size first, then
            both to the input's.
    """

    def __init__(self, heat: Enlargement, tags: Tensor) -> None:
        self.heat, self.tags = heat, tags
        self.factor = heat.maps.shape[2] // tags.shape[3]
        self.cells = max(1, SMALL // (self.factor * heat.factor))
        self.side = self.cells * self.factor  # squares of the heatmaps
        before = (self.factor - 1) // 2  # squares of the first small block that lie in front of the first one
        height, width = heat.highest.shape[1:]
        rows, columns = (-(-(before + squares) // (self.side * FAN)) * FAN for squares in (height, width))
        self.columns = columns // FAN
        right, below = columns * self.side - before - width, rows * self.side - before - height
        squares = F.pad(heat.highest, (before, right, before, below), value=-torch.inf)
        # between cells: one in front of the first, one behind the last
        border = (1, columns * self.cells + 1 - tags.shape[3], 1, rows * self.cells + 1 - tags.shape[2])
        tags = F.pad(tags, border, mode="replicate")
        self.highest = _blocks(squares, self.side, self.side, torch.maximum)  # (G, L, S)
        self.low, self.high = (  # (G, L, T, S)
            _blocks(tags, self.cells + 2, self.cells, extreme).transpose(1, 2).contiguous()
            for extreme in (torch.minimum, torch.maximum)
        )
        # of whole blocks: (G, L) and (G, T, L)
        self.large = self.highest.amax(2), self.low.amin(3).mT.contiguous(), self.high.amax(3).mT.contiguous()

    def within(self, which: Tensor, means: Tensor, large: Tensor) -> Tensor:
        """(M, S) what the pixels of the small blocks of block `large` (M,) each are worth at most."""
        index = which * self.highest.shape[1] + large
        highest, low, high = (one.flatten(0, 1).index_select(0, index) for one in (self.highest, self.low, self.high))
        return _most(highest, low - means[..., None], high - means[..., None])

    def pixels(self, which: Tensor, means: Tensor, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """(s, s, M) what all pixels of small blocks (M,) are worth, and their places row by row."""
        fans = (large // self.columns, small // FAN), (large % self.columns, small % FAN)
        rows, columns = ((block * FAN + within) * self.cells for block, within in fans)  # squares of the tags
        tags = self._tags(which, rows, columns)
        rows, columns = (first_pixel(first, self.factor) + 1 for first in (rows, columns))  # of the heatmaps
        values = self.heat.in_squares(which, rows, columns, self.side) - _rounded(tags - means.T, 2)
        steps = torch.arange(len(values), device=which.device)[:, None]
        y, x = (first_pixel(first, self.heat.factor) + steps for first in (rows, columns))
        # beyond the border it stands again
        y, x = y.clamp(0, self.heat.height - 1), x.clamp(0, self.heat.width - 1)
        return values, y[:, None] * self.heat.width + x

    def _tags(self, which: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(s, s, T, M) the tags of the pixels of small blocks (M,)."""
        count = self.tags.shape[1]
        channels = which * count + torch.arange(count, device=which.device)[:, None]
        cells = patches(self.tags.flatten(0, 1), channels, rows - 1, columns - 1, self.cells + 2)
        enlarged = between(cells, self.factor)[: self.side + 1, : self.side + 1]
        return between(enlarged, self.heat.factor)


def _blocks(maps: Tensor, window: int, step: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(..., L, S) the extremes of windows, block by block; cell after cell, faster than reducing small windows."""
    for dim in (-2, -1):
        maps = reduce(extreme, maps.unfold(dim, window, step).unbind(-1))
    fans = maps.unflatten(-2, (-1, FAN)).unflatten(-1, (-1, FAN)).transpose(-3, -2)
    return fans.flatten(-2).flatten(-3, -2).contiguous()


def _most(highest: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """(N, M) what the best pixel of a block is worth at most.

    Args:
        highest: (N, M) of the heatmap.
        below: (N, T, M) the least difference of tags.
        above: (N, T, M) the greatest.
    """
    return highest - _rounded(torch.maximum(below, -above).clamp_(min=0), 1)


def _least(highest: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """(N, M) what it is worth at least."""
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
    rows, large, small, most, enough = _promising(blocks, which, means)
    rank = ranks(rows)
    beyond = blocks.heat.height * blocks.heat.width
    best, first = torch.full_like(enough, -torch.inf), rows.new_full(which.shape, beyond)
    end = 1
    together = max(1, TOGETHER // (blocks.side * blocks.heat.factor) ** 2)
    while len(rows):
        now = (rank < end).nonzero()[:together, 0]
        row = rows[now]
        values, places = blocks.pixels(which[row], means[row], large[now], small[now])
        higher = best.scatter_reduce(0, row, values.flatten(0, 1).amax(0), "amax")
        first = first.where(higher == best, beyond)
        first = first.scatter_reduce(0, row, places.where(values == higher[row], beyond).flatten(0, 1).amin(0), "amin")
        best = higher
        left = (most >= torch.maximum(enough, best - ROUNDING)[rows]).index_fill(0, now, value=False)
        rows, large, small, most, rank = (one[left] for one in (rows, large, small, most, rank))
        end *= GROWTH
    return first


def _promising(blocks: Blocks, which: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The small blocks that may hold the best pixel of a search, those that can be worth most first.

    Returns:
        (M,) int64 their searches, ascending; (M,) int64 their blocks; (M,) int64 which of its small ones they are; (M,)
        what they are worth at most; and (N,) what the best pixel is worth at least.
    """
    highest, low, high = (one[which] for one in blocks.large)
    below, above = low - means[..., None], high - means[..., None]
    most = _most(highest, below, above)
    least = torch.maximum(_least(highest, below, above).amax(1), _guess(blocks, which, means, most))
    enough = least - ROUNDING
    rows, large = (most >= enough[:, None]).nonzero(as_tuple=True)
    most = blocks.within(which[rows], means[rows], large)
    pair, small = (most >= enough[rows, None]).nonzero(as_tuple=True)
    rows, large, most = rows[pair], large[pair], most[pair, small]
    order = by_falling_score(rows, most)
    return rows[order], large[order], small[order], most[order], enough


def _guess(blocks: Blocks, which: Tensor, means: Tensor, most: Tensor) -> Tensor:
    """(N,) what the best pixel is worth in one small block each of a few blocks, those of the highest `most` (N, L)."""
    large = most.topk(min(GUESSES, most.shape[1]), 1).indices
    which = which[:, None].expand_as(large).flatten()
    means = means.repeat_interleave(large.shape[1], 0)
    small = blocks.within(which, means, large.flatten()).argmax(1)
    values, _ = blocks.pixels(which, means, large.flatten(), small)
    return values.flatten(0, 1).amax(0).view(large.shape).amax(1)
