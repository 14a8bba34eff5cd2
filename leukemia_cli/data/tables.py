"""Read CSV files that people wrote: any of three delimiters, a byte-order mark, names that are not UTF-8."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from leukemia_cli.catalog import unknown
from leukemia_cli.errors import DataError

_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of a CSV file, stripped of white space at their ends; `lines` are the line numbers of `rows`."""

    path: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str, hint: str = "") -> list[str]:
        """Give a column's cells; raises DataError, naming the columns there are, where it is not one of them."""
        index = self.index(name, hint)
        return [row[index] for row in self.rows]

    def index(self, name: str, hint: str = "") -> int:
        """Give a column's place; raises as `column` does."""
        if name not in self.columns:
            near = unknown("column", name, self.columns)
            raise DataError(
                f"{self.path} has no column {name!r}",
                f"{near.hint}{'. ' + hint if hint else ''}".replace("Known:", "It has:"),
            )
        return self.columns.index(name)


def read_table(path: str) -> Table:
    """Read a CSV file with a header; raises DataError where there is none, or a row is longer than its header."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {os.strerror(error.errno or 0)}", "Check the path") from error
    if b"\0" in content:
        raise DataError(f"{path} is no UTF-8 text", "Save it as CSV in UTF-8")
    text = content.decode("utf-8-sig", errors="surrogateescape")
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        parsed = list(_rows(io.StringIO(text, newline=""), delimiter))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file: {error}", "Save it as CSV in UTF-8") from error
    if not parsed:
        raise DataError(f"{path} is empty", "Its first line must name the columns, such as path,label,group")
    columns = parsed[0][1]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{path} has two columns named {twice!r}", "Rename one of them")
    rows, lines = [], []
    for line, row in parsed[1:]:
        if len(row) > len(columns):
            raise DataError(
                f"{path} line {line} has {len(row)} cells under {len(columns)} columns",
                f"Put cells that hold {delimiter!r} between double quotes",
            )
        rows.append((*row, *[""] * (len(columns) - len(row))))
        lines.append(line)
    return Table(path=path, columns=columns, rows=tuple(rows), lines=tuple(lines))


def _rows(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    reader = csv.reader(lines, delimiter=delimiter)
    for row in reader:
        cells = tuple(cell.strip() for cell in row)
        if any(cells):
            yield reader.line_num, cells
