"""The command that measures latency, and what it refuses."""

import csv
import json

import pytest
import torch
from hydra import compose, initialize_config_module

from pose_lab.checkpoints.reading import open_weights
from pose_lab.methods.kapao import Kapao
from pose_lab.runs import benchmark, resolvers, search_path
from tests.configs import TINY
from tests.conftest import fixture_path

SMALL = [key for key in TINY if not key.startswith(("training", "logger"))]


def config(*overrides):
    resolvers.register()
    search_path.register()
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        return compose("latency", overrides=[*SMALL, *overrides])


def test_measures_every_part_and_writes_both_files(tmp_path):
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1,2]", "latency.people=[1,3]", "latency.repeats=2",
                 "latency.warmup=0", "latency.precisions=[float32,bfloat16]")  # fmt: skip
    timings = benchmark.measure(cfg)
    per_net = {"network", "candidates", "end to end"}
    for size in (1, 2):
        of_size = [t for t in timings if t.batch == size]
        assert [t.people for t in of_size if t.part == "people"] == [None, 1, 3]
        forms = {(t.form, t.precision) for t in of_size if t.part in per_net}
        assert forms == {("eager", "float32"), ("folded", "float32"), ("folded", "bfloat16")}
    assert all(0 < t.low <= t.median <= t.high for t in timings)
    benchmark.write(tmp_path / "out", timings, benchmark.machine(benchmark.check(cfg)), {"repeats": 2})
    content = json.loads((tmp_path / "out" / "latency.json").read_text())
    with open(tmp_path / "out" / "latency.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(content["milliseconds"]) == len(timings)
    assert content["machine"]["device"] == "cpu"


def test_times_the_weights_of_a_checkpoint(tmp_path, monkeypatch):
    file = fixture_path("kapao/official_tiny_stripped.pt")
    cfg = config(f"machine.cache={tmp_path}", "latency.batches=[1]", "latency.people=[]", "latency.repeats=2",
                 "latency.forms=[]", f"checkpoint={file}", "method.level_weights=[4.0,1.0,0.25,0.06]")  # fmt: skip
    timed = []
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
