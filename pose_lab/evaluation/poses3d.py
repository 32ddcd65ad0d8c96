"""MPJPE and its relatives of an array of poses in three dimensions."""

from __future__ import annotations

import numpy as np
import torch

from pose_lab.data.annotations import load_annotations
from pose_lab.evaluation.arrays import read_array
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.metrics.joints3d import PoseErrors3D
from pose_lab.metrics.parts import indices_of


def evaluate(protocol: Protocol) -> Evaluation:
    """Reads both files and compares each annotated pose with its row.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file or a setting is wrong, or nothing is labelled.
    """
    settings, skeleton = protocol.settings, protocol.skeleton
    annotations = load_annotations(protocol.annotations, protocol.rules, protocol.cache)
    if annotations.joints_3d is None:
        raise ValueError(f"{protocol.annotations} has no joints in three dimensions")
    order = np.argsort(annotations.instance_ids, kind="stable")  # of the file
    annotated = torch.from_numpy(annotations.joints_3d[order].astype(np.float64)) * settings["factor"]
    labelled = annotated.isfinite().all(2)
    found = torch.from_numpy(read_array(protocol.results, len(order), len(skeleton), 3))
    whole = labelled.all(1)  # transforms are fitted to all joints
    if not whole.any():
        raise ValueError(f"{protocol.annotations}: no pose has all joints labelled")
    if settings["root"] is not None:
        (root,) = indices_of(skeleton, [settings["root"]])
        annotated, found = annotated - annotated[:, root, None], found - found[:, root, None]
    metric = PoseErrors3D(skeleton.keypoints)
    metric.update(found[whole], annotated[whole], labelled[whole], torch.from_numpy(order)[whole])
    numbers = {name: float(value) for name, value in metric.compute().items()}
    per_joint = metric.rows().nanmean(0).T
    about = "as given" if settings["root"] is None else f"relative to {settings['root']}"
    return Evaluation(
        heading=f"{int(whole.sum())} poses, {about}, {settings['unit']}",
        numbers=numbers,
        tables={
            "keypoint": {
                name: dict(zip(numbers, row.tolist(), strict=True))
                for name, row in zip(skeleton.keypoints, per_joint, strict=True)
            }
        },
        ignored={"poses with joints that are not labelled": int((~whole).sum())},
        lines=[f" {name:<12} {value:.2f}" for name, value in numbers.items()],
    )
