"""A support vector machine kept as arrays: features (N, D) to one score a class (N, C), no pickle, equal after reload.

One machine for two classes, one against the rest beyond. Scores become probabilities by a temperature fitted on
calibration data; that never changes which class is highest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import SvmChoice, undisturbed
from leukemia_cli.learning.arrays import Features, Labels, Scores
from leukemia_cli.learning.heads import MOST_SPREADS
from leukemia_cli.learning.selectors import Rankings

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
        return cls(kernel=kernel, gamma=gamma, within=within, **parts)  # type: ignore[arg-type]  # kept is of integers


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
    """Features (N, V, D) of one fitting set, each view a row, with the pairwise products that kernels are made of.

    Scaled once; ranked once by each selector, on plain views; multiplied once for each choice of features. Several threads
    may fit on it at a time.
    """

    def __init__(self, features: Features, labels: Labels) -> None:
        self._labels = np.repeat(labels, features.shape[1])
        self._rankings = Rankings(np.ascontiguousarray(features[:, 0]), labels)
        wide = features.reshape(len(self._labels), -1).astype(np.float64)
        self._mean = wide.mean(0)
        wide -= self._mean
        spread = np.sqrt(np.einsum("nd,nd->d", wide, wide) / len(wide))
        self._scale = 1.0 / np.where(spread > 1e-12, spread, 1.0)
        wide *= self._scale
        self._x: Features = wide.clip(-MOST_SPREADS, MOST_SPREADS, out=wide).astype(np.float32)
        self._products: dict[tuple[int | None, str], Features] = {}
        self._lock = threading.Lock()

    def fit(self, choice: SvmChoice, class_count: int, pulse: Callable[[], None] = undisturbed) -> Svm:
        """Fit one machine (two classes) or one for each class against the rest, classes weighted to equal say.

        `pulse` is called before each machine, and what it raises ends the fit.
        """
        from sklearn.svm import SVC

        kept = self._rankings.keep(choice.selected, choice.by)
        x = self._x if len(kept) == self._x.shape[1] else self._x[:, kept]
        matrix, gamma = self._matrix(choice, x)
        duals = np.zeros((1 if class_count == 2 else class_count, len(self._labels)))
        intercepts = np.zeros(len(duals))
        for row in range(len(duals)):
            target = self._labels == (1 if class_count == 2 else row)
            if target.all() or not target.any():
                intercepts[row] = 1.0 if target.all() else -1.0
                continue
            pulse()
            machine = SVC(C=choice.c, kernel="precomputed", class_weight="balanced", cache_size=500)
            machine.fit(matrix, target)
            duals[row, machine.support_] = machine.dual_coef_[0]
            intercepts[row] = machine.intercept_[0]
        used = np.flatnonzero(np.any(duals != 0, axis=0))
        vectors, coefficients = x[used].astype(np.float64), duals[:, used]
        if choice.kernel == "linear":
            vectors, coefficients = coefficients @ vectors, np.zeros((0, 0))
        return Svm(
            kernel=choice.kernel,
            gamma=gamma,
            within=MOST_SPREADS,
            mean=self._mean,
            scale=self._scale,
            kept=kept,
            vectors=vectors,
            coefficients=coefficients,
            intercepts=intercepts,
        )

    def _matrix(self, choice: SvmChoice, x: Features) -> tuple[Wide, float]:
        """Give the kernel matrix (N V, N V) and the gamma it was made with; libsvm computes in single precision too."""
        key = (choice.selected, choice.by)
        with self._lock:
            if key not in self._products:
                self._products[key] = x @ x.T
        products = self._products[key]
        if choice.kernel == "linear":
            return products.astype(np.float64), 0.0
        gamma = choice.gamma / x.shape[1]
        squares = np.diag(products)
        exponents = products * np.float32(2 * gamma)
        exponents -= np.float32(gamma) * squares[:, None]
        exponents -= np.float32(gamma) * squares
        np.minimum(exponents, 0.0, out=exponents)
        return np.exp(exponents, out=exponents).astype(np.float64), gamma
