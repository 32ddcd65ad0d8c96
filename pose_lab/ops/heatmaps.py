"""Heatmaps of keypoints: Gaussians to learn, where they count, and how far off a network's are.

A cell is `stride` pixels of the input; cell c lies at the centre of pixel stride * c, so points in cells count from
pixel centres (published code of the bottom-up methods on HRNet).

Shape letters: B images, N people, C kinds of points, h x w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pose_lab.poses import Batch

PIXEL_CENTRE = 0.5


def to_cells(points: Tensor, stride: int) -> Tensor:
    """Points (..., 2) in pixels of the input -> in cells."""
    return (points - PIXEL_CENTRE) / stride


def inside(points: Tensor, limits: Tensor) -> Tensor:
    """(...) whether points (..., 2) in cells lie in a map of width and height `limits`."""
    return ((points >= 0) & (points < limits)).all(-1)


def gaussians(image_index: Tensor, points: Tensor, drawn: Tensor, shape: tuple[int, int, int], sigma: float) -> Tensor:
    """(B, C, h, w) the largest Gaussian of each kind at every cell; 0 outside their patches.

    Args:
        image_index: (N,) int64.
        points: (N, C, 2) cells.
        drawn: (N, C) bool, which of them are there; those outside the map are not.
        shape: B, h, w.
        sigma: cells; a patch reaches a little over three of them.
    """
    images, height, width = shape
    channels, limits = drawn.shape[1], points.new_tensor((width, height))
    maps = points.new_zeros(images * channels * height * width)
    channel = image_index[:, None] * channels + torch.arange(channels, device=maps.device)
    first, end = (points - 3 * sigma - 1).floor(), (points + 3 * sigma + 2).ceil()
    cells = first[..., None, :] + torch.arange(int(6 * sigma) + 5, device=maps.device)[:, None]  # (N, C, T, 2)
    shown = (cells >= 0) & (cells < torch.minimum(end, limits)[..., None, :])
    shown &= (drawn & inside(points, limits))[..., None, None]
    near = ((cells - points[..., None, :]).square() / (-2 * sigma**2)).exp() * shown
    values = near[..., :, None, 1] * near[..., None, :, 0]
    x, y = cells.where(shown, 0).long().unbind(-1)
    index = (channel[..., None, None] * height + y[..., :, None]) * width + x[..., None, :]
    maps.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return maps.view(images, channels, height, width)


def loss_mask(batch: Batch, shape: tuple[int, int, int], stride: int) -> Tensor:
    """(B, 1, h, w): 0 where crowd regions and people without keypoints are, 1 elsewhere.

    Args:
        batch: whose outlines count, or boxes where it has none.
        shape: B, h, w.
        stride: pixels of a cell.
    """
    if batch.unlabelled is not None:  # cell c lies at the centre of pixel stride * c
        return (~batch.unlabelled[:, None, ::stride, ::stride]).float()
    images, height, width = shape
    people = batch.instances
    unlabelled = people.ignore | ~people.labelled.any(1)
    low, high = to_cells(people.boxes.view(-1, 2, 2), stride).unbind(1)
    x = torch.arange(width, device=low.device)
    y = torch.arange(height, device=low.device)
    across = (x >= low[:, :1]) & (x <= high[:, :1])
    down = (y >= low[:, 1:]) & (y <= high[:, 1:])
    boxes = (down[:, :, None] & across[:, None] & unlabelled[:, None, None]).to(low)
    return 1 - low.new_zeros(images, height, width).index_add_(0, people.image_index, boxes).clamp(max=1)[:, None]


def heatmap_loss(raw: Tensor, target: Tensor, background: float, mask: Tensor | None) -> Tensor:
    """Weighted mean squared error of heatmaps (B, C, h, w).

    Args:
        raw: of the network.
        target: from `gaussians`.
        background: weight where the target is 0; 1 elsewhere.
        mask: (B, 1, h, w) or (B, C, h, w), factor on the squared error.
    """
    errors = (raw.float() - target).square()
    if background != 1:
        errors = errors * torch.where(target > 0, 1.0, background)
    return (errors if mask is None else errors * mask).mean()
