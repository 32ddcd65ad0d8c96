"""KAPAO's network: a CSP trunk with a pyramid neck and a dense head, of any width, depth and number of levels.

Blocks are numbered as in the published checkpoints (`model.<i>...`), so that those load by name; the numbers follow
from the order of construction. Shape letters: B images, A anchors per cell and level, K keypoints, C outputs per anchor
(4 box + 1 objectness + K + 1 classes + 2 K keypoint coordinates), ny x nx cells of a level.

Source: McNally et al., "Rethinking Keypoint Representations", ECCV 2022 (arXiv 2111.08557), and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

BOX_COLUMNS = 4
OBJECTNESS = 4  # the column after the box
FIRST_CLASS = 5  # column of the pose class; keypoint classes follow


class Conv(nn.Module):
    """Convolution, batch normalisation, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, with the input added if `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 1)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Cross-stage block: half the channels pass `repeats` bottlenecks, half go straight to the end."""

    def __init__(self, c_in: int, c_out: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        half = c_out // 2
        self.cv1 = Conv(c_in, half, 1)
        self.cv2 = Conv(c_in, half, 1)
        self.cv3 = Conv(2 * half, c_out, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPP(nn.Module):
    """Spatial pyramid pooling: max pools of several kernels beside the input."""

    def __init__(self, c_in: int, c_out: int, kernels: Sequence[int]) -> None:
        super().__init__()
        half = c_in // 2
        self.cv1 = Conv(c_in, half, 1)
        self.cv2 = Conv(half * (len(kernels) + 1), c_out, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        x = self.cv1(x)
        return self.cv2(torch.cat((x, *(pool(x) for pool in self.m)), 1))


class Focus(nn.Module):
    """Turns 2x2 pixels into channels, then convolves."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = Conv(4 * c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), 1))


class Concat(nn.Module):
    """Joins pictures over channels."""

    def forward(self, *pictures: Tensor) -> Tensor:
        """Pictures of one size -> (B, sum of channels, H, W)."""
        return torch.cat(pictures, 1)


class Head(nn.Module):
    """One 1x1 convolution per level.

    Buffers, as in the published checkpoints: `anchors` (L, A, 2) width and height in cells, `anchor_grid`
    (L, 1, A, 1, 1, 2) in pixels.
    """

    anchors: Tensor
    anchor_grid: Tensor

    def __init__(self, channels: Sequence[int], outputs: int, anchors: Tensor, strides: Sequence[int]) -> None:
        super().__init__()
        levels, per_cell, _ = anchors.shape
        self.m = nn.ModuleList(nn.Conv2d(c, per_cell * outputs, 1) for c in channels)
        self.register_buffer("anchors", anchors / anchors.new_tensor(strides).view(-1, 1, 1))
        self.register_buffer("anchor_grid", anchors.clone().view(levels, 1, per_cell, 1, 1, 2))

    def forward(self, *pictures: Tensor) -> list[Tensor]:
        """L raw outputs (B, A, C, ny, nx), before the logistic."""
        outputs = [conv(picture) for conv, picture in zip(self.m, pictures, strict=True)]
        return [rearrange(out, "b (a c) y x -> b a c y x", a=self.anchors.shape[1]) for out in outputs]


class CSPPose(nn.Module):
    """KAPAO's network.

    Args:
        num_keypoints: K.
        width: multiple of the base channels.
        depth: multiple of the base repeats.
        channels: base channels of the focus layer (stride 2) and of the stages after it (strides 4, 8, ...).
        repeats: base bottlenecks of each stage's block.
        neck_repeats: base bottlenecks of each block of the neck.
        anchors: per level, A pairs (width, height) in pixels times 1 / `anchor_scale`; the levels are the last stages.
        anchor_scale: factor from the pixels that `anchors` are given in to pixels of the input.
        spp_kernels: max pools of the deepest stage.
        norm_eps: of the batch normalisation.
        norm_momentum: of the batch normalisation.
        prior: initial head biases: `objects` expected in a picture of `image_size` pixels, `class_share` over the
            number of classes minus `class_margin`.
        keypoint_confidence: K outputs more per anchor, the confidences of a pose's keypoints (ours).

    Raises:
        ValueError: if the lists do not fit each other.
    """

    def __init__(
        self,
        num_keypoints: int,
        width: float,
        depth: float,
        channels: Sequence[int],
        repeats: Sequence[int],
        neck_repeats: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        anchor_scale: float,
        spp_kernels: Sequence[int],
        norm_eps: float,
        norm_momentum: float,
        prior: dict[str, float],
        keypoint_confidence: bool = False,
    ) -> None:
        super().__init__()
        _check_lists(channels, repeats, anchors)
        self.num_keypoints = num_keypoints
        self.keypoint_confidence = keypoint_confidence
        self.strides = tuple(2 ** (len(channels) - len(anchors) + level + 1) for level in range(len(anchors)))
        self.model = nn.ModuleList()
        self.sources: list[tuple[int, ...]] = []
        wide = scaled_channels(channels, width)
        stages = self._trunk(wide, scaled_repeats(repeats, depth), spp_kernels)
        heads = self._neck(wide, stages, len(anchors), scaled_repeats([neck_repeats], depth)[0])
        sizes = torch.tensor([[list(pair) for pair in level] for level in anchors], dtype=torch.float32)
        head = Head(wide[-len(anchors) :], self.num_outputs, sizes * anchor_scale, self.strides)
        self._add(head, *heads)
        self._init_norms(norm_eps, norm_momentum)
        self._init_head(**prior)

    @property
    def num_classes(self) -> int:
        """The pose class and one class per keypoint."""
        return self.num_keypoints + 1

    @property
    def num_outputs(self) -> int:
        """C, outputs per anchor."""
        return FIRST_CLASS + self.num_classes + (3 if self.keypoint_confidence else 2) * self.num_keypoints

    @property
    def head(self) -> Head:
        """The last block."""
        head = self.model[-1]
        assert isinstance(head, Head)
        return head

    @property
    def anchors(self) -> Tensor:
        """(L, A, 2) width and height in pixels of the input."""
        return self.head.anchor_grid.flatten(0, 1).flatten(1, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw outputs of images in 0..1.

        Args:
            images: (B, 3, H, W) RGB, H and W multiples of the largest stride.

        Returns:
            L tensors (B, A, C, ny, nx), before the logistic; finest level first.
        """
        outputs: list[Tensor] = []
        result: list[Tensor] = []
        for block, sources in zip(self.model, self.sources, strict=True):
            result = block(*(images if source < 0 else outputs[source] for source in sources))
            outputs.append(result)  # type: ignore[arg-type]
        return result

    def _add(self, block: nn.Module, *sources: int) -> int:
        """Appends a block that reads the outputs of blocks `sources` (-1: the picture); returns its number."""
        self.model.append(block)
        self.sources.append(sources)
        return len(self.model) - 1

    def _trunk(self, wide: Sequence[int], repeats: Sequence[int], spp_kernels: Sequence[int]) -> list[int]:
        """Adds the trunk; returns the number of each stage's last block."""
        last = self._add(Focus(3, wide[0]), -1)
        stages = []
        for stage, (c_in, c_out, count) in enumerate(zip(wide, wide[1:], repeats, strict=False)):
            last = self._add(Conv(c_in, c_out, 3, 2), last)
            deepest = stage == len(repeats) - 1
            if deepest:
                last = self._add(SPP(c_out, c_out, spp_kernels), last)
            last = self._add(C3(c_out, c_out, count, shortcut=not deepest), last)
            stages.append(last)
        return stages

    def _neck(self, wide: Sequence[int], stages: Sequence[int], levels: int, repeats: int) -> list[int]:
        """Adds the top-down and the bottom-up path; returns the number of each level's last block."""
        wide = wide[-levels:]
        stages = stages[-levels:]
        last, laterals = stages[-1], []
        for level in reversed(range(levels - 1)):
            laterals.append(self._add(Conv(wide[level + 1], wide[level], 1), last))
            up = self._add(nn.Upsample(scale_factor=2, mode="nearest"), laterals[-1])
            joined = self._add(Concat(), up, stages[level])
            last = self._add(C3(2 * wide[level], wide[level], repeats, shortcut=False), joined)
        heads = [last]
        for level, lateral in enumerate(reversed(laterals)):
            down = self._add(Conv(wide[level], wide[level], 3, 2), last)
            joined = self._add(Concat(), down, lateral)
            last = self._add(C3(2 * wide[level], wide[level + 1], repeats, shortcut=False), joined)
            heads.append(last)
        return heads

    def _init_norms(self, eps: float, momentum: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = eps, momentum

    @torch.no_grad()
    def _init_head(self, objects: float, image_size: float, class_share: float, class_margin: float) -> None:
        """Starts objectness and classes near their expected frequencies."""
        for conv, stride in zip(self.head.m, self.strides, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bias = conv.bias.view(-1, self.num_outputs)
            bias[:, OBJECTNESS] += math.log(objects / (image_size / stride) ** 2)
            classes = slice(FIRST_CLASS, FIRST_CLASS + self.num_classes)
            bias[:, classes] += math.log(class_share / (self.num_classes - class_margin))


def scaled_channels(channels: Sequence[int], width: float) -> list[int]:
    """Base channels times the width, rounded up to multiples of 8."""
    return [8 * math.ceil(width * base / 8) for base in channels]


def scaled_repeats(repeats: Sequence[int], depth: float) -> list[int]:
    """Base repeats times the depth, rounded, at least 1."""
    return [max(round(base * depth), 1) for base in repeats]


def _check_lists(channels: Sequence[int], repeats: Sequence[int], anchors: Sequence[Sequence[Sequence[float]]]) -> None:
    if len(repeats) != len(channels) - 1:
        raise ValueError(f"net.repeats needs one entry per stage, {len(channels) - 1}, but has {len(repeats)}")
    if not 2 <= len(anchors) <= len(repeats):
        raise ValueError(f"net.anchors has {len(anchors)} levels; with {len(repeats)} stages 2 to {len(repeats)} fit")
    if len({len(level) for level in anchors}) != 1:
        raise ValueError("net.anchors: every level needs the same number of anchors")
