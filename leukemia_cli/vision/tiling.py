"""A large image is looked at in tiles that overlap, and what is found in an overlap belongs to one of them.

The cores of all tiles share out the image. They come row by row from the top, as large images must be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.vision.cells import Cell
from leukemia_cli.vision.slides import Slide

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A region in px of the slide; a point on its left or upper edge is in it, one on its right or lower edge is not."""

    left: int
    top: int
    width: int
    height: int

    def holds(self, x: float, y: float) -> bool:
        """Say whether the point lies in it."""
        return self.left <= x < self.left + self.width and self.top <= y < self.top + self.height


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """A region with its pixels (height, width, 3); the cores of all tiles share out the slide, each point to one tile.

    What is found in a tile belongs to it where its centre lies in `core` (slide px); else a neighbour finds it too.
    """

    left: int
    top: int
    width: int
    height: int
    core: Box
    pixels: Pixels


def tiles(slide: Slide, *, side_px: int, overlap_px: int) -> Iterator[Tile]:
    """Cut a slide into cores of at most `side_px` a side, all about equal, each read with `overlap_px` more all round.

    They come row by row, from the top, as large images must be read. Raises ValueError for sides that are no lengths.
    """
    if side_px < 1 or overlap_px < 0:
        raise ValueError(f"tiles of {side_px} px that overlap by {overlap_px} px cannot be cut")
    columns, rows = _cuts(slide.width, side_px), _cuts(slide.height, side_px)
    for (core_top, core_bottom), (core_left, core_right) in itertools.product(rows, columns):
        left, top = max(0, core_left - overlap_px), max(0, core_top - overlap_px)
        width = min(slide.width, core_right + overlap_px) - left
        height = min(slide.height, core_bottom + overlap_px) - top
        yield Tile(
            left=left,
            top=top,
            width=width,
            height=height,
            core=Box(left=core_left, top=core_top, width=core_right - core_left, height=core_bottom - core_top),
            pixels=slide.read(left, top, width, height),
        )


def own_finds(tile: Tile, found: Iterable[Cell]) -> Iterator[Cell]:
    """Move what was found in a tile's pixels to px of the slide, leaving out what belongs to a neighbouring tile."""
    for one in found:
        if tile.core.holds(one.x + tile.left, one.y + tile.top):
            yield replace(
                one,
                x=one.x + tile.left,
                y=one.y + tile.top,
                left=one.left + tile.left,
                top=one.top + tile.top,
                outline=tuple((x + tile.left, y + tile.top) for x, y in one.outline),
            )


def count_tiles(slide: Slide, *, side_px: int) -> int:
    """Count what `tiles` yields."""
    return len(_cuts(slide.width, side_px)) * len(_cuts(slide.height, side_px))


def _cuts(length: int, side_px: int) -> list[tuple[int, int]]:
    """Share out a length: no sliver is left at its end, where too little would be seen to judge it."""
    count = -(-length // side_px)
    edges = [length * place // count for place in range(count + 1)]
    return list(itertools.pairwise(edges))
