"""`leuk evaluate`: how good a run is on images it has not seen, with an interval on every number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.domain import Manifest, Note, Sample, Track, few_groups, fingerprint, silent, unheard
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.classifier import Classifier, Member, load_classifier, member_digest, together
from leukemia_cli.learning.features import FeatureCache, Views, extract
from leukemia_cli.learning.fitting import Scores
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.reporting.evaluation import ReportContext, as_markdown, as_report, predictions_csv
from leukemia_cli.reporting.pictures import confusion_svg
from leukemia_cli.workspace import (
    RunFolder,
    Workspace,
    disk_errors,
    fresh_folder,
    now,
    write_bytes,
    write_json,
    write_text,
)

LOOKS_FILE = "looks.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """Which part to judge on, and how finely the intervals are drawn."""

    split: Literal["test", "val"] = "test"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A written report: its folder and what its report.json holds."""

    folder: Path
    report: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give report.json's content."""
        return self.report


def evaluate(
    workspace: Workspace,
    manifest: Manifest,
    run: RunFolder,
    settings: EvaluateSettings,
    *,
    track: Track = silent,
    note: Note = unheard,
) -> Evaluated:
    """Judge a run on a part of the manifest it was trained from, and write `reports/<run>-<split>/`.

    A run over folds is judged on its pooled out-of-fold predictions: each image by the member that has not seen it.
    Raises WorkspaceError for a run made from other data, DataError where training shares a group or an image with the part.
    """
    if run.facts.get("manifest") != manifest.fingerprint:
        raise WorkspaceError(
            f"run {run.id} was made from another manifest than that of {workspace.root}",
            "Prepare the data it was trained on again, or train a run from this manifest",
        )
    machine = choose_machine(settings.device, settings.workers)
    classifier = load_classifier(run, machine)
    note(f"run: {run.id}, {classifier.task.title}; device: {machine.description}")
    judged = _judged(manifest, classifier, settings.split)
    check_no_leak(manifest, classifier, judged)
    samples = [sample for sample, _ in judged]
    probabilities = _score(workspace, classifier, judged, settings, track)
    order = {name: i for i, name in enumerate(classifier.task.classes)}
    predictions = Predictions(
        classes=classifier.task.classes,
        positive=classifier.task.positive,
        labels=np.array([order[s.label] for s in samples], dtype=np.int64),
        probabilities=probabilities,
        groups=tuple(s.group for s in samples),
        groups_source=manifest.groups_source,
    )
    evaluation = judge(predictions, resamples=settings.resamples, seed=settings.seed)
    pooled = len({member.fold for _, member in judged}) if manifest.folds else None
    looks = _look(workspace, run, samples, settings.split)
    told = set(evaluation.warnings)  # the groups of this part, which say more than those of the whole manifest
    whole = few_groups({c: len({s.group for s in manifest.samples if s.label == c}) for c in manifest.task.classes})
    warnings = [w for w in (*manifest.warnings, *run.facts.get("warnings", ())) if w not in {*told, *whole}]
    if looks > 1:
        note(f"this {settings.split} part has now been looked at {looks} times")
    report = as_report(
        evaluation,
        ReportContext(
            run=run.id,
            task=classifier.task.name,
            classes=classifier.task.classes,
            whole_class_count=classifier.task.whole,
            split=settings.split,
            backbone=classifier.spec.name,
            variant=str(run.facts["variant"]),
            weights=classifier.spec.weights if classifier.spec.is_random else classifier.spec.weights_source,
            tune=str(run.facts["tune"]),
            folds=pooled,
            test_looks=looks,
            temperatures=tuple(m.temperature for m in classifier.members),
            fitted_on=together([m.calibrated_on for m in classifier.members]),
            seed=run.facts.get("seed"),
            leuk_version=__version__,
            manifest=manifest.fingerprint,
            created=now(),
            warnings=tuple(dict.fromkeys(warnings)),
            facts={"choice": run.facts.get("choice"), "device": str(machine.device), "precision": "fp32"},
        ),
    )
    folder = workspace.reports_folder / f"{run.id}-{settings.split}"
    with fresh_folder(folder) as beside:
        write_json(beside / "report.json", report)
        write_text(beside / "report.md", as_markdown(report))
        folds = [s.fold for s in samples] if manifest.folds else None
        write_bytes(beside / "predictions.csv", predictions_csv([s.path for s in samples], predictions, folds))
        groups = evaluation.groups if predictions.groups_known else None
        write_text(beside / "confusion.svg", confusion_svg(evaluation.classes, evaluation.confusion, groups=groups))
    return Evaluated(folder=folder, report=cast(dict[str, Any], report))


def _judged(manifest: Manifest, classifier: Classifier, split: str) -> list[tuple[Sample, Member]]:
    """Pair every image of the part with the member that is to judge it."""
    if manifest.folds is None:
        part = manifest.part(split)
        if not part:
            raise DataError(f"the manifest has no {split} images", "Prepare again with a larger share for it")
        return [(sample, classifier.members[0]) for sample in part]
    if split != "test":
        raise UsageError(
            f"--split {split}, but the manifest has folds: every image is out-of-fold test once",
            "Leave --split out; validation figures of the inner folds are in run.json and leuk runs",
        )
    trained = {member.fold for member in classifier.members}
    return [(s, classifier.member_of(s.fold)) for s in manifest.samples if s.fold is not None and s.fold in trained]


def check_no_leak(manifest: Manifest, classifier: Classifier, judged: Sequence[tuple[Sample, Member]]) -> None:
    """Raise DataError where an image to be judged, or another of its group, was in its judge's training."""
    for member in classifier.members:
        mine = [sample for sample, judge_ in judged if judge_ is member]
        inside = {id(sample) for sample in mine}
        if manifest.folds is None:
            part = {sample.split for sample in mine}
            others = [s for s in manifest.samples if s.split not in part]
        else:
            others = [s for s in manifest.samples if s.fold != member.fold and id(s) not in inside]
        groups, digests = {s.group for s in others}, {s.sha256 for s in others}
        for sample in mine:
            if sample.group in groups or sample.sha256 in digests:
                what = f"group {sample.group!r}" if sample.group in groups else "the same picture"
                raise DataError(
                    f"{sample.path} cannot be judged: {what} is also among the images the run was trained with",
                    "Prepare again: leuk prepare keeps groups and duplicates on one side",
                )


def _score(
    workspace: Workspace,
    classifier: Classifier,
    judged: Sequence[tuple[Sample, Member]],
    settings: EvaluateSettings,
    track: Track,
) -> Scores:
    """Give each image's probabilities (N, C) by its own judge."""
    probabilities = np.zeros((len(judged), len(classifier.task.classes)))
    for member in classifier.members:
        places = [i for i, (_, judge_) in enumerate(judged) if judge_ is member]
        if not places:
            continue
        backbone = member.backbone if member.backbone is not None else classifier.backbone
        if backbone is None:
            raise ValueError("a member without a backbone in a run without a shared one")
        features = extract(
            backbone,
            [judged[i][0] for i in places],
            classifier.preprocessing,
            cache=FeatureCache(
                workspace.features_folder / "cache", member_digest(classifier, member), classifier.preprocessing
            ),
            views=Views(),
            machine=classifier.machine,
            batch_size=settings.batch_size,
            max_megapixels=settings.max_megapixels,
            track=track,
        )
        probabilities[places] = member.probabilities(features[:, 0])
    return probabilities


def _look(workspace: Workspace, run: RunFolder, samples: Sequence[Sample], split: str) -> int:
    """Write down that this part was looked at, and count how often it has been."""
    part = fingerprint(sorted(s.sha256 for s in samples))
    path = workspace.reports_folder / LOOKS_FILE
    line = json.dumps({"part": part, "split": split, "run": run.id, "time": now()})
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.write(line + "\n")
        return sum(f'"part": "{part}"' in known for known in path.read_text(encoding="ascii").splitlines())
