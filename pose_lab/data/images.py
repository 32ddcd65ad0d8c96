"""Reading photographs and drawing them into a frame.

Pictures are (H, W, 3) uint8 RGB arrays. Affine maps are in continuous coordinates, in which the centre of the first
pixel is (0.5, 0.5); OpenCV counts from that centre, which `index_affine` accounts for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


class BadImageError(ValueError):
    """An image file that is missing, cut off, not an image, or of another size than its annotation says."""


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """The names that are not files below `folder`, by listing folders instead of asking for every file."""
    names = list(names)
    parents = {os.path.dirname(name) for name in names}  # noqa: PTH120 (118,000 Path objects are slow)
    present = {os.path.join(parent, entry) for parent in parents for entry in _listed(folder / parent)}  # noqa: PTH118
    return [name for name in names if name not in present]


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208


def defect(path: Path) -> str | None:
    """What is wrong with an image file, judged by its first and last bytes; None if nothing is."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _defect(data)


def _defect(data: bytes) -> str | None:
    if data.startswith(_JPEG_START):
        whole = data.endswith(_JPEG_END) or data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN) > 0
    elif data.startswith(_PNG_START):
        whole = _PNG_END in data[-64:]
    else:
        return None if data and _decodes(data) else "is not an image"
    return None if whole else f"is cut off ({len(data)} bytes)"


def _decodes(data: bytes) -> bool:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8) is not None


def read_picture(path: Path, size: tuple[int, int], shrink: int = 1) -> tuple[Picture, int]:
    """Decode a picture and check it against its annotation.

    Args:
        path: the file.
        size: height and width that the annotations state.
        shrink: 1, 2, 4 or 8; a JPEG is decoded at this fraction of its size, other formats at full size.

    Returns:
        the picture and the fraction used: pixel j of a picture shrunk by r covers r original pixels, from r j on.

    Raises:
        BadImageError: if the file is missing, cut off, not an image, or of another size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read ({error.strerror})") from None
    shrink = shrink if data.startswith(_JPEG_START) else 1
    found = None if _defect(data) else _decoded(data, _expected(size, shrink), _REDUCED.get(shrink, 0))
    if found is None:
        raise BadImageError(f"{path}: {_defect(data) or 'is not an image'}")
    if found.shape[:2] != _expected(size, shrink):
        height, width = found.shape[0] * shrink, found.shape[1] * shrink
        raise BadImageError(f"{path}: is {width}x{height} pixels, but its annotation says {size[1]}x{size[0]}")
    return found, shrink


def _expected(size: tuple[int, int], shrink: int) -> tuple[int, int]:
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
        return cv2.imdecode(buffer, flags & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB)
    picture = cv2.imdecode(buffer, flags | cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def shrink_for(scale: float) -> int:
    """How much smaller (1, 2, 4 or 8 times) a JPEG may be decoded to be drawn at `scale` without loss."""
    return next((shrink for shrink in (8, 4, 2) if scale * shrink <= 1), 1)


def index_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map (2, 3) between pixel indices that equals a map between continuous coordinates."""
    return np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2].sum(1) / 2 - 0.5])


def draw(
    frame: Picture,
    picture: Picture,
    to_frame: NDArray[np.float64],
    window: NDArray[np.float64],
) -> None:
    """Draw a picture into a part of the frame, with linear interpolation.

    Args:
        frame: (H, W, 3), changed in place.
        picture: (h, w, 3).
        to_frame: (2, 3) map between pixel indices of the picture and of the frame.
        window: (4,) xyxy in continuous frame coordinates; pixels whose centre lies in it are drawn, beyond the
            picture's edge with the edge's colour.
    """
    left, top, right, bottom = _covered(window, frame.shape[:2])
    if left < right and top < bottom:
        shifted = to_frame - [[0, 0, left], [0, 0, top]]
        view = frame[top:bottom, left:right]
        size = (right - left, bottom - top)
        cv2.warpAffine(picture, shifted, size, view, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def is_empty(window: NDArray[np.float64], size: tuple[int, ...]) -> bool:
    """Whether a window (xyxy, continuous) holds no pixel centre of a frame (height, width)."""
    left, top, right, bottom = _covered(window, size)
    return left >= right or top >= bottom


def _covered(window: NDArray[np.float64], size: tuple[int, ...]) -> list[int]:
    """The pixel range (left, top, right, bottom) whose centres lie in a window, cut to the frame."""
    limits = np.array([size[1], size[0], size[1], size[0]])
    return np.clip(np.ceil(window - 0.5), 0, limits).astype(int).tolist()


def resized(picture: Picture, size: tuple[int, int], average: bool) -> Picture:
    """Resize to (height, width); `average` takes area means when shrinking, otherwise it is linear."""
    shrinks = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    method = cv2.INTER_AREA if average and shrinks else cv2.INTER_LINEAR
    return picture if picture.shape[:2] == size else cv2.resize(picture, size[::-1], interpolation=method)


def colour_tables(gains: NDArray[np.float64]) -> Picture:
    """(1, 256, 3) tables that multiply hue (modulo 180), saturation and value by three gains."""
    levels = np.arange(256)[:, None] * gains
    levels[:, 0] %= 180
    return levels.clip(0, 255).astype(np.uint8)[None]


def jitter_colours(picture: Picture, tables: Picture) -> None:
    """Apply `colour_tables` to a picture, in place."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB, dst=picture)
