"""Errors of 3D poses: MPJPE, after alignment by similarity (PA-MPJPE) and after scaling (N-MPJPE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pose_lab.metrics.rows import RowMetric, refuse_unless_finite, refuse_unless_shaped

VARIANTS = ("MPJPE", "PA-MPJPE", "N-MPJPE")


class PoseErrors3D(RowMetric):
    """Mean distance of the joints to the annotated ones, in the unit of the data.

    - MPJPE: as given. Nothing is centred: take the root from both sides first if root-relative errors are meant.
    - PA-MPJPE: after the similarity transform (scale, rotation without reflection, translation) that fits best.
    - N-MPJPE: after scaling about the origin.

    Transforms are fitted per pose to all joints, so those without label must hold sane values; errors are averaged over
    the labelled joints of all poses together. NaN if nothing is labelled.

    Args:
        keypoints: names of the K joints.
        **kwargs: `torchmetrics.Metric`'s.

    Source: Ionescu et al., TPAMI 2014 (MPJPE); Rhodin et al., CVPR 2018 (N-MPJPE).
    """

    higher_is_better = False

    def __init__(self, keypoints: Sequence[str], **kwargs: Any) -> None:
        super().__init__((len(VARIANTS), len(keypoints)), **kwargs)
        self.keypoints = tuple(keypoints)

    def update(self, found: Tensor, annotated: Tensor, labelled: Tensor, ids: Tensor) -> None:
        """Adds some poses.

        Args:
            found: (n, K, 3).
            annotated: (n, K, 3), same unit.
            labelled: (n, K) bool.
            ids: (n,) int64, different for different poses; an id that comes again is dropped.

        Raises:
            ValueError: if shapes do not fit, or numbers are not finite; the message names the pose's row.
        """
        shape = (len(ids), len(self.keypoints), 3)
        refuse_unless_shaped("found", found, shape)
        refuse_unless_shaped("annotated", annotated, shape)
        refuse_unless_shaped("labelled", labelled, shape[:2])
        refuse_unless_finite(found, "found joints of pose {} are not finite")
        refuse_unless_finite(annotated, "annotated joints of pose {} are not finite")
        found, annotated = found.double(), annotated.double()
        versions = torch.stack([found, aligned(found, annotated), scaled(found, annotated)], dim=1)
        errors = (versions - annotated[:, None]).norm(dim=3)
        self.add_rows(ids, errors.masked_fill(~labelled[:, None], torch.nan))

    def compute(self) -> dict[str, Tensor]:
        """The three errors."""
        means = self.rows().transpose(0, 1).flatten(1).nanmean(1).to(self.device)
        return dict(zip(VARIANTS, means, strict=True))

    def per_pose(self) -> Tensor:
        """(n, 3) the three errors of each pose, by rising id; NaN for a pose without labels."""
        return self.rows().nanmean(2)


def aligned(found: Tensor, annotated: Tensor) -> Tensor:
    """Poses (n, K, 3) moved onto others by the similarity transform with the least squared error, never mirrored.

    A pose whose joints all coincide has no scale or rotation to fit and is moved only.

    Source: Umeyama, TPAMI 1991.
    """
    mean, target = found.mean(1, keepdim=True), annotated.mean(1, keepdim=True)
    centred = found - mean
    u, strength, vt = torch.linalg.svd(centred.mT @ (annotated - target))
    signs = torch.ones_like(strength)
    signs[:, -1] = torch.linalg.det(u @ vt).sign()
    spread = centred.square().sum((1, 2))
    scale = torch.where(spread > 0, (strength * signs).sum(1) / spread, 1)
    return scale[:, None, None] * (centred @ (u * signs[:, None]) @ vt) + target


def scaled(found: Tensor, annotated: Tensor) -> Tensor:
    """Poses (n, K, 3) scaled about the origin with the least squared error; a pose at the origin stays there."""
    spread = found.square().sum((1, 2))
    scale = torch.where(spread > 0, (found * annotated).sum((1, 2)) / spread, 1)
    return scale[:, None, None] * found
