"""W&B for whole sweeps: the W&B Sweep of an experiment, whose agents run `pose_lab.run`, and what waits to be sent.

A W&B Sweep has its points from the same `sweeps/NAME.yaml` as `pose_lab.run`, and its agents compose the same configs,
so a run that one of them trains has the same folder as if the launcher had trained it.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from pose_lab.runs.folder import RunFolder
from pose_lab.runs.wandb import has_key, is_offline


def definition(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The W&B sweep of an experiment.

    Args:
        arguments: as `pose_lab.run` takes them; those that sweep (`seed=0,1,2`) replace the experiment's.

    Returns:
        The sweep's definition, and the `project` and `entity` that it belongs to.

    Raises:
        ValueError: nothing is swept.
    """
    given = OverridesParser.create().parse_overrides(list(arguments))
    fixed = [override for override in given if not override.is_sweep_override()]
    lines = [str(override.input_line) for override in fixed]
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        cfg = compose("run", overrides=lines, return_hydra_config=True)
    own = [f"{key}={values}" for key, values in (cfg.hydra.sweeper.get("params") or {}).items()]
    swept = [*OverridesParser.create().parse_overrides(own), *given]
    replaced = {override.get_key_element() for override in fixed}
    points = {key: _values(override) for override in swept if (key := override.get_key_element()) not in replaced}
    if not points:
        raise ValueError(f"{' '.join(arguments)} sweeps over nothing: name an experiment that does, or KEY=VALUE,VALUE")
    kept = [line for line in lines if not line.startswith(("hydra.", "hydra/"))]
    content = {
        "name": cfg.name,
        "method": "grid",
        "metric": {"name": f"val/{cfg.report.metric}", "goal": "maximize"},
        "parameters": {key: {"values": values} for key, values in points.items()},
        "command": ["${env}", "${interpreter}", "-m", "pose_lab.run", *kept, "hydra.mode=RUN", "${args_no_hyphens}"],
    }
    return content, {"project": cfg.logger.project, "entity": cfg.logger.entity}


def as_yaml(content: Mapping[str, Any]) -> str:
    """The definition as `wandb sweep FILE` takes it."""
    return yaml.safe_dump(dict(content), sort_keys=False, width=1000)


def create(content: Mapping[str, Any], where: Mapping[str, str | None]) -> str:
    """Creates the sweep where a key is at hand; says what was done, and how to start agents.

    Raises:
        ConnectionError: the server refused, or does not answer.
    """
    if is_offline() or not has_key():
        return (
            "# Not created: W&B is offline or there is no key. Save the lines above as sweep.yaml, and where there is "
            f"a key:\n#   wandb sweep --project {where['project']} sweep.yaml"
        )
    try:
        name = wandb.sweep(dict(content), entity=where["entity"], project=where["project"])
    except wandb.errors.Error as error:
        raise ConnectionError(f"W&B did not create the sweep: {error}") from error
    path = "/".join(part for part in (where["entity"], where["project"], name) if part)
    return f"# Created. Agents: wandb agent {path}   or on Slurm: sbatch slurm/wandb_agent.sbatch {path}"


def unsynced(folder: Path) -> tuple[list[Path], int]:
    """Offline W&B runs below a sweep's folder that were never sent, in the order in which they were started.

    Returns:
        Their folders, and how many more belong to runs that are being trained.
    """
    offline = [*folder.glob("*/wandb/offline-run-*"), *folder.glob("wandb/offline-run-*")]
    left = sorted((path for path in offline if not any(path.glob("*.wandb.synced"))), key=lambda path: path.name)
    busy = {run for run in {path.parents[1] for path in left} if RunFolder(run).is_locked()}
    waiting = [path for path in left if path.parents[1] not in busy]
    return waiting, len(left) - len(waiting)


def send(paths: Sequence[Path]) -> str:
    """Sends offline runs; fragments of one run (before and after an interruption) become one run again.

    Raises:
        ConnectionError: `wandb sync` ended with an error; what was sent is not sent again.
    """
    if not has_key():
        return "Not sent: there is no W&B key here. Where there is one (wandb login), start this command again."
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, paths)], check=False)
    if done.returncode:
        raise ConnectionError(f"wandb sync ended with status {done.returncode}; what was sent is not sent again")
    return f"Sent {len(paths)}."


def _values(override: Override) -> list[bool | int | float | str]:
    """The points of one key; one where it has a plain value.

    W&B's agents write Python's text of a value behind `key=`. Hydra reads numbers and truth values so; all others
    (words, null, lists, mappings) are given as the text that Hydra writes itself.
    """
    if not override.is_sweep_override():
        return [_point(override.value(), override.get_value_element_as_str())]
    return [_point(*pair) for pair in zip(override.sweep_iterator(), override.sweep_string_iterator(), strict=True)]


def _point(value: Any, text: str) -> bool | int | float | str:
    """Numbers that JSON lacks go as text, too."""
    plain = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else text
