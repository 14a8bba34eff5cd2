"""From cells to a finding: no rule counts cells, choices are made over folds, and what cannot be chosen stays the default."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from leukemia_cli.judging.aggregation import (
    RULES,
    Aggregation,
    CountControl,
    count_cells,
    default_aggregation,
    fit_aggregation,
    fit_count_control,
    steady_share,
    values_of,
)

HEALTHY = 1


def bags_of(rng: np.random.Generator, count: int, *, diseased_cells: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw bags of 1 to 40 cells; in the diseased half of them a share of cells looks diseased, elsewhere few do."""
    bags, labels = [], []
    for i in range(count):
        ill = i % 2 == 0
        cells = int(rng.integers(1, 40))
        strange = rng.random(cells) < (diseased_cells if ill else 0.05)
        p = np.where(strange, rng.beta(8, 2, cells), rng.beta(2, 8, cells))
        bags.append(np.stack([p, 1 - p], axis=1))
        labels.append(0 if ill else HEALTHY)
    return bags, np.array(labels)


@given(st.integers(5, 8), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_fewer_cells_drawn_from_a_bag_give_on_average_what_the_bag_gives(cells: int, classes: int, seed: int) -> None:
    """Over all sets of so many cells or more the mean of what a rule gives them is what it gives the whole bag."""
    bag = np.random.default_rng(seed).dirichlet(np.full(classes, 5.0), cells).clip(0.02)
    for rule, least in (("second-of-five", 5), ("worst-of-three", 3), ("mean", 1)):
        whole = values_of([bag], rule, 0)[0]
        for kept in range(least, cells + 1):
            sets = [bag[list(chosen)] for chosen in itertools.combinations(range(cells), kept)]
            np.testing.assert_allclose(values_of(sets, rule, 0).mean(axis=0), whole, atol=1e-12)


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_means_and_shares_do_not_change_when_every_cell_is_there_twice(cells: int, classes: int, seed: int) -> None:
    bag = np.random.default_rng(seed).dirichlet(np.ones(classes), cells)
    for rule in ("mean", "geometric-mean", "votes"):
        once, twice = values_of([bag, np.repeat(bag, 2, axis=0)], rule, 0)
        np.testing.assert_allclose(once, twice, atol=1e-12)
        assert (once >= 0.01).all()


def test_each_rule_says_what_its_words_say() -> None:
    bag = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    told = {rule: values_of([bag], rule, HEALTHY)[0, 0] for rule in RULES}
    logs = np.exp(np.log(bag).mean(axis=0))
    assert told == pytest.approx(
        {
            "mean": 0.5,
            "geometric-mean": logs[0] / logs.sum(),
            "votes": 0.5,
            "worst-of-three": (3 * 0.9 + 0.8) / 4,
            "second-of-five": 0.9 + (0.8 - 0.9) * 2 / 3,  # at place 5/3 of four
        }
    )
    five = np.concatenate([bag, [[0.3, 0.7]]])
    assert values_of([five], "second-of-five", HEALTHY)[0, 0] == pytest.approx(0.8)
    six = np.concatenate([five, [[0.05, 0.95]]])
    drawn = [np.sort(six[list(chosen), 0])[-2] for chosen in itertools.combinations(range(6), 5)]
    assert values_of([six], "second-of-five", HEALTHY)[0, 0] == pytest.approx(np.mean(drawn))
    assert values_of([bag[1:3]], "second-of-five", HEALTHY)[0, 0] == pytest.approx(0.5)
    assert values_of([bag[:1]], "second-of-five", HEALTHY)[0, 0] == pytest.approx(0.9)
    assert values_of([bag], "second-of-five", None)[0, 0] == pytest.approx(0.5)
    assert values_of([bag], "worst-of-three", None)[0, 0] == pytest.approx(0.5)
    assert values_of([bag[1:3]], "worst-of-three", HEALTHY)[0, 0] == pytest.approx(0.8)


@pytest.mark.parametrize("cells", [3, 4, 5, 12])
def test_of_few_cells_the_default_rule_gives_on_average_what_it_gives_of_many(cells: int) -> None:
    """Of evenly spread cells its place is a third of the way from the least healthy, however many there are."""
    spread = np.random.default_rng(cells).uniform(size=(4_000, cells))
    told = values_of([np.stack([p, 1 - p], axis=1) for p in spread], "second-of-five", HEALTHY)
    assert told[:, 0].mean() == pytest.approx(2 / 3, abs=0.02)


def test_one_misread_cell_of_ten_changes_little_and_three_change_all() -> None:
    def bag(misread: int) -> np.ndarray:
        p = np.array([0.95] * misread + [0.05] * (10 - misread))
        return np.stack([p, 1 - p], axis=1)

    rule = default_aggregation(2, HEALTHY)
    told = rule([bag(0), bag(1), bag(3), bag(5)])[:, 0]
    assert told[0] == pytest.approx(told[1]) == pytest.approx(0.05)
    assert told[2] > 0.45
    assert told[3] > 0.75


def test_few_diseased_cells_among_many_are_found_and_counting_would_not_help() -> None:
    bags, labels = bags_of(np.random.default_rng(0), 200, diseased_cells=0.4)
    folds = np.arange(200) // 2 % 4
    fitted = fit_aggregation(bags, labels, folds, class_count=2, healthy=HEALTHY, chosen_on="200 bags")
    new, truth = bags_of(np.random.default_rng(1), 400, diseased_cells=0.4)
    right = fitted(new).argmax(axis=1) == truth
    mean = Aggregation(rule="mean", slope=1.0, offsets=(0.0, 0.0), healthy=HEALTHY, chosen_on=None)
    plain = mean(new).argmax(axis=1) == truth
    assert right.mean() > 0.85
    assert right.mean() > plain.mean() + 0.05  # a mean of 0.4 would call nothing diseased
    counts = np.array([len(bag) for bag in bags])
    control = fit_count_control(counts, labels, class_count=2)
    by_count = control(np.array([len(bag) for bag in new])).argmax(axis=1) == truth
    assert 0.4 < by_count.mean() < 0.6
    assert steady_share(fitted, new, most=40) == 1.0
    assert steady_share(fitted, new, most=8) > 0.85


def test_where_the_number_of_cells_gives_the_class_away_the_control_says_so_and_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    counts = rng.poisson(np.array([3, 15, 60])[labels])
    control = fit_count_control(counts, labels, class_count=3)
    told = control(counts)
    assert (told.argmax(axis=1) == labels).mean() > 0.9
    logs = ((np.log1p(counts) - control.centre) / control.spread)[:, None]
    other = LogisticRegression(C=1 / (2 * 1e-3 * 300), class_weight="balanced", tol=1e-8, max_iter=1000).fit(
        logs, labels
    )
    np.testing.assert_allclose(told, other.predict_proba(logs), atol=2e-3)
    assert CountControl.from_json(control.as_json()) == control


def test_where_no_fold_can_be_left_out_the_default_is_taken() -> None:
    bags, labels = bags_of(np.random.default_rng(0), 8, diseased_cells=0.9)
    by_class = fit_aggregation(bags, labels, labels, class_count=2, healthy=HEALTHY, chosen_on="x")
    one_fold = fit_aggregation(bags, labels, np.zeros(8, int), class_count=2, healthy=HEALTHY, chosen_on="x")
    assert by_class == one_fold == default_aggregation(2, HEALTHY)
    assert by_class.chosen_on is None
    bag = np.array([[0.7, 0.3], [0.1, 0.9]])
    np.testing.assert_allclose(by_class([bag])[0], [0.4, 0.6])


def test_nothing_seen_is_nothing_said() -> None:
    bags, labels = bags_of(np.random.default_rng(0), 40, diseased_cells=0.9)
    empty = np.zeros((0, 2))
    fitted = fit_aggregation(
        [*bags, empty], np.append(labels, 0), np.append(np.arange(40) // 2 % 4, 0),
        class_count=2, healthy=HEALTHY, chosen_on="40 bags",
    )  # fmt: skip
    np.testing.assert_allclose(fitted([empty]), [[0.5, 0.5]], atol=1e-5)
    assert fitted([empty]).argmax() == HEALTHY
    without = fit_aggregation(bags, labels, np.arange(40) // 2 % 4, class_count=2, healthy=HEALTHY, chosen_on="40 bags")
    assert fitted == without
    assert fitted.chosen_on == "40 bags"
    assert Aggregation.from_json(fitted.as_json()) == fitted
    with pytest.raises(ValueError, match="unknown rule 'most'"):
        Aggregation.from_json({**fitted.as_json(), "rule": "most"})


def test_cells_are_counted_by_class_with_an_exact_interval() -> None:
    bag = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 7)
    told = count_cells(bag, HEALTHY, 2)
    assert (told.cells, told.by_class, told.share) == (10, (3, 7), 0.3)
    assert (told.low, told.high) == (
        pytest.approx(0.0667, abs=1e-4),
        pytest.approx(0.6525, abs=1e-4),
    )  # R: binom.test(3, 10)
    assert count_cells(bag, None, 2).share is None
    assert count_cells(np.zeros((0, 2)), HEALTHY, 2).by_class == (0, 0)
