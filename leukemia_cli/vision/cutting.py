"""From a photograph to the crops of its white cells, all at one scale: the same in prepare, classify and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.vision.cells import Cell, Finder, cut_crop, find_cells
from leukemia_cli.vision.quality import Quality, tile_quality
from leukemia_cli.vision.slides import Slide, count_tiles, own_finds, tiles

Pixels = NDArray[np.uint8]
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
    found = find_cells(pixels, cutting.finder)
    if unit == "auto" and found.unit == "cell":
        return _whole(pixels, found.red_cell_diameter_px)
    side = _side_px(found.cells, found.red_cell_diameter_px, cutting)
    if side is None:
        return Cut(unit="field", cells=(), red_cell_diameter_px=found.red_cell_diameter_px, side_px=None)
    cells = tuple(
        CutCell(cell=cell, pixels=cut_crop(pixels, cell.x, cell.y, side_px=side, size_px=cutting.size_px))
        for cell in found.cells
    )
    return Cut(unit="field", cells=cells, red_cell_diameter_px=found.red_cell_diameter_px, side_px=side)


TILE_PX, OVERLAP_PX = 2048, 256
"""Side of a tile's core, and what is seen beyond it: more than the radius of any white cell at 100 ×."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutTile:
    """What a tile of a slide shows: its own cells, in px of the slide; none where no cell can be told in it."""

    quality: Quality
    cells: tuple[CutCell, ...]
    red_cell_diameter_px: float | None


def cut_tiles(slide: Slide, cutting: Cutting) -> Iterator[CutTile]:
    """Cut a slide's cells a tile at a time; one in the overlap of tiles counts once. Raises BadImage where it is damaged."""
    for tile in tiles(slide, side_px=TILE_PX, overlap_px=OVERLAP_PX):
        quality = tile_quality(tile.pixels)
        if quality != "usable":
            yield CutTile(quality=quality, cells=(), red_cell_diameter_px=None)
            continue
        found = cut(tile.pixels, cutting, "field")
        cells = tuple(
            CutCell(cell=cell, pixels=each.pixels)
            for each in found.cells
            if each.cell is not None
            for cell in own_finds(tile, [each.cell])
        )
        yield CutTile(quality=quality, cells=cells, red_cell_diameter_px=found.red_cell_diameter_px)


def tiles_of(slide: Slide) -> int:
    """Count what `cut_tiles` yields."""
    return count_tiles(slide, side_px=TILE_PX)


def _whole(pixels: Pixels, diameter: float | None) -> Cut:
    return Cut(unit="cell", cells=(CutCell(cell=None, pixels=pixels),), red_cell_diameter_px=diameter, side_px=None)


def _side_px(cells: tuple[Cell, ...], diameter: float | None, cutting: Cutting) -> float | None:
    if not cells:
        return None
    if diameter is not None:
        return cutting.side * diameter
    across = float(np.median([2 * np.sqrt(cell.cell_area_px / np.pi) for cell in cells]))
    return cutting.side / SIDE * _CELLS_ACROSS * across
