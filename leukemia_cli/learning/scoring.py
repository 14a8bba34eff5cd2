"""Images are scored each by its own judges: the member that has not seen it, or all members for images from elsewhere.

Photographs are scored by their cells, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukemia_cli.domain import Preprocessing, Sample, Track, silent
from leukemia_cli.judging.conformal import Sets
from leukemia_cli.learning.arrays import Features, Marks, Scores
from leukemia_cli.learning.classifier import Classifier, Member, seen_by
from leukemia_cli.learning.doubt import Thresholds, Vectors, doubted
from leukemia_cli.learning.features import FeatureCache, Views, extract
from leukemia_cli.learning.loading import member_digest
from leukemia_cli.learning.reading import BagFound, BagSeen, read_bag, read_cell, see_bag

Judges = tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Probabilities (N, C), calibrated and as they were; which images are novel, which too unsure, and label sets.

    `novel` and `uncertain` (N,) are None where a judge cannot tell doubt, `sets` (N, C) where one can promise no rate.
    """

    probabilities: Scores
    uncalibrated: Scores
    novel: Marks | None
    uncertain: Marks | None
    sets: Sets | None
    few: Marks | None = None
    """Which photographs have too few cells (N,); None where images are scored as they are."""


def score(
    classifier: Classifier,
    judged: Sequence[tuple[Sample, Judges]],
    *,
    cache_root: Path,
    batch_size: int,
    max_megapixels: float,
    track: Track = silent,
) -> Scored:
    """Score every image by its judges; features are kept in the cache. Raises as `extract` does."""
    count, classes = len(judged), len(classifier.task.classes)
    probabilities, uncalibrated = np.zeros((count, classes)), np.zeros((count, classes))
    novel, uncertain = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    sets = np.zeros((count, classes), dtype=bool)
    doubts = promised = True
    for judges in dict.fromkeys(_key(judges) for _, judges in judged):
        places = [i for i, (_, own) in enumerate(judged) if _key(own) == judges]
        members = judged[places[0]][1]
        samples = [judged[i][0] for i in places]
        vectors = _vectors(classifier, members, samples, cache_root, batch_size, max_megapixels, track)
        seen, thresholds = seen_by(members, vectors), Thresholds.of([member.limits for member in members])
        probabilities[places], uncalibrated[places] = seen.probabilities, seen.uncalibrated
        if thresholds is None or seen.novelty is None:
            doubts = promised = False
            continue
        told = doubted(seen.probabilities, seen.novelty, thresholds)
        novel[places], uncertain[places] = told.novel, told.uncertain
        if told.sets is None:
            promised = False
        else:
            sets[places] = told.sets
    return Scored(
        probabilities=probabilities,
        uncalibrated=uncalibrated,
        novel=novel if doubts else None,
        uncertain=uncertain if doubts else None,
        sets=sets if promised else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSeen:
    """A photograph, its judges, its cells in order and what the judges made of them."""

    field: Sample
    judges: Judges
    cells: tuple[Sample, ...]
    seen: BagSeen
    alone: bool = False
    """Whether the image is itself the crop of one cell."""

    @property
    def found(self) -> BagFound:
        """Read the photograph by its cells, or judge the one cell that it shows."""
        return read_cell(self.judges, self.seen) if self.alone else read_bag(self.judges, self.seen)


def see_fields(
    classifier: Classifier,
    judged: Sequence[tuple[Sample, Judges]],
    everything: Sequence[Sample],
    *,
    cache_root: Path,
    batch_size: int,
    max_megapixels: float,
    track: Track = silent,
) -> tuple[FieldSeen, ...]:
    """Look at the cells, among `everything`, of each photograph by its judges; features are kept in the cache."""
    cells_of: dict[str, list[Sample]] = {field.path: [] for field, _ in judged}
    for cell in everything:
        if cell.field in cells_of:
            cells_of[cell.field].append(cell)
    seen: dict[str, BagSeen] = {}
    for judges in dict.fromkeys(_key(judges) for _, judges in judged):
        mine = [(field, own) for field, own in judged if _key(own) == judges]
        members = mine[0][1]
        samples = [cell for field, _ in mine for cell in cells_of[field.path]]
        vectors = _vectors(classifier, members, samples, cache_root, batch_size, max_megapixels, track)
        start = 0
        for field, _ in mine:
            end = start + len(cells_of[field.path])
            seen[field.path] = see_bag(members, [Vectors(*(rows[start:end] for rows in each)) for each in vectors])
            start = end
    return tuple(
        FieldSeen(
            field=field,
            judges=judges,
            cells=tuple(cells_of[field.path]),
            seen=seen[field.path],
            alone=[cell.path for cell in cells_of[field.path]] == [field.path],
        )
        for field, judges in judged
    )


def score_fields(fields: Sequence[FieldSeen], class_count: int) -> tuple[Scored, tuple[BagFound, ...]]:
    """Read every photograph by the rule of its judges; give the scores together, and each finding."""
    found = tuple(field.found for field in fields)
    doubts = all(each.thresholds is not None for each in found)
    promised = doubts and all(each.label_set is not None for each in found)
    nothing = np.zeros((0, class_count))
    scored = Scored(
        probabilities=np.array([each.probabilities for each in found]) if found else nothing,
        uncalibrated=np.array([each.uncalibrated for each in found]) if found else nothing,
        novel=np.array([each.novel for each in found]) if doubts else None,
        uncertain=np.array([each.uncertain for each in found]) if doubts else None,
        sets=np.array([each.label_set for each in found]) if promised else None,
        few=np.array([each.few_cells for each in found]),
    )
    return scored, found


def _key(judges: Judges) -> tuple[int, ...]:
    return tuple(id(member) for member in judges)


def _vectors(
    classifier: Classifier,
    members: Judges,
    samples: Sequence[Sample],
    cache_root: Path,
    batch_size: int,
    max_megapixels: float,
    track: Track,
) -> list[Vectors]:
    """Give each member's feature vectors of the plain views; a shared backbone looks once."""
    specs = (classifier.preprocessing, classifier.novelty_preprocessing)
    known: dict[tuple[str, Preprocessing], Features] = {}
    vectors = []
    for member in members:
        backbone = member.backbone if member.backbone is not None else classifier.backbone
        if backbone is None:
            raise ValueError("a member without a backbone in a run without a shared one")
        digest = "shared" if member.backbone is None else str(id(member))
        for spec in specs:
            if (digest, spec) not in known:
                known[digest, spec] = extract(
                    backbone,
                    samples,
                    spec,
                    cache=FeatureCache(cache_root, member_digest(classifier, member), spec),
                    views=Views(),
                    machine=classifier.machine,
                    batch_size=batch_size,
                    max_megapixels=max_megapixels,
                    track=track,
                )[:, 0]
        vectors.append(Vectors(*(known[digest, spec] for spec in specs)))
    return vectors
