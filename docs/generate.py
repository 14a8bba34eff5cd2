"""Write docs/reference from the program itself, or with --check exit 1 where a page is stale.

The pages are the help of every command and the tables that flags, help and tests read. Nothing else may write them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
MARK = "<!-- Written by docs/generate.py: change the program, then run `make docs`. -->"


def pages() -> dict[str, str]:
    """Give the content of each generated page by its file name."""
    return {
        "catalog.md": catalog(),
        "commands.md": commands(),
        "exit-codes.md": exit_codes(),
        "metrics.md": metrics(),
    }


# ------------------------------------------------------------------------------------------------------- commands


def help_of(arguments: Sequence[str]) -> str:
    """Give what `leuk ARGUMENTS --help` prints, 100 columns wide and without colours."""
    from leukemia_cli.cli.app import app

    kept = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR", "LEUK_WORKSPACE")}
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    os.environ.pop("LEUK_WORKSPACE", None)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            app(args=[*arguments, "--help"], prog_name="leuk", standalone_mode=False)
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def command_names() -> list[str]:
    """Give the commands in the order of the program."""
    import typer

    from leukemia_cli.cli.app import app

    group = typer.main.get_command(app)
    return list(group.commands)


def commands() -> str:
    """Give the help of every command."""
    blocks = ["# Commands", "What `leuk --help` and `leuk COMMAND --help` print.", _shell(help_of([]))]
    for name in command_names():
        blocks += [f"## leuk {name}", _shell(help_of([name]))]
    return _page(blocks)


def _shell(text: str) -> str:
    return f"```text\n{text}\n```"


# -------------------------------------------------------------------------------------------------------- tables


def catalog() -> str:
    """Give the tables of tasks, backbones, variants, selectors, layouts and image files."""
    from leukemia_cli.catalog import BACKBONES, GRIDS, IMAGE_SUFFIXES, TASKS, VARIANTS, candidates
    from leukemia_cli.data.layouts import LAYOUTS
    from leukemia_cli.learning.selectors import SELECTORS

    tasks = []
    for task in TASKS.values():
        for kind in task.classes:
            names = ", ".join(alias for alias, meant in task.aliases.items() if meant == kind)
            positive = " (positive)" if kind == task.positive else ""
            tasks.append((f"`{task.name}`", f"{kind}{positive}", names))
    backbones = [
        (
            f"`{b.name}`",
            f"`{b.timm_name}`",
            str(b.input_size_px),
            str(b.least_input_px),
            str(b.feature_width),
            _numbers(b.mean),
            _numbers(b.std),
            b.interpolation,
            ", ".join(f"`{part}`" for part in b.last_stage),
            "yes" if b.in_paper else "no",
            b.licence,
            b.source,
            f"package `{b.packaged.distribution}`, extra `{b.packaged.extra}`" if b.packaged else "Hugging Face Hub",
            f"`{b.weights_sha256[:16]}…`" if b.weights_sha256 else "not held yet",
        )
        for b in BACKBONES.values()
    ]
    blocks = [
        "# Catalogue",
        "The tables that flags, help and tests read.",
        "## Tasks",
        "`--task`. A folder or label is of a class by the class's own name or one of these; capitals, `-`, `_` and "
        "spaces make no difference.",
        _table(("Task", "Class", "Other names"), tasks),
        "## Backbones",
        "`--backbone`. Any other network of timm goes by `timm:NAME`, with the input that timm says it expects.",
        _table(
            (
                "Name", "timm name", "Input, px", "Least input, px", "Features", "Mean", "Std", "Interpolation",
                "Last stage", "In the paper", "Licence", "Source", "Weights from", "SHA-256",
            ),
            backbones,
        ),
        "## Variants",
        "`--variant`. The candidates are ours, and so is their choice: the paper publishes none. The best on validation "
        "is kept; the first is taken where groups are too few to choose. `leuk train` tries the full grid; `leuk compare` "
        "the quick one, or with `--grid full` the full one.",
    ]  # fmt: skip
    for v in VARIANTS.values():
        knobs = {
            "hidden": "`--feature-sizes`",
            "rates": "`--dropout-rates`",
            "selected": "`--select`, `--select-by`",
            "kernels": "`--kernel`",
        }
        flags = ", ".join(knobs[knob] for knob in v.knobs) or "none"
        grids = [candidates(v, grid) for grid in GRIDS]
        tried = [[c.title for c in (*grid.heads, *grid.svms)] for grid in grids]
        blocks += [
            f"### {v.name}",
            f"{v.title[0].upper()}{v.title[1:]}. In the paper: {v.paper}. Flags that change the candidates: {flags}.",
            _table(
                ("#", *(f"Candidate, {grid}" for grid in GRIDS)),
                [(str(i), *titles) for i, titles in enumerate(itertools.zip_longest(*tried, fillvalue="–"), start=1)],
            ),
        ]
    blocks += [
        "## Feature selectors",
        "`--select-by`, where only some features are kept: they are ranked by the images that a model is fitted to.",
        _table(("Name", "Ranks by", "Source"), [(f"`{s.name}`", s.title, s.source) for s in SELECTORS.values()]),
    ]
    blocks += [
        "## Layouts",
        "`--layout`. `auto` takes the one that a source is recognised as, and says why.",
        _table(
            ("Layout", "Looks like", "Labels that no task would know", "Origin"),
            [
                (
                    f"`{layout.name}`",
                    layout.looks_like,
                    ", ".join(f"{raw} = {kind}" for raw, kind in layout.meaning.items()) or "–",
                    layout.origin,
                )
                for layout in LAYOUTS.values()
            ],
        ),
        "## Image files",
        "Found in folders by these ends of their names; what they are is told by their content.",
        ", ".join(f"`{suffix}`" for suffix in IMAGE_SUFFIXES),
    ]
    return _page(blocks)


def exit_codes() -> str:
    """Give the closed list of exit codes."""
    from leukemia_cli import errors

    rows = [("0", "–", "Success.")]
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.LeukError) and kind is not errors.Interrupted:
            says = "A bug in leuk. `--debug` shows where." if kind is errors.LeukError else str(kind.__doc__)
            rows.append((str(kind.exit_code), f"`{kind.__name__}`", says))
    rows += [
        ("130", f"`{errors.Interrupted.__name__}`", "Stopped by Ctrl-C."),
        (
            "143",
            f"`{errors.Interrupted.__name__}`",
            "Stopped by SIGTERM or SIGUSR1, after a checkpoint where training can go on.",
        ),
    ]
    return _page(
        [
            "# Exit codes",
            "A closed list. An error is two lines on stderr: `error:` with what is wrong, `hint:` with what to do. With "
            '`--json` it is also the one document on stdout: `{"error": {"problem", "hint", "exit_code"}}`.',
            _table(("Code", "Exception in Python", "Meaning"), rows),
            "`leuk evaluate --min` and `--max` set thresholds. The report is written before they are held against it.",
        ]
    )


def metrics() -> str:
    """Give the table of metrics."""
    from leukemia_cli.judging.intervals import FEWEST_GROUPS, MOST_UNDEFINED
    from leukemia_cli.judging.metrics import METRICS

    rows = [
        (
            f"`{m.name}`",
            m.title,
            "greater" if m.greater_is_better else "smaller",
            f"{m.least:g} to {'∞' if m.most == float('inf') else f'{m.most:g}'}",
            m.says,
        )
        for m in METRICS.values()
    ]
    return _page(
        [
            "# Metrics",
            "Every metric counts every image. A class without images has no figure (null), never zero.",
            _table(("Key", "Name", "Better", "Range", "What it says"), rows),
            "## Intervals",
            f"95 %, from a bootstrap that draws whole groups with replacement within their class, and Student's t on the "
            f"log-odds: [how, and how often they hold](../explanation/statistics.md). There is none, with the reason in "
            f"`method`, where a class has fewer than {FEWEST_GROUPS} groups, or where the figure is undefined in more than "
            f"{100 * MOST_UNDEFINED:g} % of the draws. Where groups are not known, images are drawn, or the exact binomial "
            "interval is given, and it is called optimistic.",
        ]
    )


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join([MARK, *blocks]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or check them; give the exit code."""
    stale = []
    for name, text in pages().items():
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            REFERENCE.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"stale: docs/reference/{', docs/reference/'.join(stale)}\nrun: make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the pages are of this checkout, installed or not
    sys.exit(main(sys.argv[1:]))
