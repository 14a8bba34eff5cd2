"""Measure what `leuk prepare` holds and takes beside opening images: manifest, splits, near copies, audit, at growing numbers.

Usage: python benchmarks/million.py [--rows 10000 100000 1000000] [--copies 0.01] [--scratch FOLDER]

No image is opened: the real `prepare` runs with made rows in the place of what opening would have shown. Blobs are drawn from
the distribution of those of drawn smears, thumbnails are sums of soft discs; a share of the rows are turned copies of others,
which must be found. Each number of rows is a process of its own, so that peaks are its own. Times are CPU seconds of one
core; "near copies" is inside "whole".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data import ties
from leukemia_cli.data.candidates import Candidate, Gathered
from leukemia_cli.steps import prepare as step
from leukemia_cli.vision import survey
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.fingerprints import RECORD, THUMBNAIL_PX, describe
from leukemia_cli.vision.traits import measure
from leukemia_cli.vision.traits import packed as pack_traits
from leukemia_cli.workspace.folders import open_workspace

SEED, PORTION, GROUP = 11, 500, 20
DISCS, FIELDS = 14, 200


def peak_mib() -> float:
    """Give the peak of resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def blobs_of_drawn_fields() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean (27,) and covariance (27, 27) of the patches of drawn fields."""
    patches = []
    for number in range(FIELDS):
        kind = KINDS[number % len(KINDS)]
        field = draw_field(kind, draw_patient(kind, number // 5), np.random.default_rng([SEED, number]))
        patches.append(describe(np.asarray(field.convert("RGB"))).patches)
    every = np.concatenate(patches).astype(np.float64)
    return every.mean(axis=0), np.cov(every.T)


def made_prints(count: int, copies: float) -> Iterator[NDArray[np.void]]:
    """Yield portions of fingerprints; of each portion the last are copies, mirrored, of its first."""
    mean, covariance = blobs_of_drawn_fields()
    mirrored = np.array([(-1) ** u for v in range(7) for u in range(7) if 1 <= u + v <= 6], dtype=np.int8)
    ticks = np.arange(THUMBNAIL_PX)
    for start in range(0, count, PORTION):
        random = np.random.default_rng([SEED, start])
        rows = np.zeros(min(PORTION, count - start), dtype=RECORD)
        many, blobs = len(rows), rows["patches"].shape[1]
        middles = random.uniform(0, THUMBNAIL_PX, (2, many, DISCS, 1))
        wide = random.uniform(1.2, 3, (many, DISCS, 1))
        across, down = np.exp(-((ticks - middles) ** 2) / (2 * wide**2))
        dark = (across * random.uniform(0.3, 1, (many, DISCS, 1))).transpose(0, 2, 1) @ down
        dark += random.normal(0, 0.03, dark.shape)
        low, high = dark.min(axis=(1, 2), keepdims=True), dark.max(axis=(1, 2), keepdims=True)
        rows["thumbnail"] = np.rint(255 * (high - dark) / (high - low))
        rows["aspect"], rows["count"] = 1, blobs
        rows["places"][..., :2] = random.uniform(0.05, 0.95, (many, blobs, 2))
        rows["places"][..., 2] = random.uniform(0.015, 0.06, (many, blobs))
        drawn = random.multivariate_normal(mean, covariance, (many, blobs), method="cholesky")
        drawn *= 200 / np.linalg.norm(drawn, axis=2, keepdims=True)
        rows["patches"] = np.clip(np.rint(drawn), -127, 127)
        rows["dark"] = random.random((many, blobs)) < 0.6
        again = int(many * copies)
        if again:
            copy = rows[:again].copy()
            copy["thumbnail"] = copy["thumbnail"][:, :, ::-1]
            copy["places"][..., 0] = 1 - copy["places"][..., 0]
            copy["patches"] *= mirrored
            rows[-again:] = copy
        yield rows


def made_looks(count: int, copies: float) -> Iterator[Any]:
    """Yield what opening each image would have shown."""
    field = draw_field("ALL", draw_patient("ALL", 0), np.random.default_rng(SEED))
    traits = pack_traits([measure(np.asarray(field.convert("RGB")), format="JPEG", jpeg_quality=90.0)])
    number = 0
    for prints in made_prints(count, copies):
        random = np.random.default_rng([SEED, number, 1])
        for row in range(len(prints)):
            facts = np.array([(f"{number:064x}", f"{number:032x}", 2592, 1944)], dtype=survey.FACTS)
            mine = traits.copy()
            for name in ("colour", "background", "border", "corners"):
                mine[name] += random.normal(0, 0.05, mine[name].shape).astype(np.float32)
            mine["bodies"] = random.integers(0, 40)
            yield survey.Look(facts=facts, traits=mine, print=prints[row : row + 1], taken=None, camera="")
            number += 1


def measured(count: int, copies: float, scratch: Path | None, *, find: bool = True) -> dict[str, float]:
    """Run the real `prepare` on made rows and give seconds, mebibytes and what was found."""
    candidates = tuple(
        Candidate(
            path=f"/data/smears/hospital/{('ALL', 'HTL')[row // GROUP % 2]}/slide-{row // GROUP:06d}/field-{row:08d}.jpg",
            relative=f"slide-{row // GROUP:06d}/field-{row:08d}.jpg",
            source="hospital",
            label=("ALL", "HTL")[row // GROUP % 2],
            group=f"slide-{row // GROUP:06d}",
        )
        for row in range(count)
    )
    gathered = [Gathered(candidates=candidates, groups_source="given", warnings=(), notes=())]
    del candidates
    spent = {"making": 0.0, "near": 0.0}

    def looks(*_: object, **__: object) -> Iterator[Any]:
        made = made_looks(count, copies)
        while True:
            before = time.process_time()
            look = next(made, None)
            spent["making"] += time.process_time() - before
            if look is None:
                return
            yield look

    peaks: dict[str, float] = {}

    def near(*given: Any, **named: Any) -> Any:
        peaks["opened"] = peak_mib()
        print(f"opened {count:,} rows: {peaks['opened']:.0f} MiB", file=sys.stderr, flush=True)
        before = time.process_time()
        found = find_near(*given, **named) if find else []
        spent["near"] = time.process_time() - before
        peaks["near"] = peak_mib()
        print(f"near copies: {spent['near']:.0f} s, {peaks['near']:.0f} MiB", file=sys.stderr, flush=True)
        return found

    find_near = ties.find_near
    with (
        tempfile.TemporaryDirectory(dir=scratch) as root,
        mock.patch.object(survey, "decode_each", looks),
        mock.patch.object(ties, "find_near", near),
        mock.patch.object(step, "gather", lambda *_: gathered.pop()),
        mock.patch.object(step, "read_sources", lambda *_: ((), None)),
    ):
        workspace = open_workspace(Path(root) / "w", create=True)
        before = time.process_time()
        done = step.prepare(workspace, step.PrepareSettings(sources=("made",), task="binary", pictures=False))
        whole = time.process_time() - before - spent["making"]
        on_disk = sum(file.stat().st_size for file in workspace.manifest_folder.rglob("*") if file.is_file())
    wanted = sum(int(min(PORTION, count - start) * copies) for start in range(0, count, PORTION))
    return {
        "rows": count,
        "near_s": spent["near"],
        "other_s": whole - spent["near"],
        "peak_opened_mib": peaks["opened"],
        "peak_near_mib": peaks["near"],
        "peak_mib": peak_mib(),
        "disk_mib": on_disk / 2**20,
        "copies": wanted,
        "pairs": len(done.near),
    }


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--copies", type=float, default=0.01)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--no-near", action="store_true", help="leave near copies out, to measure all else")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.rows[0], asked.copies, asked.scratch, find=not asked.no_near)))
        return
    print(
        "| rows | near copies, CPU s | all else, CPU s | peak before near copies, MiB | in near copies | of all | "
        "manifest folder, MiB | copies | pairs called |"
    )
    print("| ---: " * 9 + "|")
    for rows in asked.rows:
        command = [sys.executable, __file__, "--one", "--rows", str(rows), "--copies", str(asked.copies)]
        if asked.scratch is not None:
            command += ["--scratch", str(asked.scratch)]
        if asked.no_near:
            command.append("--no-near")
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"| {row['rows']:,} | {row['near_s']:.0f} | {row['other_s']:.0f} | {row['peak_opened_mib']:.0f} | "
            f"{row['peak_near_mib']:.0f} | {row['peak_mib']:.0f} | {row['disk_mib']:.0f} | "
            f"{row['copies']:,} | {row['pairs']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
