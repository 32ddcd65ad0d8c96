"""A search over the post-processing of trained weights: the network sees every picture once, the rest is repeated.

The config's node `search` says what is tried:

    search:
      values:                                 # fields of the method's `inference`, and what each is tried at
        pose_confidence: [0.0005, 0.001, 0.01]
      stored_with: {pose_confidence: 0.0005}  # candidates are stored with values loose enough for all that is tried
      metric: AP                              # what is maximised
      rounds: 1                               # of the ascent

First each field alone is tried at each of its values, all others as configured: how much does each matter? Then, field
after field, the best value is kept: what is the best of all together? `search.csv` in the run's folder has a row for
each setting; a search that was stopped goes on after its last row.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors.torch import load_file, save_file

from pose_lab.methods.base import PoseMethod
from pose_lab.poses import Batch, Instances
from pose_lab.runs.files import read_json, read_table, write_file, write_json, write_table
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.words import percent

CHECKED = 20_000  # points that are looked at beforehand, at most: alone all, together as many as that
CONFIGURED, ALONE, ASCENT = "configured", "alone", "ascent"  # steps of the search
_OF_BATCH = ("to_input", "sizes", "image_ids")  # what the post-processing needs beside the candidates

Point = tuple[Any, ...]  # one value for each field that is searched
Measure = Callable[[str, str, Point], float]  # step, field, point -> the metric there


@dataclass(frozen=True)
class Search:
    """The config's node `search`; see the module.

    Raises:
        ValueError: a field has nothing to be tried at.
    """

    values: Mapping[str, Sequence[Any]]
    stored_with: Mapping[str, Any]
    metric: str
    rounds: int

    def __post_init__(self) -> None:
        empty = [name for name, values in self.values.items() if not values]
        if empty:
            raise ValueError(f"search.values.{empty[0]} is empty: give values to try, or leave the field out")

    @property
    def steps(self) -> int:
        """The rows that the table will have, at most: a point that did not move is there already."""
        return 1 + (1 + self.rounds) * sum(map(len, self.values.values()))

    def alone(self, start: Point) -> Iterator[tuple[str, Point]]:
        """Each field at each of its values, the others where they start."""
        for place, (name, values) in enumerate(self.values.items()):
            for value in values:
                yield name, (*start[:place], value, *start[place + 1 :])

    def best(self, start: Point, measure: Measure) -> Point:
        """The point of the highest metric that the ascent finds; a field moves only to gain something."""
        measure(CONFIGURED, "", start)
        for name, point in self.alone(start):
            measure(ALONE, name, point)
        best = start
        for _ in range(self.rounds):
            for name in self.values:
                tried = [point for moved, point in self.alone(best) if moved == name]
                best = max([best, *tried], key=lambda point, name=name: measure(ASCENT, name, point))  # type: ignore[misc]
        return best


def check(method: PoseMethod, settings: Search) -> None:
    """Looks at all that a search will try.

    Raises:
        ValueError: `search` names no field of `inference`, a value is out of range, or the candidates, stored once,
            would not hold what it needs.
    """
    configured = method.inference
    known = [field.name for field in fields(configured)]
    unknown = {*settings.values, *settings.stored_with} - set(known)
    if unknown:
        raise ValueError(f"search names {', '.join(sorted(unknown))}, but method.inference has: {', '.join(known)}")
    start: Point = tuple(getattr(configured, name) for name in settings.values)
    points = [start, *(point for _, point in settings.alone(start))]
    everywhere = [(first, *values) for first, values in zip(start, settings.values.values(), strict=True)]
    for point in itertools.islice(itertools.chain(points, itertools.product(*everywhere)), CHECKED):
        _check_served(method, settings, dict(zip(settings.values, point, strict=True)))


def _check_served(method: PoseMethod, settings: Search, tried: Mapping[str, Any]) -> None:
    configured = method.inference
    method.inference = replace(configured, **settings.stored_with)
    try:
        served = method.stores(replace(configured, **tried))
    finally:
        method.inference = configured
    if not served:
        raise ValueError(
            f"search: candidates stored with {dict(settings.stored_with)} do not serve {dict(tried)}. Set as loose a "
            "value in search.stored_with, or, where the network itself sees something else, vary it in a sweep with "
            "`weights_of`"
        )


def search(trainer: Trainer, method: PoseMethod, settings: Search, folder: RunFolder) -> dict[str, Any]:
    """Finds the best values of the method's `inference` for the weights that it holds.

    Args:
        trainer: with the data attached; its devices, precision and processes are used.
        method: its `inference` is changed, and is as it was when the search ends.
        settings: what is tried.
        folder: of the run.

    Returns:
        `search_configured` and `search_best`: the metric as configured and at the best values; `search_at`: these.

    Raises:
        ValueError: `search.metric` is none that the method is measured by.
    """
    configured = method.inference

    def with_values(point: Point) -> Any:
        return replace(configured, **dict(zip(settings.values, point, strict=True)))

    start: Point = tuple(getattr(configured, name) for name in settings.values)
    place = (
        f"{trainer.global_rank}-of-{trainer.world_size}"  # another number of processes shares the pictures otherwise
    )
    stored = StoredCandidates(folder.path / "candidates" / place)
    table = Table(folder.search, list(settings.values), trainer.is_global_zero)
    try:
        if not trainer.strategy.reduce_boolean_decision(stored.complete, all=True):
            method.inference = replace(configured, **settings.stored_with)
            _store(trainer, method, stored)

        def measure(step: str, name: str, point: Point) -> float:
            new = not table.has(step, name, point)
            if new:
                method.inference = with_values(point)
                table.add(step, name, point, table.numbers(point) or _evaluated(method, stored))
            numbers = table.numbers(point)
            if settings.metric not in numbers:
                raise ValueError(f"search.metric is {settings.metric!r}; there are: {', '.join(numbers)}")
            if new and table.writes:
                _tell(folder, len(table.rows), settings, with_values(point), numbers)
            return numbers[settings.metric]

        best = settings.best(start, measure)
    finally:
        method.inference = configured
    stored.remove()
    found = {"search_configured": start, "search_best": best}
    numbers = {name: table.numbers(point)[settings.metric] for name, point in found.items()}
    return {**numbers, "search_at": dict(zip(settings.values, best, strict=True))}


def _tell(folder: RunFolder, done: int, settings: Search, inference: Any, numbers: Mapping[str, float]) -> None:
    """Says how far the search is, here and to those who read the run's folder."""
    where = ", ".join(f"{name} {getattr(inference, name)}" for name in settings.values)
    print(
        f"search {done}/{settings.steps}: {settings.metric} {percent(numbers[settings.metric])} at {where}", flush=True
    )
    folder.write_progress({"phase": "search", "step": done, "steps": settings.steps, "metrics": dict(numbers)})


def _store(trainer: Trainer, method: PoseMethod, stored: StoredCandidates) -> None:
    trainer.callbacks.append(stored)  # type: ignore[attr-defined]
    try:
        trainer.predict(method, trainer.datamodule, return_predictions=False)  # type: ignore[attr-defined]
    finally:
        trainer.callbacks.remove(stored)  # type: ignore[attr-defined]


@torch.no_grad()
def _evaluated(method: PoseMethod, stored: StoredCandidates) -> dict[str, float]:
    for candidates, batch in stored.read(method):
        method.count(method.people(candidates, batch), batch)
    return {name: float(value) for name, value in method.measured().items()}


class StoredCandidates(BasePredictionWriter):
    """What the network found in every picture: a safetensors file for each batch of this process.

    Args:
        folder: where they lie; the list of files is written last.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("batch")
        self.folder = folder
        self.list = folder / "files.json"
        self._files: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether all pictures are stored."""
        return self.list.exists()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Stores one batch."""
        tensors = {f"candidates.{field.name}": getattr(prediction, field.name) for field in fields(prediction)}
        tensors |= {f"batch.{name}": getattr(batch, name) for name in _OF_BATCH}
        tensors |= {"batch.shape": torch.tensor(batch.images.shape)}
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self._files.append(f"{batch_idx:06d}.safetensors")
        write_file(self.folder / self._files[-1], lambda path: save_file(content, path), sync=False)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the list that says that all is there."""
        write_json(self.list, self._files)

    def read(self, method: PoseMethod) -> Iterator[tuple[Any, Batch]]:
        """The candidates and their batch, without its pictures and people, on the method's device."""
        nobody = Instances.none(len(method.skeleton))
        for name in read_json(self.list):
            tensors = load_file(self.folder / name, device=str(method.device))
            candidates = {field.name: tensors[f"candidates.{field.name}"] for field in fields(method.candidates_type)}
            images = torch.empty(tensors["batch.shape"].tolist(), dtype=torch.uint8, device="meta")
            batch = Batch(images, nobody, **{name: tensors[f"batch.{name}"] for name in _OF_BATCH})
            yield method.candidates_type(**candidates), batch

    def remove(self) -> None:
        """Deletes them."""
        shutil.rmtree(self.folder)


class Table:
    """`search.csv`: step, field, the values of all fields, and the numbers measured there.

    Args:
        path: of the file; what is in it counts as measured.
        names: of the fields.
        writes: whether this process keeps the file.
    """

    def __init__(self, path: Path, names: Sequence[str], writes: bool) -> None:
        self.path, self.names, self.writes = path, names, writes
        self.rows = read_table(path)

    def has(self, step: str, name: str, point: Point) -> bool:
        """Whether this step of the search is in the file."""
        wanted = {"step": step, "field": name, **self._texts(point)}
        return any(wanted.items() <= row.items() for row in self.rows)

    def numbers(self, point: Point) -> dict[str, float]:
        """What was measured at a point, at whatever step; empty if nothing was."""
        wanted = self._texts(point).items()
        row = next((row for row in self.rows if wanted <= row.items()), {})
        return {name: float(text) for name, text in row.items() if name not in ("step", "field", *self.names)}

    def add(self, step: str, name: str, point: Point, numbers: Mapping[str, float]) -> None:
        """Appends a row; the file is replaced as a whole."""
        texts = {key: repr(value) for key, value in numbers.items()}
        self.rows.append({"step": step, "field": name, **self._texts(point), **texts})
        if self.writes:
            write_table(self.path, self.rows)

    def _texts(self, point: Point) -> dict[str, str]:
        return {name: repr(value) for name, value in zip(self.names, point, strict=True)}
