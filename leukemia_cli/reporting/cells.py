"""The cells of an image as files: a row of CSV for each, and GeoJSON that QuPath opens over the image.

Coordinates are px of the image at its full resolution from its upper left corner, in both files.
Source: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html (units, origin); QuPath's
QuPathTypeAdapters.java and GsonTools.java (`objectType`, `classification` with both name and colour, `measurements`), since
version 0.4; RFC 7946 (rings).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from leukemia_cli.csv_rows import Scalar, csv_line
from leukemia_cli.vision.cells import Cell

CELL_COLUMNS = (
    "path",
    "cell",
    "x",
    "y",
    "width",
    "height",
    "nucleus_area_px",
    "cell_area_px",
    "red_cell_diameter_px",
)
"""Columns of every table of cells: `cell` counts from 1 in each image, `x` and `y` are the nucleus's centre."""
CALL_COLUMNS = ("label", "confidence")
"""Further columns where cells were classified; after them comes a `score_<class>` for each class."""

_DECIMALS = 2
_LEAST_RING = 3

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCall:
    """What a cell was classified as: `scores` (C,) in the order of the classes; None where it got no label."""

    label: str | None
    confidence: float | None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A shape for GeoJSON: its ring of points (px), and what QuPath is to show of it.

    "detection" is a cell, kept light for thousands of them; "annotation" a region that a person may edit.
    """

    ring: tuple[Point, ...]
    object_type: Literal["detection", "annotation"] = "detection"
    class_name: str | None = None
    colour: Colour = (128, 128, 128)
    measurements: Mapping[str, float] = field(default_factory=dict)


def cell_columns(classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Give the columns in order; with classes, those of a classified cell too."""
    if classes is None:
        return CELL_COLUMNS
    return (*CELL_COLUMNS, *CALL_COLUMNS, *(f"score_{name}" for name in classes))


def cell_row(
    path: str,
    number: int,
    cell: Cell,
    *,
    red_cell_diameter_px: float | None,
    classes: Sequence[str] | None = None,
    call: CellCall | None = None,
) -> dict[str, Scalar]:
    """Give the documented columns of the image's `number`-th cell, from 1; lengths with two decimals.

    Raises ValueError for a call without classes, or scores that are not one for each.
    """
    row: dict[str, Scalar] = dict(
        zip(
            CELL_COLUMNS,
            (
                path,
                number,
                round(cell.x, _DECIMALS),
                round(cell.y, _DECIMALS),
                cell.width,
                cell.height,
                round(cell.nucleus_area_px, _DECIMALS),
                round(cell.cell_area_px, _DECIMALS),
                None if red_cell_diameter_px is None else round(red_cell_diameter_px, _DECIMALS),
            ),
            strict=True,
        )
    )
    if classes is None:
        if call is not None:
            raise ValueError("a call without the classes it chose from cannot be written")
        return row
    scores: Sequence[float | None] = (None,) * len(classes)
    if call is not None and call.scores is not None:
        scores = call.scores
    row["label"] = None if call is None else call.label
    row["confidence"] = None if call is None else call.confidence
    return row | {f"score_{name}": score for name, score in zip(classes, scores, strict=True)}


def cell_table(rows: Iterable[Mapping[str, Scalar]], classes: Sequence[str] | None = None) -> Iterator[str]:
    """Yield CSV, the header first, a line at a time; raises ValueError for a row with other columns."""
    names = cell_columns(classes)
    yield csv_line(names)
    for row in rows:
        if tuple(row) != names:
            raise ValueError(f"columns {tuple(row)} are not {names}")
        yield csv_line(tuple(row.values()))


def drawn_cell(
    cell: Cell,
    *,
    class_name: str | None = None,
    colour: Colour = (128, 128, 128),
    measurements: Mapping[str, float | None] | None = None,
) -> Drawn:
    """Draw a cell as its outline, or its box where the outline has no area; its areas are measurements beside those given.

    Measurements that are missing or no finite number are left out.
    """
    right, bottom = cell.left + cell.width, cell.top + cell.height
    box = (
        (float(cell.left), float(cell.top)),
        (float(right), float(cell.top)),
        (float(right), float(bottom)),
        (float(cell.left), float(bottom)),
    )
    found: dict[str, float | None] = {
        "Nucleus: Area px^2": cell.nucleus_area_px,
        "Cell: Area px^2": cell.cell_area_px,
        **(measurements or {}),
    }
    return Drawn(
        ring=cell.outline if len(set(cell.outline)) >= _LEAST_RING and _area(cell.outline) else box,
        class_name=class_name,
        colour=colour,
        measurements={name: value for name, value in found.items() if value is not None and math.isfinite(value)},
    )


def feature(drawn: Drawn) -> dict[str, Any]:
    """Make one GeoJSON feature; raises ValueError for a ring without area or a number that is not finite."""
    properties: dict[str, Any] = {"objectType": drawn.object_type}
    if drawn.class_name is not None:
        # QuPath refuses the whole file where a classification has a name and no colour.
        properties["classification"] = {"name": drawn.class_name, "color": list(drawn.colour)}
    if drawn.measurements:
        if not all(math.isfinite(value) for value in drawn.measurements.values()):
            raise ValueError(f"measurements {dict(drawn.measurements)} are not all finite")
        properties["measurements"] = {name: float(value) for name, value in drawn.measurements.items()}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_closed(drawn.ring)]},
        "properties": properties,
    }


def geojson(shapes: Iterable[Drawn]) -> dict[str, Any]:
    """Make a FeatureCollection; for many cells write `geojson_lines` instead."""
    return {"type": "FeatureCollection", "features": [feature(drawn) for drawn in shapes]}


def geojson_lines(shapes: Iterable[Drawn]) -> Iterator[str]:
    """Yield the text of the same FeatureCollection, a feature a line, so that it never lies in memory whole."""
    yield '{"type": "FeatureCollection", "features": ['
    between = "\n"
    for drawn in shapes:
        yield between + json.dumps(feature(drawn), allow_nan=False)
        between = ",\n"
    yield "\n]}\n"


def _closed(ring: Sequence[Point]) -> list[list[float]]:
    """Close a ring and turn it as RFC 7946 asks: an outer ring's area is positive."""
    if not all(math.isfinite(value) for point in ring for value in point):
        raise ValueError("an outline has a corner that is not finite")
    points = list(ring[:-1]) if len(ring) > 1 and ring[0] == ring[-1] else list(ring)
    area = _area(points)
    if len(points) < _LEAST_RING or area == 0:
        raise ValueError(f"an outline of {len(points)} corners has no area")
    if area < 0:
        points.reverse()
    return [[round(float(x), _DECIMALS), round(float(y), _DECIMALS)] for x, y in (*points, points[0])]


def _area(ring: Sequence[Point]) -> float:
    """Give the signed area of a ring, closed or not. Source: the shoelace formula."""
    following = (*ring[1:], *ring[:1])
    return sum(x * below - right * y for (x, y), (right, below) in zip(ring, following, strict=True)) / 2
