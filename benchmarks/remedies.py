"""Measure what masking marks, stain normalisation, tiles and stain jitter are worth on Taleqani, each beside doing nothing.

Usage: python benchmarks/remedies.py DATA_FOLDER [--work DIR] [--output remedies.md] [--only NAME,…]

DATA_FOLDER holds `Taleqani/` with appearance_groups.csv. Every configuration is a `leuk compare` over the same five grouped
folds; all that were tried are in the table. A finished one is not run again. Below it: how well a linear model on the pixels of
one corner alone tells the class, before and after masking, beside the other corners, which hold no mark.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import Manifest
from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.marks import find_marks, mask_marks
from leukemia_cli.workspace.files import write_text
from leukemia_cli.workspace.folders import open_workspace

BACKBONE = "efficientnet-lite0"
VARIANTS = "base,svm"
SEED = 0
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "none": ("--views", "1"),
    "mask": ("--views", "1", "--mask-marks"),
    "tiles 4": ("--views", "1", "--tiles", "4"),
    "tiles 5": ("--views", "1", "--tiles", "5"),
    "mask, tiles 4": ("--views", "1", "--mask-marks", "--tiles", "4"),
    "mask, tiles 5": ("--views", "1", "--mask-marks", "--tiles", "5"),
    "macenko": ("--views", "1", "--stain-norm", "macenko"),
    "reinhard": ("--views", "1", "--stain-norm", "reinhard"),
    "mask, tiles 4, macenko": ("--views", "1", "--mask-marks", "--tiles", "4", "--stain-norm", "macenko"),
    "mask, tiles 4, reinhard": ("--views", "1", "--mask-marks", "--tiles", "4", "--stain-norm", "reinhard"),
    "none, 2 views": ("--views", "2"),
    "stain jitter 0.2, 2 views": ("--views", "2", "--stain-jitter", "0.2"),
    "mask, red cells 20 px": ("--views", "1", "--mask-marks", "--resolution", "20"),
    "mask, tiles 4, red cells 20 px": ("--views", "1", "--mask-marks", "--tiles", "4", "--resolution", "20"),
}
CORNER = (42, 42)
"""Rows and columns of a corner that the probe sees, of 224: a little more than any scale bar there."""


def leuk(work: Path, *arguments: str) -> Any:
    """Run one command in the workspace and give its JSON document."""
    every = [*arguments, "--workspace", str(work / "workspace"), "--seed", str(SEED), "--json", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "leukemia_cli", *every], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.stdout.decode())
    return json.loads(done.stdout)


def shown(figure: dict[str, Any]) -> str:
    """Show a figure with its interval."""
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def compared(work: Path, name: str, flags: tuple[str, ...]) -> dict[str, Any]:
    """Compare both variants with some flags, or read what was measured before."""
    kept = work / f"{name.replace(' ', '-').replace(',', '')}.json"
    if not kept.exists():
        print(f"{name}: leuk compare {' '.join(flags)}", file=sys.stderr, flush=True)
        document = leuk(
            work, "compare", "--backbones", BACKBONE, "--variants", VARIANTS, "--repeats", "1", *flags
        )  # fmt: skip
        write_text(kept, json.dumps(document))
    stored: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return stored


def probe(manifest: Manifest, features: np.ndarray) -> str:
    """Score each fold by a linear machine on the first 40 components of what the other folds show; balanced accuracy."""
    classes = manifest.task.classes
    labels = np.array([classes.index(s.label) for s in manifest.samples])
    folds = np.array([s.fold for s in manifest.samples])
    margins = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        model = make_pipeline(
            StandardScaler(), PCA(40, random_state=SEED), SVC(kernel="linear", C=0.1, class_weight="balanced")
        )
        margins[inside] = model.fit(features[~inside], labels[~inside]).decision_function(features[inside])
    second = 1 / (1 + np.exp(-margins))
    figure = judge(
        Predictions(
            classes=classes,
            positive=manifest.task.positive,
            labels=labels,
            probabilities=np.stack([1 - second, second], axis=1),
            groups=tuple(s.group for s in manifest.samples),
            groups_source=manifest.groups_source,
        ),
        seed=SEED,
    ).metrics["balanced_accuracy"]
    return shown({"value": figure.value, "low": figure.low, "high": figure.high})


def corners(manifest: Manifest) -> tuple[str, int]:
    """Tell the class by one corner's pixels; give a table, and of how many images a mark was found in the marked corner.

    Shapes are grey levels less their median, so that ground and stain tell less.
    """
    seen: dict[str, list[np.ndarray]] = {}
    found = 0
    for sample in manifest.samples:
        pixels = decode(sample.path).pixels
        height, width = pixels.shape[:2]
        found += any(m.right > 3 * width / 4 and m.bottom > 3 * height / 4 for m in find_marks(pixels))
        tall, wide = round(CORNER[0] * height / 224), round(CORNER[1] * width / 224)
        masked = mask_marks(pixels)
        views = {
            "lower right, as it is": pixels[-tall:, -wide:],
            "lower right, masked": masked[-tall:, -wide:],
            "lower left": pixels[-tall:, :wide],
            "upper left": pixels[:tall, :wide],
            "upper right": pixels[:tall, -wide:],
        }
        for name, view in views.items():
            small = np.asarray(Image.fromarray(view).resize((21, 21), Image.Resampling.BOX))
            seen.setdefault(name, []).append(small.reshape(-1).astype(np.float64))
    lines = ["| corner | its colours | its shapes |", "| --- | --- | --- |"]
    for name, rows in seen.items():
        colours = np.stack(rows)
        grey = colours.reshape(len(rows), -1, 3).mean(axis=2)
        shapes = grey - np.median(grey, axis=1, keepdims=True)
        lines.append(f"| {name} | {probe(manifest, colours)} | {probe(manifest, shapes)} |")
    return "\n".join(lines), found


def main() -> None:
    """Run what is not done yet and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--work", type=Path, default=Path("remedies-work"))
    parser.add_argument("--output", type=Path, default=Path("remedies.md"))
    parser.add_argument("--only", default=",".join(CONFIGURATIONS), help="Names with ; between them.")
    given = parser.parse_args()
    data, work = given.data.resolve(), given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    groups = data / "Taleqani" / "appearance_groups.csv"
    with groups.open(newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    if not (work / "workspace").exists():
        leuk(work, "prepare", f"{data}/Taleqani", "--task", "binary", "--folds", "5", "--group-by", f"file:{groups}")
    manifest = read_manifest(open_workspace(work / "workspace", create=False))
    lines = ["| configuration | flags | `base` | `svm` | n |", "| --- | --- | --- | --- | --- |"]
    wanted = CONFIGURATIONS if given.only == ",".join(CONFIGURATIONS) else given.only.split(";")
    for name in wanted:
        document = compared(work, name, CONFIGURATIONS[name])
        figures = [row["metrics"]["balanced_accuracy"] for row in document["rows"]]
        flags = " ".join(CONFIGURATIONS[name]) or "(defaults)"
        n = f"{figures[0]['n']} images, {figures[0]['groups']} groups"
        lines.append(f"| {name} | `{flags}` | {' | '.join(map(shown, figures))} | {n} |")
    table, found = corners(manifest)
    seen = f"{len(manifest.samples)} of {count} images"
    head = f"Balanced accuracy, 5 grouped folds pooled, {BACKBONE} frozen, seed {SEED}; {seen}."
    tail = (
        f"A linear model on the pixels of one corner ({CORNER[0]} × {CORNER[1]} of 224 px), same folds. "
        f"Marks were found at the lower right of {found} of {len(manifest.samples)} images."
    )
    write_text(given.output, "\n\n".join([head, "\n".join(lines), tail, table]) + "\n")
    print(given.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
