"""The command line in-process, and one small trained workspace for every test of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Leuk, Outcome, Trained

from leukemia_cli.cli.app import run
from leukemia_cli.learning import machine

SAMPLES = Path(__file__).parents[2] / "sample_images"


@pytest.fixture
def leuk(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Leuk:
    """Run one command in this process; `stdin` are the bytes it can read. Bytes that are not UTF-8 come out as \\xff."""

    def command(*arguments: object, stdin: bytes = b"") -> Outcome:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments])
        out, err = (stream.decode(errors="backslashreplace") for stream in capfdbinary.readouterr())
        return Outcome(code=code, out=out, err=err)

    return command


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with no setting of the user's own, on one core: threads that wait for others spin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "granted_cores", lambda: 1)
    for name in ("LEUK_WORKSPACE", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of drawn smears: ALL and HTL, five patients each, two fields a patient."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("ALL", "HTL"):
        for patient in sorted((SAMPLES / name).iterdir())[:5]:
            for field in sorted(patient.iterdir())[:2]:
                place = root / name / patient.name / field.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(field, place)
    return root


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Run prepare, train, extract-features, fit-svm and evaluate once; tests that change files copy it first."""
    root = tmp_path_factory.mktemp("trained") / "ws"
    documents = {}
    for name, arguments in {
        "prepare": ["prepare", str(pictures), "--task", "binary"],
        "train": ["train", "--backbone", "efficientnet-lite0", "--variant", "base", "--views", "1", "--epochs", "3"],
        "extract-features": ["extract-features", "--backbone", "efficientnet-lite0", "--split", "train"],
        "fit-svm": ["fit-svm", "--features", "efficientnet-lite0-train-1", "--kernel", "linear"],
        "evaluate": ["evaluate", "efficientnet-lite0-base-1", "--resamples", "20"],
    }.items():
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(machine, "granted_cores", lambda: 1)
            code = run([*arguments, "--workspace", str(root), "--json", "--device", "cpu"])
        assert code == 0, err.getvalue()
        documents[name] = json.loads(out.getvalue())
    return Trained(root=root, run=documents["train"]["run"], pictures=pictures, documents=documents)


@pytest.fixture
def spoilt(trained: Trained, tmp_path: Path) -> Trained:
    """Give a copy of the trained workspace that a test may spoil."""
    root = tmp_path / "spoilt"
    shutil.copytree(trained.root, root)
    return Trained(root=root, run=trained.run, pictures=trained.pictures, documents=trained.documents)


@pytest.fixture
def prepared(trained: Trained, tmp_path: Path) -> Path:
    """Give a workspace of its own with the manifest alone."""
    root = tmp_path / "prepared"
    root.mkdir()
    shutil.copy(trained.root / "workspace.json", root)
    shutil.copytree(trained.root / "manifest", root / "manifest")
    return root


@pytest.fixture(scope="session")
def _folded(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folded") / "ws"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(["prepare", str(pictures), "--task", "binary", "--folds", "2", "--workspace", str(root)])
    assert code == 0, err.getvalue()
    return root


@pytest.fixture
def folded(_folded: Path, tmp_path: Path) -> Path:
    """Give a workspace of its own with a manifest of two folds and nothing else."""
    return shutil.copytree(_folded, tmp_path / "folded")


@pytest.fixture
def process() -> Callable[..., subprocess.Popen[bytes]]:
    """Start `leuk` as a process of its own, with pipes for its three streams."""

    def start(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(SAMPLES.parent), **more.pop("env", {})}
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        words = [sys.executable, "-m", "leukemia_cli", *map(os.fspath, map(_text, arguments))]
        with _one_core():
            return subprocess.Popen(words, env=environment, **{**pipes, **more})

    return start


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Grant what is started meanwhile one core only, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    granted = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(granted)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, granted)


def _text(argument: object) -> Any:
    return argument if isinstance(argument, (str, bytes, os.PathLike)) else str(argument)
