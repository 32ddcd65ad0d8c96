"""Networks, settings and fixtures that HigherHRNet's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import pose_lab.conf
from pose_lab.methods.higherhrnet import HigherHRNet, Inference
from pose_lab.nets.higherhrnet import HigherHRNet as Network
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import Skeleton
from tests.conftest import fixture_path

FOLDER = Path(pose_lab.conf.__path__[0]) / "method"
CONFIG = yaml.safe_load((FOLDER / "higherhrnet.yaml").read_text())
OURS = CONFIG["inference"]
PUBLISHED = OURS | CONFIG["published_inference"]


def net(num_keypoints: int, width: int = 32, **changes: Any) -> Network:
    arguments = {key: value for key, value in CONFIG["net"].items() if not key.startswith("_")}
    return Network(num_keypoints, **(arguments | {"width": width} | changes))


def tiny_net(num_keypoints: int, **changes: Any) -> Network:
    small = {"modules": [1, 1], "blocks": 1, "stem": 8, "stem_blocks": 1, "residual_blocks": 1, "init_std": 0.1}
    return net(num_keypoints, 4, **(small | changes))


def ours(**changes: Any) -> Inference:
    return Inference(**(OURS | changes))


def published(**changes: Any) -> Inference:
    return Inference(**(PUBLISHED | changes))


def higherhrnet(skeleton: Skeleton | str, make_net: Callable[..., Network] = tiny_net, **changes: Any) -> HigherHRNet:
    left_out = (*LABELS, "defaults", "_target_", "skeleton", "net", "image_size")
    arguments = {key: value for key, value in CONFIG.items() if key not in left_out}
    arguments |= {"image_size": 64, "test_time": {"scales": [1.0], "flip": False}}
    return HigherHRNet(skeleton, make_net, **(arguments | changes))


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(fixture_path(f"higherhrnet/{name}.npz")) as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}
