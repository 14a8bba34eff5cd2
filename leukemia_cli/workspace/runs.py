"""The runs of a workspace: their folders, what each says of itself, and which of them a word means.

A run of which a byte has changed since it was written is refused, and so is one whose names lead out of its folder: runs
travel between laboratories.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, read_json, sealed, write_json
from leukemia_cli.workspace.files import numbered_folder
from leukemia_cli.workspace.folders import Workspace

RUN_FILE = "run.json"
STARTED_FILE = "started.json"
EXPORT_SUFFIX = ".leuk"
_COPY = "Restore it from a copy, or train it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run that is finished (`facts` is its run.json) or was started (`facts` is its started.json)."""

    path: Path
    finished: bool
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Give the run's id: the name of its folder when it was made."""
        return str(self.facts.get("run", self.path.name))

    @property
    def name(self) -> str:
        """Give the name the user gave, or the id."""
        return str(self.facts.get("name") or self.id)


def read_run_folder(path: Path) -> RunFolder:
    """Read what a run says of itself; raises WorkspaceError where it is no run or a damaged one."""
    finished = (path / RUN_FILE).exists()
    file = path / (RUN_FILE if finished else STARTED_FILE)
    facts = read_json(file, "run")
    check_schema(facts, file, SCHEMA_VERSION)
    for key in ("run", "name"):
        # They become names of folders and files: an id such as ../../x would have a report replace a folder anywhere.
        if facts.get(key) is not None and not _is_name(facts[key]):
            raise WorkspaceError(f"{file} is damaged: {key} {str(facts[key])[:80]!r} is no name of a run", _COPY)
    files = facts.get("files", {})
    if not isinstance(files, dict) or not all(_stays_inside(name) for name in files):
        raise WorkspaceError(f"{file} is damaged: it lists files that do not lie in its folder", _COPY)
    return RunFolder(path=path, finished=finished, facts=facts)


def _is_name(name: object) -> bool:
    try:
        check_run_name(str(name))
    except UsageError:
        return False
    return isinstance(name, str)


def _stays_inside(name: str) -> bool:
    """Tell whether a relative path, joined to a folder, stays below it."""
    return bool(name) and "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts


def list_runs(workspace: Workspace) -> tuple[list[RunFolder], list[tuple[Path, str]]]:
    """Give the runs from oldest to newest, and the folders that cannot be read with the reason."""
    runs, damaged = [], []
    if workspace.runs_folder.is_dir():
        for path in sorted(workspace.runs_folder.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                runs.append(read_run_folder(path))
            except WorkspaceError as error:
                damaged.append((path, error.problem))
    runs.sort(key=lambda run: (str(run.facts.get("created", "")), run.id))
    return runs, damaged


def check_run_name(name: str) -> None:
    """Raise UsageError for a name that cannot be a folder's, or that means something else where a run is named."""
    if not name.strip() or name.startswith((".", "-")) or not name.isprintable() or set(name) & set("/\\"):
        raise UsageError(
            f"a run cannot be named {name!r}", "Use letters, digits, dots, - and _, beginning with a letter or digit"
        )
    if name in ("best", "latest", "all"):
        raise UsageError(f"a run cannot be named {name!r}: that word means another run", "Choose another --name")


def new_run_folder(workspace: Workspace, stem: str, facts: Mapping[str, Any]) -> Path:
    """Make `runs/<id>/` with its started.json; the id is `stem` with a number that is free, safe beside other makers.

    Raises UsageError for a stem that cannot be a folder's name.
    """
    check_run_name(stem)
    path = numbered_folder(workspace.runs_folder, stem)
    write_json(path / STARTED_FILE, sealed({**facts, "run": path.name}))
    return path


def validation_score(run: RunFolder) -> float | None:
    """Give the validation balanced accuracy that a run says of itself; None where it says none."""
    validation = run.facts.get("validation")
    score = validation.get("balanced_accuracy") if isinstance(validation, Mapping) else None
    return float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None


def reports_of(workspace: Workspace, run: str) -> list[str]:
    """Name the reports of a run; `a-1` does not claim those of another run `a-1-2`."""
    parts = ("test", "val")
    if not workspace.reports_folder.is_dir():
        return []
    return sorted(
        folder.name
        for folder in workspace.reports_folder.iterdir()
        if folder.name.startswith(f"{run}-")
        and ((part := folder.name.removeprefix(f"{run}-")) in parts or part.startswith("external-"))
        and (folder / "report.json").is_file()
    )


def check_own(workspace: Workspace, run: RunFolder) -> None:
    """Raise UsageError for a run from elsewhere whose reports would take the place of those of a run of this workspace."""
    own = workspace.runs_folder / run.id
    if own.exists() and own.resolve() != run.path.resolve():
        raise UsageError(
            f"run {run.path} lies outside workspace {workspace.root}, which has another run of that name",
            "Name the run's own workspace with --workspace, or an empty folder",
        )


# ----------------------------------------------------------------------------------------------- what a word means


def find_run(workspace: Workspace, wanted: str | None, *, manifest: str | None, finished: bool = True) -> RunFolder:
    """Give the run that `wanted` means: an id, a name, a unique prefix, `latest`, `best`, or a path; None means `best`.

    `best` has the highest validation balanced accuracy among finished runs made from the manifest of this fingerprint
    (from any, where None); of equals the newest. `finished` chooses between finished runs and those still to be resumed;
    a path, id or name finds either. Raises WorkspaceError where there is no such run or it is damaged, UsageError where
    several match.
    """
    wanted = wanted or "best"
    at_path = run_at(wanted)
    if at_path is not None:
        return at_path
    every, damaged = list_runs(workspace)
    runs = [run for run in every if run.finished == finished]
    if wanted == "latest":
        if not runs:
            state = "finished run" if finished else "interrupted run to resume"
            raise WorkspaceError(f"no {state} in {workspace.root}", _known(every))
        return runs[-1]
    if wanted == "best":
        return _best(workspace, runs, manifest)
    exact = [run for run in every if run.id == wanted] or [run for run in every if run.name == wanted]
    if exact:
        return exact[-1]
    for path, reason in damaged:
        if path.name == wanted:
            raise WorkspaceError(reason, "It is damaged: restore it from a copy, or train it again")
    matches = [run for run in every if run.id.startswith(wanted) or run.name.startswith(wanted)]
    if not matches:
        raise WorkspaceError(f"no run {wanted!r} in {workspace.root}", _known(every))
    if len(matches) > 1:
        listed = ", ".join(run.id for run in matches)
        raise UsageError(f"{wanted!r} begins several runs: {listed}", "Write more of the id")
    return matches[0]


def run_at(wanted: str) -> RunFolder | None:
    """Give the run at a path: a run's folder or its run.json; None where `wanted` can only be an id or a name.

    Raises WorkspaceError where it is a path and there is no run, UsageError where it is an exported file.
    """
    path = Path(wanted)
    if is_export(path) and path.exists():
        raise UsageError(
            f"{wanted} is an exported run: it can classify images, and nothing else",
            "Name the run that it was made from; or use: leuk classify --run FILE.leuk",
        )
    if path.name == RUN_FILE and path.is_file():
        path = path.parent
    if (path / RUN_FILE).is_file() or (path / STARTED_FILE).is_file():
        return read_run_folder(path)
    if os.sep not in wanted:
        return None
    if not path.is_dir():
        raise WorkspaceError(f"there is no run at {wanted}", "Check the path; runs lie in WORKSPACE/runs/")
    raise WorkspaceError(f"folder {wanted} holds no {RUN_FILE}: it is no run", "Runs lie in WORKSPACE/runs/")


def is_export(path: Path) -> bool:
    """Tell whether a run lies in an exported file rather than in a folder."""
    return path.suffix == EXPORT_SUFFIX and not path.is_dir()


def _best(workspace: Workspace, runs: Sequence[RunFolder], manifest: str | None) -> RunFolder:
    fitting = [run for run in runs if manifest is None or run.facts.get("manifest") == manifest]
    if not fitting:
        other = f" ({len(runs)} from another manifest)" if runs else ""
        raise WorkspaceError(
            f"no finished run made from the manifest of {workspace.root}{other}",
            "Train one with: leuk train" if not runs else "Name a run, or train one with: leuk train",
        )
    scored = [(score, i) for i, run in enumerate(fitting) if (score := validation_score(run)) is not None]
    return fitting[max(scored)[1]] if scored else fitting[-1]


def _known(runs: Sequence[RunFolder]) -> str:
    if not runs:
        return "There are none yet; make one with: leuk train"
    listed = ", ".join(run.id for run in runs[-8:])
    return f"Known: {listed}{' and older ones' if len(runs) > 8 else ''}. See: leuk runs"
