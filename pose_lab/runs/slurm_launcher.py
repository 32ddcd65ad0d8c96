"""`hydra/launcher=slurm`, `slurm_node`, `slurm_nodes`: a sweep as one Slurm job array, by submitit.

The command may end, the terminal may close: the sweep goes on, and a job that waits for the array makes the report.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console

from pose_lab.runs import code, slurm
from pose_lab.runs.errors import said
from pose_lab.runs.files import make_folder
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.launcher import SweepLauncher, add_launcher, sweep_folders
from pose_lab.runs.slurm import SlurmError
from pose_lab.runs.slurm_job import MAX_RESTARTS, Step, Task
from pose_lab.runs.slurm_sweep import Submission, Watch, place, settle, submitting, update
from pose_lab.runs.sweep import Job, View
from pose_lab.runs.table import view

LATER = "now+10minutes"  # than any submission takes
SAVING = 30  # seconds before its time limit that a run needs to end its step and to write a checkpoint


@dataclass
class SlurmConf:
    """The launcher's config; `conf/hydra/launcher/slurm.yaml` says what each value means."""

    _target_: str = "hydra_plugins.pose_lab.SlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = MISSING
    gpus_per_node: int = MISSING
    tasks_per_node: int = MISSING
    cpus_per_task: int = MISSING
    mem_gb: float | None = None
    minutes: int = MISSING
    array_parallelism: int = MISSING
    setup: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    signal_seconds: int = MISSING
    max_restarts: int = MISSING
    retry_failed: bool = True
    wait: bool = True
    poll_seconds: float = MISSING
    log_lines: int = MISSING
    program: str = "pose_lab.run"
    runs: str = "pose_lab.runs.train"


class SlurmLauncher(SweepLauncher):
    """See the module; arguments as in `SlurmConf`."""

    __module__ = "hydra_plugins.pose_lab"

    def __init__(self, log_lines: int, program: str, runs: str, **settings: Any) -> None:
        super().__init__(log_lines, program, runs)
        self.settings = SlurmConf(**settings)
        self.waiting: list[Job] = []

    def check(self) -> None:
        """Slurm must be here, and the numbers must make sense."""
        if not slurm.is_here():
            raise CompactHydraException(
                "hydra/launcher=slurm needs Slurm's commands (sbatch, srun, squeue, scancel), which this machine does "
                "not have: start it on the cluster's login node, or leave hydra/launcher out to train here"
            )
        if find_spec("submitit") is None:
            raise CompactHydraException("hydra/launcher=slurm needs submitit: pip install 'pose_lab[slurm]'")
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "minutes", "array_parallelism"):
            if getattr(self.settings, name) < 1:
                raise CompactHydraException(f"hydra.launcher.{name}={getattr(self.settings, name)}: it is at least 1")
        needed = SAVING + OmegaConf.select(self.config, "logger.stop_timeout", default=0)
        if self.settings.signal_seconds < needed:
            raise CompactHydraException(
                f"hydra.launcher.signal_seconds={self.settings.signal_seconds} is too short to end a run in: it is at "
                f"least {needed} ({SAVING} for the checkpoint, the rest for W&B: logger.stop_timeout)"
            )

    def device(self, cfg: DictConfig, runs: int) -> str:
        """What each run asks Slurm for."""
        asked = self.settings
        each = f"{asked.gpus_per_node} GPUs" if asked.gpus_per_node else f"{asked.cpus_per_task} CPU cores per process"
        partition = f", partition {asked.partition}" if asked.partition else ""
        return f"Slurm{partition}: {asked.nodes} nodes with {each}, {cfg.training.precision}"

    @property
    def machine(self) -> Sequence[str]:
        """One process per device of the job; how many there are decides nothing about a run's identity."""
        processes = self.settings.nodes * self.settings.tasks_per_node
        several = ["machine.strategy=ddp"] if processes > 1 else []
        return [f"machine.nodes={self.settings.nodes}", f"machine.devices={self.settings.tasks_per_node}", *several]

    def run(self, jobs: Sequence[Job], configs: Sequence[DictConfig], screen: Console, metric: str) -> None:
        """Submits what is not finished and not in the queue; by default waits for the end of all."""
        watch = Watch(sweep_folders(jobs))
        try:
            submitted = self._submit(jobs, watch)
        except (OSError, ValueError, SlurmError) as error:
            raise CompactHydraException(said(error)) from error
        screen.print(self._words(jobs, submitted), soft_wrap=True, markup=False)
        if not self.settings.wait:
            return
        try:
            self._follow(jobs, watch, screen, metric)
        except KeyboardInterrupt:
            screen.print("\nThe jobs go on without this command.", soft_wrap=True, markup=False)
            raise SystemExit(130) from None
        self.conclude(jobs, configs, screen, metric, figure=False)  # the report's job logs it
        self.leave(jobs, screen)

    def _submit(self, jobs: Sequence[Job], watch: Watch) -> list[Submission]:
        """Submits all that is to do, or nothing, while no other command does so for this sweep."""
        home = sweep_folders(jobs)[0]
        make_folder(place(home))
        submitted: list[Submission] = []
        with submitting(home):
            watch.look()
            groups = self._groups(jobs, watch)
            try:
                for group, needed in groups:
                    self._submit_group(group, needed, home, submitted)
            except BaseException:
                self._take_back(submitted, sweep_folders(jobs))
                raise
            if "begin" not in self.settings.options:
                self._begin(submitted)
            watch.look()
        return submitted

    def _begin(self, submitted: Sequence[Submission]) -> None:
        """Lets the arrays start at once; where Slurm refuses that, they start by themselves a little later."""
        try:
            slurm.start_now([submission.job for submission in submitted])
        except SlurmError as error:
            print(f"The jobs start at the time that they were given, in ten minutes at most: {said(error)}", flush=True)

    def _groups(self, jobs: Sequence[Job], watch: Watch) -> list[tuple[list[Job], list[str]]]:
        """What is to do as job arrays, and the tasks in the queue that each has to wait for."""
        todo = [job for job in jobs if self._is_to_do(job, watch)]
        now = [job for job in todo if job.after is None or not _is_trained_now(job.after, watch)]
        tasks = {job.number: _task(job.after, watch) for job in todo if job.after is not None and job not in now}
        later = [job for job in todo if tasks.get(job.number)]
        self.waiting = [job for job in todo if job not in now and job not in later]
        groups = [(now, []), (later, list(dict.fromkeys(task for task in tasks.values() if task)))]
        return [(group, needed) for group, needed in groups if group]

    def _submit_group(self, jobs: list[Job], needed: list[str], home: Path, submitted: list[Submission]) -> None:
        """Submits one array, not to start yet, with its report's jobs; tells of each as soon as there is one."""
        config_folders = [Path(path) for path in dict.fromkeys(_values(jobs[0].command, "--config-dir"))]
        copy, copies = code.snapshot(home / "code", config_folders)
        chains = _chains(jobs)
        tasks = [Task([_step(job, copies) for job in chain]) for chain in chains]
        attempts = {job.folder.name: job.folder.recorded_status().attempt for job in jobs}
        number = self._submit_array(tasks, home, code.environment(copy), needed)
        for folder in sweep_folders(jobs):
            runs = [[job.folder.name for job in chain if job.folder.path.parent == folder] for chain in chains]
            submitted.append(Submission(number, runs, attempts))
            if self.config.get("report"):
                submitted[-1] = replace(submitted[-1], report=self._submit_report(number, folder, copy))
            submitted[-1].write(folder)

    def _is_to_do(self, job: Job, watch: Watch) -> bool:
        """Whether the run is to be submitted: nobody trains it or is about to."""
        status = job.folder.status()
        job.skipped = status.state == "finished"
        if status.state in ("finished", "running") or watch.lives(job.folder):
            return False
        return self.settings.retry_failed or watch.state(job.folder)[0] != "failed"

    def _submit_array(
        self, tasks: Sequence[Task], home: Path, environment: Mapping[str, str], needed: Sequence[str]
    ) -> str:
        """The array's id."""
        import submitit  # here, as only a submission needs it

        own = {**environment, MAX_RESTARTS: str(self.settings.max_restarts), "HYDRA_FULL_ERROR": "1"}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in own.items()]
        executor = submitit.SlurmExecutor(folder=place(home), max_num_timeout=0)
        cpus = self.settings.cpus_per_task
        parameters = {
            **self._where(),
            "job_name": home.parent.name,
            "time": self.settings.minutes,
            "nodes": self.settings.nodes,
            "ntasks_per_node": self.settings.tasks_per_node,
            "gpus_per_node": self.settings.gpus_per_node or None,
            "cpus_per_task": cpus,
            "mem": f"{self.settings.mem_gb:g}G" if self.settings.mem_gb else None,
            "array_parallelism": self.settings.array_parallelism,
            "signal_delay_s": self.settings.signal_seconds,
            "stderr_to_stdout": True,
            "setup": [*self.settings.setup, *exports],
            "dependency": ":".join(["afterany", *needed]) if needed else None,
            # until all of the submission is done and written down; held (--hold) it would not be looked at by Slurm
            "additional_parameters": {"requeue": True, "begin": LATER, **self.settings.options},
            # a rank that dies ends the others, too; since 22.05 srun does not take the CPUs from sbatch
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        }
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        try:
            submitted = executor.submit_array(tasks)
        except submitit.core.utils.FailedJobError as error:
            raise SlurmError(f"Slurm refused the jobs, nothing was submitted. {_last_lines(error)}") from error
        return str(submitted[0].job_id.split("_")[0])

    def _submit_report(self, after: str, folder: Path, copy: Path) -> str:
        """A job that makes the report when the array has ended, whether or not somebody waits."""
        own = dict(self.settings.report)
        memory, minutes, extra = own.pop("mem_gb", None), own.pop("minutes", None), own.pop("options", None) or {}
        options = {
            **own,
            "time": minutes,
            "mem": f"{memory:g}G" if memory else None,
            "ntasks": 1,
            "cpus-per-task": 1,
            "dependency": f"afterany:{after}",
            "job-name": f"{folder.parent.name}-report",
            **extra,
        }
        flags = [_flag(name, value) for name, value in options.items() if value not in (None, False)]
        variables = [f"{name}={value}" for name, value in code.environment(copy).items()]
        command = ["env", *variables, sys.executable, "-m", "pose_lab.sweep", "report", str(folder.absolute())]
        script = "\n".join([*self.settings.setup, shlex.join(command)])
        log = place(folder).absolute() / "%j_report.out"
        try:
            answer = slurm.ask("sbatch", "--parsable", *flags, f"--output={log}", f"--wrap={script}")
        except SlurmError as error:
            text = f"Slurm refused the report's job (machine.cluster.report), nothing was submitted. {error}"
            raise SlurmError(text) from error
        return answer.strip().split(";")[0]

    def _take_back(self, submitted: Sequence[Submission], folders: Sequence[Path]) -> None:
        """Nothing is submitted by halves."""
        for folder, submission in product(folders, submitted):
            submission.forget(folder)
        ids = [name for submission in submitted for name in (submission.job, submission.report) if name]
        slurm.cancel(list(dict.fromkeys(ids)))

    def _where(self) -> dict[str, str | None]:
        settings = self.settings
        return {name: getattr(settings, name) for name in ("partition", "account", "qos", "constraint")}

    def _words(self, jobs: Sequence[Job], submitted: Sequence[Submission]) -> str:
        """What was submitted, and how to follow it."""
        folders = sweep_folders(jobs)
        if not submitted:
            lines = [f"Nothing to submit: the {len(jobs)} runs are finished or in the queue."]
        else:
            count, limit = sum(submission.count for submission in submitted), self.settings.array_parallelism
            arrays = " and ".join(dict.fromkeys(submission.job for submission in submitted))
            reports = " and ".join(submission.report for submission in submitted if submission.report)
            lines = [f"Submitted {count} of {len(jobs)} runs as Slurm job {arrays}, at most {limit} at once"]
            lines[0] += f"; job {reports} makes the report." if reports else "."
        if self.waiting:
            text = (
                "evaluate weights that are being trained without Slurm: start this command again when they are finished"
            )
            lines.append(f"{len(self.waiting)} runs are left out, as they {text}.")
        for folder in folders:
            lines += [f"  folder  {folder}"]
            lines += [f"  {name:7} python -m pose_lab.sweep {name} {folder}" for name in ("status", "retry", "cancel")]
        return "\n".join([*lines, f"  logs    {folders[0]}/RUN/log.txt"])

    def _follow(self, jobs: Sequence[Job], watch: Watch, screen: Console, metric: str) -> None:
        """Returns when all have ended."""
        shown = view(screen, metric)
        update(jobs, watch)
        shown.begin(jobs)
        try:
            ended = False
            # the last look is repeated: a shared file system may show the end of a run later than Slurm does
            while not (ended & (ended := not any(_goes_on(job, watch) for job in jobs))):
                shown.update()
                time.sleep(self.settings.poll_seconds)
                _look(watch, shown)
                update(jobs, watch)
            settle(jobs, watch)
        finally:
            shown.end()


def register() -> None:
    """Makes the launcher known to Hydra; called before Hydra's main function."""
    add_launcher("slurm_schema", SlurmLauncher, SlurmConf)


def _chains(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that one array task does: a run with those that evaluate its weights behind it."""
    chains = {job.folder.path: [job] for job in jobs if job.after is None}
    for job in jobs:
        if job.after is not None:
            chains.setdefault(job.after.path if job.after.path in chains else job.folder.path, []).append(job)
    return list(chains.values())


def _is_trained_now(run: RunFolder, watch: Watch) -> bool:
    return watch.lives(run) or run.status().state == "running"


def _task(run: RunFolder, watch: Watch) -> str | None:
    """The task in the queue that trains a run."""
    placed = watch.placed(run)
    return placed.task if placed is not None and watch.lives(run) else None


def _goes_on(job: Job, watch: Watch) -> bool:
    return job.state == "running" or (job.state not in ("finished", "failed") and watch.lives(job.folder))


def _look(watch: Watch, shown: View) -> None:
    answered = watch.answers
    try:
        watch.look()
    except SlurmError as error:  # a controller may restart; the jobs do not mind
        if answered:
            shown.note(f"{error}; asking again until it answers")


def _step(job: Job, copies: Mapping[str, str]) -> Step:
    return Step(str(job.folder.path.absolute()), [copies.get(word, word) for word in job.command])


def _values(command: Sequence[str], flag: str) -> list[str]:
    """What follows a flag, each time that it is given."""
    return [value for word, value in pairwise(command) if word == flag]


def _flag(name: str, value: Any) -> str:
    """An option of sbatch, spelt as submitit takes it."""
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def _last_lines(error: Exception) -> str:
    """What sbatch itself said."""
    said = [line.strip() for line in str(error).splitlines() if "sbatch" in line and "error" in line]
    return " ".join(said) or str(error)
