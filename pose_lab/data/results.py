"""Reading results files of other programs, in the three layouts that are common.

- COCO: a list of records `image_id` (a number), `keypoints` (x, y, score of each), `score`. mmpose's evaluation writes
  it too. COCO-WholeBody's records have the further lists `foot_kpts`, `face_kpts`, `lefthand_kpts`, `righthand_kpts`
  and may have scores of these parts; all keypoints in one list are read as well.
- AlphaPose's default: the same with the picture's file name as `image_id`. Its formats `cmu` and `open` are refused.
- mmpose's inference: a folder with one JSON file per picture, named as the picture is (or `results_` before it): a list
  of people, or an object that holds it as `instance_info`; each person has `keypoints` (pairs), `keypoint_scores`,
  `bbox` and `bbox_score`. There is no score of the pose, so it is made as mmpose's evaluation makes it: the box's score
  times the mean of the keypoints' scores above 0.2.

A record may name the annotated person that it belongs to (`annotation_id`). Coordinates are pixel indices, as in the
annotation file. Every error names the record. A file is read in pieces: its numbers are kept, not its text.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose_lab.data.json_stream import list_elements
from pose_lab.data.video_results import video_records
from pose_lab.ops.oks import best_of_images
from pose_lab.poses import Annotations, Predictions
from pose_lab.skeletons import Skeleton

PERSON = 1  # COCO's category
KEYPOINT_COUNTS_FROM = 0.2  # mmpose's rescoring leaves out keypoints with a lower score
# The lists and scores that COCO-WholeBody's results have beside `keypoints` and `score`; scores by the skeleton's part
PART_FIELDS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
PART_SCORES = {
    "foot": "foot_score",
    "face": "face_score",
    "left_hand": "lefthand_score",
    "right_hand": "righthand_score",
    "whole_body": "wholebody_score",
}
EXPECTED = (
    "a list of records with image_id, keypoints and score; AlphaPose writes it by default, not with its formats cmu "
    "and open; for mmpose's files of single pictures give their folder"
)
RECORDS_AT_A_TIME = 1 << 9  # few enough to stay in the cache of the processor
SURPLUS_FROM = 1 << 16  # records that are kept before those that cannot count are dropped
UnknownImages = Literal["error", "skip"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What a results file holds; P people by image, in file order within an image.

    Attributes:
        predictions: float64, pixels of the original images; `image_index` points into the annotations' images.
        left_out: how many records were left out, by reason.
        records: (P,) int64, the index of each person's record in the file.
        annotation_ids: (P,) int64, the annotated person that the record names, -1 for none.
        track_ids: (P,) int64, whom the record follows through its video, -1 for none.
        part_scores: (P,) float64 by part, for the parts that have scores of their own in every record.
        surplus: how many people were dropped on reading, each beyond the best of its image.
        files: each file that was read, with the index of its first record.
    """

    predictions: Predictions
    left_out: dict[str, int]
    records: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    track_ids: NDArray[np.int64]
    part_scores: dict[str, Tensor]
    surplus: int = 0
    files: Sequence[tuple[int, Path]] = ()

    def place(self, record: int) -> tuple[Path, int]:
        """The file of a record, and its index there."""
        return _place(self.files, record)


def _place(files: Sequence[tuple[int, Path]], record: int) -> tuple[Path, int]:
    first, file = files[bisect_right(files, record, key=itemgetter(0)) - 1]
    return file, record - first


def read_results(
    path: Path,
    annotations: Annotations,
    skeleton: Skeleton,
    unknown_images: UnknownImages = "error",
    most: int | None = None,
    videos: bool = False,
) -> Results:
    """Reads a results file, or a folder of them, and checks every record.

    Args:
        path: see the module's head.
        annotations: of the images that the results are about.
        skeleton: whose keypoints every record must have.
        unknown_images: whether records of images without annotations are an error or left out and counted.
        most: how many people of an image can count, the best by `score`. Of a large file others are dropped on the
            way, so that its size does not fill the memory; they are checked and counted like all.
        videos: whether the results are of videos, in the layouts of `video_records`.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it cannot be read or a record is wrong; the message has the record's index.
    """
    if not path.exists():
        raise FileNotFoundError(f"results {path} do not exist")
    reading = video_records if videos else _folder_records if path.is_dir() else _file_records
    records = reading(path)
    reader = _Reader(annotations, skeleton, unknown_images, most, videos)
    with closing(records):  # an error ends the display of progress before it is told
        numbered = reader.numbered(records)
        while piece := list(islice(numbered, RECORDS_AT_A_TIME)):
            reader.read(piece)
    return reader.results()


def _file_records(path: Path) -> Generator[tuple[Path, Record]]:
    for n, record in enumerate(list_elements(path, EXPECTED)):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: record {n} is {_kind(record)}, expected an object")
        missing = [field for field in ("image_id", "keypoints", "score") if field not in record]
        if missing:
            raise ValueError(f"{path}: record {n} has no {' and no '.join(missing)}")
        yield path, record


def _kind(value: Any) -> str:
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "text"), (bool, "true or false")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"


def _folder_records(folder: Path) -> Generator[tuple[Path, Record]]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no .json file")
    seen: dict[str, Path] = {}
    for file in files:
        if (first := seen.setdefault(_picture(file), file)) != file:
            raise ValueError(f"{file} and {first.name} are of the same picture")
        for record in _people_of_picture(file):
            yield file, record


def _picture(file: Path) -> str:
    return file.stem.removeprefix("results_")


def _people_of_picture(file: Path) -> Iterator[Record]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is cut off or not JSON: {error}") from None
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
        keypoints = np.column_stack([np.array(person["keypoints"], dtype=np.float64).reshape(len(scores), 2), scores])
        box_score = float(person["bbox_score"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: keypoints or scores of person {n} cannot be read: {error}") from None
    sure = scores[scores > KEYPOINT_COUNTS_FROM]
    score = box_score * (float(sure.mean()) if len(sure) else 0.0)
    return {"image_id": _picture(file), "keypoints": keypoints.reshape(-1).tolist(), "score": score}


class _Reader:
    """Collects the numbers of records, some at a time."""

    def __init__(
        self,
        annotations: Annotations,
        skeleton: Skeleton,
        unknown_images: UnknownImages,
        most: int | None,
        videos: bool,
    ) -> None:
        self.videos = videos
        self.annotations, self.skeleton, self.unknown_images = annotations, skeleton, unknown_images
        self.most, self.surplus, self.drop_at = most, 0, SURPLUS_FROM
        self.rows_by_id = {image: row for row, image in enumerate(annotations.image_ids.tolist())}
        self.rows_by_name = _rows_by_name(annotations)
        self.files: list[tuple[int, Path]] = []
        self.record_of_id: dict[tuple[Path, int], int] = {}
        self.left_out = {"of another category than person": 0, "of images without annotations": 0}
        self.pieces: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []

    def numbered(self, records: Iterator[tuple[Path, Record]]) -> Iterator[tuple[int, Record]]:
        """The records with their index over all files; notes where each file begins."""
        for n, (file, record) in enumerate(records):
            if not self.files or self.files[-1][1] != file:
                self.files.append((n, file))
            yield n, record

    def read(self, piece: Sequence[tuple[int, Record]]) -> None:
        """Checks and keeps some numbered records."""
        for n, record in piece:
            if (kind := _kind(record.get("category_id", PERSON))) != "a number":
                raise self._error(n, f"category_id of record {{}} is {kind}, expected a number")
        people = [(n, record) for n, record in piece if record.get("category_id", PERSON) == PERSON]
        self.left_out["of another category than person"] += len(piece) - len(people)
        self._refuse_repeated_ids(people)
        rows, known = self._rows_of_images(people)
        self.left_out["of images without annotations"] += len(people) - len(known)
        if not known:
            return
        indices = np.array(
            [
                (
                    row,
                    n,
                    self._whole_number(n, record, "annotation_id"),
                    self._whole_number(n, record, "track_id") if self.videos else -1,  # elsewhere it means nothing
                )
                for row, (n, record) in zip(rows, known, strict=True)
            ]
        )
        count = 3 * len(self.skeleton)
        keypoints = self._numbers([(n, _keypoints(record)) for n, record in known], "keypoints", count)
        scores = self._numbers([(n, [record["score"]]) for n, record in known], "score", 1)
        parts = [self._part_scores(known, field) for field in PART_SCORES.values()]
        self.pieces.append((indices, keypoints.reshape(len(known), -1, 3), np.concatenate([scores, *parts], 1)))
        if self.most is not None and sum(len(piece[0]) for piece in self.pieces) >= self.drop_at:
            self._drop_surplus(self.most)

    def _drop_surplus(self, most: int) -> None:
        """Keeps the best of each image so far, in file order: whoever is beyond them now stays beyond them."""
        indices, keypoints, scores = (np.concatenate([piece[at] for piece in self.pieces]) for at in range(3))
        best = best_of_images(torch.from_numpy(indices[:, 0]), torch.from_numpy(scores[:, 0]), most)
        kept = np.sort(best.numpy())
        self.pieces = [(indices[kept], keypoints[kept], scores[kept])]
        self.surplus += len(indices) - len(kept)
        self.drop_at = 2 * len(kept) + SURPLUS_FROM  # at least half as many are new each time

    def results(self) -> Results:
        """All that was kept, by image."""
        none = (np.empty((0, 4), np.int64), np.empty((0, len(self.skeleton), 3)), np.empty((0, 1 + len(PART_SCORES))))
        indices, scores = (np.concatenate([piece[at] for piece in (*self.pieces, none)]) for at in (0, 2))
        place = np.empty(len(indices), np.int64)
        order = np.argsort(indices[:, 0], kind="stable")
        place[order] = np.arange(len(order))
        keypoints = np.empty((len(indices), len(self.skeleton), 3))
        start = 0
        while self.pieces:  # a piece is let go once it stands in its place, so that nothing is in memory twice
            piece = self.pieces.pop(0)[1]
            keypoints[place[start : start + len(piece)]] = piece
            start += len(piece)
        return self._sorted(indices[order], torch.from_numpy(keypoints), torch.from_numpy(scores[order]))

    def _sorted(self, indices: NDArray[np.int64], found: Tensor, scores: Tensor) -> Results:
        xy = found[..., :2].add_(self.annotations.pixel_shift)
        parts = {part: scores[:, 1 + at] for at, part in enumerate(PART_SCORES)}
        return Results(
            predictions=Predictions(
                image_index=torch.from_numpy(indices[:, 0].copy()),
                keypoints=xy,
                keypoint_scores=found[..., 2],
                scores=scores[:, 0].contiguous(),
                boxes=torch.cat([xy.amin(1), xy.amax(1)], 1),
            ),
            left_out=self.left_out,
            records=indices[:, 1],
            annotation_ids=indices[:, 2],
            track_ids=indices[:, 3],
            part_scores={part: values for part, values in parts.items() if len(values) and values.isfinite().all()},
            surplus=self.surplus,
            files=self.files,
        )

    def _refuse_repeated_ids(self, people: Sequence[tuple[int, Record]]) -> None:
        for n, record in people:
            own = record.get("id")
            if not isinstance(own, int):
                continue
            file, place = _place(self.files, n)
            if (first := self.record_of_id.setdefault((file, own), place)) != place:
                raise ValueError(f"{file}: record {place} has the id {own} of record {first}")

    def _error(self, n: int, what: str) -> ValueError:
        """What is wrong with a record; its index in its file takes the place of `{}`."""
        file, place = _place(self.files, n)
        return ValueError(f"{file}: {what.format(place)}")

    def _rows_of_images(self, people: Sequence[tuple[int, Record]]) -> tuple[list[int], list[tuple[int, Record]]]:
        """Each record's row among the annotations' images, and the records that have one."""
        rows, known = [], []
        for n, record in people:
            image = record["image_id"]
            row = self.rows_by_name.get(_stem(image)) if isinstance(image, str) else self._row_by_id(image)
            if row is not None:
                rows.append(row)
                known.append((n, record))
            elif self.unknown_images == "error":
                file, place = _place(self.files, n)
                raise ValueError(
                    f"{file}: record {place} is of image {image!r}, which the annotations do not have "
                    "(unknown_images=skip leaves such records out)"
                )
        return rows, known

    def _row_by_id(self, image: Any) -> int | None:
        return self.rows_by_id.get(image) if isinstance(image, int) and not isinstance(image, bool) else None

    def _whole_number(self, n: int, record: Record, field: str) -> int:
        """The record's number in a field, -1 if it has none."""
        own = record.get(field, -1)
        if not isinstance(own, int) or isinstance(own, bool) or own.bit_length() > 63:
            raise self._error(n, f"{field} of record {{}} is not a whole number")
        return own

    def _part_scores(self, known: Sequence[tuple[int, Record]], field: str) -> NDArray[np.float64]:
        """(records, 1) scores of a part, NaN where a record has none."""
        having = [(n, [record[field]]) for n, record in known if field in record]
        values = np.full((len(known), 1), np.nan)
        if having:
            values[[field in record for _, record in known]] = self._numbers(having, field, 1)
        return values

    def _numbers(self, values: Sequence[tuple[int, Any]], field: str, count: int) -> NDArray[np.float64]:
        """(records, count) numbers; the first record that has others is named."""
        array = _finite([value for _, value in values], count)
        if array is not None:
            return array
        n, wrong = next((n, wrong) for n, value in values if (wrong := self._wrong(value, count)))
        raise self._error(n, f"{field} of record {{}} {wrong}")

    def _wrong(self, value: Any, count: int) -> str | None:
        if _finite([value], count) is not None:
            return None
        kinds = {_kind(element) for element in value} if isinstance(value, list) else {_kind(value)}
        if kinds - {"a number"}:
            return f"holds {' and '.join(sorted(kinds - {'a number'}))} where numbers should be"
        if not isinstance(value, list) or len(value) != count:
            amount = len(value) if isinstance(value, list) else 1
            return f"has {amount} numbers, expected {count} (skeleton {self.skeleton.name})"
        return "is NaN or infinite"


def _keypoints(record: Record) -> Any:
    """The record's list of keypoints; COCO-WholeBody's lists of parts are put together."""
    parts: list[Any] = [record.get(field) for field in PART_FIELDS]
    return list(chain.from_iterable(parts)) if all(isinstance(part, list) for part in parts) else record["keypoints"]


def _finite(lists: Sequence[Any], count: int) -> NDArray[np.float64] | None:
    """(n, count) the numbers of n lists; None if anything is not a list of so many finite numbers."""
    if not all(type(values) is list and len(values) == count for values in lists):
        return None
    if not set(map(type, chain.from_iterable(lists))) <= {int, float}:
        return None
    try:
        array = np.array(lists, np.float64)
    except OverflowError:  # a whole number that no float holds
        return None
    return array if np.isfinite(array).all() else None


def _rows_by_name(annotations: Annotations) -> dict[str, int]:
    """Rows of images by their file name without folder and ending; names that several images share are left out."""
    names = [_stem(name.decode()) for name in annotations.file_names.tolist()]
    unique, counts = np.unique(names, return_counts=True)
    shared = set(unique[counts > 1].tolist())
    return {name: row for row, name in enumerate(names) if name not in shared}


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem
