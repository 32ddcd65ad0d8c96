"""What a run tells while it goes on: `metrics.csv`, `progress.json`, and a display with the time left of the whole run.

A step is here one training batch, so that gradient accumulation does not move the end. All state that goes into a
checkpoint is plain numbers.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from pose_lab.runs.files import write_text
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.words import duration

Row = dict[str, float]


class TimeLeft:
    """Estimates the seconds that a fit still needs, from its pace since it was started or resumed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def begin(self, step: int) -> None:
        """Notes the first step of this process; further calls change nothing."""
        if self._first is None:
            self._first = step

    def seconds(self, step: int, steps: int | None) -> float | None:
        """Seconds until `steps` when `step` are done; None before the first and where the end is unknown."""
        if steps is None or self._first is None or step <= self._first:
            return None
        pace = (time.monotonic() - self._began) / (step - self._first)
        return max(0.0, (steps - step) * pace)


class _Position(Callback):
    """Follows where a fit is: the base of everything that tells the time left."""

    def __init__(self) -> None:
        self.step = 0
        self._time_left = TimeLeft()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._time_left = TimeLeft()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.step = _step(trainer, batch_idx)
        self._time_left.begin(self.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step = _step(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = _step(trainer, trainer.num_training_batches)

    def seconds_left(self, trainer: Trainer) -> float | None:
        return self._time_left.seconds(self.step, total_steps(trainer))


class MetricsTable(Callback):
    """Appends one row per epoch to `metrics.csv`: epoch, step, seconds, lr, mean training losses, validation numbers.

    The rows are part of the checkpoint, with the sums of an unfinished epoch: a resumed run goes on with just the rows
    that belong to its checkpoint, none lost, none twice. `seconds` is the wall time of the epoch with all that was
    done in it, evaluation and checkpoints included, without the time between an interruption and its last checkpoint.
    Columns `train/NAME` are means over the batches.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self._sums: dict[str, Tensor | float] = {}
        self._validated: Row = {}
        self._end: Row = {}  # epoch, step and lr of the latest batch
        self._clear()

    @property
    def row(self) -> Row:
        """The row of the last finished epoch; empty before the first."""
        return self.rows[-1] if self.rows else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; cuts the file to the checkpoint that is resumed from."""
        self._since = time.monotonic()
        # from a checkpoint at the very last step of an epoch Lightning goes straight to the next epoch
        if self._batches and self._end["epoch"] < trainer.current_epoch:
            self._finish_row()
        if trainer.is_global_zero:
            self._write()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds this batch's losses, on their device."""
        for name, value in step_metrics(trainer.callback_metrics).items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._batches += 1
        self._end = {
            "epoch": trainer.current_epoch,
            "step": _step(trainer, batch_idx + 1),
            "lr": learning_rate(trainer),
        }

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the numbers of a validation within the fit."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = numbers(trainer.callback_metrics, "val/")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the epoch's row."""
        self._finish_row()
        if trainer.is_global_zero:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: finished rows and the unfinished epoch."""
        return {
            "rows": [dict(row) for row in self.rows],
            "end": dict(self._end),
            "batches": self._batches,
            "sums": {name: float(total) for name, total in self._sums.items()},
            "validated": dict(self._validated),
            "seconds": self._seconds + time.monotonic() - self._since,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._end = dict(state_dict["end"])
        self._batches = state_dict["batches"]
        self._sums = dict(state_dict["sums"])
        self._validated = dict(state_dict["validated"])
        self._seconds = state_dict["seconds"]

    def _finish_row(self) -> None:
        seconds = round(self._seconds + time.monotonic() - self._since, 3)
        means = {name: float(total) / self._batches for name, total in self._sums.items()}
        end = self._end
        self.rows.append(
            {
                "epoch": end["epoch"],
                "step": end["step"],
                "seconds": seconds,
                "lr": end["lr"],
                **means,
                **self._validated,
            }
        )
        self._clear()

    def _clear(self) -> None:
        self._sums = {}
        self._batches = 0
        self._validated = {}
        self._seconds = 0.0
        self._since = time.monotonic()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        if self.rows:
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.folder / "metrics.csv", text.getvalue())
        else:
            (self.folder / "metrics.csv").unlink(missing_ok=True)


class ProgressFile(_Position):
    """Keeps `progress.json` in the run folder: where the run is, for the sweep that watches it.

    Keys: phase (train, validate, done, stopped, failed), epoch (counted from 0), epochs, step, steps, seconds_left (of
    the whole run), metrics (latest losses and validation numbers). What is not known, or not finite, is null.

    Args:
        folder: the run folder.
        every: seconds between two writings; the end of an epoch and of the run are always written.
    """

    def __init__(self, folder: Path, every: float = 1.0) -> None:
        super().__init__()
        self.folder = RunFolder(folder)
        self.every = every
        self._written = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells that training has begun."""
        super().on_train_start(trainer, pl_module)
        self._write(trainer, "train", now=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells how far training is."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._write(trainer, "train")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Tells that the run validates."""
        if not trainer.sanity_checking:
            self._write(trainer, "validate")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells the numbers of the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self._write(trainer, "train", now=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells that training is done."""
        self._write(trainer, "done", now=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells that an evaluation outside a fit is done."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._write(trainer, "done", now=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells how the run ended."""
        self._write(trainer, "failed" if isinstance(exception, Exception) else "stopped", now=True)

    def _write(self, trainer: Trainer, phase: str, now: bool = False) -> None:
        clock = time.monotonic()
        if not trainer.is_global_zero or (not now and clock - self._written < self.every):
            return
        self._written = clock
        metrics = {**numbers(step_metrics(trainer.callback_metrics)), **numbers(trainer.callback_metrics, "val/")}
        content = {
            "phase": phase,
            "epoch": trainer.current_epoch,
            "epochs": _epochs(trainer),
            "step": self.step,
            "steps": total_steps(trainer),
            "seconds_left": 0.0 if phase == "done" else self.seconds_left(trainer),
            "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        }
        self.folder.write_progress(content)


class EpochLines(_Position, ProgressBar):
    """One line per epoch without control characters, for logs.

    Args:
        table: made the rows; it must stand before this callback.
        stream: where the lines go.
    """

    def __init__(self, table: MetricsTable, stream: TextIO) -> None:
        ProgressBar.__init__(self)
        _Position.__init__(self)
        self.table = table
        self.stream = stream
        self._enabled = True

    def disable(self) -> None:
        """Says nothing from now on (other processes than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Undoes `disable`."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints between the lines."""
        if self._enabled:
            print(*args, **{"file": self.stream, "flush": True, **kwargs})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line of the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self.print(epoch_line(self.table.row, _epochs(trainer), self.seconds_left(trainer)))


class RunBar(_Position, ProgressBar):
    """One live bar for the whole run on a terminal, with loss, AP and time left.

    Args:
        table: made the rows; it must stand before this callback.
        stream: the terminal.
    """

    def __init__(self, table: MetricsTable, stream: TextIO) -> None:
        ProgressBar.__init__(self)
        _Position.__init__(self)
        self.table = table
        self.console = Console(file=stream, force_terminal=True)
        self._enabled = True
        self._read = -math.inf
        self._loss = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def disable(self) -> None:
        """Shows nothing from now on (other processes than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Undoes `disable`."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        if self._enabled:
            self.console.print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts up the bar."""
        super().on_train_start(trainer, pl_module)
        self._start(total_steps(trainer))
        self._update(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Moves to the first step, which is not 0 after a resume."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._update(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves on."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._update(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the numbers of the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self._update(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar as it is."""
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts up a bar for an evaluation outside a fit."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._start(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows how far the validation is."""
        if self._bar is None or trainer.sanity_checking:
            return
        text = f"validating {batch_idx + 1}/{int(sum(trainer.num_val_batches))}"
        if trainer.state.fn == TrainerFn.FITTING:
            self._bar.update(self._task, what=f"{self._what(trainer)}, {text}")
        else:
            self._bar.update(self._task, completed=batch_idx + 1, what="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar of an evaluation as it is."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Frees the terminal."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Frees the terminal."""
        self._stop()

    def _start(self, total: int | None) -> None:
        self._stop()
        if not self._enabled:
            return
        self._bar = Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("run", total=total, what="", metrics="", left="")
        self._bar.start()

    def _update(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self.step,
                what=self._what(trainer),
                metrics=self._metrics(trainer),
                left=f"left {duration(self.seconds_left(trainer), unknown='?')}",
            )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _what(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{_epochs(trainer) or '?'}"

    def _metrics(self, trainer: Trainer) -> str:
        """The latest loss, read once a second because reading it stalls a GPU, and the latest AP."""
        loss = step_metrics(trainer.callback_metrics).get("train/loss")
        if loss is not None and time.monotonic() - self._read > 1:
            self._read = time.monotonic()
            self._loss = f"loss {float(loss):.3f}"
        precision = self.table.row.get("val/AP")
        return self._loss if precision is None else f"{self._loss}  AP {precision:.3f}"


def display(table: MetricsTable, stream: TextIO | None = None) -> EpochLines | RunBar:
    """A bar if `stream` (standard output) is a terminal that can show one, otherwise a line per epoch."""
    stream = stream or sys.stdout
    capable = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return RunBar(table, stream) if capable else EpochLines(table, stream)


def progress_callbacks(folder: Path) -> list[Callback]:
    """The table, the file and the display of a run, in the order that they need."""
    table = MetricsTable(folder)
    return [table, ProgressFile(folder), display(table)]


def epoch_line(row: Mapping[str, float], epochs: int | None, seconds_left: float | None) -> str:
    """A row of `MetricsTable` as one line: epoch, losses, AP, lr, seconds, time left of the run."""
    epoch = int(row["epoch"]) + 1
    losses = [f"{name.removeprefix('train/')} {value:.4g}" for name, value in row.items() if name.startswith("train/")]
    precision = [f"AP {row['val/AP']:.4f}"] if "val/AP" in row else []
    rest = [f"lr {row['lr']:.3g}", f"{row['seconds']:.1f} s", f"left {duration(seconds_left, unknown='?')}"]
    return "  ".join([f"epoch {epoch}/{epochs or '?'}", *losses, *precision, *rest])


def total_steps(trainer: Trainer) -> int | None:
    """Training batches of the whole run; None where it has no known end."""
    epochs = _epochs(trainer)
    if epochs is None or not math.isfinite(trainer.num_training_batches):
        return None
    return epochs * int(trainer.num_training_batches)


def learning_rate(trainer: Trainer) -> float:
    """That of the first parameter group."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def step_metrics(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The training metrics of the latest step, without Lightning's suffix: `train/loss_step` becomes `train/loss`."""
    train = {name: value for name, value in metrics.items() if name.startswith("train/") and name != "train/lr"}
    plain = {name: value for name, value in train.items() if not name.endswith(("_step", "_epoch"))}
    return plain | {name.removesuffix("_step"): value for name, value in train.items() if name.endswith("_step")}


def numbers(metrics: Mapping[str, Tensor], prefix: str = "") -> Row:
    """The metrics whose names begin with `prefix` as plain numbers."""
    return {name: float(value) for name, value in metrics.items() if name.startswith(prefix)}


def _epochs(trainer: Trainer) -> int | None:
    return trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None


def _step(trainer: Trainer, batches: int | float) -> int:
    """Batches done when `batches` of the current epoch are done."""
    return int(trainer.current_epoch * trainer.num_training_batches + batches)
