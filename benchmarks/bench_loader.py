"""Loading and augmenting with KAPAO's recipe: pictures per second of one process with one thread, nothing cached.

`python -m benchmarks.bench_loader FOLDER`, with a folder in COCO's layout; by default the test data `coco_mini`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from pose_lab.data.augment import Augmentation
from pose_lab.data.module import PoseDataModule, Split
from tests.conftest import SHARED

RECIPE = Augmentation(mosaic=1.0, scale=0.9, translate=0.1, flip=0.5, hue=0.015, saturation=0.7, value=0.4)
TARGETS = {640: (150, 99), 1280: (68, 45)}  # ours at least, the published loader's


def data_module(root: Path, cache: Path, image_size: int) -> PoseDataModule:
    """COCO's training split with KAPAO's recipe."""
    split = Split("person_keypoints_train2017.json", "train2017")
    module = PoseDataModule(
        name="coco",
        root=root,
        skeleton="coco",
        annotation_folders=["annotations"],
        train=split,
        val=split,
        area_factor=None,
        image_size=image_size,
        batch_size=16,
        val_batch_size=16,
        augment=RECIPE,
        val_stride=None,
        drop_last=False,
        pad_value=114,
        bad_records="error",
        bad_images="error",
        workers=0,
        seed=0,
        cache=cache,
    )
    module.setup()
    return module


def pictures_per_second(module: PoseDataModule, epochs: int) -> tuple[float, float]:
    """The best epoch by processor time, and by wall time."""
    loader, cpu, wall = module.train_dataloader(), [], []
    for _ in range(epochs):
        start, start_wall = time.process_time(), time.perf_counter()
        count = sum(len(batch) for batch in loader)
        cpu.append(count / (time.process_time() - start))
        wall.append(count / (time.perf_counter() - start_wall))
    return max(cpu), max(wall)


def measure(root: Path | None = None, epochs: int = 6) -> list[dict[str, Any]]:
    """One row per size; none where the pictures are absent."""
    root = root or SHARED / "data" / "coco_mini"
    if not root.exists():
        return []
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for size, (target, published) in TARGETS.items():
            cpu, wall = pictures_per_second(data_module(root, Path(cache), size), epochs)
            what = f"loader, KAPAO's recipe at {size} px, one core"
            row = {"what": what, "value": round(cpu, 1), "unit": "pictures/s", "target": target}
            rows.append(row | {"reference": f"published loader: {published}; by wall time: {wall:.1f}"})
    return rows


if __name__ == "__main__":
    for line in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(line)
