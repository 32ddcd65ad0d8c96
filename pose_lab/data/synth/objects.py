"""Things: seats, occluders in front of people, and distractors that resemble bodies or parts of them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pose_lab.data.synth.looks import HAIR, MOTTLED, PLAIN, SKIN, STRIPES, UPRIGHT, Materials, between, colour
from pose_lab.data.synth.solids import OBJECT, Solids, boxes, cones, ellipsoids, turn

Floats = NDArray[np.float64]


class Things:
    """Collects the solids of objects in the world; lengths in millimetres."""

    def __init__(self, rng: Generator, materials: Materials) -> None:
        self.rng, self.materials = rng, materials
        self.parts: list[Solids] = []

    def box(self, centre: Floats, half: list[float], yaw: float, material: int) -> None:
        """A box with the given half sizes, turned about the vertical."""
        self._add(boxes(centre[None], turn(1, np.array([yaw])), np.array([half]), *self._owned(material)))

    def blob(self, centre: Floats, radii: list[float], material: int, frame: Floats | None = None) -> None:
        """An ellipsoid, turned at random unless a frame (3, 3) is given."""
        axes = turn(1, self.rng.uniform(0, 360, 1)) if frame is None else frame[None]
        self._add(ellipsoids(centre[None], axes, np.array([radii]), *self._owned(material)))

    def pole(self, start: Floats, end: Floats, radius: float, end_radius: float, material: int) -> None:
        """A cone between two points."""
        ends = start[None], end[None]
        self._add(cones(*ends, np.array([radius]), np.array([end_radius]), *self._owned(material)))

    def paint(self) -> int:
        """A random material."""
        pattern = (PLAIN, PLAIN, STRIPES, UPRIGHT, MOTTLED)[self.rng.integers(5)]
        return self.materials.add(colour(self.rng), colour(self.rng), pattern, self.rng.uniform(1, 4))

    def skin(self) -> int:
        """Bare skin."""
        return self.materials.add(between(self.rng, SKIN))

    def wood(self) -> int:
        """Bark."""
        bark = between(self.rng, HAIR[2:5])
        return self.materials.add(bark, bark * 0.7, UPRIGHT, 4)

    def leaves(self) -> int:
        """Foliage."""
        green = np.array([self.rng.uniform(20, 120), self.rng.uniform(70, 150), self.rng.uniform(10, 70)])
        return self.materials.add(green, green * 0.6, MOTTLED, self.rng.uniform(2, 6))

    def _owned(self, material: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.array([OBJECT]), np.array([material])

    def _add(self, solids: Solids) -> None:
        self.parts.append(solids)


def above(point: Floats, height: float) -> Floats:
    """The point that lies `height` above another, in the world."""
    return point + np.array([0.0, height, 0.0])


def add_seat(things: Things, pelvis: Floats, yaw: float, stature: float) -> None:
    """A block, stool or chair under a sitting person."""
    rng, material = things.rng, things.paint()
    top = pelvis[1] - 0.066 * stature
    if top < 60:
        return
    back = turn(1, np.array(yaw)) @ np.array([0.0, 0.0, -1.0])
    centre = np.array([pelvis[0], 0.0, pelvis[2]]) + back * 0.04 * stature
    wide, deep = stature * rng.uniform(0.12, 0.3), 0.13 * stature
    if rng.random() < 0.5:
        things.box(above(centre, top / 2), [wide, top / 2, deep], yaw, material)
    else:
        things.box(above(centre, top - 25), [wide, 25, deep], yaw, material)
        things.pole(centre, above(centre, top - 40), 60, 40, material)
    if rng.random() < 0.35:
        rest = 0.16 * stature
        things.box(above(centre + back * (deep + 20), top + rest), [wide, rest, 20], yaw, material)


def add_occluder(things: Things, place: Floats, stature: float) -> None:
    """Something at `place` (3,) on the ground that hides a part of a person of that stature behind it."""
    rng, kind, turned = things.rng, things.rng.integers(5), things.rng.uniform(-40, 40)
    material = things.paint()
    if kind <= 1:
        top = stature * rng.uniform(0.2, 0.5)
        half = [stature * rng.uniform(0.12, 0.5), top / 2, stature * rng.uniform(0.05, 0.15)]
        things.box(above(place, top / 2), half, turned, material)
    elif kind == 2:
        radius = stature * rng.uniform(0.025, 0.07)
        things.pole(place, above(place, 2.2 * stature), radius, radius, material)
    elif kind == 3:
        wide = stature * rng.uniform(0.02, 0.09)
        things.box(above(place, stature), [wide, stature * 1.1, wide], turned, material)
    else:
        leaves = things.leaves()
        for _ in range(4):
            spot = place + stature * np.array([rng.normal(0, 0.12), rng.uniform(0.08, 0.32), rng.normal(0, 0.04)])
            things.blob(spot, (stature * rng.uniform(0.07, 0.16, 3)).tolist(), leaves)


def add_distractor(things: Things, place: Floats) -> None:
    """Something at `place` (3,) on the ground that resembles a body or a part of one."""
    kinds = (_lamp_post, _tree, _post, _trunk, _limb, _barrel, _shelf)
    kinds[things.rng.integers(len(kinds))](things, place)


def _lamp_post(things: Things, place: Floats) -> None:
    height, material = things.rng.uniform(1500, 3500), things.paint()
    things.pole(place, above(place, height), 70, 40, material)
    things.blob(above(place, height + 100), [130, 170, 130], things.paint())


def _tree(things: Things, place: Floats) -> None:
    rng, bark, leaves = things.rng, things.wood(), things.leaves()
    height = rng.uniform(1200, 2600)
    fork = above(place, height)
    things.pole(place, fork, rng.uniform(90, 220), 70, bark)
    for sign in (-1, 1):
        tip = fork + np.array([sign * rng.uniform(250, 600), rng.uniform(200, 700), 0])
        things.pole(above(fork, -250), tip, 60, 35, bark)
        if rng.random() < 0.7:
            things.blob(tip, rng.uniform(250, 600, 3).tolist(), leaves)
    if rng.random() < 0.7:
        things.blob(above(fork, 500), rng.uniform(350, 800, 3).tolist(), leaves)


def _post(things: Things, place: Floats) -> None:
    height, radius, material = things.rng.uniform(600, 2400), things.rng.uniform(40, 160), things.paint()
    things.pole(place, above(place, height), radius, radius, material)
    things.blob(above(place, height), [radius, radius * 0.5, radius], material)


def _trunk(things: Things, place: Floats) -> None:
    """A tailor's dummy: a clothed trunk on a stand, without head and limbs."""
    rng, cloth = things.rng, things.paint()
    height, frame = rng.uniform(900, 1300), turn(1, np.array(rng.uniform(0, 360)))
    centre = above(place, height)
    things.pole(place, centre, 30, 30, things.paint())
    things.blob(above(centre, 200), [155, 190, 105], cloth, frame)
    things.blob(centre, [130, 160, 95], cloth, frame)
    things.blob(above(centre, -120), [155, 120, 110], cloth, frame)
    things.blob(above(centre, 330), [180, 60, 70], cloth, frame)


def _limb(things: Things, place: Floats) -> None:
    """A lone leg or arm that stands on the ground, bare or clothed."""
    rng, skin, cloth = things.rng, things.skin(), things.paint()
    lean = np.array([rng.normal(0, 120), 0, rng.normal(0, 120)])
    knee = above(place, rng.uniform(300, 450)) + lean
    hip = above(knee, rng.uniform(280, 430)) + lean * rng.normal(0, 1)
    thick = rng.uniform(0.5, 1.2)
    things.blob(place + np.array([0, 35, 50]), [45, 35, 130], cloth, np.eye(3))
    things.pole(above(place, 60), knee, 38 * thick, 55 * thick, skin)
    things.blob(knee, [56 * thick] * 3, skin)
    things.pole(knee, hip, 58 * thick, 85 * thick, cloth if rng.random() < 0.6 else skin)
    things.blob(hip, [86 * thick] * 3, cloth)


def _barrel(things: Things, place: Floats) -> None:
    radius, material = things.rng.uniform(120, 350), things.paint()
    things.blob(above(place, radius), [radius, radius * things.rng.uniform(0.8, 1.6), radius], material)


def _shelf(things: Things, place: Floats) -> None:
    rng = things.rng
    height = rng.uniform(300, 1900)
    half = [rng.uniform(120, 600), height / 2, rng.uniform(100, 300)]
    things.box(above(place, height / 2), half, rng.uniform(-60, 60), things.paint())
