"""A report as terminal table, Markdown, CSV and LaTeX, and all of them as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pose_lab.runs.files import write_file, write_text
from pose_lab.runs.report import SEED, Estimate, Other, Report, Row, Run
from pose_lab.runs.words import GAIN, duration, percent, unit, value_text

MOST_CHANGES = 4  # settings shown of a run that the table leaves out
LABEL = 28  # characters of a line beside a row on the screen
UNBOUNDED = 10_000  # characters; wider than any table
Bold = Callable[[str], str]


def show(report: Report, screen: Console) -> None:
    """Prints the report's table, with as many of its metrics as the screen is wide."""
    fitting = report
    boundless = screen.options.update_width(UNBOUNDED)
    while len(fitting.columns) > 1 and screen.measure(_table(fitting), options=boundless).maximum > screen.width:
        last = [name for name in fitting.columns if name != report.metric][-1]
        fitting = replace(fitting, columns=[name for name in fitting.columns if name != last])
    hidden = ", ".join(_heading(name) for name in report.columns if name not in fitting.columns)
    screen.print(f"[bold]{escape(report.title)}[/bold]\n{escape(_facts(report))}")
    screen.print(_table(fitting))
    lines = [f"Too wide for this screen, in report.md: {hidden}." if hidden else "", _note(report), *_others(report)]
    screen.print("\n".join(filter(None, lines)), markup=False)


def write(report: Report) -> list[Path]:
    """Writes the report's files into the sweep's folder; the figure once there is a number to draw.

    Returns:
        The files' paths.

    Raises:
        OSError: the folder cannot be written.
    """
    from pose_lab.runs.figure import save  # Matplotlib takes a second to import, and most commands draw nothing

    texts = {"report.md": markdown(report), "report.csv": table_csv(report), "report.tex": latex(report)}
    for name, text in texts.items():
        write_text(report.folder / name, text)
    if not any(report.metric in row.estimates for row in report.rows):
        return [report.folder / name for name in texts]
    for name in ("report.png", "report.svg"):
        write_file(report.folder / name, partial(save, report))
    return [report.folder / name for name in (*texts, "report.png", "report.svg")]


def cells(report: Report, bold: Bold) -> tuple[list[str], list[list[str]]]:
    """The table as words: measured rows first, then published ones; empty columns are left out.

    Args:
        report: what to show.
        bold: marks the best of a column.
    """
    columns: dict[str, Callable[[Row], str]] = {"": _label}
    columns |= {word: partial(_setting, key) for key, word in report.keys.items()}
    columns |= {name: partial(_metric, report, name, bold) for name in report.columns}
    columns["n"] = lambda row: str(_finished(row)) if row.runs and report.several_seeds else ""
    columns["trained"] = lambda row: duration(row.estimates["seconds"].mean) if "seconds" in row.estimates else ""
    columns["state"] = lambda row: row.state
    rows = [*report.rows, *report.published_rows]
    table = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    kept = {_heading(name): column for name, column in table.items() if any(column)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _table(report: Report) -> Table:
    header, rows = cells(report, lambda text: f"[bold]{text}[/bold]")
    table = Table(box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for name in header:
        widest = LABEL if not name else None
        table.add_column(name, justify="left" if name in ("", "state") else "right", max_width=widest)
    for number, row in enumerate(rows, 1):
        table.add_row(*row, end_section=number == len(report.rows))
    return table


def markdown(report: Report) -> str:
    """The report as a page."""
    header, rows = cells(report, lambda text: f"**{text}**")
    lines = ["| " + " | ".join(line) + " |" for line in [header, [_rule(name) for name in header], *rows]]
    parts = [f"# {report.title}", _facts(report), "\n".join(lines), _note(report), *map(_failure, report.failed)]
    if any(report.metric in row.estimates for row in report.rows):
        over = f"{report.metric} over {report.axis_label or 'settings'}"
        shown = report.axis_label or report.profile if report.profile else over
        parts.append(f"![{shown}](report.png)")
    parts += [f"- {line}" if number else f"## {line}" for number, line in enumerate(_others(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_csv(report: Report) -> str:
    """The table for programs: fractions at full precision."""
    estimates = [f"{name}{part}" for name in report.columns for part in ("", "_std", "_low", "_high")]
    header = ["source", "label", *report.keys, *estimates, "n", "seconds", "state"]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    for row in [*report.rows, *report.published_rows]:
        numbers = {
            key: value for name in report.columns for key, value in _numbers(name, row.estimates.get(name)).items()
        }
        seconds = row.estimates["seconds"].mean if "seconds" in row.estimates else ""
        about = {"source": "published" if row.label else "measured", "label": _label(row), "seconds": seconds}
        writer.writerow({**about, **row.settings, **numbers, "n": _finished(row) or "", "state": row.state})
    return text.getvalue()


def latex(report: Report) -> str:
    """The table for a paper; needs the package booktabs."""
    import pandas as pd

    header, rows = cells(report, lambda text: "\x01" + text)
    frame = pd.DataFrame(rows, columns=[_tex(name) for name in header])
    style = frame.style.hide(axis="index").format(_tex)
    style = style.map(lambda cell: "textbf:--rwrap;" if cell.startswith("\x01") else "")
    return style.to_latex(
        hrules=True,
        column_format="".join("l" if name in ("", "state") else "r" for name in header),
        caption=_tex(f"{report.title}. {_facts(report)}. {_note(report)}"),
        label=f"tab:{report.folder.parent.name}",
        position_float="centering",
    )


def _heading(column: str) -> str:
    """`ms_forward` as `forward ms`, `fusion_rate/nose` as `nose`."""
    sign = GAIN if column.startswith(GAIN) else ""
    start, _, rest = column.removeprefix(GAIN).partition("_")
    return f"{sign}{rest} ms" if start == "ms" else column.rpartition("/")[2]


def _label(row: Row) -> str:
    return row.label or ("reference" if row.is_reference else "")


def _setting(key: str, row: Row) -> str:
    return value_text(row.settings.get(key))


def _metric(report: Report, name: str, bold: Bold, row: Row) -> str:
    estimate = row.estimates.get(name)
    if estimate is None:
        return ""
    text = unit(name).text(estimate.mean) + (f" ± {unit(name).text(estimate.std)}" if estimate.std is not None else "")
    return bold(text) if row.label is None and estimate.mean == report.best(name) else text


def _numbers(name: str, estimate: Estimate | None) -> Mapping[str, float | str]:
    if estimate is None:
        return {}
    values = {"": estimate.mean, "_std": estimate.std, "_low": estimate.low, "_high": estimate.high}
    return {f"{name}{part}": value for part, value in values.items() if value is not None}


def _finished(row: Row) -> int:
    return sum(run.state == "finished" for run in row.runs)


def _facts(report: Report) -> str:
    return "; ".join(f"{name}: {text}" for name, text in report.facts.items())


def _note(report: Report) -> str:
    """What the numbers are, and what they are held against."""
    spread = f"Mean ± standard deviation over {SEED}s." if report.several_seeds else ""
    rates = any(unit(name).name != "%" for name in report.columns)
    percents = "Percent where nothing else is said." if rates else "Percent."
    return " ".join(filter(None, [percents, spread, report.against_sentence, report.published.sentence]))


def _others(report: Report) -> list[str]:
    """A heading and a line for each run that the table leaves out."""
    return ["Other runs in this folder", *(_other(report, other) for other in report.others)] if report.others else []


def _other(report: Report, other: Other) -> str:
    value = other.run.metrics.get(report.metric)
    measured = [f"{report.metric} {percent(value)}"] if value is not None else []
    changes = [f"{key}={value_text(value)}" for key, value in other.settings.items()]
    more = [f"{len(changes) - MOST_CHANGES} more"] if len(changes) > MOST_CHANGES else []
    return f"{other.run.name}: " + ", ".join([other.run.state_text, *measured, *changes[:MOST_CHANGES], *more])


def _failure(run: Run) -> str:
    return f"`{run.name}` failed: {run.status.error}"


def _rule(name: str) -> str:
    return ":--" if name in ("", "state") else "--:"


def _tex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        GAIN: r"$\Delta$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\x01": "",
    }
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
