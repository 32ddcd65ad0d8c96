"""Interpolations that configs may use besides OmegaConf's own."""

from __future__ import annotations

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


def register() -> None:
    """Makes OmegaConf know them."""
    OmegaConf.register_new_resolver("by_scale", by_scale, replace=True)
