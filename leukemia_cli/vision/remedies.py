"""From a decoded image and a run's remedies to what its views are cut from, in one order everywhere: marks, scale, colours.

Marks are painted over first, on the whole image, since a part of one is not known for a mark. Then the scale is measured and the
colours are fitted, each once an image; both are applied to every view that is cut from it. Where the background of a cell is
masked, colours are shifted before, so that it has one colour in every image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia_cli.domain import Preprocessing, Remedies
from leukemia_cli.vision.decode import Decoded, fit_pixels
from leukemia_cli.vision.masking import central_cell, level_ground, painted_over
from leukemia_cli.vision.stain import ground_colour
from leukemia_cli.vision.stains import TARGETS, StainShift, fit_stain

Pixels = NDArray[np.uint8]
RED_CELL_UM = 7.5
"""Diameter of a red cell in a smear. Source: Diez-Silva et al. 2010, MRS Bulletin 35(5):382: 7.5 to 8.7 µm, in plasma."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in px of the image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Remedied:
    """An image without its marks, (H, W, 3), with what its views need."""

    pixels: Pixels
    stain: StainShift | None
    """None where colours stay as they are."""
    scale: float | None
    """Px of the network's input for each px of the image; None where the whole image is fitted into the input."""


def targeted(remedies: Remedies) -> Remedies:
    """Fill in the numbers that colours are brought to, where a normalisation is asked for and they are not given."""
    if remedies.stain_target or remedies.stain_norm == "none":
        return remedies
    return replace(remedies, stain_target=TARGETS[remedies.stain_norm])


def remedied(image: Pixels | Decoded, remedies: Remedies) -> Remedied:
    """Do to RGB pixels (H, W, 3) what is done once an image; without remedies they come back as they are.

    How wide a red cell is, in px, follows from the size of a pixel where the file states it, and is measured elsewhere.

    Of pixels (H, W, 4) the fourth channel says where the cell is: more than half of 255. Raises ValueError for another shape
    or type where there is anything to do.
    """
    pixels, um_per_px = (image, None) if isinstance(image, np.ndarray) else (image.pixels, image.um_per_px)
    inside = None
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels, inside = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3] > 127
    if remedies.mask_marks:
        from leukemia_cli.vision.marks import mask_marks  # with scipy: half the start of a run that masks nothing

        pixels = mask_marks(pixels)
    scale = None
    if remedies.red_cell_px is not None:
        diameter = red_cell_diameter(pixels) if um_per_px is None else RED_CELL_UM / um_per_px
        scale = None if diameter is None else remedies.red_cell_px / diameter
    if remedies.background == "mask" and inside is None:
        pixels = level_ground(pixels, ground_colour(pixels))
        inside = central_cell(pixels)
    stain = fit_stain(pixels, remedies.stain_norm, remedies.stain_target)
    if remedies.background == "mask" and inside is not None:
        pixels = painted_over(pixels if stain is None else stain.apply(pixels), inside)
        stain = None
    return Remedied(pixels=pixels, stain=stain, scale=scale)


def red_cell_diameter(pixels: Pixels) -> float | None:
    """Give the diameter of a red cell in px of the image; None where too few are seen to tell."""
    from leukemia_cli.vision.cells import find_cells

    return find_cells(pixels).red_cell_diameter_px


def cut(image: Remedied, spec: Preprocessing, box: Box | None = None) -> list[Pixels]:
    """Give the views (S, S, 3) of a region, the whole image without one: one for each tile.

    Four tiles are the region's quadrants, from left to right and top to bottom; the fifth is the region itself.
    """
    height, width = image.pixels.shape[:2]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    regions: list[Box | None] = [box]
    if spec.remedies.tiles > 1:
        x, y = (left + right) / 2, (top + bottom) / 2
        whole = regions if spec.remedies.tiles == 5 else []
        regions = [(left, top, x, y), (x, top, right, y), (left, y, x, bottom), (x, y, right, bottom), *whole]
    views = [_view(image, spec, region) for region in regions]
    return views if image.stain is None else [image.stain.apply(view) for view in views]


def _view(image: Remedied, spec: Preprocessing, region: Box | None) -> Pixels:
    if image.scale is None:
        return fit_pixels(image.pixels, spec.input_size_px, spec.interpolation, spec.fit, box=region)
    return _window(image.pixels, spec, image.scale, region)


def _window(pixels: Pixels, spec: Preprocessing, scale: float, region: Box | None) -> Pixels:
    """Give (S, S, 3) at `scale`, centred in a region; beyond the image lies the median colour of its outermost pixels."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = region or (0.0, 0.0, float(width), float(height))
    size, side = spec.input_size_px, spec.input_size_px / scale
    start = ((left + right - side) / 2, (top + bottom - side) / 2)
    ends = [(max(0.0, at), min(float(full), at + side)) for at, full in zip(start, (width, height), strict=True)]
    inner = [max(1, min(size, round((stop - first) * scale))) for first, stop in ends]
    place = [
        min(size - length, max(0, round((first - at) * scale)))
        for (first, _), at, length in zip(ends, start, inner, strict=True)
    ]
    resample = Image.Resampling.BILINEAR if spec.interpolation == "bilinear" else Image.Resampling.BICUBIC
    box = (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
    seen = Image.fromarray(pixels).resize((inner[0], inner[1]), resample, box=box)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    view = np.empty((size, size, 3), dtype=np.uint8)
    view[:] = np.median(border, axis=0).round()
    view[place[1] : place[1] + inner[1], place[0] : place[0] + inner[0]] = np.asarray(seen)
    return view
