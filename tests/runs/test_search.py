"""A search over the post-processing: what it tries, what it keeps, and how it goes on after a stop."""

import csv
import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from pose_lab.runs import search as searching
from pose_lab.runs.figure import draw
from pose_lab.runs.folder import RunFolder, Status
from pose_lab.runs.formats import markdown, write
from pose_lab.runs.report import build
from pose_lab.runs.search import Search, Table
from pose_lab.runs.train import train
from tests.configs import TINY, composed

VALUES = {"pose_confidence": [0.0, 0.001], "fusion_distance": [5, 20]}
SEARCH = (
    "search={values: {pose_confidence: [0.0, 0.001], fusion_distance: [5, 20]}, stored_with: {pose_confidence: 0.0}, "
    "metric: AP, rounds: 1}"
)


def settings(**changes):
    return replace(Search(VALUES, {}, "AP", 1), **changes)


def hill(top):
    """A metric that falls with the distance from its top, and the points it was asked for."""
    asked = []

    def measure(step, name, point):
        asked.append((step, name, point))
        return -sum(abs(a - b) for a, b in zip(point, top, strict=True))

    return measure, asked


def test_each_field_is_tried_alone_and_the_best_values_are_kept():
    measure, asked = hill((0.001, 20))
    assert settings().best((0.5, 10), measure) == (0.001, 20)
    alone = [(name, point) for step, name, point in asked if step == "alone"]
    assert alone == [
        ("pose_confidence", (0.0, 10)),
        ("pose_confidence", (0.001, 10)),
        ("fusion_distance", (0.5, 5)),
        ("fusion_distance", (0.5, 20)),
    ]


def test_a_field_that_gains_nothing_stays_where_it_is():
    measure, _ = hill((0.5, 10))
    assert settings(rounds=3).best((0.5, 10), measure) == (0.5, 10)


def test_nothing_to_try_is_refused():
    with pytest.raises(ValueError, match=r"search\.values\.pose_iou is empty"):
        Search({"pose_iou": []}, {}, "AP", 1)


def test_the_table_remembers_across_processes(tmp_path):
    table = Table(tmp_path / "search.csv", ["a", "b"], writes=True)
    table.add("alone", "a", (0.5, 10), {"AP": 0.25})
    again = Table(tmp_path / "search.csv", ["a", "b"], writes=True)
    assert again.has("alone", "a", (0.5, 10))
    assert not again.has("ascent", "a", (0.5, 10))
    assert again.numbers((0.5, 10)) == {"AP": 0.25}
    assert again.numbers((0.5, 11)) == {}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    results, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    cfg = composed(*TINY, "training.epochs=1", SEARCH, "report={title: T, search: true}", results=results, cache=cache)
    return cfg, train(cfg)


def test_a_run_trains_evaluates_and_searches(searched):
    _, folder = searched
    metrics, rows = folder.metrics(), list(csv.DictReader(folder.search.open()))
    assert metrics["search_best"] >= metrics["search_configured"] == pytest.approx(metrics["AP"])
    assert set(metrics["search_at"]) == set(VALUES)
    assert [row["step"] for row in rows][:5] == ["configured", *["alone"] * 4]
    assert not (folder.path / "candidates").exists() or not list((folder.path / "candidates").glob("*/*"))


def test_the_stored_candidates_give_what_the_network_gives(searched):
    _, folder = searched
    rows = {row["step"]: row for row in csv.DictReader(folder.search.open())}
    assert float(rows["configured"]["AP50"]) == pytest.approx(folder.metrics()["AP50"])
    assert float(rows["configured"]["AR"]) == pytest.approx(folder.metrics()["AR"])


def test_a_search_that_was_stopped_goes_on_after_its_last_row(searched, monkeypatch):
    cfg, folder = searched
    before = folder.search.read_text().splitlines()
    folder.search.write_text("\n".join(before[:4]) + "\n")
    (folder.path / "metrics.json").unlink()
    (folder.path / "status.json").write_text(json.dumps({"state": "interrupted"}))
    evaluated, original = [], searching._evaluated
    monkeypatch.setattr(searching, "_evaluated", lambda *given: evaluated.append(1) or original(*given))
    train(cfg)
    assert folder.search.read_text().splitlines() == before
    assert 0 < len(evaluated) < len(before) - 3


def test_the_report_of_a_search_has_its_settings_as_rows(searched):
    _, folder = searched
    report = build(folder.path.parent)
    fields = [row.settings["field"] for row in report.rows]
    assert (fields[0], fields[-1]) == ("as configured", "best together")
    assert "| fusion_distance | 20 |" in markdown(report)
    assert any(path.suffix == ".png" and path.stat().st_size for path in write(report))


def searched_by_hand(folder, best):
    """A finished run whose search tried a value more than once, as far as its folder tells."""
    run = RunFolder(folder / "run")
    inference = {"a": 0.5, "b": 10}
    report = {"title": "T", "search": True, "columns": ["AP", "AR"]}
    run.write_config(OmegaConf.create({"name": "n", "method": {"inference": inference}, "report": report}))
    run.write_status(Status("finished", started=1.0, ended=2.0))
    run.write_metrics({"AP": 0.25, "search_best": 0.25, "search_at": dict(zip(inference, best, strict=True))})
    table = Table(run.search, list(inference), writes=True)
    table.add("configured", "", (0.5, 10), {"AP": 0.25, "AR": 0.5})
    for value in range(40):
        table.add("alone", "b", (0.5, value), {"AP": 0.25, "AR": 0.5})
    table.add("ascent", "b", (0.75, 39), {"AP": 0.3, "AR": 0.625})


@pytest.mark.parametrize(
    ("best", "said"),
    [((0.5, 10), "as configured | 25.0 | 50.0 |"), ((0.75, 39), "a 0.75, b 39 | **30.0** | **62.5** |")],
)
def test_the_best_values_together_have_all_numbers(tmp_path, best, said):
    searched_by_hand(tmp_path / "demo-synth", best)
    assert f"| best together | {said}" in markdown(build(tmp_path / "demo-synth"))


def test_a_search_of_many_values_is_no_taller_figure(tmp_path):
    searched_by_hand(tmp_path / "demo-synth", (0.5, 10))
    report = build(tmp_path / "demo-synth")
    assert len(report.rows) == 42
    assert draw(report).get_figheight() == draw(replace(report, rows=report.rows[:3])).get_figheight() < 6


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{values: {pose_iuo: [0.5]}, stored_with: {}, metric: AP, rounds: 1}", "search names pose_iuo"),
        ("{values: {pose_iou: [1.5]}, stored_with: {}, metric: AP, rounds: 1}", r"inference\.pose_iou is 1\.5"),
        (
            "{values: {pose_confidence: [1e-5]}, stored_with: {pose_confidence: 0.01}, metric: AP, rounds: 1}",
            "do not serve",
        ),
        (
            "{values: {pose_confidence: [0.1]}, stored_with: {pose_confidence: 0.05}, metric: AP, rounds: 1}",
            "do not serve {'pose_confidence': 0}",
        ),
        ("{values: {pad: [0.0]}, stored_with: {}, metric: AP, rounds: 1}", "do not serve .*pad"),
        ("{values: {pose_iou: [0.5]}, stored_with: {}, metric: AP, round: 1}", "search: .*'round'"),
    ],
)
def test_wrong_names_and_values_are_refused_before_training(searched, tmp_path, node, message):
    cfg, _ = searched
    cfg = composed(*TINY, "training.epochs=1", f"search={node}", results=tmp_path, cache=cfg.machine.cache)
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert not list(tmp_path.iterdir())


def test_an_unknown_metric_is_named(searched):
    cfg, folder = searched
    cfg = cfg.copy()
    cfg.search.metric, cfg.training.epochs, cfg.checkpoint = "APX", 0, str(folder.path)
    with pytest.raises(ValueError, match=r"search\.metric is 'APX'; there are: AP, AP50"):
        train(cfg)
