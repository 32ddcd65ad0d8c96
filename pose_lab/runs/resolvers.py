"""Interpolations that configs may use besides OmegaConf's own."""

from __future__ import annotations

import os
from typing import Any

from hydra.core.global_hydra import GlobalHydra
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


def loaders(elsewhere: int = 0) -> int:
    """`${loaders:8}`: loader processes for a Slurm job: the CPUs that each of its processes asked for, but its own one.

    Args:
        elsewhere: how many there are outside of a job, at most one per core; with 0 the run's process loads by itself.
    """
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    return min(elsewhere, len(os.sched_getaffinity(0))) if cpus is None else max(0, int(cpus) - 1)


def groups(*names: str) -> str:
    """`${groups:method,scale}`: what these config groups and those within them offer, a line each, for a help."""
    loader = GlobalHydra.instance().config_loader()
    within = [f"{name}/{inner}" for name in names for inner in loader.list_groups(name)]
    return "\n".join(f"{name}: {', '.join(loader.get_group_options(name))}" for name in sorted([*names, *within]))


def register() -> None:
    """Makes OmegaConf know them."""
    OmegaConf.register_new_resolver("loaders", loaders, replace=True)
    OmegaConf.register_new_resolver("by_scale", by_scale, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
