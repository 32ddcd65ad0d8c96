"""The command on videos: the released tool's numbers from files, and clear words on results without tracks."""

import json
from pathlib import Path

import numpy as np
import pytest

from pose_lab.skeletons import POSETRACK18
from tests.conftest import fixture_path, shared_data
from tests.test_evaluate import fails, run

EXPECTED = json.loads(fixture_path("metrics/tracking/expected.json").read_text())
ORDER = [  # of the fixtures
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow"),
    *("right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "head_bottom", "nose", "head_top"),
]
PLACES = [POSETRACK18.index[name] for name in ORDER]


def flat(keypoints: np.ndarray, flags: np.ndarray) -> list[float]:
    points = np.zeros((len(POSETRACK18), 3))
    points[PLACES] = np.concatenate([keypoints, flags[:, None]], 1)
    return points.ravel().tolist()


def image_id(sequence: int, frame: int) -> int:
    return 10**10 + 1000 * sequence + frame


def write_case(case: str, folder: Path) -> tuple[Path, list[dict]]:
    """Annotations in PoseTrack18's layout, a file for each video, and what was found as COCO's records with tracks."""
    with np.load(fixture_path(f"metrics/tracking/{case}.npz")) as file:
        arrays = {name: file[name] for name in file.files}
    folder.mkdir()
    for sequence in np.unique(arrays["frames"][:, 0]).tolist():
        frames = arrays["frames"][arrays["frames"][:, 0] == sequence, 1].tolist()
        images = [
            {
                "id": image_id(sequence, f),
                "file_name": f"images/{sequence:06d}/{f:06d}.jpg",
                "width": 999,
                "height": 999,
            }
            for f in frames
        ]
        people = [person(arrays, n) for n in np.flatnonzero(arrays["gt_sequence"] == sequence).tolist()]
        (folder / f"{sequence}.json").write_text(json.dumps({"images": images, "annotations": people}))
    records = [
        {
            "image_id": image_id(*where),
            "track_id": int(arrays["pr_track"][n]),
            "keypoints": flat(arrays["pr_keypoints"][n], np.where(arrays["pr_present"][n], arrays["pr_scores"][n], 0)),
            "score": 1,
        }
        for n, where in enumerate(zip(arrays["pr_sequence"].tolist(), arrays["pr_frame"].tolist(), strict=True))
    ]
    return folder, records


def person(arrays: dict[str, np.ndarray], n: int) -> dict:
    x0, y0, x1, y1 = arrays["gt_head_box_xyxy"][n].tolist()
    return {
        "id": n,
        "image_id": image_id(int(arrays["gt_sequence"][n]), int(arrays["gt_frame"][n])),
        "track_id": int(arrays["gt_track"][n]),
        "keypoints": flat(arrays["gt_keypoints"][n], arrays["gt_visible"][n].astype(float)),
        "bbox": [0, 0, 999, 999],
        "bbox_head": [x0, y0, x1 - x0, y1 - y0],
    }


def as_posetrack(records: list[dict]) -> dict:
    """The same people as PoseTrack18's files have them: flags in the keypoints, scores beside."""
    people = []
    for record in records:
        points = np.array(record["keypoints"]).reshape(-1, 3)
        flags = points.copy()
        flags[:, 2] = points[:, 2] > 0
        rest = {key: value for key, value in record.items() if key not in ("score", "keypoints")}
        people.append(rest | {"keypoints": flags.ravel().tolist(), "scores": points[:, 2].tolist()})
    return {"images": [], "annotations": people}


def stored(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("case", EXPECTED)
def test_numbers_are_the_released_tools(case: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case(case, tmp_path / "gt")
    out, expected = tmp_path / "out.json", EXPECTED[case]
    arguments = [f"gt={gt}", f"dt={stored(tmp_path / 'dt.json', records)}", "metric=posetrack", f"out={out}"]
    printed = run(capsys, *arguments)
    assert max(map(len, printed.splitlines())) <= 80
    numbers = json.loads(out.read_text())
    for group, name, key in (
        ("poseval", "MOTA", "mota"),
        ("poseval", "MOTP_logged", "motp"),
        ("poseval", "MOT_precision", "pre"),
        ("poseval", "MOT_recall", "rec"),
        ("poseval_ap", "AP", "ap"),
    ):
        assert numbers[name] == pytest.approx(expected[group][key][-1], abs=1e-9)
    shown = [k for k, mota in enumerate(expected["poseval"]["mota"][:-1]) if mota is not None and np.isfinite(mota)]
    each = [numbers["by_keypoint"][ORDER[k]]["MOTA"] for k in shown]
    assert each == pytest.approx([expected["poseval"]["mota"][k] for k in shown], abs=1e-9)
    run(capsys, *arguments, "released=false")
    assert json.loads(out.read_text())["MOTA"] == pytest.approx(expected["all_frames"]["mota"], abs=1e-9)


def test_posetracks_own_files_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("crowd", tmp_path / "gt")
    dt, folder = stored(tmp_path / "dt.json", records), tmp_path / "videos"
    expected = run(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack")
    folder.mkdir()
    for sequence in (0, 1):
        of_video = [r for r in records if (r["image_id"] - 10**10) // 1000 == sequence]
        stored(folder / f"{sequence}.json", as_posetrack(of_video))
    assert run(capsys, f"gt={gt}", f"dt={folder}", "metric=posetrack") == expected
    assert run(capsys, f"gt={gt}", f"dt={stored(dt, as_posetrack(records))}", "metric=posetrack") == expected


def test_a_region_ends_where_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("two_people", tmp_path / "gt")
    dt, out = stored(tmp_path / "dt.json", records), tmp_path / "out.json"
    (file,) = gt.iterdir()
    content = json.loads(file.read_text())
    image = content["images"][0]
    annotated, found = (
        np.concatenate(
            [np.array(p["keypoints"]).reshape(-1, 3)[PLACES] for p in people if p["image_id"] == image["id"]]
        )
        for people in (content["annotations"], records)
    )
    annotated, found = annotated[annotated[:, 2] > 0], found[found[:, 2] > 0]
    points = np.concatenate([annotated, found])
    border = points[:, 0].min() + 0.25  # 0.25 right of the leftmost one: not if points were shifted by half a pixel
    image |= {"ignore_regions_x": [[-999, border, border, -999]], "ignore_regions_y": [[-999, -999, 1999, 1999]]}
    file.write_text(json.dumps(content))
    run(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack", "released=false", f"out={out}")
    ignored = json.loads(out.read_text())["ignored"]
    assert ignored["keypoints inside ignored regions"] == (points[:, 0] < border).sum()
    nobody = stored(tmp_path / "none.json", [record for record in records if record["image_id"] != image["id"]])
    run(capsys, f"gt={gt}", f"dt={nobody}", "metric=posetrack", "released=false", f"out={out}")
    assert (
        json.loads(out.read_text())["ignored"]["keypoints inside ignored regions"] == (annotated[:, 0] < border).sum()
    )


def test_ignored_regions_take_keypoints_from_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("two_people", tmp_path / "gt")
    dt, out = stored(tmp_path / "dt.json", records), tmp_path / "out.json"
    run(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack", f"out={out}")
    plain = json.loads(out.read_text())
    assert plain["ignored"]["keypoints inside ignored regions"] == 0
    (file,) = gt.iterdir()
    content = json.loads(file.read_text())
    everywhere = {"ignore_regions_x": [[-999, 1999, 1999, -999]], "ignore_regions_y": [[-999, -999, 1999, 1999]]}
    content["images"][1] |= everywhere
    file.write_text(json.dumps(content))
    run(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack", "released=false", f"out={out}")
    number = content["images"][1]["id"]
    kept = [record for record in records if record["image_id"] != number]
    inside = [record for record in records if record["image_id"] == number]
    inside += [p for p in content["annotations"] if p["image_id"] == number]
    ignored = json.loads(out.read_text())
    shown = [np.array(p["keypoints"])[2::3][PLACES] > 0 for p in inside]
    assert ignored["ignored"]["keypoints inside ignored regions"] == np.sum(shown)
    content["images"].pop(1)
    content["annotations"] = [p for p in content["annotations"] if p["image_id"] != number]
    file.write_text(json.dumps(content))
    run(capsys, f"gt={gt}", f"dt={stored(dt, kept)}", "metric=posetrack", "released=false", f"out={out}")
    without = json.loads(out.read_text())
    assert {k: v for k, v in ignored.items() if k != "ignored"} == {k: v for k, v in without.items() if k != "ignored"}


def test_real_annotations_found_exactly(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt = shared_data("mmpose_samples") / "posetrack18/annotations/val"
    people = [p for file in sorted(gt.glob("*.json")) for p in json.loads(file.read_text())["annotations"]]
    dt, out = stored(tmp_path / "dt.json", {"annotations": people}), tmp_path / "out.json"
    run(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack", "released=false", f"out={out}")
    numbers = json.loads(out.read_text())
    assert (numbers["MOTA"], numbers["MOTP"], numbers["AP"]) == (100, 100, pytest.approx(100))


BAD = {
    "no track": (lambda r: r.pop("track_id"), "person 3 has no track_id"),
    "a negative track": (lambda r: r.update(track_id=-1), "record 3 has no track_id, a number from 0 on"),
    "a track as text": (lambda r: r.update(track_id="7"), "track_id of record 3 is not a whole number"),
    "no keypoints": (lambda r: r.pop("keypoints"), "person 3 has no keypoints"),
    "scores too few": (lambda r: r.update(scores=[1.0]), "person 3 has not one score for each of its keypoints"),
    "not finite": (lambda r: r["keypoints"].__setitem__(0, float("nan")), "keypoints of record 3 is NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_results_are_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("crowd", tmp_path / "gt")
    spoil, message = BAD[case]
    spoil(records[3])
    error = fails(capsys, f"gt={gt}", f"dt={stored(tmp_path / 'dt.json', records)}", "metric=posetrack")
    assert message in error


def test_a_track_twice_in_a_frame_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("crowd", tmp_path / "gt")
    dt = stored(tmp_path / "dt.json", [*records, records[5]])
    error = fails(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack")
    assert f"record {len(records)} has the track_id {records[5]['track_id']} of record 5" in error


def test_ids_may_begin_again_in_each_file_and_errors_name_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("crowd", tmp_path / "gt")
    folder = tmp_path / "videos"
    folder.mkdir()
    for sequence in (0, 1):
        of_video = [r for r in records if (r["image_id"] - 10**10) // 1000 == sequence]
        stored(folder / f"{sequence}.json", as_posetrack([r | {"id": n} for n, r in enumerate(of_video)]))
    run(capsys, f"gt={gt}", f"dt={folder}", "metric=posetrack")
    content = json.loads((folder / "1.json").read_text())
    content["annotations"][2]["track_id"] = -1
    stored(folder / "1.json", content)
    error = fails(capsys, f"gt={gt}", f"dt={folder}", "metric=posetrack")
    assert f"{folder}/1.json: record 2 has no track_id" in error


def test_annotated_people_need_tracks_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("two_people", tmp_path / "gt")
    dt = stored(tmp_path / "dt.json", records)
    (file,) = gt.iterdir()
    content = json.loads(file.read_text())
    people = content["annotations"]
    people[1]["track_id"] = people[0]["track_id"]
    file.write_text(json.dumps(content))
    error = fails(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack")
    assert f"annotation {people[1]['id']} has the track_id {people[0]['track_id']} of annotation" in error
    del people[1]["track_id"]
    file.write_text(json.dumps(content))
    assert f"annotation {people[1]['id']} has no track_id" in fails(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack")


def test_annotations_without_videos_or_heads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt, records = write_case("crowd", tmp_path / "gt")
    dt = stored(tmp_path / "dt.json", records)
    for file in gt.iterdir():
        content = json.loads(file.read_text())
        for annotated in content["annotations"]:
            del annotated["bbox_head"]
        file.write_text(json.dumps(content))
    assert "has no head boxes" in fails(capsys, f"gt={gt}", f"dt={dt}", "metric=posetrack")
    coco = shared_data("coco_mini") / "annotations/person_keypoints_val2017.json"
    assert "has no videos" in fails(capsys, f"gt={coco}", f"dt={dt}", "metric=posetrack", "data=coco")
