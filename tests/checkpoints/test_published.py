"""Checkpoints as the published training script leaves them: names, shapes, values, outputs."""

import json

import pytest
import torch

from pose_lab.checkpoints import kapao
from pose_lab.checkpoints.reading import open_weights
from tests.checkpoints.crafted import save_published, tiny_net
from tests.conftest import fixture_path
from tests.methods.kapao_cases import CONFIG, fixture, net


def loaded(weights, num_keypoints=17):
    settings = {"width": 1.0, "depth": 1.0}
    settings |= kapao.config_changes(kapao.architecture(weights), CONFIG["net"] | settings)
    network = net(num_keypoints, **settings).eval()
    kapao.load(network, weights)
    return network


@pytest.mark.parametrize("file", ["official_tiny.pt", "official_tiny_stripped.pt"])
def test_official_files(file):
    weights = open_weights(fixture_path(f"kapao/{file}"))
    shapes = json.loads(fixture_path("kapao/official_tiny_shapes.json").read_text())
    assert weights.format == "zip"
    assert {name: list(tensor.shape) for name, tensor in weights.tensors.items()} == shapes
    expected = fixture("official_tiny")
    network = loaded(weights)
    with torch.no_grad():
        raw = network(expected["image"])
    for level, output in enumerate(raw):
        torch.testing.assert_close(output.movedim(2, -1), expected[f"raw{level}"], rtol=0, atol=1e-4)


def test_official_file_of_another_method():
    path = fixture_path("yolo_pose/official_tiny.pt")
    weights = open_weights(path)
    content = json.loads(fixture_path("yolo_pose/official_tiny.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in weights.tensors.items()} == content["state_shapes"]
    with pytest.raises(ValueError, match=r"no checkpoint of KAPAO.*weights of YOLO-Pose"):
        kapao.load(tiny_net(), weights)


FORMATS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
    "legacy, protocol 3": {"_use_new_zipfile_serialization": False, "pickle_protocol": 3},
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_modules_in_every_format(tmp_path, options, half):
    network = tiny_net().half() if half else tiny_net()
    path = save_published(tmp_path / "a.pt", {"epoch": -1, "model": network, "ema": None}, **options)
    weights = open_weights(path)
    assert weights.format == ("legacy" if "_use_new_zipfile_serialization" in options else "zip")
    state = network.state_dict()
    assert list(weights.tensors) == list(state)
    assert all(torch.equal(weights.tensors[name].read(), tensor) for name, tensor in state.items())
    fresh = loaded(weights)
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in fresh.state_dict().items())


def test_the_average_is_better_than_the_model(tmp_path):
    model, average = tiny_net(seed=0), tiny_net(seed=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
    optimiser.step()
    content = {"epoch": 3, "model": model, "ema": average, "updates": 7, "optimizer": optimiser.state_dict()}
    weights = open_weights(save_published(tmp_path / "a.pt", content))
    assert all(torch.equal(weights.tensors[name].read(), tensor) for name, tensor in average.state_dict().items())


def plain(state):
    return dict(state)


def of_training(state):
    return {"epoch": 1, "model": "pose_model", "state_dict": {f"module.{k}": v for k, v in state.items()}, "perf": 0.5}


def of_modules_key(state):
    return {"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(5)}}}}


@pytest.mark.parametrize("content", [plain, of_training, of_modules_key])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_state_dicts(tmp_path, content, legacy):
    state = tiny_net().state_dict()  # an ordered dictionary with attributes
    torch.save(content(state), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    weights = open_weights(tmp_path / "a.pth")
    assert all(torch.equal(weights.tensors[name].read(), tensor) for name, tensor in state.items())
    assert len(weights.tensors) == len(state)


def test_views_of_one_storage_and_other_orders_in_memory(tmp_path):
    numbers = torch.arange(48.0)
    tensors = {
        "middle": numbers[10:20],
        "columns": numbers.view(6, 8)[:, 2:4],
        "transposed": numbers.view(6, 8).T,
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "none": torch.empty(0, 3),
        "whole": torch.tensor(5),
        "bfloat16": torch.rand(3).bfloat16(),
        "bool": torch.tensor([True, False]),
    }
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        read = {name: tensor.read() for name, tensor in open_weights(tmp_path / "a.pt").tensors.items()}
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
        assert all(read[name].dtype is tensor.dtype for name, tensor in tensors.items())


def test_a_buffer_that_is_not_persistent_is_no_weight(tmp_path):
    network = tiny_net()
    network.head.register_buffer("grid", torch.zeros(3), persistent=False)
    weights = open_weights(save_published(tmp_path / "a.pt", {"model": network}))
    assert list(weights.tensors) == list(network.state_dict())
