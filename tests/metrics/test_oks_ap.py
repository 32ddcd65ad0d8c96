"""OKS AP against the official packages' values, on their cases, and under bad input."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pose_lab.metrics.oks_ap import OKSAveragePrecision
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.conftest import fixture_path, shared_data
from tests.metrics.official import annotations_from, predictions_from, results_of

FOLDER = "metrics"
COCO_CASES = [
    "val_noise0", "val_noise1", "val_noise2", "val_noise3", "train_noise0", "train_noise1", "val_perfect", "val_empty",
    "val_ties", "val_ties_reversed", "val_over20", "val_no_people", "val_good_plus_background",
    "val_ignored_three_times", "val_shrunk", "val_negative_scores", "mmpose_coco0", "mmpose_coco1", "ochuman",
    "ids_from_0", "ids_from_1",
]  # fmt: skip
CROWDPOSE_CASES = [
    "full", "subset0", "subset1", "subset2", "subset_empty", "subset_ties", "over20", "only_easy", "head_neck_only",
]  # fmt: skip


def load(name: str) -> dict:
    return json.loads(fixture_path(f"{FOLDER}/{name}").read_text())


def coco_truth(case: str, entry: dict) -> Annotations:
    if case.startswith("ids_from"):
        return annotations_from(fixture_path(f"{FOLDER}/ap/ground_truth_ids_from_0.json"), COCO)
    folder, _, rest = entry["ground_truth"].partition("/")
    return annotations_from(shared_data(folder) / rest, COCO)


def evaluate(
    annotations: Annotations, predictions_of: tuple[np.ndarray, ...], image_ids: list[int] | None = None
) -> OKSAveragePrecision:
    ids, xy, scores = predictions_of
    metric = OKSAveragePrecision(annotations, CROWDPOSE if xy.shape[1] == len(CROWDPOSE) else COCO)
    images = annotations.image_ids if image_ids is None else np.array(image_ids)
    known = np.isin(ids, images)
    metric.update(predictions_from(images, ids[known], xy[known], scores[known]), torch.from_numpy(images))
    metric.compute()
    return metric


def numbers_of(metric: OKSAveragePrecision) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("case", COCO_CASES)
def test_coco_numbers_and_curves_equal_the_reference(case: str):
    expected = load("ap/expected.json")
    entry = expected[case]
    # The reference takes a match with annotation 0 for none; the same people with ids from 1 give the right numbers.
    judge = "ids_from_1" if case == "ids_from_0" else case
    metric = evaluate(
        coco_truth(case, entry), results_of(load(f"ap/{entry['detections']}"), COCO), entry.get("image_ids")
    )
    assert numbers_of(metric) == pytest.approx(expected[judge]["expected"], abs=1e-12)
    with np.load(fixture_path(f"{FOLDER}/ap/curves.npz")) as curves:
        if f"{judge}/precision" in curves:
            ours = metric.curves()
            np.testing.assert_allclose(ours.precision.permute(1, 2, 0), curves[f"{judge}/precision"], atol=1e-6)
            np.testing.assert_allclose(ours.recall.T, curves[f"{judge}/recall"], atol=1e-6)


@pytest.mark.parametrize("case", CROWDPOSE_CASES)
def test_crowdpose_numbers_and_curves_equal_the_authors_package(case: str):
    entry = load("crowdpose/expected.json")[case]
    truth = annotations_from(shared_data("crowdpose") / "annotations/crowdpose_val.json", CROWDPOSE)
    with np.load(fixture_path(f"{FOLDER}/crowdpose/{case}.npz")) as found:
        metric = evaluate(truth, (found["image_id"], found["xy"], found["score"]), entry.get("image_ids"))
    ours = numbers_of(metric)
    for name, value in entry["expected"].items():
        rounded = name.startswith("AP_")  # by the package, to four decimals
        assert ours[name] == pytest.approx(value, abs=5e-5 + 1e-9 if rounded else 1e-12), name
    with np.load(fixture_path(f"{FOLDER}/crowdpose/curves.npz")) as curves:
        np.testing.assert_allclose(metric.curves().precision[0], curves[f"{case}/precision"], atol=1e-6)
        np.testing.assert_allclose(metric.curves().recall[0], curves[f"{case}/recall"], atol=1e-6)


def random_truth(rng: np.random.Generator, images: int = 25, keypoints: int = 17, most: int = 6) -> dict:
    """A COCO file with crowd regions, unlabelled people, images without people, shuffled ids and tied OKS."""
    ids = rng.permutation(np.arange(1000, 1000 + images))
    people = []
    for image in ids.tolist():
        for _ in range(rng.integers(0, most)):
            width, height = rng.uniform(15, 250, 2)
            x, y = rng.uniform(0, 300, 2)
            visibility = rng.choice([0, 1, 2], keypoints) * int(rng.random() > 0.2)
            xy = np.round([x, y] + rng.random((keypoints, 2)) * [width, height]) * (visibility > 0)[:, None]
            people.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": width * height * rng.uniform(0.3, 0.9),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": np.column_stack([xy, visibility]).reshape(-1).tolist(),
                    "num_keypoints": int((visibility > 0).sum()),
                }
            )
            if rng.random() < 0.1:
                people.append(dict(people[-1]))  # the same person twice: equal OKS, the later one is taken
    for number, person in enumerate(people):
        person["id"] = number + 1
    return {
        "images": [{"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"} for image in ids.tolist()],
        "annotations": [people[n] for n in rng.permutation(len(people))],
        "categories": [{"id": 1, "name": "person"}],
    }


def random_results(rng: np.random.Generator, truth: dict, levels: int) -> list[dict]:
    """Noisy copies of people, several per person, plus strays; scores on a few levels, so with ties."""
    records = []
    for person in truth["annotations"]:
        keypoints = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        x, y, width, height = person["bbox"]
        unlabelled = keypoints[:, 2] == 0
        keypoints[unlabelled, :2] = [x, y] + rng.random((unlabelled.sum(), 2)) * [width, height]
        for _ in range(rng.integers(0, 9)):
            noisy = keypoints.copy()
            noisy[:, :2] += rng.normal(size=(len(keypoints), 2)) * np.sqrt(person["area"]) * rng.uniform(0, 0.2)
            records.append({"image_id": person["image_id"], "keypoints": noisy.round(2)})
    for image in truth["images"]:
        for _ in range(rng.integers(0, 4)):
            stray = rng.uniform(0, 480, (len(keypoints), 3)).round(2)
            records.append({"image_id": image["id"], "keypoints": stray})
    for record in records:
        record |= {"category_id": 1, "score": float(rng.integers(levels)) / levels}
        record["keypoints"] = record["keypoints"].reshape(-1).tolist()
    return [records[n] for n in rng.permutation(len(records))]


def by_pycocotools(truth: dict, records: list[dict], sigma: float | None = None) -> tuple[np.ndarray, dict]:
    from pycocotools.coco import COCO as Reader  # noqa: N811
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reader = Reader()
        reader.dataset = truth
        reader.createIndex()
        evaluator = COCOeval(reader, reader.loadRes(records), "keypoints")
        if sigma is not None:
            evaluator.params.kpt_oks_sigmas[:] = sigma
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats, evaluator.eval


@pytest.mark.parametrize("seed", range(6))
def test_random_cases_equal_pycocotools(seed: int):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    records = random_results(rng, truth, levels=[3, 30, 100000][seed % 3])
    metric = evaluate(annotations_from(truth, COCO), results_of(records, COCO))
    stats, curves = by_pycocotools(truth, records)
    np.testing.assert_allclose(list(numbers_of(metric).values()), stats, atol=1e-12)
    ours = metric.curves()
    np.testing.assert_allclose(ours.precision.permute(1, 2, 0), curves["precision"][:, :, 0, :, 0], atol=1e-12)
    scores = curves["scores"][:, 1:, 0, :, 0]  # its entry at recall 0 is the best score of all, hit or not
    np.testing.assert_allclose(ours.scores.permute(1, 2, 0)[:, 1:], scores, atol=1e-12)
    np.testing.assert_allclose(ours.recall.T, curves["recall"][:, 0, :, 0], atol=1e-12)


def small_case() -> tuple[Annotations, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    truth = random_truth(rng)
    return annotations_from(truth, COCO), *results_of(random_results(rng, truth, levels=4), COCO)


def test_batches_in_any_order_and_repeated_images_change_nothing():
    truth, ids, xy, scores = small_case()
    whole = numbers_of(evaluate(truth, (ids, xy, scores)))
    metric = OKSAveragePrecision(truth, COCO)
    order = np.random.default_rng(0).permutation(truth.image_ids)
    for images in [order[:7], order[7:20], order[18:], order[:3]]:
        rows = np.isin(ids, images)
        metric.update(predictions_from(images, ids[rows], xy[rows], scores[rows]), torch.from_numpy(images))
    assert numbers_of(metric) == whole


def test_only_images_that_were_seen_count():
    truth, ids, xy, scores = small_case()
    images = truth.image_ids[:5]
    few = evaluate(truth, (ids, xy, scores), images)
    rows = np.isin(truth.image_index, np.arange(5))
    assert few.matches().counted[0].sum() <= rows.sum()
    assert not few.matches().counted[:, ~rows].any()
    assert few.matches().evaluated.sum() == 5


def test_reset_forgets():
    truth, ids, xy, scores = small_case()
    metric = evaluate(truth, (ids, xy, scores))
    metric.reset()
    with pytest.raises(RuntimeError, match="after compute"):
        metric.matches()
    nothing = predictions_from(truth.image_ids, ids[:0], xy[:0], scores[:0])
    metric.update(nothing, torch.from_numpy(truth.image_ids))
    assert set(numbers_of(metric).values()) == {0.0}


def test_matches_tell_person_similarity_and_what_is_ignored():
    content = random_truth(np.random.default_rng(3))
    truth = annotations_from(content, COCO)
    visible = truth.keypoints[..., 2] > 0
    labelled = np.flatnonzero(visible.any(1) & ~truth.ignore)
    row = labelled[0]
    xy = truth.keypoints[row, None, :, :2] - truth.pixel_shift
    image = truth.image_ids[truth.image_index[row]]
    metric = evaluate(truth, (np.array([image, image]), np.concatenate([xy, xy + 1e4]), np.array([0.9, 0.8])))
    matches = metric.matches()
    assert matches.scores.tolist() == [0.9, 0.8]
    assert (truth.keypoints[matches.matched_person[0, 0, 0], visible[row]] == truth.keypoints[row, visible[row]]).all()
    assert matches.matched_similarity[0, :, 0].tolist() == [1.0] * 10
    assert not matches.ignored[0, :, 0].any()
    assert matches.matched_person[0, :, 1].tolist() == [-1] * 10
    assert matches.matched_similarity[0, :, 1].tolist() == [0.0] * 10


def test_difficulty_limits_are_the_packages_or_the_papers():
    truth = annotations_from(random_truth(np.random.default_rng(1)), COCO)
    truth = replace(truth, crowd_index=np.tile([0.05, 0.1, 0.2, 0.5, 0.8], 5))
    perfect = truth.keypoints[..., :2] - truth.pixel_shift, truth.image_ids[truth.image_index]

    def counted(limits: tuple[float, float]) -> list[int]:
        metric = OKSAveragePrecision(truth, COCO, crowd_limits=limits)
        found = predictions_from(truth.image_ids, perfect[1], perfect[0], np.ones(len(perfect[1])))
        metric.update(found, torch.from_numpy(truth.image_ids))
        assert {"AP_easy", "AP_medium", "AP_hard"} < set(metric.compute())
        return [int(images.sum()) for _, images in metric.difficulty_sets()]

    assert counted((0.2, 0.8)) == [10, 10, 5]
    assert counted((0.1, 0.8)) == [5, 15, 5]


def a_prediction(truth: Annotations) -> tuple[Predictions, torch.Tensor]:
    found = predictions_from(truth.image_ids, truth.image_ids[[0, 1, 1]], np.ones((3, len(COCO), 2)), np.ones(3))
    return found, torch.from_numpy(truth.image_ids)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_row(bad: float):
    truth, *_ = small_case()
    metric = OKSAveragePrecision(truth, COCO)
    found, ids = a_prediction(truth)
    found.keypoints[2, 4, 1] = bad
    with pytest.raises(ValueError, match="keypoints of prediction 2"):
        metric.update(found, ids)
    found, ids = a_prediction(truth)
    found.scores[1] = bad
    with pytest.raises(ValueError, match="score of prediction 1"):
        metric.update(found, ids)


def test_ids_indices_and_shapes_that_do_not_fit_are_refused():
    truth, *_ = small_case()
    metric = OKSAveragePrecision(truth, COCO)
    found, ids = a_prediction(truth)
    with pytest.raises(ValueError, match=r"image id 5 \(image 3 of the batch\)"):
        metric.update(found, torch.cat([ids[:3], torch.tensor([5])]))
    with pytest.raises(ValueError, match="image_index of prediction 1"):
        metric.update(found, ids[:1])
    with pytest.raises(ValueError, match="skeleton coco wants"):
        metric.update(replace(found, keypoints=found.keypoints[:, :3]), ids)
    with pytest.raises(ValueError, match="skeleton crowdpose has"):
        OKSAveragePrecision(truth, CROWDPOSE)


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_a_number_of_detections_out_of_range_is_refused(limit: float):
    truth, *_ = small_case()
    with pytest.raises(ValueError, match=f"max_detections={limit} must be a whole number from 1 on"):
        OKSAveragePrecision(truth, COCO, limit)
