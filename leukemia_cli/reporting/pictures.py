"""Pictures are SVG text written here, so that a report needs no plotting library and no font of its own.

A picture stands alone in the light colours, and takes the colours of a page it lies in: each mark has a plain colour and a
class, and the style sheet of a page goes before plain colours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

from leukemia_cli.reporting.html import Markup, escaped
from leukemia_cli.reporting.style import FONT, LIGHT

# A phone of 390 px leaves 362 for a picture: text of 13 in a width of 420 is then 11 px high.
WIDTH_PX = 420
SIZE_PX = 13
TITLE_PX = 14
MARGIN_PX = 8
LINE_PX = 17

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 2")
SERIES_COUNT = len(LIGHT.series)

_TONES = {
    "ink": LIGHT.ink,
    "pale": LIGHT.pale,
    "paper": LIGHT.paper,
    "shade": LIGHT.shade,
    "bar": LIGHT.rule,
    "rule": LIGHT.rule,
    **{f"s{i}": colour for i, colour in enumerate(LIGHT.series)},
}


# ---------------------------------------------------------------------------------- how wide text is


def width_of(text: str, size: float = SIZE_PX) -> float:
    """Estimate the width of text from above: what is estimated to fit, fits in common sans-serif faces."""
    return size * sum(map(_advance, text))


def _advance(mark: str) -> float:
    """Give the advance in shares of the font size; the values are those of DejaVu Sans, the widest in common use."""
    if unicodedata.category(mark) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(mark) in ("W", "F") or ord(mark) > 0xFFFF:
        return 1.2
    if mark in " .,:;|!'ijlI":
        return 0.36
    if mark in "mwMW@%—…":
        return 1.0
    return 0.8 if mark.isupper() else 0.66


def shortened(text: str, width: float, size: float = SIZE_PX) -> str:
    """Keep both ends of a text that is too wide, since names that begin alike are told apart by their ends."""
    text = " ".join(text.split())
    if width_of(text, size) <= width:
        return text
    for kept in range(min(len(text), int(width / size / 0.3)), 1, -1):
        tail = kept // 2
        tried = f"{text[: kept - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"
        if width_of(tried, size) <= width:
            return tried
    return "…"


# ---------------------------------------------------------------------------------- drawing


class Drawing:
    """SVG built mark by mark; coordinates are pixels from the upper left corner, `tone` is a colour by its purpose."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = SIZE_PX,
        anchor: str = "start",
        tone: str = "ink",
        bold: bool = False,
        turned: bool = False,
        full: str | None = None,
    ) -> None:
        """Write text with its base line at y; `turned` reads upwards, `full` is what shortened text was."""
        where = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
        whole = f"<title>{escaped(full)}</title>" if full is not None and full != text else ""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text {where} font-size="{size:g}" text-anchor="{anchor}" {_fill(tone)}{weight}>{whole}{escaped(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, tone: str = "rule", width: float = 1) -> None:
        """Draw a straight line."""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {_stroke(tone)} stroke-width="{width:g}"/>'
        )

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        tone: str,
        share: float = 1,
        outlined: bool = False,
    ) -> None:
        """Fill a rectangle; `share` is how opaque."""
        edge = "rule" if outlined else None
        faint = f' fill-opacity="{share:.3g}"' if share < 1 else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {_fill(tone, edge=edge)}{faint}/>'
        )

    def path(self, points: Sequence[tuple[float, float]], *, tone: str, width: float = 2, dash: str = "") -> None:
        """Join points by straight lines."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<path d="{_through(points)}" fill="none" {_stroke(tone)} stroke-width="{width:g}"'
            f' stroke-linejoin="round"{dashed}/>'
        )

    def area(self, points: Sequence[tuple[float, float]], *, tone: str, share: float) -> None:
        """Fill the polygon through points."""
        self._parts.append(f'<path d="{_through(points)}Z" {_fill(tone)} fill-opacity="{share:g}"/>')

    def mark(self, shape: str, x: float, y: float, *, tone: str, size: float = 4.5, hollow: bool = False) -> None:
        """Draw a mark of one of `SHAPES`, or a ring that hides nothing, around a point."""
        r = size
        if shape in ("cross", "plus"):
            arms = ((-r, -r, r, r), (-r, r, r, -r)) if shape == "cross" else ((-r, 0, r, 0), (0, -r, 0, r))
            d = "".join(f"M{x + a:.1f} {y + b:.1f}L{x + c:.1f} {y + e:.1f}" for a, b, c, e in arms)
            self._parts.append(f'<path d="{d}" fill="none" {_stroke(tone)} stroke-width="2"/>')
            return
        if shape == "ring":
            self._parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" fill="none" {_stroke(tone)} stroke-width="1.6"/>'
            )
            return
        painted = f'{_fill("paper" if hollow else tone, edge=tone)} stroke-width="1.6"'
        if shape == "circle":
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" {painted}/>')
            return
        corners = {
            "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
            "triangle": ((0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
            "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        }[shape]
        self._parts.append(f'<path d="{_through([(x + a * r, y + b * r) for a, b in corners])}Z" {painted}/>')

    def finished(self, *, height: float, title: str, description: str) -> Markup:
        """Give the whole picture, with its title and its content in words for those who hear it."""
        told = f"{title}\n{description}"
        key = blake2b(told.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()
        return Markup(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH_PX} {height:.0f}" role="img" aria-labelledby="t{key} d{key}" font-family="{FONT}">\n'
            f'<title id="t{key}">{escaped(title)}</title>\n<desc id="d{key}">{escaped(description)}</desc>\n'
            f'<rect width="{WIDTH_PX}" height="{height:.0f}" {_fill("paper")}/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def _through(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _fill(tone: str, *, edge: str | None = None) -> str:
    """Give class and colour of what is filled, and drawn around with a line of the tone `edge`."""
    kind = f"f-{tone}" if tone[0] == "s" and tone[1:].isdigit() else tone
    if edge is None:
        return f'class="{kind}" fill="{_TONES[tone]}"'
    return f'class="{kind} l-{edge}" fill="{_TONES[tone]}" stroke="{_TONES[edge]}"'


def _stroke(tone: str) -> str:
    return f'class="l-{tone}" stroke="{_TONES[tone]}"'


def heading(drawing: Drawing, title: str, below: str) -> float:
    """Write a title with a line below it; give the y where the picture may begin."""
    room = WIDTH_PX - 2 * MARGIN_PX
    # Bold faces are wider by about a tenth.
    said = shortened(title, room / 1.12, TITLE_PX)
    drawing.text(MARGIN_PX, 17, said, size=TITLE_PX, bold=True, full=title)
    drawing.text(MARGIN_PX, 35, below, tone="pale")
    return 44.0
