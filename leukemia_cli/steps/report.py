"""`leuk report`: the pages of a run's reports, made again from what is stored."""

from __future__ import annotations

from pathlib import Path

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import DataError, WorkspaceError
from leukemia_cli.reporting.evaluation import SCHEMA_VERSION
from leukemia_cli.reporting.thumbnails import HEATMAPS, illustrated
from leukemia_cli.workspace.documents import check_schema, read_json
from leukemia_cli.workspace.files import write_text
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.runs import RunFolder, check_own, reports_of


def report(
    workspace: Workspace,
    run: RunFolder,
    name: str | None,
    *,
    pictures: bool | None = None,
    max_megapixels: float = 200.0,
    note: Note = unheard,
) -> tuple[Path, ...]:
    """Write report.html beside each report.json of a run (or beside the one called `name`); give the pages.

    `pictures` of None shows images where the evaluation did. Images that are gone since are left out, and that is noted.
    Raises WorkspaceError where there is no such report or, after the others, a damaged one; DataError where no image is left.
    """
    check_own(workspace, run)
    known = reports_of(workspace, run.id)
    wanted = known if name is None else [folder for folder in known if folder == f"{run.id}-{name}"]
    if not wanted:
        what = "report" if name is None else f"report {name!r}"
        listed = ", ".join(folder.removeprefix(f"{run.id}-") for folder in known)
        raise WorkspaceError(
            f"run {run.id} has no {what}", f"Known: {listed}" if listed else f"Make one with: leuk evaluate {run.id}"
        )
    pages, damaged = [], []
    for folder in (workspace.reports_folder / each for each in wanted):
        try:
            pages.append(_page(folder, run, pictures, max_megapixels, note))
        except (WorkspaceError, DataError) as error:
            damaged.append(error)
            note(f"warning: {error.problem}")
    if damaged:
        made = f" ({len(pages)} of {len(wanted)} pages were made)" if len(wanted) > 1 else ""
        raise type(damaged[0])(f"{damaged[0].problem}{made}", damaged[0].hint)
    return tuple(pages)


def _page(folder: Path, run: RunFolder, pictures: bool | None, max_megapixels: float, note: Note) -> Path:
    """Make one page; raises WorkspaceError for a damaged report, DataError where every image to be shown is gone."""
    stored = read_json(folder / "report.json", "report")
    check_schema(stored, folder / "report.json", SCHEMA_VERSION)
    page = folder / "report.html"
    gone: list[str] = []

    def missing(line: str) -> None:
        gone.append(line.removeprefix("warning: "))

    try:
        shows = stored.get("pictures", True) if pictures is None else pictures
        made = illustrated(folder, stored, pictures=shows, max_megapixels=max_megapixels, note=missing)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"{folder / 'report.json'} is damaged: {type(error).__name__} {error}", f"Run: leuk evaluate {run.id}"
        ) from error
    if made.wanted and not made.shown:
        raise DataError(
            f"none of the {made.wanted} images that {page} shows can be read: it stays as it is",
            "Put the images back, or make it without them: --no-images",
        )
    if gone:
        note(f"warning: {len(gone)} pictures are left out, the first: {gone[0]}")
    write_text(page, made.page)
    if not shows and (folder / HEATMAPS).is_dir():
        note(f"heat-maps stay in {folder / HEATMAPS}; delete them if they are not to be kept")
    return page
