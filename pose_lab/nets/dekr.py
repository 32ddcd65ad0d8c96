"""DEKR's network: HRNet with a heatmap head and, for every keypoint, a branch that regresses its offset.

The branches of all keypoints lie side by side in the channels and run as grouped convolutions; `checkpoints/dekr.py`
knows the published names. Shape letters: B images, K keypoints, G branches, h x w cells (stride 4).

Source: Geng et al., "Bottom-Up Human Pose Estimation Via Disentangled Keypoint Regression", CVPR 2021
(arXiv 2104.02300), and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from pose_lab.nets.hrnet import BasicBlock, HRNet, init_normal, pointwise, set_norms

POSE = 6  # numbers that move the taps: a 2x2 matrix, row by row, and a shift, y before x

Convolution = Literal["adaptive", "plain", "basic"]


class AdaptiveBlock(nn.Module):
    """A 3x3 convolution whose taps are moved by an affine map that the input decides, around a shortcut.

    Tap r = (y, x) of the regular 3x3 grid samples position p + A r + t; A and t come from a 3x3 convolution, whose
    affine dependence on them is folded into its weights. Outside the map there is 0.

    Args:
        channels: of all branches.
        branches: G.
    """

    regular: Tensor
    unfold: Tensor

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        width = channels // branches
        self.branches = branches
        self.pose_weight = nn.Parameter(torch.zeros(branches * POSE, width, 3, 3))
        self.pose_bias = nn.Parameter(torch.zeros(branches * POSE))
        self.weight = nn.Parameter(torch.empty(channels, width, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # published: torchvision's own
        self.bn = nn.BatchNorm2d(channels)
        taps = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))  # (9, 2) y, x
        self.register_buffer("regular", taps.flatten(), persistent=False)
        self.register_buffer("unfold", _taps_by_pose(taps), persistent=False)

    def sampling_offsets(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 18 G, h, w): how far each tap is from its regular place, (y, x) per tap."""
        unfold, regular = (part.to(self.pose_weight.dtype) for part in (self.unfold, self.regular))
        weight = unfold @ self.pose_weight.reshape(self.branches, POSE, -1)
        bias = self.pose_bias.view(self.branches, POSE) @ unfold.T - regular
        weight = weight.view(-1, *self.pose_weight.shape[1:])
        return F.conv2d(x, weight, bias.flatten(), padding=1, groups=self.branches)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        y = deformed(x, self.sampling_offsets(x), self.weight)
        return F.relu(self.bn(y) + x, inplace=True)


def deformed(x: Tensor, sampling_offsets: Tensor, weight: Tensor) -> Tensor:
    """Grouped deformable 3x3 convolution; outside the map there is 0.

    torchvision's kernel is made for GPUs. On CPUs sampling and a matrix product do the same many times faster. Places
    are computed in float32: from 128 on, float16 would round them to an eighth of a cell, bfloat16 to a whole one.

    Args:
        x: (B, C, h, w).
        sampling_offsets: (B, 18 G, h, w), (y, x) per tap.
        weight: (C, C / G, 3, 3).

    Returns:
        (B, C, h, w)
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    if x.is_cuda:
        return deform_conv2d(x.to(exact), sampling_offsets.to(exact), weight.to(exact), padding=1).to(x.dtype)
    images, channels, height, width = x.shape
    branches, taps = channels // weight.shape[1], weight[0, 0].numel()
    moved = sampling_offsets.to(exact).reshape(images * branches, taps, 2, height, width)
    axes = (torch.arange(side, dtype=exact, device=x.device) for side in (height, width))
    steps = torch.arange(-1, 2, dtype=exact, device=x.device)
    row, column = (axis + steps[:, None] for axis in axes)  # (3, h), (3, w)
    down = moved[:, :, 0].unflatten(1, (3, 3)) + row[:, None, :, None]
    across = moved[:, :, 1].unflatten(1, (3, 3)) + column[:, None]
    # grid_sample counts from the map's borders, -1 to 1
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], -1)
    groups = x.to(exact).reshape(images * branches, -1, height, width)
    sampled = F.grid_sample(groups, grid.flatten(1, 3), align_corners=False)
    columns = sampled.view(images, branches, -1, height * width).to(weight.dtype)
    return (weight.reshape(branches, channels // branches, -1) @ columns).view(x.shape)


def _taps_by_pose(taps: Tensor) -> Tensor:
    """(18, 6): the taps' places A r + t as a linear function of A, row by row, and t."""
    zeros, one = torch.zeros_like(taps), torch.ones(len(taps), 1)
    y = torch.cat([taps, zeros, one, 0 * one], 1)
    x = torch.cat([zeros, taps, 0 * one, one], 1)
    return torch.stack([y, x], 1).flatten(0, 1)


class PlainBlock(nn.Module):
    """A 3x3 convolution around a shortcut: what an adaptive block would be with its taps in their regular places."""

    def __init__(self, channels: int, branches: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=branches, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return F.relu(self.bn(self.conv(x)) + x, inplace=True)


class DEKRNet(HRNet):
    """The network.

    Args:
        num_keypoints: K.
        width, modules, blocks, stem, stem_blocks, norm_momentum: see `HRNet`.
        heatmap_channels: of the heatmap head; None: the trunk's width.
        offset_channels: of each keypoint's branch.
        offset_blocks: in each branch.
        convolution: `adaptive`; `plain`: ordinary convolutions; `basic`: two of them (super-gradients).
        dilation: of ordinary convolutions.
        separate: one branch per keypoint; otherwise one for all, as wide as they are together.
        init_std: of the initial weights of ordinary convolutions.

    Raises:
        ValueError: there is no such convolution.
    """

    def __init__(
        self,
        num_keypoints: int,
        width: int,
        modules: Sequence[int],
        blocks: int,
        stem: int,
        stem_blocks: int,
        heatmap_channels: int | None,
        offset_channels: int,
        offset_blocks: int,
        convolution: Convolution,
        dilation: int,
        separate: bool,
        norm_momentum: float,
        init_std: float,
    ) -> None:
        super().__init__(width, modules, blocks, stem, stem_blocks, all_outputs=True, norm_momentum=norm_momentum)
        self.num_keypoints = num_keypoints
        features, heat, offset = sum(self.widths), heatmap_channels or width, offset_channels * num_keypoints
        self.transition_heatmap = nn.Sequential(*pointwise(features, heat), nn.ReLU(inplace=True))
        self.head_heatmap = nn.Sequential(nn.Sequential(BasicBlock(heat)), nn.Conv2d(heat, num_keypoints + 1, 1))
        self.transition_offset = nn.Sequential(*pointwise(features, offset), nn.ReLU(inplace=True))
        branches = num_keypoints if separate else 1
        layers = (_offset_block(convolution, offset, branches, dilation) for _ in range(offset_blocks))
        self.offset_features = nn.Sequential(*layers)
        self.offset_final = nn.Conv2d(offset, 2 * num_keypoints, 1, groups=branches)
        self.rescorer: Rescorer | None = None  # the method adds one where it rescores
        set_norms(self, norm_momentum)
        init_normal(self, init_std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps of normalised images.

        Args:
            images: (B, 3, H, W) RGB, H and W multiples of `stride`.

        Returns:
            (B, K + 1, H / 4, W / 4) heatmaps, the centre's last, and (B, 2 K, H / 4, W / 4) offsets: cell minus
            keypoint, x and y of each, in cells.
        """
        finest, *coarser = self.features(images)
        size = finest.shape[2:]
        enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in coarser]
        features = torch.cat([finest, *enlarged], 1)
        heatmaps = self.head_heatmap(self.transition_heatmap(features))
        offsets = self.offset_final(self.offset_features(self.transition_offset(features)))
        return heatmaps, offsets


def _offset_block(convolution: Convolution, channels: int, branches: int, dilation: int) -> nn.Module:
    if convolution == "adaptive":
        return AdaptiveBlock(channels, branches)
    if convolution == "plain":
        return PlainBlock(channels, branches, dilation)
    if convolution == "basic":
        return BasicBlock(channels, dilation, branches)
    raise ValueError(f"net.convolution is {convolution!r}; there are: adaptive, plain, basic")


class Rescorer(nn.Module):
    """Tells from a pose's shape and its keypoints' scores how well it fits: the factor on its score.

    Args:
        features: see `methods.dekr_rescoring.pose_features`.
        hidden: width of the two hidden layers.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(features, hidden)
        self.l2 = nn.Linear(hidden, hidden)
        self.l3 = nn.Linear(hidden, 1)
        for layer in (self.l1, self.l2, self.l3):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # published
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) -> (...)."""
        return self.l3(F.relu(self.l2(F.relu(self.l1(features)))))[..., 0]
