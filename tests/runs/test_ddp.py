"""Several processes train one run: the same batches, the same numbers within rounding."""

import csv
import os
import subprocess
import sys

import pytest

from pose_lab.runs.folder import RunFolder
from tests.configs import TINY


def trained(folder, cache, *overrides):
    arguments = [*TINY, "training.epochs=1", f"results={folder}", f"machine.cache={cache}", *overrides]
    done = subprocess.run(
        [sys.executable, "-m", "pose_lab.run", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*/*/*-????????")
    return RunFolder(path), done.stdout


def losses(folder):
    with open(folder.history) as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_the_run_of_one(tmp_path):
    one, _ = trained(tmp_path / "one", tmp_path / "cache")
    two, printed = trained(tmp_path / "two", tmp_path / "cache", "machine.devices=2", "machine.strategy=ddp")
    assert one.name == two.name  # the number of devices is not part of a run's identity
    assert printed.count("results") == 1
    assert two.status().state == "finished"
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=0.2)
    assert two.metrics()["steps"] == one.metrics()["steps"]
    assert two.metrics().keys() == one.metrics().keys()


def test_uneven_share_is_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"data\.batch_size 3 cannot be shared evenly by 2"):
        trained(tmp_path, tmp_path / "cache", "machine.devices=2", "machine.strategy=ddp", "data.batch_size=3")
