"""Loops as machine code: types, where it is kept, and when numba is imported."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pose_lab.ops.compiled import compiled

LOOP = """
import sys
import torch
import pose_lab.methods.kapao
from pose_lab.ops.compiled import compiled

@compiled("float32(float32[:], float32)")
def running_sum(values, start):
    total = start
    for value in values:
        total += value * {factor}
    return total

print("numba" in sys.modules, running_sum(torch.ones(10)[::2], 1))
"""


@compiled("float32(float32[:], float32)")
def running_sum(values, start):
    total = start
    for value in values:
        total += value
    return total


@compiled("Tuple((float32[:], int64))(float32[:])")
def doubled(values):
    for row in range(len(values)):
        values[row] *= np.float32(2)
    return values[1:], len(values)


def test_a_loop_computes_in_the_types_of_its_signature():
    values, total = torch.full((1000,), 0.1), np.float32(0)
    for _ in range(1000):
        total += np.float32(0.1)
    assert running_sum(values, 0) == total != np.float32(100)


def test_a_loop_works_on_the_memory_of_tensors():
    values = torch.arange(6.0)
    rest, count = doubled(values[::2])
    assert values.tolist() == [0, 1, 4, 3, 8, 5]
    assert rest.tolist() == [4, 8]
    assert count == 3


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="float64"):
        doubled(torch.zeros(3, dtype=torch.float64))


def test_machine_code_is_kept_for_each_text_of_a_loop(tmp_path, monkeypatch):
    """By several processes at once, which import numba when they need it."""
    monkeypatch.setenv("POSE_LAB_CACHE", str(tmp_path / "cache"))

    def shown(number, factor):
        script = tmp_path / f"{number}" / "loop.py"
        script.parent.mkdir()
        script.write_text(LOOP.format(factor=factor))
        return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(shown, range(3), [1, 1, 2])) == ["False 6.0", "False 6.0", "False 11.0"]
    assert len(list((tmp_path / "cache" / "loops").iterdir())) == 2


def test_without_a_folder_for_machine_code_it_is_compiled_anew(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("POSE_LAB_CACHE", str(tmp_path / "cache"))
    anew = compiled("float32(float32[:], float32)")(running_sum.__wrapped__)
    assert anew(torch.arange(4.0), 0.0) == 6


def test_broken_machine_code_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_LAB_CACHE", str(tmp_path))
    again = [compiled("float32(float32[:], float32)")(running_sum.__wrapped__) for _ in range(2)]
    assert again[0](torch.arange(4.0), 0.0) == 6
    files = [path for path in tmp_path.rglob("*.nb?") if path.write_bytes(b"") == 0]
    assert len(files) == 2
    assert again[1](torch.arange(4.0), 0.0) == 6
