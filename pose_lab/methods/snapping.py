"""Snapping: keypoints move to the nearest peak of their heatmap, and on to the middle of a Gaussian fitted around it.

An option of DEKR's published code, off there too. Heatmaps have the input's size here, and positions count from pixel
centres.

Shape letters: B images, P people, K keypoints, M peaks of a kind, N fits, S pixels along a fit's window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pose_lab.ops.nms import highest_around
from pose_lab.ops.precision import full_precision

SNAPS = ("never", "peak", "fit")
_DAMPING, _CHANGE = 1e-3, 10.0  # of the Levenberg-Marquardt method: at the start, and after each step (Marquardt, 1963)


@dataclass(frozen=True)
class Snapping:
    """How keypoints are snapped.

    Attributes:
        snap: `never`; `peak`: to the nearest peak of the heatmap; `fit`: and on to the Gaussian that fits best there.
        snap_peaks: the highest so many peaks of each kind are looked at, however low.
        snap_window: side of the square (pixels of the input) within which a peak is the largest; odd.
        snap_distance: pixels; keypoints without a peak nearer than this stay where they are.
        fit_above: keypoints that score more are fitted.
        fit_radius: pixels around the keypoint's that the Gaussian is fitted to.
        fit_sigma: pixels, where the fit starts.
        fit_steps: of the least-squares fit.
    """

    snap: Literal["never", "peak", "fit"]
    snap_peaks: int
    snap_window: int
    snap_distance: float
    fit_above: float
    fit_radius: int
    fit_sigma: float
    fit_steps: int

    def __post_init__(self) -> None:
        if self.snap not in SNAPS:
            raise ValueError(f"inference.snap is {self.snap!r}; there are: {', '.join(SNAPS)}")
        if not isinstance(self.snap_window, int) or self.snap_window < 1 or self.snap_window % 2 == 0:
            raise ValueError(f"inference.snap_window is {self.snap_window}, but must be an odd whole number")
        for name in ("snap_peaks", "fit_radius", "fit_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"inference.{name} is {getattr(self, name)}, but must be at least 1")
        if not self.fit_sigma > 0:
            raise ValueError(f"inference.fit_sigma is {self.fit_sigma}, but must be above 0")


def enlarged_by(maps: Tensor, factor: float, frame: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *frame), bilinearly: cell c comes to lie at pixel factor c; beyond the last it goes on."""
    for dim, size in ((3, frame[1]), (2, frame[0])):  # columns first, while there are few rows
        last = maps.shape[dim] - 1
        cells = (torch.arange(size, device=maps.device) / factor).clamp(max=last)
        low = cells.long()
        share = (cells - low).view(-1, *[1] * (3 - dim)).to(maps)
        maps = torch.lerp(maps.index_select(dim, low), maps.index_select(dim, (low + 1).clamp(max=last)), share)
    return maps


def snapped(keypoints: Tensor, scores: Tensor, image_index: Tensor, heat: Tensor, settings: Snapping) -> Tensor:
    """Keypoints (P, K, 2) where their heatmaps say.

    Args:
        keypoints: positions in the input.
        scores: (P, K) theirs.
        image_index: (P,) int64.
        heat: (B, K, H, W); what is not a finite number counts as nothing.
        settings: the parameters.
    """
    heat = heat.where(heat.isfinite(), -torch.inf)
    places, found = _peaks(heat, settings)
    distance = (places[image_index] - keypoints[:, :, None]).norm(dim=3)  # (P, K, M)
    nearest, which = distance.where(found[image_index], torch.inf).min(2)
    own = places[image_index].gather(2, which[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    keypoints = own.where((nearest < settings.snap_distance)[..., None], keypoints)
    if settings.snap == "peak":
        return keypoints
    height, width = heat.shape[2:]
    centres = (keypoints + 0.5).floor()
    inside = ((centres >= 0) & (centres < centres.new_tensor([width, height]))).all(-1)
    person, kind = (inside & (scores > settings.fit_above)).nonzero(as_tuple=True)
    middle, fits = fitted(heat, image_index[person], kind, centres[person, kind].long(), settings)
    keypoints = keypoints.clone()
    keypoints[person, kind] = middle.where(fits[:, None], keypoints[person, kind])
    return keypoints


def _peaks(heat: Tensor, settings: Snapping) -> tuple[Tensor, Tensor]:
    """(B, K, M, 2) the highest peaks x, y of each map; and (B, K, M) bool, which of them are there."""
    highest = highest_around(heat, settings.snap_window)
    peaks = heat.where(heat == highest, -torch.inf).flatten(2)
    values, index = peaks.topk(min(settings.snap_peaks, peaks.shape[2]))
    width = heat.shape[3]
    return torch.stack([index % width, index // width], -1).to(heat), values > -torch.inf


@full_precision
def fitted(
    heat: Tensor, image_index: Tensor, kind: Tensor, centres: Tensor, settings: Snapping
) -> tuple[Tensor, Tensor]:
    """Middles of the round Gaussians that fit heatmaps best around pixels, all N by Levenberg and Marquardt at once.

    Windows end at the map's border. (The published code mixes up x and y of windows that are cut there.)

    Args:
        heat: (B, K, H, W).
        image_index: (N,) int64, which picture.
        kind: (N,) int64, which keypoint's map.
        centres: (N, 2) int64 x, y, within the map: where the fit starts, with the height there.
        settings: radius, first sigma, steps.

    Returns:
        (N, 2) positions, and (N,) bool, whether the fit found anything better than its start, and within its window.
    """
    height, width = heat.shape[2:]
    steps = torch.arange(-settings.fit_radius, settings.fit_radius + 1, device=heat.device)
    x, y = (centres[:, :, None] + steps).unbind(1)  # (N, S)
    shown = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]  # (N, S, S) rows, columns
    rows, columns = y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None]
    values = heat[image_index[:, None, None], kind[:, None, None], rows, columns]
    shown &= values.isfinite()
    values = values.where(shown, 0)
    middle = values[:, settings.fit_radius, settings.fit_radius]
    zero = torch.zeros_like(middle)
    gaussian = torch.stack([middle, zero, zero, zero + settings.fit_sigma], 1)  # height, x, y, sigma
    damping, came_nearer = torch.full_like(middle, _DAMPING), torch.zeros_like(middle, dtype=torch.bool)
    error, slopes = _errors(gaussian, values, shown, steps)
    for _ in range(settings.fit_steps):
        normal = slopes.transpose(1, 2) @ slopes
        diagonal = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + torch.finfo(heat.dtype).tiny)
        change, _ = torch.linalg.solve_ex(damped, slopes.transpose(1, 2) @ error[..., None])
        trial = gaussian - change[..., 0]
        trial_error, trial_slopes = _errors(trial, values, shown, steps)
        better = trial_error.square().sum(1) < error.square().sum(1)
        gaussian = trial.where(better[:, None], gaussian)
        error, slopes = trial_error.where(better[:, None], error), trial_slopes.where(better[:, None, None], slopes)
        damping, came_nearer = damping * torch.where(better, 1 / _CHANGE, _CHANGE), came_nearer | better
    moved = gaussian[:, 1:3]
    return centres + moved, came_nearer & (moved.abs() <= settings.fit_radius).all(1)


def _errors(gaussian: Tensor, values: Tensor, shown: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """(N, S S) Gaussians (N, 4) less the values (N, S, S) where these are shown, and their slopes (N, S S, 4)."""
    height, x, y, sigma = (part[:, None, None] for part in gaussian.unbind(1))
    across, down = steps - x, steps[:, None] - y
    squares = across.square() + down.square()
    bell = (squares / (-2 * sigma.square())).exp() * shown
    drawn = height * bell
    slopes = (bell, drawn * across / sigma**2, drawn * down / sigma**2, drawn * squares / sigma**3)
    return (drawn - values).flatten(1), torch.stack(slopes, -1).flatten(1, 2)
