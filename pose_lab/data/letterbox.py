"""Fitting pictures of any shape into a frame: scale, pad, and the affine map that says exactly what was done.

The rounding rules are those of the published KAPAO (YOLOv5's letterbox), so that its outputs can be reproduced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pose_lab.ops import warps


def fitted(sizes: Tensor, frame: tuple[int, int]) -> Tensor:
    """The sizes of pictures scaled up or down until they just fit the frame, rounded down.

    Args:
        sizes: (B, 2) int64 height and width.
        frame: height and width that must not be exceeded.

    Returns:
        (B, 2) int64, at least one pixel each way.
    """
    ratio = (torch.tensor(frame, dtype=torch.float64) / sizes).amin(-1, keepdim=True)
    return (sizes * ratio).floor().long().clamp(min=1)


def letterboxed(sizes: Tensor, frame: Tensor, enlarge: bool) -> tuple[Tensor, Tensor]:
    """Scale pictures into a frame and centre them.

    Args:
        sizes: (B, 2) int64 height and width.
        frame: (2,) or (B, 2) int64 height and width of the frame.
        enlarge: whether pictures smaller than the frame are scaled up.

    Returns:
        the scaled sizes (B, 2) int64, rounded to whole pixels, and the width of the padding above and left (B, 2)
        int64. An odd padding is wider below and right.
    """
    ratio = (frame.double() / sizes).amin(-1, keepdim=True)
    ratio = ratio if enlarge else ratio.clamp(max=1.0)
    scaled = (sizes * ratio).round().long().clamp(min=1)
    return scaled, centred(scaled, frame)


def centred(scaled: Tensor, frame: Tensor) -> Tensor:
    """(B, 2) int64: the padding above and left of pictures in the middle of a frame; an odd one is wider below, right.

    Args:
        scaled: (B, 2) int64 height and width of the pictures.
        frame: (2,) or (B, 2) int64 height and width.
    """
    return ((frame - scaled) / 2 - 0.1).round().long().clamp(min=0)


def smallest_frame(sizes: Tensor, frame: Tensor, stride: int, enlarge: bool) -> Tensor:
    """(B, 2) int64: the frame with all whole multiples of `stride` taken off the padding (demo pictures).

    Args:
        sizes: (B, 2) int64 height and width.
        frame: (2,) int64.
        stride: the network's coarsest stride.
        enlarge: as in `letterboxed`.
    """
    scaled, _ = letterboxed(sizes, frame, enlarge)
    return scaled + (frame - scaled) % stride


def shared_frame(sizes: Tensor, longer_side: int, stride: int) -> tuple[int, int]:
    """The smallest frame for a batch whose pictures are scaled to one longer side ("rectangular" evaluation).

    Args:
        sizes: (B, 2) int64 height and width.
        longer_side: of every scaled picture, in pixels.
        stride: height and width become multiples of it.

    Returns:
        height and width
    """
    shape = (sizes / sizes.amax(-1, keepdim=True).double()).amax(0)
    height, width = ((shape * longer_side / stride).ceil() * stride).long().tolist()
    return height, width


def placing(sizes: Tensor, scaled: Tensor, corner: Tensor) -> Tensor:
    """The maps of pictures resized to whole pixels and put somewhere.

    Args:
        sizes: (..., 2) height and width of the originals.
        scaled: (..., 2) height and width after resizing.
        corner: (..., 2) y and x of the upper left corner.

    Returns:
        (..., 2, 3) float64 maps from original to new pixels.
    """
    return warps.scaling((scaled / sizes.double()).flip(-1), corner.double().flip(-1))


def short_side(sizes: Tensor, side: int, stride: int) -> tuple[tuple[int, int], Tensor]:
    """The frame of one picture whose shorter side is scaled to `side`, and how it lies in the middle of it.

    Args:
        sizes: (1, 2) int64 height and width.
        side: of the frame; the longer one becomes a multiple of `stride`, perhaps a fraction of a pixel too short.
        stride: pixels.

    Returns:
        height and width of the frame, and the map (1, 2, 3) float64 from original to new pixels.

    Source: the published evaluation of the bottom-up methods on HRNet (HigherHRNet, DEKR).
    """
    height, width = sizes[0].tolist()
    wide = height <= width
    shorter, longer = (height, width) if wide else (width, height)
    sides = tuple(int(x + stride - 1) // stride * stride for x in (side, side * longer / shorter))
    frame = sides if wide else sides[::-1]
    scale = sides[0] / shorter
    middle = sizes.new_tensor([[int(width / 2 + 0.5), int(height / 2 + 0.5)]]).double()
    # published: the picture's pixel `middle` comes to the frame's pixel at half its sides, counted from pixel centres
    offset = torch.tensor([frame[::-1]]) / 2 + 0.5 - scale * (middle + 0.5)
    return (frame[0], frame[1]), warps.scaling(torch.full((1, 2), scale, dtype=torch.float64), offset.double())
