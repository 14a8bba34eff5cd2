from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from leukemia_cli.judging.curves import GRID, band, precision_recall_curves, reliability, roc_curves, whole_resamples
from leukemia_cli.judging.intervals import resamples_of
from leukemia_cli.judging.metrics import metric_figures
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def peer_roc(ours: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """scikit-learn's points joined by lines, the upper one where several lie at one rate."""
    false, true, _ = roc_curve(ours, scores, drop_intermediate=False)
    return np.interp(GRID, false, true)


def peer_precision(ours: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """scikit-learn's precision at the highest threshold whose recall reaches each point of the grid."""
    precision, recall, _ = precision_recall_curve(ours, scores)
    precision, recall = precision[-2::-1], recall[-2::-1]  # from the highest threshold down, its end point dropped
    return np.array([precision[np.flatnonzero(recall >= x - 1e-12)[0]] for x in GRID])


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("class_count", [2, 3])
def test_curves_equal_scikit_learn(draw_predictions: Draw, class_count: int, steps: int | None) -> None:
    predictions = draw_predictions(seed=1, n=150, class_count=class_count, steps=steps)
    roc = roc_curves(predictions, resamples=20)
    precision = precision_recall_curves(predictions, resamples=20)
    shown = ["A"] if class_count == 2 else list("ABC")  # of two classes the positive one
    assert list(roc) == list(precision) == shown
    for name in shown:
        place = predictions.classes.index(name)
        ours, scores = predictions.labels == place, predictions.probabilities[:, place]
        assert roc[name].y == pytest.approx(peer_roc(ours, scores), abs=1e-12)
        assert precision[name].y == pytest.approx(peer_precision(ours, scores), abs=1e-12)
        assert auc(GRID, roc[name].y) == pytest.approx(roc_auc_score(ours, scores), abs=0.01)
        assert roc[name].x.tolist() == precision[name].x.tolist() == [i / 100 for i in range(101)]


@pytest.mark.parametrize("curves", [roc_curves, precision_recall_curves])
def test_bands_are_quantiles_of_curves_of_repeated_images(draw_predictions: Draw, curves: Callable[..., dict]) -> None:
    predictions = draw_predictions(seed=2, n=60, groups_per_class=6, steps=3)
    peer = peer_roc if curves is roc_curves else peer_precision
    groups, _ = predictions.group_indices()
    drawn = []
    for weights in np.concatenate(list(resamples_of(predictions, resamples=40, seed=5))):
        repeated = np.repeat(np.arange(60), weights[groups])
        drawn.append(peer(predictions.labels[repeated] == 0, predictions.probabilities[repeated, 0]))
    curve = curves(predictions, resamples=40, level=0.8, seed=5)["A"]
    assert curve.low == pytest.approx(np.quantile(drawn, 0.1, axis=0), abs=1e-9)
    assert curve.high == pytest.approx(np.quantile(drawn, 0.9, axis=0), abs=1e-9)
    assert curve.method == "group bootstrap (80 % percentile at each point, 40 resamples)"


def test_without_a_positive_class_the_last_is_shown(draw_predictions: Draw) -> None:
    given = draw_predictions(seed=0)
    neither = Predictions(
        classes=given.classes,
        positive=None,
        labels=given.labels,
        probabilities=given.probabilities,
        groups=given.groups,
        groups_source="given",
    )
    assert list(roc_curves(neither, resamples=5)) == ["B"]


def test_too_few_groups_give_a_curve_without_a_band(draw_predictions: Draw) -> None:
    curve = roc_curves(draw_predictions(seed=0, groups_per_class=3))["A"]
    assert (curve.low, curve.high) == (None, None)
    assert curve.method == "no band: class A has 3 groups, fewer than 5"
    assert np.isfinite(curve.y).all()


def test_curves_that_resamples_often_lack_have_no_band(draw_predictions: Draw) -> None:
    predictions = draw_predictions(seed=0)
    draws = np.random.default_rng(0).random((100, 5))
    draws[:5] = np.nan
    low, high, _ = band(predictions, draws, level=0.9)
    assert low == pytest.approx(np.quantile(draws[5:], 0.05, axis=0))
    assert high == pytest.approx(np.quantile(draws[5:], 0.95, axis=0))
    draws[5] = np.nan
    told = "no band: undefined in 6 % of resamples, more than 5 %"
    assert band(predictions, draws, level=0.9) == (None, None, told)


def test_resamples_that_lost_a_class_are_told() -> None:
    # Class B lies beside class A in 5 of 8 groups of A, and leads in none: (3/8)^8 of resamples lose it.
    labels = np.array([[0, 0, 1]] * 5 + [[0, 0, 0]] * 3).ravel()
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=labels,
        probabilities=np.tile([0.5, 0.5], (24, 1)),
        groups=tuple(f"p{i // 3}" for i in range(24)),
        groups_source="given",
    )
    groups, _ = predictions.group_indices()
    lost = 0
    for weights, whole in whole_resamples(predictions, resamples=5000, seed=0):
        held = np.array([(row[groups] * labels).sum() > 0 for row in weights])
        assert whole.tolist() == held.tolist()
        lost += (~held).sum()
    assert lost > 0


def test_classes_without_two_sides_have_no_curve(draw_predictions: Draw) -> None:
    assert list(roc_curves(draw_predictions(class_count=3, present=[0, 2]), resamples=5)) == ["A", "C"]
    assert roc_curves(draw_predictions(present=[1]), resamples=5) == {}


@pytest.mark.parametrize("curves", [roc_curves, precision_recall_curves])
def test_curves_are_the_same_for_the_same_seed_and_order(draw_predictions: Draw, curves: Callable[..., dict]) -> None:
    given = draw_predictions(seed=4, steps=2)
    shuffled = np.random.default_rng(0).permutation(given.image_count)
    other = Predictions(
        classes=given.classes,
        positive=given.positive,
        labels=given.labels[shuffled],
        probabilities=given.probabilities[shuffled],
        groups=tuple(given.groups[i] for i in shuffled),
        groups_source="given",
    )
    one, two = (curves(p, resamples=30, seed=3)["A"] for p in (given, other))
    assert one.y == pytest.approx(two.y, abs=1e-12)
    assert one.low == pytest.approx(two.low, abs=1e-12)


def test_a_roc_curve_never_falls(draw_predictions: Draw) -> None:
    curve = roc_curves(draw_predictions(seed=4, steps=2), resamples=30)["A"]
    assert (np.diff(curve.y) >= 0).all() and curve.y[0] < curve.y[-1]


def test_reliability_equals_scikit_learn_and_sums_to_the_calibration_error(draw_predictions: Draw) -> None:
    predictions = draw_predictions(seed=3, n=400, class_count=3, steps=4)
    bins = reliability(predictions)
    right = predictions.predicted == predictions.labels
    accuracy, confidence = calibration_curve(right, predictions.probabilities.max(axis=1), n_bins=15)
    assert [b.accuracy for b in bins] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in bins] == pytest.approx(confidence.tolist())
    assert sum(b.images for b in bins) == 400
    assert all(b.low < b.confidence <= b.high and b.images > 0 for b in bins)
    error = sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / 400
    assert error == pytest.approx(float(metric_figures(predictions, names=["ece"])["ece"][0]))


@pytest.mark.parametrize("curves", [roc_curves, precision_recall_curves])
def test_wrong_settings_are_refused(draw_predictions: Draw, curves: Callable[..., dict]) -> None:
    with pytest.raises(ValueError, match="resamples"):
        curves(draw_predictions(), resamples=0)
    with pytest.raises(ValueError, match="level"):
        curves(draw_predictions(), level=1.0)
