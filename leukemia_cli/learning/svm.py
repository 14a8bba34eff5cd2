"""A support vector machine kept as arrays: features (N, D) to one score a class (N, C), no pickle, equal after reload.

One machine for two classes, one against the rest beyond. Scores become probabilities by a temperature fitted on
calibration data; that never changes which class is highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import SvmChoice
from leukemia_cli.learning.features import Features
from leukemia_cli.learning.fitting import Labels, Scores
from leukemia_cli.learning.network import MOST_SPREADS, keep_best

Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Svm:
    """Scaling, kept features, and a weight matrix (linear) or support vectors with their coefficients (rbf).

    `mean`, `scale` (D,), held within `within` spreads; `kept` (K,); linear: `vectors` (M, K) are the weights and
    `coefficients` is empty;
    rbf: `vectors` (S, K), `coefficients` (M, S); `intercepts` (M,). M is 1 for two classes, else C.
    """

    kernel: str
    gamma: float
    within: float
    mean: Wide
    scale: Wide
    kept: NDArray[np.int64]
    vectors: Wide
    coefficients: Wide
    intercepts: Wide

    def scores(self, features: Features) -> Scores:
        """Give a score for each class; (N, D) to (N, C)."""
        x = _standardised(features.astype(np.float64), self.mean, self.scale, self.within)[:, self.kept]
        if self.kernel == "linear":
            raw = x @ self.vectors.T + self.intercepts
        else:
            raw = np.exp(-self.gamma * squared_distances(x, self.vectors)) @ self.coefficients.T + self.intercepts
        return np.hstack([-raw / 2, raw / 2]) if len(self.intercepts) == 1 else raw

    def arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """Give what is stored beside `kernel`, `gamma` and `within`."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, kernel: str, gamma: float, within: float, arrays: Mapping[str, NDArray[np.float64]]) -> Svm:
        """Undo `arrays`; raises KeyError for a missing one."""
        parts = {name: np.asarray(arrays[name], dtype=np.int64 if name == "kept" else np.float64) for name in _ARRAYS}
        return cls(kernel=kernel, gamma=gamma, within=within, **parts)  # type: ignore[arg-type]


_ARRAYS = ("mean", "scale", "kept", "vectors", "coefficients", "intercepts")


def _standardised(features: Wide, mean: Wide, scale: Wide, within: float) -> Wide:
    """Scale features (N, D) to spreads, held within bounds as a network's head holds them."""
    held: Wide = ((features - mean) * scale).clip(-within, within)
    return held


def squared_distances(a: Wide, b: Wide) -> Wide:
    """Give ‖aᵢ − bⱼ‖² for all pairs; (N, K), (S, K) to (N, S)."""
    distances: Wide = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.maximum(distances, 0.0)


class Kernels:
    """Scaled features of one fitting set with its pairwise products, shared by every kernel, C and gamma tried on it."""

    def __init__(self, features: Features, labels: Labels, selected: int | None) -> None:
        wide = features.astype(np.float64)
        self.mean = wide.mean(0)
        spread = wide.std(0)
        self.scale = 1.0 / np.where(spread > 1e-12, spread, 1.0)
        self.kept = keep_best(features, labels, selected)
        self.x: Wide = _standardised(wide, self.mean, self.scale, MOST_SPREADS)[:, self.kept]
        self.labels = labels
        self._products: Wide | None = None

    def _matrix(self, choice: SvmChoice) -> tuple[Wide, float]:
        if self._products is None:
            self._products = self.x @ self.x.T
        if choice.kernel == "linear":
            return self._products, 0.0
        gamma = choice.gamma / self.x.shape[1]
        squares = np.diag(self._products)
        return np.exp(-gamma * np.maximum(squares[:, None] + squares[None, :] - 2 * self._products, 0.0)), gamma

    def fit(self, choice: SvmChoice, class_count: int) -> Svm:
        """Fit one machine (two classes) or one for each class against the rest, classes weighted to equal say."""
        from sklearn.svm import SVC

        matrix, gamma = self._matrix(choice)
        duals = np.zeros((1 if class_count == 2 else class_count, len(self.labels)))
        intercepts = np.zeros(len(duals))
        for row in range(len(duals)):
            target = self.labels == (1 if class_count == 2 else row)
            if target.all() or not target.any():
                intercepts[row] = 1.0 if target.all() else -1.0
                continue
            machine = SVC(C=choice.c, kernel="precomputed", class_weight="balanced", cache_size=500)
            machine.fit(matrix, target)
            duals[row, machine.support_] = machine.dual_coef_[0]
            intercepts[row] = machine.intercept_[0]
        if choice.kernel == "linear":
            vectors, coefficients = duals @ self.x, np.zeros((0, 0))
        else:
            used = np.flatnonzero(np.any(duals != 0, axis=0))
            vectors, coefficients = self.x[used], duals[:, used]
        return Svm(
            kernel=choice.kernel,
            gamma=gamma,
            within=MOST_SPREADS,
            mean=self.mean,
            scale=self.scale,
            kept=self.kept,
            vectors=vectors,
            coefficients=coefficients,
            intercepts=intercepts,
        )
