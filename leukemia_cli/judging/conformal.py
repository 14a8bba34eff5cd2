"""Sets of labels that hold the true one at a stated rate, fitted on scores that chose nothing; refused where data are too few.

Split-conformal prediction with the score 1 − p of the true class (LAC). Where groups are known every group counts equally
and the rate is for an image of a new group; else for a new image. Letters: N images, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import counted
from leukemia_cli.judging.predictions import FloatArray, IntArray

Sets = NDArray[np.bool_]
Per = Literal["group", "image"]

# Sums of weights 1 / n are compared with counts; a sum may miss its whole number by rounding.
_ROUNDING = 1e-9


def group_weights(groups: Sequence[str] | None, images: int) -> tuple[FloatArray, int]:
    """Give each image's weight (N,), summing to 1 over its group, and the number of groups; without groups each is its own.

    Raises ValueError where there is not one group an image.
    """
    if groups is None:
        return np.ones(images), images
    if len(groups) != images:
        raise ValueError(f"{len(groups)} groups for {images} images")
    _, index, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    return 1.0 / sizes[index], len(sizes)


def fewest_groups(alpha: float) -> int:
    """Give the fewest groups from which a rate of `alpha` can be promised: 1 / alpha − 1, rounded up."""
    return math.ceil(1 / alpha - 1 - _ROUNDING)


def new_score_bound(scores: FloatArray, groups: Sequence[str] | None, alpha: float) -> float | None:
    """Give the score (of those seen) that a new group's image exceeds with probability at most `alpha`; None for too few.

    The least s with Σ_g share of g's scores ≤ s at least (1 − alpha)(G + 1): each group counts equally, and the new one as
    if it lay above all. Holds on average over calibration sets, where groups (and images within one) are exchangeable.
    Raises ValueError for no scores, scores that are not finite, or alpha outside (0, 1).
    Source: Lee, Barber and Willett 2023, Distribution-free inference with hierarchical data (arXiv 2306.06342),
    hierarchical conformal prediction; the setting: Dunn, Wasserman and Ramdas 2022, J. Am. Stat. Assoc. 118:2491.
    With one image a group it is split-conformal prediction: Vovk, Gammerman and Shafer 2005.
    """
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 1 or checked.size == 0 or not np.isfinite(checked).all():
        raise ValueError(f"scores must be (N,) and finite with N ≥ 1, got shape {checked.shape}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    weights, count = group_weights(groups, checked.size)
    order = np.argsort(checked, kind="stable")
    reached = np.cumsum(weights[order]) >= (1 - alpha) * (count + 1) - _ROUNDING
    return float(checked[order[int(reached.argmax())]]) if reached.any() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSets:
    """Which classes stay possible for an image; `threshold` is None, and `reason` says why, where no rate can be promised.

    The true class is missing at a rate of at most `alpha`, over images of new groups (`per` "group") or new images.
    """

    alpha: float
    threshold: float | None
    per: Per
    calibration_groups: int
    calibration_images: int
    reason: str | None

    def sets(self, probabilities: FloatArray) -> Sets:
        """Mark the classes (N, C) whose 1 − p is within the threshold; the most probable class always is.

        Raises ValueError where there is no threshold, and for probabilities that are not (N, C).
        """
        if self.threshold is None:
            raise ValueError(f"there are no label sets: {self.reason}")
        checked = _checked(probabilities)
        marked: Sets = 1 - checked <= self.threshold
        marked[np.arange(len(checked)), checked.argmax(axis=1)] = True
        return marked

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {slot: getattr(self, slot) for slot in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LabelSets:
        """Undo `as_json`; raises KeyError for a missing field."""
        threshold = stored["threshold"]
        return cls(
            alpha=float(stored["alpha"]),
            threshold=None if threshold is None else float(threshold),
            per=stored["per"],
            calibration_groups=int(stored["calibration_groups"]),
            calibration_images=int(stored["calibration_images"]),
            reason=stored["reason"],
        )


def fit_label_sets(
    probabilities: FloatArray, labels: IntArray, groups: Sequence[str] | None, alpha: float
) -> LabelSets:
    """Fit the threshold on probabilities (N, C) of images that chose neither the model nor its temperature's candidates.

    `labels` (N,) are class indices, `groups` (N,) names or None where unknown. With fewer than 1 / alpha − 1 groups the
    threshold is None. Raises ValueError for shapes that do not fit, labels that are no indices, alpha outside (0, 1).
    """
    checked, truth = _checked(probabilities), np.asarray(labels)
    if truth.shape != (len(checked),) or truth.size == 0 or truth.dtype.kind not in "iu":
        raise ValueError(f"labels must be ({len(checked)},) integers, at least one, got {truth.dtype} {truth.shape}")
    if truth.min() < 0 or truth.max() >= checked.shape[1]:
        raise ValueError(f"labels {truth.min()} to {truth.max()} are no indices into {checked.shape[1]} classes")
    threshold = new_score_bound(1 - checked[np.arange(truth.size), truth], groups, alpha)
    count = group_weights(groups, truth.size)[1]
    per: Per = "image" if groups is None else "group"
    reason = None
    if threshold is None:
        reason = f"{counted(count, per)} to calibrate on: a miss rate of {100 * alpha:g} % needs at least {fewest_groups(alpha)}"
    return LabelSets(
        alpha=alpha,
        threshold=threshold,
        per=per,
        calibration_groups=count,
        calibration_images=truth.size,
        reason=reason,
    )


def no_label_sets(alpha: float, reason: str, groups: Sequence[str] | None) -> LabelSets:
    """Refuse label sets, saying why, where there are no probabilities to fit them on."""
    per: Per = "image" if groups is None else "group"
    return LabelSets(alpha=alpha, threshold=None, per=per, calibration_groups=0, calibration_images=0, reason=reason)


def coverage(sets: Sets, labels: IntArray, groups: Sequence[str] | None = None) -> float:
    """Give the share of images whose set (N, C) holds their label; with `groups`, the mean of the groups' shares.

    Raises ValueError for no images.
    """
    truth = np.asarray(labels)
    if truth.size == 0 or sets.shape[:1] != truth.shape:
        raise ValueError(
            f"sets and labels must be of the same images, at least one, got {sets.shape} and {truth.shape}"
        )
    weights, count = group_weights(groups, truth.size)
    return float(weights @ sets[np.arange(truth.size), truth] / count)


def _checked(probabilities: FloatArray) -> FloatArray:
    checked = np.asarray(probabilities, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[1] < 2 or not np.isfinite(checked).all():
        raise ValueError(f"probabilities must be (N, C) and finite with C ≥ 2, got shape {checked.shape}")
    return checked
