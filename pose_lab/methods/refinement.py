"""HigherHRNet's refinement: the pixel of a map where heatmap and a person's tags fit best, without looking everywhere.

Maps are divided into blocks, and these into smaller ones. The highest pixel of each block is tried for everybody; then
all pixels of small blocks, where bounds of a block and then of a small one say that another pixel can be better.

Source: the published code of HigherHRNet (arXiv 1908.10357), which scans every enlarged map for every person. Shape
letters: G maps (one for each kind of keypoint and image), T tags, N searches, H x W pixels of the input, h x w cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from pose_lab.ops.heatmaps import read

SMALL = 8  # pixels: the side of a small block
FAN = 4  # small blocks along a side of a block
TOGETHER = 1 << 21  # numbers that are held at once, about


class Blocks:
    """Heatmaps and tags in blocks.

    Args:
        heat: (G, H, W).
        tags: (G, T, h, w), H and W whole multiples of h and w.
    """

    def __init__(self, heat: Tensor, tags: Tensor) -> None:
        self.heat, self.tags = heat, tags
        self.factor = heat.shape[2] // tags.shape[3]
        cells = max(1, SMALL // self.factor)
        self.side = cells * self.factor
        highest, places = F.max_pool2d(heat[:, None], self.side, ceil_mode=True, return_indices=True)
        low, high = _ranges(tags, cells)
        self.small = highest.flatten(1), low.flatten(2), high.flatten(2)  # (G, small), (G, T, small), (G, T, small)
        self.shape = highest.shape[2:]
        highest, chosen = F.max_pool2d(highest, FAN, ceil_mode=True, return_indices=True)
        low, high = -F.max_pool2d(-low, FAN, ceil_mode=True), F.max_pool2d(high, FAN, ceil_mode=True)
        self.large = highest.flatten(1), low.flatten(2), high.flatten(2)  # likewise, of blocks
        self.columns = highest.shape[3]
        self.places = places.flatten(1).gather(1, chosen.flatten(1))  # (G, blocks)
        which = torch.arange(len(heat), device=heat.device)[:, None].expand_as(self.places)
        self.top_tags = self.tags_at(which, self.places).transpose(1, 2).contiguous()  # (G, T, blocks)

    def tags_at(self, maps: Tensor, places: Tensor) -> Tensor:
        """(N, M, T) at pixels (N, M) of the input, row by row, of maps (N, M)."""
        width = self.heat.shape[2]
        points = torch.stack([places % width, places // width], -1)
        return read(self.tags, maps.flatten(), points.flatten(0, 1), self.factor).unflatten(0, places.shape)

    def tried(self, maps: Tensor, means: Tensor) -> Tensor:
        """(N, blocks) heatmap value minus rounded tag distance at the highest pixel of each block."""
        return self.large[0][maps] - _rounded(self.top_tags[maps] - means[..., None])

    def bounds(self, maps: Tensor, means: Tensor) -> Tensor:
        """(N, blocks) what no pixel of a block exceeds."""
        highest, low, high = (one[maps] for one in self.large)
        return _bounds(highest, low, high, means)

    def inside(self, maps: Tensor, means: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """The small blocks within a block each: (N, FAN^2) which they are, and what none of their pixels exceeds."""
        rows, columns = (index * FAN for index in (blocks // self.columns, blocks % self.columns))
        steps = torch.arange(FAN, device=blocks.device)
        y, x = (
            (first[:, None] + steps).clamp(max=side - 1)  # the last ones again
            for first, side in zip((rows, columns), self.shape, strict=True)
        )
        small = (y[:, :, None] * self.shape[1] + x[:, None]).flatten(1)
        highest, low, high = self.small
        low, high = (one.transpose(1, 2)[maps[:, None], small].transpose(1, 2) for one in (low, high))
        return small, _bounds(highest[maps[:, None], small], low, high, means)

    def best(self, maps: Tensor, means: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) the best value within a small block each, and its place row by row."""
        height, width = self.heat.shape[1:]
        steps = torch.arange(self.side, device=small.device)
        y = (small // self.shape[1] * self.side)[:, None] + steps
        x = (small % self.shape[1] * self.side)[:, None] + steps
        # beyond the border the border is looked at again
        places = (y.clamp(max=height - 1)[:, :, None] * width + x.clamp(max=width - 1)[:, None]).flatten(1)
        maps = maps[:, None].expand_as(places)
        difference = (self.tags_at(maps, places) - means[:, None]).transpose(1, 2)
        best, pixel = (self.heat.take(maps * (height * width) + places) - _rounded(difference)).max(1)
        return best, places.gather(1, pixel[:, None])[:, 0]


def _ranges(tags: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """(G, T, rows, columns) the least and greatest of the cells that a block of so many cells a side reads."""
    below, right = (-side % cells for side in tags.shape[2:])
    # it reads one cell beyond it; the border stands in where there is none
    padded = F.pad(tags, (1, 1 + right, 1, 1 + below), mode="replicate")
    return _over_blocks(padded, cells, torch.minimum), _over_blocks(padded, cells, torch.maximum)


def _over_blocks(padded: Tensor, cells: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(G, T, rows, columns) from maps with a cell around them, cell after cell: faster than reducing small windows."""
    for dim in (2, 3):
        padded = reduce(extreme, padded.unfold(dim, cells + 2, cells).unbind(4))
    return padded


def _bounds(highest: Tensor, low: Tensor, high: Tensor, means: Tensor) -> Tensor:
    """(N, M) what heatmap (N, M) minus rounded distance of tags from means (N, T) can be within ranges (N, T, M)."""
    means = means[..., None]
    return highest - _rounded(torch.maximum(low - means, means - high).clamp_(min=0))


def _rounded(difference: Tensor) -> Tensor:
    """(N, T, M) -> (N, M) the rounded length of differences of tags."""
    return difference.square().sum(1).sqrt_().round_()


def best_pixels(blocks: Blocks, maps: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Where heatmap minus rounded tag distance is greatest in a map; of equal pixels the first, row by row.

    Args:
        blocks: the maps.
        maps: (N,) int64, which of them.
        means: (N, T) the tags that distances are to.

    Returns:
        (N,) int64 places in the map, row by row, and (N,) the heatmap there.
    """
    size = max(1, TOGETHER // blocks.top_tags[0].numel())
    places = torch.cat([_best_places(blocks, *part) for part in zip(maps.split(size), means.split(size), strict=True)])
    return places, blocks.heat.flatten(1)[maps, places]


def _best_places(blocks: Blocks, maps: Tensor, means: Tensor) -> Tensor:
    tried, bounds = blocks.tried(maps, means), blocks.bounds(maps, means)
    best = tried.amax(1)
    beyond = blocks.heat[0].numel()
    first = blocks.places[maps].where(tried == best[:, None], beyond).amin(1)
    rows, large = ((bounds >= best[:, None]) & (bounds > tried)).nonzero(as_tuple=True)
    size = max(1, TOGETHER // (blocks.side * FAN) ** 2 // means.shape[1])
    for row, block in zip(rows.split(size), large.split(size), strict=True):
        small, limits = blocks.inside(maps[row], means[row], block)
        place, column = (limits >= best[row, None]).nonzero(as_tuple=True)
        row = row[place]
        values, places = blocks.best(maps[row], means[row], small[place, column])
        higher = best.scatter_reduce(0, row, values, "amax")
        first = first.where(higher == best, beyond)
        first = first.scatter_reduce(0, row, places.where(values == higher[row], beyond), "amin")
        best = higher
    return first
