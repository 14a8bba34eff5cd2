"""Every way to fail that a person can mend: its exit code, its two lines, and nothing on stdout."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Leuk, Trained

HERE: tuple[tuple[str, int, str, str], ...] = (
    # command in an empty folder, exit code, words of the problem, words of the hint
    ("train --bakbone senet", 2, "No such option: --bakbone", "leuk train --help"),
    ("trian", 2, "Did you mean 'train'?", "leuk --help"),
    ("classify", 2, "INPUT", "leuk classify --help"),
    ("train --backbone senett", 2, "unknown backbone 'senett'", "Did you mean 'senet'?"),
    ("train --backbone timm:", 2, "names no network", "timm:NAME"),
    ("train --variant dropuot", 2, "unknown variant 'dropuot'", "Did you mean 'dropout'?"),
    ("extract-features --backbone resnxt", 2, "unknown backbone", "Did you mean 'resnext'?"),
    ("fit-svm --backbone resnxt", 2, "unknown backbone", "Did you mean 'resnext'?"),
    ("train --epochs many", 2, "--epochs", "leuk train --help"),
    ("train --epochs 0", 2, "--epochs", "leuk train --help"),
    ("train --tune heda", 2, "'heda' is not one of 'head'", "leuk train --help"),
    ("train --feature-sizes 12,x", 2, "--feature-sizes: 'x'", "commas"),
    ("train --feature-sizes ,", 2, "--feature-sizes is empty", "commas"),
    ("train --dropout-rates half", 2, "--dropout-rates: 'half'", "commas"),
    ("train --kernel cubic", 2, "unknown kernel 'cubic'", "linear, rbf"),
    ("train --fold first", 2, "--fold 'first'", "--fold 0"),
    ("train --seed -1", 2, "--seed", "leuk train --help"),
    ("train --seed 99999999999999999999", 2, "--seed", "leuk train --help"),
    ("train --name ../../elsewhere", 2, "cannot be named '../../elsewhere'", "letters"),
    ("train --name best", 2, "that word means another run", "--name"),
    ("train --resume x --epochs 3 --kernel linear", 2, "--epochs, --kernel cannot be set with --resume", "settings"),
    ("fit-svm --features a --run b", 2, "exclude each other", "Name one"),
    ("fit-svm --weights none", 2, "--weights without --backbone", "--backbone"),
    ("extract-features --run a --backbone senet", 2, "exclude each other", "Name one"),
    ("extract-features --input-size 64", 2, "--input-size without --backbone", "--backbone"),
    ("extract-features --format csv", 2, "--format csv without --output", "--output"),
    ("classify x.png --batch-size 0", 2, "--batch-size", "leuk classify --help"),
    ("sample-images out --patients 0", 2, "--patients", "leuk sample-images --help"),
    ("prepare nowhere --task binary", 3, "no folder", "Check the path"),
    ("train", 4, "workspace leuk-workspace does not exist", "leuk prepare"),
    ("evaluate -w nowhere", 4, "workspace nowhere does not exist", "leuk prepare"),
    ("classify x.png", 4, "workspace leuk-workspace does not exist", "leuk prepare"),
    ("classify x.png --run some/where", 4, "there is no run at some/where", "Check the path"),
    ("runs -w folder", 4, "folder is not a leuk workspace", "--workspace"),
    ("train -w folder", 4, "folder is not a leuk workspace", "--workspace"),
    ("prepare folder --task binary -w folder", 4, "folder holds other files", "new or empty folder"),
    ("runs -w folder/file.txt", 4, "is a file, not a folder", "--workspace"),
    ("train -w bare", 4, "there is no manifest", "leuk prepare"),
    ("evaluate latest -w bare", 4, "there is no manifest", "leuk prepare"),
    ("classify x.png -w bare", 4, "no finished run", "leuk train"),
    ("classify x.png --run nope -w bare", 4, "no run 'nope'", "leuk train"),
    ("classify x.png --run latest -w bare", 4, "no finished run", "leuk train"),
    ("runs -w newer", 4, "has schema 99", "Update leuk"),
    ("runs -w torn", 4, "cannot be read", "damaged"),
)


@pytest.fixture
def folders(tmp_path: Path) -> None:
    """Lay out what the table above names."""
    for name, mark in (("bare", '{"schema_version": 1}'), ("newer", '{"schema_version": 99}'), ("torn", '{"sche')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "workspace.json").write_text(mark)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("mine")


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(("line", "code", "problem", "hint"), HERE, ids=[row[0] for row in HERE])
def test_in_an_empty_folder(line: str, code: int, problem: str, hint: str, leuk: Leuk, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = leuk(*line.split())
    assert (done.code, done.out) == (code, "")
    said, way_out = done.error_lines
    assert problem in said
    assert hint in way_out
    assert sorted(tmp_path.rglob("*")) == before, "a refusal leaves nothing behind"


WITH_RUN: tuple[tuple[str, int, str, str], ...] = (
    ("train --backbone efficientnet-lite0 --variant base --fold 0", 2, "the manifest has splits", "Leave --fold out"),
    ("train --variant base --dropout-rates 0.5", 2, "--dropout-rates means nothing to --variant base", "--variant"),
    ("train --variant svm --feature-sizes 64", 2, "means nothing to --variant svm", "--kernel"),
    ("train --device banana", 2, "unknown device 'banana'", "cuda:N"),
    ("train --backbone efficientnet-lite0 --weights gone.pth", 3, "gone.pth does not exist", "--weights"),
    ("classify {image} --max-megapixels nan", 2, "--max-megapixels", "200"),
    ("classify {image} --output found.png", 2, "has the name of an image", "findings.csv"),
    ("classify {image} --output folder", 2, "it is a folder", "Name a file"),
    ("classify {image} --output /dev/null", 2, "it is a device", "Name a file"),
    ("classify folder", 3, "no images in folder folder", ".png"),
    ("classify *.xyz", 3, "nothing matches *.xyz", "quote"),
    ("classify @gone.txt", 3, "cannot read the list gone.txt", "after @"),
    ("classify @folder/file.txt", 3, "names no file", "one path a line"),
    ("classify -", 3, "no inputs were named", "pipe"),
    ("classify {image} --run nope", 4, "no run 'nope'", "Known: efficientnet-lite0-base-1"),
    ("classify {image} --run efficientnet", 2, "begins several runs", "more of the id"),
    ("evaluate nope", 4, "no run 'nope'", "Known"),
    ("train --resume nope", 4, "no run 'nope'", "Known"),
    ("train --resume latest", 4, "no interrupted run to resume", "Known"),
    ("fit-svm --features nope", 4, "no features 'nope'", "Known: efficientnet-lite0-train-1"),
)


@pytest.mark.parametrize(("line", "code", "problem", "hint"), WITH_RUN, ids=[row[0] for row in WITH_RUN])
def test_with_a_run(
    line: str, code: int, problem: str, hint: str, leuk: Leuk, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("\n")
    done = leuk(*line.format(image=trained.image).split(), "-w", trained.root, "--quiet")
    assert (done.code, done.out) == (code, "")
    said, way_out = done.error_lines
    assert problem in said
    assert hint in way_out


@pytest.mark.parametrize("inputs", [("gone.png",), ("empty.png", "text.jpg")])
def test_all_inputs_broken_is_3_with_a_row_for_each(
    inputs: tuple[str, ...], leuk: Leuk, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    done = leuk("classify", *inputs, "-w", trained.root)
    assert done.code == 3
    assert done.error_lines[0] == f"error: {len(inputs)} of {len(inputs)} inputs could not be used"
    assert len(done.out.splitlines()) == 1 + len(inputs)


def test_prepare_refuses_broken_images_and_keeps_the_old_manifest(leuk: Leuk, spoilt: Trained, tmp_path: Path) -> None:
    shutil.copytree(spoilt.pictures, tmp_path / "set")
    (tmp_path / "set" / "ALL" / "all-patient-01" / "broken.jpg").write_bytes(b"")
    before = (spoilt.root / "manifest" / "manifest.json").read_bytes()
    done = leuk("prepare", "set", "--task", "binary", "-w", spoilt.root)
    assert (done.code, done.out) == (3, "")
    assert "broken.jpg" in done.err
    assert (spoilt.root / "manifest" / "manifest.json").read_bytes() == before
    assert leuk("prepare", "set", "--task", "binary", "-w", spoilt.root, "--skip-bad").code == 0


def damage(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_damaged_run_is_4_and_does_not_hide_the_others(leuk: Leuk, spoilt: Trained) -> None:
    damage(spoilt.run_folder / "run.json", '{"schema_version": 1, "run"')
    done = leuk("classify", spoilt.image, "--run", spoilt.run, "-w", spoilt.root)
    assert (done.code, done.out) == (4, "")
    assert str(spoilt.run_folder / "run.json") in done.error_lines[0]
    assert "damaged" in done.error_lines[1]
    by_path = leuk("classify", spoilt.image, "--run", spoilt.run_folder)
    assert (by_path.code, by_path.out) == (4, "")
    listed = leuk("runs", "-w", spoilt.root, "--json")
    assert listed.code == 0
    found = listed.json()
    assert [row["variant"] for row in found["runs"]] == ["svm"]
    assert [Path(row["path"]) for row in found["damaged"]] == [spoilt.run_folder]
    doctor = leuk("doctor", "-w", spoilt.root, "--json")
    assert doctor.code == 4
    assert doctor.json()["healthy"] is False
    assert leuk("classify", spoilt.image, "-w", spoilt.root).code == 0  # best: the run that is left


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("run.json", lambda old: json.dumps({**json.loads(old), "schema_version": 2}).encode(), "has schema 2"),
        ("run.json", lambda old: json.dumps({"schema_version": 1}).encode(), "damaged"),
        ("run.json", lambda old: b"[]", "not a JSON object"),
        (
            "head.safetensors",
            lambda old: old[:-1] + bytes([old[-1] ^ 1]),
            "is not the file that the run was saved with",
        ),
        ("model.safetensors", lambda old: old[:1000], "is not the file that the run was saved with"),
        ("model.safetensors", None, "is missing"),
    ],
)
def test_a_run_that_was_tampered_with_is_4(
    name: str, change: Callable[[bytes], bytes] | None, said: str, leuk: Leuk, spoilt: Trained
) -> None:
    file = spoilt.run_folder / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    done = leuk("classify", spoilt.image, "--run", spoilt.run_folder, "--quiet")
    assert (done.code, done.out) == (4, "")
    assert said in done.error_lines[0]


def test_a_run_from_another_manifest_is_4(leuk: Leuk, spoilt: Trained) -> None:
    again = leuk("prepare", spoilt.pictures, "--task", "binary", "-w", spoilt.root, "--seed", "1")
    assert again.code == 0, again.err
    for line, said in (
        (("evaluate", spoilt.run), "was made from another manifest"),
        (("evaluate",), "(2 from another manifest)"),
        (("fit-svm", "--run", spoilt.run), "was made from another manifest"),
        (("fit-svm", "--features", "efficientnet-lite0-train-1"), "were made from another manifest"),
    ):
        done = leuk(*line, "-w", spoilt.root, "--quiet")
        assert (done.code, done.out) == (4, ""), line
        assert said in done.error_lines[0]


def test_an_edited_manifest_is_4(leuk: Leuk, prepared: Path) -> None:
    table = prepared / "manifest" / "manifest.csv"
    table.write_text(table.read_text().replace(",train,", ",test,"))
    done = leuk("train", "-w", prepared)
    assert done.code == 4
    assert "manifest.csv is not the file that leuk prepare wrote" in done.error_lines[0]


# ------------------------------------------------------------------------------------------------------ machine


def test_cuda_without_a_gpu_is_5(leuk: Leuk, trained: Trained) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = leuk("classify", trained.image, "-w", trained.root, "--device", "cuda")
    assert (done.code, done.out) == (5, "")
    assert "'cuda' is not there" in done.error_lines[0]
    assert "--device cpu" in done.error_lines[1]


def test_weights_out_of_reach_are_5_with_the_way_to_fetch_them(
    leuk: Leuk, prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    done = leuk("train", "--backbone", "resnext", "-w", prepared, "--quiet")
    assert (done.code, done.out) == (5, "")
    assert "cannot be reached" in done.error_lines[0]
    assert "hf download" in done.error_lines[1]
    assert "--weights" in done.error_lines[1]
    assert not (prepared / "runs").exists()


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 5), (errno.EDQUOT, 5), (errno.EIO, 5), (errno.EROFS, 4)])
def test_a_disk_that_will_not_take_it(
    number: int, code: int, leuk: Leuk, trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    done = leuk("classify", trained.image, "-w", trained.root, "--output", "found.csv", "--quiet")
    assert (done.code, done.out) == (code, "")
    assert "found.csv" in done.error_lines[0]
    assert not (tmp_path / "found.csv").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 5, "out of memory"),
        (ImportError("libcudart.so.12: cannot open shared object file"), 5, "installation is broken"),
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), 5, "/somewhere"),
        (RuntimeError("planted\nhere"), 1, "RuntimeError: planted here"),
        (OSError(errno.ENOTTY, "planted"), 1, "planted"),
    ],
)
@pytest.mark.usefixtures("folders")
def test_errors_from_outside_and_bugs(
    error: Exception, code: int, said: str, leuk: Leuk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leukemia_cli.steps import runs

    def fails(workspace: object) -> None:
        raise error

    monkeypatch.setattr(runs, "runs", fails)
    done = leuk("runs", "-w", "bare")
    assert (done.code, done.out) == (code, "")
    assert said in done.error_lines[0]
    if code == 1:
        assert "--debug" in done.error_lines[1]
    shown = leuk("runs", "-w", "bare", "--debug")
    assert shown.code == code
    assert "Traceback (most recent call last)" in shown.err
    assert "in fails" in shown.err
    assert shown.err.splitlines()[-2].startswith("error:")


def test_debug_shows_the_cause_of_a_mendable_error(leuk: Leuk) -> None:
    assert "Traceback" not in leuk("runs").err
    assert "WorkspaceError" in leuk("runs", "--debug").err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_a_stream_leaves_no_traceback(
    stream: str, process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        done = process("runs", "--json", **{stream: full})
        out, err = done.communicate(timeout=60)
    assert b"Traceback" not in (out or b"") + (err or b"")
    assert done.returncode == 4


def test_closed_streams_are_no_bug(trained: Trained) -> None:
    """A daemon may start it with no streams at all."""
    import sys

    command = f"exec {sys.executable} -m leukemia_cli runs -w {trained.root} <&- >&- 2>&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={"PYTHONPATH": str(Path(__file__).parents[2])}, check=False, timeout=60
    )
    assert done.returncode == 0


# ------------------------------------------------------------------------------------------------------ signals


def test_sigterm(process: Callable[..., subprocess.Popen[bytes]], trained: Trained, tmp_path: Path) -> None:
    """Stopped between two images: 143, two lines, the rows so far in `.partial`, and no file of the final name.

    Ctrl-C is sent to processes in test_json_contract.py and test_cells_command.py.
    """
    output, partial = tmp_path / "found.csv", tmp_path / "found.csv.partial"
    arguments = ("classify", "-", "--run", trained.run_folder, "--batch-size", "2", "--workers", "1", "-q")
    running = process(*arguments, "--output", output, cwd=tmp_path)
    assert running.stdin is not None
    running.stdin.write(b"".join(os.fsencode(trained.image) + b"\n" for _ in range(24)))
    running.stdin.flush()
    for _ in range(1200):
        if partial.exists() and partial.read_bytes().count(b"\n") > 1:
            break
        time.sleep(0.05)
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    lines = err.decode().splitlines()
    assert running.returncode == 143, err.decode()
    assert out == b""
    assert [line.split(":")[0] for line in lines if not line.startswith("warning:")] == ["error", "hint"]
    assert b"Traceback" not in err
    assert not output.exists()
    rows = partial.read_text().splitlines()
    assert rows[0].startswith("path,label,")
    assert len(rows) > 1


def test_sigterm_passes_through_code_that_catches_every_exception(
    leuk: Leuk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from leukemia_cli.steps import runs

    def stubborn(workspace: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("SIGTERM was swallowed")

    monkeypatch.setattr(runs, "runs", stubborn)
    (tmp_path / "workspace.json").write_text('{"schema_version": 1}')
    before = signal.getsignal(signal.SIGTERM)
    done = leuk("runs", "-w", ".")
    assert (done.code, done.out) == (143, "")
    assert done.error_lines[0] == "error: stopped by SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
