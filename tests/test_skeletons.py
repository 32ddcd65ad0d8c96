import pytest

from pose_lab.skeletons import COCO, CROWDPOSE, SKELETONS, Skeleton, skeleton


def test_flip_permutations_are_the_published_ones():
    assert COCO.flip == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert CROWDPOSE.flip == (1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13)


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_is_consistent(name):
    skeleton_ = skeleton(name)
    K = len(skeleton_)
    assert [skeleton_.flip[j] for j in skeleton_.flip] == list(range(K))
    assert all(0 <= a < K and 0 <= b < K and a != b for a, b in skeleton_.limbs)
    assert set(skeleton_.uncounted) <= set(skeleton_.keypoints)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="coco, crowdpose"):
        skeleton("cocoo")


def test_wrong_number_of_sigmas_is_refused():
    with pytest.raises(ValueError, match="1 sigmas for 2 keypoints"):
        Skeleton(name="x", keypoints=("a", "b"), limbs=(), sigmas=(0.1,), source="")
