"""Snapping against the published outputs, on drawn maps whose peaks are known, and on bad input."""

from dataclasses import replace

import pytest
import torch

from pose_lab.methods.dekr import Maps, heat_values, whole_heatmaps
from pose_lab.methods.snapping import enlarged_by, snapped
from pose_lab.skeletons import COCO
from tests.methods.dekr_cases import CONFIG, dekr, fixture, inference
from tests.methods.kapao_cases import batch

FIT = inference(snap="fit")
FLIP = torch.tensor(COCO.flip)


@pytest.fixture(scope="module")
def published():
    return {key.removeprefix("single_"): value for key, value in fixture("post_single").items()}


def snapped_as_published(arrays, settings):
    width, height = arrays["base_wh"].tolist()
    maps = Maps(1.0, arrays["heatmap_s0"], arrays["offset_s0"])
    heat = whole_heatmaps([maps], FLIP, (height, width))
    poses = arrays["poses"]
    nobody_else = torch.zeros(len(poses), dtype=torch.int64)
    return snapped(poses[..., :2], poses[..., 2], nobody_else, heat, settings)


def test_moved_keypoints_equal_published(published):
    found = snapped_as_published(published, inference(snap="peak"))
    torch.testing.assert_close(found, published["match_absorbed"][..., :2], rtol=0, atol=1e-4)


def test_fitted_keypoints_equal_published(published):
    """Away from the map's border, where the published code confuses x and y."""
    whole = published["match_adjust_full_window"].bool()
    found = snapped_as_published(published, FIT)
    assert whole.sum() > 50
    torch.testing.assert_close(found[whole], published["match_adjusted"][..., :2][whole], rtol=0, atol=0.05)


def drawn(middles, shape=(1, 2, 64, 96), sigma=2.5):
    """Heatmaps (B, K, H, W) with one Gaussian at middles (B, K, 2)."""
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in shape[2:]), indexing="ij")
    squares = (x - middles[..., 0, None, None]) ** 2 + (y - middles[..., 1, None, None]) ** 2
    return 0.8 * torch.exp(-squares / (2 * sigma**2))


def one(points, scores=0.5):
    """One person's keypoints and scores, in the first picture."""
    keypoints = torch.tensor([points])
    return keypoints, torch.full(keypoints.shape[:2], scores), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize("middles", [[[40.3, 20.8], [10.45, 50.0]], [[1.3, 30.2], [94.6, 62.7]]])
def test_the_middle_of_a_peak_is_found_also_at_the_border(middles):
    heat = drawn(torch.tensor([middles]))
    start = one([[x + 7.4, y - 5.1] for x, y in middles])
    peak = snapped(*start, heat, inference(snap="peak"))
    assert torch.equal(peak[0], torch.tensor(middles).round())
    torch.testing.assert_close(snapped(*start, heat, FIT)[0], torch.tensor(middles), rtol=0, atol=1e-3)


def test_of_several_peaks_the_nearest_counts_however_low():
    heat = drawn(torch.tensor([[[20.0, 20.0], [60.0, 30.0]]]))
    heat = (heat[:, :1] + 0.3 * heat[:, 1:]).expand(-1, 2, -1, -1)
    found = snapped(*one([[30.0, 22.0], [50.0, 28.0]]), heat, inference(snap="peak"))
    assert found[0].tolist() == [[20, 20], [60, 30]]
    only = inference(snap="peak", snap_peaks=1)
    assert snapped(*one([[30.0, 22.0], [50.0, 28.0]]), heat, only)[0].tolist() == [[20, 20], [20, 20]]


def test_far_keypoints_stay_and_low_ones_are_not_fitted():
    heat = drawn(torch.tensor([[[20.3, 20.4], [20.3, 20.4]]]))
    settings = inference(snap="fit", snap_distance=10.0, snap_peaks=1, fit_above=0.4)
    keypoints, scores, image = one([[22.0, 21.0], [21.0, 40.0]])
    scores[0, 0] = 0.3
    found = snapped(keypoints, scores, image, heat, settings)
    assert found[0].tolist() == [[20, 20], [21, 40]]


def test_pictures_and_people_are_independent():
    middles = torch.tensor([[[20.3, 20.7], [70.2, 30.1]], [[50.6, 40.4], [30.1, 12.2]]])
    heat = drawn(middles, (2, 2, 64, 96))
    image = torch.tensor([0, 1, 1])
    keypoints = middles[image] + torch.tensor([3.2, -2.4])
    found = snapped(keypoints, torch.full((3, 2), 0.5), image, heat, FIT)
    torch.testing.assert_close(found, middles[image], rtol=0, atol=1e-3)
    alone = snapped(keypoints[1:2], torch.full((1, 2), 0.5), torch.tensor([0]), heat[1:], FIT)
    torch.testing.assert_close(alone[0], found[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_no_numbers(bad):
    heat = drawn(torch.tensor([[[40.3, 20.8], [10.4, 50.0]]]))
    heat[0, 0] = bad
    heat[0, 1, 51, 12:] = bad
    found = snapped(*one([[42.0, 22.0], [12.0, 47.0]]), heat, FIT)
    assert found[0, 0].tolist() == [42, 22]
    torch.testing.assert_close(found[0, 1], torch.tensor([10.4, 50.0]), rtol=0, atol=1e-3)


def test_flat_maps_and_keypoints_outside_the_picture():
    keypoints, scores, image = one([[-30.0, 22.0], [500.0, 47.0]])
    settings = replace(FIT, snap_distance=1.0)
    found = snapped(keypoints, scores, image, torch.zeros(1, 2, 64, 96), settings)
    assert torch.equal(found, keypoints)
    inside = torch.tensor([[[30.0, 22.0], [50.0, 47.0]]])
    fitted_flat = snapped(inside, scores, image, torch.full((1, 2, 64, 96), 0.5), settings)
    assert fitted_flat.isfinite().all()


def test_nobody():
    none = torch.empty(0, 2, 2), torch.empty(0, 2), torch.empty(0, dtype=torch.int64)
    assert snapped(*none, drawn(torch.tensor([[[40.3, 20.8], [10.4, 50.0]]])), FIT).shape == (0, 2, 2)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlargement_equals_published(factor):
    arrays = fixture("up_interpolate")
    expected = arrays[f"y_{factor}"]
    torch.testing.assert_close(enlarged_by(arrays["x"], factor, expected.shape[2:]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scales", [[1.0], [1.5, 1.0, 0.5]])
@pytest.mark.parametrize("flip", [False, True])
def test_whole_heatmaps_hold_what_is_read_of_them(scales, flip):
    generator = torch.Generator().manual_seed(0)
    maps = []
    for scale in scales:
        heat = torch.rand(2, 2, len(COCO) + 1, int(16 * scale), int(24 * scale), generator=generator)
        maps.append(Maps(scale, heat[0][:1], torch.empty(0), (heat[1][:1], torch.empty(0)) if flip else None))
    places = torch.randint(0, 64, (1, 9, len(COCO), 2), generator=generator)
    whole = whole_heatmaps(maps, FLIP, (64, 96))
    read = torch.stack([heat_values(one, places.float(), FLIP) for one in maps]).mean(0)
    x, y = places[0].unbind(-1)
    torch.testing.assert_close(whole[0, torch.arange(len(COCO)), y, x], read[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("test_time", [{"scales": [1.0], "flip": True}, {"scales": [2.0, 1.0], "flip": False}])
def test_a_method_snaps_the_people_it_finds(test_time):
    """Scores and people stay; with a search, so do the heatmaps."""
    settings = CONFIG["inference"] | {"min_score": -1.0}
    plain = dekr(COCO, inference=settings, test_time=test_time).eval()
    moving = dekr(
        COCO, make_net=lambda **_: plain.net, inference=settings | {"snap": "fit"}, test_time=test_time
    ).eval()
    case = batch(len(COCO), [0, 1], 2)
    found, before = moving.predict(case), plain.predict(case)
    assert len(found)
    assert torch.equal(found.scores, before.scores)
    assert not torch.equal(found.keypoints, before.keypoints)
    assert found.keypoints.isfinite().all()
    assert moving.stores(replace(moving.inference, snap_distance=10.0))
    assert not plain.stores(moving.inference)
    assert moving.stores(plain.inference)
    with torch.no_grad():
        stored = plain.people(moving.candidates(case), case)
    assert torch.equal(stored.keypoints, before.keypoints)
    assert len(moving.people(moving.crowd(case, 5), case))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snap": "always"}, "there are: never, peak, fit"),
        ({"snap_window": 4}, "odd whole number"),
        ({"fit_steps": 0}, "fit_steps is 0"),
        ({"fit_sigma": 0.0}, "above 0"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        inference(**changes)
