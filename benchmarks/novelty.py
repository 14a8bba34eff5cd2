"""Measure novelty, abstention, label sets and what an image's colours tell: the tables of docs/explanation/doubt.md.

Usage: python benchmarks/novelty.py --data FOLDER [--cache DIR] [--photographs DIR]

FOLDER holds Taleqani, ALL_IDB1, AML_cells, healthy_cells, BCCD and odd_inputs. Beside the product's Gaussian the peer is
measured on the same folds: the distance to the 5th nearest of at most 2,000 training images in 128 principal directions.
Images that are no smears are drawn here; --photographs adds a folder of others (say, those that scikit-image ships).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import Sample, SvmChoice
from leukemia_cli.judging.abstention import least_confidence
from leukemia_cli.judging.calibration import fit_temperature, softmax
from leukemia_cli.judging.conformal import coverage, fit_label_sets
from leukemia_cli.judging.novelty import fit_novelty, novelty_threshold
from leukemia_cli.learning.features import FeatureCache, Views, extract, state_digest
from leukemia_cli.learning.machine import choose_machine, place
from leukemia_cli.learning.svm import Kernels
from leukemia_cli.learning.weights import load_backbone
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.smear import smear_colours

SEED, FOLDS, INNER_FOLDS, FALSE_ALARM = 0, 5, 4, 0.05
RISK, ALPHA = 0.05, 0.1
IMMATURE = ("blast", "promyelocyte", "promonocyte")
SIDE_PX, DRAWN_OF_A_KIND = 320, 8
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Files of one source with the groups that must not be parted, and classes where the source has them."""

    paths: tuple[Path, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------- images


def sources(data: Path) -> dict[str, Images]:
    """List the smears by source."""

    def table(
        file: Path, path: str, group: str, under: str = "", label: Callable[[dict[str, str]], str] | None = None
    ) -> Images:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return Images(
            paths=tuple(file.parent / under / row[path] for row in rows),
            groups=tuple(row[group] for row in rows),
            labels=tuple(label(row) for row in rows) if label else (),
        )

    def folder(name: str) -> Images:
        files = tuple(sorted((data / name).iterdir()))
        return Images(paths=files, groups=tuple(file.name for file in files))

    return {
        "Taleqani": table(
            data / "Taleqani" / "appearance_groups.csv", "path", "group", label=lambda row: row["path"].split("/")[1]
        ),
        "ALL_IDB1": table(data / "ALL_IDB1" / "capture_blocks.csv", "image", "block", "im"),
        "AML_cells": table(
            data / "AML_cells" / "labels.csv",
            "path",
            "patient",
            label=lambda row: "immature" if row["cell_type"] in IMMATURE else "mature",
        ),
        "healthy_cells": folder("healthy_cells"),
        "BCCD": folder("BCCD/JPEGImages"),
        "tecom_bmp": folder("odd_inputs/tecom_bmp"),
        "rgba_png": folder("odd_inputs/rgba_png"),
    }


def draw_others(folder: Path) -> Images:
    """Draw images that are no smears: blanks, gradients, noise, clouds, stripes, text, charts and discs."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]

    def blank(r: np.random.Generator) -> Any:
        return r.integers(0, 256, 3) + r.normal(0, 2, (SIDE_PX, SIDE_PX, 3))

    def gradient(r: np.random.Generator) -> Any:
        a, b, c = r.uniform(0, 255, (3, 3))
        across, down = (x / SIDE_PX)[..., None], (y / SIDE_PX)[..., None]
        return a * (1 - across) * (1 - down) + b * across + c * down * (1 - across)

    def noise(r: np.random.Generator) -> Any:
        grain = int(r.choice([1, 2, 8, 32]))
        values = r.uniform(0, 255, (SIDE_PX // grain + 1, SIDE_PX // grain + 1, 3))
        return values.repeat(grain, 0).repeat(grain, 1)[:SIDE_PX, :SIDE_PX]

    def clouds(r: np.random.Generator) -> Any:
        seeds = Image.fromarray(r.integers(0, 256, (9, 9, 3)).astype(np.uint8))
        return seeds.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)

    def stripes(r: np.random.Generator) -> Any:
        turn, width, (a, b) = r.uniform(0, np.pi), r.uniform(4, 40), r.uniform(0, 255, (2, 3))
        wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) / width * 2 * np.pi)
        return np.where(wave[..., None] > 0, a, b)

    def text(r: np.random.Generator) -> Any:
        page = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(r.integers(235, 256, 3).tolist()))
        pen, size, ink = ImageDraw.Draw(page), int(r.integers(9, 24)), tuple(r.integers(0, 90, 3).tolist())
        for top in range(8, SIDE_PX - 8, size * 3 // 2):
            words = "".join(r.choice(list("abcdefghijklmnopqrstuvwxyz    ,."), 60))
            pen.text((10, top), words, fill=ink, font_size=size)
        return page

    def chart(r: np.random.Generator) -> Any:
        page = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
        pen = ImageDraw.Draw(page)
        pen.line((30, 10, 30, 290, 310, 290), fill="black", width=2)
        for bar in range(8):
            box = (40 + bar * 33, int(r.integers(20, 280)), 62 + bar * 33, 290)
            pen.rectangle(box, fill=tuple(r.integers(0, 256, 3).tolist()))
        return page

    def discs(r: np.random.Generator) -> Any:
        page = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(r.integers(0, 256, 3).tolist()))
        pen = ImageDraw.Draw(page)
        for _ in range(int(r.integers(10, 50))):
            (left, top), radius = r.uniform(0, SIDE_PX, 2), r.uniform(5, 40)
            box = (left - radius, top - radius, left + radius, top + radius)
            pen.ellipse(box, fill=tuple(r.integers(0, 256, 3).tolist()))
        return page

    files = []
    for kind, make in enumerate((blank, gradient, noise, clouds, stripes, text, chart, discs)):
        for number in range(DRAWN_OF_A_KIND):
            pixels = np.asarray(make(np.random.default_rng([SEED, kind, number]))).clip(0, 255).astype(np.uint8)
            files.append(folder / f"{make.__name__}-{number}.png")
            Image.fromarray(pixels).save(files[-1])
    return Images(paths=tuple(files), groups=tuple(file.name for file in files))


def features_of(found: dict[str, Images], cache_root: Path) -> dict[str, np.ndarray]:
    """Run every image through EfficientNet-Lite0 as `leuk` does."""
    machine = choose_machine("auto", None)
    loaded = load_backbone("efficientnet-lite0", "auto", seed=SEED, fit="squash", input_size_px=None)
    place(loaded.module, machine)
    digest = state_digest(loaded.module.state_dict())
    rows = {}
    for name, images in found.items():
        samples = [
            Sample(path=str(path), label="", group=group, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
            for path, group in zip(images.paths, images.groups, strict=True)
        ]
        rows[name] = extract(
            loaded.module,
            samples,
            loaded.preprocessing,
            cache=FeatureCache(cache_root, digest, loaded.preprocessing),
            views=Views(),
            machine=machine,
            batch_size=16,
            max_megapixels=200.0,
        )[:, 0]
    return rows


# ---------------------------------------------------------------------------------- novelty


def gaussian(training: np.ndarray) -> Scorer:
    """Give the product's score."""
    return fit_novelty(training).scores


def neighbours(training: np.ndarray) -> Scorer:
    """Give the peer's: distance to the 5th nearest of at most 2,000 training images, in 128 principal directions."""
    wide = training.astype(np.float64)
    mean = wide.mean(0)
    axes = np.linalg.svd(wide - mean, full_matrices=False)[2][:128]
    rows = np.random.default_rng(SEED).permutation(len(wide))[:2000]
    bank = (wide[rows] - mean) @ axes.T

    def score(features: np.ndarray) -> np.ndarray:
        new = (features.astype(np.float64) - mean) @ axes.T
        squares = (new**2).sum(1)[:, None] + (bank**2).sum(1) - 2 * new @ bank.T
        nearest: np.ndarray = np.sort(squares, axis=1)[:, min(5, len(bank)) - 1]
        return np.sqrt(np.maximum(nearest, 0))

    return score


def dealt(groups: Sequence[str], folds: int, labels: Sequence[str] | None = None) -> np.ndarray:
    """Deal whole groups into folds, fewer where there are fewer groups."""
    rows = list(zip(groups, labels or ["any"] * len(groups), strict=True))
    return np.array(deal_folds(rows, min(folds, len(set(groups))), SEED))


def table(inside: str, found: dict[str, Images], rows: dict[str, np.ndarray]) -> Iterator[str]:
    """Fit on all folds but one, take the threshold from inner out-of-fold scores, and score the rest and the others."""
    features, groups = rows[inside], np.array(found[inside].groups)
    others = [name for name in rows if name != inside]
    yield f"In-distribution: {inside}, {len(groups)} images of {len(set(groups))} groups; AUROC / share called novel"
    yield ""
    yield f"| score | false alarms, each group equally (folds) | {' | '.join(f'{o} ({len(rows[o])})' for o in others)} |"
    yield "|---" * (len(others) + 2) + "|"
    outer = dealt(groups.tolist(), FOLDS)
    for name, fit in (("Gaussian, shrunk covariance", gaussian), ("5th nearest neighbour", neighbours)):
        alarms, by_group = [], []
        cells: dict[str, list[tuple[float, float]]] = {other: [] for other in others}
        for fold in np.unique(outer):
            training, held = features[outer != fold], features[outer == fold]
            names = groups[outer != fold]
            inner = dealt(names.tolist(), INNER_FOLDS)
            unseen = np.empty(len(training))
            for part in np.unique(inner):
                unseen[inner == part] = fit(training[inner != part])(training[inner == part])
            threshold = novelty_threshold(unseen, names.tolist(), FALSE_ALARM)
            score = fit(training)
            own = score(held)
            alarms.append((own > threshold).mean())
            by_group += [(own[groups[outer == fold] == g] > threshold).mean() for g in np.unique(groups[outer == fold])]
            for other in others:
                strange = score(rows[other])
                truth = np.repeat([0, 1], [len(own), len(strange)])
                area = roc_auc_score(truth, np.concatenate([own, strange]))
                cells[other].append((area, (strange > threshold).mean()))
        shown = [f"{np.mean([a for a, _ in cells[o]]):.3f} / {np.mean([c for _, c in cells[o]]):.2f}" for o in others]
        rate = f"{100 * np.mean(by_group):.1f} % ({100 * min(alarms):.0f}–{100 * max(alarms):.0f} %)"
        yield f"| {name} | {rate} | {' | '.join(shown)} |"
    yield ""


# ---------------------------------------------------------------------------------- abstention and label sets


def doubts(found: dict[str, Images], rows: dict[str, np.ndarray]) -> Iterator[str]:
    """Fit thresholds on inner out-of-fold scores of a linear SVM and count, on the fold left out, what they give."""
    yield (
        f"| task | images, groups | error of all | answered | error among them | label sets hold the class "
        f"(aim {1 - ALPHA:.0%}, each group equally) | mean size |"
    )
    yield "|---|---|---|---|---|---|---|"
    binary = tuple("Benign" if label == "Benign" else "ALL" for label in found["Taleqani"].labels)
    for task, name, labels in (
        ("Taleqani, ALL or benign", "Taleqani", binary),
        ("Taleqani, four folders", "Taleqani", found["Taleqani"].labels),
        ("AML_cells, immature or mature", "AML_cells", found["AML_cells"].labels),
    ):
        classes = sorted(set(labels))
        truth, groups = np.array([classes.index(label) for label in labels]), np.array(found[name].groups)
        told = np.zeros((len(truth), len(classes)))
        answered, sets = np.zeros(len(truth), dtype=bool), np.zeros(told.shape, dtype=bool)
        outer = dealt(groups.tolist(), FOLDS, labels)
        for fold in np.unique(outer):
            inside = np.flatnonzero(outer != fold)
            inner = dealt(groups[inside].tolist(), INNER_FOLDS, [labels[i] for i in inside])
            scores = np.zeros((len(inside), len(classes)))
            for part in np.unique(inner):
                scores[inner == part] = svm(rows[name], truth, inside[inner != part], inside[inner == part])
            temperature = fit_temperature(scores, truth[inside])
            unseen, names = softmax(scores, temperature), groups[inside].tolist()
            confidence = least_confidence(unseen, truth[inside], names, risk=RISK)
            label_sets = fit_label_sets(unseen, truth[inside], names, ALPHA)
            held = np.flatnonzero(outer == fold)
            told[held] = softmax(svm(rows[name], truth, inside, held), temperature)
            answered[held], sets[held] = confidence.answers(told[held]), label_sets.sets(told[held])
        wrong = told.argmax(1) != truth
        yield (
            f"| {task} | {len(truth)}, {len(set(groups))} | {100 * wrong.mean():.1f} % | {100 * answered.mean():.1f} % | "
            f"{100 * wrong[answered].mean():.1f} % | {100 * coverage(sets, truth, groups.tolist()):.1f} % | "
            f"{sets.sum(1).mean():.2f} |"
        )
    yield ""


def svm(features: np.ndarray, truth: np.ndarray, fit: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Give the scores of a linear machine, C 0.01, on the images at `score`."""
    kernels = Kernels(features[fit][:, None], truth[fit])
    return kernels.fit(SvmChoice(kernel="linear", c=0.01), len(np.unique(truth))).scores(features[score])


# ---------------------------------------------------------------------------------- colours


def colours(found: dict[str, Images]) -> Iterator[str]:
    """Count the images whose colours are those of a stained smear."""
    yield "| source | images | colours of a stained smear |"
    yield "|---|---|---|"
    for name, images in found.items():
        told = [smear_colours(decode(str(path)).pixels).like_a_smear for path in images.paths]
        yield f"| {name} | {len(told)} | {sum(told)} ({100 * np.mean(told):.1f} %) |"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None, help="keep features here between runs")
    parser.add_argument("--photographs", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leuk-novelty-") as folder:
        found = sources(asked.data)
        found["drawn, no smears"] = draw_others(Path(folder))
        if asked.photographs is not None:
            files = tuple(sorted(asked.photographs.iterdir()))
            found["photographs"] = Images(paths=files, groups=tuple(file.name for file in files))
        rows = features_of(found, asked.cache or Path(folder) / "cache")
        print(
            f"EfficientNet-Lite0 features at 224 px, squash; seed {SEED}; threshold for {FALSE_ALARM:.0%} false alarms\n"
        )
        for inside in ("Taleqani", "ALL_IDB1", "AML_cells"):
            print("\n".join(table(inside, found, rows)), flush=True)
        print("\n".join(doubts(found, rows)), flush=True)
        print("\n".join(colours(found)))


if __name__ == "__main__":
    main()
