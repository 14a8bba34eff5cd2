"""An image of any size as a run on cells sees it: its cells, found and cut, and what the run's members make of them.

Requirements met here:
- Cells are found and cut by the settings that the run was made with, never by marks of a data set.
- A slide is read a tile at a time, and all its cells are cut at one scale; of them only places, scores and a few telling
  crops are held.
- A cell that lies in the overlap of tiles counts once; tiles on which no cell can be told are passed over and counted.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from leukemia_cli.domain import Track, silent
from leukemia_cli.learning.arrays import Scores
from leukemia_cli.learning.batches import Look, Pixels, look_at
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.reading import BagSeen, pooled, see_cells
from leukemia_cli.vision.cells import Cell
from leukemia_cli.vision.cutting import Cut, CutCell, Cutting, cut_tiles
from leukemia_cli.vision.slides import Slide

MOST_TELLING = 8
"""Crops that are kept of each class: those most surely told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighted:
    """A cell with its place in px of the whole image, its probabilities (C,), and novelty where the run tells it."""

    cell: Cell | None
    red_cell_diameter_px: float | None
    scores: Scores
    novelty: float | None


@dataclass(slots=True, kw_only=True, eq=False)
class Telling:
    """The crops of the cells most surely told to be each class; they are all that is kept of a slide's pixels."""

    most: int = MOST_TELLING
    _kept: dict[int, list[tuple[float, int, Pixels]]] = field(default_factory=dict)
    _ticket: Iterator[int] = field(default_factory=itertools.count)

    def add(self, pixels: Pixels, scores: Scores) -> None:
        """Keep a crop if it is among the surest of its class so far."""
        best = int(scores.argmax())
        kept = self._kept.setdefault(best, [])
        entry = (float(scores[best]), -next(self._ticket), pixels)
        if len(kept) < self.most:
            heapq.heappush(kept, entry)
        elif entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    def of(self, class_index: int) -> list[tuple[Pixels, float]]:
        """Give the crops of a class, surest first, with their probability."""
        ordered = sorted(self._kept.get(class_index, ()), key=lambda entry: entry[:2], reverse=True)
        return [(pixels, sure) for sure, _, pixels in ordered]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighting:
    """The cells of one image, or of one slide, and what the members make of them together."""

    unit: Literal["field", "cell", "slide"]
    seen: BagSeen
    cells: tuple[Sighted, ...]
    telling: Telling
    tiles: Mapping[str, int]
    """Of a slide: tiles by what they are (usable, empty, blurred, overstained)."""


def looks_of(cells: Sequence[CutCell], classifier: Classifier) -> list[Look]:
    """Give the plain views of each cell: what the network sees."""
    return [look_at(each.seen, classifier.preprocessing) for each in cells]


def sight(classifier: Classifier, found: Cut, looks: list[Look], batch_size: int) -> Sighting:
    """Look at the cells of one image."""
    seen = see_cells(classifier, looks, batch_size)
    telling = Telling()
    cells = tuple(_sighted(found.cells, found.red_cell_diameter_px, seen, telling))
    return Sighting(unit=found.unit, seen=seen, cells=cells, telling=telling, tiles={})


def _sighted(cells: Sequence[CutCell], diameter_px: float | None, seen: BagSeen, telling: Telling) -> Iterator[Sighted]:
    """Pair cells with what was seen of them."""
    scores = seen.cells
    for i, each in enumerate(cells):
        telling.add(each.pixels, scores[i])
        yield Sighted(
            cell=each.cell,
            red_cell_diameter_px=diameter_px,
            scores=scores[i],
            novelty=None if seen.novelty is None else float(seen.novelty[i]),
        )


def sight_slide(
    classifier: Classifier,
    slide: Slide,
    cutting: Cutting,
    batch_size: int,
    *,
    outlines: bool = True,
    track: Track = silent,
) -> Sighting:
    """Look at every usable tile of a slide; raises BadImage where it is damaged. Without `outlines` cells have none."""
    telling, counts = Telling(), Counter[str]()
    cells: list[Sighted] = []
    parts: list[BagSeen] = []
    for tile in cut_tiles(slide, cutting, outlines=outlines, track=track):
        counts[tile.quality] += 1
        if tile.quality == "usable":
            seen = see_cells(classifier, looks_of(tile.cells, classifier), batch_size)
            parts.append(seen)
            cells += _sighted(tile.cells, tile.red_cell_diameter_px, seen, telling)
    seen = pooled(parts) if parts else see_cells(classifier, [], batch_size)
    return Sighting(unit="slide", seen=seen, cells=tuple(cells), telling=telling, tiles=dict(counts))
