"""A bar is what a figure must reach for a script to go on; read and held against a report without anything heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from leukemia_cli.errors import UsageError
from leukemia_cli.judging.metrics import METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A threshold that a figure must reach: `METRIC[.low|.high]` at least (or, for errors, at most) `value`."""

    metric: str
    end: Literal["value", "low", "high"]
    value: float

    @classmethod
    def read(cls, text: str, flag: Literal["--min", "--max"]) -> Bar:
        """Read `balanced_accuracy=0.9` or `balanced_accuracy.low=0.9`; raises UsageError for anything else."""
        found = re.fullmatch(r"\s*([a-z0-9_]+)(?:\.(low|high))?\s*=\s*([^\s]+)\s*", text)
        example = "balanced_accuracy.low=0.9" if flag == "--min" else "ece.high=0.1"
        if found is None:
            raise UsageError(f"{flag} {text!r} cannot be read", f"Write METRIC=VALUE, for example {flag} {example}")
        name, end, number = found.groups()
        if name not in METRICS:
            raise UsageError(f"{flag} names no metric: {name!r}", f"Known: {', '.join(METRICS)}")
        if METRICS[name].greater_is_better != (flag == "--min"):
            other = "--max" if flag == "--min" else "--min"
            raise UsageError(
                f"{flag} {name}: of this metric {'less' if flag == '--min' else 'more'} is better", f"Use {other}"
            )
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not METRICS[name].least <= value <= METRICS[name].most:
            raise UsageError(
                f"{flag} {text}: {number!r} is no value of {name}",
                f"It lies between {METRICS[name].least:g} and {METRICS[name].most:g}",
            )
        return cls(metric=name, end=cast(Literal["value", "low", "high"], end or "value"), value=value)

    @property
    def name(self) -> str:
        """Name the figure as it was written."""
        return self.metric if self.end == "value" else f"{self.metric}.{self.end}"

    def missed(self, metrics: Mapping[str, Any]) -> str | None:
        """Say how the figure falls short of the threshold, None where it does not."""
        figure = metrics[self.metric]
        found = figure[self.end]
        counts = f"{figure['n']} images, {figure['groups']} groups"
        if found is None:
            return f"{self.name} is not known ({figure['method']}), and {self.value:g} was asked for"
        better = METRICS[self.metric].greater_is_better
        if (found >= self.value) if better else (found <= self.value):
            return None
        return f"{self.name} is {found:.4f} ({counts}), {'below' if better else 'above'} {self.value:g}"
