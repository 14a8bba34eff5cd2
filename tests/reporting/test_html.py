"""Pages hold what they are given, whatever it is: escaped, in contrast, without anything from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise, product

import pytest
from drawn_reports import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.html import (
    CSS,
    DARK,
    LIGHT,
    Column,
    Footnotes,
    Section,
    Theme,
    counts,
    datum,
    details,
    escaped,
    estimate_cells,
    figure,
    interval,
    joined,
    named,
    number,
    page,
    paragraph,
    picture,
    preformatted,
    sentence,
    signed,
    table,
    warnings_block,
)


class Reader(HTMLParser):
    """Reads back text and attributes as a browser would, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def whole(*sections: Section, title: str = "A page") -> str:
    lead = paragraph(escaped("A finding."), kind="lead")
    return page(title=title, over="Evaluation", lead=lead, sections=sections, footer=escaped("made"))


# ---------------------------------------------------------------------------------- text


@given(st.text())
def test_any_text_comes_back_but_for_what_no_page_can_hold(text: str) -> None:
    markup = escaped(text)
    markup.encode("utf-8")
    back = Reader(f"<p>{markup}</p>").text
    assert len(back) == len(text)
    assert all(other in (one, "\ufffd") for one, other in zip(text, back, strict=True))
    assert not set(markup) & set("<>\"'")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_in_every_place(name: str) -> None:
    parts = [
        paragraph(named(name)),
        preformatted(name),
        details(name, paragraph(named(name))),
        table([Column(title=name), Column(title="n")], [(named(name), datum(0.5, name, key=name))], caption=name),
        figure(escaped(""), number=1, caption=named(name), of=name),
        warnings_block([name]),
        picture("data:image/png;base64,AAAA", alt=name),
    ]
    read = Reader(whole(Section(anchor="a", title=name, body=joined(parts)), title=name))
    assert {tag for tag, _ in read.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "a", "div", "header", "p", "h1", "h2", "bdi", "nav", "ol"),
        *("li", "main", "section", "pre", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"),
        *("data", "figure", "figcaption", "b", "ul", "img", "footer"),
    }
    assert not any(key.startswith("on") for _, attributes in read.tags for key in attributes)
    shown = Reader(f"<p>{escaped(name)}</p>").text
    assert read.text.count(shown) >= 10
    assert next(attributes["alt"] for tag, attributes in read.tags if tag == "img") == shown


def test_marks_that_turn_the_text_around_them_are_not_kept() -> None:
    assert escaped("a\u202eb\u2066c\u200fd") == "a\ufffdb\ufffdc\ufffdd"
    assert escaped("👩🏽‍🔬 ابيض") == "👩🏽‍🔬 ابيض"


def test_a_page_asks_for_nothing_and_lets_nothing_run() -> None:
    text = whole(Section(anchor="a", title="A", body=paragraph(escaped("b"))))
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|src=(?!\"data:)", text)
    assert [tag for tag, _ in Reader(text).tags if tag in ("script", "link", "iframe", "object")] == []


@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "data:text/html;base64,AAAA", 'data:image/png;base64,AA"x', "a.png"]
)
def test_a_picture_from_elsewhere_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not a picture as data"):
        picture(address, alt="a")


def test_sections_need_anchors_of_their_own() -> None:
    same = Section(anchor="a", title="A", body=escaped(""))
    with pytest.raises(ValueError, match="not distinct"):
        whole(same, same)


# ---------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.9125, "0.912", "+0.912"),
        (-0.2, "−0.200", "−0.200"),
        (None, "–", "–"),
        (0.0, "0.000", "0.000"),
        (-0.0001, "0.000", "0.000"),
        (1, "1.000", "+1.000"),
    ],
)
def test_numbers_have_three_decimals_and_a_true_minus(value: float | None, plain: str, with_sign: str) -> None:
    assert number(value) == plain
    assert signed(value) == with_sign


def test_counts_say_what_is_not_known() -> None:
    assert counts(1, 1) == "1 image, 1 group"
    assert counts(12345, None) == "12345 images, groups unknown"
    assert counts(None, 3) == "not in this report"
    assert interval(0.1, None) == interval(None, None) == "–"
    assert interval(0.1, 0.25) == "0.100 to 0.250"


def test_a_figure_without_interval_has_a_dash_and_its_reason_as_a_note() -> None:
    notes = Footnotes(prefix="x")
    base = {"n": 80, "groups": 4, "low": None, "high": None}
    cells = estimate_cells({**base, "value": 0.5, "method": "no interval: few groups"}, notes, key="metrics.a")
    estimate_cells({**base, "value": None, "method": "undefined"}, notes, key="metrics.b")
    again = estimate_cells(
        {**base, "value": 0.7, "method": "no interval: few groups"}, notes, key="c", groups_known=False
    )
    assert [Reader(cell).text for cell in cells] == ["0.5001", "–", "80", "4"]
    assert Reader(cells[0]).tags[0] == ("data", {"value": "0.5", "data-key": "metrics.a"})
    assert [Reader(cell).text for cell in again] == ["0.7001", "–", "80", "unknown"]
    assert Reader(notes.listed()).texts == ["No interval: few groups.", "Undefined.", "\n"]
    targets = {attributes.get("id") for _, attributes in Reader(notes.listed()).tags}
    assert dict(Reader(cells[0]).tags)["a"]["href"] == "#x-1"
    assert {"x-1", "x-2"} <= targets


def test_differences_have_signs() -> None:
    cells = estimate_cells(
        {"value": 0.1, "low": -0.05, "high": 0.25, "n": 9, "groups": 3, "method": "paired"},
        Footnotes(prefix="x"),
        key="d",
        difference=True,
    )
    assert [Reader(cell).text for cell in cells] == ["+0.1001", "−0.050 to +0.250", "9", "3"]


def test_warnings_are_sentences() -> None:
    assert warnings_block([]) == ""
    read = Reader(warnings_block(["few groups", "Already one."]))
    assert read.texts == ["Warnings", "Few groups.", "Already one.", "\n"]
    assert sentence("really?") == "Really?"


def test_a_table_heads_rows_and_columns_and_refuses_ragged_rows() -> None:
    columns = [Column(title="Class", numeric=False), Column(title="Images")]
    read = Reader(table(columns, [(escaped("ALL"), escaped("3"))], caption="Counts", kept=[0]))
    assert [attributes["scope"] for tag, attributes in read.tags if tag == "th"] == ["col", "col", "row"]
    assert [attributes.get("class") for tag, attributes in read.tags if tag == "tr"] == [None, "kept"]
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2"):
        table(columns, [(escaped("a"), escaped("b")), (escaped("a"),)], caption="Counts")


# ---------------------------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, contrast ratio."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(ground: str, over: str, share: float) -> str:
    pairs = [(int(ground[i : i + 2], 16), int(over[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_both_themes_meet_wcag_aa(theme: Theme) -> None:
    for ink, ground in (
        *product((theme.ink, theme.pale, theme.link), (theme.paper, theme.panel)),
        (theme.ink, theme.alarm),
        (theme.alarm_ink, theme.alarm),
        *((theme.ink, mixed(theme.paper, theme.shade, share / 20)) for share in range(21)),
    ):
        assert contrast(ink, ground) >= 4.5, (ink, ground)
    for line in theme.series:
        assert contrast(line, theme.paper) >= 3, line


def seen_without_red_or_green(colour: str) -> tuple[float, float, float]:
    """Source: Viénot, Brettel and Mollon 1999, reduction of the palette for deuteranopes, in linear RGB."""
    r, g, b = (((int(colour[i : i + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for i in (1, 3, 5))
    yellow = 0.29275 * r + 0.70725 * g
    return yellow, b - 0.02234 * (r - g), luminance(colour)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_neighbouring_series_differ_for_those_who_see_no_green(theme: Theme) -> None:
    seen = [seen_without_red_or_green(colour) for colour in theme.series]
    for one, other in pairwise(seen):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.04


def test_the_style_sheet_names_every_colour_of_both_themes() -> None:
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS))
    assert used <= {name for name, _ in re.findall(r"--([a-z0-9-]+):(#[0-9a-f]{6})", LIGHT.variables())}
    assert re.findall(r"--([a-z0-9-]+):", LIGHT.variables()) == re.findall(r"--([a-z0-9-]+):", DARK.variables())
    assert CSS.count("{") == CSS.count("}")
