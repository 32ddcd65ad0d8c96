"""The order of detections: picture after picture, the best first."""

from __future__ import annotations

import torch
from torch import Tensor


def by_falling_score(groups: Tensor, scores: Tensor) -> Tensor:
    """(N,) the rows by group, the highest score first within it; of equal scores the earlier row."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[torch.argsort(groups[order], stable=True)]
