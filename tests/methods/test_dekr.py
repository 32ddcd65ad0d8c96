"""The method as a whole: a run, its losses, bad input."""

import math
from dataclasses import replace

import pytest
import torch

from pose_lab.runs.train import train
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton
from tests.configs import TINY, composed
from tests.methods.dekr_cases import CONFIG, dekr
from tests.methods.kapao_cases import batch

ONE = Skeleton("one", ("nose",), (), (0.05,), "test")
SMALL = ("method=dekr", *(value for value in TINY if not value.startswith("method.")), "method.inference.min_score=-1")


@pytest.mark.parametrize("benchmark", ["coco", "crowdpose"])
def test_a_run(tmp_path, benchmark):
    cfg = composed(f"benchmark={benchmark}", *SMALL, results=tmp_path, cache=tmp_path / "cache")
    folder = train(cfg)
    assert folder.status().state == "finished"
    assert 0 <= folder.metrics()["AP"] <= 1
    assert folder.metrics()["epochs"] == 2


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, ONE])
@pytest.mark.parametrize("people", [[0, 0, 1], [], [1]])
def test_losses_reach_every_weight(skeleton, people):
    method = dekr(skeleton)
    case = batch(len(skeleton), people, 2)
    losses = method.losses(case)
    assert set(losses) == {"heatmap", "offset"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.net.parameters())
    assert (losses["offset"] > 0) == bool((case.instances.keypoints[..., 2] > 0).any())


def test_crowd_regions_are_not_learnt():
    method = dekr(ONE)
    case = batch(1, [0, 0, 1], 2)
    case.instances.keypoints[0] = torch.tensor([20.0, 20, 2])
    people = case.instances
    people.labelled[0], people.labelled[1] = True, False
    people.keypoints[1, 0, 2] = 0
    people.ignore[1] = True
    with_region = method.losses(case)
    everything = dekr(ONE, labels=method_labels(mask=False), make_net=lambda **_: method.net).losses(case)
    assert with_region["heatmap"] < everything["heatmap"]
    assert torch.equal(with_region["offset"], everything["offset"])


def method_labels(**changes):
    return CONFIG["labels"] | changes


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [[1.0], [0.5, 2.0, 1.0]])
def test_people_lie_in_the_original_picture(scales, flip):
    """Whatever the passes: maps that show one person show it in the original's pixels."""
    method = dekr(COCO, test_time={"scales": scales, "flip": flip}).eval()
    truth = torch.rand(17, 2) * 30 + 15  # pixels of the input
    method.net = Painter(truth, len(COCO), torch.tensor(COCO.flip))
    case = batch(len(COCO), [0, 1], 2)
    found = method.predict(case)
    assert found.image_index.tolist() == [0, 1]
    expected = (truth - torch.tensor([0.0, 2.0])) / 0.5
    for keypoints in found.keypoints:
        torch.testing.assert_close(keypoints, expected, rtol=0, atol=0.01 if scales == [1.0] else 6)


class Painter(torch.nn.Module):
    """A network that sees one person, mirrored in every second view."""

    stride = 8

    def __init__(self, truth, num_keypoints, flip):
        super().__init__()
        self.truth, self.flip, self.num_keypoints, self.mirrored = truth, flip, num_keypoints, False
        self.calls = {}

    def forward(self, images):
        side = images.shape[3]
        cells = side // 4
        seen = self.calls.get(side, 0)
        self.calls[side] = seen + 1
        points = (self.truth * side / 64 - 0.5) / 4
        if seen % 2:
            points = torch.stack([cells - 1 - points[:, 0], points[:, 1]], 1)[self.flip]
        grid = torch.stack(torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="xy"), 0).float()
        offsets = (grid[None] - points[:, :, None, None]).flatten(0, 1).expand(len(images), -1, -1, -1)
        heat = torch.full((len(images), self.num_keypoints + 1, cells, cells), 0.005)
        x, y = points.mean(0).round().long().tolist()
        heat[:, -1, y, x] = 0.8
        return heat, offsets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_time": {"scales": [], "flip": False}}, "test_time.scales"),
        ({"test_time": {"scales": [1.0, 1.0], "flip": False}}, "different numbers"),
        ({"test_time": {"scales": [1.0, 0.01], "flip": False}}, r"a scale of 0\.01 leaves nothing of pictures of"),
        ({"image_size": 100}, "no multiple of 16"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        dekr(COCO, **changes)


def test_untrained_maps_give_numbers():
    method = dekr(CROWDPOSE).eval()
    case = batch(len(CROWDPOSE), [], 3)
    found = method.predict(case)
    assert found.keypoints.isfinite().all()
    assert math.isfinite(float(found.scores.sum()))


def test_without_heatmaps_of_keypoints():
    """The keypoints' heatmaps are neither learnt nor asked."""
    settings = {"losses": CONFIG["losses"] | {"keypoint_heatmaps": False}}
    method = dekr(COCO, **settings, inference=CONFIG["inference"] | {"heat_scores": False, "min_score": -1.0})
    case = batch(len(COCO), [0, 1], 2)
    sum(method.losses(case).values()).backward()
    assert not method.net.head_heatmap[1].weight.grad[:-1].any()
    assert method.net.head_heatmap[1].weight.grad[-1].any()
    method.net.head_heatmap[1].bias.data.fill_(0.5)
    found = method.eval().predict(case)
    assert len(found)
    torch.testing.assert_close(found.keypoint_scores, found.scores[:, None].expand_as(found.keypoint_scores))


def test_memorises_two_people():
    """Targets, losses, decoding and suppression belong together."""
    torch.manual_seed(0)
    labels = CONFIG["labels"] | {"sigma": 1.0, "centre_sigma": 1.0, "radius": 2, "min_area": 0.0}
    method = dekr(COCO, labels=labels, losses=CONFIG["losses"] | {"offset": 1.0})
    case = batch(len(COCO), [0, 1], 2)
    people = case.instances
    people.keypoints[..., :2] = people.keypoints[..., :2] / 2 + 16
    people.keypoints[..., 2], people.labelled[:] = 2, True
    optimiser = torch.optim.Adam(method.net.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        sum(method.losses(case).values()).backward()
        optimiser.step()
    found = method.eval().predict(case)
    best = torch.stack([torch.searchsorted(found.image_index, torch.tensor(image)) for image in range(2)])
    expected = (people.keypoints[..., :2] - torch.tensor([0.0, 2.0])) / 0.5
    distance = (found.keypoints[best] - expected).norm(dim=-1).mean()
    assert distance < 4  # pixels of a picture of 128; people are 64 wide


@pytest.mark.parametrize("people", [1, 20, 50])
def test_the_timed_crowd_has_so_many_people(people):
    """Copies are suppressed; people beyond the limit are left out."""
    method = dekr(COCO)
    case = batch(len(COCO), [], 2)
    found = method.people(method.crowd(case, people), case)
    counts = found.image_index.bincount().tolist()
    assert counts[0] == counts[1]
    assert 0.8 * min(people, 30) <= counts[0] <= min(people, 30)


def test_a_search_needs_candidates_of_the_same_decoding():
    method = dekr(COCO)
    assert method.stores(replace(method.inference, close_keypoints=5))
    assert not method.stores(replace(method.inference, min_score=0.5))
