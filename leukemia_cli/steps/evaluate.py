"""`leuk evaluate`: how good a run is on images it has not seen, with an interval on every number.

Requirements met here:
- Every look at a part is written down and counted.
- A run on cells is judged on photographs; figures of cells and of patients, and what the number of cells alone would say,
  stand beside it.
- The report is written before a threshold that the user set is held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.data.datasets import SourceDefaults
from leukemia_cli.data.manifest import PRINTS
from leukemia_cli.domain import Manifest, Note, Track, fingerprint, silent, unheard
from leukemia_cli.errors import DataError, ThresholdMissed, UsageError, WorkspaceError
from leukemia_cli.judging.bars import Bar
from leukemia_cli.judging.comparison import independent_difference
from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.intervals import group_bootstrap, plain_values
from leukemia_cli.learning.classifier import Classifier, together
from leukemia_cli.learning.external import Elsewhere, Origin, external_part
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.parts import Looking, Part, ScoredPart, own_part, score_part
from leukemia_cli.reporting.cell_evidence import beside_control, cells_csv, gather_cell_evidence
from leukemia_cli.reporting.evaluation import Drop, Evidence, Report, ReportContext, as_report
from leukemia_cli.reporting.evaluation_text import as_markdown, predictions_csv
from leukemia_cli.reporting.evidence import gather_evidence
from leukemia_cli.reporting.figures import confusion_svg
from leukemia_cli.reporting.heatmaps import check_heatmaps, draw_heatmaps
from leukemia_cli.reporting.thumbnails import illustrated
from leukemia_cli.workspace.documents import now, sealed, write_json
from leukemia_cli.workspace.files import fresh_folder, write_bytes, write_text
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.looks import count_look
from leukemia_cli.workspace.runs import RunFolder, check_own

HEADLINE = "balanced_accuracy"
MOST_HEATMAPS = 48
"""With so many a page is still below 3 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """Which images to judge on, how finely the intervals are drawn, what must be reached, and which pictures are shown.

    `external` is NAME=SOURCE; `layout`, `labels`, `label_column` and `group_by` are then as in prepare.
    """

    split: Literal["test", "val"] = "test"
    external: str | None = None
    layout: str = "auto"
    labels: str | None = None
    label_column: str | None = None
    group_by: str = "auto"
    skip_bad: bool = False
    bars: tuple[Bar, ...] = ()
    pictures: bool = True
    heatmaps: int = 0
    """How many images, the most confident mistakes first, get a heat-map in the report."""
    resamples: int = 2000
    batch_size: int = 16
    max_megapixels: float = 200.0
    device: str = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value in (("--resamples", self.resamples), ("--batch-size", self.batch_size)):
            if value < 1:
                raise UsageError(f"{flag} {value} is too small", "Use at least 1")
        if self.external is None:
            given = [
                flag
                for flag, value, default in (
                    ("--layout", self.layout, "auto"),
                    ("--labels", self.labels, None),
                    ("--label-column", self.label_column, None),
                    ("--group-by", self.group_by, "auto"),
                    ("--skip-bad", self.skip_bad, False),
                )
                if value != default
            ]
            if given:
                raise UsageError(f"{given[0]} without --external means nothing", "Leave it out, or name --external")
        elif self.split != "test":
            raise UsageError("--external and --split exclude each other", "Name one of them")
        if self.heatmaps > MOST_HEATMAPS:
            raise UsageError(
                f"--heatmaps {self.heatmaps} is too many for one page",
                f"Use at most {MOST_HEATMAPS}; leuk classify --heatmaps DIR draws any number",
            )
        if self.heatmaps and not self.pictures:
            raise UsageError("--heatmaps and --no-images exclude each other", "Name one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A written report: its folder and what its report.json holds."""

    folder: Path
    report: dict[str, Any]
    missed: tuple[str, ...] = ()
    """How figures fall short of the bars that were set."""

    def as_json(self) -> dict[str, Any]:
        """Give report.json's content."""
        return self.report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What stays the same through one evaluation; `own` is the run's manifest where it is that of the workspace."""

    workspace: Workspace
    run: RunFolder
    classifier: Classifier
    own: Manifest | None
    settings: EvaluateSettings
    looking: Looking


def evaluate(
    workspace: Workspace,
    manifest: Manifest | None,
    run: RunFolder,
    settings: EvaluateSettings,
    *,
    track: Track = silent,
    note: Note = unheard,
) -> Evaluated:
    """Judge a run and write `reports/<run>-<split>/`, or `reports/<run>-external-<name>/` for images from elsewhere.

    A run over folds is judged on its pooled out-of-fold predictions: each image by the member that has not seen it; on
    images from elsewhere by all members together. `manifest` may be None only with `external`.
    Raises WorkspaceError for a run made from other data, DataError where training shares a group or an image with the part.
    Bars that are missed are told in what is returned: the report is written all the same.
    """
    bench = _begin(workspace, manifest, run, settings, track, note)
    name, part = _part(bench)
    if settings.heatmaps and bench.classifier.unit == "cell":
        raise UsageError(f"run {run.id} is on cells, and heat-maps are of whole images", "Leave --heatmaps out")
    if settings.heatmaps:  # a backbone that has none is refused before a look is counted
        check_heatmaps(bench.classifier)
    judged = score_part(bench.classifier, part, bench.looking)
    looks = _look(bench, part, name or settings.split)
    if looks > 1:
        note(f"these {name or settings.split} images have now been looked at {looks} times")
    resamples, seed = settings.resamples, settings.seed
    evidence = gather_evidence(judged, run, external=name is not None, resamples=resamples, seed=seed)
    warnings = part.warnings
    if part.fields is not None:
        cells = gather_cell_evidence(judged, resamples=resamples, seed=seed)
        value = plain_values(judged.predictions, (HEADLINE,))[HEADLINE]
        evidence, warnings = replace(evidence, cells=cells), (*warnings, *beside_control(cells, HEADLINE, value))
    if name is not None:
        evidence = replace(evidence, drop=_drop(bench, judged))
    folder = workspace.reports_folder / f"{run.id}-{settings.split if name is None else f'external-{name}'}"
    with fresh_folder(folder) as beside:
        if settings.heatmaps:
            heatmaps = draw_heatmaps(
                beside, judged, settings.heatmaps, max_megapixels=settings.max_megapixels, seed=seed, note=note
            )
            evidence = replace(evidence, heatmaps=heatmaps)
        report = _report(bench, name, judged, evidence, looks, warnings)
        _write(beside, report, judged, settings, note)
    missed = [told for bar in settings.bars if (told := bar.missed(report["metrics"])) is not None]
    return Evaluated(folder=folder, report=cast(dict[str, Any], report), missed=tuple(missed))


def some_missed(missed: Sequence[str]) -> ThresholdMissed:
    """Make the error that ends a command of which a bar was missed."""
    return ThresholdMissed(
        "; ".join(missed), "The report is written; the run does not reach what --min or --max asks for"
    )


# ------------------------------------------------------------------------------------------------- which images


def _begin(
    workspace: Workspace,
    manifest: Manifest | None,
    run: RunFolder,
    settings: EvaluateSettings,
    track: Track,
    note: Note,
) -> _Bench:
    own = manifest if manifest is not None and run.facts.get("manifest") == manifest.fingerprint else None
    if settings.external is None and own is None:
        raise WorkspaceError(
            f"run {run.id} was made from another manifest than that of {workspace.root}",
            "Prepare the data it was trained on again, or train a run from this manifest",
        )
    check_own(workspace, run)
    machine = choose_machine(settings.device, settings.workers)
    classifier = load_classifier(run, machine)
    note(f"run: {run.id}, {classifier.task.title}; device: {machine.description}")
    looking = Looking(
        cache_root=workspace.features_folder / "cache",
        batch_size=settings.batch_size,
        max_megapixels=settings.max_megapixels,
        track=track,
        note=note,
    )
    return _Bench(workspace=workspace, run=run, classifier=classifier, own=own, settings=settings, looking=looking)


def _part(bench: _Bench) -> tuple[str | None, Part]:
    """Give the images to judge, and the name of those from elsewhere."""
    settings = bench.settings
    if settings.external is None:
        if bench.own is None:
            raise ValueError("neither images from elsewhere nor a manifest")
        return None, own_part(bench.own, bench.classifier, bench.run, settings.split, bench.looking)
    defaults = SourceDefaults(
        layout=settings.layout, labels=settings.labels, label_column=settings.label_column, group_by=settings.group_by
    )
    elsewhere = Elsewhere.read(settings.external, defaults, skip_bad=settings.skip_bad)
    prints = bench.workspace.manifest_folder / PRINTS
    origin = None if bench.own is None else Origin(manifest=bench.own, prints=prints)
    return elsewhere.name, external_part(elsewhere, bench.classifier, bench.run, origin, bench.looking)


def _look(bench: _Bench, part: Part, split: str) -> int:
    """Write down that this part was looked at, and count how often it has been."""
    images = fingerprint(sorted(sample.sha256 for sample in part.samples))
    return count_look(bench.workspace, images, split=split, run=bench.run.id)


def _drop(bench: _Bench, judged: ScoredPart) -> Drop | None:
    """Hold the figure beside that of the run's own test images, which is a look at them like any other."""
    note = bench.looking.note
    if bench.own is None:
        note("warning: no drop against the internal test: the run's own manifest is not in this workspace")
        return None
    try:
        part = own_part(bench.own, bench.classifier, bench.run, "test", bench.looking)
        internal = score_part(bench.classifier, part, bench.looking).predictions
    except DataError as error:
        note(f"warning: no drop against the internal test: {error.problem}")
        return None
    if not (bench.workspace.reports_folder / f"{bench.run.id}-test" / "report.json").is_file():
        _look(bench, part, "test")
    resamples, seed = bench.settings.resamples, bench.settings.seed
    # A mean of recalls over other classes is another figure: both sides are held to the classes that both have.
    shared = np.intersect1d(internal.labels, judged.predictions.labels)
    there, here = internal.of_classes(shared), judged.predictions.of_classes(shared)
    return Drop(
        metric=HEADLINE,
        classes=tuple(bench.classifier.task.classes[int(c)] for c in shared),
        internal=group_bootstrap(there, resamples=resamples, seed=seed)[HEADLINE],
        external=group_bootstrap(here, resamples=resamples, seed=seed)[HEADLINE],
        difference=independent_difference(here, there, HEADLINE, resamples=resamples, seed=seed),
        internal_groups_source=internal.groups_source,
    )


# ------------------------------------------------------------------------------------------------------- the report


def _report(
    bench: _Bench, external: str | None, judged: ScoredPart, evidence: Evidence, looks: int, warnings: Sequence[str]
) -> Report:
    settings, run, classifier, part = bench.settings, bench.run, bench.classifier, judged.part
    evaluation = judge(judged.predictions, resamples=settings.resamples, seed=settings.seed)
    spec = classifier.spec
    about_external = {
        "external source": settings.external,
        "external groups": settings.group_by,
        "near_copies": part.near_copies,
    }
    report = as_report(
        evaluation,
        ReportContext(
            run=run.id,
            task=classifier.task.name,
            classes=classifier.task.classes,
            whole_class_count=classifier.task.whole,
            split="external" if external else settings.split,
            external=external,
            backbone=spec.name,
            variant=str(run.facts["variant"]),
            weights=spec.weights if spec.is_random else spec.weights_source,
            tune=str(run.facts["tune"]),
            folds=part.folds,
            test_looks=looks,
            temperatures=tuple(m.temperature for m in classifier.members),
            fitted_on=_fitted_on(classifier),
            seed=run.facts.get("seed"),
            leuk_version=__version__,
            manifest=None if bench.own is None else bench.own.fingerprint,
            created=now(),
            warnings=tuple(dict.fromkeys(w for w in warnings if w not in evaluation.warnings)),
            pictures=settings.pictures,
            facts={
                "choice": run.facts.get("choice"),
                "device": str(classifier.machine.device),
                "precision": "fp32",
                **(about_external if external else {}),
            },
        ),
        evidence,
    )
    return cast(Report, sealed(report))


def _fitted_on(classifier: Classifier) -> str | None:
    """Say what temperatures were fitted on, and how many members have none."""
    told = together([m.calibrated_on for m in classifier.members])
    missing = sum(m.calibrated_on is None for m in classifier.members)
    if told is None or not missing:
        return told
    return f"{told}; {missing} of {len(classifier.members)} members are uncalibrated"


def _write(folder: Path, report: Report, judged: ScoredPart, settings: EvaluateSettings, note: Note) -> None:
    part, predictions = judged.part, judged.predictions
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", as_markdown(report))
    folds = [s.fold for s in part.samples] if part.folds is not None else None
    write_bytes(folder / "predictions.csv", predictions_csv([s.path for s in part.samples], predictions, folds))
    groups = report["groups"] if predictions.groups_known else None
    matrix = report["confusion"]["matrix"]
    write_text(folder / "confusion.svg", confusion_svg(report["confusion"]["classes"], matrix, groups=groups))
    made = illustrated(folder, report, pictures=report["pictures"], max_megapixels=settings.max_megapixels, note=note)
    write_text(folder / "report.html", made.page)
    if part.fields is not None:
        write_text(folder / "cells.csv", cells_csv(predictions.classes, part.fields))
