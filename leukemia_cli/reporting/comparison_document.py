"""The rows of a comparison, judged, become compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leukemia_cli import __version__
from leukemia_cli.domain import NO_GROUPS, PROPOSED_GROUPS, Manifest, counted, few_groups
from leukemia_cli.judging.comparison import compare_pairs
from leukemia_cli.judging.intervals import Estimate, group_bootstrap, plain_values
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting.caveats import random_warning, subset_of, subset_warning
from leukemia_cli.reporting.comparison import (
    ComparisonDocument,
    ComparisonRow,
    FoldChoice,
    Optimism,
    PairedDifference,
    PaperFigure,
)
from leukemia_cli.reporting.evaluation import figure_of
from leukemia_cli.workspace.documents import now

SCHEMA_VERSION = 1
PAIRED_METRICS = ("balanced_accuracy", "macro_f1")
OPTIMISM_METRICS = ("balanced_accuracy", "accuracy", "macro_f1")

PAPER_FIGURES: tuple[PaperFigure, ...] = (
    {"task": "binary", "model": "SENet-D", "metric": "accuracy", "value": 0.9984},
    {"task": "five-class", "model": "SENet-D", "metric": "accuracy", "value": 0.8448},
)
"""Nisar, Lee and Ali 2025, ICON-SONICS, abstract."""

Protocol = Literal["grouped", "paper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A backbone with a variant, judged: pooled predictions of each repeat, and what was chosen in each fold, of how many."""

    backbone: str
    variant: str
    weights: str
    random_weights: bool
    candidates: int
    predictions: tuple[Predictions, ...]
    choices: tuple[FoldChoice, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonContext:
    """What a comparison says beside its figures: by which protocol, on how many partitions, how made, how often looked at.

    `copies_per_image` counts the augmented copies of the optimistic protocol, None under the grouped one.
    """

    id: str
    protocol: Protocol
    copies_per_image: int | None
    folds: int
    repeats: int
    repeats_asked: int
    repeats_note: str | None
    grid: str
    tune: str
    views: int
    seed: int
    resamples: int
    looks: int
    command: tuple[str, ...]
    versions: Mapping[str, str]


def comparison_document(
    manifest: Manifest, rows: Sequence[Row], grouped: Sequence[Row], context: ComparisonContext
) -> ComparisonDocument:
    """Give the content of compare.json; `grouped` are the same models by the grouped protocol."""
    estimates = [_estimates(row, context) for row in rows]
    optimistic = context.protocol == "paper"
    per_class = {c: len({s.group for s in manifest.samples if s.label == c}) for c in manifest.task.classes}
    copies = None if context.copies_per_image is None else len(manifest.samples) * (context.copies_per_image + 1)
    return {
        "schema_version": SCHEMA_VERSION,
        "id": context.id,
        "protocol": context.protocol,
        "protocol_title": _protocol_title(manifest, context),
        "optimistic": optimistic,
        "task": manifest.task.name,
        "subset": subset_of(manifest.task.classes, manifest.task.whole),
        "classes": list(manifest.task.classes),
        "positive": manifest.task.positive,
        "images": len(manifest.samples),
        "groups": len({sample.group for sample in manifest.samples}),
        "groups_source": manifest.groups_source,
        "groups_per_class": per_class,
        "folds": context.folds,
        "repeats": context.repeats,
        "repeats_asked": context.repeats_asked,
        "repeats_note": context.repeats_note,
        "grid": context.grid,
        "tune": context.tune,
        "views": context.views,
        "copies": copies,
        "seed": context.seed,
        "manifest": manifest.fingerprint,
        "created": now(),
        "leuk_version": __version__,
        "command": list(context.command),
        "copies_per_image": context.copies_per_image,
        "looks": context.looks,
        "resamples": context.resamples,
        "versions": dict(context.versions),
        "headline_metric": "balanced_accuracy",
        "rows": [_row(row, own) for row, own in zip(rows, estimates, strict=True)],
        "differences": _differences(rows, context),
        "paper": list(PAPER_FIGURES),
        "protocol_differences": _protocol_differences(context),
        "optimism": _optimism(rows, estimates, [_estimates(row, context) for row in grouped]) if optimistic else [],
        "warnings": _warnings(manifest, rows, per_class, context),
    }


def _estimates(row: Row, context: ComparisonContext) -> Mapping[str, Estimate]:
    """Give the figures of the first partition, the manifest's own."""
    return group_bootstrap(row.predictions[0], resamples=context.resamples, seed=context.seed)


def _row(row: Row, estimates: Mapping[str, Estimate]) -> ComparisonRow:
    values = [plain_values(predictions, METRICS) for predictions in row.predictions]
    return {
        "backbone": row.backbone,
        "variant": row.variant,
        "weights": row.weights,
        "random_weights": row.random_weights,
        "metrics": {name: figure_of(estimate) for name, estimate in estimates.items()},
        "repeats": {name: [value[name] for value in values] for name in METRICS},
        "choices": list(row.choices),
        "seconds": row.seconds,
    }


def _differences(rows: Sequence[Row], context: ComparisonContext) -> list[PairedDifference]:
    """Compare the rows that differ in one thing: two variants of a backbone, or two backbones with a variant."""
    named = {f"{row.backbone} {row.variant}": row for row in rows}
    pairs = [
        (a, b)
        for i, (a, one) in enumerate(named.items())
        for b, other in list(named.items())[i + 1 :]
        if (one.backbone == other.backbone) != (one.variant == other.variant)
    ]
    contrasts = compare_pairs(
        {name: row.predictions[0] for name, row in named.items()},
        PAIRED_METRICS,
        pairs=pairs,
        resamples=context.resamples,
        seed=context.seed,
    )
    return [
        {
            "a": {"backbone": named[c.a].backbone, "variant": named[c.a].variant},
            "b": {"backbone": named[c.b].backbone, "variant": named[c.b].variant},
            "metric": c.difference.metric,
            "value": c.difference.value,
            "low": c.difference.low,
            "high": c.difference.high,
            "n": c.difference.n,
            "groups": c.difference.groups,
            "method": c.difference.method,
            "freedom": c.difference.freedom,
            "p": c.p,
            "p_holm": c.p_holm,
            "test": c.test,
        }
        for c in contrasts
    ]


def _optimism(
    rows: Sequence[Row], optimistic: Sequence[Mapping[str, Estimate]], grouped: Sequence[Mapping[str, Estimate]]
) -> list[Optimism]:
    """Hold the figures of each row beside those of the same model by the grouped protocol."""
    found: list[Optimism] = []
    for row, flattered, honest in zip(rows, optimistic, grouped, strict=True):
        for name in OPTIMISM_METRICS:
            high, low = flattered[name].value, honest[name].value
            found.append(
                {
                    "backbone": row.backbone,
                    "variant": row.variant,
                    "metric": name,
                    "optimistic": figure_of(flattered[name]),
                    "grouped": figure_of(honest[name]),
                    "difference": None if high is None or low is None else high - low,
                }
            )
    return found


def _protocol_title(manifest: Manifest, context: ComparisonContext) -> str:
    repeats = counted(context.repeats, "repeat")
    if context.protocol == "paper":
        return (
            f"optimistic protocol: {context.copies_per_image} augmented copies of each image beside it, then a random 80/20 "
            f"split of the copies, patients ignored; {repeats}"
        )
    unit = "image" if manifest.groups_source == "none" else "group"
    return (
        f"{manifest.folds} folds by {unit} × {repeats}, out-of-fold predictions pooled, every choice "
        "made inside the training folds"
    )


def _protocol_differences(context: ComparisonContext) -> list[str]:
    """Say in what the paper's experiment differs from this one."""
    other_images = "other images: theirs were of ALL-IDB1 and the ASH Image Bank, in numbers that are not published"
    tuned = f"how far they trained their backbones is not published; here: {context.tune}"
    if context.protocol == "grouped":
        return [
            other_images,
            "their split is not published; here no group is ever on both sides",
            "their hyper-parameters, widths and rates are not published; ours are chosen inside the training folds",
            "they give one accuracy each; we lead with balanced accuracy, with its interval",
            tuned,
        ]
    return [
        other_images,
        "their split is not published; this one ignores patients and copies, as much of the literature does",
        "their hyper-parameters, widths and rates are not published; ours are chosen inside the training part",
        "they give one accuracy each, without counts or an interval",
        tuned,
    ]


def _warnings(
    manifest: Manifest, rows: Sequence[Row], per_class: Mapping[str, int], context: ComparisonContext
) -> list[str]:
    found = []
    if context.protocol == "paper":
        found.append(
            "OPTIMISTIC PROTOCOL: copies of one image, and images of one patient, lie in training and test data alike; "
            "these figures say how much such a split flatters, not how good a model is"
        )
    if manifest.unit == "cell":
        found.append(
            "single cells are compared here, each by its own label: not to be held beside figures of photographs that "
            "leuk evaluate gives"
        )
    random = sorted({row.backbone for row in rows if row.random_weights})
    if random:
        found.append(random_warning(", ".join(random)))
    subset = subset_of(manifest.task.classes, manifest.task.whole)
    if subset:
        found.append(subset_warning(subset, manifest.task.classes))
    if context.repeats_note:
        found.append(context.repeats_note)
    if manifest.groups_source == "none":
        found.append(NO_GROUPS)
    else:
        found += few_groups(per_class)
    if manifest.groups_source == "proposed":
        found.append(PROPOSED_GROUPS)
    unchosen = [
        f"{row.backbone} {row.variant}"
        for row in rows
        if row.candidates > 1 and any(not choice["trials"] for choice in row.choices)
    ]
    if unchosen:
        found.append(f"too few groups to choose by in some folds of {', '.join(unchosen)}: defaults were taken there")
    return [*dict.fromkeys([*found, *(w for w in manifest.warnings if not w.startswith("fewer than"))])]
