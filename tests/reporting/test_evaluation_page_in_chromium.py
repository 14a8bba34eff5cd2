"""The page as a browser shows it: nothing fetched, nothing failed, everything painted, nothing wider than a phone."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn_reports import HOSTILE, drawn_picture, drawn_report

from leukemia_cli.reporting.evaluation_page import report_page
from leukemia_cli.reporting.evaluation_source import Heatmap
from leukemia_cli.reporting.style import DARK, LIGHT

CHROMIUM = shutil.which("chromium") or ("/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: pages were not looked at in a browser")
PATIENCE_S = 30.0
# The browser reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
WIRED = (
    "import os, sys\n"
    "given = [os.dup(os.dup(os.dup(int(fd)))) for fd in sys.argv[1:3]]\n"
    "for fd, wanted in zip(given, (3, 4)): os.dup2(fd, wanted, inheritable=True)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


class Browser:
    """One headless Chromium, spoken to over a pipe in the DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-c",
                    WIRED,
                    str(theirs_in),
                    str(theirs_out),
                    str(CHROMIUM),
                    "--headless",
                    "--no-sandbox",
                ),
                *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._unread, self._last_id, self._session = b"", 0, ""
        self._shown: Path | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._call(method, parameters, session=self._session)

    def _call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._last_id += 1
        number = self._last_id
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            reply = self._read()
            if reply.get("id") == number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            got = os.read(self._in, 1 << 20) if ready else b""
            assert got, "the browser does not answer"
            self._unread += got
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def show(self, file: Path, *, width: int = 1200, height: int = 900, theme: str = "light") -> None:
        """Load a file, if it is not there, at a width of the window and in a theme, and wait until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        if file == self._shown:
            return
        self._shown = file
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def ask(self, script: str) -> Any:
        """Give the value of an expression in the page."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


CASES: dict[str, dict[str, Any]] = {
    "two classes": {},
    "folds of few groups": {"classes": ("ALL", "AML", "CLL", "CML", "HTL"), "n": 120, "groups": 8, "folds": 5},
    "three of five, svm": {
        "classes": ("ALL", "AML", "CLL"),
        "whole_class_count": 5,
        "n": 300,
        "groups": 45,
        "svm": True,
    },
    "external": {"external": "ALL-IDB1", "n": 108, "groups": 30, "noise": 2.2},
    "old, groups unknown": {"keys": "first", "groups_source": "none"},
    "bare": {"keys": "bare"},
    "hostile names": {"classes": HOSTILE, "paths": HOSTILE, "run": "".join(HOSTILE), "external": HOSTILE[0]},
}

PROBE = """(() => {
  const svgs = [...document.querySelectorAll('svg')], faults = [];
  const inside = (a, b) => a.left >= b.left - 1.5 && a.right <= b.right + 1.5 &&
    a.top >= b.top - 1.5 && a.bottom <= b.bottom + 1.5;
  const touch = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  let least = 99;
  for (const svg of svgs) {
    const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')];
    if (box.width < 50 || box.height < 50) faults.push('an empty picture');
    if (svg.getAttribute('role') !== 'img' || !svg.querySelector('title') || !svg.querySelector('desc')) faults.push('no words');
    const boxes = texts.map(t => t.getBoundingClientRect());
    boxes.forEach((b, i) => {
      least = Math.min(least, parseFloat(texts[i].getAttribute('font-size')) * box.width / 420);
      if (!inside(b, box)) faults.push('outside: ' + texts[i].textContent);
      for (let j = 0; j < i; j++) if (touch(b, boxes[j])) faults.push(texts[j].textContent + ' touches ' + texts[i].textContent);
    });
  }
  for (const img of document.images) if (!img.complete || !img.naturalWidth || !img.alt) faults.push('a picture not painted');
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('svg')) continue;
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
    const pair = [light(getComputedStyle(element).color), light(getComputedStyle(ground).backgroundColor)].sort();
    if ((Math.max(...pair) + .05) / (Math.min(...pair) + .05) < 4.5) faults.push('too pale: ' + node.data);
  }
  const levels = [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1]);
  if (levels[0] !== 1 || levels.filter(l => l === 1).length !== 1) faults.push('not one title');
  levels.forEach((l, i) => { if (i && l > levels[i - 1] + 1) faults.push('a heading skipped'); });
  for (const part of ['header', 'nav', 'main', 'footer']) if (document.querySelectorAll(part).length !== 1) faults.push(part);
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size !== ids.length) faults.push('two of one id');
  for (const a of document.querySelectorAll('a'))
    if (!document.getElementById(a.hash.slice(1))) faults.push('leads nowhere: ' + a);
  return JSON.stringify({
    faults: faults.slice(0, 9), count: faults.length, least, svgs: svgs.length, pictures: document.images.length,
    wide: document.scrollingElement.scrollWidth - innerWidth, paper: getComputedStyle(document.body).backgroundColor,
    scripts: document.querySelectorAll('script,iframe,object,embed,link').length, title: document.title,
    data: [...document.querySelectorAll('data[data-key]')].map(d => [d.dataset.key, d.value, d.textContent]),
  });
})()"""


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    report = drawn_report(**CASES[request.param])
    shown = {m["path"]: drawn_picture(i) for i, m in enumerate(report.get("mistakes", ()))}
    heatmaps = []
    if request.param == "two classes":
        heatmaps = [
            Heatmap(path="a.png", label="ALL", predicted="HTL", picture=drawn_picture(1), overlay=drawn_picture(2))
        ]
        report["heatmaps"] = {
            "faithfulness": {
                "deletion": 0.31,
                "insertion": 0.74,
                "random_deletion": 0.52,
                "random_insertion": 0.53,
                "images": 24,
            }
        }
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(report_page(report, thumbnails=shown, heatmaps=heatmaps), encoding="utf-8")
    return file, report


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (800, "dark"), (390, "light")])
def test_page_is_whole_in_both_themes_and_on_a_phone(
    browser: Browser, made: tuple[Path, dict[str, Any]], width: int, theme: str
) -> None:
    file, report = made
    browser.show(file, width=width, theme=theme)
    found = json.loads(browser.ask(PROBE))
    assert not found["faults"], f"{found['count']} faults, such as {found['faults']}"
    assert found["wide"] <= 0
    assert found["least"] >= 11
    assert found["scripts"] == 0
    assert found["svgs"] >= (6 if report.get("curves") else 1)
    assert found["pictures"] >= len(report.get("mistakes", ()))
    paper = {"light": LIGHT, "dark": DARK}[theme].paper
    assert found["paper"] == f"rgb({', '.join(str(int(paper[i : i + 2], 16)) for i in (1, 3, 5))})"
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    said = [
        e
        for e in browser.events
        if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    ]
    assert said == []


def test_figures_shown_are_those_of_the_report(browser: Browser, made: tuple[Path, dict[str, Any]]) -> None:
    file, report = made
    browser.show(file)
    shown = {key: (value, text) for key, value, text in json.loads(browser.ask(PROBE))["data"]}
    assert {f"metrics.{name}" for name in report["metrics"]} <= set(shown)
    for name, figure in report["metrics"].items():
        value, text = shown[f"metrics.{name}"]
        assert (None if value == "" else float(value)) == figure["value"]
        assert text == ("–" if figure["value"] is None else f"{figure['value']:.3f}".replace("-", "−"))
    for place, mistake in enumerate(report.get("mistakes", ())):
        assert float(shown[f"mistakes.{place}.confidence"][0]) == mistake["confidence"]
    if report.get("curves"):
        for key in ("coverage", "accuracy_answered", "accuracy_at_80"):
            assert float(shown[f"abstention.{key}"][0]) == report["abstention"][key]["value"]
    if report.get("drop"):
        assert float(shown["drop.difference"][0]) == report["drop"]["difference"]["value"]


def test_what_is_folded_away_is_printed(browser: Browser, made: tuple[Path, dict[str, Any]]) -> None:
    browser.show(made[0])
    browser.call("Emulation.setEmulatedMedia", media="print")
    hidden = browser.ask(
        "[...document.querySelectorAll('details > :not(summary)')].filter(e => !e.checkVisibility()).length"
    )
    browser.call("Emulation.setEmulatedMedia", media="")
    assert hidden == 0


def test_the_keyboard_reaches_the_content_and_shows_where_it_is(
    browser: Browser, made: tuple[Path, dict[str, Any]]
) -> None:
    browser.show(made[0])
    for event in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=event, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    focus = browser.ask(
        "[document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle, "
        "document.activeElement.getBoundingClientRect().left >= 0].join()"
    )
    assert focus == "Skip to the content,solid,true"
