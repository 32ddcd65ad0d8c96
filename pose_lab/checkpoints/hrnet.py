"""Published HRNet weights: what their shapes tell about a network, and ImageNet's for a trunk alone.

`HRNet` has the published names, which are timm's too, so nothing is renamed.

Source: Sun et al., CVPR 2019 (arXiv 1902.09212), its published checkpoints and those of its successors; timm 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pose_lab.checkpoints.filling import check_fit, copy, method_of
from pose_lab.checkpoints.reading import Weights
from pose_lab.nets.hrnet import HRNet

# what stands behind the trunk of classification networks
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
COUNTER = "num_batches_tracked"  # old versions of torch did not store it


def config_changes(weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
    """What must change in a config of `HRNet` so that the weights fit: nothing, where they do.

    Args:
        weights: a checkpoint with a trunk.
        net: arguments of `HRNet`.

    Raises:
        ValueError: there is no trunk of an HRNet in it.
    """
    found = architecture(weights)
    return {key: value for key, value in found.items() if value != net[key]}


def architecture(weights: Weights) -> dict[str, Any]:
    """Width, exchanges per stage, blocks per branch, channels and bottlenecks of the stem: arguments of `HRNet`.

    Raises:
        ValueError: there is no trunk of an HRNet.
    """
    modules: list[int] = []
    blocks, stage = 0, 2
    while count := _count(weights, rf"stage{stage}\.(\d+)\."):
        modules.append(count)
        blocks = max(blocks, _count(weights, rf"stage{stage}\.\d+\.branches\.0\.(\d+)\."))
        stage += 1
    bottlenecks = _count(weights, r"layer1\.(\d+)\.")
    first, stem = (weights.tensors.get(name) for name in ("stage2.0.branches.0.0.conv1.weight", "conv2.weight"))
    if first is None or stem is None or len(first.shape) != 4 or len(stem.shape) != 4 or not bottlenecks:
        method = method_of(weights.tensors)
        looks = f"; these look like weights of {method}" if method else ""
        raise ValueError(f"{weights.path} holds no HRNet: its stem or its second stage is missing{looks}")
    return {
        "width": first.shape[0],
        "modules": modules,
        "blocks": blocks,
        "stem": stem.shape[0],
        "stem_blocks": bottlenecks,
    }


def _count(weights: Weights, pattern: str) -> int:
    """How many numbered parts there are."""
    numbers = (int(match[1]) for name in weights.tensors if (match := re.match(pattern, name)) and len(match[1]) < 4)
    return max(numbers, default=-1) + 1


def is_trunk(weights: Weights) -> bool:
    """Whether a checkpoint holds an HRNet's trunk and at most a classifier, i.e. ImageNet's weights."""
    parts = r"(conv|bn|layer|transition|stage)\d+\."
    return all(re.match(parts, name) or name.startswith(CLASSIFIER) for name in weights.tensors)


def load_trunk(net: HRNet, weights: Weights) -> str:
    """Fills a network's trunk from a classification network's weights.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: they do not fit; the network is untouched.
    """
    state = net.trunk_state()
    wanted = {name: tensor for name, tensor in state.items() if name in weights.tensors or not name.endswith(COUNTER)}
    check_fit(weights, {name: tensor for name, tensor in weights.tensors.items() if _belongs(net, name)}, wanted)
    copy(weights.tensors, wanted)
    return f"{len(wanted)} of {len(net.state_dict())} tensors, the trunk of a classifier; the head starts anew"


def _belongs(net: HRNet, name: str) -> bool:
    """Whether a tensor is for this trunk; a trunk with one output leaves the others' fusion out."""
    last = f"stage{net.stages[-1]}."
    fusion = re.match(rf"{re.escape(last)}\d+\.fuse_layers\.", name)
    return not name.startswith(CLASSIFIER) and (not fusion or name in net.state_dict())
