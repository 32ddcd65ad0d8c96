import io
import time

from rich.console import Console

from pose_lab.runs.folder import RunFolder
from pose_lab.runs.launcher import _quoted, swept_keys
from pose_lab.runs.sweep import Job, Settings, child_environment, how_it_ended
from pose_lab.runs.table import Lines, LiveTable, final_table, metric_of, sweep_seconds_left


def job(tmp_path, number, state, **details):
    return Job(number, RunFolder(tmp_path / f"run-{number}"), ["train"], state=state, **details)


def test_time_left_is_judged_by_the_runs_that_are_known(tmp_path):
    finished, running = job(tmp_path, 1, "finished", seconds=100.0), job(tmp_path, 2, "running", began=1000.0)
    queued = [job(tmp_path, number, "queued") for number in (3, 4)]
    assert sweep_seconds_left([running, *queued], now=1040.0) is None
    assert sweep_seconds_left([finished, running, *queued], now=1040.0) == 60 + 2 * 100
    running.folder.write_progress({"seconds_left": 160.0})
    assert sweep_seconds_left([finished, running, *queued], now=1040.0) == 160 + 2 * 150
    another = job(tmp_path, 5, "running", began=1000.0)
    another.folder.write_progress({"seconds_left": 60.0})
    assert sweep_seconds_left([running, another], now=1040.0) == 160


def test_the_live_table_shows_how_far_each_run_is(tmp_path):
    jobs = [job(tmp_path, 1, "running", began=time.time()), job(tmp_path, 2, "queued"), job(tmp_path, 3, "finished")]
    where = {"epoch": 2, "epochs": 40, "step": 30, "steps": 400}
    jobs[0].folder.write_progress({"phase": "train", **where, "seconds_left": 75, "metrics": {"val/AP": 0.123}})
    jobs[2].folder.write_metrics({"AP": 0.5})
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    live = LiveTable(screen, "AP")
    live.begin(jobs)
    live.update()
    live.end()
    text = screen.file.getvalue()
    assert all(words in text for words in ("3/40", "12.3", "1:15", "queued", "50.0", "1 of 3 runs ended"))


def test_a_narrow_terminal_shows_whole_names(tmp_path):
    running = Job(1, RunFolder(tmp_path / "keypoint_box-0.025-760307b7"), ["train"], state="running", began=time.time())
    running.folder.write_progress({"epoch": 2, "epochs": 40, "seconds_left": 75})
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    live = LiveTable(screen, "AP")
    live.begin([running])
    live.end()
    assert "keypoint_box-0.025-760307b7" in screen.file.getvalue()


def test_only_new_epochs_are_told_after_a_restart(tmp_path):
    running = job(tmp_path, 1, "queued")
    running.folder.path.mkdir()
    running.folder.history.write_text("epoch,train/loss,val/AP\n1,2.0,\n")
    screen = Console(file=io.StringIO(), width=120)
    lines = Lines(screen, "AP")
    lines.begin([running])
    running.state = "running"
    lines.update()
    running.folder.history.write_text("epoch,train/loss,val/AP\n1,2.0,\n2,1.5,0.25\n3,1.")
    lines.update()
    text = screen.file.getvalue()
    assert "epoch 1" not in text
    assert "[1/1] run-1: epoch 2, loss 1.5, AP 25.0" in text
    assert "epoch 3" not in text


def test_a_run_that_is_faster_than_the_first_look_is_told_in_order(tmp_path):
    fast = job(tmp_path, 1, "queued")
    screen = Console(file=io.StringIO(), width=200)
    lines = Lines(screen, "AP")
    lines.begin([fast])
    fast.state = "running"
    fast.folder.path.mkdir()
    fast.folder.history.write_text("epoch,train/loss,val/AP\n1,2.0,\n2,1.5,0.25\n")
    lines.update()
    fast.state = "finished"
    lines.end()
    said = [line.partition("run-1: ")[2].partition(" in ")[0] for line in screen.file.getvalue().splitlines()[1:]]
    assert said == ["started, log", "epoch 1, loss 2", "epoch 2, loss 1.5, AP 25.0", "finished"]


def test_the_epochs_of_another_process_are_not_told_by_the_one_that_takes_over(tmp_path):
    taken = job(tmp_path, 1, "queued")
    screen = Console(file=io.StringIO(), width=120)
    lines = Lines(screen, "AP")
    lines.begin([taken])
    taken.folder.path.mkdir()
    taken.folder.history.write_text("epoch,train/loss,val/AP\n1,2.0,\n")
    lines.update()
    taken.state, taken.epochs = "running", 1  # as the scheduler counts them when it starts the run
    lines.update()
    taken.folder.history.write_text("epoch,train/loss,val/AP\n1,2.0,\n2,1.5,\n")
    lines.update()
    assert "epoch 1" not in screen.file.getvalue()
    assert "run-1: epoch 2, loss 1.5" in screen.file.getvalue()


def test_epochs_after_an_older_checkpoint_are_told_again(tmp_path):
    resumed = job(tmp_path, 1, "running", epochs=2)
    resumed.folder.path.mkdir()
    screen = Console(file=io.StringIO(), width=120)
    lines = Lines(screen, "AP")
    lines.begin([resumed])
    for rows in ("1,2.0,\n2,1.8,\n", "1,2.0,\n", "1,2.0,\n2,1.7,\n"):
        resumed.folder.history.write_text("epoch,train/loss,val/AP\n" + rows)
        lines.update()
    assert "run-1: epoch 2, loss 1.7" in screen.file.getvalue()
    assert "1.8" not in screen.file.getvalue()


def test_the_time_of_the_process_and_that_of_the_training_have_their_names(tmp_path):
    jobs = [job(tmp_path, 1, "finished", seconds=26.0), job(tmp_path, 2, "failed", seconds=3.0)]
    jobs[0].folder.write_metrics({"AP": 0.5, "seconds": 2.0})
    screen = Console(file=io.StringIO(), width=120)
    lines = Lines(screen, "AP")
    lines.begin(jobs)
    lines.end()
    assert "run-1: finished in 0:26 (training 0:02), AP 50.0" in screen.file.getvalue()
    table = final_table(jobs, "AP")
    assert list(table.columns[-1].cells) == ["0:02", ""]
    assert table.columns[-1].header == "trained"


def test_what_became_of_a_run_in_words():
    assert metric_of({"val/AP": 1, "AP50": 2}, "AP") == 1
    assert metric_of({"AP50": 2}, "AP") is None
    assert how_it_ended(-15) == "killed by SIGTERM"
    assert "status 3" in how_it_ended(3)


def test_no_history_is_no_rows(tmp_path):
    assert RunFolder(tmp_path).epochs() == []


def test_swept_keys_are_those_that_differ():
    assert swept_keys([["a=1", "b=2", "seed=0"], ["a=1", "b=3", "seed=1"]]) == {"b", "seed"}
    assert swept_keys([["a=1"]]) == set()


def test_paths_are_quoted_for_hydra():
    assert _quoted("/a/b-c_1.2") == "/a/b-c_1.2"
    assert _quoted("/a b/c='1'") == "'/a b/c=\\'1\\''"


def test_a_run_alone_keeps_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert child_environment(Settings(), 0, 2)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in child_environment(Settings(), 0, 1)
    assert child_environment(Settings(), 0, 1000)["OMP_NUM_THREADS"] == "1"
