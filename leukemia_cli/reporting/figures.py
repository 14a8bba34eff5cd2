"""Charts of curves, bins, candidates, differences and confusions: frozen values in, one SVG out, the same look for all.

Nothing is told by colour alone: series differ in dash or shape too, and every chart says its content in words. A label
that would touch its neighbour is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leukemia_cli.judging.curves import Bin
from leukemia_cli.reporting.html import Markup
from leukemia_cli.reporting.pictures import (
    DASHES,
    LINE_PX,
    MARGIN_PX,
    SERIES_COUNT,
    SHAPES,
    SIZE_PX,
    WIDTH_PX,
    Drawing,
    heading,
    shortened,
    width_of,
)
from leukemia_cli.reporting.scales import Axis, Scale, scaled, share_axis, tick_labels
from leukemia_cli.reporting.wording import NO_VALUE, counts, interval, number, signed

# ---------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line through (x, y) in the order given, with a band from low to high where both are given.

    A y of None breaks the line. Raises ValueError where lengths differ.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r} has one end of its band alone")
        for other in (self.y, self.low, self.high):
            if other is not None and len(other) != len(self.x):
                raise ValueError(f"series {self.name!r} has {len(self.x)} x and {len(other)} of another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One candidate's score; `series` groups what was compared with each other, `kept` marks the one that was chosen."""

    series: str
    x: float
    y: float
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference, first minus second; `p` is corrected for many comparisons by Holm's method."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    images: int
    groups: int | None


# ---------------------------------------------------------------------------------- frame


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The plot inside its axes; y grows upwards."""

    x: Scale
    y: Scale
    bottom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Give the pixel of a point, held within the axes."""
        return (
            self.x(min(max(x, self.x.low), self.x.high)),
            self.y(min(max(y, self.y.low), self.y.high)),
        )


def _framed(
    drawing: Drawing,
    *,
    x: Axis,
    y: Axis,
    xs: Iterable[float],
    ys: Iterable[float],
    top: float,
    height: float,
    x_labels: bool = True,
    most_y: int = 6,
    left: float | None = None,
) -> _Frame:
    """Draw grid, axes and labels for a plot `height` high; `left` is where the plot begins, if not where labels end."""
    ordinate = scaled(y, ys, start=top + height, end=top, most=most_y)
    names = tick_labels(ordinate.ticks)
    if left is None:
        left = MARGIN_PX + LINE_PX + max(map(width_of, names), default=0.0) + 8
    right = WIDTH_PX - MARGIN_PX - 12
    abscissa = scaled(x, xs, start=left, end=right, most=6)
    bottom = top + height
    for place, name in zip(ordinate.ticks, names, strict=True):
        drawing.line(left, ordinate(place), right, ordinate(place))
        drawing.text(left - 6, ordinate(place) + 4.5, name, anchor="end", tone="pale")
    lowest = _under(drawing, abscissa, bottom, title=x.title) if x_labels else bottom
    drawing.line(left, top, left, bottom, tone="ink")
    drawing.text(MARGIN_PX + 10, top + height / 2, y.title, anchor="middle", turned=True)
    return _Frame(x=abscissa, y=ordinate, bottom=lowest)


def _under(drawing: Drawing, scale: Scale, bottom: float, *, title: str) -> float:
    """Draw the axis below a plot, without labels that would touch; give the y below its title."""
    drawing.line(scale.start, bottom, scale.end, bottom, tone="ink")
    reached = -math.inf
    for place, name in zip(scale.ticks, tick_labels(scale.ticks), strict=True):
        at, half = scale(place), width_of(name) / 2
        drawing.line(at, bottom, at, bottom + 4, tone="ink")
        if at - half > reached + 6 and at - half >= 0 and at + half <= WIDTH_PX:
            drawing.text(at, bottom + 18, name, anchor="middle", tone="pale")
            reached = at + half
    said = shortened(title, WIDTH_PX - 2 * MARGIN_PX)
    middle = (scale.start + scale.end) / 2
    half = width_of(said) / 2
    middle = min(max(middle, MARGIN_PX + half), WIDTH_PX - MARGIN_PX - half)
    drawing.text(middle, bottom + 37, said, anchor="middle", full=title)
    return bottom + 46


def _legend(
    drawing: Drawing, names: Sequence[str], *, top: float, sample: Callable[[int, float, float], None]
) -> float:
    """Write names after samples, in as many rows as they need; give the y below."""
    x, y, room = float(MARGIN_PX), top + 8, WIDTH_PX - 2 * MARGIN_PX
    for place, name in enumerate(names):
        said = shortened(name, room - 36)
        width = 36 + width_of(said) + 14
        if x > MARGIN_PX and x + width - 14 > WIDTH_PX - MARGIN_PX:
            x, y = float(MARGIN_PX), y + LINE_PX + 2
        sample(place, x, y)
        drawing.text(x + 36, y + 4.5, said, full=name)
        x += width
    return y + LINE_PX


def _tone(place: int) -> str:
    return f"s{place % SERIES_COUNT}"


def _dash(place: int) -> str:
    # Shifted each time around, so that no two of the first 36 series have both colour and dash in common.
    return DASHES[(place + place // SERIES_COUNT) % len(DASHES)]


def _shape(place: int) -> str:
    return SHAPES[(place + place // SERIES_COUNT) % len(SHAPES)]


# ---------------------------------------------------------------------------------- lines


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x: Axis,
    y: Axis,
    images: int | None,
    groups: int | None,
    diagonal: bool = False,
    level: float | None = None,
    marked: bool = False,
    height: float = 250,
) -> Markup:
    """Draw lines with their bands; a name is written only where there are several.

    `diagonal` draws the line of chance, `level` a horizontal one; `marked` puts a mark of the series on each point.
    """
    drawing = Drawing()
    of = counts(images, groups)
    top = heading(drawing, title, f"n = {of}")

    def sample(place: int, at: float, y_px: float) -> None:
        drawing.path([(at, y_px), (at + 30, y_px)], tone=_tone(place), dash=_dash(place))
        if marked:
            drawing.mark(_shape(place), at + 15, y_px, tone=_tone(place), size=4)

    if len(series) > 1:
        top = _legend(drawing, [one.name for one in series], top=top, sample=sample)
    ys = [v for one in series for part in (one.y, one.low or (), one.high or ()) for v in part if v is not None]
    frame = _framed(
        drawing,
        x=x,
        y=y,
        xs=[v for one in series for v in one.x],
        ys=ys + ([] if level is None else [level]),
        top=top + 8,
        height=height,
    )
    if diagonal:
        ends = [frame.at(0, 0), frame.at(1, 1)]
        drawing.path(ends, tone="pale", width=1, dash="4 4")
    if level is not None:
        drawing.path([frame.at(frame.x.low, level), frame.at(frame.x.high, level)], tone="pale", width=1, dash="4 4")
    for place, one in enumerate(series):
        _draw_band(drawing, frame, one, place)
    # Lines after all bands, so that none is dulled by another's.
    for place, one in enumerate(series):
        _draw_line(drawing, frame, one, place, marked=marked)
    said = [f"n = {of}. {x.title} across, {y.title} upwards."]
    said += [_series_in_words(one) for one in series] or ["Nothing to draw."]
    return drawing.finished(height=frame.bottom, title=title, description=" ".join(said))


def _draw_band(drawing: Drawing, frame: _Frame, one: Series, place: int) -> None:
    if one.low is None or one.high is None:
        return
    for band in _unbroken(zip(one.x, one.low, one.high, strict=True)):
        if len(band) > 1:
            upper, lower = [frame.at(x, high) for x, _, high in band], [frame.at(x, low) for x, low, _ in band]
            drawing.area(upper + lower[::-1], tone=_tone(place), share=0.18)


def _draw_line(drawing: Drawing, frame: _Frame, one: Series, place: int, *, marked: bool) -> None:
    for points in _unbroken(zip(one.x, one.y, strict=True)):
        placed = [frame.at(x, y) for x, y in points]
        if len(placed) > 1:
            drawing.path(placed, tone=_tone(place), dash=_dash(place))
        if marked or len(placed) == 1:
            for point in placed:
                drawing.mark(_shape(place), *point, tone=_tone(place), size=3.2)


def _unbroken(points: Iterable[tuple[float | None, ...]]) -> list[list[tuple[float, ...]]]:
    """Give the stretches between points of which something is not known."""
    stretches: list[list[tuple[float, ...]]] = [[]]
    for point in points:
        known = tuple(value for value in point if value is not None)
        if len(known) < len(point):
            stretches.append([])
        else:
            stretches[-1].append(known)
    return [stretch for stretch in stretches if stretch]


def _series_in_words(one: Series) -> str:
    known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None]
    name = f"{one.name}: " if one.name else ""
    if not known:
        return f"{name}no values."
    shown = [known[round(i * (len(known) - 1) / 4)] for i in range(5)] if len(known) > 5 else known
    return name + "; ".join(f"{y:.3f} at {x:.4g}" for x, y in shown) + ("." if one.low is None else ", with a band.")


# ---------------------------------------------------------------------------------- reliability


def reliability_diagram(
    bins: Sequence[Bin], *, title: str, images: int | None, groups: int | None, place: int = 0
) -> Markup:
    """Draw the share that was right against the confidence, with bars of how many images each bin holds below.

    `place` is that of the series in the palette and in the shapes.
    """
    drawing = Drawing()
    of = counts(images, groups)
    left = MARGIN_PX + LINE_PX + max(width_of("0.0"), width_of(str(max((b.images for b in bins), default=0)))) + 8
    frame = _framed(
        drawing, x=share_axis(""), y=share_axis("share that was right"), xs=(), ys=(), height=220, x_labels=False, left=left,
        top=heading(drawing, title, f"n = {of}") + 8,
    )  # fmt: skip
    drawing.path([frame.at(0, 0), frame.at(1, 1)], tone="pale", width=1, dash="4 4")
    for one in bins:
        x, y = frame.at(one.confidence, one.accuracy)
        drawing.line(x, frame.at(one.confidence, one.confidence)[1], x, y, tone=_tone(place), width=1.4)
    drawing.path([frame.at(b.confidence, b.accuracy) for b in bins] or [frame.at(0, 0)], tone=_tone(place), width=1.4)
    for one in bins:
        drawing.mark(_shape(place), *frame.at(one.confidence, one.accuracy), tone=_tone(place))
    most = max((one.images for one in bins), default=1)
    lower = _framed(
        drawing, x=share_axis("confidence"), y=Axis(title="images", low=0, high=most, whole=True),
        xs=(), ys=(), top=frame.bottom + 16, height=64, most_y=3, left=left,
    )  # fmt: skip
    for one in bins:
        (x1, y1), (x2, y2) = lower.at(one.low, one.images), lower.at(one.high, 0)
        drawing.rect(x1 + 0.5, y1, max(x2 - x1 - 1, 1), y2 - y1, tone=_tone(place), share=0.55)
    said = "; ".join(
        f"{b.images} {'image' if b.images == 1 else 'images'} of mean confidence {number(b.confidence)}, "
        f"{number(b.accuracy)} right"
        for b in bins
    )
    return drawing.finished(height=lower.bottom, title=title, description=f"n = {of}. {said or 'No bin holds images'}.")


# ---------------------------------------------------------------------------------- candidates


def candidates_chart(
    candidates: Sequence[Candidate], *, title: str, x: Axis, y: Axis, images: int | None, groups: int | None
) -> Markup:
    """Draw each candidate's score over x, a shape and colour for each series; those kept are filled and ringed.

    Points of one x stand beside one another by series, so that equal scores do not hide each other.
    """
    drawing = Drawing()
    of = counts(images, groups)
    names = list(dict.fromkeys(one.series for one in candidates))
    top = heading(drawing, title, f"n = {of}")

    def sample(place: int, at: float, y_px: float) -> None:
        if place < len(names):
            drawing.mark(_shape(place), at + 20, y_px, tone=_tone(place), hollow=True)
        else:
            drawing.mark("ring", at + 20, y_px, tone="ink", size=8.5)
            drawing.mark("circle", at + 20, y_px, tone="pale", size=3)

    top = _legend(drawing, [*(names if len(names) > 1 else names[:0]), "kept"], top=top,
                  sample=sample if len(names) > 1 else lambda _, at, y_px: sample(len(names), at, y_px))  # fmt: skip
    scores = [one.y for one in candidates]
    room = 0.06 * (max(scores, default=0.0) - min(scores, default=0.0))
    ys = [edge for score in scores for edge in (score - room, score + room)]
    frame = _framed(drawing, x=x, y=y, xs=[one.x for one in candidates], ys=ys, top=top + 8, height=220)
    apart = min(8.0, 44 / max(len(names), 1))
    for one in sorted(candidates, key=lambda one: one.kept):
        place = names.index(one.series)
        px, py = frame.at(one.x, one.y)
        px += (place - (len(names) - 1) / 2) * apart
        if one.kept:
            drawing.mark("ring", px, py, tone="ink", size=8.5)
        drawing.mark(_shape(place), px, py, tone=_tone(place), hollow=not one.kept)
    said = "; ".join(
        f"{one.series + ', ' if len(names) > 1 else ''}{x.title} {one.x:g}: {number(one.y)}{', kept' if one.kept else ''}"
        for one in candidates
    )
    return drawing.finished(height=frame.bottom, title=title, description=f"n = {of}. {y.title}. {said}.")


# ---------------------------------------------------------------------------------- differences


def forest_plot(rows: Sequence[Difference], *, title: str, x_title: str) -> Markup:
    """Draw paired differences with their intervals around a line at zero, with counts and corrected p in words.

    A difference without an interval is a hollow mark alone. Counts stand at the top where all rows share them.
    """
    drawing = Drawing()
    room = WIDTH_PX - 2 * MARGIN_PX
    of = [counts(row.images, row.groups) for row in rows]
    shared = of[0] if len(set(of)) == 1 else None
    top = heading(drawing, title, f"n = {shared} in each row" if shared else "images and groups stand in each row") + 4
    each = 66.0 if shared else 82.0
    bottom = top + each * len(rows)
    ends = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    scale = scaled(Axis(title=x_title), [0.0, *ends], start=MARGIN_PX + 16, end=WIDTH_PX - MARGIN_PX - 16, most=6)
    for place, row in enumerate(rows):
        y = top + each * place
        drawing.line(MARGIN_PX, y, WIDTH_PX - MARGIN_PX, y)
        drawing.text(MARGIN_PX, y + 17, shortened(row.name, room), full=row.name)
        drawing.line(scale(0), y + 24, scale(0), y + 44, tone="ink")
        if row.value is not None:
            if row.low is not None and row.high is not None:
                drawing.line(scale(row.low), y + 34, scale(row.high), y + 34, tone="s0", width=2)
                for end in (row.low, row.high):
                    drawing.line(scale(end), y + 30, scale(end), y + 38, tone="s0", width=2)
            drawing.mark("square", scale(row.value), y + 34, tone="s0", hollow=row.low is None)
        drawing.text(MARGIN_PX, y + 59, _difference_words(row), tone="pale")
        drawing.text(WIDTH_PX - MARGIN_PX, y + 59, _p_words(row.p), anchor="end", tone="pale")
        if not shared:
            drawing.text(MARGIN_PX, y + 75, f"n = {of[place]}", tone="pale")
    below = _under(drawing, scale, bottom, title=x_title)
    words = [
        f"{row.name}: {_difference_words(row)}, {_p_words(row.p)}, n = {one}."
        for row, one in zip(rows, of, strict=True)
    ]
    return drawing.finished(height=below, title=title, description=" ".join(words) or "No differences.")


def _p_words(p: float | None) -> str:
    if p is None:
        return "no p"
    return "p < 0.001 (Holm)" if p < 0.001 else f"p = {p:.3f} (Holm)"


def _difference_words(row: Difference) -> str:
    ends = "no interval" if row.low is None or row.high is None else interval(row.low, row.high, signs=True)
    return f"{signed(row.value)} ({ends})"


# ---------------------------------------------------------------------------------- confusion


def confusion_svg(classes: Sequence[str], matrix: Sequence[Sequence[int]], *, groups: int | None) -> Markup:
    """Draw counts and shares of each row as SVG 420 px wide; a class without images has a row of dashes, not of 0 %.

    `matrix` (C, C) has the true class in rows; `groups` is None where groups are unknown. Readable for 2 to 10 classes.
    Raises ValueError where the matrix does not fit the classes or has a negative count.
    """
    count = len(classes)
    if count < 2 or len(matrix) != count or any(len(row) != count for row in matrix):
        raise ValueError(f"a matrix of {[len(row) for row in matrix]} columns does not fit {count} classes")
    if any(cell < 0 for row in matrix for cell in row):
        raise ValueError(f"a count is negative: {[list(row) for row in matrix]}")

    longest = 130.0 if count <= 3 else 110.0 if count <= 5 else 80.0
    names = [shortened(name, longest) for name in classes]
    name_width = max(map(width_of, names))
    left = MARGIN_PX + LINE_PX + name_width + 8
    width = (WIDTH_PX - MARGIN_PX - left) / count
    height = min(max(width, 40), 78)
    title, of = "Confusion matrix", counts(sum(map(sum, matrix)), groups)
    drawing = Drawing()
    top = heading(drawing, title, f"n = {of}") + LINE_PX + 4
    tilted = name_width > width - 4
    drawing.text(left + width * count / 2, top - 4, "predicted class", anchor="middle", tone="pale")
    top += (name_width if tilted else SIZE_PX) + 8
    drawing.text(MARGIN_PX + 11, top + height * count / 2, "true class", anchor="middle", tone="pale", turned=True)
    for column, name in enumerate(names):
        middle = left + width * (column + 0.5)
        at, anchor = (middle + 4.5, "start") if tilted else (middle, "middle")
        drawing.text(at, top - 6, name, anchor=anchor, turned=tilted, full=classes[column])
    digits = max(len(str(cell)) for row in matrix for cell in row)
    size = min(18.0, (width - 4) / (digits * 0.66))
    # Whole percentages would be narrower than 11 px on a phone in ten columns: their share is in the shade and the words.
    with_shares = width - 2 >= width_of("100 %", SIZE_PX)
    for row, name in enumerate(names):
        y, support = top + height * row, sum(matrix[row])
        drawing.text(left - 8, y + height / 2 + 4.5, name, anchor="end", full=classes[row])
        for column, cell in enumerate(matrix[row]):
            x, share = left + width * column, cell / support if support else 0.0
            drawing.rect(x, y, width, height, tone="paper", outlined=True)
            drawing.rect(x + 0.5, y + 0.5, width - 1, height - 1, tone="shade", share=share)
            middle, centre = x + width / 2, y + height / 2
            base = centre + (-1 if with_shares else size * 0.36)
            drawing.text(middle, base, str(cell), size=round(size, 1), anchor="middle", bold=row == column)
            if with_shares:
                said = f"{100 * share:.0f} %" if support else NO_VALUE
                drawing.text(middle, centre + SIZE_PX + 2, said, anchor="middle")
    bottom = top + height * count + LINE_PX + 3
    said = "Percentages are" if with_shares else "Shades are"
    drawing.text(MARGIN_PX, bottom, f"{said} shares of the true class.", tone="pale")
    return drawing.finished(
        height=math.ceil(bottom + 8), title=title, description=_confusion_words(classes, matrix, of)
    )


def _confusion_words(classes: Sequence[str], matrix: Sequence[Sequence[int]], of: str) -> str:
    """Say the whole matrix in words."""
    rows = [
        f"true {name}: " + ", ".join(f"{cell} as {other}" for other, cell in zip(classes, row, strict=True))
        for name, row in zip(classes, matrix, strict=True)
    ]
    return f"n = {of}. Rows are true classes. {'; '.join(rows)}."
