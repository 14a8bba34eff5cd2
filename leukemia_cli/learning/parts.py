"""The images that a run is judged on, each with members that have not seen it, and what those members make of them.

Requirements met here:
- An image is judged by members that have not seen it, its copies or its group, or not at all.
- A run on cells is judged on photographs, by cells that the finder found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leukemia_cli.domain import GroupsSource, Manifest, Note, Sample, Task, Track, few_groups
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.arrays import Scores
from leukemia_cli.learning.classifier import Classifier, Member
from leukemia_cli.learning.reading import BagFound
from leukemia_cli.learning.scoring import FieldSeen, Judges, Scored, score, score_fields, see_fields
from leukemia_cli.workspace.runs import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """How images are looked at: where their features are kept, how many at once, how large at most, and who is told."""

    cache_root: Path
    batch_size: int
    max_megapixels: float
    track: Track
    note: Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
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
        """Give the images, in order."""
        return [sample for sample, _ in self.judged]

    def members_of(self, classifier: Classifier) -> list[Member]:
        """Give the members that judge any of the images, in the run's order."""
        judges = {id(member) for _, judges in self.judged for member in judges}
        return [member for member in classifier.members if id(member) in judges]

    def predictions(self, task: Task, probabilities: Scores) -> Predictions:
        """Give probabilities (N, C) of the images beside their classes and groups."""
        return Predictions(
            classes=task.classes,
            positive=task.positive,
            labels=np.array(task.indices(sample.label for sample in self.samples), dtype=np.int64),
            probabilities=probabilities,
            groups=tuple(sample.group for sample in self.samples),
            groups_source=self.groups_source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPart:
    """A part and what its judges made of it; `found` are the findings of a run on cells, one for each photograph."""

    classifier: Classifier
    part: Part
    scored: Scored
    predictions: Predictions
    found: tuple[BagFound, ...]

    @property
    def uncalibrated(self) -> Predictions:
        """Give the predictions as they were before calibration."""
        return self.part.predictions(self.classifier.task, self.scored.uncalibrated)


def own_part(manifest: Manifest, classifier: Classifier, run: RunFolder, split: str, looking: Looking) -> Part:
    """Take a part of the run's own manifest, and look at the cells of its photographs where the run is on cells.

    Raises DataError where there are no such images, or where training shares a group or an image with them; UsageError for a
    split of a manifest that has folds; WorkspaceError for a damaged run.
    """
    on_cells = classifier.unit == "cell"
    if on_cells and not any(field.label for field in manifest.fields):
        raise DataError(
            "no photograph of this manifest has a class of its own, so that findings cannot be judged",
            "Cells alone are labelled here: the run's validation figures are of cells",
        )
    if on_cells and any(member.reading is None for member in classifier.members):
        raise WorkspaceError(f"run {run.id} has no rule for photographs", "It is damaged or unfinished: train it again")
    judged = _judged(manifest, classifier, split)
    _check_no_leak(manifest, classifier, judged)
    counts = {c: len({s.group for s in manifest.samples if s.label == c}) for c in manifest.task.classes}
    whole = set(few_groups(counts))  # those of this part, said elsewhere, say more
    part = Part(
        judged=tuple(judged),
        groups_source=manifest.groups_source,
        folds=len({id(judges[0]) for _, judges in judged}) if manifest.folds else None,
        warnings=tuple(w for w in (*manifest.warnings, *run.facts.get("warnings", ())) if w not in whole),
    )
    if not on_cells:
        return part
    fields = see_fields(
        classifier,
        part.judged,
        manifest.everything,
        cache_root=looking.cache_root,
        batch_size=looking.batch_size,
        max_megapixels=looking.max_megapixels,
        track=looking.track,
    )
    return replace(part, fields=fields)


def score_part(classifier: Classifier, part: Part, looking: Looking) -> ScoredPart:
    """Let every image be judged by its judges: photographs of a run on cells by what was seen of their cells."""
    found: tuple[BagFound, ...] = ()
    if part.fields is not None:
        scored, found = score_fields(part.fields, len(classifier.task.classes))
    else:
        scored = score(
            classifier,
            part.judged,
            cache_root=looking.cache_root,
            batch_size=looking.batch_size,
            max_megapixels=looking.max_megapixels,
            track=looking.track,
        )
    predictions = part.predictions(classifier.task, scored.probabilities)
    return ScoredPart(classifier=classifier, part=part, scored=scored, predictions=predictions, found=found)


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


def _check_no_leak(manifest: Manifest, classifier: Classifier, judged: Sequence[tuple[Sample, Judges]]) -> None:
    """Raise DataError where an image to be judged, or another of its group, was in its judge's training."""
    for member in classifier.members:
        mine = [sample for sample, judges in judged if judges[0] is member]
        fitted = _fitted_to(manifest, member, mine)
        groups, digests = {s.inseparable for s in fitted}, {s.sha256 for s in fitted}
        for sample in mine:
            if sample.inseparable in groups or sample.sha256 in digests:
                what = f"group {sample.group!r}" if sample.inseparable in groups else "the same picture"
                raise DataError(
                    f"{sample.path} cannot be judged: {what} is also among the images the run was trained with",
                    "Prepare again: leuk prepare keeps groups and duplicates on one side",
                )


def _fitted_to(manifest: Manifest, member: Member, judged: Sequence[Sample]) -> list[Sample]:
    """Give what a member was fitted to: samples and photographs of all parts but those of what it judges."""
    if manifest.folds is None:
        parts = {sample.split for sample in judged}
        return [sample for sample in (*manifest.samples, *manifest.fields) if sample.split not in parts]
    inside = {id(sample) for sample in judged}
    others = [sample for sample in manifest.samples if sample.fold != member.fold and id(sample) not in inside]
    return others + [field for field in manifest.fields if field.fold != member.fold]
