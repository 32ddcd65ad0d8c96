import json
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import pytest
import wandb
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from pose_lab.runs.folder import InterruptedRun
from pose_lab.runs.pictures import Pictures, draw_batch
from pose_lab.runs.wandb import Wandb, has_key
from pose_lab.skeletons import CROWDPOSE
from tests.runs.tiny import Tiny, batch, loader, trainer

CONFIG = {"method": {"name": "tiny", "sizes": [1, 2]}, "seed": 3}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No key, no server: nothing in these tests can leave the machine."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_INIT_TIMEOUT", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    wandb.teardown()  # its settings are read from the environment once
    yield
    wandb.teardown()


def node(**changes):
    return Wandb(project="test", best=["val/AP"], tags=["mine"], **changes)


def start(logs, folder, **changes):
    arguments = {"identity": "abc123", "name": "bs 0.05", "experiment": "sweep", "config": CONFIG, "tags": ["demo"]}
    return logs.run(folder, **{**arguments, **changes})


def fit(logs, folder, module=None):
    with start(logs, folder) as (logger, where):
        callbacks = [Pictures(folder, logs.pictures, logs.min_score)]
        trainer(folder, callbacks, logger=logger or False, log_every_n_steps=1).fit(
            module or Tiny(), loader(2), loader(3)
        )
    return where


def inspect(folder, *options):
    """What W&B's own offline reader finds in each run below a folder, by start."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options]
    return [subprocess.run([*command, str(f)], capture_output=True, text=True, check=True).stdout for f in files]


def records(text, kind):
    lines = (json.loads(line) for line in text.splitlines())
    return [line[kind] for line in lines if line["type"] == kind]


def test_an_offline_run_holds_everything(tmp_path, capfd):
    where = fit(node(pictures=3), tmp_path)
    assert "offline (no key found)" in where
    assert str(tmp_path) in where
    assert "wandb:" not in capfd.readouterr().err
    assert wandb.run is None
    (text,) = inspect(tmp_path)
    (run,) = records(text, "run")
    assert run["run_id"] == "abc123"
    assert (run["project"], run["run_group"], run["job_type"]) == ("test", "sweep", "train")
    assert run["tags"] == ["demo", "mine"]
    (summary,) = map(json.loads, inspect(tmp_path, "--summary"))
    assert summary["config"] == CONFIG
    assert summary["state"] == "finished"
    assert summary["summary"]["val/AP"] == pytest.approx({"last": 0.3, "max": 0.5})
    history = [record["item"] for record in records(text, "history")]
    losses = [(row["trainer/global_step"], row["train/loss_step"]) for row in history if "train/loss_step" in row]
    assert [step for step, _ in losses] == list(range(6))
    assert losses[0][1] == 1
    assert [row["trainer/global_step"] for row in history if "val/AP" in row] == [1, 3, 5]


def test_the_table_of_pictures_is_in_the_run_folder(tmp_path):
    fit(node(pictures=3), tmp_path)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/val/pictures*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["image_id", "people", "found", "truth", "prediction"]
    assert [row[:3] for row in content["data"]] == [[100, 2, 1], [101, 1, 2], [102, 2, 1]]
    (text,) = inspect(tmp_path)
    files = records(text, "artifact")[0]["manifest"]["contents"]
    assert sum(file["path"].startswith("media/images/") for file in files) > 1
    assert all(Path(file["local_path"]).is_relative_to(tmp_path) for file in files)
    assert all(Path(file["local_path"]).exists() for file in files)


def test_a_second_start_is_a_fragment_of_the_same_run(tmp_path):
    for x in range(2):
        with start(node(), tmp_path) as (logger, _):
            logger.experiment.log({"x": x})
    fragments = inspect(tmp_path)
    assert [records(text, "run")[0]["run_id"] for text in fragments] == ["abc123"] * 2
    assert sorted(records(text, "history")[0]["item"]["x"] for text in fragments) == [0, 1]


def test_a_failed_run_is_finished_as_failed(tmp_path):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(node(), tmp_path, Tiny(stop_at=(1, 0)))
    assert wandb.run is None
    (summary,) = map(json.loads, inspect(tmp_path, "--summary"))
    assert (summary["state"], summary["exit_code"]) == ("failed", 1)


def test_a_run_that_is_told_to_stop_does_not_wait_for_the_server(tmp_path, monkeypatch, capsys):
    answered = threading.Event()

    def interrupted():
        with start(node(stop_timeout=0.05), tmp_path) as (logger, _):
            finish = logger.experiment.finish
            late = lambda exit_code: answered.wait() and finish(exit_code=exit_code)  # noqa: E731
            monkeypatch.setattr(logger.experiment, "finish", late)
            raise InterruptedRun("stopped")

    with pytest.raises(InterruptedRun):
        interrupted()
    assert f"did not finish its run within 0.05 s (logger.stop_timeout): what was not sent is in {tmp_path}" in (
        capsys.readouterr().out
    )
    answered.set()
    for thread in [one for one in threading.enumerate() if one.name.endswith("(_finish)")]:
        thread.join()
    assert len(inspect(tmp_path)) == 1


def test_a_figure_is_a_small_run_of_the_group(tmp_path):
    figure = tmp_path / "figure.png"
    cv2.imwrite(str(figure), batch().images[0].permute(1, 2, 0).numpy())
    where = node().log_figure(figure, tmp_path / "sweep", "report1", "sweep", tags=["demo"])
    assert "offline" in where
    (text,) = inspect(tmp_path / "sweep")
    (run,) = records(text, "run")
    assert (run["run_group"], run["job_type"], run["run_id"]) == ("sweep", "report", "report1")
    assert list(tmp_path.glob("sweep/wandb/offline-run-*/files/media/images/report/figure*.png"))
    with pytest.raises(FileNotFoundError, match=r"no figure at .*absent\.png"):
        node().log_figure(tmp_path / "absent.png", tmp_path, "report1", "sweep")


def test_a_server_that_does_not_answer_means_offline_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "0.2")
    wandb.teardown()
    with start(node(), tmp_path) as (logger, where):
        logger.experiment.log({"x": 1})
    assert "offline (the server cannot be used" in where
    assert len(inspect(tmp_path)) == 1
    assert not list(tmp_path.glob("wandb/run-*"))
    with pytest.raises(ConnectionError, match=r"logger\.mode=auto"), start(node(mode="online"), tmp_path):
        pass


def test_online_without_a_key_is_an_error_at_once(tmp_path):
    with pytest.raises(ValueError, match="wandb login"), start(node(mode="online"), tmp_path):
        pass
    with pytest.raises(ValueError, match=r"logger\.mode is 'on'"):
        node(mode="on")


@pytest.mark.parametrize("mode", ["config", "environment"])
def test_disabled_writes_only_the_sheet_of_pictures(tmp_path, monkeypatch, mode):
    if mode == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    where = fit(node(pictures=3, mode="disabled" if mode == "config" else "auto"), tmp_path)
    assert where == "W&B: off"
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.jpg"]
    sheet = cv2.imread(str(tmp_path / "pictures.jpg"))
    assert sheet.shape[1] > 4 * 448
    assert 2 * 448 < sheet.shape[0] < 2 * 448 + 64


def test_keys_are_found_where_wandb_login_puts_them(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "netrc").write_text("machine example.org login a password b\n")
    assert not has_key()
    (tmp_path / "netrc").write_text("machine 127.0.0.1:9 login user password secret\n")
    assert has_key()
    (tmp_path / "netrc").write_text("not a netrc file")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


def test_pictures_are_drawn_in_pixels_of_the_input():
    one = batch()
    predictions = Tiny().validation_step(one, 0)
    first, second = draw_batch(one, predictions, CROWDPOSE, 8, min_score=0.0, side=64)
    assert (first.image_id, first.people, first.found) == (100, 2, 2)
    assert (second.image_id, second.people, second.found) == (101, 1, 2)
    points = one.instances.keypoints[0, :, :2].numpy().astype(int)
    drawn = (first.prediction[points[:, 1], points[:, 0]] != 90).any(-1)
    assert drawn.all()
    assert draw_batch(one, predictions, CROWDPOSE, 8, min_score=0.5, side=64)[0].found == 0
    assert len(draw_batch(one, predictions, CROWDPOSE, 1, min_score=0.5, side=64)) == 1


@pytest.mark.parametrize(("name", "mode"), [("wandb", "auto"), ("none", "disabled")])
def test_the_config_makes_the_node(name, mode):
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        made = instantiate(compose(overrides=[f"+logger={name}"]).logger)
    assert isinstance(made, Wandb)
    assert (made.mode, made.pictures, made.tags) == (mode, 16, [])
    assert "val/AP" in made.best
