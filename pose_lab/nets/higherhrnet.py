"""HigherHRNet's network: HRNet's finest branch, heatmaps and tags of it, then finer features and heatmaps again.

Parts are named as in the published checkpoints. Shape letters: B images, K keypoints, C the trunk's width, h x w cells
(stride 4).

Source: Cheng et al., "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose Estimation", CVPR 2020
(arXiv 1908.10357), and its published code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pose_lab.nets.hrnet import STRIDE, BasicBlock, HRNet, init_normal, set_norms


class HigherHRNet(HRNet):
    """The network.

    Args:
        num_keypoints: K.
        width, modules, blocks, stem, stem_blocks, norm_momentum: see `HRNet`.
        enlargements: how often features are enlarged twofold by a transposed convolution; 0: none, i.e. HRNet with
            associative embedding.
        residual_blocks: basic blocks after each enlargement.
        concatenate: whether enlargements see heatmaps (and tags) beside the features.
        init_std: of the initial weights of convolutions.
    """

    def __init__(
        self,
        num_keypoints: int,
        width: int,
        modules: Sequence[int],
        blocks: int,
        stem: int,
        stem_blocks: int,
        enlargements: int,
        residual_blocks: int,
        concatenate: bool,
        norm_momentum: float,
        init_std: float,
    ) -> None:
        super().__init__(width, modules, blocks, stem, stem_blocks, all_outputs=False, norm_momentum=norm_momentum)
        if not 0 <= enlargements < STRIDE.bit_length():
            raise ValueError(f"net.enlargements is {enlargements}, but must lie in 0..{STRIDE.bit_length() - 1}")
        self.num_keypoints, self.concatenate = num_keypoints, concatenate
        outputs = [2 * num_keypoints] + [num_keypoints] * enlargements
        self.final_layers = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in outputs)
        seen = (width + channels if concatenate else width for channels in outputs[:-1])
        self.deconv_layers = nn.ModuleList(_enlargement(channels, width, residual_blocks) for channels in seen)
        set_norms(self, norm_momentum)
        init_normal(self, init_std)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the heatmaps, in the order of `forward`."""
        return tuple(STRIDE // 2**number for number in range(len(self.final_layers)))

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Raw maps of normalised images.

        Args:
            images: (B, 3, H, W) RGB, H and W multiples of `stride`.

        Returns:
            heatmaps, coarsest first: (B, K, H / 4, W / 4), (B, K, H / 2, W / 2), ... by `strides`; and tags
            (B, K, H / 4, W / 4).
        """
        (features,) = self.features(images)
        first, *finer = self.final_layers
        found = first(features)
        maps = list(found.split(self.num_keypoints, 1))
        heatmaps, tags = maps[:1], maps[1]
        for enlarge, layer in zip(self.deconv_layers, finer, strict=True):
            features = enlarge(torch.cat([features, found], 1) if self.concatenate else features)
            found = layer(features)
            heatmaps.append(found)
        return heatmaps, tags


def _enlargement(c_in: int, c_out: int, blocks: int) -> nn.Sequential:
    """Twice the height and width, then basic blocks."""
    enlarge = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
    first = nn.Sequential(enlarge, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))
    return nn.Sequential(first, *(nn.Sequential(BasicBlock(c_out)) for _ in range(blocks)))
