"""What a sweep looks like while it runs: a live table on a terminal, one line per epoch in a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pose_lab.runs.folder import RunFolder
from pose_lab.runs.sweep import Job, View
from pose_lab.runs.words import duration, epoch_text, percent

COLOURS = {"running": "cyan", "elsewhere": "magenta", "finished": "green", "failed": "red", "interrupted": "yellow"}
REDRAW = 0.5  # seconds
BAR = 10  # characters of a run's bar: a terminal of 80 has room for the run's name beside it
WIDTH = 120  # of tables in a file


def console() -> Console:
    """Where people read: the terminal as it is, or a file without control characters."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=WIDTH, no_color=True, force_terminal=False)


def view(screen: Console, metric: str) -> View:
    """The view that fits the screen."""
    return LiveTable(screen, metric) if screen.is_terminal else Lines(screen, metric)


class LiveTable:
    """A table of all runs, redrawn in place."""

    def __init__(self, screen: Console, metric: str) -> None:
        self.screen = screen
        self.metric = metric
        self._live: Live | None = None
        self._drawn = 0.0

    def begin(self, jobs: Sequence[Job]) -> None:
        """Draws the table for the first time."""
        self.jobs = jobs
        self._live = Live(self._table(), console=self.screen, auto_refresh=False, transient=True)
        self._live.start()

    def update(self) -> None:
        """Redraws it, not more often than an eye follows."""
        if self._live is not None and time.monotonic() - self._drawn > REDRAW:
            self._drawn = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def note(self, text: str) -> None:
        """Prints above the table."""
        self.screen.print(text)

    def end(self) -> None:
        """Takes it away; the final table follows."""
        if self._live is not None:
            self._live.stop()

    def _table(self) -> Table:
        style: Any = {"box": box.SIMPLE, "collapse_padding": True, "pad_edge": False}
        table = Table(**style, caption=_whole(self.jobs), caption_justify="left")
        for name in ("run", "state", "epoch", "", self.metric, "time left"):
            justify: Any = "right" if name in ("epoch", self.metric, "time left") else "left"
            table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "run")
        for job in self.jobs:
            table.add_row(job.folder.name, coloured(job.state), *self._progress(job))
        return table

    def _progress(self, job: Job) -> tuple[str, ProgressBar | str, str, str]:
        if job.state == "queued":
            return "", "", "", ""
        if job.state == "finished":
            return "", ProgressBar(total=1, completed=1, width=BAR), percent(best_known(job.folder, self.metric)), ""
        now = job.folder.progress() if job.state in ("running", "elsewhere") else {}
        bar = ProgressBar(total=now.get("steps") or 1, completed=now.get("step") or 0, width=BAR)
        epoch = epoch_text(now) or str(now.get("phase", "starting"))
        return epoch, bar, percent(metric_of(now.get("metrics", {}), self.metric)), duration(now.get("seconds_left"))


class Lines:
    """One line when a run starts, after each of its epochs, and when it ends."""

    def __init__(self, screen: Console, metric: str) -> None:
        self.screen = screen
        self.metric = metric
        self._states: dict[int, str] = {}
        self._epochs: dict[int, int] = {}

    def begin(self, jobs: Sequence[Job]) -> None:
        """Says how much there is to do."""
        self.jobs = jobs
        self._epochs = {job.number: len(job.folder.epochs()) for job in jobs}
        finished = sum(job.skipped for job in jobs)
        self.note(f"{len(jobs)} runs, {finished} of them finished before")

    def update(self) -> None:
        """Says what is new."""
        for job in self.jobs:
            before, self._states[job.number] = self._states.get(job.number), job.state
            if before != job.state == "running":
                self._say_state(job)
            if "running" in (before, job.state):
                self._say_epochs(job)
            if job.state not in (before, "running"):
                self._say_state(job)

    def note(self, text: str) -> None:
        """Prints a line."""
        self.screen.print(text, soft_wrap=True, markup=False)

    def end(self) -> None:
        """Says what the last look found."""
        self.update()

    def _say(self, job: Job, text: str) -> None:
        self.note(f"[{job.number}/{len(self.jobs)}] {job.folder.name}: {text}")

    def _say_state(self, job: Job) -> None:
        value = percent(best_known(job.folder, self.metric))
        if job.state == "running":
            self._epochs[job.number] = self._epochs[job.number] if job.epochs is None else job.epochs
            self._say(job, f"started, log in {job.folder.log}")
        elif job.state == "elsewhere":
            self._say(job, "another process is training it, waiting for that one")
        elif job.skipped:
            self._say(job, f"finished before, {self.metric} {value}")
        elif job.state == "finished":
            trained = duration(job.folder.metrics().get("seconds"))
            words = f"finished in {duration(job.seconds) or 'another process'}"
            self._say(job, f"{words}{f' (training {trained})' if trained else ''}, {self.metric} {value}")
        elif job.state != "queued":
            self._say(job, job.state + (f": {job.error}" if job.error else ""))

    def _say_epochs(self, job: Job) -> None:
        rows = job.folder.epochs()
        known = min(self._epochs[job.number], len(rows))  # fewer after an older checkpoint
        for number, row in enumerate(rows[known:], known + 1):
            self._say(job, self._epoch(job, number, row))
        self._epochs[job.number] = len(rows)

    def _epoch(self, job: Job, number: int, row: Mapping[str, str]) -> str:
        now = job.folder.progress()
        words = [f"epoch {number}" + (f"/{now['epochs']}" if now.get("epochs") else "")]
        loss, value = metric_of(row, "loss"), metric_of(row, self.metric)
        words += [f"loss {float(loss):.4g}"] if loss else []
        words += [f"{self.metric} {percent(float(value))}"] if value else []
        words += [f"{duration(now['seconds_left'])} left"] if now.get("seconds_left") is not None else []
        return ", ".join(words)


def final_table(jobs: Sequence[Job], metric: str) -> Table:
    """All runs of a sweep, as they ended."""
    table = Table(box=box.SIMPLE)
    for name in ("run", "state", metric, "trained"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right", overflow="fold")
    for job in jobs:
        value, seconds = best_known(job.folder, metric), job.folder.metrics().get("seconds")
        state = coloured(job.state) + Text(" before" if job.skipped else "")
        table.add_row(job.folder.name, state, percent(value), duration(seconds))
    return table


def status_table(jobs: Sequence[Job], metric: str, tasks: Mapping[int, str]) -> Table:
    """All runs as they are now, each with its Slurm job (by the run's number) and why it waits or failed."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("run", "state", "epoch", metric, "time left", *(["job"] if tasks else []), "note"):
        right = name in ("epoch", metric, "time left")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for job in jobs:
        now = job.folder.progress() if job.state in ("running", "queued", "interrupted") else {}
        value = best_known(job.folder, metric) if job.state == "finished" else metric_of(now.get("metrics", {}), metric)
        left = duration(now.get("seconds_left")) if job.state == "running" else ""
        placed = [tasks.get(job.number, "")] if tasks else []
        numbers = (epoch_text(now), percent(value), left)
        table.add_row(job.folder.name, coloured(job.state), *numbers, *placed, Text(job.error or ""))
    return table


def coloured(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=COLOURS.get(state, "dim"))


def best_known(folder: RunFolder, metric: str) -> float | None:
    """The final number of a run; None before its end."""
    return metric_of(folder.metrics(), metric)


def metric_of(values: Mapping[str, Any], name: str) -> Any:
    """The value named `name` or `anything/name`; None if there is none."""
    return next((value for key, value in values.items() if key == name or key.endswith(f"/{name}")), None)


def sweep_seconds_left(jobs: Sequence[Job], now: float) -> float | None:
    """How long the whole sweep will take, judged by the runs that are known; None before anything is."""
    running = [job for job in jobs if job.state == "running"]
    left = {job.number: job.folder.progress().get("seconds_left") for job in running}
    known = [job.seconds for job in jobs if job.seconds and job.state == "finished"]
    known += [now - (job.began or now) + rest for job in running if (rest := left[job.number]) is not None]
    if not known:
        return None
    typical = sum(known) / len(known)
    rest = [
        max(0.0, typical - now + (job.began or now)) if left[job.number] is None else left[job.number]
        for job in running
    ]
    queued = sum(job.state == "queued" for job in jobs)
    return max([sum(rest + [typical] * queued) / max(1, len(running)), *rest])


def _whole(jobs: Sequence[Job]) -> str:
    ended = sum(job.state not in ("queued", "running", "elsewhere") for job in jobs)
    left = duration(sweep_seconds_left(jobs, time.time()))
    return f"{ended} of {len(jobs)} runs ended" + (f", about {left} left" if left else "")
