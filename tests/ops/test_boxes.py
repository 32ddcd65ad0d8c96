import pytest
import torch

from pose_lab.ops.boxes import clip, complete_iou, to_centres, to_corners


def boxes(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 4, dtype=torch.float64, generator=generator) + 0.5


def test_conversions_are_inverse():
    torch.testing.assert_close(to_centres(to_corners(boxes())), boxes())
    assert to_corners(torch.tensor([3.0, 4, 2, 6])).tolist() == [2, 1, 4, 7]


def test_clip_moves_points_and_corners_into_the_picture():
    sizes = torch.tensor([[10, 20], [5, 5]])
    points = torch.tensor([[-1.0, 12, 25, 3], [2, 2, 9, 9]])
    assert clip(points, sizes).tolist() == [[0, 10, 20, 3], [2, 2, 5, 5]]
    assert clip(points[:, None], sizes[:, None]).shape == (2, 1, 4)


def test_complete_iou_of_equal_and_of_distant_boxes():
    assert complete_iou(boxes(), boxes()).tolist() == pytest.approx([1] * 6, abs=1e-6)
    far = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    # no overlap, same shape: minus the squared distance over the squared diagonal of the hull
    assert complete_iou(far[:1], torch.tensor([[8.0, 0, 2, 2]])).item() == pytest.approx(-64 / 104, abs=1e-6)


def test_complete_iou_gradient():
    """The weight of the aspect term is held fixed, so compare on boxes of equal aspect, where it vanishes."""
    targets = boxes()
    predicted = (targets * torch.tensor([1.1, 0.9, 1.3, 1.3], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: complete_iou(b, targets), predicted)
    complete_iou(boxes().flip(0).requires_grad_(), targets).sum().backward()
