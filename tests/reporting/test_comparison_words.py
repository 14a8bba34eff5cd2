"""What is said of a comparison is what its p values say, and no more."""

from __future__ import annotations

import re
from typing import Any

from drawn_comparisons import drawn, four, with_p, with_values
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.comparison_words import ALPHA, comparison_finding, comparison_reading


def test_the_finding_without_a_difference() -> None:
    found = comparison_finding(four())
    assert found.startswith("Highest balanced accuracy: senet svm, 0.900 (")
    assert "260 images, 31 groups" in found
    assert "not distinguishable from any of the 3 others (p after Holm 0.400): which comes first may be chance" in found


def test_the_finding_with_differences() -> None:
    assert "It is distinguishable from each of the 3 others (p after Holm < 0.001)." in comparison_finding(four(0.0001))
    some = with_p(four(), "resnext svm", "senet svm", 0.01)
    assert (
        "from 1 of the 3 others (resnext svm) and not from the rest (p after Holm 0.010 to 0.400)"
        in comparison_finding(some)
    )


def test_the_finding_without_a_test() -> None:
    assert "was not tested" in comparison_finding(four(None))
    partly = with_p(four(), "resnext svm", "senet svm", None)
    assert "any of the 2 others" in comparison_finding(partly) and "; 1 other not compared." in comparison_finding(
        partly
    )


def test_the_finding_of_one_two_equal_and_no_figures() -> None:
    assert comparison_finding(drawn(("senet",), ("base",))).endswith("There is no other model to compare it with.")
    two = with_values(drawn(("senet",), ("base", "svm")), (0.8, 0.9))
    assert "It is not distinguishable from senet base" in comparison_finding(two)
    assert "; equal to it: resnext svm." in comparison_finding(four(values=(0.8, 0.9, 0.7, 0.9)))
    assert comparison_finding(four(values=(None,) * 4)) == "No model has a balanced accuracy on these images."


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=6, max_size=6))
def test_what_is_said_of_differences_is_what_their_p_values_say(ps: list[float | None]) -> None:
    document = four()
    for metric in ("balanced_accuracy", "macro_f1"):
        for d, p in zip([d for d in document["differences"] if d["metric"] == metric], ps, strict=True):
            d["p_holm"] = p
    tested = [p for p in ps if p is not None]
    beyond = sum(p < ALPHA for p in tested)
    reading = comparison_reading(document, "macro_f1")
    assert reading.startswith("Macro F1: ")
    if not tested:
        assert "no difference was tested" in reading
    elif not beyond:
        assert "no difference is distinguishable from 0 after Holm" in reading and f"{len(tested)} tested" in reading
    else:
        assert f"{beyond} of {len(tested)} difference" in reading
    top = [p for d, p in zip(document["differences"][:6], ps, strict=True) if {"senet svm"} & names(d)]
    mine = [p for p in top if p is not None]
    found = re.search(
        r"from (\d+) of the (\d+) others|from (any|each) of the (\d+) others", comparison_finding(document)
    )
    if len(mine) > 1 and found is not None:
        says = int(found[1]) if found[1] else 0 if found[3] == "any" else len(mine)
        assert says == sum(p < ALPHA for p in mine) and int(found[2] or found[4]) == len(mine)
    else:
        assert len(mine) < 2


def names(difference: Any) -> set[str]:
    return {f"{model['backbone']} {model['variant']}" for model in (difference["a"], difference["b"])}
