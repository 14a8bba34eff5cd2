"""`leuk extract-features`: the feature vector of every image of a part, by a run's backbone or a pretrained one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.domain import (
    NO_REMEDIES,
    BackgroundChoice,
    Fit,
    Manifest,
    Note,
    Remedies,
    Sample,
    Track,
    Unit,
    silent,
    unheard,
)
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.learning.arrays import Features
from leukemia_cli.learning.features import FeatureCache, Views, extract, seen_whole, state_digest
from leukemia_cli.learning.loading import backbone_of, load_classifier
from leukemia_cli.learning.machine import Machine, choose_machine, place
from leukemia_cli.learning.recipes import settled, with_remedies
from leukemia_cli.learning.runs import versions
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.reporting.row_stores import need_parquet
from leukemia_cli.workspace.documents import SCHEMA_VERSION, now, sealed, write_json
from leukemia_cli.workspace.files import numbered_folder, write_bytes
from leukemia_cli.workspace.folders import FEATURES_JSON, Workspace
from leukemia_cli.workspace.runs import RunFolder

Format = Literal["safetensors", "npz", "csv", "parquet"]
FEATURES_FILE = "features.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    """Whose features, of which part, and in which form they are to go out as well."""

    backbone: str | None = None
    weights: str = "auto"
    split: Literal["all", "train", "val", "calib", "test"] = "all"
    format: Format = "safetensors"
    output: Path | None = None
    fit: Fit = "squash"
    input_size_px: int | None = None
    remedies: Remedies = NO_REMEDIES
    background: BackgroundChoice = "auto"
    batch_size: int = 16
    max_megapixels: float = 200.0
    device: str = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is too small", "Use at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """A kept set of features, its folder and what its features.json says."""

    folder: Path
    facts: Mapping[str, Any]
    output: Path | None

    def as_json(self) -> dict[str, Any]:
        """Give features.json without its rows, and where the files lie."""
        shown = {key: value for key, value in self.facts.items() if key not in ("rows", "backbone_spec")}
        return {**shown, "folder": str(self.folder), "output": None if self.output is None else str(self.output)}


def extract_features(
    workspace: Workspace,
    manifest: Manifest,
    run: RunFolder | None,
    settings: ExtractSettings,
    *,
    track: Track = silent,
    note: Note = unheard,
) -> Extracted:
    """Write `features/<id>/`, and `output` in `format` where one is named; each image goes through the backbone once.

    Raises UsageError where both or neither of run and backbone are given, or where a run holds one backbone a fold.
    """
    if (run is None) == (settings.backbone is None):
        raise UsageError("name either --run or --backbone", "For example: leuk extract-features --backbone senet")
    if settings.output is not None and settings.format == "parquet":
        need_parquet()
    machine = choose_machine(settings.device, settings.workers)
    loaded = _of_run(run, machine) if run is not None else _by_name(settings, manifest.unit, machine, note)
    note(f"device: {machine.description}")
    samples = manifest.samples if settings.split == "all" else manifest.part(settings.split)
    if not samples:
        hint = "A manifest of folds has no splits: use --split all" if manifest.folds else "Prepare it larger"
        raise DataError(f"the manifest has no {settings.split} {manifest.unit}s", hint)
    spec, digest = loaded.spec, state_digest(loaded.module.state_dict())
    cache = FeatureCache(workspace.features_folder / "cache", digest, loaded.preprocessing)
    features = extract(
        loaded.module,
        samples,
        loaded.preprocessing,
        cache=cache,
        views=Views(),
        machine=machine,
        batch_size=settings.batch_size,
        max_megapixels=settings.max_megapixels,
        track=track,
    )[:, 0]
    whole = {sample.sha256 for sample in samples} & cache.unmeasured
    if whole:
        note(seen_whole(len(whole)))
    labels = np.array(manifest.task.indices(sample.label for sample in samples), dtype=np.int64)
    stem = run.id if run is not None else spec.stem
    folder = numbered_folder(workspace.features_folder, f"{stem}-{settings.split}")
    facts = {
        "schema_version": SCHEMA_VERSION,
        "features": folder.name,
        "task": manifest.task.name,
        "classes": list(manifest.task.classes),
        "manifest": manifest.fingerprint,
        "split": settings.split,
        "images": len(samples),
        "groups": len({s.group for s in samples}),
        "width": int(features.shape[1]),
        "run": None if run is None else run.id,
        "backbone": spec.name,
        "weights": spec.weights if run is not None else _again(settings.weights),
        "weights_source": spec.weights_source,
        "backbone_sha256": digest,
        "seed": settings.seed,
        "preprocessing": loaded.preprocessing.as_json(),
        "backbone_spec": spec.as_json(),
        "created": now(),
        "versions": versions(),
        "warnings": ["weights none: these are the features of a random network"] if spec.is_random else [],
        "rows": [{"path": s.path, "label": s.label, "group": s.group, "sha256": s.sha256} for s in samples],
    }
    kept = save({"features": np.ascontiguousarray(features), "labels": labels})
    write_bytes(folder / FEATURES_FILE, kept)
    write_json(folder / FEATURES_JSON, sealed(facts))  # last: it is what makes the set whole
    if settings.output is not None:
        write_bytes(
            settings.output,
            kept if settings.format == "safetensors" else _exported(settings.format, features, labels, samples),
        )
    return Extracted(folder=folder, facts=facts, output=settings.output)


def _of_run(run: RunFolder, machine: Machine) -> LoadedBackbone:
    classifier = load_classifier(run, machine)
    if len(classifier.members) > 1 and classifier.backbone is None:
        raise UsageError(
            f"run {run.id} tuned {len(classifier.members)} backbones, one a fold",
            "Name a run of one fold: --fold I",
        )
    return backbone_of(classifier)


def _by_name(settings: ExtractSettings, unit: Unit, machine: Machine, note: Note) -> LoadedBackbone:
    loaded = load_backbone(
        settings.backbone or "",
        settings.weights,
        seed=settings.seed,
        fit=settings.fit,
        input_size_px=settings.input_size_px,
    )
    loaded = with_remedies(loaded, settled(settings.remedies, settings.background, unit))
    place(loaded.module, machine)
    note(f"backbone: {loaded.spec.name} ({loaded.spec.timm_name}), weights: {loaded.spec.weights_source}")
    return loaded


def _again(weights: str) -> str:
    """Give what the same weights are loaded by from another folder."""
    return weights if weights in ("auto", "none") else str(Path(weights).absolute())


def _exported(
    form: Format,
    features: Features,
    labels: NDArray[np.int64],
    samples: Sequence[Sample],
) -> bytes:
    if form == "npz":
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            features=features,
            labels=labels,
            paths=np.array([s.path for s in samples]),
            groups=np.array([s.group for s in samples]),
        )
        return buffer.getvalue()
    names = [f"f{i}" for i in range(features.shape[1])]
    if form == "csv":
        lines = [csv_line(["path", "label", "group", *names])]
        for sample, row in zip(samples, features, strict=True):
            lines.append(csv_line([sample.path, sample.label, sample.group, *map(float, row)]))
        return "".join(lines).encode("utf-8", errors="surrogateescape")
    return _parquet(features, samples, names)


def _parquet(features: Features, samples: Sequence[Sample], names: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "path": [s.path for s in samples],
        "label": [s.label for s in samples],
        "group": [s.group for s in samples],
        **{name: features[:, i] for i, name in enumerate(names)},
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
