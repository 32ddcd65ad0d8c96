"""What every command says when something is wrong: one line on standard error that begins with `error: `."""

from __future__ import annotations

import sys


def complain(error: BaseException | str) -> None:
    """Prints an error."""
    words = (error if isinstance(error, str) else said(error)).split()
    print("error:", *words, file=sys.stderr, flush=True)


def said(error: BaseException) -> str:
    """What an error says, without the number that Python puts before the system's words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
