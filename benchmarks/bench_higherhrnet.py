"""HigherHRNet's post-processing of a crowded picture, and the cost of its losses in a training step.

Run with `OMP_NUM_THREADS=1 python -m benchmarks.bench_higherhrnet`; everything is measured on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.steps import batch_of, config_of, milliseconds, net_of, numbers_of, training_step, with_threads
from pose_lab.methods.bottom_up_scene import crowd, tagged_maps
from pose_lab.methods.higherhrnet import Candidates, Found, HigherHRNet, Inference, find
from pose_lab.nets.higherhrnet import HigherHRNet as Network
from pose_lab.ops.enlarging import enlarged
from pose_lab.skeletons import COCO

CONFIG = config_of("higherhrnet")
FRAME, PEOPLE = (640, 640), 26
PUBLISHED_MS = 3049.0  # the published code on one core of another machine, its enlarging of the maps apart
SCANNED = 2  # people whose refinement the reference does


def _scan(heat: Tensor, tags: Tensor, means: Tensor) -> list[tuple[int, float]]:
    """The published refinement of people with mean tags (P, T): every map whole, for every person and kind.

    Returns the best pixel of each person and kind and the heatmap there.
    """
    found = []
    for mean in means:
        for values, numbers in zip(heat, tags, strict=True):
            distance = (numbers - mean[:, None, None]).square().sum(0).sqrt()
            place = int((values - distance.round()).argmax())
            found.append((place, float(values.flatten()[place])))
    return found


@torch.inference_mode()
def post_processing(repeats: int = 20) -> list[dict[str, Any]]:
    """From the aggregated maps to people, beside parts of what the published code does with them.

    Raises:
        RuntimeError: people are missing, or keypoints of them.
    """
    settings = Inference(**CONFIG["inference"])
    candidates = Candidates(*tagged_maps(crowd(PEOPLE, FRAME, len(COCO)), FRAME, (2, 4), tags=2))

    def ours(**changes: Any) -> Found:
        return find(candidates, FRAME, settings.kinds(COCO), replace(settings, **changes))

    def whole_maps() -> tuple[Tensor, Tensor]:
        tags = enlarged(enlarged(candidates.tags.flatten(1, 2), candidates.heatmaps.shape[2:]), FRAME)
        return enlarged(candidates.heatmaps, FRAME)[0], tags.unflatten(1, (len(COCO), -1))[0]

    found = ours()
    groups = len(found.scores)  # more than people, where these cover each other
    if groups < PEOPLE or not (found.keypoint_scores > 0).all():
        raise RuntimeError(f"{groups} people found, {PEOPLE} drawn")
    heat, tags = whole_maps()
    means = torch.rand(SCANNED, tags.shape[1])
    actions: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "without refinement": lambda: ours(refine=False),
        "enlarging all maps": whole_maps,
        "pooling enlarged maps": lambda: F.max_pool2d(heat, settings.window, 1, settings.window // 2),
        f"whole scans for {SCANNED} people": lambda: _scan(heat, tags, means),
    }
    rounds = [{name: milliseconds(action) for name, action in actions.items()} for _ in range(repeats)]
    times = {name: median(one[name] for one in rounds) for name in actions}
    value = times.pop("ours")
    scanning = times[f"whole scans for {SCANNED} people"] * PEOPLE / SCANNED
    reference = times["enlarging all maps"] + times["pooling enlarged maps"] + scanning
    what = f"HigherHRNet from maps to {PEOPLE} people with refinement, {FRAME[1]} x {FRAME[0]}, flip"
    numbers = {"groups": groups, "published": PUBLISHED_MS} | times | {"enlarging, pooling, scans for all": reference}
    return [{"what": what, "value": value, "unit": "ms", "target": 100.0, **numbers, "ratio": reference / value}]


def step(images: int, size: int, repeats: int = 5, **changes: Any) -> list[dict[str, Any]]:
    net = net_of(CONFIG) | changes
    numbers = numbers_of(CONFIG) | {"test_time": {"scales": [1.0], "flip": True}}
    method = HigherHRNet(COCO, lambda num_keypoints: Network(num_keypoints, **net), image_size=size, **numbers)
    what = f"HigherHRNet, {images} pictures of {size}, width {net['width']}:"
    return [training_step(method, batch_of(images, size, 4), what, None, repeats)]


def measure() -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    with with_threads(1):
        small = {"width": 12, "modules": [1, 1], "blocks": 2, "stem": 16, "stem_blocks": 1, "residual_blocks": 1}
        return post_processing() + step(8, 96, **small) + step(1, 256, repeats=3)


if __name__ == "__main__":
    for row in measure():
        print(row)
