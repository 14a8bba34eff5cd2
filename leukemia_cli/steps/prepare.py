"""`leuk prepare`: open every image, group them, deal the groups to splits or folds, and write the manifest.

With `unit` "cell" the white cells of every photograph are found, cut and given a class where one is known; cells then are
the images of the manifest, and stay with their photograph whatever is dealt.

Requirements met here:
- Nothing is written unless all went well: an earlier manifest stays as it was.
- Every image is decoded whole, once, in a few threads, and only as many are held as there are threads.
- Exact copies, by file or by pixels, lie in one group; under two classes they are an error.
- Near copies (crops, turned, brightened and saved again) are never parted: groups that hold some of one another are dealt as
  one. Where nobody gave groups, near copies and photographs taken in one go are proposed as groups, and all later figures
  are labelled so.
- What makes the later figures less true is said as a warning, and kept in the manifest.
- An audit of the data is made every time, from what the one opening of each image showed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.data.datasets import (
    GROUPS_TOLD,
    Candidate,
    Gathered,
    SourceDefaults,
    gather,
    read_sources,
    settle_task,
)
from leukemia_cli.data.duplicates import NearPair, capture_bursts, clusters, find_near
from leukemia_cli.data.grouping import find_copies, join_groups, name_groups
from leukemia_cli.data.manifest import CROPS, count_parts, fill_folder, make_manifest
from leukemia_cli.data.marking import How, Spot, Unmarked, healthy_class, in_pixels, label_cells
from leukemia_cli.data.splits import deal_folds, deal_splits, missing_classes, split_fractions
from leukemia_cli.domain import (
    NO_GROUPS,
    PROPOSED_GROUPS,
    SPLITS,
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
from leukemia_cli.reporting.audit import AuditImages, audit_document, audit_page, audit_pictures
from leukemia_cli.reporting.thumbnails import thumbnails
from leukemia_cli.vision.cutting import Cut, CutCell, Cutting, InputUnit, cut
from leukemia_cli.vision.decode import MAX_MEGAPIXELS, Decoded, ImageFacts, Unusable, decode, decode_each, facts_of
from leukemia_cli.vision.fingerprints import Fingerprint, capture_facts, describe
from leukemia_cli.vision.overlays import png_bytes
from leukemia_cli.vision.overviews import gallery
from leukemia_cli.vision.traits import Traits, jpeg_quality, measure
from leukemia_cli.workspace import Workspace, fresh_folder, list_runs, now, write_bytes, write_json, write_text

_SHOWN = 10
_FIELDS_A_FOLDER = 1000


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
    fractions = _fractions(settings)
    defaults = SourceDefaults(
        layout=settings.layout, labels=settings.labels, label_column=settings.label_column, group_by=settings.group_by
    )
    sources, listed_task = read_sources(settings.sources, defaults)
    task = settle_task(settings.task, listed_task, settings.classes, settings.positive)
    note(f"task {task.title}")
    gathered = gather(sources, task, settings.unit)
    for line in gathered.notes:
        note(line)
    _check_unmarked(task, settings)
    if all(candidate.label for candidate in gathered.candidates):
        _check_classes(task, [candidate.label for candidate in gathered.candidates])
        _deal(
            gathered, gathered.candidates, _rows(gathered.candidates), settings, fractions
        )  # fails before hours of opening
    cutting = Cutting(unit=settings.input_unit) if settings.unit == "cell" else None
    with fresh_folder(workspace.manifest_folder) as folder:
        opened, skipped = _open_all(gathered.candidates, settings, cutting, folder, track, note)
        candidates = [candidate for candidate, _ in opened]
        copies = find_copies([look.facts.pixels_digest for _, look in opened])
        _check_copies(candidates, copies)
        near = _near(opened, copies, note)
        split_given = settings.folds is None and all(candidate.split for candidate in candidates)
        proposed = [] if split_given else _proposals(opened, gathered, settings)
        # Splits that labels name stay as they are; what they part is said.
        joined = () if split_given or settings.near_copies == "warn" else near.sets
        groups_source = gathered.groups_source
        if groups_source == "none" and settings.group_by != "none" and (joined or proposed):
            groups_source = "proposed"
        labelled = [_cell_labels(candidate, look, task, settings) for candidate, look in opened]
        kinds = [_kind(candidate, labels, task) for candidate, labels in zip(candidates, labelled, strict=True)]
        known = [*copies, *(joined if gathered.groups_source == "none" else ()), *proposed]
        rows = _rows(candidates, known, [kind or task.classes[0] for kind in kinds])
        bundles = join_groups([group for group, _ in rows], joined)
        tied = Counter(
            bundle for bundle, _ in {(bundle, group) for bundle, (group, _) in zip(bundles, rows, strict=True)}
        )
        splits, folds, protocol, deal_warnings = _deal(gathered, candidates, rows, settings, fractions, bundles)
        if not joined:
            parts = splits if settings.folds is None else [f"fold {fold}" for fold in folds]
            deal_warnings += _parted(parts, near)
        photographs = [
            Sample(
                path=candidate.path,
                label=candidate.label,
                group=group,
                split=split,
                fold=fold,
                source=candidate.source,
                sha256=look.facts.sha256,
                width=look.facts.width,
                height=look.facts.height,
                bundle=bundle if tied[bundle] > 1 else "",
            )
            for (candidate, look), (group, _), bundle, split, fold in zip(
                opened, rows, bundles, splits, folds, strict=True
            )
        ]
        cells = [
            _cells(photograph, look, labels, workspace.manifest_folder)
            for photograph, (_, look), labels in zip(photographs, opened, labelled, strict=True)
        ]
        every = [cell for of_field in cells for cell in of_field]
        samples = photographs if cutting is None else [cell for cell in every if cell.label]
        _check_classes(task, [sample.label for sample in samples], unit=settings.unit)
        _check_trainable(samples)
        counted_groups = _rows_of_samples(samples)
        warnings = [
            *gathered.warnings,
            *_skip_warnings(skipped),
            *_group_warnings(task, groups_source, counted_groups, copies, near, sum(n for n in tied.values() if n > 1)),
            *deal_warnings,
            *_cell_warnings(settings, opened, labelled),
        ]
        manifest = make_manifest(
            samples,
            task=task,
            seed=settings.seed,
            folds=settings.folds,
            groups_source=groups_source,
            warnings=warnings,
            unit=settings.unit,
            unlabelled=[cell for cell in every if not cell.label],
            fields=photographs if cutting is not None else (),
            crops=None if cutting is None else cutting.as_json(),
        )
        manifest = replace(manifest, warnings=(*warnings, *_run_warnings(workspace, manifest)))
        fill_folder(folder, workspace, manifest, protocol=protocol, command=settings.command)
        audit = _audit(folder, manifest, photographs, kinds, [look for _, look in opened], copies, near, settings, note)
        if groups_source == "proposed" and settings.pictures:
            _groups_sheet(folder, photographs, settings, note)
    return Prepared(
        manifest=manifest,
        skipped=tuple(skipped),
        duplicates=tuple(tuple(candidates[row].path for row in rows_) for rows_ in copies),
        near=tuple((candidates[pair.first].path, candidates[pair.second].path) for pair in near.pairs),
        audit=audit,
    )


# ------------------------------------------------------------------------------------------------------- settings


def _fractions(settings: PrepareSettings) -> dict[str, float]:
    asked = [name for name in ("val", "calib", "test") if getattr(settings, name) is not None]
    if settings.folds is not None:
        if asked:
            raise UsageError(
                f"--folds {settings.folds} does not go with --{asked[0]}", "Choose between folds and splits"
            )
        if settings.folds < 2:
            raise UsageError(f"--folds {settings.folds} is too few", "Ask for at least 2 folds")
    return split_fractions(settings.val, settings.calib, settings.test)


# --------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crop:
    """A cell that was found: where, how large, and the file of its crop; without a file the image itself is the cell."""

    spot: Spot | None
    file: str | None
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is kept of an image once it was opened."""

    facts: ImageFacts
    traits: Traits
    print: Fingerprint
    taken: str | None
    camera: str
    unit: InputUnit = "field"
    crops: tuple[_Crop, ...] = ()


def _open_all(
    candidates: Sequence[Candidate],
    settings: PrepareSettings,
    cutting: Cutting | None,
    folder: Path,
    track: Track,
    note: Note,
) -> tuple[list[tuple[Candidate, _Look]], list[tuple[str, str]]]:
    """Open every image, and cut its cells into `folder`; notes the unusable and raises DataError, unless they are skipped."""
    opened: list[tuple[Candidate, _Look]] = []
    bad: list[tuple[Candidate, Unusable]] = []

    def look(place: int, decoded: Decoded) -> _Look:
        facts = facts_of(decoded)
        taken, camera = capture_facts(decoded.content)
        look = _Look(
            facts=facts,
            traits=measure(decoded.pixels, format=decoded.format, jpeg_quality=jpeg_quality(decoded.content)),
            print=describe(decoded.pixels),
            taken=taken,
            camera=camera,
        )
        if cutting is None:
            return look
        found = cut(decoded.pixels, cutting, "cell" if candidates[place].holds == "crops" else None)
        return replace(look, unit=found.unit, crops=tuple(_keep(found, facts, folder, place)))

    outcomes = decode_each(
        [c.path for c in candidates], look, workers=settings.workers, max_megapixels=settings.max_megapixels
    )
    watched = track(zip(candidates, outcomes, strict=True), total=len(candidates), label="opening images")
    for candidate, outcome in watched:
        if isinstance(outcome, Unusable):
            bad.append((candidate, outcome))
        else:
            opened.append((candidate, outcome))
    if bad and not (settings.skip_bad and opened):
        for candidate, why in bad[:_SHOWN]:
            note(f"unusable: {candidate.path}: {why.reason}")
        if len(bad) > _SHOWN:
            note(f"and {len(bad) - _SHOWN} more")
        first = f"{bad[0][0].path}: {bad[0][1].reason}"
        told = first if len(bad) == 1 else f"the first is {first}"
        cause = f"{bad[0][1].hint}. " if len({why.hint for _, why in bad}) == 1 else ""
        way_out = "Mend or remove them, or leave them out with --skip-bad" if opened else "Not one image is left"
        raise DataError(f"{len(bad)} of {len(candidates)} images cannot be used: {told}", cause + way_out)
    return opened, [(candidate.path, why.reason) for candidate, why in bad]


def _keep(found: Cut, facts: ImageFacts, folder: Path, place: int) -> Iterator[_Crop]:
    """Write the crops of one photograph; its place in the list names them."""
    if found.unit == "cell":
        yield _Crop(spot=None, file=None, sha256=facts.sha256, width=facts.width, height=facts.height)
        return
    inside = folder / CROPS / f"{place // _FIELDS_A_FOLDER:04d}"
    if found.cells:
        inside.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(found.cells):
        content = png_bytes(each.pixels)
        file = inside / f"{place:07d}-{number:04d}.png"
        file.write_bytes(content)
        yield _Crop(
            spot=_spot(each),
            file=file.relative_to(folder).as_posix(),
            sha256=hashlib.sha256(content).hexdigest(),
            width=each.pixels.shape[1],
            height=each.pixels.shape[0],
        )


def _spot(each: CutCell) -> Spot | None:
    if each.cell is None:
        return None
    return Spot(x=each.cell.x, y=each.cell.y, radius=math.sqrt(each.cell.nucleus_area_px / math.pi))


def _rows(
    candidates: Sequence[Candidate], copies: Iterable[Sequence[int]] = (), kinds: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Give group and class of each candidate, the groups of copies joined; `kinds` go before their own classes."""
    groups = join_groups(name_groups([(c.source, c.relative, c.group) for c in candidates]), copies)
    return list(zip(groups, kinds or [candidate.label for candidate in candidates], strict=True))


# --------------------------------------------------------------------------------------------- copies and groups


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """Pairs of images that are nearly one, exact copies left out, and the sets they come to."""

    pairs: tuple[NearPair, ...]
    sets: tuple[tuple[int, ...], ...]


def _near(opened: Sequence[tuple[Candidate, _Look]], copies: Sequence[Sequence[int]], note: Note) -> _Near:
    """Find near copies; of exact copies the first stands for all."""
    same = {row for rows in copies for row in rows[1:]}
    rows = [row for row in range(len(opened)) if row not in same]
    note(f"comparing {counted(len(rows), 'image')} for near copies")
    found = [
        replace(pair, first=rows[pair.first], second=rows[pair.second])
        for pair in find_near([opened[row][1].print for row in rows])
    ]
    return _Near(pairs=tuple(found), sets=tuple(clusters(found, len(opened))))


def _proposals(
    opened: Sequence[tuple[Candidate, _Look]], gathered: Gathered, settings: PrepareSettings
) -> list[tuple[int, ...]]:
    """Give sets of photographs that were taken in one go, where nobody knows the groups."""
    if gathered.groups_source != "none" or settings.group_by == "none":
        return []
    return capture_bursts([look.taken for _, look in opened], [look.camera for _, look in opened])


SHEET_GROUPS, SHEET_IMAGES, SHEET_PX = 12, 6, 320


def _groups_sheet(folder: Path, photographs: Sequence[Sample], settings: PrepareSettings, note: Note) -> None:
    """Draw the largest proposed groups, a row each, so that a person can see whether they belong together."""
    members: dict[str, list[Sample]] = {}
    for photograph in photographs:
        members.setdefault(photograph.group, []).append(photograph)
    largest = sorted(
        (group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group[0].path)
    )
    tiles, captions = [], []
    for number, group in enumerate(largest[:SHEET_GROUPS], start=1):
        for place in range(SHEET_IMAGES):
            if place < len(group):
                pixels = decode(group[place].path, max_megapixels=settings.max_megapixels).pixels
                step = max(1, min(pixels.shape[:2]) // SHEET_PX)
                tiles.append(pixels[::step, ::step].copy())  # the photograph itself is let go
                captions.append(f"group {number} of {len(largest)}: {len(group)} images")
            else:
                tiles.append(np.full((16, 16, 3), 255, dtype=np.uint8))
                captions.append("")
    if tiles:
        write_bytes(folder / "groups.png", png_bytes(gallery(tiles, captions, columns=SHEET_IMAGES)))
        note(
            "the largest proposed groups are drawn in groups.png of the manifest's folder: look whether they are right"
        )


def _audit(
    folder: Path,
    manifest: Manifest,
    photographs: Sequence[Sample],
    kinds: Sequence[str],
    looks: Sequence[_Look],
    copies: Sequence[Sequence[int]],
    near: _Near,
    settings: PrepareSettings,
    note: Note,
) -> dict[str, Any]:
    """Audit the images of which a class is known, and write audit.json and audit.html."""
    note("auditing the data: copies, confounding, and whether more than cells tells the class")
    known = [row for row, kind in enumerate(kinds) if kind]
    place = {row: i for i, row in enumerate(known)}
    photographs = [photographs[row] for row in known]
    copies = [[place[row] for row in rows if row in place] for rows in copies]
    pairs = [(place[p.first], place[p.second], p.kind) for p in near.pairs if p.first in place and p.second in place]
    folds = [photograph.fold for photograph in photographs]
    document = audit_document(
        AuditImages(
            classes=manifest.task.classes,
            paths=[photograph.path for photograph in photographs],
            labels=[kinds[row] for row in known],
            groups=[photograph.group for photograph in photographs],
            sources=[photograph.source for photograph in photographs],
            traits=[looks[row].traits for row in known],
            groups_source=manifest.groups_source,
            folds=[fold for fold in folds if fold is not None] if manifest.folds is not None else None,
            copies=[rows for rows in copies if len(rows) > 1],
            near=pairs,
        ),
        seed=settings.seed,
        created=now(),
        version=__version__,
    )
    small = None
    if settings.pictures:
        small = thumbnails(audit_pictures(document), max_megapixels=settings.max_megapixels, note=note)
    write_json(folder / "audit.json", document)
    write_text(folder / "audit.html", audit_page(document, small))
    return document


# ---------------------------------------------------------------------------------------------------------- cells


def _check_unmarked(task: Task, settings: PrepareSettings) -> None:
    if settings.unmarked == "healthy" and healthy_class(task) is None:
        raise UsageError(
            f"--unmarked healthy, and task {task.title} has no class that healthy means",
            "Name it with an alias in the task file, or leave --unmarked out",
        )


def _cell_labels(candidate: Candidate, look: _Look, task: Task, settings: PrepareSettings) -> list[tuple[str, How]]:
    """Give the class of each cell of a photograph, and how it is known."""
    if look.unit == "cell":
        return [(candidate.label, "one cell")] * len(look.crops)
    return label_cells(
        [crop.spot for crop in look.crops if crop.spot is not None],
        image_label=candidate.label,
        marks=None if candidate.marks is None else in_pixels(candidate.marks, look.facts.width, look.facts.height),
        healthy=healthy_class(task),
        unmarked=settings.unmarked,
    )


def _kind(candidate: Candidate, labels: Sequence[tuple[str, How]], task: Task) -> str:
    """Give the class that a photograph is dealt and audited as: its own, or that of most of its cells; "" for neither."""
    known = Counter(label for label, _ in labels if label)
    return candidate.label or (known.most_common(1)[0][0] if known else "")


def _cells(photograph: Sample, look: _Look, labels: Sequence[tuple[str, How]], manifest_folder: Path) -> list[Sample]:
    return [
        replace(
            photograph,
            path=photograph.path if crop.file is None else str(manifest_folder / crop.file),
            label=label,
            unit="cell",
            sha256=crop.sha256,
            width=crop.width,
            height=crop.height,
            field=photograph.path,
            x=None if crop.spot is None else round(crop.spot.x, 1),
            y=None if crop.spot is None else round(crop.spot.y, 1),
        )
        for crop, (label, _) in zip(look.crops, labels, strict=True)
    ]


def _rows_of_samples(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return [(sample.group, sample.label) for sample in samples]


def _check_trainable(samples: Sequence[Sample]) -> None:
    """Raise DataError where the split train has no sample of a class, which cells alone can bring about."""
    lacking = missing_classes(_rows_of_samples(samples), [sample.split for sample in samples])
    if "train" in lacking:
        raise DataError(
            f"the split train has no cell of class {', '.join(lacking['train'])}",
            "Prepare with another --seed or with --folds, or mark more cells",
        )


def _cell_warnings(
    settings: PrepareSettings,
    opened: Sequence[tuple[Candidate, _Look]],
    labelled: Sequence[Sequence[tuple[str, How]]],
) -> list[str]:
    """Say how cells came by their class, which have none and why, and which marks no cell was found for."""
    if settings.unit != "cell":
        return []
    told = Counter((how, bool(label)) for labels in labelled for label, how in labels)
    warnings = []
    if told["unmarked", False]:
        warnings.append(
            f"{counted(told['unmarked', False], 'cell')} of photographs that are not healthy left without a class, out of "
            "training: nobody marked them, and normal cells lie between blasts (--unmarked says otherwise)"
        )
    if told["unmarked", True]:
        warnings.append(f"{counted(told['unmarked', True], 'unmarked cell')} of leukaemia photographs taken as healthy")
    if told["as the image", True]:
        warnings.append(
            f"{counted(told['as the image', True], 'cell')} given the class of their photograph, normal cells among them: "
            "the labels are noisy"
        )
    marks = sum(
        sum(bool(mark.label) for mark in candidate.marks or ())
        for (candidate, look), labels in zip(opened, labelled, strict=True)
        if look.unit == "field" and not any(how == "healthy image" for _, how in labels)
    )
    missed = marks - told["marked", True]
    if missed:
        warnings.append(f"no cell was found at {missed} of {counted(marks, 'mark')}: they are not used")
    empty = sum(look.unit == "field" and not look.crops for _, look in opened)
    if empty:
        warnings.append(f"no white cell was found in {empty} of {counted(len(opened), 'photograph')}")
    return warnings


# --------------------------------------------------------------------------------------------------------- checks


def _check_classes(task: Task, labels: Iterable[str], unit: Unit = "image") -> None:
    there = set(labels)
    missing = [kind for kind in task.classes if kind not in there]
    if not missing:
        return
    if unit == "cell" and healthy_class(task) not in missing:
        raise DataError(
            f"there is no cell of class {', '.join(missing)}: nobody marked one in photographs of that class",
            "Give marks (a layout with centroids or boxes), or take every cell of them with --unmarked as-image, normal "
            "cells too",
        )
    left = [kind for kind in task.classes if kind in there]
    hint = f"Leave out what has no images: --classes {','.join(left)}"
    if len(left) < 2:
        hint = f"Add images of {', '.join(missing)}: one class alone cannot be told from anything"
    elif len(left) == 2:
        hint += f" --positive {left[0]}"
    raise DataError(f"there is no {unit} of class {', '.join(missing)} of task {task.title}", hint)


def _check_copies(candidates: Sequence[Candidate], copies: Iterable[Sequence[int]]) -> None:
    for rows in copies:
        first = candidates[rows[0]]
        for row in rows[1:]:
            other = candidates[row]
            if other.label != first.label:
                raise DataError(
                    f"{first.path} ({first.label}) and {other.path} ({other.label}) are one image under two classes",
                    "Find out which is right, and remove the other",
                )


def _deal(
    gathered: Gathered,
    candidates: Sequence[Candidate],
    rows: Sequence[tuple[str, str]],
    settings: PrepareSettings,
    fractions: dict[str, float],
    bundles: Sequence[str] | None = None,
) -> tuple[Sequence[str], Sequence[int | None], str, list[str]]:
    """Give split and fold of each row (one of them empty), how they came about, and what to warn of.

    What is in one of `bundles` is not parted either.
    """
    nothing: list[int | None] = [None] * len(rows)
    given = [candidate.split for candidate in candidates]
    warnings: list[str] = []
    if any(given) and settings.folds is None and all(given):
        asked = [name for name in ("val", "calib", "test") if getattr(settings, name) is not None]
        if asked:
            raise UsageError(
                f"--{asked[0]} does not go with labels that name the split of every image",
                f"Leave out --{asked[0]}, or the column split",
            )
        return given, nothing, "given", _check_given_splits(candidates, rows)
    if any(given):
        why = "--folds was asked for" if settings.folds else f"{given.count('')} of {len(given)} images have none"
        warnings.append(f"the splits that the labels name are not used: {why}")
    if bundles is not None:
        rows = [(bundle, kind) for bundle, (_, kind) in zip(bundles, rows, strict=True)]
    try:
        if settings.folds is None:
            return deal_splits(rows, fractions, settings.seed), nothing, "grouped", warnings
        dealt = deal_folds(rows, settings.folds, settings.seed)
    except DataError as error:
        example = min(group for group, _ in rows)
        told = f"groups are {GROUPS_TOLD[gathered.groups_source]}, for example {example!r}"
        raise DataError(f"{error.problem} ({told})", error.hint) from error
    lacking = missing_classes(rows, [f"fold {fold} lacks" for fold in dealt])
    if lacking:
        told = "; ".join(f"{fold} {', '.join(kinds)}" for fold, kinds in lacking.items())
        warnings.append(f"not every fold has every class ({told}): judge the folds pooled, never one alone")
    return [""] * len(rows), list(dealt), "grouped", warnings


def _parted(parts: Sequence[str], near: _Near) -> list[str]:
    """Warn of near copies that lie in different parts, because the labels named them or because that was asked for."""
    apart = sum(parts[pair.first] != parts[pair.second] for pair in near.pairs)
    if not apart:
        return []
    return [
        f"{counted(apart, 'pair')} of near copies lie in different splits or folds: figures are optimistic (audit.html lists "
        "the pairs)"
    ]


def _check_given_splits(candidates: Sequence[Candidate], rows: Sequence[tuple[str, str]]) -> list[str]:
    """Raise DataError where a group is in two splits or train lacks a class; warn where another split does."""
    first: dict[str, Candidate] = {}
    for candidate, (group, _) in zip(candidates, rows, strict=True):
        before = first.setdefault(group, candidate)
        if before.split != candidate.split:
            raise DataError(
                f"group {group} is in two splits: {before.path} in {before.split}, "
                f"{candidate.path} in {candidate.split}",
                "Put all images of a group, and all copies of an image, into one split; or leave out the column split",
            )
    lacking = missing_classes(rows, [candidate.split for candidate in candidates])
    if "train" in lacking or not any(candidate.split == "train" for candidate in candidates):
        raise DataError(
            f"the split train that the labels name has no image of class {', '.join(lacking.get('train', ['any']))}",
            "Mend the column split, or leave it out",
        )
    return [f"split {split} has no image of class {', '.join(lacking[split])}" for split in SPLITS if split in lacking]


# ------------------------------------------------------------------------------------------------------- warnings


def _skip_warnings(skipped: Sequence[tuple[str, str]]) -> list[str]:
    if not skipped:
        return []
    return [f"{counted(len(skipped), 'image')} left out as unusable, the first: {skipped[0][0]}: {skipped[0][1]}"]


def _group_warnings(
    task: Task,
    groups_source: GroupsSource,
    rows: Sequence[tuple[str, str]],
    copies: Sequence[Sequence[int]],
    near: _Near,
    tied: int,
) -> list[str]:
    warnings = []
    if copies:
        more = sum(len(same) - 1 for same in copies)
        warnings.append(
            f"{counted(more, 'exact copy', 'exact copies')} of other images: each lies in the group of its original"
        )
    if near.pairs:
        count = len({row for pair in near.pairs for row in (pair.first, pair.second)})
        warnings.append(
            f"{counted(count, 'image')} nearly the same as another (a crop, turned, brightened or saved again, or two "
            "photographs of one place)"
            + (
                f", never parted; they tie {tied} groups together, which are dealt as one where they share some, and "
                "counted apart: if those are of one patient, intervals are too narrow"
                if tied
                else ""
            )
        )
    if groups_source == "none":
        warnings.append(NO_GROUPS)
    if groups_source == "proposed":
        warnings.append(PROPOSED_GROUPS)
    groups = Counter(label for _, label in set(rows))
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
