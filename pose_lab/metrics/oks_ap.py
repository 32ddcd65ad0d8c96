"""Average precision and recall by object keypoint similarity, as COCO and CrowdPose define them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from pose_lab.metrics.rows import joined, refuse, refuse_unless_finite
from pose_lab.ops.oks import (
    Curves,
    Pairs,
    People,
    best_of_images,
    greedy_match,
    keypoint_similarity,
    pair_up,
    precision_over_recall,
    rank_within,
)
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton

# COCO's protocol (https://cocodataset.org/#keypoints-eval); made by numpy, because values on a threshold decide.
THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)
SIZE_RANGES = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
NEARLY_ONE = 1 - 1e-10  # the highest similarity that is ever demanded
DETECTIONS_AT_A_TIME = 1 << 14  # whose similarities are in memory together


@dataclass(frozen=True)
class Matches:
    """What became of each detection that was evaluated; A size ranges (all, medium, large), T thresholds.

    Attributes:
        image_index: (D,) int64, ascending, image of the annotations; by falling score within an image.
        scores: (D,) float64.
        areas: (D,) float64, extent of the detected keypoints in square pixels.
        ignored: (A, T, D) bool, neither right nor wrong.
        pair: (A, T, D) int32, the row of the two arrays below that the detection took, -1 for none.
        person: (P,) int64, row of the annotations.
        similarity: (P,) float64, OKS.
        counted: (A, N) bool for all N people of the annotations: counted in the size range, in an evaluated image.
        evaluated: (I,) bool, the images that were seen.
    """

    image_index: Tensor
    scores: Tensor
    areas: Tensor
    ignored: Tensor
    pair: Tensor
    person: Tensor
    similarity: Tensor
    counted: Tensor
    evaluated: Tensor

    @property
    def matched(self) -> Tensor:
        """(A, T, D) bool."""
        return self.pair >= 0

    @property
    def matched_person(self) -> Tensor:
        """(A, T, D) int64, row of the annotations that the detection took, -1 for none."""
        return _pick(self.person, self.pair, -1)

    @property
    def matched_similarity(self) -> Tensor:
        """(A, T, D) float64, OKS with that person, 0 for none."""
        return _pick(self.similarity, self.pair, 0)


def _pick(values: Tensor, rows: Tensor, otherwise: float) -> Tensor:
    return torch.cat([values, values.new_tensor([otherwise])])[rows.long()]  # row -1 is the appended one


class OKSAveragePrecision(Metric):
    """AP and AR of COCO's keypoint evaluation, for any skeleton; with CrowdPose's difficulty sets where they exist.

    Equal to pycocotools (and for CrowdPose to its authors' package, before their rounding to four decimals) to 1e-12,
    with two intended differences, both faults of pycocotools:
    an annotation with id 0 is matched like any other (pycocotools takes such a match for none), and an empty result
    has AP 0 (pycocotools' reader raises).

    - Only images that `update` has seen are evaluated, each once: what a distributed sampler repeats is dropped.
    - An image counts also without any detection or person, so `update` wants the ids of all images of a batch.
    - Ignored are crowd regions, people with `num_keypoints` 0 and, in a size range, people of another size. An
      unlabelled person takes one detection out of the count, a crowd region any number.
    - Of each image the `max_detections` best count, the rest do not exist. Equal scores rank by image id, then order.
    - A number without any person to count is -1.

    Ground truth in COCO's sense is in file coordinates (pixel indices), so `annotations.pixel_shift` is taken from both
    sides. Computed in float64 on the CPU wherever the states are; the result is the same for any number of processes.

    Args:
        annotations: ground truth of the split.
        skeleton: its OKS constants.
        max_detections: per image.
        crowd_limits: crowd index where medium and hard begin. The default is the released CrowdPose package's; the
            paper states (0.1, 0.8).
        **kwargs: `torchmetrics.Metric`'s.

    Raises:
        ValueError: if annotations and skeleton differ in the number of keypoints.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    image_ids: list[Tensor]
    detections_per_image: list[Tensor]
    scores: list[Tensor]
    areas: list[Tensor]
    keypoints: list[Tensor]

    def __init__(
        self,
        annotations: Annotations,
        skeleton: Skeleton,
        max_detections: int = 20,
        crowd_limits: tuple[float, float] = (0.2, 0.8),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if annotations.keypoints.shape[1] != len(skeleton):
            raise ValueError(
                f"annotations have {annotations.keypoints.shape[1]} keypoints, "
                f"skeleton {skeleton.name} has {len(skeleton)}"
            )
        self.sigmas = skeleton.oks_sigmas  # a skeleton without them is refused here, not after the first epoch
        self.annotations = annotations
        self.skeleton = skeleton
        self.max_detections = max_detections
        self.crowd_limits = crowd_limits
        self._matches: Matches | None = None
        for state in ("image_ids", "detections_per_image", "scores", "areas", "keypoints"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def update(self, predictions: Predictions, image_ids: Tensor, areas: Tensor | None = None) -> None:
        """Adds all people found in some images.

        Args:
            predictions: pixels of the original images; `image_index` points into `image_ids`. Keypoints and scores may
                be float64.
            image_ids: (B,) int64, the data set's ids, also of images where nobody was found.
            areas: (P,) square pixels, which decide whether an unmatched person belongs to a size range. None takes the
                extent of the keypoints, as COCO does; a part of a body is given the whole body's (`extents`).

        Raises:
            ValueError: if an image is unknown, the number of keypoints is wrong, or a number is not finite.
        """
        self._check(predictions, image_ids)
        image_index = predictions.image_index
        kept = best_of_images(image_index, predictions.scores, self.max_detections)
        self.image_ids.append(image_ids.long())
        self.detections_per_image.append(torch.bincount(image_index[kept], minlength=len(image_ids)))
        self.scores.append(predictions.scores[kept].double())
        self.areas.append((extents(predictions.keypoints) if areas is None else areas)[kept].double())
        self.keypoints.append(predictions.keypoints[kept].double())

    def compute(self) -> dict[str, Tensor]:
        """COCO's ten numbers and, where the annotations carry a crowd index, AP_easy, AP_medium and AP_hard."""
        self._matches = self._match()
        numbers = self.numbers()
        for name, images in self.difficulty_sets():
            numbers[f"AP_{name}"] = _mean(self.curves(images, slice(1)).precision)
        return {name: number.to(self.device) for name, number in numbers.items()}

    def matches(self) -> Matches:
        """What became of each detection, over all processes.

        Raises:
            RuntimeError: before `compute`.
        """
        if self._matches is None:
            raise RuntimeError("matches exist after compute() only")
        return self._matches

    def numbers(self, images: NDArray[np.bool_] | None = None) -> dict[str, Tensor]:
        """COCO's ten numbers of the evaluated images, or of those of them that the mask `images` (I,) selects.

        Nothing is matched again, so many sets cost little: see `sets_of_images`.

        Raises:
            RuntimeError: before `compute`.
        """
        return _coco_numbers(self.curves(images))

    def curves(self, images: NDArray[np.bool_] | None = None, ranges: slice = slice(None)) -> Curves:
        """Precision over recall, of some of the size ranges (all, medium, large) if asked.

        Args:
            images: (I,) selects from the evaluated images; None takes all.
            ranges: which size ranges.

        Raises:
            RuntimeError: before `compute`.
        """
        matches = self.matches()
        scores, matched, ignored = matches.scores, matches.matched[ranges], matches.ignored[ranges]
        people = matches.counted[ranges]
        if images is not None:
            rows = torch.from_numpy(images)[matches.image_index].nonzero().squeeze(1)
            scores, matched, ignored = scores[rows], matched.index_select(2, rows), ignored.index_select(2, rows)
            people = people & torch.from_numpy(images[self.annotations.image_index])
        return precision_over_recall(scores, matched, ignored, people.sum(1), torch.from_numpy(RECALLS))

    def difficulty_sets(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """CrowdPose's sets of images, each as a name and a mask (I,); none where there is no crowd index."""
        crowd_index = self.annotations.crowd_index
        if np.isnan(crowd_index).all():
            return
        medium, hard = self.crowd_limits
        yield "easy", crowd_index < medium
        yield "medium", (crowd_index >= medium) & (crowd_index < hard)
        yield "hard", crowd_index >= hard

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self._matches = None
        self._append_nothing()

    def _append_nothing(self) -> None:
        """Rows of the right shape and type, so that a process without samples can take part in the gathering."""
        for state, empty in {
            "image_ids": torch.empty(0, dtype=torch.int64),
            "detections_per_image": torch.empty(0, dtype=torch.int64),
            "scores": torch.empty(0, dtype=torch.float64),
            "areas": torch.empty(0, dtype=torch.float64),
            "keypoints": torch.empty(0, len(self.skeleton), 2, dtype=torch.float64),
        }.items():
            getattr(self, state).append(empty.to(self.device))

    def _check(self, predictions: Predictions, image_ids: Tensor) -> None:
        found = predictions.keypoints
        if found.shape[1:] != (len(self.skeleton), 2):
            raise ValueError(
                f"keypoints of predictions are {tuple(found.shape)}, "
                f"skeleton {self.skeleton.name} wants (people, {len(self.skeleton)}, 2)"
            )
        index = predictions.image_index
        refuse(
            (index < 0) | (index >= len(image_ids)),
            f"image_index of prediction {{}} is outside 0..{len(image_ids) - 1}",
        )
        refuse_unless_finite(found, "keypoints of prediction {} are not finite")
        refuse_unless_finite(predictions.scores, "score of prediction {} is not finite")
        unknown = ~np.isin(image_ids.cpu().numpy(), self.annotations.image_ids)
        if unknown.any():
            row = int(unknown.argmax())
            raise ValueError(f"image id {int(image_ids[row])} (image {row} of the batch) is not in the annotations")

    def _match(self) -> Matches:
        found, evaluated = self._detections()
        truth = _GroundTruth.of(self.annotations, evaluated)
        thresholds = torch.from_numpy(THRESHOLDS.clip(max=NEARLY_ONE))
        pairs, similarity = self._near_pairs(found, truth, thresholds[0])
        counted = truth.counted()
        pair = greedy_match(pairs, similarity, rank_within(found.image_index), counted, truth.ignore, thresholds)
        took_uncounted = _pick_per_range(~counted[:, pairs.person], pair)
        return Matches(
            image_index=found.image_index,
            scores=found.scores,
            areas=found.areas,
            ignored=torch.where(pair >= 0, took_uncounted, ~_in_range(found.areas)[:, None]),
            pair=pair,
            person=truth.rows[pairs.person],
            similarity=similarity,
            counted=torch.zeros(len(counted), len(self.annotations.areas), dtype=torch.bool).index_copy_(
                1, truth.rows, counted
            ),
            evaluated=torch.from_numpy(evaluated),
        )

    def _near_pairs(self, found: _Detections, truth: _GroundTruth, lowest: Tensor) -> tuple[Pairs, Tensor]:
        """Pairs that reach the lowest threshold, and their similarity (P,); some detections at a time, for memory."""
        keypoints = joined(self.keypoints)
        sigmas = torch.tensor(self.sigmas, dtype=torch.float64)
        near_pairs, near_similarity = [], []
        for start in range(0, max(len(found.rows), 1), DETECTIONS_AT_A_TIME):
            block = slice(start, start + DETECTIONS_AT_A_TIME)
            pairs = pair_up(found.image_index[block], truth.first_person)
            xy = keypoints[found.rows[block]].sub_(self.annotations.pixel_shift)
            similarity = keypoint_similarity(pairs, xy, truth.people, sigmas)
            near = (similarity >= lowest).nonzero().squeeze(1)
            near_pairs.append(Pairs(pairs.detection[near] + start, pairs.person[near]))
            near_similarity.append(similarity[near])
        detection, person = (torch.cat([getattr(p, side) for p in near_pairs]) for side in ("detection", "person"))
        return Pairs(detection, person), torch.cat(near_similarity)

    def _detections(self) -> tuple[_Detections, NDArray[np.bool_]]:
        """The detections of each image once, ascending by image, and the images seen (I,)."""
        ids = joined(self.image_ids)
        image_of_row = torch.from_numpy(np.searchsorted(self.annotations.image_ids, ids.numpy()))
        order = torch.argsort(image_of_row, stable=True)
        first_time = torch.zeros(len(ids), dtype=torch.bool)
        first_time[order] = rank_within(image_of_row[order]) == 0
        row_of_detection = torch.arange(len(ids)).repeat_interleave(joined(self.detections_per_image))
        kept = first_time[row_of_detection].nonzero().squeeze(1)
        image_index = image_of_row[row_of_detection[kept]]
        order = torch.argsort(image_index, stable=True)
        evaluated = np.zeros(len(self.annotations.image_ids), dtype=bool)
        evaluated[image_of_row.numpy()] = True
        rows = kept[order]
        return _Detections(image_index[order], rows, joined(self.scores)[rows], joined(self.areas)[rows]), evaluated


def extents(keypoints: Tensor) -> Tensor:
    """(P,) the area of a person found, as COCO takes it: of the box around all its keypoints (P, K, 2)."""
    return (keypoints.amax(1).double() - keypoints.amin(1).double()).prod(1)


def sets_of_images(
    values: NDArray[np.float64], edges: Sequence[float], whole_numbers: bool = False
) -> dict[str, NDArray[np.bool_]]:
    """Images sorted into intervals [edge, next edge) of a number per image, for `OKSAveragePrecision.numbers`.

    Args:
        values: (I,) e.g. `annotations.crowd_index` or `people_per_image(annotations)`; NaN belongs nowhere.
        edges: ascending; below the first and from the last on are intervals too.
        whole_numbers: name intervals by the numbers in them: "2", "3 to 5".

    Returns:
        a mask (I,) by the interval's name, e.g. "0.2 to 0.8", "from 0.8"; the first is named "below 0.2".
    """
    bounds = [-np.inf, *edges, np.inf]
    step = int(whole_numbers)
    sets = {}
    for low, high in pairwise(bounds):
        between = f"{low:g}" if low == high - step else f"{low:g} to {high - step:g}"
        name = f"below {high:g}" if low == -np.inf else f"from {low:g}" if high == np.inf else between
        sets[name] = (values >= low) & (values < high)
    return sets


def people_per_image(annotations: Annotations) -> NDArray[np.float64]:
    """(I,) how many people of each image the evaluation counts."""
    counted = ~annotations.ignore & (annotations.num_keypoints > 0)
    return np.bincount(annotations.image_index[counted], minlength=len(annotations.image_ids)).astype(np.float64)


@dataclass(frozen=True)
class _Detections:
    """(D,) each; `rows` are their rows in the metric's state."""

    image_index: Tensor
    rows: Tensor
    scores: Tensor
    areas: Tensor


@dataclass(frozen=True)
class _GroundTruth:
    """The people of the evaluated images, in file coordinates; `rows` (N,) are their rows in the annotations."""

    rows: Tensor
    first_person: Tensor
    people: People
    ignore: Tensor
    labelled: Tensor

    @classmethod
    def of(cls, annotations: Annotations, evaluated: NDArray[np.bool_]) -> _GroundTruth:
        image_index = annotations.image_index
        rows = np.flatnonzero(evaluated[image_index])
        keypoints = annotations.keypoints[rows]
        keypoints[..., :2] -= annotations.pixel_shift
        return cls(
            rows=torch.from_numpy(rows),
            first_person=torch.from_numpy(np.searchsorted(image_index[rows], np.arange(len(evaluated) + 1))),
            people=People(
                keypoints=torch.from_numpy(keypoints),
                areas=torch.from_numpy(annotations.areas[rows]),
                boxes=torch.from_numpy(annotations.boxes[rows]),
            ),
            ignore=torch.from_numpy(annotations.ignore[rows]),
            labelled=torch.from_numpy(annotations.num_keypoints[rows] > 0),
        )

    def counted(self) -> Tensor:
        """(A, N) bool, who counts in each size range."""
        return _in_range(self.people.areas) & ~self.ignore & self.labelled


def _in_range(areas: Tensor) -> Tensor:
    """(A, N) bool, both ends belong to a range."""
    low, high = torch.tensor(list(SIZE_RANGES.values()), dtype=torch.float64).unbind(1)
    return (areas >= low[:, None]) & (areas <= high[:, None])


def _pick_per_range(values: Tensor, pair: Tensor) -> Tensor:
    """Values (A, P) of the pairs that detections took (A, T, D); False for none."""
    padded = torch.nn.functional.pad(values, (0, 1))
    return torch.stack([row[rows.long()] for row, rows in zip(padded, pair, strict=True)])


def _coco_numbers(curves: Curves) -> dict[str, Tensor]:
    at = {f"{round(100 * threshold)}": t for t, threshold in enumerate(THRESHOLDS)}
    numbers = {}
    for name, values in (("AP", curves.precision), ("AR", curves.recall)):
        numbers[name] = _mean(values[0])
        numbers[f"{name}50"] = _mean(values[0, at["50"]])
        numbers[f"{name}75"] = _mean(values[0, at["75"]])
        numbers[f"{name}M"] = _mean(values[1])
        numbers[f"{name}L"] = _mean(values[2])
    return numbers


def _mean(values: Tensor) -> Tensor:
    """Mean of what is defined, -1 if nothing is."""
    defined = values[values > -1]
    return defined.mean() if len(defined) else values.new_tensor(-1.0)
