"""A tile is looked at for cells only where cells can be told: stained, on a light ground, in focus.

Focus is judged by the tile's own structures, not by px: red cells of 20 or 150 px across may be equally sharp. Limits were set
on smears of eight sources, so that nearly every field that a person chose to photograph is usable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.vision.smear import LEAST_GROUND, MOST_COVER, smear_colours

Quality = Literal["usable", "empty", "blurred", "overstained"]

LEAST_CONTRAST = 12
"""Least span of green over the tile: the camera's noise on bare ground stays below, one pale red cell does not."""
LEAST_COVER = 0.02
"""Least share of the tile that absorbs; fields that were photographed for their cells have 0.2 and more."""
LEAST_SHARPNESS = 2.6
"""Least `sharpness`: ripples of one wavelength have 1.6, whatever it is; discs with edges that are sharp, far more."""
LEAST_SLOPE = 0.04
"""Least slope of the steepest edges, in spans of green per px: an edge 25 px wide is blurred at any magnification."""

_LINES = 256
_STEEP_PERCENTILE = 99.5


def tile_quality(pixels: NDArray[np.uint8]) -> Quality:
    """Judge RGB pixels (H, W, 3) of a tile that shows several cells; raises ValueError for another shape or type.

    Without stain, or all of one colour, it is empty; where nothing of a light ground shows, overstained (or too dark, or too
    thick); where edges are flat against the size of what they bound, blurred.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or min(pixels.shape[:2]) < 4:
        raise ValueError(f"pixels must be uint8 (H, W, 3) of 4 px a side or more, got {pixels.dtype} {pixels.shape}")
    darkest, lightest = _span(pixels[..., 1])
    if lightest - darkest < LEAST_CONTRAST:
        return "empty"
    colours = smear_colours(pixels)
    if colours.cover < LEAST_COVER:
        return "empty"
    if colours.ground < LEAST_GROUND or colours.cover > MOST_COVER:
        return "overstained"
    found, slope = sharpness(pixels)
    return "blurred" if found < LEAST_SHARPNESS or slope < LEAST_SLOPE else "usable"


def sharpness(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Give the steepest edges' slope times the mean length of light and dark runs, and the slope alone (spans per px).

    Measured in green on at most 256 rows and columns. The product does not change with magnification.
    """
    green = pixels[..., 1]
    darkest, lightest = _span(green)
    span = max(1.0, lightest - darkest)
    middle = float(green.mean())
    slopes, length, crossings = [], 0, 0
    for plane in (green, green.T):
        step = max(1, plane.shape[0] // _LINES)
        count = plane.shape[0] // step
        # Three neighbouring lines are averaged, and five px along them, so that noise is not taken for edges.
        lines = plane[: count * step].reshape(count, step, -1)[:, :3].mean(axis=1, dtype=np.float32)
        smooth = _smoothed(lines)
        slopes.append(np.abs(smooth[:, 2:] - smooth[:, :-2]).ravel() / (2 * span))
        dark = smooth < middle
        length += dark.size
        crossings += int(np.count_nonzero(dark[:, 1:] != dark[:, :-1]))
    slope = float(np.percentile(np.concatenate(slopes), _STEEP_PERCENTILE))
    return slope * length / max(crossings, 1), slope


def _span(green: NDArray[np.uint8]) -> tuple[float, float]:
    step = -(-max(green.shape) // 512)
    darkest, lightest = np.percentile(green[::step, ::step], (1, 99))
    return float(darkest), float(lightest)


def _smoothed(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth along the lines by the binomial weights 1 4 6 4 1; their variance is 1 px²."""
    wide = np.pad(lines, ((0, 0), (2, 2)), mode="edge")
    length = lines.shape[1]
    parts = [weight * wide[:, at : at + length] for at, weight in enumerate((1, 4, 6, 4, 1))]
    return np.asarray(sum(parts) / np.float32(16), dtype=np.float32)
