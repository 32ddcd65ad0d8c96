"""Putting a checkpoint's weights into a network, strictly: every tensor has its place, and every place its tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pose_lab.checkpoints.pickles import shown
from pose_lab.checkpoints.reading import StoredTensor, Weights

MAX_LISTED = 20  # tensors of each kind that a message names

# names that only the weights of one published method have
METHODS = {
    "YOLO-Pose": r"model\.\d+\.m_kpt\.",
    "DEKR": r"offset_final_layer\.",
    "HigherHRNet": r"deconv_layers\.\d+\.\d+\.\d+\.",
    "AlphaPose": r"preact\.",
    "OpenPose": r"model\d+(_\d+)?\.",
    "HRNet": r"stage4\.",
}


def method_of(names: Iterable[str]) -> str | None:
    """Whose weights have such names; None: nobody's that is known here."""
    names = list(names)
    return next((method for method, mark in METHODS.items() if any(re.match(mark, name) for name in names)), None)


def fill(net: nn.Module, weights: Weights) -> str:
    """Copies all tensors of a checkpoint into a network of the same names and shapes; returns what was done, in words.

    Numbers are converted to the network's type.

    Raises:
        ValueError: tensors are missing, too many, or of other shapes: the message lists them; the network is untouched.
    """
    state = net.state_dict()
    check_fit(weights, weights.tensors, state)
    copy(weights.tensors, state)
    return f"all {len(state)} tensors"


@torch.no_grad()
def copy(tensors: Mapping[str, StoredTensor], state: Mapping[str, Tensor]) -> None:
    """Fills each tensor of `state` with the stored one of its name."""
    for name, target in state.items():
        target.copy_(tensors[name].read())


def check_fit(weights: Weights, found: Mapping[str, StoredTensor], wanted: Mapping[str, Tensor]) -> None:
    """Compares names and shapes of (a part of) a checkpoint with those that a network wants.

    Raises:
        ValueError: they differ; the message lists how, and says whose weights these are if they are another method's.
    """
    missing = [f"{name} {_shape(wanted[name].shape)}" for name in wanted if name not in found]
    surplus = [f"{shown(name)} {_shape(found[name].shape)}" for name in found if name not in wanted]
    other = [
        f"{name} {_shape(found[name].shape)}, wanted {_shape(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tuple(tensor.shape)
    ]
    if not (missing or surplus or other):
        return
    method = method_of(weights.tensors)
    lists = {"missing": missing, "surplus": surplus, "of another shape": other}
    raise ValueError(
        f"{weights.path} does not fit the network"
        + (f"; these look like weights of {method}" if method else "")
        + "".join(_listed(title, lines) for title, lines in lists.items() if lines)
    )


def check_keypoints(weights: Weights, found: int, wanted: int) -> None:
    """Compares the number of keypoints of a checkpoint with the data's.

    Raises:
        ValueError: they differ.
    """
    if found != wanted:
        raise ValueError(
            f"{weights.path} has {found} keypoints, but the data has {wanted}: use data with the checkpoint's "
            "keypoints, or weights that were trained for the data's"
        )


def _shape(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _listed(title: str, lines: list[str]) -> str:
    more = [f"... and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
    return "".join(f"\n  {line}" for line in [f"{len(lines)} {title}:", *lines[:MAX_LISTED], *more])
