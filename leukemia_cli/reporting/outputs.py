"""An output of findings: resumable until it is whole, and beside it a sidecar that says what it is.

Requirements met here:
- `OUTPUT` is whole or not there. Until then rows lie in `OUTPUT.partial`, and `OUTPUT.partial.leuk.json` says what they
  were made with, before there is one. Of a folder of parts both are in `OUTPUT.partial/`, and it becomes `OUTPUT/` in one step.
- After any end of the process the rows that are there are kept, and none is made twice or left out: rows that were made
  with anything else, or of other inputs, are refused and not mixed.
- The end is three steps: the sidecar-to-be gets counts and digest, the rows get their name, the sidecar gets its own. Between
  any two of them both a resumed command and a merge know what is there. A folder of parts needs no third.
- Nothing is looked at or changed by a command while another one writes the same output.
- A folder is never put in place of another one that holds anything.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.data.shards import Shard
from leukemia_cli.domain import Note, counted, unheard
from leukemia_cli.errors import DataError, LeukError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Row, kinds
from leukemia_cli.reporting.row_stores import (
    BEGUN,
    MARK,
    ROW_FORMS,
    Kinds,
    RowForm,
    Shape,
    Store,
    is_begun,
    locked,
    parquet_rows,
    part_name,
    parts_in,
    remove_unfinished,
    store_at,
    utf8,
)
from leukemia_cli.workspace.documents import check_schema, read_json, sealed, write_json
from leukemia_cli.workspace.files import UNFINISHED, check_replaceable, disk_errors, put_in_place

OUTPUT_SCHEMA = 1
SIDECAR = ".leuk.json"
PARTIAL = ".partial"
ROWS_PER_PART = 100_000


def sidecar_of(output: Path) -> Path:
    """Give where it is said what the file `output` is."""
    return output.with_name(output.name + SIDECAR)


def partial_of(output: Path) -> Path:
    """Give where the rows of `output` lie until all are there."""
    return output.with_name(output.name + PARTIAL)


def read_output(text: str, rows_per_part: int | None) -> tuple[Path, int | None]:
    """Read --output: with a `/` at its end, or with `rows_per_part`, it is a folder of parts of so many rows; else a file."""
    return Path(text), ROWS_PER_PART if rows_per_part is None and text.endswith("/") else rows_per_part


def check_output(output: Path, rows_per_part: int | None) -> None:
    """Raise UsageError for what is no name of an output, or where something of another kind has that name."""
    if output.name in ("", ".."):
        raise UsageError(f"--output {output} has no name of its own", "Name a file or a folder, such as findings.csv")
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"--output {output} has the name of an image", "Name a file such as findings.csv")
    if rows_per_part is None and output.is_dir():
        raise UsageError(
            f"cannot write {output}: it is a folder", f"Name a file, or say {output}/ for a folder of parts"
        )
    if rows_per_part is None:
        check_replaceable(output)
    elif output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"--output {output}/ is no folder, and parts need one", "Name another, or one file without /")


def is_parted(folder: Path) -> bool:
    """Tell whether `folder` is one of parts, whole or not."""
    return (folder / MARK).exists() or (folder / BEGUN).exists()


def _check_room(output: Path) -> None:
    """Raise UsageError where there is a folder that holds anything: one that is whole is not written over."""
    if is_parted(output):
        raise UsageError(
            f"{output} is there, and is not written over",
            "With --resume a whole one is left as it is; else remove it, or name another --output",
        )
    with disk_errors(output):
        if output.is_dir() and any(output.iterdir()):
            raise UsageError(
                f"{output} holds files that leuk did not write", "Name a new or empty folder with --output"
            )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where it is said what an output is: what it was begun with, what its rows are before they have its name, and in the end."""

    begun: Path
    ending: Path
    whole: Path


def _places(output: Path, *, parted: bool) -> _Places:
    partial = partial_of(output)
    if parted:
        return _Places(partial / BEGUN, partial / MARK, output / MARK)
    return _Places(sidecar_of(partial), sidecar_of(partial), sidecar_of(output))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a folder of parts."""

    name: str
    rows: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        return {"name": self.name, "rows": self.rows, "sha256": self.sha256}


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
    rows_per_part: int | None = None
    """Of a folder of parts; None is one file."""

    @property
    def shape(self) -> Shape:
        """Give how the rows lie on disk."""
        return Shape(form=self.form, kinds=self.kinds, facts=self.facts(), rows_per_part=self.rows_per_part)

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
            "rows_per_part": self.rows_per_part,
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
    """A whole output: `inputs` counts all inputs of all shards, and `inputs_sha256` is of their paths in order.

    `sha256` is of the file; of a folder of parts, of what `sha256sum part-*` prints in it.
    """

    file: Path
    terms: Terms
    rows: int
    errors: int
    inputs: int
    inputs_sha256: str
    sha256: str
    parts: tuple[Part, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Give the files that the rows lie in, in their order."""
        return tuple(self.file / part.name for part in self.parts) or (self.file,)

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys of a sidecar."""
        return {
            **self.terms.as_json(),
            "rows": self.rows,
            "errors": self.errors,
            "inputs": self.inputs,
            "inputs_sha256": self.inputs_sha256,
            "sha256": self.sha256,
            **({"parts": [part.as_json() for part in self.parts]} if self.parts else {}),
        }


def _digest_of(parts: Sequence[Part]) -> str:
    listed = "".join(f"{part.sha256}  {part.name}\n" for part in parts)
    return hashlib.sha256(listed.encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------- reading


def find_output(file: Path) -> Output | None:
    """Give what a whole output is, after comparing its digests; None where its place or its sidecar is empty.

    Raises WorkspaceError where the file, or a part in the folder, is not what its sidecar says, or that cannot be read.
    """
    if file.is_dir():
        known = _read(file / MARK, file)
        if not isinstance(known, Output):
            return None
        _check_parts(file, known)
        return known
    if not file.is_file():
        return None
    places = _places(file, parted=False)
    # The first has the newer facts, of an end that was interrupted.
    told = [known for at in (places.ending, places.whole) if isinstance(known := _read(at, file), Output)]
    if not told:
        return None
    digest = _digest(file)
    for known in told:
        if known.sha256 == digest:
            return known
    raise WorkspaceError(
        f"{file} has changed since it was written, or is damaged: its SHA-256 is not that of {places.whole}",
        "Restore it from a copy, or remove it and make it again",
    )


def _check_parts(folder: Path, known: Output) -> None:
    """Raise WorkspaceError for a part that is missing, changed or more than there were."""
    hint = f"Restore {folder} from a copy, or remove it and make it again"
    there = _tables_in(folder)
    for part in known.parts:
        if part.name not in there:
            raise WorkspaceError(f"{folder} has no {part.name}, which {MARK} names", hint)
        if _digest(folder / part.name) != part.sha256:
            raise WorkspaceError(
                f"{folder / part.name} has changed since it was written, or is damaged: its SHA-256 is not that of {MARK}",
                hint,
            )
    more = sorted(there - {part.name for part in known.parts})
    if more:
        raise WorkspaceError(
            f"{folder} holds {more[0]}, which {MARK} does not name, and who reads the folder would read it too",
            f"Move {folder / more[0]} away",
        )


def _tables_in(folder: Path) -> set[str]:
    """Name all in a folder that a reader of tables would look at."""
    with disk_errors(folder):
        return {file.name for file in folder.iterdir() if not file.name.startswith(("_", "."))}


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WorkspaceError(f"cannot read {file}: {error.strerror}", "Check the disk and the permissions") from error


def read_sidecar(place: Path) -> Output | Terms | None:
    """Read a sidecar: what is whole, or the terms of what is not; None where there is none. Raises WorkspaceError."""
    named = place.parent if place.name in (MARK, BEGUN) else place.with_name(place.name.removesuffix(SIDECAR))
    return _read(place, named.with_name(named.name.removesuffix(PARTIAL)))


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
        known = Output(
            file=file,
            terms=terms,
            rows=counts[0],
            errors=counts[1],
            inputs=counts[2],
            inputs_sha256=str(stored["inputs_sha256"]),
            sha256=str(stored["sha256"]),
            parts=tuple(
                Part(name=str(part["name"]), rows=int(part["rows"]), sha256=str(part["sha256"]))
                for part in stored.get("parts", ())
            ),
        )
        if terms.rows_per_part is not None:
            _check_list(known)
        return known
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise WorkspaceError(f"sidecar {place} is damaged: {error}", "Remove the output and make it again") from error


def _check_list(known: Output) -> None:
    """Raise ValueError for a list of parts that was never written: names are not to lead out of the folder."""
    if [part.name for part in known.parts] != [part_name(i) for i in range(max(1, len(known.parts)))]:
        raise ValueError("it names other files than parts")
    if sum(part.rows for part in known.parts) != known.rows:
        raise ValueError(f"its parts do not have {known.rows} rows")
    if _digest_of(known.parts) != known.sha256:
        raise ValueError("its digest is not that of its parts")


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
        rows_per_part=None if (rows := stored.get("rows_per_part")) is None else int(rows),
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
        parted = self.terms.rows_per_part is not None
        parts = _parts_of(whole) if parted else ()
        known = Output(
            file=self.output,
            terms=self.terms,
            rows=self.rows,
            errors=self.errors,
            inputs=inputs,
            inputs_sha256=inputs_sha256,
            sha256=_digest_of(parts) if parted else _digest(whole),
            parts=parts,
        )
        if parted:
            _check_list(known)
        places = _places(self.output, parted=parted)
        write_json(places.ending, sealed(known.as_json()))
        if parted:
            _place_folder(self.output)
        else:
            put_in_place(whole, self.output)
            put_in_place(places.ending, places.whole)
        self.store.discard()
        self.sealed = True
        return known


def _parts_of(folder: Path) -> tuple[Part, ...]:
    """Give what the parts of a folder are, in which there is nothing else to be read; raises UsageError where there is."""
    files = parts_in(folder)
    more = sorted(_tables_in(folder) - {file.name for file in files})
    if more:
        raise UsageError(
            f"{folder} holds {more[0]}, which leuk did not write", "Move it away, and say the same with --resume"
        )
    return tuple(Part(name=file.name, rows=parquet_rows(file), sha256=_digest(file)) for file in files)


def _place_folder(output: Path) -> None:
    """Give a folder of which all parts and the sidecar are there its name."""
    partial = partial_of(output)
    with disk_errors(partial):
        (partial / BEGUN).unlink(missing_ok=True)
    try:
        put_in_place(partial, output)
    except (UsageError, OSError) as error:
        if not output.exists():
            raise
        raise UsageError(
            f"{output} is there, and all rows are in {partial}", f"Move {output} away, and say the same with --resume"
        ) from error


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
    Raises DataError where a row is of another path, WorkspaceError for rows made with other terms, or damaged, or that
    another process writes, UsageError where a folder is to be in place of another.
    """
    partial, places = partial_of(output), _places(output, parted=terms.rows_per_part is not None)
    check_output(output, terms.rows_per_part)
    if terms.rows_per_part is not None:
        _check_room(output)
    if is_parted(output.parent):
        raise UsageError(f"{output} lies in a folder of parts, and would be read as one", "Name another --output")
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        other_shape = partial.exists() and partial.is_dir() != terms.shape.in_folder
    if other_shape:
        with locked(partial):
            if _look(output, terms, resume=resume, note=note) and resume:
                raise WorkspaceError(
                    f"{partial} is not what its sidecar says: {terms.form}",
                    "Run it again without --resume to begin anew",
                )
            remove_unfinished(partial)
    store = store_at(partial, terms.shape, group=group)
    rows = Rows(output, terms, store)
    try:
        if output.is_file():
            with locked(output):  # whoever gave it this name is through with its sidecar
                _end_what_ended(output)
        begun = _look(output, terms, resume=resume, note=note)
        for leftover in places.begun.parent.glob(f"{UNFINISHED}????????-{glob.escape(places.begun.name)}"):
            leftover.unlink(missing_ok=True)  # nobody else writes here: the store is locked
        if not (begun and resume):
            store.clear()  # before the terms are written: rows never lie beside terms that are not theirs
        if not (resume and begun and isinstance(_read(places.begun, output), Terms)):
            write_json(places.begun, sealed(terms.as_json()))
        for place in _told_at(output):
            if place != places.begun:  # of an end that was interrupted, or of rows in another shape
                place.unlink()
        if begun and resume:
            inputs = iter(()) if paths is None else paths
            store.recover(lambda found: _accept(rows, found, inputs))
            rows.resumed = rows.rows
            note(f"{counted(rows.rows, 'row')} of {partial} are kept")
        yield rows
    except BaseException:
        with contextlib.suppress(LeukError, OSError):  # what ended the block is what is to be told
            store.keep()
        raise
    if not rows.sealed:
        store.keep()


def _told_at(output: Path) -> list[Path]:
    """Give the places that tell of unfinished rows, in whatever shape; the first has the newest facts."""
    inside, beside = _places(output, parted=True), _places(output, parted=False)
    return [place for place in (inside.ending, inside.begun, beside.ending) if place.exists()]


def _look(output: Path, terms: Terms, *, resume: bool, note: Note) -> bool:
    """Tell whether there are unfinished rows; raises WorkspaceError where they are to be gone on with and cannot."""
    partial = partial_of(output)
    with disk_errors(partial):
        begun = is_begun(partial)
    if begun and resume:
        told = _told_at(output)
        known = _read(told[0], output) if told else None
        _check_same(partial, known.terms if isinstance(known, Output) else known, terms)
    elif begun:
        note(f"warning: {partial} of an interrupted command was there and is begun anew; --resume goes on from it")
    return begun


def _end_what_ended(output: Path) -> None:
    """Give a whole file its sidecar where a kill came between them: it is the only one that tells of the file."""
    places = _places(output, parted=False)
    try:
        known = _read(places.ending, output)
    except WorkspaceError:  # it tells of nothing
        return
    if isinstance(known, Output) and known.sha256 == _digest(output):
        put_in_place(places.ending, places.whole)


def _check_same(partial: Path, before: Terms | None, terms: Terms) -> None:
    if before is None:
        raise WorkspaceError(
            f"{partial} has no {BEGUN if terms.rows_per_part else sidecar_of(partial).name} "
            f"{'in' if terms.rows_per_part else 'beside'} it: what its rows were made with is not known",
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
    partial = partial_of(output)
    if terms.rows_per_part is not None:
        with locked(partial):
            ended = find_output(partial)
            if ended is not None:
                _check_terms(partial, ended, terms)
                _check_room(output)
                _place_folder(output)
                return replace(ended, file=output)
    elif isinstance(known := _read(sidecar_of(partial), output), Terms) or (
        known is not None and is_begun(partial) and output.is_file() and known.sha256 != _digest(output)
    ):
        return None  # `output` is an older one, and rows that are to take its place are on the way
    if not output.exists() or (output.is_dir() and terms.rows_per_part is not None and not any(output.iterdir())):
        return None
    whole = find_output(output)
    if whole is None:
        if output.is_dir():
            _check_room(output)
        raise WorkspaceError(
            f"{output} is there without {sidecar_of(output).name}: whether it is whole, and of what, is not known",
            "Remove it, name another --output, or run it again without --resume",
        )
    _check_terms(output, whole, terms)
    if terms.rows_per_part is None and (partial.exists() or sidecar_of(partial).exists()):
        with locked(output), locked(partial):
            _end_what_ended(output)
            if not isinstance(_read(sidecar_of(partial), output), Terms):  # of a command that began just now
                remove_unfinished(partial)
                sidecar_of(partial).unlink(missing_ok=True)
    return whole


def _check_terms(output: Path, whole: Output, terms: Terms) -> None:
    differences = whole.terms.differences(terms)
    if differences:
        raise WorkspaceError(
            f"{output} is whole, and was made with other settings ({'; '.join(differences)})",
            "Remove it, name another --output, or run it again without --resume",
        )
