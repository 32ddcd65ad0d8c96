"""HigherHRNet: keypoints are peaks of fine heatmaps, grouped into people by tags that are alike within a person.

Cheng, Xiao, Wang, Shi, Huang and Zhang, "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose
Estimation", CVPR 2020, arXiv 1908.10357. In the paper's order: targets and losses, heatmap aggregation, grouping by
associative embedding (Newell, Huang and Deng, NIPS 2017, arXiv 1611.05424) and refinement. The network is
`nets/higherhrnet.py`; `methods/grouping.py` makes groups of peaks, `methods/refinement.py` searches what they lack.

Shape letters: B images, N annotated people, K keypoints, M peaks of a kind, T tags of a cell (one, or two with the
mirrored picture), P found people, h x w cells. The heatmaps' strides are 4, 2, ..., the tags' is 4. Found positions are
whole pixels of the input, which cells count from pixel centres, half a pixel less than the project's coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pose_lab.checkpoints import higherhrnet as published
from pose_lab.checkpoints.reading import Weights
from pose_lab.methods.base import Look, as_skeleton
from pose_lab.methods.bottom_up import BottomUp, View, predictions
from pose_lab.methods.bottom_up_scene import crowd, tagged_maps
from pose_lab.methods.grouping import Grouping, grouped
from pose_lab.methods.refinement import Blocks, best_pixels
from pose_lab.nets.higherhrnet import HigherHRNet as Network
from pose_lab.nets.hrnet import STRIDE
from pose_lab.ops import warps
from pose_lab.ops.enlarging import Enlargement, enlarged, first_pixel, read
from pose_lab.ops.heatmaps import PIXEL_CENTRE, gaussians, heatmap_loss, inside, loss_mask, to_cells
from pose_lab.ops.nms import ranks
from pose_lab.ops.order import by_falling_score
from pose_lab.poses import Batch, Instances, Predictions
from pose_lab.skeletons import Skeleton

# ---------------------------------------------------------------------------------------------------------------------
# Targets
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """How people become maps.

    Attributes:
        sigma: of the Gaussians, cells of each resolution.
        mask: whether crowd regions and people without keypoints (their outlines, or boxes where the data have none)
            count nothing in the heatmap loss.
        max_people: whose tags are learnt: the first so many people of an image; None: all. (The published code stops
            with an error where there are more than 30.)
    """

    sigma: float
    mask: bool
    max_people: int | None


def heatmaps(people: Instances, shape: tuple[int, int, int], stride: int, labels: Labels) -> Tensor:
    """(B, K, h, w) the largest Gaussian of each kind at every cell, centred on the keypoints' cells.

    Args:
        people: pixels of the input.
        shape: B, h, w.
        stride: pixels of a cell.
        labels: sigma.
    """
    cells = to_cells(people.keypoints[..., :2], stride).trunc()  # published: towards zero
    return gaussians(people.image_index, cells, people.keypoints[..., 2] > 0, shape, labels.sigma)


@dataclass
class Tagged:
    """The cells whose tags are learnt.

    Attributes:
        image_index: (N,) int64, ascending.
        index: (N, K) int64, places in maps (B, K, h, w), flat.
        listed: (N, K) bool, which of them are there.
    """

    image_index: Tensor
    index: Tensor
    listed: Tensor


def tagged(people: Instances, shape: tuple[int, int, int], labels: Labels) -> Tagged:
    """The labelled keypoints within the map of stride 4.

    Args:
        people: pixels of the input.
        shape: B, h, w.
        labels: the number of people.
    """
    _, height, width = shape
    cells = to_cells(people.keypoints[..., :2], STRIDE).trunc()
    listed = (people.keypoints[..., 2] > 0) & inside(cells, cells.new_tensor((width, height)))
    if labels.max_people is not None:
        listed &= (ranks(people.image_index) < labels.max_people)[:, None]
    x, y = cells.where(listed[..., None], 0).long().unbind(-1)
    kinds = torch.arange(listed.shape[1], device=x.device)
    index = ((people.image_index[:, None] * len(kinds) + kinds) * height + y) * width + x
    return Tagged(people.image_index, index, listed)


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Weights of the losses.

    Attributes:
        heatmaps: of each resolution, coarsest first; one of 0 is neither learnt nor asked (ablation of the paper).
        pull: of a person's tags to their mean.
        push: of people's means from each other.
        push_form: `exp`: Gaussian of their difference; `max`: what it lacks to 1.
    """

    heatmaps: Sequence[float]
    pull: float
    push: float
    push_form: Literal["exp", "max"]

    def __post_init__(self) -> None:
        if self.push_form not in ("exp", "max"):
            raise ValueError(f"losses.push_form is {self.push_form!r}; there are: exp, max")


def tag_losses(tags: Tensor, people: Tagged, form: Literal["exp", "max"]) -> tuple[Tensor, Tensor]:
    """How far a person's tags are from their mean, and how near the means of an image's people are to each other.

    Args:
        tags: (B, K, h, w) of the network.
        people: whose tags.
        form: see `Losses`.

    Returns:
        pull and push, both (B,); images with nobody have 0, with one person a push of 0.
    """
    images = len(tags)
    there = people.listed.any(1)
    image_index, listed = people.image_index[there], people.listed[there]
    values = tags.flatten().float()[people.index[there]]
    counts = listed.sum(1)
    means = (values * listed).sum(1) / counts
    spread = ((values - means[:, None]).square() * listed).sum(1) / counts
    number = torch.bincount(image_index, minlength=images)
    pull = spread.new_zeros(images).index_add(0, image_index, spread) / number.clamp(min=1)

    most = int(number.max()) if len(image_index) else 0
    padded = means.new_zeros(images, most).index_put((image_index, ranks(image_index)), means)
    real = torch.arange(most, device=means.device) < number[:, None]
    difference = padded[:, :, None] - padded[:, None]
    near = (-difference.square()).exp() if form == "exp" else (1 - difference.abs()).clamp(min=0)
    # everybody is near to themselves
    total = (near * (real[:, :, None] & real[:, None])).sum((1, 2)) - number
    push = total / (2 * number * (number - 1)).clamp(min=1)
    return pull, push.where(number > 1, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Heatmap aggregation
# ---------------------------------------------------------------------------------------------------------------------

AGGREGATIONS = ("mean", "coarsest", "finest")


@dataclass
class Maps:
    """What the network gives for a batch at one scale.

    Attributes:
        scale: of the input's sides.
        heatmaps: (B, K, h, w) of each resolution that is asked, coarsest first.
        tags: (B, K, h', w').
        mirrored: both of the mirrored picture, or None.
    """

    scale: float
    heatmaps: list[Tensor]
    tags: Tensor
    mirrored: tuple[list[Tensor], Tensor] | None = None


@dataclass
class Candidates:
    """Aggregated maps of a batch.

    Attributes:
        heatmaps: (B, K, h, w); people are found in them after they are enlarged to the input's size.
        tags: (B, K, T, h', w') of the picture and the mirrored one, to be enlarged to the heatmaps' size.
    """

    heatmaps: Tensor
    tags: Tensor


def aggregate(maps: Sequence[Maps], frame: tuple[int, int], flip: Tensor) -> Candidates:
    """The mean heatmaps of all passes and resolutions, and the tags of scale 1.

    Of one pass they stay as fine as the network's; several are enlarged to the input.

    Args:
        maps: one of them of scale 1.
        frame: height and width of the input.
        flip: (K,) int64, the skeleton's exchange of left and right.
    """
    means = [_mean(one, flip) for one in maps]
    if len(means) > 1:
        # a pass may be padded to whole strides
        sizes = [[round(STRIDE * side / one.scale) for side in one.tags.shape[2:]] for one in maps]
        means = [enlarged(mean, size)[..., : frame[0], : frame[1]] for mean, size in zip(means, sizes, strict=True)]
        means = [torch.stack(means).mean(0)]
    plain = next(one for one in maps if one.scale == 1)
    tags = [plain.tags] if plain.mirrored is None else [plain.tags, _back(plain.mirrored[1], flip)]
    if len(maps) > 1:
        tags = [enlarged(one, plain.heatmaps[-1].shape[2:]) for one in tags]
    return Candidates(means[0], torch.stack(tags, 2))


def _mean(maps: Maps, flip: Tensor) -> Tensor:
    """(B, K, h, w) over resolutions, and over the picture and its mirror image."""
    size = maps.heatmaps[-1].shape[2:]
    mean = torch.stack([enlarged(one, size) for one in maps.heatmaps]).mean(0)
    if maps.mirrored is None:
        return mean
    other = torch.stack([enlarged(one, size) for one in maps.mirrored[0]]).mean(0)
    return (mean + _back(other, flip)) / 2


def _back(maps: Tensor, flip: Tensor) -> Tensor:
    """Maps (B, K, h, w) of a mirrored picture as if of the picture."""
    return maps.flip(3)[:, flip]


# ---------------------------------------------------------------------------------------------------------------------
# Peaks and their tags
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inference(Grouping):
    """The parameters of inference; those of the grouping, see there, are among them.

    Attributes:
        max_peaks: of each kind of keypoint in an image.
        min_score: peaks must score more.
        window: side of the square (pixels of the input) within which a peak is the largest; odd.
        adjust: keypoints move a quarter of a pixel towards the greater neighbour on each axis, and half a pixel on.
        refine: people get the keypoints that they lack where heatmap and tags fit best.
    """

    max_peaks: int
    min_score: float
    window: int
    adjust: bool
    refine: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_peaks < 1:
            raise ValueError(f"inference.max_peaks is {self.max_peaks}, but must be at least 1")
        if not isinstance(self.window, int) or self.window < 1 or self.window % 2 == 0:
            raise ValueError(
                f"inference.window is {self.window}, but a window needs a middle: give an odd whole number"
            )
        if self.min_score < 0:
            raise ValueError(f"inference.min_score is {self.min_score}, but must be at least 0")


TOGETHER = 1 << 15  # squares that are enlarged at once


@dataclass
class Peaks:
    """The highest pixels of each map, by falling score.

    Attributes:
        places: (G, M, 2) int64 x, y.
        scores: (G, M), 0 for none.
    """

    places: Tensor
    scores: Tensor


def peaks(heat: Enlargement, settings: Inference) -> Peaks:
    """Pixels that are the largest around them, at most `max_peaks` of each of G maps; equal ones by rows.

    Args:
        heat: finite.
        settings: window, number and least score.
    """
    squares = (heat.highest > settings.min_score).nonzero()
    found = [_peaks_in_squares(heat, part, settings) for part in squares.split(TOGETHER)]
    which, places, scores = (torch.cat(column) for column in zip(*found, strict=True))
    order = (places[:, 1] * heat.width + places[:, 0]).argsort()
    order = order[by_falling_score(which[order], scores[order])]
    rank = ranks(which[order])
    order, rank = order[rank < settings.max_peaks], rank[rank < settings.max_peaks]
    index = which[order], rank
    shape = len(heat.maps), settings.max_peaks
    return Peaks(
        places=places.new_zeros(*shape, 2).index_put(index, places[order]),
        scores=scores.new_zeros(shape).index_put(index, scores[order]),
    )


def _peaks_in_squares(heat: Enlargement, squares: Tensor, settings: Inference) -> tuple[Tensor, Tensor, Tensor]:
    """The peaks within squares (N, 3) of the maps: their map (n,), place (n, 2) and score (n,)."""
    which, rows, columns = squares.unbind(1)
    factor, reach = heat.factor, settings.window // 2
    around = -(-reach // factor)  # squares that a window may reach into
    pixels = heat.in_squares(which, rows - around, columns - around, 2 * around + 1)
    first, end = around * factor - reach, (around + 1) * factor + reach
    own = highest = pixels[first:end, first:end]
    for dim in (0, 1):
        own = own.narrow(dim, reach, factor)
        highest = reduce(torch.maximum, (highest.narrow(dim, step, factor) for step in range(settings.window)))
    down, across, square = ((own == highest) & (own > settings.min_score)).nonzero(as_tuple=True)
    x, y = first_pixel(columns[square], factor) + across, first_pixel(rows[square], factor) + down
    there = (x >= 0) & (x < heat.width) & (y >= 0) & (y < heat.height)  # beyond the border it stands there again
    return which[square][there], torch.stack([x, y], 1)[there], own[down, across, square][there]


# ---------------------------------------------------------------------------------------------------------------------
# From maps to people
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """People of a batch.

    Attributes:
        image_index: (P,) int64, ascending.
        keypoints: (P, K, 2) pixels of the input, counted from pixel centres; 0 where missing.
        keypoint_scores: (P, K), 0 where missing.
        scores: (P,) mean of the keypoints' scores before refinement.
    """

    image_index: Tensor
    keypoints: Tensor
    keypoint_scores: Tensor
    scores: Tensor


def find(candidates: Candidates, frame: tuple[int, int], order: Sequence[int], settings: Inference) -> Found:
    """Peaks, groups of them, and what they lack.

    Args:
        candidates: of a batch.
        frame: height and width of the input.
        order: in which kinds of keypoints are grouped.
        settings: the parameters.
    """
    maps, tags = _sound(candidates)
    shape, heat, tags = maps.shape[:2], Enlargement(maps.flatten(0, 1), frame[1] // maps.shape[3]), tags.flatten(0, 1)
    seen = peaks(heat, settings)
    which = torch.arange(len(seen.scores), device=maps.device)[:, None].expand_as(seen.scores)
    seen_tags = read(tags, which, seen.places, (maps.shape[3] // tags.shape[3], heat.factor))
    image_index, members = grouped(seen.scores.unflatten(0, shape), seen_tags.unflatten(0, shape), order, settings)
    which = image_index[:, None] * shape[1] + torch.arange(shape[1], device=maps.device)  # (P, K)
    there = members >= 0
    row = which, members.clamp(min=0)
    keypoints, scores = torch.zeros(*there.shape, 2, device=maps.device), seen.scores[row] * there
    places = seen.places[row][there]
    keypoints[there] = quarter_shifts(heat, which[there], places) if settings.adjust else places.to(keypoints)
    found = Found(image_index, keypoints, scores, scores.mean(1))
    if settings.refine and not there.all():
        means = (seen_tags[row] * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        _refine(found, ~there, Blocks(heat, tags), which, means)
    return found


def _refine(found: Found, lacking: Tensor, blocks: Blocks, which: Tensor, means: Tensor) -> None:
    """Gives people (P) of mean tags (P, T) the keypoints that they lack (P, K), from maps `which` (P, K)."""
    which, means = which[lacking], means[lacking.nonzero()[:, 0]]
    places = best_pixels(blocks, which, means)
    values = blocks.heat.at(which, places)
    found.keypoints[lacking] = quarter_shifts(blocks.heat, which, places).where(values[:, None] > 0, 0)
    found.keypoint_scores[lacking] = values.clamp(min=0)


def quarter_shifts(heat: Enlargement, which: Tensor, places: Tensor) -> Tensor:
    """(N, 2) keypoints from pixels: a quarter towards the greater neighbour on each axis, and half a pixel on.

    Args:
        heat: the heatmaps.
        which: (N,) int64, of them.
        places: (N, 2) int64 x, y.
    """
    steps = torch.eye(2, dtype=places.dtype, device=places.device)
    around = torch.stack([places[:, None] - steps, places[:, None] + steps])  # (2, N, 2 axes, 2)
    around = torch.minimum(around.clamp(min=0), places.new_tensor((heat.width - 1, heat.height - 1)))
    before, after = heat.at(which[:, None].expand(around.shape[:-1]), around)
    return places + 0.5 + (after > before).float().mul(0.5).sub(0.25)


def _sound(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Heatmaps and tags, channel after channel; where one of them is not a finite number there is nothing."""
    heat, tags = candidates.heatmaps.contiguous(), candidates.tags.contiguous()
    if not _finite(tags):
        sound = tags.isfinite()
        heat = heat * F.interpolate(sound.all(2).to(heat), heat.shape[2:])
        tags = tags.where(sound, 0)
    return (heat if _finite(heat) else heat.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)), tags


def _finite(maps: Tensor) -> bool:
    """Whether all are finite numbers; several times as fast as looking at each."""
    return bool(torch.stack(maps.aminmax()).isfinite().all())


# ---------------------------------------------------------------------------------------------------------------------
# The method
# ---------------------------------------------------------------------------------------------------------------------


class HigherHRNet(BottomUp):
    """HigherHRNet as a method of the laboratory.

    Args:
        skeleton: the keypoints, or their name.
        net: makes the network from the number of keypoints.
        optimisation, image_size, normalisation: see the base classes.
        labels: arguments of `Labels`.
        losses: arguments of `Losses`.
        inference: arguments of `Inference`.
        test_time: `scales` of the passes over a picture, 1 among them (tags are of it); whether it is also shown
            mirrored (`flip`).
        aggregation: of the resolutions that are learnt: `mean`, or the `coarsest` or `finest` alone (ablation).

    Raises:
        ValueError: numbers do not fit each other.
    """

    net: Network
    inference: Inference
    candidates_type = Candidates
    test_settings = (*BottomUp.test_settings, "aggregation")

    def __init__(
        self,
        skeleton: Skeleton | str,
        net: Callable[..., Network],
        optimisation: Mapping[str, Any],
        image_size: int | Sequence[int],
        normalisation: Mapping[str, Sequence[float]],
        labels: Mapping[str, Any],
        losses: Mapping[str, Any],
        inference: Mapping[str, Any],
        test_time: Mapping[str, Any],
        aggregation: Literal["mean", "coarsest", "finest"],
    ) -> None:
        keypoints = as_skeleton(skeleton)
        network = net(num_keypoints=len(keypoints))
        super().__init__(keypoints, network, optimisation, image_size, normalisation, test_time)
        self.labels, self.weights = Labels(**labels), Losses(**losses)
        self.inference, self.aggregation = Inference(**inference), aggregation
        self.inference.kinds(keypoints)  # refuses an order that does not fit
        if 1 not in self.scales:
            raise ValueError(f"test_time.scales is {list(self.scales)}: 1 must be among them, for the tags")
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"method.aggregation is {aggregation!r}; there are: {', '.join(AGGREGATIONS)}")
        if len(self.weights.heatmaps) != len(network.strides) or not any(self.weights.heatmaps):
            raise ValueError(
                f"losses.heatmaps is {list(self.weights.heatmaps)}: give a weight for each of the network's "
                f"{len(network.strides)} resolutions, one of them not 0"
            )
        if not self.weights.heatmaps[-1]:
            raise ValueError(
                f"losses.heatmaps is {list(self.weights.heatmaps)}: nobody would learn or ask the finest maps: use "
                "fewer net.enlargements instead"
            )

    @classmethod
    def net_changes(cls, weights: Weights, net: Mapping[str, Any]) -> dict[str, Any]:
        """Width and depth are the checkpoint's."""
        return published.config_changes(weights, net)

    def load_weights(self, weights: Weights) -> str:
        """All of HigherHRNet's, or the trunk of a classifier's."""
        return published.load(self.net, weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of each resolution's heatmaps and of the tags, times their weights."""
        heat, tags = self.net(self.normalised(batch.images))
        everybody = batch.instances
        people = everybody[~everybody.ignore | everybody.labelled.any(1)]
        losses: dict[str, Tensor] = {}
        for raw, stride, weight in zip(heat, self.net.strides, self.weights.heatmaps, strict=True):
            if weight:
                shape = (len(raw), *raw.shape[2:])
                target = heatmaps(people, shape, stride, self.labels)
                mask = loss_mask(batch, shape, stride) if self.labels.mask else None
                losses[f"heatmap_{stride}"] = weight * heatmap_loss(raw, target, 1.0, mask)
        listed = tagged(people, (len(tags), *tags.shape[2:]), self.labels)
        pull, push = tag_losses(tags, listed, self.weights.push_form)
        return losses | {"pull": self.weights.pull * pull.mean(), "push": self.weights.push * push.mean()}

    def collect(self, look: Look, batch: Batch) -> Candidates:
        """The aggregated maps of all passes."""
        return aggregate([self._maps(look, scale) for scale in self.scales], _sides(batch.images), self.mirrored)

    def _maps(self, look: Look, scale: float) -> Maps:
        views = (View(scale), *([View(scale, flip=True)] if self.flip else []))
        seen = [self._asked(*look(view)) for view in views]
        return Maps(scale, *seen[0], seen[1] if self.flip else None)

    def _asked(self, heat: Sequence[Tensor], tags: Tensor) -> tuple[list[Tensor], Tensor]:
        learnt = [one.float() for one, weight in zip(heat, self.weights.heatmaps, strict=True) if weight]
        parts = {"mean": learnt, "coarsest": learnt[:1], "finest": learnt[-1:]}
        return parts[self.aggregation], tags.float()

    def people(self, candidates: Candidates, batch: Batch) -> Predictions:
        """Grouping and refinement: the people found, in pixels of the original images."""
        found = find(candidates, _sides(batch.images), self.inference.kinds(self.skeleton), self.inference)
        to_original = warps.invert(batch.to_input).to(found.keypoints)[found.image_index]
        keypoints = warps.apply_to_points(to_original, found.keypoints + PIXEL_CENTRE)
        there = found.keypoint_scores > 0
        keypoints = keypoints.where(there[..., None], 0)
        return predictions(found.image_index, keypoints, found.keypoint_scores, found.scores, there)

    def crowd(self, batch: Batch, people: int) -> Candidates:
        """Drawn candidates, the same in every picture; see `bottom_up_scene`."""
        frame, count = _sides(batch.images), len(batch)
        strides = (self.net.strides[-1] if len(self.scales) == 1 else 1, STRIDE)
        keypoints = crowd(people, frame, len(self.skeleton))
        heat, tags = tagged_maps(keypoints, frame, strides, 1 + self.flip)
        return Candidates(
            heat.to(batch.images.device).expand(count, -1, -1, -1),
            tags.to(batch.images.device).expand(count, -1, -1, -1, -1),
        )


def _sides(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
