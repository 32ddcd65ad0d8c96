"""How long a method needs for a picture, part by part: what `pose_lab.benchmark` measures and writes."""

from __future__ import annotations

import copy
import csv
import io
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

import pose_lab
from pose_lab.data.module import PoseDataModule
from pose_lab.methods.base import PoseMethod
from pose_lab.nets.folded import FREEZING, folded
from pose_lab.poses import Batch
from pose_lab.runs.files import write_json, write_text
from pose_lab.runs.latency import once
from pose_lab.runs.train import LABELS, build
from pose_lab.runs.weights import fitted, load_weights

FORMS = ("eager", "compiled", "folded", "folded_compiled")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Timing:
    """One measured part: milliseconds per batch, and the quartiles around their median."""

    part: str
    form: str
    precision: str
    batch: int
    people: int | None
    median: float
    low: float
    high: float


def measure(cfg: DictConfig) -> list[Timing]:
    """All timings of a config: loading, forward, post-processing, and the three together.

    `loading` reads and letterboxes the pictures; `candidates` is the network with test-time augmentation and decoding;
    `network` is the network alone; `people` is suppression and grouping: of what is found in the pictures, and of drawn
    people, so many in each, where the method can draw some; `end to end` is loading, candidates and people of the
    pictures themselves, moving them to the device included.

    Raises:
        OSError, ValueError: a setting or the checkpoint is wrong, or the device is not there.
    """
    settings = cfg.latency
    device = check(cfg)
    torch.manual_seed(cfg.seed)
    cfg = cfg.copy()
    cfg.training.epochs = 0  # so published weights get their published inference
    cfg = fitted(cfg)
    method: PoseMethod = build(cfg.method, LABELS)
    if cfg.checkpoint is not None:
        load_weights(method, cfg.checkpoint)
    method.eval().to(device)
    timings: list[Timing] = []
    with torch.inference_mode():
        for size in settings.batches:
            timings += _of_batch(cfg, method, size, _Clock(device, settings.warmup, settings.repeats))
    return timings


def check(cfg: DictConfig) -> torch.device:
    """The device, if all settings are right.

    Raises:
        ValueError: says the field and what it may be.
    """
    settings = cfg.latency
    for field, known in (("forms", FORMS), ("precisions", PRECISIONS)):
        for value in settings[field]:
            if value not in known:
                raise ValueError(f"latency.{field} has {value!r}; there are: {', '.join(known)}")
    for field in ("batches", "people"):
        for value in settings[field]:
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"latency.{field} has {value!r}, but must hold whole numbers from 1 on")
    if settings.repeats < 2 or settings.warmup < 0:
        raise ValueError(f"latency.repeats is {settings.repeats} (2 or more), warmup {settings.warmup} (0 or more)")
    wanted = {"gpu": "cuda"}.get(cfg.machine.accelerator, cfg.machine.accelerator)
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"machine.accelerator is {cfg.machine.accelerator!r}; there are: auto, cpu, gpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("machine.accelerator is gpu, but torch sees none here: use machine.accelerator=cpu")
    return torch.device(wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def _of_batch(cfg: DictConfig, method: PoseMethod, size: int, clock: _Clock) -> Iterator[Timing]:
    batches = _batches(cfg, size)
    first = next(batches).to(clock.where)
    plain = method.net
    yield Timing("loading", "", "", size, None, *clock.host(lambda: next(batches)))
    yield Timing("people", "", "", size, None, *clock.device(partial(method.people, method.candidates(first), first)))
    for count in cfg.latency.people:
        drawn = method.crowd(first, count)
        if drawn is not None:
            yield Timing("people", "", "", size, count, *clock.device(partial(method.people, drawn, first)))
    for form in cfg.latency.forms:
        for precision in cfg.latency.precisions:
            if not form.startswith("folded") and precision != "float32":
                continue
            method.net = _net(plain, form, precision)
            images = first.images / 255
            network, candidates = partial(method.net, images), partial(method.candidates, first)
            yield Timing("network", form, precision, size, None, *clock.device(network))
            yield Timing("candidates", form, precision, size, None, *clock.device(candidates))
            whole = clock.host(lambda: method.predict(next(batches).to(clock.where)))
            yield Timing("end to end", form, precision, size, None, *whole)
    method.net = plain


def _net(plain: nn.Module, form: str, precision: str) -> nn.Module:
    """The network in another form; the plain one stays as it is."""
    net = folded(plain, getattr(torch, precision)) if form.startswith("folded") else copy.copy(plain)
    if form.endswith("compiled"):
        net.compile(options=FREEZING)
    return net


def _batches(cfg: DictConfig, size: int) -> Iterator[Batch]:
    """The evaluation pictures in whole batches, again and again."""
    data: PoseDataModule = build(cfg.data)
    data.prepare_data()
    data.setup("validate")
    if len(data.val_annotations.image_ids) < size:
        raise ValueError(f"latency.batches has {size}, but data.val has {len(data.val_annotations.image_ids)} pictures")
    while True:
        yield from (batch for batch in data.val_batches(size) if len(batch) == size)


class _Clock:
    """Medians and quartiles in milliseconds.

    Args:
        where: the device that works.
        warmup: rounds that do not count.
        repeats: rounds that count.
    """

    def __init__(self, where: torch.device, warmup: int, repeats: int) -> None:
        self.where, self.warmup, self.repeats = where, warmup, repeats

    def device(self, action: Callable[[], Any]) -> tuple[float, float, float]:
        """Of work on the device, on a GPU between two events in its queue."""
        return self._time(action, self.where)

    def host(self, action: Callable[[], Any]) -> tuple[float, float, float]:
        """Of work that the host takes part in, until the device is done too."""

        def finished() -> None:
            action()
            if self.where.type == "cuda":
                torch.cuda.synchronize(self.where)

        return self._time(finished, torch.device("cpu"))

    def _time(self, action: Callable[[], Any], clock: torch.device) -> tuple[float, float, float]:
        for _ in range(self.warmup):
            action()
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        times = [once(action, clock) for _ in range(self.repeats)]
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        return middle, low, high


def machine(device: torch.device) -> dict[str, Any]:
    """On what was measured."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "pose_lab": pose_lab.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(timings: list[Timing], title: str) -> Table:
    """Milliseconds per batch: median, and the quartiles around it."""
    shown = Table("part", "network", "precision", "batch", "people", "median ms", "quartiles", title=title)
    for t in timings:
        people = str(t.people or ("as found" if t.part == "people" else ""))
        shown.add_row(
            t.part, t.form, t.precision, str(t.batch), people, f"{t.median:.2f}", f"{t.low:.2f}..{t.high:.2f}"
        )
    return shown


def write(folder: Path, timings: list[Timing], where: dict[str, Any], settings: dict[str, Any]) -> None:
    """`latency.json`, with machine and settings, and `latency.csv`; milliseconds per batch."""
    rows = [asdict(timing) for timing in timings]
    write_json(folder / "latency.json", {"machine": where, "settings": settings, "milliseconds": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "latency.csv", text.getvalue())
