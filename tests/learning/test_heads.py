"""Heads and support vector machines on arrays, against scikit-learn and against themselves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_class_weight

from leukemia_cli.domain import HeadChoice, SvmChoice
from leukemia_cli.errors import MachineError
from leukemia_cli.learning import fitting
from leukemia_cli.learning.classifier import Member
from leukemia_cli.learning.finetuning import optimiser
from leukemia_cli.learning.fitting import (
    Descent,
    EpochScore,
    FitSettings,
    FittedHead,
    FittingSet,
    class_weight,
    cross_entropy,
    fit_head,
    lr_at,
    recall_mean,
    smooth_targets,
)
from leukemia_cli.learning.loading import restore_head
from leukemia_cli.learning.network import Head
from leukemia_cli.learning.svm import Kernels, Svm


def cloud(*, n: int = 60, width: int = 12, classes: int = 3, seed: int = 0, gap: float = 1.5):
    """Give features (n, width) of which the first `classes` tell the class, on scales that differ, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, width))
    x[np.arange(n), labels] += gap
    return (x * np.geomspace(0.1, 30, width) + np.arange(width)).astype(np.float32), labels.astype(np.int64)


# ------------------------------------------------------------------------------------------------------------- svm


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("cost", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_svm_scores_are_those_of_scikit_learn(kernel: str, cost: float, classes: int) -> None:
    x, y = cloud(classes=classes, gap=0.8)
    fresh, _ = cloud(classes=classes, seed=1)
    ours = Kernels(x[:, None], y).fit(SvmChoice(kernel=kernel, c=cost, gamma=0.3), classes)
    wide = x.astype(np.float64)
    mean, scale = wide.mean(0), wide.std(0)
    scores = ours.scores(fresh)
    assert scores.shape == (60, classes)
    for k in range(1 if classes == 2 else classes):
        target = y == (1 if classes == 2 else k)
        svc = SVC(kernel=kernel, C=cost, gamma=0.3 / 12, class_weight="balanced").fit((wide - mean) / scale, target)
        theirs = svc.decision_function((fresh - mean) / scale)
        got = scores[:, 1] - scores[:, 0] if classes == 2 else scores[:, k]
        assert np.allclose(got, theirs, atol=2e-3 * max(1, np.abs(theirs).max()))
        assert (np.sign(got) == np.sign(theirs)).mean() > 0.98
    if classes == 2:
        assert np.allclose(scores.sum(1), 0)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("selected", [None, 5])
def test_a_stored_svm_gives_the_same_bits(kernel: str, classes: int, selected: int | None) -> None:
    x, y = cloud(classes=classes)
    svm = Kernels(x[:, None], y).fit(SvmChoice(kernel=kernel, selected=selected), classes)
    member = Member(fold=None, head=svm, temperature=1.25, calibrated_on=None, backbone=None)
    stored = load(save(member.tensors()))
    facts = json.loads(json.dumps(member.as_json()))
    again = restore_head(facts, stored, feature_width=12, class_count=classes)
    assert isinstance(again, Svm) and np.array_equal(again.scores(x), svm.scores(x))
    with pytest.raises(KeyError):
        Svm.from_arrays(kernel, 0.0, 8.0, {k: v.numpy() for k, v in stored.items() if k != "mean"})


def test_a_class_that_training_lacks_never_wins() -> None:
    x, y = cloud(classes=2)
    scores = Kernels(x[:, None], y).fit(SvmChoice(), 3).scores(x)
    assert (scores[:, 2] == -1).all() and recall_mean(y, scores.argmax(1)) > 0.9


def test_kernels_are_shared_without_changing_a_fit() -> None:
    x, y = cloud()
    shared = Kernels(x[:, None], y)
    choices = [SvmChoice(selected=s, kernel=k, c=c) for s in (None, 5) for k in ("linear", "rbf") for c in (0.1, 1.0)]
    for choice in choices:
        assert np.array_equal(shared.fit(choice, 3).scores(x), Kernels(x[:, None], y).fit(choice, 3).scores(x))


# ------------------------------------------------------------------------------------------------------------- head

QUICK = FitSettings(epochs=8, batch_size=16)


def fitted(
    choice: HeadChoice | None = None, fit: FitSettings = QUICK, *, seed: int = 0, held: bool = True, **kw
) -> FittedHead:
    x, y = cloud()
    views = np.stack([x, x + 0.01], axis=1)
    return fit_head(
        views,
        y,
        choice or HeadChoice(),
        fit,
        class_count=3,
        seed=seed,
        validation=cloud(seed=1) if held else None,
        **kw,
    )


HEADS = [HeadChoice(), HeadChoice(rate=0.5), HeadChoice(selected=5, hidden=(8, 4), rate=0.2)]


@pytest.mark.parametrize("choice", HEADS, ids=lambda c: c.title)
def test_one_seed_gives_one_head_and_another_another(choice: HeadChoice) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = fitted(choice), fitted(choice), fitted(choice, seed=1)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are left alone"
    state = first.head.state_dict()
    assert all(torch.equal(v, again.head.state_dict()[k]) for k, v in state.items())
    assert first.epochs == again.epochs
    assert not torch.equal(state["out.weight"], other.head.state_dict()["out.weight"])
    assert not first.head.training


@pytest.mark.parametrize("choice", HEADS, ids=lambda c: c.title)
def test_a_stored_head_gives_the_same_bits(choice: HeadChoice) -> None:
    head = fitted(choice).head
    x, _ = cloud(seed=3)
    member = Member(fold=2, head=head, temperature=0.7, calibrated_on="x", backbone=None)
    again = restore_head(
        json.loads(json.dumps(member.as_json())), load(save(member.tensors())), feature_width=12, class_count=3
    )  # fmt: skip
    assert isinstance(again, Head)
    assert np.array_equal(dataclasses.replace(member, head=again).probabilities(x), member.probabilities(x))
    assert np.allclose(member.probabilities(x).sum(1), 1)


@pytest.mark.parametrize("choice", [*HEADS, HeadChoice(hidden=(8, 6, 4))], ids=lambda c: c.title)
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_a_descent_is_autograd_and_torchs_adamw(choice: HeadChoice, clip: float) -> None:
    fit = FitSettings(weight_decay=0.3, clip_norm=clip, label_smoothing=0.1)
    ours, theirs = (Head(choice, 12, 3, draws=torch.Generator().manual_seed(5)) for _ in range(2))
    weight = torch.tensor([0.5, 0.0, 2.0])
    loss_of = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
    adam = optimiser(theirs.parameters(), fit)
    descent, masks = (torch.Generator().manual_seed(9) for _ in range(2))
    down = Descent(ours, fit, descent)

    def dropped(x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(x.shape, generator=masks) >= choice.rate) / (1 - choice.rate) if choice.rate else x

    for step in range(4):
        random = torch.Generator().manual_seed(step)
        x, y = torch.randn(7, len(ours.kept), generator=random), torch.tensor([0, 2, 2, 0, 0, 2, 0])
        seen = x if choice.hidden else dropped(x)
        for layer in theirs.hidden:
            seen = dropped(torch.relu(layer(seen)))
        loss = loss_of(theirs.out(seen), y)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for group in adam.param_groups:
            group["lr"] = 0.01 * (step + 1)
        adam.step()
        with torch.no_grad():
            got = down.gradients(x.clone(), smooth_targets(weight, 0.1)[y], weight[y].sum())
            down.step(0.01 * (step + 1))
        assert got == pytest.approx(loss.item(), rel=1e-5)
        for name, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[name], value, atol=1e-5), (step, name)


@pytest.mark.parametrize("choice", HEADS, ids=lambda c: c.title)
def test_fits_side_by_side_are_those_of_fits_alone(choice: HeadChoice) -> None:
    x, y = cloud()
    views = np.stack([x, x + 0.01], axis=1)
    shared = FittingSet(views, y, cloud(seed=1), balanced=True)

    def one(seed: int) -> dict[str, torch.Tensor]:
        return shared.fit(choice, QUICK, class_count=3, seed=seed).head.state_dict()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(one, range(8)))
    for seed, state in enumerate(together):
        alone = fitted(choice, seed=seed).head.state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in state.items())


def test_a_fit_ends_where_its_pulse_raises() -> None:
    x, y = cloud()
    beats = []

    def pulse() -> None:
        beats.append(1)
        if len(beats) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FittingSet(x[:, None], y, None, balanced=True).fit(HeadChoice(), QUICK, class_count=3, seed=0, pulse=pulse)
    beats.clear()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(9):
            Kernels(x[:, None], y).fit(SvmChoice(), 3, pulse)
    assert len(beats) == 6


def test_the_linear_head_learns_what_logistic_regression_learns() -> None:
    fit = FitSettings(epochs=60, lr=0.02, patience=60, weight_decay=0.0, label_smoothing=0.0)
    x, y = cloud(seed=4, n=150)
    head = fitted(fit=fit).head
    with torch.inference_mode():
        ours = head(torch.from_numpy(x)).argmax(1).numpy()
    train_x, train_y = cloud()
    theirs = LogisticRegression(max_iter=500).fit((train_x - train_x.mean(0)) / train_x.std(0), train_y)
    expected = balanced_accuracy_score(y, theirs.predict((x - train_x.mean(0)) / train_x.std(0)))
    assert balanced_accuracy_score(y, ours) > expected - 0.08 > 0.4


def test_fitting_stops_early_and_keeps_the_best_epoch() -> None:
    fit = FitSettings(epochs=200, batch_size=16, lr=0.05, patience=4)
    done = fitted(fit=fit)
    assert len(done.epochs) == done.best_epoch + 4 < 200
    best = max(done.epochs, key=lambda e: (e.balanced_accuracy, -e.log_loss))
    assert best.epoch == done.best_epoch
    x, y = cloud(seed=1)
    with torch.inference_mode():
        scores = done.head(torch.from_numpy(x)).double().numpy()
    assert np.allclose(scores, done.val_scores)
    assert recall_mean(y, scores.argmax(1)) == best.balanced_accuracy


def test_without_validation_it_runs_the_epochs_told_of_the_same_schedule() -> None:
    done = fitted(held=False, epochs=5)
    assert done.best_epoch == len(done.epochs) == 5 and done.val_scores is None
    assert [e.lr for e in done.epochs] == [e.lr for e in fitted(held=False).epochs[:5]]
    assert len(fitted(held=False, epochs=99).epochs) == QUICK.epochs


def test_a_loss_that_is_no_number_stops_the_fit() -> None:
    with pytest.raises(MachineError, match="diverged") as caught:
        fitted(fit=FitSettings(epochs=4, lr=1e37), held=False)
    assert caught.value.exit_code == 5 and "--lr" in caught.value.hint


def test_weights_that_the_last_step_spoilt_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    step = fitting.adamw

    def spoil(values: list[torch.Tensor], *args: object, **knobs: object) -> None:
        step(values, *args, **knobs)
        values[0][-1] = torch.nan

    monkeypatch.setattr(fitting, "adamw", spoil)
    with pytest.raises(MachineError, match="diverged"):
        fitted(fit=FitSettings(epochs=1, batch_size=99), held=False)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_features_without_bounds_stop_the_fit() -> None:
    x, y = cloud()
    x[3, 2] = np.inf
    with pytest.raises(MachineError, match=r"the loss is nan at epoch 1, step 0"):
        fit_head(x[:, None], y, HeadChoice(), QUICK, class_count=3, seed=0, validation=None)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [lr_at(i, steps=100, warmup=10, peak=2.0) for i in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == 2.0 and np.argmax(rates) in (9, 10)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:])) and 0 < rates[-1] < 0.01
    assert rates[55] == pytest.approx(1.0)
    assert lr_at(0, steps=1, warmup=1, peak=2.0) == 2.0 and lr_at(5, steps=5, warmup=5, peak=2.0) == 2.0


def test_class_weights_are_scikit_learns_balanced_ones() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(class_weight(labels, 3, balanced=True), theirs)
    assert class_weight(labels, 3, balanced=False).tolist() == [1, 1, 1]
    assert class_weight(np.array([0, 2, 2]), 3, balanced=True).tolist() == [1.5, 0, 0.75]


def test_only_matrices_decay() -> None:
    groups = optimiser(Head(HeadChoice(hidden=(4,)), 6, 2).parameters(), FitSettings(weight_decay=0.3)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.3), (2, 0.0)]


def test_validation_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, scores = rng.integers(3, size=50), rng.normal(size=(50, 3)) * 5
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert cross_entropy(y, scores) == pytest.approx(log_loss(y, p))
    assert recall_mean(y, scores.argmax(1)) == pytest.approx(balanced_accuracy_score(y, scores.argmax(1)))
    assert math.isfinite(cross_entropy(y, scores * 1e6))


def test_a_better_epoch_has_higher_accuracy_or_equal_and_lower_loss() -> None:
    def score(accuracy: float | None, loss: float | None) -> EpochScore:
        return EpochScore(epoch=1, train_loss=0, balanced_accuracy=accuracy, log_loss=loss, lr=0)

    assert score(0.5, 9).beats(None) and score(None, None).beats(score(None, None))
    assert score(0.6, 9).beats(score(0.5, 1)) and not score(0.4, 0.1).beats(score(0.5, 1))
    assert score(0.5, 0.9).beats(score(0.5, 1)) and not score(0.5, 1).beats(score(0.5, 1))
