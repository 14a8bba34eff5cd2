"""Where artefacts lie: whole or not at all, found by every name a run has, refused where they are not what they seem."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.errors import LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.steps.runs import runs
from leukemia_cli.workspace import (
    UNFINISHED,
    Workspace,
    check_run_name,
    check_schema,
    clear_unfinished,
    disk_errors,
    find_run,
    fresh_folder,
    list_runs,
    new_run_folder,
    open_workspace,
    read_json,
    run_at,
    workspace_for,
    write_bytes,
    write_json,
    write_text,
)

# ------------------------------------------------------------------------------------------------- the folder


def test_a_workspace_is_made_once_and_opened_again(tmp_path: Path) -> None:
    made = open_workspace(tmp_path / "deep" / "ws", create=True)
    assert json.loads((made.root / "workspace.json").read_bytes()) == {"schema_version": 1}
    before = (made.root / "workspace.json").stat().st_mtime_ns
    assert open_workspace(made.root, create=False) == open_workspace(made.root, create=True) == made
    assert (made.root / "workspace.json").stat().st_mtime_ns == before


def test_what_is_no_workspace_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for root, create, said in (
        ("mine", True, "holds other files"),
        ("mine", False, "is not a leuk workspace"),
        ("file", True, "is a file"),
        ("file", False, "is a file"),
        ("gone", False, "does not exist"),
    ):
        with pytest.raises(WorkspaceError, match=said):
            open_workspace(tmp_path / root, create=create)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine", "thesis.tex"]


def test_a_workspace_made_for_nothing_vanishes(tmp_path: Path) -> None:
    for there in (False, True):
        root = tmp_path / f"ws-{there}"
        if there:
            root.mkdir()
        with pytest.raises(RuntimeError), workspace_for(root):
            raise RuntimeError
        assert root.exists() is there
        assert not (root / "workspace.json").exists()
    with workspace_for(tmp_path / "kept") as kept:
        pass
    with pytest.raises(RuntimeError), workspace_for(kept.root):
        raise RuntimeError
    assert open_workspace(kept.root, create=False) == kept, "one that was there stays"
    with pytest.raises(RuntimeError), workspace_for(tmp_path / "used") as used:
        (used.root / "manifest").mkdir()
        raise RuntimeError
    assert open_workspace(used.root, create=False) == used, "one that holds something stays"


@pytest.mark.parametrize("version", [None, "1", True, 1.0, 99])
def test_schema_versions(version: object, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="99" if version == 99 else "no schema version"):
        check_schema({"schema_version": version}, tmp_path / "x.json", 1)
    check_schema({"schema_version": 1}, tmp_path / "x.json", 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(WorkspaceError) as caught:
        read_json(file, "report")
    assert "report" in caught.value.problem
    assert str(file) in caught.value.problem
    assert "damaged" in caught.value.hint
    with pytest.raises(WorkspaceError, match="there is no report"):
        read_json(tmp_path / "gone.json", "report")


# --------------------------------------------------------------------------------------------- atomic writing


def test_a_write_that_fails_keeps_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "run.json"
    write_json(file, {"a": 1})
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(MachineError, match="no space left"):
                write_json(file, {"a": 2})
    with pytest.raises(ValueError, match=r"NaN|not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_bytes()) == {"a": 1}
    assert [p.name for p in file.parent.iterdir()] == ["run.json"]


def test_killed_between_writing_and_renaming_the_old_file_stays(tmp_path: Path) -> None:
    """With a real kill -9, at the moment when the new file is whole but has not yet its name."""
    code = """
import os, signal, sys
from pathlib import Path
from leukemia_cli.workspace import fresh_folder, write_text
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
if sys.argv[2] == "file":
    Path.replace = die
    write_text(folder / "file.txt", "new")
else:
    with fresh_folder(folder / "report") as beside:
        (beside / "a.txt").write_text("new")
        Path.rename = die
"""
    (tmp_path / "file.txt").write_text("old")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.txt").write_text("old")
    for what in ("file", "folder"):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, what],
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file.txt").read_text() == "old"
    assert (tmp_path / "report" / "a.txt").read_text() == "old"
    left = [p.name for p in tmp_path.iterdir() if p.name not in ("file.txt", "report")]
    assert len(left) == 2
    assert all(name.startswith(UNFINISHED) for name in left)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    final = tmp_path / "reports" / "x"
    for text in ("one", "two"):
        with fresh_folder(final) as beside:
            assert list(beside.iterdir()) == []
            (beside / "sub").mkdir()
            (beside / "sub" / f"{text}.txt").write_text(text)
            assert not (final / "sub" / f"{text}.txt").exists()
    assert [p.name for p in final.rglob("*.txt")] == ["two.txt"]
    assert [p.name for p in final.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("stage", ["block", "flush", "rename"])
def test_a_folder_that_fails_keeps_the_old_one(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "x"
    with fresh_folder(final) as beside:
        (beside / "a.txt").write_text("old")
    whole = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == final and "-old-" not in self.name:
            raise OSError(errno.EIO, "planted")
        return whole(self, target)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    with monkeypatch.context() as patch:
        if stage == "rename":
            patch.setattr(Path, "rename", rename)
        if stage == "flush":
            patch.setattr(os, "fsync", fails)
        with pytest.raises((MachineError, KeyboardInterrupt)), fresh_folder(final) as beside:
            (beside / "a.txt").write_text("new")
            if stage == "block":
                raise KeyboardInterrupt
    assert (final / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    """As root a rename onto /dev/null would succeed, and the machine would be without it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(UsageError, match="cannot write"):
            write_bytes(path, b"x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UsageError, match="cannot write"):
        write_bytes(tmp_path / "pipe" / "below.txt", b"x")
    with pytest.raises(UsageError, match="cannot write"):
        write_bytes(tmp_path / ("n" * 300), b"x")


@given(st.binary(max_size=40))
def test_text_keeps_any_bytes(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.txt"
    write_text(file, os.fsdecode(name))
    assert file.read_bytes() == name
    write_json(file, {"path": os.fsdecode(name)})
    assert read_json(file, "x") == {"path": os.fsdecode(name)}
    assert file.read_bytes().isascii()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, MachineError), (errno.EDQUOT, MachineError), (errno.EIO, MachineError),
        (errno.EACCES, WorkspaceError), (errno.EROFS, WorkspaceError), (errno.ENAMETOOLONG, UsageError),
        (errno.ENOTDIR, UsageError),
    ],
)  # fmt: skip
def test_what_a_disk_says_becomes_an_error_with_a_way_out(number: int, kind: type[LeukError]) -> None:
    with pytest.raises(kind) as caught, disk_errors(Path("/place/file")):
        raise OSError(number, os.strerror(number))
    assert "/place/file" in caught.value.problem
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(BrokenPipeError), disk_errors(Path("x")):
        raise BrokenPipeError


# ------------------------------------------------------------------------------------------------------- runs

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


def test_of_two_that_put_one_folder_in_place_at_once_the_last_wins_and_neither_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, rename, slipped = tmp_path / "report", Path.rename, []

    def with_a_rival(self: Path, target: Path) -> Path:
        if target == final and len(slipped) < 3:  # between our look and our rename, another process has put its own
            final.mkdir()
            (final / "mark").write_text("rival")
            slipped.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", with_a_rival)
    with fresh_folder(final) as beside:
        (beside / "mark").write_text("mine")
    assert len(slipped) == 3
    assert (final / "mark").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_leftovers_of_a_killed_process_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-00-model.safetensors").write_bytes(b"half")
    (tmp_path / ".unfinished-01-folder").mkdir()
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
