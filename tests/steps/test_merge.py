"""Shards become what one process would have written; what does not belong together is refused by name."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.data.shards import Dealt, Shard
from leukemia_cli.errors import DataError, LeukError, UsageError, WorkspaceError
from leukemia_cli.reporting.findings import Finding, Row
from leukemia_cli.reporting.outputs import Terms, find_output, open_rows, partial_of, sidecar_of
from leukemia_cli.reporting.row_stores import RowForm, read_parquet
from leukemia_cli.steps.merge import merge
from leukemia_cli.workspace import sealed, write_json

CLASSES = ("ALL", "HTL")
pytestmark = pytest.mark.usefixtures("without_a_disk")
TERMS = Terms(
    leuk="1.0", form="csv", run="r-1", run_fingerprint="abc", classes=CLASSES, engine="torch", precision="fp32",
    abstain=True, input_unit=None, max_megapixels=200.0, shard=None,
)  # fmt: skip
FORMS: tuple[RowForm, ...] = ("csv", "jsonl", "parquet")
PATHS = [f"{lead}{i}.png" for i, lead in enumerate(["=", "a,", "'-", "ü/", 'q"', "n\n", "plain/"] * 6)]


def row_of(path: str) -> Row:
    dice = random.Random(path)
    failed = dice.random() < 0.2
    score = dice.random()
    return Finding(
        path=path, classes=CLASSES, label=None if failed else "ALL", decision="error" if failed else "label",
        confidence=None if failed else score, scores=None if failed else (score, 1 - score), unit="image", run="r-1",
        engine="torch", precision="fp32", error="@sum: it is broken" if failed else None, cells=None if failed else 3,
        cells_by_class=None if failed else (1, 2), novelty=None if failed else -score,
    ).as_row()  # fmt: skip


def write(file: Path, paths: Sequence[str], shard: Shard | None, form: RowForm, **changed: Any) -> Path:
    dealt = Dealt(paths, shard)
    with open_rows(file, replace(TERMS, form=form, shard=shard, **changed)) as rows:
        for path in dealt:
            rows.add(row_of(path))
        rows.seal(inputs=dealt.inputs, inputs_sha256=dealt.sha256)
    return file


def write_shards(folder: Path, of: int, form: RowForm, paths: Sequence[str] = PATHS) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [write(folder / f"{i}.{form}", paths, Shard(number=i, of=of), form) for i in range(1, of + 1)]


def names(files: Sequence[Path]) -> list[str]:
    return [str(file) for file in files]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of", [1, 5, 44])
def test_shuffled_parts_give_the_bytes_of_one_process(form: RowForm, of: int, tmp_path: Path) -> None:
    one = write(tmp_path / f"one.{form}", PATHS, None, form)
    parts = write_shards(tmp_path / "parts", of, form)
    random.Random(of).shuffle(parts)
    done = merge(names(parts), tmp_path / f"merged.{form}")
    if form == "parquet":
        assert read_parquet(tmp_path / "merged.parquet").equals(read_parquet(one), check_metadata=True)
    else:
        assert (tmp_path / f"merged.{form}").read_bytes() == one.read_bytes()
    ours, theirs = (json.loads(sidecar_of(file).read_text()) for file in (done.output.file, one))
    if form != "parquet":
        assert ours == theirs
    assert done.as_json() == {
        "output": str(tmp_path / f"merged.{form}"), "parts": of, "rows": len(PATHS), "errors": theirs["errors"],
        "run": "r-1", "engine": "torch", "precision": "fp32",
    }  # fmt: skip
    assert find_output(done.output.file) == done.output


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_several_formats_give_any_format(form: RowForm, tmp_path: Path) -> None:
    one = write(tmp_path / f"one.{form}", PATHS, None, form)
    parts = [write(tmp_path / f"p{i}", PATHS, Shard(number=i + 1, of=3), kind) for i, kind in enumerate(FORMS)]
    merge(names(parts), tmp_path / "merged", form)
    if form == "parquet":
        assert read_parquet(tmp_path / "merged").equals(read_parquet(one))
    else:
        assert (tmp_path / "merged").read_bytes() == one.read_bytes()
    with pytest.raises(UsageError, match="the parts are csv and jsonl and parquet"):
        merge(names(parts), tmp_path / "again")


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 30), st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_number_of_inputs_and_shards(
    tmp_path_factory: pytest.TempPathFactory, inputs: int, of: int, dice: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("any")
    paths = [f"{i}.png" for i in range(inputs)]
    parts = write_shards(folder / "parts", of, "jsonl", paths)
    dice.shuffle(parts)
    merge(names(parts), folder / "merged.jsonl")
    rows = [json.loads(line) for line in (folder / "merged.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == paths


def test_folders_and_patterns_name_parts(tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 3, "csv")
    one = merge(names(parts), tmp_path / "parts" / "merged.csv").output
    for given_parts in (
        [str(tmp_path / "parts")],
        [str(tmp_path / "parts" / "[0-9]*")],
        [*names(parts), str(parts[0])],
    ):
        assert merge(given_parts, tmp_path / "again.csv").output.sha256 == one.sha256
    with pytest.raises(UsageError, match="nothing matches"):
        merge([str(tmp_path / "no*")], tmp_path / "x.csv")
    with pytest.raises(WorkspaceError, match="no output of a shard"):
        merge([str(tmp_path)], tmp_path / "x.csv")
    with pytest.raises(UsageError, match="is one of the parts"):
        merge(names(parts), parts[1])
    with pytest.raises(WorkspaceError, match="is no shard"):
        merge([str(tmp_path / "again.csv")], tmp_path / "x.csv")


def test_a_missing_shard_is_named_and_where_it_stopped(tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 4, "csv")
    kept = names([parts[0], parts[3]])
    with pytest.raises(WorkspaceError, match="shards 2/4, 3/4 are missing"):
        merge(kept, tmp_path / "m.csv")
    with pytest.raises(KeyboardInterrupt), open_rows(parts[1], replace(TERMS, shard=Shard(number=2, of=4))):
        raise KeyboardInterrupt
    for file in (parts[1], sidecar_of(parts[1])):
        file.unlink()
    with pytest.raises(WorkspaceError, match="shard 2/4 is missing") as refused:
        merge([*kept, str(parts[2])], tmp_path / "m.csv")
    assert str(partial_of(parts[1])) in refused.value.hint and "--resume" in refused.value.hint
    with pytest.raises(WorkspaceError, match=r"2\.csv is not finished"):
        merge(names(parts), tmp_path / "m.csv")
    with pytest.raises(WorkspaceError, match="is not there"):
        merge([str(tmp_path / "gone.csv")], tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_part_is_refused(form: RowForm, tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 2, form)
    content = parts[1].read_bytes()
    for bad in (content[:-5], content.replace(b"ALL", b"ALM", 1), b"", content + b"\n"):
        parts[1].write_bytes(bad)
        with pytest.raises(WorkspaceError, match=r"2\.\w+ has changed"):
            merge(names(parts), tmp_path / "m")
    parts[1].write_bytes(content)
    sidecar_of(parts[1]).unlink()
    with pytest.raises(WorkspaceError, match=r"has no 2\.\w+\.leuk\.json"):
        merge(names(parts), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_part_whose_end_was_interrupted_is_whole(tmp_path: Path) -> None:
    """Its rows have their name, and its sidecar has not: what a kill between the two leaves."""
    parts = write_shards(tmp_path / "parts", 2, "csv")
    sidecar_of(parts[0]).rename(sidecar_of(partial_of(parts[0])))
    assert merge(names(parts), tmp_path / "m.csv").output.rows == len(PATHS)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"run": "r-2"}, WorkspaceError, "run: r-1 there, r-2 here"),
        ({"run_fingerprint": "abd"}, WorkspaceError, "run fingerprint"),
        ({"engine": "onnx"}, WorkspaceError, "engine"),
        ({"precision": "bf16"}, WorkspaceError, "precision"),
        ({"abstain": False}, WorkspaceError, "abstain"),
        ({"classes": ("ALL", "AML")}, WorkspaceError, "classes"),
        ({"shard": Shard(number=2, of=3)}, WorkspaceError, "shards: 2 there, 3 here"),
        ({"shard": Shard(number=1, of=2)}, WorkspaceError, "are both shard 1/2"),
        ({"paths": PATHS[::-1]}, DataError, "different lists of inputs"),
        ({"paths": PATHS[:-1]}, DataError, "different lists of inputs"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    changed: dict[str, Any], kind: type[LeukError], said: str, tmp_path: Path
) -> None:
    first = write(tmp_path / "1.csv", PATHS, Shard(number=1, of=2), "csv")
    given_parts = {"paths": PATHS, "shard": Shard(number=2, of=2), **changed}
    paths, shard = given_parts.pop("paths"), given_parts.pop("shard")
    with pytest.MonkeyPatch.context() as patch:
        if "classes" in changed:
            patch.setattr(f"{__name__}.row_of", lambda path: dict.fromkeys(replace(TERMS, **given_parts).kinds, None))
        second = write(tmp_path / "2.csv", paths, shard, "csv", **given_parts)
    with pytest.raises(kind, match=said):
        merge(names([first, second]), tmp_path / "m.csv")


@pytest.mark.parametrize("form", FORMS)
def test_a_path_that_occurs_twice_is_named(form: RowForm, tmp_path: Path) -> None:
    paths = [*PATHS, "twice, or so.png", "x.png", "twice, or so.png"]
    parts = write_shards(tmp_path / "parts", 3, form, paths)
    with pytest.raises(DataError, match=r"twice, or so\.png occurs twice: in .* and ") as refused:
        merge(names(parts), tmp_path / "m")
    assert str(parts[(len(PATHS)) % 3]) in refused.value.problem
    assert not (tmp_path / "m").exists()


def test_equal_hashes_of_different_paths_are_no_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = write_shards(tmp_path / "parts", 3, "csv")
    monkeypatch.setattr("leukemia_cli.steps.merge.hash", lambda path: len(path) % 2, raising=False)
    assert merge(names(parts), tmp_path / "m.csv").output.rows == len(PATHS)


def test_a_part_with_other_rows_than_it_says_is_refused(tmp_path: Path) -> None:
    """One that was made so: its digest is right."""
    parts = write_shards(tmp_path / "parts", 2, "csv")
    with open_rows(parts[1], replace(TERMS, shard=Shard(number=2, of=2))) as rows:
        rows.add(row_of("a.png"))
        rows.rows = len(PATHS) // 2
        rows.seal(inputs=len(PATHS), inputs_sha256=Dealt(PATHS).sha256)
    dealt = Dealt(PATHS)
    list(dealt)
    text = json.loads(sidecar_of(parts[1]).read_text())
    assert text["inputs_sha256"] != dealt.sha256
    with pytest.raises(DataError, match="different lists"):
        merge(names(parts), tmp_path / "m.csv")
    with open_rows(parts[1], replace(TERMS, shard=Shard(number=2, of=2))) as rows:
        rows.add(row_of("a.png"))
        rows.rows = len(PATHS) // 2
        rows.seal(inputs=len(PATHS), inputs_sha256=dealt.sha256)
    with pytest.raises(WorkspaceError, match=r"2\.csv is damaged: it has fewer than"):
        merge(names(parts), tmp_path / "m.csv")
    with open_rows(parts[1], replace(TERMS, shard=Shard(number=2, of=2))) as rows:
        rows.add(row_of("a.png"))
        rows.seal(inputs=len(PATHS), inputs_sha256=dealt.sha256)
    with pytest.raises(DataError, match="has 1 rows, and shard 2/2"):
        merge(names(parts), tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("csv", b"path,label\na.png,ALL\n"), ("csv", None), ("jsonl", b"[" * 5000 + b"\n"), ("jsonl", b'["path"]\n'),
        ("jsonl", b"{}\n"), ("jsonl", b"\xff\n"), ("parquet", b"PAR1"), ("parquet", b""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("to", ["csv", "jsonl", "parquet"])
def test_a_forged_part_is_an_error_and_no_crash(
    form: RowForm, content: bytes | None, to: RowForm, tmp_path: Path
) -> None:
    """With a sidecar that agrees with whatever stands in it."""
    file = write_shards(tmp_path / "parts", 1, form, ["a.png"])[0]
    if content is None:
        content = file.read_bytes().splitlines(keepends=True)[0] + b'a.png,"x\n'
    file.write_bytes(content)
    told = json.loads(sidecar_of(file).read_text())
    write_json(sidecar_of(file), sealed({**told, "sha256": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(WorkspaceError, match="damaged"):
        merge([str(file)], tmp_path / "m", to)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("form", FORMS)
def test_more_parts_than_files_may_be_open(form: RowForm, tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 40, form, [f"{i}.png" for i in range(100)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    handles = Path("/proc/self/fd")
    here = len(list(handles.iterdir())) if handles.is_dir() else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, here + 12), hard))
    try:
        done = merge(names(parts), tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done.output.rows == 100


def test_a_merge_that_failed_is_simply_made_again(tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 2, "csv", [*PATHS, PATHS[0]])
    with pytest.raises(DataError):
        merge(names(parts), tmp_path / "m.csv")
    shutil.rmtree(tmp_path / "parts")
    parts = write_shards(tmp_path / "parts", 2, "csv")
    assert merge(names(parts), tmp_path / "m.csv").output.rows == len(PATHS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "m.csv.leuk.json", "parts"]
