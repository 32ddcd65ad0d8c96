"""The weights that a run starts from: finding the file, fitting the config to it, loading it into the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from pose_lab.checkpoints.reading import content_hash, open_weights
from pose_lab.methods.base import PoseMethod
from pose_lab.runs.checkpoints import BEST, LAST
from pose_lab.runs.folder import RunFolder

CHECKPOINTS: Mapping[str, str] = {"last": LAST, "best": BEST}  # by `training.evaluate`
NETWORKS = ("file", "config")  # choices of `checkpoint_network`


def checkpoint_file(path: str | Path) -> Path:
    """The file of a checkpoint: the one given, or that of the weights which a run's numbers are of.

    Raises:
        FileNotFoundError: there is nothing of that name, or the run has no checkpoint.
        ValueError: it is a folder, but no run's.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"checkpoint={path}: there is no such file or run folder")
        return path
    if not (path / "config.yaml").exists():
        raise ValueError(f"checkpoint={path} is no run's folder (it has no config.yaml): name a run's folder or a file")
    folder = RunFolder(path)
    file = folder.checkpoints / CHECKPOINTS[folder.config()["training"]["evaluate"]]
    if not file.exists():
        raise FileNotFoundError(f"checkpoint={path}: this run has no {file.relative_to(path)} yet")
    return file


def weights_fingerprint(path: str | Path) -> str:
    """A hash of a checkpoint's content."""
    file = checkpoint_file(path)
    return _hash(file, file.stat().st_mtime_ns)


@lru_cache
def _hash(file: Path, changed: int) -> str:
    """A sweep asks for the same file once per run."""
    return content_hash(file)


def fitted(cfg: DictConfig) -> DictConfig:
    """The config with the network of its checkpoint, if it has one and `checkpoint_network` is `file`.

    Where published weights are only evaluated, they also get the inference that they were published with.

    Raises:
        OSError, ValueError: the file is wrong, is another method's, or differs from the config and `checkpoint_network`
            is `config`; the message names the values that would fit.
    """
    if cfg.checkpoint_network not in NETWORKS:
        raise ValueError(f"checkpoint_network is {cfg.checkpoint_network!r}; there are: {', '.join(NETWORKS)}")
    if cfg.checkpoint is None:
        return cfg
    file = checkpoint_file(cfg.checkpoint)
    method = get_class(cfg.method._target_)
    assert issubclass(method, PoseMethod)
    net: Any = OmegaConf.to_container(cfg.method.net, resolve=True)
    weights = open_weights(file)
    changes = method.net_changes(weights, net)
    if changes and cfg.checkpoint_network == "config":
        values = " ".join(f"method.net.{key}={value}" for key, value in changes.items())
        raise ValueError(f"{file} holds another network than the config; this would fit: {values}")
    cfg = cfg.copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, f"method.net.{key}", value)
    if cfg.checkpoint_network == "file" and not cfg.training.epochs and not weights.own:
        _as_published(cfg)
    return cfg


def _as_published(cfg: DictConfig) -> None:
    """Sets the inference that weights were published with, but for what the experiment itself varies."""
    varied = set(cfg.get("weights_of") or ())
    for key, value in (cfg.method.get("published_inference") or {}).items():
        if f"method.inference.{key}" not in varied:
            cfg.method.inference[key] = value


def published_choices(cfg: DictConfig, fitted_cfg: DictConfig) -> str:
    """The inference that `fitted` changed for published weights, in words; empty where it changed none."""
    before, after = cfg.method.inference, fitted_cfg.method.inference
    changed = [f"{key} {after[key]}" for key in after if after[key] != before[key]]
    return f"as published: {', '.join(changed)} (method.published_inference.KEY=VALUE changes it)" if changed else ""


def check_complete(methods: Iterable[PoseMethod], path: str | Path) -> None:
    """Refuses to evaluate a checkpoint alone where inference asks for what it does not hold.

    Raises:
        ValueError: it lacks something; the message says what.
    """
    file = checkpoint_file(path)
    weights = open_weights(file)
    for method in methods:
        if lacking := method.lacking(weights):
            raise ValueError(f"{file} has {lacking}, or train (training.epochs=0 only evaluates)")


def load_weights(method: PoseMethod, path: str | Path) -> str:
    """Fills a method's network from a checkpoint or a run; returns what was taken, in words.

    Raises:
        OSError, ValueError: the file is wrong, or its weights do not fit; the network is untouched.
    """
    file = checkpoint_file(path)
    return f"{method.load_weights(open_weights(file))} of {file}"
