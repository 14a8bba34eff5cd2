"""One comparison in every format: the same figures, never without counts, and never called more than they are."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from drawn_comparisons import HOSTILE, TOO_FEW, drawn, figure
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting.caveats import RANDOM, RESEARCH_USE
from leukemia_cli.reporting.comparison import ComparisonDocument
from leukemia_cli.reporting.comparison_latex import comparison_latex
from leukemia_cli.reporting.comparison_page import comparison_page
from leukemia_cli.reporting.comparison_text import (
    comparison_csv,
    comparison_markdown,
    comparison_notes,
    comparison_rows,
)
from leukemia_cli.reporting.comparison_words import (
    NO_GROUPED,
    NOT_COMPARABLE,
    OPTIMISTIC,
    comparison_finding,
    comparison_reading,
    comparison_warnings,
)

# ---------------------------------------------------------------------------------- reading what was written


def csv_rows(document: ComparisonDocument) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(comparison_csv(document).decode(), newline=""), strict=True))


def markdown_tables(text: str) -> list[list[dict[str, str]]]:
    """Give each table as rows by heading; every row must have the columns of its heading."""
    tables = []
    for block in text.split("\n\n"):
        if not block.startswith("| "):
            continue
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        head, _, *body = [[cell.strip() for cell in line] for line in lines]
        tables.append([dict(zip(head, line, strict=True)) for line in body])
    return tables


def tex_tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Give the caption and the rows of cells of each table; the line below a row follows it as one of its own."""
    tables = []
    for block in text.split("\\begin{table}")[1:]:
        caption = next(line for line in block.splitlines() if line.startswith("\\caption{"))
        body = block.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
        lines = [line for line in body.splitlines() if not line.startswith(("\\addlinespace", "\\midrule"))]
        assert all(line.endswith(" \\\\") for line in lines)
        tables.append((caption, [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in lines]))
    return tables


class Page(HTMLParser):
    """What a page shows: numbers by key, rows of tables as text, tags, and all text."""

    def __init__(self, document: ComparisonDocument) -> None:
        super().__init__()
        self.data: dict[str, float | None] = {}
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._cell = False
        self.source = comparison_page(document)
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        self.links += [str(given["href"])] if "href" in given else []
        if tag == "data":
            assert given["data-key"] not in self.data
            self.data[str(given["data-key"])] = float(given["value"]) if given["value"] else None
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        if tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


# ---------------------------------------------------------------------------------- the figures


def test_csv_has_every_figure_of_every_model_whole() -> None:
    document = drawn(methods=[TOO_FEW])
    rows = csv_rows(document)
    assert len(rows) == 12 * len(METRICS)
    by_key = {(row["backbone"], row["variant"], row["metric"]): row for row in rows}
    for model in document["rows"]:
        for name, known in model["metrics"].items():
            row = by_key[model["backbone"], model["variant"], name]
            assert float(row["value"]) == known["value"]
            assert (row["low"], row["high"]) == (
                whole(known["low"]),
                whole(known["high"]),
            )
            assert (row["n"], row["groups"], row["method"]) == ("260", "31", known["method"])
            values = [value for value in model["repeats"][name] if value is not None]
            assert (float(row["repeat_min"]), float(row["repeat_max"])) == (min(values), max(values))
            assert (row["protocol"], row["task"], row["manifest"]) == ("grouped", "binary", "0123456789abcdef")


def whole(value: float | None) -> str:
    return "" if value is None else repr(value)


def test_the_page_has_every_figure_of_the_document_and_of_nothing_else() -> None:
    document = drawn()
    page = Page(document)
    expected = {
        f"{row['backbone']} {row['variant']} {name}": row["metrics"][name]["value"]
        for row in document["rows"]
        for name in METRICS
    }
    shown = {key: value for key, value in page.data.items() if key.rsplit(" ", 1)[-1] in METRICS and "−" not in key}
    assert shown == expected
    differences = {key: value for key, value in page.data.items() if "−" in key}
    assert sorted(differences.values()) == sorted(d["value"] for d in document["differences"])


def test_every_row_of_figures_has_its_images_and_groups() -> None:
    document = drawn()
    ours = "senet|resnext|inception"
    for table in markdown_tables(comparison_markdown(document)):
        for row in table:
            if "Validation" not in row and next(iter(row.values())).startswith(tuple(ours.split("|"))):
                assert (row["Images"], row["Groups"]) == ("260", "31")
    for _, rows in tex_tables(comparison_latex(document)):
        named = [row for row in rows if re.match(ours, row[0])]
        assert named and all([cell.strip() for cell in row[-2:]] == ["260", "31"] for row in named)
    page = [row for row in Page(document).rows if re.match(ours, row[0])]
    assert len(page) == 4 * 12 + 2 * 66 and all(row[-2:] == ["260", "31"] for row in page)
    assert all(row[-1] == "260/31" for row in comparison_rows(document)[1])


def test_unknown_groups_are_called_unknown() -> None:
    document = drawn(groups_source="none")
    assert {row["groups"] for row in csv_rows(document)} == {""}
    assert "260 images, groups unknown" in comparison_finding(document)
    main = markdown_tables(comparison_markdown(document))[0]
    assert [row["Groups"] for row in main[:12]] == ["unknown"] * 12
    assert {row[-1] for row in comparison_rows(document)[1]} == {"260/–"}
    assert any("optimistic" in warning for warning in comparison_warnings(document))


def test_an_interval_that_does_not_exist_is_a_dash_with_the_reason() -> None:
    document = drawn(("senet",), methods=[TOO_FEW] * 4)
    text = comparison_markdown(document)
    first = markdown_tables(text)[0][0]
    assert re.fullmatch(r"0\.\d{3} \(–; note 1\)", first["Balanced accuracy"])
    assert f"1. {TOO_FEW}" in text
    assert "No figure has an interval" in text
    caption, rows = tex_tables(comparison_latex(document))[0]
    assert "No figure has an interval" in caption
    assert rows[0][2].strip().endswith("\\textsuperscript{1}") and rows[1][2].strip() == "(\\textendash{})"
    assert f"\\textsuperscript{{1}}~{TOO_FEW}" in comparison_latex(document)
    assert comparison_notes(document) == [f"(1) {TOO_FEW}"]
    assert all(row[2].endswith(" – (1)") for row in comparison_rows(document)[1])
    page = Page(document)
    assert re.fullmatch(r"0\.\d{3}1 –", next(row for row in page.rows if row[0] == "senet base")[1])
    assert f"{TOO_FEW[0].upper()}{TOO_FEW[1:]}." in page.text


def test_a_figure_that_is_undefined_is_a_dash_or_left_out() -> None:
    document = drawn(("senet",), ("base",))
    document["rows"][0]["metrics"] |= {
        "auroc": figure(None, method="undefined: every image is of class ALL"),
        "sensitivity": figure(None, method="undefined beyond two classes"),
    }
    (row,) = markdown_tables(comparison_markdown(document))[1]
    assert row["AUROC"] == "– (note 1)" and "Sensitivity" not in row and "Specificity" in row
    assert [r["value"] for r in csv_rows(document) if r["metric"] == "sensitivity"] == [""]


def test_partitions_show_their_spread_and_that_it_is_no_interval() -> None:
    document = drawn()
    row = markdown_tables(comparison_markdown(document))[0][0]
    values = document["rows"][0]["repeats"]["balanced_accuracy"]
    assert row["Min–max of 3"] == f"{min(values):.3f} to {max(values):.3f}"
    said = "Each interval is that of the first partition, conditional on its fitted models"
    for text in (comparison_markdown(document), Page(document).text, tex_tables(comparison_latex(document))[0][0]):
        assert said in text.replace("\\", "") and "only the spread is given" in text
    alone = drawn(repeats=1)
    assert "Min–max of 1" not in comparison_markdown(alone) and "only the spread" not in comparison_markdown(alone)
    assert {row[5] for row in comparison_rows(alone)[1]} == {"–"}


def test_figures_of_different_images_are_refused() -> None:
    document = drawn()
    document["rows"][3]["metrics"]["accuracy"]["n"] = 259
    for write in (comparison_markdown, comparison_latex, comparison_page, comparison_rows):
        with pytest.raises(ValueError, match="senet dropout: its figures are not of the same images"):
            write(document)


def test_a_caption_for_latex_says_what_the_table_rests_on() -> None:
    text = comparison_latex(drawn(subset="3 of five classes", classes=["ALL", "AML", "HTL"], task="five-class"))
    for caption, _ in tex_tables(text):
        for said in (
            "Whole groups",
            "3 of five classes (ALL, AML, HTL)",
            "260 images, 31 groups",
            "group bootstrap (95 \\%",
        ):
            assert said in caption
        assert "5 folds $\\times$ 3 partitions" in caption
    assert (
        text.count("\\toprule") == text.count("\\bottomrule") == len(re.findall("^.begin.table.", text, re.MULTILINE))
    )
    assert "usepackage" not in re.sub("^%.*$", "", text, flags=re.MULTILINE)


def test_a_long_table_for_latex_is_cut_and_loses_no_row() -> None:
    document = drawn()
    tables = [rows for caption, rows in tex_tables(comparison_latex(document)) if "balanced accuracy, first" in caption]
    assert len(tables) == 3 and max(map(len, tables)) <= 2 * 26
    named = [rows[i][0].strip() for rows in tables for i in range(0, len(rows), 2)]
    assert len(named) == len(set(named)) == 66
    labels = re.findall(r"\\label\{(.*?)\}", comparison_latex(document))
    assert len(labels) == len(set(labels)) and all(re.fullmatch(r"tab:[A-Za-z0-9-]+", label) for label in labels)


@pytest.mark.parametrize("backbones", [("senet", "resnext", "inception"), ("seresnext50",)])
def test_the_paper_s_models_fit_a_terminal(backbones: tuple[str, ...]) -> None:
    headers, rows = comparison_rows(drawn(backbones))
    widths = [max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    if "senet" in backbones:
        assert sum(widths) + 3 * len(widths) + 1 <= 80, "with a frame"


def test_no_differences_is_said() -> None:
    document = drawn(("senet",), ("base",))
    assert comparison_reading(document, "balanced_accuracy") == ""
    for text in (comparison_markdown(document), Page(document).text):
        assert "No differences were computed" in text


# ---------------------------------------------------------------------------------- what must be said


def test_the_optimistic_protocol_is_named_in_every_row_of_every_format() -> None:
    document = drawn(optimistic=True)
    ours = ("senet", "resnext", "inception")
    assert {row["protocol"] for row in csv_rows(document)} == {f"paper: {OPTIMISTIC}"}
    assert {row["counted"] for row in csv_rows(document)} == {"copies"}
    text = comparison_markdown(document)
    assert OPTIMISTIC in text.splitlines()[0]
    for table in markdown_tables(text):
        for row in table:
            first = next(iter(row.values()))
            assert OPTIMISTIC in first or NOT_COMPARABLE in first
    latex = comparison_latex(document)
    assert "optimistic protocol" in latex.splitlines()[0]
    for caption, rows in tex_tables(latex):
        assert "ptimistic protocol" in caption
        for row, below in itertools.pairwise(rows):
            assert not row[0].startswith(ours) or OPTIMISTIC in below[0]
    page = Page(document)
    named = [row for row in page.rows if row[0].startswith(ours)]
    assert named and all(OPTIMISTIC in row[0] for row in named)
    assert re.search(r"<title>[^<]*optimistic protocol[^<]*</title>", page.source)
    assert all("optimistic" in row[1] for row in comparison_rows(document)[1])
    assert OPTIMISTIC in comparison_warnings(document)[0] and OPTIMISTIC in comparison_finding(document)
    for told in (text, page.text):
        assert "Optimism of the protocol" in told and "312 images" not in told


def test_copies_are_called_copies() -> None:
    document = drawn(optimistic=True)
    row = markdown_tables(comparison_markdown(document))[0][0]
    assert (row["Copies"], row["Groups"]) == ("312", "ignored")
    assert "1\u202f560 copies of 260 images, 31 groups" in comparison_markdown(document)
    assert "312 copies, groups ignored" in comparison_finding(document)


def test_optimism_is_the_difference_between_the_protocols() -> None:
    document = drawn(optimistic=True)
    table = next(t for t in markdown_tables(comparison_markdown(document)) if "Optimism" in t[0])
    assert len(table) == 12
    for row, known in zip(table, document["optimism"], strict=True):
        assert (row["Copies"], row["Images"], row["Groups"]) == ("312", "260", "31")
        assert row["Grouped"].startswith("0.500 (0.460 to 0.540")
        assert known["difference"] is not None and float(row["Optimism"].replace("−", "-")) == round(
            known["difference"], 3
        )
    alone = drawn(optimistic=True, optimism=[])
    assert NO_GROUPED in comparison_markdown(alone) and NO_GROUPED in Page(alone).text
    assert "Optimism of the protocol" not in comparison_markdown(drawn())


@pytest.mark.parametrize(("task", "first"), [("binary", "0.9984"), ("five-class", "0.8448")])
def test_the_paper_s_figures_stand_beside_ours_as_not_comparable(task: str, first: str) -> None:
    document = drawn(task=task)
    ours = markdown_tables(comparison_markdown(document))[0]
    assert [row["Accuracy"] for row in ours[12:]] == [first, "0.8448" if first == "0.9984" else "0.9984"]
    assert all(NOT_COMPARABLE in row["Backbone"] and row["Images"].startswith("–") for row in ours[12:])
    _, rows = tex_tables(comparison_latex(document))[0]
    assert sum(NOT_COMPARABLE in cell for row in rows for cell in row) == 2
    page = Page(document)
    assert sum(NOT_COMPARABLE in row[0] for row in page.rows) == 2
    for text in (comparison_markdown(document), page.text):
        assert "99.84 %" in text and "84.48 %" in text and "their split is not published" in text


def test_random_weights_are_shouted_in_every_format() -> None:
    document = drawn(warnings=["another warning"])
    document["rows"][1]["random_weights"] = True
    assert comparison_warnings(document)[0].startswith(f"{RANDOM}: the backbone of senet svm started")
    assert "> - **RANDOM WEIGHTS" in comparison_markdown(document)
    assert [row["random_weights"] for row in csv_rows(document)].count(RANDOM) == len(METRICS)
    assert RANDOM in markdown_tables(comparison_markdown(document))[0][1]["Backbone"]
    assert RANDOM in comparison_rows(document)[1][1][1]
    page = Page(document)
    assert f"<strong>{RANDOM}</strong>" in page.source
    assert all(RANDOM in row[0] for row in page.rows if row[0].startswith("senet svm ") and "−" not in row[0])
    assert RANDOM in tex_tables(comparison_latex(document))[0][1][3][0]
    for row in document["rows"]:
        row["random_weights"] = True
    assert comparison_warnings(document)[0].startswith(f"{RANDOM}: every backbone")


def test_warnings_follow_from_the_document_and_are_said_once() -> None:
    document = drawn(
        optimistic=True,
        subset="3 of five classes",
        repeats_asked=4,
        groups_per_class={"ALL": 9, "HTL": 12},
        groups_source="proposed",
    )
    document["rows"][0]["random_weights"] = True
    found = comparison_warnings(document)
    for beginning in (RANDOM, OPTIMISTIC, "3 of five classes", "fewer repeats than asked for: 3 of 4",
                      "groups were proposed", "fewer than 10 groups in ALL (9)"):  # fmt: skip
        assert sum(warning.startswith(beginning) for warning in found) == 1
    assert comparison_warnings({**document, "warnings": found}) == found
    noted = drawn(repeats_note="2 distinct partitions exist", repeats_asked=5)
    assert comparison_warnings(noted) == ["2 distinct partitions exist"]
    assert comparison_warnings(drawn()) == []
    text = comparison_markdown(document)
    assert text.index("Warnings") < text.index("Highest balanced accuracy") < text.index("## The table")
    page = Page(document).text
    assert page.index("Random".upper()) < page.index("Highest balanced accuracy")


def test_research_use_is_said_once() -> None:
    document = drawn()
    assert comparison_markdown(document).count(RESEARCH_USE) == 1
    assert Page(document).text.count(RESEARCH_USE) == 1
    assert comparison_latex(document).count(RESEARCH_USE) == 1


# ---------------------------------------------------------------------------------- candidates


def test_every_candidate_is_listed_with_its_score() -> None:
    document = drawn(("senet",))
    tables = [t for t in markdown_tables(comparison_markdown(document)) if "Candidate" in t[0]]
    assert [len(table) for table in tables] == [1, 4, 2, 4]
    for table, row in zip(tables, document["rows"], strict=True):
        assert sum(int(line["Kept"].split(" of ")[0]) for line in table) == 15
        for place, line in enumerate(table):
            scores = [choice["trials"][place]["balanced_accuracy"] for choice in row["choices"]]
            mean = f"{np.mean(scores):.3f}"
            assert line["Validation"] == f"{mean} ({min(scores):.3f} to {max(scores):.3f})"
    assert tables[1][3]["Candidate"] == "all features, rbf kernel, C 1, gamma 1/features"
    assert tables[2][1]["Candidate"] == "all features, hidden 1024-256, dropout 0"
    assert tables[3][3]["Candidate"] == "512 features by anova, hidden 512, dropout 0.5"


def test_candidates_are_drawn_over_what_they_differ_in() -> None:
    page = Page(drawn()).source
    for title in ("svm, candidates by C", "hidden, candidates by hidden units", "dropout, candidates by dropout rate"):
        assert f">{title}<" in page
    assert "dropout, candidates by hidden units" not in page and "base, candidates" not in page


def test_a_fit_without_a_choice_is_said() -> None:
    document = drawn(("senet",), ("base", "svm"))
    for chosen in document["rows"][1]["choices"][:2]:
        chosen["trials"] = []
    said = "Without a choice, so that the first candidate was taken: senet svm in 2 fits."
    assert said in comparison_markdown(document) and said in Page(document).text
    for row in document["rows"]:
        for chosen in row["choices"]:
            chosen["trials"] = []
    assert "No candidates were compared." in Page(document).text


# ---------------------------------------------------------------------------------- names


def test_no_name_becomes_markup() -> None:
    plain, hostile = drawn(("senet", "resnext"), ("base", "svm")), drawn((HOSTILE, "[b"), ("base", "svm"))
    before, after = Page(plain), Page(hostile)
    assert after.tags == before.tags and "script" not in after.tags
    assert [len(row) for row in after.rows] == [len(row) for row in before.rows]
    assert "\u202e" not in after.source and "\x1b" not in after.source
    tables = markdown_tables(comparison_markdown(hostile))
    assert [len(table) for table in tables] == [len(table) for table in markdown_tables(comparison_markdown(plain))]
    assert csv_rows(hostile)[0]["backbone"] == HOSTILE
    assert not re.search(r"(?<!\\)<script", comparison_markdown(hostile))


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=30))
def test_no_name_becomes_latex(name: str) -> None:
    plain = drawn(("senet",), ("base", "svm"))
    named = copy.deepcopy(plain)
    named["rows"][0]["backbone"] = named["id"] = named["task"] = name
    before, after = comparison_latex(plain), comparison_latex(named)
    assert len(after.splitlines()) == len(before.splitlines())
    for (_, left), (_, right) in zip(tex_tables(before), tex_tables(after), strict=True):
        assert [len(row) for row in left] == [len(row) for row in right]
    body = "\n".join(line for line in after.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\{}$&#%_]", "", body)
    assert bare.count("{") == bare.count("}") and "#" not in bare and "%" not in bare
    assert bare.count("$") % 2 == 0
    commands = set(re.findall(r"\\[A-Za-z]+", re.sub(r"\\\\", " ", body)))
    assert commands <= {
        *("\\begin", "\\end", "\\centering", "\\scriptsize", "\\setlength", "\\tabcolsep", "\\caption", "\\label"),
        *("\\toprule", "\\midrule", "\\bottomrule", "\\addlinespace", "\\multicolumn", "\\emph", "\\textsuperscript"),
        *("\\par", "\\smallskip", "\\parbox", "\\linewidth", "\\raggedright", "\\shortstack", "\\textendash", "\\times"),
        *("\\textbackslash", "\\textasciitilde", "\\textasciicircum", "\\textemdash", "\\textquotedblleft", "\\char"),
        *("\\textquotedblright", "\\pm", "\\le", "\\ge", "\\to", "\\circ", "\\cdot", "\\ldots"),
    }  # fmt: skip
    assert all(mark.isascii() or "À" <= mark <= "ÿ" for mark in body)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH: compare.tex was not compiled")
@pytest.mark.parametrize("document", [drawn(), drawn((HOSTILE, "[b")), drawn(optimistic=True, methods=[TOO_FEW])])
def test_latex_compiles_with_booktabs_alone(document: ComparisonDocument, tmp_path: Path) -> None:
    (tmp_path / "compare.tex").write_text(comparison_latex(document))
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{compare.tex}\\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_a_page_asks_for_nothing_and_its_links_lead_somewhere() -> None:
    for document in (drawn(), drawn(optimistic=True, methods=[TOO_FEW] * 3), drawn(("senet",), ("base",), repeats=1)):
        page = Page(document)
        assert len(page.ids) == len(set(page.ids))
        assert {link for link in page.links if link.removeprefix("#") not in page.ids} == set()
        assert not re.search(r"(?:src|href)=\"(?!#)", page.source) and "@import" not in page.source
        assert page.source == comparison_page(document)
