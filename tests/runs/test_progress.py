import csv
import io
import json
import os
import pty
import re
import threading

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from pose_lab.runs import files, progress
from tests.runs.tiny import Tiny, loader, trainer


def fit(folder, callbacks, module=None, ckpt_path=None, **settings):
    runner = trainer(folder, callbacks, **settings)
    runner.fit(module or Tiny(), loader(4), loader(2), ckpt_path=ckpt_path)
    return runner


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def results(folder):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table(folder)]


def test_the_table_has_one_row_per_epoch_with_means_and_validation(tmp_path):
    callback = progress.MetricsTable(tmp_path)
    fit(tmp_path, [callback], Tiny(), epochs=2)
    rows = table(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["step"] for row in rows] == ["4", "8"]
    assert [float(row["val/AP"]) for row in rows] == pytest.approx([0.1, 0.5])
    assert set(rows[0]) == {"epoch", "step", "seconds", "lr", "train/loss", "train/box", "val/AP", "val/AP50"}
    weight, losses = 1.0, []
    for n in range(4):
        losses.append((weight * (1 + n)) ** 2)
        weight -= 0.125 * 2 * weight * (1 + n) ** 2
    assert float(rows[0]["train/loss"]) == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert float(rows[0]["train/box"]) == pytest.approx(sum(losses) / 8, rel=1e-5)
    assert float(rows[0]["lr"]) == 0.125


def test_an_epoch_without_validation_repeats_no_old_numbers(tmp_path):
    fit(tmp_path, [progress.MetricsTable(tmp_path)], epochs=3, check_val_every_n_epoch=2)
    assert ["val/AP" in row and row["val/AP"] != "" for row in table(tmp_path)] == [False, True, False]


@pytest.mark.parametrize("stop_at", [(1, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize(
    "saving",
    [
        {"every_n_train_steps": 1, "save_on_train_epoch_end": False},
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    ],
    ids=["each step", "end of epoch", "after validation"],
)
def test_a_resumed_run_continues_the_table(tmp_path, stop_at, saving):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(whole, [progress.MetricsTable(whole)])

    def callbacks():
        return [progress.MetricsTable(broken), ModelCheckpoint(broken, save_last=True, save_top_k=-1, **saving)]

    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(broken, callbacks(), Tiny(stop_at), enable_checkpointing=True)
    (broken / "metrics.csv").write_text("epoch,step\n0,4\n1,8\n2,12\n")  # what a killed process might leave
    fit(broken, callbacks(), ckpt_path=broken / "last.ckpt", enable_checkpointing=True)
    seconds = [float(row["seconds"]) for row in table(broken)]
    assert len(seconds) == 3
    assert min(seconds) > 0
    if saving.get("every_n_train_steps") is None:
        assert results(broken) == results(whole)
    else:  # in the midst of an epoch this loader starts anew, and after its last step Lightning skips the validation
        assert [(row["epoch"], row["step"]) for row in results(broken)] == [("0", "4"), ("1", "8"), ("2", "12")]


def test_a_fresh_start_removes_the_table_of_an_earlier_one(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch\n0\n1\n2\n3\n")
    fit(tmp_path, [progress.MetricsTable(tmp_path)], epochs=1)
    assert len(table(tmp_path)) == 1


def test_the_file_tells_the_position_and_is_strict_json(tmp_path):
    seen = []

    class Watch(progress.ProgressFile):
        def _write(self, trainer, phase, now=False):
            super()._write(trainer, phase, now)
            seen.append(json.loads((tmp_path / "progress.json").read_text(), parse_constant=pytest.fail))

    fit(tmp_path, [Watch(tmp_path, every=0)], epochs=2)
    training = [row for row in seen if row["phase"] == "train"]
    assert [row["step"] for row in training] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert {(row["epochs"], row["steps"]) for row in seen} == {(2, 8)}
    assert training[0]["seconds_left"] is None
    assert all(row["seconds_left"] >= 0 for row in training[1:])
    assert [row["phase"] for row in seen].count("validate") == 4
    assert seen[-1]["phase"] == "done"
    assert seen[-1]["seconds_left"] == 0
    assert set(seen[-1]["metrics"]) == {"train/loss", "train/box", "val/AP", "val/AP50"}
    assert seen[-1]["metrics"]["val/AP50"] is None


def test_the_file_is_written_seldom_but_at_each_epochs_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(progress.RunFolder, "write_progress", lambda folder, content: written.append(content["step"]))
    fit(tmp_path, [progress.ProgressFile(tmp_path, every=1e9)], epochs=2)
    assert written == [0, 4, 8, 8]


def test_the_file_is_written_without_waiting_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_sync", lambda path: pytest.fail("training waits for the disk"))
    fit(tmp_path, [progress.ProgressFile(tmp_path)], epochs=1)
    assert json.loads((tmp_path / "progress.json").read_text())["phase"] == "done"


def test_the_file_tells_of_a_failure(tmp_path):
    with pytest.raises(RuntimeError):
        fit(tmp_path, [progress.ProgressFile(tmp_path)], Tiny((1, 2)))
    assert json.loads((tmp_path / "progress.json").read_text())["phase"] == "failed"


def test_time_left_counts_only_steps_of_this_process(monkeypatch):
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    left = progress.TimeLeft()
    assert left.seconds(50, 100) is None
    left.begin(50)
    left.begin(51)
    assert left.seconds(60, 100) == 80
    assert left.seconds(60, None) is None


def test_a_log_gets_one_plain_line_per_epoch(tmp_path):
    stream = io.StringIO()
    metrics = progress.MetricsTable(tmp_path)
    shown = progress.display(metrics, stream)
    fit(tmp_path, [metrics, progress.ProgressFile(tmp_path), shown], epochs=3, check_val_every_n_epoch=3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert all(re.match(rf"epoch {n + 1}/3  loss .+  box .+  lr 0.125  .+ s  left \d", lines[n]) for n in (0, 1))
    assert "AP 0.3000" in lines[2]
    assert lines[2].endswith("left 0:00")


def test_a_terminal_gets_a_bar_for_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    leader, follower = pty.openpty()
    received = bytearray()
    reader = threading.Thread(target=_read, args=(leader, received))
    reader.start()
    with os.fdopen(follower, "w") as stream:
        metrics = progress.MetricsTable(tmp_path)
        shown = progress.display(metrics, stream)
        assert isinstance(shown, progress.RunBar)
        runner = fit(tmp_path, [metrics, shown], epochs=3)
        runner.validate(Tiny(), loader(2), verbose=False)
    reader.join(timeout=30)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", received.decode())
    assert "\x1b" in received.decode()
    assert "epoch 3/3" in text
    assert "12/12" in text
    assert "AP 0.300" in text
    assert re.search(r"loss \d", text)
    assert "left 0:00" in text
    assert "validating" in text


def test_a_dumb_terminal_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream, os.fdopen(leader):
        assert isinstance(progress.display(progress.MetricsTable(tmp_path), stream), progress.EpochLines)


def _read(descriptor, received):
    try:
        while chunk := os.read(descriptor, 4096):
            received += chunk
    except OSError:  # the other end was closed
        os.close(descriptor)
