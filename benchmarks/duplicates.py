"""Measure near-duplicates: recall of every kind of copy, pairs called between different images, time and memory.

Usage: python benchmarks/duplicates.py FOLDER [--originals 24] [--sizes 1000 5000 20000] [--tables NAME …]
       [--pairs FILE.csv]

FOLDER holds Taleqani, ALL_IDB1, AML_cells, healthy_cells, BCCD and odd_inputs. No copy is kept. Pairs that are called
between different originals are either false or near-duplicates that the sources hold themselves; --pairs lists them to be
looked at. Of AML_cells patients are known: a pair of two patients is false. Sets larger than the sources are made of
originals (without the large photographs of ALL_IDB1) and random copies of them: their times are of real images, their pairs
more than a real set has.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from leukemia_cli.data.duplicates import capture_bursts, clusters, find_near
from leukemia_cli.data.likeness import NearPair
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.fingerprints import RECORD, Fingerprint, capture_facts, describe, packed

SEED = 7
FOLDERS = {
    "ALL_IDB1": "ALL_IDB1/im/*",
    "Taleqani Benign": "Taleqani/Original/Benign/*",
    "Taleqani Early": "Taleqani/Original/Early/*",
    "Taleqani Pre": "Taleqani/Original/Pre/*",
    "Taleqani Pro": "Taleqani/Original/Pro/*",
    "AML_cells": "AML_cells/images/*",
    "healthy_cells": "healthy_cells/*.jpg",
    "BCCD": "BCCD/JPEGImages/*",
    "tecom_bmp": "odd_inputs/tecom_bmp/*",
    "rgba_png": "odd_inputs/rgba_png/*",
}
TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
)
Copy = Callable[[Image.Image, np.random.Generator], Image.Image]
TABLES = ("held", "bursts", "drawn", "recalls", "neighbours", "curve")


# ---------------------------------------------------------------------------------- copies


def encoded(image: Image.Image, kind: str, quality: int = 75) -> Image.Image:
    """Write and read again."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Resize both sides."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, rng: np.random.Generator | None, *, back: bool = True) -> Image.Image:
    """Keep a share of the area, centred or at a random place, and resize it back."""
    width, height = round(image.width * share**0.5), round(image.height * share**0.5)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if rng is not None:
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.resize(image.size, Image.Resampling.BICUBIC) if back else part


def curved(image: Image.Image, gamma: float) -> Image.Image:
    """Apply a gamma curve."""
    return image.point([round(255 * (value / 255) ** gamma) for value in range(256)] * 3)


def overlapping(image: Image.Image, share: float, first: bool) -> Image.Image:
    """Give the left or the right part: two parts share (2 · share − 1) / share of either."""
    width = round(image.width * share)
    left = 0 if first else image.width - width
    return image.crop((left, 0, left + width, image.height))


COPIES: dict[str, Copy] = {
    "JPEG quality 50": lambda i, r: encoded(i, "JPEG", 50),
    "JPEG quality 30": lambda i, r: encoded(i, "JPEG", 30),
    "PNG": lambda i, r: encoded(i, "PNG"),
    "mirrored": lambda i, r: i.transpose(TURNS[0]),
    "turned 90°": lambda i, r: i.transpose(TURNS[1]),
    "turned 180°": lambda i, r: i.transpose(TURNS[2]),
    "turned 270°": lambda i, r: i.transpose(TURNS[3]),
    "mirrored and turned": lambda i, r: i.transpose(TURNS[4]),
    "brightness −20 %": lambda i, r: ImageEnhance.Brightness(i).enhance(0.8),
    "brightness +20 %": lambda i, r: ImageEnhance.Brightness(i).enhance(1.2),
    "contrast −20 %": lambda i, r: ImageEnhance.Contrast(i).enhance(0.8),
    "contrast +20 %": lambda i, r: ImageEnhance.Contrast(i).enhance(1.2),
    "gamma 0.7": lambda i, r: curved(i, 0.7),
    "gamma 1.4": lambda i, r: curved(i, 1.4),
    "half the size": lambda i, r: scaled(i, 0.5),
    "twice the size": lambda i, r: scaled(i, 2),
    "squashed to 299×299": lambda i, r: i.resize((299, 299), Image.Resampling.BICUBIC),
    "blurred 1 px": lambda i, r: i.filter(ImageFilter.GaussianBlur(1)),
    "crop 90 %, centre": lambda i, r: cropped(i, 0.9, None),
    "crop 90 %, anywhere": lambda i, r: cropped(i, 0.9, r),
    "crop 75 %, centre": lambda i, r: cropped(i, 0.75, None),
    "crop 75 %, anywhere": lambda i, r: cropped(i, 0.75, r),
    "crop 50 %, centre": lambda i, r: cropped(i, 0.5, None),
    "crop 50 %, anywhere": lambda i, r: cropped(i, 0.5, r),
    "crop 50 %, not resized": lambda i, r: cropped(i, 0.5, r, back=False),
    "crop 75 %, mirrored, JPEG 50": lambda i, r: encoded(cropped(i, 0.75, r).transpose(TURNS[0]), "JPEG", 50),
    "crop 50 %, turned, JPEG 50": lambda i, r: encoded(cropped(i, 0.5, r).transpose(TURNS[1]), "JPEG", 50),
    "rotated 5° (not promised)": lambda i, r: i.rotate(5, Image.Resampling.BICUBIC, fillcolor=(230, 225, 225)),
    "rotated 15° (not promised)": lambda i, r: i.rotate(15, Image.Resampling.BICUBIC, fillcolor=(230, 225, 225)),
}


def random_copy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop to 60–100 % anywhere, turn, change brightness and contrast by up to 15 %, and write as JPEG of quality 50–90."""
    copy = cropped(image, rng.uniform(0.6, 1), rng)
    if rng.random() < 5 / 6:
        copy = copy.transpose(TURNS[rng.integers(len(TURNS))])
    copy = ImageEnhance.Brightness(copy).enhance(rng.uniform(0.85, 1.1))
    copy = ImageEnhance.Contrast(copy).enhance(rng.uniform(0.85, 1.15))
    return encoded(copy, "JPEG", int(rng.integers(50, 91)))


def read(path: Path) -> Image.Image:
    """Decode as the product does."""
    return Image.fromarray(decode(path).pixels)


def described(image: Image.Image) -> Fingerprint:
    """Describe a Pillow image."""
    return describe(np.asarray(image))


# ---------------------------------------------------------------------------------- tables


def recalls(files: dict[str, list[Path]], many: int) -> Iterator[str]:
    """Count, for each kind of copy, the originals whose copy is called, among originals and copies of that kind."""
    rng = np.random.default_rng(SEED)
    chosen = [
        (source, path)
        for source, paths in files.items()
        for path in sorted(rng.permutation(np.array(paths))[: many if source != "ALL_IDB1" else max(1, many // 2)])
    ]
    prints: dict[str, list[Fingerprint]] = {kind: [] for kind in ("", *COPIES)}
    for _, path in chosen:
        image = read(path)
        prints[""].append(described(image))
        for kind, copy in COPIES.items():
            prints[kind].append(described(copy(image, rng)))
    count = len(chosen)
    own = {(pair.first, pair.second) for pair in find_near(packed(prints[""]))}
    sources = list(files)
    yield f"{count} originals; {len(own)} pairs are called among the originals alone"
    yield ""
    yield f"| copy | found | {' | '.join(sources)} | other pairs called, not of two originals that are called themselves |"
    yield "|---" * (len(sources) + 3) + "|"
    for kind in COPIES:
        pairs = find_near(packed(prints[""] + prints[kind]))
        found = {pair.first for pair in pairs if pair.second == pair.first + count}
        other = [
            pair
            for pair in pairs
            if pair.first % count != pair.second % count
            and tuple(sorted((pair.first % count, pair.second % count))) not in own
        ]
        by_source = []
        for source in sources:
            rows = [row for row, (name, _) in enumerate(chosen) if name == source]
            by_source.append(f"{sum(row in found for row in rows)}/{len(rows)}")
        yield f"| {kind} | {len(found) / count:.3f} | {' | '.join(by_source)} | {len(other)} |"
    yield ""


HARD = ("brightness +20 %", "crop 50 %, centre", "crop 50 %, turned, JPEG 50", *list(COPIES)[-2:])


def neighbours(files: dict[str, list[Path]], many: int) -> Iterator[str]:
    """Try the features of a backbone in place of fingerprints: copies above the likest two different originals.

    Features are centred on the originals' mean; the likeness is their cosine. Originals that fingerprints call are left out
    of the bar that a copy must pass, so that no true near copy raises it.
    """
    from leukemia_cli.learning.batches import plain_view
    from leukemia_cli.learning.features import run_backbone
    from leukemia_cli.learning.machine import choose_machine
    from leukemia_cli.learning.weights import load_backbone

    rng = np.random.default_rng(SEED)
    paths = [path for found in files.values() for path in sorted(rng.permutation(np.array(found))[:many])]
    loaded = load_backbone("efficientnet-lite0", "auto", seed=SEED, fit="squash", input_size_px=None)
    machine = choose_machine("cpu", 1)

    def seen(images: Sequence[Image.Image]) -> np.ndarray:
        views = [plain_view(np.asarray(image), loaded.preprocessing) for image in images]
        batches = (views[at : at + 16] for at in range(0, len(views), 16))
        return np.concatenate([run_backbone(loaded.module, batch, loaded.preprocessing, machine) for batch in batches])

    images = [read(path) for path in paths]
    own = seen(images)
    middle = own.mean(axis=0)

    def turned(features: np.ndarray) -> np.ndarray:
        moved = features - middle
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    plain = turned(own)
    between = plain @ plain.T
    np.fill_diagonal(between, -1)
    for pair in find_near(packed([described(image) for image in images])):
        between[pair.first, pair.second] = between[pair.second, pair.first] = -1
    rest = np.sort(between[np.triu_indices(len(paths), 1)])[::-1]
    likest = f"{rest[0]:.3f}, {rest[9]:.3f} (tenth)"
    yield f"{len(paths)} originals, features of efficientnet-lite0; likest different originals {likest}"
    yield ""
    yield "| copy | above every pair of different originals | above all but ten |"
    yield "|---|---|---|"
    for kind in HARD:
        copies = turned(seen([COPIES[kind](image, rng) for image in images]))
        alike = np.sum(plain * copies, axis=1)
        yield f"| {kind} | {np.mean(alike > rest[0]):.3f} | {np.mean(alike > rest[9]):.3f} |"
    yield ""


def held(files: dict[str, list[Path]], data: Path, listed: Path | None) -> Iterator[str]:
    """Count the pairs that the sources hold themselves."""
    rows = [(source, path) for source, paths in files.items() for path in paths]
    prints = [described(read(path)) for _, path in rows]
    pairs = find_near(packed(prints))
    with (data / "AML_cells" / "labels.csv").open(encoding="utf-8", newline="") as stream:
        patients = {Path(row["path"]).name: row["patient"] for row in csv.DictReader(stream)}
    yield f"{len(rows)} images, {len(pairs)} pairs in {len(clusters(pairs, len(rows)))} sets"
    yield ""
    yield "| sources | pairs | whole | least likeness | of one patient, where patients are known |"
    yield "|---|---|---|---|---|"
    for names in sorted({(rows[p.first][0], rows[p.second][0]) for p in pairs}):
        these = [p for p in pairs if (rows[p.first][0], rows[p.second][0]) == names]
        known = ""
        if names == ("AML_cells", "AML_cells"):
            known = str(sum(patients[rows[p.first][1].name] == patients[rows[p.second][1].name] for p in these))
        shown = names[0] if names[0] == names[1] else " – ".join(names)
        least = min(p.likeness for p in these)
        yield f"| {shown} | {len(these)} | {sum(p.kind == 'whole' for p in these)} | {least:.2f} | {known} |"
    yield ""
    if listed is not None:
        lines = [f"{rows[p.first][1]},{rows[p.second][1]},{p.kind},{p.likeness}" for p in pairs]
        listed.write_text("\n".join(["first,second,kind,likeness", *lines]) + "\n", encoding="utf-8")


def drawn(count: int) -> Iterator[str]:
    """Count pairs among drawn fields, all different."""
    prints = []
    for number in range(count):
        kind, patient = KINDS[number % len(KINDS)], number // len(KINDS) // 4
        rng = np.random.default_rng([SEED, number])
        prints.append(described(draw_field(kind, draw_patient(kind, patient), rng)))
    yield f"Drawn fields, four of a patient: {count} images, {len(find_near(packed(prints)))} pairs called"
    yield ""


def bursts(files: dict[str, list[Path]], data: Path) -> Iterator[str]:
    """Compare bursts of ALL_IDB1 with its capture blocks."""
    with (data / "ALL_IDB1" / "capture_blocks.csv").open(encoding="utf-8", newline="") as stream:
        blocks = {row["image"]: row["block"] for row in csv.DictReader(stream)}
    paths = files["ALL_IDB1"]
    facts = [capture_facts(path.read_bytes()) for path in paths]
    yield f"ALL_IDB1: {sum(taken is not None for taken, _ in facts)} of {len(paths)} photographs say when they were taken"
    yield ""
    yield "| gap | bursts: blocks × photographs | alone | bursts of more than one block |"
    yield "|---|---|---|---|"
    for gap_s in (60, 120, 180, 300, 600):
        found = capture_bursts([taken for taken, _ in facts], [camera for _, camera in facts], gap_s)
        named = [(sorted({blocks[paths[row].name] for row in burst}), len(burst)) for burst in found]
        shown = ", ".join(f"{'+'.join(names)} × {size}" for names, size in named)
        alone = len(paths) - sum(size for _, size in named)
        yield f"| {gap_s} s | {shown} | {alone} | {sum(len(names) > 1 for names, _ in named)} |"
    yield ""


def resident_mib(what: str) -> float:
    """Give what this process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def curve(files: dict[str, list[Path]], sizes: Sequence[int]) -> Iterator[str]:
    """Time describing and finding on sets of growing size, and count pairs of copies of different originals."""
    rng = np.random.default_rng(SEED)
    paths = [path for source, found in files.items() if source != "ALL_IDB1" for path in found]
    order = rng.permutation(len(paths))
    prints = np.zeros(max(sizes), dtype=RECORD)
    describing_s = 0.0
    for number in range(max(sizes)):
        image = read(paths[order[number % len(paths)]])
        if number >= len(paths):
            image = random_copy(image, rng)
        pixels = np.asarray(image)
        before = time.process_time()
        told = describe(pixels)
        describing_s += time.process_time() - before
        prints[number : number + 1] = packed([told])
    yield f"Describing took {1000 * describing_s / len(prints):.1f} ms an image (CPU time, decoded images)"
    yield ""
    yield "| images | finding, CPU s | memory of finding, MiB | pairs | originals joined with all copies | pairs of others |"
    yield "|---|---|---|---|---|---|"
    for size in sizes:
        held = resident_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = time.process_time()
        pairs = find_near(prints[:size])
        spent = time.process_time() - before
        peak = resident_mib("VmHWM") - held
        sets, others = joined(pairs, size, len(paths)), between(pairs, len(paths))
        yield f"| {size:,} | {spent:.0f} | {peak:.0f} | {len(pairs):,} | {sets} | {others} |"
    yield ""


def joined(pairs: Sequence[NearPair], size: int, originals: int) -> str:
    """Say how many originals lie in one set with all their copies."""
    place = {row: number for number, rows in enumerate(clusters(pairs, size)) for row in rows}
    whole = [
        len({place.get(row, -row - 1) for row in range(first, size, originals)}) == 1
        for first in range(min(originals, size - originals))
    ]
    return f"{sum(whole)}/{len(whole)}" if whole else "no copies yet"


def between(pairs: Sequence[NearPair], originals: int) -> str:
    """Count pairs, and pairs of originals, that are not copies of one."""
    counted = Counter(tuple(sorted((p.first % originals, p.second % originals))) for p in pairs)
    other = {pair: times for pair, times in counted.items() if pair[0] != pair[1]}
    direct = {(p.first, p.second) for p in pairs if p.second < originals}
    fresh = [pair for pair in other if pair not in direct]
    return f"{sum(other.values())} of {len(other)} pairs of originals, {len(fresh)} of them not called as originals"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--originals", type=int, default=24, help="of each source, copied in every way")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--pairs", type=Path, default=None, help="list the pairs that the sources hold in this file")
    asked = parser.parse_args()
    files = {name: sorted(asked.data.glob(pattern)) for name, pattern in FOLDERS.items()}
    tables = {
        "held": held(files, asked.data, asked.pairs),
        "bursts": bursts(files, asked.data),
        "drawn": drawn(400),
        "recalls": recalls(files, asked.originals),
        "neighbours": neighbours(files, asked.originals),
        "curve": curve(files, asked.sizes),
    }
    for name in asked.tables:
        for line in tables[name]:
            print(line, flush=True)


if __name__ == "__main__":
    main()
