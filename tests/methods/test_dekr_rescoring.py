"""Rescoring: features and network against the published ones, learning, and bad input."""

import pytest
import torch

from pose_lab.checkpoints.dekr import load
from pose_lab.checkpoints.reading import open_weights
from pose_lab.methods.dekr_rescoring import Rescoring, fits, pose_features
from pose_lab.ops import warps
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton
from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.dekr_cases import CONFIG, dekr, fixture
from tests.methods.kapao_cases import batch

OTHER = Skeleton("other", ("nose", "left_eye", "right_eye"), (), (0.05,) * 3, "test")
PUBLISHED_TORSO = [9, 11]


def rescoring(**changes):
    return Rescoring(**(CONFIG["rescoring"] | changes))


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE])
def test_features_and_scores_equal_published(skeleton, tmp_path):
    name = skeleton.name
    arrays = {k.removeprefix(f"{name}_"): v for k, v in fixture("rescore").items() if k.startswith(f"{name}_")}
    torch.save(fill_state(fixture_path(f"dekr/rescore_{name}_state.json")), tmp_path / "rescore.pth")
    net = rescoring(weights=str(tmp_path / "rescore.pth")).network(skeleton)
    links = CONFIG["rescoring"]["links"][name]
    scores = arrays["feature"][:, 3 * len(links) :]
    features = pose_features(arrays["poses_image"][..., :2], scores, links, PUBLISHED_TORSO)
    torch.testing.assert_close(features, arrays["feature"], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        factors = net(features)
    torch.testing.assert_close(factors[:, None], arrays["net_output"], rtol=0, atol=1e-5)
    torch.testing.assert_close(factors * arrays["score_in"], arrays["score_out"], rtol=0, atol=1e-5)


def test_torso_is_a_torso():
    for skeleton in (COCO, CROWDPOSE):
        links = CONFIG["rescoring"]["links"][skeleton.name]
        ends = {frozenset(skeleton.keypoints[k] for k in links[n]) for n in CONFIG["rescoring"]["torso"][skeleton.name]}
        assert ends == {frozenset({f"{side}_shoulder", f"{side}_hip"}) for side in ("left", "right")}


def test_fit_is_the_greatest_similarity_in_the_image():
    case = batch(len(COCO), [0, 0, 1], 3)
    people = case.instances
    people.labelled[:] = True
    to_original = warps.invert(case.to_input)
    original = warps.apply_to_points(to_original[people.image_index].float(), people.keypoints[..., :2])
    where = torch.tensor([0, 0, 1, 2])
    found = torch.stack([original[1], original[0] + 1, original[0], original[0]])
    values = fits(where, found, people, to_original, COCO.sigmas)
    assert values[0].item() == pytest.approx(1, abs=1e-6)
    assert 0.1 < values[1].item() < 1
    assert values[2].item() < 0.5
    assert values[3].item() == 0


@pytest.mark.parametrize("learn", ["jointly", "alone"])
def test_learning(learn):
    method = dekr(
        COCO, rescoring=CONFIG["rescoring"] | {"learn": learn}, inference=CONFIG["inference"] | {"min_score": -1.0}
    )
    method.net.head_heatmap[1].bias.data.fill_(0.5)  # else an untrained network may find nobody
    method.train()
    before = {name: tensor.clone() for name, tensor in method.net.state_dict().items()}
    optimiser = method.optimisation.build(method.net, 2)
    losses = method.losses(batch(len(COCO), [0, 1], 2))
    assert set(losses) == ({"rescoring"} if learn == "alone" else {"heatmap", "offset", "rescoring"})
    sum(losses.values()).backward()
    optimiser.step()
    changed = {name.split(".")[0] for name, tensor in method.net.state_dict().items() if not tensor.equal(before[name])}
    assert "rescorer" in changed
    assert (changed == {"rescorer"}) == (learn == "alone")


def test_rescored_people_come_by_their_new_score():
    settings = CONFIG["inference"] | {"min_score": -1.0, "rescore": True}
    method = dekr(COCO, rescoring=CONFIG["rescoring"] | {"learn": "alone"}, inference=settings).eval()
    method.net.head_heatmap[1].bias.data.fill_(0.5)
    case = batch(len(COCO), [], 2)
    found = method.predict(case)
    assert len(found) > 2
    plain = found.keypoint_scores.mean(1)
    with torch.no_grad():
        torch.testing.assert_close(found.scores, plain * method._rescored(found.keypoints, found.keypoint_scores))
    for image in range(2):
        scores = found.scores[found.image_index == image]
        assert torch.equal(scores, scores.sort(descending=True).values)


def test_a_skeleton_without_links():
    with pytest.raises(ValueError, match=r"links of skeleton other.*rescoring.links.other"):
        dekr(OTHER, rescoring=CONFIG["rescoring"] | {"learn": "jointly"})
    assert dekr(OTHER).eval().predict(batch(3, [], 1)).scores.isfinite().all()


def test_rescoring_without_a_network():
    with pytest.raises(ValueError, match=r"set rescoring.learn or rescoring.weights"):
        dekr(COCO, inference=CONFIG["inference"] | {"rescore": True})


def test_poses_without_rescoring_and_with(tmp_path):
    with_network = dekr(COCO, rescoring=CONFIG["rescoring"] | {"learn": "jointly"})
    without = dekr(COCO)
    torch.save(without.net.state_dict(), tmp_path / "poses.pth")
    torch.save(with_network.net.state_dict(), tmp_path / "both.pth")
    assert "but those for rescoring" in load(with_network.net, open_weights(tmp_path / "poses.pth"))
    assert torch.equal(with_network.net.conv1.weight, without.net.conv1.weight)
    assert "but those for rescoring" in load(without.net, open_weights(tmp_path / "both.pth"))
