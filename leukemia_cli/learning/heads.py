"""A trained head as arrays: the one place where feature vectors become a network's logits, whatever engine made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.learning.arrays import Features, Scores

MOST_SPREADS = 8.0
"""Standardised features are held within this many spreads: one that hardly varies in training can be hundreds away in a
patient who was not in it, and would drown all others. Our choice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenHead:
    """Standardise → select → (linear, ReLU) for each hidden layer → linear.

    `mean`, `scale` (D,), held within `within` spreads; `kept` (K,); `layers` are weights (out, in) and biases (out,).
    """

    within: float
    mean: NDArray[np.floating]
    scale: NDArray[np.floating]
    kept: NDArray[np.int64]
    layers: tuple[tuple[NDArray[np.float64], NDArray[np.floating]], ...]

    def scores(self, features: Features) -> Scores:
        """Give logits (N, C) of raw features (N, D), in float64.

        In single precision the sums of a batch depend, in their last digits, on how many images are in it.
        """
        wide = features.astype(np.float64)
        x = ((wide - self.mean) * self.scale)[:, self.kept].clip(-self.within, self.within)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0.0)
        weight, bias = self.layers[-1]
        logits: Scores = x @ weight.T + bias
        return logits

    @classmethod
    def from_arrays(cls, within: float, arrays: Mapping[str, NDArray[Any]]) -> FrozenHead:
        """Take a head's stored arrays; raises KeyError for a missing one, ValueError where they do not fit together."""
        hidden = sum(name.startswith("hidden.") and name.endswith(".weight") for name in arrays)
        names = [*(f"hidden.{layer}" for layer in range(hidden)), "out"]
        head = cls(
            within=within,
            mean=arrays["mean"],
            scale=arrays["scale"],
            kept=arrays["kept"],
            layers=tuple((arrays[f"{name}.weight"].astype(np.float64), arrays[f"{name}.bias"]) for name in names),
        )
        if (
            len(head.mean) != len(head.scale)
            or len(head.kept) == 0
            or not 0 <= head.kept.min() <= head.kept.max() < len(head.mean)
        ):
            raise ValueError("features are kept that are not there")
        width = len(head.kept)
        for weight, bias in head.layers:
            if weight.shape != (len(bias), width):
                raise ValueError(f"a layer of {weight.shape} does not fit {width} inputs and {len(bias)} outputs")
            width = len(bias)
        return head
