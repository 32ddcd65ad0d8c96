"""Hydra finds `experiments/` and `sweeps/` as the groups `experiment` and `sweep`, wherever the command is started.

Looked through in this order: the folder named by POSE_LAB_ROOT, the working directory and its parents, the checkout
that holds the package, the copy bundled with an installed wheel. A user's file hides a shipped one of the same name.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

FOLDERS = {"experiment": "experiments", "sweep": "sweeps"}
_PACKAGE = Path(__file__).parents[1]


def roots() -> list[Path]:
    """Existing folders that hold `experiments/` or `sweeps/`, in order of precedence, each once."""
    named = os.environ.get("POSE_LAB_ROOT")
    here = Path.cwd()
    candidates = [*([Path(named)] if named else []), here, *here.parents, _PACKAGE.parent, _PACKAGE / "bundled"]
    found = [c.resolve() for c in candidates if any((c / folder).is_dir() for folder in FOLDERS.values())]
    return list(dict.fromkeys(found))


def names(group: str) -> list[str]:
    """All names that `group` (`experiment` or `sweep`) offers."""
    return sorted({path.stem for root in roots() for path in (root / FOLDERS[group]).glob("*.yaml")})


class TopLevelFolders(ConfigSource):
    """Serves one root: its folder `experiments` as group `experiment`, its folder `sweeps` as group `sweep`."""

    @staticmethod
    def scheme() -> str:
        """The scheme of its addresses."""
        return "toplevel"

    def _file(self, config_path: str) -> Path:
        group, _, name = config_path.strip("/").partition("/")
        return Path(self.path) / FOLDERS.get(group, "absent") / name

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads one YAML file with its `@package` header."""
        path = self._file(self._normalize_file_name(config_path))
        if not path.is_file():
            raise ConfigLoadError(f"Config not found: {path}")
        text = path.read_text(encoding="utf-8")
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create(text),
            header=ConfigSource._get_header_dict(text),
        )

    def available(self) -> bool:
        """Whether the root exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether `config_path` is the root of the groups or one of them."""
        return not config_path.strip("/") or self._file(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether `config_path` names a YAML file."""
        return self._file(self._normalize_file_name(config_path)).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The groups at the root, or the names within a group."""
        if not config_path.strip("/"):
            groups = [group for group, folder in FOLDERS.items() if (Path(self.path) / folder).is_dir()]
            return [] if results_filter == ObjectType.CONFIG else groups
        if results_filter == ObjectType.GROUP or not self.is_group(config_path):
            return []
        return sorted(path.stem for path in self._file(config_path).glob("*.yaml"))


class _TopLevelSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in roots():
            search_path.append(provider="pose_lab", path=f"{TopLevelFolders.scheme()}://{root}")


def register() -> None:
    """Makes Hydra know both plugins; called before `hydra.main` runs."""
    for plugin in (TopLevelFolders, _TopLevelSearchPath):
        Plugins.instance().register(plugin)
