"""What is said of a source, and what a layout finds in it: the values that every layout takes and gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from leukemia_cli.data.discovery import FoundFiles
from leukemia_cli.domain import GroupsSource, Task

Holds = Literal["fields", "crops", "unknown"]
"""What the images of a layout show: fields of view with many cells, crops of one cell each, or either."""

LabelsTell = Literal["diseases", "cells", "either"]
"""What a layout's labels are: of the person's disease, of the kind of a cell, or whatever its maker chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder of images and all that was said about it; `path` is absolute, `places` is where files are looked for."""

    path: str
    name: str
    layout: str = "auto"
    labels: str | None = None
    label_column: str | None = None
    label: str | None = None
    """The class of every image, where one was given."""
    map: Mapping[str, str | None] = field(default_factory=dict)
    """Raw label → class, or None to leave its images out."""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column → the values whose rows are kept."""
    group_by: str = "auto"
    places: tuple[str, ...] = ()

    def locate(self, file: str) -> str:
        """Give where a file lies: the first of `places` that has it, or this folder; the first where none has."""
        tried = [os.path.join(place, file) for place in (*self.places, self.path)]
        return os.path.abspath(next((path for path in tried if os.path.exists(path)), tried[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a data set says of one cell: its centre, its box if it gives one, and its raw kind.

    In px of the stored image, from its upper left corner; where `relative`, in parts of its width and height instead.
    """

    x: float
    y: float
    label: str
    width: float | None = None
    height: float | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image that a source names, not yet opened.

    `relative` is its path within the source and `inner` that below its class folder, both with forward slashes; `group`
    is what the layout itself tells of it. `label` is "" where a data set says what cells are, not what the image is.
    """

    path: str
    relative: str
    inner: str
    label: str
    group: str | None = None
    split: str = ""
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[Mark, ...] | None = None
    """Its cells; None where they are not marked, () where they are and there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a layout found: images, how it knows their groups, and what a person should hear about it."""

    images: tuple[FoundImage, ...]
    groups_source: GroupsSource
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One shape of data set; `meaning` gives the class names behind raw labels that no task would know."""

    name: str
    looks_like: str
    origin: str
    recognise: Callable[[Source, Task], str | None]
    """Say in half a sentence why a source has this layout, or None."""
    read: Callable[[Source, Task], Reading]
    meaning: Mapping[str, str] = field(default_factory=dict)
    cells: Holds = "unknown"
    labels: LabelsTell = "either"
    cut_from: str | None = None
    """The layout of the data set from whose photographs these images were cut."""
    published: bool = False
    """A certain data set, not a general shape; where both are recognised this one is taken."""


# -------------------------------------------------------------------------------------------------------- shared


def relative_path(path: str, folder: str) -> str:
    """Give a path below a folder without the folder, with forward slashes."""
    return path[len(folder.rstrip(os.sep)) + 1 :].replace(os.sep, "/")


def listed(names: Sequence[str]) -> str:
    """Name at most eight, and count the others."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def other_formats(folder: str, found: FoundFiles) -> list[str]:
    """Say which files of a folder are images of a format that is not read; nothing where there are none."""
    strange = {suffix: n for suffix, n in found.others.items() if suffix in _OTHER_IMAGES}
    if not strange:
        return []
    counts = ", ".join(f"{n} {suffix}" for suffix, n in strange.items())
    return [f"left out in {folder}, of formats that are not read: {counts}"]


_OTHER_IMAGES = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".czi",
        ".lif",
        ".nd2",
        ".dcm",
        ".raw",
        ".cr2",
        ".nef",
    }
    | {".dng", ".psd", ".tga", ".ico", ".jxl", ".exr", ".npy", ".pdf", ".svg"}
)
