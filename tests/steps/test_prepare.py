"""From folders to a manifest, with every broken input that a hospital's disk holds."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import Item, Note, unheard
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.steps.prepare import NO_GROUPS, Prepared, PrepareSettings, prepare
from leukemia_cli.workspace.documents import write_json
from leukemia_cli.workspace.folders import Workspace, open_workspace
from leukemia_cli.workspace.runs import new_run_folder

CONTRACT_KEYS = {
    "task",
    "classes",
    "unit",
    "images",
    "groups",
    "groups_source",
    "splits",
    "skipped",
    "duplicates",
    "warnings",
}


def picture(seed: int, side: int = 20) -> Image.Image:
    """Draw an image that no other seed draws."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def draw_set(root: Path, *, groups: int = 6, images: int = 2, classes: Iterable[str] = ("ALL", "HTL")) -> Path:
    """Draw ROOT/CLASS/CLASS-pN/M.png."""
    seed = 0
    for kind in classes:
        for group in range(groups):
            folder = root / kind / f"{kind}-p{group}"
            folder.mkdir(parents=True)
            for number in range(images):
                picture(seed).save(folder / f"{number}.png")
                seed += 1
    return root


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "workspace", create=True)


def run(workspace: Workspace, *sources: str | Path, note: Note = unheard, **changes: Any) -> Prepared:
    """Prepare with the binary task and two workers."""
    settings = {"task": "binary", "workers": 2, **changes}
    return prepare(workspace, PrepareSettings(sources=tuple(map(str, sources)), **settings), note=note)


def test_splits_of_a_folder(workspace: Workspace, tmp_path: Path) -> None:
    prepared = run(workspace, draw_set(tmp_path / "set", groups=10), command=("leuk", "prepare", "set"))
    answer = prepared.as_json()
    assert answer.keys() >= CONTRACT_KEYS
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["images"], answer["groups"], answer["groups_source"]) == (40, 20, "filename")
    assert list(answer["splits"]) == ["train", "val", "calib", "test"]
    assert all(min(counts["ALL"], counts["HTL"]) >= 2 for counts in answer["splits"].values())
    assert answer["warnings"] == []
    assert answer["duplicates"] == 0
    manifest = read_manifest(workspace)
    assert manifest == prepared.manifest
    assert len({(s.group, s.split) for s in manifest.samples}) == 20
    first = manifest.samples[0]
    assert (first.width, first.height, len(first.sha256), first.unit, first.source) == (20, 20, 64, "image", "set")
    assert Path(first.path).is_absolute()


def test_folds_and_what_they_warn_of(workspace: Workspace, tmp_path: Path) -> None:
    answer = run(workspace, draw_set(tmp_path / "set", groups=2), folds=4).as_json()
    assert list(answer["splits"]) == ["fold-0", "fold-1", "fold-2", "fold-3"]
    assert any("not every fold has every class" in warning for warning in answer["warnings"])
    assert "fewer than 10 groups in ALL (2), HTL (2): figures rest on little" in answer["warnings"]
    manifest = read_manifest(workspace)
    assert manifest.folds == 4
    assert {(s.split, s.fold) for s in manifest.samples} == {("", fold) for fold in range(4)}


def test_unknown_groups_are_said_plainly(workspace: Workspace, tmp_path: Path) -> None:
    prepared = run(workspace, draw_set(tmp_path / "set"), group_by="none")
    assert prepared.manifest.groups_source == "none"
    assert NO_GROUPS in prepared.manifest.warnings
    assert "the estimate will be optimistic" in NO_GROUPS
    assert len({s.group for s in prepared.manifest.samples}) == 24


def test_one_seed_one_manifest_and_another_place_the_same_fingerprint(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    first = run(workspace, root, group_by="none").manifest
    assert run(workspace, root, group_by="none", workers=1).manifest == first
    moved = root.rename(tmp_path / "elsewhere")
    assert run(workspace, moved, group_by="none").manifest.fingerprint == first.fingerprint
    assert run(workspace, moved, group_by="none", seed=1).manifest.fingerprint != first.fingerprint


def test_copies_stay_in_one_group(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    original = root / "ALL" / "ALL-p0" / "0.png"
    (root / "ALL" / "ALL-p3" / "copy.png").write_bytes(original.read_bytes())
    with Image.open(original) as image:
        image.save(root / "ALL" / "ALL-p5" / "again.bmp")
    prepared = run(workspace, root)
    groups = {Path(s.path).parent.name: s.group for s in prepared.manifest.samples}
    assert groups["ALL-p0"] == groups["ALL-p3"] == groups["ALL-p5"] == "ALL-p0"
    assert prepared.as_json()["duplicates"] == 2
    assert [len(paths) for paths in prepared.duplicates] == [3]
    assert any("2 exact copies of other images" in warning for warning in prepared.manifest.warnings)


def test_a_copy_under_another_class_is_an_error(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    (root / "HTL" / "HTL-p0" / "x.png").write_bytes((root / "ALL" / "ALL-p0" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"0\.png \(ALL\) and .*x\.png \(HTL\) are one image under two classes"):
        run(workspace, root)


def bomb() -> bytes:
    """Make a PNG of some bytes whose header says 50,000 × 50,000."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_broken_inputs_are_listed_with_their_reasons(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    folder = root / "ALL" / "ALL-p0"
    buffer = io.BytesIO()
    picture(99, 64).save(buffer, "JPEG")
    frames = [picture(90), picture(91)]
    (folder / "zero.jpg").touch()
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:1500])
    (folder / "text.jpg").write_text("not an image")
    (folder / "bomb.png").write_bytes(bomb())
    picture(92, 1).save(folder / "tiny.png")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).touch()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    picture(93).save(root / "HTL" / "HTL-p0" / "zero.jpg")  # equal names in different folders are different images
    (folder / "a.png").mkdir()
    picture(94).save(folder / "a.png" / "inside.png")

    with pytest.raises(DataError, match="8 of 34 images cannot be used") as caught:
        run(workspace, root)
    assert "--skip-bad" in caught.value.hint
    assert "--max-megapixels" not in caught.value.hint
    assert not workspace.manifest_folder.exists()

    prepared = run(workspace, root, skip_bad=True)
    reasons = {Path(path).name: reason for path, reason in prepared.skipped}
    expected = {
        "zero.jpg": "it is empty",
        "cut.jpg": "it is truncated",
        "text.jpg": "it looks like text",
        "bomb.png": "2,500.0 megapixels, more than 200",
        "tiny.png": "1×1 px are too few",
        "moving.gif": "it holds 2 frames",
        os.fsdecode(b"caf\xe9.png"): "it is empty",
        "gone.png": "a link to a file that does not exist",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
    assert len(prepared.manifest.samples) == 26
    assert [key for key in prepared.as_json()["skipped"][0]] == ["path", "reason"]
    assert any("8 images left out as unusable" in warning for warning in prepared.manifest.warnings)
    assert json.dumps(prepared.as_json()).isascii()
    assert read_manifest(workspace) == prepared.manifest


def test_many_broken_inputs_are_cut_short_and_one_says_its_own_way_out(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    (root / "ALL" / "ALL-p0" / "bomb.png").write_bytes(bomb())
    with pytest.raises(DataError, match="1 of 25") as caught:
        run(workspace, root)
    assert "--max-megapixels 2501" in caught.value.hint
    for number in range(14):
        (root / "ALL" / "ALL-p0" / f"z{number}.png").touch()
    said: list[str] = []
    with pytest.raises(DataError, match="15 of 39 images cannot be used: the first is") as caught:
        run(workspace, root, note=said.append)
    assert "\n" not in caught.value.problem
    assert len([line for line in said if line.startswith("unusable: ")]) == 10
    assert said[-1] == "and 5 more"


def test_nothing_left_after_skipping(workspace: Workspace, tmp_path: Path) -> None:
    for kind in ("ALL", "HTL"):
        for name in "abcd":
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / kind / f"{name}.png").touch()
    with pytest.raises(DataError, match="8 of 8 images cannot be used") as caught:
        run(workspace, tmp_path / "set", skip_bad=True)
    assert "Not one image is left" in caught.value.hint


def test_an_earlier_manifest_survives_an_error(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    before = run(workspace, root).manifest
    (root / "ALL" / "ALL-p0" / "zero.png").touch()
    with pytest.raises(DataError):
        run(workspace, root)
    assert read_manifest(workspace) == before
    assert sorted(p.name for p in workspace.root.iterdir()) == ["manifest", "workspace.json"]


def test_classes_without_images_say_which_to_ask_for(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set", classes=("ALL", "AML", "HTL"))
    with pytest.raises(DataError, match="no image of class CLL, CML") as caught:
        run(workspace, root, task="five-class")
    assert "--classes ALL,AML,HTL" in caught.value.hint
    answer = run(workspace, root, task="five-class", classes=("ALL", "AML", "HTL")).as_json()
    assert answer["title"] == "five-class (3 of 5 classes: ALL, AML, HTL)"
    one = draw_set(tmp_path / "one", classes=("ALL",))
    with pytest.raises(DataError, match="no image of class HTL") as caught:
        run(workspace, one)
    assert "Add images of HTL" in caught.value.hint


def test_too_few_groups_name_where_groups_come_from(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set", groups=3)
    with pytest.raises(
        DataError, match=r"class ALL has 3 groups, too few .*read from names of files or folders"
    ) as caught:
        run(workspace, root)
    assert "--folds 3" in caught.value.hint
    assert "--calib 0" in caught.value.hint
    assert list(run(workspace, root, calib=0.0).as_json()["splits"]) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"folds": 3, "val": 0.1}, "--folds 3 does not go with --val"),
        ({"folds": 1}, "--folds 1 is too few"),
        ({"val": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"test": 1.5}, "--test 1.5 is not a fraction"),
        ({"task": None}, "no task was given"),
        ({"group_by": "patients"}, "unknown --group-by"),
        ({"layout": "flat"}, "unknown layout"),
    ],
)
def test_settings_that_do_not_go_together(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        run(workspace, draw_set(tmp_path / "set"), **changes)


def write_labels(root: Path, splits: list[str]) -> Path:
    """Draw two images a split and class and list them with their splits."""
    root.mkdir(exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "split"])
        for number, split in enumerate(splits):
            picture(number).save(root / f"{number}.png")
            table.writerow([f"{number}.png", ("ALL", "HTL")[number % 2], f"g{number}", split])
    return root


def test_splits_that_the_labels_give_are_taken(workspace: Workspace, tmp_path: Path) -> None:
    root = write_labels(tmp_path / "set", ["train", "train", "validation", "val", "test", "test", "test"])
    answer = run(workspace, root).as_json()
    assert answer["splits"] == {
        "train": {"ALL": 1, "HTL": 1},
        "val": {"ALL": 1, "HTL": 1},
        "test": {"ALL": 2, "HTL": 1},
    }
    assert json.loads((workspace.manifest_folder / "manifest.json").read_text())["protocol"] == "given"
    with pytest.raises(UsageError, match="--test does not go with labels"):
        run(workspace, root, test=0.3)
    assert any("not used: --folds" in warning for warning in run(workspace, root, folds=2).manifest.warnings)


def test_given_splits_that_leak_or_lack(workspace: Workspace, tmp_path: Path) -> None:
    root = write_labels(tmp_path / "set", ["train", "train", "test", "test"])
    (root / "2.png").write_bytes((root / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"group g0 is in two splits: .*0\.png in train, .*2\.png in test"):
        run(workspace, root)
    with pytest.raises(DataError, match="train that the labels name has no image of class HTL"):
        run(workspace, write_labels(tmp_path / "b", ["train", "test", "train", "test"]))
    warnings = run(workspace, write_labels(tmp_path / "c", ["train", "train", "test", "train"])).manifest.warnings
    assert "split test has no image of class HTL" in warnings
    some = run(workspace, write_labels(tmp_path / "d", ["train", "test"] * 4 + [""])).manifest
    assert any("not used: 1 of 9 images have none" in warning for warning in some.warnings)


def test_runs_from_another_manifest_are_named(workspace: Workspace, tmp_path: Path) -> None:
    root = draw_set(tmp_path / "set")
    first = run(workspace, root).manifest
    facts = {"schema_version": 1, "manifest": first.fingerprint}
    folder = new_run_folder(workspace, "effnet", facts)
    write_json(folder / "run.json", {**facts, "run": folder.name})
    assert not any("another manifest" in warning for warning in run(workspace, root).manifest.warnings)
    other = run(workspace, root, seed=1).manifest
    assert any("1 run in this workspace made from another manifest (effnet-1)" in w for w in other.warnings)


def test_progress_and_notes_are_told(workspace: Workspace, tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    notes: list[str] = []

    def track(items: Iterable[Item], *, total: int, label: str) -> Iterable[Item]:
        seen.append((total, label))
        return items

    settings = PrepareSettings(sources=(str(draw_set(tmp_path / "set")),), task="binary")
    prepare(workspace, settings, track=track, note=notes.append)
    assert seen == [(24, "opening images")]
    assert any("layout folders" in line for line in notes)


def test_an_image_that_vanishes_between_is_only_one_reason(workspace: Workspace, tmp_path: Path) -> None:
    root = write_labels(tmp_path / "set", [""] * 10)
    (root / "3.png").unlink()
    prepared = run(workspace, root, skip_bad=True)
    assert prepared.skipped == ((str(root / "3.png"), "there is no such file"),)


# ------------------------------------------------------------------------------------------------------- real images


@pytest.mark.slow
def test_taleqani(workspace: Workspace, real_images: Callable[[str], Path]) -> None:
    prepared = run(workspace, real_images("Taleqani"), group_by="file:appearance_groups.csv", folds=5)
    answer = prepared.as_json()
    assert (answer["images"], answer["groups"], answer["groups_source"]) == (1000, 32, "given")
    assert sum(counts["HTL"] for counts in answer["splits"].values()) == 250
    assert all(counts["HTL"] >= 20 and counts["ALL"] >= 80 for counts in answer["splits"].values())
    fold_of: dict[str, set[int | None]] = {}
    for sample in prepared.manifest.samples:
        fold_of.setdefault(sample.inseparable, set()).add(sample.fold)
        fold_of.setdefault(sample.group, set()).add(sample.fold)
    assert all(len(folds) == 1 for folds in fold_of.values())
    by_path = {sample.path: sample for sample in prepared.manifest.samples}
    assert len(prepared.near) >= 50
    assert all(by_path[one].fold == by_path[other].fold for one, other in prepared.near)
    assert answer["skipped"] == []


def test_all_idb1(workspace: Workspace, tmp_path: Path, real_images: Callable[[str], Path]) -> None:
    """Of each block every third image, and the two files of which one is a copy of the other."""
    real, root = real_images("ALL_IDB1"), tmp_path / "ALL_IDB1"
    with (real / "capture_blocks.csv").open(encoding="utf-8", newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["block"])
    (root / "im").mkdir(parents=True)
    for place, row in enumerate(rows):
        if place % 3 == 0 or row["image"] in ("Im093_0.jpg", "Im108_0.jpg"):
            (root / "im" / row["image"]).symlink_to(real / "im" / row["image"])
    shutil.copy(real / "capture_blocks.csv", root)
    with pytest.raises(DataError, match="class ALL has 2 groups, too few"):
        run(workspace, root, group_by="file:capture_blocks.csv")
    prepared = run(workspace, root, group_by="file:capture_blocks.csv", folds=4)
    blocks = {s.group: s.fold for s in prepared.manifest.samples}
    assert blocks.keys() == {"A1", "A3", "H1", "H3"}
    assert set(blocks.values()) == {0, 1, 2, 3}
    assert [tuple(map(os.path.basename, paths)) for paths in prepared.duplicates] == [("Im093_0.jpg", "Im108_0.jpg")]


@pytest.mark.slow
def test_cells_of_two_laboratories(workspace: Workspace, tmp_path: Path, real_images: Callable[[str], Path]) -> None:
    aml, healthy = real_images("AML_cells"), real_images("healthy_cells")
    file = tmp_path / "data.yaml"
    file.write_text(
        "task: five-class\n"
        "sources:\n"
        f"  - {{path: {aml}, label_column: diagnosis, only: {{cell_type: [promonocyte, promyelocyte]}}, "
        "group_by: 'column:patient'}\n"
        f"  - {{path: {healthy}, class: HTL, group_by: none}}\n"
    )
    prepared = run(workspace, file, task=None, classes=("AML", "HTL"), positive="AML")
    answer = prepared.as_json()
    assert answer["groups_source"] == "none"
    assert any("given as ids" in w and "not known" in w for w in answer["warnings"])
    assert {s.source for s in prepared.manifest.samples} == {"AML_cells", "healthy_cells"}
    patients: dict[str, set[str]] = {}
    for sample in prepared.manifest.samples:
        patients.setdefault(sample.group, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in patients.values())
    with pytest.raises(DataError, match="no image of class ALL, CLL, CML") as caught:
        run(workspace, file, task=None)
    assert "--classes AML,HTL --positive AML" in caught.value.hint
