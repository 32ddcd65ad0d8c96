import json
import logging
import multiprocessing
import re

import numpy as np
import pytest

from pose_lab.data.annotations import ReadingRules, fingerprint, load_annotations, select, with_people
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.conftest import shared_data

RULES = ReadingRules(COCO)


def person(n, image, labelled=2, **changes):
    keypoints = [[10 + k, 20 + k, 2] for k in range(labelled)] + [[0, 0, 0]] * (len(COCO) - labelled)
    record = {"id": n, "image_id": image, "bbox": [1, 2, 30, 40], "area": 600, "iscrowd": 0}
    return record | {"keypoints": np.ravel(keypoints).tolist()} | changes


def content():
    images = [{"id": i, "file_name": f"ü{i}.jpg", "height": 48, "width": 64} for i in (9, 3, 5)]
    return {"images": images, "annotations": [person(1, 9), person(2, 3, iscrowd=1), person(4, 9, labelled=0)]}


@pytest.fixture
def write(tmp_path):
    def _write(values):
        path = tmp_path / "people.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return path, tmp_path / "cache"

    return _write


def load(path_and_cache, rules=RULES):
    path, cache = path_and_cache
    return load_annotations(path, rules, cache)


def test_arrays_are_sorted_by_image_and_mapped(write):
    annotations = load(write(content()))
    assert annotations.image_ids.tolist() == [3, 5, 9]
    assert [name.decode() for name in annotations.file_names] == ["ü3.jpg", "ü5.jpg", "ü9.jpg"]
    assert annotations.instance_ids.tolist() == [2, 1, 4]
    assert annotations.image_index.tolist() == [0, 2, 2]
    assert annotations.starts.tolist() == [0, 1, 1, 3]
    assert annotations.boxes[0].tolist() == [1, 2, 31, 42]
    assert annotations.keypoints[1, 1].tolist() == [11.5, 21.5, 2]
    assert annotations.ignore.tolist() == [True, False, False]
    assert annotations.num_keypoints.tolist() == [2, 2, 0]
    assert annotations.pixel_shift == 0.5
    assert all(isinstance(getattr(annotations, name), np.memmap) for name in ("keypoints", "file_names", "boxes"))


def test_a_file_is_read_once_and_again_when_it_changes(write, monkeypatch):
    path, cache = write(content())
    load_annotations(path, RULES, cache)
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("read again"))
    load_annotations(path, RULES, cache)
    monkeypatch.undo()
    changed = content()
    changed["annotations"].append(person(7, 5))
    assert len(load(write(changed)).instance_ids) == 4


def test_fingerprint_is_of_the_contents(write, tmp_path):
    path, cache = write(content())
    copy = tmp_path / "elsewhere.json"
    copy.write_text(json.dumps(content(), indent=1))
    assert fingerprint(path, RULES, cache) == fingerprint(copy, RULES, tmp_path / "other")
    path.write_text(json.dumps(content()).replace("600", "601"))
    assert fingerprint(path, RULES, cache) != fingerprint(copy, RULES, cache)


def test_processes_that_start_at_once_make_one_index(write):
    path, cache = write(content())
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.starmap(fingerprint, [(path, RULES, cache)] * 8)
    assert len(set(results)) == 1
    assert [entry.suffix for entry in (cache / "annotations").iterdir() if entry.is_dir()] == [""]


def test_selecting_images(write):
    annotations = load(write(content()))
    assert with_people(annotations).tolist() == [2]
    selected = select(annotations, np.array([1, 2]))
    assert selected.image_ids.tolist() == [5, 9]
    assert selected.image_index.tolist() == [1, 1]
    assert selected.instance_ids.tolist() == [1, 4]


def test_crowdpose_counts_and_measures_as_its_authors(tmp_path):
    path = shared_data("crowdpose") / "annotations" / "crowdpose_val.json"
    annotations = load_annotations(path, ReadingRules(CROWDPOSE, area_factor=0.53), tmp_path)
    raw = json.loads(path.read_text())
    records = {record["id"]: record for record in raw["annotations"]}
    own = [records[n] for n in annotations.instance_ids.tolist()]
    assert annotations.num_keypoints.tolist() == [record["num_keypoints"] for record in own]
    np.testing.assert_allclose(annotations.areas, [0.53 * r["bbox"][2] * r["bbox"][3] for r in own])
    crowd = {image["id"]: image["crowdIndex"] for image in raw["images"]}
    assert annotations.crowd_index.tolist() == [crowd[n] for n in annotations.image_ids.tolist()]
    assert int(annotations.ignore.sum()) == 106


def test_real_coco_file(tmp_path):
    path = shared_data("coco_mini") / "annotations" / "person_keypoints_train2017.json"
    annotations = load_annotations(path, RULES, tmp_path)
    assert (len(annotations.image_ids), len(annotations.instance_ids)) == (80, 172)
    assert int((annotations.num_keypoints > 0).sum()) == 86
    assert len(with_people(annotations)) <= 36
    assert np.isnan(annotations.crowd_index).all()


def with_annotation(**changes):
    values = content()
    values["annotations"][0] |= changes
    return values


def with_image(**changes):
    values = content()
    values["images"][0] |= changes
    return values


def with_unlabelled(**changes):
    values = content()
    values["annotations"][2] |= changes
    return values


def with_record(field, record):
    values = content()
    values[field][0] = record
    return values


def without(field):
    values = content()
    del values["annotations"][0][field]
    return values


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (with_annotation(bbox=[1, 2, 0, 40]), r"1 annotations with a box of zero size \(annotation 0: id 1\)"),
        (
            with_annotation(bbox=[1, float("nan"), 3, 40]),
            r"whose box is not finite numbers \(annotation 0: id 1\)",
        ),
        (
            with_annotation(bbox=[1, None, 3, 40]),
            r"whose box is not finite numbers \(annotation 0: id 1\)",
        ),
        (
            with_annotation(bbox=[1, [2, 3], 3, 40]),
            r"whose box is not finite numbers \(annotation 0: id 1\)",
        ),
        (
            with_annotation(bbox=[1, 10**400, 3, 40]),
            r"whose box is not finite numbers \(annotation 0: id 1\)",
        ),
        (with_unlabelled(bbox=[4, 4, 0, 0]), r"1 annotations with a box of zero size \(annotation 2: id 4\)"),
        (
            with_unlabelled(bbox=[4, 4, float("nan"), 2]),
            r"whose box is not finite numbers \(annotation 2: id 4\)",
        ),
        (with_annotation(bbox=[1, 2]), "without a box of four numbers"),
        (
            with_annotation(keypoints=[1, 2, 2] * len(CROWDPOSE)),
            rf"skeleton coco, `data.annotated_as`, has {len(COCO)}\)",
        ),
        (with_annotation(keypoints=[float("nan"), 2, 2] * len(COCO)), "labelled keypoints are not finite"),
        (with_annotation(keypoints=[1, 2, 3] * len(COCO)), "visibility is not 0, 1 or 2"),
        (with_annotation(image_id=1234), "1 annotations of an image that is not in the list"),
        (with_annotation(id=2), r"1 annotations with an id that occurred before \(annotation 1: id 2\)"),
        (with_annotation(area="large"), "area is not a finite number"),
        (with_annotation(area=-1), r"1 annotations whose area is negative \(annotation 0: id 1\)"),
        (with_annotation(num_keypoints=1.5), "1 annotations whose num_keypoints is not a whole number from 0 on"),
        (with_annotation(num_keypoints="2"), "1 annotations whose num_keypoints is not a whole number from 0 on"),
        (with_annotation(num_keypoints=-2), "1 annotations whose num_keypoints is not a whole number from 0 on"),
        (without("id"), r"1 annotations without id or image_id \(annotation 0: without id\)"),
        (with_image(crowdIndex=float("nan")), r"1 images whose crowdIndex is NaN or infinite \(image 0: id 9\)"),
        (without("keypoints"), "1 annotations without keypoints"),
        (without("area"), "1 annotations without area"),
        (with_image(id=3), r"1 images with an id that occurred before \(image 1: id 3\)"),
        (with_image(width=0), "1 images of zero size"),
        (with_image(width=2**40), "1 images whose id, width or height is not a whole number"),
        (with_image(file_name=123), r"1 images whose file_name is no text \(image 0: id 9\)"),
        (with_image(crowdIndex="high"), r"1 images whose crowdIndex is no number \(image 0: id 9\)"),
        (with_record("images", 1234), r"1 images that are no objects \(image 0: 1234\)"),
        (with_record("annotations", ["person"]), r"1 annotations that are no objects \(annotation 0: \['person'\]\)"),
        (with_record("annotations", None), r"1 annotations that are no objects \(annotation 0: None\)"),
    ],
)
def test_bad_records_are_counted_and_named_or_left_out(write, caplog, values, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        load(write(values))
    assert "people.json" in str(caught.value)
    assert "`data.bad_records: skip`" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        kept = load(write(values), ReadingRules(COCO, bad_records="skip"))
    assert len(kept.instance_ids) < 3
    assert re.search(f"{complaint}.*They are left out", caplog.text)


def test_what_was_left_out_is_told_at_every_opening(write, caplog):
    values = write(with_annotation(bbox=[1, 2, 0, 40]))
    for _ in range(2):
        caplog.clear()
        load(values, ReadingRules(COCO, bad_records="skip"))
        assert (
            "1 bad records: 1 annotations with a box of zero size (annotation 0: id 1). They are left out."
            in caplog.text
        )


def test_nothing_is_told_of_a_sound_file(write, caplog):
    load(write(content()), ReadingRules(COCO, bad_records="skip"))
    assert not caplog.text


def test_an_area_of_zero_and_no_crowd_index_are_sound(write):
    values = with_annotation(area=0)
    values["images"][0]["crowdIndex"] = None
    values["images"][1]["crowdIndex"] = 0.5
    annotations = load(write(values))
    assert annotations.areas.tolist() == [600, 0, 600]
    assert np.isnan(annotations.crowd_index).tolist() == [False, True, True]


def test_many_bad_records_make_a_short_message(write):
    values = content()
    values["annotations"] = [person(n, 3, bbox=[0, 0, 0, 0]) for n in range(50)]
    with pytest.raises(ValueError, match=r"50 bad records: .*\(annotation 0: id 0, .*annotation 4: id 4, \.\.\.\)"):
        load(write(values))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (json.dumps(content())[:-40], r"people\.json \(\d+ bytes\) is cut off or not JSON"),
        ("<html>", "is cut off or not JSON"),
        ("[]", "an object with lists `images` and `annotations`"),
        ('{"images": []}', "an object with lists `images` and `annotations`"),
    ],
)
def test_damaged_files(write, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(write(text))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist"):
        load_annotations(tmp_path / "gone.json", RULES, tmp_path)


def test_a_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(OSError, match="cannot read the annotation file") as caught:
        load_annotations(tmp_path, RULES, tmp_path / "cache")
    assert "data.cache" not in str(caught.value)


def test_unwritable_cache(write, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write the annotation index .*`data\.cache`"):
        load_annotations(write(content())[0], RULES, tmp_path / "file")


def test_empty_split(write):
    annotations = load(write({"images": content()["images"], "annotations": []}))
    assert annotations.keypoints.shape == (0, len(COCO), 3)
    assert annotations.starts.tolist() == [0, 0, 0, 0]
