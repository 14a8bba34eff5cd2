"""Describe an image in about 2 KB so that its copies can be told: re-encoded, recoloured, turned, mirrored, resized or cropped.

A fingerprint is a thumbnail of the whole image and the surroundings of its most striking blobs (in smears: nuclei, red cells
and the gaps between them), each with its place and size. What is compared, and when two images are called copies, is for
`data.duplicates` to say. Brightness, contrast and the image's own size are taken out here; turns and mirrors are not, because
they act on thumbnails and on blobs' surroundings exactly (quarter turns only).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 32
MOST_BLOBS = 40
COEFFICIENTS = 27
"""Of 8×8 cosine frequencies (v, u) those with 1 ≤ u + v ≤ 6, ordered by v, then u."""

VERSION = "1"
"""Of what a fingerprint is: those of another version are not compared."""

RECORD = np.dtype(
    [
        ("thumbnail", "u1", (THUMBNAIL_PX, THUMBNAIL_PX)),
        ("aspect", "<f4"),
        ("count", "u1"),
        ("places", "<f2", (MOST_BLOBS, 3)),
        ("patches", "i1", (MOST_BLOBS, COEFFICIENTS)),
        ("dark", "?", (MOST_BLOBS,)),
    ]
)
"""A fingerprint of fixed size, as it is kept in files: `count` says how many of the blobs there are."""

_SIDE_PX = 192
_STEP_PX = 2
_LEVELS = 9
_FIRST_SIGMA_PX = 2.4
_LEVEL_RATIO = 2 ** (1 / 3)
_PATCH = 8
_REACH = 3.5
_LEAST_DIFFERENCE = 0.02
_SPOILED_EXIF = (OSError, ValueError, TypeError, KeyError, SyntaxError, EOFError)
_EXIF_DETAILS, _TAKEN, _MAKER, _MODEL = 0x8769, 36867, 271, 272


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fingerprint:
    """A thumbnail (32, 32) uint8 of the whole image, sides scaled apart, and K ≤ 40 blobs, the most striking first.

    `aspect` is width / height. `places` (K, 3) float32 are x, y and size in units of the square root of the image's area;
    `patches` (K, 27) int8 the cosine coefficients of the surroundings, seven sizes wide, weighted and of one length;
    `dark` (K,) bool says which blobs are darker than what is around them.
    """

    thumbnail: NDArray[np.uint8]
    aspect: float
    places: NDArray[np.float32]
    patches: NDArray[np.int8]
    dark: NDArray[np.bool_]


def describe(pixels: NDArray[np.uint8]) -> Fingerprint:
    """Describe RGB pixels (H, W, 3); equal pixels give equal fingerprints. Raises ValueError for another shape or type.

    Source: blobs as extrema of differences of Gaussians over place and scale: Lowe 2004, Int. J. Comput. Vis. 60:91; cosine
    coefficients as a hash of grey values: Zauner 2010 (pHash). Sizes and counts are our choice.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    # Green is what stains absorb most: it is the last channel that brightening drives to white.
    grey = Image.fromarray(np.ascontiguousarray(pixels[:, :, 1]))
    unit_px = (height * width) ** 0.5
    # Longer strips than 16:1 would cost memory with their length: they are squashed, and have a thumbnail only.
    longest = 4 * _SIDE_PX
    small_width = min(longest, max(_PATCH, round(width * _SIDE_PX / unit_px)))
    small_height = min(longest, max(_PATCH, round(height * _SIDE_PX / unit_px)))
    # A box of whole pixels first: most of the work on a large photograph, and the cheapest filter there is.
    thinned = grey.reduce(max(1, int(unit_px / _SIDE_PX / 2)))
    small = thinned.resize((small_width, small_height), Image.Resampling.BICUBIC)
    strip = max(height, width) > 16 * min(height, width)
    places, patches, dark = _no_blobs() if strip else _blobs(np.asarray(small, dtype=np.float32))
    return Fingerprint(
        thumbnail=_thumbnail(small),
        aspect=width / height,
        places=places,
        patches=patches,
        dark=dark,
    )


def packed(prints: Sequence[Fingerprint]) -> NDArray[np.void]:
    """Give fingerprints as rows (N,) of `RECORD`; places are rounded to eleven bits."""
    rows = np.zeros(len(prints), dtype=RECORD)
    for row, one in zip(rows, prints, strict=True):
        count = len(one.places)
        row["thumbnail"], row["aspect"], row["count"] = one.thumbnail, one.aspect, count
        row["places"][:count], row["patches"][:count], row["dark"][:count] = one.places, one.patches, one.dark
    return rows


def _thumbnail(small: Image.Image) -> NDArray[np.uint8]:
    """Shrink to (32, 32) and stretch the grey values to 0..255: eight bits must hold what little contrast there is."""
    grey = np.asarray(
        Image.fromarray(np.asarray(small, dtype=np.float32)).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    )
    least, most = float(grey.min()), float(grey.max())
    if most - least < 1:
        return np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    stretched: NDArray[np.uint8] = np.rint((grey - least) * (255 / (most - least))).astype(np.uint8)
    return stretched


def _blobs(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.bool_]]:
    """Find the blobs of grey (H, W) and describe what is around them."""
    height, width = grey.shape
    spread = float(grey.std())
    if spread < 1:
        return _no_blobs()
    levels = _blurring(height) @ ((grey - grey.mean()) / spread) @ _blurring(width).transpose(0, 2, 1)
    differences = np.diff(levels, axis=0)
    layer, row, column = _extrema(differences)
    if layer.size == 0:
        return _no_blobs()
    value = differences[layer, row, column]
    scale, y, x = (
        place + shift
        for place, shift in zip((layer, row, column), _shifts(differences, layer, row, column), strict=True)
    )
    sigma = _FIRST_SIGMA_PX * _LEVEL_RATIO ** (scale + 0.5)
    y, x = y * _STEP_PX, x * _STEP_PX
    reach = sigma * (_REACH - 0.5)
    inside = (x >= reach) & (x <= width - 1 - reach) & (y >= reach) & (y <= height - 1 - reach)
    inside &= np.abs(value) >= _LEAST_DIFFERENCE
    kept = np.flatnonzero(inside)
    kept = kept[np.argsort(-np.abs(value[kept]), kind="stable")[:MOST_BLOBS]]
    if kept.size == 0:
        return _no_blobs()
    patches = _patches(levels, layer[kept], y[kept], x[kept], sigma[kept])
    unit_px = (height * width) ** 0.5
    places = np.stack([x[kept] + 0.5, y[kept] + 0.5, sigma[kept]], axis=1) / unit_px
    return places.astype(np.float32), patches, value[kept] > 0


def _no_blobs() -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.bool_]]:
    return np.zeros((0, 3), np.float32), np.zeros((0, COEFFICIENTS), np.int8), np.zeros(0, bool)


@lru_cache(maxsize=64)
def _blurring(length: int) -> NDArray[np.float32]:
    """Give matrices (levels, ⌈length / 2⌉, length) that blur and take every second pixel; rows sum to 1, at borders too."""
    sigma = _FIRST_SIGMA_PX * _LEVEL_RATIO ** np.arange(_LEVELS)
    away = np.arange(0, length, _STEP_PX)[:, None] - np.arange(length)[None, :]
    weights = np.exp(-0.5 * (away[None] / sigma[:, None, None]) ** 2)
    shared: NDArray[np.float32] = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    shared.flags.writeable = False
    return shared


def _extrema(differences: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Give layer, row and column of what is above, or below, all 26 neighbours; the outermost of each axis have none."""
    inner = differences[1:-1, 1:-1, 1:-1]
    if min(differences.shape) < 3:
        nothing = np.zeros(0, dtype=np.intp)
        return nothing, nothing, nothing
    most, least = differences, differences
    for axis in range(3):
        before, middle, after = (
            tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))
            for start, stop in ((None, -2), (1, -1), (2, None))
        )
        most = np.maximum(np.maximum(most[before], most[middle]), most[after])
        least = np.minimum(np.minimum(least[before], least[middle]), least[after])
    layer, row, column = np.nonzero(((inner == most) & (inner > 0)) | ((inner == least) & (inner < 0)))
    return layer + 1, row + 1, column + 1


def _shifts(
    differences: NDArray[np.float32], layer: NDArray[np.intp], row: NDArray[np.intp], column: NDArray[np.intp]
) -> list[NDArray[np.float64]]:
    """Give how far (in layers, rows, columns; at most half) the top of a parabola through neighbours lies from each."""
    middle = differences[layer, row, column]
    shifts = []
    for axis in range(3):
        step = [int(axis == a) for a in range(3)]
        before = differences[layer - step[0], row - step[1], column - step[2]]
        after = differences[layer + step[0], row + step[1], column + step[2]]
        bend = (before - 2 * middle + after).astype(np.float64)
        shifts.append(np.clip(0.5 * (before - after) / np.where(bend == 0, 1, bend), -0.5, 0.5))
    return shifts


def _patches(
    levels: NDArray[np.float32],
    layer: NDArray[np.intp],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> NDArray[np.int8]:
    """Sample 8×8 places one sigma apart around each blob from the level blurred by about that, and take cosines of them."""
    offsets = (np.arange(_PATCH) - (_PATCH - 1) / 2)[None, :] * sigma[:, None]
    rows = np.clip((y[:, None] + offsets) / _STEP_PX, 0, levels.shape[1] - 1)
    columns = np.clip((x[:, None] + offsets) / _STEP_PX, 0, levels.shape[2] - 1)
    top = np.minimum(rows.astype(np.intp), levels.shape[1] - 2)
    left = np.minimum(columns.astype(np.intp), levels.shape[2] - 2)
    down, right = (rows - top)[:, :, None], (columns - left)[:, None, :]
    at = layer[:, None, None], top[:, :, None], left[:, None, :]
    sampled = (
        levels[at] * (1 - down) * (1 - right)
        + levels[at[0], at[1] + 1, at[2]] * down * (1 - right)
        + levels[at[0], at[1], at[2] + 1] * (1 - down) * right
        + levels[at[0], at[1] + 1, at[2] + 1] * down * right
    )
    waves, (v, u), weights = _cosines()
    held = (waves @ sampled @ waves.T)[:, v, u] * weights
    length = np.linalg.norm(held, axis=1, keepdims=True)
    scaled = np.rint(held / np.where(length == 0, 1, length) * 200)
    whole: NDArray[np.int8] = np.clip(scaled, -127, 127).astype(np.int8)
    return whole


@lru_cache(maxsize=1)
def _cosines() -> tuple[NDArray[np.float64], tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]]:
    """Give the cosine matrix (8, 8), which (v, u) are kept, and their weights: higher frequencies have less to them."""
    waves = np.cos(np.pi * (np.arange(_PATCH)[None, :] + 0.5) * np.arange(_PATCH)[:, None] / _PATCH)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    total = np.add.outer(np.arange(_PATCH), np.arange(_PATCH))
    v, u = np.nonzero((total >= 1) & (total <= 6))
    return waves, (v, u), total[v, u].astype(np.float64)


def capture_facts(content: bytes) -> tuple[str | None, str]:
    """Give when a photograph was taken, as its EXIF data say ('YYYY:MM:DD HH:MM:SS' or None), and the camera ('' if not said).

    Nothing else is read: no place, no owner, no serial number. Damaged EXIF data, and files that are no image, say nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                exif = image.getexif()
                taken = exif.get_ifd(_EXIF_DETAILS).get(_TAKEN)
                camera = " ".join(str(exif.get(tag, "")).strip("\0 ") for tag in (_MAKER, _MODEL)).strip()
    except _SPOILED_EXIF:
        return None, ""
    return (taken.strip("\0 ") or None if isinstance(taken, str) else None), camera
