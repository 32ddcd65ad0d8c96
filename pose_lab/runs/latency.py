"""Milliseconds: a clock for work on CPU or GPU, and what a finished run's pictures cost, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from lightning import Trainer

from pose_lab.data.module import PoseDataModule
from pose_lab.methods.base import PoseMethod
from pose_lab.poses import Batch

WARMUP = 3  # rounds that do not count: the first ones choose kernels and fill caches


class Laps:
    """Milliseconds between marks; on a GPU by events in its queue, which is not made to wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """The end of one part and the beginning of the next."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def read(self) -> list[float]:
        """One number for each part, when all are done."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self.device.type != "cuda":
            return [1000 * (end - start) for start, end in pairs]
        self._marks[-1].synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


def once(action: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one action."""
    laps = Laps(device)
    laps.mark()
    action()
    laps.mark()
    return laps.read()[0]


def latency(trainer: Trainer, method: PoseMethod, data: PoseDataModule, pictures: int) -> dict[str, float]:
    """What a picture costs, one at a time, on the trainer's device and in its precision.

    Args:
        trainer: has evaluated the method.
        method: with the weights that it evaluated.
        data: after `setup`.
        pictures: the first so many evaluation pictures are timed, or all if there are fewer.

    Returns:
        Medians in milliseconds: `ms_load`, reading and letterboxing; `ms_network`, test-time augmentation and decoding
        included; `ms_people`, the post-processing; `ms_total`, all of these and the way to the device. And
        `latency_pictures`, how many were timed.
    """
    device = trainer.strategy.root_device
    method.to(device).eval()
    batches = data.val_batches(1)
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        first = next(data.val_batches(1)).to(device)
        for _ in range(WARMUP):
            method.predict(first)
        rows = [row for row in (_picture(method, batches, device) for _ in range(pictures)) if row]
    medians = {name: median(row[name] for row in rows) for name in rows[0]}
    return {**medians, "latency_pictures": len(rows)}


def _picture(method: PoseMethod, batches: Iterator[Batch], device: torch.device) -> dict[str, float]:
    """The parts of the next picture; nothing if there is none."""
    start = time.perf_counter()
    batch = next(batches, None)
    loaded = time.perf_counter()
    if batch is None:
        return {}
    batch, laps = batch.to(device), Laps(device)
    laps.mark()
    candidates = method.candidates(batch)
    laps.mark()
    method.people(candidates, batch)
    laps.mark()
    network, people = laps.read()
    total = time.perf_counter() - start
    return {
        "ms_load": 1000 * (loaded - start),
        "ms_network": network,
        "ms_people": people,
        "ms_total": 1000 * total,
    }
