"""The audit of a data set before anything is trained on it: one document, its lines for a terminal, its page.

Requirements met here:
- Nothing is found without its images, its groups and what to do about it.
- What groups are too few to test is told as possible, with its numbers; it is neither accused nor cleared.
- The page shows what the document holds and nothing else: pictures are handed in, or there are none.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import ENOUGH_GROUPS, NO_GROUPS, GroupsSource, counted, few_groups
from leukemia_cli.errors import DataError
from leukemia_cli.judging.shortcuts import (
    LEAST_EFFECT,
    PERMUTATIONS,
    Confounded,
    Measured,
    Probe,
    confounding,
    drawn_rows,
    likely_mislabelled,
    probes,
)
from leukemia_cli.reporting.evaluation import RESEARCH_USE
from leukemia_cli.reporting.html import (
    Column,
    Markup,
    Section,
    counts,
    datum,
    definitions,
    escaped,
    figure,
    gallery,
    items,
    joined,
    named,
    number,
    page,
    paragraph,
    picture,
    sentence,
    subsection,
    table,
)
from leukemia_cli.reporting.pictures import MARGIN_PX, WIDTH_PX, Drawing, heading, shortened
from leukemia_cli.vision.traits import Traits

SCHEMA = 1
FIRST_IMAGES, PICTURES = 20, 4
"""Of each finding, how many images are named, and how many are shown."""
MOST_LINES = 15
_FOLDS = 5
_MOST_SIZES, _MOST_ROWS = 8, 60

# Of a network's usual input: what becomes of a nucleus when the whole image is shrunk to it.
INPUT_PX, LEAST_NUCLEUS_PX = 224, 16
_SHRUNK_TWICE = 2
# A mark is told of where so many images hold one, in one place: single detections are often dirt.
_FEWEST_MARKED, _LEAST_MARKED = 5, 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditImages:
    """The images of a data set in columns of equal length; rows are places in them.

    `folds` are the manifest's own, None where it has none: then groups are dealt to five here. `copies` are sets of rows that
    hold one picture, `near` are (row, row, kind) of pictures that are nearly one.
    """

    classes: tuple[str, ...]
    paths: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    sources: Sequence[str]
    traits: Sequence[Traits]
    groups_source: GroupsSource
    folds: Sequence[int] | None = None
    copies: Sequence[Sequence[int]] = ()
    near: Sequence[tuple[int, int, str]] = ()

    def __post_init__(self) -> None:
        columns = (self.labels, self.groups, self.sources, self.traits, *(() if self.folds is None else (self.folds,)))
        if any(len(column) != len(self.paths) for column in columns):
            raise ValueError(f"columns are not of one length: {[len(self.paths), *map(len, columns)]}")

    @property
    def groups_known(self) -> bool:
        """Say whether groups are more than the images themselves."""
        return self.groups_source != "none"


# ----------------------------------------------------------------------------------------------------- the document


def audit_document(
    images: AuditImages, *, seed: int, permutations: int = PERMUTATIONS, created: str = "", version: str = ""
) -> dict[str, Any]:
    """Give the document of audit.json; raises ValueError for images of fewer than two classes or a group in two folds.

    Of very many images the probes, and the search for wrong labels, look at those of `drawn_rows`; each probe says at how
    many.
    """
    folds, refused = _folds(images, seed)
    part, part_folds = images, folds
    rows = drawn_rows(images.labels, images.groups, seed).tolist()
    if len(rows) < len(images.paths):
        part, part_folds = _drawn(images, rows), None if folds is None else [folds[row] for row in rows]
    looked = measured(part.traits, part.sources)
    probed = probes(
        looked, part.labels, part.groups, part_folds, seed=seed, permutations=permutations, drawn_from=len(images.paths)
    )
    confounded = [
        (values, one)
        for attribute, values in _attributes(images).items()
        for one in confounding(attribute, values, images.labels, images.groups)
    ]
    found = [
        *_group_findings(images, refused),
        *_confounding_findings(images, confounded),
        *_probe_findings(images, probed),
        *_mark_findings(images),
        *_size_findings(images),
        *_copy_findings(images),
        *_label_findings(part, part_folds),
    ]
    found.sort(key=lambda one: one["severity"] != "warning")
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
        "groups_per_class": _per_class(images, images.groups),
        "images_per_class": {kind: Counter(images.labels)[kind] for kind in images.classes},
        "counts": _counts(images),
        "duplicates": {
            "copies": [[images.paths[row] for row in rows] for rows in images.copies],
            "near": [{"first": images.paths[a], "second": images.paths[b], "kind": kind} for a, b, kind in images.near],
        },
        "probes": [_probe_json(probe) for probe in probed],
        "probed_images": len(part.paths),
        "least_effect": LEAST_EFFECT,
        "findings": found,
    }


def _drawn(images: AuditImages, rows: Sequence[int]) -> AuditImages:
    """Keep some rows, without folds and copies."""
    return AuditImages(
        classes=images.classes,
        paths=[images.paths[row] for row in rows],
        labels=[images.labels[row] for row in rows],
        groups=[images.groups[row] for row in rows],
        sources=[images.sources[row] for row in rows],
        traits=[images.traits[row] for row in rows],
        groups_source=images.groups_source,
    )


def measured(traits: Sequence[Traits], sources: Sequence[str]) -> tuple[Measured, ...]:
    """Give what each probe looks at, by images; the source is probed where there are several."""

    def one(name: str, about: str, rows: Sequence[Sequence[float]]) -> Measured:
        return Measured(name=name, about=about, features=np.asarray(rows, dtype=np.float64))

    qualities = [t.jpeg_quality for t in traits]
    known = [quality for quality in qualities if quality is not None]
    usual = float(np.median(known)) if known else 0.0
    sizes = _one_hot([f"{t.width}×{t.height}" for t in traits])
    made = [
        one("size", "width, height and shape of the image",
            [[math.log(t.width), math.log(t.height), *row] for t, row in zip(traits, sizes, strict=True)]),
        one("format", "the file format", _one_hot([t.format for t in traits])),
        one("JPEG quality", "the quality a JPEG was saved with",
            [[usual if quality is None else quality, float(quality is None)] for quality in qualities]),
        one("colour", "fifteen statistics of the colours of the whole image", [t.colour for t in traits]),
        one("background", "the same statistics of what no cell covers", [t.background for t in traits]),
        one("borders and corners", "colours, edges and ink of the outermost strips and the four corners",
            [(*t.border, *t.corners) for t in traits]),
        one("marks", "whether there is a scale bar or a pointer, how much of it, in which ink",
            [[t.has_scale_bar, math.log1p(t.scale_bar), "red" in t.scale_bar_style, "bold" in t.scale_bar_style,
              t.has_pointer, t.pointer] for t in traits]),
        one("cell count", "how many dark stained bodies were counted",
            [[t.bodies, math.log1p(t.bodies)] for t in traits]),
    ]  # fmt: skip
    if len(set(sources)) > 1:
        made.append(one("source", "which source the image came from", _one_hot(sources)))
    return tuple(made)


def _one_hot(values: Sequence[str]) -> list[list[float]]:
    """Mark each of the commonest values; all others are none of them."""
    common = [value for value, _ in sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_SIZES]]
    return [[float(value == one) for one in common] for value in values]


def _folds(images: AuditImages, seed: int) -> tuple[Sequence[int] | None, str]:
    """Give the manifest's folds, or deal whole groups to five or as many as there are; else say why that cannot be."""
    if images.folds is not None:
        return images.folds, ""
    groups = len(set(images.groups))
    rows = list(zip(images.groups, images.labels, strict=True))
    few = min(_per_class(images, images.groups).values())
    try:
        return deal_folds(rows, max(2, min(_FOLDS, groups, few)), seed), ""
    except DataError as error:
        return None, error.problem


def _per_class(images: AuditImages, names: Sequence[str]) -> dict[str, int]:
    held: dict[str, set[str]] = {kind: set() for kind in images.classes}
    for label, name in zip(images.labels, names, strict=True):
        held[label].add(name)
    return {kind: len(those) for kind, those in held.items()}


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


# ------------------------------------------------------------------------------------------------------ the findings


def _finding(
    code: str, *, warning: bool, title: str, detail: str, what_to_do: str, paths: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "code": code,
        "severity": "warning" if warning else "note",
        "title": title,
        "detail": detail,
        "images": {"count": len(paths), "first": list(paths[:FIRST_IMAGES])},
        "what_to_do": what_to_do,
    }


def _group_findings(images: AuditImages, refused: str) -> list[dict[str, Any]]:
    found = []
    per_class = _per_class(images, images.groups)
    listed = ", ".join(f"{kind} {count}" for kind, count in per_class.items())
    if not images.groups_known:
        found.append(
            _finding(
                "groups-unknown",
                warning=True,
                title="patients are unknown: each image counts as a group of its own",
                detail=f"{NO_GROUPS}. The probes below are as optimistic: {len(images.paths)} images were taken for as many "
                "independent groups.",
                what_to_do="Give patient, slide or session with --group-by: a column, a folder, a pattern or a file.",
            )
        )
    elif few_groups(per_class):
        found.append(
            _finding(
                "few-groups",
                warning=True,
                title=f"fewer than {ENOUGH_GROUPS} groups in a class ({listed}): figures will rest on little",
                detail=f"Groups per class: {listed}.{f' Groups could not be dealt to folds: {refused}.' if refused else ''}",
                what_to_do="Add images of other patients; until then quote figures of pooled folds with their intervals, "
                "never of one split.",
            )
        )
    return found


_REMEDIES = {
    "source": "Add images of every class from every laboratory, or judge on a source that was not trained on "
    "(leuk evaluate --external); --stain-norm macenko or reinhard makes laboratories more alike and proves nothing. Where a "
    "source holds cells of both kinds of one patient, look at how many healthy cells are called diseased.",
    "size": "Bring all images to one scale before training: --unit cell (crops of one size), or images of one "
    "magnification and size for every class; else leave out the sizes that one class alone has.",
    "format": "Export all images again from their originals in one format, classes mixed.",
    "JPEG quality": "Export all images again from their originals with one quality, classes mixed; saving them again hides "
    "the number but not the traces.",
    "colour": "Train once with --stain-norm macenko and once with reinhard, use a stronger --stain-jitter, and compare on "
    "groups of another laboratory; add images of every class from each staining batch.",
    "background": "What no cell covers must not tell the class: --stain-norm macenko or reinhard, --unit cell, and images "
    "of every class from each microscope and staining batch.",
    "borders and corners": "Use --mask-marks where scale bars, writing or frames lie there; --unit cell leaves borders out.",
    "marks": "Use --mask-marks, or crop the marks away in every image alike; --unit cell leaves most of them out.",
    "pointer": "Use --mask-marks: pointers are found and filled in; or use --unit cell.",
    "scale bar": "Use --mask-marks: scale bars and writing are found and filled in; or crop them away in all images alike.",
    "cell count": "Compare every model with the count-only control, which knows the number of cells alone: what is not "
    "better has learnt to count; --unit cell shows the model one cell at a time.",
}


def _attributes(images: AuditImages) -> dict[str, list[str]]:
    """Give the values that may be held by one class alone, by attribute; an attribute of one value is left out."""

    def quality(t: Traits) -> str:
        return "not a JPEG" if t.jpeg_quality is None else f"about {5 * round(t.jpeg_quality / 5)}"

    columns: dict[str, list[str]] = {name: [] for name in ("size", "format", "JPEG quality", "scale bar", "pointer")}
    words: dict[str, str] = {}  # a million images have few of them
    for t in images.traits:
        values = {
            "size": f"{t.width}×{t.height}",
            "format": t.format,
            "JPEG quality": quality(t),
            "scale bar": f"{t.scale_bar_style}, {t.scale_bar_place}" if t.has_scale_bar else "none",
            "pointer": "seen" if t.has_pointer else "none",
        }
        for name, value in values.items():
            columns[name].append(words.setdefault(value, value))
    columns = {"source": list(images.sources), **columns}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _confounding_findings(
    images: AuditImages, confounded: Sequence[tuple[Sequence[str], Confounded]]
) -> list[dict[str, Any]]:
    found = []
    for values, one in confounded:
        rows = [row for row, value in enumerate(values) if value == one.value]
        share = f"{one.of_label} of {one.images}" if one.of_label < one.images else f"all {one.images}"
        plain = f"{one.attribute} {one.value}"
        what = {"none": f"no {one.attribute}", "seen": f"a {one.attribute}"}.get(one.value, plain)
        sure = one.verdict == "accused"
        groups = len(set(images.groups))
        if sure:
            test = f"between groups this is no chance (p = {_p(one.p)}, {one.groups} of {groups} groups)"
        else:
            test = (
                f"possible only: {one.groups} of {groups} groups hold it, too few to tell it from chance between groups "
                f"(p = {_p(one.p)})"
            )
        found.append(
            _finding(
                f"{one.attribute.lower().replace(' ', '-')}-tells-class",
                warning=sure,
                title=f"{share} images with {what} are {one.label}" + ("" if sure else " (possible shortcut)"),
                detail=f"{share} images with {what} are {one.label}; of all images {one.expected:.0%} are; {test}.",
                what_to_do=_REMEDIES[one.attribute],
                paths=[images.paths[row] for row in rows],
            )
        )
    return found


def _probe_findings(images: AuditImages, probed: Sequence[Probe]) -> list[dict[str, Any]]:
    found = []
    for probe in probed:
        if probe.verdict not in ("accused", "possible") or probe.balanced_accuracy is None:
            continue
        accused = probe.verdict == "accused"
        of = counts(probe.images, probe.groups if images.groups_known else None)
        found.append(
            _finding(
                f"probe-{probe.name.lower().replace(' ', '-')}",
                warning=accused,
                title=f"{probe.name} alone tells the class: balanced accuracy {number(probe.balanced_accuracy)}, exchanged "
                f"labels reach {number(probe.null_high)}" + ("" if accused else " (possible shortcut)"),
                detail=f"Looking at nothing but {probe.about}, a linear classifier reaches balanced accuracy "
                f"{number(probe.balanced_accuracy)} on {'groups' if accused else 'images'} it was not fitted on; exchanged "
                f"labels reach {number(probe.null_mean)} on average and {number(probe.null_high)} in one of twenty "
                f"(p = {_p(probe.p)}, {_p(probe.p_holm)} after Holm; {probe.method}; {of}). "
                + (
                    "A model can reach as much without looking at a cell."
                    if probe.name not in ("colour", "cell count")
                    else "Some of this may be the disease itself; a model that reaches no more has shown nothing else."
                ),
                what_to_do=_REMEDIES[probe.name],
            )
        )
    return found


def _mark_findings(images: AuditImages) -> list[dict[str, Any]]:
    return [
        *_marks(
            images, "scale-bars", "scale bar or writing", "scale bars or writing", _REMEDIES["scale bar"],
            lambda t: t.scale_bar_style, lambda t: t.scale_bar_place,
        ),
        *_marks(
            images, "pointers", "glowing pointer", "glowing pointers", _REMEDIES["pointer"],
            lambda t: ("seen" if t.has_pointer else ""), lambda t: "anywhere" if t.has_pointer else "",
        ),
    ]  # fmt: skip


def _marks(
    images: AuditImages,
    code: str,
    noun: str,
    plural: str,
    remedy: str,
    kind_of: Callable[[Traits], str],
    place_of: Callable[[Traits], str],
) -> list[dict[str, Any]]:
    """Tell of marks that many images hold in one place."""
    marked = [(row, place, kind_of(t)) for row, t in enumerate(images.traits) if (place := place_of(t))]
    places = Counter(place for _, place, _ in marked)
    often = {p for p, n in places.items() if n >= max(_FEWEST_MARKED, _LEAST_MARKED * len(images.paths))}
    rows = [row for row, place, _ in marked if place in often]
    if not rows:
        return []
    of_class = Counter(images.labels)
    held = Counter(images.labels[row] for row in rows)
    kinds = Counter((images.labels[row], kind) for row, place, kind in marked if place in often)
    shares = [held[kind] / of_class[kind] for kind in images.classes]
    styles = sorted({kind for _, kind in kinds})
    told = "; ".join(
        f"{label} {held[label]} of {of_class[label]}"
        + (f" ({', '.join(f'{style}: {kinds[label, style]}' for style in styles)})" if styles != ["seen"] else "")
        for label in images.classes
    )
    uneven = max(shares) - min(shares) > 0.1 or any(
        max(kinds[label, style] / of_class[label] for label in images.classes)
        - min(kinds[label, style] / of_class[label] for label in images.classes)
        > 0.1
        for style in styles
    )
    where = "" if often == {"anywhere"} else f", {' and '.join(sorted(often))}"
    return [
        _finding(
            code,
            warning=uneven,
            title=f"{len(rows):,} of {counted(len(images.paths), 'image')} hold a {noun}{where}"
            + (", unlike from class to class" if uneven else ""),
            detail=f"Images with {plural}, by class: {told}. The detector is coarse: look at some of them.",
            what_to_do=remedy,
            paths=[images.paths[row] for row in rows],
        )
    ]


def _size_findings(images: AuditImages) -> list[dict[str, Any]]:
    """Tell where whole images shrunk to a network's input leave little of a nucleus."""
    small = [
        (px, row)
        for row, t in enumerate(images.traits)
        if t.body_px is not None
        and max(t.width, t.height) >= _SHRUNK_TWICE * INPUT_PX
        and (px := t.body_px * INPUT_PX / max(t.width, t.height)) < LEAST_NUCLEUS_PX
    ]
    if 2 * len(small) < len(images.paths):
        return []
    typical = float(np.median([px for px, _ in small]))
    return [
        _finding(
            "cells-lost-in-shrinking",
            warning=True,
            title=f"shrunk to {INPUT_PX} px, a nucleus is about {typical:.0f} px wide in {counted(len(small), 'image')}",
            detail=f"In {len(small)} of {len(images.paths)} images the typical dark body would be less than "
            f"{LEAST_NUCLEUS_PX} px wide if the whole image were shrunk to {INPUT_PX} px: what tells cells apart is lost.",
            what_to_do="Use --unit cell, or several views of each image with --tiles, or a backbone of larger input.",
            paths=[images.paths[row] for _, row in small],
        )
    ]


def _copy_findings(images: AuditImages) -> list[dict[str, Any]]:
    found = []
    if images.copies:
        more = sum(len(rows) - 1 for rows in images.copies)
        first = images.copies[0]
        found.append(
            _finding(
                "exact-copies",
                warning=False,
                title=f"{counted(more, 'exact copy', 'exact copies')} of other images, for example "
                f"{_name(images.paths[first[0]])} and {_name(images.paths[first[1]])}",
                detail=f"{counted(len(images.copies), 'set')} of images hold the same pixels. Each set lies in one group, so "
                "that none is on both sides of a split; it still counts more than once in every figure.",
                what_to_do="Remove all but one of each set, or ask the source why one picture has several names.",
                paths=[images.paths[row] for rows in images.copies for row in rows],
            )
        )
    parted = [(a, b) for a, b, _ in images.near if images.groups[a] != images.groups[b]]
    crossed = [(a, b) for a, b, _ in images.near if images.labels[a] != images.labels[b]]
    kinds = ", ".join(f"{kind}: {n}" for kind, n in sorted(Counter(kind for _, _, kind in images.near).items()))
    for code, pairs, warning, what, detail, remedy in (
        ("near-copies-of-two-classes", crossed, True, "near-copies lie under two classes",
         "One of the two labels is likely wrong.", "Find out which label is right; remove or relabel the other image."),
        ("near-copies-in-two-groups", parted, True, "near-copies lie in different groups",
         "Images of one picture can then be in training and test data alike.",
         "Give these images one group with --group-by, or remove one of each pair."),
        ("near-copies", [(a, b) for a, b, _ in images.near], False, "near-copies were found",
         f"By kind: {kinds}. They count more than once in every figure.", "Remove one of each pair, or keep them in one group."),
    ):  # fmt: skip
        if pairs:
            rows = list(dict.fromkeys(row for pair in pairs for row in pair))
            found.append(
                _finding(
                    code,
                    warning=warning,
                    title=f"{counted(len(pairs), 'pair')} of {what}",
                    detail=f"{counted(len(pairs), 'pair')}, {counted(len(rows), 'image')}; the first: "
                    f"{_name(images.paths[pairs[0][0]])} and {_name(images.paths[pairs[0][1]])}. {detail}",
                    what_to_do=remedy,
                    paths=[images.paths[row] for row in rows],
                )
            )
    return found


def _label_findings(images: AuditImages, folds: Sequence[int] | None) -> list[dict[str, Any]]:
    if folds is None:
        return []
    features = np.asarray([(*t.colour, *t.background, math.log1p(t.bodies)) for t in images.traits], dtype=np.float64)
    try:
        suspects = likely_mislabelled(features, images.labels, images.groups, folds)
    except ValueError:  # a class that is in one fold alone cannot be predicted for it
        return []
    if not suspects:
        return []
    whole = sorted({images.groups[one.row] for one in suspects if one.whole_group})
    listed = "; ".join(
        f"{_name(images.paths[one.row])}: {one.given}, more like {one.suggested} ({one.confidence:.2f})"
        for one in suspects[:5]
    )
    return [
        _finding(
            "likely-mislabelled",
            warning=False,
            title=f"{counted(len(suspects), 'image')} may be mislabelled, first {_name(images.paths[suspects[0].row])} "
            f"({suspects[0].given}, more like {suspects[0].suggested})",
            detail="A model of colours and cell counts, fitted on other groups, calls these images another class with more "
            f"certainty than that class's own: {listed}."
            + (f" Nearly all images of {', '.join(whole[:5])}: is the whole group mislabelled?" if whole else "")
            + " Where colour is a shortcut it is the shortcut that disagrees.",
            what_to_do="Look at each image with whoever labelled it; mend the label or leave the image as it is, and never "
            "remove images because a model finds them hard.",
            paths=[images.paths[one.row] for one in suspects],
        )
    ]


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


# ------------------------------------------------------------------------------------------------------ the terminal


def audit_lines(document: Mapping[str, Any]) -> list[str]:
    """Give at most `MOST_LINES` lines for a terminal: what was looked at, what tells the class, what was found."""
    per_class = ", ".join(
        f"{kind} {document['images_per_class'][kind]} images in {groups} groups"
        for kind, groups in document["groups_per_class"].items()
    )
    drawn = document.get("probed_images", document["images"])
    part = "" if drawn == document["images"] else f"; probes on {drawn:,} of {document['images']:,} images"
    lines = [f"audit: {counts(document['images'], _known_groups(document))}: {per_class}{part}"]
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
    findings = [one for one in document["findings"] if not one["code"].startswith("probe-")]
    room = MOST_LINES - len(lines) - 1
    for one in findings[: room if len(findings) > room else len(findings)]:
        lines.append(f"  {one['severity']}: {one['title']}")
    left = len(findings) - room
    if left > 0:
        lines.append(f"  and {left} more in the audit's document")
    if not document["findings"]:
        lines.append("  nothing was found, which proves nothing")
    return lines


def _known_groups(document: Mapping[str, Any]) -> int | None:
    return None if document["groups_source"] == "none" else int(document["groups"])


# ---------------------------------------------------------------------------------------------------------- the page


def audit_pictures(document: Mapping[str, Any]) -> list[str]:
    """Give the paths of the images that the page has room for: the first few of each finding."""
    return list(dict.fromkeys(path for one in document["findings"] for path in one["images"]["first"][:PICTURES]))


def audit_page(document: Mapping[str, Any], thumbnails: Mapping[str, str] | None = None) -> str:
    """Give the page of an audit; `thumbnails` are data URIs by path, None where pictures are not to be shown.

    Raises ValueError for a picture that is not a data URI.
    """
    small = thumbnails or {}
    version, created = document.get("leuk_version"), document.get("created")
    made = "Made by leuk" + (f" {version}" if version else "") + (f" at {created}" if created else "") + "."
    sections = [
        Section(anchor="findings", title="Findings", body=_findings_body(document, small)),
        Section(anchor="probes", title="What tells the class", body=_probes_body(document)),
        Section(anchor="images", title="Images", body=_images_body(document)),
        Section(anchor="copies", title="Copies", body=_copies_body(document)),
        Section(anchor="method", title="How this was done", body=_method_body(document)),
    ]
    return page(
        title=f"Audit of {counted(document['images'], 'image')}",
        over="Data set",
        lead=_lead(document),
        sections=sections,
        footer=paragraph(escaped(made)),
    )


def _lead(document: Mapping[str, Any]) -> Markup:
    accused = [probe for probe in document["probes"] if probe["verdict"] == "accused"]
    possible = [probe for probe in document["probes"] if probe["verdict"] == "possible"]
    warnings = sum(one["severity"] == "warning" for one in document["findings"])
    if accused:
        best = max(accused, key=lambda probe: probe["balanced_accuracy"])
        said = Markup(
            f"The class can be told without looking at a cell closely: from {escaped(best['name'])} alone with balanced "
            f"accuracy {datum(best['balanced_accuracy'], number(best['balanced_accuracy']))}, where exchanged labels reach "
            f"{number(best['null']['p95'])}."
        )
    elif possible:
        best = max(possible, key=lambda probe: probe["balanced_accuracy"])
        said = Markup(
            f"The class may be told from {escaped(best['name'])} alone: balanced accuracy "
            f"{datum(best['balanced_accuracy'], number(best['balanced_accuracy']))} on images not fitted on. There are too few "
            "groups to tell whether that would hold for another patient."
        )
    else:
        said = escaped("No probe was found to tell the class, which does not prove that nothing else does.")
    known = _known_groups(document)
    what = f"{counts(document['images'], known)}; {counted(warnings, 'warning')}, "
    what += counted(len(document["findings"]) - warnings, "note") + "."
    return joined(
        [paragraph(said, kind="lead"), paragraph(escaped(what)), paragraph(escaped(RESEARCH_USE), kind="use")]
    )


def _findings_body(document: Mapping[str, Any], small: Mapping[str, str]) -> Markup:
    if not document["findings"]:
        return paragraph(escaped("Nothing was found. That proves nothing about what was not looked for."), kind="pale")
    parts = []
    for one in document["findings"]:
        held = one["images"]
        body = [
            paragraph(sentence(one["detail"])),
            paragraph(Markup(f"<strong>What to do:</strong> {sentence(one['what_to_do'])}")),
        ]
        shown = [path for path in held["first"][:PICTURES] if path in small]
        if shown:
            pictures = (Markup(picture(small[path], alt=_name(path)) + named(_name(path))) for path in shown)
            body.append(gallery(pictures))
        if held["count"]:
            more = held["count"] - len(held["first"])
            listed = items([named(path) for path in held["first"]])
            rest = paragraph(escaped(f"and {more:,} more."), kind="pale") if more > 0 else Markup("")
            summary = escaped(counted(held["count"], "image"))
            body.append(Markup(f"<details><summary>{summary}</summary>\n{listed}{rest}</details>\n"))
        word = "Warning" if one["severity"] == "warning" else "Note"
        title = one["title"][:1].upper() + one["title"][1:]
        parts.append(subsection(f"{word}: {title}", joined(body)))
    return joined(parts)


_VERDICTS = {
    "accused": "tells the class",
    "possible": "possibly tells it",
    "clear": "not found to tell it",
    "untestable": "could not be tested",
}
_SHORT = {"accused": "tells it", "possible": "possibly", "clear": "not found", "untestable": "untested"}
_MARKS = {
    "accused": ("circle", False),
    "possible": ("diamond", False),
    "clear": ("circle", True),
    "untestable": ("cross", True),
}


def _probes_body(document: Mapping[str, Any]) -> Markup:
    known = _known_groups(document)
    of = counts(document["images"], known)
    drawn = figure(
        probes_chart(document["probes"], chance=1 / len(document["classes"]), of=of),
        number=1,
        caption=escaped(
            "Balanced accuracy of each probe on images it was not fitted on. The band is what exchanged labels reach: from "
            "their mean to the value that one of twenty is above."
        ),
        of=of,
    )
    columns = [
        Column(title="Probe", numeric=False),
        Column(title="Balanced accuracy"),
        Column(title="Exchanged, mean"),
        Column(title="95th percentile"),
        Column(title="p"),
        Column(title="p, Holm"),
        Column(title="Verdict", numeric=False),
    ]
    rows = [
        (
            escaped(probe["name"]),
            datum(probe["balanced_accuracy"], number(probe["balanced_accuracy"]), key=f"probe.{probe['name']}"),
            escaped(number(None if probe["null"] is None else probe["null"]["mean"])),
            escaped(number(None if probe["null"] is None else probe["null"]["p95"])),
            escaped(_p(probe["p"])),
            escaped(_p(probe["p_holm"])),
            escaped(_SHORT[probe["verdict"]]),
        )
        for probe in document["probes"]
    ]
    methods = items(
        escaped(f"{probe['name']}: {probe['about']}; {probe['method']}; {counts(probe['images'], known)}.")
        for probe in document["probes"]
    )
    return joined(
        [
            drawn,
            table(columns, rows, caption=f"The probes; {of}."),
            Markup(f"<details><summary>What each looks at, and how it was tested</summary>\n{methods}</details>\n"),
        ]
    )


def probes_chart(probed: Sequence[Mapping[str, Any]], *, chance: float, of: str) -> Markup:
    """Draw each probe's balanced accuracy against the band of exchanged labels, 0 to 1, as SVG 420 px wide."""
    drawing = Drawing()
    top = heading(drawing, "What tells the class", f"n = {of}") + 6
    left, right, each = MARGIN_PX + 4.0, WIDTH_PX - MARGIN_PX - 4.0, 46.0
    bottom = top + each * len(probed)

    def x(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    for place, probe in enumerate(probed):
        y = top + each * place
        shape, hollow = _MARKS[probe["verdict"]]
        room = WIDTH_PX - 2 * MARGIN_PX - 215
        drawing.text(left, y + 16, shortened(probe["name"], room), full=probe["name"])
        told = f"{number(probe['balanced_accuracy'])}, {_VERDICTS[probe['verdict']]}"
        drawing.text(right, y + 16, told, anchor="end", tone="pale")
        middle = y + 32
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            drawing.line(x(tick), middle - 8, x(tick), middle + 8)
        if probe["null"] is not None:
            low, high = x(probe["null"]["mean"]), x(probe["null"]["p95"])
            drawing.rect(low, middle - 6, max(high - low, 2.0), 12, tone="bar")
        drawing.line(x(chance), middle - 8, x(chance), middle + 8, tone="pale")
        if probe["balanced_accuracy"] is not None:
            tone = "s1" if probe["verdict"] == "accused" else "s0"
            drawing.mark(shape, x(probe["balanced_accuracy"]), middle, tone=tone, size=5, hollow=hollow)
    drawing.line(left, bottom, right, bottom, tone="ink")
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        drawing.text(x(tick), bottom + 17, f"{tick:g}", anchor=anchor, tone="pale")
    drawing.text(x(0.5), bottom + 35, f"balanced accuracy; chance is {number(chance)}", anchor="middle", tone="pale")
    words = " ".join(
        f"{probe['name']}: {number(probe['balanced_accuracy'])}, exchanged labels "
        f"{'not known' if probe['null'] is None else number(probe['null']['mean']) + ' to ' + number(probe['null']['p95'])}, "
        f"{_VERDICTS[probe['verdict']]}."
        for probe in probed
    )
    return drawing.finished(
        height=math.ceil(bottom + 44), title="What tells the class", description=f"n = {of}. {words}"
    )


def _images_body(document: Mapping[str, Any]) -> Markup:
    known = _known_groups(document)

    def groups(count: int) -> Markup:
        return escaped("unknown" if known is None else str(count))

    per_class = table(
        [Column(title="Class", numeric=False), Column(title="Images"), Column(title="Groups")],
        [
            (
                named(kind),
                datum(document["images_per_class"][kind], str(document["images_per_class"][kind])),
                groups(document["groups_per_class"][kind]),
            )
            for kind in document["classes"]
        ],
        caption=f"Images and groups of each class; {counts(document['images'], known)}.",
    )
    heads = ("Class", "Source", "Size, px", "Format")
    crossed = table(
        [*(Column(title=title, numeric=False) for title in heads), Column(title="Images"), Column(title="Groups")],
        [
            (
                named(row["class"]),
                named(row["source"]),
                escaped(row["size"]),
                escaped(row["format"]),
                escaped(str(row["images"])),
                groups(row["groups"]),
            )
            for row in document["counts"]
        ],
        caption=f"Images by class, source, size and format; {counts(document['images'], known)}.",
    )
    return joined([per_class, crossed])


def _copies_body(document: Mapping[str, Any]) -> Markup:
    copies, near = document["duplicates"]["copies"], document["duplicates"]["near"]
    if not copies and not near:
        return paragraph(escaped("No copies and no near-copies were found."))
    parts = []
    if copies:
        sets = items(joined(map(named, paths), " = ") for paths in copies[:FIRST_IMAGES])
        parts.append(subsection(f"Exact copies: {counted(len(copies), 'set')}", joined([sets, _more(copies)])))
    if near:
        pairs = items(
            Markup(f"{named(one['first'])} ~ {named(one['second'])} ({escaped(one['kind'])})")
            for one in near[:FIRST_IMAGES]
        )
        parts.append(subsection(f"Near-copies: {counted(len(near), 'pair')}", joined([pairs, _more(near)])))
    return joined(parts)


def _more(listed: Sequence[object]) -> Markup:
    left = len(listed) - FIRST_IMAGES
    return paragraph(escaped(f"and {left:,} more."), kind="pale") if left > 0 else Markup("")


def _method_body(document: Mapping[str, Any]) -> Markup:
    pairs: Iterable[tuple[str, str]] = (
        ("A probe", "Fisher's linear discriminant with equal priors, fitted on some folds of whole groups and judged on the "
         "others, on nothing but what the probe looks at."),
        ("Exchanged labels", "The labels of whole groups are exchanged, together with their fold, and the probe is fitted "
         "again: many images of one patient are one piece of evidence."),
        ("Tells the class", f"p below 0.05 after Holm over all probes, and at least {document['least_effect']:.0%} of the way "
         "from what exchanged labels reach in one of twenty to certainty."),
        ("Possibly tells it", "The same between images, where groups are too few for any test between them: it proves "
         "nothing about another patient, and clears nothing."),
        ("Mislabelled", "Images that a model of colours and cell counts, fitted on other groups, calls another class with "
         "more certainty than that class's own. Some of them will be right after all."),
        ("Marks and counts", "Scale bars, pointers and dark bodies are found by simple "
         "rules on a shrunk image. They err on single images."),
        ("Not looked for", "Anything else that can tell the class: focus, density of the film, the order of capture."),
        ("Seed", str(document["seed"])),
    )  # fmt: skip
    return definitions((term, escaped(what)) for term, what in pairs)
