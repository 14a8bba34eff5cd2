"""Measure what the audit of a data set finds, and how often it accuses where nothing is to be found.

Usage: python benchmarks/audit.py --data FOLDER [--cache DIR] [--shuffles N]

FOLDER holds Taleqani, ALL_IDB1, AML_cells and healthy_cells. Labels are shuffled between groups as whole groups, and the
images are dealt to folds anew, as for a data set that came so. Times are of one core. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.judging.shortcuts import LEVEL, confounding, likely_mislabelled, probes
from leukemia_cli.reporting.audit import audit_document, audit_lines
from leukemia_cli.reporting.audit_images import AuditImages, measured
from leukemia_cli.reporting.audit_page import audit_page
from leukemia_cli.vision import traits as traits_module
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.traits import Traits, jpeg_quality, measure

SEED, FOLDS = 0, 5
IMMATURE = ("blast", "promyelocyte", "promonocyte")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set to audit; `groups_known` is False where each image is its own group."""

    name: str
    images: AuditImages


def cached_traits(path: Path, cache: Path | None) -> Traits:
    """Measure one image, or read what was measured of the same bytes by the same code."""
    content = path.read_bytes()
    code = Path(traits_module.__file__).read_bytes()
    kept = cache / f"{hashlib.sha256(code + content).hexdigest()[:24]}.json" if cache else None
    if kept is not None and kept.exists():
        stored = json.loads(kept.read_text())
        return Traits(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})
    decoded = decode(content)
    found = measure(decoded.pixels, format=decoded.format, jpeg_quality=jpeg_quality(content))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps(asdict(found), default=list))
        half.replace(kept)
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def data_sets(data: Path, cache: Path | None) -> list[DataSet]:
    """List the data sets with their groups."""
    measured_of: dict[str, Traits] = {}

    def made(
        name: str,
        files: Sequence[Path],
        labels: Sequence[str],
        groups: Sequence[str],
        sources: Sequence[str],
        known: bool,
    ) -> DataSet:
        for file in files:
            if str(file) not in measured_of:
                measured_of[str(file)] = cached_traits(file, cache)
        digests: dict[str, list[int]] = {}
        for row, file in enumerate(files):
            digests.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), []).append(row)
        return DataSet(
            name=name,
            images=AuditImages(
                classes=tuple(sorted(set(labels))),
                paths=[str(file.relative_to(data)) for file in files],
                labels=list(labels),
                groups=list(groups),
                sources=list(sources),
                traits=[measured_of[str(file)] for file in files],
                groups_source="given" if known else "none",
                copies=[rows for rows in digests.values() if len(rows) > 1],
            ),
        )

    taleqani = rows_of(data / "Taleqani" / "appearance_groups.csv")
    files = [data / "Taleqani" / row["path"] for row in taleqani]
    binary = ["HTL" if "Benign" in row["path"] else "ALL" for row in taleqani]
    subtypes = [row["path"].split("/")[1] for row in taleqani]
    groups = [row["group"] for row in taleqani]
    listed = [
        made("Taleqani", files, binary, groups, ["Taleqani"] * len(files), True),
        made("Taleqani, four classes", files, subtypes, groups, ["Taleqani"] * len(files), True),
    ]
    cells = rows_of(data / "AML_cells" / "labels.csv")
    aml = [data / "AML_cells" / row["path"] for row in cells]
    patients = [row["patient"] for row in cells]
    healthy = sorted((data / "healthy_cells").iterdir())
    listed.append(
        made(
            "AML + healthy", [*aml, *healthy], ["AML"] * len(aml) + ["HTL"] * len(healthy),
            [*patients, *(file.name for file in healthy)], ["AML_cells"] * len(aml) + ["healthy_cells"] * len(healthy), True,
        )
    )  # fmt: skip
    mature = ["immature" if row["cell_type"] in IMMATURE else "mature" for row in cells]
    listed.append(made("AML, immature against mature", aml, mature, patients, ["AML_cells"] * len(aml), True))
    blocks = rows_of(data / "ALL_IDB1" / "capture_blocks.csv")
    fields = [data / "ALL_IDB1" / "im" / row["image"] for row in blocks]
    kinds = ["ALL" if file.stem.endswith("_1") else "HTL" for file in fields]
    block = [row["block"] for row in blocks]
    one_source = ["ALL_IDB1"] * len(fields)
    listed.append(made("ALL-IDB1, 4 blocks", fields, kinds, block, one_source, True))
    listed.append(made("ALL-IDB1, groups unknown", fields, kinds, [file.name for file in fields], one_source, False))
    return listed


def cell(probe: dict[str, Any]) -> str:
    """Write a probe in a few marks."""
    if probe["balanced_accuracy"] is None or probe["null"] is None:
        return "–"
    return (
        f"{probe['balanced_accuracy']:.3f} (95 % {probe['null']['p95']:.3f}) p {probe['p_holm']:.3f} {probe['verdict']}"
    )


def shuffled(images: AuditImages, seed: int) -> list[str]:
    """Exchange the labels of whole groups; each group of these sets that are shuffled has one label."""
    random = np.random.default_rng([7, seed])
    names = sorted(set(images.groups))
    label_of = dict(zip(images.groups, images.labels, strict=True))
    given = dict(zip(names, random.permutation([label_of[name] for name in names]).tolist(), strict=True))
    return [given[group] for group in images.groups]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--shuffles", type=int, default=40)
    parser.add_argument("--pages", type=Path, help="a folder for the pages, without pictures")
    arguments = parser.parse_args()
    sets = data_sets(arguments.data, arguments.cache)

    print("## Probes: balanced accuracy, 95th percentile of exchanged labels, p after Holm\n")
    documents = {}
    for one in sets:
        start = time.process_time()
        documents[one.name] = (audit_document(one.images, seed=SEED), time.process_time() - start)
    names = list(dict.fromkeys(probe["name"] for document, _ in documents.values() for probe in document["probes"]))
    print("| data set | images | groups | " + " | ".join(names) + " | s |\n|---|---|---|" + "---|" * (len(names) + 1))
    for name, (document, seconds) in documents.items():
        by_name = {probe["name"]: probe for probe in document["probes"]}
        told = " | ".join(cell(by_name[probe]) if probe in by_name else "–" for probe in names)
        print(f"| {name} | {document['images']} | {document['groups']} | {told} | {seconds:.1f} |")

    print("\n## What the audit says\n")
    for name, (document, _) in documents.items():
        print(f"**{name}**\n\n```")
        print("\n".join(audit_lines(document)))
        print("```\n")
        if arguments.pages:
            arguments.pages.mkdir(parents=True, exist_ok=True)
            (arguments.pages / f"{name.replace(' ', '_')}.html").write_text(audit_page(document), encoding="utf-8")

    print(f"## Labels shuffled between groups, {arguments.shuffles} times\n")
    print("| data set | probes | shuffles with any probe accused | with any confounding accused |\n|---|---|---|---|")
    for one in sets:
        if len(set(zip(one.images.groups, one.images.labels, strict=True))) != len(set(one.images.groups)):
            continue
        accused = confused = 0
        features = measured(one.images.traits, one.images.sources)
        if len(set(one.images.groups)) < 5:
            continue
        for seed in range(arguments.shuffles):
            labels = shuffled(one.images, seed)
            rows = list(zip(one.images.groups, labels, strict=True))
            folds = deal_folds(rows, FOLDS, seed)
            found = probes(features, labels, one.images.groups, folds, seed=seed)
            accused += any(probe.verdict == "accused" for probe in found)
            sizes = [f"{t.width}×{t.height}" for t in one.images.traits]
            held = [
                *confounding("size", sizes, labels, one.images.groups),
                *confounding("source", one.images.sources, labels, one.images.groups),
            ]
            confused += any(each.verdict == "accused" for each in held)
        print(
            f"| {one.name} | {len(features)} | {accused} of {arguments.shuffles} | {confused} of {arguments.shuffles} |"
        )

    print("\n## Labels made wrong on purpose: 2 % of the images, 5 draws\n")
    print("| data set | wrong | found | right ones named too | named with no label made wrong |\n|---|---|---|---|---|")
    for one in sets:
        images = one.images
        features = np.array([(*t.colour, *t.background, np.log1p(t.bodies)) for t in images.traits])
        fold_count = 2 if len(set(images.groups)) < 5 else FOLDS
        folds = deal_folds(list(zip(images.groups, images.labels, strict=True)), fold_count, SEED)
        untouched = likely_mislabelled(features, images.labels, images.groups, folds)
        wrong = found = extra = 0
        for seed in range(5):
            random = np.random.default_rng([11, seed])
            rows = random.choice(len(images.labels), max(1, round(0.02 * len(images.labels))), replace=False)
            labels = list(images.labels)
            for row in rows:
                labels[row] = str(random.choice([kind for kind in images.classes if kind != labels[row]]))
            named = {suspect.row for suspect in likely_mislabelled(features, labels, images.groups, folds)}
            wrong, found, extra = wrong + len(rows), found + len(named & set(rows)), extra + len(named - set(rows))
        print(f"| {one.name} | {wrong} | {found} | {extra} | {len(untouched)} |")

    print("\n## Time\n")
    first = sets[0].images
    many = AuditImages(
        classes=first.classes,
        paths=[f"{i}/{path}" for i in range(25) for path in first.paths],
        labels=[*first.labels] * 25,
        groups=[f"{i}/{group}/{row % 6}" for i in range(25) for row, group in enumerate(first.groups)],
        sources=[*first.sources] * 25,
        traits=[
            replace(t, colour=tuple(value + 1e-3 * i for value in t.colour)) for i in range(25) for t in first.traits
        ],
        groups_source="given",
    )
    start = time.process_time()
    document = audit_document(many, seed=SEED)
    per_fold = Counter(probe["method"] for probe in document["probes"])
    print(
        f"{len(many.paths):,} images in {document['groups']:,} groups (Taleqani 25 times over): "
        f"{time.process_time() - start:.1f} s; {'; '.join(per_fold)}. Level {LEVEL}."
    )
    for name in ("Taleqani", "ALL_IDB1"):
        file = next(
            arguments.data / path
            for one in sets
            for path, t in zip(one.images.paths, one.images.traits, strict=True)
            if path.startswith(name) and t.megapixels == max(o.megapixels for o in one.images.traits)
        )
        pixels = np.array(Image.open(file).convert("RGB"))
        start = time.process_time()
        for _ in range(10):
            measure(pixels, format="JPEG", jpeg_quality=None)
        each = (time.process_time() - start) * 100
        print(f"\n{pixels.shape[1]}×{pixels.shape[0]} px: {each:.0f} ms to measure one image, already decoded.")


if __name__ == "__main__":
    main()
