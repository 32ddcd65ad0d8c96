"""How long a method needs for a picture, part by part: what `pose_lab.benchmark` measures and writes."""

from __future__ import annotations

import copy
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
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
from pose_lab.runs.files import write_json, write_table
from pose_lab.runs.identity import deciding, digest, resolved
from pose_lab.runs.latency import once
from pose_lab.runs.progress import TimeLeft
from pose_lab.runs.train import LABELS, build
from pose_lab.runs.weights import fitted, load_weights, weights_fingerprint
from pose_lab.runs.words import duration

FORMS = ("eager", "compiled", "folded", "folded_compiled")
PRECISIONS = ("float32", "bfloat16", "float16")
PARTS = (
    "ms per batch: median, for all its pictures. candidates: the network with test-time augmentation and decoding, so "
    "network is part of it; people: suppression and grouping; end to end: loading, candidates, people as found."
)


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
    pictures themselves, moving them to the device included. A line says what comes next, and the time left.

    Args:
        cfg: as `prepared` gives it.

    Raises:
        OSError, ValueError: a setting, the data or the checkpoint are wrong, or the device is not there.
    """
    device = check(cfg)
    torch.manual_seed(cfg.seed)
    method: PoseMethod = build(cfg.method, LABELS)
    if cfg.checkpoint is not None:
        load_weights(method, cfg.checkpoint)
    method.eval().to(device)
    clock = _Clock(device, cfg.latency.warmup, cfg.latency.repeats)
    networks, skipped = _networks(cfg)
    if skipped:
        print(f"Not measured: {', '.join(skipped)}. Only folded networks have other precisions than float32.")
    steps = _Steps(len(cfg.latency.batches) * (1 + len(networks)))
    timings: list[Timing] = []
    with torch.inference_mode():
        for size in cfg.latency.batches:
            timings += _of_batch(cfg, method, networks, size, clock, steps)
    return timings


def prepared(cfg: DictConfig) -> DictConfig:
    """The config with the network of its checkpoint; published weights get their published inference.

    Raises:
        OSError, ValueError: the checkpoint is wrong.
    """
    cfg = cfg.copy()
    cfg.training.epochs = 0
    return fitted(cfg)


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
    if settings.forms and not _networks(cfg)[0]:
        raise ValueError("latency.precisions has none for latency.forms: others than float32 need folded networks")
    if settings.repeats < 2 or settings.warmup < 0:
        raise ValueError(f"latency.repeats is {settings.repeats} (2 or more), warmup {settings.warmup} (0 or more)")
    wanted = {"gpu": "cuda"}.get(cfg.machine.accelerator, cfg.machine.accelerator)
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"machine.accelerator is {cfg.machine.accelerator!r}; there are: auto, cpu, gpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("machine.accelerator is gpu, but torch sees none here: use machine.accelerator=cpu")
    return torch.device(wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def _networks(cfg: DictConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """The forms and precisions that there are of those asked for, and in words those that there are not."""
    asked = list(product(cfg.latency.forms, cfg.latency.precisions))
    known = [pair for pair in asked if pair[0].startswith("folded") or pair[1] == "float32"]
    return known, [" ".join(pair) for pair in asked if pair not in known]


def _of_batch(
    cfg: DictConfig, method: PoseMethod, networks: list[tuple[str, str]], size: int, clock: _Clock, steps: _Steps
) -> Iterator[Timing]:
    steps.begin(f"batch {size}, loading and people")
    batches = _batches(cfg, size)
    first = next(batches).to(clock.where)
    plain = method.net
    yield Timing("loading", "", "", size, None, *clock.host(lambda: next(batches)))
    yield Timing("people", "", "", size, None, *clock.device(partial(method.people, method.candidates(first), first)))
    for count in cfg.latency.people:
        drawn = method.crowd(first, count)
        if drawn is not None:
            yield Timing("people", "", "", size, count, *clock.device(partial(method.people, drawn, first)))
    for form, precision in networks:
        compiles = form.endswith("compiled")
        steps.begin(f"batch {size}, {form} {precision}{', compiling first' if compiles else ''}")
        method.net = _net(plain, form, precision)
        images = first.images / 255
        network, candidates = partial(method.net, images), partial(method.candidates, first)
        if compiles:
            candidates()
            print("  compiled", flush=True)
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


class _Steps:
    """Prints what is measured next, and the time left: `2/6  batch 1, eager float32  left 0:12`.

    Args:
        count: how many there will be.
    """

    def __init__(self, count: int) -> None:
        self._count, self._begun, self._left = count, 0, TimeLeft()
        self._left.begin(0)

    def begin(self, what: str) -> None:
        """The one before is done."""
        left = duration(self._left.seconds(self._begun, self._count), unknown="?")
        self._begun += 1
        print(f"{self._begun}/{self._count}  {what}  left {left}", flush=True)


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


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What is measured, as `latency.json` and the table's title say it."""
    whole = resolved(cfg)
    return {
        "method": whole["method"]["name"],
        "scale": whole["scale"],
        "data": whole["data"]["name"],
        "image_size": whole["data"]["image_size"],
        "checkpoint": whole["checkpoint"],
        **whole["latency"],
    }


def folder(cfg: DictConfig, where: dict[str, Any]) -> Path:
    """Where the files of a measurement go: another folder for other settings, weights, processor or threads.

    Args:
        cfg: as `prepared` gives it.
        where: as `machine` gives it.

    Returns:
        `<results>/latency/<method>-<scale>-<data>-<device>-<hash>`.
    """
    content = {
        "config": deciding(cfg),
        "root": cfg.data.get("root"),
        "weights": None if cfg.checkpoint is None else weights_fingerprint(cfg.checkpoint),
        "machine": [where["gpu"] or where["processor"], where["threads"]],
    }
    name = f"{cfg.method.name}-{cfg.scale}-{cfg.data.name}-{where['device']}-{digest(content)}"
    return Path(cfg.results) / "latency" / name


def table(timings: list[Timing], where: dict[str, Any], settings: dict[str, Any]) -> Table:
    """Milliseconds per batch: median, and the quartiles around it."""
    weights = "untrained" if settings["checkpoint"] is None else Path(settings["checkpoint"]).name
    title = (
        f"{settings['method']} ({weights}), scale {settings['scale']}, {settings['data']}, "
        f"{settings['image_size']} pixels, {where['gpu'] or where['processor']}, {where['threads']} threads, "
        f"{settings['repeats']} repeats"
    )
    shown = Table(
        "part", "network", "precision", "batch", "people", "ms per batch", "quartiles", title=title, caption=PARTS
    )
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
    write_table(folder / "latency.csv", rows)
