"""Networks, settings and fixtures that DEKR's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import pose_lab.conf
from pose_lab.methods.dekr import Dekr, Inference
from pose_lab.nets.dekr import DEKRNet
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import Skeleton
from tests.conftest import fixture_path

FOLDER = Path(pose_lab.conf.__path__[0]) / "method"
CONFIG = yaml.safe_load((FOLDER / "dekr.yaml").read_text())
CONFIG["inference"]["heat_scores"] = True  # as the config's losses say


def net(num_keypoints: int, width: int = 32, **changes: Any) -> DEKRNet:
    arguments = {key: value for key, value in CONFIG["net"].items() if not key.startswith("_")}
    return DEKRNet(num_keypoints, **(arguments | {"width": width} | changes))


def tiny_net(num_keypoints: int, **changes: Any) -> DEKRNet:
    small = {"modules": [1, 1], "blocks": 1, "stem": 8, "stem_blocks": 1, "offset_channels": 3, "init_std": 0.1}
    return net(num_keypoints, 4, **(small | changes))


def dekr(skeleton: Skeleton | str, make_net: Callable[..., DEKRNet] = tiny_net, **changes: Any) -> Dekr:
    left_out = (*LABELS, "defaults", "_target_", "skeleton", "net", "image_size")
    arguments = {key: value for key, value in CONFIG.items() if key not in left_out}
    arguments |= {"image_size": 64, "test_time": {"scales": [1.0], "flip": False}}
    return Dekr(skeleton, make_net, **(arguments | changes))


def inference(**changes: Any) -> Inference:
    return Inference(**(CONFIG["inference"] | changes))


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(fixture_path(f"dekr/{name}.npz")) as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}
