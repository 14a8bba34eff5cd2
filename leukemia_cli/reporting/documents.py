"""One document on stdout or none: half a document looks like a result to whoever reads it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from leukemia_cli.workspace.files import disk_errors

_MOST_HELD = 4_000_000
_PART = 1_000_000
"""Characters that are held in memory before a temporary file takes over, and that go out at once."""


@contextlib.contextmanager
def held_back(out: Callable[[str, str], None]) -> Iterator[Callable[[str], None]]:
    """Give what takes the parts of a document, which goes to `out` when the block ends well, and never otherwise.

    `out` takes a text and its end. Raises MachineError where the folder for temporary files is full.
    """
    place = Path(tempfile.gettempdir())
    with tempfile.SpooledTemporaryFile(
        _MOST_HELD, mode="w+", encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:

        def write(text: str) -> None:
            with disk_errors(place):
                file.write(text)

        yield write
        with disk_errors(place):
            file.seek(0)
        while part := file.read(_PART):
            out(part, "")
