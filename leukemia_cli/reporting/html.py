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

Markup = NewType("Markup", str)

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif"
NO_VALUE = "–"
NOT_IN_REPORT = "Not in this report."


# ---------------------------------------------------------------------------------- colours


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours by what they are for; `series` are told apart by people who see no red or no green.

    Text has a contrast of 4.5 at least on paper, and on `panel`, `alarm` and the fullest `shade`; lines have 3.
    Source: the palette follows Okabe and Ito (2008), https://jfly.uni-koeln.de/color/, darkened or lightened for contrast.
    """

    ink: str
    pale: str
    rule: str
    paper: str
    panel: str
    link: str
    alarm: str
    alarm_ink: str
    shade: str
    series: tuple[str, ...]

    def variables(self) -> str:
        """Give the colours as CSS declarations."""
        named = {
            "ink": self.ink,
            "pale": self.pale,
            "rule": self.rule,
            "paper": self.paper,
            "panel": self.panel,
            "link": self.link,
            "alarm": self.alarm,
            "alarm-ink": self.alarm_ink,
            "shade": self.shade,
            **{f"s{i}": colour for i, colour in enumerate(self.series)},
        }
        return "".join(f"--{name}:{colour};" for name, colour in named.items())


LIGHT = Theme(
    ink="#1b1d1f",
    pale="#55595e",
    rule="#c9cdd2",
    paper="#ffffff",
    panel="#f5f6f7",
    link="#0b5a94",
    alarm="#fdf3e7",
    alarm_ink="#8a3b00",
    shade="#86bce6",
    series=("#0072b2", "#c65500", "#00805d", "#a8487e", "#8a6a00", "#4f5358"),
)
DARK = Theme(
    ink="#e6e7e8",
    pale="#a9aeb4",
    rule="#42474d",
    paper="#15181b",
    panel="#1d2125",
    link="#8cc8f5",
    alarm="#2f2115",
    alarm_ink="#ffb677",
    shade="#1f5f96",
    series=("#56b4e9", "#f08a3c", "#2fc49a", "#e092bf", "#e3c54a", "#b4b9bf"),
)

_CSS = (
    "*{box-sizing:border-box}"
    f":root{{color-scheme:light dark;{LIGHT.variables()}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK.variables()}}}}}"
    f"@media print{{:root{{color-scheme:light;{LIGHT.variables()}}}}}"
    """
html{font-size:100%;-webkit-text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;padding:2.5rem 1.5rem 4rem;background:var(--paper);color:var(--ink);line-height:1.6;
  font-family:FONT;font-variant-numeric:tabular-nums lining-nums;overflow-wrap:anywhere}
.sheet{display:grid;grid-template-columns:minmax(0,50rem);justify-content:center;gap:0 3.5rem}
header,main,footer{min-width:0}
h1,h2,h3{line-height:1.25;font-weight:600;text-wrap:balance}
h1{font-size:1.75rem;margin:0 0 .8rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:1.8rem 0 .5rem}
p,ul,ol,dl,pre,figure{margin:0 0 1rem}
p,li,dd,figcaption{max-width:46rem}
a{color:var(--link);text-underline-offset:.15em}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:1px}
.skip{position:absolute;left:-99rem;top:.5rem;background:var(--paper);padding:.4rem .8rem;z-index:1}
.skip:focus{left:.5rem}
.over{color:var(--pale);font-size:.875rem;margin:0 0 .4rem}
.lead{font-size:1.125rem;line-height:1.5}
.pale,.use{color:var(--pale)}
.use{font-size:.9375rem;border-block:1px solid var(--rule);padding:.5rem 0}
.alarm{background:var(--alarm);border-left:.3rem solid var(--alarm-ink);padding:.9rem 1.1rem .2rem;margin:0 0 1.4rem}
.alarm h2{font-size:1rem;margin:0 0 .4rem;color:var(--alarm-ink)}
.alarm ul{padding-left:1.1rem}
.alarm li{margin-bottom:.35rem}
nav{font-size:.875rem;line-height:1.4;margin:0 0 1.5rem}
nav h2{font-size:.875rem;margin:0 0 .5rem}
nav ol{list-style:none;padding:0;margin:0;columns:2;column-gap:2rem}
nav li{padding:.16rem 0;break-inside:avoid}
nav a{color:var(--ink);text-decoration-color:var(--rule)}
main>section{border-top:1px solid var(--rule);padding:1.8rem 0 .8rem}
main>section:first-child{border-top:0;padding-top:.6rem}
.wide{overflow-x:auto;margin:0 0 1rem;max-width:100%}
table{border-collapse:collapse;font-size:.9375rem;line-height:1.4;overflow-wrap:break-word}
table bdi{overflow-wrap:anywhere}
td:has(bdi){min-width:4.5rem}
caption{text-align:left;color:var(--pale);font-size:.875rem;padding:0 0 .5rem}
thead th{border-bottom:1.5px solid var(--ink);vertical-align:bottom;font-weight:600}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;font-weight:400}
tbody tr+tr>*{border-top:1px solid var(--rule)}
th:last-child,td:last-child{padding-right:.2rem}
tbody th{min-width:7rem;max-width:18rem}
tbody th:nth-last-child(2){min-width:15rem}
.number{text-align:right;white-space:nowrap}
tr.kept>*{font-weight:600}
sup{line-height:0;font-size:.75em}
sup a{text-decoration:none;padding:0 .12em}
.notes{color:var(--pale);font-size:.875rem;padding-left:1.4rem}
.notes li{margin-bottom:.2rem}
dl{display:grid;grid-template-columns:minmax(8rem,13rem) minmax(0,1fr);gap:.25rem 1.2rem}
dt{color:var(--pale)}
dd{margin:0}
pre{background:var(--panel);padding:.7rem .9rem;font-size:.8125rem;line-height:1.5;white-space:pre-wrap;
  font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
details{margin:0 0 1rem}
summary{cursor:pointer;color:var(--link);padding:.2rem 0;width:fit-content}
details>*:nth-child(2){margin-top:.6rem}
figure{margin:0 0 1.6rem}
figure svg{display:block;width:100%;max-width:30rem;height:auto;margin-left:-.4rem;break-inside:avoid}
figcaption{font-size:.875rem;line-height:1.5;margin-top:.5rem}
figcaption b{font-weight:600}
.panels{gap:.9rem 1.6rem}
.pair{gap:0 1.6rem}
.panels,.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr));gap:1.2rem;padding:0;
  list-style:none}
.pictures li{font-size:.8125rem;line-height:1.4;break-inside:avoid}
.pictures img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--panel);margin-bottom:.4rem}
.pictures .two{display:grid;grid-template-columns:1fr 1fr;gap:.3rem}
footer{border-top:1px solid var(--rule);padding-top:1rem;color:var(--pale);font-size:.875rem}
svg .ink{fill:var(--ink)} svg .pale{fill:var(--pale)} svg .paper{fill:var(--paper)} svg .shade{fill:var(--shade)}
svg .bar{fill:var(--rule)}
svg .l-ink{stroke:var(--ink)} svg .l-pale{stroke:var(--pale)} svg .l-rule{stroke:var(--rule)}
SERIES
@media (min-width:44rem){.side{display:grid;grid-template-columns:minmax(0,27rem) minmax(0,1fr);gap:0 1.8rem}
  .side>figcaption{margin-top:.15rem}}
@media (min-width:76rem){.sheet{grid-template-columns:13rem minmax(0,50rem);grid-template-rows:auto 1fr auto}
  header,main,footer{grid-column:2}
  nav{grid-column:1;grid-row:1/span 2;position:sticky;top:2rem;align-self:start;max-height:calc(100vh - 4rem);
    overflow-y:auto;padding:.2rem}
  nav ol{columns:1}}
@media (max-width:32rem){body{padding:1.4rem .875rem 3rem}h1{font-size:1.45rem}.lead{font-size:1.0625rem}
  .wide table,caption{font-size:.8125rem}th,td{padding-right:.4rem}tbody th{min-width:4.2rem}
  tbody th:nth-last-child(2){min-width:7.5rem}
  dl{grid-template-columns:1fr;gap:0}dd{margin:0 0 .5rem}}
@media print{html{font-size:9pt}body{padding:0;line-height:1.45}nav,.skip{display:none}a{color:inherit;text-decoration:none}
  main>section{padding-top:1.2rem}.wide{overflow:visible}h2,h3,summary,caption{break-after:avoid}figcaption{break-before:avoid}
  tr,.alarm,.side,.panels{break-inside:avoid}details::details-content{content-visibility:visible;block-size:auto;height:auto}
  summary{color:var(--ink);list-style:none}.side{display:grid;grid-template-columns:8.5cm 1fr;gap:0 .8cm}
  .pair,.panels{grid-template-columns:1fr 1fr}figure svg{max-width:8.5cm}.pictures{grid-template-columns:repeat(6,1fr)}
  @page{margin:18mm 16mm}}
"""
).replace("FONT", FONT)
_SERIES_CSS = "".join(
    f"svg .f-s{i}{{fill:var(--s{i})}}svg .l-s{i}{{stroke:var(--s{i})}}" for i in range(len(LIGHT.series))
)
CSS = re.sub(r"\n\s*", "\n", _CSS.replace("SERIES", _SERIES_CSS)).strip()
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
    return escaped(text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else "."))


# ---------------------------------------------------------------------------------- numbers


def number(value: float | None) -> str:
    """Give three decimals, or a dash where there is no value; the minus is U+2212."""
    if value is None:
        return NO_VALUE
    text = f"{value:.3f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def signed(value: float | None) -> str:
    """Give a difference with its sign."""
    text = number(value)
    return text if value is None or text[0] == "−" or not float(text) else f"+{text}"


def interval(low: float | None, high: float | None) -> str:
    """Give '0.871 to 0.934', or a dash where there is no interval."""
    return NO_VALUE if low is None or high is None else f"{number(low)} to {number(high)}"


def counts(images: int | None, groups: int | None) -> str:
    """Say '260 images, 31 groups'; groups of None are unknown, images of None were not reported."""
    if images is None:
        return "not in this report"
    said = f"{images} {'image' if images == 1 else 'images'}"
    return f"{said}, groups unknown" if groups is None else f"{said}, {groups} {'group' if groups == 1 else 'groups'}"


def datum(value: float | None, shown: str, *, key: str | None = None) -> Markup:
    """Show a number and keep it whole beside it, so that the page can be read by machines; `key` says what it is."""
    marked = f' data-key="{escaped(key)}"' if key else ""
    return Markup(f'<data value="{"" if value is None else repr(value)}"{marked}>{escaped(shown)}</data>')


@dataclass(slots=True)
class Footnotes:
    """Notes numbered in the order of their first mark; equal notes share a number. `prefix` keeps lists apart."""

    prefix: str
    _notes: list[str] = field(default_factory=list)

    def mark(self, note: str) -> Markup:
        """Give the raised number that leads to a note."""
        if note not in self._notes:
            self._notes.append(note)
        place = self._notes.index(note) + 1
        return Markup(f'<sup><a href="#{self.prefix}-{place}" aria-label="note {place}">{place}</a></sup>')

    def listed(self) -> Markup:
        """Give the notes, or nothing where none was marked."""
        if not self._notes:
            return Markup("")
        lines = "".join(f'<li id="{self.prefix}-{i}">{sentence(n)}</li>' for i, n in enumerate(self._notes, start=1))
        return Markup(f'<ol class="notes">{lines}</ol>\n')


def estimate_cells(
    estimate: Mapping[str, Any], notes: Footnotes, *, key: str, groups_known: bool = True, difference: bool = False
) -> tuple[Markup, ...]:
    """Give value with its note, interval, images and groups of a figure of report.json; `key` names it for machines."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    groups = int(estimate["groups"])
    return (
        Markup(datum(value, signed(value) if difference else number(value), key=key) + notes.mark(estimate["method"])),
        escaped(f"{signed(low)} to {signed(high)}" if difference and low is not None else interval(low, high)),
        escaped(str(estimate["n"])),
        escaped(str(groups) if groups_known else "unknown"),
    )


# ---------------------------------------------------------------------------------- tables and figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The head of a column, plain text; numbers stand to the right."""

    title: str
    numeric: bool = True


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Markup]], *, caption: str, kept: Iterable[int] = ()
) -> Markup:
    """Give a table whose first column heads its rows and which scrolls by itself where it is too wide.

    `kept` are indices of rows to be set in bold. Raises ValueError for a row of another length.
    """
    bold = set(kept)
    head = "".join(
        f'<th scope="col"{_classed("number" if c.numeric else None)}>{escaped(c.title)}</th>' for c in columns
    )
    lines = []
    for place, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {place} has {len(row)} cells for {len(columns)} columns")
        cells = "".join(
            f'<th scope="row"{_classed("number" if c.numeric else None)}>{cell}</th>'
            if column == 0
            else f"<td{_classed('number' if c.numeric else None)}>{cell}</td>"
            for column, (c, cell) in enumerate(zip(columns, row, strict=True))
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
