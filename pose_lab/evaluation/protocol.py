"""How a results file is evaluated: one YAML of `conf/metric`, which names one of `conf/data` for the annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import pose_lab.conf
from pose_lab.data.rules import BadRecords, ReadingRules
from pose_lab.skeletons import Skeleton, skeleton

CONF = Path(next(iter(pose_lab.conf.__path__)))
CHOICES = dict.fromkeys(("unknown_images", "missing", "bad_records"), ("error", "skip"))


@dataclass(frozen=True)
class Protocol:
    """What is computed and from what.

    Attributes:
        annotations: the file with the truth.
        results: the file, or folder, that is evaluated.
        rules: how the annotations are read.
        settings: the metric's YAML with the command's changes.
        cache: folder for the index of the annotations.
        by: further tables that are asked for.
    """

    annotations: Path
    results: Path
    rules: ReadingRules
    settings: Mapping[str, Any]
    cache: Path
    by: tuple[str, ...] = ()

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that are compared."""
        return self.rules.shown or self.rules.skeleton


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        heading: says what the numbers are of.
        numbers: by official name.
        tables: further numbers by table, row and official name.
        ignored: counts of what did not take part, by reason.
        lines: the numbers as the official tool prints them.
        columns: of the tables, those that are printed; all if empty.
        files: what further can be written, by the command's argument: a function of the path.
    """

    heading: str
    numbers: dict[str, float]
    tables: dict[str, dict[str, dict[str, float]]]
    ignored: dict[str, int]
    lines: list[str]
    columns: tuple[str, ...] = ()
    files: dict[str, Any] = field(default_factory=dict)


def names(group: str) -> list[str]:
    """What a group of the config offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings_of(metric: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """A metric's YAML with changed values.

    Raises:
        ValueError: if there is no such metric or key, or a value is missing, cannot be read or is none of its choices.
    """
    if metric not in names("metric"):
        raise ValueError(f"metric={metric} is none of {', '.join(names('metric'))}")
    settings = _composed(f"metric/{metric}").metric
    values: dict[str, Any] = {key: None if OmegaConf.is_missing(settings, key) else settings[key] for key in settings}
    offered = sorted(k for k, v in values.items() if k not in ("family", "_target_") and not OmegaConf.is_dict(v))
    for key, text in changes.items():
        if key not in offered:
            raise ValueError(f"metric={metric} has no setting {key!r}; it has {', '.join(offered)}")
        settings[key] = _value(key, text, values[key])
    missing = [f"{key}=" for key in settings if OmegaConf.is_missing(settings, key)]
    if missing:
        raise ValueError(f"metric={metric} needs {', '.join(missing)}")
    for key, choices in CHOICES.items():
        if key in settings and settings[key] not in choices:
            raise ValueError(f"{key}={changes[key]} is none of {', '.join(choices)}")
    return OmegaConf.to_container(settings)  # type: ignore[return-value]


def _value(key: str, text: str, default: Any) -> Any:
    """What the text says in YAML, if it is of the default's kind."""
    try:
        value = OmegaConf.from_dotlist([f"{key}={text}"])[key]
    except (OmegaConfBaseException, YAMLError):
        raise ValueError(f"{key}={text} cannot be read") from None
    kind, expected = _kind(value), _kind(default)
    if "nothing" not in (kind, expected) and kind != expected:
        raise ValueError(f"{key}={text} is {kind}, expected {expected}, e.g. {key}={default}")
    return value


def _kind(value: Any) -> str:
    if OmegaConf.is_list(value):
        kinds = set(map(_kind, value))
        return f"a list of {kinds.pop().removeprefix('a ')}s" if len(kinds) == 1 else "an empty or mixed list"
    of_type = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return of_type.get(type(value), "nothing")


def reading_rules(data: str, shown: str | None, part: str | None, bad_records: BadRecords = "error") -> ReadingRules:
    """How the annotations of a data set are read for its evaluation, for which no pictures need to be there.

    Args:
        data: a name in `conf/data`.
        shown: the skeleton that people are mapped to; None leaves the data set's own.
        part: of a file that holds several splits.
        bad_records: what happens to annotations that contradict themselves.

    Raises:
        ValueError: if there is no such data set or skeleton.
    """
    if data not in names("data"):
        raise ValueError(f"data={data} is none of {', '.join(names('data'))}")
    node = _composed(f"data/{data}").data
    if "layout" not in node:
        raise ValueError(f"data={data} is not read from annotation files")
    own = skeleton(node.annotated_as)
    return ReadingRules(
        skeleton=own,
        area_factor=node.area_factor,
        pixel_shift=node.pixel_shift,
        bad_records=bad_records,
        layout=node.layout,
        sizes=False,
        part=part,
        box_margin=node.box_margin,
        least_confidence=node.least_confidence,
        shown=None if shown in (None, own.name) else skeleton(shown),
    )


def _composed(config: str) -> DictConfig:
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        return compose(config)
