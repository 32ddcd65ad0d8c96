import json

import numpy as np
import pytest

from pose_lab.skeletons import (
    AIC,
    COCO,
    CROWDPOSE,
    FLIC,
    HALPE26,
    HALPE136,
    HUMAN36M,
    JHMDB,
    LSP,
    MPI_INF_3DHP,
    MPII,
    POSETRACK18,
    SKELETONS,
    WHOLEBODY,
    Skeleton,
    mapping,
    mirrored,
    skeleton,
)
from tests.conftest import shared_data


def swapped(count, *pairs):
    """The permutation of some exchanges."""
    flip = list(range(count))
    for a, b in pairs:
        flip[a], flip[b] = b, a
    return tuple(flip)


# Mirror pairs of 68 face points, from their published figure
FACE = (
    *((i, 16 - i) for i in range(8)),
    *((i, 43 - i) for i in range(17, 22)),
    *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)),
)
PUBLISHED = {
    COCO: swapped(17, *((i, i + 1) for i in range(1, 17, 2))),
    CROWDPOSE: swapped(14, *((i, i + 1) for i in range(0, 12, 2))),
    MPII: swapped(16, (0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    LSP: swapped(14, (0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    FLIC: swapped(11, (0, 3), (1, 4), (2, 5), (6, 7), (8, 9)),
    AIC: swapped(14, (0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)),
    POSETRACK18: swapped(17, *((i, i + 1) for i in range(3, 17, 2))),
    JHMDB: swapped(15, *((i, i + 1) for i in range(3, 15, 2))),
    HUMAN36M: swapped(17, (1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)),
    MPI_INF_3DHP: swapped(17, (2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)),
    HALPE26: swapped(26, *((i, i + 1) for i in (*range(1, 17, 2), 20, 22, 24))),
    HALPE136: swapped(
        136,
        *((i, i + 1) for i in (*range(1, 17, 2), 20, 22, 24)),
        *((a + 26, b + 26) for a, b in FACE),
        *((i, i + 21) for i in range(94, 115)),
    ),
    WHOLEBODY: swapped(
        133,
        *((i, i + 1) for i in range(1, 17, 2)),
        *((17, 20), (18, 21), (19, 22)),
        *((a + 23, b + 23) for a, b in FACE),
        *((i, i + 21) for i in range(91, 112)),
    ),
}


def test_every_skeleton_has_its_published_flip_here():
    assert {points.name for points in PUBLISHED} == set(SKELETONS)


@pytest.mark.parametrize("points", PUBLISHED, ids=lambda points: points.name)
def test_flip_permutations_are_the_published_ones(points):
    assert points.flip == PUBLISHED[points]


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_is_consistent(name):
    points = skeleton(name)
    K = len(points)
    assert len(set(points.keypoints)) == K
    assert [points.flip[j] for j in points.flip] == list(range(K))
    assert all(0 <= a < K and 0 <= b < K and a != b for a, b in points.limbs)
    assert {k for limb in points.limbs for k in limb} >= {k for k in range(K) if points.keypoints[k] in limbed(points)}
    limbs = {frozenset(limb) for limb in points.limbs}
    assert len(limbs) == len(points.limbs)
    assert {frozenset(points.flip[k] for k in limb) for limb in limbs} == limbs
    assert set(points.uncounted) <= set(points.keypoints)
    assert {mirrored(name) for name in points.uncounted} == set(points.uncounted)
    assert points.source


def limbed(points):
    """Keypoints that must be an end of some limb: all but ears that nobody annotates."""
    return set(points.keypoints) - ({"left_ear", "right_ear"} if points is POSETRACK18 else set())


@pytest.mark.parametrize("points", [p for p in SKELETONS.values() if p.sigmas], ids=lambda points: points.name)
def test_sigmas_are_small_and_nearly_the_same_on_both_sides(points):
    assert points.oks_sigmas == points.sigmas
    assert all(0.005 < sigma < 0.12 for sigma in points.sigmas)
    body = [k for k, name in enumerate(points.keypoints) if name in COCO.keypoints]
    sides = [(points.sigmas[k], points.sigmas[points.flip[k]]) for k in body]
    assert all(abs(left / right - 1) < 0.35 for left, right in sides)


@pytest.mark.parametrize("points", [MPII, LSP, FLIC, JHMDB, HUMAN36M, MPI_INF_3DHP], ids=lambda points: points.name)
def test_without_published_sigmas_oks_refuses(points):
    with pytest.raises(
        ValueError, match=rf"skeleton {points.name} has no OKS constants \(.*scored by.*data\.skeleton=coco"
    ):
        _ = points.oks_sigmas


def test_whole_body_parts():
    parts = dict(WHOLEBODY.parts)
    sizes = {name: len(keypoints) for name, keypoints in parts.items()}
    assert sizes == {"body": 17, "foot": 6, "face": 68, "left_hand": 21, "right_hand": 21, "whole_body": 133}
    assert parts["whole_body"] == WHOLEBODY.keypoints
    assert parts["body"] == COCO.keypoints
    assert WHOLEBODY.index[parts["face"][0]] == 23
    assert WHOLEBODY.index[parts["right_hand"][0]] == 112


def test_halpe_begins_with_coco_and_counts_only_it():
    for points in (HALPE26, HALPE136):
        assert points.keypoints[:17] == COCO.keypoints
        assert sum(points.counted) == 17
    assert HALPE136.keypoints[:26] == HALPE26.keypoints
    assert HALPE136.keypoints[26:94] == WHOLEBODY.keypoints[23:91]


@pytest.mark.parametrize(
    ("file", "points", "renamed"),
    [
        ("coco/test_coco.json", COCO, {}),
        ("ochuman/test_ochuman.json", COCO, {}),
        ("aic/test_aic.json", AIC, {}),
        ("jhmdb/test_jhmdb_sub1.json", JHMDB, {"head": "face"}),
        ("posetrack18/annotations/test_posetrack18_val.json", POSETRACK18, {}),
        ("mhp/test_mhp.json", MPII, {}),
    ],
)
def test_order_is_that_of_real_files(file, points, renamed):
    content = json.loads((shared_data("mmpose_samples") / file).read_text())
    names = [name.lower().replace(" ", "_").replace("-", "_") for name in content["categories"][0]["keypoints"]]
    assert tuple(renamed.get(name, name) for name in names) == points.keypoints


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="coco, crowdpose"):
        skeleton("cocoo")


def test_wrong_number_of_sigmas_is_refused():
    with pytest.raises(ValueError, match="1 sigmas for 2 keypoints"):
        Skeleton(name="x", keypoints=("a", "b"), limbs=(), sigmas=(0.1,), source="")


def person(points, seed=0):
    """(1, K, 3) of distinct places, all visible."""
    keypoints = np.random.default_rng(seed).uniform(0, 100, (1, len(points), 3))
    keypoints[..., 2] = 2
    return keypoints


@pytest.mark.parametrize("target", SKELETONS)
@pytest.mark.parametrize("source", SKELETONS)
def test_mapping_keeps_what_both_have_and_sides(source, target):
    source, target = skeleton(source), skeleton(target)
    there = mapping(source, target)
    keypoints = person(source)
    shown = there(keypoints)
    assert shown.shape == (1, len(target), 3)
    for name in set(source.keypoints) & set(target.keypoints):
        np.testing.assert_array_equal(shown[0, target.index[name]], keypoints[0, source.index[name]])
    lacking = [k for k, ends in enumerate(there.sources) if not ends]
    assert (shown[0, lacking] == 0).all()
    # mirroring before or after is the same
    mirrored_first = there(keypoints[:, list(source.flip)])
    np.testing.assert_allclose(mirrored_first, shown[:, list(target.flip)])
    assert [there.exact[k] for k in target.flip] == list(there.exact)


def counterparts(source, target):
    there = mapping(source, target)
    return {
        name: ("=" if exact else "~") + "+".join(source.keypoints[k] for k in ends)
        for name, ends, exact in zip(target.keypoints, there.sources, there.exact, strict=True)
    }


def test_mapping_to_itself_is_exact():
    for points in SKELETONS.values():
        there = mapping(points, points)
        assert all(there.exact)
        np.testing.assert_array_equal(there(person(points)), person(points))


def test_coco_as_crowdpose():
    found = counterparts(COCO, CROWDPOSE)
    assert found.pop("head") == "~"
    assert found.pop("neck") == "~left_shoulder+right_shoulder"
    assert found == {name: f"={name}" for name in found}
    assert len(found) == 12


def test_crowdpose_as_coco_lacks_the_face():
    found = counterparts(CROWDPOSE, COCO)
    assert {name for name, source in found.items() if source == "~"} == set(COCO.keypoints[:5])


def test_mpii_and_halpe():
    assert counterparts(MPII, CROWDPOSE) | {"head": "~head_top", "neck": "~upper_neck"} == counterparts(MPII, CROWDPOSE)
    assert counterparts(HALPE26, MPII)["thorax"] == "~left_shoulder+right_shoulder"
    assert counterparts(HALPE26, MPII)["pelvis"] == "~pelvis"
    assert counterparts(COCO, HALPE26)["pelvis"] == "~left_hip+right_hip"
    assert counterparts(HALPE136, HALPE26) == {name: f"={name}" for name in HALPE26.keypoints}
    assert counterparts(HALPE136, WHOLEBODY) == {name: f"={name}" for name in WHOLEBODY.keypoints}


def test_a_point_between_two_is_as_visible_as_the_less_visible():
    keypoints = np.zeros((3, len(COCO), 3))
    left, right = COCO.index["left_shoulder"], COCO.index["right_shoulder"]
    keypoints[:, left], keypoints[:, right] = (10, 20, 2), (30, 40, 2)
    keypoints[1, right, 2], keypoints[2, right] = 1, 0
    neck = mapping(COCO, CROWDPOSE)(keypoints)[:, CROWDPOSE.index["neck"]]
    assert neck.tolist() == [[20, 30, 2], [20, 30, 1], [0, 0, 0]]


def test_skeletons_without_a_common_keypoint():
    other = Skeleton(name="x", keypoints=("tail",), limbs=(), sigmas=None, source="")
    with pytest.raises(ValueError, match="skeletons coco and x have no keypoint in common"):
        mapping(COCO, other)
