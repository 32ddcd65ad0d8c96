"""PCK and its relatives of a results file: every result belongs to one annotated person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from numpy.typing import NDArray
from torch import Tensor

from pose_lab.data.annotations import load_annotations
from pose_lab.data.results import Results, read_results
from pose_lab.evaluation.arrays import ENDINGS, read_array
from pose_lab.evaluation.mpii_val import is_mpii_val, read_mpii_val
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.metrics.joints import PCK, PCP, MeanError, box_sizes, head_sizes, keypoint_distances, torso_sizes
from pose_lab.metrics.mpii import MPIITable
from pose_lab.metrics.parts import indices_of
from pose_lab.poses import Annotations
from pose_lab.skeletons import Skeleton

NOT_THE_METRICS = (
    "_target_",
    "family",
    "data",
    "skeleton",
    "size",
    "torso",
    "unknown_images",
    "bad_records",
    "missing",
    "shift",
)
SIZES = {"box": "the box's longer side", "head": "0.6 x the head box's diagonal", "torso": "the torso"}


def evaluate(protocol: Protocol) -> Evaluation:
    """Reads both files and compares each annotated person with its result.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file or a setting is wrong, a result belongs to nobody or a person has none.
    """
    settings, skeleton = protocol.settings, protocol.skeleton
    metric = get_class(settings["_target_"])(keypoints=skeleton.keypoints, **_arguments(settings, skeleton))
    annotations = _annotations(protocol)
    people = np.flatnonzero(~annotations.ignore & (annotations.keypoints[..., 2] > 0).any(1))
    if not len(people):
        raise ValueError(f"{protocol.annotations}: nobody counts in the evaluation (no person with labelled keypoints)")
    found, rows, ignored = _found(protocol, annotations, people)
    ignored |= {"people without labelled keypoints and crowd regions": len(annotations.ignore) - len(people)}
    truth = torch.from_numpy(annotations.keypoints[rows])
    annotated, labelled = truth[..., :2], truth[..., 2] > 0
    given: dict[str, Tensor] = {}
    if settings["size"] is not None and not isinstance(metric, PCP):
        given["sizes"] = _sizes(protocol, annotations, rows, found, annotated, labelled)
        ignored |= {"people for whom that size is 0 or unknown": int((given["sizes"] <= 0).sum())}
    metric.update(found, annotated, labelled, torch.from_numpy(rows), **given)
    numbers = {name: float(value) for name, value in metric.compute().items()}
    return Evaluation(
        heading=f"{len(rows)} people, {int(labelled.sum())} labelled keypoints\n{_unit(settings['size'], metric)}",
        numbers=numbers,
        tables=_tables(metric, skeleton),
        ignored=ignored,
        lines=_row_of_numbers(numbers) if isinstance(metric, MPIITable) else _column_of_numbers(numbers),
    )


def _annotations(protocol: Protocol) -> Annotations:
    if protocol.rules.layout == "mpii" and is_mpii_val(protocol.annotations):
        return read_mpii_val(protocol.annotations, protocol.rules)
    return load_annotations(protocol.annotations, protocol.rules, protocol.cache)


def _arguments(settings: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The metric's arguments; limbs by name become pairs of indices."""
    arguments = {name: value for name, value in settings.items() if name not in NOT_THE_METRICS}
    if "limbs" in arguments:
        ends = [limb.split(",") for limb in arguments["limbs"]]
        if wrong := [limb for limb in ends if len(limb) != 2]:
            raise ValueError(f"limbs: {','.join(wrong[0])!r} is not two keypoints with a comma between")
        arguments["limbs"] = [tuple(indices_of(skeleton, pair)) for pair in ends]
    return arguments


def _unit(size: str | None, metric: object) -> str:
    if isinstance(metric, PCP):
        return "errors relative to each limb"
    by = "" if size is None else SIZES.get(size, size.replace(",", " to "))
    place = f"distances relative to {by}" if by else "distances in pixels"
    return f"{place}, right if {'<=' if metric.inclusive else '<'} threshold" if isinstance(metric, PCK) else place


def _found(
    protocol: Protocol, annotations: Annotations, people: NDArray[np.int64]
) -> tuple[Tensor, NDArray[np.int64], dict[str, int]]:
    """Found keypoints (n, K, 2), the annotations' rows (n,) they belong to, and counts of what was left out."""
    shape = (len(protocol.skeleton), 2)
    ignored: dict[str, int] = {}
    if protocol.results.suffix in ENDINGS:
        # arrays are in the order of the file, annotations by image
        place = np.argsort(np.argsort(annotations.instance_ids, kind="stable"), kind="stable")[people]
        found = torch.from_numpy(read_array(protocol.results, len(annotations.ignore), *shape)[place])
        found += annotations.pixel_shift
        rows = people
    else:
        results = read_results(protocol.results, annotations, protocol.skeleton, protocol.settings["unknown_images"])
        owner = _owners(protocol, annotations, people, results)
        chosen = np.flatnonzero(np.isin(owner, people))
        rows, found = owner[chosen], results.predictions.keypoints[torch.from_numpy(chosen)]
        missing = len(people) - len(rows)
        if missing and protocol.settings["missing"] == "error":
            first = annotations.instance_ids[people[~np.isin(people, rows)][0]]
            raise ValueError(
                f"{protocol.results} has no result for {missing} annotated people, the first is annotation {first} "
                "(missing=skip leaves them out)"
            )
        ignored = {"people without a result": missing, "results of people that do not count": len(owner) - len(chosen)}
        ignored |= {f"results {reason}": count for reason, count in results.left_out.items()}
    return found + protocol.settings["shift"], rows, ignored


def _owners(
    protocol: Protocol, annotations: Annotations, people: NDArray[np.int64], results: Results
) -> NDArray[np.int64]:
    """(P,) the annotations' row that each result belongs to: the one it names, or the only one of its picture.

    Only people who count are looked at; -1 where nobody counts in the picture.
    """
    row_of_id = {annotation: row for row, annotation in enumerate(annotations.instance_ids.tolist())}
    per_image = np.bincount(annotations.image_index[people], minlength=len(annotations.image_ids))
    only = np.full(len(annotations.image_ids), -1)
    only[annotations.image_index[people]] = people
    owner, record_of = np.full(len(results.records), -1), dict[int, int]()
    images = results.predictions.image_index.tolist()
    numbers = zip(results.records.tolist(), results.annotation_ids.tolist(), images, strict=True)
    for n, (record, named, image) in enumerate(numbers):
        file, place = results.place(record)
        name = f"{file}: record {place}"
        if named < 0 and per_image[image] > 1:
            raise ValueError(
                f"{name} must name its person by `annotation_id`: {per_image[image]} people count in its picture"
            )
        row = int(only[image]) if named < 0 else row_of_id.get(named)
        if row is None:
            raise ValueError(f"{name} is of annotation {named}, which {protocol.annotations} does not have")
        if row >= 0 and annotations.image_index[row] != image:
            raise ValueError(f"{name} is of annotation {named}, which is in another picture than its image_id says")
        if row >= 0 and (first := record_of.setdefault(row, record)) != record:
            other, place = results.place(first)
            raise ValueError(
                f"{name} is of the same person as record {place}{'' if other == file else f' of {other}'}: one result "
                "per person is wanted"
            )
        owner[n] = row
    return owner


def _sizes(
    protocol: Protocol,
    annotations: Annotations,
    rows: NDArray[np.int64],
    found: Tensor,
    annotated: Tensor,
    labelled: Tensor,
) -> Tensor:
    """(n,) what distances are divided by, 0 where a person lacks it."""
    size, skeleton = protocol.settings["size"], protocol.skeleton
    if size == "box":
        return box_sizes(torch.from_numpy(annotations.boxes[rows]))
    if size == "head":
        if annotations.head_boxes is None:
            raise ValueError(
                f"{protocol.annotations} has no head boxes, which this metric measures by; MPII's gt_valid.mat and the "
                "official .mat (part=train) do"
            )
        return head_sizes(torch.from_numpy(annotations.head_boxes[rows])).nan_to_num(0)
    names = protocol.settings["torso"] if size == "torso" else str(size).split(",")
    if len(names) != 2:
        raise ValueError(f"size={size} is none of box, head, torso, or two keypoints with a comma between")
    a, b = indices_of(skeleton, names)
    if size == "torso":
        return torso_sizes(annotated, found, a, b) * (labelled[:, a] & labelled[:, b])
    return keypoint_distances(annotated, a, b, labelled)


def _tables(metric: Any, skeleton: Skeleton) -> dict[str, dict[str, dict[str, float]]]:
    """The numbers of each keypoint, or limb; those that nobody shows are left out."""
    if isinstance(metric, PCP):
        names = [f"{skeleton.keypoints[a]} to {skeleton.keypoints[b]}" for a, b in metric.limbs]
        columns = dict(zip(("PCP strict", "PCP loose"), metric.per_limb().T, strict=True))
        return {"limb": _by_name(names, columns)}
    if isinstance(metric, MeanError):
        return {"keypoint": _by_name(skeleton.keypoints, {metric.name: metric.per_keypoint()})}
    if isinstance(metric, PCK):
        columns = {f"{metric.name}@{t:g}": metric.per_keypoint(t) for t in metric.thresholds}
        return {"keypoint": _by_name(skeleton.keypoints, columns)}
    return {}


def _by_name(names: list[str] | tuple[str, ...], columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    rows = {name: {column: float(values[k]) for column, values in columns.items()} for k, name in enumerate(names)}
    return {name: row for name, row in rows.items() if not np.isnan(list(row.values())).any()}


def _column_of_numbers(numbers: Mapping[str, float]) -> list[str]:
    return [f" {name:<12} {value:.4f}" for name, value in numbers.items()]


def _row_of_numbers(numbers: Mapping[str, float]) -> list[str]:
    """MPII's table as the official tools print it, in per cent."""
    widths = [max(len(name), 6) for name in numbers]
    return [
        " ".join(f"{name:>{width}}" for name, width in zip(numbers, widths, strict=True)),
        " ".join(f"{value:>{width}.2f}" for value, width in zip(numbers.values(), widths, strict=True)),
    ]
