"""Numbers, counts and names are written alike in every file, page and chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leukemia_cli.judging.metrics import METRICS

NO_VALUE = "–"


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


def interval(low: float | None, high: float | None, *, signs: bool = False) -> str:
    """Give '0.871 to 0.934', or a dash where there is no interval; `signs` is for the ends of a difference."""
    if low is None or high is None:
        return NO_VALUE
    written = signed if signs else number
    return f"{written(low)} to {written(high)}"


def p_value(p: float | None) -> str:
    """Give three decimals, '< 0.001' below those, or a dash where nothing was tested."""
    if p is None:
        return NO_VALUE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counts(images: int | None, groups: int | None) -> str:
    """Say '260 images, 31 groups'; groups of None are unknown, images of None were not reported."""
    if images is None:
        return "not in this report"
    said = f"{images} {'image' if images == 1 else 'images'}"
    return f"{said}, groups unknown" if groups is None else f"{said}, {groups} {'group' if groups == 1 else 'groups'}"


def group_count(groups: int | None, *, known: bool) -> str:
    """Give what a cell for groups says: their number, a dash where it was not reported, or that they are unknown."""
    return "unknown" if not known else NO_VALUE if groups is None else str(groups)


def begun(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


def metric_title(name: str) -> str:
    """Give a metric's title, or the name itself of one that this version does not know."""
    return METRICS[name].title if name in METRICS else name


def made_by(document: Mapping[str, Any]) -> str:
    """Say which version made a report or an audit, and when, as far as it tells."""
    version, created = document.get("leuk_version"), document.get("created")
    return "Made by leuk" + (f" {version}" if version else "") + (f" at {created}" if created else "") + "."


class Notes:
    """Notes numbered in the order of their first mark; equal notes share a number."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def mark(self, note: str) -> int:
        """Give the number of a note, from 1."""
        if note not in self.listed:
            self.listed.append(note)
        return self.listed.index(note) + 1
