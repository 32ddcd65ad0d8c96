"""Bilinear enlargement of maps by whole factors, cells' corners on corners: of all of a map, or only where it is read.

The pixels between the centres of four neighbouring cells, a square, depend on these alone. Square (r, c) ends at cell
(r, c), so a map of h x w cells has (h + 1) x (w + 1) squares. Beyond the border of a map the border stands in, for its
cells as for its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), unchanged where they have that size."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def read(maps: Tensor, which: Tensor, places: Tensor, factors: Sequence[int]) -> Tensor:
    """Maps at pixels, as if they were enlarged by each of the factors in turn.

    Args:
        maps: (G, C, h, w).
        which: (...) int64, of the G.
        places: (..., 2) int64 x, y.
        factors: any number of them.

    Returns:
        (..., C)
    """
    if not factors:
        x, y = places.unbind(-1)
        return maps.movedim(1, 3)[which, y, x]
    *earlier, factor = factors
    last = places.new_tensor((maps.shape[3], maps.shape[2])) * math.prod(earlier) - 1
    cells = ((places + 0.5) / factor - 0.5).clamp_(min=0)  # beyond the outer cells' centres these go on
    low = cells.long()
    x, y = torch.stack([low, torch.minimum(low + 1, last)]).unbind(-1)
    corners = torch.stack([x.expand(2, *x.shape), y[:, None].expand(2, *x.shape)], -1)  # (2 rows, 2 columns, ..., 2)
    values = read(maps, which.expand(corners.shape[:-1]), corners, earlier)
    across, down = (cells - low)[..., None, :].unbind(-1)
    top, bottom = torch.lerp(values[:, 0], values[:, 1], across)
    return torch.lerp(top, bottom, down)


def patches(maps: Tensor, which: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """(side, side, ...) neighbouring cells of maps.

    Args:
        maps: (G, h, w), in one piece.
        which: (...) int64, of the G.
        rows: (...) int64, the first cell's.
        columns: likewise.
        side: cells.
    """
    height, width = maps.shape[1:]
    steps = torch.arange(side, device=maps.device).view(-1, *[1] * which.ndim)
    y, x = (rows + steps).clamp(0, height - 1), (columns + steps).clamp(0, width - 1)
    index = ((which * height + y) * width)[:, None] + x
    return maps.view(-1).index_select(0, index.flatten()).view(index.shape)


def between(cells: Tensor, factor: int) -> Tensor:
    """(n, m, ...) cells -> ((n - 1) factor, (m - 1) factor, ...) the pixels of the squares between them."""
    weights = _weights(factor, cells)
    for dim in (0, 1):
        first, second = (cells.narrow(dim, start, cells.shape[dim] - 1).unsqueeze(dim + 1) for start in (0, 1))
        cells = torch.lerp(first, second, weights.view(-1, *[1] * (cells.ndim - dim - 1))).flatten(dim, dim + 1)
    return cells


def first_pixel(squares: Tensor, factor: int) -> Tensor:
    """Row or column of the first pixel of squares, from theirs."""
    return squares * factor - (factor + 1) // 2


def _weights(factor: int, like: Tensor) -> Tensor:
    """(factor,) weight of the second of two cells in the pixels between them."""
    steps = torch.arange(factor, dtype=like.dtype, device=like.device)
    return (factor // 2 + steps + 0.5) / factor - 0.5


class Enlargement:
    """Enlarged maps, of which only those pixels are computed that are asked.

    Args:
        maps: (G, h, w).
        factor: whole, by which they are enlarged.
    """

    def __init__(self, maps: Tensor, factor: int) -> None:
        self.maps, self.factor = maps.contiguous(), factor
        self.height, self.width = (factor * side for side in maps.shape[1:])

    def at(self, which: Tensor, places: Tensor) -> Tensor:
        """(...) the pixels at `places` (..., 2) int64 x, y of maps (...)."""
        return read(self.maps[:, None], which, places, (self.factor,))[..., 0]

    def in_squares(self, which: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
        """(side factor, side factor, ...) the pixels of side x side neighbouring squares of maps (...) each."""
        return between(patches(self.maps, which, rows - 1, columns - 1, side + 1), self.factor)

    @cached_property
    def highest(self) -> Tensor:
        """(G, h + 1, w + 1) the greatest pixel of each square: one in its corners."""
        ends = _weights(self.factor, self.maps)[[0, -1]].view(2, 1, 1, 1)
        size, height, width = self.maps.shape
        highest = self.maps.new_empty(size, height + 1, width + 1)
        together = 1 if self.maps.device.type == "cpu" else size  # what fits into a cache
        for maps, out in zip(self.maps.split(together), highest.split(together), strict=True):
            padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
            rows = torch.lerp(padded[..., :-1], padded[..., 1:], ends)
            pixels = torch.lerp(rows[..., :-1, :], rows[..., 1:, :], ends[..., None])
            torch.amax(pixels, (0, 1), out=out)
        return highest
