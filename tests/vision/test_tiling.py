"""Cores share out the image, each tile shows its own and what lies around it, and what is found twice counts once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.vision.cells import Cell
from leukemia_cli.vision.slides import held
from leukemia_cli.vision.tiling import count_tiles, own_finds, tiles


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(1, 100), overlap=st.integers(0, 30))
def test_cores_share_out_the_slide_and_tiles_show_it(width: int, height: int, side: int, overlap: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    covered = np.zeros((height, width), dtype=int)
    slide = held(pixels)
    cut = list(tiles(slide, side_px=side, overlap_px=overlap))
    for tile in cut:
        core = tile.core
        covered[core.top : core.top + core.height, core.left : core.left + core.width] += 1
        assert max(core.width, core.height) <= side
        assert tile.pixels.shape == (tile.height, tile.width, 3)
        assert np.array_equal(
            tile.pixels, pixels[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        )
        assert tile.left == max(0, core.left - overlap) and tile.top == max(0, core.top - overlap)
        assert tile.left + tile.width == min(width, core.left + core.width + overlap)
    assert (covered == 1).all()
    assert len(cut) == count_tiles(slide, side_px=side)
    sizes = [tile.core.width for tile in cut] + [tile.core.height for tile in cut]
    assert min(sizes) * 2 >= min(side, width, height) - 1
    assert [tile.core.top for tile in cut] == sorted(tile.core.top for tile in cut)


def test_what_is_found_in_an_overlap_counts_once_and_where_it_lies() -> None:
    places = [(40.0, 40.0), (99.5, 50.0), (100.0, 100.0), (101.0, 149.0), (199.0, 199.0)]
    seen = []
    for tile in tiles(held(np.zeros((200, 200, 3), np.uint8)), side_px=100, overlap_px=60):
        inside = [(x - tile.left, y - tile.top) for x, y in places]
        found = [
            Cell(
                x=x,
                y=y,
                left=int(x) - 3,
                top=int(y) - 3,
                width=7,
                height=7,
                nucleus_area_px=9.0,
                cell_area_px=20.0,
                outline=((x, y), (x + 1, y), (x, y + 1)),
                at_border=False,
            )
            for x, y in inside
            if 0 <= x < tile.width and 0 <= y < tile.height
        ]
        seen += list(own_finds(tile, found))
    assert sorted((one.x, one.y) for one in seen) == sorted(places)
    assert all(one.left == int(one.x) - 3 and one.top == int(one.y) - 3 for one in seen)
    assert all(one.outline == ((one.x, one.y), (one.x + 1, one.y), (one.x, one.y + 1)) for one in seen)


@pytest.mark.parametrize(("side", "overlap"), [(0, 0), (-5, 0), (10, -1)])
def test_tiles_without_a_size_are_refused(side: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        next(tiles(held(np.zeros((20, 20, 3), np.uint8)), side_px=side, overlap_px=overlap))
