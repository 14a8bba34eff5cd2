"""What is measured of one image so that a data set can be searched for shortcuts: numbers only, no pixel is kept.

Everything is measured on the image shrunk to `MOST_SIDE_PX`, against its own light ground. The detectors of scale bars and
pointers, and the count of dark bodies, are cheap and coarse: they are to find out what a whole data set has in common, not
to say what is in one image.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

MOST_SIDE_PX = 576
"""Longer sides are shrunk by a whole factor to no more than this."""

_CHANNELS = ("red", "green", "blue")
COLOUR_NAMES = tuple(
    f"{channel} {what}" for channel in _CHANNELS for what in ("mean", "spread", "5th", "median", "95th percentile")
)
"""The entries of `Traits.colour` and `Traits.background`, 0 to 1."""

BORDER_NAMES = (
    *(f"{channel} mean" for channel in _CHANNELS),
    *(f"{channel} spread" for channel in _CHANNELS),
    *("edges across", "edges down", "ink", "white"),
)
"""The entries of `Traits.border`: colour 0 to 1, mean steps between neighbours, shares of pixels of ink and pure white."""

CORNERS = ("top left", "top right", "bottom left", "bottom right")
_CORNER_PARTS = (*(f"{channel} mean" for channel in _CHANNELS), "edges", "ink", "white")
CORNER_NAMES = tuple(f"{corner}: {part}" for corner in CORNERS for part in _CORNER_PARTS)
"""The entries of `Traits.corners`, as those of the border, of each corner."""

_GROUND_PERCENTILE = 0.97
_DENSITY_OF_CELLS = 0.35
_LEAST_BACKGROUND = 0.01
_STAINED_EXCESS, _LEAST_EXCESS = 0.08, 0.2
_LEAST_BODY_PX = 24
_BORDER_SHARE, _CORNER_SHARE = 0.04, 0.2
_WHITE = 250
_STROKE_PX, _STROKE_STEP = 4, 50
_WINDOW_SHARE = (0.1, 0.22)
_BOLD_SHARE = 0.05
_LEAST_POINTER_PX, _MOST_POINTER = 20, 0.005

LEAST_SCALE_BAR = 8.0
"""Pixels of thin strokes of ink in one window near the edge from which on a scale bar or text is taken to be there."""
LEAST_POINTER = 1e-4
"""Share of the image that glows in one piece from which on a pointer is taken to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One image in numbers; `format` is Pillow's name, the sequences follow `COLOUR_NAMES`, `BORDER_NAMES`, `CORNER_NAMES`.

    `bodies` is how many dark stained bodies were counted, clumps by their area; `body_px` the diameter of a typical one in
    px of the image as it is stored, None where there is none. `scale_bar_style` is "fine" or "bold" with "black" or "red".
    `scale_bar` and `pointer` are compared with `LEAST_SCALE_BAR`
    and `LEAST_POINTER`; where below, the places are empty.
    """

    width: int
    height: int
    megapixels: float
    format: str
    jpeg_quality: float | None
    colour: Sequence[float]
    background: Sequence[float]
    border: Sequence[float]
    corners: Sequence[float]
    bodies: float
    body_px: float | None
    scale_bar: float
    scale_bar_place: str
    scale_bar_style: str
    pointer: float
    pointer_place: str

    @property
    def has_scale_bar(self) -> bool:
        """Say whether a scale bar, or text, is taken to be there."""
        return self.scale_bar >= LEAST_SCALE_BAR

    @property
    def has_pointer(self) -> bool:
        """Say whether a glowing pointer is taken to be there."""
        return self.pointer >= LEAST_POINTER


RECORD = np.dtype(
    [
        ("width", "<u4"), ("height", "<u4"), ("megapixels", "<f8"), ("format", "S16"), ("jpeg_quality", "<f8"),
        ("colour", "<f4", (len(COLOUR_NAMES),)), ("background", "<f4", (len(COLOUR_NAMES),)),
        ("border", "<f4", (len(BORDER_NAMES),)), ("corners", "<f4", (len(CORNER_NAMES),)),
        ("bodies", "<f8"), ("body_px", "<f8"),
        ("scale_bar", "<f8"), ("scale_bar_place", "S16"), ("scale_bar_style", "S16"),
        ("pointer", "<f8"), ("pointer_place", "S16"),
    ]
)  # fmt: skip
"""`Traits` of fixed size, field by field, as they are kept in files; None is NaN."""

_PART = 4096


def packed(traits: Sequence[Traits]) -> NDArray[np.void]:
    """Give traits as rows (N,) of `RECORD`."""
    rows = np.zeros(len(traits), dtype=RECORD)
    for place, one in enumerate(traits):
        values = [getattr(one, field.name) for field in fields(Traits)]
        rows[place] = tuple(np.nan if value is None else value for value in values)
    return rows


class StoredTraits(Sequence[Traits]):
    """The traits of some `rows` (all, where None) of a table of `RECORD`, made anew each time they are asked for.

    `table` is an array or a file that gives arrays for slices and for arrays of row numbers.
    """

    def __init__(self, table: Any, rows: NDArray[np.int64] | None = None) -> None:
        self._table, self._rows = table, rows
        self._words: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Traits: ...
    @overload
    def __getitem__(self, place: slice) -> list[Traits]: ...
    def __getitem__(self, place: int | slice) -> Traits | list[Traits]:
        if isinstance(place, slice):
            return self._made(np.arange(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._made(np.array([place % len(self)]))[0]

    def __iter__(self) -> Iterator[Traits]:
        for start in range(0, len(self), _PART):
            yield from self._made(np.arange(start, min(start + _PART, len(self))))

    def _made(self, places: NDArray[np.int64]) -> list[Traits]:
        rows = places if self._rows is None else self._rows[places]
        stored = (
            self._table[rows[0] : rows[-1] + 1]
            if len(rows) and rows[-1] - rows[0] + 1 == len(rows)
            else self._table[rows]
        )
        return [self._one(values) for values in stored.tolist()]

    def _one(self, values: Sequence[Any]) -> Traits:
        plain = (self._plain(value) for value in values)
        return Traits(**dict(zip(RECORD.names or (), plain, strict=True)))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, bytes):  # few words, many images
            return self._words.setdefault(value, value.decode("ascii"))
        return None if isinstance(value, float) and math.isnan(value) else value


def measure(pixels: NDArray[np.uint8], *, format: str, jpeg_quality: float | None) -> Traits:
    """Measure RGB pixels (H, W, 3); raises ValueError for another shape or type, or a side below 16 px."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or min(pixels.shape[:2]) < 16:
        raise ValueError(f"pixels must be uint8 (H, W, 3) of 16 px a side or more, got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    factor = -(-max(height, width) // MOST_SIDE_PX)
    small = pixels
    if factor > 1:
        small = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(factor))
    counts = _counts(small.reshape(-1, 3))
    ground = np.maximum((counts.cumsum(axis=1) < _GROUND_PERCENTILE * counts[0].sum()).sum(axis=1), 1)
    density = _densities(small, ground)
    black, red = _ink(small)
    ink = black | red
    bodies, body_px = _bodies(density)
    bar, bar_place, bar_style = _scale_bar(ink, red)
    pointer, pointer_place = _pointer(density, small)
    return Traits(
        width=width,
        height=height,
        megapixels=width * height / 1e6,
        format=format,
        jpeg_quality=jpeg_quality,
        colour=_colours(counts),
        background=_colours(_counts(small[_background(density)])),
        border=_border(small, ink),
        corners=_corners(small, ink),
        bodies=bodies,
        body_px=None if body_px is None else body_px * factor,
        scale_bar=bar,
        scale_bar_place=bar_place,
        scale_bar_style=bar_style,
        pointer=pointer,
        pointer_place=pointer_place,
    )


# ----------------------------------------------------------------------------------------------------------- colour


def _counts(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the values of each channel of (N, 3): (3, 256)."""
    return np.stack([np.bincount(colours[:, c], minlength=256) for c in range(3)]).astype(np.int64)


def _packed(values: Iterable[float]) -> Sequence[float]:
    """Keep numbers in four bytes each: there can be a million images."""
    return array("f", values)


def _colours(counts: NDArray[np.int64]) -> Sequence[float]:
    values = np.arange(256) / 255
    total = counts[0].sum()
    found: list[float] = []
    for channel in counts:
        mean = float(channel @ values) / total
        spread = float(np.sqrt(max(channel @ (values - mean) ** 2 / total, 0.0)))
        heaped = channel.cumsum()
        quantiles = [float((heaped < share * total).sum()) / 255 for share in (0.05, 0.5, 0.95)]
        found += [mean, spread, *quantiles]
    return _packed(found)


def _densities(pixels: NDArray[np.uint8], ground: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give natural optical densities (H, W, 3) against the ground; what is lighter has none.

    Source: Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23:291.
    """
    found = np.empty(pixels.shape, dtype=np.float32)
    for c in range(3):
        table = -np.log((np.minimum(np.arange(256), ground[c]) + 1) / (ground[c] + 1))
        found[..., c] = table.astype(np.float32)[pixels[..., c]]
    return found


def _background(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark what no cell covers (H, W), away from the edges of cells; the lightest hundredth where cells cover all."""
    total = density.sum(axis=2)
    free = ndimage.binary_erosion(total < _DENSITY_OF_CELLS, iterations=2, border_value=1)
    if free.mean() < _LEAST_BACKGROUND:
        free = total <= np.quantile(total, _LEAST_BACKGROUND)
    return np.asarray(free, dtype=np.bool_)


# ----------------------------------------------------------------------------------------------------------- bodies


def _bodies(density: NDArray[np.float32]) -> tuple[float, float | None]:
    """Count what absorbs green far more than red and blue, as nuclei do in Romanowsky stains and red cells do not.

    Bodies below a quarter of the typical area (platelets, dirt) are left out; clumps count by their area.
    """
    excess: NDArray[np.float32] = density[..., 1] - (density[..., 0] + density[..., 2]) * np.float32(0.5)
    dark = ndimage.binary_opening(excess > _nuclear_excess(excess), iterations=1)
    labels, count = ndimage.label(dark)
    if not count:
        return 0.0, None
    areas = np.bincount(labels.ravel())[1:].astype(np.float64)
    areas = np.sort(areas[areas >= _LEAST_BODY_PX])
    if not areas.size:
        return 0.0, None
    # The area in whose body the middle pixel of all bodies lies: small debris hardly moves it.
    typical = float(areas[np.searchsorted(areas.cumsum(), areas.sum() / 2)])
    areas = areas[areas >= typical / 4]
    typical = float(np.median(areas))
    return float(np.maximum(1, np.round(areas / typical)).sum()), float(np.sqrt(4 * typical / np.pi))


def _nuclear_excess(excess: NDArray[np.float32]) -> float:
    """Give the excess that parts nuclei best from what else is stained.

    Source: Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62; its bounds are our choice, so that a field without nuclei is not
    parted into two kinds of red cells.
    """
    low, high, bins = _STAINED_EXCESS, 1.5, 128
    counts, edges = np.histogram(np.minimum(excess[excess > low], high), bins=bins, range=(low, high))
    if not counts.any():
        return _LEAST_EXCESS
    centres = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = (counts * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return max(_LEAST_EXCESS, float(edges[1 + int(np.nan_to_num(apart).argmax())]))


# ------------------------------------------------------------------------------------------------- borders and marks


def _ink(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the thin strokes (H, W) of black, and of red that is no stain's: writing and lines, not cells."""
    red, green, blue = (pixels[..., c].astype(np.int16) for c in range(3))
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    black = (brightest <= 90) & (brightest - darkest <= 30)
    scarlet = (red - green >= 55) & (red - blue >= 50)
    return _thin(black, green), _thin(scarlet, np.maximum(green, blue) - red)


def _thin(coloured: NDArray[np.bool_], plane: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Keep of `coloured` what lies between higher values of `plane`, side by side or one above the other."""
    if not coloured.any():
        return coloured
    return coloured & (_between_higher(plane, axis=1) | _between_higher(plane, axis=0))


def _between_higher(plane: NDArray[np.int16], axis: int) -> NDArray[np.bool_]:
    """Mark pixels of which both sides, within `_STROKE_PX` along an axis, hold one that is higher by `_STROKE_STEP`."""
    size = [1, 1]
    size[axis] = _STROKE_PX
    before, after = [0, 0], [0, 0]
    before[axis], after[axis] = _STROKE_PX // 2 - 1, -(_STROKE_PX // 2)
    one = ndimage.maximum_filter(plane, size=size, origin=before, mode="nearest")
    other = ndimage.maximum_filter(plane, size=size, origin=after, mode="nearest")
    return np.asarray(np.minimum(one, other) - plane >= _STROKE_STEP, dtype=np.bool_)


def _place(y: float, x: float) -> str:
    """Name the ninth of the image that a point at shares (y, x) lies in."""
    down = ("top", "middle", "bottom")[min(int(3 * y), 2)]
    across = ("left", "centre", "right")[min(int(3 * x), 2)]
    return f"{down} {across}"


def _scale_bar(ink: NDArray[np.bool_], red: NDArray[np.bool_]) -> tuple[float, str, str]:
    """Give the most pixels of ink in one window in the upper or lower quarter of the image, where it lies, its style."""
    height, width = ink.shape
    if not ink.any():
        return 0.0, "", ""
    tall, wide = (max(8, round(share * side)) for share, side in zip(_WINDOW_SHARE, (height, width), strict=True))
    heaped = np.zeros((height + 1, width + 1), dtype=np.int64)
    heaped[1:, 1:] = ink.cumsum(axis=0).cumsum(axis=1)
    held = heaped[tall:, wide:] - heaped[:-tall, wide:] - heaped[tall:, :-wide] + heaped[:-tall, :-wide]
    rows = np.arange(held.shape[0])
    held[(rows > 0.25 * height - tall / 2) & (rows + tall < 0.75 * height + tall / 2)] = 0
    y, x = np.unravel_index(int(held.argmax()), held.shape)
    score = float(held[y, x])
    if score < LEAST_SCALE_BAR:
        return score, "", ""
    colour = "red" if red[y : y + tall, x : x + wide].sum() > score / 2 else "black"
    weight = "bold" if score >= _BOLD_SHARE * tall * wide else "fine"
    return score, _place((y + tall / 2) / height, (x + wide / 2) / width), f"{weight} {colour}"


def _pointer(density: NDArray[np.float32], pixels: NDArray[np.uint8]) -> tuple[float, str]:
    """Give the share of the largest piece that glows yellow or orange: as light as the ground in red, dark in blue.

    Stained bodies are not so: where they are dark in blue they are darker in green, or dark in red too.
    """
    red, green, blue = (density[..., c] for c in range(3))
    glowing = (red <= 0.02) & (blue >= 0.3) & (blue - green >= 0.1) & (pixels[..., 0] >= 180)
    if not glowing.any():
        return 0.0, ""
    labels, _ = ndimage.label(glowing)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    largest = int(areas.argmax())
    share = float(areas[largest]) / glowing.size
    if areas[largest] < _LEAST_POINTER_PX or share > _MOST_POINTER:
        return 0.0, ""
    if share < LEAST_POINTER:
        return share, ""
    y, x = ndimage.center_of_mass(labels == largest)
    return share, _place(y / glowing.shape[0], x / glowing.shape[1])


def _border(pixels: NDArray[np.uint8], ink: NDArray[np.bool_]) -> Sequence[float]:
    height, width = ink.shape
    deep = max(2, round(_BORDER_SHARE * min(height, width)))
    sides = ((slice(0, deep), slice(None)), (slice(-deep, None), slice(None)),
             (slice(deep, -deep), slice(0, deep)), (slice(deep, -deep), slice(-deep, None)))  # fmt: skip
    strips = [pixels[side] for side in sides]
    colours = np.concatenate([strip.reshape(-1, 3) for strip in strips]) / 255
    across, down = (
        np.concatenate([np.abs(np.diff(strip[..., 1].astype(np.int16), axis=axis)).ravel() for strip in strips])
        for axis in (1, 0)
    )
    inked = np.concatenate([ink[side].ravel() for side in sides])
    white = colours.min(axis=1) >= _WHITE / 255
    steps = (float(across.mean()) / 255, float(down.mean()) / 255)
    return _packed(
        [
            *colours.mean(axis=0).tolist(),
            *colours.std(axis=0).tolist(),
            *steps,
            float(inked.mean()),
            float(white.mean()),
        ]
    )


def _corners(pixels: NDArray[np.uint8], ink: NDArray[np.bool_]) -> Sequence[float]:
    height, width = ink.shape
    tall, wide = round(_CORNER_SHARE * height), round(_CORNER_SHARE * width)
    found: list[float] = []
    for rows in (slice(0, tall), slice(-tall, None)):
        for columns in (slice(0, wide), slice(-wide, None)):
            part = pixels[rows, columns]
            green = part[..., 1].astype(np.int16)
            edges = (np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean()) / 2
            found += [
                *(float(value) / 255 for value in part.reshape(-1, 3).mean(axis=0)),
                float(edges) / 255,
                float(ink[rows, columns].mean()),
                float((part.min(axis=2) >= _WHITE).mean()),
            ]
    return _packed(found)


# ------------------------------------------------------------------------------------------------------ JPEG quality

# The luminance table at quality 50, in the zigzag order of the file.
# Source: ITU-T T.81 (1992), annex K.1, table K.1.
_LUMINANCE = np.array(
    [16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61,
     60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121,
     112, 100, 120, 92, 101, 103, 99], dtype=np.float64,
)  # fmt: skip
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def jpeg_quality(content: bytes) -> float | None:
    """Estimate the quality, 1 to 100, a JPEG was saved with from its first table; None for another format or no table.

    Tables that are not a multiple of the standard's give the quality of the nearest multiple.
    Source: the scaling of tables by quality is that of the Independent JPEG Group's library, jcparam.c.
    """
    if content[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:  # the picture begins; tables come before it
            return None
        (length,) = struct.unpack(">H", content[at + 2 : at + 4])
        if marker == 0xDB:
            return _quality_of(content[at + 4 : at + 2 + length])
        at += 2 + length
    return None


def _quality_of(segment: bytes) -> float | None:
    """Give the quality of the first table of a segment, None where it is cut short."""
    if not segment:
        return None
    wide = segment[0] >> 4 == 1
    table = (
        np.frombuffer(segment[1 : 1 + (128 if wide else 64)], dtype=">u2" if wide else np.uint8)
        if len(segment) > (128 if wide else 64)
        else np.empty(0)
    )
    if table.size != 64:
        return None
    # Rounding and the bounds 1 and 255 bend single entries; the whole table is hardly moved.
    scale = 100 * float(table.astype(np.float64).sum()) / float(_LUMINANCE.sum())
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return round(min(max(quality, 1.0), 100.0), 1)
