"""The trunk against the published one and against timm's."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pose_lab.nets.hrnet import HRNet, init_normal
from tests.conftest import fixture_path
from tests.fill import empty_state, fill_state


def trunk(width: int, **changes) -> HRNet:
    arguments = {"modules": [1, 4, 3], "blocks": 4, "stem": 64, "stem_blocks": 4, "all_outputs": True}
    return HRNet(width, **(arguments | {"norm_momentum": 0.1} | changes))


def tiny_trunk(**changes) -> HRNet:
    return trunk(4, **({"modules": [1, 1], "blocks": 1, "stem": 8, "stem_blocks": 1} | changes))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return fill_state(fixture_path("dekr/state.json"))


def test_every_stage_equals_published(published):
    net = trunk(32).eval()
    net.load_state_dict({name: published[name] for name in net.state_dict()})
    with np.load(fixture_path("dekr/forward.npz")) as arrays:
        expected = {name: torch.from_numpy(value) for name, value in arrays.items()}
    seen = {}
    net.layer1.register_forward_hook(lambda _m, _i, out: seen.update(layer1=out[:, ::32, ::4, ::4]))
    for stage, step in ((2, 4), (3, 2), (4, 2)):
        net.get_submodule(f"stage{stage}").register_forward_hook(
            lambda _m, _i, out, stage=stage, step=step: seen.update(
                {f"stage{stage}_{branch}": x[:, ::16, ::step, ::step] for branch, x in enumerate(out)}
            )
        )
    with torch.no_grad():
        net.features(expected["image_0"])
    assert len(seen) == 10
    for name, value in seen.items():
        torch.testing.assert_close(value, expected[f"probe_{name}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("width", "all_outputs", "spec"), [(32, True, "dekr"), (48, False, "higherhrnet")])
def test_names_and_shapes_as_published(width, all_outputs, spec):
    with torch.device("meta"):
        net = trunk(width, all_outputs=all_outputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    file = "state.json" if width == 32 else "state_w48.json"
    published = {name: tuple(tensor.shape) for name, tensor in empty_state(fixture_path(f"{spec}/{file}")).items()}
    assert shapes == {name: shape for name, shape in published.items() if name.split(".")[0] in net.trunk}


@pytest.mark.parametrize("width", [32, 48])
def test_names_and_shapes_as_in_timm(width):
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    with torch.device("meta"):
        theirs = timm.create_model(f"hrnet_w{width}", pretrained=False).state_dict()
        ours = trunk(width).trunk_state()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: theirs[name].shape for name in ours}


def test_outputs_of_timms_weights_equal_timms():
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    theirs = timm.create_model("hrnet_w18", pretrained=False).eval()
    net = trunk(18).eval()
    net.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if name in net.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.act1(theirs.bn1(theirs.conv1(image)))
        x = theirs.act2(theirs.bn2(theirs.conv2(x)))
        for ours, expected in zip(net.features(image), theirs.stages(x), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("all_outputs", [True, False])
def test_any_number_of_branches(all_outputs):
    net = tiny_trunk(modules=[1, 2], all_outputs=all_outputs)
    maps = net.features(torch.rand(2, 3, 64, 96))
    sizes = [(2, 4, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6)]
    assert net.stride == 16
    assert [tuple(x.shape) for x in maps] == (sizes if all_outputs else sizes[:1])
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_initial_weights():
    net = tiny_trunk()
    init_normal(net, 0.001)
    weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, torch.nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.05)
    assert net.bn1.weight.eq(1).all()
