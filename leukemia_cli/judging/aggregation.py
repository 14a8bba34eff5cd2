"""From the cells of a photograph to a finding for it, and from photographs to the patient: one rule for both.

Requirements met here:
- No rule grows with the number of cells: each has the same expectation however many cells of one kind there are (from three
  on), so that a finding does not say how many there were. What their number alone would say is measured beside it.
- Which rule, and how its value becomes a probability, is chosen on cells scored out of fold; where groups are too few to
  choose by, the first rule of the table is taken.
- A photograph without cells gets equal probabilities, a hair more for the healthy class: nothing was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukemia_cli.judging.calibration import softmax
from leukemia_cli.judging.intervals import clopper_pearson
from leukemia_cli.judging.predictions import FloatArray, IntArray

Bag = FloatArray
"""Calibrated probabilities (n, C) of the n ≥ 0 cells of a photograph, or of a patient."""
Rule = Callable[[Bag, int | None], FloatArray]

_LEAST_SHARE = 0.01
_HAIR = 1e-6
_RIDGE = 0.02
_CONTROL_RIDGE = 1e-3


def _mean(bag: Bag, healthy: int | None) -> FloatArray:
    del healthy
    return np.asarray(bag.mean(axis=0))


def _geometric(bag: Bag, healthy: int | None) -> FloatArray:
    del healthy
    return np.asarray(softmax(np.log(bag.clip(_LEAST_SHARE)).mean(axis=0)[None])[0])


def _votes(bag: Bag, healthy: int | None) -> FloatArray:
    del healthy
    return np.bincount(bag.argmax(axis=1), minlength=bag.shape[1]) / len(bag)


def _worst_of_three(bag: Bag, healthy: int | None) -> FloatArray:
    """Give the mean, over all sets of three cells, of the one that looks least healthy (without a healthy class: of all).

    Of one or two cells it is the least healthy.
    """
    if healthy is None:
        return _mean(bag, healthy)
    return _of_drawn(bag, healthy, min(3, len(bag)), 1)


def _second_of_five(bag: Bag, healthy: int | None) -> FloatArray:
    """Give the mean, over all sets of five cells, of the second that looks least healthy (without a healthy class: of all).

    One cell that is misread changes nothing, two that agree do. It stands for the third of cells that look least healthy:
    the second of five lies at 2/6 of them, so of three and four cells the place (n + 1)/3 is taken, between two of them. Of
    two, where that would be the one that looks least healthy, it is their mean.
    """
    if healthy is None or len(bag) < 3:
        return _mean(bag, healthy)
    if len(bag) >= 5:
        return _of_drawn(bag, healthy, 5, 2)
    place = (len(bag) + 1) / 3
    first = int(place)
    order = np.argsort(bag[:, healthy], kind="stable")
    low, high = bag[order[first - 1]], bag[order[min(first, len(bag) - 1)]]
    return np.asarray((1 - (place - first)) * low + (place - first) * high)


def _of_drawn(bag: Bag, healthy: int, size: int, place: int) -> FloatArray:
    """Give the mean over all sets of `size` cells of the one that is at `place` (from 1) from the least healthy.

    A mean over sets of a fixed size has the same expectation for any number of cells of one kind, from that size on; that of
    a share of the cells that look least healthy would grow with the number.
    Source: a U-statistic: Hoeffding 1948, Ann. Math. Stat. 19:293. Sizes and places are our choice.
    """
    order = np.argsort(bag[:, healthy], kind="stable")
    before = np.arange(len(bag))  # cells that look less healthy than the one at this place
    weights = np.array(
        [math.comb(int(n), place - 1) * math.comb(len(bag) - 1 - int(n), size - place) for n in before], dtype=object
    )
    return np.asarray((weights / math.comb(len(bag), size)).astype(np.float64) @ bag[order])


RULES: Mapping[str, tuple[str, Rule]] = {
    "second-of-five": (
        "the mean, over all sets of five cells, of the second that looks least healthy",
        _second_of_five,
    ),
    "worst-of-three": ("the mean, over all sets of three cells, of the one that looks least healthy", _worst_of_three),
    "mean": ("the mean of the cells' probabilities", _mean),
    "geometric-mean": ("the mean of the cells' log probabilities", _geometric),
    "votes": ("the share of cells of each most probable class", _votes),
}
"""Name → what it takes of the cells, and how; the first is taken where there are too few groups to choose by. All are our
choice; the first because blasts may be few among normal cells, and one cell that is misread must not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """A rule and how its value becomes a probability: softmax of `slope` · log(value) + `offsets` (C,)."""

    rule: str
    slope: float
    offsets: tuple[float, ...]
    healthy: int | None
    """Index of the healthy class, if the task has one."""
    chosen_on: str | None
    """What rule, slope and offsets were chosen on, with its counts; None where they are the defaults."""

    def __call__(self, bags: Sequence[Bag]) -> FloatArray:
        """Give probabilities (N, C) of N bags."""
        classes = len(self.offsets)
        out = np.full((len(bags), classes), 1 / classes)
        if self.healthy is not None:
            out[:, self.healthy] += _HAIR
            out /= out.sum(axis=1, keepdims=True)
        filled = [i for i, bag in enumerate(bags) if len(bag)]
        if filled:
            out[filled] = self._of(values_of([bags[i] for i in filled], self.rule, self.healthy))
        return out

    def _of(self, values: FloatArray) -> FloatArray:
        return softmax(self.slope * np.log(values) + np.array(self.offsets))

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {
            "rule": self.rule,
            "slope": self.slope,
            "offsets": list(self.offsets),
            "healthy": self.healthy,
            "chosen_on": self.chosen_on,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Aggregation:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        if stored["rule"] not in RULES:
            raise ValueError(f"unknown rule {stored['rule']!r}")
        return cls(
            rule=stored["rule"],
            slope=float(stored["slope"]),
            offsets=tuple(float(offset) for offset in stored["offsets"]),
            healthy=None if stored["healthy"] is None else int(stored["healthy"]),
            chosen_on=stored["chosen_on"],
        )


def default_aggregation(class_count: int, healthy: int | None) -> Aggregation:
    """Give the first rule of the table, its value taken as the probability."""
    return Aggregation(rule=next(iter(RULES)), slope=1.0, offsets=(0.0,) * class_count, healthy=healthy, chosen_on=None)


def values_of(bags: Sequence[Bag], rule: str, healthy: int | None) -> FloatArray:
    """Give what a rule takes of each bag (N, C): at least 0.01 each, summing to about 1. No bag may be empty."""
    _, take = RULES[rule]
    return np.array([take(bag, healthy) for bag in bags]).clip(_LEAST_SHARE)


def fit_aggregation(
    bags: Sequence[Bag],
    labels: IntArray,
    folds: IntArray,
    *,
    class_count: int,
    healthy: int | None,
    chosen_on: str,
) -> Aggregation:
    """Choose of the rules that with the least log loss over `folds` (N,), every class counting alike; fit it on all bags.

    `labels` (N,) are those of the photographs, `folds` whole groups of them. Empty bags are passed over. Where some fold
    leaves the others without a class, nothing can be chosen and the default is given.
    """
    kept = [i for i, bag in enumerate(bags) if len(bag)]
    labels, folds = labels[kept], folds[kept]
    known = set(range(class_count))
    held_out = np.unique(folds)
    if len(held_out) < 2 or any(set(labels[folds != fold].tolist()) != known for fold in held_out):
        return default_aggregation(class_count, healthy)
    losses = {}
    for rule in RULES:
        values = np.log(values_of([bags[i] for i in kept], rule, healthy))
        told = np.zeros_like(values)
        for fold in held_out:
            slope, offsets = _fitted(values[folds != fold], labels[folds != fold])
            told[folds == fold] = softmax(slope * values[folds == fold] + offsets)
        losses[rule] = _log_loss(told, labels)
    best = min(losses, key=losses.__getitem__)
    slope, offsets = _fitted(np.log(values_of([bags[i] for i in kept], best, healthy)), labels)
    return Aggregation(rule=best, slope=slope, offsets=tuple(offsets.tolist()), healthy=healthy, chosen_on=chosen_on)


def _weights(labels: IntArray) -> FloatArray:
    """Weigh each class alike."""
    counts = np.bincount(labels)
    return np.asarray(1 / counts[labels] / np.count_nonzero(counts))


def _log_loss(probabilities: FloatArray, labels: IntArray) -> float:
    told = np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12))
    return float(-(_weights(labels) * told).sum())


def _fitted(values: FloatArray, labels: IntArray) -> tuple[float, FloatArray]:
    """Fit slope and offsets to log values (N, C) by penalised maximum likelihood, near slope 1 and offsets 0."""
    weights = _weights(labels)
    hits = np.eye(values.shape[1])[labels]

    def loss(point: FloatArray) -> tuple[float, FloatArray]:
        slope, offsets = np.exp(point[0]), point[1:]
        told = softmax(slope * values + offsets)
        off = weights[:, None] * (told - hits)
        value = float(-(weights * np.log((told * hits).sum(axis=1).clip(1e-300))).sum() + _RIDGE * (point**2).sum())
        gradient = np.concatenate([[slope * float((off * values).sum())], off.sum(axis=0)]) + 2 * _RIDGE * point
        return value, gradient

    from scipy.optimize import minimize  # what is fitted needs it; what reads a stored rule starts without

    found = minimize(loss, np.zeros(1 + values.shape[1]), jac=True, method="L-BFGS-B")
    return float(np.exp(found.x[0])), np.asarray(found.x[1:])


# ------------------------------------------------------------------------------------------------------- control


@dataclass(frozen=True, slots=True, kw_only=True)
class CountControl:
    """What the number of cells alone says: softmax of `weights` (C,) · (log(1 + n) - `centre`) / `spread` + `offsets` (C,)."""

    centre: float
    spread: float
    weights: tuple[float, ...]
    offsets: tuple[float, ...]

    def __call__(self, counts: IntArray) -> FloatArray:
        """Give probabilities (N, C) by numbers of cells (N,)."""
        scaled = (np.log1p(counts) - self.centre) / self.spread
        return softmax(scaled[:, None] * np.array(self.weights) + np.array(self.offsets))

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {
            "centre": self.centre,
            "spread": self.spread,
            "weights": list(self.weights),
            "offsets": list(self.offsets),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CountControl:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            centre=float(stored["centre"]),
            spread=float(stored["spread"]),
            weights=tuple(float(w) for w in stored["weights"]),
            offsets=tuple(float(o) for o in stored["offsets"]),
        )


def fit_count_control(counts: IntArray, labels: IntArray, *, class_count: int) -> CountControl:
    """Fit a logistic model of the class on the logarithm of the number of cells (N,), every class counting alike."""
    logs = np.log1p(counts)
    centre, spread = float(logs.mean()), float(logs.std()) or 1.0
    scaled = (logs - centre) / spread
    sample_weights, hits = _weights(labels), np.eye(class_count)[labels]

    def loss(point: FloatArray) -> tuple[float, FloatArray]:
        slopes, offsets = point[:class_count], point[class_count:]
        told = softmax(scaled[:, None] * slopes + offsets)
        off = sample_weights[:, None] * (told - hits)
        value = float(-(sample_weights * np.log((told * hits).sum(axis=1).clip(1e-300))).sum())
        gradient = np.concatenate([(off * scaled[:, None]).sum(axis=0), off.sum(axis=0)])
        value += _CONTROL_RIDGE * float((slopes**2).sum())
        return value, gradient + 2 * _CONTROL_RIDGE * np.concatenate([slopes, np.zeros(class_count)])

    from scipy.optimize import minimize

    found = minimize(loss, np.zeros(2 * class_count), jac=True, method="L-BFGS-B").x
    return CountControl(
        centre=centre,
        spread=spread,
        weights=tuple(found[:class_count].tolist()),
        offsets=tuple(found[class_count:].tolist()),
    )


def steady_share(aggregation: Aggregation, bags: Sequence[Bag], *, most: int, draws: int = 100, seed: int = 0) -> float:
    """Give the share of decisions, over bags and draws, that stay as they are when only `most` cells of a bag are kept.

    Bags with no more cells than that stay whole; without a bag that is not empty the share is NaN.
    """
    filled = [bag for bag in bags if len(bag)]
    if not filled:
        return float("nan")
    rng = np.random.default_rng(seed)
    whole = aggregation(filled).argmax(axis=1)
    kept = 0.0
    for _ in range(draws):
        fewer = [bag if len(bag) <= most else bag[rng.choice(len(bag), most, replace=False)] for bag in filled]
        kept += float((aggregation(fewer).argmax(axis=1) == whole).mean())
    return kept / draws


# -------------------------------------------------------------------------------------------------- what is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many of a photograph's cells were called each class (C,), and the share called diseased with its interval.

    The interval (95 %, Clopper and Pearson 1934) is of these cells as a sample of the smear's; it knows nothing of how
    many calls are wrong. `share` and its ends are None without a healthy class, or without cells.
    """

    cells: int
    by_class: tuple[int, ...]
    share: float | None
    low: float | None
    high: float | None


def count_cells(bag: Bag, healthy: int | None, class_count: int) -> Counted:
    """Count the cells of a bag by their most probable class."""
    by_class = np.bincount(bag.argmax(axis=1), minlength=class_count) if len(bag) else np.zeros(class_count, dtype=int)
    share = low = high = None
    if healthy is not None and len(bag):
        diseased = len(bag) - int(by_class[healthy])
        share = diseased / len(bag)
        low, high = clopper_pearson(diseased, len(bag), level=0.95)
    return Counted(cells=len(bag), by_class=tuple(int(n) for n in by_class), share=share, low=low, high=high)
