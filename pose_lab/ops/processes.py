"""Numbers of a batch that several processes share."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor of any shape over the processes that train a run; without others itself. No gradient.

    DDP averages the processes' gradients. A loss that is a sum over a count, with the count's mean over processes in
    the denominator, therefore has the gradient that one process with the whole batch would have.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
