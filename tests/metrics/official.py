"""Reads the official layouts into our vocabulary, with nothing but what the metrics' tests need."""

import json
from pathlib import Path

import numpy as np
import torch

from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton

SHIFT = 0.5


def annotations_from(content: dict | Path, skeleton: Skeleton) -> Annotations:
    """A COCO or CrowdPose annotation file, or its content."""
    if isinstance(content, Path):
        content = json.loads(content.read_text())
    images = sorted(content["images"], key=lambda image: image["id"])
    image_ids = np.array([image["id"] for image in images], dtype=np.int64)
    people = sorted(content["annotations"], key=lambda person: person["image_id"])
    count = len(people)
    boxes = np.array([person["bbox"] for person in people], dtype=np.float64).reshape(count, 4)
    keypoints = np.array([person["keypoints"] for person in people], dtype=np.float64).reshape(count, len(skeleton), 3)
    keypoints[..., :2] += SHIFT
    return Annotations(
        image_ids=image_ids,
        file_names=np.array([image.get("file_name", "") for image in images], dtype=np.bytes_),
        sizes=np.array([(image["height"], image["width"]) for image in images], dtype=np.int32),
        crowd_index=np.array([image.get("crowdIndex", np.nan) for image in images], dtype=np.float64),
        instance_ids=np.array([person["id"] for person in people], dtype=np.int64),
        image_index=np.searchsorted(image_ids, [person["image_id"] for person in people]).astype(np.int64),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        keypoints=keypoints,
        areas=np.array([p.get("area", 0.53 * p["bbox"][2] * p["bbox"][3]) for p in people], dtype=np.float64),
        ignore=np.array([person["iscrowd"] for person in people], dtype=bool),
        num_keypoints=np.array([person["num_keypoints"] for person in people], dtype=np.int32),
        pixel_shift=SHIFT,
    )


def predictions_from(image_ids: np.ndarray, ids: np.ndarray, xy: np.ndarray, scores: np.ndarray) -> Predictions:
    """Detections in file coordinates (D, K, 2) of images `ids` (D,), as predictions for the images `image_ids` (B,)."""
    position = {int(image): row for row, image in enumerate(image_ids)}
    index = np.array([position[int(image)] for image in ids], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    keypoints = torch.from_numpy(np.asarray(xy, dtype=np.float64)[order]) + SHIFT
    return Predictions(
        image_index=torch.from_numpy(index[order]),
        keypoints=keypoints,
        keypoint_scores=torch.ones(keypoints.shape[:2]),
        scores=torch.from_numpy(np.asarray(scores, dtype=np.float64)[order]),
        boxes=torch.zeros(len(keypoints), 4),
    )


def results_of(records: list[dict], skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids (D,), x and y (D, K, 2) and scores (D,) of COCO's results."""
    keypoints = np.array([record["keypoints"] for record in records], dtype=np.float64).reshape(-1, len(skeleton), 3)
    ids = np.array([record["image_id"] for record in records], dtype=np.int64)
    return ids, keypoints[..., :2], np.array([record["score"] for record in records], dtype=np.float64)
