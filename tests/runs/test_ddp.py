"""Several processes train one run: the same batches, the same numbers within rounding."""

import csv
import os

import pytest

from pose_lab.runs.folder import RunFolder
from pose_lab.runs.train import train
from tests import forked
from tests.configs import TINY, composed
from tests.conftest import ROOT
from tests.slurm.models import STATELESS


def two_processes(folder, cache, *overrides):
    places = [f"results={folder}", f"machine.cache={cache}", "machine.devices=2", "machine.strategy=ddp"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    return forked.run("pose_lab.run", *TINY, *overrides, *places, env=environment)


def losses(folder):
    with open(folder.history) as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_the_run_of_one(tmp_path):
    one = train(composed(*TINY, *STATELESS, results=tmp_path / "one", cache=tmp_path / "cache"))
    done = two_processes(tmp_path / "two", tmp_path / "cache", *STATELESS)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "two").glob("*/*/*-????????")
    two = RunFolder(path)
    assert one.name == two.name  # the number of devices is not part of a run's identity
    assert done.stdout.count("results") == 1
    assert two.status().state == "finished"
    assert two.metrics()["processes"] == 2
    assert len(losses(one)) == 3
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert two.metrics()["AP"] == pytest.approx(one.metrics()["AP"], abs=0.02)
    assert two.metrics()["steps"] == one.metrics()["steps"]
    assert two.metrics().keys() == one.metrics().keys()


def test_uneven_share_is_refused(tmp_path):
    done = two_processes(tmp_path, tmp_path / "cache", "data.batch_size=3")
    assert done.returncode != 0
    assert "data.batch_size 3 cannot be shared evenly by 2" in done.stderr
