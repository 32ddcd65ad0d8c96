"""MPII's validation part as the common `gt_valid.mat`, which is the one file of that split with head boxes.

Arrays `pos_gt_src` (K, 2, N), pixels from 1; `jnt_missing` (K, N); `headboxes_src` (2, 2, N), two corners each. People
are in the order of `mpii_val.json`; they are numbered from 1, each as a picture of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pose_lab.data.annotations import ReadingRules
from pose_lab.data.layouts.files import parsed_matlab
from pose_lab.poses import Annotations


def is_mpii_val(path: Path) -> bool:
    """Whether a file is of this kind, by its name's ending and its first array."""
    if path.suffix != ".mat" or not path.exists():
        return False
    try:
        parsed_matlab(path, "pos_gt_src")
    except ValueError:
        return False
    return True


def read_mpii_val(path: Path, rules: ReadingRules) -> Annotations:
    """The annotations of such a file.

    Raises:
        ValueError: if an array is missing, has another shape, or a labelled number is not finite.
    """
    K = len(rules.skeleton)
    place = np.asarray(parsed_matlab(path, "pos_gt_src"), np.float64).reshape(K, 2, -1).transpose(2, 0, 1)
    missing = np.asarray(parsed_matlab(path, "jnt_missing"), np.float64).reshape(K, -1).T
    heads = np.asarray(parsed_matlab(path, "headboxes_src"), np.float64).reshape(2, 2, -1).transpose(2, 0, 1)
    count = len(place)
    if len(missing) != count or len(heads) != count:
        raise ValueError(
            f"{path}: {count} people in pos_gt_src, {len(missing)} in jnt_missing, {len(heads)} head boxes"
        )
    labelled = missing == 0
    wrong = ~np.isfinite(np.where(labelled[..., None], place, 0)).all((1, 2)) | ~np.isfinite(heads).all((1, 2))
    if wrong.any():
        raise ValueError(f"{path}: labelled joints or head box of person {int(wrong.argmax()) + 1} are not finite")
    keypoints = np.concatenate([np.nan_to_num(place) + rules.pixel_shift, 2.0 * labelled[..., None]], 2)
    head_boxes = heads.reshape(count, 4) + rules.pixel_shift
    numbers = np.arange(1, count + 1)
    return Annotations(
        image_ids=numbers,
        file_names=np.array([str(number) for number in numbers], np.bytes_),
        sizes=np.zeros((count, 2), np.int32),
        crowd_index=np.full(count, np.nan),
        instance_ids=numbers,
        image_index=np.arange(count),
        boxes=head_boxes,
        keypoints=keypoints,
        areas=np.zeros(count),
        ignore=np.zeros(count, bool),
        num_keypoints=labelled.sum(1).astype(np.int32),
        pixel_shift=rules.pixel_shift,
        head_boxes=head_boxes,
    )
