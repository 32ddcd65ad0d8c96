"""The method as a whole: a run, its losses, bad input."""

import math

import pytest
import torch

from pose_lab.runs.train import train
from pose_lab.skeletons import COCO, CROWDPOSE, MPII, Skeleton
from tests.configs import TINY, composed
from tests.methods.higherhrnet_cases import CONFIG, OURS, PUBLISHED, higherhrnet
from tests.methods.kapao_cases import batch

THREE = Skeleton("three", ("red", "green", "blue"), (), (0.05, 0.05, 0.05), "test")
ONE = Skeleton("one", ("nose",), (), (0.05,), "test")
SMALL = ("method=higherhrnet", *(value for value in TINY if not value.startswith("method.")))


@pytest.mark.parametrize("benchmark", ["coco", "crowdpose"])
def test_a_run(tmp_path, benchmark):
    low = "method.inference.min_score=0"
    cfg = composed(f"benchmark={benchmark}", *SMALL, low, results=tmp_path, cache=tmp_path / "cache")
    folder = train(cfg)
    assert folder.status().state == "finished"
    assert 0 <= folder.metrics()["AP"] <= 1
    assert folder.metrics()["epochs"] == 2


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, ONE])
@pytest.mark.parametrize("people", [[0, 0, 1], [], [1]])
def test_losses_reach_every_weight(skeleton, people):
    method = higherhrnet(skeleton)
    case = batch(len(skeleton), people, 2)
    losses = method.losses(case)
    assert set(losses) == {"heatmap_4", "heatmap_2", "pull", "push"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.net.parameters())
    seen = case.instances.image_index[(case.instances.keypoints[..., 2] > 0).any(1)]
    assert (losses["push"] > 0) == bool((seen.bincount() > 1).any())


def test_only_the_finer_resolution_is_learnt_and_asked():
    method = higherhrnet(COCO, losses=CONFIG["losses"] | {"heatmaps": [0.0, 1.0]})
    case = batch(len(COCO), [0, 1], 2)
    assert set(method.losses(case)) == {"heatmap_2", "pull", "push"}
    heat, tags = method.net(method.normalised(case.images))
    kept, same = method._asked(heat, tags)
    assert len(kept) == 1
    assert torch.equal(kept[0], heat[1])
    assert torch.equal(same, tags)


@pytest.mark.parametrize(("aggregation", "kept"), [("mean", [0, 1]), ("coarsest", [0]), ("finest", [1])])
def test_aggregation(aggregation, kept):
    method = higherhrnet(COCO, aggregation=aggregation).eval()
    heat, tags = method.net(torch.rand(1, 3, 64, 64))
    assert [one.shape for one in method._asked(heat, tags)[0]] == [heat[number].shape for number in kept]


def test_crowd_regions_are_not_learnt():
    case = batch(1, [0, 0, 1], 2)
    people = case.instances
    people.keypoints[0] = torch.tensor([20.0, 20, 2])
    people.labelled[0], people.labelled[1] = True, False
    people.keypoints[1, 0, 2] = 0
    people.ignore[1] = True
    method = higherhrnet(ONE)
    with_region = method.losses(case)
    labels = CONFIG["labels"] | {"mask": False}
    everything = higherhrnet(ONE, labels=labels, make_net=lambda **_: method.net).losses(case)
    assert all(with_region[name] < everything[name] for name in ("heatmap_4", "heatmap_2"))
    assert torch.equal(with_region["pull"], everything["pull"])


class Painter(torch.nn.Module):
    """A network that sees people with their own tags, mirrored in every second view."""

    stride, strides = 8, (4, 2)

    def __init__(self, truth, flip):
        super().__init__()
        self.truth, self.flip, self.calls = truth, flip, {}

    def forward(self, images):
        side = images.shape[3]
        seen = self.calls.get(side, 0)
        self.calls[side] = seen + 1
        points = self.truth * side / 64
        if seen % 2:
            points = torch.stack([side - points[..., 0], points[..., 1]], -1)[:, self.flip]
        drawn = {cells: self.drawn(points, side, cells) for cells in (side // 4, side // 2)}
        heat = [values.amax(0).expand(len(images), -1, -1, -1) for values in drawn.values()]
        tags = drawn[side // 4].argmax(0) * 5.0
        return heat, tags.expand(len(images), -1, -1, -1)

    @staticmethod
    def drawn(points, side, cells):
        """(people, K, cells, cells) Gaussians in a map whose cells' corners lie on pixels' corners."""
        places = (torch.arange(cells) + 0.5) * side / cells
        x, y = (points[..., axis, None, None] for axis in (0, 1))
        squares = (places - x) ** 2 + (places[:, None] - y) ** 2
        return 0.9 * torch.exp(-squares / (2 * (3 * side / 64) ** 2))


@pytest.mark.parametrize("grouping", ["ours", "published"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [[1.0], [0.5, 2.0, 1.0]])
def test_people_lie_in_the_original_picture(scales, flip, grouping):
    """Whatever the passes: maps that show two people show them in the original's pixels."""
    order = torch.tensor([[0.0, 0], [28.0, 26]])  # the second person stands below and to the right
    truth = torch.rand(1, len(COCO), 2, generator=torch.Generator().manual_seed(1)) * 24 + 6 + order[:, None]
    arguments = {"test_time": {"scales": scales, "flip": flip}}
    arguments["inference"] = {"ours": OURS, "published": PUBLISHED}[grouping]
    method = higherhrnet(COCO, **arguments).eval()
    method.net = Painter(truth, torch.tensor(COCO.flip))
    found = method.predict(batch(len(COCO), [0, 1], 2))
    assert found.image_index.tolist() == [0, 0, 1, 1]
    expected = (truth - torch.tensor([0.0, 2.0])) / 0.5
    for image in range(2):
        people = found.keypoints[found.image_index == image]
        people = people[people[..., 0].mean(1).argsort()]
        # half a pixel of the input is added as published, and a keypoint moves a quarter: in the original twice as much
        assert (people - expected).abs().max() < (3 if 0.5 not in scales else 6)
        assert (people - expected).mean((0, 1)).abs().max() < 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_time": {"scales": [2.0], "flip": False}}, "1 must be among them"),
        ({"image_size": 100}, "no multiple of 16"),
        ({"aggregation": "both"}, "there are: mean, coarsest, finest"),
        ({"losses": CONFIG["losses"] | {"heatmaps": [1.0]}}, "each of the network's 2 resolutions"),
        ({"losses": CONFIG["losses"] | {"heatmaps": [0.0, 0.0]}}, "one of them not 0"),
        ({"losses": CONFIG["losses"] | {"push_form": "linear"}}, "there are: exp, max"),
        ({"losses": CONFIG["losses"] | {"heatmaps": [1.0, 0.0]}}, "fewer net.enlargements"),
        ({"inference": OURS | {"window": 4}}, "odd whole number"),
        ({"inference": OURS | {"window": -1}}, "odd whole number"),
        ({"inference": OURS | {"window": 2.5}}, "odd whole number"),
        ({"inference": OURS | {"max_peaks": 0}}, "at least 1"),
        ({"inference": OURS | {"min_score": -0.1}}, "at least 0"),
        ({"inference": OURS | {"max_groups": 0}}, "or null"),
        ({"inference": OURS | {"when_full": "stop"}}, "there are: open, skip"),
        ({"inference": OURS | {"order": "theirs"}}, "order is 'theirs'; inference.orders has: ours, published"),
        ({"inference": OURS | {"orders": {"ours": {"coco": ["nose"]}}}}, "but it lacks left_eye, right_eye, "),
        ({"inference": OURS | {"orders": {"ours": {"coco": [*COCO.keypoints, "tail"]}}}}, "it names unknown tail$"),
        ({"inference": OURS | {"orders": {"ours": {"coco": [*COCO.keypoints, "nose"]}}}}, "it repeats nose$"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        higherhrnet(COCO, **changes)


def test_untrained_maps_give_numbers():
    method = higherhrnet(CROWDPOSE, inference=OURS | {"min_score": 0.0}).eval()
    found = method.predict(batch(len(CROWDPOSE), [], 3))
    assert len(found)
    assert found.keypoints.isfinite().all()
    assert math.isfinite(float(found.scores.sum()))


def test_learns_two_people():
    """Targets, losses, decoding and grouping belong together: red, green and blue spots, one of each per person."""
    torch.manual_seed(0)
    losses = CONFIG["losses"] | {"heatmaps": [10.0, 10.0], "pull": 0.1, "push": 0.1}
    method = higherhrnet(THREE, labels=CONFIG["labels"] | {"sigma": 1.0}, losses=losses)
    case = batch(len(THREE), [0, 0], 1)
    people = case.instances
    truth = torch.tensor([[[10, 10], [22, 20], [10, 30]], [[40, 40], [50, 50], [38, 56]]])
    people.keypoints[..., :2], people.keypoints[..., 2], people.labelled[:] = truth + 0.5, 2, True
    case.images[:] = 0
    for channel, spots in enumerate(truth.transpose(0, 1).tolist()):
        for x, y in spots:
            case.images[0, channel, y - 2 : y + 3, x - 2 : x + 3] = 255
    optimiser = torch.optim.Adam(method.net.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        sum(method.losses(case).values()).backward()
        optimiser.step()
    found = method.eval().predict(case)
    best = found.keypoints[:2][found.keypoints[:2, 0, 0].argsort()]
    expected = (people.keypoints[..., :2] - torch.tensor([0.0, 2.0])) / 0.5
    assert (best - expected).norm(dim=-1).max() < 6  # pixels of a picture of 128


@pytest.mark.parametrize("scales", [[1.0], [1.0, 2.0]])
@pytest.mark.parametrize("people", [1, 5])
def test_the_timed_crowd_has_so_many_people(people, scales):
    method = higherhrnet(COCO, test_time={"scales": scales, "flip": True})
    case = batch(len(COCO), [], 2, size=256)
    found = method.people(method.crowd(case, people), case)
    counts = found.image_index.bincount().tolist()
    assert counts[0] == counts[1] >= people
    assert (found.keypoint_scores > 0).all()


def test_the_published_order_is_that_of_cocos_numbers():
    numbers = (*range(7), 11, 12, *range(7, 11), *range(13, 17))
    for skeleton in (COCO, CROWDPOSE):
        published_order = higherhrnet(skeleton, inference=PUBLISHED).inference.kinds(skeleton)
        assert published_order == numbers[: len(skeleton)]
    ours = higherhrnet(CROWDPOSE).inference.kinds(CROWDPOSE)
    assert [CROWDPOSE.keypoints[number] for number in ours[:3]] == ["head", "neck", "left_shoulder"]
    assert higherhrnet(MPII).inference.kinds(MPII) == tuple(range(len(MPII)))
