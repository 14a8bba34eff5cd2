"""One comparison becomes a table in CSV, Markdown, LaTeX, HTML and on a terminal; every format is made from compare.json.

Requirements this module meets:
- No figure stands without its number of images and groups, and none without an interval or the reason why not.
- What the table comes to is computed from corrected paired differences, never from whether intervals overlap.
- A figure of the optimistic protocol is called that in every row of every format.
- The paper's figures are listed, and never without "other images, not comparable".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import unescape
from typing import TypedDict, TypeVar, final

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.domain import NO_GROUPS, counted, few_groups
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting import html
from leukemia_cli.reporting.evaluation import RESEARCH_USE, Figure
from leukemia_cli.reporting.figures import Axis, Candidate, Difference, candidates_chart, forest_plot
from leukemia_cli.reporting.html import Column, Footnotes, Markup, Section, interval, number, signed

_TRAINED = {
    "head": "the head alone, on the features of a frozen backbone",
    "last-stage": "the head and the backbone's last stage",
    "all": "the head and the whole backbone",
}
ALPHA = 0.05
"""Below this corrected p a difference is called distinguishable from 0."""
OPTIMISTIC = "optimistic protocol"
RANDOM = "RANDOM WEIGHTS"
NOT_COMPARABLE = "other images, not comparable"

_SHOWN = ("macro_f1", "accuracy")
_FURTHER = (("mcc", "auroc", "sensitivity", "specificity"), ("brier", "ece", "log_loss"))
_OPTIONAL = ("sensitivity", "specificity")
_MODEL = ("Backbone", "Variant")
_MOST_IN_CHART = 12

# ---------------------------------------------------------------------------------- compare.json


@final
class HeadCandidate(TypedDict):
    """A candidate of a network head; `selected` features by the method `by`, None: all."""

    selected: int | None
    by: str | None
    hidden: list[int]
    rate: float


@final
class SvmCandidate(TypedDict):
    """A candidate of a support vector machine; `gamma` times the number of features."""

    selected: int | None
    by: str | None
    kernel: str
    c: float
    gamma: float


class CandidateScore(TypedDict):
    """One candidate's score on the images it was not fitted on, inside a training part."""

    choice: HeadCandidate | SvmCandidate
    balanced_accuracy: float
    log_loss: float
    epochs: float | None


class FoldChoice(TypedDict):
    """What one training part of one partition chose, and among what."""

    repeat: int
    fold: int | None
    choice: str
    trials: list[CandidateScore]


class ComparisonRow(TypedDict):
    """One model of the table; `metrics` are of the first partition, `repeats` has the value of every partition."""

    backbone: str
    variant: str
    weights: str
    random_weights: bool
    metrics: dict[str, Figure]
    repeats: dict[str, list[float | None]]
    choices: list[FoldChoice]
    seconds: float


class ModelName(TypedDict):
    """Which row of the table."""

    backbone: str
    variant: str


class PairedDifference(TypedDict):
    """A metric of a minus that of b on the same images; `test` says how p came about, or why there is none."""

    a: ModelName
    b: ModelName
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str
    freedom: float | None
    p: float | None
    p_holm: float | None
    test: str


class PaperFigure(TypedDict):
    """A figure published by the paper, of its own images; `value` is a share."""

    task: str
    model: str
    metric: str
    value: float


class Optimism(TypedDict):
    """One metric of one model under both protocols; `difference` is optimistic minus grouped."""

    backbone: str
    variant: str
    metric: str
    optimistic: Figure
    grouped: Figure
    difference: float | None


class ComparisonDocument(TypedDict):
    """The whole of compare.json; `copies` counts what the optimistic protocol dealt in place of `images`: n counts these."""

    schema_version: int
    id: str
    protocol: str
    protocol_title: str
    optimistic: bool
    task: str
    subset: str | None
    classes: list[str]
    positive: str | None
    images: int
    groups: int
    groups_source: str
    groups_per_class: dict[str, int]
    folds: int
    repeats: int
    repeats_asked: int
    repeats_note: str | None
    grid: str
    tune: str
    views: int
    copies: int | None
    copies_per_image: int | None
    seed: int
    manifest: str
    created: str
    leuk_version: str
    command: list[str]
    looks: int
    resamples: int
    versions: dict[str, str]
    headline_metric: str
    rows: list[ComparisonRow]
    differences: list[PairedDifference]
    paper: list[PaperFigure]
    protocol_differences: list[str]
    optimism: list[Optimism]
    warnings: list[str]


# ---------------------------------------------------------------------------------- what it comes to, in sentences


def comparison_finding(document: ComparisonDocument) -> str:
    """Say which model is highest and from how many others that is distinguishable, by corrected differences alone."""
    metric = document["headline_metric"]
    title = _inside(metric)
    scored = [(value, row) for row in document["rows"] if (value := row["metrics"][metric]["value"]) is not None]
    if not scored:
        return f"No model has a {title} on these images."
    best = max(value for value, _ in scored)
    top, *equals = [row for value, row in scored if value == best]
    figure = top["metrics"][metric]
    held = "no interval" if figure["low"] is None else interval(figure["low"], figure["high"])
    labels = "".join(f", {label}" for label in _labels(document, top))
    told = f"Highest {title}: {_name(top)}{labels}, {number(best)} ({held}; {_counts(document, figure)})"
    if equals:
        told += f"; equal to it: {', '.join(map(_name, equals))}"
    others = len(document["rows"]) - 1
    spread = _over_partitions(document, top)
    if not others:
        return f"{told}. {spread}There is no other model to compare it with."
    return f"{told}. {spread}{_beyond_chance(document, top, others)}"


def _over_partitions(document: ComparisonDocument, top: ComparisonRow) -> str:
    """Say in how many partitions the highest model of the first is highest, and what it reached in them; '' for one."""
    metric = document["headline_metric"]
    table, own = [row["repeats"].get(metric, []) for row in document["rows"]], top["repeats"].get(metric, [])
    known = [place for place, value in enumerate(own) if value is not None]
    if len(known) < 2:
        return ""
    first = 0
    for place in known:
        first += own[place] == max(v for row in table if len(row) > place and (v := row[place]) is not None)
    reached = [value for value in own if value is not None]
    least, most = min(reached), max(reached)
    return (
        f"Over {len(known)} partitions it reached {number(least)} to {number(most)} and was highest in {first}; "
        "differences and p are of the first. "
    )


def _beyond_chance(document: ComparisonDocument, top: ComparisonRow, others: int) -> str:
    tested = {
        _name(other): d["p_holm"]
        for d in document["differences"]
        if d["metric"] == document["headline_metric"] and d["p_holm"] is not None
        for me, other in ((d["a"], d["b"]), (d["b"], d["a"]))
        if _name(me) == _name(top)
    }
    if not tested:
        whom = "the other" if others == 1 else "the others"
        return f"Whether it differs from {whom} by more than chance was not tested."
    beyond = [name for name, p in tested.items() if p < ALPHA]
    least, most = _p(min(tested.values())), _p(max(tested.values()))
    spread = f"(p after Holm {least})" if least == most else f"(p after Holm {least} to {most})"
    if len(tested) == 1:
        said = f"It is {'' if beyond else 'not '}distinguishable from {next(iter(tested))} {spread}"
    elif not beyond:
        said = f"It is not distinguishable from any of the {len(tested)} others {spread}"
    elif len(beyond) == len(tested):
        said = f"It is distinguishable from each of the {len(tested)} others {spread}"
    else:
        said = (
            f"It is distinguishable from {len(beyond)} of the {len(tested)} others "
            f"({', '.join(beyond)}) and not from the rest {spread}"
        )
    if len(beyond) < len(tested):
        said += ": which comes first may be chance"
    untested = others - len(tested)
    return said + (f"; {counted(untested, 'other')} not compared." if untested else ".")


def comparison_reading(document: ComparisonDocument, metric: str) -> str:
    """Say which paired differences of a metric are distinguishable from 0 after correction; '' where there are none."""
    rows = [d for d in document["differences"] if d["metric"] == metric]
    if not rows:
        return ""
    title = _title(metric)
    tested = sorted(((d["p_holm"], place) for place, d in enumerate(rows) if d["p_holm"] is not None))
    untested = len(rows) - len(tested)
    if not tested:
        return f"{title}: no difference was tested ({'; '.join(dict.fromkeys(d['test'] for d in rows))})."
    rest = f"; {untested} not tested" if untested else ""
    beyond = [rows[place] for p, place in tested if p < ALPHA]
    if not beyond:
        return (
            f"{title}: no difference is distinguishable from 0 after Holm ({len(tested)} tested, corrected over the "
            f"{_family(document)} of all metrics, smallest corrected p {_p(tested[0][0])}{rest}). "
            "That does not say that the models are equal."
        )
    listed = [f"{_name(d['a'])} − {_name(d['b'])} {signed(d['value'])}" for d in beyond[:6]]
    listed += [f"{len(beyond) - 6} more in the table"] if len(beyond) > 6 else []
    return (
        f"{title}: {len(beyond)} of {counted(len(tested), 'difference')} {'is' if len(beyond) == 1 else 'are'} "
        f"distinguishable from 0 after Holm over the {_family(document)} of all metrics{rest}: {'; '.join(listed)}."
    )


def _family(document: ComparisonDocument) -> str:
    """Count the tests that p values are corrected over."""
    return counted(sum(d["p"] is not None for d in document["differences"]), "test")


def comparison_warnings(document: ComparisonDocument) -> list[str]:
    """Give the document's warnings, after those that follow from it and that it does not hold; no sentence twice."""
    given = document["warnings"]
    found = []
    random = [_name(row) for row in document["rows"] if row["random_weights"]]
    if random and not _said_in(given, RANDOM):
        which = "every backbone" if len(random) == len(document["rows"]) else f"the backbone of {', '.join(random)}"
        found.append(
            f"{RANDOM}: {which} started from random numbers (weights: none), nothing was pretrained; "
            "these figures say nothing about what the method can do"
        )
    if document["optimistic"] and not _said_in(given, OPTIMISTIC):
        found.append(
            f"{OPTIMISTIC}: copies of one image lie in training and test data alike, as if each were an image of its own; "
            "these figures are no estimate for new patients, and n counts copies"
        )
    if document["subset"] and not _said_in(given, document["subset"]):
        listed = ", ".join(document["classes"])
        found.append(f"{document['subset']} ({listed}): not to be compared with figures of the whole task")
    if document["repeats_note"]:
        found.append(document["repeats_note"])
    elif document["repeats"] < document["repeats_asked"]:
        found.append(f"fewer repeats than asked for: {document['repeats']} of {document['repeats_asked']}")
    if document["groups_source"] == "proposed":
        found.append("groups were proposed from the images, not given: where they are wrong, figures are optimistic")
    if document["groups_source"] != "none":
        found += few_groups(document["groups_per_class"])
    elif not document["optimistic"]:
        found.append(NO_GROUPS)
    every = [*(warning for warning in found if warning not in given), *given]
    return sorted(dict.fromkeys(every), key=lambda warning: not warning.startswith(RANDOM))


def _said_in(warnings: Sequence[str], beginning: str) -> bool:
    return any(warning.casefold().startswith(beginning.casefold()) for warning in warnings)


def _name(model: ModelName | ComparisonRow | Optimism) -> str:
    return f"{model['backbone']} {model['variant']}"


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def _inside(metric: str) -> str:
    """Give the title as it stands inside a sentence: 'macro F1', 'AUROC'."""
    title = _title(metric)
    return title if title.isupper() else title[:1].lower() + title[1:]


def _labels(document: ComparisonDocument, row: ComparisonRow) -> list[str]:
    """Give what must be said wherever this row stands."""
    return [*([OPTIMISTIC] if document["optimistic"] else []), *([RANDOM] if row["random_weights"] else [])]


def _groups(document: ComparisonDocument, figure: Figure | PairedDifference) -> int | None:
    """Give the groups behind a figure; None where unknown, and for copies, which were dealt without regard to them."""
    return None if document["groups_source"] == "none" or document["optimistic"] else figure["groups"]


def _counts(document: ComparisonDocument, figure: Figure | PairedDifference) -> str:
    """Say '260 images, 31 groups' or '312 copies, groups ignored'."""
    if document["optimistic"]:
        return f"{_thousands(figure['n'])} {'copy' if figure['n'] == 1 else 'copies'}, groups ignored"
    return html.counts(figure["n"], _groups(document, figure))


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")


def _p(value: float | None) -> str:
    if value is None:
        return html.NO_VALUE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# ---------------------------------------------------------------------------------- the tables, whatever the format


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """Text, what stands beneath or in brackets after it, the note it leads to, and the number it shows."""

    text: str
    under: str = ""
    note: str | None = None
    value: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """One table: `names` columns of text, then numbers; the last `foreign` rows are not ours."""

    anchor: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[_Cell, ...], ...]
    names: int = 2
    foreign: int = 0


def _usual(document: ComparisonDocument) -> str | None:
    """Give the way most intervals of the table came about: said once, above it."""
    ways = [f["method"] for row in document["rows"] for f in row["metrics"].values() if f["low"] is not None]
    return max(dict.fromkeys(ways), key=ways.count, default=None)


def _statement(document: ComparisonDocument) -> str:
    """Say what every figure of the table rests on, for captions."""
    subset = f", {document['subset']}" if document["subset"] else ""
    usual, repeats = _usual(document), document["repeats"]
    parts = [
        _begun(_protocol(document)).rstrip("."),
        f"Task {document['task']}{subset} ({', '.join(document['classes'])})",
        _whole_counts(document) + ("; n counts copies, groups are ignored" if document["optimistic"] else ""),
        *([] if _times_said(document) else [_times(document)]),
        "No figure has an interval"
        if usual is None
        else f"Each interval is that of the first {_part(document)}, conditional on its fitted models: {usual}",
        *(
            [f"Over the {repeats} {_part(document)}s only the spread is given, least to greatest"]
            if repeats > 1
            else []
        ),
    ]
    return ". ".join(parts) + "."


def _whole_counts(document: ComparisonDocument) -> str:
    """Say what was dealt: '260 images, 31 groups' or '1 560 copies of 260 images, 31 groups'."""
    known = None if document["groups_source"] == "none" else document["groups"]
    images = html.counts(document["images"], known)
    return images if document["copies"] is None else f"{_thousands(document['copies'])} copies of {images}"


def _times(document: ComparisonDocument) -> str:
    """Say '5 folds × 3 partitions', or of a protocol without folds '3 random splits'."""
    if document["optimistic"]:
        return counted(document["repeats"], "random split")
    return f"{counted(document['folds'], 'fold')} × {counted(document['repeats'], 'partition')}"


def _times_said(document: ComparisonDocument) -> bool:
    title, said = (
        document["protocol_title"],
        (counted(document["folds"], "fold"), counted(document["repeats"], "repeat")),
    )
    return all(one in title for one in said[1 if document["optimistic"] else 0 :])


def _part(document: ComparisonDocument) -> str:
    return "split" if document["optimistic"] else "partition"


def _protocol(document: ComparisonDocument) -> str:
    title = document["protocol_title"]
    return title if _said_in([title], OPTIMISTIC) else _captioned(document, title)


def _captioned(document: ComparisonDocument, caption: str) -> str:
    """Begin a caption with what must be said wherever a figure of this protocol stands."""
    return f"{_begun(OPTIMISTIC)}: {caption}" if document["optimistic"] else caption


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figure_cell(figure: Figure, usual: str | None, key: str) -> _Cell:
    value = figure["value"]
    return _Cell(
        text=number(value),
        under="" if value is None else interval(figure["low"], figure["high"]),
        note=figure["method"] if figure["low"] is None or figure["method"] != usual else None,
        value=value,
        key=key,
    )


def _count_cells(document: ComparisonDocument, figure: Figure | PairedDifference) -> tuple[_Cell, _Cell]:
    groups = _groups(document, figure)
    absent = "ignored" if document["optimistic"] else "unknown"
    return _Cell(text=str(figure["n"])), _Cell(text=absent if groups is None else str(groups))


def _name_cells(document: ComparisonDocument, row: ComparisonRow) -> tuple[_Cell, _Cell]:
    return _Cell(text=row["backbone"], under=", ".join(_labels(document, row))), _Cell(text=row["variant"])


def _spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Give the least and greatest over partitions; None of fewer than two."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def _unit(document: ComparisonDocument) -> str:
    return "Copies" if document["optimistic"] else "Images"


def _one_count(row: ComparisonRow, metrics: Sequence[str]) -> Figure:
    """Give a figure that stands for the counts of all; raises ValueError where they are not of the same images."""
    figures = [row["metrics"][metric] for metric in metrics]
    if len({(figure["n"], figure["groups"]) for figure in figures}) > 1:
        raise ValueError(f"{_name(row)}: its figures are not of the same images")
    return figures[0]


def _table_grid(document: ComparisonDocument) -> _Grid:
    """Give the table itself: the headline with interval and spread, macro F1, accuracy; then the paper's figures."""
    headline, usual, repeats = document["headline_metric"], _usual(document), document["repeats"]
    shown = (headline, *_SHOWN)
    absent = _Cell(text=html.NO_VALUE)
    unknown = _Cell(
        text=html.NO_VALUE, note="the paper does not publish how many test images of how many patients these are"
    )
    rows: list[tuple[_Cell, ...]] = []
    for row in document["rows"]:
        figures = [_figure_cell(row["metrics"][m], usual, f"{_name(row)} {m}") for m in shown]
        spread = _spread(row["repeats"].get(headline, ()))
        over = absent if spread is None else _Cell(text=interval(*spread))
        counts = _count_cells(document, _one_count(row, shown))
        rows.append((*_name_cells(document, row), *_with_spread(figures, over, repeats), *counts))
    for paper in _published(document):
        figure = _Cell(text=f"{paper['value']:.4f}", value=paper["value"], key=f"paper {paper['task']}")
        figures = [figure if paper["metric"] == metric else absent for metric in shown]
        names = _Cell(text="paper", under=f"{paper['task']}; {NOT_COMPARABLE}"), _Cell(text=paper["model"])
        rows.append((*names, *_with_spread(figures, absent, repeats), unknown, unknown))
    over_title = f"Min–max of {repeats}"
    titles = _with_spread([_title(metric) for metric in shown], over_title, repeats)
    return _Grid(
        anchor="table",
        caption=_begun(_captioned(document, f"comparison of {_subject(document)}.")),
        columns=(*_MODEL, *titles, _unit(document), "Groups"),
        rows=tuple(rows),
        foreign=len(document["paper"]),
    )


_Item = TypeVar("_Item")


def _with_spread(figures: Sequence[_Item], spread: _Item, repeats: int) -> list[_Item]:
    """Put the spread after the headline, where there is more than one partition to spread over."""
    return [figures[0], *([spread] if repeats > 1 else []), *figures[1:]]


def _published(document: ComparisonDocument) -> list[PaperFigure]:
    """Give the paper's figures, that of this task first."""
    return sorted(document["paper"], key=lambda paper: paper["task"] != document["task"])


def _further_grids(document: ComparisonDocument) -> list[_Grid]:
    """Give what tells classes apart and what probabilities are worth; a figure that no model has is left out."""
    usual, grids = _usual(document), []
    for anchor, title, metrics in (
        ("ranking", "correlation and ranking; greater is better.", _FURTHER[0]),
        ("probabilities", "probabilities; smaller is better.", _FURTHER[1]),
    ):
        shown = [
            metric
            for metric in metrics
            if metric not in _OPTIONAL or any(row["metrics"][metric]["value"] is not None for row in document["rows"])
        ]
        rows = tuple(
            (
                *_name_cells(document, row),
                *(_figure_cell(row["metrics"][metric], usual, f"{_name(row)} {metric}") for metric in shown),
                *_count_cells(document, _one_count(row, shown)),
            )
            for row in document["rows"]
        )
        columns = (*_MODEL, *map(_title, shown), _unit(document), "Groups")
        caption = _begun(_captioned(document, title))
        grids.append(_Grid(anchor=anchor, caption=caption, columns=columns, rows=rows))
    return grids


def _difference_grid(document: ComparisonDocument, metric: str) -> _Grid:
    rows = []
    for d in document["differences"]:
        if d["metric"] != metric:
            continue
        ends = html.NO_VALUE if d["low"] is None or d["high"] is None else f"{signed(d['low'])} to {signed(d['high'])}"
        names = f"{_name(d['a'])} − {_name(d['b'])}"
        label = OPTIMISTIC if document["optimistic"] else ""
        rows.append(
            (
                _Cell(text=names, under=label),
                _Cell(
                    text=signed(d["value"]),
                    under=ends,
                    note=d["method"],
                    value=d["value"],
                    key=f"{names} {metric}",
                ),
                _Cell(text=_p(d["p"])),
                _Cell(text=_p(d["p_holm"])),
                _Cell(text="", note=d["test"]),
                *_count_cells(document, d),
            )
        )
    return _Grid(
        anchor=f"differences-{metric.replace('_', '-')}",
        caption=_begun(
            _captioned(document, f"paired differences in {_inside(metric)}, first minus second, on the same images.")
        ),
        columns=("Models", "Difference", "p", "p after Holm", "Test", _unit(document), "Groups"),
        rows=tuple(rows),
        names=1,
    )


def _difference_metrics(document: ComparisonDocument) -> list[str]:
    return list(dict.fromkeys(d["metric"] for d in document["differences"]))


def _optimism_grids(document: ComparisonDocument) -> list[_Grid]:
    """Give a table for each metric that is known under both protocols."""
    grids = []
    for metric in dict.fromkeys(o["metric"] for o in document["optimism"]):
        rows = []
        for o in document["optimism"]:
            if o["metric"] != metric:
                continue
            name, grouped = f"{_name(o)} {metric}", o["grouped"]
            rows.append(
                (
                    _Cell(text=o["backbone"], under=OPTIMISTIC),
                    _Cell(text=o["variant"]),
                    _figure_cell(o["optimistic"], None, f"{name} optimistic"),
                    _Cell(text=str(o["optimistic"]["n"])),
                    _figure_cell(grouped, None, f"{name} grouped"),
                    _Cell(text=str(grouped["n"])),
                    _Cell(text=str(grouped["groups"]) if grouped["groups"] < grouped["n"] else "one an image"),
                    _Cell(text=signed(o["difference"]), value=o["difference"], key=f"{name} optimism"),
                )
            )
        grids.append(
            _Grid(
                anchor=f"optimism-{metric.replace('_', '-')}",
                caption=f"Optimism of the protocol in {_inside(metric)}: the figure of the optimistic protocol minus that of "
                "grouped folds of the same data set. The difference is not tested and has no interval.",
                columns=(*_MODEL, "Optimistic", "Copies", "Grouped", "Images", "Groups", "Optimism"),
                rows=tuple(rows),
            )
        )
    return grids


NO_GROUPED = (
    "There is no comparison over whole groups of the same data set to set these figures against; "
    "leuk compare without --protocol paper makes one."
)
NO_DIFFERENCES = "No differences were computed: it takes two models."


def _grids(document: ComparisonDocument) -> list[_Grid]:
    """Give every table that a reader outside the page gets, in order."""
    differences = [_difference_grid(document, metric) for metric in _difference_metrics(document)]
    return [_table_grid(document), *_further_grids(document), *differences, *_optimism_grids(document)]


# ---------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """One candidate of one model over all its fits; `width` counts hidden units of all layers."""

    backbone: str
    variant: str
    title: str
    family: str
    width: int | None
    rate: float | None
    cost: float | None
    scores: tuple[float, ...]
    losses: tuple[float, ...]
    kept: int
    fits: int

    @property
    def mean(self) -> float:
        """Average the validation scores."""
        return sum(self.scores) / len(self.scores)


def _tried(row: ComparisonRow) -> list[_Tried]:
    """Gather each candidate's scores over folds and partitions; of a fit the highest score is kept, then the lowest loss."""
    found: dict[str, tuple[HeadCandidate | SvmCandidate, list[CandidateScore]]] = {}
    kept: list[str] = []
    for chosen in row["choices"]:
        for trial in chosen["trials"]:
            found.setdefault(_candidate_title(trial["choice"]), (trial["choice"], []))[1].append(trial)
        if chosen["trials"]:
            best = max(chosen["trials"], key=lambda trial: (trial["balanced_accuracy"], -trial["log_loss"]))
            kept.append(_candidate_title(best["choice"]))
    tried = []
    for title, (choice, trials) in found.items():
        features = "" if choice["selected"] is None else f", {choice['selected']} features"
        tried.append(
            _Tried(
                backbone=row["backbone"],
                variant=row["variant"],
                title=title,
                family=row["backbone"] + ("" if "kernel" not in choice else f", {choice['kernel']}") + features,
                width=sum(choice["hidden"]) if "kernel" not in choice else None,
                rate=choice["rate"] if "kernel" not in choice else None,
                cost=choice["c"] if "kernel" in choice else None,
                scores=tuple(trial["balanced_accuracy"] for trial in trials),
                losses=tuple(trial["log_loss"] for trial in trials),
                kept=kept.count(title),
                fits=len(kept),
            )
        )
    return tried


def _candidate_title(choice: HeadCandidate | SvmCandidate) -> str:
    features = "all features" if choice["selected"] is None else f"{choice['selected']} features"
    features += f" by {choice['by']}" if choice["selected"] is not None and choice["by"] else ""
    if "kernel" in choice:
        gamma = f", gamma {choice['gamma']:g}/features" if choice["kernel"] == "rbf" else ""
        return f"{features}, {choice['kernel']} kernel, C {choice['c']:g}{gamma}"
    return f"{features}, hidden {'-'.join(map(str, choice['hidden'])) or 'none'}, dropout {choice['rate']:g}"


def _candidates_grid(document: ComparisonDocument, row: ComparisonRow) -> _Grid:
    tried = _tried(row)
    label = ", ".join(_labels(document, row))
    return _Grid(
        anchor="candidates",
        caption=_captioned(
            document,
            f"{_name(row)}, validation balanced accuracy of each candidate: mean and, least to greatest, "
            f"{counted(max((one.fits for one in tried), default=0), 'fit')}; {_of_candidates(document)}.",
        ),
        columns=("Candidate", "Validation", "Log loss", "Kept"),
        rows=tuple(
            (
                _Cell(text=one.title, under=label),
                _Cell(
                    text=number(one.mean),
                    under=interval(min(one.scores), max(one.scores)) if len(one.scores) > 1 else "",
                    value=one.mean,
                    key=f"{_name(row)} {one.title}",
                ),
                _Cell(text=number(sum(one.losses) / len(one.losses))),
                _Cell(text=f"{one.kept} of {one.fits}"),
            )
            for one in tried
        ),
        names=1,
    )


def _of_candidates(document: ComparisonDocument) -> str:
    return f"each scored inside the training part of one, {_whole_counts(document)} in all"


def _unchosen(document: ComparisonDocument) -> str:
    """Name the models that had nothing to choose from in some fit; '' where every fit chose."""
    lost = {_name(row): sum(not c["trials"] for c in row["choices"]) for row in document["rows"]}
    named = [f"{name} in {counted(count, 'fit')}" for name, count in lost.items() if count]
    return f"Without a choice, so that the first candidate was taken: {', '.join(named)}." if named else ""


# ---------------------------------------------------------------------------------- compare.csv


def comparison_csv(document: ComparisonDocument) -> bytes:
    """Give compare.csv: one row for each model and metric, in the order of the document; numbers read back the same.

    Empty are a value or an interval that does not exist (`method` says why), `groups` where unknown, and the ends of
    `repeat_min` to `repeat_max` of fewer than two partitions. Names that were not UTF-8 come out as the bytes they were.
    """
    protocol = f"{document['protocol']}: {OPTIMISTIC}" if document["optimistic"] else document["protocol"]
    lines = [
        csv_line(
            [
                "protocol", "task", "subset", "manifest", "backbone", "variant", "weights", "random_weights", "metric",
                "value", "low", "high", "n", "counted", "groups", "method", "repeats", "repeat_min", "repeat_max",
            ]
        )
    ]  # fmt: skip
    for row in document["rows"]:
        for metric, figure in row["metrics"].items():
            values = row["repeats"].get(metric, [])
            least, most = _spread(values) or (None, None)
            lines.append(
                csv_line(
                    [
                        protocol, document["task"], document["subset"], document["manifest"], row["backbone"],
                        row["variant"], row["weights"], RANDOM if row["random_weights"] else None, metric,
                        figure["value"], figure["low"], figure["high"], figure["n"],
                        _unit(document).lower(), _groups(document, figure), figure["method"], len(values), least, most,
                    ]
                )
            )  # fmt: skip
    return "".join(lines).encode("utf-8", errors="surrogateescape")


# ---------------------------------------------------------------------------------- the terminal


def comparison_rows(document: ComparisonDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Give headers and rows that fit 80 columns; what stands in round brackets leads to `comparison_notes`."""
    headline, usual = document["headline_metric"], _usual(document)
    shown = (headline, *_SHOWN)
    notes = _Notes()
    rows = []
    for row in document["rows"]:
        figure = row["metrics"][headline]
        count = _one_count(row, shown)
        groups, spread = _groups(document, count), _spread(row["repeats"].get(headline, ()))
        ends = html.NO_VALUE if figure["low"] is None else f"{figure['low']:.2f}–{figure['high']:.2f}"
        marks = {m: _marked(notes, row["metrics"][m], usual, m) for m in shown}
        rows.append(
            (
                row["backbone"],
                ", ".join([row["variant"], *(label.removesuffix(" protocol") for label in _labels(document, row))]),
                f"{number(figure['value'])} {ends}{marks[headline]}",
                *(f"{number(row['metrics'][metric]['value'])}{marks[metric]}" for metric in _SHOWN),
                html.NO_VALUE if spread is None else f"{spread[0]:.2f}–{spread[1]:.2f}",
                f"{count['n']}/{html.NO_VALUE if groups is None else groups}",
            )
        )
    first = "Bal. accuracy" if headline == "balanced_accuracy" else _title(headline)
    return ("Backbone", "Variant", first, "MacroF1", "Acc.", "Repeats", "n/grp"), rows


def _marked(notes: _Notes, figure: Figure, usual: str | None, metric: str) -> str:
    """Give the mark of a figure's note, '' where it has none."""
    note = _figure_cell(figure, usual, metric).note
    return "" if note is None else f" ({notes.mark(note)})"


def comparison_notes(document: ComparisonDocument) -> list[str]:
    """Give the numbered notes that `comparison_rows` leads to."""
    usual, notes = _usual(document), _Notes()
    for row in document["rows"]:
        for metric in (document["headline_metric"], *_SHOWN):
            note = _figure_cell(row["metrics"][metric], usual, metric).note
            if note is not None:
                notes.mark(note)
    return [f"({place}) {note}" for place, note in enumerate(notes.listed, start=1)]


class _Notes:
    """Notes numbered in the order of their first mark; equal notes share a number."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def mark(self, note: str) -> int:
        """Give the number of a note."""
        if note not in self.listed:
            self.listed.append(note)
        return self.listed.index(note) + 1


# ---------------------------------------------------------------------------------- compare.md


def comparison_markdown(document: ComparisonDocument) -> str:
    """Give compare.md: warnings, what the table comes to, the table, then what lies behind it."""
    warnings = [
        f"> - **{_text(warning)}**" if warning.startswith(RANDOM) else f"> - {_text(warning)}"
        for warning in comparison_warnings(document)
    ]
    further = _further_grids(document)
    blocks = [
        f"# {_text(_page_title(document))}",
        "\n".join(["> **Warnings**", ">", *warnings]) if warnings else "",
        f"**{_text(comparison_finding(document))}**",
        RESEARCH_USE,
        "\n".join(f"- {title}: {_text(what)}" for title, what in _made(document)),
        "## The table",
        _text(_statement(document)),
        _markdown_grid(_table_grid(document)),
        "## Further figures",
        *map(_markdown_grid, further),
        "## Paired differences",
        *(_markdown_differences(document)),
        *(_markdown_optimism(document)),
        "## The paper's figures",
        _text(_paper_sentence(document)),
        "\n".join(f"- {_text(difference)}" for difference in document["protocol_differences"]),
        "## Candidates",
        _text(_unchosen(document)),
        *(_markdown_grid(_candidates_grid(document, row)) for row in document["rows"] if _tried(row)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_differences(document: ComparisonDocument) -> list[str]:
    blocks = []
    for metric in _difference_metrics(document):
        blocks += [_text(comparison_reading(document, metric)), _markdown_grid(_difference_grid(document, metric))]
    return blocks or [NO_DIFFERENCES]


def _markdown_optimism(document: ComparisonDocument) -> list[str]:
    if not document["optimistic"]:
        return []
    return [
        "## Optimism of the protocol",
        *([_markdown_grid(grid) for grid in _optimism_grids(document)] or [_text(NO_GROUPED)]),
    ]


def _markdown_grid(grid: _Grid) -> str:
    notes = _Notes()

    def shown(cell: _Cell) -> str:
        marks = [cell.under] if cell.under else []
        marks += [f"note {notes.mark(cell.note)}"] if cell.note is not None else []
        if not cell.text:
            return _text("; ".join(marks))
        return _text(f"{cell.text} ({'; '.join(marks)})" if marks else cell.text)

    lines = [
        [_text(column) for column in grid.columns],
        ["---"] * grid.names + ["---:"] * (len(grid.columns) - grid.names),
        *([shown(cell) for cell in row] for row in grid.rows),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    listed = "\n".join(f"{place}. {_text(note)}" for place, note in enumerate(notes.listed, start=1))
    return "\n\n".join(part for part in (_text(grid.caption), table, listed) if part)


_MARKDOWN = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#&~$"}


def _text(given: str) -> str:
    """Keep a name from being read as Markdown, HTML, mathematics or a line break."""
    return _plain(given).translate(_MARKDOWN)


def _plain(given: str) -> str:
    """Put text on one line, with the marks lost that a page would not show either."""
    line = "".join(" " if mark.isspace() and mark not in "\u00a0\u202f" else mark for mark in given)
    return unescape(html.escaped(line)).strip()


def _page_title(document: ComparisonDocument) -> str:
    return f"Comparison of {_subject(document)}" + (f" ({OPTIMISTIC})" if document["optimistic"] else "")


def _subject(document: ComparisonDocument) -> str:
    task = document["task"] + (f", {document['subset']}" if document["subset"] else "")
    return f"{counted(len(document['rows']), 'model')} on {task}"


def _made(document: ComparisonDocument) -> list[tuple[str, str]]:
    """Give how the comparison was made, term by term."""
    protocol = _protocol(document)
    asked = document["repeats_asked"]
    seconds = sum(row["seconds"] for row in document["rows"])
    return [
        ("Protocol", protocol),
        ("Images", _whole_counts(document)),
        ("Groups", _groups_told(document)),
        (
            "Partitions",
            _times(document) + (f", {asked} asked for" if asked != document["repeats"] else ""),
        ),
        ("Candidates", f"grid {document['grid']}"),
        ("Trained", f"{_TRAINED[document['tune']]}; {counted(document['views'], 'view')} of each training image"),
        ("Weights", "; ".join(dict.fromkeys(f"{r['backbone']}: {r['weights']}" for r in document["rows"]))),
        ("Made with", f"leuk {document['leuk_version']}, seed {document['seed']}, {document['created']}"),
        ("Intervals", f"{document['resamples']} resamples"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
        ("Looks", f"{document['looks']} at the images of this manifest, this comparison among them"),
        *([("Command", shlex.join(document["command"]))] if document["command"] else []),
        ("Manifest", document["manifest"]),
        ("Comparison", f"{document['id']}, {_hours(seconds)} of computing"),
    ]


def _groups_told(document: ComparisonDocument) -> str:
    if document["groups_source"] == "none":
        return "unknown"
    per_class = ", ".join(f"{name} {count}" for name, count in document["groups_per_class"].items())
    return f"{'ignored' if document['optimistic'] else document['groups_source']}; of each class: {per_class}"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _paper_sentence(document: ComparisonDocument) -> str:
    """Name the paper's figures, the one of this task first, and say what they are not."""
    published = _published(document)
    if not published:
        return "None is listed."
    named = "; ".join(f"{p['model']}, {p['task']}: {100 * p['value']:.2f} % {_inside(p['metric'])}" for p in published)
    return f"{named}. {_begun(NOT_COMPARABLE)}: how many images and patients they rest on is not published."


# ---------------------------------------------------------------------------------- compare.tex

_ROWS_A_FLOAT = 26


def comparison_latex(document: ComparisonDocument) -> str:
    """Give compare.tex: tables for \\input that need booktabs alone, in ASCII and the Latin-1 letters that OT1 has."""
    head = [
        f"{_page_title(document)}; {document['id']}",
        *([f"{_begun(OPTIMISTIC)}: every figure below."] if document["optimistic"] else []),
        *comparison_warnings(document),
        "The preamble needs \\usepackage{booktabs}.",
    ]
    comments = "\n".join(f"% {_plain(line)}".encode("ascii", errors="replace").decode() for line in head)
    name = re.sub(r"[^A-Za-z0-9]+", "-", document["id"]).strip("-")
    floats = []
    for grid in _grids(document):
        said = _statement(document) + (f" {RESEARCH_USE}" if grid.anchor == "table" else "")
        for place, part in enumerate(_parts(grid)):
            label = f"tab:{name}-{grid.anchor}" + (f"-{place + 1}" if place else "")
            floats.append("\n".join(_latex_float(part, said, label=label)))
    return "\n\n".join([comments, *floats]) + "\n"


def _parts(grid: _Grid) -> list[_Grid]:
    """Cut a table so that each part fits on a page."""
    count = max(1, -(-len(grid.rows) // _ROWS_A_FLOAT))
    each = -(-len(grid.rows) // count)
    parts = []
    for place in range(count):
        rows = grid.rows[place * each : (place + 1) * each]
        foreign = max(0, len(rows) - max(0, len(grid.rows) - grid.foreign - place * each))
        caption = grid.caption if count == 1 else f"{grid.caption} Part {place + 1} of {count}."
        parts.append(
            _Grid(
                anchor=grid.anchor,
                caption=caption,
                columns=grid.columns,
                rows=rows,
                names=grid.names,
                foreign=min(foreign, grid.foreign),
            )
        )
    return parts


def _latex_float(grid: _Grid, said: str, *, label: str) -> list[str]:
    notes = _Notes()
    width = len(grid.columns)
    lines = [
        "\\begin{table}[tbp]",
        "\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
        f"\\caption{{{_tex(f'{grid.caption} {said}')}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{@{{}}{'l' * grid.names}{'r' * (width - grid.names)}@{{}}}}",
        "\\toprule",
        " & ".join(map(_stacked, grid.columns)) + " \\\\",
        "\\midrule",
    ]
    for place, row in enumerate(grid.rows):
        if place:
            lines.append("\\midrule" if place == len(grid.rows) - grid.foreign else "\\addlinespace[2pt]")
        cells = []
        for cell in row:
            mark = "" if cell.note is None else f"\\textsuperscript{{{notes.mark(cell.note)}}}"
            cells.append(_tex(_closed(cell.text)) + mark)
        lines.append(" & ".join(cells) + " \\\\")
        if any(cell.under for cell in row):
            first, *rest = [_tex(_closed(cell.under)) for cell in row]
            rest = [f"({under})" if under else "" for under in rest]
            if first:
                spanned = grid.names if any(rest) else width
                rest = rest[spanned - 1 :]
                first = f"\\multicolumn{{{spanned}}}{{@{{}}l}}{{\\emph{{{first}}}}}"
            lines.append(" & ".join([first, *rest]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    if notes.listed:
        told = "; ".join(f"\\textsuperscript{{{i}}}~{_tex(note)}" for i, note in enumerate(notes.listed, start=1))
        lines.append(f"\\par\\smallskip\\parbox{{\\linewidth}}{{\\raggedright {told}.}}")
    return [*lines, "\\end{table}"]


def _stacked(title: str) -> str:
    """Set the words of a heading under one another, so that columns are as narrow as their figures."""
    words = "\\\\".join(map(_tex, title.split()))
    return words if " " not in title else f"\\shortstack{{{words}}}"


def _closed(text: str) -> str:
    """Write an interval without signs with a dash, as journals do."""
    return re.sub(r"^([0-9.]+) to ([0-9.]+)$", r"\1–\2", text)


_TEX = {
    **{mark: f"\\{mark}" for mark in "{}$&#%_"},
    **{mark: f"{{{mark}}}" for mark in "[]*`"},  # after the end of a row they would be read as its options
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "\\char34{}",
    "–": "\\textendash{}",
    "—": "\\textemdash{}",
    "−": "$-$",
    "×": "$\\times$",
    "±": "$\\pm$",
    "≤": "$\\le$",
    "≥": "$\\ge$",
    "→": "$\\to$",
    "°": "$^\\circ$",
    "·": "$\\cdot$",
    "‘": "`",
    "’": "'",
    "“": "\\textquotedblleft{}",
    "”": "\\textquotedblright{}",
    "…": "\\ldots{}",
    "\u202f": "\\,",
    "\u00a0": "~",
}
# Letters of Latin-1 that need no font encoding but OT1.
_TEX_LETTERS = frozenset(chr(code) for code in range(0xC0, 0x100)) - frozenset("ÐðÞþ×÷")


def _tex(given: str) -> str:
    """Keep a name from being read as LaTeX; a character that plain LaTeX cannot set becomes its code point."""
    marked = "".join(
        _TEX[c] if c in _TEX else c if c.isascii() or c in _TEX_LETTERS else f"{{[}}U+{ord(c):04X}{{]}}"
        for c in _plain(given)
    )
    return re.sub(r"([-'])(?=\1)", r"\1{}", marked)  # two of them would be read as one other mark


# ---------------------------------------------------------------------------------- compare.html


def comparison_page(document: ComparisonDocument) -> str:
    """Give compare.html, which asks for no other file."""
    lead = html.joined(
        [
            html.warnings_block(comparison_warnings(document)),
            html.paragraph(html.escaped(comparison_finding(document)), kind="lead"),
            html.paragraph(html.escaped(RESEARCH_USE), kind="use"),
        ]
    )
    optimism = html.joined([_html_grid(grid) for grid in _optimism_grids(document)] or [_said(NO_GROUPED)])
    sections = [
        Section(
            anchor="table",
            title="The table",
            body=html.joined(
                [_said(_statement(document)), _html_grid(_table_grid(document)), _html_partitions(document)]
            ),
        ),
        Section(anchor="differences", title="Paired differences", body=_html_differences(document)),
        *(
            [Section(anchor="optimism", title="Optimism of the protocol", body=optimism)]
            if document["optimistic"]
            else []
        ),
        Section(anchor="further", title="Further figures", body=html.joined(map(_html_grid, _further_grids(document)))),
        Section(
            anchor="paper",
            title="The paper’s figures",
            body=html.joined(
                [_said(_paper_sentence(document)), html.items(map(html.escaped, document["protocol_differences"]))]
            ),
        ),
        Section(anchor="candidates", title="Candidates", body=_html_candidates(document)),
        Section(
            anchor="made",
            title="How it was made",
            body=html.definitions((term, html.named(what)) for term, what in _made(document)),
        ),
    ]
    return html.page(
        title=_page_title(document),
        over=f"Comparison {document['id']}",
        lead=lead,
        sections=sections,
        footer=html.paragraph(html.escaped(f"Made by leuk {document['leuk_version']}.")),
    )


def _said(text: str) -> Markup:
    return html.paragraph(html.escaped(text)) if text else Markup("")


def _html_grid(grid: _Grid) -> Markup:
    """Give a table whose first column names the model, so that it fits a page and heads its rows on a phone."""
    notes = Footnotes(prefix=f"{grid.anchor}-note")
    merged = grid.columns[:2] == _MODEL

    def shown(cell: _Cell, *, name: bool) -> Markup:
        text = _closed(cell.text)
        parts = [html.named(text) if name else html.escaped(text)]
        if cell.key is not None:
            parts = [html.datum(cell.value, text, key=cell.key)]
        parts += [notes.mark(cell.note)] if cell.note is not None else []
        if cell.under:
            under = html.escaped(_closed(cell.under))
            loud = Markup(f"<strong>{under}</strong>") if RANDOM in cell.under else None
            parts += [Markup("<br>"), loud or Markup(f'<span class="pale">{under}</span>')]
        return html.joined(parts)

    rows = []
    for row in grid.rows:
        cells = (replace(row[1], text=f"{row[0].text} {row[1].text}", under=row[0].under), *row[2:]) if merged else row
        rows.append([shown(cell, name=place < grid.names - merged) for place, cell in enumerate(cells)])
    titles = ("Backbone and variant", *grid.columns[2:]) if merged else grid.columns
    columns = [Column(title=title, numeric=place >= grid.names - merged) for place, title in enumerate(titles)]
    return html.joined([html.table(columns, rows, caption=grid.caption), notes.listed()])


def _html_partitions(document: ComparisonDocument) -> Markup:
    """Fold away the spread of every metric; nothing where there was one partition."""
    if document["repeats"] < 2:
        return Markup("")
    metrics = [metric for metric in METRICS if any(_spread(row["repeats"].get(metric, ())) for row in document["rows"])]
    rows = tuple(
        (
            *_name_cells(document, row),
            *(
                _Cell(text=interval(*spread) if (spread := _spread(row["repeats"].get(metric, ()))) else html.NO_VALUE)
                for metric in metrics
            ),
            *_count_cells(document, _one_count(row, [document["headline_metric"]])),
        )
        for row in document["rows"]
    )
    grid = _Grid(
        anchor="partitions",
        caption=_captioned(
            document, f"least to greatest over {counted(document['repeats'], _part(document))}; no interval."
        ),
        columns=(*_MODEL, *map(_title, metrics), _unit(document), "Groups"),
        rows=rows,
    )
    return html.details("Every metric over the partitions", _html_grid(grid))


def _html_differences(document: ComparisonDocument) -> Markup:
    parts = []
    for metric in _difference_metrics(document):
        parts += [
            _said(comparison_reading(document, metric)),
            _forest(document, metric),
            _html_grid(_difference_grid(document, metric)),
        ]
    return html.joined(parts or [_said(NO_DIFFERENCES)])


def _forest(document: ComparisonDocument, metric: str) -> Markup:
    """Draw the differences, or where they are too many those of the model that is highest, it minus each other."""
    rows = [d for d in document["differences"] if d["metric"] == metric]
    which = "All differences of the table below"
    if len(rows) > _MOST_IN_CHART:
        values = {_name(row): row["metrics"][metric]["value"] for row in document["rows"]}
        top = max(
            (name for name, v in values.items() if v is not None), key=lambda name: values[name] or 0.0, default=""
        )
        rows = [d if _name(d["a"]) == top else _turned(d) for d in rows if top in (_name(d["a"]), _name(d["b"]))]
        which = f"{top}, which is highest, minus each model that it was compared with; all differences are in the table below"
    if not rows:
        return Markup("")
    chart = forest_plot(
        [
            Difference(
                name=f"{_brief(document, d['a'])} − {_brief(document, d['b'])}",
                value=d["value"],
                low=d["low"],
                high=d["high"],
                p=d["p_holm"],
                images=d["n"],
                groups=_groups(document, d),
            )
            for d in rows
        ],
        title=f"{_title(metric)} ({OPTIMISTIC})" if document["optimistic"] else f"Differences in {_inside(metric)}",
        x_title=f"difference in {_inside(metric)}",
    )
    caption = (
        f"{which}. An interval that holds 0 leaves open which of the two is better; "
        "intervals are not corrected for the number of comparisons, p is."
    )
    drawn = _recounted(document, chart, rows[0]["n"])
    return html.figure(drawn, caption=html.escaped(caption), of=_counts(document, rows[0]), beside=True)


def _brief(document: ComparisonDocument, model: ModelName) -> str:
    """Name a model by its variant alone where all are of one backbone."""
    return model["variant"] if len({row["backbone"] for row in document["rows"]}) == 1 else _name(model)


def _recounted(document: ComparisonDocument, chart: Markup, n: int) -> Markup:
    """Let a chart say copies where copies were counted; charts know of images alone."""
    if not document["optimistic"]:
        return chart
    return Markup(chart.replace(html.counts(n, None), f"{_thousands(n)} copies, groups ignored"))


def _turned(d: PairedDifference) -> PairedDifference:
    """Give the same difference the other way round."""
    value, low, high = (None if end is None else -end for end in (d["value"], d["high"], d["low"]))
    return {**d, "a": d["b"], "b": d["a"], "value": value, "low": low, "high": high}


def _html_candidates(document: ComparisonDocument) -> Markup:
    tried = {_name(row): _tried(row) for row in document["rows"]}
    if not any(tried.values()):
        return html.joined([_said("No candidates were compared."), _said(_unchosen(document))])
    tables = html.joined(_html_grid(_candidates_grid(document, row)) for row in document["rows"] if tried[_name(row)])
    charts = _candidate_charts(document, [one for several in tried.values() for one in several])
    told = (
        "Each candidate's balanced accuracy on images of the training part that it was not fitted on, mean over all folds "
        "and partitions. The one kept is optimistic, because it was kept for its score; the table is not touched by that."
    )
    return html.joined(
        [
            _said(told),
            _said(_unchosen(document)),
            html.pair(charts),
            html.details("Every candidate with its score", tables),
        ]
    )


def _candidate_charts(document: ComparisonDocument, tried: Sequence[_Tried]) -> list[Markup]:
    """Draw scores over each quantity that a variant's candidates differ in."""
    dealt = document["images"] if document["copies"] is None else document["copies"]
    known = None if document["groups_source"] == "none" or document["optimistic"] else document["groups"]
    quantities: tuple[tuple[str, bool, Callable[[_Tried], float | None]], ...] = (
        ("hidden units", True, lambda one: one.width),
        ("dropout rate", False, lambda one: one.rate),
        ("C", True, lambda one: one.cost),
    )
    charts = []
    for variant in dict.fromkeys(one.variant for one in tried):
        ours = [one for one in tried if one.variant == variant]
        for title, log, value in quantities:
            points = [(one, x) for one in ours if (x := value(one)) is not None]
            ticks = sorted({x for _, x in points})
            if len(ticks) < 2:
                continue
            chart = candidates_chart(
                [Candidate(series=one.family, x=x, y=one.mean, kept=_is_kept(one, ours)) for one, x in points],
                title=f"{variant} by {title}, optimistic"
                if document["optimistic"]
                else f"{variant}, candidates by {title}",
                x=Axis(title=title, log=log and ticks[0] > 0, ticks=ticks),
                y=Axis(title="validation balanced accuracy"),
                images=dealt,
                groups=known,
            )
            caption = html.escaped(f"{variant} by {title}. Ringed: kept in most fits of its backbone.")
            drawn = _recounted(document, chart, dealt)
            charts.append(html.figure(drawn, caption=caption, of=_whole_counts(document)))
    return charts


def _is_kept(one: _Tried, ours: Sequence[_Tried]) -> bool:
    """Say whether this candidate was kept in most fits of its model; of equals the first."""
    return one is max((other for other in ours if other.backbone == one.backbone), key=lambda other: other.kept)
