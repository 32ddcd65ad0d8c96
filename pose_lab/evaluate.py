"""`python -m pose_lab.evaluate gt=ANNOTATIONS dt=RESULTS metric=NAME`: the
numbers of anybody's results file.

RESULTS is a COCO results file, AlphaPose's, or a folder of mmpose's files of
single pictures; for metrics of single people also an array (.npy, .npz, .mat)
with a row per annotated person; of videos PoseTrack18's files.

  out=FILE.json      writes the numbers under their official names, tables too
  by=NAME,...        further tables of OKS: keypoint, crowd_index, people (per
                     picture)
  curves=FILE.csv    writes precision over recall (OKS)
  matches=FILE.npz   writes which detection took which person (OKS), see
                     docs/evaluation.md
  cache=FOLDER       keeps the index of ANNOTATIONS for the next time
  data=NAME          how ANNOTATIONS is read, where the metric does not say so:
                     conf/data
  part=NAME          of several that ANNOTATIONS holds: train, test
  KEY=VALUE          any setting of conf/metric/NAME.yaml: unknown_images=skip,
                     bad_records=skip, crowd_limits=paper, thresholds=[0.1]

All pictures of ANNOTATIONS are evaluated, also those without results.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from textwrap import fill
from typing import Any

from pose_lab.errors import complain
from pose_lab.evaluation import protocol
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.runs.files import write_json

REQUIRED = ("gt", "dt", "metric")
FILES = {"curves": ".csv", "matches": ".npz"}  # what only some metrics can write, and the ending it must have
WRITTEN = ("out", *FILES)
ONE_FILE = ("coco", "wholebody", "poses3d")  # layouts of annotations that are no folders
OPTIONAL = ("out", "by", *FILES, "part", "cache")
SCREEN = 80  # columns


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the numbers of a results file; ends with status 1 and one line if the input is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        print(fill("metrics: " + ", ".join(protocol.names("metric")), SCREEN))
        return
    try:
        given = parsed(arguments)
        evaluation = evaluate(given)
        print(report(evaluation))
        for argument in FILES:
            if argument in given:
                evaluation.files[argument](Path(given[argument]))
        if "out" in given:
            write(Path(given["out"]), evaluation)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        complain(error)
        sys.exit(1)


def parsed(arguments: Sequence[str]) -> dict[str, str]:
    """A command line of `key=value`.

    Raises:
        ValueError: if an argument has another form or comes twice, a required one is missing, or a file's ending is
            not that of what will be written.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise ValueError(f"{argument!r} is not of the form KEY=VALUE")
        if key in given:
            raise ValueError(f"{key}= is given twice")
        given[key] = value
    missing = [key for key in REQUIRED if not given.get(key)]
    if missing:
        raise ValueError(f"missing: {', '.join(f'{key}=' for key in missing)}")
    for key, ending in FILES.items():
        if not given.get(key, ending).endswith(ending):
            raise ValueError(f"{key}={given[key]} must end in {ending}")
    return given


def evaluate(given: dict[str, str]) -> Evaluation:
    """Reads both files and computes the metric.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file or an argument is wrong, or nobody counts in the annotations.
    """
    changes = {key: value for key, value in given.items() if key not in (*REQUIRED, *OPTIONAL)}
    settings = protocol.settings_of(given["metric"], changes)
    by = tuple(filter(None, given.get("by", "").split(",")))
    bad_records = settings.get("bad_records", "error")
    rules = protocol.reading_rules(settings["data"], settings.get("skeleton"), given.get("part"), bad_records)
    if only_oks := [key for key in ("by", *FILES) if key in given and settings["family"] != "oks"]:
        raise ValueError(f"{only_oks[0]}= is for metrics of OKS only")
    _refuse_unwritable(given)
    if rules.layout in ONE_FILE and Path(given["gt"]).is_dir():
        raise ValueError(f"gt={given['gt']} is a folder; data={settings['data']} is read from one file")
    family = importlib.import_module(f"pose_lab.evaluation.{settings['family']}")  # now: the help needs none of them
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(given.get("cache", temporary))
        asked = Protocol(Path(given["gt"]), Path(given["dt"]), rules, settings, cache, by)
        return family.evaluate(asked)


def _refuse_unwritable(given: Mapping[str, str]) -> None:
    """Raises ValueError if something cannot be written where the arguments say: before the work, not after it."""
    for key in WRITTEN:
        if key not in given:
            continue
        path = Path(given[key])
        if path.is_dir():
            raise ValueError(f"{key}={given[key]} is a folder, expected a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"{key}={given[key]} cannot be written: {folder}: {error.strerror}") from None


def report(evaluation: Evaluation) -> str:
    """The lines that the official tool prints, further tables, and what was ignored."""
    lines = [evaluation.heading, *evaluation.lines]
    for by, rows in evaluation.tables.items():
        lines += ["", *_table(by, rows, evaluation.columns)]
    lines += ["", "ignored:"]
    lines += [f" {count} {reason}" for reason, count in evaluation.ignored.items() if count] or [" nothing"]
    return "\n".join(lines)


def _table(by: str, rows: dict[str, dict[str, float]], columns: tuple[str, ...]) -> list[str]:
    """Lines of at most 80 columns, whatever must be left out for that; "-" where nobody counts."""
    known = tuple(next(iter(rows.values())))
    wanted = [name for name in columns or known if name in known]
    first = max(len(f"by {by}"), *map(len, rows))
    ends = list(accumulate((max(len(name), 6) + 1 for name in wanted), initial=first))
    names = [name for name, end in zip(wanted, ends[1:], strict=True) if end <= SCREEN]
    lines = [f"{f'by {by}':<{first}}" + "".join(f" {name:>6}" for name in names)]
    for row, numbers in rows.items():
        aligned = (f" {_cell(numbers[name]):>{max(len(name), 6)}}" for name in names)
        lines.append(f"{row:<{first}}" + "".join(aligned))
    return lines if names == wanted else [*lines, "(further columns: out=FILE.json)"]


def _cell(number: float) -> str:
    if isinstance(number, int):
        return str(number)
    return "-" if number == -1 else f"{number:.3f}"


def write(path: Path, evaluation: Evaluation) -> None:
    """Writes the numbers as JSON: official names, tables as `by_keypoint` and so on, counts of what was ignored."""
    content: dict[str, Any] = dict(evaluation.numbers)
    content |= {f"by_{by}": rows for by, rows in evaluation.tables.items()}
    write_json(path, content | {"ignored": evaluation.ignored})


if __name__ == "__main__":
    main()
