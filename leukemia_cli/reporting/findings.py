"""Findings of `leuk classify` as rows: the same columns in JSONL, JSON and CSV."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Scalar = str | float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found for one input: `label` is the best guess, `scores` (C,) the probabilities in the order of `classes`.

    With `decision` "error" there is no label and `error` says why. `reason`, `label_set`, `novelty` and `cells` are empty
    until abstention, novelty and cells are measured.
    """

    path: str
    classes: tuple[str, ...]
    label: str | None
    decision: Literal["label", "abstain", "error"]
    confidence: float | None
    scores: tuple[float, ...] | None
    unit: str
    run: str
    engine: str
    precision: str
    error: str | None

    def as_row(self) -> dict[str, Scalar]:
        """Give the documented columns in order."""
        scores = self.scores or (None,) * len(self.classes)
        return {
            "path": self.path,
            "label": self.label,
            "decision": self.decision,
            "reason": None,
            "confidence": self.confidence,
            **{f"score_{name}": score for name, score in zip(self.classes, scores, strict=True)},
            "label_set": None,
            "novelty": None,
            "novelty_threshold": None,
            "unit": self.unit,
            "cells": None,
            "run": self.run,
            "engine": self.engine,
            "precision": self.precision,
            "error": self.error,
        }


def columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Give the columns of every format, in order."""
    blank = Finding(
        path="", classes=classes, label=None, decision="error", confidence=None, scores=None, unit="", run="", engine="",
        precision="", error=None,
    )  # fmt: skip
    return tuple(blank.as_row())


def csv_line(cells: tuple[Scalar, ...] | list[Scalar]) -> str:
    """Give one CSV line with its end; None is an empty cell."""
    return ",".join(_cell("" if cell is None else str(cell)) for cell in cells) + "\n"


def _cell(text: str) -> str:
    """Quote a cell that needs it; csv.writer before Python 3.13 leaves a lone carriage return as it is."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def json_line(row: dict[str, Scalar]) -> str:
    """Give one JSON object, ASCII, without a line end."""
    return json.dumps(row, allow_nan=False)
