"""What all methods share: optimiser and schedule from config, weight averaging, evaluation, logging.

A method is one file with one subclass of `PoseMethod`: it says how targets and losses are made (`losses`), what the
network sees in a view of pictures (`look`), what is kept of its views (`collect`) and how people are made of that
(`people`); everything else is here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import Metric

from pose_lab.checkpoints.filling import fill
from pose_lab.checkpoints.reading import Weights
from pose_lab.methods.optimisation import MovingAverage, Optimisation
from pose_lab.metrics.oks_ap import OKSAveragePrecision
from pose_lab.ops.processes import mean_over_processes
from pose_lab.poses import Annotations, Batch, Predictions
from pose_lab.skeletons import Skeleton, skeleton

Look = Callable[[Any], Any]  # a view of a batch's pictures -> what the network gives for it


class PoseMethod(LightningModule):
    """Base of all methods.

    Args:
        skeleton: the keypoint set, or its name.
        net: the network.
        optimisation: the `optimisation` node of the config, see `Optimisation`.
        sum_over_batch: the loss is multiplied by the global number of pictures of a batch (published KAPAO); otherwise
            it is a mean over pictures.

    Subclasses implement `losses`, `look`, `collect` and `people`.

    Attributes:
        inference: what `people` does, a frozen dataclass of the method's own.
        candidates_type: what `candidates` gives, a dataclass of tensors.
        test_settings: arguments that training does not depend on: one network can be evaluated with several of each.
    """

    inference: Any
    candidates_type: ClassVar[type]
    test_settings: ClassVar[Sequence[str]] = ("inference", "test_time")

    def __init__(
        self,
        skeleton: Skeleton | str,
        net: nn.Module,
        optimisation: Mapping[str, Any],
        sum_over_batch: bool = False,
    ) -> None:
        super().__init__()
        self.skeleton = as_skeleton(skeleton)
        self.net = net.to(memory_format=torch.channels_last)  # convolutions are faster so, on CPUs and GPUs
        self.optimisation = Optimisation.from_config(optimisation)
        self.sum_over_batch = sum_over_batch
        self.metrics = nn.ModuleList()

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a batch, already weighted: their sum is minimised."""

    @abstractmethod
    def look(self, batch: Batch, view: Any) -> Any:
        """What the network gives for one view of a batch's pictures; nothing else asks it at inference.

        Weights, pictures and view alone decide the result, so that settings which have views in common can share it.

        Args:
            batch: the pictures.
            view: what of them the network is shown (mirrored, scaled), as the method's own `collect` asks for it;
                hashable.
        """

    @abstractmethod
    def collect(self, look: Look, batch: Batch) -> Any:
        """What the views that the settings ask for show, before thresholds and grouping: tensors of the method's kind.

        Args:
            look: gives what the network sees in a view of the batch.
            batch: the pictures' sizes; the pictures themselves are for `look`.
        """

    @abstractmethod
    def people(self, candidates: Any, batch: Batch) -> Predictions:
        """The post-processing: candidates of a batch -> people, in pixels of the original images."""

    def crowd(self, batch: Batch, people: int) -> Any:
        """Candidates as `candidates` would give them if every picture showed so many people: to time `people` on.

        None where a method has no such drawing; then its post-processing is timed on the pictures alone.
        """
        return None

    def stores(self, wanted: Any) -> bool:
        """Whether candidates found with the present `inference` hold all that `people` needs with `wanted`.

        A method answers False where `wanted` differs in what `candidates` itself depends on.
        """
        return True

    def candidates(self, batch: Batch, look: Look | None = None) -> Any:
        """What the network sees in a batch: all that needs it, so that `people` can be repeated and timed apart.

        Args:
            batch: the pictures.
            look: shared between settings of one network; None: the method's own.
        """
        return self.collect(look or partial(self.look, batch), batch)

    @torch.no_grad()
    def predict(self, batch: Batch, look: Look | None = None) -> Predictions:
        """The people found in a batch, in pixels of the original images; arguments as for `candidates`."""
        return self.people(self.candidates(batch, look), batch)

    @classmethod
    def net_changes(cls, weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
        """What must change in the `net` node of the config so that a checkpoint's weights fit; by default nothing.

        Raises:
            ValueError: they are the weights of another method.
        """
        return {}

    def load_weights(self, weights: Weights) -> str:
        """Takes the weights of a checkpoint with published names; returns what was taken, in words.

        Raises:
            ValueError: they do not fit; the network is untouched.
        """
        return fill(self.net, weights)

    def lacking(self, weights: Weights) -> str:
        """What inference asks for and only a training after these weights would give, in words; empty: nothing."""
        return ""

    def setup(self, stage: str) -> None:
        """Takes the ground truth of the validation split from the DataModule."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.skeleton.name != self.skeleton.name:
            raise ValueError(
                f"the method's skeleton is {self.skeleton.name!r}, the data's is {data.skeleton.name!r}: set both from "
                "data.skeleton"
            )
        self.metrics = nn.ModuleList(self.make_metrics(data.val_annotations))

    def make_metrics(self, annotations: Annotations) -> list[Metric]:
        """What is measured against the ground truth of the validation split; each computes numbers by name."""
        return [OKSAveragePrecision(annotations, self.skeleton)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: sums the losses and logs each of them."""
        losses = self.losses(batch)
        total = cast(Tensor, sum(losses.values()))
        names = [f"train/{name}" for name in (*losses, "loss")]
        logged = dict(zip(names, mean_over_processes(torch.stack([*losses.values(), total]).detach()), strict=True))
        self.log_dict(logged, on_step=True, on_epoch=True, batch_size=len(batch))
        if not self.sum_over_batch:
            return total
        # DDP averages gradients over processes, Lightning over accumulated batches: a sum needs both numbers back
        return total * len(batch) * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def validation_step(self, batch: Batch, batch_idx: int) -> Predictions:  # type: ignore[override]
        """Finds people and counts them into the metrics; the result is for callbacks that draw or write it."""
        predictions = self.predict(batch)
        self.count(predictions, batch)
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics' numbers as `val/AP`, ..."""
        numbers = {f"val/{name}": value for name, value in self.measured().items()}
        self.log_dict(numbers, rank_zero_only=False, sync_dist=False)

    def count(self, predictions: Predictions, batch: Batch) -> None:
        """Counts what was found in a batch into the metrics."""
        for metric in self._metrics:
            metric.update(predictions, batch.image_ids)

    def measured(self) -> dict[str, Tensor]:
        """The metrics' numbers over all processes, after which they start anew."""
        numbers: dict[str, Tensor] = {}
        for metric in self._metrics:
            numbers |= metric.compute()
            metric.reset()
        return numbers

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """The candidates of a batch, for those who repeat the post-processing."""
        return self.candidates(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the recipe."""
        return self.optimisation.build(self.net, self._global_batch)

    def configure_callbacks(self) -> list[Callback]:
        """Weight averaging where the recipe has it."""
        return [MovingAverage(self.optimisation.ema)] if self.optimisation.ema else []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient's norm where the recipe says so."""
        self.clip_gradients(optimizer, self.optimisation.clip or 0.0, "norm")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sets learning rate, momentum and accumulation for this iteration."""
        trainer = self.trainer
        per_epoch = int(trainer.num_training_batches)
        step = trainer.current_epoch * per_epoch + batch_idx
        optimiser = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        lr = self.optimisation.set_position(optimiser, step, per_epoch, cast(int, trainer.max_epochs))
        accumulate = self.optimisation.accumulate(self._global_batch, step, per_epoch)
        if batch_idx % accumulate == 0 == batch_idx % trainer.accumulate_grad_batches:  # between two optimiser steps
            trainer.accumulate_grad_batches = accumulate
        self.log("train/lr", lr)

    @property
    def _metrics(self) -> Iterable[Metric]:
        return cast(Iterable[Metric], self.metrics)

    @property
    def _global_batch(self) -> int:
        return int(self.trainer.datamodule.batch_size)  # type: ignore[attr-defined]


def frame_sides(image_size: int | Sequence[int], stride: int) -> tuple[int, ...]:
    """Side, or height and width, of the network's input in pixels.

    Raises:
        ValueError: a side is no multiple of the network's largest stride.
    """
    sides = (image_size,) if isinstance(image_size, int) else tuple(image_size)
    uneven = [side for side in sides if side % stride]
    if uneven:
        raise ValueError(f"data.image_size {uneven[0]} is no multiple of {stride}, the network's largest stride")
    return sides


def as_skeleton(value: Skeleton | str) -> Skeleton:
    """The keypoint set, or the one of that name."""
    return value if isinstance(value, Skeleton) else skeleton(value)
