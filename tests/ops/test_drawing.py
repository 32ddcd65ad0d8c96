import numpy as np
import pytest

from pose_lab.ops import drawing
from pose_lab.skeletons import COCO, SKELETONS


def one_person(skeleton, x, y, visibility=0):
    keypoints = np.zeros((1, len(skeleton), 3), np.float32)
    keypoints[0, :, 2] = visibility
    keypoints[0, 0] = x, y, 2
    return keypoints


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("zoom", [1, 3])
def test_a_keypoint_is_centred_where_its_continuous_coordinates_say(size, zoom):
    image = np.zeros((size, size, 3), np.uint8)
    drawn = drawing.draw_poses(image, one_person(COCO, 20.25, 31.75), COCO, zoom=zoom).astype(float).sum(-1)
    rows, columns = np.indices(drawn.shape) + 0.5
    centre = (drawn * columns).sum() / drawn.sum() / zoom, (drawn * rows).sum() / drawn.sum() / zoom
    assert drawn.shape == (size * zoom, size * zoom)
    assert centre == pytest.approx((20.25, 31.75), abs=0.07)


def test_sides_differ_in_colour_and_hidden_keypoints_are_hollow():
    keypoints = np.zeros((1, len(COCO), 3), np.float32)
    for name, y, level in (("left_wrist", 50, 2), ("right_wrist", 100, 2), ("nose", 150, 2), ("left_ankle", 200, 1)):
        keypoints[0, COCO.keypoints.index(name)] = 100.5, y + 0.5, level
    drawn = drawing.draw_poses(np.full((256, 1200, 3), 128, np.uint8), keypoints, COCO)
    assert tuple(drawn[50, 100]) == drawing.LEFT
    assert tuple(drawn[100, 100]) == drawing.RIGHT
    assert tuple(drawn[150, 100]) == drawing.CENTRE
    assert tuple(drawn[200, 100]) == (0, 0, 0)
    ring = drawn[200, 108].astype(int)
    assert abs(ring - drawing.LEFT).max() < 30


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=str)
def test_limbs_join_the_keypoints_that_are_there(skeleton):
    a, b = skeleton.limbs[0]
    keypoints = np.zeros((2, len(skeleton), 3), np.float32)
    keypoints[0, a], keypoints[0, b] = (10.5, 20.5, 2), (90.5, 20.5, 1)
    keypoints[1, a] = 10.5, 60.5, 2
    keypoints[1, b] = np.nan, 60.5, 2
    drawn = drawing.draw_poses(np.zeros((100, 100, 3), np.uint8), keypoints, skeleton)
    assert drawn[20, 50].any()
    assert not drawn[60, 50].any()


def test_the_picture_given_stays_as_it_is():
    image = np.zeros((40, 40, 3), np.uint8)
    drawing.draw_poses(image, one_person(COCO, 20, 20), COCO, np.array([[2.0, 2, 30, 30]]), np.array([0.5]), True)
    assert not image.any()


def test_line_width_grows_with_the_picture():
    assert [drawing.line_width(np.zeros((n, n // 2, 3), np.uint8)) for n in (64, 640, 1280)] == [1, 3, 6]


def test_no_people_and_far_away_people_are_fine():
    image = np.full((30, 30, 3), 7, np.uint8)
    assert (drawing.draw_poses(image, np.zeros((0, len(COCO), 2)), COCO, np.zeros((0, 4)), np.zeros(0)) == image).all()
    far = np.full((1, len(COCO), 2), 1e30)
    assert (drawing.draw_poses(image, far, COCO) == image).all()


@pytest.mark.parametrize(
    ("image", "keypoints", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), np.zeros((1, len(COCO), 2)), "uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((1, len(COCO), 2)), "uint8"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((1, 5, 2)), "skeleton coco"),
    ],
)
def test_wrong_input_is_named(image, keypoints, message):
    with pytest.raises(ValueError, match=message):
        drawing.draw_poses(image, keypoints, COCO)


def test_sheets_hold_every_picture_in_order():
    tiles = [np.full((20, 30 - n, 3), n, np.uint8) for n in range(5)]
    sheet = drawing.grid(tiles, columns=2)
    assert sheet.shape == (3 * 20 + 2 * 2, 2 * 30 + 2, 3)
    assert [int(sheet[22 * (n // 2), 32 * (n % 2), 0]) for n in range(6)] == [0, 1, 2, 3, 4, 255]
    assert drawing.side_by_side(tiles[0], tiles[0]).shape == (20, 62, 3)
    with pytest.raises(ValueError, match="needs pictures"):
        drawing.grid([], 2)
