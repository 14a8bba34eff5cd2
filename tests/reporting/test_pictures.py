from __future__ import annotations

from xml.etree import ElementTree

import pytest

from leukemia_cli.reporting.pictures import WIDTH_PX, confusion_svg

SVG = "{http://www.w3.org/2000/svg}"


def square(count: int, number: int = 137) -> list[list[int]]:
    return [[number * 3 if i == j else number for j in range(count)] for i in range(count)]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


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
    cells = list(root.iter(f"{SVG}rect"))[1:]
    assert len(cells) == count * count
    for cell in cells:
        x, y, w, h = (float(cell.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width
        assert y >= 0 and y + h <= height - 40
        assert w >= 30
    assert min(float(text.attrib["font-size"]) for text in root.iter(f"{SVG}text")) >= 9


@pytest.mark.parametrize("count", [2, 5, 10])
def test_it_reads_on_dark_pages_and_aloud(count: int) -> None:
    root = ElementTree.fromstring(confusion_svg("ABCDEFGHIJ"[:count], square(count), groups=9))
    ground = next(iter(root.iter(f"{SVG}rect")))
    assert (ground.attrib["width"], ground.attrib["height"], ground.attrib["fill"]) == (
        root.attrib["width"],
        root.attrib["height"],
        "#ffffff",
    )
    assert root.attrib["role"] == "img"
    named = {element.attrib["id"]: element.text for element in root if "id" in element.attrib}
    assert set(root.attrib["aria-labelledby"].split()) == set(named)
    assert "411 as A" in (named["confusion-desc"] or "")


def test_text_stands_out_from_every_shade() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for share in range(101):
        root = ElementTree.fromstring(confusion_svg("AB", [[share, 100 - share], [1, 1]], groups=9))
        cell = list(root.iter(f"{SVG}rect"))[1]
        drawn = [t for t in root.iter(f"{SVG}text") if t.text == str(share)]
        light, dark = sorted((luminance(cell.attrib["fill"]), luminance(drawn[0].attrib["fill"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4, share


def test_names_are_escaped_and_long_ones_keep_their_ends() -> None:
    names = ["<b>&\"'", "\x00\udcff\ttab", "a class with a long name 1", "a class with a long name 2"]
    svg = confusion_svg(names, square(4), groups=9)
    shown = texts(svg)
    assert "<b>&\"'" in shown
    assert any("\ufffd\ufffd tab" in text for text in shown)
    # The whole name is the tooltip of the shortened one, in the row and in the column.
    assert shown.count("a class with a long name 1" + "a clas… name 1") == 2
    assert shown.count("a class with a long name 2" + "a clas… name 2") == 2
    svg.encode("utf-8")


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1, 2], [3]], [[1, 2, 3], [4, 5, 6]], [[1, -1], [0, 1]]])
def test_a_matrix_that_does_not_fit_is_refused(matrix: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|negative"):
        confusion_svg("AB", matrix, groups=1)
