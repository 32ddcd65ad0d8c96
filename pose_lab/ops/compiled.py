"""Loops in which a step depends on the one before, as machine code."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any]  # what a loop is given for a tensor


def in_loops(values: Tensor) -> bool:
    """Whether compiled loops do the work, as on CPUs; elsewhere the batched operations beside them do it at once."""
    return values.is_cpu


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Lets numba compile a function at its first call, for one signature; it computes as numpy does in these types.

    The function is written for arrays and numbers, and uses no global name but numpy. It is called with tensors on the
    CPU that need no gradient, works on their memory, and the arrays that it returns come back as tensors.

    The machine code is kept in the user's cache folder where that can be written to; without it each loop costs about
    a second in every process. Numba is imported at the first call, so that processes without loops start sooner.

    Args:
        signature: in numba's words; `float32[:]` takes arrays whose numbers lie apart, too.

    Raises:
        TypeError: when it is called with other types.
    """

    def decorate(loop: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def machine_code() -> Callable[..., Any]:
            from numba import njit

            try:
                with _kept(loop):
                    return njit(signature, cache=True, error_model="numpy")(loop)
            except (OSError, RuntimeError, EOFError):  # no folder, no locks, a full disk, a broken file
                return njit(signature, error_model="numpy")(loop)

        @wraps(loop)
        def call(*args: Tensor | float) -> Any:
            arrays = [arg.numpy() if isinstance(arg, Tensor) else arg for arg in args]
            found = machine_code()(*arrays)
            return tuple(_tensor(part) for part in found) if isinstance(found, tuple) else _tensor(found)

        return call

    return decorate


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@contextmanager
def _kept(loop: Callable[..., Any]) -> Iterator[None]:
    """Numba keeps machine code in a folder of this very code, where one process works at a time.

    Its own choice, the folder of the source, would mix up processes that compile at once or after an edit.

    Raises:
        OSError, RuntimeError: there is no such folder.
    """
    config: Any = importlib.import_module("numba").config  # its settings have no types
    code = loop.__code__
    parts = repr((loop.__qualname__, code.co_code, code.co_consts, code.co_names)).encode()
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("POSE_LAB_CACHE") or Path(shared, "pose_lab")
    folder = Path(root, "loops", hashlib.sha256(parts).hexdigest()[:16])
    folder.mkdir(parents=True, exist_ok=True)
    before = config.CACHE_DIR
    with FileLock(folder / "lock"):
        config.CACHE_DIR = str(folder)
        try:
            yield
        finally:
            config.CACHE_DIR = before
