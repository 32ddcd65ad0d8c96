"""Results of videos: PoseTrack18's files, one for each video or one for all, or COCO's records with tracks."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from pose_lab.data.layouts.files import parsed_json

Record = dict[str, Any]


def video_records(path: Path) -> Generator[tuple[Path, Record]]:
    """The people found, each with its file, as COCO's records that have a `track_id` too.

    PoseTrack18's files are objects with a list `annotations` of people: `image_id`, `track_id`, `keypoints` (x, y and 0
    where a keypoint was not found) and `scores`, one for each keypoint; without them a keypoint's third value is its
    score. A person without `score` has the mean of its keypoints'.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file holds something else, or a person lacks a field.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .json file; expected is one for each video")
    for file in files:
        content = parsed_json(file)
        people = content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(people, list):
            raise ValueError(f"{file} holds neither a list of people nor an object with the list `annotations`")
        for n, person in enumerate(people):
            yield file, _as_record(person, f"{file}: person {n}")


def _as_record(person: Any, name: str) -> Record:
    fields = ("image_id", "track_id", "keypoints")
    missing = [field for field in fields if not isinstance(person, dict) or field not in person]
    if missing:
        raise ValueError(f"{name} has no {' and no '.join(missing)}")
    keypoints, scores = person["keypoints"], person.get("scores")
    if not isinstance(keypoints, list):
        raise ValueError(f"{name} has no list of keypoints")
    if scores:
        keypoints = _scored(keypoints, scores, name)
    record = person | {"keypoints": keypoints}
    return record if "score" in person else record | {"score": _mean(keypoints[2::3], name)}


def _scored(keypoints: list[Any], scores: list[Any], name: str) -> list[Any]:
    """Keypoints whose third value is their score, 0 for those that were not found."""
    if not isinstance(keypoints, list) or not isinstance(scores, list) or len(keypoints) != 3 * len(scores):
        raise ValueError(f"{name} has not one score for each of its keypoints")
    found = zip(keypoints[::3], keypoints[1::3], keypoints[2::3], scores, strict=True)
    return [value for x, y, flag, score in found for value in (x, y, score if flag else 0)]


def _mean(scores: list[Any], name: str) -> float:
    try:
        return sum(scores) / max(1, len(scores))
    except TypeError:
        raise ValueError(f"{name} has text where scores of keypoints should be") from None
