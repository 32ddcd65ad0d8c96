"""Opening an annotation file of train2017's size, and what it costs each loader worker in private memory.

`python -m benchmarks.bench_index`
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from pose_lab.data.annotations import ReadingRules, load_annotations
from pose_lab.data.augment import Augmentation
from pose_lab.data.loader import EpochLoader, EpochSampler
from pose_lab.data.samples import Samples, View
from pose_lab.skeletons import COCO

IMAGES, PEOPLE = 118_000, 262_000
SIDE = 64  # of the frame: so small that pictures in flight do not hide the memory of the index
RECIPE = Augmentation(mosaic=1.0, scale=0.9, translate=0.1, flip=0.5, hue=0.015, saturation=0.7, value=0.4)
BATCHES = 200


def write_annotations(path: Path) -> None:
    """A file in COCO's layout with as many pictures and people as train2017; all pictures are one file."""
    rng = np.random.default_rng(0)
    images = [{"id": i + 1, "file_name": "picture.jpg", "height": 480, "width": 640} for i in range(IMAGES)]
    keypoints = rng.integers(0, 480, (PEOPLE, len(COCO), 3))
    keypoints[..., 2] %= 3
    keypoints = keypoints.reshape(PEOPLE, -1)
    boxes = rng.uniform(1, 300, (PEOPLE, 4)).round(2).tolist()
    owners = rng.integers(1, IMAGES + 1, PEOPLE).tolist()
    people = [
        {"id": n, "image_id": owner, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "keypoints": points}
        for n, (owner, box, points) in enumerate(zip(owners, boxes, keypoints.tolist(), strict=True))
    ]
    path.write_text(json.dumps({"images": images, "annotations": people}))


def opening_seconds(path: Path, cache: Path) -> float:
    """How long one call takes, with a look at every array."""
    start = time.perf_counter()
    annotations = load_annotations(path, ReadingRules(COCO), cache)
    annotations.starts.sum()
    return time.perf_counter() - start


def worker_memory(path: Path, cache: Path) -> float:
    """MB of private memory (USS) that the hungriest of two loader workers has gained since it was forked."""
    annotations = load_annotations(path, ReadingRules(COCO), cache)
    samples = Samples(annotations, path.parent, COCO, View((SIDE, SIDE), 114, 0, RECIPE))
    loader = EpochLoader(samples, EpochSampler(len(samples), 4, shuffle=True), workers=2)
    bare = _bare_fork()
    for _ in zip(range(BATCHES), loader, strict=False):
        pass
    workers = psutil.Process().children()
    return max(worker.memory_full_info().uss for worker in workers) / 1e6 - bare


def _bare_fork() -> float:
    """MB of private memory of a forked process that does nothing."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    time.sleep(0.5)
    memory = psutil.Process(process.pid).memory_full_info().uss / 1e6
    process.kill()
    process.join()
    return memory


def measure() -> list[dict[str, Any]]:
    """First and second opening, and the memory of a worker."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "annotations.json", Path(folder) / "cache"
        write_annotations(path)
        cv2.imwrite(str(path.parent / "picture.jpg"), np.zeros((480, 640, 3), np.uint8))
        first, second = opening_seconds(path, cache), opening_seconds(path, cache)
        memory = worker_memory(path, cache)
    what = f"annotations of {IMAGES:,} pictures and {PEOPLE:,} people"
    return [
        {"what": f"{what}, first opening", "value": round(first, 2), "unit": "s", "target": None},
        {"what": f"{what}, second opening", "value": round(second, 3), "unit": "s", "target": 0.5},
        {"what": f"{what}, private memory per worker", "value": round(memory, 1), "unit": "MB", "target": 20},
    ]


if __name__ == "__main__":
    for line in measure():
        print(line)
