"""The command that measures latency, and what it refuses."""

import csv
import io
import json
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_module
from rich.console import Console

from pose_lab.checkpoints.reading import open_weights
from pose_lab.methods.kapao import Kapao
from pose_lab.runs import benchmark, resolvers, search_path
from tests import forked
from tests.configs import TINY
from tests.conftest import fixture_path

SMALL = [key for key in TINY if not key.startswith(("training", "logger"))]


def config(*overrides):
    resolvers.register()
    search_path.register()
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        return compose("latency", overrides=[*SMALL, *overrides])


def test_measures_every_part_and_writes_both_files(tmp_path, capsys):
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1,2]", "latency.people=[1,3]", "latency.repeats=2",
                 "latency.warmup=0", "latency.precisions=[float32,bfloat16]")  # fmt: skip
    cfg = benchmark.prepared(cfg)
    timings = benchmark.measure(cfg)
    per_net = {"network", "candidates", "end to end"}
    for size in (1, 2):
        of_size = [t for t in timings if t.batch == size]
        assert [t.people for t in of_size if t.part == "people"] == [None, 1, 3]
        forms = {(t.form, t.precision) for t in of_size if t.part in per_net}
        assert forms == {("eager", "float32"), ("folded", "float32"), ("folded", "bfloat16")}
    assert all(0 < t.low <= t.median <= t.high for t in timings)
    where, settings = benchmark.machine(benchmark.check(cfg)), benchmark.settings(cfg)
    benchmark.write(tmp_path / "out", timings, where, settings)
    content = json.loads((tmp_path / "out" / "latency.json").read_text())
    with open(tmp_path / "out" / "latency.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(content["milliseconds"]) == len(timings)
    assert content["machine"]["device"] == "cpu"
    said = {"method": "kapao", "scale": "demo", "data": "synth", "image_size": 64, "checkpoint": None, "repeats": 2}
    assert content["settings"].items() >= said.items()
    shown = io.StringIO()
    Console(file=shown, width=200).print(benchmark.table(timings, where, settings))
    text = shown.getvalue()
    assert all(word in text for word in ("scale demo", "synth", "64 pixels", "2 repeats", "ms per batch", "part of it"))
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "batch 2" in line] == [
        "5/8", "6/8", "7/8", "8/8"
    ]  # fmt: skip


def test_times_the_weights_of_a_checkpoint(tmp_path, monkeypatch):
    file = fixture_path("kapao/official_tiny_stripped.pt")
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1]", "latency.people=[]", "latency.repeats=2",
                 "latency.forms=[]", f"checkpoint={file}", "method.level_weights=[4.0,1.0,0.25,0.06]")  # fmt: skip
    cfg, timed = benchmark.prepared(cfg), []
    monkeypatch.setattr(Kapao, "people", lambda method, candidates, batch: timed.append(method))
    benchmark.measure(cfg)
    assert timed[0].inference.round_boxes  # as published
    state, stored = timed[0].net.state_dict(), open_weights(file).tensors
    assert all(torch.equal(tensor, stored[name].read().to(tensor.dtype)) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latency.forms=[fast]", "eager, compiled, folded, folded_compiled"),
        ("latency.precisions=[int8]", "float32, bfloat16"),
        ("latency.batches=[0]", "latency.batches has 0"),
        ("latency.people=[-1]", "latency.people has -1"),
        ("latency.repeats=1", "repeats is 1"),
        ("machine.accelerator=tpu", "auto, cpu, gpu"),
    ],
)
def test_wrong_settings_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        benchmark.check(config(override))


def test_precisions_of_which_no_form_has_any_are_refused():
    with pytest.raises(ValueError, match="others than float32 need folded networks"):
        benchmark.check(config("latency.forms=[eager,compiled]", "latency.precisions=[float16]"))


def test_forms_that_lack_a_precision_are_named(tmp_path, capsys):
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1]", "latency.people=[]", "latency.repeats=2",
                 "latency.precisions=[bfloat16]")  # fmt: skip
    timings = benchmark.measure(benchmark.prepared(cfg))
    assert {t.form for t in timings} == {"", "folded"}
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("Not measured: eager bfloat16. Only folded networks have other precisions than float32.") == 1


def test_a_compiled_network_is_announced_and_compiled_before_it_is_timed(tmp_path, capsys, monkeypatch):
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1]", "latency.people=[]", "latency.repeats=2",
                 "latency.warmup=0", "latency.forms=[compiled]")  # fmt: skip
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options: None)
    monkeypatch.setattr(benchmark, "once", lambda action, device: print("timed") or 1.0)
    benchmark.measure(benchmark.prepared(cfg))
    lines = capsys.readouterr().out.splitlines()
    begun = next(index for index, line in enumerate(lines) if line.startswith("2/2"))
    assert "batch 1, compiled float32, compiling first  left " in lines[begun]
    assert lines[begun + 1 :] == ["  compiled", *["timed"] * 6]


@pytest.mark.parametrize(
    "override",
    ["latency.precisions=[float16]", "latency.repeats=3", "data.image_size=128", "method.inference.pose_iou=0.5"],
)
def test_other_settings_have_another_folder_and_the_same_have_the_same(override):
    where = benchmark.machine(torch.device("cpu"))
    folder = benchmark.folder(config(), where)
    assert folder.name.startswith("kapao-demo-synth-cpu-")
    assert benchmark.folder(config("machine.cache=elsewhere"), where) == folder
    assert benchmark.folder(config(override), where) != folder
    assert benchmark.folder(config(), {**where, "threads": where["threads"] + 1}) != folder


def test_the_command_says_where_its_files_are_and_replaces_only_its_own(tmp_path):
    places = [f"machine.cache={tmp_path / 'cache'}", f"results={tmp_path}"]
    small = ["latency.batches=[1]", "latency.people=[]", "latency.warmup=0", "latency.forms=[]"]
    written = []
    for repeats in (2, 3, 2):
        done = forked.run("pose_lab.benchmark", *SMALL, *places, *small, f"latency.repeats={repeats}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        written.append(done.stdout.splitlines()[-2])
    files = {str(file): json.loads(file.read_text())["settings"]["repeats"] for file in tmp_path.rglob("latency.json")}
    assert files == {written[0]: 2, written[1]: 3}
    assert written[2] == written[0]


def test_the_help_is_about_latency(tmp_path):
    done = forked.run("pose_lab.benchmark", "--help", cwd=tmp_path)
    keys = ("batches", "people", "forms", "precisions", "warmup", "repeats")
    assert all(f"latency.{key} " in done.stdout for key in keys)
    assert "Files: results/latency/" in done.stdout
    assert all(f"{group}: " in done.stdout for group in ("method", "method/kapao_size", "scale", "data"))
    assert not any(f"\n{group}: " in done.stdout for group in ("experiment", "sweep", "logger", "training"))


@pytest.mark.parametrize("command", ["pose_lab.run", "pose_lab.benchmark"])
def test_the_help_ends_quietly_when_its_reader_does_and_imports_no_torch(command):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print({'torch', 'lightning'} & set(sys.modules), file=sys.stderr))\n"
        "sys.argv[1:] = ['--help']\n"
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == b"set()\n"
