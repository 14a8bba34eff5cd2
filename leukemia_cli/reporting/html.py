"""A page is one HTML file that asks for nothing else: no script, no font, no picture from elsewhere.

What has been escaped has a type of its own, `Markup`, so that the type checker finds a name that went in raw.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NewType

from leukemia_cli.reporting.style import CSS
from leukemia_cli.reporting.wording import Notes, begun, group_count, interval, number, signed

Markup = NewType("Markup", str)

NOT_IN_REPORT = "Not in this report."
# Nothing may be fetched and nothing may run, whatever a name has managed to smuggle in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


# ---------------------------------------------------------------------------------- text


_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def escaped(text: str) -> Markup:
    """Give text that HTML, XML and UTF-8 hold as it is; what they cannot hold, or turns what follows, becomes U+FFFD."""
    return Markup(escape("".join(_shown(mark) for mark in text)))


def _shown(mark: str) -> str:
    if mark in "\n\t":
        return mark
    code = ord(mark)
    lost = unicodedata.category(mark) in ("Cc", "Cs") or mark in _TURNING
    return "\ufffd" if lost or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF else mark


def plain(text: str) -> str:
    """Put text on one line for what is not a page, with the marks lost that `escaped` loses."""
    line = "".join(" " if mark.isspace() and mark not in "\u00a0\u202f" else mark for mark in text)
    return "".join(map(_shown, line)).strip()


def named(text: str) -> Markup:
    """Give a name that came from a user, kept from turning the direction of the text around it."""
    return Markup(f"<bdi>{escaped(text)}</bdi>")


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """Put markup together; `between` is plain text."""
    return Markup(escaped(between).join(parts))


def paragraph(content: Markup, *, kind: str | None = None) -> Markup:
    """Give one paragraph; `kind` is a class of the style sheet: lead, pale, use, over."""
    return Markup(f"<p{_classed(kind)}>{content}</p>\n")


def items(content: Iterable[Markup]) -> Markup:
    """Give a list of points."""
    return Markup("<ul>" + "".join(f"<li>{item}</li>" for item in content) + "</ul>\n")


def definitions(pairs: Iterable[tuple[str, Markup]]) -> Markup:
    """Give terms with what they are; terms are plain text."""
    return Markup("<dl>" + "".join(f"<dt>{escaped(term)}</dt><dd>{what}</dd>" for term, what in pairs) + "</dl>\n")


def preformatted(text: str) -> Markup:
    """Give text with its line ends and spaces kept."""
    return Markup(f"<pre>{escaped(text)}</pre>\n")


def details(summary: str, body: Markup) -> Markup:
    """Fold a body away under its plain-text summary; it is open in print."""
    return Markup(f"<details><summary>{escaped(summary)}</summary>\n{body}</details>\n")


def subsection(title: str, body: Markup) -> Markup:
    """Head a body inside a section; the title is plain text."""
    return Markup(f"<h3>{escaped(title)}</h3>\n{body}")


def warnings_block(warnings: Sequence[str]) -> Markup:
    """Give warnings one sentence each, or nothing where there are none."""
    if not warnings:
        return Markup("")
    lines = "".join(f"<li>{sentence(warning)}</li>" for warning in warnings)
    return Markup(
        f'<section class="alarm" aria-labelledby="warnings"><h2 id="warnings">'
        f"{'Warning' if len(warnings) == 1 else 'Warnings'}</h2><ul>{lines}</ul></section>\n"
    )


def sentence(text: str) -> Markup:
    """Begin with a capital and end with a stop."""
    text = text.strip()
    return escaped(begun(text) + ("" if text.endswith((".", "!", "?")) else "."))


# ---------------------------------------------------------------------------------- numbers


def datum(value: float | None, shown: str, *, key: str | None = None) -> Markup:
    """Show a number and keep it whole beside it, so that the page can be read by machines; `key` says what it is."""
    marked = f' data-key="{escaped(key)}"' if key else ""
    return Markup(f'<data value="{"" if value is None else escaped(repr(value))}"{marked}>{escaped(shown)}</data>')


@dataclass(slots=True)
class Footnotes:
    """Notes at the foot of a table; `prefix` keeps the addresses of several tables apart."""

    prefix: str
    _notes: Notes = field(default_factory=Notes)

    def mark(self, note: str) -> Markup:
        """Give the raised number that leads to a note."""
        place = self._notes.mark(note)
        return Markup(f'<sup><a href="#{escaped(self.prefix)}-{place}" aria-label="note {place}">{place}</a></sup>')

    def listed(self) -> Markup:
        """Give the notes, or nothing where none was marked."""
        if not self._notes.listed:
            return Markup("")
        ids = enumerate(self._notes.listed, start=1)
        lines = "".join(f'<li id="{escaped(self.prefix)}-{i}">{sentence(note)}</li>' for i, note in ids)
        return Markup(f'<ol class="notes">{lines}</ol>\n')


def estimate_cells(
    estimate: Mapping[str, Any], notes: Footnotes, *, key: str, groups_known: bool = True, difference: bool = False
) -> tuple[Markup, ...]:
    """Give value with its note, interval, images and groups of a figure of report.json; `key` names it for machines."""
    value = estimate["value"]
    return (
        Markup(datum(value, signed(value) if difference else number(value), key=key) + notes.mark(estimate["method"])),
        escaped(interval(estimate["low"], estimate["high"], signs=difference)),
        escaped(str(estimate["n"])),
        escaped(group_count(int(estimate["groups"]), known=groups_known)),
    )


# ---------------------------------------------------------------------------------- tables and figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The head of a column, plain text; numbers stand to the right."""

    title: str
    numeric: bool = True


def heads(*titles: str, names: int = 1) -> list[Column]:
    """Give the heads of columns of which the first `names` hold text and the others numbers."""
    return [Column(title=title, numeric=place >= names) for place, title in enumerate(titles)]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Markup]], *, caption: str, kept: Iterable[int] = ()
) -> Markup:
    """Give a table whose first column heads its rows and which scrolls by itself where it is too wide.

    `kept` are indices of rows to be set in bold. Raises ValueError for a row of another length.
    """
    bold = set(kept)
    kinds = [_classed("number" if column.numeric else None) for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escaped(column.title)}</th>' for column, kind in zip(columns, kinds, strict=True)
    )
    lines = []
    for place, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {place} has {len(row)} cells for {len(columns)} columns")
        first, *others = zip(kinds, row, strict=True)
        cells = f'<th scope="row"{first[0]}>{first[1]}</th>' + "".join(
            f"<td{kind}>{cell}</td>" for kind, cell in others
        )
        lines.append(f"<tr{_classed('kept' if place in bold else None)}>{cells}</tr>")
    return Markup(
        f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(caption)}"><table>'
        f"<caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>\n"
    )


def figure(drawing: Markup, *, number: int | None = None, caption: Markup, of: str, beside: bool = False) -> Markup:
    """Caption a drawing; `of` is its `counts`. `beside` sets the caption to its right where there is room."""
    label = "" if number is None else f"<b>Figure {number}.</b> "
    said = f"<figcaption>{label}{caption} n\u00a0=\u00a0{escaped(of)}.</figcaption>"
    return Markup(f"<figure{_classed('side' if beside else None)}>{drawing}{said}</figure>\n")


def pair(figures: Iterable[Markup]) -> Markup:
    """Set figures side by side where there is room, under one another where there is not."""
    return Markup(f'<div class="pair">{"".join(figures)}</div>\n')


def panels(drawings: Iterable[Markup]) -> Markup:
    """Set the drawings of one figure side by side where there is room."""
    return Markup(f'<div class="panels">{"".join(drawings)}</div>\n')


def picture(data: str, *, alt: str) -> Markup:
    """Show a picture that lies in the page itself; raises ValueError for an address of any other kind."""
    if not re.fullmatch(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*", data):
        raise ValueError(f"not a picture as data: {data[:40]!r}")
    return Markup(f'<img src="{data}" alt="{escaped(alt)}">')


def gallery(content: Iterable[Markup]) -> Markup:
    """Set pictures with their words in a grid."""
    return Markup('<ul class="pictures">' + "".join(f"<li>{item}</li>" for item in content) + "</ul>\n")


# ---------------------------------------------------------------------------------- the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One headed part of a page; `anchor` is its address within it, letters and hyphens."""

    anchor: str
    title: str
    body: Markup


def page(*, title: str, over: str, lead: Markup, sections: Sequence[Section], footer: Markup) -> str:
    """Give a whole HTML file: title, lead, contents, sections, footer; `title` and `over`, the line above it, are plain.

    Raises ValueError where two sections have one anchor.
    """
    anchors = [section.anchor for section in sections]
    if len(set(anchors)) != len(anchors):
        raise ValueError(f"anchors are not distinct: {anchors}")
    contents = "".join(f'<li><a href="#{s.anchor}">{escaped(s.title)}</a></li>' for s in sections)
    body = "".join(
        f'<section id="{s.anchor}" aria-labelledby="{s.anchor}-title"><h2 id="{s.anchor}-title">{escaped(s.title)}</h2>\n'
        f"{s.body}</section>\n"
        for s in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n<div class="sheet">\n'
        f'<header>\n<p class="over">{escaped(over)}</p>\n<h1>{named(title)}</h1>\n{lead}</header>\n'
        f'<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ol>{contents}</ol></nav>\n'
        f'<main id="content" tabindex="-1">\n{body}</main>\n<footer>{footer}</footer>\n</div>\n</body>\n</html>\n'
    )


def _classed(kind: str | None) -> str:
    return f' class="{kind}"' if kind else ""
