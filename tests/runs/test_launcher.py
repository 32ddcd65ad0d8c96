import io

import pytest
import wandb
from omegaconf import OmegaConf
from rich.console import Console

from pose_lab.runs.launcher import log_figure

ERRORS = {
    "no key": ValueError("logger.mode=online needs a W&B key"),
    "no network": ConnectionError("W&B: the server cannot be used"),
    "refused": wandb.errors.CommError("project [x] not found"),
}


class Refusing:
    """A logger that cannot be reached."""

    def __init__(self, why):
        self.why = why

    def log_figure(self, *arguments):
        raise ERRORS[self.why]


def logged(folder, logger):
    """What a person reads when the figure of a sweep is logged."""
    (folder / "report.png").touch()
    screen = Console(file=io.StringIO(), width=200)
    content = {"name": "sweep", "scale": "demo", "data": {"name": "synth"}, "logger": logger}
    log_figure(folder, OmegaConf.create(content), screen)
    return screen.file.getvalue()


@pytest.mark.parametrize("why", ERRORS)
def test_a_figure_that_cannot_be_logged_ends_no_sweep(tmp_path, why):
    text = logged(tmp_path, {"_target_": "tests.runs.test_launcher.Refusing", "why": why})
    assert text == f"The figure was not logged: {ERRORS[why]}\n"


def test_online_without_a_key_is_said(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    text = logged(tmp_path, {"_target_": "pose_lab.runs.wandb.Wandb", "project": "test", "mode": "online"})
    assert text.startswith("The figure was not logged: logger.mode=online needs a W&B key")


def test_without_a_logger_nothing_is_said(tmp_path):
    assert logged(tmp_path, None) == ""
