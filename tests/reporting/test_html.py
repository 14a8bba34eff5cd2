"""Pages hold what they are given, whatever it is: escaped, in contrast, without anything from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from drawn_reports import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.html import (
    Column,
    Footnotes,
    Section,
    datum,
    details,
    escaped,
    estimate_cells,
    figure,
    joined,
    named,
    page,
    paragraph,
    picture,
    preformatted,
    sentence,
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


def test_the_address_of_a_note_holds_no_markup() -> None:
    notes = Footnotes(prefix='level "><script>')
    (link,) = [attributes for tag, attributes in Reader(notes.mark("a")).tags if tag == "a"]
    assert link["href"] == '#level "><script>-1'
    assert "script" not in {tag for tag, _ in Reader(notes.listed()).tags}


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
