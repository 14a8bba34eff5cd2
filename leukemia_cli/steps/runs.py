"""`leuk runs`: what lies in a workspace, read from its files alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leukemia_cli.workspace.documents import read_json
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.runs import RunFolder, list_runs, reports_of, validation_score


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsListed:
    """Every run from oldest to newest, and the folders that are damaged with the reason."""

    runs: tuple[dict[str, Any], ...]
    damaged: tuple[dict[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """Give both lists."""
        return {"runs": list(self.runs), "damaged": list(self.damaged)}


def runs(workspace: Workspace) -> RunsListed:
    """List finished and interrupted runs, with the reports that were made of them."""
    manifest = _manifest_fingerprint(workspace)
    known, damaged = list_runs(workspace)
    return RunsListed(
        runs=tuple(_row(workspace, run, manifest) for run in known),
        damaged=tuple({"path": str(path), "reason": reason} for path, reason in damaged),
    )


def _manifest_fingerprint(workspace: Workspace) -> str | None:
    file = workspace.manifest_folder / "manifest.json"
    return read_json(file, "manifest").get("fingerprint") if file.exists() else None


def _row(workspace: Workspace, run: RunFolder, manifest: str | None) -> dict[str, Any]:
    facts, stored = run.facts, run.facts.get("settings")
    settings = stored if isinstance(stored, dict) else {}
    return {
        "run": run.id,
        "name": run.name,
        "state": "finished" if run.finished else "interrupted or running",
        "task": facts.get("task"),
        "backbone": facts.get("backbone") or settings.get("backbone"),
        "variant": facts.get("variant") or settings.get("variant"),
        "tune": facts.get("tune") or settings.get("tune"),
        "weights": facts.get("weights") or settings.get("weights"),
        "fold": facts.get("fold"),
        "validation_balanced_accuracy": validation_score(run),
        "validated_on": facts.get("validated_on"),
        "created": facts.get("created"),
        "from_current_manifest": manifest is not None and facts.get("manifest") == manifest,
        "reports": reports_of(workspace, run.id),
    }
