"""What KAPAO's checkpoints tell about their network, and what does not fit it."""

import pytest
import torch

from pose_lab.checkpoints import kapao
from pose_lab.checkpoints.reading import StoredTensor, Weights, open_weights
from tests.checkpoints.crafted import save_published, tiny_net
from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.kapao_cases import CONFIG, net
from tests.nets.test_csp import SIZES


def weights_of(state, path="a.pt"):
    tensors = {name: StoredTensor(tuple(tensor.shape), tensor.clone) for name, tensor in state.items()}
    return Weights(path, "zip", tensors, own=False)


def changed(state, remove=(), **additions):
    return {name: tensor for name, tensor in state.items() if name not in remove} | additions


@pytest.mark.parametrize("num_keypoints", [17, 14])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_found_from_the_tensors(size, num_keypoints):
    width, depth = SIZES[size]
    with torch.device("meta"):
        state = net(num_keypoints, width, depth).state_dict()
    anchors = fill_state(fixture_path("kapao/state.json"))
    state |= {name: anchors[name] for name in ("model.33.anchors", "model.33.anchor_grid")}
    found = kapao.architecture(weights_of(state))
    assert found.num_keypoints == num_keypoints
    for other in SIZES:
        config = CONFIG["net"] | dict(zip(("width", "depth"), SIZES[other], strict=True))
        changes = kapao.config_changes(found, config)
        expected = {"width": (width, 1.0), "depth": (depth, 1.0)}
        differing = {"width": SIZES[other][0] != width, "depth": SIZES[other][1] != depth}
        assert changes == {key: expected[key][0] for key, differs in differing.items() if differs}


def test_a_network_that_no_width_or_depth_makes():
    channels, repeats = [16, 24, 48, 80], [2, 5, 3]
    anchors = [[[3, 3], [6, 6]], [[14, 34], [24, 66]]]
    custom = {"channels": channels, "repeats": repeats, "neck_repeats": 4, "anchors": anchors}
    torch.manual_seed(0)
    network = net(5, 1.0, 1.0, **custom)
    config = CONFIG["net"] | {"width": 0.5, "depth": 0.33}
    changes = kapao.config_changes(kapao.architecture(weights_of(network.state_dict())), config)
    assert changes == custom | {"width": 1.0, "depth": 1.0, "anchor_scale": 1.0}
    fresh = net(5, **changes)
    assert kapao.load(fresh, weights_of(network.state_dict())) == f"all {len(fresh.state_dict())} tensors"
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def test_anchors_are_those_of_the_file():
    network = tiny_net()
    network.head.anchors *= 1.25
    network.head.anchor_grid *= 1.25
    weights = weights_of(network.state_dict())
    config = CONFIG["net"] | {"width": 0.0625, "depth": 0.1}
    changes = kapao.config_changes(kapao.architecture(weights), config)
    assert changes.keys() == {"anchors", "anchor_scale"}
    assert changes["anchors"][0][0] == [19 * 1.25, 27 * 1.25]
    fresh = tiny_net(seed=1)  # with the config's anchors
    kapao.load(fresh, weights)
    assert torch.equal(fresh.anchors, network.anchors)
    assert torch.equal(fresh.head.anchors, network.head.anchors)


def test_scaled_anchors_of_the_config_are_recognised():
    network = tiny_net(anchor_scale=0.2)
    found = kapao.architecture(weights_of(network.state_dict()))
    assert not kapao.config_changes(found, CONFIG["net"] | {"width": 0.0625, "depth": 0.1, "anchor_scale": 0.2})


def test_another_number_of_keypoints_says_both():
    fresh = tiny_net(14)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=r"a\.pt has 17 keypoints, but the data has 14"):
        kapao.load(fresh, weights_of(tiny_net(17).state_dict()))
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_tensors_that_do_not_fit_are_listed_with_shapes():
    state = tiny_net().state_dict()
    wrong = changed(
        state,
        remove=("model.26.cv1.conv.weight", "model.5.bn.bias"),
        **{"model.3.bn.weight": torch.ones(5), "model.34.extra": torch.ones(2, 3), "x\n": torch.ones(())},
    )
    fresh, before = tiny_net(seed=1), tiny_net(seed=1).state_dict()
    with pytest.raises(ValueError, match="does not fit the network") as error:
        kapao.load(fresh, weights_of(wrong))
    message = str(error.value)
    assert "2 missing:\n  model.5.bn.bias (32)\n  model.26.cv1.conv.weight (16, 32, 1, 1)" in message
    assert "2 surplus:\n  model.34.extra (2, 3)\n  x\\n ()" in message
    assert "1 of another shape:\n  model.3.bn.weight (5), wanted (16)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


def test_a_list_of_many_tensors_ends():
    wrong = changed(tiny_net().state_dict(), **{f"model.40.{number}": torch.ones(1) for number in range(50)})
    with pytest.raises(ValueError, match=r"50 surplus:(\n  model\.40\.\d+ \(1\)){20}\n  \.\.\. and 30 more"):
        kapao.load(tiny_net(), weights_of(wrong))


def detector(classes=80, seed=0, **changes):
    """YOLOv5's network: KAPAO's trunk, and 5 + classes outputs per anchor."""
    network = tiny_net(seed=seed, **changes)
    for level, conv in enumerate(network.head.m):
        network.head.m[level] = torch.nn.Conv2d(conv.in_channels, 3 * (5 + classes), 1)
    return network


def test_a_detectors_trunk_is_taken(tmp_path):
    trained = detector().half()
    weights = open_weights(save_published(tmp_path / "yolov5s6.pt", {"model": trained, "ema": None, "epoch": -1}))
    assert kapao.architecture(weights).num_keypoints is None
    fresh, untouched = tiny_net(seed=1), tiny_net(seed=1).state_dict()
    state = trained.state_dict()
    took = kapao.load(fresh, weights)
    assert took == f"{len(state) - 10} of {len(state)} tensors, the trunk of a detector; the head starts anew"
    for name, tensor in fresh.state_dict().items():
        source = untouched if name.startswith("model.33.") else state
        assert torch.equal(tensor, source[name].to(tensor.dtype)), name


def test_a_detectors_anchors_are_not_taken():
    network = detector()
    network.head.anchors *= 2
    network.head.anchor_grid *= 2
    weights = weights_of(network.state_dict())
    assert kapao.config_changes(kapao.architecture(weights), CONFIG["net"] | {"width": 0.5, "depth": 0.1}) == {
        "width": 0.0625
    }
    fresh, anchors = tiny_net(seed=1), tiny_net().anchors
    kapao.load(fresh, weights)
    assert torch.equal(fresh.anchors, anchors)


def test_a_damaged_detector_is_refused():
    wrong = changed(detector().state_dict(), remove=("model.12.conv.weight",))
    with pytest.raises(ValueError, match=r"1 missing:\n  model\.12\.conv\.weight \(48, 64, 1, 1\)"):
        kapao.load(tiny_net(), weights_of(wrong))


NO_KAPAO = [
    ("model.0.conv.conv.weight is missing", {"fc.weight": torch.ones(3)}),
    ("model.0.conv.conv.weight is missing", {"model.0.conv.weight": torch.ones(32, 3, 6, 6)}),  # YOLOv5 since 6.0
    ("look like weights of DEKR", {"conv1.weight": torch.ones(1), "offset_final_layer.0.weight": torch.ones(1)}),
    ("look like weights of HigherHRNet", {"stage4.0.x": torch.ones(1), "deconv_layers.0.0.0.weight": torch.ones(1)}),
    ("look like weights of HRNet", {"conv1.weight": torch.ones(1), "stage4.0.branches.0": torch.ones(1)}),
    ("look like weights of OpenPose", {"model0.conv1_1.weight": torch.ones(1)}),
    ("look like weights of AlphaPose", {"preact.conv1.weight": torch.ones(1)}),
]


@pytest.mark.parametrize(("match", "state"), NO_KAPAO)
def test_other_networks_are_named(match, state):
    with pytest.raises(ValueError, match=rf"a\.pt is no checkpoint of KAPAO or of a YOLOv5 detector .*{match}"):
        kapao.architecture(weights_of(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_anchors_that_are_no_sizes(value):
    state = tiny_net().state_dict()
    state["model.33.anchor_grid"][0, 0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"tensor model\.33\.anchors is missing or of an odd shape"):
        kapao.architecture(weights_of(state))
