"""Weights & Biases: one W&B run per run, online with a key, otherwise offline without waiting or asking.

Offline runs are written below the run folder (`wandb/offline-run-TIME-ID`) and can be sent later by `wandb sync`. The
id is the run's identity, so a resumed run goes on in the same W&B run (offline: as a further fragment of the same id).
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pose_lab.runs.folder import InterruptedRun

MODES = ("auto", "online", "offline", "disabled")
STEP = "trainer/global_step"  # the step metric of Lightning's WandbLogger


class Started(NamedTuple):
    """A running logger (None if W&B is disabled), and a line that says where W&B writes ("" on other ranks)."""

    logger: WandbLogger | None
    where: str


@dataclass(frozen=True)
class Wandb:
    """The `logger` node of the config.

    Attributes:
        project: W&B project.
        entity: user or team; None is the key's own.
        mode: `auto` is online with a key and offline otherwise, and falls back to offline if the server does not
            answer; `online` insists; `offline`; `disabled`. The variable WANDB_MODE replaces `auto`.
        group: None is the experiment's name.
        job_type: None is what the caller of `run` says.
        tags: beside those given to `run`.
        pictures: how many validation pictures are drawn, see `Pictures`.
        min_score: people found with less are not drawn.
        best: metrics whose best (highest) value is kept in the summary beside the last one.
        init_timeout: seconds the server has to answer at the start; WANDB_INIT_TIMEOUT replaces it.
        finish_timeout: seconds for the last uploads.
        stop_timeout: seconds for them when the run was told to stop, as its job is ended soon.

    Raises:
        ValueError: if `mode` is none of these.
    """

    project: str
    entity: str | None = None
    mode: str = "auto"
    group: str | None = None
    job_type: str | None = None
    tags: Sequence[str] = ()
    pictures: int = 16
    min_score: float = 0.2
    best: Sequence[str] = ("val/AP",)
    init_timeout: float = 10
    finish_timeout: float = 300
    stop_timeout: float = 20

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"logger.mode is {self.mode!r}; it can be {', '.join(MODES)}")

    def destination(self) -> str:
        """Where runs that start now will be written, in words; asks no server.

        Raises:
            ValueError: `online` was asked for and there is no key.
        """
        mode, reason = self._mode()
        if mode == "disabled":
            return "W&B: off"
        if mode == "offline":
            return f"W&B: offline ({reason}), in each run's folder"
        project = "/".join(filter(None, (self.entity, self.project)))
        return f"W&B: online, project {project}" + (" (offline if the server does not answer)" * (mode == "auto"))

    @contextmanager
    def run(
        self,
        folder: Path,
        identity: str,
        name: str,
        experiment: str,
        config: Mapping[str, Any],
        job_type: str = "train",
        tags: Sequence[str] = (),
    ) -> Iterator[Started]:
        """Starts a W&B run and always finishes it, with exit code 1 if the block raises.

        Args:
            folder: the run folder; W&B's files lie in `folder/wandb`.
            identity: W&B id, the hash of what decides the run's result.
            name: shown by W&B.
            experiment: the group, unless the config names one.
            config: the whole resolved config as plain dicts and lists.
            job_type: unless the config names one.
            tags: scale, data, method.

        Raises:
            ValueError: `online` was asked for and there is no key.
            ConnectionError: `online` was asked for and the server does not answer.
        """
        mode, reason = self._mode()
        if mode == "disabled":
            yield Started(None, "W&B: off")
            return
        logger = WandbLogger(save_dir=folder, project=self.project, id=identity)
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            yield Started(logger, "")
            return
        arguments = {
            "project": self.project,
            "entity": self.entity,
            "dir": str(folder),
            "id": identity,
            "name": name,
            "group": self.group or experiment,
            "job_type": self.job_type or job_type,
            "tags": sorted({*self.tags, *tags}),
            "config": dict(config),
        }
        folder.mkdir(parents=True, exist_ok=True)
        with _environment(folder):
            run, where = self._start(mode, reason, arguments)
            _define_metrics(run, self.best)
            with _finished(run, self.stop_timeout):
                yield Started(WandbLogger(save_dir=folder, project=self.project, id=identity, experiment=run), where)

    def log_figure(self, path: Path, folder: Path, identity: str, experiment: str, tags: Sequence[str] = ()) -> str:
        """Logs a sweep's figure as an own small run of job type `report` in the sweep's group.

        Args:
            path: the figure, PNG.
            folder: W&B's files lie in `folder/wandb`.
            identity: W&B id of the report; a later report of the same id replaces the figure.
            experiment: the group, unless the config names one.
            tags: as of the sweep's runs.

        Returns:
            A line that says where W&B writes.

        Raises:
            FileNotFoundError: if there is no figure.
        """
        if not path.exists():
            raise FileNotFoundError(f"no figure at {path}: build the report first")
        report = replace(self, job_type="report")
        with report.run(folder, identity, f"{experiment} report", experiment, {}, tags=tags) as (logger, where):
            if logger is not None:
                logger.experiment.log({"report/figure": wandb.Image(str(path), caption=experiment), STEP: 0})
        return where

    def _mode(self) -> tuple[str, str]:
        """The mode to try, and why it is offline; `auto` then means that a key is there."""
        asked = os.environ.get("WANDB_MODE", "auto") if self.mode == "auto" else self.mode
        if asked in ("dryrun", "offline"):
            return "offline", "as asked"
        if asked == "disabled":
            return "disabled", ""
        if has_key():
            return ("online" if asked == "online" else "auto"), ""
        if asked == "online":
            raise ValueError(
                "logger.mode=online needs a W&B key and none was found: run `wandb login`, set WANDB_API_KEY, or use "
                "logger.mode=auto, which is offline without a key"
            )
        return "offline", "no key found"

    def _start(self, mode: str, reason: str, arguments: dict[str, Any]) -> tuple[wandb.Run, str]:
        """The W&B run, and where it writes; `auto` falls back to offline."""
        if mode != "offline":
            try:
                run = self._init("online", arguments)
            except wandb.errors.Error as error:
                _forget(arguments)
                reason = f"the server cannot be used: {str(error).splitlines()[0]}"
                if mode == "online":
                    raise ConnectionError(f"W&B: {reason}; logger.mode=auto goes on offline") from error
            else:
                return run, f"W&B: online, {run.url}"
        run = self._init("offline", arguments)
        place = Path(run.dir).parent
        return run, f"W&B: offline ({reason}) in {place}; send it with `wandb sync {place}`"

    def _init(self, mode: Literal["online", "offline"], arguments: dict[str, Any]) -> wandb.Run:
        settings = wandb.Settings(
            silent=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", self.init_timeout)),
            finish_timeout=self.finish_timeout,
            # a live progress bar must not be recorded frame by frame
            console="off" if sys.stdout.isatty() else "wrap",
        )
        return wandb.init(**arguments, mode=mode, resume="allow", reinit="finish_previous", settings=settings)


def is_offline() -> bool:
    """Whether the environment says that the server must not be asked."""
    return os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")


def has_key() -> bool:
    """Whether a W&B key is at hand (environment or netrc); asks nobody and does not use the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(wandb.setup().settings.base_url).netloc
    machines = _netrc_machines()
    return server in machines or any(machine.endswith("wandb.ai") for machine in machines)


def _netrc_machines() -> list[str]:
    """Machines that have a password in the user's netrc file; a file that cannot be read counts as none."""
    named = os.environ.get("NETRC")
    candidates = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    for path in (candidate.expanduser() for candidate in candidates):
        try:
            return list(netrc(path).hosts)
        except (OSError, NetrcParseError):
            continue
    return []


def _forget(arguments: dict[str, Any]) -> None:
    """Frees the id of an online run that failed to start, and removes its empty folder, so that offline can have it."""
    wandb.teardown()
    for folder in Path(arguments["dir"], "wandb").glob(f"run-*-{arguments['id']}"):
        # a run that was online once has a history in its log; this one never got that far
        if not any((folder / "files").iterdir()):
            shutil.rmtree(folder)


def _define_metrics(run: wandb.Run, best: Sequence[str]) -> None:
    """Everything is plotted over Lightning's step; `best` metrics keep their highest value in the summary."""
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    for name in best:
        run.define_metric(name, step_metric=STEP, step_sync=True, summary="max,last")


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """A quiet console, and the files of tables inside the run folder, so that it can be moved before `wandb sync`."""
    wanted = {"WANDB_SILENT": "true", "WANDB_DATA_DIR": str(folder / "wandb")}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _finished(run: wandb.Run, stop_timeout: float) -> Iterator[None]:
    """Finishes the run; what goes wrong there is told, but ends nothing: the results are in the run folder."""
    exit_code, patience = 1, None
    try:
        yield
        exit_code = 0
    except InterruptedRun:
        patience = stop_timeout
        raise
    finally:
        # W&B takes its own time limit at the start of a run only; the thread goes on as long as the process is left to
        finishing = threading.Thread(target=_finish, args=(run, exit_code), daemon=True)
        finishing.start()
        finishing.join(patience)
        if finishing.is_alive():
            later = f"what was not sent is in {Path(run.dir).parent}, for `wandb sync`"
            print(f"W&B did not finish its run within {patience:g} s (logger.stop_timeout): {later}", flush=True)


def _finish(run: wandb.Run, exit_code: int) -> None:
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:
        warnings.warn(f"W&B could not finish its run ({error}); the run folder is complete", stacklevel=2)
