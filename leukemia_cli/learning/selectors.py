"""Ways to rank features by what they tell of the class; the best of a ranking are what a head or machine sees.

A ranking sees fitting images alone, each by its plain view, and is the same for the same images, whatever is tried on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Worth = NDArray[np.float64]

BINS = 10
"""Quantile bins of a feature for its mutual information: our choice."""
L1_COST = 0.1
"""C of the machine whose weights rank features: our choice, small enough to leave most weights at zero."""
TREES = 200
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One way to rank: `rank` turns features (N, D) and labels (N,) into a finite or infinite worth (D,), higher better."""

    name: str
    title: str
    source: str
    rank: Callable[[Vectors, Labels], Worth]


def anova_f(features: Vectors, labels: Labels) -> Worth:
    """Give the one-way ANOVA F of each feature; (N, D), (N,) to (D,). A feature that never varies gets 0.

    Source: Fisher 1925; equals scikit-learn's f_classif, which gives NaN and a warning where ours gives 0.
    """
    wide = features.astype(np.float64)
    classes = np.unique(labels)
    grand = wide.mean(0)
    between = np.zeros(wide.shape[1])
    within = np.zeros(wide.shape[1])
    for k in classes:
        own = wide[labels == k]
        between += len(own) * (own.mean(0) - grand) ** 2
        within += ((own - own.mean(0)) ** 2).sum(0)
    freedom = (len(classes) - 1, max(1, len(wide) - len(classes)))
    ratio = np.where(between > 0, np.inf, 0.0)
    np.divide(between / freedom[0], within / freedom[1], out=ratio, where=within > 0)
    return ratio


def quantile_bins(features: Vectors) -> NDArray[np.int64]:
    """Give the quantile bin, 0 to BINS − 1, of each value among those of its feature; (N, D) to (N, D), equals together."""
    edges = np.quantile(features, np.linspace(0, 1, BINS + 1)[1:-1], axis=0)
    bins: NDArray[np.int64] = sum((features > edge for edge in edges), start=np.zeros(features.shape, dtype=np.int64))
    return bins


def mutual_information(features: Vectors, labels: Labels) -> Worth:
    """Give the mutual information, in nats, of each feature's quantile bin and the class; (N, D), (N,) to (D,).

    The plug-in estimate: too high by about (bins − 1)(C − 1) / 2N, which is the same for all features without ties.
    Source: Shannon 1948; as a filter, Battiti 1994, IEEE Transactions on Neural Networks 5(4).
    """
    bins = quantile_bins(features)
    joint = np.stack(
        [[(bins[labels == k] == b).mean(0) * (labels == k).mean() for b in range(BINS)] for k in np.unique(labels)]
    )  # (C, bins, D)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    terms = np.zeros_like(joint)
    np.log(joint / np.where(apart > 0, apart, 1.0), out=terms, where=joint > 0)
    told: Worth = (joint * terms).sum((0, 1))
    return np.maximum(told, 0.0)


def l1_weights(features: Vectors, labels: Labels) -> Worth:
    """Give each feature's largest absolute weight in linear machines with an L1 penalty, on standardised features.

    The penalty leaves most weights at zero: those features come after all others, by their ANOVA F, with negative worth.
    Source: Bi et al. 2003, Journal of Machine Learning Research 3.
    """
    from sklearn.svm import LinearSVC

    wide = features.astype(np.float64)
    spread = wide.std(0)
    scaled = (wide - wide.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    machine = LinearSVC(penalty="l1", dual=False, C=L1_COST, class_weight="balanced", tol=1e-2, max_iter=10_000)
    weights: Worth = np.abs(machine.fit(scaled, labels).coef_).max(0)
    return np.where(weights > 0, weights, -1 / (1 + anova_f(features, labels)))


def tree_importance(features: Vectors, labels: Labels) -> Worth:
    """Give the mean decrease in Gini impurity by each feature over extremely randomised trees; (N, D), (N,) to (D,).

    Source: Geurts et al. 2006, Machine Learning 63.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    trees = ExtraTreesClassifier(n_estimators=TREES, class_weight="balanced", random_state=SEED)
    importance: Worth = trees.fit(features, labels).feature_importances_
    return importance


SELECTORS: Mapping[str, Selector] = {
    s.name: s
    for s in (
        Selector(name="anova", title="ANOVA F of each feature", source="Fisher 1925", rank=anova_f),
        Selector(
            name="mutual-info",
            title=f"mutual information of class and feature in {BINS} quantile bins",
            source="Shannon 1948; Battiti 1994",
            rank=mutual_information,
        ),
        Selector(
            name="l1",
            title=f"weights of a linear machine with an L1 penalty, C {L1_COST:g}",
            source="Bi et al. 2003",
            rank=l1_weights,
        ),
        Selector(
            name="trees",
            title=f"importance in {TREES} extremely randomised trees",
            source="Geurts et al. 2006",
            rank=tree_importance,
        ),
    )
}


class Rankings:
    """The rankings of one fitting set: each selector is asked once, whatever counts and candidates want of it."""

    def __init__(self, features: Vectors, labels: Labels) -> None:
        self._features, self._labels = features, labels
        self._orders: dict[str, NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def keep(self, count: int | None, by: str) -> NDArray[np.int64]:
        """Give the indices, rising, of the `count` best features (None: of all); of equals the earlier is kept."""
        width = self._features.shape[1]
        if count is None or count >= width:
            return np.arange(width)
        with self._lock:
            if by not in self._orders:
                worth = SELECTORS[by].rank(self._features, self._labels)
                self._orders[by] = np.argsort(-worth, kind="stable")
        return np.sort(self._orders[by][:count])


def keep_best(features: Vectors, labels: Labels, count: int | None, by: str = "anova") -> NDArray[np.int64]:
    """Give the indices, rising, of the `count` features (N, D) that selector `by` ranks highest (None: of all)."""
    return Rankings(features, labels).keep(count, by)
