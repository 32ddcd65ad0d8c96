"""Evaluating a part of the body as if its keypoints were the whole skeleton.

The people keep their boxes and areas (so the OKS of a hand is measured by the person's size, as COCO-WholeBody does);
who shows no keypoint of the part is ignored. One keypoint alone is a part too: AP per keypoint type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from pose_lab.metrics.oks_ap import OKSAveragePrecision, extents
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton


def indices_of(skeleton: Skeleton, keypoints: Sequence[str]) -> list[int]:
    """Where keypoints stand in a skeleton.

    Raises:
        ValueError: if one is not in it.
    """
    unknown = [name for name in keypoints if name not in skeleton.keypoints]
    if unknown:
        raise ValueError(f"skeleton {skeleton.name} has no keypoint {unknown[0]!r}")
    return [skeleton.keypoints.index(name) for name in keypoints]


def part_of_skeleton(skeleton: Skeleton, name: str, indices: Sequence[int]) -> Skeleton:
    """The skeleton of some keypoints, with the limbs between them."""
    position = {k: n for n, k in enumerate(indices)}
    keypoints = tuple(skeleton.keypoints[k] for k in indices)
    return Skeleton(
        name=f"{skeleton.name}:{name}",
        keypoints=keypoints,
        limbs=tuple((position[a], position[b]) for a, b in skeleton.limbs if a in position and b in position),
        sigmas=None if skeleton.sigmas is None else tuple(skeleton.sigmas[k] for k in indices),
        source=skeleton.source,
        uncounted=tuple(np.array(keypoints)[~_counted(skeleton, indices)].tolist()),
    )


def _counted(skeleton: Skeleton, indices: Sequence[int]) -> NDArray[np.bool_]:
    """Which keypoints of a part count: as in the whole, but all where none would (CrowdPose's head alone)."""
    counted = np.array([skeleton.counted[k] for k in indices])
    return counted if counted.any() else ~counted


def part_of_annotations(annotations: Annotations, skeleton: Skeleton, indices: Sequence[int]) -> Annotations:
    """The annotations of some keypoints of `skeleton`; `num_keypoints` counts among these alone."""
    keypoints = annotations.keypoints[:, list(indices)]
    counted = (keypoints[..., 2] > 0) & _counted(skeleton, indices)
    return replace(annotations, keypoints=keypoints, num_keypoints=counted.sum(1).astype(np.int32))


def shows_part(predictions: Predictions, indices: Sequence[int]) -> Tensor:
    """(P,) bool, whether any keypoint of the part has a score above 0; whole-body results say so what was found."""
    return (predictions.keypoint_scores[:, list(indices)] > 0).any(1)


def part_of_predictions(predictions: Predictions, indices: Sequence[int], rows: Tensor | None = None) -> Predictions:
    """Some keypoints of the predictions, and of the people only `rows` (P,) bool, if given."""
    if rows is None:
        rows = torch.ones(len(predictions), dtype=torch.bool, device=predictions.scores.device)
    return Predictions(
        image_index=predictions.image_index[rows],
        keypoints=predictions.keypoints[rows][:, list(indices)],
        keypoint_scores=predictions.keypoint_scores[rows][:, list(indices)],
        scores=predictions.scores[rows],
        boxes=predictions.boxes[rows],
    )


class PartsAveragePrecision(WrapperMetric):
    """OKS AP of several parts of the body at once, each as `OKSAveragePrecision` of the part's keypoints alone.

    Args:
        annotations: ground truth with all keypoints of `skeleton`.
        skeleton: see `part_of_skeleton`.
        parts: indices of each part's keypoints, by its name.
        shown_only: leave out, part by part, detections none of whose keypoints there has a score above 0, as
            COCO-WholeBody's package does.
        max_detections: per image.
        **kwargs: `torchmetrics.Metric`'s.
    """

    def __init__(
        self,
        annotations: Annotations,
        skeleton: Skeleton,
        parts: Mapping[str, Sequence[int]],
        shown_only: bool,
        max_detections: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.indices = {name: list(indices) for name, indices in parts.items()}
        self.shown_only = shown_only
        self._metrics = nn.ModuleDict(
            {
                name: OKSAveragePrecision(
                    part_of_annotations(annotations, skeleton, indices),
                    part_of_skeleton(skeleton, name, indices),
                    max_detections,
                )
                for name, indices in parts.items()
            }
        )

    def metrics(self) -> dict[str, OKSAveragePrecision]:
        """The metric of each part, by name."""
        return {name: cast(OKSAveragePrecision, metric) for name, metric in self._metrics.items()}

    def update(
        self,
        predictions: Predictions,
        image_ids: Tensor,
        areas: Tensor | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adds all people found in some images.

        Args:
            predictions: with all keypoints of the skeleton, as `OKSAveragePrecision.update`.
            image_ids: (B,) int64, also of images where nobody was found.
            areas: (P,) square pixels of the people found; None takes the extent of all keypoints.
            scores: (P,) by part, where a part is ranked by a score of its own; else by that of the person.
        """
        areas = extents(predictions.keypoints) if areas is None else areas
        for name, metric in self.metrics().items():
            indices = self.indices[name]
            ranked = replace(predictions, scores=(scores or {}).get(name, predictions.scores))
            rows = shows_part(predictions, indices) if self.shown_only else torch.ones_like(areas, dtype=torch.bool)
            metric.update(part_of_predictions(ranked, indices, rows), image_ids, areas[rows])

    def compute(self) -> dict[str, Tensor]:
        """COCO's ten numbers of each part, under names like `AP_foot`."""
        return {f"{key}_{name}": value for name, numbers in self.by_part().items() for key, value in numbers.items()}

    def by_part(self) -> dict[str, dict[str, Tensor]]:
        """COCO's ten numbers of each part; all processes must call it."""
        return {name: _plain(metric.compute()) for name, metric in self.metrics().items()}

    def reset(self) -> None:
        """Forgets all images."""
        for metric in self.metrics().values():
            metric.reset()
        super().reset()


def _plain(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without difficulty sets, which are sets of images of whole people."""
    return {name: value for name, value in numbers.items() if "_" not in name}
