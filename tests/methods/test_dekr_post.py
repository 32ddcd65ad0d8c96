"""Decoding, suppression and scoring against the published outputs, and bad input."""

import pytest
import torch

from pose_lab.methods.bottom_up import moved_left, predictions
from pose_lab.methods.dekr import (
    Candidates,
    Maps,
    centre_peaks,
    decode,
    heat_values,
    suppress,
)
from pose_lab.skeletons import COCO
from tests.methods.dekr_cases import fixture, inference

FLIP = torch.tensor(COCO.flip)
CASES = {
    "single": "post_single",
    "flip": "post_flip_crowd",
    "empty": "post_empty_one",
    "one": "post_empty_one",
    "ms": "post_multiscale",
}


def case(name):
    found = {k.removeprefix(f"{name}_"): v for k, v in fixture(CASES[name]).items() if k.startswith(f"{name}_")}
    assert found
    return found


def settings(name):
    return inference(close_distance=0.15 if name in ("ms", "cap") else 0.05)


def maps_of(arrays):
    """The network's outputs of a case."""
    for number, scale in enumerate(arrays["scales"].tolist()):
        mirrored = None
        if arrays["flip"]:
            mirrored = (arrays[f"heatmap_flip_s{number}"], arrays[f"offset_flip_s{number}"])
        yield Maps(scale, arrays[f"heatmap_s{number}"], arrays[f"offset_s{number}"], mirrored)


@pytest.mark.parametrize("name", CASES)
def test_candidates_equal_published(name):
    arrays = case(name)
    for number, maps in enumerate(maps_of(arrays)):
        found = decode([maps], FLIP, settings(name))
        real = found.scores[0] > 0
        published = arrays[f"candidates_s{number}"]
        torch.testing.assert_close(found.poses[0][real], published[..., :2], rtol=0, atol=1e-3)
        if maps.scale == 1:
            scores = found.scores[0][real][:, None].expand(-1, len(COCO))
            torch.testing.assert_close(scores, published[..., 2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_heat_equals_the_published_enlarged_map(name):
    """The whole enlarged map of the first keypoint, read position by position."""
    arrays = case(name)
    expected = arrays["heatmap_avg_kpt0"]
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in expected.shape), indexing="ij")
    points = torch.stack([x, y], -1).view(1, -1, 1, 2).expand(1, -1, len(COCO), 2)
    values = torch.stack([heat_values(maps, points + 0.4, FLIP) for maps in maps_of(arrays)]).mean(0)
    torch.testing.assert_close(values[0, :, 0].view(expected.shape), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_people_equal_published(name):
    arrays = case(name)
    found = decode(list(maps_of(arrays)), FLIP, settings(name))
    rows, kept = suppress(found, settings(name))
    rows = rows[0][kept[0]]
    scores = found.scores[0, rows, None] * found.heat[0, rows]
    torch.testing.assert_close(found.poses[0, rows], arrays["poses"][..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(scores, arrays["poses"][..., 2], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.mean(1), arrays["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["single", "cap"])
def test_suppression_equals_published(name):
    arrays = {k.removeprefix(f"{name}_"): v for k, v in fixture("nms").items() if k.startswith(f"{name}_")}
    scales = arrays["scales"].tolist()
    parts = [arrays[f"candidates_s{number}"] for number in range(len(scales))]
    highest = parts[scales.index(1.0)][..., 2].max()
    scores = [
        p[:, 0, 2] if s == 1 else p[:, 0, 2] / p[..., 2].max() * highest * 0.9
        for p, s in zip(parts, scales, strict=True)
    ]
    poses = torch.cat(parts)[None, ..., :2]
    average = Maps(4.0, arrays["heatmap_avg"], torch.empty(0))  # of the input's size: four times the map's
    found = Candidates(poses, torch.cat(scores)[None], heat_values(average, poses, FLIP))
    rows, kept = suppress(found, inference(close_distance=settings(name).close_distance, max_people=1000))
    assert rows[0][kept[0]].tolist() == arrays["keep_before_cap"].tolist()
    rows, kept = suppress(found, settings(name))
    rows = rows[0][kept[0]]
    keypoint_scores = found.scores[0, rows, None] * found.heat[0, rows]
    torch.testing.assert_close(found.poses[0, rows], arrays["poses"][..., :2], rtol=0, atol=1e-6)
    torch.testing.assert_close(keypoint_scores, arrays["poses"][..., 2], rtol=0, atol=1e-6)
    torch.testing.assert_close(keypoint_scores.mean(1), arrays["scores"], rtol=0, atol=1e-6)


def test_images_of_a_batch_are_independent():
    """The cases of one size as one batch."""
    arrays = [list(maps_of(case("ms"))), list(maps_of(case("ms")))]
    together = [
        Maps(a.scale, torch.cat([a.heatmaps, b.heatmaps.flip(3)]), torch.cat([a.offsets, b.offsets.flip(3)]))
        for a, b in zip(*arrays, strict=True)
    ]
    both = decode(together, FLIP, settings("ms"))
    rows, kept = suppress(both, settings("ms"))
    for image in range(2):
        alone = [Maps(m.scale, m.heatmaps[image : image + 1], m.offsets[image : image + 1]) for m in together]
        found = decode(alone, FLIP, settings("ms"))
        own_rows, own_kept = suppress(found, settings("ms"))
        assert torch.equal(own_rows[0][own_kept[0]], rows[image][kept[image]])
        assert torch.equal(found.poses[0], both.poses[image])


@pytest.mark.parametrize("name", ["pool3", "pool3_edge", "pool5", "pool5_edge", "pool7", "plateau", "none"])
def test_centres_equal_published(name):
    arrays = fixture("center_peaks")
    index, scores = centre_peaks(arrays[f"{name}_center_heatmap"], inference())
    real = scores[0] > 0
    assert index[0][real].tolist() == arrays[f"{name}_index"].tolist()
    assert torch.equal(scores[0][real], arrays[f"{name}_score"])


def test_mirrored_picture_equals_published():
    arrays = fixture("flip_input")
    assert torch.equal(moved_left(arrays["image"].flip(3), 3), arrays["image_flipped"])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reading_equals_published_enlargement(factor):
    arrays = fixture("up_interpolate")
    maps = torch.cat([arrays["x"], arrays["x"][:, :1]], 1)
    expected = arrays[f"y_{factor}"][0]
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in expected.shape[1:]), indexing="ij")
    points = torch.stack([x, y], -1).view(1, -1, 1, 2).expand(1, -1, 2, 2)
    values = heat_values(Maps(4 / factor, maps, maps), points, torch.tensor([0, 1]))
    torch.testing.assert_close(values[0].T.reshape(expected.shape), expected, rtol=0, atol=1e-6)


def random_maps(images=2, num_keypoints=3, side=16):
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(images, num_keypoints + 1, side, side, generator=generator)
    return Maps(1.0, heat, torch.randn(images, 2 * num_keypoints, side, side, generator=generator))


IDENTITY = torch.arange(3)


def test_nobody():
    maps = random_maps()
    maps.heatmaps[:, -1] = 0
    found = decode([maps], IDENTITY, inference())
    assert not suppress(found, inference())[1].any()
    none = torch.zeros(0, dtype=torch.int64)
    assert len(predictions(none, torch.zeros(0, 3, 2), torch.zeros(0, 3), torch.zeros(0))) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_no_numbers(bad):
    maps = random_maps()
    good = decode([maps], IDENTITY, inference())
    cell = int(centre_peaks(maps.heatmaps[:, -1], inference())[0][0, 0])
    maps.offsets[0].flatten(1)[1, cell] = bad
    maps.heatmaps[0, :-1, :, :4] = torch.nan
    found = decode([maps], IDENTITY, inference())
    assert found.poses.isfinite().all()
    assert found.heat.isfinite().all()
    assert found.scores[0, 0] == 0
    assert torch.equal(found.poses[1], good.poses[1])
    rows, kept = suppress(found, inference())
    assert 0 not in rows[0][kept[0]]
    maps.heatmaps[0, -1] = torch.nan
    assert not (decode([maps], IDENTITY, inference()).scores[0] > 0).any()


@pytest.mark.parametrize("limit", [1, 5, 60])
def test_any_number_of_people(limit):
    maps = random_maps(side=32)
    found = decode([maps], IDENTITY, inference(max_people=limit))
    assert found.scores.shape == (2, limit)
    rows, kept = suppress(found, inference(max_people=limit))
    assert kept.sum(1).tolist() == [limit, limit]
    assert len(set(rows[0][kept[0]].tolist())) == limit


def test_poses_of_zero_extent_are_people_too():
    poses = torch.zeros(1, 3, 10, 2)
    poses[0, 1] = torch.arange(20.0).view(10, 2)
    poses[0, 2] = poses[0, 1] + 0.1
    heat = torch.tensor([0.9, 0.5, 0.6]).view(1, 3, 1).expand(1, 3, 10)
    rows, kept = suppress(Candidates(poses, torch.ones(1, 3), heat), inference())
    assert rows[0][kept[0]].tolist() == [0, 2]


def test_people_come_by_falling_score():
    scores = torch.tensor([[0.1, 0.3], [0.5, 0.5], [0.4, 0.4], [0.9, 0.7]])
    found = predictions(torch.tensor([0, 0, 1, 1]), torch.arange(16.0).view(4, 2, 2), scores, scores.mean(1))
    assert found.image_index.tolist() == [0, 0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.5, 0.2, 0.8, 0.4])
    assert found.boxes[0].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_people": 0}, "max_people is 0"),
        ({"min_score": 1.0}, "min_score is 1.0, but must be below 1"),
        ({"windows": [[200, 5]]}, "must end with a pair"),
        ({"windows": [[0, 4]]}, "even window"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        inference(**changes)
