"""One job of many takes every N-th input: no job asks another, and the inputs are dealt the same whichever runs when.

Requirements met here:
- A shard is what the user said; the environment of a scheduler is looked at only where `slurm` was said.
- Each job goes through the names of all inputs, so that it can say of which list it took its part.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from leukemia_cli.errors import UsageError

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The `number`-th of `of` equal parts, from 1: the inputs at places number - 1, number - 1 + of, …"""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"shard {self} is none of 1/{self.of} to {self.of}/{self.of}", "Shards count from 1")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def place(self, row: int) -> int:
        """Give the place among all inputs, from 0, of this shard's `row`-th."""
        return self.number - 1 + row * self.of

    def rows_of(self, inputs: int) -> int:
        """Give how many of so many inputs are this shard's."""
        return max(0, (inputs - self.number + self.of) // self.of)


WHOLE = Shard(number=1, of=1)


def read_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read `I/N`, or `slurm`: the place of this task in its array; raises UsageError for anything else.

    Source: https://slurm.schedmd.com/job_array.html (the variables).
    """
    if text == "slurm":
        return _of_array(environment)
    found = _SHARD.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--shard {text!r} is neither I/N nor slurm", "Write --shard 1/8 to --shard 8/8, or --shard slurm"
        )
    number, of = map(int, found.groups())
    return Shard(number=number, of=of)


def _of_array(environment: Mapping[str, str]) -> Shard:
    missing = [name for name in _SLURM if name not in environment]
    if missing:
        raise UsageError(
            f"--shard slurm, and {', '.join(missing)} is not set: this is no task of an array",
            "Submit with: sbatch --array=1-8, or write --shard I/N",
        )
    try:
        task, least, most, count = (int(environment[name]) for name in _SLURM)
    except ValueError:
        said = ", ".join(f"{name}={environment[name]}" for name in _SLURM)
        raise UsageError(f"--shard slurm cannot read {said}", "Write --shard I/N") from None
    if most - least + 1 != count or not least <= task <= most:
        raise UsageError(
            f"--shard slurm needs an array without gaps, and this has {count} tasks from {least} to {most}",
            f"Submit with: sbatch --array=1-{count}, or write --shard I/N",
        )
    return Shard(number=task - least + 1, of=count)


class Dealt(Iterator[str]):
    """The paths of one shard, in order; when they are through, `inputs` counts all that there were, and `sha256` is of them.

    `paths` are gone through to their end, and never held.
    """

    def __init__(self, paths: Iterable[str], shard: Shard | None = None) -> None:
        self._paths = iter(paths)
        self._shard = shard or WHOLE
        self._digest = hashlib.sha256()
        self.inputs = 0

    def __next__(self) -> str:
        for path in self._paths:
            self._digest.update(os.fsencode(path) + b"\0")
            place, self.inputs = self.inputs, self.inputs + 1
            if place % self._shard.of == self._shard.number - 1:
                return path
        raise StopIteration

    @property
    def sha256(self) -> str:
        """Give the SHA-256 of all paths so far, each followed by a zero byte."""
        return self._digest.hexdigest()
