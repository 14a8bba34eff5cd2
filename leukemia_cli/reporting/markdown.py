"""Markdown whose tables, warnings and notes look alike in every file, and in which no name is read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from leukemia_cli.reporting.caveats import RANDOM
from leukemia_cli.reporting.html import plain

_MARKS = "\\`*_[]<>|#"


def literal(line: str, *, also: str = "") -> str:
    """Keep one line from being read as Markdown or HTML; `also` are further marks that shall mean nothing."""
    return line.translate({ord(mark): f"\\{mark}" for mark in _MARKS + also})


def text(given: str) -> str:
    """Keep a name from being read as Markdown, HTML, mathematics or a line break."""
    return literal(plain(given), also="&~$")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """Give a table of cells that are Markdown; the first `names` columns are text, numbers stand to the right."""
    lines = [header, ["---"] * names + ["---:"] * (len(header) - names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbered(notes: Iterable[str]) -> str:
    """Give notes that are Markdown with their numbers, from 1."""
    return "\n".join(f"{place}. {note}" for place, note in enumerate(notes, start=1))


def warnings_block(warnings: Sequence[str]) -> str:
    """Give warnings that are Markdown, the loudest in bold; '' where there are none."""
    lines = [f"> - **{warning}**" if warning.startswith(RANDOM) else f"> - {warning}" for warning in warnings]
    return "\n".join(["> **Warnings**", ">", *lines]) if lines else ""
