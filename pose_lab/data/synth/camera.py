"""The perspective camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.synth.solids import turn

Floats = NDArray[np.float64]

_FLIP = np.diag([1.0, -1.0, -1.0])  # from x right, y up, z towards the viewer to x right, y down, z away


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion; camera coordinates are x right, y down, z away, in millimetres.

    Attributes:
        width: of the picture, pixels.
        height: of the picture, pixels.
        focal: pixels.
        rotation: (3, 3) from world to camera coordinates.
        eye: (3,) in the world, y up, ground at y = 0.
    """

    width: int
    height: int
    focal: float
    rotation: Floats
    eye: Floats

    def seen(self, points: Floats) -> Floats:
        """World points (..., 3) in camera coordinates."""
        return (points - self.eye) @ self.rotation.T

    def project(self, points: Floats) -> Floats:
        """Camera points (..., 3) in continuous pixels (..., 2)."""
        centre = np.array([self.width / 2, self.height / 2])
        return points[..., :2] / np.maximum(points[..., 2:], 1.0) * self.focal + centre

    def rays(self) -> tuple[Floats, Floats]:
        """Slopes x / z of the pixel columns (W,) and y / z of the rows (H,), through pixel centres."""
        u: Floats = (np.arange(self.width, dtype=np.float64) + 0.5 - self.width / 2) / self.focal
        v: Floats = (np.arange(self.height, dtype=np.float64) + 0.5 - self.height / 2) / self.focal
        return u, v


def look(pitch: float, roll: float) -> Floats:
    """The rotation (3, 3) of a camera that looks along the world's -z, `pitch` degrees downwards, rolled."""
    return _FLIP @ turn(2, np.array(roll)) @ turn(0, np.array(pitch))
