import pytest
import torch
from torchvision.ops import nms

from pose_lab.ops import nms as module
from pose_lab.ops.nms import highest_around, ranks, suppress


def random_objects(count, images, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + 30 * torch.rand(count, 2, generator=generator)), 1)
    scores = torch.randint(1, 40, (count,), generator=generator) / 40  # many ties
    categories = torch.randint(0, classes, (count,), generator=generator)
    image_index = torch.randint(0, images, (count,), generator=generator).sort().values
    return boxes, scores, categories, image_index


def one_by_one(boxes, scores, categories, image_index, max_iou, max_candidates, max_kept, class_offset):
    """The published way: picture by picture, classes moved apart."""
    result = []
    for image in image_index.unique():
        rows = torch.nonzero(image_index == image)[:, 0]
        rows = rows[torch.argsort(scores[rows], descending=True, stable=True)][:max_candidates]
        moved = boxes[rows] + (categories[rows] * class_offset).float()[:, None]
        result.append(rows[nms(moved, scores[rows], max_iou)[:max_kept]])
    return torch.cat(result)


@pytest.mark.parametrize("max_iou", [0.2, 0.45, 0.65])
@pytest.mark.parametrize(("max_candidates", "max_kept"), [(30000, 300), (30000, 5), (40, 300), (7, 20)])
def test_equals_suppression_one_by_one(max_iou, max_candidates, max_kept):
    objects = random_objects(600, images=3, classes=4)
    expected = one_by_one(*objects, max_iou, max_candidates, max_kept, 4096.0)
    chosen = torch.ones(600, dtype=torch.bool)
    assert torch.equal(suppress(*objects, chosen, max_iou, max_candidates, max_kept, 4096.0), expected)


def test_boxes_that_are_not_chosen_might_not_be_there():
    objects = random_objects(600, images=3, classes=4)
    chosen = torch.rand(600, generator=torch.Generator().manual_seed(1)) < 0.4
    rows = chosen.nonzero()[:, 0]
    expected = rows[one_by_one(*(values[chosen] for values in objects), 0.3, 50, 20, 4096.0)]
    assert torch.equal(suppress(*objects, chosen, 0.3, 50, 20, 4096.0), expected)


@pytest.mark.parametrize("together", [1 << 15, 150])
@pytest.mark.parametrize(("max_candidates", "max_kept"), [(30000, 300), (40, 300), (30000, 5)])
def test_pictures_together_equal_pictures_in_turn(monkeypatch, together, max_candidates, max_kept):
    """What a GPU does, on the CPU."""
    monkeypatch.setattr(module, "_TOGETHER", together)
    objects = random_objects(600, images=4, classes=3)
    chosen = torch.rand(600, generator=torch.Generator().manual_seed(1)) < 0.8
    arguments = (chosen, 0.4, max_candidates, max_kept, 4096.0)
    expected = suppress(*objects, *arguments)
    monkeypatch.setattr(module, "in_loops", lambda values: False)
    assert torch.equal(suppress(*objects, *arguments), expected)


def test_boxes_in_whole_pixels_at_the_threshold():
    """An overlap of 1 / 5: as a float32 it is more than the double 0.2, and the published comparison sees that."""
    boxes = torch.tensor([[0.0, 0, 3, 1], [2, 0, 5, 1]])
    zeros = torch.zeros(2, dtype=torch.int64)
    scores = torch.tensor([0.9, 0.8])
    kept = suppress(boxes, scores, zeros, zeros, torch.ones(2, dtype=torch.bool), 0.2, 10, 10, 0.0)
    assert torch.equal(kept, nms(boxes, scores, 0.2))


def test_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert suppress(torch.zeros(0, 4), torch.zeros(0), none, none, none.bool(), 0.5, 10, 10, 4096.0).tolist() == []


def test_ranks():
    assert ranks(torch.tensor([0, 0, 2, 2, 2, 5])).tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("shape", [(2, 3, 20, 31), (1, 2, 40)])
def test_the_highest_around_is_what_a_max_pool_finds(shape, window):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    maps[..., 1, ::3] = -torch.inf
    expected = torch.nn.functional.max_pool2d(maps, window, 1, window // 2)
    assert torch.equal(highest_around(maps, window), expected)
