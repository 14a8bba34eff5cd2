"""A white cell without what lies around it: its ground brought to one level, and all that is not the cell painted over.

Red cells, plasma and neighbours around a cell say more of smear, stain and laboratory than of the cell.
docs/explanation/cells.md has what that does between hospitals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

GROUND_LEVEL = 235
"""What the light ground is brought to in each channel: light, and with room for what is lighter. Our choice."""
RIM = 0.02
"""Width of what is kept around a cell, as a share of the picture's side: outlines run through the cell's edge. Our choice."""


def level_ground(pixels: Pixels, ground: tuple[int, int, int]) -> Pixels:
    """Scale each channel of RGB pixels (H, W, 3) so that `ground` becomes the level that it has in every picture."""
    levels = np.arange(256, dtype=np.float64)
    tables = [np.clip(levels * (GROUND_LEVEL / max(light, 1)), 0, 255).round().astype(np.uint8) for light in ground]
    return np.stack([table[pixels[..., channel]] for channel, table in enumerate(tables)], axis=-1)


def inside_outline(outline: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """Tell what lies within an outline, and a rim around it, in a picture of (width, height); (H, W).

    All of it, where the outline has fewer than three corners.
    """
    width, height = size
    if len(outline) < 3:
        return np.ones((height, width), dtype=bool)
    drawn = Image.new("L", size, 0)
    pen = ImageDraw.Draw(drawn)
    corners = [(float(x), float(y)) for x, y in outline]
    pen.polygon(corners, fill=255)
    rim = max(1, round(2 * RIM * min(width, height)))
    pen.line([*corners, corners[0]], fill=255, width=rim, joint="curve")
    return np.asarray(drawn) > 0


def central_cell(pixels: Pixels) -> Mask:
    """Tell where the white cell nearest to the centre of a picture of one is, (H, W); all of it where none is found."""
    from leukemia_cli.vision.cells import find_cells  # scipy and scikit-image, which most views do not need

    height, width = pixels.shape[:2]
    cells = [cell for cell in find_cells(pixels).cells if len(cell.outline) > 2]
    if not cells:
        return np.ones((height, width), dtype=bool)
    nearest = min(cells, key=lambda cell: (cell.x - width / 2) ** 2 + (cell.y - height / 2) ** 2)
    return inside_outline(nearest.outline, (width, height))


def painted_over(pixels: Pixels, inside: Mask) -> Pixels:
    """Give RGB pixels (H, W, 3) in which all that is not `inside` (H, W) has the ground's level."""
    painted = pixels.copy()
    painted[~inside] = GROUND_LEVEL
    return painted
