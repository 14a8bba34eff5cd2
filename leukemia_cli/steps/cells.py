"""`leuk cells`: images become rows, one for each white cell that is found in them; neither a run nor a network is needed.

Requirements met here:
- Rows come in the order of the inputs, and within one in the order of the finder, whatever is looked at side by side.
- An image that cannot be used has no row, is named, and spoils no other; a slide that is damaged half-way has none either.
- Memory does not grow with the number of inputs (with `--json` the broken ones are held); of a slide its cells are held,
  never its pixels.
- Crops are those of `leuk prepare --unit cell`: both come from `vision.cutting`.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.csv_rows import Scalar, csv_line
from leukemia_cli.data.inputs import check_outside, expand_inputs
from leukemia_cli.domain import Note, Track, counted, silent, unheard
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.reporting.cells import CELL_COLUMNS, Drawn, cell_row, drawn_cell, geojson_lines
from leukemia_cli.reporting.documents import held_back
from leukemia_cli.reporting.findings import json_line
from leukemia_cli.vision.cells import Cell, find_cells
from leukemia_cli.vision.cutting import Cutting, InputUnit, Pixels, cut_found, cut_tiles
from leukemia_cli.vision.decode import MAX_MEGAPIXELS, BadImage, Decoded, Unusable, decode_each
from leukemia_cli.vision.outlines import LONGEST_PX, outlined, outlined_at
from leukemia_cli.vision.overlays import heatmap_name, png_bytes
from leukemia_cli.vision.slides import SLIDE_SUFFIXES, needs_slide, open_slide
from leukemia_cli.workspace.files import check_replaceable, check_writable, destination, write_bytes

Form = Literal["csv", "jsonl", "geojson", "json"]

_CUTTING = Cutting()


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSettings:
    """How images are read, and the folders for pictures; none of it changes which cells are found in a field."""

    input_unit: InputUnit = "auto"
    crops: Path | None = None
    overlays: Path | None = None
    outlines: bool = True
    """Whether the outlines of a slide's cells are kept: of a hundred thousand they take most of the memory."""
    max_megapixels: float = MAX_MEGAPIXELS
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.max_megapixels > 0:
            raise UsageError(f"--max-megapixels {self.max_megapixels} is not above 0", "The default is 200")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedCell:
    """A white cell with its number in its image, from 1, and the red-cell diameter around it; None where none was seen."""

    number: int
    cell: Cell
    red_cell_diameter_px: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsOf:
    """The white cells of one input, or why it cannot be used; not both."""

    path: str
    cells: tuple[NumberedCell, ...] = ()
    error: Unusable | None = None

    def rows(self) -> Iterator[dict[str, Scalar]]:
        """Give the documented columns of each cell."""
        for each in self.cells:
            yield cell_row(self.path, each.number, each.cell, red_cell_diameter_px=each.red_cell_diameter_px)


def find_cells_in(
    paths: Iterable[str], settings: CellSettings, track: Track = silent, note: Note = unheard
) -> Iterator[CellsOf]:
    """Yield the cells of each path, in order, and write the pictures that were asked for.

    `track` watches the tiles of a slide, and `note` is told how many were passed over.
    Images are read and searched in threads, slides a tile at a time. Raises MachineError where a slide's library is missing
    or the disk is full.
    """
    place = 0
    for is_slide, group in itertools.groupby(paths, key=lambda path: _is_slide(path, settings)):
        look = functools.partial(_of_slides, track=track, note=note) if is_slide else _of_images
        for each in look(group, place, settings):
            place += 1
            yield each


def _is_slide(path: str, settings: CellSettings) -> bool:
    try:
        return needs_slide(path, settings.max_megapixels)
    except OSError:  # a name that the system refuses to look up: decoding says so
        return False


# --------------------------------------------------------------------------------------------------------- images


def _of_images(paths: Iterable[str], start: int, settings: CellSettings) -> Iterator[CellsOf]:
    """Look at images that fit into memory; the first is the `start`-th input."""
    named: dict[int, str] = {}

    def remembered() -> Iterator[str]:
        for place, path in enumerate(paths):
            named[place] = path
            yield path

    def look(place: int, decoded: Decoded) -> tuple[NumberedCell, ...]:
        return _look(decoded.pixels, named[place], start + place, settings)

    outcomes = decode_each(remembered(), look, workers=settings.workers, max_megapixels=settings.max_megapixels)
    for place, outcome in enumerate(outcomes):
        path = named.pop(place)
        if isinstance(outcome, Unusable):
            yield CellsOf(path=path, error=outcome)
        else:
            yield CellsOf(path=path, cells=outcome)


def _look(pixels: Pixels, path: str, place: int, settings: CellSettings) -> tuple[NumberedCell, ...]:
    found = find_cells(pixels, _CUTTING.finder)
    diameter = found.red_cell_diameter_px
    told = cut_found(pixels, found, _CUTTING, settings.input_unit)
    pairs = [(each.cell, each.pixels) for each in told.cells if each.cell is not None]
    if told.unit == "cell":
        pairs = [(cell, pixels) for cell in _middle_one(found.cells, pixels)]
    cells = tuple(
        NumberedCell(number=number, cell=cell, red_cell_diameter_px=diameter)
        for number, (cell, _) in enumerate(pairs, start=1)
    )
    if settings.crops is not None:
        for each, (_, crop) in zip(cells, pairs, strict=True):
            write_bytes(settings.crops / crop_name(place, path, each.number), png_bytes(crop))
    if settings.overlays is not None:
        drawn = outlined(pixels, [(each.number, each.cell) for each in cells], red_cell_diameter_px=diameter)
        write_bytes(settings.overlays / heatmap_name(place, path), png_bytes(drawn))
    return cells


def _middle_one(cells: Sequence[Cell], pixels: Pixels) -> Sequence[Cell]:
    """Give the one cell that the picture of a cell is of, without the neighbours at its edge; none where none is found."""
    height, width = pixels.shape[:2]
    return sorted(cells, key=lambda cell: math.hypot(cell.x - width / 2, cell.y - height / 2))[:1]


def crop_name(place: int, path: str, number: int) -> str:
    """Name the crop of a cell: no two cells of any two inputs share a name, and no name leaves the folder.

    '000007-Im001_1-0003.png': place of the input, from 0, what is kept of its name, number of the cell, from 1.
    """
    return f"{heatmap_name(place, path).removesuffix('.png')}-{number:04d}.png"


# --------------------------------------------------------------------------------------------------------- slides


def _of_slides(paths: Iterable[str], start: int, settings: CellSettings, track: Track, note: Note) -> Iterator[CellsOf]:
    """Look at slides one after the other; the first is the `start`-th input."""
    for place, path in enumerate(paths, start=start):
        if settings.input_unit == "cell":
            reason = "it is too large for the crop of one cell"
            yield CellsOf(path=path, error=Unusable(reason, "Leave out --input-unit cell, or raise --max-megapixels"))
            continue
        try:
            yield CellsOf(path=path, cells=_of_slide(path, place, settings, track, note))
        except BadImage as error:
            yield CellsOf(path=path, error=Unusable(error.reason, error.hint))


def _of_slide(path: str, place: int, settings: CellSettings, track: Track, note: Note) -> tuple[NumberedCell, ...]:
    """Look at the usable tiles of a slide; a cell in the overlap of tiles is that of the tile in whose core it lies."""
    cells: list[NumberedCell] = []
    with_outlines = settings.outlines or settings.overlays is not None
    qualities: Counter[str] = Counter()
    diameter = None
    with open_slide(path, max_megapixels=settings.max_megapixels, workers=settings.workers) as slide:
        for tile in cut_tiles(slide, _CUTTING, outlines=with_outlines, track=track):
            qualities[tile.quality] += 1
            for each in tile.cells:
                if each.cell is None:
                    continue
                one = NumberedCell(
                    number=len(cells) + 1,
                    cell=each.cell,
                    red_cell_diameter_px=tile.red_cell_diameter_px,
                )
                cells.append(one)
                if settings.crops is not None:
                    write_bytes(settings.crops / crop_name(place, path, one.number), png_bytes(each.pixels))
            diameter = tile.red_cell_diameter_px
        if settings.overlays is not None:
            drawn = outlined_at(
                slide.thumbnail(LONGEST_PX),
                (slide.width, slide.height),
                [(each.number, each.cell) for each in cells],
                red_cell_diameter_px=diameter,
            )
            write_bytes(settings.overlays / heatmap_name(place, path), png_bytes(drawn))
    told = ", ".join(f"{count} {quality}" for quality, count in sorted(qualities.items()))
    note(f"{path}: read in {counted(qualities.total(), 'tile')} ({told})")
    return tuple(cells)


# -------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many inputs were looked at, how many could not be used, and how many cells there are."""

    images: int
    cells: int
    failed: int
    errors: tuple[dict[str, str], ...]
    """Path, problem and hint of each input that failed, where that was asked for."""


def write_cells(
    inputs: Sequence[str],
    settings: CellSettings,
    *,
    form: Form,
    output: Path | None,
    keep_errors: bool,
    stdin: Iterable[bytes],
    out: Callable[[str, str], None],
    track: Track = silent,
    note: Note = unheard,
) -> Written:
    """Find the cells in what `inputs` mean and write each image's rows as they are known.

    With `output` rows go to `output.partial`, which takes its name when all are there; after an interruption it stays.
    A JSON document for `out` is held back until it is whole: after an error or an interruption nothing of it is out.
    Raises UsageError for GeoJSON of more than one input, and for pictures that would become inputs themselves.
    """
    if output is not None:
        if output.suffix.lower() in IMAGE_SUFFIXES:
            raise UsageError(f"--output {output} has the name of an image", "Name a file such as cells.csv")
        check_replaceable(output)
    for flag, folder in (("--crops", settings.crops), ("--overlays", settings.overlays)):
        if folder is not None:
            check_outside(flag, folder, inputs)
    paths = expand_inputs(inputs, {**IMAGE_SUFFIXES, **SLIDE_SUFFIXES}, stdin)
    begun = list(itertools.islice(paths, 2 if form == "geojson" else 1))
    if not begun:
        raise DataError("no inputs were named", "Name files or folders, or pipe paths to: leuk cells -")
    if len(begun) > 1:
        raise UsageError(
            "--format geojson takes one image, and more were named",
            "Run it once for each image, or take --format csv or jsonl, where a column names the image",
        )
    for folder in (settings.crops, settings.overlays):
        if folder is not None:
            check_writable(folder)
    tally = _Tally()
    settings = replace(settings, outlines=form == "geojson")
    found = track(find_cells_in(itertools.chain(begun, paths), settings, track, note), total=0, label="looked at")
    if form == "geojson":
        found = [_usable(each) for each in found]  # before the file is begun
    watched = _counted(found, tally, form == "json" or keep_errors, note)
    with held_back(out) if form == "json" and output is None else destination(output, out) as write:
        for text in _texts(form, watched, tally):
            write(text)
    _say(tally, note)
    return Written(images=tally.images, cells=tally.cells, failed=tally.failed, errors=tuple(tally.errors))


def some_failed(written: Written) -> DataError:
    """Make the error that ends a command of which some inputs could not be used."""
    return DataError(
        f"{written.failed} of {counted(written.images, 'image')} could not be used",
        "They are named above; the rows of the others are complete",
    )


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What is told at the end."""

    images: int = 0
    cells: int = 0
    without_cells: int = 0
    without_scale: int = 0
    failed: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)


def _counted(found: Iterable[CellsOf], tally: _Tally, keep_errors: bool, note: Note) -> Iterator[CellsOf]:
    for each in found:
        tally.images += 1
        if each.error is not None:
            tally.failed += 1
            note(f"warning: no rows for {each.path}: {each.error.reason}. {each.error.hint}")
            if keep_errors:
                tally.errors.append({"path": each.path, "problem": each.error.reason, "hint": each.error.hint})
        else:
            tally.cells += len(each.cells)
            tally.without_cells += not each.cells
            tally.without_scale += any(cell.red_cell_diameter_px is None for cell in each.cells)
        yield each


def _usable(found: CellsOf) -> CellsOf:
    if found.error is not None:
        raise DataError(f"cannot use image {found.path}: {found.error.reason}", found.error.hint)
    return found


def _say(tally: _Tally, note: Note) -> None:
    read = tally.images - tally.failed
    none = f"; none in {tally.without_cells} of them" if tally.without_cells else ""
    note(f"{counted(tally.cells, 'white cell')} in {counted(read, 'image')}{none}")
    if tally.without_scale:
        where = counted(tally.without_scale, "image")
        note(f"no red cell to measure by in {where} with white cells: red_cell_diameter_px is empty there")


def _texts(form: Form, found: Iterable[CellsOf], tally: _Tally) -> Iterator[str]:
    """Give what is written, the rows of an image at once."""
    if form == "csv":
        yield csv_line(CELL_COLUMNS)
        for each in found:
            yield "".join(csv_line(tuple(row.values())) for row in each.rows())
    elif form == "jsonl":
        for each in found:
            yield "".join(json_line(row) + "\n" for row in each.rows())
    elif form == "geojson":
        yield from geojson_lines(_drawn(cell) for each in found for cell in each.cells)
    else:
        yield '{"rows": ['
        lead = "\n"
        for each in found:
            for row in each.rows():
                yield lead + json_line(row)
                lead = ",\n"
        facts = {"images": tally.images, "cells": tally.cells, "errors": tally.errors}
        yield f"\n], {json.dumps(facts, allow_nan=False)[1:]}\n"


def _drawn(each: NumberedCell) -> Drawn:
    return drawn_cell(each.cell, measurements={"Red cell: Diameter px": each.red_cell_diameter_px})
