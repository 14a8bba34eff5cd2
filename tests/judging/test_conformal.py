from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.judging.conformal import (
    LabelSets,
    coverage,
    fewest_groups,
    fit_label_sets,
    group_weights,
    new_score_bound,
)


def bound_by_trying(scores: list[float], groups: list[str], alpha: Fraction) -> float | None:
    """The least seen score whose group-weighted share of scores up to it is large enough, in exact arithmetic."""
    sizes = Counter(groups)
    for candidate in sorted(scores):
        below = sum(Fraction(1, sizes[g]) for s, g in zip(scores, groups, strict=True) if s <= candidate)
        if below >= (1 - alpha) * (len(sizes) + 1):
            return candidate
    return None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9)), min_size=1, max_size=40),
    st.sampled_from([Fraction(1, 20), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)]),
)
def test_the_bound_is_the_least_that_reaches_the_weighted_share(rows: list[tuple[int, int]], alpha: Fraction) -> None:
    scores, groups = [value / 8 for value, _ in rows], [f"g{number}" for _, number in rows]
    assert new_score_bound(np.array(scores), groups, float(alpha)) == bound_by_trying(scores, groups, alpha)
    # Without groups every image is its own: the classical ⌈(n + 1)(1 − alpha)⌉-th smallest.
    rank = math.ceil((len(rows) + 1) * (1 - alpha))
    expected = sorted(scores)[rank - 1] if rank <= len(rows) else None
    assert new_score_bound(np.array(scores), None, float(alpha)) == expected


def test_order_and_names_of_groups_do_not_matter() -> None:
    random = np.random.default_rng(0)
    scores, numbers = random.random(60), random.integers(25, size=60)
    shuffled = random.permutation(60)
    first = new_score_bound(scores, [f"a{n}" for n in numbers], 0.1)
    assert first is not None
    assert first == new_score_bound(scores[shuffled], [f"z{-n}" for n in numbers[shuffled]], 0.1)


@pytest.mark.parametrize(("alpha", "fewest"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_below_the_fewest_groups_there_is_no_bound(alpha: float, fewest: int) -> None:
    assert fewest_groups(alpha) == fewest
    enough = [f"g{i}" for i in range(fewest)]
    assert new_score_bound(np.arange(float(fewest)), enough, alpha) == fewest - 1
    if fewest > 1:
        assert new_score_bound(np.arange(2.0 * fewest - 2), enough[1:] * 2, alpha) is None


def drawn(
    random: np.random.Generator, groups: int, *, class_count: int = 3
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw groups that differ in size and in how hard they are: exchangeable, images of one group alike."""
    rows, labels, names = [], [], []
    for group in range(groups):
        size, ease = int(random.integers(1, 12)), random.normal(1.5, 1.5)
        truth = random.integers(class_count, size=size)
        scores = random.normal(size=(size, class_count))
        scores[np.arange(size), truth] += ease
        rows.append(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
        labels.append(truth)
        names += [f"g{group}"] * size
    return np.concatenate(rows), np.concatenate(labels), names


@pytest.mark.parametrize(("groups", "alpha"), [(9, 0.1), (30, 0.1), (12, 0.25)])
def test_sets_hold_the_true_class_of_a_new_group_often_enough(groups: int, alpha: float) -> None:
    random = np.random.default_rng(groups)
    covered = []
    for _ in range(700):
        fitted = fit_label_sets(*drawn(random, groups), alpha)
        probabilities, labels, names = drawn(random, 1)
        covered.append(coverage(fitted.sets(probabilities), labels, names))
    error = np.std(covered) / np.sqrt(len(covered))
    assert np.mean(covered) >= 1 - alpha - 3 * error
    # And not by naming every class always: at most about 2 / (G + 1) too often.
    assert np.mean(covered) <= 1 - alpha + 2 / (groups + 1) + 3 * error


def test_a_few_large_groups_do_not_rule_the_threshold() -> None:
    # One hard patient of 1,000 images beside 29 easy ones: per image nearly all scores are his, per group 1 of 30.
    easy, hard = np.tile([0.9, 0.1], (29, 1)), np.tile([0.2, 0.8], (1000, 1))
    probabilities, labels = np.concatenate([easy, hard]), np.zeros(1029, dtype=int)
    by_group = fit_label_sets(probabilities, labels, [f"g{i}" for i in range(29)] + ["hard"] * 1000, 0.1)
    by_image = fit_label_sets(probabilities, labels, None, 0.1)
    assert by_group.threshold == pytest.approx(0.1)
    assert by_image.threshold == pytest.approx(0.8)
    assert (by_group.per, by_group.calibration_groups, by_group.calibration_images) == ("group", 30, 1029)
    assert (by_image.per, by_image.calibration_groups) == ("image", 1029)


def test_sets_on_paper() -> None:
    fitted = LabelSets(alpha=0.1, threshold=0.7, per="image", calibration_groups=20, calibration_images=20, reason=None)
    sets = fitted.sets(np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05], [0.25, 0.25, 0.5]]))
    assert sets.tolist() == [[True, True, False], [True, True, True], [True, False, False], [False, False, True]]


def test_the_most_probable_class_is_always_in_the_set() -> None:
    # Calibration scores near 0 give a threshold that no class of an unsure image is within.
    fitted = fit_label_sets(np.tile([0.999, 0.001], (20, 1)), np.zeros(20, dtype=int), None, 0.1)
    assert fitted.sets(np.array([[0.5, 0.5], [0.4, 0.6]])).tolist() == [[True, False], [False, True]]


def test_too_few_groups_are_refused_in_numbers() -> None:
    probabilities, labels = np.tile([0.7, 0.3], (40, 1)), np.zeros(40, dtype=int)
    fitted = fit_label_sets(probabilities, labels, [f"g{i % 8}" for i in range(40)], 0.1)
    assert fitted.threshold is None
    assert fitted.reason == "8 groups to calibrate on: a miss rate of 10 % needs at least 9"
    with pytest.raises(ValueError, match="8 groups to calibrate on"):
        fitted.sets(probabilities)
    assert fit_label_sets(probabilities, labels, None, 0.1).threshold == pytest.approx(0.3)
    one = fit_label_sets(probabilities[:1], labels[:1], None, 0.1)
    assert one.reason == "1 image to calibrate on: a miss rate of 10 % needs at least 9"


def test_label_sets_are_equal_after_json() -> None:
    probabilities, labels, names = drawn(np.random.default_rng(3), 40)
    for fitted in (
        fit_label_sets(probabilities, labels, names, 0.1),
        fit_label_sets(probabilities, labels, names, 0.01),
    ):
        assert LabelSets.from_json(json.loads(json.dumps(fitted.as_json()))) == fitted
    with pytest.raises(KeyError):
        LabelSets.from_json({"alpha": 0.1})


def test_coverage_counts_images_or_groups_equally() -> None:
    sets = np.array([[True, False], [True, False], [True, False], [False, True]])
    labels = np.array([0, 0, 1, 1])
    assert coverage(sets, labels) == pytest.approx(3 / 4)
    assert coverage(sets, labels, ["a", "a", "a", "b"]) == pytest.approx((2 / 3 + 1) / 2)
    weights, count = group_weights(["a", "a", "b"], 3)
    assert (weights.tolist(), count) == ([0.5, 0.5, 1], 2)


@pytest.mark.parametrize(
    ("probabilities", "labels", "groups", "alpha", "said"),
    [
        (np.zeros(3), np.array([0, 0, 0]), None, 0.1, r"\(N, C\)"),
        (np.full((2, 2), np.nan), np.array([0, 0]), None, 0.1, "finite"),
        (np.full((2, 2), 0.5), np.array([0, 2]), None, 0.1, "0 to 2 are no indices"),
        (np.full((2, 2), 0.5), np.array([0]), None, 0.1, r"\(2,\) integers"),
        (np.full((2, 2), 0.5), np.array([0, 1]), ["a"], 0.1, "1 groups for 2 images"),
        (np.full((2, 2), 0.5), np.array([0, 1]), None, 0.0, "alpha"),
        (np.full((2, 2), 0.5), np.array([0, 1]), None, 1.0, "alpha"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    probabilities: np.ndarray, labels: np.ndarray, groups: list[str] | None, alpha: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        fit_label_sets(probabilities, labels, groups, alpha)


def test_scores_and_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        new_score_bound(np.array([0.0, np.inf]), None, 0.1)
    with pytest.raises(ValueError, match="N ≥ 1"):
        new_score_bound(np.zeros(0), None, 0.1)
    with pytest.raises(ValueError, match="same images"):
        coverage(np.ones((2, 2), dtype=bool), np.zeros(3, dtype=int))
