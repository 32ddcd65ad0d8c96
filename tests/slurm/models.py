"""KAPAO as tests of several processes need it: without batch statistics, and one that waits within an epoch."""

import os
import time
from pathlib import Path

from torch import nn

from pose_lab.methods.kapao import Kapao
from pose_lab.nets.csp import CSPPose
from pose_lab.runs.checkpoints import Checkpoints

STATELESS = ("method.net._target_=tests.slurm.models.group_normed", "training.epochs=3", "training.limit_batches=1")
WAITS_AT = 7  # the step; an epoch of the tests has five


def group_normed(**arguments) -> CSPPose:
    """The network with group instead of batch normalisation: nothing in it depends on how a batch is shared."""
    net = CSPPose(**arguments)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return net


class Waiting(Kapao):
    """In its first start in a job it waits at a step until a signal asks it to stop, and says so in the run folder."""

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == WAITS_AT and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            (checkpoints,) = [one for one in self.trainer.callbacks if isinstance(one, Checkpoints)]
            Path(self.trainer.default_root_dir, f"waits-{self.global_rank}").touch()
            while "SLURM_JOB_ID" in os.environ and checkpoints.stop is None:
                time.sleep(0.05)
        return super().training_step(batch, batch_idx)
