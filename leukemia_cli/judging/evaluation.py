"""All that can be said about one set of predictions, with every doubt about it said too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leukemia_cli.domain import NO_GROUPS, GroupsSource, few_groups
from leukemia_cli.judging.intervals import Estimate, group_bootstrap
from leukemia_cli.judging.metrics import ClassFigures, confusion, per_class
from leukemia_cli.judging.predictions import Predictions


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
        found.append("groups were proposed from the images, not given: where they are wrong the estimate is optimistic")
    for name, figures in classes.items():
        if figures.support == 0:
            found.append(f"class {name} has no images here: its figures are null and averages leave it out")
    found += few_groups({name: figures.groups for name, figures in classes.items() if figures.support})
    present = [name for name, figures in classes.items() if figures.support]
    if len(present) == 1:
        found.append(f"every image is of class {present[0]}: what tells classes apart cannot be measured")
    return tuple(found)
