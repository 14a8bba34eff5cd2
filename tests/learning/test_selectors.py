"""Rankings of features against scikit-learn, against counts by hand and against planted features."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import f_classif
from sklearn.metrics import mutual_info_score

from leukemia_cli.catalog import SELECTOR_NAMES
from leukemia_cli.learning import selectors
from leukemia_cli.learning.selectors import (
    BINS,
    SELECTORS,
    Rankings,
    anova_f,
    keep_best,
    l1_weights,
    mutual_information,
    quantile_bins,
)


def planted(*, n: int = 90, width: int = 12, classes: int = 3, seed: int = 0, gap: float = 2.0):
    """Give features (n, width) of which the first `classes` tell the class, on scales that differ, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, width))
    x[np.arange(n), labels] += gap
    return (x * np.geomspace(0.1, 30, width) + np.arange(width)).astype(np.float32), labels.astype(np.int64)


def test_the_names_in_the_catalogue_are_those_of_the_table() -> None:
    assert tuple(SELECTORS) == SELECTOR_NAMES
    assert all(name == entry.name and entry.title and entry.source for name, entry in SELECTORS.items())


@pytest.mark.parametrize("by", SELECTOR_NAMES)
@pytest.mark.parametrize("classes", [2, 4])
def test_planted_features_are_found_whatever_their_scale(by: str, classes: int) -> None:
    x, y = planted(classes=classes, n=200)
    assert keep_best(x, y, classes, by).tolist() == list(range(classes))
    assert keep_best(x, y, None, by).tolist() == keep_best(x, y, 99, by).tolist() == list(range(12))
    assert np.array_equal(keep_best(x, y, 5, by), keep_best(x.copy(), y, 5, by))


@pytest.mark.parametrize("by", SELECTOR_NAMES)
def test_more_features_hold_those_of_fewer(by: str) -> None:
    x, y = planted(seed=3)
    x[:, 4] = 7.0
    rankings = Rankings(x, y)
    kept = [set(rankings.keep(count, by).tolist()) for count in range(1, 13)]
    assert all(a < b for a, b in itertools.pairwise(kept)) and 4 not in kept[10]


def test_a_selector_is_asked_once_for_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    counting = {
        name: selectors.Selector(
            name=name, title="t", source="s", rank=lambda x, y, name=name: asked.append(name) or anova_f(x, y)
        )
        for name in SELECTOR_NAMES
    }
    monkeypatch.setattr(selectors, "SELECTORS", counting)
    rankings = Rankings(*planted())
    for count in (1, 5, 3, None):
        for by in ("l1", "trees"):
            rankings.keep(count, by)
    assert asked == ["l1", "trees"]


# ---------------------------------------------------------------------------------------------------------- anova


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_anova_f_is_scikit_learns(seed: int, classes: int) -> None:
    x, y = planted(seed=seed, classes=classes, n=30)
    assert np.allclose(anova_f(x, y), f_classif(x.astype(np.float64), y)[0], rtol=1e-6)


def test_features_that_never_vary_rank_last_and_perfect_ones_first() -> None:
    x, y = planted()
    x[:, 5], x[:, 7] = 3.0, y
    f = anova_f(x, y)
    assert f[5] == 0 and f[7] == math.inf
    assert keep_best(x, y, 4).tolist() == sorted({7, 0, 1, 2})


# ---------------------------------------------------------------------------------------------- mutual information


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 60))
@settings(max_examples=25, deadline=None)
def test_mutual_information_is_scikit_learns_of_the_bins(seed: int, classes: int, n: int) -> None:
    x, y = planted(seed=seed, classes=classes, n=n)
    x[:, 3], x[:, 4] = np.round(x[:, 3]), 1.0
    bins = quantile_bins(x)
    assert bins.min() >= 0 and bins.max() < BINS
    expected = [mutual_info_score(y, bins[:, d]) for d in range(x.shape[1])]
    assert np.allclose(mutual_information(x, y), expected, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_bins_hold_equal_shares_and_depend_on_order_alone(seed: int) -> None:
    x = np.random.default_rng(seed).permuted(np.tile(np.arange(80, dtype=np.float32), (4, 1)), axis=1).T
    bins = quantile_bins(x)
    assert all(np.bincount(bins[:, d]).tolist() == [8] * BINS for d in range(4))
    assert np.array_equal(bins, quantile_bins(np.exp2(x / 16).astype(np.float32)))
    assert len(np.unique(quantile_bins(np.floor(x / 40))[:, 0])) == 2


def test_a_feature_that_is_the_class_tells_all_of_it() -> None:
    x, y = planted(classes=2, n=100)
    x[:, 6] = y
    told = mutual_information(x, y)
    assert told[6] == pytest.approx(math.log(2)) and told.argmax() == 6


# -------------------------------------------------------------------------------------------------------------- l1


def test_features_without_weight_follow_by_their_f() -> None:
    x, y = planted(width=60, classes=2, gap=1.0)
    worth, f = l1_weights(x, y), anova_f(x, y)
    dropped = np.flatnonzero(worth < 0)
    assert 0 < len(dropped) < 60 and (worth[worth >= 0] > 0).all()
    order = dropped[np.argsort(-worth[dropped], kind="stable")]
    assert order.tolist() == dropped[np.argsort(-f[dropped], kind="stable")].tolist()
