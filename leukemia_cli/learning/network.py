"""The head that a recipe puts on the feature vector, and the network of backbone and head."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukemia_cli.domain import HeadChoice

MOST_SPREADS = 8.0
"""Standardised features are held within this many spreads: one that hardly varies in training can be hundreds away in a
patient who was not in it, and would drown all others. Our choice."""


class Head(nn.Module):
    """Standardise → select → (linear, ReLU, dropout) for each hidden width → linear; (B, D) to (B, C) logits."""

    def __init__(
        self, choice: HeadChoice, feature_width: int, class_count: int, *, within: float = MOST_SPREADS
    ) -> None:
        super().__init__()
        self.within = within
        kept = choice.selected or feature_width
        self.mean: Tensor
        self.scale: Tensor
        self.kept: Tensor
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("scale", torch.ones(feature_width))
        self.register_buffer("kept", torch.arange(kept))
        widths = (kept, *choice.hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], class_count)
        self.rate = choice.rate

    def fit_features(self, features: NDArray[np.float32], kept: NDArray[np.int64]) -> None:
        """Learn mean and spread from training features (N, D), and which of them to keep."""
        self.mean.copy_(torch.from_numpy(features.mean(0)))
        spread = features.std(0)
        self.scale.copy_(torch.from_numpy(1.0 / np.where(spread > 1e-6, spread, 1.0)))
        self.kept.copy_(torch.from_numpy(kept))

    def standardise(self, features: Tensor) -> Tensor:
        """Give the features the hidden layers see: (B, D) to (B, kept)."""
        scaled = ((features - self.mean) * self.scale)[:, self.kept]
        return scaled.clamp(-self.within, self.within)

    def classify(self, standardised: Tensor) -> Tensor:
        """Give logits (B, C) from standardised features (B, kept)."""
        x = nn.functional.dropout(standardised, self.rate, self.training) if not self.hidden else standardised
        for layer in self.hidden:
            x = nn.functional.dropout(torch.relu(layer(x)), self.rate, self.training)
        logits: Tensor = self.out(x)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Give logits (B, C) from raw features (B, D)."""
        return self.classify(self.standardise(features))

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give logits (N, C) of raw features (N, D) as `forward` does, in float64 and with no dropout.

        In single precision the sums of a batch depend, in their last digits, on how many images are in it.
        """
        value = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        wide = features.astype(np.float64)
        x = ((wide - value["mean"]) * value["scale"])[:, value["kept"]].clip(-self.within, self.within)
        for layer in range(len(self.hidden)):
            x = np.maximum(
                x @ value[f"hidden.{layer}.weight"].T.astype(np.float64) + value[f"hidden.{layer}.bias"], 0.0
            )
        logits: NDArray[np.float64] = x @ value["out.weight"].T.astype(np.float64) + value["out.bias"]
        return logits


class Network(nn.Module):
    """Backbone and head as one: (B, 3, S, S) to (B, C) logits."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Give logits (B, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def trained_parts(
    network: Network, last_stage: tuple[str, ...], *, everything: bool
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the backbone's parameters to train: all of them, or those whose names begin with a part of the last stage."""
    for name, parameter in network.backbone.named_parameters():
        if everything or any(name == part or name.startswith(f"{part}.") for part in last_stage):
            yield name, parameter


def hold_normalisation(network: nn.Module) -> None:
    """Keep batch normalisation at its stored statistics while the rest trains: small batches would spoil them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def anova_f(features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
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


def keep_best(features: NDArray[np.float32], labels: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """Give the indices, rising, of the `count` features with the highest F (None: of all)."""
    if count is None or count >= features.shape[1]:
        return np.arange(features.shape[1])
    return np.sort(np.argsort(-anova_f(features, labels), kind="stable")[:count])


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict with `prefix` before every name, contiguous and on the CPU, ready to be stored."""
    return {f"{prefix}{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def unprefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `prefixed` for the names that begin with `prefix`."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
