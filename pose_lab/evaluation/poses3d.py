"""MPJPE and its relatives of an array of poses in three dimensions."""

from __future__ import annotations

import torch

from pose_lab.data.layouts.poses3d import read_joints
from pose_lab.evaluation.arrays import read_array
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.metrics.joints3d import PoseErrors3D
from pose_lab.metrics.parts import indices_of
from pose_lab.metrics.rows import above_zero, refuse

LAYOUT = "poses3d"  # the only one with joints in three dimensions


def evaluate(protocol: Protocol) -> Evaluation:
    """Reads both files and compares each annotated pose with its row.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file or a setting is wrong, or nothing is labelled.
    """
    settings, skeleton = protocol.settings, protocol.skeleton
    above_zero("factor", settings["factor"])
    if protocol.rules.layout != LAYOUT:
        raise ValueError(f"data={settings['data']} has no joints in three dimensions")
    joints, flags = read_joints(protocol.annotations, protocol.rules)
    found = torch.from_numpy(read_array(protocol.results, len(joints), len(skeleton), 3))
    annotated, labelled = torch.from_numpy(joints) * settings["factor"], torch.from_numpy(flags)
    known = annotated.isfinite().all(2)
    refuse((labelled & ~known).any(1), f"{protocol.annotations}: labelled joints of pose {{}} are not finite")
    chosen = known.all(1) & labelled.any(1)  # transforms are fitted to all joints
    without_root = torch.zeros_like(chosen)
    if settings["root"] is not None:
        (root,) = indices_of(skeleton, [settings["root"]])
        without_root = chosen & ~labelled[:, root]
        annotated, found = annotated - annotated[:, root, None], found - found[:, root, None]
    chosen &= ~without_root
    if not chosen.any():
        raise ValueError(f"{protocol.annotations}: nothing can be compared (no pose with labelled joints)")
    metric = PoseErrors3D(skeleton.keypoints)
    metric.update(found[chosen], annotated[chosen], labelled[chosen], torch.arange(len(joints))[chosen])
    numbers = {name: float(value) for name, value in metric.compute().items()}
    per_joint = metric.rows().nanmean(0).T
    about = "as given" if settings["root"] is None else f"relative to {settings['root']}"
    return Evaluation(
        heading=f"{int(chosen.sum())} poses, {about}, {settings['unit']}",
        numbers=numbers,
        tables={
            "keypoint": {
                name: dict(zip(numbers, row.tolist(), strict=True))
                for name, row in zip(skeleton.keypoints, per_joint, strict=True)
                if not row.isnan().any()  # nobody shows it
            }
        },
        ignored={
            "joints that are not labelled (transforms are fitted to them too)": int((~labelled[chosen]).sum()),
            "poses whose root is not labelled": int(without_root.sum()),
            "poses without labels, or with coordinates that are not finite": int((~chosen & ~without_root).sum()),
        },
        lines=[f" {name:<12} {value:.2f}" for name, value in numbers.items()],
    )
