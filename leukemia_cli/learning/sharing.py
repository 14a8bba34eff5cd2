"""Features by several processes: each computes its share into the cache that all see, and the leader reads them there.

What the leader does not find there it computes itself, so a slow or odd file system costs time and never a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from leukemia_cli.domain import Preprocessing, Sample
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.learning.arrays import Features
from leukemia_cli.learning.distributed import Team
from leukemia_cli.learning.features import FrozenRows, Means, Views

Whose = Literal["given", "moved"]
"""The backbone that training began with, or the one that was fine-tuned last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows the leader asks the others for."""

    whose: Whose
    as_photographed: bool
    places: tuple[int, ...]
    plain: bool
    """Whether the plain view alone is wanted, or all training views."""
    digest: str
    """Of the backbone's values."""

    def as_json(self) -> dict[str, Any]:
        """Give an order of JSON types."""
        return {"do": "features", **{name: getattr(self, name) for name in self.__slots__}}

    @classmethod
    def from_json(cls, order: dict[str, Any]) -> Wanted:
        """Undo `as_json`."""
        return cls(**{**{name: order[name] for name in cls.__slots__}, "places": tuple(order["places"])})


class SharedRows(FrozenRows):
    """Rows of a manifest's images that every process of a team computes a share of; `ask` orders the others to."""

    def __init__(
        self,
        samples: Sequence[Sample],
        backbone: nn.Module,
        preprocessing: Preprocessing,
        means: Means,
        *,
        team: Team,
        ask: Callable[[tuple[int, ...], Views, str], None],
    ) -> None:
        super().__init__(samples, backbone, preprocessing, means)
        self._team, self._ask = team, ask

    def __call__(self, places: Sequence[int], views: Views) -> Features:
        """Give the rows (n, V, D) of the images at `places`; raises as `extract` does, whichever process met the error."""
        missing = tuple(
            at
            for at in dict.fromkeys(places)
            if any((self._samples[at].sha256, key) not in self._cache for key in views.keys)
        )
        if len(missing) >= self._team.size > 1:
            self._ask(missing, views, self._digest)
            self.compute_share(missing, views)
            self._team.wait_until_done()
            self._cache = self._open_cache()
        return super().__call__(places, views)

    def compute_share(self, places: Sequence[int], views: Views) -> None:
        """Compute this process's share of rows into the cache."""
        share = places[self._team.rank :: self._team.size]
        if share:
            super().__call__(share, views)
            if not self._team.leads:
                self._held.clear()  # nobody here asks for them again

    def check_digest(self, digest: str) -> None:
        """Raise WorkspaceError where the leader's backbone has other values than this process's."""
        if digest != self._digest:
            raise WorkspaceError(
                f"process {self._team.rank} of {self._team.size} has another backbone than the first",
                "Give every machine the same weights, as a file on a disk that all see",
            )
