"""What members make of a photograph by its cells: probabilities of each cell, a finding for all, and when not to say it.

Requirements met here:
- A photograph, a slide and all photographs of a patient are one thing: a bag of cells.
- Rule, thresholds and control were fitted out of fold, on cells that the finder found, labelled or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.judging.aggregation import (
    Aggregation,
    Bag,
    CountControl,
    Counted,
    count_cells,
    default_aggregation,
    fit_aggregation,
    fit_count_control,
)
from leukemia_cli.judging.calibration import softmax
from leukemia_cli.learning.arrays import Labels, Scores
from leukemia_cli.learning.doubt import (
    Calibration,
    DoubtSettings,
    Limits,
    Thresholds,
    Vectors,
    doubted,
    fit_limits,
    novelty_by,
)

if TYPE_CHECKING:
    from leukemia_cli.learning.batches import Look
    from leukemia_cli.learning.classifier import Classifier, Member

Reason = Literal["novel", "uncertain", "few_cells"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one member reads a bag of cells: its rule, the control beside it, and its thresholds for whole bags."""

    aggregation: Aggregation
    control: CountControl | None
    limits: Limits | None
    least_cells: int

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {
            "aggregation": self.aggregation.as_json(),
            "control": None if self.control is None else self.control.as_json(),
            "limits": None if self.limits is None else self.limits.as_json(),
            "least_cells": self.least_cells,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reading:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        control, limits = stored["control"], stored["limits"]
        return cls(
            aggregation=Aggregation.from_json(stored["aggregation"]),
            control=None if control is None else CountControl.from_json(control),
            limits=None if limits is None else Limits.from_json(limits),
            least_cells=int(stored["least_cells"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """Photographs (N) with the out-of-fold probabilities and novelty of their cells, their labels, groups and folds."""

    cells: Sequence[Bag]
    novelty: Sequence[Scores]
    labels: Labels
    groups: tuple[str, ...] | None
    folds: Labels
    named: str


def fit_reading(
    rule_from: Bags | None,
    limits_from: Bags | None,
    *,
    counts: Labels,
    labels: Labels,
    class_count: int,
    healthy: int | None,
    settings: DoubtSettings,
) -> Reading:
    """Choose and fit the rule on some photographs, and the thresholds on others or on folds of the same.

    Without photographs to choose on, the rule is the first of the table as it is; without others, there are no thresholds.
    The control is fitted to the numbers of cells (N,) and labels (N,) of training photographs. A threshold is fitted to
    what a rule fitted on the other folds says, never to what it was fitted on itself.
    """
    aggregation = default_aggregation(class_count, healthy)
    if rule_from is not None:
        aggregation = fit_aggregation(
            rule_from.cells, rule_from.labels, rule_from.folds,
            class_count=class_count, healthy=healthy, chosen_on=rule_from.named,
        )  # fmt: skip
    control, limits = None, None
    if len(np.unique(labels)) == class_count:
        control = fit_count_control(counts, labels, class_count=class_count)
    if limits_from is not None:
        held = limits_from
        kept = [i for i, bag in enumerate(held.cells) if len(bag) >= settings.least_cells]
        told = _told_out_of_fold(held, class_count, healthy) if held is rule_from else aggregation(held.cells)
        if kept:
            limits = fit_limits(
                Calibration(
                    probabilities=told[kept],
                    labels=held.labels[kept],
                    groups=None if held.groups is None else tuple(held.groups[i] for i in kept),
                    novelty=np.array([strangeness(held.novelty[i]) for i in kept]),
                    named=held.named,
                ),
                settings,
            )
    return Reading(aggregation=aggregation, control=control, limits=limits, least_cells=settings.least_cells)


def _told_out_of_fold(bags: Bags, class_count: int, healthy: int | None) -> Scores:
    """Give probabilities (N, C) of each photograph by a rule that was chosen and fitted on the other folds."""
    told = np.zeros((len(bags.cells), class_count))
    for fold in np.unique(bags.folds):
        rest = np.flatnonzero(bags.folds != fold).tolist()
        here = np.flatnonzero(bags.folds == fold).tolist()
        other = default_aggregation(class_count, healthy)
        if rest:
            other = fit_aggregation(
                [bags.cells[i] for i in rest], bags.labels[rest], bags.folds[rest],
                class_count=class_count, healthy=healthy, chosen_on=bags.named,
            )  # fmt: skip
        told[here] = other([bags.cells[i] for i in here])
    return told


def strangeness(novelty: Scores) -> float:
    """Give the novelty of a bag: the median over its cells (n ≥ 1), so that neither their number nor one artefact sets it."""
    return float(np.median(novelty))


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class BagSeen:
    """What members make of one bag of n cells: each member's probabilities (n, C), and novelty (n,) if all tell it."""

    by_member: tuple[Scores, ...]
    raw_by_member: tuple[Scores, ...]
    novelty: Scores | None

    @property
    def cells(self) -> Scores:
        """Give the mean probabilities (n, C) of the cells."""
        return np.asarray(np.mean(self.by_member, axis=0))


def see_bag(members: Sequence[Member], vectors: Sequence[Vectors]) -> BagSeen:
    """Look at n cells by each member's feature vectors."""
    scores = [member.scores(v.of_class) for member, v in zip(members, vectors, strict=True)]
    return BagSeen(
        by_member=tuple(softmax(s, m.temperature) for s, m in zip(scores, members, strict=True)),
        raw_by_member=tuple(softmax(s) for s in scores),
        novelty=novelty_by([member.doubt for member in members], vectors),
    )


def see_cells(classifier: Classifier, looks: Sequence[Look], batch_size: int) -> BagSeen:
    """Look at n cells by every member, `batch_size` at a time."""
    members, parts = classifier.members, []
    for start in range(0, len(looks), batch_size):
        parts.append(see_bag(members, classifier.vectors(looks[start : start + batch_size])))
    if parts:
        return pooled(parts)
    nothing = tuple(np.zeros((0, len(classifier.task.classes))) for _ in members)
    told = all(member.doubt is not None for member in members)
    return BagSeen(by_member=nothing, raw_by_member=nothing, novelty=np.zeros(0) if told else None)


def pooled(bags: Sequence[BagSeen]) -> BagSeen:
    """Put the cells of several photographs, of one patient say, into one bag."""
    told = [bag.novelty for bag in bags]
    return BagSeen(
        by_member=tuple(np.concatenate(parts) for parts in zip(*(bag.by_member for bag in bags), strict=True)),
        raw_by_member=tuple(np.concatenate(parts) for parts in zip(*(bag.raw_by_member for bag in bags), strict=True)),
        novelty=np.concatenate([t for t in told if t is not None]) if all(t is not None for t in told) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFound:
    """The finding for a bag: probabilities (C,), how strange it is, what it is counted as, and why not to say it."""

    probabilities: Scores
    uncalibrated: Scores
    by_count: Scores | None
    """What the number of cells alone says (C,): the control."""
    counted: Counted
    novelty: float | None
    thresholds: Thresholds | None
    least_cells: int
    novel: bool
    uncertain: bool
    few_cells: bool
    label_set: NDArray[np.bool_] | None

    @property
    def reason(self) -> Reason | None:
        """Give the first reason to abstain: too few cells to say anything, then novel, then uncertain."""
        return "few_cells" if self.few_cells else "novel" if self.novel else "uncertain" if self.uncertain else None


def read_cell(members: Sequence[Member], seen: BagSeen) -> BagFound:
    """Judge an image that shows one cell by that cell alone, with the members' thresholds for cells."""
    probabilities = seen.cells[0]
    thresholds = Thresholds.of([member.limits for member in members])
    novelty = None if seen.novelty is None else float(seen.novelty[0])
    novel = uncertain = False
    label_set = None
    if thresholds is not None and seen.novelty is not None:
        told = doubted(probabilities[None], seen.novelty, thresholds)
        novel, uncertain = bool(told.novel[0]), bool(told.uncertain[0])
        label_set = None if told.sets is None else told.sets[0]
    return BagFound(
        probabilities=probabilities,
        uncalibrated=np.asarray(np.mean(seen.raw_by_member, axis=0))[0],
        by_count=None,
        counted=count_cells(seen.cells, None, len(probabilities)),
        novelty=novelty,
        thresholds=thresholds,
        least_cells=1,
        novel=novel,
        uncertain=uncertain,
        few_cells=False,
        label_set=label_set,
    )


def read_bag(members: Sequence[Member], seen: BagSeen) -> BagFound:
    """Read a bag by every member's own rule and take the mean; raises ValueError for a member that has no rule."""
    readings = [member.reading for member in members if member.reading is not None]
    if len(readings) < len(members):
        raise ValueError("a member of a run on cells has no rule for photographs")
    pairs = list(zip(readings, seen.by_member, seen.raw_by_member, strict=True))
    probabilities = np.mean([reading.aggregation([cells])[0] for reading, cells, _ in pairs], axis=0)
    uncalibrated = np.mean([reading.aggregation([raw])[0] for reading, _, raw in pairs], axis=0)
    cells = seen.cells
    count = len(cells)
    controls = [reading.control for reading in readings if reading.control is not None]
    by_count = None
    if len(controls) == len(readings):
        by_count = np.mean([control(np.array([count]))[0] for control in controls], axis=0)
    thresholds = Thresholds.of([reading.limits for reading in readings])
    novelty = None if seen.novelty is None or count == 0 else strangeness(seen.novelty)
    novel = uncertain = False
    label_set = None
    if thresholds is not None:
        told = doubted(probabilities[None], np.array([0.0 if novelty is None else novelty]), thresholds)
        novel, uncertain = novelty is not None and bool(told.novel[0]), bool(told.uncertain[0])
        label_set = None if told.sets is None else told.sets[0]
    least = max(reading.least_cells for reading in readings)
    return BagFound(
        probabilities=probabilities,
        uncalibrated=uncalibrated,
        by_count=by_count,
        counted=count_cells(cells, readings[0].aggregation.healthy, len(probabilities)),
        novelty=novelty,
        thresholds=thresholds,
        least_cells=least,
        novel=novel,
        uncertain=uncertain,
        few_cells=count < least,
        label_set=label_set,
    )
