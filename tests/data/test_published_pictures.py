"""KAPAO's published pictures and labels (pose objects), reproduced from its fixtures."""

import numpy as np
import pytest
import torch

from pose_lab.data import augment, images, letterbox, people
from pose_lab.data.augment import Augmentation
from pose_lab.data.people import People
from pose_lab.ops import warps
from pose_lab.skeletons import COCO
from tests.conftest import fixture_path

EDGE = 0.001  # the published code clips boxes this far inside the frame


def drawn(plan, sources):
    frame = np.full((*plan.frame, 3), 114, np.uint8)
    for row, picture in enumerate(sources):
        crop, block, window = (rows[row].tolist() for rows in (plan.crop, plan.block, plan.window))
        if window[0] < window[2] and window[1] < window[3]:
            images.draw(frame, picture[crop[1] : crop[3], crop[0] : crop[2]], block, window, None, plan.average)
    return frame[:, ::-1] if plan.flipped[0] else frame


def annotated(data, image):
    """A picture's people without crowds, in the file's coordinates, which the published code does not shift."""
    mine = (data["ann_image"] == image) & (data["ann_iscrowd"] == 0)
    boxes = torch.from_numpy(data["ann_bbox_f64"][mine])
    return People(
        source_row=torch.zeros(len(boxes), dtype=torch.int64),
        boxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        keypoints=torch.from_numpy(data["ann_keypoints"][mine]).double(),
        areas=boxes[:, 2:].prod(1),
        ignore=torch.zeros(len(boxes), dtype=torch.bool),
    )


def plan_of(tag, size):
    sizes, image = torch.tensor([size]), torch.zeros(1, dtype=torch.int64)
    if tag == "flip":
        draws = {name: values[:1] for name, values in augment.uniforms(0, 0, np.arange(1)).items()}
        return augment.training_plan(image, sizes, (128, 128), Augmentation(flip=1.0), draws)
    return augment.evaluation_plan(image, sizes, (128, 128), "rectangular" if tag == "valrect" else "square", 64)


@pytest.mark.parametrize("tag", ["val", "valrect", "flip"])
@pytest.mark.parametrize(("name", "image"), [*(("coco", i) for i in range(4)), ("crowdpose", 0), ("crowdpose", 1)])
def test_letterboxed_and_flipped_pictures(name, image, tag):
    data = np.load(fixture_path(f"kapao/labels_{name}_train.npz"))
    picture = np.ascontiguousarray(data[f"image{image}_bgr"][..., ::-1])
    plan = plan_of(tag, picture.shape[:2])
    expected = data[f"{tag}{image}_image_rgb"].transpose(1, 2, 0)
    result = drawn(plan, [picture])
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= 1

    if name == "coco":
        rows = torch.from_numpy(data[f"{tag}{image}_labels"])
        rows = rows[rows[:, 1] == 0][:, 2:].double()
        instances = people.carried(annotated(data, image), plan, COCO.flip, keep_cut=False)
        # published labels forget that an odd padding is rounded; ours stay on the picture
        forgotten = torch.from_numpy(data[f"{tag}{image}_pad_f64"]) - plan.visible[0, :2]
        forgotten[0] *= -1 if plan.flipped[0] else 1
        instances.boxes = instances.boxes + forgotten.repeat(2)
        instances.keypoints[..., :2] += forgotten
        assert_equal_rows(instances, rows, plan.frame)


def assert_equal_rows(instances, rows, frame):
    """Compare with published rows: box as centre and size, keypoint triples, all relative to the frame."""
    size = torch.tensor(frame[::-1], dtype=torch.float64)
    boxes = people.cut(instances.boxes.double(), torch.cat([torch.zeros(2), size - EDGE])[None])
    centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size], 1)
    torch.testing.assert_close(centred, rows[:, :4], atol=1e-5, rtol=0)
    triples = rows[:, 4:].unflatten(1, (-1, 3))
    visible = triples[..., 2] > 0
    assert torch.equal(instances.keypoints[..., 2].double(), triples[..., 2])
    points = instances.keypoints[..., :2].double() / size
    torch.testing.assert_close(points[visible], triples[..., :2][visible], atol=2e-6, rtol=0)


def surviving(boxes, frame):
    """(N,) the published rule for rows after the map; `boxes` are mapped, not yet cut."""
    limits = torch.tensor([0.0, 0.0, frame[1], frame[0]], dtype=torch.float64)
    sides, old = (b[:, 2:] - b[:, :2] for b in (people.cut(boxes, limits[None]), boxes))
    aspect = (sides / (sides.flip(1) + 1e-16)).amax(1)
    return (sides > 2).all(1) & (sides.prod(1) / (old.prod(1) + 1e-16) > 0.1) & (aspect < 20)


def assert_equal_pixels(boxes, keypoints, expected, frame):
    """Compare mapped people with published rows class, x1, y1, x2, y2, triples in pixels."""
    kept = surviving(boxes, frame)
    limits = torch.tensor([0.0, 0.0, frame[1], frame[0]], dtype=torch.float64)
    torch.testing.assert_close(people.cut(boxes, limits[None])[kept], expected[:, 1:5], atol=1e-3, rtol=0)
    triples = expected[:, 5:].unflatten(1, (-1, 3))
    visible = triples[..., 2] > 0
    assert torch.equal(keypoints[kept][..., 2], triples[..., 2])
    torch.testing.assert_close(keypoints[kept][..., :2][visible], triples[..., :2][visible], atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", ["affine_zoom_in", "affine_zoom_out"])
def test_zoomed_labels(case):
    data = np.load(fixture_path(f"kapao/{case}.npz"))
    _, _, _, zoom, _, _, move_x, move_y = data["draws_f64"].tolist()
    height, width = data["image_in"].shape[:2]
    frame = data["image_out"].shape[:2]
    moved = torch.tensor([[move_x * frame[1], move_y * frame[0]]], dtype=torch.float64)
    middle = torch.tensor([[width / 2, height / 2]], dtype=torch.float64)
    to_frame = augment.zoom_map(middle, torch.tensor([zoom], dtype=torch.float64), moved)
    rows, expected = (torch.from_numpy(data[name]).double() for name in ("labels_in", "labels_out"))
    rows, expected = rows[rows[:, 0] == 0], expected[expected[:, 0] == 0]
    boxes = warps.apply_to_boxes(to_frame, rows[:, 1:5])
    keypoints = people.framed_keypoints(rows[:, 5:].unflatten(1, (-1, 3)), to_frame, frame)
    assert_equal_pixels(boxes, keypoints, expected, frame)


def mosaic_parts(data):
    size = int(data["size"])
    pictures = [np.ascontiguousarray(data[f"image{i}_bgr"]) for i in range(4)]
    sizes = torch.tensor([picture.shape[:2] for picture in pictures])
    scaled = letterbox.fitted(sizes, (size, size))
    corner = augment.mosaic_corners(scaled[None], torch.from_numpy(data["centre_yx"])[None])[0]
    place = letterbox.placing(sizes, scaled, corner)
    visible = torch.cat([corner.flip(-1), (corner + scaled).flip(-1)], -1).clamp(0, 2 * size).double()
    zoom, move = float(data["draws_f64"][3]), torch.from_numpy(data["draws_f64"][6:]) * size
    middle = torch.full((1, 2), float(size), dtype=torch.float64)
    to_frame = augment.zoom_map(middle, torch.tensor([zoom], dtype=torch.float64), move[None])
    return pictures, sizes, place, visible, to_frame, (size, size)


def test_mosaic_labels_with_the_published_treatment_of_cut_keypoints():
    data = np.load(fixture_path("kapao/mosaic.npz"))
    _, sizes, place, visible, to_frame, frame = mosaic_parts(data)
    boxes, keypoints = [], []
    for i, (height, width) in enumerate(sizes.tolist()):
        rows = torch.from_numpy(data[f"rows{i}_f64"])
        rows = rows[rows[:, 0] == 0]
        scale = torch.tensor([width, height], dtype=torch.float64)
        half = rows[:, 3:5] / 2
        corners = torch.cat([(rows[:, 1:3] - half) * scale, (rows[:, 1:3] + half) * scale], 1)
        triples = rows[:, 5:].unflatten(1, (-1, 3)).clone()
        triples[..., :2] *= scale
        here = place[i].expand(len(rows), 2, 3)
        limits = visible[i].expand(len(rows), 4)
        placed, _ = people.placed_keypoints(triples, here, limits, keep_cut=True)
        keypoints.append(people.framed_keypoints(placed, to_frame, frame))
        boxes.append(warps.apply_to_boxes(to_frame, people.cut(warps.apply_to_boxes(here, corners), limits)))
    expected = torch.from_numpy(data["labels_out"]).double()
    assert_equal_pixels(torch.cat(boxes), torch.cat(keypoints), expected[expected[:, 0] == 0], frame)


def test_mosaic_picture_differs_by_less_than_half_a_pixel_of_shift():
    """The published map is in pixel indices, ours in continuous coordinates, with edges rounded to whole pixels."""
    data = np.load(fixture_path("kapao/mosaic.npz"))
    pictures, sizes, place, visible, to_frame, frame = mosaic_parts(data)
    drawing = augment._drawing(sizes, place, visible, to_frame.expand(4, 2, 3), frame)
    moved = warps.apply_to_points(drawing["to_frame"], visible.unflatten(1, (2, 2)))
    exact = warps.apply_to_points(to_frame, visible.unflatten(1, (2, 2)))
    assert (moved - exact).abs().max() <= 0.5
    result = np.full((*frame, 3), 114, np.uint8)
    for i, picture in enumerate(pictures):
        crop, block, window = (drawing[name][i].tolist() for name in ("crop", "block", "window"))
        shrink = int(drawing["shrink"][i])
        small = images._shrunk(picture, shrink) if shrink > 1 else picture
        images.draw(result, small[crop[1] : crop[3], crop[0] : crop[2]], block, window)
    blurred = [
        np.asarray(image, float).reshape(16, 6, 16, 6, 3).mean((1, 3)) for image in (result, data["image_out_bgr"])
    ]
    assert np.abs(blurred[0] - blurred[1]).mean() < 6
