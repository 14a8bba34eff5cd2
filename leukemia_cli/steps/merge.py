"""`leuk merge`: the outputs of all shards become one, in the order of the inputs, as if one process had written it.

Requirements met here:
- Nothing is merged that does not belong together: every shard once, whole, of one run, one setting and one list of inputs.
- Memory does not grow with the rows, but for 8 bytes each, by which a path that occurs twice is found.
- Rows are copied as they stand where parts and output have one format.
"""

from __future__ import annotations

import glob
import io
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data.shards import Shard
from leukemia_cli.domain import Note, Track, silent, unheard
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Row
from leukemia_cli.reporting.outputs import (
    PARTIAL,
    SIDECAR,
    Output,
    Terms,
    check_output,
    find_output,
    is_parted,
    open_rows,
    partial_of,
    read_sidecar,
    sidecar_of,
)
from leukemia_cli.reporting.row_stores import (
    BEGUN,
    LINES,
    MARK,
    ROW_FORMS,
    Lines,
    LineStore,
    PartStore,
    RowForm,
    need_parquet,
    parquet_batches,
    parquet_rows,
    parquet_schema,
    parts_in,
)
from leukemia_cli.workspace.files import disk_errors

Read = TypeVar("Read")

_HELD_BYTES = 64 << 20
"""For reading ahead, over all parts."""
_LEAST_AHEAD, _MOST_AHEAD = 32 << 10, 4 << 20
_BLOCK_ROWS, _BLOCK_LINES = 20_000, 1_000
"""Rows that are put in order and written at once, as a table or as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The output that holds the rows of all parts."""

    output: Output
    parts: int

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        terms = self.output.terms
        return {
            "output": str(self.output.file),
            "parts": self.parts,
            "rows": self.output.rows,
            "errors": self.output.errors,
            "run": terms.run,
            "engine": terms.engine,
            "precision": terms.precision,
        }


def merge(
    parts: Sequence[str],
    output: Path,
    form: RowForm | None = None,
    rows_per_part: int | None = None,
    *,
    track: Track = silent,
    note: Note = unheard,
) -> Merged:
    """Put the rows of all shards into `output`, in the order of the inputs, and give it a sidecar of its own.

    `parts` are outputs of `classify --shard`, or folders or patterns of them; with `rows_per_part` the output is a folder of
    Parquet in parts of so many rows. Raises WorkspaceError for a part that is missing, unfinished, damaged or of another run
    or setting, DataError for parts of other inputs and for a path that occurs twice.
    """
    check_output(output, rows_per_part)
    if rows_per_part is not None and form not in (None, "parquet"):
        raise UsageError(
            f"--output {output}/ is a folder of parts, and --format {form} is one file",
            "Say --format parquet; or leave out --rows-per-part and the / at the end",
        )
    files = named_parts(parts)
    if any(file.resolve() == output.resolve() for file in files):
        raise UsageError(f"--output {output} is one of the parts", "Name another file")
    whole = ordered([_whole(file) for file in track(files, total=len(files), label="checked")])
    form = "parquet" if rows_per_part is not None else form or _form_of(output, whole)
    if form == "parquet" or any(part.terms.form == "parquet" for part in whole):
        need_parquet()
    terms = replace(whole[0].terms, form=form, shard=None, rows_per_part=rows_per_part)
    with open_rows(output, terms, note=note) as rows:
        hashes = array("q")
        total = whole[0].inputs
        if isinstance(rows.store, LineStore) and all(part.terms.form == form for part in whole):
            _copy_lines(whole, rows.store, hashes, track)
        elif isinstance(rows.store, PartStore) and all(part.terms.form == form for part in whole):
            _copy_tables(whole, rows.store, hashes, track)
        else:
            for row in track(_in_turn([_rows(part, len(whole)) for part in whole]), total=total, label="merged"):
                hashes.append(hash(row["path"]))
                rows.store.add(row)
        _check_once(np.frombuffer(hashes, dtype=np.int64), whole)
        rows.rows, rows.errors = total, sum(part.errors for part in whole)
        merged = rows.seal(inputs=total, inputs_sha256=whole[0].inputs_sha256)
    return Merged(output=merged, parts=len(whole))


# ---------------------------------------------------------------------------------------------------------- which


def named_parts(given: Sequence[str]) -> list[Path]:
    """Give the files that parts mean, each once; raises UsageError or WorkspaceError where something named is not there."""
    files: dict[Path, Path] = {}
    for word in given:
        path = Path(word)
        if is_parted(path):
            found = [path]
        elif path.is_dir():
            found = _in_folder(path)
        elif not os.path.lexists(word) and glob.has_magic(word):
            names = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - a pattern may be absolute
            found = [Path(name) for name in names if not _is_beside(name)]
            if not found:
                raise UsageError(f"nothing matches {word}", "Check the pattern")
        else:
            found = [path]
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _is_beside(name: str) -> bool:
    return name.endswith((SIDECAR, PARTIAL)) or (Path(name).is_dir() and not is_parted(Path(name)))


def _in_folder(folder: Path) -> list[Path]:
    """Give the outputs of shards in a folder; a merged one may lie there too."""
    found = []
    for place in sorted((*folder.glob(f"*{SIDECAR}"), *folder.glob(f"*/{MARK}"))):
        told = read_sidecar(place)
        if isinstance(told, Output) and told.terms.shard is not None:
            found.append(told.file)
    if not found:
        lost = f": it holds parts, and no {MARK}" if parts_in(folder) else ""
        raise WorkspaceError(f"no output of a shard in {folder}{lost}", "Name the files, or the folder that holds them")
    return list(dict.fromkeys(found))


def _whole(file: Path) -> Output:
    begun = file if file.name.endswith(PARTIAL) else partial_of(file)
    part = None if begun == file else find_output(file)
    if part is not None:
        return part
    if begun == file or sidecar_of(begun).exists() or is_parted(begun):
        raise WorkspaceError(f"part {file} is not finished", "Go on with it: the same leuk classify … --resume")
    if not file.exists():
        raise WorkspaceError(f"part {file} is not there", "Check the path, or make it again")
    told = f"{MARK} in" if file.is_dir() else f"{sidecar_of(file).name} beside"
    raise WorkspaceError(f"part {file} has no {told} it", "Copy that too, or make the part again")


def ordered(parts: Sequence[Output]) -> list[Output]:
    """Give the parts from the first shard to the last; raises WorkspaceError or DataError where they are not all of one."""
    if not parts:
        raise UsageError("no parts were named", "Name the outputs of leuk classify --shard")
    first = parts[0]
    shards: dict[Shard, Output] = {}
    for part in parts:
        shard = part.terms.shard
        if shard is None:
            raise WorkspaceError(f"part {part.file} is no shard: it holds every input", "Leave it out")
        differences = first.terms.differences(part.terms, but=("form", "shard", "rows_per_part"))
        if first.terms.shard is not None and first.terms.shard.of != shard.of:
            differences.append(f"shards: {first.terms.shard.of} there, {shard.of} here")
        if differences:
            raise WorkspaceError(
                f"{first.file} and {part.file} do not belong together: {'; '.join(differences)}",
                "Merge the shards of one command",
            )
        if (part.inputs, part.inputs_sha256) != (first.inputs, first.inputs_sha256):
            raise DataError(
                f"{first.file} and {part.file} were dealt from different lists of inputs "
                f"({first.inputs} and {part.inputs} paths)",
                "Give every shard the same list (@FILE), and classify again those that had another",
            )
        if shard in shards:
            raise WorkspaceError(
                f"{shards[shard].file} and {part.file} are both shard {shard}", "Leave one of them out"
            )
        if part.rows != shard.rows_of(part.inputs):
            raise DataError(
                f"part {part.file} has {part.rows} rows, and shard {shard} of {part.inputs} inputs has "
                f"{shard.rows_of(part.inputs)}",
                "Make the part again",
            )
        shards[shard] = part
    _check_all(shards)
    return [shards[shard] for shard in sorted(shards, key=lambda shard: shard.number)]


def _check_all(shards: dict[Shard, Output]) -> None:
    of = next(iter(shards)).of
    missing = sorted(set(range(1, of + 1)) - {shard.number for shard in shards})
    if not missing:
        return
    named = ", ".join(f"{number}/{of}" for number in missing[:8]) + (" and more" if len(missing) > 8 else "")
    begun = [
        str(place.parent if place.name == BEGUN else place).removesuffix(SIDECAR)
        for folder in dict.fromkeys(part.file.parent for part in shards.values())
        for place in sorted((*folder.glob(f"*{PARTIAL}{SIDECAR}"), *folder.glob(f"*{PARTIAL}/{BEGUN}")))
        if isinstance(told := read_sidecar(place), Terms) and told.shard is not None and told.shard.number in missing
    ]
    hint = f"Unfinished: {', '.join(begun[:4])}; go on with --resume" if begun else "Name them too, or make them"
    raise WorkspaceError(f"shard {named} is missing" if len(missing) == 1 else f"shards {named} are missing", hint)


def _form_of(output: Path, parts: Sequence[Output]) -> RowForm:
    named: RowForm
    for named in ROW_FORMS:
        if output.suffix.lower() == f".{named}":
            return named
    forms = {part.terms.form for part in parts}
    if len(forms) > 1:
        raise UsageError(f"the parts are {' and '.join(sorted(forms))}", "Say which with --format")
    return forms.pop()


# -------------------------------------------------------------------------------------------------------- reading


class _Reopened(io.RawIOBase):
    """A file that is open only while it is read from: there may be more parts than files that a process may open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._size = path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._at)
            count = file.readinto(buffer) or 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def _opened(file: Path, parts: int) -> io.BufferedReader:
    ahead = min(_MOST_AHEAD, max(_LEAST_AHEAD, _HELD_BYTES // parts))
    with disk_errors(file):
        return io.BufferedReader(_Reopened(file), ahead)


def _lines_of(part: Output) -> Lines:
    return LINES[part.terms.form](part.terms.kinds)


def _records(part: Output, parts: int) -> Iterator[bytes]:
    """Yield the rows of a text as they stand; raises WorkspaceError where they are not as many as its sidecar says."""
    lines = _lines_of(part)
    records = lines.records(_opened(part.file, parts))
    try:
        if lines.head and next(records, b"") != lines.head:
            raise ValueError("it begins with other columns")
        for _ in range(part.rows):
            record = next(records, None)
            if record is None:
                raise ValueError(f"it has fewer than {part.rows} rows")
            yield record
        if next(records, None) is not None:
            raise ValueError(f"it has more than {part.rows} rows")
    except ValueError as error:
        raise _damaged(part, str(error)) from error


def _rows(part: Output, parts: int) -> Iterator[Row]:
    """Yield the rows of a part of any format; raises WorkspaceError where it is damaged."""
    if part.terms.form == "parquet":
        yield from (row for table in _tables(part, parts) for row in table.to_pylist())
        return
    yield from _read(part, _records(part, parts), _lines_of(part).row)


def _tables(part: Output, parts: int) -> Iterator[Any]:
    """Yield the row groups of a Parquet part; raises WorkspaceError where it is damaged, or has other rows than it says."""
    import pyarrow as pa

    schema = parquet_schema(part.terms.kinds, {})
    try:
        there = sum(map(parquet_rows, part.files))
        if there != part.rows:
            raise ValueError(f"it has {'fewer' if there < part.rows else 'more'} than {part.rows} rows")
        for file in part.files:
            for table in parquet_batches(_opened(file, parts)):
                if not table.schema.equals(schema):
                    raise ValueError("it has other columns")
                yield table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(part, str(error)) from error


def _read(part: Output, items: Iterator[Any], reading: Callable[[Any], Read]) -> Iterator[Read]:
    """Read each item; raises WorkspaceError for one that cannot be read."""
    for item in items:
        try:
            yield reading(item)
        except (ValueError, RecursionError) as error:
            raise _damaged(part, str(error)) from error


def _damaged(part: Output, why: str) -> WorkspaceError:
    return WorkspaceError(f"part {part.file} is damaged: {why}", "Make it again")


def _in_turn(parts: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Yield one of each in turn, as they were dealt, until all are at their end."""
    while True:
        for part in parts:
            item = next(part, None)
            if item is None:
                for rest in parts:  # each tells whether it was to be at its end
                    if next(rest, None) is not None:
                        raise ValueError("parts of these lengths were never dealt")
                return
            yield item


# -------------------------------------------------------------------------------------------------------- copying


def _copy_lines(parts: Sequence[Output], store: LineStore, hashes: array[int], track: Track) -> None:
    path = _lines_of(parts[0]).path
    waiting: list[bytes] = []
    told = [_read(part, _records(part, len(parts)), lambda record: (hash(path(record)), record)) for part in parts]
    for hashed, record in track(_in_turn(told), total=parts[0].inputs, label="merged"):
        hashes.append(hashed)
        waiting.append(record)
        if len(waiting) == _BLOCK_LINES:
            store.add_records(b"".join(waiting))
            waiting.clear()
    store.add_records(b"".join(waiting))


class _Taker(Protocol):
    def __call__(self, count: int) -> Any: ...


def _taker(part: Output, parts: int) -> _Taker:
    """Give what takes the next rows of a Parquet part as a table; raises WorkspaceError where there are not so many."""
    import pyarrow as pa

    batches = _tables(part, parts)
    held: list[Any] = []

    def take(count: int) -> Any:
        while (there := sum(table.num_rows for table in held)) < count:
            more = next(batches, None)
            if more is None:
                raise _damaged(part, f"it has fewer than {part.rows} rows")
            held.append(more)
        if there == count == 0:
            return None
        table = pa.concat_tables(held)
        held[:] = [table.slice(count)]
        return table.slice(0, count)

    return take


def _copy_tables(parts: Sequence[Output], store: PartStore, hashes: array[int], track: Track) -> None:
    """Put tables in order a block of turns at a time."""
    import pyarrow as pa

    takers = [_taker(part, len(parts)) for part in parts]
    turns = max(1, _BLOCK_ROWS // len(parts))
    starts = range(0, parts[0].rows, turns)
    for start in track(starts, total=len(starts), label="blocks merged"):
        counts = [max(0, min(part.rows - start, turns)) for part in parts]
        taken = [table for take, count in zip(takers, counts, strict=True) if (table := take(count)) is not None]
        turn = np.concatenate([np.arange(count) for count in counts])
        shard = np.repeat(np.arange(len(parts)), counts)
        table = pa.concat_tables(taken).take(pa.array(np.lexsort((shard, turn))))
        hashes.extend(map(hash, table.column("path").to_pylist()))
        store.add_table(table)


def _check_once(hashes: NDArray[np.int64], parts: Sequence[Output]) -> None:
    """Raise DataError for a path that occurs twice; equal hashes are looked at again, by their paths. Sorts `hashes`."""
    hashes.sort()  # in place: there may be a hundred million
    again = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not again:
        return
    seen: dict[str, Path] = {}
    for part in parts:
        for path in _paths(part, len(parts)):
            if hash(path) in again:
                if path in seen:
                    raise DataError(
                        f"{path} occurs twice: in {seen[path]} and {part.file}",
                        "Name every input once: leuk classify takes what it is given as often as it is given",
                    )
                seen[path] = part.file


def _paths(part: Output, parts: int) -> Iterator[str]:
    if part.terms.form == "parquet":
        return (path for table in _tables(part, parts) for path in table.column("path").to_pylist())
    return _read(part, _records(part, parts), _lines_of(part).path)
