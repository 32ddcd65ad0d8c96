"""PCK and its relatives, MPII's table, PCP and 3D errors against the published functions' values."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from pose_lab.metrics.joints import (
    AUC,
    PCK,
    PCP,
    MeanError,
    box_sizes,
    head_sizes,
    keypoint_distances,
    torso_sizes,
)
from pose_lab.metrics.joints3d import PoseErrors3D
from pose_lab.metrics.mpii import COLUMNS, MPIITable
from tests.conftest import fixture_path

EXPECTED = json.loads(fixture_path("metrics/joints/expected.json").read_text())
MPII = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "upper_neck",
    "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(fixture_path(f"metrics/joints/{name}.npz")) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def names(case: dict[str, Tensor]) -> list[str]:
    return [f"keypoint {k}" for k in range(case["gt"].shape[1])]


def update(metric, case: dict[str, Tensor], suffix: str = "", visible: Tensor | None = None, **kwargs):
    visible = case["visible"] if visible is None else visible
    metric.update(case[f"pred{suffix}"], case[f"gt{suffix}"], visible, torch.arange(len(visible)), **kwargs)
    return metric


@pytest.mark.parametrize("key", [key for key in EXPECTED["pck"] if not key.startswith("nobody")])
def test_pck(key: str):
    case, expected = arrays("pck"), EXPECTED["pck"][key]
    size, _, threshold = key.partition("@")
    suffix = "_ties" if size == "ties" else ""
    sizes = case["norm_ties" if suffix else size]
    metric = update(PCK(names(case), [float(threshold)]), case, suffix, sizes=sizes)
    absent = torch.tensor(expected["per_keypoint"]) == -1
    ours = metric.per_keypoint(float(threshold))
    assert torch.equal(ours.isnan(), absent)
    assert ours[~absent].tolist() == pytest.approx(np.array(expected["per_keypoint"])[~absent], rel=1e-12)
    assert (metric.per_keypoint_counts() > 0).sum() == expected["counted_keypoints"]
    assert metric.compute()[f"PCK@{threshold}"].item() == pytest.approx(expected["mean"], rel=1e-6)


def test_the_usual_size_is_the_longer_side_of_the_box():
    case = arrays("pck")
    torch.testing.assert_close(box_sizes(case["bbox_xyxy"]), case["norm"][:, 0])


def test_where_nobody_is_labelled_everything_is_undefined():
    """The published functions give 0, which for an error means perfect."""
    case = arrays("pck")
    nobody = torch.zeros_like(case["visible"])
    pck = update(PCK(names(case), [0.2]), case, visible=nobody, sizes=case["norm"])
    epe = update(MeanError(names(case), "EPE"), case, visible=nobody)
    assert pck.compute()["PCK@0.2"].isnan()
    assert epe.compute()["EPE"].isnan()
    assert pck.per_keypoint_counts().sum() == EXPECTED["pck"]["nobody_visible@0.2"]["counted_keypoints"]


@pytest.mark.parametrize("key", EXPECTED["auc"])
def test_auc(key: str):
    case = arrays("pck")
    size, steps = (int("".join(filter(str.isdigit, part))) for part in key.split("_"))
    assert update(AUC(names(case), size, steps), case).compute()["AUC"].item() == pytest.approx(EXPECTED["auc"][key])


def test_epe_and_nme():
    case = arrays("pck")
    epe = update(MeanError(names(case), "EPE"), case)
    assert epe.compute()["EPE"].item() == pytest.approx(EXPECTED["epe"]["visible"], rel=1e-6)
    nme = update(MeanError(names(case), "NME"), case, sizes=box_sizes(case["bbox_xyxy"]))
    assert nme.compute()["NME"].item() == pytest.approx(EXPECTED["nme"]["bbox_size"], rel=1e-6)
    two = EXPECTED["nme"]["two_keypoints"]
    nme = update(MeanError(names(case), "NME"), case, sizes=keypoint_distances(case["gt"], *two["keypoints"]))
    assert nme.compute()["NME"].item() == pytest.approx(two["value"], rel=1e-6)


@pytest.mark.parametrize("variant", ["PCK", "tPCK"])
def test_jhmdb_by_box_and_by_torso(variant: str):
    """A group of which the published function shows a negative score (a joint that nobody shows) is left aside."""
    case, expected = arrays("jhmdb"), EXPECTED["jhmdb"]
    torso = torso_sizes(case["gt"], case["pred"], 4, 5)
    sizes = torso if variant == "tPCK" else box_sizes(case["bbox_xyxy"])
    metric = update(PCK(names(case), [expected["threshold"]], name=variant), case, sizes=sizes)
    assert metric.compute()[f"{variant}@0.2"].item() == pytest.approx(expected["values"][variant], rel=1e-6)
    shares = metric.per_keypoint(expected["threshold"])
    groups = {
        "Head": [2],
        "Sho": [3, 4],
        "Elb": [7, 8],
        "Wri": [11, 12],
        "Hip": [5, 6],
        "Knee": [9, 10],
        "Ank": [13, 14],
    }
    for name, members in groups.items():
        if not shares[members].isnan().any():
            assert shares[members].mean().item() == pytest.approx(expected["values"][f"{name} {variant}"], rel=1e-6)
    assert shares[groups["Sho"]].isnan().any()
    assert shares[groups["Sho"]].nanmean() >= 0


@pytest.mark.parametrize("case_name", ["test", "ties"])
@pytest.mark.parametrize("judge", ["hrnet", "mmpose"])
def test_mpii_table(case_name: str, judge: str):
    case, expected = arrays(f"mpii_{case_name}"), EXPECTED["mpii"][case_name][judge]
    metric = MPIITable(MPII, inclusive=judge == "hrnet")
    found = case["pred_0based"] + 1
    ids = torch.arange(len(found))
    metric.update(found, case["gt_1based"], case["visible"], ids, sizes=head_sizes(case["head_box_xyxy_1based"]))
    table = {name: value.item() for name, value in metric.compute().items()}
    column = " PCK" if judge == "mmpose" else ""
    for name in COLUMNS:
        assert table[name] == pytest.approx(expected[f"{name}{column}"], rel=1e-6), name
    mean, at_a_tenth = ("Mean", "Mean@0.1") if judge == "hrnet" else ("PCK", "PCK@0.1")
    assert table["Mean"] == pytest.approx(expected[mean], rel=1e-6)
    read_at = "Mean@0.11" if judge == "hrnet" else "Mean@0.1"
    assert table[read_at] == pytest.approx(expected[at_a_tenth], rel=1e-6)


def test_mpii_table_wants_its_keypoints():
    with pytest.raises(ValueError, match="head_top"):
        MPIITable([name for name in MPII if name != "head_top"])


def test_pcp_strict_and_loose():
    case, expected = arrays("pcp"), EXPECTED["pcp"]
    limbs = [tuple(limb) for limb in case["limbs"].tolist()]
    metric = update(PCP(names(case), limbs, expected["alpha"]), case)
    both = metric.per_limb()
    assert both[:, 0].tolist() == pytest.approx(expected["strict_per_limb"])
    assert both[:, 1].tolist() == pytest.approx(expected["loose_per_limb"])
    hits = torch.stack([case["hit_strict"], case["hit_loose"]], 2)
    assert torch.equal(metric.rows().nan_to_num(-1).long(), hits)
    result = metric.compute()
    assert result["PCP strict"].item() == pytest.approx(expected["strict_all"])
    assert result["PCP loose"].item() == pytest.approx(expected["loose_all"])


@pytest.mark.parametrize("threshold", EXPECTED["pdj"]["values"])
def test_pdj(threshold: str):
    case, expected = arrays("pcp"), EXPECTED["pdj"]
    torso = keypoint_distances(case["gt"], *expected["torso_keypoints"], case["visible"])
    metric = update(PCK(names(case), [float(threshold)], inclusive=True, name="PDJ"), case, sizes=torso)
    assert metric.compute()[f"PDJ@{threshold}"].item() == pytest.approx(expected["values"][threshold]["mean"])
    assert metric.per_keypoint(float(threshold)).tolist() == pytest.approx(
        expected["values"][threshold]["per_keypoint"]
    )


def numbers_3d(case: dict[str, Tensor], visible: Tensor) -> list[float]:
    return [value.item() for value in update(PoseErrors3D(names(case)), case, visible=visible).compute().values()]


def test_errors_of_3d_poses():
    case, expected = arrays("mpjpe"), EXPECTED["mpjpe"]
    keys = ("mpjpe", "pa_mpjpe", "n_mpjpe")
    everything = torch.ones_like(case["visible"])
    assert numbers_3d(case, case["visible"]) == pytest.approx([expected[key] for key in keys])
    assert numbers_3d(case, everything) == pytest.approx([expected["all_visible"][key] for key in keys])
    per_pose = update(PoseErrors3D(names(case)), case, visible=everything).per_pose()
    for column, key in enumerate(keys):
        assert per_pose[:, column].tolist() == pytest.approx(expected["per_pose_all_visible"][key], abs=1e-9)
    rooted = {key: value - value[:, :1] for key, value in case.items() if key in ("gt", "pred")}
    assert numbers_3d(rooted, everything) == pytest.approx([expected["root_relative_all_visible"][k] for k in keys])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCK(["a"], []), r"thresholds=\[\] must be finite and above 0"),
        (lambda: PCK(["a"], [0.5, float("nan")]), "thresholds=0.5, nan must be finite and above 0"),
        (lambda: AUC(["a"], pixels=0), "pixels=0 must be finite and above 0"),
        (lambda: AUC(["a"], steps=0), "steps=0 must be a whole number from 1 on"),
        (lambda: PCP(["a", "b"], [(0, 1)], alpha=-0.5), "alpha=-0.5 must be finite and above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_negative_size_is_refused():
    case = arrays("pck")
    sizes = case["norm"].clone()
    sizes[1] = -1
    with pytest.raises(ValueError, match="size of person 1 is below 0"):
        update(PCK(names(case), [0.1]), case, sizes=sizes)


def test_a_pose_that_collapsed_to_a_point_gets_finite_errors():
    metric = PoseErrors3D(["a", "b"])
    metric.update(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]))
    assert metric.compute()["PA-MPJPE"] == 0
    assert metric.compute()["N-MPJPE"].item() == pytest.approx(3**0.5)


def test_repeated_people_and_their_order_change_nothing():
    case = arrays("pck")
    whole = update(PCK(names(case), [0.1]), case, sizes=case["norm"]).compute()
    metric = PCK(names(case), [0.1])
    for rows in (torch.arange(5, 14), torch.arange(8), torch.arange(3, 6)):
        metric.update(case["pred"][rows], case["gt"][rows], case["visible"][rows], rows, sizes=case["norm"][rows])
    assert metric.compute() == whole


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(ValueError, match=message):
        yield


def test_bad_input_is_refused_by_row():
    case = arrays("pck")
    metric = PCK(names(case), [0.1])
    ids = torch.arange(len(case["gt"]))
    broken = case["pred"].clone()
    broken[4, 2, 0] = torch.nan
    with refused("found keypoints of person 4"):
        metric.update(broken, case["gt"], case["visible"], ids, sizes=case["norm"])
    with refused("found has the shape"):
        metric.update(case["pred"][:, 1:], case["gt"], case["visible"], ids, sizes=case["norm"])
    with refused("size of person 0"):
        metric.update(case["pred"], case["gt"], case["visible"], ids, sizes=case["norm"] * torch.inf)
    unlabelled = case["gt"].clone()
    unlabelled[~case["visible"]] = torch.nan
    metric.update(case["pred"], unlabelled, case["visible"], ids, sizes=case["norm"])
    assert metric.compute()["PCK@0.1"].item() == pytest.approx(EXPECTED["pck"]["norm@0.1"]["mean"], rel=1e-6)


def test_accuracy_on_heatmaps_is_pck_and_the_published_one_swaps_height_and_width():
    case, expected = arrays("heatmap_accuracy"), EXPECTED["heatmap_accuracy"]
    people, keypoints, height, width = case["target"].shape
    found, annotated = (peaks(case[name]) for name in ("output", "target"))
    labelled = case["visible"].bool()

    def shares(size: tuple[int, int]) -> Tensor:
        metric = PCK([f"keypoint {k}" for k in range(keypoints)], [expected["threshold"]])
        sizes = torch.tensor(size, dtype=torch.float64).expand(people, 2)
        metric.update(found, annotated, labelled, torch.arange(people), sizes=sizes)
        return metric.per_keypoint(expected["threshold"])

    published = torch.tensor(expected["per_keypoint"], dtype=torch.float64)
    torch.testing.assert_close(shares((height, width)), published)
    assert not torch.equal(shares((width, height)), published)


def peaks(heatmaps: Tensor) -> Tensor:
    """(n, K, 2) where each map of (n, K, H, W) is highest."""
    at = heatmaps.flatten(2).argmax(2)
    return torch.stack([at % heatmaps.shape[3], at // heatmaps.shape[3]], 2).double()
