"""Tell by colour alone whether an image could be a stained blood smear in transmitted light: thin, on a light ground, and
absorbing green most, as Romanowsky stains (azure, eosin) and haemoglobin do.

It tells another laboratory's smear from a photograph, a page or a diagram; not blood from other tissue in like colours, and
not a disease. Limits were set on smears of eight sources, wide enough to hold them all; docs/explanation/doubt.md has the
figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_SIDE_PX = 256
"""Longer sides are thinned out to this: shares of colours need no more."""

_GROUND_PERCENTILE = 97
_ABSORBING = 0.3
_LEAST_COLOUR, _MOST_COLOUR = 0.1, 0.65

LEAST_GROUND = 120
LEAST_ABSORBANCE, MOST_ABSORBANCE = 0.1, 1.6
LEAST_COVER, MOST_COVER = 0.05, 0.9
LEAST_STAINED = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class SmearColours:
    """What the colours of an image come to; densities are natural logarithms, of red, green and blue together.

    `ground` is the darkest channel of the light ground, 0 to 255; `absorbance` the mean density over the image; `cover` the
    share of pixels that absorb; `stained` the share of what is absorbed that lies in pixels of a stain's colour.
    """

    ground: float
    absorbance: float
    cover: float
    stained: float

    @property
    def like_a_smear(self) -> bool:
        """Say whether all four are within what stained smears have."""
        return (
            self.ground >= LEAST_GROUND
            and LEAST_ABSORBANCE <= self.absorbance <= MOST_ABSORBANCE
            and LEAST_COVER <= self.cover <= MOST_COVER
            and self.stained >= LEAST_STAINED
        )


def smear_colours(pixels: NDArray[np.uint8]) -> SmearColours:
    """Measure the colours of RGB pixels (H, W, 3) against the image's own light ground.

    A pixel is of a stain's colour where its green density is above the mean of red and blue, and its colour neither grey nor
    of one channel alone. Raises ValueError for another shape or type, or no pixels.
    Source: optical density: Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23:291; the limits are our choice.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    step = -(-max(pixels.shape[:2]) // MOST_SIDE_PX)
    colours = pixels[::step, ::step].reshape(-1, 3).astype(np.float64)
    ground = np.percentile(colours, _GROUND_PERCENTILE, axis=0)
    density = -np.log((np.minimum(colours, ground) + 1) / (ground + 1))
    total = density.sum(axis=1)
    absorbing = total > _ABSORBING
    held = total[absorbing]
    share = density[absorbing] / held[:, None]
    green = share[:, 1] - (share[:, 0] + share[:, 2]) / 2
    colour = np.hypot(green, (share[:, 0] - share[:, 2]) * np.sqrt(3) / 2)
    of_stain = (green >= 0) & (colour >= _LEAST_COLOUR) & (colour <= _MOST_COLOUR)
    return SmearColours(
        ground=float(ground.min()),
        absorbance=float(total.mean()),
        cover=float(absorbing.mean()),
        stained=float(held[of_stain].sum() / held.sum()) if held.size else 0.0,
    )
