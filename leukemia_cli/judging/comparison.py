"""Two models are compared on the same images and the same resampled groups, never by whether intervals overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leukemia_cli.judging.intervals import (
    Interval,
    Spread,
    check_bootstrap,
    drawing,
    interval_of,
    plain_values,
    refusal,
    spreads_of,
)
from leukemia_cli.judging.metrics import METRICS, Sheet, find_metric, tally
from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

# Sums of the same figures in another order differ by less; an exchange that only reorders must count as no change.
_ROUNDING = 1e-12
_BLOCK = 500


MCNEMAR_METRIC = "accuracy"
"""McNemar's test asks whether two models are right on equally many images: a question about accuracy alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of a minus the same of b; `low` and `high` are both None or both not, and `method` says why."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str
    freedom: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A two-sided p value, None where the figure is undefined, and which test gave it on how many groups or images."""

    p: float | None
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two models by name, how much one metric differs, and how surprising that would be if they were the same.

    `p_holm` is `p` adjusted for every contrast made together.
    """

    a: str
    b: str
    difference: Difference
    p: float | None
    p_holm: float | None
    test: str


# ---------------------------------------------------------------------------------- how much they differ


def paired_difference(
    a: Predictions, b: Predictions, metric: str, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Estimate `metric` of a minus b; every resample draws the same groups for both.

    The rules of `group_bootstrap` hold: strata, refusals, undefined figures. Raises ValueError where a and b are not
    predictions of the same images in the same order, for an unknown metric, and for a level outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    _check_same_images(a, b)
    side_a, side_b = (_Side.of(side, [metric], resamples=resamples, seed=seed) for side in (a, b))
    return _paired(side_a, side_b, metric, level=level)


def independent_difference(
    a: Predictions, b: Predictions, metric: str, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Estimate `metric` of a minus b on different images; each side draws its own groups, apart from the other.

    `n` and `groups` count both sides; no group may lie on both, which is not checked. There is no interval where either
    side can have none. Raises ValueError for other classes, an unknown metric, and a level outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    _check_same_classes(a, b)
    # The same seed would draw the same places on both sides where they have equally many groups.
    other_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    side_a = _Side.of(a, [metric], resamples=resamples, seed=seed)
    side_b = _Side.of(b, [metric], resamples=resamples, seed=other_seed)
    drawn = drawing(a) if drawing(a) == drawing(b) else f"{drawing(a)} against {drawing(b)}"
    return _difference(
        metric,
        side_a,
        side_b,
        spread=side_a.spreads[metric].minus_apart(side_b.spreads[metric]) if _both(side_a, side_b, metric) else None,
        level=level,
        drawn=f"independent {drawn}",
        n=a.image_count + b.image_count,
        groups=a.group_indices()[1] + b.group_indices()[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """What is known of one model apart from any other: figures, and their spreads where there may be intervals."""

    predictions: Predictions
    values: Mapping[str, float | None]
    refused: str | None
    spreads: Mapping[str, Spread]

    @classmethod
    def of(cls, predictions: Predictions, metrics: Sequence[str], *, resamples: int, seed: int) -> _Side:
        values = plain_values(predictions, metrics)
        refused = refusal(predictions)
        defined = [name for name, value in values.items() if value is not None]
        spreads = {} if refused else spreads_of(predictions, defined, resamples=resamples, seed=seed)
        return cls(predictions=predictions, values=values, refused=refused, spreads=spreads)


def _both(a: _Side, b: _Side, metric: str) -> bool:
    return metric in a.spreads and metric in b.spreads


def _paired(a: _Side, b: _Side, metric: str, *, level: float) -> Difference:
    return _difference(
        metric,
        a,
        b,
        spread=a.spreads[metric].minus(b.spreads[metric]) if _both(a, b, metric) else None,
        level=level,
        drawn=f"paired {drawing(a.predictions)}",
        n=a.predictions.image_count,
        groups=a.predictions.group_indices()[1],
    )


def _difference(
    metric: str, a: _Side, b: _Side, *, spread: Spread | None, level: float, drawn: str, n: int, groups: int
) -> Difference:
    value_a, value_b = a.values[metric], b.values[metric]
    if value_a is None or value_b is None:
        value, interval = None, Interval(low=None, high=None, method="undefined for these images")
    else:
        value = value_a - value_b
        if spread is None:
            interval = Interval(low=None, high=None, method=a.refused or b.refused or "")
        else:
            whole = METRICS[metric].most - METRICS[metric].least
            interval = interval_of(value, spread, level=level, least=-whole, most=whole, drawn=drawn)
    return Difference(
        metric=metric,
        value=value,
        low=interval.low,
        high=interval.high,
        n=n,
        groups=groups,
        method=interval.method,
        freedom=interval.freedom,
    )


# ---------------------------------------------------------------------------------- whether chance would do it


def sign_flip(a: Predictions, b: Predictions, metric: str, *, flips: int = 10_000, seed: int = 0) -> Test:
    """Test whether a and b could be exchanged: within each group their predictions change places with a chance of a half.

    The statistic is the difference of `metric`, two-sided. Every exchange is made where there are at most `flips`; else
    p = (1 + as great or greater) / (1 + flips), and the seed decides. Raises ValueError where the groups are unknown,
    for predictions of other images, an unknown metric, and fewer than one flip.
    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010, SAGMB 9:39 (the added one).
    """
    return _sign_flips(a, b, [metric], flips=flips, seed=seed)[metric]


def _sign_flips(a: Predictions, b: Predictions, metrics: Sequence[str], *, flips: int, seed: int) -> dict[str, Test]:
    _check_same_images(a, b)
    if not a.groups_known:
        raise ValueError("images of unknown groups cannot be exchanged by group; see mcnemar_exact")
    if flips < 1:
        raise ValueError(f"flips must be at least 1, got {flips}")
    wanted = [find_metric(name) for name in metrics]
    indices, groups = a.group_indices()
    # Both models side by side as twice the groups: how often each side's group counts then says who predicted it.
    both = Predictions(
        classes=a.classes,
        positive=a.positive,
        labels=np.concatenate([a.labels, b.labels]),
        probabilities=np.concatenate([a.probabilities, b.probabilities]),
        groups=tuple(f"{side}{index:09}" for side in "ab" for index in indices.tolist()),
        groups_source="given",
    )
    sheet = Sheet.of(both, ranked=any(metric.ranks for metric in wanted))

    def differences(flipped: IntArray) -> dict[str, FloatArray]:
        left = tally(sheet, np.concatenate([1 - flipped, flipped], axis=1))
        right = tally(sheet, np.concatenate([flipped, 1 - flipped], axis=1))
        return {metric.name: metric.figure(left) - metric.figure(right) for metric in wanted}

    observed = {name: abs(float(found[0])) for name, found in differences(np.zeros((1, groups), np.int64)).items()}
    every = 2**groups <= flips
    as_great = dict.fromkeys(observed, 0)
    for flipped in _all_flips(groups) if every else _random_flips(groups, flips=flips, seed=seed):
        for name, found in differences(flipped).items():
            as_great[name] += int((np.abs(found) >= observed[name] - _ROUNDING).sum())
    test = f"sign-flip over {groups} groups, {f'all {2**groups}' if every else f'{flips} random'} exchanges"
    tests = {}
    for name, value in observed.items():
        if math.isnan(value):
            tests[name] = Test(p=None, test="no test: undefined for these images")
        else:
            p = as_great[name] / 2**groups if every else (1 + as_great[name]) / (1 + flips)
            tests[name] = Test(p=p, test=test)
    return tests


def _all_flips(groups: int) -> Iterator[IntArray]:
    for start in range(0, 2**groups, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, 2**groups))
        yield (numbers[:, None] >> np.arange(groups)) & 1


def _random_flips(groups: int, *, flips: int, seed: int) -> Iterator[IntArray]:
    random = np.random.default_rng(seed)
    for start in range(0, flips, _BLOCK):
        yield random.integers(2, size=(min(_BLOCK, flips - start), groups))


def mcnemar_exact(a: Predictions, b: Predictions) -> Test:
    """Test whether a and b are right equally often, from the images that one alone told right; two-sided, exact.

    Images count as independent, so it is for images whose groups are unknown alone.
    Raises ValueError where groups are known, and for predictions of other images.
    Source: McNemar 1947, Psychometrika 12:153, with the exact binomial tail.
    """
    _check_same_images(a, b)
    if a.groups_known:
        raise ValueError("images of one group are not independent; see sign_flip")
    right_a, right_b = a.predicted == a.labels, b.predicted == b.labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return Test(
        p=min(1.0, 2 * tail / 2**discordant),
        test=f"exact McNemar of accuracy, groups unknown: optimistic ({only_a} images against {only_b})",
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjust p values made together, so that the chance of any false finding stays what it was for one.

    None stays None and does not count. Raises ValueError for a value outside 0 to 1.
    Source: Holm 1979, Scand. J. Statist. 6:65.
    """
    ranked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        if not 0 <= p <= 1:
            raise ValueError(f"p value {p} lies outside 0 to 1")
        highest = max(highest, min(1.0, (len(ranked) - rank) * p))
        adjusted[place] = highest
    return tuple(adjusted)


def compare_pairs(
    named: Mapping[str, Predictions],
    metrics: Sequence[str] = ("balanced_accuracy", "macro_f1"),
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    flips: int = 10_000,
) -> tuple[Contrast, ...]:
    """Compare `pairs` of models (None: every two) by every metric, in order; p values are adjusted over all of them.

    Sign-flip tests where groups are known. Where they are not, McNemar's exact test is of accuracy alone: accuracy is
    compared as well, and the other metrics are not tested.
    Raises ValueError where not all are predictions of the same images in the same order, and as the parts do.
    """
    check_bootstrap(resamples=resamples, level=level)
    pairs = list(itertools.combinations(named, 2)) if pairs is None else pairs
    for a, b in pairs:
        _check_same_images(named[a], named[b])
    known = all(one.groups_known for one in named.values())
    metrics = metrics if known else tuple(dict.fromkeys((*metrics, MCNEMAR_METRIC)))
    sides = {name: _Side.of(one, metrics, resamples=resamples, seed=seed) for name, one in named.items()}
    rows: list[tuple[str, str, Difference, Test]] = []
    for a, b in pairs:
        if known:
            tests = _sign_flips(named[a], named[b], metrics, flips=flips, seed=seed)
        else:
            untested = Test(p=None, test="not tested: groups unknown, and McNemar's test is of accuracy")
            tests = dict.fromkeys(metrics, untested) | {MCNEMAR_METRIC: mcnemar_exact(named[a], named[b])}
        rows += [(a, b, _paired(sides[a], sides[b], metric, level=level), tests[metric]) for metric in metrics]
    adjusted = holm([test.p for _, _, _, test in rows])
    return tuple(
        Contrast(a=a, b=b, difference=difference, p=test.p, p_holm=p_holm, test=test.test)
        for (a, b, difference, test), p_holm in zip(rows, adjusted, strict=True)
    )


# ---------------------------------------------------------------------------------- what can be compared


def _check_same_classes(a: Predictions, b: Predictions) -> None:
    if (a.classes, a.positive) != (b.classes, b.positive):
        raise ValueError(
            f"cannot pair classes {list(a.classes)} (positive {a.positive}) "
            f"with {list(b.classes)} (positive {b.positive})"
        )


def _check_same_images(a: Predictions, b: Predictions) -> None:
    _check_same_classes(a, b)
    if a.image_count != b.image_count:
        raise ValueError(f"cannot pair {a.image_count} images with {b.image_count}")
    for image in np.flatnonzero(a.labels != b.labels)[:1]:
        raise ValueError(
            f"image {image} is {a.classes[a.labels[image]]} on one side and {b.classes[b.labels[image]]} on the other"
        )
    if a.groups_known != b.groups_known:
        raise ValueError("groups are known on one side only")
    if a.groups_known and a.groups != b.groups:
        image = next(i for i, (left, right) in enumerate(zip(a.groups, b.groups, strict=True)) if left != right)
        raise ValueError(
            f"image {image} is of group {a.groups[image]!r} on one side and {b.groups[image]!r} on the other"
        )
