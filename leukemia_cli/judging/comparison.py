"""Two models are compared on the same images and the same resampled groups, never by whether intervals overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leukemia_cli.judging.intervals import (
    Interval,
    bootstrap_draws,
    check_bootstrap,
    interval_of,
    plain_values,
    refusal,
)
from leukemia_cli.judging.predictions import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of a minus the same of b; `low` and `high` are both None or both not, and `method` says why."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str


def paired_difference(
    a: Predictions, b: Predictions, metric: str, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Estimate `metric` of a minus b; every resample draws the same groups for both.

    The rules of `group_bootstrap` hold: strata, refusals, undefined figures. Raises ValueError where a and b are not
    predictions of the same images in the same order, for an unknown metric, and for a level outside (0, 1).
    """
    check_bootstrap(resamples=resamples, level=level)
    _check_same_images(a, b)
    value_a, value_b = (plain_values(predictions, [metric])[metric] for predictions in (a, b))
    refused = refusal(a)
    if value_a is None or value_b is None:
        value, interval = None, Interval(low=None, high=None, method="undefined for these images")
    else:
        value = value_a - value_b
        if refused is not None:
            interval = Interval(low=None, high=None, method=refused)
        else:
            draws_a, draws_b = (
                bootstrap_draws(predictions, [metric], resamples=resamples, seed=seed)[metric] for predictions in (a, b)
            )
            paired = interval_of(a, value, draws_a - draws_b, level=level)
            interval = Interval(low=paired.low, high=paired.high, method=f"paired {paired.method}")
            if paired.low is None:
                interval = paired
    return Difference(
        metric=metric,
        value=value,
        low=interval.low,
        high=interval.high,
        n=a.image_count,
        groups=a.group_indices()[1],
        method=interval.method,
    )


def _check_same_images(a: Predictions, b: Predictions) -> None:
    if (a.classes, a.positive) != (b.classes, b.positive):
        raise ValueError(
            f"cannot pair classes {list(a.classes)} (positive {a.positive}) "
            f"with {list(b.classes)} (positive {b.positive})"
        )
    if a.image_count != b.image_count:
        raise ValueError(f"cannot pair {a.image_count} images with {b.image_count}")
    for image in np.flatnonzero(a.labels != b.labels)[:1]:
        raise ValueError(
            f"image {image} is {a.classes[a.labels[image]]} on one side and {b.classes[b.labels[image]]} on the other"
        )
    if a.groups_known != b.groups_known:
        raise ValueError("groups are known on one side only")
    if a.groups_known and a.groups != b.groups:
        image = next(i for i, (left, right) in enumerate(zip(a.groups, b.groups, strict=True)) if left != right)
        raise ValueError(
            f"image {image} is of group {a.groups[image]!r} on one side and {b.groups[image]!r} on the other"
        )
