"""`python -m MODULE` without the seconds in which it imports torch and Lightning: a fork of a process that has done so.

In all else it is a process like any: its own session, folder, environment, signals and exit status. Processes that it
starts itself (the runs of a sweep, the ranks of a training) begin from nothing, as always.
"""

import gc
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest


def context() -> multiprocessing.context.ForkServerContext:
    """Whose processes are such forks; of one thread, as threads would not survive the fork."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(["pose_lab.runs.train"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()
    return chosen


class Command(AbstractContextManager):
    """A started module, with the part of `subprocess.Popen` that tests need.

    Args:
        module: as after `python -m`.
        arguments: its command line.
        cwd: the folder it starts in; None: this process's.
        env: its whole environment; None: this process's. OMP_NUM_THREADS is 1 whatever it says.
        merged: errors go where the output goes.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        self._files = [tempfile.NamedTemporaryFile() for _ in range(1 if merged else 2)]  # noqa: SIM115 (see __exit__)
        names = [file.name for file in self._files]
        environment = dict(os.environ if env is None else env)
        started = (module, arguments, cwd or Path.cwd(), environment, names[0], names[-1])
        self._process = context().Process(target=_main, args=started)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Output and errors; no errors if they are merged."""
        self.wait(timeout)
        output, *errors = [Path(file.name).read_text() for file in self._files]
        return output, "".join(errors)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:  # the number of one that has ended may be another's
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and self.returncode is None:
            self.kill()
        self.wait()
        for file in self._files:
            file.close()


def run(module: str, *arguments: str, timeout: float = 600, **where: object) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run` with captured text; `where` as for `Command`."""
    with Command(module, *arguments, **where) as process:
        output, errors = process.communicate(timeout)
    return subprocess.CompletedProcess([module, *arguments], process.returncode, output, errors)


def _main(
    module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], output: str, errors: str
) -> None:
    """In the fork: what Python does at its start with `-m`."""
    gc.freeze()  # what was imported before stays, and need not be looked through
    os.setsid()
    for path, descriptor in ((os.devnull, 0), (output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(descriptor, "w", buffering=1, closefd=False))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [str(cwd), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
