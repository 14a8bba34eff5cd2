"""Measure `leuk classify` over a folder of JPEGs against timm's own loader and a plain torch loop, in one run.

Usage: python benchmarks/classify_speed.py [--backbones efficientnet-lite0 seresnext50] [--images 1400] [--large 120] [--times 3]
       [--timm-script inference.py]

Whole commands, start-up included, in processes of their own, taken in turns; the least of `--times` counts. Rows:
- leuk's defaults (torch, fp32), and `--engine auto --precision auto` after `leuk export --format openvino`;
- timm: its `create_dataset`, `create_loader` and `create_model` at the defaults of its inference.py (batch 256, 2 workers, fp32),
  and at its best flags on a CPU (bf16 autocast, channels last, batch 16); with --timm-script, that very script;
- a plain loop: Pillow, torch fp32, batch 16, one thread that decodes and computes by turns;
- the bare engine: the same network on tensors in memory, no files: what no command can beat.
Bodies, without start-up, are the difference of a whole folder and one of 16 images. Where there are no weights random ones
serve; they take the same time. Images are drawn smears, written once as JPEG.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SMALL, LARGE = (224, 224), (2592, 1944)
BATCH, LEAST = 16, 16


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write drawn fields as JPEG, each a few times, turned, so that no two files are equal."""
    import numpy as np
    from PIL import Image

    from leukemia_cli.vision.drawing import draw_field, draw_patient

    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("ALL", "HTL")
    distinct = max(2, min(count // 8, 60 if size == SMALL else 8))
    for number in range(distinct):
        kind = kinds[number % 2]
        field = draw_field(kind, draw_patient(kind, number), np.random.default_rng(number), *size)
        picture = Image.fromarray(np.asarray(field)).convert("RGB")
        for copy in range(number, count, distinct):
            turned = picture.rotate(180 * (copy // distinct % 2))
            target = folder / f"{copy:06}.jpg"
            turned.save(target, quality=90 - copy // distinct % 40)


def wall(command: list[str], env: dict[str, str], out: Path | None = None) -> float:
    """Run a command to its end and give its seconds; what it says is shown if it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    spent = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    if out is not None:
        out.write_text(done.stdout, encoding="utf-8")
    return spent


def peer_timm(folder: str, name: str, best: bool) -> None:
    """Do what timm's inference.py does with a folder, at its defaults or at its best flags on a CPU."""
    import contextlib

    import numpy as np
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.models import create_model

    model = create_model(name, pretrained=False).eval()
    config = resolve_data_config({}, model=model)
    if best:
        model = model.to(memory_format=torch.channels_last)
    loader = create_loader(
        create_dataset("", root=folder), batch_size=BATCH if best else 256, use_prefetcher=False, num_workers=2,
        device=torch.device("cpu"), **config,
    )  # fmt: skip
    autocast = torch.autocast("cpu", torch.bfloat16) if best else contextlib.nullcontext()
    rows = []
    with torch.inference_mode(), autocast:
        for images, _ in loader:
            given = images.contiguous(memory_format=torch.channels_last) if best else images
            rows.append(model(given).softmax(-1).topk(1)[0].float().numpy())
    print(len(np.concatenate(rows)))


def peer_plain(folder: str, name: str) -> None:
    """Decode with Pillow and compute in torch fp32, batch by batch."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    model = timm.create_model(name, pretrained=False).eval()
    files = sorted(Path(folder).rglob("*.jpg"))
    side = model.pretrained_cfg["input_size"][-1]
    scores = []
    with torch.inference_mode():
        for at in range(0, len(files), BATCH):
            pictures = [
                Image.open(f).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
                for f in files[at : at + BATCH]
            ]
            batch = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float()
            scores.append(model(batch / 127.5 - 1).softmax(-1))
    print(len(torch.cat(scores)))


def bare(run: str, engine: str, precision: str, count: int) -> None:
    """Time the run's own network in an engine on views in memory; print seconds for `count` images after a warm-up."""
    import numpy as np

    from leukemia_cli.steps.classify import ClassifySettings, open_classifier
    from leukemia_cli.workspace.runs import read_run_folder

    settings = ClassifySettings(engine=engine, precision=precision, batch_size=BATCH)
    classifier = open_classifier(read_run_folder(Path(run)), settings)
    side = classifier.preprocessing.input_size_px
    views = list(np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8))
    classifier.probabilities(views)
    began = time.perf_counter()
    for _ in range(-(-count // BATCH)):
        classifier.probabilities(views)
    print(json.dumps(time.perf_counter() - began))


def leuk(*line: str) -> list[str]:
    """Give a leuk command for subprocess."""
    return [sys.executable, "-m", "leukemia_cli", *line]


def make_run(work: Path, backbone: str, env: dict[str, str], decode: str) -> Path:
    """Train a run on drawn smears and export it; give its folder."""
    place = ["--workspace", str(work / f"ws-{backbone}-{decode}"), "--quiet"]
    if not (work / "drawn").exists():
        wall(leuk("sample-images", str(work / "drawn"), "--patients", "6", "--quiet"), env)
    wall(leuk("prepare", str(work / "drawn"), "--task", "five-class", "--folds", "2", *place), env)
    weights = ["--weights", "auto" if backbone == "efficientnet-lite0" else "none"]
    line = [
        "train",
        "--backbone",
        backbone,
        "--variant",
        "base",
        *weights,
        "--views",
        "1",
        "--epochs",
        "5",
        "--decode",
        decode,
    ]
    told = work / "trained.json"
    wall(leuk(*line, *place, "--json"), env, told)
    run = work / f"ws-{backbone}-{decode}" / "runs" / json.loads(told.read_text())["run"]
    wall(leuk("export", str(run), "--format", "openvino", *place), env)
    return run


def measured(
    contenders: dict[str, Callable[[Path], list[str]]], folders: dict[str, Path], env: dict[str, str], times: int
) -> dict[str, dict[str, float]]:
    """Run every contender over every folder in turns, and give the least seconds of each."""
    least: dict[str, dict[str, float]] = {name: {} for name in contenders}
    for _ in range(times):
        for size, folder in folders.items():
            for name, command in contenders.items():
                spent = wall(command(folder), env)
                least[name][size] = min(spent, least[name].get(size, spent))
                print(f"{name}, {size}: {spent:.1f} s", file=sys.stderr, flush=True)
    return least


def compared(
    work: Path, backbone: str, count: int, size: tuple[int, int], env: dict[str, str], times: int, script: Path | None
) -> None:
    """Print the table of one backbone and one size of images."""
    from leukemia_cli.catalog import BACKBONES

    run = make_run(work, backbone, env, "scaled" if size == LARGE else "full")
    folders = {}
    for name, many in (("all", count), ("few", LEAST)):
        folders[name] = work / f"{size[0]}-{many}"
        if not folders[name].exists():
            draw(folders[name] / "any", many, size)
    network, out = BACKBONES[backbone].timm_name, work / "rows.jsonl"
    self = [sys.executable, __file__]

    def ours(*more: str) -> Callable[[Path], list[str]]:
        return lambda folder: leuk(
            "classify", str(folder), "--run", str(run), "--format", "jsonl", "--output", str(out), "--quiet", *more
        )

    contenders: dict[str, Callable[[Path], list[str]]] = {
        "leuk, defaults": ours(),
        "leuk, --engine auto --precision auto": ours("--engine", "auto", "--precision", "auto"),
        "timm, as shipped": lambda f: [*self, "timm", str(f), network, "shipped"],
        "timm, best flags": lambda f: [*self, "timm", str(f), network, "best"],
        "plain torch loop": lambda f: [*self, "plain", str(f), network],
    }
    if script is not None:
        shipped = [
            sys.executable,
            str(script),
            "--model",
            network,
            "--device",
            "cpu",
            "--no-console-results",
            "--results-dir",
            str(work),
        ]
        empty = work / f"{backbone}.safetensors"
        contenders["timm, its script"] = lambda f: [*shipped, "--data-dir", str(f), "--checkpoint", str(empty)]
    least = measured(contenders, folders, env, times)
    engine = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    print(
        f"\n{backbone}, {count:,} JPEGs of {size[0]} × {size[1]} px; auto took {engine['engine']} {engine['precision']}\n"
    )
    print(
        "| command | whole, s | body, images/s | times slower than leuk's auto, whole | than leuk's defaults, whole |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    auto, plain = (least[name]["all"] for name in ("leuk, --engine auto --precision auto", "leuk, defaults"))
    for name, told in least.items():
        body = (count - LEAST) / max(1e-9, told["all"] - told["few"])
        print(f"| {name} | {told['all']:.1f} | {body:.1f} | {told['all'] / auto:.2f} | {told['all'] / plain:.2f} |")
    for name, chosen in (("defaults", ("torch", "fp32")), ("auto", (engine["engine"], engine["precision"]))):
        done = subprocess.run(
            [*self, "bare", str(run), *chosen, "320"], capture_output=True, text=True, env=env, check=True
        )
        rate = 320 / json.loads(done.stdout.splitlines()[-1])
        told = least["leuk, defaults" if name == "defaults" else "leuk, --engine auto --precision auto"]
        body = (count - LEAST) / (told["all"] - told["few"])
        print(
            f"\nBare {' '.join(chosen)} on tensors in memory: {rate:.1f} images/s; leuk's {name}: {body / rate:.2f} of it"
        )
    sys.stdout.flush()


def main() -> None:
    """Print a table for each backbone and size."""
    if len(sys.argv) > 1 and sys.argv[1] in ("timm", "plain", "bare"):
        job, *rest = sys.argv[1:]
        if job == "timm":
            peer_timm(rest[0], rest[1], rest[2] == "best")
        elif job == "plain":
            peer_plain(rest[0], rest[1])
        else:
            bare(rest[0], rest[1], rest[2], int(rest[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["efficientnet-lite0", "seresnext50"])
    parser.add_argument("--images", type=int, default=1400)
    parser.add_argument(
        "--large", type=int, default=120, help="images of 5 megapixels, efficientnet-lite0 alone; 0 leaves them out"
    )
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--timm-script", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=None)
    given = parser.parse_args()
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    work = given.work or Path(tempfile.mkdtemp(prefix="leuk-speed-"))
    work.mkdir(parents=True, exist_ok=True)
    print(f"{platform.platform()}, Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores")
    try:
        for backbone in given.backbones:
            many = given.images if backbone == "efficientnet-lite0" else min(given.images, 200)
            compared(work, backbone, many, SMALL, env, given.times, given.timm_script)
        if given.large:
            compared(work, "efficientnet-lite0", given.large, LARGE, env, given.times, given.timm_script)
    finally:
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
