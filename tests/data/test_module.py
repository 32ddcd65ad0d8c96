import logging
import shutil

import cv2
import numpy as np
import pytest
import torch

from pose_lab.data import images, inventory
from pose_lab.data.images import BadImageError
from pose_lab.data.module import Split
from pose_lab.ops import warps
from tests.conftest import shared_data
from tests.data.scenes import data_module, read_annotations, write_annotations, write_scene


@pytest.fixture
def root(tmp_path):
    return write_scene(tmp_path / "root")


def test_missing_root_says_what_is_expected_and_found(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data_module(tmp_path / "nowhere", tmp_path / "cache")
    message = str(caught.value)
    assert "Expected there: annotations/people.json (file), pictures (folder)" in message
    assert "Found there: no such folder" in message


def test_incomplete_root_says_what_is_missing(root, tmp_path):
    (root / "annotations" / "people.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Missing: annotations/people\.json\. Found there: annotations/, pictures/"
    ):
        data_module(root, tmp_path / "cache")


def test_missing_images_are_counted_and_named_before_training(root, tmp_path):
    (root / "pictures" / "2.png").unlink()
    (root / "pictures" / "4.png").unlink()
    with pytest.raises(BadImageError, match=r"2 of 6 images are unusable: 2\.png is missing; 4\.png is missing"):
        data_module(root, tmp_path / "cache")


def test_bad_images_can_be_left_out_and_are_reported(root, tmp_path, caplog):
    (root / "pictures" / "2.png").unlink()
    (root / "pictures" / "3.png").write_bytes(b"<html>")
    cut_off = root / "pictures" / "5.png"
    cut_off.write_bytes(cut_off.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        module = data_module(root, tmp_path / "cache", bad_images="skip")
    assert "3 of 6 images are unusable" in caplog.text
    assert all(name in caplog.text for name in ("2.png is missing", "3.png is not an image", "5.png is cut off"))
    assert module.val_annotations.image_ids.tolist() == [100, 101, 104]
    shown = torch.cat([batch.image_ids for batch in module.val_dataloader()])
    assert shown.tolist() == [100, 101, 104]
    trained = torch.cat([batch.image_ids for batch in module.train_dataloader()])
    assert sorted(trained.tolist()) == [100, 101, 104]


def test_nothing_left(root, tmp_path):
    values = read_annotations(root)
    write_annotations(root, {"images": values["images"], "annotations": []})
    with pytest.raises(ValueError, match="no picture is left in the train split"):
        data_module(root, tmp_path / "cache", train=Split("people.json", "pictures", people_only=True))


def test_people_only_and_limit_choose_pictures(root, tmp_path):
    values = read_annotations(root)
    write_annotations(root, values | {"annotations": values["annotations"][2:]})
    split = Split("people.json", "pictures", people_only=True, limit=3)
    module = data_module(root, tmp_path / "cache", train=split, val=split)
    assert module.train_annotations.image_ids.tolist() == [102, 103, 104]
    assert module.val_annotations.image_index.tolist() == [0, 1, 2]
    whole = data_module(root, tmp_path / "cache")
    assert module.fingerprint() != whole.fingerprint()
    assert "train 3 pictures" in module.describe()


def test_too_few_pictures_for_a_batch(root, tmp_path):
    module = data_module(root, tmp_path / "cache", batch_size=7, drop_last=True)
    with pytest.raises(ValueError, match="6 training pictures do not fill one batch of 7"):
        module.train_dataloader()


def repainted(path, quality):
    picture = cv2.imread(str(path))
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, quality])


def test_fingerprint_is_of_the_image_files_too_but_not_of_their_place(root, tmp_path):
    before = data_module(root, tmp_path / "cache").fingerprint()
    copy = shutil.copytree(root, tmp_path / "copy")
    assert data_module(copy, tmp_path / "other").fingerprint() == before
    repainted(root / "pictures" / "1.png", 0)
    assert data_module(root, tmp_path / "cache").fingerprint() != before


def test_fingerprint_tells_which_pictures_are_left_out(root, tmp_path):
    before = data_module(root, tmp_path / "cache", bad_images="skip").fingerprint()
    assert data_module(root, tmp_path / "cache").fingerprint() == before
    path = root / "pictures" / "3.png"
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)  # as long as before, but no picture
    path.write_bytes(data)
    assert data_module(root, tmp_path / "cache", bad_images="skip").fingerprint() != before


def test_what_cannot_be_shown_is_left_out(root, tmp_path, caplog):
    values = read_annotations(root)
    values["images"][4]["width"] += 1
    write_annotations(root, values)
    undecodable = root / "pictures" / "1.jpg"
    (root / "pictures" / "1.png").unlink()
    undecodable.write_bytes(b"\xff\xd8\xff\xda" + bytes(99) + b"\xff\xd9")
    values["images"][1]["file_name"] = "1.jpg"
    write_annotations(root, values)
    with caplog.at_level(logging.WARNING):
        module = data_module(root, tmp_path / "cache", bad_images="skip")
    assert "2 of 6 images are unusable" in caplog.text
    assert "1.jpg is not an image" in caplog.text
    assert "4.png is 120x80 pixels, but its annotation says 121x80" in caplog.text
    shown = torch.cat([batch.image_ids for batch in module.train_dataloader()])
    assert sorted(shown.tolist()) == [100, 102, 103, 105]


def test_sound_images_are_looked_at_once(root, tmp_path, monkeypatch):
    (root / "pictures" / "3.png").write_bytes(b"<html>")
    looked_at = []
    defect = images.defect
    monkeypatch.setattr(images, "defect", lambda path, size: looked_at.append(path.name) or defect(path, size))
    data_module(root, tmp_path / "cache", bad_images="skip")
    assert sorted(set(looked_at)) == [f"{i}.png" for i in range(6)]
    assert len(looked_at) == 7  # both splits are the same pictures; what is bad is looked at again
    repainted(root / "pictures" / "1.png", 0)
    looked_at.clear()
    data_module(root, tmp_path / "cache", bad_images="skip")
    assert set(looked_at) == {"1.png", "3.png"}


def test_training_images_in_order_need_no_look(root, tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(images, "defect", lambda path, size: looked_at.append(path.name))
    data_module(root, tmp_path / "cache", val=Split("people.json", "pictures", limit=2))
    assert sorted(looked_at) == ["0.png", "1.png"]


def test_broken_images_of_the_evaluation_are_found_before_training(root, tmp_path):
    for number in (2, 5):
        path = root / "pictures" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-40])
    advice = r"Get them whole, or set `data\.bad_images: skip`"
    with pytest.raises(BadImageError, match=rf"2 of 6 images are unusable: 2\.png is cut .*; 5\.png is cut .*{advice}"):
        data_module(root, tmp_path / "cache")


def test_a_training_set_without_people_is_refused(root, tmp_path):
    write_annotations(root, read_annotations(root) | {"annotations": []})
    module = data_module(root, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"people\.json: none of the 6 training pictures shows a person that counts"):
        module.train_dataloader()


def test_annotations_of_a_part_are_copied_once(root, tmp_path):
    split = Split("people.json", "pictures", limit=3)
    module = data_module(root, tmp_path / "cache", train=split, val=split)
    assert module.val_annotations is module.val_annotations
    assert module.pixel_shift == module.val_annotations.pixel_shift


@pytest.mark.parametrize(
    ("field", "choices"),
    [("bad_records", "error, skip"), ("bad_images", "error, skip"), ("val_fit", "square, rectangular, demo, short")],
)
def test_unknown_policy(root, tmp_path, field, choices):
    with pytest.raises(ValueError, match=rf"data\.{field} must be one of {choices}, but it is 'ignore'"):
        data_module(root, tmp_path / "cache", **{field: "ignore"})


def test_demo_frames_want_batches_of_one(root, tmp_path):
    with pytest.raises(ValueError, match=r"data\.val_batch_size must be 1"):
        data_module(root, tmp_path / "cache", val_fit="demo", val_batch_size=2)
    with pytest.raises(ValueError, match=r"latency\.batches must be 1"):
        data_module(root, tmp_path / "cache", val_fit="demo", val_batch_size=1).val_batches(2)


@pytest.mark.parametrize(("fit", "batch_size"), [("square", 4), ("rectangular", 4), ("demo", 1)])
def test_evaluation_shows_whole_pictures_and_maps_back(root, tmp_path, fit, batch_size):
    stride = 32
    module = data_module(root, tmp_path / "cache", val_fit=fit, val_stride=stride, val_batch_size=batch_size)
    annotations, seen = module.val_annotations, []
    for batch in module.val_dataloader():
        assert all(side % stride == 0 for side in batch.images.shape[2:])
        rows = torch.from_numpy(np.searchsorted(annotations.image_ids, batch.image_ids.numpy()))
        original = torch.from_numpy(np.array(annotations.keypoints))[rows].double()
        mapped = warps.apply_to_points(batch.to_input, original[..., :2])
        torch.testing.assert_close(batch.instances.keypoints[..., :2].double(), mapped, atol=1e-4, rtol=0)
        assert batch.instances.keypoints[..., 2].eq(2).all()
        assert torch.equal(batch.sizes, torch.from_numpy(np.array(annotations.sizes))[rows].long())
        seen += batch.image_ids.tolist()
    assert sorted(seen) == annotations.image_ids.tolist()


def test_real_photographs(tmp_path):
    root = shared_data("coco_mini")
    train = Split("person_keypoints_train2017.json", "train2017")
    val = Split("person_keypoints_val2017.json", "val2017")
    module = data_module(root, tmp_path, train=train, val=val, batch_size=16, val_batch_size=16, val_fit="rectangular")
    people = sum(len(batch.instances) for batch in module.val_dataloader())
    assert people == 80
    assert sum(len(batch) for batch in module.train_dataloader()) == 80


def test_files_are_found_by_listing_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "deep/b.jpg", "unlisted.jpg"):
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "folder.jpg").mkdir()
    found = inventory.listing(tmp_path, ["a.jpg", "deep/b.jpg", "deep/c.jpg", "other/d.jpg", "folder.jpg"])
    assert {name: size for name, (size, _) in found.items()} == {"a.jpg": 3, "deep/b.jpg": 3}


def test_unwritable_list_of_sound_images(root, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images").touch()
    with pytest.raises(OSError, match=r"cannot write the list of sound images to .*`data\.cache`"):
        data_module(root, tmp_path / "cache", bad_images="skip")
