from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leukemia_cli.judging.comparison import (
    compare_pairs,
    holm,
    independent_difference,
    mcnemar_exact,
    paired_difference,
    sign_flip,
)
from leukemia_cli.judging.intervals import (
    Spread,
    degrees_of_freedom,
    group_bootstrap,
    left_out_figures,
    resamples_of,
    standard_error,
    strata_of,
    t_interval,
)
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
    spread = Spread(
        draws=metric_figures(a, weights, [metric])[metric] - metric_figures(b, weights, [metric])[metric],
        left_out=left_out_figures(a, [metric])[metric] - left_out_figures(b, [metric])[metric],
        strata=strata_of(a),
    )
    whole = METRICS[metric].most - METRICS[metric].least
    error, freedom = standard_error(spread), degrees_of_freedom(spread)
    ends = t_interval(difference.value or 0, error, freedom, level=0.95, least=-whole, most=whole)
    assert (difference.low, difference.high) == pytest.approx(ends)
    values = [group_bootstrap(p, resamples=1)[metric].value for p in (a, b)]
    assert values[0] is not None and values[1] is not None
    assert difference.value == pytest.approx(values[0] - values[1])
    assert (difference.metric, difference.n, difference.groups) == (metric, 120, a.group_indices()[1])
    assert difference.method.startswith("paired group bootstrap")


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_does_not_differ_from_itself(draw_predictions: Draw, metric: str) -> None:
    a = draw_predictions()
    difference = paired_difference(a, a, metric, resamples=100)
    assert difference.value == 0
    if metric == "log_loss":
        assert (difference.low, difference.high) == (None, None)
        assert difference.method == "no interval: all groups agree, and the figure has no bounds"
    else:
        # 12 groups a class in which two models agree do not show that they agree in all.
        reach = (METRICS[metric].most - METRICS[metric].least) * (1 - 0.025 ** (1 / 12))
        assert (difference.low, difference.high) == pytest.approx((-reach, reach))


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


# ---------------------------------------------------------------------------------- other images


def test_sides_with_other_images_are_drawn_apart(draw_predictions: Draw) -> None:
    a, b = draw_predictions(n=400, groups_per_class=20), draw_predictions(seed=1, n=300, groups_per_class=15, signal=2)
    difference = independent_difference(a, b, "accuracy", resamples=4000)
    values = [metric_figures(side, names=["accuracy"])["accuracy"][0] for side in (a, b)]
    assert difference.value == pytest.approx(values[0] - values[1])
    assert (difference.n, difference.groups) == (700, 70)
    assert difference.method.startswith("independent group bootstrap (95 % t interval on the log-odds scale, ")
    assert difference.low is not None and difference.high is not None
    # The variances of the two sides add up; so near zero the log-odds scale is almost straight.
    errors, freedoms = [], []
    for side in (a, b):
        weights = np.concatenate(list(resamples_of(side, resamples=4000, seed=9)))
        spread = Spread(
            draws=metric_figures(side, weights, ["accuracy"])["accuracy"],
            left_out=left_out_figures(side, ["accuracy"])["accuracy"],
            strata=strata_of(side),
        )
        errors.append(standard_error(spread))
        freedoms.append(degrees_of_freedom(spread))
    half = (difference.high - difference.low) / 2
    narrow, wide = (stats.t.ppf(0.975, freedom) * math.hypot(*errors) for freedom in (sum(freedoms), min(freedoms)))
    assert 0.97 * narrow < half < 1.03 * wide


def test_the_same_images_twice_are_not_drawn_together(draw_predictions: Draw) -> None:
    a = draw_predictions()
    difference = independent_difference(a, a, "auroc", resamples=500)
    single = group_bootstrap(a, resamples=500)["auroc"]
    assert difference.low is not None and difference.high is not None
    assert single.low is not None and single.high is not None
    assert difference.value == 0
    assert difference.high - difference.low > 1.2 * (single.high - single.low)


def test_either_side_may_refuse_and_classes_must_be_the_same(draw_predictions: Draw) -> None:
    a, few = draw_predictions(), draw_predictions(groups_per_class=3)
    for left, right in ((a, few), (few, a)):
        difference = independent_difference(left, right, "accuracy")
        assert (difference.low, difference.high) == (None, None)
        assert difference.method == "no interval: class A has 3 groups, fewer than 5"
    assert independent_difference(a, draw_predictions(present=[0]), "auroc").method == "undefined for these images"
    with pytest.raises(ValueError, match="cannot pair classes"):
        independent_difference(a, draw_predictions(class_count=3), "accuracy")


def test_each_side_says_how_it_was_drawn(draw_predictions: Draw) -> None:
    a, b = draw_predictions(), draw_predictions(seed=1, groups_source="none")
    method = independent_difference(a, b, "accuracy", resamples=50).method
    assert method.startswith("independent group bootstrap against image bootstrap, groups unknown: optimistic (95 %")


# ---------------------------------------------------------------------------------- tests


def right_where(right: np.ndarray[Any, Any], groups: list[str], source: str = "given") -> Predictions:
    labels = np.arange(right.size) % 2
    return Predictions(
        classes=("A", "B"),
        positive="A",
        labels=labels,
        probabilities=np.eye(2)[np.where(right, labels, 1 - labels)],
        groups=tuple(groups),
        groups_source=source,
    )


def test_the_sign_flip_of_darwins_maize() -> None:
    # Fisher 1935, section 21: of 2¹⁵ sums of the 15 differences, in eighths of an inch, 863 are 314 or greater.
    differences = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    places = np.tile(np.arange(75), 15)
    sizes = np.repeat(differences, 75)
    groups = [f"pot {i // 75:02}" for i in range(places.size)]
    a, b = right_where(places < sizes, groups), right_where(places < -sizes, groups)
    test = sign_flip(a, b, "accuracy", flips=2**15)
    assert test.p == 2 * 863 / 2**15
    assert test.test == "sign-flip over 15 groups, all 32768 exchanges"
    drawn = sign_flip(a, b, "accuracy", flips=2**15 - 1)
    assert drawn.p == pytest.approx(0.0527, abs=0.005)
    assert drawn.test == "sign-flip over 15 groups, 32767 random exchanges"


@pytest.mark.parametrize("metric", METRICS)
def test_every_exchange_equals_swapping_the_images(draw_predictions: Draw, metric: str) -> None:
    a = draw_predictions(n=40, groups_per_class=3, steps=2)
    b = noisier(a, share=0.9)
    names = sorted(set(a.groups))
    assert len(names) == 6

    def difference(swapped: tuple[bool, ...]) -> float:
        turned = np.array([swapped[names.index(group)] for group in a.groups])[:, None]
        left = altered(a, probabilities=np.where(turned, b.probabilities, a.probabilities))
        right = altered(a, probabilities=np.where(turned, a.probabilities, b.probabilities))
        return float(metric_figures(left, names=[metric])[metric][0] - metric_figures(right, names=[metric])[metric][0])

    observed = abs(difference((False,) * 6))
    as_great = [abs(difference(s)) >= observed - 1e-12 for s in itertools.product([False, True], repeat=6)]
    assert sign_flip(a, b, metric).p == sum(as_great) / 64


def test_the_seed_decides_on_the_random_exchanges(draw_predictions: Draw) -> None:
    a = draw_predictions()
    b = noisier(a)
    first, again, other = (sign_flip(a, b, "brier", flips=700, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.p is not None and first.p >= 1 / 701


def test_a_model_against_itself_is_no_surprise(draw_predictions: Draw) -> None:
    a = draw_predictions()
    assert sign_flip(a, a, "accuracy", flips=50).p == 1
    unknown = altered(a, groups_source="none")
    assert mcnemar_exact(unknown, unknown).p == 1


def test_what_is_undefined_has_no_p(draw_predictions: Draw) -> None:
    a = draw_predictions(class_count=3)
    test = sign_flip(a, noisier(a), "sensitivity", flips=10)
    assert (test.p, test.test) == (None, "no test: undefined for these images")


def test_each_test_is_refused_where_the_other_is_meant(draw_predictions: Draw) -> None:
    known, unknown = draw_predictions(), draw_predictions(groups_source="none")
    with pytest.raises(ValueError, match="see mcnemar_exact"):
        sign_flip(unknown, unknown, "accuracy")
    with pytest.raises(ValueError, match="see sign_flip"):
        mcnemar_exact(known, known)
    with pytest.raises(ValueError, match="got 0"):
        sign_flip(known, known, "accuracy", flips=0)
    with pytest.raises(ValueError, match="unknown metric 'f2'"):
        sign_flip(known, known, "f2")
    with pytest.raises(ValueError, match="image 0 is"):
        sign_flip(known, altered(known, labels=1 - known.labels), "accuracy")


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(1, 9, 22 / 1024), (9, 1, 22 / 1024), (4, 4, 1), (86, 150, None)])
def test_mcnemar_of_counts(only_a: int, only_b: int, p: float | None) -> None:
    # 86 against 150: approval of the prime minister, Agresti 1990, Categorical Data Analysis, table 10.1.
    right_a = np.repeat([True, False, True, False], [only_a, only_b, 30, 20])
    right_b = np.repeat([False, True, True, False], [only_a, only_b, 30, 20])
    test = mcnemar_exact(right_where(right_a, [], "none"), right_where(right_b, [], "none"))
    expected = stats.binomtest(only_a, only_a + only_b).pvalue
    assert test.p == pytest.approx(expected if p is None else p)
    assert f"optimistic ({only_a} images against {only_b})" in test.test


def test_holm_of_a_worked_example() -> None:
    # As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives them.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.01, None, 0.04, 0.03, None, 0.005]) == pytest.approx((0.03, None, 0.06, 0.06, None, 0.02))
    assert holm([]) == ()
    assert holm([None]) == (None,)
    with pytest.raises(ValueError, match=r"1\.5"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_step_by_step(p_values: list[float], alpha: float) -> None:
    # The procedure as Holm wrote it: reject the smallest while each is at most alpha over those that are left.
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - rank) > alpha:
            break
        rejected.add(place)
    adjusted = holm(p_values)
    assert {place for place, p in enumerate(adjusted) if p is not None and p <= alpha} == rejected
    assert all(p is not None and p >= raw for p, raw in zip(adjusted, p_values, strict=True))


# ---------------------------------------------------------------------------------- every two models


def test_every_pair_is_compared_by_every_metric(draw_predictions: Draw) -> None:
    a = draw_predictions(class_count=3)
    named = {"one": a, "two": noisier(a), "three": noisier(a, 0.9)}
    contrasts = compare_pairs(named, ("accuracy", "brier"), resamples=150, seed=3, flips=300)
    pairs = [("one", "two"), ("one", "three"), ("two", "three")]
    assert [(c.a, c.b, c.difference.metric) for c in contrasts] == [
        (*pair, metric) for pair in pairs for metric in ("accuracy", "brier")
    ]
    for c in contrasts:
        left, right, metric = named[c.a], named[c.b], c.difference.metric
        assert c.difference == paired_difference(left, right, metric, resamples=150, seed=3)
        test = sign_flip(left, right, metric, flips=300, seed=3)
        assert (c.p, c.test) == (test.p, test.test)
    assert tuple(c.p_holm for c in contrasts) == holm([c.p for c in contrasts])


def test_without_groups_accuracy_alone_is_tested_and_counted_once(draw_predictions: Draw) -> None:
    a = draw_predictions(groups_source="none")
    b = noisier(a)
    contrasts = compare_pairs({"one": a, "two": b}, resamples=50)
    assert [c.difference.metric for c in contrasts] == ["balanced_accuracy", "macro_f1", "accuracy"]
    exact = mcnemar_exact(a, b)
    assert [(c.p, c.p_holm) for c in contrasts] == [(None, None), (None, None), (exact.p, exact.p)]
    assert contrasts[2].test == exact.test
    assert contrasts[0].test.startswith("not tested")
    assert contrasts[0].difference.method.startswith("paired image bootstrap, groups unknown: optimistic")


def test_one_model_has_no_pairs_and_other_images_no_comparison(draw_predictions: Draw) -> None:
    a = draw_predictions()
    assert compare_pairs({"one": a}) == ()
    with pytest.raises(ValueError, match="cannot pair 120 images with 119"):
        compare_pairs({"one": a, "two": draw_predictions(n=119)})
