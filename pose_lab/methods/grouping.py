"""Associative embedding: from peaks and their tags to groups, one per person.

Kind after kind, each image's peaks are assigned to the groups so far, whose tags are the means of their members', by
the cheapest assignment; what fits none opens a group. That is a sequence of small steps, so it runs on the host.

Source: Newell, Huang and Deng, "Associative Embedding: End-to-End Learning for Joint Detection and Grouping", NIPS 2017
(arXiv 1611.05424), as the published code of HigherHRNet does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pose_lab.skeletons import Skeleton

FULL = ("open", "skip")


@dataclass(frozen=True)
class Grouping:
    """How peaks are grouped.

    A peak costs `cost_rounded` * round(d) + `cost_exact` * d - `cost_score` * score in a group, d the Euclidean
    distance of its tags from the group's. Rounded distances alone (published) make ties, which the order of peaks and
    groups then decides; a little of the exact distance decides them by what fits better.

    Attributes:
        order: in which kinds of keypoints are grouped: a name among `orders`.
        orders: by name and skeleton: the skeleton's keypoints; skeletons that are not there have their own order.
        max_distance: peaks join a group only if their tags are nearer to the group's.
        max_groups: later groups are joined by nobody (published: 30); None: no limit.
        when_full: peaks that fit none of `max_groups` groups `open` others (published), or kinds that come when there
            are so many are left out (`skip`, an option of the published code).
        merge_equal_tags: groups whose first peaks have equal (first) tags are one (published: they share a key).
        cost_rounded, cost_exact, cost_score: see above.
    """

    order: str
    orders: Mapping[str, Mapping[str, Sequence[str]]]
    max_distance: float
    max_groups: int | None
    when_full: Literal["open", "skip"]
    merge_equal_tags: bool
    cost_rounded: float
    cost_exact: float
    cost_score: float

    def __post_init__(self) -> None:
        if self.order not in self.orders:
            raise ValueError(f"inference.order is {self.order!r}; inference.orders has: {', '.join(self.orders)}")
        if self.when_full not in FULL:
            raise ValueError(f"inference.when_full is {self.when_full!r}; there are: {', '.join(FULL)}")
        if self.max_groups is not None and self.max_groups < 1:
            raise ValueError(f"inference.max_groups is {self.max_groups}, but must be at least 1, or null")

    def kinds(self, skeleton: Skeleton) -> tuple[int, ...]:
        """A skeleton's keypoints in the order in which they are grouped.

        Raises:
            ValueError: the order does not name each of them once; the message says which it lacks, or has too many.
        """
        names = list(self.orders[self.order].get(skeleton.name, skeleton.keypoints))
        known = skeleton.keypoints
        faults = {
            "lacks": [name for name in known if name not in names],
            "names unknown": [name for name in names if name not in known],
            "repeats": [name for name in dict.fromkeys(names) if names.count(name) > 1],
        }
        if said := [f"{what} {', '.join(map(str, wrong))}" for what, wrong in faults.items() if wrong]:
            raise ValueError(
                f"inference.orders.{self.order}.{skeleton.name} must name each keypoint once "
                f"({', '.join(known)}), but it {'; it '.join(said)}"
            )
        return tuple(known.index(name) for name in names)


def grouped(scores: Tensor, tags: Tensor, order: Sequence[int], settings: Grouping) -> tuple[Tensor, Tensor]:
    """Groups of all images.

    Args:
        scores: (B, K, M) of the peaks, 0 for none.
        tags: (B, K, M, T) finite.
        order: of the kinds.
        settings: the parameters.

    Returns:
        (G,) int64 the groups' images, ascending, and (G, K) int64 their peaks of each kind, -1 for none, in the order
        in which they were opened.
    """
    on_host = zip(scores.cpu().numpy(), tags.cpu().numpy(), strict=True)
    members = [_groups(*image, order, settings) for image in on_host]
    image_index = np.repeat(np.arange(len(members)), [len(one) for one in members])
    together = np.concatenate([np.empty((0, scores.shape[1]), np.int64), *members])
    return torch.from_numpy(image_index).to(scores.device), torch.from_numpy(together).to(scores.device)


def _groups(
    scores: NDArray[np.floating], tags: NDArray[np.floating], order: Sequence[int], settings: Grouping
) -> NDArray[np.int64]:
    """(G, K) the groups of one image."""
    kinds, most, size = tags.shape
    members = np.full((kinds * most, kinds), -1)
    sums, counts = (np.zeros((kinds * most, columns), np.float32) for columns in (size, 1))
    keys = np.zeros(kinds * most, np.float32)
    total = 0
    for kind in order:
        joinable = total if settings.max_groups is None else min(total, settings.max_groups)
        if settings.when_full == "skip" and joinable == settings.max_groups:
            break
        rows = np.flatnonzero(scores[kind])
        own = tags[kind, rows]
        group = _assigned(own, scores[kind, rows], sums[:joinable] / counts[:joinable], settings)
        new = group < 0
        group[new] = _opened(own[new, 0], keys[:total]) if settings.merge_equal_tags else total + np.arange(new.sum())
        sums[group[new]], counts[group[new]] = own[new], 1  # of equal ones the last
        keys[group[new]] = own[new, 0]
        sums[group[~new]] += own[~new]
        counts[group[~new]] += 1
        members[group, kind] = rows
        total = max(total, group.max(initial=-1) + 1)
    return members[:total]


def _assigned(
    tags: NDArray[np.floating], scores: NDArray[np.floating], means: NDArray[np.floating], settings: Grouping
) -> NDArray[np.int64]:
    """(n,) the group of each peak, -1 for none."""
    distance = np.linalg.norm(tags[:, None] - means[None], axis=2)
    cost = settings.cost_rounded * distance.round() + settings.cost_exact * distance
    row, column = linear_sum_assignment(cost - settings.cost_score * scores[:, None])
    near = distance[row, column] < settings.max_distance
    group = np.full(len(tags), -1)
    group[row[near]] = column[near]
    return group


def _opened(tags: NDArray[np.floating], keys: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) the groups that peaks open: one for each different tag, those that are keys already again."""
    different, first, place = np.unique(np.concatenate([keys, tags]), return_index=True, return_inverse=True)
    rank = np.empty(len(different), np.int64)
    rank[first.argsort()] = np.arange(len(different))
    return rank[place[len(keys) :]]
