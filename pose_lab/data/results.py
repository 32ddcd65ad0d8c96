"""Reading results files of other programs, in the three layouts that are common.

- COCO: a list of records `image_id` (a number), `keypoints` (x, y, score of each), `score`. mmpose's evaluation writes
  it too.
- AlphaPose: the same with the picture's file name as `image_id`.
- mmpose's inference: a folder with one JSON file per picture, named as the picture is (or `results_` before it): a list
  of people, or an object that holds it as `instance_info`; each person has `keypoints` (pairs), `keypoint_scores`,
  `bbox` and `bbox_score`. There is no score of the pose, so it is made as mmpose's evaluation makes it: the box's score
  times the mean of the keypoints' scores above 0.2.

Coordinates in the files are pixel indices, as in the annotation file. Every error names the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton

PERSON = 1  # COCO's category
KEYPOINT_COUNTS_FROM = 0.2  # mmpose's rescoring leaves out keypoints with a lower score
UnknownImages = Literal["error", "skip"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What a results file holds.

    Attributes:
        predictions: float64, pixels of the original images; `image_index` points into the annotations' images.
        left_out: how many records were left out, by reason.
    """

    predictions: Predictions
    left_out: dict[str, int]


def read_results(
    path: Path,
    annotations: Annotations,
    skeleton: Skeleton,
    unknown_images: UnknownImages = "error",
    largest: float = float("inf"),
) -> Results:
    """Reads a results file, or a folder of them, and checks every record.

    Args:
        path: see the module's head.
        annotations: of the images that the results are about.
        skeleton: whose keypoints every record must have.
        unknown_images: whether records of images without annotations are an error or left out and counted.
        largest: megabytes; a larger file is refused before it fills the memory (reading needs about ten times as much).

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it cannot be read or a record is wrong; the message has the record's index.
    """
    if not path.exists():
        raise FileNotFoundError(f"results {path} do not exist")
    records = _folder_records(path, largest) if path.is_dir() else _file_records(path, largest)
    people = [(n, record) for n, record in enumerate(records) if record.get("category_id", PERSON) == PERSON]
    left_out = {"of another category than person": len(records) - len(people)}
    _refuse_repeated_ids(path, people)
    rows, known = _rows_of_images(path, people, annotations, unknown_images)
    left_out["of images without annotations"] = len(people) - len(known)
    return Results(_predictions(path, known, rows, annotations, skeleton), left_out)


def _file_records(path: Path, largest: float) -> list[Record]:
    records = _parsed(path, largest)
    if not isinstance(records, list):
        raise ValueError(
            f"{path} holds {_kind(records)}, expected a list of records with image_id, keypoints and score; "
            "for mmpose's files of single pictures give their folder"
        )
    for n, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: record {n} is {_kind(record)}, expected an object")
        missing = [field for field in ("image_id", "keypoints", "score") if field not in record]
        if missing:
            raise ValueError(f"{path}: record {n} has no {' and no '.join(missing)}")
    return records


def _parsed(path: Path, largest: float) -> Any:
    size = path.stat().st_size / 1e6
    if size > largest:
        raise ValueError(f"{path} has {size:.0f} MB, more than the {largest:g} MB that may be read")
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} ({size:.1f} MB) is cut off or not JSON: {error}") from None


def _kind(value: Any) -> str:
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "text")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"


def _folder_records(folder: Path, largest: float) -> list[Record]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no .json file")
    return [record for file in files for record in _people_of_picture(file, _parsed(file, largest))]


def _people_of_picture(file: Path, content: Any) -> Iterable[Record]:
    people = content.get("instance_info") if isinstance(content, dict) else content
    if not isinstance(people, list):
        raise ValueError(f"{file} holds neither a list of people nor an object with `instance_info`")
    for n, person in enumerate(people):
        fields = ("keypoints", "keypoint_scores", "bbox_score")
        missing = [field for field in fields if not isinstance(person, dict) or field not in person]
        if missing:
            raise ValueError(f"{file}: person {n} has no {' and no '.join(missing)}")
        yield _as_record(file, n, person)


def _as_record(file: Path, n: int, person: Record) -> Record:
    try:
        scores = np.array(person["keypoint_scores"], dtype=np.float64).reshape(-1)
        keypoints = np.column_stack([np.array(person["keypoints"], dtype=np.float64).reshape(-1, 2), scores])
        box_score = float(person["bbox_score"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: keypoints or scores of person {n} cannot be read: {error}") from None
    sure = scores[scores > KEYPOINT_COUNTS_FROM]
    score = box_score * (sure.mean() if len(sure) else 0.0)
    return {"image_id": file.stem.removeprefix("results_"), "keypoints": keypoints.reshape(-1), "score": score}


def _refuse_repeated_ids(path: Path, people: Sequence[tuple[int, Record]]) -> None:
    seen: dict[Any, int] = {}
    for n, record in people:
        if isinstance(record.get("id"), int) and seen.setdefault(record["id"], n) != n:
            raise ValueError(f"{path}: record {n} has the id {record['id']} of record {seen[record['id']]}")


def _rows_of_images(
    path: Path, people: Sequence[tuple[int, Record]], annotations: Annotations, unknown_images: UnknownImages
) -> tuple[NDArray[np.int64], list[tuple[int, Record]]]:
    """Each record's row among the annotations' images, and the records that have one."""
    rows_by_id = {int(image): row for row, image in enumerate(annotations.image_ids)}
    rows_by_name = _rows_by_name(annotations)
    rows, known = [], []
    for n, record in people:
        image = record["image_id"]
        row = rows_by_name.get(_stem(image)) if isinstance(image, str) else _row_by_id(rows_by_id, image)
        if row is not None:
            rows.append(row)
            known.append((n, record))
        elif unknown_images == "error":
            raise ValueError(
                f"{path}: record {n} is of image {image!r}, which the annotations do not have "
                "(unknown_images=skip leaves such records out)"
            )
    return np.array(rows, dtype=np.int64), known


def _row_by_id(rows: dict[int, int], image: Any) -> int | None:
    return rows.get(image) if isinstance(image, int) and not isinstance(image, bool) else None


def _rows_by_name(annotations: Annotations) -> dict[str, int]:
    """Rows of images by their file name without folder and ending; names that several images share are left out."""
    names = [_stem(name.decode()) for name in annotations.file_names.tolist()]
    unique, counts = np.unique(names, return_counts=True)
    shared = set(unique[counts > 1].tolist())
    return {name: row for row, name in enumerate(names) if name not in shared}


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


def _predictions(
    path: Path,
    people: Sequence[tuple[int, Record]],
    rows: NDArray[np.int64],
    annotations: Annotations,
    skeleton: Skeleton,
) -> Predictions:
    keypoints = _numbers(path, people, "keypoints", 3 * len(skeleton), skeleton).reshape(-1, len(skeleton), 3)
    scores = _numbers(path, people, "score", 1, skeleton)[:, 0]
    order = np.argsort(rows, kind="stable")
    found = torch.from_numpy(keypoints[order])
    xy = found[..., :2] + annotations.pixel_shift
    return Predictions(
        image_index=torch.from_numpy(rows[order]),
        keypoints=xy,
        keypoint_scores=found[..., 2],
        scores=torch.from_numpy(scores[order]),
        boxes=torch.cat([xy.amin(1), xy.amax(1)], 1),
    )


def _numbers(
    path: Path, people: Sequence[tuple[int, Record]], field: str, count: int, skeleton: Skeleton
) -> NDArray[np.float64]:
    """(records, count) numbers of a field; the first record that has others is named."""
    values = np.empty((len(people), count))
    for row, (n, record) in enumerate(people):
        wrong = _wrong(record[field], field, count, skeleton)
        if wrong:
            raise ValueError(f"{path}: {field} of record {n} {wrong}")
        values[row] = record[field]
    return values


def _wrong(value: Any, field: str, count: int, skeleton: Skeleton) -> str | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return "is not a plain list of numbers"
    if array.dtype.kind not in "iuf":
        return "holds something else than numbers"
    if array.shape != ((count,) if field == "keypoints" else ()):
        expected = f"{count} numbers (skeleton {skeleton.name})" if field == "keypoints" else "one number"
        return f"has {array.size} numbers, expected {expected}"
    return None if np.isfinite(array).all() else "is NaN or infinite"
