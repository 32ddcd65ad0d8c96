"""Metrics over several processes (gloo): equal to the bit to one process, whatever the division of the images."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pose_lab.metrics.fusion_rate import FusionRate
from pose_lab.metrics.joints import AUC, PCK, PCP, MeanError
from pose_lab.metrics.joints3d import PoseErrors3D
from pose_lab.metrics.mpii import MPIITable
from pose_lab.metrics.oks_ap import OKSAveragePrecision
from pose_lab.metrics.parts import PartsAveragePrecision
from pose_lab.metrics.tracking import PoseTracking
from pose_lab.skeletons import COCO, HUMAN36M, MPII
from tests import forked
from tests.metrics.official import predictions_from
from tests.metrics.test_oks_ap import small_case
from tests.metrics.test_tracking import NAMES, load, rows_of

# Which images (of 25) each process is given, batch by batch: unequal counts, none at all, repeated ones, no update.
DIVISIONS = {
    2: [[[range(0, 25)], []], [[], [range(0, 25)]], [[range(0, 9), range(9, 11)], [range(10, 25)]]],
    3: [
        [[range(0, 25, 3)], [range(1, 25, 3)], [range(2, 25, 3), range(0, 2)]],
        [[range(0, 0)], [range(0, 25)], []],
        [[range(20, 25)], [range(0, 20), range(3, 8)], [range(0, 1), range(24, 25)]],
    ],
}


def numbers_of(batches: list[range]) -> torch.Tensor:
    truth, ids, xy, scores = small_case()
    metric = OKSAveragePrecision(truth, COCO)
    for batch in batches:
        images = truth.image_ids[np.array(batch, dtype=np.int64)]
        rows = np.isin(ids, images)
        metric.update(predictions_from(images, ids[rows], xy[rows], scores[rows]), torch.from_numpy(images))
    rates = fusion_rates_of(batches)
    numbers = [*metric.compute().values(), *rates, *parts_of(batches), *of_single_people(batches), tracking_of(batches)]
    assert len(metric.matches().scores) > 0  # of all processes, on every process
    return torch.cat([number.reshape(-1) for number in numbers])


def fusion_rates_of(batches: list[range]) -> list[torch.Tensor]:
    truth, ids, xy, scores = small_case()
    metric = FusionRate(truth, COCO)
    for batch in batches:
        images = truth.image_ids[np.array(batch, dtype=np.int64)]
        rows = np.isin(ids, images)
        found = predictions_from(images, ids[rows], xy[rows], scores[rows])
        fused = replace(found, keypoint_scores=(found.keypoints[..., 0] % 2).floor())
        metric.update(fused, torch.from_numpy(images))
    return list(metric.compute().values())


def parts_of(batches: list[range]) -> list[torch.Tensor]:
    truth, ids, xy, scores = small_case()
    metric = PartsAveragePrecision(truth, COCO, {"head": [0, 1, 2], "wrists": [9, 10]}, shown_only=True)
    for batch in batches:
        images = truth.image_ids[np.array(batch, dtype=np.int64)]
        rows = np.isin(ids, images)
        metric.update(predictions_from(images, ids[rows], xy[rows], scores[rows]), torch.from_numpy(images))
    numbers = metric.compute()
    assert {"AP_head", "ARL_wrists"} < set(numbers)
    return list(numbers.values())


def of_single_people(batches: list[range]) -> list[torch.Tensor]:
    """Every metric of single people and of poses in three dimensions; a distance in three is exactly a threshold."""
    limbs = ((5, 7), (7, 9))
    metrics = {
        "EPE": MeanError(COCO.keypoints, "EPE"),
        "PCK": PCK(COCO.keypoints, (0.1, 0.5), inclusive=True),
        "AUC": AUC(COCO.keypoints),
        "MPII": MPIITable(MPII.keypoints),
        "PCP": PCP(COCO.keypoints, limbs),
        "3D": PoseErrors3D(HUMAN36M.keypoints),
    }
    for batch in batches:
        ids = torch.tensor(list(batch), dtype=torch.int64)
        for name, metric in metrics.items():
            found, annotated, labelled = poses(ids, len(metric.keypoints), 3 if name == "3D" else 2)
            sizes = {"sizes": torch.full((len(ids),), 6.0)} if name in ("PCK", "MPII") else {}
            metric.update(found, annotated, labelled, 2**40 + ids, **sizes)
    numbers = [torch.stack(list(metric.compute().values())) for metric in metrics.values()]
    assert all(len(metric.rows()) == 25 for metric in metrics.values())  # of all processes, also outside compute
    return [torch.cat(numbers)]


def poses(ids: torch.Tensor, keypoints: int, axes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Found and annotated poses and what is labelled, made of the people's numbers alone."""
    place = torch.arange(keypoints * axes, dtype=torch.float64).view(keypoints, axes)
    annotated = (7 * place).sin() * 20 + ids[:, None, None]
    found = annotated.clone()
    found[..., 0] += (ids[:, None] + torch.arange(keypoints)) % 3 * 3
    return found, annotated, (ids[:, None] + torch.arange(keypoints)) % 7 > 0


def tracking_of(batches: list[range]) -> torch.Tensor:
    frames, truth, found = load("crowd")
    metric = PoseTracking(NAMES)
    for batch in (np.array(batch, dtype=np.int64) for batch in batches):
        chosen = np.flatnonzero(np.isin(np.arange(len(frames)), batch))
        if len(chosen):
            metric.update(frames[chosen], *(rows_of(side, chosen) for side in (truth, found)))
    return torch.stack(list(metric.compute().values()))


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = [numbers_of(division[rank]) for division in DIVISIONS[world]]
    torch.save(torch.stack(results), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_every_division_gives_the_numbers_of_one_process(world: int):
    alone = numbers_of([range(25)])
    with tempfile.TemporaryDirectory() as folder:
        forked.context()
        mp.start_processes(work, (world, folder), nprocs=world, start_method="forkserver")
        for rank in range(world):
            results = torch.load(Path(folder) / f"{rank}.pt", weights_only=True)
            assert torch.equal(results, alone.expand_as(results))
