"""A run that is stopped anywhere and started again ends with the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from pose_lab.runs import train as train_module
from pose_lab.runs.checkpoints import LAST, PREVIOUS, Checkpoints, InterruptedRun, differing_keys
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.identity import run_folder
from pose_lab.runs.train import train
from tests import forked
from tests.configs import TINY, composed

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    return train(composed(*TINY, results=tmp_path_factory.mktemp("unbroken"), cache=cache))


def final_state(folder):
    checkpoint = torch.load(folder.checkpoints / LAST, weights_only=True)
    return {**checkpoint["state_dict"], **{f"raw.{k}": v for k, v in checkpoint["current_model_state"].items()}}


def assert_same_end(folder, other):
    ours, theirs = final_state(folder), final_state(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    clocks = ("seconds", "commit")
    numbers = [{k: v for k, v in f.metrics().items() if k not in clocks} for f in (folder, other)]
    assert numbers[0] == numbers[1]
    assert len(json.loads(folder.predictions.read_text())) > 0
    assert folder.predictions.read_text() == other.predictions.read_text()


def stop_after(monkeypatch, batches):
    """A signal comes during the given batch, counted over the whole training."""
    asked = Checkpoints.on_train_batch_end

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch * STEPS_PER_EPOCH + batch_idx + 1 == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        asked(self, trainer, pl_module, outputs, batch, batch_idx)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", on_train_batch_end)


def stopped_and_continued(cfg, batches, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(InterruptedRun):
            train(cfg)
    return train(cfg)


@pytest.mark.parametrize("batches", [2, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 3], ids=["mid-epoch", "epoch end", "second"])
def test_stopped_by_a_signal_and_started_again(batches, unbroken, tmp_path, cache, monkeypatch):
    cfg = composed(*TINY, results=tmp_path, cache=cache)
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(InterruptedRun, match="SIGTERM"):
            train(cfg)
    (folder,) = (RunFolder(path) for path in (tmp_path / "kapao" / "demo-synth").iterdir() if path.is_dir())
    assert folder.status().state == "interrupted"
    stopped = torch.load(folder.checkpoints / LAST, weights_only=True)
    assert stopped["global_step"] == batches
    again = train(cfg)
    assert again.path == folder.path
    assert again.status().state == "finished"
    assert_same_end(again, unbroken)
    rows = (again.history.read_text(), unbroken.history.read_text())
    assert [r.split(",")[:2] for r in rows[0].splitlines()] == [r.split(",")[:2] for r in rows[1].splitlines()]


def test_stopped_in_its_final_evaluation(unbroken, tmp_path, cache, monkeypatch):
    cfg = composed(*TINY, results=tmp_path, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_evaluate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRun, match="SIGTERM"):
            train(cfg)
    assert_same_end(train(cfg), unbroken)


def test_accumulated_gradients_survive_a_stop(tmp_path, cache, monkeypatch):
    accumulating = (*TINY, "method.optimisation.nominal_batch=8", "method.optimisation.warmup.epochs=0.4")
    whole = train(composed(*accumulating, results=tmp_path / "whole", cache=cache))
    assert whole.metrics()["steps"] == 4 + 3  # of 5 batches each: 1, 1, 2, 1 while warming up, then 2, 2, 1
    cfg = composed(*accumulating, results=tmp_path / "stopped", cache=cache)
    assert_same_end(stopped_and_continued(cfg, STEPS_PER_EPOCH + 1, monkeypatch), whole)


def test_best_weights_are_evaluated_after_a_stop(tmp_path, cache, monkeypatch):
    best = (*TINY, "training.evaluate=best")
    whole = train(composed(*best, results=tmp_path / "whole", cache=cache))
    cfg = composed(*best, results=tmp_path / "stopped", cache=cache)
    assert_same_end(stopped_and_continued(cfg, STEPS_PER_EPOCH + 2, monkeypatch), whole)


def test_killed_without_warning_goes_on_from_the_last_checkpoint(unbroken, tmp_path, cache):
    arguments = [*TINY, f"results={tmp_path}", f"machine.cache={cache}", "machine.checkpoint_minutes=0"]
    with forked.Command("pose_lab.run", *arguments) as process:
        while not list(tmp_path.glob(f"*/*/*/checkpoints/{LAST}")):
            assert process.poll() is None, "the run ended before its first checkpoint"
            time.sleep(0.02)
        process.kill()
    (path,) = tmp_path.glob("*/*/*/checkpoints")
    assert RunFolder(path.parent).status().state == "interrupted"
    folder = train(composed(*TINY, results=tmp_path, cache=cache))
    assert folder.path == path.parent
    assert_same_end(folder, unbroken)


def test_damaged_checkpoint_is_passed_over(unbroken, tmp_path, cache, monkeypatch, capsys):
    cfg = composed(*TINY, "machine.checkpoint_minutes=0", results=tmp_path, cache=cache)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(InterruptedRun):
            train(cfg)
    (last,) = tmp_path.glob(f"*/*/*/checkpoints/{LAST}")
    assert last.with_name(PREVIOUS).exists()
    last.write_bytes(last.read_bytes()[:-1000])
    folder = train(cfg)
    assert f"{last} is damaged" in capsys.readouterr().out
    assert_same_end(folder, unbroken)


def test_checkpoint_of_another_config_is_refused_by_key(unbroken, tmp_path, cache):
    cfg = composed(*TINY, "method.labels.keypoint_box=0.1", results=tmp_path, cache=cache)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(InterruptedRun):
            train(cfg)
    (last,) = tmp_path.glob(f"*/*/*/checkpoints/{LAST}")
    last.write_bytes((unbroken.checkpoints / LAST).read_bytes())
    with pytest.raises(ValueError, match=r"different: method\.labels\.keypoint_box"):
        train(cfg)


@pytest.mark.parametrize("shown", ["report.axis=seed", "report=null"])
def test_finished_run_is_left_alone(unbroken, cache, capsys, shown):
    before = {path: path.stat().st_mtime_ns for path in unbroken.path.rglob("*") if path.name != ".lock"}
    again = train(composed(*TINY, shown, results=unbroken.path.parents[2], cache=cache))
    numbers = f"result   AP {100 * unbroken.metrics()['AP']:.1f}, {'and all' if shown == 'report=null' else 'AP50 '}"
    assert re.search(f"finished before: .*\n{re.escape(numbers)}.* numbers in {unbroken.path}", capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in again.path.rglob("*") if path.name != ".lock"} == before


ELSEWHERE = """
import sys
from pose_lab.runs.folder import RunFolder
folder = RunFolder(sys.argv[1])
with folder.training():
    print("started", flush=True)
    sys.stdin.read()
    folder.write_metrics({"AP": 0.25})
"""


def test_a_run_that_another_process_finishes_is_waited_for(tmp_path, cache, monkeypatch, capsys):
    cfg = composed(*TINY, results=tmp_path, cache=cache)
    path = run_folder(cfg, train_module.fingerprint(cfg))
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(path)], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "started\n"
        monkeypatch.setattr(train_module, "_waiting", lambda: lambda _: other.stdin.close())
        folder = train(cfg)
    assert f"finished meanwhile: {path}\nresult   AP 25.0, and all" in capsys.readouterr().out
    assert folder.metrics() == {"AP": 0.25}
    assert (folder.status().state, folder.status().attempt) == ("finished", 1)
    assert not folder.checkpoints.exists()


def test_only_a_run_of_one_process_waits(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    train_module._waiting()("held: waiting")
    assert capsys.readouterr().out == "held: waiting\n"
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert train_module._waiting() is None


def test_differing_keys_are_dotted():
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}) == ["a.c", "d", "e"]
