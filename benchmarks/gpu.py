"""Measure classification against the bare network, and training images a second, on a GPU. Without one it says so and ends.

Usage: python benchmarks/gpu.py [--backbones efficientnet-lite0 seresnext50 senet] [--images 4000] [--steps 30] [--device cuda]

Random weights: speed does not depend on them. `bare` is the network on tensors that lie on the device, channels last, after a
warm-up, in fp32 and under bf16 and fp16 autocast; `leuk classify` is the whole command over JPEGs of 224 px less the same over 64
of them, so that start-up is not in it; `leuk train` is the middle of an epoch of `--tune all`, beside the least loop that trains
at the same settings. Not run yet: no machine with a GPU was at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from classify_speed import SMALL, draw, leuk, wall

from leukemia_cli.catalog import BACKBONES

FEW = 64
PRECISIONS = ("fp32", "bf16", "fp16")


def bare(name: str, device: str, precision: str, batch: int, steps: int) -> float:
    """Give images a second of a forward pass."""
    import timm
    import torch

    model = (
        timm.create_model(name, pretrained=False, num_classes=0).eval().to(device, memory_format=torch.channels_last)
    )
    side = model.pretrained_cfg["input_size"][-1]
    images = torch.rand(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    mixed = torch.autocast("cuda", lower) if lower else contextlib.nullcontext()
    with torch.inference_mode(), mixed:
        for _ in range(5):
            model(images)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            model(images)
        torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - began)


def minimal_training(name: str, device: str, precision: str, batch: int, steps: int) -> float:
    """Give images a second of the least loop that trains all of a network."""
    import timm
    import torch

    model = timm.create_model(name, pretrained=False, num_classes=5).to(device, memory_format=torch.channels_last)
    side = model.pretrained_cfg["input_size"][-1]
    images = torch.rand(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 5, (batch,), device=device)
    adam = torch.optim.AdamW(model.parameters(), fused=True)
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def step() -> None:
        with torch.autocast("cuda", lower) if lower else contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        adam.step()
        adam.zero_grad()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - began)


def classified_rate(work: Path, run: str, place: list[str], batch: int, images: int) -> float:
    """Give images a second of `leuk classify`: all images less few, the lesser of two runs each."""
    seconds = []
    for name in ("all", "few"):
        line = leuk(
            "classify", str(work / name), "--run", run, "--format", "jsonl", "--output", str(work / "rows.jsonl")
        )
        line += [*place, "--batch-size", str(batch), "--quiet"]
        seconds.append(min(wall(line, dict(os.environ)) for _ in range(2)))
    return (images - FEW) / (seconds[0] - seconds[1])


def trained_rate(work: Path, backbone: str, place: list[str], batch: int) -> float:
    """Give training images a second of `leuk train --tune all`: three epochs less one."""
    told, seconds = work / "told.json", []
    for epochs in (1, 3):
        line = leuk("train", "--backbone", backbone, "--variant", "base", "--weights", "none", "--tune", "all", *place)
        line += ["--precision", "bf16", "--batch-size", str(batch), "--epochs", str(epochs), "--patience", "9"]
        seconds.append(wall([*line, "--json", "--quiet"], dict(os.environ), told))
    workspace = Path(place[place.index("--workspace") + 1])
    run = json.loads(told.read_text())["run"]
    images = json.loads((workspace / "runs" / run / "run.json").read_text())["training_images"]
    return 2 * images / (seconds[1] - seconds[0])


def row(work: Path, backbone: str, given: argparse.Namespace) -> str:
    """Measure one backbone, and give its row of the table."""
    name, size = BACKBONES[backbone].timm_name, given.batch_size
    rates = [bare(name, given.device, precision, size, given.steps) for precision in PRECISIONS]
    place = ["--workspace", str(work / backbone), "--device", given.device]
    env, told = dict(os.environ), work / "told.json"
    wall(leuk("prepare", str(work / "drawn"), "--task", "five-class", "--quiet", *place[:2]), env)
    line = leuk("train", "--backbone", backbone, "--variant", "base", "--weights", "none", *place)
    wall([*line, "--json", "--quiet"], env, told)
    ours = classified_rate(work, json.loads(told.read_text())["run"], place, size, given.images)
    least = minimal_training(name, given.device, "bf16", size, given.steps)
    train = trained_rate(work, backbone, place, size)
    cells = [*(f"{rate:.0f}" for rate in (*rates, ours)), f"{ours / rates[0]:.2f}", f"{least:.0f}", f"{train:.0f}"]
    return f"| {backbone} | {' | '.join(cells)} | {train / least:.2f} |"


def main() -> None:
    """Print a Markdown table with the device's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["efficientnet-lite0", "seresnext50", "senet"])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: nothing was measured")
    cores = len(os.sched_getaffinity(0))
    print(f"{torch.cuda.get_device_name(given.device)}, torch {torch.__version__}, {cores} cores\n")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw(work / "all" / "any", given.images, SMALL)
        draw(work / "few" / "any", FEW, SMALL)
        wall(leuk("sample-images", str(work / "drawn"), "--patients", "12", "--quiet"), dict(os.environ))
        print(
            "| backbone | bare fp32 | bf16 | fp16 | leuk classify | of bare fp32 | least training loop, bf16 |", end=""
        )
        print(" leuk train, bf16 | of the least |\n|" + " --- |" + " ---: |" * 8, flush=True)
        for backbone in given.backbones:
            print(row(work, backbone, given), flush=True)


if __name__ == "__main__":
    main()
