"""Images are scored each by its own judges: the member that has not seen it, or all members for images from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukemia_cli.domain import Sample, Track, silent
from leukemia_cli.judging.conformal import Sets
from leukemia_cli.learning.classifier import Classifier, Member, member_digest, seen_by
from leukemia_cli.learning.doubt import Marks, Thresholds, doubted
from leukemia_cli.learning.features import FeatureCache, Features, Views, extract
from leukemia_cli.learning.fitting import Scores

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
        features = _features(classifier, members, samples, cache_root, batch_size, max_megapixels, track)
        seen, thresholds = seen_by(members, features), Thresholds.of([member.doubt for member in members])
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


def _key(judges: Judges) -> tuple[int, ...]:
    return tuple(id(member) for member in judges)


def _features(
    classifier: Classifier,
    members: Judges,
    samples: Sequence[Sample],
    cache_root: Path,
    batch_size: int,
    max_megapixels: float,
    track: Track,
) -> list[Features]:
    """Give each member's feature vectors (n, D) of the plain views; a shared backbone looks once."""
    known: dict[str, Features] = {}
    rows = []
    for member in members:
        backbone = member.backbone if member.backbone is not None else classifier.backbone
        if backbone is None:
            raise ValueError("a member without a backbone in a run without a shared one")
        digest = "shared" if member.backbone is None else str(id(member))
        if digest not in known:
            known[digest] = extract(
                backbone,
                samples,
                classifier.preprocessing,
                cache=FeatureCache(cache_root, member_digest(classifier, member), classifier.preprocessing),
                views=Views(),
                machine=classifier.machine,
                batch_size=batch_size,
                max_megapixels=max_megapixels,
                track=track,
            )[:, 0]
        rows.append(known[digest])
    return rows
