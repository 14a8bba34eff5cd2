"""The tables of a comparison, whatever the format: their rows, their notes, and the counts of every row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leukemia_cli.domain import counted
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting.comparison import (
    CandidateScore,
    ComparisonDocument,
    ComparisonRow,
    HeadCandidate,
    PairedDifference,
    SvmCandidate,
)
from leukemia_cli.reporting.comparison_words import (
    NOT_COMPARABLE,
    OPTIMISTIC,
    captioned,
    counts_dealt,
    known_groups,
    metric_inside,
    model_name,
    partition_noun,
    published,
    row_labels,
    subject,
    unit_title,
    usual_way,
)
from leukemia_cli.reporting.evaluation import Figure
from leukemia_cli.reporting.wording import NO_VALUE, begun, interval, metric_title, number, p_value, signed

MODEL = ("Backbone", "Variant")
SHOWN = ("macro_f1", "accuracy")
"""What stands in the table beside the headline."""
_FURTHER = (
    ("ranking", "correlation and ranking; greater is better.", ("mcc", "auroc", "sensitivity", "specificity")),
    ("probabilities", "probabilities; smaller is better.", ("brier", "ece", "log_loss")),
)
_OPTIONAL = ("sensitivity", "specificity")


# ---------------------------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Text, what stands beneath or in brackets after it, the note it leads to, and the number it shows."""

    text: str
    under: str = ""
    note: str | None = None
    value: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One table: `names` columns of text, then numbers; the last `foreign` rows are not ours."""

    anchor: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: int = 2
    foreign: int = 0


def figure_cell(figure: Figure, usual: str | None, key: str) -> Cell:
    """Give a figure with its interval; its method is a note unless it is the `usual` one, which is said above the table."""
    value = figure["value"]
    return Cell(
        text=number(value),
        under="" if value is None else interval(figure["low"], figure["high"]),
        note=figure["method"] if figure["low"] is None or figure["method"] != usual else None,
        value=value,
        key=key,
    )


def count_cells(document: ComparisonDocument, figure: Figure | PairedDifference) -> tuple[Cell, Cell]:
    """Give how many images or copies a row rests on, and how many groups."""
    groups = known_groups(document, figure)
    absent = "ignored" if document["optimistic"] else "unknown"
    return Cell(text=str(figure["n"])), Cell(text=absent if groups is None else str(groups))


def _name_cells(document: ComparisonDocument, row: ComparisonRow) -> tuple[Cell, Cell]:
    """Give backbone and variant, with what must be said of them."""
    return Cell(text=row["backbone"], under=", ".join(row_labels(document, row))), Cell(text=row["variant"])


def shared_counts(row: ComparisonRow, metrics: Sequence[str]) -> Figure:
    """Give a figure that stands for the counts of all; raises ValueError where they are not of the same images."""
    figures = [row["metrics"][metric] for metric in metrics]
    if len({(figure["n"], figure["groups"]) for figure in figures}) > 1:
        raise ValueError(f"{model_name(row)}: its figures are not of the same images")
    return figures[0]


def spread_of(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Give the least and greatest over partitions; None of fewer than two."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def closed(text: str) -> str:
    """Write an interval without signs with a dash, as journals do."""
    return re.sub(r"^([0-9.]+) to ([0-9.]+)$", r"\1–\2", text)


# ---------------------------------------------------------------------------------- the table and what lies behind it


def table_grid(document: ComparisonDocument) -> Grid:
    """Give the table itself: the headline with interval and spread, macro F1, accuracy; then the paper's figures."""
    headline, usual, repeats = document["headline_metric"], usual_way(document), document["repeats"]
    shown = (headline, *SHOWN)
    absent = Cell(text=NO_VALUE)
    unknown = replace(absent, note="the paper does not publish how many test images of how many patients these are")
    rows: list[tuple[Cell, ...]] = []
    for row in document["rows"]:
        first, *others = (figure_cell(row["metrics"][m], usual, f"{model_name(row)} {m}") for m in shown)
        spread = spread_of(row["repeats"].get(headline, ()))
        over = [absent if spread is None else Cell(text=interval(*spread))] if repeats > 1 else []
        counts = count_cells(document, shared_counts(row, shown))
        rows.append((*_name_cells(document, row), first, *over, *others, *counts))
    for paper in published(document):
        figure = Cell(text=f"{paper['value']:.4f}", value=paper["value"], key=f"paper {paper['task']}")
        first, *others = (figure if paper["metric"] == metric else absent for metric in shown)
        over = [absent] if repeats > 1 else []
        names = Cell(text="paper", under=f"{paper['task']}; {NOT_COMPARABLE}"), Cell(text=paper["model"])
        rows.append((*names, first, *over, *others, unknown, unknown))
    titles = [metric_title(headline), *([f"Min–max of {repeats}"] if repeats > 1 else []), *map(metric_title, SHOWN)]
    return Grid(
        anchor="table",
        caption=begun(captioned(document, f"comparison of {subject(document)}.")),
        columns=(*MODEL, *titles, unit_title(document), "Groups"),
        rows=tuple(rows),
        foreign=len(document["paper"]),
    )


def further_grids(document: ComparisonDocument) -> list[Grid]:
    """Give what tells classes apart and what probabilities are worth; a figure that no model has is left out."""
    usual, grids = usual_way(document), []
    for anchor, title, metrics in _FURTHER:
        shown = [
            metric
            for metric in metrics
            if metric not in _OPTIONAL or any(row["metrics"][metric]["value"] is not None for row in document["rows"])
        ]
        rows = tuple(
            (
                *_name_cells(document, row),
                *(figure_cell(row["metrics"][metric], usual, f"{model_name(row)} {metric}") for metric in shown),
                *count_cells(document, shared_counts(row, shown)),
            )
            for row in document["rows"]
        )
        columns = (*MODEL, *map(metric_title, shown), unit_title(document), "Groups")
        caption = begun(captioned(document, title))
        grids.append(Grid(anchor=anchor, caption=caption, columns=columns, rows=rows))
    return grids


def partitions_grid(document: ComparisonDocument) -> Grid:
    """Give the spread of every metric over the partitions; one that is known of fewer than two is left out."""
    rows, headline = document["rows"], document["headline_metric"]
    spreads = [{metric: spread_of(row["repeats"].get(metric, ())) for metric in METRICS} for row in rows]
    shown = [metric for metric in METRICS if any(spread[metric] for spread in spreads)]
    over = counted(document["repeats"], partition_noun(document))
    return Grid(
        anchor="partitions",
        caption=captioned(document, f"least to greatest over {over}; no interval."),
        columns=(*MODEL, *map(metric_title, shown), unit_title(document), "Groups"),
        rows=tuple(
            (
                *_name_cells(document, row),
                *(Cell(text=interval(*(spread[metric] or (None, None)))) for metric in shown),
                *count_cells(document, shared_counts(row, [headline])),
            )
            for row, spread in zip(rows, spreads, strict=True)
        ),
    )


def difference_grid(document: ComparisonDocument, metric: str) -> Grid:
    """Give the paired differences in one metric, whose way is a note and whose test is another."""
    label = OPTIMISTIC if document["optimistic"] else ""
    rows = []
    for d in document["differences"]:
        if d["metric"] != metric:
            continue
        names, ends = f"{model_name(d['a'])} − {model_name(d['b'])}", interval(d["low"], d["high"], signs=True)
        rows.append(
            (
                Cell(text=names, under=label),
                Cell(text=signed(d["value"]), under=ends, note=d["method"], value=d["value"], key=f"{names} {metric}"),
                Cell(text=p_value(d["p"])),
                Cell(text=p_value(d["p_holm"])),
                Cell(text="", note=d["test"]),
                *count_cells(document, d),
            )
        )
    return Grid(
        anchor=f"differences-{metric.replace('_', '-')}",
        caption=begun(
            captioned(
                document, f"paired differences in {metric_inside(metric)}, first minus second, on the same images."
            )
        ),
        columns=("Models", "Difference", "p", "p after Holm", "Test", unit_title(document), "Groups"),
        rows=tuple(rows),
        names=1,
    )


def difference_metrics(document: ComparisonDocument) -> list[str]:
    """Give the metrics that models were compared in."""
    return list(dict.fromkeys(d["metric"] for d in document["differences"]))


def optimism_grids(document: ComparisonDocument) -> list[Grid]:
    """Give a table for each metric that is known under both protocols."""
    grids = []
    for metric in dict.fromkeys(o["metric"] for o in document["optimism"]):
        rows = []
        for o in document["optimism"]:
            if o["metric"] != metric:
                continue
            name, grouped = f"{model_name(o)} {metric}", o["grouped"]
            rows.append(
                (
                    Cell(text=o["backbone"], under=OPTIMISTIC),
                    Cell(text=o["variant"]),
                    figure_cell(o["optimistic"], None, f"{name} optimistic"),
                    Cell(text=str(o["optimistic"]["n"])),
                    figure_cell(grouped, None, f"{name} grouped"),
                    Cell(text=str(grouped["n"])),
                    Cell(text=str(grouped["groups"]) if grouped["groups"] < grouped["n"] else "one an image"),
                    Cell(text=signed(o["difference"]), value=o["difference"], key=f"{name} optimism"),
                )
            )
        grids.append(
            Grid(
                anchor=f"optimism-{metric.replace('_', '-')}",
                caption=f"Optimism of the protocol in {metric_inside(metric)}: the figure of the optimistic protocol minus "
                "that of grouped folds of the same data set. The difference is not tested and has no interval.",
                columns=(*MODEL, "Optimistic", "Copies", "Grouped", "Images", "Groups", "Optimism"),
                rows=tuple(rows),
            )
        )
    return grids


# ---------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
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


def candidates_of(row: ComparisonRow) -> list[Tried]:
    """Gather each candidate's scores over folds and partitions; of a fit the highest score is kept, then the lowest loss."""
    found: dict[str, list[CandidateScore]] = {}
    kept: list[str] = []
    for chosen in row["choices"]:
        for trial in chosen["trials"]:
            found.setdefault(_candidate_title(trial["choice"]), []).append(trial)
        if chosen["trials"]:
            best = max(chosen["trials"], key=lambda trial: (trial["balanced_accuracy"], -trial["log_loss"]))
            kept.append(_candidate_title(best["choice"]))
    tried = []
    for title, trials in found.items():
        choice = trials[0]["choice"]
        features = "" if choice["selected"] is None else f", {choice['selected']} features"
        tried.append(
            Tried(
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


def candidates_grid(document: ComparisonDocument, row: ComparisonRow) -> Grid:
    """Give the candidates of a model that had any to choose from."""
    tried = candidates_of(row)
    label = ", ".join(row_labels(document, row))
    return Grid(
        anchor="candidates",
        caption=captioned(
            document,
            f"{model_name(row)}, validation balanced accuracy of each candidate: mean and, least to greatest, "
            f"{counted(tried[0].fits, 'fit')}; each scored inside the training part of one, {counts_dealt(document)} in all.",
        ),
        columns=("Candidate", "Validation", "Log loss", "Kept"),
        rows=tuple(
            (
                Cell(text=one.title, under=label),
                Cell(
                    text=number(one.mean),
                    under=interval(min(one.scores), max(one.scores)) if len(one.scores) > 1 else "",
                    value=one.mean,
                    key=f"{model_name(row)} {one.title}",
                ),
                Cell(text=number(sum(one.losses) / len(one.losses))),
                Cell(text=f"{one.kept} of {one.fits}"),
            )
            for one in tried
        ),
        names=1,
    )
