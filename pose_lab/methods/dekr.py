"""DEKR: people are read off at their centre, every keypoint by a branch of its own.

Geng, Sun, Xiao, Zhang and Wang, "Bottom-Up Human Pose Estimation Via Disentangled Keypoint Regression", CVPR 2021,
arXiv 2104.02300. In the paper's order: targets and losses (section 3.2), then inference: decoding, suppression and
scoring (section 3.3). The network is `nets/dekr.py`, the rescoring of poses `methods/dekr_rescoring.py`.

Shape letters: B images, N annotated people, K keypoints, M candidates of an image, P found people, h x w cells. A cell
is 4 pixels of the input; cell c lies at the centre of pixel 4 c, so points in cells and in "input positions" (cells
times 4) count from pixel centres, and are half a pixel less than the project's coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pose_lab.checkpoints import dekr as published
from pose_lab.checkpoints.reading import Weights
from pose_lab.methods.base import Look, as_skeleton
from pose_lab.methods.bottom_up import BottomUp, View, predictions
from pose_lab.methods.bottom_up_scene import crowd, tagged_maps
from pose_lab.methods.dekr_rescoring import Rescoring, fits, pose_features
from pose_lab.methods.snapping import Snapping, enlarged_by, snapped
from pose_lab.nets.dekr import DEKRNet, Rescorer
from pose_lab.nets.hrnet import STRIDE
from pose_lab.ops import warps
from pose_lab.ops.heatmaps import PIXEL_CENTRE, gaussians, heatmap_loss, inside, loss_mask, to_cells
from pose_lab.ops.nms import greedy, highest_around, ranks
from pose_lab.poses import Batch, Instances, Predictions
from pose_lab.skeletons import Skeleton

# ---------------------------------------------------------------------------------------------------------------------
# Targets (section 3.2)
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """How people become maps.

    Attributes:
        sigma: of the keypoints' Gaussians, cells.
        centre_sigma: of the centres'.
        background: weight of cells outside all Gaussians in the heatmap loss.
        radius: offsets are learnt this many cells around the centre (one less after it).
        size: what the offsets' weight is one over. `extent`: the diagonal of the person's labelled keypoints;
            `origin` (published code): the distance of their far corner from the picture's origin.
        min_size: least extent, pixels of the input.
        overlap: whose offset a cell holds where people overlap. `smallest`: the smallest person's; `published`: that
            of the published code, which depends on the order of people and keypoints.
        phantom_centres: people without labelled keypoints have a centre, at the picture's origin (published code).
        min_area: smaller people (annotated area, square pixels of the original picture) have no centre.
        mask: whether crowd regions and people without keypoints (their outlines, or boxes where the data have none)
            count nothing in the heatmap loss.
    """

    sigma: float
    centre_sigma: float
    background: float
    radius: int
    size: Literal["extent", "origin"]
    min_size: float
    overlap: Literal["smallest", "published"]
    phantom_centres: bool
    min_area: float
    mask: bool

    def __post_init__(self) -> None:
        for name, choices in (("size", ("extent", "origin")), ("overlap", ("smallest", "published"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"labels.{name} is {getattr(self, name)!r}; there are: {', '.join(choices)}")


@dataclass
class Joints:
    """People as the maps show them.

    Attributes:
        image_index: (N,) int64.
        points: (N, K + 1, 2) cells, the centre last.
        drawn: (N, K + 1) bool, which of them are there.
        sizes: (N,) squared size, square pixels of the input.
    """

    image_index: Tensor
    points: Tensor
    drawn: Tensor
    sizes: Tensor


def joints(people: Instances, to_input: Tensor, labels: Labels) -> Joints:
    """Keypoints and centres of people, in cells.

    Args:
        people: of a batch, pixels of the input.
        to_input: (B, 2, 3) maps from original pixels to pixels of the input.
        labels: the choices.
    """
    maps = to_input[people.image_index]
    labelled = people.labelled
    counts = labelled.sum(1)
    centres = (people.keypoints[..., :2] * labelled[..., None]).sum(1) / counts.clamp(min=1)[:, None]
    origins = warps.apply_to_points(maps, torch.full_like(maps[:, :1, 2], PIXEL_CENTRE).expand(-1, 2)[:, None])[:, 0]
    centres = torch.where(counts[:, None] > 0, centres, origins.float())
    centred = people.areas / warps.area_scale(maps) >= labels.min_area
    if not labels.phantom_centres:
        centred &= counts > 0
    points = torch.cat([people.keypoints[..., :2], centres[:, None]], 1)
    return Joints(
        image_index=people.image_index,
        points=to_cells(points, STRIDE),
        drawn=torch.cat([people.keypoints[..., 2] > 0, centred[:, None]], 1),
        sizes=_sizes(people, maps, labels),
    )


def _sizes(people: Instances, maps: Tensor, labels: Labels) -> Tensor:
    """(N,) squared sizes, measured in the original picture, so that a rotation does not change them."""
    original = warps.apply_to_points(warps.invert(maps), people.keypoints[..., :2].double()) - PIXEL_CENTRE
    labelled = people.labelled[..., None]
    low, high = original.where(labelled, torch.inf).amin(1), original.where(labelled, -torch.inf).amax(1)
    if labels.size == "origin":
        low, high = low.clamp(max=0), high.clamp(min=0)
    squares = (high - low).clamp(min=0).square().sum(1) * warps.area_scale(maps)
    return squares.clamp(min=labels.min_size**2).float()


def heatmaps(people: Joints, shape: tuple[int, int, int], labels: Labels) -> Tensor:
    """(B, K + 1, h, w) the largest Gaussian of each kind at every cell; 0 outside their patches.

    Args:
        people: N of them.
        shape: B, h, w.
        labels: their sigmas.
    """
    parts = ((slice(0, -1), labels.sigma), (slice(-1, None), labels.centre_sigma))
    drawn = [
        gaussians(people.image_index, people.points[:, part], people.drawn[:, part], shape, sigma)
        for part, sigma in parts
    ]
    return torch.cat(drawn, 1)


@dataclass
class Offsets:
    """Offsets to learn: the cells around every person's centre, for each of its keypoints.

    Attributes:
        index: (N, K, C) int64, places in maps (B, K, h, w), flat.
        values: (N, K, C, 2) cell minus keypoint, cells.
        weights: (N, K, C, 1), 0 where nothing is to be learnt; or one for x and y each, (N, K, C, 2).
    """

    index: Tensor
    values: Tensor
    weights: Tensor


def offsets(people: Joints, shape: tuple[int, int, int], labels: Labels) -> Offsets:
    """The offsets of all people, at C = (2 radius)^2 cells each; a cell belongs to one person per keypoint.

    Args:
        people: N of them.
        shape: B, h, w.
        labels: radius and overlap.
    """
    images, height, width = shape
    limits = people.points.new_tensor((width, height))
    num_keypoints = people.drawn.shape[1] - 1
    points, centres = people.points[:, :-1], people.points[:, -1].trunc()  # published: towards zero
    steps = torch.arange(-labels.radius, labels.radius, device=points.device)
    cells = centres[:, None] + torch.cartesian_prod(steps, steps).flip(1)  # (N, C, 2) x, y
    centred = people.drawn[:, -1] & inside(centres, limits)
    here = inside(cells, limits) & centred[:, None]
    valid = (people.drawn[:, :-1] & inside(points, limits))[..., None] & here[:, None]  # (N, K, C)
    x, y = cells.where(here[..., None], 0).long().unbind(-1)
    kind = people.image_index[:, None] * num_keypoints + torch.arange(num_keypoints, device=points.device)
    index = (kind[..., None] * height + y[:, None]) * width + x[:, None]
    values = cells[:, None] - points[:, :, None]
    total = images * num_keypoints * height * width
    if labels.overlap == "smallest":
        owned = _smallest(index, valid, people.sizes, total)
    else:
        places = (people.image_index[:, None] * height + y) * width + x
        owned = _published_owners(index, places, valid, (values != 0).any(-1), people, total)
    return Offsets(index, values, people.sizes.rsqrt()[:, None, None].where(owned, 0)[..., None])


def _smallest(index: Tensor, valid: Tensor, sizes: Tensor, total: int) -> Tensor:
    """(N, K, C) bool: where the person is the smallest of those who want the place; of equal ones the last."""
    count = len(sizes)
    order = torch.argsort(sizes.flip(0), stable=True)
    rank = torch.empty_like(order).scatter_(0, count - 1 - order, torch.arange(count, device=sizes.device))
    wanted = torch.where(valid, rank[:, None, None], count)
    first = rank.new_full((total,), count).scatter_reduce_(0, index.flatten(), wanted.flatten(), "amin")
    return valid & (first[index] == rank[:, None, None])


def _published_owners(
    index: Tensor, places: Tensor, valid: Tensor, nonzero: Tensor, people: Joints, total: int
) -> Tensor:
    """(N, K, C) bool: whose offset the published code leaves at each place.

    It goes person by person and keypoint by keypoint: a place that holds an offset other than (0, 0) is kept if the
    size that was last written at its cell, for any keypoint, is smaller; so once a person has written at a cell, all
    its later keypoints are written there too. Images do not touch each other and proceed together.
    """
    owner = index.new_full((total,), -1)
    filled = torch.zeros(total, dtype=torch.bool, device=index.device)
    sizes = people.sizes.new_zeros(total // index.shape[1])  # of the cells (B, h, w)
    number = torch.arange(len(index), device=index.device)
    rank = ranks(people.image_index)
    for turn in range(int(rank.max()) + 1 if len(rank) else 0):
        rows = number[rank == turn]
        smaller = sizes[places[rows]] < people.sizes[rows, None]
        free = valid[rows] & ~(filled[index[rows]] & smaller[:, None])
        written = valid[rows] & free.long().cummax(1).values.bool()
        owner[index[rows][written]] = number[rows][:, None, None].expand_as(written)[written]
        filled[index[rows][written]] = nonzero[rows][written]
        touched = written.any(1)
        sizes[places[rows][touched]] = people.sizes[rows, None].expand_as(touched)[touched]
    return valid & (owner[index] == number[:, None, None])


# ---------------------------------------------------------------------------------------------------------------------
# Losses (section 3.2)
# ---------------------------------------------------------------------------------------------------------------------


def focal_loss(raw: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Quality focal loss |g - p|^2 BCE(p, g), p after the logistic, as super-gradients trains DEKR; mean."""
    raw = raw.float()
    entropy = F.binary_cross_entropy_with_logits(raw, target, reduction="none")
    errors = (target - raw.sigmoid()).square() * entropy
    return (errors if mask is None else errors * mask).mean()


def offset_loss(raw: Tensor, target: Offsets, beta: float) -> Tensor:
    """Smooth L1, weighted, over the number of weighted numbers (x and y count).

    Args:
        raw: (B, 2 K, h, w) of the network.
        target: from `offsets`.
        beta: distance (cells) where the square becomes linear.
    """
    plane = raw.shape[2] * raw.shape[3]
    x = target.index + target.index // plane * plane  # y is a plane later
    found = raw.flatten().float().gather(0, torch.stack([x, x + plane], -1).flatten()).view_as(target.values)
    errors = F.smooth_l1_loss(found, target.values, beta=beta, reduction="none")
    counted = (target.weights > 0).expand_as(errors).sum()
    return (errors * target.weights).sum() / counted.clamp(min=1)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding (section 3.3)
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inference(Snapping):
    """The parameters of inference; those of the snapping, see there, are among them.

    Attributes:
        max_people: most centres of one pass, and most people of a picture.
        min_score: centres must score more.
        windows: (mean side of the map in cells, window) pairs: from more than that side on, centres are the largest in
            such a window; the last pair's side is 0.
        logistic: heatmaps are taken through the logistic (focal loss).
        flip_shift: pixels that the mirrored picture is moved to the left, so that its cells meet the picture's.
        other_scales: factor on the centre scores of passes at scales other than 1.
        close_keypoints: a pose is a duplicate if more keypoints than this are close.
        close_distance: two keypoints are close within this share of the better pose's diagonal.
        close_distance_scales: the same where poses of several scales meet.
        heat_scores: keypoints score the centre's score times their heatmap's value; otherwise the centre's score.
        rescore: scores are multiplied by what the rescoring network says.
    """

    max_people: int
    min_score: float
    windows: Sequence[Sequence[int]]
    logistic: bool
    flip_shift: int
    other_scales: float
    close_keypoints: int
    close_distance: float
    close_distance_scales: float
    heat_scores: bool
    rescore: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_people < 1:
            raise ValueError(f"inference.max_people is {self.max_people}, but must be at least 1")
        if self.min_score >= 1:
            raise ValueError(f"inference.min_score is {self.min_score}, but must be below 1: no centre scores more")
        if not self.windows or self.windows[-1][0] != 0:
            raise ValueError("inference.windows must end with a pair [0, window], for the smallest maps")
        if any(window % 2 == 0 for _, window in self.windows):
            raise ValueError("inference.windows has an even window; a window needs a middle")


@dataclass
class Maps:
    """What the network gives for a batch at one scale.

    Attributes:
        scale: of the input's sides.
        heatmaps: (B, K + 1, h, w), the centre's last.
        offsets: (B, 2 K, h, w).
        mirrored: both of the mirrored picture, or None.
    """

    scale: float
    heatmaps: Tensor
    offsets: Tensor
    mirrored: tuple[Tensor, Tensor] | None = None


@dataclass
class Candidates:
    """Poses of a batch before suppression, M rows for every image; larger scales first, by falling score within.

    Attributes:
        poses: (B, M, K, 2) positions in the input, from pixel centres.
        scores: (B, M) of the centres; 0 in rows that are none.
        heat: (B, M, K) heatmap values at the keypoints.
        heatmaps: (B, K, H, W) of the input's size, where keypoints are snapped to them; else empty.
    """

    poses: Tensor
    scores: Tensor
    heat: Tensor
    heatmaps: Tensor = field(default_factory=lambda: torch.empty(0))


def decode(maps: Sequence[Maps], flip: Tensor, settings: Inference) -> Candidates:
    """Candidates from the maps of all passes; heatmaps are never enlarged, but read where a keypoint lies.

    Args:
        maps: by falling scale; 1 need not be among them.
        flip: (K,) int64, the skeleton's exchange of left and right.
        settings: the parameters.
    """
    found = [_poses(one, flip, settings) for one in maps]
    scores = _rescaled([scores for _, scores in found], [one.scale for one in maps], settings.other_scales)
    poses = torch.cat([poses for poses, _ in found], 1)
    sound = poses.sum((2, 3)).isfinite()
    poses = poses.where(sound[..., None, None], 0)
    if settings.heat_scores:
        heat = torch.stack([heat_values(one, poses, flip) for one in maps]).mean(0)
    else:
        heat = torch.ones_like(poses[..., 0])
    return Candidates(poses, scores * sound, heat)


def _poses(maps: Maps, flip: Tensor, settings: Inference) -> tuple[Tensor, Tensor]:
    """(B, M, K, 2) poses at the highest centres of one scale, and (B, M) the centres' scores, 0 for none."""
    width = maps.heatmaps.shape[3]
    index, scores = centre_peaks(_centres(maps), settings)
    x, y = index % width, index // width
    offset = _read(maps.offsets, index)
    if maps.mirrored is not None:
        mirrored = _read(maps.mirrored[1], index + width - 1 - 2 * x)[:, flip]
        mirrored[:, :, 0].neg_()
        offset = (offset + mirrored) / 2
    poses = torch.stack([x, y], 1)[:, None] - offset
    return poses.movedim(3, 1) * (STRIDE / maps.scale), scores


def _centres(maps: Maps) -> Tensor:
    """(B, h, w) the centre map, averaged with the mirrored picture's."""
    centres = maps.heatmaps[:, -1]
    if maps.mirrored is not None:
        centres = (centres + maps.mirrored[0][:, -1].flip(2)) / 2
    return centres


def _read(offsets: Tensor, index: Tensor) -> Tensor:
    """(B, K, 2, M) offsets (B, 2 K, h, w) at cells `index` (B, M)."""
    found = offsets.flatten(2).gather(2, index[:, None].expand(-1, offsets.shape[1], -1))
    return found.unflatten(1, (-1, 2))


def centre_peaks(centres: Tensor, settings: Inference) -> tuple[Tensor, Tensor]:
    """Cells that are the largest around them, at most `max_people` of an image.

    Args:
        centres: (B, h, w); not-a-number and infinity count as nothing.
        settings: windows, number and least score.

    Returns:
        (B, M) int64 cells, row by row, by falling score, then by cell; and (B, M) their scores, 0 for none.
    """
    height, width = centres.shape[1:]
    window = next(window for side, window in settings.windows if (height + width) / 2 > side)
    centres = centres.nan_to_num(nan=0.0, posinf=0.0)
    peak = (centres == highest_around(centres, window)) & (centres > settings.min_score)
    peaks = centres.where(peak, 0).flatten(1)
    scores, index = peaks.topk(min(settings.max_people, peaks.shape[1]))
    index, order = index.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), scores


def _rescaled(scores: Sequence[Tensor], scales: Sequence[float], factor: float) -> Tensor:
    """(B, M) scores of all scales: of others than 1 brought to the highest at scale 1 (1 if there is none)."""
    if all(scale == 1 for scale in scales):
        return torch.cat(list(scores), 1)
    plain = next((one.amax(1, keepdim=True) for one, scale in zip(scores, scales, strict=True) if scale == 1), None)
    reference = torch.ones_like(scores[0][:, :1]) if plain is None else plain.where(plain > 0, 1)
    rescaled = [
        one if scale == 1 else one / one.amax(1, keepdim=True).clamp(min=1e-12) * reference * factor
        for one, scale in zip(scores, scales, strict=True)
    ]
    return torch.cat(rescaled, 1)


def heat_values(maps: Maps, poses: Tensor, flip: Tensor) -> Tensor:
    """The keypoints' heatmaps at the keypoints, as if enlarged bilinearly to the input (cell c at position f c).

    Args:
        maps: of one scale, so f = 4 / scale.
        poses: (B, M, K, 2) positions in the input; read at whole pixels below, within the map.
        flip: (K,) int64.

    Returns:
        (B, M, K); 0 where the map is not a number
    """
    height, width = maps.heatmaps.shape[2:]
    x, y = (poses.floor() / (STRIDE / maps.scale)).transpose(1, 2).unbind(-1)  # (B, K, M)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    # at the last cell, what is beyond it counts nothing: it may as well be the second of the last two
    left, top = x.long().clamp(max=max(width - 2, 0)), y.long().clamp(max=max(height - 2, 0))
    across, below = min(width - 1, 1), min(height - 1, 1) * width
    kinds = torch.arange(len(flip), device=x.device)
    values = _corners(maps.heatmaps, kinds, left, top, across, below)
    if maps.mirrored is not None:
        values = (values + _corners(maps.mirrored[0], flip, width - 1 - left, top, -across, below)) / 2
    left_column, right_column = values.unbind(3)
    upper, lower = torch.lerp(left_column, right_column, (x - left)[..., None]).unbind(-1)
    return torch.lerp(upper, lower, y - top).transpose(1, 2).nan_to_num(nan=0.0)


def whole_heatmaps(maps: Sequence[Maps], flip: Tensor, frame: tuple[int, int]) -> Tensor:
    """(B, K, H, W) what `heat_values` reads, at every position of an input of that height and width."""
    averaged = []
    for one in maps:
        heat = one.heatmaps[:, :-1]
        if one.mirrored is not None:
            heat = (heat + one.mirrored[0].flip(3)[:, flip]) / 2
        averaged.append(enlarged_by(heat, STRIDE / one.scale, frame))
    return torch.stack(averaged).mean(0)


def _corners(maps: Tensor, kinds: Tensor, x: Tensor, y: Tensor, across: int, below: int) -> Tensor:
    """(B, K, M, 2 columns, 2 rows) maps (B, C, h, w) of K kinds at cells (B, K, M) and at places so far from them."""
    height, width = maps.shape[2:]
    first = (kinds[:, None] * height + y) * width + x
    second = first + across
    index = torch.stack([first, first + below, second, second + below], -1)
    return maps.flatten(1).gather(1, index.flatten(1)).view(*x.shape, 2, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Suppression and scoring (section 3.3)
# ---------------------------------------------------------------------------------------------------------------------


def suppress(found: Candidates, settings: Inference) -> tuple[Tensor, Tensor]:
    """Which candidates are people: the best of each cluster of poses that are much the same.

    The published walk: each candidate in turn that no cluster holds yet takes, of its own cluster, the pose with the
    greatest mean heatmap value, unless an earlier cluster holds that one; then all of its cluster is taken. Both depend
    on earlier candidates only by "is held by an earlier cluster", so this is greedy suppression.

    Args:
        found: M candidates per image.
        settings: what is close, and how many people there may be.

    Returns:
        (B, M) int64 rows in the order of the walk; and (B, M) bool, which of them are people. If there are more than
        `max_people`, the greatest mean heatmap values are kept, in falling order.
    """
    close = _clusters(found, settings)
    heat = found.heat.mean(2)
    best = heat[:, None].where(close, -torch.inf).argmax(2)  # (B, M)
    holds_best = close.gather(2, best[:, None].expand_as(close))
    place = torch.arange(best.shape[1], device=best.device)
    earlier = place[:, None] < place
    real = found.scores > 0
    held = (close | holds_best) & earlier & real[:, :, None]
    kept = greedy(held) & real
    if settings.max_people < best.shape[1]:
        best, kept = _capped(best, kept, heat, settings.max_people)
    return best, kept


def _clusters(found: Candidates, settings: Inference) -> Tensor:
    """(B, M, M) bool: whether candidate j is much the same as candidate i; every one is much the same as itself."""
    sides = found.poses.amax(2) - found.poses.amin(2)
    limit = settings.close_distance**2 * sides.square().sum(-1)
    x, y = found.poses.transpose(1, 2).unbind(-1)  # (B, K, M)
    distance = (x[..., None] - x[..., None, :]).square() + (y[..., None] - y[..., None, :]).square()
    count = (distance < limit[:, None, :, None]).sum(1)
    same = (count > settings.close_keypoints) & (found.scores > 0)[:, None]
    return same | torch.eye(same.shape[1], dtype=torch.bool, device=same.device)


def _capped(best: Tensor, kept: Tensor, heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Images with more than `count` people lose those with the least heat."""
    by_heat = heat.gather(1, best).where(kept, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(best.shape[1], device=best.device).expand_as(best)
    many = kept.sum(1, keepdim=True) > count
    order = torch.where(many, by_heat, places)
    return best.gather(1, order), kept.gather(1, order) & (~many | (places < count))


# ---------------------------------------------------------------------------------------------------------------------
# The method
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Weights of the two losses.

    Attributes:
        heatmap: factor.
        keypoint_heatmaps: whether the keypoints' heatmaps are learnt, or only the centres' (ablation of the paper).
        offset: factor.
        beta: cells where the offsets' loss becomes linear.
        focal: quality focal loss for heatmaps instead of the weighted square.
    """

    heatmap: float
    keypoint_heatmaps: bool
    offset: float
    beta: float
    focal: bool


class Dekr(BottomUp):
    """DEKR as a method of the laboratory.

    Args:
        skeleton: the keypoints, or their name.
        net: makes the network from the number of keypoints.
        optimisation: see the base class.
        image_size, normalisation, test_time: see the base class.
        labels: arguments of `Labels`.
        losses: arguments of `Losses`.
        inference: arguments of `Inference`.
        rescoring: arguments of `Rescoring`.

    Raises:
        ValueError: numbers do not fit each other.
    """

    net: DEKRNet
    inference: Inference
    candidates_type = Candidates

    def __init__(
        self,
        skeleton: Skeleton | str,
        net: Callable[..., DEKRNet],
        optimisation: Mapping[str, Any],
        image_size: int | Sequence[int],
        normalisation: Mapping[str, Sequence[float]],
        labels: Mapping[str, Any],
        losses: Mapping[str, Any],
        inference: Mapping[str, Any],
        test_time: Mapping[str, Any],
        rescoring: Mapping[str, Any],
    ) -> None:
        keypoints = as_skeleton(skeleton)
        network = net(num_keypoints=len(keypoints))
        chosen = Rescoring(**rescoring)
        if chosen.wanted and network.rescorer is None:  # a network that is shared has it already
            network.rescorer = chosen.network(keypoints)
        super().__init__(keypoints, network, optimisation, image_size, normalisation, test_time)
        self.rescoring = chosen
        self.labels, self.weights = Labels(**labels), Losses(**losses)
        self.inference = Inference(**inference)
        if self.inference.rescore and network.rescorer is None:
            raise ValueError("inference.rescore needs a rescoring network: set rescoring.learn or rescoring.weights")
        if len(self.scales) > 1:
            self.inference = replace(self.inference, close_distance=self.inference.close_distance_scales)
        if self.rescoring.learn == "alone":
            self.net.requires_grad_(False)
            self._rescorer.requires_grad_(True)

    @property
    def _rescorer(self) -> Rescorer:
        assert self.net.rescorer is not None
        return self.net.rescorer

    @classmethod
    def net_changes(cls, weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
        """Width and depth of the trunk are the checkpoint's."""
        return published.config_changes(weights, net)

    def load_weights(self, weights: Weights) -> str:
        """All of DEKR's, or the trunk of a classifier's."""
        return published.load(self.net, weights)

    def lacking(self, weights: Weights) -> str:
        """A rescoring network, where neither these weights nor `rescoring.weights` have one."""
        if not self.inference.rescore or self.rescoring.weights is not None or published.has_rescorer(weights):
            return ""
        return "no rescoring network, which inference.rescore asks for: set rescoring.weights"

    def train(self, mode: bool = True) -> Self:
        """Where the rescoring network learns alone, all else stays in evaluation, its running statistics too."""
        super().train(mode)
        if mode and self.rescoring.learn == "alone":
            self.net.eval()
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of heatmaps, offsets and rescoring, as far as they are learnt, times their weights."""
        heat, raw_offsets = self.net(self.normalised(batch.images))
        if self.rescoring.learn == "never":
            return self._map_losses(heat, raw_offsets, batch)
        rescoring_loss = self._rescoring_loss(heat.detach(), raw_offsets.detach(), batch)
        rescoring = {"rescoring": self.rescoring.loss * rescoring_loss}
        return rescoring if self.rescoring.learn == "alone" else self._map_losses(heat, raw_offsets, batch) | rescoring

    def _map_losses(self, heat: Tensor, raw_offsets: Tensor, batch: Batch) -> dict[str, Tensor]:
        shape = (len(heat), *heat.shape[2:])
        people = batch.instances
        mask = loss_mask(batch, shape, STRIDE) if self.labels.mask else None
        people = people[~people.ignore | people.labelled.any(1)]
        drawn = joints(people, batch.to_input, self.labels)
        target = heatmaps(drawn, shape, self.labels)
        if not self.weights.keypoint_heatmaps:
            heat, target = heat[:, -1:], target[:, -1:]
        heat_error = (
            focal_loss(heat, target, mask)
            if self.weights.focal
            else heatmap_loss(heat, target, self.labels.background, mask)
        )
        offset_error = offset_loss(raw_offsets, offsets(drawn, shape, self.labels), self.weights.beta)
        return {"heatmap": self.weights.heatmap * heat_error, "offset": self.weights.offset * offset_error}

    def _rescoring_loss(self, heat: Tensor, raw_offsets: Tensor, batch: Batch) -> Tensor:
        """Mean squared difference between what the rescoring network says of the people found and their OKS."""
        found = decode([Maps(1.0, *self._activated(heat, raw_offsets))], self.mirrored, self.inference)
        image_index, keypoints, scores = self._found(found, batch)
        assert self.skeleton.sigmas is not None
        to_original = warps.invert(batch.to_input)
        truth = fits(image_index, keypoints, batch.instances, to_original, self.skeleton.sigmas)
        errors = (self._rescored(keypoints, scores) - truth).square()
        return errors.sum() / max(len(errors), 1)

    def _rescored(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """(P,) the rescoring network's factors for poses (P, K, 2) in original pixels and their scores (P, K)."""
        name, chosen = self.skeleton.name, self.rescoring
        return self._rescorer(pose_features(keypoints, scores, chosen.links[name], chosen.torso[name]))

    def collect(self, look: Look, batch: Batch) -> Candidates:
        """The poses at the highest centres of all passes."""
        maps = [self._maps(look, scale) for scale in self.scales]
        found = decode(maps, self.mirrored, self.inference)
        if self.inference.snap == "never":
            return found
        height, width = batch.images.shape[2:]
        return replace(found, heatmaps=whole_heatmaps(maps, self.mirrored, (height, width)))

    def _maps(self, look: Look, scale: float) -> Maps:
        mirrored = View(scale, flip=True, shift=self.inference.flip_shift)
        seen = [self._activated(*look(view)) for view in (View(scale), *([mirrored] if self.flip else []))]
        return Maps(scale, *seen[0], seen[1] if self.flip else None)

    def _activated(self, heat: Tensor, raw_offsets: Tensor) -> tuple[Tensor, Tensor]:
        heat = heat.float()
        return (heat.sigmoid() if self.inference.logistic else heat), raw_offsets.float()

    def people(self, candidates: Candidates, batch: Batch) -> Predictions:
        """Suppression and scoring: the people found, in pixels of the original images."""
        image_index, keypoints, keypoint_scores = self._found(candidates, batch)
        scores = keypoint_scores.mean(1)
        if self.inference.rescore:
            scores = (scores * self._rescored(keypoints, keypoint_scores)).nan_to_num(nan=0.0)
        return predictions(image_index, keypoints, keypoint_scores, scores)

    def stores(self, wanted: Inference) -> bool:
        """Candidates are the poses that were decoded: suppression is open, and snapping where heatmaps are kept."""
        decoding = ("max_people", "min_score", "windows", "logistic", "flip_shift", "other_scales", "heat_scores")
        heatmaps = self.inference.snap != "never" or wanted.snap == "never"
        return heatmaps and all(getattr(self.inference, name) == getattr(wanted, name) for name in decoding)

    def crowd(self, batch: Batch, people: int) -> Candidates:
        """Drawn candidates, the same in every picture: people (see `bottom_up_scene`) and worse copies of them.

        There are as many as the passes have centres, or one of each person where these are more.
        """
        device, count = batch.images.device, len(batch)
        height, width = batch.images.shape[2:]
        poses = crowd(people, (height, width), len(self.skeleton))
        rows = torch.arange(max(people, self.inference.max_people * len(self.scales)))
        generator = torch.Generator().manual_seed(0)
        moved = 0.005 * height * (rows >= people)[:, None, None]
        copies = poses[rows % people] + moved * torch.randn(len(rows), 1, 2, generator=generator)
        scores = torch.linspace(0.9, 0.3, len(rows))
        heat = torch.rand(copies.shape[:2], generator=generator)
        drawn = [copies, scores, heat]
        if self.inference.snap != "never":
            drawn.append(tagged_maps(poses, (height, width), (1, STRIDE), 1)[0][0])
        return Candidates(*(x.to(device).expand(count, *x.shape) for x in drawn))

    def _found(self, candidates: Candidates, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Images (P,), keypoints (P, K, 2) in original pixels and keypoint scores (P, K) of the people."""
        rows, kept = suppress(candidates, self.inference)
        image_index, place = kept.nonzero(as_tuple=True)
        row = rows[image_index, place]
        scores = candidates.scores[image_index, row, None] * candidates.heat[image_index, row]
        positions = candidates.poses[image_index, row]
        if self.inference.snap != "never" and len(candidates.heatmaps):
            positions = snapped(positions, scores, image_index, candidates.heatmaps, self.inference)
        to_original = warps.invert(batch.to_input).to(positions)[image_index]
        return image_index, warps.apply_to_points(to_original, positions + PIXEL_CENTRE), scores
