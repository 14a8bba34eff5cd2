"""A heat-map of the network's square view is laid over the image that the view was made of, where the view lay in it.

Requirements met here:
- Colours grow lighter all the way, so that more is told from less in grey print and with any colour vision.
- The image beneath loses its colour, so that every colour in the picture is the map's.
- What the view left out (`crop`) is faded, never shown as "nothing here"; what it added (`pad`) is cut off.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leukemia_cli.domain import Fit

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]

_ANCHORS = ((20, 12, 70), (24, 76, 138), (20, 142, 134), (138, 196, 66), (255, 238, 96))
"""Evenly spaced from 0 to 1: dark blue, blue, teal, green, yellow, each about 20 L* lighter than the one before."""
_STRONGEST = 0.75
"""Share of the map's colour where the heat is 1; the rest is the image, so that what lies there stays to be seen."""
_FADED = 0.7
_LEGEND_PX, _FONT_PX, _BAR_PX, _GAP_PX = 22, 12, 96, 6


def _table() -> NDArray[np.float64]:
    places = np.linspace(0.0, 1.0, len(_ANCHORS))
    steps = np.linspace(0.0, 1.0, 256)
    return np.stack([np.interp(steps, places, channel) for channel in zip(*_ANCHORS, strict=True)], axis=1)


_COLOURS = _table()


def coloured(heat: Heat) -> Pixels:
    """Give each value in [0, 1] its colour; (H, W) to (H, W, 3). Raises ValueError for values outside, or NaN."""
    return _COLOURS.round().astype(np.uint8)[_levels(heat)]


def stretch(heat: Heat, height: int, width: int, fit: Fit) -> tuple[Heat, NDArray[np.bool_]]:
    """Lay the map (S, S) of a view back on its image; give (H, W) and where the view saw the image at all, (H, W).

    Undoes the geometry of `fit_pixels` without a box. Raises ValueError for a map that is not square.
    """
    size = heat.shape[0]
    if heat.shape != (size, size) or not size:
        raise ValueError(f"a map of {heat.shape} is no square")
    image = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32))
    bilinear = Image.Resampling.BILINEAR
    if fit == "squash":
        return np.array(image.resize((width, height), bilinear)), np.ones((height, width), dtype=np.bool_)
    if fit == "pad":
        longest = max(width, height)
        inner = (max(1, round(size * width / longest)), max(1, round(size * height / longest)))
        left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
        return np.array(image.resize((width, height), bilinear, box=box)), np.ones((height, width), dtype=np.bool_)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    whole, seen = np.zeros((height, width), dtype=np.float32), np.zeros((height, width), dtype=np.bool_)
    whole[top : top + side, left : left + side] = np.array(image.resize((side, side), bilinear))
    seen[top : top + side, left : left + side] = True
    return whole, seen


def overlay(pixels: Pixels, heat: Heat, fit: Fit, *, legend: str, beside: bool = True) -> Pixels:
    """Paint the map (S, S) over the greyed image (H, W, 3) at the image's own size, with a bar that says what it shows.

    `beside` puts the untouched image to its left; `legend` says for what the heat speaks. Gives (H + bar, W or more, 3).
    Raises ValueError for heat outside [0, 1].
    """
    height, width = pixels.shape[:2]
    stretched, seen = stretch(heat, height, width, fit)
    painted = _painted(pixels, stretched, seen)
    shown = np.concatenate([pixels, np.full((height, _GAP_PX, 3), 255, np.uint8), painted], 1) if beside else painted
    bar = _legend(legend, shown.shape[1])
    wide = max(bar.shape[1], shown.shape[1])
    canvas = np.full((height + len(bar), wide, 3), 255, dtype=np.uint8)
    canvas[:height, : shown.shape[1]] = shown
    canvas[height:, : bar.shape[1]] = bar
    return canvas


def png_bytes(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) as PNG: equal pixels, equal bytes with one version of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """Write an encoded picture as the address of an HTML `img` that needs no file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def heatmap_name(index: int, path: str) -> str:
    """Name the file of the `index`-th input's picture: no two indices share a name, and no name leaves the folder.

    '000007-Im001_1.png'; of the input's name only ASCII letters, digits, '.', '_' and '-' are kept, at most 80.
    Raises ValueError for a negative index.
    """
    if index < 0:
        raise ValueError(f"index {index} is negative")
    stem = PurePosixPath(path.replace("\\", "/")).stem
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:80].strip("._-")
    return f"{index:06d}-{kept or 'image'}.png"


def _levels(heat: Heat) -> NDArray[np.uint8]:
    """Give 0 to 255 for heat in [0, 1], a rounding error apart."""
    if heat.size and not (heat.min() >= -1e-6 and heat.max() <= 1 + 1e-6):
        raise ValueError(f"heat runs from {heat.min()} to {heat.max()}, not within 0 and 1")
    return (heat.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def _painted(pixels: Pixels, heat: Heat, seen: NDArray[np.bool_]) -> Pixels:
    """Blend by tables of 256 × 256 bytes, so that a whole slide takes bytes and not floats."""
    levels = _levels(heat)
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    share = _STRONGEST * np.linspace(0.0, 1.0, 256)[:, None]
    under = np.arange(256)[None, :] * (1.0 - share)
    painted = np.empty((*grey.shape, 3), dtype=np.uint8)
    for channel in range(3):
        mixed = (under + _COLOURS[:, channel : channel + 1] * share).round().astype(np.uint8)
        painted[:, :, channel] = mixed[levels, grey]
    if not seen.all():
        faded = (255 * _FADED + np.arange(256) * (1 - _FADED)).round().astype(np.uint8)
        painted[~seen] = faded[grey][~seen, None]
    return painted


def _legend(text: str, width: int) -> Pixels:
    """Draw 'none [bar] most  text' as (22, `width` or what it needs, 3)."""
    font = ImageFont.load_default(_FONT_PX)
    plain = text.encode("latin-1", "replace").decode("latin-1")
    words = ("none", "most", plain)
    lengths = [int(np.ceil(font.getlength(word))) for word in words]
    needed = sum(lengths) + _BAR_PX + 5 * _GAP_PX
    canvas = Image.new("RGB", (max(width, needed), _LEGEND_PX), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    middle, left = _LEGEND_PX // 2, _GAP_PX
    for word, length in zip(words, lengths, strict=True):
        draw.text((left, middle), word, fill=(26, 26, 26), font=font, anchor="lm")
        left += length + _GAP_PX
        if word is words[0]:
            bar = coloured(np.tile(np.linspace(0, 1, _BAR_PX, dtype=np.float32), (_LEGEND_PX - 8, 1)))
            canvas.paste(Image.fromarray(bar), (left, 4))
            left += _BAR_PX + _GAP_PX
    return np.array(canvas)
