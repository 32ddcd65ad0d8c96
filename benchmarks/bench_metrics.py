"""Time of OKS AP beside the packages that are installed (`python -m benchmarks.bench_metrics`).

Every evaluator is given the ground truth beforehand and is timed from the detections to the numbers, reading the
detections included; the rows of a case run alternately, and the median counts.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from pose_lab.metrics.oks_ap import OKSAveragePrecision
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import COCO, CROWDPOSE, Skeleton

REPEATS = 5
SIZE = 640


def people(images: int, per_image: float, skeleton: Skeleton, crowd: bool, seed: int = 0) -> Annotations:
    """Random people: `per_image` on average, a tenth of them unlabelled, one in fifty a crowd region."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(per_image, images)
    image_index = np.repeat(np.arange(images), counts)
    total = len(image_index)
    size = rng.uniform(30, 250, (total, 2))
    corner = rng.uniform(0, SIZE - size)
    xy = np.round(corner[:, None] + rng.random((total, len(skeleton), 2)) * size[:, None])
    visibility = (
        rng.choice([0, 1, 2], (total, len(skeleton), 1), p=[0.3, 0.1, 0.6]) * (rng.random(total) > 0.1)[:, None, None]
    )
    return Annotations(
        image_ids=np.arange(1, images + 1),
        file_names=np.full(images, b""),
        sizes=np.full((images, 2), SIZE, dtype=np.int32),
        crowd_index=rng.random(images) if crowd else np.full(images, np.nan),
        instance_ids=np.arange(1, total + 1),
        image_index=image_index,
        boxes=np.concatenate([corner, corner + size], 1),
        keypoints=np.concatenate([(xy + 0.5) * (visibility > 0), visibility], 2),
        areas=size.prod(1) * 0.6,
        ignore=rng.random(total) < 0.02,
        num_keypoints=(visibility[..., 0] > 0)[:, list(skeleton.counted)].sum(1).astype(np.int32),
    )


def detections(truth: Annotations, per_image: int, seed: int = 1) -> Predictions:
    """Exactly `per_image` detections: annotated people with errors first, then people at random places."""
    rng = np.random.default_rng(seed)
    images, keypoints = len(truth.image_ids), truth.keypoints.shape[1]
    rank = np.arange(len(truth.image_index)) - truth.starts[truth.image_index]
    own = rank < per_image
    found = rng.uniform(0, SIZE, (images, per_image, 1, 2)) + rng.uniform(0, 150, (images, per_image, keypoints, 2))
    spread = np.sqrt(truth.areas[own])[:, None, None] * 0.08 * rng.uniform(0, 2, (own.sum(), 1, 1))
    noise = rng.normal(size=(own.sum(), keypoints, 2)) * spread
    found[truth.image_index[own], rank[own]] = truth.keypoints[own, :, :2] + noise
    total = images * per_image
    return Predictions(
        image_index=torch.arange(images).repeat_interleave(per_image),
        keypoints=torch.from_numpy(np.round(found.reshape(total, keypoints, 2), 1)),
        keypoint_scores=torch.ones(total, keypoints),
        scores=torch.from_numpy(rng.random(total)),
        boxes=torch.zeros(total, 4),
    )


def coco_json(truth: Annotations) -> dict:
    """The annotations in COCO's layout."""
    file_keypoints = truth.keypoints.copy()
    file_keypoints[..., :2] -= truth.pixel_shift * (file_keypoints[..., 2:] > 0)
    boxes = np.concatenate([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]], 1)
    return {
        "images": [
            {"id": int(i), "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"} for i in truth.image_ids.tolist()
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": int(truth.instance_ids[n]),
                "image_id": int(truth.image_ids[truth.image_index[n]]),
                "category_id": 1,
                "bbox": boxes[n].tolist(),
                "keypoints": file_keypoints[n].reshape(-1).tolist(),
                "area": float(truth.areas[n]),
                "iscrowd": int(truth.ignore[n]),
                "num_keypoints": int(truth.num_keypoints[n]),
            }
            for n in range(len(truth.areas))
        ],
    }


def coco_results(truth: Annotations, found: Predictions) -> list[dict]:
    """The detections in COCO's results layout."""
    xy = found.keypoints.double() - truth.pixel_shift
    flat = torch.cat([xy, torch.ones_like(xy[..., :1])], 2).flatten(1).tolist()
    ids = truth.image_ids[found.image_index.numpy()].tolist()
    return [
        {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": score}
        for image, keypoints, score in zip(ids, flat, found.scores.tolist(), strict=True)
    ]


def ours(truth: Annotations, skeleton: Skeleton, found: Predictions) -> dict[str, float]:
    metric = OKSAveragePrecision(truth, skeleton)
    metric.update(found, torch.from_numpy(truth.image_ids))
    return {name: float(value) for name, value in metric.compute().items()}


def peers(truth: Annotations, skeleton: Skeleton, found: Predictions) -> dict[str, Callable[[], np.ndarray]]:
    """Evaluators of the installed packages; each returns COCO's ten numbers."""
    content, results = coco_json(truth), coco_results(truth, found)
    sigmas = np.array(skeleton.sigmas)
    evaluators: dict[str, Callable[[], np.ndarray]] = {}
    with contextlib.suppress(ImportError):
        evaluators["pycocotools"] = _coco_style("pycocotools.coco", "pycocotools.cocoeval", content, results, sigmas)
    with contextlib.suppress(ImportError):
        faster = importlib.import_module("faster_coco_eval")
        truth_of_peer = faster.COCO(content)

        def run() -> np.ndarray:
            evaluator = faster.COCOeval_faster(
                truth_of_peer, truth_of_peer.loadRes(results), "keypoints", kpt_oks_sigmas=sigmas
            )
            evaluator.run()
            return np.array(evaluator.stats[:10])

        evaluators["faster-coco-eval"] = run
    with contextlib.suppress(ImportError):
        evaluators["hotcoco"] = _by_hotcoco(content, results, skeleton)
    return evaluators


def _by_hotcoco(content: dict, results: list[dict], skeleton: Skeleton) -> Callable[[], np.ndarray]:
    hotcoco = importlib.import_module("hotcoco")
    truth = hotcoco.COCO(content)

    def run() -> np.ndarray:
        evaluator = hotcoco.COCOeval(truth, truth.load_res(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = list(skeleton.sigmas or ())
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return np.array(evaluator.stats[:10])

    return run


def _coco_style(
    reader: str, evaluation: str, content: dict, results: list[dict], sigmas: np.ndarray
) -> Callable[[], np.ndarray]:
    coco = importlib.import_module(reader).COCO()
    coco.dataset = content
    coco.createIndex()
    evaluator_class = importlib.import_module(evaluation).COCOeval

    def run() -> np.ndarray:
        evaluator = evaluator_class(coco, coco.loadRes(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = sigmas
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return np.array(evaluator.stats[:10])

    return run


def memory() -> dict:
    """Megabytes by which a process grows at most while it evaluates COCO val."""
    truth = people(5000, 2.2, COCO, crowd=False)
    found = detections(truth, 20)
    ours(*_small())  # whatever is loaded on first use
    process, peak, ended = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    ours(truth, COCO, found)
    ended.set()
    watcher.join()
    return {
        "what": "OKS AP, COCO val, memory at its peak",
        "value": (peak - before) / 1e6,
        "unit": "MB",
        "target": "< 100",
    }


def _small() -> tuple[Annotations, Skeleton, Predictions]:
    truth = people(50, 2.2, COCO, crowd=False)
    return truth, COCO, detections(truth, 20)


def large_file(megabytes: int = 100) -> list[dict]:
    """Reading a results file of that size: seconds, and megabytes of memory at the peak, in a process of its own."""
    truth = people(5000, 2.2, COCO, crowd=False)
    records = coco_results(truth, detections(truth, 4))
    with tempfile.TemporaryDirectory() as folder:
        gt, dt = Path(folder, "gt.json"), Path(folder, "dt.json")
        gt.write_text(json.dumps(coco_json(truth)))
        text = json.dumps(records)[1:-1]
        with dt.open("w") as file:
            file.write("[" + text)
            for _ in range(megabytes * 10**6 // len(text)):
                file.write(", " + text)
            file.write("]")
        command = [sys.executable, "-c", _MEASURED, f"gt={gt}", f"dt={dt}", "metric=coco"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    what = f"a results file of {megabytes} MB"
    return [
        {"what": what, "value": seconds, "unit": "s", "target": ""},
        {"what": f"{what}, memory", "value": int(done.stderr.split()[-1]) / 1e3, "unit": "MB", "target": ""},
    ]


# not `ru_maxrss`, which a process inherits from the one that starts it
_MEASURED = """
import sys
from pathlib import Path
from pose_lab import evaluate
evaluate.main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
"""


def measure() -> list[dict]:
    """Rows for the table of benchmarks."""
    cases: list[tuple[str, int, float, int, Skeleton, bool, float]] = [
        ("538 COCO images x 20", 538, 2.2, 20, COCO, False, 0.05),
        ("CrowdPose val, 2,000 images, difficulty sets", 2000, 4.0, 4, CROWDPOSE, True, 0.08),
        ("COCO val, 5,000 images x 20", 5000, 2.2, 20, COCO, False, 0.5),
    ]
    rows = [
        row
        for what, images, per_image, found, skeleton, crowd, target in cases
        for row in _case(what, people(images, per_image, skeleton, crowd), found, skeleton, target)
    ]
    return [*rows, memory(), *large_file()]


def _case(what: str, truth: Annotations, per_image: int, skeleton: Skeleton, target: float) -> list[dict]:
    found = detections(truth, per_image)
    runs: dict[str, Callable[[], object]] = {"pose_lab": lambda: ours(truth, skeleton, found)}
    runs |= peers(truth, skeleton, found)
    seconds = _alternating(runs)
    mine = seconds.pop("pose_lab")
    rows = [{"what": f"OKS AP, {what}", "value": mine, "unit": "s", "target": f"<= {target}"}]
    for peer, time_of_peer in seconds.items():
        rows.append(
            {
                "what": f"  the same by {peer}",
                "value": time_of_peer,
                "unit": "s",
                "target": "",
                "ratio": time_of_peer / mine,
            }
        )
    return rows


def _alternating(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                run()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    for row in measure():
        ratio = f"{row['ratio']:8.1f} x" if "ratio" in row else ""
        print(f"{row['what']:60s} {row['value']:9.4f} {row['unit']}  {row['target']:8s} {ratio}")


if __name__ == "__main__":
    main()
