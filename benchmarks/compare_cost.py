"""Measure what `leuk compare` costs beyond one pass of its images through a backbone: all variants, folds and repeats.

The pass is timed on some images of noise, read from disk, and scaled to all of them. Everything else is timed whole, by what
compare runs its models with, on features of the backbone's width that are as hard to separate as real ones, for difficulty
decides how many epochs a head is fitted: those of the Taleqani images by EfficientNet-Lite0 where LEUK_TEST_DATA names
them, widened by fixed random rectified sums where a backbone gives more; else Gaussian groups (`--synthetic`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from leukemia_cli.catalog import GRIDS, TASKS, VARIANTS, find_variant
from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import Manifest, Sample
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.comparing import Job, Judged, Table, job_of, run_cells
from leukemia_cli.learning.features import Features, FrozenRows, Means, Views
from leukemia_cli.learning.machine import Machine, choose_machine, granted_cores
from leukemia_cli.learning.recipes import TrainSettings, plan_of, recipe_of
from leukemia_cli.learning.training import FEATURE_BATCH, INNER_FOLDS
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone

VIEWS, FOLDS, SEED = 4, 5, 0
BAR = 0.3


class HeldRows:
    """Rows of images that are in memory already; the first view is the plain one."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def __call__(self, places: Sequence[int], views: Views) -> Features:
        """Give the rows (n, V, D) of the images at `places`."""
        return self._features[list(places), : views.count]

    def missing(self, views: Views) -> int:
        """Count the views that are still to be computed: none."""
        del views
        return 0


def load(name: str, weights: str) -> LoadedBackbone:
    """Load a backbone with compare's default preprocessing."""
    return load_backbone(name, weights, seed=SEED, fit="squash", input_size_px=None)


def rows_of(samples: Sequence[Sample], loaded: LoadedBackbone, machine: Machine, folder: Path) -> FrozenRows:
    """Give the features of images on disk, with nothing kept from before."""
    return FrozenRows(
        samples,
        loaded.module,
        loaded.preprocessing,
        Means(machine=machine, cache_root=folder, batch_size=FEATURE_BATCH, max_megapixels=200.0),
    )


def all_views() -> Views:
    """Give the plain view and the augmented ones."""
    return Views(count=VIEWS, augmentation=Augmentation(), seed=SEED)


def pass_s(loaded: LoadedBackbone, count: int, machine: Machine, folder: Path) -> float:
    """Time every view of `count` images of noise of 224 px, from reading to kept features; seconds an image."""
    samples = []
    for i in range(count + FEATURE_BATCH):
        path = folder / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        samples.append(Sample(path=str(path), label="ALL", group=str(i), sha256=_digest(path)))
    rows_of(samples[count:], loaded, machine, folder / "warm")(range(FEATURE_BATCH), Views())
    rows = rows_of(samples[:count], loaded, machine, folder / "cache")
    started = time.perf_counter()
    rows(range(count), all_views())
    return (time.perf_counter() - started) / count


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def real(machine: Machine, folder: Path, kept: Path | None) -> tuple[Features, list[tuple[str, str]]]:
    """Give the features (N, V, D) of the Taleqani images by EfficientNet-Lite0, and group and class of each."""
    root = Path(os.environ["LEUK_TEST_DATA"]) / "Taleqani"
    lines = (root / "appearance_groups.csv").read_text(encoding="utf-8").splitlines()
    rows = [(path, group) for path, group in (line.split(",")[:2] for line in lines[1:])]
    files = {path.name: path for path in sorted(root.glob("Original/*/*"))}
    samples, dealt = [], []
    for name, group in rows:
        path = files[Path(name).name]
        label = "HTL" if path.parent.name == "Benign" else "ALL"
        samples.append(Sample(path=str(path), label=label, group=group, sha256=_digest(path)))
        dealt.append((group, label))
    held = rows_of(samples, load("efficientnet-lite0", "auto"), machine, kept or folder / "real")
    return held(range(len(samples)), all_views()), dealt


def synthetic(images: int) -> tuple[Features, list[tuple[str, str]]]:
    """Give Gaussian features (N, V, 1280) of 32 groups, and group and class of each: groups differ more than classes."""
    random = np.random.default_rng(SEED)
    group = random.integers(0, 32, images)
    centre = random.normal(size=(32, 1280)) * 0.5
    centre[:, :40] += np.where(np.arange(32) % 4 == 0, 0.6, -0.2)[:, None]
    image = centre[group] + random.normal(size=(images, 1280))
    features = image[:, None] + 0.5 * random.normal(size=(images, VIEWS, 1280))
    return features.astype(np.float32), [(f"g{g}", "HTL" if g % 4 == 0 else "ALL") for g in group]


def widened(features: Features, width: int) -> Features:
    """Give features (N, V, width): the first of them, or all and rectified random sums of them."""
    have = features.shape[-1]
    if width <= have:
        return np.ascontiguousarray(features[..., :width])
    flat = features.reshape(-1, have)
    scaled = (flat - flat.mean(0)) / (flat.std(0) + 1e-6)
    mixed = np.random.default_rng(SEED).normal(size=(have, width - have)).astype(np.float32) / np.float32(have**0.5)
    more = np.maximum(scaled @ mixed, 0).reshape(*features.shape[:2], -1)
    return np.concatenate([features, more], axis=2, dtype=np.float32)


def naive_views(cells: Sequence[Judged], images: int) -> float:
    """Count the views that a backbone would see if each fit had them anew: a head's in each epoch up to its best, an SVM's once.

    That is the least: one view an image an epoch, and none for validation or for judging.
    """
    outer = images * (FOLDS - 1) / FOLDS
    inner = outer * (INNER_FOLDS - 1) / INNER_FOLDS
    chosen = sum(INNER_FOLDS * (trial["epochs"] or 1) * inner for cell in cells for trial in cell.trials)
    return chosen + sum((cell.best_epoch or 1) * outer for cell in cells)


def rest_s(
    loaded: LoadedBackbone,
    features: Features,
    dealt: Sequence[tuple[str, str]],
    repeats: int,
    grid: str,
    machine: Machine,
    folder: Path,
) -> tuple[dict[str, float], float]:
    """Time, for each variant, choosing, fitting and judging over all folds and repeats; give the naive views of all too."""
    spent, naive = {}, 0.0
    held = HeldRows(widened(features, loaded.spec.feature_width))
    for name in VARIANTS:
        settings = TrainSettings(backbone=loaded.spec.name, variant=find_variant(name).name, grid=grid, seed=SEED)
        plan, recipe, started = (
            replace(plan_of(settings, machine), doubt=None),
            recipe_of(settings),
            time.perf_counter(),
        )
        jobs: list[Job] = []
        for repeat in range(repeats):
            samples = tuple(
                Sample(path=str(i), label=label, group=group, fold=fold)
                for i, ((group, label), fold) in enumerate(
                    zip(dealt, deal_folds(list(dealt), FOLDS, SEED + repeat), strict=True)
                )
            )
            manifest = Manifest(
                task=TASKS["binary"],
                samples=samples,
                seed=SEED,
                folds=FOLDS,
                groups_source="given",
                warnings=(),
                fingerprint=f"{repeat}",
            )
            table = Table(
                manifest=manifest, loaded=loaded, digest="", rows=held, machine=machine, cells=folder / loaded.spec.name
            )
            jobs += [job_of(table, recipe, plan, fold) for fold in range(FOLDS)]
        cells = list(run_cells(jobs, machine.workers))
        if len(cells) != repeats * FOLDS:
            raise SystemExit("not every cell was run")
        spent[name] = time.perf_counter() - started
        naive += naive_views(cells, len(dealt))
    return spent, naive


def main() -> None:
    """Print, for each backbone, both costs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default="seresnext50,efficientnet-lite0")
    parser.add_argument("--grid", default="quick", choices=list(GRIDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timed-images", type=int, default=100, help="images that the pass is timed on")
    parser.add_argument("--synthetic", action="store_true", help="do without real images")
    parser.add_argument("--kept", type=Path, default=None, help="folder that keeps the real images' features")
    asked = parser.parse_args()
    machine = choose_machine("cpu", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        use_real = not asked.synthetic and "LEUK_TEST_DATA" in os.environ
        features, dealt = real(machine, folder, asked.kept) if use_real else synthetic(1000)
        print(
            f"{len(features)} images of {len({g for g, _ in dealt})} groups, {VIEWS} views, {FOLDS} folds × "
            f"{asked.repeats} repeats, grid {asked.grid}, seed {SEED}, {granted_cores()} cores; features: "
            f"{'real, by EfficientNet-Lite0, widened where needed' if use_real else 'synthetic'}"
        )
        for backbone in asked.backbones.split(","):
            loaded = load(backbone, "none")
            work = folder / backbone
            work.mkdir()
            each = pass_s(loaded, asked.timed_images, machine, work)
            whole = each * len(features)
            print(
                f"{backbone}: pass {whole:.0f} s ({1000 * each / VIEWS:.1f} ms a view on {asked.timed_images} images)"
            )
            rest, naive = rest_s(loaded, features, dealt, asked.repeats, asked.grid, machine, work)
            parts = ", ".join(f"{variant} {seconds:.1f}" for variant, seconds in rest.items())
            share = sum(rest.values()) / whole
            naive_s = naive * each / VIEWS
            print(
                f"  everything else {sum(rest.values()):.1f} s ({parts}): {share:.2f} of the pass (bar {BAR})",
            )
            print(
                f"  naively {naive:.0f} views, {naive_s:.0f} s: {naive_s / (whole + sum(rest.values())):.0f} × as long",
                flush=True,
            )


if __name__ == "__main__":
    main()
