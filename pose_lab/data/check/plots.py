"""The pictures of a check: distributions, and the people whose left and right look exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from pose_lab.data.check.findings import Findings
from pose_lab.data.images import BadImageError, Picture, read_picture
from pose_lab.ops.drawing import draw_poses, grid
from pose_lab.poses import Annotations
from pose_lab.skeletons import Skeleton

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
}
_COLOUR = "#0072B2"
_MOST_NAMES = 30  # keypoints that are named below their bars
_BINS = 40
_MARGIN = 0.3  # shown around a person, as a share of the box
_SIDE = 320  # pixels of a shown person's longer side


def save_distributions(path: Path, title: str, findings: Findings, annotations: Annotations) -> None:
    """Six panels as a PNG: people, keypoints, sizes and crowd index of one split."""
    people = ~annotations.ignore
    heights = (annotations.boxes[:, 3] - annotations.boxes[:, 1])[people]
    with rc_context(_STYLE):
        figure = Figure(figsize=(12, 7), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(2, 3)
        _counts(axes[0, 0], findings.people_per_picture, "People in a picture", "pictures")
        _counts(axes[0, 1], findings.visible_per_person, "Labelled keypoints of a person", "people")
        _shares(axes[0, 2], findings.labelled_share)
        _histogram(axes[1, 0], heights, "Height of a person's box", "pixels", "people")
        _sizes(axes[1, 1], annotations.sizes)
        _crowd(axes[1, 2], annotations.crowd_index)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _counts(axes: Axes, counts: list[int], title: str, what: str) -> None:
    axes.bar(range(len(counts)), counts, width=0.9, color=_COLOUR)
    axes.set(title=title, ylabel=what)
    axes.locator_params(axis="both", integer=True)


def _shares(axes: Axes, shares: dict[str, float]) -> None:
    values = [100 * share for share in shares.values()]
    axes.bar(range(len(values)), values, width=0.9, color=_COLOUR)
    axes.set(title="People of whom a keypoint is labelled", ylabel="% of people with keypoints", ylim=(0, 100))
    if len(values) <= _MOST_NAMES:
        names = [name.replace("left_", "l ").replace("right_", "r ").replace("_", " ") for name in shares]
        axes.set_xticks(range(len(names)), names, rotation=90)


def _histogram(axes: Axes, values: NDArray[np.float64], title: str, unit: str, what: str) -> None:
    axes.set(title=title, xlabel=unit, ylabel=what)
    if len(values):
        edges = np.geomspace(max(1, values.min()), max(2, values.max() * 1.01), _BINS + 1)
        axes.hist(values, edges.tolist(), color=_COLOUR)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _sizes(axes: Axes, sizes: NDArray[np.int32]) -> None:
    pairs, counts = np.unique(sizes, axis=0, return_counts=True)
    axes.scatter(pairs[:, 1], pairs[:, 0], 8 + 200 * counts / max(1, counts.max(initial=1)), alpha=0.5, color=_COLOUR)
    axes.set(title="Sizes of pictures (area: how many)", xlabel="width, pixels", ylabel="height, pixels")


def _crowd(axes: Axes, index: NDArray[np.float64]) -> None:
    known = index[np.isfinite(index)]
    axes.set(title="Crowd index", xlabel="crowd index", ylabel="pictures")
    if len(known):
        axes.hist(known, _BINS, color=_COLOUR)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.text(0.5, 0.5, "this data set has none", ha="center", transform=axes.transAxes, color="0.4")
        axes.set(xticks=[], yticks=[])


def save_suspects(
    path: Path, annotations: Annotations, folder: Path, skeleton: Skeleton, ids: list[int], most: int = 12
) -> int:
    """A contact sheet of some people, left in one colour and right in another; returns how many could be shown."""
    rows = np.flatnonzero(np.isin(annotations.instance_ids, ids))
    shown: list[Picture] = []
    for row in rows.tolist():
        if len(shown) == most:
            break
        try:
            shown.append(_person(annotations, folder, skeleton, row))
        except BadImageError:
            continue  # the check tells of it
    if shown:
        path.write_bytes(cv2.imencode(".png", grid(shown, 4)[..., ::-1])[1].tobytes())
    return len(shown)


def _person(annotations: Annotations, folder: Path, skeleton: Skeleton, row: int) -> Picture:
    """A picture cut to one person and its surroundings."""
    image = annotations.image_index[row]
    height, width = annotations.sizes[image].tolist()
    picture = read_picture(folder / annotations.file_names[image].decode(), (height, width))
    keypoints = np.array(annotations.keypoints[row])
    places = keypoints[keypoints[:, 2] > 0, :2]
    low = np.minimum(annotations.boxes[row, :2], places.min(0))
    high = np.maximum(annotations.boxes[row, 2:], places.max(0))
    margin = _MARGIN * (high - low).max()
    left, top = np.floor((low - margin).clip(0)).astype(int).tolist()
    right, bottom = np.ceil((high + margin).clip(max=(width, height))).astype(int).tolist()
    keypoints[:, :2] -= left, top
    cut = picture[top:bottom, left:right]
    return draw_poses(cut, keypoints[None], skeleton, zoom=_SIDE / max(cut.shape[:2]))
