"""What Slurm's own commands say: which jobs wait, run or have ended, and how."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PATIENCE = 60  # seconds for one answer of the controller
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
ACTIVE = ("RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")


class SlurmError(RuntimeError):
    """Slurm refused, or does not answer; the message holds its words."""


@dataclass(frozen=True)
class Entry:
    """A job, or one task of an array.

    Attributes:
        state: Slurm's word for it (PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, ...).
        reason: why it waits, where it runs, or how it ended; empty where Slurm does not say.
    """

    state: str
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is still to start, for the first time or again."""
        return self.state in WAITING

    @property
    def lives(self) -> bool:
        """Whether it waits or runs."""
        return self.waits or self.state in ACTIVE

    @property
    def words(self) -> str:
        """State and reason, for people."""
        return f"{self.state} ({self.reason})" if self.reason and self.reason != "None" else self.state


def is_here() -> bool:
    """Whether jobs can be submitted from this machine."""
    return all(shutil.which(name) for name in ("sbatch", "srun", "squeue", "scancel"))


def jobs(ids: Iterable[str]) -> dict[str, Entry]:
    """What Slurm knows of jobs.

    Args:
        ids: of jobs or whole arrays, such as 12.

    Returns:
        By id, such as 12 or 12_3: all that wait and run, and those that ended lately; in a cluster with accounting
        also those that ended long ago.

    Raises:
        SlurmError: the controller does not answer. It does not mean that there are no such jobs.
    """
    wanted = ",".join(dict.fromkeys(ids))
    if not wanted:
        return {}
    found = dict(_accounted(wanted))
    columns = "JobArrayID:|,State:|,ReasonList:|,exit_code:|"  # of a running job the list of reasons is that of nodes
    try:
        listed = ask("squeue", "--noheader", "--array", "--states=all", f"--Format={columns}", f"--jobs={wanted}")
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        listed = ""  # Slurm has forgotten all of them
    for line in listed.splitlines():
        name, state, reason, code = line.strip().rstrip("|").split("|", 3)
        status = int(code) >> 8  # as `wait` gives it
        found[name] = Entry(state, _how(status) if status else reason.strip("()"))
    return found


def cancel(ids: Sequence[str]) -> None:
    """Takes jobs out of the queue; running ones get SIGTERM and may write their checkpoints.

    Raises:
        SlurmError: it was not allowed, or the controller does not answer.
    """
    if ids:
        ask("scancel", *ids)


def start_now(ids: Iterable[str]) -> None:
    """Lets jobs start that were to start later.

    Raises:
        SlurmError: one is gone, or the controller does not answer.
    """
    for name in dict.fromkeys(ids):
        ask("scontrol", "update", f"JobId={name}", "StartTime=now")


def ask(*command: str) -> str:
    """Runs one of Slurm's commands.

    Returns:
        What it printed.

    Raises:
        SlurmError: with what it printed on the standard error.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError as error:
        raise SlurmError(f"there is no {command[0]} on this machine: use it where Slurm is installed") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} gave no answer within {PATIENCE} seconds") from error
    if done.returncode:
        raise SlurmError(f"{command[0]}: {done.stderr.strip() or f'ended with status {done.returncode}'}")
    return done.stdout


def _accounted(wanted: str) -> Iterable[tuple[str, Entry]]:
    """What the accounting has; nothing where there is none."""
    columns = ["--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode"]
    try:
        listed = ask("sacct", *columns, f"--jobs={wanted}")
    except SlurmError:
        return
    for line in listed.splitlines():
        name, state, code = line.split("|", 2)
        status = int(code.split(":")[0])
        yield name, Entry(state.split()[0], _how(status) if status else "")  # "CANCELLED by 0"


def _how(status: int) -> str:
    """A batch script's status in words; above 128 it is that of a signal."""
    names = {number.value: number.name for number in signal.Signals}
    return names.get(status - 128, f"exit status {status}")
