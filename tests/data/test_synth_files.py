"""SynthPeople on disk: the same bytes always, COCO's layout, made once, nothing half-made."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from pycocotools import coco as official_coco

from pose_lab.data.synth import SynthSettings, ensure
from pose_lab.data.synth import write as synth_write
from pose_lab.data.synth.__main__ import main
from pose_lab.skeletons import skeleton

SMALL = SynthSettings(train_images=10, val_images=4, width=96, height=96, empty=0.4, crowd_regions=0.3, seed=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure(SMALL, tmp_path_factory.mktemp("cache"), workers=2)


def contents(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def start_maker(cache: Path, images: int):
    command = [sys.executable, "-m", "pose_lab.data.synth", "make", f"root={cache}", "workers=1", "width=96",
               "height=96", f"train_images={images}", "val_images=1"]  # fmt: skip
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_same_bytes_for_any_number_of_workers(root, tmp_path):
    again = ensure(SMALL, tmp_path, workers=1)
    assert again.name == root.name
    assert contents(again) == contents(root)


def test_another_seed_gives_other_pictures(root, tmp_path):
    other = ensure(replace(SMALL, seed=3), tmp_path)
    assert other.name != root.name
    assert (other / "train" / "000000000001.jpg").read_bytes() != (root / "train" / "000000000001.jpg").read_bytes()


def test_one_data_set_however_its_numbers_are_written():
    settings = SynthSettings(people=(1, 3), noise=4.0, camera_pitch=(-8.0, 30.0))
    same = SynthSettings(people=[1.0, 3], noise=4, camera_pitch=[-8, 30], width=128.0)
    assert same == settings
    assert same.digest == settings.digest
    assert replace(settings, noise=5).digest != settings.digest


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("train_images", 0, "is below 1"),
        ("width", 96.5, "no whole number"),
        ("width", "96", "no whole number"),
        ("noise", "loud", "no number"),
        ("crowd", 1, "no true or false"),
        ("people", 3, "no list of 2 values"),
        ("people", [1, 2, 3], "no list of 2 values"),
        ("poses", "standing", "no list"),
    ],
)
def test_settings_of_another_type_are_named(field, value, complaint):
    with pytest.raises(ValueError, match=f"{field}=.*{complaint}"):
        SynthSettings(**{field: value})


def test_layout_and_settings(root):
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "settings.json", "train", "val"]
    assert len(list((root / "train").glob("*.jpg"))) == SMALL.train_images
    assert len(list((root / "val").glob("*.jpg"))) == SMALL.val_images
    assert SynthSettings.from_json(json.loads((root / "settings.json").read_text())) == SMALL
    assert root.name == f"synth-{SMALL.digest}"


def test_official_reader_opens_it_and_masks_match_areas_and_boxes(root):
    official = official_coco.COCO(str(root / "annotations" / "person_keypoints_train.json"))
    points = skeleton("coco")
    category = official.loadCats(1)[0]
    assert tuple(category["keypoints"]) == points.keypoints
    assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(points.limbs)
    people = official.loadAnns(official.getAnnIds())
    assert people
    for person in people:
        mask = official.annToMask(person)
        assert mask.shape == (96, 96)
        assert mask.sum() == person["area"]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        assert person["bbox"] == list(box)
        assert person["num_keypoints"] == sum(v > 0 for v in person["keypoints"][2::3])
    for image in official.loadImgs(official.getImgIds()):
        assert cv2.imread(str(root / "train" / image["file_name"])).shape == (96, 96, 3)
    crowds = [person for person in people if person["iscrowd"]]
    assert crowds
    assert not any(crowd["num_keypoints"] for crowd in crowds)
    assert {person["image_id"] for person in people} < set(official.getImgIds())  # some pictures are empty
    validation = official_coco.COCO(str(root / "annotations" / "person_keypoints_val.json"))
    assert not set(validation.getImgIds()) & set(official.getImgIds())


def test_joints_in_space_belong_to_the_annotations(root):
    people = json.loads((root / "annotations" / "person_keypoints_val.json").read_text())["annotations"]
    space = np.load(root / "annotations" / "joints3d_val.npz")
    assert space["annotation_ids"].tolist() == [person["id"] for person in people]
    assert space["image_ids"].tolist() == [person["image_id"] for person in people]
    for person, joints, focal in zip(people, space["joints"], space["focal"], strict=True):
        keypoints = np.array(person["keypoints"]).reshape(-1, 3)
        seen = keypoints[:, 2] > 0
        projected = joints[:, :2] / joints[:, 2:] * focal + 48 - 0.5
        assert np.abs(projected - keypoints[:, :2])[seen].max(initial=0) < 0.6


def test_crowd_mode_writes_crowd_index(tmp_path):
    crowded = replace(SMALL, skeleton="crowdpose", crowd=True, people=(3, 4), train_images=3, val_images=0, empty=0)
    content = json.loads((ensure(crowded, tmp_path) / "annotations" / "person_keypoints_train.json").read_text())
    assert all(image["crowdIndex"] >= 0 for image in content["images"])
    head = skeleton("crowdpose").keypoints.index("head")
    counted = [p for p in content["annotations"] if p["keypoints"][3 * head + 2] > 0]
    assert counted
    assert all(p["num_keypoints"] < sum(v > 0 for v in p["keypoints"][2::3]) for p in counted)


def test_makers_that_start_at_once_make_it_once(tmp_path):
    makers = [start_maker(tmp_path, 30) for _ in range(3)]
    said = [maker.communicate()[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert sum("Drawing" in lines for lines in said) == 1
    assert len({lines.splitlines()[-1] for lines in said}) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_a_killed_maker_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    maker = start_maker(tmp_path, 300)
    while not any(tmp_path.glob("*.making-*/train/*.jpg")):
        assert maker.poll() is None, maker.communicate()
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    assert not [path for path in tmp_path.glob("synth-*") if path.is_dir() and "making" not in path.name]
    settings = SynthSettings(train_images=300, val_images=1, width=96, height=96)
    assert any(tmp_path.glob(f"synth-{settings.digest}.making-*"))
    alive = FileLock(tmp_path / "synth-0123.lock")
    with alive:
        living = tmp_path / "synth-0123.making-now"
        living.mkdir()
        root = ensure(SMALL, tmp_path)  # another data set
        assert living.exists()
    living.rmdir()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [root.name]


def test_an_interrupted_maker_cleans_up(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synth_write, "_assemble", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure(SMALL, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match=rf"cannot write the synthetic data set to {blocked} .*; set `data.cache`"):
        ensure(SMALL, blocked)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    full = json.dumps({"errno": errno.ENOSPC, "message": os.strerror(errno.ENOSPC)})
    monkeypatch.setattr(synth_write, "_WORKER", f"print({full!r})")
    with pytest.raises(OSError, match=rf"data set to {tmp_path} \(No space left on device\); free some space"):
        ensure(SMALL, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_worker_that_breaks_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(synth_write, "_WORKER", "raise SystemExit('out of luck')")
    with pytest.raises(RuntimeError, match=r"ended with status 1: out of luck"):
        ensure(SMALL, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_workers_import_no_torch():
    code = "import sys, pose_lab.data.synth.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_contact_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["sheet", f"out={out}", "count=3", "columns=2", "zoom=2", "width=64", "height=48", "people=[1,2]"]) == 0
    height, width, _ = cv2.imread(str(out)).shape
    assert (width, height > 2 * 2 * 48) == (2 * 2 * 2 * 64, True)  # the legend is below the pictures
    assert main(["sheet", f"out={out}", "peple=[1,2]"]) == 1
    assert "no setting is called peple; there are: skeleton," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("people.foo", r"people\.foo is no name of a picture: it must end in \.png, \.jpg, \.jpeg, "),
        ("file/people.png", r"cannot write the contact sheet to .*file \(.*\); choose another out=FILE"),
    ],
)
def test_a_contact_sheet_that_cannot_be_written_is_one_message(tmp_path, capsys, name, complaint):
    (tmp_path / "file").touch()
    assert main(["sheet", f"out={tmp_path / name}", "count=1", "width=64", "height=48"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*{complaint}", line), line
