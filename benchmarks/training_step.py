"""Measure what a step of fine-tuning costs beside a hand-written loop that does the bare step and nothing else.

Both train everything, in one process, on the same device with the same allocator, channels last, batch and optimiser. Ours is
timed as it runs: it reads and augments images, draws dropout, holds normalisation and minds signals. The loop has its one batch
in memory. Steps of the two alternate in rounds, so that what else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import statistics
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
from leukemia_cli.learning.batches import Augmentation, stack, to_input
from leukemia_cli.learning.finetuning import TuneSettings, fine_tune
from leukemia_cli.learning.fitting import FitSettings, optimiser
from leukemia_cli.learning.machine import Machine, choose_machine, place
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


def ours(name: str, samples: list[Sample], batch: int, precision: Precision, machine: Machine) -> list[float]:
    """Give the seconds of each step but the first."""
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


def bare(name: str, samples: list[Sample], batch: int, precision: Precision, machine: Machine) -> list[float]:
    """Give the seconds of each step but the first of a loop that does no more than it must."""
    loaded = load_backbone(name, "none", seed=SEED, fit="squash", input_size_px=None)
    network = network_of(loaded)
    place(network, machine)
    adam = optimiser(network.parameters(), FitSettings(lr=1e-4))
    side = loaded.preprocessing.input_size_px
    rng = np.random.default_rng(SEED)
    views = stack([rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(batch)], machine.device)
    inputs = to_input(views, loaded.preprocessing, machine.device)
    labels = (torch.arange(batch) % 2).to(machine.device)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    hold_normalisation(network.backbone)
    times = [time.perf_counter()]
    for _ in range(len(samples) // batch):
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(inputs)
        loss = loss_of(logits.float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        loss.item()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)][1:]


def main() -> None:
    """Print a row for each backbone and precision."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--backbones", default="efficientnet-lite0,seresnext50")
    asked.add_argument("--precisions", default="fp32,bf16")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--steps", type=int, default=4, help="steps a round, the first of which is not counted")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--device", default="cpu")
    flags = asked.parse_args()
    machine = choose_machine(flags.device, None)
    print(f"{machine.description}; batch {flags.batch}, {flags.rounds} rounds of {flags.steps - 1} steps, medians\n")
    print("| backbone | precision | leuk, s a step | bare loop, s a step | ratio |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        samples = noise(Path(folder), flags.batch * flags.steps, 256)
        for name in flags.backbones.split(","):
            for precision in flags.precisions.split(","):
                told: dict[str, list[float]] = {"ours": [], "bare": []}
                for _ in range(flags.rounds):
                    told["ours"] += ours(name, samples, flags.batch, precision, machine)
                    told["bare"] += bare(name, samples, flags.batch, precision, machine)
                mine, least = (statistics.median(told[which]) for which in ("ours", "bare"))
                print(
                    f"| {name} | {precision}, channels last | {mine:.2f} | {least:.2f} | {mine / least:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
