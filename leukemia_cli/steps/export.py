"""`leuk export`: a run becomes one file for a faster engine, compared with torch on the run's own images before it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import Manifest, Note, Track, silent, unheard
from leukemia_cli.errors import MachineError, UsageError, WorkspaceError
from leukemia_cli.learning.classifier import DOUBT_FILE, HEAD_FILE, Classifier
from leukemia_cli.learning.engines import EnginePrecision, TorchEngine, Verified, need
from leukemia_cli.learning.exported import (
    ENGINES_FILE,
    Exported,
    default_file,
    open_exported,
    read_exported,
    write_exported,
)
from leukemia_cli.learning.exporting import graph_parts, need_exporters
from leukemia_cli.learning.graphs import offered
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.opening import verified_for
from leukemia_cli.learning.runs import versions
from leukemia_cli.learning.verifying import Judged, Shown, held_against, judge, shown
from leukemia_cli.workspace.documents import SCHEMA_VERSION, now, sealed, write_json
from leukemia_cli.workspace.files import check_replaceable, check_writable
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import EXPORT_SUFFIX, RunFolder, is_export

Format = Literal["onnx", "openvino"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """For which engine a run is exported, and how it is compared."""

    format: Format
    output: Path | None = None
    """None puts it into the run's folder, where --engine finds it."""
    batch_size: int = 16
    max_megapixels: float = 200.0
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu"):
            raise UsageError(
                f"--device {self.device} does not go with export: engines are compared on the processor", "Leave it out"
            )
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is too small", "Use at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportDone:
    """Where the exported file lies, and how each engine and precision compared with torch at fp32."""

    run: str
    format: Format
    file: Path
    bytes: int
    sha256: str
    verified: tuple[Verified, ...]

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys of `export --json`."""
        return {
            "run": self.run,
            "format": self.format,
            "file": str(self.file),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "verified": [record.as_json() for record in self.verified],
        }


def export(run: RunFolder, settings: ExportSettings, *, track: Track = silent, note: Note = unheard) -> ExportDone:
    """Export a run, compare every precision of the engine with torch at fp32, and write the file and what was found.

    Raises MachineError where a package is missing, the backbone cannot be exported, or no precision verifies; WorkspaceError
    where the run or the manifest it was made from is not there; DataError where its images are not.
    """
    need(settings.format)
    need_exporters(settings.format)
    if is_export(run.path):
        raise UsageError(f"{run.path} is exported already", "Name the run that it was made from")
    file = _destination(run, settings)
    manifest = _manifest_of(run)
    machine = choose_machine("cpu", settings.workers)
    classifier = load_classifier(run, machine)
    views = shown(classifier, manifest, max_megapixels=settings.max_megapixels, workers=machine.workers, track=track)
    note(f"comparing on {len(views.looks)} views of {views.images} images; first torch fp32")
    reference = judge(classifier, views, settings.batch_size)
    compared = [held_against(reference, reference, classifier, views)]

    def compare(other: Classifier) -> None:
        compared.append(_compared(other, reference, views, settings.batch_size, note))

    compare(replace(classifier, engine=TorchEngine(machine=machine, precision="bf16")))
    note(f"exporting {classifier.spec.name} for {settings.format}")
    graphs, of_member = graph_parts(classifier, settings.format)
    stored = [name for name in (HEAD_FILE, DOUBT_FILE) if name in run.facts["files"]]
    parts = {**graphs, **{name: (run.path / name).read_bytes() for name in stored}}
    made = Exported(path=file, engine=settings.format, facts=run.facts, of_member=of_member, verified=(), parts=parts)
    for precision in offered(settings.format):
        compare(open_exported(made, precision, cores=machine.workers, workers=machine.workers))
    own = [record for record in compared if record.engine == settings.format]
    _record(run, compared)
    if all(record.refused is not None for record in own):
        raise MachineError(
            f"{settings.format} does not verify for run {run.id}: {'; '.join(str(record.refused) for record in own)}",
            "Use --engine torch for this run, or export it in the other format",
        )
    digest = write_exported(
        file,
        engine=settings.format,
        facts=run.facts,
        of_member=of_member,
        verified=own,
        versions=versions(),
        parts=parts,
    )
    read_exported(file)  # what was written is what will be read
    return ExportDone(
        run=run.id,
        format=settings.format,
        file=file,
        bytes=file.stat().st_size,
        sha256=digest,
        verified=tuple(compared),
    )


def _compared(other: Classifier, reference: Judged, views: Shown, batch_size: int, note: Note) -> Verified:
    record = held_against(reference, judge(other, views, batch_size), other, views)
    if record.refused is not None:
        note(f"warning: {record.engine} {record.precision} is refused: {record.refused}")
    return record


def _destination(run: RunFolder, settings: ExportSettings) -> Path:
    file = settings.output or default_file(run.path, settings.format)
    if file.suffix != EXPORT_SUFFIX:
        raise UsageError(
            f"--output {file} has another ending than {EXPORT_SUFFIX}", f"Name a file such as run{EXPORT_SUFFIX}"
        )
    check_replaceable(file)
    check_writable(file.parent)
    return file


def _manifest_of(run: RunFolder) -> Manifest:
    """Read the manifest of the run's own workspace; raises WorkspaceError where it is gone or is another."""
    if not run.finished:
        raise WorkspaceError(f"run {run.id} is not finished", f"Finish it with: leuk train --resume {run.id}")
    root = run.path.resolve().parents[1]
    try:
        manifest = read_manifest(open_workspace(root, create=False))
    except WorkspaceError as error:
        raise WorkspaceError(
            f"run {run.id} cannot be compared: {error.problem}",
            "Export it in the workspace it was trained in: engines are compared on the run's own images",
        ) from error
    if manifest.fingerprint != run.facts.get("manifest"):
        raise WorkspaceError(
            f"run {run.id} was made from another manifest than the one in {root}",
            "Prepare its data again as they were: engines are compared on the run's own images",
        )
    return manifest


def _record(run: RunFolder, compared: Sequence[Verified]) -> None:
    """Write what was found into the run's folder, in place of what was found before of the same on such a processor."""
    try:
        before = verified_for(run)
    except WorkspaceError:  # of another training, or damaged: what is written now is whole
        before = ()
    fresh = {_key(record) for record in compared}
    kept = [record for record in before if _key(record) not in fresh]
    about: Mapping[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": run.id,
        "files": run.facts["files"],
        "updated": now(),
        "verified": [record.as_json() for record in (*kept, *compared)],
    }
    write_json(run.path / ENGINES_FILE, sealed(about))


def _key(record: Verified) -> tuple[str, EnginePrecision, str]:
    return record.engine, record.precision, record.cpu
