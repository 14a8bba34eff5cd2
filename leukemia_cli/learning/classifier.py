"""What a run is once trained: backbones, heads, temperatures; from images to probabilities, the same for every command.

Requirements met here:
- Saved and loaded again, anywhere, it gives the same scores: nothing it needs lies outside its folder.
- Class order and preprocessing come from the artefact alone.
- A network and a support vector machine are one kind of thing.
- Of several members (one a fold) the mean of the calibrated probabilities counts; for an image of the manifest, `fold`
  asks the one member that has not seen it.
- A damaged file is refused by name; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from leukemia_cli.domain import HeadChoice, Preprocessing, Task, Unit
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.judging.calibration import softmax
from leukemia_cli.learning.batches import Look, Pixels
from leukemia_cli.learning.doubt import Doubt, Limits, Thresholds, Vectors, novelty_by
from leukemia_cli.learning.features import Features, run_backbone, state_digest
from leukemia_cli.learning.fitting import Scores
from leukemia_cli.learning.machine import Machine, place
from leukemia_cli.learning.network import Head, prefixed, unprefixed
from leukemia_cli.learning.reading import Reading
from leukemia_cli.learning.svm import Svm
from leukemia_cli.learning.weights import BackboneSpec, rebuild_backbone
from leukemia_cli.vision.cutting import Cutting
from leukemia_cli.workspace import RunFolder, write_bytes

MODEL_FILE, HEAD_FILE, DOUBT_FILE = "model.safetensors", "head.safetensors", "doubt.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trained head with its temperature; `backbone` is None where it is the run's shared one."""

    fold: int | None
    head: Head | Svm
    temperature: float
    calibrated_on: str | None
    """What the temperature was fitted on, with its counts; None where it was not fitted."""
    backbone: nn.Module | None
    doubt: Doubt | None = None
    """When it abstains; None where no images were left to fit that on."""
    reading: Reading | None = None
    """How it reads photographs by their cells; None where the run is not on cells."""

    @property
    def limits(self) -> Limits | None:
        """Give its thresholds for single images, or cells."""
        return None if self.doubt is None else self.doubt.limits

    def scores(self, features: Features) -> Scores:
        """Give uncalibrated scores (N, C) of feature vectors (N, D)."""
        return self.head.scores(features)

    def probabilities(self, features: Features) -> Scores:
        """Give calibrated probabilities (N, C) of feature vectors (N, D)."""
        return softmax(self.scores(features), self.temperature)

    def as_json(self) -> dict[str, Any]:
        """Give what is stored beside the arrays."""
        shared = {
            "fold": self.fold,
            "temperature": self.temperature,
            "calibrated_on": self.calibrated_on,
            "own_backbone": self.backbone is not None,
            "within": self.head.within,
            "doubt": None if self.doubt is None else self.doubt.as_json(),
            "reading": None if self.reading is None else self.reading.as_json(),
        }
        if isinstance(self.head, Svm):
            return {**shared, "kind": "svm", "kernel": self.head.kernel, "gamma": self.head.gamma}
        return {
            **shared,
            "kind": "network",
            "features": len(self.head.kept),
            "hidden": [layer.out_features for layer in self.head.hidden],
            "dropout": self.head.rate,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Give the head's arrays by name."""
        if isinstance(self.head, Svm):
            return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.head.arrays().items()}
        return self.head.state_dict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What members make of n images: probabilities (n, C), calibrated and as they were, and novelty (n,) if they tell it."""

    probabilities: Scores
    uncalibrated: Scores
    novelty: Scores | None


def seen_by(members: Sequence[Member], vectors: Sequence[Vectors]) -> Seen:
    """Give the means over members of what each makes of the same n images by its own vectors."""
    scores = [member.scores(v.of_class) for member, v in zip(members, vectors, strict=True)]
    return Seen(
        probabilities=np.mean([softmax(s, m.temperature) for s, m in zip(scores, members, strict=True)], axis=0),
        uncalibrated=np.mean([softmax(s) for s in scores], axis=0),
        novelty=novelty_by([member.doubt for member in members], vectors),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A trained run on a machine, from images to a probability for each class of its task."""

    run: str
    task: Task
    spec: BackboneSpec
    preprocessing: Preprocessing
    backbone: nn.Module | None
    members: tuple[Member, ...]
    machine: Machine
    unit: Unit = "image"
    cutting: Cutting | None = None
    """Of a run on cells: how they are found and cut."""

    def look(self, looks: Sequence[Look]) -> Seen:
        """Give what all members together make of n images."""
        return seen_by(self.members, self.vectors(looks))

    @property
    def novelty_preprocessing(self) -> Preprocessing:
        """Give how images are seen to tell what is novel; as for their class where a member cannot tell it anyway."""
        told = all(member.doubt is not None for member in self.members)
        return self.preprocessing.as_photographed if told else self.preprocessing

    def vectors(self, looks: Sequence[Look]) -> list[Vectors]:
        """Give each member's feature vectors of n images."""
        of_class = self._features([look.view for look in looks])
        if self.novelty_preprocessing == self.preprocessing:
            return [Vectors(rows, rows) for rows in of_class]
        of_novelty = self._features([look.as_photographed for look in looks])
        return [Vectors(*rows) for rows in zip(of_class, of_novelty, strict=True)]

    def _features(self, views: Sequence[Pixels]) -> list[Features]:
        shared = None if self.backbone is None else run_backbone(self.backbone, views, self.preprocessing, self.machine)
        features = []
        for member in self.members:
            rows = shared
            if member.backbone is not None:
                rows = run_backbone(member.backbone, views, self.preprocessing, self.machine)
            if rows is None:
                raise ValueError("a member without a backbone in a run without a shared one")
            features.append(rows)
        return features

    def probabilities(self, views: Sequence[Pixels]) -> Scores:
        """Give probabilities (n, C) of n plain views: the mean over the members."""
        rows = self._features(views)
        return np.asarray(np.mean([m.probabilities(each) for m, each in zip(self.members, rows, strict=True)], axis=0))

    @property
    def thresholds(self) -> Thresholds | None:
        """Give what new images are held against; None where the run cannot tell doubt."""
        return Thresholds.of([member.limits for member in self.members])

    def member_of(self, fold: int) -> Member:
        """Give the member that did not see `fold`; raises WorkspaceError where there is none."""
        for member in self.members:
            if member.fold == fold:
                return member
        raise WorkspaceError(f"run {self.run} has no member for fold {fold}", "Train all folds: leuk train --fold all")


def together(phrases: Sequence[str | None]) -> str | None:
    """Say once what members were fitted or validated on: 'inner folds, 794 images of 26 groups to 808 images of 26 groups'."""
    known = list(dict.fromkeys(phrase for phrase in phrases if phrase))
    if len(known) < 2:
        return known[0] if known else None
    kinds = {phrase.partition(", ")[0] for phrase in known}
    if len(kinds) > 1:
        return "; ".join(known)
    counts = sorted((phrase.partition(", ")[2] for phrase in known), key=lambda text: int(text.split()[0]))
    return f"{kinds.pop()} of each fold, {counts[0]} to {counts[-1]}"


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


def load_classifier(run: RunFolder, machine: Machine) -> Classifier:
    """Load a finished run; raises WorkspaceError for one that is unfinished, damaged or of another leuk's making."""
    if not run.finished:
        raise WorkspaceError(f"run {run.id} is not finished", f"Finish it with: leuk train --resume {run.id}")
    facts = run.facts
    try:
        files = {file: _read(run.path / file, digest) for file, digest in facts["files"].items()}
        task = Task.from_json(facts["task_definition"])
        preprocessing = Preprocessing.from_json(facts["preprocessing"])
        spec = BackboneSpec(**facts["backbone_spec"])
        stored = facts["members"]
        cutting = None if facts.get("crops") is None else Cutting.from_json(facts["crops"])
        shared_file = None if any(m["own_backbone"] for m in stored) else MODEL_FILE
        shared = None if shared_file is None else _backbone(spec, files[shared_file], machine)
        members = []
        for i, facts_of_member in enumerate(stored):
            own = None
            if facts_of_member["own_backbone"]:
                fold = None if len(stored) == 1 else facts_of_member["fold"]
                own = _backbone(spec, files[backbone_file(fold)], machine)
            members.append(
                Member(
                    fold=facts_of_member["fold"],
                    head=restore_head(
                        facts_of_member,
                        unprefixed(f"{i}.", files[HEAD_FILE]),
                        feature_width=spec.feature_width,
                        class_count=len(task.classes),
                    ),
                    temperature=float(facts_of_member["temperature"]),
                    calibrated_on=facts_of_member["calibrated_on"],
                    backbone=own,
                    doubt=restore_doubt(facts_of_member.get("doubt"), files, i),
                    reading=restore_reading(facts_of_member.get("reading")),
                )
            )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WorkspaceError(
            f"run {run.path} is damaged: {type(error).__name__} {error}", "Restore it from a copy, or train it again"
        ) from error
    return Classifier(
        run=run.id,
        task=task,
        spec=spec,
        preprocessing=preprocessing,
        backbone=shared,
        members=tuple(members),
        machine=machine,
        unit=facts.get("unit", "image"),
        cutting=cutting,
    )


def restore_doubt(
    facts: Mapping[str, Any] | None, files: Mapping[str, Mapping[str, Tensor]], member: int
) -> Doubt | None:
    """Build a stored member's doubt again; raises KeyError, TypeError or ValueError where it does not fit its facts."""
    return None if facts is None else Doubt.restored(facts, unprefixed(f"{member}.", files[DOUBT_FILE]))


def restore_reading(facts: Mapping[str, Any] | None) -> Reading | None:
    """Build a stored member's reading again; raises KeyError, TypeError or ValueError where its facts are damaged."""
    return None if facts is None else Reading.from_json(facts)


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise WorkspaceError(
                f"{path} is not the file that the run was saved with (SHA-256 {found[:12]}…, not {digest[:12]}…)",
                "It is damaged: restore it from a copy, or train the run again",
            )
        return load_file(path)
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing", "Restore it from a copy, or train the run again") from None
    except (SafetensorError, OSError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}", "Restore it from a copy, or train the run again"
        ) from error


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
    """Build a stored member's head again; raises KeyError or RuntimeError where its arrays do not fit its facts."""
    if facts["kind"] == "svm":
        arrays = {k: v.numpy() for k, v in tensors.items()}
        return Svm.from_arrays(facts["kernel"], facts["gamma"], facts["within"], arrays)
    kept = int(facts["features"])
    choice = HeadChoice(
        selected=None if kept == feature_width else kept, hidden=tuple(facts["hidden"]), rate=facts["dropout"]
    )
    head = Head(choice, feature_width, class_count, within=facts["within"])
    head.load_state_dict(dict(tensors))
    return head.eval()


def member_digest(classifier: Classifier, member: Member) -> str:
    """Hash the backbone that a member looks through: the key of its features in the cache."""
    backbone = member.backbone if member.backbone is not None else classifier.backbone
    if backbone is None:
        raise ValueError("a member without a backbone in a run without a shared one")
    return state_digest(backbone.state_dict())
