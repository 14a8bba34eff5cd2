"""Where the rows of an output lie until all are there, one way for each format; how they are read back.

Requirements met here:
- Rows that were added survive the end of the process: lines go to the system one by one; Parquet, which cannot grow by a
  row, is a folder of parts, each whole and flushed, a new one after so many rows or seconds.
- What is read back are whole rows: a line that was cut off is none, and a part is there or not.
- Nothing here holds more rows than fit in one part.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.errors import MachineError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Row, json_line, row_of_csv, row_of_json
from leukemia_cli.workspace import clear_unfinished, disk_errors, write_bytes

RowForm = Literal["csv", "jsonl", "parquet"]
ROW_FORMS: tuple[RowForm, ...] = ("csv", "jsonl", "parquet")

Kinds = Mapping[str, type[Any]]
Accept = Callable[[Sequence[Row]], None]
"""Takes rows that were kept, in order; raises where they are not what they should be."""

PART_ROWS = 5_000
PART_S = 60.0
"""A slide may take minutes: its row is not to wait for thousands of others."""
_NEW = "Run it again without --resume to begin anew"


class Store(Protocol):
    """Rows on disk under a name that says that they are not all there."""

    path: Path

    def recover(self, accept: Accept) -> None:
        """Hand the whole rows that are there to `accept`, and forget what lies behind them; raises WorkspaceError."""

    def clear(self) -> None:
        """Forget all rows."""

    def add(self, row: Row) -> None:
        """Take one row more."""

    def keep(self) -> None:
        """Leave what was added on disk; nothing is added any more."""

    def finish(self) -> Path:
        """Give the file with all rows, whole and flushed, still under another name than its own."""

    def discard(self) -> None:
        """Remove what is left when the file has its own name."""


def store_at(path: Path, form: RowForm, kinds: Kinds, facts: Mapping[str, str], *, group: int) -> Store:
    """Open the place of unfinished rows, making it where it is not there, and lock it against other processes.

    Rows are kept in groups of `group`, those that a network saw together. `facts` go into a file that has room for them.
    Raises WorkspaceError where another process writes there.
    """
    if form == "parquet":
        return PartStore(path, kinds, facts, group=group)
    return LineStore(path, LINES[form](kinds), group=group)


def remove_unfinished(path: Path) -> None:
    """Remove unfinished rows of whatever format; a folder that holds anything else stays, and raises UsageError."""
    with disk_errors(path):
        if path.is_dir() and not path.is_symlink():
            for part in _parts(path)[::-1]:
                part.unlink()
            clear_unfinished(path)
            (path / _WHOLE).unlink(missing_ok=True)
            if any(path.iterdir()):
                raise UsageError(
                    f"{path} holds files that leuk did not write", "Move it away, or name another --output"
                )
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def is_begun(path: Path) -> bool:
    """Tell whether there is a row, or a part of one, among the unfinished rows of whatever format."""
    return bool(_parts(path)) if path.is_dir() else path.exists() and path.stat().st_size > 0


# ---------------------------------------------------------------------------------------------------------- lines


class Lines(Protocol):
    """A format of one line, or one record, for each row."""

    kinds: Kinds
    head: bytes

    def line(self, row: Row) -> bytes:
        """Give the record of a row, with its end."""

    def row(self, record: bytes) -> Row:
        """Read a record back; raises ValueError."""

    def path(self, record: bytes) -> str:
        """Read nothing but the path, which is the first cell."""

    def records(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Yield whole records, each with its end; what follows the last one is none."""


class CsvLines:
    """CSV as `csv_line` writes it: a record ends at a line end outside quotes."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.head = csv_line(tuple(kinds)).encode(errors="surrogateescape")

    def line(self, row: Row) -> bytes:
        return csv_line(tuple(row.values())).encode(errors="surrogateescape")

    def row(self, record: bytes) -> Row:
        return row_of_csv(record.decode(errors="surrogateescape"), self.kinds)

    def path(self, record: bytes) -> str:
        if record[:1] in (b'"', b"'"):
            return str(self.row(record)["path"])
        return os.fsdecode(record.partition(b",")[0])

    def records(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        lines: list[bytes] = []
        quotes = 0
        for line in stream:
            lines.append(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0 and line.endswith(b"\n"):
                yield b"".join(lines)
                lines.clear()
                quotes = 0


_JSON = json.JSONDecoder()
_PATH_FIRST = b'{"path": "'


class JsonLines:
    """JSON lines: no record holds a line end."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.head = b""

    def line(self, row: Row) -> bytes:
        return json_line(row).encode() + b"\n"

    def row(self, record: bytes) -> Row:
        return row_of_json(record, self.kinds)

    def path(self, record: bytes) -> str:
        if record.startswith(_PATH_FIRST):  # of a hundred million rows, the rest of each need not be read
            return str(_JSON.raw_decode(record.decode(), len(_PATH_FIRST) - 1)[0])
        row = json.loads(record)
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise ValueError("a row without a path")
        return str(row["path"])

    def records(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        return (line for line in stream if line.endswith(b"\n"))


LINES: Mapping[str, Callable[[Kinds], Lines]] = {"csv": CsvLines, "jsonl": JsonLines}


class LineStore:
    """Rows as lines of one file, which becomes the output itself."""

    def __init__(self, path: Path, lines: Lines, *, group: int = 1) -> None:
        self.path = path
        self._lines = lines
        self._group = group
        self._empty = True
        self._file = os.fdopen(_locked(path, lambda: os.open(path, os.O_RDWR | os.O_CREAT, 0o666)), "r+b", buffering=0)

    def recover(self, accept: Accept) -> None:
        end = row = 0
        with disk_errors(self.path), self.path.open("rb") as stream:
            records = self._lines.records(stream)
            if self._lines.head:
                head = next(records, b"")
                if head not in (b"", self._lines.head):
                    raise WorkspaceError(f"{self.path} begins with other columns than these rows have", _NEW)
                end = len(head)
            rows: list[Row] = []
            size = 0
            for record in records:
                row += 1
                try:
                    rows.append(self._lines.row(record))
                except (ValueError, RecursionError) as error:
                    raise WorkspaceError(f"{self.path} is damaged in row {row}: {error}", _NEW) from error
                size += len(record)
                if len(rows) == self._group:
                    accept(rows)
                    end += size
                    rows, size = [], 0
        with disk_errors(self.path):
            self._file.truncate(end)
            self._file.seek(end)
        self._empty = end == 0

    def clear(self) -> None:
        with disk_errors(self.path):
            self._file.truncate(0)
            self._file.seek(0)
        self._empty = True

    def add(self, row: Row) -> None:
        self._write(self._lines.line(row))

    def add_records(self, records: bytes) -> None:
        """Take rows as they stand in a file of the same format."""
        self._write(records)

    def _write(self, text: bytes) -> None:
        if self._empty:
            text, self._empty = self._lines.head + text, False
        with disk_errors(self.path):
            while text:
                text = text[self._file.write(text) :]

    def keep(self) -> None:
        self._file.close()

    def finish(self) -> Path:
        self._write(b"")
        with disk_errors(self.path):
            os.fsync(self._file.fileno())
        return self.path

    def discard(self) -> None:
        self._file.close()


# ---------------------------------------------------------------------------------------------------------- parts

_WHOLE = "whole.parquet"
_TOLD = ["path", "decision", "run", "engine", "precision"]
"""Columns that tell whether rows are what they should be; the others are read when the parts become one file."""


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def need_parquet() -> None:
    """Raise MachineError where pyarrow is not installed, before any work."""
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MachineError(
            "--format parquet needs pyarrow", "Install it with: pip install 'leukemia-cli[parquet]'"
        ) from error


class PartStore:
    """Rows as numbered Parquet files in a folder, which are streamed into one in the end."""

    def __init__(self, path: Path, kinds: Kinds, facts: Mapping[str, str], *, group: int = 1) -> None:
        need_parquet()
        self.path = path
        self._schema = parquet_schema(kinds, facts)
        self._group = group
        self._most = max(1, PART_ROWS // group) * group
        self._rows: list[Row] = []
        self._number = 0
        self._written = time.monotonic()

        def opened() -> int:
            path.mkdir(exist_ok=True)
            return os.open(path, os.O_RDONLY)

        self._handle = _locked(path, opened)
        clear_unfinished(path)

    def recover(self, accept: Accept) -> None:
        import pyarrow as pa

        for number, part in enumerate(_parts(self.path)):
            try:
                if part.name != _part_name(number):
                    raise ValueError(f"{_part_name(number)} is missing")
                found = read_parquet(part)
                if not found.schema.equals(self._schema):
                    raise ValueError("it has other columns")
                accept(found.select(_TOLD).to_pylist())
            except (OSError, ValueError, pa.ArrowException) as error:
                raise WorkspaceError(f"{part} is damaged: {error}", _NEW) from error
            self._number = number + 1

    def clear(self) -> None:
        with disk_errors(self.path):
            for part in _parts(self.path)[::-1]:  # what is left after a kill in between is a beginning
                part.unlink()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        due = time.monotonic() - self._written > PART_S
        if len(self._rows) >= self._most or (due and len(self._rows) >= self._group):
            self._flush(len(self._rows) // self._group * self._group)

    def _flush(self, count: int) -> None:
        if count:
            self.add_table(parquet_table(self._rows[:count], self._schema))
            del self._rows[:count]
        self._written = time.monotonic()

    def add_table(self, table: Any) -> None:
        """Take rows as an Arrow table: they become a part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table.cast(self._schema), sink)
        write_bytes(self.path / _part_name(self._number), sink.getvalue().to_pybytes())
        self._number += 1

    def keep(self) -> None:
        try:
            self._flush(len(self._rows) // self._group * self._group)
        finally:
            self._release()

    def _release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def finish(self) -> Path:
        self._flush(len(self._rows))
        whole = self.path / _WHOLE
        with disk_errors(whole), ParquetSink(whole, self._schema) as sink:
            for part in _parts(self.path):
                sink.add_table(read_parquet(part))
        return whole

    def discard(self) -> None:
        self._release()
        with contextlib.suppress(UsageError):  # another's file in it is no reason to fail when all is done
            remove_unfinished(self.path)


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def parquet_schema(kinds: Kinds, facts: Mapping[str, str]) -> Any:
    """Give the columns as Parquet has them, with `facts` as the schema's metadata."""
    import pyarrow as pa

    types = {float: pa.float64(), int: pa.int64(), str: pa.string()}
    return pa.schema([(name, types[kind]) for name, kind in kinds.items()], metadata=dict(facts))


def parquet_table(rows: Sequence[Row], schema: Any) -> Any:
    """Give rows as an Arrow table; a byte of a name that is not UTF-8, which Parquet cannot hold, becomes `\\xff`."""
    import pyarrow as pa

    columns = [
        pa.array(
            [_utf8(text) for row in rows if ((text := row[field.name]) is None or True)]
            if field.type == pa.string()
            else [row[field.name] for row in rows],
            field.type,
        )
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _utf8(text: object) -> str | None:
    if text is None:
        return None
    return utf8(str(text))


def read_parquet(file: Path) -> Any:
    """Read one file as an Arrow table; the names of its folders mean nothing."""
    import pyarrow.parquet as pq

    with file.open("rb") as stream, pq.ParquetFile(stream) as opened:
        return opened.read()


def parquet_batches(stream: IO[bytes]) -> Iterator[Any]:
    """Yield the row groups of a Parquet file as Arrow tables; raises WorkspaceError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(stream, pre_buffer=False)
        for group in range(opened.num_row_groups):
            yield opened.read_row_group(group)
    except (pa.ArrowException, ValueError) as error:
        raise WorkspaceError(f"a Parquet file is damaged: {error}", "Make it again") from error


def utf8(text: str) -> str:
    """Write bytes that are not UTF-8, as `os.fsdecode` keeps them, as `\\xff`; any other text stays."""
    if text.isascii():
        return text
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


class ParquetSink:
    """One Parquet file that is written in row groups of equal size, whatever the sizes of the tables that come."""

    def __init__(self, path: Path, schema: Any, *, group_rows: int = PART_ROWS) -> None:
        import pyarrow.parquet as pq

        self._file: IO[bytes] = path.open("wb")
        self._schema = schema
        self._writer = pq.ParquetWriter(self._file, schema)
        self._waiting: list[Any] = []
        self._count = 0
        self._group_rows = group_rows

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        with self._file:
            if kind is not None:
                with contextlib.suppress(Exception):  # what ends here already has its reason
                    self._writer.close()
                return
            self._out(everything=True)
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())

    def add_table(self, table: Any) -> None:
        """Take rows; raises OSError."""
        self._waiting.append(table.cast(self._schema))
        self._count += table.num_rows
        if self._count >= self._group_rows:
            self._out(everything=False)

    def _out(self, *, everything: bool) -> None:
        import pyarrow as pa

        if not self._count:
            return
        table = pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata).combine_chunks()
        while table.num_rows >= self._group_rows or (everything and table.num_rows):
            self._writer.write_table(table.slice(0, self._group_rows).combine_chunks(), self._group_rows)
            table = table.slice(self._group_rows)
        self._waiting, self._count = [table], table.num_rows


# ----------------------------------------------------------------------------------------------------------- lock


def _locked(path: Path, opened: Callable[[], int]) -> int:
    """Open `path` and keep other processes out of it until it is closed; raises WorkspaceError where one is in."""
    with disk_errors(path):
        while True:
            handle = opened()
            try:
                _lock(handle)
            except BlockingIOError as error:
                os.close(handle)
                raise WorkspaceError(
                    f"another leuk is writing {path}", "Wait until it ends, or name another --output"
                ) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            os.close(handle)  # the other process finished, and gave what was here its own name, just before the lock


def _lock(handle: int) -> None:
    """Lock where the file system can; raises BlockingIOError where another process has."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
