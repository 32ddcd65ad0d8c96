"""Weights of the parity cases: every tensor is a function of its name, its shape and a gain."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def _fill_tensor(name: str, shape: tuple[int, ...], gain: float) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var") or (len(shape) < 2 and name.endswith("weight")):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        value = rng.normal(0.0, gain / math.sqrt(math.prod(shape[1:])), shape)
    else:
        value = rng.normal(0.0, 0.1, shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def fill_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a `state.json`: {"gain": float, "shapes": {name: [int, ...]}, "fixed": {name: nested list}}."""
    spec = json.loads(path.read_text())
    state = {name: _fill_tensor(name, tuple(shape), spec["gain"]) for name, shape in spec["shapes"].items()}
    return state | {name: torch.tensor(value) for name, value in spec["fixed"].items()}


def empty_state(path: Path) -> dict[str, Tensor]:
    """The same names and shapes, without numbers."""
    spec = json.loads(path.read_text())
    shapes = spec["shapes"] | {name: np.shape(value) for name, value in spec["fixed"].items()}
    return {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
