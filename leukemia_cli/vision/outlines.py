"""The cells that were found are drawn on their image: an outline and a number each, and how large a red cell is.

Requirements met here:
- Lines are light with a dark edge, so that they stand out on any stain, in grey print and with any colour vision.
- A number stands on its own nucleus: beside it, where cells touch, it would be a neighbour's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leukemia_cli.domain import counted
from leukemia_cli.vision.cells import Cell

Pixels = NDArray[np.uint8]

LONGEST_PX = 2000
"""Longer sides are shrunk to this."""
_ENLARGED_PX, _MOST_ENLARGED = 900, 4
"""Small images are enlarged by a whole factor, so that numbers leave room for cells."""
_LIGHT, _DARK, _TEXT = (255, 236, 110), (0, 0, 0), (26, 26, 26)
_LEAST_NUMBERED_PX = 16
_LEAST_NUMBER_PX, _MOST_NUMBER_PX = 10, 28
_BAR_PX, _FONT_PX, _GAP_PX = 26, 14, 8


def outlined(pixels: Pixels, cells: Sequence[tuple[int, Cell]], *, red_cell_diameter_px: float | None) -> Pixels:
    """Give the image (H, W, 3) with each numbered cell, and a line of text below.

    It is shrunk where it is longer than 2,000 px, and enlarged, at most fourfold, where it is small. Cells and diameter are in
    px of the image as it was given. Cells that come out smaller than 16 px go without number.
    """
    height, width = pixels.shape[:2]
    return outlined_at(pixels, (width, height), cells, red_cell_diameter_px=red_cell_diameter_px)


def outlined_at(
    view: Pixels, size: tuple[int, int], cells: Sequence[tuple[int, Cell]], *, red_cell_diameter_px: float | None
) -> Pixels:
    """Do the same on a view of an image of width and height `size`, which cells and diameter are in px of."""
    image = Image.fromarray(np.ascontiguousarray(view))
    longest = max(image.size)
    factor = min(_MOST_ENLARGED, max(1, _ENLARGED_PX // longest)) if longest <= LONGEST_PX else LONGEST_PX / longest
    if factor != 1:
        filtered = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
        image = image.resize([max(1, round(side * factor)) for side in image.size], filtered)
    across, down = image.width / size[0], image.height / size[1]
    line_px = max(2, round(max(image.size) / 600))
    draw = ImageDraw.Draw(image)
    for _, cell in cells:
        points = [(x * across - 0.5, y * down - 0.5) for x, y in cell.outline]
        if len(points) > 2:
            ring = [*points, points[0], points[1]]  # the first corner is joined too
            draw.line(ring, fill=_DARK, width=line_px + 2, joint="curve")
            draw.line(ring, fill=_LIGHT, width=line_px, joint="curve")
    for number, cell in cells:
        side = min(cell.width * across, cell.height * down)
        if side >= _LEAST_NUMBERED_PX:
            font = ImageFont.load_default(min(max(round(side / 4), _LEAST_NUMBER_PX), _MOST_NUMBER_PX))
            place = (cell.x * across, cell.y * down)
            draw.text(place, str(number), fill=_LIGHT, font=font, anchor="mm", stroke_width=1, stroke_fill=_DARK)
    return _with_text(np.array(image), len(cells), red_cell_diameter_px, across)


def _with_text(pixels: Pixels, count: int, diameter: float | None, scale: float) -> Pixels:
    """Put a white line below (H + 26, W or more, 3): how many cells, and a bar as long as a red cell is across."""
    font = ImageFont.load_default(_FONT_PX)
    found = counted(count, "white cell")
    scaled = "no red cell to measure by" if diameter is None else f"red cell: about {diameter:.0f} px"
    bar_px = 0 if diameter is None else max(1, round(diameter * scale))
    needed = 4 * _GAP_PX + bar_px + math.ceil(font.getlength(found) + font.getlength(scaled))
    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (max(width, needed), height + _BAR_PX), (255, 255, 255))
    canvas.paste(Image.fromarray(pixels), (0, 0))
    draw = ImageDraw.Draw(canvas)
    middle, left = height + _BAR_PX // 2, _GAP_PX
    draw.text((left, middle), found, fill=_TEXT, font=font, anchor="lm")
    left += math.ceil(font.getlength(found)) + _GAP_PX
    if bar_px:
        draw.rectangle((left, middle - 2, left + bar_px - 1, middle + 1), fill=_TEXT)
        left += bar_px + _GAP_PX
    draw.text((left, middle), scaled, fill=_TEXT, font=font, anchor="lm")
    return np.array(canvas)
