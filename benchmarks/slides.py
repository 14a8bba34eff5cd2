"""Measure memory and time of reading and of classifying a large drawn smear: PNG, striped TIFF, pyramidal TIFF.

Usage: python benchmarks/slides.py [--side-px 40000] [--formats png tif pyramid] [--jobs read classify] [--smeared 1.0]
Prints Markdown. Classifying is the whole of `leuk classify` by a run on cells with a small random backbone. Drawn fields are
crowded with white cells, and finding them takes the time: `--smeared 0.1` leaves nine rows of fields in ten bare.
Needs the extra `slides`, and disk for one image at a time (40,000 × 40,000 px: up to 5 GB in the temporary folder).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

FORMATS = {"png": "smear.png", "tif": "striped.tif", "pyramid": "pyramid.tif"}
MAX_MEGAPIXELS = 200.0
FIELD_PX, FIELDS = 1000, 12


def draw(path: str, kind: str, side_px: int, smeared: float) -> None:
    """Lay drawn fields side by side, beyond what deflate looks back over, repeat them, and write the image.

    Rows of fields beyond the share `smeared` are bare, those with cells evenly among them.
    """
    import numpy as np
    import pyvips

    from leukemia_cli.vision.drawing import draw_field, draw_patient

    patient = draw_patient("HTL", 1)
    rng = np.random.default_rng(0)
    fields = [np.asarray(draw_field("HTL", patient, rng, FIELD_PX, FIELD_PX)) for _ in range(FIELDS)]
    full = np.concatenate(fields, axis=1)
    light = np.percentile(full, 95, axis=(0, 1))
    ground = light + rng.normal(0, 1.5, full.shape)
    rows = {
        True: pyvips.Image.new_from_array(full),
        False: pyvips.Image.new_from_array(ground.clip(0, 255).astype(np.uint8)),
    }
    down = -(-side_px // FIELD_PX)
    turns = [int((row + 1) * smeared) > int(row * smeared) for row in range(down)]
    smear = pyvips.Image.arrayjoin([rows[turn] for turn in turns], across=1)
    smear = smear.replicate(-(-side_px // (FIELDS * FIELD_PX)), 1).crop(0, 0, side_px, side_px)
    if kind == "png":
        smear.pngsave(path, compression=1)
    elif kind == "tif":
        smear.tiffsave(path, compression="deflate", bigtiff=True)
    else:
        smear.tiffsave(
            path, compression="jpeg", Q=90, tile=True, tile_width=512, tile_height=512, pyramid=True, bigtiff=True
        )


def peak_mib() -> float:
    """Give the most memory that this process has had; Linux's own figure is not carried over from who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def read(path: str) -> dict[str, object]:
    """Read and judge all tiles, then the thumbnail; give seconds, peak memory and what the tiles were."""
    from leukemia_cli.vision.cutting import OVERLAP_PX, TILE_PX
    from leukemia_cli.vision.quality import tile_quality
    from leukemia_cli.vision.slides import open_slide
    from leukemia_cli.vision.tiling import tiles

    before = peak_mib()
    kinds: Counter[str] = Counter()
    judged_s = 0.0
    started = time.perf_counter()
    with open_slide(path, max_megapixels=MAX_MEGAPIXELS) as slide:
        for tile in tiles(slide, side_px=TILE_PX, overlap_px=OVERLAP_PX):
            began = time.perf_counter()
            kinds[tile_quality(tile.pixels)] += 1
            judged_s += time.perf_counter() - began
        tiles_s = time.perf_counter() - started
        slide.thumbnail(2048)
        reader = slide.reader
    told = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))
    return {
        "by": reader,
        "tiles": told,
        "cells": "–",
        "wall_s": time.perf_counter() - started,
        "note": f"{judged_s:.0f} s of it judging tiles, {time.perf_counter() - started - tiles_s:.1f} s the thumbnail",
        "start_mib": before,
        "peak_mib": peak_mib(),
    }


def make_run(folder: str) -> None:
    """Train a run on the cells of drawn fields: a small random backbone, so that nothing is fetched."""
    from leukemia_cli.cli.app import run

    drawn, place = Path(folder) / "drawn", ["--workspace", str(Path(folder) / "ws"), "--quiet", "--device", "cpu"]
    cells = ["--unmarked", "as-image", "--input-unit", "field", "--folds", "2"]
    for line in (
        ["sample-images", str(drawn), "--patients", "4", "--quiet"],
        [
            "prepare",
            f"ALL={drawn / 'ALL'}",
            f"HTL={drawn / 'HTL'}",
            "--task",
            "binary",
            "--unit",
            "cell",
            *cells,
            *place,
        ],
        ["train", "--backbone", "timm:test_resnet", "--weights", "none", "--variant", "base", "--epochs", "2", *place],
    ):
        if run(line) != 0:
            raise SystemExit(f"leuk {' '.join(line)} failed")


def classify(path: str, folder: str) -> dict[str, object]:
    """Classify as `leuk classify` does, in one thread; give seconds, peak memory and what was found."""
    from leukemia_cli.cli.app import run

    before = peak_mib()
    found = Path(folder) / "found.json"
    started, began = time.perf_counter(), time.process_time()
    line = ["classify", path, "--format", "json", "--output", str(found), "--workspace", str(Path(folder) / "ws")]
    code = run([*line, "--workers", "1", "--quiet", "--device", "cpu"])
    if code != 0:
        raise SystemExit(f"leuk {' '.join(line)} ended with {code}")
    (row,) = json.loads(found.read_text())
    return {
        "by": "leuk classify",
        "tiles": row["tiles"],
        "cells": f"{row['cells']:,}",
        "wall_s": time.perf_counter() - started,
        "note": f"{time.process_time() - began:.0f} s of processor time",
        "start_mib": before,
        "peak_mib": peak_mib(),
    }


def child(*line: str) -> str:
    """Run this script for one job in a process of its own, whose memory is its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *line], stdout=subprocess.PIPE, check=True, text=True, env=env)
    return done.stdout


def main() -> None:
    """Draw each format once, do the jobs in processes of their own, and print a row as each is done."""
    job = sys.argv[1] if len(sys.argv) > 1 else ""
    if job == "draw":
        draw(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
        return
    if job == "make-run":
        make_run(sys.argv[2])
        return
    if job in ("read", "classify"):
        print(json.dumps(read(sys.argv[2]) if job == "read" else classify(sys.argv[2], sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=40_000)
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--jobs", nargs="+", choices=("read", "classify"), default=("read", "classify"))
    parser.add_argument("--smeared", type=float, default=1.0, help="share of the rows of fields that are not bare")
    given = parser.parse_args()
    print(f"{given.side_px:,} × {given.side_px:,} px, {given.smeared:.0%} of it smeared, one process")
    print(f"{platform.platform()}, Python {platform.python_version()}\n")
    print("| file | on disk | job | tiles | white cells | time | memory at start | peak memory |")
    print("|---|---:|---|---|---:|---|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "classify" in given.jobs:
            child("make-run", folder)
        for kind in given.formats:
            path = Path(folder) / FORMATS[kind]
            child("draw", str(path), kind, str(given.side_px), str(given.smeared))
            for each in given.jobs:
                found = json.loads(child(each, str(path), folder).splitlines()[-1])
                print(
                    f"| {path.name} | {path.stat().st_size / 1e9:.2f} GB | {found['by']} | {found['tiles']}"
                    f" | {found['cells']} | {found['wall_s']:.0f} s, {found['note']} | {found['start_mib']:.0f} MiB"
                    f" | {found['peak_mib']:.0f} MiB |",
                    flush=True,
                )
            path.unlink()


if __name__ == "__main__":
    main()
