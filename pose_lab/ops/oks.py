"""Object keypoint similarity, COCO's greedy matching, and precision over recall, as batched float64 tensor code.

People and detections are flat; a pair is one detection and one annotated person of the same image. Whatever is decided
per pair is decided for all size ranges and thresholds at once; only the greedy order of detections within an image is
a loop (over ranks, for all images together).

Shape letters: P pairs, D detections, N annotated people, K keypoints, A size ranges, T thresholds, R recalls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pose_lab.ops.order import by_falling_score

EPSILON = float(np.spacing(1.0))  # what the official evaluation adds to areas and counts
PAIRS_AT_A_TIME = 1 << 12  # keeps the working set of the similarity in the processor's cache
ROUNDING = 1e-9  # relative, above the error of any bound that is computed here
LEAST_EXPONENT = -700.0  # above underflow, which makes the exponential many times slower


@dataclass(frozen=True)
class Pairs:
    """Detections paired with people of the same image.

    Attributes:
        detection: (P,) int64, ascending.
        person: (P,) int64, ascending within a detection.
    """

    detection: Tensor
    person: Tensor

    def __len__(self) -> int:
        return len(self.detection)

    def __getitem__(self, rows: Tensor | slice) -> Pairs:
        return Pairs(self.detection[rows], self.person[rows])


def pair_up(image_of_detection: Tensor, first_person: Tensor) -> Pairs:
    """All pairs of a detection and a person in the same image.

    Args:
        image_of_detection: (D,) int64.
        first_person: (I + 1,) int64, people of image i are rows first_person[i]:first_person[i + 1].
    """
    start = first_person[image_of_detection]
    people = first_person[image_of_detection + 1] - start
    detection = _rows(start).repeat_interleave(people)
    before = people.cumsum(0) - people
    return Pairs(detection, _rows(detection) + (start - before)[detection])


def _rows(values: Tensor) -> Tensor:
    return torch.arange(len(values), device=values.device)


def rank_within(groups: Tensor) -> Tensor:
    """(D,) the position of each row among the rows of its group; groups (D,) int64, ascending."""
    counts = torch.bincount(groups)
    return _rows(groups) - (counts.cumsum(0) - counts)[groups]


def best_of_images(image_index: Tensor, scores: Tensor, limit: int) -> Tensor:
    """The rows of the best detections of each image, by image, best first; of equal scores the earlier row.

    Args:
        image_index: (P,) int64.
        scores: (P,).
        limit: how many are kept of an image.
    """
    order = by_falling_score(image_index, scores)
    return order[rank_within(image_index[order]) < limit]


@dataclass(frozen=True)
class People:
    """Annotated people, as the similarity needs them.

    Attributes:
        keypoints: (N, K, 3) float64 x, y, visibility, pixels.
        areas: (N,) float64, square pixels.
        boxes: (N, 4) float64 xyxy, used where nothing is labelled.
    """

    keypoints: Tensor
    areas: Tensor
    boxes: Tensor


def bounding_boxes(keypoints: Tensor) -> Tensor:
    """(P, 4) xyxy, around all keypoints (P, K, 2)."""
    planes = keypoints.flatten(1).t().contiguous().unflatten(0, (keypoints.shape[1], 2))  # faster than over short rows
    return torch.cat([planes.amin(0), planes.amax(0)]).t().contiguous()


def reaches(people: People, sigmas: Tensor, lowest: float) -> Tensor:
    """(N, 4) boxes xyxy; whoever's keypoints all lie outside has a similarity below `lowest` (above 0) for certain.

    No keypoint of a detection is nearer to its annotated one than the detection's box is to that of the person's
    labelled keypoints (without any: to the box that `keypoint_similarity` takes instead), and the largest of the
    constants `sigmas` (K,) forgives a distance the most.
    """
    planes = people.keypoints.permute(1, 2, 0).contiguous()  # (K, 3, N): faster than over short rows
    xy, labelled = planes[:, :2], planes[:, 2:] > 0
    low, high = torch.where(labelled, xy, torch.inf).amin(0).t(), torch.where(labelled, xy, -torch.inf).amax(0).t()
    size = people.boxes[:, 2:] - people.boxes[:, :2]
    unlabelled = ~labelled.any(0).t()
    low = torch.where(unlabelled, people.boxes[:, :2] - size, low)
    high = torch.where(unlabelled, people.boxes[:, 2:] + size, high)
    reach = 2 * sigmas.max() * (-2 * math.log(lowest) * (people.areas + EPSILON)).sqrt()[:, None] * (1 + ROUNDING)
    return torch.cat([low - reach, high + reach], 1)


def touching(pairs: Pairs, boxes: Tensor, reach: Tensor) -> Pairs:
    """The pairs whose boxes, of detections (D, 4) and of people (N, 4), have a point in common."""
    near = torch.ones(len(pairs), dtype=torch.bool, device=boxes.device)
    for axis in (0, 1):
        near &= boxes[:, axis][pairs.detection] <= reach[:, axis + 2][pairs.person]
        near &= boxes[:, axis + 2][pairs.detection] >= reach[:, axis][pairs.person]
    return pairs[near.nonzero().squeeze(1)]


def keypoint_similarity(pairs: Pairs, found: Tensor, people: People, sigmas: Tensor) -> Tensor:
    """COCO's object keypoint similarity (OKS) of pairs.

    A person without any labelled keypoint is compared by its box: a detected keypoint errs by its distance from the box
    enlarged threefold, so whatever lies inside has OKS 1.

    Args:
        pairs: rows of `found` and of `people`.
        found: (D, K, 2) float64, detected keypoints in the same pixels.
        people: the annotations.
        sigmas: (K,) float64, OKS constants.

    Returns:
        (P,) float64 similarities in [0, 1].

    Source: COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval.
    """
    sizes = (2 * sigmas).square()
    labelled = (people.keypoints[..., 2] > 0).double()
    totals = labelled.sum(1)
    annotated = people.keypoints[..., :2].contiguous()
    similarity = found.new_empty(len(pairs))
    for rows in torch.arange(len(pairs), device=found.device).split(PAIRS_AT_A_TIME):
        detection, person = pairs.detection[rows], pairs.person[rows]
        offsets = found.index_select(0, detection).sub_(annotated.index_select(0, person)).square_()
        squares = offsets[..., 0] + offsets[..., 1]
        closeness = _closeness(squares, sizes, people.areas[person]).mul_(labelled.index_select(0, person))
        similarity[rows] = closeness.sum(1) / totals[person]
    for rows in (totals[pairs.person] == 0).nonzero().squeeze(1).split(PAIRS_AT_A_TIME):
        person = pairs.person[rows]
        outside = _beyond_threefold_box(found[pairs.detection[rows]], people.boxes[person])
        similarity[rows] = _closeness(outside.square().sum(-1), sizes, people.areas[person]).mean(1)
    return similarity


def _closeness(squared_distances: Tensor, sizes: Tensor, areas: Tensor) -> Tensor:
    """exp(-error) (P, K) of squared distances (P, K), which are overwritten."""
    return squared_distances.div_(sizes).div_(-2 * (areas + EPSILON)[:, None]).clamp_(min=LEAST_EXPONENT).exp_()


def _beyond_threefold_box(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances in x and y (P, K, 2) by which points (P, K, 2) lie outside boxes (P, 4) enlarged by their size."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return (corner - size - points).clamp(min=0) + (points - (corner + 2 * size)).clamp(min=0)


def greedy_match(
    pairs: Pairs, similarity: Tensor, rank: Tensor, counted: Tensor, reusable: Tensor, thresholds: Tensor
) -> Tensor:
    """COCO's greedy matching: detections in order of rank each take the most similar person that is still free.

    Counted people go before uncounted ones whatever the similarity; of equally similar people the later one is taken.

    Args:
        pairs: candidates, all with a similarity of at least the lowest threshold (others cannot match).
        similarity: (P,) float64.
        rank: (D,) int64, position of each detection within its image, best first.
        counted: (A, N) bool, whether the person counts in the size range.
        reusable: (N,) bool, crowd regions, which are never used up.
        thresholds: (T,) float64.

    Returns:
        (A, T, D) int32, the row in `pairs` that each detection took, -1 for none.
    """
    shape = (len(counted), len(thresholds))
    chosen = rank.new_full((*shape, len(rank)), -1, dtype=torch.int32)
    nobody = len(reusable)  # an extra column that takes the marks of whoever must stay free
    taken = reusable.new_zeros((*shape, nobody + 1))
    person_to_mark = torch.where(reusable, nobody, _rows(reusable))
    by_similarity = torch.argsort(similarity, stable=True)
    bid = torch.empty_like(by_similarity).scatter_(0, by_similarity, _rows(similarity))
    bids = (bid + len(pairs) * counted[:, pairs.person]).int()  # (A, P): unique, a counted person outbids all others
    reached = similarity >= thresholds[:, None]  # (T, P)
    pair_rank = rank[pairs.detection]
    for rows in torch.argsort(pair_rank, stable=True).split(torch.bincount(pair_rank).tolist()):
        detections, slot = torch.unique_consecutive(pairs.detection[rows], return_inverse=True)
        usable = reached[:, rows] & ~taken[..., pairs.person[rows]]  # (A, T, rows)
        offers = torch.where(usable, bids[:, None, rows], -1)
        best = bids.new_full((*shape, len(detections)), -1)
        best.scatter_reduce_(2, slot.expand(*shape, -1), offers, "amax")
        winner = by_similarity[best.long() % len(pairs)]
        chosen[..., detections] = torch.where(best >= 0, winner, -1).int()
        taken.scatter_(2, torch.where(best >= 0, person_to_mark[pairs.person[winner]], nobody), True)
    return chosen


@dataclass(frozen=True)
class Curves:
    """Precision over recall, -1 where nobody counts.

    Attributes:
        precision: (A, T, R) float64, the interpolated precision at each recall.
        scores: (A, T, R) float64, score of the detection that reaches each recall; 0 where none does.
        recall: (A, T) float64, the highest recall.
    """

    precision: Tensor
    scores: Tensor
    recall: Tensor


def precision_over_recall(
    scores: Tensor, place: Tensor, hits: Tensor, misses: Tensor, others: Tensor, people: Tensor, recalls: Tensor
) -> Curves:
    """Precision and recall over the detections of a whole data set, as COCO accumulates them.

    Precision falls with every miss, so its interpolation (the highest precision at this recall or beyond) is decided
    by the hits alone. Most detections are like nobody at any threshold; only the C others have a row per threshold.

    Args:
        scores: (D,) float64, falling.
        place: (C,) int64, ascending, which of the D detections can be matched at all.
        hits: (A, T, C) bool.
        misses: (A, T, C) bool; what is neither hit nor miss is ignored.
        others: (A, D) bool, which of the detections that `place` leaves out are misses.
        people: (A,) int64, how many people count.
        recalls: (R,) float64, ascending, where precision is read.
    """
    shape, none = hits.shape[:2], (people == 0)[:, None, None]
    before = misses.cumsum(-1, dtype=torch.int32) + others.cumsum(-1, dtype=torch.int32)[:, None, place]
    row, column = hits.flatten(0, 1).nonzero(as_tuple=True)  # rows of A * T
    nth = rank_within(row)
    most = int(people.max()) + 1  # so the last column is never a hit
    precision, score = scores.new_zeros(2, shape.numel(), most)
    precision[row, nth] = (nth + 1) / ((nth + 1 + before.flatten(0, 1)[row, column]).double() + EPSILON)
    score[row, nth] = scores[place[column]]
    envelope = precision.flip(-1).cummax(-1).values.flip(-1)
    reached = torch.arange(1, most + 1, device=people.device) / people[:, None].double()  # (A, most)
    at = torch.searchsorted(reached, recalls.expand(len(people), -1).contiguous())[:, None].expand(*shape, -1)
    count = torch.bincount(row, minlength=shape.numel()).view(shape)
    return Curves(
        precision=envelope.view(*shape, most).gather(-1, at).masked_fill(none, -1),
        scores=score.view(*shape, most).gather(-1, at).masked_fill(none, -1),
        recall=(count / people[:, None].double()).masked_fill(none[..., 0], -1),
    )
