"""What answers at once loads nothing heavy: counted in modules, not in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ["torch", "torchvision", "timm", "sklearn", "scipy", "numpy", "PIL"]
COMMANDS = (
    "prepare", "train", "extract-features", "fit-svm", "evaluate", "classify", "cells", "report", "compare", "runs",
    "doctor", "sample-images", "merge", "export", "weights",
)  # fmt: skip

WATCHED = """
import contextlib, io, json, sys
from leukemia_cli.cli.app import run
seen = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    steps = sorted(n.rpartition(".")[2] for n in sys.modules if n.startswith("leukemia_cli.steps."))
    seen.append({"arguments": arguments, "code": code, "heavy": heavy, "steps": steps, "err": err.getvalue()})
print(json.dumps(seen))
"""


def watch(cases: list[list[str]], folder: Path) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(cases), json.dumps(HEAVY)],
        env={"PYTHONPATH": str(Path(__file__).parents[2])}, cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    seen: list[dict[str, object]] = json.loads(done.stdout)
    assert len(seen) == len(cases)
    return seen


def test_help_and_small_refusals_load_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "empty-ws").mkdir()
    (tmp_path / "empty-ws" / "workspace.json").write_text('{"schema_version": 1}')
    there = ["--workspace", "empty-ws"]
    helps = [["--help"], ["--version"], [], *([command, "--help"] for command in COMMANDS)]
    no_workspace = [
        ["train"],
        ["evaluate"],
        ["extract-features"],
        ["fit-svm"],
        ["classify", "x.png"],
        ["runs"],
        ["report"],
        ["compare"],
    ]
    no_manifest = [[command, *there] for command in ("train", "evaluate", "extract-features", "fit-svm")]
    no_run = [["classify", "x.png", *there], ["classify", "x.png", "--run", "nope", *there]]
    unknown = [
        ["train", "--backbone", "senett"], ["train", "--variant", "dropuot"], ["train", "--bakbone", "senet"],
        ["train", "--backbone", "senett", *there], ["extract-features", "--backbone", "senett"],
        ["fit-svm", "--backbone", "senett"], ["train", "--feature-sizes", "a"], ["train", "--name", "a/b"], ["trian"],
    ]  # fmt: skip
    groups = (
        (helps, {0, 2}), (no_workspace, {4}), (no_manifest, {4}), (no_run, {4}), (unknown, {2}), ([["runs", *there]], {0})
    )  # fmt: skip
    for cases, codes in groups:
        for seen in watch(cases, tmp_path):
            assert seen["heavy"] == [], seen
            assert seen["code"] in codes, seen
            assert set(seen["steps"]) <= {"runs"}, seen


def test_import_of_the_package_loads_none_of_its_rooms() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import sys, leukemia_cli; print(*sorted(m for m in sys.modules))"],
        env={"PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not set(HEAVY) & set(listed)
    assert [name for name in listed if name.startswith("leukemia_cli")] == ["leukemia_cli"]
    assert not {"typer", "rich", "yaml"} & set(listed)


def test_the_list_of_commands_here_is_whole() -> None:
    from leukemia_cli.cli.app import app

    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert names == set(COMMANDS)


def test_the_watcher_sees_what_is_loaded(tmp_path: Path) -> None:
    """A check that cannot fail shows nothing: prepare does load what opens images."""
    seen = watch([["prepare", "nowhere", "--task", "binary"]], tmp_path)
    assert seen[0]["code"] == 3
    assert seen[0]["heavy"] == ["scipy", "numpy", "PIL"]
