"""`python -m pose_lab.data.download NAME root=FOLDER`: fetches a data set that has plain public addresses.

  only=FILE,...     only some of its files, e.g. only=annotations,val2017
  parallel=3        files at a time
  addresses=FILE    a YAML file like pose_lab/data/download/addresses.yaml

What broke off goes on where it was when the command is started again: unfinished files lie in FOLDER/.download. Sizes
and sums are checked where they are published; archives are unpacked and removed. For data sets behind a form or an
account it says where to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pose_lab.data.download.fetch import DownloadError, Wanted, fetch
from pose_lab.data.download.unpack import unpack
from pose_lab.errors import complain, said

_ADDRESSES = Path(__file__).with_name("addresses.yaml")
_ASIDE = ".download"  # below the root
_SETTINGS = {"root": "", "only": "", "parallel": "3", "addresses": str(_ADDRESSES)}


@dataclass(frozen=True)
class Item:
    """A file of a data set: what to fetch, what it makes below the root, and where it is unpacked."""

    name: str
    wanted: Wanted
    makes: tuple[str, ...]
    into: str


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 1 if anything could not be fetched."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        name, settings = _parsed(arguments)
        items = _chosen(_items(name, Path(settings["addresses"])), settings["only"])
        failures = _fetch_all(items, Path(settings["root"]), int(settings["parallel"]))
    except (ValueError, OSError) as error:
        failures = [said(error)]
    for failure in failures:
        complain(failure)
    return 1 if failures else 0


def _parsed(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    settings, names = dict(_SETTINGS), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key not in settings:
            raise ValueError(f"{argument!r} is none of {', '.join(f'{name}=' for name in settings)}")
        if equals:
            settings[key] = value
        else:
            names.append(argument)
    if len(names) != 1:
        raise ValueError(f"expected the name of one data set, but {', '.join(names) or 'none'} was given")
    if not settings["root"]:
        raise ValueError("root=FOLDER is missing: where the data set goes")
    if not settings["parallel"].isdigit() or settings["parallel"] == "0":
        raise ValueError(f"parallel={settings['parallel']} is no positive number")
    return names[0], settings


def _items(name: str, addresses: Path) -> list[Item]:
    """The files of a data set.

    Raises:
        ValueError: if nothing is known of it, or it is behind a form.
    """
    known = yaml.safe_load(addresses.read_text())
    if name not in known:
        raise ValueError(f"no address of {name!r} is known; there are: {', '.join(known)}")
    if "files" not in known[name]:
        raise ValueError(f"{name} has no plain public address: {known[name]['ask']}. docs/data.md says what goes where")
    return [_item(file, values) for file, values in known[name]["files"].items()]


def _item(name: str, values: Mapping[str, Any]) -> Item:
    sums = tuple((algorithm, values[algorithm]) for algorithm in ("sha256", "md5") if values.get(algorithm))
    return Item(name, Wanted(values["url"], values.get("bytes"), sums), tuple(values["makes"]), values.get("into", "."))


def _chosen(items: list[Item], only: str) -> list[Item]:
    names = [name for name in only.split(",") if name]
    if unknown := set(names) - {item.name for item in items}:
        there = ", ".join(item.name for item in items)
        raise ValueError(f"only={only}: there is no file {', '.join(sorted(unknown))}; there are: {there}")
    return [item for item in items if not names or item.name in names]


def _fetch_all(items: list[Item], root: Path, parallel: int) -> list[str]:
    """Fetches and unpacks all; returns what went wrong."""
    aside = root / _ASIDE
    aside.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(aside / "lock", timeout=0), _bars() as bars, ThreadPoolExecutor(parallel) as pool:
            done = list(pool.map(lambda item: _fetch_one(item, root, bars), items))
    except Timeout:
        return [f"another process downloads into {root}"]
    failures = [failure for failure in done if failure]
    if not failures:
        (aside / "lock").unlink(missing_ok=True)
        _remove_if_empty(aside)
    return failures


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _fetch_one(item: Item, root: Path, bars: Progress) -> str | None:
    """Fetches and unpacks one file; returns what went wrong."""
    archive = root / _ASIDE / item.name / Path(urlsplit(item.wanted.url).path).name  # addresses may end alike
    archive.parent.mkdir(exist_ok=True)
    if not _missing(item, root) and not archive.exists():  # an archive that is left was not unpacked to its end
        _remove_if_empty(archive.parent)
        bars.console.print(f"{item.name} is there")
        return None
    bar = bars.add_task(item.name, total=None)
    bars.console.print(f"fetching {item.name} from {item.wanted.url}")
    try:
        fetch(item.wanted, archive, lambda done, total: bars.update(bar, completed=done, total=total))
        bars.update(bar, description=f"{item.name}: unpacking")
        unpack(archive, root / _ASIDE / f"{item.name}.unpacking", root / item.into)
    except ValueError as error:
        archive.unlink(missing_ok=True)  # no use in going on with it
        _remove_if_empty(archive.parent)
        return f"{item.wanted.url}: {error}. It is removed; start again to fetch it anew"
    except OSError as error:
        return str(error) if isinstance(error, DownloadError) else f"{item.name} cannot be written to {root}: {error}"
    archive.unlink()
    archive.parent.rmdir()
    if missing := _missing(item, root):
        return f"{item.wanted.url} does not hold {', '.join(missing)}"
    bars.update(bar, description=f"{item.name}: done")
    bars.console.print(f"{item.name} is in {root}")
    return None


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _missing(item: Item, root: Path) -> list[str]:
    return [path for path in item.makes if not (root / path).exists()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
