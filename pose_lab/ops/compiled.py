"""Loops in which a step depends on the one before, as machine code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any]  # what a loop is given for a tensor


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Lets numba compile a function at its first call; it computes as numpy does, in the types of its arguments.

    The function is written for arrays and numbers. It is called with tensors on the CPU that need no gradient, works on
    their memory, and the arrays that it returns come back as tensors.

    The machine code is kept beside the source file, or in the user's cache where that folder is read-only; the first
    call of all takes some seconds. Numba is imported then, so that processes without such loops start sooner.
    """

    @cache
    def machine_code() -> Callable[..., Any]:
        from numba import njit

        try:
            return njit(cache=True, error_model="numpy")(loop)
        except RuntimeError:  # no folder to write to: compiled in every process
            return njit(error_model="numpy")(loop)

    @wraps(loop)
    def call(*args: Tensor | float) -> Any:
        arrays = [arg.numpy() if isinstance(arg, Tensor) else arg for arg in args]
        found = machine_code()(*arrays)
        return tuple(_tensor(part) for part in found) if isinstance(found, tuple) else _tensor(found)

    return call


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
