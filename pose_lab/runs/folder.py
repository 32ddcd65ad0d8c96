"""The folder of one run: its state, its numbers, and the lock that keeps two processes from training it at once.

- `config.yaml`: the resolved config
- `status.json`: state, pid, host, started, updated, ended (seconds since 1970), attempt, error
- `progress.json`: phase, epoch, epochs, step, steps, seconds_left, metrics; rewritten about once a second
- `metrics.json`: the final numbers, metrics as fractions
- `metrics.csv`: one row per epoch
- `predictions.json`: the found people in COCO's results format
- `search.csv`: one row per setting of a search over the post-processing
- `checkpoints/`: to resume from, and the best
- `log.txt`: what the run's process printed, over all its starts
- `code.diff`: the commit that it was started with last, and the uncommitted difference
"""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from yaml import CSafeLoader

from pose_lab.runs.errors import said
from pose_lab.runs.files import FileLock, explained, read_json, write_json, write_text
from pose_lab.runs.identity import resolved

State = Literal["queued", "running", "finished", "failed", "interrupted"]

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f]")  # colours, cursor movements

TOP_LEVEL = re.compile(r"^(?=[A-Za-z_]\w*:)", re.MULTILINE)  # where a top-level key of a YAML mapping begins

LOCK_PATIENCE = 1.0  # seconds; who only asks whether a run is locked holds its lock for an instant
POLL = 1.0  # seconds between two looks at the lock of a run that is waited for


class InterruptedRun(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop; what it has saved is whole, and it can be started again.

    Attributes:
        signal: that asked for it; None where it is not known.
    """

    def __init__(self, message: str, signal: int | None = None) -> None:
        super().__init__(message)
        self.signal = signal


class RunBusyError(RuntimeError):
    """Another process is training this run."""


@dataclass(frozen=True)
class Status:
    """What became of a run. Times are seconds since 1970; `attempt` counts the starts."""

    state: State = "queued"
    pid: int | None = None
    host: str | None = None
    started: float | None = None
    updated: float | None = None
    ended: float | None = None
    attempt: int = 0
    error: str | None = None


class RunFolder:
    """One run on disk. Reading needs no lock and never sees half a file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock")

    @property
    def name(self) -> str:
        """`<slug>-<hash>`."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """What the run's process printed."""
        return self.path / "log.txt"

    @property
    def predictions(self) -> Path:
        """The found people, in COCO's results format."""
        return self.path / "predictions.json"

    @property
    def history(self) -> Path:
        """The table with one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def search(self) -> Path:
        """The table of a search over the post-processing, with one row per setting."""
        return self.path / "search.csv"

    def epochs(self) -> list[dict[str, str]]:
        """The whole rows of `metrics.csv`."""
        if not self.history.exists():
            return []
        whole, _, _ = self.history.read_text(encoding="utf-8").rpartition("\n")
        return list(csv.DictReader(io.StringIO(whole)))

    def status(self) -> Status:
        """The run's state now: one that says it runs, and whose process is gone, is interrupted."""
        status = self.recorded_status()
        if status.state == "running" and not self.is_locked():
            return replace(status, state="interrupted")
        return status

    def recorded_status(self) -> Status:
        """The state as the run last wrote it; `queued` if it never did."""
        known = {field.name for field in fields(Status)}
        return Status(**{key: value for key, value in (self._read("status.json") or {}).items() if key in known})

    def is_locked(self) -> bool:
        """Whether a process, on this or another host, is training the run."""
        return self._lock.is_held()

    def write_status(self, status: Status) -> None:
        """Replaces the state; only who holds the lock may."""
        write_json(self.path / "status.json", asdict(replace(status, updated=time.time())))

    @contextmanager
    def lock(self, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Holds the run, so that no second process trains it.

        Args:
            say: is told of everyone who holds the run, which is then waited for; None: that is an error.

        Raises:
            RunBusyError: another process holds it.
        """
        deadline = time.monotonic() + LOCK_PATIENCE
        while not self._lock.acquire():
            if time.monotonic() < deadline:
                time.sleep(LOCK_PATIENCE / 20)
                continue
            if say is None:
                raise RunBusyError(f"{self._busy()}: wait for it, or stop that process first")
            say(f"{self._busy()}: waiting for its end")
            while self.is_locked():
                time.sleep(POLL)
            deadline = time.monotonic() + LOCK_PATIENCE
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def training(self, say: Callable[[str], None] | None = None) -> Iterator[Status]:
        """The life of one attempt: locks the run, says that it runs, and at the end how it ended.

        A body that ends normally has finished; InterruptedRun, KeyboardInterrupt and SystemExit leave it interrupted,
        any other exception failed. Exceptions pass on. A run that another process finished while this one waited for
        it gets no further attempt: the status is `finished`, and the body has nothing to do.

        Args:
            say: as in `lock`.

        Raises:
            RunBusyError: another process holds the run, and it is not waited for.
        """
        with self.lock(say):
            if (status := self.recorded_status()).state == "finished":
                yield status
                return
            status = self._begin()
            try:
                yield status
            except BaseException as error:
                stopped = isinstance(error, InterruptedRun | KeyboardInterrupt | SystemExit)
                with suppress(OSError):  # a full disk must not hide why the run ended
                    self._end(status, "interrupted" if stopped else "failed", None if stopped else _words(error))
                raise
            self._end(status, "finished")

    def write_end(self, state: Literal["failed", "interrupted"], error: str | None = None) -> None:
        """Writes down how a run ended that could not do so itself.

        Raises:
            RunBusyError: a process is training it, so it has not ended.
        """
        with self.lock():
            status = self.recorded_status()
            ended = status.ended if status.state == "failed" else time.time()
            self.write_status(replace(status, state=state, error=error, ended=ended))

    @contextmanager
    def appended_log(self, command: Sequence[str]) -> Iterator[IO[bytes]]:
        """The log, to append what a process prints; a line with time and command parts it from what is there."""
        with explained(self.path), open(self.log, "ab") as log:
            log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n".encode())
            log.flush()
            yield log

    def write_config(self, cfg: DictConfig) -> None:
        """Writes `config.yaml`, resolved and without Hydra's own node."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))))

    def config(self) -> dict[str, Any]:
        """The run's config as it was started, resolved; to read, not to change.

        Raises:
            FileNotFoundError: the run has none yet.
            ValueError: the file is not YAML of a config.
        """
        path = self.path / "config.yaml"
        try:
            content = _content(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML ({error}): delete this run's folder") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds no config: delete this run's folder")
        return content

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Replaces `progress.json`."""
        write_json(self.path / "progress.json", dict(progress), sync=False)

    def progress(self) -> dict[str, Any]:
        """How far the run is; empty before its first report."""
        return self._read("progress.json") or {}

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes the final numbers, metrics as fractions."""
        write_json(self.path / "metrics.json", dict(metrics))

    def metrics(self) -> dict[str, Any]:
        """The final numbers; empty before the end."""
        return self._read("metrics.json") or {}

    def log_tail(self, lines: int) -> list[str]:
        """The log's last lines, at most 64 KiB; a progress bar counts as what it last showed, without colours."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
        text = CONTROL.sub("", text)
        shown = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n"))
        return [line for line in shown if line][-lines:]

    def _begin(self) -> Status:
        now, before = time.time(), self.recorded_status()
        status = Status("running", os.getpid(), socket.gethostname(), started=now, attempt=before.attempt + 1)
        self.write_status(status)
        return status

    def _end(self, status: Status, state: State, error: str | None = None) -> None:
        self.write_status(replace(status, state=state, ended=time.time(), error=error))

    def _busy(self) -> str:
        status = self.recorded_status()
        return (
            f"the run {self.path} is being trained by process {status.pid} on {status.host} since "
            f"{time.strftime('%H:%M:%S', time.localtime(status.started))}"
        )

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            return None


def _content(text: str) -> Any:
    """What a YAML text holds.

    Runs of a sweep have most top-level keys in common, and a thousand of them are read for a report: equal parts are
    parsed once and shared. Texts that no run writes (a list, a flow mapping, anchors) are parsed as a whole.
    """
    parts = TOP_LEVEL.split(text)[1:]
    if "".join(parts) != text or re.search(r"^(---|\.\.\.|%)|[&*]\w", text, re.MULTILINE):
        return yaml.load(text, CSafeLoader)
    content: dict[str, Any] = {}
    for part in parts:
        content |= _part(part)
    return content


@lru_cache(maxsize=4096)
def _part(text: str) -> dict[str, Any]:
    return yaml.load(text, CSafeLoader)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {said(error)}"
