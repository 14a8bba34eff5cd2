"""What a run records of its backbone: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """A backbone as a run records it: enough to build it again with no table and no network at hand."""

    name: str
    timm_name: str
    feature_width: int
    licence: str
    weights: str
    """What the user asked for: `auto`, `none`, or a file's name."""
    weights_source: str
    """What was found: a package, a hub's address, a file with how much of it matched, or 'random'."""
    weights_sha256: str | None

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {slot: getattr(self, slot) for slot in self.__slots__}

    @property
    def stem(self) -> str:
        """Give the name as it stands in names of folders."""
        return self.name.replace(":", "-").replace("/", "-")

    @property
    def is_random(self) -> bool:
        """Tell whether the weights were never trained on anything before."""
        return self.weights == "none"
