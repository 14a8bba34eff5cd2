"""What `leuk prepare` was pointed at, taken apart into sources.

A SOURCE is a folder, `CLASS=FOLDER`, or a dataset YAML:

    task: five-class                  # a built-in task, a task file, or its keys; --task goes before it
    sources:
      - path: AML_cells               # relative to this file
        name: deepapl                 # default: the folder's name
        layout: csv                   # default: auto
        labels: AML_cells/labels.csv
        label_column: diagnosis
        map: {APL: AML, unclear: null}          # raw label: class, or null to leave out
        only: {cell_type: [blast, promyelocyte]}  # rows to keep, by column
        group_by: column:patient
      - path: healthy_cells
        class: HTL                    # every image below is of this class
        group_by: none
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leukemia_cli.catalog import TASKS
from leukemia_cli.data.grouping import parse_group_by
from leukemia_cli.data.layouts import Source, check_source
from leukemia_cli.data.tasks import check_keys, read_yaml, resolve_task, text_of, texts_of
from leukemia_cli.domain import Task
from leukemia_cli.errors import DataError, UsageError

_KEYS = ("path", "name", "layout", "labels", "label_column", "class", "map", "only", "group_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDefaults:
    """What the flags say of every source that does not say it itself."""

    layout: str = "auto"
    labels: str | None = None
    label_column: str | None = None
    group_by: str = "auto"


def read_sources(
    arguments: Sequence[str], defaults: SourceDefaults
) -> tuple[list[Source], str | Mapping[str, Any] | None]:
    """Take SOURCE arguments apart; give the sources and the task that a dataset YAML names, if one does.

    Raises UsageError for a YAML that is not understood, DataError for a folder that is not there.
    """
    sources: list[Source] = []
    tasks: list[str | Mapping[str, Any]] = []
    for argument in arguments:
        if argument.lower().endswith((".yaml", ".yml")) and not os.path.isdir(argument):
            listed, task = _read_dataset(argument, defaults)
            sources += listed
            if task is not None and task not in tasks:
                tasks.append(task)
        else:
            sources.append(_read_argument(argument, defaults))
    if not sources:
        raise UsageError("no SOURCE was given", "Name a folder of images, CLASS=FOLDER, or a dataset YAML")
    if defaults.labels is not None and len(sources) > 1:
        raise UsageError(
            f"--labels {defaults.labels} with {len(sources)} sources leaves open which of them it is for",
            "List the sources, each with its labels, in a dataset YAML",
        )
    if len(tasks) > 1:
        raise UsageError("the dataset files name different tasks", "Say which one with --task")
    for source in sources:
        check_source(source)
    return _named_apart(sources), tasks[0] if tasks else None


def settle_task(
    wanted: str | None,
    listed: str | Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    positive: str | None,
) -> Task:
    """Give the task of the flag, or else of the dataset YAML; raises UsageError where neither names one."""
    task = wanted or listed
    if task is None:
        raise UsageError(
            "no task was given", f"Use --task {' or --task '.join(TASKS)}, or a task file: --task FILE.yaml"
        )
    return resolve_task(task, classes, positive)


def _read_argument(argument: str, defaults: SourceDefaults) -> Source:
    label, equals, folder = argument.partition("=")
    if not equals or os.path.exists(argument):
        label, folder = "", argument
    if equals and not label and not os.path.exists(argument):
        raise UsageError(
            f"SOURCE {argument!r} names no class before the =", "Write CLASS=FOLDER, for example ALL=images"
        )
    path = os.path.abspath(folder)
    return _checked(
        Source(
            path=path,
            name=_base_name(path),
            layout=defaults.layout,
            labels=os.path.abspath(defaults.labels) if defaults.labels else None,
            label_column=defaults.label_column,
            label=label or None,
            group_by=defaults.group_by,
            places=(os.getcwd(),),
        ),
        f"SOURCE {argument}",
    )


def _read_dataset(file: str, defaults: SourceDefaults) -> tuple[list[Source], str | Mapping[str, Any] | None]:
    if not os.path.exists(file):
        raise DataError(f"there is no dataset file {file}", "Check the path")
    if defaults.labels is not None:
        raise UsageError("--labels does not go with a dataset YAML", f"Write labels: under its source in {file}")
    stored = read_yaml(file, "dataset file")
    check_keys(stored, ("sources", "task"), file)
    entries = stored.get("sources")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{file} lists no sources", "Write `sources:` and under it one `- path: FOLDER` for each")
    folder = os.path.dirname(os.path.abspath(file))
    sources = [
        _read_entry(entry, f"source {n} of {file}", folder, defaults) for n, entry in enumerate(entries, start=1)
    ]
    task = stored.get("task")
    if isinstance(task, dict):
        return sources, task
    if task is not None:
        task = text_of(task, f"task in {file}")
        beside = os.path.join(folder, task)
        if task not in TASKS and os.path.isfile(beside):
            task = beside
    return sources, task


def _read_entry(entry: object, where: str, folder: str, defaults: SourceDefaults) -> Source:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no list of keys", "Write it as `- path: FOLDER` with further keys below")
    check_keys(entry, _KEYS, where)
    if "path" not in entry:
        raise UsageError(f"{where} has no path", "Write `path: FOLDER`, relative to the dataset file")
    said = {key: text_of(value, f"{key} of {where}") for key, value in entry.items() if key not in ("map", "only")}
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(said["path"])))
    source = Source(
        path=path,
        name=said.get("name", _base_name(path)),
        layout=said.get("layout", "auto" if "class" in said or "labels" in said else defaults.layout),
        label_column=said.get("label_column", defaults.label_column),
        label=said.get("class"),
        map=_read_map(entry.get("map"), where),
        only=_read_only(entry.get("only"), where),
        group_by=said.get("group_by", defaults.group_by),
        places=(folder,),
    )
    labels = said.get("labels")
    return _checked(replace(source, labels=source.locate(labels)) if labels else source, where)


def _read_map(stored: object, where: str) -> dict[str, str | None]:
    if stored is None:
        return {}
    if not isinstance(stored, dict):
        raise UsageError(f"map of {where} is no list of labels", "Write `map: {raw label: CLASS}`")
    return {
        text_of(raw, f"label in map of {where}"): None if kind is None else text_of(kind, f"class in map of {where}")
        for raw, kind in stored.items()
    }


def _read_only(stored: object, where: str) -> dict[str, tuple[str, ...]]:
    if stored is None:
        return {}
    if not isinstance(stored, dict):
        raise UsageError(f"only of {where} is no list of columns", "Write `only: {column: [value, value]}`")
    return {
        text_of(column, f"column in only of {where}"): texts_of(values, f"only of {where}")
        for column, values in stored.items()
    }


def _checked(source: Source, where: str) -> Source:
    parse_group_by(source.group_by)
    if source.label is not None and source.layout not in ("auto", "csv"):
        raise UsageError(
            f"{where} has both a class for all its images and layout {source.layout}", "Leave out one of the two"
        )
    if source.label is not None and source.map:
        raise UsageError(f"{where} has both a class for all its images and a map", "Leave out one of the two")
    return source


def _base_name(path: str) -> str:
    return os.path.basename(path) or "root"


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    taken: Counter[str] = Counter()
    named = []
    for source in sources:
        taken[source.name] += 1
        count = taken[source.name]
        named.append(source if count == 1 else replace(source, name=f"{source.name}-{count}"))
    return named
