"""Which images are copies of one another though their pixels differ, and which photographs were taken in one go.

Requirements met here:
- What a pair is called depends on its two images alone; other images only decide which pairs are looked at.
- Work grows about as the number of images, not its square; the same images in the same order give the same pairs.
- Of many images the fingerprints stay on disk, and so does what is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np

from leukemia_cli.data.hypotheses import blob_count, blob_entries, part_hypotheses, whole_entries, whole_hypotheses
from leukemia_cli.data.likeness import NearPair, Prints, judge
from leukemia_cli.data.patch_tables import MOST_IMAGES, Aim, matches_of

SURE_LIKENESS = 0.9


_LEAST_ALIKE = 0.95
_LEAST_ALIKE_WHOLE = 0.85


def find_near(
    prints: Prints, *, own: int = 0, skip: Collection[int] = (), scratch: Path | None = None
) -> list[NearPair]:
    """Give the pairs of images that show the same, whole or in part, ordered by rows; each pair at most once.

    Turned by quarters, mirrored, resized, recoloured or cropped to half the area, a copy is still found; turned by other
    angles it may not be. Candidates have nearly equal patches (random hyperplanes in sorted tables), blobs of a crop must
    besides agree on one map between the images; then thumbnails are compared.
    With `own`, only pairs of one of the first `own` rows and one of the others are looked for; rows in `skip` are in no pair.
    What is too much to hold goes to files in `scratch` (or the system's folder for such), which are gone at the end.
    Raises ValueError for more than `MOST_IMAGES` images.
    Source: hyperplanes: Charikar 2002, STOC, 380; canonical turns, votes and limits are our choice.
    """
    count = len(prints)
    if count > MOST_IMAGES:
        raise ValueError(f"{count:,} images are more than {MOST_IMAGES:,}")
    if count < 2:
        return []
    found: dict[tuple[int, int], NearPair] = {}
    used = np.ones(count, dtype=bool)
    used[list(skip)] = False
    aim = Aim(count=count, own=own, scratch=scratch)
    with ExitStack() as stack:
        for matches in matches_of(stack, lambda: whole_entries(prints, used), 8 * count, _LEAST_ALIKE_WHOLE, aim):
            judge(prints, whole_hypotheses(matches), found, refine=False)
    aim, total = aim.but(found), 3 * blob_count(prints) + 1
    with ExitStack() as stack:
        for matches in matches_of(stack, lambda: blob_entries(prints, used), total, _LEAST_ALIKE, aim):
            judge(prints, part_hypotheses(matches, prints), found, refine=True)
    return [found[key] for key in sorted(found)]


def clusters(pairs: Sequence[NearPair], count: int) -> list[tuple[int, ...]]:
    """Give the sets of two or more of `count` rows that pairs join, ordered by their first row.

    What stops chains: pairs join from the most alike down, and a pair that is not sure (likeness below `SURE_LIKENESS`)
    does not join two sets that both hold three rows or more, unless a second pair does as well.
    """
    parent = list(range(count))
    members = [[row] for row in range(count)]
    waiting: dict[tuple[int, int], int] = defaultdict(int)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pair in sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second)):
        one, other = sorted((root(pair.first), root(pair.second)))
        if one == other:
            continue
        waiting[one, other] += 1
        weak = pair.likeness < SURE_LIKENESS and min(len(members[one]), len(members[other])) >= 3
        if weak and waiting[one, other] < 2:
            continue
        parent[other] = one
        members[one] += members[other]
    return [tuple(sorted(members[row])) for row in range(count) if parent[row] == row and len(members[row]) > 1]


def capture_bursts(times: Sequence[str | None], cameras: Sequence[str], gap_s: float = 120) -> list[tuple[int, ...]]:
    """Give the sets of two or more photographs that one camera took, each within `gap_s` of the one before.

    `times` are as EXIF writes them, 'YYYY:MM:DD HH:MM:SS'; a photograph without a time, or with one that is no time, is in
    no burst. Rows of a burst are in the order of time; bursts in the order of their first row. Two minutes are our choice:
    one smear is seldom changed for the next, focused and photographed faster. Raises ValueError for unequal lengths.
    """
    taken: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for row, (time, camera) in enumerate(zip(times, cameras, strict=True)):
        moment = _moment(time)
        if moment is not None:
            taken[camera].append((moment, row))
    bursts: list[list[int]] = []
    for shots in taken.values():
        before: datetime | None = None
        for moment, row in sorted(shots):
            if before is None or (moment - before).total_seconds() > gap_s:
                bursts.append([])
            bursts[-1].append(row)
            before = moment
    return sorted((tuple(burst) for burst in bursts if len(burst) > 1), key=min)


def _moment(time: str | None) -> datetime | None:
    try:
        return datetime.strptime(time, "%Y:%m:%d %H:%M:%S") if time else None
    except ValueError:
        return None
