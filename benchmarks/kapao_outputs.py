"""A crowded picture as raw outputs of KAPAO's network, so that its decoding can be timed with what follows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pose_lab.nets.csp import FIRST_CLASS, OBJECTNESS

MAX_RATIO = 3.9  # of a box's side to an anchor's; outputs reach 4
REACH = 1.95  # anchors from a cell's corner to a pose's keypoint; outputs reach 2

Place = tuple[int, int, int, int]  # level, anchor, row, column


def outputs_of(objects: Tensor, background: Tensor, anchors: Tensor, strides: Sequence[int], side: int) -> list[Tensor]:
    """L outputs (1, A, C, ny, nx) before the logistic that decode to drawn rows in a square picture.

    An object takes the free place whose anchor is most like it, among the four cells nearest to its centre; the best
    object chooses first. Other places get objectness and classes of the background, in turn.

    Args:
        objects: (N, C) decoded rows.
        background: (M, C) decoded rows.
        anchors: (L, A, 2) width and height in pixels.
        strides: pixels per cell of each level.
        side: of the picture, in pixels.

    Raises:
        StopIteration: an object finds no free place.
    """
    cells = [side // stride for stride in strides]
    raw = [torch.zeros(anchors.shape[1], size, size, objects.shape[1]) for size in cells]
    scores = slice(OBJECTNESS, _first_point(objects[0]))
    sizes = [level[..., 0].numel() for level in raw]
    numbers = torch.arange(sum(sizes)) % len(background)
    for level, part in zip(raw, background[numbers, scores].logit(eps=1e-8).split(sizes), strict=True):
        level[..., scores] = part.view_as(level[..., scores])
    taken: set[Place] = set()
    for row in objects[objects[:, OBJECTNESS].argsort(descending=True)]:
        place = next(place for place in _places(row, anchors, strides, cells) if place not in taken)
        taken.add(place)
        level, anchor, y, x = place
        raw[level][anchor, y, x] = _encoded(row, anchors[level, anchor], torch.tensor([x, y]), strides[level])
    return [level.movedim(-1, 1).contiguous()[None] for level in raw]


def _first_point(row: Tensor) -> int:
    """The column after the classes."""
    return FIRST_CLASS + 1 + (len(row) - FIRST_CLASS - 1) // 3


def _places(row: Tensor, anchors: Tensor, strides: Sequence[int], cells: Sequence[int]) -> Iterator[Place]:
    """Where the outputs can hold an object, the most similar anchor first."""
    ratio = torch.maximum(anchors / row[2:4], row[2:4] / anchors).amax(-1)
    points = row[_first_point(row) :].view(-1, 2) if row[FIRST_CLASS] > 0 else row[:2]  # only poses have keypoints
    for number in ratio.flatten().argsort().tolist():
        level, anchor = divmod(number, anchors.shape[1])
        x, y = (row[:2] / strides[level] - 0.5).floor().int().tolist()
        for place in itertools.product((y, y + 1), (x, x + 1)):
            corner = torch.tensor(place[::-1]) * strides[level]
            near = ((points - corner).abs() < REACH * anchors[level, anchor]).all()
            if ratio[level, anchor] < MAX_RATIO and near and min(place) >= 0 and max(place) < cells[level]:
                yield level, anchor, *place


def _encoded(row: Tensor, anchor: Tensor, cell: Tensor, stride: int) -> Tensor:
    """The raw outputs that decode to a row; to scores of 0 only almost."""
    first = _first_point(row)
    centre = (row[:2] / stride - cell + 0.5) / 2
    size = (row[2:4] / anchor).sqrt() / 2
    points = ((row[first:].view(-1, 2) - cell * stride) / anchor + 2) / 4
    return torch.cat((centre, size, row[OBJECTNESS:first], points.flatten())).logit(eps=1e-4)
