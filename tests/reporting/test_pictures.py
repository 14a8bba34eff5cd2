"""The confusion matrix as a picture of its own: read, heard, and readable for two to ten classes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.figures import confusion_svg
from leukemia_cli.reporting.pictures import WIDTH_PX, shortened, width_of

SVG = "{http://www.w3.org/2000/svg}"


def square(count: int, number: int = 137) -> list[list[int]]:
    return [[number * 3 if i == j else number for j in range(count)] for i in range(count)]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def cells(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [rect for rect in root.iter(f"{SVG}rect") if rect.attrib["class"] == "shade"]


def test_counts_shares_and_caption_are_drawn() -> None:
    shown = texts(confusion_svg(("ALL", "HTL"), [[120, 9], [14, 117]], groups=31))
    for said in ("ALL", "HTL", "120", "93 %", "9", "7 %", "14", "11 %", "117", "89 %", "n = 260 images, 31 groups"):
        assert said in shown
    assert "n = 260 images, groups unknown" in texts(confusion_svg("AB", [[120, 9], [14, 117]], groups=None))
    assert "n = 1 image, 1 group" in texts(confusion_svg("AB", [[1, 0], [0, 0]], groups=1))


def test_a_class_without_images_has_dashes() -> None:
    shown = texts(confusion_svg("ABC", [[5, 0, 0], [0, 0, 0], [0, 1, 4]], groups=3))
    assert shown.count("–") == 3
    assert shown.count("0 %") == 3


@pytest.mark.parametrize("count", range(2, 11))
@pytest.mark.parametrize("name", ["{}", "class {}", "a very long name of class {}"])
def test_every_cell_lies_inside_and_text_stays_readable(count: int, name: str) -> None:
    root = ElementTree.fromstring(confusion_svg([name.format(i) for i in range(count)], square(count), groups=9))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert width == WIDTH_PX
    drawn = cells(root)
    assert len(drawn) == count * count
    for cell in drawn:
        x, y, w, h = (float(cell.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width
        assert y >= 0 and y + h <= height - 20
        assert w >= 25
    for text in root.iter(f"{SVG}text"):
        # A count of three digits in ten columns is the smallest text there is.
        assert float(text.attrib["font-size"]) >= (13 if not (text.text or "").isdigit() or count <= 6 else 11)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_it_stands_alone_and_reads_aloud(count: int) -> None:
    root = ElementTree.fromstring(confusion_svg("ABCDEFGHIJ"[:count], square(count), groups=9))
    ground = next(iter(root.iter(f"{SVG}rect")))
    assert (ground.attrib["width"], ground.attrib["height"], ground.attrib["fill"]) == (
        root.attrib["width"],
        root.attrib["height"],
        "#ffffff",
    )
    assert root.attrib["role"] == "img"
    named = {element.attrib["id"]: element.text or "" for element in root if "id" in element.attrib}
    assert set(root.attrib["aria-labelledby"].split()) == set(named)
    assert any("411 as A" in said for said in named.values())


def test_the_shade_is_the_share_of_the_row() -> None:
    root = ElementTree.fromstring(confusion_svg("AB", [[30, 10], [0, 0]], groups=9))
    assert [float(cell.attrib["fill-opacity"]) for cell in cells(root)] == [0.75, 0.25, 0, 0]


def test_names_are_escaped_and_long_ones_keep_their_ends() -> None:
    names = ["<b>&\"'", "\x00\udcff\ttab", "a class with a long name 1", "a class with a long name 2"]
    svg = confusion_svg(names, square(4), groups=9)
    shown = texts(svg)
    assert "<b>&\"'" in shown
    assert any("\ufffd\ufffd tab" in text for text in shown)
    for end in "12":
        # The whole name is the tooltip of the shortened one, in the row and in the column.
        whole = f"a class with a long name {end}"
        both = [text.removeprefix(whole) for text in shown if text.startswith(whole)]
        assert len(both) == 2
        assert all("…" in text and text.startswith("a") and text.endswith(end) for text in both)
    svg.encode("utf-8")


@given(st.text(), st.floats(min_value=20, max_value=400))
def test_shortened_text_fits_or_is_whole(text: str, width: float) -> None:
    said = shortened(text, width)
    assert width_of(said) <= max(width, width_of("…"))
    assert "…" in said or said == " ".join(text.split())


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1, 2], [3]], [[1, 2, 3], [4, 5, 6]], [[1, -1], [0, 1]]])
def test_a_matrix_that_does_not_fit_is_refused(matrix: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|negative"):
        confusion_svg("AB", matrix, groups=1)
