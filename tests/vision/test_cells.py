"""White cells are found by their nuclei in drawn smears and, where they are at hand, in real ones."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leukemia_cli.vision import drawing
from leukemia_cli.vision.bodies import MOST_OUTLINE_POINTS
from leukemia_cli.vision.cells import Finder, FoundCells, cut_crop, find_cells
from leukemia_cli.vision.decode import decode

Pixels = NDArray[np.uint8]
Disc = tuple[float, float, float]

GROUND, RED, CHROMATIN, CYTOPLASM = (236, 230, 226), (208, 150, 152), (88, 44, 132), (172, 172, 216)
RED_RADIUS = 20.0


def smear(
    nuclei: list[Disc], *, cytoplasm: tuple[Disc, ...] = (), size: tuple[int, int] = (480, 400), ground: int = 0
) -> Pixels:
    """Draw red cells in rows, none where a white cell lies, and nuclei as discs; smooth edges, a little noise."""
    width, height = size
    image = Image.new("RGB", (2 * width, 2 * height), tuple(level + ground for level in GROUND))
    pen = ImageDraw.Draw(image)

    def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        pen.ellipse([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], fill=colour)

    white = [*nuclei, *cytoplasm]
    for row, y in enumerate(np.arange(30.0, height, 50.0)):
        for x in np.arange(30.0 + 25 * (row % 2), width, 55.0):
            if all(math.dist((x, y), (a, b)) > radius + RED_RADIUS + 2 for a, b, radius in white):
                disc(x, y, RED_RADIUS, RED)
                disc(x, y, 0.3 * RED_RADIUS, (222, 190, 190))
    for x, y, radius in cytoplasm:
        disc(x, y, radius, CYTOPLASM)
    for x, y, radius in nuclei:
        disc(x, y, radius, CHROMATIN)
    pixels = np.asarray(image.reduce(2)).astype(np.float64)
    noisy = pixels + np.random.default_rng(0).normal(0, 2, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def places(found: FoundCells) -> list[tuple[int, int]]:
    return [(round(cell.x), round(cell.y)) for cell in found.cells]


APART: list[Disc] = [(120, 100, 24), (360, 120, 28), (230, 290, 22)]


def test_nuclei_are_found_where_they_were_drawn_and_red_cells_are_not() -> None:
    found = find_cells(smear(APART))
    assert len(found.cells) == 3
    for cell, (x, y, radius) in zip(found.cells, APART, strict=True):
        assert math.dist((cell.x, cell.y), (x, y)) < 1.5
        assert cell.nucleus_area_px == pytest.approx(math.pi * radius**2, rel=0.15)
        assert cell.cell_area_px >= cell.nucleus_area_px
        assert cell.left <= x - radius + 2 and cell.left + cell.width >= x + radius - 2
        assert cell.top <= y - radius + 2 and cell.top + cell.height >= y + radius - 2
        assert cell.width < 2.6 * radius and cell.height < 2.6 * radius
        assert not cell.at_border
        assert 3 <= len(cell.outline) <= MOST_OUTLINE_POINTS
        xs, ys = np.array(cell.outline).T
        assert 0.5 * abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) == pytest.approx(
            cell.cell_area_px, rel=0.1
        )
    assert found.red_cell_diameter_px == pytest.approx(2 * RED_RADIUS, rel=0.15)
    assert found.unit == "field"
    assert found.nuclei.shape == found.bodies.shape
    assert not (found.nuclei & ~found.bodies).any()
    assert found.nuclei.shape[1] == pytest.approx(480 * found.scale, abs=1)


def test_a_smear_of_red_cells_alone_has_no_cells_but_a_ruler() -> None:
    found = find_cells(smear([]))
    assert found.cells == ()
    assert found.red_cell_diameter_px == pytest.approx(2 * RED_RADIUS, rel=0.15)


def test_platelets_are_too_small() -> None:
    assert places(find_cells(smear([(120, 100, 26), (300, 200, 8), (200, 330, 9)]))) == [(120, 100)]


def test_touching_nuclei_are_two() -> None:
    found = find_cells(smear([(200, 200, 26), (249, 200, 26)]))
    assert len(found.cells) == 2
    for cell, x in zip(sorted(found.cells, key=lambda cell: cell.x), (200, 249), strict=True):
        assert math.dist((cell.x, cell.y), (x, 200)) < 3


def test_lobes_of_one_nucleus_are_one_cell() -> None:
    lobes: list[Disc] = [(225, 190, 12), (250, 190, 12), (262, 211, 12)]
    found = find_cells(smear([*lobes, (100, 300, 25)], cytoplasm=((243, 200, 36),)))
    assert len(found.cells) == 2
    lobed = found.cells[0]
    assert math.dist((lobed.x, lobed.y), (246, 197)) < 4
    assert lobed.nucleus_area_px == pytest.approx(3 * math.pi * 12**2, rel=0.25)


def test_a_nucleus_that_the_edge_cuts_is_at_the_border() -> None:
    (cell,) = find_cells(smear([(5, 200, 28)])).cells
    assert cell.at_border
    assert cell.left == 0
    assert all(0 <= x <= 480 and 0 <= y <= 400 for x, y in cell.outline)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_size_of_the_image_does_not_matter(factor: float) -> None:
    pixels = smear(APART)
    size = (round(480 * factor), round(400 * factor))
    found = find_cells(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)))
    assert len(found.cells) == 3
    for cell, (x, y, _) in zip(found.cells, APART, strict=True):
        assert math.dist((cell.x / factor, cell.y / factor), (x, y)) < 2.5
    assert found.red_cell_diameter_px == pytest.approx(2 * RED_RADIUS * factor, rel=0.2)


def test_a_mirrored_image_has_mirrored_cells() -> None:
    pixels = smear(APART)
    there, back = find_cells(pixels), find_cells(np.ascontiguousarray(pixels[:, ::-1]))
    assert len(there.cells) == len(back.cells) == 3
    for cell, other in zip(there.cells, back.cells, strict=True):
        assert math.dist((480 - other.x, other.y), (cell.x, cell.y)) < 1.5
        assert other.nucleus_area_px == pytest.approx(cell.nucleus_area_px, rel=0.1)


def test_the_same_pixels_give_the_same_cells() -> None:
    pixels = smear(APART)
    one, other = find_cells(pixels), find_cells(pixels.copy())
    assert one.cells == other.cells
    assert (one.nuclei == other.nuclei).all()


def test_the_order_is_by_y() -> None:
    cells = find_cells(smear(APART)).cells
    assert [cell.y for cell in cells] == sorted(cell.y for cell in cells)
    assert all(type(cell.x) is type(cell.y) is float and type(cell.left) is int for cell in cells)


RAGGED = [(310, 300), (340, 270), (352, 292), (392, 280), (370, 310), (385, 340), (340, 322)]
BLUE: list[Disc] = [(100, 80, 25), (230, 80, 25), (360, 80, 25), (100, 200, 25), (230, 200, 25), (100, 320, 25)]


def with_ragged(colour: tuple[int, int, int], beside: list[Disc]) -> Pixels:
    image = Image.fromarray(smear([*beside, (350, 300, 4)]))
    ImageDraw.Draw(image).polygon(RAGGED, colour)
    return np.asarray(image)


def test_redder_ragged_nuclei_beside_many_blue_ones_are_left_out() -> None:
    redder = (105, 50, 135)
    assert len(find_cells(with_ragged(CHROMATIN, BLUE)).cells) == 7
    assert sorted(places(find_cells(with_ragged(redder, BLUE)))) == sorted((x, y) for x, y, _ in BLUE)
    assert len(find_cells(with_ragged(redder, BLUE[:2])).cells) == 3  # few: a granulocyte beside lymphocytes


def test_a_redder_ragged_nucleus_in_blue_cytoplasm_is_whole() -> None:
    image = Image.fromarray(with_ragged((105, 50, 135), BLUE))
    bare = len(find_cells(np.asarray(image)).cells)
    pen = ImageDraw.Draw(image)
    # Cytoplasm in the azure dye's own colour: it takes much red light and little green.
    pen.polygon([(300, 300), (335, 260), (398, 270), (400, 350), (335, 335)], (150, 180, 222))
    pen.polygon(RAGGED, (105, 50, 135))
    assert (bare, len(find_cells(np.asarray(image)).cells)) == (6, 7)


def with_seam(colour: tuple[int, int, int]) -> Pixels:
    image = Image.fromarray(smear([*APART[:2], (205, 290, 26), (246, 290, 26)]))
    pen = ImageDraw.Draw(image)
    # Pressed flat against each other, so that the outline alone shows hardly a neck.
    pen.rectangle([205, 265, 246, 315], fill=CHROMATIN)
    pen.rectangle([224, 262, 227, 318], fill=colour)
    return np.asarray(image)


def test_nuclei_that_only_a_pale_seam_parts_are_two() -> None:
    assert len(find_cells(with_seam(CHROMATIN)).cells) == 3
    assert len(find_cells(with_seam((140, 110, 180))).cells) == 4


def test_two_large_lobes_that_fill_one_cell_are_one() -> None:
    lobes: list[Disc] = [(222, 200, 23), (269, 200, 23)]
    assert len(find_cells(smear([*lobes, (100, 320, 25)], cytoplasm=((245, 200, 46),))).cells) == 2
    assert len(find_cells(smear([*lobes, (100, 320, 25)])).cells) == 3


def test_round_nuclei_are_kept_whatever_their_hue() -> None:
    pixels = smear(BLUE)
    left = pixels[:, :240].astype(np.float64)
    nuclear = left[..., 2:] > left[..., :1] + 15
    pixels[:, :240] = np.where(nuclear, left * [1.3, 1.0, 0.9], left).astype(np.uint8)
    assert len(find_cells(pixels).cells) == 6


def test_small_cells_of_a_large_image_that_is_partly_blank_are_measured_not_guessed() -> None:
    tile = np.asarray(Image.fromarray(smear(APART)).reduce(3))
    large = np.full((8 * tile.shape[0], 2400, 3), GROUND, np.uint8)
    filled = np.tile(tile, (8, 8, 1))
    large[:, : filled.shape[1]] = filled
    found = find_cells(large)
    assert found.red_cell_diameter_px == pytest.approx(2 * RED_RADIUS / 3, rel=0.3)
    assert len(found.cells) == pytest.approx(8 * 8 * 3, rel=0.1)


def test_a_picture_of_one_cell_is_told_from_a_field() -> None:
    one = smear([(90, 88, 34)], cytoplasm=((90, 88, 46),), size=(180, 176))
    assert (find_cells(one).unit, len(find_cells(one).cells)) == ("cell", 1)
    bare = Image.new("RGB", (120, 120), (250, 240, 170))
    ImageDraw.Draw(bare).ellipse([35, 35, 90, 90], fill=(215, 190, 150))
    ImageDraw.Draw(bare).ellipse([42, 40, 80, 78], fill=(70, 20, 50))
    found = find_cells(np.asarray(bare))
    assert (found.unit, len(found.cells), found.red_cell_diameter_px) == ("cell", 1, None)
    beside = smear([(150, 88, 20)], size=(180, 176))
    assert find_cells(beside).unit == "field"


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("white", np.full((100, 120, 3), 255, np.uint8)),
        ("black", np.zeros((100, 120, 3), np.uint8)),
        ("grey", np.full((61, 60, 3), 128, np.uint8)),
        ("noise", np.random.default_rng(0).integers(0, 256, (200, 180, 3), np.uint8)),
        ("grey noise", np.random.default_rng(1).integers(0, 256, (200, 180, 1), np.uint8).repeat(3, axis=2)),
        ("one pixel", np.full((1, 1, 3), 200, np.uint8)),
        ("one row", np.random.default_rng(2).integers(0, 256, (1, 300, 3), np.uint8)),
        ("one column", np.random.default_rng(2).integers(0, 256, (300, 1, 3), np.uint8)),
    ],
)
def test_what_is_no_smear_has_no_cells(name: str, pixels: Pixels) -> None:
    found = find_cells(pixels)
    assert found.cells == (), name
    assert found.unit == "field"


def test_memory_is_bounded_whatever_the_scale() -> None:
    small = replace(Finder(), most_working_px=30_000)
    found = find_cells(smear(APART), small)
    assert found.nuclei.size <= 30_500
    assert len(found.cells) == 3


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(pixels: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        find_cells(pixels)
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        cut_crop(pixels, 1, 1, side_px=2, size_px=2)


def test_a_finder_survives_json() -> None:
    finder = replace(Finder(), nuclear_threshold=0.45)
    assert Finder.from_json(json.loads(json.dumps(finder.as_json()))) == finder
    with pytest.raises(ValueError, match="nonsense"):
        Finder.from_json({**finder.as_json(), "nonsense": 1})
    with pytest.raises(ValueError, match="version 99"):
        Finder.from_json({**finder.as_json(), "version": 99})


# ---------------------------------------------------------------------------------- crops


def test_a_crop_of_its_own_size_is_the_pixels_themselves() -> None:
    pixels = smear(APART)
    assert (cut_crop(pixels, 120, 100, side_px=40, size_px=40) == pixels[80:120, 100:140]).all()


def test_a_crop_is_centred_and_shrunk_by_area() -> None:
    pixels = np.full((100, 100, 3), 200, np.uint8)
    pixels[40:60, 40:60] = 100
    crop = cut_crop(pixels, 50, 50, side_px=40, size_px=10)
    assert crop.shape == (10, 10, 3)
    assert (crop[4:6, 4:6] == 100).all() and (crop[0] == 200).all()
    assert (crop == crop[::-1, ::-1]).all()
    # A chequered ground comes out as its mean, never as one of its two colours.
    chequered = np.where(np.indices((64, 64)).sum(axis=0)[..., None] % 2, 100, 200).astype(np.uint8).repeat(3, axis=2)
    assert np.abs(cut_crop(chequered, 32, 32, side_px=32, size_px=4).astype(int) - 150).max() <= 2


def test_beyond_the_edge_a_crop_has_the_grounds_colour() -> None:
    pixels = smear(APART)
    crop = cut_crop(pixels, 0, 0, side_px=60, size_px=60)
    ground = np.array(GROUND)
    assert np.abs(crop[:28].astype(int) - ground).max() <= 6
    assert (crop[31:, 31:] == pixels[1:30, 1:30]).all()
    away = cut_crop(pixels, -500, 900, side_px=60, size_px=12)
    assert np.abs(away.astype(int) - ground).max() <= 6


def test_a_crop_hangs_on_nothing_beyond_its_square() -> None:
    pixels = smear(APART)
    other = pixels.copy()
    other[:, 200:] = 0
    one = cut_crop(pixels, 120.3, 100.7, side_px=50.5, size_px=32)
    assert (one == cut_crop(other, 120.3, 100.7, side_px=50.5, size_px=32)).all()


@pytest.mark.parametrize(("x", "side", "size"), [(math.nan, 10.0, 4), (5.0, 0.0, 4), (5.0, 10.0, 0)])
def test_impossible_crops_are_refused(x: float, side: float, size: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        cut_crop(np.zeros((8, 8, 3), np.uint8), x, 4, side_px=side, size_px=size)


# ---------------------------------------------------------------------------------- drawn and real smears


def hits(found: FoundCells, truth: list[tuple[float, float]]) -> int:
    """Count truths that have a cell within one radius of its nucleus, each cell serving once, the nearest pairs first."""
    near = sorted(
        (distance, i, j)
        for i, cell in enumerate(found.cells)
        for j, place in enumerate(truth)
        if (distance := math.dist((cell.x, cell.y), place)) <= math.sqrt(cell.nucleus_area_px / math.pi)
    )
    cells: set[int] = set()
    places: set[int] = set()
    for _, i, j in near:
        if i not in cells and j not in places:
            cells.add(i)
            places.add(j)
    return len(places)


def test_white_cells_of_drawn_smears_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    truths: list[list[tuple[float, float]]] = []
    place = drawing._place_white_cells

    def placed(kind: str, cover: float, size: tuple[float, float], rng: np.random.Generator) -> list[drawing.Placed]:
        cells = place(kind, cover, size, rng)
        truths.append([(cell.x_um, cell.y_um) for cell in cells])
        return cells

    monkeypatch.setattr(drawing, "_place_white_cells", placed)
    right = found_count = truth_count = 0
    for kind in drawing.KINDS:
        patient = drawing.draw_patient(kind, 1)
        field = drawing.draw_field(kind, patient, np.random.default_rng(1), 384, 384)
        found = find_cells(np.asarray(field))
        truth = [(x * patient.px_per_um, y * patient.px_per_um) for x, y in truths[-1]]
        right += hits(found, truth)
        found_count += len(found.cells)
        truth_count += len(truth)
    assert right >= 0.85 * truth_count
    assert right >= 0.85 * found_count


def test_white_cells_of_real_smears_are_found(real_images: Callable[[str], Path]) -> None:
    folder = real_images("ALL_IDB1")
    truth: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with (folder / "white_cells.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            truth[row["image"]].append((float(row["x"]), float(row["y"])))
    right = found_count = truth_count = 0
    for name in ("Im003_1.jpg", "Im016_1.jpg", "Im041_0.jpg", "Im055_1.jpg", "Im083_0.jpg"):
        found = find_cells(decode(str(folder / "im" / name)).pixels)
        right += hits(found, truth[name])
        found_count += len(found.cells)
        truth_count += len(truth[name])
    assert right >= 0.9 * truth_count
    assert right >= 0.75 * found_count
