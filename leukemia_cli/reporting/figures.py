"""Charts of curves, bins, candidates and differences: frozen values in, one SVG out, the same look for all.

Nothing is told by colour alone: series differ in dash or shape too, and every chart says its content in words. Ticks are
round numbers within the range; a label that would touch its neighbour is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from leukemia_cli.reporting.html import Markup, counts, number, signed
from leukemia_cli.reporting.pictures import (
    DASHES,
    LINE_PX,
    MARGIN_PX,
    SERIES_COUNT,
    SHAPES,
    WIDTH_PX,
    Drawing,
    heading,
    shortened,
    width_of,
)

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
class Axis:
    """One axis; ends that are None come from the data. `ticks` are the places to label, where only those make sense."""

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    ticks: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Images whose confidence lies between low and high: how many, their mean confidence, the share that were right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One candidate's score; `series` groups what was compared with each other, `kept` marks the one that was chosen."""

    series: str
    x: float
    y: float
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference, first minus second; `p` is after correction for many comparisons."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    images: int
    groups: int | None


# ---------------------------------------------------------------------------------- scales and ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Values from low to high onto pixels from start to end."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def _scaled(axis: Axis, values: Iterable[float], *, start: float, end: float, most: int) -> _Scale:
    """Fit a scale to an axis: ends at round numbers where the data decide them."""
    known = [v for v in values if math.isfinite(v) and (not axis.log or v > 0)]
    known += [v for v in (axis.low, axis.high, *(axis.ticks or ())) if v is not None]
    low = axis.low if axis.low is not None else min(known, default=1.0 if axis.log else 0.0)
    high = axis.high if axis.high is not None else max(known, default=1.0)
    if axis.log:
        return _log_scaled(axis, low, high, start=start, end=end, most=most)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        room = abs(low) * 0.1 or 0.5
        low = low if axis.low is not None else low - room
        high = high if axis.high is not None else high + room
        if high <= low:
            low, high = low - room, high + room
    if axis.ticks is not None:
        room = 0.12 * (high - low)
        return _Scale(low=low - room, high=high + room, start=start, end=end, log=False, ticks=tuple(axis.ticks))
    step = _step(high - low, most, whole=axis.whole)
    low = low if axis.low is not None else math.floor(low / step + 1e-9) * step
    high = high if axis.high is not None else math.ceil(high / step - 1e-9) * step
    high = high if high > low else low + step
    return _Scale(low=low, high=high, start=start, end=end, log=False, ticks=_multiples(low, high, step))


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))


def _log_scaled(axis: Axis, low: float, high: float, *, start: float, end: float, most: int) -> _Scale:
    room = max((high / low) ** 0.12, 1.15)
    low, high = low / room, high * room
    if axis.ticks is not None:
        return _Scale(low=low, high=high, start=start, end=end, log=True, ticks=tuple(axis.ticks))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / most))
    ticks: tuple[float, ...] = ()
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
        places = (m * 10.0**e for e in range(first, last + 1, every) for m in mantissas)
        ticks = tuple(tick for tick in places if low <= tick <= high)
        if len(ticks) >= 3:
            break
    if len(ticks) < 2:
        ticks = _multiples(low, high, _step(high - low, most, whole=False))
    return _Scale(low=low, high=high, start=start, end=end, log=True, ticks=ticks)


def _step(span: float, most: int, *, whole: bool) -> float:
    """Give the least of 1, 2, 2.5 and 5 times a power of ten that needs no more than `most` ticks."""
    rough = span / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step: float = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    return max(1.0, math.ceil(step)) if whole else step


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Give labels of one form for all ticks, as short as keeps them apart; powers of ten beyond six digits."""
    sizes = [abs(tick) for tick in ticks if tick]
    largest, least = (
        max(sizes, default=0.0),
        min([*sizes, *(abs(b - a) for a, b in pairwise(ticks) if a != b)], default=1.0),
    )
    powers = largest >= 1e6 or least < 1e-4
    if not powers and largest / least > 50:
        return [f"{tick:.12g}".replace("-", "−") for tick in ticks]
    form = "e" if powers else "f"
    digits = next((d for d in range(12) if all(abs(float(f"{t:.{d}{form}}") - t) <= 1e-9 * largest for t in ticks)), 12)
    labels = [_power(tick, digits) if powers else f"{tick:.{digits}f}" for tick in ticks]
    return [label.replace("-", "−") for label in labels]


def _power(value: float, digits: int) -> str:
    """Give 2.5·10⁷ with so many digits after the point."""
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


# ---------------------------------------------------------------------------------- frame


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The plot inside its axes; y grows upwards."""

    x: _Scale
    y: _Scale
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
    ordinate = _scaled(y, ys, start=top + height, end=top, most=most_y)
    names = tick_labels(ordinate.ticks)
    if left is None:
        left = MARGIN_PX + LINE_PX + max(map(width_of, names), default=0.0) + 8
    right = WIDTH_PX - MARGIN_PX - 12
    abscissa = _scaled(x, xs, start=left, end=right, most=6)
    bottom = top + height
    for place, name in zip(ordinate.ticks, names, strict=True):
        drawing.line(left, ordinate(place), right, ordinate(place))
        drawing.text(left - 6, ordinate(place) + 4.5, name, anchor="end", tone="pale")
    lowest = _under(drawing, abscissa, bottom, title=x.title) if x_labels else bottom
    drawing.line(left, top, left, bottom, tone="ink")
    drawing.text(MARGIN_PX + 10, top + height / 2, y.title, anchor="middle", turned=True)
    return _Frame(x=abscissa, y=ordinate, bottom=lowest)


def _under(drawing: Drawing, scale: _Scale, bottom: float, *, title: str) -> float:
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
        for band in _bands(one):
            drawing.area(
                [frame.at(v, h) for v, _, h in band] + [frame.at(v, low) for v, low, _ in reversed(band)],
                tone=_tone(place),
                share=0.18,
            )
    for place, one in enumerate(series):
        for points in _runs(one):
            placed = [frame.at(*point) for point in points]
            if len(placed) > 1:
                drawing.path(placed, tone=_tone(place), dash=_dash(place))
            if marked or len(placed) == 1:
                for point in placed:
                    drawing.mark(_shape(place), *point, tone=_tone(place), size=3.2)
    said = [f"n = {of}. {x.title} across, {y.title} upwards."]
    said += [_series_in_words(one) for one in series] or ["Nothing to draw."]
    return drawing.finished(height=frame.bottom, title=title, description=" ".join(said))


def _runs(one: Series) -> list[list[tuple[float, float]]]:
    """Give the unbroken stretches of a line."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(one.x, one.y, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _bands(one: Series) -> list[list[tuple[float, float, float]]]:
    """Give the unbroken stretches of a band as (x, low, high), of two points at least."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in zip(one.x, one.low or (), one.high or (), strict=True) if one.low else ():
        if low is None or high is None:
            runs.append([])
        else:
            runs[-1].append((x, low, high))
    return [run for run in runs if len(run) > 1]


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
    unit = Axis(title="share that was right", low=0, high=1)
    left = MARGIN_PX + LINE_PX + max(width_of("0.0"), width_of(str(max((b.images for b in bins), default=0)))) + 8
    frame = _framed(
        drawing, x=Axis(title="", low=0, high=1), y=unit, xs=(), ys=(), top=heading(drawing, title, f"n = {of}") + 8, height=220,
        x_labels=False, left=left,
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
        drawing, x=Axis(title="confidence", low=0, high=1), y=Axis(title="images", low=0, high=most, whole=True),
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


def forest_plot(rows: Sequence[Difference], *, title: str, x_title: str, corrected: str = "Holm") -> Markup:
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
    scale = _scaled(Axis(title=x_title), [0.0, *ends], start=MARGIN_PX + 16, end=WIDTH_PX - MARGIN_PX - 16, most=6)
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
        drawing.text(WIDTH_PX - MARGIN_PX, y + 59, _p_words(row.p, corrected), anchor="end", tone="pale")
        if not shared:
            drawing.text(MARGIN_PX, y + 75, f"n = {of[place]}", tone="pale")
    below = _under(drawing, scale, bottom, title=x_title)
    words = [
        f"{row.name}: {_difference_words(row)}, {_p_words(row.p, corrected)}, n = {one}."
        for row, one in zip(rows, of, strict=True)
    ]
    return drawing.finished(height=below, title=title, description=" ".join(words) or "No differences.")


def _p_words(p: float | None, corrected: str) -> str:
    if p is None:
        return "no p"
    return f"p < 0.001 ({corrected})" if p < 0.001 else f"p = {p:.3f} ({corrected})"


def _difference_words(row: Difference) -> str:
    ends = "no interval" if row.low is None or row.high is None else f"{signed(row.low)} to {signed(row.high)}"
    return f"{signed(row.value)} ({ends})"
