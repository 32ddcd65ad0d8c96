"""Keypoint sets: the order, left/right pairs, limbs and OKS constants of every supported skeleton.

A skeleton is the only place that knows how many keypoints there are and what they are called; everything else
takes one as an argument or reads its lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Skeleton:
    """A named set of K keypoints.

    Attributes:
        name: the name used in configs (`data.skeleton`).
        keypoints: K names in annotation order; left/right partners differ only in the prefix `left_` / `right_`.
        limbs: pairs of keypoint indices that are drawn, and used by limb-based methods.
        sigmas: K OKS constants (COCO's sigma_k; the similarity uses (2 sigma_k)^2).
        uncounted: keypoints that the data set leaves out of `num_keypoints` (CrowdPose: head and neck).
        source: where the numbers come from.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    source: str
    uncounted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.keypoints):
            raise ValueError(f"skeleton {self.name}: {len(self.sigmas)} sigmas for {len(self.keypoints)} keypoints")

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip(self) -> tuple[int, ...]:
        """The permutation (K,) that exchanges left and right: keypoint k of a mirrored person is keypoint flip[k]."""
        index = {name: k for k, name in enumerate(self.keypoints)}
        return tuple(index[_mirrored(name)] for name in self.keypoints)

    @cached_property
    def counted(self) -> tuple[bool, ...]:
        """(K,) whether a keypoint counts towards `num_keypoints`."""
        return tuple(name not in self.uncounted for name in self.keypoints)


def _mirrored(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name


def _limbs(keypoints: tuple[str, ...], *chains: str) -> tuple[tuple[int, int], ...]:
    """Index pairs of consecutive names in each chain, e.g. "left_hip left_knee left_ankle"."""
    index = {name: k for k, name in enumerate(keypoints)}
    names = [chain.split() for chain in chains]
    return tuple((index[a], index[b]) for chain in names for a, b in pairwise(chain))


_COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
_CROWDPOSE_KEYPOINTS = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
)  # fmt: skip
_BODY = (
    "left_wrist left_elbow left_shoulder left_hip left_knee left_ankle",
    "right_wrist right_elbow right_shoulder right_hip right_knee right_ankle",
    "left_hip right_hip",
)
_PAIRED_BODY_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089)

COCO = Skeleton(
    name="coco",
    keypoints=_COCO_KEYPOINTS,
    limbs=_limbs(
        _COCO_KEYPOINTS,
        *_BODY,
        "left_shoulder right_shoulder",
        "left_eye right_eye",
        "nose left_eye left_ear left_shoulder",
        "nose right_eye right_ear right_shoulder",
    ),
    sigmas=(0.026, 0.025, 0.025, 0.035, 0.035, *_PAIRED_BODY_SIGMAS),
    source="COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval",
)

CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoints=_CROWDPOSE_KEYPOINTS,
    limbs=_limbs(_CROWDPOSE_KEYPOINTS, *_BODY, "left_shoulder neck right_shoulder", "head neck"),
    sigmas=(*_PAIRED_BODY_SIGMAS, 0.079, 0.079),
    source="CrowdPose (Li et al., CVPR 2019), evaluation package",
    uncounted=("head", "neck"),
)

SKELETONS: dict[str, Skeleton] = {skeleton.name: skeleton for skeleton in (COCO, CROWDPOSE)}


def skeleton(name: str) -> Skeleton:
    """The skeleton called `name`.

    Raises:
        ValueError: if there is none; the message lists the names.
    """
    if name not in SKELETONS:
        raise ValueError(f"no skeleton is called {name!r}; there are: {', '.join(SKELETONS)}")
    return SKELETONS[name]
