"""`leuk train`: a manifest and a recipe become a run that evaluate and classify can use.

Of several processes that torchrun started, the leader makes, locks and writes the run; the others take over from it what is
to be trained, and give back the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from leukemia_cli.domain import Manifest, Note, Remedies, Track, silent, unheard
from leukemia_cli.errors import DataError, LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.learning.distributed import Team, joined
from leukemia_cli.learning.finetuning import check_shareable
from leukemia_cli.learning.machine import Machine, choose_machine, granted_seat
from leukemia_cli.learning.recipes import TrainSettings, plan_of, recipe_of, settled, with_remedies
from leukemia_cli.learning.runs import CHECKPOINT_FOLDER, FinishedRun, finish_run
from leukemia_cli.learning.training import Recipe, Trainer, within
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.workspace.documents import SCHEMA_VERSION, now
from leukemia_cli.workspace.files import clear_unfinished
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.locks import run_lock
from leukemia_cli.workspace.runs import RunFolder, find_run, new_run_folder, read_run_folder


def folds_of(manifest: Manifest, fold: int | Literal["all"] | None) -> tuple[int | None, ...]:
    """Give the folds to train a member for: (None,) for a manifest of splits."""
    if manifest.folds is None:
        if fold is not None:
            raise UsageError(
                f"--fold {fold}, but the manifest has splits, not folds", "Leave --fold out, or prepare with --folds K"
            )
        if not manifest.part("train"):
            raise DataError(
                f"the manifest has no training {manifest.unit}s",
                "Prepare again with a smaller --val, --calib or --test",
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
    seat = granted_seat()
    machine = choose_machine(settings.device, settings.workers, seat)
    with joined(seat, machine) as team:
        if not team.leads:
            return _follow(workspace, manifest, machine, team)
        if settings.weights not in ("auto", "none"):
            settings = replace(settings, weights=str(Path(settings.weights).absolute()))
        remedies = settled(settings.remedies, settings.background, manifest.unit)
        settings = replace(settings, remedies=remedies, background=remedies.background)
        loaded = _load(settings, note)
        if settings.tune != "head":
            check_shareable(loaded.module, team, hold_normalisation=not loaded.spec.is_random)
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
        with run_lock(folder):
            return _carry_out(workspace, manifest, settings, folder, folds, recipe, machine, loaded, team, track, note)


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
    seat = granted_seat()
    run = find_run(workspace, wanted, manifest=None, finished=False)
    settings = None if run.finished else _stored_settings(run)
    if settings is not None:
        settings = replace(settings, device=device or settings.device, workers=workers or settings.workers)
    machine = choose_machine(*((settings.device, settings.workers) if settings else (device or "auto", workers)), seat)
    with joined(seat, machine) as team, contextlib.ExitStack() as held:
        if not team.leads:
            return _follow(workspace, manifest, machine, team)
        if not run.finished:
            held.enter_context(run_lock(run.path))
            run = read_run_folder(run.path)  # whoever held it before may have finished it
        if run.finished or settings is None:
            note(f"run {run.id} is finished already")
            return _leave(team, FinishedRun(folder=run.path, facts=run.facts))
        if run.facts.get("manifest") != manifest.fingerprint:
            raise WorkspaceError(
                f"run {run.id} was started from another manifest than that of {workspace.root}",
                "Prepare the same data again, or train anew without --resume",
            )
        clear_unfinished(run.path)
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
        return _carry_out(workspace, manifest, settings, run.path, folds, recipe, machine, loaded, team, track, note)


@contextlib.contextmanager
def _told(note: Note, hint: str) -> Iterator[None]:
    """Say how to go on where something that is no error of the work itself ends it."""
    try:
        yield
    except LeukError:
        raise  # it has a hint of its own
    except BaseException:
        note(f"this run is not finished. {hint}")
        raise


def _stored_settings(run: RunFolder) -> TrainSettings:
    try:
        stored = dict(run.facts["settings"])
        for name in ("feature_sizes", "dropout_rates", "selected", "selectors", "kernels"):
            if stored.get(name) is not None:  # runs from before there were selectors have none
                stored[name] = tuple(tuple(v) if isinstance(v, list) else v for v in stored[name])
        if "remedies" in stored:
            stored["remedies"] = Remedies.from_json(stored["remedies"])
        return TrainSettings(**stored)
    except (KeyError, TypeError, ValueError) as error:
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
    loaded = with_remedies(loaded, settings.remedies)
    if settings.remedies.titles:
        note(f"remedies: {', '.join(settings.remedies.titles)}")
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
    team: Team,
    track: Track,
    note: Note,
) -> FinishedRun:
    started = time.monotonic()
    plan = plan_of(settings, machine)
    team.hint = _way_on(folder, workspace)
    team.order(
        {
            "do": "begin",
            "folder": str(folder),
            "started": dict(read_run_folder(folder).facts),
            "weights": settings.weights,
            "arithmetic": [machine.device.type, plan.precision],
        }
    )
    trainer = Trainer(
        manifest,
        loaded,
        recipe,
        plan,
        machine=machine,
        cache_root=workspace.features_folder / "cache",
        checkpoints=folder / CHECKPOINT_FOLDER,
        resume_hint=_way_on(folder, workspace),
        track=track,
        note=note,
        team=team,
    )
    trained = []
    for fold in folds:
        with _told(note, trainer.resume_hint):
            member = trainer.member(fold)
        trained.append(member)
        score = member.validation.get("balanced_accuracy")
        told = "not validated" if score is None else f"validation balanced accuracy {score:.3f} ({member.validated_on})"
        note(f"{'member' if fold is None else f'fold {fold}'}: {member.choice}; {told}")
    done = finish_run(
        folder,
        manifest,
        loaded,
        trained,
        plan=trainer.plan,
        precision_trial=trainer.precision_trial,
        machine=machine,
        variant=settings.variant,
        tune=settings.tune,
        seconds=time.monotonic() - started,
        shared_backbone=settings.tune == "head",
    )
    return _leave(team, done)


def _way_on(folder: Path, workspace: Workspace) -> str:
    return f"Go on with: leuk train --resume {folder.name} --workspace {workspace.root}"


def _leave(team: Team, done: FinishedRun) -> FinishedRun:
    team.order({"do": "leave", "folder": str(done.folder), "facts": dict(done.facts)})
    return done


def _follow(workspace: Workspace, manifest: Manifest, machine: Machine, team: Team) -> FinishedRun:
    """Do the share of a process that does not lead, without a word, and give the same run as the leader."""
    order, _ = team.next_order()
    if order["do"] != "leave":
        order = _follower(workspace, manifest, machine, order, team).follow()
    return FinishedRun(folder=Path(order["folder"]), facts=order["facts"])


def _follower(
    workspace: Workspace, manifest: Manifest, machine: Machine, order: Mapping[str, Any], team: Team
) -> Trainer:
    """Take over from the leader what is to be trained; raises an error that names this process where it cannot be the same."""
    folder = Path(order["folder"])
    team.hint = _way_on(folder, workspace)
    run = RunFolder(path=folder, finished=False, facts=order["started"])
    this = f"process {team.rank} of {team.size}"
    if run.facts["manifest"] != manifest.fingerprint:
        raise WorkspaceError(f"{this} has another manifest than the first", "Give all the same --workspace")
    settings = replace(_stored_settings(run), weights=order["weights"])
    plan = plan_of(settings, machine)
    if [machine.device.type, plan.precision] != order["arithmetic"]:
        raise MachineError(
            f"{this} would compute on {machine.device.type} in {plan.precision}, the first on {' in '.join(order['arithmetic'])}",
            "Name --device and --precision",
        )
    loaded = _load(settings, unheard)
    return Trainer(
        manifest,
        loaded,
        within(recipe_of(settings), loaded.spec.feature_width, unheard),
        plan,
        machine=machine,
        cache_root=workspace.features_folder / "cache",
        checkpoints=None,
        team=team,
    )
