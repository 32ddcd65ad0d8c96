"""The network against the published one: names, counts, outputs."""

import pytest
import torch

from pose_lab.nets.folded import folded
from tests.conftest import fixture_path
from tests.fill import empty_state, fill_state
from tests.methods.higherhrnet_cases import fixture, net, tiny_net


@pytest.mark.parametrize(
    ("width", "num_keypoints", "parameters"), [(32, 17, 28_645_331), (48, 17, 63_827_139), (32, 14, 28_641_962)]
)
def test_counts_as_published(width, num_keypoints, parameters):
    with torch.device("meta"):
        network = net(num_keypoints, width)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("width", "file"), [(32, "state.json"), (48, "state_w48.json")])
def test_names_and_shapes_as_published(width, file):
    with torch.device("meta"):
        network = net(17, width)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    published = empty_state(fixture_path(f"higherhrnet/{file}"))
    assert {name: tuple(tensor.shape) for name, tensor in published.items()} == ours


def test_forward_equals_published():
    network = net(17).eval()
    network.load_state_dict(fill_state(fixture_path("higherhrnet/state.json")))
    expected = fixture("forward")
    for number in range(2):
        with torch.no_grad():
            (quarter, half), tags = network(expected[f"image_{number}"])
        both = torch.cat([quarter, tags], 1)
        torch.testing.assert_close(both, expected[f"out_quarter_{number}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(half, expected[f"out_half_{number}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_keypoints", [1, 5])
@pytest.mark.parametrize(("enlargements", "concatenate"), [(0, True), (1, True), (1, False), (2, True)])
def test_shapes_and_gradients(num_keypoints, enlargements, concatenate):
    network = tiny_net(num_keypoints, enlargements=enlargements, concatenate=concatenate)
    heatmaps, tags = network(torch.rand(2, 3, 32, 48))
    assert network.strides == (4, 2, 1)[: enlargements + 1]
    assert [tuple(x.shape) for x in heatmaps] == [(2, num_keypoints, 32 // s, 48 // s) for s in network.strides]
    assert tags.shape == (2, num_keypoints, 8, 12)
    sum(x.square().mean() for x in (*heatmaps, tags)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_folded_network_gives_the_same():
    network = tiny_net(3).eval()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for ours, plain in zip(folded(network)(images)[0], network(images)[0], strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_initial_weights():
    network = tiny_net(3, init_std=0.001)
    assert network.deconv_layers[0][0][0].weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not network.final_layers[1].bias.any()
