"""Every figure is computed from how often each group counts, for many resamples at once and for the plain value alike.

Requirements this module meets:
- One table, `METRICS`; a metric is one entry in it.
- Integer weights of groups give exactly what repeating the images of those groups would give.
- A class without images has no figures; it is left out of averages over classes and never counts as zero.

Letters: N images, C classes, G groups, R resamples, B bins of confidence. Undefined is NaN in arrays, None in values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

Weights = NDArray[np.integer[Any]]

ECE_BINS = 15
# The spacing of float64 at one, as scikit-learn clips: no image costs more than 36 nats.
LOG_LOSS_EPS = float(np.finfo(np.float64).eps)


# ---------------------------------------------------------------------------------- what does not depend on weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ranking:
    """Images of a class against the rest, sorted once by the probability of that class; `classes` share the figure.

    `positives` and `negatives` are group indices; `below` and `not_above` say, for each positive, how many negatives
    lie strictly below it, and how many below or level with it.
    """

    classes: tuple[int, ...]
    positives: IntArray
    negatives: IntArray
    below: IntArray
    not_above: IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Sums over the images of each group, from which any weighting of groups gives its figures by one product."""

    class_count: int
    group_count: int
    positive: int | None
    confusion: FloatArray  # (G, C·C), true class major
    losses: FloatArray  # (G, 2): squared error, negative log likelihood
    gaps: FloatArray  # (G, B): confidence minus correctness
    rankings: tuple[_Ranking, ...]

    @classmethod
    def of(cls, predictions: Predictions, *, ranked: bool = True) -> Sheet:
        """Sum up predictions; `ranked=False` leaves out what only AUROC needs."""
        count = len(predictions.classes)
        groups, group_count = predictions.group_indices()
        labels, probabilities, predicted = predictions.labels, predictions.probabilities, predictions.predicted
        rows = np.arange(labels.size)
        positive = None if predictions.positive is None else predictions.classes.index(predictions.positive)

        cells = (groups * count + labels) * count + predicted
        confusion = np.bincount(cells, minlength=group_count * count * count)

        errors = probabilities.copy()
        errors[rows, labels] -= 1
        squared = (errors**2).sum(axis=1) / (2 if count == 2 else 1)
        surprise = -np.log(np.clip(probabilities[rows, labels], LOG_LOSS_EPS, 1 - LOG_LOSS_EPS))
        losses = [np.bincount(groups, weights=loss, minlength=group_count) for loss in (squared, surprise)]

        confidence = probabilities[rows, predicted]
        bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
        gaps = np.bincount(
            groups * ECE_BINS + bins, weights=confidence - (predicted == labels), minlength=group_count * ECE_BINS
        )
        return cls(
            class_count=count,
            group_count=group_count,
            positive=positive,
            confusion=confusion.reshape(group_count, count * count).astype(np.float64),
            losses=np.stack(losses, axis=1),
            gaps=gaps.reshape(group_count, ECE_BINS).astype(np.float64),
            rankings=tuple(_rankings(predictions, groups, positive)) if ranked else (),
        )


def _rankings(predictions: Predictions, groups: IntArray, positive: int | None) -> Iterator[_Ranking]:
    """Rank each class that is neither empty nor alone; of two classes one, the positive or last, for both."""
    count = len(predictions.classes)
    last = count - 1
    for c in range(count) if count > 2 else (last if positive is None else positive,):
        ours, scores = predictions.labels == c, predictions.probabilities[:, c]
        if ours.all() or not ours.any():
            continue
        order = np.argsort(scores[~ours], kind="stable")
        sorted_scores = scores[~ours][order]
        yield _Ranking(
            classes=(c,) if count > 2 else (0, 1),
            positives=groups[ours],
            negatives=groups[~ours][order],
            below=np.searchsorted(sorted_scores, scores[ours], side="left").astype(np.int64),
            not_above=np.searchsorted(sorted_scores, scores[ours], side="right").astype(np.int64),
        )


# ---------------------------------------------------------------------------------- what a weighting gives


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """The weighted sums of R resamples; every metric is a function of these alone."""

    positive: int | None
    total: FloatArray  # (R,) images
    support: FloatArray  # (R, C) images of each true class
    calls: FloatArray  # (R, C) images that each class was given to
    hits: FloatArray  # (R, C) images of each class that were told right
    squared: FloatArray  # (R,)
    surprise: FloatArray  # (R,)
    gaps: FloatArray  # (R, B)
    aurocs: FloatArray  # (R, C), NaN without both sides or where not asked for


def tally(sheet: Sheet, weights: Weights) -> Tally:
    """Sum up each of R resamples, given how often each group counts: `weights` (R, G), integers from 0.

    Raises ValueError for another shape.
    """
    if weights.ndim != 2 or weights.shape[1] != sheet.group_count:
        raise ValueError(f"weights must be (R, {sheet.group_count}), got shape {weights.shape}")
    by_group = weights.astype(np.float64)
    resamples, count = len(weights), sheet.class_count
    confusion = (by_group @ sheet.confusion).reshape(resamples, count, count)
    losses = by_group @ sheet.losses
    aurocs = np.full((resamples, count), np.nan)
    by_resample = np.ascontiguousarray(by_group.T)
    for ranking in sheet.rankings:
        aurocs[:, ranking.classes] = _auroc(ranking, by_resample)[:, None]
    return Tally(
        positive=sheet.positive,
        total=confusion.sum(axis=(1, 2)),
        support=confusion.sum(axis=2),
        calls=confusion.sum(axis=1),
        hits=np.diagonal(confusion, axis1=1, axis2=2),
        squared=losses[:, 0],
        surprise=losses[:, 1],
        gaps=by_group @ sheet.gaps,
        aurocs=aurocs,
    )


def _auroc(ranking: _Ranking, by_resample: FloatArray) -> FloatArray:
    """Share (R,) of pairs of a positive and a negative that are in order, a tie counting half; `by_resample` is (G, R).

    Source: Hanley and McNeil 1982, Radiology 143:29 (AUROC as the Mann-Whitney statistic).
    """
    negatives = by_resample[ranking.negatives]
    beaten = np.zeros((len(negatives) + 1, by_resample.shape[1]))
    np.cumsum(negatives, axis=0, out=beaten[1:])
    positives = by_resample[ranking.positives]
    pairs = positives.sum(axis=0) * beaten[-1]
    in_order = np.einsum("nr,nr->r", positives, beaten[ranking.below] + beaten[ranking.not_above]) / 2
    return _ratio(in_order, pairs)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Divide, giving NaN where `whole` is zero."""
    ratio: FloatArray = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole != 0)
    return ratio


def _mean_over_classes(figures: FloatArray, tallied: Tally) -> FloatArray:
    """Average (R, C) over the classes that have images and a defined figure; NaN where there is none."""
    counted = (tallied.support > 0) & ~np.isnan(figures)
    return _ratio(np.where(counted, figures, 0).sum(axis=1), counted.sum(axis=1).astype(np.float64))


def _recall(tallied: Tally) -> FloatArray:
    return _ratio(tallied.hits, tallied.support)


def _precision(tallied: Tally) -> FloatArray:
    return np.where(tallied.support > 0, _ratio(tallied.hits, tallied.calls), np.nan)


def _f1(tallied: Tally) -> FloatArray:
    whole = np.where(tallied.support > 0, tallied.support + tallied.calls, 0)
    return _ratio(2 * tallied.hits, whole)


def _mcc(tallied: Tally) -> FloatArray:
    """Source: Gorodkin 2004, Comput. Biol. Chem. 28:367, R_K in terms of the confusion matrix."""
    total, support, calls = tallied.total, tallied.support, tallied.calls
    covariance = tallied.hits.sum(axis=1) * total - (support * calls).sum(axis=1)
    true_spread = total**2 - (support**2).sum(axis=1)
    call_spread = total**2 - (calls**2).sum(axis=1)
    whole = np.sqrt(true_spread * call_spread)
    return np.where(true_spread == 0, np.nan, np.where(whole == 0, 0.0, _ratio(covariance, whole)))


def _positive_recall(tallied: Tally) -> FloatArray:
    if tallied.positive is None:
        return np.full(len(tallied.total), np.nan)
    return _recall(tallied)[:, tallied.positive]


def _negative_recall(tallied: Tally) -> FloatArray:
    if tallied.positive is None:
        return np.full(len(tallied.total), np.nan)
    return _recall(tallied)[:, 1 - tallied.positive]


# ---------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure about predictions: what it says, which way is better, and how it follows from a tally."""

    name: str
    title: str
    says: str
    greater_is_better: bool
    least: float
    most: float
    figure: Callable[[Tally], FloatArray]
    two_classes_only: bool = False
    ranks: bool = False


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            title="Accuracy",
            says="Share of images whose most probable class is the true one.",
            greater_is_better=True,
            least=0,
            most=1,
            figure=lambda t: _ratio(t.hits.sum(axis=1), t.total),
        ),
        Metric(
            name="balanced_accuracy",
            title="Balanced accuracy",
            says="Mean recall of the classes that have images: a rare class counts as much as a frequent one.",
            greater_is_better=True,
            least=0,
            most=1,
            figure=lambda t: _mean_over_classes(_recall(t), t),
        ),
        Metric(
            name="macro_f1",
            title="Macro F1",
            says=(
                "Mean F1 of the classes that have images. Images wrongly given to a class without images lower it only "
                "through the recall of their own class."
            ),
            greater_is_better=True,
            least=0,
            most=1,
            figure=lambda t: _mean_over_classes(_f1(t), t),
        ),
        Metric(
            name="mcc",
            title="Matthews correlation",
            says=(
                "Correlation of true and predicted classes; 0 is chance, and is given where every image got one class. "
                "Undefined where the images are of one class."
            ),
            greater_is_better=True,
            least=-1,
            most=1,
            figure=_mcc,
        ),
        Metric(
            name="auroc",
            title="AUROC",
            says=(
                "Chance that an image of the class scores above one that is not, ties half; beyond two classes the "
                "mean of each class with images against the rest. Undefined where the images are of one class."
            ),
            greater_is_better=True,
            least=0,
            most=1,
            figure=lambda t: _mean_over_classes(t.aurocs, t),
            ranks=True,
        ),
        Metric(
            name="sensitivity",
            title="Sensitivity",
            says="Share of images of the positive class that were told as such. Two classes only.",
            greater_is_better=True,
            least=0,
            most=1,
            figure=_positive_recall,
            two_classes_only=True,
        ),
        Metric(
            name="specificity",
            title="Specificity",
            says="Share of images of the negative class that were told as such. Two classes only.",
            greater_is_better=True,
            least=0,
            most=1,
            figure=_negative_recall,
            two_classes_only=True,
        ),
        Metric(
            name="brier",
            title="Brier score",
            says=(
                "Mean squared error of the probabilities: summed over the classes beyond two classes (0 to 2), of the "
                "positive class alone for two (0 to 1)."
            ),
            greater_is_better=False,
            least=0,
            most=2,
            figure=lambda t: _ratio(t.squared, t.total),
        ),
        Metric(
            name="ece",
            title="Expected calibration error",
            says=(
                f"Gap between confidence and accuracy of the most probable class in {ECE_BINS} equally wide bins of "
                "confidence, each bin counting by its share of images. Biased upwards where images are few."
            ),
            greater_is_better=False,
            least=0,
            most=1,
            figure=lambda t: _ratio(np.abs(t.gaps).sum(axis=1), t.total),
        ),
        Metric(
            name="log_loss",
            title="Log loss",
            says="Mean of −ln of the probability of the true class, which is clipped 2⁻⁵² away from 0 and 1.",
            greater_is_better=False,
            least=0,
            most=math.inf,
            figure=lambda t: _ratio(t.surprise, t.total),
        ),
    )
}


def metric_figures(
    predictions: Predictions, weights: Weights | None = None, names: Iterable[str] = tuple(METRICS)
) -> dict[str, FloatArray]:
    """Give the metrics `names` of R resamples, each (R,) with NaN where undefined.

    `weights` (R, G) says how often each group of `Predictions.group_indices` counts; None counts each once (R = 1).
    Raises ValueError for an unknown name or a wrong shape.
    """
    wanted = [find_metric(name) for name in names]
    sheet = Sheet.of(predictions, ranked=any(metric.ranks for metric in wanted))
    counted = tally(sheet, np.ones((1, sheet.group_count), dtype=np.int64) if weights is None else weights)
    return {metric.name: metric.figure(counted) for metric in wanted}


def find_metric(name: str) -> Metric:
    """Give the entry of the table; raises ValueError that lists the names for any other."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


# ---------------------------------------------------------------------------------- one class each


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """What is known of one class; all None but the counts where it has no images.

    `support` counts its images, `groups` the groups that hold any. `precision` is None too where the class was never
    predicted, `auroc` where every image is of this class. For two classes both share one AUROC.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    support: int
    groups: int


def as_figure(value: float) -> float | None:
    """Turn NaN, which is undefined, into None."""
    return None if math.isnan(value) else float(value)


def groups_by_class(predictions: Predictions) -> IntArray:
    """Count the images (G, C) of each class in each group."""
    groups, group_count = predictions.group_indices()
    count = len(predictions.classes)
    cells = np.bincount(groups * count + predictions.labels, minlength=group_count * count)
    return cells.reshape(group_count, count).astype(np.int64)


def per_class(predictions: Predictions) -> dict[str, ClassFigures]:
    """Give the figures of each class, in class order."""
    sheet = Sheet.of(predictions)
    counted = tally(sheet, np.ones((1, sheet.group_count), dtype=np.int64))
    columns = [figure[0].tolist() for figure in (_precision(counted), _recall(counted), _f1(counted), counted.aurocs)]
    present = counted.support[0] > 0
    groups = (groups_by_class(predictions) > 0).sum(axis=0)
    return {
        name: ClassFigures(
            precision=as_figure(columns[0][c]),
            recall=as_figure(columns[1][c]),
            f1=as_figure(columns[2][c]),
            auroc=as_figure(columns[3][c]) if present[c] else None,
            support=int(counted.support[0, c]),
            groups=int(groups[c]),
        )
        for c, name in enumerate(predictions.classes)
    }


def confusion(predictions: Predictions) -> IntArray:
    """Count the images (C, C) by true class (rows) and predicted class (columns)."""
    count = len(predictions.classes)
    cells = np.bincount(predictions.labels * count + predictions.predicted, minlength=count * count)
    return cells.reshape(count, count).astype(np.int64)
