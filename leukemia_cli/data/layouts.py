"""How data sets lie on disk: one table, an entry for each shape that is recognised and read.

A layout finds images and says what each is called; what that means for a task is decided in `datasets`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from leukemia_cli.catalog import unknown
from leukemia_cli.data.discovery import FoundFiles, check_folder, find_folders, find_images
from leukemia_cli.data.tables import Table, read_table
from leukemia_cli.data.tasks import class_of, is_ignored
from leukemia_cli.domain import SPLITS, GroupsSource, Task, counted
from leukemia_cli.errors import DataError, UsageError


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
class FoundImage:
    """An image that a source names, not yet opened.

    `relative` is its path within the source and `inner` that below its class folder, both with forward slashes; `group`
    is what the layout itself tells of it.
    """

    path: str
    relative: str
    inner: str
    label: str
    group: str | None = None
    split: str = ""
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


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
    published: bool = False
    """A certain data set, not a general shape; where both are recognised this one is taken."""


# ------------------------------------------------------------------------------------------------------- folders


def _recognise_folders(source: Source, task: Task) -> str | None:
    known = [name for name in find_folders(source.path) if class_of(task, name) and not is_ignored(task, name)]
    if not known:
        return None
    return f"folder{'s' * (len(known) > 1)} {_listed(known)} named like classes of task {task.name}"


def _read_folders(source: Source, task: Task) -> Reading:
    folders = find_folders(source.path)
    if not folders:
        raise DataError(
            f"{source.path} holds no folders, and layout folders needs one for each class",
            "Give the class of the images in it as CLASS=FOLDER, or their labels with --labels FILE.csv",
        )
    images: list[FoundImage] = []
    notes = []
    for name in folders:
        found = find_images(os.path.join(source.path, name))
        if not found.images and class_of(task, name) is None:
            continue
        images += _below(source, found, name)
        notes += _others(os.path.join(source.path, name), found)
    beside = find_images(source.path, deep=False).images
    if beside:
        notes.append(f"{counted(len(beside), 'image')} in {source.path} itself, in no class folder, left out")
    return Reading(images=tuple(images), groups_source="filename", notes=tuple(notes))


def _below(source: Source, found: FoundFiles, folder: str) -> list[FoundImage]:
    """Give the images below a class folder; the first folder below it is their group."""
    images = []
    for path in found.images:
        relative = _relative(path, source.path)
        inner = relative[len(folder) + 1 :] if folder else relative
        first, slash, _ = inner.partition("/")
        images.append(
            FoundImage(path=path, relative=relative, inner=inner, label=folder, group=first if slash else None)
        )
    return images


# ----------------------------------------------------------------------------------------------------- one class


def read_one_class(source: Source, label: str) -> Reading:
    """Read every image below a folder as of one class; folders below it are groups."""
    found = find_images(source.path)
    images = tuple(
        FoundImage(path=i.path, relative=i.relative, inner=i.inner, label=label, group=i.group)
        for i in _below(source, found, "")
    )
    return Reading(images=images, groups_source="filename", notes=tuple(_others(source.path, found)))


# ------------------------------------------------------------------------------------------------------ ALL-IDB1

_IDB_NAME = re.compile(r"Im\d{3}_([01])\.(?:jpg|jpeg|tif|tiff|png|bmp)", re.IGNORECASE)


def _idb_folder(source: Source) -> str:
    inner = os.path.join(source.path, "im")
    return inner if os.path.isdir(inner) else source.path


def _recognise_idb(source: Source, task: Task) -> str | None:
    del task
    folder = _idb_folder(source)
    names = [os.path.basename(path) for path in find_images(folder, deep=False).images]
    if not names or not all(_IDB_NAME.fullmatch(name) for name in names):
        return None
    return f"all {len(names)} images in {folder} are named ImXXX_0 or ImXXX_1"


def _read_idb(source: Source, task: Task) -> Reading:
    del task
    folder = _idb_folder(source)
    found = find_images(folder, deep=False)
    images, strange = [], []
    for path in found.images:
        name = os.path.basename(path)
        match = _IDB_NAME.fullmatch(name)
        if match is None:
            strange.append(name)
            continue
        images.append(FoundImage(path=path, relative=_relative(path, source.path), inner=name, label=match[1]))
    if strange:
        raise DataError(
            f"{len(strange)} images in {folder} are not named ImXXX_0 or ImXXX_1: {_listed(strange)}",
            "Move them elsewhere, or read the folder with another --layout",
        )
    return Reading(images=tuple(images), groups_source="none", notes=tuple(_others(folder, found)))


# ------------------------------------------------------------------------------------------------------ Taleqani

_TALEQANI = ("Benign", "Early", "Pre", "Pro")


def _taleqani_folder(source: Source) -> str:
    inner = os.path.join(source.path, "Original")
    return inner if os.path.isdir(inner) else source.path


def _recognise_taleqani(source: Source, task: Task) -> str | None:
    del task
    folder = _taleqani_folder(source)
    there = [name for name in _TALEQANI if os.path.isdir(os.path.join(folder, name))]
    names = [
        os.path.basename(path) for name in there for path in find_images(os.path.join(folder, name), deep=False).images
    ]
    if not names or not all(name.startswith("WBC-") for name in names):
        return None
    return f"folders {', '.join(there)} in {folder} hold images named WBC-…"


def _read_taleqani(source: Source, task: Task) -> Reading:
    del task
    folder = _taleqani_folder(source)
    notes = []
    if os.path.isdir(os.path.join(source.path, "Segmented")):
        notes.append("Segmented is left out: it holds the images of Original with their background masked")
    images: list[FoundImage] = []
    for name in find_folders(folder):
        found = find_images(os.path.join(folder, name), deep=False)
        if name not in _TALEQANI and found.images:
            raise DataError(
                f"folder {name} in {folder} is none of {', '.join(_TALEQANI)}",
                "Move it elsewhere, or read the data set with --layout folders",
            )
        images += (
            FoundImage(path=path, relative=_relative(path, source.path), inner=os.path.basename(path), label=name)
            for path in found.images
        )
    return Reading(images=tuple(images), groups_source="none", notes=tuple(notes))


# ----------------------------------------------------------------------------------------------------------- csv

PATH_COLUMNS = ("path", "image", "file", "filename")
_SPLIT_NAMES = {**{name: name for name in SPLITS}, "validation": "val", "valid": "val", "calibration": "calib"}


def labels_file(source: Source) -> str | None:
    """Give the labels file that was named, or labels.csv, or the only CSV file in the folder; None for none."""
    if source.labels is not None:
        return source.labels
    try:
        names = sorted(name for name in os.listdir(source.path) if name.lower().endswith(".csv"))
    except OSError:
        return None
    if "labels.csv" in names:
        names = ["labels.csv"]
    return os.path.join(source.path, names[0]) if len(names) == 1 else None


def _recognise_csv(source: Source, task: Task) -> str | None:
    del task
    file = labels_file(source)
    if file is None:
        return None
    if source.labels is not None:
        return f"the labels file {file} was given"
    columns = _columns(file)
    wanted = source.label_column or "label"
    if wanted not in columns or not any(name in columns for name in PATH_COLUMNS):
        return None
    return f"{file} has the columns {', '.join(columns)}"


def _columns(file: str) -> tuple[str, ...]:
    """Give a CSV file's columns, none where it cannot be read: it may be about something else."""
    try:
        return read_table(file).columns
    except DataError:
        return ()


def _read_csv(source: Source, task: Task) -> Reading:
    del task
    file = labels_file(source)
    if file is None:
        raise DataError(f"no labels file in {source.path}", "Name it with --labels FILE.csv")
    table = read_table(file)
    paths = table.column(
        next((name for name in PATH_COLUMNS if name in table.columns), "path"),
        "The column of image paths is named path",
    )
    label_column = source.label_column or "label"
    labels = [source.label] * len(paths) if source.label else table.column(label_column, "Name it with --label-column")
    optional = {
        name: table.column(name) if name in table.columns else [""] * len(paths)
        for name in ("group", "split", "source")
    }
    kept = _kept(source, table)
    images = []
    for row, path in enumerate(paths):
        if not kept[row]:
            continue
        if not path:
            raise DataError(f"{file} line {table.lines[row]} names no image", "Fill in its path, or delete the line")
        images.append(
            FoundImage(
                path=_listed_path(path, source.path, os.path.dirname(file)),
                relative=_within(path, source.path),
                inner=_within(path, source.path),
                label=str(labels[row]),
                group=optional["group"][row] or None,
                split=_split(optional["split"][row], file, table.lines[row]),
                source=optional["source"][row],
                columns=dict(zip(table.columns, table.rows[row], strict=True)),
            )
        )
    groups: GroupsSource = "given" if "group" in table.columns else "none"
    left = len(kept) - sum(kept)
    notes = (f"{left} of {len(kept)} rows of {file} are left out by `only`",) if left else ()
    return Reading(images=tuple(images), groups_source=groups, notes=notes)


def _kept(source: Source, table: Table) -> list[bool]:
    kept = [True] * len(table.rows)
    for column, values in source.only.items():
        cells = table.column(column)
        for value in values:
            if value not in cells:
                error = unknown(f"value of column {column}", value, sorted(set(cells))[:20])
                raise DataError(f"{error.problem} in {table.path}", error.hint)
        kept = [before and cell in values for before, cell in zip(kept, cells, strict=True)]
    return kept


def _split(cell: str, file: str, line: int) -> str:
    if not cell:
        return ""
    name = _SPLIT_NAMES.get(cell.lower())
    if name is None:
        raise DataError(
            f"{file} line {line} has the split {cell!r}", f"Known: {', '.join(SPLITS)}; or leave out the column"
        )
    return name


def _listed_path(path: str, *folders: str) -> str:
    tried = [os.path.normpath(os.path.join(folder, path)) for folder in folders]
    return next((place for place in tried if os.path.lexists(place)), tried[0])


def _within(path: str, folder: str) -> str:
    absolute = os.path.normpath(os.path.join(folder, path))
    if absolute.startswith(folder.rstrip(os.sep) + os.sep):
        return _relative(absolute, folder)
    return absolute.replace(os.sep, "/").lstrip("/")


# --------------------------------------------------------------------------------------------------------- table

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="folders",
            looks_like="a folder for each class, named by it (ALL, healthy, …); folders below it are patients",
            origin="the usual way to lay out images by class, as in torchvision's ImageFolder",
            recognise=_recognise_folders,
            read=_read_folders,
        ),
        Layout(
            name="all-idb1",
            looks_like="images named ImXXX_Y.jpg (Y is 1 for ALL, 0 for healthy), in the folder or in im/",
            origin="Donida Labati, Piuri, Scotti: ALL-IDB, the acute lymphoblastic leukemia image database, ICIP 2011",
            recognise=_recognise_idb,
            read=_read_idb,
            meaning={"1": "ALL", "0": "HTL"},
            published=True,
        ),
        Layout(
            name="taleqani",
            looks_like="Original/Benign, Early, Pre and Pro with images named WBC-…; Benign is HTL, the others are ALL",
            origin="Aria et al.: Acute Lymphoblastic Leukemia (ALL) image dataset, 2021",
            recognise=_recognise_taleqani,
            read=_read_taleqani,
            meaning={"Benign": "HTL", "Early": "ALL", "Pre": "ALL", "Pro": "ALL"},
            published=True,
        ),
        Layout(
            name="csv",
            looks_like="a labels file with the columns path,label[,group][,split][,source]: --labels, or labels.csv",
            origin="ours",
            recognise=_recognise_csv,
            read=_read_csv,
        ),
    )
}


def find_layout(source: Source, task: Task) -> tuple[Layout, str]:
    """Give the layout that was named, or the only one recognised, and why; raises DataError for none or several."""
    if source.layout != "auto":
        if source.layout not in LAYOUTS:
            raise unknown("layout", source.layout, ("auto", *LAYOUTS))
        if source.labels is not None and source.layout != "csv":
            raise UsageError(
                f"layout {source.layout} reads no labels file, and {source.labels} was given",
                "Use --layout csv, or leave out --labels",
            )
        return LAYOUTS[source.layout], "asked for"
    if source.labels is not None:
        return LAYOUTS["csv"], f"the labels file {source.labels} was given"
    found = [(layout, why) for layout in LAYOUTS.values() if (why := layout.recognise(source, task))]
    if any(layout.published for layout, _ in found):
        found = [(layout, why) for layout, why in found if layout.published]
    if len(found) == 1:
        return found[0]
    if found:
        reasons = "; or ".join(f"{layout.name}: {why}" for layout, why in found)
        raise DataError(
            f"{source.path} can be read in {len(found)} ways: {reasons}",
            f"Say which with --layout {' or '.join(layout.name for layout, _ in found)}",
        )
    raise _unrecognised(source)


def _unrecognised(source: Source) -> DataError:
    known = "; ".join(f"{layout.name}: {layout.looks_like}" for layout in LAYOUTS.values())
    found = find_images(source.path)
    if not found.images:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in found.others.items())
        return DataError(
            f"no image below {source.path}: it holds {others or 'no files'}",
            "Name the folder that holds the images",
        )
    file = labels_file(source)
    columns = _columns(file) if file is not None else ()
    if columns:
        return DataError(
            f"the layout of {source.path} is not recognised; {file} has the columns {', '.join(columns)}",
            f"If one of them is the label, name it with --label-column. Known layouts: {known}",
        )
    folders = find_folders(source.path)
    inside = f"folders {_listed(folders)}" if folders else f"{len(found.images)} images and no folders"
    return DataError(
        f"the layout of {source.path} is not recognised: it holds {inside}",
        f"Known layouts: {known}. For images of one class write CLASS=FOLDER",
    )


def check_source(source: Source) -> None:
    """Raise DataError where the source's folder, or its labels file, is not there."""
    check_folder(source.path)
    if source.labels is not None and not os.path.isfile(source.labels):
        raise DataError(f"there is no labels file {source.labels}", "Check the path given with --labels")


# -------------------------------------------------------------------------------------------------------- shared


def _relative(path: str, folder: str) -> str:
    return path[len(folder.rstrip(os.sep)) + 1 :].replace(os.sep, "/")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _others(folder: str, found: FoundFiles) -> list[str]:
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
