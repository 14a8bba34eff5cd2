"""A run on disk, in torch: written when training is done, read back the same wherever its folder lies.

Requirements met here:
- Saved and loaded again, anywhere, it gives the same scores: nothing it needs lies outside its folder.
- Class order and preprocessing come from the artefact alone.
- A damaged file is refused by name; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from leukemia_cli.domain import HeadChoice
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.backbones import BackboneSpec
from leukemia_cli.learning.classifier import (
    DOUBT_FILE,
    HEAD_FILE,
    MODEL_FILE,
    Classifier,
    Member,
    RunFacts,
    restore_member,
)
from leukemia_cli.learning.engines import TorchEngine
from leukemia_cli.learning.features import state_digest
from leukemia_cli.learning.heads import FrozenHead
from leukemia_cli.learning.machine import Machine, place
from leukemia_cli.learning.network import Head, prefixed, unprefixed
from leukemia_cli.learning.svm import Svm
from leukemia_cli.learning.weights import LoadedBackbone, rebuild_backbone
from leukemia_cli.workspace.files import write_bytes
from leukemia_cli.workspace.runs import RunFolder, is_export


def backbone_file(fold: int | None) -> str:
    """Name the file of a backbone: the run's shared one (None), or that of one fold."""
    return MODEL_FILE if fold is None else f"fold-{fold}/{MODEL_FILE}"


def save_classifier(folder: Path, backbone: nn.Module | None, members: Sequence[Member]) -> dict[str, Any]:
    """Write backbones and heads into a run's folder; give the part of run.json that `load_classifier` needs."""
    digests: dict[str, str] = {}

    def keep(file: str, tensors: dict[str, Tensor]) -> None:
        content = save(tensors)
        write_bytes(folder / file, content)
        digests[file] = hashlib.sha256(content).hexdigest()

    if backbone is not None:
        keep(MODEL_FILE, prefixed("", backbone.state_dict()))
    heads: dict[str, Tensor] = {}
    doubts: dict[str, Tensor] = {}
    for i, member in enumerate(members):
        heads |= prefixed(f"{i}.", member.tensors())
        if member.doubt is not None:
            doubts |= prefixed(f"{i}.", member.doubt.tensors())
        if member.backbone is not None:
            fold = None if backbone is None and len(members) == 1 else member.fold
            keep(backbone_file(fold), prefixed("", member.backbone.state_dict()))
    keep(HEAD_FILE, heads)
    if doubts:
        keep(DOUBT_FILE, doubts)
    return {"members": [member.as_json() for member in members], "files": digests}


def load_classifier(
    run: RunFolder, machine: Machine, precision: Literal["fp32", "bf16", "fp16"] = "fp32"
) -> Classifier:
    """Load a finished run; raises WorkspaceError for one that is unfinished, damaged or of another leuk's making.

    Raises UsageError for an exported file, which holds no network that torch knows.
    """
    if is_export(run.path):
        raise UsageError(
            f"{run.path} is an exported run: it can classify images, and nothing else",
            "Name the run that it was made from",
        )
    if not run.finished:
        raise WorkspaceError(f"run {run.id} is not finished", f"Finish it with: leuk train --resume {run.id}")
    facts = run.facts
    try:
        files = {file: _read(run.path / file, digest) for file, digest in facts["files"].items()}
        known = RunFacts.from_json(facts)
        shared_file = None if any(m["own_backbone"] for m in known.members) else MODEL_FILE
        shared = None if shared_file is None else _backbone(known.spec, files[shared_file], machine)
        members = []
        for i, stored in enumerate(known.members):
            own = None
            if stored["own_backbone"]:
                own = _backbone(known.spec, files[own_file(stored, len(known.members))], machine)
            head = restore_head(
                stored,
                unprefixed(f"{i}.", files[HEAD_FILE]),
                feature_width=known.spec.feature_width,
                class_count=len(known.task.classes),
            )
            members.append(restore_member(stored, head=head, doubt=doubt_arrays(stored, files, i), backbone=own))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WorkspaceError(
            f"run {run.path} is damaged: {type(error).__name__} {error}", "Restore it from a copy, or train it again"
        ) from error
    return Classifier(
        run=run.id,
        task=known.task,
        spec=known.spec,
        preprocessing=known.preprocessing,
        members=tuple(members),
        engine=TorchEngine(machine=machine, precision=precision),
        backbone=shared,
        unit=known.unit,
        cutting=known.cutting,
    )


def backbone_of(classifier: Classifier) -> LoadedBackbone:
    """Give the backbone of a run, or that of its first member; raises WorkspaceError where there is none."""
    module = classifier.backbone or classifier.members[0].backbone
    if module is None:
        raise WorkspaceError(f"run {classifier.run} has no backbone", "It is damaged: train it again")
    return LoadedBackbone(module=module, spec=classifier.spec, preprocessing=classifier.preprocessing, last_stage=())


def own_file(stored: Mapping[str, Any], members: int) -> str:
    """Name the file of the backbone that is a stored member's own, in a run of so many members."""
    return backbone_file(None if members == 1 else stored["fold"])


def doubt_arrays(
    facts: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], member: int
) -> dict[str, NDArray[Any]]:
    """Give the arrays of a stored member's doubt, none where it has none; raises KeyError where they are missing."""
    if facts.get("doubt") is None:
        return {}
    return {name: tensor.numpy() for name, tensor in unprefixed(f"{member}.", files[DOUBT_FILE]).items()}


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise WorkspaceError(
                f"{path} is not the file that the run was saved with (SHA-256 {found[:12]}…, not {digest[:12]}…)",
                "It is damaged: restore it from a copy, or train the run again",
            )
        tensors = load_file(path)
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing", "Restore it from a copy, or train the run again") from None
    except (SafetensorError, OSError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}", "Restore it from a copy, or train the run again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WorkspaceError(f"{path} holds numbers that are none ({name})", "Train the run again")
    return tensors


def _backbone(spec: BackboneSpec, state: Mapping[str, Tensor], machine: Machine) -> nn.Module:
    module = rebuild_backbone(spec, state)
    return place(module, machine)


def restore_head(
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    feature_width: int,
    class_count: int,
) -> Head | Svm:
    """Build a stored member's head again; raises KeyError, RuntimeError or ValueError where its arrays do not fit its facts."""
    if facts["kind"] == "svm":
        arrays = {k: v.numpy() for k, v in tensors.items()}
        return Svm.from_arrays(facts["kernel"], facts["gamma"], facts["within"], arrays)
    kept = int(facts["features"])
    choice = HeadChoice(
        selected=None if kept == feature_width else kept, hidden=tuple(facts["hidden"]), rate=facts["dropout"]
    )
    head = Head(choice, feature_width, class_count, within=facts["within"])
    head.load_state_dict(dict(tensors))
    FrozenHead.from_arrays(
        head.within, {name: tensor.numpy() for name, tensor in tensors.items()}
    )  # what is kept is there
    return head.eval()


def member_digest(classifier: Classifier, member: Member) -> str:
    """Hash the backbone that a member looks through: the key of its features in the cache."""
    backbone = member.backbone if member.backbone is not None else classifier.backbone
    if backbone is None:
        raise ValueError("a member without a backbone in a run without a shared one")
    return state_digest(backbone.state_dict())
