"""Find the image files below a folder: sorted, each once, hidden ones left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.errors import DataError

_PASSED_OVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """Absolute paths of files that are images by their name; and how many others there were, by suffix."""

    images: tuple[str, ...]
    others: Mapping[str, int]


def is_image_name(name: str) -> bool:
    """Tell by the end of a file's name, in capitals or not."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def find_images(folder: str | os.PathLike[str], *, deep: bool = True) -> FoundFiles:
    """Find images in a folder and, if `deep`, below it; raises DataError where it is no folder that can be read.

    A folder is a folder whatever its name ends in. Links are followed, but no folder is entered twice.
    """
    root = os.path.abspath(folder)
    check_folder(root)
    images: list[str] = []
    others: Counter[str] = Counter()
    entered: set[tuple[int, int]] = set()
    waiting: list[str] = [root]
    linked: list[str] = []
    while waiting or linked:
        path = (
            waiting.pop() if waiting else linked.pop()
        )  # real folders first: a link is not to shadow what it points to
        entries = _entries(path, entered)
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _PASSED_OVER:
                continue
            if entry.is_dir():
                if deep:
                    (linked if entry.is_symlink() else waiting).append(entry.path)
            elif is_image_name(entry.name):
                images.append(entry.path)
            else:
                others[os.path.splitext(entry.name)[1].lower()] += 1
    return FoundFiles(images=tuple(sorted(images)), others=dict(sorted(others.items())))


def find_folders(folder: str) -> list[str]:
    """Give the names of the folders right below one, sorted, hidden ones left out."""
    return sorted(
        entry.name
        for entry in _entries(folder, set())
        if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in _PASSED_OVER
    )


def check_folder(path: str) -> None:
    """Raise DataError, saying what is there instead, where `path` is no folder."""
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        hint = "Name the folder that holds the images"
        if path.lower().endswith((".csv", ".tsv")):
            hint = "Name the folder that holds the images, and this file with --labels"
        raise DataError(f"{path} is a file, not a folder", hint)
    parent = path
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    raise DataError(f"there is no folder {path}", f"Check the path: it exists up to {parent}")


def _entries(path: str, entered: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    try:
        facts = os.stat(path)
        if (facts.st_dev, facts.st_ino) in entered:
            return []
        entered.add((facts.st_dev, facts.st_ino))
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise DataError(f"cannot look into folder {path}: {reason}", "Make it readable, or leave it out") from error
