"""Files and folders lie there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.errors import LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.workspace.documents import read_json, write_json
from leukemia_cli.workspace.files import (
    UNFINISHED,
    clear_unfinished,
    disk_errors,
    fresh_folder,
    write_bytes,
    write_text,
)


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
from leukemia_cli.workspace.files import fresh_folder, write_text
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
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
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
