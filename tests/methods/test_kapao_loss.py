"""Targets and loss against the published ones."""

import pytest
import torch

from pose_lab.methods.kapao import Kapao, Objects, kapao_losses, match
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton
from tests.methods.kapao_cases import CONFIG, batch, fixture, kapao, net

CASES = (
    "0_people",
    "1_no_targets",
    "2_no_visible_keypoints",
    "3_borders_duplicates",
    "4_all_levels",
)
NAMES = ("box", "objectness", "class", "keypoints")
FIVE = Skeleton(
    name="five",
    keypoints=("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    limbs=((0, 1), (0, 2), (0, 3), (0, 4)),
    sigmas=(0.05,) * 5,
    source="made up",
)


@pytest.fixture(scope="module")
def network():
    return net(17, 0.125, 0.1)


def load(case, network):
    data = fixture(f"loss_{case}")
    raw = [data[f"raw{level}"].movedim(-1, 2).clone().requires_grad_() for level in range(4)]
    strides = torch.tensor(network.strides)
    sizes = torch.tensor([[out.shape[4], out.shape[3]] for out in raw])
    table = data["targets"]
    width_height = (sizes[0] * strides[0]).float()
    keypoints = table[:, 6:].unflatten(1, (-1, 3))
    targets = Objects(
        image_index=table[:, 0].long(),
        categories=table[:, 1].long(),
        boxes=table[:, 2:6] * width_height.repeat(2),
        person=torch.arange(len(table)),
        keypoints=torch.cat((keypoints[..., :2] * width_height, keypoints[..., 2:]), -1),
        valid=torch.ones(len(table), dtype=torch.bool),
    )
    return data, raw, match(targets, network.anchors, strides, sizes, CONFIG["max_ratio"])


@pytest.mark.parametrize("case", CASES)
def test_matches(case, network):
    data, _, matches = load(case, network)
    for level in range(4):
        on = matches.level == level
        rows = torch.stack((matches.image, matches.anchor, matches.row, matches.column, matches.categories), 1)[on]
        assert torch.equal(rows, data[f"match{level}"])
        torch.testing.assert_close(matches.boxes[on], data[f"tbox{level}"], rtol=0, atol=1e-5)
        torch.testing.assert_close(matches.anchors[on], data[f"anchor{level}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_loss(case, network):
    data, raw, matches = load(case, network)
    terms = kapao_losses(raw, matches, CONFIG["level_weights"])
    items = torch.stack([terms[name] for name in NAMES]) * data["gains_f64"].float()
    torch.testing.assert_close(items, data["items"], rtol=0, atol=1e-5)
    total = items.sum() * len(raw[0])
    torch.testing.assert_close(total[None], data["total"], rtol=0, atol=1e-5)
    total.backward()
    grads = [level.grad.movedim(2, -1) for level in raw]
    torch.testing.assert_close(torch.stack([g.norm() for g in grads]), data["grad_norm"], rtol=1e-5, atol=1e-6)
    for level in range(4):
        if f"grad{level}" in data:
            torch.testing.assert_close(grads[level], data[f"grad{level}"], rtol=0, atol=1e-6)


def test_gains_scale_as_published():
    for skeleton, class_gain in ((COCO, 0.050625), (CROWDPOSE, 0.0421875)):
        method = kapao(skeleton, lambda num_keypoints: net(num_keypoints, 0.125, 0.1),
                       image_size=1280, level_weights=CONFIG["level_weights"])  # fmt: skip
        expected = {"box": 0.0375, "objectness": 2.1, "class": class_gain, "keypoints": 0.01875, "confidence": 0.01875}
        assert method.gains == pytest.approx(expected)
    assert kapao(COCO, gain_reference=None).gains == CONFIG["gains"]


def test_last_match_wins_a_cell(network):
    """Two equal objects of different boxes in one cell: the target is that of the second, in any memory order."""
    strides, grids = torch.tensor(network.strides), torch.tensor([[8, 8], [4, 4], [2, 2], [1, 1]])
    raw = [torch.ones(1, 3, 57, int(n), int(n)) for n, _ in grids]
    boxes = torch.tensor([[20.0, 20.0, 19.0, 27.0], [20.0, 20.0, 30.0, 60.0]])

    def objectness(boxes):
        count = len(boxes)
        zeros = torch.zeros(count, dtype=torch.int64)
        valid = torch.ones(count, dtype=torch.bool)
        targets = Objects(zeros, zeros, boxes, zeros, torch.zeros(1, 17, 3), valid)
        matches = match(targets, network.anchors, strides, grids, 4.0)
        return kapao_losses(raw, matches, CONFIG["level_weights"])["objectness"]

    assert torch.equal(objectness(boxes), objectness(boxes[[1, 0, 1]]))
    assert not torch.equal(objectness(boxes), objectness(boxes.flip(0)))


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, FIVE], ids=lambda s: s.name)
@pytest.mark.parametrize(("image_index", "images"), [([0, 0, 2], 3), ([0], 1), ([], 2)])
def test_losses_of_a_batch(skeleton, image_index, images):
    torch.manual_seed(0)
    method = kapao(skeleton)
    losses = method.losses(batch(len(skeleton), image_index, images))
    assert tuple(losses) == NAMES
    assert all(value.isfinite() and value.shape == () for value in losses.values())
    assert all((losses[name] > 0) == bool(image_index) for name in ("box", "class", "keypoints"))
    assert losses["objectness"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_training_memorises_a_batch():
    torch.manual_seed(0)
    method: Kapao = kapao(FIVE)
    optimiser = torch.optim.AdamW(method.parameters(), 5e-3)
    one = batch(5, [0, 1], 2)
    history = []
    for _ in range(40):
        loss = sum(method.losses(one).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]
