"""What `leuk classify` was pointed at becomes a stream of paths, in order; nothing that was named is dropped."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from leukemia_cli.errors import DataError

PATH_COLUMN = "path"


def expand_inputs(inputs: Sequence[str], suffixes: Iterable[str], stdin: Iterable[bytes] = ()) -> Iterator[str]:
    """Yield the image paths that `inputs` mean: files as they are, folders and globs in sorted order, `@FILE`, `-`.

    A path that does not exist is yielded too: it becomes an error row, not a silence. Raises DataError for a folder or
    glob without an image, and for an `@FILE` that cannot be read.
    """
    endings = tuple(s.lower() for s in suffixes)
    for given in inputs:
        if given == "-":
            yield from _lines(stdin)
        elif given.startswith("@") and not os.path.lexists(given):
            yield from _listed(Path(given[1:]))
        elif Path(given).is_dir():
            yield from _in_folder(given, endings)
        elif not os.path.lexists(given) and glob.has_magic(given):
            found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - keeps the path as it was given
            if not found:
                raise DataError(f"nothing matches {given}", "Check the pattern, and quote it so that ** works")
            for path in found:
                if Path(path).is_dir():
                    yield from _in_folder(path, endings)
                else:
                    yield path
        else:
            yield given


def _in_folder(folder: str, endings: tuple[str, ...]) -> Iterator[str]:
    found = False
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("."):
                found = True
                yield os.path.join(root, name)  # noqa: PTH118 - keeps the path as it was given
    if not found:
        raise DataError(f"no images in folder {folder}", f"It is searched for {' '.join(sorted(endings))}")


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    for line in stream:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path.strip():
            yield path


def _listed(file: Path) -> Iterator[str]:
    """Read one path a line, or the `path` column of a CSV; relative paths start at the current folder."""
    try:
        with file.open("rb") as stream:
            first = stream.readline().removeprefix(b"\xef\xbb\xbf")
            columns = next(csv.reader([os.fsdecode(first.rstrip(b"\r\n"))]), [])
            if PATH_COLUMN not in columns:
                yield from _lines([first])
                yield from _lines(stream)
                return
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
            rows: Iterable[Mapping[str, str | None]] = csv.DictReader(text, fieldnames=columns)
            for row in rows:
                path = row[PATH_COLUMN]
                if path:
                    yield path
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error.strerror}", "Check the path after @") from error
