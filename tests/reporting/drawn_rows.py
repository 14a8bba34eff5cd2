"""Rows that no network made, with paths that are hard to write down, and a process that writes them and may be stopped."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from leukemia_cli.reporting.findings import Finding, Row
from leukemia_cli.reporting.outputs import Terms, open_rows

CLASSES = ("ALL", "HTL")
TERMS = Terms(
    leuk="1.0", form="csv", run="r-1", run_fingerprint="abc", classes=CLASSES, engine="torch", precision="fp32",
    abstain=True, input_unit=None, max_megapixels=200.0, shard=None,
)  # fmt: skip
ODD = ["=cmd", "'-x", 'say "a", b', "two\nlines", "cr\rhere", os.fsdecode(b"caf\xe9"), "日本", "a b.png"]


def paths_of(count: int) -> list[str]:
    return [f"{i}-{ODD[i % len(ODD)]}" if i % 3 else ODD[i % len(ODD)] + str(i) for i in range(count)]


def row_of(path: str, place: int) -> Row:
    dice = random.Random(place)
    score = dice.random()
    if place % 7 == 3:
        return Finding(
            path=path, classes=CLASSES, label=None, decision="error", confidence=None, scores=None, unit="image", run="r-1",
            engine="torch", precision="fp32", error=f"cannot read {path}, really",
        ).as_row()  # fmt: skip
    return Finding(
        path=path, classes=CLASSES, label="ALL", decision="label", confidence=score, scores=(score, 1 - score),
        label_set=("ALL", "HTL"), novelty=dice.gauss(0, 1e-7), unit="field", run="r-1", engine="torch", precision="fp32",
        error=None, cells=place, cells_by_class=(place, 0), blast_fraction=(0.5, 0.25, 1.0),
    ).as_row()  # fmt: skip


class Stop(BaseException):
    """Stands for a signal: no `except Exception` holds it."""


def write(
    output: Path,
    paths: Sequence[str],
    terms: Terms = TERMS,
    *,
    resume: bool = False,
    stop: int | None = None,
    group: int = 4,
    note: Callable[[str], None] = lambda line: None,
) -> int:
    """Write rows as `classify` does; give how many were made. `stop` interrupts after so many rows in all."""
    inputs = iter(paths)
    made = 0
    with open_rows(output, terms, paths=inputs, group=group, resume=resume, note=note) as rows:
        for path in inputs:
            if rows.rows == stop:
                raise Stop
            rows.add(row_of(path, rows.rows))
            made += 1
        rows.seal(inputs=len(paths), inputs_sha256="f" * 64)
    return made
