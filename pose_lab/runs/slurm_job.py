"""Inside a Slurm job: the function of one array task, and how a run is requeued without loss.

submitit starts the task on every rank; it then becomes the run's own process, so that Slurm's signals reach the run and
Slurm sees the status that the run ends with. A run that Slurm announces the end to (USR1 or USR2 before the time limit)
saves its checkpoint on all ranks and is put back into the queue; after SIGTERM Slurm itself decides, as it requeues who
is preempted and not who is cancelled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO, NoReturn

from pose_lab.runs.folder import InterruptedRun, RunFolder
from pose_lab.runs.slurm import SlurmError, ask

MAX_RESTARTS = "POSE_LAB_MAX_RESTARTS"  # set in a job whose run may be requeued: how often
ANNOUNCED = (
    signal.SIGUSR1,
    signal.SIGUSR2,
)  # Slurm will end the job soon
INTERRUPTED = 130  # the status of a run that was asked to stop
PATIENCE = 3600  # seconds; the other ranks end with the first one, which ends its W&B run and requeues the job before


@dataclass(frozen=True)
class Step:
    """A run of a task: its folder, and its command with its arguments."""

    folder: str
    command: Sequence[str]


@dataclass(frozen=True)
class Task:
    """What one array task does: a run, and then the runs that evaluate its weights.

    Attributes:
        steps: the runs in their order. If the first one fails there is nothing to evaluate; the others need only it.
    """

    steps: Sequence[Step]

    def __call__(self) -> NoReturn:
        """Does it, on each rank; never returns."""
        # inherited by the run: what comes before it listens (`requeued`) waits until then
        signal.pthread_sigmask(signal.SIG_BLOCK, ANNOUNCED)
        failure = 0
        for number, step in enumerate(self.steps):
            if len(self.steps) == 1:
                _become(step)
            returncode = _trained(step)
            failure = failure or returncode
            if returncode and (number == 0 or returncode == INTERRUPTED):
                break
        sys.exit(failure)


@contextmanager
def requeued() -> Iterator[None]:
    """Around the run of a job that may be requeued; elsewhere it does nothing.

    Raises:
        InterruptedRun: as the run raised it; the job is then in the queue again if Slurm had announced its end.
        RuntimeError: it was restarted too often.
    """
    allowed = os.environ.get(MAX_RESTARTS)
    if allowed is None or "SLURM_JOB_ID" not in os.environ:
        yield
        return
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if restarts > int(allowed):
        raise RuntimeError(f"restarted {restarts} times, and {allowed} are allowed (max_restarts): not again")
    for number in ANNOUNCED:
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ANNOUNCED)
    try:
        yield
    except InterruptedRun as stop:
        if os.environ.get("SLURM_PROCID", "0") != "0":
            time.sleep(PATIENCE)  # the end of any rank ends the step, and the first one has more to write
        elif stop.signal in ANNOUNCED:
            _requeue(restarts, int(allowed))
        raise


def job_name(environment: Mapping[str, str]) -> str:
    """The job's id for `scontrol`, in an array with the task's number."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def _requeue(restarts: int, allowed: int) -> None:
    """Puts this job back into the queue, which ends it."""
    if restarts == allowed:
        print(f"not requeued: restarted {restarts} times, as often as max_restarts allows", flush=True)
        return
    name = job_name(os.environ)
    print(f"requeued as job {name}, restart {restarts + 1} of at most {allowed}", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # with which the job ends now
    try:
        ask("scontrol", "requeue", name)
    except SlurmError as error:
        print(f"not requeued: {error}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Before the training listens itself."""
    raise InterruptedRun(f"stopped by {signal.Signals(number).name} before it trained", number)


def _trained(step: Step) -> int:
    """The status that a run ends with, as a shell says it; signals are left to the run."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, _leave_to_child)
    with _log(step) as log:
        returncode = subprocess.run(step.command, stdout=log, stderr=log, check=False).returncode
    return returncode if returncode >= 0 else 128 - returncode


def _leave_to_child(number: int, frame: FrameType | None) -> None:
    """A handler, as what is ignored would be ignored by the child, too."""


def _become(step: Step) -> NoReturn:
    for number in (*ANNOUNCED, signal.SIGTERM, signal.SIGCONT):  # submitit's handlers
        signal.signal(number, signal.SIG_DFL)
    with _log(step) as log:
        if log is not None:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
    os.execv(step.command[0], list(step.command))


@contextmanager
def _log(step: Step) -> Iterator[IO[bytes] | None]:
    """The run's log on the first rank; None on the others, whose words stay in Slurm's."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        yield None
        return
    with RunFolder(step.folder).appended_log(step.command) as log:
        yield log
