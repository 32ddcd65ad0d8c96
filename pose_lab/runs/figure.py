"""The figure of a report: the metric over the axis, with what was published beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pose_lab.runs.formats import value_text
from pose_lab.runs.report import Report, Row

STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "pose_lab",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by colour-blind people too
PUBLISHED = "0.4"
LOG_SPAN = 8  # the axis is logarithmic if its values span more
LINE = 92  # characters of the text below the figure

Position = dict[Any, float]


def save(report: Report, path: Path) -> None:
    """Draws the figure into a PNG or SVG file; equal reports give equal files."""
    with rc_context(STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        draw(report).savefig(path, dpi=200, metadata=metadata)


def draw(report: Report) -> Figure:
    """The figure; needs at least one finished run."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(report.title)
    axes.set_ylabel(f"{report.metric} (%), {' '.join(report.facts[key] for key in ('scale', 'data'))}")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if report.axis is None:
        _bars(axes, report)
    else:
        _curves(axes, report, report.axis)
    figure.supxlabel(_footnote(report), x=0.02, ha="left", fontsize=7.5, color=PUBLISHED)
    return figure


def _curves(axes: Axes, report: Report, axis: str) -> None:
    rows = [*report.rows, *report.published_rows]
    positions = _positions([row.settings.get(axis) for row in rows])
    _scale(axes, positions, numeric=_numeric(positions))
    axes.set_xlabel(report.axis_label)
    series = _series(report)
    handles = [
        _curve(axes, report, axis, positions, *item) for item in zip(series.items(), _cycle(len(series)), strict=True)
    ]
    best_at = report.published.best_at
    if best_at is not None and _numeric(positions):
        axes.axvline(best_at, color=PUBLISHED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            " published best", (best_at, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8, color=PUBLISHED
        )
    handles += _published_curve(axes, report, axis, positions)
    if len(handles) > 1:
        axes.legend(handles=handles, fontsize=8)


def _curve(
    axes: Axes, report: Report, axis: str, positions: Position, series: tuple[str, Sequence[Row]], colour: str
) -> Any:
    """One line with error bars over seeds, and a faint point for each seed."""
    label, rows = series
    rows = [row for row in rows if report.metric in row.estimates]
    x = [positions[row.settings[axis]] for row in rows]
    found = [row.estimates[report.metric] for row in rows]
    y, errors = [100 * estimate.mean for estimate in found], [100 * (estimate.std or 0) for estimate in found]
    for position, estimate in zip(x, found, strict=True):
        if estimate.std is not None:
            axes.plot(
                [position] * len(estimate.values), [100 * v for v in estimate.values], ".", color=colour, alpha=0.35
            )
    style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "markersize": 5.5, "capsize": 3, "elinewidth": 1}
    return axes.errorbar(x, y, yerr=errors if any(errors) else None, fmt="o-", label=label or "measured", **style)


def _published_curve(axes: Axes, report: Report, axis: str, positions: Position) -> list[Any]:
    """The published numbers on a y axis of their own: another scale, other data, not to be compared in height."""
    rows = [row for row in report.published_rows if report.metric in row.estimates and row.settings[axis] is not None]
    if not rows:
        return []
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    other.tick_params(axis="y", colors=PUBLISHED)
    other.set_ylabel(f"{report.metric} (%), published", color=PUBLISHED)
    x = [positions[row.settings[axis]] for row in rows]
    y = [100 * row.estimates[report.metric].mean for row in rows]
    return other.plot(x, y, "s--", color=PUBLISHED, markersize=4.5, linewidth=1, label="published (right axis)")


def _bars(axes: Axes, report: Report) -> None:
    rows = [row for row in report.rows if report.metric in row.estimates]
    found = [row.estimates[report.metric] for row in rows]
    names = [_name(report, row) for row in rows]
    errors = [100 * (estimate.std or 0) for estimate in found]
    style: dict[str, Any] = {"height": 0.6, "color": COLOURS[0], "error_kw": {"capsize": 3, "elinewidth": 1}}
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    bars = axes.barh(names, [100 * e.mean for e in found], xerr=errors if any(errors) else None, **style)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(axes.get_ylabel())
    axes.set_ylabel("")


def _series(report: Report) -> dict[str, list[Row]]:
    """Rows that differ in the axis alone, by what sets them apart from the others."""
    series: dict[str, list[Row]] = {}
    for row in report.rows:
        series.setdefault(_name(report, row, leave_out=report.axis), []).append(row)
    return series


def _name(report: Report, row: Row, leave_out: str | None = None) -> str:
    words = [f"{word} {value_text(row.settings[key])}" for key, word in report.keys.items() if key != leave_out]
    return ", ".join(words)


def _positions(values: Sequence[Any]) -> Position:
    """Where each value stands: numbers at themselves, words side by side."""
    different = [value for value in dict.fromkeys(values) if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in different):
        return {value: float(value) for value in different}
    return {value: float(index) for index, value in enumerate(different)}


def _numeric(positions: Position) -> bool:
    return all(not isinstance(value, str | bool) for value in positions)


def _scale(axes: Axes, positions: Position, numeric: bool) -> None:
    """Ticks at the values that were run."""
    x = sorted(positions.values())
    if numeric and x[0] > 0 and x[-1] > LOG_SPAN * x[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([value_text(value) for value in sorted(positions, key=positions.__getitem__)])
    axes.margins(x=0.06, y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _footnote(report: Report) -> str:
    spread = "Bars: standard deviation over seeds." if report.several_seeds else ""
    finished = all(not row.state for row in report.rows)
    unfinished = "" if finished else f"So far: {report.facts['runs']}."
    return "\n".join(textwrap.wrap(" ".join([spread, report.published.sentence, unfinished]).strip(), LINE))
