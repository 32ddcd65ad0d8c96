"""The name of a run: a hash of what decides its result, and of nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pose_lab.runs.files import FileLock, make_folder

_ABSENT = object()
HASH_LENGTH = 8
SLUG_LENGTH = 100

UNDECISIVE: dict[str, str] = {
    "hydra": "how the command was started",
    "results": "where files go",
    "machine": "the machine that the run is on: devices, precision of timers, intervals between checkpoints",
    "logger": "who is told about the run",
    "report": "how finished runs are shown",
    "name": "the experiment that asked for the run; it chooses the folder of the sweep",
    "checkpoint": "where the weights to start from lie; their content enters by the fingerprint",
    "checkpoint_network": "whether the method's network was adapted to them; what came of it decides",
    "weights_of": "which run trains for this one; it enters the hash of a run that does not train itself",
    "method.about": "what people call the parts that were chosen; their numbers enter themselves",
    "method.published_batch": "what a recipe's batch size may refer to",
    "method.published_inference": "enters `method.inference` where published weights are evaluated",
    "data.root": "where the data lie; their content enters by its fingerprint",
    "data.cache": "where indices and synthetic pictures are kept",
    "training.log_every": "how often the run tells of itself",
    "data.workers": "how many processes load; samples do not depend on it",
}


def identity(cfg: DictConfig, fingerprint: str) -> str:
    """The run's hash.

    Args:
        cfg: the whole config of one run.
        fingerprint: of the content of the data and of the weights to start from, as paths do not enter.

    Returns:
        Eight hexadecimal digits, equal for configs that decide the same result.

    Raises:
        ValueError: a value that decides the result is missing (`???`).
        TypeError: a value of a type that has no canonical text.
    """
    parts: dict[str, Any] = {"config": deciding(cfg), "data": fingerprint}
    trains = trained_by(cfg)
    if trains is not None:
        parts["weights"] = deciding(trains)
    return digest(parts)


def digest(content: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits, equal for equal content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def trained_by(cfg: DictConfig) -> DictConfig | None:
    """The config of the run whose weights this one evaluates, as its `weights_of` says; None if it trains itself.

    Args:
        cfg: the whole config of one run; `weights_of` maps config keys to the values that the trained run has.

    Raises:
        ValueError: `weights_of` names a key that the config does not have, or one of the data.
    """
    evaluates_a_file = OmegaConf.select(cfg, "training.epochs") == 0
    changes = OmegaConf.to_container(cfg.weights_of, resolve=True) if cfg.get("weights_of") else None
    if not changes or evaluates_a_file:
        return None
    trains = copy.deepcopy(cfg)
    for key, value in cast(dict[str, Any], changes).items():
        if key.startswith("data.") or OmegaConf.select(trains, key, default=_ABSENT) is _ABSENT:
            raise ValueError(f"weights_of names {key}, which is no key of the config outside `data`")
        OmegaConf.update(trains, key, value, merge=False)
    trains.weights_of = None
    return None if deciding(trains) == deciding(cfg) else trains


def deciding(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config without the keys of `UNDECISIVE`, in canonical values."""
    return deciding_part(resolved(cfg))


def deciding_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """`deciding` of a config that is resolved already, as in a run's folder."""
    kept = {str(key): _canonical(_without(value, (key,)), str(key)) for key, value in content.items()}
    return {key: value for key, value in kept.items() if key not in UNDECISIVE}


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The run's config as plain containers, interpolations resolved, without Hydra's own node."""
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_container(task, resolve=True)  # type: ignore[return-value]


def sweep_folder(cfg: DictConfig) -> Path:
    """`<results>/<name>/<scale>-<data>`: the folder of all runs of an experiment at one scale on one data set."""
    return Path(cfg.results) / cfg.name / f"{cfg.scale}-{cfg.data.name}"


def run_folder(cfg: DictConfig, fingerprint: str, swept: Sequence[str] = ()) -> Path:
    """Finds the run's folder by its hash, or makes it.

    Args:
        cfg: the whole config of one run.
        fingerprint: see `identity`.
        swept: overrides `key=value` to name a new folder by, so that people can read it.

    Returns:
        `<sweep's folder>/<slug>-<hash>`; the same for the same run, whatever command started it.
    """
    parent, digest = make_folder(sweep_folder(cfg)), identity(cfg, fingerprint)
    lock = FileLock(parent / ".lock")
    lock.acquire(block=True)  # a sweep and a run alone may ask at once, with different slugs
    try:
        found = sorted(parent.glob(f"*-{digest}"))
        return found[0] if found else make_folder(parent / f"{slug(swept)}-{digest}")
    finally:
        lock.release()


def slug(overrides: Sequence[str]) -> str:
    """`["method.keypoint_box=0.05", "seed=1"]` as `keypoint_box-0.05-seed-1`; `base` for none."""
    parts = (override.lstrip("+~").split("=", 1) for override in overrides)
    words = "-".join("-".join([part[0].rsplit(".", 1)[-1].rsplit("/", 1)[-1], *part[1:]]) for part in parts)
    return re.sub(r"[^A-Za-z0-9_.]+", "-", words).strip("-.")[:SLUG_LENGTH] or "base"


def _without(value: Any, path: tuple[str, ...]) -> Any:
    """The value at `path` of a config without what is not decisive in it; nothing if it is not decisive itself."""
    if ".".join(path) in UNDECISIVE:
        return None
    if not isinstance(value, Mapping):
        return value
    kept = {key: item for key, item in value.items() if ".".join((*path, str(key))) not in UNDECISIVE}
    return {key: _without(item, (*path, str(key))) for key, item in kept.items()}


def _canonical(value: Any, key: str) -> Any:
    """The one spelling of equal values: 1.0 is 1, 5e-2 is 0.05, not-a-number is a word."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return _canonical_float(value)
    if value == "???":
        raise ValueError(f"config key {key} has no value: give it on the command line as {key}=VALUE")
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"config key {key} holds a {type(value).__name__}, which has no place in a run's identity")


def _canonical_float(value: float) -> float | int | str:
    if not math.isfinite(value):
        return f"float {value}"
    return int(value) if value.is_integer() else value
