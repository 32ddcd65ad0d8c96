import csv
import io
import re
import shutil
import subprocess

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from pose_lab import compare
from pose_lab.runs.folder import RunFolder, Status
from pose_lab.runs.formats import cells, latex, markdown, show, table_csv, write
from pose_lab.runs.report import build

PUBLISHED = {
    "source": "Some & Others 2022, Figure 5",
    "settings": "COCO val2017, 1280 px",
    "finding": "best near 5 %",
    "best_at": 0.05,
    "rows": [{"label": "Net-S", "at": 0.05, "AP": 63.0}, {"label": "Net-L", "AP": 70.3}],
}
NODE = {
    "title": "Box size",
    "axis": "method.box",
    "axis_label": "box / width",
    "metric": "AP",
    "columns": ["AP", "AP50"],
    "published": PUBLISHED,
}


def add_run(folder, box, seed=0, ap=None, state="finished", **changes):
    run = RunFolder(folder / f"box-{box}-seed-{seed}-{len(list(folder.glob('*'))):08x}")
    content = {"name": "boxes", "scale": "demo", "seed": seed, "results": "/anywhere", "data": {"name": "synth"}}
    run.write_config(OmegaConf.create(content | {"method": {"box": box, "lr": 0.1}, "report": NODE} | changes))
    run.write_status(Status(state, started=1.0, ended=1e9, error="ValueError: NaN" if state == "failed" else None))
    if ap is not None:
        run.write_metrics({"AP": ap, "AP50": 2 * ap, "seconds": 75, "device": "CPU", "torch": "2.14"})
    return run


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "boxes" / "demo-synth"
    for seed in (0, 1):
        add_run(folder, 0.05, seed, 0.4 + 0.02 * seed)
        add_run(folder, 0.1, seed, 0.3)
    add_run(folder, 0.01, 0, 0.2)
    add_run(folder, 0.01, 1, state="failed")
    add_run(folder, 0.025, 0, state="queued")
    return folder


def test_runs_are_grouped_by_everything_but_the_seed(folder):
    report = build(folder)
    assert list(report.keys.items()) == [("method.box", "box")]
    assert [row.settings["method.box"] for row in report.rows] == [0.01, 0.025, 0.05, 0.1]
    header, rows = cells(report, lambda text: f"*{text}*")
    assert header == ["", "box", "AP", "AP50", "n", "time", "state"]
    assert rows == [
        ["", "0.01", "20.0", "40.0", "1", "1:15", "1 finished, 1 failed"],
        ["", "0.025", "", "", "0", "", "queued"],
        ["", "0.05", "*41.0 ± 1.4*", "*82.0 ± 2.8*", "2", "1:15", ""],
        ["", "0.1", "30.0 ± 0.0", "60.0 ± 0.0", "2", "1:15", ""],
        ["Net-S (published)", "0.05", "63.0", "", "", "", ""],
        ["Net-L (published)", "", "70.3", "", "", "", ""],
    ]


def test_the_header_says_what_was_run(folder):
    facts = build(folder).facts
    assert (facts["scale"], facts["data"], facts["device"]) == ("demo", "synth", "CPU")
    assert facts["date"].startswith("2001-09-0")
    assert "torch 2.14" in facts["versions"]


def test_keys_that_end_alike_are_written_out_and_paths_are_no_difference(tmp_path):
    add_run(tmp_path, 0.1, ap=0.1, head={"lr": 1}, results="/a")
    add_run(tmp_path, 0.1, ap=0.2, head={"lr": 2}, method={"box": 0.1, "lr": 0.2}, results="/b")
    report = build(tmp_path)
    assert report.keys == {"method.box": "box", "method.lr": "method.lr", "head.lr": "head.lr"}


def test_csv_holds_full_precision(folder):
    rows = list(csv.DictReader(io.StringIO(table_csv(build(folder)))))
    best = next(row for row in rows if row["method.box"] == "0.05")
    assert (best["source"], best["AP"], best["n"]) == ("measured", "0.41000000000000003", "2")
    assert float(best["AP_std"]) == pytest.approx(0.02 / 2**0.5)
    assert best["AP_low"] == ""
    assert [float(row["AP"]) for row in rows if row["source"] == "published"] == [0.63, 0.703]


def test_markdown_marks_the_best_and_names_failures_and_source(folder):
    page = markdown(build(folder))
    assert "| **41.0 ± 1.4** |" in page
    assert "failed: ValueError: NaN" in page
    assert "Published: Some & Others 2022, Figure 5 (COCO val2017, 1280 px): best near 5 %." in page


def test_latex_is_escaped_and_compiles_where_it_can(folder, tmp_path):
    text = latex(build(folder))
    assert r"\textbf{41.0 $\pm$ 1.4}" in text
    assert r"Some \& Others 2022" in text
    assert r"near 5 \%" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    if shutil.which("pdflatex"):
        page = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
        (tmp_path / "a.tex").write_text(page)
        subprocess.run(["pdflatex", "-interaction=batchmode", "a.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_equal_runs_give_equal_files(folder):
    first = {path.name: path.read_bytes() for path in write(build(folder))}
    assert set(first) == {"report.md", "report.csv", "report.tex", "report.png", "report.svg"}
    assert {path.name: path.read_bytes() for path in write(build(folder))} == first
    svg = first["report.svg"].decode()
    assert all(words in svg for words in ("Box size", "box / width", "published best", "right axis"))


@pytest.mark.parametrize(
    "node", [NODE | {"axis": None}, NODE | {"axis": "method.kind"}, {"axis": "method.lr", "published": None}, {}]
)
def test_every_kind_of_axis_is_drawn(folder, node):
    add_run(folder, 0.05, 5, 0.5, method={"box": 0.05, "lr": 0.1, "kind": "wide"})
    assert len(write(build(folder, node))) == 5


def test_without_a_finished_run_there_is_a_table_and_no_figure(tmp_path):
    run = add_run(tmp_path, 0.1, state="queued")
    assert [path.name for path in write(build(tmp_path))] == ["report.md", "report.csv", "report.tex"]
    with run.training():
        run.write_progress({"epoch": 3, "epochs": 40})
        assert build(tmp_path).rows[0].state == "running 3/40"


def test_without_runs_the_message_says_how_to_start_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no runs in .*: start them with"):
        build(tmp_path)


def test_a_damaged_file_and_an_unknown_key_are_named(folder):
    with pytest.raises(ValueError, match=r"report\.published has no key \['sauce'\]"):
        build(folder, {"published": {"sauce": "x"}})
    broken = next(folder.glob("*/metrics.json"))
    broken.write_text('{"AP": ')
    with pytest.raises(ValueError, match=f"{re.escape(str(broken))} is not valid JSON"):
        build(folder)


def test_the_terminal_table_fits(folder):
    screen = Console(width=100, record=True, file=io.StringIO())
    show(build(folder), screen)
    text = screen.export_text()
    assert "Box size" in text
    assert "41.0 ± 1.4" in text


def test_compare_takes_a_folder_and_its_errors_are_short(folder, tmp_path, capsys):
    compare.main([str(folder)])
    assert "report.svg" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as leaving:
        compare.main([str(tmp_path / "empty")])
    assert leaving.value.code == 1
    assert capsys.readouterr().err.startswith("error: no runs in")
    with pytest.raises(SystemExit):
        compare.main(["experiment=no_such"])
    assert "Could not find 'experiment/no_such'" in capsys.readouterr().err
