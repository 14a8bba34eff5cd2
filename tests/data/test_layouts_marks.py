"""What data sets say of single cells, read as written; and every damaged line told with its file and number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.data.marks import (
    CocoFile,
    read_class_names,
    read_coco,
    read_typed_points,
    read_voc,
    read_xyc,
    read_yolo,
)
from leukemia_cli.data.sources import Mark
from leukemia_cli.errors import DataError

NUMBERS = st.floats(min_value=0, max_value=10_000, allow_nan=False).map(lambda x: round(x, 3))
PARTS = st.floats(min_value=0, max_value=1)
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
GAPS = st.sampled_from([" ", "\t", "   ", " \t "])
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"])

WBC = Mark(x=375.5, y=276.5, label="WBC", width=231.0, height=199.0)
VOC = """<?xml version="1.0"?>
<annotation>
  <folder>JPEGImages</folder><filename>a.jpg</filename>
  <source><annotation>inner</annotation></source>
  <object>
    <name> WBC </name><truncated>1</truncated><difficult>1</difficult>
    <bndbox><xmin>260</xmin><ymin>177</ymin>
      <xmax>491</xmax><ymax>376</ymax></bndbox>
    <part><name>nucleus</name><bndbox><xmin>1</xmin></bndbox></part>
  </object>
</annotation>
"""


def written(folder: Path, text: str | bytes, name: str = "cells.txt") -> str:
    """Write a file and give its path."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# -------------------------------------------------------------------------------------------------------- points


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, GAPS, ENDS)))
def test_centroids_are_read_whatever_stands_between_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, str, str]]
) -> None:
    text = "\n".join(f"{gap}{x}{gap}{y}{gap}{end}" for x, y, gap, end in rows)
    marks = read_xyc(written(tmp_path_factory.mktemp("xyc"), text), "1")
    assert [(mark.x, mark.y, mark.label) for mark in marks] == [(x, y, "1") for x, y, _, _ in rows]
    assert all(mark.width is None and mark.height is None and not mark.relative for mark in marks)


@pytest.mark.parametrize("text", ["", "\n", " \t\r\n \r\n", "\ufeff\n"])
def test_a_file_of_white_space_holds_no_centroid(tmp_path: Path, text: str) -> None:
    assert read_xyc(written(tmp_path, text), "0") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\t2\n\n3\n", r"cells\.txt line 3 holds '3', not the x and y"),
        ("1 2 3\n", "line 1 holds '1 2 3'"),
        ("1,2\n", "line 1 holds '1,2'"),
        ("1 x\n", "line 1 has 'x' where a number"),
        ("1 nan\n", "line 1 has 'nan' where a number"),
        ("1 inf\n", "line 1 has 'inf' where a number"),
        ("5 6\r\n-1 2\r\n", "line 2 lies outside its image: -1 2"),
        ("1 -2\n", "line 1 lies outside its image: 1 -2"),
        (b"\xff\xfe1\x00", "is no UTF-8 text"),
    ],
)
def test_a_damaged_file_of_centroids_is_told_by_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_xyc(written(tmp_path, text), "1")


def test_typed_points(tmp_path: Path) -> None:
    path = written(tmp_path, "594 95 0\r\n66 403 6\r\n")
    assert read_typed_points(path) == (Mark(x=594, y=95, label="0"), Mark(x=66, y=403, label="6"))
    with pytest.raises(DataError, match="line 2 holds '66 403', not the x, y and kind"):
        read_typed_points(written(tmp_path, "594 95 0\n66 403\n"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_typed_points, read_voc, read_coco, read_class_names):
        with pytest.raises(DataError, match="cannot read"):
            read(str(tmp_path / "none"))


# ----------------------------------------------------------------------------------------------------------- VOC


def test_voc_boxes_whatever_their_flags_and_parts(tmp_path: Path) -> None:
    assert read_voc(written(tmp_path, VOC)) == (WBC,)
    assert read_voc(written(tmp_path, VOC.replace("\n", "\r\n"))) == (WBC,)
    assert read_voc(written(tmp_path, "<annotation/>")) == ()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(NAMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=5))
def test_voc_boxes_keep_their_corners(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float, float, float, float]]
) -> None:
    objects = "".join(
        f"<object><bndbox><ymax>{y + h}</ymax><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax></bndbox>"
        f"<name>{escape(name)}</name></object>"
        for name, x, y, w, h in rows
    )
    marks = read_voc(written(tmp_path_factory.mktemp("voc"), f"<annotation>{objects}</annotation>"))
    assert [mark.label for mark in marks] == [name for name, *_ in rows]
    for mark, (_, x, y, w, h) in zip(marks, rows, strict=True):
        assert mark.width is not None and mark.height is not None
        corners = (mark.x - mark.width / 2, mark.y - mark.height / 2, mark.x + mark.width / 2, mark.y + mark.height / 2)
        assert corners == pytest.approx((x, y, x + w, y + h), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[:200], "line .* is no XML"),
        (lambda t: "", "line 1 is no XML"),
        (lambda t: t.replace("annotation>", "html>"), "line 2 begins 'html', not a VOC"),
        (lambda t: t.replace("<name> WBC </name>", ""), "line 10 ends an object without a name"),
        (lambda t: t.replace("<xmax>491</xmax>", ""), r"line 10 ends an object \(WBC\) without xmax"),
        (lambda t: t.replace("491", "wide"), "line 8 has 'wide' where a number"),
        (lambda t: t.replace("491", "12"), r"line 10 ends an object \(WBC\) whose box is none: 260, 177, 12, 376"),
        (
            lambda t: t.replace("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>', 1),
            "defines XML entities",
        ),
    ],
)
def test_a_damaged_voc_annotation_is_told_by_its_line(tmp_path: Path, change: Callable[[str], str], said: str) -> None:
    with pytest.raises(DataError, match=rf"cells\.txt {said}"):
        read_voc(written(tmp_path, change(VOC)))


# ---------------------------------------------------------------------------------------------------------- YOLO


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), PARTS, PARTS, PARTS, PARTS), max_size=5), GAPS)
def test_yolo_boxes_stay_parts_of_the_image(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float, float, float]], gap: str
) -> None:
    text = "\r\n".join(gap.join(map(repr, row)) for row in rows)
    marks = read_yolo(written(tmp_path_factory.mktemp("yolo"), text), {0: "WBC", 1: "RBC", 2: "Platelets"})
    assert [(mark.x, mark.y, mark.width, mark.height) for mark in marks] == [row[1:] for row in rows]
    assert [mark.label for mark in marks] == [("WBC", "RBC", "Platelets")[row[0]] for row in rows]
    assert all(mark.relative for mark in marks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 .5 .5 .1\n", "line 1 has 4 numbers, not the 5 of a box"),
        ("0 .5 .5 .1 .1 .9 .9\n", "line 1 has 7 numbers"),
        ("0 .5 .5 .1 .1\n\n3 .5 .5 .1 .1\n", "line 3 has the class '3'; 2 classes are named"),
        ("WBC .5 .5 .1 .1\n", "line 1 has the class 'WBC'"),
        ("0 .5 .5 .1 x\n", "line 1 has 'x' where a number"),
        ("0 .5 .5 .1 nan\n", "line 1 has 'nan' where a number"),
        ("0 320 240 64 64\n", "line 1 lies outside its image: 320 240 64 64"),
        ("0 .5 -.5 .1 .1\n", "line 1 lies outside its image"),
        ("0 .5 .5 1.01 .1\n", "line 1 lies outside its image"),
    ],
)
def test_a_damaged_yolo_file_is_told_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_yolo(written(tmp_path, text), {0: "WBC", 1: "RBC"})


def test_class_names_of_each_form(tmp_path: Path) -> None:
    assert read_class_names(written(tmp_path, "names: ['WBC', RBC]\nnc: 2\n", "data.yaml")) == {0: "WBC", 1: "RBC"}
    assert read_class_names(written(tmp_path, "names:\n  0: WBC\n  2: 7\n", "data.yml")) == {0: "WBC", 2: "7"}
    assert read_class_names(written(tmp_path, "WBC\r\n red cell \n", "classes.txt")) == {0: "WBC", 1: "red cell"}
    for text, said in (
        ("nc: 3", "names no classes"),
        ("names: {a: b}", "names no classes"),
        ("a: [", "not valid YAML"),
    ):
        with pytest.raises(DataError, match=said):
            read_class_names(written(tmp_path, text, "data.yaml"))


# ---------------------------------------------------------------------------------------------------------- COCO


def coco(**changes: object) -> str:
    """Give a COCO file of two images and one box, with some of its parts changed."""
    parts: dict[str, object] = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [260, 177.0, 231, 199]}],
        "categories": [{"id": 3, "name": "WBC"}],
    }
    return json.dumps({key: value for key, value in {**parts, **changes}.items() if value is not None}, indent=1)


def test_coco_boxes_by_image(tmp_path: Path) -> None:
    found = read_coco(written(tmp_path, coco()))
    assert found == CocoFile(images=(("a.jpg", (WBC,)), ("b.jpg", ())), crowds=0)
    crowd = [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1}]
    assert read_coco(written(tmp_path, coco(annotations=crowd))) == CocoFile(
        images=(("a.jpg", ()), ("b.jpg", ())), crowds=1
    )


def box(**changes: object) -> list[dict[str, object]]:
    """Give the annotations of one box, changed."""
    return [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], **changes}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (coco()[:-20], r"cells\.txt line \d+ is no JSON"),
        ("[]", "has no list of images"),
        (coco(categories=None), "has no list of categories"),
        (coco(images=[{"id": 1}]), r"images\[0\], has no file_name"),
        (coco(images=[3]), r"images\[0\], has no id"),
        (coco(images=[{"id": [1], "file_name": "a"}]), r"images\[0\], has a list where a number"),
        (coco(annotations=box(image_id=9)), r"annotations\[0\], is of image 9 and category 3, and one of them is not"),
        (coco(annotations=box(category_id=9)), "category 9"),
        (coco(annotations=box(bbox=[1, 2, 3])), r"has the box \[1, 2, 3\], not x, y, width"),
        (coco(annotations=box(bbox=[1, 2, -3, 4])), "not x, y, width"),
        (coco(annotations=box(bbox=["x", 2, 3, 4])), "has 'x' where a number"),
        (coco(annotations=box(bbox=[math.nan, 2, 3, 4])), "has 'nan' where a number"),
        (coco(annotations=box(bbox=None)), "has the box None"),
    ],
)
def test_a_damaged_coco_file_is_told_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_coco(written(tmp_path, text))
