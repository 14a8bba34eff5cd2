"""Mixed precision is taken on a processor only where a few steps of the run itself were faster in it and lost alike.

What a bf16 step gains hangs on the network: SE-ResNeXt-50 gains much, EfficientNet-Lite0 loses. Both precisions take the same
steps, from the same weights, on the same views of the run's own images; the copies that took them are thrown away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from leukemia_cli.domain import Sample, Track
from leukemia_cli.learning.arrays import Labels
from leukemia_cli.learning.finetuning import Tuned
from leukemia_cli.learning.fitting import FitSettings

TrialPrecision = Literal["fp32", "bf16"]
Batch = tuple[Sequence[Sample], Labels]
"""Images and their classes (n,)."""
Tune = Callable[[TrialPrecision, Batch, FitSettings, Track], Tuned]
"""Fine-tunes a copy of the network on a batch, its steps watched by a track."""
STEPS = 5
"""Steps in each precision; the first is not timed."""
LEAST_GAIN = 1.2
"""Least ratio of a step's seconds at which bf16 is taken: less could be the machine's noise, and would differ from run to run."""
MOST_APART = 0.05
"""Largest difference of a step's loss, as a share of the loss in fp32 or of 1, whichever is more."""
LEAST_PLANNED = 100
"""Optimiser steps below which a trial costs more than it can save. All four are our choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionTrial:
    """What the trial found; losses (STEPS,) are those before each step."""

    fp32_step_s: float
    bf16_step_s: float
    fp32_losses: tuple[float, ...]
    bf16_losses: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Tell how many times faster a step is in bf16."""
        return self.fp32_step_s / self.bf16_step_s

    @property
    def apart(self) -> float:
        """Give the largest difference of a loss, as `MOST_APART` measures it."""
        full, half = np.array(self.fp32_losses), np.array(self.bf16_losses)
        return float((np.abs(full - half) / np.maximum(1.0, np.abs(full))).max())  # NaN where there is one

    @property
    def taken(self) -> TrialPrecision:
        """Name the precision to train in; a difference that is no number counts as one too large."""
        return "bf16" if self.gain >= LEAST_GAIN and self.apart <= MOST_APART else "fp32"

    def __str__(self) -> str:
        return (
            f"precision: {self.taken} (auto: {STEPS} steps in each; one takes {self.fp32_step_s:.2f} s in fp32, "
            f"{self.bf16_step_s:.2f} s in bf16, losses differ by at most {self.apart:.1%})"
        )

    def as_json(self) -> dict[str, Any]:
        """Give what is recorded of it in the run."""
        return {
            "fp32_step_s": self.fp32_step_s,
            "bf16_step_s": self.bf16_step_s,
            "fp32_losses": list(self.fp32_losses),
            "bf16_losses": list(self.bf16_losses),
            "taken": self.taken,
        }


def worth_trying(images: int, fit: FitSettings) -> bool:
    """Tell whether so many optimiser steps are planned that a trial can pay."""
    return fit.epochs * math.ceil(images / (fit.batch_size * fit.accumulate)) >= LEAST_PLANNED


def try_precisions(tune: Tune, train: Batch, fit: FitSettings) -> PrecisionTrial:
    """Take the same few steps of fine-tuning in fp32 and in bf16; `tune` takes them on copies. Raises what it raises.

    The batch is spread over the training images, which are sorted by class as often as not.
    """
    samples, labels = train
    size = min(fit.batch_size, len(samples))
    places = [len(samples) * i // size for i in range(size)]
    batch = [samples[i] for i in places], labels[places]
    brief = replace(fit, epochs=STEPS, patience=STEPS, accumulate=1)  # an epoch is one step, so each has its loss
    fp32_step_s, fp32_losses = _steps(tune, "fp32", batch, brief)
    bf16_step_s, bf16_losses = _steps(tune, "bf16", batch, brief)
    return PrecisionTrial(
        fp32_step_s=fp32_step_s, bf16_step_s=bf16_step_s, fp32_losses=fp32_losses, bf16_losses=bf16_losses
    )


def _steps(tune: Tune, precision: TrialPrecision, batch: Batch, fit: FitSettings) -> tuple[float, tuple[float, ...]]:
    """Give the least seconds of a step but the first, and the loss before each."""
    times: list[float] = []

    def timed(items: Iterable[Any], *, total: int, label: str) -> Iterator[Any]:
        del total, label
        for item in items:
            began = time.perf_counter()
            yield item
            times.append(time.perf_counter() - began)

    tuned = tune(precision, batch, fit, timed)
    return min(times[1:]), tuple(score.train_loss for score in tuned.epochs)
