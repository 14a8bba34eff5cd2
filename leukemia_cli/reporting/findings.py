"""Findings of `leuk classify` as rows: the same columns in JSONL, JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leukemia_cli.csv_rows import Scalar, csv_cells

Row = dict[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found for one input: `label` is the best guess, `scores` (C,) the probabilities in the order of `classes`.

    With `decision` "error" there is no label and `error` says why; with "abstain" `reason` does. `label_set` is None where
    no rate of errors can be promised (in a row its classes are joined by `|`), `novelty` and its threshold where the run
    cannot tell it; what is said of cells where the run is not on cells, or the image shows a single one.
    """

    path: str
    classes: tuple[str, ...]
    label: str | None
    decision: Literal["label", "abstain", "error"]
    reason: Literal["novel", "uncertain", "few_cells"] | None = None
    confidence: float | None
    scores: tuple[float, ...] | None
    label_set: tuple[str, ...] | None = None
    novelty: float | None = None
    novelty_threshold: float | None = None
    unit: str
    run: str
    engine: str
    precision: str
    error: str | None
    novel_kind: Literal["like-a-smear", "unlike-a-smear"] | None = None
    """Of a novel image: whether its colours are those of a stained smear, of another laboratory maybe."""
    cells: int | None = None
    """How many white cells were found in a field or a slide."""
    cells_by_class: tuple[int, ...] | None = None
    """How many of them were called each class (C,)."""
    blast_fraction: tuple[float, float, float] | None = None
    """Share of the cells called a leukaemia class, and its 95 % interval as a sample of the smear's cells."""
    tiles: str | None = None
    """Of a slide: how many tiles were usable, and how many were passed over for what."""

    def as_row(self) -> Row:
        """Give the documented columns in order."""
        scores = self.scores or (None,) * len(self.classes)
        by_class = self.cells_by_class or (None,) * len(self.classes)
        blasts = self.blast_fraction or (None,) * 3
        return {
            "path": self.path,
            "label": self.label,
            "decision": self.decision,
            "reason": self.reason,
            "confidence": self.confidence,
            **{f"score_{name}": score for name, score in zip(self.classes, scores, strict=True)},
            "label_set": None if self.label_set is None else "|".join(self.label_set),
            "novelty": self.novelty,
            "novelty_threshold": self.novelty_threshold,
            "unit": self.unit,
            "cells": self.cells,
            "run": self.run,
            "engine": self.engine,
            "precision": self.precision,
            "error": self.error,
            "novel_kind": self.novel_kind,
            **{f"cells_{name}": count for name, count in zip(self.classes, by_class, strict=True)},
            **dict(zip(("blast_fraction", "blast_low", "blast_high"), blasts, strict=True)),
            "tiles": self.tiles,
        }


def columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Give the columns of every format, in order."""
    blank = Finding(
        path="", classes=classes, label=None, decision="error", confidence=None, scores=None, unit="", run="", engine="",
        precision="", error=None,
    )  # fmt: skip
    return tuple(blank.as_row())


def kinds(classes: Sequence[str]) -> dict[str, type[str] | type[float] | type[int]]:
    """Give what a cell of each column holds where it holds anything, in order."""
    numbers = {"confidence", "novelty", "novelty_threshold", "blast_fraction", "blast_low", "blast_high"}
    numbers |= {f"score_{name}" for name in classes}
    counts = {"cells", *(f"cells_{name}" for name in classes)}
    return {name: float if name in numbers else int if name in counts else str for name in columns(tuple(classes))}


def json_line(row: Mapping[str, Scalar]) -> str:
    """Give one JSON object, ASCII, without a line end."""
    return json.dumps(row, allow_nan=False)


def row_of_csv(line: str, kinds: Mapping[str, type[Any]]) -> Row:
    """Read a row back from a line of CSV; an empty cell is None. Raises ValueError where it has other columns or kinds."""
    cells = csv_cells(line)
    return {name: None if cell == "" else kind(cell) for (name, kind), cell in zip(kinds.items(), cells, strict=True)}


def row_of_json(line: str | bytes, kinds: Mapping[str, type[Any]]) -> Row:
    """Read a row back from a line of JSON; raises ValueError where it has other columns or kinds."""
    row = json.loads(line)
    if not isinstance(row, dict) or tuple(row) != tuple(kinds):
        raise ValueError("not the columns of a finding")
    for cell, kind in zip(row.values(), kinds.values(), strict=True):
        if cell is not None and not isinstance(cell, (float, int) if kind is float else kind):
            raise ValueError(f"{cell!r} is no {kind.__name__}")
    return row
