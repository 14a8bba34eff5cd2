"""Charts say the same in marks and in words, keep inside their frame, and have sane ticks for any range."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from drawn_reports import HOSTILE
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from leukemia_cli.judging.curves import Bin
from leukemia_cli.reporting.figures import (
    Candidate,
    Difference,
    Series,
    candidates_chart,
    forest_plot,
    line_chart,
    reliability_diagram,
)
from leukemia_cli.reporting.pictures import WIDTH_PX, width_of
from leukemia_cli.reporting.scales import Axis, tick_labels
from leukemia_cli.reporting.style import LIGHT

SVG = "{http://www.w3.org/2000/svg}"
OF: dict[str, Any] = {"images": 260, "groups": 31}
RATE = Axis(title="false-positive rate", low=0, high=1)


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def words(svg: str) -> str:
    return ElementTree.fromstring(svg).findtext(f"{SVG}desc") or ""


def check(svg: str) -> ElementTree.Element:
    """Read a chart back and check what holds for all: counts, words, size, nothing outside, colours that stand alone."""
    svg.encode("utf-8")
    root = ElementTree.fromstring(svg)
    width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
    assert (width, root.attrib["role"]) == (WIDTH_PX, "img")
    named = {element.attrib["id"]: element.text for element in root if "id" in element.attrib}
    assert set(root.attrib["aria-labelledby"].split()) == set(named)
    assert all(named.values())
    for text in root.iter(f"{SVG}text"):
        size = float(text.attrib["font-size"])
        assert size >= 13
        said = width_of(text.text or "", size)
        if "transform" in text.attrib:
            _, y = (float(v) for v in re.findall(r"-?[\d.]+", text.attrib["transform"])[:2])
            assert y - said / 2 >= 0
            assert y + said / 2 <= height
            continue
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        begin = x - said * {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]]
        assert begin >= 0, text.text
        assert begin + said <= width + 1, text.text
        assert 10 <= y <= height - 2
    for element in root.iter():
        for key in ("d", "points"):
            values = [float(v) for v in re.findall(r"-?\d+\.?\d*", element.attrib.get(key, ""))]
            assert all(-1 <= v <= max(width, height) + 1 for v in values)
        for key in ("fill", "stroke"):
            assert element.attrib.get(key, "none") == "none" or element.attrib[key].startswith("#")
    return root


# ---------------------------------------------------------------------------------- ticks

ends = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


@given(ends, ends, st.booleans())
@settings(max_examples=80, deadline=None)
def test_ticks_of_any_range_are_few_distinct_and_inside(one: float, other: float, whole: bool) -> None:
    assume(one != other and abs(one - other) > 1e-9 * max(abs(one), abs(other)))
    svg = line_chart(
        [Series(name="", x=[one, other], y=[other, one])],
        title="any",
        x=Axis(title="x", whole=whole),
        y=Axis(title="y"),
        **OF,
    )
    check(svg)
    shown = [text for text in texts(svg) if re.fullmatch(r"[−\d.·⁻⁰¹²³⁴⁵⁶⁷⁸⁹e+]+", text)]
    assert 2 <= len(shown) <= 16
    upright = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text") if t.attrib["text-anchor"] == "end"]
    assert len(set(upright)) == len(upright) >= 2


@given(st.floats(min_value=1e-9, max_value=1e9), st.floats(min_value=1.0, max_value=1e6))
@settings(max_examples=60, deadline=None)
def test_ticks_of_any_magnitudes_are_distinct_and_do_not_touch(low: float, factor: float) -> None:
    tried = [Candidate(series="", x=low * f, y=0.9, kept=False) for f in (1, factor)]
    svg = candidates_chart(tried, title="C", x=Axis(title="C", log=True), y=Axis(title="balanced accuracy"), **OF)
    root = check(svg)
    bottom = max(
        float(t.attrib["y"]) for t in root.iter(f"{SVG}text") if t.attrib["text-anchor"] == "middle" and "y" in t.attrib
    )
    row = sorted(
        (float(t.attrib["x"]), t.text or "")
        for t in root.iter(f"{SVG}text")
        if t.attrib.get("y") == f"{bottom - 19:.1f}" and t.attrib["text-anchor"] == "middle"
    )
    assert row
    assert len({text for _, text in row}) == len(row)
    for (left, one), (right, other) in pairwise(row):
        assert left + width_of(one) / 2 < right - width_of(other) / 2


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ((0, 0.2, 0.4), ["0.0", "0.2", "0.4"]),
        ((0.001, 0.01, 1, 10), ["0.001", "0.01", "1", "10"]),
        ((128, 512, 2048), ["128", "512", "2048"]),
        ((-0.05, 0, 0.05), ["−0.05", "0.00", "0.05"]),
        ((1e-6, 1e-4, 0.01), ["10⁻⁶", "10⁻⁴", "10⁻²"]),
        ((0, 2e7), ["0", "2·10⁷"]),
        ((1e7, 1.25e7, 1.5e7), ["1.00·10⁷", "1.25·10⁷", "1.50·10⁷"]),
        ((100, 102.5, 105), ["100.0", "102.5", "105.0"]),
        ((), []),
    ],
)
def test_tick_labels_are_as_long_as_they_must_be(ticks: tuple[float, ...], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


# ---------------------------------------------------------------------------------- lines


def test_a_line_goes_through_its_points_and_its_band_around_it() -> None:
    svg = line_chart(
        [Series(name="", x=[0, 0.5, 1], y=[0, 0.75, 1], low=[0, 0.5, 0.9], high=[0.1, 1, 1])],
        title="ALL", x=RATE, y=Axis(title="recall", low=0, high=1), diagonal=True, **OF,
    )  # fmt: skip
    root = check(svg)
    (line,) = [e for e in root.iter(f"{SVG}path") if e.attrib.get("class") == "l-s0"]
    (band,) = [e for e in root.iter(f"{SVG}path") if e.attrib.get("class") == "f-s0"]
    (chance,) = [e for e in root.iter(f"{SVG}path") if e.attrib.get("class") == "l-pale"]
    (x0, y0), (x1, y1), (x2, y2) = points(line)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(3 * (y1 - y2), abs=0.4)
    assert points(chance) == [(x0, y0), (x2, y2)]
    upper, lower = points(band)[:3], points(band)[:2:-1]
    assert upper[1] == (x1, y2)
    assert lower[1][1] == pytest.approx((y0 + y2) / 2, abs=0.2)
    assert "n = 260 images, 31 groups" in texts(svg)
    assert "0.750 at 0.5" in words(svg)
    assert "with a band" in words(svg)


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    found = [float(v) for v in re.findall(r"-?\d+\.?\d*", element.attrib["d"])]
    return list(zip(found[::2], found[1::2], strict=True))


def test_a_gap_breaks_the_line_and_the_band() -> None:
    svg = line_chart(
        [Series(name="", x=[0, 1, 2, 3, 4], y=[0, 1, None, 1, 0], low=[0, 1, None, 1, 0], high=[1, 2, None, 2, 1])],
        title="gap", x=Axis(title="epoch"), y=Axis(title="loss"), **OF,
    )  # fmt: skip
    kinds = [e.attrib.get("class") for e in check(svg).iter(f"{SVG}path")]
    assert kinds.count("l-s0") == 2
    assert kinds.count("f-s0") == 2


def test_no_two_of_many_series_look_alike_and_all_are_named() -> None:
    names = [f"fold {i}" for i in range(12)]
    svg = line_chart(
        [Series(name=name, x=[1, 2, 3], y=[i, i + 1, i]) for i, name in enumerate(names)],
        title="many", x=Axis(title="epoch", whole=True), y=Axis(title="loss"), marked=True, **OF,
    )  # fmt: skip
    root = check(svg)
    assert [text for text in texts(svg) if text.startswith("fold")] == names
    samples = [
        e
        for e in root.iter(f"{SVG}path")
        if "stroke-width" in e.attrib and len(points(e)) == 2 and e.attrib.get("fill") == "none"
    ]
    looks = {
        (e.attrib["stroke"], e.attrib.get("stroke-dasharray")) for e in samples if e.attrib["stroke"] in LIGHT.series
    }
    assert len(looks) >= 12


def test_nothing_to_draw_is_said() -> None:
    assert "Nothing to draw" in words(line_chart([], title="none", x=RATE, y=Axis(title="y"), **OF))
    empty = line_chart([Series(name="", x=[1], y=[None])], title="none", x=RATE, y=Axis(title="y"), **OF)
    check(empty)
    assert "no values" in words(empty)
    assert "No bin holds images" in words(reliability_diagram([], title="none", **OF))
    check(candidates_chart([], title="none", x=Axis(title="C", log=True), y=Axis(title="y"), **OF))
    check(forest_plot([], title="none", x_title="difference"))


@pytest.mark.parametrize("changed", [{"y": [1]}, {"low": [1, 2]}, {"low": [1], "high": [2, 3]}])
def test_a_series_that_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="series 'a'"):
        Series(**{"name": "a", "x": [1, 2], "y": [1, 2], **changed})


def test_unknown_groups_and_images_are_said() -> None:
    drawn = {"title": "a", "x": RATE, "y": Axis(title="y")}
    assert "n = 5 images, groups unknown" in texts(line_chart([], images=5, groups=None, **drawn))
    assert "n = not in this report" in texts(line_chart([], images=None, groups=None, **drawn))


# ---------------------------------------------------------------------------------- the others


def test_reliability_puts_marks_at_confidence_and_accuracy_and_bars_by_images() -> None:
    bins = [
        Bin(low=0.5, high=0.6, images=10, confidence=0.55, accuracy=0.4),
        Bin(low=0.9, high=1.0, images=40, confidence=0.97, accuracy=0.97),
    ]
    svg = reliability_diagram(bins, title="Before", **OF)
    root = check(svg)
    centres = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter(f"{SVG}circle")]
    (diagonal,) = [e for e in root.iter(f"{SVG}path") if e.attrib.get("stroke-dasharray") == "4 4"]
    (x0, y0), (x1, y1) = points(diagonal)
    assert centres[1][0] == pytest.approx(x0 + 0.97 * (x1 - x0), abs=0.2)
    assert centres[1][1] == pytest.approx(y0 + 0.97 * (y1 - y0), abs=0.2)
    heights = [float(e.attrib["height"]) for e in root.iter(f"{SVG}rect") if e.attrib.get("class") == "f-s0"]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert "10 images of mean confidence 0.550, 0.400 right" in words(svg)


def test_kept_candidates_are_ringed_and_said() -> None:
    tried = [
        Candidate(series=f"dropout {rate}", x=width, y=0.8 + rate / 10 + width / 1e5, kept=(width, rate) == (512, 0.5))
        for width in (128, 256, 512)
        for rate in (0.2, 0.5)
    ]
    axis = Axis(title="width", log=True, ticks=(128, 256, 512))
    svg = candidates_chart(tried, title="by width", x=axis, y=Axis(title="balanced accuracy"), **OF)
    rings = [e for e in check(svg).iter(f"{SVG}circle") if e.attrib["fill"] == "none"]
    assert len(rings) == 2  # one in the legend
    assert {"128", "256", "512", "dropout 0.2", "dropout 0.5", "kept"} <= set(texts(svg))
    assert words(svg).count("kept") == 1
    assert "dropout 0.5, width 512: 0.855, kept" in words(svg)


def test_forest_says_intervals_counts_and_p_and_marks_zero() -> None:
    rows = [
        Difference(name="a − b", value=0.1, low=0.02, high=0.18, p=0.0004, images=260, groups=31),
        Difference(name="a − c", value=-0.05, low=None, high=None, p=None, images=260, groups=31),
    ]
    svg = forest_plot(rows, title="Differences", x_title="difference in balanced accuracy")
    root = check(svg)
    shown = texts(svg)
    for said in (
        "+0.100 (+0.020 to +0.180)",
        "−0.050 (no interval)",
        "p < 0.001 (Holm)",
        "no p",
        "n = 260 images, 31 groups in each row",
    ):
        assert said in shown
    marks = [e for e in root.iter(f"{SVG}path") if "l-s0" in e.attrib.get("class", "")]
    assert [e.attrib["fill"] for e in marks] == [LIGHT.series[0], LIGHT.paper]
    zero = {
        e.attrib["x1"]
        for e in root.iter(f"{SVG}line")
        if e.attrib["x1"] == e.attrib["x2"] and e.attrib.get("class") == "l-ink"
    }
    (tick,) = [t.attrib["x"] for t in root.iter(f"{SVG}text") if re.fullmatch(r"0\.0+", t.text or "")]
    assert tick in zero
    low, high = (min(x for x, _ in points(e)) for e in marks)
    assert low > float(tick) > high
    assert "a − b: +0.100 (+0.020 to +0.180), p < 0.001 (Holm), n = 260 images, 31 groups." in words(svg)


def test_forest_gives_each_row_its_counts_where_they_differ() -> None:
    rows = [
        Difference(name="a", value=0.1, low=0.0, high=0.2, p=0.04, images=n, groups=None if n == 2 else n)
        for n in (1, 2)
    ]
    shown = texts(forest_plot(rows, title="Differences", x_title="difference"))
    assert {
        "images and groups stand in each row",
        "n = 1 image, 1 group",
        "n = 2 images, groups unknown",
        "p = 0.040 (Holm)",
    } <= set(shown)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_and_fit(name: str) -> None:
    point = {"x": [0, 1], "y": [0.2, 0.4]}
    check(
        line_chart(
            [Series(name=name, **point), Series(name=name[::-1], **point)], title=name, x=RATE, y=Axis(title="y"), **OF
        )
    )
    check(reliability_diagram([Bin(low=0, high=1, images=10**7, confidence=0.5, accuracy=0.5)], title=name, **OF))
    pair = [Candidate(series=s, x=1, y=0.5, kept=True) for s in (name, "other")]
    check(candidates_chart(pair, title=name, x=Axis(title=name, log=True), y=Axis(title="y"), **OF))
    check(
        forest_plot(
            [Difference(name=name, value=0.1, low=0, high=1, p=0.5, images=10**6, groups=10**5)],
            title=name,
            x_title=name,
        )
    )


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_forest_keeps_any_difference_inside(values: list[float]) -> None:
    rows = [Difference(name="a", value=v, low=v - 1, high=v + 1, p=0.5, images=9, groups=3) for v in values]
    svg = forest_plot(rows, title="Differences", x_title="difference")
    for element in ElementTree.fromstring(svg).iter(f"{SVG}line"):
        assert all(-1 <= float(element.attrib[key]) <= WIDTH_PX + 1 for key in ("x1", "x2"))
    assert math.isfinite(float(ElementTree.fromstring(svg).attrib["height"]))
