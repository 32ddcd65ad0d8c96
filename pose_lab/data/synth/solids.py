"""Solids that rays meet in closed form: ellipsoids, truncated cones and boxes, many at a time.

In local coordinates p = rotation.T @ (x - origin) an ellipsoid is (p_x/r_x)^2 + (p_y/r_y)^2 + (p_z/r_z)^2 <= 1; a cone
about its y axis is (p_x/r_x)^2 + (p_z/r_z)^2 <= (1 + taper p_y)^2 with |p_y| <= r_y; a box is |p| <= r on each axis.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OBJECT = -2  # owner of what belongs to no person
BACKGROUND = -1
ELLIPSOID, CONE, BOX = range(3)


@dataclass(frozen=True)
class Solids:
    """S solids in millimetres.

    Attributes:
        origin: (S, 3).
        rotation: (S, 3, 3), columns are the local axes.
        radii: (S, 3) half sizes; of a cone the second is half its length.
        taper: (S,) growth of a cone's radius per millimetre, relative to the radius at its origin.
        kind: (S,) `ELLIPSOID`, `CONE` or `BOX`.
        owner: (S,) index of the person, or `OBJECT`.
        material: (S,) row of the materials.
    """

    origin: Floats
    rotation: Floats
    radii: Floats
    taper: Floats
    kind: Ints
    owner: Ints
    material: Ints

    def __len__(self) -> int:
        return len(self.origin)

    def __getitem__(self, rows: NDArray[np.bool_] | Ints) -> Solids:
        return Solids(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def moved(self, rotation: Floats, eye: Floats) -> Solids:
        """The same solids in coordinates `rotation @ (x - eye)`, e.g. a camera's."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["origin"] = (self.origin - eye) @ rotation.T
        values["rotation"] = rotation @ self.rotation
        return Solids(**values)


def join(parts: list[Solids]) -> Solids:
    """All solids of the list in one."""
    return Solids(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Solids)})


def ellipsoids(origin: Floats, rotation: Floats, radii: Floats, owner: Ints, material: Ints) -> Solids:
    """Ellipsoids with the given semi-axes (S, 3) along the columns of `rotation` (S, 3, 3)."""
    count = len(origin)
    return Solids(origin, rotation, radii, np.zeros(count), np.full(count, ELLIPSOID), owner, material)


def boxes(origin: Floats, rotation: Floats, radii: Floats, owner: Ints, material: Ints) -> Solids:
    """Boxes with the given half sizes (S, 3) along the columns of `rotation` (S, 3, 3)."""
    count = len(origin)
    return Solids(origin, rotation, radii, np.zeros(count), np.full(count, BOX), owner, material)


def cones(start: Floats, end: Floats, radius: Floats, end_radius: Floats, owner: Ints, material: Ints) -> Solids:
    """Round truncated cones between two points (S, 3) with the radii (S,) at their ends.

    Args:
        start: (S, 3).
        end: (S, 3).
        radius: (S,) at the start.
        end_radius: (S,) at the end.
        owner: (S,).
        material: (S,).
    """
    length = np.maximum(np.sqrt(((end - start) ** 2).sum(axis=1)), 1e-3)
    middle = (radius + end_radius) / 2
    return Solids(
        origin=(start + end) / 2,
        rotation=along((end - start) / length[:, None]),
        radii=np.stack([middle, length / 2, middle], axis=1),
        taper=(end_radius - radius) / (length * middle),
        kind=np.full(len(start), CONE),
        owner=owner,
        material=material,
    )


def along(direction: Floats) -> Floats:
    """Rotations (S, 3, 3) whose y axis is the unit vector `direction` (S, 3)."""
    flip = np.abs(direction[:, 2]) < 0.9
    a, b, c = direction.T
    zero = np.zeros_like(a)
    x = np.where(flip, [b, -a, zero], [zero, c, -b])  # across the direction and the z or the x axis
    x /= np.sqrt((x * x).sum(axis=0))
    z = np.stack([x[1] * c - x[2] * b, x[2] * a - x[0] * c, x[0] * b - x[1] * a])
    return np.stack([x.T, direction, z.T], axis=2)


def turn(axis: int, degrees: Floats) -> Floats:
    """Rotations (..., 3, 3) about the x, y or z axis (0, 1, 2), right-handed."""
    angle = np.radians(degrees)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    result = np.zeros((*angle.shape, 3, 3))
    result[..., axis, axis] = 1
    result[..., a, a] = result[..., b, b] = np.cos(angle)
    result[..., b, a] = np.sin(angle)
    result[..., a, b] = -result[..., b, a]
    return result
