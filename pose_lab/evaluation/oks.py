"""OKS AP and AR of a results file, with tables by part, keypoint type, crowd index and people per picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose_lab.data.annotations import load_annotations
from pose_lab.data.results import Results, read_results
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.metrics.oks_ap import (
    RECALLS,
    SIZE_RANGES,
    THRESHOLDS,
    OKSAveragePrecision,
    extents,
    people_per_image,
    sets_of_images,
)
from pose_lab.metrics.parts import PartsAveragePrecision, indices_of, shows_part
from pose_lab.metrics.rows import at_least_one
from pose_lab.ops.oks import best_of_images
from pose_lab.poses import Annotations
from pose_lab.runs.files import write_file
from pose_lab.skeletons import CROWDPOSE

TABLES = ("keypoint", "crowd_index", "people")
LINE = " Average {kind} @[ IoU={levels:<9} | {which} | maxDets={limit:>3d} ] = {value:.3f}"
LEVELS = {"": "0.50:0.95", "50": "0.50", "75": "0.75"}
COLUMNS = ("pictures", "AP", "AP50", "AP75", "APM", "APL", "AR", "ARM", "ARL")  # printed of the tables
AREAS = {"": "all", "M": "medium", "L": "large"}
Numbers = dict[str, float]


def evaluate(protocol: Protocol) -> Evaluation:
    """Reads both files and evaluates all pictures of the annotations, also those without results.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file or a setting is wrong, or nobody counts in the annotations.
    """
    settings, skeleton = protocol.settings, protocol.skeleton
    limits = settings["crowd_limit_sets"].get(settings["crowd_limits"])
    if limits is None:
        raise ValueError(
            f"crowd_limits={settings['crowd_limits']} is none of {', '.join(settings['crowd_limit_sets'])}"
        )
    at_least_one("max_detections", settings["max_detections"])  # reading the results needs it before the metric does
    for by in protocol.by:
        if by not in TABLES:
            raise ValueError(f"by={by} is none of {', '.join(TABLES)}")
    annotations = load_annotations(protocol.annotations, protocol.rules, protocol.cache)
    if not people_per_image(annotations).any():
        raise ValueError(f"{protocol.annotations}: nobody counts in the evaluation (no person with labelled keypoints)")
    if "crowd_index" in protocol.by and np.isnan(annotations.crowd_index).all():
        raise ValueError(f"by=crowd_index: the pictures of {protocol.annotations} have no crowd index")
    most = None if skeleton.parts else settings["max_detections"]  # parts rank by scores of their own
    results = read_results(protocol.results, annotations, skeleton, settings["unknown_images"], most)
    tables = {}
    if skeleton.parts:
        parts = _evaluated_parts(annotations, results, protocol)
        tables["part"] = {name: _floats(numbers) for name, numbers in parts.by_part().items()}
        whole = skeleton.parts[-1][0]
        metric = parts.metrics()[whole]
        rows = shows_part(results.predictions, parts.indices[whole]).numpy()
        taking_part = _TakingPart.of(results, metric, results.part_scores.get(whole), rows)
    else:
        metric = OKSAveragePrecision(annotations, skeleton, settings["max_detections"], tuple(limits))
        metric.update(results.predictions, _ids(annotations))
        taking_part = _TakingPart.of(results, metric)
    numbers = _floats(metric.compute())
    tables |= {by: _table(by, metric, results, settings["edges"]) for by in protocol.by}
    return Evaluation(
        heading=f"{len(annotations.image_ids)} pictures; -1 means that nobody counts",
        numbers=numbers,
        tables=tables,
        ignored=_ignored(annotations, results, metric, taking_part, _without_crowd_index(annotations, protocol)),
        lines=[_official_line(name, value, metric.max_detections) for name, value in numbers.items()],
        columns=COLUMNS,
        files={"curves": partial(_write_curves, metric), "matches": partial(_write_matches, metric, taking_part)},
    )


def _ids(annotations: Annotations) -> Tensor:
    return torch.from_numpy(annotations.image_ids.copy())  # it may be memory-mapped


def _evaluated_parts(annotations: Annotations, results: Results, protocol: Protocol) -> PartsAveragePrecision:
    """The skeleton's parts; the area of a person found is that of its first part, the body."""
    skeleton = protocol.skeleton
    indices = {name: indices_of(skeleton, keypoints) for name, keypoints in skeleton.parts}
    limit = protocol.settings["max_detections"]
    metric = PartsAveragePrecision(annotations, skeleton, indices, shown_only=True, max_detections=limit)
    areas = extents(results.predictions.keypoints[:, next(iter(indices.values()))])
    metric.update(results.predictions, _ids(annotations), areas, results.part_scores)
    return metric


def _floats(numbers: Mapping[str, Tensor]) -> Numbers:
    return {name: float(value) for name, value in numbers.items()}


@dataclass(frozen=True)
class _TakingPart:
    """The records that are evaluated, in the order of the metric's matches, and how many were too many or empty."""

    records: NDArray[np.int64]
    beyond: int
    empty: int

    @classmethod
    def of(
        cls,
        results: Results,
        metric: OKSAveragePrecision,
        scores: Tensor | None = None,
        rows: NDArray[np.bool_] | None = None,
    ) -> _TakingPart:
        rows = np.ones(len(results.records), dtype=bool) if rows is None else rows
        scores = results.predictions.scores if scores is None else scores
        kept = best_of_images(results.predictions.image_index[rows], scores[rows], metric.max_detections)
        beyond = results.surplus + int(rows.sum()) - len(kept)
        return cls(results.records[rows][kept.numpy()], beyond, int((~rows).sum()))


def _ignored(
    annotations: Annotations,
    results: Results,
    metric: OKSAveragePrecision,
    taking_part: _TakingPart,
    unknown_crowds: int,
) -> dict[str, int]:
    return {
        "people without keypoints that count": int(((annotations.num_keypoints == 0) & ~annotations.ignore).sum()),
        "crowd regions": int(annotations.ignore.sum()),
        "pictures without a crowd index, which are in no difficulty set": unknown_crowds,
        f"detections beyond the {metric.max_detections} best of a picture": taking_part.beyond,
        "detections without any keypoint of a value above 0": taking_part.empty,
        **{f"results {reason}": count for reason, count in results.left_out.items()},
    }


def _without_crowd_index(annotations: Annotations, protocol: Protocol) -> int:
    """How many pictures lack a crowd index where others have one, or where CrowdPose should have it."""
    unknown = np.isnan(annotations.crowd_index)
    wanted = not unknown.all() or protocol.settings["data"] == CROWDPOSE.name
    return int(unknown.sum()) if wanted else 0


def _table(
    by: str, metric: OKSAveragePrecision, results: Results, edges: Mapping[str, list[float]]
) -> dict[str, Numbers]:
    annotations, skeleton = metric.annotations, metric.skeleton
    if by == "keypoint":
        each = {name: [k] for k, name in enumerate(skeleton.keypoints)}
        parts = PartsAveragePrecision(annotations, skeleton, each, False, metric.max_detections)
        parts.update(results.predictions, _ids(annotations))
        return {name: _floats(numbers) for name, numbers in parts.by_part().items()}
    values = people_per_image(annotations) if by == "people" else annotations.crowd_index
    sets = sets_of_images(values, edges[by], whole_numbers=by == "people")
    return {
        name: {"pictures": int(images.sum()), **_floats(metric.numbers(images))}
        for name, images in sets.items()
        if images.any()
    }


def _official_line(name: str, value: float, limit: int) -> str:
    kind, rest = ("Precision  (AP)" if name.startswith("AP") else "Recall     (AR)"), name[2:]
    which = f"crowd={rest[1:]:>6s}" if rest.startswith("_") else f"area={AREAS.get(rest, AREAS['']):>6s}"
    return LINE.format(kind=kind, levels=LEVELS.get(rest, LEVELS[""]), which=which, limit=limit, value=value)


def _write_curves(metric: OKSAveragePrecision, path: Path) -> None:
    """A row per size range, threshold and recall; -1 where nobody counts."""
    curves = metric.curves()

    def fill(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("area", "oks", "recall", "precision", "score"))
            for a, area in enumerate(SIZE_RANGES):
                for t, threshold in enumerate(THRESHOLDS):
                    read = zip(RECALLS, curves.precision[a, t].tolist(), curves.scores[a, t].tolist(), strict=True)
                    rows.writerows((area, f"{threshold:.2f}", f"{r:.2f}", p, s) for r, p, s in read)

    write_file(path, fill)


def _write_matches(metric: OKSAveragePrecision, taking_part: _TakingPart, path: Path) -> None:
    """The arrays of `Matches` with the ids that make them readable alone (docs/evaluation.md)."""
    matches, annotations = metric.matches(), metric.annotations
    arrays: dict[str, Any] = {
        "area_ranges": list(SIZE_RANGES),
        "thresholds": THRESHOLDS,
        "image_id": annotations.image_ids[matches.image_index],
        "record": taking_part.records,
        "score": matches.scores,
        "area": matches.areas,
        "ignored": matches.ignored,
        "person": matches.matched_person.int(),
        "oks": matches.matched_similarity,
        "annotation_id": annotations.instance_ids,
        "annotation_image_id": annotations.image_ids[annotations.image_index],
        "counted": matches.counted,
    }
    write_file(path, lambda temporary: np.savez_compressed(temporary, **arrays))
