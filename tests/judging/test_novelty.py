from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from leukemia_cli.judging.novelty import MOST_DIRECTIONS, Novelty, fit_novelty, novelty_threshold


def drawn(seed: int, n: int, *, width: int = 40, shift: float = 0.0) -> np.ndarray:
    """Features of uneven spread, as a network's are; `shift` moves them along every one."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) * np.geomspace(1, 0.05, width)
    return (random.normal(size=(n, width)) @ mixing.T + shift).astype(np.float32)


@pytest.mark.parametrize(("n", "width"), [(600, 40), (60, 40), (30, 200), (500, 300)])
def test_scores_equal_scikit_learns_parts(n: int, width: int) -> None:
    training, new = drawn(0, n, width=width), drawn(1, 25, width=width, shift=0.5)
    count = min(MOST_DIRECTIONS, n // 3, width)
    wide = training.astype(np.float64)
    pca = PCA(count, svd_solver="full").fit(wide)
    inside = pca.transform(wide)
    within = LedoitWolf(assume_centered=True).fit(inside).mahalanobis(pca.transform(new.astype(np.float64)))

    def left(features: np.ndarray) -> np.ndarray:
        again = pca.inverse_transform(pca.transform(features.astype(np.float64)))
        return ((features - again) ** 2).sum(axis=1)

    whole = within + (np.sqrt(count) * left(new) / left(training).mean() if count < width else 0)
    expected = np.sqrt(whole / (count + np.sqrt(count)))
    found = fit_novelty(training).scores(new)
    assert found.dtype == np.float64
    if count < width:
        assert found == pytest.approx(expected, rel=1e-6)
    else:  # nothing is left over but rounding, which a floor keeps from counting
        assert found == pytest.approx(expected, rel=1e-3)


def test_an_image_scores_alike_alone_and_among_others() -> None:
    novelty, new = fit_novelty(drawn(0, 300)), drawn(1, 33)
    together = novelty.scores(new)
    assert together.tolist() == [float(novelty.scores(row[None])[0]) for row in new]
    assert together.tolist() == novelty.scores(new[::-1])[::-1].tolist()


def test_strangers_score_above_those_alike() -> None:
    novelty = fit_novelty(drawn(0, 300))
    alike, shifted = novelty.scores(drawn(1, 200)), novelty.scores(drawn(1, 200, shift=3))
    assert np.median(alike) == pytest.approx(1, abs=0.3)
    assert shifted.min() > alike.max()


def test_what_lies_outside_the_kept_directions_counts_too() -> None:
    # Training moves in 3 of 50 features and hardly in the rest; a stranger is at their centre and moves in another.
    random = np.random.default_rng(0)
    training = random.normal(size=(9, 50)) * np.where(np.arange(50) < 3, 10, 0.1)
    stranger = training.mean(axis=0) + 5 * (np.arange(50) == 40)
    novelty = fit_novelty(training)
    assert len(novelty.directions) == 3
    assert novelty.scores(stranger[None])[0] > 3 * novelty.scores(training).max()


def test_it_is_small_and_holds_no_row_of_an_image() -> None:
    training = drawn(0, 900, width=300)
    arrays = fit_novelty(training).arrays()
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"mean": (300,), "directions": (128, 300), "whitening": (128, 128), "rest": (1,)}
    assert arrays["directions"] @ arrays["directions"].T == pytest.approx(np.eye(128), abs=1e-9)


def test_scores_are_equal_after_storing() -> None:
    novelty, new = fit_novelty(drawn(0, 100)), drawn(1, 20)
    stored = load(save({name: np.ascontiguousarray(a) for name, a in novelty.arrays().items()}))
    again = Novelty.restored(json.loads(json.dumps(novelty.as_json())), stored)
    assert again.scores(new).tolist() == novelty.scores(new).tolist()


def test_order_of_images_does_not_matter_and_fitting_is_deterministic() -> None:
    training, new = drawn(0, 200), drawn(1, 20)
    first = fit_novelty(training).scores(new)
    assert fit_novelty(training).scores(new).tolist() == first.tolist()
    assert fit_novelty(training[::-1]).scores(new) == pytest.approx(first, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 1000), st.integers(1, 5))
def test_scores_are_finite_whatever_the_shape(n: int, width: int, seed: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    training = random.normal(size=(n, rank)) @ random.normal(size=(rank, width))
    scores = fit_novelty(training).scores(random.normal(size=(7, width)) * 100)
    assert np.isfinite(scores).all() and (scores >= 0).all()


def test_what_cannot_be_fitted_or_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="N ≥ 2"):
        fit_novelty(np.ones((1, 4)))
    with pytest.raises(ValueError, match="all 3 images are equal"):
        fit_novelty(np.ones((3, 4)))
    with pytest.raises(ValueError, match="finite"):
        fit_novelty(np.array([[1.0, np.nan], [0.0, 1.0]]))
    novelty = fit_novelty(drawn(0, 20))
    for wrong in (np.ones((2, 39)), np.ones(40), np.full((1, 40), np.inf)):
        with pytest.raises(ValueError, match=r"\(N, 40\)"):
            novelty.scores(wrong)
    with pytest.raises(ValueError, match="kind 'knn'"):
        Novelty.restored({"kind": "knn"}, novelty.arrays())
    with pytest.raises(KeyError):
        Novelty.restored(novelty.as_json(), {})
    with pytest.raises(ValueError, match="do not fit"):
        Novelty.restored(novelty.as_json(), {**novelty.arrays(), "whitening": np.eye(2)})


# ---------------------------------------------------------------------------------- the threshold


def test_the_threshold_on_paper() -> None:
    # 99 images, each a group: 95 of 100 counting the new one as above all, so the 95th smallest.
    assert novelty_threshold(np.arange(99.0), None, 0.05) == 94
    # One group of many strange images counts as one of 40.
    scores, groups = np.append(np.arange(39.0), np.full(500, 1e6)), [f"g{i}" for i in range(39)] + ["strange"] * 500
    assert novelty_threshold(scores, groups, 0.05) == 38


def test_of_few_groups_no_stray_image_sets_the_threshold() -> None:
    """The greatest of the groups' own 95th percentiles: one odd cell of a hundred does not move it."""
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(1, 0.1, 300), [f"g{i % 3}" for i in range(300)]
    calm = novelty_threshold(scores, groups)
    own = [np.sort(scores[i::3])[95] for i in range(3)]
    assert calm == pytest.approx(max(own))
    stray = scores.copy()
    stray[7] = 9.0
    assert novelty_threshold(stray, groups) < 1.5
    assert novelty_threshold(np.array([1.0, 3.0, 2.0]), ["a", "b", "c"]) == 3.0


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_at_most_the_asked_share_of_each_seen_group_lies_above(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"g{rng.integers(count)}" for _ in range(20 * count)]
    scores = rng.normal(size=len(groups)) + np.array([int(g[1:]) for g in groups])
    bar = novelty_threshold(scores, groups, 0.1)
    for group in set(groups):
        own = scores[np.array(groups) == group]
        assert (own > bar).mean() <= 0.1


@pytest.mark.parametrize(("count", "expected"), [(18, 17), (19, 18), (39, 37)])
def test_few_groups_give_the_greatest_score(count: int, expected: float) -> None:
    assert novelty_threshold(np.arange(float(count)), [f"g{i}" for i in range(count)]) == expected


@pytest.mark.parametrize("count", [5, 19, 60])
def test_new_groups_are_called_novel_no_more_often_than_said(count: int) -> None:
    random = np.random.default_rng(count)

    def group() -> np.ndarray:
        return random.normal(random.normal(0, 2), 1, size=random.integers(1, 8))

    alarms = []
    for _ in range(800):
        parts = [group() for _ in range(count)]
        names = [f"g{i}" for i, part in enumerate(parts) for _ in part]
        alarms.append((group() > novelty_threshold(np.concatenate(parts), names, 0.05)).mean())
    assert np.mean(alarms) <= max(0.05, 1 / (count + 1)) + 3 * np.std(alarms) / np.sqrt(800)
