"""Coordinates in mixed precision: a matrix product of pixels in half precision is wrong by up to a pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function with autocast off on the device of its first argument, whatever trains or evaluates around it."""

    @wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        if not torch.is_autocast_enabled(first.device.type):  # to enter the context costs more than a small product
            return function(*args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return exact
