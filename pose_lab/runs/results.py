"""`predictions.json`: the people that a run found, in COCO's results format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from pose_lab.poses import Batch, Predictions
from pose_lab.runs.files import write_text

CATEGORY = 1  # COCO's category of people


class PredictionsFile(Callback):
    """Collects what the evaluation finds and writes it when the evaluation ends.

    Keypoints are in the coordinates of the annotation file (pixel indices for COCO), boxes are x, y, width, height.
    """

    def __init__(self, path: Path, digits: int = 2) -> None:
        self.path = path
        self.digits = digits
        self._rows: list[dict[str, Any]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the predictions of a batch."""
        if trainer.state.fn is not TrainerFn.VALIDATING:
            return
        shift = trainer.datamodule.pixel_shift  # type: ignore[attr-defined]
        self._rows += coco_results(outputs.to("cpu"), batch.image_ids.cpu(), shift, self.digits)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes all pictures of all processes, each once."""
        if trainer.state.fn is not TrainerFn.VALIDATING:
            return
        rows = self._rows
        if trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if trainer.is_global_zero:
            write_text(self.path, "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
        self._rows = []


def coco_results(predictions: Predictions, image_ids: torch.Tensor, shift: float, digits: int) -> list[dict[str, Any]]:
    """One record per found person.

    Args:
        predictions: of a batch, on the CPU.
        image_ids: (B,) int64.
        shift: subtracted from keypoints to come back to the annotation file's coordinates.
        digits: decimals of coordinates.
    """
    points = (predictions.keypoints - shift).double().round(decimals=digits)
    triples = torch.cat([points, predictions.keypoint_scores.double().round(decimals=4)[..., None]], dim=-1)
    x1y1, x2y2 = predictions.boxes.double().split(2, dim=-1)
    boxes = torch.cat([x1y1, x2y2 - x1y1], dim=-1)
    columns = (
        image_ids[predictions.image_index].tolist(),
        triples.flatten(1).tolist(),
        boxes.round(decimals=digits).tolist(),
        predictions.scores.tolist(),
    )
    return [
        {"image_id": image, "category_id": CATEGORY, "keypoints": keypoints, "score": score, "bbox": box}
        for image, keypoints, box, score in zip(*columns, strict=True)
    ]
