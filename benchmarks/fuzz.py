"""Damaged and hostile files through every reader of leuk: each must end in a value or in an error for people.

    python benchmarks/fuzz.py [--cases N] [--seed S] [--work DIR] [--only TARGET[:CASE]]

A case is a file (an image, an artefact, a label file) that was mutated from a good one, with random numbers that depend on
seed, target and case alone. Cases run in a child process with a limit on memory and on time. A failure is: any exception but
a LeukError, exit code 1, a crash, a case that takes too long, an altered artefact that is taken for a good one, or a file
that comes into being where nothing may write. What failed is kept below WORK/failures with the command that repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the clone beside this script, whatever is installed

MEMORY_BYTES = 3 << 30
"""How much address space a case may take beyond what the child has when it begins."""
LIMIT_S = 120.0
RUN = "timm-test_resnet-base-1"
TRAIN = (
    "train --backbone timm:test_resnet --weights none --input-size 64 --variant base --views 2 --epochs 2 --device cpu "
    "--workers 1 --quiet"
)


class Failure(Exception):
    """Something happened that must not, though no exception says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case: its random numbers, an empty folder of its own, and the folder of good artefacts, which it only reads."""

    dice: random.Random
    folder: Path
    base: Path

    def workspace(self) -> Path:
        """Copy the good workspace into the case's folder."""
        place = self.folder / "ws"
        shutil.copytree(self.base / "ws", place)
        return place


# ---------------------------------------------------------------------------------------------------- mutations

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_MAGICS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"II+\0", b"BM", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"<html>",
    b"PK\x03\x04", b"%PDF-1.4", b"\0\0\0\0\0\0\0\0",
)  # fmt: skip


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Damage bytes in one to four ways."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = _damaged(data, dice)
    return bytes(data)


def _damaged(data: bytearray, dice: random.Random) -> bytearray:
    if not data:
        return data
    size = len(data)
    # Headers decide most: half of all damage goes there.
    at = dice.randrange(min(size, 128)) if dice.random() < 0.5 else dice.randrange(size)
    span = min(size - at, dice.choice((1, 2, 4, 8, 64, 1024)))
    match dice.randrange(9):
        case 0:
            data[at] ^= 1 << dice.randrange(8)
        case 1:
            for _ in range(dice.choice((2, 16, 200))):
                data[dice.randrange(size)] ^= 1 << dice.randrange(8)
        case 2:
            return data[:at]
        case 3:
            del data[at : at + span]
        case 4:
            data[at:at] = data[at : at + span] * dice.choice((1, 3, 50))
        case 5:
            data[at : at + span] = bytes(span)
        case 6:
            data[at : at + span] = dice.randbytes(span)
        case 7:
            number, width = dice.choice(_NUMBERS), dice.choice((1, 2, 4, 8))
            order = dice.choice(("little", "big"))
            data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)
        case _:
            magic = dice.choice(_MAGICS)
            data[: len(magic)] = magic
    return data


_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**9, 10**40, 0.5, 1e308, float("nan"), float("inf"), "", "x", "../../out", "/etc/passwd", "a/b",
    "\ud800", "\udcff", "\0", "=1+1", "<script>alert(1)</script>", "é" * 10_000, [], {}, [[]], [1, 2], {"a": 1}, {"": None},
)  # fmt: skip


def with_odd_value(stored: Any, dice: random.Random) -> Any:
    """Replace, remove or add one value somewhere in JSON; the deeper a value the likelier it is met."""
    holders: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            holders.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    stored = json.loads(json.dumps(stored))
    walk(stored)
    if not holders:
        return dice.choice(_ODD)
    for _ in range(dice.choice((1, 1, 2))):
        holder, key = dice.choice(holders)
        odd = dice.choice(_ODD)
        with contextlib.suppress(KeyError, IndexError):
            match dice.randrange(6):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[str(dice.choice(_ODD))] = odd
                case 1:
                    holder.append(odd)
                case _:
                    holder[key] = odd
    return stored


def hostile_json(content: bytes, dice: random.Random) -> bytes:
    """Give JSON that is damaged as bytes, deep, huge, or of odd values."""
    match dice.randrange(8):
        case 0:
            return mutated(content, dice)
        case 1:
            depth = dice.choice((100, 1_000, 100_000))
            return b"[" * depth + b"]" * dice.choice((depth, 0))
        case 2:
            depth = dice.choice((900, 50_000))
            return b'{"schema_version": 1, "a": ' + b'{"b":' * depth + b"1" + b"}" * (depth + 1)
        case 3:
            return b'{"schema_version": ' + b"9" * dice.choice((30, 6_000)) + b"}"
        case _:
            return json.dumps(with_odd_value(json.loads(content), dice)).encode()


# -------------------------------------------------------------------------------------------------- good images


@functools.cache
def good_images() -> dict[str, bytes]:
    """Draw one small image in every format, compression and mode that a reader tells apart."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(5)
    y, x = np.mgrid[:48, :56]
    disc = (x - 28) ** 2 + (y - 24) ** 2 < 200
    pixels = np.where(disc[..., None], (120, 60, 140), (230, 215, 220)) + rng.normal(0, 6, (48, 56, 3))
    rgb = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
    made: dict[str, bytes] = {}

    def keep(name: str, image: Image.Image, kind: str, **more: Any) -> None:
        out = io.BytesIO()
        image.save(out, kind, **more)
        made[name] = out.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    keep("rgb.png", rgb, "PNG", dpi=(300, 300))
    keep("palette.png", rgb.quantize(16), "PNG")
    keep("alpha.png", rgb.convert("RGBA"), "PNG")
    keep("grey16.png", Image.fromarray((pixels[..., 0] * 200).clip(0, 65535).astype("uint16")), "PNG")
    keep("frames.png", rgb, "PNG", save_all=True, append_images=[rgb, rgb])
    keep("plain.jpg", rgb, "JPEG", exif=exif, dpi=(72, 72))
    keep("progressive.jpg", rgb, "JPEG", progressive=True, quality=60)
    keep("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    keep("two.mpo", rgb, "MPO", save_all=True, append_images=[rgb])
    for compression in (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"):
        image = rgb.convert("1") if compression == "group4" else rgb
        keep(f"{compression}.tif", image, "TIFF", compression=compression, description="ImageJ=1.0\nunit=um\n")
    keep("stack.tif", rgb, "TIFF", save_all=True, append_images=[rgb, rgb])
    keep("plain.bmp", rgb, "BMP")
    keep("palette.bmp", rgb.quantize(16), "BMP")
    keep("lossy.webp", rgb, "WEBP")
    keep("lossless.webp", rgb.convert("RGBA"), "WEBP", lossless=True)
    keep("frames.webp", rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])
    keep("plain.gif", rgb, "GIF")
    keep("frames.gif", rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    return made


def _png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Make a PNG of 8-bit grey with any size in its header and any pixel data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"".join(chunk(*each) for each in (*chunks, (b"IDAT", data), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def bomb(dice: random.Random, good: dict[str, bytes]) -> bytes:
    """Make a small file that stands for a great deal of memory or time."""
    zeros = zlib.compress(bytes(1 << dice.choice((16, 24, 27))))
    match dice.randrange(8):
        case 0:
            return _png(dice.choice((65_000, 2**31 - 1)), dice.choice((65_000, 1, 2**31 - 1)), zeros)
        case 1:
            return _png(9_000, 9_000, zeros)
        case 2:  # a comment that unpacks to a hundred megabytes
            return _png(32, 32, zlib.compress(bytes(33 * 32)), (b"zTXt", b"a\0\0" + zeros), (b"iCCP", b"b\0\0" + zeros))
        case 3:  # a JPEG of very many scans
            whole = good["progressive.jpg"]
            scan = whole[whole.index(b"\xff\xda") : whole.index(b"\xff\xda") + 24]
            return whole[:-2] + scan * dice.choice((600, 20_000)) + whole[-2:]
        case 4:  # a JPEG whose header says 65,500 px a side
            whole = bytearray(good["progressive.jpg"])
            at = whole.index(b"\xff\xc2") + 5
            whole[at : at + 4] = struct.pack(">HH", *dice.choice(((65_500, 65_500), (65_500, 16), (4_000, 4_000))))
            return bytes(whole)
        case 5:  # a GIF of very many frames
            image = b",\0\0\0\0 \0 \0\0" + b"\x02\x16" + bytes(22) + b"\0"
            return b"GIF89a \0 \0\x80\0\0" + bytes(6) + image * dice.choice((50, 20_000)) + b";"
        case 6:  # a TIFF whose directories form a ring, or are very many
            entry = struct.pack("<HHIHH", 256, 3, 1, 32, 0)
            count = dice.choice((1, 3_000))
            parts = [b"II*\0" + struct.pack("<I", 8)]
            for i in range(count):
                after = 8 + 18 * (i + 1) if i + 1 < count else 8
                parts.append(struct.pack("<H", 1) + entry + struct.pack("<I", after))
            return b"".join(parts)
        case _:  # a BMP of absurd sides, run-length coded
            head = struct.pack("<IiiHHIIiiII", 40, *dice.choice(((2**31 - 1, 2**31 - 1), (1 << 20, 64), (30_000, -30_000))),
                               1, 8, 1, 0, 0, 0, 0, 0)  # fmt: skip
            return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + b"\xff\0" * 500


def hostile_image(case: Case) -> tuple[str, bytes]:
    """Give a name and bytes of a damaged image; one in twelve is a bomb."""
    good = good_images()
    name = case.dice.choice(sorted(good))
    if case.dice.randrange(12) == 0:
        return name, bomb(case.dice, good)
    return name, mutated(good[name], case.dice)


# -------------------------------------------------------------------------------------------------------- targets


def leuk(*arguments: object) -> tuple[int, str]:
    """Run a command in this process; give its exit code and what it said. Raises Failure for exit code 1."""
    from leukemia_cli.cli.app import run

    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = run([str(argument) for argument in arguments] + ["--debug"])
    if code not in (0, 2, 3, 4, 5, 6):
        raise Failure(f"exit code {code}: {told.getvalue()[-3000:]}")
    return code, said.getvalue()


def target_decode(case: Case) -> str:
    """Decode a damaged image: from memory, as every command does."""
    from leukemia_cli.vision.decode import decode

    name, content = hostile_image(case)
    file = case.folder / name
    file.write_bytes(content)
    found = decode(str(file), max_megapixels=100)
    if found.pixels.ndim != 3 or found.pixels.shape[2] != 3 or found.pixels.dtype != "uint8":
        raise Failure(f"pixels {found.pixels.shape} {found.pixels.dtype}")
    return "value"


def target_slide(case: Case) -> str:
    """Open a damaged image as a slide, which other libraries read."""
    from leukemia_cli.vision.slides import needs_slide, open_slide

    name, content = hostile_image(case)
    file = case.folder / name
    file.write_bytes(content)
    if not needs_slide(str(file), 0.0005):
        return "no slide"
    with open_slide(str(file), max_megapixels=0.0005, workers=1) as slide:
        slide.thumbnail(256)
    return "value"


def target_prepare(case: Case) -> str:
    """Prepare a folder of good and damaged images."""
    good = good_images()
    for label in ("ALL", "HTL"):
        for number in range(3):
            file = case.folder / "in" / label / f"p{number}" / "a.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(_shade(good["rgb.png"], number + 10 * (label == "ALL")))
    for number in range(3):
        name, content = hostile_image(case)
        (case.folder / "in" / "ALL" / f"p{number}" / name).write_bytes(content)
    skip = ["--skip-bad"] if case.dice.random() < 0.7 else []
    code, _ = leuk("prepare", case.folder / "in", "--task", "binary", "--folds", 3, "-w", case.folder / "ws", "-q", *skip,
                   "--workers", 1, "--max-megapixels", 50)  # fmt: skip
    if code and (case.folder / "ws" / "manifest").exists():
        raise Failure("a command that failed left a manifest")
    return f"exit {code}"


def _shade(png: bytes, by: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).point(lambda v: max(0, v - 3 * by)).rotate(by, fillcolor=(200, 190, 200)).save(
        out, "PNG"
    )
    return out.getvalue()


def target_classify(case: Case) -> str:
    """Classify damaged images beside a good one: a row for each, in order, and never a number that is none."""
    paths = [case.base / "pictures" / "ALL" / "p0" / "0.png"]
    for number in range(3):
        name, content = hostile_image(case)
        paths.append(case.folder / f"{number}-{name}")
        paths[-1].write_bytes(content)
    code, said = leuk("classify", *paths, "--run", case.base / "ws" / "runs" / RUN, "--json", "-q", "--device", "cpu",
                      "--workers", 1, "--max-megapixels", 50)  # fmt: skip
    rows = json.loads(said)
    if [row["path"] for row in rows] != [str(path) for path in paths] or rows[0]["error"]:
        raise Failure(f"rows are not those of the inputs: {said[:500]}")
    if (code == 3) != any(row["error"] for row in rows):
        raise Failure(f"exit code {code} and errors {[row['error'] for row in rows]}")
    return f"exit {code}"


def target_manifest(case: Case) -> str:
    """Read a damaged manifest; one whose checksums still fit may be taken, and no other."""
    from leukemia_cli.data.manifest import read_manifest
    from leukemia_cli.workspace.documents import write_json
    from leukemia_cli.workspace.folders import Workspace

    root = case.workspace()
    table, facts = root / "manifest" / "manifest.csv", root / "manifest" / "manifest.json"
    fits = case.dice.random() < 0.6
    if case.dice.random() < 0.5:
        table.write_bytes(hostile_csv(table.read_bytes(), case.dice))
        if fits:
            digest = hashlib.sha256(table.read_bytes()).hexdigest()
            stored = json.loads(facts.read_bytes())
            write_json(facts, {**stored, "manifest_sha256": digest, "tables": {**stored["tables"], table.name: digest}})
    elif fits:
        odd = with_odd_value(json.loads(facts.read_bytes()), case.dice)
        facts.write_bytes(json.dumps(_resealed(odd)).encode())
    else:
        facts.write_bytes(hostile_json(facts.read_bytes(), case.dice))
    before = read_manifest(Workspace(case.base / "ws"))
    now = read_manifest(Workspace(root))
    if not fits and now != before:
        raise Failure("an altered manifest was taken for a good one")
    leuk("runs", "-w", root, "--json")
    return "value"


def _resealed(stored: Any) -> Any:
    from leukemia_cli.workspace.documents import sealed

    if not isinstance(stored, dict):
        return stored
    with contextlib.suppress(ValueError):
        return sealed(stored)
    return stored


def hostile_csv(content: bytes, dice: random.Random) -> bytes:
    """Damage a table: its bytes, its quotes, its columns, or its size."""
    match dice.randrange(8):
        case 0:
            return content.replace(b",", dice.choice((b"\0", b'"', b",,", b";", b"\r", b',"')), dice.choice((1, -1)))
        case 1:
            return content + b'"' + b"x" * 300_000
        case 2:
            return content + b"," * 200_000 + b"\n"
        case 3:
            return b"\xff\xfe" + content.decode("utf-8", "surrogateescape").encode("utf-16-le", "surrogatepass")
        case 4:
            lines = content.splitlines(keepends=True)
            dice.shuffle(lines)
            return b"".join(lines)
        case 5:
            return content.replace(b"ALL", dice.choice((b"<script>", b"../..", b"\xff\xfe", b"", b"=cmd|'/c'!A1")), 3)
        case _:
            return mutated(content, dice)


def target_labels(case: Case) -> str:
    """Prepare by a damaged labels file, or a damaged file of groups."""
    good = "path,label,group,split\n" + "".join(
        f"{label}/p{number}/{image}.png,{label},{label}-{number},\n"
        for label in ("ALL", "HTL") for number in range(4) for image in range(2)
    )  # fmt: skip
    file = case.folder / "labels.csv"
    file.write_bytes(hostile_csv(good.encode(), case.dice))
    how = ("--labels", file) if case.dice.random() < 0.6 else ("--group-by", f"file:{file}:group")
    return _gathered(case, case.base / "pictures", *how)


def _gathered(case: Case, *arguments: object) -> str:
    code, _ = leuk("prepare", *arguments, "--task", "binary", "--folds", 2, "-w", case.folder / "ws", "-q", "--no-images",
                   "--workers", 1)  # fmt: skip
    return f"exit {code}"


_YAMLS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e]\n"
    "{key}: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]\n",
    "{key}: &x [*x]\n",
    "{key}: !!python/object/apply:os.system ['touch {proof}']\n",
    "{key}: !!python/name:os.system\n",
    "? [1, 2]\n: {key}\n",
    "{key}: !!int ''\n",
    "{key}: !!float ''\n",
    "{key}: !!timestamp x\n",
    "{key}: !!bool perhaps\n",
    "{key}: 2001-99-99\n",
    "{key}: !!binary '@'\n",
    "{key}: .nan\n",
    "{key}: 0x" + "f" * 9_000 + "\n",
    "<<: [1]\n{key}: 1\n",
    "<<: &m {{<<: *m}}\n",
    "{key}: " + "[" * 5_000 + "\n",
    "{key}: " + "{{a: " * 900 + "1" + "}}" * 900 + "\n",
    "{key}: 'x\n",
    '{key}: "\\ud800"\n',
    "\t{key}: 1\n",
    "{key}: |\n  a\n b\n",
    "--- 1\n--- 2\n",
    "{key}: " + "a" * 2_000_000 + "\n",
)


def hostile_yaml(good: bytes, keys: tuple[str, ...], case: Case) -> bytes:
    """Give YAML that is damaged as bytes, or that asks for memory, for time, or for code to be run."""
    if case.dice.random() < 0.5:
        return mutated(good, case.dice)
    text = case.dice.choice(_YAMLS).format(key=case.dice.choice(keys), proof=case.folder / "proof")
    return (good if case.dice.random() < 0.3 else b"") + text.encode("utf-8", "surrogatepass")


def target_dataset_yaml(case: Case) -> str:
    """Prepare by a hostile dataset YAML, or by a hostile task file."""
    pictures = case.base / "pictures"
    if case.dice.random() < 0.5:
        one = f"  - path: {pictures}\n    name: a\n    map: {{ALL: ALL, HTL: null}}\n    group_by: none\n"
        good = f"task: binary\nsources:\n{one}"
        file = case.folder / "set.yaml"
        file.write_bytes(hostile_yaml(good.encode(), ("task", "sources"), case))
        return _gathered(case, file)
    good = "name: mine\nclasses: [ALL, HTL]\naliases: {HTL: [healthy]}\nignored: [x]\npositive: ALL\n"
    file = case.folder / "task.yaml"
    file.write_bytes(hostile_yaml(good.encode(), ("name", "classes", "aliases", "ignored", "positive"), case))
    code, _ = leuk("prepare", pictures, "--task", file, "-w", case.folder / "ws", "-q", "--no-images", "--workers", 1)
    return f"exit {code}"


def target_config(case: Case) -> str:
    """Read a hostile --config YAML."""
    good = b"workspace: ws\nseed: 3\nclasses: [ALL, HTL]\nfolds: 2\nimages: false\nskip-bad: true\n"
    file = case.folder / "config.yaml"
    file.write_bytes(
        hostile_yaml(good, ("seed", "val", "classes", "images", "layout", "workers", "device", "folds"), case)
    )
    code, _ = leuk(
        "prepare", case.base / "nothing", "--task", "binary", "--config", file, "-w", case.folder / "ws", "-q"
    )
    return f"exit {code}"


def target_marks(case: Case) -> str:
    """Read damaged annotations: VOC, YOLO, COCO, points."""
    from leukemia_cli.data import marks

    box = "<object><name>WBC</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "WBC"}],
    }
    file, dice = case.folder / "marks", case.dice
    match dice.randrange(6):
        case 0:
            file.write_bytes(mutated(f"<annotation>{box * 3}</annotation>".encode(), dice))
            marks.read_voc(str(file))
        case 1:
            laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 9}">' for i in range(9))
            depth = dice.choice((1_000, 200_000))
            file.write_bytes(dice.choice((
                f'<!DOCTYPE a [<!ENTITY l0 "x">{laughs}]><annotation>&l9;</annotation>'.encode(),
                b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
                b'<?xml version="1.0" encoding="nonsense"?><annotation/>',
                b'<?xml version="1.0" encoding="utf-7"?><annotation/>',
                b'<?xml version="1.0" encoding="idna"?><annotation/>',
                b"<annotation><object>" + b"<a>" * depth + b"</a>" * depth + b"</object></annotation>",
            )))  # fmt: skip
            marks.read_voc(str(file))
        case 2:
            file.write_bytes(mutated(b"0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n" * 3, dice))
            marks.read_yolo(str(file), {0: "WBC", 1: "RBC"})
        case 3:
            file.write_bytes(hostile_json(json.dumps(coco).encode(), dice))
            marks.read_coco(str(file))
        case 4:
            file.write_bytes(mutated(b"120 33\n14.5 18\n" * 4, dice))
            marks.read_xyc(str(file), "ALL")
            marks.read_typed_points(str(file))
        case _:
            file = case.folder / "data.yaml"
            file.write_bytes(hostile_yaml(b"names: [WBC, RBC]\nnc: 2\n", ("names", "nc"), case))
            marks.read_class_names(str(file))
    return "value"


def target_run(case: Case) -> str:
    """List, load and use a run whose run.json holds odd values or is damaged; unchanged scores or a refusal."""
    root = case.workspace()
    facts = root / "runs" / RUN / "run.json"
    fits = case.dice.random() < 0.7
    if fits:
        facts.write_bytes(json.dumps(_resealed(with_odd_value(json.loads(facts.read_bytes()), case.dice))).encode())
    else:
        facts.write_bytes(hostile_json(facts.read_bytes(), case.dice))
    leuk("runs", "-w", root, "--json")
    return _used(case, root, must_be_same=not fits)


def _used(case: Case, root: Path, *, must_be_same: bool) -> str:
    """Classify one image by a run; scores are those of the good run, or the run is refused, or was altered with care."""
    image = case.base / "pictures" / "ALL" / "p0" / "0.png"
    code, said = leuk(
        "classify", image, "--run", root / "runs" / RUN, "--json", "-q", "--device", "cpu", "--workers", 1
    )
    if code == 3:
        raise Failure(f"a damaged run was taken for a damaged image: {said[:400]}")
    if code == 0:
        row = json.loads(said)[0]
        good = json.loads((case.base / "row.json").read_text())
        scores = [value for key, value in row.items() if key.startswith("score_")]
        if not all(isinstance(score, float) and 0 <= score <= 1 for score in scores) or abs(sum(scores) - 1) > 1e-6:
            raise Failure(f"scores {scores}")
        if must_be_same and any(row[key] != good[key] for key in good if key not in ("path", "run")):
            raise Failure(f"a damaged run gave another result: {row}")
    return f"exit {code}"


def target_tensors(case: Case) -> str:
    """Use a run whose tensor files are damaged, with the old checksum or with one that fits the damage."""
    from leukemia_cli.workspace.documents import write_json

    root = case.workspace()
    folder = root / "runs" / RUN
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    name = case.dice.choice(names)
    file = folder / name
    good = file.read_bytes()
    file.write_bytes(hostile_tensors(good, case.dice))
    fits = case.dice.random() < 0.7
    if fits:
        stored = json.loads((folder / "run.json").read_bytes())
        stored["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
        write_json(folder / "run.json", stored)
    elif file.read_bytes() != good:
        code, _ = leuk("classify", case.base / "pictures" / "ALL" / "p0" / "0.png", "--run", folder, "--json", "-q",
                       "--device", "cpu")  # fmt: skip
        if code != 4:
            raise Failure(f"a file that is not the one the run was saved with: exit code {code}")
        return "exit 4"
    return _used(case, root, must_be_same=False)


def hostile_tensors(content: bytes, dice: random.Random) -> bytes:
    """Give a safetensors file with absurd sizes, odd types, numbers that are none, or damage; or no such file at all."""
    import torch
    from safetensors.torch import load, save

    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    match dice.randrange(8):
        case 0:
            return struct.pack("<Q", dice.choice((2**63, 2**32, length + 1, 0, len(content)))) + content[8:]
        case 1:
            text = hostile_json(json.dumps(header).encode(), dice)
            return struct.pack("<Q", len(text)) + text + body
        case 2 | 3 | 4:
            tensors = load(content)
            name = dice.choice(sorted(tensors))
            value = tensors[name]
            match dice.randrange(7):
                case 0:
                    tensors[name] = torch.full_like(value, float("nan")) if value.is_floating_point() else value - 10**6
                case 1:
                    tensors[name] = torch.full_like(value, float("inf")) if value.is_floating_point() else value + 10**6
                case 2:
                    tensors[name] = value.to(
                        dice.choice((torch.float16, torch.int8, torch.bool, torch.bfloat16, torch.float64))
                    )
                case 3:
                    tensors[name] = value.reshape(-1)[: max(0, value.numel() - 1)].clone()
                case 4:
                    del tensors[name]
                case 5:
                    tensors[name] = torch.zeros((0,))
                case _:
                    tensors[f"{name}.more"] = value.clone()
            return save(tensors)
        case 5:
            return dice.choice((b"", b"{}", _evil_pickle(Path("/nonexistent/proof")), b"PK\x03\x04" + bytes(64)))
        case _:
            return mutated(content, dice)


class _Touches:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


def _evil_pickle(proof: Path) -> bytes:
    return pickle.dumps({"state_dict": _Touches(proof)})


def target_weights(case: Case) -> str:
    """Load a hostile weight file: safetensors, a .pth, a pickle that runs code."""
    import torch

    from leukemia_cli.learning.weights import load_backbone

    proof = case.folder / "proof"
    good = (case.base / "ws" / "runs" / RUN / "model.safetensors").read_bytes()
    suffix = case.dice.choice((".safetensors", ".pth", ".bin", ""))
    file = case.folder / f"weights{suffix}"
    match case.dice.randrange(4):
        case 0:
            file.write_bytes(_evil_pickle(proof))
        case 1:
            torch.save({"state_dict": {"a": torch.zeros(3)}, "more": _Touches(proof)}, file)
        case 2:
            out = io.BytesIO()
            torch.save({"a.weight": torch.zeros(3, 3), "b": torch.ones(2)}, out)
            file.write_bytes(mutated(out.getvalue(), case.dice))
        case _:
            file.write_bytes(hostile_tensors(good, case.dice))
    try:
        load_backbone("timm:test_resnet", str(file), seed=0, fit="squash", input_size_px=64)
    finally:
        if proof.exists():
            raise Failure("code from a weight file was run")
    return "value"


def target_checkpoint(case: Case) -> str:
    """Read a damaged checkpoint, and a damaged diary of finished fits."""
    import torch

    from leukemia_cli.learning.checkpoints import read_checkpoint, write_checkpoint
    from leukemia_cli.learning.selection import Diary

    file = case.folder / "a.state.safetensors"
    tensors = {"w": torch.arange(64.0), "k": torch.arange(4)}
    write_checkpoint(file, tensors, {"epoch": 3, "best": [1.5, None], "identity": "abc"})
    good = file.read_bytes()
    file.write_bytes(hostile_tensors(good, case.dice))
    diary = case.folder / "a.selection.jsonl"
    lines = b"".join(b'\n{"key": "%d", "value": [0.5, {"a": 1}]}' % i for i in range(20))
    diary.write_bytes(case.dice.choice((mutated, hostile_csv))(lines, case.dice))
    Diary(diary)
    _, read = read_checkpoint(file, "Delete it")
    same = read.keys() == tensors.keys() and all(torch.equal(read[k], tensors[k]) for k in tensors)
    return "same" if same else "other values"


def target_resume(case: Case) -> str:
    """Resume an interrupted run of which one file is damaged."""
    place = case.folder / "ws"
    shutil.copytree(case.base / "interrupted", place)
    [run] = (place / "runs").iterdir()
    files = sorted(path for path in run.rglob("*") if path.is_file())
    file = case.dice.choice(files)
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        file.write_bytes(hostile_tensors(content, case.dice))
    elif file.name == "started.json" and case.dice.random() < 0.7:
        file.write_bytes(json.dumps(_resealed(with_odd_value(json.loads(content), case.dice))).encode())
    else:
        file.write_bytes(mutated(content, case.dice))
    code, _ = leuk("train", "--resume", run.name, "-w", place, "-q", "--device", "cpu", "--workers", 1)
    return f"{file.name.partition('.')[2] or file.name}: exit {code}"


def target_features(case: Case) -> str:
    """Fit an SVM on a set of features of which features.json or a part of the cache is damaged."""
    root = case.workspace()
    file = next((root / "features").glob("*/features.json"))
    if case.dice.random() < 0.5:
        file.write_bytes(json.dumps(_resealed(with_odd_value(json.loads(file.read_bytes()), case.dice))).encode())
    elif case.dice.random() < 0.5:
        file.write_bytes(hostile_json(file.read_bytes(), case.dice))
    else:
        part = case.dice.choice(sorted((root / "features" / "cache").rglob("*.safetensors")))
        part.write_bytes(hostile_tensors(part.read_bytes(), case.dice))
    code, _ = leuk("fit-svm", "--features", file.parent.name, "--kernel", "linear", "-w", root, "-q", "--device", "cpu",
                   "--workers", 1)  # fmt: skip
    return f"exit {code}"


def target_report(case: Case) -> str:
    """Make a report's page again from a damaged report.json, or one with markup for names."""
    root = case.workspace()
    file = next((root / "reports").glob("*/report.json"))
    stored = json.loads(file.read_bytes())
    if case.dice.random() < 0.75:
        file.write_bytes(json.dumps(with_odd_value(stored, case.dice)).encode())
    else:
        file.write_bytes(hostile_json(file.read_bytes(), case.dice))
    code, _ = leuk("report", RUN, "-w", root, "-q")
    page = file.with_name("report.html")
    if code == 0 and "<script>alert" in page.read_text(errors="replace"):
        raise Failure("markup of a value stands in the page as it is")
    return f"exit {code}"


def target_workspace(case: Case) -> str:
    """Open a workspace of which one small file is damaged, and list its runs."""
    root = case.workspace()
    file = case.dice.choice(
        [root / "workspace.json", root / "manifest" / "manifest.json", root / "reports" / "looks.jsonl",
         root / "runs" / RUN / "started.json"]
    )  # fmt: skip
    file.write_bytes(hostile_json(file.read_bytes(), case.dice) if file.suffix == ".json" else case.dice.randbytes(99))
    code, _ = leuk("runs", "-w", root, "--json")
    leuk("doctor", "-w", root, "--json")
    return f"exit {code}"


def target_list(case: Case) -> str:
    """Classify by a hostile list of paths."""
    image = case.base / "pictures" / "ALL" / "p0" / "0.png"
    good = f"path,note\n{image},a\n{image},b\n" if case.dice.random() < 0.5 else f"{image}\n{image}\n"
    file = case.folder / "list.csv"
    file.write_bytes(hostile_csv(good.encode(), case.dice))
    code, _ = leuk("classify", f"@{file}", "--run", case.base / "ws" / "runs" / RUN, "--format", "jsonl", "-q", "--device",
                   "cpu", "--workers", 1)  # fmt: skip
    return f"exit {code}"


TARGETS: dict[str, tuple[Callable[[Case], str], float]] = {
    "decode": (target_decode, 0.45),
    "slide": (target_slide, 0.05),
    "prepare": (target_prepare, 0.02),
    "classify": (target_classify, 0.03),
    "manifest": (target_manifest, 0.06),
    "labels": (target_labels, 0.03),
    "dataset-yaml": (target_dataset_yaml, 0.03),
    "config": (target_config, 0.04),
    "marks": (target_marks, 0.06),
    "run": (target_run, 0.06),
    "tensors": (target_tensors, 0.05),
    "weights": (target_weights, 0.03),
    "checkpoint": (target_checkpoint, 0.03),
    "resume": (target_resume, 0.01),
    "features": (target_features, 0.01),
    "report": (target_report, 0.02),
    "workspace": (target_workspace, 0.02),
    "list": (target_list, 0.02),
}
"""What is run, and its share of all cases."""


# ----------------------------------------------------------------------------------------------------- good files


def make_base(base: Path) -> None:
    """Draw pictures and make a workspace with a run, features and a report, and another with an interrupted run."""
    good = good_images()
    for label in ("ALL", "HTL"):
        for number in range(5):
            for image in range(2):
                file = base / "pictures" / label / f"p{number}" / f"{image}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(_shade(good["rgb.png"], 5 * number + image + 30 * (label == "ALL")))
    root = base / "ws"
    _process(f"prepare {base / 'pictures'} --task binary --near-copies warn --quiet --no-images", root)
    _process(TRAIN, root)
    _process("extract-features --backbone timm:test_resnet --weights none --input-size 64 --quiet --workers 1", root)
    _process(f"evaluate {RUN} --resamples 20 --quiet --workers 1 --no-images", root)
    image = base / "pictures" / "ALL" / "p0" / "0.png"
    said = _process(f"classify {image} --run {root / 'runs' / RUN} --json --quiet --workers 1", None)
    (base / "row.json").write_text(json.dumps(json.loads(said)[0]))
    left = base / "interrupted"
    shutil.copytree(root, left)
    shutil.rmtree(left / "runs")
    shutil.rmtree(left / "reports")
    process = subprocess.Popen(
        [sys.executable, "-m", "leukemia_cli", *TRAIN.replace("--epochs 2", "--epochs 3").split(), "--tune", "all",
         "--batch-size", "2", "--patience", "99", "--checkpoint-every", "0", "-w", str(left)],
        env=environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 300
    while process.poll() is None and not list(left.glob("runs/*/checkpoint/[!.]*.state.safetensors")):
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()


def environment() -> dict[str, str]:
    """Give what a child process is to see: the clone beside this script, one core, no network."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _process(line: str, root: Path | None) -> str:
    where = [] if root is None else ["-w", str(root)]
    done = subprocess.run(
        [sys.executable, "-m", "leukemia_cli", *line.split(), *where],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"leuk {line}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


# ---------------------------------------------------------------------------------------------------------- child


def run_case(target: str, number: int, seed: int, base: Path) -> tuple[str, str]:
    """Run one case in this process; give what came of it and, of a failure, the traceback."""
    from leukemia_cli.errors import LeukError

    # The fault must not reach the names of folders: pathlib gives the case its own.
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        case = Case(dice=random.Random(f"{seed}-{target}-{number}"), folder=Path(name), base=base)
        here = Path.cwd()
        os.chdir(name)
        try:
            found = TARGETS[target][0](case)
            if (case.folder / "proof").exists():
                raise Failure("code from a file was run")
        except LeukError as error:
            return f"LeukError ({type(error).__name__})", ""
        except BaseException as error:
            kept = base.parent / "failures" / f"{target}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(name, kept, symlinks=True)
            return f"FAILED {type(error).__name__}", traceback.format_exc()
        finally:
            os.chdir(here)
    return found, ""


def _child(pipe: Connection, seed: int, base: Path, warm: bool) -> None:
    if warm:
        import torch

        from leukemia_cli.learning import classifier  # noqa: F401 - loaded before memory is counted

        torch.set_num_threads(1)
    sys.setrecursionlimit(1000)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        target, number = pipe.recv()
        pipe.send(run_case(target, number, seed, base))


class Workers:
    """A child process that is started anew when a case has killed it or takes too long."""

    def __init__(self, seed: int, base: Path) -> None:
        self._seed, self._base = seed, base
        self._context = multiprocessing.get_context("spawn")
        self._child: Any = None
        self._pipe: Connection | None = None

    def run(self, target: str, number: int) -> tuple[str, str]:
        """Run one case; a crash and a hang are outcomes too."""
        if self._child is None:
            self._pipe, theirs = self._context.Pipe()
            self._child = self._context.Process(target=_child, args=(theirs, self._seed, self._base, True), daemon=True)
            self._child.start()
            theirs.close()
        pipe = self._pipe
        if pipe is None:
            raise AssertionError("a child without a pipe")
        pipe.send((target, number))
        begun = time.monotonic()
        while time.monotonic() - begun < LIMIT_S + 60 * (number == 0):
            if pipe.poll(0.5):
                with contextlib.suppress(EOFError):
                    return pipe.recv()
            if not self._child.is_alive():
                code = self._child.exitcode
                self.stop()
                return f"FAILED crash ({code})", f"the process died with {code}"
        self.stop()
        return "FAILED hang", f"not done after {LIMIT_S:.0f} s"

    def stop(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


# ----------------------------------------------------------------------------------------------------------- main


def cases_of(total: int, only: str | None) -> dict[str, range]:
    """Give the numbers of each target's cases: at least ten, the rest by its share."""
    if only and ":" in only:
        target, _, number = only.partition(":")
        return {target: range(int(number), int(number) + 1)}
    return {
        target: range(max(10, round(total * share)) if only is None else total)
        for target, (_, share) in TARGETS.items()
        if only in (None, target)
    }


def main() -> int:
    """Run the cases and print a table; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="default: a new temporary folder")
    parser.add_argument("--only", help="a target, or target:case to repeat one case")
    chosen = parser.parse_args()
    work = (chosen.work or Path(tempfile.mkdtemp(prefix="leuk-fuzz-"))).absolute()
    base = work / "base"
    if not (base / "row.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        print(f"making good artefacts in {base}", file=sys.stderr)
        make_base(base)
    workers = Workers(chosen.seed, base)
    total = failed = 0
    print("| target | cases | failed | outcomes | slowest |\n| --- | --- | --- | --- | --- |")
    for target, numbers in cases_of(chosen.cases, chosen.only).items():
        counts, slowest = Counter[str](), 0.0
        for number in numbers:
            begun = time.monotonic()
            found, trace = workers.run(target, number)
            slowest = max(slowest, time.monotonic() - begun)
            counts[found] += 1
            if trace:
                kept = work / "failures" / f"{target}-{number}"
                kept.mkdir(parents=True, exist_ok=True)
                again = f"python benchmarks/fuzz.py --seed {chosen.seed} --work {work} --only {target}:{number}"
                (kept / "reproduce.txt").write_text(f"{again}\n\n{trace}")
                print(f"{target}:{number} {found}: {trace.strip().splitlines()[-1][:300]}", file=sys.stderr, flush=True)
        bad = sum(count for what, count in counts.items() if what.startswith("FAILED"))
        told = ", ".join(f"{what} {count}" for what, count in counts.most_common())
        print(f"| {target} | {counts.total()} | {bad} | {told} | {slowest:.1f} s |", flush=True)
        total, failed = total + counts.total(), failed + bad
    workers.stop()
    print(
        f"\n{total} cases, seed {chosen.seed}: {failed} failed" + (f" (kept in {work / 'failures'})" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
