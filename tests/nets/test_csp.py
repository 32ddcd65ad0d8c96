"""The network against the published one: names, counts, outputs of every block."""

import pytest
import torch

from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.kapao_cases import fixture, net, tiny_net

SIZES = {"s": (0.5, 0.33), "m": (0.75, 0.67), "l": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("size", "num_keypoints", "parameters", "entries"),
    [
        ("s", 17, 12_559_980, 472),
        ("m", 17, 35_755_404, 652),
        ("l", 17, 77_047_852, 832),
        ("s", 14, 12_525_312, 472),
        ("m", 14, 35_703_456, 652),
        ("l", 14, 76_978_624, 832),
    ],
)
def test_counts_as_published(size, num_keypoints, parameters, entries):
    with torch.device("meta"):
        network = net(num_keypoints, *SIZES[size])
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


@pytest.fixture(scope="module")
def published():
    network = net(17).eval()
    network.load_state_dict(fill_state(fixture_path("kapao/state.json")))
    return network


def test_default_anchors_are_the_published_ones(published):
    fresh = net(17)
    assert torch.equal(fresh.head.anchors, published.head.anchors)
    assert torch.equal(fresh.head.anchor_grid, published.head.anchor_grid)


def test_forward_equals_published(published):
    expected = fixture("forward")
    means = {}
    for number, block in enumerate(published.model):
        block.register_forward_hook(lambda _m, _i, out, number=number: means.update({number: out}))
    with torch.no_grad():
        raw = published(expected["image"])
    for level, output in enumerate(raw):
        torch.testing.assert_close(output.movedim(2, -1), expected[f"raw{level}"], rtol=0, atol=1e-4)
    blocks = [means[i] for i in range(33)]
    assert [list(b.shape) for b in blocks] == expected["layer_shape"].tolist()
    torch.testing.assert_close(torch.stack([b.mean() for b in blocks]), expected["layer_mean"], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.stack([b.std() for b in blocks]), expected["layer_std"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_keypoints", [5, 14])
def test_three_levels(num_keypoints):
    anchors = [[[10, 13], [16, 30]], [[30, 61], [62, 45]], [[116, 90], [156, 198]]]
    network = net(num_keypoints, 0.125, channels=[64, 128, 256, 512, 768], repeats=[3, 9, 9, 3], anchors=anchors)
    outputs = network(torch.rand(2, 3, 64, 96))
    columns = 3 * num_keypoints + 6
    assert network.strides == (8, 16, 32)
    assert [tuple(o.shape) for o in outputs] == [(2, 2, columns, 64 // s, 96 // s) for s in network.strides]


def test_anchor_scale():
    scaled = net(5, 0.125, 0.1, anchor_scale=0.1)
    assert scaled.anchors[0, 0].tolist() == pytest.approx([1.9, 2.7])
    assert scaled.head.anchors[1, 0].tolist() == pytest.approx([9.6 / 16, 6.8 / 16])


def test_initial_biases():
    torch.manual_seed(0)
    network = tiny_net(5)
    for conv, stride in zip(network.head.m, network.strides, strict=True):
        bias = conv.bias.view(3, -1)
        default = conv.weight.shape[1] ** -0.5  # bound of the framework's default
        prior = torch.zeros(21)
        prior[4] = torch.log(torch.tensor(8 / (640 / stride) ** 2))
        prior[5:11] = torch.log(torch.tensor(0.6 / (6 - 0.99)))
        assert ((bias - prior).abs() <= default + 1e-6).all()


def test_initial_weights_are_a_function_of_the_seed():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(tiny_net(5).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_gradient_reaches_every_weight():
    network = tiny_net(5)
    sum(out.square().mean() for out in network(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": [3, 9]}, "net.repeats"),
        ({"anchors": [[[1, 1]]]}, "net.anchors has 1 levels"),
        ({"anchors": [[[1, 1]], [[1, 1], [2, 2]]]}, "same number"),
    ],
)
def test_lists_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        net(5, 0.125, **changes)
