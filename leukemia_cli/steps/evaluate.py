"""`leuk evaluate`: how good a run is on images it has not seen, with an interval on every number.

Requirements met here:
- An image is judged by members that have not seen it, its copies or its group, or not at all.
- Images from elsewhere are judged by the run as it stands: no threshold, temperature or class order moves. None of them is
  an image that the run was made from, and what is nearly one is named.
- Every look at a part is written down and counted.
- A run on cells is judged on photographs, by cells that the finder found, never by marks; figures of cells and of patients,
  and what the number of cells alone would say, stand beside it.
- The report is written before a threshold that the user set is held against it.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from leukemia_cli import __version__
from leukemia_cli.csv_rows import csv_line
from leukemia_cli.data.datasets import Candidate, SourceDefaults, gather, read_sources
from leukemia_cli.data.duplicates import find_near
from leukemia_cli.data.grouping import copies_said, join_copies
from leukemia_cli.data.manifest import PRINTS
from leukemia_cli.domain import (
    GroupsSource,
    Manifest,
    Note,
    Sample,
    Track,
    counted,
    few_groups,
    fingerprint,
    silent,
    unheard,
)
from leukemia_cli.errors import DataError, ThresholdMissed, UsageError, WorkspaceError
from leukemia_cli.judging.aggregation import RULES, steady_share
from leukemia_cli.judging.bars import Bar
from leukemia_cli.judging.comparison import independent_difference
from leukemia_cli.judging.curves import reliability
from leukemia_cli.judging.evaluation import judge, judge_abstention, judge_label_sets, trace
from leukemia_cli.judging.intervals import group_bootstrap, plain_values
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.arrays import Labels, Scores
from leukemia_cli.learning.batches import Look, look_at, plain_view, read_sample
from leukemia_cli.learning.classifier import Classifier, Member, together
from leukemia_cli.learning.doubt import Limits, Thresholds
from leukemia_cli.learning.heatmaps import faithfulness, heatmap
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.reading import BagFound, BagSeen, pooled, read_bag, see_cells
from leukemia_cli.learning.scoring import FieldSeen, Judges, Scored, score, score_fields, see_fields
from leukemia_cli.learning.sighting import sight_slide
from leukemia_cli.reporting.evaluation import (
    CellEvidence,
    Drop,
    Evidence,
    Level,
    Mistake,
    Rates,
    Report,
    ReportContext,
    as_markdown,
    as_report,
    predictions_csv,
)
from leukemia_cli.reporting.pictures import confusion_svg
from leukemia_cli.reporting.thumbnails import HEATMAPS, illustrated
from leukemia_cli.vision.cutting import cut
from leukemia_cli.vision.decode import BadImage, Decoded, ImageFacts, Unusable, decode_each, facts_of
from leukemia_cli.vision.fingerprints import RECORD, VERSION, describe, packed
from leukemia_cli.vision.overlays import heatmap_name, overlay, png_bytes
from leukemia_cli.vision.records import RecordFile, Stacked
from leukemia_cli.vision.slides import needs_slide, open_slide
from leukemia_cli.workspace import (
    RunFolder,
    Workspace,
    check_own,
    count_look,
    fresh_folder,
    now,
    write_bytes,
    write_json,
    write_text,
)

HEADLINE = "balanced_accuracy"
MOST_MISTAKES = 12
MOST_HEATMAPS = 48
"""With so many a page is still below 3 MB."""
HISTORY_FILE = "history.csv"
_PAIRS_NAMED = 10
_PRINT_PX = 2048
"""Longer side of the thumbnail by which near copies of a slide are looked for."""

PrintRows = NDArray[np.void]


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
class _Part:
    """The images to judge, each with its judges, and what is to be said of them."""

    judged: tuple[tuple[Sample, Judges], ...]
    groups_source: GroupsSource
    folds: int | None
    warnings: tuple[str, ...] = ()
    near_copies: int | None = None
    """Of images from elsewhere: how many are nearly one that the run was made from; None where that was not looked for."""
    fields: tuple[FieldSeen, ...] | None = None
    """Of a run on cells: what was seen of each photograph, in the order of `judged`."""

    @property
    def samples(self) -> list[Sample]:
        return [sample for sample, _ in self.judged]


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
    if settings.external is None and (manifest is None or run.facts.get("manifest") != manifest.fingerprint):
        raise WorkspaceError(
            f"run {run.id} was made from another manifest than that of {workspace.root}",
            "Prepare the data it was trained on again, or train a run from this manifest",
        )
    check_own(workspace, run)
    machine = choose_machine(settings.device, settings.workers)
    classifier = load_classifier(run, machine)
    note(f"run: {run.id}, {classifier.task.title}; device: {machine.description}")
    own = manifest if manifest is not None and run.facts.get("manifest") == manifest.fingerprint else None
    if settings.external is not None:
        name, part = _external(workspace, settings, classifier, own, run, machine.workers, track, note)
        folder = workspace.reports_folder / f"{run.id}-external-{name}"
    elif own is not None:
        name, part = None, _internal(own, classifier, run, settings.split)
        part = _with_fields(part, workspace, own, classifier, settings, track)
        folder = workspace.reports_folder / f"{run.id}-{settings.split}"
    else:
        raise ValueError("neither images from elsewhere nor a manifest")
    if settings.heatmaps and classifier.unit == "cell":
        raise UsageError(f"run {run.id} is on cells, and heat-maps are of whole images", "Leave --heatmaps out")
    if settings.heatmaps:  # a backbone that has none is refused before a look is counted
        side = classifier.preprocessing.input_size_px
        heatmap(classifier, [np.zeros((side, side, 3), dtype=np.uint8)], [0])
    scored, found = _score(workspace, classifier, part, settings, track)
    predictions = _predictions(classifier, part, scored.probabilities)
    looks = _look(workspace, run, part.samples, name or settings.split)
    if looks > 1:
        note(f"these {name or settings.split} images have now been looked at {looks} times")
    evidence = _evidence(classifier, run, part, scored, predictions, settings)
    if part.fields is not None:
        evidence = replace(evidence, cells=_cells(classifier, part, found, settings))
        part = replace(part, warnings=(*part.warnings, *_beside_control(evidence, predictions)))
    if name is not None:
        evidence = _with_drop(evidence, workspace, classifier, run, own, predictions, settings, track, note)
    with fresh_folder(folder) as beside:
        if settings.heatmaps:
            evidence = replace(evidence, heatmaps=_heatmaps(beside, classifier, part, predictions, settings, note))
        report = _report(classifier, run, own, name, part, predictions, evidence, looks, settings)
        _write(beside, report, part, predictions, settings, note)
        if part.fields is not None:
            write_bytes(beside / "cells.csv", _cells_csv(classifier, part.fields))
    missed = [told for bar in settings.bars if (told := bar.missed(report["metrics"])) is not None]
    return Evaluated(folder=folder, report=cast(dict[str, Any], report), missed=tuple(missed))


def some_missed(missed: Sequence[str]) -> ThresholdMissed:
    """Make the error that ends a command of which a bar was missed."""
    return ThresholdMissed(
        "; ".join(missed), "The report is written; the run does not reach what --min or --max asks for"
    )


def _score(
    workspace: Workspace, classifier: Classifier, part: _Part, settings: EvaluateSettings, track: Track
) -> tuple[Scored, tuple[BagFound, ...]]:
    if part.fields is not None:
        return score_fields(part.fields, len(classifier.task.classes))
    scored = score(
        classifier,
        part.judged,
        cache_root=workspace.features_folder / "cache",
        batch_size=settings.batch_size,
        max_megapixels=settings.max_megapixels,
        track=track,
    )
    return scored, ()


def _with_fields(
    part: _Part,
    workspace: Workspace,
    manifest: Manifest,
    classifier: Classifier,
    settings: EvaluateSettings,
    track: Track,
) -> _Part:
    """Look at the cells of the run's own photographs; a part of images stays as it is."""
    if classifier.unit != "cell":
        return part
    fields = see_fields(
        classifier,
        part.judged,
        manifest.everything,
        cache_root=workspace.features_folder / "cache",
        batch_size=settings.batch_size,
        max_megapixels=settings.max_megapixels,
        track=track,
    )
    return replace(part, fields=fields)


def _predictions(classifier: Classifier, part: _Part, probabilities: Scores) -> Predictions:
    order = {name: i for i, name in enumerate(classifier.task.classes)}
    return Predictions(
        classes=classifier.task.classes,
        positive=classifier.task.positive,
        labels=np.array([order[s.label] for s in part.samples], dtype=np.int64),
        probabilities=probabilities,
        groups=tuple(s.group for s in part.samples),
        groups_source=part.groups_source,
    )


# ------------------------------------------------------------------------------------------------- which images


def _internal(manifest: Manifest, classifier: Classifier, run: RunFolder, split: str) -> _Part:
    if classifier.unit == "cell" and not any(field.label for field in manifest.fields):
        raise DataError(
            "no photograph of this manifest has a class of its own, so that findings cannot be judged",
            "Cells alone are labelled here: the run's validation figures are of cells",
        )
    if classifier.unit == "cell" and any(member.reading is None for member in classifier.members):
        raise WorkspaceError(f"run {run.id} has no rule for photographs", "It is damaged or unfinished: train it again")
    judged = _judged(manifest, classifier, split)
    check_no_leak(manifest, classifier, judged)
    counts = {c: len({s.group for s in manifest.samples if s.label == c}) for c in manifest.task.classes}
    whole = set(few_groups(counts))  # those of this part, said elsewhere, say more
    warnings = [w for w in (*manifest.warnings, *run.facts.get("warnings", ())) if w not in whole]
    return _Part(
        judged=tuple(judged),
        groups_source=manifest.groups_source,
        folds=len({id(judges[0]) for _, judges in judged}) if manifest.folds else None,
        warnings=tuple(warnings),
    )


def _external(
    workspace: Workspace,
    settings: EvaluateSettings,
    classifier: Classifier,
    manifest: Manifest | None,
    run: RunFolder,
    workers: int,
    track: Track,
    note: Note,
) -> tuple[str, _Part]:
    """Read images from elsewhere, with the classes of the run's task; every member judges each of them."""
    name, equals, source = (settings.external or "").partition("=")
    if not equals or not name or not source:
        raise UsageError(
            f"--external {settings.external!r} is not NAME=SOURCE", "Write for example --external clinic=FOLDER"
        )
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise UsageError(
            f"external data cannot be named {name!r}",
            "Use letters, digits, dots, - and _, beginning with a letter or digit",
        )
    defaults = SourceDefaults(
        layout=settings.layout, labels=settings.labels, label_column=settings.label_column, group_by=settings.group_by
    )
    sources, _ = read_sources((source,), defaults)
    gathered = gather(sources, classifier.task)
    for line in gathered.notes:
        note(line)
    if classifier.unit == "cell" and any(member.reading is None for member in classifier.members):
        raise WorkspaceError(f"run {run.id} has no rule for photographs", "Its manifest had cells alone")
    cutting = classifier.cutting

    def look(place: int, decoded: Decoded) -> tuple[ImageFacts, PrintRows | None, list[Look], bool]:
        told = packed([describe(decoded.pixels)]) if manifest is not None else None
        if cutting is None:
            return facts_of(decoded), told, [], False
        found = cut(decoded.pixels, cutting, "cell" if gathered.candidates[place].holds == "crops" else None)
        looks = [look_at(cell.seen, classifier.preprocessing) for cell in found.cells]
        return facts_of(decoded), told, looks, found.unit == "cell"

    in_tiles = [cutting is not None and needs_slide(c.path, settings.max_megapixels) for c in gathered.candidates]
    whole = [place for place, tiled in enumerate(in_tiles) if not tiled]
    outcomes = decode_each(
        [gathered.candidates[place].path for place in whole],
        lambda turn, decoded: look(whole[turn], decoded),
        workers=workers,
        max_megapixels=settings.max_megapixels,
    )
    bags: list[tuple[BagSeen, bool]] = []
    watched = track(
        zip(gathered.candidates, in_tiles, strict=True), total=len(gathered.candidates), label="opening images"
    )
    opened, bad = [], []
    prints: list[PrintRows] = []
    for candidate, tiled in watched:
        if tiled:
            try:
                facts, told, seen_slide = _slide(classifier, candidate, settings, workers, manifest is not None, note)
            except BadImage as error:
                bad.append((f"{candidate.path}: {error.reason}", error.hint))
                continue
            opened.append((candidate, facts))
            prints += [] if told is None else [told]
            bags.append((seen_slide, False))
            continue
        outcome = next(outcomes)
        if isinstance(outcome, Unusable):
            bad.append((f"{candidate.path}: {outcome.reason}", outcome.hint))
        else:
            facts, told, looks, alone = outcome
            opened.append((candidate, facts))
            if told is not None:
                prints.append(told)
            if cutting is not None:
                bags.append((see_cells(classifier, looks, settings.batch_size), alone))
    if bad and not (settings.skip_bad and opened):
        raise DataError(
            f"{len(bad)} of {len(gathered.candidates)} images cannot be used, the first: {bad[0][0]}",
            f"{bad[0][1]}; or leave out what cannot be used with --skip-bad" if opened else bad[0][1],
        )
    groups, copies = join_copies(
        [(c.source, c.relative, c.group) for c, _ in opened], [facts.pixels_digest for _, facts in opened]
    )
    judged = tuple(
        (
            Sample(
                path=candidate.path,
                label=candidate.label,
                group=group,
                source=candidate.source,
                sha256=facts.sha256,
                width=facts.width,
                height=facts.height,
            ),
            classifier.members,
        )
        for (candidate, facts), group in zip(opened, groups, strict=True)
    )
    about_training = set(manifest.warnings) if manifest is not None else set()
    warnings = [w for w in run.facts.get("warnings", ()) if w not in about_training]
    warnings += [*gathered.warnings, *(line for line in gathered.notes if "left out" in line)]
    if bad:
        warnings.append(f"{counted(len(bad), 'image')} left out as unusable, the first: {bad[0][0]}")
    warnings += copies_said(copies)
    near_copies = None
    if manifest is None:
        warnings.append("the images the run was trained on are not at hand: whether any is among these was not checked")
    else:
        seen = {sample.sha256 for sample in (*manifest.samples, *manifest.fields)}
        shared = [sample.path for sample, _ in judged if sample.sha256 in seen]
        if shared:
            raise DataError(
                f"{shared[0]} is also among the images that the run was made from"
                + (f", and {len(shared) - 1} more" if len(shared) > 1 else ""),
                "Leave them out of the external data: figures on them would not be external",
            )
        near_copies, said = _near_own(workspace, manifest, [sample for sample, _ in judged], prints, note)
        warnings += said
        known = {sample.group for sample in manifest.samples}
        if gathered.groups_source != "none" and manifest.groups_source != "none":
            common = sorted(known & {sample.group for sample, _ in judged})
            if common:
                warnings.append(
                    f"{counted(len(common), 'group')} here bear the name of a group of the run's own images, the first "
                    f"{common[0]!r}: if they are the same patients, these figures are not external"
                )
    if len(classifier.members) > 1:
        warnings.append(
            f"here the mean of all {len(classifier.members)} members answers, on the run's own test images one member alone: "
            "part of a drop may be hidden by that"
        )
    fields = None
    if cutting is not None:
        fields = tuple(
            FieldSeen(field=sample, judges=judges, cells=(), seen=seen, alone=alone)
            for (sample, judges), (seen, alone) in zip(judged, bags, strict=True)
        )
    return name, _Part(
        judged=judged,
        groups_source=gathered.groups_source,
        folds=None,
        warnings=tuple(warnings),
        near_copies=near_copies,
        fields=fields,
    )


def _slide(
    classifier: Classifier, candidate: Candidate, settings: EvaluateSettings, workers: int, to_print: bool, note: Note
) -> tuple[ImageFacts, PrintRows | None, BagSeen]:
    """Look in tiles, as classify does, at an image that is too large to be decoded whole; raises BadImage.

    It is the copy of another only where the files are the same; near copies are looked for by its thumbnail.
    """
    if classifier.cutting is None or candidate.holds == "crops":
        raise BadImage(candidate.path, "it is too large for the crop of one cell", "Raise --max-megapixels")
    with open_slide(candidate.path, max_megapixels=settings.max_megapixels, workers=workers) as slide:
        sighting = sight_slide(classifier, slide, classifier.cutting, settings.batch_size, outlines=False)
        told = packed([describe(slide.thumbnail(_PRINT_PX))]) if to_print else None
        width, height, reader = slide.width, slide.height, slide.reader
    with Path(candidate.path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    passed = ", ".join(f"{count} {what}" for what, count in sorted(sighting.tiles.items()))
    note(f"{candidate.path}: read in {counted(sum(sighting.tiles.values()), 'tile')} ({passed})")
    facts = ImageFacts(sha256=sha256, pixels_digest=sha256, width=width, height=height, format=reader, mode="RGB")
    return facts, told, sighting.seen


def _near_own(
    workspace: Workspace, manifest: Manifest, samples: Sequence[Sample], prints: Sequence[PrintRows], note: Note
) -> tuple[int | None, list[str]]:
    """Count the samples that are nearly images of the manifest, and name them; None where fingerprints are not kept.

    Raises WorkspaceError where they are damaged or not those of the manifest.
    """
    file = workspace.manifest_folder / PRINTS
    if not file.is_file():
        return None, [f"near copies of the images that the run was made from were not looked for: {file} is not there"]
    own = manifest.fields or manifest.samples
    note(f"comparing {counted(len(samples), 'image')} with {counted(len(own), 'image')} that the run was made from")
    with RecordFile(file, RECORD) as kept:
        if kept.facts.get("version") != VERSION:
            return None, [
                "near copies of the images that the run was made from were not looked for: their fingerprints are of another "
                "version of leuk; prepare again, and train again, to have them found"
            ]
        if len(kept) != len(own):
            raise WorkspaceError(f"{file} is not of this manifest", "Make both again with: leuk prepare")
        pairs = find_near(Stacked(kept, np.concatenate(prints)), own=len(kept))
    near = sorted({pair.second for pair in pairs})
    if not near:
        return 0, []
    named = [f"{samples[pair.second - len(own)].path} and {own[pair.first].path}" for pair in pairs[:_PAIRS_NAMED]]
    more = f"; and {counted(len(pairs) - len(named), 'more pair')}" if len(pairs) > len(named) else ""
    return len(near), [
        f"{counted(len(near), 'image')} here nearly the same as one that the run was made from (a crop, turned, brightened or "
        f"saved again, or two photographs of one place): {'; '.join(named)}{more}: on these the figures are not external"
    ]


def _judged(manifest: Manifest, classifier: Classifier, split: str) -> list[tuple[Sample, Judges]]:
    """Pair every image of the part with the member that is to judge it."""
    units = manifest.samples
    if classifier.unit == "cell":
        units = tuple(field for field in manifest.fields if field.label)
    if manifest.folds is None:
        part = [sample for sample in units if sample.split == split]
        if not part:
            raise DataError(f"the manifest has no {split} images", "Prepare again with a larger share for it")
        return [(sample, classifier.members[:1]) for sample in part]
    if split != "test":
        raise UsageError(
            f"--split {split}, but the manifest has folds: every image is out-of-fold test once",
            "Leave --split out; validation figures of the inner folds are in run.json and leuk runs",
        )
    trained = {member.fold for member in classifier.members}
    return [(s, (classifier.member_of(s.fold),)) for s in units if s.fold is not None and s.fold in trained]


def check_no_leak(manifest: Manifest, classifier: Classifier, judged: Sequence[tuple[Sample, Judges]]) -> None:
    """Raise DataError where an image to be judged, or another of its group, was in its judge's training."""
    for member in classifier.members:
        mine = [sample for sample, judges in judged if judges[0] is member]
        inside = {id(sample) for sample in mine}
        if manifest.folds is None:
            part = {sample.split for sample in mine}
            others = [s for s in manifest.samples if s.split not in part]
        else:
            others = [s for s in manifest.samples if s.fold != member.fold and id(s) not in inside]
        fitted = [
            field
            for field in manifest.fields
            if (field.split not in part if manifest.folds is None else field.fold != member.fold)
        ]
        groups = {s.inseparable for s in (*others, *fitted)}
        digests = {s.sha256 for s in (*others, *fitted)}
        for sample in mine:
            if sample.inseparable in groups or sample.sha256 in digests:
                what = f"group {sample.group!r}" if sample.inseparable in groups else "the same picture"
                raise DataError(
                    f"{sample.path} cannot be judged: {what} is also among the images the run was trained with",
                    "Prepare again: leuk prepare keeps groups and duplicates on one side",
                )


def _look(workspace: Workspace, run: RunFolder, samples: Sequence[Sample], split: str) -> int:
    """Write down that this part was looked at, and count how often it has been."""
    return count_look(workspace, fingerprint(sorted(s.sha256 for s in samples)), split=split, run=run.id)


# ------------------------------------------------------------------------------------------------------- evidence


def _evidence(
    classifier: Classifier,
    run: RunFolder,
    part: _Part,
    scored: Scored,
    predictions: Predictions,
    settings: EvaluateSettings,
) -> Evidence:
    """Gather what stands behind the figures: curves, calibration before and after, doubt, choices, mistakes."""
    resamples, seed = settings.resamples, settings.seed
    before = _predictions(classifier, part, scored.uncalibrated)
    members = list(dict.fromkeys(id(m) for _, judges in part.judged for m in judges))
    alone = part.fields is not None and all(field.alone for field in part.fields)
    doubts = [each for m in classifier.members if id(m) in members and (each := _limits(m, alone)) is not None]
    asked = [m for m in classifier.members if id(m) in members]
    unmeasured = "this run has no thresholds: no images were left to fit them on"
    if doubts:
        unmeasured = (
            f"{len(asked) - len(doubts)} of {len(asked)} members have no thresholds: no images were left to fit them on"
        )
    nothing = np.zeros(predictions.image_count, dtype=bool)
    known = scored.novel is not None and scored.uncertain is not None and bool(doubts)
    abstention = judge_abstention(
        predictions,
        novel=scored.novel if scored.novel is not None else nothing,
        uncertain=scored.uncertain if scored.uncertain is not None else nothing,
        few=scored.few,
        resamples=resamples,
        seed=seed,
    )
    rates = None
    if known:
        sure = [d.confidence for d in doubts if d.confidence is not None]
        told = [c.reason for c in sure if c.reason]
        if len(sure) < len(doubts):
            told.append("nothing is called uncertain by members whose groups were too few to fit that on")
        rates = Rates(
            least_confidence=tuple(c.threshold for c in sure),
            novelty_threshold=tuple(d.novelty_threshold for d in doubts),
            risk=sure[0].risk if sure else None,
            false_alarm=doubts[0].false_alarm,
            fitted_on=together([d.fitted_on for d in doubts]) or "",
            notes=tuple(dict.fromkeys(told)),
        )
    thresholds = Thresholds.of([_limits(judges[0], alone) for _, judges in part.judged[:1]]) if known else None
    promise = None if thresholds is None else thresholds.label_sets
    refused = next((d.label_sets.reason for d in doubts if d.label_sets.reason), None)
    says = None
    if promise is not None and scored.sets is not None:
        says = _promise(promise.alpha, promise.per, part, external=settings.external is not None)
    wrong = [int(i) for i in np.flatnonzero(predictions.predicted != predictions.labels)]
    confidence = predictions.probabilities.max(axis=1)
    wrong.sort(key=lambda i: (-confidence[i], part.samples[i].path))
    return Evidence(
        before=group_bootstrap(before, resamples=resamples, seed=seed),
        reliability_before=reliability(before),
        curves=trace(predictions, resamples=resamples, seed=seed),
        abstention=abstention,
        abstention_reason=None if known else unmeasured,
        rates=rates,
        label_sets=None
        if scored.sets is None or promise is None
        else judge_label_sets(
            predictions, scored.sets, equal_groups=promise.per == "group", resamples=resamples, seed=seed
        ),
        label_sets_reason=None if scored.sets is not None else refused or unmeasured,
        alpha=None if promise is None else promise.alpha,
        per=None if promise is None else promise.per,
        label_sets_say=says,
        choices=run.facts.get("choices", ()),
        history=_history(run.path / HISTORY_FILE),
        mistakes=tuple(
            Mistake(
                path=part.samples[i].path,
                group=part.samples[i].group if predictions.groups_known else "",
                label=part.samples[i].label,
                predicted=classifier.task.classes[int(predictions.predicted[i])],
                confidence=float(confidence[i]),
            )
            for i in wrong[:MOST_MISTAKES]
        ),
        model=_model(run, classifier),
    )


def _limits(member: Member, alone: bool) -> Limits | None:
    """Give the thresholds of what is judged: photographs in a run on cells, else images, or cells that are `alone`."""
    if member.reading is not None and not alone:
        return member.reading.limits
    return member.limits


STEADY_CELLS = 5


def _cells(classifier: Classifier, part: _Part, found: Sequence[BagFound], settings: EvaluateSettings) -> CellEvidence:
    """Judge cells and patients too, and what the number of cells alone would say."""
    fields = part.fields or ()
    figures = {"resamples": settings.resamples, "seed": settings.seed}
    levels, missing = [], {}
    by_count = [each.by_count for each in found]
    if any(told is None for told in by_count):
        missing["count only"] = "some images show one cell each, or there were too few photographs to fit it to"
    else:
        control = _predictions(classifier, part, np.array(by_count))
        says = "the control: photographs judged by the logarithm of their number of cells alone, fitted on training photographs"
        levels.append(Level(name="count only", says=says, metrics=group_bootstrap(control, **figures)))
    cells = [(each, i) for each in fields for i, cell in enumerate(each.cells) if cell.label]
    if cells:
        chosen = replace(part, judged=tuple((each.cells[i], each.judges) for each, i in cells))
        told = _predictions(classifier, chosen, np.array([each.seen.cells[i] for each, i in cells]))
        says = f"{len(cells)} labelled cells of these photographs, each by itself"
        levels.append(Level(name="cell", says=says, metrics=group_bootstrap(told, **figures)))
    else:
        missing["cell"] = "no cell of these photographs is labelled"
    patients, why = _patients(classifier, part)
    if patients is None:
        missing["patient"] = why
    else:
        levels.append(Level(name="patient", says=why, metrics=group_bootstrap(patients, **figures)))
    counts = [each.counted.cells for each in found]
    readings = [member.reading for member in _members(fields) if member.reading is not None]
    return CellEvidence(
        found=sum(counts),
        median=float(np.median(counts)),
        least_cells=max(reading.least_cells for reading in readings),
        few_cells=sum(each.few_cells for each in found),
        rules=tuple(dict.fromkeys(RULES[reading.aggregation.rule][0] for reading in readings)),
        chosen_on=together([reading.aggregation.chosen_on for reading in readings]),
        steady=_steady(fields, settings.seed),
        steady_cells=STEADY_CELLS,
        levels=tuple(levels),
        missing=missing,
    )


def _beside_control(evidence: Evidence, predictions: Predictions) -> list[str]:
    """Warn where the number of cells alone does as well as the run."""
    control = (
        next((level for level in evidence.cells.levels if level.name == "count only"), None) if evidence.cells else None
    )
    value = plain_values(predictions, (HEADLINE,))[HEADLINE]
    beside = None if control is None else control.metrics[HEADLINE].value
    if value is None or beside is None or value > beside:
        return []
    return [
        f"the number of cells alone reaches a balanced accuracy of {beside:.3f}, this run {value:.3f}: that it has learnt more "
        "than to count is not shown"
    ]


def _patients(classifier: Classifier, part: _Part) -> tuple[Predictions | None, str]:
    """Give the findings of patients, all cells of their photographs in one bag, and what they are; or None and why not."""
    if part.groups_source not in ("given", "filename"):
        return None, "which photographs are of one patient is not known"
    of_group: dict[str, list[FieldSeen]] = {}
    for each in part.fields or ():
        of_group.setdefault(each.field.group, []).append(each)
    whole = {name: fields for name, fields in of_group.items() if len({f.field.label for f in fields}) == 1}
    if len(whole) == len(part.judged):
        return None, "every group has one photograph"
    if not whole:
        return None, "every group holds photographs of several classes"
    judged = tuple((fields[0].field, fields[0].judges) for fields in whole.values())
    told = [read_bag(fields[0].judges, pooled([f.seen for f in fields])).probabilities for fields in whole.values()]
    mixed = len(of_group) - len(whole)
    says = f"{counted(len(whole), 'group')} of photographs, the cells of each in one bag, read by the same rule"
    if mixed:
        says += f"; {counted(mixed, 'group')} with photographs of several classes left out"
    return _predictions(classifier, replace(part, judged=judged), np.array(told)), says


def _members(fields: Sequence[FieldSeen]) -> list[Member]:
    """Give each judge once; they hold arrays and have no hash."""
    return list({id(member): member for each in fields for member in each.judges}.values())


def _steady(fields: Sequence[FieldSeen], seed: int) -> float | None:
    """Give the share of decisions that stay with few cells of each photograph, each member judging its own photographs."""
    total = kept = 0.0
    for member in _members(fields):
        if member.reading is None:
            continue
        bags = [each.seen.by_member[0] for each in fields if each.judges[0] is member and len(each.seen.by_member[0])]
        if bags:
            total += len(bags)
            kept += len(bags) * steady_share(member.reading.aggregation, bags, most=STEADY_CELLS, seed=seed)
    return kept / total if total else None


def _cells_csv(classifier: Classifier, fields: Sequence[FieldSeen]) -> bytes:
    """Give every cell with its scores; `label` is empty for a cell of which nobody said the class."""
    header = ["path", "cell", "x", "y", "label", *(f"score_{name}" for name in classifier.task.classes), "novelty"]
    lines = [csv_line(header)]
    for each in fields:
        scores = each.seen.cells
        for i in range(len(scores)):
            cell = each.cells[i] if each.cells else None
            lines.append(
                csv_line(
                    [
                        each.field.path,
                        i + 1,
                        None if cell is None else cell.x,
                        None if cell is None else cell.y,
                        None if cell is None else cell.label,
                        *scores[i].tolist(),
                        None if each.seen.novelty is None else float(each.seen.novelty[i]),
                    ]
                )
            )
    return "".join(lines).encode("utf-8", errors="surrogateescape")


def _promise(alpha: float, per: str, part: _Part, *, external: bool) -> str:
    """Say what the coverage of label sets is promised for, and what weakens the promise."""
    if external:
        return (
            f"They were fitted to hold the true class in {100 * (1 - alpha):g} % of images like those of calibration; for "
            "images from elsewhere nothing is promised."
        )
    of = "an image of a new group, every group counting equally" if per == "group" else "a new image"
    text = f"The true class is promised in at least {100 * (1 - alpha):g} % of the sets of {of}"
    if part.folds is not None:
        text += ", if out-of-fold scores of training stand for those of the final members"
    if per == "image":
        text += ", if images of one patient were independent, which they are not"
    return text + "."


def _history(file: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run; a run without the file has none to show."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            {
                "fold": int(row["fold"]) if row["fold"] else None,
                "stage": row["stage"],
                "epoch": int(row["epoch"]),
                **{
                    key: float(row[key]) if row[key] else None
                    for key in ("train_loss", "balanced_accuracy", "log_loss", "lr")
                },
            }
            for row in csv.DictReader(lines)
        ]


def _model(run: RunFolder, classifier: Classifier) -> dict[str, Any]:
    """Give what the model was made from, for the report's card."""
    facts, spec = run.facts, classifier.spec
    wanted = ("seed", "command", "versions", "created", "training_images", "training_groups", "groups_source")
    kept = {key: facts.get(key) for key in wanted}
    return {
        **spec.as_json(),
        **classifier.preprocessing.as_json(),
        "classes": list(classifier.task.classes),
        "task_title": classifier.task.title,
        "remedies_titles": list(classifier.preprocessing.remedies.titles),
        **kept,
    }


def _with_drop(
    evidence: Evidence,
    workspace: Workspace,
    classifier: Classifier,
    run: RunFolder,
    manifest: Manifest | None,
    predictions: Predictions,
    settings: EvaluateSettings,
    track: Track,
    note: Note,
) -> Evidence:
    """Hold the figure beside that of the run's own test images, which is a look at them like any other."""
    if manifest is None:
        note("warning: no drop against the internal test: the run's own manifest is not in this workspace")
        return evidence
    try:
        part = _internal(manifest, classifier, run, "test")
        part = _with_fields(part, workspace, manifest, classifier, settings, track)
        scored, _ = _score(workspace, classifier, part, settings, track)
    except DataError as error:
        note(f"warning: no drop against the internal test: {error.problem}")
        return evidence
    if not (workspace.reports_folder / f"{run.id}-test" / "report.json").is_file():
        _look(workspace, run, part.samples, "test")
    internal = _predictions(classifier, part, scored.probabilities)
    resamples, seed = settings.resamples, settings.seed
    # A mean of recalls over other classes is another figure: both sides are held to the classes that both have.
    shared = np.intersect1d(internal.labels, predictions.labels)
    there, here = _of_classes(internal, shared), _of_classes(predictions, shared)
    drop = Drop(
        metric=HEADLINE,
        classes=tuple(classifier.task.classes[int(c)] for c in shared),
        internal=group_bootstrap(there, resamples=resamples, seed=seed)[HEADLINE],
        external=group_bootstrap(here, resamples=resamples, seed=seed)[HEADLINE],
        difference=independent_difference(here, there, HEADLINE, resamples=resamples, seed=seed),
        internal_groups_source=internal.groups_source,
    )
    return replace(evidence, drop=drop)


def _of_classes(predictions: Predictions, classes: Labels) -> Predictions:
    """Give the images of some classes alone."""
    kept = np.flatnonzero(np.isin(predictions.labels, classes))
    return Predictions(
        classes=predictions.classes,
        positive=predictions.positive,
        labels=predictions.labels[kept],
        probabilities=predictions.probabilities[kept],
        groups=tuple(predictions.groups[i] for i in kept) if predictions.groups_known else (),
        groups_source=predictions.groups_source,
    )


def _heatmaps(
    folder: Path,
    classifier: Classifier,
    part: _Part,
    predictions: Predictions,
    settings: EvaluateSettings,
    note: Note,
) -> dict[str, Any]:
    """Draw heat-maps of the most confident mistakes, then of other images spread over the part, and test them."""
    confidence = predictions.probabilities.max(axis=1)
    wrong = predictions.predicted != predictions.labels
    order = sorted(range(len(part.samples)), key=lambda i: (not wrong[i], -confidence[i], part.samples[i].path))
    mistakes = [i for i in order if wrong[i]][: settings.heatmaps]
    right = [i for i in order if not wrong[i]]
    wanted = settings.heatmaps - len(mistakes)
    spread = [right[round(k * (len(right) - 1) / max(1, wanted - 1))] for k in range(wanted)] if right else []
    chosen = list(dict.fromkeys([*mistakes, *spread]))
    note(f"heat-maps of {counted(len(chosen), 'image')}")
    rows, areas = [], []
    for place, i in enumerate(chosen):
        sample, judges = part.judged[i]
        image = read_sample(sample, settings.max_megapixels, classifier.preprocessing.enough_px)
        view = plain_view(image, classifier.preprocessing)
        judge_ = replace(classifier, members=judges)
        called = int(predictions.predicted[i])
        heat = heatmap(judge_, [view], [called])
        areas.append(faithfulness(judge_, [view], heat, seed=settings.seed + place))
        label = classifier.task.classes[called]
        name = f"{HEATMAPS}/{heatmap_name(place, sample.path)}"
        shown = overlay(
            image.pixels[..., :3], heat[0], classifier.preprocessing.fit, legend=f"for {label}", beside=False
        )
        write_bytes(folder / name, png_bytes(shown))
        rows.append({"path": sample.path, "label": sample.label, "predicted": label, "file": name})
    means = {
        key: float(np.mean([getattr(area, key) for area in areas]))
        for key in ("deletion", "insertion", "random_deletion", "random_insertion")
    }
    groups = len({part.samples[i].group for i in chosen})
    return {"images": rows, "faithfulness": {**means, "images": len(chosen), "groups": groups}}


# ------------------------------------------------------------------------------------------------------- the report


def _report(
    classifier: Classifier,
    run: RunFolder,
    manifest: Manifest | None,
    external: str | None,
    part: _Part,
    predictions: Predictions,
    evidence: Evidence,
    looks: int,
    settings: EvaluateSettings,
) -> Report:
    evaluation = judge(predictions, resamples=settings.resamples, seed=settings.seed)
    warnings = [w for w in part.warnings if w not in set(evaluation.warnings)]
    return as_report(
        evaluation,
        ReportContext(
            run=run.id,
            task=classifier.task.name,
            classes=classifier.task.classes,
            whole_class_count=classifier.task.whole,
            split="external" if external else settings.split,
            external=external,
            backbone=classifier.spec.name,
            variant=str(run.facts["variant"]),
            weights=classifier.spec.weights if classifier.spec.is_random else classifier.spec.weights_source,
            tune=str(run.facts["tune"]),
            folds=part.folds,
            test_looks=looks,
            temperatures=tuple(m.temperature for m in classifier.members),
            fitted_on=_fitted_on(classifier),
            seed=run.facts.get("seed"),
            leuk_version=__version__,
            manifest=None if manifest is None else manifest.fingerprint,
            created=now(),
            warnings=tuple(dict.fromkeys(warnings)),
            pictures=settings.pictures,
            facts={
                "choice": run.facts.get("choice"),
                "device": str(classifier.machine.device),
                "precision": "fp32",
                **(
                    {
                        "external source": settings.external,
                        "external groups": settings.group_by,
                        "near_copies": part.near_copies,
                    }
                    if external
                    else {}
                ),
            },
        ),
        evidence,
    )


def _fitted_on(classifier: Classifier) -> str | None:
    """Say what temperatures were fitted on, and how many members have none."""
    told = together([m.calibrated_on for m in classifier.members])
    missing = sum(m.calibrated_on is None for m in classifier.members)
    if told is None or not missing:
        return told
    return f"{told}; {missing} of {len(classifier.members)} members are uncalibrated"


def _write(
    folder: Path,
    report: Report,
    part: _Part,
    predictions: Predictions,
    settings: EvaluateSettings,
    note: Note,
) -> None:
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", as_markdown(report))
    folds = [s.fold for s in part.samples] if part.folds is not None else None
    write_bytes(folder / "predictions.csv", predictions_csv([s.path for s in part.samples], predictions, folds))
    groups = report["groups"] if predictions.groups_known else None
    matrix = report["confusion"]["matrix"]
    write_text(folder / "confusion.svg", confusion_svg(report["confusion"]["classes"], matrix, groups=groups))
    made = illustrated(folder, report, pictures=report["pictures"], max_megapixels=settings.max_megapixels, note=note)
    write_text(folder / "report.html", made.page)
