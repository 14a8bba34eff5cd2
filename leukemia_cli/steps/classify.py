"""`leuk classify`: images become findings, one row for each input in order, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.data.inputs import expand_inputs
from leukemia_cli.domain import Note, Track, silent, unheard
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.learning.batches import Pixels, batched, in_threads, plain_view
from leukemia_cli.learning.classifier import Classifier, load_classifier
from leukemia_cli.learning.machine import choose_machine, memory_errors
from leukemia_cli.reporting.findings import Finding, columns, csv_line, json_line
from leukemia_cli.vision.decode import decode
from leukemia_cli.workspace import RunFolder, check_replaceable, disk_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifySettings:
    """How images are read and gathered; none of it changes a score."""

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
    return classifier


def classify(classifier: Classifier, paths: Iterable[str], settings: ClassifySettings) -> Iterator[Finding]:
    """Yield one finding for each path, in order; a file that cannot be used gives an error row and the rest go on.

    Memory does not grow with the number of paths. Raises MachineError where the device runs out of memory.
    """

    def look(path: str) -> tuple[str, Pixels | DataError]:
        try:
            pixels = decode(path, max_megapixels=settings.max_megapixels).pixels
            return path, plain_view(pixels, classifier.preprocessing)
        except DataError as error:
            return path, error

    workers = classifier.machine.workers
    seen = in_threads(look, paths, workers, 2 * max(workers, settings.batch_size))
    for batch in batched(seen, settings.batch_size):
        views = [view for _, view in batch if not isinstance(view, DataError)]
        scored: Iterator[Sequence[float]]
        with memory_errors(settings.batch_size):
            scored = iter(classifier.probabilities(views).tolist() if views else ())
        for path, view in batch:
            if isinstance(view, DataError):
                yield _finding(classifier, path, None, f"{view.problem}. {view.hint}")
            else:
                yield _finding(classifier, path, tuple(next(scored)), None)


def _finding(classifier: Classifier, path: str, scores: tuple[float, ...] | None, error: str | None) -> Finding:
    best = None if scores is None else max(range(len(scores)), key=scores.__getitem__)
    return Finding(
        path=path,
        classes=classifier.task.classes,
        label=None if best is None else classifier.task.classes[best],
        decision="error" if scores is None else "label",
        confidence=None if scores is None or best is None else scores[best],
        scores=scores,
        unit="image",
        run=classifier.run,
        engine="torch",
        precision="fp32",
        error=error,
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
            headers, rows = _table(classifier, counted())
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


def _table(classifier: Classifier, findings: Iterable[Finding]) -> tuple[list[str], list[list[str]]]:
    headers = ["image", "label", "confidence", *classifier.task.classes, "error"]
    rows = []
    for f in findings:
        scores = ["–"] * len(f.classes) if f.scores is None else [f"{score:.3f}" for score in f.scores]
        sure = "–" if f.confidence is None else f"{f.confidence:.3f}"
        rows.append([f.path, f.label or "error", sure, *scores, f.error or ""])
    return headers, rows


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
