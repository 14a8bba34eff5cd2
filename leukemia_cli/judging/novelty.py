"""How unlike the training images an image is, by its feature vector: a Gaussian of shrunk covariance, and what it leaves over.

What is kept of the training images is their mean, at most 128 directions and two sets of numbers that scale them: no row
belongs to one image. A score is a distance, about 1 for an image as common as those of training; what is too far is for
`novelty_threshold` to say, fitted on images that the description has not seen.
Letters: N images, D features, K directions, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.judging.conformal import new_score_bound
from leukemia_cli.judging.predictions import FloatArray

MOST_DIRECTIONS = 128
"""Kept directions at most; and one for each three images, because fewer images overfit more directions."""

_IMAGES_PER_DIRECTION = 3
_KIND = "mahalanobis"
_ARRAYS = ("mean", "directions", "whitening", "rest")

# Directions in which features hardly move are given this share of their greatest variance, so that no score is infinite.
_LEAST_VARIANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Novelty:
    """Mean (D,) of the training features, directions (K, D), whitening (K, K), and the variance left over, (1,)."""

    mean: FloatArray
    directions: FloatArray
    whitening: FloatArray
    rest: FloatArray

    def scores(self, features: NDArray[np.floating[Any]]) -> FloatArray:
        """Give the distance (N,) of features (N, D): larger is stranger; an image's never depends on its neighbours.

        The square is (T² + √K · Q) / (K + √K): T² the squared Mahalanobis distance within the K directions, Q the squared
        length of what they leave over, relative to its mean over training. √K is about how much T² varies by itself, so
        neither part drowns the other. Raises ValueError for features that are not (N, D) or not finite.
        Source: the two parts and their sum: Yue and Qin 2001, Ind. Eng. Chem. Res. 40:4403; the weight is our choice.
        """
        checked = np.asarray(features, dtype=np.float64)
        if checked.ndim != 2 or checked.shape[1] != self.mean.size or not np.isfinite(checked).all():
            raise ValueError(f"features must be (N, {self.mean.size}) and finite, got shape {checked.shape}")
        weight = np.sqrt(len(self.directions))
        scores = np.empty(len(checked))
        # Row by row: a product with many rows at once may sum in another order than with one.
        for i, row in enumerate(checked - self.mean):
            inside = self.directions @ row
            left = row - inside @ self.directions
            along = inside @ self.whitening
            scores[i] = (along @ along + weight * (left @ left) / self.rest[0]) / (weight**2 + weight)
        distances: FloatArray = np.sqrt(scores)
        return distances

    def as_json(self) -> dict[str, Any]:
        """Give what is stored beside the arrays."""
        return {"kind": _KIND}

    def arrays(self) -> dict[str, FloatArray]:
        """Give the arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[np.floating[Any]]]) -> Novelty:
        """Undo `as_json` and `arrays`; raises KeyError for a missing one, ValueError for another kind or wrong shapes."""
        if facts["kind"] != _KIND:
            raise ValueError(f"novelty of kind {facts['kind']!r}, not {_KIND!r}")
        mean, directions, whitening, rest = (np.asarray(arrays[name], dtype=np.float64) for name in _ARRAYS)
        count = len(directions)
        if (directions.shape, whitening.shape, rest.shape) != ((count, mean.size), (count, count), (1,)):
            raise ValueError(f"novelty arrays do not fit: {directions.shape}, {whitening.shape}, {rest.shape}")
        return cls(mean=mean, directions=directions, whitening=whitening, rest=rest)


def fit_novelty(features: NDArray[np.floating[Any]]) -> Novelty:
    """Describe training features (N, D) by their principal directions with Ledoit and Wolf's shrunk covariance in them.

    Features are neither scaled to spreads nor to length: both made other laboratories' smears look more alike.
    Raises ValueError for fewer than two images, features that are not finite, or features that are all equal.
    Source: Ledoit and Wolf 2004, J. Multivar. Anal. 88:365; Mahalanobis distance on features of a network: Lee et al. 2018
    (arXiv 1807.03888), here without classes.
    """
    from sklearn.covariance import ledoit_wolf

    checked = np.asarray(features, dtype=np.float64)
    if checked.ndim != 2 or len(checked) < 2 or not np.isfinite(checked).all():
        raise ValueError(f"features must be (N, D) and finite with N ≥ 2, got shape {checked.shape}")
    mean = checked.mean(axis=0)
    centred = checked - mean
    most = min(MOST_DIRECTIONS, max(1, len(checked) // _IMAGES_PER_DIRECTION), checked.shape[1])
    directions = _principal(centred, most)
    inside = centred @ directions.T
    left = centred - inside @ directions
    covariance = ledoit_wolf(inside, assume_centered=True)[0]
    variances, axes = np.linalg.eigh(covariance)
    if not variances[-1] > 0:
        raise ValueError(f"the features of all {len(checked)} images are equal")
    least = _LEAST_VARIANCE * variances[-1]
    return Novelty(
        mean=mean,
        directions=directions,
        whitening=axes / np.sqrt(np.maximum(variances, least)),
        rest=np.array([max(float((left**2).sum(axis=1).mean()), least)]),
    )


def _principal(centred: FloatArray, most: int) -> FloatArray:
    """Give the `most` orthonormal directions (K, D) of largest variance, each with its greatest part positive."""
    from scipy import linalg

    images, width = centred.shape
    if images >= width:
        directions = linalg.eigh(centred.T @ centred, subset_by_index=[width - most, width - 1])[1].T
    else:
        weights = linalg.eigh(centred @ centred.T, subset_by_index=[images - most, images - 1])[1]
        directions = linalg.qr(centred.T @ weights[:, ::-1], mode="economic")[0].T
    signs = np.sign(directions[np.arange(most), np.abs(directions).argmax(axis=1)])
    return np.ascontiguousarray(directions * signs[:, None])


def novelty_threshold(scores: FloatArray, groups: Sequence[str] | None, false_alarm: float = 0.05) -> float:
    """Give the score above which an image is called novel: at most `false_alarm` of the images of a new group are.

    `scores` (N,) are those of images that the description has not seen; each group counts equally (without `groups`, each
    image). Below 1 / false_alarm − 1 groups (19 for 5 %) no score can promise this. Then for each group the score is sought that
    `false_alarm` of its images exceed, and the greatest of these is given: a new group has a larger share of images above it with
    probability at most 1 / (G + 1). With little more groups than that the rate is held with much to spare: on average it is
    `false_alarm` − 1 / (G + 1) of what was seen.
    Raises ValueError for no scores, scores that are not finite, or a rate outside (0, 1).
    Source: `new_score_bound`.
    """
    bound = new_score_bound(scores, groups, false_alarm)
    if bound is not None:
        return bound
    each_own = range(len(scores)) if groups is None else groups
    by_group: dict[object, list[float]] = {}
    for group, score in zip(each_own, scores, strict=True):
        by_group.setdefault(group, []).append(float(score))
    return max(float(np.quantile(own, 1 - false_alarm, method="higher")) for own in by_group.values())
