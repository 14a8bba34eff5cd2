"""How often images were looked at: each evaluation of a part is a line of a file that only grows."""

from __future__ import annotations

import json

from leukemia_cli.workspace.documents import now
from leukemia_cli.workspace.files import disk_errors
from leukemia_cli.workspace.folders import Workspace

LOOKS_FILE = "looks.jsonl"


def looks_at(workspace: Workspace, part: str) -> int:
    """Count how often the images of fingerprint `part` have been looked at."""
    path = workspace.reports_folder / LOOKS_FILE
    known = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
    return sum(f'"part": "{part}"' in line for line in known)


def count_look(workspace: Workspace, part: str, *, split: str, run: str) -> int:
    """Write down that the images of fingerprint `part` were looked at, and give how often they have been."""
    path = workspace.reports_folder / LOOKS_FILE
    line = json.dumps({"part": part, "split": split, "run": run, "time": now()})
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.write(line + "\n")
    return looks_at(workspace, part)
