"""A sweep as a job array on a real Slurm, with runs that end as they are told (`tests/runs/fake`)."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pose_lab.runs.slurm import jobs
from tests.conftest import ROOT
from tests.runs.test_sweep import folders, is_training, starts, wait_for

pytestmark = pytest.mark.timeout(1200)  # a busy machine starts jobs slowly

LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll_seconds=0.3")
FOLDER = Path("fake_sweep", "demo-synth")


def begin(results, *overrides, root=ROOT, **environment) -> subprocess.Popen[str]:
    """Starts the sweep's command."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.runs.fake.run",
            f"results={results}",
            "report.axis=method.box",
            *LAUNCHER,
            *overrides,
        ],
        cwd=results,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep(results, *overrides, **environment) -> tuple[int, str]:
    """Status and output of the sweep's command."""
    with begin(results, *overrides, **environment) as process:
        output, _ = process.communicate(timeout=600)
    return process.returncode, output


def command(name, results, *arguments) -> str:
    """The output of `pose_lab.sweep`."""
    done = subprocess.run(
        [sys.executable, "-m", "pose_lab.sweep", name, str(results / FOLDER), *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def array(results) -> str:
    """The id of the only submission."""
    (record,) = (results / FOLDER / ".slurm").glob("*.json")
    return record.stem


def report_job(results) -> str | None:
    """The id of the job that makes the report."""
    (record,) = (results / FOLDER / ".slurm").glob("*.json")
    return json.loads(record.read_text())["report"]


def states(number) -> dict[str, str]:
    return {name: entry.state for name, entry in jobs([number]).items()}


def words(number) -> set[str]:
    return {entry.words for entry in jobs([number]).values()}


def alive(number) -> bool:
    return any(entry.lives for entry in jobs([number]).values())


def test_an_array_with_a_failing_and_a_killed_run_then_retry(results):
    code, output = sweep(results, "method.box=0.01,0.05,0.1", "machine.raises=[0.01]", "machine.dies=[0.05]")
    runs, number = folders(results), array(results)
    assert code == 1, output
    assert f"Submitted 3 of 3 runs as Slurm job {number}, at most 16 at once" in output
    assert states(number) == {f"{number}_0": "FAILED", f"{number}_1": "FAILED", f"{number}_2": "COMPLETED"}
    assert {name: run.status().state for name, run in runs.items()} == {
        "box-0.01": "failed",
        "box-0.05": "failed",
        "box-0.1": "finished",
    }
    assert runs["box-0.05"].status().error == (
        f"its Slurm job {number}_1 ended as FAILED (SIGKILL) before the run had finished"
    )
    log = runs["box-0.01"].log.read_text()
    assert "Traceback" in log
    assert "ValueError: diverged at box 0.01" in log
    assert "  ValueError: diverged at box 0.01" in output.splitlines()
    assert "2 of 3 runs failed" in output
    assert "--array=0-2%3" in (results / FOLDER / ".slurm" / f"{number}_submission.sh").read_text()
    shown = command("status", results)
    assert re.search(rf"box-0\.01-\w+ +failed +{number}_0 +ValueError: diverged", shown), shown
    assert re.search(rf"box-0\.1-\w+ +finished +40\.0 +{number}_2", shown), shown
    assert "3 runs: 2 failed, 1 finished" in shown
    (results / "go").touch()  # what was wrong has been mended
    again = command("retry", results)
    assert "Submitted 2 of 3 runs" in again
    assert [len(starts(runs[name])) for name in ("box-0.01", "box-0.05", "box-0.1")] == [2, 2, 1]
    assert all(run.status().state == "finished" for run in runs.values())


def test_nobody_waits_and_the_report_is_made(results):
    cheap = "machine.cluster.report={partition: high, minutes: 5, mem_gb: 1}"
    alone = ("hydra.launcher.wait=false", "hydra.launcher.array_parallelism=1", "machine.waits=[0.01]")
    code, output = sweep(results, *alone, cheap, "+machine.cluster.report.options.comment=table")
    assert code == 0, output
    number, report = array(results), report_job(results)
    asked = subprocess.run(["scontrol", "show", "job", report], capture_output=True, text=True, check=True).stdout
    wanted = ("Partition=high", "TimeLimit=00:05:00", "MinMemoryNode=1G", "NumCPUs=1 ", "Comment=table")
    assert [text for text in (*wanted, "Reason=Dependency") if text not in asked] == []
    assert "gpu" not in asked
    wait_for(lambda: is_training(results, "box-0.01"), "the first run")
    shown = command("status", results)
    assert re.search(rf"box-0\.01-\w+ +running +1/2 .*{number}_0", shown), shown
    assert re.search(rf"box-0\.05-\w+ +queued +{number}_1 +PENDING \(JobArrayTaskLimit\)", shown), shown
    joined, output = sweep(results, "hydra.launcher.wait=false")
    assert joined == 0
    assert "Nothing to submit: the 2 runs are finished or in the queue." in output
    assert array(results) == number
    assert not (results / FOLDER / "report.md").exists()
    (results / "go").touch()
    wait_for(lambda: not alive(report), "the report's job")
    assert "| 0.05 | 45.0 |" in (results / FOLDER / "report.md").read_text()
    assert [len(starts(run)) for run in folders(results).values()] == [1, 1]


def test_two_people_start_the_same_sweep_at_once(results):
    with begin(results) as one, begin(results) as two:
        outputs = [process.communicate(timeout=600)[0] for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], outputs
    assert sorted("Submitted 2 of 2" in output for output in outputs) == [False, True]
    assert all("finished in" in output for output in outputs)
    assert [len(starts(run)) for run in folders(results).values()] == [1, 1]


def test_cancelled_jobs_are_interrupted_and_go_on_later(results):
    code, output = sweep(results, "hydra.launcher.wait=false", "machine.waits=[0.01,0.05]", "report=null")
    assert code == 0, output
    wait_for(lambda: is_training(results, "box-0.01") and is_training(results, "box-0.05"), "two runs")
    number = array(results)
    assert f"Cancelled 2 jobs: {number}_0 {number}_1" in command("cancel", results)
    wait_for(lambda: not alive(number), "their end")
    assert [run.recorded_status().state for run in folders(results).values()] == ["interrupted"] * 2
    assert f"its Slurm job {number}_0 was cancelled" in command("status", results)
    assert "No job of" in command("cancel", results)
    assert report_job(results) is None
    assert "no report (report: null)" in command("report", results)
    (results / "go").touch()
    code, output = sweep(results, "report=null")
    assert code == 0, output
    assert "Submitted 2 of 2 runs" in output
    assert all(run.recorded_status().attempt == 2 for run in folders(results).values())


def test_evaluations_wait_for_the_weights_that_another_command_trains(results):
    quietly = ("method.box=0.05", "machine.waits=[0.05]", "report=null", "hydra.launcher.wait=false")
    assert sweep(results, *quietly, "method.lr=2")[0] == 0
    wait_for(lambda: is_training(results, "box-0.05"), "the training")
    trains = array(results)
    code, output = sweep(results, *quietly, "method.lr=1,2,3", "weights_of={method.lr: 2}")
    assert code == 0, output
    later = re.search(r"Submitted 2 of 3 runs as Slurm job (\d+)", output).group(1)
    assert later != trains
    wait_for(lambda: words(later) == {"PENDING (Dependency)"}, "Slurm to look at the evaluations")
    (results / "go").touch()
    wait_for(lambda: not alive(later), "the evaluations")
    runs = folders(results)
    assert {name: run.status().state for name, run in runs.items()} == dict.fromkeys(runs, "finished")
    trained = runs.pop("box-0.05").status()
    assert sorted(runs) == ["box-0.05-lr-1", "box-0.05-lr-3"]
    assert all(run.status().started >= trained.ended for run in runs.values())


def test_a_rank_that_dies_ends_its_run(results):
    ranks = ("hydra.launcher.tasks_per_node=2", "hydra.launcher.gpus_per_node=2", "method.box=0.01", "report=null")
    code, output = sweep(results, *ranks, "machine.waits=[0.01]", "machine.lost_ranks=[0.01]")
    assert code == 1, output
    assert list(states(array(results)).values()) == ["FAILED"]
    assert folders(results)["box-0.01"].status().state == "failed"


def test_a_rank_that_dies_ends_a_run_by_sbatch(results):
    python = results / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\n[ "$SLURM_PROCID" = 1 ] && exit 3\nsleep 600\n')
    python.chmod(0o755)
    options = ["--ntasks-per-node=2", "--cpus-per-task=1", "--wait", f"--output={results}/job.txt"]
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sbatch", *options, ROOT / "slurm" / "train.sbatch"], env=environment, check=False)
    assert done.returncode != 0
    assert "Exited with exit code 3" in (results / "job.txt").read_text()


def test_a_queued_job_runs_the_code_of_its_submission(results):
    checkout = results / "checkout"
    for name in ("pose_lab", "tests/runs/fake", "experiments", "sweeps"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "tests/runs"):
        (checkout / name / "__init__.py").touch()
    gate = results / "gate"
    hold = f"machine.cluster.setup=['while [ ! -e {gate} ]; do sleep 0.1; done']"
    with begin(results, "report=null", hold, root=checkout) as process:
        wait_for(lambda: list((results / FOLDER / ".slurm").glob("*.json")), "the submission")
        (checkout / "pose_lab" / "runs" / "folder.py").write_text("raise SystemExit('edited after the submission')")
        gate.touch()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert all(run.status().state == "finished" for run in folders(results).values())
