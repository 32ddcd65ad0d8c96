"""KAPAO: keypoints and poses as objects.

McNally, Vats, Wong and McPhee, "Rethinking Keypoint Representations: Modeling Keypoints and Poses as Objects for
Multi-Person Human Pose Estimation", ECCV 2022, arXiv 2111.08557. In the paper's order: the two kinds of objects
(section 3.1), their targets and the loss (3.2), the method; `kapao_inference` has decoding, suppression, fusion (3.3).

Shape letters: B images, N people, K keypoints, L levels, A anchors per level, T objects, M matches of objects and
anchors, R rows (all anchors of all cells of an image), P found people, C = 3 K + 6 outputs per anchor: box (4),
objectness, K + 1 classes (0: pose, k + 1: keypoint k), K pairs x, y; with `net.keypoint_confidence`, which is ours, K
confidences more. Pixels are the input's unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from pose_lab.checkpoints import kapao as published
from pose_lab.checkpoints.reading import Weights
from pose_lab.methods.base import Look, PoseMethod, as_skeleton, frame_sides
from pose_lab.methods.kapao_inference import (
    POSE,
    Inference,
    counted,
    decode,
    decode_boxes,
    decode_keypoints,
    find_people,
)
from pose_lab.methods.kapao_scene import scene
from pose_lab.metrics.fusion_rate import FusionRate
from pose_lab.nets.csp import FIRST_CLASS, OBJECTNESS, CSPPose
from pose_lab.ops import warps
from pose_lab.ops.boxes import clip, complete_iou, to_centres, to_corners
from pose_lab.ops.passes import Pass, passes
from pose_lab.ops.processes import mean_over_processes
from pose_lab.poses import Annotations, Batch, Instances, Predictions
from pose_lab.skeletons import Skeleton

# ---------------------------------------------------------------------------------------------------------------------
# Keypoint objects and pose objects (section 3.1)
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """How people become objects.

    Attributes:
        keypoint_box: side of the keypoint boxes over the longer side of the input (b_s / w); one, or one per keypoint.
        borders: what happens at the picture's borders. `exact`: keypoints within the picture, whole boxes around them.
            `published`: every labelled keypoint whose box, scaled by the augmentation's zoom, is not cut too much; the
            box of nominal size around the centre of what is left. `clipped`: as published without augmentation,
            the box is cut at the border.
        min_side: smaller boxes (pixels, after clipping) are no objects.
        min_area: nor are boxes of which less than this share is inside.
        max_aspect: nor are boxes longer than this times their width.
        edge: the published clipping stops this many pixels before the right and lower border.
    """

    keypoint_box: float | Sequence[float]
    borders: Literal["exact", "published", "clipped"]
    min_side: float
    min_area: float
    max_aspect: float
    edge: float

    def __post_init__(self) -> None:
        if self.borders not in ("exact", "published", "clipped"):
            raise ValueError(f"labels.borders is {self.borders!r}; there are: exact, published, clipped")
        sides = self.keypoint_box if isinstance(self.keypoint_box, Sequence) else (self.keypoint_box,)
        if not all(isinstance(side, int | float) and 0 < side <= 1 for side in sides):
            raise ValueError(f"labels.keypoint_box is {self.keypoint_box!r}, but must be above 0 and at most 1")


@dataclass
class Objects:
    """Objects of a batch, in the order person, its keypoints, next person; rows that are none are marked.

    Attributes:
        image_index: (T,) int64.
        categories: (T,) int64, 0 for poses, k + 1 for keypoint k.
        boxes: (T, 4) centre, width, height.
        person: (T,) int64, row of `keypoints`.
        keypoints: (N, K, 3) x, y, visibility of the pose objects.
        valid: (T,) bool.
    """

    image_index: Tensor
    categories: Tensor
    boxes: Tensor
    person: Tensor
    keypoints: Tensor
    valid: Tensor


def objects(people: Instances, height: int, width: int, labels: Labels) -> Objects:
    """The pose object of every person and the keypoint objects of its keypoints, T = N (K + 1) rows.

    A person whose pose box is too small keeps its keypoint objects. Crowd regions are no objects.
    """
    num_people, num_keypoints = people.labelled.shape
    frame = torch.tensor([height, width], device=people.boxes.device)
    pose_boxes, pose_valid = _pose_boxes(people, frame, labels)
    keypoint_boxes, keypoint_valid = _keypoint_boxes(people, frame, labels)
    valid = torch.cat((pose_valid[:, None], keypoint_valid), 1) & ~people.ignore[:, None]
    rows = torch.arange(num_people * (num_keypoints + 1), device=frame.device)
    person = rows // (num_keypoints + 1)
    return Objects(
        image_index=people.image_index[person],
        categories=rows % (num_keypoints + 1),
        boxes=to_centres(torch.cat((pose_boxes[:, None], keypoint_boxes), 1).flatten(0, 1)),
        person=person,
        keypoints=people.keypoints,
        valid=valid.flatten(),
    )


def _pose_boxes(people: Instances, frame: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """(N, 4) the people's boxes, clipped, and (N,) which of them are objects."""
    clipped = clip(people.boxes, frame - labels.edge)
    return clipped, _large_enough(people.boxes, clip(people.boxes, frame), labels)


def _keypoint_boxes(people: Instances, frame: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """(N, K, 4) boxes around the keypoints and (N, K) which of them are objects."""
    share = frame.new_tensor(labels.keypoint_box, dtype=torch.float32).view(-1, 1)
    nominal = (share * frame.max()).expand(-1, 2)
    centres, visible = people.keypoints[..., :2], people.keypoints[..., 2] > 0
    if labels.borders == "exact":
        return _around(centres, nominal), visible
    if labels.borders == "clipped":
        return clip(_around(centres, nominal), frame - labels.edge), visible
    zoomed = _around(centres, nominal * people.zoom[:, None, None])
    inside = clip(zoomed, frame)
    centres = (inside[..., :2] + inside[..., 2:]) / 2
    boxes = clip(_around(centres, share * frame.flip(0)), frame - labels.edge)
    # a keypoint without visibility inside the frame was cut off with the rest of its mosaic tile
    beyond = (clip(people.keypoints[..., :2], frame) != people.keypoints[..., :2]).any(-1)
    return boxes, people.labelled & (visible | beyond) & _large_enough(zoomed, inside, labels)


def _around(centres: Tensor, sides: Tensor) -> Tensor:
    return to_corners(torch.cat((centres, sides.expand_as(centres)), -1))


def _large_enough(boxes: Tensor, clipped: Tensor, labels: Labels) -> Tensor:
    """Which boxes are still worth learning after clipping."""
    w, h = (clipped[..., 2:] - clipped[..., :2]).unbind(-1)
    before = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    slim = torch.maximum(w, h) < labels.max_aspect * torch.minimum(w, h)
    return (w > labels.min_side) & (h > labels.min_side) & (w * h > labels.min_area * before) & slim


# ---------------------------------------------------------------------------------------------------------------------
# Matching objects to anchors
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Matches:
    """Pairs of an object and an anchor of a cell, M rows; units are cells of the level.

    Attributes:
        level, image, anchor, row, column: (M,) int64, where.
        cell: (M,) int64, the cell's number when the cells of all levels are joined.
        categories: (M,) int64.
        boxes: (M, 4) the object's centre relative to the cell's corner, and its size.
        anchors: (M, 2) width and height.
        pose: (Q,) int64, the rows that are pose objects.
        keypoints: (Q, K, 2) of these, relative to the cell's corner.
        visible: (Q, K) bool, which keypoints count.
    """

    level: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    cell: Tensor
    categories: Tensor
    boxes: Tensor
    anchors: Tensor
    pose: Tensor
    keypoints: Tensor
    visible: Tensor


def match(targets: Objects, anchors: Tensor, strides: Tensor, grids: Tensor, max_ratio: float) -> Matches:
    """Assigns each object to all anchors of similar size, in its own cell and the nearest two neighbours.

    The order is level; own cell, left, upper, right, lower; anchor; object. It decides who wins a cell.

    Args:
        targets: the objects.
        anchors: (L, A, 2) width and height in pixels.
        strides: (L,) pixels per cell.
        grids: (L, 2) columns and rows of each level.
        max_ratio: an anchor fits if neither side differs by this factor or more.
    """
    boxes = targets.boxes / strides.view(-1, 1, 1)
    cell_anchors = anchors / strides.view(-1, 1, 1)
    ratio = boxes[:, None, :, 2:] / cell_anchors[:, :, None]
    fits = (torch.maximum(ratio, 1 / ratio).amax(-1) < max_ratio) & targets.valid
    near, shifts = _near_cells(boxes[..., :2], grids)
    # here and for `pose` the host waits for the device: how many matches are there?
    level, shift, anchor, row = torch.nonzero(near[:, :, None] & fits[:, None], as_tuple=True)
    box = boxes[level, row]
    cell = (box[:, :2] - shifts[shift]).long()
    inside = torch.minimum(cell.clamp(min=0), grids[level] - 1)
    cells = grids.prod(1)
    categories = targets.categories[row]
    pose = torch.nonzero(categories == POSE)[:, 0]
    keypoints = targets.keypoints[targets.person[row[pose]]]
    return Matches(
        level=level,
        image=targets.image_index[row],
        anchor=anchor,
        row=inside[:, 1],
        column=inside[:, 0],
        cell=(cells.cumsum(0) - cells)[level] + inside[:, 1] * grids[level, 0] + inside[:, 0],
        categories=categories,
        boxes=torch.cat((box[:, :2] - inside, box[:, 2:]), 1),
        anchors=cell_anchors[level, anchor],
        pose=pose,
        keypoints=keypoints[..., :2] / strides[level[pose]].view(-1, 1, 1) - cell[pose, None],
        visible=keypoints[..., 2] > 0,
    )


def _near_cells(centres: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
    """(L, 5, T) whether an object takes its own, left, upper, right, lower cell, and (5, 2) the cells' shifts."""
    mirrored = grids[:, None] - centres
    low = (centres % 1 < 0.5) & (centres > 1)
    high = (mirrored % 1 < 0.5) & (mirrored > 1)
    own = torch.ones_like(low[..., :1])
    shifts = centres.new_tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [-0.5, 0.0], [0.0, -0.5]])
    return torch.cat((own, low, high), -1).transpose(1, 2), shifts


# ---------------------------------------------------------------------------------------------------------------------
# Loss (section 3.2)
# ---------------------------------------------------------------------------------------------------------------------


def kapao_losses(raw: Sequence[Tensor], matches: Matches, level_weights: Sequence[float]) -> dict[str, Tensor]:
    """The four terms, each averaged within its level and summed over levels.

    Args:
        raw: L outputs (B, A, C, ny, nx) before the logistic.
        matches: the targets.
        level_weights: (L,) weights of the objectness term.

    Returns:
        `box`: 1 - complete IoU; `objectness`: cross-entropy against the IoU, over all cells; `class`: cross-entropy
        over classes; `keypoints`: distance in cells over visible keypoints of pose objects. Where the network has
        confidences (ours), `confidence`: cross-entropy against which keypoints of pose objects are visible.
    """
    flat = torch.cat([level.flatten(3) for level in raw], -1)
    num_keypoints = matches.visible.shape[1]
    first = FIRST_CLASS + 1 + num_keypoints
    objects_raw, keypoints_raw = flat.split((first, flat.shape[2] - first), 2)
    found = objects_raw[matches.image, matches.anchor, :, matches.cell].float()
    iou = complete_iou(decode_boxes(found, matches.anchors), matches.boxes)
    classes = found[:, FIRST_CLASS:]
    # cross-entropy against one class of several independent ones
    entropy = F.softplus(classes).sum(1) - classes.gather(1, matches.categories[:, None])[:, 0]
    level, image, anchor, cell = (x[matches.pose] for x in (matches.level, matches.image, matches.anchor, matches.cell))
    of_poses = keypoints_raw[image, anchor, :, cell].float()
    points, confidences = of_poses.tensor_split((2 * num_keypoints,), 1)
    points = decode_keypoints(points, matches.anchors[matches.pose])
    distance = (points - matches.keypoints).norm(dim=-1)
    share = _mean_weights(matches.level, torch.ones_like(iou), len(raw))
    keypoint_share = _mean_weights(level, matches.visible.sum(1).to(iou), len(raw))
    weights = _cell_weights(raw, level_weights)
    terms = {
        "box": ((1 - iou) * share).sum(),
        "objectness": _objectness_loss(objects_raw[:, :, OBJECTNESS], matches, iou.detach(), weights),
        "class": (entropy * share).sum() / classes.shape[1],
        "keypoints": (distance.where(matches.visible, 0).sum(1) * keypoint_share).sum(),
    }
    if confidences.shape[1]:
        entropy = F.binary_cross_entropy_with_logits(confidences, matches.visible.to(confidences), reduction="none")
        pose_share = _mean_weights(level, torch.ones_like(keypoint_share), len(raw))
        terms["confidence"] = (entropy.mean(1) * pose_share).sum()
    return terms


def _mean_weights(level: Tensor, counts: Tensor, num_levels: int) -> Tensor:
    """(M,) 1 over the sum of `counts` in the row's level, in the batch of all processes."""
    total = mean_over_processes(counts.new_zeros(num_levels).index_add(0, level, counts))
    return (1 / total.where(total > 0, 1))[level]


def _cell_weights(raw: Sequence[Tensor], level_weights: Sequence[float]) -> Tensor:
    """(cells of all levels,) the weight of the level over the number of its anchors and cells in the batch."""
    sizes = [level.shape[3] * level.shape[4] for level in raw]
    anchors = raw[0].shape[0] * raw[0].shape[1]
    parts = zip(sizes, level_weights, strict=True)
    return torch.cat(
        [raw[0].new_full((size,), weight / (size * anchors), dtype=torch.float32) for size, weight in parts]
    )


def _objectness_loss(logits: Tensor, matches: Matches, iou: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of all cells (B, A, cells) against the IoU of the last match in the list on the cell, else 0."""
    place = (matches.image * logits.shape[1] + matches.anchor) * logits.shape[2] + matches.cell
    order = torch.arange(len(place), device=place.device)
    # by the largest position in the list, not by writing in turn: the same on every device
    winner = order.new_full((logits.numel(),), -1).scatter_reduce(0, place, order, "amax")
    target = torch.cat((iou.clamp(min=0), iou.new_zeros(1)))[winner].view_as(logits)
    return (F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") * weights).sum()


# ---------------------------------------------------------------------------------------------------------------------
# The method
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Candidates:
    """Decoded rows of a batch, in input pixels.

    Attributes:
        rows: (M, C) from `decode`.
        image_index: (M,) int64, ascending.
    """

    rows: Tensor
    image_index: Tensor


class Kapao(PoseMethod):
    """KAPAO as a method of the laboratory.

    Args:
        skeleton: the keypoints, or their name.
        net: makes the network from the number of keypoints.
        optimisation: see the base class.
        labels: arguments of `Labels`.
        max_ratio: an anchor fits an object if neither side differs by this factor or more.
        gains: weights of the terms `box`, `objectness`, `class`, `keypoints`, `confidence`.
        gain_reference: what the gains were chosen for: `image_size`, `levels`, `classes`; None: use them as they are.
        image_size: side of the input in pixels, or height and width; the longer one scales the objectness gain.
        level_weights: weights of the levels' objectness.
        inference: arguments of `Inference`.
        sum_over_batch: the loss is a sum over the pictures of a batch.
        test_time: `scales` and `flips` of the passes over a picture (test-time augmentation); None: one, as it is.

    Raises:
        ValueError: if the numbers of levels or keypoints do not fit each other.
    """

    candidates_type = Candidates
    net: CSPPose
    inference: Inference
    strides: Tensor
    mirrored: Tensor

    def __init__(
        self,
        skeleton: Skeleton | str,
        net: Callable[..., CSPPose],
        optimisation: Mapping[str, Any],
        labels: Mapping[str, Any],
        max_ratio: float,
        gains: Mapping[str, float],
        gain_reference: Mapping[str, float] | None,
        image_size: int | Sequence[int],
        level_weights: Sequence[float],
        inference: Mapping[str, Any],
        sum_over_batch: bool = True,
        test_time: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        keypoints = as_skeleton(skeleton)
        network = net(num_keypoints=len(keypoints))
        super().__init__(keypoints, network, optimisation, sum_over_batch)
        self.labels = Labels(**labels)
        self.inference = Inference(**inference)
        self.passes = passes(**(test_time or {"scales": [1.0], "flips": [False]}))
        self.max_ratio = max_ratio
        self.level_weights = tuple(level_weights)
        sides = frame_sides(image_size, max(network.strides))
        for one in self.passes:
            one.scaled(sides[0], sides[-1])  # what leaves nothing is refused before training
        self.gains = _scaled_gains(gains, gain_reference, max(sides), len(network.strides), network.num_classes)
        self.register_buffer("strides", torch.tensor(network.strides), persistent=False)
        self.register_buffer("mirrored", torch.tensor(keypoints.flip), persistent=False)
        _check_numbers(self.labels, len(keypoints), self.level_weights, network.strides)

    @classmethod
    def net_changes(cls, weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
        """Size and anchors are the checkpoint's."""
        return published.config_changes(published.architecture(weights), net)

    def load_weights(self, weights: Weights) -> str:
        """All of KAPAO's, or the trunk of a YOLOv5 detector's or of a network with or without confidences."""
        return published.load(self.net, weights)

    def make_metrics(self, annotations: Annotations) -> list[Metric]:
        """Average precision, and how often fusion replaces keypoints."""
        told_apart = self.inference.fusion and not self.net.keypoint_confidence  # by a score above 0
        return [*super().make_metrics(annotations), *([FusionRate(annotations, self.skeleton)] if told_apart else [])]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The four terms of the loss, times their gains."""
        height, width = batch.images.shape[-2:]
        raw = self.net(_normalised(batch.images))
        labels = self.labels
        if labels.borders == "published" and not self.training:
            labels = replace(labels, borders="clipped")  # published validation pictures are not augmented
        grids = torch.stack((width // self.strides, height // self.strides), 1)
        targets = objects(batch.instances, height, width, labels)
        matches = match(targets, self.net.anchors, self.strides, grids, self.max_ratio)
        terms = kapao_losses(raw, matches, self.level_weights)
        return {name: self.gains[name] * value for name, value in terms.items()}

    def look(self, batch: Batch, view: Pass) -> list[Tensor]:
        """The network's outputs of a pass."""
        return self.net(view.view(_normalised(batch.images), max(self.net.strides)))

    def collect(self, look: Look, batch: Batch) -> Candidates:
        """The decoded rows of all passes that count."""
        found = [self._seen(look, one, batch.images.shape[3]) for one in self.passes]
        if len(found) == 1:
            return Candidates(*found[0])
        rows, image_index = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = torch.argsort(image_index, stable=True)
        return Candidates(rows[order], image_index[order])

    def _seen(self, look: Look, one: Pass, width: int) -> tuple[Tensor, Tensor]:
        """`decode`d rows of one pass, in pixels of the input, which is `width` wide."""
        raw = look(replace(one, pad=self.inference.pad))
        rows, image_index = decode(raw, self.net.anchors, self.net.strides, len(self.skeleton), self.inference)
        return (rows if one.is_plain else self._back(rows, one, width)), image_index

    def _back(self, rows: Tensor, one: Pass, width: int) -> Tensor:
        """Rows (M, C) of a pass over pictures that are `width` wide, as if found in the pictures themselves."""
        flip, count = self.mirrored, len(self.mirrored)
        own = count * self.net.keypoint_confidence
        centres, sizes, scores, kinds, points, confidences = rows.split((2, 2, 2, count, 2 * count, own), 1)
        keypoints = one.points_back(points.unflatten(1, (-1, 2)), width)
        if one.flip:
            keypoints, kinds, confidences = keypoints[:, flip], kinds[:, flip], confidences[:, flip[:own]]
        centres, sizes = one.points_back(centres, width), sizes / one.scale
        return torch.cat((centres, sizes, scores, kinds, keypoints.flatten(1), confidences), 1)

    def people(self, candidates: Candidates, batch: Batch) -> Predictions:
        """Suppression and fusion: the people found, in pixels of the original images."""
        published = self.inference.mapping == "published"
        shape = batch.images.shape[-2:]
        to_original = published_map(batch.sizes, shape) if published else warps.invert(batch.to_input)
        found = candidates.rows, candidates.image_index, len(self.skeleton)
        return find_people(*found, to_original, batch.sizes, self.inference)

    def stores(self, wanted: Inference) -> bool:
        """Rows that did not count were never decoded; the padding is what the network saw."""
        own = self.inference
        objects = own.least_objectness <= wanted.least_objectness and own.pose_confidence <= wanted.pose_confidence
        return objects and own.pad == wanted.pad

    def crowd(self, batch: Batch, people: int) -> Candidates:
        """Drawn candidates, the same in every picture; see `kapao_scene`."""
        height, width = batch.images.shape[-2:]
        per_cell = self.net.anchors.shape[1]
        count = per_cell * sum((height // stride) * (width // stride) for stride in self.net.strides)
        shared = scene(people, count, (height, width), len(self.skeleton)).to(batch.images.device)
        rows, image_index = counted(shared.expand(len(batch), -1, -1), self.inference)
        return Candidates(rows, image_index)


def _normalised(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> 0..1."""
    return images.to(torch.get_default_dtype()) / 255


def published_map(sizes: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, 2, 3) the map from input to original pixels that the published code assumes for a letterboxed picture.

    Gain and padding are calculated again from the shapes; the real padding is rounded to whole pixels.

    Args:
        sizes: (B, 2) height and width of the originals.
        shape: height and width of the input.
    """
    sizes = sizes.double()
    frame = sizes.new_tensor(list(shape))
    gain = (frame / sizes).amin(1)
    padding = (frame - sizes * gain[:, None]) / 2
    maps = sizes.new_zeros(len(sizes), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / gain
    maps[:, :, 2] = -padding.flip(1) / gain[:, None]
    return maps


def _scaled_gains(
    gains: Mapping[str, float], reference: Mapping[str, float] | None, image_size: int, levels: int, classes: int
) -> dict[str, float]:
    """Gains carried over from the reference's picture size, levels and classes, as YOLOv5 does."""
    if reference is None:
        return dict(gains)
    scale = dict.fromkeys(gains, reference["levels"] / levels)
    scale["objectness"] *= (image_size / reference["image_size"]) ** 2
    scale["class"] *= classes / reference["classes"]
    return {name: gain * scale[name] for name, gain in gains.items()}


def _check_numbers(labels: Labels, num_keypoints: int, level_weights: Sequence[float], strides: Sequence[int]) -> None:
    sides = labels.keypoint_box
    if isinstance(sides, Sequence) and len(sides) not in (1, num_keypoints):
        raise ValueError(f"labels.keypoint_box has {len(sides)} values; give one, or {num_keypoints}, one per keypoint")
    if len(level_weights) != len(strides):
        raise ValueError(
            f"method.level_weights has {len(level_weights)} values, but net.anchors has {len(strides)} levels; with a "
            "published checkpoint use scale=paper, whose recipe has its levels"
        )
