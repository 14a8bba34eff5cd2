"""What keeps images together: groups that are given or proposed, exact copies, and near copies that groups share.

Requirements met here:
- Exact copies, by file or by pixels, lie in one group; under two classes they are an error.
- Near copies (crops, turned, brightened and saved again) are never parted: groups that hold some of one another are dealt as
  one. Where nobody gave groups, near copies and photographs taken in one go are proposed as groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leukemia_cli.data.candidates import Candidate
from leukemia_cli.data.duplicates import capture_bursts, clusters, find_near
from leukemia_cli.data.grouping import copies_said, join_copies, join_groups
from leukemia_cli.data.likeness import NearPair, Prints
from leukemia_cli.domain import GroupsSource, Note, counted
from leukemia_cli.errors import DataError


class Shown(Protocol):
    """What images show of belonging together, in columns: fingerprints, and when and by what each was taken."""

    @property
    def prints(self) -> Prints: ...
    @property
    def taken(self) -> Sequence[str | None]: ...
    @property
    def cameras(self) -> Sequence[str]: ...

    def digests(self) -> Sequence[bytes]:
        """Give the digest of each image's pixels; of a million they are not held longer than they are compared."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """The group of each image, and the bundle of groups that it is dealt with.

    `copies` are rows that hold one picture, `near` pairs of others that are nearly one; `bundled` says whether groups that
    share near copies are dealt as one.
    """

    groups: Sequence[str]
    bundles: Sequence[str]
    groups_source: GroupsSource
    copies: Sequence[tuple[int, ...]]
    near: Sequence[NearPair]
    bundled: bool

    def held(self) -> Counter[str]:
        """Count the groups of each bundle."""
        return Counter(bundle for bundle, _ in set(zip(self.bundles, self.groups, strict=True)))

    def said(self) -> list[str]:
        """Say how many images are copies, or nearly copies, of others."""
        told = copies_said(self.copies)
        if self.near:
            count = len({row for pair in self.near for row in (pair.first, pair.second)})
            tied = sum(n for n in self.held().values() if n > 1)
            told.append(
                f"{counted(count, 'image')} nearly the same as another (a crop, turned, brightened or saved again, or two "
                "photographs of one place)"
                + (
                    f", never parted; they tie {tied} groups together, which are dealt as one where they share some, and "
                    "counted apart: if those are of one patient, intervals are too narrow"
                    if tied
                    else ""
                )
            )
        return told

    def parted(self, parts: Sequence[str] | Sequence[int | None]) -> list[str]:
        """Warn of near copies that lie in different parts, because the labels named them or because that was asked for."""
        apart = sum(parts[pair.first] != parts[pair.second] for pair in self.near)
        if not apart:
            return []
        return [
            f"{counted(apart, 'pair')} of near copies lie in different splits or folds: figures are optimistic (audit.html "
            "lists the pairs)"
        ]


def tie(
    candidates: Sequence[Candidate],
    shown: Shown,
    groups_source: GroupsSource,
    *,
    bundle: bool,
    propose: bool,
    scratch: Path,
    note: Note,
) -> Ties:
    """Join the groups of exact copies; with `bundle` tie groups that share near copies; with `propose` propose unknown ones.

    Raises DataError for copies under two classes.
    """
    groups, copies = join_copies([(c.source, c.relative, c.group) for c in candidates], shown.digests())
    _check_copies(candidates, copies)
    same = {row for rows in copies for row in rows[1:]}  # of exact copies the first stands for all
    note(f"comparing {counted(len(candidates) - len(same), 'image')} for near copies")
    near = find_near(shown.prints, skip=same, scratch=scratch)
    joined = clusters(near, len(candidates)) if bundle else []
    if groups_source == "none":
        proposed = capture_bursts(shown.taken, shown.cameras) if propose else []
        if propose and (joined or proposed):
            groups_source = "proposed"
        groups = join_groups(groups, (*joined, *proposed))
    return Ties(
        groups=groups,
        bundles=join_groups(groups, joined) if joined else groups,
        groups_source=groups_source,
        copies=copies,
        near=near,
        bundled=bool(joined),
    )


def _check_copies(candidates: Sequence[Candidate], copies: Iterable[Sequence[int]]) -> None:
    for rows in copies:
        first = candidates[rows[0]]
        for row in rows[1:]:
            other = candidates[row]
            if other.label != first.label:
                raise DataError(
                    f"{first.path} ({first.label}) and {other.path} ({other.label}) are one image under two classes",
                    "Find out which is right, and remove the other",
                )
