"""How a command ends when something is wrong: one message, `error: ...`, and a non-zero status."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pose_lab import errors
from pose_lab.runs import search_path

NAMED = 5  # keys that a message lists
_PACKAGE = Path(__file__).parents[1]
_HYDRAS, _OURS = "HYDRA_FULL_ERROR", "POSE_LAB_ERRORS"


def run_command(main: Callable[[], None]) -> None:
    """Calls a function that `hydra.main` made; what is wrong with the config ends like every other error.

    With HYDRA_FULL_ERROR=1 Hydra passes errors on instead of printing them; a user who has set it gets the stack trace.
    """
    if os.environ.get(_HYDRAS) == "1" and _OURS not in os.environ:
        main()
        return
    os.environ.update({_HYDRAS: "1", _OURS: "1"})  # the processes of a sweep inherit both
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # what is wrong with it at Python's own end nobody can catch
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {said(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr, flush=True)
        sys.exit(130)


def report(error: BaseException) -> None:
    """Prints what stopped a run, and where it was raised unless one of our own checks did."""
    trace = "" if _is_a_check(error) else f"{_where_it_was_raised()}\n"
    print(f"\n{trace}error: {said(error)}", file=sys.stderr, flush=True)


def said(error: BaseException) -> str:
    """What an error says; of a config key that does not exist, which there are."""
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _no_such_key(cause)
    return errors.said(error)


def _no_such_key(error: OmegaConfBaseException) -> str:
    """For a key that the command line gives and the config lacks."""
    node: Any = error.parent_node
    wrong, parent = str(error.key), str(error.full_key).rpartition(".")[0]
    known = [str(key) for key in node] if node is not None else []
    if not parent:
        known += [group for group in _groups() if group not in known]
    near = difflib.get_close_matches(wrong, known, NAMED, cutoff=0.5)
    names = f"nearest to it: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
    return f"there is no config key {error.full_key}; in {parent or 'the whole config'}, {names} (--cfg job shows all)"


def _groups() -> list[str]:
    return [*search_path.FOLDERS, *(path.name for path in (_PACKAGE / "conf").iterdir() if path.is_dir())]


def _is_a_check(error: BaseException) -> bool:
    """Whether a `raise` of this package raised it on purpose, so that its message says all."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(_PACKAGE)
    return ours and (last.line or "").startswith("raise")


def _where_it_was_raised() -> str:
    """The traceback in a job's log; for people at a terminal the file that holds it."""
    if "SLURM_JOB_ID" in os.environ:
        return traceback.format_exc()
    trace = Path(tempfile.mkstemp(prefix="pose_lab-", suffix=".txt")[1])
    trace.write_text(traceback.format_exc())
    return f"(where it was raised: {trace})"
