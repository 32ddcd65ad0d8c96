"""DEKR's published weights: names of one branch per keypoint, stacked as `DEKRNet` has them; and ImageNet's trunk.

Source: Geng et al., CVPR 2021 (arXiv 2104.02300), its published code and checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pose_lab.checkpoints import hrnet
from pose_lab.checkpoints.filling import check_fit, check_keypoints, copy, fill
from pose_lab.checkpoints.reading import StoredTensor, Weights
from pose_lab.nets.dekr import DEKRNet

RESCORER = "rescorer."
CONSTANT = "regular_matrix"  # the taps' regular places, in every published adaptive block
BLOCK = r"offset_feature_layers\.(\d+)\.(\d+)\.(.+)"
FINAL = r"offset_final_layer\.(\d+)\.(.+)"
PARTS = {"adapt_conv.weight": "weight"}  # published part of an adaptive block -> ours
# these follow each other within a branch
POSE = {"transform_matrix_conv": 0, "translation_conv": 1}


def config_changes(weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
    """What must change in a config of `DEKRNet` so that the weights fit: nothing, where they do.

    Raises:
        ValueError: these are neither DEKR's weights nor those of an HRNet.
    """
    return hrnet.config_changes(weights, net)


def load(net: DEKRNet, weights: Weights) -> str:
    """Fills a network with published weights, with those of a run, or its trunk with ImageNet's.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: they do not fit, are of another number of keypoints, or another method's; the network is untouched.
    """
    if hrnet.is_trunk(weights):
        return hrnet.load_trunk(net, weights)
    heatmaps = weights.tensors.get("head_heatmap.1.weight")
    if heatmaps is not None and heatmaps.shape:
        check_keypoints(weights, heatmaps.shape[0] - 1, net.num_keypoints)
    found, state = stacked(weights), net.state_dict()
    if any(name.startswith(RESCORER) for name in state) == has_rescorer(found):
        return fill(net, found)
    # poses and their rescoring are published apart: what only one side has stays as it is
    wanted = {name: tensor for name, tensor in state.items() if not name.startswith(RESCORER)}
    tensors = {name: tensor for name, tensor in found.tensors.items() if not name.startswith(RESCORER)}
    check_fit(found, tensors, wanted)
    copy(tensors, wanted)
    return f"all {len(wanted)} tensors but those for rescoring"


def has_rescorer(weights: Weights) -> bool:
    """Whether there is a rescoring network beside the poses', as in runs of ours."""
    return any(name.startswith(RESCORER) for name in weights.tensors)


def stacked(weights: Weights) -> Weights:
    """The weights with the branches' tensors joined, under `DEKRNet`'s names; others, and ours, stay as they are."""
    parts: dict[str, dict[tuple[int, int], StoredTensor]] = {}
    others: dict[str, StoredTensor] = {}
    for name, tensor in weights.tensors.items():
        if match := re.fullmatch(BLOCK, name):
            branch, block, part = int(match[1]), match[2], match[3]
            if part != CONSTANT:
                ours, place = _block_part(part)
                parts.setdefault(f"offset_features.{block}.{ours}", {})[branch, place] = tensor
        elif match := re.fullmatch(FINAL, name):
            parts.setdefault(f"offset_final.{match[2]}", {})[int(match[1]), 0] = tensor
        else:
            others[name] = tensor
    return replace(weights, tensors=others | {name: _joined(found) for name, found in parts.items()})


def _block_part(part: str) -> tuple[str, int]:
    """Our name of a part of an adaptive block, and its place among those that we keep together."""
    layer, _, kind = part.rpartition(".")
    if layer in POSE:
        return f"pose_{kind}", POSE[layer]
    return PARTS.get(part, part), 0


def _joined(found: Mapping[tuple[int, int], StoredTensor]) -> StoredTensor:
    """Tensors of branches one after the other along their first dimension; a counter, which is the same in all."""
    tensors = [found[key] for key in sorted(found)]
    first = tensors[0].shape
    if not first:
        return tensors[0]
    shape = (sum(tensor.shape[0] for tensor in tensors), *first[1:])

    def read() -> Tensor:
        return torch.cat([tensor.read() for tensor in tensors])

    same = all(tensor.shape[1:] == first[1:] for tensor in tensors)
    return StoredTensor(shape if same else (), read)
