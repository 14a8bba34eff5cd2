"""Intervals come from drawing whole groups again, never images of one patient apart.

The bootstrap has three parts that can change alone: `refusal` (whether there may be an interval), `resamples_of` (which
groups are drawn), and `percentile_interval` (how draws become two ends).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from leukemia_cli.judging.metrics import METRICS, Sheet, as_figure, find_metric, groups_by_class, metric_figures, tally
from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

# With fewer groups a class has too few different resamples: 4 groups give 35.
FEWEST_GROUPS = 5
MOST_UNDEFINED = 0.05
# A constant, because the stream of random numbers is cut by it: another value gives other intervals for the same seed.
_BLOCK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure of n images in that many groups; `low` and `high` are both None or both not, and `method` says why.

    `value` is None where the figure is undefined. Where groups are unknown, `groups` counts images.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Two ends, or none, and how they came about."""

    low: float | None
    high: float | None
    method: str


def strata_of(predictions: Predictions) -> IntArray:
    """Give the stratum (G,) of each group: the class most of its images have; of equals the first in class order."""
    strata: IntArray = groups_by_class(predictions).argmax(axis=1).astype(np.int64)
    return strata


def refusal(predictions: Predictions) -> str | None:
    """Say why there can be no interval, or None where there can.

    Each class with images must lie in at least `FEWEST_GROUPS` groups, and so must each stratum that has any group.
    """
    unit = "groups" if predictions.groups_known else "images"
    by_class = groups_by_class(predictions)
    holding = (by_class > 0).sum(axis=0)
    leading = np.bincount(strata_of(predictions), minlength=len(predictions.classes))
    for name, groups, led in zip(predictions.classes, holding.tolist(), leading.tolist(), strict=True):
        if 0 < groups < FEWEST_GROUPS:
            return f"no interval: class {name} has {_count(groups, unit)}, fewer than {FEWEST_GROUPS}"
        if 0 < led < FEWEST_GROUPS:
            return f"no interval: class {name} leads in {_count(led, unit)}, fewer than {FEWEST_GROUPS}"
    return None


def _count(number: int, unit: str) -> str:
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def resamples_of(predictions: Predictions, *, resamples: int, seed: int) -> Iterator[IntArray]:
    """Yield blocks (≤ 100, G) of how often each group was drawn with replacement within its stratum, `resamples` rows.

    The same groups and labels with the same seed give the same blocks.
    """
    strata = strata_of(predictions)
    members = [np.flatnonzero(strata == c) for c in range(len(predictions.classes))]
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        weights = np.zeros((rows, strata.size), dtype=np.int64)
        for groups in members:
            if groups.size:
                drawn = random.integers(groups.size, size=(_BLOCK, groups.size))[:rows]
                cells = np.bincount(
                    (drawn + np.arange(rows)[:, None] * groups.size).ravel(), minlength=rows * groups.size
                )
                weights[:, groups] = cells.reshape(rows, groups.size)
        yield weights


def bootstrap_draws(
    predictions: Predictions, names: Iterable[str], *, resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Give each metric (resamples,) on the resampled groups; NaN where undefined.

    A resample that lost a class which the images have is NaN for every metric: it averages over other classes.
    """
    wanted = [find_metric(name) for name in names]
    sheet = Sheet.of(predictions, ranked=any(metric.ranks for metric in wanted))
    present = groups_by_class(predictions).sum(axis=0) > 0
    blocks: dict[str, list[FloatArray]] = {metric.name: [] for metric in wanted}
    for weights in resamples_of(predictions, resamples=resamples, seed=seed):
        counted = tally(sheet, weights)
        whole = (counted.support[:, present] > 0).all(axis=1)
        for metric in wanted:
            blocks[metric.name].append(np.where(whole, metric.figure(counted), np.nan))
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def percentile_interval(draws: FloatArray, *, level: float) -> tuple[float, float]:
    """Give the ends that leave (1 − level) / 2 of the draws outside on either side.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of(predictions: Predictions, value: float | None, draws: FloatArray, *, level: float) -> Interval:
    """Turn draws (R,), NaN where undefined, into an interval around `value`; the method tells every caveat."""
    undefined = np.isnan(draws)
    share = float(undefined.mean())
    if share > MOST_UNDEFINED:
        return Interval(
            low=None,
            high=None,
            method=f"no interval: undefined in {100 * share:.0f} % of resamples, more than {100 * MOST_UNDEFINED:g} %",
        )
    low, high = percentile_interval(draws[~undefined], level=level)
    method = f"{_kind(predictions)} ({100 * level:g} % percentile, {draws.size} resamples)"
    if low == high:
        method += "; every resample gave the same figure, so the interval is narrower than what is known"
    elif value is not None and not low <= value <= high:
        method += "; the figure lies outside its interval, because resampling biases it"
    return Interval(low=low, high=high, method=method)


def _kind(predictions: Predictions) -> str:
    if not predictions.groups_known:
        return "image bootstrap, groups unknown: optimistic"
    return "group bootstrap over proposed groups" if predictions.groups_source == "proposed" else "group bootstrap"


def check_bootstrap(*, resamples: int, level: float) -> None:
    """Raise ValueError for no resamples, or a level that is not between 0 and 1."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def group_bootstrap(
    predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate every metric of the table, with an interval from groups drawn with replacement within their class.

    A group that holds several classes belongs to the stratum of its majority class; ties go by class order.
    `low` and `high` are None, with the reason in `method`, where `refusal` gives one, where the figure is undefined,
    and where it is undefined in more than 5 % of resamples. Deterministic by seed.
    Raises ValueError for a level outside (0, 1) or no resamples.
    """
    check_bootstrap(resamples=resamples, level=level)
    values = plain_values(predictions, METRICS)
    refused = refusal(predictions)
    defined = [name for name, value in values.items() if value is not None]
    draws: Mapping[str, FloatArray] = {}
    if refused is None:
        draws = bootstrap_draws(predictions, defined, resamples=resamples, seed=seed)
    n, groups = predictions.image_count, predictions.group_indices()[1]
    estimates = {}
    for name, value in values.items():
        if value is None:
            interval = Interval(low=None, high=None, method=_undefined(name, predictions))
        elif refused is not None:
            interval = Interval(low=None, high=None, method=refused)
        else:
            interval = interval_of(predictions, value, draws[name], level=level)
        estimates[name] = Estimate(
            value=value, low=interval.low, high=interval.high, n=n, groups=groups, method=interval.method
        )
    return estimates


def plain_values(predictions: Predictions, names: Iterable[str]) -> dict[str, float | None]:
    """Give each metric with every group counted once; None where undefined."""
    return {name: as_figure(float(figures[0])) for name, figures in metric_figures(predictions, names=names).items()}


def _undefined(name: str, predictions: Predictions) -> str:
    present = [
        c for c, count in zip(predictions.classes, groups_by_class(predictions).sum(axis=0), strict=True) if count
    ]
    if METRICS[name].two_classes_only:
        if len(predictions.classes) > 2:
            return "undefined beyond two classes"
        if predictions.positive is None:
            return "undefined: no positive class was named"
    if len(present) == 1:
        return f"undefined: every image is of class {present[0]}"
    return "undefined"
