import importlib
from itertools import product
from types import ModuleType

import pytest
import wandb
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from pose_lab.runs import launcher, resolvers, search_path, slurm_launcher, wandb_sweep
from pose_lab.runs.files import FileLock
from tests.configs import composed
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    for part in (resolvers, search_path, launcher, slurm_launcher):
        part.register()
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()


def agent() -> ModuleType:
    """What W&B's agents make of a sweep; seconds to import, for the one process that needs it."""
    return importlib.import_module("wandb.sdk.launch.sweeps.utils")


def test_a_wandb_sweep_has_the_points_of_the_same_file():
    content, where = wandb_sweep.definition(["experiment=kapao_bs_sweep", "seed=0,1", "scale=gpu"])
    assert content["parameters"] == {
        "method.labels.keypoint_box": {"values": [0.01, 0.025, 0.05, 0.075, 0.1]},
        "seed": {"values": [0, 1]},
    }
    assert content["metric"] == {"name": "val/AP", "goal": "maximize"}
    assert where["project"] == "pose_lab"
    assert yaml.safe_load(wandb_sweep.as_yaml(content)) == content
    assert agent().create_sweep_command(content["command"])[-4:] == [
        "experiment=kapao_bs_sweep",
        "scale=gpu",
        "hydra.mode=RUN",
        "${args_no_hyphens}",
    ]


def test_the_command_line_replaces_the_files_points():
    replaced, _ = wandb_sweep.definition(["experiment=kapao_bs_sweep", "method.labels.keypoint_box=0.05", "seed=0,1"])
    assert list(replaced["parameters"]) == ["seed"]
    again, _ = wandb_sweep.definition(["experiment=kapao_bs_sweep", "method.labels.keypoint_box=0.2,0.3"])
    assert again["parameters"] == {"method.labels.keypoint_box": {"values": [0.2, 0.3]}}


def test_what_sweeps_over_nothing_is_refused():
    with pytest.raises(ValueError, match="sweeps over nothing"):
        wandb_sweep.definition(["method=kapao"])


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
def test_agents_compose_the_configs_of_the_launcher(name):
    """Whatever is swept: numbers, words, groups, mappings."""
    (experiment,) = (path.stem for path in (ROOT / "experiments").glob("*.yaml") if sweeps(path) == name)
    content, _ = wandb_sweep.definition([f"experiment={experiment}"])
    points = {key: parameter["values"] for key, parameter in content["parameters"].items()}
    agents = [
        agent().create_sweep_command_args(
            {"args": {key: {"value": value} for key, value in zip(points, cell, strict=True)}}
        )
        for cell in product(*points.values())
    ]
    given = [sorted(arguments["args_no_hyphens"]) for arguments in agents]
    params = composed(f"experiment={experiment}", hydra=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    lists = [[f"{one.get_key_element()}={text}" for text in one.sweep_string_iterator()] for one in parsed]
    launched = [sorted(cell) for cell in product(*lists)]
    assert [values_of(cell) for cell in given] == [values_of(cell) for cell in launched]


def sweeps(path):
    """The sweep that an experiment names."""
    defaults = yaml.safe_load(path.read_text()).get("defaults") or []
    return next((entry["override /sweep"] for entry in defaults if "override /sweep" in entry), None)


def values_of(overrides):
    """What Hydra reads in them."""
    return [(one.get_key_element(), one.value()) for one in OverridesParser.create().parse_overrides(overrides)]


@pytest.mark.parametrize(
    ("points", "values"),
    [
        ("[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("null,1e-5,true", ["null", 1e-5, True]),
        ("{a: 1.0, b: x},'c, d'", ["{a:1.0,b:x}", "'c, d'"]),
    ],
)
def test_values_that_python_would_spell_otherwise_are_given_as_hydra_reads_them(points, values):
    content, _ = wandb_sweep.definition([f"data.settings.people={points}"])
    assert content["parameters"]["data.settings.people"]["values"] == values


def test_without_a_key_nothing_is_created_or_sent():
    assert "wandb sweep --project p sweep.yaml" in wandb_sweep.create({}, {"project": "p", "entity": None})
    assert "no W&B key" in wandb_sweep.send([])


def test_fragments_that_were_never_sent_are_listed_in_their_order(tmp_path):
    for run, name in (("b", "offline-run-2-x"), ("a", "offline-run-3-y"), ("a", "offline-run-1-y")):
        (tmp_path / run / "wandb" / name).mkdir(parents=True)
    (tmp_path / "a" / "wandb" / "offline-run-1-y" / "run-y.wandb.synced").touch()
    (tmp_path / "wandb" / "offline-run-4-report").mkdir(parents=True)
    waiting, busy = wandb_sweep.unsynced(tmp_path)
    assert [path.name for path in waiting] == ["offline-run-2-x", "offline-run-3-y", "offline-run-4-report"]
    assert busy == 0
    lock = FileLock(tmp_path / "a" / ".lock")
    assert lock.acquire()
    waiting, busy = wandb_sweep.unsynced(tmp_path)
    lock.release()
    assert [path.name for path in waiting] == ["offline-run-2-x", "offline-run-4-report"]
    assert busy == 1
