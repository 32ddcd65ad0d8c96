"""Drawing poses into pictures, and pictures into contact sheets.

Pictures are (H, W, 3) uint8 RGB arrays; coordinates are continuous pixels ((0.5, 0.5) is the centre of the first pixel)
and are drawn to a sixteenth of a pixel. Nothing is drawn in place.
Shape letters: P people, K keypoints, L limbs, T pictures of a sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pose_lab.skeletons import Skeleton

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

RIGHT, CENTRE, LEFT = (64, 160, 255), (96, 230, 96), (255, 144, 32)
_SIDES: dict[int, Colour] = {-1: LEFT, 0: CENTRE, 1: RIGHT}
_EDGE: Colour = (0, 0, 0)
_TEXT: Colour = (255, 255, 255)
_BITS = 4  # of fraction in cv2's fixed-point coordinates


def draw_poses(
    image: Image,
    keypoints: NDArray[np.floating],
    skeleton: Skeleton,
    boxes: NDArray[np.floating] | None = None,
    scores: NDArray[np.floating] | None = None,
    numbers: bool = False,
    zoom: float = 1,
) -> Image:
    """A copy of a picture with people drawn into it: left, right and centre of the body differ in colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (P, K, 3) x, y, visibility (0 is not drawn, 1 is drawn hollow, 2 is filled), or (P, K, 2), all
            filled. Keypoints that are not finite are not drawn.
        skeleton: names the sides and the limbs.
        boxes: (P, 4) xyxy, drawn as thin frames.
        scores: (P,), written above each person.
        numbers: whether each keypoint's index is written beside it.
        zoom: factor by which the picture is resized first; coordinates are of the picture as given.

    Returns:
        (H * zoom, W * zoom, 3) uint8 RGB, rounded to whole pixels.

    Raises:
        ValueError: if the picture is not uint8 RGB, or the keypoints are not the skeleton's.
    """
    _check(image, keypoints, skeleton)
    canvas = _resized(image, zoom)
    points = np.asarray(keypoints[..., :2], np.float64) * zoom
    visibility = _visibility(keypoints)
    width = line_width(canvas)
    if boxes is not None:
        _draw_boxes(canvas, np.asarray(boxes, np.float64) * zoom, max(1, width // 2))
    _draw_limbs(canvas, points, visibility, skeleton, width)
    _draw_points(canvas, points, visibility, skeleton, width)
    if numbers:
        _write_numbers(canvas, points, visibility)
    if scores is not None:
        _write_scores(canvas, points, visibility, scores)
    return canvas


def line_width(image: Image) -> int:
    """The width of a limb in pixels: about 1/200 of the longer side, at least 1."""
    return max(1, round(max(image.shape[:2]) / 200))


def side_by_side(truth: Image, prediction: Image) -> Image:
    """Two pictures with a white gap between them, e.g. (H, 2 W + gap, 3); heights may differ."""
    return grid([truth, prediction], columns=2)


def grid(images: Sequence[Image], columns: int) -> Image:
    """A contact sheet: T pictures row by row on white, each in the upper left of a cell of the largest size.

    Args:
        images: T pictures (H_t, W_t, 3) uint8 RGB.
        columns: cells in a row.

    Raises:
        ValueError: if there is no picture or no column.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs pictures and columns, got {len(images)} and {columns}")
    columns = min(columns, len(images))
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    gap = max(2, width // 64)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for n, image in enumerate(images):
        top, left = n // columns * (height + gap), n % columns * (width + gap)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _check(image: Image, keypoints: NDArray[np.floating], skeleton: Skeleton) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
    if keypoints.ndim != 3 or keypoints.shape[1] != len(skeleton) or keypoints.shape[2] not in (2, 3):
        raise ValueError(
            f"keypoints must be (P, {len(skeleton)}, 2 or 3) for skeleton {skeleton.name}, got {keypoints.shape}"
        )


def _resized(image: Image, zoom: float) -> Image:
    if zoom == 1:
        return np.array(image, order="C")
    interpolation = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=interpolation), np.uint8)


def _visibility(keypoints: NDArray[np.floating]) -> NDArray[np.int64]:
    """(P, K) 0, 1 or 2; 0 where a coordinate is not finite."""
    given = keypoints[..., 2] if keypoints.shape[2] == 3 else np.full(keypoints.shape[:2], 2)
    return np.where(np.isfinite(keypoints).all(-1), given, 0).astype(np.int64)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Continuous coordinates (..., 2) as cv2's: fixed point, counted from the first pixel's centre."""
    far = 2.0**15  # beyond any picture, and safe from overflow
    return np.rint((np.clip(points, -far, far) - 0.5) * 2**_BITS).astype(np.int32)


def keypoint_sides(skeleton: Skeleton) -> NDArray[np.int64]:
    """(K,) -1 for left, 1 for right, 0 for keypoints of the centre."""
    return np.array([name.startswith("right_") - name.startswith("left_") for name in skeleton.keypoints], np.int64)


def _draw_boxes(canvas: Image, boxes: NDArray[np.float64], width: int) -> None:
    for first, last in _fixed(boxes.reshape(-1, 2, 2)).tolist():
        cv2.rectangle(canvas, first, last, _TEXT, width, cv2.LINE_AA, _BITS)


def _draw_limbs(
    canvas: Image, points: NDArray[np.float64], visibility: NDArray[np.int64], skeleton: Skeleton, width: int
) -> None:
    """Limbs between drawn keypoints, one call of cv2 per colour; a dark edge keeps them legible on any ground."""
    limbs = np.array(skeleton.limbs, np.int64).reshape(-1, 2)
    drawn = (visibility[:, limbs] > 0).all(-1)
    sides = np.broadcast_to(np.sign(keypoint_sides(skeleton)[limbs].sum(-1)), drawn.shape)[drawn]
    lines = _fixed(points[:, limbs][drawn])
    if width > 1:
        _polylines(canvas, lines, _EDGE, width + 2)
    for side, colour in _SIDES.items():
        _polylines(canvas, lines[sides == side], colour, width)


def _polylines(canvas: Image, lines: NDArray[np.int32], colour: Colour, width: int) -> None:
    cv2.polylines(canvas, list(lines), False, colour, width, cv2.LINE_AA, _BITS)


def _draw_points(
    canvas: Image, points: NDArray[np.float64], visibility: NDArray[np.int64], skeleton: Skeleton, width: int
) -> None:
    radius = int((width + 0.5) * 2**_BITS)
    rim = max(2, width) * 2**_BITS // 2
    person, keypoint = np.nonzero(visibility)
    centres = _fixed(points[person, keypoint])
    sides = keypoint_sides(skeleton)[keypoint]
    for centre, side, level in zip(
        centres.tolist(), sides.tolist(), visibility[person, keypoint].tolist(), strict=True
    ):
        inner = _EDGE if level == 1 else _SIDES[side]
        cv2.circle(canvas, centre, radius + rim, _SIDES[side] if level == 1 else _EDGE, -1, cv2.LINE_AA, _BITS)
        cv2.circle(canvas, centre, radius, inner, -1, cv2.LINE_AA, _BITS)


def _write_numbers(canvas: Image, points: NDArray[np.float64], visibility: NDArray[np.int64]) -> None:
    person, keypoint = np.nonzero(visibility)
    offset = 2 * line_width(canvas)
    for place, k in zip(points[person, keypoint] + (offset, -offset), keypoint.tolist(), strict=True):
        _write(canvas, str(k), place)


def _write_scores(
    canvas: Image, points: NDArray[np.float64], visibility: NDArray[np.int64], scores: Iterable[float]
) -> None:
    """Each score above its person's highest drawn keypoint, inside the picture."""
    for person, seen, score in zip(points, visibility > 0, scores, strict=True):
        if seen.any():
            top = person[seen][person[seen][:, 1].argmin()]
            _write(canvas, f"{score:.2f}", top - (0, 5 * line_width(canvas)))


def _write(canvas: Image, text: str, place: NDArray[np.float64]) -> None:
    """White text with a dark edge; `place` is its lower left corner, moved into the picture."""
    size = max(0.45, max(canvas.shape[:2]) / 1400)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = int(np.clip(place[0], 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(place[1], height + 1, canvas.shape[0] - 2))
    for colour, thickness in ((_EDGE, 3), (_TEXT, 1)):
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)
