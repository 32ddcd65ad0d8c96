import math

import pytest
import torch
from torch import nn

from pose_lab.methods.optimisation import Averaging, Optimisation

KAPAO = {
    "optimiser": "SGD",
    "lr": 0.01,
    "weight_decay": 5e-4,
    "options": {"momentum": 0.937, "nesterov": True},
    "nominal_batch": 64,
    "schedule": {"name": "cosine", "final": 0.2},
    "warmup": {"epochs": 3, "min_steps": 1000, "bias_lr": 0.1, "momentum": 0.8},
    "ema": {"decay": 0.9999, "ramp": 2000},
}


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def positions(optimiser):
    return [(g["role"], g["lr"], g["momentum"]) for g in optimiser.param_groups]


def test_curves_of_the_first_three_epochs_are_the_formulas(net):
    recipe, per_epoch, epochs = Optimisation.from_config(KAPAO), 500, 50
    optimiser = recipe.build(net, batch=64)
    for step in range(3 * per_epoch + 100):
        recipe.set_position(optimiser, step, per_epoch, epochs)
        factor = (1 - math.cos(math.pi * (step // per_epoch) / epochs)) / 2 * (0.2 - 1) + 1
        share = min(step / 1500, 1)
        lr, bias_lr = share * 0.01 * factor, 0.1 + share * (0.01 * factor - 0.1)
        momentum = 0.8 + share * (0.937 - 0.8)
        for role, got_lr, got_momentum in positions(optimiser):
            assert got_lr == pytest.approx(bias_lr if role == "bias" else lr, abs=1e-15)
            assert got_momentum == pytest.approx(momentum, abs=1e-15)


@pytest.mark.parametrize(("batch", "decay"), [(128, 1e-3), (72, 5.625e-4), (48, 3.75e-4)])
def test_weight_decay_scales_with_the_batch_as_published(net, batch, decay):
    groups = Optimisation.from_config(KAPAO).build(net, batch).param_groups
    assert {g["role"]: g["weight_decay"] for g in groups} == {"weight": pytest.approx(decay), "norm": 0.0, "bias": 0.0}


def test_accumulation_ramps_from_one_to_the_nominal_batch():
    recipe = Optimisation.from_config(KAPAO)
    counts = [recipe.accumulate(8, step, 100) for step in range(0, 1200, 50)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert recipe.accumulate(128, 5000, 100) == 1


def test_averaging_decay_ramps_up():
    averaging = Averaging(decay=0.9999, ramp=2000)
    assert averaging.at(1) == pytest.approx(0.9999 * (1 - math.exp(-1 / 2000)))
    assert averaging.at(10**6) == pytest.approx(0.9999)


def test_step_schedule_and_adam():
    recipe = Optimisation.from_config(
        {"optimiser": "AdamW", "lr": 1e-3, "schedule": {"name": "step", "milestones": [90, 120]}}
    )
    optimiser = recipe.build(nn.Linear(2, 2), 8)
    assert isinstance(optimiser, torch.optim.AdamW)
    rates = [recipe.set_position(optimiser, epoch, 1, 140) for epoch in (0, 89, 90, 119, 120)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": "Nope"}, "no class of torch.optim"),
        ({"schedule": {"name": "cos"}}, "constant, cosine, step"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_wrong_keys_and_names_are_refused(net, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Optimisation.from_config({**KAPAO, **change}).build(net, 8)
