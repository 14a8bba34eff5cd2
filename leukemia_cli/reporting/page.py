"""One evaluation as a page to read: the whole of report.json as sentences, tables and figures, for the supplement of a paper.

A report of an older schema is shown as far as it goes: a section whose keys are absent says so. No figure stands without its
images and groups, and every figure is shown through `datum`, so that the page can be checked against its report.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting.checklists import CLAIM, TRIPOD_AI, Checklist, Fact
from leukemia_cli.reporting.evaluation import LEVEL_METRICS, RESEARCH_USE, cell_words
from leukemia_cli.reporting.figures import (
    Axis,
    Bin,
    Candidate,
    Series,
    candidates_chart,
    line_chart,
    reliability_diagram,
)
from leukemia_cli.reporting.html import (
    NO_VALUE,
    NOT_IN_REPORT,
    Column,
    Footnotes,
    Markup,
    Section,
    counts,
    datum,
    definitions,
    details,
    escaped,
    estimate_cells,
    figure,
    gallery,
    interval,
    joined,
    named,
    number,
    page,
    panels,
    paragraph,
    picture,
    preformatted,
    sentence,
    signed,
    subsection,
    table,
    warnings_block,
)
from leukemia_cli.reporting.pictures import SHAPES, confusion_svg

HEADLINE = "balanced_accuracy"
_ABSENT = paragraph(escaped(NOT_IN_REPORT), kind="pale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """What the model looked at in one image; `picture` and `overlay` are data URIs."""

    path: str
    label: str
    predicted: str
    picture: str
    overlay: str


def report_page(report: Mapping[str, Any], *, thumbnails: Mapping[str, str], heatmaps: Sequence[Heatmap] = ()) -> str:
    """Give the page of a report.json; `thumbnails` are data URIs by path, none where pictures are not to be shown.

    Raises ValueError for a picture that is not a data URI.
    """
    source = _Source(report=report, numbers=itertools.count(1))
    sections = [
        *([_drop(source)] if report.get("drop") else []),
        _metrics(source),
        *([_levels(source)] if report.get("cells") else []),
        _classes(source),
        _discrimination(source),
        _calibration(source),
        _abstention(source),
        _label_sets(source),
        _candidates(source),
        _training(source),
        _mistakes(source, thumbnails),
        *([_heatmaps(source, heatmaps)] if heatmaps or report.get("heatmaps") else []),
        _origin(source),
        _card(source),
    ]
    version, created = report.get("leuk_version"), report.get("created")
    made = "Made by leuk" + (f" {version}" if version else "") + (f" at {created}" if created else "") + "."
    return page(
        title=f"Evaluation of {report['run']}",
        over="External evaluation" if report.get("external") else "Evaluation",
        lead=_lead(source),
        sections=sections,
        footer=paragraph(escaped(made)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A report with what every section asks of it; `numbers` are those of the figures, in order."""

    report: Mapping[str, Any]
    numbers: Iterator[int]

    @property
    def groups_known(self) -> bool:
        return bool(self.report.get("groups_source") != "none")

    def known(self, groups: int | None) -> int | None:
        """Give a number of groups, None where groups are unknown."""
        return groups if self.groups_known else None

    @property
    def images(self) -> int:
        return int(self.report["images"])

    @property
    def groups(self) -> int | None:
        return self.known(self.report["groups"])

    @property
    def of(self) -> str:
        """Say how many images and groups were judged."""
        return counts(self.images, self.groups)

    @property
    def trained_on(self) -> tuple[int | None, int | None]:
        """Give images and groups of the training data, None where not reported."""
        model = self.report.get("model") or {}
        source = model.get("groups_source", self.report.get("groups_source"))
        return model.get("training_images"), model.get("training_groups") if source != "none" else None

    @property
    def level(self) -> str:
        """Say the level of the intervals."""
        return f"{100 * (self.report.get('bootstrap') or {}).get('level', 0.95):g} %"

    @property
    def protocol(self) -> str:
        """Say which images were judged, and by which model."""
        if self.report.get("external"):
            return f"the external data set {self.report['external']}"
        if self.report.get("folds"):
            return f"pooled out-of-fold predictions of {self.report['folds']} folds"
        split = str(self.report.get("split"))
        return {"test": "the held-out test split", "val": "the validation split, on which choices were made"}.get(
            split, f"the split {split}"
        )

    def group_cell(self, groups: int | None) -> Markup:
        """Give a cell with a number of groups."""
        return escaped("unknown" if not self.groups_known else NO_VALUE if groups is None else str(groups))


def _metric_title(name: str) -> str:
    return METRICS[name].title if name in METRICS else name


# ---------------------------------------------------------------------------------- the finding


def _lead(source: _Source) -> Markup:
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
            paragraph(_finding(source), kind="lead"),
            paragraph(Markup(f"{escaped(about)}: {names}. Model: {named(model)}.")),
            paragraph(escaped(RESEARCH_USE), kind="use"),
            warnings_block(report.get("warnings") or ()),
        ]
    )


def _finding(source: _Source) -> Markup:
    report = source.report
    estimate = report["metrics"].get(HEADLINE)
    title = _metric_title(HEADLINE)
    drop = report.get("drop")
    if drop and drop["difference"]["value"] is not None:
        change, title = drop["difference"], _metric_title(drop["metric"])
        inside = replace(source, report={**report, "groups_source": drop.get("internal_groups_source", "given")})
        verb = "fell" if change["value"] < 0 else "rose" if change["value"] > 0 else "did not change"
        by = f" by <strong>{number(abs(change['value']))}</strong>" if change["value"] else ""
        return Markup(
            f"{escaped(title)}{_over(source, drop)} {verb}{by}{_within(source, change, 'of the difference', signs=True)} "
            f"from the internal test, {number(drop['internal']['value'])}{_within(inside, drop['internal'])}, to "
            f"{number(drop['external']['value'])}{_within(source, drop['external'])} on {named(source.protocol)}."
        )
    if estimate is None or estimate["value"] is None:
        return Markup(f"{escaped(title)} is undefined on {named(source.protocol)}: {escaped(source.of)}.")
    return Markup(
        f"{escaped(title)} was <strong>{number(estimate['value'])}</strong>{_within(source, estimate)} on "
        f"{named(source.protocol)}."
    )


def _whole(source: _Source, drop: Mapping[str, Any]) -> bool:
    """Tell whether a drop is of every class of the report."""
    return set(drop.get("classes") or source.report["confusion"]["classes"]) == set(
        source.report["confusion"]["classes"]
    )


def _over(source: _Source, drop: Mapping[str, Any]) -> Markup:
    """Say over which classes a drop is, where those are not all."""
    if _whole(source, drop):
        return escaped("")
    return joined([escaped(" over "), joined([named(name) for name in drop["classes"]], ", ")])


def _within(source: _Source, estimate: Mapping[str, Any], of: str = "", *, signs: bool = False) -> Markup:
    """Give interval and counts in brackets, or why there is no interval."""
    said = counts(estimate["n"], source.known(estimate["groups"]))
    if estimate["low"] is None:
        return escaped(f" ({estimate['method']}; {said})")
    low, high = estimate["low"], estimate["high"]
    ends = f"{signed(low)} to {signed(high)}" if signs else interval(low, high)
    return escaped(f" ({source.level} interval{' ' + of if of else ''} {ends}; {said})")


def _drop(source: _Source) -> Section:
    drop = source.report["drop"]
    title = _metric_title(drop["metric"])
    over = "" if _whole(source, drop) else f" over {', '.join(drop['classes'])}, the classes that both have"
    inside_unknown = drop.get("internal_groups_source") == "none"
    body = _estimates(
        source,
        [
            ("Internal test", "drop.internal", drop["internal"]),
            ("External data", "drop.external", drop["external"]),
            ("Difference, external minus internal", "drop.difference", drop["difference"]),
        ],
        first=title,
        caption=f"{title} inside and outside{over}",
        prefix="drop-note",
        kept="drop.difference",
        difference="drop.difference",
        unknown=("drop.internal", "drop.difference") if inside_unknown else (),
    )
    return Section(anchor="drop", title="Internal test and external data", body=body)


def _estimates(
    source: _Source,
    rows: Sequence[tuple[str, str, Mapping[str, Any] | None]],
    *,
    caption: str,
    prefix: str,
    first: str = "Figure",
    kept: str | None = None,
    difference: str | None = None,
    unknown: Collection[str] = (),
) -> Markup:
    """Give a table of (title, key, figure) with its notes; figures that are None are left out.

    `kept` is the key of a row to be set in bold, `difference` that of a row with signs, `unknown` has the keys of rows whose
    groups are unknown though those of the report are not.
    """
    notes = Footnotes(prefix=prefix)
    known = [(title, key, estimate) for title, key, estimate in rows if estimate is not None]
    told = any(estimate.get("freedom") is not None for _, _, estimate in known)
    columns = [
        Column(title=first, numeric=False),
        *(Column(title=title) for title in ("Value", f"{source.level} interval", "Images", "Groups")),
        *([Column(title="D.f.")] if told else []),
    ]
    cells = [
        (
            escaped(title),
            *estimate_cells(
                estimate,
                notes,
                key=key,
                groups_known=(source.groups_known or key == "drop.internal") and key not in unknown,
                difference=key == difference,
            ),
            *([escaped(_freedom(estimate))] if told else []),
        )
        for title, key, estimate in known
    ]
    bold = [place for place, (_, key, _) in enumerate(known) if key == kept]
    return joined([table(columns, cells, caption=caption, kept=bold), notes.listed()])


def _freedom(estimate: Mapping[str, Any]) -> str:
    """Give the degrees of freedom of an interval, which say from how many groups its width is known."""
    freedom = estimate.get("freedom")
    return "–" if freedom is None else f"{freedom:.1f}"


# ---------------------------------------------------------------------------------- figures and classes


def _metrics(source: _Source) -> Section:
    metrics = source.report["metrics"]
    meanings = [(METRICS[name].title, escaped(METRICS[name].says)) for name in metrics if name in METRICS]
    body = joined(
        [
            _estimates(
                source,
                [(_metric_title(name), f"metrics.{name}", estimate) for name, estimate in metrics.items()],
                first="Metric",
                caption=f"Figures of {source.of}",
                prefix="metric-note",
                kept=f"metrics.{HEADLINE}",
            ),
            details("What each metric says", definitions(meanings)),
        ]
    )
    return Section(anchor="metrics", title="Figures", body=body)


def _levels(source: _Source) -> Section:
    """Show the figures of cells, photographs and patients beside what the number of cells alone would say."""
    cells = source.report["cells"]
    parts = [paragraph(sentence(line)) for line in cell_words(cells, source.images)]
    for name, level in cells["levels"].items():
        rows = [
            (_metric_title(metric), f"cells.levels.{name}.metrics.{metric}", level["metrics"][metric])
            for metric in LEVEL_METRICS
        ]
        parts.append(paragraph(sentence(f"{name}: {level['says']}")))
        caption = f"Level: {name}; images counts what is judged there"
        parts.append(_estimates(source, rows, caption=caption, prefix=f"level-{name.replace(' ', '-')}-note"))
    return Section(anchor="levels", title="Cells, photographs, patients", body=joined(parts))


def _classes(source: _Source) -> Section:
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
    titles = ("Precision", "Recall", "F1", "AUROC", "Images", "Groups")
    confusion = report["confusion"]
    body = joined(
        [
            table(
                [Column(title="Class", numeric=False), *(Column(title=title) for title in titles)],
                rows,
                caption=f"Figures of each class against the rest, {source.of}",
            ),
            figure(
                confusion_svg(confusion["classes"], confusion["matrix"], groups=source.groups),
                number=next(source.numbers),
                caption=escaped(
                    "Confusion matrix: counts of images and their share of the true class. Rows are true classes, columns "
                    "predicted ones; the stronger its colour, the greater a cell's share of its row."
                ),
                of=source.of,
                beside=True,
            ),
        ]
    )
    return Section(anchor="classes", title="Classes", body=body)


# ---------------------------------------------------------------------------------- curves


def _series(name: str, curve: Mapping[str, Any]) -> Series:
    return Series(name=name, x=curve["x"], y=curve["y"], low=curve.get("low"), high=curve.get("high"))


def _band_words(source: _Source, curves: Sequence[Mapping[str, Any]]) -> str:
    """Say what the bands are, or why there are none."""
    if any(curve.get("low") is not None for curve in curves):
        return f"Bands are pointwise {source.level} intervals from drawing whole groups again."
    reasons = list(dict.fromkeys(str(curve["method"]) for curve in curves if curve.get("method")))
    return f"Without bands: {'; '.join(reasons)}." if reasons else "Without bands."


def _discrimination(source: _Source) -> Section:
    curves = source.report.get("curves") or {}
    roc, recall = curves.get("roc") or {}, curves.get("precision_recall") or {}
    drawn: list[Markup] = []
    for name in dict.fromkeys([*roc, *recall]):
        row = source.report["per_class"].get(name) or {}
        if name in roc:
            drawn.append(
                line_chart(
                    [_series("", roc[name])],
                    title=f"{name}: ROC, area {number(row.get('auroc'))}",
                    x=Axis(title="false-positive rate", low=0, high=1),
                    y=Axis(title="true-positive rate", low=0, high=1),
                    images=source.images,
                    groups=source.groups,
                    diagonal=True,
                )
            )
        if name in recall:
            drawn.append(
                line_chart(
                    [_series("", recall[name])],
                    title=f"{name}: precision and recall",
                    x=Axis(title="recall", low=0, high=1),
                    y=Axis(title="precision", low=0, high=1),
                    images=source.images,
                    groups=source.groups,
                    level=row["support"] / source.images if "support" in row else None,
                )
            )
    if not drawn:
        return Section(anchor="discrimination", title="Discrimination", body=_ABSENT)
    band = _band_words(source, [*roc.values(), *recall.values()])
    body = figure(
        panels(drawn),
        number=next(source.numbers),
        caption=escaped(
            f"Receiver operating characteristic and precision against recall of each class against the rest. {band} "
            "Dashed: chance."
        ),
        of=source.of,
    )
    return Section(anchor="discrimination", title="Discrimination", body=body)


def _bin(one: Mapping[str, Any]) -> Bin:
    return Bin(
        low=one["low"],
        high=one["high"],
        images=one["images"],
        confidence=one["confidence"],
        accuracy=one["accuracy"],
    )


def _calibration(source: _Source) -> Section:
    calibration = source.report.get("calibration")
    if not calibration:
        return Section(anchor="calibration", title="Calibration", body=_ABSENT)
    if calibration.get("fitted_on") is None:
        how = "Scores are not calibrated."
    else:
        shown = ", ".join(f"{value:.3g}" for value in dict.fromkeys(calibration.get("temperatures") or ()))
        how = f"Temperature {shown}, fitted on {calibration['fitted_on']}."
    # The first schema had plain numbers here, of which the table of figures says the same with intervals.
    rows = [
        (f"{_metric_title(name)}, {when} calibration", f"calibration.{when}.{name}", estimates.get(name))
        for name in ("ece", "brier", "log_loss")
        for when in ("before", "after")
        if (estimates := calibration.get(when) or (source.report["metrics"] if when == "after" else None))
    ]
    bins = (source.report.get("curves") or {}).get("reliability") or {}
    drawn = [
        reliability_diagram(
            [_bin(one) for one in bins[when]],
            title=f"{when.capitalize()} calibration",
            images=source.images,
            groups=source.groups,
            place=place,
        )
        for place, when in enumerate(("before", "after"))
        if bins.get(when)
    ]
    caption = escaped(
        "Reliability: the share of images that were right against their confidence, in bins of confidence; below, how "
        "many images each bin holds. On the dashed line confidence is what it says; stems show the distance from it."
    )
    body = [
        paragraph(escaped(how)),
        _estimates(source, rows, first="Metric", caption=f"Calibration on {source.of}", prefix="calibration-note"),
        figure(panels(drawn), number=next(source.numbers), caption=caption, of=source.of)
        if drawn
        else paragraph(escaped("The reliability diagram is not in this report."), kind="pale"),
    ]
    return Section(anchor="calibration", title="Calibration", body=joined(body))


# ---------------------------------------------------------------------------------- abstention and label sets


def _abstention(source: _Source) -> Section:
    abstention, curve = source.report.get("abstention"), (source.report.get("curves") or {}).get("risk_coverage")
    parts: list[Markup] = []
    if curve:
        drawn = line_chart(
            [_series("", curve)],
            title="Error among the answered",
            x=Axis(title="share of images answered", low=0, high=1),
            y=Axis(title="share that was wrong", low=0),
            images=source.images,
            groups=source.groups,
        )
        caption = (
            "Risk against coverage: the share of wrong answers if only the most confident images were answered. At the "
            f"right every image is answered. {_band_words(source, [curve])}"
        )
        parts.append(figure(drawn, number=next(source.numbers), caption=escaped(caption), of=source.of, beside=True))
    if not abstention:
        return Section(anchor="abstention", title="Abstention", body=joined([*parts, _ABSENT]))
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
        parts.append(_estimates(source, rows, caption=f"Abstention, {source.of}", prefix="abstention-note"))
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
    return Section(anchor="abstention", title="Abstention", body=joined(parts))


def _decisions(source: _Source, abstention: Mapping[str, Any]) -> Markup:
    columns = [
        Column(title="Decision", numeric=False),
        *(Column(title=title) for title in ("Images", "Share", "Of images", "Of groups")),
    ]
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
    return table(columns, rows, caption=f"What was answered and what was not, {source.of}")


def _listed(value: object) -> str | None:
    """Give numbers, one of them or many, to four digits; equal ones once."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    return ", ".join(dict.fromkeys(f"{one:.4g}" for one in numbers if one is not None))


def _label_sets(source: _Source) -> Section:
    sets = source.report.get("label_sets")
    if not sets:
        return Section(anchor="label-sets", title="Label sets", body=_ABSENT)
    if not sets.get("measured"):
        said = f"Label sets: {sets.get('reason') or 'not measured'}."
        return Section(anchor="label-sets", title="Label sets", body=paragraph(escaped(said)))
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
    titles = ("Images", "Of images", "Of groups")
    body = [
        paragraph(escaped(sets.get("says") or aim)),
        _estimates(
            source,
            [("Coverage", "label_sets.coverage", sets["coverage"])],
            caption=f"Label sets, {source.of}",
            prefix="sets-note",
        ),
        paragraph(Markup(f"Mean number of labels in a set: {mean} (n = {escaped(source.of)}).")),
        table(
            [Column(title="Labels in the set", numeric=False), *(Column(title=title) for title in titles)],
            sizes,
            caption="How many images have a set of each size",
        ),
    ]
    return Section(anchor="label-sets", title="Label sets", body=joined(body))


# ---------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knob:
    """One thing that candidates differ in: what it is called, its value in a choice, and whether it spans magnitudes."""

    title: str
    short: str
    value: Callable[[Mapping[str, Any]], float | None]
    log: bool


def _knobs(feature_width: float | None) -> tuple[_Knob, ...]:
    return (
        _Knob(
            title="width of the first hidden layer", short="width",
            value=lambda c: None if "hidden" not in c else float(c["hidden"][0]) if c["hidden"] else 0.0, log=True,
        ),
        _Knob(title="dropout rate", short="dropout", value=lambda c: c.get("rate"), log=False),
        _Knob(title="C", short="C", value=lambda c: c.get("c"), log=True),
        _Knob(
            title="number of features", short="features",
            value=lambda c: None if "selected" not in c else c["selected"] or feature_width, log=True,
        ),
    )  # fmt: skip


def _told(choice: Mapping[str, Any], *, without: _Knob | None = None) -> str:
    """Say a choice in words, leaving out what one knob says."""
    short = without.short if without else ""
    parts = []
    if short != "features" and choice.get("selected") is not None:
        parts.append(f"{choice['selected']} features")
    if "hidden" in choice:
        widths = "–".join(map(str, choice["hidden"])) or "none"
        if short != "width":
            parts.append(f"hidden {widths}")
        elif len(choice["hidden"]) > 1:
            parts.append(f"hidden …–{'–'.join(map(str, choice['hidden'][1:]))}")
    if "rate" in choice and short != "dropout":
        parts.append(f"dropout {choice['rate']:g}")
    if "kernel" in choice:
        parts.append(f"{choice['kernel']} kernel")
        if short != "C" and choice.get("c") is not None:
            parts.append(f"C {choice['c']:g}")
        if choice["kernel"] == "rbf" and choice.get("gamma") is not None:
            parts.append(f"γ {choice['gamma']:g}")
    return ", ".join(parts) or "all features"


def _kept_of(trials: Sequence[Mapping[str, Any]]) -> int:
    """Give the index of the trial that was kept: highest balanced accuracy, then lowest log loss, then the first."""
    return max(range(len(trials)), key=lambda i: (trials[i]["balanced_accuracy"], -trials[i]["log_loss"], -i))


def _choice_words(choice: Mapping[str, Any]) -> str:
    """Say what one member kept, after how many epochs, and on which images it was scored."""
    fold, epoch, on = choice.get("fold"), choice.get("best_epoch"), choice.get("validated_on")
    return (
        ("" if fold is None else f"fold {fold}: ")
        + str(choice.get("choice"))
        + ("" if epoch is None else f", best epoch {epoch}")
        + (f", scored on {on}" if on else "")
    )


def _candidates(source: _Source) -> Section:
    title = "Candidates"
    choices = source.report.get("choices")
    if not choices:
        return Section(anchor="candidates", title=title, body=_ABSENT)
    images, groups = source.trained_on
    tried = [
        (one, i == _kept_of(c["trials"]), c.get("fold")) for c in choices for i, one in enumerate(c.get("trials") or ())
    ]
    said = "; ".join(map(_choice_words, choices))
    parts = [
        paragraph(
            escaped(
                f"Kept: {said}. "
                + (
                    "The candidate with the highest balanced accuracy on the validation images is kept; of equals, the one "
                    "with the lowest log loss. These scores chose the model and are optimistic; they are no estimate."
                    if len(tried) > len(choices)
                    else "There was nothing to choose from."
                )
            )
        )
    ]
    drawn = []
    for knob in _knobs((source.report.get("model") or {}).get("feature_width")):
        placed = [(knob.value(one["choice"]), one, best) for one, best, _ in tried]
        values = sorted({value for value, _, _ in placed if value is not None})
        if len(values) < 2:
            continue
        told = {_told(one["choice"], without=knob) for _, one, _ in placed}
        drawn.append(
            candidates_chart(
                [
                    Candidate(
                        # More kinds than there are shapes would not be told apart: then a mark is a candidate, no more.
                        series=_told(one["choice"], without=knob) if len(told) <= len(SHAPES) else "",
                        x=value,
                        y=one["balanced_accuracy"],
                        kept=best,
                    )
                    for value, one, best in placed
                    if value is not None and one["balanced_accuracy"] is not None
                ],
                title=f"Score by {knob.title}",
                x=Axis(title=knob.title, log=knob.log and values[0] > 0, ticks=values if len(values) <= 6 else None),
                y=Axis(title="balanced accuracy"),
                images=images,
                groups=groups,
            )
        )
    if drawn:
        folds = " Each fold chose for itself: a mark for each fold and candidate." if len(choices) > 1 else ""
        parts.append(
            figure(
                panels(drawn),
                number=next(source.numbers),
                caption=escaped(
                    f"Validation score of every candidate; those that were kept are filled and ringed.{folds} Training images:"
                ),
                of=counts(images, groups),
            )
        )
    if tried:
        parts.append(
            details(
                f"All {len(tried)} trials as a table",
                table(
                    [
                        Column(title="Candidate", numeric=False),
                        *(
                            Column(title=t)
                            for t in ("Fold", "Balanced accuracy", "Log loss", "Epochs", "Images", "Groups")
                        ),
                        Column(title="Kept", numeric=False),
                    ],
                    [
                        (
                            escaped(_told(one["choice"])),
                            escaped(NO_VALUE if fold is None else str(fold)),
                            datum(one["balanced_accuracy"], number(one["balanced_accuracy"])),
                            datum(one["log_loss"], number(one["log_loss"])),
                            escaped(NO_VALUE if one.get("epochs") is None else f"{one['epochs']:g}"),
                            escaped(NO_VALUE if images is None else str(images)),
                            source.group_cell(groups),
                            escaped("kept" if best else ""),
                        )
                        for one, best, fold in tried
                    ],
                    caption=f"Validation scores of all candidates; training images: {counts(images, groups)}",
                    kept=[i for i, (_, best, _) in enumerate(tried) if best],
                ),
            )
        )
    return Section(anchor="candidates", title=title, body=joined(parts))


# ---------------------------------------------------------------------------------- training


def _training(source: _Source) -> Section:
    history = source.report.get("history")
    title = "Training"
    if not history:
        trials = [trial for choice in source.report.get("choices") or () for trial in choice.get("trials") or ()]
        svm = any("kernel" in trial["choice"] for trial in trials)
        said = paragraph(escaped("No epochs: a support vector machine is fitted in one go.")) if svm else _ABSENT
        return Section(anchor="training", title=title, body=said)
    images, groups = source.trained_on
    runs: dict[object, list[Mapping[str, Any]]] = {}
    for row in history:
        runs.setdefault(row.get("fold"), []).append(row)
    drawn = []
    for key, name, y in (
        ("train_loss", "Training loss", "cross-entropy"),
        ("log_loss", "Validation log loss", "log loss"),
        ("balanced_accuracy", "Validation balanced accuracy", "balanced accuracy"),
    ):
        series = [
            Series(
                name="" if fold is None else f"fold {fold}",
                # Counted through: where there are two stages, the epochs of the second begin again.
                x=[float(i) for i in range(1, len(rows) + 1)],
                y=[row.get(key) for row in rows],
            )
            for fold, rows in runs.items()
        ]
        if any(value is not None for one in series for value in one.y):
            drawn.append(
                line_chart(
                    series,
                    title=name,
                    x=Axis(title="epoch", low=0, whole=True),
                    y=Axis(title=y),
                    images=images,
                    groups=groups,
                    marked=max(map(len, runs.values())) <= 40,
                    height=190,
                )
            )
    stages = " then ".join(dict.fromkeys(str(row.get("stage")) for row in history))
    body = figure(
        panels(drawn),
        number=next(source.numbers),
        caption=escaped(f"Training by epoch ({stages}); each line is one training. Training images:"),
        of=counts(images, groups),
    )
    return Section(anchor="training", title=title, body=body)


# ---------------------------------------------------------------------------------- mistakes and heat maps


def _mistakes(source: _Source, thumbnails: Mapping[str, str]) -> Section:
    mistakes, title = source.report.get("mistakes"), "Most confident mistakes"
    matrix = source.report["confusion"]["matrix"]
    wrong = sum(map(sum, matrix)) - sum(row[i] for i, row in enumerate(matrix))
    if not wrong:
        said = f"No mistakes among {source.of}."
        return Section(anchor="mistakes", title=title, body=paragraph(escaped(said)))
    if not mistakes:
        return Section(anchor="mistakes", title=title, body=_ABSENT)
    if len(mistakes) < wrong:
        said = f"The {len(mistakes)} most confident of {wrong} mistakes among {source.of}."
    else:
        said = f"All {wrong} {'mistake' if wrong == 1 else 'mistakes'} among {source.of}, most confident first."
    if thumbnails:
        pictures = gallery(
            Markup(
                (
                    picture(thumbnails[m["path"]], alt=f"{m['label']} taken for {m['predicted']}: {m['path']}")
                    if m["path"] in thumbnails
                    else '<p class="pale">No picture.</p>'
                )
                + f"<strong>{named(m['label'])}</strong> taken for <strong>{named(m['predicted'])}</strong><br>"
                f"confidence {datum(m['confidence'], number(m['confidence']), key=f'mistakes.{i}.confidence')}<br>"
                f'<span class="pale">group {named(_or_dash(m.get("group")))}<br>{named(m["path"])}</span>'
            )
            for i, m in enumerate(mistakes)
        )
        shown = joined([paragraph(escaped(said)), pictures])
    else:
        shown = table(
            [
                Column(title="Image", numeric=False),
                Column(title="True", numeric=False),
                Column(title="Predicted", numeric=False),
                Column(title="Confidence"),
                Column(title="Group", numeric=False),
            ],
            [
                (
                    named(m["path"]),
                    named(m["label"]),
                    named(m["predicted"]),
                    datum(m["confidence"], number(m["confidence"]), key=f"mistakes.{i}.confidence"),
                    named(_or_dash(m.get("group"))),
                )
                for i, m in enumerate(mistakes)
            ],
            caption=said,
        )
    return Section(anchor="mistakes", title=title, body=shown)


def _or_dash(value: object) -> str:
    return NO_VALUE if value in (None, "") else str(value)


def _heatmaps(source: _Source, heatmaps: Sequence[Heatmap]) -> Section:
    parts: list[Markup] = []
    faith = (source.report.get("heatmaps") or {}).get("faithfulness")
    if faith:
        groups = faith.get("groups")
        titles = ("Deletion", "Insertion", "Images", "Groups")
        columns = [Column(title="Order", numeric=False), *(Column(title=title) for title in titles)]
        rows = [
            (
                escaped(title),
                *(
                    datum(
                        faith.get(f"{prefix}{key}"), number(faith.get(f"{prefix}{key}")), key=f"heatmaps.{prefix}{key}"
                    )
                    for key in ("deletion", "insertion")
                ),
                escaped(str(faith["images"])),
                source.group_cell(groups),
            )
            for title, prefix in (("Heat map", ""), ("Random map", "random_"))
        ]
        parts += [
            paragraph(
                escaped(
                    "Faithfulness: the mean confidence while what a heat map marks is hidden step by step (deletion, low is "
                    "faithful) or shown step by step (insertion, high is faithful), beside random maps."
                )
            ),
            table(
                columns,
                rows,
                caption="Faithfulness of the heat maps: mean area under the curve of confidence",
            ),
        ]
    if heatmaps:
        parts.append(
            gallery(
                Markup(
                    f'<div class="two">{picture(h.picture, alt=f"{h.path}: the image")}'
                    f"{picture(h.overlay, alt=f'{h.path}: heat map for {h.predicted}')}</div>"
                    f"<strong>{named(h.label)}</strong>, predicted <strong>{named(h.predicted)}</strong><br>"
                    f'<span class="pale">{named(h.path)}</span>'
                )
                for h in heatmaps
            )
        )
        parts.append(
            paragraph(
                escaped("A heat map says what changed the score, not whether what it marks is the disease."),
                kind="pale",
            )
        )
    return Section(anchor="heat-maps", title="Heat maps", body=joined(parts))


# ---------------------------------------------------------------------------------- what the model was made from


def _origin(source: _Source) -> Section:
    report, model = source.report, source.report.get("model") or {}
    bootstrap = report.get("bootstrap") or {}
    trained, groups = source.trained_on
    size = model.get("input_size_px")
    pairs: list[tuple[str, object]] = [
        ("Run", report["run"]),
        ("Task", model.get("task_title") or report.get("task")),
        ("Backbone", " · ".join(str(v) for v in (report.get("backbone"), model.get("timm_name")) if v)),
        ("Variant", report.get("variant")),
        ("Weights", report.get("weights")),
        ("Trained", report.get("tune")),
        ("Licence of the weights", model.get("licence")),
        ("Source of the weights", model.get("source") or model.get("weights_source")),
        ("SHA-256 of the weights", model.get("weights_sha256")),
        ("Features", model.get("feature_width")),
        ("Trained on", None if trained is None else counts(trained, groups)),
        ("Evaluated on", f"{source.protocol}: {source.of}"),
        ("Groups", {"none": "unknown"}.get(str(report.get("groups_source")), report.get("groups_source"))),
        ("Input", None if size is None else f"{size} × {size} px, {model.get('fit')}, {model.get('interpolation')}"),
        ("Mean and standard deviation", _moments(model)),
        ("Remedies", ", ".join(model.get("remedies_titles") or ())),
        ("Seed", model.get("seed", report.get("seed"))),
        ("Looks at the test split", report.get("test_looks")),
        ("Intervals", _bootstrap_words(bootstrap)),
        ("Manifest", report.get("manifest")),
        ("Made by leuk", report.get("leuk_version")),
        ("Trained at", model.get("created")),
        ("Evaluated at", report.get("created")),
        *((str(key).capitalize(), value) for key, value in (report.get("facts") or {}).items()),
    ]
    parts = [definitions([(term, named(str(value))) for term, value in pairs if value not in (None, "")])]
    versions, command = model.get("versions"), model.get("command")
    if versions:
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        parts.append(subsection("Versions", paragraph(escaped(said))))
    if command:
        parts.append(subsection("Command line", preformatted(shlex.join(map(str, command)))))
    if not model:
        parts.append(paragraph(escaped("What the model was trained from is not in this report."), kind="pale"))
    return Section(anchor="origin", title="What the model was made from", body=joined(parts))


def _moments(model: Mapping[str, Any]) -> str | None:
    if "mean" not in model or "std" not in model:
        return None
    return "; ".join(", ".join(f"{v:g}" for v in model[key]) for key in ("mean", "std"))


def _bootstrap_words(bootstrap: Mapping[str, Any]) -> str | None:
    if not bootstrap:
        return None
    return (
        f"{100 * bootstrap['level']:g} %, whole groups drawn again {bootstrap['resamples']} times within their class, "
        f"seed {bootstrap['seed']}"
    )


# ---------------------------------------------------------------------------------- the model card


def _card(source: _Source) -> Section:
    report = source.report
    facts = _facts(source)
    pairs = [
        ("Intended use", escaped("Research on the classification of leukaemia from images of blood smears.")),
        ("Not for", escaped("The diagnosis of patients; it is not a medical device.")),
        ("Classes", joined(map(named, report["confusion"]["classes"]), ", ")),
        ("Gives out", escaped(facts["output"])),
        ("Finding", _finding(source)),
        (
            "Known limits",
            escaped(f"{len(report['warnings'])} listed under Warnings, on top of this page.")
            if report.get("warnings")
            else escaped("No warning was raised; that is no proof that there is no limit."),
        ),
    ]
    body = joined(
        [
            definitions(pairs),
            paragraph(
                escaped(
                    "Two reporting guidelines follow, in words of this tool: filled in where the report knows the answer, "
                    "marked “not reported” where only the authors of a study do. Check the published lists before "
                    "submitting."
                )
            ),
            *(_checklist(checklist, facts) for checklist in (TRIPOD_AI, CLAIM)),
        ]
    )
    return Section(anchor="card", title="Model card", body=body)


def _checklist(checklist: Checklist, facts: Mapping[Fact, str]) -> Markup:
    answers = [None if item.fact is None else facts.get(item.fact) for item in checklist.items]
    rows = [
        (
            Markup(f'<span class="pale">{escaped(item.number)}</span> {escaped(item.asks)}'),
            escaped(answer) if answer else Markup('<span class="pale">not reported</span>'),
        )
        for item, answer in zip(checklist.items, answers, strict=True)
    ]
    filled = sum(answer is not None for answer in answers)
    return subsection(
        checklist.name,
        details(
            f"{filled} of {len(rows)} items answered by this report",
            table(
                [Column(title=title, numeric=False) for title in ("Item", "This report")],
                rows,
                caption=f"{checklist.name} ({checklist.citation})",
            ),
        ),
    )


def _facts(source: _Source) -> dict[Fact, str]:
    """Give what the report can answer of the checklists, in words; what it cannot is left out."""
    report, model = source.report, source.report.get("model") or {}
    calibration, abstention = report.get("calibration") or {}, report.get("abstention") or {}
    supports = ", ".join(f"{name} {row['support']}" for name, row in report["per_class"].items())
    trained, trained_groups = source.trained_on
    estimate = report["metrics"].get(HEADLINE)
    calibrated = "" if calibration.get("fitted_on") is None else ", after temperature scaling"
    facts: dict[Fact, str] = {
        "output": f"A probability for each class{calibrated}; the most probable class is the label, without a threshold."
        + (
            " Images that are too unlike the training images or too uncertain are left unanswered."
            if abstention.get("measured")
            else ""
        ),
        "counts": f"{source.of}; images by class: {supports}.",
        "balance": f"Images by class: {supports}. Balanced accuracy counts every class alike.",
        "measures": ", ".join(_metric_title(name) for name in report["metrics"])
        + "; confusion matrix"
        + ("; ROC, precision–recall, reliability and risk–coverage curves." if report.get("curves") else "."),
        "failures": "Confusion matrix" + (" and the most confident mistakes." if report.get("mistakes") else "."),
    }
    if source.groups_known:
        facts["disjoint"] = f"Whole groups (from: {report.get('groups_source')}): no group lies on two sides."
    else:
        facts["disjoint"] = "Images; groups are unknown, so that images of one patient can lie on both sides."
    if report.get("folds"):
        facts["partition"] = f"{report['folds']} folds, pooled out-of-fold predictions. {facts['disjoint']}"
        facts["calculation"] = "Each image was judged by the model of the fold that did not see it; no ensemble."
    elif report.get("external"):
        facts["external"] = f"{report['external']}: {source.of}."
    else:
        facts["partition"] = f"Evaluated on {source.protocol}. {facts['disjoint']}"
    if not report.get("external"):
        facts["internal"] = f"{source.protocol[:1].upper()}{source.protocol[1:]}: {source.of}."
    if report.get("manifest"):
        facts["data"] = f"Manifest {report['manifest']}; {source.of} evaluated" + (
            f", trained on {counts(trained, trained_groups)}." if trained is not None else "."
        )
    if estimate and estimate["value"] is not None:
        facts["performance"] = f"Balanced accuracy {number(estimate['value'])}{_plain_within(source, estimate)}."
    if report.get("bootstrap"):
        facts["uncertainty"] = f"{_bootstrap_words(report['bootstrap'])}."
    if abstention.get("measured"):
        facts["abstention"] = (
            f"Of {source.of}, {abstention.get('novel')} were left unanswered as unlike the training images and "
            f"{abstention.get('uncertain')} as too uncertain."
        )
    if report.get("heatmaps"):
        facts["heatmaps"] = "Heat maps, with deletion and insertion beside random order."
    if report.get("leuk_version"):
        facts["code"] = f"leuk {report['leuk_version']}" + (
            f"; weights under {model['licence']}." if model.get("licence") else "."
        )
    if report.get("backbone"):
        facts["architecture"] = f"{model.get('timm_name') or report['backbone']}, variant {report.get('variant')}."
        facts["technology"] = f"Deep learning: {report['backbone']}, variant {report.get('variant')}."
    if report.get("weights"):
        facts["initial"] = f"Weights: {report['weights']}."
    if report.get("tune"):
        seed = model.get("seed", report.get("seed"))
        facts["training"] = f"Trained: {report['tune']}" + ("." if seed is None else f"; seed {seed}.")
    if model.get("input_size_px"):
        facts["preprocessing"] = (
            f"{model['input_size_px']} px, {model.get('fit')}, {model.get('interpolation')}; "
            f"mean and standard deviation {_moments(model)}"
            + "".join(f"; {title}" for title in model.get("remedies_titles") or ())
            + "."
        )
    if model.get("versions"):
        facts["software"] = ", ".join(f"{name} {version}" for name, version in model["versions"].items()) + "."
    choices = report.get("choices")
    if choices:
        most = max(len(c.get("trials") or ()) for c in choices)
        facts["candidates"] = (
            f"{most} candidates, the highest balanced accuracy on validation images kept."
            if most > 1
            else "One candidate; nothing was chosen."
        )
    return facts


def _plain_within(source: _Source, estimate: Mapping[str, Any]) -> str:
    said = counts(estimate["n"], source.known(estimate["groups"]))
    if estimate["low"] is None:
        return f" ({estimate['method']}; {said})"
    return f" ({source.level} interval {interval(estimate['low'], estimate['high'])}; {said})"
