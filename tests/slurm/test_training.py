"""Real training on a real Slurm: several nodes, preemption, the time limit. KAPAO at its smallest."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pose_lab.runs.checkpoints import LAST
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.slurm import jobs
from pose_lab.runs.train import train
from tests import forked
from tests.configs import TINY, composed
from tests.conftest import ROOT
from tests.slurm.models import STATELESS, WAITS_AT

pytestmark = pytest.mark.timeout(1200)  # a busy machine starts jobs slowly

SLURM = (
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.gpus_per_node=1",
    "hydra.launcher.poll_seconds=0.5",
    "machine.cluster.setup=['export MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo']",
    "report=null",
)
WAITING = ("method._target_=tests.slurm.models.Waiting", "training.validate_every=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def begin(results, cache, launcher, *overrides) -> forked.Command:
    """Submits one run and waits for it."""
    places = [f"results={results}", f"machine.cache={cache}", f"hydra/launcher={launcher}", "hydra.mode=MULTIRUN"]
    arguments = [*TINY, *places, *SLURM, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return forked.Command("pose_lab.run", *arguments, cwd=results, env=environment, merged=True)


def run_folder(results) -> RunFolder:
    (path,) = results.glob("*/*/*-????????")
    return RunFolder(path)


def ended(process, results) -> RunFolder:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    folder = run_folder(results)
    assert folder.status().state == "finished"
    return folder


def wait_for(condition, process, what):
    deadline = time.monotonic() + 600
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def job(results) -> str:
    (record,) = (path for path in results.glob("*/*/.slurm/*.json"))
    return record.stem


def queued_again(number: str) -> bool:
    listed = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True).stdout
    return "Restarts=1" in listed and "JobState=PENDING" in listed


def start_now(number: str) -> None:
    """Slurm holds a requeued job for about two minutes."""
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)
    set_time_limit(number, 60)


def set_time_limit(number: str, minutes: int) -> None:
    subprocess.run(["scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}"], check=True)


def minutes_used(number: str) -> int:
    """Whole minutes that a job has run for, under an hour."""
    command = ["squeue", "--noheader", f"--jobs={number}", "--Format=TimeUsed"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(":")[-2])


def losses(folder) -> list[float]:
    with open(folder.history) as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder.checkpoints / LAST, weights_only=True)["state_dict"]


def assert_equal_weights(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def numbers(folder) -> dict[str, object]:
    return {name: value for name, value in folder.metrics().items() if name not in ("seconds", "commit")}


def test_four_ranks_train_the_run_of_one(results, cache):
    (results / "four").mkdir()
    two = ["hydra.launcher.gpus_per_node=2", "hydra.launcher.tasks_per_node=2"]
    with begin(results / "four", cache, "slurm_nodes", *STATELESS, *two) as on_two_nodes:
        one = train(composed(*TINY, *STATELESS, results=results / "one", cache=cache))
        four = ended(on_two_nodes, results / "four")
    assert four.metrics()["processes"] == 4
    assert one.name.rsplit("-", 1)[1] == four.name.rsplit("-", 1)[1]
    assert len(losses(one)) == 3
    assert losses(four) == pytest.approx(losses(one), rel=1e-4)
    assert four.metrics()["AP"] == pytest.approx(one.metrics()["AP"], abs=0.02)


def sbatch(results, cache, *overrides) -> str:
    """Submits one run without a launcher; gives the job's id. What it prints goes to job.txt."""
    places = [f"results={results}", f"machine.cache={cache}"]
    options = ["--parsable", "--cpus-per-task=1", f"--output={results}/job.txt", f"--chdir={ROOT}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sbatch", *options, ROOT / "slurm" / "train.sbatch", *TINY, *places, *overrides]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_by_sbatch_alone_is_preempted_and_requeued_and_ends_with_the_same_bits(results, cache):
    broken = results / "broken"
    broken.mkdir()
    number = sbatch(broken, cache, *WAITING)
    unbroken = train(composed(*TINY, *WAITING, results=results / "unbroken", cache=cache))
    wait_for(lambda: list(broken.glob("*/*/*/waits-0")), None, "the middle of an epoch")
    important = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"]
    subprocess.run(important, check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: queued_again(number), None, "the preemption")
    folder = run_folder(broken)
    stopped = torch.load(folder.checkpoints / LAST, weights_only=True)
    assert stopped["global_step"] == WAITS_AT + 1
    assert folder.status().state == "interrupted"
    subprocess.run(["scancel", "--partition=high"], check=True)
    start_now(number)
    wait_for(lambda: not jobs([number])[number].lives, None, "the end")
    said = (broken / "job.txt").read_text()
    assert folder.status().state == "finished", said
    assert folder.status().attempt == 2
    assert_equal_weights(folder, unbroken)
    assert numbers(folder) == numbers(unbroken)
    assert folder.predictions.read_text() == unbroken.predictions.read_text()
    assert "stopped by SIGTERM" in said


@pytest.mark.timeout(1500)  # Slurm looks at time limits every half minute
def test_ranks_at_their_time_limit_save_and_are_requeued(results, cache):
    ranks = ["hydra.launcher.gpus_per_node=2", "hydra.launcher.tasks_per_node=2", *WAITING]
    whole, broken = results / "whole", results / "broken"
    whole.mkdir()
    broken.mkdir()
    with begin(broken, cache, "slurm_node", *ranks) as process:
        wait_for(lambda: list(broken.glob("*/*/*/waits-1")), process, "the middle of an epoch")
        set_time_limit(job(broken), minutes_used(job(broken)) + 2)
        unbroken = two_processes(whole, cache, *WAITING)
        wait_for(lambda: queued_again(job(broken)), process, "the time limit")
        assert len(list(run_folder(broken).path.glob("waits-*"))) == 2
        start_now(job(broken))
        folder = ended(process, broken)
    log = folder.log.read_text()
    assert "stopped by SIGUSR2" in log
    assert f"requeued as job {job(broken)}, restart 1 of at most 30" in log
    assert folder.status().attempt == 2
    assert_equal_weights(folder, unbroken)
    assert numbers(folder) == numbers(unbroken)


def two_processes(results, cache, *overrides) -> RunFolder:
    """A run of two ranks without Slurm and without an interruption."""
    places = [f"results={results}", f"machine.cache={cache}"]
    ranks = ["machine.devices=2", "machine.strategy=ddp", "hydra.mode=RUN"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    forked.run("pose_lab.run", *TINY, *overrides, *places, *ranks, env=environment).check_returncode()
    return run_folder(results)
