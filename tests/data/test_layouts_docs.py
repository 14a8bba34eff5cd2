"""The pages on data sets are true: the example of a layout runs, and every layout and task they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leukemia_cli.data.candidates import gather
from leukemia_cli.data.datasets import SourceDefaults, read_sources
from leukemia_cli.data.layouts import LAYOUTS, Layout, Mark
from leukemia_cli.data.tasks import class_of, is_ignored, resolve_task

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str, language: str) -> list[str]:
    """Give the fenced blocks of a language of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (HOW_TO / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_a_layout_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree,) = blocks("add-a-layout.md", "text")
    functions, entry = blocks("add-a-layout.md", "python")
    names: dict[str, object] = {}
    exec(functions, names)
    layout = eval(entry, names)
    assert isinstance(layout, Layout) and layout.name not in LAYOUTS
    for line in tree.split():
        (tmp_path / line).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / line).write_text("10 20\n" if line.endswith(".txt") else "")
    monkeypatch.setitem(LAYOUTS, layout.name, layout)
    task = resolve_task({"classes": ["ALL", "HTL"], "positive": "ALL", "aliases": {"ALL": ["blast"]}})
    sources, _ = read_sources((str(tmp_path / "Example"),), SourceDefaults())
    found = gather(sources, task, "cell")
    assert {c.relative: (c.label, c.group, c.marks, c.holds) for c in found.candidates} == {
        "images/P07_ALL_1.png": ("ALL", "P07", (Mark(x=10, y=20, label="ALL"),), "fields"),
        "images/P07_ALL_2.png": ("ALL", "P07", None, "fields"),
        "images/D02_healthy_1.png": ("HTL", "D02", None, "fields"),
    }
    assert found.groups_source == "filename"
    assert any("layout example (all 3 images" in note for note in found.notes)


def test_the_page_of_public_sets_names_every_published_layout_and_no_other() -> None:
    text = (HOW_TO / "public-data-sets.md").read_text()
    table = text.partition("\n## ")[0]
    named = set(re.findall(r"^\| \[.*?\]\(.*?\) \| `([a-z0-9-]+)` \|", table, re.MULTILINE))
    assert named == {name for name, layout in LAYOUTS.items() if layout.published} | {"voc", "yolo", "csv"}
    assert {name for name in re.findall(r"\*\*Layout\*\*: `([a-z0-9-]+)`", text)} <= set(LAYOUTS)


def test_the_task_for_kinds_of_cells_knows_every_kind_of_aml_lmu(tmp_path: Path) -> None:
    (block,) = blocks("public-data-sets.md", "text")
    (tmp_path / "cells.yaml").write_text(block)
    task = resolve_task(str(tmp_path / "cells.yaml"))
    kinds = LAYOUTS["aml-lmu"].meaning.values()
    assert [kind for kind in kinds if class_of(task, kind) is None and not is_ignored(task, kind)] == []
    assert {class_of(task, name) for name in ("WBC", "neutrophil", "lymphocyte")} == {"mature"}
    assert class_of(task, "RBC") is None


def test_the_csv_of_the_atlas_page_is_read(tmp_path: Path) -> None:
    (block,) = blocks("ash.md", "text")
    (tmp_path / "labels.csv").write_text(block)
    sources, _ = read_sources((str(tmp_path),), SourceDefaults(labels=str(tmp_path / "labels.csv")))
    found = gather(sources, resolve_task("five-class"))
    assert [(c.label, c.group) for c in found.candidates] == [
        ("CLL", "case-60123"),
        ("CLL", "case-60123"),
        ("HTL", "case-60207"),
    ]
