"""`leuk cells` at its door: one row for each white cell, in every format, without a run, weights or torch."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Leuk

from leukemia_cli.reporting.cells import CELL_COLUMNS
from leukemia_cli.steps import cells as step

SAMPLES = Path(__file__).parents[2] / "sample_images"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def smears(tmp_path: Path) -> list[str]:
    """Put two drawn smears with cells where the test stands."""
    for name, field in (("one.jpg", "field-01.jpg"), ("two.jpg", "field-03.jpg")):
        shutil.copy(SAMPLES / "ALL" / "all-patient-01" / field, tmp_path / name)
    return ["one.jpg", "two.jpg"]


def rows_of(text: str) -> list[dict[str, str]]:
    """Read CSV."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_format_has_the_same_rows_and_a_broken_image_none(smears: list[str], leuk: Leuk) -> None:
    Path("empty.png").write_bytes(b"")
    given = ("cells", smears[1], "empty.png", smears[0], "gone.png")
    done = leuk(*given)
    assert done.code == 3
    table = rows_of(done.out)
    assert tuple(done.out.splitlines()[0].split(",")) == CELL_COLUMNS
    assert list(dict.fromkeys(row["path"] for row in table)) == ["two.jpg", "one.jpg"]
    assert [row["path"] for row in table] == sorted((row["path"] for row in table), reverse=True)
    for path in smears:
        numbers = [row["cell"] for row in table if row["path"] == path]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert done.error_lines[0] == "error: 2 of 4 images could not be used"
    assert "warning: no rows for empty.png: it is empty (0 bytes)" in done.err
    assert "warning: no rows for gone.png: there is no such file" in done.err
    assert f"{len(table)} white cells in 2 images" in done.err
    lines = leuk(*given, "--format", "jsonl")
    assert lines.code == 3
    rows = [json.loads(line) for line in lines.out.splitlines()]
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == table
    found = leuk(*given, "--json")
    assert found.code == 3
    document = found.json()
    assert set(document) == {"images", "cells", "rows", "errors"}
    assert (document["images"], document["cells"], document["rows"]) == (4, len(rows), rows)
    assert document["errors"] == [
        {"path": "empty.png", "problem": "it is empty (0 bytes)", "hint": "Copy it again from where it came, or leave it out"},
        {"path": "gone.png", "problem": "there is no such file", "hint": "Check the path"},
    ]  # fmt: skip


def test_quiet_still_names_what_is_broken(smears: list[str], leuk: Leuk) -> None:
    done = leuk("cells", smears[0], "gone.png", "-q")
    assert done.code == 3
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["warning", "error", "hint"]
    assert "gone.png" in done.err


def test_where_nothing_is_found_there_is_a_header_and_that_is_said(leuk: Leuk) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (240, 240, 240)).save("blank.png")
    done = leuk("cells", "blank.png")
    assert (done.code, done.out) == (0, ",".join(CELL_COLUMNS) + "\n")
    assert "0 white cells in 1 image; none in 1 of them" in done.err
    assert leuk("cells", "blank.png", "--json").json() == {"rows": [], "images": 1, "cells": 0, "errors": []}
    assert leuk("cells", "blank.png", "--format", "geojson").json() == {"type": "FeatureCollection", "features": []}


def test_geojson_holds_a_closed_ring_for_each_cell(smears: list[str], leuk: Leuk) -> None:
    rows = rows_of(leuk("cells", smears[1]).out)
    done = leuk("cells", smears[1], "--format", "geojson", "--output", "two.geojson")
    assert (done.code, done.out) == (0, "")
    found = json.loads(Path("two.geojson").read_text())
    assert found["type"] == "FeatureCollection" and len(found["features"]) == len(rows) > 0
    for feature, row in zip(found["features"], rows, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert min(x for x, _ in ring) < float(row["x"]) < max(x for x, _ in ring)
        assert min(y for _, y in ring) < float(row["y"]) < max(y for _, y in ring)
        diameter = feature["properties"]["measurements"]["Red cell: Diameter px"]
        assert diameter == pytest.approx(float(row["red_cell_diameter_px"]), abs=0.01)


def test_geojson_takes_one_image_that_can_be_used(smears: list[str], leuk: Leuk) -> None:
    done = leuk("cells", *smears, "--format", "geojson", "--output", "x.geojson")
    assert (done.code, done.out) == (2, "")
    assert "--format csv or jsonl" in done.error_lines[1]
    done = leuk("cells", "gone.png", "--format", "geojson", "--output", "x.geojson")
    assert (done.code, done.out) == (3, "")
    assert "gone.png" in done.error_lines[0]
    assert done.err.count("gone.png") == 1
    assert not list(Path.cwd().glob("x.*"))


def test_inputs_may_be_folders_lists_and_pipes(smears: list[str], leuk: Leuk) -> None:
    Path("in").mkdir()
    shutil.copy(smears[1], "in/two.jpg")
    Path("list.txt").write_text("two.jpg\n")
    done = leuk("cells", "in", "@list.txt", "-", "t*.jpg", "--json", stdin=b"in/two.jpg\n")
    paths = [row["path"] for row in done.json()["rows"] if row["cell"] == 1]
    assert paths == ["in/two.jpg", "two.jpg", "in/two.jpg", "two.jpg"]
    assert leuk("cells", "-").code == 3
    assert leuk("cells", "nothing*.png").code == 3


def test_a_name_that_is_not_utf8_comes_out_as_it_went_in(smears: list[str], leuk: Leuk) -> None:
    odd = os.fsdecode(b'a\xff, "b".jpg')
    shutil.copy(smears[1], odd)
    rows = leuk("cells", odd, "--json").json()["rows"]
    assert {ascii(row["path"]) for row in rows} == {ascii(odd)}
    done = leuk("cells", odd, "--output", "found.csv", "--crops", "crops")
    assert (done.code, done.out) == (0, "")
    with Path("found.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert {ascii(row["path"]) for row in csv.DictReader(file)} == {ascii(odd)}
    assert len(list(Path("crops").iterdir())) == len(rows)


def test_json_and_an_output(smears: list[str], leuk: Leuk) -> None:
    """The file has the rows, in the format asked for; stdout has the one document."""
    done = leuk("cells", *smears, "gone.png", "--json", "--output", "deep/cells.jsonl", "--format", "jsonl")
    assert done.code == 3
    rows = [json.loads(line) for line in Path("deep/cells.jsonl").read_text().splitlines()]
    found = done.json()
    assert set(found) == {"output", "images", "cells", "errors"}
    assert (found["output"], found["images"], found["cells"]) == ("deep/cells.jsonl", 3, len(rows))
    assert [error["path"] for error in found["errors"]] == ["gone.png"]
    refused = leuk("cells", *smears, "--json", "--format", "csv")
    assert refused.code == 2
    assert refused.json()["error"]["exit_code"] == 2


def test_output_that_fails_keeps_what_was_there(smears: list[str], leuk: Leuk, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("found.csv").write_text("old")
    assert leuk("cells", smears[0], "--output", "picture.png").code == 2
    whole, calls = step.find_cells, []

    def fails_later(*given: object) -> object:
        calls.append(given)
        if len(calls) > 1:
            raise RuntimeError("planted")
        return whole(*given)

    monkeypatch.setattr(step, "find_cells", fails_later)
    done = leuk("cells", *smears * 4, "--output", "found.csv", "--workers", "1")
    assert done.code == 1
    assert Path("found.csv").read_text() == "old"
    assert Path("found.csv.partial").exists()


def test_pictures_that_cannot_be_written_are_told_before_the_work(smears: list[str], leuk: Leuk) -> None:
    for flag in ("--crops", "--overlays"):
        done = leuk("cells", *smears, flag, smears[0])
        assert (done.code, done.out) == (2, "")
        assert smears[0] in done.error_lines[0]
        done = leuk("cells", ".", flag, "cells")
        assert done.code == 2
        assert "would become inputs" in done.error_lines[0]


def test_a_larger_image_than_allowed_is_read_in_tiles(smears: list[str], leuk: Leuk) -> None:
    pytest.importorskip("pyvips", reason="the extra slides is not installed")
    from PIL import Image

    with Image.open(smears[1]) as image:
        image.save("large.png")
    whole = leuk("cells", "large.png", "--input-unit", "field")
    tiled = leuk("cells", "large.png", "--max-megapixels", "0.01", "-q")
    assert (tiled.code, tiled.out) == (0, whole.out)
    assert len(rows_of(whole.out)) > 0
    assert leuk("cells", smears[0], "--max-megapixels", "0").code == 2


def test_neither_torch_nor_scikit_learn_is_loaded(smears: list[str], tmp_path: Path) -> None:
    watched = (
        "import sys\nfrom leukemia_cli.cli.app import run\n"
        "code = run(['cells', *sys.argv[1:], '--crops', 'c', '--overlays', 'o', '--output', 'cells.csv', '-q'])\n"
        "print(code, *[name for name in ('torch', 'torchvision', 'timm', 'sklearn') if name in sys.modules])\n"
        "print(*[name for name in ('numpy', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, *smears],
        env={"PYTHONPATH": str(SAMPLES.parent)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["0", "numpy PIL"], done.stderr
    assert len((tmp_path / "cells.csv").read_text().splitlines()) > 1


def test_ctrl_c_leaves_the_rows_so_far(smears: list[str], process: Start, tmp_path: Path) -> None:
    """Two lines, exit code 130, the rows in `.partial`, and no file of the final name."""
    running = process("cells", "-", "--output", "found.csv", "--workers", "2", "-q", cwd=tmp_path)
    assert running.stdin is not None
    running.stdin.write(f"{smears[1]}\n".encode() * 400)
    running.stdin.flush()
    partial = tmp_path / "found.csv.partial"
    for _ in range(1200):
        if partial.exists() and partial.read_bytes().count(b"\n") > 1:
            break
        time.sleep(0.05)
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, b"")
    assert [line.split(":")[0] for line in err.decode().splitlines()] == ["error", "hint"]
    assert not (tmp_path / "found.csv").exists()
    rows = partial.read_text().splitlines()
    assert rows[0] == ",".join(CELL_COLUMNS)
    assert 1 < len(rows) < 400 * 2
