"""A run becomes a classifier: by the engine and precision asked for, from its folder or from an exported file.

Requirements met here:
- Without a word about it a run folder is opened in torch at fp32, and an exported file by its own engine at fp32.
- `auto` takes the fastest that was verified for the run on a processor like this one, and says which.
- Whatever is asked for and is not there is an error that says what to do; nothing is substituted.
- torch is imported only where torch computes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threadpoolctl import threadpool_limits

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.engines import (
    EngineName,
    EnginePrecision,
    Verified,
    check_verified,
    fastest,
    need,
    records_from,
)
from leukemia_cli.learning.exported import ENGINES_FILE, Exported, default_file, open_exported, read_exported
from leukemia_cli.learning.machine import choose_machine, cpu_capabilities, granted_cores
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, read_json
from leukemia_cli.workspace.runs import RunFolder, is_export

EngineWanted = EngineName | Literal["auto"] | None
PrecisionWanted = EnginePrecision | Literal["auto"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user said about how to compute; None is what was not said."""

    engine: EngineWanted = None
    precision: PrecisionWanted = None
    device: str = "auto"
    workers: int | None = None


def verified_for(run: RunFolder) -> tuple[Verified, ...]:
    """Give what `leuk export` found of engines for the run in a folder, nothing where it never ran."""
    file = run.path / ENGINES_FILE
    if not file.exists():
        return ()
    stored = read_json(file, "record of engines")
    check_schema(stored, file, SCHEMA_VERSION)
    if stored.get("files") != run.facts.get("files"):
        raise WorkspaceError(f"{file} is of another training than run {run.id}", "Export the run again: leuk export")
    return records_from(stored, file)


def open_run(run: RunFolder, wanted: Wanted, note: Note = unheard) -> Classifier:
    """Open a run; raises UsageError for what does not go together or was not verified, MachineError for a missing package.

    Raises WorkspaceError where the run, its export or its record of engines is missing or damaged.
    """
    if is_export(run.path):
        exported = read_exported(run.path)
        if wanted.engine not in (None, "auto", exported.engine):
            raise UsageError(
                f"--engine {wanted.engine} cannot run {run.path}: it was exported for {exported.engine}",
                "Leave --engine out, or name the run that it was made from",
            )
        return _graph(exported, _precision(exported, wanted, note), wanted, note)
    if not run.finished:
        raise WorkspaceError(f"run {run.id} is not finished", f"Finish it with: leuk train --resume {run.id}")
    if wanted.engine == "auto" or (wanted.engine is None and wanted.precision == "auto"):
        return _auto(run, wanted, note)
    engine: EngineName = wanted.engine or "torch"
    if engine == "torch":
        precision = wanted.precision or "fp32"
        if precision == "auto":
            found = fastest([r for r in verified_for(run) if r.engine == "torch"], None)
            precision = _told(found, note)[1]
        return _torch(run, precision, wanted)
    need(engine)
    exported = _export_of(run, engine)
    return _graph(exported, _precision(exported, wanted, note), wanted, note)


def _auto(run: RunFolder, wanted: Wanted, note: Note) -> Classifier:
    precision = None if wanted.precision is None or wanted.precision == "auto" else wanted.precision
    if (why := _accelerator(wanted.device)) is not None:
        if precision not in (None, "fp32"):
            raise UsageError(
                f"--engine auto --precision {precision} knows nothing verified on {why}", "Use --device cpu, or fp32"
            )
        note(f"engine: torch fp32 (auto: {why})")
        return _torch(run, "fp32", wanted)
    records = [record for record in verified_for(run) if wanted.engine == "auto" or record.engine == "torch"]
    engine, chosen = _told(fastest(records, precision), note, precision)
    if engine == "torch":
        return _torch(run, chosen, wanted)
    return _graph(_export_of(run, engine), chosen, wanted, note)


def _told(
    found: Verified | None, note: Note, precision: EnginePrecision | None = None
) -> tuple[EngineName, EnginePrecision]:
    """Say what `auto` takes; where nothing was verified on such a processor that is torch at fp32."""
    if found is not None:
        note(
            f"engine: {found.engine} {found.precision} (auto: the fastest verified on this processor, "
            f"{found.images_per_s:.0f} images/s, {found.labels_equal} of {found.views + found.photographs} labels as torch fp32)"
        )
        return found.engine, found.precision
    if precision not in (None, "fp32"):
        raise UsageError(
            f"nothing at {precision} was verified for this run on this processor",
            "Compare engines with: leuk export RUN --format openvino (or onnx)",
        )
    note("engine: torch fp32 (auto: nothing was verified for this run on this processor; see leuk export)")
    return "torch", "fp32"


def _accelerator(device: str) -> str | None:
    """Say what other than the processor torch would compute on, None where it is the processor; loads no torch."""
    if device == "auto":
        if Path("/dev/nvidiactl").exists():
            return "there is a GPU"
        return "there is a GPU" if sys.platform == "darwin" else None
    return None if device == "cpu" else f"--device {device}"


def _torch(run: RunFolder, precision: EnginePrecision, wanted: Wanted) -> Classifier:
    if precision != "fp32":
        check_verified(verified_for(run), "torch", precision, run.id)
    from leukemia_cli.learning.loading import load_classifier

    return load_classifier(run, choose_machine(wanted.device, wanted.workers), precision)


def _export_of(run: RunFolder, engine: EngineName) -> Exported:
    file = default_file(run.path, engine)
    if not file.is_file():
        raise WorkspaceError(
            f"run {run.id} has not been exported for {engine}",
            f"Export it with: leuk export {run.id} --format {engine}",
        )
    exported = read_exported(file)
    if exported.facts.get("files") != run.facts.get("files"):
        raise WorkspaceError(
            f"{file} is of another training than run {run.id}",
            f"Export it again: leuk export {run.id} --format {engine}",
        )
    return exported


def _precision(exported: Exported, wanted: Wanted, note: Note) -> EnginePrecision:
    if wanted.precision == "auto" or (wanted.engine == "auto" and wanted.precision is None):
        found = fastest(exported.verified, None)
        if found is None:
            raise UsageError(
                f"nothing of {exported.path} was verified on a processor like this one, with the {exported.engine} installed",
                "Name --precision fp32, or export the run on this machine",
            )
        return _told(found, note)[1]
    return wanted.precision or "fp32"


def _graph(exported: Exported, precision: EnginePrecision, wanted: Wanted, note: Note) -> Classifier:
    if wanted.device not in ("auto", "cpu"):
        raise UsageError(
            f"--device {wanted.device} does not go with engine {exported.engine}: it computes on the processor",
            "Use --device cpu, or --engine torch with the run itself",
        )
    need(exported.engine)
    name = str(exported.facts.get("run"))
    record = check_verified(exported.verified, exported.engine, precision, name)
    if record is not None and record.cpu != cpu_capabilities():
        note(f"warning: {exported.engine} {precision} was verified on another kind of processor")
    cores = granted_cores()
    # Heads are small: their sums on one thread do not wait for the engine's, and are the same on any number of cores.
    threadpool_limits(1, user_api="blas")
    return open_exported(exported, precision, cores=cores, workers=wanted.workers or cores)
