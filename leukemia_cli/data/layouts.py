"""How data sets lie on disk: one table, an entry for each shape that is recognised and read.

A layout finds images and says what each is called; what that means for a task is decided in `datasets`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from leukemia_cli.catalog import unknown
from leukemia_cli.data import boxes, published
from leukemia_cli.data.discovery import FoundFiles, check_folder, find_folders, find_images
from leukemia_cli.data.sources import (
    FoundImage,
    Layout,
    Mark,
    Reading,
    Source,
    listed,
    other_formats,
    relative_path,
)
from leukemia_cli.data.tables import Table, read_table
from leukemia_cli.data.tasks import class_of, is_ignored
from leukemia_cli.domain import SPLITS, GroupsSource, Task, counted
from leukemia_cli.errors import DataError, UsageError

__all__ = (
    "LAYOUTS",
    "PATH_COLUMNS",
    "FoundImage",
    "Layout",
    "Mark",
    "Reading",
    "Source",
    "check_source",
    "find_layout",
    "labels_file",
    "read_one_class",
)

# ------------------------------------------------------------------------------------------------------- folders


def _recognise_folders(source: Source, task: Task) -> str | None:
    known = [name for name in find_folders(source.path) if class_of(task, name) and not is_ignored(task, name)]
    if not known:
        return None
    return f"folder{'s' * (len(known) > 1)} {listed(known)} named like classes of task {task.name}"


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
        notes += other_formats(os.path.join(source.path, name), found)
    beside = find_images(source.path, deep=False).images
    if beside:
        notes.append(f"{counted(len(beside), 'image')} in {source.path} itself, in no class folder, left out")
    return Reading(images=tuple(images), groups_source="filename", notes=tuple(notes))


def _below(source: Source, found: FoundFiles, folder: str) -> list[FoundImage]:
    """Give the images below a class folder; the first folder below it is their group."""
    images = []
    for path in found.images:
        relative = relative_path(path, source.path)
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
    return Reading(images=images, groups_source="filename", notes=tuple(other_formats(source.path, found)))


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
        return relative_path(absolute, folder)
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
            looks_like="images named ImXXX_Y.jpg (Y is 1 for ALL, 0 for healthy), in the folder or in im/; xyc/ marks blasts",
            origin="Donida Labati, Piuri, Scotti: ALL-IDB, the acute lymphoblastic leukemia image database, ICIP 2011",
            recognise=published.recognise_all_idb1,
            read=published.read_all_idb1,
            meaning={"1": "ALL", "0": "HTL"},
            cells="fields",
            labels="diseases",
            published=True,
        ),
        Layout(
            name="all-idb2",
            looks_like="crops named ImXXX_Y.tif (Y is 1 for a blast, 0 for a cell of a healthy person), in the folder or in img/",
            origin="Donida Labati, Piuri, Scotti: ALL-IDB, the acute lymphoblastic leukemia image database, ICIP 2011",
            recognise=published.recognise_all_idb2,
            read=published.read_all_idb2,
            meaning={"1": "ALL", "0": "HTL"},
            cells="crops",
            labels="diseases",
            cut_from="all-idb1",
            published=True,
        ),
        Layout(
            name="taleqani",
            looks_like="Original/Benign, Early, Pre and Pro with images named WBC-…; Benign is HTL, the others are ALL",
            origin="Aria et al.: Acute Lymphoblastic Leukemia (ALL) image dataset, 2021",
            recognise=published.recognise_taleqani,
            read=published.read_taleqani,
            meaning={"Benign": "HTL", "Early": "ALL", "Pre": "ALL", "Pro": "ALL"},
            cells="fields",
            labels="diseases",
            published=True,
        ),
        Layout(
            name="c-nmc",
            looks_like="cells named UID_SUBJECT_…_all.bmp or …_hem.bmp, in folders or not; the subject is the group",
            origin="Gupta, Gupta: ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive",
            recognise=published.recognise_cnmc,
            read=published.read_cnmc,
            meaning={"all": "ALL", "hem": "HTL"},
            cells="crops",
            labels="diseases",
            published=True,
        ),
        Layout(
            name="aml-lmu",
            looks_like="folders of abbreviations with cells named BAS_0001.tiff, in the folder or in AML-Cytomorphology/",
            origin="Matek et al.: AML-Cytomorphology_LMU, The Cancer Imaging Archive 2019",
            recognise=published.recognise_aml_lmu,
            read=published.read_aml_lmu,
            meaning=published.AML_LMU_KINDS,
            cells="crops",
            labels="cells",
            published=True,
        ),
        Layout(
            name="marrow-mll",
            looks_like="folders of abbreviations with cells named ABE_00001.jpg, in the folder or in BM_cytomorphology_data/",
            origin="Matek et al.: Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer, The Cancer Imaging Archive 2021",
            recognise=published.recognise_marrow,
            read=published.read_marrow,
            meaning=published.MARROW_KINDS,
            cells="crops",
            labels="cells",
            published=True,
        ),
        Layout(
            name="pbc-barcelona",
            looks_like="folders basophil, eosinophil, erythroblast, ig, … with cells named BA_100102.jpg",
            origin="Acevedo et al.: dataset of microscopic peripheral blood cell images, Data in Brief 2020",
            recognise=published.recognise_pbc,
            read=published.read_pbc,
            meaning=published.PBC_KINDS,
            cells="crops",
            labels="cells",
            published=True,
        ),
        Layout(
            name="raabin-wbc",
            looks_like="Train, TestA and TestB, each with the folders Basophil, Eosinophil, Lymphocyte, Monocyte, Neutrophil",
            origin="Kouzehkanan et al.: Raabin-WBC, double-labelled crops, Scientific Reports 2022",
            recognise=published.recognise_raabin,
            read=published.read_raabin,
            meaning=published.RAABIN_KINDS,
            cells="crops",
            labels="cells",
            published=True,
        ),
        Layout(
            name="lisc",
            looks_like="Main Dataset with the folders Baso, eosi, lymp, mono, neut of numbered BMP files; mixt is left out",
            origin="Rezatofighi, Soltanian-Zadeh: LISC, Computerized Medical Imaging and Graphics 2011",
            recognise=published.recognise_lisc,
            read=published.read_lisc,
            meaning=published.LISC_KINDS,
            cells="fields",
            labels="cells",
            published=True,
        ),
        Layout(
            name="chula-rbc-12",
            looks_like="Dataset with numbered images and Label with their points: x, y and the type of a red cell",
            origin="Naruenatthanaset et al.: Chula RBC-12, arXiv 2012.01321",
            recognise=published.recognise_chula,
            read=published.read_chula,
            meaning=published.CHULA_KINDS,
            cells="fields",
            labels="cells",
            published=True,
        ),
        Layout(
            name="voc",
            looks_like="JPEGImages/x.jpg with boxes in Annotations/x.xml, or x.xml beside x.jpg",
            origin="Everingham et al.: The PASCAL Visual Object Classes Challenge; BCCD is laid out so",
            recognise=boxes.recognise_voc,
            read=boxes.read_voc_set,
            labels="cells",
        ),
        Layout(
            name="coco",
            looks_like="a JSON file with images, annotations and categories, above the images or in annotations/",
            origin="Lin et al.: Microsoft COCO, cocodataset.org, data format",
            recognise=boxes.recognise_coco,
            read=boxes.read_coco_set,
            labels="cells",
        ),
        Layout(
            name="yolo",
            looks_like="images/x.jpg with boxes in labels/x.txt, and class names in data.yaml, classes.txt or obj.names",
            origin="Ultralytics YOLO format, docs.ultralytics.com; TXL-PBC is laid out so",
            recognise=boxes.recognise_yolo,
            read=boxes.read_yolo_set,
            labels="cells",
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
    known = "; ".join(f"{layout.name}: {layout.looks_like}" for layout in LAYOUTS.values() if not layout.published)
    known += f"; and the data sets {', '.join(layout.name for layout in LAYOUTS.values() if layout.published)}"
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
    inside = f"folders {listed(folders)}" if folders else f"{len(found.images)} images and no folders"
    return DataError(
        f"the layout of {source.path} is not recognised: it holds {inside}",
        f"Known layouts: {known}. For images of one class write CLASS=FOLDER",
    )


def check_source(source: Source) -> None:
    """Raise DataError where the source's folder, or its labels file, is not there."""
    check_folder(source.path)
    if source.labels is not None and not os.path.isfile(source.labels):
        raise DataError(f"there is no labels file {source.labels}", "Check the path given with --labels")
