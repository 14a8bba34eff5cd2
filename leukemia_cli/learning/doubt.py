"""When a trained member says "I don't know": how strange, how unsure, and which labels stay possible.

Requirements met here:
- Everything is fitted on calibration images, or on out-of-fold scores of training; nothing on what the model was fitted to.
- What is fitted is stored in the run as arrays and numbers, and used as it was stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.errors import UsageError
from leukemia_cli.judging.abstention import LeastConfidence, least_confidence
from leukemia_cli.judging.conformal import LabelSets, Sets, fit_label_sets, no_label_sets
from leukemia_cli.judging.novelty import Novelty, novelty_threshold
from leukemia_cli.learning.arrays import Features, Labels, Marks, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtSettings:
    """What rates are asked for; every default is our choice."""

    false_alarm: float = 0.05
    """Share of images like those of training that may be called novel."""
    risk: float = 0.05
    """Share of wrong answers, among those given, that is aimed at."""
    alpha: float = 0.1
    """Share of label sets that may lack the true class."""
    least_cells: int = 3
    """A photograph with fewer white cells gets no answer, in a run on cells."""

    def __post_init__(self) -> None:
        for flag, value in (("--false-alarm", self.false_alarm), ("--risk", self.risk), ("--alpha", self.alpha)):
            if not 0 < value < 0.5:
                raise UsageError(f"{flag} {value} is not above 0 and below 0.5", "It is a rate of errors: try 0.05")
        if self.least_cells < 1:
            raise UsageError(f"--least-cells {self.least_cells} is too few", "A finding needs at least one cell")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The thresholds of one member for what it judges: images, cells, or photographs by their cells."""

    novelty_threshold: float
    false_alarm: float
    confidence: LeastConfidence | None
    """None where every class was not on both sides of what it is to be fitted on: then nothing is called uncertain."""
    label_sets: LabelSets
    fitted_on: str

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {
            "novelty_threshold": self.novelty_threshold,
            "false_alarm": self.false_alarm,
            "confidence": None if self.confidence is None else self.confidence.as_json(),
            "label_sets": self.label_sets.as_json(),
            "fitted_on": self.fitted_on,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Limits:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        confidence = stored["confidence"]
        return cls(
            novelty_threshold=float(stored["novelty_threshold"]),
            false_alarm=float(stored["false_alarm"]),
            confidence=None if confidence is None else LeastConfidence.from_json(confidence),
            label_sets=LabelSets.from_json(stored["label_sets"]),
            fitted_on=str(stored["fitted_on"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """The thresholds of one member, and the description of its training images that novelty is measured from."""

    novelty: Novelty
    limits: Limits

    def as_json(self) -> dict[str, Any]:
        """Give what is stored beside the arrays."""
        return {"novelty": self.novelty.as_json(), **self.limits.as_json()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the arrays by name."""
        return {name: np.ascontiguousarray(array) for name, array in self.novelty.arrays().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Give `arrays` as tensors."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays().items()}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Doubt:
        """Undo `as_json` and `arrays`; raises KeyError, TypeError or ValueError for anything else."""
        return cls(novelty=Novelty.restored(facts["novelty"], arrays), limits=Limits.from_json(facts))


class Vectors(NamedTuple):
    """Feature vectors (n, D) of n images by one member: what tells their class, and what tells whether they are novel.

    They are the same unless a remedy hides where an image is from.
    """

    of_class: Features
    of_novelty: Features


def novelty_by(doubts: Sequence[Doubt | None], vectors: Sequence[Vectors]) -> Scores | None:
    """Give the mean over members of how strange n images are (n,); None where one member cannot tell."""
    known = [(doubt, each.of_novelty) for doubt, each in zip(doubts, vectors, strict=True) if doubt is not None]
    if len(known) < len(vectors):
        return None
    return np.asarray(np.mean([doubt.novelty.scores(rows) for doubt, rows in known], axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Images (n) that the member was not fitted on: calibrated probabilities (n, C), labels, groups, novelty scores.

    `probabilities` is None where no member that had seen every class could be fitted without them: then only what is novel
    can be told.
    """

    probabilities: Scores | None
    labels: Labels
    groups: tuple[str, ...] | None
    novelty: Scores
    named: str


def fit_limits(calibration: Calibration, settings: DoubtSettings) -> Limits:
    """Fit every threshold on calibration images."""
    c, confidence = calibration, None
    label_sets = no_label_sets(settings.alpha, "too few groups to score every class without its own", c.groups)
    if c.probabilities is not None:
        confidence = least_confidence(c.probabilities, c.labels, c.groups, risk=settings.risk)
        label_sets = fit_label_sets(c.probabilities, c.labels, c.groups, settings.alpha)
    return Limits(
        novelty_threshold=novelty_threshold(c.novelty, c.groups, settings.false_alarm),
        false_alarm=settings.false_alarm,
        confidence=confidence,
        label_sets=label_sets,
        fitted_on=c.named,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The thresholds that one image is held against: of several members the means, of their label sets the widest."""

    novelty: float
    confidence: float
    """0 where no member has one."""
    label_sets: LabelSets

    @classmethod
    def of(cls, limits: Sequence[Limits | None]) -> Thresholds | None:
        """Give those of several members together; None where one has none, because nothing was left to fit it on."""
        known = [each for each in limits if each is not None]
        if not known or len(known) < len(limits):
            return None
        sets = [each.label_sets for each in known]
        refused = [each for each in sets if each.threshold is None]
        widest = refused[0] if refused else max(sets, key=lambda each: each.threshold or 0.0)
        return cls(
            novelty=float(np.mean([each.novelty_threshold for each in known])),
            confidence=float(np.mean([0.0 if c is None else c.threshold for c in (each.confidence for each in known)])),
            label_sets=widest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted:
    """Which of n images are novel and which too unsure, (n,) each; and label sets (n, C), None where none can be promised."""

    novel: Marks
    uncertain: Marks
    sets: Sets | None


def doubted(probabilities: Scores, novelty: Scores, thresholds: Thresholds) -> Doubted:
    """Hold probabilities (n, C) and novelty scores (n,) against the thresholds."""
    label_sets = thresholds.label_sets
    return Doubted(
        novel=novelty > thresholds.novelty,
        uncertain=probabilities.max(axis=1) < thresholds.confidence,
        sets=None if label_sets.threshold is None else label_sets.sets(probabilities),
    )
