"""The whole of report.json: what an evaluation measured, with its number of images beside every figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NotRequired, TypedDict

from leukemia_cli.domain import GroupsSource
from leukemia_cli.judging.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from leukemia_cli.judging.comparison import Difference
from leukemia_cli.judging.curves import Bin, Curve
from leukemia_cli.judging.evaluation import AbstentionFigures, Curves, Evaluation, LabelSetFigures
from leukemia_cli.judging.intervals import Estimate
from leukemia_cli.reporting.caveats import is_random, random_warning, subset_of, subset_warning

SCHEMA_VERSION = 1
CALIBRATION_METRICS = ("ece", "brier", "log_loss")
Scalar = str | int | float | bool | None


# ---------------------------------------------------------------------------------- what goes beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """What a report says beside its figures: which run, which images, how made, how often looked at.

    `classes` are those of the task as it was run, `whole_class_count` those of the task it is a subset of, or its own.
    `external` names an outside data set. `weights` describes where the backbone's numbers came from; "none" is random.
    `folds` is their number where out-of-fold predictions were pooled. `test_looks` counts the evaluations of this test
    split, this one included. `temperatures` has one for each member of the run; `fitted_on` is None where scores were not
    calibrated.
    `facts` are further scalars, kept under their own key.
    """

    run: str
    task: str
    classes: tuple[str, ...]
    whole_class_count: int
    split: str
    external: str | None = None
    backbone: str
    variant: str
    weights: str
    tune: str
    folds: int | None = None
    test_looks: int = 1
    temperatures: tuple[float, ...] = ()
    fitted_on: str | None = None
    seed: int | None = None
    leuk_version: str | None = None
    manifest: str | None = None
    created: str | None = None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    pictures: bool = True
    """Whether the page may show images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image that was told wrongly, and how sure that was."""

    path: str
    group: str
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What abstention was fitted to, for each member: thresholds of confidence and novelty, the rates asked for."""

    least_confidence: tuple[float, ...]
    novelty_threshold: tuple[float, ...]
    risk: float | None
    """None where no member has a threshold of confidence."""
    false_alarm: float
    fitted_on: str
    notes: tuple[str, ...] = ()
    """Where a rate could not be reached on the calibration images, why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The headline metric here and on the run's own test images, and the difference: here minus there.

    All three are of the images of `classes`: those that both sides have.
    """

    metric: str
    classes: tuple[str, ...]
    internal: Estimate
    external: Estimate
    difference: Difference
    internal_groups_source: GroupsSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The figures of one level (cells, photographs, patients), or of a control; `says` is what is judged there, and how."""

    name: str
    says: str
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEvidence:
    """How photographs were read by their cells.

    `rules` are what members take of cells, `chosen_on` what that was chosen on; `steady` is the share of decisions that
    stay when only `steady_cells` cells of each photograph are kept.
    """

    found: int
    median: float
    least_cells: int
    few_cells: int
    rules: tuple[str, ...]
    chosen_on: str | None
    steady: float | None
    steady_cells: int
    levels: tuple[Level, ...]
    missing: Mapping[str, str]
    """Level → why it has no figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What stands behind the figures; None, or empty, for what was not measured, with the reason beside it.

    `before` are the metrics of uncalibrated probabilities. `choices`, `history` and `model` are JSON types from the run.
    """

    before: Mapping[str, Estimate] | None = None
    reliability_before: tuple[Bin, ...] = ()
    curves: Curves | None = None
    abstention: AbstentionFigures | None = None
    abstention_reason: str | None = "not measured"
    rates: Rates | None = None
    label_sets: LabelSetFigures | None = None
    label_sets_reason: str | None = "not measured"
    alpha: float | None = None
    per: str | None = None
    label_sets_say: str | None = None
    choices: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    mistakes: Sequence[Mistake] = ()
    drop: Drop | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    heatmaps: Mapping[str, Any] | None = None
    cells: CellEvidence | None = None


class Figure(TypedDict):
    """An estimate as it lies in report.json."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str
    freedom: float | None


class ClassRow(TypedDict):
    """The figures of one class as they lie in report.json."""

    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    support: int


class Confusion(TypedDict):
    """Counts of images, true classes in rows, as they lie in report.json."""

    classes: list[str]
    matrix: list[list[int]]


class Calibration(TypedDict):
    """How scores became probabilities, and how well they hold on these images."""

    temperature: float | None
    temperatures: list[float]
    fitted_on: str | None
    ece: float | None
    brier: float | None
    log_loss: float | None
    before: dict[str, Figure] | None
    after: dict[str, Figure]


class Abstention(TypedDict):
    """What abstaining comes to; where it was not measured the figures are None and `reason` says why."""

    measured: bool
    reason: str | None
    answered: int | None
    few_cells: int | None
    novel: int | None
    uncertain: int | None
    coverage: Figure | None
    accuracy_answered: Figure | None
    accuracy_at_80: Figure | None
    least_confidence: list[float]
    novelty_threshold: list[float]
    risk: float | None
    false_alarm: float | None
    fitted_on: str | None
    notes: list[str]


class LabelSetsFigures(TypedDict):
    """How often label sets held the true class; where there are none, `reason` says why."""

    measured: bool
    reason: str | None
    alpha: float | None
    per: str | None
    coverage: Figure | None
    mean_size: float | None
    sizes: dict[str, int]
    says: str | None


class Report(TypedDict):
    """The whole of report.json."""

    schema_version: int
    run: str
    task: str
    subset: str | None
    split: str
    external: str | None
    folds: int | None
    images: int
    groups: int
    groups_source: str
    groups_per_class: dict[str, int]
    positive: str | None
    metrics: dict[str, Figure]
    per_class: dict[str, ClassRow]
    confusion: Confusion
    calibration: Calibration
    abstention: Abstention
    label_sets: LabelSetsFigures
    curves: dict[str, Any] | None
    choices: list[Any]
    history: list[Any]
    mistakes: list[dict[str, Any]]
    drop: dict[str, Any] | None
    model: dict[str, Any]
    heatmaps: dict[str, Any] | None
    unit: str
    cells: dict[str, Any] | None
    pictures: bool
    warnings: list[str]
    test_looks: int
    bootstrap: dict[str, float | int]
    backbone: str
    variant: str
    weights: str
    tune: str
    seed: int | None
    leuk_version: str | None
    manifest: str | None
    created: str | None
    facts: dict[str, Scalar]
    seal: NotRequired[str]
    """Put on last: a checksum of all else."""


# ---------------------------------------------------------------------------------- report.json


def as_report(evaluation: Evaluation, context: ReportContext, evidence: Evidence | None = None) -> Report:
    """Give the content of report.json: JSON types only, never NaN; what is undefined is None.

    Raises ValueError where evaluation and context are not of the same classes, or a figure is not finite.
    """
    if context.classes != evaluation.classes:
        raise ValueError(f"evaluated classes {list(evaluation.classes)} are not the task's {list(context.classes)}")
    if context.whole_class_count < len(context.classes):
        raise ValueError(f"{len(context.classes)} classes are no subset of {context.whole_class_count}")
    evidence = evidence or Evidence()
    report = Report(
        schema_version=SCHEMA_VERSION,
        run=context.run,
        task=context.task,
        subset=subset_of(context.classes, context.whole_class_count),
        split=context.split,
        external=context.external,
        folds=context.folds,
        images=evaluation.images,
        groups=evaluation.groups,
        groups_source=evaluation.groups_source,
        groups_per_class={name: figures.groups for name, figures in evaluation.per_class.items()},
        positive=evaluation.positive,
        metrics=_figures(evaluation.metrics),
        per_class=_per_class(evaluation),
        confusion=Confusion(classes=list(evaluation.classes), matrix=[list(row) for row in evaluation.confusion]),
        calibration=_calibration(evaluation, context, evidence.before),
        abstention=_abstention(evidence),
        label_sets=_label_sets(evidence),
        curves=_curves(evidence),
        choices=[dict(choice) for choice in evidence.choices],
        history=[dict(epoch) for epoch in evidence.history],
        mistakes=[asdict(mistake) for mistake in evidence.mistakes],
        drop=_drop(evidence.drop),
        model=dict(evidence.model),
        heatmaps=None if evidence.heatmaps is None else dict(evidence.heatmaps),
        unit="image" if evidence.cells is None else "cell",
        cells=_cells(evidence.cells),
        pictures=context.pictures,
        warnings=_warnings(evaluation, context),
        test_looks=context.test_looks,
        bootstrap={"resamples": evaluation.resamples, "level": evaluation.level, "seed": evaluation.seed},
        backbone=context.backbone,
        variant=context.variant,
        weights=context.weights,
        tune=context.tune,
        seed=context.seed,
        leuk_version=context.leuk_version,
        manifest=context.manifest,
        created=context.created,
        facts=dict(context.facts),
    )
    _check_finite(report, "report")
    return report


def figure_of(estimate: Estimate | Difference) -> Figure:
    """Give an estimate as it lies in JSON."""
    return Figure(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        groups=estimate.groups,
        method=estimate.method,
        freedom=estimate.freedom,
    )


def _figures(estimates: Mapping[str, Estimate]) -> dict[str, Figure]:
    return {name: figure_of(estimate) for name, estimate in estimates.items()}


def _per_class(evaluation: Evaluation) -> dict[str, ClassRow]:
    return {
        name: ClassRow(
            precision=figures.precision,
            recall=figures.recall,
            f1=figures.f1,
            auroc=figures.auroc,
            support=figures.support,
        )
        for name, figures in evaluation.per_class.items()
    }


def _calibration(evaluation: Evaluation, context: ReportContext, before: Mapping[str, Estimate] | None) -> Calibration:
    after = {name: evaluation.metrics[name] for name in CALIBRATION_METRICS}
    return Calibration(
        temperature=context.temperatures[0] if len(set(context.temperatures)) == 1 else None,
        temperatures=list(context.temperatures),
        fitted_on=context.fitted_on,
        ece=after["ece"].value,
        brier=after["brier"].value,
        log_loss=after["log_loss"].value,
        before=None if before is None else _figures({name: before[name] for name in CALIBRATION_METRICS}),
        after=_figures(after),
    )


def _drop(drop: Drop | None) -> dict[str, Any] | None:
    if drop is None:
        return None
    return {
        "metric": drop.metric,
        "classes": list(drop.classes),
        "internal_groups_source": drop.internal_groups_source,
        "internal": figure_of(drop.internal),
        "external": figure_of(drop.external),
        "difference": figure_of(drop.difference),
    }


def _abstention(evidence: Evidence) -> Abstention:
    figures, rates = evidence.abstention, evidence.rates
    # Without rates nothing is left unanswered, and only the accuracy of the most confident means anything.
    decided = None if rates is None else figures
    return Abstention(
        measured=decided is not None,
        reason=evidence.abstention_reason if decided is None else None,
        answered=None if decided is None else decided.answered,
        few_cells=None if decided is None else decided.few_cells,
        novel=None if decided is None else decided.novel,
        uncertain=None if decided is None else decided.uncertain,
        coverage=None if decided is None else figure_of(decided.coverage),
        accuracy_answered=None if decided is None else figure_of(decided.accuracy_answered),
        accuracy_at_80=None if figures is None else figure_of(figures.accuracy_at_80),
        least_confidence=[] if rates is None else list(rates.least_confidence),
        novelty_threshold=[] if rates is None else list(rates.novelty_threshold),
        risk=None if rates is None else rates.risk,
        false_alarm=None if rates is None else rates.false_alarm,
        fitted_on=None if rates is None else rates.fitted_on,
        notes=[] if rates is None else list(rates.notes),
    )


def _cells(cells: CellEvidence | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    return {
        "found": cells.found,
        "median": cells.median,
        "least_cells": cells.least_cells,
        "few_cells": cells.few_cells,
        "rules": list(cells.rules),
        "chosen_on": cells.chosen_on,
        "steady": cells.steady,
        "steady_cells": cells.steady_cells,
        "levels": {
            level.name: {
                "says": level.says,
                "metrics": _figures(level.metrics),
            }
            for level in cells.levels
        },
        "missing": dict(cells.missing),
    }


def _label_sets(evidence: Evidence) -> LabelSetsFigures:
    figures = evidence.label_sets
    return LabelSetsFigures(
        measured=figures is not None,
        reason=None if figures is not None else evidence.label_sets_reason,
        alpha=evidence.alpha,
        per=evidence.per,
        coverage=None if figures is None else figure_of(figures.coverage),
        mean_size=None if figures is None else figures.mean_size,
        sizes={} if figures is None else {str(size): count for size, count in figures.sizes.items()},
        says=evidence.label_sets_say,
    )


def _curves(evidence: Evidence) -> dict[str, Any] | None:
    curves = evidence.curves
    if curves is None:
        return None
    risk = curves.risk_coverage
    return {
        "roc": {name: _curve(curve) for name, curve in curves.roc.items()},
        "precision_recall": {name: _curve(curve) for name, curve in curves.precision_recall.items()},
        "reliability": {
            "before": [asdict(b) for b in evidence.reliability_before],
            "after": [asdict(b) for b in curves.reliability],
        },
        "risk_coverage": {
            **_curve(Curve(x=risk.coverage, y=risk.error, low=risk.low, high=risk.high, method=risk.method)),
            "area": risk.area,
        },
    }


def _curve(curve: Curve) -> dict[str, Any]:
    """Round to five digits after the point: finer than a picture shows, and a third of the bytes."""

    def rounded(values: Any) -> list[float] | None:
        return None if values is None else [round(float(v), 5) for v in values]

    return {
        "x": rounded(curve.x),
        "y": rounded(curve.y),
        "low": rounded(curve.low),
        "high": rounded(curve.high),
        "method": curve.method,
    }


def _warnings(evaluation: Evaluation, context: ReportContext) -> list[str]:
    found = []
    if is_random(context.weights):
        found.append(random_warning("the backbone"))
    subset = subset_of(context.classes, context.whole_class_count)
    if subset:
        found.append(subset_warning(subset, context.classes))
    if context.split == "val" and context.external is None:
        found.append("these are the images that choices were made on: the estimate is optimistic")
    if context.test_looks > 1:
        found.append(
            f"{'these images have' if context.external else 'the test split has'} been looked at {context.test_looks} "
            "times: a figure picked from several looks is optimistic"
        )
    for bound in sorted({LEAST_TEMPERATURE, MOST_TEMPERATURE} & set(context.temperatures)):
        found.append(
            f"the temperature {bound:g} lies at its bound, so the images it was fitted on did not "
            "determine it: do not rely on the confidence"
        )
    return [*found, *evaluation.warnings, *context.warnings]


def _check_finite(value: object, where: str) -> None:
    """Raise ValueError, naming the place, for NaN or infinity anywhere inside."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_finite(inner, f"{where}[{i}]")
