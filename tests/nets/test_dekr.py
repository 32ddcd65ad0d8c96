"""The network against the published one: names, counts, outputs."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from pose_lab.checkpoints.dekr import load, stacked
from pose_lab.checkpoints.reading import StoredTensor, Weights
from pose_lab.nets.dekr import AdaptiveBlock, deformed
from pose_lab.nets.folded import folded
from tests.conftest import fixture_path
from tests.fill import empty_state, fill_state
from tests.methods.dekr_cases import fixture, net, tiny_net


def weights_of(state):
    """Tensors as if read from a file."""
    tensors = {n: StoredTensor(tuple(t.shape), lambda t=t: t) for n, t in state.items()}
    return Weights("memory", "zip", tensors, own=False)


@pytest.mark.parametrize(
    ("width", "num_keypoints", "parameters"), [(32, 17, 29_561_182), (48, 17, 65_684_590), (32, 14, 29_522_071)]
)
def test_counts_as_published(width, num_keypoints, parameters):
    with torch.device("meta"):
        network = net(num_keypoints, width)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_published_names_and_shapes_of_the_wide_network():
    with torch.device("meta"):
        network = net(17, 48)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = stacked(weights_of(empty_state(fixture_path("dekr/state_w48.json")))).tensors
    assert {name: tensor.shape for name, tensor in theirs.items()} == ours


def test_forward_equals_published():
    network = net(17).eval()
    said = load(network, weights_of(fill_state(fixture_path("dekr/state.json"))))
    assert said.startswith("all ")
    expected = fixture("forward")
    seen = {}
    network.transition_heatmap.register_forward_hook(lambda _m, _i, out: seen.update(heat=out[:, ::8, ::4, ::4]))
    network.transition_offset.register_forward_hook(
        lambda _m, _i, out: seen.update(offset=out[:, ::15, ::4, ::4].clone())
    )
    for number in (1, 0):  # what is seen last is compared
        with torch.no_grad():
            heatmaps, offsets = network(expected[f"image_{number}"])
        torch.testing.assert_close(heatmaps, expected[f"heatmap_{number}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(offsets, expected[f"offset_{number}"], rtol=0, atol=1e-4)
    torch.testing.assert_close(seen["heat"], expected["probe_transition_heatmap"], rtol=0, atol=1e-4)
    torch.testing.assert_close(seen["offset"], expected["probe_transition_offset"], rtol=0, atol=1e-4)


def test_adaptive_block_equals_published():
    block = AdaptiveBlock(15, 1).eval()
    state = fill_state(fixture_path("dekr/adapt_block_state.json"))
    named = weights_of({f"offset_feature_layers.0.0.{name}": tensor for name, tensor in state.items()})
    block.load_state_dict({n.removeprefix("offset_features.0."): t.read() for n, t in stacked(named).tensors.items()})
    expected = fixture("adapt_block")
    cases = [name for name in expected if name.startswith("x_")]
    assert cases
    for name in cases:
        number = name.removeprefix("x_")
        with torch.no_grad():
            sampling = block.sampling_offsets(expected[name])
            output = block(expected[name])
        torch.testing.assert_close(sampling, expected[f"sampling_offset_{number}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(output, expected[f"y_{number}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("convolution", ["adaptive", "plain", "basic"])
def test_branches_see_their_own_channels_alone(convolution):
    network = tiny_net(3, convolution=convolution, dilation=1 if convolution == "adaptive" else 2).eval()
    x = torch.rand(1, 9, 8, 8)
    changed = x.clone()
    changed[:, 3:6] += 1  # the second branch's
    with torch.no_grad():
        difference = network.offset_final(network.offset_features(x)) - network.offset_final(
            network.offset_features(changed)
        )
    moved = difference.abs().amax((0, 2, 3)) > 0
    assert moved.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("num_keypoints", [1, 5])
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("convolution", ["adaptive", "plain", "basic"])
def test_shapes_and_gradients(num_keypoints, separate, convolution):
    network = tiny_net(num_keypoints, separate=separate, convolution=convolution)
    heatmaps, offsets = network(torch.rand(2, 3, 32, 48))
    assert heatmaps.shape == (2, num_keypoints + 1, 8, 12)
    assert offsets.shape == (2, 2 * num_keypoints, 8, 12)
    (heatmaps.square().mean() + offsets.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 1), (3, 1)])
def test_deformed_equals_torchvision(height, width):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, height, width), (2, 36, height, width), (6, 3, 3, 3)]
    x, moved, weight = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    ours = deformed(x, 3 * moved, weight)
    theirs = deform_conv2d(x, 3 * moved, weight, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), (x, moved, weight)),
        torch.autograd.grad(theirs.square().sum(), (x, moved, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-2)


def test_taps_of_a_new_adaptive_block_start_in_the_middle():
    block = AdaptiveBlock(6, 2)
    sampling = block.sampling_offsets(torch.rand(1, 6, 4, 4))
    places = sampling[0, :, 0, 0].view(2, 9, 2) + block.regular.view(9, 2)
    assert not places.any()


def test_unknown_convolution():
    with pytest.raises(ValueError, match="there are: adaptive, plain, basic"):
        tiny_net(2, convolution="deformable")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_folded_network_gives_the_same_in_every_precision(dtype):
    torch.manual_seed(0)
    network = tiny_net(17)
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, AdaptiveBlock):  # taps that move
                block.pose_weight.normal_(std=0.1)
        network(torch.rand(8, 3, 64, 64))
        network.eval()
        images = torch.rand(1, 3, 64, 96)
        pairs = zip(folded(network, dtype)(images), network(images), strict=True)
        for ours, plain in pairs:
            assert ours.dtype == dtype
            close = 1e-4 if dtype is torch.float32 else 16 * torch.finfo(dtype).eps
            assert (ours.float() - plain).abs().max() < close * plain.abs().max()


def test_places_are_exact_in_half_precision():
    """A map of 200 columns, each tap moved ten to the right, where bfloat16 would round places."""
    x = torch.arange(200.0).remainder(50).expand(1, 1, 4, 200).bfloat16()
    offsets = torch.tensor([0.0, 10.0]).repeat(9).view(1, 18, 1, 1).expand(1, 18, 4, 200).bfloat16()
    middle = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    middle[..., 1, 1] = 1
    moved = deformed(x, offsets, middle)
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close(moved[..., :190], x[..., 10:], rtol=0, atol=0.05)
