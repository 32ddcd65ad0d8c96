"""Fusion rates against numbers counted by hand."""

import numpy as np
import pytest
import torch

from pose_lab.metrics.fusion_rate import FusionRate
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import CROWDPOSE

K = len(CROWDPOSE)


def annotations():
    """Two people, a crowd region, nobody; the first keypoint is labelled of one, the last of none."""
    keypoints = np.ones((3, K, 3), np.float32)
    keypoints[1, 0, 2] = 0
    keypoints[:, -1, 2] = 0
    return Annotations(
        image_ids=np.array([7, 11, 30]),
        file_names=np.array([b"a", b"b", b"c"]),
        sizes=np.full((3, 2), 64, np.int32),
        crowd_index=np.full(3, np.nan),
        instance_ids=np.arange(3),
        image_index=np.array([0, 0, 1]),
        boxes=np.zeros((3, 4)),
        keypoints=keypoints,
        areas=np.ones(3),
        ignore=np.array([False, False, True]),
        num_keypoints=np.full(3, K, np.int32),
    )


def found(image_index, kinds):
    """Poses with keypoint objects of the given kinds."""
    scores = torch.zeros(len(image_index), K)
    for pose, fused in enumerate(kinds):
        scores[pose, fused] = 0.5
    index = torch.tensor(image_index, dtype=torch.int64)
    return Predictions(index, torch.zeros(len(index), K, 2), scores, torch.ones(len(index)), torch.zeros(len(index), 4))


def rate(metric, k):
    return float(metric.compute()[f"fusion_rate/{CROWDPOSE.keypoints[k]}"])


def test_rates_are_replacements_over_labelled_keypoints_and_may_exceed_one():
    metric = FusionRate(annotations(), CROWDPOSE)
    metric.update(found([0, 0, 1], [[0, 1], [0], [0]]), torch.tensor([7, 30]))
    assert rate(metric, 0) == 3
    assert rate(metric, 1) == 0.5
    assert rate(metric, 2) == 0
    assert rate(metric, K - 1) == -1


def test_a_repeated_image_counts_once_and_an_unseen_one_not_at_all():
    metric = FusionRate(annotations(), CROWDPOSE)
    for _ in range(2):
        metric.update(found([0], [[1]]), torch.tensor([7]))
    assert rate(metric, 1) == 0.5
    metric.reset()
    metric.update(found([], []), torch.tensor([11]))
    assert rate(metric, 1) == -1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_states_of_two_processes_merge_by_the_larger_count(order):
    one, two = FusionRate(annotations(), CROWDPOSE), FusionRate(annotations(), CROWDPOSE)
    one.update(found([0, 1], [[1], [1]]), torch.tensor([7, 11]))
    two.update(found([0, 1], [[1], [1, 2]]), torch.tensor([7, 30]))
    states = [(m.replaced, m.seen) for m in (one, two)]
    first, second = (states[n] for n in order)
    one.replaced, one.seen = torch.maximum(first[0], second[0]), torch.maximum(first[1], second[1])
    assert rate(one, 1) == 3 / 2
    assert rate(one, 2) == 1 / 2
