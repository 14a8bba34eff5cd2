"""Findings as rows: one set of columns, values that survive the trip through text."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.reporting.findings import Finding, columns, json_line, kinds, row_of_csv, row_of_json

CLASSES = ("ALL", "AML", "HTL")


def finding(**changed: Any) -> Finding:
    facts: dict[str, Any] = {
        "path": "a.png", "classes": CLASSES, "label": "AML", "decision": "label", "confidence": 0.5,
        "scores": (0.2, 0.5, 0.3), "unit": "image", "run": "senet-base-1", "engine": "torch", "precision": "fp32",
        "error": None,
    }  # fmt: skip
    return Finding(**{**facts, **changed})


def test_columns_are_those_of_the_contract_in_order() -> None:
    assert columns(CLASSES) == (
        "path", "label", "decision", "reason", "confidence", "score_ALL", "score_AML", "score_HTL", "label_set", "novelty",
        "novelty_threshold", "unit", "cells", "run", "engine", "precision", "error", "novel_kind",
        "cells_ALL", "cells_AML", "cells_HTL", "blast_fraction", "blast_low", "blast_high", "tiles",
    )  # fmt: skip
    assert tuple(finding().as_row()) == columns(CLASSES)


def test_an_error_has_the_same_columns_and_no_numbers() -> None:
    row = finding(label=None, decision="error", confidence=None, scores=None, error="it is empty").as_row()
    assert tuple(row) == columns(CLASSES)
    assert [row[f"score_{name}"] for name in CLASSES] == [None, None, None]
    assert csv_line(tuple(row.values())) == "a.png,,error,,,,,,,,,image,,senet-base-1,torch,fp32,it is empty,,,,,,,,\n"
    assert json.loads(json_line(row)) == row


names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name).map(os.fsdecode)
scores = st.floats(min_value=0, max_value=1)


@given(names, st.tuples(scores, scores, scores), names)
def test_any_name_and_score_survive_csv_and_json(path: str, values: tuple[float, float, float], error: str) -> None:
    row = finding(path=path, scores=values, confidence=max(values), error=error).as_row()
    line = csv_line(tuple(row.values())).encode(errors="surrogateescape")
    text = line.decode(errors="surrogateescape")
    assert text.endswith("\n")
    assert row_of_csv(text, kinds(CLASSES)) == row
    (shown,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert [float(cell) for cell in shown[5:8]] == list(values)
    assert row_of_json(json_line(row), kinds(CLASSES)) == row
    assert json.loads(json_line(row)) == row
    assert json_line(row).isascii()
    assert "\n" not in json_line(row)


def test_a_plain_line_needs_no_quotes() -> None:
    assert csv_line(["a b.png", 1, 0.25, None, "it's"]) == "a b.png,1,0.25,,it's\n"
    assert csv_line(['say "a"', "a,b", "a\rb", "a\nb"]) == '"say ""a""","a,b","a\rb","a\nb"\n'


@pytest.mark.parametrize(
    "line", ["", "a,b\n", ",".join("x" * len(columns(CLASSES))) + "\n", "[]", '{"path": 1}', '"', "{}"]
)
def test_what_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        row_of_csv(line, kinds(CLASSES))
    with pytest.raises(ValueError):
        row_of_json(line, kinds(CLASSES))


def test_a_cell_of_another_kind_is_refused() -> None:
    row = finding().as_row()
    for changed in ({"label": 1}, {"cells": 1.5}, {"confidence": "0.5"}, {"tiles": [1]}):
        with pytest.raises(ValueError):
            row_of_json(json.dumps({**row, **changed}), kinds(CLASSES))
    assert row_of_json(json.dumps({**row, "confidence": 1}), kinds(CLASSES))["confidence"] == 1
