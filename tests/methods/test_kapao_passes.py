"""Test-time augmentation: several passes over a picture, pooled."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from pose_lab.methods.kapao import Kapao
from pose_lab.ops.passes import Pass, passes
from pose_lab.poses import Batch
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.conftest import fixture_path
from tests.fill import fill_state
from tests.methods.kapao_cases import CONFIG, batch, kapao, net

PUBLISHED = {"scales": [0.8, 1.0, 1.2], "flips": [False, True, False]}
ALL_ROWS = {"inference": CONFIG["inference"] | {"pose_confidence": 0.0}}


def test_published_passes_are_what_the_config_says():
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        config = compose("method/kapao", overrides=["method/kapao_size=s", "method/kapao_test_time=published"]).method
    assert config.test_time == PUBLISHED


def test_pooled_rows_equal_the_published_ones():
    data = np.load(fixture_path("kapao/forward_tta.npz"))
    assert data["scales"].tolist() == pytest.approx(PUBLISHED["scales"])
    assert [flip == 3 for flip in data["flips"].tolist()] == PUBLISHED["flips"]
    method: Kapao = kapao(
        COCO, net, image_size=128, level_weights=CONFIG["level_weights"], test_time=PUBLISHED, **ALL_ROWS
    )
    method.net.load_state_dict(fill_state(fixture_path("kapao/state.json")), strict=False)
    image = torch.from_numpy(data["image"])
    stride = max(method.eval().net.strides)
    with torch.no_grad():
        seen = [
            method._seen(lambda view: method.net(view.view(image, stride)), one, image.shape[3])
            for one in method.passes
        ]
    rows = torch.cat([rows for rows, _ in seen])
    expected = torch.from_numpy(data["decoded"])[0]
    scores = slice(4, 6 + len(COCO))
    torch.testing.assert_close(rows[:, scores], expected[:, scores], atol=1e-4, rtol=0)
    torch.testing.assert_close(rows, expected, atol=2e-2, rtol=0)


def test_rows_of_several_pictures_are_sorted_by_picture_with_every_pass():
    example = batch(len(CROWDPOSE), [0, 1], 2)
    found = kapao(CROWDPOSE, test_time=PUBLISHED, **ALL_ROWS).eval().candidates(example)
    assert (found.image_index.diff() >= 0).all()
    alone = kapao(CROWDPOSE, **ALL_ROWS).eval().candidates(example)
    assert len(found.rows) > 3 * len(alone.rows)  # the larger pass has more cells than the smaller one lacks


def test_a_mirrored_pass_finds_the_mirror_image_of_a_mirrored_picture():
    torch.manual_seed(0)
    example = batch(len(CROWDPOSE), [0], 1)
    mirrored = Batch(**{**vars(example), "images": example.images.flip(3)})
    plain = kapao(CROWDPOSE, **ALL_ROWS).eval()
    flipped = kapao(CROWDPOSE, test_time={"scales": [1.0], "flips": [True]}, **ALL_ROWS).eval()
    flipped.load_state_dict(plain.state_dict())
    with torch.no_grad():
        rows, back = plain.candidates(example).rows, flipped.candidates(mirrored).rows
    K, width = len(CROWDPOSE), example.images.shape[3]
    torch.testing.assert_close(back[:, 0], width - rows[:, 0])
    torch.testing.assert_close(back[:, 1:6], rows[:, 1:6])
    flip = list(CROWDPOSE.flip)
    torch.testing.assert_close(back[:, 6 : 6 + K], rows[:, 6 : 6 + K][:, flip])
    keypoints, points = (found[:, 6 + K :].unflatten(1, (K, 2)) for found in (back, rows))
    torch.testing.assert_close(keypoints, torch.stack((width - points[:, flip, 0], points[:, flip, 1]), 2))


@pytest.mark.parametrize(("scale", "shape"), [(0.8, (64, 128)), (1.2, (128, 192)), (1.0, (64, 128)), (0.5, (64, 64))])
def test_views_are_padded_right_and_below_to_whole_strides(scale, shape):
    view = Pass(scale, False, pad=0.447).view(torch.zeros(1, 3, 64, 128), 64)
    assert view.shape[2:] == shape
    inside = view[..., : int(64 * scale), : int(128 * scale)]
    assert (inside == 0).all()
    assert int((view != 0).sum()) == view.numel() - inside.numel()


@pytest.mark.parametrize(
    ("scales", "flips", "message"),
    [
        ([1.0], [], "1 scales and 0 flips"),
        ([], [], "0 scales"),
        ([0.0], [False], r"test_time\.scales has 0\.0"),
        ([-1.0], [False], "must be above 0"),
        ([float("nan")], [False], "must be above 0"),
    ],
)
def test_scales_and_flips_that_make_no_passes(scales, flips, message):
    with pytest.raises(ValueError, match=message):
        passes(scales, flips)


def test_a_scale_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"a scale of 0\.01 leaves nothing of pictures of 64x64 pixels"):
        kapao(CROWDPOSE, test_time={"scales": [0.01], "flips": [False]})
    with pytest.raises(ValueError, match=r"a scale of 0\.02 leaves nothing of pictures of 64x32 pixels"):
        Pass(0.02, flip=False).view(torch.zeros(1, 3, 32, 64), 64)
