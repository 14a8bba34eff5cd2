"""What is found in a data set before anything is trained on it, in sentences.

Requirements met here:
- Nothing is found without its images, its groups and what to do about it.
- What groups are too few to test is told as possible, with its numbers; it is neither accused nor cleared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukemia_cli.domain import ENOUGH_GROUPS, NO_GROUPS, counted, few_groups
from leukemia_cli.judging.shortcuts import Confounded, Probe, confounding, likely_mislabelled
from leukemia_cli.reporting.audit_images import AuditImages, per_class
from leukemia_cli.reporting.wording import counts, number, p_value
from leukemia_cli.vision.traits import Traits

Finding = dict[str, Any]

FIRST_IMAGES = 20
"""Of each finding, how many images are named."""

# Of a network's usual input: what becomes of a nucleus when the whole image is shrunk to it.
INPUT_PX, LEAST_NUCLEUS_PX = 224, 16
_SHRUNK_TWICE = 2
# A mark is told of where so many images hold one, in one place: single detections are often dirt.
_FEWEST_MARKED, _LEAST_MARKED = 5, 0.02
_UNEVEN = 0.1
"""Shares of two classes that are further apart than this are unlike."""

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


def findings(
    images: AuditImages, probed: Sequence[Probe], part: AuditImages, part_folds: Sequence[int] | None, refused: str
) -> list[Finding]:
    """Give all that is found, warnings first; `part` are the images that were `probed`.

    `refused` says why groups could not be dealt to folds, '' where they were.
    """
    found = [
        *_of_groups(images, refused),
        *_of_confounding(images),
        *_of_probes(images, probed),
        *_of_marks(images),
        *_of_sizes(images),
        *_of_copies(images),
        *_of_labels(part, part_folds),
    ]
    return sorted(found, key=lambda one: one["severity"] != "warning")


def _finding(
    code: str, *, warning: bool, title: str, detail: str, what_to_do: str, paths: Sequence[str] = ()
) -> Finding:
    return {
        "code": code,
        "severity": "warning" if warning else "note",
        "title": title,
        "detail": detail,
        "images": {"count": len(paths), "first": list(paths[:FIRST_IMAGES])},
        "what_to_do": what_to_do,
    }


def _of_groups(images: AuditImages, refused: str) -> Iterator[Finding]:
    groups = per_class(images, images.groups)
    listed = ", ".join(f"{kind} {count}" for kind, count in groups.items())
    if not images.groups_known:
        yield _finding(
            "groups-unknown",
            warning=True,
            title="patients are unknown: each image counts as a group of its own",
            detail=f"{NO_GROUPS}. The probes below are as optimistic: {len(images.paths)} images were taken for as many "
            "independent groups.",
            what_to_do="Give patient, slide or session with --group-by: a column, a folder, a pattern or a file.",
        )
    elif few_groups(groups):
        yield _finding(
            "few-groups",
            warning=True,
            title=f"fewer than {ENOUGH_GROUPS} groups in a class ({listed}): figures will rest on little",
            detail=f"Groups per class: {listed}.{f' Groups could not be dealt to folds: {refused}.' if refused else ''}",
            what_to_do="Add images of other patients; until then quote figures of pooled folds with their intervals, "
            "never of one split.",
        )


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


def _of_confounding(images: AuditImages) -> Iterator[Finding]:
    """Tell of values that one class alone holds, or nearly."""
    for attribute, values in _attributes(images).items():
        for one in confounding(attribute, values, images.labels, images.groups):
            yield _confounded(
                images, one, [path for path, v in zip(images.paths, values, strict=True) if v == one.value]
            )


def _confounded(images: AuditImages, one: Confounded, paths: Sequence[str]) -> Finding:
    share = f"{one.of_label} of {one.images}" if one.of_label < one.images else f"all {one.images}"
    plain = f"{one.attribute} {one.value}"
    what = {"none": f"no {one.attribute}", "seen": f"a {one.attribute}"}.get(one.value, plain)
    sure = one.verdict == "accused"
    of_groups = f"{one.groups} of {len(set(images.groups))} groups"
    if sure:
        test = f"between groups this is no chance (p = {p_value(one.p)}, {of_groups})"
    else:
        test = (
            f"possible only: {of_groups} hold it, too few to tell it from chance between groups (p = {p_value(one.p)})"
        )
    return _finding(
        f"{one.attribute.lower().replace(' ', '-')}-tells-class",
        warning=sure,
        title=f"{share} images with {what} are {one.label}" + ("" if sure else " (possible shortcut)"),
        detail=f"{share} images with {what} are {one.label}; of all images {one.expected:.0%} are; {test}.",
        what_to_do=_REMEDIES[one.attribute],
        paths=paths,
    )


def _of_probes(images: AuditImages, probed: Sequence[Probe]) -> Iterator[Finding]:
    for probe in probed:
        if probe.verdict not in ("accused", "possible") or probe.balanced_accuracy is None:
            continue
        accused = probe.verdict == "accused"
        of = counts(probe.images, probe.groups if images.groups_known else None)
        reached = number(probe.balanced_accuracy)
        if probe.name in ("colour", "cell count"):
            worth = "Some of this may be the disease itself; a model that reaches no more has shown nothing else."
        else:
            worth = "A model can reach as much without looking at a cell."
        yield _finding(
            f"probe-{probe.name.lower().replace(' ', '-')}",
            warning=accused,
            title=f"{probe.name} alone tells the class: balanced accuracy {reached}, exchanged labels reach "
            f"{number(probe.null_high)}" + ("" if accused else " (possible shortcut)"),
            detail=f"Looking at nothing but {probe.about}, a linear classifier reaches balanced accuracy {reached} on "
            f"{'groups' if accused else 'images'} it was not fitted on; exchanged labels reach {number(probe.null_mean)} "
            f"on average and {number(probe.null_high)} in one of twenty "
            f"(p = {p_value(probe.p)}, {p_value(probe.p_holm)} after Holm; {probe.method}; {of}). {worth}",
            what_to_do=_REMEDIES[probe.name],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """A kind of mark that can lie on an image: how it is called, and what its traits say of it, '' where there is none."""

    code: str
    noun: str
    plural: str
    remedy: str
    style: Callable[[Traits], str]
    place: Callable[[Traits], str]


_ANYWHERE = "anywhere"
_MARKS = (
    _Mark(
        code="scale-bars", noun="scale bar or writing", plural="scale bars or writing", remedy="scale bar",
        style=lambda t: t.scale_bar_style, place=lambda t: t.scale_bar_place,
    ),
    _Mark(
        code="pointers", noun="glowing pointer", plural="glowing pointers", remedy="pointer",
        style=lambda t: "", place=lambda t: _ANYWHERE if t.has_pointer else "",
    ),
)  # fmt: skip


def _of_marks(images: AuditImages) -> Iterator[Finding]:
    """Tell of marks that many images hold in one place."""
    enough, of_class = max(_FEWEST_MARKED, _LEAST_MARKED * len(images.paths)), Counter(images.labels)
    for kind in _MARKS:
        placed = [(row, place) for row, t in enumerate(images.traits) if (place := kind.place(t))]
        often = {place for place, n in Counter(place for _, place in placed).items() if n >= enough}
        rows = [row for row, place in placed if place in often]
        if not rows:
            continue
        held = Counter(images.labels[row] for row in rows)
        styled = Counter((images.labels[row], kind.style(images.traits[row])) for row in rows)
        styles = sorted({style for _, style in styled} - {""})
        told = "; ".join(
            f"{label} {held[label]} of {of_class[label]}"
            + (f" ({', '.join(f'{style}: {styled[label, style]}' for style in styles)})" if styles else "")
            for label in images.classes
        )
        shares = [
            [held[label] / of_class[label] for label in images.classes],
            *([styled[label, style] / of_class[label] for label in images.classes] for style in styles),
        ]
        uneven = any(max(share) - min(share) > _UNEVEN for share in shares)
        where = "" if often == {_ANYWHERE} else f", {' and '.join(sorted(often))}"
        yield _finding(
            kind.code,
            warning=uneven,
            title=f"{len(rows):,} of {counted(len(images.paths), 'image')} hold a {kind.noun}{where}"
            + (", unlike from class to class" if uneven else ""),
            detail=f"Images with {kind.plural}, by class: {told}. The detector is coarse: look at some of them.",
            what_to_do=_REMEDIES[kind.remedy],
            paths=[images.paths[row] for row in rows],
        )


def _of_sizes(images: AuditImages) -> Iterator[Finding]:
    """Tell where whole images shrunk to a network's input leave little of a nucleus."""
    small = [
        (px, path)
        for path, t in zip(images.paths, images.traits, strict=True)
        if t.body_px is not None
        and max(t.width, t.height) >= _SHRUNK_TWICE * INPUT_PX
        and (px := t.body_px * INPUT_PX / max(t.width, t.height)) < LEAST_NUCLEUS_PX
    ]
    if 2 * len(small) < len(images.paths):
        return
    typical = float(np.median([px for px, _ in small]))
    yield _finding(
        "cells-lost-in-shrinking",
        warning=True,
        title=f"shrunk to {INPUT_PX} px, a nucleus is about {typical:.0f} px wide in {counted(len(small), 'image')}",
        detail=f"In {len(small)} of {len(images.paths)} images the typical dark body would be less than "
        f"{LEAST_NUCLEUS_PX} px wide if the whole image were shrunk to {INPUT_PX} px: what tells cells apart is lost.",
        what_to_do="Use --unit cell, or several views of each image with --tiles, or a backbone of larger input.",
        paths=[path for _, path in small],
    )


def _of_copies(images: AuditImages) -> Iterator[Finding]:
    if images.copies:
        more = sum(len(rows) - 1 for rows in images.copies)
        first, second = (file_name(images.paths[row]) for row in images.copies[0][:2])
        yield _finding(
            "exact-copies",
            warning=False,
            title=f"{counted(more, 'exact copy', 'exact copies')} of other images, for example {first} and {second}",
            detail=f"{counted(len(images.copies), 'set')} of images hold the same pixels. Each set lies in one group, so "
            "that none is on both sides of a split; it still counts more than once in every figure.",
            what_to_do="Remove all but one of each set, or ask the source why one picture has several names.",
            paths=[images.paths[row] for rows in images.copies for row in rows],
        )
    pairs = [(a, b) for a, b, _ in images.near]
    crossed = [(a, b) for a, b in pairs if images.labels[a] != images.labels[b]]
    parted = [(a, b) for a, b in pairs if images.groups[a] != images.groups[b]]
    kinds = ", ".join(f"{kind}: {n}" for kind, n in sorted(Counter(kind for _, _, kind in images.near).items()))
    for code, copies, warning, what, detail, remedy in (
        ("near-copies-of-two-classes", crossed, True, "near-copies lie under two classes",
         "One of the two labels is likely wrong.", "Find out which label is right; remove or relabel the other image."),
        ("near-copies-in-two-groups", parted, True, "near-copies lie in different groups",
         "Images of one picture can then be in training and test data alike.",
         "Give these images one group with --group-by, or remove one of each pair."),
        ("near-copies", pairs, False, "near-copies were found",
         f"By kind: {kinds}. They count more than once in every figure.", "Remove one of each pair, or keep them in one group."),
    ):  # fmt: skip
        if copies:
            rows = list(dict.fromkeys(row for pair in copies for row in pair))
            first, second = (file_name(images.paths[row]) for row in copies[0])
            number_of = counted(len(copies), "pair")
            yield _finding(
                code,
                warning=warning,
                title=f"{number_of} of {what}",
                detail=f"{number_of}, {counted(len(rows), 'image')}; the first: {first} and {second}. {detail}",
                what_to_do=remedy,
                paths=[images.paths[row] for row in rows],
            )


def _of_labels(images: AuditImages, folds: Sequence[int] | None) -> Iterator[Finding]:
    if folds is None:
        return
    features = np.asarray([(*t.colour, *t.background, math.log1p(t.bodies)) for t in images.traits], dtype=np.float64)
    try:
        suspects = likely_mislabelled(features, images.labels, images.groups, folds)
    except ValueError:  # a class that is in one fold alone cannot be predicted for it
        return
    if not suspects:
        return
    first, whole = suspects[0], sorted({images.groups[one.row] for one in suspects if one.whole_group})
    listed = "; ".join(
        f"{file_name(images.paths[one.row])}: {one.given}, more like {one.suggested} ({one.confidence:.2f})"
        for one in suspects[:5]
    )
    yield _finding(
        "likely-mislabelled",
        warning=False,
        title=f"{counted(len(suspects), 'image')} may be mislabelled, first {file_name(images.paths[first.row])} "
        f"({first.given}, more like {first.suggested})",
        detail="A model of colours and cell counts, fitted on other groups, calls these images another class with more "
        f"certainty than that class's own: {listed}."
        + (f" Nearly all images of {', '.join(whole[:5])}: is the whole group mislabelled?" if whole else "")
        + " Where colour is a shortcut it is the shortcut that disagrees.",
        what_to_do="Look at each image with whoever labelled it; mend the label or leave the image as it is, and never "
        "remove images because a model finds them hard.",
        paths=[images.paths[one.row] for one in suspects],
    )


def file_name(path: str) -> str:
    """Give the last part of a path, whichever system it is from."""
    return path.replace("\\", "/").rpartition("/")[2]
