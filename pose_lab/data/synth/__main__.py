"""Commands: `python -m pose_lab.data.synth sheet out=FILE.png [KEY=VALUE ...]` and `... make root=FOLDER [...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2

from pose_lab.data.cache import writing
from pose_lab.data.synth.settings import SynthSettings
from pose_lab.data.synth.sheet import contact_sheet
from pose_lab.data.synth.write import ensure
from pose_lab.errors import complain

_USAGE = """\
python -m pose_lab.data.synth sheet out=FILE.png [count=12] [columns=3] [zoom=3] [KEY=VALUE ...]
    writes a contact sheet of samples with drawn skeletons
python -m pose_lab.data.synth make root=FOLDER [workers=N] [KEY=VALUE ...]
    makes the data set below the cache folder FOLDER and prints where
KEY is a setting of SynthSettings; lists are written as [1,3]."""
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def main(arguments: list[str]) -> int:
    """Runs a command; returns its exit status."""
    if not arguments or arguments[0] not in ("sheet", "make"):
        print(_USAGE)
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    try:
        values = dict(_pair(argument) for argument in arguments[1:])
        print((_sheet if arguments[0] == "sheet" else _make_set)(values))
    except (ValueError, OSError) as error:
        complain(error)
        return 1
    return 0


def _pair(argument: str) -> tuple[str, Any]:
    key, found, value = argument.partition("=")
    if not found:
        raise ValueError(f"{argument!r} is not of the form KEY=VALUE")
    try:
        return key, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return key, [part.strip() for part in value[1:-1].split(",")] if value.startswith("[") else value


def _take(values: dict[str, Any], key: str) -> Any:
    if key not in values:
        raise ValueError(f"{key}=... is missing")
    return values.pop(key)


def _settings(values: dict[str, Any]) -> SynthSettings:
    known = SynthSettings.__dataclass_fields__
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"no setting is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return SynthSettings(**values)


def _sheet(values: dict[str, Any]) -> Path:
    out = Path(_take(values, "out"))
    if out.suffix.lower() not in _PICTURES:
        raise ValueError(f"out={out} is no name of a picture: it must end in {', '.join(_PICTURES)}")
    layout = {key: values.pop(key) for key in ("count", "columns", "zoom") if key in values}
    image = contact_sheet(_settings(values), **{"count": 12, "columns": 3, "zoom": 3, **layout})
    encoded = cv2.imencode(out.suffix, image[:, :, ::-1])[1]
    with writing("the contact sheet", out.parent, "choose another out=FILE"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(encoded.tobytes())
    return out


def _make_set(values: dict[str, Any]) -> Path:
    root, workers = Path(_take(values, "root")), values.pop("workers", None)
    return ensure(_settings(values), root, workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
