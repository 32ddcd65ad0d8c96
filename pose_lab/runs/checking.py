"""The values of a run's config that no part of it checks itself: looked at before any data are made or indexed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pose_lab.runs.weights import CHECKPOINTS

LARGEST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class Number:
    """What a value may be.

    Attributes:
        least: the smallest.
        most: the largest.
        whole: no fractions.
        or_null: it may be left out.
    """

    least: float
    most: float = math.inf
    whole: bool = True
    or_null: bool = False

    def takes(self, value: Any) -> bool:
        """Whether the value is allowed."""
        if value is None:
            return self.or_null
        kinds = int if self.whole else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        """In words."""
        kind = "a whole number" if self.whole else "a number"
        limits = f"from {self.least:g} on" if math.isinf(self.most) else f"from {self.least:g} to {self.most:.0f}"
        return f"{kind} {limits}{', or null' if self.or_null else ''}"


ALLOWED: Mapping[str, Number] = {
    "seed": Number(0, LARGEST_SEED),
    "latency": Number(1, or_null=True),
    "training.epochs": Number(0),
    "training.validate_every": Number(1),
    "training.limit_batches": Number(1, or_null=True),
    "training.log_every": Number(1),
    "data.batch_size": Number(1),
    "data.val_batch_size": Number(1),
    "data.workers": Number(0),
    "machine.threads": Number(1, or_null=True),
    "machine.checkpoint_minutes": Number(0, whole=False),
    "machine.checkpoint_pause": Number(0, whole=False),
}


def check(cfg: DictConfig) -> None:
    """Looks at the values that nothing else checks before a run has begun.

    Raises:
        ValueError: a value is missing or is none that is allowed; the message names the key.
    """
    missing = sorted(key for key in OmegaConf.missing_keys(cfg) if not key.startswith("hydra."))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}: give it on the command line, {missing[0]}=VALUE")
    for key, number in ALLOWED.items():
        value = OmegaConf.select(cfg, key)
        if not number.takes(value):
            raise ValueError(f"{key} is {value!r}, but must be {number}")
    if cfg.training.evaluate not in CHECKPOINTS:
        raise ValueError(f"training.evaluate is {cfg.training.evaluate!r}; there are: {', '.join(CHECKPOINTS)}")
    if cfg.training.evaluate == "best" and 0 < cfg.training.epochs < cfg.training.validate_every:
        ends = f"training.epochs={cfg.training.epochs} must reach training.validate_every={cfg.training.validate_every}"
        raise ValueError(f"training.evaluate=best takes the best of some evaluations: {ends}")
    if not cfg.training.epochs and cfg.checkpoint is None:
        raise ValueError("training.epochs=0 only evaluates, and there are no weights yet: add checkpoint=FILE")
