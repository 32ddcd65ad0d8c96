"""Poses in three dimensions as arrays: the `.npz` files common for Human3.6M and MPI-INF-3DHP.

Arrays of N samples: `imgname`; `part` (N, K, 3), pixels and a flag; `S` (N, K, 4), metres in the camera's frame and a
flag; `center` (N, 2) and `scale` (N,), a square of 200 `scale` pixels around the person. Frames are named
`VIDEO_NUMBER.jpg`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.layouts.files import image_records, square
from pose_lab.data.records import Content, Record
from pose_lab.data.rules import ReadingRules

_SCALE = 200  # pixels that a scale of 1 stands for
_FRAME = re.compile(r"(.+)_(\d+)")


def read(path: Path, rules: ReadingRules) -> Content:
    """One person for each sample; samples of one picture share its record."""
    arrays = _arrays(path, rules)
    names = [str(name) for name in arrays["imgname"]]
    images = [image | _place_in_video(image["file_name"], path) for image in image_records(_unique(names), path, rules)]
    ids = {image["file_name"]: image["id"] for image in images}
    keypoints, joints = arrays["part"].astype(np.float64), arrays["S"].astype(np.float64)
    keypoints[..., 2] = 2 * (keypoints[..., 2] > 0)
    joints[joints[..., 3] <= 0] = np.nan
    people: list[Record] = [
        {
            "id": number + 1,
            "image_id": ids[name],
            "keypoints": keypoints[number].ravel(),
            "joints_3d": joints[number, :, :3].ravel(),
            "bbox": square(arrays["center"][number], _SCALE * float(arrays["scale"][number]), rules),
        }
        for number, name in enumerate(names)
    ]
    return Content(images, people)


def read_joints(path: Path, rules: ReadingRules) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The file's joints (N, K, 3) in metres, labelled or not, and which are labelled (N, K).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not in this layout.
    """
    if not path.exists():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    joints = _arrays(path, rules)["S"].astype(np.float64)
    return joints[..., :3], joints[..., 3] > 0


def _arrays(path: Path, rules: ReadingRules) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is cut off or not an .npz file of plain arrays: {error}; get the file again"
        ) from None
    count, K = len(arrays.get("imgname", ())), len(rules.skeleton)
    expected = {"imgname": (count,), "part": (count, K, 3), "S": (count, K, 4), "center": (count, 2), "scale": (count,)}
    for name, shape in expected.items():
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "missing"
            raise ValueError(f"{path}: array `{name}` is {found}, expected {shape} (skeleton {rules.skeleton.name})")
    return arrays


def _unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _place_in_video(name: str, path: Path) -> Record:
    match = _FRAME.fullmatch(PurePosixPath(name).stem)
    if match is None:
        raise ValueError(f"{path}: frame {name!r} is not named VIDEO_NUMBER")
    return {"sequence": match[1], "frame": int(match[2])}
