"""Measure how soon `leuk` answers, beside what nobody can do without: its imports, and a model's loading.

Run with: python benchmarks/startup.py [RUNS]. `leuk --help` stands beside Python importing Typer and Rich (target: at most 2 ×),
`leuk classify` of one small image beside Python importing torch and timm and loading the same backbone (target: at most 1.3 ×).
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

LEAST_RUNS = 7
BACKBONE, TIMM_NAME = "efficientnet-lite0", "efficientnet_lite0"
LOAD = f"""
import sys, torch, timm
from safetensors.torch import load_file
network = timm.create_model({TIMM_NAME!r}, num_classes=0)
network.load_state_dict(load_file(sys.argv[1]))
"""


def leuk(*words: str) -> tuple[str, ...]:
    """Give the command line of a `leuk` command."""
    return (sys.executable, "-m", "leukemia_cli", *words)


def measure(command: tuple[str, ...]) -> float:
    """Give the wall time of one run in seconds, from start to exit."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def compare(title: str, ours: tuple[str, ...], peer: tuple[str, ...], runs: int, target: float) -> None:
    """Run both by turns, so that what else the machine does falls on both alike, and print the medians."""
    measure(ours), measure(peer)  # byte code and disk cache are warm from here on
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for line, times in zip((ours, peer), took, strict=True):
            times.append(measure(line))
    ratio = statistics.median(took[0]) / statistics.median(took[1])
    print(f"{title}: {_shown(took[0])} against {_shown(took[1])}; ratio {ratio:.2f} (target: at most {target:g})")


def ready(folder: Path) -> tuple[Path, Path, Path]:
    """Make a run, its exported file where OpenVINO is there, and its backbone's weights as the peer loads them."""
    drawn, workspace = folder / "drawn", folder / "workspace"
    place = ("--workspace", str(workspace), "--quiet")
    measure(leuk("sample-images", str(drawn), "--patients", "12", "--quiet"))
    measure(leuk("prepare", str(drawn), "--task", "five-class", *place))
    measure(leuk("train", "--backbone", BACKBONE, "--variant", "base", "--weights", "none", "--epochs", "2", *place))
    run = next((workspace / "runs").iterdir())
    exported = folder / "run.leuk"
    if _installed("openvino"):
        measure(leuk("export", run.name, "--format", "openvino", "--output", str(exported), *place))
    import timm
    from safetensors.torch import save_file

    weights = folder / "weights.safetensors"
    save_file(timm.create_model(TIMM_NAME, num_classes=0).state_dict(), weights)
    return run, exported, weights


def main() -> None:
    """Print a line for each claim."""
    runs = max(LEAST_RUNS, int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("typer", "rich", "torch", "timm", "openvino") if _installed(name)
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Python {platform.python_version()}, {packages}; {platform.platform()}, {platform.machine()}, {cores} cores")
    print(f"{runs} alternating runs each, after one warm-up; wall time, median [least, most]")
    compare(
        "leuk --help against import typer, rich", leuk("--help"), (sys.executable, "-c", "import typer, rich"), runs, 2
    )
    with tempfile.TemporaryDirectory() as place:
        run, exported, weights = ready(Path(place))
        image = next((Path(place) / "drawn").rglob("*.png"))
        peer = (sys.executable, "-c", LOAD, str(weights))
        one = leuk("classify", str(image), "--run", str(run), "--quiet", "--no-abstain", "--device", "cpu")
        compare(f"leuk classify of one image against import torch, timm and loading {BACKBONE}", one, peer, runs, 1.3)
        if exported.exists():
            one = leuk("classify", str(image), "--run", str(exported), "--quiet", "--no-abstain")
            compare("the same by its exported file", one, peer, runs, 1.3)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}]"


if __name__ == "__main__":
    main()
