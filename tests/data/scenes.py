"""A tiny data set in COCO's layout: smooth pictures with a coloured dot at every keypoint."""

import json

import cv2
import numpy as np

from pose_lab.data.augment import Augmentation
from pose_lab.data.module import PoseDataModule, Split
from pose_lab.skeletons import skeleton

DOT = 9  # diameter of a dot in original pixels


def keypoint_colours(count):
    """(K, 3) saturated RGB colours, told apart by their hue."""
    hues = np.linspace(0, 179, count, endpoint=False)
    hsv = np.stack([hues, np.full(count, 255), np.full(count, 255)], 1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def write_scene(root, sizes=((96, 128), (128, 80), (64, 64), (110, 50), (80, 120), (100, 100)), skeleton_name="coco"):
    """Pictures of the given (height, width), one person each, for both splits."""
    rng = np.random.default_rng(0)
    count, people, images = len(skeleton(skeleton_name)), [], []
    colours = keypoint_colours(count)
    (root / "annotations").mkdir(parents=True)
    (root / "pictures").mkdir()
    for i, (height, width) in enumerate(sizes):
        points = np.stack([rng.integers(8, width - 8, count), rng.integers(8, height - 8, count)], 1)
        picture = np.full((height, width, 3), 60, np.uint8)
        for (x, y), colour in zip(points.tolist(), colours.tolist(), strict=True):
            cv2.circle(picture, (x, y), DOT // 2, colour[::-1], -1)
        cv2.imwrite(str(root / "pictures" / f"{i}.png"), picture)
        images.append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
        keypoints = np.concatenate([points, np.full((count, 1), 2)], 1).ravel().tolist()
        box = [2, 3, width - 5, height - 7]
        person = {"id": i + 1, "image_id": 100 + i, "bbox": box, "area": box[2] * box[3] / 2, "iscrowd": 0}
        people.append(person | {"keypoints": keypoints})
    write_annotations(root, {"images": images, "annotations": people})
    return root


def write_annotations(root, content):
    (root / "annotations" / "people.json").write_text(content if isinstance(content, str) else json.dumps(content))


def read_annotations(root):
    return json.loads((root / "annotations" / "people.json").read_text())


def data_module(root, cache, **changes):
    """A DataModule whose splits are both the whole scene."""
    split = Split("people.json", "pictures")
    arguments = {
        "name": "scene",
        "root": root,
        "skeleton": "coco",
        "annotation_folders": ["annotations"],
        "train": split,
        "val": split,
        "area_factor": None,
        "image_size": 96,
        "batch_size": 2,
        "val_batch_size": 4,
        "augment": Augmentation(),
        "val_fit": "square",
        "val_stride": 64,
        "drop_last": False,
        "pad_value": 114,
        "bad_records": "error",
        "bad_images": "error",
        "workers": 0,
        "seed": 0,
        "cache": cache,
    }
    module = PoseDataModule(**arguments | changes)
    module.prepare_data()
    module.setup()
    return module
