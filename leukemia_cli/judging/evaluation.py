"""All that can be said about one set of predictions, with every doubt about it said too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import NO_GROUPS, PROPOSED_GROUPS, GroupsSource, few_groups
from leukemia_cli.judging.abstention import RiskCoverage, accuracy_at, risk_coverage, share_estimate
from leukemia_cli.judging.conformal import Sets
from leukemia_cli.judging.curves import Bin, Curve, precision_recall_curves, reliability, roc_curves
from leukemia_cli.judging.intervals import Estimate, group_bootstrap
from leukemia_cli.judging.metrics import ClassFigures, confusion, per_class
from leukemia_cli.judging.predictions import Predictions

Marks = NDArray[np.bool_]
MOST_CONFIDENT = 0.8
"""The share of images, the most confident, whose accuracy is told beside that of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every metric of the table with its interval, every class, and the counts they rest on.

    `metrics` has the keys of `METRICS`; `per_class` those of `classes`, in order, with images and groups of each class;
    `confusion` (C, C) has the true class in rows. Where groups are unknown, `groups` counts images.
    """

    classes: tuple[str, ...]
    positive: str | None
    images: int
    groups: int
    groups_source: GroupsSource
    metrics: Mapping[str, Estimate]
    per_class: Mapping[str, ClassFigures]
    confusion: tuple[tuple[int, ...], ...]
    resamples: int
    level: float
    seed: int
    warnings: tuple[str, ...]


def judge(predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Evaluation:
    """Gather metrics with intervals, figures of each class, counts and warnings. Deterministic by seed.

    Raises ValueError for no resamples, or a level outside (0, 1).
    """
    classes = per_class(predictions)
    return Evaluation(
        classes=predictions.classes,
        positive=predictions.positive,
        images=predictions.image_count,
        groups=predictions.group_indices()[1],
        groups_source=predictions.groups_source,
        metrics=group_bootstrap(predictions, resamples=resamples, level=level, seed=seed),
        per_class=classes,
        confusion=tuple(tuple(row) for row in confusion(predictions).tolist()),
        resamples=resamples,
        level=level,
        seed=seed,
        warnings=_warnings(predictions, classes),
    )


def _warnings(predictions: Predictions, classes: Mapping[str, ClassFigures]) -> tuple[str, ...]:
    found = []
    if not predictions.groups_known:
        found.append(NO_GROUPS)
    elif predictions.groups_source == "proposed":
        found.append(PROPOSED_GROUPS)
    for name, figures in classes.items():
        if figures.support == 0:
            found.append(f"class {name} has no images here: its figures are null and averages leave it out")
    found += few_groups({name: figures.groups for name, figures in classes.items() if figures.support})
    present = [name for name, figures in classes.items() if figures.support]
    if len(present) == 1:
        found.append(f"every image is of class {present[0]}: what tells classes apart cannot be measured")
    return tuple(found)


# ------------------------------------------------------------------------------------------------ curves and doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What figures are summed up from: ROC and precision–recall by class, reliability, and error by share answered."""

    roc: Mapping[str, Curve]
    precision_recall: Mapping[str, Curve]
    reliability: tuple[Bin, ...]
    risk_coverage: RiskCoverage


def trace(predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Curves:
    """Gather the curves, with bands. Deterministic by seed."""
    return Curves(
        roc=roc_curves(predictions, resamples=resamples, level=level, seed=seed),
        precision_recall=precision_recall_curves(predictions, resamples=resamples, level=level, seed=seed),
        reliability=reliability(predictions),
        risk_coverage=risk_coverage(predictions, resamples=resamples, level=level, seed=seed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstentionFigures:
    """What abstaining comes to: images answered, and why not; of several reasons the first counts: few, novel, uncertain.

    `accuracy_at_80` is that of the 80 % most confident images, whatever the thresholds.
    """

    answered: int
    few_cells: int
    novel: int
    uncertain: int
    coverage: Estimate
    accuracy_answered: Estimate
    accuracy_at_80: Estimate


def judge_abstention(
    predictions: Predictions,
    *,
    novel: Marks,
    uncertain: Marks,
    few: Marks | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> AbstentionFigures:
    """Count what was answered, given which images (N,) were novel, which uncertain, and which had too few cells."""
    few = np.zeros(predictions.image_count, dtype=bool) if few is None else few
    answered = ~(novel | uncertain | few)
    right = predictions.predicted == predictions.labels
    return AbstentionFigures(
        answered=int(answered.sum()),
        few_cells=int(few.sum()),
        novel=int((novel & ~few).sum()),
        uncertain=int((uncertain & ~novel & ~few).sum()),
        coverage=share_estimate(predictions, answered, resamples=resamples, level=level, seed=seed),
        accuracy_answered=share_estimate(
            predictions, right, among=answered, resamples=resamples, level=level, seed=seed
        ),
        accuracy_at_80=accuracy_at(predictions, MOST_CONFIDENT, resamples=resamples, level=level, seed=seed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSetFigures:
    """How often label sets held the true class, and how large they were; `sizes` counts images by size."""

    coverage: Estimate
    mean_size: float
    sizes: Mapping[int, int]


def judge_label_sets(
    predictions: Predictions,
    sets: Sets,
    *,
    equal_groups: bool,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> LabelSetFigures:
    """Measure the coverage of sets (N, C); `equal_groups` counts every group alike, as sets promised per group do."""
    held = sets[np.arange(predictions.image_count), predictions.labels]
    sizes = sets.sum(axis=1)
    return LabelSetFigures(
        coverage=share_estimate(
            predictions, held, equal_groups=equal_groups, resamples=resamples, level=level, seed=seed
        ),
        mean_size=float(sizes.mean()),
        sizes={int(size): int((sizes == size).sum()) for size in np.unique(sizes)},
    )
