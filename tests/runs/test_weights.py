"""Runs that start from a checkpoint, and runs that only evaluate one."""

import json
import re
import shutil

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from pose_lab.checkpoints.convert import convert
from pose_lab.checkpoints.reading import open_weights
from pose_lab.runs.checkpoints import LAST
from pose_lab.runs.identity import run_folder
from pose_lab.runs.train import LABELS, build, fingerprint, train
from pose_lab.runs.weights import checkpoint_file, fitted, load_weights
from tests import forked
from tests.checkpoints.crafted import save_published, tiny_net
from tests.configs import TINY, composed
from tests.conftest import fixture_path

# the demo's network has two levels; published ones have four
PUBLISHED = (*TINY, "method.level_weights=[4.0,1.0,0.25,0.06]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def published():
    return fixture_path("kapao/official_tiny_stripped.pt")


def evaluated(path, results, cache, *changes):
    return train(
        composed(*PUBLISHED, "training.epochs=0", f"checkpoint={path}", *changes, results=results, cache=cache)
    )


def results_of(folder):
    numbers = {key: value for key, value in folder.metrics().items() if key not in ("commit", "seconds")}
    return numbers, folder.predictions.read_text()


def test_without_training_the_checkpoint_is_evaluated(published, tmp_path, cache, capsys):
    folder = evaluated(published, tmp_path, cache)
    assert folder.status().state == "finished"
    numbers, predictions = results_of(folder)
    assert numbers["weights"] == "checkpoint"
    assert "epochs" not in numbers  # nobody trained here
    assert numbers["parameters"] == 225_084
    assert len(json.loads(predictions)) > 0
    assert not folder.checkpoints.exists()
    told = capsys.readouterr().out
    assert f"start    all 472 tensors of {published}" in told
    assert "people   as published: clip_keypoints first_two, clip_objects True" in told
    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert config["method"]["net"]["channels"] == [8, 8, 16, 32, 48, 64]
    assert config["method"]["net"]["anchors"][0][0] == [19, 27]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("training.epochs=0",), "first_two"),
        (("training.epochs=1",), "all"),
        (("training.epochs=0", "checkpoint_network=config"), "all"),
    ],
)
def test_published_weights_are_evaluated_as_they_were_published(changes, expected, published):
    found = OmegaConf.to_container(fitted(composed(*PUBLISHED, f"checkpoint={published}")).method.net)
    cfg = composed(*PUBLISHED, f"checkpoint={published}", *changes)
    cfg.method.net.update(found)  # so that `config` has nothing to refuse
    cfg = fitted(cfg)
    assert cfg.method.inference.clip_keypoints == expected
    assert cfg.method.inference.round_boxes is (expected == "first_two")


def test_what_was_published_can_be_changed_by_name(published):
    cfg = fitted(composed(*PUBLISHED, f"checkpoint={published}", "training.epochs=0",
                          "method.published_inference.round_boxes=false"))  # fmt: skip
    assert (cfg.method.inference.round_boxes, cfg.method.inference.clip_keypoints) == (False, "first_two")


def test_our_own_weights_are_evaluated_as_configured(tmp_path, cache):
    trained = train(composed(*TINY, "training.epochs=1", results=tmp_path, cache=cache))
    cfg = fitted(composed(*TINY, "training.epochs=0", f"checkpoint={trained.path}"))
    assert cfg.method.inference.clip_keypoints == "all"
    converted = tmp_path / "own.safetensors"
    convert(trained.checkpoints / LAST, converted)
    cfg = fitted(composed(*TINY, "training.epochs=0", f"checkpoint={converted}"))
    assert cfg.method.inference.clip_keypoints == "all"


def test_a_method_is_filled(published):
    method = build(fitted(composed(*PUBLISHED, f"checkpoint={published}")).method, LABELS)
    assert load_weights(method, published) == f"all 472 tensors of {published}"
    stored = open_weights(published).tensors
    state = method.net.state_dict()
    assert all(torch.equal(tensor, stored[name].read().to(tensor.dtype)) for name, tensor in state.items())


def test_every_format_of_the_same_weights_gives_the_same_result(published, tmp_path, cache):
    convert(published, tmp_path / "tiny.safetensors")
    first = evaluated(published, tmp_path / "a", cache)
    second = evaluated(tmp_path / "tiny.safetensors", tmp_path / "b", cache)
    assert results_of(first) == results_of(second)
    assert first.name != second.name  # other bytes, another run


def test_the_content_of_the_file_is_part_of_the_run(published, tmp_path, cache):
    def folder(*changes, base=PUBLISHED):
        cfg = composed(*base, *changes, results=tmp_path, cache=cache)
        return run_folder(cfg, fingerprint(cfg))

    copy = tmp_path / "copy.pt"
    shutil.copyfile(published, copy)
    other = save_published(tmp_path / "other.pt", {"model": tiny_net(17, seed=6)})
    assert folder(f"checkpoint={copy}") == folder(f"checkpoint={published}")
    assert folder(f"checkpoint={other}") != folder(f"checkpoint={published}")
    assert folder(base=TINY) != folder(f"checkpoint={published}")
    before = folder(f"checkpoint={copy}")
    shutil.copyfile(other, copy)
    assert folder(f"checkpoint={copy}") == folder(f"checkpoint={other}") != before


def test_training_starts_from_the_weights(published, tmp_path, cache):
    still = ("training.epochs=1", "method.optimisation.lr=0", "method.optimisation.weight_decay=0")
    cfg = composed(*PUBLISHED, *still, f"checkpoint={published}", results=tmp_path, cache=cache)
    folder = train(cfg)
    assert folder.metrics()["weights"] == "last"
    trained = open_weights(folder.checkpoints / LAST).tensors
    start = open_weights(published).tensors
    weights = [name for name in start if not re.search("running|num_batches", name)]
    assert len(weights) > 100
    assert all(torch.equal(trained[name].read(), start[name].read().float()) for name in weights)


def test_a_run_evaluates_another_run(tmp_path, cache):
    source = train(composed(*TINY, results=tmp_path / "source", cache=cache))
    changes = (*TINY, "training.epochs=0", f"checkpoint={source.path}")
    again = train(composed(*changes, results=tmp_path / "again", cache=cache))
    assert again.predictions.read_text() == source.predictions.read_text()
    assert again.metrics()["AP"] == source.metrics()["AP"]
    file = composed(*TINY, "training.epochs=0", f"checkpoint={source.checkpoints / LAST}", cache=cache)
    assert run_folder(file, fingerprint(file)).name == again.name


def test_a_network_of_the_checkpoints_size_is_left_as_it_was_written(tmp_path):
    save_published(tmp_path / "a.pt", {"model": tiny_net(17)})
    sizes = ("method.net.width=0.0625", "method.net.depth=0.1", "method.net.channels=[64,128,256,512,768,1024]")
    anchors = composed("scale=paper").method.net.anchors
    cfg = composed(*sizes, "scale=paper", f"checkpoint={tmp_path / 'a.pt'}")
    assert fitted(cfg).method.net == cfg.method.net
    assert cfg.method.net.anchors == anchors


def test_a_network_of_the_config_that_differs_is_refused_with_what_fits(tmp_path):
    save_published(tmp_path / "a.pt", {"model": tiny_net(17)})
    cfg = composed("scale=paper", f"checkpoint={tmp_path / 'a.pt'}", "checkpoint_network=config")
    with pytest.raises(ValueError, match=r"this would fit: method\.net\.width=0\.0625 method\.net\.depth=0\.11"):
        fitted(cfg)
    fitting = ("method.net.width=0.0625", "method.net.depth=0.11")
    fitted(composed("scale=paper", f"checkpoint={tmp_path / 'a.pt'}", "checkpoint_network=config", *fitting))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["checkpoint=nowhere.pt"], "checkpoint=nowhere.pt: there is no such file or run folder"),
        (["checkpoint=pose_lab"], "checkpoint=pose_lab is no run's folder"),
        (["checkpoint=README.md"], r"README\.md is no checkpoint of torch or safetensors"),
        (["checkpoint=README.md", "checkpoint_network=x"], "checkpoint_network is 'x'; there are: file, config"),
        (["training.epochs=0"], "training.epochs=0 only evaluates.*add checkpoint=FILE"),
    ],
)
def test_wrong_checkpoints_end_before_there_is_a_run(changes, message, tmp_path, cache):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(composed(*TINY, *changes, results=tmp_path, cache=cache))
    assert not list(tmp_path.iterdir())


def test_another_number_of_keypoints_ends_before_training(published, tmp_path, cache):
    with pytest.raises(ValueError, match="has 17 keypoints, but the data has 14"):
        evaluated(published, tmp_path / "results", cache, "benchmark=crowdpose")
    assert not list(tmp_path.glob("results/*/*/*/metrics.json"))


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("training: {evaluate: best}")
    with pytest.raises(FileNotFoundError, match=r"this run has no checkpoints/best\.ckpt yet"):
        checkpoint_file(tmp_path)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, cache):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    places = [f"results={tmp_path}", f"machine.cache={cache}", f"checkpoint={tmp_path / 'page.pt'}"]
    done = forked.run("pose_lab.run", *TINY, *places)
    assert done.returncode == 1
    assert f"error: {tmp_path / 'page.pt'} is no checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_checkpoint_made_of_the_config_is_part_of_the_run(published, tmp_path, cache):
    found = OmegaConf.to_container(fitted(composed(*PUBLISHED, f"checkpoint={published}")).method.net)
    ways = ((), ("checkpoint_network=config",), ("method.published_inference.round_boxes=false",))
    prints = set()
    for changes in ways:
        cfg = composed(
            *PUBLISHED, "training.epochs=0", f"checkpoint={published}", *changes, results=tmp_path, cache=cache
        )
        cfg.method.net.update(found)  # so that `config` has nothing to refuse
        prints.add(fingerprint(cfg))
    assert len(prints) == len(ways)


def test_an_experiment_about_published_inference_varies_it(published):
    changes = ("training.epochs=0", "weights_of={method.inference.mapping: exact}", f"checkpoint={published}")
    cfg = fitted(composed(*PUBLISHED, *changes))
    assert cfg.method.inference.mapping == "exact"
    assert cfg.method.inference.clip_keypoints == "first_two"


def test_cells_that_evaluate_a_file_need_no_run_that_trains(published, tmp_path, cache):
    changes = ("weights_of={method.inference.fusion: true}", "method.inference.fusion=false")
    folder = evaluated(published, tmp_path, cache, *changes)
    assert folder.metrics()["weights"] == "checkpoint"
    assert len(list(folder.path.parent.glob("*/config.yaml"))) == 1
