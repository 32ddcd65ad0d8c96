import math

import torch

from pose_lab.ops import warps


def random_maps(count):
    return torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_composition_applies_the_inner_map_first():
    outer, inner = random_maps(2)[:, None].expand(2, 5, 2, 3)
    points = torch.randn(5, 4, 2, dtype=torch.float64)
    stepwise = warps.apply_to_points(outer, warps.apply_to_points(inner, points))
    torch.testing.assert_close(warps.apply_to_points(warps.compose(outer, inner), points), stepwise)


def test_inverse_brings_points_back():
    maps, points = random_maps(6), torch.randn(6, 3, 2, dtype=torch.float64)
    back = warps.apply_to_points(warps.invert(maps), warps.apply_to_points(maps, points))
    torch.testing.assert_close(back, points)


def test_boxes_are_ordered_also_after_mirroring():
    mirror = warps.scaling(torch.tensor([-2.0, 3.0]), torch.tensor([10.0, 1.0]))
    assert warps.apply_to_boxes(mirror, torch.tensor([1.0, 2.0, 3.0, 5.0])).tolist() == [4, 7, 8, 16]


def test_a_turned_box_becomes_the_upright_box_around_it():
    c = math.cos(math.pi / 4)
    turn = torch.tensor([[c, -c, 0.0], [c, c, 0.0]])
    box = warps.apply_to_boxes(turn, torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    torch.testing.assert_close(box, torch.tensor([-2 * c, -2 * c, 2 * c, 2 * c]))


def test_area_scale_has_no_sign():
    maps = warps.scaling(torch.tensor([[-2.0, 3.0], [1.0, 0.5]]), torch.zeros(2, 2))
    assert warps.area_scale(maps).tolist() == [6, 0.5]


def test_nothing_to_map():
    assert warps.apply_to_boxes(random_maps(1).expand(0, 2, 3), torch.zeros(0, 4, dtype=torch.float64)).shape == (0, 4)
