"""JSON artefacts: plain ASCII without NaN, with a schema version, and sealed where a changed byte must be noticed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.files import write_bytes

SCHEMA_VERSION = 1
SEAL = "seal"
"""Key of an artefact's own checksum."""


def now() -> str:
    """Give the time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_json(value: object) -> str:
    """Give JSON text: indented, ASCII, no NaN, newline at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same facts with a seal, last, that `check_schema` breaks on when any of them has changed since."""
    rest = {key: value for key, value in facts.items() if key != SEAL}
    return {**rest, SEAL: _seal_of(json.loads(to_json(rest)))}


def _seal_of(read: Mapping[str, Any]) -> str:
    """Hash facts as JSON gives them back, but for the seal itself."""
    rest = {key: value for key, value in read.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all, facts that have a seal with a new one; raises ValueError for NaN."""
    known = sealed(value) if isinstance(value, Mapping) and SEAL in value else value
    write_bytes(path, to_json(known).encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; raises WorkspaceError, naming `what` it was to be, where it is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise WorkspaceError(f"there is no {what} at {path}", "Check the path, or make it again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WorkspaceError(
            f"{what} {path} cannot be read: {error}", "It is damaged: restore it from a copy, or make it again"
        ) from error
    if not isinstance(stored, dict):
        raise WorkspaceError(f"{what} {path} is not a JSON object", "It is damaged: make it again")
    return stored


def _finite(text: str) -> float:
    """Read a number; raises ValueError for NaN and what is beyond all floats, which no artefact holds."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def check_schema(stored: Mapping[str, Any], path: Path, newest: int) -> None:
    """Raise WorkspaceError for an artefact without a schema version, with one newer than `newest`, or with a broken seal.

    One without a seal is of a leuk that made none.
    """
    version = stored.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise WorkspaceError(f"{path} has no schema version", "It is damaged or no artefact of leuk: make it again")
    if version > newest:
        raise WorkspaceError(
            f"{path} has schema {version}, and this leuk knows up to {newest}",
            "Update leuk: pip install -U leukemia-cli",
        )
    try:
        broken = SEAL in stored and stored[SEAL] != _seal_of(stored)
    except RecursionError:
        broken = True
    if broken:
        raise WorkspaceError(
            f"{path} has changed since leuk wrote it",
            "It was edited or is damaged: restore it from a copy, or make it again",
        )
