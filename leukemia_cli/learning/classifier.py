"""A trained run in memory: members, thresholds, and an engine that looks; the same from images to probabilities for all.

Requirements met here:
- A network and a support vector machine are one kind of thing, and so are all engines: only feature vectors differ.
- Of several members (one a fold) the mean of the calibrated probabilities counts; for an image of the manifest, `fold`
  asks the one member that has not seen it.
- Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import Preprocessing, Task, Unit
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.judging.calibration import softmax
from leukemia_cli.learning.arrays import Features, Scores
from leukemia_cli.learning.backbones import BackboneSpec
from leukemia_cli.learning.batches import Look, Pixels
from leukemia_cli.learning.doubt import Doubt, Limits, Thresholds, Vectors, novelty_by
from leukemia_cli.learning.engines import Engine, TorchEngine
from leukemia_cli.learning.heads import FrozenHead
from leukemia_cli.learning.reading import Reading
from leukemia_cli.learning.svm import Svm
from leukemia_cli.vision.cutting import Cutting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from leukemia_cli.learning.machine import Machine
    from leukemia_cli.learning.network import Head

MODEL_FILE, HEAD_FILE, DOUBT_FILE = "model.safetensors", "head.safetensors", "doubt.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trained head with its temperature; `backbone` is None where it is the run's shared one."""

    fold: int | None
    head: Head | FrozenHead | Svm
    temperature: float
    calibrated_on: str | None
    """What the temperature was fitted on, with its counts; None where it was not fitted."""
    backbone: nn.Module | None = None
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
        head = self.network
        return {
            **shared,
            "kind": "network",
            "features": len(head.kept),
            "hidden": [layer.out_features for layer in head.hidden],
            "dropout": head.rate,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Give the head's arrays by name."""
        if isinstance(self.head, Svm):
            import torch

            return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.head.arrays().items()}
        return self.network.state_dict()

    @property
    def network(self) -> Head:
        """Give the head as the network it was trained as; raises ValueError where it was loaded as arrays."""
        if isinstance(self.head, (FrozenHead, Svm)):
            raise ValueError("this head is no network: it was loaded as arrays")
        return self.head


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
    """A trained run with the engine that looks, from images to a probability for each class of its task."""

    run: str
    task: Task
    spec: BackboneSpec
    preprocessing: Preprocessing
    members: tuple[Member, ...]
    engine: Engine
    backbone: nn.Module | None = None
    """Of a run in torch: what its members share; None where each has its own."""
    unit: Unit = "image"
    cutting: Cutting | None = None
    """Of a run on cells: how they are found and cut."""

    @property
    def machine(self) -> Machine:
        """Give the machine that torch computes on; raises UsageError where another engine computes."""
        if isinstance(self.engine, TorchEngine):
            return self.engine.machine
        raise UsageError(
            f"this needs run {self.run} in torch, and it was opened with {self.engine.name}",
            "Name the run that was exported, and --engine torch",
        )

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
        return self.engine.features(views, self.preprocessing, self.backbone, [m.backbone for m in self.members])

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What run.json says that a classifier is made of, but for its arrays; raises KeyError, TypeError or ValueError."""

    task: Task
    preprocessing: Preprocessing
    spec: BackboneSpec
    members: Sequence[Mapping[str, Any]]
    unit: Unit
    cutting: Cutting | None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> RunFacts:
        """Read them from run.json, or from what an exported file keeps of it."""
        return cls(
            task=Task.from_json(facts["task_definition"]),
            preprocessing=Preprocessing.from_json(facts["preprocessing"]),
            spec=BackboneSpec(**facts["backbone_spec"]),
            members=facts["members"],
            unit=facts.get("unit", "image"),
            cutting=None if facts.get("crops") is None else Cutting.from_json(facts["crops"]),
        )


def restore_member(
    facts: Mapping[str, Any],
    *,
    head: Head | FrozenHead | Svm,
    doubt: Mapping[str, NDArray[Any]],
    backbone: nn.Module | None,
) -> Member:
    """Build a stored member again around its head; raises KeyError, TypeError or ValueError where facts are damaged."""
    kept = facts.get("doubt")
    return Member(
        fold=facts["fold"],
        head=head,
        temperature=float(facts["temperature"]),
        calibrated_on=facts["calibrated_on"],
        backbone=backbone,
        doubt=None if kept is None else Doubt.restored(kept, doubt),
        reading=restore_reading(facts.get("reading")),
    )


def restore_reading(facts: Mapping[str, Any] | None) -> Reading | None:
    """Build a stored member's reading again; raises KeyError, TypeError or ValueError where its facts are damaged."""
    return None if facts is None else Reading.from_json(facts)


def frozen_head(
    facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, feature_width: int, class_count: int
) -> FrozenHead | Svm:
    """Build a stored member's head from arrays alone; raises KeyError or ValueError where they do not fit its facts."""
    if facts["kind"] == "svm":
        svm = Svm.from_arrays(facts["kernel"], facts["gamma"], facts["within"], arrays)
        if len(svm.mean) != feature_width:
            raise ValueError(f"a machine for {len(svm.mean)} features does not fit a backbone of {feature_width}")
        return svm
    head = FrozenHead.from_arrays(facts["within"], arrays)
    if len(head.mean) != feature_width or len(head.layers[-1][1]) != class_count:
        raise ValueError("a head does not fit its backbone or its classes")
    return head
