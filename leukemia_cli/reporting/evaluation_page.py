"""One evaluation as a page to read: the whole of report.json as sentences, tables and figures, for the supplement of a paper.

A report of an older schema is shown as far as it goes: a section whose keys are absent says so. No figure stands without its
images and groups, and every figure is shown through `datum`, so that the page can be checked against its report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukemia_cli.reporting.caveats import RESEARCH_USE
from leukemia_cli.reporting.evaluation_figures import (
    abstention,
    calibration,
    classes,
    discrimination,
    label_sets,
    levels,
    metrics,
)
from leukemia_cli.reporting.evaluation_finding import drop_table, finding
from leukemia_cli.reporting.evaluation_pictures import heat_maps, mistakes
from leukemia_cli.reporting.evaluation_source import Heatmap, Source
from leukemia_cli.reporting.evaluation_training import candidates, training
from leukemia_cli.reporting.html import Markup, Section, escaped, joined, named, page, paragraph, warnings_block
from leukemia_cli.reporting.model_card import card, origin
from leukemia_cli.reporting.wording import made_by

_SECTIONS = (
    ("drop", "Internal test and external data", drop_table),
    ("metrics", "Figures", metrics),
    ("levels", "Cells, photographs, patients", levels),
    ("classes", "Classes", classes),
    ("discrimination", "Discrimination", discrimination),
    ("calibration", "Calibration", calibration),
    ("abstention", "Abstention", abstention),
    ("label-sets", "Label sets", label_sets),
    ("candidates", "Candidates", candidates),
    ("training", "Training", training),
    ("mistakes", "Most confident mistakes", mistakes),
    ("heat-maps", "Heat maps", heat_maps),
    ("origin", "What the model was made from", origin),
    ("card", "Model card", card),
)


def report_page(report: Mapping[str, Any], *, thumbnails: Mapping[str, str], heatmaps: Sequence[Heatmap] = ()) -> str:
    """Give the page of a report.json; `thumbnails` are data URIs by path, none where pictures are not to be shown.

    Raises ValueError for a picture that is not a data URI.
    """
    source = Source(report=report, thumbnails=thumbnails, heatmaps=heatmaps)
    # What is no part of most evaluations is left out where it is absent; all else is said to be absent.
    left_out = {
        "drop": not report.get("drop"),
        "levels": not report.get("cells"),
        "heat-maps": not (heatmaps or report.get("heatmaps")),
    }
    return page(
        title=f"Evaluation of {report['run']}",
        over="External evaluation" if report.get("external") else "Evaluation",
        lead=_lead(source),
        sections=[
            Section(anchor=anchor, title=title, body=body(source))
            for anchor, title, body in _SECTIONS
            if not left_out.get(anchor)
        ],
        footer=paragraph(escaped(made_by(report))),
    )


def _lead(source: Source) -> Markup:
    report = source.report
    about = f"Task {report.get('task', '')}"
    if report.get("subset"):
        about += f", {report['subset']}"
    names = joined(map(named, report["confusion"]["classes"]), ", ")
    model = (
        f"{report.get('backbone')}, variant {report.get('variant')}" if report.get("backbone") else "not in this report"
    )
    return joined(
        [
            paragraph(finding(source), kind="lead"),
            paragraph(Markup(f"{escaped(about)}: {names}. Model: {named(model)}.")),
            paragraph(escaped(RESEARCH_USE), kind="use"),
            warnings_block(report.get("warnings") or ()),
        ]
    )
