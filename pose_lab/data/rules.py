"""How annotation files are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pose_lab.skeletons import Skeleton

BadRecords = Literal["error", "skip"]


@dataclass(frozen=True)
class ReadingRules:
    """How an annotation file is read.

    Attributes:
        skeleton: the keypoints that every record must have.
        area_factor: area = this times box width times height; None takes the record's own `area`.
        pixel_shift: added to the file's keypoints to get continuous coordinates.
        bad_records: "error" stops at records that contradict themselves or the file, "skip" leaves them out.
        layout: of the file, one of `pose_lab.data.layouts.LAYOUTS`.
        part: which part of a file that holds several splits; None for all of it.
        images: folder of the images, for layouts that do not state their sizes.
        sizes: whether images must have sizes; evaluation needs none, so it needs no pictures.
        box_margin: where a file has no box, it is the extent of the labelled keypoints, larger on each side by this
            share of its longer side.
        least_confidence: where a third value of a keypoint is no flag but a confidence, the keypoint counts as visible
            from here on (0: above 0), and as unlabelled below; None allows flags only.
        shown: the skeleton that the annotations are mapped to; None leaves them as they are.
    """

    skeleton: Skeleton
    area_factor: float | None = None
    pixel_shift: float = 0.5
    bad_records: BadRecords = "error"
    layout: str = "coco"
    part: str | None = None
    images: Path | None = None
    sizes: bool = True
    box_margin: float | None = None
    least_confidence: float | None = None
    shown: Skeleton | None = None
