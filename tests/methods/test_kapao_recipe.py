"""Twenty optimiser steps of a real training, against the formulas of the published recipe written out by hand."""

import copy
import math

import pytest
import torch
from lightning import Trainer
from torch import nn

from pose_lab.runs.train import LABELS, build
from tests.configs import TINY, composed

STEPS, PER_EPOCH, EPOCHS, BATCH = 20, 8, 6, 4
PUBLISHED = {
    "optimiser": "SGD",
    "options": "{momentum: 0.937, nesterov: true, betas: null, fused: null}",
    "lr": "0.01",
    "weight_decay": "5.0e-4",
    "clip": "null",
    "schedule": "{name: cosine, final: 0.2, per: epoch}",
}
RECIPES = {  # warm-up's epochs and least steps, nominal batch, ramp of the average
    "as published": (3, 1000, 64, 2000),
    "shorter ramps that end, and gradients accumulated": (1, 4, 12, 20),
}


def groups(net: nn.Module):
    """(decayed weights, weights of normalisations, biases) by name."""
    norms = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    names = [name for name, _ in net.named_parameters()]
    biases = {name for name in names if name.endswith(".bias")}
    return set(names) - norms - biases, norms, biases


class Published:
    """SGD with Nesterov's momentum, warm-up, accumulation and averaging as the paper's code has them."""

    def __init__(self, net, recipe):
        self.net, (epochs, least, self.nominal, self.slow) = net, recipe
        self.ramp = max(epochs * PER_EPOCH, least)
        self.decayed, _, self.biases = groups(net)
        self.velocity: dict[str, torch.Tensor] = {}
        self.average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        self.updates = 0
        scaled = BATCH * max(round(self.nominal / BATCH), 1) / self.nominal
        self.decay = 5e-4 * scaled

    def share(self, iteration):
        return min(iteration / self.ramp, 1)

    def accumulate(self, iteration):
        return max(round(1 + self.share(iteration) * (self.nominal / BATCH - 1)), 1)

    def rates(self, iteration):
        """Learning rate of weights, of biases, and momentum."""
        epoch, share = iteration // PER_EPOCH, self.share(iteration)
        full = 0.01 * ((1 - math.cos(math.pi * epoch / EPOCHS)) / 2 * (0.2 - 1) + 1)
        return share * full, 0.1 + share * (full - 0.1), 0.8 + share * (0.937 - 0.8)

    @torch.no_grad()
    def step(self, iteration):
        lr, bias_lr, momentum = self.rates(iteration)
        for name, parameter in self.net.named_parameters():
            slope = parameter.grad + (self.decay if name in self.decayed else 0) * parameter
            speed = self.velocity[name] * momentum + slope if name in self.velocity else slope.clone()
            self.velocity[name] = speed
            parameter -= (bias_lr if name in self.biases else lr) * (slope + momentum * speed)
            parameter.grad = None
        self.updates += 1
        keep = 0.9999 * (1 - math.exp(-self.updates / self.slow))
        for name, tensor in self.net.state_dict().items():
            old = self.average[name]
            self.average[name] = keep * old + (1 - keep) * tensor if tensor.is_floating_point() else tensor.clone()


def reference(method, batches, numbers):
    """Weights and averages after `STEPS` updates."""
    recipe, net, accumulate = Published(method.net, numbers), method.net.train(), 1
    for iteration, batch in enumerate(batches):
        in_epoch = iteration % PER_EPOCH
        wanted = recipe.accumulate(iteration)
        if in_epoch % accumulate == 0 == in_epoch % wanted:
            accumulate = wanted
        (sum(method.losses(batch).values()) * len(batch)).backward()
        if (in_epoch + 1) % accumulate == 0 or in_epoch + 1 == PER_EPOCH:
            recipe.step(iteration)
        if recipe.updates == STEPS:
            break
    return net.state_dict(), recipe.average


def train(method, data):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(method, data)


@pytest.fixture
def double():
    """An untrained network under the recipe's rates is chaotic: rounding errors have to start small."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", RECIPES)
def test_twenty_steps_follow_the_published_formulas(case, tmp_path_factory):
    epochs, least, nominal, ramp = RECIPES[case]
    changes = [f"method.optimisation.{key}={value}" for key, value in PUBLISHED.items()]
    changes += [f"method.optimisation.warmup={{epochs: {epochs}, min_steps: {least}, bias_lr: 0.1, momentum: 0.8}}"]
    changes += [f"method.optimisation.ema={{decay: 0.9999, ramp: {ramp}}}"]
    changes += [f"method.optimisation.nominal_batch={nominal}", "method.sum_over_batch=true"]
    # smaller gradients than published keep rounding errors small, too
    changes += [f"method.gains.{name}=0.001" for name in ("box", "objectness", "class", "keypoints")]
    small = [*TINY, f"data.batch_size={BATCH}", f"data.settings.train_images={BATCH * PER_EPOCH}"]
    cfg = composed(*small, *changes, cache=tmp_path_factory.getbasetemp() / "recipe-cache")
    data = build(cfg.data)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    method = build(cfg.method, LABELS).double()
    batches = (batch for loader in [data.train_dataloader()] for _ in range(EPOCHS) for batch in loader)
    start = method.net.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    last, average = reference(copy.deepcopy(method), batches, RECIPES[case])
    train(method, data)
    for name, tensor in method.net.state_dict().items():  # after the training the averages
        torch.testing.assert_close(tensor, average[name], rtol=1e-4, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
    learnt = [name for name, _ in method.net.named_parameters()]
    assert max(float((last[name] - start[name]).abs().max()) for name in learnt) > 1e-3
    apart = max(float((last[name] - average[name]).abs().max()) for name in learnt)
    assert apart > (1e-4 if ramp < STEPS * 2 else 1e-6)
