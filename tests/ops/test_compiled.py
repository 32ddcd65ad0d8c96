"""Loops as machine code: where it is kept, and when numba is imported."""

import subprocess
import sys

import numpy as np
import torch

from pose_lab.ops.compiled import compiled

PROGRAM = """
import sys
from pose_lab.run import main
from pose_lab.methods import dekr, higherhrnet, kapao
print("numba" in sys.modules)
"""


def running_sum(values, start):
    total = start
    for value in values:
        total += value
    return total


def doubled(values):
    values *= 2
    return values[1:], None, len(values)


def test_a_loop_computes_in_the_type_of_its_numbers():
    values = np.full(1000, 0.1, np.float32)
    expected = running_sum(values, np.float32(0))
    assert compiled(running_sum)(torch.from_numpy(values), np.float32(0)) == expected != np.float32(100)


def test_a_loop_works_on_the_memory_of_tensors():
    values = torch.arange(6.0)
    rest, nothing, count = compiled(doubled)(values[::2])
    assert values.tolist() == [0, 1, 4, 3, 8, 5]
    assert rest.tolist() == [4, 8]
    assert (nothing, count) == (None, 3)


def test_without_a_folder_for_machine_code_it_is_compiled_anew(monkeypatch):
    import numba

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'running_sum': no locator available")
        return original(**options)

    original = numba.njit
    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(running_sum)(torch.arange(4.0), 0.0) == 6


def test_a_start_does_not_import_numba():
    shown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "False"
