"""Decoding, suppression and fusion against the published outputs."""

import pytest
import torch

from benchmarks import bench_kapao as bench
from pose_lab.methods import kapao_inference
from pose_lab.methods.kapao import published_map
from pose_lab.methods.kapao_inference import Detections, Inference, counted, decode, detect, find_people, fuse
from pose_lab.methods.kapao_scene import scene
from pose_lab.ops import nms
from tests.conftest import ROOT
from tests.methods.kapao_cases import PUBLISHED, fixture, inference, net

CASES = [path.stem.removeprefix("post_") for path in sorted((ROOT / "tests" / "fixtures" / "kapao").glob("post_*.npz"))]
NAMES = tuple(Inference.__dataclass_fields__)[:7]


def load(case):
    data = fixture(f"post_{case}")
    settings = inference(**dict(zip(NAMES, data["params_f64"].tolist(), strict=True)), **PUBLISHED)
    return data, settings, *counted(data["pred"], settings)


def num_keypoints(rows):
    return (rows.shape[1] - 6) // 3


@pytest.fixture(params=["in loops", "at once"])
def way(request, monkeypatch):
    """How a CPU finds people, and what a GPU does, on the CPU."""
    if request.param == "at once":
        for module in (nms, kapao_inference):
            monkeypatch.setattr(module, "in_loops", lambda values: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", CASES)
def test_objects_after_suppression(case):
    data, settings, rows, image_index = load(case)
    poses, keypoints = detect(rows, image_index, num_keypoints(rows), settings)
    first = rows.shape[1] - 2 * int(data["K"])
    values = torch.cat((poses.boxes, poses.scores[:, None], poses.categories[:, None], rows[poses.rows, first:]), 1)
    count = len(data["person_count"])
    assert torch.bincount(poses.image_index, minlength=count).tolist() == data["person_count"].tolist()
    assert torch.bincount(keypoints.image_index, minlength=count).tolist() == data["kp_count"].tolist()
    assert torch.equal(values, data["person_dets"])
    values = torch.cat((keypoints.boxes, keypoints.scores[:, None], keypoints.categories[:, None]), 1)
    assert torch.equal(values, data["kp_dets"])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", CASES)
def test_people_equal_published(case):
    data, settings, rows, image_index = load(case)
    maps = published_map(data["orig_shape"], data["net_shape"].tolist())
    found = find_people(rows, image_index, num_keypoints(rows), maps, data["orig_shape"], settings)
    assert torch.equal(found.image_index, data["image_index"])
    assert torch.equal(found.scores, data["scores"])
    assert torch.equal(found.keypoint_scores, data["poses"][..., 2])
    assert (found.keypoint_scores > 0).sum(0).tolist() == data["n_fused"].tolist()
    torch.testing.assert_close(found.keypoints, data["poses"][..., :2], rtol=0, atol=2e-4)
    torch.testing.assert_close(found.boxes, data["boxes"], rtol=0, atol=0)


def test_decoding_of_published_outputs():
    data = fixture("forward")
    raw = [data[f"raw{level}"].movedim(-1, 2) for level in range(4)]
    network = net(17, 0.125, 0.1)
    rows, image_index = decode(raw, network.anchors, network.strides, network.num_keypoints, None)
    assert image_index.tolist() == [0] * len(rows)
    torch.testing.assert_close(rows[None], data["decoded"], rtol=0, atol=5e-4)


@pytest.mark.parametrize("settings", [inference(), inference(pose_iou=0.25), inference(keypoint_confidence=0.6)])
def test_decoding_leaves_out_only_what_can_become_no_object(settings):
    network = net(5, 0.125, 0.1)
    torch.manual_seed(0)
    raw = [torch.randn(2, 3, 21, 64 // s, 128 // s) for s in network.strides]
    raw = [level * 4 for level in raw]
    rows, image_index = decode(raw, network.anchors, network.strides, network.num_keypoints, None)
    few, few_index = decode(raw, network.anchors, network.strides, network.num_keypoints, settings)
    assert 0 < len(few) < len(rows)
    for found, whole in zip(detect(few, few_index, 5, settings), detect(rows, image_index, 5, settings), strict=True):
        assert torch.equal(few[found.rows, :11], rows[whole.rows, :11])
        assert torch.equal(found.scores, whole.scores)
    poses, whole = (detect(*found, 5, settings)[0].rows for found in ((few, few_index), (rows, image_index)))
    torch.testing.assert_close(few[poses], rows[whole], rtol=1e-6, atol=1e-4)


def test_decoding_reads_outputs_with_channels_last():
    network = net(5, 0.125, 0.1)
    torch.manual_seed(0)
    raw = [torch.randn(2, 63, 64 // s, 128 // s) * 4 for s in network.strides]
    found = [
        decode([level.unflatten(1, (3, 21)) for level in levels], network.anchors, network.strides, 5, inference())
        for levels in (raw, [level.to(memory_format=torch.channels_last) for level in raw])
    ]
    assert all(torch.equal(last, first) for last, first in zip(*found, strict=True))


def test_only_rows_that_can_become_poses_have_keypoints():
    network, settings = net(5, 0.125, 0.1), inference()
    torch.manual_seed(0)
    raw = [torch.randn(1, 3, 21, 64 // s, 64 // s) * 4 for s in network.strides]
    rows, _ = decode(raw, network.anchors, network.strides, 5, settings)
    can_be_pose = rows[:, 4] * rows[:, 5] > settings.pose_confidence
    assert 0 < can_be_pose.sum() < len(rows)
    assert torch.equal((rows[:, 11:] != 0).any(1), can_be_pose)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("limits", [(0.001, 0.2), (0.3, 0.01)])
def test_rows_that_count_are_those_of_the_rule(limits):
    pose_confidence, keypoint_confidence = limits
    settings = inference(pose_confidence=pose_confidence, keypoint_confidence=keypoint_confidence, pose_iou=0.65)
    objectness, pose = torch.rand(2, 2000, generator=torch.Generator().manual_seed(0)).square()
    objectness[::9], objectness[1::9], pose[1::9] = keypoint_confidence, pose_confidence, 1
    number = settings.counting(objectness, pose)
    assert 0 < len(number) < 2000
    counts = (objectness > keypoint_confidence) | (objectness * pose > pose_confidence)
    assert torch.equal(number, counts.nonzero()[:, 0])


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("max_distance", [3, 0.7])
def test_fusion_at_once_is_fusion_in_turn(share, max_distance, monkeypatch):
    """Crowded pictures, some without poses or objects, with ties, poses that take no part, and just the distance."""
    generator = torch.Generator().manual_seed(1)
    pose_image, object_image = torch.tensor([0] * 9 + [2] * 8), torch.tensor([0] * 150 + [1] * 20 + [2] * 130)
    keypoints = torch.randint(0, 12, (17, 3, 2), generator=generator).float()
    scores, takes_part = torch.rand(17, 3, generator=generator), torch.rand(17, generator=generator) < share
    centres = torch.randint(0, 12, (300, 2), generator=generator).float()
    centres[:, 0] += torch.tensor([0.25, 0.5, 0.7])[torch.arange(300) % 3]
    keypoints[:, :, 0] += torch.tensor([0.0, 0.25, 0.0])
    kinds = torch.randint(1, 4, (300,), generator=generator)
    objects = Detections(torch.arange(300), object_image, torch.zeros(300, 4), torch.rand(300), kinds)
    arguments = (keypoints, scores, takes_part, pose_image, centres, objects, max_distance)
    in_turn = fuse(*arguments)
    monkeypatch.setattr(kapao_inference, "in_loops", lambda values: False)
    assert all(torch.equal(one, other) for one, other in zip(in_turn, fuse(*arguments), strict=True))
    moved = (in_turn[0] != keypoints).any(2).any(1)
    assert bool(moved.any()) == bool(share)
    assert not (moved & ~takes_part).any()


def test_an_object_at_just_the_distance_replaces_nothing(way):
    """0.7 as a float32 is not less than the number 0.7 of a config."""
    objects = Detections(*torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1, 4), torch.ones(1), torch.ones(1).long())
    keypoints, scores, centres = torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.tensor([[0.7, 0.0]])
    found = fuse(keypoints, scores, torch.ones(1).bool(), torch.zeros(1).long(), centres, objects, 0.7)
    assert torch.equal(found[0], keypoints)
    further = fuse(keypoints, scores, torch.ones(1).bool(), torch.zeros(1).long(), centres, objects, 0.71)
    assert torch.equal(further[0][0], centres)


def test_the_timed_crowd_is_the_one_described():
    """81 poses, 30 of them above 0.3, and 300 keypoint objects after suppression; ours equals the plain loop."""
    rows, settings = scene(bench.PEOPLE, bench.ROWS, bench.FRAME, 17, bench.SEED), inference(**PUBLISHED)
    found, image_index = counted(rows, settings)
    poses, keypoints = detect(found, image_index, 17, settings)
    assert (len(poses.rows), int((poses.scores > 0.3).sum()), len(keypoints.rows)) == (81, 30, 300)
    bench.post_processing(repeats=1)  # raises where the two differ
    bench.decoding(repeats=1)
