"""Which data set lies in a folder: by the name that the user gives, or guessed from the files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pose_lab.data.layouts import LAYOUTS
from pose_lab.data.module import PoseDataModule
from pose_lab.data.rules import ReadingRules
from pose_lab.skeletons import COCO, SKELETONS, WHOLEBODY, Skeleton

_CONFIGS = files("pose_lab.conf") / "data"
_BASE = "loading@_here_: files"  # the configs of data sets in files begin with it
_DEEPEST = 3  # folders below the root in which annotation files and pictures are looked for
_SAME_NAMES = 0.8  # share of the keypoints' names that must agree; some files call a few of them otherwise
_NO_LETTERS = re.compile(r"[^a-z0-9]+")
_MOST = 20  # JSON files, and pictures of each, that are looked at to guess


@dataclass(frozen=True)
class Part:
    """One split of a data set: its annotation file, how to read it, its pictures' folder."""

    name: str
    annotations: Path
    rules: ReadingRules
    images: Path


@dataclass(frozen=True)
class Source:
    """A data set, how it was found, and why files that could have been of it are not looked at."""

    how: str
    parts: tuple[Part, ...]
    passed_over: dict[str, str] = field(default_factory=dict)


def named(name: str, root: Path, overrides: Sequence[str] = ()) -> Source:
    """The splits of `data=NAME data.root=ROOT` that are there.

    Raises:
        FileNotFoundError: if none is; says what is expected and what was found.
        ValueError: if no data set in files has that name, or an override is wrong.
    """
    if name not in names():
        raise ValueError(f"no data set in files is called {name!r}; there are: {', '.join(names())}")
    module = _module(name, root, overrides)
    parts = _parts(module)
    if not parts:
        module.prepare_data()  # says what is missing
    return Source(f"data={name}", tuple(parts))


def guessed(root: Path) -> Source:
    """The first data set of which a split's annotation file and pictures are where its config says; else any files in
    COCO's layout.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if nothing fits.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    fitting = {name: parts for name in names() if (parts := _parts(_module(name, root)))}
    if fitting:
        name = _first_readable(fitting)
        files = {part.annotations for part in fitting[name]}
        others = [other for other in fitting if files.isdisjoint(part.annotations for part in fitting[other])]
        also = f"; the files of {', '.join(others)} are there too" if others else ""
        return Source(f"guessed data={name}: its files are where it expects them{also}", tuple(fitting[name]))
    like_coco, passed_over = _files_like_coco(root)
    if not like_coco:
        looked_at = "".join(f"; {file}: {reason}" for file, reason in passed_over.items())
        raise ValueError(
            f"{root.resolve()} is in no layout that is known ({', '.join(names())}), and holds no JSON file in COCO's "
            f"layout with its pictures{looked_at}. Give data=NAME to hear what is missing"
        )
    how = "guessed: files in COCO's layout; skeletons by the names of their keypoints, else by their number"
    return Source(how, tuple(like_coco), passed_over)


def _first_readable(fitting: dict[str, list[Part]]) -> str:
    """The first; of several that share annotation files (LSP and its extended set) the first that can read them."""
    first = next(iter(fitting))
    files = {part.annotations for part in fitting[first]}
    same = [name for name, parts in fitting.items() if files == {part.annotations for part in parts}]
    return first if len(same) == 1 else next(filter(lambda name: _reads(fitting[name]), same), first)


def _reads(parts: list[Part]) -> bool:
    try:
        for part in parts:
            LAYOUTS[part.rules.layout](part.annotations, part.rules)
    except (ValueError, RuntimeError):  # the latter where SciPy is missing, which is told on reading
        return False
    return True


def names() -> list[str]:
    """Data sets that are read from files, by their configs; COCO first."""
    found = [
        Path(file.name).stem for file in _CONFIGS.iterdir() if file.name.endswith(".yaml") and _BASE in file.read_text()
    ]
    return sorted(found, key=lambda name: (name != "coco", name))


def _module(name: str, root: Path, overrides: Sequence[str] = ()) -> PoseDataModule:
    """The data set as a run would open it, bad records left out. (Composing all by Hydra takes seconds.)"""
    given = {"root": str(root), "bad_records": "skip", "augment": {"_target_": "pose_lab.data.augment.Augmentation"}}
    layers = [_CONFIGS / "loading" / "default.yaml", _CONFIGS / "loading" / "files.yaml", _CONFIGS / f"{name}.yaml"]
    data: Any = OmegaConf.merge(*(OmegaConf.create(layer.read_text()) for layer in layers), given)
    del data["defaults"]
    config: Any = OmegaConf.create({"data": data, "seed": 0, "machine": {"workers": 0, "cache": ""}})
    OmegaConf.set_struct(config, True)
    try:
        changed: Any = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        module: PoseDataModule = instantiate(changed.data)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"data={name}: {str(error).splitlines()[0]}") from None
    return module


def _parts(module: PoseDataModule) -> list[Part]:
    parts = []
    for name, split in module.splits.items():
        file, folder = module.annotation_file(name), module.root / split.images
        if file.exists() and folder.is_dir():
            parts.append(Part(name, file, module.rules_of(name), folder))
    return parts


def _files_like_coco(root: Path) -> tuple[list[Part], dict[str, str]]:
    """Annotation files with their pictures, and why others are passed over, by their names below the root."""
    parts, passed_over = [], {}
    candidates = sorted(file for depth in range(_DEEPEST) for file in root.glob("*/" * depth + "*.json"))
    for file in candidates[:_MOST]:
        try:
            parts.append(_like_coco(root, file))
        except ValueError as error:
            passed_over[str(file.relative_to(root))] = str(error)
    return parts, passed_over


def _like_coco(root: Path, file: Path) -> Part:
    """A split in COCO's layout; raises ValueError with the reason if the file is none."""
    try:
        content = json.loads(file.read_bytes())
        people, names = content["annotations"], [image["file_name"] for image in content["images"][:_MOST]]
        skeleton = _skeleton_of(people, content.get("categories"))
        whole_body = bool(people) and "foot_kpts" in people[0]
        with_areas = all("area" in person for person in people)
    except (ValueError, OSError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("not in COCO's layout") from None
    if skeleton is None:
        raise ValueError("its keypoints are those of no known skeleton")
    folder = _folder_of(root, names)
    if folder is None:
        raise ValueError(f"none of its first {len(names)} pictures is in this folder")
    factor = None if with_areas else 1.0
    if whole_body and skeleton is COCO:
        rules = ReadingRules(WHOLEBODY, factor, layout="wholebody", least_confidence=0, bad_records="skip")
        return Part(file.stem, file, rules, folder)
    return Part(file.stem, file, ReadingRules(skeleton, factor, bad_records="skip", images=folder), folder)


def _skeleton_of(people: list[Any], categories: Any) -> Skeleton | None:
    """By the names of the file's keypoints, nearly all of which must agree; without names by how many there are."""
    counts = {len(person["keypoints"]) / 3 for person in people[:1]}
    fitting = [points for points in SKELETONS.values() if len(points) in counts]
    given = [_NO_LETTERS.sub("_", name.lower()) for name in (categories or [{}])[0].get("keypoints", ())]
    if not given:
        return next(iter(fitting), None)
    shares = [sum(map(str.__eq__, points.keypoints, given)) / len(points) for points in fitting]
    best = max(zip(shares, fitting, strict=True), key=lambda pair: pair[0], default=(0.0, None))
    return best[1] if best[0] >= _SAME_NAMES else None


def _folder_of(root: Path, names: Sequence[str]) -> Path | None:
    folders = [root, *(folder for depth in range(1, _DEEPEST + 1) for folder in sorted(root.glob("*/" * depth)))]
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)
