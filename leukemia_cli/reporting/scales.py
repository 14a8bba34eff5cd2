"""Values go onto pixels by scales whose ticks are round numbers within the range, each told from the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis; ends that are None come from the data. `ticks` are the places to label, where only those make sense."""

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    ticks: Sequence[float] | None = None


def share_axis(title: str) -> Axis:
    """Give an axis from 0 to 1."""
    return Axis(title=title, low=0, high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
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


def scaled(axis: Axis, values: Iterable[float], *, start: float, end: float, most: int) -> Scale:
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
        return Scale(low=low - room, high=high + room, start=start, end=end, log=False, ticks=tuple(axis.ticks))
    step = _step(high - low, most, whole=axis.whole)
    low = low if axis.low is not None else math.floor(low / step + 1e-9) * step
    high = high if axis.high is not None else math.ceil(high / step - 1e-9) * step
    high = high if high > low else low + step
    return Scale(low=low, high=high, start=start, end=end, log=False, ticks=_multiples(low, high, step))


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))


def _log_scaled(axis: Axis, low: float, high: float, *, start: float, end: float, most: int) -> Scale:
    room = max((high / low) ** 0.12, 1.15)
    low, high = low / room, high * room
    if axis.ticks is not None:
        return Scale(low=low, high=high, start=start, end=end, log=True, ticks=tuple(axis.ticks))
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
    return Scale(low=low, high=high, start=start, end=end, log=True, ticks=ticks)


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
