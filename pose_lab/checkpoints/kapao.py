"""KAPAO's published weights, and those of the YOLOv5 detector that its training starts from.

`CSPPose` has the published names, so nothing is renamed. What the names and shapes tell is the architecture: channels
and repeats of each stage, anchors, and from the head's C = 3 K + 6 outputs per anchor the number of keypoints K. A head
of any other C is a detector's, of which only the trunk is taken.

Source: McNally et al., ECCV 2022 (arXiv 2111.08557), its published code and checkpoints; YOLOv5 up to release 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pose_lab.checkpoints.filling import check_fit, check_keypoints, copy, fill, method_of
from pose_lab.checkpoints.reading import StoredTensor, Weights
from pose_lab.nets.csp import BOX_COLUMNS, CSPPose, scaled_channels, scaled_repeats

Blocks = Mapping[int, Mapping[str, StoredTensor]]


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's tensors tell about its network.

    Attributes:
        channels: of the focus layer and of each stage.
        repeats: bottlenecks of each stage's block.
        neck_repeats: bottlenecks of each block of the neck.
        anchors: per level, width and height in pixels.
        num_keypoints: K; None for a detector.
    """

    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    neck_repeats: int
    anchors: tuple[tuple[tuple[float, ...], ...], ...]
    num_keypoints: int | None


def architecture(weights: Weights) -> Architecture:
    """Reads the architecture off the names and shapes.

    Raises:
        ValueError: these are no weights of KAPAO, nor of a YOLOv5 detector of its generation.
    """
    blocks: defaultdict[int, dict[str, StoredTensor]] = defaultdict(dict)
    for name, tensor in weights.tensors.items():
        model, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        if model == "model" and number.isdecimal() and len(number) < 4:
            blocks[int(number)][rest] = tensor
    method = method_of(weights.tensors)
    try:
        if method is None:
            channels, repeats, neck_repeats = _trunk(blocks)
            anchors, num_keypoints = _head(blocks, len(repeats))
            return Architecture(channels, repeats, neck_repeats, anchors, num_keypoints)
        why = f"these look like weights of {method}"
    except KeyError as error:
        why = f"tensor {error.args[0]} is missing or of an odd shape, of {len(weights.tensors)} tensors"
    raise ValueError(f"{weights.path} is no checkpoint of KAPAO or of a YOLOv5 detector up to release 5: {why}")


def _shape(blocks: Blocks, number: int, name: str, dimensions: int) -> tuple[int, ...]:
    """A tensor's shape; KeyError where there is no such tensor."""
    tensor = blocks.get(number, {}).get(name)
    if tensor is None or len(tensor.shape) != dimensions or 0 in tensor.shape:
        raise KeyError(f"model.{number}.{name}")
    return tensor.shape


def _trunk(blocks: Blocks) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Channels, repeats and repeats of the neck, walking the blocks in the order of their construction."""
    channels, repeats = [_shape(blocks, 0, "conv.conv.weight", 4)[0]], []
    number, deepest = 1, False
    while not deepest:
        channels.append(_shape(blocks, number, "conv.weight", 4)[0])
        deepest = "cv3.conv.weight" not in blocks.get(number + 1, {})  # pooling instead of a cross-stage block
        number += 2 if deepest else 1
        repeats.append(_repeats(blocks, number))
        number += 1
    return tuple(channels), tuple(repeats), _repeats(blocks, number + 3)  # after convolution, enlargement, joining


def _repeats(blocks: Blocks, number: int) -> int:
    """How many bottlenecks a cross-stage block has."""
    _shape(blocks, number, "m.0.cv1.conv.weight", 4)
    return len([name for name in blocks[number] if name.startswith("m.") and name.endswith(".cv1.conv.weight")])


def _head(blocks: Blocks, stages: int) -> tuple[tuple[tuple[tuple[float, ...], ...], ...], int | None]:
    """Anchors in pixels, and the number of keypoints."""
    number = max((number for number, block in blocks.items() if "anchors" in block), default=max(blocks))
    levels, per_cell, pair = _shape(blocks, number, "anchors", 3)
    outputs, odd = divmod(_shape(blocks, number, "m.0.weight", 4)[0], per_cell)
    if pair != 2 or not 2 <= levels <= stages or odd:
        raise KeyError(f"model.{number}.anchors")
    anchors = _anchors(blocks[number], stages, (levels, per_cell, pair))
    if not (anchors.isfinite().all() and (anchors > 0).all()):
        raise KeyError(f"model.{number}.anchors")
    num_keypoints, rest = divmod(outputs - BOX_COLUMNS - 2, 3)
    sizes = tuple(tuple(tuple(pair) for pair in level) for level in anchors.tolist())
    return sizes, num_keypoints if num_keypoints > 0 and not rest else None


def _anchors(head: Mapping[str, StoredTensor], stages: int, shape: tuple[int, int, int]) -> Tensor:
    """(L, A, 2) in pixels: those that boxes are decoded with, where the head has them apart, else the ones in cells."""
    levels, per_cell, _ = shape
    pixels = head.get("anchor_grid")
    if pixels is not None and pixels.shape == (levels, 1, per_cell, 1, 1, 2):
        return pixels.read().float().view(shape)
    strides = torch.tensor([2.0 ** (stages - levels + level + 2) for level in range(levels)])
    return head["anchors"].read().float() * strides.view(-1, 1, 1)


def config_changes(found: Architecture, net: Mapping[str, Any]) -> dict[str, Any]:
    """What must change in a config of `CSPPose` so that the weights fit: nothing, where they do.

    A width and a depth for the config's channels and repeats if there are such, else the lists themselves. The anchors
    are the checkpoint's; a detector's only where the config has another number of levels.

    Args:
        found: the checkpoint's architecture.
        net: arguments of `CSPPose`.
    """
    changes = _width(found, net) | _depth(found, net)
    detector = found.num_keypoints is None  # the published training takes the config's anchors
    other_levels = len(net["anchors"]) != len(found.anchors)
    if other_levels or not (detector or _same_anchors(found, net)):
        pairs = [[list(pair) for pair in level] for level in found.anchors]
        changes |= {"anchors": pairs, "anchor_scale": 1.0}
    return changes


def _width(found: Architecture, net: Mapping[str, Any]) -> dict[str, Any]:
    base, wanted = net["channels"], list(found.channels)
    if scaled_channels(base, net["width"]) == wanted:
        return {}
    width = wanted[-1] / base[-1]
    if scaled_channels(base, width) == wanted:
        return {"width": width}
    return {"channels": wanted, "width": 1.0}


def _depth(found: Architecture, net: Mapping[str, Any]) -> dict[str, Any]:
    base, wanted = [*net["repeats"], net["neck_repeats"]], [*found.repeats, found.neck_repeats]
    if scaled_repeats(base, net["depth"]) == wanted:
        return {}
    depth = round(max(wanted) / max(base), 2)  # published: 0.33 and 0.67
    if scaled_repeats(base, depth) == wanted:
        return {"depth": depth}
    return {"repeats": list(found.repeats), "neck_repeats": found.neck_repeats, "depth": 1.0}


def _same_anchors(found: Architecture, net: Mapping[str, Any]) -> bool:
    anchors, per_cell = torch.tensor(found.anchors), len(found.anchors[0])
    if any(len(level) != per_cell for level in net["anchors"]):
        return False
    return torch.equal(torch.tensor(net["anchors"], dtype=torch.float32) * net["anchor_scale"], anchors)


def load(net: CSPPose, weights: Weights) -> str:
    """Fills a network with a checkpoint's weights: all of them, or a detector's trunk.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: they are another method's, of another number of keypoints, or do not fit; the network is untouched.
    """
    found = architecture(weights)
    head = f"model.{len(net.model) - 1}.m.0.weight"
    if head in weights.tensors and weights.tensors[head].shape == net.state_dict()[head].shape:
        return fill(net, weights)  # of K keypoints with confidences, too, which no number of outputs alone tells apart
    if found.num_keypoints is None:
        return _load_trunk(net, weights)
    check_keypoints(weights, found.num_keypoints, net.num_keypoints)
    return fill(net, weights)


def _load_trunk(net: CSPPose, weights: Weights) -> str:
    """All but the head, as the published training starts."""
    head = f"model.{len(net.model) - 1}."

    def trunk(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}

    state: dict[str, Tensor] = net.state_dict()
    wanted = trunk(state)
    check_fit(weights, trunk(weights.tensors), wanted)
    copy(weights.tensors, wanted)
    return f"{len(wanted)} of {len(state)} tensors, the trunk of a detector; the head starts anew"
