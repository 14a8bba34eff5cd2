"""`leuk fit-svm`: a support vector machine on features that exist already becomes a run like any other."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leukemia_cli.catalog import VARIANTS, Wanted, candidates
from leukemia_cli.domain import (
    NO_REMEDIES,
    BackgroundChoice,
    Fit,
    Manifest,
    Note,
    Preprocessing,
    Remedies,
    Track,
    Unit,
    silent,
    unheard,
)
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.doubt import DoubtSettings
from leukemia_cli.learning.features import state_digest
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.loading import backbone_of, load_classifier
from leukemia_cli.learning.machine import Machine, choose_machine
from leukemia_cli.learning.recipes import augmentation_of, settled, with_remedies
from leukemia_cli.learning.runs import FinishedRun, finish_run
from leukemia_cli.learning.training import Recipe, TrainedMember, Trainer, TrainPlan, within
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, now, read_json
from leukemia_cli.workspace.folders import FEATURES_JSON, Workspace
from leukemia_cli.workspace.runs import RunFolder, find_run, new_run_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSvmSettings:
    """Whose features (exactly one of `features`, `run`, `backbone`), and which machines are tried on them."""

    features: str | None = None
    backbone: str | None = None
    weights: str = "auto"
    name: str | None = None
    kernels: tuple[Literal["linear", "rbf"], ...] | None = None
    selected: tuple[int | None, ...] | None = None
    selectors: tuple[str, ...] | None = None
    views: int = 4
    fit: Fit = "squash"
    input_size_px: int | None = None
    remedies: Remedies = NO_REMEDIES
    background: BackgroundChoice = "auto"
    stain_jitter: float | None = None
    batch_size: int = 16
    max_megapixels: float = 200.0
    false_alarm: float = 0.05
    risk: float = 0.05
    alpha: float = 0.1
    least_cells: int = 3
    device: str = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        DoubtSettings(false_alarm=self.false_alarm, risk=self.risk, alpha=self.alpha, least_cells=self.least_cells)
        jitter = self.stain_jitter
        if jitter is not None and not (math.isfinite(jitter) and jitter >= 0):
            raise UsageError(f"--stain-jitter {jitter} is no number from 0 up", "Leave it out to take the default")
        if jitter is not None and (self.views == 1 or self.features is not None):
            flag = "--features" if self.features is not None else "--views 1"
            raise UsageError(f"--stain-jitter means nothing with {flag}", "Leave one of them out")


def fit_svm(
    workspace: Workspace,
    manifest: Manifest,
    run: RunFolder | None,
    settings: FitSvmSettings,
    *,
    command: Sequence[str] = (),
    track: Track = silent,
    note: Note = unheard,
) -> FinishedRun:
    """Choose kernel, C and gamma, fit, calibrate, and keep the result under `runs/`.

    A kept set of features holds the plain view of each image; with a backbone or run, `views` of each training image are
    used, as in train. On a frozen backbone the choice is made by grouped inner folds of training; on a tuned one by the
    validation part that tuning left out. Raises UsageError unless exactly one source of features is named.
    """
    started = time.monotonic()
    if sum(source is not None for source in (run, settings.features, settings.backbone)) != 1:
        raise UsageError("name one of --features, --run and --backbone", "For example: leuk fit-svm --backbone senet")
    wanted = Wanted(selected=settings.selected, selectors=settings.selectors, kernels=settings.kernels)
    tried = candidates(VARIANTS["svm"], wanted=wanted)
    machine = choose_machine(settings.device, settings.workers)
    note(f"device: {machine.description}")
    facts = None if settings.features is None else _feature_facts(workspace, manifest, settings.features)
    if facts is not None and facts["run"] is not None:
        run = find_run(workspace, facts["run"], manifest=manifest.fingerprint)
    classifier = None if run is None else _classifier(run, manifest, machine)
    if classifier is not None:
        loaded = backbone_of(classifier)
    else:
        loaded = _loaded_from_name(settings, manifest.unit) if facts is None else _loaded_again(facts)
    note(f"backbone: {loaded.spec.name}, weights: {loaded.spec.weights_source}")
    recipe = within(Recipe(variant="svm", heads=(), svms=tried.svms, tune="head"), loaded.spec.feature_width, note)
    tuned = classifier is not None and classifier.backbone is None
    plan = _plan(settings)
    if run is not None and tuned:
        # It deals the parts that tuning dealt: another seed would choose on images that the backbone saw.
        plan = replace(plan, seed=int(run.facts["seed"]))
    folder = new_run_folder(
        workspace,
        settings.name or f"{loaded.spec.stem}-svm",
        {
            "schema_version": SCHEMA_VERSION,
            "name": settings.name,
            "created": now(),
            "manifest": manifest.fingerprint,
            "settings": {**asdict(settings), "run": None if run is None else run.id},
            "command": list(command),
        },
    )
    note(f"run: {folder.name}")
    trainer = Trainer(
        manifest,
        loaded,
        recipe,
        plan,
        machine=machine,
        cache_root=workspace.features_folder / "cache",
        checkpoints=None,
        track=track,
        note=note,
    )
    return finish_run(
        folder,
        manifest,
        loaded,
        _trained(trainer, classifier, manifest),
        plan=plan,
        machine=machine,
        variant="svm",
        tune="head" if run is None else str(run.facts["tune"]),
        seconds=time.monotonic() - started,
        shared_backbone=not tuned,
    )


def _plan(settings: FitSvmSettings) -> TrainPlan:
    return TrainPlan(
        fit=FitSettings(batch_size=settings.batch_size, epochs=0),
        head_fit=FitSettings(),
        augmentation=augmentation_of(settings.stain_jitter),
        views=1 if settings.features else settings.views,
        precision="fp32",
        checkpoint_every_s=0.0,
        max_megapixels=settings.max_megapixels,
        seed=settings.seed,
        doubt=DoubtSettings(
            false_alarm=settings.false_alarm,
            risk=settings.risk,
            alpha=settings.alpha,
            least_cells=settings.least_cells,
        ),
    )


def _trained(trainer: Trainer, classifier: Classifier | None, manifest: Manifest) -> list[TrainedMember]:
    """Fit a machine for each member of a run, or for each fold."""
    if classifier is not None:
        return [
            trainer.svm_on(member.fold, member.backbone, inner=member.backbone is None) for member in classifier.members
        ]
    folds: Sequence[int | None] = range(manifest.folds) if manifest.folds else (None,)
    return [trainer.svm_on(fold, None, inner=True) for fold in folds]


def _classifier(run: RunFolder, manifest: Manifest, machine: Machine) -> Classifier:
    if run.facts.get("manifest") != manifest.fingerprint:
        raise WorkspaceError(
            f"run {run.id} was made from another manifest",
            "Its backbone may have seen these images: prepare its data again, or name --backbone",
        )
    return load_classifier(run, machine)


def _loaded_from_name(settings: FitSvmSettings, unit: Unit) -> LoadedBackbone:
    if settings.backbone is None:
        raise UsageError("no backbone is named", "Name one with --backbone")
    loaded = load_backbone(
        settings.backbone, settings.weights, seed=settings.seed, fit=settings.fit, input_size_px=settings.input_size_px
    )
    return with_remedies(loaded, settled(settings.remedies, settings.background, unit))


def _feature_facts(workspace: Workspace, manifest: Manifest, wanted: str) -> dict[str, Any]:
    """Read what a set of features says of itself; raises WorkspaceError where it is missing or of another manifest."""
    given = Path(wanted)
    folder = given if (given / FEATURES_JSON).is_file() else workspace.features_folder / wanted
    file = folder / FEATURES_JSON
    if not file.is_file():
        sets = sorted(p.parent.name for p in workspace.features_folder.glob(f"*/{FEATURES_JSON}"))
        raise WorkspaceError(
            f"there are no features {wanted!r} in {workspace.root}",
            f"Known: {', '.join(sets)}" if sets else "Make them with: leuk extract-features --backbone NAME",
        )
    facts = read_json(file, "features")
    check_schema(facts, file, SCHEMA_VERSION)
    if facts.get("manifest") != manifest.fingerprint:
        raise WorkspaceError(f"features {folder.name} were made from another manifest", "Extract them again")
    wrong = [key for key, kind in _TYPES.items() if not isinstance(facts.get(key, ...), kind)]
    try:
        Preprocessing.from_json(facts["preprocessing"])
    except (AttributeError, KeyError, TypeError, ValueError):
        wrong.append("preprocessing")
    if wrong or os.sep in (facts["run"] or ""):  # a path would lead to a run outside this workspace
        raise WorkspaceError(f"{file} is damaged: see {', '.join(wrong) or 'run'}", "Extract them again")
    return facts


_TYPES = {
    "features": str,
    "run": str | None,
    "backbone": str,
    "weights": str,
    "seed": int,
    "backbone_sha256": str,
}
"""What a set of features is made again by."""


def _loaded_again(facts: Mapping[str, Any]) -> LoadedBackbone:
    """Load the backbone that a set of features was made with; raises WorkspaceError where it gives other values now."""
    preprocessing = Preprocessing.from_json(facts["preprocessing"])
    loaded = load_backbone(
        facts["backbone"],
        facts["weights"],
        seed=facts["seed"],
        fit=preprocessing.fit,
        input_size_px=preprocessing.input_size_px,
    )
    loaded = with_remedies(loaded, preprocessing.remedies)
    if state_digest(loaded.module.state_dict()) != facts["backbone_sha256"]:
        raise WorkspaceError(
            f"features {facts['features']} were made with other weights than {facts['weights']} gives now",
            "Extract them again",
        )
    return loaded
