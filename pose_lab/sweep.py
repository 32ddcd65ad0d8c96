"""`python -m pose_lab.sweep COMMAND experiment=NAME [scale=..] [results=..]`: a sweep after its command has returned.

status   what became of its runs, from their folders and from Slurm (of more than 100 those that are not finished)
retry    starts its command again: what failed or was interrupted goes on, what is finished or in the queue stays
cancel   takes its jobs out of Slurm's queue; running ones write their checkpoints
report   its table and figure, once more; on Slurm a job does this after the last run
wandb    its W&B sweep, made from the same sweeps/NAME.yaml; with a W&B key it is created (create=false: only shown)
sync     which of its offline W&B runs were not sent yet; with a W&B key it sends them (send=false: only shown)

The arguments are those that `pose_lab.run` was given, or the folder of the sweep.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from pose_lab.compare import find
from pose_lab.errors import complain
from pose_lab.runs import slurm
from pose_lab.runs.files import read_json
from pose_lab.runs.folder import RunFolder
from pose_lab.runs.launcher import log_figure, write_report
from pose_lab.runs.report import PLAN
from pose_lab.runs.slurm import SlurmError
from pose_lab.runs.slurm_sweep import Watch, settle, update
from pose_lab.runs.sweep import Job
from pose_lab.runs.table import console, status_table

MANY = 100  # runs: of more, the finished ones are only counted


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the commands."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name not in COMMANDS or {"-h", "--help"} & set(rest) or not rest:
        print(__doc__)
        sys.exit(0 if name in ("", "-h", "--help") or name in COMMANDS else 2)
    try:
        COMMANDS[name](rest, console())
    except (OSError, ValueError, SlurmError, HydraException, OmegaConfBaseException) as error:
        complain(error)
        sys.exit(1)


def status(arguments: Sequence[str], screen: Console) -> None:
    """Prints a table of all runs."""
    folder, _ = find(arguments)
    watch = _watch(folder, screen)
    jobs = _jobs(folder)
    update(jobs, watch)
    metric = (jobs[0].folder.config().get("report") or {}).get("metric") or "AP"
    shown = jobs if len(jobs) <= MANY else [job for job in jobs if job.state != "finished"]
    tasks = {job.number: placed.task for job in shown if (placed := watch.placed(job.folder)) is not None}
    if shown:
        screen.print(status_table(shown, metric, tasks))
    screen.print(_counts(jobs, folder), soft_wrap=True, markup=False)


def retry(arguments: Sequence[str], screen: Console) -> None:
    """Becomes the command that started the sweep; overrides of `hydra...` are added to it."""
    added = [argument for argument in arguments if argument.startswith("hydra.")]
    folder, _ = find([argument for argument in arguments if argument not in added])
    plan = _plan(folder)
    if "program" not in plan:
        raise ValueError(f"{folder / PLAN} does not say which command started the sweep: start that command again")
    command = [sys.executable, "-m", plan["program"], *plan["arguments"], "hydra.launcher.retry_failed=true", *added]
    screen.print(shlex.join(command), soft_wrap=True, markup=False)
    sys.stdout.flush()
    os.chdir(plan["directory"])
    os.execv(command[0], command)


def cancel(arguments: Sequence[str], screen: Console) -> None:
    """Cancels the jobs that wait or run; the job of the report stays, and tells what there is."""
    folder, _ = find(arguments)
    _plan(folder)
    watch = Watch([folder])
    watch.look()
    living = watch.living()
    slurm.cancel(living)
    text = f"Cancelled {len(living)} jobs: {' '.join(living)}" if living else f"No job of {folder} waits or runs."
    screen.print(text, soft_wrap=True, markup=False)


def report(arguments: Sequence[str], screen: Console) -> None:
    """Settles how runs ended that could not say so, then writes the report and logs its figure."""
    folder, node = find(arguments)
    watch, jobs = _watch(folder, screen), _jobs(folder)
    settle(jobs, watch)
    config = jobs[0].folder.config()
    if node is None:
        node = config.get("report")
    if node is None:
        screen.print("This sweep has no report (report: null).", soft_wrap=True, markup=False)
        return
    write_report(folder, node, screen)
    log_figure(folder, OmegaConf.create(config), screen)


def wandb(arguments: Sequence[str], screen: Console) -> None:
    """Prints the W&B sweep, and creates it where that can be done."""
    from pose_lab.runs import wandb_sweep  # here, as W&B takes seconds to import

    create, rest = _flag("create", arguments)
    content, where = wandb_sweep.definition(rest)
    screen.print(wandb_sweep.as_yaml(content), soft_wrap=True, markup=False, end="")
    screen.print(wandb_sweep.create(content, where) if create else "", soft_wrap=True, markup=False)


def sync(arguments: Sequence[str], screen: Console) -> None:
    """Lists offline runs that were not sent, and sends them where that can be done."""
    from pose_lab.runs import wandb_sweep

    send, rest = _flag("send", arguments)
    folder, _ = find(rest)
    waiting, busy = wandb_sweep.unsynced(folder)
    for path in waiting:
        screen.print(str(path), soft_wrap=True, markup=False)
    still = f"; {busy} more are being written by runs that go on" if busy else ""
    screen.print(f"{len(waiting)} offline W&B runs to send{still}.", soft_wrap=True, markup=False)
    if waiting and send:
        screen.print(wandb_sweep.send(waiting), soft_wrap=True, markup=False)


COMMANDS: Mapping[str, Callable[[Sequence[str], Console], None]] = {
    "status": status,
    "retry": retry,
    "cancel": cancel,
    "report": report,
    "wandb": wandb,
    "sync": sync,
}


def _plan(folder: Path) -> Mapping[str, Any]:
    try:
        return read_json(folder / PLAN)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no sweep was started in {folder}: python -m pose_lab.run experiment=NAME") from error


def _jobs(folder: Path) -> list[Job]:
    """The runs that were started last."""
    runs = _plan(folder)["runs"]
    return [Job(number, RunFolder(folder / run["folder"]), run["command"]) for number, run in enumerate(runs, 1)]


def _watch(folder: Path, screen: Console) -> Watch:
    """What Slurm says; if it does not answer, that is said once and the folders speak alone."""
    watch = Watch([folder])
    try:
        watch.look()
    except SlurmError as error:
        screen.print(f"{error}; this is what the run folders say", soft_wrap=True, markup=False)
    return watch


def _counts(jobs: Sequence[Job], folder: Path) -> str:
    states = dict.fromkeys(job.state for job in jobs)
    counts = [f"{sum(job.state == state for job in jobs)} {state}" for state in states]
    return f"{len(jobs)} runs: {', '.join(counts)}. Logs: {folder}/RUN/log.txt"


def _flag(name: str, arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """An own `name=true|false` among the arguments (true without one), and the others."""
    own = [argument for argument in arguments if argument.startswith(f"{name}=")]
    unclear = [argument for argument in own if argument.split("=")[1] not in ("true", "false")]
    if unclear:
        raise ValueError(f"{unclear[0]}: {name} is true or false")
    return f"{name}=false" not in own, [argument for argument in arguments if argument not in own]


if __name__ == "__main__":
    main()
