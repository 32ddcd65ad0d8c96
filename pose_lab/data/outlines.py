"""Where people stand whom nobody labelled: crowd regions and people without keypoints, as run lengths for each picture.

The annotations' own `segmentation` where they have one (polygons, or COCO's run lengths, compressed or not), else the
box. All of a picture are one mask, so that showing a picture decodes at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pose_lab.data.images import Picture

_CORNERS = 3  # a polygon of fewer encloses nothing
_INSIDE = 255

Size = tuple[int, int]  # height and width of a picture


def fault(segmentation: Any, size: Size) -> str | None:
    """What is wrong with a person's segmentation; nothing is with one that is not there."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _fault_of_runs(segmentation, size)
    if not isinstance(segmentation, list) or not all(map(_is_polygon, segmentation)):
        return "annotations whose segmentation is no list of polygons x, y, x, y, ..., nor an object of run lengths"
    return None


def _is_polygon(corners: Any) -> bool:
    if not isinstance(corners, list) or len(corners) % 2:
        return False
    return all(isinstance(value, int | float) for value in corners) and bool(np.isfinite(corners).all())


def _fault_of_runs(segmentation: dict[str, Any], size: Size) -> str | None:
    if segmentation.get("size") != list(size):
        return "annotations whose segmentation has another size than the image"
    runs = _runs(segmentation.get("counts"))
    if runs is None or any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return "annotations whose segmentation's run lengths do not fill the image"
    return None


def _runs(counts: Any) -> list[int] | None:
    """Lengths of the runs, as they are or from COCO's text: five bits a character, less the last but one."""
    if isinstance(counts, list):
        return counts if all(type(count) is int for count in counts) else None
    if not isinstance(counts, str):
        return None
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii", "replace"):
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (bits & 0x10 and 1) << shift  # negative
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def encoded(segmentations: Sequence[Any], boxes: NDArray[np.float64], size: Size) -> bytes:
    """The run lengths of all of a picture's regions together.

    Args:
        segmentations: N of them without `fault`; one without polygons that enclose anything stands for the box.
        boxes: (N, 4) xyxy.
        size: of the picture.
    """
    height, width = size
    parts: list[Any] = []
    for segmentation, box in zip(segmentations, boxes, strict=True):
        if isinstance(segmentation, dict) and segmentation:
            runs = {"size": [height, width], "counts": _runs(segmentation["counts"])}
            parts.append(coco.frPyObjects(runs, height, width))
        else:
            closed = [corners for corners in segmentation or [] if len(corners) >= 2 * _CORNERS]
            polygons, limits = closed or [box[[0, 1, 2, 1, 2, 3, 0, 3]]], [width, height]
            clipped = [np.asarray(one, np.float64).reshape(-1, 2).clip(0, limits).ravel().tolist() for one in polygons]
            parts += coco.frPyObjects(clipped, height, width)
    return bytes(coco.merge(parts)["counts"])


def decoded(codes: bytes, size: Size) -> Picture:
    """(H, W) uint8, 255 in the regions that `encoded` was given and 0 elsewhere."""
    return np.ascontiguousarray(coco.decode({"size": list(size), "counts": codes})) * np.uint8(_INSIDE)
