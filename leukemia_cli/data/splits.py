"""Deal groups of images to splits or folds.

Requirements met here:
- A group is dealt whole: no two of its images ever part.
- The same rows and seed give the same parts, in whatever order the rows come; the seed alone decides between equals.
- Splits: every class has at least one whole group in every split, or it is an error that says what to do instead.
- Folds: no fold is empty and every class is in at least two, so that whatever is held out can be learnt from the rest.
- Within that, the images of each class are shared out as the fractions ask, as well as whole groups allow.
- A million groups of one image are dealt in seconds.

How: groups are dealt largest first (the order jittered by the seed) to the part that falls short the most; then a group
moves, or two change places, as long as that lowers the sum of (count - target)² / target over parts and classes, of
images and, with less weight, of groups. Groups of equal content are interchangeable until the end, when lots are drawn.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from leukemia_cli.domain import SPLITS, counted
from leukemia_cli.errors import DataError, UsageError

DEFAULT_FRACTIONS: Mapping[str, float] = {"val": 0.15, "calib": 0.15, "test": 0.2}

_Row = tuple[str, str]
_Content = tuple[tuple[int, int], ...]  # (class index, images), classes ascending

_MISSING = 1e6  # what it costs when a part lacks what it needs: more than any deviation can
_TOTAL_WEIGHT = 0.2  # of all images together, against 1 for each class
_GROUP_WEIGHT = 0.1  # of a class's groups, against 1 for its images
_JITTER = 0.5  # by how much of its size a group may jump the queue
_REDEALS = 25  # deals without a new partition after which there are taken to be no more
_TRIES = 20  # other orders, where the first leaves a part without what it needs
_EVALUATIONS = 200_000  # about one second of local improvement; never reached under some hundred kinds of group


def split_fractions(
    val: float | None = None, calib: float | None = None, test: float | None = None
) -> dict[str, float]:
    """Give the fraction of each split that is to exist, train first; raises UsageError where train gets nothing."""
    asked = {"val": val, "calib": calib, "test": test}
    fractions = {name: DEFAULT_FRACTIONS[name] if given is None else given for name, given in asked.items()}
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise UsageError(
                f"--{name} {fraction:g} is not a fraction", "Give at least 0 (no such split) and less than 1"
            )
    rest = 1 - sum(fractions.values())
    if rest < 1e-9:
        listed = " + ".join(f"{name} {fraction:g}" for name, fraction in fractions.items())
        raise UsageError(
            f"{listed} leave nothing to train on", "Lower --val, --calib or --test: they must sum to under 1"
        )
    return {"train": rest, **{name: fraction for name, fraction in fractions.items() if fraction > 0}}


def deal_splits(rows: Sequence[_Row], fractions: Mapping[str, float], seed: int) -> list[str]:
    """Give the split of each (group, class) row; raises DataError where a class cannot have a group in each split."""
    names = [name for name in SPLITS if fractions.get(name, 0) > 0]
    deal = _Deal(rows, [fractions[name] for name in names])
    for index, kind in enumerate(deal.classes):
        if deal.group_counts[index] < len(names):
            raise _too_few(kind, deal.group_counts[index], names)
    parts = deal.run(seed, least_parts=[len(names)] * len(deal.classes))
    for index, kind in enumerate(deal.classes):
        if deal.parts_with(index) < len(names):
            raise _too_few(kind, deal.group_counts[index], names, entangled=True)
    return [names[parts[group]] for group, _ in rows]


def deal_folds(rows: Sequence[_Row], folds: int, seed: int) -> list[int]:
    """Give the fold, from 0, of each (group, class) row; raises DataError where a class cannot be in two folds."""
    if folds < 2:
        raise UsageError(f"--folds {folds} is too few", "Ask for at least 2 folds")
    deal = _Deal(rows, [1 / folds] * folds)
    group_count = len(deal.contents)
    if group_count < folds:
        raise DataError(
            f"{folds} folds need at least as many groups, and there are {group_count}",
            f"Use --folds {group_count}" if group_count > 1 else "Add images of other patients",
        )
    for index, kind in enumerate(deal.classes):
        if deal.group_counts[index] < 2:
            raise DataError(
                f"all images of class {kind} are one group, which no model could be both trained and tested on",
                "Add images of other patients, leave the class out with --classes, or group otherwise with --group-by",
            )
    parts = deal.run(seed, least_parts=[min(count, folds) for count in deal.group_counts])
    for index, kind in enumerate(deal.classes):
        if deal.parts_with(index) < 2:
            raise DataError(
                f"groups hold several classes in such a way that all of {kind} ends in one of {folds} folds",
                "Ask for fewer --folds, or group otherwise with --group-by",
            )
    if deal.parts_with(len(deal.classes)) < folds:
        raise DataError(
            f"{group_count} groups cannot be dealt to {folds} folds without an empty one",
            "Ask for fewer --folds, or group otherwise with --group-by",
        )
    return [parts[group] for group, _ in rows]


def repeat_folds(
    rows: Sequence[_Row], first: Sequence[int], folds: int, repeats: int, seed: int
) -> list[tuple[int, ...]]:
    """Give up to `repeats` partitions of the rows into `folds`, `first` among them, no two alike but for their numbering.

    Fewer come back where `_REDEALS` other seeds in a row bring nothing new: few groups allow few partitions.
    """
    dealt = [tuple(first)]
    seen = {_partition(rows, first)}
    deals = failures = 0
    while len(dealt) < repeats and failures < _REDEALS:
        deals += 1
        again = deal_folds(rows, folds, seed + deals)
        partition = _partition(rows, again)
        if partition in seen:
            failures += 1
            continue
        failures = 0
        seen.add(partition)
        dealt.append(tuple(again))
    return dealt


def _partition(rows: Sequence[_Row], parts: Sequence[int]) -> frozenset[frozenset[str]]:
    """Give the sets of groups that lie together, whatever their part is called."""
    members: dict[int, set[str]] = {}
    for (group, _), part in zip(rows, parts, strict=True):
        members.setdefault(part, set()).add(group)
    return frozenset(frozenset(groups) for groups in members.values())


def missing_classes(rows: Sequence[_Row], parts: Sequence[str]) -> dict[str, list[str]]:
    """Give, for each part that lacks some, the classes that it lacks, in order."""
    every = sorted({kind for _, kind in rows})
    there: dict[str, set[str]] = {}
    for (_, kind), part in zip(rows, parts, strict=True):
        there.setdefault(part, set()).add(kind)
    lacking = {part: [kind for kind in every if kind not in kinds] for part, kinds in there.items()}
    return {part: lacking[part] for part in sorted(lacking) if lacking[part]}


def _too_few(kind: str, group_count: int, names: Sequence[str], *, entangled: bool = False) -> DataError:
    each = f"one in each of {', '.join(names)}"
    problem = f"class {kind} has {counted(group_count, 'group')}, too few for {each}"
    if entangled:
        problem = f"class {kind} shares its {group_count} groups with other classes so that it cannot have {each}"
    if group_count < 2:
        return DataError(
            problem,
            "Add images of other patients, leave the class out with --classes, or group otherwise with --group-by",
        )
    spare = "--calib 0" if "calib" in names else f"--{names[-1]} 0"
    fewer = f", or do without one: {spare}" if group_count >= len(names) - 1 else ""
    return DataError(problem, f"Use --folds {min(group_count, 5)} instead of splits{fewer}")


def _draw(seed: int, salt: int, group: str) -> int:
    """Draw 64 bits that depend on nothing but seed, salt and group."""
    text = f"{seed}\0{salt}\0{group}".encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class _Deal:
    """Counts of images and groups in each part, kept up to date while groups are dealt and moved.

    A "kind" is the content that some groups share; `held[kind][part]` is how many of them a part holds. "Dimensions"
    are what is balanced: images of each class, all images, groups of each class; `over[part][dimension]` is count minus
    target.
    """

    def __init__(self, rows: Sequence[_Row], fractions: Sequence[float]) -> None:
        self.part_count = len(fractions)
        self.classes = sorted({kind for _, kind in rows})
        self.contents = _contents(rows, self.classes)
        self.kinds = sorted(set(self.contents.values()))
        of_kind = Counter(self.contents.values())
        class_count = len(self.classes)
        self.group_counts = [0] * class_count
        images = [0] * class_count
        for content, count in of_kind.items():
            for index, size in content:
                self.group_counts[index] += count
                images[index] += count * size
        sizes = [*images, sum(images), *self.group_counts]
        weights = [1.0] * class_count + [_TOTAL_WEIGHT] + [_GROUP_WEIGHT] * class_count
        singles = all(size == 1 for content in of_kind for _, size in content)
        self.fractions = fractions
        self.targets = [[size * fraction for size in sizes] for fraction in fractions]
        self.weights = [
            [weight / (fraction * max(size, 1) ** 2) for size, weight in zip(sizes, weights, strict=True)]
            for fraction in fractions
        ]
        self.vectors = [self._vector(content, with_groups=not singles) for content in self.kinds]
        self.members = [(*(index for index, _ in content), class_count) for content in self.kinds]
        self._clear([1] * class_count, 0)

    def _vector(self, content: _Content, *, with_groups: bool) -> tuple[tuple[int, int], ...]:
        class_count = len(self.classes)
        groups = [(class_count + 1 + index, 1) for index, _ in content] if with_groups else []
        return (*content, (class_count, sum(size for _, size in content)), *groups)

    def _clear(self, least_parts: Sequence[int], evaluations: int) -> None:
        self.held = [[0] * self.part_count for _ in self.kinds]
        self.over = [[-target for target in targets] for targets in self.targets]
        self.holders = [[0] * (len(self.classes) + 1) for _ in range(self.part_count)]
        self.spread = [0] * (len(self.classes) + 1)
        self.least = [*least_parts, min(self.part_count, len(self.contents))]
        self.left = evaluations

    def parts_with(self, index: int) -> int:
        """Count the parts that hold a group of a class; of any, for the index behind the last class."""
        return self.spread[index]

    def run(self, seed: int, least_parts: Sequence[int]) -> dict[str, int]:
        """Deal every group to a part; each class is to be in `least_parts` of them, which the caller checks."""
        groups = sorted(self.contents)
        place = {content: index for index, content in enumerate(self.kinds)}
        gaps: list[int] = []
        for salt in range(_TRIES if len(groups) <= 2000 else 1):
            gaps.append(self._try(groups, place, seed, salt, least_parts))
            if gaps[-1] == 0:
                break
        best = gaps.index(min(gaps))
        if best != len(gaps) - 1:
            self._try(groups, place, seed, best, least_parts)
        lots = {group: _draw(seed, best, group) for group in groups}
        return self._hand_out(groups, lots, place)

    def _try(
        self, groups: Sequence[str], place: Mapping[_Content, int], seed: int, salt: int, least_parts: Sequence[int]
    ) -> int:
        self._clear(least_parts, _EVALUATIONS if salt == 0 else _EVALUATIONS // _TRIES)
        self._deal([(_draw(seed, salt, group), place[self.contents[group]]) for group in groups])
        self._fill_gaps()
        self._improve()
        return sum(self._gaps())

    def _deal(self, lots: list[tuple[int, int]]) -> None:
        size_of = [sum(size for _, size in content) for content in self.kinds]
        lots.sort(key=lambda lot: (-size_of[lot[1]] * (1 + _JITTER * (lot[0] / 2**64)), lot[0]))
        parts = range(self.part_count)
        over, weights, vectors = self.over, self.weights, self.vectors
        for lot, kind in lots:
            vector = vectors[kind]
            start = lot % self.part_count
            best, least = start, float("inf")
            for part in (*parts[start:], *parts[:start]):
                dims, weight = over[part], weights[part]
                rise = 0.0
                for dim, n in vector:
                    rise += weight[dim] * n * (2 * dims[dim] + n)
                if rise < least - 1e-12:
                    best, least = part, rise
            self._put(kind, best, 1)

    def _put(self, kind: int, part: int, sign: int) -> None:
        self.held[kind][part] += sign
        dims = self.over[part]
        for dim, n in self.vectors[kind]:
            dims[dim] += sign * n
        holders = self.holders[part]
        for index in self.members[kind]:
            holders[index] += sign
            if sign > 0 and holders[index] == 1:
                self.spread[index] += 1
            elif sign < 0 and holders[index] == 0:
                self.spread[index] -= 1

    def _rise(self, kind: int, source: int, target: int) -> float:
        """Tell what the cost rises by when one group of a kind moves."""
        self.left -= 1
        rise = 0.0
        out, out_weight, into, into_weight = (
            self.over[source],
            self.weights[source],
            self.over[target],
            self.weights[target],
        )
        for dim, n in self.vectors[kind]:
            rise += out_weight[dim] * n * (n - 2 * out[dim]) + into_weight[dim] * n * (2 * into[dim] + n)
        for index in self.members[kind]:
            change = (self.holders[target][index] == 0) - (self.holders[source][index] == 1)
            if change:
                missing = self.least[index] - self.spread[index]
                rise += _MISSING * (max(0, missing - change) - max(0, missing))
        return rise

    def _gaps(self) -> list[int]:
        return [max(0, least - spread) for least, spread in zip(self.least, self.spread, strict=True)]

    def _fill_gaps(self) -> None:
        """Move, for each class that is in too few parts, the group whose move costs the least, until none helps."""
        while any(self._gaps()):
            lacking = {index for index, gap in enumerate(self._gaps()) if gap}
            moves = [
                (self._rise(kind, source, target), kind, source, target)
                for kind, members in enumerate(self.members)
                if lacking.intersection(members)
                for source in range(self.part_count)
                if self.held[kind][source]
                for target in range(self.part_count)
                if target != source
            ]
            rise, kind, source, target = min(moves, default=(0.0, 0, 0, 0))
            if rise >= -1e-9:
                return
            self._move(kind, source, target)

    def _move(self, kind: int, source: int, target: int) -> None:
        self._put(kind, source, -1)
        self._put(kind, target, 1)

    def _improve(self) -> None:
        while self.left > 0 and (self._improve_by_moves() or self._improve_by_swaps()):
            pass

    def _improve_by_moves(self) -> bool:
        better = False
        for kind in range(len(self.kinds)):
            for source in range(self.part_count):
                for target in range(self.part_count):
                    while (
                        source != target
                        and self.held[kind][source]
                        and self.left > 0
                        and self._rise(kind, source, target) < -1e-9
                    ):
                        self._move(kind, source, target)
                        better = True
        return better

    def _improve_by_swaps(self) -> bool:
        better = False
        for one in range(len(self.kinds)):
            for other in range(one + 1, len(self.kinds)):
                if self.left <= 0:
                    return better
                for source in range(self.part_count):
                    for target in range(self.part_count):
                        if source == target or not self.held[one][source] or not self.held[other][target]:
                            continue
                        rise = self._rise(one, source, target)
                        self._move(one, source, target)
                        if rise + self._rise(other, target, source) < -1e-9:
                            self._move(other, target, source)
                            better = True
                        else:
                            self._move(one, target, source)
        return better

    def _hand_out(
        self, groups: Sequence[str], lots: Mapping[str, int], place: Mapping[_Content, int]
    ) -> dict[str, int]:
        """Draw lots, among the groups of equal content, for the places that each part holds of them."""
        places = [[part for part, count in enumerate(held) for _ in range(count)] for held in self.held]
        parts: dict[str, int] = {}
        for group in sorted(groups, key=lambda group: (lots[group], group)):
            parts[group] = places[place[self.contents[group]]].pop()
        return parts


def _contents(rows: Sequence[_Row], classes: Sequence[str]) -> dict[str, _Content]:
    order = {kind: index for index, kind in enumerate(classes)}
    contents: dict[str, _Content] = {}
    shared: dict[_Content, _Content] = {}
    for (group, kind), count in Counter(rows).items():
        content: _Content = tuple(sorted((*contents.get(group, ()), (order[kind], count))))
        contents[group] = shared.setdefault(content, content)
    return contents
