"""What a person reads when a command ends with an error."""

import os
from pathlib import Path

import pytest

from pose_lab.runs.errors import report, said
from pose_lab.runs.files import make_folder
from tests import forked
from tests.conftest import ROOT


def command(tmp_path, *overrides, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "POSE_LAB_ERRORS")}
    environment = kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **variables}
    return forked.run("pose_lab.run", f"results={tmp_path}", *overrides, cwd=tmp_path, env=environment)


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("training.epoch=1", "training.epoch; in training", "epochs"),
        ("trainin.epochs=1", "trainin; in the whole config", "training"),
        ("experimnt=kapao_bs_sweep", "experimnt; in the whole config", "experiment, checkpoint"),
        ("hydra.launcher.paralel=2", "hydra.launcher.paralel; in hydra.launcher", "parallel"),
    ],
)
def test_a_key_that_does_not_exist_is_answered_with_those_that_do(tmp_path, override, key, nearest):
    done = command(tmp_path, override)
    assert done.returncode == 1
    assert done.stderr == f"error: there is no config key {key}, nearest to it: {nearest} (--cfg job shows all)\n"


def test_without_any_near_key_all_are_listed(tmp_path):
    done = command(tmp_path, "scale=demo", "training.zzz=1")
    assert "in training, there are: epochs, precision, " in done.stderr


def test_a_folder_that_cannot_be_made_ends_a_run_and_a_sweep_alike(tmp_path):
    expected = "cannot write in /dev/null/x"
    for overrides in ((), ("experiment=kapao_bs_sweep",)):
        done = command(tmp_path, "results=/dev/null/x", *overrides)
        assert done.returncode == 1
        (line,) = (line for line in done.stderr.splitlines() if line)
        assert line.startswith(f"error: {expected}"), line
    assert not list(tmp_path.glob("pose_lab-*.txt"))


def test_who_asks_for_the_stack_trace_gets_it(tmp_path):
    done = command(tmp_path, "training.epoch=1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_what_an_error_says_has_no_number_before_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "none").read_text()
    assert said(error.value) == f"{tmp_path / 'none'}: No such file or directory"


def test_only_an_error_that_no_check_raised_leaves_its_stack_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for fails, traces in ((lambda: make_folder(Path("/dev/null/x")), 0), (lambda: make_folder(3), 1)):
        try:
            fails()
        except Exception as error:
            report(error)
        assert len(list(tmp_path.glob("pose_lab-*.txt"))) == traces
        assert capsys.readouterr().err.count("where it was raised") == traces
