"""The cells of a slide are cut at one scale, whatever its tiles show, and no crop depends on where the tiles lie."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leukemia_cli.vision import cutting
from leukemia_cli.vision.cells import cut_crop, find_cells
from leukemia_cli.vision.cutting import CutTile, Cutting, cut, cut_found, cut_tiles
from leukemia_cli.vision.decode import BadImage
from leukemia_cli.vision.slides import Slide, held

SIDE = 300
"""Side of a tile here."""
Place = tuple[int, int]


def smear(
    across: int, down: int, white: list[Place], *, bare: tuple[Place, ...] = (), red_px: int = 30
) -> NDArray[np.uint8]:
    """Draw tiles of 300 px: white cells (x, y) among red ones, which the tiles named `bare` (column, row) lack."""
    image = Image.new("RGB", (across * SIDE, down * SIDE), (238, 236, 232))
    draw = ImageDraw.Draw(image)

    def disc(x: int, y: int, size: int, colour: tuple[int, int, int]) -> None:
        draw.ellipse((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=colour)

    for x, y in itertools.product(range(25, image.width, 47), range(25, image.height, 47)):
        clear = all(math.hypot(x - a, y - b) > (red_px + 40) / 2 + 6 for a, b in white)
        # Nor do red cells lie where the margin of a bare tile sees them.
        away = all(max(abs(x / SIDE - a - 0.5), abs(y / SIDE - b - 0.5)) > 0.85 for a, b in bare)
        if clear and away:
            disc(x, y, red_px, (214, 156, 160))
    for x, y in white:
        disc(x, y, 48, (186, 190, 222))
        disc(x, y, 40, (92, 48, 132))
    return np.asarray(image)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "TILE_PX", SIDE)
    monkeypatch.setattr(cutting, "OVERLAP_PX", 80)
    monkeypatch.setattr(cutting, "tile_quality", lambda pixels: "usable")


def tiles_of(pixels: NDArray[np.uint8], **more: bool) -> list[CutTile]:
    """Cut all of an image as a slide."""
    return list(cut_tiles(held(pixels), Cutting(), **more))


WHITE = [(150, 150), (450, 130), (700, 160), (140, 450), (460, 440), (740, 460), (160, 740), (450, 760), (750, 750)]


def test_a_tile_without_red_cells_is_cut_at_the_scale_of_the_others() -> None:
    pixels = smear(3, 3, WHITE, bare=((1, 1),))
    alone = find_cells(pixels[SIDE - 80 : 2 * SIDE + 80, SIDE - 80 : 2 * SIDE + 80])
    assert alone.cells and alone.red_cell_diameter_px is None, "the tile in the middle has no scale of its own"
    found = tiles_of(pixels)
    (scale,) = {tile.red_cell_diameter_px for tile in found}
    assert scale == pytest.approx(30, rel=0.2)
    crops = [each for tile in found for each in tile.cells]
    assert len(crops) == len(WHITE)
    for each in crops:
        assert each.cell is not None
        whole = cut_crop(pixels, each.cell.x, each.cell.y, side_px=cutting.SIDE * scale, size_px=cutting.SIZE_PX)
        assert np.array_equal(each.pixels, whole)


def test_tiles_of_several_diameters_are_cut_at_the_median() -> None:
    """Where red cells are spread thin in a part of a slide, that part is not magnified less."""
    thin = smear(1, 1, [(150, 150)], red_px=26)
    thick = smear(1, 1, [(150, 150)], red_px=36)
    pixels = np.concatenate([thick, thick, thin], axis=1)
    found = tiles_of(pixels)
    own = []
    for left in range(0, 3 * SIDE, SIDE):
        own.append(find_cells(pixels[:, max(0, left - 80) : left + SIDE + 80]).red_cell_diameter_px)
    assert None not in own and len(set(own)) > 1
    assert {tile.red_cell_diameter_px for tile in found} == {np.median(own)}


def test_without_any_red_cell_the_white_cells_of_the_whole_slide_give_the_scale() -> None:
    pixels = smear(2, 2, [(150, 150), (450, 150), (150, 450), (450, 450)], bare=((0, 0), (1, 0), (0, 1), (1, 1)))
    found = tiles_of(pixels)
    cells = [each for tile in found for each in tile.cells]
    assert len(cells) == 4
    assert {tile.red_cell_diameter_px for tile in found} == {None}
    across = float(np.median([2 * np.sqrt(e.cell.cell_area_px / np.pi) for e in cells if e.cell is not None]))
    for each in cells:
        assert each.cell is not None
        whole = cut_crop(pixels, each.cell.x, each.cell.y, side_px=1.75 * across, size_px=cutting.SIZE_PX)
        assert np.array_equal(each.pixels, whole)


class Watched:
    """A slide that keeps what was read of it, and is damaged from one reading on."""

    def __init__(self, pixels: NDArray[np.uint8], fails_at: int | None = None) -> None:
        self.slide: Slide = held(pixels)
        self.width, self.height = self.slide.width, self.slide.height
        self.read_at: list[Place] = []
        self.fails_at = fails_at

    def read(self, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        self.read_at.append((left, top))
        if len(self.read_at) == self.fails_at:
            raise BadImage("slide.png", "planted", "hint")
        return self.slide.read(left, top, width, height)


def test_a_slide_is_read_downwards_twice_and_only_around_cells_the_second_time() -> None:
    slide = Watched(smear(3, 3, [(150, 150), (450, 450)]))
    found = list(cut_tiles(slide, Cutting()))
    assert sum(len(tile.cells) for tile in found) == 2
    first, second = slide.read_at[:9], slide.read_at[9:]
    assert len(second) == 2
    for part in (first, second):
        assert [top for _, top in part] == sorted(top for _, top in part)


def test_a_slide_that_is_damaged_at_its_end_gives_no_cell_at_all() -> None:
    slide = Watched(smear(2, 2, [(150, 150), (450, 450)]), fails_at=4)
    with pytest.raises(BadImage, match="planted"):
        next(cut_tiles(slide, Cutting()))


def test_outlines_are_left_out_where_they_are_not_wanted_and_nothing_else_is() -> None:
    pixels = smear(2, 1, [(150, 150), (450, 150)])
    for with_them, without in zip(tiles_of(pixels), tiles_of(pixels, outlines=False), strict=True):
        for one, other in zip(with_them.cells, without.cells, strict=True):
            assert one.cell is not None and other.cell is not None
            assert len(one.cell.outline) > 8 and other.cell.outline == ()
            assert (one.cell.x, one.cell.y, one.cell.cell_area_px) == (
                other.cell.x,
                other.cell.y,
                other.cell.cell_area_px,
            )
            assert np.array_equal(one.pixels, other.pixels)


def test_where_no_library_gives_memory_back_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = smear(2, 1, [(150, 150)])
    usual = tiles_of(pixels)
    monkeypatch.setattr(cutting, "_trimmer", lambda: None)
    assert [len(tile.cells) for tile in tiles_of(pixels)] == [len(tile.cells) for tile in usual] == [1, 0]


@pytest.mark.parametrize("unit", ["auto", "field", "cell"])
def test_what_was_found_is_cut_as_if_it_were_found_again(unit: str) -> None:
    pixels = smear(1, 1, [(150, 150)])[75:225, 75:225]
    found = find_cells(pixels)
    assert found.unit == "cell"
    once, twice = cut_found(pixels, found, Cutting(), unit), cut(pixels, Cutting(), unit)
    assert once.unit == twice.unit == ("field" if unit == "field" else "cell")
    assert [each.cell for each in once.cells] == [each.cell for each in twice.cells]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(once.cells, twice.cells, strict=True))
