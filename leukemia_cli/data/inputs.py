"""What `leuk classify` was pointed at becomes a stream of paths, in order; nothing that was named is dropped.

Requirements met here:
- What cannot be meant (a folder or pattern without an image, a list that cannot be read) fails before the first path.
- What can be meant but is broken (a missing file, a folder named x.png) is yielded: it becomes an error row.
- Paths come out with the bytes they were given in; a folder of a million images is never held whole.
"""

from __future__ import annotations

import csv
import glob
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from leukemia_cli.csv_rows import plain_text
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.remote import is_remote, list_remote

PATH_COLUMN = "path"
_FINDINGS = [PATH_COLUMN, "label", "decision"]
"""The first columns of what classify writes: there an apostrophe may stand before a path."""
_PASSED_OVER = "__MACOSX"  # what macOS puts into archives beside every file


def expand_inputs(inputs: Sequence[str], suffixes: Iterable[str], stdin: Iterable[bytes] = ()) -> Iterator[str]:
    """Give the image paths that `inputs` mean: files as they are, folders and globs in sorted order, `@FILE`, `-`.

    Every input but stdin is looked into at once. Raises DataError for a folder or glob without an image and for an
    `@FILE` that cannot be read, UsageError for an empty word.
    """
    endings = tuple(s.lower() for s in suffixes)
    return itertools.chain.from_iterable([_expanded(given, endings, stdin) for given in inputs])


def _expanded(given: str, endings: tuple[str, ...], stdin: Iterable[bytes]) -> Iterable[str]:
    if not given:
        raise UsageError("an input is an empty word", "Look at the shell variable that was to hold a path")
    if given == "-":
        return _lines(stdin)
    if is_remote(given):
        return _elsewhere(given, endings)
    if given.startswith("@") and not os.path.lexists(given):
        return _listed(Path(given[1:]))
    if os.path.isdir(given):
        return _folder_or_itself(given, endings)
    if not os.path.lexists(given) and glob.has_magic(given):
        return _matching(given, endings)
    return (given,)


def _elsewhere(given: str, endings: tuple[str, ...]) -> Iterable[str]:
    """Give an address as it is, or the images below an s3:// folder, which ends in a slash."""
    if not given.endswith("/"):
        return (given,)
    if not given.startswith("s3://"):
        raise UsageError(
            f"{given} is a folder, and only s3:// folders can be listed", "Name the files, or list them in @FILE"
        )
    nothing = DataError(f"no images in folder {given}", f"It is searched for {' '.join(sorted(endings))}")
    return _begun(list_remote(given, endings), nothing)


def _matching(pattern: str, endings: tuple[str, ...]) -> Iterable[str]:
    """Give the files that a pattern matches and the images in folders that it matches; `…/**` is the folder itself."""
    shorter = pattern
    while shorter.endswith(("/**", "/**/")):
        shorter = shorter.rstrip("/*") or "/"
    if shorter != pattern and not glob.has_magic(shorter):
        return _folder_or_itself(shorter, endings)
    found = sorted(glob.glob(shorter, recursive=True))
    if _PASSED_OVER not in shorter:
        found = [path for path in found if _PASSED_OVER not in Path(path).parts]
    folders = [path for path in found if os.path.isdir(path)]
    if "**" in shorter and len(folders) < len(found):
        found = [path for path in found if not os.path.isdir(path)]
    parts = [_in_folder(path, endings) if os.path.isdir(path) else iter((path,)) for path in found]
    return _begun(
        itertools.chain.from_iterable(parts),
        DataError(f"nothing matches {pattern}", "Check the pattern, and quote it so that ** works"),
    )


def _folder_or_itself(folder: str, endings: tuple[str, ...]) -> Iterable[str]:
    """Give the images in a folder; one without any, but named like an image, is given itself, to become an error row."""
    nothing = DataError(f"no images in folder {folder}", f"It is searched for {' '.join(sorted(endings))}")
    try:
        return _begun(_in_folder(folder, endings), nothing)
    except DataError:
        if folder.rstrip("/").lower().endswith(endings):
            return (folder,)
        raise


def _begun(paths: Iterator[str], nothing: DataError) -> Iterator[str]:
    """Take the first path now, so that what is missing is known before any work; raises `nothing` where there is none."""
    for first in paths:
        return itertools.chain((first,), paths)
    raise nothing


def _in_folder(folder: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield images below a folder in sorted order; links to folders are followed, no folder is entered twice.

    A folder below that cannot be looked into is yielded itself: it becomes an error row.
    """
    entered: set[tuple[int, int]] = set()
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        unreadable.append(os.fspath(error.filename))

    for root, folders, files in os.walk(folder, followlinks=True, onerror=note):
        yield from unreadable
        unreadable.clear()
        facts = os.stat(root)
        if (facts.st_dev, facts.st_ino) in entered:
            folders.clear()
            continue
        entered.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != _PASSED_OVER)
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield os.path.join(root, name)
    yield from unreadable


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    for line in stream:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path.strip():
            yield path


def _listed(file: Path) -> Iterable[str]:
    """Read one path a line, or the `path` column of a CSV; relative paths start at the current folder."""
    paths = _list_lines(file)
    return _begun(paths, DataError(f"the list {file} names no file", "Write one path a line, or a column named path"))


def _list_lines(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as stream:
            first = stream.readline().removeprefix(b"\xef\xbb\xbf")
            columns = next(csv.reader([os.fsdecode(first.rstrip(b"\r\n"))]), [])
            if PATH_COLUMN not in columns:
                if len(columns) > 1 and file.suffix.lower() == ".csv":
                    raise DataError(
                        f"the list {file} has no column {PATH_COLUMN!r}, but {', '.join(columns)}",
                        f"Name the column of the files {PATH_COLUMN!r}, or write one path a line",
                    )
                yield from _lines([first])
                yield from _lines(stream)
                return
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
            own = columns[: len(_FINDINGS)] == _FINDINGS
            for row in csv.DictReader(text, fieldnames=columns):
                path: str | None = row[PATH_COLUMN]
                if path:
                    yield plain_text(path) if own else path
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error.strerror}", "Check the path after @") from error
    except csv.Error as error:
        raise DataError(
            f"the list {file} is no CSV: {error}", "Write one path a line, or a column named path"
        ) from error


def check_outside(flag: str, folder: Path, inputs: Sequence[str]) -> None:
    """Raise UsageError for a folder of pictures inside a folder of inputs: they would be looked at like photographs."""
    for given in inputs:
        searched = Path(given.rstrip("/*") or "/")
        if given != "-" and searched.is_dir() and folder.resolve().is_relative_to(searched.resolve()):
            raise UsageError(
                f"{flag} {folder} lies in the input folder {searched}: its pictures would become inputs",
                "Name a folder outside it",
            )
