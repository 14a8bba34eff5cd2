"""Very many images through one `leuk classify`, some of them broken: counts exact, memory and open files flat.

    python benchmarks/soak.py [--images N] [--broken SHARE] [--seed S] [--work DIR]

A few drawn images are listed under N names of their own (hard links). Memory and open files of the process are sampled while
it runs; they are flat where the last fifth of the samples is no higher than the second fifth, within what is stated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from faults import NETWORK, Bench  # noqa: E402 - found by the two lines above

MOST_GROWTH = 0.03
"""By which share memory may be higher at the end: the allocator's, not the rows'."""
LEAST_IMAGES = 10_000
"""Below so many start-up reaches into the second fifth, and growth is not judged."""
NAMES_A_FOLDER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the process held at one moment."""

    seconds: float
    resident_mb: float
    open_files: int


def laid_out(work: Path, pictures: Path, images: int, broken: float, dice: random.Random) -> tuple[Path, set[int]]:
    """Link few files under many names; give the list of them and the places of the broken ones."""
    good = sorted(pictures.rglob("*.png"))
    wrong = []
    for number, content in enumerate(
        (b"", good[0].read_bytes()[:700], b"<html>", good[1].read_bytes()[:-30] + bytes(30))
    ):
        wrong.append(work / f"broken-{number}.png")
        wrong[-1].write_bytes(content)
    places = set(dice.sample(range(images), round(images * broken)))
    listed = work / "list.txt"
    with listed.open("w") as lines:
        for place in range(images):
            folder = work / "many" / f"{place // NAMES_A_FOLDER:05d}"
            if place % NAMES_A_FOLDER == 0:
                folder.mkdir(parents=True)
            name = folder / f"{place:08d}.png"
            os.link(dice.choice(wrong if place in places else good), name)
            lines.write(f"{name}\n")
    return listed, places


def watched(process: subprocess.Popen[bytes], every_s: float) -> list[Sample]:
    """Sample memory and open files until the process ends."""
    begun, samples = time.monotonic(), []
    proc = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            samples.append(Sample(seconds=time.monotonic() - begun, resident_mb=resident,
                                  open_files=len(list((proc / "fd").iterdir()))))  # fmt: skip
        except (OSError, IndexError):
            break
        time.sleep(every_s)
    process.wait()
    return samples


def fifth(values: list[float], which: int) -> float:
    """Give the median of one fifth of the values."""
    part = values[which * len(values) // 5 : (which + 1) * len(values) // 5]
    return statistics.median(part)


def main() -> int:
    """Lay out, classify, count, and print a table; exit code 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--broken", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="default: a new temporary folder")
    chosen = parser.parse_args()
    work = (chosen.work or Path(tempfile.mkdtemp(prefix="leuk-soak-"))).absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    bench = Bench(work, chosen.seed)
    bench.make(())
    listed, places = laid_out(work, bench.pictures, chosen.images, chosen.broken, random.Random(chosen.seed))
    rows_file = work / "rows.jsonl"
    root = work / "good" / "trained"
    words = ["classify", f"@{listed}", "-w", str(root), "--format", "jsonl", "--output", str(rows_file), "--device", "cpu",
             "--quiet"]  # fmt: skip
    print(f"{NETWORK.split()[1]}, {chosen.images:,} images, {len(places):,} of them broken", file=sys.stderr)
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "leukemia_cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    samples = watched(process, max(0.2, chosen.images / 50_000))
    told = process.stderr.read().decode() if process.stderr else ""
    seconds = time.monotonic() - begun
    wrong = []
    if process.returncode != (3 if places else 0):
        wrong.append(f"exit code {process.returncode}: {told[-600:]}")
    count = errors = 0
    if rows_file.exists():
        with rows_file.open() as rows, listed.open() as names:
            for place, (row_line, name) in enumerate(zip(rows, names, strict=False)):
                row = json.loads(row_line)
                count, errors = count + 1, errors + (row["decision"] == "error")
                if row["path"] != name.rstrip("\n"):
                    wrong.append(f"row {place} is of {row['path']}")
                if (row["decision"] == "error") != (place in places):
                    wrong.append(f"row {place} is {row['decision']}: {row['error']}")
    if count != chosen.images or errors != len(places):
        wrong.append(f"{count} rows of {chosen.images}, {errors} errors of {len(places)}")
    memory = [sample.resident_mb for sample in samples]
    files = [float(sample.open_files) for sample in samples]
    if len(samples) < 20:
        wrong.append(f"only {len(samples)} samples: take more images")
    else:
        grown = fifth(memory, 4) > fifth(memory, 1) * (1 + MOST_GROWTH)
        if grown and chosen.images >= LEAST_IMAGES:
            wrong.append(f"memory grew from {fifth(memory, 1):.0f} to {fifth(memory, 4):.0f} MB")
        if fifth(files, 4) > fifth(files, 1):
            wrong.append(f"open files grew from {fifth(files, 1):.0f} to {fifth(files, 4):.0f}")
        print(
            "| images | broken | rows | error rows | seconds | memory, second fifth | last fifth | highest | open files |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        print(
            f"| {chosen.images:,} | {len(places):,} | {count:,} | {errors:,} | {seconds:.0f} | {fifth(memory, 1):.0f} MB | "
            f"{fifth(memory, 4):.0f} MB | {max(memory):.0f} MB | {fifth(files, 1):.0f}, then {fifth(files, 4):.0f} |"
        )
    for line in wrong[:20]:
        print(f"\nFAILED: {line}")
    if chosen.work is None and not wrong:
        shutil.rmtree(work)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
