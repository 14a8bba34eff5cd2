"""A checkpoint is one file: tensors in safetensors, everything else as JSON in its header. Whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace import write_bytes


def write_checkpoint(path: Path, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready facts; floats come back bit for bit."""
    write_bytes(path, save(tensors, metadata={"facts": json.dumps(facts)}))


def read_checkpoint(path: Path, way_out: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give facts and tensors; raises WorkspaceError, with `way_out` as its hint, for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["facts"])
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(f"checkpoint {path} is damaged: {error}", way_out) from error
