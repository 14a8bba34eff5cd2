from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax as peer_log_softmax
from scipy.special import softmax as peer_softmax

from leukemia_cli.judging.calibration import fit_temperature, softmax


def loss(scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean cross-entropy against targets that give 1 / (N + 2) to the other classes together."""
    n, class_count = scores.shape
    logs = peer_log_softmax(scores / temperature, axis=1)
    targets = np.full((n, class_count), 1 / (n + 2) / (class_count - 1))
    targets[np.arange(n), labels] = 1 - 1 / (n + 2)
    return float(-(targets * logs).sum(axis=1).mean())


def drawn(seed: int, *, n: int = 300, class_count: int = 4, heat: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores that are calibrated after division by `heat`."""
    random = np.random.default_rng(seed)
    scores = random.normal(scale=1.5, size=(n, class_count))
    chances = peer_softmax(scores, axis=1).cumsum(axis=1)
    labels = (random.random((n, 1)) > chances).sum(axis=1).clip(max=class_count - 1)
    return scores * heat, labels


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 7.0])
def test_softmax_equals_scipy(temperature: float) -> None:
    scores = np.random.default_rng(0).normal(scale=30, size=(20, 5))
    assert softmax(scores, temperature) == pytest.approx(peer_softmax(scores / temperature, axis=1), abs=1e-15)
    assert softmax(scores.astype(np.float32)).dtype == np.float64


def test_softmax_of_huge_scores_stays_finite() -> None:
    assert softmax(np.array([[1e300, 0.0], [-1e300, -1e300]])).tolist() == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("heat", [0.2, 1.0, 3.0, 20.0])
def test_the_temperature_is_where_scipy_finds_the_least_loss(seed: int, heat: float) -> None:
    scores, labels = drawn(seed, heat=heat)
    found = minimize_scalar(
        lambda t: loss(scores, labels, float(np.exp(t))),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(scores, labels) == pytest.approx(float(np.exp(found.x)), rel=1e-4)
    assert loss(scores, labels, fit_temperature(scores, labels)) <= found.fun + 1e-12


def test_a_known_heat_is_found_again() -> None:
    scores, labels = drawn(1, n=20_000, heat=5.0)
    assert fit_temperature(scores, labels) == pytest.approx(5.0, rel=0.03)


def test_two_classes_have_an_answer_on_paper() -> None:
    # Three of four right at a margin of 2, each target leaving 1/6: softmax is right when sigmoid(2 / T) is
    # (3 * 5/6 + 1/6) / 4 = 2/3, so T = 2 / ln 2.
    scores = np.array([[2.0, 0.0]] * 4)
    assert fit_temperature(scores, np.array([0, 0, 0, 1])) == pytest.approx(2 / np.log(2), rel=1e-9)


def test_a_few_images_told_right_do_not_make_certainty() -> None:
    # All N right: the best sigmoid(margin / T) is 1 - 1 / (N + 2), here 3/4.
    scores = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert softmax(scores, fit_temperature(scores, np.array([0, 1])))[0, 0] == pytest.approx(3 / 4, rel=1e-9)


def test_bounds_are_reached_exactly() -> None:
    scores = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(scores / 1e6, np.array([0, 1])) == 0.01
    assert fit_temperature(scores, np.array([1, 0])) == 100
    assert fit_temperature(np.full((3, 4), 2.5), np.array([0, 1, 2])) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.integers(2, 5), st.integers(1, 12))
def test_no_temperature_nearby_is_better(seed: int, scale: float, class_count: int, n: int) -> None:
    scores, labels = drawn(seed, n=n, class_count=class_count, heat=scale)
    best = fit_temperature(scores, labels)
    assert 0.01 <= best <= 100
    at_best = loss(scores, labels, best)
    for other in (best * 0.99, best * 1.01, 0.01, 1.0, 100.0):
        if 0.01 <= other <= 100:
            assert at_best <= loss(scores, labels, other) + 1e-9


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        (np.array([[1.0, np.nan]]), np.array([0]), "image 0 are not finite"),
        (np.array([[1.0, 2.0], [np.inf, 0.0]]), np.array([0, 1]), "image 1 are not finite"),
        (np.zeros(3), np.array([0]), r"shape \(3,\)"),
        (np.zeros((2, 1)), np.array([0, 0]), "C ≥ 2"),
        (np.zeros((0, 2)), np.array([], dtype=int), "at least one"),
        (np.zeros((2, 2)), np.array([0]), r"\(2,\) integers"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "float64"),
        (np.zeros((2, 2)), np.array([0, 2]), "label 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused(scores: np.ndarray, labels: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_temperature(scores, labels)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        softmax(np.zeros((1, 2)), temperature)
