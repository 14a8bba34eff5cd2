"""Bring the colours of a smear to fixed numbers, by its two stains (Macenko) or by its colour statistics (Reinhard).

Both are one chain for every pixel: a linear map, a logarithm, an affine map, its exponential, a linear map. It is fitted once to
the whole image and then applied to each view of it. What cannot be fitted, an image of one colour, stays as it is.

Neither knows a cell: an image with few white cells gives other numbers than one with many, and part of that difference is
written into the colours. docs/how-to/remedies.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import StainNorm

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float32]

TARGETS: Mapping[StainNorm, tuple[float, ...]] = {
    "none": (),
    "macenko": (0.58, 0.77, 0.23, 0.17, 0.71, 0.68, 1.43, 0.93),
    "reinhard": (-0.284, -0.014, 0.008, 0.205, 0.044, 0.009),
}
"""Where colours are brought to. Macenko: red, green and blue density of nuclei and of red cells, then the 99th percentile of
the amount of each. Reinhard: means, then spreads, of l, alpha and beta.

Our choice: the medians over 120 drawn smears (`leuk sample-images`), which belong to no laboratory.
"""

GROUND = 240
"""Light of the ground after Macenko. Source: Macenko et al. 2009, ISBI, pp. 1107-1110."""

_MOST_SIDE_PX = 160
_GROUND_PERCENTILE = 95
_ABSORBING = 0.3
_LEAST_PIXELS, _LEAST_SHARE = 64, 0.005
_EXTREMES = (1, 99)
_LEAST_ANGLE = np.deg2rad(8)
_LEAST_AMOUNT = 0.05
_MOST_GAIN = 2.5
_LEAST_SPREAD = 1e-3

# Source of both matrices: Reinhard et al. 2001, IEEE CG&A 21(5):34-41, equations 4 and 6.
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]).T
_LAB = (np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])).T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StainShift:
    """One image's way to the fixed colours; all maps are for rows of red, green and blue."""

    before: Matrix
    mixing: Matrix
    offset: Matrix
    after: Matrix

    def apply(self, pixels: Pixels) -> Pixels:
        """Give RGB pixels (H, W, 3) in the fixed colours."""
        light: Matrix = ((np.arange(256) + 1) / 256).astype(np.float32)
        planes = _mixed([light[pixels[..., channel]] for channel in range(3)], self.before)
        planes = [np.log(np.maximum(plane, np.float32(1e-4))) for plane in planes]
        planes = _mixed(planes, self.mixing)
        planes = [np.exp(np.minimum(planes[i] + self.offset[i], np.float32(1))) for i in range(3)]
        shifted = np.empty_like(pixels)
        for channel, plane in enumerate(_mixed(planes, self.after)):
            shifted[..., channel] = np.clip(256 * plane - np.float32(0.5), 0, 255)  # cut off, so rounded
        return shifted


def _mixed(planes: Sequence[NDArray[np.float32]], by: Matrix) -> list[NDArray[np.float32]]:
    """Multiply rows of three channels by a matrix, the channels apart: five times as fast as in one product."""
    return [
        planes[0] * by[0, channel] + planes[1] * by[1, channel] + planes[2] * by[2, channel] for channel in range(3)
    ]


def fit_stain(pixels: Pixels, method: StainNorm, target: Sequence[float]) -> StainShift | None:
    """Fit the way from RGB pixels (H, W, 3) to `target`; None for `none` and for an image of one colour.

    Raises ValueError for another shape or type, or a target that does not fit the method.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    if len(target) != len(TARGETS[method]):
        raise ValueError(f"{method} takes a target of {len(TARGETS[method])} numbers, got {len(target)}")
    if method == "none":
        return None
    step = -(-max(pixels.shape[:2]) // _MOST_SIDE_PX)
    colours = pixels[::step, ::step].reshape(-1, 3).astype(np.float64)
    wanted = np.asarray(target, dtype=np.float64)
    return _macenko(colours, wanted) if method == "macenko" else _reinhard(colours, wanted)


def _shift(
    before: NDArray[np.float64], mixing: NDArray[np.float64], offset: NDArray[np.float64], after: NDArray[np.float64]
) -> StainShift:
    narrow = [np.ascontiguousarray(array, dtype=np.float32) for array in (before, mixing, offset, after)]
    return StainShift(before=narrow[0], mixing=narrow[1], offset=narrow[2], after=narrow[3])


def _macenko(colours: NDArray[np.float64], target: NDArray[np.float64]) -> StainShift | None:
    """Fit by the two extreme directions of density; where there is but one, only the ground is set.

    Source: Macenko et al. 2009, ISBI, pp. 1107-1110. Two departures, as azure hardly absorbs blue: a pixel counts by the sum
    of its densities, not by each of them; and the ground is the image's own.
    """
    ground = np.percentile(colours, _GROUND_PERCENTILE, axis=0)
    density = -np.log((np.minimum(colours, ground) + 1) / (ground + 1))
    held = density[density.sum(axis=1) > _ABSORBING]
    if len(held) < max(_LEAST_PIXELS, _LEAST_SHARE * len(colours)):
        return None
    before, after = np.diag(256 / (ground + 1)), np.eye(3) * ((GROUND + 1) / 256)
    mixing = np.eye(3)
    stains = _stains(held)
    if stains is not None:
        amounts = held @ np.linalg.pinv(stains)
        most = np.maximum(np.percentile(amounts, _EXTREMES[1], axis=0), _LEAST_AMOUNT)
        gains = np.clip(target[6:] / most, 1 / _MOST_GAIN, _MOST_GAIN)
        wanted = target[:6].reshape(2, 3)
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        mixing = np.linalg.pinv(stains) @ (gains[:, None] * wanted)
    return _shift(before, mixing, np.zeros(3), after)


def _stains(density: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Give unit densities (2, 3) of the two stains, the one that absorbs less blue, of nuclei, first; None where they are one."""
    _, axes = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = axes[:, :0:-1]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    on_plane = density @ plane
    angles = np.arctan2(on_plane[:, 1], on_plane[:, 0])
    ends = np.percentile(angles, _EXTREMES)
    if ends[1] - ends[0] < _LEAST_ANGLE:
        return None
    stains = np.stack([plane @ np.array([np.cos(end), np.sin(end)]) for end in ends])
    stains = np.maximum(stains, 0)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    if np.arccos(np.clip(stains[0] @ stains[1], -1, 1)) < _LEAST_ANGLE:
        return None
    # Haemoglobin absorbs blue, and azure hardly does.
    ordered: NDArray[np.float64] = stains[np.argsort(stains[:, 2], kind="stable")]
    return ordered


def _reinhard(colours: NDArray[np.float64], target: NDArray[np.float64]) -> StainShift | None:
    """Fit by means and spreads in l-alpha-beta, over all pixels; gains are held within 1 / 2.5 to 2.5, our choice."""
    cones = np.log(np.maximum((colours + 1) / 256 @ _LMS, 1e-4))
    axes = cones @ _LAB / np.log(10)
    mean, spread = axes.mean(axis=0), axes.std(axis=0)
    if spread[0] < _LEAST_SPREAD:
        return None
    gains = np.clip(target[3:] / np.maximum(spread, _LEAST_SPREAD), 1 / _MOST_GAIN, _MOST_GAIN)
    back = np.linalg.inv(_LAB)
    mixing = _LAB @ np.diag(gains) @ back
    offset = ((target[:3] - mean * gains) * np.log(10)) @ back
    return _shift(_LMS, mixing, offset, np.linalg.inv(_LMS))
