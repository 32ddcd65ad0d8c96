"""The command on metrics of single people: the judges' numbers from files as people have them, and bad ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from pose_lab.skeletons import COCO, JHMDB
from tests.conftest import fixture_path, shared_data
from tests.test_evaluate import fails, run

EXPECTED = json.loads(fixture_path("metrics/joints/expected.json").read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(fixture_path(f"metrics/joints/{name}.npz")) as stored:
        return {key: stored[key] for key in stored}


def coco_file(path: Path, keypoints: np.ndarray, visible: np.ndarray, boxes: np.ndarray, **image: object) -> Path:
    """Annotations in COCO's layout, one person per picture; pixels count from 1, as JHMDB's do."""
    images = [{"id": n, "file_name": f"a/{n}.jpg", "width": 9, "height": 9} | image for n in range(len(keypoints))]
    flags = np.concatenate([keypoints, 2.0 * visible[..., None]], 2)
    people = [
        {
            "id": n,
            "image_id": n,
            "keypoints": flags[n].ravel().tolist(),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "area": 1,
            "track_id": 0,
        }
        for n, box in enumerate(boxes)
    ]
    path.write_text(json.dumps({"images": images, "annotations": people}))
    return path


def results_file(path: Path, keypoints: np.ndarray, order: np.ndarray | None = None) -> Path:
    scored = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], 2).astype(float)
    order = np.arange(len(keypoints)) if order is None else order
    path.write_text(
        json.dumps([{"image_id": int(n), "keypoints": scored[n].ravel().tolist(), "score": 1} for n in order])
    )
    return path


def numbers_of(capsys: pytest.CaptureFixture, gt: Path, dt: Path, *arguments: str) -> dict:
    out = gt.parent / "out.json"
    printed = run(capsys, f"gt={gt}", f"dt={dt}", f"out={out}", *arguments)
    assert max(map(len, printed.splitlines())) <= 80
    return json.loads(out.read_text())


@pytest.fixture
def pck_files(tmp_path: Path) -> tuple[Path, Path]:
    """17 keypoints, one person per picture; the person without labels is left out by itself."""
    case = arrays("pck")
    shuffled = np.random.default_rng(0).permutation(len(case["pred"]))
    dt = results_file(tmp_path / "dt.json", case["pred"].astype(float), shuffled)
    return coco_file(tmp_path / "gt.json", case["gt"].astype(float), case["visible"], case["bbox_xyxy"]), dt


def test_pck_auc_epe_and_nme_are_the_judges(pck_files: tuple[Path, Path], capsys: pytest.CaptureFixture):
    pck = numbers_of(capsys, *pck_files, "metric=pck", "data=coco")
    for threshold in ("0.05", "0.1", "0.2"):
        assert pck[f"PCK@{threshold}"] == pytest.approx(EXPECTED["pck"][f"norm@{threshold}"]["mean"], rel=1e-6)
    nobody_shows = EXPECTED["pck"]["norm@0.1"]["per_keypoint"].index(-1)
    assert COCO.keypoints[nobody_shows] not in pck["by_keypoint"]
    assert pck["ignored"]["people without labelled keypoints and crowd regions"] == 1
    assert pck["ignored"]["results of people that do not count"] == 1
    auc = numbers_of(capsys, *pck_files, "metric=auc", "data=coco")
    assert auc["AUC"] == pytest.approx(EXPECTED["auc"]["norm30_steps20"], rel=1e-6)
    assert numbers_of(capsys, *pck_files, "metric=auc", "data=coco", "pixels=15", "steps=5")["AUC"] == pytest.approx(
        EXPECTED["auc"]["norm15_steps5"], rel=1e-6
    )
    epe = numbers_of(capsys, *pck_files, "metric=epe", "data=coco")
    assert epe["EPE"] == pytest.approx(EXPECTED["epe"]["visible"], rel=1e-6)
    nme = numbers_of(capsys, *pck_files, "metric=nme", "data=coco")
    assert nme["NME"] == pytest.approx(EXPECTED["nme"]["bbox_size"], rel=1e-6)


def test_an_array_in_the_order_of_the_annotations_is_the_same(
    pck_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    gt, dt = pck_files
    expected = numbers_of(capsys, gt, dt, "metric=pck", "data=coco")
    found = arrays("pck")["pred"]
    np.save(tmp_path / "dt.npy", found)
    np.savez(tmp_path / "dt.npz", keypoints=np.concatenate([found, found[..., :1]], 2), ids=np.arange(len(found)))
    for name in ("dt.npy", "dt.npz"):
        ours = numbers_of(capsys, gt, tmp_path / name, "metric=pck", "data=coco")
        assert ours["PCK@0.1"] == expected["PCK@0.1"]
    moved = tmp_path / "moved.npy"
    np.save(moved, found - 1)
    assert numbers_of(capsys, gt, moved, "metric=pck", "data=coco", "shift=1")["PCK@0.1"] == expected["PCK@0.1"]


def test_pck_by_the_torso_is_the_judges(tmp_path: Path, capsys: pytest.CaptureFixture):
    case = arrays("jhmdb")
    video = {"vid_id": "1", "frame_id": 1, "nframes": 1}
    gt = coco_file(tmp_path / "gt.json", case["gt"].astype(float), case["visible"], case["bbox_xyxy"], **video)
    dt = results_file(tmp_path / "dt.json", case["pred"].astype(float))
    values = EXPECTED["jhmdb"]["values"]
    pck = numbers_of(capsys, gt, dt, "metric=pck", "data=jhmdb")
    assert pck["PCK@0.2"] == pytest.approx(values["PCK"], rel=1e-6)
    torso = [JHMDB.keypoints.index(name) for name in ("left_shoulder", "right_hip")]
    without_torso = case["visible"].any(1) & ~case["visible"][:, torso].all(1)
    tpck = numbers_of(capsys, gt, dt, "metric=tpck", "data=jhmdb")
    # The judge measures by a torso whose ends nobody labelled, too; we leave such people out and say how many
    assert tpck["ignored"]["people for whom that size is 0 or unknown"] == without_torso.sum()


def test_pdj_and_pcp_are_the_judges(tmp_path: Path, capsys: pytest.CaptureFixture):
    case = arrays("pcp")
    boxes = np.tile([0.0, 0, 100, 100], (len(case["gt"]), 1))
    gt = coco_file(tmp_path / "gt.json", case["gt"].astype(float), case["visible"], boxes)
    dt = results_file(tmp_path / "dt.json", case["pred"].astype(float))
    assert EXPECTED["pdj"]["torso_keypoints"] == [COCO.index["left_shoulder"], COCO.index["right_hip"]]
    pdj = numbers_of(capsys, gt, dt, "metric=pdj", "data=coco")
    for threshold, values in EXPECTED["pdj"]["values"].items():
        assert pdj[f"PDJ@{threshold}"] == pytest.approx(values["mean"])
    limbs = [
        "limbs=[" + ",".join(f"'{COCO.keypoints[a]},{COCO.keypoints[b]}'" for a, b in case["limbs"].tolist()) + "]"
    ]
    pcp = numbers_of(capsys, gt, dt, "metric=pcp", "data=coco", *limbs)
    for variant in ("strict", "loose"):
        hits = case[f"hit_{variant}"]
        assert pcp[f"PCP {variant}"] == pytest.approx(hits[hits >= 0].mean())


@pytest.mark.parametrize("case_name", ["test", "ties"])
@pytest.mark.parametrize("judge", ["hrnet", "mmpose"])
def test_mpii_from_the_files_that_everybody_has(
    case_name: str, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    savemat = pytest.importorskip("scipy.io").savemat
    case, expected = arrays(f"mpii_{case_name}"), EXPECTED["mpii"][case_name][judge]
    savemat(
        tmp_path / "gt_valid.mat",
        {
            "pos_gt_src": case["gt_1based"].transpose(1, 2, 0),
            "jnt_missing": 1.0 - case["visible"].T,
            "headboxes_src": case["head_box_xyxy_1based"].reshape(-1, 2, 2).transpose(1, 2, 0),
        },
    )
    savemat(tmp_path / "pred.mat", {"preds": case["pred_0based"] + 1.0})
    inclusive = f"inclusive={str(judge == 'hrnet').lower()}"
    table = numbers_of(capsys, tmp_path / "gt_valid.mat", tmp_path / "pred.mat", "metric=mpii", inclusive)
    mean, read_at = ("Mean", "Mean@0.11") if judge == "hrnet" else ("PCK", "Mean@0.1")
    assert table["Mean"] == pytest.approx(expected[mean], rel=1e-6)
    assert table[read_at] == pytest.approx(expected["Mean@0.1" if judge == "hrnet" else "PCK@0.1"], rel=1e-6)
    assert table["Wrist"] == pytest.approx(expected["Wrist" if judge == "hrnet" else "Wrist PCK"], rel=1e-6)


def poses_file(path: Path, joints: np.ndarray, visible: np.ndarray) -> Path:
    """Joints (n, K, 3) in millimetres as Human3.6M's arrays have them."""
    count, flag = len(joints), np.ones((*joints.shape[:2], 1))
    np.savez(
        path,
        imgname=np.array([f"S9_Walk.1_{n:06d}.jpg" for n in range(count)]),
        part=np.concatenate([joints[..., :2] * 0 + 50, flag], 2),
        S=np.concatenate([joints / 1000, visible[..., None]], 2),
        center=np.full((count, 2), 50.0),
        scale=np.ones(count),
    )
    return path


@pytest.mark.parametrize("everything", [True, False])
def test_errors_of_3d_poses_are_the_judges(everything: bool, tmp_path: Path, capsys: pytest.CaptureFixture):
    case, expected = arrays("mpjpe"), EXPECTED["mpjpe"]
    visible = np.ones_like(case["visible"]) if everything else case["visible"]
    gt = poses_file(tmp_path / "gt.npz", case["gt"], visible)
    np.save(tmp_path / "dt.npy", case["pred"])
    root = [] if everything else ["root=null"]
    errors = numbers_of(capsys, gt, tmp_path / "dt.npy", "metric=mpjpe", *root)
    expected = expected["root_relative_all_visible"] if everything else expected
    for name, key in (("MPJPE", "mpjpe"), ("PA-MPJPE", "pa_mpjpe"), ("N-MPJPE", "n_mpjpe")):
        assert errors[name] == pytest.approx(expected[key], rel=1e-9)
    unlabelled = errors["ignored"]["joints that are not labelled (transforms are fitted to them too)"]
    assert unlabelled == (~visible)[visible.any(1)].sum()


def test_3d_poses_that_cannot_be_compared_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture):
    case = arrays("mpjpe")
    joints, visible = case["gt"].copy(), np.ones_like(case["visible"])
    visible[1, 0] = False  # the root
    visible[2, 4], joints[2, 4] = False, np.nan
    visible[3] = False
    np.save(tmp_path / "dt.npy", case["pred"])
    errors = numbers_of(capsys, poses_file(tmp_path / "gt.npz", joints, visible), tmp_path / "dt.npy", "metric=mpjpe")
    assert errors["ignored"]["poses whose root is not labelled"] == 1
    assert errors["ignored"]["poses without labels, or with coordinates that are not finite"] == 2
    visible[2, 4] = True
    gt = poses_file(tmp_path / "gt.npz", joints, visible)
    assert "labelled joints of pose 2 are not finite" in fails(
        capsys, f"gt={gt}", f"dt={tmp_path / 'dt.npy'}", "metric=mpjpe"
    )


def changed(path: Path, change: dict, row: int = 3) -> Path:
    records = json.loads(path.read_text())
    records[row] |= change
    path.write_text(json.dumps(records))
    return path


def test_results_that_belong_to_nobody_or_twice_are_named(pck_files: tuple[Path, Path], capsys: pytest.CaptureFixture):
    gt, dt = pck_files
    nobody = int(np.flatnonzero(~arrays("pck")["visible"].any(1))[0])
    records = [record for record in json.loads(dt.read_text()) if record["image_id"] != nobody]
    arguments = ("metric=pck", "data=coco")
    dt.write_text(json.dumps([*records, records[0]]))
    assert f"record {len(records)} is of the same person as record 0" in fails(
        capsys, f"gt={gt}", f"dt={dt}", *arguments
    )
    dt.write_text(json.dumps(records[1:]))
    assert "has no result for 1 annotated people" in fails(capsys, f"gt={gt}", f"dt={dt}", *arguments)
    left = numbers_of(capsys, gt, dt, *arguments, "missing=skip")
    assert left["ignored"]["people without a result"] == 1
    dt.write_text(json.dumps(records))
    error = fails(capsys, f"gt={gt}", f"dt={changed(dt, {'annotation_id': 99})}", *arguments)
    assert "record 3 is of annotation 99, which" in error
    other = records[4]["image_id"]
    error = fails(capsys, f"gt={gt}", f"dt={changed(dt, {'annotation_id': other})}", *arguments)
    assert "which is in another picture" in error


def test_pictures_with_several_people_need_the_persons_id(tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = shared_data("coco_mini") / "annotations/person_keypoints_val2017.json"
    people = [p for p in json.loads(truth.read_text())["annotations"] if p["num_keypoints"] and not p["iscrowd"]]
    records = [
        {"image_id": p["image_id"], "keypoints": p["keypoints"], "score": 1, "annotation_id": p["id"]} for p in people
    ]
    results, out = tmp_path / "results.json", tmp_path / "out.json"
    results.write_text(json.dumps(records))
    run(capsys, f"gt={truth}", f"dt={results}", "metric=pck", "data=coco", f"out={out}")
    assert json.loads(out.read_text())["PCK@0.05"] == 1
    results.write_text(json.dumps([{k: v for k, v in r.items() if k != "annotation_id"} for r in records]))
    assert "must name its person by `annotation_id`" in fails(
        capsys, f"gt={truth}", f"dt={results}", "metric=pck", "data=coco"
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 17, 2)), "has the shape (3, 17, 2), expected (14, 17, 2)"),
        (np.zeros((14, 34)), "has the shape (14, 34)"),
        (np.where(np.arange(14)[:, None, None] == 6, np.nan, np.zeros((14, 17, 2))), "keypoints of row 6 are NaN"),
        (np.full((14, 17, 2), "1"), "where numbers should be"),
        (np.array([{}], dtype=object), "is cut off or not a file of plain arrays"),
    ],
)
def test_bad_arrays_are_named(
    array: np.ndarray, message: str, pck_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    np.save(tmp_path / "dt.npy", array, allow_pickle=True)
    error = fails(capsys, f"gt={pck_files[0]}", f"dt={tmp_path / 'dt.npy'}", "metric=pck", "data=coco")
    assert message in error


def test_head_boxes_are_demanded(pck_files: tuple[Path, Path], capsys: pytest.CaptureFixture):
    gt, dt = pck_files
    assert "has no head boxes" in fails(capsys, f"gt={gt}", f"dt={dt}", "metric=pckh", "data=coco")


def test_a_size_that_is_none_is_refused(pck_files: tuple[Path, Path], capsys: pytest.CaptureFixture):
    gt, dt = pck_files
    error = fails(capsys, f"gt={gt}", f"dt={dt}", "metric=epe", "data=coco", "size=-5")
    assert "size=-5 is none of box, head, torso, or two keypoints" in error


def test_no_pictures_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture):
    gt = shared_data("mmpose_samples") / "mpii/test_mpii.json"
    np.save(tmp_path / "dt.npy", np.array([person["joints"] for person in json.loads(gt.read_text())], float))
    out = tmp_path / "out.json"
    run(capsys, f"gt={gt}", f"dt={tmp_path / 'dt.npy'}", "metric=pck", "data=mpii", f"out={out}")
    assert json.loads(out.read_text())["PCK@0.05"] == 1
