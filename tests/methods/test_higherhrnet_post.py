"""Aggregation, grouping and refinement against the published outputs, and bad input."""

import pytest
import torch

from pose_lab.data import letterbox
from pose_lab.methods.higherhrnet import Candidates, Maps, aggregate, find, read
from pose_lab.ops.heatmaps import enlarged, enlarging_weights
from pose_lab.skeletons import COCO
from tests.methods.higherhrnet_cases import fixture, published

FLIP = torch.tensor(COCO.flip)
FILES = {"close": "close_tags"}
VARIANTS = {
    "simple_norefine": {"refine": False},
    "simple_raw": {"refine": False, "adjust": False},
    "crowd_nodetval": {"cost_rounded": 0.0, "cost_exact": 1.0, "cost_score": 0.0},
    "crowd_ignore": {"max_groups": 10, "max_peaks": 10, "when_full": "skip", "refine": False},
    "over30": {"refine": False},
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
    return find(candidates, [tuple(candidates.heatmaps.shape[2:])], settings, settings.grouping(COCO))


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
    sizes = [tuple(found.tags.shape[3:]), (height // 2, width // 2), (height, width)]
    down, across = (enlarging_weights(sides, heat) for sides in zip(*sizes, strict=True))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y], -1).view(1, 1, -1, 2).expand(1, len(COCO), -1, 2)
    tags = read(found.tags, places, down, across)[:, ::4].unflatten(2, (height, width))
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
