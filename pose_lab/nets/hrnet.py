"""HRNet: branches of several resolutions side by side, which exchange their features again and again.

Parts are named as in the published checkpoints (and in timm), so that those load by name. Shape letters: B images, C
the width, i.e. the channels of the finest branch; branch b has 2^b C channels at stride 2^(b + 2).

Source: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019
(arXiv 1902.09212), and the published networks of the methods that are built on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # of the finest branch


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, channels, dilation=dilation, groups=groups)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3(channels, channels, dilation=dilation, groups=groups)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + x, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, which is a 1x1 convolution where the channels change."""

    def __init__(self, c_in: int, channels: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = nn.Identity() if c_in == c_out else pointwise(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class Exchange(nn.Module):
    """Basic blocks in every branch, then every branch becomes the sum of all.

    Args:
        channels: of the branches, finest first.
        blocks: in each branch.
        outputs: how many branches are given out, finest first.
    """

    def __init__(self, channels: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fusion(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map per branch -> one per output."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self._fused(layers, maps, target) for target, layers in enumerate(self.fuse_layers)]

    @staticmethod
    def _fused(layers: nn.Module, maps: Sequence[Tensor], target: int) -> Tensor:
        total = None
        for source, (layer, x) in enumerate(zip(layers, maps, strict=True)):  # type: ignore[call-overload]
            y = layer(x)
            if source > target:
                y = F.interpolate(y, scale_factor=2.0 ** (source - target), mode="nearest")
            total = y if total is None else total + y
        assert total is not None
        return F.relu(total)


class HRNet(nn.Module):
    """The trunk.

    Args:
        width: C.
        modules: exchanges of the stages after the first; stage s has s branches.
        blocks: basic blocks in each branch of an exchange.
        stem: channels of the two first convolutions and within the bottlenecks.
        stem_blocks: bottlenecks of the first stage.
        all_outputs: whether the last exchange gives all branches or the finest alone.
        norm_momentum: of the batch normalisation.
    """

    def __init__(
        self,
        width: int,
        modules: Sequence[int],
        blocks: int,
        stem: int,
        stem_blocks: int,
        all_outputs: bool,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        self.widths = tuple(width * 2**branch for branch in range(len(modules) + 1))
        self.conv1 = _conv3(3, stem, stride=2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = _conv3(stem, stem, stride=2)
        self.bn2 = nn.BatchNorm2d(stem)
        wide = 4 * stem  # of the bottlenecks' outputs
        self.layer1 = nn.Sequential(*(Bottleneck(wide if n else stem, stem, wide) for n in range(stem_blocks)))
        self.stages = range(2, len(modules) + 2)
        for stage, count in zip(self.stages, modules, strict=True):
            self.add_module(f"transition{stage - 1}", _transition(self.widths, stage, wide))
            outputs = [stage] * (count - 1) + [stage if all_outputs or stage < self.stages[-1] else 1]
            exchanges = (Exchange(self.widths[:stage], blocks, count) for count in outputs)
            self.add_module(f"stage{stage}", nn.Sequential(*exchanges))
        self.trunk = tuple(name for name, _ in self.named_children())
        set_norms(self, norm_momentum)

    @property
    def stride(self) -> int:
        """Sides of pictures are multiples of it: of the coarsest branch."""
        return STRIDE * 2 ** (len(self.widths) - 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of normalised images.

        Args:
            images: (B, 3, H, W) RGB, H and W multiples of `stride`.

        Returns:
            (B, 2^b C, H / 2^(b + 2), W / 2^(b + 2)) for each branch b, or for the finest alone.
        """
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for stage in self.stages:
            branches = self.get_submodule(f"transition{stage - 1}").children()
            # a new branch starts from the coarsest one
            maps = [branch(maps[min(b, len(maps) - 1)]) for b, branch in enumerate(branches)]
            maps = self.get_submodule(f"stage{stage}")(maps)
        return maps

    def trunk_state(self) -> dict[str, Tensor]:
        """The trunk's part of the state."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.split(".")[0] in self.trunk}


def _transition(widths: Sequence[int], stage: int, stem: int) -> nn.ModuleList:
    """Makes the branches of a stage from those of the one before; `stem` channels come into the second stage."""
    if stage == 2:
        return nn.ModuleList([_downsampled(stem, widths[0], stride=1), nn.Sequential(_downsampled(stem, widths[1]))])
    new = nn.Sequential(_downsampled(widths[stage - 2], widths[stage - 1]))
    return nn.ModuleList([*(nn.Identity() for _ in range(stage - 1)), new])


def _fusion(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """How a branch enters another one; enlarging comes afterwards."""
    c_in, c_out = channels[source], channels[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return pointwise(c_in, c_out)
    steps = [_downsampled(c_in, c_in) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _downsampled(c_in, c_out)[:2])


def _conv3(c_in: int, c_out: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def _downsampled(c_in: int, c_out: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(_conv3(c_in, c_out, stride), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def pointwise(c_in: int, c_out: int) -> nn.Sequential:
    """1x1 convolution and batch normalisation."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


def set_norms(net: nn.Module, momentum: float) -> None:
    """Sets the momentum of all batch normalisations."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def init_normal(net: nn.Module, std: float) -> None:
    """Draws the weights of all ordinary convolutions from a normal distribution; biases are 0.

    Source: the published code of HRNet and its successors (standard deviation 0.001).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
