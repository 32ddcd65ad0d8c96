"""The report of a sweep, made from its run folders alone: terminal table, `report.md`, `.csv`, `.tex`, `.png`, `.svg`.

The config's node `report` says how it looks:

    report:
      title: what the experiment is called
      axis: method.keypoint_box      # the config key on the figure's x axis; null: a bar for each setting
      axis_label: its words and unit # null: the key's last word
      metric: AP                     # on the y axis, and what is called best
      columns: [AP, "fusion_rate/*"] # of `metrics.json`: fractions in percent, unless `words.UNITS` has another unit
      profile: fusion_rate           # the figure shows the columns "fusion_rate/..." of each row beside each other
      against: null                  # {key: value}: rows show their gain over those that have these values
      search: false                  # true: the rows are the settings that the runs' searches tried (`search.csv`)
      published:                     # what the measured numbers are held against; null: nothing
        source: authors, venue, table or figure
        settings: the network, data, image size and test-time settings of those numbers
        finding: what the paper says of the axis, in words
        best_at: 0.05                # the axis value that the paper found best; null: none
        rows:                        # numbers as the paper prints them, in percent
          - {label: KAPAO-S, at: 0.05, AP: 50.0}

A run with `variants` is as many rows as it has variants, in their order; their key is `variant`.

What `method.about` says of the parts that were chosen (`size: S`) stands for all settings that follow from it. With
`against: {key: value}` each row also shows its gain over the row that differs in having these values (its reference,
which stands before it): in the metric and in milliseconds, each as a column (Δ) after the one that it belongs to.

Rows are sorted by their numbers, and those that differ in words alone have the order in which the sweep started them.

Runs that differ only in their seed are one row: mean and standard deviation over them, and how many they are. A key
that the config derives from another one (`data.seed: ${seed}`) makes no difference of its own.

Where `sweep.json` lists the runs that were started last, the report is about those, and about runs that differ from one
of them in the seed or the axis alone. The folder's other runs (a trial, an older recipe) are named below the table.
"""

from __future__ import annotations

import ast
import fnmatch
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pose_lab.runs.files import read_json, read_table
from pose_lab.runs.folder import RunFolder, State, Status
from pose_lab.runs.identity import deciding_part
from pose_lab.runs.words import GAIN, epoch_text, unit, value_text

PLAN = "sweep.json"  # in a sweep's folder: what was started last
SEED = "seed"
ABOUT = "method.about."
VARIANT = "variant"  # the key by which the rows of a run's variants differ
SEARCH_KEYS = {"field": "field", "value": "value"}  # of the rows of a search
VERSIONS = ("pose_lab", "torch", "lightning", "python")  # keys of `metrics.json`


@dataclass(frozen=True)
class Run:
    """What a run's folder says."""

    name: str
    status: Status
    settings: Mapping[str, Any]  # by dotted key: what decides its result
    metrics: Mapping[str, Any]
    progress: Mapping[str, Any]
    report: Mapping[str, Any]
    searched: Sequence[Mapping[str, str]] = ()  # rows of `search.csv`
    variants: Sequence[str] = ()

    @property
    def state(self) -> State:
        """The run's state when it was read."""
        return self.status.state

    @property
    def state_text(self) -> str:
        """The state, with the epoch of a run that is going on."""
        return f"{self.state} {epoch_text(self.progress)}".strip()


@dataclass(frozen=True)
class Estimate:
    """A metric over seeds, as fraction. `low` and `high` are a confidence interval where there is one."""

    values: Sequence[float]
    low: float | None = None
    high: float | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample's standard deviation; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """The runs of one setting, or a published number (with `label`)."""

    settings: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    runs: Sequence[Run] = ()
    label: str | None = None
    is_reference: bool = False  # other rows are held against it

    @property
    def state(self) -> str:
        """Empty when all runs have finished, else how many are in which state."""
        states = Counter(run.state for run in self.runs)
        if set(states) <= {"finished"}:
            return ""
        if len(self.runs) == 1:
            return self.runs[0].state_text
        return ", ".join(f"{count} {state}" for state, count in states.items())


@dataclass(frozen=True)
class Other:
    """A run of the folder that the report is not about, and its settings that keep it out."""

    run: Run
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """What the measured numbers are held against; see the module."""

    source: str = ""
    settings: str = ""
    finding: str = ""
    best_at: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def sentence(self) -> str:
        """Source, settings and finding; empty when nothing is given."""
        settings = f" ({self.settings})" if self.settings else ""
        parts = [part for part in (self.source + settings, self.finding) if part]
        return f"Published: {': '.join(parts)}.".replace("..", ".") if parts else ""


@dataclass(frozen=True)
class Report:
    """All that is shown of a sweep, in no format yet."""

    folder: Path
    title: str
    facts: Mapping[str, str]  # scale, data, device, date, versions
    axis: str | None
    axis_label: str
    metric: str
    columns: Sequence[str]
    keys: Mapping[str, str]  # the config keys that differ between runs, with the words they are called
    rows: Sequence[Row]
    published: Published
    published_rows: Sequence[Row] = ()
    profile: str | None = None
    against: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[Run] = ()
    others: Sequence[Other] = ()

    @property
    def several_seeds(self) -> bool:
        """Whether any setting was run more than once."""
        return any(len(row.runs) > 1 for row in self.rows)

    @property
    def held(self) -> Mapping[str, Any]:
        """What `against` asks for, where rows differ in it."""
        return {key: value for key, value in self.against.items() if key in self.keys}

    @property
    def against_sentence(self) -> str:
        """What Δ is the difference to; empty where there is nothing to be held against."""
        references = sum(row.is_reference for row in self.rows)
        values = [f"{self.keys[key]} {value_text(value)}" for key, value in self.held.items()]
        base = values[0] if len(values) == 1 else f"the row marked reference ({', '.join(values)})"
        return f"{GAIN}: against {base}{', all else alike' if references > 1 else ''}." if references else ""

    def best(self, column: str) -> float | None:
        """The best mean of a column among the measured rows; None if they do not differ."""
        means = [row.estimates[column].mean for row in self.rows if column in row.estimates]
        best = unit(column).best
        return None if best is None or len(set(means)) < 2 else max(means) if best == "highest" else min(means)

    @property
    def profile_columns(self) -> Sequence[str]:
        """The columns that the figure shows beside each other; none where it shows the metric."""
        return [name for name in self.columns if self.profile and name.startswith(f"{self.profile}/")]


def build(folder: Path, node: Mapping[str, Any] | None = None) -> Report:
    """Reads a sweep's folder.

    Args:
        folder: of the sweep.
        node: the config's `report` as plain containers; without it the one of the run that was started last.

    Raises:
        FileNotFoundError: no run has been started there.
        ValueError: a run's file is damaged, or `report` has an unknown key; the message names it.
    """
    found = read_runs(folder)
    if not found:
        raise FileNotFoundError(f"no runs in {folder}: start them with python -m pose_lab.run experiment=NAME")
    listed = _listed(folder, found)
    found = list({run.name: run for run in [*listed, *found]}.values())
    node = node if node is not None else max(listed, key=lambda run: run.status.started or 0).report
    published = _published(node.get("published") or {})
    axis, metric = node.get("axis"), node.get("metric") or "AP"
    runs, others = _parted(found, listed, axis)
    searched = bool(node.get("search"))
    parts = [part for run in runs for part in _parts(run)]
    keys = SEARCH_KEYS if searched else _named(_differing(parts, axis), axis)
    columns = _columns([*(node.get("columns") or []), metric], parts)
    rows, against = _rows(parts, list(keys), columns), node.get("against") or {}
    if against:
        gaining = [name for name in columns if name == metric or unit(name).name == "ms"]
        rows = _with_gains(rows, against, gaining)
        columns = [part for name in columns for part in ([name, f"{GAIN}{name}"] if name in gaining else [name])]
    return Report(
        folder=folder,
        title=node.get("title") or folder.parent.name,
        facts=_facts(folder, runs),
        axis=axis,
        axis_label=node.get("axis_label") or (keys.get(axis, "") if axis else ""),
        metric=metric,
        columns=columns,
        keys=keys,
        rows=_searched_rows(runs, columns) if searched else rows,
        published=published,
        published_rows=[_published_row(row, axis, columns) for row in published.rows],
        profile=node.get("profile"),
        against=against,
        failed=[run for run in runs if run.state == "failed"],
        others=others,
    )


def _columns(wanted: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The wanted columns, a pattern with a `*` replaced by what the runs have of that kind; each once."""
    found = list(dict.fromkeys(name for run in runs for name in run.metrics))
    lists = [fnmatch.filter(found, name) if "*" in name else [name] for name in wanted]
    return list(dict.fromkeys(name for names in lists for name in names))


def read_runs(folder: Path) -> list[Run]:
    """All runs of a sweep whose config is written, by name."""
    settings = _Settings()
    return [_read_run(RunFolder(path.parent), settings) for path in sorted(folder.glob("*/config.yaml"))]


class _Settings:
    """What decides results, by dotted key; the parts that configs share are looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Any, dict[str, Any]]] = {}  # the value is kept, so that its id stays

    def of(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Of a run's config."""
        settings: dict[str, Any] = {}
        for key, value in content.items():
            place = (key, id(value))
            if place not in self._known:
                self._known[place] = (value, flat(deciding_part({key: value})))
            settings |= self._known[place][1]
        return settings


def _read_run(folder: RunFolder, known: _Settings) -> Run:
    content, status = folder.config(), folder.status()
    finished = status.state == "finished"
    progress = folder.progress() if status.state == "running" else {}
    metrics = folder.metrics() if finished else {}
    settings = known.of(content)
    settings = {f"{ABOUT}{name}": text for name, text in _about(content).items()} | settings
    node = content.get("report") or {}
    searched = read_table(folder.search) if node.get("search") else ()
    variants = tuple(map(str, content.get("variants") or ()))
    return Run(folder.name, status, settings, metrics, progress, node, searched, variants)


def _parts(run: Run) -> list[Run]:
    """The run's variants as runs of their own; the run itself where it has none."""
    numbers = run.metrics.get("variants", {})
    parts = [
        replace(run, settings={**run.settings, VARIANT: name}, metrics={**run.metrics, **numbers.get(name, {})})
        for name in run.variants
    ]
    return parts or [run]


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a config calls the parts of its method."""
    return dict((content.get("method") or {}).get("about") or {})


def flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    result: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{above}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return result


def _listed(folder: Path, runs: Sequence[Run]) -> list[Run]:
    """The runs of the sweep that was started last, in its order; all where there was none, or nothing is left of it."""
    plan, named = folder / PLAN, {run.name: run for run in runs}
    names = dict.fromkeys(run["folder"] for run in read_json(plan)["runs"]) if plan.exists() else ()
    return [named[name] for name in names if name in named] or list(runs)


def _parted(runs: Sequence[Run], listed: Sequence[Run], axis: str | None) -> tuple[list[Run], list[Other]]:
    """The runs that the report is about, and the others with what sets them apart from the listed run next to them."""
    kept, others, names = [], [], {run.name for run in listed}
    for run in runs:
        # most runs are listed; to hold each of them against each other one would take long for a thousand
        changes = [] if run.name in names else min((_changed(one, run, axis) for one in listed), key=len)
        if changes:
            others.append(Other(run, {key: run.settings.get(key) for key in changes}))
        else:
            kept.append(run)
    return kept, others


def _changed(one: Run, other: Run, axis: str | None) -> list[str]:
    """The keys of two runs that differ, but for the seed, the axis and the keys that follow these."""
    keys = dict.fromkeys([*one.settings, *other.settings])
    pairs = {key: (repr(one.settings.get(key)), repr(other.settings.get(key))) for key in keys}
    free = [pair for key, pair in pairs.items() if key in (SEED, axis)]
    return [key for key, pair in pairs.items() if pair[0] != pair[1] and pair not in free]


def _differing(runs: Sequence[Run], axis: str | None) -> list[str]:
    """The keys that not all runs have the same value of: without the seed, and without keys that follow another one.

    A key follows the seed, the axis or an earlier key if it has that one's value in each of the runs.
    """
    keys = dict.fromkeys([SEED, *([axis] if axis else []), *(key for run in runs for key in run.settings)])
    values = {key: tuple(repr(run.settings.get(key)) for run in runs) for key in keys}
    first = {column: key for key, column in reversed(values.items()) if len(set(column)) > 1}
    differing = [key for key in keys if key != SEED and first.get(values[key]) == key]
    about = [values[key] for key in differing if key.startswith(ABOUT)]
    free = [key for key in differing if key == axis or key.startswith(ABOUT)]
    return [key for key in differing if key in free or not any(_follows(values[key], column) for column in about)]


def _follows(column: Sequence[str], other: Sequence[str]) -> bool:
    """Whether runs that are alike in the other column are alike in this one."""
    return len(set(zip(column, other, strict=True))) == len(set(other))


def _named(keys: Sequence[str], axis: str | None) -> dict[str, str]:
    """Each key with its last word, or the whole key where two end alike; the axis comes first."""
    ordered = sorted(dict.fromkeys([*([axis] if axis else []), *keys]), key=lambda key: key != axis)
    last = Counter(key.rsplit(".", 1)[-1] for key in ordered)
    return {key: word if last[word := key.rsplit(".", 1)[-1]] == 1 else key for key in ordered}


def _rows(runs: Sequence[Run], keys: Sequence[str], columns: Sequence[str]) -> list[Row]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr([run.settings.get(key) for key in keys]), []).append(run)
    rows = [_row(group, keys, columns) for group in groups.values()]
    return sorted(rows, key=lambda row: [_order(row.settings[key]) for key in keys])


def _row(runs: Sequence[Run], keys: Sequence[str], columns: Sequence[str]) -> Row:
    # -1 is how COCO says that a number is undefined, such as AP of large people where there are none
    values = {name: [v for run in runs if (v := run.metrics.get(name, -1)) != -1] for name in (*columns, "seconds")}
    estimates = {name: Estimate(found) for name, found in values.items() if found}
    return Row({key: runs[0].settings.get(key) for key in keys}, estimates, runs)


def _with_gains(rows: Sequence[Row], against: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    """The rows with what each gains over its reference: the one with the values of `against`, like it otherwise.

    A reference stands first among the rows that are held against it.
    """
    known = {repr(row.settings): row for row in rows}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        wanted = repr({key: against.get(key, value) for key, value in row.settings.items()})
        base = known.get(wanted)
        if base is row:
            groups.setdefault(wanted, []).insert(0, replace(row, is_reference=True))
            continue
        bases = base.estimates if base else {}
        both = [name for name in columns if name in row.estimates and name in bases]
        gains = {f"{GAIN}{name}": Estimate([row.estimates[name].mean - bases[name].mean]) for name in both}
        groups.setdefault(wanted, []).append(replace(row, estimates={**row.estimates, **gains}))
    return [row for group in groups.values() for row in group]


def _searched_rows(runs: Sequence[Run], columns: Sequence[str]) -> list[Row]:
    """The settings that the runs' searches tried alone, over seeds; first the configured one, last the best of all."""
    groups: dict[tuple[str, Any], list[Mapping[str, str]]] = {}
    for run in runs:
        for row in run.searched:
            if row["step"] != "ascent":
                value = ast.literal_eval(row[row["field"]]) if row["field"] else None
                groups.setdefault((row["field"] or "as configured", value), []).append(row)
    rows = [_searched_row(name, value, found, columns) for (name, value), found in groups.items()]
    return rows + [_best_row(run, columns) for run in runs if run.metrics.get("search_at")]


def _searched_row(name: str, value: Any, found: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Row:
    values = {column: [float(row[column]) for row in found if column in row] for column in columns}
    estimates = {column: Estimate(numbers) for column, numbers in values.items() if numbers}
    return Row(dict(zip(SEARCH_KEYS, (name, value), strict=True)), estimates)


def _best_row(run: Run, columns: Sequence[str]) -> Row:
    """Where a run's ascent ended."""
    best = run.metrics["search_at"]
    configured = {name: run.settings.get(f"method.inference.{name}") for name in best}
    moved = [f"{name} {value_text(value)}" for name, value in best.items() if value != configured[name]]
    at = [row for row in run.searched if all(ast.literal_eval(row[name]) == value for name, value in best.items())]
    return _searched_row("best together", ", ".join(moved) or "as configured", at[:1], columns)


def _published_row(row: Mapping[str, Any], axis: str | None, columns: Sequence[str]) -> Row:
    estimates = {name: Estimate([row[name] / unit(name).factor]) for name in columns if row.get(name) is not None}
    return Row({axis: row.get("at")} if axis else {}, estimates, label=f"{row.get('label') or ''} (published)".strip())


def _published(node: Mapping[str, Any]) -> Published:
    unknown = set(node) - set(Published.__dataclass_fields__)
    if unknown:
        known = ", ".join(Published.__dataclass_fields__)
        raise ValueError(f"report.published has no key {sorted(unknown)}: it has {known}")
    return Published(**{key: value for key, value in node.items() if value is not None})


def _order(value: Any) -> tuple[int, float]:
    """Numbers by size, before words, which stay in their order."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value)) if is_number else (1, 0.0)


def _facts(folder: Path, runs: Sequence[Run]) -> dict[str, str]:
    scale, _, data = folder.name.partition("-")
    ended = max((run.status.ended or 0 for run in runs), default=0)
    versions = [f"{name} {found}" for name in VERSIONS if (found := _recorded(runs, name))]
    states = Counter(run.state for run in runs)
    facts = {
        "scale": scale,
        "data": data,
        "device": _recorded(runs, "device"),
        "runs": ", ".join(f"{count} {state}" for state, count in states.items()),
        "date": time.strftime("%Y-%m-%d", time.localtime(ended)) if ended else "",
        "versions": ", ".join(versions),
        "commit": _recorded(runs, "commit"),
    }
    return {name: text for name, text in facts.items() if text}


def _recorded(runs: Sequence[Run], name: str) -> str:
    """What the runs wrote down under a name; several values where they did not all run alike."""
    return " and ".join(dict.fromkeys(str(run.metrics[name]) for run in runs if run.metrics.get(name)))
