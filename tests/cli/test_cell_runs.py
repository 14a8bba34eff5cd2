"""Runs on cells, from prepare to classify: cells come from the finder, findings from their cells, and parity holds."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Leuk
from PIL import Image

from leukemia_cli.cli.app import run
from leukemia_cli.learning import machine


@dataclass(frozen=True, kw_only=True)
class CellRun:
    root: Path
    run: str
    pictures: Path
    documents: dict[str, Any]


@pytest.fixture(scope="module")
def cells(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> CellRun:
    """Prepare drawn fields as cells, train on them and evaluate, once."""
    import contextlib

    root = tmp_path_factory.mktemp("cells") / "ws"
    documents = {}
    for name, arguments in {
        "prepare": [
            "prepare", str(pictures), "--task", "binary", "--unit", "cell", "--unmarked", "as-image", "--input-unit",
            "field", "--folds", "3",
        ],
        "train": ["train", "--backbone", "efficientnet-lite0", "--variant", "base", "--views", "1", "--epochs", "10"],
        "evaluate": ["evaluate", "--resamples", "50"],
    }.items():  # fmt: skip
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(machine, "granted_cores", lambda: 1)
            code = run([*arguments, "--workspace", str(root), "--json", "--device", "cpu"])
        assert code == 0, err.getvalue()
        documents[name] = json.loads(out.getvalue())
    return CellRun(root=root, run=documents["train"]["run"], pictures=pictures, documents=documents)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_prepare_cuts_every_cell_and_keeps_it_with_its_photograph(cells: CellRun) -> None:
    found = cells.documents["prepare"]
    folder = cells.root / "manifest"
    rows, fields = table(folder / "manifest.csv"), table(folder / "fields.csv")
    assert (found["unit"], found["images"], found["cells"]) == ("cell", len(fields), len(rows))
    assert found["cells"] > found["images"] > 0
    assert not table(folder / "unlabelled.csv")
    by_path = {field["path"]: field for field in fields}
    for row in rows:
        photograph = by_path[row["field"]]
        assert row["unit"] == "cell"
        assert all(row[key] == photograph[key] for key in ("label", "group", "fold", "source"))
        with Image.open(folder / row["path"]) as crop:
            assert crop.size == (160, 160)
        assert 0 <= float(row["x"]) <= int(photograph["width"])
    assert any("normal cells among them" in line for line in found["warnings"])


def test_a_leukaemia_cell_that_nobody_marked_has_no_class(pictures: Path, leuk: Leuk, tmp_path: Path) -> None:
    done = leuk("prepare", pictures, "--task", "binary", "--unit", "cell", "-w", "ws")
    assert done.code == 3
    assert "no cell of class ALL: nobody marked one" in done.err
    assert "--unmarked as-image" in done.err
    assert not (tmp_path / "ws" / "manifest").exists()
    done = leuk("prepare", pictures, "--task", "binary", "--unmarked", "as-image", "-w", "ws")
    assert done.code == 2
    assert "without --unit cell" in done.err


def test_cells_are_seen_without_their_background(cells: CellRun) -> None:
    facts = json.loads((cells.root / "runs" / cells.run / "run.json").read_text())
    assert facts["preprocessing"]["remedies"]["background"] == "mask"
    assert cells.documents["evaluate"]["model"]["remedies_titles"] == ["background masked"]
    for row in table(cells.root / "manifest" / "manifest.csv")[:5]:
        with Image.open(cells.root / "manifest" / row["path"]) as crop:
            assert crop.mode == "RGBA"


def test_with_two_patients_a_class_photographs_are_still_told_novel(pictures: Path, leuk: Leuk, tmp_path: Path) -> None:
    for name in (
        "ALL/all-patient-02",
        "ALL/all-patient-04",
        "HTL/htl-patient-01",
        "HTL/htl-patient-03",
    ):  # of several cells
        shutil.copytree(pictures / name, tmp_path / "few" / name)
    flags = ("--task", "binary", "--unit", "cell", "--unmarked", "as-image", "--input-unit", "field", "--folds", "2")
    assert leuk("prepare", "few", *flags, "--no-images", "-w", "ws").code == 0
    done = leuk(
        "train",
        "--backbone",
        "timm:test_resnet",
        "--weights",
        "none",
        "--views",
        "1",
        "--epochs",
        "2",
        "-w",
        "ws",
        "--json",
    )
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "ws" / "runs" / done.json()["run"] / "run.json").read_text())
    for member in facts["members"]:
        reading = member["reading"]
        assert reading["aggregation"]["rule"] == "second-of-five"
        assert reading["aggregation"]["chosen_on"] is None
        assert reading["limits"]["confidence"] is None
        assert reading["limits"]["novelty_threshold"] > 0
    assert any("not which are uncertain" in warning for warning in facts["warnings"])


def test_the_report_has_every_level_and_the_control(cells: CellRun) -> None:
    report = cells.documents["evaluate"]
    told = report["cells"]
    assert report["unit"] == "cell"
    assert report["images"] == cells.documents["prepare"]["images"]
    assert set(told["levels"]) == {"count only", "cell", "patient"}
    assert told["levels"]["cell"]["metrics"]["accuracy"]["n"] == cells.documents["prepare"]["cells"]
    assert told["levels"]["patient"]["metrics"]["accuracy"]["n"] == report["groups"]
    assert told["levels"]["count only"]["metrics"]["accuracy"]["n"] == report["images"]
    assert 0 <= told["steady"] <= 1
    folder = next((cells.root / "reports").glob("*-test"))
    listed = table(folder / "cells.csv")
    assert len(listed) == told["found"]
    page = (folder / "report.html").read_text()
    for word in ("Cells, photographs, patients", "count only", "the control"):
        assert word in page
        assert word in (folder / "report.md").read_text()


def test_classify_finds_what_evaluate_found(cells: CellRun, leuk: Leuk) -> None:
    """One member alone: its photographs, opened anew, give the scores of the report."""
    predicted = {row["path"]: row for row in table(next((cells.root / "reports").glob("*-test")) / "predictions.csv")}
    single = leuk(
        "train", "-w", cells.root, "--backbone", "efficientnet-lite0", "--variant", "base", "--views", "1", "--epochs", "10",
        "--fold", "0", "--json",
    ).json()  # fmt: skip
    mine = [row["path"] for row in table(cells.root / "manifest" / "fields.csv") if row["fold"] == "0"]
    rows = leuk("classify", *mine, "-w", cells.root, "--run", single["run"], "--json").json()
    assert [row["path"] for row in rows] == mine
    assert len(mine) > 3
    for row in rows:
        assert row["unit"] == "field"
        assert row["cells"] == row["cells_ALL"] + row["cells_HTL"]
        assert row["blast_low"] <= row["blast_fraction"] <= row["blast_high"]
        assert row["score_ALL"] == pytest.approx(float(predicted[row["path"]]["score_ALL"]), abs=1e-5)


def test_few_cells_are_said_and_a_broken_image_is_a_row(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 400, 3), 235, dtype=np.uint8)).save(tmp_path / "bare.png")
    (tmp_path / "broken.png").write_bytes(b"")
    done = leuk("classify", "bare.png", "broken.png", "-w", cells.root, "--json")
    assert done.code == 3
    bare, broken = done.json()
    assert (bare["decision"], bare["reason"], bare["cells"]) == ("abstain", "few_cells", 0)
    assert bare["confidence"] == pytest.approx(0.5, abs=1e-5)
    assert (bare["label"], bare["novelty"]) == ("HTL", None)
    assert broken["decision"] == "error"
    (answered,) = leuk("classify", "bare.png", "-w", cells.root, "--json", "--no-abstain").json()
    assert answered["decision"] == "label"


def test_a_single_cell_is_judged_by_itself(cells: CellRun, leuk: Leuk) -> None:
    crop = cells.root / "manifest" / table(cells.root / "manifest" / "manifest.csv")[0]["path"]
    (row,) = leuk("classify", crop, "-w", cells.root, "--input-unit", "cell", "--json").json()
    assert (row["unit"], row["cells"], row["blast_fraction"]) == ("cell", None, None)
    assert row["reason"] in (None, "novel", "uncertain")


def test_details_lie_beside_each_other_for_every_input(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    slide = next(cells.pictures.rglob("field-*.jpg"))
    (row,) = leuk("classify", slide, "-w", cells.root, "--details", "found", "--json").json()
    files = sorted(path.name for path in (tmp_path / "found").iterdir())
    stem = f"000000-{slide.stem}"
    assert files == [f"{stem}-cells.csv", f"{stem}-cells.geojson", f"{stem}-gallery.png", f"{stem}-overview.png"]
    listed = table(tmp_path / "found" / files[0])
    shapes = json.loads((tmp_path / "found" / files[1]).read_text())["features"]
    assert len(listed) == len(shapes) == row["cells"]
    assert [cell["label"] for cell in listed].count("ALL") == row["cells_ALL"]


def test_images_from_elsewhere_are_judged_by_found_cells(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    for name in ("ALL", "HTL"):
        field = next((cells.pictures / name).rglob("field-*.jpg"))
        (tmp_path / "clinic" / name).mkdir(parents=True)
        with Image.open(field) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "clinic" / name / "a.png")
    report = leuk(
        "evaluate", "-w", cells.root, "--external", f"clinic={tmp_path / 'clinic'}", "--resamples", "20", "--json"
    ).json()
    assert (report["images"], report["unit"]) == (2, "cell")
    assert set(report["cells"]["levels"]) == {"count only"}
    assert "no cell of these photographs is labelled" in report["cells"]["missing"]["cell"]


def test_crops_of_single_cells_are_judged_alike_by_evaluate_and_classify(
    cells: CellRun, leuk: Leuk, tmp_path: Path
) -> None:
    root = tmp_path / "crops"
    for place, row in enumerate(table(cells.root / "manifest" / "manifest.csv")[::7]):
        (root / row["label"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(cells.root / "manifest" / row["path"], root / row["label"] / f"{place}.png")
    kept = leuk(
        "prepare", root, "--task", "binary", "--unit", "cell", "--input-unit", "cell", "--folds", "2", "-w", "ws"
    )
    assert kept.code == 0, kept.err
    leuk("train", "-w", "ws", "--backbone", "efficientnet-lite0", "--variant", "base", "--views", "1", "--fold", "0")
    report = leuk("evaluate", "-w", "ws", "--resamples", "20", "--json").json()
    assert report["cells"]["few_cells"] == 0
    predicted = {
        row["path"]: row for row in table(next((tmp_path / "ws" / "reports").glob("*-test")) / "predictions.csv")
    }
    rows = leuk("classify", *predicted, "-w", "ws", "--json").json()
    assert len(rows) > 3
    for row in rows:
        assert row["unit"] == "cell"
        assert row["score_ALL"] == pytest.approx(float(predicted[row["path"]]["score_ALL"]), abs=1e-5)


def test_what_does_not_go_with_cells_is_refused(cells: CellRun, leuk: Leuk, trained: Any) -> None:
    for arguments, told in (
        (("classify", "x.png", "-w", cells.root, "--heatmaps", "maps"), "heat-maps are of whole images"),
        (("evaluate", "-w", cells.root, "--heatmaps", "2"), "heat-maps are of whole images"),
        (("classify", "x.png", "-w", trained.root, "--details", "found"), "--details needs a run on cells"),
        (("classify", cells.pictures, "-w", cells.root, "--details", cells.pictures / "x"), "would become inputs"),
        (("classify", "x.png", "-w", trained.root, "--input-unit", "cell"), "--input-unit needs a run on cells"),
    ):
        done = leuk(*arguments)
        assert done.code == 2, done.err
        assert told in done.err


def test_a_moved_workspace_still_finds_its_crops(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    shutil.copytree(cells.root, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "reports")
    shutil.rmtree(tmp_path / "moved" / "features")
    report = leuk("evaluate", cells.run, "-w", "moved", "--resamples", "20", "--json").json()
    again = cells.documents["evaluate"]["metrics"]["log_loss"]["value"]
    assert report["metrics"]["log_loss"]["value"] == pytest.approx(again, abs=1e-6)


def test_a_slide_is_read_in_tiles_and_tells_what_was_passed_over(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    """A mosaic of drawn fields with a bare part, above the limit."""
    pytest.importorskip("pyvips", reason="the extra slides is not installed")
    fields = [Image.open(field).convert("RGB") for field in sorted(cells.pictures.rglob("field-*.jpg"))[:4]]
    width, height = fields[0].size
    mosaic = Image.new("RGB", (10 * width, 10 * height), (236, 231, 234))
    for place, field in enumerate(fields * 5):
        mosaic.paste(field, ((place % 5) * width, (place // 5) * height))
    mosaic.save(tmp_path / "slide.tif", compression="tiff_deflate")
    megapixels = mosaic.width * mosaic.height / 1e6
    done = leuk(
        "classify", "slide.tif", "-w", cells.root, "--max-megapixels", megapixels / 2, "--details", "found", "--json"
    )
    (row,) = done.json()
    assert row["unit"] == "slide"
    passed = dict(reversed(part.split()) for part in row["tiles"].split(", "))
    assert int(passed["usable"]) > 0
    assert int(passed["empty"]) > 0
    assert row["cells"] > 4
    assert len(table(tmp_path / "found" / "000000-slide-cells.csv")) == row["cells"]
    with Image.open(tmp_path / "found" / "000000-slide-overview.png") as drawn:
        assert max(drawn.size) <= 2200
    listed = table(tmp_path / "found" / "000000-slide-cells.csv")
    assert len({cell["red_cell_diameter_px"] for cell in listed}) == 1
    assert not list((tmp_path / "found").glob("*.partial"))


def test_a_slide_from_elsewhere_is_read_in_tiles_as_classify_does(cells: CellRun, leuk: Leuk, tmp_path: Path) -> None:
    """Beside a field that is read whole; a run on images refuses it by name and says what to do."""
    pytest.importorskip("pyvips", reason="the extra slides is not installed")
    for name in ("ALL", "HTL"):
        fields = [Image.open(f).convert("RGB") for f in sorted((cells.pictures / name).rglob("field-*.jpg"))[:2]]
        width, height = fields[0].size
        mosaic = Image.new("RGB", (3 * width, height))
        for place in range(3):
            mosaic.paste(fields[place % 2].transpose(Image.Transpose.ROTATE_180), (place * width, 0))
        (tmp_path / "clinic" / name).mkdir(parents=True)
        mosaic.save(tmp_path / "clinic" / name / "slide.png")
        fields[1].transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "clinic" / name / "field.png")
    limit = ("--max-megapixels", 2 * width * height / 1e6)
    given = ("evaluate", "-w", cells.root, "--external", "clinic=clinic", "--resamples", "20", *limit)
    done = leuk(*given, "--json")
    assert done.code == 0, done.err
    assert done.json()["images"] == 4
    assert done.err.count("slide.png: read in 1 tile (1 usable)") == 2
    predicted = {
        row["path"]: row for row in table(next((cells.root / "reports").glob("*external-clinic")) / "predictions.csv")
    }
    rows = leuk("classify", *predicted, "-w", cells.root, *limit, "--json").json()
    assert sorted(row["unit"] for row in rows) == ["field", "field", "slide", "slide"]
    for row in rows:
        assert row["score_ALL"] == pytest.approx(float(predicted[row["path"]]["score_ALL"]), abs=1e-5)


def test_a_run_on_images_refuses_a_slide_from_elsewhere_by_name(trained: Any, leuk: Leuk, tmp_path: Path) -> None:
    for name in ("ALL", "HTL"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(2):
            noise = np.random.default_rng(number).integers(0, 256, (60 + 40 * number, 80, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "clinic" / name / f"{number}.png")
    done = leuk("evaluate", "-w", trained.root, "--external", "clinic=clinic", "--max-megapixels", "0.006")
    assert done.code == 3
    assert "2 of 4 images cannot be used" in done.error_lines[0]
    assert "ALL/1.png: 80×100 px" in done.error_lines[0]
    assert "--max-megapixels 1; or leave out what cannot be used with --skip-bad" in done.error_lines[1]
