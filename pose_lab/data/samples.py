"""From annotations and image files to batches: what one loader worker does."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pose_lab.data import augment, images, outlines
from pose_lab.data.annotations import map_pages, referenced, references
from pose_lab.data.augment import Augmentation, Fit, Plan
from pose_lab.data.images import Picture
from pose_lab.data.people import carried, people_of
from pose_lab.poses import Annotations, Batch
from pose_lab.skeletons import Skeleton

_HALF = 127  # of what a pixel within an outline has
_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@dataclass(frozen=True)
class BatchKey:
    """Which samples make a batch; with the seed it decides every random draw.

    Attributes:
        epoch: of the training.
        positions: (B,) int64 places in the epoch's order.
        images: (B,) int64 rows of the split's images.
    """

    epoch: int
    positions: NDArray[np.int64]
    images: NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """How a split is shown.

    Attributes:
        frame: height and width of the network's input.
        pad_value: grey level around pictures.
        seed: of the random changes.
        augmentation: None for evaluation: whole pictures in the middle of the frame.
        epochs: how long the training is, for what changes at its end; None: without an end.
        fit: evaluation only: how the frame follows the pictures' shapes, see `evaluation_plan`.
        stride: of the smaller frames of `fit`.
        outlines: whether batches tell where people stand whom nobody labelled, if the annotations do.
    """

    frame: tuple[int, int]
    pad_value: int
    seed: int = 0
    augmentation: Augmentation | None = None
    epochs: int | None = None
    fit: Fit = "square"
    stride: int = 1
    outlines: bool = False


class _Drawing(NamedTuple):
    """One source of a `Plan`."""

    source: int
    shrink: int
    crop: list[int]
    block: list[int]
    window: list[int]
    warp: NDArray[np.float64] | None


class Samples(Dataset[Batch | images.BadImageError]):
    """Batches of one split by key. A bad image is returned as the error, so that a worker's message arrives unwrapped.

    Args:
        annotations: of the split, memory-mapped ones cost a worker no memory.
        folder: of the images.
        skeleton: for the left/right exchange.
        view: how pictures are shown.
        subset: (S,) rows of the images in use, None for all.
    """

    def __init__(
        self,
        annotations: Annotations,
        folder: Path,
        skeleton: Skeleton,
        view: View,
        subset: NDArray[np.int64] | None = None,
    ) -> None:
        self.annotations, self.folder, self.skeleton, self.view = annotations, folder, skeleton, view
        self.subset = np.arange(len(annotations.image_ids)) if subset is None else subset
        self.sizes = torch.from_numpy(annotations.sizes[self.subset])
        self.starts = annotations.starts
        map_pages(annotations)

    def __len__(self) -> int:
        return len(self.subset)

    def __getstate__(self) -> dict[str, Any]:
        """Workers that are not forked open the memory-mapped arrays themselves."""
        return self.__dict__ | {"annotations": references(self.annotations)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"annotations": referenced(state["annotations"])})

    def __getitem__(self, key: BatchKey) -> Batch | images.BadImageError:
        plan = self.plan(key)
        try:
            pictures = self._drawn(plan)
        except images.BadImageError as error:
            return error
        rows = self.subset[plan.source.numpy()]
        augmentation = self.view.augmentation
        return Batch(
            images=pictures,
            instances=carried(
                people_of(self.annotations, self.starts, rows),
                plan,
                self.skeleton.flip,
                augmentation is not None and augmentation.keep_cut_keypoints,
            ),
            to_input=plan.source_to_frame[plan.bounds[:-1]],
            sizes=self.sizes[torch.from_numpy(key.images)].long(),
            image_ids=torch.from_numpy(self.annotations.image_ids[self.subset[key.images]]),
            unlabelled=self._unlabelled(plan),
        )

    def plan(self, key: BatchKey) -> Plan:
        """What the batch of a key shows."""
        view, wanted = self.view, torch.from_numpy(key.images)
        if view.augmentation is None:
            return augment.evaluation_plan(wanted, self.sizes, view.frame, view.fit, view.stride)
        draws = augment.uniforms(view.seed, key.epoch, key.positions)
        augmentation = view.augmentation.in_epoch(key.epoch, view.epochs)
        return augment.training_plan(wanted, self.sizes, view.frame, augmentation, draws)

    def _drawn(self, plan: Plan) -> Tensor:
        """(B, 3, H, W) uint8, in shared memory if a worker draws them."""
        pictures = _unfilled((len(plan.zoom), 3, *plan.frame))
        frame, mirrored = np.empty((2, *plan.frame, 3), np.uint8)
        for row, (planes, sources) in enumerate(zip(pictures.numpy(), _drawings(plan), strict=True)):
            gains = None if plan.gains is None else plan.gains[row].numpy()
            frame[:] = images.recoloured_grey(self.view.pad_value, gains)
            for source in sources:
                self._draw(frame, source, gains, plan.average)
            cv2.split(cv2.flip(frame, 1, dst=mirrored) if plan.flipped[row] else frame, list(planes))
        return pictures

    def _draw(self, frame: Picture, drawing: _Drawing, gains: NDArray[np.float64] | None, average: bool) -> None:
        """Draw one source; one that the frame does not show is not even read."""
        left, top, right, bottom = drawing.window
        if left < right and top < bottom:
            x0, y0, x1, y1 = drawing.crop
            picture = self._read(drawing.source, drawing.shrink)[y0:y1, x0:x1]
            if drawing.warp is not None:
                picture = picture if gains is None else images.recoloured(picture, gains)
                images.warp(frame, picture, drawing.warp * (drawing.shrink, drawing.shrink, 1))
                return
            images.draw(frame, picture, drawing.block, drawing.window, gains, average)

    def _unlabelled(self, plan: Plan) -> Tensor | None:
        """(B, H, W) bool, drawn as the pictures are; None if it is not asked for or not known."""
        if not self.view.outlines or self.annotations.unlabelled_codes is None:
            return None
        masks = torch.zeros(len(plan.zoom), *plan.frame, dtype=torch.uint8)
        for row, (mask, sources) in enumerate(zip(masks.numpy(), _drawings(plan), strict=True)):
            for source in sources:
                self._draw_outlines(mask, source)
            if plan.flipped[row]:
                mask[:] = mask[:, ::-1].copy()
        return masks > _HALF

    def _draw_outlines(self, mask: Picture, drawing: _Drawing) -> None:
        left, top, right, bottom = drawing.window
        code = self._code(drawing.source)
        if not code or left >= right or top >= bottom:
            return
        height, width = self.sizes[drawing.source].tolist()
        whole = outlines.decoded(code, (height, width))
        if drawing.warp is not None:
            images.warp(mask, whole, drawing.warp)
            return
        x0, y0, x1, y1 = (edge * drawing.shrink for edge in drawing.crop)
        images.draw(mask, whole[y0:y1, x0:x1], drawing.block, drawing.window)

    def _code(self, image: int) -> bytes:
        codes, starts = self.annotations.unlabelled_codes, self.annotations.unlabelled_starts
        assert codes is not None
        assert starts is not None
        row = self.subset[image]
        return bytes(codes[starts[row] : starts[row + 1]])

    def _read(self, image: int, shrink: int) -> Picture:
        name = self.annotations.file_names[self.subset[image]].decode()
        height, width = self.sizes[image].tolist()
        return images.read_picture(self.folder / name, (height, width), shrink)


def _drawings(plan: Plan) -> list[list[_Drawing]]:
    """The sources of each frame of a plan."""
    bounds = plan.bounds.tolist()
    rows = (plan.source, plan.shrink, plan.crop, plan.block, plan.window)
    warps = [None] * len(plan.source) if plan.warp is None else list(plan.warp.numpy())
    sources = [_Drawing(*values) for values in zip(*(row.tolist() for row in rows), warps, strict=True)]
    return [sources[first:end] for first, end in itertools.pairwise(bounds)]


def _unfilled(shape: tuple[int, ...]) -> Tensor:
    """Memory for uint8 values: NumPy's in huge pages, which fills faster; shared memory in a worker."""
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, np.uint8))
    return torch.empty(shape, dtype=torch.uint8).share_memory_()


def prepare_worker(_: Any) -> None:
    """One thread per loader worker: parallelism comes from the workers. Signals to stop are the run's business.

    Slurm and Ctrl-C send them to all processes, and a run whose workers die cannot write its checkpoint.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    threading.Thread(target=_obey_the_run, daemon=True).start()


def _obey_the_run() -> None:
    while signal.sigwaitinfo(_STOP_SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)
