"""ImageNet's weights, published or timm's, in a trunk."""

import pytest
import torch

from pose_lab.checkpoints.hrnet import config_changes, is_trunk, load_trunk
from pose_lab.checkpoints.reading import open_weights
from tests.nets.test_hrnet import tiny_trunk

CLASSIFIER = {"incre_modules.0.0.conv1.weight": torch.rand(4, 4, 1, 1), "classifier.bias": torch.rand(10)}


def saved(path, state, **changes):
    torch.save(state | changes, path)
    return open_weights(path)


@pytest.mark.parametrize("all_outputs", [True, False])
@pytest.mark.parametrize("counters", [True, False])
def test_trunk_of_a_classifier(tmp_path, all_outputs, counters):
    source, net = tiny_trunk(), tiny_trunk(all_outputs=all_outputs)
    state = {name: tensor for name, tensor in source.state_dict().items() if counters or "num_batches" not in name}
    weights = saved(tmp_path / "imagenet.pth", state | CLASSIFIER)
    assert is_trunk(weights)
    said = load_trunk(net, weights)
    assert "the trunk of a classifier" in said
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_architecture_is_read_off_the_shapes(tmp_path):
    weights = saved(tmp_path / "w.pth", tiny_trunk(modules=[1, 2, 1], blocks=2, stem_blocks=3).state_dict())
    found = {"width": 4, "modules": [1, 2, 1], "blocks": 2, "stem": 8, "stem_blocks": 3}
    assert config_changes(weights, found | {"width": 32, "stem": 64}) == {"width": 4, "stem": 8}
    assert config_changes(weights, found) == {}


@pytest.mark.parametrize(
    "name", ["conv1.weight", "stage2.0.branches.0.0.conv1.weight", "stage3.0.fuse_layers.1.0.0.0.weight"]
)
def test_a_trunk_that_is_not_whole(tmp_path, name):
    net = tiny_trunk()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    state = dict(net.state_dict())
    del state[name]
    weights = saved(tmp_path / "half.pth", {key: tensor + 1 for key, tensor in state.items()})
    with pytest.raises(ValueError, match=f"1 missing:\n  {name}"):
        load_trunk(net, weights)
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_no_hrnet(tmp_path):
    weights = saved(tmp_path / "other.pth", {"model.1.m_kpt.weight": torch.rand(2)})
    with pytest.raises(ValueError, match=r"holds no HRNet.*YOLO-Pose"):
        config_changes(weights, {})
    assert not is_trunk(weights)
