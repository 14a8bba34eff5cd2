"""`leuk cells` as a step: rows are what the finder finds, in order, and no input changes another's."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leukemia_cli.errors import UsageError
from leukemia_cli.reporting.cells import CELL_COLUMNS
from leukemia_cli.steps import cells as step
from leukemia_cli.steps.cells import CellSettings, CellsOf, crop_name, find_cells_in, write_cells
from leukemia_cli.steps.prepare import PrepareSettings, prepare
from leukemia_cli.vision import cutting
from leukemia_cli.vision.cells import Finder, FoundCells, find_cells
from leukemia_cli.vision.cutting import InputUnit
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.masking import level_ground
from leukemia_cli.vision.slides import held
from leukemia_cli.vision.stain import ground_colour
from leukemia_cli.workspace.folders import open_workspace

SAMPLES = Path(__file__).parents[2] / "sample_images"
RED_PX, NUCLEUS_PX = 30, 40

Place = tuple[int, int]


def smear(size: Place, nuclei: list[Place]) -> Image.Image:
    """Draw nuclei (x, y) on a light ground among red cells that keep clear of them, all as plain discs."""
    image = Image.new("RGB", size, (238, 236, 232))
    draw = ImageDraw.Draw(image)
    for x, y in itertools.product(range(25, size[0], 47), range(25, size[1], 47)):
        if all(math.hypot(x - a, y - b) > (RED_PX + NUCLEUS_PX) / 2 + 6 for a, b in nuclei):
            _disc(draw, x, y, RED_PX, (214, 156, 160))
    for x, y in nuclei:
        _disc(draw, x, y, NUCLEUS_PX + 8, (186, 190, 222))
        _disc(draw, x, y, NUCLEUS_PX, (92, 48, 132))
    return image


def _disc(draw: ImageDraw.ImageDraw, x: int, y: int, across: int, colour: tuple[int, int, int]) -> None:
    draw.ellipse((x - across / 2, y - across / 2, x + across / 2, y + across / 2), fill=colour)


def pixels_of(path: Path | str) -> NDArray[np.uint8]:
    """Read a picture."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Put two smears of one name into two folders."""
    smear((400, 300), [(100, 80), (290, 200)]).save(_made(tmp_path / "a" / "field.png"))
    smear((300, 400), [(150, 300)]).save(_made(tmp_path / "b" / "field.png"))
    return [str(tmp_path / folder / "field.png") for folder in ("a", "b")]


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def found(paths: list[str], **settings: object) -> list[CellsOf]:
    """Find the cells of all paths."""
    return list(find_cells_in(iter(paths), CellSettings(**settings)))


# ------------------------------------------------------------------------------------------------------------ rows


def test_rows_are_the_finders_cells_in_order(two: list[str]) -> None:
    drawn = str(SAMPLES / "ALL" / "all-patient-01" / "field-03.jpg")
    seen = found([*two, drawn], workers=3, input_unit="field")
    assert [each.path for each in seen] == [*two, drawn]
    assert [len(each.cells) for each in seen[:2]] == [2, 1]
    for each in seen:
        expected = find_cells(decode(each.path).pixels)
        rows = list(each.rows())
        assert all(tuple(row) == CELL_COLUMNS for row in rows)
        assert [row["cell"] for row in rows] == list(range(1, len(expected.cells) + 1))
        assert [(row["x"], row["y"], row["width"], row["height"]) for row in rows] == [
            (round(cell.x, 2), round(cell.y, 2), cell.width, cell.height) for cell in expected.cells
        ]
        assert expected.red_cell_diameter_px is not None
        assert {row["red_cell_diameter_px"] for row in rows} == {round(expected.red_cell_diameter_px, 2)}
    (row,) = seen[1].rows()
    assert (row["x"], row["y"]) == pytest.approx((150, 300), abs=1.5)
    assert row["nucleus_area_px"] == pytest.approx(math.pi / 4 * NUCLEUS_PX**2, rel=0.15)


def test_a_broken_image_has_an_error_and_spoils_no_other(two: list[str], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(Path(two[0]).read_bytes()[:500])
    alone = found(two)
    seen = found([two[0], str(tmp_path / "cut.png"), "gone.png", two[1]], workers=2)
    assert [each.error is None for each in seen] == [True, False, False, True]
    assert (seen[0], seen[3]) == (alone[0], alone[1])
    assert all(not each.cells and not list(each.rows()) for each in seen[1:3])
    assert seen[2].error is not None and seen[2].error.reason == "there is no such file"


def test_an_image_without_cells_has_no_rows_and_no_error(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (240, 240, 238)).save(tmp_path / "blank.png")
    (seen,) = found([str(tmp_path / "blank.png")])
    assert (seen.cells, seen.error) == ((), None)


def test_paths_are_taken_as_they_are_needed(two: list[str]) -> None:
    """Of endless inputs the first result comes after a few: neither paths nor images pile up."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for path in itertools.cycle(two):
            taken += 1
            yield path

    seen = find_cells_in(endless(), CellSettings(workers=1))
    assert len(next(seen).cells) == 2
    assert taken <= 6
    for _ in range(6):
        next(seen)
    assert taken <= 12
    seen.close()


# ------------------------------------------------------------------------------------------------- pictures of cells


def test_crops_are_those_of_prepare(tmp_path: Path) -> None:
    """What is seen here is what is trained on, but for the light: prepare levels it to the photograph's ground."""
    for name, patient in (("ALL", 1), ("ALL", 2), ("ALL", 3), ("HTL", 1), ("HTL", 2), ("HTL", 3)):
        source = SAMPLES / name / f"{name.lower()}-patient-0{patient}" / "field-01.jpg"
        shutil.copy(source, _made(tmp_path / "in" / name / source.parent.name / source.name))
    workspace = open_workspace(tmp_path / "ws", create=True)
    settings = PrepareSettings(
        sources=(str(tmp_path / "in"),), task="binary", unit="cell", input_unit="field", unmarked="as-image", folds=2
    )
    kept = prepare(workspace, settings).manifest.everything
    inputs = sorted(str(path) for path in (tmp_path / "in").rglob("*.jpg"))
    seen = found(inputs, crops=tmp_path / "crops", input_unit="field")
    ours = {
        (each.path, round(one.cell.x, 1), round(one.cell.y, 1)): level_ground(
            decode(tmp_path / "crops" / crop_name(place, each.path, one.number)).pixels,
            ground_colour(decode(each.path).pixels),
        ).tobytes()
        for place, each in enumerate(seen)
        for one in each.cells
    }
    theirs = {(cell.field, cell.x, cell.y): decode(cell.path, alpha=True).pixels[..., :3].tobytes() for cell in kept}
    assert len(ours) >= 3
    assert ours == theirs
    assert len(list((tmp_path / "crops").iterdir())) == len(ours)


def test_inputs_of_one_name_do_not_overwrite_each_other(two: list[str], tmp_path: Path) -> None:
    found([*two, two[0]], crops=tmp_path / "crops", overlays=tmp_path / "over")
    crops = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert crops == [
        "000000-field-0001.png", "000000-field-0002.png", "000001-field-0001.png",
        "000002-field-0001.png", "000002-field-0002.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "over").iterdir()) == [
        "000000-field.png", "000001-field.png", "000002-field.png",
    ]  # fmt: skip
    assert {pixels_of(tmp_path / "crops" / name).shape for name in crops} == {(160, 160, 3)}
    middles = [pixels_of(tmp_path / "crops" / name)[80, 80].tolist() for name in crops]
    assert all(np.abs(np.array(middle) - (92, 48, 132)).max() < 25 for middle in middles), "a nucleus is in each middle"


def test_the_picture_of_one_cell_is_its_own_crop(tmp_path: Path) -> None:
    """What is told is the cell in the middle, whatever lies at the edge."""
    smear((200, 200), [(102, 98), (5, 190)]).save(tmp_path / "one.png")
    path = str(tmp_path / "one.png")
    (field,) = found([path], input_unit="field")
    assert len(field.cells) == 2
    (seen,) = found([path], input_unit="cell", crops=tmp_path / "crops")
    (only,) = seen.cells
    assert (only.number, only.cell.x, only.cell.y) == (1, pytest.approx(102, abs=1.5), pytest.approx(98, abs=1.5))
    assert np.array_equal(pixels_of(tmp_path / "crops" / "000000-one-0001.png"), pixels_of(path))


@pytest.mark.parametrize("unit", ["auto", "field", "cell"])
def test_cells_are_found_once_in_each_image(unit: InputUnit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smear((150, 150), [(75, 75)]).save(tmp_path / "one.png")
    searched = []

    def counted(pixels: NDArray[np.uint8], finder: Finder) -> FoundCells:
        searched.append(pixels.shape)
        return find_cells(pixels, finder)

    monkeypatch.setattr(step, "find_cells", counted)
    monkeypatch.setattr(cutting, "find_cells", counted)
    (seen,) = found([str(tmp_path / "one.png")], input_unit=unit)
    assert searched == [(150, 150, 3)]
    assert len(seen.cells) == 1


# ---------------------------------------------------------------------------------------------------------- slides


@pytest.fixture
def as_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have images named slide-… read in tiles of 300 px; what reads real ones is tested with its readers."""
    monkeypatch.setattr(step, "needs_slide", lambda path, limit: Path(path).name.startswith("slide-"))
    monkeypatch.setattr(step, "open_slide", lambda path, **_: held(decode(path).pixels))
    monkeypatch.setattr(cutting, "TILE_PX", 300)
    monkeypatch.setattr(cutting, "OVERLAP_PX", 80)


@pytest.mark.usefixtures("as_slide")
def test_a_slide_gives_each_cell_once_in_its_own_px(two: list[str], tmp_path: Path) -> None:
    """Also where a cell lies on the line between tiles; other images keep their places."""
    nuclei = [(100, 80), (300, 150), (480, 300), (150, 300), (300, 300), (520, 520)]
    path = str(tmp_path / "slide-1.png")
    smear((600, 600), nuclei).save(path)
    notes: list[str] = []
    settings = CellSettings(crops=tmp_path / "crops", overlays=tmp_path / "over")
    seen = list(find_cells_in([two[0], path, two[1]], settings, note=notes.append))
    assert [each.path for each in seen] == [two[0], path, two[1]]
    assert notes == [f"{path}: read in 4 tiles (4 usable)"]
    places = [(one.cell.x, one.cell.y) for one in seen[1].cells]
    assert len(places) == len(nuclei)
    for x, y in nuclei:
        assert min(math.hypot(x - a, y - b) for a, b in places) < 2
    for one in seen[1].cells:
        assert one.cell.left <= one.cell.x <= one.cell.left + one.cell.width
        assert all(0 <= x <= 600 and 0 <= y <= 600 for x, y in one.cell.outline)
    assert [one.number for one in seen[1].cells] == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert names[2:8] == [f"000001-slide-1-000{number}.png" for number in range(1, 7)]
    assert names[8] == "000002-field-0001.png"
    assert sorted(path.name for path in (tmp_path / "over").iterdir())[1] == "000001-slide-1.png"


@pytest.mark.usefixtures("as_slide")
def test_a_slide_that_is_damaged_half_way_has_no_rows(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leukemia_cli.vision.decode import BadImage

    path = str(tmp_path / "slide-2.png")
    smear((600, 600), [(100, 80), (480, 500)]).save(path)
    seen_tiles = []

    def judged(pixels: object) -> str:
        seen_tiles.append(pixels)
        if len(seen_tiles) > 2:
            raise BadImage(path, "planted", "hint")
        return "usable"

    monkeypatch.setattr(cutting, "tile_quality", judged)
    damaged, whole = found([path, two[1]])
    assert damaged.error is not None and (damaged.cells, damaged.error.reason) == ((), "planted")
    assert len(whole.cells) == 1


@pytest.mark.usefixtures("as_slide")
def test_a_slide_is_no_picture_of_one_cell(two: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "slide-3.png")
    smear((600, 600), [(100, 80)]).save(path)
    slide, image = found([path, two[1]], input_unit="cell")
    assert slide.error is not None and "--input-unit cell" in slide.error.hint
    assert len(image.cells) == 1


@pytest.mark.usefixtures("as_slide")
def test_outlines_of_a_slide_are_kept_where_they_are_needed(tmp_path: Path) -> None:
    path = str(tmp_path / "slide-4.png")
    smear((600, 600), [(100, 80)]).save(path)
    for settings, kept in (({}, True), ({"outlines": False}, False), ({"outlines": False, "overlays": tmp_path}, True)):
        (seen,) = found([path], **settings)
        assert bool(seen.cells[0].cell.outline) is kept
    text = "".join(write([path], "geojson"))
    (ring,) = json.loads(text)["features"][0]["geometry"]["coordinates"]
    assert len(ring) > 8, "an outline, not a box"


# --------------------------------------------------------------------------------------------------------- refusals


def write(inputs: list[str], form: step.Form = "csv", **settings: object) -> list[str]:
    """Write the cells of inputs to a list."""
    texts: list[str] = []
    write_cells(
        inputs, CellSettings(**settings), form=form, output=None, keep_errors=False, stdin=(),
        out=lambda text, end: texts.append(text + end),
    )  # fmt: skip
    return texts


def test_geojson_of_several_images_is_refused_before_any_is_opened(
    two: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "decode_each", lambda *_, **__: pytest.fail("an image was opened"))
    with pytest.raises(UsageError, match="takes one image"):
        write(two, "geojson")


@pytest.mark.parametrize("given", ["{}", "{}/", "{}/**", "{}/../smears"])
@pytest.mark.parametrize("which", ["crops", "overlays"])
def test_pictures_are_not_put_among_the_inputs(given: str, which: str, two: list[str], tmp_path: Path) -> None:
    smears = tmp_path / "smears"
    shutil.copy(two[0], _made(smears / "one.png"))
    named = given.format(smears)
    with pytest.raises(UsageError, match="would become inputs"):
        write([named], **{which: smears / "deep" / "cells"})
    assert not (smears / "deep").exists()
    assert len("".join(write([named], **{which: tmp_path / "cells"})).splitlines()) == 3


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="not above 0"):
        CellSettings(max_megapixels=0)
