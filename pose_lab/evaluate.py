"""`python -m pose_lab.evaluate gt=ANNOTATIONS dt=RESULTS metric=coco|crowdpose|ochuman`: the numbers of a results file.

RESULTS is a COCO results file, AlphaPose's, or a folder of mmpose's files of single pictures. Further arguments:

  out=FILE.json         writes the numbers under their official names
  by=NAME,...           further tables: keypoint, crowd_index, people (per picture)
  crowd_limits=paper    easy, medium and hard as the CrowdPose paper draws them (0.1, 0.8), not the released package
  unknown_images=skip   leaves out results of pictures that ANNOTATIONS does not have, and counts them
  largest=1000          megabytes of a results file that may be read
  cache=FOLDER          keeps the index of ANNOTATIONS for the next time

All pictures of ANNOTATIONS are evaluated, also those without results.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pose_lab.data.annotations import ReadingRules, load_annotations
from pose_lab.data.results import Results, read_results
from pose_lab.metrics.oks_ap import OKSAveragePrecision, extents, people_per_image, sets_of_images
from pose_lab.metrics.parts import part_of_annotations, part_of_predictions, part_of_skeleton
from pose_lab.poses import Annotations
from pose_lab.runs.errors import said
from pose_lab.runs.files import write_json
from pose_lab.skeletons import COCO, CROWDPOSE

CROWDPOSE_AREA = 0.53  # of the box: the CrowdPose evaluation's area
RULES = {
    "coco": ReadingRules(COCO),
    "ochuman": ReadingRules(COCO),
    "crowdpose": ReadingRules(CROWDPOSE, area_factor=CROWDPOSE_AREA),
}
CROWD_LIMITS = {"package": (0.2, 0.8), "paper": (0.1, 0.8)}
PEOPLE_EDGES = (1, 2, 3, 6, 11)
CHOICES = {
    "metric": tuple(RULES),
    "crowd_limits": tuple(CROWD_LIMITS),
    "unknown_images": ("error", "skip"),
    "by": ("keypoint", "crowd_index", "people"),
}
DEFAULTS = {"crowd_limits": "package", "unknown_images": "error", "largest": "1000", "by": "", "out": "", "cache": ""}
REQUIRED = ("gt", "dt", "metric")
LINE = " Average {kind} @[ IoU={levels:<9} | {which} | maxDets={limit:>3d} ] = {value:.3f}"
LEVELS = {"": "0.50:0.95", "50": "0.50", "75": "0.75"}
AREAS = {"": "all", "M": "medium", "L": "large"}


@dataclass(frozen=True)
class Evaluation:
    """What the command found.

    Attributes:
        numbers: by official name.
        tables: further numbers by table, row and official name.
        ignored: counts of what did not take part, by reason.
        images: how many pictures were evaluated.
        limit: detections per picture.
    """

    numbers: dict[str, float]
    tables: dict[str, dict[str, dict[str, float]]]
    ignored: dict[str, int]
    images: int
    limit: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the numbers of a results file; ends with status 1 and one line if the input is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    try:
        settings = parsed(arguments)
        evaluation = evaluate(settings)
        print(report(evaluation))
        if settings["out"]:
            write(Path(settings["out"]), evaluation)
    except (OSError, ValueError, MemoryError) as error:
        print(f"error: {said(error)}", file=sys.stderr)
        sys.exit(1)


def parsed(arguments: Sequence[str]) -> dict[str, str]:
    """The settings of a command line of `key=value`.

    Raises:
        ValueError: an unknown or missing key, or a value that is none of a key's choices.
    """
    known = (*REQUIRED, *DEFAULTS)
    settings = dict(DEFAULTS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise ValueError(f"{argument!r} is none of the arguments {', '.join(f'{name}=' for name in known)}")
        settings[key] = value
    missing = [key for key in REQUIRED if not settings.get(key)]
    if missing:
        raise ValueError(f"missing: {', '.join(f'{key}=' for key in missing)}")
    for key, choices in CHOICES.items():
        for value in filter(None, settings[key].split(",") if key == "by" else [settings[key]]):
            if value not in choices:
                raise ValueError(f"{key}={value} is none of {', '.join(choices)}")
    _megabytes(settings)
    return settings


def _megabytes(settings: dict[str, str]) -> float:
    try:
        return float(settings["largest"])
    except ValueError:
        raise ValueError(f"largest={settings['largest']} is not a number of megabytes") from None


def evaluate(settings: dict[str, str]) -> Evaluation:
    """Reads both files and evaluates all pictures.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is wrong, or nobody counts in the annotations.
    """
    rules = RULES[settings["metric"]]
    with tempfile.TemporaryDirectory() as temporary:
        annotations = load_annotations(Path(settings["gt"]), rules, Path(settings["cache"] or temporary))
        if not people_per_image(annotations).any():
            raise ValueError(f"{settings['gt']}: nobody counts in the evaluation (no person with labelled keypoints)")
        unknown: Any = settings["unknown_images"]
        results = read_results(Path(settings["dt"]), annotations, rules.skeleton, unknown, _megabytes(settings))
        metric = OKSAveragePrecision(annotations, rules.skeleton, crowd_limits=CROWD_LIMITS[settings["crowd_limits"]])
        metric.update(results.predictions, torch.from_numpy(annotations.image_ids.copy()))
        return Evaluation(
            numbers=_floats(metric.compute()),
            tables={by: _table(by, metric, results) for by in filter(None, settings["by"].split(","))},
            ignored=_ignored(annotations, results, metric),
            images=len(annotations.image_ids),
            limit=metric.max_detections,
        )


def _floats(numbers: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}


def _ignored(annotations: Annotations, results: Results, metric: OKSAveragePrecision) -> dict[str, int]:
    unlabelled = (annotations.num_keypoints == 0) & ~annotations.ignore
    beyond = len(results.predictions) - len(metric.matches().scores)
    return {
        "people without keypoints that count": int(unlabelled.sum()),
        "crowd regions": int(annotations.ignore.sum()),
        f"detections beyond the {metric.max_detections} best of a picture": beyond,
        **{f"results {reason}": count for reason, count in results.left_out.items()},
    }


def _table(by: str, metric: OKSAveragePrecision, results: Results) -> dict[str, dict[str, float]]:
    annotations = metric.annotations
    if by == "keypoint":
        return {name: _keypoint_numbers(k, metric, results) for k, name in enumerate(metric.skeleton.keypoints)}
    if by == "people":
        sets = sets_of_images(people_per_image(annotations), PEOPLE_EDGES)
    else:
        sets = sets_of_images(annotations.crowd_index, [edge / 10 for edge in range(1, 11)])
    return {name: _floats(metric.numbers(images)) for name, images in sets.items() if images.any()}


def _keypoint_numbers(k: int, metric: OKSAveragePrecision, results: Results) -> dict[str, float]:
    part = OKSAveragePrecision(
        part_of_annotations(metric.annotations, metric.skeleton, [k]),
        part_of_skeleton(metric.skeleton, metric.skeleton.keypoints[k], [k]),
    )
    ids = torch.from_numpy(metric.annotations.image_ids.copy())
    part.update(part_of_predictions(results.predictions, [k]), ids, extents(results.predictions.keypoints))
    part.compute()
    return _floats(part.numbers())


def report(evaluation: Evaluation) -> str:
    """The lines that the official tools print, further tables, and what was ignored."""
    lines = [f"{evaluation.images} pictures; -1 means that nobody counts"]
    for name, value in evaluation.numbers.items():
        lines.append(_official_line(name, value, evaluation.limit))
    for by, rows in evaluation.tables.items():
        lines += ["", f"by {by}: AP, AP50, AP75, AR"]
        lines += [
            f" {row:<16} " + " ".join(f"{rows[row][name]:6.3f}" for name in ("AP", "AP50", "AP75", "AR"))
            for row in rows
        ]
    lines += ["", "ignored:"]
    lines += [f" {count} {reason}" for reason, count in evaluation.ignored.items() if count] or [" nothing"]
    return "\n".join(lines)


def _official_line(name: str, value: float, limit: int) -> str:
    kind, rest = ("Precision  (AP)" if name.startswith("AP") else "Recall     (AR)"), name[2:]
    which = f"crowd={rest[1:]:>6s}" if rest.startswith("_") else f"area={AREAS.get(rest, AREAS['']):>6s}"
    return LINE.format(kind=kind, levels=LEVELS.get(rest, LEVELS[""]), which=which, limit=limit, value=value)


def write(path: Path, evaluation: Evaluation) -> None:
    """Writes the numbers as JSON: official names, further tables as `by_keypoint` and so on."""
    content: dict[str, Any] = dict(evaluation.numbers)
    content |= {f"by_{by}": rows for by, rows in evaluation.tables.items()}
    write_json(path, content)


if __name__ == "__main__":
    main()
