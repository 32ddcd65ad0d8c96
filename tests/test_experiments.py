"""Every shipped experiment composes at every scale, and its demo trains a few steps."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pose_lab.runs.resolvers import SCALES
from pose_lab.runs.search_path import FOLDERS, names
from pose_lab.runs.train import LABELS, build, train
from tests import forked
from tests.configs import composed
from tests.conftest import ROOT, shared_data

EXPERIMENTS = names("experiment")
FEW_STEPS = (
    "hydra.mode=RUN",
    "training.epochs=1",
    "training.limit_batches=2",
    "training.validate_every=1",
    "data.batch_size=4",
    "machine.accelerator=cpu",
    "logger=none",
)
SMALL_DATA = ("data.settings.train_images=12", "data.settings.val_images=4")


def root_for(cfg):
    """What `data.root` has to be for a config that reads real data."""
    return [] if "settings" in cfg.data else [f"data.root={shared_data('coco_mini')}"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_composes_at_every_scale(name, scale):
    cfg = composed(f"experiment={name}", f"scale={scale}", "++data.root=somewhere")
    content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert content["name"] == name
    assert content["scale"] == scale
    assert content["training"]["epochs"] > 0
    with torch.device("meta"):  # the widest networks, without their weights
        build(cfg.method, LABELS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_demo_trains_some_steps(name, tmp_path, cache):
    plain = composed(f"experiment={name}", "++data.root=somewhere")
    data = SMALL_DATA if "settings" in plain.data else root_for(plain)
    folder = train(composed(f"experiment={name}", *FEW_STEPS, *data, results=tmp_path, cache=cache))
    assert folder.status().state == "finished"
    assert 0 <= folder.metrics()["AP"] <= 1
    assert folder.metrics()["steps"] == 2
    timed = any(name.startswith(("ms_", "latency")) for name in folder.metrics())
    assert timed == (plain.latency is not None)  # only if asked


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_opens_with_its_command_cost_and_expectation(name):
    text = (ROOT / "experiments" / f"{name}.yaml").read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert any(f"python -m pose_lab.run experiment={name}" in line for line in comment)
    assert any("Costs" in line for line in comment)
    assert any("Expect" in line for line in comment)


def command(*arguments, cwd):
    return forked.run("pose_lab.run", *arguments, cwd=cwd)


def test_misspelt_experiment_lists_the_valid_ones(tmp_path):
    done = command("experiment=kapao_bs_sweeep", cwd=tmp_path)
    assert done.returncode == 1
    assert all(name in done.stderr for name in EXPERIMENTS)
    assert "Traceback" not in done.stderr


def test_unknown_key_is_named(tmp_path):
    done = command("training.epoch=3", cwd=tmp_path)
    assert done.returncode == 1
    assert "training.epoch" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_groups_and_names_from_any_folder(tmp_path):
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in EXPERIMENTS)
    assert all(f"{group}:" in done.stdout for group in (*FOLDERS, "method", "data", "scale"))


def test_own_experiments_beside_the_working_directory_hide_none(tmp_path):
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    done = command("--help", cwd=tmp_path / "experiments")
    assert "mine" in done.stdout
    assert "kapao_bs_sweep" in done.stdout


def test_missing_data_root_says_what_is_expected(tmp_path):
    done = command("data=coco", f"data.root={tmp_path / 'nowhere'}", "logger=none", cwd=tmp_path)
    assert done.returncode == 1
    assert "person_keypoints_train2017.json" in done.stderr
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_root_that_was_not_given_is_asked_for(tmp_path):
    done = command("data=coco", "logger=none", cwd=tmp_path)
    assert done.returncode == 1
    assert "data.root" in done.stderr
    assert "Traceback" not in done.stderr


def test_wheel_carries_experiments_and_sweeps():
    text = Path(ROOT / "pyproject.toml").read_text()
    assert all(f'"{folder}" = "pose_lab/bundled/{folder}"' in text for folder in FOLDERS.values())
