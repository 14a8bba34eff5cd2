"""Numbers, counts and names are written alike wherever they stand."""

from __future__ import annotations

import pytest

from leukemia_cli.reporting.wording import (
    Notes,
    counts,
    group_count,
    interval,
    made_by,
    metric_title,
    number,
    p_value,
    signed,
)


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.9125, "0.912", "+0.912"),
        (-0.2, "−0.200", "−0.200"),
        (None, "–", "–"),
        (0.0, "0.000", "0.000"),
        (-0.0001, "0.000", "0.000"),
        (1, "1.000", "+1.000"),
    ],
)
def test_numbers_have_three_decimals_and_a_true_minus(value: float | None, plain: str, with_sign: str) -> None:
    assert number(value) == plain
    assert signed(value) == with_sign


def test_counts_say_what_is_not_known() -> None:
    assert counts(1, 1) == "1 image, 1 group"
    assert counts(12345, None) == "12345 images, groups unknown"
    assert counts(None, 3) == "not in this report"
    assert interval(0.1, None) == interval(None, None) == "–"
    assert interval(0.1, 0.25) == "0.100 to 0.250"
    assert interval(-0.05, 0.25, signs=True) == "−0.050 to +0.250"
    assert [group_count(7, known=True), group_count(None, known=True), group_count(7, known=False)] == [
        "7",
        "–",
        "unknown",
    ]


def test_a_p_below_three_decimals_is_not_called_zero() -> None:
    assert [p_value(None), p_value(0.00099), p_value(0.001), p_value(1.0)] == ["–", "< 0.001", "0.001", "1.000"]


def test_equal_notes_share_a_number() -> None:
    notes = Notes()
    assert [notes.mark(note) for note in ("a", "b", "a", "c")] == [1, 2, 1, 3]
    assert notes.listed == ["a", "b", "c"]


def test_who_made_it_is_said_as_far_as_it_is_known() -> None:
    assert made_by({}) == "Made by leuk."
    assert made_by({"leuk_version": "0.1.0", "created": None}) == "Made by leuk 0.1.0."
    assert made_by({"leuk_version": "0.1.0", "created": "today"}) == "Made by leuk 0.1.0 at today."


def test_a_metric_of_another_version_keeps_its_name() -> None:
    assert metric_title("macro_f1") == "Macro F1"
    assert metric_title("later_metric") == "later_metric"
