"""Results as arrays: a row per annotated person, in the order of the annotation file (.npy, .npz, .mat)."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.layouts.files import parsed_matlab

ENDINGS = (".npy", ".npz", ".mat")
NAMES = ("keypoints", "preds")  # of the array, in files that hold several


def read_array(path: Path, people: int, keypoints: int, axes: int) -> NDArray[np.float64]:
    """(people, keypoints, axes) coordinates; a further number per keypoint, its score, is left aside.

    Args:
        path: the file; in an .npz the only array, or the one of `NAMES`; in a .mat `preds`, as HRNet writes it.
        people: how many people the annotations have.
        keypoints: of each.
        axes: 2 or 3.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has another shape, or holds something else than finite numbers.
    """
    if not path.exists():
        raise FileNotFoundError(f"results {path} do not exist")
    array = np.asarray(parsed_matlab(path, NAMES[1]) if path.suffix == ".mat" else _loaded(path))
    expected = (people, keypoints, axes)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds {array.dtype} where numbers should be")
    if array.ndim != 3 or array.shape[:2] != expected[:2] or array.shape[2] not in (axes, axes + 1):
        raise ValueError(
            f"{path} has the shape {array.shape}, expected {expected}: {people} annotated people in the order of their "
            f"file, {keypoints} keypoints"
        )
    found = array[..., :axes].astype(np.float64)
    wrong = ~np.isfinite(found).all((1, 2))
    if wrong.any():
        raise ValueError(f"{path}: keypoints of row {int(wrong.argmax())} are NaN or infinite")
    return found


def _loaded(path: Path) -> NDArray[Any]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            named = [name for name in NAMES if name in content.files] or content.files
            if len(named) != 1:
                raise ValueError(f"it must have one array, or one called {' or '.join(NAMES)}; it has {content.files}")
            return content[named[0]]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is cut off or not a file of plain arrays: {error}") from None
