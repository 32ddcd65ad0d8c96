"""Poses: joint angles with limits, drawn from families of legs and arms.

Angles are in degrees, zero in the upright stance with hanging arms. Of paired joints the sign means the same on both
sides: `raise` and `spread` lead away from the body, `swing` forwards, `twist` outwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Ranges of motion, a little inside those of clinical tables (e.g. American Academy of Orthopaedic Surgeons).
_TRUNK_LIMITS = {
    "spine_bend": (-20, 75),
    "spine_tilt": (-30, 30),
    "spine_turn": (-40, 40),
    "head_nod": (-35, 40),
    "head_tilt": (-25, 25),
    "head_turn": (-65, 65),
}
_PAIRED_LIMITS = {
    "shoulder_raise": (-10, 165),
    "shoulder_swing": (-45, 170),
    "shoulder_twist": (-80, 90),
    "elbow": (2, 145),
    "hip_swing": (-20, 115),
    "hip_spread": (-12, 50),
    "hip_twist": (-30, 40),
    "knee": (2, 145),
    "ankle": (-40, 25),
}
LIMITS: dict[str, tuple[float, float]] = {
    **_TRUNK_LIMITS,
    **{f"{side}_{name}": limit for name, limit in _PAIRED_LIMITS.items() for side in ("left", "right")},
}
ANGLE: dict[str, int] = {name: index for index, name in enumerate(LIMITS)}
_LOW, _HIGH = np.array(list(LIMITS.values()), dtype=np.float64).T

Spread = tuple[float, float]  # mean and standard deviation, degrees


@dataclass(frozen=True)
class Family:
    """Legs and trunk of a pose family.

    Attributes:
        angles: mean and standard deviation by name; a paired name stands for both sides, drawn apart.
        stride: amplitude of the legs' (and, opposed, the arms') swing, degrees.
        lift: additional knee bend of the leg that swings through, degrees.
        pitch: how the whole body lies: 0 upright; 90 on the belly, -90 on the back, both with a random roll.
        arms: the arm families that go with it.
        seat: whether the person sits on an object.
    """

    angles: dict[str, Spread]
    stride: Spread = (0, 0)
    lift: float = 0
    pitch: tuple[float, ...] = (0,)
    arms: tuple[str, ...] = ("hanging",)
    seat: bool = False


_ARMS: dict[str, dict[str, Spread]] = {
    "hanging": {"shoulder_raise": (10, 6), "shoulder_swing": (2, 14), "shoulder_twist": (-15, 15), "elbow": (22, 16)},
    "swinging": {"shoulder_raise": (9, 5), "shoulder_swing": (0, 5), "shoulder_twist": (-15, 10), "elbow": (28, 12)},
    "pumping": {"shoulder_raise": (12, 5), "shoulder_swing": (-5, 8), "shoulder_twist": (-20, 10), "elbow": (92, 12)},
    "on_hips": {"shoulder_raise": (42, 6), "shoulder_swing": (-18, 6), "shoulder_twist": (-62, 8), "elbow": (98, 8)},
    "folded": {"shoulder_raise": (6, 3), "shoulder_swing": (28, 6), "shoulder_twist": (-62, 6), "elbow": (105, 8)},
    "forward": {"shoulder_raise": (8, 8), "shoulder_swing": (78, 18), "shoulder_twist": (-10, 15), "elbow": (22, 18)},
    "on_lap": {"shoulder_raise": (8, 6), "shoulder_swing": (25, 10), "shoulder_twist": (-22, 12), "elbow": (58, 16)},
    "wide": {"shoulder_raise": (84, 14), "shoulder_swing": (5, 12), "shoulder_twist": (10, 20), "elbow": (20, 18)},
    "up": {"shoulder_raise": (150, 14), "shoulder_swing": (8, 12), "shoulder_twist": (10, 18), "elbow": (28, 22)},
    "bent_up": {"shoulder_raise": (88, 10), "shoulder_swing": (5, 8), "shoulder_twist": (72, 14), "elbow": (95, 18)},
    "waving": {"shoulder_raise": (128, 22), "shoulder_swing": (8, 10), "shoulder_twist": (38, 20), "elbow": (55, 26)},
    "holding": {"shoulder_raise": (8, 5), "shoulder_swing": (34, 12), "shoulder_twist": (-28, 12), "elbow": (108, 18)},
}
_ONE_SIDED = ("waving", "holding", "on_hips", "up")  # the other arm hangs at times
_EASY = ("hanging", "hanging", "on_hips", "folded", "forward", "waving", "holding", "wide", "bent_up")

_TRUNK: dict[str, Spread] = {
    "spine_bend": (4, 7),
    "spine_tilt": (0, 5),
    "spine_turn": (0, 9),
    "head_nod": (4, 11),
    "head_tilt": (0, 6),
    "head_turn": (0, 20),
}
_STAND: dict[str, Spread] = {
    "hip_swing": (2, 6),
    "hip_spread": (6, 5),
    "hip_twist": (8, 9),
    "knee": (6, 6),
    "ankle": (0, 5),
}

FAMILIES: dict[str, Family] = {
    "standing": Family(_STAND, arms=_EASY),
    "walking": Family(
        {**_STAND, "hip_spread": (2, 2), "knee": (8, 4), "spine_bend": (5, 4)},
        stride=(24, 5),
        lift=42,
        arms=("swinging", "swinging", "swinging", "holding"),
    ),
    "running": Family(
        {**_STAND, "hip_swing": (12, 5), "hip_spread": (1, 2), "knee": (20, 6), "spine_bend": (12, 5)},
        stride=(42, 8),
        lift=80,
        arms=("pumping",),
    ),
    "sitting": Family(
        {
            "hip_swing": (84, 7),
            "hip_spread": (10, 7),
            "hip_twist": (2, 6),
            "knee": (84, 14),
            "ankle": (2, 5),
            "spine_bend": (8, 8),
        },
        arms=("on_lap", "on_lap", "holding", "folded", "waving", "forward", "hanging"),
        seat=True,
    ),
    "squatting": Family(
        {
            "hip_swing": (100, 9),
            "hip_spread": (16, 8),
            "hip_twist": (8, 7),
            "knee": (118, 13),
            "ankle": (20, 4),
            "spine_bend": (32, 9),
        },
        arms=("forward", "on_lap", "holding"),
    ),
    "arms_raised": Family({**_STAND, "hip_spread": (11, 7), "knee": (10, 8)}, arms=("up", "up", "bent_up", "waving")),
    "bending": Family(
        {**_STAND, "hip_swing": (34, 12), "knee": (16, 9), "spine_bend": (48, 12)},
        arms=("hanging", "forward", "on_lap"),
    ),
    "lying": Family(
        {
            **_STAND,
            "hip_swing": (14, 14),
            "hip_spread": (9, 6),
            "knee": (22, 20),
            "ankle": (-18, 8),
            "spine_bend": (3, 5),
        },
        pitch=(-90, -90, 90),
        arms=("hanging", "on_lap", "wide", "up", "bent_up"),
    ),
}


@dataclass(frozen=True)
class Poses:
    """P drawn poses.

    Attributes:
        angles: (P, D) degrees within `LIMITS`, columns as in `ANGLE`.
        pitch: (P,) degrees, how the whole body lies.
        roll: (P,) degrees about the body's own axis.
        seat: (P,) bool, sits on an object.
        family: (P,) names.
    """

    angles: Floats
    pitch: Floats
    roll: Floats
    seat: NDArray[np.bool_]
    family: tuple[str, ...]


def draw_poses(rng: Generator, count: int, families: tuple[str, ...]) -> Poses:
    """Draws `count` poses from the named families, each within the joint limits."""
    names = tuple(families[i] for i in rng.integers(len(families), size=count))
    drawn = [_draw_angles(rng, FAMILIES[name]) for name in names]
    pitch = np.array([FAMILIES[name].pitch[rng.integers(len(FAMILIES[name].pitch))] for name in names], float)
    lying = pitch != 0
    return Poses(
        angles=np.clip(np.array(drawn).reshape(count, len(LIMITS)), _LOW, _HIGH),
        pitch=pitch + np.where(lying, 0, rng.normal(0, 2, count)),
        roll=np.where(lying, rng.normal(0, 28, count), rng.normal(0, 2, count)),
        seat=np.array([FAMILIES[name].seat for name in names], bool),
        family=names,
    )


def _draw_angles(rng: Generator, family: Family) -> Floats:
    arms = family.arms[rng.integers(len(family.arms))]
    mean, spread = _moments({**_TRUNK, **family.angles, **_ARMS[arms]})
    if arms in _ONE_SIDED and rng.random() < 0.6:
        side = ("left", "right")[rng.integers(2)]
        _set(mean, spread, _ARMS["hanging"], (side,))
    angles = mean + spread * rng.standard_normal(len(mean))
    if family.stride[0]:
        _stride(rng, angles, family)
    return angles


def _moments(angles: dict[str, Spread]) -> tuple[Floats, Floats]:
    mean, spread = np.zeros(len(LIMITS)), np.zeros(len(LIMITS))
    _set(mean, spread, angles, ("left", "right"))
    return mean, spread


def _set(mean: Floats, spread: Floats, angles: dict[str, Spread], sides: tuple[str, ...]) -> None:
    for name, value in angles.items():
        for column in [name] if name in _TRUNK_LIMITS else [f"{side}_{name}" for side in sides]:
            mean[ANGLE[column]], spread[ANGLE[column]] = value


def _stride(rng: Generator, angles: Floats, family: Family) -> None:
    """Adds one moment of the gait: opposed legs, arms opposed to the legs, the free leg's knee bent."""
    phase, amplitude = rng.uniform(0, 2 * np.pi), rng.normal(*family.stride)
    for side, shift in (("left", 0.0), ("right", np.pi)):
        swing = np.sin(phase + shift)
        forwards = np.cos(phase + shift)  # above zero while the leg moves forwards, off the ground
        angles[ANGLE[f"{side}_hip_swing"]] += amplitude * swing
        angles[ANGLE[f"{side}_knee"]] += family.lift * max(forwards, 0.0) ** 1.5
        angles[ANGLE[f"{side}_shoulder_swing"]] -= 0.9 * amplitude * swing
        angles[ANGLE[f"{side}_ankle"]] -= 18 * max(-swing, 0.0)
    angles[ANGLE["spine_turn"]] += 0.25 * amplitude * np.sin(phase)
