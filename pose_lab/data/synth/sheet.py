"""A contact sheet: samples with drawn skeletons, to be looked at."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pose_lab.data.synth.scene import Picture, make_picture
from pose_lab.data.synth.settings import SynthSettings
from pose_lab.skeletons import Skeleton, skeleton

_LEFT, _RIGHT, _MIDDLE = (60, 120, 255), (255, 140, 40), (90, 230, 90)  # RGB
_BOX, _CROWD = (255, 255, 255), (255, 0, 255)
_GROUND, _FONT, _LINE, _GAP = (40, 40, 40), (cv2.FONT_HERSHEY_SIMPLEX, 0.45), 20, 16  # of the legend, pixels
_LEGEND = (
    ("left of the person", _LEFT),
    ("right", _RIGHT),
    ("middle", _MIDDLE),
    ("dot: visible, ring: hidden", _BOX),
    ("box: person", _BOX),
    ("box: crowd region", _CROWD),
)
_SUBPIXEL = 3  # bits of fraction in drawn coordinates


def contact_sheet(settings: SynthSettings, count: int, columns: int, zoom: int) -> NDArray[np.uint8]:
    """An RGB picture of the first `count` training samples, each beside itself with its annotations drawn.

    The person's left limbs are blue, right ones orange; visible keypoints are dots, hidden ones rings. The last lines
    say so.
    """
    points = skeleton(settings.skeleton)
    cells = []
    for index in range(count):
        picture = make_picture(settings, 0, index)
        enlarged = picture.image.repeat(zoom, axis=0).repeat(zoom, axis=1)
        cells.append(np.hstack([enlarged, _drawn(enlarged.copy(), picture, points, zoom)]))
    blank = np.zeros_like(cells[0])
    rows = [cells[start : start + columns] for start in range(0, count, columns)]
    sheet = np.vstack([np.hstack([*row, *[blank] * (columns - len(row))]) for row in rows])
    return np.vstack([sheet, _legend(sheet.shape[1])])


def _legend(width: int) -> NDArray[np.uint8]:
    """(H, width, 3): what the colours mean, in as many lines as it takes."""
    places, x, line = [], _GAP, 0
    for text, _ in _LEGEND:
        length = cv2.getTextSize(text, *_FONT, 1)[0][0]
        if x > _GAP and x + length > width:
            x, line = _GAP, line + 1
        places.append((x, (line + 1) * _LINE - 6))
        x += length + _GAP
    legend = np.full(((line + 1) * _LINE, width, 3), _GROUND, np.uint8)
    for (text, colour), place in zip(_LEGEND, places, strict=True):
        cv2.putText(legend, text, place, *_FONT, colour, 1, cv2.LINE_AA)
    return legend


def _drawn(image: NDArray[np.uint8], picture: Picture, points: Skeleton, zoom: int) -> NDArray[np.uint8]:
    people = picture.people
    for box, keypoints, crowd in zip(people.boxes, people.keypoints, people.crowd, strict=True):
        x, y, w, h = (box * zoom).round().astype(int).tolist()
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), _CROWD if crowd else _BOX, 1)
        _draw_person(image, keypoints, points, zoom)
    if picture.people.crowd_index:
        text = f"crowd index {picture.people.crowd_index:.2f}"
        cv2.putText(image, text, (4, 14), *_FONT, _BOX, 1, cv2.LINE_AA)
    return image


def _draw_person(image: NDArray[np.uint8], keypoints: NDArray[np.float64], points: Skeleton, zoom: int) -> None:
    radius = (zoom + 3) // 2
    # Drawing functions count from pixel centres as COCO's files do; enlarging moves a centre by (zoom - 1) / 2.
    places = ((keypoints[:, :2] * zoom + (zoom - 1) / 2) * 2**_SUBPIXEL).round().astype(int).tolist()
    for a, b in points.limbs:
        if keypoints[a, 2] and keypoints[b, 2]:
            tone = _tone(points.keypoints[a], points.keypoints[b])
            cv2.line(image, places[a], places[b], tone, 1, cv2.LINE_AA, _SUBPIXEL)
    for name, place, v in zip(points.keypoints, places, keypoints[:, 2], strict=True):
        if v:
            cv2.circle(
                image, place, radius << _SUBPIXEL, _tone(name, name), -1 if v == 2 else 1, cv2.LINE_AA, _SUBPIXEL
            )


def _tone(*names: str) -> tuple[int, int, int]:
    sides = {name.split("_")[0] for name in names} & {"left", "right"}
    return {"left": _LEFT, "right": _RIGHT}[sides.pop()] if len(sides) == 1 else _MIDDLE
