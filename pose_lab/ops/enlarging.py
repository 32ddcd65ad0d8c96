"""Bilinear enlargement of maps by whole factors, cells' corners on corners: of all of a map, or only where it is read.

The pixels between the centres of four neighbouring cells, a square, depend on these alone, and none of them is greater
than the greatest. Square (r, c) ends at cell (r, c), so a map of h x w cells has (h + 1) x (w + 1). Beyond its border
the border stands in, for cells as for pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    last = places.new_tensor(maps.shape[:1:-1])
    for one in earlier:
        last = last * one
    cells = ((places + 0.5) / factor - 0.5).clamp_(min=0)  # beyond the outer cells' centres these go on
    low = cells.long()
    x, y = torch.stack([low, torch.minimum(low + 1, last - 1)]).unbind(-1)
    corners = torch.stack([x.expand(2, *x.shape), y[:, None].expand(2, *x.shape)], -1)  # (2 rows, 2 columns, ..., 2)
    values = read(maps, which.expand(corners.shape[:-1]), corners, earlier)
    across, down = (cells - low)[..., None, :].unbind(-1)
    return torch.lerp(*torch.lerp(values[:, 0], values[:, 1], across), down)


def between(cells: Tensor, factor: int) -> Tensor:
    """(n, m, ...) cells -> ((n - 1) factor, (m - 1) factor, ...) the enlarged map's pixels between their centres."""
    weights = _weights(factor, cells)
    for dim in (0, 1):
        first, second = (cells.narrow(dim, start, cells.shape[dim] - 1).unsqueeze(dim + 1) for start in (0, 1))
        steps = weights.view(-1, *[1] * (cells.ndim - dim - 1))
        cells = torch.lerp(first, second, steps).flatten(dim, dim + 1)
    return cells


def first_pixel(squares: Tensor, factor: int) -> Tensor:
    """The first of the `factor` pixels of a square, in a row or a column of squares."""
    return squares * factor - (factor + 1) // 2


def highest_in_squares(maps: Tensor, factor: int) -> Tensor:
    """(G, h, w) -> (G, h + 1, w + 1) the greatest pixel of each square; that is one in its corners."""
    ends = _weights(factor, maps)[[0, -1]].unique().tolist()
    found = [_highest_in_squares(part, ends) for part in maps.split(1 if maps.device.type == "cpu" else len(maps))]
    return torch.cat(found)


def _highest_in_squares(maps: Tensor, ends: Sequence[float]) -> Tensor:
    padded = F.pad(maps[None], (1, 1, 1, 1), mode="replicate")[0]
    highest = None
    for across in ends:
        rows = torch.lerp(padded[..., :-1], padded[..., 1:], across)
        for down in ends:
            pixels = torch.lerp(rows[:, :-1], rows[:, 1:], down)
            highest = pixels if highest is None else torch.maximum(highest, pixels, out=highest)
    assert highest is not None
    return highest


def _weights(factor: int, like: Tensor) -> Tensor:
    """(factor,) the second cell's weight in each pixel between the centres of two."""
    steps = torch.arange(factor, dtype=like.dtype, device=like.device)
    return (factor // 2 + steps + 0.5) / factor - 0.5


def patches(maps: Tensor, which: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """(side, side, ...) the cells of squares of maps.

    Args:
        maps: (G, h, w), in one piece.
        which: (...) int64, of the G.
        rows: (...) int64, of the first cell; those beyond the border are at the border.
        columns: likewise.
        side: cells.
    """
    height, width = maps.shape[1:]
    steps = torch.arange(side, device=maps.device).view(-1, *[1] * which.ndim)
    y, x = (rows + steps).clamp(0, height - 1), (columns + steps).clamp(0, width - 1)
    index = ((which * height + y) * width)[:, None] + x
    return maps.view(-1).index_select(0, index.flatten()).view(index.shape)
