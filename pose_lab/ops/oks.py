"""Object keypoint similarity, COCO's greedy matching, and precision over recall, as batched float64 tensor code.

People and detections are flat; a pair is one detection and one annotated person of the same image. Whatever is decided
per pair is decided for all size ranges and thresholds at once; only the greedy order of detections within an image is
a loop (over ranks, for all images together).

Shape letters: P pairs, D detections, N annotated people, K keypoints, A size ranges, T thresholds, R recalls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EPSILON = float(np.spacing(1.0))  # what the official evaluation adds to areas and counts


def keypoint_similarity(found: Tensor, annotated: Tensor, areas: Tensor, boxes: Tensor, sigmas: Tensor) -> Tensor:
    """COCO's object keypoint similarity (OKS) of pairs.

    A person without any labelled keypoint is compared by its box: a detected keypoint errs by its distance from the box
    enlarged threefold, so whatever lies inside has OKS 1.

    Args:
        found: (P, K, 2) detected keypoints, pixels.
        annotated: (P, K, 3) x, y, visibility in the same pixels.
        areas: (P,) square pixels.
        boxes: (P, 4) xyxy of the annotated people, used where nothing is labelled.
        sigmas: (K,) OKS constants.

    Returns:
        (P,) similarities in [0, 1], in the inputs' floating type (use float64).

    Source: COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval.
    """
    counts = annotated[..., 2] > 0
    bare = (~counts.any(1)).nonzero().squeeze(1)
    x, y = found[..., 0] - annotated[..., 0], found[..., 1] - annotated[..., 1]
    if len(bare):
        x[bare], y[bare] = _beyond_threefold_box(found[bare], boxes[bare])
        counts[bare] = True
    errors = x.square_().add_(y.square_()).div_((2 * sigmas).square()).div_((areas + EPSILON)[:, None]).div_(2)
    return errors.neg_().exp_().mul_(counts).sum(1) / counts.sum(1)


def _beyond_threefold_box(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in x and in y (P, K) by which points (P, K, 2) lie outside boxes (P, 4) enlarged by their size."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    outside = (corner - size - points).clamp(min=0) + (points - (corner + 2 * size)).clamp(min=0)
    return outside[..., 0], outside[..., 1]


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
    return _rows(groups) - torch.searchsorted(groups, groups)


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
        (A, T, D) int64, the row in `pairs` that each detection took, -1 for none.
    """
    shape = (len(counted), len(thresholds))
    chosen = rank.new_full((*shape, len(rank)), -1)
    nobody = len(reusable)  # an extra column that takes the marks of whoever must stay free
    taken = reusable.new_zeros((*shape, nobody + 1))
    person_to_mark = torch.where(reusable, nobody, _rows(reusable))
    by_similarity = torch.argsort(similarity, stable=True)
    bid = torch.empty_like(by_similarity).scatter_(0, by_similarity, _rows(similarity))
    bids = bid + len(pairs) * counted[:, pairs.person]  # (A, P): unique, a counted person outbids all others
    reached = similarity >= thresholds[:, None]  # (T, P)
    pair_rank = rank[pairs.detection]
    for rows in torch.argsort(pair_rank, stable=True).split(torch.bincount(pair_rank).tolist()):
        detections, slot = torch.unique_consecutive(pairs.detection[rows], return_inverse=True)
        usable = reached[:, rows] & ~taken[..., pairs.person[rows]]  # (A, T, rows)
        offers = torch.where(usable, bids[:, None, rows], -1)
        best = rank.new_full((*shape, len(detections)), -1)
        best.scatter_reduce_(2, slot.expand(*shape, -1), offers, "amax")
        winner = by_similarity[best % len(pairs)]
        chosen[..., detections] = torch.where(best >= 0, winner, -1)
        taken.scatter_(2, torch.where(best >= 0, person_to_mark[pairs.person[winner]], nobody), True)
    return chosen


@dataclass(frozen=True)
class Curves:
    """Precision over recall, -1 where nobody counts.

    Attributes:
        precision: (A, T, R) float64, the interpolated precision at each recall.
        scores: (A, T, R) float64, the detection score at which each recall is reached; 0 where it never is.
        recall: (A, T) float64, the highest recall.
    """

    precision: Tensor
    scores: Tensor
    recall: Tensor


def precision_over_recall(scores: Tensor, matched: Tensor, ignored: Tensor, people: Tensor, recalls: Tensor) -> Curves:
    """Precision and recall over the detections of a whole data set, as COCO accumulates them.

    Args:
        scores: (D,) float64; of equal scores the earlier row ranks first.
        matched: (A, T, D) bool.
        ignored: (A, T, D) bool, neither right nor wrong.
        people: (A,) int64, how many people count.
        recalls: (R,) float64, ascending, where precision is read.
    """
    order = torch.sort(scores, stable=True, descending=True).indices
    hits = (matched & ~ignored).index_select(-1, order).cumsum(-1, dtype=torch.int32)
    misses = (~matched & ~ignored).index_select(-1, order).cumsum(-1, dtype=torch.int32)
    precision = hits / ((hits + misses).double() + EPSILON)
    envelope = precision.flip(-1).cummax(-1).values.flip(-1)
    reached = hits / people[:, None, None].double()  # NaN where nobody counts, replaced below
    at = torch.searchsorted(reached.nan_to_num(), recalls.expand(*hits.shape[:2], -1).contiguous())
    none = (people == 0)[:, None, None]
    return Curves(
        precision=_read(envelope, at).masked_fill(none, -1),
        scores=_read(scores[order].expand(*hits.shape[:2], -1), at).masked_fill(none, -1),
        recall=_read(reached, torch.full_like(at[..., :1], len(scores) - 1)).masked_fill(none, -1).squeeze(-1),
    )


def _read(values: Tensor, at: Tensor) -> Tensor:
    """Values (A, T, D) at positions (A, T, R), 0 beyond the ends."""
    padded = torch.nn.functional.pad(values, (1, 1))
    return padded.gather(-1, at + 1)
