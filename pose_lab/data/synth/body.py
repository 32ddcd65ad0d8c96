"""Bodies: shapes, forward kinematics and the solids that bodies consist of.

Body coordinates: x to the person's left, y up, z forwards; origin midway between the hip joints. Lengths are fractions
of the stature after Drillis and Contini (1966), as tabulated in Winter, Biomechanics and Motor Control of Human
Movement, section 4.1; results are in millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pose_lab.data.synth.posing import ANGLE, Poses
from pose_lab.data.synth.solids import Solids, cones, ellipsoids, join, turn

Floats = NDArray[np.float64]

HIP, THIGH, SHIN, SOLE = 0.052, 0.245, 0.246, 0.039
SHOULDER, UPPER_ARM, FOREARM, HAND = 0.112, 0.176, 0.146, 0.052
WAIST, BACK, CHEST, NECK, HEAD = 0.055, 0.105, 0.132, 0.152, 0.085  # heights, each above the joint before it
HEAD_RADII = np.array([0.047, 0.068, 0.058])
EYE = np.array([0.40, 0.08])  # across and up, in head radii
EAR = np.array([1.0, -0.04, -0.08])
NOSE = np.array([0.0, -0.18, 1.1])

SIDES = (("left", 1.0), ("right", -1.0))

# How far behind the own body's surface a keypoint may lie and still be seen: the flesh in front of a joint.
FLESH = {"nose": 0.014, "eye": 0.012, "ear": 0.016, "shoulder": 0.055, "elbow": 0.04, "wrist": 0.03, "hip": 0.085,
         "knee": 0.05, "ankle": 0.04, "head": 0.06, "neck": 0.065}  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """Body shapes of P people.

    Attributes:
        stature: (P,) millimetres.
        girth: (P,) thickness of trunk and limbs, 1 average.
        belly: (P,) additional thickness of the abdomen.
        shoulders: (P,) width of the shoulders, 1 average.
        hips: (P,) width of the hips, 1 average.
        head: (P,) size of the head, 1 average for an adult.
        legs: (P,) length of the legs, 1 average.
    """

    stature: Floats
    girth: Floats
    belly: Floats
    shoulders: Floats
    hips: Floats
    head: Floats
    legs: Floats


def draw_shapes(rng: Generator, count: int) -> Shapes:
    """Draws adults, slim to heavy, and some children."""
    child = rng.random(count) < 0.15
    build = rng.standard_normal((5, count))
    stature = np.where(child, rng.uniform(1000, 1450, count), 1700 + 90 * build[0])
    return Shapes(
        stature=stature,
        girth=np.clip(1.08 + 0.15 * build[1], 0.82, 1.5),
        belly=np.clip(1.05 + 0.2 * np.maximum(build[1] + build[2], -1), 0.85, 1.7),
        shoulders=np.clip(np.where(child, 0.97, 1 + 0.07 * build[3]), 0.86, 1.15),
        hips=np.clip(1 - 0.06 * build[3], 0.88, 1.15),
        head=np.where(child, 1.0 + 0.3 * (1700 - stature) / 700, 1.04 + 0.04 * build[4]),
        legs=np.where(child, 0.96, np.clip(1 + 0.03 * build[2], 0.94, 1.06)),
    )


@dataclass(frozen=True)
class Skeletons3D:
    """Joints and orientations of P posed people in the world (y up, ground at y = 0).

    Attributes:
        joints: (P, 3) points by name, millimetres.
        frames: (P, 3, 3) orientations by name of the body part.
    """

    joints: dict[str, Floats]
    frames: dict[str, Floats]

    def placed(self, shift: Floats) -> Skeletons3D:
        """Each person moved by its row of `shift` (P, 3)."""
        return Skeletons3D({name: point + shift for name, point in self.joints.items()}, self.frames)

    def stacked(self, names: tuple[str, ...]) -> Floats:
        """The named joints, (P, K, 3)."""
        return np.stack([self.joints[name] for name in names], axis=1)


def articulate(poses: Poses, shapes: Shapes, yaw: Floats) -> Skeletons3D:
    """Forward kinematics: P bodies over the world's origin, turned by `yaw` degrees (0: along z), on the ground."""
    angle = {name: poses.angles[:, column] for name, column in ANGLE.items()}
    root = turn(1, yaw) @ turn(0, poses.pitch) @ turn(1, np.where(poses.pitch == 0, 0, poses.roll))
    joints: dict[str, Floats] = {"pelvis": np.zeros((len(yaw), 3))}
    frames = {"pelvis": root}
    _trunk(joints, frames, angle, shapes)
    for side, sign in SIDES:
        _arm(joints, frames, angle, shapes, side, sign)
        _leg(joints, frames, angle, shapes, side, sign)
    body = Skeletons3D(joints, frames)
    return body.placed(_to_ground(body, shapes))


def _to_ground(body: Skeletons3D, shapes: Shapes) -> Floats:
    """Shift (P, 3) that sets the lowest part of each body on the ground."""
    thick = shapes.stature * shapes.girth
    depth = {"ankle": 0.03, "toe": 0.02, "knee": 0.035, "hand": 0.02, "elbow": 0.022, "shoulder": 0.04, "hip": 0.07}
    lowest = [body.joints[f"{side}_{name}"][:, 1] - below * thick for name, below in depth.items() for side, _ in SIDES]
    lowest.append(body.joints["head_centre"][:, 1] - HEAD_RADII[2] * shapes.stature)
    lowest.append(body.joints["chest"][:, 1] - 0.06 * thick)
    shift = np.zeros((len(thick), 3))
    shift[:, 1] = -np.min(lowest, axis=0)
    return shift


def _step(
    start: Floats, frame: Floats, size: Floats, x: Floats | float, y: Floats | float, z: Floats | float
) -> Floats:
    """The point at (x, y, z) times `size` in the frame (P, 3, 3) from the point `start`."""
    offset = np.empty((len(size), 3, 1))
    for axis, value in enumerate((x, y, z)):
        offset[:, axis, 0] = value * size
    return start + (frame @ offset)[:, :, 0]


def _trunk(joints: dict[str, Floats], frames: dict[str, Floats], angle: dict[str, Floats], shapes: Shapes) -> None:
    size = shapes.stature
    half = turn(2, angle["spine_tilt"] / 2) @ turn(0, angle["spine_bend"] / 2) @ turn(1, angle["spine_turn"] / 2)
    frames["abdomen"] = frames["pelvis"] @ half
    frames["chest"] = frames["abdomen"] @ half
    nod = turn(1, angle["head_turn"]) @ turn(2, angle["head_tilt"]) @ turn(0, angle["head_nod"])
    # People hold their head up when they bend: half of the bend is taken back in the neck.
    frames["head"] = frames["chest"] @ turn(0, -0.5 * np.maximum(angle["spine_bend"], 0)) @ nod
    joints["waist"] = _step(joints["pelvis"], frames["pelvis"], size, 0, WAIST, 0)
    joints["back"] = _step(joints["waist"], frames["abdomen"], size, 0, BACK, 0)
    joints["chest"] = _step(joints["back"], frames["chest"], size, 0, 0.06, 0)
    joints["neck"] = _step(joints["back"], frames["chest"], size, 0, NECK, 0.0)
    joints["head_centre"] = _step(joints["neck"], frames["head"], size, 0, HEAD * (0.4 + 0.6 * shapes.head), 0.012)
    _head(joints, frames["head"], size * shapes.head)


def _head(joints: dict[str, Floats], frame: Floats, size: Floats) -> None:
    def on_head(name: str, place: Floats) -> None:
        joints[name] = _step(joints["head_centre"], frame, size, *(place * HEAD_RADII))

    on_head("nose", NOSE)
    on_head("head", np.array([0.0, 1.0, 0.0]))
    for side, sign in SIDES:
        on_head(f"{side}_eye", np.array([sign * EYE[0], EYE[1], np.sqrt(1 - EYE @ EYE)]))
        on_head(f"{side}_ear", EAR * [sign, 1, 1])


def _arm(joints: dict[str, Floats], frames: dict[str, Floats], angle: dict[str, Floats], shapes: Shapes, side: str,
         sign: float) -> None:  # fmt: skip
    size = shapes.stature
    upper = turn(2, sign * angle[f"{side}_shoulder_raise"]) @ turn(0, -angle[f"{side}_shoulder_swing"])
    upper = upper @ turn(1, sign * angle[f"{side}_shoulder_twist"])
    lift = 0.03 * np.maximum(0, 0.3 - upper[:, 1, 1])  # the shoulder blade follows a raised arm
    frames[f"{side}_upper_arm"] = frames["chest"] @ upper
    frames[f"{side}_forearm"] = frames[f"{side}_upper_arm"] @ turn(0, -angle[f"{side}_elbow"])
    across = sign * (SHOULDER * shapes.shoulders - lift / 2)
    joints[f"{side}_shoulder"] = _step(joints["back"], frames["chest"], size, across, CHEST - 0.006 + lift, -0.004)
    joints[f"{side}_elbow"] = _step(joints[f"{side}_shoulder"], frames[f"{side}_upper_arm"], size, 0, -UPPER_ARM, 0)
    joints[f"{side}_wrist"] = _step(joints[f"{side}_elbow"], frames[f"{side}_forearm"], size, 0, -FOREARM, 0)
    joints[f"{side}_hand"] = _step(joints[f"{side}_wrist"], frames[f"{side}_forearm"], size, 0, -HAND, 0)


def _leg(joints: dict[str, Floats], frames: dict[str, Floats], angle: dict[str, Floats], shapes: Shapes, side: str,
         sign: float) -> None:  # fmt: skip
    size = shapes.stature
    thigh = turn(2, sign * angle[f"{side}_hip_spread"]) @ turn(0, -angle[f"{side}_hip_swing"])
    frames[f"{side}_thigh"] = frames["pelvis"] @ thigh @ turn(1, sign * angle[f"{side}_hip_twist"])
    frames[f"{side}_shin"] = frames[f"{side}_thigh"] @ turn(0, angle[f"{side}_knee"])
    frames[f"{side}_foot"] = frames[f"{side}_shin"] @ turn(0, -angle[f"{side}_ankle"])
    joints[f"{side}_hip"] = _step(joints["pelvis"], frames["pelvis"], size, sign * HIP * shapes.hips, 0, 0)
    joints[f"{side}_knee"] = _step(joints[f"{side}_hip"], frames[f"{side}_thigh"], size, 0, -THIGH * shapes.legs, 0)
    joints[f"{side}_ankle"] = _step(joints[f"{side}_knee"], frames[f"{side}_shin"], size, 0, -SHIN * shapes.legs, 0)
    joints[f"{side}_toe"] = _step(joints[f"{side}_ankle"], frames[f"{side}_foot"], size, 0, -0.018, 0.11)


class _Sculptor:
    """Collects the solids of P people, part by part."""

    def __init__(self, body: Skeletons3D, shapes: Shapes, materials: dict[str, NDArray[np.int64]]) -> None:
        self.body, self.shapes, self.materials = body, shapes, materials
        self.owner = np.arange(len(shapes.stature))
        self.size, self.thick = shapes.stature, shapes.stature * shapes.girth
        self.blobs: list[tuple[Floats, Floats, Floats, NDArray[np.int64]]] = []
        self.limbs: list[tuple[Floats, Floats, Floats, Floats, NDArray[np.int64]]] = []

    def blob(self, joint: str, frame: str, place: tuple[float, ...], radii: Floats, material: str) -> None:
        """An ellipsoid at `place` (fractions of the stature) from a joint, `radii` (P, 3) millimetres."""
        axes = self.body.frames[frame]
        centre = _step(self.body.joints[joint], axes, self.size, *place)
        self.blobs.append((centre, axes, radii, self.materials[material]))

    def ball(self, joint: str, radius: Floats, material: str) -> None:
        """A sphere about a joint, `radius` (P,) millimetres."""
        radii = np.repeat(radius[:, None], 3, axis=1)
        self.blobs.append((self.body.joints[joint], self.body.frames["pelvis"], radii, self.materials[material]))

    def limb(self, start: str, end: str, radius: Floats, end_radius: Floats, material: str) -> None:
        """A cone between two joints with radii (P,) millimetres."""
        joints = self.body.joints
        self.limbs.append((joints[start], joints[end], radius, end_radius, self.materials[material]))

    def solids(self) -> Solids:
        """All of them."""
        centre, axes, radii, material = (np.concatenate(column) for column in zip(*self.blobs, strict=True))
        start, end, radius, end_radius, stuff = (np.concatenate(column) for column in zip(*self.limbs, strict=True))
        rounds = ellipsoids(centre, axes, radii, np.tile(self.owner, len(self.blobs)), material)
        return join([rounds, cones(start, end, radius, end_radius, np.tile(self.owner, len(self.limbs)), stuff)])


def sculpt(
    body: Skeletons3D, shapes: Shapes, materials: dict[str, NDArray[np.int64]], fit: dict[str, Floats]
) -> Solids:
    """The solids of P people.

    Args:
        body: the posed skeletons.
        shapes: their shapes.
        materials: (P,) row of the materials by name of the garment or body part.
        fit: (P,) numbers of the clothes: "sleeve" and "trouser" (thickness over the bare limb), "hair" (length from
            0 bald to 1 long), "skirt" (0 none to 1 ankle-length).
    """
    sculptor = _Sculptor(body, shapes, materials)
    _sculpt_trunk(sculptor)
    _sculpt_head(sculptor, fit["hair"])
    for side, sign in SIDES:
        _sculpt_arm(sculptor, fit["sleeve"], side)
        _sculpt_leg(sculptor, fit["trouser"], side, sign)
    return join([sculptor.solids(), _skirts(sculptor, fit["skirt"])])


def _radii(size: Floats, x: Floats | float, y: Floats | float, z: Floats | float) -> Floats:
    """(P, 3): factors times `size` (P,)."""
    radii = np.empty((len(size), 3))
    for axis, value in enumerate((x, y, z)):
        radii[:, axis] = value * size
    return radii


def _sculpt_trunk(s: _Sculptor) -> None:
    shapes, thick = s.shapes, s.thick
    across = (HIP + 0.038) * shapes.hips
    s.blob("pelvis", "pelvis", (0, 0.012, -0.006), _radii(thick, across, 0.068, 0.062), "trousers")
    s.blob("waist", "abdomen", (0, 0.03, 0), _radii(thick, 0.078 * shapes.hips, 0.095, 0.054 * shapes.belly), "shirt")
    s.blob("chest", "chest", (0, -0.005, 0), _radii(thick, 0.089 * shapes.shoulders, 0.098, 0.06), "shirt")
    s.blob("neck", "chest", (0, -0.035, -0.006), _radii(thick, 0.112 * shapes.shoulders, 0.034, 0.042), "shirt")
    s.limb("neck", "head_centre", 0.036 * thick, 0.032 * s.size, "skin")


def _sculpt_head(s: _Sculptor, hair: Floats) -> None:
    size = s.size * s.shapes.head
    s.blob("head_centre", "head", (0, 0, 0), size[:, None] * HEAD_RADII, "face")
    bulk = 0.96 + 0.1 * np.minimum(hair * 4, 1)
    s.blob("head_centre", "head", (0, 0.012, -0.013), (size * bulk)[:, None] * HEAD_RADII * [1.04, 0.98, 0.95], "hair")
    fall = 0.3 + 0.9 * hair  # long hair falls to the shoulders, short hair hides within the head
    s.blob(
        "head_centre", "head", (0, -0.02, -0.03), _radii(size, 0.047, 0.05 + 0.05 * fall * (hair > 0.4), 0.028), "hair"
    )
    s.blob("nose", "head", (0, 0, -0.006), _radii(size, 0.008, 0.013, 0.013), "skin")
    for side, _ in SIDES:
        s.blob(f"{side}_ear", "head", (0, 0, 0), _radii(size, 0.007, 0.018, 0.012), "skin")


def _sculpt_arm(s: _Sculptor, sleeve: Floats, side: str) -> None:
    upper, lower = s.thick * sleeve, s.thick * np.where(s.materials["forearm"] == s.materials["skin"], 1, sleeve)
    s.ball(f"{side}_shoulder", 0.035 * upper, "sleeve")
    s.limb(f"{side}_shoulder", f"{side}_elbow", 0.032 * upper, 0.027 * upper, "sleeve")
    s.ball(f"{side}_elbow", 0.0265 * lower, "forearm")
    s.limb(f"{side}_elbow", f"{side}_wrist", 0.0265 * lower, 0.0175 * lower, "forearm")
    s.blob(f"{side}_hand", f"{side}_forearm", (0, -0.002, 0), _radii(s.size, 0.014, 0.05, 0.024), "skin")


def _sculpt_leg(s: _Sculptor, trouser: Floats, side: str, sign: float) -> None:
    upper, lower = s.thick * trouser, s.thick * np.where(s.materials["shin"] == s.materials["skin"], 1, trouser)
    frame = f"{side}_thigh"
    s.blob(f"{side}_hip", frame, (0.004 * sign, -0.02, -0.004), _radii(upper, 0.05, 0.07, 0.056), "trousers")
    s.limb(f"{side}_hip", f"{side}_knee", 0.05 * upper, 0.033 * upper, "thigh")
    s.ball(f"{side}_knee", 0.0325 * lower, "shin")
    s.limb(f"{side}_knee", f"{side}_ankle", 0.031 * lower, 0.021 * lower, "shin")
    s.blob(f"{side}_knee", f"{side}_shin", (0, -0.07, -0.008), _radii(lower, 0.032, 0.07, 0.034), "shin")
    s.blob(f"{side}_ankle", f"{side}_foot", (0, -0.018, 0.04), _radii(s.size, 0.027, 0.02, 0.078), "shoe")


def _skirts(s: _Sculptor, length: Floats) -> Solids:
    """A cone from the waist over both legs, of the people who wear one."""
    joints, worn = s.body.joints, np.flatnonzero(length > 0)
    knees = (joints["left_knee"] + joints["right_knee"]) / 2
    hips = joints["waist"]
    end = hips + (knees - hips) * (0.5 + length[:, None])
    apart = np.linalg.norm(joints["left_knee"] - joints["right_knee"], axis=1) / 2
    hem = np.minimum(0.06 * s.thick + apart * (0.5 + length), 0.16 * s.size)
    skirt = cones(hips, end, 0.075 * s.thick, hem, s.owner, s.materials["skirt"])
    return skirt[worn]
