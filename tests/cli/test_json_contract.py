"""The names that others rely on: what each command prints with --json, and the columns of classify."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Leuk, Trained

METRICS = {
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "sensitivity", "specificity", "brier", "ece", "log_loss",
}  # fmt: skip
RUN_KEYS = {
    "run", "name", "task", "backbone", "variant", "weights", "tune", "device", "precision", "epochs", "best_epoch",
    "validation", "feature_size", "dropout", "seconds",
}  # fmt: skip
COLUMNS = (
    "path", "label", "decision", "reason", "confidence", "score_ALL", "score_HTL", "label_set", "novelty",
    "novelty_threshold", "unit", "cells", "run", "engine", "precision", "error", "novel_kind",
    "cells_ALL", "cells_HTL", "blast_fraction", "blast_low", "blast_high", "tiles",
)  # fmt: skip


def test_prepare(trained: Trained) -> None:
    found = trained.documents["prepare"]
    assert set(found) >= {
        "task", "classes", "unit", "images", "groups", "groups_source", "splits", "skipped", "duplicates", "warnings",
    }  # fmt: skip
    assert (found["task"], found["classes"], found["unit"]) == ("binary", ["ALL", "HTL"], "image")
    assert (found["images"], found["groups"]) == (20, 10)
    assert found["groups_source"] in ("given", "filename", "proposed", "none")
    assert set(found["splits"]) == {"train", "val", "calib", "test"}
    assert sum(sum(counts.values()) for counts in found["splits"].values()) == 20


def test_train_and_fit_svm_print_the_same_keys(trained: Trained) -> None:
    train, svm = trained.documents["train"], trained.documents["fit-svm"]
    assert set(train) == set(svm)
    assert set(train) >= RUN_KEYS
    assert (train["variant"], svm["variant"]) == ("base", "svm")
    assert set(train["validation"]) >= METRICS
    assert train["seconds"] > 0
    assert (train["device"], train["precision"], train["tune"]) == ("cpu", "fp32", "head")
    assert (svm["epochs"], svm["best_epoch"]) == (0, None)


def test_extract_features(trained: Trained) -> None:
    found = trained.documents["extract-features"]
    assert set(found) >= {"features", "task", "split", "images", "width", "backbone", "weights", "folder", "output"}
    assert (found["split"], found["images"], found["width"], found["output"]) == ("train", 8, 1280, None)


def test_evaluate_prints_its_report(trained: Trained) -> None:
    found = trained.documents["evaluate"]
    stored = trained.root / "reports" / f"{trained.run}-test" / "report.json"
    assert found == json.loads(stored.read_bytes())
    assert set(found) >= {
        "run", "task", "split", "external", "images", "groups", "groups_source", "metrics", "per_class", "confusion",
        "calibration", "abstention", "warnings",
    }  # fmt: skip
    assert set(found["metrics"]) >= METRICS
    for metric in found["metrics"].values():
        assert set(metric) >= {"value", "low", "high", "n", "groups", "method"}
    for of_class in found["per_class"].values():
        assert set(of_class) >= {"precision", "recall", "f1", "auroc", "support"}
    assert set(found["confusion"]) >= {"classes", "matrix"}
    assert (found["run"], found["split"], found["images"]) == (trained.run, "test", 4)


def test_runs(trained: Trained, leuk: Leuk) -> None:
    found = leuk("runs", "-w", trained.root, "--json").json()
    assert set(found) == {"runs", "damaged"}
    first, second = found["runs"]
    assert (first["run"], second["variant"], first["state"]) == (trained.run, "svm", "finished")
    assert first["from_current_manifest"] is True
    assert first["reports"] == [f"{trained.run}-test"]
    assert second["reports"] == []
    assert first["validation_balanced_accuracy"] == trained.documents["train"]["validation"]["balanced_accuracy"]


def test_doctor(trained: Trained, leuk: Leuk) -> None:
    done = leuk("doctor", "-w", trained.root, "--json")
    found = done.json()
    assert set(found) == {"healthy", "checks"}
    assert done.code == (0 if found["healthy"] else 4)
    assert all(set(check) == {"name", "state", "says"} for check in found["checks"])
    names = {check["name"] for check in found["checks"]}
    assert names >= {"leuk", "torch", "device", "cores granted", "disk", "weights of senet", "workspace", "runs"}


def test_sample_images(leuk: Leuk, tmp_path: Path) -> None:
    found = leuk("sample-images", "drawn", "--patients", "1", "--json").json()
    assert set(found) >= {"out", "images", "slide", "drawn"}
    assert found["drawn"] is True
    assert len(list((tmp_path / "drawn").rglob("field-*.jpg"))) == found["images"]
    assert Path(found["slide"]).is_file()


def test_classify_gives_equal_rows_in_every_format(trained: Trained, leuk: Leuk, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    folder = trained.pictures / "HTL" / "htl-patient-01"
    given = ("classify", trained.image, "broken.png", folder, "-w", trained.root, "--run", trained.run, "-v")
    as_json = leuk(*given, "--json")
    assert as_json.code == 3
    rows = as_json.json()
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["path"] for row in rows[:2]] == [str(trained.image), "broken.png"]
    assert len(rows) == 4
    same = leuk(*given, "--format", "json").json()
    lines = [json.loads(line) for line in leuk(*given, "--format", "jsonl").out.splitlines()]
    assert rows == same == lines
    text = leuk(*given, "--format", "csv").out
    assert leuk(*given).out == text  # csv is the default where there is no terminal
    table = list(csv.reader(io.StringIO(text, newline="")))
    assert tuple(table[0]) == COLUMNS
    assert table[1:] == [["" if value is None else str(value) for value in row.values()] for row in rows]
    good = [row for row in rows if row["decision"] != "error"]
    assert len(good) == 3
    for row in good:
        scores = {name: row[f"score_{name}"] for name in ("ALL", "HTL")}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-9)
        assert row["label"] == max(scores, key=scores.__getitem__)
        assert row["confidence"] == max(scores.values())
        assert (row["run"], row["engine"], row["precision"], row["unit"]) == (trained.run, "torch", "fp32", "image")
        assert row["error"] is None
        assert (row["decision"], row["reason"]) in (("label", None), ("abstain", "novel"), ("abstain", "uncertain"))
    bad = rows[1]
    assert (bad["decision"], bad["label"], bad["confidence"], bad["score_ALL"]) == ("error", None, None, None)
    assert "0 bytes" in bad["error"]


def test_classify_with_json_into_a_file_still_prints_one_document(trained: Trained, leuk: Leuk, tmp_path: Path) -> None:
    done = leuk("classify", trained.image, "gone.png", "-w", trained.root, "--json", "--output", "found.json")
    assert done.code == 3
    assert done.json() == {"output": "found.json", "inputs": 2, "errors": 1}
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["decision"] == "error" for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("prepare", "nowhere", "--task", "binary"), 3),
        (("train", "--backbone", "senett"), 2),
        (("train", "--no-such-flag"), 2),
        (("train",), 4),
        (("extract-features",), 4),
        (("fit-svm",), 4),
        (("evaluate",), 4),
        (("classify", "x.png"), 4),
        (("classify", "x.png", "--format", "csv"), 2),
        (("runs",), 4),
        (("sample-images", "out", "--patients", "0"), 2),
    ],
)
def test_an_error_is_the_one_document(arguments: tuple[str, ...], code: int, leuk: Leuk) -> None:
    done = leuk(*arguments, "--json")
    assert done.code == code
    error, hint = done.error_lines
    assert done.json() == {
        "error": {
            "problem": error.removeprefix("error: "),
            "hint": hint.removeprefix("hint: "),
            "exit_code": code,
        }
    }


def test_after_an_error_on_the_way_the_error_is_the_one_document(
    trained: Trained, leuk: Leuk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are out could not be taken back, and a part of them looks like a result: so none goes out before all."""
    from leukemia_cli.learning.classifier import Classifier

    whole, calls = Classifier.look, []

    def fails_later(self: Classifier, views: object) -> object:
        calls.append(views)
        if len(calls) > 1:
            raise MemoryError
        return whole(self, views)

    monkeypatch.setattr(Classifier, "look", fails_later)
    done = leuk("classify", trained.image, trained.image, "-w", trained.root, "--json", "--batch-size", "1")
    assert done.code == 5
    assert done.error_lines[0].startswith("error: out of memory")
    assert set(done.json()) == {"error"}
    assert done.json()["error"]["exit_code"] == 5


@pytest.mark.parametrize(("command", "number"), [("classify", signal.SIGINT), ("cells", signal.SIGTERM)])
def test_stopped_half_way_the_error_is_the_one_document(
    command: str, number: int, trained: Trained, process: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Pictures tell that rows have been made; none of these rows is out."""
    code = {signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
    arguments: tuple[object, ...] = ("cells", "-", "--overlays", tmp_path / "seen")
    if command == "classify":
        run = ("--run", trained.run_folder, "--batch-size", "2", "--device", "cpu")
        arguments = ("classify", "-", "--heatmaps", tmp_path / "seen", *run)
    running = process(*arguments, "--workers", "1", "--json", "-q", cwd=tmp_path)
    assert running.stdin is not None
    running.stdin.write(b"".join(os.fsencode(trained.image) + b"\n" for _ in range(300)))
    running.stdin.flush()
    for _ in range(2400):
        if len(list((tmp_path / "seen").glob("*.png"))) > 2:
            break
        time.sleep(0.05)
        assert running.poll() is None
    running.send_signal(number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == code, err.decode()
    assert set(json.loads(out)) == {"error"}
    assert json.loads(out)["error"]["exit_code"] == code
