from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.catalog import TASKS
from leukemia_cli.data.manifest import (
    COLUMNS,
    count_parts,
    make_manifest,
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from leukemia_cli.domain import Manifest, Sample, fingerprint
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.folders import Workspace, open_workspace


def manifest_of(*samples: Sample, folds: int | None = None) -> Manifest:
    """Make a manifest of the binary task."""
    return make_manifest(samples, task=TASKS["binary"], seed=3, folds=folds, groups_source="given", warnings=["w"])


def sample(path: str, **changes: object) -> Sample:
    """Make a row of the training split."""
    row = Sample(path=path, label="ALL", group="g", split="train", source="s", sha256="0f", width=3, height=4)
    return dataclasses.replace(row, **changes)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w", create=True)


_ANY_NAME = st.binary(min_size=1, max_size=20).map(os.fsdecode)


@settings(max_examples=50, deadline=None)
@given(names=st.lists(_ANY_NAME, unique=True, max_size=8), fold=st.none() | st.integers(0, 4))
def test_rows_come_back_as_they_were_written(
    names: list[str], fold: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = open_workspace(tmp_path_factory.mktemp("w"), create=True)
    split = "train" if fold is None else ""
    rows = [sample("/" + name, group=name, source=name, fold=fold, split=split) for name in names]
    manifest = manifest_of(*rows, folds=None if fold is None else 5)
    write_manifest(workspace, manifest, protocol="grouped", command=["leuk", "prepare", "x"])
    assert read_manifest(workspace) == manifest


def test_the_files_say_what_the_contract_names(workspace: Workspace) -> None:
    manifest = manifest_of(sample("/b.png"), sample("/a.png", split="test", label="HTL"))
    write_manifest(workspace, manifest, protocol="grouped", command=["leuk", "prepare"])
    lines = (workspace.manifest_folder / "manifest.csv").read_text().splitlines()
    assert lines[0] == "path,label,group,split,fold,unit,source,sha256,width,height" == ",".join(COLUMNS)
    assert lines[1] == "/a.png,HTL,g,test,,image,s,0f,3,4"
    facts = json.loads((workspace.manifest_folder / "manifest.json").read_text())
    assert facts["schema_version"] == 1
    assert facts["command"] == ["leuk", "prepare"]
    assert {"task", "seed", "protocol", "warnings", "fingerprint", "groups_source", "created", "leuk"} <= facts.keys()
    assert count_parts(manifest) == {"train": {"ALL": 1, "HTL": 0}, "test": {"ALL": 0, "HTL": 1}}


def test_the_fingerprint_is_of_what_matters() -> None:
    rows = [sample("/x/a.png", sha256="1"), sample("/x/b.png", sha256="2", group="h")]
    first = manifest_of(*rows).fingerprint
    assert manifest_of(*reversed(rows)).fingerprint == first
    moved = [dataclasses.replace(r, path=r.path.replace("/x", "/elsewhere"), source="t") for r in rows]
    assert manifest_of(*moved).fingerprint == first
    for change in ({"sha256": "3"}, {"label": "HTL"}, {"group": "i"}, {"split": "val"}, {"split": "", "fold": 1}):
        assert manifest_of(rows[0], dataclasses.replace(rows[1], **change)).fingerprint != first


def test_no_manifest_says_how_to_make_one(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="there is no manifest in workspace") as caught:
        read_manifest(workspace)
    assert "leuk prepare" in caught.value.hint
    assert caught.value.exit_code == 4


def test_damage_is_refused(workspace: Workspace) -> None:
    write_manifest(workspace, manifest_of(sample("/a.png")), protocol="grouped")
    table, facts = (workspace.manifest_folder / name for name in ("manifest.csv", "manifest.json"))
    whole, said = table.read_text(), json.loads(facts.read_text())
    table.write_text(whole.replace("train", "test"))
    with pytest.raises(WorkspaceError, match="is not the file that leuk prepare wrote"):
        read_manifest(workspace)
    table.unlink()
    with pytest.raises(WorkspaceError, match=r"cannot read .*manifest\.csv"):
        read_manifest(workspace)
    table.write_text(whole)
    for damage in ({"schema_version": 99}, {"schema_version": None}, {"groups_source": "guessed"}, {"task": {}}):
        facts.write_text(json.dumps({**said, **damage}))
        with pytest.raises(WorkspaceError):
            read_manifest(workspace)
    facts.write_text("{")
    with pytest.raises(WorkspaceError, match="cannot be read"):
        read_manifest(workspace)


def test_reading_loads_neither_numpy_nor_pillow(workspace: Workspace) -> None:
    write_manifest(workspace, manifest_of(sample("/a.png")), protocol="grouped")
    code = (
        "import sys; from pathlib import Path\n"
        "from leukemia_cli.data.manifest import read_manifest; from leukemia_cli.workspace.folders import Workspace\n"
        "import leukemia_cli.data.datasets\n"
        f"read_manifest(Workspace(Path({str(workspace.root)!r})))\n"
        "print([m for m in ('numpy', 'PIL', 'yaml', 'torch', 'sklearn', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    told=st.lists(
        st.tuples(
            st.sampled_from(["0a", "0b", "ff", ""]),
            st.sampled_from(["ALL", "HTL"]),
            st.text(max_size=3),
            st.text(max_size=2),
        ),
        max_size=12,
    )
)
def test_the_fingerprint_is_that_of_all_rows_sorted_as_text(told: list[tuple[str, str, str, str]]) -> None:
    rows = [
        sample("/x.png", sha256=digest, label=label, group=group, bundle=bundle)
        for digest, label, group, bundle in told
    ]
    lines = sorted(
        json.dumps([s.sha256, s.label, s.group, s.split, s.fold, s.unit, *([s.bundle] if s.bundle else [])])
        for s in rows
    )
    digest = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    task = TASKS["binary"]
    wanted = fingerprint({"classes": list(task.classes), "positive": task.positive, "rows": digest})
    assert manifest_fingerprint(task, rows) == wanted
