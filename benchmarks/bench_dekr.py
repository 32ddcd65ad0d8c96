"""DEKR's post-processing of a crowded picture, and the cost of its losses in a training step.

Run with `OMP_NUM_THREADS=1 python -m benchmarks.bench_dekr`; everything is measured on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.steps import batch_of, config_of, milliseconds, net_of, numbers_of, training_step, with_threads
from pose_lab.methods.dekr import STRIDE, Dekr, Inference, Maps, decode, suppress
from pose_lab.nets.dekr import DEKRNet
from pose_lab.skeletons import COCO

CONFIG = config_of("dekr")
CONFIG["inference"]["heat_scores"] = True  # as the config's losses say
SIDE, PEOPLE = 160, 30  # cells, people
PUBLISHED_MS = 24.0  # on one core of the machine of the issue
FLIP = torch.tensor(COCO.flip)


def _median(action: Callable[[], Any], repeats: int) -> float:
    action()
    return median(milliseconds(action) for _ in range(repeats))


def _crowd() -> Maps:
    """Maps that show people on a grid, in the picture and in its mirror image."""
    generator = torch.Generator().manual_seed(0)
    num_keypoints, columns = len(COCO), 6
    place = torch.arange(PEOPLE)
    centres = torch.stack([place % columns, place // columns], 1) * 24 + 14
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    heat = torch.rand(1, num_keypoints + 1, SIDE, SIDE, generator=generator) * 0.5
    squares = (x - centres[:, :1, None]) ** 2 + (y - centres[:, 1:, None]) ** 2
    heat[0, -1] = (torch.exp(-squares / 32) * torch.linspace(0.3, 0.9, PEOPLE)[:, None, None]).amax(0)
    offsets = torch.randn(1, 2 * num_keypoints, SIDE, SIDE, generator=generator) * 8
    return Maps(1.0, heat, offsets, (heat.flip(3), offsets.flip(3)))


def _enlarged(maps: Maps) -> Tensor:
    """(K + 1, 4 h, 4 w): averaged heatmaps enlarged as the published code does before it reads them."""
    assert maps.mirrored is not None
    average = (maps.heatmaps + maps.mirrored[0].flip(3)) / 2
    height, width = average.shape[2:]
    size = (STRIDE * height - STRIDE + 1, STRIDE * width - STRIDE + 1)
    enlarged = F.interpolate(average, size, mode="bilinear", align_corners=True)
    return F.pad(enlarged, (0, STRIDE - 1, 0, STRIDE - 1), mode="replicate")[0]


@torch.inference_mode()
def post_processing(repeats: int = 50) -> list[dict[str, Any]]:
    """From the network's maps to people; beside it, enlarging the maps alone, which the published code does."""
    maps, settings = _crowd(), Inference(**CONFIG["inference"])

    def ours() -> None:
        suppress(decode([maps], FLIP, settings), settings)

    people = int(suppress(decode([maps], FLIP, settings), settings)[1].sum())
    assert people == PEOPLE, f"{people} people found, {PEOPLE} drawn"
    pairs = [(_median(ours, 1), _median(lambda: _enlarged(maps), 1)) for _ in range(repeats)]
    value, enlarging = (median(column) for column in zip(*pairs, strict=True))
    what = f"DEKR post-processing, {PEOPLE} people, maps of {SIDE} x {SIDE}, flip"
    numbers = {"published": PUBLISHED_MS, "enlarging alone": enlarging, "ratio": enlarging / value}
    return [{"what": what, "value": value, "unit": "ms", "target": 3.0, **numbers}]


def step(images: int, size: int, repeats: int = 5, **changes: Any) -> list[dict[str, Any]]:
    net = net_of(CONFIG) | changes
    numbers = numbers_of(CONFIG) | {"test_time": {"scales": [1.0], "flip": True}}
    method = Dekr(COCO, lambda num_keypoints: DEKRNet(num_keypoints, **net), image_size=size, **numbers)
    what = f"DEKR, {images} pictures of {size}, width {net['width']}:"
    return [training_step(method, batch_of(images, size, 4), what, 1.15, repeats)]


def measure() -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    with with_threads(1):
        small = {"width": 12, "modules": [1, 1], "blocks": 2, "stem": 16, "stem_blocks": 1}
        small |= {"offset_channels": 4, "offset_blocks": 1}
        return post_processing() + step(8, 96, **small) + step(1, 256, repeats=3)


if __name__ == "__main__":
    for row in measure():
        print(row)
