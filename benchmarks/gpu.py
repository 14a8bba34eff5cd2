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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from classify_speed import SMALL, draw, leuk, wall

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


def main() -> None:
    """Print Markdown tables with the device's name."""
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
    from leukemia_cli.catalog import BACKBONES

    print(
        f"{torch.cuda.get_device_name(given.device)}, torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores\n"
    )
    env, size = dict(os.environ), given.batch_size
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, count in (("all", given.images), ("few", FEW)):
            draw(work / name / "any", count, SMALL)
        wall(leuk("sample-images", str(work / "drawn"), "--patients", "12", "--quiet"), env)
        columns = (
            "bare fp32|bf16|fp16|leuk classify|of bare fp32|least training loop, bf16|leuk train, bf16|of the least"
        )
        print(f"| backbone | {' | '.join(columns.split('|'))} |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for backbone in given.backbones:
            entry = BACKBONES[backbone]
            rates = [bare(entry.timm_name, given.device, p, size, given.steps) for p in PRECISIONS]
            place = ["--workspace", str(work / backbone), "--device", given.device]
            wall(
                leuk(
                    "prepare",
                    str(work / "drawn"),
                    "--task",
                    "five-class",
                    "--quiet",
                    "--workspace",
                    str(work / backbone),
                ),
                env,
            )
            told = work / "told.json"
            wall(
                leuk(
                    "train",
                    "--backbone",
                    backbone,
                    "--variant",
                    "base",
                    "--weights",
                    "none",
                    *place,
                    "--json",
                    "--quiet",
                ),
                env,
                told,
            )
            run = json.loads(told.read_text())["run"]
            seconds = []
            for name in ("all", "few"):
                out = str(work / "rows.jsonl")
                line = leuk(
                    "classify", str(work / name), "--run", run, "--format", "jsonl", "--output", out, *place, "--quiet"
                )
                seconds.append(min(wall([*line, "--batch-size", str(size)], env) for _ in range(2)))
            ours = (given.images - FEW) / (seconds[0] - seconds[1])
            least = minimal_training(entry.timm_name, given.device, "bf16", size, given.steps)
            line = leuk(
                "train",
                "--backbone",
                backbone,
                "--variant",
                "base",
                "--weights",
                "none",
                "--tune",
                "all",
                *place,
                "--json",
            )
            epochs = []
            for many in (1, 3):
                more = ["--precision", "bf16", "--batch-size", str(size), "--epochs", str(many), "--patience", "9"]
                epochs.append(wall([*line, *more, "--quiet"], env, told))
            facts = json.loads(told.read_text())
            images = (
                facts.get("training_images")
                or json.loads((work / backbone / "runs" / facts["run"] / "run.json").read_text())["training_images"]
            )
            train = 2 * images / (epochs[1] - epochs[0])
            print(
                f"| {backbone} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[2]:.0f} | {ours:.0f} | {ours / rates[0]:.2f}"
                f" | {least:.0f} | {train:.0f} | {train / least:.2f} |",
                flush=True,
            )
    free = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv"], capture_output=True, text=True, check=False
    )
    print(f"\n{free.stdout.strip()}")


if __name__ == "__main__":
    main()
