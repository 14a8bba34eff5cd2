from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from leukemia_cli.judging.intervals import (
    bootstrap_draws,
    group_bootstrap,
    interval_of,
    percentile_interval,
    refusal,
    resamples_of,
    strata_of,
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
            assert estimate.method.startswith("group bootstrap (95 % percentile, 2000 resamples)")
            if name not in ("ece",):  # resampling biases it upwards
                assert estimate.low < estimate.value < estimate.high


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
    estimate = group_bootstrap(draw_predictions(groups_source="none"), resamples=100)["accuracy"]
    assert estimate.method.startswith("image bootstrap, groups unknown: optimistic")
    assert "proposed" in group_bootstrap(draw_predictions(groups_source="proposed"), resamples=100)["accuracy"].method


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


@pytest.mark.parametrize(("undefined", "share"), [(6, "6 %"), (100, "100 %")])
def test_no_interval_where_many_resamples_are_undefined(undefined: int, share: str) -> None:
    draws = np.where(np.arange(100) < undefined, np.nan, 0.5 + np.arange(100) / 1000)
    interval = interval_of(seldom_lost(), 0.55, draws, level=0.95)
    assert (interval.low, interval.high) == (None, None)
    assert interval.method == f"no interval: undefined in {share} of resamples, more than 5 %"


def test_up_to_one_in_twenty_resamples_may_be_undefined() -> None:
    draws = np.where(np.arange(100) < 5, np.nan, 0.5 + np.arange(100) / 1000)
    interval = interval_of(seldom_lost(), 0.55, draws, level=0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws[5:], [0.05, 0.95])))


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
        labels=np.array([0, 1] * 6),
        probabilities=np.eye(2)[[0, 1] * 6],
        groups=tuple("abcdefghijkl"),
        groups_source="given",
    )
    estimate = group_bootstrap(predictions, resamples=100)["accuracy"]
    assert (estimate.low, estimate.value, estimate.high) == (1, 1, 1)
    assert "narrower than what is known" in estimate.method


@pytest.mark.parametrize(("changed", "said"), [({"resamples": 0}, "got 0"), ({"level": 1.0}, "got 1.0")])
def test_nonsense_settings_are_refused(draw_predictions: Draw, changed: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        group_bootstrap(draw_predictions(), **changed)


# ---------------------------------------------------------------------------------- statistics and speed


def test_percentile_ends() -> None:
    assert percentile_interval(np.arange(1001.0), level=0.9) == pytest.approx((50, 950))


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


def test_two_thousand_resamples_of_a_thousand_images_take_no_while(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=1000, class_count=5, groups_source="none")
    started = time.process_time()
    group_bootstrap(predictions)
    assert time.process_time() - started < 2
