"""What the machine grants: cores, device, precision, memory; importing this loads no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Literal

from leukemia_cli.domain import counted
from leukemia_cli.errors import Interrupted, MachineError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def granted_cores() -> int:
    """Count the cores that the scheduler granted this process, not those of the machine; at least 1."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS
        return max(1, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device to compute on, why it was taken, and how many threads feed it."""

    device: torch.device
    description: str
    workers: int


def choose_machine(device: str, workers: int | None) -> Machine:
    """Take the device asked for; `auto` takes CUDA, else MPS, else CPU. Sets torch's threads to the cores granted.

    Raises MachineError for a device that is not there, UsageError for a word that is no device.
    """
    import torch

    cores = granted_cores()
    torch.set_num_threads(cores)
    _keep_memory()
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
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
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
    return Machine(device=chosen, description=said, workers=workers or cores)


def place(module: nn.Module, machine: Machine) -> nn.Module:
    """Move a network to the device, channels last in memory; gives the same network."""
    import torch

    return module.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch types no format here


def choose_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Give the precision of training: `auto` is bf16 on a CUDA device that has it, else fp32."""
    import torch

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
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(batch_size) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "out of memory" in str(error):
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
            name = signal.Signals(self.number).name
            raise Interrupted(128 + self.number, f"stopped by {name}", hint)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Pending]:
    """Hold back the first Ctrl-C or SIGTERM until the block looks at `Pending`; a second one strikes at once.

    Outside the main thread no signal arrives, so none is held back.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if pending.number is not None:
            raise Interrupted(128 + number, f"stopped at once by {signal.Signals(number).name}", "")
        pending.number = number

    try:
        for number in watched:
            signal.signal(number, note)
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
