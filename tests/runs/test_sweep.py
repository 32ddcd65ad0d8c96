"""The sweep machinery with a program of its own, whose runs end as they are told (`tests/runs/fake`)."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pose_lab.runs.folder import RunFolder
from tests.conftest import ROOT

REPORT = ("report={title: Fake, axis: method.box, metric: AP, columns: [AP, AR]}",)


def command(results: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "tests.runs.fake.run", f"results={results}", "report=null", *overrides]


def environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    }
    return kept | {"PYTHONPATH": str(ROOT)}


def sweep(results: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(results, *overrides),
        cwd=results,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def begin(results: Path, *overrides: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command(results, *overrides), cwd=results, env=environment(), text=True, **pipes)


def folders(results: Path) -> dict[str, RunFolder]:
    """Run folders by the start of their name."""
    found = (results / "fake_sweep" / "demo-synth").glob("*/config.yaml")
    return {path.parent.name.rsplit("-", 1)[0]: RunFolder(path.parent) for path in found}


def starts(folder: RunFolder) -> list[list[str]]:
    path = folder.path / "starts.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, what: str):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def is_training(results: Path, name: str) -> bool:
    folder = folders(results).get(name)
    return folder is not None and folder.status().state == "running" and bool(folder.progress())


def test_finished_runs_are_skipped_and_a_run_alone_is_the_same_run(tmp_path):
    first = sweep(tmp_path, *REPORT)
    assert first.returncode == 0, first.stdout + first.stderr
    runs = folders(tmp_path)
    assert set(runs) == {"box-0.01", "box-0.05"}
    assert all(run.status().state == "finished" for run in runs.values())
    assert "\x1b" not in first.stdout
    assert "\r" not in first.stdout
    assert "HYDRA" not in first.stdout + first.stderr
    for number, name in enumerate(runs, 1):
        lines = [line for line in first.stdout.splitlines() if f"{name}-" in line and line.startswith("[")]
        assert len(lines) == 4, lines  # started, two epochs, finished
        assert "epoch 2/2, loss 0.5, AP 10.0" in lines[2], number
    assert first.stdout.splitlines()[:8] == [
        "sweep    fake_sweep",
        "scale    demo",
        "data     synth",
        "device   no device",
        f"results  {tmp_path}/fake_sweep/demo-synth",
        "W&B: never",
        "synth: no pictures at all",
        "2 runs, 0 of them finished before",
    ]
    second = sweep(tmp_path)
    assert "no pictures at all" not in second.stdout  # nothing is made ready for runs that are finished
    assert second.returncode == 0
    assert second.stdout.count("finished before, AP") == 2
    assert "no device" not in second.stdout
    assert "W&B" not in second.stdout
    alone = sweep(tmp_path, "hydra.mode=RUN", "method.box=0.01", "data.name=synth")
    assert alone.returncode == 0, alone.stderr
    assert len(folders(tmp_path)) == 2
    assert len(starts(runs["box-0.05"])) == 1
    report = tmp_path / "fake_sweep" / "demo-synth" / "report"
    assert all(report.with_suffix(suffix).stat().st_size for suffix in (".md", ".csv", ".tex", ".png", ".svg"))


def test_failed_and_killed_runs_stop_nobody_and_are_tried_again(tmp_path):
    failing = ("method.box=0.01,0.05,0.1", "hydra.launcher.parallel=3", "machine.raises=[0.01]", "machine.dies=[0.05]")
    first = sweep(tmp_path, *failing)
    runs = folders(tmp_path)
    assert first.returncode == 1
    assert "Traceback" not in first.stderr
    assert {name: run.status().state for name, run in runs.items()} == {
        "box-0.01": "failed",
        "box-0.05": "failed",
        "box-0.1": "finished",
    }
    assert "  ValueError: diverged at box 0.01" in first.stdout.splitlines()
    assert "killed by SIGKILL" in first.stdout
    assert "memory" in (runs["box-0.05"].status().error or "")
    assert "2 of 3 runs failed" in first.stdout
    assert f"python -m tests.runs.fake.run results={tmp_path}" in first.stdout.splitlines()[-1]
    assert "\x1b" not in first.stdout
    not_again = sweep(tmp_path, "method.box=0.01,0.05,0.1", "hydra.launcher.retry_failed=false")
    assert not_again.returncode == 1
    assert len(starts(runs["box-0.01"])) == 1
    again = sweep(tmp_path, "method.box=0.01,0.05,0.1", "hydra.launcher.parallel=3")
    assert again.returncode == 0, again.stdout
    assert [len(starts(runs[name])) for name in ("box-0.01", "box-0.05", "box-0.1")] == [2, 2, 1]
    assert runs["box-0.05"].status().attempt == 2
    assert runs["box-0.05"].status().error is None


def test_ctrl_c_interrupts_the_runs_and_the_command_goes_on_later(tmp_path):
    boxes = ("method.box=0.01,0.02,0.05", "hydra.launcher.parallel=2")
    stopping = ("machine.waits=[0.01,0.02]", "machine.stubborn=[0.02]", "hydra.launcher.grace_seconds=1")
    with begin(tmp_path, *boxes, *stopping) as parent:
        wait_for(lambda: is_training(tmp_path, "box-0.01") and is_training(tmp_path, "box-0.02"), "two runs")
        parent.send_signal(signal.SIGINT)
        output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 130
    assert "Traceback" not in output
    assert "Stopped. To go on where it stopped:" in output
    runs = folders(tmp_path)
    assert runs["box-0.01"].recorded_status().state == "interrupted"
    assert runs["box-0.02"].recorded_status().state == "running"  # it did not stop in time and was killed
    assert runs["box-0.02"].status().state == "interrupted"
    assert runs["box-0.05"].status().state == "queued"
    assert not starts(runs["box-0.05"])
    later = sweep(tmp_path, *boxes)
    assert later.returncode == 0
    assert later.stdout.count("epoch 1/2") == 1  # the interrupted runs had their first epoch
    assert all(run.status().state == "finished" for run in runs.values())


def test_a_run_stopped_before_its_first_word_is_interrupted_and_one_never_started_is_queued(tmp_path):
    with begin(tmp_path, "method.box=0.01,0.02", "machine.late=[0.01]", *REPORT) as parent:
        wait_for(lambda: folders(tmp_path) and "not yet" in folders(tmp_path)["box-0.01"].log_tail(1), "the first run")
        parent.send_signal(signal.SIGTERM)
        output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 128 + signal.SIGTERM
    states = {name: run.status().state for name, run in folders(tmp_path).items()}
    assert states == {"box-0.01": "interrupted", "box-0.02": "queued"}
    table = [line.split()[1] for line in output.splitlines() if line.startswith(("  box-0.01-", "  box-0.02-"))]
    assert table == ["interrupted", "queued"], output
    assert "1 interrupted, 1 queued" in output


def test_a_killed_sweep_leaves_no_orphan_and_another_takes_over(tmp_path):
    with begin(tmp_path, "machine.waits=[0.01]") as parent:
        wait_for(lambda: is_training(tmp_path, "box-0.01"), "the first run")
        orphan = psutil.Process(folders(tmp_path)["box-0.01"].status().pid)
        parent.kill()
    later = sweep(tmp_path, "hydra.launcher.parallel=2")
    # where nobody collects orphans, an ended one stays in the process table
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert later.returncode == 0
    assert [len(starts(run)) for run in folders(tmp_path).values()] in ([2, 1], [1, 2])


def test_two_sweeps_at_once_share_the_work(tmp_path):
    boxes = ("method.box=0.01,0.02,0.03,0.04", "machine.waits=[0.01]")
    with begin(tmp_path, *boxes) as one:
        wait_for(lambda: is_training(tmp_path, "box-0.01"), "the first run")
        with begin(tmp_path, *boxes) as two:
            wait_for(lambda: is_training(tmp_path, "box-0.02"), "the second run")
            wait_for(lambda: folders(tmp_path)["box-0.04"].status().state == "finished", "the last run")
            (tmp_path / "go").touch()
            outputs = [sweeping.communicate(timeout=30)[0] for sweeping in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0]
    assert [len(starts(run)) for run in folders(tmp_path).values()] == [1, 1, 1, 1]
    assert "another process is training it" in outputs[1]


def test_the_report_is_there_while_runs_go_on(tmp_path):
    from pose_lab.runs.formats import markdown
    from pose_lab.runs.report import build

    with begin(tmp_path, "machine.waits=[0.05]", *REPORT) as parent:
        wait_for(lambda: is_training(tmp_path, "box-0.05"), "the second run")
        page = markdown(build(tmp_path / "fake_sweep" / "demo-synth"))
        (tmp_path / "go").touch()
        parent.communicate(timeout=30)
    assert re.search(r"\| 0\.01 \| 49\.0 \| 60\.0 \| 0:01 \| +\|", page), page
    assert re.search(r"\| 0\.05 \| +\| +\| +\| running 1/2 \|", page), page
    assert "1 finished, 1 running" in page


def test_seeds_and_runs_at_once(tmp_path):
    results = tmp_path / "a 'b'"
    launcher = ("hydra.launcher.parallel=2", "hydra.launcher.devices=[3,4]", "results=\"a 'b'\"", *REPORT)
    done = sweep(tmp_path, "seed=0,1", "method.box=0.01,1e-2", *launcher)
    assert done.returncode == 0, done.stdout
    runs = folders(results)
    assert set(runs) == {"box-0.01-seed-0", "box-0.01-seed-1"}  # two spellings of one number are one run
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert sorted(start[1:] for run in runs.values() for start in starts(run)) == [[threads, "3"], [threads, "4"]]
    assert re.search(r"49\.5 ± 0\.7 +60\.0 ± 0\.0 +2 ", done.stdout), done.stdout
    plan = json.loads((results / "fake_sweep" / "demo-synth" / "sweep.json").read_text())
    assert {run["folder"] for run in plan["runs"]} == {run.name for run in runs.values()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=/missing", "data.root=/missing is no data set"),
        ("hydra.launcher.parallel=0", "at least one run must train"),
        ("hydra.launcher.paralel=2", "paralel"),
        ("results=/dev/null/none", "cannot write in /dev/null/none"),
    ],
)
def test_bad_input_is_one_message_and_nothing_starts(tmp_path, override, message):
    done = sweep(tmp_path, override)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(starts(run) for run in folders(tmp_path).values())


def test_a_terminal_shows_a_live_table(tmp_path):
    main, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    environ = environment() | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command(tmp_path, "machine.sleep=0.5"), cwd=tmp_path, env=environ, **streams) as parent:
        os.close(terminal)
        screen = b""
        while chunk := _read(main):
            screen += chunk
    os.close(main)
    text = screen.decode()
    assert parent.returncode == 0
    assert "time left" in text
    assert "1 of 2 runs ended" in text
    assert "━" in text
    assert text.index("device   no device") < text.index("no pictures at all") < text.index("time left")
    assert "started, log in" not in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


WEIGHTS_OF_THE_SECOND = ("method.box=0.05", "method.lr=1,2,3", "weights_of={method.lr: 2}", "hydra.launcher.parallel=3")


def test_runs_wait_for_the_one_that_trains_their_weights(tmp_path):
    done = sweep(tmp_path, *WEIGHTS_OF_THE_SECOND)
    assert done.returncode == 0, done.stdout + done.stderr
    status = {name.rsplit("-", 1)[-1]: run.status() for name, run in folders(tmp_path).items()}
    assert all(status[name].started >= status["2"].ended for name in ("1", "3")), status
    threads = {name.rsplit("-", 1)[-1]: starts(run)[0][1] for name, run in folders(tmp_path).items()}
    shared = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert threads == {"1": shared, "2": "None", "3": shared}  # one trains, with all cores; two evaluate


def test_the_run_that_trains_the_weights_joins_a_sweep_that_lacks_it(tmp_path):
    done = sweep(tmp_path, "method.lr=1,3", *WEIGHTS_OF_THE_SECOND[2:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert {run.config()["method"]["lr"] for run in folders(tmp_path).values()} == {1, 2, 3}


def test_runs_whose_weights_will_not_come_fail_and_say_so(tmp_path):
    done = sweep(tmp_path, *WEIGHTS_OF_THE_SECOND, "machine.raises=[0.05]")
    assert done.returncode == 1
    assert done.stdout.count("the run that trains its weights failed: box-0.05-lr-2-") >= 2
    assert "3 of 3 runs failed" in done.stdout
