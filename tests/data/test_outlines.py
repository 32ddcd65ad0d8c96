"""Outlines of people whom nobody labelled: read, kept, shown as the pictures are, and refused where they are wrong."""

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from pose_lab.data import outlines
from pose_lab.data.annotations import ReadingRules, load_annotations, select
from pose_lab.data.augment import Augmentation
from pose_lab.ops.heatmaps import loss_mask
from pose_lab.skeletons import COCO
from tests.conftest import shared_data
from tests.data.scenes import data_module, read_annotations, write_annotations, write_scene

SIZE = (24, 40)
TURNED = Augmentation(flip=0.5, translate=0.2, rotate=30.0, reduce=(0.75, 1.5))
CHANGES = {
    "whole": Augmentation(flip=0.5),
    "mosaic": Augmentation(mosaic=1.0, scale=0.5, translate=0.1, flip=0.5),
    "turned": TURNED,
}


def random_mask(seed, size=SIZE):
    """A few ellipses (H, W), 0 and 1."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for _ in range(3):
        middle = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = (int(rng.integers(2, size[1] // 3)), int(rng.integers(2, size[0] // 3)))
        cv2.ellipse(mask, middle, axes, float(rng.integers(180)), 0, 360, 1, -1)
    return mask


def runs(mask):
    """COCO's run lengths in its compressed text, and as a list."""
    text = {"size": list(mask.shape), "counts": coco.encode(np.asfortranarray(mask))["counts"].decode()}
    values = mask.ravel(order="F")
    ends = [*np.flatnonzero(np.diff(values)) + 1, len(values)]
    lengths = np.diff([0, *ends]).tolist()
    return text, {"size": list(mask.shape), "counts": ([0] if values[0] else []) + lengths}


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_both_kinds_are_read(seed):
    mask = random_mask(seed) if seed > 1 else np.full(SIZE, seed, np.uint8)
    for segmentation in runs(mask):
        assert outlines.fault(segmentation, SIZE) is None
        found = outlines.decoded(outlines.encoded([segmentation], np.zeros((1, 4)), SIZE), SIZE)
        assert np.array_equal(found, 255 * mask)


def test_polygons_run_lengths_and_boxes_are_one_mask():
    polygon, (text, _) = [2, 3, 12, 3, 12, 9.5, 2, 9.5], runs(random_mask(0))
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [30, 18, 90, 22]], np.float64)
    found = outlines.decoded(outlines.encoded([[polygon, [20, 2, 25, 2, 25, 8]], text, []], boxes, SIZE), SIZE)
    expected = random_mask(0) | coco.decode(coco.frPyObjects([polygon, [20, 2, 25, 2, 25, 8]], *SIZE)).max(2)
    expected[18:22, 30:] = 1
    assert np.array_equal(found, 255 * expected)


def test_polygons_that_enclose_nothing_are_none():
    box = np.array([[3, 4, 10, 12]], np.float64)
    whole = outlines.encoded([[]], box, SIZE)
    for segmentation in ([[5, 5, 9, 9]], [[5, 5]], [[]]):
        assert outlines.fault(segmentation, SIZE) is None
        assert outlines.encoded([segmentation], box, SIZE) == whole
    triangle = [20, 2, 25, 2, 25, 8]
    assert outlines.encoded([[triangle, [1, 1, 9, 9]]], box, SIZE) == outlines.encoded([[triangle]], box, SIZE)


def test_polygons_far_beyond_the_picture_are_cut():
    code = outlines.encoded([[[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]], np.zeros((1, 4)), SIZE)
    assert (outlines.decoded(code, SIZE) == 255).all()


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        ("polygon", "no list of polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list of polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no list of polygons"),
        ([[1, 2, 3, 4, 5, "6"]], "no list of polygons"),
        ({"size": [24, 41], "counts": [24 * 41]}, "another size"),
        ({"counts": [24 * 40]}, "another size"),
        ({"size": [24, 40], "counts": [24 * 40, 1]}, "do not fill"),
        ({"size": [24, 40], "counts": [-1, 24 * 40 + 1]}, "do not fill"),
        ({"size": [24, 40], "counts": "0d0"}, "do not fill"),
        ({"size": [24, 40], "counts": "~~~~"}, "do not fill"),
        ({"size": [24, 40], "counts": ""}, "do not fill"),
        ({"size": [24, 40]}, "do not fill"),
    ],
)
def test_wrong_outlines_of_the_unlabelled_are_refused(segmentation, complaint, tmp_path):
    write_scene(tmp_path, [SIZE])
    content = read_annotations(tmp_path)
    content["annotations"][0]["segmentation"] = segmentation
    write_annotations(tmp_path, content)
    data_module(tmp_path, tmp_path / "cache")  # of a person with keypoints nobody looks at it
    content["annotations"][0]["iscrowd"] = 1
    write_annotations(tmp_path, content)
    with pytest.raises(ValueError, match=f"1 annotations whose segmentation.*{complaint}.*annotation 0: id 1"):
        data_module(tmp_path, tmp_path / "cache")


def scene(root, sizes=((96, 128), (128, 80), (220, 200), (100, 100))):
    """Pictures that are white where their crowd region is, and black elsewhere; the last has none."""
    write_scene(root, sizes)
    content = read_annotations(root)
    for number, size in enumerate(sizes):
        mask = random_mask(number, size) if number < len(sizes) - 1 else np.zeros(size, np.uint8)
        cv2.imwrite(str(root / "pictures" / f"{number}.png"), np.repeat(255 * mask[..., None], 3, 2))
        if mask.any():
            crowd = content["annotations"][number] | {"id": 50 + number, "iscrowd": 1, "segmentation": runs(mask)[0]}
            content["annotations"].append(crowd)
    write_annotations(root, content)
    return root


@pytest.mark.parametrize(
    ("change", "side", "tolerance"),
    [("whole", 100, 0.0), ("turned", 100, 0.0), ("mosaic", 100, 0.02), ("whole", 220, 0.02), ("turned", 220, 0.02)],
)
def test_outlines_move_as_the_pictures_do(change, side, tolerance, tmp_path):
    """Exactly, but that pictures which are shown much smaller are decoded so, and outlines are not."""
    settings = {"augment": CHANGES[change], "outlines": True, "pad_value": 0, "batch_size": 4}
    root = scene(tmp_path, ((96, 128), (128, 80), (side, side), (100, 100)))
    module = data_module(root, tmp_path / "cache", **settings)
    seen = 0
    for epoch in range(3):
        loader = module.train_dataloader()
        loader.sampler.epoch = epoch
        for batch in loader:
            white = batch.images[:, 0] > 127
            seen += int(white.sum())
            assert int((white != batch.unlabelled).sum()) <= tolerance * int(white.sum())
    assert seen > 2000


def test_outlines_are_there_only_where_they_are_asked_for_and_known(tmp_path):
    module = data_module(scene(tmp_path / "with"), tmp_path / "cache")
    assert next(iter(module.train_dataloader())).unlabelled is None
    module = data_module(tmp_path / "with", tmp_path / "cache", outlines=True)
    assert next(iter(module.train_dataloader())).unlabelled.shape == (2, 96, 96)
    assert next(iter(module.val_dataloader())).unlabelled is None
    module = data_module(write_scene(tmp_path / "without"), tmp_path / "cache", outlines=True)
    assert next(iter(module.train_dataloader())).unlabelled is None


def test_outlines_of_selected_pictures(tmp_path):
    annotations = data_module(scene(tmp_path), tmp_path / "cache").train_annotations
    some = select(annotations, np.array([1, 3]))
    assert some.unlabelled_starts.tolist() == [0, len(some.unlabelled_codes), len(some.unlabelled_codes)]
    found = outlines.decoded(bytes(some.unlabelled_codes), (128, 80))
    assert np.array_equal(found, 255 * random_mask(1, (128, 80)))


def test_heatmaps_are_not_learnt_within_outlines(tmp_path):
    module = data_module(scene(tmp_path), tmp_path / "cache", outlines=True, augment=TURNED, batch_size=4)
    batch = next(iter(module.train_dataloader()))
    for stride in (4, 2):
        mask = loss_mask(batch, (4, 96 // stride, 96 // stride), stride)
        assert mask.shape == (4, 1, 96 // stride, 96 // stride)
        for y, x in ((0, 0), (5, 11), (17, 3)):
            assert torch.equal(mask[:, 0, y, x] == 0, batch.unlabelled[:, stride * y, stride * x])
    assert 0.01 < float(1 - mask.mean()) < 0.99


def test_real_annotations(tmp_path):
    path = shared_data("coco_mini") / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    annotations = load_annotations(path, ReadingRules(COCO), tmp_path)
    sizes, starts = annotations.sizes, annotations.unlabelled_starts
    crowds = 0
    for row, image in enumerate(annotations.image_ids.tolist()):
        size = tuple(sizes[row].tolist())
        expected = np.zeros(size, np.uint8)
        for person in content["annotations"]:
            if person["image_id"] == image and (person["iscrowd"] or not person["num_keypoints"]):
                encoded = coco.frPyObjects(person["segmentation"], *size)
                crowds += person["iscrowd"]
                expected |= coco.decode(coco.merge(encoded) if isinstance(encoded, list) else encoded)
        code = bytes(annotations.unlabelled_codes[starts[row] : starts[row + 1]])
        assert (code != b"") == bool(expected.any())
        if code:
            assert np.array_equal(outlines.decoded(code, size), 255 * expected)
    assert crowds
