"""How fast SynthPeople draws: 256x256 pictures with 3 people, JPEG and masks included.

Run by `python -m benchmarks.bench_synth`.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pose_lab.data.synth import SynthSettings, ensure

_SETTINGS = SynthSettings(val_images=0, width=256, height=256, people=(3, 3), empty=0)
_FEW, _MANY = 40, 240  # their difference leaves out what starting a process costs
_REPEATS = 3


def measure() -> list[dict[str, Any]]:
    """Pictures per second of one worker and of all cores' workers."""
    cores = len(os.sched_getaffinity(0))
    wall, cpu = (max(rates) for rates in zip(*(_rates(1) for _ in range(_REPEATS)), strict=True))
    together = _rates(cores)[0]
    return [
        _row("SynthPeople, one worker", wall, 60),
        _row("SynthPeople, one worker, by its CPU time", cpu, 60),
        _row(f"SynthPeople, {cores} workers together", together, 60 * cores),
    ]


def _row(what: str, value: float, target: float) -> dict[str, Any]:
    return {"what": what, "value": round(value, 1), "unit": "pictures/s", "target": target}


def _rates(workers: int) -> tuple[float, float]:
    """Pictures per second of wall time and of CPU time."""
    few, many = _cost(_FEW, workers), _cost(_MANY, workers)
    wall, cpu = ((_MANY - _FEW) / (after - before) for before, after in zip(few, many, strict=True))
    return wall, cpu


def _cost(pictures: int, workers: int) -> tuple[float, float]:
    """Seconds of wall and CPU time to make a data set."""
    start, used = time.perf_counter(), _cpu()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ensure(replace(_SETTINGS, train_images=pictures), Path(folder), workers)
    return time.perf_counter() - start, _cpu() - used


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    for row in measure():
        print(f"{row['what']}: {row['value']} {row['unit']} (target {row['target']})")
