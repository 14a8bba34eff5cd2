"""When to give no answer: the least confidence that keeps errors among the answers low, and what abstaining would buy.

Confidence is the probability of the most probable class. Images of equal confidence are always answered, or left, together.
Letters: N images, C classes, G groups, R resamples, T distinct confidences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import counted
from leukemia_cli.judging.conformal import group_weights
from leukemia_cli.judging.curves import band, first_reaching, run_ends, whole_resamples
from leukemia_cli.judging.intervals import (
    Estimate,
    Interval,
    Spread,
    check_bootstrap,
    clopper_pearson,
    drawing,
    interval_of,
    refusal,
    strata_of,
)
from leukemia_cli.judging.predictions import FloatArray, IntArray, Predictions

LEAST_ANSWERED = 0.5
"""The share of calibration images that is answered at least: a model that would have to say less is told as one that cannot."""

_ROUNDING = 1e-9
_COVERAGES = np.arange(1, 101) / 100


# ---------------------------------------------------------------------------------- the least confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastConfidence:
    """An image is answered from a confidence of `threshold` up; `reached` says whether `risk` was met on calibration data.

    `answered` is the share of calibration images answered, `error` the share of wrong ones among them (groups equally),
    `estimate` that error with allowance for few groups: what is held against `risk`. `reason` is None where it was met.
    """

    threshold: float
    risk: float
    reached: bool
    answered: float
    error: float
    estimate: float
    calibration_groups: int
    calibration_images: int
    reason: str | None

    def answers(self, probabilities: FloatArray) -> NDArray[np.bool_]:
        """Tell which images, of probabilities (N, C), are confident enough; (N,)."""
        enough: NDArray[np.bool_] = np.asarray(probabilities, dtype=np.float64).max(axis=1) >= self.threshold
        return enough

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {slot: getattr(self, slot) for slot in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LeastConfidence:
        """Undo `as_json`; raises KeyError for a missing field."""
        return cls(
            threshold=float(stored["threshold"]),
            risk=float(stored["risk"]),
            reached=bool(stored["reached"]),
            answered=float(stored["answered"]),
            error=float(stored["error"]),
            estimate=float(stored["estimate"]),
            calibration_groups=int(stored["calibration_groups"]),
            calibration_images=int(stored["calibration_images"]),
            reason=stored["reason"],
        )


def least_confidence(
    probabilities: FloatArray, labels: IntArray, groups: Sequence[str] | None, *, risk: float = 0.05
) -> LeastConfidence:
    """Give the lowest confidence seen at which the error among the answered is estimated at most `risk`.

    Every group counts as one trial, its images sharing that count (without `groups`, each image). With e wrong of a answered
    trials the estimate is (e + ½) / (a + 1): the mean of Jeffreys' posterior for a proportion. So one lucky or unlucky image
    does not move the threshold far, a handful of patients cannot show a low risk (9 without an error are needed for 5 %),
    and many groups give the plain error. It is an estimate, not a bound that holds with a stated probability.
    At least half of the images are answered: where no such threshold meets `risk`, that with the lowest estimate is taken
    (of equals the one that answers most) and `reached` is False. The threshold is a confidence that was seen, so nothing
    less confident than all calibration images is ever answered.
    Raises ValueError for shapes that do not fit, no images, or a risk outside (0, 1).
    Source: Jeffreys' estimate: Brown, Cai and DasGupta 2001, Statistical Science 16:101; selective classification:
    Geifman and El-Yaniv 2017 (arXiv 1705.08500), whose bound with a stated probability needs hundreds of groups.
    """
    checked, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if checked.ndim != 2 or checked.shape[1] < 2 or not np.isfinite(checked).all():
        raise ValueError(f"probabilities must be (N, C) and finite with C ≥ 2, got shape {checked.shape}")
    if truth.shape != (len(checked),) or truth.size == 0:
        raise ValueError(f"labels must be ({len(checked)},), at least one, got shape {truth.shape}")
    if not 0 < risk < 1:
        raise ValueError(f"risk must lie between 0 and 1, got {risk}")
    weights, count = group_weights(groups, truth.size)
    confidence, wrong = checked.max(axis=1), checked.argmax(axis=1) != truth
    order = np.argsort(-confidence, kind="stable")
    ends = run_ends(confidence[order])
    answered = np.cumsum(weights[order])[ends]
    errors = np.cumsum((weights * wrong)[order])[ends]
    images = ends + 1
    estimates = (errors + 0.5) / (answered + 1)
    allowed = images >= LEAST_ANSWERED * truth.size
    met = allowed & (estimates <= risk + _ROUNDING)
    if met.any():
        place = int(np.flatnonzero(met)[-1])
    else:
        lowest = estimates[allowed].min()
        place = int(np.flatnonzero(allowed & (estimates <= lowest + _ROUNDING))[-1])
    reached = bool(met.any())
    error, estimate = float(errors[place] / answered[place]), float(estimates[place])
    reason = None
    if not reached:
        unit = "image" if groups is None else "group"
        reason = (
            f"an error of at most {100 * risk:g} % among the answered cannot be shown on {counted(count, unit)}: "
            f"{100 * error:.1f} % were wrong, which counts as {100 * estimate:.1f} % of so few"
        )
    return LeastConfidence(
        threshold=float(confidence[order][ends[place]]),
        risk=risk,
        reached=reached,
        answered=float(images[place] / truth.size),
        error=error,
        estimate=estimate,
        calibration_groups=count,
        calibration_images=truth.size,
        reason=reason,
    )


# ---------------------------------------------------------------------------------- shares with intervals


def share_estimate(
    predictions: Predictions,
    hits: NDArray[np.bool_],
    *,
    among: NDArray[np.bool_] | None = None,
    equal_groups: bool = False,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate the share of `hits` (N,), `among` the images (N,) marked, with an interval from resampled groups.

    `equal_groups` averages the groups' own shares instead, groups with no marked image left out. The rules of
    `group_bootstrap` hold: strata, refusals, undefined figures. Raises ValueError for other shapes, no resamples, or a level
    outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    counted_in = np.ones(predictions.image_count, dtype=bool) if among is None else np.asarray(among, dtype=bool)
    hit = np.asarray(hits, dtype=bool)
    if hit.shape != (predictions.image_count,) or counted_in.shape != hit.shape:
        raise ValueError(f"hits and among must be ({predictions.image_count},), got {hit.shape} and {counted_in.shape}")
    groups, group_count = predictions.group_indices()
    images = np.bincount(groups, weights=counted_in, minlength=group_count)
    right = np.bincount(groups, weights=counted_in & hit, minlength=group_count)
    n, hit_count, holding = int(images.sum()), int(right.sum()), int((images > 0).sum())
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0, groups=0, method="undefined: no images")
    if equal_groups:
        right = np.divide(right, images, out=np.zeros(group_count), where=images > 0)
        images = (images > 0).astype(np.float64)

    def share(weights: IntArray) -> FloatArray:
        drawn = weights @ images
        found: FloatArray = np.divide(weights @ right, drawn, out=np.full(len(weights), np.nan), where=drawn > 0)
        return found

    if predictions.groups_known:
        interval = _interval(predictions, share, resamples=resamples, level=level, seed=seed)
    else:
        low, high = clopper_pearson(hit_count, n, level=level)
        told = f"Clopper–Pearson, groups unknown: optimistic ({100 * level:g} %, {hit_count} of {n} images)"
        interval = Interval(low=low, high=high, method=told)
    value = float(right.sum() / images.sum())
    return Estimate(
        value=value,
        low=interval.low,
        high=interval.high,
        n=n,
        groups=holding,
        method=interval.method,
        freedom=interval.freedom,
    )


def _interval(
    predictions: Predictions,
    share: Callable[[IntArray], FloatArray],
    *,
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """Give the interval of a share, which follows (R,) from how often each group counts (R, G)."""
    refused = refusal(predictions)
    if refused is not None:
        return Interval(low=None, high=None, method=refused)
    group_count = predictions.group_indices()[1]
    draws = [
        np.where(whole, share(weights), np.nan)
        for weights, whole in whole_resamples(predictions, resamples=resamples, seed=seed)
    ]
    left_out = []
    for group in range(group_count):
        weights = np.ones((1, group_count), dtype=np.int64)
        weights[0, group] = 0
        left_out.append(share(weights))
    spread = Spread(draws=np.concatenate(draws), left_out=np.concatenate(left_out), strata=strata_of(predictions))
    value = float(share(np.ones((1, group_count), dtype=np.int64))[0])
    return interval_of(value, spread, level=level, least=0, most=1, drawn=drawing(predictions))


# ---------------------------------------------------------------------------------- risk and coverage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """The error among the most confident images that make up at least each share of all: 0.01, 0.02 … 1.

    `coverage`, `error` and, where an interval may be, `low` and `high` are (100,); `method` tells how or why not. `area` is
    the mean of the error over all images' own coverages (AURC): 0 is perfect.
    Source: Geifman, Uziel and El-Yaniv 2019, Bias-Reduced Uncertainty Estimation (arXiv 1805.08206), section 2.
    """

    coverage: FloatArray
    error: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    method: str
    area: float


def risk_coverage(
    predictions: Predictions, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> RiskCoverage:
    """Trace the error among the answered as fewer are answered, with pointwise bands from resampled groups.

    Bands are None where `refusal` gives a reason. Raises ValueError for no resamples, or a level outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    ranked = _Ranked.of(predictions)
    once = np.ones((1, ranked.group_count), dtype=np.int64)
    answered, wrong = (counts[0] for counts in ranked.answered_and_wrong(once))
    risks = wrong / answered
    sizes = np.diff(answered, prepend=0)
    refused = refusal(predictions)
    low, high, method = None, None, (refused or "").replace("no interval", "no band")
    if refused is None:
        draws = []
        for weights, whole in whole_resamples(predictions, resamples=resamples, seed=seed):
            draws.append(np.where(whole[:, None], ranked.errors(weights, _COVERAGES), np.nan))
        low, high, method = band(predictions, np.concatenate(draws), level=level)
    return RiskCoverage(
        coverage=_COVERAGES.copy(),
        error=ranked.errors(once, _COVERAGES)[0],
        low=low,
        high=high,
        method=method,
        area=float((sizes * risks).sum() / sizes.sum()),
    )


def accuracy_at(
    predictions: Predictions,
    coverage: float = 0.8,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate the accuracy of the most confident images that make up at least the share `coverage` of all.

    Each resample takes its own most confident share. `n` and `groups` count what is answered. Raises ValueError for a
    coverage outside (0, 1], no resamples, or a level outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie above 0 and be at most 1, got {coverage}")
    ranked, share = _Ranked.of(predictions), np.array([coverage])
    once = np.ones((1, ranked.group_count), dtype=np.int64)
    value = float(1 - ranked.errors(once, share)[0, 0])
    place = int(first_reaching(ranked.answered_and_wrong(once)[0][0], share)[0])
    images = ranked.groups[: ranked.ends[place] + 1]
    interval = _interval(
        predictions,
        lambda weights: 1 - ranked.errors(weights, share)[:, 0],
        resamples=resamples,
        level=level,
        seed=seed,
    )
    return Estimate(
        value=value,
        low=interval.low,
        high=interval.high,
        n=images.size,
        groups=np.unique(images).size,
        method=interval.method,
        freedom=interval.freedom,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ranked:
    """Images in falling order of confidence: group (N,), whether wrong (N,), and where each run of equals ends (T,)."""

    groups: IntArray
    wrong: FloatArray
    ends: IntArray
    group_count: int

    @classmethod
    def of(cls, predictions: Predictions) -> _Ranked:
        groups, group_count = predictions.group_indices()
        confidence = predictions.probabilities.max(axis=1)
        order = np.argsort(-confidence, kind="stable")
        wrong = (predictions.predicted != predictions.labels)[order].astype(np.float64)
        return cls(groups=groups[order], wrong=wrong, ends=run_ends(confidence[order]), group_count=group_count)

    def answered_and_wrong(self, weights: IntArray) -> tuple[FloatArray, FloatArray]:
        """Count images answered and answered wrongly down to each confidence, (R, T) each, for `weights` (R, G)."""
        counts = weights[:, self.groups].astype(np.float64)
        return np.cumsum(counts, axis=1)[:, self.ends], np.cumsum(counts * self.wrong, axis=1)[:, self.ends]

    def errors(self, weights: IntArray, shares: FloatArray) -> FloatArray:
        """Give the error among the most confident images that make up each of K shares, (R, K)."""
        answered, wrong = self.answered_and_wrong(weights)
        places = np.stack([first_reaching(row, shares) for row in answered])
        rows = np.arange(len(weights))[:, None]
        risks: FloatArray = wrong[rows, places] / answered[rows, places]
        return risks
