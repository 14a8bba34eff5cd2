"""The table of cells keeps its columns, and the GeoJSON is what QuPath reads: rings closed, colours with names, no NaN."""

from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.cells import (
    CELL_COLUMNS,
    CellCall,
    Drawn,
    cell_columns,
    cell_row,
    cell_table,
    drawn_cell,
    feature,
    geojson,
    geojson_lines,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nucleated:
    """A cell as a finder gives it."""

    x: float = 20.123
    y: float = 30.456
    left: int = 10
    top: int = 20
    width: int = 30
    height: int = 25
    nucleus_area_px: float = 200.5
    cell_area_px: float = 410.0
    outline: tuple[tuple[float, float], ...] = ((10, 20), (40, 20), (40, 45), (10, 45))


def signed_area(ring: list[list[float]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring)) / 2


def test_the_columns_of_found_cells_are_fixed() -> None:
    assert CELL_COLUMNS == (
        "path", "cell", "x", "y", "width", "height", "nucleus_area_px", "cell_area_px", "red_cell_diameter_px",
    )  # fmt: skip
    assert cell_columns(("ALL", "HTL"))[9:] == ("label", "confidence", "score_ALL", "score_HTL")
    row = cell_row("a.png", 1, Nucleated(), red_cell_diameter_px=None)
    assert tuple(row) == CELL_COLUMNS
    assert list(row.values()) == ["a.png", 1, 20.12, 30.46, 30, 25, 200.5, 410.0, None]


def test_a_table_reads_back_as_it_was_written() -> None:
    classes = ("ALL", "HTL")
    call = CellCall(label="ALL", confidence=0.75, scores=(0.75, 0.25))
    rows = [
        cell_row('odd,"name".png', 1, Nucleated(), red_cell_diameter_px=31.0, classes=classes, call=call),
        cell_row("b.png", 1, Nucleated(), red_cell_diameter_px=31.0, classes=classes),
    ]
    text = "".join(cell_table(rows, classes))
    read = list(csv.DictReader(io.StringIO(text)))
    assert tuple(read[0]) == cell_columns(classes)
    assert read[0]["path"] == 'odd,"name".png' and read[0]["score_HTL"] == "0.25" and read[0]["label"] == "ALL"
    assert read[1]["label"] == read[1]["confidence"] == read[1]["score_ALL"] == ""
    assert "".join(cell_table([])) == ",".join(CELL_COLUMNS) + "\n"


def test_rows_that_do_not_fit_are_refused() -> None:
    call = CellCall(label="ALL", confidence=1.0, scores=(1.0,))
    with pytest.raises(ValueError, match="classes"):
        cell_row("a", 1, Nucleated(), red_cell_diameter_px=None, call=call)
    with pytest.raises(ValueError, match="argument"):
        cell_row("a", 1, Nucleated(), red_cell_diameter_px=None, classes=("ALL", "HTL"), call=call)
    plain = cell_row("a", 1, Nucleated(), red_cell_diameter_px=None)
    with pytest.raises(ValueError, match="are not"):
        list(cell_table([plain], ("ALL",)))


def test_a_cell_becomes_the_detection_that_qupath_reads() -> None:
    drawn = drawn_cell(Nucleated(), class_name="ALL", colour=(1, 2, 3), measurements={"Confidence": 0.9, "none": None})
    assert feature(drawn) == {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[10.0, 20.0], [40.0, 20.0], [40.0, 45.0], [10.0, 45.0], [10.0, 20.0]]],
        },
        "properties": {
            "objectType": "detection",
            "classification": {"name": "ALL", "color": [1, 2, 3]},
            "measurements": {"Nucleus: Area px^2": 200.5, "Cell: Area px^2": 410.0, "Confidence": 0.9},
        },
    }
    assert "classification" not in feature(drawn_cell(Nucleated()))["properties"]


def test_what_is_no_number_is_left_out_of_a_cell_and_refused_in_a_shape() -> None:
    bad = {"a": float("nan"), "b": float("inf"), "c": 1.0}
    assert set(drawn_cell(Nucleated(), measurements=bad).measurements) == {"Nucleus: Area px^2", "Cell: Area px^2", "c"}
    with pytest.raises(ValueError, match="not all finite"):
        feature(Drawn(ring=((0, 0), (1, 0), (1, 1)), measurements=bad))
    with pytest.raises(ValueError, match="corner that is not finite"):
        feature(Drawn(ring=((0, 0), (1, 0), (1, float("nan")))))


@pytest.mark.parametrize("outline", [(), ((1, 1),), ((1, 1), (2, 2)), ((1, 1), (2, 2), (3, 3)), ((1, 1),) * 5])
def test_an_outline_without_area_becomes_the_box(outline: tuple[tuple[float, float], ...]) -> None:
    ring = feature(drawn_cell(replace(Nucleated(), outline=outline)))["geometry"]["coordinates"][0]
    assert ring == [[10.0, 20.0], [40.0, 20.0], [40.0, 45.0], [10.0, 45.0], [10.0, 20.0]]
    with pytest.raises(ValueError, match="no area"):
        feature(Drawn(ring=outline))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=12, unique=True),
    st.booleans(),
)
def test_every_ring_is_closed_once_and_turned_alike(points: list[tuple[int, int]], closed: bool) -> None:
    ring = tuple(points) + ((points[0],) if closed else ())
    try:
        written = feature(Drawn(ring=ring))["geometry"]["coordinates"][0]
    except ValueError:
        assert signed_area([*map(list, points), list(points[0])]) == 0
        return
    assert written[0] == written[-1] and len(written) == len(points) + 1
    assert signed_area(written) > 0
    assert {tuple(point) for point in written} == set(points)


def test_lines_hold_the_collection_and_an_annotation_may_lie_among_detections() -> None:
    region = Drawn(ring=((0, 0), (100, 0), (100, 100), (0, 100)), object_type="annotation", class_name="usable")
    shapes = [region, *(drawn_cell(Nucleated()) for _ in range(3))]
    text = "".join(geojson_lines(shapes))
    assert json.loads(text) == geojson(shapes)
    assert len(text.splitlines()) == len(shapes) + 2
    kinds = [one["properties"]["objectType"] for one in json.loads(text)["features"]]
    assert kinds == ["annotation", "detection", "detection", "detection"]
    assert json.loads("".join(geojson_lines([]))) == {"type": "FeatureCollection", "features": []}


def test_lines_come_one_at_a_time() -> None:
    """A generator that fails late has given its first cells before."""

    def shapes():
        yield drawn_cell(Nucleated())
        raise RuntimeError("later")

    lines = geojson_lines(shapes())
    next(lines)
    assert json.loads(next(lines))["type"] == "Feature"
    with pytest.raises(RuntimeError, match="later"):
        next(lines)
