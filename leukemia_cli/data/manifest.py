"""The manifest: which images a task has, their classes, groups and parts, as manifest.csv and manifest.json.

A manifest of cells has two tables more: fields.csv, the photographs, and unlabelled.csv, the cells that were found in them
and that nobody said the class of.

Requirements met here:
- Rows come back as they were written, whatever bytes are in a file's name.
- The fingerprint is of the images' bytes, classes, groups, parts and the task: moving the images does not change it,
  and neither does the order of rows.
- A manifest.csv that is not the one its manifest.json was written with is refused: half a change is never trained on.
- Reading loads neither numpy nor Pillow.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from leukemia_cli import __version__
from leukemia_cli.domain import SPLITS, GroupsSource, Manifest, Sample, Task, Unit, fingerprint
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.documents import check_schema, now, read_json, sealed, to_json
from leukemia_cli.workspace.files import fresh_folder
from leukemia_cli.workspace.folders import Workspace

SCHEMA_VERSION = 1
COLUMNS = ("path", "label", "group", "split", "fold", "unit", "source", "sha256", "width", "height")
CELL_COLUMNS = (*COLUMNS, "field", "x", "y")
BUNDLE = "bundle"
"""A further column, last, where near copies tie groups together."""
CROPS = "crops"
"""Folder, beside the tables, of the cells that were cut; their paths are relative to the tables."""
PRINTS = "fingerprints.safetensors"
"""What near copies of the manifest's images are told by, a row for each image (of a manifest of cells: each photograph)."""
_TABLE, _FACTS = "manifest.csv", "manifest.json"
_FIELDS, _UNLABELLED = "fields.csv", "unlabelled.csv"
_AGAIN = "Make it again with: leuk prepare SOURCE --task binary"


def make_manifest(
    samples: Iterable[Sample],
    *,
    task: Task,
    seed: int,
    folds: int | None,
    groups_source: GroupsSource,
    warnings: Sequence[str] = (),
    unit: Unit = "image",
    unlabelled: Iterable[Sample] = (),
    fields: Iterable[Sample] = (),
    crops: Mapping[str, Any] | None = None,
) -> Manifest:
    """Put samples in order of their paths and fingerprint them."""
    ordered, others, photographs = (_ordered(rows) for rows in (samples, unlabelled, fields))
    return Manifest(
        task=task,
        samples=ordered,
        seed=seed,
        folds=folds,
        groups_source=groups_source,
        warnings=tuple(warnings),
        fingerprint=manifest_fingerprint(task, (*ordered, *others, *photographs)),
        unit=unit,
        unlabelled=others,
        fields=photographs,
        crops=crops,
    )


def _ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.path))


def _sha256(sample: Sample) -> str:
    return sample.sha256


def manifest_fingerprint(task: Task, samples: Iterable[Sample]) -> str:
    """Give 16 hex digits that change with any image's bytes, class, group, part or unit, and the task's classes."""
    digest = hashlib.sha256()
    # The order of rows as text, without holding the text of all of them.
    for _, same in itertools.groupby(sorted(samples, key=_sha256), key=_sha256):
        rows = sorted(
            json.dumps([s.sha256, s.label, s.group, s.split, s.fold, s.unit, *([s.bundle] if s.bundle else [])])
            for s in same
        )
        for row in rows:
            digest.update(row.encode() + b"\n")
    return fingerprint({"classes": list(task.classes), "positive": task.positive, "rows": digest.hexdigest()})


def write_manifest(workspace: Workspace, manifest: Manifest, *, protocol: str, command: Sequence[str] = ()) -> None:
    """Replace the workspace's manifest whole; `protocol` says how parts came about, `command` is the command line."""
    with fresh_folder(workspace.manifest_folder) as folder:
        fill_folder(folder, workspace, manifest, protocol=protocol, command=command)


def fill_folder(
    folder: Path, workspace: Workspace, manifest: Manifest, *, protocol: str, command: Sequence[str] = ()
) -> None:
    """Write the tables into a folder that is to become the workspace's manifest."""
    tables = {_TABLE: manifest.samples}
    if manifest.unit == "cell":
        tables |= {_FIELDS: manifest.fields, _UNLABELLED: manifest.unlabelled}
    digests = {}
    for name, samples in tables.items():
        digest = hashlib.sha256()
        with (folder / name).open("wb") as file:
            for line in _lines(samples, manifest.unit, str(workspace.manifest_folder)):
                content = line.encode("utf-8", errors="surrogateescape")
                file.write(content)
                digest.update(content)
        digests[name] = digest.hexdigest()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "task": manifest.task.as_json(),
        "seed": manifest.seed,
        "folds": manifest.folds,
        "protocol": protocol,
        "unit": manifest.unit,
        "images": len(manifest.fields if manifest.unit == "cell" else manifest.samples),
        "cells": len(manifest.samples) if manifest.unit == "cell" else None,
        "unlabelled_cells": len(manifest.unlabelled) if manifest.unit == "cell" else None,
        "crops": manifest.crops,
        "groups": len({sample.group for sample in (*manifest.samples, *manifest.fields)}),
        "groups_source": manifest.groups_source,
        "warnings": list(manifest.warnings),
        "fingerprint": manifest.fingerprint,
        "manifest_sha256": digests[_TABLE],
        "tables": digests,
        "created": now(),
        "leuk": __version__,
        "python": platform.python_version(),
        "command": list(command),
    }
    (folder / _FACTS).write_bytes(to_json(sealed(facts)).encode())


def read_manifest(workspace: Workspace) -> Manifest:
    """Read the workspace's manifest; raises WorkspaceError where there is none, or it is damaged, edited or newer."""
    file = workspace.manifest_folder / _FACTS
    if not file.exists():
        raise WorkspaceError(
            f"there is no manifest in workspace {workspace.root}",
            f"Make one with: leuk prepare SOURCE --task binary --workspace {workspace.root}",
        )
    facts = read_json(file, "manifest")
    check_schema(facts, file, SCHEMA_VERSION)
    digests = facts.get("tables", {_TABLE: facts.get("manifest_sha256")})
    try:
        strange = set(digests) - {_TABLE, _FIELDS, _UNLABELLED}
        if strange:
            raise ValueError(f"unknown table {min(strange)!r}")
        texts = {name: _text(workspace.manifest_folder / name, digest) for name, digest in digests.items()}
        return _manifest(facts, texts, str(workspace.manifest_folder))
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise WorkspaceError(f"{file} is damaged: {error!r}", _AGAIN) from error


def _text(table: Path, digest: object) -> str:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"cannot read {table}: {error.strerror}", _AGAIN) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise WorkspaceError(
            f"{table} is not the file that leuk prepare wrote", f"It was changed by hand or is damaged. {_AGAIN}"
        )
    return content.decode("utf-8", errors="surrogateescape")


def count_parts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count the images of each class, in the task's order, in each split (train first) or fold (`fold-0` first)."""
    counts: dict[str, dict[str, int]] = {}
    names = [name for name in SPLITS if any(s.split == name for s in manifest.samples)]
    if manifest.folds is not None:
        names = [f"fold-{fold}" for fold in range(manifest.folds)]
    for name in names:
        counts[name] = dict.fromkeys(manifest.task.classes, 0)
    for sample in manifest.samples:
        counts[sample.split or f"fold-{sample.fold}"][sample.label] += 1
    return counts


def _lines(samples: Sequence[Sample], unit: Unit, folder: str) -> Iterator[str]:
    """Give the lines of a table, the names of its columns first."""
    bundled = any(sample.bundle for sample in samples)
    yield ",".join([*(COLUMNS if unit == "image" else CELL_COLUMNS), *([BUNDLE] if bundled else [])]) + "\n"
    inside = os.path.join(folder, "")
    for s in samples:
        fold = "" if s.fold is None else str(s.fold)
        cells = [s.path, s.label, s.group, s.split, fold, s.unit, s.source, s.sha256, str(s.width), str(s.height)]
        if unit == "cell":
            cells[0] = s.path.removeprefix(inside)  # crops move with their workspace
            cells += [s.field, "" if s.x is None else f"{s.x:.1f}", "" if s.y is None else f"{s.y:.1f}"]
        if bundled:
            cells.append(s.bundle)
        yield ",".join(map(_cell, cells)) + "\n"


def _cell(text: str) -> str:
    """Quote a cell that needs it; csv.writer before Python 3.13 leaves a lone carriage return as it is."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _samples(text: str, unit: Unit, folder: str) -> tuple[Sample, ...]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = COLUMNS if unit == "image" else CELL_COLUMNS
    header = tuple(next(rows, ()))
    if header not in (columns, (*columns, BUNDLE)):
        raise ValueError(f"the table does not have the columns {','.join(columns)}")
    samples = []
    for path, label, group, split, fold, of, source, sha256, width, height, *more in rows:
        bundle = more.pop() if header[-1] == BUNDLE else ""
        field, x, y = more or ("", "", "")
        if unit == "cell" and not os.path.isabs(path) and ".." in path.split(os.sep):
            raise ValueError(f"the crop {path!r} does not lie in the manifest's folder")
        samples.append(
            Sample(
                path=os.path.join(folder, path) if unit == "cell" else path,
                label=label,
                group=group,
                split=split,
                fold=int(fold) if fold else None,
                unit=of,
                source=source,
                sha256=sha256,
                width=int(width),
                height=int(height),
                field=field,
                x=float(x) if x else None,
                y=float(y) if y else None,
                bundle=bundle,
            )
        )
    return tuple(samples)


def _manifest(facts: Mapping[str, Any], texts: Mapping[str, str], folder: str) -> Manifest:
    if facts["groups_source"] not in get_args(GroupsSource):
        raise ValueError(f"unknown groups_source {facts['groups_source']!r}")
    unit = facts["unit"]
    if unit not in get_args(Unit):
        raise ValueError(f"unknown unit {unit!r}")
    nothing = ",".join(CELL_COLUMNS) + "\n"
    return Manifest(
        task=Task.from_json(facts["task"]),
        samples=_samples(texts[_TABLE], unit, folder),
        seed=int(facts["seed"]),
        folds=None if facts["folds"] is None else int(facts["folds"]),
        groups_source=facts["groups_source"],
        warnings=tuple(facts["warnings"]),
        fingerprint=str(facts["fingerprint"]),
        unit=unit,
        unlabelled=_samples(texts.get(_UNLABELLED, nothing), "cell", folder),
        fields=_samples(texts.get(_FIELDS, nothing), "cell", folder),
        crops=facts.get("crops"),
    )
