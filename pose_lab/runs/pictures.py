"""Drawing what a method found beside what is there, at the end of a run: into the run folder and into W&B."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import wandb
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from pose_lab.ops.drawing import Image, draw_poses, grid, side_by_side
from pose_lab.poses import Batch, Predictions
from pose_lab.runs.files import write_bytes
from pose_lab.runs.wandb import STEP
from pose_lab.skeletons import Skeleton


@dataclass(frozen=True)
class Drawn:
    """One validation picture: its id, counts of people, and two drawings (H, W, 3) uint8 RGB."""

    image_id: int
    people: int
    found: int
    truth: Image
    prediction: Image


class Pictures(Callback):
    """Draws the first validation pictures with true and found people side by side.

    Done at the last validation of a fit and at every validation outside one. Writes `pictures.jpg` into the run folder,
    and a table `val/pictures` into W&B if a `WandbLogger` is there. The module must hold a `skeleton`, and its
    `validation_step` return `Predictions`.

    Args:
        folder: the run folder.
        count: how many pictures; 0 for none.
        min_score: people found with less are not drawn.
        columns: pictures (pairs) in a row of the sheet.
        side: the longer side of a drawing in pixels.
    """

    def __init__(self, folder: Path, count: int, min_score: float, columns: int = 2, side: int = 448) -> None:
        self.folder = folder
        self.count = count
        self.min_score = min_score
        self.columns = columns
        self.side = side
        self._drawn: list[Drawn] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the pictures of an earlier validation."""
        self._drawn = []

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Predictions,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws until there are enough."""
        missing = self.count - len(self._drawn)
        if missing > 0 and trainer.is_global_zero and _is_last(trainer):
            self._drawn += draw_batch(batch, outputs, pl_module.skeleton, missing, self.min_score, self.side)  # type: ignore[arg-type]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the sheet and the table."""
        if not self._drawn:
            return
        write_sheet(self.folder / "pictures.jpg", self._drawn, self.columns)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.log({"val/pictures": _table(self._drawn), STEP: trainer.global_step})
        self._drawn = []


def draw_batch(
    batch: Batch, predictions: Predictions, skeleton: Skeleton, count: int, min_score: float, side: int
) -> list[Drawn]:
    """Draws the first pictures of a batch, as the network sees them.

    Args:
        batch: the pictures and the true people, in pixels of the input.
        predictions: the people found, in pixels of the original pictures.
        skeleton: names sides and limbs.
        count: at most so many pictures.
        min_score: people found with less are not drawn.
        side: the longer side of a drawing in pixels.
    """
    found = _to_input(predictions, batch.to_input)
    shown = (predictions.scores >= min_score).cpu()
    truth = batch.instances.to("cpu")
    drawings = []
    for n, image in enumerate(batch.images[:count].permute(0, 2, 3, 1).cpu().numpy()):
        zoom = side / max(image.shape[:2])
        true = truth[(truth.image_index == n) & ~truth.ignore]
        rows = (predictions.image_index.cpu() == n) & shown
        left = draw_poses(image, true.keypoints.numpy(), skeleton, true.boxes.numpy(), zoom=zoom)
        scores = predictions.scores.float().cpu()[rows].numpy()
        right = draw_poses(image, found[rows].numpy(), skeleton, scores=scores, zoom=zoom)
        drawings.append(Drawn(int(batch.image_ids[n]), len(true), int(rows.sum()), left, right))
    return drawings


def write_sheet(path: Path, drawn: list[Drawn], columns: int) -> None:
    """Writes pairs of pictures, truth on the left, as one JPEG."""
    sheet = grid([side_by_side(each.truth, each.prediction) for each in drawn], columns)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_bytes(path, np.asarray(encoded).tobytes())


def _to_input(predictions: Predictions, to_input: Tensor) -> Tensor:
    """Keypoints (P, K, 2) in pixels of the input, on the CPU."""
    affine = to_input.cpu()[predictions.image_index.cpu()]
    keypoints = predictions.keypoints.detach().to("cpu", torch.float64)
    return keypoints @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def _table(drawn: list[Drawn]) -> wandb.Table:
    shown = partial(wandb.Image, file_type="jpg")  # PNG, which W&B would choose, takes 17 times as long
    rows = [[d.image_id, d.people, d.found, shown(d.truth), shown(d.prediction)] for d in drawn]
    return wandb.Table(columns=["image_id", "people", "found", "truth", "prediction"], data=rows)


def _is_last(trainer: Trainer) -> bool:
    """Whether no further validation of this fit will come; true outside a fit."""
    if trainer.sanity_checking:
        return False
    if trainer.state.fn != TrainerFn.FITTING:
        return True
    every = trainer.check_val_every_n_epoch or 1
    last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + every >= trainer.max_epochs  # type: ignore[operator]
    last_step = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return last_epoch or last_step or trainer.should_stop
