"""`leuk prepare`: open every image, group them, deal the groups to splits or folds, and write the manifest.

With `unit` "cell" the white cells of every photograph are found, cut and given a class where one is known; cells then are
the images of the manifest, and stay with their photograph whatever is dealt.

Requirements met here:
- Nothing is written unless all went well: an earlier manifest stays as it was.
- What makes the later figures less true is said as a warning, and kept in the manifest.
- An audit of the data is made every time, from what the one opening of each image showed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.data.candidates import Candidate, Gathered, gather
from leukemia_cli.data.datasets import SourceDefaults, read_sources, settle_task
from leukemia_cli.data.dealing import Dealing, Dealt, check_classes, check_trainable, deal
from leukemia_cli.data.grouping import name_groups
from leukemia_cli.data.manifest import CROPS, PRINTS, count_parts, fill_folder, make_manifest
from leukemia_cli.data.marking import CutPhotograph, Unmarked, cells_said, healthy_class, label_photograph
from leukemia_cli.data.ties import Ties, tie
from leukemia_cli.domain import (
    NO_GROUPS,
    PROPOSED_GROUPS,
    GroupsSource,
    Manifest,
    Note,
    Sample,
    Task,
    Track,
    Unit,
    counted,
    few_groups,
    silent,
    unheard,
)
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.reporting.audit import audit_document
from leukemia_cli.reporting.audit_images import AuditImages
from leukemia_cli.reporting.audit_page import audit_page, audit_pictures
from leukemia_cli.reporting.thumbnails import thumbnails
from leukemia_cli.vision.cutting import Cutting, InputUnit
from leukemia_cli.vision.decode import MAX_MEGAPIXELS, Unusable
from leukemia_cli.vision.group_sheets import group_sheet
from leukemia_cli.vision.overlays import png_bytes
from leukemia_cli.vision.survey import Survey, SurveyFiles, survey
from leukemia_cli.vision.traits import StoredTraits
from leukemia_cli.workspace.documents import now, write_json
from leukemia_cli.workspace.files import UNFINISHED, fresh_folder, write_bytes, write_text
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.runs import list_runs

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """What the flags of `leuk prepare` say; a fraction of None means the default, `folds` of None means splits."""

    sources: tuple[str, ...]
    task: str | None = None
    classes: tuple[str, ...] | None = None
    positive: str | None = None
    layout: str = "auto"
    labels: str | None = None
    label_column: str | None = None
    group_by: str = "auto"
    unit: Unit = "image"
    input_unit: InputUnit = "auto"
    unmarked: Unmarked = "leave-out"
    near_copies: Literal["tie", "warn"] = "tie"
    """Whether groups that hold near copies of one another are dealt as one, or that they may part is only said."""
    val: float | None = None
    calib: float | None = None
    test: float | None = None
    folds: int | None = None
    seed: int = 0
    skip_bad: bool = False
    workers: int = 1
    max_megapixels: float = MAX_MEGAPIXELS
    pictures: bool = True
    """Whether the audit's page and the sheet of proposed groups may show images."""
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.unit == "image":
            for flag, value, default in (
                ("--input-unit", self.input_unit, "auto"),
                ("--unmarked", self.unmarked, "leave-out"),
            ):
                if value != default:
                    raise UsageError(
                        f"{flag} {value} without --unit cell means nothing", "Leave it out, or add --unit cell"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The manifest that was written; images left out as (path, reason); sets of paths that hold the same picture.

    `near` are pairs of paths that hold nearly the same; `audit` is the document of audit.json.
    """

    manifest: Manifest
    skipped: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, str], ...]
    audit: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give the document of `leuk prepare --json`; `duplicates` counts the images that are copies of another."""
        manifest = self.manifest
        return {
            "task": manifest.task.name,
            "title": manifest.task.title,
            "classes": list(manifest.task.classes),
            "positive": manifest.task.positive,
            "unit": manifest.unit,
            "images": len(manifest.fields if manifest.unit == "cell" else manifest.samples),
            "cells": len(manifest.samples) if manifest.unit == "cell" else None,
            "unlabelled_cells": len(manifest.unlabelled) if manifest.unit == "cell" else None,
            "groups": len({sample.group for sample in (*manifest.samples, *manifest.fields)}),
            "groups_source": manifest.groups_source,
            "splits": count_parts(manifest),
            "folds": manifest.folds,
            "seed": manifest.seed,
            "fingerprint": manifest.fingerprint,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "duplicates": sum(len(paths) - 1 for paths in self.duplicates),
            "near_duplicates": len({path for pair in self.near for path in pair}),
            "audit": {
                "probes": {probe["name"]: probe["verdict"] for probe in self.audit["probes"]},
                "findings": [
                    {key: one[key] for key in ("code", "severity", "title")} for one in self.audit["findings"]
                ],
            },
            "warnings": list(manifest.warnings),
        }


def prepare(workspace: Workspace, settings: PrepareSettings, track: Track = silent, note: Note = unheard) -> Prepared:
    """Make the workspace's manifest; raises UsageError or DataError, with nothing written, where that cannot be."""
    task, gathered, dealing = _gathered(settings, note)
    found: Sequence[Candidate] = gathered.candidates
    cutting = Cutting(unit=settings.input_unit) if settings.unit == "cell" else None
    with (
        fresh_folder(workspace.manifest_folder) as folder,
        tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as scratch,
        _surveyed(found, cutting, folder, Path(scratch), settings, track) as seen,
    ):
        candidates = _usable(found, seen.unusable, settings, note)
        skipped = tuple((found[place].path, why.reason) for place, why in seen.unusable.items())
        cut = _labelled(candidates, seen, task, settings)
        kinds = [one.kind for one in cut] if cutting is not None else [candidate.label for candidate in candidates]
        ties = _ties(candidates, seen, gathered, settings, Path(scratch), note)
        rows = [(group, kind or task.classes[0]) for group, kind in zip(ties.groups, kinds, strict=True)]
        dealt = deal(candidates, rows, dealing, gathered.groups_source, ties.bundles)
        photographs = _photographs(candidates, seen, ties, dealt)
        if cutting is None:  # of a million images they are worth some hundred mebibytes
            found, candidates, gathered = (), (), replace(gathered, candidates=())
        del rows
        cells = [cell for row, one in enumerate(cut) for cell in one.rows(photographs[row], workspace.manifest_folder)]
        samples = photographs if cutting is None else [cell for cell in cells if cell.label]
        check_classes(task, {sample.label for sample in samples}, unit=settings.unit)
        check_trainable(samples)
        warnings = [
            *gathered.warnings,
            *_skip_warnings(skipped),
            *ties.said(),
            *_group_warnings(task, samples, ties.groups_source),
            *dealt.warnings,
            *([] if ties.bundled else ties.parted(dealt.splits if settings.folds is None else dealt.folds)),
            *(cells_said(cut) if cutting is not None else []),
        ]
        manifest = make_manifest(
            samples,
            task=task,
            seed=settings.seed,
            folds=settings.folds,
            groups_source=ties.groups_source,
            warnings=warnings,
            unit=settings.unit,
            unlabelled=[cell for cell in cells if not cell.label],
            fields=photographs if cutting is not None else (),
            crops=None if cutting is None else cutting.as_json(),
        )
        manifest = replace(manifest, warnings=(*warnings, *_run_warnings(workspace, manifest)))
        fill_folder(folder, workspace, manifest, protocol=dealt.protocol, command=settings.command)
        audit = _audit(folder, _audited(manifest, photographs, kinds, seen, ties), settings, note)
        if ties.groups_source == "proposed" and settings.pictures:
            _draw_groups(folder, photographs, settings, note)
    paths = [photograph.path for photograph in photographs]
    return Prepared(
        manifest=manifest,
        skipped=skipped,
        duplicates=tuple(tuple(paths[row] for row in same) for same in ties.copies),
        near=tuple((paths[pair.first], paths[pair.second]) for pair in ties.near),
        audit=audit,
    )


def _gathered(settings: PrepareSettings, note: Note) -> tuple[Task, Gathered, Dealing]:
    """Find the images and settle the task; what can be seen to fail is seen before hours of opening."""
    dealing = Dealing.asked(
        val=settings.val, calib=settings.calib, test=settings.test, folds=settings.folds, seed=settings.seed
    )
    defaults = SourceDefaults(
        layout=settings.layout, labels=settings.labels, label_column=settings.label_column, group_by=settings.group_by
    )
    sources, listed_task = read_sources(settings.sources, defaults)
    task = settle_task(settings.task, listed_task, settings.classes, settings.positive)
    note(f"task {task.title}")
    gathered = gather(sources, task, settings.unit)
    for line in gathered.notes:
        note(line)
    if settings.unmarked == "healthy" and healthy_class(task) is None:
        raise UsageError(
            f"--unmarked healthy, and task {task.title} has no class that healthy means",
            "Name it with an alias in the task file, or leave --unmarked out",
        )
    candidates = gathered.candidates
    if all(candidate.label for candidate in candidates):
        check_classes(task, [candidate.label for candidate in candidates])
        groups = name_groups([(c.source, c.relative, c.group) for c in candidates])
        told = list(zip(groups, [candidate.label for candidate in candidates], strict=True))
        deal(candidates, told, dealing, gathered.groups_source)
    return task, gathered, dealing


def _surveyed(
    found: Sequence[Candidate],
    cutting: Cutting | None,
    folder: Path,
    scratch: Path,
    settings: PrepareSettings,
    track: Track,
) -> AbstractContextManager[Survey]:
    crops = [place for place, candidate in enumerate(found) if candidate.holds == "crops"] if cutting else []
    return survey(
        [candidate.path for candidate in found],
        SurveyFiles(root=folder, crops=CROPS, prints=folder / PRINTS, scratch=scratch),
        cutting=cutting,
        single=frozenset(crops),
        workers=settings.workers,
        max_megapixels=settings.max_megapixels,
        track=track,
    )


def _usable(
    found: Sequence[Candidate], unusable: Mapping[int, Unusable], settings: PrepareSettings, note: Note
) -> Sequence[Candidate]:
    """Give the images that could be opened; notes the others and raises DataError, unless they are skipped."""
    if not unusable:
        return found
    usable = [candidate for place, candidate in enumerate(found) if place not in unusable]
    if settings.skip_bad and usable:
        return usable
    told = [f"{found[place].path}: {why.reason}" for place, why in unusable.items()]
    for line in told[:_SHOWN]:
        note(f"unusable: {line}")
    if len(told) > _SHOWN:
        note(f"and {len(told) - _SHOWN} more")
    hints = {why.hint for why in unusable.values()}
    cause = f"{hints.pop()}. " if len(hints) == 1 else ""
    way_out = "Mend or remove them, or leave them out with --skip-bad" if usable else "Not one image is left"
    first = told[0] if len(told) == 1 else f"the first is {told[0]}"
    raise DataError(f"{len(told)} of {len(found)} images cannot be used: {first}", cause + way_out)


def _labelled(
    candidates: Sequence[Candidate], seen: Survey, task: Task, settings: PrepareSettings
) -> list[CutPhotograph]:
    """Give each photograph's cells their classes; none where no cells are cut."""
    if settings.unit != "cell":
        return []
    return [
        label_photograph(candidate, unit, crops, (width, height), task, settings.unmarked)
        for candidate, unit, crops, (width, height, _) in zip(
            candidates, seen.units, seen.crops, seen.sizes(), strict=True
        )
    ]


def _ties(
    candidates: Sequence[Candidate],
    seen: Survey,
    gathered: Gathered,
    settings: PrepareSettings,
    scratch: Path,
    note: Note,
) -> Ties:
    # Splits that labels name stay as they are; what they part is said.
    split_given = settings.folds is None and all(candidate.split for candidate in candidates)
    return tie(
        candidates,
        seen,
        gathered.groups_source,
        bundle=settings.near_copies == "tie" and not split_given,
        propose=settings.group_by != "none" and not split_given,
        scratch=scratch,
        note=note,
    )


def _photographs(candidates: Sequence[Candidate], seen: Survey, ties: Ties, dealt: Dealt) -> list[Sample]:
    """Make the row of each image."""
    held = ties.held() if ties.bundled else Counter[str]()
    return [
        Sample(
            path=candidate.path,
            label=candidate.label,
            group=group,
            split=split,
            fold=fold,
            source=candidate.source,
            sha256=sha256,
            width=width,
            height=height,
            bundle=bundle if held[bundle] > 1 else "",
        )
        for candidate, (width, height, sha256), group, bundle, split, fold in zip(
            candidates, seen.sizes(), ties.groups, ties.bundles, dealt.splits, dealt.folds, strict=True
        )
    ]


# ---------------------------------------------------------------------------------------------------------- audit


def _audit(folder: Path, images: AuditImages, settings: PrepareSettings, note: Note) -> dict[str, Any]:
    """Write audit.json and audit.html."""
    note("auditing the data: copies, confounding, and whether more than cells tells the class")
    document = audit_document(images, seed=settings.seed, created=now(), version=__version__)
    small = None
    if settings.pictures:
        small = thumbnails(audit_pictures(document), max_megapixels=settings.max_megapixels, note=note)
    write_json(folder / "audit.json", document)
    write_text(folder / "audit.html", audit_page(document, small))
    return document


def _audited(
    manifest: Manifest, photographs: Sequence[Sample], kinds: Sequence[str], seen: Survey, ties: Ties
) -> AuditImages:
    """Give what is audited: the images of which a class is known."""
    known = [row for row, kind in enumerate(kinds) if kind]
    copies: list[list[int]] = [list(rows) for rows in ties.copies]
    pairs: list[tuple[int, int, str]] = [(pair.first, pair.second, pair.kind) for pair in ties.near]
    if len(known) < len(kinds):
        place = {row: i for i, row in enumerate(known)}
        photographs = [photographs[row] for row in known]
        kinds = [kinds[row] for row in known]
        copies = [[place[row] for row in rows if row in place] for rows in copies]
        pairs = [(place[a], place[b], kind) for a, b, kind in pairs if a in place and b in place]
    folds = [photograph.fold for photograph in photographs]
    return AuditImages(
        classes=manifest.task.classes,
        paths=[photograph.path for photograph in photographs],
        labels=kinds,
        groups=[photograph.group for photograph in photographs],
        sources=[photograph.source for photograph in photographs],
        traits=StoredTraits(seen.traits, np.array(known, dtype=np.int64)),
        groups_source=manifest.groups_source,
        folds=[fold for fold in folds if fold is not None] if manifest.folds is not None else None,
        copies=[rows for rows in copies if len(rows) > 1],
        near=pairs,
    )


def _draw_groups(folder: Path, photographs: Sequence[Sample], settings: PrepareSettings, note: Note) -> None:
    sheet = group_sheet(photographs, settings.max_megapixels)
    if sheet is not None:
        write_bytes(folder / "groups.png", png_bytes(sheet))
        note(
            "the largest proposed groups are drawn in groups.png of the manifest's folder: look whether they are right"
        )


# ------------------------------------------------------------------------------------------------------- warnings


def _skip_warnings(skipped: Sequence[tuple[str, str]]) -> list[str]:
    if not skipped:
        return []
    return [f"{counted(len(skipped), 'image')} left out as unusable, the first: {skipped[0][0]}: {skipped[0][1]}"]


def _group_warnings(task: Task, samples: Sequence[Sample], groups_source: GroupsSource) -> list[str]:
    warnings = []
    if groups_source == "none":
        warnings.append(NO_GROUPS)
    if groups_source == "proposed":
        warnings.append(PROPOSED_GROUPS)
    groups = Counter(label for _, label in {(sample.group, sample.label) for sample in samples})
    return warnings + few_groups({kind: groups[kind] for kind in task.classes})


def _run_warnings(workspace: Workspace, manifest: Manifest) -> list[str]:
    runs, _ = list_runs(workspace)
    other = [run.id for run in runs if run.facts.get("manifest") not in (None, manifest.fingerprint)]
    if not other:
        return []
    listed = ", ".join(other[-3:])
    return [
        f"{counted(len(other), 'run')} in this workspace made from another manifest ({listed}): `best` passes them over"
    ]
