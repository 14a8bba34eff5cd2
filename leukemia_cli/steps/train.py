"""`leuk train`: a manifest and a recipe become a run that evaluate and classify can use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leukemia_cli.catalog import Variant, find_variant, heads, svms
from leukemia_cli.domain import Fit, HeadChoice, Manifest, Note, SvmChoice, Track, Tune, silent, unheard
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.machine import Machine, Precision, choose_machine, choose_precision
from leukemia_cli.learning.runs import CHECKPOINT_FOLDER, FinishedRun, finish_run
from leukemia_cli.learning.training import Recipe, Trainer, TrainPlan, within
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.workspace import (
    SCHEMA_VERSION,
    RunFolder,
    Workspace,
    clear_unfinished,
    find_run,
    new_run_folder,
    now,
)

HEAD_FIT = FitSettings()
FINE_TUNE_FIT = FitSettings(epochs=15, batch_size=16, lr=1e-4, warmup_epochs=1.0, patience=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What a user may set; None means the default that belongs to the variant or to `tune`. All defaults are ours."""

    backbone: str = "senet"
    variant: str = "dropout"
    name: str | None = None
    fold: int | Literal["all"] | None = None
    tune: Tune = "head"
    weights: str = "auto"
    feature_sizes: tuple[tuple[int, ...], ...] | None = None
    dropout_rates: tuple[float, ...] | None = None
    selected: tuple[int | None, ...] | None = None
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
    max_megapixels: float = 200.0
    checkpoint_every_s: float = 300.0
    device: str = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
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
            raise UsageError(
                f"--lr {self.lr} is not above 0 and at most 1000", "Try 0.001 with --tune head, 0.0001 otherwise"
            )
        if self.tune == "head" and (self.accumulate != 1 or self.precision not in ("auto", "fp32")):
            flag = "--accumulate" if self.accumulate != 1 else "--precision"
            raise UsageError(
                f"{flag} means nothing to --tune head", "Leave it out, or fine-tune with --tune last-stage or all"
            )
        for rate in self.dropout_rates or ():
            if not 0 <= rate < 1:
                raise UsageError(f"dropout rate {rate} is not in [0, 1)", "Write rates as in --dropout-rates 0.2,0.5")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing {self.label_smoothing} is not in [0, 1)", "Try 0.05")


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
    return Recipe(
        variant=variant.name, heads=_heads(variant, settings), svms=_svms(variant, settings), tune=settings.tune
    )


def _heads(variant: Variant, settings: TrainSettings) -> tuple[HeadChoice, ...]:
    if variant.kind != "network":
        return ()
    return heads(
        selected=settings.selected or dict.fromkeys(h.selected for h in variant.heads),
        hidden=settings.feature_sizes or dict.fromkeys(h.hidden for h in variant.heads),
        rates=settings.dropout_rates or dict.fromkeys(h.rate for h in variant.heads),
    )


def _svms(variant: Variant, settings: TrainSettings) -> tuple[SvmChoice, ...]:
    if variant.kind != "svm":
        return ()
    return svms(
        selected=settings.selected or dict.fromkeys(s.selected for s in variant.svms),
        kernels=settings.kernels or dict.fromkeys(s.kernel for s in variant.svms),
        costs=dict.fromkeys(s.c for s in variant.svms),
        gammas=dict.fromkeys(s.gamma for s in variant.svms),
    )


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
    if settings.tune == "head":
        fit = replace(HEAD_FIT, **given, **shared)
        head_fit = fit
    else:
        fit = replace(FINE_TUNE_FIT, **given, **shared, accumulate=settings.accumulate)
        head_fit = replace(HEAD_FIT, label_smoothing=fit.label_smoothing, **shared)
    return TrainPlan(
        fit=fit,
        head_fit=head_fit,
        augmentation=Augmentation() if settings.augment else None,
        views=settings.views if settings.augment else 1,
        precision=choose_precision(settings.precision, machine.device) if settings.tune != "head" else "fp32",
        checkpoint_every_s=settings.checkpoint_every_s,
        max_megapixels=settings.max_megapixels,
        seed=settings.seed,
    )


def folds_of(manifest: Manifest, fold: int | Literal["all"] | None) -> tuple[int | None, ...]:
    """Give the folds to train a member for: (None,) for a manifest of splits."""
    if manifest.folds is None:
        if fold is not None:
            raise UsageError(
                f"--fold {fold}, but the manifest has splits, not folds", "Leave --fold out, or prepare with --folds K"
            )
        if not manifest.part("train"):
            raise DataError(
                "the manifest has no training images", "Prepare again with a smaller --val, --calib or --test"
            )
        return (None,)
    if fold is None or fold == "all":
        return tuple(range(manifest.folds))
    if not 0 <= fold < manifest.folds:
        raise UsageError(f"--fold {fold}, but the manifest has folds 0 to {manifest.folds - 1}", "Or use --fold all")
    return (fold,)


def train(
    workspace: Workspace,
    manifest: Manifest,
    settings: TrainSettings,
    *,
    command: Sequence[str] = (),
    track: Track = silent,
    note: Note = unheard,
) -> FinishedRun:
    """Train a run from the workspace's manifest and keep it under `runs/`."""
    recipe = recipe_of(settings)
    folds = folds_of(manifest, settings.fold)
    machine = choose_machine(settings.device, settings.workers)
    if settings.weights not in ("auto", "none"):
        settings = replace(settings, weights=str(Path(settings.weights).absolute()))
    loaded = _load(settings, note)
    recipe = within(recipe, loaded.spec.feature_width, note)
    note(f"device: {machine.description}")
    folder = new_run_folder(
        workspace,
        settings.name or f"{settings.backbone.replace(':', '-').replace('/', '-')}-{settings.variant}",
        {
            "schema_version": SCHEMA_VERSION,
            "name": settings.name,
            "created": now(),
            "manifest": manifest.fingerprint,
            "settings": asdict(settings),
            "weights_sha256": loaded.spec.weights_sha256,
            "command": list(command),
        },
    )
    note(f"run: {folder.name}")
    return _carry_out(workspace, manifest, settings, folder, folds, recipe, machine, loaded, track, note)


def resume(
    workspace: Workspace,
    manifest: Manifest,
    wanted: str,
    *,
    device: str | None = None,
    workers: int | None = None,
    track: Track = silent,
    note: Note = unheard,
) -> FinishedRun:
    """Go on with an interrupted run, with the settings it was started with; a finished one is given as it is."""
    run = find_run(workspace, wanted, manifest=None, finished=False)
    if run.finished:
        note(f"run {run.id} is finished already")
        return FinishedRun(folder=run.path, facts=run.facts)
    settings = _stored_settings(run)
    if run.facts.get("manifest") != manifest.fingerprint:
        raise WorkspaceError(
            f"run {run.id} was started from another manifest than that of {workspace.root}",
            "Prepare the same data again, or train anew without --resume",
        )
    clear_unfinished(run.path)
    settings = replace(settings, device=device or settings.device, workers=workers or settings.workers)
    machine = choose_machine(settings.device, settings.workers)
    note(f"device: {machine.description}")
    note(f"run: {run.id} (resumed)")
    folds = folds_of(manifest, settings.fold)
    loaded = _load(settings, note)
    if run.facts.get("weights_sha256") != loaded.spec.weights_sha256:
        raise WorkspaceError(
            f"run {run.id} was started with other weights than {settings.weights} gives now",
            "Restore them, or train anew without --resume",
        )
    recipe = within(recipe_of(settings), loaded.spec.feature_width, note)
    return _carry_out(workspace, manifest, settings, run.path, folds, recipe, machine, loaded, track, note)


def _stored_settings(run: RunFolder) -> TrainSettings:
    try:
        stored = dict(run.facts["settings"])
        for name in ("feature_sizes", "dropout_rates", "selected", "kernels"):
            if stored[name] is not None:
                stored[name] = tuple(tuple(v) if isinstance(v, list) else v for v in stored[name])
        return TrainSettings(**stored)
    except (KeyError, TypeError) as error:
        raise WorkspaceError(
            f"run {run.path} does not say how it was started: {error}", "Train anew without --resume"
        ) from error


def _load(settings: TrainSettings, note: Note) -> LoadedBackbone:
    loaded = load_backbone(
        settings.backbone,
        settings.weights,
        seed=settings.seed,
        fit=settings.fit,
        input_size_px=settings.input_size_px,
    )
    note(f"backbone: {settings.backbone} ({loaded.spec.timm_name}), weights: {loaded.spec.weights_source}")
    if loaded.spec.is_random:
        note("warning: --weights none: the backbone is random, never trained on anything; expect poor figures")
    return loaded


def _carry_out(
    workspace: Workspace,
    manifest: Manifest,
    settings: TrainSettings,
    folder: Path,
    folds: tuple[int | None, ...],
    recipe: Recipe,
    machine: Machine,
    loaded: LoadedBackbone,
    track: Track,
    note: Note,
) -> FinishedRun:
    started = time.monotonic()
    plan = plan_of(settings, machine)
    trainer = Trainer(
        manifest,
        loaded,
        recipe,
        plan,
        machine=machine,
        cache_root=workspace.features_folder / "cache",
        checkpoints=folder / CHECKPOINT_FOLDER,
        resume_hint=f"Go on with: leuk train --resume {folder.name} --workspace {workspace.root}",
        track=track,
        note=note,
    )
    trained = []
    for fold in folds:
        member = trainer.member(fold)
        trained.append(member)
        score = member.validation.get("balanced_accuracy")
        told = "not validated" if score is None else f"validation balanced accuracy {score:.3f} ({member.validated_on})"
        note(f"{'member' if fold is None else f'fold {fold}'}: {member.choice}; {told}")
    return finish_run(
        folder,
        manifest,
        loaded,
        trained,
        plan=plan,
        machine=machine,
        variant=settings.variant,
        tune=settings.tune,
        seconds=time.monotonic() - started,
        shared_backbone=settings.tune == "head",
    )
