"""Optimiser, schedule, warm-up and weight averaging, from the numbers of a recipe.

Learning rate, momentum and averaging decay are pure functions of the training position: nothing but the position has to
be stored, so a resumed run continues exactly where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """The factor on the base learning rate over the training.

    Attributes:
        name: `constant`; `cosine` (1 to `final` along half a cosine); `step` (times `gamma` at each milestone).
        final: last factor of `cosine`.
        per: `epoch`: the factor changes once per epoch (most published recipes); `step`: at every optimiser step.
        milestones: epochs at which `step` multiplies by `gamma`.
        gamma: factor of `step`.

    Raises:
        ValueError: unknown `name` or `per`.
    """

    name: str = "constant"
    final: float = 1.0
    per: str = "epoch"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in ("constant", "cosine", "step"):
            raise ValueError(f"optimisation.schedule.name is {self.name!r}; there are: constant, cosine, step")
        if self.per not in ("epoch", "step"):
            raise ValueError(f"optimisation.schedule.per is {self.per!r}; there are: epoch, step")

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor at `epoch` (fractional) of `epochs`."""
        position = epoch if self.per == "step" else math.floor(epoch)
        if self.name == "cosine":
            return (1 - math.cos(math.pi * position / epochs)) / 2 * (self.final - 1) + 1
        if self.name == "step":
            return self.gamma ** sum(position >= milestone for milestone in self.milestones)
        return 1.0


@dataclass(frozen=True)
class WarmUp:
    """A linear ramp over the first iterations.

    Attributes:
        epochs: length in epochs.
        min_steps: at least this many iterations.
        bias_lr: where the biases' learning rate starts (None: like all others, at 0).
        momentum: where the momentum starts (None: no ramp).
    """

    epochs: float = 0.0
    min_steps: int = 0
    bias_lr: float | None = None
    momentum: float | None = None

    def steps(self, steps_per_epoch: int) -> int:
        """Number of iterations of the ramp."""
        return max(round(self.epochs * steps_per_epoch), self.min_steps)


@dataclass(frozen=True)
class Averaging:
    """Exponential moving average of all weights and buffers: decay(u) = decay (1 - exp(-u / ramp)) after update u."""

    decay: float
    ramp: float = 0.0

    def at(self, update: int) -> float:
        """The decay of update number `update`, counted from 1."""
        return self.decay * (1 - math.exp(-update / self.ramp)) if self.ramp else self.decay


@dataclass(frozen=True)
class Optimisation:
    """The `optimisation` node of a method's config.

    Attributes:
        optimiser: a class of `torch.optim`, e.g. `SGD`.
        lr: base learning rate.
        weight_decay: for weights of two or more dimensions; normalisation weights and biases get none.
        options: further arguments of the optimiser (`momentum`, `nesterov`, `betas`); null ones are left out.
        nominal_batch: gradients of smaller batches are accumulated up to about this many pictures, and the weight decay
            is scaled by the real number over this one; None: neither.
        clip: largest gradient norm (None: no clipping).
        schedule: over the epochs.
        warmup: over the first iterations.
        ema: weight averaging (None: off).
    """

    optimiser: str
    lr: float
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    nominal_batch: int | None = None
    clip: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    warmup: WarmUp = field(default_factory=WarmUp)
    ema: Averaging | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.lr, int | float) and 0 <= self.lr < math.inf):
            raise ValueError(f"optimisation.lr is {self.lr!r}, but must be a number from 0 on")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Optimisation:
        """Built from plain nested mappings.

        Raises:
            TypeError: a key that does not exist.
        """
        parts = dict(config)
        schedule = Schedule(**_tuples(parts.pop("schedule", None) or {}))
        warmup = WarmUp(**(parts.pop("warmup", None) or {}))
        ema = parts.pop("ema", None)
        options = _tuples(parts.pop("options", None) or {})
        averaging = Averaging(**ema) if ema else None
        return cls(**parts, options=options, schedule=schedule, warmup=warmup, ema=averaging)

    def accumulate(self, batch: int, step: int, steps_per_epoch: int) -> int:
        """Batches per optimiser step at iteration `step`; ramps up from 1 during the warm-up."""
        if self.nominal_batch is None:
            return 1
        full = self.nominal_batch / batch
        ramp = self.warmup.steps(steps_per_epoch)
        share = min(step / ramp, 1.0) if ramp else 1.0
        return max(round(1 + share * (full - 1)), 1)

    def build(self, module: nn.Module, batch: int) -> torch.optim.Optimizer:
        """The optimiser over three groups, in this order: decayed weights, normalisation weights, biases.

        Raises:
            ValueError: `optimiser` is no class of `torch.optim`, or does not take the `options`.
        """
        kind = getattr(torch.optim, self.optimiser, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ValueError(f"optimisation.optimiser is {self.optimiser!r}, which is no class of torch.optim")
        scale = 1.0
        if self.nominal_batch is not None:
            scale = batch * max(round(self.nominal_batch / batch), 1) / self.nominal_batch
        weights, norms, biases = _parameter_groups(module)
        groups = [
            {"params": weights, "weight_decay": self.weight_decay * scale, "role": "weight"},
            {"params": norms, "weight_decay": 0.0, "role": "norm"},
            {"params": biases, "weight_decay": 0.0, "role": "bias"},
        ]
        options = {key: value for key, value in self.options.items() if value is not None}
        try:
            return kind([group for group in groups if group["params"]], lr=self.lr, **options)  # type: ignore[call-arg]
        except TypeError as error:
            raise ValueError(f"optimisation.options do not fit torch.optim.{self.optimiser}: {error}") from error

    def set_position(self, optimiser: torch.optim.Optimizer, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Sets learning rate and momentum of every group for iteration `step`, counted from 0.

        Returns:
            The learning rate of the weights.
        """
        position = step / steps_per_epoch
        lr = self.lr * self.schedule.factor(position, epochs)
        ramp = self.warmup.steps(steps_per_epoch)
        share = min(step / ramp, 1.0) if ramp else 1.0
        for group in optimiser.param_groups:
            start = self.warmup.bias_lr if group["role"] == "bias" and self.warmup.bias_lr is not None else 0.0
            group["lr"] = start + share * (lr - start)
            if self.warmup.momentum is not None and "momentum" in group:
                full = self.options["momentum"]
                group["momentum"] = self.warmup.momentum + share * (full - self.warmup.momentum)
        return share * lr


def _tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in config.items()}


def _parameter_groups(module: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Trainable parameters as (weights, normalisation weights, biases)."""
    weights: list[Tensor] = []
    norms: list[Tensor] = []
    biases: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("bias"):
            biases.append(parameter)
        else:
            (norms if parameter.ndim < 2 else weights).append(parameter)
    return weights, norms, biases


class MovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that ramps up: validation and checkpoints see the average.

    The average starts as a copy of the initial weights, and the first optimiser step is update 1.
    """

    def __init__(self, averaging: Averaging) -> None:
        @torch.no_grad()
        def blend(average: Iterable[Tensor], current: Iterable[Tensor], update: Tensor) -> None:
            targets, sources = list(average), list(current)
            if targets[0].is_floating_point():
                torch._foreach_lerp_(targets, sources, 1 - averaging.at(int(update)))
            else:
                torch._foreach_copy_(targets, sources)

        super().__init__(multi_avg_fn=blend)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts updates from 1, so that the first one already averages with the initial weights."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.n_averaged.fill_(1)
