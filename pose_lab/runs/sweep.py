"""The scheduler of a sweep: starts each run as its own process, watches it, and does nothing else.

All it knows about a run it reads from the run's folder, so any number of schedulers may work on one sweep: a run that
another one is training is waited for, and taken over if that one dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Literal, Protocol

from pose_lab.runs.errors import said
from pose_lab.runs.folder import RunBusyError, RunFolder

JobState = Literal["queued", "running", "elsewhere", "finished", "failed", "interrupted"]

POLL = 0.2  # seconds between two looks at the children
PARENT = "POSE_LAB_PARENT"  # tells a child who started it, and how long it may take to stop
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Job:
    """One run of the sweep as its scheduler sees it.

    Attributes:
        number: its place in the sweep, from 1.
        folder: where the run lives.
        command: the program and its arguments that train it.
        after: the run whose weights it evaluates, which has to be finished first; None: it needs no other.
        state: `elsewhere` while another process trains it.
        skipped: it was finished before this sweep began.
        began: when this scheduler started its process, seconds since 1970.
        seconds: how long that process took.
        epochs: how many the run had behind it when that process started.
        error: why it failed.
    """

    number: int
    folder: RunFolder
    command: Sequence[str]
    after: RunFolder | None = None
    state: JobState = "queued"
    skipped: bool = False
    began: float | None = None
    seconds: float | None = None
    epochs: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Settings:
    """How a sweep is run.

    Attributes:
        parallel: how many runs train at once.
        retry_failed: start failed runs again.
        grace: seconds that a run may take to write its checkpoint when it is stopped.
        devices: values of CUDA_VISIBLE_DEVICES, shared out among the runs that train at once; none leaves it alone.
    """

    parallel: int = 1
    retry_failed: bool = True
    grace: float = 60.0
    devices: Sequence[str] = ()


class View(Protocol):
    """Shows a sweep to a person."""

    def begin(self, jobs: Sequence[Job]) -> None:
        """Before the first run."""

    def update(self) -> None:
        """Called several times a second, and after every change of a job's state."""

    def note(self, text: str) -> None:
        """Says something once."""

    def end(self) -> None:
        """After the last run."""


@dataclass
class Sweep:
    """Runs jobs; afterwards each job's `state` says what became of it."""

    jobs: Sequence[Job]
    settings: Settings
    view: View
    stopped_by: int | None = None
    _requests: int = 0  # to stop
    _deadline: float | None = None  # for the children to stop
    _children: dict[int, tuple[Job, subprocess.Popen[bytes]]] = field(default_factory=dict)  # by slot

    def run(self) -> None:
        """Runs all jobs that are not finished; returns when each has ended or the sweep was stopped."""
        waiting = self._not_finished()
        try:
            with self._signals():
                self.view.begin(self.jobs)
                while waiting or self._children:
                    self._reap(waiting)
                    if self.stopped_by is None:
                        self._fill(waiting)
                    else:
                        self._stop(waiting)
                    self.view.update()
                    time.sleep(POLL)
        finally:
            self._kill()
            self.view.end()

    def _not_finished(self) -> list[Job]:
        for job in self.jobs:
            status = job.folder.status()
            if status.state == "finished":
                job.state, job.skipped = "finished", True
            elif status.state == "failed" and not self.settings.retry_failed:
                job.state, job.error = "failed", status.error
        return [job for job in self.jobs if job.state == "queued"]

    def _fill(self, waiting: list[Job]) -> None:
        """Gives free slots to jobs that nobody trains."""
        for slot in range(self.settings.parallel):
            if slot not in self._children:
                job = self._next(waiting)
                if job is None:
                    return
                waiting.remove(job)
                self._start(job, slot)

    def _next(self, waiting: list[Job]) -> Job | None:
        for job in list(waiting):
            if job.after is not None and job.after.status().state != "finished":
                self._give_up(job, job.after, waiting)
                continue
            if job.folder.is_locked():
                job.state = "elsewhere"
            elif job.folder.status().state == "finished":
                job.state = "finished"
                waiting.remove(job)
            else:
                return job
        return None

    def _give_up(self, job: Job, needed: RunFolder, waiting: list[Job]) -> None:
        """A job whose weights will not come fails with the run that should have trained them."""
        if any(other.folder.path == needed.path and other.state == "failed" for other in self.jobs):
            job.state, job.error = "failed", f"the run that trains its weights failed: {needed.name}"
            waiting.remove(job)

    def _start(self, job: Job, slot: int) -> None:
        job.state, job.began, job.epochs = "running", time.time(), len(job.folder.epochs())
        try:
            with job.folder.appended_log(job.command) as log:
                environment = child_environment(self.settings, slot, self._at_once(job))
                self._children[slot] = (job, _process(job.command, log, environment))
        except OSError as error:
            job.state, job.error = "failed", said(error)

    def _at_once(self, job: Job) -> int:
        """How many runs share the cores; finished ones count, so that a run that goes on later has as many threads."""
        alike = [other for other in self.jobs if (other.after is None) == (job.after is None)]
        return min(self.settings.parallel, len(alike))

    def _reap(self, waiting: list[Job]) -> None:
        for slot, (job, process) in list(self._children.items()):
            if process.poll() is None:
                continue
            del self._children[slot]
            if process.returncode:
                _signal_group(process, signal.SIGKILL)  # its loader workers and other ranks
            self._judge(job, process)
            if job.state == "elsewhere":
                waiting.append(job)

    def _judge(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        """Finds out from the folder how the run ended; writes down the death of one that could not do so itself."""
        status = job.folder.status()
        job.seconds = time.time() - (job.began or 0)
        if status.state == "finished":
            job.state = "finished"
        elif job.folder.is_locked():
            job.state = "elsewhere"
        elif self.stopped_by is not None and _own_error(job, process) is None:
            job.state = "interrupted" if status.state == "interrupted" else self._write_end(job, "interrupted")
        else:
            job.error = _own_error(job, process) or how_it_ended(process.returncode)
            job.state = self._write_end(job, "failed")

    def _write_end(self, job: Job, state: Literal["failed", "interrupted"]) -> JobState:
        try:
            job.folder.write_end(state, job.error)
        except RunBusyError:
            return "elsewhere"
        except OSError as error:  # a full disk, say: the others go on
            job.error = "; ".join(filter(None, (job.error, said(error))))
        return state

    def _stop(self, waiting: list[Job]) -> None:
        """Once: nothing more starts and the children are asked to stop. Asked again or out of patience: kills them."""
        for job in (job for job in waiting if job.state == "queued"):
            status = job.folder.status()
            job.state, job.error = "elsewhere" if status.state == "running" else status.state, status.error
        waiting.clear()
        if self._deadline is None:
            self._deadline = time.monotonic() + self.settings.grace
            self.view.note("Stopping: the runs write their checkpoints. Ctrl-C once more kills them.")
            for _, process in self._children.values():
                process.terminate()
        elif self._requests > 1 or time.monotonic() > self._deadline:
            self._kill()

    def _kill(self) -> None:
        for _, process in self._children.values():
            _signal_group(process, signal.SIGKILL)
            process.wait()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within, a signal to stop is noted, and the loop acts on it."""
        before = {number: signal.signal(number, self._note_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        self._requests += 1


def child_environment(settings: Settings, slot: int, at_once: int) -> Mapping[str, str]:
    """The environment of one of so many runs at once: its share of the cores, its device, and who started it."""
    environment = os.environ | {PARENT: f"{os.getpid()} {settings.grace}", "PYTHONUNBUFFERED": "1"}
    if at_once > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // at_once)
        environment = {"OMP_NUM_THREADS": str(threads)} | environment
    if settings.devices:
        environment["CUDA_VISIBLE_DEVICES"] = settings.devices[slot % len(settings.devices)]
    return environment


def follow_parent() -> None:
    """In a run's process: stops it like Ctrl-C does when the scheduler that started it is gone, even by `kill -9`.

    Without a scheduler it does nothing. The children of the run (ranks, loader workers) follow the run, not this.
    """
    named = os.environ.pop(PARENT, None)
    if named is not None:
        parent, grace = named.split()
        threading.Thread(target=_follow, args=(int(parent), float(grace)), daemon=True).start()


def how_it_ended(returncode: int) -> str:
    """A process's return code in words."""
    if returncode == -signal.SIGKILL:
        return "killed by SIGKILL; if nobody did it, the machine ran out of memory: use smaller batches or parallel=1"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"its process ended with status {returncode} before the run had finished"


def _process(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the scheduler only, which stops its children in order
    )


def _own_error(job: Job, process: subprocess.Popen[bytes]) -> str | None:
    status = job.folder.recorded_status()
    return status.error if status.state == "failed" and status.pid == process.pid else None


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _follow(parent: int, grace: float) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)
