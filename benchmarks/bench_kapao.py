"""KAPAO's post-processing of a crowded picture, and the cost of its loss in a training step.

Run with `OMP_NUM_THREADS=1 python -m benchmarks.bench_kapao`; everything is measured on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

import pose_lab.conf
from pose_lab.methods.kapao import Inference, Kapao, above, find_people
from pose_lab.methods.kapao_scene import scene
from pose_lab.nets.csp import CSPPose
from pose_lab.poses import Batch, Instances
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import COCO, Skeleton

CONFIG = yaml.safe_load((Path(pose_lab.conf.__path__[0]) / "method" / "kapao.yaml").read_text())
FRAME, ROWS, PEOPLE = (720, 1280), 102_000, 30
PUBLISHED_MS = 14.2  # 4.8 suppression, 9.4 fusion, on one core of the machine of the issue


def _milliseconds(action: Callable[[], Any], repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1000 * median(times)


def post_processing(repeats: int = 50) -> list[dict[str, Any]]:
    """From decoded rows to people in the original picture."""
    rows, settings = scene(PEOPLE, ROWS, FRAME, len(COCO)), Inference(**CONFIG["inference"])
    maps, sizes = torch.eye(2, 3, dtype=torch.float64)[None], torch.tensor([FRAME])

    def action() -> None:
        some, image_index = above(rows, settings.threshold)
        find_people(some, image_index, len(COCO), maps, sizes, settings)

    value = _milliseconds(action, repeats)
    what = "KAPAO post-processing, 30 people, 102,000 rows"
    return [{"what": what, "value": value, "unit": "ms", "target": 3.0, "reference": PUBLISHED_MS}]


def _batch(images: int, size: int, per_image: int, skeleton: Skeleton) -> Batch:
    torch.manual_seed(0)
    count, num_keypoints = images * per_image, len(skeleton)
    corner = torch.rand(count, 2) * size / 2
    sides = (0.2 + 0.3 * torch.rand(count, 2)) * size
    points = corner[:, None] + torch.rand(count, num_keypoints, 2) * sides[:, None]
    visibility = torch.randint(0, 3, (count, num_keypoints, 1))
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


def _method(size: int, width: float) -> Kapao:
    net = {key: value for key, value in CONFIG["net"].items() if not key.startswith("_")}
    net |= {"width": width, "depth": 0.33, "anchor_scale": size / 1280}
    left_out = (*LABELS, "defaults", "_target_", "skeleton", "net", "image_size")
    numbers = {key: value for key, value in CONFIG.items() if key not in left_out}
    return Kapao(COCO, lambda num_keypoints: CSPPose(num_keypoints, **net), image_size=size, **numbers)


def training_step(images: int, size: int, width: float, repeats: int = 8) -> list[dict[str, Any]]:
    """Forward, loss and backward over forward and backward of the bare network; the two alternate."""
    method, batch = _method(size, width), _batch(images, size, 4, COCO)
    gradients = [torch.randn_like(out) for out in method.net(batch.images / 255)]

    def bare() -> None:
        torch.autograd.backward(method.net(batch.images / 255), gradients)

    def whole() -> None:
        torch.stack(tuple(method.losses(batch).values())).sum().backward()

    pairs = [(_milliseconds(bare, 1), _milliseconds(whole, 1)) for _ in range(repeats)]
    ratio = median(whole / bare for bare, whole in pairs)
    what = f"KAPAO training step over the bare network's, {images} pictures of {size}, width {width}"
    milliseconds = median(pair[1] for pair in pairs)
    return [{"what": what, "value": ratio, "unit": "x", "target": 1.1, "milliseconds": milliseconds}]


def measure() -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return post_processing() + training_step(32, 128, 0.25) + training_step(2, 640, 0.5, repeats=3)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for row in measure():
        print(row)
