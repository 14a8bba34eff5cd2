"""Which class each cell of a photograph has: from the marks of a data set, from its photograph, or nobody knows.

Requirements met here:
- A mark labels one cell at most, and a cell has one mark at most: the nearest pairs first.
- Cells of a healthy photograph are healthy. An unmarked cell of a leukaemia photograph is no blast by default, and no
  healthy cell either: it stays without a class, because normal cells lie between blasts and no data set marks them all.
- How many cells came by their class in which way is told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from leukemia_cli.data.candidates import Candidate
from leukemia_cli.data.sources import Mark
from leukemia_cli.data.tasks import class_of
from leukemia_cli.domain import Crop, Sample, Spot, Task, counted

Unmarked = Literal["leave-out", "healthy", "as-image"]
"""What the unmarked cells of a leukaemia photograph count as: nothing, healthy (where others are marked), or its class."""

How = Literal["marked", "healthy image", "unmarked", "as the image", "one cell"]
_REACH = 1.25
"""A point marks a cell when it lies within so many radii of the nucleus's centroid; our choice."""


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


# ----------------------------------------------------------------------------------------------- of a whole data set


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPhotograph:
    """The cells that were cut of one photograph, or the one that the picture of a cell shows, with the class of each."""

    candidate: Candidate
    unit: Literal["field", "cell"]
    crops: Sequence[Crop]
    labels: Sequence[tuple[str, How]]

    @property
    def kind(self) -> str:
        """Give the class that it is dealt and audited as: its own, or that of most of its cells; "" for neither."""
        known = Counter(label for label, _ in self.labels if label)
        return self.candidate.label or (known.most_common(1)[0][0] if known else "")

    def rows(self, photograph: Sample, manifest_folder: Path) -> list[Sample]:
        """Give the row of each cell, in the part and the group of its photograph."""
        return [
            replace(
                photograph,
                path=photograph.path if crop.file is None else str(manifest_folder / crop.file),
                label=label,
                unit="cell",
                sha256=crop.sha256,
                width=crop.width,
                height=crop.height,
                field=photograph.path,
                x=None if crop.spot is None else round(crop.spot.x, 1),
                y=None if crop.spot is None else round(crop.spot.y, 1),
            )
            for crop, (label, _) in zip(self.crops, self.labels, strict=True)
        ]


def label_photograph(
    candidate: Candidate,
    unit: Literal["field", "cell"],
    crops: Sequence[Crop],
    size_px: tuple[int, int],
    task: Task,
    unmarked: Unmarked,
) -> CutPhotograph:
    """Give each cell of a photograph of that width and height its class."""
    if unit == "cell":
        labels: list[tuple[str, How]] = [(candidate.label, "one cell")] * len(crops)
    else:
        labels = label_cells(
            [crop.spot for crop in crops if crop.spot is not None],
            image_label=candidate.label,
            marks=None if candidate.marks is None else in_pixels(candidate.marks, *size_px),
            healthy=healthy_class(task),
            unmarked=unmarked,
        )
    return CutPhotograph(candidate=candidate, unit=unit, crops=crops, labels=labels)


def cells_said(photographs: Sequence[CutPhotograph]) -> list[str]:
    """Say how cells came by their class, which have none and why, and which marks no cell was found for."""
    told = Counter((how, bool(label)) for photograph in photographs for label, how in photograph.labels)
    warnings = []
    if told["unmarked", False]:
        warnings.append(
            f"{counted(told['unmarked', False], 'cell')} of photographs that are not healthy left without a class, out of "
            "training: nobody marked them, and normal cells lie between blasts (--unmarked says otherwise)"
        )
    if told["unmarked", True]:
        warnings.append(f"{counted(told['unmarked', True], 'unmarked cell')} of leukaemia photographs taken as healthy")
    if told["as the image", True]:
        warnings.append(
            f"{counted(told['as the image', True], 'cell')} given the class of their photograph, normal cells among them: "
            "the labels are noisy"
        )
    fields = [photograph for photograph in photographs if photograph.unit == "field"]
    marks = sum(
        sum(bool(mark.label) for mark in field.candidate.marks or ())
        for field in fields
        if not any(how == "healthy image" for _, how in field.labels)
    )
    missed = marks - told["marked", True]
    if missed:
        warnings.append(f"no cell was found at {missed} of {counted(marks, 'mark')}: they are not used")
    empty = sum(not field.crops for field in fields)
    if empty:
        warnings.append(f"no white cell was found in {empty} of {counted(len(photographs), 'photograph')}")
    return warnings
