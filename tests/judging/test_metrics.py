from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from leukemia_cli.judging.metrics import METRICS, confusion, metric_figures, per_class
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def plain(predictions: Predictions) -> dict[str, float]:
    return {name: float(figures[0]) for name, figures in metric_figures(predictions).items()}


def expected_ece(predictions: Predictions, bins: int = 15) -> float:
    """Walk over bins (low, high] as the definition reads."""
    confidence, right = predictions.probabilities.max(axis=1), predictions.predicted == predictions.labels
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def expected(predictions: Predictions) -> dict[str, float]:
    """Compute every metric with scikit-learn, averaging over the present classes."""
    truth, called, scores = predictions.labels, predictions.predicted, predictions.probabilities
    count = len(predictions.classes)
    present = sorted(set(truth.tolist()))
    several = len(present) > 1
    recalls = peer.recall_score(truth, called, labels=present, average=None, zero_division=0)
    aurocs = [peer.roc_auc_score(truth == c, scores[:, c]) for c in present] if several else [math.nan]
    figures = {
        "accuracy": peer.accuracy_score(truth, called),
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": peer.f1_score(truth, called, labels=present, average="macro", zero_division=0),
        "mcc": peer.matthews_corrcoef(truth, called) if several else math.nan,
        "auroc": np.mean(aurocs),
        "brier": np.mean(((scores - np.eye(count)[truth]) ** 2).sum(axis=1)) / (2 if count == 2 else 1),
        "log_loss": peer.log_loss(truth, scores, labels=range(count)),
        "ece": expected_ece(predictions),
        "sensitivity": math.nan,
        "specificity": math.nan,
    }
    if count == 2:
        positive = predictions.classes.index(predictions.positive or "")
        figures["auroc"] = peer.roc_auc_score(truth == positive, scores[:, positive]) if several else math.nan
        for name, c in (("sensitivity", positive), ("specificity", 1 - positive)):
            if c in present:
                figures[name] = peer.recall_score(truth, called, pos_label=c, zero_division=0)
    return {name: float(figure) for name, figure in figures.items()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [None, 1])
@pytest.mark.parametrize(
    ("class_count", "present"), [(2, None), (2, [0]), (2, [1]), (5, None), (5, [0, 2, 4]), (5, [3]), (10, None)]
)
def test_every_metric_equals_scikit_learn(
    draw_predictions: Draw, class_count: int, present: list[int] | None, steps: int | None, seed: int
) -> None:
    predictions = draw_predictions(seed=seed, n=40, class_count=class_count, present=present, steps=steps)
    assert plain(predictions) == pytest.approx(expected(predictions), nan_ok=True, abs=1e-12)


def test_binary_brier_is_scikit_learns_and_multiclass_brier_too(draw_predictions: Draw) -> None:
    two, five = draw_predictions(), draw_predictions(class_count=5)
    assert plain(two)["brier"] == pytest.approx(peer.brier_score_loss(two.labels == 0, two.probabilities[:, 0]))
    assert plain(five)["brier"] == pytest.approx(
        peer.brier_score_loss(five.labels, five.probabilities, labels=list(range(5)))
    )


def test_hand_counted_binary_case() -> None:
    # True A A A B B; called A A B B A. Pairs (A, B) by score of A: .9 .6 .3 against .3 .7 → 1 + .5 of tie, …
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=np.array([0, 0, 0, 1, 1]),
        probabilities=np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.3, 0.7], [0.7, 0.3]]),
        groups=tuple("abcde"),
        groups_source="given",
    )
    figures = plain(predictions)
    assert figures["accuracy"] == 3 / 5
    assert figures["sensitivity"] == 2 / 3
    assert figures["specificity"] == 1 / 2
    assert figures["balanced_accuracy"] == pytest.approx(7 / 12)
    assert figures["auroc"] == pytest.approx((2 + 1 + 0.5) / 6)
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["mcc"] == pytest.approx(1 / 6)
    assert figures["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.09 + 0.49) / 5)
    assert figures["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.7, 0.3]).mean())
    # Bins of width 1/15: .6 | .7 .7 .7 | .9, with hits 1 | 0 1 0 | 1.
    assert figures["ece"] == pytest.approx((0.4 + abs(3 * 0.7 - 1) + 0.1) / 5)
    assert confusion(predictions).tolist() == [[2, 1], [1, 1]]


def test_sensitivity_follows_the_positive_class_and_is_undefined_without_one(draw_predictions: Draw) -> None:
    given_a = draw_predictions()
    shared = {"classes": given_a.classes, "labels": given_a.labels, "probabilities": given_a.probabilities}
    given_b = Predictions(**shared, positive="B", groups=given_a.groups, groups_source="given")
    nothing = Predictions(**shared, positive=None, groups=given_a.groups, groups_source="given")
    assert plain(given_a)["sensitivity"] == plain(given_b)["specificity"]
    assert math.isnan(plain(nothing)["sensitivity"])
    assert plain(nothing)["auroc"] == pytest.approx(plain(given_a)["auroc"], abs=1e-12)


def test_one_class_called_for_all_gives_chance_not_undefined() -> None:
    predictions = Predictions(
        classes=("A", "B", "C"),
        positive=None,
        labels=np.array([0, 1, 2, 1]),
        probabilities=np.tile([0.2, 0.5, 0.3], (4, 1)),
        groups=tuple("abcd"),
        groups_source="given",
    )
    figures = plain(predictions)
    assert figures["mcc"] == 0
    assert figures["auroc"] == 0.5


def test_certain_and_wrong_costs_a_bounded_log_loss() -> None:
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=np.array([0]),
        probabilities=np.array([[0.0, 1.0]]),
        groups=("a",),
        groups_source="given",
    )
    assert plain(predictions)["log_loss"] == pytest.approx(52 * math.log(2))


@st.composite
def weighted_predictions(draw: st.DrawFn) -> tuple[Predictions, np.ndarray]:
    """Draw predictions whose groups cut across classes, with integer weights of groups, some zero."""
    class_count = draw(st.integers(2, 4))
    n = draw(st.integers(2, 14))
    labels = draw(st.lists(st.integers(0, class_count - 1), min_size=n, max_size=n))
    parts = draw(
        st.lists(
            st.lists(st.integers(1, 4), min_size=class_count, max_size=class_count),
            min_size=n,
            max_size=n,
        )
    )
    groups = draw(st.lists(st.sampled_from("vwxyz"), min_size=n, max_size=n))
    predictions = Predictions(
        classes=tuple("ABCD"[:class_count]),
        positive="B" if class_count == 2 else None,
        labels=np.array(labels),
        probabilities=np.array([np.array(row) / sum(row) for row in parts]),
        groups=tuple(groups),
        groups_source="given",
    )
    weights = draw(
        st.lists(st.integers(0, 3), min_size=len(set(groups)), max_size=len(set(groups))).filter(lambda w: sum(w) > 0)
    )
    return predictions, np.array(weights)


@settings(max_examples=150, deadline=None)
@given(weighted_predictions())
def test_integer_weights_are_repeated_images(drawn: tuple[Predictions, np.ndarray]) -> None:
    predictions, weights = drawn
    group_of, _ = predictions.group_indices()
    repeated = np.repeat(np.arange(predictions.image_count), weights[group_of])
    again = Predictions(
        classes=predictions.classes,
        positive=predictions.positive,
        labels=predictions.labels[repeated],
        probabilities=predictions.probabilities[repeated],
        groups=tuple(predictions.groups[i] for i in repeated),
        groups_source="given",
    )
    weighted = metric_figures(predictions, np.stack([np.ones_like(weights), weights]))
    assert {name: figures[1] for name, figures in weighted.items()} == pytest.approx(
        plain(again), nan_ok=True, abs=1e-12
    )
    assert plain(again) == pytest.approx(expected(again), nan_ok=True, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(weighted_predictions())
def test_figures_stay_in_their_range_or_are_undefined(drawn: tuple[Predictions, np.ndarray]) -> None:
    for name, figure in plain(drawn[0]).items():
        metric = METRICS[name]
        assert math.isnan(figure) or metric.least - 1e-12 <= figure <= metric.most + 1e-12
        assert name == metric.name
        if metric.two_classes_only and len(drawn[0].classes) > 2:
            assert math.isnan(figure)


@settings(max_examples=60, deadline=None)
@given(weighted_predictions())
def test_the_order_of_images_does_not_matter(drawn: tuple[Predictions, np.ndarray]) -> None:
    predictions = drawn[0]
    order = np.arange(predictions.image_count)[::-1]
    turned = Predictions(
        classes=predictions.classes,
        positive=predictions.positive,
        labels=predictions.labels[order],
        probabilities=predictions.probabilities[order],
        groups=tuple(predictions.groups[i] for i in order),
        groups_source="given",
    )
    assert plain(turned) == pytest.approx(plain(predictions), nan_ok=True, abs=1e-12)


def test_unknown_metrics_and_wrong_weights_are_refused(draw_predictions: Draw) -> None:
    with pytest.raises(ValueError, match=r"'acuracy'; known: accuracy"):
        metric_figures(draw_predictions(), names=["acuracy"])
    with pytest.raises(ValueError, match=r"weights must be \(R, 24\)"):
        metric_figures(draw_predictions(groups_per_class=12), np.ones((3, 5), dtype=int))


def test_the_names_are_those_that_reports_promise() -> None:
    assert list(METRICS) == [
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "mcc",
        "auroc",
        "sensitivity",
        "specificity",
        "brier",
        "ece",
        "log_loss",
    ]


# ------------------------------------------------------------------------------------------------------- one class each


@pytest.mark.parametrize("seed", range(4))
def test_per_class_figures_equal_scikit_learn(draw_predictions: Draw, seed: int) -> None:
    predictions = draw_predictions(seed=seed, class_count=5, present=[0, 1, 3])
    truth, called = predictions.labels, predictions.predicted
    precision, recall, f1, support = peer.precision_recall_fscore_support(
        truth, called, labels=range(5), zero_division=np.nan
    )
    for c, (name, figures) in enumerate(per_class(predictions).items()):
        assert figures.support == support[c]
        if c in (2, 4):
            assert (name, figures.precision, figures.recall, figures.f1, figures.auroc) == (
                name,
                None,
                None,
                None,
                None,
            )
            assert (figures.support, figures.groups) == (0, 0)
        else:
            assert figures.precision == pytest.approx(precision[c])
            assert figures.recall == pytest.approx(recall[c])
            assert figures.f1 == pytest.approx(f1[c])
            assert figures.auroc == pytest.approx(peer.roc_auc_score(truth == c, predictions.probabilities[:, c]))
    assert confusion(predictions).tolist() == peer.confusion_matrix(truth, called, labels=range(5)).tolist()


def test_a_class_never_called_has_no_precision_but_an_f1_of_zero() -> None:
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=np.array([0, 1]),
        probabilities=np.array([[0.9, 0.1], [0.8, 0.2]]),
        groups=("a", "b"),
        groups_source="given",
    )
    figures = per_class(predictions)["B"]
    assert (figures.precision, figures.recall, figures.f1) == (None, 0, 0)


def test_the_only_class_has_recall_but_no_auroc(draw_predictions: Draw) -> None:
    figures = per_class(draw_predictions(class_count=3, present=[1]))
    assert figures["B"].recall is not None
    assert [f.auroc for f in figures.values()] == [None, None, None]
