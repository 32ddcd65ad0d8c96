"""Targets and losses against the published ones, and what our corrections change."""

from dataclasses import replace

import pytest
import torch

from pose_lab.methods.dekr import (
    STRIDE,
    Joints,
    Labels,
    Offsets,
    focal_loss,
    heatmaps,
    joints,
    offset_loss,
    offsets,
)
from pose_lab.ops.heatmaps import heatmap_loss, loss_mask
from pose_lab.poses import Instances
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.methods.dekr_cases import CONFIG, fixture
from tests.methods.kapao_cases import batch

PUBLISHED = {"size": "origin", "min_size": 0.0, "overlap": "published", "phantom_centres": True}


def labels(**changes) -> Labels:
    return Labels(**(CONFIG["labels"] | changes))


@pytest.fixture(scope="module")
def expected():
    return fixture("targets")


def people_of(case, skeleton):
    """The case's annotations as the data module would show them; the published mirror is 3 pixels from ours."""
    people = case["keypoints"][case["iscrowd"] == 0]
    matrix = case["matrix_input"].double()
    if case["params"][8]:
        side = STRIDE * (case["params"][3].item() - 1)
        matrix = torch.tensor([[-1.0, 0, side], [0, 1, 0], [0, 0, 1]], dtype=torch.float64) @ matrix
        people = people[:, list(skeleton.flip)]
    to_input = matrix[:2].clone()
    to_input[:, 2] += 0.5 - matrix[:2, :2].sum(1) / 2  # from pixel centres to pixels' corners
    points = people[..., :2].double() @ matrix[:2, :2].T + matrix[:2, 2] + 0.5
    size = case["params"][2].item()
    labelled = people[..., 2] > 0
    visible = labelled & ((points >= 0) & (points <= size)).all(-1)
    return Instances(
        image_index=torch.zeros(len(people), dtype=torch.int64),
        boxes=torch.zeros(len(people), 4),
        keypoints=torch.cat([points.float(), (people[..., 2] * visible)[..., None]], -1),
        labelled=labelled,
        areas=case["area"][case["iscrowd"] == 0] * torch.det(to_input[:, :2]).abs().float(),
        zoom=torch.ones(len(people)),
        ignore=torch.zeros(len(people), dtype=torch.bool),
    ), to_input[None]


def part(arrays, prefix):
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def compare(people, case, settings):
    """Maps of the people against the published ones."""
    shape = (1, *case["heatmap"].shape[1:])
    heat = heatmaps(people, shape, settings)
    torch.testing.assert_close(heat[0], case["heatmap"], rtol=0, atol=1e-5)
    weight = torch.where(heat[0] > 0, 1.0, settings.background)
    torch.testing.assert_close(weight, case["heatmap_weight"], rtol=0, atol=1e-6)
    dense, dense_weight = dense_offsets(offsets(people, shape, settings), case["offset"].shape)
    torch.testing.assert_close(dense, case["offset"], rtol=0, atol=1e-5)
    torch.testing.assert_close(dense_weight, case["offset_weight"], rtol=1e-5, atol=0)


def dense_offsets(target, shape):
    """Maps (2 K, h, w) of what is to be learnt, x and y of each keypoint, and its weights."""
    owned = target.weights[..., 0] > 0
    values = torch.zeros(shape[0] // 2, shape[1] * shape[2], 2).flatten(0, 1)
    weights = torch.zeros(len(values))
    values[target.index[owned]] = target.values[owned]
    weights[target.index[owned]] = target.weights[..., 0][owned]
    values = values.view(shape[0] // 2, -1, 2).transpose(1, 2).reshape(shape)
    return values, weights.view(shape[0] // 2, 1, -1).expand(-1, 2, -1).reshape(shape)


@pytest.mark.parametrize(("name", "skeleton"), [("coco", COCO), ("cocoflip", COCO), ("crowdpose", CROWDPOSE)])
def test_whole_chain_equals_published(expected, name, skeleton):
    case = part(expected, f"{name}_")
    changes = {"centre_sigma": 2.0, "min_area": 0.0} if name == "crowdpose" else {"min_area": 32.0**2}
    settings = labels(**PUBLISHED, **changes)
    people, to_input = people_of(case, skeleton)
    found = joints(people, to_input, settings)
    torch.testing.assert_close(found.sizes[:, None], case["size_squared_mapped"], rtol=1e-5, atol=1e-2)
    drawn = found.drawn
    torch.testing.assert_close(found.points[drawn], case["joints_mapped"][..., :2][drawn], rtol=0, atol=1e-4)
    compare(found, case, settings)


@pytest.mark.parametrize("name", ["overlap", "overlap_swapped", "empty"])
def test_overlap_equals_published(expected, name):
    case = part(expected, f"{name}_")
    mapped = case["joints_mapped"]
    people = Joints(
        image_index=torch.zeros(len(mapped), dtype=torch.int64),
        points=mapped[..., :2],
        drawn=mapped[..., 2] > 0,
        sizes=case["size_squared_mapped"][:, 0],
    )
    compare(people, case, labels(**PUBLISHED))


def overlapping(order, images=None):
    """Three people around one cell, of sizes 3, 1, 2; the second has its first keypoint alone."""
    points = torch.tensor([[[4.0, 4], [9, 3], [8, 8]], [[5, 5], [0, 0], [8, 8]], [[6, 6], [7, 3], [8, 8]]])
    drawn = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    index = torch.zeros(3, dtype=torch.int64) if images is None else torch.tensor(images)
    return Joints(index, points[order], drawn[order], torch.tensor([9.0, 1.0, 4.0])[order])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_smallest_person_owns_a_cell_whatever_the_order(order):
    values, weights = dense_offsets(offsets(overlapping(order), (1, 16, 16), labels()), (4, 16, 16))
    assert values[:, 8, 8].tolist() == [3, 3, 1, 5]
    assert weights[:, 8, 8].tolist() == [1, 1, 0.5, 0.5]
    assert (weights > 0).sum() == 4 * 64


def test_people_of_other_images_do_not_touch_each_other():
    target = offsets(overlapping([0, 1, 2], [0, 1, 2]), (3, 16, 16), labels())
    assert (target.weights > 0).sum() == 64 * 5


def sample_people(visibility, areas=None):
    """People with K = 3 in a picture that is shown twice as large, moved by 10 pixels."""
    count = len(visibility)
    original = torch.tensor([[30.0, 20], [40, 60], [0, 0]]).expand(count, 3, 2) + 0.5
    to_input = torch.tensor([[[2.0, 0, 10], [0, 2, 10]]], dtype=torch.float64)
    visible = torch.tensor(visibility)
    keypoints = torch.cat([original * 2 + 10, visible[..., None].float()], -1)
    return Instances(
        image_index=torch.zeros(count, dtype=torch.int64),
        boxes=torch.tensor([[0.0, 0, 40, 60]]).expand(count, 4),
        keypoints=keypoints,
        labelled=visible > 0,
        areas=torch.full((count,), 4000.0) if areas is None else torch.tensor(areas),
        zoom=torch.ones(count),
        ignore=torch.zeros(count, dtype=torch.bool),
    ), to_input


def test_size_is_the_extent_of_labelled_keypoints():
    people, to_input = sample_people([[2, 1, 0], [2, 0, 0], [0, 0, 0]])
    sizes = joints(people, to_input, labels(min_size=8.0)).sizes
    assert sizes.tolist() == pytest.approx([4 * (10**2 + 40**2), 64, 64])
    sizes = joints(people, to_input, labels(size="origin", min_size=0.0)).sizes
    assert sizes.tolist() == pytest.approx([4 * (40**2 + 60**2), 4 * (30**2 + 20**2), 0])


def test_people_without_keypoints_or_too_small_have_no_centre():
    people, to_input = sample_people([[2, 1, 0], [0, 0, 0], [2, 1, 0]], [4 * 1024.0, 9999.0, 4 * 1023.0])
    assert joints(people, to_input, labels(min_area=1024.0)).drawn[:, -1].tolist() == [True, False, False]
    phantom = joints(people, to_input, labels(min_area=1024.0, phantom_centres=True))
    assert phantom.drawn[:, -1].tolist() == [True, True, False]
    assert phantom.points[1, -1].tolist() == pytest.approx([10.5 / 4, 10.5 / 4])


def test_mask_covers_people_without_keypoints():
    people, _ = sample_people([[2, 1, 0], [0, 0, 0]])
    case = replace(batch(3, [], 1), instances=people)
    mask = loss_mask(case, (1, 20, 16), STRIDE)
    assert mask.shape == (1, 1, 20, 16)
    assert not mask[0, 0, :15, :10].any()
    assert mask[0, 0, 15:].all()
    assert mask[0, 0, :, 10:].all()
    people.keypoints[1, :, 2], people.labelled[1], people.ignore[1] = 2, True, True
    assert torch.equal(loss_mask(case, (1, 20, 16), STRIDE), mask)  # a crowd region is one, whatever its keypoints
    people.ignore[1] = False
    assert loss_mask(case, (1, 20, 16), STRIDE).all()


@pytest.mark.parametrize("name", ["coco", "empty"])
def test_losses_and_gradients_equal_published(name):
    case = part(fixture("losses"), f"{name}_")
    heat = case["pred_heatmap"].clone().requires_grad_()
    raw = case["pred_offset"].clone().requires_grad_()
    first = heatmap_loss(heat, case["gt_heatmap"], 1.0, case["mask"])
    second = 0.03 * offset_loss(raw, sparse(case["gt_offset"], case["offset_weight"]), beta=1 / 9)
    torch.testing.assert_close(first, case["heatmap_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(second, case["offset_loss"], rtol=1e-5, atol=0)
    (first + second).backward()
    torch.testing.assert_close(heat.grad, case["grad_heatmap"], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(raw.grad, case["grad_offset"], rtol=1e-5, atol=1e-9)


def sparse(values, weights):
    """Dense targets (B, 2 K, h, w) as `Offsets` with one row per image."""
    images, channels = values.shape[:2]
    paired = values.view(images, channels // 2, 2, -1).transpose(2, 3)
    index = torch.arange(paired[..., 0].numel()).view(paired.shape[:3])
    return Offsets(index, paired, weights.view(images, channels // 2, 2, -1).transpose(2, 3))


def test_background_weighs_less():
    target = torch.tensor([[[[1.0, 0.0]]]])
    assert heatmap_loss(target + 2, target, 0.1, None).item() == pytest.approx((4 + 0.4) / 2)


def test_focal_loss():
    raw, target = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.25]]]])
    p = torch.tensor([0.5, 0.7310586])
    entropy = -(torch.tensor([1, 0.25]) * p.log() + torch.tensor([0, 0.75]) * (1 - p).log())
    expected = ((torch.tensor([1, 0.25]) - p) ** 2 * entropy).mean()
    torch.testing.assert_close(focal_loss(raw, target, None), expected)
    assert focal_loss(raw, target, torch.zeros(1, 1, 1, 2)).item() == 0
