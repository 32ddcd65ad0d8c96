"""The passes of test-time augmentation: pictures mirrored, scaled, padded to whole strides; points brought back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """One pass of test-time augmentation.

    Attributes:
        scale: of the picture's sides.
        flip: whether the picture is mirrored, before it is scaled.
        pad: the value around scaled pictures.
    """

    scale: float
    flip: bool
    pad: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the picture is shown as it is."""
        return self.scale == 1 and not self.flip

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a scaled picture, in whole pixels.

        Raises:
            ValueError: the scale leaves no pixel.
        """
        sides = int(height * self.scale), int(width * self.scale)
        if not all(sides):
            raise ValueError(f"a scale of {self.scale} leaves nothing of pictures of {width}x{height} pixels")
        return sides

    def view(self, images: Tensor, stride: int) -> Tensor:
        """What the network sees of pictures.

        Args:
            images: (B, C, H, W) float.
            stride: the view's sides are padded right and below to multiples of it.

        Returns:
            (B, C, h, w), pixel centres at half-integers before and after scaling.

        Raises:
            ValueError: the scale leaves no pixel.
        """
        images = images.flip(3) if self.flip else images
        if self.scale == 1:
            return images
        height, width = self.scaled(*images.shape[2:])
        scaled = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        # the stride above the scaled side as it is before it is rounded down
        below, right = (math.ceil(side * self.scale / stride) * stride for side in images.shape[2:])
        return F.pad(scaled, (0, right - width, 0, below - height), value=self.pad)

    def points_back(self, points: Tensor, width: int) -> Tensor:
        """Points (..., 2) in pixels of the view -> in pixels of the picture, which is `width` wide."""
        points = points / self.scale
        if not self.flip:
            return points
        x, y = points.unbind(-1)
        return torch.stack((width - x, y), -1)


def passes(scales: Sequence[float], flips: Sequence[bool]) -> tuple[Pass, ...]:
    """One pass for each pair of scale and flip.

    Raises:
        ValueError: there are not as many scales as flips, none at all, or a scale is not above 0.
    """
    if len(scales) != len(flips) or not len(scales):
        raise ValueError(f"test_time has {len(scales)} scales and {len(flips)} flips: give one of each for every pass")
    too_small = [scale for scale in scales if not scale > 0]
    if too_small:
        raise ValueError(f"test_time.scales has {too_small[0]}, but a scale must be above 0")
    return tuple(Pass(float(scale), bool(flip)) for scale, flip in zip(scales, flips, strict=True))
