"""The command `pose_lab.evaluate`: official numbers from everybody's results files, and clear words on bad ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pose_lab import evaluate
from pose_lab.data import results
from pose_lab.data.annotations import ReadingRules, load_annotations
from pose_lab.data.results import PART_FIELDS
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.conftest import fixture_path, shared_data

EXPECTED = fixture_path("metrics/ap/expected.json")


def run(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    evaluate.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([str(argument) for argument in arguments])
    assert stopped.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    return output.err


@pytest.fixture
def truth() -> Path:
    return fixture_path("metrics/ap/ground_truth_ids_from_0.json")


@pytest.fixture
def records() -> list[dict]:
    return json.loads(fixture_path("metrics/ap/ids_from_0.json").read_text())


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[object], Path]:
    def store(content: object) -> Path:
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return store


def test_numbers_are_written_under_the_official_names(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "deep" / "numbers.json"
    results = fixture_path("metrics/ap/ids_from_0.json")
    printed = run(capsys, f"gt={truth}", f"dt={results}", "metric=coco", f"out={out}")
    expected = json.loads(EXPECTED.read_text())["ids_from_1"]["expected"]
    assert {name: json.loads(out.read_text())[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    lines = [line for line in printed.splitlines() if "@[" in line]
    assert lines[0] == (
        f" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= 20 ] = {expected['AP']:.3f}"
    )
    assert len(lines) == len(expected)


def test_what_was_ignored_is_named(truth: Path, records: list[dict], stored: Callable, capsys: pytest.CaptureFixture):
    stranger = records[0] | {"image_id": 987654321}
    dog = records[1] | {"category_id": 18}
    many = [records[2] | {"score": -1.0}] * 30
    path = stored([*records, stranger, dog, *many])
    printed = run(capsys, f"gt={truth}", f"dt={path}", "metric=coco", "unknown_images=skip")
    assert " 1 results of images without annotations" in printed
    assert " 1 results of another category than person" in printed
    assert "detections beyond the 20 best of a picture" in printed


def test_dropping_on_the_way_what_cannot_count_changes_nothing(
    truth: Path, records: list[dict], stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
):
    levels = np.random.default_rng(0).integers(0, 5, 40 * len(records)) / 4
    many = [records[n % len(records)] | {"score": score} for n, score in enumerate(levels.tolist())]
    path, kept = stored(many), {}
    for start in (1 << 16, 1):
        monkeypatch.setattr(results, "SURPLUS_FROM", start)
        monkeypatch.setattr(results, "RECORDS_AT_A_TIME", 64)
        out = tmp_path / f"{start}.npz"
        arguments = ("metric=coco", "by=keypoint", f"matches={out}")
        printed = run(capsys, f"gt={truth}", f"dt={path}", *arguments)
        with np.load(out) as matches:
            kept[start] = (printed, matches["record"].tolist(), matches["person"].tolist())
    assert kept[1] == kept[1 << 16]
    assert len(kept[1][1]) < len(many)
    annotations = load_annotations(truth, ReadingRules(COCO), tmp_path / "cache")
    few = results.read_results(path, annotations, COCO, most=20)
    assert len(few.records) + few.surplus == len(many)
    assert few.surplus > 0


def test_tables_by_keypoint_and_by_people(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "numbers.json"
    results = fixture_path("metrics/ap/ids_from_0.json")
    printed = run(capsys, f"gt={truth}", f"dt={results}", "metric=coco", "by=keypoint,people", f"out={out}")
    tables = json.loads(out.read_text())
    assert list(tables["by_keypoint"]) == list(COCO.keypoints)
    assert all(-1 <= row["AP"] <= 1 for row in tables["by_people"].values())
    pictures = len(json.loads(truth.read_text())["images"])
    assert sum(row["pictures"] for row in tables["by_people"].values()) == pictures
    assert "by keypoint" in printed


def test_alphapose_names_pictures_by_file(
    truth: Path, records: list[dict], stored: Callable, capsys: pytest.CaptureFixture
):
    plain = run(capsys, f"gt={truth}", f"dt={fixture_path('metrics/ap/ids_from_0.json')}", "metric=coco")
    names = {image["id"]: image["file_name"] for image in json.loads(truth.read_text())["images"]}
    path = stored([record | {"image_id": names[record["image_id"]], "idx": [0]} for record in records])
    assert run(capsys, f"gt={truth}", f"dt={path}", "metric=coco") == plain


@pytest.mark.parametrize("nested", [True, False])
def test_mmpose_writes_a_file_per_picture(
    truth: Path, records: list[dict], stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, nested: bool
):
    folder = tmp_path / "predictions"
    folder.mkdir()
    names = {image["id"]: Path(image["file_name"]).stem for image in json.loads(truth.read_text())["images"]}
    for image, name in names.items():
        people = [as_mmpose(record) for record in records if record["image_id"] == image]
        content = {"meta_info": {}, "instance_info": people} if nested else people
        (folder / f"{'results_' if nested else ''}{name}.json").write_text(json.dumps(content))
    rescored = stored([record | {"score": record["score"] * 0.75} for record in records])
    plain = run(capsys, f"gt={truth}", f"dt={rescored}", "metric=coco")
    assert run(capsys, f"gt={truth}", f"dt={folder}", "metric=coco") == plain


def as_mmpose(record: dict) -> dict:
    """Keypoint scores .5, 1 and, below mmpose's limit, .1: the mean of those above it is .75."""
    xy = np.array(record["keypoints"]).reshape(-1, 3)[:, :2]
    scores = np.full(len(xy), 0.1)
    scores[:2] = 0.5, 1.0
    return {
        "keypoints": xy.tolist(),
        "keypoint_scores": scores.tolist(),
        "bbox": [[0, 0, 1, 1]],
        "bbox_score": record["score"],
    }


def test_no_results_at_all_are_zeros(truth: Path, stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    run(capsys, f"gt={truth}", f"dt={stored([])}", "metric=coco", f"out={tmp_path / 'out.json'}")
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers.pop("ignored")["crowd regions"] == 1
    assert set(numbers.values()) == {0.0}


def spoil(field: str, value: object) -> Callable[[list[dict]], list[dict]]:
    def spoiled(records: list[dict]) -> list[dict]:
        return [*records[:3], records[3] | {field: value}, *records[4:]]

    return spoiled


def without(field: str) -> Callable[[list[dict]], list[dict]]:
    return lambda records: [*records[:3], {k: v for k, v in records[3].items() if k != field}]


BAD = {
    "unknown image": (spoil("image_id", 987654321), "record 3 is of image 987654321"),
    "unknown file": (spoil("image_id", "nowhere.jpg"), "record 3 is of image 'nowhere.jpg'"),
    "image as a fraction": (spoil("image_id", 1.5), "record 3 is of image 1.5"),
    "fewer keypoints": (spoil("keypoints", [1.0, 2.0, 1.0] * 14), "keypoints of record 3 has 42 numbers, expected 51"),
    "no keypoint": (spoil("keypoints", []), "keypoints of record 3 has 0 numbers, expected 51"),
    "not a number": (spoil("keypoints", [float("nan")] * 51), "keypoints of record 3 is NaN or infinite"),
    "infinite": (spoil("keypoints", [float("inf")] * 51), "keypoints of record 3 is NaN or infinite"),
    "beyond floats": (spoil("keypoints", [10**400] * 51), "keypoints of record 3 is NaN or infinite"),
    "text": (spoil("keypoints", ["1"] * 51), "keypoints of record 3 holds text where numbers should be"),
    "one text": (spoil("keypoints", [1.0] * 50 + ["1"]), "keypoints of record 3 holds text where numbers should be"),
    "true": (spoil("keypoints", [True] * 51), "keypoints of record 3 holds true or false where numbers should be"),
    "null": (spoil("keypoints", None), "keypoints of record 3 holds null where numbers should be"),
    "nested": (spoil("keypoints", [[1, 2], [3]]), "keypoints of record 3 holds a list where numbers should be"),
    "score as text": (spoil("score", "0.5"), "score of record 3 holds text where numbers should be"),
    "score NaN": (spoil("score", float("nan")), "score of record 3 is NaN"),
    "no score": (without("score"), "record 3 has no score"),
    "no keypoints": (without("keypoints"), "record 3 has no keypoints"),
    "a number for a record": (lambda records: [*records[:3], 7], "record 3 is a number"),
    "a list for a record": (lambda records: [*records[:3], [7]], "record 3 is a list"),
    "repeated id": (lambda records: [record | {"id": 5} for record in records], "record 1 has the id 5 of record 0"),
    "an annotation id as text": (spoil("annotation_id", "7"), "annotation_id of record 3 is not a whole number"),
    "a category as text": (spoil("category_id", "person"), "category_id of record 3 is text, expected a number"),
    "AlphaPose's cmu format": (
        lambda records: {"1.jpg": {"version": "AlphaPose v0.3"}},
        "not with its formats cmu",
    ),
    "null alone": (lambda records: "null", "holds null, expected a list"),
    "a number alone": (lambda records: " 5\n", "holds a number, expected a list"),
    "an object": (lambda records: {"annotations": records}, "holds an object, expected a list"),
    "cut off": (lambda records: json.dumps(records[:5])[:-40], "is cut off or not JSON in record 4"),
    "cut off between records": (lambda records: json.dumps(records[:5])[:-1], "is cut off or not JSON after record 4"),
    "no JSON": (lambda records: "image_id,keypoints", "is cut off or not JSON"),
    "empty": (lambda records: "", "is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_results_are_named(
    case: str, truth: Path, records: list[dict], stored: Callable, capsys: pytest.CaptureFixture
):
    change, message = BAD[case]
    path = stored(change(records))
    error = fails(capsys, f"gt={truth}", f"dt={path}", "metric=coco")
    assert message in error
    assert str(path) in error


def test_annotations_without_people_are_refused(
    truth: Path, records: list[dict], stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    content = json.loads(truth.read_text()) | {"annotations": []}
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content))
    error = fails(capsys, f"gt={empty}", f"dt={stored(records)}", "metric=coco")
    assert "nobody counts in the evaluation" in error


def test_bad_people_of_a_folder_are_named_in_their_file(
    truth: Path, records: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "dt"
    folder.mkdir()
    images = [image["file_name"] for image in json.loads(truth.read_text())["images"][:2]]
    people = [as_mmpose(record) for record in records[:3]]
    people[1]["keypoints"][0][0] = float("nan")
    for name, content in zip(sorted(images), (people[2:], people[:2]), strict=True):
        (folder / f"{Path(name).stem}.json").write_text(json.dumps(content))
    error = fails(capsys, f"gt={truth}", f"dt={folder}", "metric=coco")
    assert f"{folder / Path(max(images)).stem}.json: keypoints of record 1 is NaN or infinite" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gt=a", "dt=b"], "missing: metric="),
        (["gt=a", "dt=b", "metric=pascal"], "metric=pascal is none of aic, auc, coco"),
        (
            ["gt=a", "dt=b", "metric=coco", "otu=c"],
            "metric=coco has no setting 'otu'; it has bad_records, crowd_limits, data",
        ),
        (["gt=a", "dt=b", "metric=coco", "gt=c"], "gt= is given twice"),
        (["gt=a", "dt=b", "metric=coco", "verbose"], "'verbose' is not of the form KEY=VALUE"),
        (["gt=a", "dt=b", "metric=coco", "by=keypoint,colour"], "by=colour is none of keypoint"),
        (["gt=a", "dt=b", "metric=coco", "crowd_limits=mine"], "crowd_limits=mine is none of package, paper"),
        (["gt=a", "dt=b", "metric=coco", "data=kitti"], "data=kitti is none of"),
        (["gt=a", "dt=b", "metric=coco", "data=synth"], "data=synth is not read from annotation files"),
        (["gt=a", "dt=b", "metric=coco", "matches=a.csv"], "matches=a.csv must end in .npz"),
        (["gt=a", "dt=b", "metric=pck"], "metric=pck needs data="),
        (["gt=a", "dt=b", "metric=pck", "data=coco", "by=people"], "by= is for metrics of OKS only"),
        (["gt=a", "dt=b", "metric=pck", "data=coco", "missing=zero"], "missing=zero is none of error, skip"),
        (["gt=a", "dt=b", "metric=mpii", "inclusive=[1"], "inclusive=[1 cannot be read"),
        (["gt=a", "dt=b", "metric=mpii", "inclusive=yes!"], "inclusive=yes! is text, expected true or false"),
        (["gt=a", "dt=b", "metric=coco", "max_detections=all"], "max_detections=all is text, expected a number"),
        (["gt=a", "dt=b", "metric=pdj", "data=lsp", "thresholds=0.1"], "is a number, expected a list of numbers"),
        (["gt=a", "dt=b", "metric=coco", "unknown_images=foo"], "unknown_images=foo is none of error, skip"),
        (["gt=a", "dt=b", "metric=pck", "data=coco", "unknown_images=foo"], "unknown_images=foo is none of error"),
        (["gt=a", "dt=b", "metric=posetrack", "unknown_images=5"], "unknown_images=5 is"),
        (["gt=a", "dt=b", "metric=coco", "max_detections=0"], "max_detections=0 must be a whole number from 1 on"),
        (["gt=a", "dt=b", "metric=wholebody", "max_detections=2.5"], "max_detections=2.5 must be a whole number"),
        (["gt=a", "dt=b", "metric=auc", "data=coco", "pixels=-1"], "pixels=-1 must be finite and above 0"),
        (["gt=a", "dt=b", "metric=auc", "data=coco", "pixels=.inf"], "pixels=inf must be finite and above 0"),
        (["gt=a", "dt=b", "metric=auc", "data=coco", "steps=0"], "steps=0 must be a whole number from 1 on"),
        (["gt=a", "dt=b", "metric=pcp", "data=coco", "alpha=0"], "alpha=0 must be finite and above 0"),
        (["gt=a", "dt=b", "metric=pcp", "data=coco", "limbs=[nose]"], "limbs: 'nose' is not two keypoints"),
        (["gt=a", "dt=b", "metric=pck", "data=coco", "thresholds=[0.1,-1]"], "thresholds=0.1, -1 must be finite"),
        (["gt=a", "dt=b", "metric=mpjpe", "factor=0"], "factor=0 must be finite and above 0"),
        (["gt=a", "dt=b", "metric=coco"], "annotation file a does not exist"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert message in fails(capsys, *arguments)


def test_missing_results_are_named(truth: Path, capsys: pytest.CaptureFixture):
    assert "results nowhere do not exist" in fails(capsys, f"gt={truth}", "dt=nowhere", "metric=coco")


def test_help_is_the_text_at_the_top(capsys: pytest.CaptureFixture):
    printed = run(capsys, "--help")
    assert "gt=ANNOTATIONS" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_crowdpose_of_real_annotations(tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = shared_data("crowdpose") / "annotations/crowdpose_val.json"
    with np.load(fixture_path("metrics/crowdpose/full.npz")) as found:
        values = np.concatenate([found["xy"], np.ones_like(found["xy"][..., :1])], 2).astype(float)
        rows = zip(
            found["image_id"].tolist(), values.reshape(len(values), -1).tolist(), found["score"].tolist(), strict=True
        )
        records = [{"image_id": image, "keypoints": keypoints, "score": score} for image, keypoints, score in rows]
    results, out = tmp_path / "results.json", tmp_path / "out.json"
    results.write_text(json.dumps(records))
    run(capsys, f"gt={truth}", f"dt={results}", "metric=crowdpose", f"out={out}")
    expected = json.loads(fixture_path("metrics/crowdpose/expected.json").read_text())["full"]["expected"]
    numbers = json.loads(out.read_text())
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, abs=5e-5 + 1e-9 if name.startswith("AP_") else 1e-12)
    run(capsys, f"gt={truth}", f"dt={results}", "metric=crowdpose", f"out={out}", "crowd_limits=paper")
    by_paper = json.loads(out.read_text())
    assert by_paper["AP_hard"] == numbers["AP_hard"]
    assert by_paper["AP_easy"] != numbers["AP_easy"]


def test_pictures_without_a_crowd_index_are_counted(
    truth: Path, records: list[dict], stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    content = json.loads(truth.read_text())
    for n, image in enumerate(content["images"][2:]):
        image["crowdIndex"] = n / len(content["images"])
    gt, dt, out = tmp_path / "gt.json", stored(records), tmp_path / "out.json"
    gt.write_text(json.dumps(content))
    assert "no difficulty set" in run(capsys, f"gt={gt}", f"dt={dt}", "metric=coco", f"out={out}")
    ignored = json.loads(out.read_text())["ignored"]
    assert ignored["pictures without a crowd index, which are in no difficulty set"] == 2
    assert "difficulty set" not in run(capsys, f"gt={truth}", f"dt={dt}", "metric=coco")
    error = fails(capsys, f"gt={truth}", "dt=nowhere", "metric=coco", "by=crowd_index")
    assert "have no crowd index" in error


def test_bad_annotations_can_be_left_out(
    truth: Path, records: list[dict], stored: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    content = json.loads(truth.read_text())
    content["annotations"][2]["area"] = -5
    gt, dt = tmp_path / "gt.json", stored(records)
    gt.write_text(json.dumps(content))
    error = fails(capsys, f"gt={gt}", f"dt={dt}", "metric=coco")
    assert f"area is negative (annotation 2: id {content['annotations'][2]['id']})" in error
    assert "`bad_records=skip`" in error
    del content["annotations"][2]
    skipped = run(capsys, f"gt={gt}", f"dt={dt}", "metric=coco", "bad_records=skip")
    gt.write_text(json.dumps(content))
    assert skipped == run(capsys, f"gt={gt}", f"dt={dt}", "metric=coco")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").touch()
    arguments = ["gt=nowhere", "dt=nowhere", "metric=coco"]
    assert f"out={tmp_path} is a folder, expected a file" in fails(capsys, *arguments, f"out={tmp_path}")
    inside = tmp_path / "file/deep/out.json"
    assert f"out={inside} cannot be written: {tmp_path}/file: " in fails(capsys, *arguments, f"out={inside}")
    matches = tmp_path / "file/matches.npz"
    assert f"matches={matches} cannot be written" in fails(capsys, *arguments, f"matches={matches}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_of_annotations_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    error = fails(capsys, f"gt={tmp_path}", "dt=nowhere", "metric=coco")
    assert f"gt={tmp_path} is a folder; data=coco is read from one file" in error


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_matches_and_curves_can_be_written(truth: Path, records: list[dict], tmp_path: Path, stored: Callable):
    """From the matches alone come AP's recalls: who of the counted people was taken, by the official count."""
    dt, matches, curves = stored(records), tmp_path / "matches.npz", tmp_path / "curves.csv"
    evaluate.main([f"gt={truth}", f"dt={dt}", "metric=coco", f"matches={matches}", f"curves={curves}"])
    expected = json.loads(EXPECTED.read_text())["ids_from_1"]["expected"]
    kept = arrays_of(matches)
    assert [records[n]["score"] for n in kept["record"]] == kept["score"].tolist()
    assert [records[n]["image_id"] for n in kept["record"]] == kept["image_id"].tolist()
    taken = kept["person"][0, 0]
    assert (kept["annotation_image_id"][taken[taken >= 0]] == kept["image_id"][taken >= 0]).all()
    assert (kept["oks"][0, 0][taken >= 0] >= kept["thresholds"][0]).all()
    right = ~kept["ignored"][0] & (kept["person"][0] >= 0)
    assert right.sum(1).mean() / kept["counted"][0].sum() == pytest.approx(expected["AR"], abs=1e-12)
    rows = [line.split(",") for line in curves.read_text().splitlines()[1:]]
    precision = [float(row[3]) for row in rows if row[0] == "all"]
    assert np.mean(precision) == pytest.approx(expected["AP"], abs=1e-12)


def test_whole_body_is_evaluated_by_parts(tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = shared_data("mmpose_samples") / "coco/test_coco_wholebody.json"
    results, out = fixture_path("metrics/ap/wholebody.json"), tmp_path / "out.json"
    printed = run(capsys, f"gt={truth}", f"dt={results}", "metric=wholebody", f"out={out}")
    expected = json.loads(EXPECTED.read_text())["wholebody"]["expected_by_part"]
    numbers = json.loads(out.read_text())
    of_part = {"keypoints": "body", "keypoints_lefthand": "left_hand", "keypoints_righthand": "right_hand"}
    of_part |= {"keypoints_foot": "foot", "keypoints_face": "face", "keypoints_wholebody": "whole_body"}
    for theirs, values in expected.items():
        assert numbers["by_part"][of_part[theirs]] == pytest.approx(values, abs=1e-9)
    assert numbers["AP"] == numbers["by_part"]["whole_body"]["AP"]
    assert "by part" in printed
    assert max(map(len, printed.splitlines())) <= 80
    joined = [record | {"keypoints": [v for field in PART_FIELDS for v in record[field]]} for record in read(results)]
    plain = [{k: v for k, v in record.items() if k not in PART_FIELDS[1:]} for record in joined]
    (tmp_path / "one_list.json").write_text(json.dumps(plain))
    assert run(capsys, f"gt={truth}", f"dt={tmp_path / 'one_list.json'}", "metric=wholebody") == printed


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def test_parts_of_a_whole_body_may_have_scores_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = shared_data("mmpose_samples") / "coco/test_coco_wholebody.json"
    records = read(fixture_path("metrics/ap/wholebody.json"))
    plain, scored = tmp_path / "plain.json", tmp_path / "scored.json"
    plain.write_text(json.dumps([record | {"score": -record["score"]} for record in records]))
    scored.write_text(json.dumps([record | {"foot_score": -record["score"]} for record in records]))
    outs = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, out in zip((plain, scored), outs, strict=True):
        run(capsys, f"gt={truth}", f"dt={path}", "metric=wholebody", f"out={out}")
    turned, of_foot_only = (json.loads(out.read_text())["by_part"] for out in outs)
    assert of_foot_only["foot"] == turned["foot"]
    assert of_foot_only["body"] != turned["body"]


@pytest.mark.parametrize(("metric", "keypoints"), [("halpe", 136), ("halpe26", 26)])
def test_halpe_of_perfect_results_is_one(metric: str, keypoints: int, tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = shared_data("mmpose_samples") / "halpe/test_halpe.json"
    people = [p for p in json.loads(truth.read_text())["annotations"] if max(p["keypoints"][2::3]) > 0]
    records = [{"image_id": p["image_id"], "keypoints": p["keypoints"][: 3 * keypoints], "score": 1} for p in people]
    results, out = tmp_path / "results.json", tmp_path / "out.json"
    results.write_text(json.dumps(records))
    run(capsys, f"gt={truth}", f"dt={results}", f"metric={metric}", f"out={out}")
    assert json.loads(out.read_text())["AP"] == 1


def test_people_of_another_skeleton_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Found as CrowdPose has them, annotated as COCO has them."""
    truth = shared_data("coco_mini") / "annotations/person_keypoints_val2017.json"
    annotations = load_annotations(truth, ReadingRules(COCO, shown=CROWDPOSE), tmp_path)
    keypoints = annotations.keypoints.astype(float) - [0.5, 0.5, 0]
    rows = np.flatnonzero((annotations.num_keypoints > 0) & ~annotations.ignore)
    records = [
        {
            "image_id": int(annotations.image_ids[annotations.image_index[row]]),
            "keypoints": keypoints[row].ravel().tolist(),
            "score": 1,
        }
        for row in rows
    ]
    (tmp_path / "results.json").write_text(json.dumps(records))
    arguments = [f"gt={truth}", f"dt={tmp_path / 'results.json'}", "metric=coco", "skeleton=crowdpose"]
    run(capsys, *arguments, f"out={tmp_path / 'out.json'}")
    assert json.loads((tmp_path / "out.json").read_text())["AP"] == pytest.approx(1)


def test_two_files_of_one_picture_are_refused(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "dt").mkdir()
    for name in ("000001.json", "results_000001.json"):
        (tmp_path / "dt" / name).write_text("[]")
    error = fails(capsys, f"gt={truth}", f"dt={tmp_path / 'dt'}", "metric=coco")
    assert "are of the same picture" in error


@pytest.mark.parametrize("command", ["pose_lab.evaluate", "pose_lab.data.check"])
def test_the_help_waits_for_no_heavy_library(command: str):
    code = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'lightning', 'torchmetrics', 'matplotlib'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules), file=sys.stderr))\n"
        "sys.argv[1:] = ['--help']\n"
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m " + command in done.stdout
    assert done.stderr == "set()\n"
