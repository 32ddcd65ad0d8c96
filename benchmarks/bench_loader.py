"""Loading and augmenting with KAPAO's recipe: pictures per second of one process with one thread, nothing cached.

`python -m benchmarks.bench_loader FOLDER`, with a folder in COCO's layout; by default the test data `coco_mini`.

How fast a core decodes JPEGs decides most of it, so each size is measured in turn with two more things: a loop that
builds the published mosaic as it is described, on a canvas of twice the size, pixels only (no labels, no checks); and
the decoding alone of the pictures that are shown. The aim is a ratio: 150 against 99 pictures/s at 640 px, 68 against
45 at 1280, as the published loader was measured on a faster core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pose_lab.data.augment import Augmentation
from pose_lab.data.images import Picture
from pose_lab.data.module import PoseDataModule, Split
from pose_lab.data.samples import Samples
from tests.conftest import SHARED

RECIPE = Augmentation(mosaic=1.0, scale=0.9, translate=0.1, flip=0.5, hue=0.015, saturation=0.7, value=0.4)
AIMS = {640: 150 / 99, 1280: 68 / 45}  # times the published loader's pictures per second


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
        val_fit="square",
        val_stride=64,
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


class DoubleCanvas:
    """KAPAO's training pictures as its paper's code is described to make them, without their labels.

    Args:
        paths: of the pictures.
        size: side of the output.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size, self.draws = paths, size, np.random.default_rng(0)

    def epoch(self) -> int:
        """Makes one picture for each file; returns their number."""
        return sum(len(self.picture(number)[None]) for number in range(len(self.paths)))

    def picture(self, number: int) -> Picture:
        """(3, S, S) mosaic of four, zoomed, moved, recoloured, perhaps mirrored."""
        canvas = self._mosaic([number, *self.draws.integers(len(self.paths), size=3)])
        zoom, (x, y) = self.draws.uniform(0.1, 1.9), self.draws.uniform(0.4, 0.6, 2) * self.size
        matrix = np.array([[zoom, 0, x - zoom * self.size], [0, zoom, y - zoom * self.size]])
        frame = cv2.warpAffine(canvas, matrix, (self.size, self.size), borderValue=(114, 114, 114))
        frame = self._recoloured(frame)
        if self.draws.random() < 0.5:
            frame = np.fliplr(frame)
        return np.ascontiguousarray(frame[:, :, ::-1].transpose(2, 0, 1))

    def _mosaic(self, numbers: Sequence[int]) -> Picture:
        side = 2 * self.size
        canvas = np.full((side, side, 3), 114, np.uint8)
        y, x = self.draws.integers(self.size // 2, 3 * self.size // 2, 2)
        for tile, number in enumerate(numbers):
            picture = cv2.imread(str(self.paths[number]))
            ratio = self.size / max(picture.shape[:2])
            if ratio != 1:
                picture = cv2.resize(picture, (int(picture.shape[1] * ratio), int(picture.shape[0] * ratio)))
            h, w = picture.shape[:2]
            top, left = (y - h, y)[tile // 2], (x - w, x)[tile % 2]
            y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + h, side), min(left + w, side)
            canvas[y0:y1, x0:x1] = picture[y0 - top : y1 - top, x0 - left : x1 - left]
        return canvas

    def _recoloured(self, frame: Picture) -> Picture:
        gains = 1 + self.draws.uniform(-1, 1, 3) * (0.015, 0.7, 0.4)
        levels = np.arange(256)
        tables = [levels * gains[0] % 180, np.clip(levels * gains[1], 0, 255), np.clip(levels * gains[2], 0, 255)]
        planes = cv2.split(cv2.cvtColor(frame, cv2.COLOR_BGR2HSV))
        hsv = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
        return cv2.cvtColor(cv2.merge(hsv), cv2.COLOR_HSV2BGR)


class DecodingAlone(Samples):
    """The pictures of a split's plan, read and checked, but not drawn."""

    def _draw(self, frame: Picture, drawing: Any, *_: Any) -> None:
        left, top, right, bottom = drawing.window
        if left < right and top < bottom:
            self._read(drawing.source, drawing.shrink)


def rates(makers: Mapping[str, Callable[[], int]], epochs: int) -> dict[str, float]:
    """Pictures per second of processor time in each maker's best epoch; they take turns."""
    best = dict.fromkeys(makers, 0.0)
    for _ in range(epochs):
        for name, make in makers.items():
            start = time.process_time()
            count = make()
            best[name] = max(best[name], count / (time.process_time() - start))
    return best


def makers(module: PoseDataModule, size: int) -> dict[str, Callable[[], int]]:
    """What is compared at one size: functions that go through the training pictures once and return their number."""
    ours, decoding = module.train_dataloader(), module.train_dataloader()
    decoding.samples.__class__ = DecodingAlone
    paths = sorted((module.root / module.splits["train"].images).iterdir())
    return {
        "ours": lambda: sum(map(len, ours)),
        "reference": DoubleCanvas(paths, size).epoch,
        "decoding": lambda: sum(map(len, decoding)),
    }


def measure(root: Path | None = None, epochs: int = 6) -> list[dict[str, Any]]:
    """One row per size; none where the pictures are absent."""
    root = root or SHARED / "data" / "coco_mini"
    if not root.exists():
        return []
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for size, aim in AIMS.items():
            rate = rates(makers(data_module(root, Path(cache), size), size), epochs)
            what = f"loader, KAPAO's recipe at {size} px, one core"
            row = {"what": what, "value": round(rate["ours"], 1), "unit": "pictures/s"}
            row |= {"target": round(aim * rate["reference"], 1)}
            beside = {"double canvas, no labels": rate["reference"], "decoding alone": rate["decoding"]}
            rows.append(row | {"reference": "; ".join(f"{name}: {value:.1f}" for name, value in beside.items())})
    return rows


if __name__ == "__main__":
    for line in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(line)
