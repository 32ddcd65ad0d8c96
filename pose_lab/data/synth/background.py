"""Backgrounds: ground and wall or sky, clutter, shadows. Everything is drawn before the people."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pose_lab.data.synth.camera import Camera
from pose_lab.data.synth.looks import muted

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Image = NDArray[np.uint8]


def background(rng: Generator, camera: Camera, shadows: Floats) -> Image:
    """A background (H, W, 3), uint8 RGB.

    Args:
        rng: source of everything random.
        camera: its horizon divides ground and wall.
        shadows: (L, 2, 2) line segments in pixels that darken the ground.
    """
    ground, x, z = _ground(rng, camera)
    image = _wall(rng, camera)
    floor = _floor(rng, camera, x, z, _shadow(rng, camera, shadows))
    cv2.copyTo(floor, ground.view(np.uint8), image)
    size = 2 * int(rng.uniform(0, 0.01) * camera.height * (rng.random() < 0.6)) + 1
    return np.asarray(cv2.blur(cv2.blur(image, (size, size)), (size, size)), np.uint8) if size > 1 else image


def _noise(rng: Generator, camera: Camera, cells: int) -> Floats32:
    """Smooth noise (H, W) with about `cells` bumps across, standard deviation near 1."""
    small = rng.standard_normal((cells, cells), dtype=np.float32)
    way = cv2.INTER_CUBIC if cells < camera.height // 8 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(small, (camera.width, camera.height), interpolation=way), np.float32)


def _ground(rng: Generator, camera: Camera) -> tuple[NDArray[np.bool_], Floats32, Floats32]:
    """Which pixels show the ground, and its coordinates there in metres."""
    u, v = (slopes.astype(np.float32) for slopes in camera.rays())
    axes = camera.rotation.T.astype(np.float32)  # rows: the world's x, y, z in camera coordinates
    down = -(axes[1, 0] * u + (axes[1, 1] * v + axes[1, 2])[:, None])
    far = 1000 * rng.choice([6, 10, 20, 60, 400])
    distance = np.float32(camera.eye[1]) / np.maximum(down, 1e-5)
    z = distance * (axes[2, 0] * u + (axes[2, 1] * v + axes[2, 2])[:, None])
    x = distance * (axes[0, 0] * u + (axes[0, 1] * v + axes[0, 2])[:, None])
    return (down > 1e-4) & (distance < far), x / 1000, z / 1000


def _floor(rng: Generator, camera: Camera, x: Floats32, z: Floats32, shadow: Floats32) -> Image:
    """Plain, tiled, planked or mottled ground."""
    first, second = muted(rng), muted(rng)
    second = first + (second - first) * rng.uniform(0.05, 0.5)
    size, kind = np.float32(rng.uniform(0.15, 1.5)), rng.integers(4)
    if kind == 1:
        mix = _odd(np.floor(x / size) + np.floor(z / size))
    elif kind == 2:
        mix = _odd(np.floor(x / size + np.float32(0.3) * np.floor(z / (3 * size))))
    else:
        mix = 0.5 + np.float32(0.4) * _noise(rng, camera, int(rng.integers(4, 40)))
    grain = rng.uniform(0, 9) * _noise(rng, camera, camera.height // 3)
    return _blend(first, second, mix, [grain] * 3, shadow)


def _odd(whole: Floats32) -> Floats32:
    """1 for odd whole numbers, 0 for even ones; quicker than a remainder."""
    return whole - 2 * np.floor(whole / 2)


def _wall(rng: Generator, camera: Camera) -> Image:
    """A wall or sky: a gradient with noise, and clutter in front of it."""
    ramp = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None]
    grain = rng.uniform(0, 10) * _noise(rng, camera, camera.height // 3)
    lumps, coloured = int(rng.integers(3, 30)), rng.random() < 0.5
    fields = [rng.uniform(2, 25) * _noise(rng, camera, lumps) + grain for _ in range(3 if coloured else 1)]
    image = _blend(muted(rng), muted(rng), ramp, fields if coloured else fields * 3, np.float32(1))
    _clutter(rng, image)
    return image


def _blend(first: Floats, second: Floats, mix: Floats32, grain: list[Floats32], factor: Floats32 | np.float32) -> Image:
    """(H, W, 3): from the first colour to the second by `mix` (H, W), with grain (H, W) per channel, times `factor`."""
    planes = []
    for a, b, field in zip(first.astype(np.float32), second.astype(np.float32), grain, strict=True):
        plane = (mix * (b - a) + (field + a)) * factor
        planes.append(np.clip(plane, 0, 255, out=plane).astype(np.uint8))
    return np.asarray(cv2.merge(planes), np.uint8)


def _clutter(rng: Generator, image: Image) -> None:
    """Rectangles, bars, ellipses, windows: none of them a body, some of a body's size and proportions."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(2, 14))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(width * rng.uniform(0.02, 0.4)), int(height * rng.uniform(0.05, 0.6))
        tone, kind = muted(rng).tolist(), rng.integers(5)
        if kind <= 1:
            cv2.rectangle(image, (x, y), (x + w, y + h), tone, -1)
        elif kind == 2:
            cv2.ellipse(image, (x, y), (w // 2 + 1, h // 2 + 1), float(rng.uniform(0, 180)), 0, 360, tone, -1)
        elif kind == 3:
            end = int(x + rng.normal(0, width / 4)), int(y + rng.normal(0, height / 2))
            cv2.line(image, (x, y), end, tone, int(rng.integers(1, 3 + height // 24)))
        else:
            _grid(rng, image, (x, y, w, h), tone)


def _grid(rng: Generator, image: Image, box: tuple[int, int, int, int], tone: list[float]) -> None:
    """A facade: a regular grid of windows."""
    x, y, w, h = box
    step = max(4, int(image.shape[0] * rng.uniform(0.04, 0.15)))
    size = max(1, int(step * rng.uniform(0.3, 0.8)))
    cv2.rectangle(image, (x, y), (x + w, y + h), muted(rng).tolist(), -1)
    for top in range(y + 1, min(y + h, image.shape[0]) - size, step):
        for left in range(x + 1, min(x + w, image.shape[1]) - size, step):
            cv2.rectangle(image, (left, top), (left + size, top + size), tone, -1)


def _shadow(rng: Generator, camera: Camera, segments: Floats) -> Floats32:
    """(H, W) factor that darkens the ground along the segments."""
    half = np.ones((camera.height // 2, camera.width // 2), np.float32)
    strength, thickness = rng.uniform(0.25, 0.75), max(1, camera.height // 64)
    lines = np.clip(np.nan_to_num(segments) / 2, -4 * camera.width, 4 * camera.width).astype(np.int32)
    for start, end in lines:
        cv2.line(half, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), strength, thickness)
    soft = cv2.GaussianBlur(half, (0, 0), rng.uniform(0.004, 0.02) * camera.height + 0.3)
    return np.asarray(cv2.resize(soft, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR), np.float32)
