import os
import signal
import subprocess
import sys

import pytest

from pose_lab.runs import slurm_job
from pose_lab.runs.folder import InterruptedRun
from pose_lab.runs.slurm_job import Step, Task, requeued


@pytest.fixture
def job(monkeypatch):
    """A task of an array that was restarted once and may be twice; collects what is asked of Slurm."""
    variables = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_PROCID": "0"}
    for name, value in {**variables, "SLURM_RESTART_COUNT": "1", "POSE_LAB_MAX_RESTARTS": "2"}.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(slurm_job, "ask", lambda *command: asked.append(command))
    handlers = {number: signal.getsignal(number) for number in (*slurm_job.ANNOUNCED, signal.SIGTERM)}
    yield asked
    for number, handler in handlers.items():
        signal.signal(number, handler)


def stopped_by(number):
    with pytest.raises(InterruptedRun), requeued():
        raise InterruptedRun("stopped", number)


def test_an_announced_end_is_requeued(job, capsys):
    stopped_by(signal.SIGUSR2)
    assert job == [("scontrol", "requeue", "12_3")]
    assert "restart 2 of at most 2" in capsys.readouterr().out


def test_a_signal_before_the_training_counts(job):
    with pytest.raises(InterruptedRun, match="SIGUSR1 before it trained"), requeued():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert job == [("scontrol", "requeue", "12_3")]


def test_preemption_and_ctrl_c_are_left_to_slurm_and_the_user(job):
    stopped_by(signal.SIGTERM)
    stopped_by(signal.SIGINT)
    assert job == []


def test_the_last_allowed_restart_is_the_last(job, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    stopped_by(signal.SIGUSR2)
    assert job == []
    assert "not requeued: restarted 2 times" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    with pytest.raises(RuntimeError, match="restarted 3 times, and 2 are allowed"), requeued():
        pytest.fail("it started")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_other_ranks_leave_the_end_to_the_first(job, monkeypatch, number):
    waited = []
    monkeypatch.setattr(slurm_job.time, "sleep", waited.append)
    monkeypatch.setenv("SLURM_PROCID", "1")
    stopped_by(number)
    assert (job, waited) == ([], [slurm_job.PATIENCE])


def test_outside_of_such_a_job_nothing_is_asked(job, monkeypatch):
    monkeypatch.delenv("POSE_LAB_MAX_RESTARTS")
    stopped_by(signal.SIGUSR2)
    assert job == []


def program(text):
    return [sys.executable, "-c", text]


def status(steps):
    """Of a process that does a task."""
    text = f"from pose_lab.runs.slurm_job import Step, Task; {Task(steps)!r}()"
    return subprocess.run([sys.executable, "-c", text], check=False).returncode


def step(folder, text):
    folder.mkdir()
    return Step(str(folder), program(text))


def test_a_run_becomes_the_process_and_its_words_go_into_its_log(tmp_path):
    assert status([step(tmp_path / "a", "print('trained'); exit(7)")]) == 7
    assert (tmp_path / "a" / "log.txt").read_text().endswith("trained\n")


@pytest.mark.parametrize(("first", "second", "ran", "ends"), [(0, 3, True, 3), (5, 0, False, 5), (130, 0, False, 130)])
def test_evaluations_follow_a_training_that_finished(tmp_path, first, second, ran, ends):
    train, broken = step(tmp_path / "train", f"exit({first})"), step(tmp_path / "broken", f"exit({second})")
    last = step(tmp_path / "last", "print('evaluated')")
    assert status([train, broken, last]) == ends
    log = tmp_path / "last" / "log.txt"
    assert log.exists() == ran
    assert not ran or log.read_text().endswith("evaluated\n")


def test_a_step_killed_by_a_signal_ends_as_a_shell_says_it(tmp_path):
    killed = step(tmp_path / "a", "import os; os.kill(os.getpid(), 9)")
    assert status([killed, step(tmp_path / "b", "")]) == 137
