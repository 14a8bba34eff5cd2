from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from leukemia_cli.judging.comparison import paired_difference
from leukemia_cli.judging.intervals import group_bootstrap, resamples_of
from leukemia_cli.judging.metrics import METRICS, metric_figures
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def altered(predictions: Predictions, **changed: Any) -> Predictions:
    names = ("classes", "positive", "labels", "probabilities", "groups", "groups_source")
    return Predictions(**{name: changed.get(name, getattr(predictions, name)) for name in names})


def noisier(predictions: Predictions, share: float = 0.3) -> Predictions:
    uniform = np.full_like(predictions.probabilities, 1 / len(predictions.classes))
    random = np.random.default_rng(5).dirichlet(np.ones(len(predictions.classes)), size=predictions.image_count)
    return altered(
        predictions, probabilities=(1 - share) * predictions.probabilities + share * (0.5 * random + 0.5 * uniform)
    )


@pytest.mark.parametrize("metric", ["accuracy", "auroc", "log_loss"])
@pytest.mark.parametrize("class_count", [2, 4])
def test_the_difference_is_taken_resample_by_resample(draw_predictions: Draw, metric: str, class_count: int) -> None:
    a = draw_predictions(class_count=class_count)
    b = noisier(a)
    difference = paired_difference(a, b, metric, resamples=200, seed=3)
    weights = np.concatenate(list(resamples_of(a, resamples=200, seed=3)))
    draws = metric_figures(a, weights, [metric])[metric] - metric_figures(b, weights, [metric])[metric]
    assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    values = [group_bootstrap(p, resamples=1)[metric].value for p in (a, b)]
    assert values[0] is not None and values[1] is not None
    assert difference.value == pytest.approx(values[0] - values[1])
    assert (difference.metric, difference.n, difference.groups) == (metric, 120, a.group_indices()[1])
    assert difference.method.startswith("paired group bootstrap")


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_does_not_differ_from_itself(draw_predictions: Draw, metric: str) -> None:
    a = draw_predictions()
    difference = paired_difference(a, a, metric, resamples=100)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_turning_the_sides_turns_the_sign(draw_predictions: Draw) -> None:
    a = draw_predictions(class_count=3)
    b = noisier(a)
    forth, back = paired_difference(a, b, "brier", resamples=300), paired_difference(b, a, "brier", resamples=300)
    assert forth.low is not None and forth.high is not None
    assert (back.value, back.low, back.high) == pytest.approx((-(forth.value or 0), -forth.high, -forth.low))


def test_pairing_is_narrower_than_two_intervals(draw_predictions: Draw) -> None:
    a = draw_predictions(n=300)
    b = noisier(a)
    paired = paired_difference(a, b, "auroc", resamples=500)
    single = group_bootstrap(a, resamples=500)["auroc"]
    assert paired.low is not None and paired.high is not None and single.low is not None and single.high is not None
    assert paired.high - paired.low < single.high - single.low


def test_too_few_groups_and_undefined_metrics_have_no_interval(draw_predictions: Draw) -> None:
    a = draw_predictions(groups_per_class=3)
    difference = paired_difference(a, noisier(a), "accuracy")
    assert difference.value is not None
    assert (difference.low, difference.high) == (None, None)
    assert difference.method == "no interval: class A has 3 groups, fewer than 5"
    five = draw_predictions(class_count=5)
    assert paired_difference(five, five, "sensitivity").value is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("A", "C")}, "cannot pair classes"),
        ({"positive": "B"}, "positive B"),
        ({"labels": "flip"}, "image 0 is"),
        ({"groups": "other"}, "'elsewhere' on the other"),
        ({"groups_source": "none"}, "one side only"),
    ],
)
def test_other_images_cannot_be_paired(draw_predictions: Draw, changed: dict[str, Any], said: str) -> None:
    a = draw_predictions()
    if changed == {"labels": "flip"}:
        changed = {"labels": 1 - a.labels}
    if changed == {"groups": "other"}:
        changed = {"groups": (*a.groups[:-1], "elsewhere")}
    with pytest.raises(ValueError, match=said):
        paired_difference(a, altered(a, **changed), "accuracy")


def test_other_numbers_of_images_and_unknown_metrics_are_refused(draw_predictions: Draw) -> None:
    with pytest.raises(ValueError, match="cannot pair 120 images with 119"):
        paired_difference(draw_predictions(), draw_predictions(n=119), "accuracy")
    with pytest.raises(ValueError, match="unknown metric 'f2'"):
        paired_difference(draw_predictions(), draw_predictions(), "f2")
