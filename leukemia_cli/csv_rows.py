"""A row of a CSV for people: no cell of it is a formula to a spreadsheet, and every cell reads back as what it was.

This module imports nothing of the package, so that every room can write the same CSV. What the program itself reads back
whatever a person did to it, manifest.csv, is not written by it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

Scalar = str | float | int | None

# What a spreadsheet takes for the beginning of a formula, or cuts off before it looks for one. An apostrophe in front makes
# it text; a text that has such apostrophes of its own gets one more, so that taking one away always gives the text back.
# Source: https://owasp.org/www-community/attacks/CSV_Injection (signs, control characters, full-width forms).
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def csv_line(cells: Sequence[Scalar]) -> str:
    """Give one CSV line with its end; None is an empty cell, a number stays one, a text that would be a formula gets `'`."""
    return ",".join(map(_cell, cells)) + "\n"


def csv_cells(line: str) -> list[str]:
    """Give the cells of one line of `csv_line` with texts as they were; raises ValueError where it is no such line."""
    try:
        (cells,) = csv.reader([line], strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"no line of CSV: {error}") from error
    return list(map(plain_text, cells))


def plain_text(cell: str) -> str:
    """Give the text that a cell of `csv_line` was made of."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def _cell(cell: Scalar) -> str:
    """Quote a cell that needs it; csv.writer before Python 3.13 leaves a lone carriage return as it is."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return str(cell)
    text = f"'{cell}" if _FORMULA.match(cell) else cell
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
