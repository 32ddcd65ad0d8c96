"""KAPAO's post-processing of a crowded picture, its network at inference, and the cost of its loss in training.

Run with `OMP_NUM_THREADS=1 python -m benchmarks.bench_kapao`; everything but the network is measured on one core.
"""

from __future__ import annotations

import os
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.kapao_outputs import outputs_of
from benchmarks.kapao_reference import people_of
from benchmarks.steps import batch_of, config_of, milliseconds, net_of, numbers_of, training_step, with_threads
from pose_lab.methods.kapao import Kapao
from pose_lab.methods.kapao_inference import Inference, counted, decode, find_people
from pose_lab.methods.kapao_scene import scene
from pose_lab.nets.csp import OBJECTNESS, CSPPose
from pose_lab.nets.folded import FREEZING, folded
from pose_lab.poses import Predictions
from pose_lab.skeletons import COCO

CONFIG = config_of("kapao")
PUBLISHED_INFERENCE = CONFIG["inference"] | CONFIG["published_inference"]
FRAME, SIDE, ROWS, PEOPLE = (720, 1280), 1280, 102_000, 30  # a wide picture in a square input
MAPS, SIZES = torch.eye(2, 3, dtype=torch.float64)[None], torch.tensor([FRAME])
SEED = 7  # the draw with 81 poses, 30 of them above 0.3, and 300 keypoint objects after suppression
PUBLISHED_MS = 14.2  # the published code on one core of another machine: 4.8 suppression, 9.4 fusion


@torch.inference_mode()
def post_processing(repeats: int = 100) -> list[dict[str, Any]]:
    """From decoded rows to people, beside a straightforward reference; the two alternate.

    Raises:
        RuntimeError: the two find different people.
    """
    rows, settings = scene(PEOPLE, ROWS, FRAME, len(COCO), SEED), Inference(**PUBLISHED_INFERENCE)

    def ours() -> Predictions:
        return find_people(*counted(rows, settings), len(COCO), MAPS, SIZES, settings)

    def reference() -> tuple[Any, Any]:
        return people_of(rows[0], FRAME, len(COCO), settings)

    _check_equal(ours(), *reference())
    pairs = [(milliseconds(reference), milliseconds(ours)) for _ in range(repeats)]
    what = f"KAPAO post-processing, {PEOPLE} people, {ROWS:,} rows"
    best = min(ours for _, ours in pairs)
    limits = {"unit": "ms", "target": 3.0, "best": best, "published": PUBLISHED_MS}
    times = {"unit": "x", "target": PUBLISHED_MS / 3, "best": min(reference for reference, _ in pairs) / best}
    return [
        {"what": what, "value": median(ours for _, ours in pairs), **limits},
        {"what": f"{what}: times a plain loop's speed", "value": median(a / b for a, b in pairs), **times},
    ]


@torch.inference_mode()
def decoding(repeats: int = 40) -> list[dict[str, Any]]:
    """From what the network hands over to people: the same scene in its maps, one per level, channel after channel.

    Beside it what the published network does before its post-processing: all rows decoded. The two alternate.

    Raises:
        RuntimeError: the two find different people.
    """
    rows, settings = scene(PEOPLE, ROWS, FRAME, len(COCO), SEED)[0], Inference(**PUBLISHED_INFERENCE)
    anchors, strides = torch.tensor(CONFIG["net"]["anchors"]).float(), [8, 16, 32, 64]
    strong = rows[:, OBJECTNESS] > 0.05  # what the scene's background does not reach
    raw = outputs_of(rows[strong], rows[~strong], anchors, strides, SIDE)

    def people(read: Inference | None) -> Predictions:
        found = decode(raw, anchors, strides, len(COCO), read)
        return find_people(*found, len(COCO), MAPS, SIZES, settings)

    decoded, _ = decode(raw, anchors, strides, len(COCO), None)
    _check_equal(people(settings), *people_of(decoded, FRAME, len(COCO), settings))
    pairs = [(milliseconds(partial(people, None)), milliseconds(partial(people, settings))) for _ in range(repeats)]
    what = f"KAPAO decoding and post-processing, {PEOPLE} people, {len(decoded):,} rows"
    value, every = (median(times) for times in (tuple(ours for _, ours in pairs), tuple(both for both, _ in pairs)))
    best = min(ours for _, ours in pairs)
    return [{"what": what, "value": value, "unit": "ms", "best": best, "all rows decoded": every}]


def _check_equal(found: Predictions, poses: Any, scores: Any) -> None:
    same = torch.equal(found.scores, torch.from_numpy(scores))
    ours = torch.cat((found.keypoints - 0.5, found.keypoint_scores[..., None]), 2)
    if not same or not torch.allclose(ours, torch.from_numpy(poses), rtol=0, atol=1e-3):
        raise RuntimeError("the post-processing and its reference find different people")


def _method(size: int, width: float) -> Kapao:
    net = net_of(CONFIG) | {"width": width, "depth": 0.33, "anchor_scale": size / 1280}
    return Kapao(COCO, lambda num_keypoints: CSPPose(num_keypoints, **net), image_size=size, **numbers_of(CONFIG))


def step(images: int, size: int, width: float, repeats: int = 8) -> list[dict[str, Any]]:
    what = f"KAPAO, {images} pictures of {size}, width {width}:"
    return [training_step(_method(size, width), batch_of(images, size, 4), what, 1.1, repeats)]


@torch.inference_mode()
def forward(size: int, width: float, repeats: int = 10) -> list[dict[str, Any]]:
    """The network as published over its forms for inference, a picture at a time, by the clock; they alternate."""
    net = _method(size, width).net.eval()
    forms = {"plain": net.to(memory_format=torch.contiguous_format), "folded": folded(net), "compiled": folded(net)}
    forms["compiled"].compile(options=FREEZING)
    picture = torch.rand(1, 3, size, size)
    for _ in range(2):
        outputs = {name: form(picture) for name, form in forms.items()}
    for levels in zip(*outputs.values(), strict=True):
        torch.testing.assert_close(levels[1:], (levels[0],) * 2, rtol=1e-3, atol=1e-3)
    actions = {name: partial(form, picture) for name, form in forms.items()}
    rounds = [{name: milliseconds(act, perf_counter) for name, act in actions.items()} for _ in range(repeats)]
    rows = []
    for name, words in (("folded", "folded and channels last"), ("compiled", "folded and compiled")):
        value = median(times["plain"] / times[name] for times in rounds)
        cost = median(times[name] for times in rounds)
        what = f"KAPAO forward, plain over {words}, {size} px, width {width}, {torch.get_num_threads()} threads"
        rows.append({"what": what, "value": value, "unit": "x", "target": 1.25, "milliseconds": cost})
    return rows


def measure() -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    with with_threads(1):
        rows = post_processing() + decoding() + step(32, 128, 0.25) + step(2, 640, 0.5, repeats=3) + forward(640, 0.5)
    with with_threads(len(os.sched_getaffinity(0))):
        return rows + forward(640, 0.5)


if __name__ == "__main__":
    for row in measure():
        print(row)
