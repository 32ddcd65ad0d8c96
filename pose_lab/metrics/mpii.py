"""The table of the MPII single-person benchmark (PCKh@0.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pose_lab.metrics.joints import PCK

COLUMNS: dict[str, tuple[str, ...]] = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
NOT_IN_MEAN = ("pelvis", "thorax")
THRESHOLD = 0.5
# HRNet's table calls "Mean@0.1" what is read at 0.11, the 12th of its thresholds 0, 0.01, ...; mmpose reads at 0.10.
STRICT_THRESHOLDS = (0.1, 0.11)


class MPIITable(PCK):
    """MPII's table in per cent: seven columns at PCKh@0.5, their mean, and the mean at 0.10 and at 0.11.

    A column is the mean of left and right. The mean is over all keypoints but pelvis and thorax, each weighted by how
    often it is labelled (the upper neck is in the mean, in no column). Published tables call "Mean@0.1" two things:
    HRNet's evaluation reads it at 0.11 (here `Mean@0.11`), mmpose at 0.10 (here `Mean@0.1`).

    `update` takes `sizes=head_sizes(head_boxes)`. MPII's files count pixels from 1: bring both sides to one convention.

    Args:
        keypoints: the 16 names in the order of the arrays.
        inclusive: True as HRNet, False as mmpose.
        **kwargs: `torchmetrics.Metric`'s.

    Raises:
        ValueError: if a keypoint that the table needs is not among the names.
    """

    def __init__(self, keypoints: Sequence[str], inclusive: bool = True, **kwargs: Any) -> None:
        super().__init__(keypoints, (THRESHOLD, *STRICT_THRESHOLDS), inclusive, "PCKh", **kwargs)
        missing = {name for names in COLUMNS.values() for name in names} - set(keypoints)
        if missing:
            raise ValueError(f"MPII's table needs the keypoints {', '.join(sorted(missing))}, which are not named")

    def compute(self) -> dict[str, Tensor]:
        """Per cent; a column of which nothing is labelled is NaN, one of which one side is labelled is that side's."""
        shares = 100 * self.per_keypoint(THRESHOLD)
        table = {name: shares[self._indices(names)].nanmean() for name, names in COLUMNS.items()}
        table["Mean"] = self._mean(THRESHOLD)
        table |= {f"Mean@{threshold:g}": self._mean(threshold) for threshold in STRICT_THRESHOLDS}
        return {name: value.to(self.device) for name, value in table.items()}

    def _mean(self, threshold: float) -> Tensor:
        shown = [k for k, name in enumerate(self.keypoints) if name not in NOT_IN_MEAN]
        counts = self.per_keypoint_counts()[shown]
        return 100 * (self.per_keypoint(threshold)[shown].nan_to_num() * counts).sum() / counts.sum().double()

    def _indices(self, names: Sequence[str]) -> list[int]:
        return [self.keypoints.index(name) for name in names]
