"""Where people stand: several layouts are drawn on the ground, and the best for the wanted crowding is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pose_lab.data.synth.body import Skeletons3D
from pose_lab.data.synth.camera import Camera, look
from pose_lab.data.synth.settings import SynthSettings

Floats = NDArray[np.float64]

EASY, HARD = 0.2, 0.8  # CrowdPose's evaluation: easy below the first, hard from the second on
_PERSONAL_SPACE = 480.0  # millimetres between two people's centres
_CANDIDATES, _CROWD_CANDIDATES = 4, 24


@dataclass(frozen=True)
class Layout:
    """A camera, and a place on the ground for each person: `shift` (P, 3) in the world."""

    camera: Camera
    shift: Floats


@dataclass(frozen=True)
class _Draft:
    """C candidate layouts of P people: pixels right of the centre, depths, eye heights (C,), ground places, reaches."""

    across: Floats
    depth: Floats
    eye: Floats
    x: Floats
    z: Floats
    reach: Floats


def crowd_index(keypoints: Floats, labelled: NDArray[np.bool_], boxes: Floats) -> float:
    """CrowdPose's crowd index: mean over people of (others' labelled keypoints in my box) / (my labelled keypoints).

    Args:
        keypoints: (P, K, 2).
        labelled: (P, K).
        boxes: (P, 4) xyxy.

    Source: Li et al., CrowdPose, CVPR 2019, section 3.2.
    """
    counted = labelled.sum(axis=1) > 0
    if not counted.any():
        return 0.0
    inside = (keypoints[None] >= boxes[:, None, None, :2]) & (keypoints[None] <= boxes[:, None, None, 2:])
    found = (inside.all(axis=-1) & labelled[None]).sum(axis=2)
    others = found.sum(axis=1) - np.diagonal(found)
    return float(np.mean(others[counted] / labelled.sum(axis=1)[counted]))


def lay_out(
    rng: Generator, settings: SynthSettings, body: Skeletons3D, stature: Floats, far: int, aim: float | None = None
) -> Layout:
    """Places P posed people before a random camera.

    Args:
        rng: source of everything random.
        settings: the data set's.
        body: people over the world's origin, feet on the ground.
        stature: (P,) millimetres.
        far: that many of the last people form a far group.
        aim: the crowd index to come close to; None for loosely spread people.
    """  # fmt: skip
    angle = np.radians(rng.uniform(*settings.field_of_view))
    focal = 0.5 * float(np.hypot(settings.width, settings.height) / np.tan(angle / 2))
    pitch, roll = rng.uniform(*settings.camera_pitch), rng.normal(0, settings.camera_roll)
    near = slice(0, len(stature) - far)
    heights = body.stacked(tuple(body.joints))[:, :, 1]
    middle = (heights.min(axis=1) + heights.max(axis=1)) / 2
    people = stature[near], middle[near], _reach(body)[near]
    if not near.stop:  # an empty picture is taken as if of somebody
        people = np.array([1700.0]), np.array([850.0]), np.array([0.0])
    draft = _draw(rng, settings, focal, np.radians(pitch), people, aim is not None)
    if aim is None:
        score = _looseness(draft, settings, focal)
    else:
        score = -np.abs(_estimated_crowd(draft, settings, focal, pitch, body, near) - aim) - 0.5 * _collisions(draft)
    best = int(np.argmax(score - 10 * (draft.eye < 200)))
    eye = max(float(draft.eye[best]), 200.0)
    shift = np.zeros((len(stature), 3))
    shift[near, 0], shift[near, 2] = draft.x[best, near], draft.z[best, near]
    if far:
        shift[near.stop :] = _far_group(rng, settings, focal, stature[near.stop :])
    camera = Camera(settings.width, settings.height, focal, look(pitch, roll), np.array([0.0, eye, 0.0]))
    return Layout(camera, shift)


def _draw(rng: Generator, settings: SynthSettings, focal: float, pitch: float, people: tuple[Floats, Floats, Floats],
          crowd: bool) -> _Draft:  # fmt: skip
    """Candidates for people of given stature, height of their middle and reach, (P,) each.

    A person's depth follows from its apparent height, the eye's height from the largest person's place in the picture.
    """
    (stature, middle, reach), count = people, _CROWD_CANDIDATES if crowd else _CANDIDATES
    low, high = settings.person_height
    part = rng.uniform(low, high, (count, len(stature)))
    across = settings.width * rng.uniform(-0.4, 0.4, (count, len(stature)))
    if crowd:
        part = part[:, :1] * rng.uniform(0.75, 1.0, part.shape)
        across = across * np.linspace(0, 1.25, count)[:, None] + settings.width * rng.uniform(-0.15, 0.15)
    depth = focal * stature / (part * settings.height)
    largest = part.argmax(axis=1)
    chosen = np.arange(count), largest
    slack = np.maximum(1 - part[chosen], 0.1) / 2
    drop = settings.height * rng.normal(0.02, 0.7 * slack) / focal  # slope at which the largest person's middle appears
    ray = np.tan(np.clip(pitch + np.arctan(drop), -1.2, 1.2))
    above = depth[chosen] * ray / (np.cos(pitch) + ray * np.sin(pitch))
    eye = np.maximum(middle[largest] + above, 150)
    away = (depth - (eye[:, None] - middle) * np.sin(pitch)) / np.cos(pitch)
    return _Draft(across, depth, eye, across * depth / focal, -away, reach)


def _looseness(draft: _Draft, settings: SynthSettings, focal: float) -> Floats:
    """Higher where people stand apart, in the picture and on the ground."""
    gap = np.abs(draft.across[:, :, None] - draft.across[:, None]) * draft.depth[:, :, None] / focal / 700
    gap = gap + 9 * np.eye(draft.across.shape[1])
    return np.minimum(gap.min(axis=(1, 2), initial=1.0), 1.0) - 3 * _collisions(draft)


def _reach(body: Skeletons3D) -> Floats:
    """(P,) how far trunk and legs reach from the pelvis over the ground."""
    ends = body.stacked(("head", "left_ankle", "right_ankle")) - body.joints["pelvis"][:, None]
    return np.hypot(ends[..., 0], ends[..., 2]).max(axis=1, initial=0)


def _collisions(draft: _Draft) -> Floats:
    """(C,) how many pairs of people stand in one another."""
    apart = np.hypot(draft.x[:, :, None] - draft.x[:, None], draft.z[:, :, None] - draft.z[:, None])
    needed = np.maximum(_PERSONAL_SPACE, 0.8 * (draft.reach[:, None] + draft.reach))
    return ((apart < needed).sum(axis=(1, 2)) - apart.shape[1]) / 2


def _estimated_crowd(draft: _Draft, settings: SynthSettings, focal: float, pitch: float, body: Skeletons3D,
                     near: slice) -> Floats:  # fmt: skip
    """(C,) crowd index of each candidate from projected joints, without occlusion."""
    names = tuple(
        name
        for name in body.joints
        if name.split("_")[-1] in ("wrist", "ankle", "knee", "hip", "elbow", "shoulder", "head", "neck")
    )
    joints = body.stacked(names)[near]
    size = np.array([settings.width, settings.height])
    result = []
    for x, z, eye in zip(draft.x, draft.z, draft.eye, strict=True):
        camera = Camera(settings.width, settings.height, focal, look(pitch, 0.0), np.array([0.0, eye, 0.0]))
        points = camera.project(camera.seen(joints + np.stack([x, 0 * x, z], axis=1)[:, None]))
        inside = np.all((points >= 0) & (points < size), axis=-1)
        margin = 0.02 * settings.height
        low, high = points.min(axis=1) - margin, points.max(axis=1) + margin
        boxes = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=1)
        result.append(crowd_index(points, inside, boxes))
    return np.array(result)


def _far_group(rng: Generator, settings: SynthSettings, focal: float, stature: Floats) -> Floats:
    """Places (G, 3) of a tight group far behind."""
    depth = focal * 1700 / (settings.height * rng.uniform(0.1, 0.2))
    places = np.zeros((len(stature), 3))
    centre = rng.uniform(-0.35, 0.35) * settings.width / focal * depth
    places[:, 0] = centre + rng.normal(0, 900, len(stature))
    places[:, 2] = -depth - rng.normal(0, 700, len(stature))
    return places
