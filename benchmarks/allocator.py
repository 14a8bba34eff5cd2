"""Measure what keeping freed memory gains on a CPU: the same network and images with glibc's defaults and with ours.

Usage: python benchmarks/allocator.py   (Linux; a few minutes)
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time

ROUNDS = 3
CASES = (
    ("tf_efficientnet_lite0", "forward", 16),
    ("seresnext50_32x4d", "forward", 16),
    ("seresnext50_32x4d", "step", 8),
)


def child(keep: bool, name: str, kind: str, batch_size: int) -> float:
    """Give the seconds a batch takes, the median of several after one to warm up."""
    import timm
    import torch

    from leukemia_cli.learning import machine

    if not keep:
        machine._keep_memory = lambda: None
    machine.choose_machine("cpu", None)
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=2).to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        if kind == "forward":
            network.eval()
            with torch.inference_mode():
                network(images)
        else:
            network.train()
            network(images).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        taken.append(time.perf_counter() - started)
    return sorted(taken[1:])[2]


def main() -> None:
    """Alternate both settings in processes of their own and print the ratios."""
    if len(sys.argv) > 1:
        keep, name, kind, size = sys.argv[1:]
        print(json.dumps(child(keep == "keep", name, kind, int(size))))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}")
    for name, kind, size in CASES:
        found: dict[str, list[float]] = {"keep": [], "plain": []}
        for _ in range(ROUNDS):
            for setting, seconds in found.items():
                line = [sys.executable, __file__, setting, name, kind, str(size)]
                done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
                seconds.append(json.loads(done.stdout))
        keep, plain = sorted(found["keep"])[ROUNDS // 2], sorted(found["plain"])[ROUNDS // 2]
        print(
            f"{name} {kind}, batch {size}: {plain:.3f} s plain, {keep:.3f} s kept, ratio {plain / keep:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
