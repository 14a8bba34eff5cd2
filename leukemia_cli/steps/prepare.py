"""`leuk prepare`: open every image, group them, deal the groups to splits or folds, and write the manifest.

With `unit` "cell" the white cells of every photograph are found, cut and given a class where one is known; cells then are
the images of the manifest, and stay with their photograph whatever is dealt.

Requirements met here:
- Nothing is written unless all went well: an earlier manifest stays as it was.
- Every image is decoded whole, once, in a few threads, and only as many are held as there are threads; what was measured of
  it goes to files, in rows of one size.
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
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
from leukemia_cli.data.grouping import copies_said, join_copies, join_groups, name_groups
from leukemia_cli.data.manifest import CROPS, PRINTS, count_parts, fill_folder, make_manifest
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
from leukemia_cli.vision.fingerprints import RECORD as PRINT_RECORD
from leukemia_cli.vision.fingerprints import VERSION as PRINT_VERSION
from leukemia_cli.vision.fingerprints import capture_facts, describe
from leukemia_cli.vision.fingerprints import packed as pack_prints
from leukemia_cli.vision.overlays import png_bytes
from leukemia_cli.vision.overviews import gallery
from leukemia_cli.vision.records import RecordFile, RecordWriter, in_parts
from leukemia_cli.vision.traits import RECORD as TRAITS_RECORD
from leukemia_cli.vision.traits import StoredTraits, jpeg_quality, measure
from leukemia_cli.vision.traits import packed as pack_traits
from leukemia_cli.workspace import (
    UNFINISHED,
    Workspace,
    fresh_folder,
    list_runs,
    now,
    write_bytes,
    write_json,
    write_text,
)

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
    task, gathered, fractions = _gathered(settings, note)
    cutting = Cutting(unit=settings.input_unit) if settings.unit == "cell" else None
    with fresh_folder(workspace.manifest_folder) as folder, ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder)))
        opened, skipped = _open_all(gathered.candidates, settings, cutting, folder, scratch, stack, track, note)
        labelled = _labelled(opened, task, settings)
        kinds = [_kind(one, labels, task) for one, labels in zip(opened.candidates, labelled, strict=True)]
        ties = _ties(opened, gathered, settings, scratch, note)
        rows = [(group, kind or task.classes[0]) for group, kind in zip(ties.groups, kinds, strict=True)]
        splits, folds, protocol, deal_warnings = _deal(
            gathered, opened.candidates, rows, settings, fractions, ties.bundles
        )
        if not ties.joined:
            deal_warnings += _parted(splits if settings.folds is None else folds, ties.near)
        del rows
        photographs = _photographs(opened, ties, splits, folds)
        if cutting is None:  # of a million images they are worth some hundred mebibytes
            opened, gathered = replace(opened, candidates=()), replace(gathered, candidates=())
        every = _cells(photographs, opened, labelled, workspace.manifest_folder)
        samples = photographs if cutting is None else [cell for cell in every if cell.label]
        _check_classes(task, {sample.label for sample in samples}, unit=settings.unit)
        _check_trainable(samples)
        warnings = [
            *gathered.warnings,
            *_skip_warnings(skipped),
            *_group_warnings(task, samples, ties),
            *deal_warnings,
            *_cell_warnings(settings, opened, labelled),
        ]
        manifest = make_manifest(
            samples,
            task=task,
            seed=settings.seed,
            folds=settings.folds,
            groups_source=ties.groups_source,
            warnings=warnings,
            unit=settings.unit,
            unlabelled=[cell for cell in every if not cell.label],
            fields=photographs if cutting is not None else (),
            crops=None if cutting is None else cutting.as_json(),
        )
        manifest = replace(manifest, warnings=(*warnings, *_run_warnings(workspace, manifest)))
        fill_folder(folder, workspace, manifest, protocol=protocol, command=settings.command)
        audit = _audit(folder, manifest, photographs, kinds, opened, ties, settings, note)
        if ties.groups_source == "proposed" and settings.pictures:
            _groups_sheet(folder, photographs, settings, note)
    paths = [photograph.path for photograph in photographs]
    return Prepared(
        manifest=manifest,
        skipped=tuple(skipped),
        duplicates=tuple(tuple(paths[row] for row in same) for same in ties.copies),
        near=tuple((paths[pair.first], paths[pair.second]) for pair in ties.near.pairs),
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


def _gathered(settings: PrepareSettings, note: Note) -> tuple[Task, Gathered, dict[str, float]]:
    """Find the images and settle the task; what can be seen to fail is seen before hours of opening."""
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
        _deal(gathered, gathered.candidates, _told_rows(gathered.candidates), settings, fractions)
    return task, gathered, fractions


# --------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crop:
    """A cell that was found: where, how large, and the file of its crop; without a file the image itself is the cell."""

    spot: Spot | None
    file: str | None
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """What one opening of an image shows; rows are of `FACTS`, and of the types of traits and of fingerprints, one each."""

    facts: NDArray[np.void]
    traits: NDArray[np.void]
    print: NDArray[np.void]
    taken: str | None
    camera: str
    unit: InputUnit = "field"
    crops: tuple[_Crop, ...] = ()


FACTS = np.dtype([("sha256", "S64"), ("pixels", "S32"), ("width", "<u4"), ("height", "<u4")])
"""What identifies an image, as `ImageFacts` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Opened:
    """The images that could be opened, in columns of equal length; what is large lies in files.

    `units` and `crops` are empty where no cells are cut.
    """

    candidates: Sequence[Candidate]
    facts: RecordFile
    traits: RecordFile
    prints: RecordFile
    taken: Sequence[str | None]
    cameras: Sequence[str]
    units: Sequence[InputUnit] = ()
    crops: Sequence[tuple[_Crop, ...]] = ()

    def sizes(self) -> Iterator[tuple[int, int, str]]:
        """Yield width, height and sha256 of each image."""
        known: dict[int, int] = {}  # few numbers, many images
        for part in in_parts(self.facts):
            for width, height, sha256 in part[["width", "height", "sha256"]].tolist():
                yield known.setdefault(width, width), known.setdefault(height, height), sha256.decode("ascii")


def _open_all(
    candidates: Sequence[Candidate],
    settings: PrepareSettings,
    cutting: Cutting | None,
    folder: Path,
    scratch: Path,
    stack: ExitStack,
    track: Track,
    note: Note,
) -> tuple[_Opened, list[tuple[str, str]]]:
    """Open every image, and cut its cells into `folder`; notes the unusable and raises DataError, unless they are skipped."""

    def look(place: int, decoded: Decoded) -> _Look:
        facts = facts_of(decoded)
        taken, camera = capture_facts(decoded.content)
        identity = np.array([(facts.sha256, facts.pixels_digest, facts.width, facts.height)], dtype=FACTS)
        found = measure(decoded.pixels, format=decoded.format, jpeg_quality=jpeg_quality(decoded.content))
        look = _Look(
            facts=identity,
            traits=pack_traits([found]),
            print=pack_prints([describe(decoded.pixels)]),
            taken=taken,
            camera=camera,
        )
        if cutting is None:
            return look
        cells = cut(decoded.pixels, cutting, "cell" if candidates[place].holds == "crops" else None)
        return replace(look, unit=cells.unit, crops=tuple(_keep(cells, facts, folder, place)))

    outcomes = decode_each(
        (c.path for c in candidates), look, workers=settings.workers, max_megapixels=settings.max_megapixels
    )
    usable: list[Candidate] = []
    taken: list[str | None] = []
    cameras: list[str] = []
    units: list[InputUnit] = []
    crops: list[tuple[_Crop, ...]] = []
    bad: list[tuple[Candidate, Unusable]] = []
    known_cameras: dict[str, str] = {}
    files = {
        "facts": RecordWriter(scratch / "facts", FACTS),
        "traits": RecordWriter(scratch / "traits", TRAITS_RECORD),
        "prints": RecordWriter(folder / PRINTS, PRINT_RECORD, {"version": PRINT_VERSION}),
    }
    for writer in files.values():
        stack.enter_context(writer)
    watched = track(zip(candidates, outcomes, strict=True), total=len(candidates), label="opening images")
    for candidate, outcome in watched:
        if isinstance(outcome, Unusable):
            bad.append((candidate, outcome))
            continue
        usable.append(candidate)
        for name, writer in files.items():
            writer.add({"facts": outcome.facts, "traits": outcome.traits, "prints": outcome.print}[name])
        taken.append(outcome.taken)
        cameras.append(known_cameras.setdefault(outcome.camera, outcome.camera))
        if cutting is not None:
            units.append(outcome.unit)
            crops.append(outcome.crops)
    if bad and not (settings.skip_bad and usable):
        for candidate, why in bad[:_SHOWN]:
            note(f"unusable: {candidate.path}: {why.reason}")
        if len(bad) > _SHOWN:
            note(f"and {len(bad) - _SHOWN} more")
        first = f"{bad[0][0].path}: {bad[0][1].reason}"
        told = first if len(bad) == 1 else f"the first is {first}"
        cause = f"{bad[0][1].hint}. " if len({why.hint for _, why in bad}) == 1 else ""
        way_out = "Mend or remove them, or leave them out with --skip-bad" if usable else "Not one image is left"
        raise DataError(f"{len(bad)} of {len(candidates)} images cannot be used: {told}", cause + way_out)
    read = {}
    for name, writer in files.items():
        writer.close()
        read[name] = stack.enter_context(RecordFile(writer.path, writer.dtype))
    opened = _Opened(candidates=usable, taken=taken, cameras=cameras, units=units, crops=crops, **read)
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
        content = png_bytes(each.seen)
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


def _told_rows(candidates: Sequence[Candidate]) -> list[tuple[str, str]]:
    """Give group and class of each candidate, as far as they are known before it is opened."""
    groups = name_groups([(c.source, c.relative, c.group) for c in candidates])
    return list(zip(groups, [candidate.label for candidate in candidates], strict=True))


def _photographs(opened: _Opened, ties: _Ties, splits: Sequence[str], folds: Sequence[int | None]) -> list[Sample]:
    """Make the row of each image."""
    members = Counter(bundle for bundle, _ in set(zip(ties.bundles, ties.groups, strict=True))) if ties.joined else {}
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
            bundle=bundle if members.get(bundle, 1) > 1 else "",
        )
        for candidate, (width, height, sha256), group, bundle, split, fold in zip(
            opened.candidates, opened.sizes(), ties.groups, ties.bundles, splits, folds, strict=True
        )
    ]


# --------------------------------------------------------------------------------------------- copies and groups


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """Pairs of images that are nearly one, exact copies left out, and the sets they come to."""

    pairs: tuple[NearPair, ...]
    sets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ties:
    """What keeps images together: the group of each, and the bundle of groups that it is dealt with.

    `copies` are rows that hold one picture; `joined` the sets of near copies whose groups are dealt as one.
    """

    groups: Sequence[str]
    bundles: Sequence[str]
    groups_source: GroupsSource
    copies: Sequence[tuple[int, ...]]
    near: _Near
    joined: Sequence[tuple[int, ...]]


def _ties(opened: _Opened, gathered: Gathered, settings: PrepareSettings, scratch: Path, note: Note) -> _Ties:
    """Join the groups of exact copies, propose groups where nobody knows any, and tie groups that share near copies."""
    candidates = opened.candidates
    digests = [digest for part in in_parts(opened.facts) for digest in part["pixels"].tolist()]
    groups, copies = join_copies([(c.source, c.relative, c.group) for c in candidates], digests)
    del digests
    _check_copies(candidates, copies)
    near = _near(opened, copies, scratch, note)
    split_given = settings.folds is None and all(candidate.split for candidate in candidates)
    # Splits that labels name stay as they are; what they part is said.
    joined = () if split_given or settings.near_copies == "warn" else near.sets
    groups_source = gathered.groups_source
    if groups_source == "none":
        proposed: Sequence[tuple[int, ...]] = ()
        if settings.group_by != "none" and not split_given:
            proposed = capture_bursts(opened.taken, opened.cameras)
        if settings.group_by != "none" and (joined or proposed):
            groups_source = "proposed"
        groups = join_groups(groups, (*joined, *proposed))
    return _Ties(
        groups=groups,
        bundles=join_groups(groups, joined) if joined else groups,
        groups_source=groups_source,
        copies=copies,
        near=near,
        joined=joined,
    )


def _near(opened: _Opened, copies: Sequence[Sequence[int]], scratch: Path, note: Note) -> _Near:
    """Find near copies; of exact copies the first stands for all."""
    same = {row for rows in copies for row in rows[1:]}
    count = len(opened.candidates)
    note(f"comparing {counted(count - len(same), 'image')} for near copies")
    found = find_near(opened.prints, skip=same, scratch=scratch)
    return _Near(pairs=tuple(found), sets=tuple(clusters(found, count)))


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
    opened: _Opened,
    ties: _Ties,
    settings: PrepareSettings,
    note: Note,
) -> dict[str, Any]:
    """Audit the images of which a class is known, and write audit.json and audit.html."""
    note("auditing the data: copies, confounding, and whether more than cells tells the class")
    known = [row for row, kind in enumerate(kinds) if kind]
    copies: list[list[int]] = [list(rows) for rows in ties.copies]
    pairs: list[tuple[int, int, str]] = [(pair.first, pair.second, pair.kind) for pair in ties.near.pairs]
    if len(known) < len(kinds):
        place = {row: i for i, row in enumerate(known)}
        photographs = [photographs[row] for row in known]
        kinds = [kinds[row] for row in known]
        copies = [[place[row] for row in rows if row in place] for rows in copies]
        pairs = [(place[a], place[b], kind) for a, b, kind in pairs if a in place and b in place]
    folds = [photograph.fold for photograph in photographs]
    document = audit_document(
        AuditImages(
            classes=manifest.task.classes,
            paths=[photograph.path for photograph in photographs],
            labels=kinds,
            groups=[photograph.group for photograph in photographs],
            sources=[photograph.source for photograph in photographs],
            traits=StoredTraits(opened.traits, np.array(known, dtype=np.int64)),
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


def _labelled(opened: _Opened, task: Task, settings: PrepareSettings) -> list[Sequence[tuple[str, How]]]:
    """Give the class of each cell of each photograph, and how it is known; where no cells are cut, none."""
    if not opened.units:
        return [()] * len(opened.candidates)
    return [
        _cell_labels(candidate, unit, crops, (width, height), task, settings)
        for candidate, unit, crops, (width, height, _) in zip(
            opened.candidates, opened.units, opened.crops, opened.sizes(), strict=True
        )
    ]


def _cell_labels(
    candidate: Candidate,
    unit: InputUnit,
    crops: Sequence[_Crop],
    size_px: tuple[int, int],
    task: Task,
    settings: PrepareSettings,
) -> list[tuple[str, How]]:
    """Give the class of each cell of a photograph, and how it is known."""
    if unit == "cell":
        return [(candidate.label, "one cell")] * len(crops)
    return label_cells(
        [crop.spot for crop in crops if crop.spot is not None],
        image_label=candidate.label,
        marks=None if candidate.marks is None else in_pixels(candidate.marks, *size_px),
        healthy=healthy_class(task),
        unmarked=settings.unmarked,
    )


def _kind(candidate: Candidate, labels: Sequence[tuple[str, How]], task: Task) -> str:
    """Give the class that a photograph is dealt and audited as: its own, or that of most of its cells; "" for neither."""
    known = Counter(label for label, _ in labels if label)
    return candidate.label or (known.most_common(1)[0][0] if known else "")


def _cells(
    photographs: Sequence[Sample],
    opened: _Opened,
    labelled: Sequence[Sequence[tuple[str, How]]],
    manifest_folder: Path,
) -> list[Sample]:
    """Make the row of each cell; where no cells are cut, none."""
    if not opened.units:
        return []
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
        for photograph, crops, labels in zip(photographs, opened.crops, labelled, strict=True)
        for crop, (label, _) in zip(crops, labels, strict=True)
    ]


def _check_trainable(samples: Sequence[Sample]) -> None:
    """Raise DataError where the split train has no sample of a class, which cells alone can bring about."""
    lacking = missing_classes([("", sample.label) for sample in samples], [sample.split for sample in samples])
    if "train" in lacking:
        raise DataError(
            f"the split train has no cell of class {', '.join(lacking['train'])}",
            "Prepare with another --seed or with --folds, or mark more cells",
        )


def _cell_warnings(
    settings: PrepareSettings, opened: _Opened, labelled: Sequence[Sequence[tuple[str, How]]]
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
        for candidate, unit, labels in zip(opened.candidates, opened.units, labelled, strict=True)
        if unit == "field" and not any(how == "healthy image" for _, how in labels)
    )
    missed = marks - told["marked", True]
    if missed:
        warnings.append(f"no cell was found at {missed} of {counted(marks, 'mark')}: they are not used")
    empty = sum(unit == "field" and not crops for unit, crops in zip(opened.units, opened.crops, strict=True))
    if empty:
        warnings.append(f"no white cell was found in {empty} of {counted(len(opened.candidates), 'photograph')}")
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


def _parted(parts: Sequence[str] | Sequence[int | None], near: _Near) -> list[str]:
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


def _group_warnings(task: Task, samples: Sequence[Sample], ties: _Ties) -> list[str]:
    warnings = copies_said(ties.copies)
    if ties.near.pairs:
        count = len({row for pair in ties.near.pairs for row in (pair.first, pair.second)})
        held = Counter(bundle for bundle, _ in set(zip(ties.bundles, ties.groups, strict=True)))
        tied = sum(n for n in held.values() if n > 1)
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
    if ties.groups_source == "none":
        warnings.append(NO_GROUPS)
    if ties.groups_source == "proposed":
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
