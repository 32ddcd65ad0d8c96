"""Numbers in the words of tables, figures and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Unit:
    """How numbers of a kind are written.

    Attributes:
        name: of the unit.
        factor: from what `metrics.json` holds to what people read.
        digits: decimals.
        best: which is the best of several; None: neither.
        signed: whether a number above 0 gets its sign.
    """

    name: str
    factor: float
    digits: int
    best: Literal["highest", "lowest"] | None
    signed: bool = False

    def text(self, value: float) -> str:
        """A number as people read it, without the unit."""
        return f"{self.factor * value:{'+' if self.signed else ''}.{self.digits}f}"


GAIN = "Δ"  # before the name of a column: the difference to another row
UNITS = {  # by how a column's name begins; anything else is a fraction
    "ms_": Unit("ms", 1, 1, "lowest"),
    "fusion_rate/": Unit("", 1, 2, None),
}
FRACTION = Unit("%", 100, 1, "highest")


def unit(column: str) -> Unit:
    """The unit of a column of `metrics.json`."""
    if column.startswith(GAIN):
        return replace(unit(column.removeprefix(GAIN)), best=None, signed=True)
    return next((unit for start, unit in UNITS.items() if column.startswith(start)), FRACTION)


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
