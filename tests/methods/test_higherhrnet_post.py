"""Aggregation, grouping and refinement against the published outputs, and bad input."""

import math

import pytest
import torch

from pose_lab.data import letterbox
from pose_lab.methods.bottom_up import predictions
from pose_lab.methods.grouping import grouped
from pose_lab.methods.higherhrnet import Candidates, Maps, aggregate, find, peaks
from pose_lab.methods.refinement import Blocks, best_pixels
from pose_lab.ops.enlarging import Enlargement, enlarged, read
from pose_lab.skeletons import COCO
from tests.methods.higherhrnet_cases import fixture, ours, published

FLIP = torch.tensor(COCO.flip)
FILES = {"close": "close_tags"}
VARIANTS = {
    "simple_norefine": {"refine": False},
    "simple_raw": {"refine": False, "adjust": False},
    "crowd_nodetval": {"cost_rounded": 0.0, "cost_exact": 1.0, "cost_score": 0.0},
    "crowd_ignore": {"max_groups": 10, "max_peaks": 10, "when_full": "skip", "refine": False},
}
CASES = [
    "simple",
    "simple_norefine",
    "simple_raw",
    "empty",
    "crowd",
    "crowd_nodetval",
    "crowd_ignore",
    "close",
    "sametag",
]


def maps_of(name):
    """Heatmaps and tags of a case, as large as the input."""
    scene = name.split("_")[0]
    arrays = fixture("group_" + {"empty": "simple"}.get(scene, FILES.get(scene, scene)))
    results = {k.removeprefix(f"{name}_"): v for k, v in arrays.items() if k.startswith(f"{name}_")}
    return Candidates(arrays[f"{scene}_det"], arrays[f"{scene}_tag"].movedim(4, 2)), results


def found_in(candidates, settings):
    return find(candidates, tuple(candidates.heatmaps.shape[2:]), settings.kinds(COCO), settings)


@pytest.mark.parametrize("name", CASES)
def test_people_equal_published(name):
    candidates, expected = maps_of(name)
    assert expected["assignment_unique"] == 1
    found = found_in(candidates, published(**VARIANTS.get(name, {})))
    torch.testing.assert_close(found.keypoints, expected["poses"][..., :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.keypoint_scores, expected["poses"][..., 2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_groups_equal_published(name):
    candidates, expected = maps_of(name)
    settings = published(**(VARIANTS.get(name, {}) | {"refine": False, "adjust": False}))
    found = found_in(candidates, settings)
    torch.testing.assert_close(found.keypoints, expected["matched"][..., :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.keypoint_scores, expected["matched"][..., 2], rtol=0, atol=1e-5)


def test_the_published_limit_tears_crowds_apart():
    """36 people. The published result hangs on ties of its solver, so only what matters is compared."""
    candidates, expected = maps_of("over30")
    assert expected["assignment_unique"] == 0
    torn, whole = (found_in(candidates, make(refine=False)) for make in (published, ours))
    assert len(whole.scores) < len(torn.scores) / 4
    assert len(torn.scores) > 200
    many = [((found.keypoint_scores > 0).sum(1) >= 10).sum() for found in (torn, whole)]
    assert many[0] < many[1]


def case(name):
    return {k.removeprefix(f"{name}_"): v for k, v in fixture("aggregate").items() if k.startswith(f"{name}_")}


def passes_of(arrays):
    """The network's outputs of a case."""
    for number, scale in enumerate(arrays["scales"].tolist()):
        seen = []
        for end in ("", "_flip"):
            if f"s{number}_half{end}" in arrays:
                heat, tags = arrays[f"s{number}_quarter{end}"].chunk(2, 1)
                seen.append(([heat, arrays[f"s{number}_half{end}"]], tags))
        yield Maps(scale, *seen[0], seen[1] if len(seen) > 1 else None)


@pytest.mark.parametrize("name", ["flip", "noflip", "ms"])
def test_aggregated_maps_equal_published(name):
    arrays = case(name)
    width, height = arrays["base_wh"].tolist()
    found = aggregate(list(passes_of(arrays)), (height, width), FLIP)
    heat = enlarged(found.heatmaps, (height, width))
    torch.testing.assert_close(heat[:, ::4], arrays["final_heatmap"], rtol=0, atol=1e-5)
    # every pixel's tags, read one by one
    half = enlarged(found.tags.flatten(1, 2), (height // 2, width // 2)).view(len(COCO), -1, height // 2, width // 2)
    kind, y, x = torch.meshgrid(torch.arange(len(COCO)), torch.arange(height), torch.arange(width), indexing="ij")
    tags = read(half, kind, torch.stack([x, y], -1), (2,))[None, ::4]
    torch.testing.assert_close(tags, arrays["final_tags"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "stride"), [("geometry", 64), ("geometry_ms", 128)])
def test_sizes_equal_published(name, stride):
    """`data.val_stride` is the network's over the smallest scale."""
    arrays = fixture(name)
    for width, height, scale, *sizes, x, y, across, down in arrays["rows"].tolist():
        side = int(arrays["input_size"])
        frame, to_input = letterbox.short_side(torch.tensor([[int(height), int(width)]]), side, stride)
        assert [frame[1] * scale, frame[0] * scale, frame[1], frame[0]] == sizes
        factor = to_input[0, 0, 0].item()
        assert frame[1] / factor / 200 == pytest.approx(across, rel=2e-3)  # the longer side is cut to whole pixels
        assert frame[0] / factor / 200 == pytest.approx(down, rel=2e-3)
        middle = to_input[0, :, :2] @ torch.tensor([x + 0.5, y + 0.5]).double() + to_input[0, :, 2]
        torch.testing.assert_close(middle, torch.tensor([frame[1] / 2 + 0.5, frame[0] / 2 + 0.5]).double())


def random_maps(images=2, num_keypoints=3, side=40, tags=2, seed=0):
    """Smooth random heatmaps and tags, the tags at half the resolution."""
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(images, num_keypoints, side // 4, side // 4, generator=generator)
    drawn = 3 * torch.rand(images, num_keypoints, tags, side // 2, side // 2, generator=generator)
    return Candidates(enlarged(heat, (side, side)) ** 4, drawn)


def scanned(heat, tags, mean):
    """The published refinement: the best pixel of one map (H, W), tags (T, H, W), for one person."""
    distance = (tags - mean[:, None, None]).square().sum(0).sqrt()
    place = (heat - distance.round()).argmax()
    return place, heat.flatten()[place]


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4), (4, 4)])
@pytest.mark.parametrize("side", [16, 48, 64])
@pytest.mark.parametrize("constant", [False, True])
def test_refinement_finds_what_a_whole_scan_finds(side, constant, factors):
    """Of tags enlarged to the heatmaps, and both to the input; also where blocks do not fill it, or all is equal."""
    generator = torch.Generator().manual_seed(0)
    tag_side, heat_side = side // math.prod(factors), side // factors[1]
    heat = torch.rand(1, 4, heat_side, heat_side, generator=generator) ** 4
    heat = torch.full_like(heat, 0.5) if constant else heat
    tags = 3 * torch.rand(4, 2, tag_side, tag_side, generator=generator)
    whole = enlarged(heat, (side, side))[0]
    whole_tags = enlarged(enlarged(tags, (heat_side, heat_side)), (side, side))
    means = 4 * torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) - 0.5
    maps = torch.arange(60) % 4
    x, y = best_pixels(Blocks(Enlargement(heat[0], factors[1]), tags), maps, means).unbind(1)
    for row, kind in enumerate(maps.tolist()):
        place, value = scanned(whole[kind], whole_tags[kind], means[row])
        found = whole[kind, y[row], x[row]]
        assert (y[row] * side + x[row] == place) | (not constant and abs(found - value) < 1e-6)
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [1, 3, 5, 7])
def test_peaks_are_the_largest_in_their_window(window, factor):
    side = 48
    maps = random_maps(side=side).heatmaps[..., ::factor, ::factor].contiguous()
    maps[0, 0, 5, 5:8] = 2.0  # three equal ones
    settings = ours(window=window, min_score=0.05, max_peaks=20)
    found = peaks(Enlargement(maps.flatten(0, 1), factor), settings)
    heat = enlarged(maps.double(), (side, side)).float().flatten(0, 1)  # equal pixels stay equal
    pooled = torch.nn.functional.max_pool2d(heat, window, 1, window // 2)
    kept = torch.where((heat == pooled) & (heat > 0.05), heat, 0).flatten(1)
    scores = kept.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(found.scores, scores.values[:, :20], rtol=0, atol=0 if factor == 1 else 1e-6)
    real = found.scores > 0
    places = found.places[..., 1] * side + found.places[..., 0]
    assert torch.equal(places[real], scores.indices[:, :20][real])


def test_images_of_a_batch_are_independent():
    both = random_maps(3, len(COCO))
    together = found_in(both, ours())
    assert len(together.scores)
    for image in range(3):
        alone = found_in(Candidates(both.heatmaps[image, None], both.tags[image, None]), ours())
        rows = together.image_index == image
        torch.testing.assert_close(alone.keypoints, together.keypoints[rows], rtol=0, atol=0)
        torch.testing.assert_close(alone.scores, together.scores[rows], rtol=0, atol=0)


@pytest.mark.parametrize("people", [30, 36, 100])
def test_any_number_of_people_is_grouped(people):
    """The published limit leaves everybody beyond the thirtieth in pieces."""
    tags = (3.0 * torch.arange(people)).view(1, 1, people, 1).repeat(1, 5, 1, 1)
    scores = torch.rand(1, 5, people, generator=torch.Generator().manual_seed(0)) + 0.2
    image_index, members = grouped(scores, tags, range(5), ours())
    assert len(image_index) == people
    assert torch.equal(members, torch.arange(people)[:, None].expand(-1, 5))
    limited = grouped(scores, tags, range(5), ours(max_groups=30))[1]
    assert len(limited) == 30 + 5 * (people - 30)
    skipped = grouped(scores, tags, range(5), ours(max_groups=30, when_full="skip"))[1]
    assert len(skipped) == people
    assert (skipped[:, 1:] >= 0).sum() == (0 if people >= 30 else 4 * people)


def test_ties_are_decided_by_the_exact_distance_whatever_the_order():
    """Two groups at the same rounded distances: published, the order of the peaks decides."""
    first, second = torch.tensor([0.0, 0.4]), torch.tensor([0.05, 0.45])
    scores = torch.tensor([[[0.9, 0.9], [0.9, 0.9]]])
    for order in ([0, 1], [1, 0]):
        tags = torch.stack([first, second[order]])[None, ..., None]
        members = grouped(scores, tags, range(2), ours())[1]
        assert members[:, 1].tolist() == order
    alike = [
        grouped(scores, torch.stack([first, second[order]])[None, ..., None], range(2), ours(cost_exact=0.0))[1][:, 1]
        for order in ([0, 1], [1, 0])
    ]
    assert torch.equal(*alike)  # of the peaks' numbers, so other tags


def test_equal_tags_are_two_people_unless_published():
    scores, tags = torch.full((1, 2, 2), 0.9), torch.zeros(1, 2, 2, 1)
    assert len(grouped(scores, tags, range(2), ours())[1]) == 2
    assert grouped(scores, tags, range(2), ours(merge_equal_tags=True))[1].tolist() == [[1, 1]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["heatmaps", "tags"])
def test_maps_that_are_no_numbers(bad, where):
    """There nobody is found; the other image and the rest of the map stay as they were."""
    maps = random_maps(2, len(COCO))
    good = found_in(maps, ours(refine=False))
    getattr(maps, where)[0, ..., :6] = bad
    found = found_in(maps, ours(refine=False))
    assert found.keypoints.isfinite().all()
    assert found.keypoint_scores.isfinite().all()
    seen = found.keypoints[found.keypoint_scores > 0][:, 0]
    assert len(seen)
    assert (found.keypoints[found.image_index == 0][found.keypoint_scores[found.image_index == 0] > 0][:, 0] > 5).all()
    torch.testing.assert_close(found.keypoints[found.image_index == 1], good.keypoints[good.image_index == 1])
    getattr(maps, where)[0] = bad
    assert not (found_in(maps, ours()).image_index == 0).any()


def test_nobody():
    maps = random_maps(2, len(COCO))
    maps.heatmaps[:] = 0.05
    found = found_in(maps, ours())
    assert len(found.image_index) == 0
    assert found.keypoints.shape == (0, len(COCO), 2)


def test_boxes_are_around_what_was_found():
    keypoints = torch.tensor([[[0.0, 0], [3, 4], [5, 1]], [[1, 1], [2, 2], [0, 0]]])
    scores = torch.tensor([[0.0, 0.5, 0.5], [0.9, 0.9, 0.0]])
    found = predictions(torch.tensor([0, 0]), keypoints, scores, scores.mean(1), scores > 0)
    assert found.scores.tolist() == pytest.approx([0.6, 1 / 3])
    assert found.boxes.tolist() == [[1, 1, 2, 2], [3, 1, 5, 4]]
