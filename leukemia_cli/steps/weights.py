"""`leuk weights`: which pretrained weights are on this machine, fetching them, and whether they load and fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukemia_cli.catalog import BACKBONES, Backbone, find_backbone, unknown
from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import LeukError, MachineError, UsageError
from leukemia_cli.learning.weight_store import WeightsPlace, fetch_weights, find_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedWeights:
    """What loading the weights of one backbone came to: their source and SHA-256, or the error."""

    backbone: str
    source: str | None
    sha256: str | None
    error: LeukError | None

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        said = None if self.error is None else {"problem": self.error.problem, "hint": self.error.hint}
        return {"backbone": self.backbone, "source": self.source, "sha256": self.sha256, "error": said}


def list_weights(names: Sequence[str]) -> list[WeightsPlace]:
    """Look where the weights of the backbones named lie, of all where none is; raises UsageError for an unknown name."""
    return [find_weights(backbone) for backbone in _named(names)]


def fetch(names: Sequence[str], note: Note = unheard) -> list[WeightsPlace]:
    """Fetch what is not here; raises as `fetch_weights` does, UsageError where nothing is named."""
    if not names:
        raise UsageError("no backbone was named", f"Name some of: {', '.join(BACKBONES)}")
    places = []
    for backbone in _named(names):
        place = fetch_weights(backbone)
        note(f"{backbone.name}: {place.says}")
        places.append(place)
    return places


def check(names: Sequence[str], file: Path | None, note: Note = unheard) -> list[CheckedWeights]:
    """Load the weights of the backbones named, or of all that are here, into their networks, and hash them.

    With `file`, that file into the one backbone named. What does not load is told, and the rest go on; nothing is fetched.
    """
    if file is not None and len(names) != 1:
        raise UsageError("--weights FILE is of one backbone", "Name it: leuk weights check senet --weights FILE")
    chosen = _named(names) if names else [p.backbone for p in list_weights(()) if p.here]
    from leukemia_cli.learning.weights import load_backbone

    checked = []
    for backbone in chosen:
        place = find_weights(backbone)
        if file is None and not place.here:
            absent = MachineError(
                f"the weights of {backbone.name} are {place.says.partition(';')[0]}",
                f"leuk weights fetch {backbone.name}",
            )
            checked.append(CheckedWeights(backbone=backbone.name, source=None, sha256=None, error=absent))
            continue
        note(f"loading {backbone.name}")
        try:
            wanted = "auto" if file is None else str(file)
            spec = load_backbone(backbone.name, wanted, seed=0, fit="squash", input_size_px=None).spec
        except LeukError as error:
            checked.append(CheckedWeights(backbone=backbone.name, source=None, sha256=None, error=error))
            continue
        checked.append(
            CheckedWeights(backbone=backbone.name, source=spec.weights_source, sha256=spec.weights_sha256, error=None)
        )
    return checked


def _named(names: Sequence[str]) -> list[Backbone]:
    found = []
    for name in names or BACKBONES:
        backbone = find_backbone(name)
        if backbone is None:
            raise unknown("backbone", name, BACKBONES)
        found.append(backbone)
    return found
