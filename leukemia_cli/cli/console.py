"""What a person sees: results on stdout; notes, progress and errors on stderr; Rich only where there is a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from leukemia_cli.errors import LeukError

Item = TypeVar("Item")
PLAIN_EVERY_S = 15.0


class ReaderGone(Exception):
    """Nobody reads stdout any more. Not an OSError: Typer would leave with code 1 at the sight of a broken pipe."""


@dataclass(slots=True)
class Console:
    """One command's way of speaking; `as_json` promises exactly one JSON document on stdout."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    documents: int = field(default=0)

    # ---------------------------------------------------------------------------------------------- to stderr

    def note(self, line: str) -> None:
        """Say one line on stderr; warnings stand out, `--quiet` drops the rest."""
        warning = line.startswith("warning:")
        if self.quiet and not warning:
            return
        line = printable(line)
        if warning and sys.stderr.isatty() and _colours():
            line = f"\x1b[33m{line}\x1b[0m"
        with contextlib.suppress(BrokenPipeError):  # nobody reads along; the work goes on
            print(line, file=sys.stderr, flush=True)

    def error(self, error: LeukError) -> None:
        """Say what is wrong and what to do, in two lines; with `--json` also as the document."""
        with contextlib.suppress(BrokenPipeError):
            print(f"error: {printable(error.problem)}", file=sys.stderr)
            print(f"hint: {printable(error.hint)}", file=sys.stderr, flush=True)
        if self.as_json and not self.documents:
            self.document({"error": {"problem": error.problem, "hint": error.hint, "exit_code": error.exit_code}})

    def track(self, items: Iterable[Item], *, total: int, label: str) -> Iterator[Item]:
        """Show a bar with the time left on a terminal, a plain line every 15 s elsewhere; a `total` of 0 is unknown."""
        if self.quiet:
            return iter(items)
        if sys.stderr.isatty():
            return _bar(items, total, label)
        return _lines(items, total, label, self.note)

    # ---------------------------------------------------------------------------------------------- to stdout

    def document(self, value: object) -> None:
        """Print the one JSON document."""
        self.documents += 1
        self.out(json.dumps(value, indent=2, allow_nan=False))

    def out(self, text: str, end: str = "\n") -> None:
        """Print a result."""
        try:
            sys.stdout.write(text + end)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows as a table: framed on a terminal, aligned plain text elsewhere."""
        rows = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
        if sys.stdout.isatty():
            from rich.console import Console as RichConsole
            from rich.table import Table
            from rich.text import Text

            table = Table(title=Text(title) if title else None, title_justify="left")
            for header in headers:
                table.add_column(Text(header), overflow="fold")
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            RichConsole().print(table)
            return
        if title:
            self.out(title)
        widths = [max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]
        for row in (headers, *rows):
            self.out("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Write control characters, which names of files may hold, as `\\x1b`; line ends and undecodable bytes stay."""
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" and c != "\n" else c for c in text)


def _colours() -> bool:
    import os

    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _bar(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total or None)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[Item], total: int, label: str, note: Callable[[str], None]) -> Iterator[Item]:
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= PLAIN_EVERY_S:
            said = now
            left = f", about {(now - started) / done * (total - done):.0f} s left" if total else ""
            note(f"{label}: {done}{f' of {total}' if total else ''}{left}")
