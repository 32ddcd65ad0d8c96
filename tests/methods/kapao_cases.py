"""Networks, settings and fixtures that KAPAO's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import pose_lab.conf
from pose_lab.methods.kapao import Kapao, Labels
from pose_lab.methods.kapao_inference import Inference
from pose_lab.nets.csp import CSPPose
from pose_lab.poses import Batch, Instances
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import Skeleton
from tests.conftest import fixture_path

CONFIG = yaml.safe_load((Path(pose_lab.conf.__path__[0]) / "method" / "kapao.yaml").read_text())
PUBLISHED = {"clip_keypoints": "first_two", "clip_objects": True, "mapping": "published", "round_boxes": True}


def net(num_keypoints: int, width: float = 0.5, depth: float = 0.33, **changes: Any) -> CSPPose:
    arguments = {k: v for k, v in CONFIG["net"].items() if not k.startswith("_")}
    return CSPPose(num_keypoints, **(arguments | {"width": width, "depth": depth} | changes))


def tiny_net(num_keypoints: int, **changes: Any) -> CSPPose:
    """Two levels, a few thousand weights."""
    anchors = [[[6, 6], [10, 20], [20, 40]], [[20, 20], [40, 60], [90, 90]]]
    small = {"channels": [64, 64, 64, 128], "repeats": [1, 1, 1], "anchors": anchors}
    return net(num_keypoints, 0.125, 0.1, **small, **changes)


def kapao(skeleton: Skeleton | str, make_net: Callable[..., CSPPose] = tiny_net, **changes: Any) -> Kapao:
    left_out = (*LABELS, "defaults", "_target_", "skeleton", "net", "image_size")
    arguments = {key: value for key, value in CONFIG.items() if key not in left_out}
    arguments |= {"level_weights": [4.0, 1.0], "image_size": 64}
    return Kapao(skeleton, make_net, **(arguments | changes))


def labels(**changes: Any) -> Labels:
    return Labels(**(CONFIG["labels"] | changes))


def inference(**changes: Any) -> Inference:
    return Inference(**(CONFIG["inference"] | changes))


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(fixture_path(f"kapao/{name}.npz")) as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def people(image_index: list[int], keypoints: Tensor, boxes: Tensor) -> Instances:
    """Unscaled people of whom every keypoint with visibility is annotated."""
    return Instances(
        image_index=torch.tensor(image_index, dtype=torch.int64),
        boxes=boxes,
        keypoints=keypoints,
        labelled=keypoints[..., 2] > 0,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(-1),
        zoom=torch.ones(len(boxes)),
        ignore=torch.zeros(len(boxes), dtype=torch.bool),
    )


def batch(num_keypoints: int, image_index: list[int], images: int, size: int = 64) -> Batch:
    """Random pictures with random people well inside."""
    generator = torch.Generator().manual_seed(0)
    count = len(image_index)
    keypoints = torch.rand(count, num_keypoints, 3, generator=generator) * size
    keypoints[..., 2] = torch.randint(0, 3, (count, num_keypoints), generator=generator)
    boxes = torch.tensor([size / 8, size / 8, size * 0.7, size * 0.9]).expand(count, 4).clone()
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8),
        instances=people(image_index, keypoints, boxes),
        to_input=torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 2.0]], dtype=torch.float64).expand(images, 2, 3).clone(),
        sizes=torch.tensor([[2 * size - 8, 2 * size]]).expand(images, 2).clone(),
        image_ids=torch.arange(images),
    )
