"""Confidences of a pose's keypoints: an option of ours, off by default."""

import pytest
import torch
from hydra import compose, initialize_config_module

from pose_lab.methods.kapao_inference import decode, find_people
from pose_lab.poses import Batch
from pose_lab.skeletons import CROWDPOSE
from tests.methods.kapao_cases import CONFIG, batch, inference, kapao, tiny_net

K = len(CROWDPOSE)
FRAME = torch.tensor([[64, 64]])
MAPS = torch.eye(2, 3, dtype=torch.float64)[None]


def confident_net(num_keypoints):
    return tiny_net(num_keypoints, keypoint_confidence=True)


def pose_row(score, confidence, x=20.0):
    """A pose whose keypoints all lie at (x, 30)."""
    row = torch.zeros(4 * K + 6)
    row[:6] = torch.tensor([x, 30, 20, 40, score, 1])
    row[6 + K : 6 + 3 * K] = torch.tensor([x, 30.0]).repeat(K)
    row[6 + 3 * K :] = confidence
    return row


def keypoint_row(kind, score, x=23.0):
    row = torch.zeros(4 * K + 6)
    row[:5] = torch.tensor([x, 30, 4, 4, score])
    row[6 + kind] = 1
    return row


def found(*rows, **settings):
    index = torch.zeros(len(rows), dtype=torch.int64)
    return find_people(torch.stack(rows), index, K, MAPS, FRAME, inference(**settings))


def test_off_by_default():
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        config = compose("method/kapao", overrides=["method/kapao_size=s"]).method
    assert config.net.keypoint_confidence is False
    assert tiny_net(K).num_outputs == 3 * K + 6
    assert confident_net(K).num_outputs == 4 * K + 6


def test_the_loss_is_the_cross_entropy_of_what_is_visible():
    torch.manual_seed(0)
    example = batch(K, [0, 1], 2)
    terms = kapao(CROWDPOSE, confident_net).losses(example)
    assert set(terms) == {"box", "objectness", "class", "keypoints", "confidence"}
    example.instances.keypoints[..., 2] = 2
    method = kapao(CROWDPOSE, confident_net)
    for conv in method.net.head.m:
        conv.bias.data.view(3, -1)[:, -K:] = 20.0
        conv.weight.data[:] = 0
    certain = method.losses(example)["confidence"].item()
    example.instances.keypoints[..., 2] = 0
    wrong = method.losses(example)["confidence"].item()
    assert certain < 1e-6
    levels = wrong / (20 * method.gains["confidence"])  # the means of levels with poses are summed
    assert levels == pytest.approx(round(levels), abs=1e-4)
    assert levels >= 1


def test_decoded_rows_end_with_confidences():
    torch.manual_seed(0)
    raw = [torch.randn(1, 3, 4 * K + 6, 4, 4)]
    anchors = torch.ones(1, 3, 2)
    rows, _ = decode(raw, anchors, [8], K, None)
    plain, _ = decode([raw[0][:, :, : 3 * K + 6]], anchors, [8], K, None)
    torch.testing.assert_close(rows[:, : 3 * K + 6], plain)
    expected = raw[0][0, :, 3 * K + 6 :].flatten(2).transpose(1, 2).flatten(0, 1).sigmoid()
    torch.testing.assert_close(rows[:, 3 * K + 6 :], expected)


def test_objects_replace_keypoints_as_without_confidences_and_bring_their_score():
    people = found(pose_row(0.8, 0.75), keypoint_row(0, 0.3), keypoint_row(1, 0.9))
    assert people.keypoints[0, :3, 0].tolist() == [23.0, 23.0, 20.0]
    torch.testing.assert_close(people.keypoint_scores[0, :3], torch.tensor([0.3, 0.9, 0.6]))


def test_poses_are_ranked_by_their_score_times_their_mean_confidence():
    people = found(pose_row(0.9, 0.5, x=10.0), pose_row(0.8, 1.0, x=50.0), fusion=False)
    torch.testing.assert_close(people.scores, torch.tensor([0.8, 0.45]))
    assert people.keypoints[:, 0, 0].tolist() == [50.0, 10.0]


def test_a_mirrored_pass_exchanges_the_confidences_of_left_and_right():
    torch.manual_seed(0)
    example = batch(K, [0], 1)
    mirrored = Batch(**{**vars(example), "images": example.images.flip(3)})
    settings = {"inference": CONFIG["inference"] | {"pose_confidence": 0.0}}
    plain = kapao(CROWDPOSE, confident_net, **settings).eval()
    flipped = kapao(CROWDPOSE, confident_net, test_time={"scales": [1.0], "flips": [True]}, **settings).eval()
    flipped.load_state_dict(plain.state_dict())
    with torch.no_grad():
        rows, back = plain.candidates(example).rows, flipped.candidates(mirrored).rows
    torch.testing.assert_close(back[:, -K:], rows[:, -K:][:, list(CROWDPOSE.flip)])


@pytest.mark.parametrize("people", [[], [0]])
def test_a_method_with_confidences_predicts(people):
    predictions = kapao(CROWDPOSE, confident_net).eval().predict(batch(K, people, 1))
    assert predictions.keypoint_scores.shape[1:] == (K,)


def test_poses_and_objects_of_different_pictures_leave_each_other_alone():
    rows = torch.stack([pose_row(0.8, 0.75), keypoint_row(0, 0.9)])
    sizes, maps = FRAME.expand(2, 2), MAPS.expand(2, 2, 3)
    people = find_people(rows, torch.tensor([0, 1]), K, maps, sizes, inference())
    assert len(people) == 1
    people = find_people(rows[:, : 3 * K + 6], torch.tensor([0, 1]), K, maps, sizes, inference())
    assert people.keypoint_scores.eq(0).all()
