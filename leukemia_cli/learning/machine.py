"""What the machine grants: cores, device, precision, memory; importing this loads no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from leukemia_cli.domain import counted
from leukemia_cli.errors import Interrupted, MachineError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of this process among the `size` that torchrun started as one training; `rank` counts from 0."""

    rank: int
    size: int
    local_rank: int
    """Place among the `local_size` processes of this machine."""
    local_size: int

    @property
    def leads(self) -> bool:
        """Tell whether this process is the one that writes and speaks."""
        return self.rank == 0


def granted_seat() -> Seat | None:
    """Read the seat that torchrun gave this process; None where it gave none or started one process alone.

    Variables of a scheduler never count: a job of several tasks is several trainings unless torchrun says otherwise.
    Raises MachineError for what torchrun would not say.
    """
    told = os.environ
    if "TORCHELASTIC_RUN_ID" not in told:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, size, local_rank, local_size = (int(told[name]) for name in names)
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            raise ValueError("they do not go together")
    except (KeyError, ValueError) as error:
        said = ", ".join(f"{name}={told.get(name, '')}" for name in names)
        raise MachineError(f"torchrun's variables cannot be read: {said}", "Start it again with torchrun") from error
    return None if size == 1 else Seat(rank=rank, size=size, local_rank=local_rank, local_size=local_size)


def refuse_several(what: str) -> None:
    """Raise UsageError where torchrun started several processes: `what` works in one."""
    seat = granted_seat()
    if seat is not None:
        raise UsageError(
            f"{what} works in one process, and torchrun started {seat.size}",
            "Run it without torchrun: only leuk train shares its work among processes",
        )


_most_cores: int | None = None


def limit_cores(most: int) -> None:
    """Let this process take no more than `most` cores: a cluster counts them, and binds nobody to any."""
    global _most_cores  # noqa: PLW0603 - like an affinity, it is the process's, and set once where it begins
    _most_cores = most


def granted_cores() -> int:
    """Count the cores that the scheduler or a cluster granted this process, not those of the machine; at least 1."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        found = os.cpu_count() or 1
    return max(1, found if _most_cores is None else min(found, _most_cores))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device to compute on, why it was taken, and how many threads feed it."""

    device: torch.device
    description: str
    workers: int


def choose_machine(device: str, workers: int | None, seat: Seat | None = None) -> Machine:
    """Take the device asked for; `auto` takes CUDA, else MPS, else CPU. Sets torch's threads to the cores granted.

    At a `seat` among several processes it takes this machine's GPU of that number, and its share of the cores. Raises
    MachineError for a device that is not there, UsageError for a word that is no device, or for several processes where
    none were expected.
    """
    import torch

    if seat is None:
        refuse_several("this command")
    cores = granted_cores() if seat is None else max(1, granted_cores() // seat.local_size)
    torch.set_num_threads(cores)
    _keep_memory()
    has_mps = torch.backends.mps.is_available() and seat is None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "mps" if has_mps else "cpu"
        said = f"{device} (auto)"
    else:
        said = device
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}", "Use auto, cpu, cuda, cuda:N or mps") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {device!r} is not supported", "Use auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "cuda":
        if seat is not None:
            chosen = _own_gpu(device, chosen, count, seat)
        if (chosen.index or 0) >= count:
            raise MachineError(
                f"device {device!r} is not there: torch sees {count} CUDA devices",
                "Use --device auto or --device cpu, or check the driver with: leuk doctor",
            )
        said += f", {torch.cuda.get_device_name(chosen)}"
    elif chosen.type == "mps" and not has_mps:
        raise MachineError("device 'mps' is not there", "Use --device auto or --device cpu")
    else:
        said += f", {counted(cores, 'core')}"
    if seat is not None:
        said += f", in each of {seat.size} processes"
    return Machine(device=chosen, description=said, workers=workers or cores)


def _own_gpu(device: str, asked: torch.device, count: int, seat: Seat) -> torch.device:
    """Give this process a GPU that no other has; raises UsageError for one named for all, MachineError for too few."""
    import torch

    if asked.index is not None:
        raise UsageError(
            f"--device {device} names one GPU for {seat.size} processes", "Use --device cuda: each takes its own"
        )
    if count < seat.local_size:
        raise MachineError(
            f"{seat.local_size} processes on a machine where torch sees {counted(count, 'GPU')}",
            f"Use torchrun --nproc-per-node {count}" if count else "Use --device cpu",
        )
    own = torch.device("cuda", seat.local_rank)
    torch.cuda.set_device(own)
    return own


def place(module: nn.Module, machine: Machine) -> nn.Module:
    """Move a network to the device, channels last in memory; gives the same network."""
    import torch

    return module.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch types no format here


_CPU_FLAGS = (
    "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16",
    "amx_int8", "amx_fp16", "asimd", "sve", "bf16", "fphp", "asimdhp",
)  # fmt: skip
_BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}


def cpu_capabilities() -> str:
    """Name the instructions of this machine's processor that engines compute with: equal names, equal paths through them."""
    known: set[str] = set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                known = set(value.split())
                break
    except OSError:  # no Linux
        return f"{platform.machine()} {platform.processor()}".strip()
    return " ".join((platform.machine(), *(flag for flag in _CPU_FLAGS if flag in known)))


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Give the precision of training: `auto` is bf16 on a CUDA device that has it.

    It stays `auto`, to be settled by a trial, on a processor with instructions for bf16, and is fp32 elsewhere.
    """
    import torch

    if precision == "auto" and device.type == "cpu":
        return "auto" if _BF16_INSTRUCTIONS & set(cpu_capabilities().split()) else "fp32"
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise UsageError("fp16 training needs a CUDA device", "Use --precision auto, fp32 or bf16")
    return precision


def _keep_memory() -> None:
    """Have glibc keep freed memory: without it every layer's activations are mapped and unmapped anew (1.3–2.2 ×)."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a MachineError that names the batch size to try."""
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(batch_size) from error
    except RuntimeError as error:
        # By name: torch's own kind is a RuntimeError, and without torch there is nothing to import it from.
        named = type(error).__name__ == "OutOfMemoryError"
        if named or "can't allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(batch_size) from error
        raise


def _out_of_memory(batch_size: int) -> MachineError:
    if batch_size > 1:
        return MachineError(
            f"out of memory with batches of {batch_size} images", f"Try --batch-size {max(1, batch_size // 2)}"
        )
    return MachineError("out of memory with one image at a time", "Use a smaller --input-size or another backbone")


# ------------------------------------------------------------------------------------------------------- signals


@dataclass(slots=True)
class Pending:
    """A signal that came while work was in a state that cannot be left; `number` is None while none came."""

    number: int | None = field(default=None)

    def leave(self, hint: str) -> None:
        """Raise Interrupted if a signal came."""
        if self.number is not None:
            raise Interrupted(stop_code(self.number), f"stopped by {signal.Signals(self.number).name}", hint)


STOPS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
"""Signals that ask work to stop where it can go on later; the last is what schedulers send some time before the end."""


def stop_code(number: int) -> int:
    """Give the exit code after a signal: 130 for Ctrl-C, 143 for SIGTERM and for a scheduler's SIGUSR1."""
    return 130 if number == signal.SIGINT else 143


@contextlib.contextmanager
def deferred_signals(*, patient: bool = False) -> Iterator[Pending]:
    """Hold back the first of `STOPS` until the block looks at `Pending`; a second one strikes at once.

    A `patient` block holds back all of them: a scheduler and torchrun may each send the same one to the same process.
    Outside the main thread no signal arrives, so none is held back.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    before = {number: signal.getsignal(number) for number in STOPS}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if pending.number is None:
            pending.number = number
        elif not patient:
            raise Interrupted(stop_code(number), f"stopped at once by {signal.Signals(number).name}", "")

    try:
        for number in STOPS:
            signal.signal(number, note)
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
