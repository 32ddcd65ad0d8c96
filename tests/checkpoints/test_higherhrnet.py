"""HigherHRNet's published checkpoints, as files."""

import pytest
import torch

from pose_lab.checkpoints.higherhrnet import config_changes, load
from pose_lab.checkpoints.reading import open_weights
from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.higherhrnet_cases import CONFIG, net, tiny_net
from tests.nets.test_hrnet import tiny_trunk


@pytest.fixture(scope="module")
def source():
    network = tiny_net(12)
    for parameter in network.parameters():
        parameter.data.normal_()
    return network


@pytest.mark.parametrize("kind", ["bare", "module", "training"])
def test_published_file(tmp_path, source, kind):
    state = source.state_dict()
    if kind != "bare":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {"epoch": 3, "state_dict": state, "optimizer": {}, "perf": 3} if kind == "training" else state
    torch.save(content, tmp_path / "w.pth")
    network = tiny_net(12)
    assert load(network, open_weights(tmp_path / "w.pth")).startswith("all ")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_published_names_load_into_the_config_as_it_is(tmp_path):
    torch.save(fill_state(fixture_path("higherhrnet/state.json")), tmp_path / "w.pth")
    weights = open_weights(tmp_path / "w.pth")
    assert config_changes(weights, CONFIG["net"]) == {}
    assert load(net(17), weights) == "all 1810 tensors"


@pytest.mark.parametrize(
    "changes", [{}, {"enlargements": 0}, {"enlargements": 2}, {"residual_blocks": 0}, {"concatenate": False}]
)
def test_network_of_a_checkpoint(tmp_path, changes):
    network = tiny_net(5, **changes)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = config_changes(open_weights(tmp_path / "w.pth"), CONFIG["net"])
    small = {"width": 4, "modules": [1, 1], "blocks": 1, "stem": 8, "stem_blocks": 1, "residual_blocks": 1}
    if changes.get("enlargements") == 0:
        del small["residual_blocks"]  # there is nothing to have them
    assert found == small | changes
    load(tiny_net(5, **changes), open_weights(tmp_path / "w.pth"))


def test_another_number_of_keypoints(tmp_path, source):
    torch.save(source.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="has 12 keypoints, but the data has 5"):
        load(tiny_net(5), open_weights(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["deconv_layers.0.1.0.bn1.weight", "conv1.weight", "final_layers.1.bias"])
def test_a_checkpoint_that_is_not_whole(tmp_path, source, name):
    state = dict(source.state_dict())
    del state[name]
    torch.save({key: tensor + 1 for key, tensor in state.items()}, tmp_path / "w.pth")
    network = tiny_net(12)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the network"):
        load(network, open_weights(tmp_path / "w.pth"))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_a_classifier(tmp_path):
    torch.save(tiny_trunk().state_dict() | {"classifier.bias": torch.rand(10)}, tmp_path / "w.pth")
    network = tiny_net(12)
    assert "the head starts anew" in load(network, open_weights(tmp_path / "w.pth"))
    assert config_changes(open_weights(tmp_path / "w.pth"), CONFIG["net"])["width"] == 4


def test_weights_of_dekr(tmp_path):
    torch.save(tiny_trunk().state_dict() | {"offset_final_layer.0.weight": torch.rand(2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="look like weights of DEKR"):
        load(tiny_net(12), open_weights(tmp_path / "w.pth"))
