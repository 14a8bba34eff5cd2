"""Which class each cell of a photograph has: from the marks of a data set, from its photograph, or nobody knows.

Requirements met here:
- A mark labels one cell at most, and a cell has one mark at most: the nearest pairs first.
- Cells of a healthy photograph are healthy. An unmarked cell of a leukaemia photograph is no blast by default, and no
  healthy cell either: it stays without a class, because normal cells lie between blasts and no data set marks them all.
- How many cells came by their class in which way is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leukemia_cli.data.sources import Mark
from leukemia_cli.data.tasks import class_of
from leukemia_cli.domain import Task

Unmarked = Literal["leave-out", "healthy", "as-image"]
"""What the unmarked cells of a leukaemia photograph count as: nothing, healthy (where others are marked), or its class."""

How = Literal["marked", "healthy image", "unmarked", "as the image", "one cell"]
_REACH = 1.25
"""A point marks a cell when it lies within so many radii of the nucleus's centroid; our choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A cell that was found: its nucleus's centroid and radius, px."""

    x: float
    y: float
    radius: float


def healthy_class(task: Task) -> str | None:
    """Give the class that `healthy` means in a task, None where it has none."""
    known = class_of(task, "healthy") or class_of(task, "HTL")
    return known if known in task.classes else None


def match_marks(spots: Sequence[Spot], marks: Sequence[Mark]) -> list[int | None]:
    """Give the place of the mark of each spot: points within 1.25 radii, boxes around the centroid; nearest pairs first."""
    near: list[tuple[float, int, int]] = []
    for i, spot in enumerate(spots):
        for j, mark in enumerate(marks):
            across, down = abs(spot.x - mark.x), abs(spot.y - mark.y)
            distance = math.hypot(across, down)
            if mark.width is None or mark.height is None:
                inside = distance <= _REACH * spot.radius
            else:
                inside = across <= mark.width / 2 and down <= mark.height / 2
            if inside:
                near.append((distance, i, j))
    mark_of: list[int | None] = [None] * len(spots)
    taken: set[int] = set()
    for _, i, j in sorted(near):
        if mark_of[i] is None and j not in taken:
            mark_of[i] = j
            taken.add(j)
    return mark_of


def in_pixels(marks: Sequence[Mark], width: int, height: int) -> list[Mark]:
    """Give marks in px of an image of that size, whatever they were given in."""
    return [
        Mark(
            x=mark.x * width,
            y=mark.y * height,
            label=mark.label,
            width=None if mark.width is None else mark.width * width,
            height=None if mark.height is None else mark.height * height,
        )
        if mark.relative
        else mark
        for mark in marks
    ]


def label_cells(
    spots: Sequence[Spot],
    *,
    image_label: str,
    marks: Sequence[Mark] | None,
    healthy: str | None,
    unmarked: Unmarked,
) -> list[tuple[str, How]]:
    """Give class ("" for none) and how it is known of each cell of a photograph; marks are in its pixels.

    A mark of no class (a red cell, a platelet) takes the class from the cell it lies on.
    """
    if image_label and image_label == healthy:
        return [(image_label, "healthy image")] * len(spots)
    mark_of = match_marks(spots, marks or ())
    labels: list[tuple[str, How]] = []
    for place in mark_of:
        if place is not None and marks is not None:
            labels.append((marks[place].label, "marked"))
        elif unmarked == "as-image" and marks is None:
            labels.append((image_label, "as the image"))
        elif unmarked == "healthy" and marks is not None and healthy is not None:
            labels.append((healthy, "unmarked"))
        else:
            labels.append(("", "unmarked"))
    return labels
