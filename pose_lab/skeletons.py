"""Keypoint sets: the order, left/right pairs, limbs and OKS constants of every supported skeleton.

A skeleton is the only place that knows how many keypoints there are and what they are called; everything else
takes one as an argument or reads its lengths. A name stands for one place of the body: where a data set's files call it
otherwise, the table says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Skeleton:
    """A named set of K keypoints.

    Attributes:
        name: the name used in configs (`data.skeleton`).
        keypoints: K names in annotation order; left/right partners differ only in the prefix `left_` / `right_`.
        limbs: pairs of keypoint indices that are drawn, and used by limb-based methods.
        sigmas: K OKS constants (COCO's sigma_k; the similarity uses (2 sigma_k)^2); None where none are published.
        source: where the numbers come from.
        uncounted: keypoints that the data set leaves out of `num_keypoints` (CrowdPose: head and neck).
        parts: keypoints that are evaluated by themselves, by the part's name (COCO-WholeBody).
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...] | None
    source: str
    uncounted: tuple[str, ...] = ()
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.sigmas is not None and len(self.sigmas) != len(self.keypoints):
            raise ValueError(f"skeleton {self.name}: {len(self.sigmas)} sigmas for {len(self.keypoints)} keypoints")

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def index(self) -> dict[str, int]:
        """Where each keypoint stands."""
        return {name: k for k, name in enumerate(self.keypoints)}

    @cached_property
    def flip(self) -> tuple[int, ...]:
        """The permutation (K,) that exchanges left and right: keypoint k of a mirrored person is keypoint flip[k]."""
        return tuple(self.index[mirrored(name)] for name in self.keypoints)

    @cached_property
    def counted(self) -> tuple[bool, ...]:
        """(K,) whether a keypoint counts towards `num_keypoints`."""
        return tuple(name not in self.uncounted for name in self.keypoints)

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """(K,) OKS constants.

        Raises:
            ValueError: if nobody published any.
        """
        if self.sigmas is None:
            raise ValueError(
                f"skeleton {self.name} has no OKS constants ({self.source}): use the metrics of that data set, or show "
                "the data as a skeleton that has them (`data.skeleton=coco`)"
            )
        return self.sigmas


def mirrored(name: str) -> str:
    """The keypoint's partner on the other side; itself if it lies in the middle."""
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name


def _skeleton(
    name: str,
    keypoints: Sequence[str],
    limbs: Sequence[str],
    sigmas: Sequence[float] | None,
    source: str,
    uncounted: Sequence[str] = (),
    parts: Sequence[tuple[str, Sequence[str]]] = (),
) -> Skeleton:
    """A skeleton from lines of names; limbs are chains of them, e.g. "left_hip left_knee left_ankle"."""
    names = _words(keypoints)
    pairs = [(names.index(a), names.index(b)) for chain in limbs for a, b in pairwise(chain.split())]
    groups = tuple((part, _words(lines)) for part, lines in parts)
    constants = None if sigmas is None else tuple(sigmas)
    return Skeleton(name, names, tuple(pairs), constants, source, _words(uncounted), groups)


def _words(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


def _numbered(stem: str, numbers: Iterable[int]) -> str:
    """A line of names: stem_1 stem_2 ..."""
    return " ".join(f"{stem}_{number}" for number in numbers)


def _closed(chain: str) -> str:
    return f"{chain} {chain.split()[0]}"


# Body: what most sets share, in COCO's order
_HEAD = "nose left_eye right_eye left_ear right_ear"
_BODY = (
    "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
_HEAD_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035)
_BODY_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089)
_SIDES = (
    "left_wrist left_elbow left_shoulder left_hip left_knee left_ankle",
    "right_wrist right_elbow right_shoulder right_hip right_knee right_ankle",
)
_ARMS = "left_wrist left_elbow left_shoulder {} right_shoulder right_elbow right_wrist"
_LEGS = "left_ankle left_knee left_hip {} right_hip right_knee right_ankle"
_HEAD_LIMBS = ("left_eye right_eye", "nose left_eye left_ear", "nose right_eye right_ear")
_COCO_LIMBS = (
    *_SIDES,
    "left_hip right_hip",
    "left_shoulder right_shoulder",
    *_HEAD_LIMBS,
    "left_ear left_shoulder",
    "right_ear right_shoulder",
)
_FOOT_LIMBS = tuple(f"{s}_ankle {s}_{point}" for s in ("left", "right") for point in ("big_toe", "small_toe", "heel"))

# Face: 68 points in the order of 300-W, jaw from the person's right ear to the left one, brows, nose, eyes, mouth
_JAW = f"{_numbered('right_jaw', range(1, 9))} chin {_numbered('left_jaw', range(8, 0, -1))}"
_BROWS = (_numbered("right_brow", range(1, 6)), _numbered("left_brow", range(5, 0, -1)))
_RIDGE = _numbered("nose_ridge", range(1, 5))
_NOSTRILS = "right_nostril_1 right_nostril_2 nose_base left_nostril_2 left_nostril_1"
_LIDS = (_numbered("right_lid", range(1, 7)), _numbered("left_lid", (4, 3, 2, 1, 6, 5)))
_LIPS = (
    "right_lip_1 right_lip_2 right_lip_3 upper_lip left_lip_3 left_lip_2 left_lip_1 "
    "left_lip_4 left_lip_5 lower_lip right_lip_5 right_lip_4"
)
_INNER_LIPS = (
    "right_inner_lip_1 right_inner_lip_2 upper_inner_lip left_inner_lip_2 left_inner_lip_1 "
    "left_inner_lip_3 lower_inner_lip right_inner_lip_3"
)
_FACE = " ".join([_JAW, *_BROWS, _RIDGE, _NOSTRILS, *_LIDS, _LIPS, _INNER_LIPS])
_FACE_LIMBS = (_JAW, *_BROWS, _RIDGE, _NOSTRILS, *map(_closed, (*_LIDS, _LIPS, _INNER_LIPS)))

# Hands: 21 points, the root, then four of each finger from the palm to its tip
_FINGER_NAMES = ("thumb", "index", "middle", "ring", "little")
_FINGERS = {s: [_numbered(f"{s}_{f}", range(1, 5)) for f in _FINGER_NAMES] for s in ("left", "right")}
_LEFT_HAND, _RIGHT_HAND = (" ".join([f"{s}_hand_root", *_FINGERS[s]]) for s in _FINGERS)
_HAND_LIMBS = (
    *(f"{s}_hand_root {finger}" for s in _FINGERS for finger in _FINGERS[s]),
    *(f"{s}_wrist {s}_hand_root" for s in _FINGERS),
)

COCO = _skeleton(
    name="coco",  # OCHuman's too
    keypoints=[_HEAD, _BODY],
    limbs=_COCO_LIMBS,
    sigmas=[*_HEAD_SIGMAS, *_BODY_SIGMAS],
    source="COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval",
)

CROWDPOSE = _skeleton(
    name="crowdpose",
    keypoints=[_BODY, "head neck"],  # head: its top
    limbs=[*_SIDES, "left_hip right_hip", "left_shoulder neck right_shoulder", "head neck"],
    sigmas=[*_BODY_SIGMAS, 0.079, 0.079],
    source="CrowdPose (Li et al., CVPR 2019), evaluation package",
    uncounted=["head neck"],
)

MPII = _skeleton(
    name="mpii",
    keypoints=[
        "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top",
        "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    ],
    limbs=[_ARMS.format("thorax"), _LEGS.format("pelvis"), "pelvis thorax upper_neck head_top"],
    sigmas=None,
    source="MPII Human Pose (Andriluka et al., CVPR 2014), which is scored by PCKh",
)

LSP = _skeleton(
    name="lsp",  # the extended training set's too
    keypoints=[
        "right_ankle right_knee right_hip left_hip left_knee left_ankle",
        "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist neck head_top",
    ],
    limbs=[*_SIDES, "left_hip right_hip", "left_shoulder neck right_shoulder", "neck head_top"],
    sigmas=None,
    source="Leeds Sports Pose (Johnson and Everingham, BMVC 2010), which is scored by PCP and PCK",
)

FLIC = _skeleton(
    name="flic",  # those columns of the file that are labelled
    keypoints=[
        "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist left_hip right_hip",
        "left_eye right_eye nose",
    ],
    limbs=[
        "left_wrist left_elbow left_shoulder left_hip right_hip right_shoulder right_elbow right_wrist",
        "left_shoulder right_shoulder",
        "left_eye nose right_eye",
    ],
    sigmas=None,
    source="FLIC (Sapp and Taskar, CVPR 2013), which is scored by PCK and PDJ",
)

_HALPE_MIDDLE = "head neck pelvis"  # head: its top; the data set's page calls the pelvis hip
_HALPE_FEET = "left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel"
_HALPE_LIMBS = [
    *_SIDES,
    "left_hip pelvis right_hip",
    "left_shoulder neck right_shoulder",
    "head neck pelvis",
    *_HEAD_LIMBS,
    *_FOOT_LIMBS,
]
_HALPE_SIGMAS = (*_HEAD_SIGMAS, *_BODY_SIGMAS, *[0.08] * 3, *[0.089] * 6)
_HALPE_SOURCE = (
    "Halpe-FullBody; sigmas of AlphaPose (Fang et al., TPAMI 2022), other codes use others; the files' num_keypoints "
    "counts COCO's keypoints"
)

HALPE26 = _skeleton(
    name="halpe26",
    keypoints=[_HEAD, _BODY, _HALPE_MIDDLE, _HALPE_FEET],
    limbs=_HALPE_LIMBS,
    sigmas=_HALPE_SIGMAS,
    source=_HALPE_SOURCE,
    uncounted=[_HALPE_MIDDLE, _HALPE_FEET],
)

HALPE136 = _skeleton(
    name="halpe136",
    keypoints=[_HEAD, _BODY, _HALPE_MIDDLE, _HALPE_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND],
    limbs=[*_HALPE_LIMBS, *_FACE_LIMBS, *_HAND_LIMBS],
    sigmas=[*_HALPE_SIGMAS, *[0.025] * (68 + 2 * 21)],
    source=_HALPE_SOURCE,
    uncounted=[_HALPE_MIDDLE, _HALPE_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND],
)

_WHOLEBODY_FEET = "left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel"
_WHOLEBODY_FOOT_SIGMAS = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
_WHOLEBODY_FACE_SIGMAS = (
    0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
    0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
    0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
    0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
    0.008, 0.008, 0.010, 0.008,
)  # fmt: skip
_WHOLEBODY_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.020, 0.019, 0.022, 0.031,
)  # fmt: skip

WHOLEBODY = _skeleton(
    name="wholebody",
    keypoints=[_HEAD, _BODY, _WHOLEBODY_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND],
    limbs=[*_COCO_LIMBS, *_FOOT_LIMBS, *_FACE_LIMBS, *_HAND_LIMBS],
    sigmas=[
        *(*_HEAD_SIGMAS, *_BODY_SIGMAS, *_WHOLEBODY_FOOT_SIGMAS, *_WHOLEBODY_FACE_SIGMAS),
        *(*_WHOLEBODY_HAND_SIGMAS, *_WHOLEBODY_HAND_SIGMAS),
    ],
    source="COCO-WholeBody (Jin et al., ECCV 2020), evaluation package",
    parts=[
        ("body", [_HEAD, _BODY]),
        ("foot", [_WHOLEBODY_FEET]),
        ("face", [_FACE]),
        ("left_hand", [_LEFT_HAND]),
        ("right_hand", [_RIGHT_HAND]),
        ("whole_body", [_HEAD, _BODY, _WHOLEBODY_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND]),
    ],
)

_AIC_SIGMAS = (
    0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642, 0.03686941,
    0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
)  # fmt: skip
AIC = _skeleton(
    name="aic",
    keypoints=[
        "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist",
        "right_hip right_knee right_ankle left_hip left_knee left_ankle head_top neck",
    ],
    limbs=[*_SIDES, "left_hip right_hip", "left_shoulder neck right_shoulder", "neck head_top"],
    sigmas=_AIC_SIGMAS,
    source="AI Challenger human keypoints (Wu et al., 2017), evaluation",
)

POSETRACK18 = _skeleton(
    name="posetrack18",  # the ears are always unlabelled
    keypoints=["nose head_bottom head_top left_ear right_ear", _BODY],
    limbs=[*_SIDES, "left_hip right_hip", "left_shoulder head_bottom right_shoulder", "head_bottom nose head_top"],
    sigmas=[*_HEAD_SIGMAS, *_BODY_SIGMAS],
    source=(
        "PoseTrack18 (Andriluka et al., CVPR 2018), which is scored by AP of PCKh matches and by MOTA; sigmas of COCO "
        "by position, as mmpose evaluates it"
    ),
)

JHMDB = _skeleton(
    name="jhmdb",
    keypoints=[
        "neck belly face right_shoulder left_shoulder right_hip left_hip right_elbow left_elbow right_knee left_knee",
        "right_wrist left_wrist right_ankle left_ankle",
    ],  # the files call the face head
    limbs=[_ARMS.format("neck"), _LEGS.format("belly"), "face neck belly"],
    sigmas=None,
    source="JHMDB (Jhuang et al., ICCV 2013), which is scored by PCK",
)

HUMAN36M = _skeleton(
    name="human36m",  # 17 of its 32 joints, as common in the literature
    keypoints=[
        "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax neck_base head_centre",
        "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist",
    ],  # the files call them root, right_foot, left_foot, head
    limbs=[_ARMS.format("thorax"), _LEGS.format("pelvis"), "pelvis spine thorax neck_base head_centre"],
    sigmas=None,
    source="Human3.6M (Ionescu et al., TPAMI 2014), which is scored by MPJPE",
)

MPI_INF_3DHP = _skeleton(
    name="mpi_inf_3dhp",
    keypoints=[
        "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist",
        "right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis spine head_centre",
    ],
    limbs=[_ARMS.format("neck"), _LEGS.format("pelvis"), "pelvis spine neck head_centre head_top"],
    sigmas=None,
    source="MPI-INF-3DHP (Mehta et al., 3DV 2017), which is scored by 3D PCK and MPJPE",
)

SKELETONS: dict[str, Skeleton] = {
    skeleton.name: skeleton
    for skeleton in (
        COCO, CROWDPOSE, MPII, LSP, FLIC, HALPE26, HALPE136, WHOLEBODY, AIC, POSETRACK18, JHMDB, HUMAN36M,
        MPI_INF_3DHP,
    )
}  # fmt: skip


def skeleton(name: str) -> Skeleton:
    """The skeleton called `name`.

    Raises:
        ValueError: if there is none; the message lists the names.
    """
    if name not in SKELETONS:
        raise ValueError(f"no skeleton is called {name!r}; there are: {', '.join(SKELETONS)}")
    return SKELETONS[name]


# Names that several data sets use for places that are only near each other
_LOOSE = frozenset(("head", "neck", "pelvis", "thorax", "spine", "head_centre"))

# What stands in for a keypoint that a data set lacks, best first; two names: the point between them
_SUBSTITUTES = {
    "head": ("head_top",),
    "head_top": ("head",),
    "face": ("nose",),
    "neck": ("upper_neck", "head_bottom", "left_shoulder right_shoulder"),
    "upper_neck": ("head_bottom", "neck"),
    "head_bottom": ("upper_neck", "neck"),
    "thorax": ("left_shoulder right_shoulder",),
    "pelvis": ("left_hip right_hip",),
    "left_hand_root": ("left_wrist",),
    "right_hand_root": ("right_wrist",),
}


@dataclass(frozen=True)
class Mapping:
    """How people annotated with one skeleton are shown as another, which has K' keypoints.

    Attributes:
        sources: for each of the K' keypoints those of the first skeleton that it lies between: one, two or none.
        exact: (K',) whether it is the same place of the body by the data sets' definitions; otherwise a near one.
    """

    sources: tuple[tuple[int, ...], ...]
    exact: tuple[bool, ...]

    def __call__(self, keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keypoints (N, K, 3) x, y, visibility as (N, K', 3).

        One between two others is as visible as the less visible of them; one without a counterpart is (0, 0, 0).
        """
        points, found = self.points(keypoints)
        visibility = np.minimum(*(keypoints[:, ends, 2] for ends in self._ends)) * found
        return np.concatenate([np.where((visibility > 0)[..., None], points[..., :2], 0), visibility[..., None]], 2)

    def points(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Points (N, K, D) as (N, K', D), and which of the K' have a counterpart; the others are meaningless."""
        first, second = (points[:, ends] for ends in self._ends)
        return (first + second) / 2, np.array([bool(ends) for ends in self.sources])

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        return [(ends or (0,))[0] for ends in self.sources], [(ends or (0,))[-1] for ends in self.sources]


def mapping(source: Skeleton, target: Skeleton) -> Mapping:
    """How people annotated as `source` are shown as `target`: by equal names, else by what is near.

    Raises:
        ValueError: if the skeletons have nothing in common.
    """
    found = [_counterpart(name, source, target) for name in target.keypoints]
    if not any(ends for ends, _ in found):
        raise ValueError(f"skeletons {source.name} and {target.name} have no keypoint in common")
    return Mapping(tuple(ends for ends, _ in found), tuple(exact for _, exact in found))


def _counterpart(name: str, source: Skeleton, target: Skeleton) -> tuple[tuple[int, ...], bool]:
    """Where a keypoint of `target` is found in `source`, and whether exactly there."""
    if name in source.index:
        return (source.index[name],), source.source == target.source or name not in _LOOSE
    for names in _SUBSTITUTES.get(name, ()):
        if all(end in source.index for end in names.split()):
            return tuple(source.index[end] for end in names.split()), False
    return (), False
