"""The shipped experiment as a sweep of real runs, small: processes, identity, report and W&B together."""

import json
import os
import subprocess
import sys

import pytest
import wandb

from pose_lab.runs.folder import RunFolder
from pose_lab.runs.train import train
from tests import forked
from tests.configs import TINY, composed

pytestmark = pytest.mark.timeout(900)  # the first test waits for four runs

BOXES = ("0.05", "0.1")
SMALL = [o for o in TINY if o != "logger=none"]
FEW = ["training.epochs=1"]


def arguments(folder, cache):
    swept = [f"method.labels.keypoint_box={','.join(BOXES)}", "seed=0,1"]
    return ["experiment=kapao_bs_sweep", *swept, *SMALL, *FEW, f"results={folder}", f"machine.cache={cache}"]


def environment():
    return {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"} | {"WANDB_MODE": "offline"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweep's folder, its command and the cache; the runs of one seed were trained alone before."""
    folder, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("WANDB_MODE", "offline")
        wandb.teardown()  # its settings are read from the environment once
        for box in BOXES:
            alone = ["experiment=kapao_bs_sweep", f"method.labels.keypoint_box={box}", "seed=1", *SMALL, *FEW]
            train(composed(*alone, results=folder, cache=cache))
        wandb.teardown()
    done = forked.run("pose_lab.run", *arguments(folder, cache), env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "kapao_bs_sweep" / "demo-synth", done, cache


def records(wandb_folder):
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(wandb_folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_four_runs_finish_in_folders_of_their_own(swept):
    folder, done, _ = swept
    assert "4 runs, 2 of them finished before" in done.stdout
    runs = [RunFolder(path) for path in folder.glob("*-????????")]
    assert len(runs) == 4
    assert {run.status().state for run in runs} == {"finished"}
    settings = {(run.config()["method"]["labels"]["keypoint_box"], run.config()["seed"]) for run in runs}
    assert settings == {(float(box), seed) for box in BOXES for seed in (0, 1)}


def test_report_has_one_row_per_box_over_both_seeds(swept):
    folder, done, _ = swept
    text = (folder / "report.md").read_text()
    assert all((folder / f"report.{kind}").stat().st_size > 0 for kind in ("csv", "tex", "png", "svg"))
    assert "McNally" in text
    assert text.count("±") >= len(BOXES)
    assert "report.md" in done.stdout


def test_started_again_trains_nothing(swept):
    folder, _, cache = swept
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-????????/checkpoints/*")}
    (folder / "report.md").unlink()
    command = [sys.executable, "-m", "pose_lab.run", *arguments(folder.parents[1], cache)]
    variables = environment() | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-????????/checkpoints/*")} == before
    assert "McNally" in (folder / "report.md").read_text()
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "hydra" in imported
    assert not {"torch", "lightning", "torchvision", "wandb", "cv2"} & imported  # seconds, for nothing


def test_each_run_is_its_own_wandb_run_in_the_group_of_the_experiment(swept):
    folder, _, _ = swept
    logged = [path for path in folder.glob("*-????????/wandb/offline-run-*") if path.is_dir()]
    assert len({path.name.split("-", 3)[-1] for path in logged}) == 4
    texts = ["\n".join(map(json.dumps, records(path))) for path in logged]
    assert all("kapao_bs_sweep" in text and "keypoint_box" in text and "val/AP" in text for text in texts)
    (figure,) = folder.glob("wandb/offline-run-*")
    assert "report/figure" in json.dumps(records(figure))
