"""The figure of a report: the metric over the axis, with what was published beside it."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pose_lab.runs.report import ABOUT, SEARCH_KEYS, VARIANT, Report, Row
from pose_lab.runs.words import GAIN, unit, value_text

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
PANELS = 3  # in a row
NAME = 36  # characters of a line beside a bar
UNBROKEN = "\u00a0"  # a space where no line ends
BAR = 0.4  # inches of the figure's height for a bar beside one or two lines
MORE = 0.18  # inches for each line, where there are more
FRAME = 1.2  # inches of the figure's height for all but its bars
LINE = 108  # characters of the text below the figure


def save(report: Report, path: Path) -> None:
    """Draws the figure into a PNG or SVG file; equal reports give equal files."""
    with rc_context(STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        draw(report).savefig(path, dpi=200, metadata=metadata)


def draw(report: Report) -> Figure:
    """The figure; needs at least one finished run."""
    barred = report.axis is None and not report.profile_columns and report.keys != SEARCH_KEYS
    bars = sum(_room(name) for name in _bar_names(report)) if barred else 0
    figure = Figure(figsize=(6.4, max(4.4, FRAME + bars)), layout="constrained")
    y_label = f"{report.metric} (%) on {report.facts['data']}, {report.facts['scale']} scale"
    # above all of the figure: above the axes alone it has no room beside long names
    figure.suptitle(report.title, x=0.02, ha="left", fontsize=11)
    if report.keys == SEARCH_KEYS:
        figure.supylabel(y_label, fontsize=10)
        _panels(figure, report)
        _from_zero(figure.axes[0], report, [report.metric])
        figure.supxlabel(_footnote(report), x=0.02, ha="left", fontsize=7.5, color=PUBLISHED)
        return figure
    axes = figure.add_subplot()
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if report.profile_columns:
        _profile(axes, report)
        _from_zero(axes, report, report.profile_columns)
    elif report.axis is None:
        _bars(axes, report)
    else:
        _curves(axes, report, report.axis)
        _from_zero(axes, report, [report.metric])
    figure.supxlabel(_footnote(report), x=0.02, ha="left", fontsize=7.5, color=PUBLISHED)
    return figure


@dataclass(frozen=True)
class Places:
    """Where each value of the axis stands: numbers at themselves, anything else side by side."""

    values: Sequence[Any]

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def of(self, value: Any) -> float:
        """The position of one of the values."""
        return float(value) if self.numeric else float([repr(known) for known in self.values].index(repr(value)))

    @property
    def logarithmic(self) -> bool:
        """Whether the values span too much for equal steps."""
        return self.numeric and min(self.values) > 0 and max(self.values) > LOG_SPAN * min(self.values)


def _curves(axes: Axes, report: Report, axis: str) -> None:
    published = [
        row for row in report.published_rows if report.metric in row.estimates and row.settings[axis] is not None
    ]
    values = {repr(row.settings[axis]): row.settings[axis] for row in [*report.rows, *published]}
    places = Places(list(values.values()))
    _scale(axes, places)
    axes.set_xlabel(report.axis_label)
    series = _series(report, axis)
    handles = [
        _curve(axes, report, axis, places, series[label], label, COLOURS[index % len(COLOURS)])
        for index, label in enumerate(series)
    ]
    if report.published.best_at is not None and places.numeric:
        _mark_published_best(axes, report.published.best_at)
    _mark_best(axes, report, axis, places)
    if published:
        handles.append(_published_curve(axes, report, axis, places, published))
    if len(handles) > 1:
        axes.legend(handles=handles, fontsize=8)


def _curve(
    axes: Axes, report: Report, axis: str, places: Places, rows: Sequence[Row], label: str, colour: str
) -> Artist:
    """One line with error bars over seeds, and a faint point for each seed."""
    found = sorted(
        [
            (places.of(row.settings[axis]), row.estimates[report.metric])
            for row in rows
            if report.metric in row.estimates
        ],
        key=lambda point: point[0],
    )
    for x, estimate in found:
        if estimate.std is not None:
            percents = [100 * value for value in estimate.values]
            axes.plot([x] * len(percents), percents, ".", color=colour, alpha=0.35)
    errors = [100 * (estimate.std or 0) for _, estimate in found]
    return axes.errorbar(
        [x for x, _ in found],
        [100 * estimate.mean for _, estimate in found],
        yerr=errors if any(errors) else None,
        fmt="o-",
        label=label or "measured",
        color=colour,
        linewidth=1.6,
        markersize=5.5,
        capsize=3,
        elinewidth=1,
    )  # type: ignore[return-value]


def _mark_best(axes: Axes, report: Report, axis: str, places: Places) -> None:
    """The number at the highest point, on the side where the figure has room."""
    best = report.best(report.metric)
    rows = [row for row in report.rows if report.metric in row.estimates and row.estimates[report.metric].mean == best]
    for row in rows:
        x, y = places.of(row.settings[axis]), 100 * row.estimates[report.metric].mean
        is_left = x == min(map(places.of, places.values))
        style: Any = {"fontsize": 9, "fontweight": "bold", "ha": "left" if is_left else "right"}
        axes.annotate(f"{y:.1f}", (x, y), (7 if is_left else -7, 5), textcoords="offset points", **style)


def _mark_published_best(axes: Axes, value: float) -> None:
    axes.axvline(value, color=PUBLISHED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    place: Any = ("data", "axes fraction")
    axes.annotate(" published best", (value, 1), xycoords=place, va="top", fontsize=8, color=PUBLISHED)


def _published_curve(axes: Axes, report: Report, axis: str, places: Places, rows: Sequence[Row]) -> Artist:
    """The published numbers on a y axis of their own: another scale, other data, not to be compared in height."""
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    other.tick_params(axis="y", colors=PUBLISHED)
    other.set_ylabel(f"{report.metric} (%), published", color=PUBLISHED)
    x = [places.of(row.settings[axis]) for row in rows]
    y = [100 * row.estimates[report.metric].mean for row in rows]
    (line,) = other.plot(x, y, "s--", color=PUBLISHED, markersize=4.5, linewidth=1, label="published (right axis)")
    return line


def _bars(axes: Axes, report: Report) -> None:
    rows = _bar_rows(report)
    means = [100 * row.estimates[report.metric].mean for row in rows]
    errors = [100 * (row.estimates[report.metric].std or 0) for row in rows]
    colours = [PUBLISHED if row.label else COLOURS[0] for row in rows]
    names = _bar_names(report)
    ends = list(itertools.accumulate(map(_room, names)))
    places = [end - _room(name) / 2 for end, name in zip(ends, names, strict=True)]
    style: dict[str, Any] = {"height": 0.6 * BAR, "color": colours, "error_kw": {"capsize": 3, "elinewidth": 1}}
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    bars = axes.barh(places, means, xerr=errors if any(errors) else None, **style)
    axes.bar_label(bars, [_number(report, row) for row in rows], padding=3, fontsize=9)
    axes.set_yticks(places, names)
    axes.set_ylim(ends[-1], 0)
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, 0) if min(means) >= 0 else left, max(right, 1))
    axes.set_xlabel(axes.get_ylabel() + ("; grey: published" if PUBLISHED in colours else ""))
    axes.set_ylabel("")


def _bar_rows(report: Report) -> list[Row]:
    return [row for row in [*report.rows, *report.published_rows] if report.metric in row.estimates]


def _bar_names(report: Report) -> list[str]:
    names = [row.label or _name(report, row) for row in _bar_rows(report)]
    return [textwrap.fill(name, NAME).replace(UNBROKEN, " ") for name in names]


def _room(name: str) -> float:
    """Inches of the figure's height for the bar of a name."""
    return max(BAR, MORE * (name.count("\n") + 1))


def _number(report: Report, row: Row) -> str:
    """The metric, and what the row gains."""
    names = (report.metric, f"{GAIN}{report.metric}")
    number, *gain = [unit(name).text(row.estimates[name].mean) for name in names if name in row.estimates]
    return f"{number} ({gain[0]})" if gain else number


def _profile(axes: Axes, report: Report) -> None:
    """A group of bars for each column, one bar for each row."""
    columns = report.profile_columns
    rows = [row for row in report.rows if any(name in row.estimates for name in columns)]
    width = 0.8 / max(len(rows), 1)
    for number, row in enumerate(rows):
        found = [(x, row.estimates[name]) for x, name in enumerate(columns) if name in row.estimates]
        places = [x + (number - (len(rows) - 1) / 2) * width for x, _ in found]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "label": _name(report, row) or "measured"}
        errors = [estimate.std or 0 for _, estimate in found]
        axes.bar(places, [estimate.mean for _, estimate in found], width, yerr=errors if any(errors) else None, **style)
    words = [name.rpartition("/")[2].replace("_", " ") for name in columns]
    axes.set_xticks(range(len(columns)), words, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel(report.axis_label or str(report.profile))
    if len(rows) > 1:
        axes.legend(fontsize=8)


def _panels(figure: Figure, report: Report) -> None:
    """A small curve for each field of a search, all with one y axis; the configured value stands apart."""
    fields: dict[str, list[Row]] = {}
    for row in report.rows:
        fields.setdefault(row.settings["field"], []).append(row)
    configured, best = fields.pop("as configured", []), fields.pop("best together", [])
    grid = figure.subplots(-(-len(fields) // PANELS), PANELS, sharey=True, squeeze=False)
    for axes, (field, rows) in zip(grid.flat, fields.items(), strict=False):
        places = Places([row.settings["value"] for row in rows])
        _scale(axes, places)
        axes.tick_params(axis="x", labelsize=7, rotation=45 if places.logarithmic else 0)
        axes.set_title(field.replace("_", " ").replace("iou", "IoU"), fontsize=9)
        axes.grid(axis="y")
        _curve(axes, report, "value", places, rows, "", COLOURS[0])
        for row, style in [*((row, ":") for row in configured), *((row, "--") for row in best)]:
            axes.axhline(100 * row.estimates[report.metric].mean, color=PUBLISHED, linewidth=0.8, linestyle=style)
    for axes in grid.flat[len(fields) :]:
        axes.set_visible(False)


def _series(report: Report, axis: str) -> dict[str, list[Row]]:
    """Rows that differ in the axis alone, by what sets them apart from the others."""
    series: dict[str, list[Row]] = {}
    for row in report.rows:
        series.setdefault(_name(report, row, leave_out=axis), []).append(row)
    return {label: rows for label, rows in series.items() if any(report.metric in row.estimates for row in rows)}


def _name(report: Report, row: Row, leave_out: str | None = None) -> str:
    """What sets a row apart; of several settings that it is held against, those in which it differs from them."""
    many = len(report.held) > 1
    shared = {key for key, value in report.held.items() if many and repr(row.settings[key]) == repr(value)}
    shown = {key: word for key, word in report.keys.items() if key != leave_out and key not in shared}
    # the name of a variant, and what the method says about itself, need no further word
    named = {key: "" if key == VARIANT or key.startswith(ABOUT) else word + UNBROKEN for key, word in shown.items()}
    words = [word + (value_text(row.settings[key]) or "none") for key, word in named.items()]
    return ", ".join([*words, *(["reference"] if many and row.is_reference else [])])


def _scale(axes: Axes, places: Places) -> None:
    """Ticks at the values that were run."""
    if places.logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([places.of(value) for value in places.values]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([value_text(value) or "none" for value in places.values])
    axes.margins(x=0.06, y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _from_zero(axes: Axes, report: Report, columns: Sequence[str]) -> None:
    """No room below zero for numbers that have none there; at least one (percent) is shown."""
    bottom, top = axes.get_ylim()
    if all(row.estimates[name].mean >= 0 for row in report.rows for name in columns if name in row.estimates):
        axes.set_ylim(max(bottom, 0), max(top, 1))


def _footnote(report: Report) -> str:
    """What the marks mean, what is held against them, and what is missing."""
    two_axes = report.axis is not None and any(report.metric in row.estimates for row in report.published_rows)
    sentences = [
        _seeds(report),
        f"In brackets {report.against_sentence}" if report.axis is None and report.against_sentence else "",
        "Dotted: as configured; dashed: the best values together." if report.keys == SEARCH_KEYS else "",
        report.published.sentence,
        "The two y axes are of different scale and data: compare shapes, not heights." if two_axes else "",
        f"So far: {report.facts['runs']}." if any(row.state for row in report.rows) else "",
    ]
    text = " ".join(filter(None, sentences)).replace(" %", f"{UNBROKEN}%")
    return "\n".join(textwrap.wrap(text, LINE))


def _seeds(report: Report) -> str:
    """How many seeds a point stands for."""
    counts = sorted({len(row.estimates[report.metric].values) for row in report.rows if report.metric in row.estimates})
    if counts[-1] == 1:
        return "One seed."
    words = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean and standard deviation over {words} seeds."
