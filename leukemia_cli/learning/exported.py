"""An exported run: one file that holds all that `leuk classify` needs of a run, read without torch.

Requirements met here:
- The file is an uncompressed zip that is read in memory; nothing of it is unpacked to a disk or unpickled.
- Each part's name, size and SHA-256 are checked before it is used; a part too many, too few or changed is refused.
- Importing this loads no engine.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.classifier import (
    DOUBT_FILE,
    HEAD_FILE,
    Classifier,
    RunFacts,
    frozen_head,
    restore_member,
)
from leukemia_cli.learning.engines import EngineName, EnginePrecision, Verified, records_from
from leukemia_cli.learning.graphs import GraphEngine, compile_graph
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, sealed, to_json
from leukemia_cli.workspace.files import write_bytes
from leukemia_cli.workspace.runs import EXPORT_SUFFIX, RunFolder, check_run_name

FACTS_FILE = "export.json"
EXPORTS_FOLDER, ENGINES_FILE = "exports", "engines.json"
SUFFIXES: Mapping[EngineName, tuple[str, ...]] = {"onnx": ("onnx",), "openvino": ("xml", "bin")}
"""Files of one graph, by the engine that reads them."""
_MOST_FACTS = 64 * 2**20
_GRAPH_FILE = re.compile(r"graph-(0|[1-9][0-9]{0,3})\.(onnx|xml|bin)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell: equal contents, equal files
_AGAIN = "It is damaged: copy it again, or make it again with: leuk export"

KEPT_FACTS = (
    "run", "name", "created", "finished", "task", "classes", "task_definition", "manifest", "unit", "crops",
    "groups_source", "training_images", "training_groups", "backbone", "backbone_spec", "preprocessing", "variant",
    "weights", "tune", "validation", "validated_on", "choice", "fold", "seed", "warnings", "members", "files", "versions",
)  # fmt: skip
"""What an exported file keeps of run.json: not the command line, which names places of the machine it was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported file in memory, every part checked."""

    path: Path
    engine: EngineName
    facts: Mapping[str, Any]
    """What it keeps of run.json."""
    of_member: tuple[int, ...]
    verified: tuple[Verified, ...]
    parts: Mapping[str, bytes]


def default_file(run: Path, engine: EngineName) -> Path:
    """Name the place of a run's export."""
    return run / EXPORTS_FOLDER / f"{engine}{EXPORT_SUFFIX}"


def graph_file(graph: int, suffix: str) -> str:
    """Name a part that holds a graph."""
    return f"graph-{graph}.{suffix}"


def write_exported(
    path: Path,
    *,
    engine: EngineName,
    facts: Mapping[str, Any],
    of_member: Sequence[int],
    verified: Sequence[Verified],
    versions: Mapping[str, str],
    parts: Mapping[str, bytes],
) -> str:
    """Write the file whole or not at all; give its SHA-256."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "format": engine,
        "run": {key: facts[key] for key in KEPT_FACTS if key in facts},
        "of_member": list(of_member),
        "verified": [record.as_json() for record in verified],
        "versions": dict(versions),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(parts.items())
        },
    }
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as out:
        for name, content in ((FACTS_FILE, to_json(sealed(about)).encode()), *sorted(parts.items())):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.external_attr = 0o644 << 16
            out.writestr(entry, content)
    content = whole.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_exported(path: Path) -> Exported:
    """Read and check an exported file; raises WorkspaceError where it is missing, damaged or no exported file."""
    parts = _parts(path)
    facts = _facts(path, parts.pop(FACTS_FILE, None))
    try:
        listed: Mapping[str, Any] = facts["files"]
        engine: EngineName = facts["format"]
        of_member = tuple(int(graph) for graph in facts["of_member"])
        graphs = {graph_file(graph, suffix) for graph in of_member for suffix in SUFFIXES[engine]}
        expected = {HEAD_FILE, *graphs, *({DOUBT_FILE} if any(m.get("doubt") for m in facts["run"]["members"]) else ())}
        if len(of_member) != len(facts["run"]["members"]):
            raise ValueError(f"{len(of_member)} graphs for {len(facts['run']['members'])} members")
        for name in sorted(expected | set(listed) | set(parts)):
            if name not in expected or name not in listed or name not in parts:
                raise ValueError(f"part {name} is {'missing' if name in expected else 'none of it'}")
            content = parts[name]
            if len(content) != listed[name]["bytes"] or hashlib.sha256(content).hexdigest() != listed[name]["sha256"]:
                raise ValueError(f"part {name} has changed since it was written")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return Exported(
        path=path,
        engine=engine,
        facts=facts["run"],
        of_member=of_member,
        verified=records_from(facts, path),
        parts=parts,
    )


def read_exported_run(path: Path) -> RunFolder:
    """Read what an exported file says of its run, and nothing else of it; raises WorkspaceError as `read_exported` does."""
    facts = _facts(path, _parts(path, only=FACTS_FILE).get(FACTS_FILE)).get("run")
    try:
        if facts is None:
            raise KeyError("run")
        check_run_name(facts["run"])
    except (AttributeError, KeyError, TypeError, UsageError) as error:
        raise WorkspaceError(f"exported run {path} is damaged: it names no run", _AGAIN) from error
    return RunFolder(path=path, finished=True, facts=facts)


def _facts(path: Path, content: bytes | None) -> dict[str, Any]:
    if content is None:
        raise WorkspaceError(f"{path} holds no {FACTS_FILE}: it is no exported run", "Make one with: leuk export")
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(facts, dict):
        raise WorkspaceError(f"{path} is damaged: its {FACTS_FILE} is no JSON object", _AGAIN)
    check_schema(facts, path, SCHEMA_VERSION)
    return facts


def _parts(path: Path, only: str | None = None) -> dict[str, bytes]:
    """Read the parts of the zip, each of a name that can be one, and none compressed."""
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError("a part is there twice")
            room = path.stat().st_size
            for entry in entries:
                if entry.filename not in (FACTS_FILE, HEAD_FILE, DOUBT_FILE) and not _GRAPH_FILE.fullmatch(
                    entry.filename
                ):
                    raise ValueError(f"part {entry.filename[:80]!r} is none of an exported run")
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ValueError(f"part {entry.filename} is compressed or encrypted")
                room -= entry.file_size
            if room < 0:
                raise ValueError("its parts lie over one another")
            if any(entry.filename == FACTS_FILE and entry.file_size > _MOST_FACTS for entry in entries):
                raise ValueError(f"its {FACTS_FILE} is too large")
            return {entry.filename: opened.read(entry) for entry in entries if only in (None, entry.filename)}
    except FileNotFoundError:
        raise WorkspaceError(f"there is no exported run at {path}", "Make one with: leuk export") from None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WorkspaceError:
    said = (str(error).strip().splitlines() or [""])[0]
    return WorkspaceError(f"exported run {path} is damaged: {said[:200] or type(error).__name__}", _AGAIN)


def open_exported(exported: Exported, precision: EnginePrecision, *, cores: int, workers: int) -> Classifier:
    """Make a classifier of an exported run; raises WorkspaceError where its parts do not fit together."""
    try:
        known = RunFacts.from_json(exported.facts)
        heads, doubts = _arrays(exported, HEAD_FILE), _arrays(exported, DOUBT_FILE)
        members = tuple(
            restore_member(
                stored,
                head=frozen_head(
                    stored,
                    heads[i],
                    feature_width=known.spec.feature_width,
                    class_count=len(known.task.classes),
                ),
                doubt=doubts.get(i, {}),
                backbone=None,
            )
            for i, stored in enumerate(known.members)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(exported.path, error) from error
    tiles = known.preprocessing.remedies.tiles
    graphs = [
        compile_graph(
            exported.engine,
            precision,
            {suffix: exported.parts[graph_file(graph, suffix)] for suffix in SUFFIXES[exported.engine]},
            tiles=tiles,
            cores=cores,
        )
        for graph in sorted(set(exported.of_member))
    ]
    place = {graph: i for i, graph in enumerate(sorted(set(exported.of_member)))}
    return Classifier(
        run=str(exported.facts["run"]),
        task=known.task,
        spec=known.spec,
        preprocessing=known.preprocessing,
        members=members,
        engine=GraphEngine(
            name=exported.engine,
            precision=precision,
            graphs=tuple(graphs),
            of_member=tuple(place[graph] for graph in exported.of_member),
            cores=cores,
            workers=workers,
        ),
        unit=known.unit,
        cutting=known.cutting,
    )


def _arrays(exported: Exported, file: str) -> dict[int, dict[str, NDArray[Any]]]:
    """Give the arrays of each member, by its place and their names."""
    if file not in exported.parts:
        return {}
    try:
        stored: dict[str, NDArray[Any]] = load(exported.parts[file])
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    by_member: dict[int, dict[str, NDArray[Any]]] = {}
    for name, array in stored.items():
        member, _, rest = name.partition(".")
        if not np.isfinite(array).all():
            raise ValueError(f"{file} holds numbers that are not finite")
        by_member.setdefault(int(member), {})[rest] = array
    return by_member
