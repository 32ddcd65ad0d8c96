import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command

from pose_lab.runs import launcher, resolvers, search_path, slurm_launcher, wandb_sweep
from pose_lab.runs.files import FileLock


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    for part in (resolvers, search_path, launcher, slurm_launcher):
        part.register()
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()


def test_a_wandb_sweep_has_the_points_of_the_same_file():
    content, where = wandb_sweep.definition(["experiment=kapao_bs_sweep", "seed=0,1", "scale=gpu"])
    assert content["parameters"] == {
        "method.labels.keypoint_box": {"values": [0.01, 0.025, 0.05, 0.075, 0.1]},
        "seed": {"values": [0, 1]},
    }
    assert content["metric"] == {"name": "val/AP", "goal": "maximize"}
    assert where["project"] == "pose_lab"
    assert yaml.safe_load(wandb_sweep.as_yaml(content)) == content
    assert create_sweep_command(content["command"])[-4:] == [
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=kapao"], "sweeps over nothing"),
        (["data.settings.people=[1,2],[3,4]"], "data.settings.people sweeps over .*numbers and words only"),
    ],
)
def test_what_no_agent_could_run_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wandb_sweep.definition(arguments)


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
