"""Measure how soon `leuk --help` answers, beside Python importing Typer and Rich alone in the same minutes.

Run with: python benchmarks/startup.py [RUNS]. The target is a ratio of at most 2.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

LEUK = (sys.executable, "-m", "leukemia_cli", "--help")
PEER = (sys.executable, "-c", "import typer, rich")
TARGET = 2.0
LEAST_RUNS = 7


def measure(command: tuple[str, ...]) -> float:
    """Give the wall time of one run in seconds, from start to exit."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run both by turns, so that what else the machine does falls on both alike, and print the medians."""
    runs = max(LEAST_RUNS, int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    measure(LEUK), measure(PEER)  # byte code and disk cache are warm from here on
    leuk, peer = [], []
    for _ in range(runs):
        leuk.append(measure(LEUK))
        peer.append(measure(PEER))
    ratio = statistics.median(leuk) / statistics.median(peer)
    packages = ", ".join(f"{name} {version(name)}" for name in ("leukemia-cli", "typer", "rich") if _installed(name))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"Python {platform.python_version()}, {packages}; {platform.platform()}, {platform.machine()}, {cores} cores",
        f"{runs} alternating runs each, after one warm-up; wall time, median [least, most]",
        f"leuk --help                    {_shown(leuk)}",
        f"python -c 'import typer, rich' {_shown(peer)}",
        f"ratio of medians               {ratio:.2f} (target: at most {TARGET:g})",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:6.0f} ms [{min(seconds) * 1e3:.0f}, {max(seconds) * 1e3:.0f}]"


if __name__ == "__main__":
    main()
