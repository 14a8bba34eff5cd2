"""A comparison as compare.csv, as compare.md and on a terminal.

A figure of the optimistic protocol is called that in every row.
"""

from __future__ import annotations

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.reporting import markdown
from leukemia_cli.reporting.caveats import RANDOM, RESEARCH_USE
from leukemia_cli.reporting.comparison import ComparisonDocument
from leukemia_cli.reporting.comparison_tables import (
    SHOWN,
    Cell,
    Grid,
    candidates_grid,
    candidates_of,
    difference_grid,
    difference_metrics,
    figure_cell,
    further_grids,
    optimism_grids,
    shared_counts,
    spread_of,
    table_grid,
)
from leukemia_cli.reporting.comparison_words import (
    NO_DIFFERENCES,
    NO_GROUPED,
    OPTIMISTIC,
    comparison_finding,
    comparison_reading,
    comparison_warnings,
    how_made,
    known_groups,
    page_title,
    paper_sentence,
    row_labels,
    statement,
    unit_title,
    usual_way,
    without_choice,
)
from leukemia_cli.reporting.wording import NO_VALUE, Notes, metric_title

# ---------------------------------------------------------------------------------- compare.csv


def comparison_csv(document: ComparisonDocument) -> bytes:
    """Give compare.csv: one row for each model and metric, in the order of the document; numbers read back the same.

    Empty are a value or an interval that does not exist (`method` says why), `groups` where unknown, and the ends of
    `repeat_min` to `repeat_max` of fewer than two partitions. Names that were not UTF-8 come out as the bytes they were.
    """
    protocol = f"{document['protocol']}: {OPTIMISTIC}" if document["optimistic"] else document["protocol"]
    lines: list[list[str | float | None]] = [
        [
            "protocol", "task", "subset", "manifest", "backbone", "variant", "weights", "random_weights", "metric",
            "value", "low", "high", "n", "counted", "groups", "method", "repeats", "repeat_min", "repeat_max",
        ]
    ]  # fmt: skip
    for row in document["rows"]:
        for metric, figure in row["metrics"].items():
            values = row["repeats"].get(metric, [])
            least, most = spread_of(values) or (None, None)
            lines.append(
                [
                    protocol, document["task"], document["subset"], document["manifest"], row["backbone"], row["variant"],
                    row["weights"], RANDOM if row["random_weights"] else None, metric,
                    figure["value"], figure["low"], figure["high"], figure["n"], unit_title(document).lower(),
                    known_groups(document, figure), figure["method"], len(values), least, most,
                ]
            )  # fmt: skip
    return "".join(map(csv_line, lines)).encode("utf-8", errors="surrogateescape")


# ---------------------------------------------------------------------------------- the terminal


def comparison_rows(document: ComparisonDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Give headers and rows that fit 80 columns; what stands in round brackets leads to `comparison_notes`."""
    headline = document["headline_metric"]
    first = "Bal. accuracy" if headline == "balanced_accuracy" else metric_title(headline)
    return ("Backbone", "Variant", first, "MacroF1", "Acc.", "Repeats", "n/grp"), _noted_rows(document)[0]


def comparison_notes(document: ComparisonDocument) -> list[str]:
    """Give the numbered notes that `comparison_rows` leads to."""
    return [f"({place}) {note}" for place, note in enumerate(_noted_rows(document)[1].listed, start=1)]


def _noted_rows(document: ComparisonDocument) -> tuple[list[tuple[str, ...]], Notes]:
    headline, usual = document["headline_metric"], usual_way(document)
    shown = (headline, *SHOWN)
    notes = Notes()
    rows = []
    for row in document["rows"]:
        cells = {metric: figure_cell(row["metrics"][metric], usual, metric) for metric in shown}
        marks = {m: "" if cell.note is None else f" ({notes.mark(cell.note)})" for m, cell in cells.items()}
        figure, count = row["metrics"][headline], shared_counts(row, shown)
        groups, spread = known_groups(document, count), spread_of(row["repeats"].get(headline, ()))
        ends = NO_VALUE if figure["low"] is None else f"{figure['low']:.2f}–{figure['high']:.2f}"
        rows.append(
            (
                row["backbone"],
                ", ".join([row["variant"], *(label.removesuffix(" protocol") for label in row_labels(document, row))]),
                f"{cells[headline].text} {ends}{marks[headline]}",
                *(f"{cells[metric].text}{marks[metric]}" for metric in SHOWN),
                NO_VALUE if spread is None else f"{spread[0]:.2f}–{spread[1]:.2f}",
                f"{count['n']}/{NO_VALUE if groups is None else groups}",
            )
        )
    return rows, notes


# ---------------------------------------------------------------------------------- compare.md


def comparison_markdown(document: ComparisonDocument) -> str:
    """Give compare.md: warnings, what the table comes to, the table, then what lies behind it."""
    blocks = [
        f"# {markdown.text(page_title(document))}",
        markdown.warnings_block([markdown.text(warning) for warning in comparison_warnings(document)]),
        f"**{markdown.text(comparison_finding(document))}**",
        RESEARCH_USE,
        "\n".join(f"- {title}: {markdown.text(what)}" for title, what in how_made(document)),
        "## The table",
        markdown.text(statement(document)),
        _markdown_grid(table_grid(document)),
        "## Further figures",
        *map(_markdown_grid, further_grids(document)),
        "## Paired differences",
        *_markdown_differences(document),
        *_markdown_optimism(document),
        "## The paper's figures",
        markdown.text(paper_sentence(document)),
        "\n".join(f"- {markdown.text(difference)}" for difference in document["protocol_differences"]),
        "## Candidates",
        markdown.text(without_choice(document)),
        *(_markdown_grid(candidates_grid(document, row)) for row in document["rows"] if candidates_of(row)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_differences(document: ComparisonDocument) -> list[str]:
    blocks = []
    for metric in difference_metrics(document):
        blocks += [
            markdown.text(comparison_reading(document, metric)),
            _markdown_grid(difference_grid(document, metric)),
        ]
    return blocks or [NO_DIFFERENCES]


def _markdown_optimism(document: ComparisonDocument) -> list[str]:
    if not document["optimistic"]:
        return []
    return [
        "## Optimism of the protocol",
        *([_markdown_grid(grid) for grid in optimism_grids(document)] or [markdown.text(NO_GROUPED)]),
    ]


def _markdown_grid(grid: Grid) -> str:
    notes = Notes()

    def shown(cell: Cell) -> str:
        marks = [cell.under] if cell.under else []
        marks += [f"note {notes.mark(cell.note)}"] if cell.note is not None else []
        if not cell.text:
            return markdown.text("; ".join(marks))
        return markdown.text(f"{cell.text} ({'; '.join(marks)})" if marks else cell.text)

    table = markdown.table(
        [markdown.text(column) for column in grid.columns],
        [[shown(cell) for cell in row] for row in grid.rows],
        names=grid.names,
    )
    parts = (markdown.text(grid.caption), table, markdown.numbered(map(markdown.text, notes.listed)))
    return "\n\n".join(part for part in parts if part)
