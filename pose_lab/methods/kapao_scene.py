"""Drawn outputs of KAPAO for a crowded picture: what its post-processing is timed on."""

from __future__ import annotations

import torch
from torch import Tensor


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape) * (high - low) + low


def scene(people: int, rows: int, frame: tuple[int, int], num_keypoints: int, seed: int = 0) -> Tensor:
    """(1, R, C) decoded rows of a crowded picture: duplicates, keypoint objects and background, shuffled.

    People of 35 to 70 % of the picture's height, each with 8 worse copies; 80 % of the keypoints have 4 objects.

    Args:
        people: number of people.
        rows: R, all anchors of the picture; more where the people's objects alone are more than a small one has.
        frame: height and width of the picture in pixels.
        num_keypoints: K.
        seed: of the random draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        height = _uniform(250 / 720, 500 / 720, people) * frame[0]
        size = torch.stack((0.42 * height, height), 1)
        centre = size / 2 + torch.rand(people, 2) * (torch.tensor(frame[::-1]) - size).clamp(min=0)
        keypoints = centre[:, None] + (torch.rand(people, num_keypoints, 2) - 0.5) * size[:, None]
        scale = frame[1] / 1280
        parts = [_poses(centre, size, keypoints, scale), _keypoint_objects(keypoints, scale, frame)]
        parts.append(_background(max(rows - sum(map(len, parts)), 0), num_keypoints, frame))
        objects = torch.cat(parts)
        return objects[torch.randperm(len(objects))][None]


def _poses(centre: Tensor, size: Tensor, keypoints: Tensor, scale: float) -> Tensor:
    """Each person's pose object and 8 worse copies."""
    copies = torch.arange(len(centre)).repeat_interleave(9)
    first = torch.arange(len(copies)) % 9 == 0
    shift = torch.randn(len(copies), 2) * 6 * scale * ~first[:, None]
    grown = torch.where(first[:, None], 1.0, _uniform(0.92, 1.08, len(copies), 2))
    score = _uniform(0.55, 0.95, len(centre))[copies] * torch.where(first, 1.0, _uniform(0.3, 0.95, len(copies)))
    classes = torch.zeros(len(copies), keypoints.shape[1] + 1)
    classes[:, 0] = 0.9
    points = (keypoints[copies] + shift[:, None]).flatten(1)
    return torch.cat((centre[copies] + shift, size[copies] * grown, score[:, None], classes, points), 1)


def _keypoint_objects(keypoints: Tensor, scale: float, frame: tuple[int, int]) -> Tensor:
    """Four objects on 80 % of the keypoints."""
    person, kind = torch.nonzero(torch.rand(keypoints.shape[:2]) < 0.8, as_tuple=True)
    person, kind = person.repeat_interleave(4), kind.repeat_interleave(4)
    count = len(person)
    classes = torch.zeros(count, keypoints.shape[1] + 1)
    classes[torch.arange(count), kind + 1] = 0.95
    side = 64 * scale * _uniform(0.9, 1.1, count, 1).expand(-1, 2)
    place = keypoints[person, kind] + 2.5 * scale * torch.randn(count, 2)
    rest = torch.rand(count, 2 * keypoints.shape[1]) * frame[1]
    return torch.cat((place, side, _uniform(0.25, 0.95, count, 1), classes, rest), 1)


def _background(count: int, num_keypoints: int, frame: tuple[int, int]) -> Tensor:
    """Rows of low objectness anywhere."""
    objectness = torch.exp(-10.5 + 2 * torch.randn(count, 1)).clamp(max=0.05)
    places = torch.rand(count, 2) * torch.tensor(frame[::-1])
    sizes = _uniform(20, 200, count, 2)
    points = torch.rand(count, 2 * num_keypoints) * frame[1]
    return torch.cat((places, sizes, objectness, torch.rand(count, num_keypoints + 1) * 0.3, points), 1)
