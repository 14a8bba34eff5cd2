"""A folder of parts: one table for whoever reads it, whole or not there, and the same bytes whatever ended the process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_rows import TERMS, Stop, paths_of, row_of, write
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.errors import DataError, LeukError, UsageError, WorkspaceError
from leukemia_cli.reporting import outputs, row_stores
from leukemia_cli.reporting.findings import Row
from leukemia_cli.reporting.outputs import check_output, find_output, finished, open_rows, partial_of, read_output
from leukemia_cli.reporting.row_stores import PartStore, read_parquet, utf8
from leukemia_cli.workspace.documents import sealed, write_json

pytestmark = pytest.mark.usefixtures("without_a_disk")
pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
PARTED = replace(TERMS, form="parquet", rows_per_part=5)


def expected(count: int = 23) -> list[Row]:
    rows = [row_of(path, place) for place, path in enumerate(paths_of(count))]
    return [{name: utf8(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def as_killed(store: PartStore) -> None:
    """Leave an open store as SIGKILL does: nothing more is written, and the lock is gone."""
    store._release()


# ------------------------------------------------------------------------------------------------------ as a table


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    write(output, paths_of(23), PARTED)
    assert names(output) == ["_leuk.json", *(f"part-{i:06d}.parquet" for i in range(5))]
    assert names(tmp_path) == ["rows"]
    assert [read_parquet(output / f"part-{i:06d}.parquet").num_rows for i in range(5)] == [5, 5, 5, 5, 3]
    import pyarrow.dataset as ds

    assert ds.dataset(output, format="parquet").to_table().to_pylist() == expected()
    facts = ds.dataset(output, format="parquet").schema.metadata
    assert (facts[b"run"], facts[b"engine"]) == (b"r-1", b"torch")


def test_pandas_reads_a_folder_of_parts(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    write(tmp_path / "rows", paths_of(23), PARTED)
    assert list(pandas.read_parquet(tmp_path / "rows")["path"]) == [row["path"] for row in expected()]


def test_of_unfinished_rows_a_reader_sees_whole_parts_alone(tmp_path: Path) -> None:
    import pyarrow.dataset as ds

    with pytest.raises(Stop):
        write(tmp_path / "rows", paths_of(23), PARTED, stop=19)
    assert not (tmp_path / "rows").exists()
    partial = tmp_path / "rows.partial"
    assert {name[:5] for name in names(partial)} == {"_begu", "_rows", "part-"}
    assert ds.dataset(partial, format="parquet").to_table().to_pylist() == expected(15)


def test_the_sidecar_of_a_folder_lists_its_parts(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    write(output, paths_of(23), PARTED)
    told = json.loads((output / "_leuk.json").read_text())
    digests = {name: hashlib.sha256(found).hexdigest() for name, found in content(output).items() if name[0] == "p"}
    assert told["parts"] == [
        {"name": f"part-{i:06d}.parquet", "rows": 3 if i == 4 else 5, "sha256": digests[f"part-{i:06d}.parquet"]}
        for i in range(5)
    ]
    assert (told["rows"], told["errors"], told["inputs"], told["rows_per_part"]) == (23, 3, 23, 5)
    printed = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))  # by sha256sum
    assert told["sha256"] == hashlib.sha256(printed.encode()).hexdigest()
    known = find_output(output)
    assert known is not None and known.as_json() == {key: told[key] for key in told if key != "seal"}
    assert known == finished(output, PARTED)


def test_of_no_rows_there_is_one_part_with_all_columns(tmp_path: Path) -> None:
    write(tmp_path / "rows", [], PARTED)
    assert names(tmp_path / "rows") == ["_leuk.json", "part-000000.parquet"]
    assert read_parquet(tmp_path / "rows" / "part-000000.parquet").column_names == list(row_of("x", 0))
    known = finished(tmp_path / "rows", PARTED)
    assert known is not None and known.rows == 0


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_bytes_do_not_depend_on_pieces(pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", paths_of(50), PARTED)
    monkeypatch.setattr(row_stores, "PIECE_ROWS", pieces)
    write(tmp_path / "two", paths_of(50), PARTED, group=1)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# ---------------------------------------------------------------------------------------------------- interruptions


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 23), max_size=4), st.integers(1, 30), st.integers(1, 6), st.integers(1, 9))
def test_interrupted_any_number_of_times_the_folder_is_the_same(
    stops: list[int], rows_per_part: int, group: int, pieces: int
) -> None:
    terms = replace(PARTED, rows_per_part=rows_per_part)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole, output = Path(folder) / "whole", Path(folder) / "rows"
        write(whole, paths_of(23), terms)
        patch.setattr(row_stores, "PIECE_ROWS", pieces)
        for stop in sorted(stops):
            if not output.exists():
                try:
                    write(output, paths_of(23), terms, resume=True, stop=stop, group=group)
                except Stop:
                    assert not output.exists()
        if not output.exists():
            kept = max(stops, default=0) // group * group
            assert write(output, paths_of(23), terms, resume=True, group=group) == 23 - kept
        assert content(output) == content(whole)
        assert names(Path(folder)) == ["rows", "whole"]


WRITES = {
    "outputs": ("write_json", "put_in_place"),
    "row_stores": ("write_bytes", "put_in_place"),
}


class Stopper:
    """Raises Stop before or after one of the calls that it is put around, counted over all of them."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.calls, self._at, self._after = 0, at, after

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.calls += 1
            stops = self.calls == self._at
            if stops and not self._after:
                raise Stop
            done = real(*given, **more)
            if stops:
                raise Stop
            return done

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_stopped_before_or_after_any_step_nothing_is_lost_or_doubled(
    after: bool, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a kill, after which nothing runs, or by a signal, after which what waits is kept; then gone on with."""
    monkeypatch.setattr(row_stores, "PIECE_ROWS", 4)
    paths = paths_of(23)
    write(tmp_path / "whole", paths, PARTED)
    reached, stopped = True, 0
    while reached:
        stopped += 1
        output, stopper = tmp_path / f"rows-{stopped}", Stopper(stopped, after=after)
        with monkeypatch.context() as patch:
            for module, names in ((outputs, WRITES["outputs"]), (row_stores, WRITES["row_stores"])):
                for name in names:
                    patch.setattr(module, name, stopper.around(getattr(module, name)))
            patch.setattr(Path, "unlink", stopper.around(Path.unlink))
            if killed:
                patch.setattr(PartStore, "keep", as_killed)
            try:
                write(output, paths, PARTED)
            except Stop:
                assert not output.exists() or find_output(output) is not None, "it is there and not whole"
        reached = stopper.calls >= stopped
        if finished(output, PARTED) is None:
            write(output, paths, PARTED, resume=True)
        assert content(output) == content(tmp_path / "whole"), f"step {stopped}"
        assert not partial_of(output).exists()
        shutil.rmtree(output)
    assert stopped > 20


KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path

from drawn_rows import TERMS, paths_of, row_of
from leukemia_cli.reporting import row_stores
from leukemia_cli.reporting.outputs import finished, open_rows

row_stores.PIECE_ROWS = 16
terms = replace(TERMS, form="parquet", rows_per_part=50)
output, paths = Path(sys.argv[1]), paths_of(2000)
if finished(output, terms) is None:
    inputs = iter(paths)
    print("going", flush=True)
    with open_rows(output, terms, paths=inputs, group=4, resume=True) as rows:
        for path in inputs:
            rows.add(row_of(path, rows.rows))
        rows.seal(inputs=len(paths), inputs_sha256="f" * 64)
print("done", flush=True)
"""


def test_killed_for_real_again_and_again_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """By SIGKILL at moments that a clock chooses: each process gets a little longer than the one before."""
    terms = replace(PARTED, rows_per_part=50)
    write(tmp_path / "whole", paths_of(2000), terms)
    output = tmp_path / "rows"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}
    kills, wait = 0, 0.1
    while not output.exists():
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(output)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            first = process.stdout.readline()
            assert first in (b"going\n", b"done\n"), process.stderr.read().decode()
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        wait *= 1.5
        if output.exists() and find_output(output) is not None:
            break
    assert kills >= 2
    assert finished(output, terms) is not None
    assert content(output) == content(tmp_path / "whole")
    assert names(tmp_path) == ["rows", "whole"]


def test_rows_that_a_signal_met_between_two_lines_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a piece is on disk and before its rows stop waiting: they are not written again when the process ends."""
    monkeypatch.setattr(row_stores, "PIECE_ROWS", 4)
    for terms in (PARTED, replace(PARTED, rows_per_part=None)):
        output = tmp_path / f"rows-{terms.rows_per_part}"
        cut = PartStore._cut
        with monkeypatch.context() as patch:

            def stops(store: PartStore, *, everything: bool = False, real: Any = cut) -> None:
                real(store, everything=everything)
                if store._end == 12:
                    raise Stop

            patch.setattr(PartStore, "_cut", stops)
            with pytest.raises(Stop):
                write(output, paths_of(23), terms)
        assert write(output, paths_of(23), terms, resume=True) == 11
        rows = pa.concat_tables([read_parquet(file) for file in (find_output(output) or pytest.fail("none")).files])
        assert rows.to_pylist() == expected()


# ------------------------------------------------------------------------------------------------- what is refused


def test_what_has_other_settings_or_inputs_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    with pytest.raises(Stop):
        write(output, paths_of(23), PARTED, stop=17)
    for terms, said in (
        (replace(PARTED, rows_per_part=6), "rows per part: 5 there, 6 here"),
        (replace(PARTED, rows_per_part=None), "rows per part: 5 there, none here"),
        (replace(PARTED, form="csv", rows_per_part=None), "form: parquet there, csv here"),
        (replace(PARTED, engine="onnx"), "engine: torch there, onnx here"),
    ):
        with pytest.raises(WorkspaceError, match=said):
            write(output, paths_of(23), terms, resume=True)
    with pytest.raises(DataError, match="inputs have changed"):
        write(output, paths_of(23)[1:], PARTED, resume=True)
    assert write(output, paths_of(23), PARTED, resume=True) == 7
    with pytest.raises(WorkspaceError, match=r"is whole, and was made with other settings.*rows per part: 5 there, 6"):
        finished(output, replace(PARTED, rows_per_part=6))


def test_of_one_shape_begun_another_is_begun_anew_without_resume(tmp_path: Path) -> None:
    shapes = [PARTED, replace(PARTED, rows_per_part=None), replace(TERMS, form="csv"), PARTED]
    for number, (before, terms) in enumerate((a, b) for a in shapes for b in shapes):
        output = tmp_path / f"rows-{number}"
        with pytest.raises(Stop):
            write(output, paths_of(23), before, stop=17)
        told: list[str] = []
        assert write(output, paths_of(4), terms, note=told.append) == 4
        assert "is begun anew" in told[0]
        assert {name for name in names(tmp_path) if name.startswith(f"{output.name}.")} == (
            set() if terms.rows_per_part else {f"{output.name}.leuk.json"}
        )


def test_more_inputs_than_there_were_fill_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped when all parts were there and the sidecar was not; by then the list of inputs had grown."""
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_parts_of", lambda folder: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            write(tmp_path / "rows", paths_of(23), PARTED)
    assert (tmp_path / "rows.partial" / "part-000004.parquet").exists()
    assert write(tmp_path / "rows", paths_of(31), PARTED, resume=True) == 8
    write(tmp_path / "whole", paths_of(31), PARTED)
    assert content(tmp_path / "rows") == content(tmp_path / "whole")


@pytest.mark.parametrize("at", [0, 2])
def test_damage_among_unfinished_parts_is_named(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stores, "PIECE_ROWS", 4)
    output = tmp_path / "rows"
    with pytest.raises(Stop):
        write(output, paths_of(23), PARTED, stop=17)
    part = partial_of(output) / f"part-{at:06d}.parquet"
    kept = part.read_bytes()
    for bad in (b"", kept[:-20], b"PAR1"):
        part.write_bytes(bad)
        with pytest.raises(WorkspaceError, match=rf"part-{at:06d}\.parquet is damaged"):
            write(output, paths_of(23), PARTED, resume=True)
    part.unlink()
    with pytest.raises(WorkspaceError, match=r"part-00000[01]\.parquet is missing|rows 11 to 12 are missing"):
        write(output, paths_of(23), PARTED, resume=True)
    part.write_bytes(kept)
    write(output, paths_of(23), PARTED, resume=True)


def test_a_part_that_is_missing_changed_or_too_many_is_named(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    write(output, paths_of(23), PARTED)
    part = output / "part-000003.parquet"
    kept = part.read_bytes()
    part.unlink()
    with pytest.raises(WorkspaceError, match=r"has no part-000003\.parquet"):
        finished(output, PARTED)
    part.write_bytes(kept[:-1])
    with pytest.raises(WorkspaceError, match=r"part-000003\.parquet has changed"):
        finished(output, PARTED)
    part.write_bytes(kept)
    for name in ("part-000005.parquet", "more.parquet", "notes.txt"):
        (output / name).write_bytes(kept)
        with pytest.raises(WorkspaceError, match=f"holds {name}, which _leuk.json does not name"):
            finished(output, PARTED)
        (output / name).unlink()
    (output / "_SUCCESS").touch()  # no reader of tables looks at such names
    assert finished(output, PARTED) is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parts": []}, "other files than parts"),
        ({"parts": [{"name": "../x.parquet", "rows": 23, "sha256": "0"}]}, "other files than parts"),
        ({"parts": [{"name": "part-000000.parquet", "rows": 22, "sha256": "0"}]}, "do not have 23 rows"),
        ({"parts": [{"name": "part-000000.parquet", "rows": 23, "sha256": "0"}]}, "digest is not that of its parts"),
        ({"parts": 7}, "damaged"),
    ],
)
def test_a_sidecar_that_was_never_written_so_is_damaged(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    output = tmp_path / "rows"
    write(output, paths_of(23), PARTED)
    told = json.loads((output / "_leuk.json").read_text())
    write_json(output / "_leuk.json", sealed({**told, **changed}))
    with pytest.raises(WorkspaceError, match=said) as refused:
        finished(output, PARTED)
    assert "_leuk.json" in refused.value.problem


def test_a_folder_that_holds_anything_is_not_written_over(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    output.mkdir()
    write(output, paths_of(7), PARTED)
    before = content(output)
    with pytest.raises(UsageError, match="is there, and is not written over"):
        write(output, paths_of(23), PARTED)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "x.txt").touch()
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds files that leuk did not write"):
            finished(theirs, PARTED) if resume else write(theirs, paths_of(23), PARTED)
    assert content(output) == before and names(theirs) == ["x.txt"]
    with pytest.raises(UsageError, match="lies in a folder of parts"):
        write(output / "more.csv", paths_of(3))


def test_what_came_in_its_place_meanwhile_is_moved_and_no_row_is_made_again(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    inputs = iter(paths_of(23))
    with pytest.raises(UsageError, match="all rows are in"), open_rows(output, PARTED, paths=inputs) as rows:
        for place, path in enumerate(inputs):
            rows.add(row_of(path, place))
        output.mkdir()
        (output / "theirs.txt").touch()
        rows.seal(inputs=23, inputs_sha256="f" * 64)
    with pytest.raises(UsageError, match="did not write"):
        finished(output, PARTED)
    output.rename(tmp_path / "theirs")
    known = finished(output, PARTED)
    assert known is not None and known.rows == 23 and known == find_output(output)
    with pytest.raises(UsageError, match=r"holds notes\.txt, which leuk did not write") as refused:
        inputs = iter(paths_of(4))
        with open_rows(tmp_path / "next", PARTED, paths=inputs) as rows:
            for place, path in enumerate(inputs):
                rows.add(row_of(path, place))
            (tmp_path / "next.partial" / "notes.txt").touch()
            rows.seal(inputs=4, inputs_sha256="f" * 64)
    assert "--resume" in refused.value.hint


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    output = tmp_path / "rows"
    with pytest.raises(WorkspaceError, match="another leuk is writing"), open_rows(output, PARTED) as rows:
        rows.add(row_of("a.png", 0))
        for terms in (replace(PARTED, rows_per_part=None), replace(TERMS, form="csv")):
            with pytest.raises(WorkspaceError, match="another leuk is writing"):
                write(output, paths_of(5), terms)
        with pytest.raises(WorkspaceError, match="another leuk is writing"):
            finished(output, PARTED)
        write(output, paths_of(5), PARTED)
    write(output, paths_of(5), PARTED, resume=False)
    assert len(names(tmp_path)) == 1


def test_a_name_with_a_slash_is_a_folder_and_any_other_a_file(tmp_path: Path) -> None:
    assert read_output("rows/", None) == (Path("rows"), 100_000)
    assert read_output("rows/", 7) == (Path("rows"), 7)
    assert read_output("rows.parquet", 7) == (Path("rows.parquet"), 7)
    assert read_output("rows.parquet", None) == (Path("rows.parquet"), None)
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    folder.mkdir()
    file.touch()
    link.symlink_to(folder)
    check_output(folder, 5)
    check_output(file, None)
    for output, rows_per_part, said in (
        (folder, None, f"say {folder}/ for a folder of parts"),
        (file, 5, "or one file without /"),
        (link, 5, "or one file without /"),
        (Path(), 5, "Name a file or a folder"),
        (Path("/"), 5, "Name a file or a folder"),
        (Path("a/.."), 5, "Name a file or a folder"),
        (Path("rows.png"), 5, "Name a file such as"),
    ):
        with pytest.raises(LeukError) as refused:
            check_output(output, rows_per_part)
        assert isinstance(refused.value, UsageError) and said in refused.value.hint
