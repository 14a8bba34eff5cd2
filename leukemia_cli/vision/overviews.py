"""Pictures of a whole image's cells: boxes by class on a small copy of it, and sheets of single cells.

Requirements met here:
- A class is told by its line as well as by its colour, so that it can be told in grey print and with any colour vision.
- Every line lies on a white one, so that it can be seen on dark nuclei and on the light ground alike.
- A box is never too small to be seen: on a gigapixel slide a cell is less than a pixel of the overview.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
CellBox = tuple[float, float, float, float, int]
"""Left, top, width, height in px of the slide; place of the class in the list of names."""

CLASS_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (0, 0, 0),
)
"""Colours of the classes in order, then from the start again. As published: darkened as for text, two of them are nearly one
to people who see no red.

Source: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/.
"""

_DASHES: tuple[tuple[int, ...], ...] = ((), (7, 4), (2, 3), (10, 3, 2, 3), (14, 5), (7, 3, 2, 3, 2, 3), (2, 8))
"""Lengths of line and gap in turn, px; none is a whole line. As many as colours: a place of both is a class's own."""
_LEAST_BOX_PX = 9
_INK: Colour = (26, 26, 26)
_WHITE: Colour = (255, 255, 255)
_FONT_PX, _ROW_PX, _GAP_PX, _SAMPLE_PX = 13, 24, 8, 30
_CAPTION_LINES = 2
_CAPTION_PX = 16


def class_colour(index: int) -> Colour:
    """Give the colour of the class at this place, the same in every picture; raises ValueError below 0."""
    if index < 0:
        raise ValueError(f"a class has no place {index}")
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def overview(thumbnail: Pixels, boxes: Sequence[CellBox], scale: float, class_names: Sequence[str]) -> Pixels:
    """Draw boxes on a copy of the thumbnail (h, w, 3), and below it a legend with the number of each class.

    `scale` is px of the thumbnail per px of the slide. Gives (h + legend, w or more, 3). Raises ValueError for a class that
    has no name, and for a scale that is none.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"{scale} is no scale")
    counts = Counter(box[4] for box in boxes)
    if counts and not (min(counts) >= 0 and max(counts) < len(class_names)):
        raise ValueError(f"boxes are of classes {min(counts)} to {max(counts)}, named are {len(class_names)}")
    image = Image.fromarray(np.ascontiguousarray(thumbnail))
    draw = ImageDraw.Draw(image)
    places = [(_on_thumbnail(box, scale, image.size), box[4]) for box in boxes]
    for place, _ in places:  # all white lines first, so that none covers a neighbour's colour
        draw.rectangle(place, outline=_WHITE, width=4)
    for (left, top, right, bottom), index in places:
        _draw_line(draw, ((left + 1, top + 1), (right - 1, bottom - 1)), index)
    legend = _legend([f"{name}: {counts[index]:,}" for index, name in enumerate(class_names)], image.width)
    canvas = Image.new("RGB", (max(image.width, legend.width), image.height + legend.height), _WHITE)
    canvas.paste(image, (0, 0))
    canvas.paste(legend, (0, image.height))
    return np.array(canvas)


def gallery(crops: Sequence[Pixels], captions: Sequence[str], columns: int = 6, side_px: int = 160) -> Pixels:
    """Lay crops (h, w, 3) of any size out in rows, each fitted into a square and captioned with at most two lines.

    Crops are shrunk or enlarged to fill it, their shape kept. Raises ValueError for no crops, or another number of captions.
    """
    if not crops or len(crops) != len(captions):
        raise ValueError(f"{len(crops)} crops and {len(captions)} captions make no gallery")
    if columns < 1 or side_px < 1:
        raise ValueError(f"{columns} columns of {side_px} px make no gallery")
    across = min(columns, len(crops))
    down = -(-len(crops) // across)
    wide, high = side_px + _GAP_PX, side_px + _CAPTION_LINES * _CAPTION_PX + _GAP_PX
    canvas = Image.new("RGB", (across * wide + _GAP_PX, down * high + _GAP_PX), _WHITE)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_FONT_PX)
    for number, (crop, caption) in enumerate(zip(crops, captions, strict=True)):
        row, column = divmod(number, across)
        left, top = _GAP_PX + column * wide, _GAP_PX + row * high
        image = Image.fromarray(np.ascontiguousarray(crop))
        scale = side_px / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        fitted = image.resize(size, Image.Resampling.BICUBIC)
        canvas.paste(fitted, (left + (side_px - size[0]) // 2, top + (side_px - size[1]) // 2))
        for line, text in enumerate(_printable(caption).split("\n")[:_CAPTION_LINES]):
            place = (left, top + side_px + 2 + line * _CAPTION_PX)
            draw.text(place, _shortened(text, font, side_px), fill=_INK, font=font)
    return np.array(canvas)


def _on_thumbnail(box: CellBox, scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Give left, top, right and bottom px of the box's line, both ends drawn; at least 9 px a side, kept on the picture."""
    edges = []
    for start, length, most in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        side = min(most, max(_LEAST_BOX_PX, round(length * scale)))
        first = min(max(0, round((start + length / 2) * scale - side / 2)), most - side)
        edges.append((first, first + side - 1))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _draw_line(draw: ImageDraw.ImageDraw, corners: tuple[tuple[int, int], tuple[int, int]], index: int) -> None:
    """Draw a rectangle, or a line where its corners lie on one, in the colour and dashes of the class."""
    (left, top), (right, bottom) = corners
    colour, dashes = class_colour(index), _DASHES[index % len(_DASHES)]
    if right < left or bottom < top:
        return
    ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (from_x, from_y), (to_x, to_y) in itertools.pairwise(ring):
        length = max(abs(to_x - from_x), abs(to_y - from_y))
        step_x, step_y = ((to_x - from_x) / length, (to_y - from_y) / length) if length else (0.0, 0.0)
        for start, end in _spans(length, dashes):
            ends = (
                (from_x + step_x * start, from_y + step_y * start),
                (from_x + step_x * end, from_y + step_y * end),
            )
            draw.line(ends, fill=colour, width=2)


def _spans(length: int, dashes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Give the drawn parts of a line; a line too short for its gaps is drawn for half of its length."""
    if not dashes:
        return [(0, length)]
    if length < sum(dashes[:2]):
        return [(0, length // 2)]
    spans, at, place = [], 0, 0
    while at < length:
        end = min(length, at + dashes[place % len(dashes)])
        if place % 2 == 0:
            spans.append((at, end))
        at, place = end, place + 1
    return spans


def _legend(entries: Sequence[str], width: int) -> Image.Image:
    """Draw a sample of each class's line with its text, in rows as wide as the picture."""
    font = ImageFont.load_default(_FONT_PX)
    texts = [_printable(entry) for entry in entries]
    needs = [_SAMPLE_PX + 3 * _GAP_PX + math.ceil(font.getlength(text)) for text in texts]
    places, left, row = [], 0, 0
    for need in needs:
        if left and left + need > width:
            left, row = 0, row + 1
        places.append((left, row))
        left += need
    wide = max([width, *(place[0] + need for place, need in zip(places, needs, strict=True))])
    canvas = Image.new("RGB", (wide, (row + 1) * _ROW_PX if texts else 0), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for index, ((start, line), text) in enumerate(zip(places, texts, strict=True)):
        top = line * _ROW_PX
        corners = ((start + _GAP_PX, top + 5), (start + _GAP_PX + _SAMPLE_PX, top + _ROW_PX - 6))
        _draw_line(draw, corners, index)
        middle = (start + 2 * _GAP_PX + _SAMPLE_PX, top + _ROW_PX // 2)
        draw.text(middle, text, fill=_INK, font=font, anchor="lm")
    return canvas


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _printable(text: str) -> str:
    """Replace what the built-in font may lack."""
    return text.encode("latin-1", "replace").decode("latin-1")
