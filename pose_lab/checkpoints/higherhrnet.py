"""HigherHRNet's published weights, and ImageNet's trunk; `HigherHRNet` has the published names.

Source: Cheng et al., CVPR 2020 (arXiv 1908.10357), its published code and checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pose_lab.checkpoints import hrnet
from pose_lab.checkpoints.filling import check_keypoints, fill
from pose_lab.checkpoints.reading import Weights
from pose_lab.nets.higherhrnet import HigherHRNet

FIRST = "final_layers.0.weight"  # heatmaps and tags


def config_changes(weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
    """What must change in a config of `HigherHRNet` so that the weights fit: nothing, where they do.

    Raises:
        ValueError: these are neither HigherHRNet's weights nor those of an HRNet.
    """
    changes = hrnet.config_changes(weights, net)
    if FIRST not in weights.tensors:
        return changes
    numbers = [re.match(r"deconv_layers\.(\d+)\.(\d+)\.", name) for name in weights.tensors]
    parts = [(int(match[1]), int(match[2])) for match in numbers if match]
    found: dict[str, Any] = {"enlargements": max((number for number, _ in parts), default=-1) + 1}
    enlarging = weights.tensors.get("deconv_layers.0.0.0.weight")
    if enlarging is not None and len(enlarging.shape) == 4:
        found["residual_blocks"] = max(block for _, block in parts)
        found["concatenate"] = enlarging.shape[0] > enlarging.shape[1]
    return changes | {key: value for key, value in found.items() if value != net[key]}


def load(net: HigherHRNet, weights: Weights) -> str:
    """Fills a network with published weights, with those of a run, or its trunk with ImageNet's.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: they do not fit, are of another number of keypoints, or another method's; the network is untouched.
    """
    if hrnet.is_trunk(weights):
        return hrnet.load_trunk(net, weights)
    first = weights.tensors.get(FIRST)
    if first is not None and first.shape:
        check_keypoints(weights, first.shape[0] // 2, net.num_keypoints)
    return fill(net, weights)
