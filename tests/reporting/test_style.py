"""Both themes are read by those who see little contrast, no red or no green."""

from __future__ import annotations

import re
from itertools import pairwise, product

import pytest

from leukemia_cli.reporting.style import CSS, DARK, LIGHT, Theme


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
