"""An output of findings: resumable until it is whole, and beside it a sidecar that says what it is.

Requirements met here:
- `OUTPUT` is whole or not there. Until then rows lie in `OUTPUT.partial`, and `OUTPUT.partial.leuk.json` says what they
  were made with, before there is one.
- After any end of the process the rows that are there are kept, and none is made twice or left out: rows that were made
  with anything else, or of other inputs, are refused and not mixed.
- The end is three steps: the sidecar-to-be gets counts and digest, the rows get their name, the sidecar gets its own. Between
  any two of them both a resumed command and a merge know what is there.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from leukemia_cli.data.shards import Shard
from leukemia_cli.domain import Note, counted, unheard
from leukemia_cli.errors import DataError, LeukError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Row, kinds
from leukemia_cli.reporting.row_stores import (
    ROW_FORMS,
    Kinds,
    RowForm,
    Store,
    is_begun,
    remove_unfinished,
    store_at,
    utf8,
)
from leukemia_cli.workspace import UNFINISHED, check_schema, disk_errors, put_in_place, read_json, sealed, write_json

OUTPUT_SCHEMA = 1
SIDECAR = ".leuk.json"
PARTIAL = ".partial"


def sidecar_of(output: Path) -> Path:
    """Give where it is said what `output` is."""
    return output.with_name(output.name + SIDECAR)


def partial_of(output: Path) -> Path:
    """Give where the rows of `output` lie until all are there."""
    return output.with_name(output.name + PARTIAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All but the inputs that rows depend on: of equal inputs, outputs of equal terms have equal rows."""

    leuk: str
    form: RowForm
    run: str
    run_fingerprint: str
    classes: tuple[str, ...]
    engine: str
    precision: str
    abstain: bool
    input_unit: str | None
    max_megapixels: float
    shard: Shard | None

    @property
    def kinds(self) -> Kinds:
        """Give the columns of the rows, in order, and what they hold."""
        return kinds(self.classes)

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        return {
            "schema_version": OUTPUT_SCHEMA,
            "leuk": self.leuk,
            "format": self.form,
            "run": self.run,
            "run_fingerprint": self.run_fingerprint,
            "engine": self.engine,
            "precision": self.precision,
            "classes": list(self.classes),
            "abstain": self.abstain,
            "input_unit": self.input_unit,
            "max_megapixels": self.max_megapixels,
            "shard": None if self.shard is None else [self.shard.number, self.shard.of],
            "columns": list(self.kinds),
        }

    def facts(self) -> dict[str, str]:
        """Give what a Parquet file says of itself, as text."""
        return {
            "leuk": self.leuk,
            "run": self.run,
            "run_fingerprint": self.run_fingerprint,
            "engine": self.engine,
            "precision": self.precision,
            "classes": json.dumps(self.classes),
            "abstain": json.dumps(self.abstain),
            "shard": "" if self.shard is None else str(self.shard),
        }

    def differences(self, other: Terms, but: Sequence[str] = ()) -> list[str]:
        """Say in what `other` differs, but for the fields named by `but`."""
        return [
            f"{f.name.replace('_', ' ')}: {_told(getattr(self, f.name))} there, {_told(getattr(other, f.name))} here"
            for f in fields(self)
            if f.name not in but and getattr(self, f.name) != getattr(other, f.name)
        ]


def _told(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A whole output: `inputs` counts all inputs of all shards, and `inputs_sha256` is of their paths in order."""

    file: Path
    terms: Terms
    rows: int
    errors: int
    inputs: int
    inputs_sha256: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys of a sidecar."""
        return {
            **self.terms.as_json(),
            "rows": self.rows,
            "errors": self.errors,
            "inputs": self.inputs,
            "inputs_sha256": self.inputs_sha256,
            "sha256": self.sha256,
        }


# -------------------------------------------------------------------------------------------------------- reading


def find_output(file: Path) -> Output | None:
    """Give what a whole output is, after comparing its digest; None where its place or its sidecar is empty.

    Raises WorkspaceError where the file is not what its sidecar says, or the sidecar cannot be read.
    """
    if not file.is_file():
        return None
    told = [known for place in _sidecars(file) if isinstance(known := _read(place, file), Output)]
    if not told:
        return None
    digest = _digest(file)
    for known in told:
        if known.sha256 == digest:
            return known
    raise WorkspaceError(
        f"{file} has changed since it was written, or is damaged: its SHA-256 is not that of {sidecar_of(file)}",
        "Restore it from a copy, or remove it and make it again",
    )


def _sidecars(file: Path) -> tuple[Path, Path]:
    """Give the two places that may tell of a file; the first has the newer facts, of an end that was interrupted."""
    return sidecar_of(partial_of(file)), sidecar_of(file)


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WorkspaceError(f"cannot read {file}: {error.strerror}", "Check the disk and the permissions") from error


def read_sidecar(place: Path) -> Output | Terms | None:
    """Read a sidecar: what is whole, or the terms of what is not; None where there is none. Raises WorkspaceError."""
    file = place.with_name(place.name.removesuffix(SIDECAR))
    return _read(place, file.with_name(file.name.removesuffix(PARTIAL)))


def _read(place: Path, file: Path) -> Output | Terms | None:
    if not place.exists():
        return None
    stored = read_json(place, "sidecar")
    check_schema(stored, place, OUTPUT_SCHEMA)
    try:
        terms = _terms(stored)
        if list(terms.kinds) != stored["columns"]:
            raise ValueError(f"its columns are not those of leuk {terms.leuk}")
        if "sha256" not in stored:
            return terms
        counts = [int(stored[name]) for name in ("rows", "errors", "inputs")]
        return Output(
            file=file,
            terms=terms,
            rows=counts[0],
            errors=counts[1],
            inputs=counts[2],
            inputs_sha256=str(stored["inputs_sha256"]),
            sha256=str(stored["sha256"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise WorkspaceError(f"sidecar {place} is damaged: {error}", "Remove the output and make it again") from error


def _terms(stored: Mapping[str, Any]) -> Terms:
    if stored["format"] not in ROW_FORMS:
        raise ValueError(f"format {stored['format']!r} is not known")
    unit = stored["input_unit"]
    shard = stored["shard"]
    return Terms(
        leuk=str(stored["leuk"]),
        form=stored["format"],
        run=str(stored["run"]),
        run_fingerprint=str(stored["run_fingerprint"]),
        classes=tuple(map(str, stored["classes"])),
        engine=str(stored["engine"]),
        precision=str(stored["precision"]),
        abstain=bool(stored["abstain"]),
        input_unit=None if unit is None else str(unit),
        max_megapixels=float(stored["max_megapixels"]),
        shard=None if shard is None else Shard(number=int(shard[0]), of=int(shard[1])),
    )


# -------------------------------------------------------------------------------------------------------- writing


class Rows:
    """The place of an output's rows: `rows` and `errors` count those that are there, `resumed` those of an earlier process."""

    def __init__(self, output: Path, terms: Terms, store: Store) -> None:
        self.output = output
        self.terms = terms
        self.store = store
        self.rows = self.errors = self.resumed = 0
        self.sealed = False

    def add(self, row: Row) -> None:
        """Take the next row."""
        self.store.add(row)
        self.count(row)

    def count(self, row: Row) -> None:
        """Count a row that is there."""
        self.rows += 1
        self.errors += row["decision"] == "error"

    def seal(self, *, inputs: int, inputs_sha256: str) -> Output:
        """Say that all rows are there, and give the output its name and its sidecar."""
        whole = self.store.finish()
        known = Output(
            file=self.output,
            terms=self.terms,
            rows=self.rows,
            errors=self.errors,
            inputs=inputs,
            inputs_sha256=inputs_sha256,
            sha256=_digest(whole),
        )
        told, sidecar = _sidecars(self.output)
        write_json(told, sealed(known.as_json()))
        put_in_place(whole, self.output)
        put_in_place(told, sidecar)
        self.store.discard()
        self.sealed = True
        return known


@contextlib.contextmanager
def open_rows(
    output: Path,
    terms: Terms,
    *,
    paths: Iterator[str] | None = None,
    group: int = 1,
    resume: bool = False,
    note: Note = unheard,
) -> Iterator[Rows]:
    """Give the place of an output's rows: empty, or with `resume` holding what an interrupted command left there.

    Of rows that are there as many of `paths` are taken as there are rows, which must be theirs; rows that a network saw
    together are kept together, in groups of `group`. What was added stays when the block fails.
    Raises DataError where a row is of another path, WorkspaceError for rows made with other terms, or damaged.
    """
    partial, told = partial_of(output), _sidecars(output)[0]
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        begun = is_begun(partial)
    known = _read(told, output) if begun and resume else None
    before = known.terms if isinstance(known, Output) else known
    if begun and resume:
        _check_same(partial, before, terms)
    elif begun:
        note(f"warning: {partial} of an interrupted command was there and is begun anew; --resume goes on from it")
    if partial.is_dir() != (terms.form == "parquet"):
        remove_unfinished(partial)
    store = store_at(partial, terms.form, terms.kinds, terms.facts(), group=group)
    rows = Rows(output, terms, store)
    for leftover in output.parent.glob(f"{UNFINISHED}????????-{glob.escape(told.name)}"):
        leftover.unlink(missing_ok=True)  # nobody else writes here: the store is locked
    try:
        if begun and resume:
            inputs = iter(()) if paths is None else paths
            store.recover(lambda found: _accept(rows, found, inputs))
            rows.resumed = rows.rows
            note(f"{counted(rows.rows, 'row')} of {partial} are kept")
        else:
            store.clear()  # before the terms are written: rows never lie beside terms that are not theirs
        if not (resume and begun and isinstance(known, Terms)):
            write_json(told, sealed(terms.as_json()))
        yield rows
    except BaseException:
        with contextlib.suppress(LeukError, OSError):  # what ended the block is what is to be told
            store.keep()
        raise
    if not rows.sealed:
        store.keep()


def _check_same(partial: Path, before: Terms | None, terms: Terms) -> None:
    if before is None:
        raise WorkspaceError(
            f"{partial} has no {sidecar_of(partial).name} beside it: what its rows were made with is not known",
            "Run it again without --resume to begin anew",
        )
    differences = before.differences(terms)
    if differences:
        raise WorkspaceError(
            f"{partial} was begun with other settings ({'; '.join(differences)})",
            "Resume it with those, or run it again without --resume to begin anew",
        )


def _accept(rows: Rows, found: Sequence[Row], paths: Iterator[str]) -> None:
    """Count kept rows, after comparing them with the inputs at their places."""
    terms = rows.terms
    for row in found:
        path = next(paths, None)
        if path is not None and terms.form == "parquet":
            path = utf8(path)
        if path != row["path"]:
            now = "there is no such input" if path is None else f"the input there is {path}"
            raise DataError(
                f"row {rows.rows + 1} of {partial_of(rows.output)} is of {row['path']}, and {now}: the inputs have changed",
                "Name the inputs that it was begun with, or run it again without --resume to begin anew",
            )
        if (row["run"], row["engine"], row["precision"]) != (terms.run, terms.engine, terms.precision):
            raise WorkspaceError(
                f"row {rows.rows + 1} of {partial_of(rows.output)} is of another run, engine or precision",
                "Run it again without --resume to begin anew",
            )
        rows.count(row)


def finished(output: Path, terms: Terms) -> Output | None:
    """Give the output where it is whole already and nothing is left to resume; clear away what its end left undone.

    Raises WorkspaceError where it was made with other terms, or cannot be told to be whole.
    """
    partial, (told, sidecar) = partial_of(output), _sidecars(output)
    if not output.exists():
        return None
    known = _read(told, output)
    if isinstance(known, Terms) or (known is not None and is_begun(partial) and known.sha256 != _digest(output)):
        return None  # `output` is an older one, and rows that are to take its place are on the way
    whole = find_output(output)
    if whole is None:
        raise WorkspaceError(
            f"{output} is there without {sidecar.name}: whether it is whole, and of what, is not known",
            "Remove it, name another --output, or run it again without --resume",
        )
    differences = whole.terms.differences(terms)
    if differences:
        raise WorkspaceError(
            f"{output} is whole, and was made with other settings ({'; '.join(differences)})",
            "Remove it, name another --output, or run it again without --resume",
        )
    if told.exists():
        put_in_place(told, sidecar)
    if partial.exists():
        remove_unfinished(partial)
    return whole
