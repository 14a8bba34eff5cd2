"""Find what was painted on an image, and paint it over in the image's own ground: scale bars, lettering, pointers, arrows.

A colour that neither stain nor glass makes is paint: neutral black on light, saturated red, white above the ground, green, or
yellow brighter than the ground. Black, red and white count only as thin strokes side by side near the upper or lower edge, as
lettering and scale bars are: elsewhere they can be dirt, pigment or a nucleus. What is filled holds no copied cell. Marks in a
corner take a block of one of three sizes with them, so that the styles of scale bars come out alike.

Not found: blue or violet paint, black arrows amid the field, and lettering that is neither black, red nor white. Thresholds are
our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MOST_SIDE_PX = 1024
"""Longer sides are shrunk to this before marks are looked for."""
CORNER_BLOCKS = (1 / 6, 1 / 4, 1 / 3)
"""Sides of the blocks that a mark in a corner may take with it, as shares of the image's sides."""

_STRIP = 0.15
_BLACK, _DARK, _NEUTRAL, _CONTRAST = 110, 125, 40, 90
_RED, _RED_CONTRAST, _BRIGHT = 45, 58, 130
_WHITE, _WHITE_ABOVE = 250, 25
_GREEN = 90
_LIT_ABOVE, _LIT_YELLOW = 15, 60
_STROKE = 0.022
_GAP = (0.03, 0.06)
_LEAST_WIDTH, _MOST_HEIGHT = 0.03, 0.15
_LEAST_INK = 6
_COVERED, _BAR_DENSITY = 0.3, 0.5
_DENSITIES = (0.08, 0.16, 0.08)  # eosin makes loose red arcs, and nothing makes loose black or white ones
_LEAST_PAINT = 3e-4
_MARGIN = 0.012
_FEATHER = 0.02
_RING = 0.2
_LIGHT = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A rectangle of an image that holds paint; sides in px, right and bottom outside."""

    left: int
    top: int
    right: int
    bottom: int
    kind: str
    """`lettering` (scale bars too) or `paint` (pointers, arrows)."""


def find_marks(pixels: Pixels) -> tuple[Mark, ...]:
    """Give the marks on RGB pixels (H, W, 3), lettering first; empty where there are none.

    Raises ValueError for another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    factor = max(1.0, max(height, width) / MOST_SIDE_PX)
    small = pixels
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    found = []
    for kind, boxes in (("lettering", _lettering(small)), ("paint", _paint(small))):
        for top, left, bottom, right in boxes:
            margin = max(2, round(_MARGIN * max(small.shape[:2])))
            sides = (left - margin, top - margin, right + margin, bottom + margin)
            scaled = [
                round(side * full / part)
                for side, full, part in zip(
                    sides, (width, height) * 2, (small.shape[1], small.shape[0]) * 2, strict=True
                )
            ]
            found.append(
                Mark(
                    left=max(0, scaled[0]), top=max(0, scaled[1]),
                    right=min(width, scaled[2]), bottom=min(height, scaled[3]), kind=kind,
                )
            )  # fmt: skip
    return tuple(found)


def mask_marks(pixels: Pixels) -> Pixels:
    """Fill marks in the colour of the light ground around them; pixels without marks are given back as they are.

    (H, W, 3) to (H, W, 3). Raises ValueError as `find_marks` does.
    """
    marks = find_marks(pixels)
    if not marks:
        return pixels
    height, width = pixels.shape[:2]
    hidden = np.zeros((height, width), dtype=bool)
    boxes = []
    for mark in marks:
        left, top, right, bottom = _corner_block(mark, width, height)
        hidden[top:bottom, left:right] = True
        boxes.append((left, top, right, bottom))
    filled = pixels.copy()
    reach = max(1, round(_FEATHER * max(height, width)))
    for box in boxes:
        _fill(filled, pixels, hidden, box, reach)
    return filled


# ------------------------------------------------------------------------------------------------------------ finding

_Box = tuple[int, int, int, int]


def _lettering(pixels: Pixels) -> list[_Box]:
    """Give boxes (top, left, bottom, right) of thin strokes that stand side by side near the upper or lower edge."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    strip = max(1, round(_STRIP * height))
    boxes = []
    for first, last in ((0, strip), (height - strip, height)):
        rim = 0 if first else strip
        for ink, density in zip(_inks(pixels, first, last), _DENSITIES, strict=True):
            boxes += [
                (top + first, left, bottom + first, right)
                for top, left, bottom, right in _lines(ink, side, density)
                if rim not in (top, bottom)  # what reaches further into the field is no lettering
            ]
    return boxes


def _inks(pixels: Pixels, start: int, stop: int) -> list[Mask]:
    """Give masks of black, red and white ink in some rows: sharp, and no part of anything broad in like colours."""
    rows = pixels[start:stop].astype(np.int16)
    red = rows[..., 0]
    most, least = rows.max(axis=2), rows.min(axis=2)
    side = max(pixels.shape[:2])
    reach, stroke = 2 * max(1, round(_STROKE * side / 2)) + 1, max(3, round(_STROKE * side)) | 1
    black = (most < _BLACK) & (most - least < _NEUTRAL)
    if black.any():
        black &= ndimage.maximum_filter(least, reach) - most > _CONTRAST
        black = _thin(black, most < _DARK, stroke)
    redness = red - rows[..., 1:].max(axis=2)
    scarlet = (redness > _RED) & (red > _BRIGHT)
    if scarlet.any():
        sharp = redness - ndimage.minimum_filter(redness, reach) > _RED_CONTRAST
        # Over a nucleus red comes out purple in a JPEG file: such pixels count beside clear ones.
        beside = ndimage.maximum_filter(scarlet & sharp, 3 * reach, mode="constant")
        scarlet = _thin(sharp & beside & (redness > _RED / 3), redness > 0.8 * _RED, stroke)
    ground = np.percentile(pixels[::4, ::4].reshape(-1, 3).min(axis=1), 95)
    white = np.zeros_like(black)
    if ground < _WHITE - _WHITE_ABOVE:
        white = least >= _WHITE
        if white.any():
            white &= least - ndimage.minimum_filter(most, reach) > _WHITE_ABOVE
            white = _thin(white, least > ground + _WHITE_ABOVE / 2, stroke)
    return [black, scarlet, white]


def _thin(ink: Mask, like: Mask, stroke: int) -> Mask:
    """Leave out ink that belongs to something in like colours as broad as `stroke` px."""
    if not ink.any() or min(like.shape) < stroke:
        return ink
    broad = ndimage.minimum_filter(like, stroke, mode="constant")
    if not broad.any():
        return ink
    parts, _ = ndimage.label(like, structure=np.ones((3, 3)))
    of_broad: Mask = np.isin(parts, np.unique(parts[broad]))
    return ink & ~of_broad


def _lines(ink: Mask, side: int, density: float) -> list[_Box]:
    """Give boxes of ink that forms a line of strokes: wide and low, and `density` of it ink."""
    if not ink.any():
        return []
    gap = (2 * max(1, round(_GAP[0] * side / 2)) + 1, 2 * max(1, round(_GAP[1] * side / 2)) + 1)
    clusters, count = ndimage.label(ndimage.maximum_filter(ink, gap, mode="constant"))
    clusters = np.where(ink, clusters, 0)
    found = []
    for number, place in enumerate(ndimage.find_objects(clusters, count), start=1):
        if place is None:
            continue
        rows, columns = place
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        own = clusters[place] == number
        _, parts = ndimage.label(own, structure=np.ones((3, 3)))
        if (
            own.sum() >= _LEAST_INK
            and wide >= _LEAST_WIDTH * side
            and tall <= _MOST_HEIGHT * side
            and wide >= 1.2 * tall
            and own.any(axis=0).mean() >= _COVERED
            and own.mean() >= (density if parts > 1 else _BAR_DENSITY)
        ):
            found.append((rows.start, columns.start, rows.stop, columns.stop))
    return found


def _paint(pixels: Pixels) -> list[_Box]:
    """Give boxes of whole patches in a colour that no smear has: green, or yellow brighter than the ground."""
    values = pixels.astype(np.int16)
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    ground = np.percentile(values[::4, ::4].reshape(-1, 3), 95, axis=0)
    tint = max(0.0, float(ground[0] - ground[2]))
    lit = (red > ground[0] + _LIT_ABOVE) & (red - blue > _LIT_YELLOW + tint)
    paint = lit | (green - np.maximum(red, blue) > _GREEN)
    if not paint.any():
        return []
    joined = ndimage.maximum_filter(paint, 2 * max(1, round(0.004 * max(paint.shape))) + 1, mode="constant")
    patches, count = ndimage.label(joined)
    patches = np.where(paint, patches, 0)
    least = _LEAST_PAINT * paint.size
    return [
        (place[0].start, place[1].start, place[0].stop, place[1].stop)
        for number, place in enumerate(ndimage.find_objects(patches, count), start=1)
        if place is not None and (patches[place] == number).sum() >= least
    ]


# ------------------------------------------------------------------------------------------------------------ filling


def _corner_block(mark: Mark, width: int, height: int) -> _Box:
    """Give (left, top, right, bottom) of the least corner block that holds a mark, or the mark's own."""
    for share in CORNER_BLOCKS:
        wide, tall = round(share * width), round(share * height)
        at_left, at_right = mark.right <= wide, mark.left >= width - wide
        at_top, at_bottom = mark.bottom <= tall, mark.top >= height - tall
        if (at_left or at_right) and (at_top or at_bottom):
            left, top = (0 if at_left else width - wide), (0 if at_top else height - tall)
            return left, top, left + wide, top + tall
    return mark.left, mark.top, mark.right, mark.bottom


def _fill(filled: Pixels, pixels: Pixels, hidden: Mask, box: _Box, reach: int) -> None:
    """Paint a box in the median of the lightest fifth around it, fading out over `reach` px beyond its sides."""
    height, width = hidden.shape
    left, top, right, bottom = box
    around = round(_RING * max(height, width))
    rows = slice(max(0, top - around), min(height, bottom + around))
    columns = slice(max(0, left - around), min(width, right + around))
    near = pixels[rows, columns][~hidden[rows, columns]]
    if len(near) == 0:
        near = pixels.reshape(-1, 3)
    green = near[:, 1]
    colour = np.median(near[green >= np.quantile(green, _LIGHT)], axis=0)
    rows = slice(max(0, top - reach), min(height, bottom + reach))
    columns = slice(max(0, left - reach), min(width, right + reach))
    y, x = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
    off_y = np.maximum(np.maximum(top - y, y - (bottom - 1)), 0)
    off_x = np.maximum(np.maximum(left - x, x - (right - 1)), 0)
    share = np.clip(1 - np.hypot(off_y[:, None], off_x[None, :]) / (reach + 1), 0, 1)[..., None]
    mixed = filled[rows, columns] * (1 - share) + colour * share
    filled[rows, columns] = mixed.round().astype(np.uint8)
