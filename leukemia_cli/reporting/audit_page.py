"""The audit of a data set as a page, which shows what its document holds and nothing else.

Pictures are handed in, or there are none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leukemia_cli.domain import counted
from leukemia_cli.reporting.audit import known_groups
from leukemia_cli.reporting.audit_findings import FIRST_IMAGES, file_name
from leukemia_cli.reporting.caveats import RESEARCH_USE
from leukemia_cli.reporting.html import (
    Column,
    Markup,
    Section,
    datum,
    definitions,
    details,
    escaped,
    figure,
    gallery,
    heads,
    items,
    joined,
    named,
    page,
    paragraph,
    picture,
    sentence,
    subsection,
    table,
)
from leukemia_cli.reporting.pictures import MARGIN_PX, WIDTH_PX, Drawing, heading, shortened
from leukemia_cli.reporting.wording import begun, counts, group_count, made_by, number, p_value

PICTURES = 4
"""Of each finding, how many images are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """How what a probe came to is said in a chart, said in a table, and drawn."""

    said: str
    short: str
    shape: str
    hollow: bool


_VERDICTS = {
    "accused": _Verdict(said="tells the class", short="tells it", shape="circle", hollow=False),
    "possible": _Verdict(said="possibly tells it", short="possibly", shape="diamond", hollow=False),
    "clear": _Verdict(said="not found to tell it", short="not found", shape="circle", hollow=True),
    "untestable": _Verdict(said="could not be tested", short="untested", shape="cross", hollow=True),
}


def audit_pictures(document: Mapping[str, Any]) -> list[str]:
    """Give the paths of the images that the page has room for: the first few of each finding."""
    return list(dict.fromkeys(path for one in document["findings"] for path in one["images"]["first"][:PICTURES]))


def audit_page(document: Mapping[str, Any], thumbnails: Mapping[str, str] | None = None) -> str:
    """Give the page of an audit; `thumbnails` are data URIs by path, None where pictures are not to be shown.

    Raises ValueError for a picture that is not a data URI.
    """
    sections = (
        ("findings", "Findings", _findings_body(document, thumbnails or {})),
        ("probes", "What tells the class", _probes_body(document)),
        ("images", "Images", _images_body(document)),
        ("copies", "Copies", _copies_body(document)),
        ("method", "How this was done", _method_body(document)),
    )
    return page(
        title=f"Audit of {counted(document['images'], 'image')}",
        over="Data set",
        lead=_lead(document),
        sections=[Section(anchor=anchor, title=title, body=body) for anchor, title, body in sections],
        footer=paragraph(escaped(made_by(document))),
    )


def _lead(document: Mapping[str, Any]) -> Markup:
    by_verdict: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for probe in document["probes"]:
        by_verdict[probe["verdict"]].append(probe)
    worst = max(by_verdict["accused"] or by_verdict["possible"], key=lambda p: p["balanced_accuracy"], default=None)
    if worst is None:
        said = escaped("No probe was found to tell the class, which does not prove that nothing else does.")
    else:
        name, reached = escaped(worst["name"]), datum(worst["balanced_accuracy"], number(worst["balanced_accuracy"]))
        if worst["verdict"] == "accused":
            said = Markup(
                f"The class can be told without looking at a cell closely: from {name} alone with balanced accuracy "
                f"{reached}, where exchanged labels reach {number(worst['null']['p95'])}."
            )
        else:
            said = Markup(
                f"The class may be told from {name} alone: balanced accuracy {reached} on images not fitted on. There are "
                "too few groups to tell whether that would hold for another patient."
            )
    warnings = sum(one["severity"] == "warning" for one in document["findings"])
    what = f"{_of(document)}; {counted(warnings, 'warning')}, {counted(len(document['findings']) - warnings, 'note')}."
    return joined(
        [paragraph(said, kind="lead"), paragraph(escaped(what)), paragraph(escaped(RESEARCH_USE), kind="use")]
    )


def _of(document: Mapping[str, Any]) -> str:
    """Say how many images and groups were looked at."""
    return counts(document["images"], known_groups(document))


def _findings_body(document: Mapping[str, Any], small: Mapping[str, str]) -> Markup:
    if not document["findings"]:
        return paragraph(escaped("Nothing was found. That proves nothing about what was not looked for."), kind="pale")
    parts = []
    for one in document["findings"]:
        held = one["images"]
        body = [
            paragraph(sentence(one["detail"])),
            paragraph(Markup(f"<strong>What to do:</strong> {sentence(one['what_to_do'])}")),
        ]
        shown = [path for path in held["first"][:PICTURES] if path in small]
        if shown:
            pictures = (Markup(picture(small[path], alt=file_name(path)) + named(file_name(path))) for path in shown)
            body.append(gallery(pictures))
        if held["count"]:
            listed = joined([items([named(path) for path in held["first"]]), _more(held["count"] - len(held["first"]))])
            body.append(details(counted(held["count"], "image"), listed))
        word = "Warning" if one["severity"] == "warning" else "Note"
        parts.append(subsection(f"{word}: {begun(one['title'])}", joined(body)))
    return joined(parts)


def _probes_body(document: Mapping[str, Any]) -> Markup:
    known, of = known_groups(document), _of(document)
    drawn = figure(
        probes_chart(document["probes"], chance=1 / len(document["classes"]), of=of),
        number=1,
        caption=escaped(
            "Balanced accuracy of each probe on images it was not fitted on. The band is what exchanged labels reach: from "
            "their mean to the value that one of twenty is above."
        ),
        of=of,
    )
    columns = [
        *heads("Probe", "Balanced accuracy", "Exchanged, mean", "95th percentile", "p", "p, Holm"),
        Column(title="Verdict", numeric=False),
    ]
    rows = []
    for probe in document["probes"]:
        null = probe["null"] or {"mean": None, "p95": None}
        told = (number(null["mean"]), number(null["p95"]), p_value(probe["p"]), p_value(probe["p_holm"]))
        reached = datum(probe["balanced_accuracy"], number(probe["balanced_accuracy"]), key=f"probe.{probe['name']}")
        verdict = escaped(_VERDICTS[probe["verdict"]].short)
        rows.append((escaped(probe["name"]), reached, *map(escaped, told), verdict))
    methods = items(
        escaped(f"{probe['name']}: {probe['about']}; {probe['method']}; {counts(probe['images'], known)}.")
        for probe in document["probes"]
    )
    tested = details("What each looks at, and how it was tested", methods)
    return joined([drawn, table(columns, rows, caption=f"The probes; {of}."), tested])


def probes_chart(probed: Sequence[Mapping[str, Any]], *, chance: float, of: str) -> Markup:
    """Draw each probe's balanced accuracy against the band of exchanged labels, 0 to 1, as SVG 420 px wide."""
    drawing = Drawing()
    top = heading(drawing, "What tells the class", f"n = {of}") + 6
    left, right, each = MARGIN_PX + 4.0, WIDTH_PX - MARGIN_PX - 4.0, 46.0
    bottom = top + each * len(probed)

    def x(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    for place, probe in enumerate(probed):
        y = top + each * place
        verdict = _VERDICTS[probe["verdict"]]
        room = WIDTH_PX - 2 * MARGIN_PX - 215
        drawing.text(left, y + 16, shortened(probe["name"], room), full=probe["name"])
        told = f"{number(probe['balanced_accuracy'])}, {verdict.said}"
        drawing.text(right, y + 16, told, anchor="end", tone="pale")
        middle = y + 32
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            drawing.line(x(tick), middle - 8, x(tick), middle + 8)
        if probe["null"] is not None:
            low, high = x(probe["null"]["mean"]), x(probe["null"]["p95"])
            drawing.rect(low, middle - 6, max(high - low, 2.0), 12, tone="bar")
        drawing.line(x(chance), middle - 8, x(chance), middle + 8, tone="pale")
        if probe["balanced_accuracy"] is not None:
            tone = "s1" if probe["verdict"] == "accused" else "s0"
            drawing.mark(verdict.shape, x(probe["balanced_accuracy"]), middle, tone=tone, size=5, hollow=verdict.hollow)
    drawing.line(left, bottom, right, bottom, tone="ink")
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        drawing.text(x(tick), bottom + 17, f"{tick:g}", anchor=anchor, tone="pale")
    drawing.text(x(0.5), bottom + 35, f"balanced accuracy; chance is {number(chance)}", anchor="middle", tone="pale")
    words = " ".join(
        f"{probe['name']}: {number(probe['balanced_accuracy'])}, exchanged labels "
        f"{'not known' if probe['null'] is None else number(probe['null']['mean']) + ' to ' + number(probe['null']['p95'])}, "
        f"{_VERDICTS[probe['verdict']].said}."
        for probe in probed
    )
    return drawing.finished(
        height=math.ceil(bottom + 44), title="What tells the class", description=f"n = {of}. {words}"
    )


def _images_body(document: Mapping[str, Any]) -> Markup:
    known = document["groups_source"] != "none"
    per_class = table(
        heads("Class", "Images", "Groups"),
        [
            (
                named(kind),
                datum(document["images_per_class"][kind], str(document["images_per_class"][kind])),
                escaped(group_count(document["groups_per_class"][kind], known=known)),
            )
            for kind in document["classes"]
        ],
        caption=f"Images and groups of each class; {_of(document)}.",
    )
    crossed = table(
        heads("Class", "Source", "Size, px", "Format", "Images", "Groups", names=4),
        [
            (
                named(row["class"]),
                named(row["source"]),
                escaped(row["size"]),
                escaped(row["format"]),
                escaped(str(row["images"])),
                escaped(group_count(row["groups"], known=known)),
            )
            for row in document["counts"]
        ],
        caption=f"Images by class, source, size and format; {_of(document)}.",
    )
    return joined([per_class, crossed])


def _copies_body(document: Mapping[str, Any]) -> Markup:
    copies, near = document["duplicates"]["copies"], document["duplicates"]["near"]
    if not copies and not near:
        return paragraph(escaped("No copies and no near-copies were found."))
    parts = []
    if copies:
        sets = items(joined(map(named, paths), " = ") for paths in copies[:FIRST_IMAGES])
        parts.append(
            subsection(
                f"Exact copies: {counted(len(copies), 'set')}", joined([sets, _more(len(copies) - FIRST_IMAGES)])
            )
        )
    if near:
        pairs = items(
            Markup(f"{named(one['first'])} ~ {named(one['second'])} ({escaped(one['kind'])})")
            for one in near[:FIRST_IMAGES]
        )
        parts.append(
            subsection(f"Near-copies: {counted(len(near), 'pair')}", joined([pairs, _more(len(near) - FIRST_IMAGES)]))
        )
    return joined(parts)


def _more(left: int) -> Markup:
    """Say how many are not listed, nothing where all are."""
    return paragraph(escaped(f"and {left:,} more."), kind="pale") if left > 0 else Markup("")


def _method_body(document: Mapping[str, Any]) -> Markup:
    pairs: Iterable[tuple[str, str]] = (
        ("A probe", "Fisher's linear discriminant with equal priors, fitted on some folds of whole groups and judged on the "
         "others, on nothing but what the probe looks at."),
        ("Exchanged labels", "The labels of whole groups are exchanged, together with their fold, and the probe is fitted "
         "again: many images of one patient are one piece of evidence."),
        ("Tells the class", f"p below 0.05 after Holm over all probes, and at least {document['least_effect']:.0%} of the way "
         "from what exchanged labels reach in one of twenty to certainty."),
        ("Possibly tells it", "The same between images, where groups are too few for any test between them: it proves "
         "nothing about another patient, and clears nothing."),
        ("Mislabelled", "Images that a model of colours and cell counts, fitted on other groups, calls another class with "
         "more certainty than that class's own. Some of them will be right after all."),
        ("Marks and counts", "Scale bars, pointers and dark bodies are found by simple "
         "rules on a shrunk image. They err on single images."),
        ("Not looked for", "Anything else that can tell the class: focus, density of the film, the order of capture."),
        ("Seed", str(document["seed"])),
    )  # fmt: skip
    return definitions((term, escaped(what)) for term, what in pairs)
