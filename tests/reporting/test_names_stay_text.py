"""On no page does a name become markup: whatever a class, a run, a path, a group or a source is called."""

from __future__ import annotations

from collections.abc import Callable, Collection
from html.parser import HTMLParser
from typing import Any

import pytest
from drawn_comparisons import drawn as drawn_comparison
from drawn_reports import drawn_picture, drawn_report

from leukemia_cli.reporting.audit_page import audit_page
from leukemia_cli.reporting.comparison_page import comparison_page
from leukemia_cli.reporting.evaluation_page import report_page
from leukemia_cli.reporting.evaluation_source import Heatmap

# The end is what is left of it where a path is cut to the name of its file.
HOSTILE = "<script>alert(1)</script>\"' onload='alert(1)&lt;b&gt;\u202e</title></svg></style>--><img src=x onerror=alert(1)><!--"
# What these hold chooses between words of the program; a name that a user gives never gets there.
CHOSEN_FROM = ("groups_source", "headline_metric", "metric", "severity", "verdict", "tune")


class Seen(HTMLParser):
    """The kinds of tags of a page with their attributes, and all its text."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.kinds: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds |= {(tag, name) for name, _ in attrs} | {(tag, "")}

    def handle_comment(self, data: str) -> None:
        self.kinds.add(("comment", data))

    def handle_data(self, data: str) -> None:
        self.text += data


def renamed(value: Any, names: Collection[str], key: str = "") -> Any:
    """Put the hostile text behind every string, and behind each key that is one of the names."""
    if isinstance(value, str):
        return value if key in CHOSEN_FROM else value + HOSTILE
    if isinstance(value, dict):
        return {k + HOSTILE if k in names else k: renamed(inner, names, k) for k, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names, key) for inner in value]
    return value


def evaluation() -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    report = drawn_report(external="ALL-IDB1", n=108, groups=30, noise=2.2)
    report |= {
        "facts": {"batch": "8", "laboratory": "one"},
        "warnings": ["few groups"],
        "subset": "2 of five classes",
        "heatmaps": {"images": []},
    }
    report["abstention"] |= {"notes": ["a note"]}
    report["model"] |= {"remedies_titles": ["marks painted over"]}
    report["drop"] |= {"classes": ["ALL"]}

    def page(given: dict[str, Any]) -> str:
        path = given["mistakes"][0]["path"]
        label = given["confusion"]["classes"][0]
        heat = Heatmap(path=path, label=label, predicted=label, picture=drawn_picture(1), overlay=drawn_picture(2))
        return report_page(given, thumbnails={path: drawn_picture(0)}, heatmaps=[heat])

    return report, page


def evaluation_without_pictures() -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    report = drawn_report(classes=("ALL", "AML", "HTL"), folds=3, n=120, groups=12, svm=True)
    report |= {"folds": None, "external": "ALL-IDB1"}
    for key in ("abstention", "label_sets"):
        report[key] |= {"measured": False, "reason": "no calibration images"}
    return report, lambda given: report_page(given, thumbnails={})


def evaluation_without_a_figure() -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    report = drawn_report(n=20, groups=10, keys="bare", external="ALL-IDB1")
    report["metrics"]["balanced_accuracy"] |= {"value": None, "low": None, "high": None, "method": "undefined"}
    return report, lambda given: report_page(given, thumbnails={})


def comparison() -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    document: Any = drawn_comparison(
        ("senet", "resnext"), ("base", "svm", "hidden"), warnings=["a warning"], subset="2 of five"
    )
    document["rows"][0]["random_weights"] = True
    return document, comparison_page


def audit() -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    paths = ["lab/ALL/1.png", "lab/HTL/2.png"]
    probe = {
        "name": "size", "about": "width and height", "balanced_accuracy": 0.9, "null": {"mean": 0.5, "p95": 0.6}, "p": 0.01,
        "p_holm": 0.02, "verdict": "accused", "images": 20, "groups": 4, "groups_per_class": {"ALL": 2, "HTL": 2},
        "method": "drawn",
    }  # fmt: skip
    document: dict[str, Any] = {
        "leuk_version": "0.1.0", "created": "today", "seed": 0, "classes": ["ALL", "HTL"], "images": 20, "groups": 4,
        "groups_source": "given", "groups_per_class": {"ALL": 2, "HTL": 2}, "images_per_class": {"ALL": 10, "HTL": 10},
        "counts": [
            {"class": "ALL", "source": "lab", "size": "9×9", "format": "PNG", "images": 10, "groups": 2},
            {"class": "HTL", "source": "lab", "size": "9×9", "format": "PNG", "images": 10, "groups": 2},
        ],
        "duplicates": {"copies": [paths], "near": [{"first": paths[0], "second": paths[1], "kind": "whole"}]},
        "probes": [probe, {**probe, "name": "source", "verdict": "possible"}],
        "least_effect": 0.1,
        "findings": [
            {
                "code": "few-groups", "severity": "warning", "title": "few groups", "detail": "patient 7 alone",
                "images": {"count": 30, "first": paths}, "what_to_do": "add some",
            }
        ],
    }  # fmt: skip
    return document, lambda given: audit_page(given, {given["findings"][0]["images"]["first"][0]: drawn_picture(0)})


@pytest.mark.parametrize(
    "made", [evaluation, evaluation_without_pictures, evaluation_without_a_figure, comparison, audit]
)
def test_no_name_becomes_markup_on_any_page(made: Callable[[], tuple[dict[str, Any], Callable[[Any], str]]]) -> None:
    document, page = made()
    plain, hostile = Seen(page(document)), Seen(page(renamed(document, ("ALL", "AML", "HTL", "batch"))))
    assert hostile.kinds - plain.kinds <= {("title", "")}, "a name became a tag or an attribute"
    assert "\u202e" not in hostile.text
    shown = HOSTILE.replace("\u202e", "\ufffd")
    for name in ("ALL", document.get("run") or document.get("id") or "lab"):
        assert name + shown in hostile.text
