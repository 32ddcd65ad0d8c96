"""Checkpoints that survive anything: whole or absent on disk, exact to the bit, the one before kept.

Everything that the rest of a training depends on is in `last.ckpt`: weights, averages, optimiser, position in the data,
random state. Pictures are random functions of (seed, epoch, position), so the loader needs no state of its own.
"""

from __future__ import annotations

import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from pose_lab.runs.files import write_file
from pose_lab.runs.folder import InterruptedRun

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes to a temporary name, flushes to the disk, renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves, or leaves what was there."""

        def fill(temporary: Path) -> None:
            raw = _File(temporary, "w")
            with BufferedWriter(raw) as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch says of a full disk only that the file is too short
                    raise raw.refusal or error from None

        write_file(Path(path), fill)


class _File(FileIO):
    """Remembers why it did not take what was written."""

    refusal: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.refusal = error
            raise


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` at the ends of epochs, every `minutes`, and when a signal asks the run to stop.

    Args:
        folder: where the checkpoints lie.
        minutes: longest time between two checkpoints.
        pause: shortest time in seconds before the end of an epoch is saved, too: short epochs are not.
        identity: the run's hash and its deciding config, stored so that another run's checkpoint is refused.
        config: the same config as nested plain values.
        monitor: logged numbers and their weights, whose largest weighted sum makes `best.ckpt`; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        pause: float,
        identity: str,
        config: Mapping[str, Any],
        monitor: Mapping[str, float] | None = None,
    ) -> None:
        self.folder = folder
        self.seconds = minutes * 60
        self.pause = pause
        self.identity = identity
        self.config = dict(config)
        self.monitor = monitor
        self.best = float("-inf")
        self.trained_before = 0.0
        self.stop: int | None = None
        self._random: dict[str, Any] | None = None
        self._training = False
        self._started = self._saved = time.monotonic()

    @property
    def trained_seconds(self) -> float:
        """Seconds of training so far, over all starts."""
        return self.trained_before + time.monotonic() - self._started

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clocks."""
        if stage == "fit":
            self._started = self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time or when a signal came; the end of an epoch is left to its own hook."""
        stop = self._asked_to_stop(trainer)
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0  # gradients are in no checkpoint
        if accumulating or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if stop or trainer.strategy.reduce_boolean_decision(time.monotonic() - self._saved > self.seconds, all=False):
            self._save(trainer)
        if stop:
            raise _interruption(stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, after the validation of this epoch if it has one."""
        score = self._score(trainer)
        better = score is not None and score > self.best
        if score is not None and better:
            self.best = score
            trainer.save_checkpoint(self.folder / BEST)  # before the one that knows of it
        stop, last = self._asked_to_stop(trainer), trainer.current_epoch + 1 == trainer.max_epochs
        pause = trainer.strategy.reduce_boolean_decision(time.monotonic() - self._saved > self.pause, all=False)
        if better or stop or last or pause:
            self._save(trainer)
        if stop and not last:
            raise _interruption(stop)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on with the random state of the checkpoint; takes the signals back that Lightning has taken."""
        self._training = True
        self._listen()
        if self._random is not None:
            _set_random_state(self._random)
            self._random = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds who wrote the checkpoint, and the random state."""
        checkpoint["pose_lab"] = {
            "identity": self.identity,
            "config": self.config,
            "random": _random_state(),
            "trained_seconds": self.trained_seconds,
            "best": self.best,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes them back."""
        stored = checkpoint["pose_lab"]
        self._random = stored["random"]
        self.trained_before = stored["trained_seconds"]
        self.best = stored["best"]

    def _score(self, trainer: Trainer) -> float | None:
        """The monitored sum, if this epoch was evaluated."""
        if not self.monitor or (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch:  # type: ignore[operator]
            return None
        numbers = trainer.callback_metrics
        unknown = [name for name in self.monitor if name not in numbers]
        if unknown:
            raise ValueError(f"training.monitor names {unknown}, which is not logged; there are: {', '.join(numbers)}")
        return sum(weight * float(numbers[name]) for name, weight in self.monitor.items())

    def _save(self, trainer: Trainer) -> None:
        last = self.folder / LAST
        if last.exists() and trainer.is_global_zero:
            last.replace(self.folder / PREVIOUS)
        trainer.save_checkpoint(last)
        self._saved = time.monotonic()

    def _asked_to_stop(self, trainer: Trainer) -> int:
        """The signal that asked any of the processes to stop, the same in all of them; 0 for none."""
        asked = torch.tensor(self.stop or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(asked, reduce_op="max"))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While training, signals only ask to stop after the current step; a second Ctrl-C stops at once."""
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is nothing to save."""
        self._training = False

    def _listen(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        impatient = self.stop == signal.SIGINT == number
        self.stop = number
        if impatient or not self._training:
            name = signal.Signals(number).name
            raise InterruptedRun(f"stopped by {name}; the last checkpoint stays as it was", number)


def _interruption(number: int) -> InterruptedRun:
    name = signal.Signals(number).name
    return InterruptedRun(f"stopped by {name}; the checkpoint is whole, the same command goes on from it", number)


def resumable(folder: Path, identity: str, config: Mapping[str, Any], say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run, or None; says so when a damaged one has to be passed over.

    Args:
        folder: where the run's checkpoints lie.
        identity: the run's hash.
        config: its deciding config.
        say: is told of damage.

    Raises:
        ValueError: the checkpoint belongs to a run with another config; the message names the keys that differ.
    """
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.exists() and _is_whole(path):
            _check_owner(path, identity, config)
            return path
        if path.exists():
            say(f"{path} is damaged; going on from the checkpoint before it")
    return None


def _check_owner(path: Path, identity: str, config: Mapping[str, Any]) -> None:
    stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("pose_lab", {})
    if stored.get("identity") != identity:
        differing = ", ".join(differing_keys(stored.get("config", {}), config)[:8]) or "the data"
        raise ValueError(
            f"{path} belongs to a run with another config (different: {differing}): move the run's checkpoints away to "
            "train anew, or start with the config that they were made with"
        )


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested configs."""
    keys: list[str] = []
    for key in dict.fromkeys([*a, *b]):
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            keys += differing_keys(x, y, f"{prefix}{key}.")
        elif x != y:
            keys.append(f"{prefix}{key}")
    return keys


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def _random_state() -> dict[str, Tensor | list[Tensor]]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
