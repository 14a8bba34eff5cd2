"""Artefacts in JSON are refused where they are damaged or of a newer leuk."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.documents import check_schema, read_json


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
