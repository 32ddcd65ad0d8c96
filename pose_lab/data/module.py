"""The DataModule of every data set: COCO, CrowdPose, ..., and one's own; `pose_lab/data/layouts` read their files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
from numpy.typing import NDArray

from pose_lab.data import annotations as reading
from pose_lab.data import inventory
from pose_lab.data.annotations import BadRecords, ReadingRules
from pose_lab.data.augment import ALONE, FITS, Augmentation, Fit
from pose_lab.data.images import BadImageError
from pose_lab.data.layouts import LAYOUTS
from pose_lab.data.loader import EpochLoader, EpochSampler
from pose_lab.data.samples import Samples, View
from pose_lab.poses import Annotations, Batch
from pose_lab.skeletons import skeleton as skeleton_called

_NAMED = 5  # how many files a message names
_log = logging.getLogger(__name__)

BadImages = Literal["error", "skip"]
POLICIES = ("error", "skip")


@dataclass(frozen=True)
class Split:
    """Where one split lies, and which part of it is used.

    Attributes:
        annotations: file name within one of the module's annotation folders.
        images: folder of the images, relative to the root.
        people_only: leave out pictures without anybody who counts in the evaluation.
        limit: use only the first so many pictures; None for all.
        part: which part of the annotation file, where it holds several splits.
    """

    annotations: str
    images: str
    people_only: bool = False
    limit: int | None = None
    part: str | None = None

    def selection(self, annotations: Annotations) -> NDArray[np.int64]:
        """(S,) ascending rows of the images in use."""
        rows = reading.with_people(annotations) if self.people_only else np.arange(len(annotations.image_ids))
        return rows[: self.limit]


class PoseDataModule(lightning.LightningDataModule):
    """Batches (`poses.Batch`) of a data set.

    Args:
        name: of the data set, in run folders and reports.
        root: folder of the data set; a relative one is taken from the working directory.
        skeleton: name of the keypoint set that is shown.
        annotation_folders: where below the root annotation files are looked for, in this order.
        train: the training split.
        val: the split that is evaluated.
        area_factor: area of a person = this times the area of the box; None takes the annotated area.
        image_size: side of the square network input, or its (height, width).
        batch_size: training pictures per step, over all processes: their number does not change a recipe.
        val_batch_size: evaluation pictures per process.
        augment: random changes of training pictures.
        val_fit: how the evaluation's frame follows the pictures' shapes: "square" (the frame of `image_size`),
            "rectangular" (the smallest that holds a batch of pictures sorted by aspect ratio) "demo" (the smallest
            for each picture; batches of one) or "short" (the shorter side fills the frame's; batches of one).
        val_stride: height and width of those smaller frames are multiples of it.
        drop_last: leave out the last, incomplete training batch.
        pad_value: grey level around pictures.
        bad_records: what happens to annotations that contradict themselves: "error" or "skip".
        bad_images: what happens to images that are missing, cut off or not images: "error" or "skip".
        workers: loader processes.
        seed: of order and random changes.
        cache: folder for annotation indices.
        outlines: training batches tell where crowd regions and people without keypoints are (`Batch.unlabelled`).
        layout: of the annotation files, one of `pose_lab.data.layouts.LAYOUTS`.
        annotated_as: name of the files' keypoint set, None if it is the shown one; else people are mapped to it.
        pixel_shift: added to the files' keypoints to get continuous coordinates.
        box_margin: as `ReadingRules`.
        least_confidence: as `ReadingRules`.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        skeleton: str,
        annotation_folders: list[str],
        train: Split,
        val: Split,
        area_factor: float | None,
        image_size: int | Sequence[int],
        batch_size: int,
        val_batch_size: int,
        augment: Augmentation,
        val_fit: Fit,
        val_stride: int,
        drop_last: bool,
        pad_value: int,
        bad_records: BadRecords,
        bad_images: BadImages,
        workers: int,
        seed: int,
        cache: str | Path,
        outlines: bool = False,
        layout: str = "coco",
        annotated_as: str | None = None,
        pixel_shift: float = 0.5,
        box_margin: float | None = None,
        least_confidence: float | None = None,
    ) -> None:
        super().__init__()
        self.name, self.root, self.cache = name, Path(root), Path(cache).expanduser()
        self.skeleton = skeleton_called(skeleton)
        self.annotation_folders, self.splits = list(annotation_folders), {"train": train, "val": val}
        self.rules = ReadingRules(
            skeleton=skeleton_called(annotated_as or skeleton),
            area_factor=area_factor,
            pixel_shift=pixel_shift,
            bad_records=_one_of("bad_records", bad_records, POLICIES),
            layout=_one_of("layout", layout, tuple(LAYOUTS)),
            box_margin=box_margin,
            least_confidence=least_confidence,
            shown=self.skeleton if annotated_as not in (None, skeleton) else None,
        )
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.frame = (height, width)
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.augment, self.drop_last, self.pad_value = augment, drop_last, pad_value
        self.val_fit, self.val_stride = _one_of("val_fit", val_fit, FITS), val_stride
        self.bad_images = _one_of("bad_images", bad_images, POLICIES)
        self._check_alone("data.val_batch_size", val_batch_size)
        self.workers, self.seed, self.outlines = workers, seed, outlines
        self._indexed: dict[str, Annotations] = {}
        self._rows: dict[str, NDArray[np.int64]] = {}
        self._files: dict[str, str] = {}
        self._selected: dict[str, Annotations] = {}
        self._loaders: list[EpochLoader] = []

    def prepare_data(self) -> None:
        """Index both annotation files (once per machine; a second call only opens the index).

        Raises:
            FileNotFoundError: if root, annotations or image folders are missing; says the layout that is expected.
            ValueError: if an annotation file is damaged.
        """
        self._check_layout()
        for name in self.splits:
            reading.indexed(self.annotation_file(name), self.rules_of(name), self.cache)

    def setup(self, stage: str | None = None) -> None:
        """Open the indices and check that all images are there, and that those of the evaluation can be shown.

        Training pictures are decoded here only with `bad_images` "skip": there may be many.

        Raises:
            FileNotFoundError: as `prepare_data`.
            BadImageError: if images are missing, or the evaluation's not sound, and `bad_images` is "error".
            OSError: if the cache cannot be written.
            ValueError: if no picture is left to train or evaluate on.
        """
        self._check_layout()
        for name in self.splits:
            if name not in self._rows:
                self._open(name)

    def teardown(self, stage: str) -> None:
        """Stop the loaders' worker processes."""
        while self._loaders:
            self._loaders.pop().close()

    @property
    def train_annotations(self) -> Annotations:
        """What is trained on, without the pictures that are left out; after `setup`."""
        return self._used("train")

    @property
    def val_annotations(self) -> Annotations:
        """What is evaluated, without the pictures that are left out; after `setup`."""
        return self._used("val")

    @property
    def pixel_shift(self) -> float:
        """What was added to the annotation files' keypoints on reading; also before `setup`."""
        return self.rules.pixel_shift

    def fingerprint(self) -> str:
        """A digest of the annotations, of the part that is used, and of its image files' names and sizes in bytes.

        It does not depend on where the files lie; also before `setup`, whose errors it raises.
        """
        self.setup()
        parts = [
            reading.fingerprint(self.annotation_file(name), self.rules_of(name), self.cache) for name in self.splits
        ]
        parts += [repr((split.people_only, split.limit)) for split in self.splits.values()]
        parts += [self._files[name] for name in self.splits]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def describe(self) -> str:
        """One line: what is trained and evaluated on. After `setup`."""
        counts = [f"{name} {len(self._rows[name]):,} pictures" for name in self.splits]
        people = f"{len(self.train_annotations.instance_ids):,} people to train on"
        height, width = self.frame
        mapped = f" (annotated as {self.rules.skeleton.name})" if self.rules.shown else ""
        shown = f"skeleton {self.skeleton.name}{mapped}, shown at {width}x{height}"
        return f"{self.name} in {self.root}: {', '.join(counts)}, {people}, {shown}"

    def share(self, processes: int) -> int:
        """Training pictures that each of so many processes shows of a batch.

        Raises:
            ValueError: they cannot be shared evenly.
        """
        if self.batch_size % processes:
            raise ValueError(f"data.batch_size {self.batch_size} cannot be shared evenly by {processes} processes")
        return self.batch_size // processes

    def train_dataloader(self) -> EpochLoader:
        """Augmented pictures in the order of (seed, epoch)."""
        rank, world_size = self._place_among_processes()
        view = View(self.frame, self.pad_value, self.seed, self.augment, self._epochs, outlines=self.outlines)
        count = len(self._rows["train"])
        if len(reading.with_people(self.train_annotations)) == 0:
            raise ValueError(
                f"{self.annotation_file('train')}: none of the {count} training pictures shows a person that counts "
                "(with keypoints, no crowd region), so there is nothing to learn: choose another training set"
            )
        sampler = EpochSampler(count, self.share(world_size), self.seed, True, self.drop_last, rank, world_size)
        if len(sampler) == 0:
            raise ValueError(
                f"{count} training pictures do not fill one batch of {self.batch_size}: "
                "lower `data.batch_size` or set `data.drop_last: false`"
            )
        return self._loader("train", view, sampler, self.workers)

    def val_dataloader(self) -> EpochLoader:
        """Whole pictures, each once over all processes."""
        return self._val_loader(self.val_batch_size, self.workers)

    def val_batches(self, size: int) -> Iterator[Batch]:
        """The same in batches of another size, each loaded by this process when it is asked for: to time it.

        Raises:
            ValueError: each picture has a frame of its own, and the size is not 1.
        """
        self._check_alone("latency.batches", size)
        return iter(self._val_loader(size, workers=0))

    test_dataloader = predict_dataloader = val_dataloader

    def _val_loader(self, size: int, workers: int) -> EpochLoader:
        rank, world_size = self._place_among_processes()
        count = len(self._rows["val"])
        if count < world_size:
            raise ValueError(f"{count} evaluation pictures cannot be shared by {world_size} processes")
        view = View(self.frame, self.pad_value, fit=self.val_fit, stride=self.val_stride)
        order = self._by_aspect() if self.val_fit == "rectangular" else None
        sampler = EpochSampler(count, size, rank=rank, world_size=world_size, order=order)
        return self._loader("val", view, sampler, workers)

    def annotation_file(self, name: str) -> Path:
        """The annotation file of split "train" or "val": in the first annotation folder that has it."""
        file = self.splits[name].annotations
        candidates = [self.root / folder / file for folder in self.annotation_folders]
        return next((path for path in candidates if path.exists()), candidates[0])

    def rules_of(self, name: str) -> ReadingRules:
        """How the annotation file of split "train" or "val" is read."""
        split = self.splits[name]
        return replace(self.rules, part=split.part, images=self.root / split.images)

    def _loader(self, name: str, view: View, sampler: EpochSampler, workers: int) -> EpochLoader:
        folder = self.root / self.splits[name].images
        samples = Samples(self._indexed[name], folder, self.skeleton, view, self._rows[name])
        self._loaders.append(EpochLoader(samples, sampler, workers))
        return self._loaders[-1]

    def _used(self, name: str) -> Annotations:
        if name not in self._selected:
            whole, rows = self._indexed[name], self._rows[name]
            self._selected[name] = whole if len(rows) == len(whole.image_ids) else reading.select(whole, rows)
        return self._selected[name]

    def _by_aspect(self) -> NDArray[np.int64]:
        sizes = self._indexed["val"].sizes[self._rows["val"]]
        return np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")

    def _place_among_processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _check_alone(self, name: str, size: int) -> None:
        if self.val_fit in ALONE and size != 1:
            raise ValueError(f"data.val_fit {self.val_fit} gives each picture a frame of its own: {name} must be 1")

    @property
    def _epochs(self) -> int | None:
        return self.trainer.max_epochs if self.trainer else None

    def _check_layout(self) -> None:
        wanted = {self.annotation_file(name): "file" for name in self.splits}
        wanted |= {self.root / split.images: "folder" for split in self.splits.values()}
        missing = [path for path in wanted if not path.exists()]
        if missing:
            expected = ", ".join(f"{path.relative_to(self.root)} ({kind})" for path, kind in wanted.items())
            lacking = ", ".join(str(path.relative_to(self.root)) for path in missing)
            raise FileNotFoundError(
                f"`data.root` {self.root.resolve()} is not complete. Expected there: {expected}. Missing: {lacking}. "
                f"Found there: {_contents(self.root)}"
            )

    def _open(self, name: str) -> None:
        """Open a split's index and take stock of its image files."""
        self._indexed[name] = reading.load_annotations(self.annotation_file(name), self.rules_of(name), self.cache)
        rows = self.splits[name].selection(self._indexed[name])
        files = [file.decode() for file in self._indexed[name].file_names[rows].tolist()]
        found = inventory.listing(self.root / self.splits[name].images, files)
        bad = self._unusable(name, dict(zip(files, rows.tolist(), strict=True)), found)
        kept = np.array([file not in bad for file in files], np.bool_)
        if not kept.any():
            raise ValueError(f"{self.annotation_file(name)}: no picture is left in the {name} split")
        self._files[name] = inventory.digest((file for file in files if file not in bad), found)
        self._rows[name] = rows[kept]

    def _unusable(self, name: str, rows: dict[str, int], found: dict[str, inventory.State]) -> dict[str, str]:
        """The image files that cannot be shown, and why; raises or reports them, as `bad_images` says."""
        folder = self.root / self.splits[name].images
        bad = {file: "is missing" for file in rows if file not in found}
        if self.bad_images == "skip" or name == "val":
            sizes = dict(zip(rows, map(tuple, self._indexed[name].sizes[list(rows.values())].tolist()), strict=True))
            bad |= inventory.defects(folder, {file: sizes[file] for file in rows if file in found}, found, self.cache)
        if bad:
            named = "; ".join(f"{file} {what}" for file, what in list(bad.items())[:_NAMED])
            more = "; ..." if len(bad) > _NAMED else ""
            message = f"{folder}: {len(bad)} of {len(rows)} images are unusable: {named}{more}"
            if self.bad_images == "error":
                raise BadImageError(f"{message}. Get them whole, or set `data.bad_images: skip` to leave them out")
            _log.warning("%s. They are left out.", message)
        return bad


def _one_of(field: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ValueError(f"data.{field} must be one of {', '.join(choices)}, but it is {value!r}")
    return value


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "nothing"
