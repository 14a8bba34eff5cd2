"""Rows in files: what was written is read, in any parts; what is not whole is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.vision.records import RecordFile, RecordWriter, Stacked, in_parts

ROW = np.dtype([("number", "<i4"), ("name", "S3"), ("shares", "<f4", (2,))])


def rows(count: int, start: int = 0) -> np.ndarray:
    made = np.zeros(count, dtype=ROW)
    made["number"] = np.arange(start, start + count)
    made["shares"][:, 1] = made["number"] / 7
    return made


def written(path: Path, *parts: np.ndarray) -> Path:
    with RecordWriter(path, ROW, {"version": "3"}) as writer:
        for part in parts:
            writer.add(part)
    return path


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with RecordFile(written(tmp_path / "r", rows(3), rows(0), rows(4, 3)), ROW) as kept:
        assert len(kept) == 7
        assert dict(kept.facts) == {"version": "3"}
        assert np.array_equal(kept[0:7], rows(7))
        assert np.array_equal(kept[5:99], rows(2, 5))
        assert len(kept[5:2]) == 0
        assert kept[np.array([6, 0, 6])]["number"].tolist() == [6, 0, 6]
        assert [len(part) for part in in_parts(kept, 3)] == [3, 3, 1]
        with pytest.raises(ValueError, match="steps of 2"):
            kept[::2]


def test_other_programs_can_open_the_file(tmp_path: Path) -> None:
    stored = load_file(written(tmp_path / "r", rows(5)))
    assert np.array_equal(stored["records"].reshape(-1).view(ROW), rows(5))


def test_a_file_without_rows_is_whole(tmp_path: Path) -> None:
    with RecordFile(written(tmp_path / "r"), ROW) as kept:
        assert len(kept) == 0
        assert [len(part) for part in in_parts(kept)] == [0]


def test_what_is_not_whole_or_of_another_type_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r", rows(5))
    content = path.read_bytes()
    for spoilt in (content[:-1], content + b"x", content[:100], b"", bytes(len(content))):
        path.write_bytes(spoilt)
        with pytest.raises(WorkspaceError):
            RecordFile(path, ROW)
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match="another version"):
        RecordFile(path, np.dtype([("number", "<i4")]))
    with pytest.raises(WorkspaceError):
        RecordFile(tmp_path / "none", ROW)
    with RecordWriter(tmp_path / "open", ROW) as writer:
        writer.add(rows(1))
        with pytest.raises(WorkspaceError):
            RecordFile(writer.path, ROW)
        with pytest.raises(ValueError, match="rows must be"):
            writer.add(np.zeros(1, dtype=[("number", "<i8")]))


@given(own=st.integers(0, 5), start=st.integers(0, 9), stop=st.integers(0, 9), picked=st.lists(st.integers(0, 7)))
def test_two_tables_are_read_as_one(own: int, start: int, stop: int, picked: list[int]) -> None:
    whole = rows(8)
    both = Stacked(whole[:own], whole[own:])
    assert len(both) == 8
    assert np.array_equal(both[start:stop], whole[start:stop])
    assert np.array_equal(both[np.array(picked, dtype=int)], whole[np.array(picked, dtype=int)])
