"""The audit of a data set before anything is trained on it: its document, and its lines for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from leukemia_cli.judging.shortcuts import LEAST_EFFECT, PERMUTATIONS, Probe, drawn_rows, probes
from leukemia_cli.reporting.audit_findings import findings
from leukemia_cli.reporting.audit_images import AuditImages, folds_of, kept_rows, measured, per_class
from leukemia_cli.reporting.wording import counts, number

SCHEMA = 1
MOST_LINES = 15
_MOST_ROWS = 60


def audit_document(
    images: AuditImages, *, seed: int, permutations: int = PERMUTATIONS, created: str = "", version: str = ""
) -> dict[str, Any]:
    """Give the document of audit.json; raises ValueError for images of fewer than two classes or a group in two folds.

    Of very many images the probes, and the search for wrong labels, look at those of `drawn_rows`; each probe says at how
    many.
    """
    folds, refused = folds_of(images, seed)
    part, part_folds = images, folds
    rows = drawn_rows(images.labels, images.groups, seed).tolist()
    if len(rows) < len(images.paths):
        part, part_folds = kept_rows(images, rows), None if folds is None else [folds[row] for row in rows]
    probed = probes(
        measured(part.traits, part.sources), part.labels, part.groups, part_folds, seed=seed, permutations=permutations,
        drawn_from=len(images.paths),
    )  # fmt: skip
    return {
        "schema_version": SCHEMA,
        "kind": "audit",
        "leuk_version": version,
        "created": created,
        "seed": seed,
        "classes": list(images.classes),
        "images": len(images.paths),
        "groups": len(set(images.groups)),
        "groups_source": images.groups_source,
        "groups_per_class": per_class(images, images.groups),
        "images_per_class": {kind: Counter(images.labels)[kind] for kind in images.classes},
        "counts": _counts(images),
        "duplicates": {
            "copies": [[images.paths[row] for row in rows] for rows in images.copies],
            "near": [{"first": images.paths[a], "second": images.paths[b], "kind": kind} for a, b, kind in images.near],
        },
        "probes": [_probe_json(probe) for probe in probed],
        "probed_images": len(part.paths),
        "least_effect": LEAST_EFFECT,
        "findings": findings(images, probed, part, part_folds, refused),
    }


def _counts(images: AuditImages) -> list[dict[str, Any]]:
    """Count images and groups by class, source, size and format, the fullest first; what is rare beyond that in one row."""
    held: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for row, (label, source, t) in enumerate(zip(images.labels, images.sources, images.traits, strict=True)):
        held[label, source, f"{t.width}×{t.height}", t.format].append(row)
    order = {kind: place for place, kind in enumerate(images.classes)}
    ranked = sorted(held.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    shown = sorted(ranked[:_MOST_ROWS], key=lambda pair: (order[pair[0][0]], -len(pair[1]), pair[0]))
    rest: dict[str, list[int]] = defaultdict(list)
    for key, rows in ranked[_MOST_ROWS:]:
        rest[key[0]] += rows
    listed = [(*key, rows) for key, rows in shown]
    listed += [(kind, "(several)", "(other sizes)", "(several)", rest[kind]) for kind in images.classes if kind in rest]
    return [
        {
            "class": label,
            "source": source,
            "size": size,
            "format": form,
            "images": len(rows),
            "groups": len({images.groups[row] for row in rows}),
        }
        for label, source, size, form, rows in listed
    ]


def _probe_json(probe: Probe) -> dict[str, Any]:
    return {
        "name": probe.name,
        "about": probe.about,
        "balanced_accuracy": probe.balanced_accuracy,
        "null": None if probe.null_mean is None else {"mean": probe.null_mean, "p95": probe.null_high},
        "p": probe.p,
        "p_holm": probe.p_holm,
        "verdict": probe.verdict,
        "images": probe.images,
        "groups": probe.groups,
        "groups_per_class": dict(probe.groups_per_class),
        "method": probe.method,
    }


# ---------------------------------------------------------------------------------- the terminal


def audit_lines(document: Mapping[str, Any]) -> list[str]:
    """Give at most `MOST_LINES` lines for a terminal: what was looked at, what tells the class, what was found."""
    listed = ", ".join(
        f"{kind} {document['images_per_class'][kind]} images in {groups} groups"
        for kind, groups in document["groups_per_class"].items()
    )
    drawn = document.get("probed_images", document["images"])
    part = "" if drawn == document["images"] else f"; probes on {drawn:,} of {document['images']:,} images"
    lines = [f"audit: {counts(document['images'], known_groups(document))}: {listed}{part}"]
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for probe in document["probes"]:
        value = probe["balanced_accuracy"]
        by_verdict[probe["verdict"]].append(
            probe["name"] + (f" {number(value)}" if probe["verdict"] in ("accused", "possible") else "")
        )
    said = {"accused": "tell the class", "possible": "possibly tell the class", "clear": "not found to tell it",
            "untestable": "could not be tested"}  # fmt: skip
    for verdict, words in said.items():
        if by_verdict[verdict]:
            lines.append(f"  {words}: {', '.join(by_verdict[verdict])}")
    # What a probe found is in the lines above.
    told = [one for one in document["findings"] if not one["code"].startswith("probe-")]
    room = MOST_LINES - len(lines) - 1
    lines += [f"  {one['severity']}: {one['title']}" for one in told[:room]]
    if len(told) > room:
        lines.append(f"  and {len(told) - room} more in the audit's document")
    if not document["findings"]:
        lines.append("  nothing was found, which proves nothing")
    return lines


def known_groups(document: Mapping[str, Any]) -> int | None:
    """Give the number of groups of a document, None where they are unknown."""
    return None if document["groups_source"] == "none" else int(document["groups"])
