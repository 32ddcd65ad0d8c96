"""A module, data and a trainer that fit in no time, for tests of what happens around a training."""

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from pose_lab.poses import Batch, Instances, Predictions
from pose_lab.skeletons import CROWDPOSE


class Tiny(LightningModule):
    """One weight; finds in each picture the true people, with scores that rise from 0.1 to 1."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.skeleton = CROWDPOSE
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.stop_at = stop_at

    def training_step(self, batch, batch_idx):
        if self.stop_at == (self.current_epoch, batch_idx):
            raise RuntimeError("stopped by the test")
        loss = (self.weight * (1 + batch_idx)).square().mean()
        self.log_dict({"train/loss": loss.detach(), "train/box": loss.detach() / 2}, on_step=True, on_epoch=True)
        self.log("train/lr", 0.125)
        return loss

    def validation_step(self, batch, batch_idx):
        people = batch.instances
        back = (people.keypoints[..., :2].double() - batch.to_input[0, :, 2]) / batch.to_input[0, 0, 0]
        return Predictions(
            people.image_index, back.float(), people.labelled.float(), torch.linspace(0.1, 1, len(people)), people.boxes
        )

    def on_validation_epoch_end(self):
        self.log_dict({"val/AP": [0.1, 0.5, 0.3][self.current_epoch % 3], "val/AP50": float("nan")})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.125)


def batch(first_id=100, size=64):
    """Two grey pictures (2, 3, size, size) with two people each, one of them a crowd region in the second."""
    K, generator = len(CROWDPOSE), np.random.default_rng(0)
    keypoints = torch.tensor(generator.uniform(5, size - 5, (4, K, 3)), dtype=torch.float32)
    keypoints[..., 2] = 2
    people = Instances(
        image_index=torch.tensor([0, 0, 1, 1]),
        boxes=torch.tensor([[4.0, 4, size - 4, size - 4]]).repeat(4, 1),
        keypoints=keypoints,
        labelled=torch.ones(4, K, dtype=torch.bool),
        areas=torch.full((4,), 100.0),
        zoom=torch.ones(4),
        ignore=torch.tensor([False, False, False, True]),
    )
    to_input = torch.tensor([[[0.5, 0, 3], [0, 0.5, -2]]], dtype=torch.float64).repeat(2, 1, 1)
    images = torch.full((2, 3, size, size), 90, dtype=torch.uint8)
    return Batch(images, people, to_input, torch.full((2, 2), 2 * size), torch.tensor([first_id, first_id + 1]))


def loader(batches):
    return DataLoader([batch(100 + 2 * n) for n in range(batches)], batch_size=None)


def trainer(folder, callbacks, epochs=3, **settings):
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1, **settings},
    )
