"""From a photograph to the crops of its white cells, all at one scale: the same in prepare, classify and evaluation."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import Track, silent
from leukemia_cli.vision.cells import Cell, Finder, FoundCells, cut_crop, find_cells
from leukemia_cli.vision.masking import inside_outline, level_ground
from leukemia_cli.vision.quality import Quality, tile_quality
from leukemia_cli.vision.slides import Slide
from leukemia_cli.vision.stain import ground_colour
from leukemia_cli.vision.tiling import Box, count_tiles, own_finds, tiles

Pixels = NDArray[np.uint8]
Ground = tuple[int, int, int]
InputUnit = Literal["auto", "field", "cell"]

SIDE = 2.5
"""Side of a crop in red-cell diameters: room for a large blast with its cytoplasm. Our choice."""
SIZE_PX = 160
"""Side of a crop as it is kept, so that a red cell is 64 px across. Our choice."""
_CELLS_ACROSS = 1.75
"""Side of a crop in diameters of the photograph's median white cell, where no red cell gives the scale; our choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """How cells are found and cut; kept in the manifest and in every run made from it."""

    side: float = SIDE
    size_px: int = SIZE_PX
    unit: InputUnit = "auto"
    """What images were said to be when the run's data were prepared; asked again where nobody says otherwise."""
    finder: Finder = field(default_factory=Finder)

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {"side": self.side, "size_px": self.size_px, "unit": self.unit, "finder": self.finder.as_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Cutting:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        unit = stored.get("unit", "auto")
        if unit not in get_args(InputUnit):
            raise ValueError(f"unknown unit {unit!r}")
        return cls(
            side=float(stored["side"]),
            size_px=int(stored["size_px"]),
            unit=unit,
            finder=Finder.from_json(stored["finder"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutCell:
    """A white cell, where it lies in its photograph, and its crop (S, S, 3); the whole image where it shows one cell."""

    cell: Cell | None
    pixels: Pixels
    seen: Pixels
    """What a run sees of it: the crop with the photograph's ground at one level, and where the cell is, (S, S, 4); of an image
    that shows one cell the image itself, (H, W, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """The cells of one image; of a "cell", which is the crop of one already, the image itself."""

    unit: Literal["field", "cell"]
    cells: tuple[CutCell, ...]
    red_cell_diameter_px: float | None
    side_px: float | None
    """Side of the crops in px of the image; None where nothing was cut."""


def cut(pixels: Pixels, cutting: Cutting, unit: InputUnit | None = None) -> Cut:
    """Find the white cells of RGB pixels (H, W, 3) and cut each.

    `unit` None takes that of `cutting`; "auto" tells a single cell's crop from a field.
    """
    unit = unit or cutting.unit
    if unit == "cell":
        return _whole(pixels, None)
    return cut_found(pixels, find_cells(pixels, cutting.finder), cutting, unit)


def cut_found(pixels: Pixels, found: FoundCells, cutting: Cutting, unit: InputUnit | None = None) -> Cut:
    """Cut as `cut` does what `find_cells` found in the pixels."""
    unit = unit or cutting.unit
    if unit == "cell" or (unit == "auto" and found.unit == "cell"):
        return _whole(pixels, found.red_cell_diameter_px)
    side = _side_px(found.cells, found.red_cell_diameter_px, cutting)
    if side is None:
        return Cut(unit="field", cells=(), red_cell_diameter_px=found.red_cell_diameter_px, side_px=None)
    ground = ground_colour(pixels)
    cells = tuple(_cut_one(pixels, cell, (0, 0), side, cutting.size_px, ground) for cell in found.cells)
    return Cut(unit="field", cells=cells, red_cell_diameter_px=found.red_cell_diameter_px, side_px=side)


def _cut_one(
    pixels: Pixels,
    cell: Cell,
    start: tuple[int, int],
    side_px: float,
    size_px: int,
    ground: Ground,
    outline: Sequence[tuple[float, float]] | NDArray[np.float32] | None = None,
) -> CutCell:
    """Cut a cell from pixels whose upper left corner lies at `start` of the image that the cell's place is of."""
    left, top = start
    crop = cut_crop(pixels, cell.x - left, cell.y - top, side_px=side_px, size_px=size_px)
    scale = size_px / side_px
    corners = [
        ((x - cell.x + side_px / 2) * scale, (y - cell.y + side_px / 2) * scale)
        for x, y in (cell.outline if outline is None else outline)
    ]
    inside = inside_outline(corners, (size_px, size_px)).astype(np.uint8) * 255
    return CutCell(cell=cell, pixels=crop, seen=np.dstack([level_ground(crop, ground), inside]))


TILE_PX, OVERLAP_PX = 2048, 256
"""Side of a tile's core, and what is seen beyond it: more than the radius of any white cell at 100 ×."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutTile:
    """What a tile of a slide shows: its own cells, in px of the slide; none where no cell can be told in it."""

    quality: Quality
    cells: tuple[CutCell, ...]
    red_cell_diameter_px: float | None
    """That of the whole slide, by which all its crops are cut; None where no tile shows a red cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A tile after the first look at it."""

    core: Box
    quality: Quality
    cells: tuple[Cell, ...]
    outlines: tuple[NDArray[np.float32], ...]
    """Of the cells, as arrays: a tenth of what they take as pairs of numbers."""
    red_cell_diameter_px: float | None
    ground: Ground


def cut_tiles(slide: Slide, cutting: Cutting, *, outlines: bool = True, track: Track = silent) -> Iterator[CutTile]:
    """Cut a slide's cells a tile at a time, all at one scale; one in the overlap of tiles counts once.

    The slide is read twice: first cells are found in every tile, then they are cut at 2.5 times the median of the tiles'
    red-cell diameters (or, where no tile shows a red cell, by the median of all white cells). Nothing is yielded before the
    first is done: a slide that is damaged somewhere raises BadImage without a cell. Without `outlines` cells have none.
    """
    seen = [
        each
        for each in track(
            _find_in_tiles(slide, cutting, outlines),
            total=count_tiles(slide, side_px=TILE_PX),
            label="tiles of a slide",
        )
    ]
    diameters = [each.red_cell_diameter_px for each in seen if each.red_cell_diameter_px is not None]
    diameter = float(np.median(diameters)) if diameters else None
    side = _side_px([cell for each in seen for cell in each.cells], diameter, cutting)
    grounds = np.array([each.ground for each in seen if each.quality == "usable"] or [(255, 255, 255)])
    red, green, blue = (round(float(light)) for light in np.median(grounds, axis=0))
    for tile in track(seen, total=len(seen), label="cells of a slide's tiles"):
        cut_ones = () if side is None else _cut_in_tile(slide, tile, side, cutting.size_px, (red, green, blue))
        yield CutTile(quality=tile.quality, cells=cut_ones, red_cell_diameter_px=diameter)
        del cut_ones
        _trim_heap()


def _find_in_tiles(slide: Slide, cutting: Cutting, outlines: bool) -> Iterator[_Seen]:
    for tile in tiles(slide, side_px=TILE_PX, overlap_px=OVERLAP_PX):
        quality = tile_quality(tile.pixels)
        cells: tuple[Cell, ...] = ()
        compact: tuple[NDArray[np.float32], ...] = ()
        diameter = None
        if quality == "usable":
            found = find_cells(tile.pixels, cutting.finder)
            diameter = found.red_cell_diameter_px
            own = tuple(own_finds(tile, found.cells))
            compact = tuple(np.array(cell.outline, dtype=np.float32) for cell in own)
            cells = tuple(cell if outlines else replace(cell, outline=()) for cell in own)
            del found, own
        yield _Seen(
            core=tile.core,
            quality=quality,
            cells=cells,
            outlines=compact,
            red_cell_diameter_px=diameter,
            ground=ground_colour(tile.pixels),
        )
        _trim_heap()


def _cut_in_tile(slide: Slide, tile: _Seen, side_px: float, size_px: int, ground: Ground) -> tuple[CutCell, ...]:
    """Cut from as much of the slide around the core as the crops reach, so that no crop depends on the tiles."""
    if not tile.cells:
        return ()
    core = tile.core
    reach = math.ceil(side_px / 2 + max(1.0, side_px / size_px)) + 3
    left, top = max(0, core.left - reach), max(0, core.top - reach)
    width = min(slide.width, core.left + core.width + reach) - left
    height = min(slide.height, core.top + core.height + reach) - top
    pixels = slide.read(left, top, width, height)
    return tuple(
        _cut_one(pixels, cell, (left, top), side_px, size_px, ground, outline)
        for cell, outline in zip(tile.cells, tile.outlines, strict=True)
    )


def _trim_heap() -> None:
    """Give free pages back to the system: among what is kept of a tile the large arrays of finding leave holes for good."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    """Find glibc's malloc_trim; other C libraries have none.

    Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html (since glibc 2.8 the whole heap is gone through).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return found
    return None


def _whole(pixels: Pixels, diameter: float | None) -> Cut:
    alone = CutCell(cell=None, pixels=pixels, seen=pixels)
    return Cut(unit="cell", cells=(alone,), red_cell_diameter_px=diameter, side_px=None)


def _side_px(cells: Sequence[Cell], diameter: float | None, cutting: Cutting) -> float | None:
    if not cells:
        return None
    if diameter is not None:
        return cutting.side * diameter
    across = float(np.median([2 * np.sqrt(cell.cell_area_px / np.pi) for cell in cells]))
    return cutting.side / SIDE * _CELLS_ACROSS * across
