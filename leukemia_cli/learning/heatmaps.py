"""Where a view speaks for its class: a map over its pixels for every convolutional backbone and head, and a test of it.

Requirements met here:
- One law for all: HiResCAM (Draelos and Carin 2020), gradient × activation, of the log-odds of the calibrated class, for
  networks and support vector machines alike. On the last feature map of a mean pool it is Grad-CAM (Selvaraju et al.
  2017), and with a linear head it splits the log-odds exactly among the map's places.
- The map is finer than the last feature map: it is the sum of that one's and of the one before it, each over its
  strongest place, and, as a smear has no up, the mean over the eight flips and turns of the view. Both were chosen by
  `faithfulness` on real images (docs/how-to/heat-maps.md).
- It depends on its view alone, bit for bit, never on the batch; nothing of the classifier stays changed.
- It is not taken on trust: `faithfulness` hides and shows what it marks, beside random maps as smooth as it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from leukemia_cli.errors import UsageError
from leukemia_cli.learning.batches import Pixels, batched, stack, to_input
from leukemia_cli.learning.classifier import Classifier, Member
from leukemia_cli.learning.svm import Svm

Heat = NDArray[np.float32]

GRID = 14
"""Cells a side that are hidden or shown at once: half the stride of the usual last feature map. Our choice."""
STEPS = 8
RANDOM_MAPS = 3
_BATCH = 16
_BLUR = 1 / 16
"""Spread of the blur as a share of the view's side: nuclei lose their texture and outline, the field keeps its colour."""
_TURNS = tuple((flip, quarter) for flip in (False, True) for quarter in range(4))


def heatmap(classifier: Classifier, views: Sequence[Pixels], targets: Sequence[int] | None = None) -> Heat:
    """Give (n, S, S) in [0, 1]: how much each pixel's place speaks for its view's class, 1 at the most telling one.

    `targets` holds a class index for each of the n plain views (S, S, 3); None: the called class. A map is all 0 where
    nothing speaks for the class. Maps of members are added with their signs before what is negative is cut.
    Eight turns of one view run at a time, whatever n is.
    Raises UsageError for a backbone without a feature map (vision transformers) or with one of a single place, and for a
    run whose views do not show the image whole; ValueError for targets that do not fit.
    Source: Draelos and Carin 2020, arXiv 2011.08891, eq. 5.
    """
    size, remedies = classifier.preprocessing.input_size_px, classifier.preprocessing.remedies
    if remedies.tiles > 1 or remedies.red_cell_px is not None:
        flag = f"--tiles {remedies.tiles}" if remedies.tiles > 1 else "--resolution"
        raise UsageError(
            f"run {classifier.run} was trained with {flag}: no view shows the image whole, so there is no map of it",
            "Leave heat-maps out, or train without that flag",
        )
    if not views:
        return np.zeros((0, size, size), dtype=np.float32)
    called = _called(classifier, views) if targets is None else [int(target) for target in targets]
    classes = len(classifier.task.classes)
    if len(called) != len(views) or not all(0 <= target < classes for target in called):
        raise ValueError(f"targets {called} do not fit {len(views)} views and {classes} classes")
    with _evaluating(classifier):
        return np.stack([_map(classifier, view, target) for view, target in zip(views, called, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """Mean areas under the calibrated probability of the called class, as cells are hidden or shown in a map's order.

    Hidden is blurred. A map is faithful where `deletion` is lower and `insertion` higher than those of random maps.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    images: int


def faithfulness(
    classifier: Classifier, views: Sequence[Pixels], maps: Heat, *, steps: int = STEPS, seed: int = 0
) -> Faithfulness:
    """Measure maps (n, S, S) of n views for the class called, against the mean of random smooth maps.

    Each curve has `steps` + 1 points, from nothing to everything hidden or shown; cells of equal heat come in random
    order. Raises ValueError for maps that do not fit, no views, or fewer than 2 steps. Source: Petsiuk et al. 2018
    (RISE), section 4.2, with a blurred copy for both curves and cells of a 14 × 14 grid for pixels.
    """
    if steps < 2 or not views or maps.shape != (len(views), *views[0].shape[:2]):
        raise ValueError(f"maps {maps.shape} do not fit {len(views)} views, or {steps} steps are too few")
    own, random = [], []
    for i, (view, heat) in enumerate(zip(views, maps, strict=True)):
        rng = np.random.default_rng([seed, i])
        blurred = _blurred(view)
        ends = classifier.probabilities([view, blurred])
        target = int(ends[0].argmax())
        orders = [_order(_cells(heat), rng)]
        orders += [_order(_cells(_random_map(view.shape[0], rng)), rng) for _ in range(RANDOM_MAPS)]
        areas = [_areas(classifier, view, blurred, order, target, ends[:, target], steps) for order in orders]
        own.append(areas[0])
        random.append(np.mean(areas[1:], axis=0))
    deletion, insertion = np.mean(own, axis=0)
    random_deletion, random_insertion = np.mean(random, axis=0)
    return Faithfulness(
        deletion=float(deletion),
        insertion=float(insertion),
        random_deletion=float(random_deletion),
        random_insertion=float(random_insertion),
        images=len(views),
    )


# ------------------------------------------------------------------------------------------------------------- the map


def _called(classifier: Classifier, views: Sequence[Pixels]) -> list[int]:
    return [int(k) for batch in batched(views, _BATCH) for k in classifier.probabilities(batch).argmax(1)]


@contextlib.contextmanager
def _evaluating(classifier: Classifier) -> Iterator[None]:
    """Put every part into evaluation mode, and back into what it was."""
    modules = [classifier.backbone, *(part for m in classifier.members for part in (m.backbone, m.head))]
    training = [
        part for module in modules if isinstance(module, nn.Module) for part in module.modules() if part.training
    ]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def _map(classifier: Classifier, view: Pixels, target: int) -> Heat:
    turned = [np.ascontiguousarray(np.rot90(view[:, ::-1] if flip else view, quarter)) for flip, quarter in _TURNS]
    images = to_input(stack(turned, classifier.machine.device), classifier.preprocessing, classifier.machine.device)
    stages: list[Tensor] = []
    for backbone, members in _by_backbone(classifier):
        found = _signed(classifier, backbone, members, images, target)
        stages = [a + b for a, b in zip(stages, found, strict=True)] if stages else found
    total = np.zeros(view.shape[:2])
    for stage in stages:
        signed = _upright_mean(stage, view.shape[0])
        strongest = np.abs(signed).max()
        total += signed / strongest if strongest > 0 else signed
    positive = np.maximum(total, 0.0)
    most = positive.max()
    heat: Heat = (positive / most if most > 0 else positive).astype(np.float32)
    return heat


def _upright_mean(stage: Tensor, size: int) -> NDArray[np.float64]:
    """Stretch the maps of all turns to the view, turn them back and average; (8, h, w) to (S, S)."""
    wide = nn.functional.interpolate(stage[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    upright = [
        np.rot90(heat, -quarter)[:, ::-1] if flip else np.rot90(heat, -quarter)
        for (flip, quarter), heat in zip(_TURNS, wide.numpy(), strict=True)
    ]
    mean: NDArray[np.float64] = np.mean(upright, axis=0)
    return mean


def _by_backbone(classifier: Classifier) -> Iterator[tuple[nn.Module, list[Member]]]:
    """Yield each backbone with the members that look through it, so that a shared one runs once."""
    shared = [member for member in classifier.members if member.backbone is None]
    if shared and classifier.backbone is None:
        raise ValueError("a member without a backbone in a run without a shared one")
    if shared and classifier.backbone is not None:
        yield classifier.backbone, shared
    for member in classifier.members:
        if member.backbone is not None:
            yield member.backbone, [member]


def _signed(
    classifier: Classifier, backbone: nn.Module, members: Sequence[Member], images: Tensor, target: int
) -> list[Tensor]:
    """Give what each place of the last feature maps adds to the members' summed log-odds; (B, 3, S, S) to (B, h, w) each.

    The backbone runs without gradients up to the first of these maps, and they end in no parameter.
    """
    maps: list[Tensor] = []
    with torch.no_grad(), _tapped(_stage_before_last(backbone), maps):
        features = backbone.forward_features(images)  # type: ignore[operator]  # timm's, not nn.Module's
        _check_map(backbone, features, classifier.spec.name)
        torch.set_grad_enabled(True)  # until the block ends
        last = features if features.requires_grad else features.requires_grad_()
        pooled = backbone.forward_head(last.clone()).float().cpu()  # type: ignore[operator]  # the same
        odds = torch.stack([_log_odds(member, pooled, target).sum() for member in members]).sum()
        maps.append(last)
        slopes = torch.autograd.grad(odds, maps)
    products = [_channels_first(backbone, (slope * at).detach()) for slope, at in zip(slopes, maps, strict=True)]
    return [product.sum(1).cpu().double() for product in products]


def _stage_before_last(backbone: nn.Module) -> nn.Module | None:
    """Give the module that timm says makes the last feature map but one; None where it says nothing."""
    info = getattr(backbone, "feature_info", None) or []
    stages = info if isinstance(info, list) else list(info.info)
    try:
        return backbone.get_submodule(stages[-2]["module"])
    except (AttributeError, IndexError, KeyError):
        return None


@contextlib.contextmanager
def _tapped(stage: nn.Module | None, maps: list[Tensor]) -> Iterator[None]:
    """Append the stage's output to `maps`, if it is a map, and follow gradients from there on, not before."""

    def tap(module: nn.Module, given: object, out: object) -> Tensor | None:
        del module, given
        if not isinstance(out, Tensor) or out.dim() != 4 or maps:
            return None
        maps.append(out.detach().requires_grad_())
        torch.set_grad_enabled(True)
        return maps[0].clone()  # what follows may write in place

    hook = stage.register_forward_hook(tap) if stage is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _check_map(backbone: nn.Module, features: object, name: str) -> None:
    """Raise UsageError where a backbone's last features are no map, or one of a single place."""
    if not isinstance(features, Tensor) or features.dim() != 4:
        raise UsageError(
            f"backbone {name} has no feature map to make heat-maps of (it is no convolutional network)",
            "Leave heat-maps out, or train a convolutional backbone such as efficientnet-lite0",
        )
    if _channels_first(backbone, features).shape[2:].numel() == 1:
        raise UsageError(
            f"the feature map of {name} is a single place at this input size: a heat-map would be one colour",
            "Train with a larger --input-size",
        )


def _channels_first(backbone: nn.Module, features: Tensor) -> Tensor:
    """Give a map as (B, C, h, w); timm says of some networks, such as Swin, that theirs are (B, h, w, C)."""
    last = str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC"
    return features.permute(0, 3, 1, 2) if last else features


def _log_odds(member: Member, features: Tensor, target: int) -> Tensor:
    """Give the calibrated log-odds of a class against all others; (B, D) to (B,). Unlike its probability they never level off."""
    scores = _svm_scores(member.head, features) if isinstance(member.head, Svm) else member.network(features)
    scaled = scores.double() / member.temperature
    others = torch.cat([scaled[:, :target], scaled[:, target + 1 :]], dim=1)
    return scaled[:, target] - torch.logsumexp(others, dim=1)


def _svm_scores(svm: Svm, features: Tensor) -> Tensor:
    """Give `svm.scores` as torch can differentiate them; (B, D) to (B, C)."""
    mean, scale, vectors = (torch.from_numpy(array) for array in (svm.mean, svm.scale, svm.vectors))
    held = ((features.double() - mean) * scale).clamp(-svm.within, svm.within)
    x = held[:, torch.from_numpy(svm.kept)]
    intercepts = torch.from_numpy(svm.intercepts)
    if svm.kernel == "linear":
        raw = x @ vectors.T + intercepts
    else:
        squares = (x**2).sum(1)[:, None] + (vectors**2).sum(1)[None, :] - 2 * x @ vectors.T
        raw = torch.exp(-svm.gamma * squares.clamp(min=0.0)) @ torch.from_numpy(svm.coefficients).T + intercepts
    return torch.cat([-raw / 2, raw / 2], dim=1) if len(intercepts) == 1 else raw


# ------------------------------------------------------------------------------------------------------------ its test


def _blurred(view: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(view).filter(ImageFilter.GaussianBlur(view.shape[0] * _BLUR)))


def _random_map(size: int, rng: np.random.Generator) -> Heat:
    """Give noise on a 7 × 7 grid, stretched: as smooth as a map of the usual stride."""
    noise = Image.fromarray(rng.random((7, 7), dtype=np.float32))
    return np.asarray(noise.resize((size, size), Image.Resampling.BILINEAR))


def _cell_of(size: int) -> NDArray[np.int64]:
    """Give the row of cells in which each row of pixels lies; (S,)."""
    return np.arange(size) * GRID // size


def _cells(heat: Heat) -> NDArray[np.float64]:
    """Give the mean heat of each cell; (S, S) to (GRID²,)."""
    row = _cell_of(heat.shape[0])
    cell = (row[:, None] * GRID + row[None, :]).ravel()
    sums = np.bincount(cell, weights=heat.ravel(), minlength=GRID**2)
    means: NDArray[np.float64] = sums / np.maximum(np.bincount(cell, minlength=GRID**2), 1)
    return means


def _order(cells: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Give each cell's rank, hottest first, cells of equal heat in random order."""
    ranks = np.empty(len(cells), dtype=np.int64)
    ranks[np.lexsort((rng.random(len(cells)), -cells))] = np.arange(len(cells))
    return ranks


def _areas(
    classifier: Classifier,
    view: Pixels,
    blurred: Pixels,
    ranks: NDArray[np.int64],
    target: int,
    ends: NDArray[np.float64],
    steps: int,
) -> tuple[float, float]:
    """Give the areas of deletion and insertion; `ends` (2,) are the class's probabilities whole and blurred."""
    row = _cell_of(view.shape[0])
    rank = ranks.reshape(GRID, GRID)[row][:, row][..., None]
    changed = [rank < round(GRID**2 * step / steps) for step in range(1, steps)]
    pictures = [np.where(cells, blurred, view) for cells in changed] + [
        np.where(cells, view, blurred) for cells in changed
    ]
    between = np.concatenate([classifier.probabilities(batch)[:, target] for batch in batched(pictures, _BATCH)])
    deleted, inserted = between[: steps - 1], between[steps - 1 :]
    return (
        float(np.trapezoid([ends[0], *deleted, ends[1]]) / steps),
        float(np.trapezoid([ends[1], *inserted, ends[0]]) / steps),
    )
