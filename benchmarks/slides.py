"""Measure memory and time of reading a large drawn smear tile by tile: PNG, striped TIFF, pyramidal TIFF; prints Markdown.

Usage: python benchmarks/slides.py [--side-px 40000] [--formats png tif pyramid]
Needs the extra `slides`, and disk for one image at a time (40,000 × 40,000 px: up to 5 GB in the temporary folder).
"""

from __future__ import annotations

import argparse
import json
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
TILE_PX, OVERLAP_PX = 2048, 128
FIELD_PX, FIELDS = 1000, 12


def draw(path: str, kind: str, side_px: int) -> None:
    """Lay drawn fields side by side, beyond what deflate looks back over, repeat them, and write the image."""
    import numpy as np
    import pyvips

    from leukemia_cli.vision.drawing import draw_field, draw_patient

    patient = draw_patient("HTL", 1)
    rng = np.random.default_rng(0)
    fields = [np.asarray(draw_field("HTL", patient, rng, FIELD_PX, FIELD_PX)) for _ in range(FIELDS)]
    patch = pyvips.Image.new_from_array(np.concatenate(fields, axis=1))
    times = (-(-side_px // (FIELDS * FIELD_PX)), -(-side_px // FIELD_PX))
    smear = patch.replicate(*times).crop(0, 0, side_px, side_px)
    if kind == "png":
        smear.pngsave(path, compression=1)
    elif kind == "tif":
        smear.tiffsave(path, compression="deflate", bigtiff=True)
    else:
        smear.tiffsave(
            path, compression="jpeg", Q=90, tile=True, tile_width=512, tile_height=512, pyramid=True, bigtiff=True
        )


def read(path: str) -> dict[str, object]:
    """Read all tiles and the thumbnail as `leuk classify` does; give seconds, peak memory and what the tiles were."""
    from leukemia_cli.vision.quality import tile_quality
    from leukemia_cli.vision.slides import open_slide, tiles

    def peak_mib() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

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
        small = slide.thumbnail(2048)
        reader = slide.reader
    return {
        "reader": reader,
        "kinds": dict(kinds),
        "read_s": tiles_s - judged_s,
        "judged_s": judged_s,
        "thumbnail_s": time.perf_counter() - started - tiles_s,
        "thumbnail": f"{small.shape[1]}×{small.shape[0]}",
        "start_mib": before,
        "peak_mib": peak_mib(),
    }


def child(*line: str) -> str:
    """Run this script for one job in a process of its own, whose memory is its own."""
    return subprocess.run([sys.executable, __file__, *line], stdout=subprocess.PIPE, check=True, text=True).stdout


def main() -> None:
    """Draw and read each format in processes of their own; print a row as each is done."""
    if sys.argv[1:2] == ["draw"]:
        draw(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(read(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=40_000)
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    given = parser.parse_args()
    print(f"{given.side_px:,} × {given.side_px:,} px, tiles of {TILE_PX} + 2 · {OVERLAP_PX} px, one process")
    print(f"{platform.platform()}, Python {platform.python_version()}\n")
    print("| file | on disk | read by | tiles | reading | judging tiles | thumbnail | memory at start | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for kind in given.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FORMATS[kind]
            child("draw", str(path), kind, str(given.side_px))
            found = json.loads(child("read", str(path)))
            size_gb = path.stat().st_size / 1e9
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(found["kinds"].items()))
        print(
            f"| {FORMATS[kind]} | {size_gb:.2f} GB | {found['reader']} | {kinds} | {found['read_s']:.0f} s"
            f" | {found['judged_s']:.0f} s | {found['thumbnail_s']:.1f} s | {found['start_mib']:.0f} MiB"
            f" | {found['peak_mib']:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
