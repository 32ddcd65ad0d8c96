import csv
import io
import itertools
import json
import re
import shutil
import subprocess

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from pose_lab import compare
from pose_lab.runs.figure import draw
from pose_lab.runs.folder import RunFolder, Status
from pose_lab.runs.formats import cells, latex, markdown, show, table_csv, write
from pose_lab.runs.report import build
from tests.configs import composed

KEYPOINT_BOX = "method.labels.keypoint_box"

PUBLISHED = {
    "source": "Some & Others 2022, Figure 5",
    "settings": "COCO val2017, 1280 px",
    "finding": "best near 5 %",
    "best_at": 0.05,
    "rows": [{"label": "Net-S", "at": 0.05, "AP": 63.0}, {"label": "Net-L", "AP": 70.3}],
}
VERSIONS = {"pose_lab": "0.0.7", "torch": "2.14", "lightning": "2.6", "python": "3.98", "commit": "abc1234"}
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
        run.write_metrics({"AP": ap, "AP50": 2 * ap, "seconds": 75, "device": "CPU", **VERSIONS})
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
    assert header == ["", "box", "AP", "AP50", "n", "trained", "state"]
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
    assert facts["versions"] == "pose_lab 0.0.7, torch 2.14, lightning 2.6, python 3.98"
    assert facts["commit"] == "abc1234"


def test_the_header_names_each_device_and_version_of_the_runs(folder):
    changed = add_run(folder, 0.2, 0, 0.3)
    changed.write_metrics({"AP": 0.3, "device": "GPU", "torch": "2.15"})
    facts = build(folder).facts
    assert facts["device"] == "CPU and GPU"
    assert "torch 2.14 and 2.15, lightning 2.6," in facts["versions"]
    for metrics in folder.glob("*/metrics.json"):
        metrics.write_text('{"AP": 0.3}')
    assert not {"device", "versions", "commit"} & set(build(folder).facts)


def real_run(folder, box, seed, *overrides, ap):
    """A run of the shipped experiment, as far as its folder tells."""
    changes = [f"method.labels.keypoint_box={box}", f"seed={seed}", *overrides]
    run = RunFolder(folder / f"{box}-{seed}-{len(overrides)}")
    run.write_config(composed("experiment=kapao_bs_sweep", "hydra.mode=RUN", *changes))
    run.write_status(Status("finished", started=1.0, ended=2.0))
    run.write_metrics({"AP": ap, "seconds": 1})
    return run


def start_sweep(folder, *runs):
    content = {"started": 0.0, "arguments": [], "runs": [{"folder": run.name, "command": []} for run in runs]}
    (folder / "sweep.json").write_text(json.dumps(content))


def test_seeds_of_the_shipped_sweep_are_one_row(tmp_path):
    for box, seed, ap in [(0.05, 0, 0.30), (0.05, 1, 0.34), (0.1, 0, 0.20), (0.1, 1, 0.22)]:
        real_run(tmp_path, box, seed, ap=ap)
    report = build(tmp_path)
    assert list(report.keys.values()) == ["keypoint_box"]
    assert [len(row.runs) for row in report.rows] == [2, 2]
    assert "| 0.05 | **32.0 ± 2.8** | 2 |" in markdown(report)


def test_a_key_that_follows_another_one_makes_no_difference(tmp_path):
    for size in (64, 128):
        real_run(tmp_path, size / 1000, 0, f"data.image_size={size}", f"method.image_size={size}", ap=0.1)
    assert list(build(tmp_path, {"axis": "method.image_size"}).keys) == ["method.image_size", KEYPOINT_BOX]
    assert len(build(tmp_path, {}).keys) == 2


def test_runs_that_the_sweep_did_not_ask_for_are_named_below_its_table(tmp_path):
    listed = [real_run(tmp_path, box, 0, ap=box) for box in (0.01, 0.05)]
    real_run(tmp_path, 0.1, 0, ap=0.4)  # an earlier sweep's box
    real_run(tmp_path, 0.05, 1, ap=0.3)  # an earlier sweep's seed
    real_run(tmp_path, 0.05, 2, "training.limit_batches=2", ap=0.01)
    start_sweep(tmp_path, *listed)
    report = build(tmp_path)
    assert list(report.keys) == [KEYPOINT_BOX]
    assert [len(row.runs) for row in report.rows] == [1, 2, 1]
    assert report.facts["runs"] == "4 finished"
    line = "0.05-2-1: finished, AP 1.0, training.limit_batches=2"
    assert f"## Other runs in this folder\n\n- {line}\n" in markdown(report)
    assert "limit_batches" not in table_csv(report) + latex(report)
    screen = Console(width=100, record=True, file=io.StringIO())
    show(report, screen)
    assert f"Other runs in this folder\n{line}" in screen.export_text()


def test_a_run_of_another_recipe_is_named_with_its_first_differences(tmp_path):
    run = add_run(tmp_path, 0.05, ap=0.4)
    add_run(tmp_path, 0.05, ap=0.2, old=dict.fromkeys("abcdef", 1))
    start_sweep(tmp_path, run)
    assert "AP 20.0, old.a=1, old.b=1, old.c=1, old.d=1, 2 more" in markdown(build(tmp_path))


def test_a_plan_whose_runs_are_gone_says_nothing(folder):
    start_sweep(folder, RunFolder(folder / "gone"))
    assert len(build(folder).rows) == 4
    assert not build(folder).others


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
    said = ("Box size", "box / width", "published best", "right axis", ">41.0<", "over 1 to 2 seeds")
    assert all(words in svg for words in said)


@pytest.mark.parametrize(
    "node", [NODE | {"axis": None}, NODE | {"axis": "method.kind"}, {"axis": "method.lr", "published": None}, {}]
)
def test_every_kind_of_axis_is_drawn(folder, node):
    add_run(folder, 0.05, 5, 0.5, method={"box": 0.05, "lr": 0.1, "kind": "wide"})
    assert len(write(build(folder, node))) == 5


@pytest.mark.parametrize("precisions", [(0.0, 0.0, 0.0), (0.0, 0.0002, 0.0001), (0.0, 0.4, 0.2)])
def test_the_axis_of_the_metric_never_goes_below_zero(tmp_path, precisions):
    for box, precision in zip((0.01, 0.05, 0.1), precisions, strict=True):
        add_run(tmp_path / "boxes" / "demo-synth", box, 0, precision)
    (axes, *_) = draw(build(tmp_path / "boxes" / "demo-synth", {**NODE, "published": None})).axes
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top >= max(1, 100 * max(precisions))
    assert all("." not in text or len(text.partition(".")[2]) <= 1 for text in tick_texts(axes))


@pytest.mark.parametrize("precision", [0.0, 0.3])
def test_published_numbers_are_bars_below_ours(tmp_path, precision):
    rows = [{"label": "small", "AP": 41.0}, {"label": "no AP", "AP50": 60.0}]
    published = {"source": "A et al.", "settings": "COCO", "rows": rows}
    add_run(tmp_path / "boxes" / "demo-synth", 0.05, 0, precision)
    for node in ({"published": published}, {"published": None}):
        (axes,) = draw(build(tmp_path / "boxes" / "demo-synth", {**NODE, "axis": None, **node})).axes
        shown = [100 * precision, 41.0] if node["published"] else [100 * precision]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(shown)
        assert ("small (published)" in tick_texts(axes)) == (node["published"] is not None)
        left, right = axes.get_xlim()
        assert left == 0
        assert right >= max(1, *shown)


def tick_texts(axes):
    axes.figure.draw_without_rendering()
    return [label.get_text() for label in axes.get_yticklabels()]


def test_without_a_finished_run_there_is_a_table_and_no_figure(tmp_path):
    run = add_run(tmp_path, 0.1, state="queued")
    assert [path.name for path in write(build(tmp_path))] == ["report.md", "report.csv", "report.tex"]
    with run.training():
        run.write_progress({"epoch": 2, "epochs": 40})
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


@pytest.mark.parametrize(("width", "hidden"), [(80, "AP50, AP75, APM, APL, AR"), (120, "AR"), (140, "")])
def test_a_narrow_terminal_gets_fewer_metrics_and_no_folded_rows(folder, width, hidden):
    columns = ["AP", "AP50", "AP75", "APM", "APL", "AR"]
    for metrics in folder.glob("*/metrics.json"):
        metrics.write_text(json.dumps({"seconds": 75} | dict.fromkeys(columns, 0.41)))
    screen = Console(width=width, record=True, file=io.StringIO())
    show(build(folder, NODE | {"columns": columns}), screen)
    lines = screen.export_text().splitlines()
    assert sum("41.0 ± 0.0" in line for line in lines) == 2
    assert [line for line in lines if line.startswith("Too wide")] == (
        [f"Too wide for this screen, in report.md: {hidden}."] if hidden else []
    )


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


def test_undefined_numbers_are_left_out(tmp_path):
    run = real_run(tmp_path, 0.05, 0, ap=0.5)
    run.write_metrics({**run.metrics(), "APL": -1.0})
    text = markdown(build(run.path.parent))
    assert "50.0" in text
    assert "-100" not in text
    assert "APL" not in text


def sized(folder, size, fusion, ap=0.1, **metrics):
    """A run of a method that has sizes and fusion."""
    method = {"about": {"size": size}, "net": {"width": len(size)}, "fusion": fusion, "box": 0.1, "lr": 0.1}
    run = add_run(folder, size, ap=ap, method=method)
    run.write_metrics({"AP": ap, "AP50": 2 * ap, "ms_people": 10 * ap, **metrics})
    return run


@pytest.fixture
def fused(tmp_path):
    """Sizes with and without fusion; the sweep has an order of its own."""
    folder = tmp_path / "fusion" / "demo-synth"
    values = {("S", True): 0.2, ("S", False): 0.1, ("L", True): 0.5, ("L", False): 0.35}
    start_sweep(folder, *(sized(folder, size, fusion, ap) for (size, fusion), ap in values.items()))
    return folder


FUSED = {"columns": ["AP", "ms_people", "AP50"], "against": {"method.fusion": False}}
SAID = "Δ: against fusion False, all else alike."


def test_gains_stand_beside_their_column_and_below_their_reference(fused):
    report = build(fused, FUSED)
    header, rows = cells(report, str)
    assert header == ["", "size", "fusion", "AP", "ΔAP", "people ms", "Δpeople ms", "AP50"]
    assert rows == [
        ["reference", "S", "False", "10.0", "", "1.0", "", "20.0"],
        ["", "S", "True", "20.0", "+10.0", "2.0", "+1.0", "40.0"],
        ["reference", "L", "False", "35.0", "", "3.5", "", "70.0"],
        ["", "L", "True", "50.0", "+15.0", "5.0", "+1.5", "100.0"],
    ]
    assert SAID in markdown(report)
    assert r"$\Delta$: against fusion False" in latex(report)
    lines = list(csv.DictReader(io.StringIO(table_csv(report))))
    assert [(row["source"], row["label"], row["ΔAP"]) for row in lines[:2]] == [
        ("measured", "reference", ""),
        ("measured", "", "0.1"),
    ]
    names = list(lines[0])
    assert names.index("AP") < names.index("ΔAP") < names.index("ms_people") < names.index("Δms_people")


def test_gains_are_what_a_narrow_screen_keeps(fused):
    screen = Console(width=40, record=True, file=io.StringIO())
    show(build(fused, FUSED), screen)
    text = screen.export_text()
    assert "+15.0" in text
    assert "Too wide for this screen, in report.md:" in text
    assert "people ms, Δpeople ms, AP50." in " ".join(text.split())


def test_a_figure_tells_rows_apart_by_what_varies_and_shows_gains(fused):
    figure = draw(build(fused, FUSED))
    (axes,) = figure.axes
    assert tick_texts(axes) == ["S, fusion False", "S, fusion True", "L, fusion False", "L, fusion True"]
    assert [text.get_text() for text in axes.texts] == ["10.0", "20.0 (+10.0)", "35.0", "50.0 (+15.0)"]
    assert SAID in figure.get_supxlabel()


def test_of_several_values_to_be_held_against_only_the_differing_ones_are_named(fused):
    against = {"method.fusion": False, "method.about.size": "L", "method.lr": 0.1}
    report = build(fused, FUSED | {"against": against})
    (axes,) = draw(report).axes
    assert tick_texts(axes) == ["reference", "S, fusion True", "S", "fusion True"]
    assert "Δ: against the row marked reference (fusion False, size L)." in markdown(report)


def test_nothing_is_said_of_a_reference_that_was_not_run(fused):
    report = build(fused, FUSED | {"against": {"method.fusion": None}})
    assert "reference" not in markdown(report)
    assert "Δ" not in markdown(report)


def test_numbers_are_sorted_whatever_the_sweep_s_order(tmp_path):
    runs = [add_run(tmp_path, box, ap=0.1) for box in (0.1, 0.05, "none", 0.01, "auto")]
    start_sweep(tmp_path, *runs)
    assert [row.settings["method.box"] for row in build(tmp_path).rows] == [0.01, 0.05, 0.1, "none", "auto"]


def test_long_names_have_room(tmp_path):
    folder = tmp_path / "n" / "demo-synth"
    for number in range(8):
        add_run(folder, number, ap=0.1, method={"box": 0.1, "lr": 0.1, "kind": f"{number}" * 200})
    figure = draw(build(folder, {"columns": ["AP"]}))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all("\n" in label.get_text() for label in figure.axes[0].get_yticklabels())
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.3, 1.2)])
def test_a_profile_starts_at_zero_and_says_what_it_shows(tmp_path, rates):
    folder = tmp_path / "rates" / "demo-synth"
    run = add_run(folder, 0.1, ap=0.1)
    run.write_metrics({"AP": 0.1, "rate/nose": rates[0], "rate/left_eye": rates[1]})
    node = {"columns": ["AP", "rate/*"], "profile": "rate", "axis_label": None}
    (axes,) = draw(build(folder, node)).axes
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] >= max(rates)
    assert "![rate](report.png)" in markdown(build(folder, node))
    node["axis_label"] = "replaced / labelled"
    assert "![replaced / labelled](report.png)" in markdown(build(folder, node))


def test_published_rows_of_the_shipped_sweep_have_the_names_of_ours(tmp_path):
    folder = tmp_path / "kapao_sizes" / "demo-synth"
    for size in "sml":
        for passes in ("plain", "published"):
            choice = [f"method/kapao_size={size}", f"method/kapao_test_time={passes}"]
            run = RunFolder(folder / f"{size}-{passes}")
            run.write_config(composed("experiment=kapao_sizes", "hydra.mode=RUN", *choice))
            run.write_status(Status("finished", started=1.0, ended=2.0))
            run.write_metrics({"AP": 0.1})
    (axes,) = draw(build(folder)).axes
    names = [" ".join(text.split()) for text in tick_texts(axes)]
    assert len(names) == 12
    assert {f"{name} (published)" for name in names[:6]} == set(names[6:])
