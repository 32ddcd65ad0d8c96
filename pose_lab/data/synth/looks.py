"""Looks: materials (colours and patterns) and what people wear. Nothing worn tells left from right."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLAIN, STRIPES, UPRIGHT, CHECKS, OPEN, PRINT, MOTTLED, FACE, SCALP = range(9)
_SHIRT_PATTERNS = np.array([PLAIN, PLAIN, PLAIN, STRIPES, STRIPES, UPRIGHT, CHECKS, OPEN, OPEN, PRINT, MOTTLED])

SKIN = np.array([[255, 224, 196], [241, 194, 150], [224, 172, 125], [198, 134, 90], [141, 85, 54], [95, 58, 40],
                 [62, 38, 28]], float)  # fmt: skip
HAIR = np.array([[20, 16, 14], [38, 26, 20], [72, 46, 28], [120, 80, 45], [190, 150, 90], [140, 60, 30],
                 [150, 148, 145], [225, 222, 215]], float)  # fmt: skip


@dataclass
class Materials:
    """A growing table of materials.

    Attributes:
        colours: rows of two RGB colours, 0 to 255.
        patterns: how the second colour is laid over the first.
        pitches: repeats of a pattern.
    """

    colours: list[Floats]
    patterns: list[int]
    pitches: list[float]

    @classmethod
    def empty(cls) -> Materials:
        """A table without rows."""
        return cls([], [], [])

    def add(self, colour: Floats, second: Floats | None = None, pattern: int = PLAIN, pitch: float = 1.0) -> int:
        """Adds one and returns its row."""
        self.colours.append(np.stack([colour, colour if second is None else second]))
        self.patterns.append(int(pattern))
        self.pitches.append(float(pitch))
        return len(self.patterns) - 1

    def tables(self) -> tuple[NDArray[np.float32], Ints, NDArray[np.float32]]:
        """Colours (2, 3, M), patterns (M,), repeats (M,)."""
        return (
            np.array(self.colours, np.float32).reshape(-1, 2, 3).transpose(1, 2, 0).copy(),
            np.array(self.patterns, np.int64),
            np.array(self.pitches, np.float32),
        )


def colour(rng: Generator) -> Floats:
    """A random colour, RGB 0 to 255: muted more often than bright, black and white among them."""
    hue, saturation, value = rng.uniform(0, 180), 255 * rng.random() ** 1.6, 25 + 225 * rng.random()
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float64)


def muted(rng: Generator) -> Floats:
    """A random colour of surroundings: mostly greyish."""
    tone, keep = colour(rng), rng.random() ** 1.5
    return tone * keep + tone.mean() * (1 - keep)


def between(rng: Generator, tones: Floats) -> Floats:
    """A random colour between two neighbours of a row of tones (T, 3)."""
    place = rng.uniform(0, len(tones) - 1)
    low = int(place)
    mixed = tones[low] + (place - low) * (tones[low + 1] - tones[low])
    return np.clip(mixed * rng.uniform(0.92, 1.08), 0, 255)


def dress(rng: Generator, materials: Materials, count: int) -> tuple[dict[str, Ints], dict[str, Floats]]:
    """Clothes, skin and hair of P people: rows of the materials by body part, and how the clothes fit."""
    people = [_dress_one(rng, materials) for _ in range(count)]
    worn = {name: np.array([person[0][name] for person in people]) for name in people[0][0]}
    fit = {name: np.array([person[1][name] for person in people]) for name in people[0][1]}
    return worn, fit


def _dress_one(rng: Generator, materials: Materials) -> tuple[dict[str, int], dict[str, float]]:
    tone, hair_tone, cloth = between(rng, SKIN), between(rng, HAIR), colour(rng)
    bald = rng.random() < 0.06
    cap = rng.random() < 0.12
    skin = materials.add(tone)
    hair = materials.add(tone if bald else colour(rng) if cap else hair_tone)
    face = materials.add(tone, tone if bald else hair_tone, FACE, float(rng.random() < 0.12))
    pattern = _SHIRT_PATTERNS[rng.integers(len(_SHIRT_PATTERNS))]
    shirt = materials.add(cloth, colour(rng), pattern, rng.uniform(2, 5))
    sleeves = materials.add(cloth, materials.colours[shirt][1], PLAIN if pattern in (OPEN, PRINT) else pattern, 3)
    legs, shoe = materials.add(cloth if rng.random() < 0.1 else colour(rng)), materials.add(colour(rng))
    arms_bare, legs_bare = rng.random(), rng.random()
    skirt = 0.3 + 0.9 * rng.random() if rng.random() < 0.14 else 0.0
    worn = {
        "skin": skin, "hair": hair, "face": face, "shirt": shirt, "shoe": skin if rng.random() < 0.08 else shoe,
        "sleeve": skin if arms_bare < 0.12 else sleeves, "forearm": skin if arms_bare < 0.55 else sleeves,
        "trousers": legs, "thigh": skin if legs_bare < 0.05 or skirt else legs,
        "shin": skin if legs_bare < 0.35 or skirt else legs,
        "skirt": shirt if rng.random() < 0.5 else legs,
    }  # fmt: skip
    fit = {
        "sleeve": 1.0 if arms_bare < 0.12 else rng.uniform(1.02, 1.18),
        "trouser": 1.0 if legs_bare < 0.05 or skirt else rng.uniform(1.02, 1.2),
        "hair": 0.0 if bald else rng.uniform(0.1, 1.0),
        "skirt": skirt,
    }
    return worn, fit
