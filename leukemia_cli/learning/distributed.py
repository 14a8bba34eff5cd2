"""Several processes train as one: who leads, how they add up, how they leave together.

Requirements met here:
- The leader (rank 0) alone writes and speaks. The others carry out its orders, which lie in torchrun's own store: waiting for
  one has no end and no time limit, and a signal is heard meanwhile.
- A sum is the same on every process, bit for bit, so that all decide alike.
- An error on any process ends all of them, and the leader tells it. One that dies ends the others in bounded time.
- What travels is safetensors and JSON: nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from leukemia_cli.errors import DataError, LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.learning.checkpoints import packed, unpacked
from leukemia_cli.learning.machine import Machine, Seat
from leukemia_cli.learning.network import prefixed

JOIN_S = 900.0
"""Longest wait for all processes to be there."""
STEP_S = 1800.0
"""Longest wait for the others within a step: the leader may write a checkpoint, or read a slow disk, meanwhile."""
GIVE_UP_S = 20.0
"""Longest wait for the others after SIGTERM; torchrun kills for good 30 s after it."""
LEAVE_S = 600.0
"""Longest wait of a process that is done for the leader, which may still be writing a checkpoint."""
POLL_S = 0.05
BUCKET = 2**24
"""Values of one sum over processes: 64 MB in float32."""
CHUNK_BYTES = 2**28

_KINDS = (UsageError, DataError, WorkspaceError, MachineError)


class Store(Protocol):
    """What torchrun's store can do: keep texts and bytes by key, seen by every process."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Keep a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Give a value, when it is there."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Tell whether values are there."""
        ...


class Dismissed(SystemExit):
    """Ends a process without a word, with the leader's exit code: the leader tells why."""


class Team:
    """The processes of one training; alone, each method gives back what it was given."""

    def __init__(self, seat: Seat | None = None, store: Store | None = None) -> None:
        self.seat = seat
        self.hint = "Start it again"
        """What to do after a process has died."""
        self._store = store
        self._orders = 0
        self._waiting_since: float | None = None

    @property
    def size(self) -> int:
        """Count the processes."""
        return 1 if self.seat is None else self.seat.size

    @property
    def rank(self) -> int:
        """Give the place of this process, from 0."""
        return 0 if self.seat is None else self.seat.rank

    @property
    def leads(self) -> bool:
        """Tell whether this process writes and speaks."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Give this process's part of `count` things in a row; parts differ by one thing at most, and may be empty."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    # ------------------------------------------------------------------------------------------------- together

    def total(self, values: Sequence[float], fault: Exception | None = None) -> list[float]:
        """Add values up over the processes, in float64; a `fault` on any of them ends them all."""
        if self.size == 1:
            if fault is not None:
                raise fault
            return list(values)
        if fault is not None:
            self._tell(fault)
        summed = torch.tensor([float(fault is not None), *values], dtype=torch.float64)
        self.add_up([summed])
        if summed[0] > 0:
            self._end_with(fault)
        return [float(value) for value in summed[1:]]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put in place of each tensor its sum over the processes; all tensors are of one type and device."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._waiting():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def check_alike(self, values: Tensor) -> None:
        """Raise MachineError where numbers (n,) that must be the same on every process are not.

        Processes on unlike devices may part in the last digits; what matters to a decision is added up anyway.
        """
        if self.size == 1:
            return
        both = torch.cat([values, -values]).double().cpu()
        with self._waiting():
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
        largest, least = both[: len(values)], -both[len(values) :]
        with self.told_by_leader():
            if not torch.allclose(largest, least, rtol=1e-4, atol=1e-6):
                raise MachineError(
                    "the processes of this training no longer hold the same weights",
                    "Check that they run one version of torch on one kind of device; " + self.hint,
                )

    def share(self, facts: Mapping[str, Any] | None, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """Give the leader's facts and tensors to every process; those of the others are left aside."""
        if self.size == 1:
            return facts, tensors
        content = bytearray(packed({"facts": facts}, prefixed("", tensors)) if self.leads else b"")
        length = int(self.total([float(len(content))])[0])
        flat = torch.frombuffer(content, dtype=torch.uint8) if self.leads else torch.empty(length, dtype=torch.uint8)
        for part in torch.split(flat, CHUNK_BYTES):
            with self._waiting():
                dist.broadcast(part, src=0)
        if self.leads:
            return facts, tensors
        stored, received = unpacked(flat.numpy().tobytes())
        return stored["facts"], received

    @contextlib.contextmanager
    def told_by_leader(self) -> Iterator[None]:
        """Let the leader alone tell an error that every process meets alike."""
        try:
            yield
        except LeukError as error:
            if self.leads:
                raise
            raise Dismissed(error.exit_code) from error

    # --------------------------------------------------------------------------------------------------- orders

    def order(self, facts: Mapping[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Tell the others what to do next; the leader does its own part itself."""
        if self._store is not None:
            with self._reaching():
                self._store.set(f"order-{self._orders}", packed(facts, tensors or {}))
            self._orders += 1

    def next_order(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Wait for the leader's next order; raises Dismissed where the leader has ended instead."""
        key = f"order-{self._orders}"
        while True:
            self._look_for_end()
            if self._has(key):
                self._orders += 1
                return unpacked(self._read(key))
            time.sleep(POLL_S)

    def done(self) -> None:
        """Tell the leader that the last order is carried out."""
        if self._store is not None:
            with self._reaching():
                self._store.set(f"done-{self._orders - 1}-{self.rank}", "")

    def wait_until_done(self) -> None:
        """Wait until every other process has carried out the last order; raises the error of one that could not."""
        for rank in range(1, self.size):
            while not self._has(f"done-{self._orders - 1}-{rank}"):
                told = self._told()
                if told is not None:
                    raise told
                time.sleep(POLL_S)

    def dismissed_by(self, error: Exception) -> NoReturn:
        """Report an error in an order to the leader, who tells it, and end; one that is a bug is told here as well."""
        self._tell(error)
        self._end_with(error)

    # --------------------------------------------------------------------------------------------------- ending

    def _tell(self, error: BaseException) -> None:
        kind = next((k.__name__ for k in _KINDS if isinstance(error, k)), "")
        facts = {"kind": kind, "problem": getattr(error, "problem", f"{type(error).__name__}: {error}")}
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set(f"fault-{self.rank}", json.dumps({**facts, "hint": getattr(error, "hint", "")}))

    def _told(self) -> LeukError | None:
        """Give the error that another process has reported, if one has."""
        for rank in range(self.size):
            if rank != self.rank and self._has(f"fault-{rank}"):
                told = json.loads(self._read(f"fault-{rank}"))
                kinds: dict[str, type[LeukError]] = {kind.__name__: kind for kind in _KINDS}
                if told["kind"] in kinds:
                    return kinds[told["kind"]](told["problem"], told["hint"])
                return LeukError(f"process {rank} of {self.size}: {told['problem']}", "Its own message says more")
        return None

    def _end_with(self, own: Exception | None) -> NoReturn:
        """End this process after an error on any of them that all know of."""
        if self.leads:
            raise own or self._told() or MachineError("another process of this training has failed", self.hint)
        if own is not None and not isinstance(own, LeukError):
            raise own
        raise Dismissed(1)

    def _look_for_end(self) -> None:
        if self._has("over"):
            raise Dismissed(int(self._read("over")))

    def _has(self, key: str) -> bool:
        if self._store is None:
            return False
        with self._reaching():
            return self._store.check([key])

    def _read(self, key: str) -> bytes:
        if self._store is None:
            raise KeyError(key)
        with self._reaching():
            return self._store.get(key)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the store is gone, and with it whoever kept it
            raise MachineError("the other processes of this training cannot be reached", self.hint) from error

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Mark that this process waits for the others; where one has died, say so or what it died of."""
        self._waiting_since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if not self.leads:
                self._look_for_end()
            told = self._told() if self.leads else None
            if told is not None:
                raise told from error
            raise MachineError(
                f"another of the {self.size} processes of this training has died or does not answer", self.hint
            ) from error
        finally:
            self._waiting_since = None

    def leave(self, error: BaseException) -> None:
        """Let the others know that this process ends by `error`; one that is dismissed waits until the leader has ended."""
        if self._store is None:
            return
        with contextlib.suppress(RuntimeError, MachineError):
            if self.leads:
                self._store.set("over", str(getattr(error, "exit_code", None) or 1))
            elif not isinstance(error, Dismissed):
                self._tell(error)
            else:
                # At the sight of an exit torchrun stops the others: the leader shall have written and spoken by then.
                _ignore(signal.SIGTERM)
                until = time.monotonic() + LEAVE_S
                while not self._has("over") and time.monotonic() < until:
                    time.sleep(POLL_S)
                if self._has("over"):
                    error.code = int(self._read("over"))
                time.sleep(10 * POLL_S)

    def watch(self, signals: socket.socket, ended: threading.Event) -> None:
        """After SIGTERM, end a process that waits in vain: inside a sum Python hears no signal."""
        while signal.SIGTERM not in (heard := signals.recv(64)):
            if not heard:
                return
        told = time.monotonic()
        while not ended.wait(POLL_S):
            since = self._waiting_since
            if since is not None and time.monotonic() - max(since, told) > GIVE_UP_S:
                lines = f"error: stopped by SIGTERM, while other processes did not answer\nhint: {self.hint}\n"
                os.write(2, lines.encode(errors="replace"))
                os._exit(143)


ALONE = Team()
_MEETINGS = itertools.count()
"""Every process meets the others as often, and the store is one: each meeting has its own keys."""


@contextlib.contextmanager
def joined(seat: Seat | None, machine: Machine) -> Iterator[Team]:
    """Meet the other processes that torchrun started; without a seat, be alone. Raises MachineError where they do not come."""
    if seat is None:
        yield Team()
        return
    try:
        torchruns, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_S)))
        store = dist.PrefixStore(f"leuk-{next(_MEETINGS)}", torchruns)  # type: ignore[attr-defined]  # not listed by torch
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if machine.device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=STEP_S),
        )
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"the {seat.size} processes of this training do not find one another: {' '.join(str(error).split())[:200]}",
            "Check that --rdzv-endpoint is a host and port that every machine reaches",
        ) from error
    team = Team(seat, store)  # type: ignore[arg-type]  # it takes bytes, whatever torch says
    try:
        with _watched(team):
            yield team
    except BaseException as error:
        team.leave(error)
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _watched(team: Team) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=team.watch, args=(reading, ended), daemon=True, name="leuk-watch")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        writing.close()
        thread.join()
        reading.close()


def _ignore(number: int) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.SIG_IGN)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gather tensors, in order, into lists of about `BUCKET` values."""
    bucket: list[Tensor] = []
    count = 0
    for tensor in tensors:
        bucket.append(tensor)
        count += tensor.numel()
        if count >= BUCKET:
            yield bucket
            bucket, count = [], 0
    if bucket:
        yield bucket
