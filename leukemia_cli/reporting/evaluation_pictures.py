"""The sections of an evaluation's page that show images: what was told wrongly, and what the model looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukemia_cli.reporting.evaluation_source import ABSENT, Heatmap, Source
from leukemia_cli.reporting.html import (
    Column,
    Markup,
    datum,
    escaped,
    gallery,
    heads,
    joined,
    named,
    paragraph,
    picture,
    table,
)
from leukemia_cli.reporting.wording import NO_VALUE, number


def mistakes(source: Source) -> Markup:
    """Show the most confident mistakes, as a list where pictures are not to be shown."""
    listed = source.report.get("mistakes")
    matrix = source.report["confusion"]["matrix"]
    wrong = sum(map(sum, matrix)) - sum(row[i] for i, row in enumerate(matrix))
    if not wrong:
        return paragraph(escaped(f"No mistakes among {source.of}."))
    if not listed:
        return ABSENT
    if len(listed) < wrong:
        said = f"The {len(listed)} most confident of {wrong} mistakes among {source.of}."
    else:
        said = f"All {wrong} {'mistake' if wrong == 1 else 'mistakes'} among {source.of}, most confident first."
    if source.thumbnails:
        return joined([paragraph(escaped(said)), _mistake_gallery(source, listed)])
    return _mistake_table(listed, caption=said)


def _mistake_gallery(source: Source, listed: Sequence[Mapping[str, Any]]) -> Markup:
    shown = []
    for i, m in enumerate(listed):
        small = Markup('<p class="pale">No picture.</p>')
        if m["path"] in source.thumbnails:
            told = f"{m['label']} taken for {m['predicted']}: {m['path']}"
            small = picture(source.thumbnails[m["path"]], alt=told)
        shown.append(
            Markup(
                f"{small}<strong>{named(m['label'])}</strong> taken for <strong>{named(m['predicted'])}</strong><br>"
                f"confidence {_confidence(i, m)}<br>"
                f'<span class="pale">group {named(_group(m))}<br>{named(m["path"])}</span>'
            )
        )
    return gallery(shown)


def _mistake_table(listed: Sequence[Mapping[str, Any]], *, caption: str) -> Markup:
    columns = [*heads("Image", "True", "Predicted", "Confidence", names=3), Column(title="Group", numeric=False)]
    rows = [
        (named(m["path"]), named(m["label"]), named(m["predicted"]), _confidence(i, m), named(_group(m)))
        for i, m in enumerate(listed)
    ]
    return table(columns, rows, caption=caption)


def _confidence(place: int, mistake: Mapping[str, Any]) -> Markup:
    return datum(mistake["confidence"], number(mistake["confidence"]), key=f"mistakes.{place}.confidence")


def _group(mistake: Mapping[str, Any]) -> str:
    group = mistake.get("group")
    return NO_VALUE if group in (None, "") else str(group)


def heat_maps(source: Source) -> Markup:
    """Show what the model looked at, and how faithful that is beside random maps."""
    parts: list[Markup] = []
    faith = (source.report.get("heatmaps") or {}).get("faithfulness")
    if faith:
        said = (
            "Faithfulness: the mean confidence while what a heat map marks is hidden step by step (deletion, low is "
            "faithful) or shown step by step (insertion, high is faithful), beside random maps."
        )
        parts += [paragraph(escaped(said)), _faithfulness(source, faith)]
    if source.heatmaps:
        warning = "A heat map says what changed the score, not whether what it marks is the disease."
        parts += [gallery(map(_beside_its_map, source.heatmaps)), paragraph(escaped(warning), kind="pale")]
    return joined(parts)


def _faithfulness(source: Source, faith: Mapping[str, Any]) -> Markup:
    rows = []
    for title, prefix in (("Heat map", ""), ("Random map", "random_")):
        keys = (f"{prefix}deletion", f"{prefix}insertion")
        areas = (datum(faith.get(key), number(faith.get(key)), key=f"heatmaps.{key}") for key in keys)
        rows.append((escaped(title), *areas, escaped(str(faith["images"])), source.group_cell(faith.get("groups"))))
    return table(
        heads("Order", "Deletion", "Insertion", "Images", "Groups"),
        rows,
        caption="Faithfulness of the heat maps: mean area under the curve of confidence",
    )


def _beside_its_map(h: Heatmap) -> Markup:
    return Markup(
        f'<div class="two">{picture(h.picture, alt=f"{h.path}: the image")}'
        f"{picture(h.overlay, alt=f'{h.path}: heat map for {h.predicted}')}</div>"
        f"<strong>{named(h.label)}</strong>, predicted <strong>{named(h.predicted)}</strong><br>"
        f'<span class="pale">{named(h.path)}</span>'
    )
