"""Cells are drawn where they are, at a size a person can look at, and in colours that any eye tells apart."""

from __future__ import annotations

import numpy as np
import pytest

from leukemia_cli.vision.cells import Cell
from leukemia_cli.vision.outlines import _DARK, _LIGHT, LONGEST_PX, outlined, outlined_at

TEXT_PX = 26


def square(x: float, y: float, side: int) -> Cell:
    """Make a cell with a square outline."""
    half = side / 2
    return Cell(
        x=x, y=y, left=round(x - half), top=round(y - half), width=side, height=side, nucleus_area_px=side * side / 2,
        cell_area_px=side * side, at_border=False,
        outline=((x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)),
    )  # fmt: skip


def is_(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Say where (H, W) a colour is."""
    return np.asarray((pixels == colour).all(axis=-1))


def grey(height: int, width: int) -> np.ndarray:
    """Make plain pixels."""
    return np.full((height, width, 3), 150, np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "drawn"),
    [
        (1944, 2592, (1500, 2000)), (1000, 1000, (1000, 1000)), (224, 224, (896, 896)),
        (120, 100, (480, 400)), (16, 6000, (5, 2000)), (300, 440, (600, 880)),
    ],
)  # fmt: skip
def test_the_size_is_one_to_look_at(height: int, width: int, drawn: tuple[int, int]) -> None:
    shown = outlined(grey(height, width), [], red_cell_diameter_px=None)
    assert shown.shape[0] == drawn[0] + TEXT_PX
    assert shown.shape[1] == max(drawn[1], shown.shape[1]) and (shown[:4, : drawn[1]] == 150).all()
    assert max(drawn) <= LONGEST_PX


@pytest.mark.parametrize("side", [1000, 500, 2500])
def test_outlines_lie_around_their_cells(side: int) -> None:
    cell = square(0.3 * side, 0.6 * side, side // 5)
    shown = outlined(grey(side, side), [(1, cell)], red_cell_diameter_px=None)
    rows, columns = np.nonzero(is_(shown[:-TEXT_PX], _LIGHT))
    scale = (shown.shape[0] - TEXT_PX) / side
    for found, expected in (
        (columns.min(), cell.left), (columns.max(), cell.left + cell.width),
        (rows.min(), cell.top), (rows.max(), cell.top + cell.height),
    ):  # fmt: skip
        assert found == pytest.approx(expected * scale, abs=3)
    corner = is_(shown, _LIGHT)[round(cell.top * scale), round(cell.left * scale)]
    assert corner, "the ring is closed"
    assert is_(shown[:-TEXT_PX], _DARK).any()


def test_lines_are_told_from_any_ground_by_their_lightness() -> None:
    light, dark = (np.dot(colour, (0.2126, 0.7152, 0.0722)) for colour in (_LIGHT, _DARK))
    assert light > 220 and dark < 10


def test_a_number_stands_on_its_cell_unless_the_cell_is_too_small() -> None:
    cell, speck = square(300, 300, 120), square(700, 700, 12)
    bare = outlined(grey(1000, 1000), [(1, cell), (2, speck)], red_cell_diameter_px=None)
    inside = is_(bare[260:340, 260:340], _LIGHT)
    assert inside.any() and not inside[:20].any()
    assert not is_(bare[697:703, 697:703], _LIGHT).any()
    other = outlined(grey(1000, 1000), [(7, cell), (2, speck)], red_cell_diameter_px=None)
    assert (bare[260:340, 260:340] != other[260:340, 260:340]).any()


@pytest.mark.parametrize(("diameter", "length"), [(80.0, 80), (40.0, 40), (None, 0)])
def test_the_bar_is_as_long_as_a_red_cell(diameter: float | None, length: int) -> None:
    shown = outlined(grey(1000, 1000), [], red_cell_diameter_px=diameter)
    below = (shown[1000 + TEXT_PX // 2 - 1] == 26).all(axis=-1)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], below.astype(int), [0]]))))[::2]
    assert max(runs, default=0) == length or (length == 0 and max(runs, default=0) < 15)


def test_the_bar_shrinks_with_the_image_and_the_text_does_not_end_it() -> None:
    shown = outlined(grey(2000, 4000), [], red_cell_diameter_px=100)
    below = (shown[1000 + TEXT_PX // 2 - 1] == 26).all(axis=-1)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], below.astype(int), [0]]))))[::2]
    assert max(runs) == 50
    narrow = outlined(grey(64, 20), [], red_cell_diameter_px=9)
    assert narrow.shape[1] > 80 and (narrow[:256, 81:] == 255).all(), "room for the text is white"


def test_a_view_is_drawn_on_in_px_of_its_image() -> None:
    cell = square(3000, 6000, 2000)
    shown = outlined_at(grey(1000, 1000), (10_000, 10_000), [(1, cell)], red_cell_diameter_px=800)
    _, columns = np.nonzero(is_(shown[:1000], _LIGHT))
    assert columns.min() == pytest.approx(200, abs=3) and columns.max() == pytest.approx(400, abs=3)


def test_the_image_is_not_changed() -> None:
    pixels = grey(1000, 1000)
    outlined(pixels, [(1, square(300, 300, 120))], red_cell_diameter_px=50)
    assert (pixels == 150).all()
