"""Rows of one fixed size in a file: written one after another, read in parts, never held whole.

The file is a safetensors file of one tensor `records` (N, bytes of a row), so that other programs can open it. What its
columns are is for the reader to know: it asks for rows of a NumPy type, and a file of rows of another size is refused.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.errors import WorkspaceError

_HEADER_BYTES = 1024
_AT_ONCE = 1 << 20
_AGAIN = "Make it again with: leuk prepare"


class RecordWriter:
    """Writes rows of one type to a new file; before `close` the file is not whole and is refused by `RecordFile`."""

    def __init__(self, path: Path, dtype: np.dtype[Any], facts: Mapping[str, str] | None = None) -> None:
        self.path, self.dtype, self.count, self.facts = path, dtype, 0, dict(facts or {})
        self._file: IO[bytes] = path.open("wb", buffering=_AT_ONCE)
        self._file.write(bytes(_HEADER_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: NDArray[np.void]) -> None:
        """Write rows (M,); raises ValueError for rows of another type."""
        if rows.dtype != self.dtype:
            raise ValueError(f"rows must be {self.dtype}, got {rows.dtype}")
        self._file.write(rows.tobytes())
        self.count += len(rows)

    def close(self) -> None:
        """Write what the header says, which makes the file whole."""
        if self._file.closed:
            return
        size = self.dtype.itemsize
        tensor = {"dtype": "U8", "shape": [self.count, size], "data_offsets": [0, self.count * size]}
        text = json.dumps({"__metadata__": self.facts, "records": tensor}).encode("ascii")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", _HEADER_BYTES - 8) + text.ljust(_HEADER_BYTES - 8))
        self._file.close()


class RecordFile:
    """Rows of a finished file: `len`, and parts of them by slice (step 1) or by an array of row numbers.

    Raises WorkspaceError for a file that is not there, not whole, or of rows of another size.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path, dtype
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise WorkspaceError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
        try:
            stored = json.loads(file.read(_HEADER_BYTES)[8:])
            self.facts: Mapping[str, str] = stored["__metadata__"]
            self._count, size = stored["records"]["shape"]
            whole = path.stat().st_size == _HEADER_BYTES + self._count * size and size == dtype.itemsize
            whole = whole and isinstance(self._count, int) and self._count >= 0
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            file.close()
            raise WorkspaceError(f"{path} cannot be read: {error}", _AGAIN) from error
        if not whole:
            file.close()
            raise WorkspaceError(f"{path} is cut off, or was made by another version of leuk", _AGAIN)
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._count)

    def __getitem__(self, rows: slice | NDArray[np.integer[Any]]) -> NDArray[np.void]:
        size = self.dtype.itemsize
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._count)
            if step != 1:
                raise ValueError(f"rows are read one after another, not in steps of {step}")
            count = max(0, stop - start)
            return np.frombuffer(self._read(start, count), dtype=self.dtype)
        found = bytearray(size * len(rows))
        for place, row in enumerate(rows.tolist()):
            found[place * size : (place + 1) * size] = self._read(row, 1)
        return np.frombuffer(found, dtype=self.dtype)

    def _read(self, row: int, count: int) -> bytes:
        wanted, at = count * self.dtype.itemsize, _HEADER_BYTES + row * self.dtype.itemsize
        parts = []
        while wanted:
            part = os.pread(self._file.fileno(), wanted, at)
            if not part:
                raise WorkspaceError(f"{self.path} ends before row {row + count}", _AGAIN)
            parts.append(part)
            wanted, at = wanted - len(part), at + len(part)
        return b"".join(parts)


class Stacked:
    """The rows of one table, then those of another of the same type, read as one."""

    def __init__(self, first: RecordFile | NDArray[np.void], second: RecordFile | NDArray[np.void]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, rows: slice | NDArray[np.integer[Any]]) -> NDArray[np.void]:
        own = len(self._first)
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            parts = self._first[start : min(stop, own)], self._second[max(start - own, 0) : max(stop - own, 0)]
            return np.concatenate(parts)
        inside = rows < own
        first = self._first[rows[inside]]
        found = np.empty(len(rows), dtype=first.dtype)
        found[inside], found[~inside] = first, self._second[rows[~inside] - own]
        return found


def in_parts(rows: RecordFile, at_once: int = 4096) -> Iterator[NDArray[np.void]]:
    """Yield all rows, in order, so many at once; of no rows one empty part."""
    for start in range(0, max(1, len(rows)), at_once):
        yield rows[start : start + at_once]
