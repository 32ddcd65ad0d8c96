"""What the benchmarks of methods share: their config, a drawn batch, and a training step beside its bare network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor

import pose_lab.conf
from pose_lab.methods.base import PoseMethod
from pose_lab.poses import Batch, Instances
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import COCO

NOT_NUMBERS = (*LABELS, "defaults", "_target_", "skeleton", "net", "image_size")


def config_of(method: str) -> dict[str, Any]:
    return yaml.safe_load((Path(pose_lab.conf.__path__[0]) / "method" / f"{method}.yaml").read_text())


def net_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config["net"].items() if not key.startswith("_")}


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_NUMBERS}


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(action: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of `clock`; by default the processor time of all threads."""
    start = clock()
    action()
    return 1000 * (clock() - start)


def batch_of(images: int, size: int, per_image: int) -> Batch:
    """Noise with people at random places."""
    torch.manual_seed(0)
    count = images * per_image
    corner = torch.rand(count, 2) * size / 2
    sides = (0.2 + 0.3 * torch.rand(count, 2)) * size
    points = corner[:, None] + torch.rand(count, len(COCO), 2) * sides[:, None]
    visibility = torch.randint(0, 3, (count, len(COCO), 1))
    people = Instances(
        image_index=torch.arange(images).repeat_interleave(per_image),
        boxes=torch.cat((corner, corner + sides), 1),
        keypoints=torch.cat((points, visibility), 2),
        labelled=visibility[..., 0] > 0,
        areas=sides.prod(1),
        zoom=torch.ones(count),
        ignore=torch.zeros(count, dtype=torch.bool),
    )
    pictures = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    maps = torch.eye(2, 3, dtype=torch.float64).expand(images, 2, 3)
    return Batch(pictures, people, maps, torch.full((images, 2), size), torch.arange(images))


def training_step(method: PoseMethod, batch: Batch, what: str, target: float | None, repeats: int) -> dict[str, Any]:
    """Forward, losses and backward over forward and backward of the bare network; the two alternate."""
    gradients = [torch.randn_like(out) for out in _outputs(method.net(batch.images / 255))]

    def bare() -> None:
        torch.autograd.backward(list(_outputs(method.net(batch.images / 255))), gradients)

    def whole() -> None:
        torch.stack(tuple(method.losses(batch).values())).sum().backward()

    bare(), whole()
    pairs = [(milliseconds(bare), milliseconds(whole)) for _ in range(repeats)]
    value = median(whole / bare for bare, whole in pairs)
    row = {"what": f"{what} training step over the bare network's", "value": value, "unit": "x"}
    return row | ({"target": target} if target else {}) | {"milliseconds": median(pair[1] for pair in pairs)}


def _outputs(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    else:
        for part in found:
            yield from _outputs(part)
