"""What rows cost: written one by one, resumed, and merged from shards, in rows a second and peak memory.

    python benchmarks/outputs.py [--rows 1000000] [--shards 8] [--forms csv,jsonl,parquet]

Each step is a process of its own, so that its peak memory is its own. No image is read and no network runs; beside each
writing stands the same rows through `print`-like plain writing (a buffered file, no flush, no sidecar) as the least there is.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.data.shards import Dealt, Shard
from leukemia_cli.reporting.findings import Finding, Row, json_line
from leukemia_cli.reporting.outputs import Terms, open_rows, partial_of, sidecar_of
from leukemia_cli.reporting.row_stores import RowForm
from leukemia_cli.steps.merge import merge

CLASSES = ("ALL", "AML", "CLL", "CML", "HTL")


def path_of(place: int) -> str:
    """Name an input as data sets do."""
    return f"/data/hospital-3/smears/2024/patient-{place // 50:06d}/field-{place % 50:02d}-{place:08d}.png"


def row_of(path: str, place: int) -> Row:
    """Make a row with as many digits as a network gives."""
    score = (place * 0.6180339887498949) % 1
    scores = (score, *((1 - score) * share for share in (0.4, 0.3, 0.2, 0.1)))
    return Finding(
        path=path, classes=CLASSES, label=CLASSES[place % 5], decision="label", confidence=score, scores=scores,
        label_set=("ALL", "AML"), novelty=score * 31.4159, novelty_threshold=27.182818, unit="image", run="senet-dropout-1",
        engine="torch", precision="fp32", error=None,
    ).as_row()  # fmt: skip


def terms_of(form: RowForm, shard: Shard | None) -> Terms:
    """Give what the rows were made with."""
    return Terms(
        leuk="0", form=form, run="senet-dropout-1", run_fingerprint="0", classes=CLASSES, engine="torch", precision="fp32",
        abstain=True, input_unit=None, max_megapixels=200.0, shard=shard,
    )  # fmt: skip


def write(file: Path, form: RowForm, rows: int, shard: Shard | None = None, *, resume: bool = False) -> None:
    """Write the rows of a shard as `leuk classify` does."""
    dealt = Dealt((path_of(place) for place in range(rows)), shard)
    with open_rows(file, terms_of(form, shard), paths=dealt, group=16, resume=resume) as place:
        for number, path in enumerate(dealt, start=place.rows):
            place.add(row_of(path, number if shard is None else shard.place(number)))
        place.seal(inputs=dealt.inputs, inputs_sha256=dealt.sha256)


def plain(file: Path, form: RowForm, rows: int) -> None:
    """Write the same text with nothing around it."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            row = row_of(path_of(number), number)
            out.write(csv_line(tuple(row.values())) if form == "csv" else json_line(row) + "\n")


def step(folder: Path, name: str, form: RowForm, rows: int, shards: int) -> None:
    """Do one step and print its seconds, peak memory (MB) and the size of what came out."""
    one, parts, merged = folder / f"one.{form}", folder / f"{form}-parts", folder / f"merged.{form}"
    parts.mkdir(exist_ok=True)
    began = time.perf_counter()
    if name == "plain":
        plain(folder / "plain", form, rows)
    elif name == "write":
        write(one, form, rows)
    elif name == "resume":
        write(one, form, rows, resume=True)
    elif name == "shards":
        for number in range(1, shards + 1):
            write(parts / f"{number}.{form}", form, rows, Shard(number=number, of=shards))
    else:
        merge([str(parts)], merged)
    seconds = time.perf_counter() - began
    out = {"plain": folder / "plain", "merge": merged, "shards": parts / f"1.{form}"}.get(name, one)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "size_mb": out.stat().st_size / 1e6}))


def main() -> None:
    """Run every step of every form, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--forms", default="csv,jsonl,parquet")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step")
    given = parser.parse_args()
    if given.step:
        step(given.folder, given.step, given.forms, given.rows, given.shards)
        return
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    print("| form | step | rows/s | seconds | peak MB | file MB |\n| --- | --- | --- | --- | --- | --- |")
    try:
        for form in given.forms.split(","):
            for name in ("plain", "write", "resume", "shards", "merge"):
                if name == "plain" and form == "parquet":
                    continue
                if name == "resume" and form != "parquet":  # as after a kill before the last rename: every row is there
                    whole = folder / f"one.{form}"
                    whole.rename(partial_of(whole))
                    sidecar_of(whole).rename(sidecar_of(partial_of(whole)))
                elif name == "resume":
                    continue
                words = ["--step", name, "--forms", form, "--rows", str(given.rows), "--shards", str(given.shards)]
                done = subprocess.run(
                    [sys.executable, __file__, *words, "--folder", str(folder)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                told = json.loads(done.stdout)
                print(
                    f"| {form} | {name} | {given.rows / told['seconds']:,.0f} | {told['seconds']:.1f} | "
                    f"{told['peak_mb']:.0f} | {told['size_mb']:.0f} |",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
