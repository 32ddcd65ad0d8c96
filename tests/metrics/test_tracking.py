"""PoseTrack's numbers against the released tool's and motmetrics' values."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from pose_lab.metrics.tracking import PoseTracking, Tracks, assignment
from tests.conftest import fixture_path

EXPECTED = json.loads(fixture_path("metrics/tracking/expected.json").read_text())
NAMES = [f"keypoint {k}" for k in range(len(EXPECTED["crowd"]["poseval"]["mota"]) - 1)]
HEAD_SHARE = 0.6


def load(case: str) -> tuple[np.ndarray, Tracks, Tracks]:
    with np.load(fixture_path(f"metrics/tracking/{case}.npz")) as arrays:
        boxes = arrays["gt_head_box_xyxy"]
        frames = arrays["frames"]
        row = {tuple(frame): n for n, frame in enumerate(frames.tolist())}
        sides = []
        for side, present in (("gt", "visible"), ("pr", "present")):
            where = zip(arrays[f"{side}_sequence"].tolist(), arrays[f"{side}_frame"].tolist(), strict=True)
            index = np.array([row[frame] for frame in where], dtype=np.int64)
            keypoints = arrays[f"{side}_keypoints"]
            sides.append(Tracks(index, arrays[f"{side}_track"], keypoints, arrays[f"{side}_{present}"]))
        head_sizes = HEAD_SHARE * np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1)
        return frames, replace(sides[0], head_sizes=head_sizes), replace(sides[1], scores=arrays["pr_scores"])


def metric_of(case: str, released: bool) -> PoseTracking:
    metric = PoseTracking(NAMES, released)
    metric.update(*load(case))
    return metric


@pytest.mark.parametrize("case", EXPECTED)
def test_released_rule(case: str):
    metric = metric_of(case, released=True)
    ours, means = metric.per_keypoint(), metric.compute()
    names = {"mota": "MOTA", "motp": "MOTP_logged", "pre": "MOT_precision", "rec": "MOT_recall"}
    names_of_ap = {"ap": "AP", "precision": "precision", "recall": "recall"}
    for group, pairs in (("poseval", names), ("poseval_ap", names_of_ap)):
        for theirs, name in pairs.items():
            expected = np.array(EXPECTED[case][group][theirs], dtype=float)
            np.testing.assert_allclose(ours[name], expected[:-1], atol=1e-9, err_msg=name)
            assert means[name].item() == pytest.approx(expected[-1], abs=1e-9)


@pytest.mark.parametrize("case", EXPECTED)
def test_every_frame_as_the_textbook_has_it(case: str):
    metric = metric_of(case, released=False)
    expected = EXPECTED[case]["all_frames"]
    np.testing.assert_allclose(metric.per_keypoint()["MOTA"], expected["mota_per_joint"], atol=1e-9)
    assert metric.compute()["MOTA"].item() == pytest.approx(expected["mota"], abs=1e-9)


def test_precision_of_place_is_one_minus_the_mean_distance():
    truth = Tracks(
        np.array([0]), np.array([1]), np.zeros((1, 1, 2)), np.ones((1, 1), bool), head_sizes=np.array([10.0])
    )
    found = Tracks(np.array([0]), np.array([5]), np.array([[[3.0, 4.0]]]), truth.present, scores=np.ones((1, 1)))
    metric = PoseTracking(["head"], released=False)
    metric.update(np.array([[0, 0]]), truth, found)
    assert metric.compute()["MOTP"] == 50


def test_frames_in_any_order_and_repeated_change_nothing():
    frames, truth, found = load("crowd")
    whole = metric_of("crowd", released=True).compute()
    metric = PoseTracking(NAMES, released=True)
    for rows in (np.arange(9, 20), np.arange(12)):
        chosen = [rows_of(side, rows) for side in (truth, found)]
        metric.update(frames[rows], *chosen)
    assert metric.compute() == whole


def rows_of(side: Tracks, frames: np.ndarray) -> Tracks:
    kept = np.isin(side.frame, frames)
    fields = {name: value[kept] for name, value in vars(side).items() if value is not None}
    return Tracks(**fields | {"frame": np.searchsorted(frames, fields["frame"])})


def test_assignment_is_the_cheapest_of_the_largest():
    rng = np.random.default_rng(0)
    for _ in range(60):
        costs = rng.random(rng.integers(1, 5, 2))
        costs[rng.random(costs.shape) < 0.4] = np.inf
        pairs = assignment(costs)
        assert (-len(pairs), pytest.approx(sum(costs[i, j] for i, j in pairs))) == by_trial(costs)


def by_trial(costs: np.ndarray) -> tuple[int, float]:
    n, m = costs.shape
    totals = [(0, 0.0)]
    for size in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                total = float(costs[rows, columns].sum())
                totals += [(-size, total)] if np.isfinite(total) else []
    return min(totals)


def test_bad_input_is_refused_by_row():
    frames, truth, found = load("two_people")
    metric = PoseTracking(NAMES)
    with pytest.raises(ValueError, match="head size of annotated person 3"):
        metric.update(frames, replace(truth, head_sizes=np.where(np.arange(len(truth.frame)) == 3, 0, 1.0)), found)
    broken = found.keypoints.copy()
    broken[2] = np.nan
    with pytest.raises(ValueError, match="found person 2 has values that are not finite"):
        metric.update(frames, truth, replace(found, keypoints=broken, present=np.ones_like(found.present)))
    with pytest.raises(ValueError, match="shape"):
        metric.update(frames, truth, replace(found, scores=found.scores[:, 1:]))
