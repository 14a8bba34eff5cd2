"""What an evaluation comes to: its headline with interval and counts, or what it lost on images from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leukemia_cli.reporting.evaluation_source import HEADLINE, Source
from leukemia_cli.reporting.html import Markup, escaped, joined, named
from leukemia_cli.reporting.wording import counts, interval, metric_title, number


def finding(source: Source) -> Markup:
    """Give the one sentence that stands first on the page."""
    drop = source.report.get("drop")
    if drop and drop["difference"]["value"] is not None:
        return _drop_finding(source, drop)
    title, estimate = escaped(metric_title(HEADLINE)), source.report["metrics"].get(HEADLINE)
    if estimate is None or estimate["value"] is None:
        return Markup(f"{title} is undefined on {named(source.protocol)}: {escaped(source.of)}.")
    held = escaped(within(source, estimate))
    return Markup(f"{title} was <strong>{number(estimate['value'])}</strong>{held} on {named(source.protocol)}.")


def _drop_finding(source: Source, drop: Mapping[str, Any]) -> Markup:
    change = drop["difference"]
    inside = replace(source, report={**source.report, "groups_source": drop.get("internal_groups_source", "given")})
    verb = "fell" if change["value"] < 0 else "rose" if change["value"] > 0 else "did not change"
    by = f" by <strong>{number(abs(change['value']))}</strong>" if change["value"] else ""
    over = Markup("")
    if not _covers_all(source, drop):
        over = joined([escaped(" over "), joined([named(name) for name in drop["classes"]], ", ")])
    return Markup(
        f"{escaped(metric_title(drop['metric']))}{over} {verb}{by}"
        f"{escaped(within(source, change, 'of the difference', signs=True))} from the internal test, "
        f"{number(drop['internal']['value'])}{escaped(within(inside, drop['internal']))}, to "
        f"{number(drop['external']['value'])}{escaped(within(source, drop['external']))} on {named(source.protocol)}."
    )


def _covers_all(source: Source, drop: Mapping[str, Any]) -> bool:
    """Say whether a drop is of every class of the report."""
    classes = set(source.report["confusion"]["classes"])
    return set(drop.get("classes") or classes) == classes


def within(source: Source, estimate: Mapping[str, Any], of: str = "", *, signs: bool = False) -> str:
    """Give interval and counts in brackets, or why there is no interval."""
    said = counts(estimate["n"], source.known(estimate["groups"]))
    if estimate["low"] is None:
        return f" ({estimate['method']}; {said})"
    ends = interval(estimate["low"], estimate["high"], signs=signs)
    return f" ({source.level} interval{' ' + of if of else ''} {ends}; {said})"


def drop_table(source: Source) -> Markup:
    """Give the headline inside and outside, and their difference."""
    drop = source.report["drop"]
    title = metric_title(drop["metric"])
    over = "" if _covers_all(source, drop) else f" over {', '.join(drop['classes'])}, the classes that both have"
    inside_known = drop.get("internal_groups_source") != "none"
    return source.estimates(
        [
            ("Internal test", "drop.internal", drop["internal"]),
            ("External data", "drop.external", drop["external"]),
            ("Difference, external minus internal", "drop.difference", drop["difference"]),
        ],
        first=title,
        caption=f"{title} inside and outside{over}",
        prefix="drop-note",
        kept="drop.difference",
        difference="drop.difference",
        groups_known={"drop.internal": inside_known, "drop.difference": inside_known and source.groups_known},
    )
