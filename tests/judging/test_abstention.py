from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.judging.abstention import (
    LeastConfidence,
    accuracy_at,
    least_confidence,
    risk_coverage,
    share_estimate,
)
from leukemia_cli.judging.intervals import resamples_of
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def confident(confidence: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two-class probabilities of these confidences, all for class 0, and labels that make them right or wrong."""
    most = np.array(confidence)
    return np.stack([most, 1 - most], axis=1), np.where(right, 0, 1)


# ---------------------------------------------------------------------------------- the least confidence


def by_trying(confidence: np.ndarray, right: np.ndarray, groups: list[str], risk: float) -> tuple[float, bool]:
    """Try every confidence seen; the lowest that meets the risk, else that with the lowest estimate."""
    tried = []
    for threshold in sorted(set(confidence.tolist())):
        kept = confidence >= threshold
        if kept.mean() < 0.5:
            continue
        answered = errors = 0.0
        for name in set(groups):
            mine = np.array([g == name for g in groups])
            answered += (mine & kept).sum() / mine.sum()
            errors += (mine & kept & ~right).sum() / mine.sum()
        tried.append((threshold, (errors + 0.5) / (answered + 1)))
    met = [threshold for threshold, estimate in tried if estimate <= risk + 1e-9]
    if met:
        return met[0], True
    lowest = min(estimate for _, estimate in tried)
    return next(threshold for threshold, estimate in tried if estimate <= lowest + 1e-9), False


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(50, 60), st.integers(0, 9), st.integers(0, 7)), min_size=1, max_size=40),
    st.sampled_from([0.02, 0.05, 0.2]),
)
def test_the_threshold_is_the_lowest_that_meets_the_risk(rows: list[tuple[int, int, int]], risk: float) -> None:
    confidence = [value / 60 for value, _, _ in rows]
    right, groups = [chance > 0 for _, chance, _ in rows], [f"g{number}" for _, _, number in rows]
    probabilities, labels = confident(confidence, right)
    found = least_confidence(probabilities, labels, groups, risk=risk)
    assert (found.threshold, found.reached) == by_trying(np.array(confidence), np.array(right), groups, risk)
    kept = found.answers(probabilities)
    assert found.answered == pytest.approx(kept.mean())
    assert found.answered >= 0.5
    assert found.threshold >= min(confidence)
    assert (found.reason is None) == found.reached == (found.estimate <= risk + 1e-9)


def test_all_right_answers_down_to_the_lowest_confidence_seen() -> None:
    probabilities, labels = confident(np.linspace(0.6, 0.99, 40).tolist(), [True] * 40)
    found = least_confidence(probabilities, labels, None)
    assert (found.threshold, found.answered, found.reached, found.error) == (pytest.approx(0.6), 1.0, True, 0.0)
    assert not found.answers(np.array([[0.59, 0.41]]))[0]


@pytest.mark.parametrize(("groups", "reached"), [(8, False), (9, True)])
def test_a_handful_of_groups_cannot_show_a_low_risk(groups: int, reached: bool) -> None:
    # ½ / (8 + 1) is above 0.05, ½ / (9 + 1) is not; either way all images seen are answered.
    probabilities, labels = confident([0.9] * 3 * groups, [True] * 3 * groups)
    found = least_confidence(probabilities, labels, [f"g{i // 3}" for i in range(3 * groups)])
    assert (found.reached, found.answered, found.threshold) == (reached, 1.0, 0.9)
    if not reached:
        assert found.reason == (
            "an error of at most 5 % among the answered cannot be shown on 8 groups: 0.0 % were wrong, which counts as "
            "5.6 % of so few"
        )


def test_wrong_images_of_low_confidence_are_left_out() -> None:
    probabilities, labels = confident([0.95] * 80 + [0.6] * 20, [True] * 80 + [True, False] * 10)
    found = least_confidence(probabilities, labels, None)
    assert (found.threshold, found.answered, found.error, found.reached) == (0.95, 0.8, 0.0, True)
    assert (found.calibration_images, found.calibration_groups) == (100, 100)


def test_at_least_half_is_answered_and_a_missed_risk_is_told() -> None:
    # The 30 surest are right, the other 70 wrong every other time: the best allowed answers 50.
    order = np.linspace(0.99, 0.6, 100)
    probabilities, labels = confident(order.tolist(), [True] * 30 + [True, False] * 35)
    found = least_confidence(probabilities, labels, None)
    assert not found.reached
    assert found.answered == pytest.approx(0.51)  # the 51st is right
    assert found.threshold == pytest.approx(order[50])
    assert found.reason is not None and "100 images: 19.6 % were wrong" in found.reason


def test_one_large_group_counts_as_one() -> None:
    # 500 unsure images of one patient, half wrong, beside 60 patients that are right: an error of 0.5 / 61 by groups.
    confidence = [0.9] * 60 + [0.8] * 500
    probabilities, labels = confident(confidence, [True] * 60 + [True, False] * 250)
    groups = [f"g{i}" for i in range(60)] + ["large"] * 500
    assert least_confidence(probabilities, labels, groups).answered == 1.0
    assert not least_confidence(probabilities, labels, None).reached


def test_the_error_of_new_groups_is_near_the_risk_where_it_was_reached() -> None:
    random = np.random.default_rng(0)

    def drawn(groups: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        confidence = random.uniform(0.5, 1, (groups, 6))
        right = random.random((groups, 6)) < confidence
        names = [f"g{i}" for i in range(groups) for _ in range(6)]
        return *confident(confidence.ravel().tolist(), right.ravel().tolist()), names

    wrong = answered = 0
    for _ in range(200):
        found = least_confidence(*drawn(40), risk=0.15)
        probabilities, labels, _ = drawn(40)
        kept = found.answers(probabilities)
        answered += kept.sum()
        wrong += (labels[kept] != 0).sum()
    # Confidences are honest here, so 15 % error among the answered means answering from 0.7 up.
    assert wrong / answered == pytest.approx(0.15, abs=0.01)


def test_least_confidence_is_equal_after_json() -> None:
    for right in (True, False):
        found = least_confidence(*confident([0.7, 0.8, 0.9], [right, True, True]), None)
        assert LeastConfidence.from_json(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize(
    ("probabilities", "labels", "risk", "said"),
    [
        (np.zeros(3), np.zeros(3, dtype=int), 0.05, r"\(N, C\)"),
        (np.full((2, 2), np.nan), np.zeros(2, dtype=int), 0.05, "finite"),
        (np.full((2, 2), 0.5), np.zeros(3, dtype=int), 0.05, r"\(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), 0.05, "at least one"),
        (np.full((2, 2), 0.5), np.zeros(2, dtype=int), 1.0, "risk"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    probabilities: np.ndarray, labels: np.ndarray, risk: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        least_confidence(probabilities, labels, None, risk=risk)


# ---------------------------------------------------------------------------------- risk and coverage


def error_among(confidence: np.ndarray, wrong: np.ndarray, share: float) -> float:
    """The error of the most confident that make up `share`, equals going together."""
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        kept = confidence >= threshold
        if kept.sum() >= share * confidence.size - 1e-9:
            return float(wrong[kept].mean())
    raise AssertionError("no share is reached")


@pytest.mark.parametrize("steps", [None, 2])
def test_risk_and_coverage_equal_a_count(draw_predictions: Draw, steps: int | None) -> None:
    predictions = draw_predictions(seed=1, n=90, class_count=3, steps=steps)
    confidence, wrong = predictions.probabilities.max(axis=1), predictions.predicted != predictions.labels
    curve = risk_coverage(predictions, resamples=20)
    assert curve.coverage.tolist() == [i / 100 for i in range(1, 101)]
    assert curve.error == pytest.approx([error_among(confidence, wrong, share) for share in curve.coverage])
    own = [wrong[confidence >= mine].mean() for mine in confidence]
    assert curve.area == pytest.approx(np.mean(own))
    assert curve.error[-1] == pytest.approx(wrong.mean())


def test_bands_are_quantiles_over_repeated_images(draw_predictions: Draw) -> None:
    predictions = draw_predictions(seed=2, n=60, groups_per_class=6, steps=3)
    confidence, wrong = predictions.probabilities.max(axis=1), predictions.predicted != predictions.labels
    groups, _ = predictions.group_indices()
    curve = risk_coverage(predictions, resamples=30, level=0.8, seed=5)
    drawn = []
    for weights in np.concatenate(list(resamples_of(predictions, resamples=30, seed=5))):
        repeated = np.repeat(np.arange(60), weights[groups])
        drawn.append([error_among(confidence[repeated], wrong[repeated], share) for share in curve.coverage])
    assert curve.low == pytest.approx(np.quantile(drawn, 0.1, axis=0), abs=1e-9)
    assert curve.high == pytest.approx(np.quantile(drawn, 0.9, axis=0), abs=1e-9)


def test_few_groups_give_a_curve_without_a_band(draw_predictions: Draw) -> None:
    curve = risk_coverage(draw_predictions(groups_per_class=3))
    assert (curve.low, curve.high) == (None, None)
    assert curve.method.startswith("no band: class A has 3 groups")


@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
def test_accuracy_of_the_most_confident(draw_predictions: Draw, share: float) -> None:
    predictions = draw_predictions(seed=5, n=100, steps=2)
    confidence, wrong = predictions.probabilities.max(axis=1), predictions.predicted != predictions.labels
    found = accuracy_at(predictions, share, resamples=200)
    assert found.value == pytest.approx(1 - error_among(confidence, wrong, share))
    assert found.n >= share * 100
    assert found.low is not None and found.high is not None and found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert "group bootstrap" in found.method
    few = accuracy_at(draw_predictions(groups_per_class=3), share, resamples=50)
    assert (few.low, few.high) == (None, None) and few.method.startswith("no interval: class A has 3 groups")


def test_accuracy_of_images_of_one_confidence_is_that_of_all(draw_predictions: Draw) -> None:
    given = draw_predictions(seed=0)
    level = Predictions(
        classes=given.classes,
        positive=given.positive,
        labels=given.labels,
        probabilities=np.tile([0.7, 0.3], (given.image_count, 1)),
        groups=given.groups,
        groups_source="given",
    )
    found = accuracy_at(level, 0.01, resamples=50)
    assert (found.n, found.value) == (given.image_count, pytest.approx(float((given.labels == 0).mean())))


# ---------------------------------------------------------------------------------- shares


def test_a_share_is_counted_over_images_or_over_groups(draw_predictions: Draw) -> None:
    predictions = draw_predictions(seed=3, n=200, groups_per_class=10)
    hits = predictions.predicted == predictions.labels
    among = predictions.probabilities.max(axis=1) > 0.6
    groups, count = predictions.group_indices()
    found = share_estimate(predictions, hits, among=among, resamples=300)
    assert found.value == pytest.approx(hits[among].mean())
    assert (found.n, found.groups) == (among.sum(), np.unique(groups[among]).size)
    assert found.low is not None and found.high is not None and found.value is not None
    assert 0 <= found.low < found.value < found.high <= 1
    own = [hits[among & (groups == g)].mean() for g in range(count) if (among & (groups == g)).any()]
    assert share_estimate(predictions, hits, among=among, equal_groups=True, resamples=300).value == pytest.approx(
        np.mean(own)
    )


def test_a_share_of_images_of_unknown_groups_has_the_exact_interval(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=50, groups_source="none")
    found = share_estimate(predictions, np.arange(50) < 45)
    # Clopper and Pearson's table: 45 of 50.
    assert (found.low, found.high) == (pytest.approx(0.7819, abs=1e-4), pytest.approx(0.9667, abs=1e-4))
    assert found.method == "Clopper–Pearson, groups unknown: optimistic (95 %, 45 of 50 images)"


def test_a_share_of_nothing_is_undefined(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=50)
    nothing = np.zeros(50, dtype=bool)
    found = share_estimate(predictions, nothing, among=nothing)
    assert (found.value, found.low, found.n, found.groups, found.method) == (None, None, 0, 0, "undefined: no images")


def test_wrong_shapes_and_settings_are_refused(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=50)
    with pytest.raises(ValueError, match=r"\(50,\)"):
        share_estimate(predictions, np.ones(49, dtype=bool))
    with pytest.raises(ValueError, match="coverage"):
        accuracy_at(predictions, 0.0)
    for figure in (risk_coverage, accuracy_at):
        with pytest.raises(ValueError, match="level"):
            figure(predictions, level=0.0)
