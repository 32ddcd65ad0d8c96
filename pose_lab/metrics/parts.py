"""Evaluating a part of the body as if its keypoints were the whole skeleton.

The people keep their boxes and areas (so the OKS of a hand is measured by the person's size, as COCO-WholeBody does);
who shows no keypoint of the part is ignored. One keypoint alone is a part too: AP per keypoint type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

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
        uncounted=tuple(keypoint for keypoint in skeleton.uncounted if keypoint in keypoints),
    )


def part_of_annotations(annotations: Annotations, skeleton: Skeleton, indices: Sequence[int]) -> Annotations:
    """The annotations of some keypoints of `skeleton`; `num_keypoints` counts among these alone."""
    keypoints = annotations.keypoints[:, list(indices)]
    counted = (keypoints[..., 2] > 0) & np.array([skeleton.counted[k] for k in indices])
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
