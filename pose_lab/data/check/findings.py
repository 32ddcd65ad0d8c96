"""What is in one split: counts, sizes, and everything that looks wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data import inventory
from pose_lab.data.check.flips import flip_errors
from pose_lab.data.check.sources import Part
from pose_lab.data.layouts import LAYOUTS
from pose_lab.data.records import examined
from pose_lab.data.rules import ReadingRules
from pose_lab.poses import Annotations
from pose_lab.skeletons import COCO, Skeleton

_CROWD_SETS = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}  # CrowdPose's package
_FAR_OUTSIDE = 0.25  # of the longer side of its box: a keypoint further out is told


@dataclass(frozen=True)
class Findings:
    """One split. Lists hold ids of the data set's own; quantiles are least, lower quartile, median, upper, greatest.

    Attributes:
        skeleton: its name.
        pictures: how many, and how many of them without people who count.
        people: how many who are no ignored regions, how many of them without keypoints that count, ignored regions.
        keypoints: how many are labelled, visible, hidden, outside their picture, far outside their box.
        labelled_share: of each keypoint among people who have any.
        people_per_picture: how many pictures show 0, 1, 2, ... people.
        visible_per_person: how many people have 0, 1, 2, ... labelled keypoints.
        quantiles: of pictures' widths and heights and of people's heights, in pixels.
        crowd_index: pictures by CrowdPose's sets; empty where the data set has no crowd index.
        bad_records: ids by what is wrong.
        left_out: counts of what the layout leaves out on purpose.
        bad_images: why, by file name.
        outside: ids of people with a labelled keypoint outside their picture.
        far_outside_box: ids of people with a labelled keypoint far outside their box.
        miscounted: ids of people whose `num_keypoints` in the file is not how many count by their keypoints.
        flips: ids of people whose left and right contradict each other, by rule, and how many could be judged.
    """

    skeleton: str
    pictures: dict[str, int]
    people: dict[str, int]
    keypoints: dict[str, int]
    labelled_share: dict[str, float]
    people_per_picture: list[int]
    visible_per_person: list[int]
    quantiles: dict[str, list[float]]
    crowd_index: dict[str, int]
    bad_records: dict[str, list[Any]]
    left_out: dict[str, int]
    bad_images: dict[str, str]
    outside: list[int]
    far_outside_box: list[int]
    miscounted: list[int]
    flips: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self)

    @property
    def complaints(self) -> int:
        """How many records and files look wrong."""
        bad = sum(map(len, self.bad_records.values())) + len(self.bad_images)
        flips = len({*self.flips["crossed"], *self.flips["turned"]})
        return bad + len(self.outside) + len(self.far_outside_box) + len(self.miscounted) + flips


def look_at(part: Part, decode: bool) -> tuple[Findings, Annotations]:
    """What is in a split.

    Args:
        part: of a data set.
        decode: whether every image file is decoded and compared with its annotated size, or only looked for.

    Raises:
        FileNotFoundError, OSError, ValueError: if the annotation file cannot be read.
    """
    if not part.annotations.exists():
        raise FileNotFoundError(f"annotation file {part.annotations} does not exist")
    content = LAYOUTS[part.rules.layout](part.annotations, part.rules)
    annotations, bad_records = examined(content, part.rules)
    skeleton = part.rules.shown or part.rules.skeleton
    people = ~annotations.ignore
    counted = people & (annotations.num_keypoints > 0)
    labelled = annotations.keypoints[people, :, 2] > 0
    per_picture = np.bincount(annotations.image_index[people], minlength=len(annotations.image_ids))
    with_counted = np.unique(annotations.image_index[counted])
    outside, far = _outside(annotations), _far_outside(annotations)
    findings = Findings(
        skeleton=skeleton.name,
        pictures={
            "all": len(annotations.image_ids),
            "without people who count": len(annotations.image_ids) - len(with_counted),
        },
        people={
            "all": int(people.sum()),
            "without keypoints that count": int(people.sum() - counted.sum()),
            "ignored regions": int(annotations.ignore.sum()),
        },
        keypoints={
            "labelled": int(labelled.sum()),
            "visible": int((annotations.keypoints[people, :, 2] == 2).sum()),
            "hidden": int((annotations.keypoints[people, :, 2] == 1).sum()),
            "outside their picture": int(outside.sum()),
            "far outside their box": int(far.sum()),
        },
        labelled_share=_shares(labelled[labelled.any(1)], skeleton),
        people_per_picture=np.bincount(per_picture).tolist(),
        visible_per_person=np.bincount(labelled.sum(1), minlength=len(skeleton) + 1).tolist(),
        quantiles=_quantiles(annotations, people),
        crowd_index=_crowd_sets(annotations.crowd_index),
        bad_records=bad_records,
        left_out={what: count for what, count in content.left_out.items() if count},
        bad_images=_bad_images(annotations, part.images, decode),
        outside=annotations.instance_ids[outside.any(1)].tolist(),
        far_outside_box=annotations.instance_ids[far.any(1)].tolist(),
        miscounted=_miscounted(content.people, annotations, part.rules),
        flips=_flips(annotations, skeleton),
    )
    return findings, annotations


def _outside(annotations: Annotations) -> NDArray[np.bool_]:
    """(N, K) labelled keypoints outside their picture."""
    xy = annotations.keypoints[..., :2]
    limits = annotations.sizes[annotations.image_index][:, None, ::-1]
    return (annotations.keypoints[..., 2] > 0) & ~((xy >= 0) & (xy <= limits)).all(2)


def _far_outside(annotations: Annotations) -> NDArray[np.bool_]:
    """(N, K) labelled keypoints further outside their box than a share of its longer side."""
    boxes = annotations.boxes[:, None]
    margin = _FAR_OUTSIDE * (boxes[..., 2:] - boxes[..., :2]).max(-1, keepdims=True)
    xy = annotations.keypoints[..., :2]
    inside = (xy >= boxes[..., :2] - margin) & (xy <= boxes[..., 2:] + margin)
    return (annotations.keypoints[..., 2] > 0) & ~inside.all(2)


def _miscounted(records: list[Any], annotations: Annotations, rules: ReadingRules) -> list[int]:
    """Ids of people whose `num_keypoints` is not how many count; files of more keypoints may count COCO's alone."""
    if rules.shown is not None:
        return []
    stated = {person["id"]: person["num_keypoints"] for person in records if _states_count(person)}
    of_coco = np.array([name in COCO.keypoints for name in rules.skeleton.keypoints])
    coco_counts = (annotations.keypoints[:, of_coco, 2] > 0).sum(1)
    people = zip(
        annotations.instance_ids.tolist(),
        annotations.ignore.tolist(),
        annotations.num_keypoints.tolist(),
        coco_counts.tolist(),
        strict=True,
    )
    return [own for own, ignored, *counts in people if not ignored and stated.get(own, counts[0]) not in counts]


def _states_count(person: Any) -> bool:
    return isinstance(person, dict) and isinstance(person.get("id"), int) and "num_keypoints" in person


def _shares(labelled: NDArray[np.bool_], skeleton: Skeleton) -> dict[str, float]:
    shares = labelled.mean(0) if len(labelled) else np.zeros(len(skeleton))
    return dict(zip(skeleton.keypoints, shares.round(4).tolist(), strict=True))


def _quantiles(annotations: Annotations, people: NDArray[np.bool_]) -> dict[str, list[float]]:
    heights = (annotations.boxes[:, 3] - annotations.boxes[:, 1])[people]
    measured: dict[str, NDArray[Any]] = {
        "picture width": annotations.sizes[:, 1],
        "picture height": annotations.sizes[:, 0],
        "person height": heights,
    }
    levels = (0, 0.25, 0.5, 0.75, 1)
    return {name: np.quantile(values, levels).round(1).tolist() for name, values in measured.items() if len(values)}


def _crowd_sets(index: NDArray[np.float64]) -> dict[str, int]:
    known = index[np.isfinite(index)]
    sets = {name: int(((known >= low) & (known < high)).sum()) for name, (low, high) in _CROWD_SETS.items()}
    return sets if len(known) else {}


def _bad_images(annotations: Annotations, folder: Path, decode: bool) -> dict[str, str]:
    names = [name.decode() for name in annotations.file_names.tolist()]
    found = inventory.listing(folder, names)
    bad = {name: "is missing" for name in names if name not in found}
    if decode:
        there = {name: size for name, size in zip(names, annotations.sizes.tolist(), strict=True) if name in found}
        bad |= inventory.looked_at(folder, there)
    return bad


def _flips(annotations: Annotations, skeleton: Skeleton) -> dict[str, Any]:
    errors = flip_errors(annotations.keypoints, skeleton)
    ids = annotations.instance_ids
    found = {"crossed": ids[errors.crossed].tolist(), "turned": ids[errors.turned].tolist()}
    return {"judged": int(errors.judged.sum()), **found}
