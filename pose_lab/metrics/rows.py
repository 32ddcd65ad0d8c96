"""A metric's memory: one row of numbers per person, each person once, whatever the number of processes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Keeps a float64 row per person and gives them back by rising id, without repetitions.

    A distributed sampler that fills its last batch repeats people; ids tell them apart, and the order by id makes sums
    independent of the number of processes.

    Args:
        shape: of one row.
        **kwargs: `torchmetrics.Metric`'s.
    """

    is_differentiable = False
    full_state_update = False

    ids: list[Tensor]
    values: list[Tensor]

    def __init__(self, shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = shape
        self.add_state("ids", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def add_rows(self, ids: Tensor, values: Tensor) -> None:
        """Keeps values (n, *shape) of the people `ids` (n,)."""
        self.ids.append(ids.long())
        self.values.append(values.double())

    def rows(self) -> Tensor:
        """(n, *shape) float64 on the CPU, each person once, by rising id; of all processes, so all must call it."""
        with gathered(self):
            ids, values = joined(self.ids), joined(self.values)
        _, first = np.unique(ids.numpy(), return_index=True)
        return values[torch.from_numpy(first)]

    def reset(self) -> None:
        """Forgets everybody."""
        super().reset()
        self._append_nothing()

    def _append_nothing(self) -> None:
        """Rows of the right shape and type, so that a process without samples can take part in the gathering."""
        self.ids.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.values.append(torch.empty(0, *self.shape, dtype=torch.float64, device=self.device))


def gathered(metric: Metric) -> AbstractContextManager[Any]:
    """Inside it a metric's states are those of all processes, within `compute` and without."""
    return metric.sync_context(should_sync=not metric._is_synced, should_unsync=not metric._is_synced)


def joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state on the CPU; after the gathering it is one tensor, before it a list, which is joined in place."""
    if isinstance(state, list):
        filled = [rows for rows in state if len(rows)]
        if len(filled) != 1:
            filled = [torch.cat(state)]
        state[:] = filled  # in place, or a large state would be in memory twice
        state = state[0]
    return state.cpu()


def above_zero(name: str, *values: float) -> None:
    """Raises a ValueError if a setting is not a finite number above 0, or there is none."""
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"{name}={', '.join(map(str, values)) or '[]'} must be finite and above 0")


def at_least_one(name: str, value: int) -> None:
    """Raises a ValueError if a setting is not a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value} must be a whole number from 1 on")


def refuse(wrong: Tensor, message: str) -> None:
    """Raises a ValueError with the first wrong row's number in place of `{}`."""
    if wrong.any():
        raise ValueError(message.format(int(wrong.int().argmax())))


def refuse_unless_finite(values: Tensor, message: str) -> None:
    """Raises a ValueError with the number of the first row that holds NaN or infinity in place of `{}`."""
    if not values.sum().isfinite():  # one pass; which row it is needs several
        refuse(~values.isfinite().reshape(len(values), -1).all(1), message)


def refuse_unless_shaped(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    """Raises a ValueError if `values` has another shape."""
    if values.shape != shape:
        raise ValueError(f"{name} has the shape {tuple(values.shape)}, expected {shape}")
