"""A comparison as compare.tex: tables for \\input, in which no name is read as LaTeX."""

from __future__ import annotations

import re
from dataclasses import replace

from leukemia_cli.reporting.caveats import RESEARCH_USE
from leukemia_cli.reporting.comparison import ComparisonDocument
from leukemia_cli.reporting.comparison_tables import (
    Grid,
    closed,
    difference_grid,
    difference_metrics,
    further_grids,
    optimism_grids,
    table_grid,
)
from leukemia_cli.reporting.comparison_words import OPTIMISTIC, comparison_warnings, page_title, statement
from leukemia_cli.reporting.html import plain
from leukemia_cli.reporting.wording import Notes, begun

_ROWS_A_FLOAT = 26


def comparison_latex(document: ComparisonDocument) -> str:
    """Give compare.tex: tables for \\input that need booktabs alone, in ASCII and the Latin-1 letters that OT1 has."""
    head = [
        f"{page_title(document)}; {document['id']}",
        *([f"{begun(OPTIMISTIC)}: every figure below."] if document["optimistic"] else []),
        *comparison_warnings(document),
        "The preamble needs \\usepackage{booktabs}.",
    ]
    comments = "\n".join(f"% {plain(line)}".encode("ascii", errors="replace").decode() for line in head)
    name = re.sub(r"[^A-Za-z0-9]+", "-", document["id"]).strip("-")
    floats = []
    for grid in _grids(document):
        said = statement(document) + (f" {RESEARCH_USE}" if grid.anchor == "table" else "")
        for place, part in enumerate(_parts(grid)):
            label = f"tab:{name}-{grid.anchor}" + (f"-{place + 1}" if place else "")
            floats.append("\n".join(_latex_float(part, said, label=label)))
    return "\n\n".join([comments, *floats]) + "\n"


def _grids(document: ComparisonDocument) -> list[Grid]:
    """Give every table that a reader outside the page gets, in order."""
    differences = [difference_grid(document, metric) for metric in difference_metrics(document)]
    return [table_grid(document), *further_grids(document), *differences, *optimism_grids(document)]


def _parts(grid: Grid) -> list[Grid]:
    """Cut a table so that each part fits on a page."""
    count = max(1, -(-len(grid.rows) // _ROWS_A_FLOAT))
    each = -(-len(grid.rows) // count)
    parts = []
    for place in range(count):
        rows = grid.rows[place * each : (place + 1) * each]
        foreign = max(0, len(rows) - max(0, len(grid.rows) - grid.foreign - place * each))
        caption = grid.caption if count == 1 else f"{grid.caption} Part {place + 1} of {count}."
        parts.append(replace(grid, caption=caption, rows=rows, foreign=foreign))
    return parts


def _latex_float(grid: Grid, said: str, *, label: str) -> list[str]:
    notes = Notes()
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
            cells.append(_tex(closed(cell.text)) + mark)
        lines.append(" & ".join(cells) + " \\\\")
        if any(cell.under for cell in row):
            first, *rest = [_tex(closed(cell.under)) for cell in row]
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
        for c in plain(given)
    )
    return re.sub(r"([-'])(?=\1)", r"\1{}", marked)  # two of them would be read as one other mark
