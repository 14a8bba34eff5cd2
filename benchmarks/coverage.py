"""Measure how often the 95 % intervals hold the truth, and how often the tests cry wolf, on drawn patients.

Run with: python benchmarks/coverage.py [--replicates 1000] [--seed 0] [--every]. Prints Markdown;
about a quarter of an hour on one core.

What is drawn: G patients of each class; 5 to 60 images each, skewed (log-normal around 15); a patient's own recall from a
beta distribution, whose mean is the recall of the class and whose variance is ICC · recall · (1 − recall). In the two-class
case each image has a score too: Φ⁻¹ of the patient's recall plus a standard normal, positive if told right. In the
three-class case the third class has 2 G patients, and a mistake goes to either other class with equal chance.

What is to be covered: the figure as the number of patients of each class grows in the same proportion. Images count alike,
so a class's recall is the mean over patients weighted by their images, and AUROC is over pairs of images.

Resamples are shared by the replicates of a cell, which makes them cheap and leaves each replicate's own interval as it is.
The intervals are those of the package: `interval_of`, the metrics' own functions, and a check that both ways agree.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from leukemia_cli.judging.comparison import paired_difference, sign_flip
from leukemia_cli.judging.intervals import FEWEST_GROUPS, Spread, interval_of, refusal
from leukemia_cli.judging.metrics import METRICS, Sheet, Tally, metric_figures, tally
from leukemia_cli.judging.predictions import Predictions

Floats = NDArray[np.float64]

GROUPS = (2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 60, 80)
RECALLS = (0.75, 0.85, 0.92, 0.97)
ICCS = (0.1, 0.3)
METRICS_OF = {
    2: ("balanced_accuracy", "accuracy", "macro_f1", "sensitivity", "auroc", "brier"),
    3: ("balanced_accuracy", "accuracy", "macro_f1", "mcc"),
}
LEVEL = 0.95
RESAMPLES = 1000
# Of a normal score this logistic slope gives nearly the normal probability.
SLOPE = 1.702


# ---------------------------------------------------------------------------------- patients and truth


def class_groups(class_count: int, groups: int) -> tuple[int, ...]:
    """Give the patients of each class."""
    return (groups, groups) if class_count == 2 else (groups, groups, 2 * groups)


def image_counts(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Draw how many images patients have: 5 to 60, skewed."""
    return np.clip(np.rint(np.exp(random.normal(math.log(15), 0.7, shape))), 5, 60).astype(np.int64)


def own_recalls(quantiles: Floats, recall: float, icc: float) -> Floats:
    """Turn uniform numbers into recalls of patients."""
    total = 1 / icc - 1
    values: Floats = special.betaincinv(recall * total, (1 - recall) * total, quantiles)
    return np.clip(values, 1e-12, 1 - 1e-12)


@functools.cache
def truths(class_count: int, recall: float, icc: float) -> dict[str, float]:
    """Give the figures of ever more patients, by the metrics' own functions and by quadrature."""
    shares = np.array(class_groups(class_count, 1), dtype=np.float64)
    confusion = np.full((class_count, class_count), (1 - recall) / (class_count - 1))
    np.fill_diagonal(confusion, recall)
    counted = tally_of((confusion * shares[:, None])[None])
    found = {
        name: float(METRICS[name].figure(counted)[0])
        for name in METRICS_OF[class_count]
        if name not in ("auroc", "brier")
    }
    if class_count == 2:
        centres = special.ndtri(own_recalls((np.arange(4000) + 0.5) / 4000, recall, icc))
        found["auroc"] = float(np.mean([special.ndtr((c + centres) / math.sqrt(2)).mean() for c in centres]))
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        errors = special.expit(-SLOPE * (centres[:, None] + nodes)) ** 2
        found["brier"] = float((errors @ weights / weights.sum()).mean())
    return found


def tally_of(confusion: Floats, *, squared: Floats | None = None, auroc: Floats | None = None) -> Tally:
    """Wrap confusion matrices (R, C, C), and for two classes squared errors and AUROC (R,), as the metrics want them."""
    rows, count = confusion.shape[:2]
    return Tally(
        positive=0 if count == 2 else None,
        total=confusion.sum(axis=(1, 2)),
        support=confusion.sum(axis=2),
        calls=confusion.sum(axis=1),
        hits=np.diagonal(confusion, axis1=1, axis2=2),
        squared=np.zeros(rows) if squared is None else squared,
        surprise=np.zeros(rows),
        gaps=np.zeros((rows, 1)),
        aurocs=np.full((rows, count), np.nan) if auroc is None else np.repeat(auroc[:, None], count, axis=1),
    )


# ---------------------------------------------------------------------------------- one replicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate:
    """Images of all patients: sums of each group, and for two classes who beats whom."""

    strata: NDArray[np.int64]  # (G,)
    confusion: Floats  # (G, C, C)
    squared: Floats  # (G,)
    wins: Floats | None  # (positive groups, negative groups)
    labels: NDArray[np.int64]  # (N,)
    groups: NDArray[np.int64]  # (N,)
    probabilities: Floats  # (N, C)

    def figures(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """Give each metric (R,) of weightings (R, G)."""
        count = self.confusion.shape[1]
        confusion = (weights @ self.confusion.reshape(len(self.strata), -1)).reshape(-1, count, count)
        auroc = None
        if self.wins is not None:
            positives = len(self.wins)
            pairs = confusion[:, 0].sum(axis=1) * confusion[:, 1].sum(axis=1)
            auroc = ((weights[:, :positives] @ self.wins) * weights[:, positives:]).sum(axis=1) / pairs
        counted = tally_of(confusion, squared=weights @ self.squared, auroc=auroc)
        return {name: METRICS[name].figure(counted) for name in names}

    def predictions(self) -> Predictions:
        """Give the same images as the package takes them."""
        return Predictions(
            classes=tuple("ABC"[: self.confusion.shape[1]]),
            positive="A" if self.confusion.shape[1] == 2 else None,
            labels=self.labels,
            probabilities=self.probabilities,
            groups=tuple(f"{group:04}" for group in self.groups),
            groups_source="given",
        )


def replicate(random: np.random.Generator, *, class_count: int, groups: int, recall: float, icc: float) -> Replicate:
    """Draw the patients of one study."""
    strata = np.repeat(np.arange(class_count), class_groups(class_count, groups))
    counts = image_counts(random, strata.shape)
    chances = own_recalls(random.random(strata.size), recall, icc)
    group = np.repeat(np.arange(strata.size), counts)
    label = strata[group]
    scores = np.repeat(special.ndtri(chances), counts) + random.normal(size=group.size)
    right = scores > 0
    other = (label + random.integers(1, class_count, size=group.size)) % class_count
    told = np.where(right, label, other)
    cells = (group * class_count + label) * class_count + told
    confusion = np.bincount(cells, minlength=strata.size * class_count**2).reshape(-1, class_count, class_count)
    belief = special.expit(SLOPE * scores)
    if class_count == 2:
        probabilities = np.where(np.arange(2) == label[:, None], belief[:, None], 1 - belief[:, None])
    else:
        probabilities = np.eye(class_count)[told]
    wins = None
    if class_count == 2:
        positive, negative = group[label == 0], group[label == 1] - groups
        lost = np.sort(-scores[label == 1]), np.argsort(-scores[label == 1])
        below = np.zeros((negative.size + 1, groups))
        np.cumsum(np.eye(groups)[negative[lost[1]]], axis=0, out=below[1:])
        beaten = below[np.searchsorted(lost[0], scores[label == 0])]
        wins = np.add.reduceat(beaten, np.flatnonzero(np.diff(positive, prepend=-1)), axis=0)
    return Replicate(
        strata=strata,
        confusion=confusion.astype(np.float64),
        squared=np.bincount(group, weights=(1 - belief) ** 2, minlength=strata.size).astype(np.float64),
        wins=wins,
        labels=label,
        groups=group,
        probabilities=probabilities,
    )


def resample(random: np.random.Generator, strata: NDArray[np.int64]) -> Floats:
    """Draw groups with replacement within their stratum, (R, G)."""
    parts = [random.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) for size in np.bincount(strata).tolist()]
    return np.concatenate(parts, axis=1).astype(np.float64)


def check(random: np.random.Generator) -> None:
    """Raise AssertionError where this script's short cuts give other figures than the package."""
    for class_count in (2, 3):
        study = replicate(random, class_count=class_count, groups=6, recall=0.85, icc=0.3)
        predictions, weights = study.predictions(), resample(random, study.strata)[:50]
        ours, names = study.figures(weights, METRICS_OF[class_count]), METRICS_OF[class_count]
        theirs = tally(Sheet.of(predictions), weights.astype(np.int64))
        for name in names:
            assert np.allclose(ours[name], METRICS[name].figure(theirs)), name
            assert np.allclose(
                study.figures(np.ones((1, weights.shape[1])), names)[name],
                metric_figures(predictions, names=names)[name],
            ), name
        for groups in GROUPS:
            few = replicate(random, class_count=class_count, groups=groups, recall=0.85, icc=0.3)
            assert (refusal(few.predictions()) is not None) == (groups < FEWEST_GROUPS)


# ---------------------------------------------------------------------------------- coverage


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """How one interval did in one cell: shares in percent, widths as they are."""

    class_count: int
    groups: int
    recall: float
    icc: float
    metric: str
    truth: float
    replicates: int
    refused: float
    covered: float
    above: float  # the interval lay above the truth
    below: float
    width: float
    percentile_covered: float
    percentile_width: float
    expanded_covered: float


def expanded_tail(groups: int) -> float:
    """Give the tail to cut off for an expanded percentile interval.

    Source: Hesterberg 2015, Am. Stat. 69:371.
    """
    t = special.stdtrit(groups - 1, (1 + LEVEL) / 2)
    return float(special.ndtr(-math.sqrt(groups / (groups - 1)) * t))


def cells(random: np.random.Generator, *, class_count: int, groups: int, replicates: int) -> Iterator[Cell]:
    """Simulate every recall and ICC for one number of groups."""
    names = METRICS_OF[class_count]
    for recall in RECALLS:
        for icc in ICCS:
            truth = truths(class_count, recall, icc)
            ends = {name: np.full((replicates, 3, 2), np.nan) for name in names}
            for r in range(replicates):
                study = replicate(random, class_count=class_count, groups=groups, recall=recall, icc=icc)
                if r == 0:
                    weights = resample(random, study.strata)
                    size = len(study.strata)
                    weights_left = 1 - np.eye(size)
                    once = np.ones((1, size))
                draws, values = study.figures(weights, names), study.figures(once, names)
                left_out = study.figures(weights_left, names) if groups >= FEWEST_GROUPS else {}
                tails = ((1 - LEVEL) / 2, expanded_tail(groups))
                for name in names:
                    quantiles = np.quantile(draws[name], [tails[0], 1 - tails[0], tails[1], 1 - tails[1]])
                    ends[name][r, 1:] = quantiles.reshape(2, 2)
                    if groups >= FEWEST_GROUPS:
                        interval = interval_of(
                            float(values[name][0]),
                            Spread(draws=draws[name], left_out=left_out[name], strata=study.strata),
                            level=LEVEL,
                            least=METRICS[name].least,
                            most=METRICS[name].most,
                            drawn="",
                        )
                        if interval.low is not None and interval.high is not None:
                            ends[name][r, 0] = interval.low, interval.high
            for name in names:
                yield summary(ends[name], class_count, groups, recall, icc, name, truth[name])


def summary(ends: Floats, class_count: int, groups: int, recall: float, icc: float, metric: str, truth: float) -> Cell:
    """Count how often the truth lies between the ends (replicates, 3 kinds, 2)."""
    given = ~np.isnan(ends[:, 0, 0])
    ours = ends[given, 0]
    covered = (ends[:, 1:, 0] <= truth) & (truth <= ends[:, 1:, 1])

    def percent(of: NDArray[np.bool_]) -> float:
        return 100 * float(of.mean()) if of.size else math.nan

    return Cell(
        class_count=class_count,
        groups=groups,
        recall=recall,
        icc=icc,
        metric=metric,
        truth=truth,
        replicates=len(ends),
        refused=percent(~given),
        covered=percent((ours[:, 0] <= truth) & (truth <= ours[:, 1])),
        above=percent(ours[:, 0] > truth),
        below=percent(ours[:, 1] < truth),
        width=float(np.diff(ours, axis=1).mean()) if len(ours) else math.nan,
        percentile_covered=percent(covered[:, 0]),
        percentile_width=float(np.diff(ends[:, 1], axis=1).mean()),
        expanded_covered=percent(covered[:, 1]),
    )


# ---------------------------------------------------------------------------------- two models


def two_models(
    random: np.random.Generator, *, groups: int, recalls: tuple[float, float], icc: float
) -> tuple[Predictions, Predictions]:
    """Draw what two models say of the same images; a patient who is hard for one tends to be hard for the other."""
    labels = np.repeat([0, 1], groups)
    counts = image_counts(random, labels.shape)
    shared, own = random.normal(size=labels.size), random.normal(size=(2, labels.size))
    patients = special.ndtr(math.sqrt(0.7) * shared + math.sqrt(0.3) * own)
    label = np.repeat(labels, counts)
    names = tuple(f"{group:04}" for group in np.repeat(np.arange(labels.size), counts))
    hardness = random.random(label.size)  # of an image, the same for both
    sides = []
    for quantiles, recall in zip(patients, recalls, strict=True):
        chances = np.repeat(own_recalls(quantiles, recall, icc), counts)
        alone = random.random(label.size)
        right = np.where(random.random(label.size) < 0.5, hardness, alone) < chances
        sides.append(
            Predictions(
                classes=("A", "B"),
                positive="A",
                labels=label,
                probabilities=np.eye(2)[np.where(right, label, 1 - label)],
                groups=names,
                groups_source="given",
            )
        )
    return sides[0], sides[1]


def pairs_table(random: np.random.Generator, *, replicates: int) -> list[str]:
    """Measure paired intervals and sign-flip tests; where the models are alike, p ≤ 0.05 is a false alarm."""
    lines = [
        "| Groups per class | Recalls | ICC | Metric | Paired interval covers | Sign-flip p ≤ 0.05 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    metrics = ("balanced_accuracy", "macro_f1")
    for groups in (5, 10, 20, 40):
        for recalls in ((0.85, 0.85), (0.97, 0.97), (0.92, 0.85)):
            for icc in ICCS:
                covered, found = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0)
                for r in range(replicates):
                    a, b = two_models(random, groups=groups, recalls=recalls, icc=icc)
                    for metric in metrics:
                        truth = truths(2, recalls[0], icc)[metric] - truths(2, recalls[1], icc)[metric]
                        difference = paired_difference(a, b, metric, resamples=500, level=LEVEL, seed=r)
                        if difference.low is not None and difference.high is not None:
                            covered[metric] += difference.low <= truth <= difference.high
                        p = sign_flip(a, b, metric, flips=499, seed=r).p
                        found[metric] += p is not None and p <= 0.05
                lines += [
                    f"| {groups} | {recalls[0]:g} and {recalls[1]:g} | {icc:g} | {metric} "
                    f"| {share(100 * covered[metric] / replicates, replicates)} "
                    f"| {share(100 * found[metric] / replicates, replicates)} |"
                    for metric in metrics
                ]
    return lines


# ---------------------------------------------------------------------------------- tables


def share(percent: float, replicates: int) -> str:
    """Write a percentage with its Monte-Carlo standard error."""
    return f"{percent:.1f} ± {math.sqrt(max(percent * (100 - percent), 0.0) / replicates):.1f}"


def span(values: Sequence[float], digits: int = 1) -> str:
    """Write the least and the greatest."""
    return (
        "–" if any(math.isnan(value) for value in values) else f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    )


def overview(found: Sequence[Cell]) -> list[str]:
    """Give for each number of groups the range of coverage over recalls and ICCs, metric by metric."""
    lines = []
    for class_count, names in METRICS_OF.items():
        lines += [
            f"Two classes, G patients each. Coverage in %, least to greatest of {len(RECALLS) * len(ICCS)} cells:"
            if class_count == 2
            else "Three classes, G, G and 2 G patients:",
            "",
            f"| G | refused | {' | '.join(names)} | percentile, all metrics | expanded percentile, all metrics |",
            "| --- " * (len(names) + 4) + "|",
        ]
        for groups in GROUPS:
            mine = [cell for cell in found if (cell.class_count, cell.groups) == (class_count, groups)]
            columns = [span([cell.covered for cell in mine if cell.metric == name]) for name in names]
            lines.append(
                f"| {groups} | {max(cell.refused for cell in mine):.0f} % | {' | '.join(columns)} "
                f"| {span([cell.percentile_covered for cell in mine])} | {span([cell.expanded_covered for cell in mine])} |"
            )
        lines.append("")
    return lines


def widths(found: Sequence[Cell]) -> list[str]:
    """Give mean widths of balanced accuracy's interval beside the percentile interval's."""
    lines = [
        "Mean width for balanced accuracy, two classes, ours / percentile:",
        "",
        f"| G | {' | '.join(f'recall {recall:g}, ICC {icc:g}' for recall in RECALLS for icc in ICCS)} |",
        "| --- " * (len(RECALLS) * len(ICCS) + 1) + "|",
    ]
    for groups in GROUPS:
        mine = [c for c in found if (c.class_count, c.groups, c.metric) == (2, groups, "balanced_accuracy")]
        columns = [f"{'–' if math.isnan(c.width) else f'{c.width:.3f}'} / {c.percentile_width:.3f}" for c in mine]
        lines.append(f"| {groups} | {' | '.join(columns)} |")
    return [*lines, ""]


def outside(found: Sequence[Cell]) -> list[str]:
    """Name the cells from 20 groups on that lie outside 93 to 97 %."""
    asked = [cell for cell in found if cell.groups >= 20]
    missed = [cell for cell in asked if not 93 <= cell.covered <= 97]
    far = [
        cell
        for cell in missed
        if 93 - cell.covered > 2 * math.sqrt(93 * 7 / cell.replicates)
        or cell.covered - 97 > 2 * math.sqrt(97 * 3 / cell.replicates)
    ]
    mean = sum(cell.covered for cell in asked) / len(asked)
    return [
        f"From 20 groups a class on: {len(asked) - len(missed)} of {len(asked)} cells lie in 93 to 97 %, mean {mean:.1f} %. "
        f"{len(far)} lie outside by more than two Monte-Carlo errors." + (" All outside:" if missed else ""),
        "",
        *([TABLE_HEAD, "| --- " * 13 + "|", *map(row, missed), ""] if missed else []),
    ]


TABLE_HEAD = (
    "| Classes | G | Recall | ICC | Metric | Truth | Refused % | Covered % | Too high % | Too low % | Width "
    "| Percentile: covered %, width | Expanded: covered % |"
)


def row(cell: Cell) -> str:
    """Write one cell."""
    ours = (
        "– | – | – | –"
        if math.isnan(cell.covered)
        else f"{share(cell.covered, cell.replicates)} | {cell.above:.1f} | {cell.below:.1f} | {cell.width:.4f}"
    )
    return (
        f"| {cell.class_count} | {cell.groups} | {cell.recall:g} | {cell.icc:g} | {cell.metric} | {cell.truth:.4f} "
        f"| {cell.refused:.0f} | {ours} | {cell.percentile_covered:.1f}, {cell.percentile_width:.4f} "
        f"| {cell.expanded_covered:.1f} |"
    )


def main() -> None:
    """Simulate and print; the same seed and replicates give the same tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replicates", type=int, default=1000, help="studies drawn for each cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", action="store_true", help="print every cell too")
    asked = parser.parse_args()
    started = time.perf_counter()
    random = np.random.default_rng(asked.seed)
    check(random)
    found = [
        cell
        for class_count in METRICS_OF
        for groups in GROUPS
        for cell in cells(random, class_count=class_count, groups=groups, replicates=asked.replicates)
    ]
    print(f"{asked.replicates} replicates a cell, {RESAMPLES} resamples, seed {asked.seed}.\n")
    print("\n".join([*overview(found), *outside(found), *widths(found)]))
    few = max(1, asked.replicates // 2)
    print(f"Two models on the same images, {few} replicates a row, 500 resamples, 499 flips, % ± Monte-Carlo error:\n")
    print("\n".join(pairs_table(random, replicates=few)))
    if asked.every:
        print("\n".join(["", "Every cell:", "", TABLE_HEAD, "| --- " * 13 + "|", *map(row, found)]))
    print(f"\nTook {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
