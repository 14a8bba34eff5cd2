"""Every way to point at images, on folders made of empty files: layouts never open an image."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from leukemia_cli.data.candidates import Gathered, gather
from leukemia_cli.data.datasets import SourceDefaults, read_sources, settle_task
from leukemia_cli.data.discovery import find_images
from leukemia_cli.data.layouts import LAYOUTS
from leukemia_cli.errors import DataError, LeukError, UsageError


def touch(root: Path, *names: str) -> Path:
    """Make empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def gathered(
    *sources: str | Path,
    task: str | None = "binary",
    classes: tuple[str, ...] | None = None,
    positive: str | None = None,
    **defaults: str,
) -> Gathered:
    """Gather as prepare does."""
    listed, from_yaml = read_sources([str(s) for s in sources], SourceDefaults(**defaults))
    return gather(listed, settle_task(task, from_yaml, classes, positive))


def labels(found: Gathered) -> dict[str, str]:
    """Give class by path within the source."""
    return {c.relative: c.label for c in found.candidates}


def groups(found: Gathered) -> dict[str, str | None]:
    """Give group by path within the source."""
    return {c.relative: c.group for c in found.candidates}


# ------------------------------------------------------------------------------------------------------- discovery


def test_images_are_found_once_whatever_their_folders_are_called(tmp_path: Path) -> None:
    touch(tmp_path, "b/x.png/1.JPG", "b/.hidden/2.jpg", "__MACOSX/3.jpg", "b/._4.jpg", "Thumbs.db", "a.TIFF", "n.txt")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "0link").symlink_to(tmp_path / "b")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_images(tmp_path)
    assert [os.path.relpath(p, tmp_path) for p in found.images] == ["a.TIFF", "b/x.png/1.JPG", "gone.png"]
    assert found.others == {".txt": 1}


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/ALL \xff"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder + b"/caf\xe9.png")).touch()
    (path,) = find_images(os.fsdecode(folder)).images
    assert os.fsencode(path) == folder + b"/caf\xe9.png"


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("none/deeper", "there is no folder", "it exists up to"),
        ("x.png", "is a file, not a folder", "Name the folder"),
        ("l.csv", "is a file, not a folder", "--labels"),
        ("empty", "it holds no files", "Name the folder"),
        ("texts", "it holds 1 without suffix, 2 .txt", "Name the folder"),
    ],
)
def test_a_source_that_holds_nothing(tmp_path: Path, name: str, problem: str, hint: str) -> None:
    touch(tmp_path, "x.png", "l.csv", "texts/a.txt", "texts/b.txt", "texts/README")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=problem) as caught:
        gathered(tmp_path / name)
    assert hint in caught.value.hint


# ----------------------------------------------------------------------------------------------------------- folders


def test_class_folders_go_through_the_aliases_and_their_folders_are_groups(tmp_path: Path) -> None:
    touch(tmp_path, "all/p1/a.png", "all/p1/deep/b.png", "all/p2/a.png", "Healthy/q1/a.png", "normal/q2/a.png", "s.png")
    found = gathered(tmp_path)
    assert Counter(labels(found).values()) == {"ALL": 3, "HTL": 2}
    assert groups(found)["all/p1/deep/b.png"] == "p1"
    assert groups(found)["normal/q2/a.png"] == "q2"
    assert found.groups_source == "filename"
    assert any("layout folders" in note for note in found.notes)
    assert any("1 image in" in note and "in no class folder" in note for note in found.notes)


def test_one_image_without_a_group_makes_groups_unknown(tmp_path: Path) -> None:
    found = gathered(touch(tmp_path, "ALL/p1/a.png", "ALL/b.png", "HTL/q/a.png"))
    assert found.groups_source == "none"
    assert any("no group is known for 1 of 3 images" in warning for warning in found.warnings)


def test_a_folder_of_no_class_is_an_error_unless_empty_ignored_or_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "ALL/a.png", "HTL/a.png", "notes/readme.txt")
    gathered(tmp_path)
    touch(tmp_path, "Helthy/b.png", "smudge/a.png")
    with pytest.raises(DataError, match=r"'Helthy' \(1 image\), 'smudge' \(1 image\)") as caught:
        gathered(tmp_path)
    assert "Did you mean 'healthy' for 'Helthy'?" in caught.value.hint
    assert "ignored: [Helthy, smudge]" in caught.value.hint
    task = tmp_path / "task.yaml"
    task.write_text("classes: [ALL, HTL]\npositive: ALL\nignored: [helthy, Smudge]\n")
    found = gathered(tmp_path, task=str(task))
    assert len(found.candidates) == 2
    assert sum("the task ignores them" in note for note in found.notes) == 2


def test_classes_that_a_subset_leaves_out_are_left_out_with_a_note(tmp_path: Path) -> None:
    touch(tmp_path, "ALL/a.png", "HTL/a.png", "CML/a.png", "AML/a.png")
    found = gathered(tmp_path, task="five-class", classes=("ALL", "AML", "HTL"))
    assert sorted(labels(found).values()) == ["ALL", "AML", "HTL"]
    assert any("'CML' (CML) left out by --classes" in note for note in found.notes)
    with pytest.raises(DataError, match="of no class of task binary") as caught:
        gathered(tmp_path)
    assert "--task five-class" in caught.value.hint


def test_layout_folders_needs_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folders"):
        gathered(touch(tmp_path, "a.png"), layout="folders")


# ------------------------------------------------------------------------------------------------ published data sets


def test_all_idb1_by_its_names(tmp_path: Path) -> None:
    touch(tmp_path, "im/Im001_1.jpg", "im/Im002_0.JPG", "xyc/Im001_1.xyc")
    for root in (tmp_path, tmp_path / "im"):
        found = gathered(root)
        assert sorted(labels(found).values()) == ["ALL", "HTL"]
        assert found.groups_source == "none"
        assert any("layout all-idb1" in note for note in found.notes)
    touch(tmp_path, "im/extra.jpg")
    with pytest.raises(DataError, match=r"1 images .* not named ImXXX_0 or ImXXX_1: extra\.jpg"):
        gathered(tmp_path, layout="all-idb1")


def test_taleqani_by_its_folders(tmp_path: Path) -> None:
    names = [f"{f}/WBC-{k}-00{n}.jpg" for f, k in (("Benign", "Benign"), ("Pro", "Malignant-Pro")) for n in (1, 2)]
    touch(tmp_path / "Original", *names)
    touch(tmp_path / "Segmented", *names)
    found = gathered(tmp_path)
    assert Counter(labels(found).values()) == {"ALL": 2, "HTL": 2}
    assert any("Segmented is left out" in note for note in found.notes)
    assert labels(gathered(tmp_path / "Original")) == {k.removeprefix("Original/"): v for k, v in labels(found).items()}
    task = tmp_path / "stages.yaml"
    task.write_text("classes: [Benign, Pro]\npositive: Pro\n")
    assert Counter(labels(gathered(tmp_path, task=str(task))).values()) == {"Benign": 2, "Pro": 2}
    touch(tmp_path, "Original/Other/a.jpg")
    with pytest.raises(DataError, match="folder Other"):
        gathered(tmp_path)


def test_every_layout_has_its_words() -> None:
    for name, layout in LAYOUTS.items():
        assert name == layout.name
        assert layout.looks_like
        assert layout.origin


def test_what_is_not_recognised_or_in_two_ways(tmp_path: Path) -> None:
    touch(tmp_path, "train/ALL/a.png")
    with pytest.raises(DataError, match="not recognised: it holds folders train") as caught:
        gathered(tmp_path)
    for name, layout in LAYOUTS.items():
        assert name in caught.value.hint
        assert (layout.looks_like in caught.value.hint) != layout.published  # a page of words would help nobody
    touch(tmp_path, "ALL/a.png", "HTL/a.png")
    (tmp_path / "labels.csv").write_text("path,label\nALL/a.png,ALL\n")
    with pytest.raises(DataError, match=r"2 ways: folders: .*; or csv: ") as caught:
        gathered(tmp_path)
    assert "--layout folders or csv" in caught.value.hint
    with pytest.raises(UsageError, match="unknown layout 'folder'"):
        gathered(tmp_path, layout="folder")


# --------------------------------------------------------------------------------------------------------------- csv


def test_a_labels_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "lists/c.png")
    (tmp_path / "lists" / "l.csv").write_bytes(
        "\ufeffpath;label;group;split;source\na.png;ALL;p1;train;x\nb.png;normal;p2;Validation;\nc.png;ALL;p1;test;\n"
        "missing.png;HTL;p3;train;\n\n".encode()
    )
    found = gathered(tmp_path / "images", labels=str(tmp_path / "lists" / "l.csv"))
    assert {Path(c.path).name: (c.label, c.group, c.split, c.source) for c in found.candidates} == {
        "a.png": ("ALL", "p1", "train", "x"),
        "b.png": ("HTL", "p2", "val", "images"),
        "c.png": ("ALL", "p1", "test", "images"),
        "missing.png": ("HTL", "p3", "train", "images"),
    }
    assert Path(found.candidates[-1].path).parent in (tmp_path / "images", tmp_path / "lists")
    assert found.groups_source == "given"


def test_a_labels_file_with_names_that_are_not_utf8(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.png", os.O_CREAT))
    (tmp_path / "labels.csv").write_bytes(b"path,label\ncaf\xe9.png,ALL\n")
    (candidate,) = gathered(tmp_path).candidates
    assert os.fsencode(candidate.path).endswith(b"/caf\xe9.png")
    assert Path(candidate.path).exists()


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "is empty", "path,label"),
        ("path,lable\na.png,ALL\n", "has no column 'label'", "Did you mean 'lable'?"),
        ("where,label\na.png,ALL\n", "has no column 'path'", "It has: where, label"),
        ("path,path\na.png,ALL\n", "two columns named 'path'", ""),
        ("path,label\na.png,ALL,x\n", "line 2 has 3 cells under 2 columns", ""),
        ("path,label\n,ALL\n", "line 2 names no image", ""),
        ("path,label,split\na.png,ALL,exam\n", "line 2 has the split 'exam'", "train, val"),
        ("path,label\na.png,\n", r"label of no class .*: '' \(1 image\)", ""),
        ("path,label\na.png,ALL\na.png,HTL\n", "named twice, with class 'ALL' and 'HTL'", ""),
        ("path,label\n\0", "is no UTF-8 text", "UTF-8"),
    ],
)
def test_labels_files_that_are_not_understood(tmp_path: Path, text: str, problem: str, hint: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        gathered(tmp_path, labels=str(tmp_path / "l.csv"))
    assert hint in caught.value.hint


def test_flags_of_labels_that_do_not_go_together(tmp_path: Path) -> None:
    touch(tmp_path, "ALL/a.png", "HTL/a.png")
    (tmp_path / "diagnoses.csv").write_text("path,diagnosis\nALL/a.png,ALL\n")
    for sources, flags, problem in [
        ((tmp_path,), {"labels": "none.csv"}, "there is no labels file"),
        ((tmp_path,), {"labels": str(tmp_path / "diagnoses.csv"), "layout": "folders"}, "reads no labels file"),
        ((tmp_path / "ALL", tmp_path / "HTL"), {"labels": "x.csv"}, "with 2 sources leaves open"),
    ]:
        with pytest.raises(LeukError, match=problem):
            gathered(*sources, **flags)
    assert len(gathered(tmp_path, label_column="diagnosis", layout="csv").candidates) == 1


# ----------------------------------------------------------------------------------------------------------- sources


def test_class_equals_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/x.png", "b/deep/y.png")
    found = gathered(f"ALL={tmp_path / 'a'}", f"normal={tmp_path / 'b'}")
    assert Counter(c.label for c in found.candidates) == {"ALL": 1, "HTL": 2}
    assert {c.source for c in found.candidates} == {"a", "b"}
    with pytest.raises(DataError, match="of no class"):
        gathered(f"lymphoma={tmp_path / 'a'}")
    with pytest.raises(UsageError, match="names no class"):
        gathered(f"={tmp_path / 'a'}")
    odd = touch(tmp_path / "x=y", "ALL/a.png", "HTL/b.png")
    assert len(gathered(odd).candidates) == 2


def test_a_dataset_file(tmp_path: Path) -> None:
    touch(tmp_path / "cells", *(f"im/{n}.png" for n in range(6)))
    touch(tmp_path / "healthy", "h1.png", "h2.png")
    rows = ["im/0.png,APL,blast,p1", "im/1.png,AML,blast,p2", "im/2.png,AML,mature,p2", "im/3.png,unclear,blast,p3"]
    (tmp_path / "cells" / "labels.csv").write_text("\n".join(["path,diagnosis,kind,patient", *rows]))
    (tmp_path / "data.yaml").write_text(
        """
task: five-class
sources:
  - {path: cells, name: deepapl, label_column: diagnosis, map: {unclear: null}, only: {kind: [blast]}, group_by: "column:patient"}
  - {path: healthy, class: healthy, group_by: none}
"""
    )
    found = gathered(tmp_path / "data.yaml", task=None, classes=("AML", "HTL"), positive="AML")
    assert {(c.source, c.relative): (c.label, c.group) for c in found.candidates} == {
        ("deepapl", "im/0.png"): ("AML", "p1"),
        ("deepapl", "im/1.png"): ("AML", "p2"),
        ("healthy", "h1.png"): ("HTL", None),
        ("healthy", "h2.png"): ("HTL", None),
    }
    assert found.groups_source == "none"
    assert any("deepapl: given as ids, healthy: not known" in warning for warning in found.warnings)
    assert any("left out by `only`" in note for note in found.notes)
    assert any("'unclear' left out by its map" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sources: []", "lists no sources"),
        ("sorces: []", "unknown key 'sorces'"),
        ("sources:\n- path: a\n  clas: ALL", "unknown key 'clas' in source 1"),
        ("sources:\n- name: a", "source 1 of .* has no path"),
        ("sources:\n- a", "is no list of keys"),
        ("sources:\n- {path: a, class: no}", "must be text, got False"),
        ("sources:\n- {path: a, class: ALL, layout: folders}", "both a class for all its images and layout"),
        ("sources:\n- {path: a, class: ALL, map: {x: ALL}}", "both a class for all its images and a map"),
        ("sources:\n- {path: a, map: [x]}", "map of source 1"),
        ("sources:\n- {path: a, only: x}", "only of source 1"),
        ("sources:\n- {path: a, group_by: patient}", "unknown --group-by 'patient'"),
        ("sources:\n- {path: a, layout: folders, only: {x: [y]}}", "`only` needs a labels file"),
        ("sources:\n- {path: none}", "there is no folder"),
        ("sources:\n- {path: a, labels: none.csv}", "there is no labels file"),
    ],
)
def test_dataset_files_that_are_not_understood(tmp_path: Path, text: str, problem: str) -> None:
    touch(tmp_path, "a/ALL/x.png", "a/HTL/y.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(LeukError, match=problem):
        gathered(tmp_path / "data.yaml")


def test_a_dataset_file_that_is_not_there_and_a_task_that_nobody_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no dataset file"):
        gathered(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="no task was given"):
        gathered(touch(tmp_path, "ALL/a.png", "HTL/a.png"), task=None)
    with pytest.raises(UsageError, match="no SOURCE"):
        gathered()


def test_a_task_file_beside_the_dataset_file_or_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "d/blast/a.png", "d/mature/a.png")
    (tmp_path / "t.yaml").write_text("classes: [blast, mature]\npositive: blast")
    for task in ("t.yaml", "{classes: [blast, mature], positive: blast}"):
        (tmp_path / "data.yaml").write_text(f"task: {task}\nsources: [{{path: d}}]")
        assert len(gathered(tmp_path / "data.yaml", task=None).candidates) == 2


# ---------------------------------------------------------------------------------------------------------- grouping


def test_group_by_none_parent_and_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "ALL/p1/s1/1-a.png", "ALL/p1/s2/2-b.png", "HTL/q/3-c.png")
    assert set(groups(gathered(tmp_path, group_by="none")).values()) == {None}
    assert set(groups(gathered(tmp_path, group_by="parent")).values()) == {"p1/s1", "p1/s2", "q"}
    found = gathered(tmp_path, group_by=r"regex:(\d)-[a-z]\.png$")
    assert set(groups(found).values()) == {"1", "2", "3"}
    assert found.groups_source == "filename"
    assert set(groups(gathered(tmp_path, group_by=r"regex:^[A-Z]+/[a-z]")).values()) == {"ALL/p", "HTL/q"}
    with pytest.raises(DataError, match=r"finds no group in 1 of 3 images .*HTL/q/3-c\.png"):
        gathered(tmp_path, group_by="regex:p[0-9]")
    with pytest.raises(UsageError, match="no regular expression"):
        gathered(tmp_path, group_by="regex:(")
    for wrong in ("patient", "column:", "auto:x"):
        with pytest.raises(UsageError, match="unknown --group-by"):
            gathered(tmp_path, group_by=wrong)
    with pytest.raises(DataError, match="needs a labels file"):
        gathered(tmp_path, group_by="column:patient")


def test_group_by_column(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("path,label,group,patient\na.png,ALL,x,p1\nb.png,HTL,x,\n")
    assert set(groups(gathered(tmp_path)).values()) == {"x"}
    found = gathered(tmp_path, group_by="column:patient")
    assert groups(found) == {"a.png": "p1", "b.png": None}
    assert found.groups_source == "none"
    with pytest.raises(DataError, match="has no column 'patiend'") as caught:
        gathered(tmp_path, group_by="column:patiend")
    assert "Did you mean 'patient'" in caught.value.hint


def test_group_by_file_matches_ends_of_paths(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "ALL/x.png", "ALL/y.png", "HTL/x.png", "HTL/z.png")
    table = tmp_path / "g.csv"
    table.write_text(
        "image,block,other\nALL/x.png,1,a\ny.png,2,b\n/else/where/d/HTL/x.png,3,c\nz.png,,d\nunused.png,9,e\n"
    )
    found = gathered(root, group_by=f"file:{table}")
    assert groups(found) == {"ALL/x.png": "1", "ALL/y.png": "2", "HTL/x.png": "3", "HTL/z.png": None}
    assert set(groups(gathered(root, group_by=f"file:{table}:other")).values()) == set("abcd")
    with pytest.raises(DataError, match="has no column 'nothing'"):
        gathered(root, group_by=f"file:{table}:nothing")
    table.write_text("image,block\nx.png,1\ny.png,2\nz.png,3\n")
    with pytest.raises(DataError, match=r"fits 1 of 4 images .* in two ways: HTL/x\.png"):
        gathered(root, group_by=f"file:{table}")
    table.write_text("image,block\nALL/x.png,1\n")
    with pytest.raises(DataError, match=r"names no group for 3 of 4 images"):
        gathered(root, group_by=f"file:{table}")
    with pytest.raises(DataError, match="there is no file"):
        gathered(root, group_by="file:none.csv:x")


def test_an_image_that_two_sources_name_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "ALL/a.png", "HTL/b.png")
    found = gathered(tmp_path, f"ALL={tmp_path / 'ALL'}")
    assert len(found.candidates) == 2
    assert any("1 image named more than once" in warning for warning in found.warnings)
    with pytest.raises(DataError, match="named twice, with class 'ALL' and 'HTL'"):
        gathered(tmp_path, f"HTL={tmp_path / 'ALL'}")
