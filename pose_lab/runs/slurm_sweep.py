"""A sweep on Slurm, read from its folder and from Slurm: which run is which job, and what became of it.

Each submission leaves `.slurm/ID.json` in the sweep's folder; submitit keeps its files and Slurm's logs there, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pose_lab.runs import slurm
from pose_lab.runs.files import FileLock, read_json, write_json
from pose_lab.runs.folder import RunBusyError, RunFolder
from pose_lab.runs.slurm import Entry, SlurmError
from pose_lab.runs.sweep import Job, JobState

UNKNOWN = Entry("UNKNOWN", "Slurm does not answer")


def place(folder: Path) -> Path:
    """Where a sweep's folder keeps what belongs to Slurm."""
    return folder / ".slurm"


@dataclass(frozen=True)
class Submission:
    """One job array.

    Attributes:
        job: Slurm's id of it.
        runs: for each of its tasks the names of the run folders, in the order in which they are trained.
        attempts: by run, how often it had been started before.
        report: id of the job that makes the report afterwards.
        submitted: seconds since 1970.
    """

    job: str
    runs: Sequence[Sequence[str]]
    attempts: Mapping[str, int]
    report: str | None = None
    submitted: float = field(default_factory=time.time)

    def write(self, folder: Path) -> None:
        """Keeps it in the sweep's folder."""
        write_json(place(folder) / f"{self.job}.json", asdict(self))

    def forget(self, folder: Path) -> None:
        """Takes it out of the sweep's folder."""
        (place(folder) / f"{self.job}.json").unlink(missing_ok=True)

    @property
    def count(self) -> int:
        """Of its runs."""
        return sum(map(len, self.runs))

    def tasks(self) -> Iterator[tuple[str, str]]:
        """Each run with the id of its task; an array of one is a plain job."""
        for number, names in enumerate(self.runs):
            yield from ((name, f"{self.job}_{number}" if len(self.runs) > 1 else self.job) for name in names)


@dataclass(frozen=True)
class Placed:
    """Where a run was submitted last: its task's id, and how often it had been started before."""

    task: str
    attempts: int


def submissions(folder: Path) -> list[Submission]:
    """All of a sweep, the oldest first.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    found = [Submission(**read_json(path)) for path in place(folder).glob("*.json")]
    return sorted(found, key=lambda submission: submission.submitted)


@contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Held while somebody decides what to submit and submits it; a second person waits and then sees it."""
    lock = FileLock(place(folder) / "lock")
    lock.acquire(block=True)
    try:
        yield
    finally:
        lock.release()


class Watch:
    """The jobs of the sweeps in some folders, as Slurm sees them now."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.answers = True
        self._placed: dict[Path, Placed] = {}
        self._entries: dict[str, Entry] = {}

    def look(self) -> None:
        """Asks Slurm.

        Raises:
            SlurmError: it does not answer. What is known stays; `answers` is then off.
        """
        wanted = []
        for folder in self.folders:
            for submission in submissions(folder):
                for name, task in submission.tasks():
                    self._placed[folder / name] = Placed(task, submission.attempts.get(name, 0))
        wanted = [placed.task.split("_")[0] for placed in self._placed.values()]
        try:
            self._entries = slurm.jobs(wanted)
        except SlurmError:
            self.answers = False
            raise
        self.answers = True

    def placed(self, run: RunFolder) -> Placed | None:
        """Where a run was submitted last."""
        return self._placed.get(run.path)

    def entry(self, run: RunFolder) -> Entry | None:
        """What Slurm says of the run's task; None if it was never submitted, or Slurm has forgotten it."""
        placed = self.placed(run)
        if placed is None:
            return None
        return self._entries.get(placed.task) if self.answers else UNKNOWN

    def living(self) -> list[str]:
        """Ids of the tasks that wait or run."""
        tasks = dict.fromkeys(placed.task for placed in self._placed.values())
        return [task for task in tasks if (entry := self._entries.get(task)) is not None and entry.lives]

    def state(self, run: RunFolder) -> tuple[JobState, str]:
        """What became of a run, and why in words."""
        status, placed, entry = run.status(), self.placed(run), self.entry(run)
        error = status.error or ""
        if status.state in ("finished", "running") or placed is None or entry is UNKNOWN:
            return status.state, error
        if status.state == "failed" and status.attempt > placed.attempts:
            return "failed", error
        if entry is None:
            return "failed", f"its Slurm job {placed.task} is gone, and the run has not finished"
        if entry.lives:
            return ("queued" if entry.waits else "running"), entry.words
        if entry.state == "CANCELLED":
            return "interrupted", f"its Slurm job {placed.task} was cancelled"
        return "failed", f"its Slurm job {placed.task} ended as {entry.words} before the run had finished"

    def lives(self, run: RunFolder) -> bool:
        """Whether a job will train it, or may: where Slurm does not answer nobody knows."""
        entry = self.entry(run)
        return entry is not None and (entry.lives or entry is UNKNOWN)


def update(jobs: Sequence[Job], watch: Watch) -> None:
    """Gives each job the state of its run."""
    for job in jobs:
        job.state, job.error = watch.state(job.folder)
        status = job.folder.recorded_status()
        job.began = status.started
        job.seconds = status.ended - status.started if status.started and status.ended else None


def settle(jobs: Sequence[Job], watch: Watch) -> None:
    """The same at the end of all; writes down the failures of runs that could not do so themselves."""
    update(jobs, watch)
    for job in (job for job in jobs if job.state == "failed" and job.folder.recorded_status().state != "failed"):
        with suppress(RunBusyError, OSError):  # it lives after all; or a full disk, which must not hide the others
            job.folder.write_end("failed", job.error)
