"""The comparison's page in a real browser: whole in both themes and on a phone, and its figures those of compare.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn_comparisons import drawn, with_values
from test_evaluation_page_in_chromium import CHROMIUM, PROBE, Browser

from leukemia_cli.reporting.comparison import ComparisonDocument
from leukemia_cli.reporting.comparison_page import comparison_page

DOCUMENTS: dict[str, ComparisonDocument] = {
    "the paper's table": drawn(),
    "one backbone, figures undefined": with_values(drawn(("efficientnet-lite0",)), [None, 0.9, 0.91, 0.92]),
    "optimistic protocol": drawn(("senet",), optimistic=True),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH: the page was not opened")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_whole(browser: Browser, tmp_path: Path, name: str, width: int, theme: str) -> None:
    document = DOCUMENTS[name]
    file = tmp_path / "compare.html"
    file.write_text(comparison_page(document), encoding="utf-8")
    browser.show(file, width=width, theme=theme)
    found: dict[str, Any] = json.loads(browser.ask(PROBE))
    assert not found["faults"], f"{found['count']} faults, such as {found['faults']}"
    assert found["wide"] <= 0
    assert found["least"] >= 11
    assert found["scripts"] == 0
    assert found["svgs"] >= 1
    said = [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert said == []
    shown = [float(value) for _, value, _ in found["data"] if value != ""]
    for row in document["rows"]:
        value = row["metrics"]["balanced_accuracy"]["value"]
        assert value is None or any(abs(value - other) < 1e-12 for other in shown)
