"""Metrics of single poses in the picture: PCK and its relatives, AUC, EPE, NME, PCP.

Every found person belongs to one annotated person. Distances are taken between labelled keypoints only (hidden ones
count) and divided by a size that the caller names: the functions below give the usual ones. Found and annotated
keypoints share one pixel convention, whichever.

A keypoint that nobody shows has no score: it is NaN in per-keypoint results and left out of every mean. Where nothing
is labelled at all, the result is NaN (the published functions give 0, which for an error means perfect).

Shape letters: n people, K keypoints, L limbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pose_lab.metrics.rows import (
    RowMetric,
    above_zero,
    at_least_one,
    refuse,
    refuse_unless_finite,
    refuse_unless_shaped,
)

HEAD_SHARE = 0.6  # of the head box's diagonal, MPII's head size (PCKh)
LEAST_TORSO = 1.0  # pixels; below it tPCK measures the found torso


def box_sizes(boxes: Tensor) -> Tensor:
    """(n,) the longer side of boxes (n, 4) xyxy: PCK's size."""
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def head_sizes(head_boxes: Tensor) -> Tensor:
    """(n,) 0.6 times the diagonal of head boxes (n, 4) xyxy: the size of MPII's PCKh (Andriluka et al., CVPR 2014)."""
    return HEAD_SHARE * (head_boxes[:, 2:] - head_boxes[:, :2]).norm(dim=1)


def keypoint_distances(keypoints: Tensor, a: int, b: int, labelled: Tensor | None = None) -> Tensor:
    """(n,) distance of two keypoints of (n, K, 2), e.g. a shoulder and the opposite hip (torso: PDJ).

    With `labelled` (n, K), 0 where either is not, which leaves the person out.
    """
    distances = (keypoints[:, a] - keypoints[:, b]).norm(dim=1)
    return distances if labelled is None else distances * (labelled[:, a] & labelled[:, b])


def torso_sizes(annotated: Tensor, found: Tensor, a: int, b: int) -> Tensor:
    """(n,) the annotated torso, or the found one where that is below a pixel: tPCK's size as mmpose has it."""
    torso = keypoint_distances(annotated, a, b)
    return torch.where(torso < LEAST_TORSO, keypoint_distances(found, a, b), torso)


class JointErrors(RowMetric):
    """Base of the metrics that look at the normalised distance of each keypoint.

    Args:
        keypoints: names of the K keypoints.
        **kwargs: `torchmetrics.Metric`'s.
    """

    def __init__(self, keypoints: Sequence[str], **kwargs: Any) -> None:
        super().__init__((len(keypoints),), **kwargs)
        self.keypoints = tuple(keypoints)

    def update(
        self, found: Tensor, annotated: Tensor, labelled: Tensor, ids: Tensor, sizes: Tensor | None = None
    ) -> None:
        """Adds some people.

        Args:
            found: (n, K, 2) pixels.
            annotated: (n, K, 2) in the same pixels; what is not labelled is not read.
            labelled: (n, K) bool.
            ids: (n,) int64, different for different people; an id that comes again is dropped.
            sizes: (n,) what distances are divided by, or (n, 2) to divide x and y each by its own; people of size 0 are
                left out. None leaves pixels.

        Raises:
            ValueError: if shapes do not fit, numbers are not finite or a size is below 0; the message names the
                person's row.
        """
        _check(found, annotated, labelled, ids, len(self.keypoints), 2)
        offsets = (found - annotated).double()
        if sizes is not None:
            refuse_unless_finite(sizes, "size of person {} is not finite")
            sizes = sizes.double()[:, None, None] if sizes.dim() == 1 else sizes.double()[:, None]
            refuse((sizes < 0).flatten(1).any(1), "size of person {} is below 0")
            labelled = labelled & (sizes > 0).all(2)
            offsets = offsets / sizes
        self.add_rows(ids, offsets.norm(dim=2).masked_fill(~labelled, torch.nan))

    def per_keypoint_counts(self) -> Tensor:
        """(K,) how often each keypoint is labelled."""
        return (~self.rows().isnan()).sum(0)


def _check(found: Tensor, annotated: Tensor, labelled: Tensor, ids: Tensor, keypoints: int, axes: int) -> None:
    refuse_unless_shaped("found", found, (len(ids), keypoints, axes))
    refuse_unless_shaped("annotated", annotated, (len(ids), keypoints, axes))
    refuse_unless_shaped("labelled", labelled, (len(ids), keypoints))
    refuse_unless_finite(found, "found keypoints of person {} are not finite")
    refuse_unless_finite(
        annotated.masked_fill(~labelled[..., None], 0), "labelled keypoints of person {} are not finite"
    )


class PCK(JointErrors):
    """Percentage of correct keypoints: the share of labelled ones whose normalised distance is below a threshold.

    The size given to `update` makes the variant: `box_sizes` (PCK), `head_sizes` (PCKh), `torso_sizes` (tPCK),
    `keypoint_distances` of shoulder and opposite hip with `inclusive` (PDJ; DeepPose leaves open which diagonal). The
    mean is that over keypoints, not over points.

    Args:
        keypoints: names of the K keypoints.
        thresholds: shares of the size, above 0.
        inclusive: whether a distance equal to the threshold is correct (HRNet's PCKh, PDJ) or not (mmpose).
        name: what results are called.
        **kwargs: `torchmetrics.Metric`'s.
    """

    higher_is_better = True

    def __init__(
        self,
        keypoints: Sequence[str],
        thresholds: Sequence[float],
        inclusive: bool = False,
        name: str = "PCK",
        **kwargs: Any,
    ) -> None:
        super().__init__(keypoints, **kwargs)
        above_zero("thresholds", *thresholds)
        self.thresholds = tuple(thresholds)
        self.inclusive = inclusive
        self.name = name

    def compute(self) -> dict[str, Tensor]:
        """`PCK@0.2` and the like for each threshold, shares in [0, 1]."""
        return {f"{self.name}@{t:g}": self.per_keypoint(t).nanmean().to(self.device) for t in self.thresholds}

    def per_keypoint(self, threshold: float) -> Tensor:
        """(K,) shares; NaN for a keypoint that nobody shows."""
        return correct_shares(self.rows(), threshold, self.inclusive)


def correct_shares(errors: Tensor, threshold: float, inclusive: bool) -> Tensor:
    """(K,) share of the errors (n, K) that are below a threshold; NaN errors do not count."""
    correct = errors <= threshold if inclusive else errors < threshold
    return correct.sum(0) / (~errors.isnan()).sum(0).double()


class AUC(JointErrors):
    """Area under PCK over the thresholds 0, 1/steps, ... (1 itself is not among them) of a fixed size in pixels.

    Args:
        keypoints: names of the K keypoints.
        pixels: the size.
        steps: number of thresholds.
        **kwargs: `torchmetrics.Metric`'s.
    """

    higher_is_better = True

    def __init__(self, keypoints: Sequence[str], pixels: float = 30, steps: int = 20, **kwargs: Any) -> None:
        super().__init__(keypoints, **kwargs)
        above_zero("pixels", pixels)
        at_least_one("steps", steps)
        self.pixels = pixels
        self.steps = steps

    def compute(self) -> dict[str, Tensor]:
        """`AUC`, in [0, 1]."""
        errors = self.rows() / self.pixels
        means = [correct_shares(errors, step / self.steps, False).nanmean() for step in range(self.steps)]
        return {"AUC": torch.stack(means).mean().to(self.device)}


class MeanError(JointErrors):
    """Mean normalised distance over all labelled points (not the mean over keypoints).

    Without sizes it is the end-point error (EPE) in pixels; with the box's size or the distance of two keypoints it is
    the normalised mean error (NME).

    Args:
        keypoints: names of the K keypoints.
        name: what the result is called, "EPE" or "NME".
        **kwargs: `torchmetrics.Metric`'s.
    """

    higher_is_better = False

    def __init__(self, keypoints: Sequence[str], name: str, **kwargs: Any) -> None:
        super().__init__(keypoints, **kwargs)
        self.name = name

    def compute(self) -> dict[str, Tensor]:
        """The one number."""
        return {self.name: self.rows().nanmean().to(self.device)}

    def per_keypoint(self) -> Tensor:
        """(K,) mean distances; NaN for a keypoint that nobody shows."""
        return self.rows().nanmean(0)


class PCP(RowMetric):
    """Percentage of correct parts: limbs whose two ends are found within a share of the limb's length.

    Strict: both errors are at most alpha times the length. Loose: their mean is. The two differ by many points, so
    results always carry the variant's name. A limb of length 0 counts only if it is found exactly.

    Args:
        keypoints: names of the K keypoints.
        limbs: pairs of keypoint indices.
        alpha: share of the length, above 0.
        **kwargs: `torchmetrics.Metric`'s.

    Source: Ferrari et al., CVPR 2008 (strict); the loose form is what the Buffy toolkit computes.
    """

    higher_is_better = True

    def __init__(
        self, keypoints: Sequence[str], limbs: Sequence[tuple[int, int]], alpha: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__((len(limbs), 2), **kwargs)
        above_zero("alpha", alpha)
        self.keypoints = tuple(keypoints)
        self.limbs = tuple(limbs)
        self.alpha = alpha

    def update(self, found: Tensor, annotated: Tensor, labelled: Tensor, ids: Tensor) -> None:
        """Adds some people; arguments and errors as `JointErrors.update`."""
        _check(found, annotated, labelled, ids, len(self.keypoints), 2)
        first, second = torch.tensor(self.limbs, device=found.device).T
        errors = (found - annotated).double().norm(dim=2)
        lengths = (annotated[:, first] - annotated[:, second]).double().norm(dim=2)
        allowed = self.alpha * lengths
        strict = (errors[:, first] <= allowed) & (errors[:, second] <= allowed)
        loose = (errors[:, first] + errors[:, second]) / 2 <= allowed
        hits = torch.stack([strict, loose], dim=2).double()
        self.add_rows(ids, hits.masked_fill(~(labelled[:, first] & labelled[:, second])[..., None], torch.nan))

    def compute(self) -> dict[str, Tensor]:
        """`PCP strict` and `PCP loose`: shares of all labelled limbs."""
        strict, loose = self.rows().flatten(0, 1).nanmean(0).to(self.device)
        return {"PCP strict": strict, "PCP loose": loose}

    def per_limb(self) -> Tensor:
        """(L, 2) strict and loose shares; NaN for a limb that nobody shows."""
        return self.rows().nanmean(0)
