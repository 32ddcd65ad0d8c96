"""One picture: people, things and background before a camera, rendered and annotated."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pose_lab.data.synth.annotate import People, annotate
from pose_lab.data.synth.background import background
from pose_lab.data.synth.body import Shapes, Skeletons3D, articulate, draw_shapes, sculpt
from pose_lab.data.synth.camera import Camera
from pose_lab.data.synth.layout import EASY, HARD, lay_out
from pose_lab.data.synth.looks import Materials, dress
from pose_lab.data.synth.objects import Things, add_distractor, add_occluder, add_seat
from pose_lab.data.synth.posing import Poses, draw_poses
from pose_lab.data.synth.render import Frame, Light, cast, paint
from pose_lab.data.synth.settings import SynthSettings
from pose_lab.data.synth.solids import Solids, join
from pose_lab.skeletons import skeleton

Floats = NDArray[np.float64]

_ATTEMPTS = 6  # in crowd mode, until the crowd index falls into the wanted class
_BYTE_SPREAD = 256 / 12**0.5  # standard deviation of a random byte
_GOLDEN = (5**0.5 - 1) / 2  # steps by it fill an interval evenly, however many are taken
_SHADOW_BONES = (
    ("neck", "head"), ("neck", "pelvis"), ("left_shoulder", "right_shoulder"), ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("left_ankle", "left_toe"),
    ("right_ankle", "right_toe"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What stands before the camera.

    Attributes:
        camera: of the picture.
        body: P posed people in the world, the far group last.
        shapes: their shapes.
        solids: of people and things, in camera coordinates.
        materials: that the solids refer to.
        far: how many of the last people form the far group.
    """

    camera: Camera
    body: Skeletons3D
    shapes: Shapes
    solids: Solids
    materials: Materials
    far: int


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        people: its annotations.
        camera: of the picture.
    """

    image: NDArray[np.uint8]
    people: People
    camera: Camera


def make_picture(settings: SynthSettings, split: int, index: int) -> Picture:
    """Picture `index` of split 0 (training) or 1 (validation): a function of the settings and these numbers alone."""
    if not settings.crowd:
        return _make(settings, np.random.default_rng([settings.seed, split, index]), None)
    aim, low, high = _crowd_aim(settings, split, index)
    best, missed, wish = None, np.inf, aim
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([settings.seed, split, index, attempt])
        picture = _make(settings, rng, wish)
        found = picture.people.crowd_index
        if abs(found - aim) < missed:
            best, missed = picture, abs(found - aim)
        if low <= found < high:
            return picture
        wish = wish * (1.3 if found < low else 0.75)
    assert best is not None
    return best


def _crowd_aim(settings: SynthSettings, split: int, index: int) -> tuple[float, float, float]:
    """The crowd index picture `index` aims at, and the limits of its class."""
    start = np.random.default_rng([settings.seed, split]).random()
    place = (start + index * _GOLDEN) % 1
    edges = np.cumsum([0.0, *settings.crowd_shares])
    level = int(np.clip(np.searchsorted(edges, place, side="right") - 1, 0, 2))
    low, high = ((0.0, EASY), (EASY, HARD), (HARD, settings.crowd_hardest))[level]
    aim = low + (high - low) * (place - edges[level]) / (edges[level + 1] - edges[level])
    return float(aim), low, np.inf if level == 2 else high


def _make(settings: SynthSettings, rng: Generator, aim: float | None) -> Picture:
    scene = _draw_scene(settings, rng, aim)
    frame = cast(scene.solids, scene.camera)
    light = _draw_light(rng, scene.camera)
    image = background(rng, scene.camera, _shadow_lines(scene, light))
    paint(image, frame, scene.solids, scene.materials, light, scene.camera)
    return Picture(_photograph(rng, image, settings), _annotated(settings, scene, frame), scene.camera)


def _annotated(settings: SynthSettings, scene: Scene, frame: Frame) -> People:
    return annotate(settings, skeleton(settings.skeleton), scene.camera, frame, scene.body, scene.shapes, scene.far)


def _draw_scene(settings: SynthSettings, rng: Generator, aim: float | None) -> Scene:
    near = _draw_count(settings, rng, aim)
    far = int(rng.integers(6, 13)) if rng.random() < settings.crowd_regions else 0
    poses, shapes = draw_poses(rng, near + far, settings.poses), draw_shapes(rng, near + far)
    towards = rng.random(near + far) < settings.facing
    yaw = np.where(towards, rng.normal(0, 35, near + far), rng.uniform(-180, 180, near + far))
    body = articulate(poses, shapes, yaw)
    layout = lay_out(rng, settings, body, shapes.stature, far, aim if near > 1 else None)
    body = body.placed(layout.shift)
    materials = Materials.empty()
    things = _draw_things(settings, rng, materials, poses, body, shapes, yaw, layout.camera, near)
    parts = things.parts
    if near + far:
        parts = [sculpt(body, shapes, *dress(rng, materials, near + far)), *parts]
    solids = join(parts).moved(layout.camera.rotation, layout.camera.eye) if parts else _nothing()
    return Scene(layout.camera, body, shapes, solids, materials, far)


def _draw_count(settings: SynthSettings, rng: Generator, aim: float | None) -> int:
    """How many people; enough for the crowd index that is aimed at."""
    empty, count = rng.random() < settings.empty, int(rng.integers(settings.people[0], settings.people[1] + 1))
    if aim is not None:
        count = max(count, min(2 + int(np.ceil(aim)), settings.people[1]))
    return 0 if empty else count


def _nothing() -> Solids:
    none = np.zeros(0)
    return Solids(none.reshape(0, 3), none.reshape(0, 3, 3), none.reshape(0, 3), none, *([none.astype(int)] * 3))


def _draw_things(settings: SynthSettings, rng: Generator, materials: Materials, poses: Poses, body: Skeletons3D,
                 shapes: Shapes, yaw: Floats, camera: Camera, near: int) -> Things:  # fmt: skip
    things = Things(rng, materials)
    pelvis = body.joints["pelvis"]
    for person in np.flatnonzero(poses.seat):
        add_seat(things, pelvis[person], float(yaw[person]), float(shapes.stature[person]))
    eye = np.array([camera.eye[0], 0, camera.eye[2]])
    for _ in range(rng.poisson(settings.occluders) if near else 0):
        hidden = int(rng.integers(near))
        beside = np.array([rng.normal(0, 0.14), 0, 0]) * shapes.stature[hidden]
        feet = pelvis[hidden] * [1, 0, 1] + beside
        away = max(rng.uniform(0.7, 0.9), 1 - 0.7 * shapes.stature[hidden] / np.linalg.norm(feet - eye))
        add_occluder(things, eye + (feet - eye) * away, float(shapes.stature[hidden]))
    farthest = -pelvis[:, 2].min(initial=-3000.0)
    for _ in range(rng.poisson(settings.distractors)):
        depth = rng.uniform(0.9, 2.5) * farthest
        add_distractor(things, np.array([rng.uniform(-0.6, 0.6) * camera.width / camera.focal * depth, 0, -depth]))
    return things


def _draw_light(rng: Generator, camera: Camera) -> Light:
    direction = np.array([rng.normal(), rng.uniform(0.6, 2.0), rng.normal(0.4, 1)])
    return Light(camera.rotation @ (direction / np.linalg.norm(direction)), rng.uniform(0.35, 0.8))


def _shadow_lines(scene: Scene, light: Light) -> Floats:
    """(L, 2, 2) pixels: the bones' shadows on the ground."""
    lamp = light.direction @ scene.camera.rotation
    ends = np.array([[scene.body.joints[a], scene.body.joints[b]] for a, b in _SHADOW_BONES])
    ends = ends - lamp * (ends[..., 1:2] / lamp[1])
    seen = scene.camera.seen(ends.transpose(0, 2, 1, 3).reshape(-1, 2, 3))
    return scene.camera.project(seen[(seen[..., 2] > 100).all(axis=1)])


def _photograph(rng: Generator, image: NDArray[np.uint8], settings: SynthSettings) -> NDArray[np.uint8]:
    """Exposure, white balance, lens blur and noise."""
    gain = rng.uniform(0.75, 1.15) * rng.uniform(0.93, 1.07, 3)
    height, width = image.shape[:2]
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.6) + 0.0006 * height)
    # Whole rows at once are quicker than broadcasting over three channels.
    exposed = blurred.reshape(height, -1) * np.tile(gain.astype(np.float32), width)
    grain = np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width).astype(np.float32) - 127.5
    grain *= np.float32(settings.noise * rng.random() / _BYTE_SPREAD)
    grain += np.float32(rng.uniform(-6, 14))
    return np.asarray(cv2.add(exposed.reshape(image.shape), cv2.merge([grain] * 3), dtype=cv2.CV_8U), np.uint8)
