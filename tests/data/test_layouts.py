"""Reading every layout: real samples where there are some, MATLAB files made here otherwise."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from pose_lab.data import annotations as reading
from pose_lab.data.annotations import ReadingRules, load_annotations
from pose_lab.data.check.sources import guessed
from pose_lab.metrics.oks_ap import OKSAveragePrecision
from pose_lab.runs.train import build
from pose_lab.skeletons import COCO, FLIC, HALPE26, HALPE136, LSP, MPII, POSETRACK18, WHOLEBODY, skeleton
from tests.configs import composed
from tests.conftest import ROOT, shared_data

SAMPLES = "mmpose_samples"


def picture(path, width=120, height=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path)


def opened(name, root, cache, **settings):
    """The DataModule of `data=NAME data.root=ROOT`, as a user opens it."""
    changes = [f"data.{key}={value}" for key, value in {"image_size": 64, "batch_size": 2, **settings}.items()]
    cfg = composed(f"data={name}", f"data.root={root}", "machine.workers=0", *changes, cache=cache)
    module = build(cfg.data)
    module.prepare_data()
    module.setup()
    return module


def linked(root, **files):
    """A folder whose files are those of the samples: `{"annotations/a.json": "coco/test_coco.json"}`."""
    for place, sample in files.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(shared_data(SAMPLES) / sample)
    return root


def real_root(name, root):
    """A root in the layout that `data=NAME` expects, of real samples; both splits are the same."""
    build = {
        "ochuman": lambda: {
            **{
                f"annotations/ochuman_coco_format_{s}_range_0.00_1.00.json": "ochuman/test_ochuman.json" for s in SPLITS
            },
            "images": "ochuman",
        },
        "wholebody": lambda: {
            **{f"annotations/coco_wholebody_{s}_v1.0.json": "coco/test_coco_wholebody.json" for s in ("train", "val")},
            "train2017": "coco",
            "val2017": "coco",
        },
        "halpe": lambda: {
            **{f"annotations/halpe_{s}_v1.json": "halpe/test_halpe.json" for s in ("train", "val")},
            "hico_20160224_det/images/train2015": "coco",
            "val2017": "coco",
        },
        "mpii": lambda: {
            **{f"annotations/mpii_{s}.json": "mpii/test_mpii.json" for s in ("train", "val")},
            "images": "mpii",
        },
        "aic": lambda: {
            **{f"annotations/aic_{s}.json": "aic/test_aic.json" for s in ("train", "val")},
            "ai_challenger_keypoint_train_20170902/keypoint_train_images_20170902": "aic",
            "ai_challenger_keypoint_validation_20170911/keypoint_validation_images_20170911": "aic",
        },
        "posetrack18": lambda: {
            **{f"annotations/{s}": "posetrack18/annotations/val" for s in ("train", "val")},
            "images": "posetrack18/images",
        },
        "jhmdb": lambda: {
            **{f"annotations/Sub1_{s}.json": "jhmdb/test_jhmdb_sub1.json" for s in ("train", "test")},
            "Rename_Images": "jhmdb",
        },
        "human36m": lambda: {
            **{f"annotation_body3d/fps10/h36m_{s}.npz": "h36m/test_h36m_body3d.npz" for s in ("train", "test")},
            "images": "h36m/images",
        },
    }
    return linked(root, **build[name]())


SPLITS = ("val", "test")
REAL = ("ochuman", "wholebody", "halpe", "mpii", "aic", "posetrack18", "jhmdb", "human36m")
PEOPLE = {"ochuman": 5, "wholebody": 14, "halpe": 14, "mpii": 5, "aic": 9, "posetrack18": 14, "jhmdb": 3, "human36m": 4}


@pytest.mark.parametrize("name", REAL)
def test_real_samples_open_by_name_and_give_batches(name, tmp_path):
    module = opened(name, real_root(name, tmp_path / "root"), tmp_path / "cache")
    annotations = module.val_annotations
    people = ~annotations.ignore
    assert people.sum() == PEOPLE[name]
    batches = list(module.val_dataloader())
    shown = sum(len(batch.instances) for batch in batches)
    assert shown == len(annotations.instance_ids)
    assert sum(len(batch) for batch in batches) == len(annotations.image_ids)
    assert batches[0].instances.keypoints.shape[1] == len(module.skeleton)
    trained = next(iter(module.train_dataloader()))
    assert trained.images.shape == (2, 3, 64, 64)
    labelled = annotations.keypoints[people & (annotations.num_keypoints > 0)]
    boxes = annotations.boxes[people & (annotations.num_keypoints > 0)]
    seen = labelled[..., 2] > 0
    inside = (labelled[..., :2] >= boxes[:, None, :2] - 3) & (labelled[..., :2] <= boxes[:, None, 2:] + 3)
    assert inside.all(-1)[seen].mean() > 0.93


@pytest.mark.parametrize("name", REAL)
def test_the_index_carries_what_was_read(name, tmp_path):
    module = opened(name, real_root(name, tmp_path / "root"), tmp_path / "cache")
    rules = module.rules_of("val")
    again = load_annotations(module.annotation_file("val"), rules, tmp_path / "cache")
    fresh = load_annotations(module.annotation_file("val"), rules, tmp_path / "other")
    for field, value in vars(again).items():
        assert (value is None) == (getattr(fresh, field) is None)
        np.testing.assert_array_equal(value, getattr(fresh, field))
    whole = reading.referenced(reading.references(again))
    np.testing.assert_array_equal(whole.keypoints, again.keypoints)


def test_whole_body_keypoints_stand_where_the_parts_say(tmp_path):
    module = opened("wholebody", real_root("wholebody", tmp_path / "root"), tmp_path / "cache")
    source = json.loads((shared_data(SAMPLES) / "coco/test_coco_wholebody.json").read_text())["annotations"]
    person = next(p for p in source if p["righthand_valid"] and p["face_valid"])
    row = module.val_annotations.instance_ids.tolist().index(person["id"])
    keypoints = module.val_annotations.keypoints[row]
    hand = keypoints[[WHOLEBODY.index[name] for name in dict(WHOLEBODY.parts)["right_hand"]]]
    np.testing.assert_allclose(hand[:, :2] - 0.5, np.reshape(person["righthand_kpts"], (-1, 3))[:, :2], atol=1e-4)
    wrist = keypoints[WHOLEBODY.index["right_wrist"], :2]
    assert np.linalg.norm(hand[0, :2] - wrist) < 0.1 * (person["bbox"][2] + person["bbox"][3])
    assert set(np.unique(module.val_annotations.keypoints[..., 2])) <= {0, 1, 2}
    labelled = sum(v > 0 for p in source for name in ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts",
                                                      "righthand_kpts") for v in p[name][2::3])  # fmt: skip
    assert (module.val_annotations.keypoints[..., 2] > 0).sum() == labelled


def test_halpe_counts_as_coco_and_is_shown_with_26_keypoints(tmp_path):
    module = opened("halpe", real_root("halpe", tmp_path / "root"), tmp_path / "cache", skeleton="halpe26")
    source = json.loads((shared_data(SAMPLES) / "halpe/test_halpe.json").read_text())["annotations"]
    by_id = {person["id"]: person for person in source}
    annotations = module.val_annotations
    assert annotations.keypoints.shape[1:] == (len(HALPE26), 3)
    assert annotations.num_keypoints.tolist() == [by_id[i]["num_keypoints"] for i in annotations.instance_ids.tolist()]


def test_confidences_become_flags(tmp_path):
    keypoints = [10, 20, 2] * 134 + [30, 40, 0.34] + [30, 40, 0.36]
    path = one_person(tmp_path, keypoints)
    rules = ReadingRules(HALPE136, least_confidence=0.35)
    assert load_annotations(path, rules, tmp_path / "cache").keypoints[0, -3:, 2].tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="visibility is not 0, 1 or 2"):
        load_annotations(path, ReadingRules(HALPE136), tmp_path / "cache")
    every = ReadingRules(HALPE136, least_confidence=0)
    assert load_annotations(path, every, tmp_path / "cache").keypoints[0, -3:, 2].tolist() == [2, 2, 2]


def one_person(tmp_path, keypoints, **fields):
    person = {"id": 1, "image_id": 1, "bbox": [0, 0, 50, 60], "area": 900, "keypoints": keypoints, **fields}
    images = [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 100}]
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"images": images, "annotations": [person]}))
    return path


def test_mpii_counts_pixels_from_one_and_boxes_are_200_pixels_a_scale(tmp_path):
    module = opened("mpii", real_root("mpii", tmp_path / "root"), tmp_path / "cache")
    source = json.loads((shared_data(SAMPLES) / "mpii/test_mpii.json").read_text())
    annotations = module.val_annotations
    names = [name.decode() for name in annotations.file_names[annotations.image_index].tolist()]
    person = next(p for p in source if p["image"] == names[0])
    np.testing.assert_allclose(annotations.keypoints[0, :, :2] + 0.5, person["joints"], atol=1e-3)
    assert (annotations.keypoints[0, :, 2] / 2).tolist() == person["joints_vis"]
    box = annotations.boxes[0]
    np.testing.assert_allclose(box[2:] - box[:2], 200 * person["scale"])
    np.testing.assert_allclose((box[2:] + box[:2]) / 2, np.array(person["center"]) - 0.5)
    with Image.open(tmp_path / "root/images" / names[0]) as image:
        assert annotations.sizes[annotations.image_index[0]].tolist() == [image.height, image.width]


def test_oks_of_a_data_set_without_sigmas_is_refused_before_training(tmp_path):
    module = opened("mpii", real_root("mpii", tmp_path / "root"), tmp_path / "cache")
    with pytest.raises(ValueError, match="skeleton mpii has no OKS constants"):
        OKSAveragePrecision(module.val_annotations, module.skeleton)
    shown = opened("mpii", tmp_path / "root", tmp_path / "cache", skeleton="coco")
    assert OKSAveragePrecision(shown.val_annotations, shown.skeleton).sigmas == COCO.sigmas


def test_posetrack_has_videos_tracks_heads_and_regions(tmp_path):
    module = opened("posetrack18", real_root("posetrack18", tmp_path / "root"), tmp_path / "cache")
    annotations = module.val_annotations
    assert annotations.sequences.tolist() == [b"003418", b"009473", b"012834"]
    assert annotations.frames.tolist() == [0, 0, 0]
    files = sorted(shared_data(SAMPLES).glob("posetrack18/annotations/val/*.json"))
    contents = [json.loads(file.read_text()) for file in files]
    polygons = [list(zip(x, y, strict=True)) for c in contents for i in c["images"]
                for x, y in zip(i["ignore_regions_x"], i["ignore_regions_y"], strict=True)]  # fmt: skip
    assert len(annotations.region_images) == len(polygons) == annotations.ignore.sum()
    for number, polygon in enumerate(polygons):
        np.testing.assert_array_equal(annotations.region_points[annotations.region_index == number], polygon)
    people = {p["id"]: p for c in contents for p in c["annotations"]}
    rows = np.flatnonzero(~annotations.ignore)
    assert annotations.track_ids[rows].tolist() == [
        people[i]["track_id"] for i in annotations.instance_ids[rows].tolist()
    ]
    first = people[int(annotations.instance_ids[rows[0]])]
    x, y, width, height = first["bbox_head"]
    assert annotations.head_boxes[rows[0]].tolist() == [x, y, x + width, y + height]
    assert (annotations.track_ids[annotations.ignore] == -1).all()
    assert np.isnan(annotations.head_boxes[annotations.ignore]).all()
    batch = next(iter(module.val_dataloader()))
    assert batch.instances.track_ids.dtype == torch.int64
    assert len(batch.instances.track_ids) == len(batch.instances)


def test_part_of_a_video_keeps_its_regions(tmp_path):
    module = opened("posetrack18", real_root("posetrack18", tmp_path / "root"), tmp_path / "cache")
    whole = module.val_annotations
    part = reading.select(whole, np.array([0, 2]))
    assert part.sequences.tolist() == [b"003418", b"012834"]
    wanted = np.isin(whole.region_images, (0, 2))
    assert part.region_images.tolist() == [{0: 0, 2: 1}[i] for i in whole.region_images[wanted].tolist()]
    np.testing.assert_array_equal(part.region_points, whole.region_points[wanted[whole.region_index]])
    assert (
        part.region_index.tolist()
        == np.repeat(np.arange(wanted.sum()), np.bincount(whole.region_index)[wanted]).tolist()
    )


def test_merged_posetrack_file_equals_its_parts(tmp_path):
    root = shared_data(SAMPLES) / "posetrack18/annotations"
    rules = ReadingRules(POSETRACK18, area_factor=1, layout="video")
    parts, merged = (load_annotations(root / n, rules, tmp_path) for n in ("val", "test_posetrack18_val.json"))
    assert parts.instance_ids[~parts.ignore].tolist() == merged.instance_ids[~merged.ignore].tolist()
    np.testing.assert_array_equal(parts.keypoints[~parts.ignore], merged.keypoints[~merged.ignore])
    assert parts.region_images.tolist() == merged.region_images.tolist()


def test_frames_without_labels_are_left_out_and_counted(tmp_path, caplog):
    frames = [
        {"id": n, "file_name": f"v/{n:06}.jpg", "width": 99, "height": 99, "is_labeled": n != 1, "vid_id": "7"}
        for n in range(3)
    ]
    person = {"id": 5, "image_id": 2, "bbox": [], "keypoints": [30, 40, 1, 50, 80, 1] + [0, 0, 0] * 15, "track_id": 3}
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"images": frames, "annotations": [person]}))
    rules = ReadingRules(POSETRACK18, area_factor=1, layout="video", box_margin=0.25, pixel_shift=0)
    annotations = load_annotations(path, rules, tmp_path / "cache")
    assert annotations.frames.tolist() == [0, 2]
    assert annotations.boxes.tolist() == [[20, 30, 60, 90]]
    assert annotations.track_ids.tolist() == [3]
    assert "1 frames that are not labelled are left out" in caplog.text


def test_jhmdb_is_a_video_with_pixels_from_one(tmp_path):
    module = opened("jhmdb", real_root("jhmdb", tmp_path / "root"), tmp_path / "cache")
    annotations = module.val_annotations
    source = json.loads((shared_data(SAMPLES) / "jhmdb/test_jhmdb_sub1.json").read_text())
    assert annotations.frames.tolist() == [1, 1, 1]
    assert sorted(set(annotations.sequences.tolist())) == sorted({i["vid_id"].encode() for i in source["images"]})
    by_id = {p["id"]: p for p in source["annotations"]}
    expected = np.reshape(by_id[int(annotations.instance_ids[0])]["keypoints"], (-1, 3))[:, :2]
    np.testing.assert_allclose(annotations.keypoints[0, :, :2] + 0.5, expected, atol=1e-4)


def test_human36m_has_joints_in_metres(tmp_path):
    module = opened("human36m", real_root("human36m", tmp_path / "root"), tmp_path / "cache")
    annotations = module.val_annotations
    with np.load(shared_data(SAMPLES) / "h36m/test_h36m_body3d.npz") as file:
        np.testing.assert_allclose(annotations.joints_3d, file["S"][..., :3], rtol=1e-6)
        np.testing.assert_allclose(annotations.keypoints[..., :2] - 0.5, file["part"][..., :2], rtol=1e-6)
    assert annotations.sequences[0] == b"S1_Directions_1.54138969"
    assert annotations.frames.tolist() == [1, 2061, 396, 26]
    assert annotations.sizes.tolist()[0] == [1002, 1000]
    batch = next(iter(module.val_dataloader()))
    torch.testing.assert_close(batch.instances.joints_3d, torch.from_numpy(np.array(annotations.joints_3d)))


def test_mirrored_pictures_mirror_the_joints(tmp_path):
    root = real_root("human36m", tmp_path / "root")
    settings = {"augment.mosaic": 0, "augment.flip": 1, "train.limit": 1, "batch_size": 1}
    module = opened("human36m", root, tmp_path / "cache", **settings)
    joints = module.train_annotations.joints_3d[0]
    batch = next(iter(module.train_dataloader()))
    expected = joints[list(module.skeleton.flip)] * [-1, 1, 1]
    np.testing.assert_allclose(batch.instances.joints_3d[0], expected, rtol=1e-6)
    assert batch.to("cpu").instances.joints_3d is not None


def test_mpi_inf_3dhp(tmp_path):
    arrays = shared_data(SAMPLES) / "mpi_inf_3dhp/test_3dhp_test.npz"
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    for name in ("mpi_inf_3dhp_train", "mpi_inf_3dhp_test_valid"):
        shutil.copy(arrays, root / f"annotations/{name}.npz")
    for name in ("TS1_002001.jpg", "TS2_001850.jpg"):
        picture(root / "images" / name, 2048, 2048)
    annotations = opened("mpi_inf_3dhp", root, tmp_path / "cache").val_annotations
    assert annotations.sequences.tolist() == [b"TS1", b"TS2"]
    points = skeleton("mpi_inf_3dhp")
    middle = annotations.joints_3d[:, [points.index["left_hip"], points.index["right_hip"]]].mean(1)
    assert np.linalg.norm(middle - annotations.joints_3d[:, points.index["pelvis"]], axis=1).max() < 0.02


def save(path, **variables):
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy writes the MATLAB files of this test")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, variables)


def mpii_release(tmp_path):
    """The official file's structure with three pictures: two for training (one without people), one for testing."""
    points = [{"x": 10.0 * k + 5, "y": 4.0 * k + 7, "id": k, "is_visible": v} for k, v in ((0, "1"), (1, 0), (9, []))]
    person = {"x1": 20, "y1": 5, "x2": 40, "y2": 35, "annopoints": {"point": points}, "scale": 0.5,
              "objpos": {"x": 60, "y": 50}}  # fmt: skip
    head_only = {"x1": 20, "y1": 5, "x2": 40, "y2": 35, "annopoints": [], "scale": [], "objpos": []}
    tested = {"scale": 0.25, "objpos": {"x": 30, "y": 31}}
    annolist = [
        {"image": {"name": "a.jpg"}, "annorect": [person, head_only]},
        {"image": {"name": "b.jpg"}, "annorect": []},
        {"image": {"name": "c.jpg"}, "annorect": [tested]},
    ]
    cells = [{**a, "annorect": structures(a["annorect"])} for a in annolist]
    release = {"annolist": structures(cells), "img_train": np.array([1, 1, 0])}
    save(tmp_path / "root/mpii_human_pose_v1_u12_1.mat", RELEASE=release)
    for name in "abc":
        picture(tmp_path / f"root/images/{name}.jpg")
    return tmp_path / "root"


def structures(records):
    """A MATLAB array of structures with the same fields."""
    if not records:
        return np.zeros((0, 0))
    names = list(dict.fromkeys(name for record in records for name in record))
    array = np.zeros((1, len(records)), [(name, object) for name in names])
    for n, record in enumerate(records):
        array[0, n] = tuple(record.get(name, np.zeros((0, 0))) for name in names)
    return array


def test_official_mpii_file(tmp_path, caplog):
    root, file = mpii_release(tmp_path), "mpii_human_pose_v1_u12_1.mat"
    settings = {"train.annotations": file, "train.part": "train", "val.annotations": file, "val.part": "test"}
    module = opened("mpii", root, tmp_path / "cache", **settings)
    train, test = module.train_annotations, module.val_annotations
    assert train.file_names.tolist() == [b"a.jpg", b"b.jpg"]
    assert train.boxes.tolist() == [[9.5, -0.5, 109.5, 99.5]]
    assert train.head_boxes.tolist() == [[19.5, 4.5, 39.5, 34.5]]
    labelled = {MPII.keypoints[k]: train.keypoints[0, k].tolist() for k in np.flatnonzero(train.keypoints[0, :, 2])}
    assert labelled == {"right_ankle": [4.5, 6.5, 2], "right_knee": [14.5, 10.5, 1], "head_top": [94.5, 42.5, 2]}
    assert "1 people without a place and a scale are left out" in caplog.text
    assert test.file_names.tolist() == [b"c.jpg"]
    assert test.num_keypoints.tolist() == [0]
    with pytest.raises(ValueError, match=r"has the parts train, test; `part` is not given"):
        opened("mpii", root, tmp_path / "cache", **settings | {"train.part": "null"})


def test_leeds_sports_pose(tmp_path):
    rng = np.random.default_rng(0)
    joints = rng.uniform(5, 80, (3, len(LSP), 6))
    joints[2] = rng.integers(0, 2, joints.shape[1:])
    save(tmp_path / "root/joints.mat", joints=joints)
    for number in range(1, 7):
        picture(tmp_path / f"root/images/im{number:04}.jpg")
    module = opened("lsp", tmp_path / "root", tmp_path / "cache")
    assert guessed(tmp_path / "root").how == "guessed data=lsp: its files are where it expects them"
    assert module.train_annotations.file_names.tolist() == [b"im0001.jpg", b"im0002.jpg", b"im0003.jpg"]
    assert module.val_annotations.image_ids.tolist() == [4, 5, 6]
    keypoints = module.val_annotations.keypoints
    np.testing.assert_allclose(keypoints[..., :2], joints[:2, :, 3:].transpose(2, 1, 0) - 0.5, rtol=1e-6)
    np.testing.assert_array_equal(keypoints[..., 2], 2 - joints[2, :, 3:].T)
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    margin = 0.1 * (high - low).max(1, keepdims=True)
    np.testing.assert_allclose(module.val_annotations.boxes, np.hstack([low - margin, high + margin]), rtol=1e-5)


def test_extended_leeds_sports_pose(tmp_path):
    rng = np.random.default_rng(0)
    joints = rng.uniform(5, 80, (len(LSP), 3, 4))
    joints[:, 2] = np.arange(len(LSP))[:, None] % 3 > 0
    save(tmp_path / "root/joints.mat", joints=joints)
    for number in range(1, 5):
        picture(tmp_path / f"root/images/im{number:05}.jpg")
    keypoints = opened("lspet", tmp_path / "root", tmp_path / "cache").train_annotations.keypoints
    np.testing.assert_array_equal(keypoints[..., 2], 2 * joints[:, 2].T)
    np.testing.assert_allclose(keypoints[..., :2], joints[:, :2].transpose(2, 0, 1) - 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="has the parts train; `part` is test"):
        opened("lspet", tmp_path / "root", tmp_path / "cache", **{"val.part": "test"})
    assert guessed(tmp_path / "root").how == "guessed data=lspet: its files are where it expects them"


def flic_example(number, train):
    coords = np.full((2, 29), np.nan)
    coords[:, [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]] = np.arange(22).reshape(2, 11) + number
    coords[:, 2] = np.nan  # a wrist that nobody labelled
    flags = {"istrain": int(train), "istest": int(not train)}
    return {"coords": coords, "filepath": f"film-{number // 2}.jpg", "imgdims": np.array([90, 120, 3]), **flags}


def test_flic(tmp_path):
    save(tmp_path / "root/examples.mat", examples=structures([flic_example(n, n < 3) for n in range(5)]))
    for number in range(3):
        picture(tmp_path / f"root/images/film-{number}.jpg")
    module = opened("flic", tmp_path / "root", tmp_path / "cache")
    train, test = module.train_annotations, module.val_annotations
    assert train.file_names.tolist() == [b"film-0.jpg", b"film-1.jpg"]
    assert train.image_index.tolist() == [0, 0, 1]
    assert test.instance_ids.tolist() == [4, 5]
    assert test.sizes.tolist() == [[90, 120], [90, 120]]
    assert train.keypoints[1, FLIC.index["right_hip"]].tolist() == [7 + 1 - 0.5, 18 + 1 - 0.5, 2]
    assert train.keypoints[1, FLIC.index["left_wrist"], 2] == 0


def official_aic(tmp_path):
    keypoints = [[30 + k, 20 + 2 * k, k % 3 + 1] for k in range(14)]
    people = {"human1": [n for point in keypoints for n in point], "human2": [0, 0, 3] * 14}
    boxes = {"human1": [10, 10, 60, 80], "human2": [1, 2, 11, 22]}
    path = tmp_path / "keypoint_train_annotations_20170909.json"
    path.write_text(json.dumps([{"image_id": "f0", "keypoint_annotations": people, "human_annotations": boxes}]))
    picture(tmp_path / "images/f0.jpg")
    return path


def test_official_ai_challenger_list(tmp_path):
    rules = ReadingRules(skeleton("aic"), area_factor=1, layout="aic", images=tmp_path / "images")
    annotations = load_annotations(official_aic(tmp_path), rules, tmp_path / "cache")
    assert annotations.keypoints[0, :4, 2].tolist() == [2, 1, 0, 2]
    assert annotations.num_keypoints.tolist() == [10, 0]
    assert annotations.boxes.tolist() == [[10, 10, 60, 80], [1, 2, 11, 22]]
    assert annotations.areas.tolist() == [3500, 200]
    assert annotations.file_names.tolist() == [b"f0.jpg"]


def test_images_whose_size_nobody_knows(tmp_path, caplog):
    path = official_aic(tmp_path)
    (tmp_path / "images/f0.jpg").write_bytes(b"<html>")
    rules = ReadingRules(skeleton("aic"), area_factor=1, layout="aic", images=tmp_path / "images")
    with pytest.raises(ValueError, match="1 images whose file is missing or no image, so that their size is unknown"):
        load_annotations(path, rules, tmp_path / "cache")
    with pytest.raises(ValueError, match="does not state the sizes of its images"):
        load_annotations(path, ReadingRules(skeleton("aic"), area_factor=1, layout="aic"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("layout", "name", "content", "complaint"),
    [
        (
            "wholebody",
            "a.json",
            '{"images": [], "annotations": [{"id": 1}]}',
            "not COCO-WholeBody's: no annotation has foot",
        ),
        ("mpii", "a.json", "{}", "not MPII's: expected a list of people with image"),
        ("mpii", "a.json", '[{"image": "a.jpg", "joints": 3}]', "of person 1 cannot be read: KeyError"),
        ("aic", "a.json", "[{}]", "not AI Challenger's: expected a list of pictures with image_id"),
        ("aic", "a.json", "[1", "is cut off or not JSON"),
        (
            "video",
            "a.json",
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
            "is not named VIDEO/NUMBER",
        ),
        ("poses3d", "a.npz", "text", "is cut off or not an .npz file of plain arrays"),
        ("mpii", "a.mat", "text", "is cut off or not a MATLAB file"),
        ("lsp", "joints.mat", "", "is cut off or not a MATLAB file"),
    ],
)
def test_other_files_are_refused_with_what_was_expected(tmp_path, layout, name, content, complaint):
    if name.endswith(".mat"):
        pytest.importorskip("scipy", reason="SciPy reads MATLAB files")
    (tmp_path / name).write_text(content)
    points = {"wholebody": WHOLEBODY, "video": POSETRACK18, "aic": skeleton("aic"), "lsp": LSP}.get(layout, MPII)
    rules = ReadingRules(points, area_factor=1, layout=layout, part="train", images=tmp_path)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_annotations(tmp_path / name, rules, tmp_path / "cache")
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "points", "variables", "complaint"),
    [
        ("lsp", LSP, {"joint": np.zeros((3, 14, 2))}, "has no variable `joints`"),
        ("lsp", LSP, {"joints": np.zeros((3, 13, 2))}, r"`joints` is \(3, 13, 2\), expected \(3, 14, images\)"),
        (
            "flic",
            FLIC,
            {"examples": {"coords": np.zeros((2, 29))}},
            "a structure has no field `istrain`; its fields: coords",
        ),
        ("mpii", MPII, {"RELEASE": {"annolist": 1}}, "a structure has no field `img_train`"),
    ],
)
def test_other_matlab_files(tmp_path, layout, points, variables, complaint):
    save(tmp_path / "a.mat", **variables)
    rules = ReadingRules(points, area_factor=1, layout=layout, part="train", images=tmp_path)
    with pytest.raises(ValueError, match=complaint):
        load_annotations(tmp_path / "a.mat", rules, tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"S": np.zeros((1, 17, 3))}, r"array `S` is \(1, 17, 3\), expected \(1, 17, 4\)"),
        ({"scale": None}, r"array `scale` is missing, expected \(1,\)"),
        ({"imgname": np.array(["frame.jpg"])}, "is not named VIDEO_NUMBER"),
    ],
)
def test_wrong_arrays(tmp_path, change, complaint):
    arrays = {"imgname": np.array(["a_1.jpg"]), "part": np.zeros((1, 17, 3)), "S": np.zeros((1, 17, 4)),
              "center": np.zeros((1, 2)), "scale": np.ones(1)}  # fmt: skip
    np.savez(tmp_path / "a.npz", **{name: v for name, v in (arrays | change).items() if v is not None})
    rules = ReadingRules(skeleton("human36m"), area_factor=1, layout="poses3d", images=tmp_path)
    with pytest.raises(ValueError, match=complaint):
        load_annotations(tmp_path / "a.npz", rules, tmp_path / "cache")


def test_a_folder_of_videos_is_read_anew_when_one_changes(tmp_path):
    content = {"images": [{"id": 1, "file_name": "v/1.jpg", "width": 9, "height": 9}], "annotations": []}
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(content))
    rules = ReadingRules(POSETRACK18, area_factor=1, layout="video")
    assert load_annotations(folder, rules, tmp_path / "cache").image_ids.tolist() == [1]
    content["images"][0]["id"] = 12
    (folder / "a.json").write_text(json.dumps(content))
    assert load_annotations(folder, rules, tmp_path / "cache").image_ids.tolist() == [12]


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "pose_lab/conf/data").glob("*.yaml")])
def test_every_data_set_says_what_it_expects(name, tmp_path):
    cfg = composed(f"data={name}", "++data.root=nowhere", cache=tmp_path)
    content = OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)
    if "settings" in content:
        return  # it makes its own pictures
    module = build(cfg.data)
    assert module.skeleton is skeleton(content["skeleton"])
    with pytest.raises(FileNotFoundError) as caught:
        module.prepare_data()
    assert content["train"]["annotations"] in str(caught.value)
    assert "Found there: no such folder" in str(caught.value)


def test_people_are_shown_with_another_skeleton(tmp_path):
    root = shared_data("coco_mini")
    module = opened("coco", root, tmp_path, skeleton="crowdpose")
    plain = opened("coco", root, tmp_path)
    shown, source = module.val_annotations, plain.val_annotations
    for name in ("left_wrist", "right_ankle"):
        expected = source.keypoints[:, COCO.index[name]]
        np.testing.assert_allclose(shown.keypoints[:, module.skeleton.index[name]][:, 2], expected[:, 2])
    assert (shown.keypoints[:, module.skeleton.index["head"], 2] == 0).all()
    assert (shown.num_keypoints <= source.num_keypoints).all()
    assert module.fingerprint() != plain.fingerprint()
    assert "skeleton crowdpose (annotated as coco)" in module.describe()
    assert "annotated as" not in plain.describe()


@pytest.mark.parametrize(
    ("image", "person", "complaint"),
    [
        ({"ignore_regions_x": [[1, 2, 3]], "ignore_regions_y": [[1, 2]]}, {}, "frame v/1.jpg are not polygons"),
        ({"ignore_regions_x": [[1, 2]], "ignore_regions_y": []}, {}, "frame v/1.jpg are not polygons"),
        ({}, {"track_id": "a"}, r"1 annotations whose track_id is not a whole number \(id 5\)"),
        ({}, {"bbox": [1, 2, 3]}, "1 annotations without a box of four numbers"),
    ],
)
def test_wrong_videos(tmp_path, image, person, complaint):
    frame = {"id": 1, "file_name": "v/1.jpg", "width": 99, "height": 99, **image}
    record = {"id": 5, "image_id": 1, "bbox": [1, 2, 30, 40], "keypoints": [9, 9, 1] * 17, **person}
    (tmp_path / "v.json").write_text(json.dumps({"images": [frame], "annotations": [record]}))
    with pytest.raises(ValueError, match=complaint) as caught:
        load_annotations(
            tmp_path / "v.json", ReadingRules(POSETRACK18, area_factor=1, layout="video"), tmp_path / "cache"
        )
    assert "v.json" in str(caught.value)
