"""Measure on real images whether heat-maps mark what their runs go by: a Markdown table for docs/how-to/heat-maps.md.

Usage: LEUK_TEST_DATA=FOLDER python benchmarks/heatmaps.py [--work DIR] [--images 10] [--pictures]

FOLDER holds `Taleqani/` (with appearance_groups.csv) and `AML_cells/` (with labels.csv). Runs that lie in DIR already are
used again. Folds 0 and 1 served to choose the method; images of the others are measured, each by the member that has not
seen it. Beside random maps stand two stricter controls: the map of another image of the same fold and called class, and
a map that marks the middle. `--pictures` keeps overlays in DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import Sample
from leukemia_cli.learning.batches import plain_view, read_sample
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.heatmaps import faithfulness, heatmap
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.vision.overlays import heatmap_name, overlay, png_bytes
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import find_run

SEED, RESAMPLES, FOLDS = 0, 2000, (2, 3, 4)
BLASTS = """name: blast-or-mature
classes: [blast, mature]
positive: blast
aliases:
  blast: [promyelocyte, promonocyte]
  mature: [lymphocyte, segmented_neutrophil, monocyte]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Deletion and insertion of each map and of the controls, image by image: (N, 4, 2).

    `cornered` counts the maps that are hottest in the lower right sixteenth of the view, where Taleqani has a scale bar.
    """

    values: NDArray[np.float64]
    groups: tuple[str, ...]
    cornered: int


NAMES = ("heat-map", "map of another image", "middle", "random maps")


def leuk(*arguments: str) -> None:
    """Run one command, shown on stderr."""
    print("leuk", *arguments, file=sys.stderr, flush=True)
    subprocess.run(
        [sys.executable, "-m", "leukemia_cli", *arguments, "--quiet", "--seed", str(SEED)],
        stdout=subprocess.DEVNULL,
        check=True,
    )


def middle(size: int) -> NDArray[np.float32]:
    """Give a map that falls off from the middle."""
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    return (1 - 2 * np.hypot(y, x) / np.sqrt(2)).clip(0, 1).astype(np.float32)


def others(called: NDArray[np.int64]) -> list[int]:
    """Give for each image the next one of its called class (itself where there is none)."""
    chosen = list(range(len(called)))
    for k in np.unique(called):
        own = np.flatnonzero(called == k)
        for at, following in zip(own, np.roll(own, -1), strict=True):
            chosen[at] = int(following)
    return chosen


def measure(classifier: Classifier, samples: Sequence[Sample], count: int, pictures: Path | None) -> Areas:
    """Measure `count` images of each of FOLDS, drawn at random."""
    values, groups, cornered = [], [], 0
    for fold in FOLDS:
        one = dataclasses.replace(classifier, members=(classifier.member_of(fold),))
        inside = [s for s in samples if s.fold == fold]
        drawn = np.random.default_rng([SEED, fold]).permutation(len(inside))[:count]
        chosen = [inside[i] for i in sorted(drawn)]
        images = [read_sample(s, 200) for s in chosen]
        views = [plain_view(pixels, one.preprocessing) for pixels in images]
        called = one.probabilities(views).argmax(1)
        maps = heatmap(one, views, called.tolist())
        swapped = maps[others(called)]
        for i, sample in enumerate(chosen):
            found = [
                faithfulness(one, [views[i]], np.stack([each]), seed=SEED + i)
                for each in (maps[i], swapped[i], middle(views[i].shape[0]))
            ]
            rows = [(f.deletion, f.insertion) for f in found]
            values.append([*rows, (found[0].random_deletion, found[0].random_insertion)])
            groups.append(sample.group)
            row, column = np.unravel_index(maps[i].argmax(), maps[i].shape)
            cornered += min(row, column) >= 3 * len(maps[i]) // 4
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                legend = f"for {one.task.classes[called[i]]} (label {sample.label})"
                shown = overlay(images[i], maps[i], one.preprocessing.fit, legend=legend)
                (pictures / heatmap_name(100 * fold + i, sample.path)).write_bytes(png_bytes(shown))
    return Areas(values=np.array(values), groups=tuple(groups), cornered=cornered)


def table(areas: Areas) -> list[str]:
    """Give the table's rows: means, and how far insertion minus deletion exceeds that of each control."""
    gain = areas.values[:, :, 1] - areas.values[:, :, 0]
    members = [np.flatnonzero(np.array(areas.groups) == group) for group in sorted(set(areas.groups))]
    rng = np.random.default_rng(SEED)
    draws = [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(RESAMPLES)
    ]
    rows = []
    for k, name in enumerate(NAMES):
        deletion, insertion = areas.values[:, k].mean(0)
        beyond = "–"
        if k:
            apart = gain[:, 0] - gain[:, k]
            low, high = np.quantile([apart[draw].mean() for draw in draws], (0.025, 0.975))
            beyond = f"{apart.mean():.3f} [{low:.3f}, {high:.3f}]"
        rows.append(f"{name} | {deletion:.3f} | {insertion:.3f} | {beyond} |")
    return rows


def main() -> None:
    """Train what is missing, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "leuk-heatmaps")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--pictures", action="store_true")
    flags = parser.parse_args()
    data = Path(os.environ["LEUK_TEST_DATA"])
    flags.work.mkdir(parents=True, exist_ok=True)
    (flags.work / "blasts.yaml").write_text(BLASTS)
    fields, cells = str(data / "Taleqani"), str(data / "AML_cells")
    prepared = {
        "taleqani": (fields, "--task", "binary", "--group-by", f"file:{fields}/appearance_groups.csv"),
        "aml_cells": (
            cells, "--task", str(flags.work / "blasts.yaml"), "--labels", f"{cells}/labels.csv", "--label-column",
            "cell_type", "--group-by", "column:patient",
        ),
    }  # fmt: skip
    machine = choose_machine("cpu", None)
    print("| images | run | map | deletion ↓ | insertion ↑ | the heat-map's gain over it |\n|---|---|---|---|---|---|")
    for name, variant in (("taleqani", "base"), ("taleqani", "svm"), ("aml_cells", "base")):
        folder = flags.work / name
        if not folder.exists():
            leuk("prepare", *prepared[name], "--folds", "5", "--workspace", str(folder))
        run = f"efficientnet-lite0-{variant}-1"
        if not (folder / "runs" / run).exists():
            leuk("train", "--backbone", "efficientnet-lite0", "--variant", variant, "--workspace", str(folder))
        workspace = open_workspace(folder, create=False)
        classifier = load_classifier(find_run(workspace, run, manifest=None), machine)
        pictures = flags.work / "pictures" / f"{name}-{variant}" if flags.pictures else None
        areas = measure(classifier, read_manifest(workspace).samples, flags.images, pictures)
        counts = f"{name}, {len(areas.groups)} of {len(set(areas.groups))} groups"
        for row in table(areas):
            print(f"| {counts} | `{variant}` | {row}", flush=True)
        print(f"hottest in the lower right sixteenth: {areas.cornered} of {len(areas.groups)}", file=sys.stderr)


if __name__ == "__main__":
    main()
