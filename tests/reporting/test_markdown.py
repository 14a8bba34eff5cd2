"""Markdown in which no name is markup, and whose tables, notes and warnings are read as such."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.reporting.caveats import RANDOM
from leukemia_cli.reporting.markdown import literal, numbered, table, warnings_block


@given(st.text(alphabet="\\\\`*_[]<>|#&~$ab"))
def test_every_mark_is_kept_from_being_read(text: str) -> None:
    written = literal(text)
    assert re.sub(r"\\(.)", r"\1", written) == text
    assert not re.search(r"(?<!\\)[`*_\[\]<>|#]", written.replace("\\\\", ""))
    assert not re.search(r"(?<!\\)[&~$]", literal(text, also="&~$").replace("\\\\", ""))


def test_numbers_stand_to_the_right_of_names() -> None:
    assert table(("A", "B", "C"), [("x", "y", "1")], names=2) == "| A | B | C |\n| --- | --- | ---: |\n| x | y | 1 |"
    assert table(("A", "B"), []) == "| A | B |\n| --- | ---: |"


def test_notes_are_numbered_and_the_loudest_warning_is_bold() -> None:
    assert numbered(["a", "b"]) == "1. a\n2. b"
    assert warnings_block([]) == ""
    assert warnings_block([f"{RANDOM}: x", "y"]) == f"> **Warnings**\n>\n> - **{RANDOM}: x**\n> - y"
