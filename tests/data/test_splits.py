"""Whatever the groups, they stay whole, and the same rows and seed give the same parts."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia_cli.data.splits import deal_folds, deal_splits, missing_classes, repeat_folds, split_fractions
from leukemia_cli.errors import DataError, UsageError

Rows = list[tuple[str, str]]


@st.composite
def rows_of_groups(draw: st.DrawFn) -> Rows:
    """Draw groups of 1 to 30 images; some hold two classes."""
    classes = "ABC"[: draw(st.integers(2, 3))]
    rows: Rows = []
    for number in range(draw(st.integers(1, 40))):
        for kind in draw(st.sets(st.sampled_from(classes), min_size=1, max_size=2)):
            rows += [(f"g{number}", kind)] * draw(st.integers(1, 30))
    draw(st.randoms(use_true_random=False)).shuffle(rows)
    return rows


def parts_of(rows: Rows, parts: list[str] | list[int]) -> dict[str, set[str | int]]:
    """Give the parts in which each group has rows."""
    found: dict[str, set[str | int]] = defaultdict(set)
    for (group, _), part in zip(rows, parts, strict=True):
        found[group].add(part)
    return found


@settings(max_examples=70, deadline=None)
@given(rows=rows_of_groups(), seed=st.integers(0, 5), calib=st.sampled_from([0.0, 0.15]))
def test_splits_keep_groups_whole_and_every_class_everywhere(rows: Rows, seed: int, calib: float) -> None:
    fractions = split_fractions(calib=calib)
    classes = {kind for _, kind in rows}
    groups_of = {kind: {g for g, k in rows if k == kind} for kind in classes}
    pure = len({g for g, _ in rows}) == sum(map(len, groups_of.values()))
    try:
        splits = deal_splits(rows, fractions, seed)
    except DataError as error:
        few = min(map(len, groups_of.values())) < len(fractions)
        assert few or not pure, error
        assert error.hint
        return
    assert all(len(parts) == 1 for parts in parts_of(rows, splits).values())
    assert set(zip(splits, (k for _, k in rows), strict=True)) == {(name, k) for name in fractions for k in classes}


@settings(max_examples=70, deadline=None)
@given(rows=rows_of_groups(), seed=st.integers(0, 5), folds=st.integers(2, 6))
def test_folds_keep_groups_whole_and_every_class_learnable(rows: Rows, seed: int, folds: int) -> None:
    groups_of: dict[str, set[str]] = defaultdict(set)
    for group, kind in rows:
        groups_of[kind].add(group)
    groups = {g for g, _ in rows}
    try:
        dealt = deal_folds(rows, folds, seed)
    except DataError as error:
        pure = len(groups) == sum(map(len, groups_of.values()))
        assert len(groups) < folds or min(map(len, groups_of.values())) < 2 or not pure, error
        return
    assert set(dealt) == set(range(folds))
    assert all(len(parts) == 1 for parts in parts_of(rows, dealt).values())
    for kind in groups_of:
        assert len({fold for fold, (_, k) in zip(dealt, rows, strict=True) if k == kind}) >= 2


@settings(max_examples=40, deadline=None)
@given(rows=rows_of_groups(), seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows: Rows, seed: int, order: random.Random) -> None:
    other = list(rows)
    order.shuffle(other)
    for deal in (lambda r: deal_splits(r, split_fractions(calib=0), seed), lambda r: deal_folds(r, 3, seed)):
        try:
            dealt = deal(rows)
        except DataError:
            with pytest.raises(DataError):
                deal(other)
        else:
            assert parts_of(rows, dealt) == parts_of(other, deal(other))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(20, 300), min_size=2, max_size=4), seed=st.integers(0, 3))
def test_single_images_are_shared_out_to_the_image(counts: list[int], seed: int) -> None:
    rows = [(f"{kind}{n}", f"c{kind}") for kind, count in enumerate(counts) for n in range(count)]
    fractions = split_fractions()
    dealt = Counter(zip(deal_splits(rows, fractions, seed), (k for _, k in rows), strict=True))
    for kind, count in enumerate(counts):
        for name, fraction in fractions.items():
            assert abs(dealt[name, f"c{kind}"] - fraction * count) <= 1.5


def test_uneven_groups_are_shared_out_well() -> None:
    lots = random.Random(1)
    rows: Rows = []
    for group in range(200):
        rows += [(f"p{group}", lots.choice("ABC"))] * min(40, int(lots.paretovariate(1.0)))
    fractions = split_fractions()
    total = Counter(kind for _, kind in rows)
    for seed in range(3):
        dealt = Counter(zip(deal_splits(rows, fractions, seed), (k for _, k in rows), strict=True))
        assert max(abs(dealt[n, k] / total[k] - f) for k in total for n, f in fractions.items()) < 0.02


def test_one_huge_group_goes_where_it_must_and_the_rest_around_it() -> None:
    rows = [("huge", "A")] * 500 + [(f"a{n}", "A") for n in range(9)] + [(f"b{n}", "B") for n in range(50)]
    splits = deal_splits(rows, split_fractions(), 0)
    assert splits[0] == "train"
    assert {s for s, (_, k) in zip(splits, rows, strict=True) if k == "A"} == {"train", "val", "calib", "test"}


def test_seeds_give_different_parts() -> None:
    rows = [(f"g{n}", "AB"[n % 2]) for n in range(24) for _ in range(n + 1)]
    dealt = [deal_folds(rows, 4, seed) for seed in range(8)]
    partitions = {
        frozenset(frozenset(g for (g, _), f in zip(rows, d, strict=True) if f == fold) for fold in range(4))
        for d in dealt
    }
    assert len(partitions) >= 7


def test_these_parts_stay_as_they_are() -> None:
    rows = [(f"g{n}", "AB"[n % 2]) for n in range(12)]
    assert "".join(map(str, deal_folds(rows, 3, 0))) == "100100221221"


@pytest.mark.parametrize(
    ("groups", "problem", "hint"),
    [
        (1, "class B has 1 group, too few for one in each of train, val, calib, test", "Add images of other patients"),
        (2, "class B has 2 groups, too few", r"Use --folds 2 instead of splits$"),
        (3, "class B has 3 groups, too few", "Use --folds 3 instead of splits, or do without one: --calib 0"),
    ],
)
def test_too_few_groups_say_what_to_do(groups: int, problem: str, hint: str) -> None:
    rows = [(f"a{n}", "A") for n in range(9)] + [(f"b{n % groups}", "B") for n in range(30)]
    with pytest.raises(DataError, match=problem) as caught:
        deal_splits(rows, split_fractions(), 0)
    assert re.search(hint, caught.value.hint)


def test_groups_tangled_in_classes_are_an_error() -> None:
    # each class has two groups, and each group is in two classes: an odd ring, which two parts cannot take turns on
    rows = [("g0", "A"), ("g1", "A"), ("g1", "B"), ("g2", "B"), ("g2", "C"), ("g0", "C")]
    with pytest.raises(DataError, match="shares its 2 groups with other classes"):
        deal_splits(rows, {"train": 0.5, "test": 0.5}, 0)
    with pytest.raises(DataError, match="ends in one of 2 folds"):
        deal_folds(rows, 2, 0)


def test_folds_that_cannot_be() -> None:
    rows = [("a", "A"), ("b", "A"), ("c", "B"), ("d", "B")]
    with pytest.raises(DataError, match="5 folds need at least as many groups, and there are 4"):
        deal_folds(rows, 5, 0)
    with pytest.raises(UsageError, match="--folds 1 is too few"):
        deal_folds(rows, 1, 0)
    with pytest.raises(DataError, match="all images of class B are one group"):
        deal_folds([*rows[:3], ("c", "B")], 2, 0)
    assert missing_classes(rows, [str(fold) for fold in deal_folds(rows, 4, 0)]).keys() == {"0", "1", "2", "3"}


def test_fractions() -> None:
    assert split_fractions() == pytest.approx({"train": 0.5, "val": 0.15, "calib": 0.15, "test": 0.2})
    assert split_fractions(val=0, calib=0, test=0.25) == pytest.approx({"train": 0.75, "test": 0.25})
    with pytest.raises(UsageError, match="leave nothing to train on"):
        split_fractions(val=0.5, calib=0.25, test=0.25)
    for wrong in (-0.1, 1.0, 15, float("nan")):
        with pytest.raises(UsageError, match="is not a fraction"):
            split_fractions(val=wrong)


def test_many_single_images_are_dealt_quickly_and_evenly() -> None:
    rows = [(f"g{n}", "A" if n % 5 else "B") for n in range(50_000)]
    dealt = Counter(zip(deal_splits(rows, split_fractions(), 0), (k for _, k in rows), strict=True))
    assert dealt["train", "A"] == 20_000
    assert dealt["test", "B"] == 2_000


def test_the_appearance_groups_of_a_real_set_are_shared_out_well(real_images: Callable[[str], Path]) -> None:
    with (real_images("Taleqani") / "appearance_groups.csv").open() as file:
        rows = [(r["group"], "HTL" if "/Benign/" in r["path"] else "ALL") for r in csv.DictReader(file)]
    total = Counter(kind for _, kind in rows)
    for seed in range(5):
        folds = Counter(zip(deal_folds(rows, 5, seed), (k for _, k in rows), strict=True))
        assert max(abs(folds[f, "ALL"] / total["ALL"] - 0.2) for f in range(5)) < 0.01
        assert max(abs(folds[f, "HTL"] / total["HTL"] - 0.2) for f in range(5)) < 0.05  # 7 groups of 17 to 57 images
        splits = Counter(zip(deal_splits(rows, split_fractions(), seed), (k for _, k in rows), strict=True))
        for name, fraction in split_fractions().items():
            assert abs(splits[name, "ALL"] / total["ALL"] - fraction) < 0.01
            assert abs(splits[name, "HTL"] / total["HTL"] - fraction) < 0.04


def _partitions(rows: list[tuple[str, str]], dealt: list[tuple[int, ...]]) -> list[frozenset[frozenset[str]]]:
    return [
        frozenset(frozenset(g for (g, _), f in zip(rows, folds, strict=True) if f == fold) for fold in set(folds))
        for folds in dealt
    ]


def test_repeats_are_distinct_partitions_that_begin_with_the_first() -> None:
    rows = [(f"{label}{group}", label) for label in "AB" for group in range(12) for _ in range(3)]
    first = deal_folds(rows, 4, seed=5)
    dealt = repeat_folds(rows, first, 4, 5, seed=5)
    assert len(dealt) == 5
    assert dealt[0] == tuple(first)
    assert len(set(_partitions(rows, dealt))) == 5
    for folds in dealt:
        held = {group: fold for (group, _), fold in zip(rows, folds, strict=True)}
        assert all(held[group] == fold for (group, _), fold in zip(rows, folds, strict=True))
        assert all(
            {fold for (_, k), fold in zip(rows, folds, strict=True) if k == label} == {0, 1, 2, 3} for label in "AB"
        )


def test_fewer_repeats_come_back_where_groups_allow_no_more() -> None:
    rows = [(f"{label}{group}", label) for label in "AB" for group in range(2)]
    dealt = repeat_folds(rows, deal_folds(rows, 2, seed=0), 2, 10, seed=0)
    assert len(dealt) == 2  # {A0 B0 | A1 B1} and {A0 B1 | A1 B0}
    assert len(set(_partitions(rows, dealt))) == 2
