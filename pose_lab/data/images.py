"""Reading photographs and drawing them into a frame.

Pictures are (H, W, 3) uint8 RGB arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
HUE_LIMIT = 0.42  # 1.42 times OpenCV's largest hue (179) still fits into eight bits
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


class BadImageError(ValueError):
    """An image file that is missing, cut off, not an image, or of another size than its annotation says."""


def defect(path: Path, size: tuple[int, int]) -> str | None:
    """Why `read_picture` would refuse an image file of the annotated height and width; None if it would not."""
    try:
        _read(path, size, 1)
    except BadImageError as error:
        return str(error)
    return None


def _marks_missing(data: bytes) -> str | None:
    """What the first and last bytes of an image file tell against it."""
    if data.startswith(_JPEG_START):
        whole = data.endswith(_JPEG_END) or data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN) > 0
    elif data.startswith(_PNG_START):
        whole = _PNG_END in data[-64:]
    else:
        return None if data else "is not an image"
    return None if whole else f"is cut off ({len(data)} bytes)"


def read_picture(path: Path, size: tuple[int, int], shrink: int = 1) -> Picture:
    """Decode a picture and check it against its annotation.

    Args:
        path: the file.
        size: height and width that the annotations state.
        shrink: 1, 2, 4 or 8 times smaller: pixel j is the mean of `shrink` original pixels, from `shrink` j on.

    Raises:
        BadImageError: if the file is missing, cut off, not an image, or of another size.
    """
    try:
        return _read(path, size, shrink)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from None


def _read(path: Path, size: tuple[int, int], shrink: int) -> Picture:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None
    if complaint := _marks_missing(data):
        raise BadImageError(complaint)
    decoded = shrink if data.startswith(_JPEG_START) else 1  # only JPEG can skip detail while decoding
    expected = _expected(size, decoded)
    picture = _decoded(data, expected, _REDUCED.get(decoded, 0))
    if picture is None:
        raise BadImageError("is not an image")
    if picture.shape[:2] != expected:
        height, width = picture.shape[0] * decoded, picture.shape[1] * decoded
        raise BadImageError(f"is {width}x{height} pixels, but its annotation says {size[1]}x{size[0]}")
    return picture if decoded == shrink else _shrunk(picture, shrink)


def _shrunk(picture: Picture, shrink: int) -> Picture:
    height, width = _expected(picture.shape[:2], shrink)
    below, right = height * shrink - picture.shape[0], width * shrink - picture.shape[1]
    whole = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cast(Picture, cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


def _expected(size: tuple[int, ...], shrink: int) -> tuple[int, int]:
    return -(-size[0] // shrink), -(-size[1] // shrink)


def _decoded(data: bytes, expected: tuple[int, int], reduced: int) -> Picture | None:
    """Decode; where turning by the EXIF tag contradicts the annotated size, the annotators saw it unturned."""
    buffer = np.frombuffer(data, np.uint8)
    picture = _rgb(buffer, reduced)
    if picture is not None and picture.shape[:2] == expected[::-1] != expected:
        picture = _rgb(buffer, reduced | cv2.IMREAD_IGNORE_ORIENTATION)
    return picture


def _rgb(buffer: NDArray[np.uint8], flags: int) -> Picture | None:
    if hasattr(cv2, "IMREAD_COLOR_RGB"):  # OpenCV 4.11 and later
        return cast(Picture | None, cv2.imdecode(buffer, flags & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB))
    picture = cv2.imdecode(buffer, flags | cv2.IMREAD_COLOR)
    return None if picture is None else cast(Picture, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def warp(frame: Picture, picture: Picture, affine: NDArray[np.float64]) -> None:
    """Draw a picture into the frame by a general map, interpolating linearly; what it does not cover stays as it is.

    Args:
        frame: (H, W, 3), changed in place.
        picture: (h, w, 3).
        affine: (2, 3) from the picture's pixels to the frame's.
    """
    centred = affine.copy()  # OpenCV counts from pixel centres
    centred[:, 2] += affine[:, :2].sum(1) / 2 - 0.5
    size = (frame.shape[1], frame.shape[0])
    cv2.warpAffine(picture, centred, size, dst=frame, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)


def draw(
    frame: Picture,
    picture: Picture,
    block: Sequence[int],
    window: Sequence[int],
    gains: NDArray[np.float64] | None = None,
    average: bool = False,
) -> None:
    """Resize a picture onto a block of the frame and copy what a window shows of it.

    Args:
        frame: (H, W, 3), changed in place.
        picture: (h, w, 3).
        block: xyxy in whole pixels of the frame; may reach beyond it.
        window: xyxy within block and frame.
        gains: factors of hue, saturation and value, applied where there are fewer pixels: before or after resizing.
        average: take area means when shrinking; otherwise interpolate linearly.
    """
    size = (block[3] - block[1], block[2] - block[0])
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    picture = picture if gains is None or shrinks else recoloured(picture, gains)
    picture = resized(picture, size, average)
    left, top, right, bottom = window
    shown = picture[top - block[1] : bottom - block[1], left - block[0] : right - block[0]]
    frame[top:bottom, left:right] = recoloured(shown, gains) if gains is not None and shrinks else shown


def resized(picture: Picture, size: tuple[int, int], average: bool) -> Picture:
    """Resize to (height, width); `average` takes area means when shrinking, otherwise it is linear."""
    shrinks = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    method = cv2.INTER_AREA if average and shrinks else cv2.INTER_LINEAR
    if picture.shape[:2] == size:
        return picture
    return cast(Picture, cv2.resize(picture, size[::-1], interpolation=method))


def recoloured(picture: Picture, gains: NDArray[np.float64]) -> Picture:
    """Multiply hue (modulo a full turn), saturation and value by three gains; that of hue below 1 + `HUE_LIMIT`."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hsv = cv2.transform(hsv, np.diag(gains).astype(np.float32))
    return cast(Picture, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))


def recoloured_grey(level: int, gains: NDArray[np.float64] | None) -> int:
    """What `recoloured` makes of a grey level."""
    return level if gains is None else int(recoloured(np.full((1, 1, 3), level, np.uint8), gains)[0, 0, 0])
