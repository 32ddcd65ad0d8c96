"""`python -m pose_lab.checkpoints.convert IN OUT.safetensors`."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pose_lab.checkpoints import kapao
from pose_lab.checkpoints.convert import convert, main
from pose_lab.checkpoints.reading import open_weights
from tests import forked
from tests.checkpoints.crafted import save_published, tiny_net
from tests.conftest import fixture_path
from tests.methods.dekr_cases import tiny_net as tiny_dekr
from tests.methods.higherhrnet_cases import tiny_net as tiny_higherhrnet
from tests.nets.test_hrnet import tiny_trunk


def test_the_command_converts_the_official_file(tmp_path):
    source, target = fixture_path("kapao/official_tiny_stripped.pt"), tmp_path / "tiny.safetensors"
    done = forked.run("pose_lab.checkpoints.convert", str(source), str(target))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}: KAPAO, 17 keypoints, 472 tensors, 228,777 numbers\n"
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.safetensors"]
    before, after = open_weights(source), open_weights(target)
    assert after.format == "safetensors"
    assert before.tensors.keys() == after.tensors.keys() == load_file(target).keys()
    for name, stored in before.tensors.items():
        assert torch.equal(stored.read(), after.tensors[name].read())
        assert stored.read().dtype is after.tensors[name].read().dtype
    with safe_open(target, "pt") as file:
        said = file.metadata()
    assert (said["method"], said["keypoints"], said["source_format"]) == ("KAPAO", "17", "zip")
    assert json.loads(said["channels"]) == [8, 8, 16, 32, 48, 64]
    assert json.loads(said["repeats"]) == [1, 3, 3, 1, 1]
    assert json.loads(said["neck_repeats"]) == 1
    assert json.loads(said["anchors"])[3] == [[436, 615], [739, 380], [925, 792]]
    assert said["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_converted_file_loads_and_converts_again(tmp_path):
    network = tiny_net()
    source = save_published(tmp_path / "a.pt", {"model": network}, _use_new_zipfile_serialization=False)
    convert(source, tmp_path / "b.safetensors")
    first = (tmp_path / "b.safetensors").read_bytes()
    fresh = tiny_net(seed=1)
    kapao.load(fresh, open_weights(tmp_path / "b.safetensors"))
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    convert(tmp_path / "b.safetensors", tmp_path / "b.safetensors")  # in its own place
    assert (tmp_path / "b.safetensors").read_bytes() != first  # its source is now another file
    assert load_file(tmp_path / "b.safetensors").keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("method", "network", "keypoints"),
    [("DEKR", tiny_dekr, "5"), ("HigherHRNet", tiny_higherhrnet, "5"), ("HRNet", lambda _: tiny_trunk(), None)],
)
def test_methods_on_hrnet(tmp_path, method, network, keypoints):
    state = network(5).state_dict()
    torch.save(state, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        said = file.metadata()
    assert (said["method"], said.get("keypoints")) == (method, keypoints)
    assert json.loads(said["width"]) == 4
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(tmp_path / "b.safetensors").items())


def bad_files(folder):
    torch.save({"fc.weight": torch.ones(2)}, folder / "other.pt")
    good, target = str(fixture_path("kapao/official_tiny_stripped.pt")), str(folder / "out.safetensors")
    return {
        "no checkpoint of KAPAO": [str(folder / "other.pt"), target],
        "No such file": [str(folder / "nowhere.pt"), target],
        "must end in .safetensors": [good, str(folder / "out.pt")],
        "there is no folder": [good, str(folder / "nowhere" / "out.safetensors")],
        "1 were given": [good],
    }


def test_what_cannot_be_converted_leaves_one_line_and_no_file(tmp_path, capsys):
    (tmp_path / "out.safetensors").write_text("before")
    for words, arguments in bad_files(tmp_path).items():
        with pytest.raises(SystemExit, match="1"):
            main(arguments)
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert words in shown.err
        assert shown.err.count("\n") == 1
        assert not shown.out
    assert (tmp_path / "out.safetensors").read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"out.safetensors", "other.pt"}


def test_tensors_that_share_their_numbers_cannot_fill_the_memory(tmp_path):
    network = tiny_net()
    one = torch.zeros(200_000)
    state = {name: one.as_strided(tensor.shape, tensor.stride()) for name, tensor in network.state_dict().items()}
    state |= {name: network.state_dict()[name] for name in ("model.33.anchors", "model.33.anchor_grid")}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="its tensors share numbers"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_help(capsys):
    main(["--help"])
    assert "IN OUT.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["a.pt"]])
def test_missing_arguments_are_an_error(capsys, arguments):
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    assert f"give two files, IN and OUT.safetensors; {len(arguments)} were given" in capsys.readouterr().err
