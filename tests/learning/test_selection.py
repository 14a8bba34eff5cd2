"""Choices are made on held-out groups of training alone, each fit once, and never forgotten."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from leukemia_cli.data.manifest import make_manifest, write_manifest
from leukemia_cli.domain import HeadChoice, Sample, SvmChoice
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.selection import Diary, Holdout, choose, inner_holdouts
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
        self.right, self.fits = right, 0

    def __call__(self, choice: HeadChoice, holdout: Holdout):
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
    assert selection.kept.choice.hidden == (3,) and fit.fits == 8
    assert [t.choice for t in selection.trials] == CANDIDATES
    assert selection.kept.balanced_accuracy == pytest.approx(0.9) and selection.kept.epochs == 3
    assert selection.positions == (*range(10, 20), *range(10))
    truth = LABELS[list(selection.positions)]
    assert (selection.scores.argmax(1) == truth).mean() == pytest.approx(0.9)


def test_of_equals_the_lower_loss_then_the_earlier_is_kept() -> None:
    equal = dict.fromkeys(RIGHT, 0.8)
    kept = choose(CANDIDATES, HOLDOUTS, LABELS, Planted(equal), diary=Diary(None), stage="s").kept
    assert kept.choice == CANDIDATES[0]

    def surer(choice: HeadChoice, holdout: Holdout):
        scores, epochs = Planted(equal)(choice, holdout)
        wrong = scores.argmax(1) != LABELS[list(holdout.score)]
        if choice.hidden == (2,):
            scores[wrong] *= 0.1  # wrong with less confidence
        return scores, epochs

    assert choose(CANDIDATES, HOLDOUTS, LABELS, surer, diary=Diary(None), stage="s").kept.choice == CANDIDATES[1]


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose([], HOLDOUTS, LABELS, Planted(RIGHT), diary=Diary(None), stage="s")


@pytest.mark.parametrize("after", [0, 1, 5, 8])
@pytest.mark.parametrize("torn", [False, True])
def test_what_the_diary_holds_is_not_fitted_again(after: int, torn: bool, tmp_path: Path) -> None:
    whole = choose(CANDIDATES, HOLDOUTS, LABELS, Planted(RIGHT), diary=Diary(None), stage="s")
    path = tmp_path / "deep" / "d.jsonl"

    class Stopping(Planted):
        def __call__(self, choice: HeadChoice, holdout: Holdout):
            if self.fits == after:
                raise KeyboardInterrupt
            return super().__call__(choice, holdout)

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


def test_every_candidate_has_a_title_of_its_own() -> None:
    from leukemia_cli.catalog import VARIANTS

    for variant in VARIANTS.values():
        titles = [c.title for c in (*variant.heads, *variant.svms)]
        assert len(set(titles)) == len(titles) > 0
    assert SvmChoice(kernel="linear", gamma=1).title == SvmChoice(kernel="linear", gamma=2).title


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
