"""The page says what report.json says, in order, for every schema, and leaves nothing out silently."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from drawn_reports import HOSTILE, drawn_picture, drawn_report

from leukemia_cli.judging.curves import reliability
from leukemia_cli.judging.evaluation import judge, judge_abstention, judge_label_sets, trace
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting.caveats import RESEARCH_USE
from leukemia_cli.reporting.checklists import CLAIM, TRIPOD_AI
from leukemia_cli.reporting.evaluation import Evidence, Mistake, Rates, ReportContext, as_report
from leukemia_cli.reporting.evaluation_page import report_page
from leukemia_cli.reporting.evaluation_source import Heatmap
from leukemia_cli.reporting.html import NOT_IN_REPORT, escaped

FIVE = ("ALL", "AML", "CLL", "CML", "HTL")
SECTIONS = [
    *("Figures", "Classes", "Discrimination", "Calibration", "Abstention", "Label sets", "Candidates", "Training"),
    *("Most confident mistakes", "What the model was made from", "Model card"),
]


class Outline(HTMLParser):
    """Headings of the second level, text under each, and the numbers that are shown."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: dict[str, str] = {"": ""}
        self.data: dict[str, str] = {}
        self.figures = 0
        self._heading: str | None = None
        self._skip = 0
        self.feed(markup.partition("<body>")[2])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "h2":
            self._heading = ""
        if tag == "data" and given.get("data-key"):
            self.data[str(given["data-key"])] = str(given["value"])
        self._skip += tag in ("title", "desc")
        self.figures += tag == "figcaption"

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2" and self._heading is not None:
            self.parts[self._heading] = ""
            self._heading = None
        self._skip -= tag in ("title", "desc")

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading += data
        elif not self._skip:
            self.parts[list(self.parts)[-1]] += data


def outline(report: dict[str, Any], **shown: Any) -> Outline:
    return Outline(report_page(report, **{"thumbnails": {}, **shown}))


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Name every number of a report by its path."""
    if isinstance(value, dict):
        return {key: text for name, inner in value.items() for key, text in flat(inner, f"{prefix}{name}.").items()}
    if isinstance(value, list):
        return {key: text for i, inner in enumerate(value) for key, text in flat(inner, f"{prefix}{i}.").items()}
    return {prefix.removesuffix("."): "" if value is None else repr(value)}


@pytest.mark.parametrize(
    "drawn",
    [
        {},
        {"classes": FIVE, "n": 120, "groups": 8, "folds": 5},
        {"classes": FIVE[:3], "whole_class_count": 5, "n": 300, "groups": 45, "svm": True},
        {"external": "ALL-IDB1", "n": 108, "groups": 30, "noise": 2.2},
        {"keys": "first", "groups_source": "none"},
        {"keys": "bare"},
        {"classes": HOSTILE, "n": 300, "paths": HOSTILE, "run": HOSTILE[0]},
    ],
    ids=["two", "folds", "svm", "external", "first", "bare", "hostile"],
)
def test_every_number_shown_is_the_one_in_the_report(drawn: dict[str, Any]) -> None:
    report = drawn_report(**drawn)
    shown = outline(report)
    # Names are compared as they are shown: what no page can hold is U+FFFD there.
    known = {unescape(escaped(key)): value for key, value in flat(report).items()}
    for key, value in shown.data.items():
        path = key if key.startswith(("per_class", "label_sets.sizes", "mistakes")) or key in known else f"{key}.value"
        if key.startswith("calibration.after") and path not in known:
            path = path.replace("calibration.after", "metrics")
        assert known[path] == value, key
    assert {f"metrics.{name}" for name in report["metrics"]} <= set(shown.data)
    assert list(shown.parts)[-len(SECTIONS) :] == SECTIONS


def test_a_figure_of_every_kind_is_shown() -> None:
    keys = set(outline(drawn_report()).data)
    assert keys >= {
        *("metrics.balanced_accuracy", "metrics.auroc", "per_class.ALL.recall", "per_class.HTL.support"),
        *("calibration.before.ece", "calibration.after.log_loss", "abstention.accuracy_at_80", "abstention.novel"),
        *("label_sets.coverage", "label_sets.sizes.1", "label_sets.mean_size", "mistakes.0.confidence"),
    }


def test_the_finding_comes_first_with_interval_protocol_and_counts() -> None:
    report = drawn_report()
    figure = report["metrics"]["balanced_accuracy"]
    head = " ".join(outline(report).parts[""].split())
    assert (
        f"Balanced accuracy was {figure['value']:.3f} (95 % interval {figure['low']:.3f} to {figure['high']:.3f}; "
        "800 images, 60 groups) on the held-out test split."
    ) in head
    pooled = " ".join(outline(drawn_report(classes=FIVE, n=120, groups=8, folds=5)).parts[""].split())
    assert "(no interval: class ALL has 2 groups, fewer than 5; 120 images, 8 groups)" in pooled
    assert "pooled out-of-fold predictions of 5 folds" in pooled


def test_outside_the_drop_is_the_headline() -> None:
    report = drawn_report(external="ALL-IDB1", n=108, groups=30, noise=2.2)
    shown = outline(report)
    change = report["drop"]["difference"]
    head = " ".join(shown.parts[""].split())
    assert f"Balanced accuracy fell by {-change['value']:.3f} (95 % interval of the difference −" in head
    assert "from the internal test, 0.941 (95 % interval 0.921 to 0.962; 800 images, 60 groups)" in head
    assert "on the external data set ALL-IDB1" in head
    assert list(shown.parts).index("Internal test and external data") < list(shown.parts).index("Figures")
    report["drop"]["difference"] |= {"value": 0.02, "low": None, "high": None, "method": "no interval: drawn"}
    assert "rose by 0.020 (no interval: drawn; 108 images, 30 groups)" in " ".join(outline(report).parts[""].split())


def test_research_use_is_said_once_and_warnings_come_before_figures() -> None:
    report = drawn_report(groups_source="none", keys="bare")
    report["warnings"] = ["RANDOM WEIGHTS: nothing was pretrained", "something else"]
    text = report_page(report, thumbnails={})
    assert text.count(RESEARCH_USE) == 1
    parts = list(Outline(text).parts)
    assert parts.index("Warnings") < parts.index("Figures")
    assert "RANDOM WEIGHTS: nothing was pretrained." in Outline(text).parts["Warnings"]
    assert "Something else." in Outline(text).parts["Warnings"]


@pytest.mark.parametrize("keys", ["first", "bare"])
def test_what_is_absent_is_said(keys: Any) -> None:
    parts = outline(drawn_report(keys=keys)).parts
    for name in ("Discrimination", "Candidates", "Training", "Most confident mistakes"):
        assert parts[name].strip() == NOT_IN_REPORT, name
    assert "reliability diagram is not in this report" in parts["Calibration"]
    assert "not in this report" in parts["What the model was made from"]
    assert re.search(r"not measur", parts["Abstention"])


def test_any_later_key_may_be_missing() -> None:
    report = drawn_report(external="ALL-IDB1", n=60, groups=20)
    later = ("label_sets", "choices", "history", "mistakes", "drop", "model", "abstention", "calibration", "facts")
    assert "Figures" in outline({key: value for key, value in report.items() if key != "curves"}).parts
    report["curves"] = {}  # the slow part
    for key in (*later, "bootstrap", "tune", "weights", "backbone", "manifest", "created", "leuk_version"):
        assert "Figures" in outline({k: v for k, v in report.items() if k != key}).parts
    for key in report["model"]:
        partial = {k: v for k, v in report["model"].items() if k != key}
        assert "Figures" in outline({**report, "model": partial}).parts


def test_every_caption_and_table_of_figures_has_images_and_groups() -> None:
    text = report_page(drawn_report(), thumbnails={})
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, flags=re.S)
    assert len(captions) == 6
    assert all(re.search(r"n\s=\s\d+ images, \d+ groups\.$", caption) for caption in captions)
    drawings = re.findall(r"<svg .*?</svg>", text, flags=re.S)
    assert len(drawings) >= 12
    assert all(re.search(r">n = \d+ images, \d+ groups<", drawing) for drawing in drawings)
    for head in re.findall(r"<thead>(.*?)</thead>", text, flags=re.S):
        # A row of the checklist has no figure, and one of the mistakes is one image of one group.
        if ">Item<" not in head and ">Image<" not in head:
            assert re.search(r"images</th>.*groups</th>", head, flags=re.I), head
    assert [int(n) for n in re.findall(r"<b>Figure (\d+)\.</b>", text)] == list(range(1, 7))


def test_groups_that_are_unknown_are_nowhere_counted() -> None:
    parts = outline(drawn_report(groups_source="none")).parts
    # "of 12 groups" is text of the run itself, in what was fitted or scored on.
    assert not any(re.search(r"(?<!of 1)(?<!of 2)\d groups", text) for text in parts.values())
    assert "groups unknown" in parts[""]


def test_the_kept_candidate_is_the_one_the_rule_keeps() -> None:
    report = drawn_report(svm=True)
    for trial in report["choices"][0]["trials"]:
        trial |= {"balanced_accuracy": 0.8, "log_loss": 0.4}
    report["choices"][0]["trials"][4]["log_loss"] = 0.3
    text = report_page(report, thumbnails={})
    (row,) = re.findall(r'<tr class="kept">((?:(?!</tr>).)*kept(?:(?!</tr>).)*)</tr>', text)
    assert "0.300" in row
    report["choices"][0]["trials"] = report["choices"][0]["trials"][:1]
    assert "There was nothing to choose from." in outline(report).parts["Candidates"]


def test_candidates_are_drawn_over_what_they_differ_in() -> None:
    heads = report_page(drawn_report(), thumbnails={})
    svms = report_page(drawn_report(svm=True), thumbnails={})
    for title in ("Score by width of the first hidden layer", "Score by dropout rate"):
        assert title in heads and title not in svms
    assert "scored on val, 90 images of 20 groups" in heads
    assert "support vector machine is fitted in one go" in svms
    assert "Score by C<" in svms and "Score by C<" not in heads
    assert "Score by number of features" in heads and "Score by number of features" in svms


def test_mistakes_are_pictures_or_a_list() -> None:
    report = drawn_report()
    first = report["mistakes"][0]
    listed = report_page(report, thumbnails={})
    assert "<img" not in listed
    assert first["path"] in listed
    shown = report_page(report, thumbnails={first["path"]: drawn_picture(0)})
    assert shown.count("<img") == 1
    assert shown.count("No picture.") == len(report["mistakes"]) - 1
    with pytest.raises(ValueError, match="not a picture as data"):
        report_page(report, thumbnails={first["path"]: "https://example.org/a.png"})


def test_heat_maps_come_with_their_faithfulness() -> None:
    report = drawn_report()
    assert "Heat maps" not in outline(report).parts
    heat = Heatmap(path="a.png", label="ALL", predicted="HTL", picture=drawn_picture(1), overlay=drawn_picture(2))
    assert "a.png" in outline(report, heatmaps=[heat]).parts["Heat maps"]
    faith = {
        "deletion": 0.31,
        "insertion": 0.74,
        "random_deletion": 0.52,
        "random_insertion": 0.53,
        "images": 24,
        "groups": 9,
    }
    report["heatmaps"] = {"faithfulness": faith}
    said = outline(report).parts["Heat maps"]
    assert all(text in said for text in ("0.310", "0.740", "0.520", "0.530", "24", "9"))


def test_the_page_is_the_same_each_time_and_small() -> None:
    report = drawn_report(classes=FIVE, n=2000, groups=150, folds=5)
    shown = {m["path"]: drawn_picture(i, 160) for i, m in enumerate(report["mistakes"])}
    one, other = (report_page(report, thumbnails=shown) for _ in range(2))
    assert one == other
    assert len(one.encode()) < 3_000_000


def test_what_is_really_measured_is_shown(
    draw_predictions: Callable[..., Predictions], describe: Callable[..., ReportContext]
) -> None:
    predictions = draw_predictions(n=90)
    uncertain = predictions.probabilities.max(axis=1) < 0.5
    evidence = Evidence(
        before=judge(predictions, resamples=20).metrics,
        reliability_before=reliability(predictions),
        curves=trace(predictions, resamples=20),
        abstention=judge_abstention(predictions, novel=np.zeros(90, bool), uncertain=uncertain, resamples=20),
        rates=Rates(
            least_confidence=(0.5,),
            novelty_threshold=(3.0,),
            risk=0.05,
            false_alarm=0.05,
            fitted_on="calib",
            notes=("a note",),
        ),
        label_sets=judge_label_sets(predictions, predictions.probabilities > 0.2, equal_groups=True, resamples=20),
        alpha=0.1,
        per="group",
        label_sets_say="What the sets promise.",
        mistakes=(Mistake(path="a.png", group="g", label="ALL", predicted="AML", confidence=0.9),),
    )
    report = as_report(judge(predictions, resamples=20), describe(), evidence)
    shown = outline(json.loads(json.dumps(report)))
    assert shown.figures == 4
    assert shown.data["abstention.uncertain"] == str(int(uncertain.sum()))
    assert shown.data["label_sets.coverage"] == repr(report["label_sets"]["coverage"]["value"])
    assert "A note." in shown.parts["Abstention"]
    assert "What the sets promise." in shown.parts["Label sets"]


# ---------------------------------------------------------------------------------- checklists


@pytest.mark.parametrize(
    ("checklist", "whole", "parts"), [(TRIPOD_AI, 27, 52), (CLAIM, 44, 44)], ids=["tripod", "claim"]
)
def test_checklists_have_the_items_of_the_guideline(checklist: Any, whole: int, parts: int) -> None:
    numbers = [item.number for item in checklist.items]
    assert len(set(numbers)) == len(numbers) == parts
    assert [int(n) for n in dict.fromkeys(n.rstrip("abcdefg") for n in numbers)] == list(range(1, whole + 1))


def test_checklists_say_what_is_known_and_mark_the_rest() -> None:
    full, bare = (outline(drawn_report(keys=keys)).parts["Model card"] for keys in ("all", "bare"))
    answered = [[int(n) for n in re.findall(r"(\d+) of (?:52|44) items answered", text)] for text in (full, bare)]
    assert all(more > less > 0 for more, less in zip(*answered, strict=True))
    assert full.count("not reported") - 1 == 52 + 44 - sum(answered[0])
    assert "Manifest 0123456789abcdef" in full
    assert "External" not in bare
