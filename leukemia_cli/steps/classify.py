"""`leuk classify`: images become findings, one row for each input in order, whatever becomes of the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.csv_rows import csv_line
from leukemia_cli.data.inputs import check_outside, expand_inputs
from leukemia_cli.data.shards import WHOLE, Dealt, Shard
from leukemia_cli.domain import Note, Track, counted, fingerprint, silent, unheard
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.learning.batches import Look, Pixels, batched, in_threads, look_at, plain_view
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.cluster import Predict, Spread, rows_from_cluster
from leukemia_cli.learning.doubt import Thresholds, doubted
from leukemia_cli.learning.exported import read_exported_run
from leukemia_cli.learning.machine import memory_errors
from leukemia_cli.learning.opening import EngineWanted, PrecisionWanted, Wanted, open_run
from leukemia_cli.learning.reading import read_bag, read_cell
from leukemia_cli.learning.sighting import Sighting, looks_of, sight, sight_slide
from leukemia_cli.reporting.cells import CellCall, cell_row, cell_table, drawn_cell, geojson_lines
from leukemia_cli.reporting.documents import held_back
from leukemia_cli.reporting.findings import Finding, Row, columns, json_line, kinds
from leukemia_cli.reporting.outputs import Terms, check_output, finished, open_rows
from leukemia_cli.reporting.row_stores import ROW_FORMS, RowForm, need_parquet, parquet_schema, parquet_table
from leukemia_cli.vision.cutting import Cut, Cutting, InputUnit, cut
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.overlays import heatmap_name, overlay, png_bytes
from leukemia_cli.vision.overviews import class_colour, gallery, overview
from leukemia_cli.vision.slides import SLIDE_SUFFIXES, Slide, held, needs_slide, open_slide
from leukemia_cli.vision.smear import smear_colours
from leukemia_cli.workspace.files import check_replaceable, check_writable, destination, write_bytes
from leukemia_cli.workspace.runs import RunFolder, is_export, run_at

if TYPE_CHECKING:
    from leukemia_cli.learning.heatmaps import Heat


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifySettings:
    """How images are read and gathered, by what they are looked at, and whether to abstain."""

    abstain: bool = True
    heatmaps: Path | None = None
    details: Path | None = None
    """Folder for what a run on cells found in each input: overview, gallery, and its cells as CSV and GeoJSON."""
    input_unit: InputUnit | None = None
    """What the inputs of a run on cells show; None takes what its data were said to show."""
    batch_size: int = 16
    max_megapixels: float = 200.0
    device: str = "auto"
    workers: int | None = None
    engine: EngineWanted = None
    """None is torch, or an exported file's own; `auto` the fastest that was verified for the run."""
    precision: PrecisionWanted = None
    """None is fp32, or with `auto` as engine whatever verified."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is too small", "Use at least 1")
        if not self.max_megapixels > 0:
            raise UsageError(f"--max-megapixels {self.max_megapixels} is not above 0", "The default is 200")


def open_classifier(run: RunFolder, settings: ClassifySettings, note: Note = unheard) -> Classifier:
    """Load the run once, saying what it is and where it runs; raises as `open_run` does."""
    wanted = Wanted(
        engine=settings.engine, precision=settings.precision, device=settings.device, workers=settings.workers
    )
    classifier = open_run(run, wanted, note)
    engine = classifier.engine
    if settings.heatmaps is not None:
        _ = classifier.machine  # refused before any work where no torch computes
    by = "" if (engine.name, engine.precision) == ("torch", "fp32") else f" by {engine.name} at {engine.precision}"
    note(f"run: {run.id}, {classifier.task.title}; device: {engine.description}{by}")
    if classifier.spec.is_random:
        note("warning: this run's backbone began random (--weights none)")
    if any(member.calibrated_on is None for member in classifier.members):
        note("warning: this run's probabilities are uncalibrated")
    on_cells = classifier.unit == "cell"
    for flag, value in (("--details", settings.details), ("--input-unit", settings.input_unit)):
        if value is not None and not on_cells:
            raise UsageError(f"{flag} needs a run on cells, and {run.id} is on whole images", "Leave it out")
    if on_cells and settings.heatmaps is not None:
        raise UsageError(f"run {run.id} is on cells, and heat-maps are of whole images", "Use --details DIR instead")
    thresholds = classifier.thresholds
    if on_cells:
        readings = [member.reading for member in classifier.members]
        thresholds = Thresholds.of([None if reading is None else reading.limits for reading in readings])
        if any(reading is None for reading in readings) and settings.input_unit != "cell":
            note("warning: this run has no rule for photographs: it can classify single cells alone")
    if settings.abstain and thresholds is None:
        few = "; only photographs with too few cells get none" if on_cells else ""
        note(
            "warning: this run cannot tell what is novel or uncertain: no images were left to fit its thresholds on; every "
            f"image gets a label{few}"
        )
    return classifier


def classify(
    classifier: Classifier,
    paths: Iterable[str],
    settings: ClassifySettings,
    track: Track = silent,
    places: Iterable[int] | None = None,
) -> Iterator[Finding]:
    """Yield one finding for each path, in order; a file that cannot be used gives an error row and the rest go on.

    `track` watches the tiles of a slide; `places` number the paths in the names of pictures, from 0 unless given.
    Memory does not grow with the number of paths.
    Raises MachineError where the device runs out of memory.
    """

    numbers = itertools.count() if places is None else iter(places)
    if classifier.cutting is not None:
        yield from _by_cells(classifier, classifier.cutting, paths, settings, track, numbers)
        return

    def seen_of(path: str) -> tuple[str, _Image | DataError]:
        try:
            image = decode(path, max_megapixels=settings.max_megapixels, enough_px=classifier.preprocessing.enough_px)
            look = look_at(image, classifier.preprocessing)
            return path, _Image(path=path, look=look, pixels=image.pixels if settings.heatmaps else None)
        except DataError as error:
            return path, error

    if settings.heatmaps is not None:  # a backbone that has none is refused before the first row
        from leukemia_cli.learning.heatmaps import heatmap

        side = classifier.preprocessing.input_size_px
        heatmap(classifier, [np.zeros((side, side, 3), dtype=np.uint8)], [0])
    workers = classifier.engine.workers
    seen = in_threads(seen_of, paths, workers, 2 * max(workers, settings.batch_size))
    for batch in batched(seen, settings.batch_size):
        images = [image for _, image in batch if not isinstance(image, DataError)]
        found: list[Finding] = []
        if images:
            with memory_errors(settings.batch_size):
                found = _findings(classifier, images, settings)
        heats: Iterator[Heat] = iter(())
        if settings.heatmaps is not None and images:
            targets = [classifier.task.classes.index(f.label) for f in found if f.label is not None]
            with memory_errors(1):
                heats = iter(heatmap(classifier, [image.look.view for image in images], targets))
        findings = iter(found)
        for path, image in batch:
            place = next(numbers)
            if isinstance(image, DataError):
                yield _failed(classifier, path, image)
            else:
                finding = next(findings)
                if settings.heatmaps is not None:
                    _draw(settings.heatmaps / heatmap_name(place, path), image, next(heats), finding, classifier)
                yield finding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An image as the network sees it, and as it is where that is wanted."""

    path: str
    look: Look
    pixels: Pixels | None


def _draw(file: Path, image: _Image, heat: Heat, finding: Finding, classifier: Classifier) -> None:
    if image.pixels is None:
        raise ValueError("a heat-map is drawn over the image, which was not kept")
    legend = f"{finding.label} {finding.confidence:.2f}"
    write_bytes(file, png_bytes(overlay(image.pixels, heat, classifier.preprocessing.fit, legend=legend)))


def _findings(classifier: Classifier, images: Sequence[_Image], settings: ClassifySettings) -> list[Finding]:
    """Judge images, in order."""
    seen, thresholds = classifier.look([image.look for image in images]), classifier.thresholds
    doubts = None
    if thresholds is not None and seen.novelty is not None:
        doubts = doubted(seen.probabilities, seen.novelty, thresholds)
    classes = classifier.task.classes
    findings = []
    for i, image in enumerate(images):
        scores = tuple(seen.probabilities[i].tolist())
        best = max(range(len(scores)), key=scores.__getitem__)
        reason: Literal["novel", "uncertain"] | None = None
        if settings.abstain and doubts is not None:
            reason = "novel" if doubts.novel[i] else "uncertain" if doubts.uncertain[i] else None
        label_set = None
        if doubts is not None and doubts.sets is not None:
            label_set = tuple(name for name, kept in zip(classes, doubts.sets[i], strict=True) if kept)
        findings.append(
            Finding(
                path=image.path,
                classes=classes,
                label=classes[best],
                decision="label" if reason is None else "abstain",
                reason=reason,
                confidence=scores[best],
                scores=scores,
                label_set=label_set,
                novelty=None if seen.novelty is None else float(seen.novelty[i]),
                novelty_threshold=None if thresholds is None else thresholds.novelty,
                unit="image",
                run=classifier.run,
                engine=classifier.engine.name,
                precision=classifier.engine.precision,
                error=None,
                novel_kind=_kind_of(image.look.as_photographed) if reason == "novel" else None,
            )
        )
    return findings


def _kind_of(view: Pixels) -> Literal["like-a-smear", "unlike-a-smear"]:
    return "like-a-smear" if smear_colours(view).like_a_smear else "unlike-a-smear"


# ---------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """An image with its cells cut; of a slide, which is read later, nothing but its path."""

    path: str
    found: Cut | None
    looks: list[Look]
    pixels: Pixels | None
    small: Pixels | None


def _by_cells(
    classifier: Classifier,
    cutting: Cutting,
    paths: Iterable[str],
    settings: ClassifySettings,
    track: Track,
    numbers: Iterator[int],
) -> Iterator[Finding]:
    """Classify by cells: images are decoded and cut in threads, slides a tile at a time."""

    def look(path: str) -> tuple[str, _Field | DataError]:
        try:
            if needs_slide(path, settings.max_megapixels):
                return path, _Field(path=path, found=None, looks=[], pixels=None, small=None)
            pixels = decode(path, max_megapixels=settings.max_megapixels).pixels
            found = cut(pixels, cutting, settings.input_unit)
            kept = pixels if settings.details is not None else None
            small = plain_view(pixels, classifier.preprocessing.as_photographed)
            return path, _Field(
                path=path, found=found, looks=looks_of(found.cells, classifier), pixels=kept, small=small
            )
        except DataError as error:
            return path, error

    workers = classifier.engine.workers
    for path, field in in_threads(look, paths, workers, 2 * workers):
        place = next(numbers)
        try:
            if isinstance(field, DataError):
                raise field
            with memory_errors(settings.batch_size):
                yield _finding_of(classifier, field, cutting, settings, place, track)
        except DataError as error:
            yield _failed(classifier, path, error)


def _finding_of(
    classifier: Classifier, field: _Field, cutting: Cutting, settings: ClassifySettings, place: int, track: Track
) -> Finding:
    """Judge one image, or one slide, by its cells, and write the details that were asked for."""
    if field.found is not None:
        sighting = sight(classifier, field.found, field.looks, settings.batch_size)
        thumbnail, small = field.pixels, field.small
        finding = _by_bag(classifier, field.path, sighting, small, settings)
        if settings.details is not None and thumbnail is not None:
            write_details(settings.details, place, finding, sighting, held(thumbnail))
        return finding
    with open_slide(field.path, max_megapixels=settings.max_megapixels, workers=classifier.engine.workers) as slide:
        sighting = sight_slide(
            classifier, slide, cutting, settings.batch_size, outlines=settings.details is not None, track=track
        )
        small = plain_view(slide.thumbnail(1024), classifier.preprocessing.as_photographed)
        finding = _by_bag(classifier, field.path, sighting, small, settings)
        if settings.details is not None:
            write_details(settings.details, place, finding, sighting, slide)
    return finding


def _by_bag(
    classifier: Classifier, path: str, sighting: Sighting, small: Pixels | None, settings: ClassifySettings
) -> Finding:
    """Make the finding of an image by its cells; a single cell is judged by itself."""
    if sighting.unit != "cell" and any(member.reading is None for member in classifier.members):
        raise DataError(
            f"{path} is no crop of a single cell, and run {classifier.run} has no rule for photographs",
            "If it is one all the same, say --input-unit cell; or train on photographs that have a class",
        )
    alone = sighting.unit == "cell"
    found = read_cell(classifier.members, sighting.seen) if alone else read_bag(classifier.members, sighting.seen)
    reason = found.reason if settings.abstain else None
    classes, scores = classifier.task.classes, tuple(float(p) for p in found.probabilities)
    best = max(range(len(scores)), key=scores.__getitem__)
    counted = None if alone else found.counted
    blasts = None
    if counted is not None and counted.share is not None and counted.low is not None and counted.high is not None:
        blasts = (counted.share, counted.low, counted.high)
    return Finding(
        path=path,
        classes=classes,
        label=classes[best],
        decision="label" if reason is None else "abstain",
        reason=reason,
        confidence=scores[best],
        scores=scores,
        label_set=None
        if found.label_set is None
        else tuple(n for n, in_set in zip(classes, found.label_set, strict=True) if in_set),
        novelty=found.novelty,
        novelty_threshold=None if found.thresholds is None else found.thresholds.novelty,
        unit=sighting.unit,
        run=classifier.run,
        engine=classifier.engine.name,
        precision=classifier.engine.precision,
        error=None,
        novel_kind=_kind_of(small) if reason == "novel" and small is not None else None,
        cells=None if counted is None else counted.cells,
        cells_by_class=None if counted is None else counted.by_class,
        blast_fraction=blasts,
        tiles=", ".join(f"{count} {what}" for what, count in sorted(sighting.tiles.items())) or None,
    )


OVERVIEW_PX = 2000


def write_details(folder: Path, place: int, finding: Finding, sighting: Sighting, slide: Slide) -> None:
    """Write what was found in one input: -overview.png, -gallery.png, -cells.csv and -cells.geojson, named by its place."""
    classes = finding.classes
    stem = heatmap_name(place, finding.path).removesuffix(".png")
    called = [int(each.scores.argmax()) for each in sighting.cells]
    calls = [
        CellCall(label=classes[best], confidence=float(each.scores[best]), scores=tuple(float(s) for s in each.scores))
        for each, best in zip(sighting.cells, called, strict=True)
    ]
    placed = [(each, call, best) for each, call, best in zip(sighting.cells, calls, called, strict=True) if each.cell]
    thumbnail = slide.thumbnail(OVERVIEW_PX)
    scale = thumbnail.shape[1] / slide.width
    boxes = [
        (e.cell.left, e.cell.top, e.cell.width, e.cell.height, best) for e, _, best in placed if e.cell is not None
    ]
    write_bytes(folder / f"{stem}-overview.png", png_bytes(overview(thumbnail, boxes, scale, classes)))
    telling = [(crop, f"{name} {sure:.2f}") for i, name in enumerate(classes) for crop, sure in sighting.telling.of(i)]
    if telling:
        drawn = gallery([crop for crop, _ in telling], [caption for _, caption in telling])
        write_bytes(folder / f"{stem}-gallery.png", png_bytes(drawn))
    rows = (
        cell_row(
            finding.path,
            number,
            each.cell,
            red_cell_diameter_px=each.red_cell_diameter_px,
            classes=classes,
            call=call,
        )
        for number, (each, call, _) in enumerate(placed, start=1)
        if each.cell is not None
    )
    _write_lines(folder / f"{stem}-cells.csv", cell_table(rows, classes))
    shapes = (
        drawn_cell(
            each.cell,
            class_name=call.label,
            colour=class_colour(best),
            measurements={f"score {name}": score for name, score in zip(classes, call.scores or (), strict=True)},
        )
        for each, call, best in placed
        if each.cell is not None
    )
    _write_lines(folder / f"{stem}-cells.geojson", geojson_lines(shapes))


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a file that never lies in memory whole: of a slide with many cells it is hundreds of megabytes."""
    check_replaceable(file)
    with destination(file, lambda text, end: None) as write:
        for line in lines:
            write(line)


def _failed(classifier: Classifier, path: str, error: DataError) -> Finding:
    return Finding(
        path=path,
        classes=classifier.task.classes,
        label=None,
        decision="error",
        confidence=None,
        scores=None,
        unit="image" if classifier.unit == "image" else "field",
        run=classifier.run,
        engine=classifier.engine.name,
        precision=classifier.engine.precision,
        error=f"{error.problem}. {error.hint}",
    )


Show = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


FindingForm = Literal["table", "csv", "jsonl", "json", "parquet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Which of the inputs are classified, and where their rows go in what form; none of it changes a row."""

    form: FindingForm
    output: Path | None = None
    rows_per_part: int | None = None
    """Of a folder of parts, which `output` then is; None is one file."""
    shard: Shard | None = None
    resume: bool = False
    cluster: Spread | None = None
    """Where else than in this process the rows are made."""

    def __post_init__(self) -> None:
        if self.rows_per_part is not None and self.output is None:
            raise UsageError("--rows-per-part needs --output", "Name a folder, such as rows/")
        if self.cluster is not None and (self.output is None or self.row_form is None):
            raise UsageError(
                "--cluster needs --output in csv, jsonl or parquet", "What a cluster makes is to be resumable"
            )
        if self.form == "parquet" and self.output is None:
            raise UsageError("--format parquet needs --output FILE", "A terminal or a pipe takes csv and jsonl")
        if self.resume and self.output is None:
            raise UsageError(
                "--resume needs --output FILE", "What went to a terminal or a pipe is not there to go on from"
            )
        if self.resume and self.row_form is None:
            raise UsageError(
                f"--resume cannot go on with --format {self.form}: half of its document is none",
                f"Use --format {', '.join(ROW_FORMS[:-1])} or {ROW_FORMS[-1]}",
            )
        if self.rows_per_part is not None and self.form != "parquet":
            raise UsageError(
                f"--output {self.output}/ is a folder of parts, and --format {self.form} is one file",
                "Say --format parquet; or leave out --rows-per-part and the / at the end",
            )
        if self.output is not None:
            check_output(self.output, self.rows_per_part)

    @property
    def row_form(self) -> RowForm | None:
        """Give the form where it is one of rows, which can be added to; None for a document."""
        return next((form for form in ROW_FORMS if form == self.form), None)


def write_findings(
    run: RunFolder,
    inputs: Sequence[str],
    settings: ClassifySettings,
    delivery: Delivery,
    *,
    stdin: Iterable[bytes],
    out: Callable[[str, str], None],
    table: Show,
    track: Track = silent,
    note: Note = unheard,
) -> tuple[int, int]:
    """Classify what `inputs` mean and write each row as it is known; give how many rows are errors, and of how many.

    With `output` rows go to `output.partial`, which takes its name when all are there; after an interruption it stays, and
    with `resume` the rows in it are not made again, but counted. CSV, JSON lines and Parquet get a sidecar.
    A JSON document for `out` is held back until it is whole: after an error or an interruption nothing of it is out.
    """
    if delivery.form == "parquet":
        need_parquet()
    if delivery.cluster is not None and (settings.heatmaps or settings.details):
        raise UsageError(
            "--heatmaps and --details are drawn in one process", "Leave out --cluster, or what is to be drawn"
        )
    if settings.heatmaps is not None:
        check_outside("--heatmaps", settings.heatmaps, inputs)
        check_writable(settings.heatmaps)
    if settings.details is not None:
        check_outside("--details", settings.details, inputs)
        check_writable(settings.details)
    suffixes = (*IMAGE_SUFFIXES, *(SLIDE_SUFFIXES if run.facts.get("unit") == "cell" else ()))
    paths = expand_inputs(inputs, suffixes, stdin)
    first = next(paths, None)
    if first is None:
        raise DataError("no inputs were named", "Name files or folders, or pipe paths to: leuk classify -")
    dealt = Dealt(itertools.chain((first,), paths), delivery.shard)
    classifier = open_classifier(run, settings, note)
    shard = delivery.shard or WHOLE
    tally = _Tally()

    def found() -> Iterator[Finding]:
        places = itertools.count(shard.place(tally.rows), shard.of)
        for finding in track(classify(classifier, dealt, settings, track, places), total=0, label="classified"):
            tally.rows += 1
            tally.errors += finding.decision == "error"
            yield finding
        if tally.rows == 0:
            note(f"no rows: of {counted(dealt.inputs, 'input')} none is of shard {shard}")

    def made() -> Iterator[Row]:
        if delivery.cluster is None:
            yield from (finding.as_row() for finding in found())
            return
        opened = partial(_predictor, str(run.path), replace(settings, workers=delivery.cluster.cores_each))
        rows = rows_from_cluster(dealt, opened, delivery.cluster, group=settings.batch_size, note=note)
        for row in track(rows, total=0, label="classified"):
            tally.rows += 1
            tally.errors += row["decision"] == "error"
            yield row

    if delivery.output is not None and (form := delivery.row_form) is not None:
        terms = _terms(run, classifier, settings, delivery, form)
        # Images that a network saw together stay together: sums in another batch differ in their last digits.
        group = settings.batch_size if classifier.cutting is None else 1
        _write_rows(delivery, terms, group, dealt, made, tally, note)
    else:
        _write_document(run.id, classifier, delivery, found(), out, table)
    return tally.errors, tally.rows


@dataclass(slots=True, kw_only=True)
class _Tally:
    """How many rows there are, and how many of them are errors."""

    rows: int = 0
    errors: int = 0


def _predictor(path: str, settings: ClassifySettings) -> Predict:
    """Open a run in a worker of a cluster, and give what makes rows of paths there."""
    run = run_at(path) if not is_export(Path(path)) else read_exported_run(Path(path))
    if run is None:
        raise WorkspaceError(
            f"no run at {path} on a node of the cluster", "Keep runs on a disk that all nodes see under one name"
        )
    classifier = open_classifier(run, settings)
    schema = parquet_schema(kinds(classifier.task.classes), {})

    def predict(paths: Sequence[str]) -> Any:
        return parquet_table([finding.as_row() for finding in classify(classifier, paths, settings)], schema)

    return predict


def _terms(
    run: RunFolder, classifier: Classifier, settings: ClassifySettings, delivery: Delivery, form: RowForm
) -> Terms:
    return Terms(
        leuk=__version__,
        form=form,
        run=classifier.run,
        run_fingerprint=fingerprint(run.facts),
        classes=classifier.task.classes,
        engine=classifier.engine.name,
        precision=classifier.engine.precision,
        abstain=settings.abstain,
        input_unit=settings.input_unit,
        max_megapixels=settings.max_megapixels,
        shard=delivery.shard,
        rows_per_part=delivery.rows_per_part,
    )


def _write_rows(
    delivery: Delivery,
    terms: Terms,
    group: int,
    dealt: Dealt,
    made: Callable[[], Iterator[Row]],
    tally: _Tally,
    note: Note,
) -> None:
    """Write rows to where a later command can go on with them."""
    output, resume = delivery.output, delivery.resume
    if output is None:
        raise ValueError("rows that can be gone on with lie in a file or a folder")
    if resume and (whole := finished(output, terms)) is not None:
        note(f"{whole.file} is whole already: {counted(whole.rows, 'row')}; nothing was done")
        tally.rows, tally.errors = whole.rows, whole.errors
        return
    with open_rows(output, terms, paths=dealt, group=group, resume=resume, note=note) as rows:
        tally.rows, tally.errors = rows.rows, rows.errors
        try:
            for row in made():
                rows.add(row)
        except BaseException:
            note(f"{counted(rows.rows, 'row')} so far: the same command with --resume goes on from there")
            raise
        rows.seal(inputs=dealt.inputs, inputs_sha256=dealt.sha256)


def _write_document(
    run: str,
    classifier: Classifier,
    delivery: Delivery,
    found: Iterator[Finding],
    out: Callable[[str, str], None],
    table: Show,
) -> None:
    """Write to `out`, or a document of which a half is none."""
    form, output = delivery.form, delivery.output
    with held_back(out) if form == "json" and output is None else destination(output, out) as write:
        if form == "table":
            headers, rows = _table(found)
            if output is None:
                table(f"run {run} (research use only)", headers, rows)
            else:
                for row in (headers, *rows):
                    write("  ".join(row) + "\n")
        else:
            for text in _texts(form, classifier, found):
                write(text)


def some_failed(failed: int, total: int) -> DataError:
    """Make the error that ends a command of which some inputs could not be used."""
    return DataError(f"{failed} of {total} inputs could not be used", "Their rows say why; the other rows are complete")


def _texts(form: FindingForm, classifier: Classifier, findings: Iterable[Finding]) -> Iterator[str]:
    if form == "csv":
        yield csv_line(columns(classifier.task.classes))
        for finding in findings:
            yield csv_line(tuple(finding.as_row().values()))
    elif form == "jsonl":
        for finding in findings:
            yield json_line(finding.as_row()) + "\n"
    else:
        lead = "[\n"
        for finding in findings:
            yield lead + json_line(finding.as_row())
            lead = ",\n"
        yield "[]\n" if lead == "[\n" else "\n]\n"


_KINDS = {"like-a-smear": "coloured like a stained smear", "unlike-a-smear": "not coloured like a stained smear"}


def _table(findings: Iterable[Finding]) -> tuple[list[str], list[list[str]]]:
    """Give what a person reads first; the scores of all classes are in the other formats."""
    rows = []
    on_cells = False
    for f in findings:
        sure = "–" if f.confidence is None else f"{f.confidence:.3f}"
        kind = "" if f.novel_kind is None else f" ({_KINDS[f.novel_kind]})"
        decision = f"error: {f.error}" if f.error else f.decision if f.reason is None else f"abstain: {f.reason}{kind}"
        on_cells = on_cells or f.cells is not None
        cells = "–" if f.cells is None else str(f.cells)
        if f.blast_fraction is not None:
            share, low, high = f.blast_fraction
            cells += f", {100 * share:.0f} % ({100 * low:.0f}–{100 * high:.0f}) leukaemic"
        rows.append([f.path, f.label or "–", sure, decision, cells])
    headers = ["image", "label", "confidence", "decision", "cells"]
    return (headers, rows) if on_cells else (headers[:-1], [row[:-1] for row in rows])
