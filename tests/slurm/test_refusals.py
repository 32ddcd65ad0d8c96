"""What cannot be submitted: one message, and nothing is left in the queue."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from rich.console import Console

from pose_lab.runs import slurm
from pose_lab.runs.files import explained
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.slurm_launcher import SlurmLauncher
from pose_lab.runs.slurm_sweep import Submission, place
from pose_lab.runs.sweep import Job
from tests.slurm.test_sweep import FOLDER, sweep

pytestmark = pytest.mark.timeout(1200)  # a busy machine starts jobs slowly

SETTINGS = {
    "nodes": 1,
    "gpus_per_node": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "minutes": 5,
    "array_parallelism": 2,
    "signal_seconds": 120,
    "max_restarts": 1,
    "poll_seconds": 1,
}


def launcher(**settings) -> SlurmLauncher:
    made = SlurmLauncher(20, "tests.runs.fake.run", "tests.runs.fake.run", **SETTINGS | settings)
    made.config = OmegaConf.create({"report": {"metric": "AP"}, "logger": {"stop_timeout": 20}})
    return made


def refused(results, made) -> str:
    """What is said when two runs are submitted in vain."""
    runs = [RunFolder(results / FOLDER / name) for name in ("a-00000001", "b-00000002")]
    todo = [Job(n, run, [sys.executable, "-c", f"open('{results}/ran', 'w')"]) for n, run in enumerate(runs, 1)]
    with pytest.raises(CompactHydraException) as raised:
        made.run(todo, [], Console(), "AP")
    assert not list(place(results / FOLDER).glob("*.json"))
    assert not (results / "ran").exists()
    return str(raised.value)


def queue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "fast"}, "Slurm refused the jobs, nothing was submitted. .*partition"),
        ({"gpus_per_node": 5}, "nothing was submitted. .*node configuration is not available"),
        ({"options": {"reservation": "none"}}, "nothing was submitted. .*reservation"),
        ({"report": {"partition": "none"}}, "refused the report's job .*, nothing was submitted. .*partition"),
    ],
)
def test_what_slurm_refuses_is_one_message_and_nothing_is_submitted(results, settings, message):
    assert re.search(message, refused(results, launcher(**settings)))
    assert not queue()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 0}, "hydra.launcher.nodes=0: it is at least 1"),
        ({"signal_seconds": 49}, "signal_seconds=49 is too short to end a run in: it is at least 50"),
    ],
)
def test_settings_that_make_no_sense_are_refused(monkeypatch, settings, message):
    monkeypatch.setattr(slurm, "is_here", lambda: True)
    launcher().check()
    with pytest.raises(CompactHydraException, match=message):
        launcher(**settings).check()


def test_a_folder_that_fills_up_while_jobs_are_submitted_takes_them_back(results, monkeypatch):
    monkeypatch.setattr(Submission, "write", full_disk)
    assert "the disk is full" in refused(results, launcher())
    assert len(list(place(results / FOLDER).glob("*_submission.sh"))) == 1  # it was submitted
    assert not queue()


def full_disk(submission, folder):
    with explained(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_controller_that_is_gone_stops_the_submission(results, tmp_path, monkeypatch):
    here = Path(os.environ["SLURM_CONF"])
    lines = ["SlurmctldPort=1" if line.startswith("SlurmctldPort") else line for line in here.read_text().splitlines()]
    (tmp_path / "slurm.conf").write_text("\n".join([*lines, "MessageTimeout=2", ""]))
    for name in ("gres", "cgroup"):
        shutil.copy(here.with_name(f"{name}.conf"), tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert re.search("sbatch|squeue", refused(results, launcher()))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("machine.cluster.partition=fast", "error: Slurm refused the jobs, nothing was submitted. .*partition"),
        ("data.root=/missing", "error: data.root=/missing is no data set"),
    ],
)
def test_the_command_says_it_and_fails(results, override, message):
    code, output = sweep(results, override)
    assert code == 1
    assert re.search(message, output), output
    assert "Traceback" not in output
    assert not list(results.glob("*/*/.slurm/*.json"))
    assert not queue()


def test_without_slurm_the_launcher_says_so(tmp_path):
    code, output = sweep(tmp_path, PATH="/nowhere")
    assert code == 1
    assert "hydra/launcher=slurm needs Slurm's commands" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("option", "message"), [("size=64k", "the disk is full"), ("ro", "is read-only")])
def test_a_sweep_folder_that_cannot_be_written_submits_nothing(results, option, message):
    disk = results / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code, output = sweep(disk)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert code == 1
    assert re.search(rf"error: cannot write in {disk}\S*: .*{message}", output), output
    assert "Traceback" not in output
    assert not queue()
