"""Targets and losses against the published ones, and their limits."""

import pytest
import torch

from pose_lab.methods.higherhrnet import STRIDE, Labels, Tagged, heatmaps, tag_losses, tagged
from pose_lab.ops.heatmaps import heatmap_loss
from pose_lab.poses import Instances
from tests.methods.higherhrnet_cases import CONFIG, fixture


def labels(**changes) -> Labels:
    return Labels(**(CONFIG["labels"] | changes))


def people(cells, stride, images=None):
    """People (N, K, 3) whose keypoints are given in cells."""
    keypoints = cells.clone()
    keypoints[..., :2] = keypoints[..., :2] * stride + 0.5
    count = len(keypoints)
    return Instances(
        image_index=torch.zeros(count, dtype=torch.int64) if images is None else torch.tensor(images),
        boxes=torch.zeros(count, 4),
        keypoints=keypoints,
        labelled=keypoints[..., 2] > 0,
        areas=torch.ones(count),
        zoom=torch.ones(count),
        ignore=torch.zeros(count, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def case():
    return fixture("targets")


@pytest.mark.parametrize("stride", [4, 2])
def test_heatmaps_equal_published(case, stride):
    side = int(case["res"])
    found = heatmaps(people(case["joints"], stride), (1, side, side), stride, labels())
    torch.testing.assert_close(found[0], case["heatmap"], rtol=0, atol=1e-6)


def test_listed_tags_equal_published(case):
    """The published list packs each person's keypoints to the front, and has rows of zeros for nobody."""
    side = int(case["res"])
    found = tagged(people(case["joints"], STRIDE), (1, side, side), labels())
    published = case["joint_index"].long()
    for person, (index, listed) in enumerate(zip(found.index, found.listed, strict=True)):
        row = published[person]
        assert index[listed].tolist() == row[row[:, 1] == 1, 0].tolist()
    assert not published[len(found.index) :].any()


def from_list(joints, plane):
    """The published list (B, P, K, 2) of places in an image's maps and flags."""
    images, count, kinds = joints.shape[:3]
    number = torch.arange(images).repeat_interleave(count)
    index = joints[..., 0].flatten(0, 1) + (number * kinds * plane)[:, None]
    return Tagged(number, index, joints[..., 1].flatten(0, 1) > 0)


@pytest.mark.parametrize("form", ["exp", "max"])
def test_tag_losses_and_gradients_equal_published(form):
    arrays = {k.removeprefix(f"{form}_"): v for k, v in fixture("ae_loss").items() if k.startswith(f"{form}_")}
    joints = arrays["joints"]
    kinds = joints.shape[2]
    tags = arrays["tags"].view(len(joints), kinds, -1, 1).clone().requires_grad_()
    pull, push = tag_losses(tags, from_list(joints, tags.shape[2]), form)
    torch.testing.assert_close(pull, arrays["pull"], rtol=0, atol=1e-6)
    torch.testing.assert_close(push, arrays["push"], rtol=0, atol=1e-6)
    (pull.sum() + push.sum()).backward()
    torch.testing.assert_close(tags.grad.view_as(arrays["grad"]), arrays["grad"], rtol=0, atol=1e-6)


def test_losses_and_gradients_equal_published():
    case = fixture("losses")
    quarter, half = case["out_quarter"].clone().requires_grad_(), case["out_half"].clone().requires_grad_()
    heat, tags = quarter.chunk(2, 1)
    total = torch.zeros(())
    for name, raw in (("quarter", heat), ("half", half)):
        for image, expected in enumerate(case[f"heatmap_loss_{name}"]):
            part = slice(image, image + 1)
            mask = case[f"mask_{name}"][part, None]
            torch.testing.assert_close(
                heatmap_loss(raw[part], case[f"gt_{name}"][part], 1.0, mask), expected, rtol=1e-5, atol=0
            )
        total = total + heatmap_loss(raw, case[f"gt_{name}"], 1.0, case[f"mask_{name}"][:, None])
    listed = from_list(case["joints_quarter"], tags.shape[2] * tags.shape[3])
    pull, push = (1e-3 * loss for loss in tag_losses(tags, listed, "exp"))
    torch.testing.assert_close(pull, case["pull"], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(push, case["push"], rtol=1e-5, atol=1e-9)
    total = total + pull.mean() + push.mean()
    torch.testing.assert_close(total, case["total"], rtol=1e-5, atol=0)
    total.backward()
    torch.testing.assert_close(quarter.grad, case["grad_quarter"], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(half.grad, case["grad_half"], rtol=1e-5, atol=1e-9)


def test_tags_of_any_number_of_people_are_learnt():
    """More than the published 30, and only the first of each image where the config says so."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(50, 3, 3, generator=generator) * 8
    cells[..., 2] = 2
    many = people(cells, STRIDE, [0] * 40 + [1] * 10)
    found = tagged(many, (2, 8, 8), labels())
    assert found.listed.all()
    limited = tagged(many, (2, 8, 8), labels(max_people=4))
    assert limited.listed.all(1).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 40, 41, 42, 43]
    tags = torch.randn(2, 3, 8, 8, generator=generator)
    pull, push = tag_losses(tags, found, "exp")
    assert (push > 0).all()
    first = Tagged(found.image_index[40:] - 1, found.index[40:] - 3 * 64, found.listed[40:])
    alone = tag_losses(tags[1:], first, "exp")
    torch.testing.assert_close(torch.stack([pull[1], push[1]]), torch.cat(alone))


def test_nobody_has_no_tag_losses():
    tags = torch.randn(2, 3, 8, 8, requires_grad=True)
    found = tagged(people(torch.zeros(0, 3, 3), STRIDE), (2, 8, 8), labels())
    pull, push = tag_losses(tags, found, "exp")
    assert pull.tolist() == push.tolist() == [0, 0]
    (pull + push).sum().backward()
