"""DEKR's published checkpoints, as files."""

import re

import pytest
import torch

from pose_lab.checkpoints.dekr import config_changes, load
from pose_lab.checkpoints.reading import open_weights
from pose_lab.nets.dekr import DEKRNet
from tests.methods.dekr_cases import CONFIG, tiny_net
from tests.nets.test_hrnet import tiny_trunk


def published_names(net: DEKRNet):
    """The state as the published code would store it."""
    K, state = net.num_keypoints, {}
    for name, tensor in net.state_dict().items():
        if match := re.fullmatch(r"offset_features\.(\d)\.(.+)", name):
            for branch, part in enumerate(tensor.chunk(K) if tensor.ndim else [tensor] * K):
                prefix = f"offset_feature_layers.{branch}.{match[1]}"
                if match[2].startswith("pose_"):
                    kind = match[2].removeprefix("pose_")
                    state[f"{prefix}.transform_matrix_conv.{kind}"] = part[:4].clone()
                    state[f"{prefix}.translation_conv.{kind}"] = part[4:].clone()
                    state[f"{prefix}.regular_matrix"] = torch.zeros(2, 9)
                else:
                    theirs = "adapt_conv.weight" if match[2] == "weight" else match[2]
                    state[f"{prefix}.{theirs}"] = part.clone()
        elif match := re.fullmatch(r"offset_final\.(.+)", name):
            for branch, part in enumerate(tensor.chunk(K)):
                state[f"offset_final_layer.{branch}.{match[1]}"] = part.clone()
        else:
            state[name] = tensor
    return state


@pytest.fixture(scope="module")
def source():
    net = tiny_net(12)  # two digits: branches must not be sorted as words
    for parameter in net.parameters():
        parameter.data.normal_()
    return net


@pytest.mark.parametrize("kind", ["bare", "module", "training"])
def test_published_file(tmp_path, source, kind):
    state = published_names(source)
    if kind != "bare":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {"epoch": 3, "state_dict": state, "optimizer": {}, "perf": 3} if kind == "training" else state
    torch.save(content, tmp_path / "w.pth")
    net = tiny_net(12)
    assert load(net, open_weights(tmp_path / "w.pth")).startswith("all ")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in net.state_dict().items())


def test_network_of_a_checkpoint(tmp_path, source):
    torch.save(published_names(source), tmp_path / "w.pth")
    changes = config_changes(open_weights(tmp_path / "w.pth"), CONFIG["net"])
    assert changes == {"width": 4, "modules": [1, 1], "blocks": 1, "stem": 8, "stem_blocks": 1}


def test_another_number_of_keypoints(tmp_path, source):
    torch.save(published_names(source), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="has 12 keypoints, but the data has 5"):
        load(tiny_net(5), open_weights(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["offset_feature_layers.3.0.bn.weight", "conv1.weight", "head_heatmap.1.bias"])
def test_a_checkpoint_that_is_not_whole(tmp_path, source, name):
    state = published_names(source)
    del state[name]
    torch.save(state, tmp_path / "w.pth")
    net = tiny_net(12)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the network"):
        load(net, open_weights(tmp_path / "w.pth"))
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_a_classifier(tmp_path, source):
    torch.save(tiny_trunk().state_dict() | {"classifier.bias": torch.rand(10)}, tmp_path / "w.pth")
    assert "the head starts anew" in load(tiny_net(12), open_weights(tmp_path / "w.pth"))
