"""Every layout of the table, on stubs of its published names: recognised, read, grouped, and told where it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from leukemia_cli.cli.app import LAYOUT_NAMES
from leukemia_cli.data.candidates import Candidate, Gathered, gather
from leukemia_cli.data.datasets import SourceDefaults, read_sources
from leukemia_cli.data.layouts import LAYOUTS, Mark, find_layout
from leukemia_cli.data.tasks import resolve_task
from leukemia_cli.domain import Task, Unit
from leukemia_cli.errors import DataError

BINARY = resolve_task("binary")
CELLS = resolve_task(
    {
        "name": "cells",
        "classes": ["blast", "other"],
        "positive": "blast",
        "aliases": {
            "blast": ["myeloblast", "monoblast", "1", "ALL"],
            "other": [
                "basophil", "eosinophil", "lymphocyte", "neutrophil", "immature granulocyte", "WBC", "teardrop", "0",
            ],
        },
        "ignored": ["artefact"],
    }
)  # fmt: skip


def stub(root: Path, files: dict[str, str] | tuple[str, ...]) -> Path:
    """Make files: empty ones, or with text."""
    for name, text in (files if isinstance(files, dict) else dict.fromkeys(files, "")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def gathered(*roots: Path, task: Task = BINARY, unit: Unit = "image", **defaults: str) -> Gathered:
    """Gather folders as prepare does."""
    sources, _ = read_sources([str(root) for root in roots], SourceDefaults(**defaults))
    return gather(sources, task, unit)


def by_name(found: Gathered) -> dict[str, Candidate]:
    """Give the candidates by path within their source."""
    return {candidate.relative: candidate for candidate in found.candidates}


# --------------------------------------------------------------------------------------- each layout on its own names


@dataclass(frozen=True)
class Shape:
    """A stub of a data set and what must be found in it: (label, group) by path within the source."""

    layout: str
    files: dict[str, str]
    expected: dict[str, tuple[str, str | None]]
    task: Task = BINARY
    unit: Unit = "image"
    inner: str = ""
    """The folder within, which must be recognised too, with the same names below it."""
    notes: tuple[str, ...] = field(default=())


def empty(*names: str) -> dict[str, str]:
    """Give names with no text."""
    return dict.fromkeys(names, "")


BOX = (
    "<annotation><object><name>{}</name><bndbox><xmin>2</xmin><ymin>4</ymin><xmax>12</xmax><ymax>24</ymax></bndbox>"
    "</object></annotation>"
)
PRELIMINARY = "C-NMC_test_prelim_phase_data"

SHAPES = [
    Shape(
        "folders",
        empty("ALL/p1/a.png", "healthy/b.png"),
        {"ALL/p1/a.png": ("ALL", "p1"), "healthy/b.png": ("HTL", None)},
    ),
    Shape(
        "csv",
        {"labels.csv": "path,label,group\na.png,ALL,p1\n", "a.png": ""},
        {"a.png": ("ALL", "p1")},
    ),
    Shape(
        "all-idb1",
        {"im/Im001_1.jpg": "", "im/Im034_0.jpg": "", "xyc/Im001_1.xyc": "10\t20\n", "xyc/Im034_0.xyc": " \r\n"},
        {"im/Im001_1.jpg": ("ALL", None), "im/Im034_0.jpg": ("HTL", None)},
        inner="im",
    ),
    Shape(
        "all-idb2",
        empty("img/Im001_1.tif", "img/Im131_0.tif"),
        {"img/Im001_1.tif": ("ALL", None), "img/Im131_0.tif": ("HTL", None)},
        inner="img",
    ),
    Shape(
        "taleqani",
        empty("Original/Benign/WBC-Benign-001.jpg", "Original/Early/WBC-Malignant-Early-001.jpg"),
        {
            "Original/Benign/WBC-Benign-001.jpg": ("HTL", None),
            "Original/Early/WBC-Malignant-Early-001.jpg": ("ALL", None),
        },
        inner="Original",
    ),
    Shape(
        "c-nmc",
        {
            **empty(
                "C-NMC_training_data/fold_0/all/UID_11_10_1_all.bmp",
                "C-NMC_training_data/fold_1/hem/UID_H11_10_1_hem.bmp",
                "C-NMC_training_data/fold_1/hem/UID_H11_2_3_hem.bmp",
                f"{PRELIMINARY}/1.bmp",
                "C-NMC_test_final_phase_data/1.bmp",
            ),
            f"{PRELIMINARY}/{PRELIMINARY}_labels.csv": "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\n",
        },
        {
            "C-NMC_training_data/fold_0/all/UID_11_10_1_all.bmp": ("ALL", "UID_11"),
            "C-NMC_training_data/fold_1/hem/UID_H11_10_1_hem.bmp": ("HTL", "UID_H11"),
            "C-NMC_training_data/fold_1/hem/UID_H11_2_3_hem.bmp": ("HTL", "UID_H11"),
            f"{PRELIMINARY}/1.bmp": ("ALL", "UID_57"),
        },
        inner="C-NMC_training_data",
        notes=("1 image of a test without labels left out",),
    ),
    Shape(
        "aml-lmu",
        empty("AML-Cytomorphology/BAS/BAS_0001.tiff", "AML-Cytomorphology/MYO/MYO_0001.tiff"),
        {
            "AML-Cytomorphology/BAS/BAS_0001.tiff": ("other", None),
            "AML-Cytomorphology/MYO/MYO_0001.tiff": ("blast", None),
        },
        CELLS,
        inner="AML-Cytomorphology",
    ),
    Shape(
        "marrow-mll",
        empty("BLA/0001-1000/BLA_00001.jpg", "LYT/LYT_00001.jpg", "ART/ART_00001.jpg"),
        {"BLA/0001-1000/BLA_00001.jpg": ("blast", None), "LYT/LYT_00001.jpg": ("other", None)},
        CELLS,
        notes=("1 image labelled 'ART' left out: the task ignores them",),
    ),
    Shape(
        "pbc-barcelona",
        empty("PBC_dataset_normal_DIB/basophil/BA_100102.jpg", "PBC_dataset_normal_DIB/ig/MMY_100102.jpg"),
        {
            "PBC_dataset_normal_DIB/basophil/BA_100102.jpg": ("other", None),
            "PBC_dataset_normal_DIB/ig/MMY_100102.jpg": ("other", None),
        },
        CELLS,
        inner="PBC_dataset_normal_DIB",
    ),
    Shape(
        "raabin-wbc",
        empty("Train/Basophil/a.jpg", "TestA/Neutrophil/b.jpg", "TestB/Neutrophil/c.jpg"),
        {
            "Train/Basophil/a.jpg": ("other", None),
            "TestA/Neutrophil/b.jpg": ("other", None),
            "TestB/Neutrophil/c.jpg": ("other", None),
        },
        CELLS,
        notes=("read together, and parted anew",),
    ),
    Shape(
        "lisc",
        empty("Main Dataset/Baso/49.bmp", "Main Dataset/neut/38.bmp", "Main Dataset/mixt/1.bmp"),
        {"Main Dataset/Baso/49.bmp": ("other", None), "Main Dataset/neut/38.bmp": ("other", None)},
        CELLS,
        inner="Main Dataset",
        notes=("1 image in mixt left out",),
    ),
    Shape(
        "chula-rbc-12",
        {"Dataset/1.jpg": "", "Dataset/2.jpg": "", "Label/1.txt": "594 95 7\n66 403 6\n"},
        {"Dataset/1.jpg": ("", None)},
        CELLS,
        "cell",
        notes=("1 image without a file in Label left out",),
    ),
    Shape(
        "voc",
        {
            "JPEGImages/a.jpg": "",
            "JPEGImages/b.jpg": "",
            "JPEGImages/c.jpg": "",
            "Annotations/a.xml": BOX.format("WBC"),
            "Annotations/b.xml": BOX.format("RBC"),
        },
        {"JPEGImages/a.jpg": ("", None), "JPEGImages/b.jpg": ("", None)},
        CELLS,
        "cell",
        inner="JPEGImages",
        notes=("2 boxes in 2 images", "1 image without annotation (.xml) left out: ", "no class of the task: 1 'RBC'"),
    ),
    Shape(
        "voc",
        {"train/a.jpg": "", "train/a.xml": BOX.format("WBC"), "valid/b.jpg": "", "valid/b.xml": BOX.format("WBC")},
        {"train/a.jpg": ("", None), "valid/b.jpg": ("", None)},
        CELLS,
        "cell",
        inner="train",
    ),
    Shape(
        "voc",
        {"images/a.png": "", "annotations/a.xml": BOX.format("WBC")},
        {"images/a.png": ("", None)},
        CELLS,
        "cell",
        inner="images",
    ),
    Shape(
        "yolo",
        {
            "data.yaml": "names: [WBC, RBC]\n",
            "images/train/a.jpg": "",
            "images/val/b.jpg": "",
            "labels/train/a.txt": "0 .5 .5 .1 .1\n1 .2 .2 .1 .1\n",
            "labels/classes.txt": "WBC\nRBC\n",
        },
        {"images/train/a.jpg": ("", None), "images/val/b.jpg": ("", None)},
        CELLS,
        "cell",
        notes=("2 boxes in 2 images", "data.yaml", "1 image without a label file, so without cells: images/val/b.jpg"),
    ),
    Shape(
        "yolo",
        {"obj.names": "RBC\nWBC\n", "obj_train_data/a.jpg": "", "obj_train_data/a.txt": "1 .5 .5 .1 .1"},
        {"obj_train_data/a.jpg": ("", None)},
        CELLS,
        "cell",
    ),
    Shape(
        "coco",
        {
            "train/a.jpg": "",
            "train/x.jpg": "",
            "val/a.jpg": "",
            "train/_annotations.coco.json": """{"images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 1, "category_id": 0, "bbox": [2, 4, 10, 20]}],
            "categories": [{"id": 0, "name": "WBC"}]}""",
        },
        {"train/a.jpg": ("", None)},
        CELLS,
        "cell",
        inner="train",
        notes=("2 images without entry in a COCO file left out: train/x.jpg, val/a.jpg",),
    ),
]


def test_every_layout_has_a_shape_here() -> None:
    assert {shape.layout for shape in SHAPES} == set(LAYOUTS)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.layout)
def test_a_layout_is_recognised_and_read(tmp_path: Path, shape: Shape) -> None:
    root = stub(tmp_path / "set", shape.files)
    (source,), _ = read_sources([str(root)], SourceDefaults())
    assert find_layout(source, shape.task)[0].name == shape.layout
    found = gathered(root, task=shape.task, unit=shape.unit)
    assert {name: (c.label, c.group) for name, c in by_name(found).items()} == shape.expected
    assert {c.holds for c in found.candidates} == {LAYOUTS[shape.layout].cells}
    told = "\n".join(found.notes)
    assert [note for note in shape.notes if note not in told] == []
    if shape.inner:
        below = {n.removeprefix(f"{shape.inner}/"): e for n, e in shape.expected.items() if n.startswith(shape.inner)}
        found = gathered(root / shape.inner, task=shape.task, unit=shape.unit)
        assert {name: (c.label, c.group) for name, c in by_name(found).items()} == below


@pytest.mark.parametrize("shape", [s for s in SHAPES if LAYOUTS[s.layout].labels == "cells"], ids=lambda s: s.layout)
def test_kinds_of_cells_are_no_diseases(tmp_path: Path, shape: Shape) -> None:
    with pytest.raises(DataError) as caught:
        gathered(stub(tmp_path, shape.files))
    told = f"{caught.value.problem} {caught.value.hint}"
    if shape.unit == "cell":
        assert "label cells" in told
        assert "--unit cell with a task file whose aliases name the box labels" in told
        with pytest.raises(DataError, match=r"no cell marked in .* is of a class of task binary") as caught:
            gathered(tmp_path, unit="cell")
        assert "--task FILE.yaml" in caught.value.hint
    else:
        assert "of no class of task binary" in told
        assert f"Layout {shape.layout} tells kinds of cells, not diseases" in told


# ---------------------------------------------------------------------------------------------------------- marks


def test_all_idb1_centroids_are_marks_of_the_images_label(tmp_path: Path) -> None:
    files = {
        "im/Im001_1.jpg": "",
        "im/Im002_1.jpg": "",
        "im/Im034_0.jpg": "",
        "im/Im035_0.jpg": "",
        "xyc/Im001_1.xyc": "10\t20\r\n\r\n30 40.5\n",
        "xyc/Im034_0.xyc": "\n",
        "xyc/Im035_0.xyc": "1 2\n",
        "xyc_other/Im034_0.xyc": "7 7\n",
    }
    found = gathered(stub(tmp_path, files))
    marks = {name: candidate.marks for name, candidate in by_name(found).items()}
    assert marks == {
        "im/Im001_1.jpg": (Mark(x=10, y=20, label="ALL"), Mark(x=30, y=40.5, label="ALL")),
        "im/Im002_1.jpg": None,
        "im/Im034_0.jpg": (),
        "im/Im035_0.jpg": (Mark(x=1, y=2, label="HTL"),),
    }
    told = "\n".join(found.notes)
    assert "1 image in" in told and "without a file of centroids" in told
    assert "1 healthy image" in told
    (tmp_path / "xyc" / "Im002_1.xyc").write_text("1 2\n3\n")
    with pytest.raises(DataError, match=r"Im002_1\.xyc line 2"):
        gathered(tmp_path)


def test_marks_go_through_map_aliases_and_classes(tmp_path: Path) -> None:
    objects = "".join(
        BOX.format(name).removeprefix("<annotation>").removesuffix("</annotation>")
        for name in ("WBC", "rbc", "Blast", "artefact", "odd")
    )
    stub(
        tmp_path / "d",
        {"a.jpg": "", "a.xml": f"<annotation>{objects}</annotation>", "b.jpg": "", "b.xml": BOX.format("rbc")},
    )
    (tmp_path / "data.yaml").write_text("sources: [{path: d, map: {RBC: null, odd: blast, gone: blast}}]")
    found = gathered(tmp_path / "data.yaml", task=CELLS, unit="cell")
    a, b = by_name(found)["a.jpg"].marks, by_name(found)["b.jpg"].marks
    assert a is not None and [mark.label for mark in a] == ["other", "", "blast", "", "blast"]
    assert a[0] == Mark(x=7, y=14, label="other", width=10, height=20)
    assert b is not None and [mark.label for mark in b] == [""]
    assert [note for note in found.notes if "nothing has" in note] == ["d: nothing has the label 'gone' of its map"]
    assert any("cells of no class of the task: 2 'rbc', 1 'artefact'" in note for note in found.notes)


def test_marks_of_classes_left_out_or_ignored_are_of_no_class(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four")
    objects = "".join(BOX.format(name).removeprefix("<annotation>").removesuffix("</annotation>") for name in names)
    stub(tmp_path, {"a.jpg": "", "a.xml": f"<annotation>{objects}</annotation>"})
    stored = {"classes": ["one", "two", "three"], "aliases": {"two": ["four"]}, "ignored": ["four"]}
    (candidate,) = gathered(tmp_path, task=resolve_task(stored, ("one", "two"), "one"), unit="cell").candidates
    assert [mark.label for mark in candidate.marks or ()] == ["one", "two", "", ""]


def test_yolo_marks_stay_relative(tmp_path: Path) -> None:
    stub(tmp_path, {"classes.txt": "WBC", "images/a.jpg": "", "labels/a.txt": "0 .5 .25 .1 .2"})
    (candidate,) = gathered(tmp_path, task=CELLS, unit="cell").candidates
    assert candidate.marks == (Mark(x=0.5, y=0.25, label="other", width=0.1, height=0.2, relative=True),)


def test_an_image_named_twice_keeps_its_marks_and_two_tellings_are_an_error(tmp_path: Path) -> None:
    stub(tmp_path, {"im/Im001_1.jpg": "", "xyc/Im001_1.xyc": "1 2\n", "labels.csv": "path,label\nim/Im001_1.jpg,ALL\n"})
    (tmp_path / "two.yaml").write_text("sources:\n- {path: ., layout: csv}\n- {path: im}\n")
    (candidate,) = gathered(tmp_path / "two.yaml").candidates
    assert candidate.marks == (Mark(x=1, y=2, label="ALL"),)
    stub(tmp_path / "d", {"a.jpg": "", "a.xml": BOX.format("WBC"), "a.txt": "0 .5 .5 .1 .1", "classes.txt": "WBC"})
    (tmp_path / "two.yaml").write_text("sources:\n- {path: d, layout: voc}\n- {path: d, layout: yolo}\n")
    with pytest.raises(DataError, match=r"a\.jpg is named twice, with different cells"):
        gathered(tmp_path / "two.yaml", task=CELLS, unit="cell")


# ---------------------------------------------------------------------------------------- what one must not mistake


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("Im001_1.jpg", "Im108_0.JPG"), "all-idb1"),
        (("Im001_1.tif", "Im108_0.TIF"), "all-idb2"),
        (("Im001_1.jpg", "Im260_0.jpg"), "all-idb2"),
        (("im/Im001_1.tif",), "all-idb1"),
        (("Im001_1.tif", "xyc/Im001_1.xyc"), "all-idb1"),
        (("img/Im001_1.tif", "xyc/Im001_1.xyc"), "all-idb2"),
    ],
)
def test_the_two_all_idb_are_told_apart(tmp_path: Path, names: tuple[str, ...], layout: str) -> None:
    (source,), _ = read_sources([str(stub(tmp_path, names))], SourceDefaults())
    assert find_layout(source, BINARY)[0].name == layout


def test_crops_beside_their_photographs_are_warned_of(tmp_path: Path) -> None:
    stub(tmp_path, ("one/im/Im001_1.jpg", "two/img/Im001_1.tif", "two/img/Im131_0.tif"))
    assert gathered(tmp_path / "one").warnings == gathered(tmp_path / "two").warnings == ()
    (warning,) = gathered(tmp_path / "one", tmp_path / "two").warnings
    assert "the images of two (all-idb2) are cut from the photographs of one (all-idb1)" in warning


@pytest.mark.parametrize(
    ("files", "layout", "said"),
    [
        (empty("all/UID_H1_1_1_hem.bmp"), "auto", "is hem by its name and all by its folder"),
        (empty("all/UID_1_1_1_all.bmp", "all/other.bmp"), "c-nmc", "is not named UID_SUBJECT"),
        (empty("C-NMC_test_final_phase_data/1.bmp"), "c-nmc", "holds cells without labels alone"),
        (
            {
                f"{PRELIMINARY}/2.bmp": "",
                f"{PRELIMINARY}_labels.csv": "Patient_ID,new_names,labels\nUID_1_1_1_all.bmp,1.bmp,1\n",
            },
            "auto",
            r"_labels\.csv has no line for 2\.bmp",
        ),
        (
            {f"{PRELIMINARY}/1.bmp": "", f"{PRELIMINARY}_labels.csv": "Patient_ID,new_names,labels\n\nP7,1.bmp,1\n"},
            "auto",
            r"_labels\.csv line 3 has the Patient_ID 'P7'",
        ),
        (
            {f"{PRELIMINARY}/1.bmp": "", f"{PRELIMINARY}_labels.csv": "id,label\nUID_1_1_1_all.bmp,1\n"},
            "auto",
            "has no column 'Patient_ID'",
        ),
        (empty("BAS/BAS_0001.tiff", "XYZ/XYZ_0001.tiff"), "aml-lmu", "folder XYZ in .* is none of BAS"),
        (empty("a.jpg"), "voc", r"has an annotation \(\.xml\)"),
        ({"a.jpg": "", "a.xml": "<annotation>"}, "auto", r"a\.xml line 1 is no XML"),
        (empty("images/a.jpg"), "yolo", "names no classes for its YOLO labels"),
        ({"classes.txt": "WBC", "images/a.jpg": ""}, "yolo", "has a label file"),
        ({"classes.txt": "WBC", "images/a.jpg": "", "labels/a.txt": "1 .5 .5 .1 .1"}, "auto", r"labels/a\.txt line 1"),
        (
            {"data.yaml": "nc: 1", "images/a.jpg": "", "labels/a.txt": "0 .5 .5 .1 .1"},
            "auto",
            "data.yaml names no classes",
        ),
        (empty("a.jpg"), "coco", "no COCO file in"),
    ],
)
def test_what_does_not_fit_a_layout_is_told(tmp_path: Path, files: dict[str, str], layout: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        gathered(stub(tmp_path, files), task=CELLS, unit="cell", layout=layout)


COCO = (
    '{"images": [{"id": 1, "file_name": "%s"}], "annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 1, 1, 1]}], '
    '"categories": [{"id": 0, "name": "WBC"}]}'
)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"annotations/i.json": COCO % "a.jpg", "val/a.jpg": "", "val/b.jpg": ""}, "val/a.jpg"),
        ({"annotations/i.json": COCO % "val/a.jpg", "val/a.jpg": "", "train/a.jpg": ""}, "val/a.jpg"),
        ({"annotations/i.json": COCO % "./val\\\\a.jpg", "val/a.jpg": ""}, "val/a.jpg"),
        ({"i.json": COCO % "a.jpg", "a.jpg": "", "val/a.jpg": ""}, "a.jpg"),
        ({"annotations/i.json": COCO % "a.jpg", "val/a.jpg": "", "train/a.jpg": ""}, "2 images are so named"),
        ({"annotations/i.json": COCO % "a.jpg", "val/ba.jpg": ""}, "lists a.jpg, which is not there"),
        ({"i.json": COCO % "a.jpg", "j.json": COCO % "a.jpg", "a.jpg": ""}, "and again in"),
    ],
)
def test_the_image_that_a_coco_file_means(tmp_path: Path, files: dict[str, str], found: str) -> None:
    stub(tmp_path, files)
    if " " in found:
        with pytest.raises(DataError, match=found):
            gathered(tmp_path, task=CELLS, unit="cell")
    else:
        assert list(by_name(gathered(tmp_path, task=CELLS, unit="cell"))) == [found]


def test_labels_lie_beside_the_innermost_folder_of_images(tmp_path: Path) -> None:
    files = {"classes.txt": "WBC", "images/images/a.jpg": "", "images/labels/a.txt": "0 .5 .5 .1 .1"}
    (candidate,) = gathered(stub(tmp_path, files), task=CELLS, unit="cell").candidates
    assert candidate.marks is not None and len(candidate.marks) == 1


def test_other_xml_files_are_no_annotations(tmp_path: Path) -> None:
    stub(tmp_path, {"a.jpg": "", "a.xml": "<html/>", "settings.json": '{"images": []}'})
    with pytest.raises(DataError, match="is not recognised: it holds 1 images and no folders"):
        gathered(tmp_path)


def test_class_folders_with_boxes_beside_are_still_class_folders(tmp_path: Path) -> None:
    stub(tmp_path, {"ALL/a.jpg": "", "ALL/a.xml": BOX.format("WBC"), "HTL/b.jpg": ""})
    assert {name: (c.label, c.marks) for name, c in by_name(gathered(tmp_path)).items()} == {
        "ALL/a.jpg": ("ALL", None),
        "HTL/b.jpg": ("HTL", None),
    }


def test_folders_of_cells_with_other_names_are_just_folders(tmp_path: Path) -> None:
    (source,), _ = read_sources(
        [str(stub(tmp_path / "more", ("basophil/BA_1.jpg", "myeloblast/x.jpg")))], SourceDefaults()
    )
    assert find_layout(source, CELLS)[0].name == "folders"
    stub(tmp_path / "d", ("basophil/p1/x.jpg", "lymphocyte/p2/y.jpg"))
    found = gathered(tmp_path / "d", task=CELLS)
    assert {name: c.group for name, c in by_name(found).items()} == {
        "basophil/p1/x.jpg": "p1",
        "lymphocyte/p2/y.jpg": "p2",
    }
    assert any("layout folders" in note for note in found.notes)


# ----------------------------------------------------------------------------------------------------- real images


def test_real_all_idb1_marks(real_images: Callable[[str], Path]) -> None:
    root = real_images("ALL_IDB1")
    found = gathered(root)
    files = sorted((root / "xyc").glob("*.xyc"))
    lines = {file.stem: len([line for line in file.read_text().splitlines() if line.strip()]) for file in files}
    assert {Path(c.path).stem: len(c.marks or ()) for c in found.candidates} == lines
    assert Counter((c.label, bool(c.marks)) for c in found.candidates) == {("ALL", True): 35, ("HTL", False): 31}
    assert sum(lines.values()) == 483
    assert all(mark.label == "ALL" for c in found.candidates for mark in c.marks or ())


def test_real_bccd_boxes(real_images: Callable[[str], Path]) -> None:
    root = real_images("BCCD")
    with pytest.raises(DataError, match="layout voc, whose boxes label cells"):
        gathered(root)
    found = gathered(root, task=CELLS, unit="cell")
    assert len(found.candidates) == 120
    marks = [mark for c in found.candidates for mark in c.marks or ()]
    assert Counter(mark.label for mark in marks) == {"other": 126, "": 1593 + 151}
    assert all(0 <= mark.x <= 640 and 0 <= mark.y <= 480 and mark.width and mark.height for mark in marks)


def test_real_taleqani_fields(real_images: Callable[[str], Path]) -> None:
    found = gathered(real_images("Taleqani"))
    assert Counter(c.label for c in found.candidates) == {"ALL": 750, "HTL": 250}
    assert {(c.holds, c.marks) for c in found.candidates} == {("fields", None)}


def test_the_help_of_prepare_names_every_layout() -> None:
    named = set(LAYOUT_NAMES.replace(" or ", ", ").split(", "))
    assert named == set(LAYOUTS)
