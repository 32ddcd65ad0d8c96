"""PoseTrack's metrics of tracked poses in videos."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from pose_lab.data.annotations import load_annotations
from pose_lab.data.results import Results, read_results
from pose_lab.evaluation.protocol import Evaluation, Protocol
from pose_lab.metrics.joints import head_sizes
from pose_lab.metrics.parts import indices_of
from pose_lab.metrics.tracking import PoseTracking, Tracks
from pose_lab.poses import Annotations

NUMBERS = ("MOTA", "MOTP", "MOTP_logged", "MOT_precision", "MOT_recall", "AP", "precision", "recall")
COLUMNS = ("MOTA", "MOTP", "MOT_precision", "MOT_recall", "AP")  # of the table by keypoint


def evaluate(protocol: Protocol) -> Evaluation:
    """Reads both files, or folders, and follows every person through the annotated frames.

    Keypoints inside ignored regions are taken from both sides, and then people without any keypoint.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is wrong, the annotations are no videos or have no head boxes, or results have no tracks.
    """
    settings = protocol.settings
    annotations = load_annotations(protocol.annotations, protocol.rules, protocol.cache)
    if annotations.sequences is None or annotations.frames is None or annotations.track_ids is None:
        raise ValueError(f"{protocol.annotations} has no videos with people's track_id")
    if annotations.head_boxes is None:
        raise ValueError(f"{protocol.annotations} has no head boxes, which distances are measured by")
    results = read_results(protocol.results, annotations, protocol.skeleton, settings["unknown_images"], videos=True)
    people, images = ~annotations.ignore, results.predictions.image_index.numpy()
    named = [(protocol.annotations, f"annotation {number}") for number in annotations.instance_ids[people].tolist()]
    _refuse_untracked(named, annotations.image_index[people], annotations.track_ids[people])
    places = map(results.place, results.records.tolist())
    _refuse_untracked([(file, f"record {number}") for file, number in places], images, results.track_ids)
    chosen = indices_of(protocol.skeleton, settings["keypoints"])
    truth, without_head = _annotated(annotations, chosen)
    found = _found(results, chosen)
    inside = sum(int(side.present.sum()) for side in (truth, found))
    truth, found = (_outside_regions(annotations, side) for side in (truth, found))
    inside -= sum(int(side.present.sum()) for side in (truth, found))
    if not len(truth.frame):
        raise ValueError(f"{protocol.annotations}: nobody counts in the evaluation (no person with labelled keypoints)")
    metric = PoseTracking(settings["keypoints"], settings["released"])
    videos, number = np.unique(annotations.sequences, return_inverse=True)
    metric.update(np.column_stack([number, annotations.frames]), truth, found)
    means, each = metric.compute(), metric.per_keypoint()
    numbers = {name: float(means[name]) for name in NUMBERS}
    rule = "the benchmark's tool counts" if settings["released"] else "the textbook has it"
    return Evaluation(
        heading=f"{len(videos)} videos, {len(annotations.image_ids)} frames, as {rule}; per cent",
        numbers=numbers,
        tables={
            "keypoint": {
                name: {column: float(each[column][k]) for column in COLUMNS}
                for k, name in enumerate(settings["keypoints"])
                if np.isfinite(each["MOTA"][k])
            }
        },
        ignored={
            "people without a head box": without_head,
            "keypoints inside ignored regions": inside,
            **{f"results {reason}": count for reason, count in results.left_out.items()},
        },
        lines=[f" {name:<14} {value:.2f}" for name, value in numbers.items()],
    )


def _refuse_untracked(named: list[tuple[Path, str]], frame: NDArray, track: NDArray) -> None:
    """Raises ValueError if somebody has no track, or two have the same in a frame; `named` gives file and name."""
    if (track < 0).any():
        path, name = named[int((track < 0).argmax())]
        raise ValueError(f"{path}: {name} has no track_id, a number from 0 on")
    _, first, which = np.unique(np.column_stack([frame, track]), axis=0, return_index=True, return_inverse=True)
    first_alike = first[which.reshape(-1)]
    again = first_alike != np.arange(len(track))
    if again.any():
        n = int(again.argmax())
        (path, name), (_, other) = named[n], named[int(first_alike[n])]
        raise ValueError(f"{path}: {name} has the track_id {track[n]} of {other} of the same frame")


def _annotated(annotations: Annotations, chosen: list[int]) -> tuple[Tracks, int]:
    """The annotated people, and how many were left out because their head's size is unknown."""
    assert annotations.head_boxes is not None
    assert annotations.track_ids is not None
    sizes = head_sizes(torch.from_numpy(np.array(annotations.head_boxes))).numpy()
    people = ~annotations.ignore
    rows = np.flatnonzero(people & (sizes > 0))  # not where it is NaN
    keypoints = annotations.keypoints[rows][:, chosen]
    tracks = Tracks(
        frame=annotations.image_index[rows],
        track=annotations.track_ids[rows],
        keypoints=keypoints[..., :2],
        present=keypoints[..., 2] > 0,
        head_sizes=sizes[rows],
    )
    return tracks, int(people.sum()) - len(rows)


def _found(results: Results, chosen: list[int]) -> Tracks:
    """The people found; a keypoint without a score above 0 was not."""
    scores = results.predictions.keypoint_scores[:, chosen].numpy()
    return Tracks(
        frame=results.predictions.image_index.numpy(),
        track=results.track_ids,
        keypoints=results.predictions.keypoints[:, chosen].numpy(),
        present=scores > 0,
        scores=scores,
    )


def _outside_regions(annotations: Annotations, people: Tracks) -> Tracks:
    """The people without their keypoints inside ignored regions; those who have no other are left out."""
    present = people.present.copy()
    for image, polygon in _regions(annotations):
        rows = np.flatnonzero(people.frame == image)
        points = people.keypoints[rows].reshape(-1, 2) - annotations.pixel_shift  # regions are as in the file
        inside = Polygon(polygon).contains_points(points)
        present[rows] &= ~inside.reshape(len(rows), present.shape[1])
    kept = present.any(1)
    return Tracks(
        frame=people.frame[kept],
        track=people.track[kept],
        keypoints=people.keypoints[kept],
        present=present[kept],
        head_sizes=None if people.head_sizes is None else people.head_sizes[kept],
        scores=None if people.scores is None else people.scores[kept],
    )


def _regions(annotations: Annotations) -> list[tuple[int, NDArray[np.float64]]]:
    """Each ignored region's image and corners (n, 2)."""
    if annotations.region_images is None or annotations.region_points is None or annotations.region_index is None:
        return []
    ends = np.searchsorted(annotations.region_index, np.arange(len(annotations.region_images) + 1))
    corners = [annotations.region_points[a:b] for a, b in pairwise(ends)]
    return list(zip(annotations.region_images.tolist(), corners, strict=True))
