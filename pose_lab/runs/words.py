"""Numbers in the words of tables, figures and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def duration(seconds: float | None, unknown: str = "") -> str:
    """Seconds as `h:mm:ss` or `m:ss`."""
    if seconds is None:
        return unknown
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal, as the field prints it."""
    return "" if value is None else f"{100 * value:.1f}"


def value_text(value: object) -> str:
    """A setting's value."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def epoch_text(progress: Mapping[str, Any]) -> str:
    """Which epoch a run is in, as `3/40` from 1 on; `progress.json` counts from 0. Empty where it is not known."""
    epoch, epochs = progress.get("epoch"), progress.get("epochs")
    # after its last epoch a run is evaluated, and Lightning has counted on
    return f"{min(epoch + 1, epochs)}/{epochs}" if epochs and epoch is not None else ""
