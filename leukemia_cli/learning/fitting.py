"""Fitting a head on cached features: the same optimiser, schedule and stopping rule that fine-tuning uses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from leukemia_cli.domain import HeadChoice, undisturbed
from leukemia_cli.errors import MachineError
from leukemia_cli.learning.arrays import Features, Labels, Scores
from leukemia_cli.learning.network import Head
from leukemia_cli.learning.selectors import Rankings


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a network is fitted; every default is our choice, none is published with the paper."""

    epochs: int = 40
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 1e-2
    warmup_epochs: float = 2.0
    patience: int = 10
    """Epochs without a better validation score after which fitting stops."""
    label_smoothing: float = 0.05
    class_weights: bool = True
    clip_norm: float = 1.0
    accumulate: int = 1
    """Batches whose gradients are summed before a step (fine-tuning only)."""

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScore:
    """What one epoch came to; `balanced_accuracy` and `log_loss` are those of validation, None without one."""

    epoch: int
    train_loss: float
    balanced_accuracy: float | None
    log_loss: float | None
    lr: float

    def beats(self, best: EpochScore | None) -> bool:
        """Tell whether this epoch is to be kept rather than `best`: higher balanced accuracy, or equal and lower loss."""
        if best is None or self.balanced_accuracy is None or best.balanced_accuracy is None:
            return True
        if self.balanced_accuracy != best.balanced_accuracy:
            return self.balanced_accuracy > best.balanced_accuracy
        return (self.log_loss or 0.0) < (best.log_loss or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head at its best epoch, the epochs on the way, and its validation logits (n, C) if there was a validation part."""

    head: Head
    best_epoch: int
    epochs: tuple[EpochScore, ...]
    val_scores: Scores | None


def recall_mean(labels: Labels, predicted: Labels) -> float:
    """Give the mean recall over the classes that `labels` holds: balanced accuracy."""
    return float(np.mean([np.mean(predicted[labels == k] == k) for k in np.unique(labels)]))


def cross_entropy(labels: Labels, scores: Scores) -> float:
    """Give the mean negative log-likelihood of softmax(scores) (n, C)."""
    shifted = scores - scores.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]))


def class_weight(labels: Labels, class_count: int, *, balanced: bool) -> Tensor:
    """Give the loss weight of each class (C,): N / (classes present × count), or ones; 0 for an absent class."""
    counts = np.bincount(labels, minlength=class_count).astype(np.float64)
    if not balanced:
        return torch.ones(class_count)
    share = len(labels) / max(1, int(np.count_nonzero(counts)))
    weights = np.where(counts > 0, share / np.maximum(counts, 1), 0.0)
    return torch.from_numpy(weights).float()


def lr_at(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """Give the learning rate of one step: a linear rise over `warmup` steps, then half a cosine down to zero.

    Source: Loshchilov and Hutter 2017 (SGDR), one cycle.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: batches of vectors are too small to share, and threads that wait for each other cost more.

    It also makes a head's bits the same whatever number of cores was granted.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_loss(loss: float, epoch: int, step: int) -> None:
    """Raise MachineError for a loss that is not a number."""
    if not math.isfinite(loss):
        raise MachineError(
            f"the loss is {loss} at epoch {epoch}, step {step}: training has diverged",
            "Lower --lr, or use --precision fp32",
        )


def check_weights(state: Mapping[str, Tensor], epoch: int) -> None:
    """Raise MachineError for weights that are not numbers: the loss is looked at before a step, not after the last."""
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        check_loss(math.nan, epoch, 0)


def fit_head(
    features: Features,
    labels: Labels,
    choice: HeadChoice,
    settings: FitSettings,
    *,
    class_count: int,
    seed: int,
    validation: tuple[Features, Labels] | None,
    epochs: int | None = None,
) -> FittedHead:
    """Fit one head on features (N, V, D), with `validation` features (n, D), as `FittingSet.fit` does."""
    shared = FittingSet(features, labels, validation, balanced=settings.class_weights)
    return shared.fit(choice, settings, class_count=class_count, seed=seed, epochs=epochs)


class FittingSet:
    """Features (N, V, D) to fit heads on and (n, D) to validate by, standardised once for every head tried on them.

    `balanced` lets each class count alike in mean and spread too. Else zero lies in the midst of the larger class, and a
    head that weighs classes alike has to reach the middle between them by its biases alone, which move little.
    Several threads may fit on it at a time.
    """

    def __init__(
        self, features: Features, labels: Labels, validation: tuple[Features, Labels] | None, *, balanced: bool
    ) -> None:
        self._view_count, self._width = features.shape[1:]
        flat = features.reshape(-1, self._width)
        self._labels = labels
        self._rankings = Rankings(np.ascontiguousarray(features[:, 0]), labels)
        self._scaling = Head(HeadChoice(), self._width, 1, draws=torch.Generator())
        with one_thread(), torch.no_grad():
            counts = np.bincount(labels)
            weights = 1 / counts[np.repeat(labels, self._view_count)] if balanced else None
            self._scaling.fit_features(
                flat, np.arange(self._width), None if weights is None else weights / weights.sum()
            )
            self._inputs = self._scaling.standardise(torch.from_numpy(flat))
            self._held = None if validation is None else self._scaling.standardise(torch.from_numpy(validation[0]))
        self._held_labels = None if validation is None else validation[1]

    def _order(self, draws: torch.Generator, *, balanced: bool) -> Tensor:
        """Give the images (N,) of one epoch in random order; `balanced` draws as many of each class, N in all.

        A class is gone through whole before one of its images comes again. Weights in the loss would aim at the same, but
        the few images of a rare class then come in some batches and weigh in them as many.
        """
        count = len(self._labels)
        if not balanced:
            return torch.randperm(count, generator=draws)
        classes = [torch.from_numpy(np.flatnonzero(self._labels == label)) for label in np.unique(self._labels)]
        share = math.ceil(count / len(classes))
        drawn = []
        for places in classes:
            rounds = math.ceil(share / len(places))
            turns = [places[torch.randperm(len(places), generator=draws)] for _ in range(rounds)]
            drawn.append(torch.cat(turns)[:share])
        pool = torch.cat(drawn)
        return pool[torch.randperm(len(pool), generator=draws)][:count]

    def fit(
        self,
        choice: HeadChoice,
        settings: FitSettings,
        *,
        class_count: int,
        seed: int,
        epochs: int | None = None,
        pulse: Callable[[], None] = undisturbed,
    ) -> FittedHead:
        """Fit a head, each epoch on one random view of each image.

        With a validation part it stops early and keeps the best epoch; without, it runs `epochs` of the schedule's
        `settings.epochs` and keeps the last. The same arguments give the same head, bit for bit on one machine, whatever
        else runs beside it. `pulse` is called before each step, and what it raises ends the fit.
        """
        count = len(self._labels)
        last = settings.epochs if epochs is None else min(epochs, settings.epochs)
        with one_thread(), torch.no_grad():
            # Two streams, so that heads that differ in width or rate see the images in one order.
            draws, orders = (torch.Generator().manual_seed(seed) for _ in range(2))
            head = Head(choice, self._width, class_count, draws=draws).eval()
            if not choice.hidden:  # a convex problem: what a random start leaves in the weights is noise
                head.out.weight.zero_()
                head.out.bias.zero_()
            kept = torch.from_numpy(self._rankings.keep(choice.selected, choice.by))
            head.mean.copy_(self._scaling.mean)
            head.scale.copy_(self._scaling.scale)
            head.kept.copy_(kept)
            inputs, held = self._inputs, self._held
            if len(kept) < self._width:
                inputs, held = inputs[:, kept], None if held is None else held[:, kept]
            weight = class_weight(self._labels, class_count, balanced=False)
            targets = smooth_targets(weight, settings.label_smoothing)[torch.from_numpy(self._labels)]
            own_weight = weight[torch.from_numpy(self._labels)]
            descent = Descent(head, settings, draws)
            per_epoch = math.ceil(count / settings.batch_size)
            warmup = max(1, round(settings.warmup_epochs * per_epoch))
            best: EpochScore | None = None
            best_state: dict[str, Tensor] = {}
            best_scores: Scores | None = None
            history: list[EpochScore] = []
            for epoch in range(1, last + 1):
                order = self._order(orders, balanced=settings.class_weights)
                views = torch.randint(self._view_count, (count,), generator=orders)
                rows = order * self._view_count + views[order]
                truth, divisor = targets[order], own_weight[order]
                summed = 0.0
                rate = 0.0
                for step in range(per_epoch):
                    pulse()
                    batch = slice(step * settings.batch_size, (step + 1) * settings.batch_size)
                    rate = lr_at(
                        (epoch - 1) * per_epoch + step,
                        steps=settings.epochs * per_epoch,
                        warmup=warmup,
                        peak=settings.lr,
                    )
                    loss = descent.gradients(inputs.index_select(0, rows[batch]), truth[batch], divisor[batch].sum())
                    check_loss(loss, epoch, step)
                    descent.step(rate)
                    summed += loss * len(rows[batch])
                accuracy = held_loss = None
                scores: Scores | None = None
                if held is not None and self._held_labels is not None:
                    scores = head.classify(held).double().numpy()
                    accuracy = recall_mean(self._held_labels, scores.argmax(1))
                    held_loss = cross_entropy(self._held_labels, scores)
                score = EpochScore(
                    epoch=epoch, train_loss=summed / count, balanced_accuracy=accuracy, log_loss=held_loss, lr=rate
                )
                history.append(score)
                if score.beats(best):
                    best, best_scores = score, scores
                    if held is not None or epoch == last:
                        best_state = {name: value.clone() for name, value in head.state_dict().items()}
                elif best is not None and epoch - best.epoch >= settings.patience:
                    break
            check_weights(best_state, best.epoch if best else 0)
            head.load_state_dict(best_state, assign=True)
            return FittedHead(
                head=head, best_epoch=best.epoch if best else 0, epochs=tuple(history), val_scores=best_scores
            )


def smooth_targets(weight: Tensor, smoothing: float) -> Tensor:
    """Give the smoothed one-hot row of each class, weighted (C,) by column; (C, C).

    Source: torch.nn.CrossEntropyLoss with `weight` and `label_smoothing`, whose mean divides by the own classes' weights.
    """
    classes = len(weight)
    return ((1 - smoothing) * torch.eye(classes) + smoothing / classes) * weight


class Descent:
    """AdamW on a head's layers with clipped gradients, decay on matrices alone: what autograd and torch.optim would do.

    Written out because for vectors their cost per call exceeds that of the products themselves (measured: 2 to 5 ×). Values
    and gradients lie flat, so that clipping and a step each go over them once; the head's own tensors are views of them.
    """

    def __init__(self, head: Head, settings: FitSettings, draws: torch.Generator) -> None:
        self._settings, self._draws, self._rate = settings, draws, head.rate
        layers = [layer for layer in (*head.hidden, head.out) if isinstance(layer, nn.Linear)]
        parameters = [*(layer.weight for layer in layers), *(layer.bias for layer in layers)]
        values = torch.cat([p.detach().reshape(-1) for p in parameters])
        self._gradient = torch.zeros_like(values)
        sizes = [p.numel() for p in parameters]
        for parameter, part in zip(parameters, torch.split(values, sizes), strict=True):
            parameter.data = part.view(parameter.shape)
        parts = [g.view(p.shape) for p, g in zip(parameters, torch.split(self._gradient, sizes), strict=True)]
        self._layers = [(layer.weight.data, layer.bias.data) for layer in layers]
        self._parts = list(zip(parts[: len(layers)], parts[len(layers) :], strict=True))
        matrices = sum(sizes[: len(layers)])
        self._groups = tuple(
            (value, gradient, torch.zeros_like(value), torch.zeros_like(value), torch.tensor(0.0), decay)
            for value, gradient, decay in zip(
                torch.split(values, [matrices, len(values) - matrices]),
                torch.split(self._gradient, [matrices, len(values) - matrices]),
                (settings.weight_decay, 0.0),
                strict=True,
            )
        )

    def gradients(self, x: Tensor, targets: Tensor, divisor: Tensor) -> float:
        """Give the loss −Σ targets · log softmax / divisor of a batch x (B, K), targets (B, C), and keep its gradients.

        `x` is overwritten where dropout strikes it.
        """
        *hidden, (out_weight, out_bias) = self._layers
        seen = [x if hidden else self._dropped(x)]
        for weight, bias in hidden:
            seen.append(self._dropped(torch.addmm(bias, seen[-1], weight.t()).relu_()))
        log_p = torch.log_softmax(torch.addmm(out_bias, seen[-1], out_weight.t()), 1)
        error = (log_p.exp() * targets.sum(1, keepdim=True) - targets) / divisor
        for layer in reversed(range(len(self._layers))):
            into_weight, into_bias = self._parts[layer]
            torch.mm(error.t(), seen[layer], out=into_weight)
            torch.sum(error, 0, out=into_bias)
            if layer > 0:
                error = (error @ self._layers[layer][0]).mul_(seen[layer] > 0).div_(1 - self._rate)
        return float(-(targets * log_p).sum() / divisor)

    def step(self, rate: float) -> None:
        """Clip the gradients kept last and move along them at learning rate `rate`."""
        shrink = self._settings.clip_norm / (float(torch.linalg.vector_norm(self._gradient)) + 1e-6)
        if shrink < 1:
            self._gradient.mul_(shrink)
        for values, gradient, mean, square, steps, decay in self._groups:
            adamw(
                [values],
                [gradient],
                [mean],
                [square],
                [],
                [steps],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )

    def _dropped(self, x: Tensor) -> Tensor:
        if self._rate == 0:
            return x
        return x.mul_(torch.rand(x.shape, generator=self._draws) >= self._rate).div_(1 - self._rate)
