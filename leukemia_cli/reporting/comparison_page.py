"""A comparison as compare.html, a page that asks for no other file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from leukemia_cli.reporting import html
from leukemia_cli.reporting.caveats import RANDOM, RESEARCH_USE
from leukemia_cli.reporting.comparison import ComparisonDocument, ModelName, PairedDifference
from leukemia_cli.reporting.comparison_tables import (
    MODEL,
    Cell,
    Grid,
    Tried,
    candidates_grid,
    candidates_of,
    closed,
    difference_grid,
    difference_metrics,
    further_grids,
    optimism_grids,
    partitions_grid,
    table_grid,
)
from leukemia_cli.reporting.comparison_words import (
    NO_DIFFERENCES,
    NO_GROUPED,
    OPTIMISTIC,
    comparison_finding,
    comparison_reading,
    comparison_warnings,
    counts_behind,
    counts_dealt,
    how_made,
    known_groups,
    metric_inside,
    model_name,
    page_title,
    paper_sentence,
    statement,
    thousands,
    without_choice,
)
from leukemia_cli.reporting.figures import Candidate, Difference, candidates_chart, forest_plot
from leukemia_cli.reporting.html import Footnotes, Markup, Section
from leukemia_cli.reporting.scales import Axis
from leukemia_cli.reporting.wording import counts, metric_title

_MOST_IN_CHART = 12


def comparison_page(document: ComparisonDocument) -> str:
    """Give compare.html, which asks for no other file."""
    lead = html.joined(
        [
            html.warnings_block(comparison_warnings(document)),
            html.paragraph(html.escaped(comparison_finding(document)), kind="lead"),
            html.paragraph(html.escaped(RESEARCH_USE), kind="use"),
        ]
    )
    grids = [_html_grid(grid) for grid in optimism_grids(document)]
    optimism = ("optimism", "Optimism of the protocol", html.joined(grids or [_said(NO_GROUPED)]))
    sections = (
        ("table", "The table", _html_table(document)),
        ("differences", "Paired differences", _html_differences(document)),
        *([optimism] if document["optimistic"] else []),
        ("further", "Further figures", html.joined(map(_html_grid, further_grids(document)))),
        ("paper", "The paper’s figures", _html_paper(document)),
        ("candidates", "Candidates", _html_candidates(document)),
        ("made", "How it was made", html.definitions((term, html.named(what)) for term, what in how_made(document))),
    )
    return html.page(
        title=page_title(document),
        over=f"Comparison {document['id']}",
        lead=lead,
        sections=[Section(anchor=anchor, title=title, body=body) for anchor, title, body in sections],
        footer=html.paragraph(html.escaped(f"Made by leuk {document['leuk_version']}.")),
    )


def _said(text: str) -> Markup:
    return html.paragraph(html.escaped(text)) if text else Markup("")


def _html_grid(grid: Grid) -> Markup:
    """Give a table whose first column names the model, so that it fits a page and heads its rows on a phone."""
    notes = Footnotes(prefix=f"{grid.anchor}-note")
    merged = grid.columns[:2] == MODEL

    def shown(cell: Cell, *, name: bool) -> Markup:
        text = closed(cell.text)
        parts = [html.named(text) if name else html.escaped(text)]
        if cell.key is not None:
            parts = [html.datum(cell.value, text, key=cell.key)]
        parts += [notes.mark(cell.note)] if cell.note is not None else []
        if cell.under:
            under = html.escaped(closed(cell.under))
            loud = Markup(f"<strong>{under}</strong>") if RANDOM in cell.under else None
            parts += [Markup("<br>"), loud or Markup(f'<span class="pale">{under}</span>')]
        return html.joined(parts)

    rows = []
    for row in grid.rows:
        cells = (replace(row[1], text=f"{row[0].text} {row[1].text}", under=row[0].under), *row[2:]) if merged else row
        rows.append([shown(cell, name=place < grid.names - merged) for place, cell in enumerate(cells)])
    titles = ("Backbone and variant", *grid.columns[2:]) if merged else grid.columns
    columns = html.heads(*titles, names=grid.names - merged)
    return html.joined([html.table(columns, rows, caption=grid.caption), notes.listed()])


def _html_table(document: ComparisonDocument) -> Markup:
    """Give the table, and folded away the spread of every metric where there were several partitions."""
    parts = [_said(statement(document)), _html_grid(table_grid(document))]
    if document["repeats"] > 1:
        parts.append(html.details("Every metric over the partitions", _html_grid(partitions_grid(document))))
    return html.joined(parts)


def _html_paper(document: ComparisonDocument) -> Markup:
    differences = html.items(map(html.escaped, document["protocol_differences"]))
    return html.joined([_said(paper_sentence(document)), differences])


def _html_differences(document: ComparisonDocument) -> Markup:
    parts = []
    for metric in difference_metrics(document):
        parts += [
            _said(comparison_reading(document, metric)),
            _forest(document, metric),
            _html_grid(difference_grid(document, metric)),
        ]
    return html.joined(parts or [_said(NO_DIFFERENCES)])


def _forest(document: ComparisonDocument, metric: str) -> Markup:
    """Draw the differences, or where they are too many those of the model that is highest, it minus each other."""
    rows, inside = [d for d in document["differences"] if d["metric"] == metric], metric_inside(metric)
    which = "All differences of the table below"
    if len(rows) > _MOST_IN_CHART:
        values = {model_name(row): row["metrics"][metric]["value"] for row in document["rows"]}
        known = [(value, name) for name, value in values.items() if value is not None]
        top = max(known, key=lambda one: one[0], default=(0.0, ""))[1]
        ours = [d for d in rows if top in (model_name(d["a"]), model_name(d["b"]))]
        rows = [d if model_name(d["a"]) == top else _turned(d) for d in ours]
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
                groups=known_groups(document, d),
            )
            for d in rows
        ],
        title=f"{metric_title(metric)} ({OPTIMISTIC})" if document["optimistic"] else f"Differences in {inside}",
        x_title=f"difference in {inside}",
    )
    caption = (
        f"{which}. An interval that holds 0 leaves open which of the two is better; "
        "intervals are not corrected for the number of comparisons, p is."
    )
    drawn = _recounted(document, chart, rows[0]["n"])
    return html.figure(drawn, caption=html.escaped(caption), of=counts_behind(document, rows[0]), beside=True)


def _brief(document: ComparisonDocument, model: ModelName) -> str:
    """Name a model by its variant alone where all are of one backbone."""
    return model["variant"] if len({row["backbone"] for row in document["rows"]}) == 1 else model_name(model)


def _recounted(document: ComparisonDocument, chart: Markup, n: int) -> Markup:
    """Let a chart say copies where copies were counted; charts know of images alone."""
    if not document["optimistic"]:
        return chart
    return Markup(chart.replace(counts(n, None), f"{thousands(n)} {'copy' if n == 1 else 'copies'}, groups ignored"))


def _turned(d: PairedDifference) -> PairedDifference:
    """Give the same difference the other way round."""
    value, low, high = (None if end is None else -end for end in (d["value"], d["high"], d["low"]))
    return {**d, "a": d["b"], "b": d["a"], "value": value, "low": low, "high": high}


# ---------------------------------------------------------------------------------- candidates


def _html_candidates(document: ComparisonDocument) -> Markup:
    tried = {model_name(row): candidates_of(row) for row in document["rows"]}
    if not any(tried.values()):
        return html.joined([_said("No candidates were compared."), _said(without_choice(document))])
    tables = html.joined(
        _html_grid(candidates_grid(document, row)) for row in document["rows"] if tried[model_name(row)]
    )
    charts = _candidate_charts(document, [one for several in tried.values() for one in several])
    told = (
        "Each candidate's balanced accuracy on images of the training part that it was not fitted on, mean over all folds "
        "and partitions. The one kept is optimistic, because it was kept for its score; the table is not touched by that."
    )
    folded = html.details("Every candidate with its score", tables)
    return html.joined([_said(told), _said(without_choice(document)), html.pair(charts), folded])


def _candidate_charts(document: ComparisonDocument, tried: Sequence[Tried]) -> list[Markup]:
    """Draw scores over each quantity that a variant's candidates differ in."""
    dealt = document["images"] if document["copies"] is None else document["copies"]
    known = None if document["groups_source"] == "none" or document["optimistic"] else document["groups"]
    quantities: tuple[tuple[str, bool, Callable[[Tried], float | None]], ...] = (
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
            charts.append(html.figure(drawn, caption=caption, of=counts_dealt(document)))
    return charts


def _is_kept(one: Tried, ours: Sequence[Tried]) -> bool:
    """Say whether this candidate was kept in most fits of its model; of equals the first."""
    return one is max((other for other in ours if other.backbone == one.backbone), key=lambda other: other.kept)
