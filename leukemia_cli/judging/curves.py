"""Curves of a classifier with pointwise bands from resampled groups, on one grid, beside the bins that the ECE sums up.

A curve through resamples follows the rules of `intervals`: the same groups are drawn, the same refusals hold, and a resample
that lost a class is left out. Letters: N images, C classes, G groups, R resamples, T distinct scores, K grid points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.judging.intervals import MOST_UNDEFINED, check_bootstrap, drawing, refusal, resamples_of
from leukemia_cli.judging.metrics import ECE_BINS, groups_by_class
from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

GRID = np.arange(101) / 100

# Counts are compared with shares of counts; the product may miss a whole number by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """`y` (K,) over `x` (K,); `low` and `high` (K,) are both None or both not, and `method` says why."""

    x: FloatArray
    y: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Images whose confidence lies above `low` and up to `high`: their number, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def roc_curves(
    predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Curve]:
    """Give the true-positive rate over the false-positive rate of each class against the rest; of two classes only one.

    Straight lines join the points of neighbouring scores, so equal scores count half as in AUROC; where the curve rises
    upright the upper end is given. Of two classes it is the positive one, or the last. A class without images, or without
    images of another beside it, has no curve. Raises ValueError for no resamples, or a level outside (0, 1).
    """
    return _curves(predictions, _roc, resamples=resamples, level=level, seed=seed)


def precision_recall_curves(
    predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Curve]:
    """Give the precision over the recall of each class against the rest, for the same classes as `roc_curves`.

    The precision at recall x is that at the highest score whose recall reaches x, the step that average precision sums up:
    a straight line between two points would be too good.
    Raises ValueError for no resamples, or a level outside (0, 1).
    Source: Davis and Goadrich 2006, The Relationship Between Precision-Recall and ROC Curves (ICML), section 3.
    """
    return _curves(predictions, _precision_recall, resamples=resamples, level=level, seed=seed)


def reliability(predictions: Predictions) -> tuple[Bin, ...]:
    """Give the bins of confidence that hold images, from low to high: the bins of the expected calibration error."""
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.labels
    places = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return tuple(
        Bin(
            low=place / ECE_BINS,
            high=(place + 1) / ECE_BINS,
            images=int((places == place).sum()),
            confidence=float(confidence[places == place].mean()),
            accuracy=float(right[places == place].mean()),
        )
        for place in np.unique(places).tolist()
    )


# ---------------------------------------------------------------------------------- resamples and bands


def whole_resamples(
    predictions: Predictions, *, resamples: int, seed: int
) -> Iterator[tuple[IntArray, NDArray[np.bool_]]]:
    """Yield the blocks of `resamples_of`, and which of their rows kept every class that the images have."""
    by_class = groups_by_class(predictions)
    present = by_class[:, by_class.sum(axis=0) > 0]
    for weights in resamples_of(predictions, resamples=resamples, seed=seed):
        whole: NDArray[np.bool_] = np.all(weights @ present > 0, axis=1)
        yield weights, whole


def band(
    predictions: Predictions, draws: FloatArray, *, level: float
) -> tuple[FloatArray | None, FloatArray | None, str]:
    """Turn curves (R, K), rows of NaN where undefined, into pointwise percentile ends (K,) or none; the method says which."""
    undefined = np.isnan(draws).any(axis=1)
    missing = float(undefined.mean())
    if missing > MOST_UNDEFINED:
        told = f"no band: undefined in {100 * missing:.0f} % of resamples, more than {100 * MOST_UNDEFINED:g} %"
        return None, None, told
    low, high = np.quantile(draws[~undefined], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high, f"{drawing(predictions)} ({100 * level:g} % percentile at each point, {len(draws)} resamples)"


# ---------------------------------------------------------------------------------- from counts to curves

# Positives and negatives at or above each score, (T,) each and rising, to y (K,) on the grid.
Trace = Callable[[FloatArray, FloatArray], FloatArray]


def _curves(predictions: Predictions, trace: Trace, *, resamples: int, level: float, seed: int) -> dict[str, Curve]:
    check_bootstrap(resamples=resamples, level=level)
    rankings = _rankings(predictions)
    groups, group_count = predictions.group_indices()
    once = np.ones((1, group_count), dtype=np.int64)
    refused = refusal(predictions)
    draws: dict[str, list[FloatArray]] = {name: [] for name in rankings}
    if refused is None:
        for weights, whole in whole_resamples(predictions, resamples=resamples, seed=seed):
            by_image = weights[:, groups].astype(np.float64)
            for name, ranking in rankings.items():
                draws[name].append(np.where(whole[:, None], ranking.traced(by_image, trace), np.nan))
    curves = {}
    for name, ranking in rankings.items():
        low, high, method = None, None, (refused or "").replace("no interval", "no band")
        if refused is None:
            low, high, method = band(predictions, np.concatenate(draws[name]), level=level)
        y = ranking.traced(once[:, groups].astype(np.float64), trace)[0]
        curves[name] = Curve(x=GRID.copy(), y=y, low=low, high=high, method=method)
    return curves


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ranking:
    """Images in falling order of one class's probability: their places (N,), whether of the class, ends of equals (T,)."""

    order: IntArray
    ours: FloatArray
    ends: IntArray

    def traced(self, by_image: FloatArray, trace: Trace) -> FloatArray:
        """Trace the curve (R, K) of each weighting of images (R, N); rows of NaN where a side is missing."""
        counts = by_image[:, self.order]
        positives = np.cumsum(counts * self.ours, axis=1)[:, self.ends]
        negatives = np.cumsum(counts, axis=1)[:, self.ends] - positives
        both = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
        rows = [
            trace(positives[i], negatives[i]) if both[i] else np.full(len(GRID), np.nan) for i in range(len(by_image))
        ]
        return np.stack(rows)


def _rankings(predictions: Predictions) -> Mapping[str, _Ranking]:
    count = len(predictions.classes)
    shown = range(count)
    if count == 2:
        last = 1 if predictions.positive is None else predictions.classes.index(predictions.positive)
        shown = range(last, last + 1)
    found = {}
    for c in shown:
        ours, scores = predictions.labels == c, predictions.probabilities[:, c]
        if ours.any() and not ours.all():
            order = np.argsort(-scores, kind="stable").astype(np.int64)
            found[predictions.classes[c]] = _Ranking(
                order=order, ours=ours[order].astype(np.float64), ends=run_ends(scores[order])
            )
    return found


def run_ends(ordered: FloatArray) -> IntArray:
    """Give the last place (T,) of each run of equal values."""
    return np.flatnonzero(np.append(np.diff(ordered) != 0, True)).astype(np.int64)


def first_reaching(rising: FloatArray, shares: FloatArray) -> IntArray:
    """Give the first place at which `rising` (T,) is at least each share of its last."""
    places: IntArray = np.searchsorted(rising, shares * rising[-1] - _ROUNDING, side="left").astype(np.int64)
    return places


def _roc(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    # Of several points at one rate np.interp takes the last, here the highest.
    y: FloatArray = np.interp(GRID, np.append(0, negatives / negatives[-1]), np.append(0, positives / positives[-1]))
    return y


def _precision_recall(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    # Scores above all that a resample drew are passed over: nothing is called there.
    drawn = int(np.argmax(positives + negatives > 0))
    places = np.maximum(first_reaching(positives, GRID), drawn)
    return positives[places] / (positives[places] + negatives[places])
