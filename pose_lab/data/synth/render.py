"""Ray casting: which solid each pixel shows, how far away, and its colour.

Every solid is met in closed form inside its own screen rectangle, and kept where it is nearer than what is there. A ray
through a pixel is s (u, v, 1); the first meeting with a quadric x'Mx + 2 g'x + k = 0 in camera coordinates has
1 / s = (sqrt(disc) - g'd) / k with disc = (g'd)^2 - k d'Md: nearness 1 / s takes two polynomials in (u, v) and a root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_lab.data.synth.body import EYE
from pose_lab.data.synth.camera import Camera
from pose_lab.data.synth.looks import CHECKS, FACE, MOTTLED, OPEN, PRINT, STRIPES, UPRIGHT, Materials
from pose_lab.data.synth.solids import BACKGROUND, BOX, CONE, ELLIPSOID, Solids

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Image = NDArray[np.uint8]
Row = list[Any]  # nested lists of numbers: quicker to read one by one than arrays

_NEAREST = 60.0  # millimetres: solids that reach nearer to the camera are not drawn


@dataclass(frozen=True)
class Frame:
    """What the camera sees.

    Attributes:
        nearness: (H, W) float32, 1 / depth in 1 / millimetres, 0 where there is no solid.
        solid: (H, W) int32, row of the solids, -1 where there is none.
        owner: (H, W) int32, owner of that solid, or `BACKGROUND`.
    """

    nearness: Floats32
    solid: NDArray[np.int32]
    owner: NDArray[np.int32]


@dataclass(frozen=True)
class Light:
    """A distant lamp and even light: `direction` (3,) towards the lamp in camera coordinates, `ambient` share."""

    direction: Floats
    ambient: float


def cast(solids: Solids, camera: Camera) -> Frame:
    """Draws solids given in camera coordinates."""
    shape = camera.height, camera.width
    nearness, index = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    left, top, right, bottom = rectangles(solids, camera).T
    drawn = (left < right) & (top < bottom) & (solids.origin[:, 2] - solids.radii.max(axis=1) > _NEAREST)
    with np.errstate(invalid="ignore", divide="ignore"):
        column, row = (left + right) // 2, (top + bottom) // 2  # polynomials about there keep float32 exact enough
        conics, lines, slabs = _about(column, row, camera, *_quadrics(solids))
        across, down = (np.arange(-size, size, dtype=np.float32) / np.float32(camera.focal) for size in shape[::-1])
        starts = left - column + camera.width, top - row + camera.height
        for i in np.flatnonzero(drawn):
            at = slice(top[i], bottom[i]), slice(left[i], right[i])
            u = across[starts[0][i] : starts[0][i] + right[i] - left[i]]
            v = down[starts[1][i] : starts[1][i] + bottom[i] - top[i]]
            if solids.kind[i] == BOX:
                near = _meet_box(slabs[i], solids.radii[i].tolist(), u, v)
            else:
                near = _meet_quadric(conics[i], lines[i], u, v)
            hit = near > nearness[at]
            if solids.kind[i] == CONE:
                hit &= _within_cone(slabs[i][1], float(solids.radii[i, 1]), near, u, v)
            np.copyto(nearness[at], near, where=hit)
            np.copyto(index[at], np.int32(i), where=hit)
    owners = np.append(solids.owner, BACKGROUND).astype(np.int32)
    return Frame(nearness, index, owners[index])


def rectangles(solids: Solids, camera: Camera) -> Ints:
    """Screen rectangles (S, 4) in whole pixels, left, top, right, bottom, that hold the solids, within the picture."""
    bounds = np.where((solids.kind == ELLIPSOID)[:, None], _ellipsoid_bounds(solids), _corner_bounds(solids))
    limit = np.array([camera.width, camera.height] * 2)
    pixels = bounds * camera.focal + limit / 2
    return np.clip(np.floor(np.nan_to_num(pixels)) + np.array([0, 0, 1, 1]), 0, limit).astype(np.int64)


def _ellipsoid_bounds(solids: Solids) -> Floats:
    """Slopes (S, 4) that bound the outline conic: its dual is p p' - R diag(r^2) R'."""
    p, spread = solids.origin, solids.rotation * solids.radii[:, None, :]
    dual = p[:, :, None] * p[:, None, :] - spread @ spread.transpose(0, 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = [], []
        for axis in (0, 1):
            middle, last = dual[:, axis, 2], dual[:, 2, 2]
            root = np.sqrt(middle**2 - last * dual[:, axis, axis])
            low.append((middle - root) / last)
            high.append((middle + root) / last)
    return np.stack(low + high, axis=1)


def _corner_bounds(solids: Solids) -> Floats:
    """Slopes (S, 4) that bound the corners of the solid's local box."""
    widest = 1 + np.abs(solids.taper) * solids.radii[:, 1]
    half = solids.radii * np.stack([widest, np.ones_like(widest), widest], axis=1)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = solids.origin[:, None] + np.einsum("sij,scj->sci", solids.rotation, half[:, None] * signs)
    slopes = corners[..., :2] / np.maximum(corners[..., 2:], _NEAREST)
    return np.concatenate([slopes.min(axis=1), slopes.max(axis=1)], axis=1)


def _quadrics(solids: Solids) -> tuple[Floats, Floats, Floats]:
    """Coefficients of all solids: conic disc / k^2 (S, 3, 3), line -g / k (S, 3), local rays and start (S, 3, 4).

    Row j of the last is the j-th local coordinate of a ray's direction, and of the camera.
    """
    R, p = solids.rotation, solids.origin
    inverse = 1 / solids.radii**2
    cone = solids.kind == CONE
    inverse[cone, 1] = -(solids.taper[cone] ** 2)
    M = (R * inverse[:, None, :]) @ R.transpose(0, 2, 1)
    linear = np.where(cone, -solids.taper, 0)[:, None] * R[:, :, 1]
    Mp = np.einsum("sij,sj->si", M, p)
    g = linear - Mp
    k = np.sum(p * Mp, axis=1) - 2 * np.sum(linear * p, axis=1) - 1
    k[k <= 0] = np.nan  # the eye is inside: never met
    conic = (g[:, :, None] * g[:, None, :] - k[:, None, None] * M) / (k**2)[:, None, None]
    local = np.concatenate([R.transpose(0, 2, 1), -np.einsum("sij,si->sj", R, p)[:, :, None]], axis=2)
    return conic, -g / k[:, None], local


def _about(
    column: Ints, row: Ints, camera: Camera, conic: Floats, line: Floats, local: Floats
) -> tuple[list[Row], ...]:
    """The coefficients for slopes counted from the centre of each solid's own pixel, as nested lists."""
    shift = np.tile(np.eye(3), (len(column), 1, 1))
    shift[:, 0, 2] = (column + 0.5 - camera.width / 2) / camera.focal
    shift[:, 1, 2] = (row + 0.5 - camera.height / 2) / camera.focal
    conic = shift.transpose(0, 2, 1) @ conic @ shift
    line = (line[:, None] @ shift)[:, 0]
    local = np.concatenate([local[:, :, :3] @ shift, local[:, :, 3:]], axis=2)
    return conic.tolist(), line.tolist(), local.tolist()


def _meet_quadric(conic: Row, line: Row, u: Floats32, v: Floats32) -> Floats32:
    """Nearness (h, w) of the first meeting; NaN where the ray misses."""
    (a, b, c), (_, d, e), (_, _, f) = conic
    near = np.multiply.outer(2 * (c + b * v), u)
    near += (f + v * (2 * e + d * v))[:, None]
    near += a * u * u
    np.sqrt(near, out=near)
    near += (line[2] + line[1] * v)[:, None]
    near += line[0] * u
    return near


def _within_cone(slab: Row, half: float, near: Floats32, u: Floats32, v: Floats32) -> NDArray[np.bool_]:
    """Whether the meeting lies between the cone's two ends: |direction + start * nearness| <= half * nearness."""
    height = near * slab[3]
    height += (slab[2] + slab[1] * v)[:, None]
    height += slab[0] * u
    return np.abs(height, out=height) <= near * half


def _meet_box(slabs: Row, half: list[float], u: Floats32, v: Floats32) -> Floats32:
    """Nearness (h, w) of the first meeting; NaN where the ray misses."""
    enter, leave = np.zeros((len(v), len(u)), np.float32), np.full((len(v), len(u)), np.inf, np.float32)
    for slab, size in zip(slabs, half, strict=True):
        direction = np.add.outer(slab[2] + slab[1] * v, slab[0] * u)
        first, second = ((sign * size - slab[3]) / direction for sign in (-1, 1))
        np.maximum(enter, np.minimum(first, second), out=enter)
        np.minimum(leave, np.maximum(first, second), out=leave)
    return np.where(enter < leave, 1 / enter, np.float32(np.nan))


def paint(image: Image, frame: Frame, solids: Solids, materials: Materials, light: Light, camera: Camera) -> None:
    """Colours the pixels of `image` (H, W, 3), RGB, that show a solid, in place."""
    pixels = np.flatnonzero(frame.solid >= 0)
    which = frame.solid.ravel()[pixels].astype(np.int64)
    local = _local_points(pixels, which, frame, solids, camera)
    shade = _lambert(local, which, solids, light)
    colours, patterns, pitches = materials.tables()
    row = solids.material[which]
    mixed, pattern = colours[0][:, row], patterns[row]
    for kind in set(patterns[np.unique(solids.material)].tolist()) & {FACE, *_PATTERNS}:
        at = np.flatnonzero(pattern == kind)
        if kind == FACE:
            _paint_faces(mixed, local, at, colours[1][:, row], pitches[row])
        else:
            second = at[_PATTERNS[kind](local[:, at], solids.radii[which[at]].T.astype(np.float32), pitches[row[at]])]
            mixed[:, second] = colours[1][:, row[second]]
    image.reshape(-1, 3)[pixels] = np.clip(mixed * shade, 0, 255).astype(np.uint8).T


def _local_points(pixels: Ints, which: Ints, frame: Frame, solids: Solids, camera: Camera) -> Floats32:
    """Where the pixels' rays meet their solids, in units of the solid's radii: (3, N)."""
    u, v = (slopes.astype(np.float32) for slopes in camera.rays())
    depth = 1 / frame.nearness.ravel()[pixels]
    points = u[pixels % camera.width] * depth, v[pixels // camera.width] * depth, depth
    scaled = (solids.rotation / solids.radii[:, None, :]).astype(np.float32)
    start = np.einsum("sij,si->js", scaled, solids.origin).astype(np.float32)
    return np.stack(
        [sum(scaled[:, i, j][which] * points[i] for i in range(3)) - start[j][which] for j in range(3)]
    )  # fmt: skip


def _lambert(local: Floats32, which: Ints, solids: Solids, light: Light) -> Floats32:
    """Brightness (N,) of the surface points by the angle between normal and lamp, softened around the edge."""
    inverse = (1 / solids.radii).T.astype(np.float32)
    normal = local * inverse[:, which]
    kind = solids.kind[which]
    cone = np.flatnonzero(kind == CONE)
    taper = solids.taper[which[cone]].astype(np.float32)
    normal[1, cone] = -taper * (1 + taper * local[1, cone] * solids.radii[which[cone], 1].astype(np.float32))
    box = np.flatnonzero(kind == BOX)
    if len(box):
        normal[:, box] = np.where(np.abs(local[:, box]) >= 0.999 * np.abs(local[:, box]).max(axis=0), local[:, box], 0)
    lamp = np.einsum("sij,i->js", solids.rotation, light.direction).astype(np.float32)
    facing = sum(normal[j] * lamp[j][which] for j in range(3)) / np.sqrt(
        normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2 + np.float32(1e-20)
    )
    return np.float32(light.ambient) + np.float32(1 - light.ambient) * (0.35 + 0.65 * facing).clip(0, 1)


def _stripes(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return np.sin(q[1] * radii[1] * pitch / 64) > 0.1


def _upright(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return np.cos(q[0] * radii[0] * pitch / 40) > 0.3


def _checks(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return np.sin(q[1] * radii[1] * pitch / 50) * np.cos(q[0] * radii[0] * pitch / 50) > 0


def _open(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return (q[2] > 0) & (np.abs(q[0]) < 0.1 + 0.04 * pitch)


def _print(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return (q[2] > 0) & (q[0] ** 2 + (q[1] - 0.15) ** 2 < 0.04 * pitch)


def _mottled(q: Floats32, radii: Floats32, pitch: Floats32) -> NDArray[np.bool_]:
    return np.sin(5 * np.abs(q[0]) + 3 * pitch * q[1]) + np.sin(pitch * (q[2] * 3 - q[1] * 4) + 7 * np.abs(q[0])) > 0.4


_PATTERNS = {STRIPES: _stripes, UPRIGHT: _upright, CHECKS: _checks, OPEN: _open, PRINT: _print, MOTTLED: _mottled}


def _paint_faces(mixed: Floats32, local: Floats32, at: Ints, hair: Floats32, beard: Floats32) -> None:
    """Eyes, brows, mouth, hairline and beards on head pixels `at`, by the place on the head."""
    x, y, z = np.abs(local[0, at]), local[1, at], local[2, at]
    front = z > 0
    hairy = (y > 0.62) | (z < -0.25) | ((y > 0.28) & (y < 0.36) & (x > 0.2) & (x < 0.62) & front)
    hairy |= (beard[at] > 0) & front & (y < -0.32)
    mixed[:, at[hairy]] = hair[:, at[hairy]]
    eye = ((x - EYE[0]) / 0.19) ** 2 + ((y - EYE[1]) / 0.11) ** 2
    mixed[:, at[(eye < 1) & front]] = np.array([235, 235, 230])[:, None]
    iris = (x - EYE[0]) ** 2 + (y - EYE[1]) ** 2
    mixed[:, at[(iris < 0.0095) & front]] = np.array([35, 25, 20])[:, None]
    mouth = (x / 0.33) ** 2 + ((y + 0.52) / 0.08) ** 2
    mixed[:, at[(mouth < 1) & front]] = np.array([150, 62, 60])[:, None]
