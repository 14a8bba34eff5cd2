"""`leuk classify` killed for real goes on with --resume, and shards become what one process writes."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leukemia_cli.cli.app import run
from leukemia_cli.learning import machine
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.reporting.row_stores import read_parquet
from leukemia_cli.steps import classify as steps
from leukemia_cli.steps.train import train

ROOT = Path(__file__).parents[2]
FORMS = ("csv", "jsonl", "parquet")
BROKEN = (2, 9)
COUNT = 14


@dataclass(frozen=True, slots=True)
class Tiny:
    """A run of a tiny network, the list of images to classify, and the folder where the outputs of whole commands are."""

    run: Path
    images: list[str]
    listed: Path
    whole: Path

    def arguments(self, *more: object) -> list[str]:
        return ["classify", f"@{self.listed}", "--run", str(self.run), "--device", "cpu", *map(str, more)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, make_lab: Callable[..., Any]) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    lab = make_lab(root, splits=("train", "train", "val", "calib"))
    settings = TrainSettings(
        backbone="timm:test_resnet", weights="none", input_size_px=64, device="cpu", variant="base", epochs=1, views=1
    )
    trained = train(lab.workspace, lab.manifest, settings)
    sources = sorted(lab.pictures.rglob("*.png"))
    images = []
    for place in range(COUNT):
        name = root / "in" / ("=1+1.png" if place == 4 else f'{place}, "x".png')
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(b"") if place in BROKEN else shutil.copy(sources[place % len(sources)], name)
        images.append(str(name))
    listed = root / "list.txt"
    listed.write_text("\n".join(images))
    made = Tiny(run=trained.folder, images=images, listed=listed, whole=root / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "granted_cores", lambda: 1)
        for form in FORMS:
            flags = ("--format", form, "--output", made.whole / form, "--batch-size", "1", "-q")
            assert run(made.arguments(*flags)) == 3
    return made


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "granted_cores", lambda: 1)
    monkeypatch.chdir(tmp_path)


def assert_same(output: Path, tiny: Tiny, form: str) -> None:
    if form == "parquet":
        assert read_parquet(output).equals(read_parquet(tiny.whole / form))
    else:
        assert output.read_bytes() == (tiny.whole / form).read_bytes()


def start(tiny: Tiny, *more: object) -> subprocess.Popen[bytes]:
    """Start a process that classifies what is piped into it."""
    words = ["-m", "leukemia_cli", "classify", "-", "--run", str(tiny.run), "--device", "cpu", *map(str, more)]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of images that were read, as it grows."""
    made: list[str] = []
    decode = steps.decode

    def watched(path: str, **more: Any) -> Any:
        made.append(path)
        return decode(path, **more)

    monkeypatch.setattr(steps, "decode", watched)
    return made


def goes_on(tiny: Tiny, form: str, read: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Resume `found`, and resume it again when it is whole."""
    flags = ("--format", form, "--output", "found", "--batch-size", "1", "--workers", "1", "--resume")
    assert not Path("found").exists()
    read.clear()
    assert run(tiny.arguments(*flags)) == 3
    shown = capsys.readouterr()
    assert "of found.partial are kept" in shown.err and f"2 of {COUNT} inputs could not be used" in shown.err
    assert_same(Path("found"), tiny, form)
    assert read == tiny.images[-len(read) :] and len(read) <= COUNT - 4, "what was there was not looked at"
    assert {path.name for path in Path().iterdir()} - {"seen"} == {"found", "found.leuk.json"}
    read.clear()
    assert run(tiny.arguments(*flags, "--json")) == 3, "its rows hold errors"
    shown = capsys.readouterr()
    assert read == [] and "is whole already: 14 rows; nothing was done" in shown.err
    assert json.loads(shown.out) == {"output": "found", "inputs": COUNT, "errors": 2}


def test_killed_in_the_middle_it_goes_on_without_reading_an_image_twice(
    tiny: Tiny, tmp_path: Path, read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGKILL, which no code can answer."""
    killed = start(
        tiny, "--output", tmp_path / "found", "--heatmaps", tmp_path / "seen", "--batch-size", 1, "--workers", 1
    )
    assert killed.stdin is not None
    killed.stdin.write(b"".join(os.fsencode(path) + b"\n" for path in tiny.images[:10]))
    killed.stdin.flush()  # and no end: it waits for more
    end = time.monotonic() + 120
    while len(list((tmp_path / "seen").glob("*.png"))) < 5:
        time.sleep(0.02)
        assert killed.poll() is None and time.monotonic() < end
    killed.kill()
    killed.communicate(timeout=60)
    goes_on(tiny, "csv", read, capsys)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_it_goes_on(
    form: str, number: int, code: int, tiny: Tiny, read: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row = steps.Finding.as_row

    def stops(finding: steps.Finding) -> Any:
        if finding.path == tiny.images[6]:
            os.kill(os.getpid(), number)
        return row(finding)

    with monkeypatch.context() as patch:
        patch.setattr(steps.Finding, "as_row", stops)
        assert run(tiny.arguments("--format", form, "--output", "found", "--batch-size", "1", "--workers", "1")) == code
    shown = capsys.readouterr()
    assert "6 rows so far: the same command with --resume goes on from there" in shown.err
    goes_on(tiny, form, read, capsys)


def test_a_folder_of_parts_goes_on_after_a_signal(
    tiny: Tiny, tmp_path: Path, read: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a / or with --rows-per-part, in Parquet without being told; whole, it stays as it is."""
    flags = ("--rows-per-part", "4", "--batch-size", "1", "--workers", "1")
    assert run(tiny.arguments(*flags, "--output", "one/", "-q")) == 3
    row = steps.Finding.as_row

    def stops(finding: steps.Finding) -> Any:
        if finding.path == tiny.images[6]:
            os.kill(os.getpid(), signal.SIGTERM)
        return row(finding)

    with monkeypatch.context() as patch:
        patch.setattr(steps.Finding, "as_row", stops)
        assert run(tiny.arguments(*flags, "--output", "two")) == 143
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two.partial"}
    read.clear()
    assert run(tiny.arguments(*flags, "--output", "two/", "--resume", "--json")) == 3
    shown = capsys.readouterr()
    assert read == tiny.images[6:] and "6 rows of two.partial are kept" in shown.err
    assert json.loads(shown.out) == {"output": "two", "inputs": COUNT, "errors": 2}
    one, two = ({file.name: file.read_bytes() for file in Path(name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 5
    read.clear()
    assert run(tiny.arguments(*flags, "--output", "two", "--resume")) == 3
    assert read == [] and "two is whole already: 14 rows; nothing was done" in capsys.readouterr().err
    assert run(tiny.arguments(*flags, "--output", "two")) == 2
    assert "two is there, and is not written over" in capsys.readouterr().err
    assert run(tiny.arguments("--output", "whole/", "--batch-size", "1", "-q")) == 3
    assert len(list(Path("whole").iterdir())) == 2
    assert read_parquet(Path("whole/part-000000.parquet")).equals(read_parquet(tiny.whole / "parquet"))


def test_shards_in_folders_are_merged_into_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in ("1/2", "2/2"):
        flags = ("--shard", shard, "--output", f"parts/{shard[0]}/", "--batch-size", "1", "-q")
        assert run(tiny.arguments(*flags)) in (0, 3)
    assert run(["merge", "parts", "--output", "merged.csv", "--format", "csv", "-q"]) == 0
    assert_same(Path("merged.csv"), tiny, "csv")
    assert run(["merge", "parts", "--output", "merged/", "--rows-per-part", "5", "-q"]) == 0
    assert run(tiny.arguments("--output", "one/", "--rows-per-part", "5", "--batch-size", "1", "-q")) == 3
    merged, one = ({file.name: file.read_bytes() for file in Path(name).iterdir()} for name in ("merged", "one"))
    assert merged == one and len(one) == 4
    capsys.readouterr()
    assert run(["merge", "parts", "--output", "merged/", "--rows-per-part", "5", "-q"]) == 2
    assert "merged is there, and is not written over" in capsys.readouterr().err
    assert run(["merge", "parts", "--output", "again/", "--format", "csv", "-q"]) == 2
    assert "again/ is a folder of parts, and --format csv is one file" in capsys.readouterr().err


def test_resumed_with_batches_the_bytes_are_the_same(tiny: Tiny, tmp_path: Path) -> None:
    """Rows that a network saw together are made again together: its sums do not depend on where it was cut."""
    flags = ("--format", "jsonl", "--batch-size", "4", "-q")
    assert run(tiny.arguments(*flags, "--output", "one")) == 3
    assert run(tiny.arguments(*flags, "--output", "two")) == 3
    content = Path("two").read_bytes()
    for cut in (0, 300, len(content) // 2, len(content) - 1, len(content)):
        Path("two.partial").write_bytes(content[:cut])
        Path("two").unlink()
        Path("two.leuk.json").rename("two.partial.leuk.json")
        assert run(tiny.arguments(*flags, "--output", "two", "--resume")) == 3
        assert Path("two").read_bytes() == Path("one").read_bytes()
    assert {f.name for f in tmp_path.iterdir()} == {"one", "two", "one.leuk.json", "two.leuk.json"}


@pytest.mark.parametrize("form", FORMS)
def test_shards_of_an_array_merge_to_what_one_process_writes(
    form: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"MIN": 0, "MAX": 2, "COUNT": 3, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (2, 0, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        flags = (
            "--format",
            form,
            "--output",
            f"parts/{task}.{form}",
            "--batch-size",
            "1",
            "--shard",
            "slurm",
            "--resume",
        )
        assert run(tiny.arguments(*flags, "-q", "--heatmaps", "seen")) in (0, 3)
    told = json.loads(Path(f"parts/1.{form}.leuk.json").read_text())
    assert (told["shard"], told["rows"], told["inputs"]) == ([2, 3], 5, COUNT)
    if form == "csv":
        places = {int(file.name[:6]) for file in Path("seen").iterdir()}
        assert places == set(range(COUNT)) - set(BROKEN), "pictures of all shards lie in one folder"
    capsys.readouterr()
    assert run(["merge", "parts", "--output", f"merged.{form}", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": f"merged.{form}", "parts": 3, "rows": COUNT, "errors": 2, "run": told["run"], "engine": "torch",
        "precision": "fp32",
    }  # fmt: skip
    assert_same(Path(f"merged.{form}"), tiny, form)
    Path(f"parts/1.{form}").unlink()
    assert run(["merge", "parts", "--output", "again", "-q"]) == 4
    assert run(tiny.arguments("--format", form, "--output", f"parts/0.{form}", "--shard", "1/4", "--resume", "-q")) == 4
    assert "shard: 1/3 there, 1/4 here" in capsys.readouterr().err


def test_a_shard_without_inputs_is_a_whole_output(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["classify", tiny.images[0], "--run", str(tiny.run), "--device", "cpu", "--shard", "3/3", "--format"]
    assert run([*arguments, "csv", "--output", "none.csv"]) == 0
    assert "of 1 input none is of shard 3/3" in capsys.readouterr().err
    assert len(Path("none.csv").read_text().splitlines()) == 1
    assert run([*arguments, "json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run([*arguments, "csv", "-q"]) == 0
    assert capsys.readouterr().out == Path("none.csv").read_text()


def test_stdin_is_dealt_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(tiny.images).encode())))
    assert run(["classify", "-", "--run", str(tiny.run), "--device", "cpu", "--shard", "3/5", "-q"]) == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["path"] for row in rows] == tiny.images[2::5]


def test_the_environment_deals_only_where_it_was_asked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ID": 2, "MIN": 1, "MAX": 2, "COUNT": 2, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert run(tiny.arguments("--output", "all.csv", "-q")) == 3
    assert json.loads(Path("all.csv.leuk.json").read_text())["rows"] == COUNT


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--resume"], "--resume needs --output"),
        (["--resume", "--output", "x.json", "--format", "json"], "--resume cannot go on with --format json"),
        (["--resume", "--output", "x.txt", "--format", "table"], "--resume cannot go on with --format table"),
        (["--format", "parquet"], "--format parquet needs --output"),
        (["--rows-per-part", "3"], "--rows-per-part needs --output"),
        (["--output", "x/", "--format", "csv"], "x/ is a folder of parts, and --format csv is one file"),
        (["--output", "x.csv", "--format", "csv", "--rows-per-part", "3"], "x.csv/ is a folder of parts"),
        (["--output", "/", "--format", "parquet"], "--output / has no name of its own"),
        (["--output", "..", "--format", "csv"], "--output .. has no name of its own"),
        (["--shard", "0/3"], "shard 0/3"),
        (["--shard", "slurm"], "SLURM_ARRAY_TASK_ID"),
        (["--shard", "third"], "neither I/N nor slurm"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: list[str], said: str, tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert run(tiny.arguments(*flags)) == 2
    assert said in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_without_pyarrow_the_extra_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run(tiny.arguments("--format", "parquet", "--output", "x.parquet")) == 5
    assert "leukemia-cli[parquet]" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_formulas_are_texts_in_csv_alone(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copy(tiny.images[4], "=1+1.png")
    flags = ["--run", str(tiny.run), "--device", "cpu", "-q"]
    for form in FORMS:
        assert run(["classify", "=1+1.png", *flags, "--format", form, "--output", f"out.{form}"]) == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("'=1+1.png,")
    assert json.loads(Path("out.jsonl").read_text())["path"] == "=1+1.png"
    assert read_parquet(tmp_path / "out.parquet").column("path").to_pylist() == ["=1+1.png"]
