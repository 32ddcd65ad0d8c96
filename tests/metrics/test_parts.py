"""AP of parts: COCO-WholeBody's six against xtcocotools, single keypoints, sets of images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pose_lab.metrics.oks_ap import OKSAveragePrecision, extents, people_per_image, sets_of_images
from pose_lab.metrics.parts import indices_of, part_of_annotations, part_of_predictions, part_of_skeleton, shows_part
from pose_lab.poses import Predictions
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton
from tests.conftest import fixture_path, shared_data
from tests.metrics.official import annotations_from, predictions_from
from tests.metrics.test_oks_ap import by_pycocotools, random_results, random_truth, results_of

# COCO-WholeBody's constants after the body's: six of the feet, 68 of the face, 21 of a hand.
FEET = "068 066 066 092 094 094"
FACE = (
    "042 043 044 043 040 035 031 025 020 023 029 032 037 038 043 041 045 013 012 011 011 012 012 011 011 013 015 009 "
    "007 007 007 012 009 008 016 010 017 011 009 011 009 007 013 008 011 012 010 034 008 008 009 008 008 007 010 008 "
    "009 009 009 007 007 008 011 008 008 008 010 008"
)
HAND = "029 022 035 037 047 026 025 024 035 018 024 022 026 017 021 021 032 020 019 022 031"
CROWDPOSE_VAL = "annotations/crowdpose_val.json"
FIELDS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
PARTS = ("keypoints", "keypoints_foot", "keypoints_face", "keypoints_lefthand", "keypoints_righthand")


def whole_body() -> Skeleton:
    sigmas = [float(f"0.{digits}") for digits in f"{FEET} {FACE} {HAND} {HAND}".split()]
    names = (*COCO.keypoints, *(f"extra {k}" for k in range(len(sigmas))))
    return Skeleton("whole body", names, COCO.limbs, (*COCO.sigmas, *sigmas), "COCO-WholeBody (Jin et al., ECCV 2020)")


def merged(record: dict) -> dict:
    return record | {"keypoints": [number for field in FIELDS for number in record[field]]}


def part_indices(part: str) -> list[int]:
    sizes = [len(COCO), len(FEET.split()), len(FACE.split()), len(HAND.split()), len(HAND.split())]
    if part == "keypoints_wholebody":
        return list(range(sum(sizes)))
    at = PARTS.index(part)
    return list(range(sum(sizes[:at]), sum(sizes[: at + 1])))


@pytest.mark.parametrize("part", [*PARTS, "keypoints_wholebody"])
def test_whole_body_parts_equal_the_reference(part: str):
    expected = json.loads(fixture_path("metrics/ap/expected.json").read_text())["wholebody"]["expected_by_part"][part]
    content = json.loads((shared_data("mmpose_samples") / "coco/test_coco_wholebody.json").read_text())
    content["annotations"] = [merged(person) for person in content["annotations"]]
    records = [merged(record) for record in json.loads(fixture_path("metrics/ap/wholebody.json").read_text())]
    body = whole_body()
    truth, indices = annotations_from(content, body), part_indices(part)
    found = predictions_from(truth.image_ids, *results_of(records, body))
    values = torch.tensor([record["keypoints"] for record in records]).view(len(records), -1, 3)
    order = torch.tensor(np.argsort([record["image_id"] for record in records], kind="stable"))
    found = replace(found, keypoint_scores=values[order][..., 2])
    metric = OKSAveragePrecision(part_of_annotations(truth, body, indices), part_of_skeleton(body, part, indices))
    rows, areas = shows_part(found, indices), extents(found.keypoints[:, : len(COCO)])
    metric.update(part_of_predictions(found, indices, rows), torch.from_numpy(truth.image_ids), areas[rows])
    ours = {name: float(value) for name, value in metric.compute().items()}
    assert ours == pytest.approx(expected, abs=1e-9)


def test_one_keypoint_alone_is_coco_with_only_that_keypoint():
    rng = np.random.default_rng(5)
    content = random_truth(rng)
    truth = annotations_from(content, COCO)
    records = random_results(rng, content, levels=50)
    k = indices_of(COCO, ["left_wrist"])
    metric = OKSAveragePrecision(part_of_annotations(truth, COCO, k), part_of_skeleton(COCO, "left_wrist", k))
    found = part_of_predictions(predictions_from(truth.image_ids, *results_of(records, COCO)), k)
    metric.update(found, torch.from_numpy(truth.image_ids))
    for person in content["annotations"]:  # the reference knows 17 keypoints: label only this one
        values = np.array(person["keypoints"]).reshape(-1, 3)
        values[np.arange(len(values)) != k[0], 2] = 0
        person |= {"keypoints": values.reshape(-1).tolist(), "num_keypoints": int((values[:, 2] > 0).sum())}
    stats, _ = by_pycocotools(content, moved_to(records, k[0]), COCO.sigmas[k[0]])
    ours = metric.compute()
    assert ours["AP"].item() == pytest.approx(stats[0], abs=1e-12)
    assert ours["AR"].item() == pytest.approx(stats[5], abs=1e-12)


def moved_to(records: list[dict], k: int) -> list[dict]:
    """The detections with all keypoints on keypoint k, so that its distance from an unlabelled person alone counts."""
    moved = []
    for record in records:
        point = record["keypoints"][3 * k : 3 * k + 3]
        moved.append(record | {"keypoints": point * (len(record["keypoints"]) // 3)})
    return moved


def test_a_part_keeps_its_own_limbs_sigmas_and_counting():
    indices = indices_of(CROWDPOSE, ["left_shoulder", "left_elbow", "head"])
    part = part_of_skeleton(CROWDPOSE, "arm", indices)
    assert part.name == "crowdpose:arm"
    assert [{part.keypoints[a], part.keypoints[b]} for a, b in part.limbs] == [{"left_elbow", "left_shoulder"}]
    assert part.sigmas == tuple(CROWDPOSE.sigmas[k] for k in indices)
    assert part.counted == (True, True, False)
    with pytest.raises(ValueError, match="no keypoint 'tail'"):
        indices_of(COCO, ["nose", "tail"])


def test_a_part_of_uncounted_keypoints_alone_counts_them():
    truth = annotations_from(json.loads((shared_data("crowdpose") / CROWDPOSE_VAL).read_text()), CROWDPOSE)
    head = indices_of(CROWDPOSE, ["head"])
    assert part_of_skeleton(CROWDPOSE, "head", head).counted == (True,)
    part = part_of_annotations(truth, CROWDPOSE, head)
    assert part.num_keypoints.sum() == (truth.keypoints[:, head, 2] > 0).sum() > 0


def test_people_without_the_part_can_be_left_out_of_the_predictions():
    scores = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.0, 0.1]])
    found = Predictions(torch.tensor([0, 1]), torch.ones(2, 3, 2), scores, torch.ones(2), torch.ones(2, 4))
    rows = shows_part(found, [1, 2])
    assert part_of_predictions(found, [1, 2], rows).image_index.tolist() == [1]
    assert len(part_of_predictions(found, [1, 2])) == 2


def test_numbers_of_a_set_of_images_are_those_of_evaluating_it_alone():
    rng = np.random.default_rng(11)
    content = random_truth(rng)
    truth = annotations_from(content, COCO)
    ids, xy, scores = results_of(random_results(rng, content, levels=50), COCO)
    whole = OKSAveragePrecision(truth, COCO)
    whole.update(predictions_from(truth.image_ids, ids, xy, scores), torch.from_numpy(truth.image_ids))
    whole.compute()
    sets = sets_of_images(people_per_image(truth), [1, 3])
    assert list(sets) == ["below 1", "1 to 3", "from 3"]
    assert sum(images.sum() for images in sets.values()) == len(truth.image_ids)
    for images in sets.values():
        alone = OKSAveragePrecision(truth, COCO)
        chosen = truth.image_ids[images]
        rows = np.isin(ids, chosen)
        alone.update(predictions_from(chosen, ids[rows], xy[rows], scores[rows]), torch.from_numpy(chosen))
        assert alone.compute() == whole.numbers(images)
