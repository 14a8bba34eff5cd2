"""A checkpoint is one file: tensors in safetensors, everything else as JSON in its header. Whole or not there at all.

The same bytes travel between processes that train together: nothing that is read is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.learning.features import state_digest
from leukemia_cli.workspace.files import write_bytes

_LENGTH_BYTES = 8
"""Length of a safetensors header, little-endian, before it. Source: https://github.com/huggingface/safetensors#format."""


def packed(facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Give facts of JSON types and tensors as one string of bytes; floats come back bit for bit."""
    return save(tensors, metadata={"facts": json.dumps(facts)})


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Undo `packed`; raises SafetensorError, KeyError or ValueError for other bytes."""
    tensors = load(content)
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts, tensors


def write_checkpoint(path: Path, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready facts with a digest of both; floats come back bit for bit."""
    told = json.dumps(facts)
    write_bytes(path, save(tensors, metadata={"facts": told, "sha256": _digest(told, tensors)}))


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{facts}{state_digest(tensors)}".encode()).hexdigest()


def read_checkpoint(path: Path, way_out: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give facts and tensors; raises WorkspaceError, with `way_out` as its hint, for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            told, digest = file.metadata()["facts"], file.metadata()["sha256"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if _digest(told, tensors) != digest:
            raise ValueError("its values have changed since they were written")
        facts: dict[str, Any] = json.loads(told)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WorkspaceError(f"checkpoint {path} is damaged: {error}", way_out) from error
    return facts, tensors
