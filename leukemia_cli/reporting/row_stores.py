"""Where the rows of an output lie until all are there, one way for each format; how they are read back.

Requirements met here:
- Rows that were added survive the end of the process: lines go to the system one by one; Parquet, which cannot grow by a
  row, is a folder of pieces, each whole and flushed, a new one after so many rows or seconds.
- Of pieces comes one file in the end, or as they come a part of so many rows each; neither depends on where a piece ends.
- What is read back are whole rows: a line that was cut off is none, and a piece or a part is there or not.
- Nothing here holds more rows than fit in one piece.
- Rows are opened, cleared and removed by the process that has locked them, and by no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.errors import MachineError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Row, json_line, row_of_csv, row_of_json
from leukemia_cli.workspace.files import UNFINISHED, clear_unfinished, disk_errors, put_in_place, write_bytes

RowForm = Literal["csv", "jsonl", "parquet"]
ROW_FORMS: tuple[RowForm, ...] = ("csv", "jsonl", "parquet")

Kinds = Mapping[str, type[Any]]
Accept = Callable[[Sequence[Row]], None]
"""Takes rows that were kept, in order; raises where they are not what they should be."""

PIECE_ROWS = 5_000
PIECE_S = 60.0
"""A slide may take minutes: its row is not to wait for thousands of others."""
MARK = "_leuk.json"
BEGUN = "_begun.json"
"""In a folder of parts: what it is when all are there, and what they were begun with. Readers of tables skip such names."""
_NEW = "Run it again without --resume to begin anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How rows lie on disk: `kinds` of cells, `facts` for a file that has room for them, `rows_per_part` of a folder of parts."""

    form: RowForm
    kinds: Kinds
    facts: Mapping[str, str]
    rows_per_part: int | None = None

    @property
    def in_folder(self) -> bool:
        """Tell whether unfinished rows lie in a folder."""
        return self.form == "parquet"


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


def store_at(path: Path, shape: Shape, *, group: int) -> Store:
    """Open the place of unfinished rows, making it where it is not there, and lock it against other processes.

    Rows are kept in groups of `group`, those that a network saw together. Raises WorkspaceError where another process
    writes there.
    """
    if shape.in_folder:
        return PartStore(path, shape, group=group)
    return LineStore(path, LINES[shape.form](shape.kinds), group=group)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of what is at `path`; raises WorkspaceError where one is in. What is not there has no lock."""

    def opened() -> int:
        try:
            return os.open(path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            return -1

    handle = _locked(path, opened)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def remove_unfinished(path: Path) -> None:
    """Remove unfinished rows of whatever format; a folder that holds anything else stays, and raises UsageError."""
    with disk_errors(path):
        if path.is_dir() and not path.is_symlink():
            _clear(path)
            for name in (_WHOLE, BEGUN):
                (path / name).unlink(missing_ok=True)
            clear_unfinished(path)
            if any(path.iterdir()):
                raise UsageError(
                    f"{path} holds files that leuk did not write", "Move it away, or name another --output"
                )
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove rows from the last to the first: what is left after a kill in between is a beginning."""
    (folder / MARK).unlink(missing_ok=True)
    for file in (*_pieces(folder)[::-1], *parts_in(folder)[::-1]):
        file.unlink()


def is_begun(path: Path) -> bool:
    """Tell whether there is a row, or a part of one, among the unfinished rows of whatever format."""
    if path.is_dir():
        return bool(parts_in(path) or _pieces(path))
    return path.exists() and path.stat().st_size > 0


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
        """Yield whole records, each with its end; what follows the last one is none. Raises ValueError for one without end."""


_MOST_RECORD = 1 << 20
"""Bytes of the longest row that is believed to be one, and not all that follow a quote that was lost."""


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
        quotes = size = 0
        for line in stream:
            lines.append(line)
            quotes += line.count(b'"')
            size += len(line)
            if quotes % 2 == 0 and line.endswith(b"\n"):
                yield b"".join(lines)
                lines.clear()
                quotes = size = 0
            elif size > _MOST_RECORD:
                raise ValueError("a quote in it has no other one")


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


def _first(records: Iterator[bytes]) -> bytes | None:
    """Give the first record, empty where there is none; None where it is no record."""
    try:
        return next(records, b"")
    except ValueError:
        return None


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
                head = _first(records)
                if head not in (b"", self._lines.head):
                    raise WorkspaceError(f"{self.path} begins with other columns than these rows have", _NEW)
                end = len(head or b"")
            rows: list[Row] = []
            size = 0
            while True:
                row += 1
                try:
                    record = next(records, None)
                    if record is None:
                        break
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
"""Columns that tell whether rows are what they should be; the others are read when pieces become a file."""


def part_name(number: int) -> str:
    """Give the name of a part, from 0: as texts they are in the order of the numbers."""
    return f"part-{number:06d}.parquet"


def parts_in(folder: Path) -> list[Path]:
    """Give the files that have the name of a part, in order."""
    return _numbered(folder, "part-")


_PIECE = "_rows-"


def _piece_name(first: int) -> str:
    return f"{_PIECE}{first:012d}.parquet"


def _pieces(folder: Path) -> list[Path]:
    return _numbered(folder, _PIECE)


def _numbered(folder: Path, lead: str) -> list[Path]:
    found = ((file.name.removeprefix(lead).removesuffix(".parquet"), file) for file in folder.glob(f"{lead}*.parquet"))
    return [file for _, file in sorted((int(digits), file) for digits, file in found if digits.isdecimal())]


def need_parquet() -> None:
    """Raise MachineError where pyarrow is not installed, before any work."""
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MachineError(
            "--format parquet needs pyarrow", "Install it with: pip install 'leukemia-cli[parquet]'"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A small file of rows: the first has place `first` among all, and `end` is behind the last."""

    file: Path
    first: int
    end: int


class PartStore:
    """Rows as Parquet in a folder: pieces, of which in the end comes one file, or as they come parts of `rows_per_part`.

    A part is written from pieces that are there, and these go when it is: whatever ends the process, each row lies in a part
    or in a piece, and one that lies in both is known by its place.
    """

    def __init__(self, path: Path, shape: Shape, *, group: int = 1) -> None:
        need_parquet()
        self.path = path
        self._schema = parquet_schema(shape.kinds, shape.facts)
        self._rows_per_part = shape.rows_per_part
        self._group = group
        self._most = max(1, min(PIECE_ROWS, shape.rows_per_part or PIECE_ROWS) // group) * group
        self._waiting: list[Row] = []
        self._first = 0
        """Place of the first row that waits."""
        self._pieces: list[_Piece] = []
        self._parts = 0
        self._written = time.monotonic()

        def opened() -> int:
            path.mkdir(exist_ok=True)
            return os.open(path, os.O_RDONLY)

        self._handle = _locked(path, opened)
        clear_unfinished(path)

    @property
    def _end(self) -> int:
        """Give how many rows lie in parts and pieces."""
        return max(self._parts * (self._rows_per_part or 0), self._pieces[-1].end if self._pieces else 0)

    def recover(self, accept: Accept) -> None:
        parts = parts_in(self.path)
        for number, part in enumerate(parts):
            first = end = self._end
            with _damage(part):
                if part.name != part_name(number):
                    raise ValueError(f"{part_name(number)} is missing")
                for table in parquet_batches(part):
                    self._check_columns(table)
                    accept(table.select(_TOLD).to_pylist())
                    end += table.num_rows
                if end - first == self._rows_per_part:
                    self._parts += 1
                elif part != parts[-1]:
                    raise ValueError(f"it has {end - first:,} rows, and other parts have {self._rows_per_part:,}")
                else:  # written when all rows were there, which are not all if there are more inputs now
                    piece = self.path / _piece_name(first)
                    put_in_place(part, piece)
                    self._pieces.append(_Piece(file=piece, first=first, end=end))
        for file in _pieces(self.path):
            with _damage(file):
                first = int(file.name.removeprefix(_PIECE).removesuffix(".parquet"))
                table = read_parquet(file)
                self._check_columns(table)
                if first > self._end:
                    raise ValueError(f"rows {self._end + 1:,} to {first:,} are missing before it")
                if first + table.num_rows > self._end:
                    accept(table.slice(self._end - first).select(_TOLD).to_pylist())
                    self._pieces.append(_Piece(file=file, first=first, end=first + table.num_rows))
                elif all(piece.file != file for piece in self._pieces):
                    file.unlink()  # its rows lie in a part
        self._cut()

    def _check_columns(self, table: Any) -> None:
        if not table.schema.equals(self._schema):
            raise ValueError("it has other columns")

    def clear(self) -> None:
        with disk_errors(self.path):
            _clear(self.path)

    def add(self, row: Row) -> None:
        if not self._waiting:
            self._first = self._end
        self._waiting.append(row)
        due = time.monotonic() - self._written > PIECE_S
        if len(self._waiting) >= self._most or (due and len(self._waiting) >= self._group):
            self._flush(len(self._waiting) // self._group * self._group)

    def _flush(self, count: int) -> None:
        if count:
            self.add_table(parquet_table(self._waiting[:count], self._schema))
            self._waiting, self._first = self._waiting[count:], self._end
        self._written = time.monotonic()

    def add_table(self, table: Any) -> None:
        """Take rows as an Arrow table: they become a piece."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not table.num_rows:
            return
        sink = pa.BufferOutputStream()
        pq.write_table(table.cast(self._schema), sink)
        first = self._end
        piece = _Piece(file=self.path / _piece_name(first), first=first, end=first + table.num_rows)
        write_bytes(piece.file, sink.getvalue().to_pybytes())
        self._pieces.append(piece)
        self._cut()

    def _cut(self, *, everything: bool = False) -> None:
        """Make whole parts of pieces, going through these once; with `everything` the rest becomes one too."""
        rows = self._rows_per_part
        if rows is None:
            return
        wanted = self._end // rows
        if everything:
            wanted = max(1, -(-self._end // rows))  # of no rows comes one part, so that the folder is a table
        if wanted == self._parts:
            return
        tables = self._tables_from(self._parts * rows)
        rest = None
        for number in range(self._parts, wanted):
            missing = rows
            final = self.path / part_name(number)
            beside = self.path / f"{UNFINISHED}{secrets.token_hex(4)}-{final.name}"
            with disk_errors(final), ParquetSink(beside, self._schema) as sink:
                while missing and (table := next(tables, None) if rest is None else rest) is not None:
                    sink.add_table(table.slice(0, missing))
                    rest = table.slice(missing) if table.num_rows > missing else None
                    missing -= min(missing, table.num_rows)
            put_in_place(beside, final)
            self._parts += 1
        with disk_errors(self.path):
            for piece in self._pieces:
                if piece.end <= wanted * rows:
                    piece.file.unlink(missing_ok=True)
        self._pieces = [piece for piece in self._pieces if piece.end > wanted * rows]

    def _tables_from(self, place: int) -> Iterator[Any]:
        for piece in self._pieces:
            if piece.end > place:
                yield read_parquet(piece.file).slice(max(0, place - piece.first))

    def keep(self) -> None:
        try:
            written = max(0, self._end - self._first)  # by a flush that was cut short
            self._waiting = self._waiting[written:]
            self._flush(len(self._waiting) // self._group * self._group)
        finally:
            self._release()

    def _release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def finish(self) -> Path:
        self._flush(len(self._waiting))
        if self._rows_per_part is not None:
            self._cut(everything=True)
            return self.path
        whole = self.path / _WHOLE
        with disk_errors(whole), ParquetSink(whole, self._schema) as sink:
            for table in self._tables_from(0):
                sink.add_table(table)
        return whole

    def discard(self) -> None:
        if self._rows_per_part is None:
            with contextlib.suppress(UsageError):  # another's file in it is no reason to fail when all is done
                remove_unfinished(self.path)
        self._release()


@contextlib.contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into an error that names it."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise WorkspaceError(f"{file} is damaged: {error}", _NEW) from error


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
            [_utf8(row[field.name]) if field.type == pa.string() else row[field.name] for row in rows],
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


def parquet_rows(file: Path) -> int:
    """Count the rows of a Parquet file as its end says."""
    import pyarrow.parquet as pq

    with file.open("rb") as stream, pq.ParquetFile(stream) as opened:
        return int(opened.metadata.num_rows)


def parquet_batches(source: Path | IO[bytes]) -> Iterator[Any]:
    """Yield the row groups of a Parquet file as Arrow tables; raises OSError, ValueError or ArrowException where it is none."""
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as held:
        stream = held.enter_context(source.open("rb")) if isinstance(source, Path) else source
        opened = pq.ParquetFile(stream, pre_buffer=False)
        for group in range(opened.num_row_groups):
            yield opened.read_row_group(group)


def utf8(text: str) -> str:
    """Write bytes that are not UTF-8, as `os.fsdecode` keeps them, as `\\xff`; any other text stays."""
    if text.isascii():
        return text
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


class ParquetSink:
    """One Parquet file that is written in row groups of equal size, whatever the sizes of the tables that come."""

    def __init__(self, path: Path, schema: Any, *, group_rows: int = PIECE_ROWS) -> None:
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
    """Open `path` and keep other processes out of it until it is closed; raises WorkspaceError where one is in.

    What `opened` gives below 0 is no file, and is given back.
    """
    with disk_errors(path):
        while True:
            handle = opened()
            if handle < 0:
                return handle
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
