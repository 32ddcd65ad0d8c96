"""The form for inference gives the outputs of the network."""

import copy

import pytest
import torch
from torch import nn

from pose_lab.methods.kapao_inference import decode
from pose_lab.nets.folded import folded
from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.kapao_cases import fixture, net


@pytest.fixture(scope="module")
def published():
    network = net(17).eval()
    network.load_state_dict(fill_state(fixture_path("kapao/state.json")))
    return network


def rows_of(network, dtype):
    with torch.no_grad():
        raw = network(fixture("forward")["image"].to(dtype))
    return decode(raw, network.anchors.float(), network.strides, network.num_keypoints, None)[0]


def test_decoded_rows_equal_published(published):
    """To the fixture's own tolerance: random weights make sizes steep."""
    rows = rows_of(folded(published), torch.float32)[None]
    torch.testing.assert_close(rows, fixture("forward")["decoded"], rtol=0, atol=2e-2)


def test_decoded_rows_equal_those_of_the_plain_network():
    """With initial weights and statistics of pictures: the fixture's steep sizes alone make 2e-3 px of rounding."""
    torch.manual_seed(0)
    network = net(17)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(2, 3, 64, 64))
    network.eval()
    rows, plain = rows_of(folded(network), torch.float32), rows_of(network, torch.float32)
    torch.testing.assert_close(rows, plain, rtol=0, atol=1e-3)


def test_folding_changes_nothing_but_rounding(published):
    double = copy.deepcopy(published).double()
    fast = folded(double, torch.float64)
    with torch.no_grad():
        pairs = zip(fast(fixture("forward")["image"]), double(fixture("forward")["image"].double()), strict=True)
        assert all(torch.allclose(ours, theirs, rtol=0, atol=1e-9) for ours, theirs in pairs)


def test_no_normalisation_is_left_and_the_original_keeps_its_own(published):
    fast = folded(published)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in published.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in published.parameters())


def test_bfloat16_keeps_anchors(published):
    fast = folded(published, torch.bfloat16)
    assert torch.equal(fast.anchors, published.anchors)
    with torch.no_grad():
        outputs = fast(fixture("forward")["image"])
    assert {out.dtype for out in outputs} == {torch.bfloat16}
