"""The images of a data set in columns, and what a probe can look at in them without looking at a cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import GroupsSource
from leukemia_cli.errors import DataError
from leukemia_cli.judging.shortcuts import Measured
from leukemia_cli.vision.traits import Traits

_FOLDS = 5
_MOST_SIZES = 8


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


def kept_rows(images: AuditImages, rows: Sequence[int]) -> AuditImages:
    """Keep some rows, without folds and copies."""
    return replace(
        images,
        paths=[images.paths[row] for row in rows],
        labels=[images.labels[row] for row in rows],
        groups=[images.groups[row] for row in rows],
        sources=[images.sources[row] for row in rows],
        traits=[images.traits[row] for row in rows],
        folds=None,
        copies=(),
        near=(),
    )


def per_class(images: AuditImages, names: Sequence[str]) -> dict[str, int]:
    """Count how many distinct `names`, one an image, each class has."""
    held: dict[str, set[str]] = {kind: set() for kind in images.classes}
    for label, name in zip(images.labels, names, strict=True):
        held[label].add(name)
    return {kind: len(those) for kind, those in held.items()}


def folds_of(images: AuditImages, seed: int) -> tuple[Sequence[int] | None, str]:
    """Give the manifest's folds, or deal whole groups to five or as many as there are; else say why that cannot be."""
    if images.folds is not None:
        return images.folds, ""
    groups = len(set(images.groups))
    rows = list(zip(images.groups, images.labels, strict=True))
    few = min(per_class(images, images.groups).values())
    try:
        return deal_folds(rows, max(2, min(_FOLDS, groups, few)), seed), ""
    except DataError as error:
        return None, error.problem


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
