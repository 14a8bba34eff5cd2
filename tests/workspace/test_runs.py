"""Runs are found by every name they have, and refused where they are not what they seem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.steps.runs import runs
from leukemia_cli.workspace.documents import write_json
from leukemia_cli.workspace.files import (
    UNFINISHED,
)
from leukemia_cli.workspace.folders import Workspace, open_workspace
from leukemia_cli.workspace.runs import check_run_name, find_run, list_runs, new_run_folder, run_at

Make = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws", create=True)


@pytest.fixture
def make(workspace: Workspace) -> Make:
    """Make a run of which only what `find_run` reads is there."""
    made = []

    def run(stem: str, score: object = None, *, finished: bool = True, manifest: str = "m1", **facts: Any) -> Path:
        made.append(stem)
        created = f"2026-01-01T00:00:{len(made):02d}+00:00"
        started = {"schema_version": 1, "created": created, "manifest": manifest, **facts}
        path = new_run_folder(workspace, stem, started)
        if finished:
            stored = json.loads((path / "started.json").read_bytes())
            write_json(path / "run.json", {**stored, "validation": {"balanced_accuracy": score}})
        return path

    return run


def found(workspace: Workspace, wanted: str | None, manifest: str | None = "m1", **more: bool) -> str:
    return find_run(workspace, wanted, manifest=manifest, **more).id


def test_ids_are_free_numbers_and_say_so_inside(workspace: Workspace, make: Make) -> None:
    assert [make("a").name, make("a").name, make("b").name] == ["a-1", "a-2", "b-1"]
    assert json.loads((workspace.runs_folder / "a-2" / "started.json").read_bytes())["run"] == "a-2"


@pytest.mark.parametrize(
    "name", ["a/b", "../x", "/x", "a\\b", ".x", "-x", "", " ", "a\nb", "\x1b[2J", "best", "latest", "all"]
)
def test_names_that_cannot_be(name: str, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        check_run_name(name)
    with pytest.raises(UsageError):
        new_run_folder(workspace, name, {})
    assert not workspace.runs_folder.exists()


@pytest.mark.parametrize("name", ["senet-dropout", "timm-hf-hub-x-y.z", "für Elise", "7"])
def test_names_that_can_be(name: str, workspace: Workspace) -> None:
    assert new_run_folder(workspace, name, {}).name == f"{name}-1"


def test_id_name_prefix(workspace: Workspace, make: Make) -> None:
    make("senet-base", 0.5)
    make("mine", 0.5, name="mine")
    make("mine", 0.5, name="mine")
    make("resnext-svm", 0.5, finished=False)
    assert found(workspace, "senet-base-1") == "senet-base-1"
    assert found(workspace, "mine-1") == "mine-1"
    assert found(workspace, "mine") == "mine-2", "of equal names the newest"
    assert found(workspace, "sen") == "senet-base-1"
    assert found(workspace, "resnext-svm-1") == "resnext-svm-1", "an id finds an unfinished run as well"
    with pytest.raises(UsageError, match="begins several runs: mine-1, mine-2"):
        found(workspace, "mi")
    with pytest.raises(WorkspaceError, match="no run 'nope'") as caught:
        found(workspace, "nope")
    assert "senet-base-1" in caught.value.hint


def test_an_exact_id_wins_over_a_longer_one(workspace: Workspace, make: Make) -> None:
    for number in range(10):
        make("a", number / 10)
    assert found(workspace, "a-1") == "a-1"
    make("a-1", 0.1, name="a-1")
    assert found(workspace, "a-1") == "a-1"


def test_latest_and_unfinished(workspace: Workspace, make: Make) -> None:
    with pytest.raises(WorkspaceError, match="no finished run"):
        found(workspace, "latest")
    make("z", 0.9)
    make("a", 0.1)
    make("m", finished=False)
    assert found(workspace, "latest") == "a-1", "by time, not by name"
    assert found(workspace, "latest", finished=False) == "m-1"
    (workspace.runs_folder / "m-1" / "started.json").unlink()
    with pytest.raises(WorkspaceError, match="no interrupted run to resume"):
        found(workspace, "latest", finished=False)


def test_best_is_by_validation_among_runs_of_this_manifest(workspace: Workspace, make: Make) -> None:
    with pytest.raises(WorkspaceError, match="no finished run made from the manifest"):
        found(workspace, None)
    make("other", 1.0, manifest="m2")
    with pytest.raises(WorkspaceError, match=r"\(1 from another manifest\)"):
        found(workspace, "best")
    make("unscored", None)
    assert found(workspace, None) == "unscored-1", "where none is validated the newest"
    make("low", 0.4)
    make("high", 0.8)
    make("same", 0.8)
    make("text", "0.99")  # a score that is no number counts as none
    make("running", 0.99, finished=False)
    assert found(workspace, None) == found(workspace, "best") == "same-1", "of equals the newest"
    assert found(workspace, "best", manifest="m2") == "other-1"
    assert found(workspace, "best", manifest=None) == "other-1"


def test_best_is_never_by_test(workspace: Workspace, make: Make) -> None:
    make("a", 0.9)
    make("b", 0.8, test={"balanced_accuracy": 1.0}, metrics={"balanced_accuracy": {"value": 1.0}})
    assert found(workspace, None) == "a-1"


def test_paths(workspace: Workspace, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("a", 0.5)
    moved = path.rename(tmp_path / "moved")
    for wanted in (str(moved), f"{moved}/", str(moved / "run.json")):
        assert find_run(workspace, wanted, manifest="m1").id == "a-1"
    monkeypatch.chdir(tmp_path)
    for wanted in ("moved", "./moved", "moved/run.json"):
        at = run_at(wanted)
        assert at is not None
        assert (at.id, at.finished) == ("a-1", True)
    monkeypatch.chdir(moved)
    assert run_at("run.json") is not None
    assert run_at("a-1") is None
    for wanted, said in (("no/where", "there is no run at no/where"), (str(tmp_path), "it is no run")):
        with pytest.raises(WorkspaceError, match=said):
            run_at(wanted)


def test_damaged_folders_are_listed_and_in_nobodys_way(workspace: Workspace, make: Make) -> None:
    make("good", 0.5)
    (make("torn", 0.9) / "run.json").write_text("{")
    (make("newer", 0.9) / "run.json").write_text('{"schema_version": 2}')
    (workspace.runs_folder / "stray").mkdir()
    (workspace.runs_folder / f"{UNFINISHED}x").mkdir()
    (workspace.runs_folder / "notes.txt").write_text("mine")
    (make("odd", 0.1) / "run.json").write_text('{"schema_version": 1, "run": "odd-1", "validation": 7, "settings": []}')
    known, damaged = list_runs(workspace)
    assert [run.id for run in known] == ["odd-1", "good-1"]
    assert [path.name for path, _ in damaged] == ["newer-1", "stray", "torn-1"]
    assert found(workspace, None) == "good-1"
    with pytest.raises(WorkspaceError, match="cannot be read") as caught:
        found(workspace, "torn-1")
    assert "restore" in caught.value.hint
    listed = runs(workspace).as_json()
    assert [row["run"] for row in listed["runs"]] == ["odd-1", "good-1"]
    assert [Path(row["path"]).name for row in listed["damaged"]] == ["newer-1", "stray", "torn-1"]
    assert "has schema 2" in listed["damaged"][0]["reason"]


def test_a_report_belongs_to_one_run(workspace: Workspace, make: Make) -> None:
    make("a", 0.5)
    make("a-1", 0.5)
    for name in ("a-1-test", "a-1-1-test", "a-1-external-munich", "a-1-1-val", f"{UNFINISHED}9-a-1-test"):
        write_json(workspace.reports_folder / name / "report.json", {})
    (workspace.reports_folder / "a-1-val").mkdir()
    listed = {row["run"]: row["reports"] for row in runs(workspace).runs}
    assert listed == {"a-1": ["a-1-external-munich", "a-1-test"], "a-1-1": ["a-1-1-test", "a-1-1-val"]}
