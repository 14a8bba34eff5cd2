"""What a label means: tasks by name or from a file, subsets of their classes, and the class behind a raw label."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from leukemia_cli.catalog import TASKS, unknown
from leukemia_cli.data.plain_yaml import MOST_BYTES, read_plain
from leukemia_cli.domain import Task
from leukemia_cli.errors import UsageError

_KEYS = ("name", "classes", "aliases", "ignored", "positive")


def plain(label: str) -> str:
    """Give a label as it is compared: small letters, and one space for any run of white space, - or _."""
    return " ".join(re.split(r"[\s_\-]+", label.strip().casefold())).strip()


def resolve_task(
    name_or_file: str | Mapping[str, Any], classes: Sequence[str] | None = None, positive: str | None = None
) -> Task:
    """Give a built-in task or one from a YAML file (or its keys), or the subset `classes` of it in their order.

    A subset still knows the names of the classes that it leaves out. With two classes there is always a positive one.
    Raises UsageError for whatever does not exist or does not go together.
    """
    if not isinstance(name_or_file, str):
        task = task_from_mapping(name_or_file, "task")
    elif name_or_file in TASKS:
        task = TASKS[name_or_file]
    elif name_or_file.lower().endswith((".yaml", ".yml")) or os.path.isfile(name_or_file):
        task = task_from_mapping(read_yaml(name_or_file, "task file"), name_or_file)
    else:
        raise unknown("task", name_or_file, TASKS, ", or the path of a task file ending in .yaml")
    kept = task.classes if classes is None else _subset(task, classes)
    chosen = _positive(task, kept, positive)
    return Task(
        name=task.name,
        classes=kept,
        aliases={**{plain(kind): kind for kind in task.classes}, **task.aliases},
        ignored=task.ignored,
        positive=chosen,
        whole=task.whole,
    )


def class_of(task: Task, label: str) -> str | None:
    """Give the class that a raw label means, which may be one that a subset leaves out; None for none."""
    if label in task.classes:
        return label
    compared = plain(label)
    return task.aliases.get(compared) or next((kind for kind in task.classes if plain(kind) == compared), None)


def is_ignored(task: Task, label: str) -> bool:
    """Tell whether the task says that a label is left out; this goes before what the label means."""
    return plain(label) in {plain(name) for name in task.ignored}


def nearest(task: Task, label: str) -> str | None:
    """Give the name that the task knows and that looks most like a label."""
    known = {plain(kind): kind for kind in task.classes} | {alias: alias for alias in task.aliases}
    near = difflib.get_close_matches(plain(label), list(known), n=1, cutoff=0.7)
    return known[near[0]] if near else None


def read_yaml(path: str, what: str) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; raises UsageError naming `what` it was to be."""
    try:
        with open(path, "rb") as file:
            stored = read_plain(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {os.strerror(error.errno or 0)}", "Check the path") from error
    except ValueError as error:
        raise UsageError(f"{what} {path} is not valid YAML: {error}", "Check colons, indents and quotes") from error
    if not isinstance(stored, dict):
        raise UsageError(f"{what} {path} holds no keys", "Write it as `key: value` lines")
    return stored


def check_keys(stored: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Raise UsageError, with the nearest known key, for the first unknown one."""
    for key in stored:
        if key not in known:
            error = unknown("key", str(key), known)
            raise UsageError(f"{error.problem} in {where}", error.hint)


def text_of(value: object, where: str) -> str:
    """Give a YAML scalar as text; raises UsageError for what is none, or what YAML took for yes or no."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where} must be text, got {reprlib.repr(value)}", "Put it between quotes")
    return str(value)


def texts_of(value: object, where: str) -> tuple[str, ...]:
    """Give a YAML list of scalars, or one alone, as texts; raises UsageError for anything else."""
    return tuple(text_of(item, where) for item in (value if isinstance(value, list) else [value]))


def task_from_mapping(stored: Mapping[str, Any], where: str) -> Task:
    """Make a task of a file's keys; aliases of the built-in classes that it has are taken over."""
    check_keys(stored, _KEYS, where)
    if "classes" not in stored:
        raise UsageError(f"{where} names no classes", "Write, for example: classes: [ALL, HTL]")
    classes = texts_of(stored["classes"], f"classes in {where}")
    if len(classes) < 2 or len({plain(kind) for kind in classes}) < len(classes):
        raise UsageError(f"classes in {where} must be at least two different ones", f"It has: {', '.join(classes)}")
    name = text_of(stored.get("name", os.path.splitext(os.path.basename(where))[0]), f"name in {where}")
    aliases = {alias: kind for task in TASKS.values() for alias, kind in task.aliases.items() if kind in classes}
    own = stored.get("aliases") or {}
    if not isinstance(own, dict):
        raise UsageError(f"aliases in {where} must be lists by class", "Write, for example: aliases: {HTL: [healthy]}")
    said: dict[str, str] = {plain(kind): kind for kind in classes}
    for kind, others in own.items():
        if kind not in classes:
            error = unknown("class", str(kind), classes)
            raise UsageError(f"aliases in {where} are for {error.problem}", error.hint)
        for alias in texts_of(others, f"aliases of {kind} in {where}"):
            if said.setdefault(plain(alias), kind) != kind:
                raise UsageError(
                    f"{alias!r} in {where} would mean both {said[plain(alias)]} and {kind}", "Keep it under one of them"
                )
    ignored = texts_of(stored.get("ignored") or [], f"ignored in {where}")
    both = [label for label in ignored if plain(label) in {plain(kind) for kind in classes}]
    if both:
        raise UsageError(f"{both[0]!r} in {where} is both a class and ignored", "Use --classes to leave out a class")
    positive = stored.get("positive")
    if positive is not None:
        positive = text_of(positive, f"positive in {where}")
        if positive not in classes or len(classes) != 2:
            raise UsageError(
                f"positive {positive!r} in {where} is not one of two classes", f"Its classes: {', '.join(classes)}"
            )
    return Task(name=name, classes=classes, aliases={**aliases, **said}, ignored=ignored, positive=positive)


def _subset(task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    kept = tuple(_class(task, name, "class") for name in classes)
    if len(set(kept)) < len(kept):
        raise UsageError(f"--classes {','.join(classes)} names a class twice", "Name each class once")
    if len(kept) < 2:
        raise UsageError(
            f"--classes {','.join(classes)} leaves fewer than two classes", f"Choose from: {', '.join(task.classes)}"
        )
    return kept


def _class(task: Task, name: str, what: str) -> str:
    kind = class_of(task, name.strip())
    if kind is None:
        error = unknown(what, name.strip(), task.classes)
        raise UsageError(f"{error.problem} of task {task.name}", error.hint)
    return kind


def _positive(task: Task, kept: Sequence[str], wanted: str | None) -> str | None:
    if wanted is not None:
        if len(kept) != 2:
            raise UsageError(f"--positive {wanted} needs a task of two classes, not {len(kept)}", "Leave it out")
        positive = _class(task, wanted, "positive class")
        if positive not in kept:
            raise UsageError(f"--positive {wanted} is not one of the classes", f"Choose from: {', '.join(kept)}")
        return positive
    if len(kept) != 2:
        return None
    if task.positive in kept:
        return task.positive
    raise UsageError(
        f"of the two classes {' and '.join(kept)} none is named as the positive one",
        f"Say which is looked for: --positive {kept[0]}",
    )
