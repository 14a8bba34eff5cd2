"""Where artefacts lie: the folders of a workspace.

A folder from a newer leuk, or one that is no workspace, is refused by name and never written into.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, read_json, write_json
from leukemia_cli.workspace.files import disk_errors

MARK = "workspace.json"
FEATURES_JSON = "features.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder that keeps a manifest, runs, features and reports."""

    root: Path

    @property
    def manifest_folder(self) -> Path:
        """Hold manifest.csv and manifest.json."""
        return self.root / "manifest"

    @property
    def runs_folder(self) -> Path:
        """Hold one folder a run."""
        return self.root / "runs"

    @property
    def features_folder(self) -> Path:
        """Hold one folder for each set of extracted features, and the cache."""
        return self.root / "features"

    @property
    def reports_folder(self) -> Path:
        """Hold one folder a report."""
        return self.root / "reports"

    @property
    def comparisons_folder(self) -> Path:
        """Hold one folder for each comparison of backbones and variants, and the cells that they share."""
        return self.root / "comparisons"


def open_workspace(root: Path, *, create: bool) -> Workspace:
    """Give the workspace at `root`; with `create`, make it where there is nothing or an empty folder.

    Raises WorkspaceError where there is none, or one of a newer schema, or a folder that holds something else.
    """
    mark = root / MARK
    if mark.exists():
        stored = read_json(mark, "workspace")
        check_schema(stored, mark, SCHEMA_VERSION)
        return Workspace(root)
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"workspace {root} is a file, not a folder", "Name another folder with --workspace")
    if not create:
        state = "is not a leuk workspace" if root.exists() else "does not exist"
        raise WorkspaceError(
            f"workspace {root} {state}",
            "Make one with: leuk prepare SOURCE --task binary --workspace DIR, or name another with --workspace",
        )
    if root.exists() and any(root.iterdir()):
        raise WorkspaceError(
            f"folder {root} holds other files and is not a leuk workspace",
            "Name a new or empty folder with --workspace",
        )
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"schema_version": SCHEMA_VERSION})
    return Workspace(root)


@contextlib.contextmanager
def workspace_for(root: Path) -> Iterator[Workspace]:
    """Open or make the workspace at `root`; one made here vanishes again when the block fails before it holds anything."""
    known, there = (root / MARK).exists(), root.exists()
    workspace = open_workspace(root, create=True)
    try:
        yield workspace
    except BaseException:
        with contextlib.suppress(OSError):
            if not known and [path.name for path in root.iterdir()] == [MARK]:
                (root / MARK).unlink()
                if not there:
                    root.rmdir()
        raise
