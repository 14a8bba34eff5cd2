"""Nuclear stain is told from red cells by each image's own colours; no colour is fixed beforehand.

Stains and laboratories differ more than cells do: red cells are tan, pink, magenta or blue-grey, and nuclei violet, magenta or
nearly black. So colours become densities against the image's own light ground, and in density space the one direction is
sought along which nuclei stand out most from everything else in that image. Red cells of any thickness, and their overlaps,
then weigh next to nothing.
Letters: H, W height and width in px; N pixels; the three channels are red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

_GROUND_PERCENTILE = 95.0
_MOST_SAMPLED_SIDE = 256

# Where the search starts: about the mean direction of nuclei in Romanowsky stains, little of it blue.
_USUAL_NUCLEUS = np.array([0.50, 0.85, 0.10])
# The blue that haemoglobin and eosin absorb marks red cells in the first guess, before the image's own are known.
_FIRST_GUESS = np.array([1.0, 1.0, -2.0])
_LEAST_DENSITY = 0.06
_LEAST_NUCLEAR_PIXELS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class NuclearStain:
    """Weights of red, green and blue density; their sum is 1 at the image's mean nucleus and about 0 elsewhere.

    `spread` is the root mean square of that sum over all that is no nucleus: near 0.1 where nuclei stand out, and near 1
    where what was taken for nuclei is as common as the rest.
    """

    weights: tuple[float, float, float]
    spread: float


def ground_colour(pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Give the colour of the light ground of RGB pixels (H, W, 3): each channel's 95th percentile."""
    step = -(-max(pixels.shape[:2]) // _MOST_SAMPLED_SIDE)
    colours = pixels[::step, ::step].reshape(-1, 3)
    red, green, blue = np.percentile(colours, _GROUND_PERCENTILE, axis=0)
    return round(float(red)), round(float(green)), round(float(blue))


def densities(pixels: NDArray[np.uint8], ground: tuple[int, int, int]) -> Plane:
    """Give optical densities (3, H, W) against the ground, base 10; what is lighter than the ground has 0.

    Source: optical density: Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23:291.
    """
    levels = np.arange(256, dtype=np.float32)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, light in enumerate(ground):
        table = -np.log10((np.minimum(levels, light) + 1.0) / np.float32(light + 1.0))
        planes[channel] = table.astype(np.float32)[pixels[:, :, channel]]
    return planes


def nuclear_stain(planes: Plane, *, noise: float, most_samples: int = 40_000, rounds: int = 4) -> NuclearStain | None:
    """Find the weights that keep the mean nucleus at 1 and all else at least energy; None where nothing is stained so.

    `planes` (3, H, W) are densities, `noise` the density below which differences mean nothing. What counts as nucleus and as
    the rest is found in turn, starting from the usual colour of nuclei.
    Source: constrained energy minimisation: Harsanyi and Chang 1994, IEEE Trans. Geosci. Remote Sens. 32:779.
    """
    flat = planes.reshape(3, -1)
    samples = flat[:, :: max(1, flat.shape[1] // most_samples)].astype(np.float64)
    stained = samples.sum(axis=0) > _LEAST_DENSITY
    score = _FIRST_GUESS @ samples
    if np.count_nonzero(stained) < _LEAST_NUCLEAR_PIXELS:
        return None
    threshold = otsu(score[stained])
    target = _USUAL_NUCLEUS / np.linalg.norm(_USUAL_NUCLEUS)
    for turn in range(rounds):
        rest, nuclear = samples[:, score < threshold], samples[:, score >= threshold]
        if rest.shape[1] == 0 or nuclear.shape[1] < _LEAST_NUCLEAR_PIXELS:
            return None
        if turn:
            target = nuclear.mean(axis=1)
        energy = rest @ rest.T / rest.shape[1] + noise**2 * np.eye(3)
        weights = np.linalg.solve(energy, target)
        weights /= target @ weights
        spread = float(np.sqrt(weights @ energy @ weights))
        score = weights @ samples
        threshold = 0.5
        if turn == 0:
            # The usual colour has no amount yet: the threshold is sought among what exceeds the rest.
            beyond = score[score > 2.0 * spread]
            threshold = otsu(beyond) if beyond.size >= _LEAST_NUCLEAR_PIXELS else 2.0 * spread
    red, green, blue = weights.tolist()
    return NuclearStain(weights=(red, green, blue), spread=spread)


def otsu(values: NDArray[np.float64] | Plane, bins: int = 256) -> float:
    """Give the threshold that parts values into two classes of least variance within.

    Source: Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    counts, edges = np.histogram(values, bins, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below, mass = counts.cumsum()[:-1], (counts * centres).cumsum()
    total, whole = float(counts.sum()), float(mass[-1])
    between = (whole * below / total - mass[:-1]) ** 2 / np.maximum(below * (total - below), 1)
    return float(edges[1:][int(np.argmax(between))])
