"""Where every pixel of a batch comes from: mosaics, zoom, translation, flip, colours, all drawn reproducibly.

A plan says, for a whole batch, which pictures ("sources") are shown in which frame and by which affine maps. It is made
in a few batched operations from uniform random numbers, and decides both the pixels and the labels; so a source is
drawn straight into its part of the frame, and the double-size canvas of the published mosaic is never built.

Where all maps are scalings, a source is drawn by resizing a crop of whole pixels onto a block of whole pixels, which is
much faster than a general warp. For that the map of each source is adjusted by at most half a pixel at the edges of
what is visible of it; labels follow the adjusted map exactly. A turned source is warped, see `Plan.warp`.

Shape letters: B frames of a batch, S sources of all frames (flat, ascending by frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose_lab.data import letterbox
from pose_lab.data.images import HUE_LIMIT
from pose_lab.ops import warps

Fit = Literal["square", "rectangular", "demo", "short"]
FITS: tuple[Fit, ...] = ("square", "rectangular", "demo", "short")
ALONE: tuple[Fit, ...] = ("demo", "short")  # each picture has a frame of its own

_TILES = 4
_MARGIN = 8  # pixels around what is visible of a source: keeps the rounding of edges from changing its scale
_PLACING = ("mosaic", "other_1", "other_2", "other_3", "centre_y", "centre_x", "zoom", "move_x", "move_y")
_DRAWS = (*_PLACING, "flip", "hue", "saturation", "value", "angle")


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training pictures (KAPAO, arXiv 2111.08557, published hyper-parameters).

    Attributes:
        mosaic: probability of a mosaic of four pictures.
        scale: the zoom is uniform in 1 - scale .. 1 + scale.
        translate: the middle is moved to 0.5 - translate .. 0.5 + translate of the frame.
        flip: probability of a mirror image, with left and right exchanged.
        hue: hue is multiplied by 1 - hue .. 1 + hue.
        saturation: likewise.
        value: likewise.
        keep_cut_keypoints: published KAPAO: keypoints that a mosaic cuts off are moved onto the canvas' border and
            keep their visibility; otherwise they get visibility 0.
        rotate: pictures are turned by -rotate .. rotate degrees about the point that comes to lie in the middle. With
            `reduce` it makes them the bottom-up methods' (HigherHRNet, DEKR): no mosaic, no `scale`.
        reduce: two factors: pictures whose shorter side fills the frame are made smaller by a factor uniform between
            them; None: pictures are fitted whole.
        close_mosaic: the training's last epochs, so many of them, have no mosaics (ours; YOLOX, arXiv 2107.08430).
    """

    mosaic: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    flip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    keep_cut_keypoints: bool = False
    rotate: float = 0.0
    reduce: Sequence[float] | None = None
    close_mosaic: int = 0

    def __post_init__(self) -> None:
        for name in ("mosaic", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.augment.{name} is a probability, but it is {getattr(self, name)}")
        for name, limit in {"scale": 1, "translate": 1, "hue": HUE_LIMIT, "saturation": 1, "value": 1}.items():
            if not 0 <= (value := getattr(self, name)) < limit:
                raise ValueError(f"data.augment.{name} must be at least 0 and below {limit}, but it is {value}")
        if not isinstance(self.close_mosaic, int) or self.close_mosaic < 0:
            raise ValueError(f"data.augment.close_mosaic is a number of epochs, but it is {self.close_mosaic}")
        self._check_turning()

    def in_epoch(self, epoch: int, epochs: int | None) -> Augmentation:
        """The changes of one epoch, counted from 0, of a training of so many; None or below 0: without an end."""
        closed = epochs is not None and 0 <= epochs <= epoch + self.close_mosaic
        return replace(self, mosaic=0.0) if closed else self

    @property
    def turns(self) -> bool:
        """Whether pictures are warped by general maps."""
        return self.reduce is not None

    def _check_turning(self) -> None:
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"data.augment.rotate must be 0 to 180 degrees, but it is {self.rotate}")
        if self.reduce is None:
            if self.rotate:
                raise ValueError("data.augment.rotate needs data.augment.reduce, for example [1, 1]")
            return
        if len(self.reduce) != 2 or not 0 < self.reduce[0] <= self.reduce[1]:
            raise ValueError(f"data.augment.reduce must be two rising factors above 0, but it is {self.reduce}")
        if self.mosaic or self.scale:
            raise ValueError("data.augment.reduce goes with neither data.augment.mosaic nor data.augment.scale: set 0")


@dataclass(frozen=True)
class Plan:
    """What a batch shows.

    The frame is drawn from `crop`, `block` and `window` and then mirrored where `flipped`; `to_frame` holds all of it.

    Attributes:
        frame: height and width of the pictures.
        frame_index: (S,) int64, ascending: which picture of the batch shows the source.
        source: (S,) int64, the data set's image.
        place: (S, 2, 3) float64, from the source's pixels to the canvas.
        visible: (S, 4) float64 xyxy, the part of the canvas that shows the source.
        to_frame: (S, 2, 3) float64, from the canvas to the frame.
        shrink: (S,) int64, how many times smaller the source is decoded.
        crop: (S, 4) int64 xyxy, the needed pixels of the decoded source.
        block: (S, 4) int64 xyxy, where they would come to lie in the frame and beyond.
        window: (S, 4) int64 xyxy, the part of the frame that shows them; of no width or height if none does.
        zoom: (B,) float64.
        flipped: (B,) bool.
        gains: (B, 3) float64 factors of hue, saturation and value; None without change of colours.
        average: whether shrinking takes area means (evaluation).
        warp: (S, 2, 3) float64, None where sources are resized: from the sources' pixels to the frame before it is
            mirrored; `block` and `window` are then the whole frame.
    """

    frame: tuple[int, int]
    frame_index: Tensor
    source: Tensor
    place: Tensor
    visible: Tensor
    to_frame: Tensor
    shrink: Tensor
    crop: Tensor
    block: Tensor
    window: Tensor
    zoom: Tensor
    flipped: Tensor
    gains: Tensor | None
    average: bool
    warp: Tensor | None = None

    @property
    def source_to_frame(self) -> Tensor:
        """(S, 2, 3) float64 maps from the sources' pixels to the frame."""
        return warps.compose(self.to_frame, self.place)

    @property
    def bounds(self) -> Tensor:
        """(B + 1,) int64: the sources of frame b are rows bounds[b]:bounds[b + 1]."""
        return torch.searchsorted(self.frame_index, torch.arange(len(self.zoom) + 1))


def uniforms(seed: int, epoch: int, positions: NDArray[np.int64]) -> dict[str, Tensor]:
    """The random numbers of a batch: each is a function of seed, epoch and the sample's position in the epoch alone.

    Returns:
        name -> (B,) float64 uniform in [0, 1)
    """
    rows = [np.random.default_rng((1, seed, epoch, position)).random(len(_DRAWS)) for position in positions.tolist()]
    return dict(zip(_DRAWS, torch.from_numpy(np.stack(rows, 1)), strict=True))


def training_plan(
    images: Tensor, sizes: Tensor, frame: tuple[int, int], augmentation: Augmentation, draws: dict[str, Tensor]
) -> Plan:
    """The plan of a training batch.

    Args:
        images: (B,) int64, the images that the batch is about.
        sizes: (I, 2) height and width of all images that a mosaic may draw from.
        frame: height and width of the network's input.
        augmentation: how much is changed.
        draws: what `uniforms` gives.
    """
    if augmentation.turns:
        return _turned_plan(images, sizes, frame, augmentation, draws)
    mosaic = draws["mosaic"] < augmentation.mosaic
    source = _sources(images, len(sizes), draws)
    canvas = _canvas(frame, mosaic)
    place, visible = _placed(sizes[source].long(), frame, canvas, mosaic, draws)
    zoom = 1 + augmentation.scale * _signed(draws["zoom"])
    flipped = draws["flip"] < augmentation.flip
    zooming = zoom_map(canvas.flip(-1) / 2, zoom, _moved(frame, augmentation.translate, draws))

    frame_index, tile = (torch.arange(_TILES) < torch.where(mosaic, _TILES, 1)[:, None]).nonzero(as_tuple=True)
    source, place, visible = (values[frame_index, tile] for values in (source, place, visible))
    drawing = _drawing(sizes[source].long(), place, visible, zooming[frame_index], frame)
    return Plan(
        frame=frame,
        frame_index=frame_index,
        source=source,
        place=place,
        visible=visible,
        to_frame=_mirrored(drawing.pop("to_frame"), flipped[frame_index], frame),
        **drawing,
        zoom=zoom,
        flipped=flipped,
        gains=_gains(augmentation, draws),
        average=False,
    )


def evaluation_plan(images: Tensor, sizes: Tensor, frame: tuple[int, int], fit: Fit, stride: int) -> Plan:
    """The plan of an evaluation batch: every picture whole, in the middle of the frame.

    Args:
        images: (B,) int64; one alone for `demo` and `short`.
        sizes: (I, 2) height and width of all images.
        frame: height and width that pictures are scaled to fit.
        fit: `square`: that frame; `rectangular`: the smallest frame of whole strides that holds the batch (published
            evaluation of KAPAO); `demo`: that frame without the whole strides of its padding (published demo);
            `short`: the shorter side fills the frame's, the longer one goes on in whole strides (published evaluation
            of the bottom-up methods).
        stride: of the smaller frames.
    """
    originals = sizes[images].long()
    if fit == "short":
        return _short_plan(images, originals, frame, stride)
    if fit == "demo":
        frame, place, visible = _demo(originals, frame, stride)
    else:
        frame = frame if fit == "square" else letterbox.shared_frame(originals, max(frame), stride)
        place, visible = _centred(originals, frame)
    count = len(images)
    return Plan(
        frame=frame,
        frame_index=torch.arange(count),
        source=images,
        place=place,
        visible=visible,
        to_frame=torch.eye(2, 3, dtype=torch.float64).expand(count, 2, 3),
        shrink=torch.ones(count, dtype=torch.int64),
        crop=torch.cat([torch.zeros_like(originals), originals.flip(-1)], 1),
        block=visible.long(),
        window=visible.long(),
        zoom=torch.ones(count, dtype=torch.float64),
        flipped=torch.zeros(count, dtype=torch.bool),
        gains=None,
        average=fit != "demo",
    )


def _turned_plan(
    images: Tensor, sizes: Tensor, frame: tuple[int, int], augmentation: Augmentation, draws: dict[str, Tensor]
) -> Plan:
    """Whole pictures: turned, made smaller, moved, mirrored."""
    assert augmentation.reduce is not None
    originals = sizes[images].long()
    low, high = augmentation.reduce
    reduced = low + (high - low) * draws["zoom"]
    zoom = min(frame) / originals.amin(1) / reduced
    angle = torch.deg2rad(augmentation.rotate * _signed(draws["angle"]))
    turning = warps.rotation(angle)
    middle = torch.tensor(frame[::-1]) / 2.0
    moved = _moved(frame, augmentation.translate, draws) - middle - zoom[:, None] * originals.flip(-1) / 2
    warp = torch.cat([turning * zoom[:, None, None], middle[:, None] + turning @ moved[..., None]], -1)
    flipped = draws["flip"] < augmentation.flip
    return _warped(images, originals, frame, warp, flipped, 1 / reduced, _gains(augmentation, draws))


def _short_plan(images: Tensor, originals: Tensor, frame: tuple[int, int], stride: int) -> Plan:
    """The plan of one picture: in the middle of a frame whose shorter side it fills."""
    (height, width), warp = letterbox.short_side(originals, min(frame), stride)
    none = torch.zeros(len(images), dtype=torch.bool)
    return _warped(images, originals, (height, width), warp, none, torch.ones(len(images), dtype=torch.float64), None)


def _warped(
    images: Tensor,
    originals: Tensor,
    frame: tuple[int, int],
    warp: Tensor,
    flipped: Tensor,
    zoom: Tensor,
    gains: Tensor | None,
) -> Plan:
    """The plan of one warped source per frame: maps (B, 2, 3), heights and widths (B, 2)."""
    count = len(images)
    whole = torch.tensor([0, 0, frame[1], frame[0]]).expand(count, 4)
    shrink = _shrink(warps.area_scale(warp).sqrt())
    return Plan(
        frame=frame,
        frame_index=torch.arange(count),
        source=images,
        place=torch.eye(2, 3, dtype=torch.float64).expand(count, 2, 3),
        visible=torch.cat([torch.zeros_like(originals), originals.flip(-1)], 1).double(),
        to_frame=_mirrored(warp, flipped, frame),
        shrink=shrink,
        crop=torch.cat([torch.zeros_like(originals), -(-originals.flip(-1) // shrink[:, None])], 1),
        block=whole,
        window=whole,
        zoom=zoom,
        flipped=flipped,
        gains=gains,
        average=False,
        warp=warp,
    )


def _signed(uniform: Tensor) -> Tensor:
    return 2 * uniform - 1


def _sources(images: Tensor, count: int, draws: dict[str, Tensor]) -> Tensor:
    """(B, 4) the image itself and three drawn ones."""
    others = torch.stack([draws[f"other_{n}"] for n in range(1, _TILES)], 1) * count
    return torch.cat([images[:, None], others.long()], 1)


def _canvas(frame: tuple[int, int], mosaic: Tensor) -> Tensor:
    """(B, 2) height and width: twice the frame for a mosaic."""
    return torch.tensor(frame) * (1 + mosaic.long())[:, None]


def _placed(
    sizes: Tensor, frame: tuple[int, int], canvas: Tensor, mosaic: Tensor, draws: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Maps (B, 4, 2, 3) from sources to the canvas, and the parts (B, 4, 4) of it that show them.

    Where there is no mosaic, only the first of the four means anything.
    """
    scaled = letterbox.fitted(sizes.flatten(0, 1), frame).view_as(sizes)
    centred = letterbox.letterboxed(scaled[:, 0], torch.tensor(frame), enlarge=True)[1]
    centre = mosaic_centre(frame, draws)
    corner = torch.where(mosaic[:, None, None], mosaic_corners(scaled, centre), centred[:, None])
    place = letterbox.placing(sizes, scaled, corner)
    limits = canvas.flip(-1).repeat(1, 2)[:, None]
    visible = torch.cat([corner.flip(-1), (corner + scaled).flip(-1)], -1)
    return place, visible.clamp(min=0).minimum(limits).double()


def mosaic_centre(frame: tuple[int, int], draws: dict[str, Tensor]) -> Tensor:
    """(B, 2) int64 y, x where four pictures touch: whole pixels from half to one and a half times the frame."""
    uniform = torch.stack([draws["centre_y"], draws["centre_x"]], 1)
    return ((0.5 + uniform) * torch.tensor(frame)).long()


def mosaic_corners(scaled: Tensor, centre: Tensor) -> Tensor:
    """Upper left corners of four pictures that touch one point: above left, above right, below left, below right.

    Args:
        scaled: (B, 4, 2) int64 heights and widths.
        centre: (B, 2) int64 y, x.

    Returns:
        (B, 4, 2) int64 y, x
    """
    before = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])
    return centre[:, None] - before * scaled


def _centred(sizes: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    scaled = letterbox.fitted(sizes, frame)
    corner = letterbox.letterboxed(scaled, torch.tensor(frame), enlarge=False)[1]
    return _put(sizes, scaled, corner)


def _demo(sizes: Tensor, frame: tuple[int, int], stride: int) -> tuple[tuple[int, int], Tensor, Tensor]:
    """The frame of one picture, and the picture's map and place in it."""
    whole = torch.tensor(frame)
    scaled, _ = letterbox.letterboxed(sizes, whole, enlarge=True)
    smaller = letterbox.smallest_frame(sizes, whole, stride, enlarge=True)
    height, width = smaller[0].tolist()
    return (height, width), *_put(sizes, scaled, letterbox.centred(scaled, smaller))


def _put(sizes: Tensor, scaled: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, 3) the maps of resized pictures put at a corner, and (B, 4) where they lie."""
    visible = torch.cat([corner.flip(-1), (corner + scaled).flip(-1)], -1)
    return letterbox.placing(sizes, scaled, corner), visible.double()


def _moved(frame: tuple[int, int], translate: float, draws: dict[str, Tensor]) -> Tensor:
    """(B, 2) x, y of the frame where the middle of the canvas comes to lie."""
    size = torch.tensor(frame[::-1], dtype=torch.float64)
    return (0.5 + translate * _signed(torch.stack([draws["move_x"], draws["move_y"]], 1))) * size


def _gains(augmentation: Augmentation, draws: dict[str, Tensor]) -> Tensor | None:
    spans = torch.tensor([augmentation.hue, augmentation.saturation, augmentation.value], dtype=torch.float64)
    uniform = torch.stack([draws[name] for name in ("hue", "saturation", "value")], 1)
    return 1 + spans * _signed(uniform) if spans.any() else None


def _mirrored(to_frame: Tensor, flipped: Tensor, frame: tuple[int, int]) -> Tensor:
    """(S, 2, 3) maps, followed by x -> width - x where `flipped` (S,)."""
    factors = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    mirror = warps.scaling(factors, torch.tensor([float(frame[1]), 0.0], dtype=torch.float64))
    return torch.where(flipped[:, None, None], warps.compose(mirror, to_frame), to_frame)


def zoom_map(middle: Tensor, zoom: Tensor, moved: Tensor) -> Tensor:
    """(B, 2, 3) maps p -> zoom (p - middle) + moved, with (B, 2) points and (B,) zoom."""
    return warps.scaling(zoom[:, None].expand_as(moved), moved - zoom[:, None] * middle)


def _drawing(
    sizes: Tensor, place: Tensor, visible: Tensor, to_frame: Tensor, frame: tuple[int, int]
) -> dict[str, Tensor]:
    """How to draw sources by resizing whole pixels onto whole pixels; all maps are scalings.

    Returns:
        the fields shrink, crop, block, window and the adjusted `to_frame` of `Plan`.
    """
    whole = warps.compose(to_frame, place)
    scale, offset = whole.diagonal(dim1=1, dim2=2)[:, None], whole[:, None, :, 2]  # (S, 1, 2) x, y
    shrink = _shrink(scale.amax((1, 2)))[:, None, None]
    window = _nearest(warps.apply_to_boxes(to_frame, visible)).unflatten(-1, (2, 2)).clamp(min=0)
    window = window.minimum(torch.tensor(frame[::-1]))
    needed = (window - offset) / (scale * shrink)  # (S, 2, 2): first and last corner, in decoded pixels
    margin = torch.tensor([[-_MARGIN], [_MARGIN]])
    crop = torch.stack([needed[:, 0].floor(), needed[:, 1].ceil()], 1) + margin
    crop = crop.clamp(min=0).minimum((sizes.flip(-1)[:, None] / shrink).ceil())
    block = _nearest(scale * shrink * crop + offset)

    shown = (window[:, 1] > window[:, 0]).all(-1)
    actual = (block[:, 1] - block[:, 0]) / ((crop[:, 1] - crop[:, 0]) * shrink[:, 0])
    adjusted = warps.scaling(actual, block[:, 0] - actual * shrink[:, 0] * crop[:, 0])
    adjusted = warps.compose(adjusted, warps.invert(place))
    rows = {"crop": crop.flatten(1).long(), "block": block.flatten(1).long(), "window": window.flatten(1).long()}
    return rows | {"shrink": shrink.flatten(), "to_frame": torch.where(shown[:, None, None], adjusted, to_frame)}


def _nearest(edges: Tensor) -> Tensor:
    """Edges of pixels: those whose pixels' centres lie between the given edges."""
    return (edges - 0.5).ceil()


def _shrink(scale: Tensor) -> Tensor:
    """(S,) int64: how many times smaller (1, 2, 4, 8) a JPEG may be decoded to be drawn at `scale` without loss."""
    return 1 + (scale <= 1 / 2).long() + 2 * (scale <= 1 / 4).long() + 4 * (scale <= 1 / 8).long()
