"""Interpolations that configs may use besides OmegaConf's own."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import Container, OmegaConf

SCALES = ("demo", "gpu", "paper")


def by_scale(demo: Any, gpu: Any, paper: Any, *, _root_: Container) -> Any:
    """`${by_scale:5,50,500}`: the value for the config's scale.

    Raises:
        ValueError: `scale` is none of the three.
    """
    scale = OmegaConf.select(_root_, "scale")
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; there are: {', '.join(SCALES)}")
    return {"demo": demo, "gpu": gpu, "paper": paper}[scale]


def loaders() -> int:
    """`${loaders:}`: loader processes for a Slurm job: the CPUs that each of its processes asked for, but its own one.

    Outside of a job 0: the run's process loads by itself.
    """
    return max(0, int(os.environ.get("SLURM_CPUS_PER_TASK", 1)) - 1)


def register() -> None:
    """Makes OmegaConf know them."""
    OmegaConf.register_new_resolver("loaders", loaders, replace=True)
    OmegaConf.register_new_resolver("by_scale", by_scale, replace=True)
