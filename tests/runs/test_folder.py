import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from pose_lab.runs.folder import RunBusyError, RunFolder, Status

TRAINING = """
import sys, os
from pose_lab.runs.folder import RunFolder
with RunFolder(sys.argv[1]).training():
    print("started", flush=True)
    sys.stdin.read()
"""


def test_a_run_ends_finished(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.status() == Status()
    with folder.training() as status:
        assert folder.status().state == "running"
        assert (status.pid, status.attempt) == (os.getpid(), 1)
    ended = folder.status()
    assert ended.state == "finished"
    assert ended.started is not None
    assert ended.ended is not None
    assert ended.started <= ended.ended


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (ValueError("bad number"), "failed", "ValueError: bad number"),
        (KeyboardInterrupt(), "interrupted", None),
        (SystemExit(143), "interrupted", None),
    ],
)
def test_an_exception_decides_the_state_and_passes_on(tmp_path, error, state, text):
    folder = RunFolder(tmp_path)
    with pytest.raises(type(error)), folder.training():
        raise error
    assert folder.status().state == state
    assert folder.status().error == text
    with folder.training() as status:
        assert status.attempt == 2
        assert folder.status().error is None


def test_a_run_is_trained_by_one_process_and_a_killed_one_reads_as_interrupted(tmp_path):
    folder = RunFolder(tmp_path)
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "started\n"
        assert folder.status().state == "running"
        with pytest.raises(RunBusyError, match=f"by process {trainer.pid} on"), folder.training():
            pytest.fail("two processes hold one run")
        assert folder.status().pid == trainer.pid
        trainer.kill()
    assert folder.recorded_status().state == "running"
    assert folder.status().state == "interrupted"
    with folder.training() as status:
        assert status.attempt == 2


def test_a_status_of_a_process_with_our_number_is_not_ours(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("running", pid=os.getpid()))
    assert folder.status().state == "interrupted"


def test_config_is_resolved_and_without_hydra(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(OmegaConf.create({"a": 1, "b": "${a}", "c": 5e-5, "hydra": {"mode": "???"}}))
    assert (tmp_path / "config.yaml").read_text() == "a: 1\nb: 1\nc: 5.0e-05\n"
    assert folder.config() == {"a": 1, "b": 1, "c": 5e-5}


@pytest.mark.parametrize("text", ["a: [1", "- 1", "x"])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml (is not valid YAML|holds no config)"):
        RunFolder(tmp_path).config()


def test_the_log_ends_with_what_was_last_on_the_screen(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.log_tail(3) == []
    folder.log.write_bytes(b"one\n\n 10%\r 20%\r\ntwo\nthr\xffee")
    assert folder.log_tail(3) == [" 20%", "two", "thr\ufffdee"]


def test_numbers_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.metrics() == folder.progress() == {}
    folder.write_metrics({"AP": 0.5})
    folder.write_progress({"epoch": 1})
    assert (folder.metrics(), folder.progress()) == ({"AP": 0.5}, {"epoch": 1})


@pytest.mark.parametrize("killed", [True, False])
def test_a_run_that_another_process_trains_is_waited_for(tmp_path, killed):
    folder, told = RunFolder(tmp_path), []
    with subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path)], stdin=-1, stdout=-1, text=True) as trainer:
        assert trainer.stdout.readline() == "started\n"

        def say(text):
            told.append(text)
            trainer.kill() if killed else trainer.stdin.close()

        with folder.training(say) as status:
            assert (status.state, status.attempt) == (("running", 2) if killed else ("finished", 1))
    assert len(told) == 1
    assert f"is being trained by process {trainer.pid} on" in told[0]
    assert told[0].endswith("waiting for its end")
    assert (folder.status().state, folder.status().attempt) == ("finished", 2 if killed else 1)
