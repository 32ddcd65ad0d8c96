"""Fingerprints that were found before, so that a finished sweep is recognised without importing torch.

Kept in `.fingerprints.json` of the sweep's folder, for the code that found them, and only for configs that decide the
content of their data alone (`Runs.is_decided`): files may have changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pose_lab.runs import code
from pose_lab.runs.files import read_json, write_json
from pose_lab.runs.identity import resolved, sweep_folder

FILE = ".fingerprints.json"
UNRELATED = ("results", "logger", "report", "machine")  # top-level keys that say nothing about data or weights


def recalled(configs: Sequence[DictConfig]) -> list[str] | None:
    """The runs' fingerprints as they were found before; None if any has to be asked for."""
    known = {folder: _read(folder) for folder in dict.fromkeys(map(sweep_folder, configs))}
    if not all(known.values()):
        return None
    found = [known[sweep_folder(cfg)].get(_key(cfg)) for cfg in configs]
    fingerprints = [fingerprint for fingerprint in found if fingerprint is not None]
    return fingerprints if len(fingerprints) == len(found) else None


def remember(configs: Sequence[DictConfig], fingerprints: Sequence[str]) -> None:
    """Keeps them for the next start."""
    found: dict[Path, dict[str, str]] = {}
    for cfg, fingerprint in zip(configs, fingerprints, strict=True):
        found.setdefault(sweep_folder(cfg), {})[_key(cfg)] = fingerprint
    for folder, new in found.items():
        content = {"code": code.fingerprint(), "fingerprints": {**_read(folder), **new}}
        write_json(folder / FILE, content, sync=False)


def _read(folder: Path) -> Mapping[str, str]:
    """What is kept there of this code; a damaged file is none."""
    try:
        content: Any = read_json(folder / FILE)
        return content["fingerprints"] if content["code"] == code.fingerprint() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _key(cfg: DictConfig) -> str:
    content = {key: value for key, value in resolved(cfg).items() if key not in UNRELATED}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()
