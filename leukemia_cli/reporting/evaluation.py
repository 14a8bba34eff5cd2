"""One evaluation becomes report.json, report.md and predictions.csv; no figure stands without its number of images.

The Markdown is made from the JSON, so that a stored report can be shown again and both always say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.domain import GroupsSource
from leukemia_cli.judging.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from leukemia_cli.judging.comparison import Difference
from leukemia_cli.judging.curves import Bin, Curve
from leukemia_cli.judging.evaluation import AbstentionFigures, Curves, Evaluation, LabelSetFigures
from leukemia_cli.judging.intervals import Estimate
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.judging.predictions import Predictions

SCHEMA_VERSION = 1
RESEARCH_USE = "For research use only: not a medical device, and not for the diagnosis of patients."

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
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


# ---------------------------------------------------------------------------------- report.json


def subset_of(classes: Sequence[str], whole_class_count: int) -> str | None:
    """Say '3 of five classes' for a subset, None for a whole task."""
    if len(classes) == whole_class_count:
        return None
    whole = _WORDS[whole_class_count] if whole_class_count < len(_WORDS) else str(whole_class_count)
    return f"{len(classes)} of {whole} classes"


def is_random(weights: str) -> bool:
    """Say whether a description of weights, such as 'none' or 'none (random)', means that nothing was pretrained."""
    return weights.strip().casefold().split(" ")[0] in ("none", "random")


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
        metrics={name: figure_of(estimate) for name, estimate in evaluation.metrics.items()},
        per_class={
            name: ClassRow(
                precision=figures.precision,
                recall=figures.recall,
                f1=figures.f1,
                auroc=figures.auroc,
                support=figures.support,
            )
            for name, figures in evaluation.per_class.items()
        },
        confusion=Confusion(classes=list(evaluation.classes), matrix=[list(row) for row in evaluation.confusion]),
        calibration=Calibration(
            temperature=context.temperatures[0] if len(set(context.temperatures)) == 1 else None,
            temperatures=list(context.temperatures),
            fitted_on=context.fitted_on,
            ece=evaluation.metrics["ece"].value,
            brier=evaluation.metrics["brier"].value,
            log_loss=evaluation.metrics["log_loss"].value,
            before=None
            if evidence.before is None
            else {name: figure_of(evidence.before[name]) for name in CALIBRATION_METRICS},
            after={name: figure_of(evaluation.metrics[name]) for name in CALIBRATION_METRICS},
        ),
        abstention=_abstention(evidence),
        label_sets=_label_sets(evidence),
        curves=_curves(evidence),
        choices=[dict(choice) for choice in evidence.choices],
        history=[dict(epoch) for epoch in evidence.history],
        mistakes=[asdict(mistake) for mistake in evidence.mistakes],
        drop=None
        if evidence.drop is None
        else {
            "metric": evidence.drop.metric,
            "classes": list(evidence.drop.classes),
            "internal_groups_source": evidence.drop.internal_groups_source,
            "internal": figure_of(evidence.drop.internal),
            "external": figure_of(evidence.drop.external),
            "difference": figure_of(evidence.drop.difference),
        },
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


CALIBRATION_METRICS = ("ece", "brier", "log_loss")


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


def _abstention(evidence: Evidence) -> Abstention:
    figures, rates = evidence.abstention, evidence.rates
    measured = figures is not None and rates is not None
    return Abstention(
        measured=measured,
        reason=None if measured else evidence.abstention_reason,
        answered=figures.answered if figures and measured else None,
        few_cells=figures.few_cells if figures and measured else None,
        novel=figures.novel if figures and measured else None,
        uncertain=figures.uncertain if figures and measured else None,
        coverage=figure_of(figures.coverage) if figures and measured else None,
        accuracy_answered=figure_of(figures.accuracy_answered) if figures and measured else None,
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
                "metrics": {name: figure_of(estimate) for name, estimate in level.metrics.items()},
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
        found.append(
            "RANDOM WEIGHTS: the backbone started from random numbers (weights: none), nothing was pretrained; "
            "these figures say nothing about what the method can do"
        )
    subset = subset_of(context.classes, context.whole_class_count)
    if subset:
        found.append(f"{subset} ({', '.join(context.classes)}): not to be compared with figures of the whole task")
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


# ---------------------------------------------------------------------------------- report.md


def as_markdown(report: Report) -> str:
    """Give report.md: warnings on top, then tables in which every row of figures has its images and groups."""
    level = f"{100 * report['bootstrap']['level']:g} %"
    notes: list[str] = []
    blocks = [
        f"# Report of {_text(report['run'])}",
        f"**{RESEARCH_USE}**",
        *_warning_block(report),
        _about(report),
        *_drop_lines(report),
        "## Figures",
        _table(
            ("Metric", "Value", f"{level} interval", "Images", "Groups", "How"),
            [
                (METRICS[name].title if name in METRICS else _text(name), *_figure_cells(report, figure, notes))
                for name, figure in report["metrics"].items()
            ],
        ),
        "\n".join(f"{number}. {_text(note)}" for number, note in enumerate(notes, start=1)),
        *_level_lines(report),
        "## Classes",
        _table(
            ("Class", "Precision", "Recall", "F1", "AUROC", "Images", "Groups"),
            [
                (
                    _text(name) + (" (positive)" if name == report["positive"] else ""),
                    *(_number(figure) for figure in (row["precision"], row["recall"], row["f1"], row["auroc"])),
                    str(row["support"]),
                    _groups(report, report["groups_per_class"][name]),
                )
                for name, row in report["per_class"].items()
            ],
        ),
        "## Confusion matrix",
        f"Counts of {counts_of(report)}; true class in rows, predicted class in columns.",
        _table(
            ("True \\ predicted", *map(_text, report["confusion"]["classes"]), "Images", "Groups"),
            [
                (_text(name), *map(str, row), str(sum(row)), _groups(report, report["groups_per_class"][name]))
                for name, row in zip(report["confusion"]["classes"], report["confusion"]["matrix"], strict=True)
            ],
        ),
        "## Calibration and abstention",
        _calibration_line(report),
        *_abstention_lines(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


LEVEL_METRICS = ("balanced_accuracy", "auroc", "accuracy", "macro_f1")
"""What is shown of each level; report.json has all."""


def cell_words(cells: Mapping[str, Any], images: int) -> list[str]:
    """Say how photographs were read: the rule, what it was chosen on, and what became of photographs with few cells."""
    rules = ", or ".join(cells["rules"])
    chosen = f"chosen on {cells['chosen_on']}" if cells["chosen_on"] else "taken as it is: too few groups to choose by"
    lines = [
        f"Photographs are judged by the white cells that were found in them, labelled or not: {cells['found']} in {images} "
        f"photographs, in the median one {cells['median']:g}. What is taken of them is {rules} ({chosen}).",
        f"{cells['few_cells']} of {images} photographs have fewer than {cells['least_cells']} cells and get no answer when "
        "classified; in the figures they count all the same.",
    ]
    if cells["steady"] is not None:
        lines.append(
            f"With only {cells['steady_cells']} cells of each photograph kept, drawn at random, {100 * cells['steady']:.0f} % "
            "of the decisions stay as they are: the decision hardly hangs on the number of cells where this is near 100 %."
        )
    return lines + [f"No figures for level {name}: {why}." for name, why in cells["missing"].items()]


def _level_lines(report: Report) -> list[str]:
    cells = report["cells"]
    if cells is None:
        return []
    notes: list[str] = []
    rows = [
        (_text(name), METRICS[metric].title, *_figure_cells(report, level["metrics"][metric], notes))
        for name, level in cells["levels"].items()
        for metric in LEVEL_METRICS
    ]
    return [
        "## Cells, photographs, patients",
        *map(_text, cell_words(cells, report["images"])),
        _table(("Level", "Metric", "Value", "Interval", "Judged", "Groups", "How"), rows),
        "\n".join(f"{number}. {_text(note)}" for number, note in enumerate(notes, start=1)),
        *(f"{_text(name)}: {_text(level['says'])}." for name, level in cells["levels"].items()),
    ]


def counts_of(report: Report) -> str:
    """Say '260 images of 31 groups', or that groups are unknown."""
    images = f"{report['images']} {'image' if report['images'] == 1 else 'images'}"
    if report["groups_source"] == "none":
        return f"{images}, groups unknown"
    return f"{images} of {report['groups']} {'group' if report['groups'] == 1 else 'groups'}"


def _warning_block(report: Report) -> list[str]:
    if not report["warnings"]:
        return []
    lines = [
        f"> - **{_text(warning)}**" if warning.startswith("RANDOM WEIGHTS") else f"> - {_text(warning)}"
        for warning in report["warnings"]
    ]
    return ["\n".join(["> **Warnings**", ">", *lines])]


def _about(report: Report) -> str:
    task = _text(report["task"])
    classes = ", ".join(map(_text, report["confusion"]["classes"]))
    where = f"external data {_text(report['external'])}" if report["external"] else f"split {_text(report['split'])}"
    if report["folds"]:
        where += f", out-of-fold predictions of {report['folds']} folds pooled"
    lines = [
        f"- Task: {task}, {report['subset']}: {classes}" if report["subset"] else f"- Task: {task}: {classes}",
        f"- Images: {counts_of(report)} (groups: {report['groups_source']}), {where}",
        f"- Model: {_text(report['backbone'])}, variant {_text(report['variant'])}, "
        f"weights {_text(report['weights'])}, trained: {_text(report['tune'])}",
    ]
    if report["split"] == "test" and not report["external"]:
        times = "once" if report["test_looks"] == 1 else f"{report['test_looks']} times"
        lines.append(f"- The test split has been looked at {times}")
    origin = [
        f"{title} {_text(str(value))}"
        for title, value in (
            ("leuk", report["leuk_version"]),
            ("seed", report["seed"]),
            ("manifest", report["manifest"]),
            ("created", report["created"]),
        )
        if value is not None
    ]
    lines += [f"- Made with: {', '.join(origin)}"] if origin else []
    lines += [f"- {_text(key)}: {_text(str(value))}" for key, value in report["facts"].items()]
    return "\n".join(lines)


def _figure_cells(report: Report, figure: Figure, notes: list[str]) -> tuple[str, ...]:
    """Give the cells of one figure; its method becomes a numbered note, shared by figures of the same method."""
    if figure["method"] not in notes:
        notes.append(figure["method"])
    interval = "–" if figure["low"] is None else f"{_number(figure['low'])} to {_number(figure['high'])}"
    note = f"({notes.index(figure['method']) + 1})"
    return _number(figure["value"]), interval, str(figure["n"]), _groups(report, figure["groups"]), note


def _calibration_line(report: Report) -> str:
    calibration = report["calibration"]
    figures = ", ".join(
        f"{title} {_number(value)}"
        for title, value in (
            ("expected calibration error", calibration["ece"]),
            ("Brier score", calibration["brier"]),
            ("log loss", calibration["log_loss"]),
        )
    )
    if calibration["fitted_on"] is None:
        how = "Scores are not calibrated"
    else:
        shown = ", ".join(f"{value:.3g}" for value in dict.fromkeys(calibration["temperatures"]))
        how = f"Temperature {shown}, fitted on {_text(calibration['fitted_on'])}"
    return f"{how}. On these {counts_of(report)}: {figures}."


def _drop_lines(report: Report) -> list[str]:
    drop = report["drop"]
    if drop is None:
        return []
    title = METRICS[drop["metric"]].title
    over = ""
    if set(drop["classes"]) != set(report["confusion"]["classes"]):
        over = f" over {', '.join(map(_text, drop['classes']))}, the classes that both have,"
    known = drop["internal_groups_source"] != "none"
    return [
        f"**{title}{over} here {_said(report, drop['external'])}; on the run's own test images "
        f"{_said(report, drop['internal'], groups_known=known)}. "
        f"Difference {_said(report, drop['difference'], sign=True)}.**"
    ]


def _said(report: Report, figure: Mapping[str, Any], *, sign: bool = False, groups_known: bool | None = None) -> str:
    """Say a figure with its interval and counts in running text."""
    known = report["groups_source"] != "none" if groups_known is None else groups_known
    value = "–" if figure["value"] is None else f"{figure['value']:+.3f}" if sign else f"{figure['value']:.3f}"
    form = "+.3f" if sign else ".3f"
    ends = (
        f" ({100 * report['bootstrap']['level']:g} % interval {figure['low']:{form}} to {figure['high']:{form}})"
        if figure["low"] is not None
        else f" (no interval: {_text(figure['method'].removeprefix('no interval: '))})"
    )
    counted_in = "" if sign else f", {figure['n']} images, {figure['groups'] if known else 'unknown'} groups"
    return f"{value}{ends}{counted_in}"


def _abstention_lines(report: Report) -> list[str]:
    a, sets = report["abstention"], report["label_sets"]
    lines = ["The figures above count every image: no abstention."]
    if a["measured"] and a["coverage"] is not None and a["accuracy_answered"] is not None:
        lines.append(
            f"With abstention {a['answered']} images are answered, {a['novel']} are novel and {a['uncertain']} uncertain"
            + (f", {a['few_cells']} have too few cells: " if a["few_cells"] else ": ")
            + f"share answered {_said(report, a['coverage'])}; accuracy of the answers "
            f"{_said(report, a['accuracy_answered'])}. Thresholds: fitted on {_text(a['fitted_on'] or '')}."
        )
        lines += [f"Note: {_text(note)}." for note in a["notes"]]
    else:
        lines.append(f"Abstention: {_text(a['reason'] or 'not measured')}.")
    if a["accuracy_at_80"] is not None:
        lines.append(f"Accuracy of the most confident 80 %: {_said(report, a['accuracy_at_80'])}.")
    if sets["measured"] and sets["coverage"] is not None and sets["alpha"] is not None:
        lines.append(
            f"Label sets at an error rate of {100 * sets['alpha']:g} %: coverage {_said(report, sets['coverage'])}, "
            f"mean size {_number(sets['mean_size'])}. {_text(sets['says'] or '')}"
        )
    else:
        lines.append(f"Label sets: {_text(sets['reason'] or 'not measured')}.")
    return ["\n\n".join(lines)]


def _groups(report: Report, count: int) -> str:
    return "unknown" if report["groups_source"] == "none" else str(count)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_MARKDOWN = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#"}


def _text(given: str) -> str:
    """Keep a name from being read as Markdown, HTML or a line break."""
    return " ".join(given.split()).translate(_MARKDOWN)


# ---------------------------------------------------------------------------------- predictions.csv


def predictions_csv(paths: Sequence[str], predictions: Predictions, folds: Sequence[int | None] | None = None) -> bytes:
    """Give predictions.csv: one row an image, in order; scores read back to the same number.

    Columns: path, group, fold, label, predicted, correct (1 or 0), score_<class>…; `group` is empty where groups are
    unknown, `fold` where there is none. Names that were not UTF-8 come out as the bytes they were.
    Raises ValueError where paths or folds are not as many as predictions.
    """
    n = predictions.image_count
    folds = [None] * n if folds is None else folds
    if len(paths) != n or len(folds) != n:
        raise ValueError(f"{len(paths)} paths and {len(folds)} folds for {n} predictions")
    groups = predictions.groups if predictions.groups_known else ("",) * n
    classes, labels, called = predictions.classes, predictions.labels.tolist(), predictions.predicted.tolist()
    lines: list[list[str | float | int | None]] = [
        ["path", "group", "fold", "label", "predicted", "correct", *(f"score_{name}" for name in classes)]
    ]
    for i, scores in enumerate(predictions.probabilities.tolist()):
        fold = "" if folds[i] is None else folds[i]
        right = int(labels[i] == called[i])
        lines.append([paths[i], groups[i], fold, classes[labels[i]], classes[called[i]], right, *scores])
    return "".join(map(csv_line, lines)).encode("utf-8", errors="surrogateescape")
