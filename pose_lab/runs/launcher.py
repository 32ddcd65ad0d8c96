"""`hydra/launcher=processes`: Hydra's multirun with each run as its own process; and what all launchers share.

Hydra composes the runs of a sweep; a launcher finds each run's folder by its identity, leaves out the finished ones,
starts the others with explicit overrides (so that any of them can be repeated alone, and a process that re-executes its
command line, as `ddp` does, repeats one run and not the sweep), and ends with the report (none with `report: null`).
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import II, DictConfig, OmegaConf
from rich.console import Console

from pose_lab.runs import known
from pose_lab.runs.errors import said
from pose_lab.runs.files import write_json, write_text
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.identity import resolved, run_folder, sweep_folder, trained_by
from pose_lab.runs.report import PLAN
from pose_lab.runs.sweep import Job, Settings, Sweep, follow_parent
from pose_lab.runs.table import console, final_table, view

OWN_HYDRA_KEYS = ("hydra.mode", "hydra.run.", "hydra.sweep.", "hydra.sweeper.", "hydra.launcher.", "hydra/launcher")


@dataclass
class ProcessesConf:
    """The launcher's config.

    Attributes:
        parallel: how many runs go on at once; those that train share the processor's cores.
        retry_failed: start failed runs again (interrupted ones always go on).
        grace_seconds: how long a run may take to write its checkpoint when it is stopped.
        devices: a value of CUDA_VISIBLE_DEVICES for each of the runs that train at once; empty leaves it alone.
        log_lines: how many last lines of a failed run's log are shown at the end.
        program: the module that trains one run.
        runs: the module that knows them, see `Runs`.
    """

    _target_: str = "hydra_plugins.pose_lab.ProcessLauncher"
    parallel: int = II("machine.parallel")
    retry_failed: bool = True
    grace_seconds: float = 60.0
    devices: list[str] = field(default_factory=list)
    log_lines: int = 20
    program: str = "pose_lab.run"
    runs: str = "pose_lab.runs.train"


class Runs(Protocol):
    """What a launcher has to know of a run before it starts; each function takes its config."""

    def fingerprint(self, cfg: DictConfig) -> str:
        """Of the content of its data."""

    def is_decided(self, cfg: DictConfig) -> bool:
        """Whether its config alone decides that content: equal configs then have equal fingerprints."""

    def prepare(self, cfg: DictConfig) -> str:
        """Makes its data ready; returns what they are, in words."""

    def device(self, cfg: DictConfig) -> str:
        """What it would compute on if this process trained it, in words."""

    def logs(self, cfg: DictConfig) -> str:
        """Where it is logged, in words."""


class SweepLauncher(Launcher):
    """What launchers share: from Hydra's jobs to runs in their folders, and from their ends to the report.

    Args:
        log_lines: how many last lines of a failed run's log are shown at the end.
        program: the module that trains one run.
        runs: the name of the module that knows them, see `Runs`.
    """

    __module__ = "hydra_plugins.pose_lab"

    def __init__(self, log_lines: int, program: str, runs: str) -> None:
        self.log_lines = log_lines
        self.program = program
        self._runs = runs

    @cached_property
    def runs(self) -> Runs:
        """Imported late, as --help needs none of it."""
        return cast(Runs, importlib.import_module(self._runs))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra hands over; refuses settings and folders that cannot work before anything starts."""
        self.hydra_context = hydra_context
        self.config = config
        self.check()
        try:
            # Hydra's sweeper writes this file next, and would answer a full or read-only disk with a stack trace
            write_text(Path(config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(config))
        except OSError as error:
            raise CompactHydraException(said(error)) from error

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs what is not finished.

        Raises:
            CompactHydraException: a run's config or data are not usable; nothing was started.
            SystemExit: some runs failed (1), or the sweep was stopped (130 after Ctrl-C).
        """
        screen = console()
        try:
            configs = [self._compose(overrides) for overrides in job_overrides]
            contents = known.recalled(configs)
            if contents is None:
                self._announce(configs, screen)
                jobs = self._jobs(configs, job_overrides, self._fingerprints(configs), initial_job_idx + 1)
            else:
                jobs = self._jobs(configs, job_overrides, contents, initial_job_idx + 1)
                self._announce(configs, screen, starts=any(job.folder.status().state != "finished" for job in jobs))
        except (OSError, TypeError, ValueError) as error:
            raise CompactHydraException(said(error)) from error
        self.run(jobs, configs, screen, str(OmegaConf.select(configs[0], "report.metric", default="AP")))
        return [_completed(cfg, overrides) for cfg, overrides in zip(configs, job_overrides, strict=True)]

    @property
    def machine(self) -> Sequence[str]:
        """Overrides of every run that say what it runs on; they decide nothing about its result."""
        return []

    @abstractmethod
    def device(self, cfg: DictConfig, runs: int) -> str:
        """What a run, one of so many, computes on, in words."""

    @abstractmethod
    def check(self) -> None:
        """Raises CompactHydraException for settings that cannot work."""

    @abstractmethod
    def run(self, jobs: Sequence[Job], configs: Sequence[DictConfig], screen: Console, metric: str) -> None:
        """Trains what is not finished; the sweep's outcome is in the folders, and in the status that it exits with."""

    def conclude(
        self, jobs: Sequence[Job], configs: Sequence[DictConfig], screen: Console, metric: str, figure: bool = True
    ) -> None:
        """The final table and the reports; with `figure` also sends their figures to where the runs are logged."""
        screen.print(final_table(jobs, metric))
        node = resolved(configs[0]).get("report")
        if node is not None:
            for folder in sweep_folders(jobs):
                write_report(folder, node, screen)
                if figure and any(not job.skipped for job in jobs):
                    log_figure(folder, configs[0], screen)

    def leave(self, jobs: Sequence[Job], screen: Console) -> None:
        """Shows what failed, and ends the process with status 1 if anything has."""
        failed = [job for job in jobs if job.state == "failed"]
        for job in failed:
            show_failure(job, self.log_lines, screen)
        if failed:
            text = f"\n{len(failed)} of {len(jobs)} runs failed. To try them again:\n  {self.again}"
            screen.print(text, soft_wrap=True, markup=False)
            raise SystemExit(1)

    @property
    def again(self) -> str:
        """The command that started this."""
        return shlex.join(["python", "-m", self.program, *sys.argv[1:]])

    def _announce(self, configs: Sequence[DictConfig], screen: Console, starts: bool = True) -> None:
        """What this is, and where everything goes; of runs that are all finished not on what and to whom."""
        facts: dict[str, Callable[[DictConfig], str]] = {
            "sweep": lambda cfg: cfg.name,
            "scale": lambda cfg: cfg.scale,
            "data": lambda cfg: cfg.data.name,
            **({"device": partial(self.device, runs=len(configs))} if starts else {}),
            "results": lambda cfg: str(sweep_folder(cfg)),
        }
        lines = [f"{name:8} {', '.join(dict.fromkeys(map(fact, configs)))}" for name, fact in facts.items()]
        lines += dict.fromkeys(map(self.runs.logs, configs)) if starts else []
        screen.print("\n".join(lines), soft_wrap=True, markup=False)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        HydraConfig.instance().set_config(cfg)  # the config may interpolate Hydra's
        return cfg

    def _fingerprints(self, configs: Sequence[DictConfig]) -> list[str]:
        """Of the runs' data, which also finds out whether their configs are usable."""
        contents = [self.runs.fingerprint(cfg) for cfg in configs]
        decided = [(cfg, content) for cfg, content in zip(configs, contents, strict=True) if self.runs.is_decided(cfg)]
        if decided:
            known.remember(*zip(*decided, strict=True))
        return contents

    def _jobs(
        self,
        configs: Sequence[DictConfig],
        job_overrides: Sequence[Sequence[str]],
        contents: Sequence[str],
        first: int,
    ) -> list[Job]:
        """One job per different run, in the sweep's order; each has its folder with its config in it."""
        swept = swept_keys(job_overrides) | set(self.config.hydra.sweeper.get("params") or {})
        jobs: dict[Path, Job] = {}

        def add(cfg: DictConfig, overrides: Sequence[str], content: str) -> Job:
            named = [override for override in overrides if _key(override) in swept]
            folder = RunFolder(run_folder(cfg, content, named))
            if not (folder.path / "config.yaml").exists():
                folder.write_config(cfg)
            job = Job(first + len(jobs), folder, self._command(cfg, overrides, folder))
            return jobs.setdefault(folder.path, job)

        cells = [add(*cell) for cell in zip(configs, job_overrides, contents, strict=True)]
        for cell, cfg, overrides, content in zip(cells, configs, job_overrides, contents, strict=True):
            if trained_by(cfg) is not None:  # mostly by a cell of the same sweep
                wanted = OmegaConf.to_container(cfg.weights_of, resolve=True)
                values = [f"{key}={json.dumps(value)}" for key, value in cast(dict[str, Any], wanted).items()]
                trains = [*overrides, *values, "weights_of=null"]
                cell.after = add(self._compose(trains), trains, content).folder
        _write_plan(list(jobs.values()), self.program)
        return list(jobs.values())

    def _command(self, cfg: DictConfig, overrides: Sequence[str], folder: RunFolder) -> list[str]:
        """The command that trains one run, complete in itself."""
        hydra = [override for override in cfg.hydra.overrides.hydra if not override.startswith(OWN_HYDRA_KEYS)]
        own = [*self.machine, "hydra.mode=RUN", f"hydra.run.dir={_quoted(str(folder.path))}"]
        return [sys.executable, "-m", self.program, *_config_flags(cfg), *hydra, *overrides, *own]


class ProcessLauncher(SweepLauncher):
    """See the module; arguments as in `ProcessesConf`."""

    __module__ = "hydra_plugins.pose_lab"

    def __init__(
        self,
        parallel: int,
        retry_failed: bool,
        grace_seconds: float,
        devices: Sequence[str],
        log_lines: int,
        program: str,
        runs: str,
    ) -> None:
        super().__init__(log_lines, program, runs)
        self.settings = Settings(parallel, retry_failed, grace_seconds, list(devices))

    def check(self) -> None:
        """At least one run must train."""
        if self.settings.parallel < 1:
            raise CompactHydraException(
                f"hydra.launcher.parallel={self.settings.parallel}: at least one run must train"
            )

    def device(self, cfg: DictConfig, runs: int) -> str:
        """This machine's."""
        at_once = min(self.settings.parallel, runs)
        return self.runs.device(cfg) + (f", up to {at_once} runs at once" if at_once > 1 else "")

    def run(self, jobs: Sequence[Job], configs: Sequence[DictConfig], screen: Console, metric: str) -> None:
        """Makes their data ready, then runs them as child processes."""
        if any(job.folder.status().state != "finished" for job in jobs):
            self._prepare(configs, screen)
        sweep = Sweep(jobs, self.settings, view(screen, metric))
        sweep.run()
        self.conclude(jobs, configs, screen, metric)
        if sweep.stopped_by is not None:
            for job in (job for job in jobs if job.state == "failed"):
                show_failure(job, self.log_lines, screen)
            screen.print(f"\nStopped. To go on where it stopped:\n  {self.again}", soft_wrap=True, markup=False)
            raise SystemExit(128 + sweep.stopped_by)
        self.leave(jobs, screen)

    def _prepare(self, configs: Sequence[DictConfig], screen: Console) -> None:
        """Here, where progress can be seen, instead of in the first run; each data set once."""
        different = {OmegaConf.to_yaml(cfg.data, resolve=True): cfg for cfg in configs}
        try:
            for cfg in different.values():
                screen.print(self.runs.prepare(cfg), soft_wrap=True, markup=False)
        except (OSError, ValueError) as error:
            raise CompactHydraException(said(error)) from error


def register() -> None:
    """Makes the launcher known to Hydra; called before Hydra's main function.

    In a run that a sweep started, it begins to follow that sweep.
    """
    follow_parent()
    add_launcher("processes", ProcessLauncher, ProcessesConf)


def add_launcher(name: str, launcher: type[SweepLauncher], conf: type) -> None:
    """Makes a launcher known to Hydra, with its config as option `name` of the group `hydra/launcher`.

    Hydra takes launchers from the package `hydra_plugins` only, so this one becomes a part of it.
    """
    Plugins.instance()  # imports the package if any plugin is installed
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    module = package.__dict__.setdefault("pose_lab", ModuleType("hydra_plugins.pose_lab"))
    setattr(module, launcher.__name__, launcher)
    sys.modules["hydra_plugins.pose_lab"] = module
    Plugins.instance().register(launcher)
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="pose_lab")


def swept_keys(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """The keys that not all jobs give the same value."""
    common = set.intersection(*map(set, job_overrides))
    return {_key(override) for overrides in job_overrides for override in overrides if override not in common}


def show_failure(job: Job, lines: int, screen: Console) -> None:
    """Prints the last lines of a failed run's log; one that never began has none."""
    screen.print(f"\n{job.folder.name} failed: {job.error}", style="red", soft_wrap=True, markup=False)
    tail = job.folder.log_tail(lines)
    if tail:
        screen.print(f"The last lines of {job.folder.log}:", soft_wrap=True, markup=False)
    for line in tail:
        screen.print(f"  {line}", soft_wrap=True, markup=False)


def write_report(folder: Path, node: Mapping[str, Any], screen: Console) -> None:
    """The report must not take the sweep's result with it: what stops it is said, and the sweep ends as it would."""
    from pose_lab.runs import formats, report  # here, as --help needs none of what they import

    try:
        made = report.build(folder, node)
        formats.show(made, screen)
        files = formats.write(made)
    except (OSError, ValueError) as error:
        screen.print(f"No report: {said(error)}", soft_wrap=True, markup=False)
    else:
        screen.print(f"Report: {files[0]} (also {', '.join(file.suffix for file in files[1:])})", soft_wrap=True)


def log_figure(folder: Path, cfg: DictConfig, screen: Console) -> None:
    """Sends the sweep's figure to where its runs are logged."""
    figure = folder / "report.png"
    if not cfg.get("logger") or not figure.exists():
        return
    try:
        tags = (cfg.scale, cfg.data.name)
        where = instantiate(cfg.logger).log_figure(figure, folder, f"{cfg.name}-{folder.name}", cfg.name, tags)
    except Exception as error:  # no key, no network, a server's refusal: the runs are done all the same
        where = f"The figure was not logged: {said(error)}"
    screen.print(where, soft_wrap=True, markup=False)


def _write_plan(jobs: Sequence[Job], program: str) -> None:
    """`sweep.json`: what was started, for people and for the commands that look at a sweep later."""
    for folder in sweep_folders(jobs):
        runs = [{"folder": job.folder.name, "command": job.command} for job in jobs if job.folder.path.parent == folder]
        how = {"program": program, "arguments": sys.argv[1:], "directory": str(Path.cwd())}
        write_json(folder / PLAN, {"started": time.time(), **how, "runs": runs})


def sweep_folders(jobs: Sequence[Job]) -> list[Path]:
    """Usually one; a sweep over scales or data sets has several."""
    return list(dict.fromkeys(job.folder.path.parent for job in jobs))


def _config_flags(cfg: DictConfig) -> list[str]:
    """Hydra's own flags that decide what is composed: the config's name and a folder given by `--config-dir`."""
    added = [source.path for source in cfg.hydra.runtime.config_sources if source.provider == "command-line"]
    return ["--config-name", cfg.hydra.job.config_name, *[flag for path in added for flag in ("--config-dir", path)]]


def _completed(cfg: DictConfig, overrides: Sequence[str]) -> JobReturn:
    done = JobReturn(overrides=list(overrides), cfg=cfg, status=JobStatus.COMPLETED)
    done.return_value = None
    return done


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _quoted(text: str) -> str:
    """A string of Hydra's override grammar, in quotes where it needs them."""
    if re.fullmatch(r"[\w./-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
