"""The head that a recipe puts on the feature vector, and the network of backbone and head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukemia_cli.domain import HeadChoice
from leukemia_cli.learning.heads import MOST_SPREADS, FrozenHead


class Head(nn.Module):
    """Standardise → select → (linear, ReLU, dropout) for each hidden width → linear; (B, D) to (B, C) logits.

    Weights start as those of torch's linear layers do, drawn from `draws` (None: torch's own generator).
    """

    def __init__(
        self,
        choice: HeadChoice,
        feature_width: int,
        class_count: int,
        *,
        within: float = MOST_SPREADS,
        draws: torch.Generator | None = None,
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
        self.hidden = nn.ModuleList(_linear(a, b, draws) for a, b in itertools.pairwise(widths))
        self.out = _linear(widths[-1], class_count, draws)
        self.rate = choice.rate

    def fit_features(
        self, features: NDArray[np.float32], kept: NDArray[np.int64], weights: NDArray[np.float64] | None = None
    ) -> None:
        """Learn mean and spread from training features (N, D), and which of them to keep.

        With `weights` (N,), which sum to 1, each row counts as much as its own.
        """
        if weights is None:
            mean, spread = features.mean(0), features.std(0)
        else:
            mean = (weights @ features.astype(np.float64)).astype(np.float32)
            spread = np.sqrt(weights @ np.square(features - mean, dtype=np.float64))
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(1.0 / np.where(spread > 1e-6, spread, 1.0)))
        self.kept.copy_(torch.from_numpy(kept))

    def standardise(self, features: Tensor) -> Tensor:
        """Give the features the hidden layers see: (B, D) to (B, kept)."""
        scaled = ((features - self.mean) * self.scale).clamp(-self.within, self.within)
        return scaled if len(self.kept) == len(self.mean) else scaled[:, self.kept]

    def classify(self, standardised: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Give logits (B, C) from standardised features (B, kept), under dropout `masks` or ones that torch draws."""

        def dropped(x: Tensor, place: int) -> Tensor:
            return nn.functional.dropout(x, self.rate, self.training) if masks is None else x * masks[place].to(x)

        x = standardised if self.hidden else dropped(standardised, 0)
        for place, layer in enumerate(self.hidden):
            x = dropped(torch.relu(layer(x)), place)
        logits: Tensor = self.out(x)
        return logits

    def dropout_masks(self, count: int, draws: torch.Generator) -> list[Tensor]:
        """Draw what dropout multiplies by: (count, width) of 0 and 1 / (1 - rate), for each place where it strikes."""
        widths = [layer.out_features for layer in self.hidden if isinstance(layer, nn.Linear)] or [len(self.kept)]
        return [(torch.rand(count, width, generator=draws) >= self.rate) / (1 - self.rate) for width in widths]

    def forward(self, features: Tensor) -> Tensor:
        """Give logits (B, C) from raw features (B, D)."""
        return self.classify(self.standardise(features))

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give logits (N, C) of raw features (N, D) as `forward` does, in float64 and with no dropout."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        return FrozenHead.from_arrays(self.within, arrays).scores(features)


def _linear(inputs: int, outputs: int, draws: torch.Generator | None) -> nn.Linear:
    """Make a linear layer with values uniform within ±1/√inputs, as torch starts its own."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]  # untyped in torch
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for value in (layer.weight, layer.bias):
            value.uniform_(-bound, bound, generator=draws)
    return layer


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


def learns_from_batches(network: nn.Module) -> bool:
    """Tell whether a network has batch normalisation, whose statistics are those of whole batches while it trains."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict with `prefix` before every name, contiguous and on the CPU, ready to be stored."""
    return {f"{prefix}{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def unprefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `prefixed` for the names that begin with `prefix`."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
