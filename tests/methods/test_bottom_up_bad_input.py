"""Bad input to DEKR and HigherHRNet as wholes: nobody, crowds beyond the limit, no extent, no numbers, half of them."""

import pytest
import torch

from pose_lab.skeletons import COCO
from tests.methods import dekr_cases, higherhrnet_cases
from tests.methods.dekr_cases import dekr
from tests.methods.higherhrnet_cases import higherhrnet
from tests.methods.kapao_cases import batch

K = len(COCO)
METHODS = {"dekr": dekr, "higherhrnet": higherhrnet}
SIDE, APART = 256, 32


def places(people):
    """(P, 2) cells of a map of SIDE / 4, well apart."""
    number = torch.arange(people)
    across = SIDE // APART
    return torch.stack([number % across, number // across], 1) * (APART // 4) + 4


class Shown(torch.nn.Module):
    """A network that always gives the same maps."""

    stride, strides = 8, (4, 2)

    def __init__(self, *maps, rescorer=None):
        super().__init__()
        self.maps, self.rescorer = maps, rescorer

    def forward(self, images):
        return self.maps


def shown(name, people):
    """Maps of people whose keypoints all lie where their centre is."""
    x, y = places(people).unbind(1)
    side = SIDE // 4
    heat = torch.zeros(1, K + (name == "dekr"), side, side)
    heat[:, :, y, x] = torch.linspace(0.9, 0.5, people)
    if name == "dekr":
        return heat, torch.zeros(1, 2 * K, side, side)
    half = torch.zeros(1, K, 2 * side, 2 * side)
    half[:, :, 2 * y, 2 * x] = heat[:, :, y, x]
    tags = torch.zeros(1, K, side, side)
    tags[:, :, y, x] = 3.0 * torch.arange(people)
    return [heat, half], tags


def seeing(name, people, **inference):
    cases = {"dekr": dekr_cases.CONFIG, "higherhrnet": higherhrnet_cases.CONFIG}
    method = METHODS[name](COCO, inference=cases[name]["inference"] | inference).eval()
    method.net = Shown(*shown(name, people))
    return method


def crowded(people, flat=()):
    """A batch of one picture; keypoints of the people `flat` all lie at one point."""
    case = batch(K, [0] * people, 1)
    case.instances.keypoints[..., 2], case.instances.labelled[:] = 2, True
    for person in flat:
        case.instances.keypoints[person, :, :2] = case.instances.keypoints[person, :1, :2].clone()
    return case


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", [crowded(0), crowded(1, flat=[0]), crowded(40, flat=[0, 7])], ids=["0", "1", "40"])
def test_losses_and_gradients_are_numbers(name, case):
    torch.manual_seed(0)
    method = METHODS[name](COCO)
    losses = method.losses(case)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(one.grad is None or one.grad.isfinite().all() for one in method.net.parameters())
    if not len(case.instances):
        assert not any(losses[other] for other in ("offset", "pull", "push") if other in losses)


@pytest.mark.parametrize("name", METHODS)
def test_people_without_extent_are_found(name):
    """The published code of DEKR stops with an error; boxes of no size are boxes."""
    found = seeing(name, 3).predict(batch(K, [], 1, size=SIDE))
    assert len(found) == 3
    assert found.keypoints.isfinite().all()
    assert found.boxes.isfinite().all()
    spread = found.keypoints.amax(1) - found.keypoints.amin(1)
    assert spread.max() < 1e-3
    middles = (4 * places(3) + (0.5 if name == "dekr" else 1.0) - torch.tensor([0.0, 2.0])) / 0.5
    assert (found.keypoints[:, 0] - middles).abs().max() <= 4  # of the original's pixels, two to one of the input


def test_the_score_of_a_pose_without_extent_is_a_number():
    rescoring = dekr_cases.CONFIG["rescoring"] | {"learn": "jointly"}
    method = dekr(COCO, rescoring=rescoring, inference=dekr_cases.CONFIG["inference"] | {"rescore": True}).eval()
    method.net = Shown(*shown("dekr", 2), rescorer=method.net.rescorer)
    found = method.predict(batch(K, [], 1, size=SIDE))
    assert len(found) == 2
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("limit", "expected"), [(30, 30), (60, 45)])
def test_more_people_than_the_published_limit(name, limit, expected):
    limits = {"dekr": {"max_people": limit}, "higherhrnet": {"max_peaks": limit}}
    found = seeing(name, 45, **limits[name]).predict(batch(K, [], 1, size=SIDE))
    assert len(found) == expected
    assert found.keypoint_scores.min() > 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_no_numbers_show_nobody(name, bad):
    method = seeing(name, 3)
    plain = method.predict(batch(K, [], 1, size=SIDE))
    maps = method.net.maps
    first = [maps[0]] if name == "dekr" else maps[0]
    for one in first:
        one[..., : one.shape[2] // 2, : one.shape[3] // 8] = bad  # where the first person stands
    found = method.predict(batch(K, [], 1, size=SIDE))
    assert len(found) == len(plain) - 1
    assert torch.equal(found.keypoints, plain.keypoints[1:])
    for one in (*first, maps[1]):
        one[:] = bad
    assert len(method.predict(batch(K, [], 1, size=SIDE))) == 0


@pytest.mark.parametrize("name", METHODS)
def test_pictures_that_show_nobody(name):
    found = seeing(name, 0).predict(batch(K, [], 1, size=SIDE))
    assert len(found) == 0
    assert found.keypoints.shape == (0, K, 2)
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(("name", "settings"), [("dekr", {}), ("dekr", {"snap": "fit"}), ("higherhrnet", {})])
def test_half_precision_does_not_round_places(name, settings):
    method, case = seeing(name, 3, **settings), batch(K, [], 1, size=SIDE)
    whole = method.predict(case)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.predict(case)
    assert torch.equal(found.keypoints, whole.keypoints)
    assert torch.equal(found.scores, whole.scores)
