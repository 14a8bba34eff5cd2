"""Which patches of images are alike, found in tables of random hyperplanes without comparing all with all.

Requirements met here:
- Work grows about as the number of patches, not its square; the same patches in the same order give the same matches.
- What is compared stays on disk, in buckets of which one is held.

Letters: E patches in their upright frames, M matches "this patch is alike to that one".
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data.likeness import Floats, Rows

Matches = NDArray[np.uint64]

_TABLES, _WINDOW = 8, 6
_KEY_BITS, _PREFIX_BITS = 48, 16
_SEED = 20
_NEAR_TIE = 0.12
_CHUNK = 1 << 17
_BUCKET, _MOST_FILES = 1 << 19, 256
_MATCHES_EACH = 8  # that tables bring together, of each entry, at most in any set looked at
_ROW_BITS, _BLOB_BITS, _TURN_BITS = 22, 7, 3
MOST_IMAGES = 1 << _ROW_BITS
PAIR_SHIFT = 2 * (_BLOB_BITS + _TURN_BITS)
"""A match without so many of its low bits numbers its pair of images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entries:
    """Patches turned upright, a patch that is nearly symmetrical in more than one way: all arrays (E, …).

    `turn` is which of the eight turns was applied, `image` and `blob` say which patch it was applied to.
    """

    vectors: NDArray[Any]
    turn: NDArray[np.uint8]
    image: NDArray[np.uint32]
    blob: NDArray[np.uint8]
    dark: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aim:
    """Which pairs of `count` images are looked for: none in `seen` (numbered, sorted), with `own` none within either side."""

    count: int
    own: int
    scratch: Path | None
    seen: Matches = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    def but(self, pairs: Iterable[tuple[int, int]]) -> Aim:
        """Give the same without these pairs."""
        seen = np.array(sorted((first << _ROW_BITS) + second for first, second in pairs), dtype=np.uint64)
        return replace(self, seen=seen)

    def wanted(self, first: Matches, second: Matches) -> NDArray[np.bool_]:
        """Mark the pairs (M,), `first` < `second`, that are looked for."""
        wanted: NDArray[np.bool_] = first != second
        if self.own:
            wanted &= (first < self.own) & (second >= self.own)
        if self.seen.size:
            pair = (first << _ROW_BITS) + second
            wanted &= self.seen[np.minimum(np.searchsorted(self.seen, pair), self.seen.size - 1)] != pair
        return wanted


def matches_of(
    stack: ExitStack, portions: Callable[[], Iterator[Entries]], total: int, least: float, aim: Aim
) -> Iterator[Matches]:
    """Give pairs of entries of different images with a cosine of at least `least`: those that tables bring together.

    In each table entries are sorted by the signs of their products with random hyperplanes; compared are those at most
    `_WINDOW` apart with equal first bits. Matches come sorted and once, all of one pair of images in one array.
    """
    random = np.random.default_rng(_SEED)
    bucket_count = min(_MOST_FILES, -(-total // _BUCKET))
    table: _Buckets | None = None
    brought = _Buckets(stack, aim.scratch, np.uint64, min(_MOST_FILES, -(-total * _MATCHES_EACH // (8 * _BUCKET))))
    for _ in range(_TABLES):
        planes = random.standard_normal((_turns()[0].shape[1], _KEY_BITS)).astype(np.float32)
        for entries in portions():
            keyed = _keyed(entries, planes)
            if table is None:
                table = _Buckets(stack, aim.scratch, keyed.dtype, bucket_count)
            # Any function of the first bits will do; multiplied, frequent ones are spread.
            number = (
                (keyed["key"] >> np.uint64(_KEY_BITS - _PREFIX_BITS)) * np.uint64(2654435761) >> np.uint64(16)
            ) % np.uint64(bucket_count)
            table.add(keyed, number)
        for bucket in range(bucket_count if table is not None else 0):
            assert table is not None
            for match in _alike(table.take(bucket), least, aim):
                first = match >> np.uint64(_ROW_BITS + PAIR_SHIFT)
                brought.add(match, first * np.uint64(brought.count) // np.uint64(aim.count))
    for bucket in range(brought.count):
        matches = np.sort(brought.take(bucket))
        matches = matches[np.r_[True, matches[1:] != matches[:-1]]] if matches.size else matches
        pair = matches >> np.uint64(PAIR_SHIFT)
        start = 0
        while start < len(matches):
            stop = int(np.searchsorted(pair, pair[min(start + _CHUNK, len(pair) - 1)], side="right"))
            yield matches[start:stop]
            start = stop


class _Buckets:
    """Rows of one type dealt to numbered buckets and taken out again, one at a time; several lie in files, one in memory."""

    def __init__(self, stack: ExitStack, scratch: Path | None, dtype: Any, count: int) -> None:
        self.dtype, self.count = np.dtype(dtype), count
        self._held: list[NDArray[Any]] = []
        self._files: list[IO[bytes]] = []
        if count > 1:
            for _ in range(count):
                file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the stack closes it
                self._files.append(stack.enter_context(file))

    def add(self, rows: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Put each row into the bucket of its number."""
        if not self._files:
            self._held.append(rows)
            return
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(self.count), side="right")
        for file, part in zip(self._files, np.split(rows[order], ends[:-1]), strict=True):
            file.write(part.tobytes())

    def take(self, number: int) -> NDArray[Any]:
        """Give the rows of a bucket, in the order they came, and empty it."""
        if not self._files:
            held = np.concatenate(self._held) if self._held else np.zeros(0, dtype=self.dtype)
            self._held = []
            return held
        file = self._files[number]
        file.seek(0)
        rows = np.frombuffer(file.read(), dtype=self.dtype)
        file.seek(0)
        file.truncate()
        return rows


def _keyed(entries: Entries, planes: Floats) -> NDArray[np.void]:
    """Put entries (E,) into rows with their key; `spot` numbers image, blob and turn."""
    keyed = np.empty(
        len(entries.turn),
        dtype=[("key", "<u8"), ("spot", "<u8"), ("vector", entries.vectors.dtype, entries.vectors.shape[1:])],
    )
    bits = np.packbits((entries.vectors.astype(np.float32, copy=False) @ planes) > 0, axis=1)
    whole = np.zeros((len(bits), 8), dtype=np.uint8)
    whole[:, 8 - bits.shape[1] :] = bits
    keyed["key"] = whole.view(">u8")[:, 0] | (entries.dark.astype(np.uint64) << np.uint64(_KEY_BITS))
    image, blob = entries.image.astype(np.uint64), entries.blob.astype(np.uint64)
    keyed["spot"] = (image << np.uint64(_BLOB_BITS) | blob) << np.uint64(_TURN_BITS) | entries.turn.astype(np.uint64)
    keyed["vector"] = entries.vectors
    return keyed


def _alike(keyed: NDArray[np.void], least: float, aim: Aim) -> Iterator[Matches]:
    """Give matches among the entries of one bucket, numbered: rows of the two images, then blobs, then turns."""
    order = np.argsort(keyed["key"], kind="stable")
    key = keyed["key"][order]
    prefix = key >> np.uint64(_KEY_BITS - _PREFIX_BITS)
    spot = keyed["spot"][order]
    vectors = keyed["vector"][order].astype(np.float32, copy=False)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    image = spot >> np.uint64(_BLOB_BITS + _TURN_BITS)
    inner = np.uint64((1 << (_BLOB_BITS + _TURN_BITS)) - 1)
    for apart in range(1, min(_WINDOW, len(key) - 1) + 1):
        close = np.flatnonzero((prefix[apart:] == prefix[:-apart]) & (image[apart:] != image[:-apart]))
        for start in range(0, len(close), _CHUNK):
            at = close[start : start + _CHUNK]
            at = at[np.einsum("ij,ij->i", vectors[at], vectors[at + apart]) >= least]
            one, other = np.minimum(spot[at], spot[at + apart]), np.maximum(spot[at], spot[at + apart])
            first, second = (each >> np.uint64(_BLOB_BITS + _TURN_BITS) for each in (one, other))
            wanted = aim.wanted(first, second)
            one, other, first, second = one[wanted], other[wanted], first[wanted], second[wanted]
            pair = first << np.uint64(_ROW_BITS) | second
            # Turns come last, so that the matches of two blobs lie side by side.
            blobs = ((one & inner) >> np.uint64(_TURN_BITS)) << np.uint64(_BLOB_BITS) | (other & inner) >> np.uint64(
                _TURN_BITS
            )
            turns = (one & np.uint64(7)) << np.uint64(_TURN_BITS) | (other & np.uint64(7))
            yield (pair << np.uint64(2 * _BLOB_BITS) | blobs) << np.uint64(2 * _TURN_BITS) | turns


def taken_apart(matches: Matches) -> tuple[Rows, Rows, Rows, Rows, Floats]:
    """Take matches (M,) apart: images, blobs, and the map (M, 2, 2) between the two images' axes."""
    numbers = matches.astype(np.uint64)

    def bits(low: int, width: int) -> Rows:
        return (numbers >> np.uint64(low) & np.uint64((1 << width) - 1)).astype(np.int64)

    t, b = _TURN_BITS, _BLOB_BITS
    linear = _between(bits(t, t), bits(0, t))
    return (
        bits(2 * (t + b) + _ROW_BITS, _ROW_BITS),
        bits(2 * (t + b), _ROW_BITS),
        bits(2 * t + b, b),
        bits(2 * t, b),
        linear,
    )


# ---------------------------------------------------------------------------------------------------------- turns


@lru_cache(maxsize=1)
def _turns() -> tuple[NDArray[np.intp], Floats, Floats]:
    """Give of the eight turns where each coefficient comes from (8, 27), its sign (8, 27), and the map of places (8, 2, 2)."""
    kept = [(v, u) for v in range(7) for u in range(7) if 1 <= u + v <= 6]
    number = {frequency: index for index, frequency in enumerate(kept)}
    origins, signs, maps = [], [], []
    for turn in range(8):
        flip_x, flip_y, swap = (-1) ** (turn & 1), (-1) ** (turn >> 1 & 1), turn >> 2
        taken = [(u, v) if swap else (v, u) for v, u in kept]
        origins.append([number[frequency] for frequency in taken])
        signs.append([float(flip_x**u * flip_y**v) for v, u in taken])
        flips = np.diag([flip_x, flip_y])
        maps.append(flips[::-1] if swap else flips)
    return np.array(origins), np.array(signs, dtype=np.float32), np.array(maps, dtype=np.float32)


def upright(
    patches: NDArray[Any], image: NDArray[np.uint32], blob: NDArray[np.uint8], dark: NDArray[np.bool_]
) -> Entries:
    """Turn patches (E, 27) so that they brighten to the right and downwards, more so to the right; near ties give several."""
    lengths = np.linalg.norm(patches.astype(np.float32), axis=1)
    tie = -_NEAR_TIE * lengths
    origins, signs, _ = _turns()
    turned, turns, rows = [], [], []
    for turn in range(8):
        right, down = (-patches[:, origins[turn, first]].astype(np.float32) * signs[turn, first] for first in (0, 6))
        fits = np.flatnonzero((right >= tie) & (down >= tie) & (right - down >= tie) & (lengths > 0))
        turned.append(patches[fits][:, origins[turn]] * signs[turn].astype(patches.dtype))
        turns.append(np.full(fits.size, turn, dtype=np.uint8))
        rows.append(fits)
    row = np.concatenate(rows)
    return Entries(
        vectors=np.concatenate(turned), turn=np.concatenate(turns), image=image[row], blob=blob[row], dark=dark[row]
    )


def _between(turn_of_first: NDArray[Any], turn_of_second: NDArray[Any]) -> Floats:
    """Give the maps (H, 2, 2) from the first to the second image's axes of patches that are equal once both are upright."""
    _, _, maps = _turns()
    linked: Floats = maps[turn_of_second].transpose(0, 2, 1) @ maps[turn_of_first]
    return linked


def turn_number(linear: Floats) -> Rows:
    """Number maps (H, 2, 2) that are turns 0 to 7: the signs of their rows, and whether they swap the axes."""
    numbers: Rows = (linear[:, 0].sum(1) < 0) + 2 * (linear[:, 1].sum(1) < 0) + 4 * (linear[:, 0, 0] == 0)
    return numbers
