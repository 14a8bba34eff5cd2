"""What a user may set about training, and the candidates and plan that follow from it: for train, compare and their like."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from leukemia_cli.catalog import GRIDS, Wanted, candidates, find_variant, unknown
from leukemia_cli.domain import NO_REMEDIES, BackgroundChoice, Fit, Remedies, Tune, Unit
from leukemia_cli.errors import UsageError
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.doubt import DoubtSettings
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.machine import Machine, Precision, choose_precision
from leukemia_cli.learning.training import Recipe, TrainPlan
from leukemia_cli.learning.weights import LoadedBackbone
from leukemia_cli.vision.remedies import targeted

HEAD_FIT = FitSettings()
FINE_TUNE_FIT = FitSettings(epochs=15, batch_size=16, lr=1e-4, warmup_epochs=1.0, patience=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What a user may set; None means the default that belongs to the variant or to `tune`. All defaults are ours."""

    backbone: str = "senet"
    variant: str = "dropout"
    grid: str = "full"
    name: str | None = None
    fold: int | Literal["all"] | None = None
    tune: Tune = "head"
    weights: str = "auto"
    feature_sizes: tuple[tuple[int, ...], ...] | None = None
    dropout_rates: tuple[float, ...] | None = None
    selected: tuple[int | None, ...] | None = None
    selectors: tuple[str, ...] | None = None
    kernels: tuple[Literal["linear", "rbf"], ...] | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    patience: int | None = None
    label_smoothing: float | None = None
    class_weights: bool = True
    accumulate: int = 1
    clip_norm: float | None = None
    views: int = 4
    augment: bool = True
    precision: Precision = "auto"
    fit: Fit = "squash"
    input_size_px: int | None = None
    remedies: Remedies = NO_REMEDIES
    background: BackgroundChoice = "auto"
    stain_jitter: float | None = None
    max_megapixels: float = 200.0
    checkpoint_every_s: float = 300.0
    false_alarm: float = 0.05
    risk: float = 0.05
    alpha: float = 0.1
    least_cells: int = 3
    device: str = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise unknown("grid", self.grid, GRIDS)
        DoubtSettings(false_alarm=self.false_alarm, risk=self.risk, alpha=self.alpha, least_cells=self.least_cells)
        for flag, number in (
            ("--weight-decay", self.weight_decay),
            ("--warmup-epochs", self.warmup_epochs),
            ("--clip-norm", self.clip_norm),
            ("--checkpoint-every", self.checkpoint_every_s),
            ("--stain-jitter", self.stain_jitter),
            ("--max-megapixels", self.max_megapixels),
        ):
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise UsageError(f"{flag} {number} is no number from 0 up", "Leave it out to take the default")
        for flag, value, least in (
            ("--epochs", self.epochs, 1),
            ("--batch-size", self.batch_size, 1),
            ("--patience", self.patience, 1),
            ("--accumulate", self.accumulate, 1),
            ("--views", self.views, 1),
            ("--workers", self.workers, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{flag} {value} is too small", f"Use at least {least}")
        if self.lr is not None and not 0 < self.lr <= 1000:
            raise UsageError(f"--lr {self.lr} is not above 0 and at most 1000", "Try 0.0001")
        if self.tune == "head" and (self.accumulate != 1 or self.precision not in ("auto", "fp32")):
            flag = "--accumulate" if self.accumulate != 1 else "--precision"
            raise UsageError(
                f"{flag} means nothing to --tune head", "Leave it out, or fine-tune with --tune last-stage or all"
            )
        if self.tune != "head" and self.remedies.tiles > 1:
            raise UsageError(
                f"--tiles {self.remedies.tiles} does not go with --tune {self.tune}",
                "Tiles are averaged as features of a frozen backbone: use --tune head, or leave --tiles out",
            )
        if self.stain_jitter is not None and not (self.augment and (self.views > 1 or self.tune != "head")):
            flag = "--views 1" if self.augment else "--no-augment"
            raise UsageError(f"--stain-jitter means nothing with {flag}", "Leave one of them out")
        for rate in self.dropout_rates or ():
            if not 0 <= rate < 1:
                raise UsageError(f"dropout rate {rate} is not in [0, 1)", "Write rates as in --dropout-rates 0.2,0.5")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing {self.label_smoothing} is not in [0, 1)", "Try 0.05")


def settled(remedies: Remedies, background: BackgroundChoice, unit: Unit) -> Remedies:
    """Give remedies with nothing left open: `auto` masks the background of cells, and colours have their target."""
    if background == "auto":
        background = "mask" if unit == "cell" else "keep"
    if remedies.decode == "scaled" and (unit == "cell" or background == "mask"):
        raise UsageError("--decode scaled is of no use for cells", "They are found and cut at full size: leave it out")
    return targeted(replace(remedies, background=background))


def with_remedies(loaded: LoadedBackbone, remedies: Remedies) -> LoadedBackbone:
    """Give the same backbone with remedies in its preprocessing, from where every command takes them."""
    return replace(loaded, preprocessing=replace(loaded.preprocessing, remedies=targeted(remedies)))


def augmentation_of(stain_jitter: float | None) -> Augmentation:
    """Give the augmentation with another spread of stain; None means the default."""
    return Augmentation() if stain_jitter is None else Augmentation(stain=stain_jitter)


def recipe_of(settings: TrainSettings) -> Recipe:
    """Turn variant and flags into candidates; raises UsageError for a flag that means nothing to the variant."""
    variant = find_variant(settings.variant)
    given = {
        "hidden": ("--feature-sizes", settings.feature_sizes),
        "rates": ("--dropout-rates", settings.dropout_rates),
        "selected": ("--select", settings.selected),
        "kernels": ("--kernel", settings.kernels),
    }
    for knob, (flag, value) in given.items():
        if value is not None and knob not in variant.knobs:
            takes = [given[k][0] for k in variant.knobs]
            raise UsageError(
                f"{flag} means nothing to --variant {variant.name}",
                f"It takes {', '.join(takes)}" if takes else "Leave it out, or choose --variant hidden or dropout",
            )
    tried = candidates(
        variant,
        settings.grid,
        Wanted(
            selected=settings.selected,
            selectors=settings.selectors,
            hidden=settings.feature_sizes,
            rates=settings.dropout_rates,
            kernels=settings.kernels,
        ),
    )
    return Recipe(variant=variant.name, heads=tried.heads, svms=tried.svms, tune=settings.tune)


def plan_of(settings: TrainSettings, machine: Machine) -> TrainPlan:
    """Fill in the defaults that depend on how far the backbone is tuned."""
    own = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "warmup_epochs": settings.warmup_epochs,
        "patience": settings.patience,
        "label_smoothing": settings.label_smoothing,
        "clip_norm": settings.clip_norm,
    }
    given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    shared: dict[str, Any] = {"class_weights": settings.class_weights}
    of_heads = replace(HEAD_FIT, patience=GRIDS[settings.grid].patience)
    if settings.tune == "head":
        fit = replace(of_heads, **given, **shared)
        head_fit = fit
    else:
        fit = replace(FINE_TUNE_FIT, **given, **shared, accumulate=settings.accumulate)
        head_fit = replace(of_heads, label_smoothing=fit.label_smoothing, **shared)
    return TrainPlan(
        fit=fit,
        head_fit=head_fit,
        augmentation=augmentation_of(settings.stain_jitter) if settings.augment else None,
        views=settings.views if settings.augment else 1,
        precision=choose_precision(settings.precision, machine.device) if settings.tune != "head" else "fp32",
        checkpoint_every_s=settings.checkpoint_every_s,
        max_megapixels=settings.max_megapixels,
        seed=settings.seed,
        doubt=DoubtSettings(
            false_alarm=settings.false_alarm,
            risk=settings.risk,
            alpha=settings.alpha,
            least_cells=settings.least_cells,
        ),
    )
