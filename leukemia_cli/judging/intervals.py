"""Intervals come from drawing whole groups again, never images of one patient apart.

The parts can change alone: `refusal` (whether there may be an interval), `resamples_of` (which groups are drawn),
`degrees_of_freedom` (how well the spread itself is known) and `t_interval` (how all this becomes two ends).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from leukemia_cli.judging.metrics import (
    METRICS,
    Sheet,
    as_figure,
    confusion,
    find_metric,
    groups_by_class,
    metric_figures,
    tally,
)
from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

# With fewer groups a class has too few different resamples: 4 groups give 35.
FEWEST_GROUPS = 5
MOST_UNDEFINED = 0.05
# A constant, because the stream of random numbers is cut by it: another value gives other intervals for the same seed.
_BLOCK = 100
# Figures of resamples that differ by less are the same figure, summed in another order.
_ROUNDING = 1e-12
# Satterthwaite's factor is 2. Few groups show too little of their fourth moment, the less the closer a figure is to its
# bound, so that 2 covers too seldom there: benchmarks/coverage.py, by which this factor was chosen.
_MATCH = 1.5


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
    freedom: float | None = None
    """Degrees of freedom of a t interval: how well its width is known. None for any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Two ends, or none, and how they came about; `freedom` are the degrees of freedom of a t interval."""

    low: float | None
    high: float | None
    method: str
    freedom: float | None = None


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


def _leaving_out(groups: int) -> Iterator[IntArray]:
    """Yield blocks (≤ 100, G) of weights that are one but for one group each."""
    for start in range(0, groups, _BLOCK):
        left = np.arange(start, min(start + _BLOCK, groups))
        weights = np.ones((left.size, groups), dtype=np.int64)
        weights[np.arange(left.size), left] = 0
        yield weights


def left_out_figures(predictions: Predictions, names: Iterable[str]) -> dict[str, FloatArray]:
    """Give each metric (G,) without one group after the other; NaN where undefined."""
    wanted = [find_metric(name) for name in names]
    sheet = Sheet.of(predictions, ranked=any(metric.ranks for metric in wanted))
    tallies = [tally(sheet, weights) for weights in _leaving_out(sheet.group_count)]
    return {metric.name: np.concatenate([metric.figure(counted) for counted in tallies]) for metric in wanted}


# ---------------------------------------------------------------------------------- from resamples to two ends


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """How a figure moves with the groups: `draws` (R,) of the bootstrap and `left_out` (G,), each without one group.

    Both are NaN where undefined; `strata` (G,) says among which groups each was drawn.
    """

    draws: FloatArray
    left_out: FloatArray
    strata: IntArray

    def minus(self, other: Self) -> Self:
        """Give the spread of the difference of two figures of the same groups, drawn together."""
        return type(self)(draws=self.draws - other.draws, left_out=self.left_out - other.left_out, strata=self.strata)

    def minus_apart(self, other: Self) -> Self:
        """Give the spread of the difference of two figures of different groups, drawn apart."""
        return type(self)(
            draws=self.draws - other.draws,
            left_out=np.concatenate([self.left_out, -other.left_out]),
            strata=np.concatenate([self.strata, other.strata + self.strata.max() + 1]),
        )


def spreads_of(predictions: Predictions, names: Iterable[str], *, resamples: int, seed: int) -> dict[str, Spread]:
    """Give the spread of each metric; for the same groups, labels and seed the draws go together."""
    wanted = tuple(names)
    draws = bootstrap_draws(predictions, wanted, resamples=resamples, seed=seed)
    left_out, strata = left_out_figures(predictions, wanted), strata_of(predictions)
    return {name: Spread(draws=draws[name], left_out=left_out[name], strata=strata) for name in wanted}


def standard_error(spread: Spread) -> float:
    """Give the standard deviation of the defined draws, enlarged for strata of few groups.

    Resamples of n groups have (n − 1) / n of the variance they should; each stratum counts by its share of the variance.
    Source: Hesterberg 2015, Am. Stat. 69:371.
    """
    shares, sizes = _variances(spread).sum(axis=1), _sizes(spread.strata)
    kept = (shares * (sizes - 1) / sizes).sum() / shares.sum() if shares.any() else 1.0
    return float(np.std(spread.draws[~np.isnan(spread.draws)]) / np.sqrt(kept))


def degrees_of_freedom(spread: Spread) -> float:
    """Say how well the variance is known: near the number of groups where all contribute alike, 1.5 where one group alone does.

    Matches a χ² to the variance of the variance, which the fourth powers of the groups' contributions tell; at most the
    groups less the strata. Source: Satterthwaite 1946, Biometrics Bulletin 2:110.
    """
    variances = _variances(spread)
    most = float((_sizes(spread.strata) - 1).sum())
    return min(most, _MATCH * float(variances.sum()) ** 2 / float((variances**2).sum()))


def _variances(spread: Spread) -> FloatArray:
    """Give what each group contributes to the stratified jackknife variance, (strata, G), zero outside its stratum."""
    within = spread.strata == np.unique(spread.strata)[:, None]
    sizes = within.sum(axis=1, keepdims=True)
    centres = (within * spread.left_out).sum(axis=1, keepdims=True) / sizes
    variances: FloatArray = within * (spread.left_out - centres) ** 2 * (sizes - 1) / sizes
    return variances


def _sizes(strata: IntArray) -> FloatArray:
    """Count the groups of each stratum that has any."""
    return np.unique(strata, return_counts=True)[1].astype(np.float64)


def t_interval(
    value: float, error: float, freedom: float, *, level: float, least: float = -math.inf, most: float = math.inf
) -> tuple[float, float]:
    """Give value ± t · error on a scale that cannot leave the range: log-odds, log, or none where nothing bounds it.

    Source: delta method; Student's t with `freedom` degrees. Raises ValueError for a range bounded from above alone.
    """
    from scipy import special

    reach = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    if math.isinf(least) and math.isinf(most):
        return value - reach, value + reach
    if math.isinf(least):
        raise ValueError(f"no scale for a range from {least} to {most}")
    above = max(value - least, _ROUNDING)
    if math.isinf(most):
        return least + above * math.exp(-reach / above), least + above * math.exp(min(reach / above, 700.0))
    whole = most - least
    part = min(max((value - least) / whole, _ROUNDING), 1 - _ROUNDING)
    centre, half = special.logit(part), reach / whole / (part * (1 - part))
    low, high = (least + whole * float(special.expit(centre + side)) for side in (-half, half))
    return min(low, value), max(high, value)


def unanimous_interval(value: float, groups: int, *, level: float, least: float, most: float) -> tuple[float, float]:
    """Give how far `value` may be off though all groups agree on it.

    At most a share 1 − ((1 − level) / 2)^(1 / groups) of all groups can then differ, and these by the whole range.
    Source: Clopper and Pearson 1934, Biometrika 26:404, none of `groups`.
    """
    share = 1 - ((1 - level) / 2) ** (1 / groups)
    return value - share * (value - least), value + share * (most - value)


def clopper_pearson(hits: int, total: int, *, level: float) -> tuple[float, float]:
    """Give the exact binomial interval of `hits` in `total` independent images.

    Source: Clopper and Pearson 1934, Biometrika 26:404.
    """
    from scipy import special

    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, total - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, total - hits, 1 - tail)) if hits < total else 1.0
    return low, high


def interval_of(value: float, spread: Spread, *, level: float, least: float, most: float, drawn: str) -> Interval:
    """Turn a spread into an interval around `value`, within its range; the method begins `drawn` and tells every caveat.

    Where all groups agree, resampling knows of no spread, and `unanimous_interval` stands in.
    """
    share = float(np.isnan(spread.draws).mean())
    if share > MOST_UNDEFINED:
        return _none(f"undefined in {100 * share:.0f} % of resamples, more than {100 * MOST_UNDEFINED:g} %")
    if np.isnan(spread.left_out).any():
        return _none("undefined without one of the groups")
    percent = f"{100 * level:g} %"
    if _variances(spread).max() <= (_ROUNDING * max(1.0, abs(value))) ** 2:
        if math.isinf(least) or math.isinf(most):
            return _none("all groups agree, and the figure has no bounds")
        groups = int(_sizes(spread.strata).min())
        low, high = unanimous_interval(value, groups, level=level, least=least, most=most)
        return Interval(low=low, high=high, method=f"{drawn}: all agree, exact limit for {groups} that do ({percent})")
    error, freedom = standard_error(spread), degrees_of_freedom(spread)
    if not error > 0:
        return _none(f"the resamples are too few to vary ({spread.draws.size})")
    low, high = t_interval(value, error, freedom, level=level, least=least, most=most)
    scale = "" if math.isinf(least) else " on the log scale" if math.isinf(most) else " on the log-odds scale"
    return Interval(
        low=low,
        high=high,
        method=f"{drawn} ({percent} t interval{scale}, {spread.draws.size} resamples)",
        freedom=freedom,
    )


def _none(reason: str) -> Interval:
    return Interval(low=None, high=None, method=f"no interval: {reason}")


def drawing(predictions: Predictions) -> str:
    """Say what is drawn, and what is wrong with that."""
    if not predictions.groups_known:
        return "image bootstrap, groups unknown: optimistic"
    return "group bootstrap over proposed groups" if predictions.groups_source == "proposed" else "group bootstrap"


# ---------------------------------------------------------------------------------- every metric of the table


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
    Where groups are unknown, images are drawn, but accuracy, sensitivity and specificity have exact binomial intervals.
    `low` and `high` are None, with the reason in `method`, where `refusal` gives one, where the figure is undefined,
    and where it is undefined in more than 5 % of resamples. Deterministic by seed.
    Raises ValueError for a level outside (0, 1) or no resamples.
    """
    check_bootstrap(resamples=resamples, level=level)
    values = plain_values(predictions, METRICS)
    refused = refusal(predictions)
    counts = {} if predictions.groups_known else _binomial_counts(predictions)
    spreads: Mapping[str, Spread] = {}
    if refused is None:
        drawn = [name for name, value in values.items() if value is not None and name not in counts]
        spreads = spreads_of(predictions, drawn, resamples=resamples, seed=seed)
    n, groups = predictions.image_count, predictions.group_indices()[1]
    estimates = {}
    for name, value in values.items():
        if value is None:
            interval = Interval(low=None, high=None, method=_undefined(name, predictions))
        elif refused is not None:
            interval = Interval(low=None, high=None, method=refused)
        elif name in counts:
            hits, total = counts[name]
            low, high = clopper_pearson(hits, total, level=level)
            told = f"Clopper–Pearson, groups unknown: optimistic ({100 * level:g} %, {hits} of {total} images)"
            interval = Interval(low=low, high=high, method=told)
        else:
            least, most = METRICS[name].least, METRICS[name].most
            interval = interval_of(
                value, spreads[name], level=level, least=least, most=most, drawn=drawing(predictions)
            )
        estimates[name] = Estimate(
            value=value,
            low=interval.low,
            high=interval.high,
            n=n,
            groups=groups,
            method=interval.method,
            freedom=interval.freedom,
        )
    return estimates


def _binomial_counts(predictions: Predictions) -> dict[str, tuple[int, int]]:
    """Give hits and total of the metrics that are shares of images."""
    told = confusion(predictions)
    hits, totals = np.diagonal(told).tolist(), told.sum(axis=1).tolist()
    counts = {"accuracy": (sum(hits), sum(totals))}
    if predictions.positive is not None:
        positive = predictions.classes.index(predictions.positive)
        counts["sensitivity"] = (hits[positive], totals[positive])
        counts["specificity"] = (hits[1 - positive], totals[1 - positive])
    return counts


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
