"""Coordinates keep their precision where a network around them runs in another one."""

import pytest
import torch

from pose_lab.ops import warps
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.methods.kapao_cases import batch, kapao


def test_points_move_exactly_under_autocast():
    points = 1280 * torch.rand(5, 7, 2, generator=torch.Generator().manual_seed(0))
    affine = torch.tensor([[1.3, 0.1, 7.3], [-0.1, 1.3, 3.1]]).expand(5, 2, 3)
    steps = (
        lambda: warps.apply_to_points(affine, points),
        lambda: warps.invert(affine),
        lambda: warps.compose(affine, affine),
    )
    for step in steps:
        expected = step()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(step(), expected)


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE], ids=lambda skeleton: skeleton.name)
def test_people_of_kapao_are_found_exactly_under_autocast(skeleton):
    method = kapao(skeleton).eval()
    example = batch(len(skeleton), [0, 1], 2)
    candidates = method.crowd(example, 3)
    expected = method.people(candidates, example)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.people(candidates, example)
    assert len(found.scores) > 0
    torch.testing.assert_close(found.keypoints, expected.keypoints, rtol=0, atol=0)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=0)
