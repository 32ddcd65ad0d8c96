"""Objects against the published label tables and augmented labels."""

import pytest
import torch

from pose_lab.methods.kapao import objects
from pose_lab.ops.boxes import clip, to_centres, to_corners
from tests.methods.kapao_cases import fixture, labels, people


def moved(instances, scale, shift):
    """The people after x -> scale x + shift (pixels)."""
    keypoints = instances.keypoints.clone()
    keypoints[..., :2] = keypoints[..., :2] * scale + shift
    result = people(instances.image_index.tolist(), keypoints, instances.boxes * scale.repeat(2) + shift.repeat(2))
    result.labelled, result.ignore = instances.labelled, instances.ignore
    return result


def annotated(data, image):
    """The people of one annotated picture, in its pixels."""
    rows = data["ann_image"] == image
    corner, size = data["ann_bbox_f64"][rows].split(2, 1)
    keypoints = data["ann_keypoints"][rows].float()
    keypoints[..., :2] = clip(keypoints[..., :2], data["image_hw"][image])
    result = people([0] * int(rows.sum()), keypoints, torch.cat((corner, corner + size), 1).float())
    if int(data["train"]):
        result.ignore = data["ann_iscrowd"][rows].bool()
    return result


def table(found):
    """(T, 5) class and box of the objects."""
    return torch.cat((found.categories[:, None], found.boxes), 1)[found.valid]


@pytest.mark.parametrize("case", ["coco_train", "coco_val", "coco_per_keypoint_size", "crowdpose_train"])
def test_label_tables(case):
    data = fixture(f"labels_{case}")
    sides = data["kp_bbox_f64"].tolist()
    rule = labels(keypoint_box=sides if len(sides) > 1 else sides[0], edge=0.0)
    for image, (height, width) in enumerate(data["image_hw"].tolist()):
        found = objects(annotated(data, image), height, width, rule)
        rows = data["rows_f64"][data["rows_f64"][:, 0] == image]
        size = torch.tensor([width, height] * 2)
        expected = torch.cat((rows[:, 1:2], rows[:, 2:6] * size), 1).float()
        torch.testing.assert_close(table(found), expected, rtol=0, atol=1.3e-4)  # 1e-6 of 128 pixels
        triples = found.keypoints[found.person[found.valid & (found.categories == 0)]]
        wanted = rows[rows[:, 1] == 0][:, 6:].unflatten(1, (-1, 3)).float() * torch.tensor([width, height, 1])
        torch.testing.assert_close(triples[triples[..., 2] > 0], wanted[wanted[..., 2] > 0], rtol=0, atol=1.3e-4)


@pytest.mark.parametrize("case", ["coco_train", "crowdpose_train"])
@pytest.mark.parametrize(("tag", "borders"), [("val", "clipped"), ("valrect", "clipped"), ("flip", "published")])
def test_labels_of_network_inputs(case, tag, borders):
    data = fixture(f"labels_{case}")
    flip = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    flip = flip if case == "coco_train" else [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13]
    for image in range(len(data["image_hw"])):
        height, width = data[f"{tag}{image}_image_rgb"].shape[1:]
        scale = data[f"{tag}{image}_ratio_f64"].flip(0).float()
        found = moved(annotated(data, image), scale, data[f"{tag}{image}_pad_f64"].float())
        if tag == "flip":
            found.boxes = torch.stack((width - found.boxes[:, 2], found.boxes[:, 1],
                                       width - found.boxes[:, 0], found.boxes[:, 3]), 1)  # fmt: skip
            found.keypoints[..., 0] = width - found.keypoints[..., 0]
            found.keypoints, found.labelled = found.keypoints[:, flip], found.labelled[:, flip]
        rows = data[f"{tag}{image}_labels"][:, 1:6] * torch.tensor([1, width, height, width, height])
        result = table(objects(found, height, width, labels(borders=borders)))
        assert len(result) == len(rows)
        by_class = rows[:, 0].argsort(stable=True), result[:, 0].argsort(stable=True)
        difference = (rows[by_class[0]] - result[by_class[1]]).abs()
        # validation keeps the distortion of the sides' rounding to whole pixels: up to 0.05 px of a keypoint box
        limits = torch.tensor([0, 1.2e-3, 1.2e-3, 0.05, 0.05]) if borders == "clipped" else torch.tensor(1.2e-3)
        assert (difference <= limits).all()


def augmented(rows, scale, shift, height, width):
    """The pose rows (class, xyxy, triples) of one picture after the affine map, as a DataModule gives them."""
    poses = rows[rows[:, 0] == 0]
    keypoints = poses[:, 5:].unflatten(1, (-1, 3))
    result = moved(people([0] * len(poses), keypoints, poses[:, 1:5]), scale.expand(2), shift)
    inside = (clip(result.keypoints[..., :2], torch.tensor([height, width])) == result.keypoints[..., :2]).all(-1)
    result.keypoints[..., 2] *= inside
    result.zoom *= scale
    return result


@pytest.mark.parametrize("case", ["affine_zoom_in", "affine_zoom_out"])
def test_augmented_labels(case):
    data = fixture(case)
    height, width = data["image_out"].shape[:2]
    centre = torch.tensor([data["image_in"].shape[1] / 2, data["image_in"].shape[0] / 2])
    scale = data["draws_f64"][3].float()
    shift = data["draws_f64"][6:].float() * torch.tensor([width, height]) - scale * centre
    found = augmented(data["labels_in"], scale, shift, height, width)
    rule = labels(borders="published", keypoint_box=float(data["kp_bbox_f64"]), edge=0.0)
    result = objects(found, height, width, rule)
    rows = table(result)
    expected = torch.cat((data["labels_out"][:, :1], to_centres(data["labels_out"][:, 1:5])), 1)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-4)
    compare_keypoints(result, data["labels_out"])


def compare_keypoints(found, expected):
    triples = found.keypoints[found.person[found.valid & (found.categories == 0)]]
    wanted = expected[expected[:, 0] == 0][:, 5:].unflatten(1, (-1, 3))
    assert torch.equal(triples[..., 2], wanted[..., 2])
    visible = wanted[..., 2] > 0
    torch.testing.assert_close(triples[visible], wanted[visible], rtol=0, atol=1e-4)


def test_mosaic_labels():
    """The published mosaic moves keypoints that the canvas cuts off onto its border, and so does this test."""
    data = fixture("mosaic")
    size = int(data["size"])
    centre = data["centre_yx"].flip(0)
    parts = []
    for place, source in enumerate(data["order"].tolist()):
        rows = data[f"rows{source}_f64"].float()
        side = torch.tensor([data[f"image{source}_bgr"].shape[1], data[f"image{source}_bgr"].shape[0]])
        corner = centre - side * (1 - torch.tensor([place % 2, place // 2]))
        rows[:, 1:5] = to_corners(rows[:, 1:5]) * side.repeat(2) + corner.repeat(2)
        triples = rows[:, 5:].unflatten(1, (-1, 3))
        triples[..., :2] = triples[..., :2] * side + corner
        parts.append(rows)
    rows = torch.cat(parts)
    triples = rows[:, 5:].unflatten(1, (-1, 3))
    canvas = torch.tensor([2 * size, 2 * size])
    triples[..., :2] = clip(triples[..., :2], canvas)
    rows[:, 1:5] = clip(rows[:, 1:5], canvas)
    scale = data["draws_f64"][3].float()
    shift = data["draws_f64"][6:].float() * size - scale * size
    found = augmented(rows, scale, shift, size, size)
    result = objects(found, size, size, labels(borders="published", edge=0.0))
    rows = table(result)
    expected = torch.cat((data["labels_out"][:, :1], to_centres(data["labels_out"][:, 1:5])), 1)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-4)
    compare_keypoints(result, data["labels_out"])


def one_person(boxes, x=10.0, y=10.0, visibility=2.0):
    keypoints = torch.tensor([[[x, y, visibility], [0.0, 0.0, 0.0]]])
    return people([0], keypoints, torch.tensor([boxes]))


@pytest.mark.parametrize("borders", ["exact", "published", "clipped"])
def test_small_pose_boxes_are_left_out_but_not_their_keypoints(borders):
    rule = labels(borders=borders, keypoint_box=0.1)
    for boxes, valid in (([5.0, 5.0, 7.0, 30.0], False), ([5.0, 5.0, 7.5, 30.0], True), ([1.0, 1.0, 4.0, 63.0], False)):
        found = objects(one_person(boxes), 64, 64, rule)
        assert found.valid.tolist() == [valid, True, False]
        assert found.boxes[1].tolist() == pytest.approx([10, 10, 6.4, 6.4])


def test_exact_borders_keep_the_box_centred():
    inside = one_person([0.0, 0.0, 64.0, 64.0], x=1.0)
    beyond = one_person([0.0, 0.0, 64.0, 64.0], x=-1.0, visibility=0.0)
    beyond.labelled[0, 0] = True
    exact, published = labels(keypoint_box=0.1), labels(keypoint_box=0.1, borders="published")
    assert objects(inside, 64, 64, exact).boxes[1].tolist() == pytest.approx([1, 10, 6.4, 6.4])
    assert objects(inside, 64, 64, published).boxes[1, 0] > 2
    assert not objects(beyond, 64, 64, exact).valid[1]
    assert objects(beyond, 64, 64, published).valid[1]


def test_keypoints_cut_off_with_their_tile_are_no_objects():
    cut = one_person([0.0, 0.0, 64.0, 64.0], visibility=0.0)
    cut.labelled[0, 0] = True
    assert not objects(cut, 64, 64, labels(borders="published")).valid[1]


def test_crowds_are_no_objects():
    crowd = one_person([0.0, 0.0, 64.0, 64.0])
    crowd.ignore[:] = True
    assert not objects(crowd, 64, 64, labels()).valid.any()


def test_unknown_borders():
    with pytest.raises(ValueError, match="exact, published, clipped"):
        labels(borders="none")
