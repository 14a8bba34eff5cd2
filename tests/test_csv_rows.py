"""CSV for people: no cell is a formula, and every text comes back as it was."""

from __future__ import annotations

import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.csv_rows import csv_cells, csv_line

SIGNS = "=+-@\t\r\n＝＋－＠"


@pytest.mark.parametrize("sign", SIGNS)
def test_a_text_that_a_spreadsheet_would_compute_becomes_one_that_it_shows(sign: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(csv_line([f"{sign}1"]), newline="")))
    assert cell == f"'{sign}1"
    (again,) = next(csv.reader(io.StringIO(csv_line([f"''{sign}1"]), newline="")))
    assert again == f"'''{sign}1"


def test_numbers_and_other_texts_stay() -> None:
    assert csv_line([-1.5, -2, "a=b", "'quoted'", "it's", None, ""]) == "-1.5,-2,a=b,'quoted',it's,,\n"
    assert csv_cells("-1.5,-2,a=b,'quoted',it's,,\n") == ["-1.5", "-2", "a=b", "'quoted'", "it's", "", ""]
    assert csv_line(['=HYPERLINK("x")']) == '"\'=HYPERLINK(""x"")"\n'


texts = st.one_of(
    st.binary(max_size=12).map(os.fsdecode),
    st.text(alphabet=SIGNS + "'\",a ", max_size=8),
)


@given(st.lists(texts, min_size=2, max_size=5))
def test_any_text_comes_back(cells: list[str]) -> None:
    line = csv_line(cells)
    assert csv_cells(line) == cells
    for cell in next(csv.reader([line])):
        assert not cell.startswith(tuple(SIGNS))


@pytest.mark.parametrize("line", ['a,"b\n', 'a,"b"c\n', "a\rb\n"])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no line of CSV"):
        csv_cells(line)
