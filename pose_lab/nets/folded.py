"""Networks in the form that is fastest at inference."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# for `net.compile(options=FREEZING)`: the compiler takes the weights as constants and joins activations to convolutions
FREEZING = {"freezing": True}

Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net, dtype: torch.dtype = torch.float32) -> Net:
    """A copy for inference: batch normalisation is part of the convolution before it, channels lie last.

    The scale and shift of an evaluated batch normalisation are linear, so they move into the weights (Jacob et al.,
    CVPR 2018, section 3.2); the outputs differ by rounding only. Folded is every `BatchNorm2d` that its parent module
    registers right after a `Conv2d`: networks register them in the order of use.

    Args:
        net: stays as it is.
        dtype: of the weights and of the pictures, which are converted on the way in; buffers (anchors) and a
            `BatchNorm2d` that is left keep theirs.

    Returns:
        The copy, in evaluation mode, without gradients.
    """
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    net.requires_grad_(False)
    for module in net.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    net.register_forward_pre_hook(_Converted(dtype))
    return net.to(memory_format=torch.channels_last)


class _Converted:
    """Gives a network its pictures in the type of its weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, net: nn.Module, images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(image.to(self.dtype, memory_format=torch.channels_last) for image in images)
