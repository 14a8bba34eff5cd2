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
from leukemia_cli.workspace.documents import sealed, write_json

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


# ------------------------------------------------------------------------------------------------ folders of parts


def write_folders(folder: Path, of: int, rows_per_part: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [
        write(folder / f"{i}", PATHS, Shard(number=i, of=of), "parquet", rows_per_part=rows_per_part + i)
        for i in range(1, of + 1)
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_folders_of_parts_are_merged_as_files_are(tmp_path: Path) -> None:
    """Shards with parts of different lengths, named one by one, by their folder, by a pattern, and among files."""
    one = write(tmp_path / "one.parquet", PATHS, None, "parquet")
    parted = write(tmp_path / "parted", PATHS, None, "parquet", rows_per_part=10)
    shards = write_folders(tmp_path / "parts", 3, 4)
    write(tmp_path / "parts" / "whole.csv", PATHS, None, "csv")
    ways = (names(shards[::-1]), [str(tmp_path / "parts")], [str(tmp_path / "parts" / "[0-9]")])
    for number, given_parts in enumerate(ways):
        done = merge(given_parts, tmp_path / f"m{number}.parquet")
        assert read_parquet(done.output.file).equals(read_parquet(one), check_metadata=True)
        done = merge(given_parts, tmp_path / f"m{number}", rows_per_part=10)
        assert content(done.output.file) == content(parted)
        assert find_output(tmp_path / f"m{number}") == done.output and len(done.output.parts) == 5
    mixed = [write(tmp_path / "1.csv", PATHS, Shard(number=1, of=3), "csv"), *shards[1:]]
    assert content(merge(names(mixed), tmp_path / "mixed", rows_per_part=10).output.file) == content(parted)
    csv = write(tmp_path / "one.csv", PATHS, None, "csv")
    assert merge(names(mixed), tmp_path / "mixed.csv").output.file.read_bytes() == csv.read_bytes()
    assert names(sorted(tmp_path.glob("*.partial*"))) == []


def test_a_folder_with_a_part_missing_changed_or_too_many_is_refused(tmp_path: Path) -> None:
    shards = write_folders(tmp_path / "parts", 2, 4)
    part = shards[1] / "part-000001.parquet"
    kept = part.read_bytes()
    part.unlink()
    with pytest.raises(WorkspaceError, match=r"2 has no part-000001\.parquet"):
        merge(names(shards), tmp_path / "m.csv")
    part.write_bytes(kept + b"x")
    with pytest.raises(WorkspaceError, match=r"part-000001\.parquet has changed"):
        merge(names(shards), tmp_path / "m.csv")
    part.write_bytes(kept)
    (shards[1] / "part-000009.parquet").write_bytes(kept)
    with pytest.raises(WorkspaceError, match=r"holds part-000009\.parquet"):
        merge(names(shards), tmp_path / "m.csv")
    (shards[1] / "part-000009.parquet").unlink()
    mark = shards[1] / "_leuk.json"
    mark.rename(tmp_path / "kept.json")
    with pytest.raises(WorkspaceError, match=r"it holds parts, and no _leuk\.json"):
        merge(names(shards), tmp_path / "m.csv")
    with pytest.raises(WorkspaceError, match="shard 2/2 is missing"):
        merge([str(tmp_path / "parts")], tmp_path / "m.csv")
    (tmp_path / "kept.json").rename(mark)
    assert merge(names(shards), tmp_path / "m.csv").output.rows == len(PATHS)


def test_an_unfinished_folder_is_named_and_none_is_written_into_a_part(tmp_path: Path) -> None:
    shards = write_folders(tmp_path / "parts", 2, 4)
    shutil.rmtree(shards[1])
    terms = replace(TERMS, form="parquet", shard=Shard(number=2, of=2), rows_per_part=6)
    with pytest.raises(KeyboardInterrupt), open_rows(shards[1], terms) as rows:
        rows.add(row_of("a.png"))
        raise KeyboardInterrupt
    with pytest.raises(WorkspaceError, match="shard 2/2 is missing") as refused:
        merge([str(tmp_path / "parts")], tmp_path / "m.csv")
    assert f"Unfinished: {shards[1]}.partial" in refused.value.hint
    for named in (str(shards[1]), f"{shards[1]}.partial"):
        with pytest.raises(WorkspaceError, match="is not finished"):
            merge([str(shards[0]), named], tmp_path / "m.csv")
    with pytest.raises(UsageError, match="is one of the parts"):
        merge([str(shards[0])], shards[0], rows_per_part=3)
    shutil.rmtree(f"{shards[1]}.partial")
    write(shards[1], PATHS, Shard(number=2, of=2), "csv")
    with pytest.raises(UsageError, match="lies in a folder of parts"):
        merge(names(shards), shards[0] / "m.csv")
    with pytest.raises(UsageError, match="is a folder of parts, and --format csv is one file"):
        merge(names(shards), tmp_path / "m", "csv", 10)


def test_unfinished_text_that_is_named_is_said_to_be_unfinished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_rows(tmp_path / "1.csv", replace(TERMS, shard=Shard(number=1, of=1))):
        raise KeyboardInterrupt
    with pytest.raises(WorkspaceError, match=r"1\.csv\.partial is not finished"):
        merge([str(tmp_path / "1.csv.partial")], tmp_path / "m.csv")


@pytest.mark.parametrize("to", ["parquet", "csv"])
def test_parquet_with_other_rows_than_it_says_is_refused_by_name(to: RowForm, tmp_path: Path) -> None:
    """Its digest is right, and its first rows are: it was made so."""
    parts = write_shards(tmp_path / "parts", 2, "parquet")
    for count, said in ((50, "more"), (3, "fewer")):
        write(parts[1], [f"{i}.png" for i in range(2 * count)], Shard(number=2, of=2), "parquet")
        told = json.loads(sidecar_of(parts[1]).read_text())
        first = json.loads(sidecar_of(parts[0]).read_text())
        facts = {name: first[name] for name in ("inputs", "inputs_sha256")}
        write_json(sidecar_of(parts[1]), sealed({**told, **facts, "rows": len(PATHS) // 2}))
        with pytest.raises(WorkspaceError, match=rf"2\.parquet is damaged: it has {said} than {len(PATHS) // 2} rows"):
            merge(names(parts), tmp_path / "m", to)


def test_parquet_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    parts = write_shards(tmp_path / "parts", 2, "parquet")
    content = parts[1].read_bytes()
    for bad in (content[:4] + b"\0" * 400 + content[404:], content[: len(content) // 2] + content[-8:]):
        parts[1].write_bytes(bad)
        told = json.loads(sidecar_of(parts[1]).read_text())
        write_json(sidecar_of(parts[1]), sealed({**told, "sha256": hashlib.sha256(bad).hexdigest()}))
        with pytest.raises(WorkspaceError, match=r"part .*2\.parquet is damaged"):
            merge(names(parts), tmp_path / "m")


def test_text_in_which_a_quote_has_no_end_is_not_held_in_memory(tmp_path: Path) -> None:
    file = write_shards(tmp_path / "parts", 1, "csv", ["a.png"])[0]
    bad = file.read_bytes() + b'"' + b"b.png\n" * 200_000
    file.write_bytes(bad)
    told = json.loads(sidecar_of(file).read_text())
    write_json(sidecar_of(file), sealed({**told, "sha256": hashlib.sha256(bad).hexdigest()}))
    with pytest.raises(WorkspaceError, match=r"1\.csv is damaged: a quote in it has no other one"):
        merge([str(file)], tmp_path / "m.csv")
