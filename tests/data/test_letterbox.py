import cv2
import numpy as np
import pytest
import torch

from pose_lab.data import augment, letterbox
from pose_lab.data.images import resized
from pose_lab.ops import warps
from tests.conftest import fixture_path


@pytest.mark.parametrize("case", range(6))
def test_published_letterbox(case):
    data = np.load(fixture_path("kapao/letterbox.npz"))
    picture, expected = data[f"in{case}"], data[f"out{case}"]
    smallest, enlarge, stride = data[f"flags{case}"].tolist()
    sizes, frame = torch.tensor([picture.shape[:2]]), torch.from_numpy(data[f"shape{case}"])
    frame = letterbox.smallest_frame(sizes, frame, stride, bool(enlarge))[0] if smallest else frame
    (scaled,), (corner,) = letterbox.letterboxed(sizes, frame, bool(enlarge))
    height, width = scaled.tolist()
    top, left = corner.tolist()
    framed = np.full((*frame.tolist(), 3), 114, np.uint8)
    framed[top : top + height, left : left + width] = resized(picture, (height, width), average=False)
    assert framed.shape == expected.shape
    assert np.abs(framed.astype(int) - expected).max() <= 1


def test_map_is_exact_for_the_real_padding():
    sizes = torch.tensor([[101, 67]])
    scaled, corner = letterbox.letterboxed(sizes, torch.tensor([128, 128]), enlarge=True)
    place = letterbox.placing(sizes, scaled, corner)
    corners = warps.apply_to_points(place, torch.tensor([[[0.0, 0.0], [67.0, 101.0]]], dtype=torch.float64))
    torch.testing.assert_close(corners, torch.tensor([[[21.0, 0.0], [21.0 + 85.0, 128.0]]], dtype=torch.float64))
    back = warps.apply_to_points(warps.invert(place), corners)
    torch.testing.assert_close(back, torch.tensor([[[0.0, 0.0], [67.0, 101.0]]], dtype=torch.float64))


def test_a_wide_batch_shares_a_low_frame():
    sizes = torch.tensor([[427, 640], [300, 640]])
    assert letterbox.shared_frame(sizes, 640, 64) == (448, 640)
    assert letterbox.shared_frame(sizes.flip(1), 640, 64) == (640, 448)
    assert letterbox.shared_frame(torch.cat([sizes, sizes.flip(1)]), 640, 64) == (640, 640)


def test_fitting_rounds_down_and_never_to_nothing():
    sizes = torch.tensor([[66, 111], [1, 4000], [640, 480]])
    assert letterbox.fitted(sizes, (128, 128)).tolist() == [[76, 128], [1, 128], [128, 96]]


def test_a_picture_of_the_frame_s_size_stays_untouched():
    picture = cv2.randu(np.empty((32, 48, 3), np.uint8), 0, 255)
    assert resized(picture, (32, 48), average=True) is picture


@pytest.mark.parametrize("case", [1, 5])  # those that leave out whole strides and enlarge
def test_demo_pictures_lie_where_the_published_letterbox_puts_them(case):
    data = np.load(fixture_path("kapao/letterbox.npz"))
    stride = int(data[f"flags{case}"][2])
    sizes = torch.tensor([data[f"in{case}"].shape[:2]])
    plan = augment.evaluation_plan(torch.tensor([0]), sizes, tuple(data[f"shape{case}"].tolist()), "demo", stride)
    assert plan.frame == data[f"out{case}"].shape[:2]
    scale = torch.from_numpy(data[f"ratio{case}_f64"])
    torch.testing.assert_close(plan.visible[0, :2], (torch.from_numpy(data[f"pad{case}_f64"]) - 0.1).round())
    assert ((plan.visible[0, 2:] - plan.visible[0, :2]).flip(0) - sizes[0] * scale).abs().max() <= 0.5


def test_short_side_equals_published():
    with np.load(fixture_path("dekr/geometry.npz")) as arrays:
        rows = [arrays[name] for name in ("image_wh", "scale_factor", "resized_wh", "matrix")]
        side = int(arrays["input_size"])
    plain = [row for row in zip(*rows, strict=True) if row[1] == 1]
    assert len(plain) == 7
    for (width, height), _, framed, matrix in plain:
        frame, found = letterbox.short_side(torch.tensor([[int(height), int(width)]]), side, 64)
        assert frame == (framed[1], framed[0])
        matrix = torch.from_numpy(matrix).double()
        matrix[:, 2] += 0.5 - matrix[:, :2].sum(1) / 2  # published maps count from pixel centres
        torch.testing.assert_close(found[0], matrix, rtol=0, atol=1e-3)
