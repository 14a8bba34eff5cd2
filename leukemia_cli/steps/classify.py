"""`leuk classify`: images become findings, one row for each input in order, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.data.inputs import expand_inputs
from leukemia_cli.domain import Note, Track, silent, unheard
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.learning.batches import Pixels, batched, in_threads, plain_view
from leukemia_cli.learning.classifier import Classifier, load_classifier
from leukemia_cli.learning.doubt import doubted
from leukemia_cli.learning.heatmaps import Heat, heatmap
from leukemia_cli.learning.machine import choose_machine, memory_errors
from leukemia_cli.reporting.findings import Finding, columns, csv_line, json_line
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.overlays import heatmap_name, overlay, png_bytes
from leukemia_cli.vision.smear import smear_colours
from leukemia_cli.workspace import RunFolder, check_replaceable, check_writable, disk_errors, write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifySettings:
    """How images are read and gathered, and whether to abstain; none of it changes a score."""

    abstain: bool = True
    heatmaps: Path | None = None
    batch_size: int = 16
    max_megapixels: float = 200.0
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is too small", "Use at least 1")
        if not self.max_megapixels > 0:
            raise UsageError(f"--max-megapixels {self.max_megapixels} is not above 0", "The default is 200")


def open_classifier(run: RunFolder, settings: ClassifySettings, note: Note = unheard) -> Classifier:
    """Load the run once, saying what it is and where it runs; raises as `load_classifier` does."""
    machine = choose_machine(settings.device, settings.workers)
    classifier = load_classifier(run, machine)
    note(f"run: {run.id}, {classifier.task.title}; device: {machine.description}")
    if classifier.spec.is_random:
        note("warning: this run's backbone began random (--weights none)")
    if any(member.calibrated_on is None for member in classifier.members):
        note("warning: this run's probabilities are uncalibrated")
    if settings.abstain and classifier.thresholds is None:
        note("warning: this run cannot abstain: no images were left to fit its thresholds on; every image gets a label")
    return classifier


def classify(classifier: Classifier, paths: Iterable[str], settings: ClassifySettings) -> Iterator[Finding]:
    """Yield one finding for each path, in order; a file that cannot be used gives an error row and the rest go on.

    Memory does not grow with the number of paths. Raises MachineError where the device runs out of memory.
    """

    def look(path: str) -> tuple[str, _Image | DataError]:
        try:
            pixels = decode(path, max_megapixels=settings.max_megapixels).pixels
            view = plain_view(pixels, classifier.preprocessing)
            return path, _Image(path=path, view=view, pixels=pixels if settings.heatmaps else None)
        except DataError as error:
            return path, error

    if settings.heatmaps is not None:  # a backbone that has none is refused before the first row
        side = classifier.preprocessing.input_size_px
        heatmap(classifier, [np.zeros((side, side, 3), dtype=np.uint8)], [0])
    workers = classifier.machine.workers
    seen = in_threads(look, paths, workers, 2 * max(workers, settings.batch_size))
    place = 0
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
                heats = iter(heatmap(classifier, [image.view for image in images], targets))
        findings = iter(found)
        for path, image in batch:
            if isinstance(image, DataError):
                yield _failed(classifier, path, image)
            else:
                finding = next(findings)
                if settings.heatmaps is not None:
                    _draw(settings.heatmaps / heatmap_name(place, path), image, next(heats), finding, classifier)
                yield finding
            place += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An image as the network sees it, and as it is where that is wanted."""

    path: str
    view: Pixels
    pixels: Pixels | None


def _draw(file: Path, image: _Image, heat: Heat, finding: Finding, classifier: Classifier) -> None:
    if image.pixels is None:
        raise ValueError("a heat-map is drawn over the image, which was not kept")
    legend = f"{finding.label} {finding.confidence:.2f}"
    write_bytes(file, png_bytes(overlay(image.pixels, heat, classifier.preprocessing.fit, legend=legend)))


def _findings(classifier: Classifier, images: Sequence[_Image], settings: ClassifySettings) -> list[Finding]:
    """Judge images, in order."""
    seen, thresholds = classifier.look([image.view for image in images]), classifier.thresholds
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
                engine="torch",
                precision="fp32",
                error=None,
                novel_kind=_novel_kind(image) if reason == "novel" else None,
            )
        )
    return findings


def _novel_kind(image: _Image) -> Literal["like-a-smear", "unlike-a-smear"]:
    return "like-a-smear" if smear_colours(image.view).like_a_smear else "unlike-a-smear"


def _failed(classifier: Classifier, path: str, error: DataError) -> Finding:
    return Finding(
        path=path,
        classes=classifier.task.classes,
        label=None,
        decision="error",
        confidence=None,
        scores=None,
        unit="image",
        run=classifier.run,
        engine="torch",
        precision="fp32",
        error=f"{error.problem}. {error.hint}",
    )


Show = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


def write_findings(
    run: RunFolder,
    inputs: Sequence[str],
    settings: ClassifySettings,
    *,
    form: Literal["table", "csv", "jsonl", "json"],
    output: Path | None,
    stdin: Iterable[bytes],
    out: Callable[[str, str], None],
    table: Show,
    track: Track = silent,
    note: Note = unheard,
) -> tuple[int, int]:
    """Classify what `inputs` mean and write each row as it is known; give how many rows are errors, and of how many.

    With `output` rows go to `output.partial`, which takes its name when all are there; after an interruption it stays.
    """
    if output is not None:
        if output.suffix.lower() in IMAGE_SUFFIXES:
            raise UsageError(f"--output {output} has the name of an image", "Name a file such as findings.csv")
        check_replaceable(output)
    if settings.heatmaps is not None:
        check_writable(settings.heatmaps)
    paths = expand_inputs(inputs, IMAGE_SUFFIXES, stdin)
    first = next(paths, None)
    if first is None:
        raise DataError("no inputs were named", "Name files or folders, or pipe paths to: leuk classify -")
    classifier = open_classifier(run, settings, note)
    failed = total = 0

    def counted() -> Iterator[Finding]:
        nonlocal failed, total
        every = (path for part in ((first,), paths) for path in part)
        for finding in track(classify(classifier, every, settings), total=0, label="classified"):
            total += 1
            failed += finding.decision == "error"
            yield finding

    with _destination(output, out) as write:
        if form == "table":
            headers, rows = _table(counted())
            if output is None:
                table(f"run {run.id} (research use only)", headers, rows)
            else:
                for row in (headers, *rows):
                    write("  ".join(row) + "\n")
        else:
            for text in _texts(form, classifier, counted()):
                write(text)
    return failed, total


def some_failed(failed: int, total: int) -> DataError:
    """Make the error that ends a command of which some inputs could not be used."""
    return DataError(f"{failed} of {total} inputs could not be used", "Their rows say why; the other rows are complete")


def _texts(form: str, classifier: Classifier, findings: Iterable[Finding]) -> Iterator[str]:
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
        yield "\n]\n"


_KINDS = {"like-a-smear": "coloured like a stained smear", "unlike-a-smear": "not coloured like a stained smear"}


def _table(findings: Iterable[Finding]) -> tuple[list[str], list[list[str]]]:
    """Give what a person reads first; the scores of all classes are in the other formats."""
    rows = []
    for f in findings:
        sure = "–" if f.confidence is None else f"{f.confidence:.3f}"
        kind = "" if f.novel_kind is None else f" ({_KINDS[f.novel_kind]})"
        decision = f"error: {f.error}" if f.error else f.decision if f.reason is None else f"abstain: {f.reason}{kind}"
        rows.append([f.path, f.label or "–", sure, decision])
    return ["image", "label", "confidence", "decision"], rows


@contextlib.contextmanager
def _destination(output: Path | None, out: Callable[[str, str], None]) -> Iterator[Callable[[str], None]]:
    if output is None:
        yield lambda text: out(text, "")
        return
    partial = output.with_name(f"{output.name}.partial")
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        # A line goes out as it is written: whatever ends the process, the rows so far are there.
        with partial.open("w", buffering=1, encoding="utf-8", errors="surrogateescape", newline="") as file:

            def write(text: str) -> None:
                file.write(text)

            yield write
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
