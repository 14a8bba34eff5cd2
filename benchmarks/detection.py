"""Measure how many white cells are found, by source and block, with the one default setting.

Usage: python benchmarks/detection.py FOLDER [--overlays DIR] [--sources ALL_IDB1,BCCD,...]

FOLDER holds ALL_IDB1 and BCCD (places of white cells), and AML_cells, healthy_cells and odd_inputs (pictures of one cell), as
far as there. A hit in ALL_IDB1 is a found nucleus whose centroid lies within one nucleus radius of the place given, the radius
being that of a disc of the found nucleus's area; in BCCD one whose centroid lies in the box. Each found cell hits one place
at most, and each place is hit once. Seconds are of the processor, one thread, decoding left out. Overlays show hits green, false
alarms red and misses as yellow crosses.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from leukemia_cli.vision.cells import Cell, FoundCells, find_cells
from leukemia_cli.vision.decode import decode

TUNED_BLOCKS = ("A1", "H1")
ONE_CELL = {"AML_cells": "AML_cells/images/*", "healthy_cells": "healthy_cells/*", "tecom": "odd_inputs/tecom_bmp/*"}
ONE_CELL_STEP = {"AML_cells": 8, "healthy_cells": 3, "tecom": 1}
OVERLAY_SIDE_PX = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a white cell is: x and y, and the box left, top, right, bottom where the source gives one."""

    x: float
    y: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One image with all its places."""

    path: Path
    source: str
    block: str
    tuned: bool
    places: tuple[Place, ...]


def idb_fields(data: Path) -> Iterator[Field]:
    """Give the fields of ALL-IDB1 with the white cells listed for them."""
    folder = data / "ALL_IDB1"
    if not folder.is_dir():
        return
    places: dict[str, list[Place]] = defaultdict(list)
    with (folder / "white_cells.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            places[row["image"]].append(Place(x=float(row["x"]), y=float(row["y"])))
    with (folder / "capture_blocks.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            yield Field(
                path=folder / "im" / row["image"],
                source="ALL_IDB1",
                block=row["block"],
                tuned=row["block"] in TUNED_BLOCKS,
                places=tuple(places[row["image"]]),
            )


def bccd_fields(data: Path) -> Iterator[Field]:
    """Give the fields of BCCD with their boxes of white cells, even-numbered files as tuned."""
    for path in sorted((data / "BCCD" / "JPEGImages").glob("*")):
        tree = ElementTree.parse(data / "BCCD" / "Annotations" / f"{path.stem}.xml")
        boxes = [
            tuple(float(found.findtext(f"bndbox/{edge}", "nan")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            for found in tree.iter("object")
            if found.findtext("name") == "WBC"
        ]
        even = int(path.stem.rsplit("_", 1)[1]) % 2 == 0
        yield Field(
            path=path,
            source="BCCD",
            block="even" if even else "odd",
            tuned=even,
            places=tuple(
                Place(x=(left + right) / 2, y=(top + bottom) / 2, box=(left, top, right, bottom))
                for left, top, right, bottom in boxes
            ),
        )


def match(cells: tuple[Cell, ...], places: tuple[Place, ...]) -> list[tuple[int, int]]:
    """Pair cells with places one to one: as many as can be, and of these the nearest."""
    if not cells or not places:
        return []
    cost = np.full((len(cells), len(places)), 1000.0)
    for i, cell in enumerate(cells):
        for j, place in enumerate(places):
            away = math.dist((cell.x, cell.y), (place.x, place.y))
            if place.box is None:
                radius = math.sqrt(cell.nucleus_area_px / math.pi)
                if away <= radius:
                    cost[i, j] = away / radius
            else:
                left, top, right, bottom = place.box
                if left <= cell.x <= right and top <= cell.y <= bottom:
                    cost[i, j] = away / math.hypot(right - left, bottom - top)
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] <= 1]


def draw(
    pixels: NDArray[np.uint8], found: FoundCells, places: tuple[Place, ...], pairs: list[tuple[int, int]]
) -> Image.Image:
    """Draw outlines and misses over the field."""
    share = OVERLAY_SIDE_PX / max(pixels.shape[:2])
    image = Image.fromarray(pixels).resize((round(pixels.shape[1] * share), round(pixels.shape[0] * share)))
    pen = ImageDraw.Draw(image)
    right, told = {i for i, _ in pairs}, {j for _, j in pairs}
    for i, cell in enumerate(found.cells):
        colour = "lime" if i in right else "red"
        pen.polygon([(x * share, y * share) for x, y in cell.outline], outline=colour, width=2)
    for j, place in enumerate(places):
        if j not in told:
            x, y = place.x * share, place.y * share
            pen.line([x - 8, y - 8, x + 8, y + 8], fill="yellow", width=3)
            pen.line([x - 8, y + 8, x + 8, y - 8], fill="yellow", width=3)
    return image


def measure_fields(fields: list[Field], overlays: Path | None) -> None:
    """Print one row for each block."""
    print("| source | block | part | images | white cells | found | hits | recall | precision | s per field (median) |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for source, block in dict.fromkeys((field.source, field.block) for field in fields):
        mine = [field for field in fields if (field.source, field.block) == (source, block)]
        cells = hits = 0
        seconds = []
        for field in mine:
            pixels = decode(str(field.path)).pixels
            started = time.process_time()
            found = find_cells(pixels)
            seconds.append(time.process_time() - started)
            pairs = match(found.cells, field.places)
            cells += len(found.cells)
            hits += len(pairs)
            if overlays:
                target = overlays / f"{source}-{block}-{field.path.stem}.png"
                draw(pixels, found, field.places, pairs).save(target)
        places = sum(len(field.places) for field in mine)
        part = "tuning" if mine[0].tuned else "kept aside"
        print(
            f"| {source} | {block} | {part} | {len(mine)} | {places} | {cells} | {hits} | {hits / max(places, 1):.3f} "
            f"| {hits / max(cells, 1):.3f} | {median(seconds):.2f} |",
            flush=True,
        )


def measure_one_cell(data: Path, sources: list[str]) -> None:
    """Print how many pictures of one cell are recognised as such, and how many cells were found in each."""
    print("\n| source | pictures | unit is cell | one cell found | none found |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for source, pattern in ONE_CELL.items():
        files = sorted(data.glob(pattern))[:: ONE_CELL_STEP[source]]
        if source not in sources or not files:
            continue
        found = [find_cells(decode(str(file)).pixels) for file in files]
        alone = sum(one.unit == "cell" for one in found)
        counts = [len(one.cells) for one in found]
        print(f"| {source} | {len(found)} | {alone} | {counts.count(1)} | {counts.count(0)} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--overlays", type=Path)
    parser.add_argument("--sources", default="ALL_IDB1,BCCD,AML_cells,healthy_cells,tecom")
    chosen = parser.parse_args()
    if chosen.overlays:
        chosen.overlays.mkdir(parents=True, exist_ok=True)
    sources = chosen.sources.split(",")
    with threadpool_limits(limits=1):
        fields = [
            field for field in (*idb_fields(chosen.folder), *bccd_fields(chosen.folder)) if field.source in sources
        ]
        measure_fields(fields, chosen.overlays)
        measure_one_cell(chosen.folder, sources)


if __name__ == "__main__":
    main()
