from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from leukemia_cli.judging import shortcuts
from leukemia_cli.judging.shortcuts import Measured, Probe, confounding, likely_mislabelled, probes


class Drawn:
    """Images of `groups` groups a class: each group shifts all of its images, the class shifts by `apart` spreads."""

    def __init__(self, seed: int, *, groups: int = 12, images: int = 8, apart: float = 0.0, classes: int = 2) -> None:
        random = np.random.default_rng(seed)
        count = classes * groups
        self.groups = [f"g{g:03d}" for g in range(count) for _ in range(images)]
        self.labels = ["ABCDE"[g % classes] for g in range(count) for _ in range(images)]
        self.folds = [g // classes % 4 for g in range(count) for _ in range(images)]
        centres = random.normal(size=(count, 6))
        centres[:, 0] += apart * (np.arange(count) % classes)
        self.features = np.repeat(centres, images, axis=0) + random.normal(size=(count * images, 6)) * 0.3

    def probe(self, *, folds: bool = True, permutations: int = 99, seed: int = 0) -> Probe:
        looked = Measured(name="x", about="drawn", features=self.features)
        (found,) = probes(
            [looked], self.labels, self.groups, self.folds if folds else None, seed=seed, permutations=permutations
        )
        return found


def test_a_class_that_groups_show_is_accused() -> None:
    found = Drawn(0, apart=3).probe()
    assert found.verdict == "accused"
    assert found.balanced_accuracy is not None
    assert found.balanced_accuracy > 0.85
    assert found.null_high is not None
    assert found.balanced_accuracy > found.null_high
    assert (found.images, found.groups, dict(found.groups_per_class)) == (192, 24, {"A": 12, "B": 12})
    assert "24 groups" in found.method


def test_many_images_of_few_patients_are_not_many_pieces_of_evidence() -> None:
    # Every group is far from every other: images tell their group, and with it a class, by chance alone.
    accused_by_groups = accused_by_images = 0
    for seed in range(8):
        drawn = Drawn(seed, groups=8, images=20)
        accused_by_groups += drawn.probe(permutations=99, seed=seed).verdict == "accused"
        accused_by_images += drawn.probe(permutations=99, seed=seed, folds=False).verdict == "possible"
    assert accused_by_groups <= 1
    assert accused_by_images >= 7


def test_p_values_are_even_where_there_is_nothing() -> None:
    values = [Drawn(seed, groups=8, images=3).probe(permutations=39, seed=seed).p for seed in range(50)]
    known = np.array([value for value in values if value is not None])
    assert known.size == 50
    assert (known <= 0.1).mean() <= 0.2
    assert 0.35 < np.mean(known) < 0.65


def test_scores_are_those_of_a_linear_discriminant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_SHRINKAGE", 0.0)
    drawn = Drawn(3, apart=1, classes=3)
    labels, folds = np.array(drawn.labels), np.array(drawn.folds)
    expected = np.empty(len(labels), dtype=labels.dtype)
    for fold in range(4):
        train = folds != fold
        model = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
        # scikit-learn divides the scatter by N, which scales all scores alike where priors are equal.
        expected[~train] = model.fit(drawn.features[train], labels[train]).predict(drawn.features[~train])
    found = drawn.probe(permutations=19)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, expected))


def test_too_few_groups_are_possible_and_never_accused() -> None:
    found = Drawn(0, groups=2, images=20, apart=6).probe()
    assert found.verdict == "possible"
    assert found.groups == 4
    assert "4 groups are too few" in found.method
    assert "0.33" in found.method  # two of six ways to share out the labels are the one that was seen
    nothing = Drawn(5, groups=2, images=20)
    nothing.features = np.random.default_rng(0).normal(size=nothing.features.shape)
    assert nothing.probe().verdict == "untestable"


def test_what_is_the_same_in_every_image_is_clear_and_costs_the_others_nothing() -> None:
    drawn = Drawn(0, apart=3)
    constant = Measured(name="flat", about="", features=np.full((len(drawn.labels), 2), 7.0))
    told = Measured(name="x", about="", features=drawn.features)
    alone = probes([told], drawn.labels, drawn.groups, drawn.folds, seed=0, permutations=99)[0]
    flat, beside = probes([constant, told], drawn.labels, drawn.groups, drawn.folds, seed=0, permutations=99)
    assert (flat.verdict, flat.balanced_accuracy, flat.p) == ("clear", 0.5, 1.0)
    assert beside == alone


def test_holm_counts_all_probes() -> None:
    drawn = Drawn(0, apart=3)
    noise = np.random.default_rng(0).normal(size=(4, len(drawn.labels), 3))
    many = [Measured(name="x", about="", features=drawn.features)]
    many += [Measured(name=f"n{i}", about="", features=part) for i, part in enumerate(noise)]
    found = probes(many, drawn.labels, drawn.groups, drawn.folds, seed=0, permutations=99)
    assert found[0].p == pytest.approx(1 / 100)
    assert found[0].p_holm == pytest.approx(5 / 100)


def test_a_small_effect_is_not_accused_however_sure() -> None:
    random = np.random.default_rng(0)
    labels = ["A", "B"] * 1000
    features = random.normal(size=(2000, 1)) + 0.2 * (np.arange(2000) % 2)[:, None]
    (found,) = probes(
        [Measured(name="x", about="", features=features)],
        labels, [f"g{i}" for i in range(2000)], [i // 2 % 5 for i in range(2000)], seed=0, permutations=199,
    )  # fmt: skip
    assert found.p == pytest.approx(1 / 200)
    assert found.verdict == "clear"


def test_classes_of_too_few_images_are_untestable() -> None:
    labels, groups = ["A"] * 20 + ["B"] * 3, [f"g{i}" for i in range(23)]
    looked = Measured(name="x", about="", features=np.random.default_rng(0).normal(size=(23, 2)))
    (found,) = probes([looked], labels, groups, [i % 2 for i in range(23)], seed=0)
    assert (found.verdict, found.balanced_accuracy, found.p) == ("untestable", None, None)
    assert "class B" in found.method


def test_exchanges_keep_groups_whole_and_folds_with_their_labels() -> None:
    drawn = Drawn(0, groups=5, images=3)
    cohort = shortcuts._cohort(drawn.labels, drawn.groups, drawn.folds)
    arrangements = shortcuts._Arrangements(cohort, seed=1)
    first = Counter(zip(cohort.classes_of.tolist(), cohort.folds_of.tolist(), strict=True))
    seen = set()
    for number in range(1, 20):
        classes_of, folds_of = arrangements.draw(number)
        for rows in cohort.members:
            assert len(set(classes_of[rows].tolist())) == len(set(folds_of[rows].tolist())) == 1
        assert Counter(zip(classes_of.tolist(), folds_of.tolist(), strict=True)) == first
        seen.add(classes_of.tobytes())
    assert len(seen) > 10


def test_groups_of_several_classes_pass_their_mixture_on() -> None:
    labels = ["A"] * 6 + ["A", "B"] * 3 + ["B"] * 4
    groups = ["one"] * 6 + ["two"] * 6 + ["three"] * 4
    cohort = shortcuts._cohort(labels, groups, [0] * 6 + [1] * 10)
    arrangements = shortcuts._Arrangements(cohort, seed=0)
    shares = set()
    for number in range(1, 30):
        classes_of, _ = arrangements.draw(number)
        shares.add(tuple(float(classes_of[rows].mean()) for rows in cohort.members))
    # In the order of names: one, three, two. Every order of the three mixtures turns up, and nothing else.
    assert shares == {(a, b, 1.5 - a - b) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0) if a != b}


def test_many_images_are_thinned_out_alike_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST_IMAGES", 100)
    drawn = Drawn(0, groups=12, images=30, apart=3)
    found = drawn.probe(permutations=99)
    assert found.images <= 100
    assert found.groups == 24
    assert found.verdict == "accused"
    assert f"{found.images} of 720 images" in found.method
    assert drawn.probe(permutations=99) == found
    alone = Drawn(0, groups=150, images=1, apart=3)
    assert alone.probe(permutations=99).images == 100


def test_a_rare_class_stays_whole_when_images_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST_IMAGES", 100)
    labels = ["common"] * 500 + ["rare"] * 20
    rows = shortcuts.drawn_rows(labels, [f"g{i}" for i in range(520)], seed=0).tolist()
    assert len(rows) == 100
    assert rows == sorted(rows)
    assert set(range(500, 520)) <= set(rows)


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "told"),
    [
        (["A"] * 4, ["a", "b", "c", "d"], [0, 1, 0, 1], "two classes"),
        (["A", "B"] * 2, ["a", "b", "c"], [0, 1, 0, 1], "of one number"),
        (["A", "B"] * 2, ["a", "a", "c", "d"], [0, 1, 0, 1], "'a' lies in several folds"),
    ],
)
def test_what_cannot_be_tested_is_refused(labels: list[str], groups: list[str], folds: list[int], told: str) -> None:
    looked = Measured(name="x", about="", features=np.zeros((4, 1)))
    with pytest.raises(ValueError, match=told):
        probes([looked], labels, groups, folds, seed=0)


def test_features_that_are_not_finite_are_refused() -> None:
    looked = Measured(name="size", about="", features=np.full((4, 1), np.nan))
    with pytest.raises(ValueError, match="features of size"):
        probes([looked], ["A", "B"] * 2, list("abcd"), [0, 0, 1, 1], seed=0)


# ------------------------------------------------------------------------------------------------------ wrong labels


def test_wrong_labels_are_found_and_few_others() -> None:
    drawn = Drawn(1, groups=20, images=10, apart=8)
    random = np.random.default_rng(0)
    rows = random.choice(len(drawn.labels), 8, replace=False).tolist()
    labels = list(drawn.labels)
    for row in rows:
        labels[row] = "A" if labels[row] == "B" else "B"
    found = likely_mislabelled(drawn.features, labels, drawn.groups, drawn.folds)
    named = {one.row for one in found}
    assert len(named & set(rows)) >= 6
    assert len(named - set(rows)) <= 1
    assert all(one.given == labels[one.row] != one.suggested and one.confidence > 0.5 for one in found)
    assert likely_mislabelled(drawn.features, drawn.labels, drawn.groups, drawn.folds) == ()


def test_a_whole_group_under_a_wrong_label_is_named_as_one() -> None:
    drawn = Drawn(1, groups=20, images=10, apart=8)
    labels = [("B" if label == "A" else "A") if group == "g004" else label
              for label, group in zip(drawn.labels, drawn.groups, strict=True)]  # fmt: skip
    found = likely_mislabelled(drawn.features, labels, drawn.groups, drawn.folds)
    assert {drawn.groups[one.row] for one in found} == {"g004"}
    assert all(one.whole_group for one in found)


def test_a_group_that_is_half_unlike_its_class_names_no_image() -> None:
    drawn = Drawn(1, groups=20, images=10, apart=8)
    half = [row for row, group in enumerate(drawn.groups) if group == "g004"][:5]
    drawn.features[half, 0] += 10  # beyond where the images of the other class lie
    assert likely_mislabelled(drawn.features, drawn.labels, drawn.groups, drawn.folds) == ()
    alone = [f"{group}-{row}" for row, group in enumerate(drawn.groups)]
    assert {one.row for one in likely_mislabelled(drawn.features, drawn.labels, alone, drawn.folds)} == set(half)


def test_features_that_hardly_know_the_classes_judge_no_label() -> None:
    drawn = Drawn(1, groups=20, images=10, apart=1)
    assert likely_mislabelled(drawn.features, drawn.labels, drawn.groups, drawn.folds) == ()
    flat = np.ones((len(drawn.labels), 3))
    assert likely_mislabelled(flat, drawn.labels, drawn.groups, drawn.folds) == ()


# -------------------------------------------------------------------------------------------------------- confounding


def test_a_value_of_one_class_alone_is_found() -> None:
    labels = ["A"] * 30 + ["B"] * 30
    values = ["big"] * 20 + ["small"] * 40
    groups = [f"g{i}" for i in range(60)]
    (found,) = confounding("size", values, labels, groups)
    assert (found.value, found.label, found.images, found.of_label, found.verdict) == ("big", "A", 20, 20, "accused")
    assert (found.groups, found.expected) == (20, 0.5)
    # 20 of 20 out of 60 with 30: a hypergeometric chance, times two values and two classes.
    assert found.p == pytest.approx(4 * math.comb(30, 20) / math.comb(60, 20))


def test_the_same_in_two_patients_is_possible_only() -> None:
    labels = ["A"] * 30 + ["B"] * 30
    values = ["big"] * 20 + ["small"] * 40
    groups = ["p1"] * 20 + ["p2"] * 10 + ["p3"] * 15 + ["p4"] * 15
    (found,) = confounding("size", values, labels, groups)
    assert (found.verdict, found.groups, found.p) == ("possible", 1, 1.0)


def test_a_group_counts_once_as_what_most_of_its_images_are_and_the_first_by_name_of_equals() -> None:
    rows = [(f"g{row // 4}", "A", "big" if row % 4 >= 2 else "small") for row in range(40)]
    rows += [(f"g{row // 4}", "B", "small") for row in range(40, 88)]
    groups, labels, values = (list(column) for column in zip(*rows, strict=True))
    (told,) = confounding("size", values, labels, groups)
    # Of 22 groups 10 lead with "big", which comes before "small", and all of them are A: times two values and two classes.
    assert (told.value, told.images, told.groups) == ("big", 20, 10)
    assert told.p == pytest.approx(4 / math.comb(22, 10))


def test_what_was_drawn_before_is_said() -> None:
    drawn = Drawn(0)
    looked = Measured(name="x", about="drawn", features=drawn.features)
    (found,) = probes([looked], drawn.labels, drawn.groups, drawn.folds, seed=0, permutations=99, drawn_from=1_000_000)
    assert found.method.endswith("; 192 of 1,000,000 images, drawn by lot")


@pytest.mark.parametrize(
    "values", [["x"] * 60, ["x", "y"] * 30, ["x"] * 4 + ["y"] * 56, ["x"] * 17 + ["y"] * 26 + ["x"] * 17]
)
def test_values_of_both_classes_rare_or_single_are_not_found(values: list[str]) -> None:
    labels = ["A"] * 30 + ["B"] * 30
    assert confounding("size", values, labels, [f"g{i}" for i in range(60)]) == ()
