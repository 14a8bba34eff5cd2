"""Measure what a step of fine-tuning costs beside hand-written loops that do the bare step and nothing else.

`leuk` is timed as it runs: it reads and augments images, draws dropout, holds normalisation and minds signals. `bare loop` is the
same network, batch, precision and memory layout with its one batch in memory, and torch's AdamW as it comes. `eager` is that loop
as it is usually written: fp32, torch's own layout, glibc's allocator as it comes. Each round starts each of them as a process of
its own, in turns, so that what else the machine does strikes all.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from leukemia_cli.domain import HeadChoice, Sample
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.finetuning import TuneSettings, fine_tune
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.machine import choose_machine, granted_cores
from leukemia_cli.learning.network import Head, Network, hold_normalisation
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone

SEED = 0
Precision = Literal["fp32", "bf16"]


def noise(folder: Path, count: int, side_px: int) -> list[Sample]:
    """Write images of smoothed noise, and give them as samples of two classes."""
    rng = np.random.default_rng(SEED)
    samples = []
    for i in range(count):
        path = folder / f"{i}.png"
        coarse = rng.integers(0, 256, (side_px // 8, side_px // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC).save(path)
        samples.append(
            Sample(
                path=str(path), label="AB"[i % 2], group=str(i), split="train", fold=None,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(), width=side_px, height=side_px,
            )
        )  # fmt: skip
    return samples


def network_of(loaded: LoadedBackbone) -> Network:
    """Put a head of one hidden layer on a backbone."""
    draws = torch.Generator().manual_seed(SEED)
    return Network(loaded.module, Head(HeadChoice(hidden=(512,), rate=0.2), loaded.spec.feature_width, 2, draws=draws))


def ours(name: str, samples: list[Sample], batch: int, precision: Precision, device: str) -> list[float]:
    """Give the seconds of each step but the first."""
    machine = choose_machine(device, None)
    loaded = load_backbone(name, "none", seed=SEED, fit="squash", input_size_px=None)
    times: list[float] = []

    def watched(items: Iterable, *, total: int, label: str) -> Iterator:
        del total, label
        for item in items:
            times.append(time.perf_counter())
            yield item
        times.append(time.perf_counter())

    fine_tune(
        network_of(loaded),
        (samples, np.arange(len(samples)) % 2),
        None,
        loaded.preprocessing,
        FitSettings(epochs=1, batch_size=batch, lr=1e-4, warmup_epochs=1.0),
        TuneSettings(
            tune="all", precision=precision, augmentation=Augmentation(), hold_normalisation=True,
            checkpoint_every_s=1e9, max_megapixels=50,
        ),
        last_stage=loaded.last_stage,
        class_count=2,
        seed=SEED,
        machine=machine,
        checkpoint=None,
        track=watched,
    )  # fmt: skip
    return [after - before for before, after in itertools.pairwise(times)][1:]


def loop(name: str, steps: int, batch: int, precision: Precision, device: str, *, eager: bool) -> list[float]:
    """Give the seconds of each step but the first of a loop that does no more than it must."""
    if eager:
        torch.set_num_threads(granted_cores())
    else:
        choose_machine(device, None)  # keeps freed memory
    loaded = load_backbone(name, "none", seed=SEED, fit="squash", input_size_px=None)
    layout = torch.contiguous_format if eager else torch.channels_last
    network = network_of(loaded).to(device=device, memory_format=layout)
    adam = torch.optim.AdamW(network.parameters(), lr=1e-4)
    side = loaded.preprocessing.input_size_px
    draws = torch.Generator().manual_seed(SEED)
    images = torch.randn(batch, 3, side, side, generator=draws).to(device=device, memory_format=layout)
    labels = (torch.arange(batch) % 2).to(device)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    hold_normalisation(network.backbone)
    times = [time.perf_counter()]
    for _ in range(steps):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        loss = loss_of(logits.float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        loss.item()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)][1:]


def child(flags: argparse.Namespace, name: str, which: str, precision: str) -> list[float]:
    """Measure in a process of its own."""
    line = [sys.executable, __file__, "--child", which, "--backbones", name, "--precisions", precision]
    line += ["--batch", str(flags.batch), "--steps", str(flags.steps), "--device", flags.device]
    # The package asks glibc to keep memory where it computes; nothing of that may reach the eager loop.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    told: list[float] = json.loads(subprocess.run(line, env=env, check=True, stdout=subprocess.PIPE).stdout)
    return told


def measure(flags: argparse.Namespace) -> list[float]:
    """Do what one child was asked to."""
    name, precision = flags.backbones, flags.precisions
    if flags.child != "leuk":
        return loop(name, flags.steps, flags.batch, precision, flags.device, eager=flags.child == "eager")
    with tempfile.TemporaryDirectory() as folder:
        samples = noise(Path(folder), flags.batch * flags.steps, 256)
        return ours(name, samples, flags.batch, precision, flags.device)


def main() -> None:
    """Print a row for each backbone and precision."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--backbones", default="efficientnet-lite0,seresnext50")
    asked.add_argument("--precisions", default="fp32,bf16")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--steps", type=int, default=8, help="steps a round, the first of which is not counted")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--child", choices=["leuk", "bare", "eager"], help=argparse.SUPPRESS)
    flags = asked.parse_args()
    if flags.child:
        print(json.dumps(measure(flags)))
        return
    print(f"batch {flags.batch}, {flags.rounds} rounds of {flags.steps - 1} steps, medians\n")
    print("| backbone | precision | leuk, s a step | bare loop | leuk to bare | eager fp32 | eager to leuk |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in flags.backbones.split(","):
        precisions = flags.precisions.split(",")
        told: dict[tuple[str, str], list[float]] = {}
        for _ in range(flags.rounds):
            for key in [("eager", "fp32"), *((which, p) for p in precisions for which in ("leuk", "bare"))]:
                told.setdefault(key, []).extend(child(flags, name, *key))
        eager = statistics.median(told["eager", "fp32"])
        for precision in precisions:
            mine, least = (statistics.median(told[which, precision]) for which in ("leuk", "bare"))
            print(
                f"| {name} | {precision} | {mine:.2f} | {least:.2f} | {mine / least:.2f} | {eager:.2f}"
                f" | {eager / mine:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
