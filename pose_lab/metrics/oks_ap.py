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

from pose_lab.metrics.rows import at_least_one, joined, refuse, refuse_unless_finite
from pose_lab.ops.oks import (
    Curves,
    Pairs,
    People,
    best_of_images,
    bounding_boxes,
    greedy_match,
    keypoint_similarity,
    pair_up,
    precision_over_recall,
    rank_within,
    reaches,
    touching,
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

    Only candidates, detections that reach the lowest threshold with somebody, have an entry per threshold: of many
    detections they are few. `ignored`, `matched_person` and `matched_similarity` are of all D detections.

    Attributes:
        image_index: (D,) int64, ascending, image of the annotations; by falling score within an image.
        scores: (D,) float64.
        areas: (D,) float64, extent of the detected keypoints in square pixels.
        in_range: (A, D) bool, whether that lies in the size range; what is not matched is ignored elsewhere.
        candidate: (C,) int64, ascending.
        pair: (A, T, C) int32, the row of the two arrays below that the candidate took, -1 for none.
        ignored_candidate: (A, T, C) bool, neither right nor wrong.
        person: (P,) int64, row of the annotations.
        similarity: (P,) float64, OKS.
        counted: (A, N) bool for all N people of the annotations: counted in the size range, in an evaluated image.
        evaluated: (I,) bool, the images that were seen.
    """

    image_index: Tensor
    scores: Tensor
    areas: Tensor
    in_range: Tensor
    candidate: Tensor
    pair: Tensor
    ignored_candidate: Tensor
    person: Tensor
    similarity: Tensor
    counted: Tensor
    evaluated: Tensor

    @property
    def ignored(self) -> Tensor:
        """(A, T, D) bool, neither right nor wrong."""
        everywhere = ~self.in_range[:, None].repeat(1, self.pair.shape[1], 1)
        return everywhere.index_copy_(2, self.candidate, self.ignored_candidate)

    @property
    def matched_person(self) -> Tensor:
        """(A, T, D) int64, row of the annotations that the detection took, -1 for none."""
        return self._of_all(self.person, -1)

    @property
    def matched_similarity(self) -> Tensor:
        """(A, T, D) float64, OKS with that person, 0 for none."""
        return self._of_all(self.similarity, 0)

    def _of_all(self, values: Tensor, otherwise: float) -> Tensor:
        everywhere = values.new_full((*self.pair.shape[:2], len(self.scores)), otherwise)
        return everywhere.index_copy_(2, self.candidate, _taken(values, self.pair, otherwise))


def _taken(values: Tensor, pair: Tensor, otherwise: float) -> Tensor:
    """The values (P,) of the pairs that were taken (...)."""
    return torch.cat([values, values.new_tensor([otherwise])])[pair.long()]  # row -1 is the appended one


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

    COCO compares pixel indices with boxes, so boxes move by `annotations.pixel_shift` with the keypoints. Computed in
    float64 on the CPU wherever the states are; the result is the same for any number of processes.

    Args:
        annotations: ground truth of the split.
        skeleton: its OKS constants.
        max_detections: per image.
        crowd_limits: crowd index where medium and hard begin. The default is the released CrowdPose package's; the
            paper states (0.1, 0.8).
        **kwargs: `torchmetrics.Metric`'s.

    Raises:
        ValueError: if annotations and skeleton differ in the number of keypoints, or `max_detections` is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    image_ids: list[Tensor]
    detections_per_image: list[Tensor]
    scores: list[Tensor]
    areas: list[Tensor]
    boxes: list[Tensor]
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
        at_least_one("max_detections", max_detections)
        self.sigmas = skeleton.oks_sigmas  # a skeleton without them is refused here, not after the first epoch
        self.annotations = annotations
        self.skeleton = skeleton
        self.max_detections = max_detections
        self.crowd_limits = crowd_limits
        self._matches: Matches | None = None
        self._ranked: _Ranked | None = None
        for state in ("image_ids", "detections_per_image", "scores", "areas", "boxes", "keypoints"):
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
        keypoints = predictions.keypoints.index_select(0, kept).double()
        boxes = bounding_boxes(keypoints)
        self.areas.append(_sizes(boxes) if areas is None else areas[kept].double())
        self.boxes.append(boxes)
        self.keypoints.append(keypoints)

    def compute(self) -> dict[str, Tensor]:
        """COCO's ten numbers and, where the annotations carry a crowd index, AP_easy, AP_medium and AP_hard."""
        self._matches = self._match()
        self._ranked = _Ranked.of(self._matches)
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
        people, ranked = self.matches().counted[ranges], self._ranked
        assert ranked is not None
        if images is not None:
            people = people & torch.from_numpy(images[self.annotations.image_index])
            ranked = ranked.of_images(torch.from_numpy(images))
        return precision_over_recall(
            ranked.scores,
            ranked.place,
            ranked.hits[ranges],
            ranked.misses[ranges],
            ranked.others[ranges],
            people.sum(1),
            torch.from_numpy(RECALLS),
        )

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
        self._matches = self._ranked = None
        self._append_nothing()

    def _append_nothing(self) -> None:
        """Rows of the right shape and type, so that a process without samples can take part in the gathering."""
        for state, empty in {
            "image_ids": torch.empty(0, dtype=torch.int64),
            "detections_per_image": torch.empty(0, dtype=torch.int64),
            "scores": torch.empty(0, dtype=torch.float64),
            "areas": torch.empty(0, dtype=torch.float64),
            "boxes": torch.empty(0, 4, dtype=torch.float64),
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
        pairs, similarity = self._near_pairs(found, truth, float(thresholds[0]))
        candidate, detection = torch.unique_consecutive(pairs.detection, return_inverse=True)
        pairs = Pairs(detection, pairs.person)  # from here on among candidates only
        counted = truth.counted()
        rank = rank_within(found.image_index[candidate])
        pair = greedy_match(pairs, similarity, rank, counted, truth.ignore, thresholds)
        took_uncounted = _pick_per_range(~counted[:, pairs.person], pair)
        in_range = _in_range(found.areas)
        return Matches(
            image_index=found.image_index,
            scores=found.scores,
            areas=found.areas,
            in_range=in_range,
            candidate=candidate,
            pair=pair,
            ignored_candidate=torch.where(pair >= 0, took_uncounted, ~in_range[:, None, candidate]),
            person=truth.rows[pairs.person],
            similarity=similarity,
            counted=torch.zeros(len(counted), len(self.annotations.areas), dtype=torch.bool).index_copy_(
                1, truth.rows, counted
            ),
            evaluated=torch.from_numpy(evaluated),
        )

    def _near_pairs(self, found: _Detections, truth: _GroundTruth, lowest: float) -> tuple[Pairs, Tensor]:
        """Pairs that reach the lowest threshold, and their similarity (P,); some detections at a time, for memory."""
        keypoints, boxes = joined(self.keypoints), joined(self.boxes)
        sigmas = torch.tensor(self.sigmas, dtype=torch.float64)
        reach = reaches(truth.people, sigmas, lowest)
        near_pairs, near_similarity = [], []
        for start in range(0, max(len(found.rows), 1), DETECTIONS_AT_A_TIME):
            block = slice(start, start + DETECTIONS_AT_A_TIME)
            rows = found.rows[block]
            pairs = pair_up(found.image_index[block], truth.first_person)
            pairs = touching(pairs, boxes[rows], reach)
            rows_of_state = Pairs(rows[pairs.detection], pairs.person)
            similarity = keypoint_similarity(rows_of_state, keypoints, truth.people, sigmas)
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
    return _sizes(bounding_boxes(keypoints.double()))


def _sizes(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def sets_of_images(
    values: NDArray[np.float64], edges: Sequence[float], whole_numbers: bool = False
) -> dict[str, NDArray[np.bool_]]:
    """Images sorted into intervals [edge, next edge) of a number per image, for `OKSAveragePrecision.numbers`.

    Args:
        values: (I,) e.g. `annotations.crowd_index` or `people_per_image(annotations)`; NaN belongs nowhere.
        edges: ascending; below the first and from the last on are intervals too.
        whole_numbers: values are such from 0 on; name intervals by the numbers in them: "2", "3 to 5".

    Returns:
        a mask (I,) by the interval's name, e.g. "0.2 to 0.8", "from 0.8"; the first is named "below 0.2".
    """
    bounds = [0 if whole_numbers else -np.inf, *edges, np.inf]
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
class _Ranked:
    """Matches as `precision_over_recall` wants them: by falling score, of equal ones the earlier detection first."""

    scores: Tensor
    image_index: Tensor
    place: Tensor
    hits: Tensor
    misses: Tensor
    others: Tensor

    @classmethod
    def of(cls, matches: Matches) -> _Ranked:
        scores, order = torch.sort(matches.scores, stable=True, descending=True)
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        place, row = rank[matches.candidate].sort()
        matched = matches.pair.index_select(2, row) >= 0
        decided = ~matches.ignored_candidate.index_select(2, row)
        others = matches.in_range.index_select(1, order).index_fill_(1, place, False)
        return cls(scores, matches.image_index[order], place, matched & decided, ~matched & decided, others)

    def of_images(self, images: Tensor) -> _Ranked:
        """Those of some images (I,) bool."""
        kept = images[self.image_index]
        rows, columns = kept.nonzero().squeeze(1), kept[self.place].nonzero().squeeze(1)
        return _Ranked(
            scores=self.scores[rows],
            image_index=self.image_index[rows],
            place=(kept.cumsum(0) - 1)[self.place[columns]],
            hits=self.hits.index_select(2, columns),
            misses=self.misses.index_select(2, columns),
            others=self.others.index_select(1, rows),
        )


@dataclass(frozen=True)
class _GroundTruth:
    """The people of the evaluated images; `rows` (N,) are their rows in the annotations."""

    rows: Tensor
    first_person: Tensor
    people: People
    ignore: Tensor
    labelled: Tensor

    @classmethod
    def of(cls, annotations: Annotations, evaluated: NDArray[np.bool_]) -> _GroundTruth:
        image_index = annotations.image_index
        rows = np.flatnonzero(evaluated[image_index])
        return cls(
            rows=torch.from_numpy(rows),
            first_person=torch.from_numpy(np.searchsorted(image_index[rows], np.arange(len(evaluated) + 1))),
            people=People(
                keypoints=torch.from_numpy(annotations.keypoints[rows]),
                areas=torch.from_numpy(annotations.areas[rows]),
                boxes=torch.from_numpy(annotations.boxes[rows] + annotations.pixel_shift),
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
