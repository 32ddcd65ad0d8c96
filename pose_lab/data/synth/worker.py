"""A worker process of the generator: makes every n-th picture and tells its parent after each.

Started by `write.py` as a program of its own, so that nothing of the parent (its threads, its imports) comes along.
Ends by itself when the parent dies: the next message then finds a closed pipe.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_lab.data.synth.annotate import People
from pose_lab.data.synth.scene import Picture, make_picture
from pose_lab.data.synth.settings import SynthSettings

SPLITS = ("train", "val")


def work(settings: SynthSettings, folder: Path, first: int, step: int) -> None:
    """Makes pictures `first`, `first + step`, ... of both splits, and one file of their annotations."""
    with open(folder / f"part-{first}.jsonl", "w") as part:
        for split, count in enumerate((settings.train_images, settings.val_images)):
            for index in range(first, count, step):
                picture = make_picture(settings, split, index)
                _write_image(picture, folder / SPLITS[split] / file_name(index), settings.jpeg_quality)
                part.write(json.dumps({"split": split, "index": index, **_row(picture)}) + "\n")
                print("done", flush=True)


def file_name(index: int) -> str:
    """The picture's name in its split's folder."""
    return f"{index + 1:012d}.jpg"


def _write_image(picture: Picture, path: Path, quality: int) -> None:
    encoded = cv2.imencode(".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    path.write_bytes(encoded.tobytes())


def _row(picture: Picture) -> dict[str, Any]:
    people, camera = picture.people, picture.camera
    return {
        "focal": round(camera.focal, 3),
        "crowdIndex": round(people.crowd_index, 4),
        "joints": np.round(people.joints, 2).tolist(),
        "people": [_annotation(people, person) for person in range(len(people.boxes))],
    }


def _annotation(people: People, person: int) -> dict[str, Any]:
    return {
        "iscrowd": int(people.crowd[person]),
        "bbox": people.boxes[person].tolist(),
        "area": people.areas[person],
        "keypoints": people.keypoints[person].ravel().tolist(),
        "segmentation": people.segmentations[person],
    }


def main() -> None:
    """Arguments: folder, first picture, step; the settings come as JSON on standard input."""
    cv2.setNumThreads(1)
    settings = SynthSettings.from_json(json.load(sys.stdin))
    try:
        work(settings, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except BrokenPipeError:
        os._exit(1)  # the parent is gone; nothing is left to tell anyone
    except OSError as error:
        print(json.dumps({"errno": error.errno, "message": error.strerror}), flush=True)
        os._exit(2)
