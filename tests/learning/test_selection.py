"""Choices are made on held-out groups of training alone, each fit once, and never forgotten."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from leukemia_cli.catalog import GRIDS, SELECTOR_NAMES, VARIANTS, Variant, Wanted, candidates
from leukemia_cli.data.manifest import make_manifest, write_manifest
from leukemia_cli.domain import HeadChoice, Sample, SvmChoice
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.learning.fitting import FitSettings, FittingSet
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.selection import Diary, Holdout, choose, inner_holdouts, left_out
from leukemia_cli.learning.training import parts_of
from leukemia_cli.steps.train import train

LABELS = np.array([0, 1] * 10)
HOLDOUTS = (
    Holdout(fit=tuple(range(10)), score=tuple(range(10, 20))),
    Holdout(fit=tuple(range(10, 20)), score=tuple(range(10))),
)
CANDIDATES = [HeadChoice(hidden=(w,)) for w in (1, 2, 3, 4)]


class Planted:
    """Candidate 3 is right in 9 of 10, the others in 6; counts its fits."""

    def __init__(self, right: dict[int, float]) -> None:
        self.right, self.fits, self.prepared = right, 0, 0

    def __call__(self, holdout: Holdout):
        self.prepared += 1
        return lambda choice, pulse: self.fit(choice, holdout)

    def fit(self, choice: HeadChoice, holdout: Holdout):
        self.fits += 1
        truth = LABELS[list(holdout.score)]
        scores = np.eye(2)[truth] * 1.1 + 0.123456789012345 / 3
        wrong = round(len(truth) * (1 - self.right[choice.hidden[0]]))
        scores[:wrong] = scores[:wrong, ::-1]
        return scores, choice.hidden[0]


RIGHT = {1: 0.6, 2: 0.6, 3: 0.9, 4: 0.6}


def test_the_planted_best_is_kept_with_its_pooled_scores() -> None:
    fit = Planted(RIGHT)
    selection = choose(CANDIDATES, HOLDOUTS, LABELS, fit, diary=Diary(None), stage="s")
    assert selection.kept.choice.hidden == (3,) and fit.fits == 8 and fit.prepared == 2
    assert [t.choice for t in selection.trials] == CANDIDATES
    assert selection.kept.balanced_accuracy == pytest.approx(0.9) and selection.kept.epochs == 3
    assert selection.positions == (*range(10, 20), *range(10))
    truth = LABELS[list(selection.positions)]
    assert (selection.scores.argmax(1) == truth).mean() == pytest.approx(0.9)


def test_of_equals_the_lower_loss_then_the_earlier_is_kept() -> None:
    equal = dict.fromkeys(RIGHT, 0.8)
    kept = choose(CANDIDATES, HOLDOUTS, LABELS, Planted(equal), diary=Diary(None), stage="s").kept
    assert kept.choice == CANDIDATES[0]

    class Surer(Planted):
        def fit(self, choice: HeadChoice, holdout: Holdout):
            scores, epochs = super().fit(choice, holdout)
            wrong = scores.argmax(1) != LABELS[list(holdout.score)]
            if choice.hidden == (2,):
                scores[wrong] *= 0.1  # wrong with less confidence
            return scores, epochs

    kept = choose(CANDIDATES, HOLDOUTS, LABELS, Surer(equal), diary=Diary(None), stage="s").kept
    assert kept.choice == CANDIDATES[1]


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose([], HOLDOUTS, LABELS, Planted(RIGHT), diary=Diary(None), stage="s")


@pytest.mark.parametrize("after", [0, 1, 5, 8])
@pytest.mark.parametrize("torn", [False, True])
def test_what_the_diary_holds_is_not_fitted_again(after: int, torn: bool, tmp_path: Path) -> None:
    whole = choose(CANDIDATES, HOLDOUTS, LABELS, Planted(RIGHT), diary=Diary(None), stage="s")
    path = tmp_path / "deep" / "d.jsonl"

    class Stopping(Planted):
        def fit(self, choice: HeadChoice, holdout: Holdout):
            if self.fits == after:
                raise KeyboardInterrupt
            return super().fit(choice, holdout)

    first = Stopping(RIGHT)
    if after < 8:
        with pytest.raises(KeyboardInterrupt):
            choose(CANDIDATES, HOLDOUTS, LABELS, first, diary=Diary(path), stage="s")
    else:
        choose(CANDIDATES, HOLDOUTS, LABELS, first, diary=Diary(path), stage="s")
    lost = 0
    if torn and after:
        path.write_bytes(path.read_bytes()[:-7])
        lost = 1
    again = Planted(RIGHT)
    resumed = choose(CANDIDATES, HOLDOUTS, LABELS, again, diary=Diary(path), stage="s")
    assert again.fits == 8 - after + lost
    assert np.array_equal(resumed.scores, whole.scores) and resumed.trials == whole.trials
    third = Planted(RIGHT)
    choose(CANDIDATES, HOLDOUTS, LABELS, third, diary=Diary(path), stage="s")
    assert third.fits == 0, "an entry after a torn line is read"
    other = Planted(RIGHT)
    choose(CANDIDATES, HOLDOUTS, LABELS, other, diary=Diary(path), stage="another stage")
    assert other.fits == 8


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_choices_and_diary_do_not_depend_on_the_number_of_threads(workers: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 2, 6)).astype(np.float32) + LABELS[:, None, None].astype(np.float32)

    def prepare(holdout: Holdout):
        fit, held = list(holdout.fit), list(holdout.score)
        shared = FittingSet(features[fit], LABELS[fit], (features[held, 0], LABELS[held]), balanced=True)

        def one(choice: HeadChoice, pulse):
            done = shared.fit(choice, FitSettings(epochs=3, batch_size=4), class_count=2, seed=0, pulse=pulse)
            return done.val_scores, done.best_epoch

        return one

    heads = [HeadChoice(hidden=(w,), rate=r, selected=k) for w in (3, 5) for r in (0.0, 0.5) for k in (None, 2)]
    runs = []
    for count in (1, workers):
        path = tmp_path / f"{count}.jsonl"
        selection = choose(heads, HOLDOUTS, LABELS, prepare, diary=Diary(path), stage="s", workers=count)
        runs.append((selection.trials, selection.scores.tolist(), sorted(path.read_text().splitlines())))
    assert runs[0] == runs[1] and len(runs[0][2]) == 17


def test_an_interruption_stops_the_fits_in_other_threads(tmp_path: Path) -> None:
    started, ended = threading.Event(), threading.Event()

    def prepare(holdout: Holdout):
        def fit(choice: HeadChoice, pulse):
            if choice.hidden == (1,) and holdout == HOLDOUTS[0]:
                assert started.wait(60)
                raise KeyboardInterrupt
            started.set()
            try:
                while True:  # would never end by itself
                    pulse()
            finally:
                ended.set()

        return fit

    with pytest.raises(KeyboardInterrupt):
        choose(CANDIDATES, HOLDOUTS, LABELS, prepare, diary=Diary(tmp_path / "d"), stage="s", workers=2)
    assert ended.is_set() and not (tmp_path / "d").exists()


def test_a_fit_that_fails_in_a_thread_fails_the_choice() -> None:
    class Failing(Planted):
        def fit(self, choice: HeadChoice, holdout: Holdout):
            if choice.hidden == (3,):
                raise MachineError("diverged", "hint")
            return super().fit(choice, holdout)

    with pytest.raises(MachineError, match="diverged"):
        choose(CANDIDATES, HOLDOUTS, LABELS, Failing(RIGHT), diary=Diary(None), stage="s", workers=2)


# ------------------------------------------------------------------------------------------------------------ grids


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_candidate_has_a_title_of_its_own(variant: Variant, grid: str) -> None:
    tried = candidates(variant, grid, Wanted(selected=(None, 8), selectors=SELECTOR_NAMES))
    for listed in (candidates(variant, grid), tried):
        assert bool(listed.heads) == (variant.kind == "network") and bool(listed.svms) == (variant.kind == "svm")
        titles = [c.title for c in (*listed.heads, *listed.svms)]
        assert len(set(titles)) == len(titles) > 0
    assert SvmChoice(kernel="linear", gamma=1).title == SvmChoice(kernel="linear", gamma=2).title
    counts = [(c.selected, c.by) for c in (*tried.heads, *tried.svms)]
    assert set(counts) == {(None, "anova"), *((8, name) for name in SELECTOR_NAMES)}


def test_the_quick_grid_is_no_larger_and_keeps_what_makes_the_variants() -> None:
    for variant in VARIANTS.values():
        full, quick = candidates(variant), candidates(variant, "quick")
        assert len(quick.heads) <= len(full.heads) and len(quick.svms) <= len(full.svms)
    hidden = candidates(VARIANTS["hidden"], "quick").heads
    assert {len(h.hidden) for h in hidden} == {1, 2} and len({h.hidden[0] for h in hidden}) > 1
    dropout = candidates(VARIANTS["dropout"], "quick").heads
    assert len({h.selected for h in dropout}) > 1 and len({h.rate for h in dropout}) > 1
    assert all(h.by == "anova" for h in (*dropout, *VARIANTS["dropout"].heads))
    assert {s.kernel for s in candidates(VARIANTS["svm"], "quick").svms} == {"linear", "rbf"}


def test_flags_replace_a_grids_values_and_unknown_names_are_refused() -> None:
    variant = VARIANTS["dropout"]
    tried = candidates(variant, "quick", Wanted(selected=(16,), selectors=("l1", "trees"), rates=(0.3,)))
    assert {(h.selected, h.by, h.rate) for h in tried.heads} == {(16, "l1", 0.3), (16, "trees", 0.3)}
    assert {h.hidden for h in tried.heads} == {h.hidden for h in variant.quick_heads}
    with pytest.raises(UsageError, match=r"unknown grid 'quik'"):
        candidates(variant, "quik")
    with pytest.raises(UsageError, match=r"unknown selector 'anava'"):
        candidates(variant, "full", Wanted(selectors=("anava",)))
    for name in ("base", "svm", "hidden"):
        with pytest.raises(UsageError, match="keeps all features"):
            candidates(VARIANTS[name], "full", Wanted(selectors=("l1",)))


# --------------------------------------------------------------------------------------------------- inner holdouts


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(2, 5),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_holdouts_never_part_a_group_and_score_each_image_once(rows, most: int, seed: int) -> None:
    samples = [
        Sample(path=str(i), label=f"c{label}", group=f"{group}-{label}") for i, (group, label) in enumerate(rows)
    ]
    positions = [i for i in range(len(samples)) if i % 5]
    holdouts = inner_holdouts(samples, positions, most=most, seed=seed)
    groups_of: dict[str, set[str]] = {}
    for i in positions:
        groups_of.setdefault(samples[i].label, set()).add(samples[i].group)
    fewest = min(map(len, groups_of.values()), default=0)
    assert len(holdouts) == (0 if fewest < 2 else min(most, fewest))
    if holdouts:
        assert sorted(i for h in holdouts for i in h.score) == positions
    for holdout in holdouts:
        assert {*holdout.fit, *holdout.score} == set(positions) and not {*holdout.fit} & {*holdout.score}
        assert not {samples[i].group for i in holdout.fit} & {samples[i].group for i in holdout.score}
        assert {samples[i].label for i in holdout.fit} == set(groups_of)
    assert holdouts == inner_holdouts(samples, positions, most=most, seed=seed)


# --------------------------------------------------------------------------------------------------------- leakage


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return {f"{file.name}:{k}": v for file in sorted(folder.rglob("*.safetensors")) for k, v in load_file(file).items()}


@pytest.mark.parametrize("variant", ["base", "svm", "dropout"])
@pytest.mark.parametrize("tune", ["head", "last-stage"])
@pytest.mark.parametrize("folds", [None, 3])
def test_the_test_part_is_never_read(variant: str, tune: str, folds: int | None, tmp_path: Path, make_lab) -> None:
    trained = []
    for scrambled in (False, True):
        lab = make_lab(tmp_path / str(scrambled), folds=folds, groups=3, images=1)
        manifest = lab.manifest
        if scrambled:
            rows = []
            for sample in manifest.samples:
                if sample.split == "test" or sample.fold == 1:
                    Image.effect_noise((40, 40), 90).convert("RGB").save(sample.path)
                    Path(sample.path).write_bytes(Path(sample.path).read_bytes()[:50])
                    other = "HTL" if sample.label == "ALL" else "ALL"
                    rows.append(dataclasses.replace(sample, label=other, sha256="ab" * 32))
                else:
                    rows.append(sample)
            manifest = make_manifest(rows, task=manifest.task, seed=0, folds=folds, groups_source="given")
            write_manifest(lab.workspace, manifest, protocol="scrambled")
        settings_ = TrainSettings(
            backbone="timm:test_resnet", weights="none", variant=variant, tune=tune, input_size_px=64, epochs=2, views=2,
            batch_size=4, fold=1 if folds else None, device="cpu",
        )  # fmt: skip
        run = train(lab.workspace, manifest, settings_)
        trained.append((weights_of(run.folder), run.facts["members"], run.facts["validation"], run.facts["choices"]))
    (before, *facts), (after, *facts_after) = trained
    assert before.keys() == after.keys() and all(np.array_equal(v, after[k]) for k, v in before.items())
    assert facts == facts_after


def test_the_parts_of_a_member_leave_its_fold_out(tmp_path: Path, make_lab) -> None:
    manifest = make_lab(tmp_path, folds=4).manifest
    for fold in range(4):
        part = parts_of(manifest, fold)
        assert {manifest.samples[i].fold for i in part.train} == set(range(4)) - {fold}
        assert part.val == part.calib == ()


def test_groups_are_left_out_whole_whatever_their_class() -> None:
    of_groups = [
        ("ill-0", "ALL"),
        ("ill-0", "ALL"),
        ("ill-1", "ALL"),
        ("well", "HTL"),
        ("well", "HTL"),
        ("well", "HTL"),
    ]
    samples = [Sample(path=str(i), label=label, group=group) for i, (group, label) in enumerate(of_groups)]
    everything = range(len(samples))
    assert not inner_holdouts(samples, everything, most=4, seed=0), "a class of one group cannot be held out"
    held = left_out(samples, everything, most=4)
    assert len(held) == 3
    for each in held:
        assert sorted((*each.fit, *each.score)) == list(everything)
        assert not {samples[i].group for i in each.fit} & {samples[i].group for i in each.score}
    assert sorted(i for each in held for i in each.score) == list(everything)
    assert len(left_out(samples, everything, most=2)) == 2
    assert left_out(samples, range(2), most=4) == ()
