"""Rows on disk: whatever ends the process, and wherever, going on gives the same output as never having stopped."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_rows import TERMS, Stop, paths_of, row_of, write
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.data.shards import Shard
from leukemia_cli.errors import DataError, LeukError, MachineError, WorkspaceError
from leukemia_cli.reporting import outputs, row_stores
from leukemia_cli.reporting.findings import Row
from leukemia_cli.reporting.outputs import (
    Output,
    find_output,
    finished,
    open_rows,
    partial_of,
    read_sidecar,
    sidecar_of,
)
from leukemia_cli.reporting.row_stores import RowForm
from leukemia_cli.workspace.documents import sealed, write_json

pytestmark = pytest.mark.usefixtures("without_a_disk")
TEXT_FORMS: tuple[RowForm, ...] = ("csv", "jsonl")
FORMS: tuple[RowForm, ...] = ("csv", "jsonl", "parquet")


@functools.cache
def whole(form: RowForm, count: int = 23) -> tuple[bytes, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        write(output, paths_of(count), replace(TERMS, form=form))
        assert sorted(path.name for path in Path(folder).iterdir()) == ["out", "out.leuk.json"]
        return output.read_bytes(), json.loads(sidecar_of(output).read_text())


@pytest.mark.parametrize("form", FORMS)
def test_a_sidecar_says_what_its_output_is(form: RowForm) -> None:
    content, told = whole(form)
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert (told["rows"], told["errors"], told["inputs"], told["format"]) == (23, 3, 23, form)
    assert (told["run"], told["engine"], told["precision"], told["shard"]) == ("r-1", "torch", "fp32", None)
    assert (told["classes"], told["abstain"], told["schema_version"]) == (["ALL", "HTL"], True, 1)
    assert told["columns"] == list(row_of("x", 0))


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_are_an_output_too(form: RowForm, tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, [], replace(TERMS, form=form, shard=Shard(number=3, of=3)))
    known = find_output(output)
    assert known is not None and (known.rows, known.terms.shard) == (0, Shard(number=3, of=3))
    if form == "csv":
        assert output.read_text().count("\n") == 1 and output.read_text().startswith("path,label,")
    elif form == "jsonl":
        assert output.read_bytes() == b""


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(TEXT_FORMS), st.floats(0, 1), st.integers(1, 9), st.binary(max_size=3))
def test_any_cut_of_a_partial_file_resumes_to_the_same_bytes(form: RowForm, at: float, group: int, torn: bytes) -> None:
    """Also with what a crash of the machine may leave behind the last row, as long as it has no line end."""
    content, told = whole(form)
    paths = paths_of(23)
    terms = replace(TERMS, form=form)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        with pytest.raises(Stop):
            write(output, paths, terms, stop=0)
        cut = content[: round(at * len(content))]
        partial_of(output).write_bytes(cut + (b"" if cut.endswith(b"\n") else torn.replace(b"\n", b"\0")))
        made = write(output, paths, terms, resume=True, group=group)
        assert output.read_bytes() == content
        assert json.loads(sidecar_of(output).read_text()) == told
        assert sorted(path.name for path in Path(folder).iterdir()) == ["out", "out.leuk.json"]
    there = round(23 * at)
    assert abs(made - (23 - there)) <= group + 8, "what was there is not made again, but for a group and a torn row"


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(FORMS), st.lists(st.integers(0, 23), max_size=4), st.integers(1, 5))
def test_interrupted_any_number_of_times_the_output_is_the_same(form: RowForm, stops: list[int], group: int) -> None:
    terms = replace(TERMS, form=form)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_stores, "PIECE_ROWS", 6)
        output = Path(folder) / "out"
        for stop in sorted(stops):
            try:
                write(output, paths_of(23), terms, resume=True, stop=stop, group=group)
            except Stop:
                assert not output.exists()
        write(output, paths_of(23), terms, resume=True, group=group) if not output.exists() else None
        if form == "parquet":
            patch.undo()
            assert read_rows(output) == [parquet_row(path, i) for i, path in enumerate(paths_of(23))]
        else:
            assert output.read_bytes() == whole(form)[0]
        known = find_output(output)
        assert known is not None and (known.rows, known.errors) == (23, 3)


def read_rows(output: Path) -> list[Row]:
    rows: list[Row] = row_stores.read_parquet(output).to_pylist()
    return rows


def parquet_row(path: str, place: int) -> Row:
    return {k: row_stores.utf8(v) if isinstance(v, str) else v for k, v in row_of(path, place).items()}


def test_parquet_has_types_and_says_what_it_is(tmp_path: Path) -> None:
    import pyarrow as pa

    output = tmp_path / "out.parquet"
    write(output, paths_of(23), replace(TERMS, form="parquet", shard=Shard(number=1, of=2)))
    schema = row_stores.read_parquet(output).schema
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert {types[name] for name in ("confidence", "score_ALL", "novelty", "blast_low")} == {"double"}
    assert {types[name] for name in ("cells", "cells_ALL")} == {"int64"}
    assert {types[name] for name in ("path", "label", "label_set", "error", "tiles")} == {"string"}
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (facts["run"], facts["engine"], facts["precision"], facts["shard"]) == ("r-1", "torch", "fp32", "1/2")
    assert facts["leuk"] == "1.0"
    odd = [row["path"] for row in read_rows(output)]
    assert odd == [row_stores.utf8(path) for path in paths_of(23)]
    assert any("\\xe9" in str(path) for path in odd)
    assert pa.types.is_string(schema.field("path").type)


def test_parquet_pieces_are_written_as_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stores, "PIECE_ROWS", 5)
    output = tmp_path / "out.parquet"
    terms = replace(TERMS, form="parquet")
    with pytest.raises(Stop):
        write(output, paths_of(23), terms, stop=19, group=4)
    pieces = sorted(partial_of(output).iterdir())
    assert [piece.name for piece in pieces] == [f"_rows-{i:012d}.parquet" for i in (0, 4, 8, 12)]
    assert [len(read_rows(piece)) for piece in pieces] == [4, 4, 4, 4], "an incomplete group is made again"
    pieces[1].unlink()
    with pytest.raises(WorkspaceError, match=r"000008\.parquet is damaged: rows 5 to 8 are missing before it"):
        write(output, paths_of(23), terms, resume=True)
    write(output, paths_of(23), terms)
    assert len(read_rows(output)) == 23


def test_slow_rows_do_not_wait_for_a_full_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stores, "PIECE_S", -1.0)
    output = tmp_path / "out.parquet"

    def rows() -> Iterator[int]:
        with open_rows(output, replace(TERMS, form="parquet"), group=1) as place:
            for i in range(3):
                place.add(row_of(str(i), i))
                yield len(list(partial_of(output).glob("_rows-*")))
            place.seal(inputs=3, inputs_sha256="")

    assert list(rows()) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------- what is refused


def begun(folder: Path, form: RowForm = "csv", stop: int = 12) -> Path:
    output = folder / "out"
    with pytest.raises(Stop):
        write(output, paths_of(23), replace(TERMS, form=form), stop=stop)
    return output


@pytest.mark.parametrize("form", FORMS)
def test_other_inputs_are_refused_and_nothing_is_lost(form: RowForm, tmp_path: Path) -> None:
    output = begun(tmp_path, form)
    terms = replace(TERMS, form=form)
    for changed in (paths_of(23)[1:], paths_of(23)[:3]):
        with pytest.raises(DataError, match="inputs have changed"):
            write(output, changed, terms, resume=True)
    write(output, paths_of(23), terms, resume=True)
    assert find_output(output) is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "r-2"}, "run: r-1 there, r-2 here"),
        ({"run_fingerprint": "abd"}, "run fingerprint"),
        ({"engine": "openvino"}, "engine"),
        ({"precision": "bf16"}, "precision"),
        ({"abstain": False}, "abstain: True there, False here"),
        ({"max_megapixels": 10.0}, "max megapixels"),
        ({"input_unit": "cell"}, "input unit: none there, cell here"),
        ({"shard": Shard(number=1, of=2)}, "shard: none there, 1/2 here"),
        ({"classes": ("ALL", "AML")}, "classes"),
        ({"form": "jsonl"}, "form"),
        ({"form": "parquet"}, "form"),
        ({"leuk": "1.1"}, "leuk"),
    ],
)
def test_other_settings_are_refused_by_name(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    output = begun(tmp_path)
    with pytest.raises(WorkspaceError, match=said):
        write(output, paths_of(23), replace(TERMS, **changed), resume=True)
    write(output, paths_of(23), resume=True)
    with pytest.raises(WorkspaceError, match=f"is whole, and was made with other settings.*{said}"):
        finished(output, replace(TERMS, **changed))


def test_damage_before_the_end_is_refused_by_its_row(tmp_path: Path) -> None:
    output = begun(tmp_path)
    partial = partial_of(output)
    content = partial.read_bytes()
    partial.write_bytes(content.replace(b"torch", b"to,rch", 1))
    with pytest.raises(WorkspaceError, match="damaged in row 1"):
        write(output, paths_of(23), resume=True)
    partial.write_bytes(content.replace(b"torch", b"tarch", 1))
    with pytest.raises(WorkspaceError, match=r"row 1 of .* is of another run, engine"):
        write(output, paths_of(23), resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_stores, "_MOST_RECORD", 200)
        partial.write_bytes(content.replace(b",ALL,", b',"ALL,', 1))
        with pytest.raises(WorkspaceError, match="damaged in row 1: a quote in it has no other one"):
            write(output, paths_of(23), resume=True)  # all that follows would be held in memory, and made again
        partial.write_bytes(b'"' + content)
        with pytest.raises(WorkspaceError, match="other columns"):
            write(output, paths_of(23), resume=True)
    partial.write_bytes(content.replace(b"path,label", b"path,lapel", 1))
    with pytest.raises(WorkspaceError, match="other columns"):
        write(output, paths_of(23), resume=True)
    partial.write_bytes(content)
    sidecar_of(partial).unlink()
    with pytest.raises(WorkspaceError, match="is not known"):
        write(output, paths_of(23), resume=True)


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for form in FORMS:
        terms = replace(TERMS, form=form)
        with pytest.raises(WorkspaceError, match="another leuk is writing"), open_rows(output, terms):
            write(output, paths_of(5), terms)
        write(output, paths_of(5), terms, resume=True)


def test_what_a_kill_left_of_a_sidecar_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    output = begun(tmp_path)
    ours = tmp_path / ".unfinished-0a1b2c3d-out.partial.leuk.json"
    others = {tmp_path / f".unfinished-0a1b2c3d-{name}" for name in ("x-out.partial.leuk.json", "out.leuk.json")}
    for file in (ours, *others):
        file.touch()
    write(output, paths_of(23), resume=True)
    assert not ours.exists() and all(file.exists() for file in others)


def test_begun_anew_without_resume_and_that_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    output = begun(tmp_path, "parquet")
    write(output, paths_of(4), replace(TERMS, form="jsonl"), note=told.append)
    assert "begun anew; --resume goes on from it" in told[0]
    assert output.read_bytes().count(b"\n") == 4
    folder = partial_of(output)
    folder.mkdir()
    (folder / "theirs.txt").touch()
    with pytest.raises(LeukError):
        write(output, paths_of(4))
    assert (folder / "theirs.txt").exists(), "what is not ours stays"


def test_a_full_disk_keeps_the_rows_and_space_lets_it_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    full = row_stores.LineStore.add
    left = [9]

    def fills(self: row_stores.LineStore, row: Row) -> None:
        left[0] -= 1
        if left[0] < 0:
            self._write(self._lines.line(row)[:20])  # what a full disk still takes
            with row_stores.disk_errors(self.path):
                raise OSError(28, "No space left on device")
        full(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(row_stores.LineStore, "add", fills)
        with pytest.raises(MachineError, match="no space left"):
            write(output, paths_of(23))
    assert write(output, paths_of(23), resume=True) == 15, "two groups of four are kept"
    assert output.read_bytes() == whole("csv")[0]


# ----------------------------------------------------------------------------------------- killed at its very end


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("step", range(1, 6))
def test_killed_between_any_two_steps_of_the_end(
    form: RowForm, older: bool, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: the facts, the output's name, the sidecar's name, and the clearing away; `older`: an output was there before."""
    output = tmp_path / "out"
    terms = replace(TERMS, form=form)
    if older:
        write(output, paths_of(7), terms)
    before = find_output(output)
    flush = row_stores.PartStore._flush
    calls = 0

    def stops(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise Stop
            return real(*given)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "put_in_place", stops(outputs.put_in_place))
        patch.setattr(outputs, "write_json", stops(outputs.write_json))
        store = row_stores.PartStore if form == "parquet" else row_stores.LineStore
        patch.setattr(store, "discard", stops(store.discard))
        patch.setattr(row_stores.PartStore, "_flush", lambda self, count: None if calls >= step else flush(self, count))
        try:
            write(output, paths_of(23), terms)
        except Stop:
            assert calls == step
    known = find_output(output)
    assert known == before or (known is not None and known.rows == 23), "an older output, or the new one, never half"
    done = finished(output, terms)
    if done is None:
        write(output, paths_of(23), terms, resume=True)
        done = finished(output, terms)
    assert done is not None
    assert done.rows == (7 if older and step == 1 else 23), "killed before it began, it has not begun"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.leuk.json"]
    assert isinstance(read_sidecar(sidecar_of(output)), Output)


def test_a_changed_output_is_not_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, paths_of(5))
    assert finished(output, TERMS) is not None
    output.write_bytes(output.read_bytes().replace(b"torch", b"tarch", 1))
    with pytest.raises(WorkspaceError, match="has changed"):
        finished(output, TERMS)
    write(output, paths_of(5))
    sidecar = sidecar_of(output)
    sidecar.write_text(sidecar.read_text().replace('"rows": 5', '"rows": 6'))
    with pytest.raises(WorkspaceError, match="changed"):
        finished(output, TERMS)
    sidecar.unlink()
    with pytest.raises(WorkspaceError, match="is there without"):
        finished(output, TERMS)
    output.unlink()
    assert finished(output, TERMS) is None


# -------------------------------------------------------------------------------------------- two processes, one output


def test_no_process_takes_the_rows_away_that_another_is_writing(tmp_path: Path) -> None:
    """Whatever format the other one wants, and however it begins."""
    for mine in FORMS:
        for theirs in FORMS:
            output = tmp_path / f"{mine}-{theirs}"
            inputs = iter(paths_of(9))
            with open_rows(output, replace(TERMS, form=mine), paths=inputs) as rows:
                for place, path in enumerate(inputs):
                    rows.add(row_of(path, place))
                    if place == 4:
                        with pytest.raises(WorkspaceError, match="another leuk is writing"):
                            write(output, paths_of(9), replace(TERMS, form=theirs))
                rows.seal(inputs=9, inputs_sha256="f" * 64)
            known = find_output(output)
            assert known is not None and (known.rows, known.terms.form) == (9, mine)


@pytest.mark.parametrize("form", FORMS)
def test_who_comes_between_the_last_steps_of_another_is_sent_away(
    form: RowForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows have their name by then, and the sidecar that tells of them has not."""
    output, terms = tmp_path / "out", replace(TERMS, form=form)
    place, sent_away = outputs.put_in_place, []

    def comes(whole: Path, final: Path) -> None:
        if final == sidecar_of(output):
            with monkeypatch.context() as patch:
                patch.setattr(outputs, "put_in_place", place)
                for resume in (False, True):
                    try:
                        write(output, paths_of(5), terms, resume=resume)
                    except WorkspaceError as error:
                        sent_away.append(error.problem)
        place(whole, final)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "put_in_place", comes)
        write(output, paths_of(23), terms)
    assert len(sent_away) == 2 and all("another leuk is writing" in problem for problem in sent_away)
    done = finished(output, terms)
    assert done is not None and done.rows == 23


def test_the_folder_of_pieces_is_gone_before_its_lock_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what another process begins in it, as soon as it may, would be removed."""
    seen: list[bool] = []
    release = row_stores.PartStore._release

    def watched(store: row_stores.PartStore) -> None:
        seen.append(store.path.exists())
        release(store)

    monkeypatch.setattr(row_stores.PartStore, "_release", watched)
    write(tmp_path / "out", paths_of(5), replace(TERMS, form="parquet"))
    assert seen == [False]


def test_begun_anew_the_only_sidecar_of_a_whole_output_stays(tmp_path: Path) -> None:
    """It lies where that of unfinished rows does after a kill between the last two steps."""
    output = tmp_path / "out"
    write(output, paths_of(7))
    sidecar_of(output).rename(sidecar_of(partial_of(output)))
    with pytest.raises(Stop):
        write(output, paths_of(23), stop=5)
    known = find_output(output)
    assert known is not None and known.rows == 7


def test_facts_of_rows_that_are_gone_do_not_take_the_place_of_a_sidecar(tmp_path: Path) -> None:
    """A newer output was about to get its name when its process was killed, and a person removed its rows."""
    output = tmp_path / "out"
    write(output, paths_of(23))
    sidecar_of(output).rename(tmp_path / "newer")
    write(output, paths_of(7))
    (tmp_path / "newer").rename(sidecar_of(partial_of(output)))
    for _ in range(2):
        known = finished(output, TERMS)
        assert known is not None and known.rows == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.leuk.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version": 1}', b'{"schema_version": 99}', b"\xff", b"[]"])
def test_a_damaged_sidecar_is_named_and_does_not_keep_from_beginning_anew(content: bytes, tmp_path: Path) -> None:
    for number, terms in enumerate((TERMS, replace(TERMS, form="parquet", rows_per_part=3))):
        output = tmp_path / f"out-{number}"
        with pytest.raises(Stop):
            write(output, paths_of(23), terms, stop=12)
        place = partial_of(output) / "_begun.json" if number else sidecar_of(partial_of(output))
        place.write_bytes(content)
        with pytest.raises(WorkspaceError) as refused:
            write(output, paths_of(23), terms, resume=True)
        assert place.name in refused.value.problem
        if number == 0:
            output.write_text("an older one")
        assert write(output, paths_of(23), terms) == 23
        assert find_output(output) is not None


def test_rows_of_another_format_than_their_sidecar_says_are_refused(tmp_path: Path) -> None:
    output = begun(tmp_path, "csv")
    terms = replace(TERMS, form="parquet")
    write_json(sidecar_of(partial_of(output)), sealed(terms.as_json()))
    with pytest.raises(WorkspaceError, match="is not what its sidecar says: parquet"):
        write(output, paths_of(23), terms, resume=True)
    assert partial_of(output).is_file()


def test_a_sidecar_of_before_there_were_parts_is_read(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, paths_of(5))
    told = json.loads(sidecar_of(output).read_text())
    assert told.pop("rows_per_part") is None
    write_json(sidecar_of(output), sealed(told))
    assert finished(output, TERMS) is not None
