"""Layouts of certain data sets, by the names that their authors gave to folders and files.

Every naming here is published, and each reader says where. What a naming does not tell (patients, most often) is not
guessed from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from leukemia_cli.data.discovery import FoundFiles, find_folders, find_images
from leukemia_cli.data.marks import read_typed_points, read_xyc
from leukemia_cli.data.sources import FoundImage, Mark, Reading, Source, listed, other_formats, relative_path
from leukemia_cli.data.tables import read_table
from leukemia_cli.domain import Task, counted
from leukemia_cli.errors import DataError

# ------------------------------------------------------------------------------------------------------- ALL-IDB

_IDB_NAME = re.compile(r"Im(\d{3})_([01])\.(jpg|jpeg|tif|tiff|png|bmp)", re.IGNORECASE)
_IDB1_IMAGES = 108  # ALL-IDB2 numbers its 260 crops from 001 too


def _idb_folder(source: Source, name: str) -> str:
    inner = os.path.join(source.path, name)
    return inner if os.path.isdir(inner) else source.path


def _idb_crops(folder: str, names: list[str]) -> bool:
    """Tell ALL-IDB2's crops from ALL-IDB1's fields, which lie in im/, have centroids, and are JPEG files."""
    if os.path.basename(folder) == "im" or os.path.isdir(os.path.join(folder, "xyc")):
        return False
    found = [match for name in names if (match := _IDB_NAME.fullmatch(name))]
    tiff = all(match[3].lower() in ("tif", "tiff") for match in found)
    return tiff or any(int(match[1]) > _IDB1_IMAGES for match in found)


def _recognise_idb(folder: str, crops: bool) -> str | None:
    names = [os.path.basename(path) for path in find_images(folder, deep=False).images]
    if not names or not all(_IDB_NAME.fullmatch(name) for name in names) or _idb_crops(folder, names) != crops:
        return None
    return f"all {len(names)} images in {folder} are named ImXXX_0 or ImXXX_1" + (", and are crops" if crops else "")


def recognise_all_idb1(source: Source, task: Task) -> str | None:
    """Recognise fields named ImXXX_Y in the folder or in im/."""
    del task
    return _recognise_idb(_idb_folder(source, "im"), crops=False)


def recognise_all_idb2(source: Source, task: Task) -> str | None:
    """Recognise crops named ImXXX_Y in the folder or in img/: TIFF files, or more of them than ALL-IDB1 has fields."""
    del task
    return _recognise_idb(_idb_folder(source, "img"), crops=True)


def read_all_idb1(source: Source, task: Task) -> Reading:
    """Read fields with their label Y, and their centroids of probable blasts where the .xyc files are there.

    A centroid has its image's label: in an image of a patient with ALL it is a probable blast.
    Source: Donida Labati, Piuri, Scotti: ALL-IDB, ICIP 2011, and homes.di.unimi.it/scotti/all (ImXXX_Y, im/ and xyc/).
    """
    del task
    folder = _idb_folder(source, "im")
    found = find_images(folder, deep=False)
    images = []
    for path, label in _idb_labels(folder, found):
        images.append(
            FoundImage(
                path=path,
                relative=relative_path(path, source.path),
                inner=os.path.basename(path),
                label=label,
                marks=_idb_marks(path, label),
            )
        )
    notes = other_formats(folder, found)
    unmarked = sum(image.marks is None for image in images)
    if 0 < unmarked < len(images):
        notes.append(f"{counted(unmarked, 'image')} in {folder} without a file of centroids (.xyc): cells not marked")
    odd = sum(bool(image.marks) for image in images if image.label == "0")
    if odd:
        notes.append(f"{counted(odd, 'healthy image')} in {folder} with centroids, which are of probable blasts: look")
    return Reading(images=tuple(images), groups_source="none", notes=tuple(notes))


def read_all_idb2(source: Source, task: Task) -> Reading:
    """Read crops with their label Y, whether the cell in the middle is a blast; which field each is from is not told.

    Source: as ALL-IDB1. Y = 0 are cells of healthy individuals, Y = 1 probable blasts of patients.
    """
    del task
    folder = _idb_folder(source, "img")
    found = find_images(folder, deep=False)
    images = tuple(
        FoundImage(path=path, relative=relative_path(path, source.path), inner=os.path.basename(path), label=label)
        for path, label in _idb_labels(folder, found)
    )
    return Reading(images=images, groups_source="none", notes=tuple(other_formats(folder, found)))


def _idb_labels(folder: str, found: FoundFiles) -> list[tuple[str, str]]:
    """Give each image with its label; raises DataError where one has another name."""
    names = [(path, os.path.basename(path)) for path in found.images]
    labels = [(path, match[2]) for path, name in names if (match := _IDB_NAME.fullmatch(name))]
    if len(labels) < len(names):
        strange = [name for _, name in names if _IDB_NAME.fullmatch(name) is None]
        raise DataError(
            f"{len(strange)} images in {folder} are not named ImXXX_0 or ImXXX_1: {listed(strange)}",
            "Move them elsewhere, or read the folder with another --layout",
        )
    return labels


def _idb_marks(path: str, label: str) -> tuple[Mark, ...] | None:
    """Give the cells of an image by its file of centroids, beside it or in xyc/; None where there is no such file."""
    folder, name = os.path.split(path)
    name = os.path.splitext(name)[0] + ".xyc"
    places = [folder, os.path.join(folder, "xyc")]
    if os.path.basename(folder) == "im":
        places.append(os.path.join(os.path.dirname(folder), "xyc"))
    file = next((file for place in places if os.path.isfile(file := os.path.join(place, name))), None)
    return None if file is None else read_xyc(file, label)


# ------------------------------------------------------------------------------------------------------ Taleqani

_TALEQANI = ("Benign", "Early", "Pre", "Pro")


def _taleqani_folder(source: Source) -> str:
    inner = os.path.join(source.path, "Original")
    return inner if os.path.isdir(inner) else source.path


def recognise_taleqani(source: Source, task: Task) -> str | None:
    """Recognise the folders of subtypes, in the folder or in Original/, by images named WBC-…"""
    del task
    folder = _taleqani_folder(source)
    there = [name for name in _TALEQANI if os.path.isdir(os.path.join(folder, name))]
    names = [
        os.path.basename(path) for name in there for path in find_images(os.path.join(folder, name), deep=False).images
    ]
    if not names or not all(name.startswith("WBC-") for name in names):
        return None
    return f"folders {', '.join(there)} in {folder} hold images named WBC-…"


def read_taleqani(source: Source, task: Task) -> Reading:
    """Read the images of the subtypes; raises DataError for images in another folder.

    Source: Aria et al.: Acute Lymphoblastic Leukemia (ALL) image dataset, Kaggle 2021, doi 10.34740/KAGGLE/DSV/2175623.
    """
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
            FoundImage(path=path, relative=relative_path(path, source.path), inner=os.path.basename(path), label=name)
            for path in found.images
        )
    return Reading(images=tuple(images), groups_source="none", notes=tuple(notes))


# --------------------------------------------------------------------------------------------------------- C-NMC

_CNMC_NAME = re.compile(r"UID_(H?\d+)_\d+_\d+_(all|hem)\.\w+", re.IGNORECASE)
_CNMC_TEST = "C-NMC_test_"
_CNMC_COLUMNS = ("Patient_ID", "new_names", "labels")


def recognise_cnmc(source: Source, task: Task) -> str | None:
    """Recognise cells named UID_…_all or UID_…_hem, and numbered ones in the folders of the challenge's tests."""
    del task
    paths = find_images(source.path).images
    named = sum(_CNMC_NAME.fullmatch(os.path.basename(path)) is not None for path in paths)
    tests = [path for path in paths if _cnmc_test_folder(path) is not None]
    if not paths or named + len(tests) < len(paths) or not (named or any(map(_cnmc_table_file, tests))):
        return None
    if not named:
        return f"{_cnmc_table_file(tests[0])} names the cells in {os.path.dirname(tests[0])}"
    return f"{named} images are named UID_SUBJECT_…_all or …_hem"


def read_cnmc(source: Source, task: Task) -> Reading:
    """Read cells with their class and, as group, their subject; cells of the final test, which has no labels, are left.

    Raises DataError where a name and its folder (all, hem) differ, or a test's table does not name its cell.
    Source: Gupta, Gupta: ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive,
    doi 10.7937/tcia.2019.dc64i46r: UID_<subject>_<image>_<cell>_<class>.bmp, healthy subjects with an H; the preliminary
    test's cells are numbered, and its table gives each number's first name.
    """
    del task
    found = find_images(source.path)
    tables: dict[str, dict[str, str]] = {}
    images, unlabelled = [], []
    for path in found.images:
        relative = relative_path(path, source.path)
        name = os.path.basename(path)
        if _cnmc_test_folder(path) is not None and _CNMC_NAME.fullmatch(name) is None:
            file = _cnmc_table_file(path)
            if file is None:
                unlabelled.append(relative)
                continue
            if file not in tables:
                tables[file] = _cnmc_table(file)
            if name not in tables[file]:
                raise DataError(f"{file} has no line for {name}", "Fetch the table again, or move the image elsewhere")
            name = tables[file][name]
        match = _CNMC_NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{path} is not named UID_SUBJECT_…_all or …_hem", "Move it elsewhere, or use another --layout"
            )
        label, above = match[2].lower(), os.path.basename(os.path.dirname(path)).lower()
        if above in ("all", "hem") and above != label:
            raise DataError(f"{path} is {label} by its name and {above} by its folder", "Move it to its folder")
        images.append(
            FoundImage(path=path, relative=relative, inner=relative, label=label, group=f"UID_{match[1].upper()}")
        )
    notes = other_formats(source.path, found)
    if unlabelled:
        notes.append(f"{source.name}: {counted(len(unlabelled), 'image')} of a test without labels left out")
        if not images:
            raise DataError(
                f"{source.path} holds cells without labels alone", "Use the training or preliminary test data"
            )
    return Reading(images=tuple(images), groups_source="filename", notes=tuple(notes))


def _cnmc_test_folder(path: str) -> str | None:
    """Give the folder of a test's numbered cell; None for any other image."""
    folder, name = os.path.split(path)
    within = os.path.basename(folder).startswith(_CNMC_TEST) and os.path.splitext(name)[0].isdecimal()
    return folder if within else None


def _cnmc_table_file(path: str) -> str | None:
    """Give the table of the cells of a test's folder: its name with _labels.csv, in it or beside it."""
    folder = os.path.dirname(path)
    name = os.path.basename(folder) + "_labels.csv"
    places = (os.path.join(folder, name), os.path.join(os.path.dirname(folder), name))
    return next((place for place in places if os.path.isfile(place)), None)


def _cnmc_table(file: str) -> dict[str, str]:
    table = read_table(file)
    first, new, _ = (table.column(name, "It is the table of C-NMC's preliminary test") for name in _CNMC_COLUMNS)
    strange = next((row for row, name in enumerate(first) if _CNMC_NAME.fullmatch(name) is None), None)
    if strange is not None:
        raise DataError(f"{file} line {table.lines[strange]} has the Patient_ID {first[strange]!r}", "Fetch it again")
    return dict(zip(new, first, strict=True))


# ---------------------------------------------------------------------------------- folders of cells of one kind


def _recognise_kinds(folder: str, kinds: Mapping[str, str], name: re.Pattern[str]) -> str | None:
    """Recognise folders named by kind alone, all of whose images are named as `name` says."""
    folders = find_folders(folder)
    there = [kind for kind in folders if kind in kinds]
    if not there or len(there) < len(folders):
        return None
    paths = [path for kind in there for path in find_images(os.path.join(folder, kind)).images]
    if not paths or not all(name.fullmatch(os.path.basename(path)) for path in paths):
        return None
    return f"folders {listed(there)} in {folder} hold images named as theirs are"


def _read_kinds(source: Source, folders: Mapping[str, Mapping[str, str]], left_out: tuple[str, ...] = ()) -> Reading:
    """Read the folders of kinds in each of `folders`; raises DataError for images in a folder of another name."""
    images: list[FoundImage] = []
    notes = []
    for folder, kinds in folders.items():
        for kind in find_folders(folder):
            found = find_images(os.path.join(folder, kind))
            if kind in left_out:
                notes.append(
                    f"{source.name}: {counted(len(found.images), 'image')} in {kind} left out: of several kinds"
                )
                continue
            if kind not in kinds and found.images:
                raise DataError(
                    f"folder {kind} in {folder} is none of {', '.join(kinds)}",
                    "Move it elsewhere, or read the data set with --layout folders",
                )
            notes += other_formats(os.path.join(folder, kind), found)
            images += (
                FoundImage(
                    path=path, relative=relative_path(path, source.path), inner=os.path.basename(path), label=kind
                )
                for path in found.images
            )
    return Reading(images=tuple(images), groups_source="none", notes=tuple(notes))


def _inner(source: Source, *names: str) -> str:
    places = (os.path.join(source.path, name) for name in names)
    return next((place for place in places if os.path.isdir(place)), source.path)


# Source: Matek, Schwarz, Spiekermann, Marr: Human-level recognition of blast cells in acute myeloid leukaemia with
# convolutional neural networks, Nature Machine Intelligence 1 (2019), and AML-Cytomorphology_LMU, The Cancer Imaging
# Archive, doi 10.7937/tcia.2019.36f5o9ld: folders by abbreviation, files such as BAS/BAS_0001.tiff.
AML_LMU_KINDS: Mapping[str, str] = {
    "BAS": "basophil",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "KSC": "smudge cell",
    "LYA": "atypical lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MOB": "monoblast",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "MYO": "myeloblast",
    "NGB": "band neutrophil",
    "NGS": "segmented neutrophil",
    "PMB": "bilobed promyelocyte",
    "PMO": "promyelocyte",
}
_AML_LMU_NAME = re.compile(r"[A-Z]{3}_\d{4}\.tiff?")


def recognise_aml_lmu(source: Source, task: Task) -> str | None:
    """Recognise the folders of abbreviations with TIFF files of four digits, here or in AML-Cytomorphology/."""
    del task
    return _recognise_kinds(_inner(source, "AML-Cytomorphology"), AML_LMU_KINDS, _AML_LMU_NAME)


def read_aml_lmu(source: Source, task: Task) -> Reading:
    """Read the single cells of AML-Cytomorphology_LMU; which patient a cell is of is not published."""
    del task
    return _read_kinds(source, {_inner(source, "AML-Cytomorphology"): AML_LMU_KINDS})


# Source: Matek, Krappe, Münzenmayer, Haferlach, Marr: Highly accurate differentiation of bone marrow cell morphologies
# using deep neural networks on a large image data set, Blood 138 (2021), and
# Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer, The Cancer Imaging Archive, doi 10.7937/TCIA.AXH3-T579.
MARROW_KINDS: Mapping[str, str] = {
    "ABE": "abnormal eosinophil",
    "ART": "artefact",
    "BAS": "basophil",
    "BLA": "blast",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "FGC": "faggott cell",
    "HAC": "hairy cell",
    "KSC": "smudge cell",
    "LYI": "immature lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "NGB": "band neutrophil",
    "NGS": "segmented neutrophil",
    "NIF": "not identifiable",
    "OTH": "other cell",
    "PEB": "proerythroblast",
    "PLM": "plasma cell",
    "PMO": "promyelocyte",
}
_MARROW_NAME = re.compile(r"[A-Z]{3}_\d{5}\.jpg")


def recognise_marrow(source: Source, task: Task) -> str | None:
    """Recognise the folders of abbreviations with JPEG files of five digits, here or in BM_cytomorphology_data/."""
    del task
    return _recognise_kinds(_inner(source, "BM_cytomorphology_data"), MARROW_KINDS, _MARROW_NAME)


def read_marrow(source: Source, task: Task) -> Reading:
    """Read the single cells of marrow; folders below a kind hold a thousand files each, and are no patients."""
    del task
    return _read_kinds(source, {_inner(source, "BM_cytomorphology_data"): MARROW_KINDS})


# Source: Acevedo, Merino, Alférez, Molina, Boldú, Rodellar: A dataset of microscopic peripheral blood cell images for
# development of automatic recognition systems, Data in Brief 30 (2020) 105474, doi 10.17632/snkd93bnjr.1: eight groups,
# files such as basophil/BA_100102.jpg.
PBC_KINDS: Mapping[str, str] = {
    "basophil": "basophil",
    "eosinophil": "eosinophil",
    "erythroblast": "erythroblast",
    "ig": "immature granulocyte",
    "lymphocyte": "lymphocyte",
    "monocyte": "monocyte",
    "neutrophil": "neutrophil",
    "platelet": "platelet",
}
_PBC_NAME = re.compile(r"(?:BA|EO|ERB|IG|MMY|MY|PMY|LY|MO|BNE|SNE|NEUTROPHIL|PLATELET)_\d+\.jpg")


def recognise_pbc(source: Source, task: Task) -> str | None:
    """Recognise the folders of the eight groups by images named by kind and number."""
    del task
    return _recognise_kinds(_inner(source, "PBC_dataset_normal_DIB"), PBC_KINDS, _PBC_NAME)


def read_pbc(source: Source, task: Task) -> Reading:
    """Read the single cells of people without disease of the blood; which person a cell is of is not published."""
    del task
    return _read_kinds(source, {_inner(source, "PBC_dataset_normal_DIB"): PBC_KINDS})


# Source: Kouzehkanan et al.: A large dataset of white blood cells containing cell locations and types, along with
# segmented nuclei and cytoplasm, Scientific Reports 12 (2022) 1123; dl.raabindata.com/WBC/Cropped_double_labeled.
RAABIN_KINDS: Mapping[str, str] = {
    name: name.lower() for name in ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")
}
_RAABIN_PARTS = ("Train", "TestA", "TestB", "Test-A", "Test-B")


def _raabin_parts(source: Source) -> list[str]:
    return [path for name in _RAABIN_PARTS if os.path.isdir(path := os.path.join(source.path, name))]


def recognise_raabin(source: Source, task: Task) -> str | None:
    """Recognise Train, TestA and TestB whose folders are of the five kinds of white cells alone."""
    del task
    parts = _raabin_parts(source)
    folders = [find_folders(part) for part in parts]
    if not parts or not all(names and set(names) <= set(RAABIN_KINDS) for names in folders):
        return None
    return (
        f"{listed([os.path.basename(part) for part in parts])} hold the folders {listed(sorted(set().union(*folders)))}"
    )


def read_raabin(source: Source, task: Task) -> Reading:
    """Read the double-labelled crops of all parts; the parts are not kept, for `prepare` makes its own."""
    del task
    reading = _read_kinds(source, {part: RAABIN_KINDS for part in _raabin_parts(source)})
    note = f"{source.name}: its parts ({', '.join(_RAABIN_PARTS[:3])}) are read together, and parted anew"
    return Reading(images=reading.images, groups_source=reading.groups_source, notes=(note, *reading.notes))


# Source: Rezatofighi, Soltanian-Zadeh: Automatic recognition of five types of white blood cells in peripheral blood,
# Computerized Medical Imaging and Graphics 35 (2011): LISC Database/Main Dataset, numbered BMP files by kind.
LISC_KINDS: Mapping[str, str] = {
    "Baso": "basophil",
    "eosi": "eosinophil",
    "lymp": "lymphocyte",
    "mono": "monocyte",
    "neut": "neutrophil",
}
_LISC_SEVERAL = "mixt"
_LISC_NAME = re.compile(r"\d+\.bmp", re.IGNORECASE)


def recognise_lisc(source: Source, task: Task) -> str | None:
    """Recognise Baso, eosi, lymp, mono, neut and mixt with numbered BMP files, here or in Main Dataset/."""
    del task
    return _recognise_kinds(_inner(source, "Main Dataset"), {**LISC_KINDS, _LISC_SEVERAL: ""}, _LISC_NAME)


def read_lisc(source: Source, task: Task) -> Reading:
    """Read the fields by the kind of their white cell; those with cells of several kinds (mixt) are left out."""
    del task
    return _read_kinds(source, {_inner(source, "Main Dataset"): LISC_KINDS}, left_out=(_LISC_SEVERAL,))


# -------------------------------------------------------------------------------------------------- Chula RBC-12

# Source: README of Chula-PIC-Lab/Chula-RBC-12-Dataset on GitHub; Naruenatthanaset et al., arXiv 2012.01321.
CHULA_KINDS: Mapping[str, str] = {
    "0": "normal cell",
    "1": "macrocyte",
    "2": "microcyte",
    "3": "spherocyte",
    "4": "target cell",
    "5": "stomatocyte",
    "6": "ovalocyte",
    "7": "teardrop",
    "8": "burr cell",
    "9": "schistocyte",
    "10": "uncategorised",
    "11": "hypochromia",
    "12": "elliptocyte",
}


def _chula_label(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.dirname(folder), "Label", os.path.splitext(name)[0] + ".txt")


def recognise_chula(source: Source, task: Task) -> str | None:
    """Recognise numbered images in Dataset/ of which one at least has a file of points in Label/."""
    del task
    folder = os.path.join(source.path, "Dataset")
    if not os.path.isdir(folder):
        return None
    file = next((f for path in find_images(folder, deep=False).images if os.path.isfile(f := _chula_label(path))), None)
    return None if file is None else f"{file} gives the points of an image in {folder}"


def read_chula(source: Source, task: Task) -> Reading:
    """Read the fields with a point for each red cell; those without a file of points are left out."""
    del task
    folder = os.path.join(source.path, "Dataset")
    found = find_images(folder, deep=False)
    labelled = [path for path in found.images if os.path.isfile(_chula_label(path))]
    images = tuple(
        FoundImage(
            path=path,
            relative=relative_path(path, source.path),
            inner=os.path.basename(path),
            label="",
            marks=read_typed_points(_chula_label(path)),
        )
        for path in labelled
    )
    notes = other_formats(folder, found)
    if len(labelled) < len(found.images):
        left = counted(len(found.images) - len(labelled), "image")
        notes.append(f"{source.name}: {left} without a file in Label left out")
    return Reading(images=images, groups_source="none", notes=tuple(notes))
