"""PoseTrack's metrics of poses over time: MOTA, MOTP, precision and recall per keypoint, and AP per keypoint.

Two rules. `released`: as the benchmark's tool counts, which published numbers follow, with its three oddities: the last
frame of a sequence does not count in MOTA and its kin; a frame with people and no prediction counts one miss and one
false positive per keypoint, whatever the number of people; false positives in frames without people are free. Without
it every frame counts as the textbook has it (Bernardin and Stiefelhagen, 2008). Compare with publications by the
released rule only.

Distances are divided by the person's head size; up to half of it is a match. Points inside ignore regions are to be
removed from both sides before.

MOTP is 100 (1 - sum of distances / matches). The tool, run with motmetrics 1.4, gives less: it sums over all entries of
that package's log of events, which holds every pair within reach again, and some switches a third time. That number is
kept beside as `MOTP_logged`.

Shape letters: F frames, n people over all frames, J keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from pose_lab.metrics.rows import gathered, joined, refuse_unless_finite, refuse_unless_shaped

MATCH = 0.5  # of the head size, the largest distance of a match
FREE = 1e6  # cost of leaving somebody without partner, above any sum of distances
COUNTS = ("objects", "misses", "switches", "false_positives", "matches", "distance", "logged_distance")


@dataclass(frozen=True)
class Tracks:
    """People in the frames of videos, annotated or found.

    Attributes:
        frame: (n,) int64, row in the list of frames.
        track: (n,) int64, the person's identity within its sequence.
        keypoints: (n, J, 2) float64 pixels.
        present: (n, J) bool, labelled or found.
        head_sizes: (n,) float64, of annotated people: 0.6 times the diagonal of the head box.
        scores: (n, J) float64, of people found.
    """

    frame: NDArray[np.int64]
    track: NDArray[np.int64]
    keypoints: NDArray[np.float64]
    present: NDArray[np.bool_]
    head_sizes: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None


class PoseTracking(Metric):
    """MOTA, MOTP, precision, recall and AP of tracked poses, in per cent: means over keypoints.

    Frames may come in any order and, from a distributed sampler, more than once; people of a sequence need not all be
    on one process.

    Args:
        keypoints: names of the J keypoints, PoseTrack's 15 (ears do not count).
        released: count as the benchmark's tool does.
        **kwargs: `torchmetrics.Metric`'s.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    frames: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]

    def __init__(self, keypoints: Sequence[str], released: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keypoints = tuple(keypoints)
        self.released = released
        for state in ("frames", "keys", "values"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def update(self, frames: NDArray[np.int64], truth: Tracks, found: Tracks) -> None:
        """Adds some frames.

        Args:
            frames: (B, 2) sequence and number of each frame, also of frames without anybody.
            truth: annotated people, `frame` points into `frames`; with head sizes.
            found: people found; with scores.

        Raises:
            ValueError: if shapes do not fit, a number is not finite, or a head size is not above 0.
        """
        assert truth.head_sizes is not None
        assert found.scores is not None
        if not (truth.head_sizes > 0).all():
            raise ValueError(f"head size of annotated person {int((truth.head_sizes <= 0).argmax())} is not above 0")
        self._add(0, "annotated", frames, truth, truth.head_sizes[:, None].repeat(len(self.keypoints), 1))
        self._add(1, "found", frames, found, found.scores)
        self.frames.append(torch.from_numpy(frames).to(self.device))

    def _add(self, side: int, name: str, frames: NDArray[np.int64], people: Tracks, last: NDArray) -> None:
        """Keeps one side's people: x, y, presence and a last number per keypoint."""
        count = len(people.frame)
        for what, array, axes in (
            ("keypoints", people.keypoints, (2,)),
            ("presence", people.present, ()),
            ("scores", last, ()),
        ):
            refuse_unless_shaped(f"{name} {what}", torch.from_numpy(array), (count, len(self.keypoints), *axes))
        place = np.where(people.present[..., None], people.keypoints, 0)
        values = torch.from_numpy(np.concatenate([place, people.present[..., None], last[..., None]], axis=2))
        refuse_unless_finite(values, f"{name} person {{}} has values that are not finite")
        keys = np.column_stack([np.full(count, side), frames[people.frame], people.track])
        self.keys.append(torch.from_numpy(keys).to(self.device))
        self.values.append(values.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Means over the keypoints that anybody shows."""
        return {name: torch.tensor(np.nanmean(values)) for name, values in self.per_keypoint().items()}

    def per_keypoint(self) -> dict[str, NDArray[np.float64]]:
        """(J,) arrays by name; NaN for a keypoint that nobody shows. All processes must call it."""
        with gathered(self):
            frames = np.unique(joined(self.frames).numpy(), axis=0)
            keys, first = np.unique(joined(self.keys).numpy(), axis=0, return_index=True)
            values = joined(self.values).numpy()[first]
        row_of_frame = {frame: row for row, frame in enumerate(map(tuple, frames.tolist()))}
        row = np.array([row_of_frame[key] for key in map(tuple, keys[:, 1:3].tolist())], dtype=np.int64)
        sides = [_side(keys[:, 0] == side, row, keys[:, 3], values) for side in (0, 1)]
        counts = motion_counts(sides[0], sides[1], frames[:, 0], self.released)
        return _motion_numbers(counts) | keypoint_average_precision(sides[0], sides[1], self.released)

    def reset(self) -> None:
        """Forgets all frames."""
        super().reset()
        self._append_nothing()

    def _append_nothing(self) -> None:
        """Rows of the right shape and type, so that a process without samples can take part in the gathering."""
        self.frames.append(torch.empty(0, 2, dtype=torch.int64, device=self.device))
        self.keys.append(torch.empty(0, 4, dtype=torch.int64, device=self.device))
        self.values.append(torch.empty(0, len(self.keypoints), 4, dtype=torch.float64, device=self.device))


def _side(rows: NDArray[np.bool_], frame: NDArray[np.int64], track: NDArray[np.int64], values: NDArray) -> Tracks:
    """The annotated or the found people out of `PoseTracking`'s rows."""
    last = values[rows][..., 3]
    return Tracks(
        frame=frame[rows],
        track=track[rows],
        keypoints=values[rows][..., :2],
        present=values[rows][..., 2] > 0,
        head_sizes=last[:, 0],
        scores=last,
    )


def _motion_numbers(counts: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Per cent, NaN where a share has no whole."""
    wrong = counts["misses"] + counts["switches"] + counts["false_positives"]
    matches = counts["matches"]
    return {
        "MOTA": 100 - _share(wrong, counts["objects"]),
        "MOTP": 100 - _share(counts["distance"], matches),
        "MOTP_logged": 100 - _share(counts["logged_distance"], matches),
        "MOT_precision": _share(matches, matches + counts["false_positives"]),
        "MOT_recall": _share(matches, counts["objects"]),
    }


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def motion_counts(
    truth: Tracks, found: Tracks, sequences: NDArray[np.int64], released: bool
) -> dict[str, NDArray[np.float64]]:
    """What the tracking metrics are made of, per keypoint, summed over sequences.

    Args:
        truth: the annotations.
        found: the predictions.
        sequences: (F,) int64, the sequence of each frame; frames of a sequence stand together, in order.
        released: count as the benchmark's tool does.

    Returns:
        (J,) arrays: objects, misses, switches, false_positives, matches (switches among them), distance (the sum over
        matches) and logged_distance (the sum over motmetrics' log of events).
    """
    counts = np.zeros((len(COUNTS), truth.keypoints.shape[1]))
    frames = np.arange(len(sequences))
    if released:
        frames = frames[np.isin(frames, truth.frame)]
        ends = np.append(sequences[frames][1:] != sequences[frames][:-1], True) if len(frames) else frames > 0
        frames = frames[~ends]
    people_of, guesses_of = _rows_by_frame(truth, len(sequences)), _rows_by_frame(found, len(sequences))
    histories: list[_History] = []
    sequence = None
    for frame in frames.tolist():
        if sequence != sequences[frame]:
            sequence, histories = sequences[frame], [_History() for _ in range(counts.shape[1])]
        people, guesses = people_of[frame], guesses_of[frame]
        if released and not len(guesses):
            counts[:4] += np.array([[1], [1], [0], [1]])
            continue
        distances = _distances(truth, people, found, guesses)
        tracks, guessed_tracks = truth.track[people].tolist(), found.track[guesses].tolist()
        for k, history in enumerate(histories):
            pairs, anew = history.pair(distances[..., k], tracks, guessed_tracks)
            counts[:, k] += _counted(
                truth.present[people, k].sum(),
                found.present[guesses, k].sum(),
                [distances[i, j, k] for i, j in pairs],
                *history.follow(pairs, anew, distances[..., k], tracks, guessed_tracks),
            )
    return dict(zip(COUNTS, counts, strict=True))


def _rows_by_frame(people: Tracks, frames: int) -> list[NDArray[np.int64]]:
    order = np.argsort(people.frame, kind="stable")
    return np.split(order, np.searchsorted(people.frame[order], np.arange(1, frames)))


def _distances(truth: Tracks, people: NDArray[np.int64], found: Tracks, guesses: NDArray[np.int64]) -> NDArray:
    """(people, guesses, J) in head sizes; infinite where either lacks the keypoint or they are too far apart."""
    assert truth.head_sizes is not None
    offsets = truth.keypoints[people][:, None] - found.keypoints[guesses][None]
    distances = np.linalg.norm(offsets, axis=-1) / truth.head_sizes[people][:, None, None]
    both = truth.present[people][:, None] & found.present[guesses][None]
    return np.where(both & (distances <= MATCH), distances, np.inf)


def _counted(objects: int, guesses: int, distances: list[float], switches: int, logged: float) -> tuple[float, ...]:
    """One frame and keypoint in the order of `COUNTS`."""
    matches, distance = len(distances), sum(distances)
    return objects, objects - matches, switches, guesses - matches, matches, distance, distance + logged


class _History:
    """Who was followed by which track, of one keypoint in one sequence."""

    def __init__(self) -> None:
        self.follower: dict[int, int] = {}  # by person, also after it was lost
        self.followed: dict[int, int] = {}  # by track

    def pair(
        self, distances: NDArray, tracks: list[int], guessed_tracks: list[int]
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """All pairs of a frame, and those of them that are new: who was together and can be stays together."""
        column = {track: j for j, track in enumerate(guessed_tracks)}
        left, kept = distances.copy(), []
        for i, person in enumerate(tracks):
            j = column.get(self.follower.get(person, -1), -1)
            if j >= 0 and np.isfinite(left[i, j]):
                kept.append((i, j))
                left[i], left[:, j] = np.inf, np.inf
        anew = assignment(left)
        return kept + anew, anew

    def follow(
        self,
        pairs: list[tuple[int, int]],
        anew: list[tuple[int, int]],
        distances: NDArray,
        tracks: list[int],
        guessed_tracks: list[int],
    ) -> tuple[int, float]:
        """Notes the pairs; how many of the new ones are switches, and the distance that the log of events adds."""
        switches, extra = 0, float(distances[np.isfinite(distances)].sum())
        for i, j in anew:
            person, track = tracks[i], guessed_tracks[j]
            switched = self.follower.get(person, track) != track
            switches += switched
            was_anothers = self.followed.get(track, person) != person
            entries = was_anothers + (was_anothers and person not in self.follower)
            entries += switched and track not in self.followed
            extra += entries * float(distances[i, j])
        for i, j in pairs:
            self.follower[tracks[i]], self.followed[guessed_tracks[j]] = guessed_tracks[j], tracks[i]
        return switches, extra


def assignment(costs: NDArray) -> list[tuple[int, int]]:
    """Pairs of rows and columns: as many as have finite costs, of all such choices the cheapest.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant, 1987).
    """
    rows, columns = (np.flatnonzero(np.isfinite(costs).any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    if len(rows) > len(columns):
        return [(i, j) for j, i in assignment(costs.T)]
    cost = np.where(np.isfinite(costs), costs, FREE)[np.ix_(rows, columns)]
    chosen = _cheapest(cost)
    pairs = [(int(rows[i]), int(columns[j])) for i, j in enumerate(chosen)]
    return [(i, j) for i, j in pairs if np.isfinite(costs[i, j])]


def _cheapest(cost: NDArray) -> list[int]:
    """The column of each row; at least as many columns as rows."""
    n, m = cost.shape
    row_price, column_price = np.zeros(n), np.zeros(m)
    owner = np.full(m, -1)
    for start in range(n):
        best, via = np.full(m, np.inf), np.full(m, -1)
        done = np.zeros(m, dtype=bool)
        row, column, length = start, -1, 0.0
        reached = [start]
        while True:
            reduced = length + cost[row] - row_price[row] - column_price
            better = ~done & (reduced < best)
            best[better], via[better] = reduced[better], column
            column = int(np.where(done, np.inf, best).argmin())
            length, done[column] = best[column], True
            if owner[column] < 0:
                break
            row = int(owner[column])
            reached.append(row)
        visited = done.copy()
        visited[column] = False
        row_price[start] += length
        for c in np.flatnonzero(visited):
            row_price[owner[c]] += length - best[c]
            column_price[c] -= length - best[c]
        while column >= 0:
            before = int(via[column])
            owner[column] = start if before < 0 else owner[before]
            column = before
    chosen = [-1] * n
    for column, row in enumerate(owner.tolist()):
        if row >= 0:
            chosen[row] = column
    return chosen


def keypoint_average_precision(truth: Tracks, found: Tracks, released: bool) -> dict[str, NDArray[np.float64]]:
    """AP, precision and recall of each keypoint, in per cent.

    In each frame a prediction goes to the person of whom it has the highest share of keypoints right, and a person
    keeps the best prediction that came to it. Keypoints of predictions without person are wrong, and so is one that its
    person does not show. AP is the area under the interpolated curve of precision over recall.

    Args:
        truth: the annotations.
        found: the predictions, with scores.
        released: count as the benchmark's tool does: frames without people are left out.

    Returns:
        (J,) arrays "AP", "precision" and "recall"; NaN for a keypoint that nobody shows.
    """
    right = np.zeros(found.present.shape, dtype=bool)
    judged = found.present.copy()
    count = int(max(truth.frame.max(initial=-1), found.frame.max(initial=-1))) + 1
    people_of, guesses_of = _rows_by_frame(truth, count), _rows_by_frame(found, count)
    for frame in np.unique(found.frame).tolist():
        people, guesses = people_of[frame], guesses_of[frame]
        if not len(people):
            judged[guesses] &= not released
            continue
        hits = np.isfinite(_distances(truth, people, found, guesses))
        for i, j in _best_partners(hits, truth.present[people]):
            right[guesses[j]] = hits[i, j]
    assert found.scores is not None
    objects = truth.present.sum(0)
    curves = [_area(found.scores[judged[:, k], k], right[judged[:, k], k], objects[k]) for k in range(len(objects))]
    return dict(zip(("AP", "precision", "recall"), 100 * np.array(curves).T, strict=True))


def _best_partners(hits: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of person and prediction, from which keypoints (people, predictions, J) agree."""
    share = hits.sum(2) / labelled.sum(1).clip(min=1)[:, None]
    chosen = share.argmax(0)
    share[np.arange(len(share))[:, None] != chosen] = 0
    best = share.argmax(1)
    return [(i, j) for i, j in enumerate(best.tolist()) if share[i, j] > 0]


def _area(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> tuple[float, float, float]:
    """Area under precision over recall, and the last precision and recall."""
    if not objects:
        return np.nan, np.nan, np.nan
    hits = right[np.argsort(-scores, kind="stable")].cumsum()
    if not len(hits):
        return 0.0, 0.0, 0.0
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * envelope).sum()), float(precision[-1]), float(recall[-1])
