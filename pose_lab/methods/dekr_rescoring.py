"""DEKR's rescoring: a small network learns from a pose's shape and keypoint scores how well it fits its person.

Geng et al., CVPR 2021 (arXiv 2104.02300), section 3.3 and the published code. Shape letters: P poses, N annotated
people, K keypoints, L links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pose_lab.checkpoints.filling import fill
from pose_lab.checkpoints.reading import open_weights
from pose_lab.nets.dekr import Rescorer
from pose_lab.ops.oks import People, keypoint_similarity, pair_up
from pose_lab.poses import Instances
from pose_lab.skeletons import Skeleton

Table = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Rescoring:
    """The rescoring network, and how it is learnt.

    Attributes:
        learn: `never`; `jointly`: with DEKR, from the people it finds in training pictures; `alone`: the same with
            everything else as it is.
        weights: a published checkpoint of the rescoring network, or None.
        hidden: width of its layers.
        loss: factor on the mean squared error.
        links: by skeleton, pairs of keypoints whose differences describe a pose.
        torso: by skeleton, numbers of the links whose mean length is the pose's size.
    """

    learn: Literal["never", "jointly", "alone"]
    weights: str | None
    hidden: int
    loss: float
    links: Mapping[str, Table]
    torso: Mapping[str, Sequence[int]]

    def __post_init__(self) -> None:
        if self.learn not in ("never", "jointly", "alone"):
            raise ValueError(f"rescoring.learn is {self.learn!r}; there are: never, jointly, alone")

    @property
    def wanted(self) -> bool:
        """Whether there is a rescoring network."""
        return self.learn != "never" or self.weights is not None

    def network(self, skeleton: Skeleton) -> Rescorer:
        """The rescoring network of a skeleton, with the weights of `weights`.

        Raises:
            ValueError: the skeleton has no table of links or no OKS constants, or the weights do not fit.
        """
        missing = [name for name in ("links", "torso") if skeleton.name not in getattr(self, name)]
        if missing:
            raise ValueError(
                f"rescoring needs the links of skeleton {skeleton.name}: set rescoring.{missing[0]}.{skeleton.name}, "
                "or switch rescoring off (rescoring.learn=never)"
            )
        if skeleton.sigmas is None and self.learn != "never":
            raise ValueError(f"rescoring is learnt from OKS, but skeleton {skeleton.name} has no OKS constants")
        net = Rescorer(3 * len(self.links[skeleton.name]) + len(skeleton), self.hidden)
        if self.weights is not None:
            fill(net, open_weights(Path(self.weights).expanduser()))
        return net


def pose_features(keypoints: Tensor, scores: Tensor, links: Table, torso: Sequence[int]) -> Tensor:
    """What the network is told of poses, all lengths over the pose's size (at least a pixel).

    Args:
        keypoints: (P, K, 2) pixels of the original picture.
        scores: (P, K).
        links: L pairs of keypoints.
        torso: numbers of the links whose mean length is the size.

    Returns:
        (P, 3 L + K): differences x, y along each link, the links' lengths, the scores.
    """
    first, second = torch.tensor(links, device=keypoints.device).T
    difference = keypoints[:, first] - keypoints[:, second]
    length = difference.square().sum(-1).sqrt()
    size = length[:, list(torso)].mean(1, keepdim=True).clamp(min=1)
    return torch.cat([difference.flatten(1) / size, length / size, scores], 1)


def fits(
    image_index: Tensor, keypoints: Tensor, people: Instances, to_original: Tensor, sigmas: Sequence[float]
) -> Tensor:
    """(P,) each pose's greatest OKS with the people of its image that have labelled keypoints; 0 without any.

    Args:
        image_index: (P,) int64.
        keypoints: (P, K, 2) pixels of the original picture.
        people: annotated, pixels of the input.
        to_original: (B, 2, 3) from pixels of the input to original pixels.
        sigmas: (K,) OKS constants.
    """
    people = people[people.labelled.any(1) & ~people.ignore]
    maps = to_original[people.image_index].double()
    points = people.keypoints[..., :2].double() @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]
    annotated = People(
        keypoints=torch.cat([points, people.labelled.double()[..., None]], -1),
        areas=people.areas.double() * torch.linalg.det(maps[:, :, :2]).abs(),
        boxes=people.boxes.double(),
    )
    bounds = torch.arange(len(to_original) + 1, device=image_index.device)
    pairs = pair_up(image_index, torch.searchsorted(people.image_index, bounds))
    constants = torch.tensor(sigmas, dtype=torch.float64, device=keypoints.device)
    similarity = keypoint_similarity(pairs, keypoints.double(), annotated, constants)
    return similarity.new_zeros(len(keypoints)).scatter_reduce_(0, pairs.detection, similarity, "amax").float()
