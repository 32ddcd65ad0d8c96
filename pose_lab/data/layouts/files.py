"""What the layouts share: opening JSON and MATLAB files, sizes of image files, boxes around keypoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError

from pose_lab.data.records import Record
from pose_lab.data.rules import ReadingRules

Corners = list[float]


def parsed_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, f"cannot read the annotation file {path} ({error.strerror})") from None
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} ({len(data)} bytes) is cut off or not JSON: {error}; get the file again") from None


def parsed_matlab(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file; structures have their fields as attributes, dimensions of one are dropped.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not a MATLAB file or lacks the variable.
    """
    from scipy.io import loadmat  # takes a while to import, and few data sets need it

    try:
        content = loadmat(path, struct_as_record=False, squeeze_me=True, variable_names=[variable])
    except OSError as error:
        raise OSError(error.errno, f"cannot read the annotation file {path} ({error.strerror or error})") from None
    except Exception as error:  # SciPy's reader raises whatever its parsing stumbles over
        raise ValueError(f"{path} is cut off or not a MATLAB file: {error}; get the file again") from None
    if variable not in content:
        raise ValueError(f"{path} has no variable `{variable}`")
    return content[variable]


def field(record: Any, name: str, path: Path) -> Any:
    """A field of a MATLAB structure.

    Raises:
        ValueError: if it lacks the field.
    """
    if not hasattr(record, name):
        there = ", ".join(getattr(record, "_fieldnames", [])) or "none"
        raise ValueError(f"{path}: a structure has no field `{name}`; its fields: {there}")
    return getattr(record, name)


def elements(value: Any) -> list[Any]:
    """The elements of a MATLAB array of structures or cells; SciPy squeezes one of a single element to that."""
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def image_records(names: Sequence[str], path: Path, rules: ReadingRules) -> list[Record]:
    """Records of images whose sizes the annotations do not state: ids count from 1, sizes are of the files.

    Raises:
        ValueError: if sizes are needed and `rules.images` is not given.
    """
    sizes = _sizes(names, path, rules) if rules.sizes else [(0, 0)] * len(names)
    return [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(zip(names, sizes, strict=True), start=1)
    ]


def _sizes(names: Sequence[str], path: Path, rules: ReadingRules) -> list[tuple[int | None, int | None]]:
    if rules.images is None:
        raise ValueError(f"{path} does not state the sizes of its images, so their folder must be given")
    folder = rules.images
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: _size(folder / name), names))


def _size(file: Path) -> tuple[int | None, int | None]:
    """Width and height by the file's header, not turned by its EXIF tag: so did the annotators see it."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None, None


def box_around(keypoints: NDArray[np.float64], rules: ReadingRules) -> Corners:
    """x, y, width, height of the labelled keypoints (K, 3), enlarged by `rules.box_margin`, in continuous coordinates.

    Nothing labelled gives a box of zero size, which the checks refuse.
    """
    labelled = keypoints[keypoints[:, 2] > 0, :2] + rules.pixel_shift
    if not len(labelled):
        return [0.0, 0.0, 0.0, 0.0]
    low, high = labelled.min(0), labelled.max(0)
    margin = (rules.box_margin or 0.0) * (high - low).max()
    return [*(low - margin).tolist(), *(high - low + 2 * margin).tolist()]


def square(centre: ArrayLike, side: float, rules: ReadingRules) -> Corners:
    """x, y, width, height of a square around a point in file coordinates, in continuous coordinates."""
    x, y = (np.asarray(centre, np.float64) + rules.pixel_shift - side / 2).tolist()
    return [x, y, side, side]


def refuse_part(path: Path, rules: ReadingRules, parts: Sequence[str]) -> None:
    """Raises ValueError if `rules.part` is none of the parts of a file."""
    if rules.part not in parts:
        raise ValueError(f"{path} has the parts {', '.join(parts)}; `part` is {rules.part or 'not given'}")
