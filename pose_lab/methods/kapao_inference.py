"""KAPAO's inference (section 3.3 of the paper): decoding, suppression, fusion. See `kapao` for the rest.

Shape letters: B images, K keypoints, L levels, A anchors per level, C outputs per anchor as in `kapao`, R rows (all
anchors of all cells of an image), M rows that count, P poses, Q keypoint objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pose_lab.nets.csp import BOX_COLUMNS, FIRST_CLASS, OBJECTNESS
from pose_lab.ops.boxes import clip, to_corners
from pose_lab.ops.compiled import Array, compiled, in_loops
from pose_lab.ops.nms import suppress
from pose_lab.ops.order import by_falling_score, rows_above, rows_where
from pose_lab.ops.precision import full_precision
from pose_lab.poses import Predictions

POSE = 0  # the class of pose objects; keypoint k has class k + 1


# ---------------------------------------------------------------------------------------------------------------------
# Decoding (section 3.3); distances in the unit of the anchors
# ---------------------------------------------------------------------------------------------------------------------


def decode_boxes(found: Tensor, anchors: Tensor) -> Tensor:
    """(M, 4 or more) raw outputs -> (M, 4): centre in cells from the cell's corner, size in the anchors' unit."""
    part = found[:, :BOX_COLUMNS].sigmoid() * 2
    return torch.cat((part[:, :2] - 0.5, part[:, 2:].square() * anchors), 1)


def decode_keypoints(found: Tensor, anchors: Tensor) -> Tensor:
    """(M, 2 K) raw outputs -> (M, K, 2) from the cell's corner, in the anchors' unit."""
    return (found.sigmoid() * 4 - 2).unflatten(1, (-1, 2)) * anchors[:, None]


def decode(
    raw: Sequence[Tensor], anchors: Tensor, strides: Sequence[int], num_keypoints: int, settings: Inference | None
) -> tuple[Tensor, Tensor]:
    """Objects in input pixels from the raw outputs; what can become nothing is never read.

    Args:
        raw: L outputs (B, A, C, ny, nx) before the logistic.
        anchors: (L, A, 2) width and height in pixels.
        strides: pixels per cell of each level.
        num_keypoints: K.
        settings: decide which rows count; None keeps all.

    Returns:
        (M, C) rows: centre, size, objectness, classes, keypoints, confidences if there are (0 in rows that can become
        no pose); and (M,) their image, ascending. Within an image the order is level, anchor, row, column.
    """
    places, poses = _places(raw, settings)
    level, image, anchor, place = places
    columns, stride = place.new_tensor([[part.shape[4] for part in raw], list(strides)])[:, level]
    cells = torch.stack((place % columns, place // columns), 1).float()
    stride = stride[:, None]
    sizes, first = anchors[level, anchor], FIRST_CLASS + 1 + num_keypoints
    found = _read(raw, places, slice(first))
    boxes = decode_boxes(found, sizes)
    centres = (boxes[:, :2] + cells) * stride
    rows = torch.cat((centres, boxes[:, 2:], found[:, OBJECTNESS:].sigmoid()), 1)
    rows = F.pad(rows, (0, raw[0].shape[2] - first))
    points = _read(raw, places[:, poses], slice(first, None))
    points, confidences = points.tensor_split((2 * num_keypoints,), 1)
    keypoints = decode_keypoints(points, sizes[poses]) + (cells * stride)[poses, None]
    rows[poses, first:] = torch.cat((keypoints.flatten(1), confidences.sigmoid()), 1)
    if len(raw[0]) == 1:
        return rows, image
    order = torch.argsort(image, stable=True)
    return rows[order], image[order]


def _places(raw: Sequence[Tensor], settings: Inference | None) -> tuple[Tensor, Tensor]:
    """(4, M) level, image, anchor and cell of the rows that count, by level; and which of the M can become poses."""
    seen = slice(OBJECTNESS, FIRST_CLASS + POSE + 1)
    scores = torch.cat([part[:, :, seen].movedim(2, 0).flatten(1) for part in raw], 1).float()
    if settings is None:
        number = poses = torch.arange(scores.shape[1], device=scores.device)
    else:
        likely = rows_above(scores[0], _logit(settings.least_seen) - 0.01)  # more than rounding
        objectness, pose = scores.index_select(1, likely).sigmoid()
        kept = settings.counting(objectness, pose)
        number, poses = likely[kept], rows_where((objectness * pose)[kept] > settings.pose_confidence)
    planes, per_cell = raw[0].shape[0] * raw[0].shape[1], raw[0].shape[1]
    cells = [part.shape[3] * part.shape[4] for part in raw]
    starts = [planes * sum(cells[:level]) for level in range(len(cells))]
    first, size = number.new_tensor([starts, cells])
    level = torch.bucketize(number, first, right=True) - 1
    number, size = number - first[level], size[level]
    plane = number // size
    return torch.stack((level, plane // per_cell, plane % per_cell, number % size)), poses


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)


def _read(raw: Sequence[Tensor], places: Tensor, outputs: slice) -> Tensor:
    """(M, outputs) what the raw outputs hold at places (4, M) of `_places`."""
    counts = torch.bincount(places[0], minlength=len(raw)).tolist()
    parts = zip(raw, *(values.split(counts) for values in places[1:]), strict=True)
    return torch.cat([part.flatten(3)[image, anchor, outputs, cell] for part, image, anchor, cell in parts]).float()


def counted(decoded: Tensor, settings: Inference) -> tuple[Tensor, Tensor]:
    """As `decode` gives them: of rows (B, R, C) those that count, (M, C), and (M,) their image."""
    rows = decoded.flatten(0, 1)
    number = settings.counting(rows[:, OBJECTNESS], rows[:, FIRST_CLASS + POSE])
    return rows.index_select(0, number), number // decoded.shape[1]


# ---------------------------------------------------------------------------------------------------------------------
# Suppression and fusion (section 3.3)
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inference:
    """The parameters of inference, with the paper's symbols.

    Attributes:
        pose_confidence: tau_cp.
        pose_iou: tau_bp.
        keypoint_confidence: tau_ck.
        keypoint_iou: tau_bk.
        fusion_confidence: tau_fc, score that a pose needs to take part in fusion.
        fusion_distance: tau_fd, in pixels of the original picture.
        fusion: whether keypoint objects are used at all.
        max_candidates: objects of a picture that enter the suppression, by score.
        max_detections: objects of a picture that leave it, over all classes of a pass.
        class_offset: pixels between the classes in the suppression.
        clip_keypoints: `all`: the keypoints of poses are clipped to the picture, after fusion; `first_two`: the first
            two only, before it (published).
        clip_objects: the boxes of keypoint objects are clipped before their centre is taken (published).
        mapping: `exact`: by the map that made the input; `published`: by gain and padding calculated again, without
            the rounding of the real padding.
        round_boxes: boxes are rounded to whole pixels.
        pixel_centres: the weights count keypoints from pixel centres, as the published ones do.
        pad: grey level, 0..1, beside the smaller views of test-time augmentation.
    """

    pose_confidence: float
    pose_iou: float
    keypoint_confidence: float
    keypoint_iou: float
    fusion_confidence: float
    fusion_distance: float
    fusion: bool
    max_candidates: int
    max_detections: int
    class_offset: float
    clip_keypoints: Literal["all", "first_two"]
    clip_objects: bool
    mapping: Literal["exact", "published"]
    round_boxes: bool
    pixel_centres: bool
    pad: float

    def __post_init__(self) -> None:
        for name in ("pose_confidence", "pose_iou", "keypoint_confidence", "keypoint_iou", "fusion_confidence", "pad"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"inference.{name} is {getattr(self, name)}, but must lie in 0..1")
        for name in ("fusion_distance", "class_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"inference.{name} is {getattr(self, name)}, but must not be negative")
        for name in ("max_candidates", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"inference.{name} is {getattr(self, name)}, but must be at least 1")
        for name, choices in (("clip_keypoints", ("all", "first_two")), ("mapping", ("exact", "published"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"inference.{name} is {getattr(self, name)!r}; there are: {', '.join(choices)}")

    @property
    def shares_pass(self) -> bool:
        """Whether one suppression serves poses and keypoint objects, as published where the thresholds allow it."""
        return self.pose_iou == self.keypoint_iou and self.keypoint_confidence >= self.pose_confidence

    @property
    def least_objectness(self) -> float:
        """What a row of a keypoint class must exceed to take part in a suppression."""
        return self.pose_confidence if self.shares_pass else self.keypoint_confidence

    @property
    def least_seen(self) -> float:
        """The objectness that every row must exceed."""
        return min(self.pose_confidence, self.least_objectness)

    def counting(self, objectness: Tensor, pose: Tensor) -> Tensor:
        """(M,) the rows that can become objects, from objectness (R,) and class of poses (R,): a class is at most 1."""
        limits = self.least_objectness, self.pose_confidence
        if in_loops(objectness):
            return _counting(objectness.detach(), pose.detach(), *limits)
        return rows_where((objectness > limits[0]) | (objectness * pose > limits[1]))


@compiled("int64[:](float32[:], float32[:], float32, float32)")
def _counting(objectness: Array, pose: Array, least_objectness: float, least_pose: float) -> Array:
    """Looks once at each row, also where rows lie apart in memory."""
    rows, count, least = np.empty(len(objectness), np.int64), 0, min(least_objectness, least_pose)
    for row in range(len(objectness)):
        seen = objectness[row]
        if seen > least and (seen > least_objectness or seen * pose[row] > least_pose):
            rows[count] = row
            count += 1
    return rows[:count]


@dataclass
class Detections:
    """Objects after suppression, by image and falling score.

    Attributes:
        rows: (P,) int64, rows of the decoded outputs.
        image_index: (P,) int64.
        boxes: (P, 4) xyxy.
        scores: (P,) objectness times class.
        categories: (P,) int64.
    """

    rows: Tensor
    image_index: Tensor
    boxes: Tensor
    scores: Tensor
    categories: Tensor

    def __getitem__(self, index: Tensor) -> Detections:
        return Detections(*(getattr(self, name).index_select(0, index) for name in self.__dataclass_fields__))


def detect(rows: Tensor, image_index: Tensor, num_keypoints: int, settings: Inference) -> tuple[Detections, Detections]:
    """Pose objects and keypoint objects among decoded rows (M, C) float32: the best class of each, then suppression.

    The two kinds are suppressed apart, or share one pass with one limit of their number. Rows with NaN may hide others.
    """
    centred, objectness, classes = rows[:, : FIRST_CLASS + 1 + num_keypoints].tensor_split((OBJECTNESS, FIRST_CLASS), 1)
    boxes, scores, categories = (_scored_in_turn if in_loops(rows) else _scored)(centred, objectness, classes)
    is_pose = categories == POSE
    limits = (settings.max_candidates, settings.max_detections, settings.class_offset)

    def best(chosen: Tensor, max_iou: float) -> Detections:
        kept = suppress(boxes, scores, categories, image_index, chosen, max_iou, *limits)
        return Detections(kept, *(each.index_select(0, kept) for each in (image_index, boxes, scores, categories)))

    if settings.shares_pass:
        found = best(scores > settings.pose_confidence, settings.pose_iou)
        is_pose, enough = found.categories == POSE, found.scores >= settings.keypoint_confidence
        return found[rows_where(is_pose)], found[rows_where(enough & ~is_pose)]
    poses = best(is_pose & (scores > settings.pose_confidence), settings.pose_iou)
    return poses, best(~is_pose & (scores > settings.keypoint_confidence), settings.keypoint_iou)


def _scored(centred: Tensor, objectness: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M, 4) corners of boxes (M, 4), and (M,) score and (M,) number of the best of the classes (M, K + 1)."""
    scores, categories = classes.max(1)
    return to_corners(centred), scores * objectness[:, 0], categories


@compiled("Tuple((float32[:, :], float32[:], int64[:]))(float32[:, :], float32[:, :], float32[:, :])")
def _scored_in_turn(centred: Array, objectness: Array, classes: Array) -> tuple[Array, Array, Array]:
    """As `_scored`; looks once at each row."""
    boxes, scores = np.empty((len(classes), 4), np.float32), np.empty(len(classes), np.float32)
    categories, two = np.empty(len(classes), np.int64), np.float32(2)
    for row in range(len(classes)):
        best, category = classes[row, 0], 0
        for kind in range(1, classes.shape[1]):
            better = classes[row, kind] > best
            category = kind if better else category
            best = classes[row, kind] if better else best
        for axis in range(2):
            half = centred[row, 2 + axis] / two
            boxes[row, axis], boxes[row, 2 + axis] = centred[row, axis] - half, centred[row, axis] + half
        scores[row], categories[row] = best * objectness[row, 0], category
    return boxes, scores, categories


def find_people(
    rows: Tensor, image_index: Tensor, num_keypoints: int, to_original: Tensor, sizes: Tensor, settings: Inference
) -> Predictions:
    """Poses of a batch from decoded rows.

    Args:
        rows: (M, C) from `decode`.
        image_index: (M,) int64, ascending.
        num_keypoints: K.
        to_original: (B, 2, 3) map from pixels of the input to pixels of the original image.
        sizes: (B, 2) height and width of the original images.
        settings: thresholds and choices.

    Returns:
        Poses in original pixels. A keypoint's score is that of the keypoint object that replaced it, else 0. Where the
        rows hold confidences (ours), it is else the confidence times the pose's score, and the pose is ranked by its
        score times its mean confidence.
    """
    poses, objects_found = detect(rows, image_index, num_keypoints, settings)
    found = rows.index_select(0, poses.rows)[:, FIRST_CLASS + 1 + num_keypoints :]
    sizes, maps = sizes.to(rows), to_original.to(rows)
    frames = sizes[poses.image_index]
    points = torch.cat((poses.boxes, found[:, : 2 * num_keypoints]), 1)
    points = _mapped(points, maps[poses.image_index])
    clipped = points[:, : BOX_COLUMNS + 4 if settings.clip_keypoints == "first_two" else BOX_COLUMNS]
    clipped.copy_(clip(clipped, frames))
    boxes, keypoints = points[:, :BOX_COLUMNS], points[:, BOX_COLUMNS:].unflatten(1, (-1, 2))
    own = found[:, 2 * num_keypoints :]
    confidences = own * poses.scores[:, None] if own.shape[1] else torch.zeros_like(keypoints[..., 0])
    if settings.fusion:
        takes_part = poses.scores > settings.fusion_confidence
        centres = _object_centres(objects_found, maps, sizes, settings)
        unfused = keypoints, confidences, takes_part, poses.image_index
        keypoints, confidences = fuse(*unfused, centres, objects_found, settings.fusion_distance)
    if settings.clip_keypoints == "all":
        keypoints = clip(keypoints, frames[:, None])
    people = Predictions(
        image_index=poses.image_index,
        # published weights count keypoints from pixel centres; we count from the corner of the first pixel
        keypoints=keypoints + 0.5 if settings.pixel_centres else keypoints,
        keypoint_scores=confidences,
        scores=poses.scores,
        boxes=boxes.round() if settings.round_boxes else boxes,
    )
    return _rescored(people, own.mean(1)) if own.shape[1] else people


def _rescored(people: Predictions, factors: Tensor) -> Predictions:
    """People whose scores are multiplied by factors (P,), again by falling score within an image."""
    scores = people.scores * factors
    return replace(people, scores=scores)[by_falling_score(people.image_index, scores)]


@full_precision
def _mapped(points: Tensor, maps: Tensor) -> Tensor:
    """(P, 2 n) pairs x, y moved by a map (P, 2, 3) each."""
    pairs = points.unflatten(-1, (-1, 2))
    return torch.baddbmm(maps[:, None, :, 2], pairs, maps[:, :, :2].transpose(1, 2)).flatten(-2)


def _object_centres(found: Detections, maps: Tensor, sizes: Tensor, settings: Inference) -> Tensor:
    """(P, 2) where keypoint objects put their keypoint, in original pixels."""
    boxes = _mapped(found.boxes, maps[found.image_index])
    if settings.clip_objects:
        boxes = clip(boxes, sizes[found.image_index])
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def fuse(
    keypoints: Tensor,
    scores: Tensor,
    takes_part: Tensor,
    pose_image: Tensor,
    centres: Tensor,
    found: Detections,
    max_distance: float,
) -> tuple[Tensor, Tensor]:
    """Replaces keypoints of poses by keypoint objects of the same kind nearby.

    Objects come by falling score; each goes to the pose whose keypoint, perhaps already replaced, is nearest at that
    moment, and replaces it unless it was replaced before or is too far.

    Args:
        keypoints: (P, K, 2) of the poses.
        scores: (P, K) of these keypoints.
        takes_part: (P,) bool, which poses do.
        pose_image: (P,) their image, ascending.
        centres: (Q, 2) of the keypoint objects.
        found: the keypoint objects, by image and falling score.
        max_distance: objects as far as this or farther replace nothing; in the unit of the coordinates.

    Returns:
        (P, K, 2) keypoints and (P, K) the score of the object that replaced each, else its own.
    """
    poses = rows_where(takes_part)
    if in_loops(keypoints):
        keypoints, scores = keypoints.clone(), scores.clone()
        objects = centres, found.categories, found.scores, found.image_index
        _fuse_in_turn(keypoints, scores, poses, pose_image, *objects, max_distance)
        return keypoints, scores
    nobody = len(centres)
    takers = torch.full_like(scores, nobody, dtype=torch.int64)
    takers[poses] = _takers_at_once(keypoints[poses], pose_image[poses], centres, found, max_distance)
    replaced = takers < nobody
    keypoints = F.pad(centres, (0, 0, 0, 1))[takers].where(replaced[..., None], keypoints)
    return keypoints, F.pad(found.scores, (0, 1))[takers].where(replaced, scores)


@compiled(
    "void(float32[:, :, :], float32[:, :], int64[:], int64[:], float32[:, :], int64[:], float32[:], int64[:], float32)"
)
def _fuse_in_turn(
    keypoints: Array,
    scores: Array,
    poses: Array,
    pose_image: Array,
    centres: Array,
    categories: Array,
    object_scores: Array,
    object_image: Array,
    max_distance: float,
) -> None:
    """Writes to keypoints and scores of the poses given."""
    replaced, first = np.zeros(scores.shape, np.bool_), 0
    for number in range(len(centres)):
        kind = categories[number] - 1
        while first < len(poses) and pose_image[poses[first]] < object_image[number]:
            first += 1
        nearest, least, distance = -1, np.inf, np.inf
        for pose in poses[first:]:
            if pose_image[pose] > object_image[number]:
                break
            x, y = keypoints[pose, kind, 0] - centres[number, 0], keypoints[pose, kind, 1] - centres[number, 1]
            square = x * x + y * y
            if square < least and np.sqrt(square) < distance:  # roots may be equal where squares are not
                nearest, least, distance = pose, square, np.sqrt(square)
        if distance < max_distance and not replaced[nearest, kind]:
            keypoints[nearest, kind], scores[nearest, kind] = centres[number], object_scores[number]
            replaced[nearest, kind] = True


def _takers_at_once(
    keypoints: Tensor, pose_image: Tensor, centres: Tensor, found: Detections, max_distance: float
) -> Tensor:
    """(P, K) which object replaces each keypoint, Q if none; as `_fuse_in_turn`, without a GPU's wait for each object.

    All decide at once from a guess of who replaced what, until the guess repeats itself: the first n objects are right
    after n rounds, so the end is the same; chains are short.
    """
    (people, kinds), nobody = keypoints.shape[:2], len(centres)  # the last taker is no object
    number = torch.arange(nobody, device=centres.device)
    none = number.new_full((people, kinds), nobody)
    if not people or not nobody:
        return none
    slots = _slots(pose_image, kinds, found)
    if not slots.shape[1]:  # the poses and the objects are in different pictures
        return none
    nowhere = people * kinds  # the last slot, of no pose

    def claims(distances: Tensor) -> Tensor:
        """(P K + 1,) the first object for which each slot is nearest."""
        distance, nearest = distances.min(1)
        slot = slots.gather(1, nearest[:, None])[:, 0].where(distance < max_distance, nowhere)
        takers = number.new_full((nowhere + 1,), nobody).scatter_reduce_(0, slot, number, "amin")
        takers[nowhere] = nobody
        return takers

    own = _distances(F.pad(keypoints.flatten(0, 1).t(), (0, 1), value=torch.inf), slots, centres)
    places, takers, before = F.pad(centres.t(), (0, 1)), claims(own), None
    while before is None or not torch.equal(takers, before):
        taker, before = takers.index_select(0, slots.flatten()).view_as(slots), takers
        takers = claims(_distances(places, taker, centres).where(taker < number[:, None], own))
    return takers[:nowhere].view(people, kinds)


def _slots(pose_image: Tensor, kinds: int, found: Detections) -> Tensor:
    """(Q, S) the number p K + k of the keypoints that an object can replace, P K where its image has fewer poses."""
    first = torch.searchsorted(pose_image, found.image_index)
    count = torch.searchsorted(pose_image, found.image_index, right=True) - first
    pose = torch.arange(int(count.max()), device=count.device)
    slots = (first * kinds + found.categories - 1)[:, None] + pose * kinds
    return slots.where(pose < count[:, None], len(pose_image) * kinds)


def _distances(places: Tensor, index: Tensor, centres: Tensor) -> Tensor:
    """(Q, S) how far the places (2, N) with these numbers (Q, S) are from the centres (Q, 2)."""
    x, y = (place.index_select(0, index.flatten()).view_as(index) for place in places)
    return (x.sub_(centres[:, :1]).square_() + y.sub_(centres[:, 1:]).square_()).sqrt_()
