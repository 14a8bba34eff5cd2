from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from leukemia_cli.judging.intervals import (
    Interval,
    Spread,
    bootstrap_draws,
    clopper_pearson,
    degrees_of_freedom,
    group_bootstrap,
    interval_of,
    left_out_figures,
    refusal,
    resamples_of,
    spreads_of,
    standard_error,
    strata_of,
    t_interval,
    unanimous_interval,
)
from leukemia_cli.judging.metrics import METRICS, metric_figures
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def one_group_each(labels: list[int], groups: list[str], class_count: int, source: str = "given") -> Predictions:
    random = np.random.default_rng(3)
    probabilities = random.dirichlet(np.ones(class_count), size=len(labels))
    return Predictions(
        classes=tuple("ABCDE"[:class_count]),
        positive="A" if class_count == 2 else None,
        labels=np.array(labels),
        probabilities=probabilities,
        groups=tuple(groups),
        groups_source=source,
    )


@pytest.mark.parametrize("class_count", [2, 5])
def test_draws_equal_slow_copies_of_the_same_resampled_groups(draw_predictions: Draw, class_count: int) -> None:
    predictions = draw_predictions(class_count=class_count, steps=2, groups_per_class=6)
    draws = bootstrap_draws(predictions, METRICS, resamples=130, seed=7)
    weights = np.concatenate(list(resamples_of(predictions, resamples=130, seed=7)))
    assert weights.shape == (130, predictions.group_indices()[1])
    names = sorted(set(predictions.groups))
    for r in range(0, 130, 13):
        images = [
            i
            for name, times in zip(names, weights[r], strict=True)
            for _ in range(times)
            for i, group in enumerate(predictions.groups)
            if group == name
        ]
        copied = Predictions(
            classes=predictions.classes,
            positive=predictions.positive,
            labels=predictions.labels[images],
            probabilities=predictions.probabilities[images],
            groups=tuple(predictions.groups[i] for i in images),
            groups_source="given",
        )
        slow = {name: figures[0] for name, figures in metric_figures(copied).items()}
        assert {name: figures[r] for name, figures in draws.items()} == pytest.approx(slow, nan_ok=True, abs=1e-12)


def test_every_resample_keeps_the_number_of_groups_of_each_stratum(draw_predictions: Draw) -> None:
    predictions = draw_predictions(class_count=3, pure_groups=False, groups_per_class=15)
    strata = strata_of(predictions)
    weights = np.concatenate(list(resamples_of(predictions, resamples=250, seed=0)))
    assert weights.shape[0] == 250
    for c in range(3):
        assert (weights[:, strata == c].sum(axis=1) == (strata == c).sum()).all()
    assert (weights > 1).any()
    assert (weights == 0).any()


def test_groups_are_drawn_equally_often() -> None:
    predictions = one_group_each([0] * 8 + [1] * 8, list("abcdefghijklmnop"), 2)
    weights = np.concatenate(list(resamples_of(predictions, resamples=4000, seed=1)))
    assert weights.mean(axis=0) == pytest.approx(np.ones(16), abs=0.07)


def test_a_mixed_group_lies_in_the_stratum_of_its_majority_and_ties_go_by_class_order() -> None:
    predictions = one_group_each([0, 1, 1, 2, 1, 2], ["x", "x", "x", "y", "y", "z"], 3)
    assert strata_of(predictions).tolist() == [1, 1, 2]


def test_same_seed_same_interval_other_seed_another(draw_predictions: Draw) -> None:
    predictions = draw_predictions(class_count=3)
    assert group_bootstrap(predictions, seed=4, resamples=300) == group_bootstrap(predictions, seed=4, resamples=300)
    assert group_bootstrap(predictions, seed=4, resamples=300) != group_bootstrap(predictions, seed=5, resamples=300)


def test_fewer_resamples_are_the_first_of_more(draw_predictions: Draw) -> None:
    predictions = draw_predictions()
    few = bootstrap_draws(predictions, ["accuracy"], resamples=130, seed=0)["accuracy"]
    many = bootstrap_draws(predictions, ["accuracy"], resamples=300, seed=0)["accuracy"]
    assert few.tolist() == many[:130].tolist()


def test_interval_does_not_depend_on_the_order_of_images(draw_predictions: Draw) -> None:
    predictions = draw_predictions()
    order = np.random.default_rng(0).permutation(predictions.image_count)
    turned = Predictions(
        classes=predictions.classes,
        positive=predictions.positive,
        labels=predictions.labels[order],
        probabilities=predictions.probabilities[order],
        groups=tuple(predictions.groups[i] for i in order),
        groups_source="given",
    )
    left, right = (group_bootstrap(p, resamples=200)["auroc"] for p in (predictions, turned))
    assert (left.low, left.high) == pytest.approx((right.low, right.high))


def test_every_estimate_carries_its_counts_and_ends_around_its_value(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=300, class_count=5, groups_per_class=10)
    estimates = group_bootstrap(predictions)
    assert list(estimates) == list(METRICS)
    for name, estimate in estimates.items():
        assert (estimate.n, estimate.groups) == (300, predictions.group_indices()[1])
        if name in ("sensitivity", "specificity"):
            assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
            assert estimate.method == "undefined beyond two classes"
        else:
            assert estimate.value is not None and estimate.low is not None and estimate.high is not None
            assert estimate.low < estimate.high
            scale = "log" if name == "log_loss" else "log-odds"
            assert estimate.method.startswith(f"group bootstrap (95 % t interval on the {scale} scale, ")
            assert estimate.method.endswith(" scale, 2000 resamples)")
            assert estimate.freedom is not None and 1 <= estimate.freedom <= estimate.groups
            assert METRICS[name].least <= estimate.low < estimate.value < estimate.high <= METRICS[name].most


def test_a_wider_level_gives_a_wider_interval(draw_predictions: Draw) -> None:
    narrow, wide = (group_bootstrap(draw_predictions(), level=level)["accuracy"] for level in (0.5, 0.99))
    assert wide.low is not None and narrow.low is not None and wide.low < narrow.low
    assert "99 %" in wide.method


def test_whole_groups_give_wider_intervals_than_single_images() -> None:
    # Ten groups of ten images; all images of a group are told right or all wrong.
    labels = np.repeat([0, 1], 50)
    right = np.repeat(np.tile([1, 1, 1, 0, 0], 4), 5)
    called = np.where(right == 1, labels, 1 - labels)
    facts = {
        "classes": ("A", "B"),
        "positive": "A",
        "labels": labels,
        "probabilities": np.eye(2)[called],
        "groups": tuple(f"g{i // 5}" for i in range(100)),
    }
    grouped = group_bootstrap(Predictions(**facts, groups_source="given"))["accuracy"]
    single = group_bootstrap(Predictions(**facts, groups_source="none"))["accuracy"]
    assert grouped.low is not None and grouped.high is not None and single.low is not None and single.high is not None
    assert grouped.high - grouped.low > 1.7 * (single.high - single.low)
    assert (grouped.groups, single.groups) == (20, 100)


def test_unknown_groups_are_said_to_be_optimistic(draw_predictions: Draw) -> None:
    for name, estimate in group_bootstrap(draw_predictions(groups_source="none"), resamples=100).items():
        exact = name in ("accuracy", "sensitivity", "specificity")
        said = "Clopper–Pearson" if exact else "image bootstrap"
        assert estimate.method.startswith(f"{said}, groups unknown: optimistic"), name
    assert "proposed" in group_bootstrap(draw_predictions(groups_source="proposed"), resamples=100)["accuracy"].method


def test_shares_of_images_without_groups_have_exact_intervals(draw_predictions: Draw) -> None:
    predictions = draw_predictions(groups_source="none")
    estimates, right = group_bootstrap(predictions, resamples=10), predictions.predicted == predictions.labels
    for name, among in (
        ("accuracy", np.ones(120, dtype=bool)),
        ("sensitivity", predictions.labels == 0),
        ("specificity", predictions.labels == 1),
    ):
        peer = stats.binomtest(int(right[among].sum()), int(among.sum())).proportion_ci(method="exact")
        assert (estimates[name].low, estimates[name].high) == pytest.approx((peer.low, peer.high))
        assert f"{right[among].sum()} of {among.sum()} images" in estimates[name].method


# ---------------------------------------------------------------------------------- no interval


def test_no_interval_where_a_present_class_has_few_groups() -> None:
    predictions = one_group_each([0] * 8 + [1] * 8, list("abcdefgh") + list("xxxxyyyy"), 2)
    for name, estimate in group_bootstrap(predictions).items():
        assert (estimate.low, estimate.high) == (None, None), name
        assert estimate.value is not None
        assert estimate.method == "no interval: class B has 2 groups, fewer than 5"


def test_five_groups_are_enough_and_an_absent_class_does_not_count() -> None:
    predictions = one_group_each([0] * 5 + [1] * 5, list("abcdefghij"), 3)
    assert refusal(predictions) is None
    assert group_bootstrap(predictions)["accuracy"].low is not None


def test_no_interval_where_a_stratum_has_few_groups_though_its_class_has_many() -> None:
    # B is in ten groups but leads in one.
    labels = [0, 0, 1] * 9 + [1, 1]
    groups = [f"g{i // 3:02}" for i in range(27)] + ["z", "z"]
    assert refusal(one_group_each(labels, groups, 2)) == "no interval: class B leads in 1 group, fewer than 5"


def test_few_images_refuse_too_where_groups_are_unknown() -> None:
    predictions = one_group_each([0] * 8 + [1], [], 2, source="none")
    assert refusal(predictions) == "no interval: class B has 1 image, fewer than 5"


def seldom_lost() -> Predictions:
    """Let B lead nowhere and lie in 5 of 40 groups, so that a share of about e⁻⁵ of the resamples loses it."""
    groups = [f"g{i // 3:02}" for i in range(15)] + [f"h{i:02}" for i in range(35)]
    return one_group_each([0, 0, 1] * 5 + [0] * 35, groups, 2)


def test_resamples_that_lose_a_class_are_undefined_for_every_metric() -> None:
    draws = bootstrap_draws(seldom_lost(), ["accuracy", "balanced_accuracy"], resamples=2000, seed=0)
    lost = np.isnan(draws["accuracy"])
    assert 0 < lost.mean() < 0.05
    assert (lost == np.isnan(draws["balanced_accuracy"])).all()
    assert group_bootstrap(seldom_lost())["auroc"].low is not None


def spread(draws: ArrayLike, left_out: ArrayLike, strata: ArrayLike | None = None) -> Spread:
    left = np.asarray(left_out, dtype=np.float64)
    return Spread(
        draws=np.asarray(draws, dtype=np.float64),
        left_out=left,
        strata=np.zeros(left.size, dtype=np.int64) if strata is None else np.asarray(strata),
    )


def share_interval(value: float, of: Spread, level: float = 0.95) -> Interval:
    return interval_of(value, of, level=level, least=0, most=1, drawn="drawn")


@pytest.mark.parametrize(("undefined", "share"), [(6, "6 %"), (100, "100 %")])
def test_no_interval_where_many_resamples_are_undefined(undefined: int, share: str) -> None:
    draws = np.where(np.arange(100) < undefined, np.nan, 0.5 + np.arange(100) / 1000)
    interval = share_interval(0.55, spread(draws, np.linspace(0.54, 0.56, 10)))
    assert (interval.low, interval.high) == (None, None)
    assert interval.method == f"no interval: undefined in {share} of resamples, more than 5 %"


def test_up_to_one_in_twenty_resamples_may_be_undefined() -> None:
    draws = np.where(np.arange(100) < 5, np.nan, 0.5 + np.arange(100) / 1000)
    left_out = np.linspace(0.54, 0.56, 10)
    without = share_interval(0.55, spread(draws[5:], left_out))
    interval = share_interval(0.55, spread(draws, left_out))
    assert without.low is not None
    assert (interval.low, interval.high) == (without.low, without.high)


def test_no_interval_where_the_figure_needs_one_group() -> None:
    interval = share_interval(0.55, spread([0.5, 0.6], [0.5, 0.5, np.nan]))
    assert (interval.low, interval.method) == (None, "no interval: undefined without one of the groups")


def test_one_resample_is_too_few(draw_predictions: Draw) -> None:
    estimate = group_bootstrap(draw_predictions(), resamples=1)["accuracy"]
    assert (estimate.low, estimate.high) == (None, None)
    assert estimate.method == "no interval: the resamples are too few to vary (1)"


def test_one_class_alone_has_no_auroc_and_says_why() -> None:
    estimates = group_bootstrap(one_group_each([0] * 8, list("abcdefgh"), 2), resamples=100)
    for name in ("auroc", "mcc", "specificity"):
        assert estimates[name].value is None
        assert estimates[name].method == "undefined: every image is of class A"
    assert estimates["sensitivity"].value is not None


def test_perfect_predictions_are_not_called_certain() -> None:
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=np.array([0, 1] * 10),
        probabilities=np.eye(2)[[0, 1] * 10],
        groups=tuple("abcdefghijklmnopqrst"),
        groups_source="given",
    )
    estimates = group_bootstrap(predictions, resamples=100)
    # None of 10 patients failing leaves up to 30.85 % who might: a value of the tables of Clopper and Pearson.
    assert estimates["accuracy"].low == pytest.approx(1 - 0.3085, abs=5e-5)
    assert (estimates["accuracy"].value, estimates["accuracy"].high) == (1, 1)
    assert estimates["accuracy"].method == "group bootstrap: all agree, exact limit for 10 that do (95 %)"
    assert estimates["mcc"].low == pytest.approx(1 - 2 * 0.3085, abs=1e-4)
    assert estimates["brier"].high == pytest.approx(2 * 0.3085, abs=1e-4)
    assert (estimates["brier"].low, estimates["log_loss"].low) == (0, None)
    assert estimates["log_loss"].method == "no interval: all groups agree, and the figure has no bounds"


@pytest.mark.parametrize(("changed", "said"), [({"resamples": 0}, "got 0"), ({"level": 1.0}, "got 1.0")])
def test_nonsense_settings_are_refused(draw_predictions: Draw, changed: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        group_bootstrap(draw_predictions(), **changed)


# ---------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("hits", "total", "ends"),
    [(0, 10, (0, 0.3085)), (5, 10, (0.1871, 0.8129)), (10, 10, (0.6915, 1)), (1, 20, (0.0013, 0.2487))],
)
def test_exact_binomial_intervals_of_the_tables(hits: int, total: int, ends: tuple[float, float]) -> None:
    assert clopper_pearson(hits, total, level=0.95) == pytest.approx(ends, abs=5e-5)


@given(total=st.integers(1, 300), part=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_exact_binomial_intervals_are_those_of_scipy(total: int, part: float, level: float) -> None:
    hits = round(part * total)
    peer = stats.binomtest(hits, total).proportion_ci(confidence_level=level, method="exact")
    assert clopper_pearson(hits, total, level=level) == pytest.approx((peer.low, peer.high), abs=1e-9)


@given(groups=st.integers(5, 200), level=st.sampled_from([0.8, 0.95]))
def test_groups_that_all_agree_leave_what_the_exact_interval_leaves(groups: int, level: float) -> None:
    low, high = clopper_pearson(groups, groups, level=level)
    assert unanimous_interval(1, groups, level=level, least=0, most=1) == pytest.approx((low, high))
    assert unanimous_interval(0.5, groups, level=level, least=0, most=1) == pytest.approx((low / 2, 1 - low / 2))


@pytest.mark.parametrize("class_count", [2, 3])
def test_leaving_groups_out_equals_deleting_their_images(draw_predictions: Draw, class_count: int) -> None:
    predictions = draw_predictions(class_count=class_count, groups_per_class=60, n=300, steps=2)
    left_out, names = left_out_figures(predictions, METRICS), sorted(set(predictions.groups))
    assert len(names) > 100  # more than one block
    for g in range(0, len(names), 11):
        kept = [i for i, group in enumerate(predictions.groups) if group != names[g]]
        fewer = Predictions(
            classes=predictions.classes,
            positive=predictions.positive,
            labels=predictions.labels[kept],
            probabilities=predictions.probabilities[kept],
            groups=tuple(predictions.groups[i] for i in kept),
            groups_source="given",
        )
        slow = {name: figures[0] for name, figures in metric_figures(fewer).items()}
        assert {name: figures[g] for name, figures in left_out.items()} == pytest.approx(slow, nan_ok=True, abs=1e-12)


def test_the_standard_error_is_that_of_a_stratified_mean() -> None:
    # Ten images a group, 5 groups of A and 15 of B; the accuracy is a mean of group means, each stratum with its share.
    random = np.random.default_rng(2)
    right = [random.integers(3, 11, size=size) for size in (5, 15)]
    labels = np.repeat([0, 1], [50, 150])
    told = np.concatenate([np.arange(10) < count for side in right for count in side])
    predictions = Predictions(
        classes=("A", "B"),
        positive="A",
        labels=labels,
        probabilities=np.eye(2)[np.where(told, labels, 1 - labels)],
        groups=tuple(f"g{i // 10:02}" for i in range(200)),
        groups_source="given",
    )
    found = spreads_of(predictions, ["accuracy"], resamples=20000, seed=0)["accuracy"]
    parts = [(side.size / 20) ** 2 * np.var(side / 10, ddof=1) / side.size for side in right]
    assert standard_error(found) == pytest.approx(math.sqrt(sum(parts)), rel=0.02)


def test_degrees_of_freedom_count_the_groups_that_make_the_spread() -> None:
    alike = np.tile([0.4, 0.6], 10)
    assert degrees_of_freedom(spread([], alike)) == 19
    assert degrees_of_freedom(spread([], alike, np.arange(20) // 10)) == 18
    assert degrees_of_freedom(spread([], np.where(np.arange(1000) == 3, 0.4, 0.6))) == pytest.approx(1.5, rel=1e-2)
    two_of_many = np.where(np.arange(2000) % 1000 == 3, 0.4, 0.6)
    assert degrees_of_freedom(spread([], two_of_many, np.arange(2000) // 1000)) == pytest.approx(3, rel=1e-2)
    # By hand: deviations −0.2, 0, 0.2 have squares 0.04, 0, 0.04; 1.5 · 0.08² / (2 · 0.04²) = 3, but at most 3 − 1.
    assert degrees_of_freedom(spread([], [0.4, 0.6, 0.8])) == 2


def test_without_bounds_it_is_the_t_interval_of_a_mean() -> None:
    # Student's own data: extra hours of sleep of ten patients; 95 % interval 0.70 to 2.46 for the second drug less the first.
    gains = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    error = gains.std(ddof=1) / math.sqrt(10)
    low, high = t_interval(gains.mean(), error, 9, level=0.95)
    assert (low, high) == pytest.approx((0.70, 2.46), abs=5e-3)
    peer = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((peer.low, peer.high))


def test_with_bounds_it_is_the_t_interval_of_log_odds_or_of_the_log() -> None:
    t = stats.t.ppf(0.95, 7.5)
    ends = [1 / (1 + math.exp(-(math.log(9) + side * t * 0.05 / 0.09))) for side in (-1, 1)]
    assert t_interval(0.9, 0.05, 7.5, level=0.9, least=0, most=1) == pytest.approx(ends)
    assert t_interval(0.8, 0.1, 7.5, level=0.9, least=-1, most=1) == pytest.approx([2 * end - 1 for end in ends])
    logs = [0.3 * math.exp(side * t * 0.1 / 0.3) for side in (-1, 1)]
    assert t_interval(0.3, 0.1, 7.5, level=0.9, least=0) == pytest.approx(logs)
    with pytest.raises(ValueError, match="no scale for a range from -inf to 1"):
        t_interval(0.3, 0.1, 7.5, level=0.9, most=1)


@given(
    value=st.floats(-1, 1), error=st.floats(1e-9, 2), freedom=st.floats(1.5, 200), level=st.sampled_from([0.5, 0.95])
)
def test_an_interval_holds_its_value_keeps_its_range_and_can_be_mirrored(
    value: float, error: float, freedom: float, level: float
) -> None:
    low, high = t_interval(value, error, freedom, level=level, least=-1, most=1)
    assert -1 <= low <= value <= high <= 1
    mirrored = t_interval(-value, error, freedom, level=level, least=-1, most=1)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Groups of four images right with one chance each drawn around 0.75: the true accuracy is 0.75.
    random = np.random.default_rng(11)
    covered = 0
    for trial in range(150):
        chance = np.repeat(random.beta(3, 1, size=60), 4)
        labels = np.repeat([0, 1], 120)
        called = np.where(random.random(240) < chance, labels, 1 - labels)
        estimate = group_bootstrap(
            Predictions(
                classes=("A", "B"),
                positive="A",
                labels=labels,
                probabilities=np.eye(2)[called],
                groups=tuple(f"g{i // 4}" for i in range(240)),
                groups_source="given",
            ),
            resamples=200,
            seed=trial,
        )["accuracy"]
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 0.75 <= estimate.high
    assert 0.88 <= covered / 150 <= 0.99
