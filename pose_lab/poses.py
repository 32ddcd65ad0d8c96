"""The vocabulary that all floors share: annotations, instances, batches, predictions.

Ragged data (people per image) is stored flat with an index: row n of an array belongs to image `image_index[n]`.
Coordinates are continuous pixels everywhere: (0, 0) is the outer corner of the first pixel, its centre is (0.5, 0.5).
Boxes are `xyxy`. Visibility is 0 (unlabelled or outside the picture), 1 (labelled but hidden) or 2 (visible).

Shape letters: I images of a data set, B images of a batch, N people, K keypoints, P found people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Annotations:
    """All annotations of one split as flat arrays; may be memory-mapped.

    People are sorted by image, in file order within an image; `image_index` points into the image arrays.

    Attributes:
        image_ids: (I,) int64, the data set's own ids, ascending.
        file_names: (I,) fixed-width bytes (UTF-8), relative to the split's image folder.
        sizes: (I, 2) int32, height and width.
        crowd_index: (I,) float64, CrowdPose's `crowdIndex`; NaN where the data set has none.
        instance_ids: (N,) int64, the data set's own annotation ids.
        image_index: (N,) int64.
        boxes: (N, 4) float64, xyxy, original pixels.
        keypoints: (N, K, 3) float64, so that an error of exactly a threshold stays one; x, y, visibility; pixel-index
            annotations are shifted by 0.5 to pixel centres.
        areas: (N,) float64, square pixels, as the data set's evaluation uses it.
        ignore: (N,) bool, crowd regions.
        num_keypoints: (N,) int32, labelled keypoints that the evaluation counts.
        pixel_shift: what was added to the file's keypoints on reading (0.5 for COCO and CrowdPose); official
            evaluations work in file coordinates, so they subtract it again.
        sequences: (I,) fixed-width bytes, the video of each image; None where images are no videos. Like all that
            follow, None where the data set has no such thing.
        frames: (I,) int64, number of each image in its video.
        track_ids: (N,) int64, who this is within the video; -1 for ignored regions.
        head_boxes: (N, 4) float64, xyxy, original pixels; NaN where unknown.
        joints_3d: (N, K, 3) float32, metres, camera coordinates (x right, y down, z away); NaN where unlabelled.
        region_points: (V, 2) float64, corners of the polygons within which nothing is annotated, polygon after polygon.
        region_index: (V,) int64, ascending: which polygon a corner belongs to.
        region_images: (R,) int64, the image of each polygon.
        unlabelled_codes: (C,) uint8, masks of crowd regions and people without keypoints (`pose_lab/data/outlines.py`),
            one for each image that has any.
        unlabelled_starts: (I + 1,) int64: image i has the bytes starts[i]:starts[i + 1] of them.
    """

    image_ids: NDArray[np.int64]
    file_names: NDArray[np.bytes_]
    sizes: NDArray[np.int32]
    crowd_index: NDArray[np.float64]
    instance_ids: NDArray[np.int64]
    image_index: NDArray[np.int64]
    boxes: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    areas: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    num_keypoints: NDArray[np.int32]
    pixel_shift: float = 0.5
    sequences: NDArray[np.bytes_] | None = None
    frames: NDArray[np.int64] | None = None
    track_ids: NDArray[np.int64] | None = None
    head_boxes: NDArray[np.float64] | None = None
    joints_3d: NDArray[np.float32] | None = None
    region_points: NDArray[np.float64] | None = None
    region_index: NDArray[np.int64] | None = None
    region_images: NDArray[np.int64] | None = None
    unlabelled_codes: NDArray[np.uint8] | None = None
    unlabelled_starts: NDArray[np.int64] | None = None

    @property
    def starts(self) -> NDArray[np.int64]:
        """(I + 1,) first person of each image: people of image i are rows starts[i]:starts[i + 1]."""
        return np.searchsorted(self.image_index, np.arange(len(self.image_ids) + 1))


class _Tensors:
    """Moving a dataclass of tensors (and of such dataclasses) between devices; None stays None."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._with_each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._with_each(lambda value: value.pin_memory())

    def _with_each(self, change: Callable[[Any], Any]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})  # type: ignore[type-var]


@dataclass
class Instances(_Tensors):
    """The annotated people of a batch, in pixels of the network's input.

    Attributes:
        image_index: (N,) int64, ascending: which image of the batch.
        boxes: (N, 4) float32 xyxy; may reach beyond the picture (methods clip as their papers do).
        keypoints: (N, K, 3) float32 x, y, visibility; a keypoint outside the picture has visibility 0 but keeps x, y.
        labelled: (N, K) bool, annotated in the data set, also where it has left the picture.
        areas: (N,) float32, the annotation's area in square pixels of the input.
        zoom: (N,) float32, scale of the random augmentation (1 without); without letterbox scaling.
        ignore: (N,) bool, crowd regions.
        track_ids: (N,) int64 as in `Annotations`; None where the data set has none.
        joints_3d: (N, K, 3) float32 as in `Annotations`, metres in the camera of the original image, mirrored where the
            picture is (no other change of the picture reaches them); None where the data set has none.
    """

    image_index: Tensor
    boxes: Tensor
    keypoints: Tensor
    labelled: Tensor
    areas: Tensor
    zoom: Tensor
    ignore: Tensor
    track_ids: Tensor | None = None
    joints_3d: Tensor | None = None

    @classmethod
    def none(cls, num_keypoints: int) -> Instances:
        """Nobody, with K = `num_keypoints`."""
        number, flag, size = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.bool), torch.empty(0)
        keypoints = torch.empty(0, num_keypoints, 3)
        return cls(number, size.view(0, 4), keypoints, keypoints[..., 0] > 0, size, size, flag)

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, rows: Tensor) -> Instances:
        """The people selected by a mask (N,) or by indices."""
        return self._with_each(lambda values: values[rows])


@dataclass
class Batch(_Tensors):
    """What every DataModule yields.

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        instances: the annotated people.
        to_input: (B, 2, 3) float64, affine map from pixels of the original image to pixels of the input
            (for a mosaic: of its first picture).
        sizes: (B, 2) int64, height and width of the original image.
        image_ids: (B,) int64, the data set's ids.
        unlabelled: (B, H, W) bool, where crowd regions and people without keypoints are; None where their outlines are
            not known, or not asked for.
    """

    images: Tensor
    instances: Instances
    to_input: Tensor
    sizes: Tensor
    image_ids: Tensor
    unlabelled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Predictions(_Tensors):
    """The people found in a batch, in pixels of the original images, by falling score within an image.

    Attributes:
        image_index: (P,) int64, ascending: which image of the batch.
        keypoints: (P, K, 2) float32.
        keypoint_scores: (P, K) float32.
        scores: (P,) float32, what ranks people in the evaluation.
        boxes: (P, 4) float32 xyxy.
    """

    image_index: Tensor
    keypoints: Tensor
    keypoint_scores: Tensor
    scores: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, rows: Tensor) -> Predictions:
        """The people selected by a mask (P,) or by indices."""
        return Predictions(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})
