"""What the bottom-up methods on HRNet share: colours, test-time passes, checks, and people as predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pose_lab.methods.base import PoseMethod, frame_sides
from pose_lab.nets.hrnet import HRNet
from pose_lab.ops.order import by_falling_score
from pose_lab.ops.passes import Pass
from pose_lab.poses import Batch, Predictions
from pose_lab.skeletons import Skeleton


@dataclass(frozen=True)
class View:
    """What the network is shown of a picture.

    Attributes:
        scale: of the picture's sides.
        flip: whether the scaled picture, with its padding to whole strides, is mirrored.
        shift: pixels that it is then moved to the left; its last columns stay as they are.
    """

    scale: float
    flip: bool = False
    shift: int = 0


class BottomUp(PoseMethod):
    """Base of these methods.

    Args:
        skeleton: the keypoints.
        net: the network.
        optimisation: see the base class.
        image_size: side of the input in pixels, or height and width.
        normalisation: `mean` and `deviation` of the colours, in 0..1.
        test_time: `scales` of the passes over a picture, and whether it is also shown mirrored (`flip`).

    Raises:
        ValueError: numbers do not fit each other.
    """

    net: HRNet
    mean: Tensor
    deviation: Tensor
    mirrored: Tensor

    def __init__(
        self,
        skeleton: Skeleton,
        net: HRNet,
        optimisation: Mapping[str, Any],
        image_size: int | Sequence[int],
        normalisation: Mapping[str, Sequence[float]],
        test_time: Mapping[str, Any],
    ) -> None:
        super().__init__(skeleton, net, optimisation)
        self.scales = _scales(test_time["scales"])
        self.flip = bool(test_time["flip"])
        sides = frame_sides(image_size, net.stride)
        for scale in self.scales:
            Pass(scale, flip=False).scaled(sides[0], sides[-1])  # what leaves nothing is refused before training
        for name, values in normalisation.items():
            self.register_buffer(name, torch.tensor(list(values)).view(3, 1, 1), persistent=False)
        self.register_buffer("mirrored", torch.tensor(skeleton.flip), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> what the network sees."""
        return (images / 255 - self.mean) / self.deviation

    def look(self, batch: Batch, view: View) -> Any:
        """The network's maps of a view."""
        images = Pass(view.scale, flip=False).view(self.normalised(batch.images), self.net.stride)
        return self.net(moved_left(images.flip(3), view.shift) if view.flip else images)


def predictions(
    image_index: Tensor, keypoints: Tensor, keypoint_scores: Tensor, scores: Tensor, found: Tensor | None = None
) -> Predictions:
    """People, by falling score within an image.

    Args:
        image_index: (P,) int64, ascending.
        keypoints: (P, K, 2) pixels of the original images.
        keypoint_scores: (P, K).
        scores: (P,).
        found: (P, K) bool, the keypoints that boxes are around; None: all.
    """
    order = by_falling_score(image_index, scores)
    low = high = keypoints
    if found is not None:
        low, high = (keypoints.where(found[..., None], outside) for outside in (torch.inf, -torch.inf))
    return Predictions(
        image_index=image_index[order],
        keypoints=keypoints[order],
        keypoint_scores=keypoint_scores[order],
        scores=scores[order],
        boxes=torch.cat([low.amin(1), high.amax(1)], 1)[order],
    )


def moved_left(images: Tensor, pixels: int) -> Tensor:
    """Pictures (B, C, H, W) moved to the left; their last columns stay as they are."""
    return torch.cat([images[..., pixels:], images[..., images.shape[3] - pixels :]], 3) if pixels else images


def _scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Scales of the passes, falling."""
    if not scales or not all(scale > 0 for scale in scales) or len(set(scales)) < len(scales):
        raise ValueError(f"test_time.scales is {list(scales)}: give one or more different numbers above 0")
    return tuple(sorted((float(scale) for scale in scales), reverse=True))
