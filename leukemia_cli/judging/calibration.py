"""One temperature turns scores into probabilities that mean what they say; it never changes which class is first."""

from __future__ import annotations

import numpy as np

from leukemia_cli.judging.predictions import FloatArray, IntArray

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 100.0
_STEPS = 200
_PRECISION = 1e-12


def softmax(scores: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Give probabilities (N, C), in float64, of scores (N, C) divided by `temperature`.

    Raises ValueError for scores that are not (N, C) or not finite, and for a temperature that is not above 0.
    """
    checked = _checked_scores(scores)
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    return _softmax((checked - checked.max(axis=1, keepdims=True)) / temperature)


def fit_temperature(scores: FloatArray, labels: IntArray) -> float:
    """Give the temperature, 0.01 to 100, at which softmax(scores / T) has the least log loss on `labels`.

    `scores` (N, C) are logits, `labels` (N,) class indices. As in Platt's sigmoid, the loss is taken against targets that
    leave room for an image of another class not yet seen: 1 - 1 / (N + 2) for the true one, the rest shared. So a few
    images that are all told right do not make the scores certain. The loss is convex in 1 / T, so the answer is the only
    one; it is a bound, exactly, where the loss still falls there (100: the scores mislead). Scores that tell no classes
    apart give 1. Deterministic.
    Raises ValueError for no images, scores that are not finite, or labels that are no class indices.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599), section 4.2; Platt 1999,
    Probabilistic Outputs for Support Vector Machines, section 2.2.
    """
    checked = _checked_scores(scores)
    truth = np.asarray(labels)
    if truth.shape != (len(checked),) or truth.size == 0 or truth.dtype.kind not in "iu":
        raise ValueError(f"labels must be ({len(checked)},) integers, at least one, got {truth.dtype} {truth.shape}")
    outside = truth[(truth < 0) | (truth >= checked.shape[1])]
    if outside.size:
        raise ValueError(f"label {int(outside[0])} is no index into {checked.shape[1]} classes")

    shifted = checked - checked.max(axis=1, keepdims=True)
    if not shifted.any():
        return 1.0
    room = 1 / (truth.size + 2)
    true = shifted[np.arange(truth.size), truth]
    others = (shifted.sum(axis=1) - true) / (shifted.shape[1] - 1)
    own = (1 - room) * true + room * others

    def slope_and_bend(inverse: float) -> tuple[float, float]:
        """First and second derivative of the mean log loss by the inverse temperature."""
        probabilities = _softmax(shifted * inverse)
        mean = (probabilities * shifted).sum(axis=1)
        spread = (probabilities * (shifted - mean[:, None]) ** 2).sum(axis=1)
        return float((mean - own).mean()), float(spread.mean())

    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    if slope_and_bend(low)[0] >= 0:
        return MOST_TEMPERATURE
    if slope_and_bend(high)[0] <= 0:
        return LEAST_TEMPERATURE
    # Newton's method inside a bracket that halves whenever a step would leave it.
    inverse = 1.0
    for _ in range(_STEPS):
        slope, bend = slope_and_bend(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / bend if bend > 0 else np.inf
        if not low < following < high:
            following = (low + high) / 2
        moved, inverse = abs(following - inverse), following
        if moved <= _PRECISION * inverse:
            break
    return float(1 / inverse)


def _checked_scores(scores: FloatArray) -> FloatArray:
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[1] < 2:
        raise ValueError(f"scores must be (N, C) with C ≥ 2, got shape {checked.shape}")
    for row in np.flatnonzero(~np.isfinite(checked).all(axis=1))[:1]:
        raise ValueError(f"scores of image {row} are not finite: {checked[row].tolist()}")
    return checked


def _softmax(shifted: FloatArray) -> FloatArray:
    """Normalise the exponentials (N, C) of values whose greatest in each row is zero."""
    exponentials = np.exp(shifted)
    probabilities: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
