"""How often a method replaces keypoints of its poses by keypoints that it found apart (KAPAO's Figure 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton


class FusionRate(Metric):
    """Replaced keypoints over labelled keypoints, for each kind of keypoint.

    McNally et al., ECCV 2022, Figure 6. A keypoint that a pose took from a keypoint object has a score above 0, any
    other has 0. Every pose that is found counts, also two of one person, so a rate may exceed 1. Only images that
    `update` has seen count, each once. A kind that nobody has labelled has no rate: -1.

    Args:
        annotations: ground truth of the split.
        skeleton: the kinds of keypoints.
        **kwargs: `torchmetrics.Metric`'s.
    """

    is_differentiable = False
    full_state_update = False

    replaced: Tensor
    seen: Tensor

    def __init__(self, annotations: Annotations, skeleton: Skeleton, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.annotations = annotations
        self.skeleton = skeleton
        images = len(annotations.image_ids)
        # by image, so that one which a distributed sampler repeats counts once: the larger of two equal counts
        self.add_state("replaced", torch.zeros(images, len(skeleton), dtype=torch.int32), dist_reduce_fx="max")
        self.add_state("seen", torch.zeros(images, dtype=torch.int32), dist_reduce_fx="max")

    def update(self, predictions: Predictions, image_ids: Tensor) -> None:
        """Counts a batch.

        Args:
            predictions: of the batch.
            image_ids: (B,) int64, the data set's ids.
        """
        ids = torch.tensor(self.annotations.image_ids, device=image_ids.device)
        rows = torch.searchsorted(ids, image_ids)
        fused = (predictions.keypoint_scores > 0).to(self.replaced)
        counts = self.replaced.new_zeros(len(image_ids), len(self.skeleton))
        self.replaced[rows] = counts.index_add(0, predictions.image_index, fused)
        self.seen[rows] = 1

    def compute(self) -> dict[str, Tensor]:
        """`fusion_rate/<keypoint>`: of each kind."""
        seen = self.seen.cpu().numpy() > 0
        people = seen[self.annotations.image_index] & ~self.annotations.ignore
        labelled = torch.from_numpy((self.annotations.keypoints[people, :, 2] > 0).sum(0)).double()
        rates = torch.where(labelled > 0, self.replaced.sum(0).cpu() / labelled, -1.0)
        return {f"fusion_rate/{name}": rate for name, rate in zip(self.skeleton.keypoints, rates, strict=True)}
