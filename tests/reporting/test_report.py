from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from leukemia_cli.judging.evaluation import Evaluation, judge
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting.caveats import RESEARCH_USE, is_random, subset_of
from leukemia_cli.reporting.evaluation import Report, ReportContext, as_report
from leukemia_cli.reporting.evaluation_text import as_markdown, predictions_csv

Draw = Callable[..., Predictions]
Describe = Callable[..., ReportContext]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "three of five": ({}, {}),
    "two classes": ({"classes": ("ALL", "HTL")}, {"classes": ("ALL", "HTL"), "whole_class_count": 2, "task": "binary"}),
    "a class absent": ({"present": (0, 2)}, {}),
    "one class": ({"present": (1,)}, {}),
    "few groups": ({"groups_per_class": 2}, {}),
    "groups unknown": (
        {"groups_source": "none"},
        {"weights": "none", "folds": 5, "temperatures": (1.2, 1.5), "fitted_on": None},
    ),
    "one image": ({"n": 1}, {"external": "ALL-IDB1", "fitted_on": None, "facts": {"batch size": 8, "note": None}}),
}


@pytest.fixture(params=CASES)
def report(request: pytest.FixtureRequest, draw_predictions: Draw, describe: Describe) -> Report:
    drawn, described = CASES[request.param]
    return as_report(judge(draw_predictions(**drawn), resamples=60), describe(**described))


@pytest.fixture
def evaluation(draw_predictions: Draw) -> Evaluation:
    return judge(draw_predictions(), resamples=60)


# ---------------------------------------------------------------------------------- report.json


def test_report_is_strict_json_and_comes_back_equal(report: Report) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_report_has_the_keys_others_rely_on(report: Report) -> None:
    assert set(report) >= {
        *("run", "task", "split", "external", "images", "groups", "groups_source", "metrics", "per_class"),
        *("confusion", "calibration", "abstention", "warnings"),
        *("schema_version", "backbone", "variant", "weights", "tune", "folds", "test_looks", "subset"),
        *("leuk_version", "seed", "created", "manifest"),
    }
    assert list(report["metrics"]) == list(METRICS)
    for figure in report["metrics"].values():
        assert set(figure) == {"value", "low", "high", "n", "groups", "method", "freedom"}
        assert (figure["n"], figure["groups"]) == (report["images"], report["groups"])
        assert (figure["low"] is None) == (figure["high"] is None)
        assert figure["method"]
    for row in report["per_class"].values():
        assert set(row) == {"precision", "recall", "f1", "auroc", "support"}
    assert set(report["calibration"]) == {
        *("temperature", "temperatures", "fitted_on", "ece", "brier", "log_loss", "before", "after")
    }
    assert set(report["confusion"]) == {"classes", "matrix"}
    assert list(report["per_class"]) == report["confusion"]["classes"]
    assert sum(map(sum, report["confusion"]["matrix"])) == report["images"]


def test_an_absent_class_is_null_never_zero(draw_predictions: Draw, describe: Describe) -> None:
    report = as_report(judge(draw_predictions(present=(0, 2)), resamples=60), describe())
    assert report["per_class"]["AML"] == {"precision": None, "recall": None, "f1": None, "auroc": None, "support": 0}
    assert any("class AML has no images" in warning for warning in report["warnings"])


def test_beyond_two_classes_sensitivity_is_null(evaluation: Evaluation, describe: Describe) -> None:
    assert as_report(evaluation, describe())["metrics"]["sensitivity"]["value"] is None


def test_a_subset_is_shown_as_one(evaluation: Evaluation, describe: Describe) -> None:
    report = as_report(evaluation, describe())
    assert report["subset"] == "3 of five classes"
    assert "3 of five classes" in as_markdown(report)
    assert any(warning.startswith("3 of five classes (ALL, AML, HTL)") for warning in report["warnings"])
    whole = as_report(evaluation, describe(whole_class_count=3))
    assert whole["subset"] is None
    assert subset_of("ab", 12) == "2 of 12 classes"


@pytest.mark.parametrize(
    ("weights", "random"),
    [("none", True), ("None (random)", True), ("senet154.gluon_in1k", False), ("nonesuch.safetensors", False)],
)
def test_random_weights_are_shouted(evaluation: Evaluation, describe: Describe, weights: str, random: bool) -> None:
    assert is_random(weights) is random
    report = as_report(evaluation, describe(weights=weights))
    assert report["warnings"][0].startswith("RANDOM WEIGHTS") is random
    assert ("> - **RANDOM WEIGHTS" in as_markdown(report)) is random


def test_looks_and_choices_are_warned_of(evaluation: Evaluation, describe: Describe) -> None:
    assert not any("looked at" in warning for warning in as_report(evaluation, describe())["warnings"])
    assert any("4 times" in warning for warning in as_report(evaluation, describe(test_looks=4))["warnings"])
    assert any("choices" in warning for warning in as_report(evaluation, describe(split="val"))["warnings"])
    assert as_report(evaluation, describe(warnings=("beware",)))["warnings"][-1] == "beware"


@pytest.mark.parametrize(
    ("temperatures", "warned"), [((0.01,), True), ((1.2, 100.0), True), ((1.4,), False), ((), False)]
)
def test_a_temperature_at_its_bound_is_warned_of(
    evaluation: Evaluation, describe: Describe, temperatures: tuple[float, ...], warned: bool
) -> None:
    warnings = as_report(evaluation, describe(temperatures=temperatures))["warnings"]
    assert any("lies at its bound" in warning for warning in warnings) is warned


def test_what_does_not_fit_is_refused(evaluation: Evaluation, describe: Describe) -> None:
    with pytest.raises(ValueError, match="are not the task's"):
        as_report(evaluation, describe(classes=("ALL", "HTL", "AML")))
    with pytest.raises(ValueError, match="no subset of 2"):
        as_report(evaluation, describe(whole_class_count=2))
    with pytest.raises(ValueError, match=r"report\.calibration\.temperature is nan"):
        as_report(evaluation, describe(temperatures=(float("nan"),)))


# ---------------------------------------------------------------------------------- report.md


def test_every_figure_in_the_text_has_its_counts(report: Report) -> None:
    heads: list[str] = []
    for line in as_markdown(report).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            heads = []
            if re.search(r"\d\.\d{3}", line):
                assert re.search(r"\d+ images?(,| of)", line), line
        elif not heads:
            heads = cells
        elif "---" not in line:
            named = dict(zip(heads, cells, strict=True))
            assert named["Images"].isdigit(), line
            assert named["Groups"].isdigit() or named["Groups"] == "unknown", line


def test_text_says_every_metric_warning_and_the_use(report: Report) -> None:
    text = as_markdown(report)
    assert RESEARCH_USE in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    for name, figure in report["metrics"].items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {METRICS[name].title} |"))
        assert ("–" if figure["value"] is None else f"{figure['value']:.3f}") in row
    for warning in report["warnings"]:
        assert warning in text.replace("\\", "")
    if report["warnings"]:
        assert text.index("Warnings") < text.index("## Figures")
    for figure in report["metrics"].values():
        assert figure["method"] in text.replace("\\", "")


def test_text_is_the_same_from_a_stored_report(report: Report) -> None:
    assert as_markdown(json.loads(json.dumps(report))) == as_markdown(report)


def test_text_says_how_the_figures_came_about(draw_predictions: Draw, describe: Describe) -> None:
    evaluation = judge(draw_predictions(groups_source="none"), resamples=60)
    text = as_markdown(as_report(evaluation, describe(folds=5, test_looks=3, facts={"batch size": 8})))
    assert "out-of-fold predictions of 5 folds pooled" in text
    assert "looked at 3 times" in text
    assert "150 images, groups unknown" in text
    assert "Temperature 1.37, fitted on calib, 40 images of 12 groups" in text
    assert "batch size: 8" in text
    assert "95 % interval" in text
    assert "external data ALL-IDB1" in as_markdown(as_report(evaluation, describe(external="ALL-IDB1")))


def test_names_cannot_break_the_tables(draw_predictions: Draw, describe: Describe) -> None:
    classes = ("A|B", "<img src=x>", "a\nb *c* `d`")
    evaluation = judge(draw_predictions(classes=classes), resamples=60)
    text = as_markdown(as_report(evaluation, describe(classes=classes, whole_class_count=3, run="r|[x](y)")))
    assert "A\\|B" in text
    assert "<img" not in text.replace("\\<img", "")
    for line in text.splitlines():
        if line.startswith("| A"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (7, 8)


# ---------------------------------------------------------------------------------- predictions.csv


def test_predictions_come_back_from_the_csv(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=40)
    paths = [f"folder, one/image {i}.png" for i in range(40)]
    paths[1:4] = ['quo"te.png', "line\nbreak.png", "carriage\rreturn.png"]
    written = predictions_csv(paths, predictions, folds=[None, *range(39)])
    rows = list(csv.DictReader(io.StringIO(written.decode(), newline="")))
    assert list(rows[0]) == [
        *("path", "group", "fold", "label", "predicted", "correct"),
        *("score_ALL", "score_AML", "score_HTL"),
    ]
    assert [row["path"] for row in rows] == paths
    assert [row["fold"] for row in rows] == ["", *map(str, range(39))]
    assert tuple(row["group"] for row in rows) == predictions.groups
    for i, row in enumerate(rows):
        assert [float(row[f"score_{name}"]) for name in predictions.classes] == predictions.probabilities[i].tolist()
        assert row["label"] == predictions.classes[predictions.labels[i]]
        assert row["predicted"] == predictions.classes[predictions.predicted[i]]
        assert row["correct"] == str(int(row["label"] == row["predicted"]))


def test_file_names_that_are_not_utf8_come_out_as_their_bytes(draw_predictions: Draw) -> None:
    name = b"caf\xe9.png"
    written = predictions_csv([name.decode("utf-8", "surrogateescape")], draw_predictions(n=1))
    assert name in written


def test_groups_that_are_unknown_and_counts_that_differ(draw_predictions: Draw) -> None:
    written = predictions_csv(["a.png"], draw_predictions(n=1, groups_source="none")).decode()
    assert written.splitlines()[1].startswith("a.png,,,")
    with pytest.raises(ValueError, match="2 paths and 1 folds for 1 predictions"):
        predictions_csv(["a", "b"], draw_predictions(n=1))
