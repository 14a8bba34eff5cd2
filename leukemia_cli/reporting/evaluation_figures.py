"""The sections of an evaluation's page that say what was measured: figures, classes, curves, calibration, abstention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukemia_cli.judging.curves import Bin
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting.evaluation import CALIBRATION_METRICS
from leukemia_cli.reporting.evaluation_source import ABSENT, HEADLINE, Source
from leukemia_cli.reporting.evaluation_words import LEVEL_METRICS, calibration_words, cell_words
from leukemia_cli.reporting.figures import Series, confusion_svg, line_chart, reliability_diagram
from leukemia_cli.reporting.html import (
    Markup,
    datum,
    definitions,
    details,
    escaped,
    heads,
    joined,
    named,
    panels,
    paragraph,
    sentence,
    table,
)
from leukemia_cli.reporting.scales import Axis, share_axis
from leukemia_cli.reporting.wording import metric_title, number

# ---------------------------------------------------------------------------------- figures and classes


def metrics(source: Source) -> Markup:
    """Give every figure of the report, and what each metric says."""
    estimates = source.report["metrics"]
    meanings = [(METRICS[name].title, escaped(METRICS[name].says)) for name in estimates if name in METRICS]
    shown = source.estimates(
        [(metric_title(name), f"metrics.{name}", estimate) for name, estimate in estimates.items()],
        first="Metric",
        caption=f"Figures of {source.of}",
        prefix="metric-note",
        kept=f"metrics.{HEADLINE}",
    )
    return joined([shown, details("What each metric says", definitions(meanings))])


def levels(source: Source) -> Markup:
    """Show the figures of cells, photographs and patients beside what the number of cells alone would say."""
    cells = source.report["cells"]
    parts = [paragraph(sentence(line)) for line in cell_words(cells, source.images)]
    for name, level in cells["levels"].items():
        rows = [
            (metric_title(metric), f"cells.levels.{name}.metrics.{metric}", level["metrics"][metric])
            for metric in LEVEL_METRICS
        ]
        parts.append(paragraph(sentence(f"{name}: {level['says']}")))
        caption = f"Level: {name}; images counts what is judged there"
        parts.append(source.estimates(rows, caption=caption, prefix=f"level-{name.replace(' ', '-')}-note"))
    return joined(parts)


def classes(source: Source) -> Markup:
    """Give the figures of each class against the rest, and which was taken for which."""
    report, positive = source.report, source.report.get("positive")
    groups = report.get("groups_per_class") or {}
    rows = [
        (
            Markup(named(name) + (" (positive)" if name == positive else "")),
            *(
                datum(row.get(metric), number(row.get(metric)), key=f"per_class.{name}.{metric}")
                for metric in ("precision", "recall", "f1", "auroc")
            ),
            datum(row["support"], str(row["support"]), key=f"per_class.{name}.support"),
            source.group_cell(groups.get(name)),
        )
        for name, row in report["per_class"].items()
    ]
    columns = heads("Class", "Precision", "Recall", "F1", "AUROC", "Images", "Groups")
    confusion = report["confusion"]
    drawn = source.figure(
        confusion_svg(confusion["classes"], confusion["matrix"], groups=source.groups),
        "Confusion matrix: counts of images and their share of the true class. Rows are true classes, columns "
        "predicted ones; the stronger its colour, the greater a cell's share of its row.",
        beside=True,
    )
    return joined([table(columns, rows, caption=f"Figures of each class against the rest, {source.of}"), drawn])


# ---------------------------------------------------------------------------------- curves


def _series(curve: Mapping[str, Any]) -> list[Series]:
    return [Series(name="", x=curve["x"], y=curve["y"], low=curve.get("low"), high=curve.get("high"))]


def _band_words(source: Source, curves: Sequence[Mapping[str, Any]]) -> str:
    """Say what the bands are, or why there are none."""
    if any(curve.get("low") is not None for curve in curves):
        return f"Bands are pointwise {source.level} intervals from drawing whole groups again."
    reasons = list(dict.fromkeys(str(curve["method"]) for curve in curves if curve.get("method")))
    return f"Without bands: {'; '.join(reasons)}." if reasons else "Without bands."


def discrimination(source: Source) -> Markup:
    """Draw both curves of each class."""
    roc, recall = source.curves.get("roc") or {}, source.curves.get("precision_recall") or {}
    drawn: list[Markup] = []
    for name in dict.fromkeys([*roc, *recall]):
        row = source.report["per_class"].get(name) or {}
        if name in roc:
            drawn.append(
                line_chart(
                    _series(roc[name]),
                    title=f"{name}: ROC, area {number(row.get('auroc'))}",
                    x=share_axis("false-positive rate"),
                    y=share_axis("true-positive rate"),
                    images=source.images,
                    groups=source.groups,
                    diagonal=True,
                )
            )
        if name in recall:
            drawn.append(
                line_chart(
                    _series(recall[name]),
                    title=f"{name}: precision and recall",
                    x=share_axis("recall"),
                    y=share_axis("precision"),
                    images=source.images,
                    groups=source.groups,
                    level=row["support"] / source.images if "support" in row else None,
                )
            )
    if not drawn:
        return ABSENT
    band = _band_words(source, [*roc.values(), *recall.values()])
    return source.figure(
        panels(drawn),
        f"Receiver operating characteristic and precision against recall of each class against the rest. {band} "
        "Dashed: chance.",
    )


def calibration(source: Source) -> Markup:
    """Give what calibration changed, and the share that was right against the confidence."""
    calibration = source.report.get("calibration")
    if not calibration:
        return ABSENT
    # The first schema had plain numbers here, of which the table of figures says the same with intervals.
    rows = [
        (f"{metric_title(name)}, {when} calibration", f"calibration.{when}.{name}", estimates.get(name))
        for name in CALIBRATION_METRICS
        for when in ("before", "after")
        if (estimates := calibration.get(when) or (source.report["metrics"] if when == "after" else None))
    ]
    return joined(
        [
            paragraph(escaped(f"{calibration_words(calibration)}.")),
            source.estimates(rows, first="Metric", caption=f"Calibration on {source.of}", prefix="calibration-note"),
            _reliability(source),
        ]
    )


def _reliability(source: Source) -> Markup:
    bins = source.curves.get("reliability") or {}
    drawn = [
        reliability_diagram(
            [
                Bin(
                    low=b["low"], high=b["high"], images=b["images"], confidence=b["confidence"], accuracy=b["accuracy"]
                )
                for b in bins[when]
            ],
            title=f"{when.capitalize()} calibration",
            images=source.images,
            groups=source.groups,
            place=place,
        )
        for place, when in enumerate(("before", "after"))
        if bins.get(when)
    ]
    if not drawn:
        return paragraph(escaped("The reliability diagram is not in this report."), kind="pale")
    return source.figure(
        panels(drawn),
        "Reliability: the share of images that were right against their confidence, in bins of confidence; below, how "
        "many images each bin holds. On the dashed line confidence is what it says; stems show the distance from it.",
    )


# ---------------------------------------------------------------------------------- abstention and label sets


def abstention(source: Source) -> Markup:
    """Give what was left unanswered, what that is worth, and the limits behind it."""
    abstention = source.report.get("abstention")
    parts = [_risk_coverage(source)]
    if not abstention:
        return joined([*parts, ABSENT])
    if abstention.get("measured"):
        parts.append(_decisions(source, abstention))
    else:
        parts.append(paragraph(escaped(f"Abstention: {abstention.get('reason') or 'not measured'}.")))
    rows = [
        (title, f"abstention.{key}", abstention.get(key))
        for key, title in (
            ("coverage", "Share answered"),
            ("accuracy_answered", "Accuracy of the answered"),
            ("accuracy_at_80", "Accuracy of the 80 % most confident"),
        )
    ]
    if any(estimate for _, _, estimate in rows):
        parts.append(source.estimates(rows, caption=f"Abstention, {source.of}", prefix="abstention-note"))
    limits = [
        ("Least confidence", _listed(abstention.get("least_confidence"))),
        ("Novelty threshold", _listed(abstention.get("novelty_threshold"))),
        ("Error allowed among the answered", _listed(abstention.get("risk"))),
        ("False alarms of novelty allowed", _listed(abstention.get("false_alarm"))),
        ("Fitted on", abstention.get("fitted_on")),
    ]
    known = [(term, escaped(value)) for term, value in limits if value]
    parts += [definitions(known)] if known else []
    parts += [paragraph(sentence(note)) for note in abstention.get("notes") or ()]
    return joined(parts)


def _risk_coverage(source: Source) -> Markup:
    curve = source.curves.get("risk_coverage")
    if not curve:
        return Markup("")
    drawn = line_chart(
        _series(curve),
        title="Error among the answered",
        x=share_axis("share of images answered"),
        y=Axis(title="share that was wrong", low=0),
        images=source.images,
        groups=source.groups,
    )
    caption = (
        "Risk against coverage: the share of wrong answers if only the most confident images were answered. At the "
        f"right every image is answered. {_band_words(source, [curve])}"
    )
    return source.figure(drawn, caption, beside=True)


def _decisions(source: Source, abstention: Mapping[str, Any]) -> Markup:
    rows = [
        (
            escaped(title),
            datum(abstention[key], str(abstention[key]), key=f"abstention.{key}"),
            escaped(f"{100 * abstention[key] / source.images:.1f} %"),
            escaped(str(source.images)),
            source.group_cell(source.groups),
        )
        for key, title in (
            ("answered", "Answered"),
            *([("few_cells", "Too few cells")] if abstention.get("few_cells") else []),
            ("novel", "Unlike the training images"),
            ("uncertain", "Too uncertain"),
        )
    ]
    columns = heads("Decision", "Images", "Share", "Of images", "Of groups")
    return table(columns, rows, caption=f"What was answered and what was not, {source.of}")


def _listed(value: object) -> str | None:
    """Give numbers, one of them or many, to four digits; equal ones once."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    return ", ".join(dict.fromkeys(f"{one:.4g}" for one in numbers if one is not None))


def label_sets(source: Source) -> Markup:
    """Give how often label sets hold the true class, and how large they are."""
    sets = source.report.get("label_sets")
    if not sets:
        return ABSENT
    if not sets.get("measured"):
        return paragraph(escaped(f"Label sets: {sets.get('reason') or 'not measured'}."))
    aim = f"Aim: the true label lies in the set of at least {100 * (1 - sets['alpha']):g} % of {sets['per']}s."
    sizes = [
        (
            escaped(size),
            datum(held, str(held), key=f"label_sets.sizes.{size}"),
            escaped(str(source.images)),
            source.group_cell(source.groups),
        )
        for size, held in sets["sizes"].items()
    ]
    mean = datum(sets["mean_size"], number(sets["mean_size"]), key="label_sets.mean_size")
    return joined(
        [
            paragraph(escaped(sets.get("says") or aim)),
            source.estimates(
                [("Coverage", "label_sets.coverage", sets["coverage"])],
                caption=f"Label sets, {source.of}",
                prefix="sets-note",
            ),
            paragraph(Markup(f"Mean number of labels in a set: {mean} (n = {escaped(source.of)}).")),
            table(
                heads("Labels in the set", "Images", "Of images", "Of groups"),
                sizes,
                caption="How many images have a set of each size",
            ),
        ]
    )
