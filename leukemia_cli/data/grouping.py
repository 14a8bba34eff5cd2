"""Which images belong together: patients, slides, whatever must not be split; and exact copies, which never are.

Requirements met here:
- Of two tellings, the one that keeps more images together is taken: equal ids are one group across sources and classes,
  and groups that share a copy of an image are joined.
- How groups are known is never overstated: of a mix, the weakest of `WEAKEST_FIRST` counts.
- An image without a group is a group of its own, named by its path within its source, so that moving changes nothing.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from leukemia_cli.catalog import unknown
from leukemia_cli.data.layouts import FoundImage, Reading, Source
from leukemia_cli.data.tables import read_table
from leukemia_cli.domain import GroupsSource, counted
from leukemia_cli.errors import DataError, UsageError

WEAKEST_FIRST: tuple[GroupsSource, ...] = ("none", "proposed", "filename", "given")
FORMS = ("auto", "none", "parent", "column:NAME", "regex:PATTERN", "file:CSV[:COLUMN]")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBy:
    """A `--group-by` taken apart: `value` is the column's name, the pattern, or the rest behind `file:`."""

    kind: Literal["auto", "none", "parent", "column", "regex", "file"]
    value: str = ""


def parse_group_by(text: str) -> GroupBy:
    """Take a `--group-by` apart; raises UsageError for an unknown form or a pattern that is none."""
    kind, colon, value = text.partition(":")
    if kind in ("auto", "none", "parent") and not colon:
        return GroupBy(kind=kind)  # type: ignore[arg-type]  # one of the words just compared
    if kind in ("column", "regex", "file") and value:
        if kind == "regex":
            try:
                re.compile(value)
            except re.error as error:
                raise UsageError(f"--group-by {text} is no regular expression: {error}", "Mend the pattern") from error
        return GroupBy(kind=kind, value=value)  # type: ignore[arg-type]  # the same
    raise unknown("--group-by", text, FORMS)


def group_images(source: Source, reading: Reading) -> tuple[list[str | None], GroupsSource]:
    """Give the group of each image of a source (None: not known), and how groups are known."""
    how = parse_group_by(source.group_by)
    images = reading.images
    if how.kind == "none":
        return [None] * len(images), "none"
    if how.kind == "auto":
        return _weaker([image.group for image in images], reading.groups_source)
    if how.kind == "parent":
        return [os.path.dirname(image.inner) or source.name for image in images], "filename"
    if how.kind == "column":
        return _weaker(_by_column(source, images, how.value), "given")
    if how.kind == "regex":
        return list(_by_pattern(source, images, how.value)), "filename"
    return _weaker(_by_file(source, images, how.value), "given")


def name_groups(images: Sequence[tuple[str, str, str | None]]) -> list[str]:
    """Name the group of each (source, path within it, group or None); an image without one is a group of its own."""
    given = {group for _, _, group in images if group is not None}
    places: dict[str, int] = defaultdict(int)
    for _, relative, group in images:
        if group is None:
            places[relative] += 1
    names = []
    for source, relative, group in images:
        name = group
        if name is None:
            name = relative if places[relative] == 1 else f"{source}/{relative}"
            while name in given:
                name = f"./{name}"
        names.append(name)
    return names


def join_groups(groups: Sequence[str], together: Iterable[Sequence[int]]) -> list[str]:
    """Join the groups of the rows of each set in `together`; a joined group has the smallest of its names."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for rows in together:
        for row in rows[1:]:
            one, other = sorted((root(groups[rows[0]]), root(groups[row])))
            parent[other] = one
    return [root(group) for group in groups]


def join_copies(
    images: Sequence[tuple[str, str, str | None]], digests: Sequence[str] | Sequence[bytes]
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Name the groups as `name_groups` does, those of equal digests joined; give also the rows of each set of copies."""
    copies = find_copies(digests)
    return join_groups(name_groups(images), copies), copies


def copies_said(copies: Sequence[Sequence[int]]) -> list[str]:
    """Say, in one line or none, how many images are copies of others."""
    if not copies:
        return []
    more = sum(len(same) - 1 for same in copies)
    return [f"{counted(more, 'exact copy', 'exact copies')} of other images: each lies in the group of its original"]


def find_copies(digests: Sequence[str] | Sequence[bytes]) -> list[tuple[int, ...]]:
    """Give the rows of each digest that occurs more than once, in order of first occurrence."""
    order = sorted(range(len(digests)), key=digests.__getitem__)
    same = (tuple(rows) for _, rows in itertools.groupby(order, key=digests.__getitem__))
    return sorted(rows for rows in same if len(rows) > 1)


def _weaker(groups: list[str | None], known: GroupsSource) -> tuple[list[str | None], GroupsSource]:
    return groups, "none" if None in groups else known


def _by_column(source: Source, images: Sequence[FoundImage], column: str) -> list[str | None]:
    groups: list[str | None] = []
    for image in images:
        if column not in image.columns:
            if not image.columns:
                raise DataError(
                    f"--group-by column:{column} needs a labels file, and {source.path} is read without one",
                    "Give one with --labels, or the groups with --group-by file:CSV",
                )
            near = unknown("column", column, image.columns)
            raise DataError(f"the labels file of {source.path} has no column {column!r}", near.hint)
        groups.append(image.columns[column] or None)
    return groups


def _by_pattern(source: Source, images: Sequence[FoundImage], pattern: str) -> list[str]:
    compiled = re.compile(pattern)
    groups, unmatched = [], []
    for image in images:
        match = compiled.search(image.relative)
        group = (match[1] if compiled.groups else match[0]) if match else None
        if group:
            groups.append(group)
        else:
            unmatched.append(image.relative)
    if unmatched:
        raise DataError(
            f"--group-by regex:{pattern} finds no group in {len(unmatched)} of {len(images)} images of {source.path}: "
            + _first(unmatched),
            "The pattern is searched in the path within the source; its first ( ) is the group",
        )
    return groups


def _by_file(source: Source, images: Sequence[FoundImage], value: str) -> list[str | None]:
    path, column = _file_and_column(source, value)
    table = read_table(path)
    if len(table.columns) < 2:
        raise DataError(f"{path} has only the column {table.columns[0]}", "It needs one of images and one of groups")
    groups = table.column(column) if column else [row[1] for row in table.rows]
    rows_by_name: dict[str, list[int]] = defaultdict(list)
    tails = [_tail(row[0]) for row in table.rows]
    for row, tail in enumerate(tails):
        if tail:
            rows_by_name[tail[-1]].append(row)
    matched: list[str | None] = []
    taken: dict[int, str] = {}
    unmatched, ambiguous = [], []
    for image in images:
        rows = _matching_rows(image, rows_by_name, tails)
        if not rows:
            unmatched.append(image.relative)
        elif len({groups[row] for row in rows}) > 1 or any(taken.get(row, image.path) != image.path for row in rows):
            ambiguous.append(image.relative)
        else:
            matched.append(groups[rows[0]] or None)
            taken.update((row, image.path) for row in rows)
    if unmatched:
        raise DataError(
            f"{path} names no group for {len(unmatched)} of {len(images)} images of {source.path}: {_first(unmatched)}",
            f"Its first column, {table.columns[0]}, must hold their paths or the ends of them",
        )
    if ambiguous:
        raise DataError(
            f"{path} fits {len(ambiguous)} of {len(images)} images of {source.path} in two ways: {_first(ambiguous)}",
            f"Write more of the path into its first column, {table.columns[0]}",
        )
    return matched


def _matching_rows(image: FoundImage, rows_by_name: dict[str, list[int]], tails: list[tuple[str, ...]]) -> list[int]:
    """Give the rows whose path is an end of the image's, the longest only; or else those of whose path it is an end."""
    whole, short = _tail(image.path), _tail(image.relative)
    rows = rows_by_name.get(short[-1], [])
    ends = [row for row in rows if whole[-len(tails[row]) :] == tails[row]]
    if ends:
        longest = max(len(tails[row]) for row in ends)
        return [row for row in ends if len(tails[row]) == longest]
    return [row for row in rows if tails[row][-len(short) :] == short]


def _file_and_column(source: Source, value: str) -> tuple[str, str | None]:
    path = source.locate(value)
    if os.path.isfile(path):
        return path, None
    file, colon, column = value.rpartition(":")
    if colon and os.path.isfile(source.locate(file)):
        return source.locate(file), column
    raise DataError(
        f"there is no file {source.locate(file or value)} to group by", "Check the path in --group-by file:…"
    )


def _tail(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
