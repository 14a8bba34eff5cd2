from __future__ import annotations

from pathlib import Path

import pytest

from leukemia_cli.data.tasks import class_of, is_ignored, nearest, plain, resolve_task
from leukemia_cli.errors import UsageError


def test_labels_are_compared_without_case_and_marks() -> None:
    assert plain("  Acute_Lymphoblastic-leukemia ") == "acute lymphoblastic leukemia"
    task = resolve_task("binary")
    for label in ("ALL", "all", "Acute_Lymphoblastic_Leukemia", "acute-lymphocytic leukaemia"):
        assert class_of(task, label) == "ALL"
    for label in ("HTL", "Healthy", "NORMAL", "benign", "hem"):
        assert class_of(task, label) == "HTL"
    assert class_of(task, "AML") is None
    assert nearest(task, "helthy") == "healthy"


def test_a_subset_keeps_its_order_and_knows_what_it_leaves_out() -> None:
    task = resolve_task("five-class", ("HTL", "all", "AML"))
    assert task.classes == ("HTL", "ALL", "AML")
    assert task.whole == 5
    assert task.title == "five-class (3 of 5 classes: HTL, ALL, AML)"
    assert class_of(task, "CML") == "CML"


def test_two_classes_always_have_a_positive_one() -> None:
    assert resolve_task("binary").positive == "ALL"
    assert resolve_task("binary", ("HTL", "ALL")).positive == "ALL"
    assert resolve_task("binary", positive="healthy").positive == "HTL"
    assert resolve_task("five-class").positive is None
    assert resolve_task("five-class", ("AML", "HTL"), "aml").positive == "AML"
    with pytest.raises(UsageError, match="none is named as the positive one") as caught:
        resolve_task("five-class", ("AML", "HTL"))
    assert "--positive AML" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "classes", "positive", "problem", "hint"),
    [
        ("binari", None, None, "unknown task 'binari'", "Did you mean 'binary'"),
        ("none.yaml", None, None, "cannot read task file none.yaml", "Check the path"),
        ("five-class", ("ALL",), None, "fewer than two classes", "Choose from"),
        ("five-class", ("ALL", "all"), None, "names a class twice", ""),
        ("five-class", ("ALL", "AMLL"), None, "unknown class 'AMLL' of task five-class", "Did you mean 'AML'"),
        ("five-class", None, "ALL", "needs a task of two classes", ""),
        ("five-class", ("ALL", "HTL"), "CML", "is not one of the classes", "ALL, HTL"),
    ],
)
def test_what_does_not_go_together(
    name: str, classes: tuple[str, ...] | None, positive: str | None, problem: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        resolve_task(name, classes, positive)
    assert hint in caught.value.hint


def test_a_task_file(tmp_path: Path) -> None:
    file = tmp_path / "blasts.yaml"
    file.write_text(
        "classes: [blast, mature, HTL]\naliases:\n  blast: [promyelocyte, L1]\n  mature: monocyte\nignored: [smudge cell]\n"
    )
    task = resolve_task(str(file))
    assert (task.name, task.classes, task.positive, task.whole) == ("blasts", ("blast", "mature", "HTL"), None, 3)
    assert class_of(task, "Promyelocyte") == "blast"
    assert class_of(task, "normal") == "HTL"
    assert class_of(task, "all") is None
    assert is_ignored(task, "Smudge_Cell")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no keys"),
        ("- a\n- b", "holds no keys"),
        ("classes: [a, b", "not valid YAML"),
        ("name: x", "names no classes"),
        ("classes: [a]", "at least two different"),
        ("classes: [T-ALL, t_all]", "at least two different"),
        ("classes: [a, b]\nclases: 1", "unknown key 'clases'"),
        ("classes: [yes, no]", "must be text, got True"),
        ("classes: [a, b]\npositive: c", "'c' in .* is not one of two"),
        ("classes: [a, b]\naliases: {c: [x]}", "unknown class 'c'"),
        ("classes: [a, b]\naliases: [x]", "must be lists by class"),
        ("classes: [a, b]\npositive: a\naliases: {a: [x], b: [X]}", "would mean both a and b"),
        ("classes: [a, b]\npositive: a\nignored: [A]", "both a class and ignored"),
    ],
)
def test_task_files_that_are_not_understood(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=problem):
        resolve_task(str(file))
