"""Drawn outputs of the bottom-up networks for a crowded picture: what their post-processing is timed on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pose_lab.ops.heatmaps import gaussians, to_cells

MISSING = 0.3  # share of a person's keypoints that have no peak
SIGMA = 2.0  # cells, as the networks are trained


def crowd(people: int, frame: tuple[int, int], num_keypoints: int, seed: int = 0) -> Tensor:
    """(P, K, 2) keypoints anywhere in the boxes of people of 35 to 70 % of the picture's height.

    Args:
        people: P.
        frame: height and width in pixels.
        num_keypoints: K.
        seed: of the random draws.
    """
    generator = torch.Generator().manual_seed(seed)
    height = (0.35 + 0.35 * torch.rand(people, generator=generator)) * frame[0]
    size = torch.stack((0.42 * height, height), 1)
    corner = torch.rand(people, 2, generator=generator) * (torch.tensor(frame[::-1]) - size).clamp(min=0)
    return corner[:, None] + torch.rand(people, num_keypoints, 2, generator=generator) * size[:, None]


def tagged_maps(
    keypoints: Tensor, frame: tuple[int, int], strides: Sequence[int], tags: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Heatmaps and tags that show people.

    Some keypoints have no peak. A cell has the tags of whoever's keypoint of the kind is nearest to it; tags of two
    people are one and a half apart at least, those of one person differ by a tenth.

    Args:
        keypoints: (P, K, 2) pixels of the input.
        frame: height and width in pixels.
        strides: of the heatmaps and of the tags.
        tags: T, numbers of a tag.
        seed: of the random draws.

    Returns:
        (1, K, h, w) and (1, K, T, h', w').
    """
    generator = torch.Generator().manual_seed(seed)
    people, num_keypoints = keypoints.shape[:2]
    sides = [(frame[0] // stride, frame[1] // stride) for stride in strides]
    nobody = torch.zeros(people, dtype=torch.int64)
    seen = torch.rand(people, num_keypoints, generator=generator) >= MISSING
    cells = to_cells(keypoints, strides[0]).round()
    heat = gaussians(nobody, cells, seen, (1, *sides[0]), SIGMA)
    heat = heat * 0.8 + 0.05 * torch.rand(heat.shape, generator=generator)
    height, width = sides[1]
    grid = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1).float()
    nearest = torch.cdist(grid, to_cells(keypoints, strides[1]).transpose(0, 1)).argmin(2)  # (K, h' w')
    own = 1.5 * torch.randperm(people, generator=generator)[:, None].expand(-1, tags)
    drawn = own[nearest] + 0.1 * torch.randn(*nearest.shape, tags, generator=generator)
    return heat, drawn.movedim(2, 1).unflatten(2, (height, width))[None]
