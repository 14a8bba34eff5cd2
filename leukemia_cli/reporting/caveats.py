"""What must be said wherever a figure stands: what it is not for, what nothing was pretrained for, what it is a part of."""

from __future__ import annotations

from collections.abc import Sequence

RESEARCH_USE = "For research use only: not a medical device, and not for the diagnosis of patients."
RANDOM = "RANDOM WEIGHTS"

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def is_random(weights: str) -> bool:
    """Say whether a description of weights, such as 'none' or 'none (random)', means that nothing was pretrained."""
    return weights.strip().casefold().split(" ")[0] in ("none", "random")


def random_warning(which: str) -> str:
    """Warn that the backbones `which` were not pretrained."""
    return (
        f"{RANDOM}: {which} started from random numbers (weights: none), nothing was pretrained; "
        "these figures say nothing about what the method can do"
    )


def subset_of(classes: Sequence[str], whole_class_count: int) -> str | None:
    """Say '3 of five classes' for a subset, None for a whole task."""
    if len(classes) == whole_class_count:
        return None
    whole = _WORDS[whole_class_count] if whole_class_count < len(_WORDS) else str(whole_class_count)
    return f"{len(classes)} of {whole} classes"


def subset_warning(subset: str, classes: Sequence[str]) -> str:
    """Warn that figures are of some classes of a task alone."""
    return f"{subset} ({', '.join(classes)}): not to be compared with figures of the whole task"
