"""A workspace is made once, refused where it is none, and gone again where nothing came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.folders import open_workspace, workspace_for


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
