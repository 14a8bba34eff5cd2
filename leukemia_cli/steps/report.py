"""`leuk report`: the pages of a run's reports, made again from what is stored."""

from __future__ import annotations

from pathlib import Path

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.reporting.evaluation import SCHEMA_VERSION
from leukemia_cli.reporting.page import report_page
from leukemia_cli.reporting.thumbnails import read_heatmaps, thumbnails
from leukemia_cli.workspace import RunFolder, Workspace, check_schema, read_json, reports_of, write_text


def report(
    workspace: Workspace,
    run: RunFolder,
    name: str | None,
    *,
    pictures: bool = True,
    max_megapixels: float = 200.0,
    note: Note = unheard,
) -> tuple[Path, ...]:
    """Write report.html beside each report.json of a run (or beside the one called `name`); give the pages.

    Images that are gone since are left out, and that is noted. Raises WorkspaceError where there is no such report.
    """
    known = reports_of(workspace, run.id)
    wanted = known if name is None else [folder for folder in known if folder == f"{run.id}-{name}"]
    if not wanted:
        what = "report" if name is None else f"report {name!r}"
        listed = ", ".join(folder.removeprefix(f"{run.id}-") for folder in known)
        raise WorkspaceError(
            f"run {run.id} has no {what}", f"Known: {listed}" if listed else f"Make one with: leuk evaluate {run.id}"
        )
    pages = []
    for folder in (workspace.reports_folder / each for each in wanted):
        stored = read_json(folder / "report.json", "report")
        check_schema(stored, folder / "report.json", SCHEMA_VERSION)
        shown = [mistake["path"] for mistake in stored.get("mistakes", ())] if pictures else []
        small = thumbnails(shown, max_megapixels=max_megapixels, note=note)
        heats = read_heatmaps(folder, stored, max_megapixels=max_megapixels, note=note) if pictures else ()
        page = folder / "report.html"
        write_text(page, report_page(stored, thumbnails=small, heatmaps=heats))
        pages.append(page)
    return tuple(pages)
