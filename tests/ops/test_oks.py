"""OKS of pairs against the official packages' values; matching and curves on cases small enough to see through."""

import numpy as np
import pytest
import torch

from pose_lab.ops.oks import (
    Pairs,
    People,
    bounding_boxes,
    greedy_match,
    keypoint_similarity,
    pair_up,
    precision_over_recall,
    rank_within,
    reaches,
    touching,
)
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton
from tests.conftest import fixture_path

BOX_SHARE = 0.53  # CrowdPose's area is this share of the box


@pytest.mark.parametrize(("folder", "skeleton"), [("ap", COCO), ("crowdpose", CROWDPOSE)])
@pytest.mark.parametrize("image", range(5))
def test_similarity_equals_the_reference(folder: str, skeleton: Skeleton, image: int):
    with np.load(fixture_path(f"metrics/{folder}/oks.npz")) as arrays:
        case = {
            name.partition("/")[2]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith(f"{image}/")
        }
    found, keypoints = case["dt_keypoints"][..., :2], case["gt_keypoints"].double()
    corner, size = case["gt_bbox_xywh"].split(2, dim=1)
    areas = case.get("gt_area", BOX_SHARE * size.prod(1))
    people = People(keypoints, areas, torch.cat([corner, corner + size], 1))
    pairs = pair_up(torch.zeros(len(found), dtype=torch.int64), torch.tensor([0, len(areas)]))
    similarity = keypoint_similarity(pairs, found, people, torch.tensor(skeleton.sigmas, dtype=torch.float64))
    torch.testing.assert_close(similarity.view(len(found), -1), case["oks"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lowest", [0.1, 0.5, 0.9])
def test_who_is_out_of_reach_is_less_similar(lowest: float):
    draw = torch.Generator().manual_seed(0)
    people, detections, K = 40, 60, len(COCO)
    corner, size = (torch.rand(people, 2, generator=draw).double() * length for length in (500, 60))
    xy = corner[:, None] + torch.rand(people, K, 2, generator=draw) * size[:, None]
    labelled = torch.rand(people, K, 1, generator=draw) < torch.arange(people)[:, None, None] % 3 / 3
    annotated = People(torch.cat([xy, 2 * labelled], 2), size.prod(1), torch.cat([corner, corner + size], 1))
    found = xy.repeat(2, 1, 1)[:detections] + torch.randn(detections, 1, 2, generator=draw) * 20
    sigmas = torch.tensor(COCO.sigmas, dtype=torch.float64)
    pairs = pair_up(torch.zeros(detections, dtype=torch.int64), torch.tensor([0, people]))
    near = touching(pairs, bounding_boxes(found), reaches(annotated, sigmas, lowest))
    similar = keypoint_similarity(pairs, found, annotated, sigmas) >= lowest
    kept = set(zip(near.detection.tolist(), near.person.tolist(), strict=True))
    similar_pairs = zip(pairs.detection[similar].tolist(), pairs.person[similar].tolist(), strict=True)
    assert kept >= set(similar_pairs)
    assert 0 < similar.sum() <= len(near) < len(pairs) / 2


def test_pairs_are_all_people_of_the_detections_image():
    pairs = pair_up(torch.tensor([0, 0, 2, 3]), torch.tensor([0, 2, 3, 3, 4]))
    assert pairs.detection.tolist() == [0, 0, 1, 1, 3]
    assert pairs.person.tolist() == [0, 1, 0, 1, 3]


def test_rank_restarts_with_each_group():
    assert rank_within(torch.tensor([1, 1, 1, 4, 6, 6])).tolist() == [0, 1, 2, 0, 0, 1]


def match(
    similarity: list[list[float]],
    counted: list[bool],
    reusable: list[bool] | None = None,
    thresholds: tuple[float, ...] = (0.5,),
) -> list[int]:
    """The person that each detection of one image takes; similarity is a table of detections by people."""
    table = torch.tensor(similarity, dtype=torch.float64)
    detections, people = table.shape
    pairs = pair_up(torch.zeros(detections, dtype=torch.int64), torch.tensor([0, people]))
    near = (table.flatten() >= min(thresholds)).nonzero().squeeze(1)
    pairs = pairs[near]
    chosen = greedy_match(
        pairs,
        table.flatten()[near],
        torch.arange(detections),
        torch.tensor([counted]),
        torch.tensor(reusable or [False] * people),
        torch.tensor(thresholds, dtype=torch.float64),
    )
    return [[int(pairs.person[row]) if row >= 0 else -1 for row in level] for level in chosen[0].tolist()]


def test_each_detection_takes_the_most_similar_free_person():
    assert match([[0.9, 0.8], [0.95, 0.7], [0.9, 0.9]], [True, True]) == [[0, 1, -1]]


def test_of_equally_similar_people_the_later_is_taken():
    assert match([[0.9, 0.9], [0.9, 0.9]], [True, True]) == [[1, 0]]


def test_counted_people_go_before_more_similar_uncounted_ones():
    assert match([[0.99, 0.6], [0.99, 0.6]], [False, True]) == [[1, 0]]


def test_a_crowd_region_is_never_used_up_and_an_unlabelled_person_is():
    assert match([[0.9]] * 3, [False], reusable=[True]) == [[0, 0, 0]]
    assert match([[0.9]] * 3, [False]) == [[0, -1, -1]]


def test_every_threshold_is_matched_on_its_own():
    assert match([[0.6, 0.8], [0.7, 0.9]], [True, True], thresholds=(0.5, 0.75)) == [[1, 0], [1, -1]]


def test_nothing_to_match():
    none = torch.empty(0, dtype=torch.int64)
    chosen = greedy_match(
        Pairs(none, none),
        torch.empty(0, dtype=torch.float64),
        torch.arange(2),
        torch.ones(3, 0, dtype=torch.bool),
        torch.ones(0, dtype=torch.bool),
        torch.tensor([0.5]),
    )
    assert chosen.tolist() == [[[-1, -1]]] * 3


def test_precision_is_read_where_a_recall_is_first_reached():
    """Hit, miss, ignored, hit of four people: precision 1 up to recall 1/4, 2/3 up to 1/2, none beyond."""
    curves = precision_over_recall(
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64),
        place=torch.tensor([0, 2, 3]),
        hits=torch.tensor([[[True, False, True]]]),
        misses=torch.zeros(1, 1, 3, dtype=torch.bool),
        others=torch.tensor([[False, True, False, False]]),
        people=torch.tensor([4]),
        recalls=torch.tensor([0, 0.25, 0.3, 0.5, 0.6, 1], dtype=torch.float64),
    )
    assert curves.precision[0, 0].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0, 0])
    assert curves.scores[0, 0].tolist() == [0.9, 0.9, 0.6, 0.6, 0, 0]
    assert curves.recall.item() == 0.5


def test_without_people_everything_is_undefined():
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    curves = precision_over_recall(
        scores=torch.ones(1).double(),
        place=torch.tensor([0]),
        hits=~one,
        misses=one,
        others=~one[0],
        people=torch.tensor([0]),
        recalls=torch.tensor([0.0, 1.0]).double(),
    )
    assert curves.precision.tolist() == [[[-1, -1]]]
    assert curves.recall.tolist() == [[-1]]
