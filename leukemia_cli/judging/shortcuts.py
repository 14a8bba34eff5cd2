"""Whether the class can be told from what should not tell it: probes, tested by exchanging whole groups; numbers only.

Requirements met here:
- A probe is judged on groups it was not fitted on, and against labels exchanged between groups: many images of one patient
  are one piece of evidence.
- An exchange carries a group's fold along with its labels, so that exchanged data are dealt as evenly as the observed.
- All probes of a data set are tested together: the p-values are Holm's.
- Where so few groups exist that no test between them could accuse, nothing is accused and nothing is cleared.
Letters: N images, F features, C classes, G groups, K folds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from leukemia_cli.judging.calibration import fit_temperature, softmax
from leukemia_cli.judging.comparison import holm
from leukemia_cli.judging.predictions import FloatArray, IntArray

Verdict = Literal["accused", "possible", "clear", "untestable"]

LEVEL = 0.05
LEAST_EFFECT = 0.2
"""Share of the way from what exchanged labels reach in one of twenty to certainty; below it a probe is not told."""

MOST_IMAGES = 20_000
"""More are thinned out, groups first, by lots that depend on the seed alone."""

PERMUTATIONS = 999
_FIRST_PERMUTATIONS, _SEEN_ENOUGH = 199, 20
_FEWEST_IMAGES = 5
_IMAGE_FOLDS = 5
_SHRINKAGE = 0.01

FALSE_SHARE = 0.02
LEAST_AGREEMENT = 0.85
"""Balanced accuracy below which features are no judge of labels."""
_MOST_DISAGREEMENT, _FEWEST_OF_GROUP = 0.2, 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What one probe looks at: `features` (N, F), `about` says what they are in one sentence."""

    name: str
    about: str
    features: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How well one kind of feature tells the class of images of other groups, and whether that can be chance.

    `null_mean` and `null_high` are the mean and the 95th percentile of balanced accuracy under exchanged labels. "accused":
    p_holm < 0.05 and an effect of `LEAST_EFFECT`, between groups. "possible": the same between images, where groups are too
    few to be tested; `p` and `p_holm` are then those between images and prove nothing about new groups. "clear": tested
    between groups and not accused. "untestable": neither, and `method` says why.
    """

    name: str
    about: str
    balanced_accuracy: float | None
    null_mean: float | None
    null_high: float | None
    p: float | None
    p_holm: float | None
    verdict: Verdict
    images: int
    groups: int
    groups_per_class: Mapping[str, int]
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An image whose label may be wrong: `confidence` is the probability of `suggested` given by a model of other groups.

    `whole_group`: nearly all images of its group are suspect.
    """

    row: int
    given: str
    suggested: str
    confidence: float
    whole_group: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Confounded:
    """A value that is held by images nearly all of one class: `of_label` of `images` are of class `label`.

    `expected` is the share of the class among all images, `groups` how many groups hold the value, `p` of the test between
    groups (Bonferroni over all values and classes). "accused" where p < 0.05, "possible" where only images, not groups,
    show it.
    """

    attribute: str
    value: str
    label: str
    images: int
    of_label: int
    expected: float
    groups: int
    p: float
    verdict: Literal["accused", "possible"]


# -------------------------------------------------------------------------------------------------------- the probes


def probes(
    measured: Sequence[Measured],
    labels: Sequence[str],
    groups: Sequence[str],
    folds: Sequence[int] | None,
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
    drawn_from: int | None = None,
) -> tuple[Probe, ...]:
    """Test each kind of features (N, F) on the same folds (N,) of whole groups, with the same exchanges, and Holm over all.

    The classifier is Fisher's linear discriminant with equal priors on standardised features, its covariance shrunk by 1 %.
    What is compared is the mean probability it gives the right class, each class counting equally: balanced accuracy moves
    in larger steps, and is what is shown. Features that are equal in all images have p 1 and count for nothing in Holm.
    An exchange gives each group another group's labels and fold; where these are of unequal number, labels are repeated or
    left out evenly and dealt by lot. Exchanges stop after 199 where 20 or more did as well as the labels given.
    Without `folds` (no groups could be dealt), or with too few groups, images are exchanged instead.
    `drawn_from` is of how many images these were drawn already (None: they are all), which `method` then says.
    Raises ValueError for fewer than two classes, unequal lengths, a group in two folds, or features that are not finite.
    Source: permutation p-value: Phipson and Smyth 2010 (doi 10.2202/1544-6115.1585); stopping early: Besag and Clifford 1991,
    Biometrika 78:301; `LEAST_EFFECT` and the shrinkage are our choice.
    """
    for one in measured:
        if one.features.ndim != 2 or len(one.features) != len(labels) or not np.isfinite(one.features).all():
            raise ValueError(f"features of {one.name} must be ({len(labels)}, F) and finite, got {one.features.shape}")
    whole = _cohort(labels, groups, folds)
    rows = drawn_rows(labels, groups, seed)
    cohort = whole if len(rows) == len(labels) else _part(whole, rows)
    least = _least_p(cohort)
    between = folds is not None and least * len(measured) < LEVEL
    why = _why_not(cohort, folded=folds is not None, least=least)
    tested = cohort if between else _each_alone(cohort, seed)
    held = np.bincount(cohort.classes_of, minlength=len(whole.classes))
    scarce = [name for name, count in zip(whole.classes, held, strict=True) if count < _FEWEST_IMAGES]
    arrangements = _Arrangements(tested, seed)
    figures = [
        None if scarce else _tested(_standardised(one.features[rows]), tested, arrangements, permutations)
        for one in measured
    ]
    adjusted = holm([figure.p if figure is not None and figure.count else None for figure in figures])
    groups_per_class = {
        name: len(set(cohort.groups_of[cohort.classes_of == c].tolist())) for c, name in enumerate(whole.classes)
    }
    total = drawn_from or len(labels)
    thinned = "" if len(rows) == total else f"; {len(rows):,} of {total:,} images, drawn by lot"
    made = []
    for one, figure, corrected in zip(measured, figures, adjusted, strict=True):
        verdict: Verdict = "untestable"
        p_holm = corrected
        method = f"not tested: fewer than {_FEWEST_IMAGES} images of class {', '.join(scarce)}"
        if figure is not None and not figure.count:
            verdict, p_holm, method = "clear", 1.0, "not tested: it is the same in every image"
        elif figure is not None and p_holm is not None:
            strong = p_holm < LEVEL and figure.value - figure.high >= LEAST_EFFECT * (1 - figure.high)
            if between:
                verdict = "accused" if strong else "clear"
                alone = cohort.group_count == len(rows)
                method = f"{figure.count} exchanges of labels between {cohort.group_count} " + (
                    "images, each a group of its own" if alone else "groups"
                )
            else:
                verdict = "possible" if strong else "untestable"
                method = f"{figure.count} exchanges of labels between images, because {why}"
            method += thinned
        made.append(
            Probe(
                name=one.name,
                about=one.about,
                balanced_accuracy=None if figure is None else figure.value,
                null_mean=None if figure is None else figure.mean,
                null_high=None if figure is None else figure.high,
                p=None if figure is None else figure.p,
                p_holm=p_holm,
                verdict=verdict,
                images=len(rows),
                groups=cohort.group_count,
                groups_per_class=groups_per_class,
                method=method,
            )
        )
    return tuple(made)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Cohort:
    """Images by number: class (N,), group (N,) and fold (N,) of each; `members` are the rows of each group."""

    classes: tuple[str, ...]
    classes_of: IntArray
    groups_of: IntArray
    folds_of: IntArray
    members: tuple[IntArray, ...]

    @property
    def group_count(self) -> int:
        return len(self.members)


def _cohort(labels: Sequence[str], groups: Sequence[str], folds: Sequence[int] | None) -> _Cohort:
    if not len(labels) == len(groups) == (len(labels) if folds is None else len(folds)):
        raise ValueError(f"{len(labels)} labels, {len(groups)} groups and folds are not of one number")
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"labels must name two classes or more, got {list(names)}")
    place = {name: index for index, name in enumerate(names)}
    group_place = {name: index for index, name in enumerate(sorted(set(groups)))}
    groups_of = np.array([group_place[group] for group in groups], dtype=np.int64)
    folds_of = np.zeros(len(labels), dtype=np.int64) if folds is None else np.asarray(folds, dtype=np.int64)
    members = _rows_of(groups_of)
    for rows in members:
        if len(set(folds_of[rows].tolist())) > 1:
            raise ValueError(f"group {groups[int(rows[0])]!r} lies in several folds")
    classes_of = np.array([place[label] for label in labels], dtype=np.int64)
    return _Cohort(classes=names, classes_of=classes_of, groups_of=groups_of, folds_of=folds_of, members=members)


def _rows_of(groups_of: IntArray) -> tuple[IntArray, ...]:
    order = np.argsort(groups_of, kind="stable")
    return tuple(np.split(order, np.flatnonzero(np.diff(groups_of[order])) + 1))


def _part(cohort: _Cohort, rows: IntArray) -> _Cohort:
    groups_of = np.unique(cohort.groups_of[rows], return_inverse=True)[1].astype(np.int64)
    return _Cohort(
        classes=cohort.classes,
        classes_of=cohort.classes_of[rows],
        groups_of=groups_of,
        folds_of=cohort.folds_of[rows],
        members=_rows_of(groups_of),
    )


def _numbered(names: Sequence[str]) -> IntArray:
    """Number names (N,) in the order in which they first come."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64, len(names))


def drawn_rows(labels: Sequence[str], groups: Sequence[str], seed: int) -> IntArray:
    """Give the rows (≤ `MOST_IMAGES`), in order, that are looked at of more images; all of them where they are no more.

    Large groups lose images until all fit; where the groups alone are too many, they are drawn, of each class in turn, so
    that a rare class stays whole. Depends on the seed and on the order of the images alone.
    """
    if len(labels) <= MOST_IMAGES:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    classes_of, groups_of = _numbered(labels), _numbered(groups)
    rows = np.arange(len(labels))
    group_count = int(groups_of.max()) + 1
    if group_count > MOST_IMAGES:
        class_count = int(classes_of.max()) + 1
        held, often = np.unique(groups_of * class_count + classes_of, return_counts=True)
        order = np.lexsort((held, -often, held // class_count))
        leading = held[order[np.r_[True, np.diff(held[order] // class_count) > 0]]] % class_count
        lots = random.permutation(group_count)
        # The first of each class, then the second of each, and so on.
        turn = np.empty(group_count, dtype=np.int64)
        for c in range(class_count):
            ours = lots[leading[lots] == c]
            turn[ours] = np.arange(ours.size)
        chosen = np.zeros(group_count, dtype=bool)
        chosen[np.argsort(turn, kind="stable")[:MOST_IMAGES]] = True
        rows = np.flatnonzero(chosen[groups_of])
    members = [random.permutation(rows[part]) for part in _rows_of(groups_of[rows])]
    sizes = np.array([rows.size for rows in members])
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= MOST_IMAGES else (low, middle - 1)
    return np.sort(np.concatenate([part[:low] for part in members]))


def _least_p(cohort: _Cohort) -> float:
    """Give the smallest p that exchanging labels between groups can give: one over the number of different outcomes.

    Two classes of as many groups each can change names without changing what a probe reaches.
    """
    kinds = Counter(tuple(sorted(Counter(cohort.classes_of[rows].tolist()).items())) for rows in cohort.members)
    pure = all(len(kind) == 1 for kind in kinds)
    held = Counter(kind[0][0] for kind in kinds.elements()) if pure else kinds
    ways = math.lgamma(cohort.group_count + 1) - sum(math.lgamma(count + 1) for count in held.values())
    alike = math.prod(math.factorial(count) for count in Counter(held.values()).values()) if pure else 1
    return min(1.0, alike * math.exp(-ways))


def _why_not(cohort: _Cohort, *, folded: bool, least: float) -> str:
    if not folded:
        return "no fold of whole groups could hold every class"
    return f"{cohort.group_count} groups are too few: exchanging them could give no p below {least:.2g}"


def _each_alone(cohort: _Cohort, seed: int) -> _Cohort:
    """Make each image a group of its own, dealt to folds evenly for each class."""
    random = np.random.default_rng(seed)
    folds_of = np.empty(len(cohort.classes_of), dtype=np.int64)
    start = 0
    for c in range(len(cohort.classes)):
        rows = random.permutation(np.flatnonzero(cohort.classes_of == c))
        folds_of[rows] = (start + np.arange(rows.size)) % _IMAGE_FOLDS
        start += rows.size
    alone = np.arange(len(cohort.classes_of))
    return _Cohort(
        classes=cohort.classes,
        classes_of=cohort.classes_of,
        groups_of=alone,
        folds_of=folds_of,
        members=_rows_of(alone),
    )


class _Arrangements:
    """Draws classes (N,) and folds (N,) with the labels of whole groups exchanged; the same at each number for one seed."""

    def __init__(self, cohort: _Cohort, seed: int) -> None:
        self._cohort, self._seed = cohort, seed
        self._order = np.concatenate(cohort.members)
        sizes = np.array([rows.size for rows in cohort.members])
        self._sizes = sizes
        self._starts = np.concatenate([[0], sizes.cumsum()[:-1]])
        self._labels = cohort.classes_of[self._order]
        firsts = self._order[self._starts]
        self._folds = cohort.folds_of[firsts]
        self._pure = all((cohort.classes_of[rows] == cohort.classes_of[rows[0]]).all() for rows in cohort.members)

    def draw(self, number: int) -> tuple[IntArray, IntArray]:
        """Give exchange `number`, from 1; 0 is what was observed."""
        cohort = self._cohort
        if number == 0:
            return cohort.classes_of, cohort.folds_of
        random = np.random.default_rng([self._seed, number])
        source = random.permutation(cohort.group_count)
        taken = np.repeat(source, self._sizes)
        position = np.arange(taken.size) - np.repeat(self._starts, self._sizes)
        if not self._pure:
            # Lots within each group: its rows in order of (group, draw), which places the labels it receives at random.
            lots = np.lexsort((random.random(taken.size), np.repeat(np.arange(self._sizes.size), self._sizes)))
            shuffled = np.empty_like(position)
            shuffled[lots] = position
            position = shuffled
        # Position i of n takes label ⌊(i + ½) m / n⌋ of the m labels received.
        given, received = np.repeat(self._sizes, self._sizes), self._sizes[taken]
        labels = self._labels[self._starts[taken] + ((2 * position + 1) * received) // (2 * given)]
        classes_of, folds_of = np.empty_like(labels), np.empty_like(labels)
        classes_of[self._order], folds_of[self._order] = labels, self._folds[taken]
        return classes_of, folds_of


# ---------------------------------------------------------------------------------------------------- the classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    value: float
    mean: float
    high: float
    p: float
    count: int


def _tested(features: FloatArray, cohort: _Cohort, arrangements: _Arrangements, permutations: int) -> _Figure:
    """Compare what the labels given reach with what exchanged labels reach."""
    count = len(cohort.classes)
    if features.shape[1] == 0:  # the same value in every image
        return _Figure(value=1 / count, mean=1 / count, high=1 / count, p=1.0, count=0)
    value, sure = _reached(features, *arrangements.draw(0), count)
    reached: list[tuple[float, float]] = []
    for number in range(1, permutations + 1):
        reached.append(_reached(features, *arrangements.draw(number), count))
        if number == _FIRST_PERMUTATIONS and sum(other >= sure - 1e-12 for _, other in reached) >= _SEEN_ENOUGH:
            break
    as_good = sum(other >= sure - 1e-12 for _, other in reached)
    values = [one for one, _ in reached]
    return _Figure(
        value=value,
        mean=float(np.mean(values)),
        high=float(np.quantile(values, 0.95)),
        p=(1 + as_good) / (1 + len(reached)),
        count=len(reached),
    )


def _standardised(features: FloatArray) -> FloatArray:
    """Scale each feature to mean 0 and variance 1 over all images, which looks at no label; what never varies is left out."""
    centred = features - features.mean(axis=0)
    spread = centred.std(axis=0)
    varying = spread > 1e-9 * np.maximum(np.abs(features).max(axis=0), 1e-300)
    scaled: FloatArray = centred[:, varying] / spread[varying]
    return scaled


def _reached(features: FloatArray, classes_of: IntArray, folds_of: IntArray, count: int) -> tuple[float, float]:
    """Give balanced accuracy, and the mean probability of the right class, each class counting equally."""
    scores = _scores(features, classes_of, folds_of, count)
    predicted = scores.argmax(axis=1)
    held = np.bincount(classes_of, minlength=count)
    right = np.bincount(classes_of[predicted == classes_of], minlength=count)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    sure = odds[np.arange(classes_of.size), classes_of] / odds.sum(axis=1)
    return float((right / held).mean()), float((np.bincount(classes_of, sure, minlength=count) / held).mean())


def _scores(features: FloatArray, classes_of: IntArray, folds_of: IntArray, count: int) -> FloatArray:
    """Give the discriminant scores (N, C) of each image by the images of other folds; a class absent there scores −∞.

    Source: Fisher 1936, Ann. Eugen. 7:179, as linear discriminant analysis with equal priors; shrinkage of the covariance
    toward its mean variance as in Friedman 1989, J. Am. Stat. Assoc. 84:165.
    """
    images, width = features.shape
    fold_count = int(folds_of.max()) + 1
    # Sorted by fold and class, all sums are over runs of rows.
    place = folds_of * count + classes_of
    order = np.argsort(place, kind="stable")
    ranked = features[order]
    held = np.bincount(place, minlength=fold_count * count)
    summed = np.zeros((fold_count * count, width))
    full = np.flatnonzero(held)
    ends = held.cumsum()
    summed[full] = np.add.reduceat(ranked, (ends - held)[full], axis=0)
    sums, held = summed.reshape(fold_count, count, width), held.reshape(fold_count, count)
    edges = [0, *ends[count - 1 :: count].tolist()]
    grams = np.stack([ranked[low:high].T @ ranked[low:high] for low, high in pairwise(edges)])
    sums, held, grams = (
        sums.sum(axis=0) - sums,
        held.sum(axis=0) - held,
        grams.sum(axis=0) - grams,
    )  # of all other folds
    means = sums / np.maximum(held, 1)[..., None]
    turned = means.transpose(0, 2, 1)
    within = grams - (turned * held[:, None, :]) @ means
    within *= (1 - _SHRINKAGE) / np.maximum(held.sum(axis=1) - count, 1)[:, None, None]
    level = np.trace(within, axis1=1, axis2=2) / width
    within[:, np.arange(width), np.arange(width)] += (_SHRINKAGE / (1 - _SHRINKAGE) * level + 1e-9)[:, None]
    weights = np.linalg.solve(within, turned)  # (K, F, C)
    offsets = np.where(held > 0, (turned * weights).sum(axis=1) / 2, np.inf)
    scores = np.empty((images, count))
    for fold, (low, high) in enumerate(pairwise(edges)):
        scores[order[low:high]] = ranked[low:high] @ weights[fold] - offsets[fold]
    return scores


# -------------------------------------------------------------------------------------------------- suspicious labels


def likely_mislabelled(
    features: FloatArray,
    labels: Sequence[str],
    groups: Sequence[str],
    folds: Sequence[int],
    *,
    false_share: float = FALSE_SHARE,
) -> tuple[Suspect, ...]:
    """Give the images that a model of other groups confidently calls another class, the most suspicious first.

    Probabilities are those of `probes`' classifier on features (N, F), with a temperature fitted on all out-of-fold scores;
    none are given where its balanced accuracy is below `LEAST_AGREEMENT`. An image is a candidate where another class has more
    probability than that class has, on average, on its own images. Left out are groups of three or more images told wrong in
    more than a fifth, which speaks of the group and not of a label, unless four fifths of them are candidates. Of the
    candidates as many are given as keep their mean probability of the label given at `false_share` or less; this is no bound
    for images of a group unlike any other.
    Raises ValueError as `probes` does, and for labels of which one has no image outside some fold.
    Source: the candidates: Northcutt, Jiang and Chuang 2021, Confident Learning (arXiv 1911.00068); the bounds are our
    choice.
    """
    cohort = _cohort(labels, groups, folds)
    scaled = _standardised(features)
    if scaled.shape[1] == 0:
        return ()
    scores = _scores(scaled, cohort.classes_of, cohort.folds_of, len(cohort.classes))
    wrong = scores.argmax(axis=1) != cohort.classes_of
    held = np.bincount(cohort.classes_of)
    if 1 - (np.bincount(cohort.classes_of, wrong) / held).mean() < LEAST_AGREEMENT:
        return ()
    probabilities = softmax(scores, fit_temperature(scores, cohort.classes_of))
    usual = np.array([probabilities[cohort.classes_of == c, c].mean() for c in range(len(cohort.classes))])
    every = np.arange(len(labels))
    of_given = probabilities[every, cohort.classes_of]
    others = probabilities.copy()
    others[every, cohort.classes_of] = -1
    best = others.argmax(axis=1)
    candidate = (others[every, best] >= usual[best]) & (others[every, best] > of_given)
    sizes = np.bincount(cohort.groups_of)
    large = sizes >= _FEWEST_OF_GROUP
    unlike = (np.bincount(cohort.groups_of, wrong) > _MOST_DISAGREEMENT * sizes) & large
    whole = (np.bincount(cohort.groups_of, candidate) >= (1 - _MOST_DISAGREEMENT) * sizes) & large
    rows = np.flatnonzero(candidate & (~unlike | whole)[cohort.groups_of])
    rows = rows[np.argsort(of_given[rows], kind="stable")]
    kept = int((np.cumsum(of_given[rows]) <= false_share * np.arange(1, rows.size + 1)).sum())
    return tuple(
        Suspect(
            row=int(row),
            given=labels[int(row)],
            suggested=cohort.classes[int(best[row])],
            confidence=float(probabilities[row, best[row]]),
            whole_group=bool(whole[cohort.groups_of[row]]),
        )
        for row in rows[:kept]
    )


# ------------------------------------------------------------------------------------------------------- confounding

_LEAST_SHARE = 0.95
_FEWEST_HOLDERS = 5
_IMAGE_LEVEL = 0.001


def confounding(
    attribute: str, values: Sequence[str], labels: Sequence[str], groups: Sequence[str]
) -> tuple[Confounded, ...]:
    """Give each value, held by five images or more, of which 95 % or more are of one class though it is not all there is.

    Between groups it is told from chance by the hypergeometric test, each group counting once, as what most of its images
    are; where groups are too few for it, the same test between images makes it "possible" (p < 0.001).
    Raises ValueError for unequal lengths.
    Source: Fisher's exact test, one-sided; the limits are our choice.
    """
    if not len(values) == len(labels) == len(groups):
        raise ValueError(f"{len(values)} values, {len(labels)} labels and {len(groups)} groups are not of one number")
    if not labels:
        return ()
    per_class, per_value = Counter(labels), Counter(values)
    joint = Counter(zip(values, labels, strict=True))
    pairs = sorted(joint)
    place = {pair: number for number, pair in enumerate(pairs)}
    pairs_of = np.fromiter((place[pair] for pair in zip(values, labels, strict=True)), np.int64, len(values))
    groups_of = _numbered(groups)
    group_count = int(groups_of.max()) + 1
    # Each group with each (value, class) that it holds, once, and how often.
    held_of, often = np.unique(groups_of * len(pairs) + pairs_of, return_counts=True)
    of_group, pair_of = held_of // len(pairs), held_of % len(pairs)
    # The pair that most of a group's images hold; of equals the first by name.
    first = np.lexsort((pair_of, -often, of_group))
    leading = np.bincount(pair_of[first[np.r_[True, np.diff(of_group[first]) > 0]]], minlength=len(pairs))
    group_joint = {pair: int(count) for pair, count in zip(pairs, leading, strict=True)}
    group_values, group_labels = Counter[str](), Counter[str]()
    for (value, label), count in group_joint.items():
        group_values[value] += count
        group_labels[label] += count
    value_of_pair = np.unique(np.array([pair[0] for pair in pairs]), return_inverse=True)[1]
    # Pairs are sorted by value, so the values of `value_of_pair` are numbered in the order of `sorted(per_value)`.
    holders = np.bincount(np.unique(of_group * len(per_value) + value_of_pair[pair_of]) % len(per_value))
    tests = sum(count >= _FEWEST_HOLDERS for count in per_value.values()) * len(per_class)
    found = []
    for number, (value, held) in enumerate(sorted(per_value.items())):
        if held < _FEWEST_HOLDERS or held == len(values):
            continue
        label, of_label = max(((name, joint[value, name]) for name in sorted(per_class)), key=lambda pair: pair[1])
        if of_label < _LEAST_SHARE * held:
            continue
        p = _at_least(group_joint[value, label], group_count, group_labels[label], group_values[value])
        p_images = _at_least(of_label, len(values), per_class[label], held)
        p, p_images = min(1.0, p * tests), min(1.0, p_images * tests)
        if p >= LEVEL and p_images >= _IMAGE_LEVEL:
            continue
        found.append(
            Confounded(
                attribute=attribute,
                value=value,
                label=label,
                images=held,
                of_label=of_label,
                expected=per_class[label] / len(labels),
                groups=int(holders[number]),
                p=p,
                verdict="accused" if p < LEVEL else "possible",
            )
        )
    return tuple(found)


def _at_least(seen: int, total: int, of_class: int, drawn: int) -> float:
    """Give the chance of `seen` or more of a class among `drawn` of `total` that hold `of_class`."""
    return float(stats.hypergeom.sf(seen - 1, total, of_class, drawn)) if seen else 1.0
