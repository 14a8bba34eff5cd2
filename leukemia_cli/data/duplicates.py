"""Which images are copies of one another though their pixels differ, and which photographs were taken in one go.

Requirements met here:
- A pair is called only where the two thumbnails, laid over one another, agree in what is finer than cells are apart: equal
  stain, equal background or a cell in the middle of both are not enough.
- What a pair is called depends on its two images alone; other images only decide which pairs are looked at.
- Work grows about as the number of images, not its square; the same images in the same order give the same pairs.
- Of many images the fingerprints stay on disk, and so does what is compared, in buckets of which one is held.

Letters: N images, K blobs of an image, E blobs of images in their upright frames, M matches "this blob is alike to that one",
H hypotheses "this part is that part".
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Matches = NDArray[np.uint64]

LEAST_LIKENESS = 0.8
SURE_LIKENESS = 0.9
WHOLE_OVERLAP = 0.94
"""Of either image's area; less is a crop or an overlap."""
LEAST_OVERLAP = 0.3
"""Of the smaller image's area: what two pictures must share."""

_TABLES, _WINDOW = 8, 6
_KEY_BITS, _PREFIX_BITS = 48, 16
_SEED = 20
_LEAST_ALIKE = 0.95
_LEAST_ALIKE_WHOLE = 0.85
_NEAR_TIE = 0.12
_CHUNK = 1 << 17
_IMAGES_AT_ONCE = 1024
_BUCKET, _MOST_FILES = 1 << 19, 256
_MATCHES_EACH = 8  # that tables bring together, of each entry, at most in any set looked at
_ROW_BITS, _BLOB_BITS, _TURN_BITS = 22, 7, 3
MOST_IMAGES = 1 << _ROW_BITS
_LEAST_WITNESSES = 2
_MISS, _MISS_GROWTH, _ZOOM_SPREAD = 0.02, 0.15, 0.3
_MOST_MATCHES = 48
_MOST_ZOOM = 2.0
_GRID = 24
_FINE_CELLS, _STRENGTH_CELLS, _LEAST_STRENGTH = 1.5, 3.0, 0.2
_FLAT_STRENGTH, _MOST_FLAT, _FLAT_STRICTNESS = 0.1, 0.25, 7.0
_CLIPPED_STEP, _MUCH_CLIPPED = 8, 0.25
_PORTION = 4096
_HOPEFUL_LIKENESS, _FINE_LIKENESS = 0.35, 0.92
_STEPS = (0.03, 0.02, 0.01)
_MOVES = ((0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1), (-1, 0, 0), (1, 0, 0))


class Prints(Protocol):
    """Fingerprints in rows: an array of `vision.fingerprints.RECORD`, or a file that gives such arrays.

    Of each row `thumbnail` (32, 32), `aspect`, `count` (K), `places` (40, 3), `patches` (40, 27) and `dark` (40,) are read.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two rows, `first` < `second`, that show the same thing: the whole of it, or only part of it (a crop, or an overlap).

    `likeness` is the correlation of their fine detail where they overlap, at most 1; where much of either is flat ground,
    one less seven times what it lacks to 1.
    """

    first: int
    second: int
    kind: Literal["whole", "crop"]
    likeness: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entries:
    """Patches turned upright, a patch that is nearly symmetrical in more than one way: all arrays (E, …).

    `turn` is which of the eight turns was applied, `image` and `blob` say which patch it was applied to.
    """

    vectors: NDArray[Any]
    turn: NDArray[np.uint8]
    image: NDArray[np.uint32]
    blob: NDArray[np.uint8]
    dark: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Hypotheses:
    """Places (x, y, 1) in the unit square of image `first` (H,) lie at `maps` (H, 2, 3) in that of image `second` (H,)."""

    first: Rows
    second: Rows
    maps: Floats

    def at(self, chosen: NDArray[Any]) -> _Hypotheses:
        return _Hypotheses(first=self.first[chosen], second=self.second[chosen], maps=self.maps[chosen])

    def moved(self, maps: Floats) -> _Hypotheses:
        return _Hypotheses(first=self.first, second=self.second, maps=maps)


# ---------------------------------------------------------------------------------- pairs


def find_near(
    prints: Prints, *, own: int = 0, skip: Collection[int] = (), scratch: Path | None = None
) -> list[NearPair]:
    """Give the pairs of images that show the same, whole or in part, ordered by rows; each pair at most once.

    Turned by quarters, mirrored, resized, recoloured or cropped to half the area, a copy is still found; turned by other
    angles it may not be. Candidates have nearly equal patches (random hyperplanes in sorted tables), blobs of a crop must
    besides agree on one map between the images; then thumbnails are compared.
    With `own`, only pairs of one of the first `own` rows and one of the others are looked for; rows in `skip` are in no pair.
    What is too much to hold goes to files in `scratch` (or the system's folder for such), which are gone at the end.
    Raises ValueError for more than `MOST_IMAGES` images.
    Source: hyperplanes: Charikar 2002, STOC, 380; canonical turns, votes and limits are our choice.
    """
    count = len(prints)
    if count > MOST_IMAGES:
        raise ValueError(f"{count:,} images are more than {MOST_IMAGES:,}")
    if count < 2:
        return []
    found: dict[tuple[int, int], NearPair] = {}
    used = np.ones(count, dtype=bool)
    used[list(skip)] = False
    aim = _Aim(count=count, own=own, seen=np.zeros(0, dtype=np.uint64), scratch=scratch)
    with ExitStack() as stack:
        for matches in _matches(stack, lambda: _whole_entries(prints, used), 8 * count, _LEAST_ALIKE_WHOLE, aim):
            _judge(prints, _whole_hypotheses(matches), found, refine=False)
    seen = np.array(sorted((first << _ROW_BITS) + second for first, second in found), dtype=np.uint64)
    total = 3 * sum(
        int(prints[start : start + _IMAGES_AT_ONCE]["count"].sum()) for start in range(0, count, _IMAGES_AT_ONCE)
    )
    aim = _Aim(count=count, own=own, seen=seen, scratch=scratch)
    with ExitStack() as stack:
        for matches in _matches(stack, lambda: _blob_entries(prints, used), total + 1, _LEAST_ALIKE, aim):
            _judge(prints, _part_hypotheses(matches, prints), found, refine=True)
    return [found[key] for key in sorted(found)]


def clusters(pairs: Sequence[NearPair], count: int) -> list[tuple[int, ...]]:
    """Give the sets of two or more of `count` rows that pairs join, ordered by their first row.

    What stops chains: pairs join from the most alike down, and a pair that is not sure (likeness below `SURE_LIKENESS`)
    does not join two sets that both hold three rows or more, unless a second pair does as well.
    """
    parent = list(range(count))
    members = [[row] for row in range(count)]
    waiting: dict[tuple[int, int], int] = defaultdict(int)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pair in sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second)):
        one, other = sorted((root(pair.first), root(pair.second)))
        if one == other:
            continue
        waiting[one, other] += 1
        weak = pair.likeness < SURE_LIKENESS and min(len(members[one]), len(members[other])) >= 3
        if weak and waiting[one, other] < 2:
            continue
        parent[other] = one
        members[one] += members[other]
    return [tuple(sorted(members[row])) for row in range(count) if parent[row] == row and len(members[row]) > 1]


def capture_bursts(times: Sequence[str | None], cameras: Sequence[str], gap_s: float = 120) -> list[tuple[int, ...]]:
    """Give the sets of two or more photographs that one camera took, each within `gap_s` of the one before.

    `times` are as EXIF writes them, 'YYYY:MM:DD HH:MM:SS'; a photograph without a time, or with one that is no time, is in
    no burst. Rows of a burst are in the order of time; bursts in the order of their first row. Two minutes are our choice:
    one smear is seldom changed for the next, focused and photographed faster. Raises ValueError for unequal lengths.
    """
    taken: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for row, (time, camera) in enumerate(zip(times, cameras, strict=True)):
        moment = _moment(time)
        if moment is not None:
            taken[camera].append((moment, row))
    bursts: list[list[int]] = []
    for shots in taken.values():
        before: datetime | None = None
        for moment, row in sorted(shots):
            if before is None or (moment - before).total_seconds() > gap_s:
                bursts.append([])
            bursts[-1].append(row)
            before = moment
    return sorted((tuple(burst) for burst in bursts if len(burst) > 1), key=min)


def _moment(time: str | None) -> datetime | None:
    try:
        return datetime.strptime(time, "%Y:%m:%d %H:%M:%S") if time else None
    except ValueError:
        return None


# ---------------------------------------------------------------------------------- turns


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


def _upright(
    patches: NDArray[Any], image: NDArray[np.uint32], blob: NDArray[np.uint8], dark: NDArray[np.bool_]
) -> _Entries:
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
    return _Entries(
        vectors=np.concatenate(turned), turn=np.concatenate(turns), image=image[row], blob=blob[row], dark=dark[row]
    )


def _between(turn_of_first: NDArray[Any], turn_of_second: NDArray[Any]) -> Floats:
    """Give the maps (H, 2, 2) from the first to the second image's axes of patches that are equal once both are upright."""
    _, _, maps = _turns()
    linked: Floats = maps[turn_of_second].transpose(0, 2, 1) @ maps[turn_of_first]
    return linked


def _turn_number(linear: Floats) -> Rows:
    """Number maps (H, 2, 2) that are turns 0 to 7: the signs of their rows, and whether they swap the axes."""
    numbers: Rows = (linear[:, 0].sum(1) < 0) + 2 * (linear[:, 1].sum(1) < 0) + 4 * (linear[:, 0, 0] == 0)
    return numbers


# ---------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Aim:
    """Which pairs of `count` images are looked for: none in `seen` (numbered, sorted), with `own` none within either side."""

    count: int
    own: int
    seen: Matches
    scratch: Path | None

    def wanted(self, first: Matches, second: Matches) -> NDArray[np.bool_]:
        """Mark the pairs (M,), `first` < `second`, that are looked for."""
        wanted: NDArray[np.bool_] = first != second
        if self.own:
            wanted &= (first < self.own) & (second >= self.own)
        if self.seen.size:
            pair = (first << _ROW_BITS) + second
            wanted &= self.seen[np.minimum(np.searchsorted(self.seen, pair), self.seen.size - 1)] != pair
        return wanted


class _Buckets:
    """Rows of one type dealt to numbered buckets and taken out again, one at a time; several lie in files, one in memory."""

    def __init__(self, stack: ExitStack, scratch: Path | None, dtype: Any, count: int) -> None:
        self.dtype, self.count = np.dtype(dtype), count
        self._held: list[NDArray[Any]] = []
        self._files: list[IO[bytes]] = []
        if count > 1:
            self._files = [stack.enter_context(tempfile.TemporaryFile(dir=scratch)) for _ in range(count)]  # noqa: SIM115  # the stack closes them

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


def _matches(
    stack: ExitStack, portions: Callable[[], Iterator[_Entries]], total: int, least: float, aim: _Aim
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
                first = match >> np.uint64(_ROW_BITS + 2 * (_BLOB_BITS + _TURN_BITS))
                brought.add(match, first * np.uint64(brought.count) // np.uint64(aim.count))
    for bucket in range(brought.count):
        matches = np.sort(brought.take(bucket))
        matches = matches[np.r_[True, matches[1:] != matches[:-1]]] if matches.size else matches
        pair = matches >> np.uint64(2 * (_BLOB_BITS + _TURN_BITS))
        start = 0
        while start < len(matches):
            stop = int(np.searchsorted(pair, pair[min(start + _CHUNK, len(pair) - 1)], side="right"))
            yield matches[start:stop]
            start = stop


def _keyed(entries: _Entries, planes: Floats) -> NDArray[np.void]:
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


def _alike(keyed: NDArray[np.void], least: float, aim: _Aim) -> Iterator[Matches]:
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


def _parts(matches: Matches) -> tuple[Rows, Rows, Rows, Rows, Floats]:
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


def _whole_entries(prints: Prints, used: NDArray[np.bool_]) -> Iterator[_Entries]:
    """Give the coarse cosine coefficients of the thumbnails of images that are `used` (N,), upright."""
    for start in range(0, len(prints), _IMAGES_AT_ONCE):
        kept = np.flatnonzero(used[start : start + _IMAGES_AT_ONCE])
        thumbnails = prints[start : start + _IMAGES_AT_ONCE]["thumbnail"][kept].astype(np.float32)
        image = (kept + start).astype(np.uint32)
        nothing = np.zeros(len(image), dtype=np.uint8)
        yield _upright(_coarse(thumbnails), image, nothing, nothing.astype(bool))


def _blob_entries(prints: Prints, used: NDArray[np.bool_]) -> Iterator[_Entries]:
    """Give the patches of blobs of images that are `used` (N,), upright."""
    for start in range(0, len(prints), _IMAGES_AT_ONCE):
        part = prints[start : start + _IMAGES_AT_ONCE]
        count = part["count"] * used[start : start + len(part)]
        row, blob = np.nonzero(np.arange(part["patches"].shape[1]) < count[:, None])
        image = (row + start).astype(np.uint32)
        yield _upright(part["patches"][row, blob], image, blob.astype(np.uint8), part["dark"][row, blob])


def _places(prints: Prints, first: Rows, of_first: Rows, second: Rows, of_second: Rows) -> tuple[Floats, ...]:
    """Give the places (M, 3) of blobs of the first and of the second images, and the roots (M,) of the images' aspects."""
    rows, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    places = np.empty((len(rows), *prints[:1]["places"].shape[1:]), dtype=np.float16)
    wide = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        part = prints[rows[start : start + _IMAGES_AT_ONCE]]
        places[start : start + len(part)], wide[start : start + len(part)] = part["places"], np.sqrt(part["aspect"])
    one, other = np.split(at, 2)
    return places[one, of_first].astype(np.float32), places[other, of_second].astype(np.float32), wide[one], wide[other]


def _whole_hypotheses(matches: Matches) -> _Hypotheses:
    """Take matches of thumbnails for hypotheses: one whole image is a turn of the other."""
    first, second, _, _, linear = _parts(matches)
    _, once = np.unique((first * MOST_IMAGES + second) * 8 + _turn_number(linear), return_index=True)
    first, second, linear = first[once], second[once], linear[once]
    # A turn leaves the centre of the unit square where it is.
    shift = 0.5 - linear.sum(axis=2) * 0.5
    return _Hypotheses(first=first, second=second, maps=np.concatenate([linear, shift[:, :, None]], axis=2))


def _coarse(thumbnails: Floats) -> Floats:
    """Give cosine coefficients (N, 27) of thumbnails, in the order of patches and weighted as they are."""
    side = thumbnails.shape[1]
    waves = np.cos(np.pi * (np.arange(side)[None, :] + 0.5) * np.arange(7)[:, None] / side).astype(np.float32)
    v, u = np.array([(v, u) for v in range(7) for u in range(7) if 1 <= u + v <= 6]).T
    weighted: Floats = (waves @ thumbnails @ waves.T)[:, v, u] * (u + v).astype(np.float32)
    return weighted


def _part_hypotheses(matches: Matches, prints: Prints) -> _Hypotheses:
    """Pair images several of whose blobs are alike and agree on one turn, zoom and shift between the two."""
    # A pair of images that is brought together by a single match is most of them, and nothing comes of it.
    pair = matches >> np.uint64(2 * (_BLOB_BITS + _TURN_BITS))
    same = pair[1:] == pair[:-1]
    first, second, of_first, of_second, linear = _parts(matches[np.r_[same, False] | np.r_[False, same]])
    group = (first * MOST_IMAGES + second) * 8 + _turn_number(linear)
    order = np.argsort(group, kind="stable")
    group, first, second, linear = group[order], first[order], second[order], linear[order]
    from_places, to_places, from_wide, to_wide = _places(prints, first, of_first[order], second, of_second[order])
    zoom = to_places[:, 2] / from_places[:, 2]
    fits = np.flatnonzero((zoom <= _MOST_ZOOM) & (zoom >= 1 / _MOST_ZOOM))
    chosen, scale, shift = _consensus(group[fits], from_places[fits], to_places[fits], linear[fits])
    chosen = fits[chosen]
    from_unit = np.stack([from_wide[chosen], 1 / from_wide[chosen]], axis=1)
    to_unit = np.stack([to_wide[chosen], 1 / to_wide[chosen]], axis=1)
    maps = np.empty((len(chosen), 2, 3), dtype=np.float32)
    maps[:, :, :2] = scale[:, None, None] * linear[chosen] * from_unit[:, None, :] / to_unit[:, :, None]
    maps[:, :, 2] = shift / to_unit
    return _Hypotheses(first=first[chosen], second=second[chosen], maps=maps)


def _consensus(
    group: Rows, from_places: Floats, to_places: Floats, linear: Floats
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Give of each group (sorted) that has enough support one member's index, and the zoom and shift its supporters fit.

    A match supports another where its place, mapped with the other's zoom and shift, comes out right within the error that
    the other's zoom may have; two matches of one blob count once.
    """
    total = len(group)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if total else np.zeros(0, dtype=np.intp)
    lengths = np.minimum(np.diff(np.r_[starts, total]), _MOST_MATCHES)
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    turned = np.einsum("hij,hj->hi", linear, from_places[:, :2])
    logarithm = np.log(to_places[:, 2] / from_places[:, 2])
    chosen, scales, shifts = [np.zeros(0, np.intp)], [np.zeros(0, np.float32)], [np.zeros((0, 2), np.float32)]
    # Groups in portions whose squares are few enough to be held at once.
    portion = np.cumsum(lengths**2) // _CHUNK
    for number in np.unique(portion):
        begin, length = starts[portion == number], lengths[portion == number]
        member = np.repeat(begin - np.r_[0, np.cumsum(length)[:-1]], length) + np.arange(length.sum())
        own, many = np.repeat(begin, length), np.repeat(length, length)
        i = np.repeat(member, many)
        j = np.repeat(own - np.r_[0, np.cumsum(many)[:-1]], many) + np.arange(many.sum())
        away = turned[j] - turned[i]
        distance = np.hypot(away[:, 0], away[:, 1])
        miss = to_places[j, :2] - to_places[i, :2] - np.exp(logarithm[i])[:, None] * away
        agree = (np.hypot(miss[:, 0], miss[:, 1]) < _MISS + _MISS_GROWTH * distance) & (
            np.abs(logarithm[j] - logarithm[i]) < _ZOOM_SPREAD
        )
        i, j, distance = i[agree], j[agree], distance[agree]
        offset = int(begin[0])
        # One blob matched twice is no second witness.
        support = np.bincount((i - offset)[distance > _MISS], minlength=int(member[-1]) - offset + 1)[member - offset]
        order = np.lexsort((member, -support, own))
        best = member[order[np.r_[True, np.diff(own[order]) > 0]]]
        best = best[support[np.searchsorted(member, best)] >= _LEAST_WITNESSES - 1]
        led = np.isin(i, best)
        i, j = np.searchsorted(best, i[led]), j[led]
        count = np.bincount(i, minlength=len(best))[:, None]
        source, target = (
            np.stack([np.bincount(i, weights=xy[j, axis], minlength=len(best)) for axis in (0, 1)], axis=1) / count
            for xy in (turned, to_places)
        )
        around = turned[j] - source[i]
        spread = np.bincount(i, weights=(around**2).sum(1), minlength=len(best))
        scale = np.bincount(i, weights=(around * (to_places[j, :2] - target[i])).sum(1), minlength=len(best)) / spread
        fits = (scale <= _MOST_ZOOM) & (scale >= 1 / _MOST_ZOOM)
        chosen.append(best[fits])
        scales.append(scale[fits].astype(np.float32))
        shifts.append((target - scale[:, None] * source)[fits].astype(np.float32))
    return np.concatenate(chosen), np.concatenate(scales), np.concatenate(shifts)


# ---------------------------------------------------------------------------------- comparing thumbnails


def _judge(prints: Prints, hypotheses: _Hypotheses, found: dict[tuple[int, int], NearPair], *, refine: bool) -> None:
    """Add the pairs whose thumbnails agree to `found`; `refine` first moves and zooms maps that nearly fit."""
    for start in range(0, len(hypotheses.first), _PORTION):
        whole = hypotheses.at(np.arange(start, min(start + _PORTION, len(hypotheses.first))))
        rows, place = np.unique(np.concatenate([whole.first, whole.second]), return_inverse=True)
        thumbnails = prints[rows]["thumbnail"].astype(np.float32)
        first, second = np.split(place, 2)
        part = _Hypotheses(first=first, second=second, maps=whole.maps)
        likeness, overlap = _likeness(thumbnails, part)
        hopeful = np.flatnonzero((likeness >= _HOPEFUL_LIKENESS) & (likeness < _FINE_LIKENESS))
        if refine and hopeful.size:
            likeness[hopeful], overlap[hopeful] = _refined(thumbnails, part.at(hopeful))
        for index in np.flatnonzero((likeness >= LEAST_LIKENESS) & (overlap.max(axis=1) >= LEAST_OVERLAP)):
            key = int(whole.first[index]), int(whole.second[index])
            if key not in found or found[key].likeness < likeness[index]:
                found[key] = NearPair(
                    first=key[0],
                    second=key[1],
                    kind="whole" if overlap[index].min() >= WHOLE_OVERLAP else "crop",
                    likeness=min(1.0, round(float(likeness[index]), 4)),
                )


def _refined(thumbnails: Floats, hypotheses: _Hypotheses) -> tuple[Floats, Floats]:
    """Give likeness and overlap of each map moved and zoomed about its middle by small steps while that makes it more like."""
    maps = hypotheses.maps.copy()
    best, overlap = _likeness(thumbnails, hypotheses)
    for step in _STEPS:
        for zoom, right, down in _MOVES:
            tried = maps.copy()
            middle = maps[:, :, :2].sum(axis=2) * 0.5 + maps[:, :, 2]
            tried[:, :, :2] *= 1 + zoom * step
            tried[:, :, 2] = middle - tried[:, :, :2].sum(axis=2) * 0.5 + np.array([right, down], np.float32) * step
            likeness, shared = _likeness(thumbnails, hypotheses.moved(tried))
            better = likeness > best
            maps[better], best[better], overlap[better] = tried[better], likeness[better], shared[better]
    return best, overlap


def _likeness(thumbnails: Floats, hypotheses: _Hypotheses) -> tuple[Floats, Floats]:
    """Give the correlation (H,) of fine detail where thumbnails overlap, and the shares (H, 2) of either that do."""
    maps = hypotheses.maps
    # The rectangle of the first image that the second one covers.
    linear = maps[:, :, :2]
    back = np.linalg.inv(linear.astype(np.float64)).astype(np.float32)
    corners = np.stack([np.zeros(2, np.float32), np.ones(2, np.float32)])
    at = np.einsum("hij,hcj->hci", back, corners[None] - maps[:, None, :, 2])
    low, high = np.maximum(at.min(axis=1), 0), np.minimum(at.max(axis=1), 1)
    sides = np.maximum(high - low, 0)
    area = sides.prod(axis=1)
    overlap = np.stack([area, area * np.abs(np.linalg.det(linear))], axis=1)
    ticks = (np.arange(_GRID, dtype=np.float32) + 0.5) / _GRID
    x, y = low[:, :1] + sides[:, :1] * ticks, low[:, 1:] + sides[:, 1:] * ticks
    xy = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), axis=3).reshape(len(maps), -1, 2)
    of_first = _sampled(thumbnails, hypotheses.first, xy)
    of_second = _sampled(thumbnails, hypotheses.second, np.einsum("hij,hcj->hci", linear, xy) + maps[:, None, :, 2])
    of_first, of_second = _clipped_alike(of_first, of_second)
    (one, flat), (other, flat_too) = _fine(of_first), _fine(of_second)
    norms = np.sqrt((one**2).sum(axis=(1, 2)) * (other**2).sum(axis=(1, 2)))
    likeness = np.where(norms > 1e-3, (one * other).sum(axis=(1, 2)) / np.maximum(norms, 1e-3), 0)
    # One object on an even ground (a cell cut out on black) is an outline and little else: there, differences count more.
    on_flat = np.maximum(flat, flat_too) > _MOST_FLAT
    likeness = np.where(on_flat, np.maximum(0, 1 - (1 - likeness) * _FLAT_STRICTNESS), likeness)
    return np.where(overlap.max(axis=1) >= LEAST_OVERLAP, likeness, 0).astype(np.float32), overlap


def _sampled(thumbnails: Floats, image: Rows, xy: Floats) -> Floats:
    """Give thumbnails' values (H, grid, grid) at places (H, grid², 2) in the unit square, linear between pixels."""
    side = thumbnails.shape[1]
    where = np.clip(xy * side - 0.5, 0, side - 1)
    corner = np.minimum(where.astype(np.intp), side - 2)
    part = where - corner
    flat = thumbnails.reshape(-1)
    base = (image[:, None] * side + corner[..., 1]) * side + corner[..., 0]
    right, down = part[..., 0], part[..., 1]
    upper = flat[base] * (1 - right) + flat[base + 1] * right
    lower = flat[base + side] * (1 - right) + flat[base + side + 1] * right
    sampled: Floats = (upper * (1 - down) + lower * down).reshape(len(image), _GRID, _GRID)
    return sampled


def _clipped_alike(of_first: Floats, of_second: Floats) -> tuple[Floats, Floats]:
    """Clip the lightest of two grids (H, grid, grid) to as large a share as is clipped in either, where that is much.

    Brightening drives light ground to one white: what the brighter picture lost the other must not be held to show. Exchange
    of the two gives the same, and any other curve of brightness keeps the order that shares are counted in.
    """
    count = of_first[0].size if len(of_first) else 1
    flats = [grid.reshape(len(grid), count) for grid in (of_first, of_second)]
    lightest = [(flat >= flat.max(axis=1, keepdims=True) - _CLIPPED_STEP).sum(axis=1) for flat in flats]
    share = np.minimum(np.maximum(*lightest), count - 1)
    much = np.flatnonzero(share >= _MUCH_CLIPPED * count)
    if not much.size:
        return of_first, of_second
    clipped = []
    for grid, flat in zip((of_first, of_second), flats, strict=True):
        level = np.sort(flat[much], axis=1)[np.arange(much.size), count - share[much]]
        lower = grid.copy()
        lower[much] = np.minimum(grid[much], level[:, None, None])
        clipped.append(lower)
    return clipped[0], clipped[1]


def _fine(grid: Floats) -> tuple[Floats, Floats]:
    """Take from (H, grid, grid) what a blur leaves, and make it equally strong everywhere; give also what share is flat.

    A cell's place in the middle is in what the blur takes; without the second step the outline of one dark cell on an empty
    ground would outweigh all else.
    """
    blur, wide = _blur(_FINE_CELLS), _blur(_STRENGTH_CELLS)
    fine: Floats = (grid - blur @ grid @ blur.T).astype(np.float32, copy=False)
    power = fine**2
    floor = _LEAST_STRENGTH**2 * power.mean(axis=(1, 2), keepdims=True) + 1e-3
    near = _blur(1.0)
    flat = near @ power @ near.T < _FLAT_STRENGTH**2 * power.mean(axis=(1, 2), keepdims=True)
    return fine / np.sqrt(wide @ power @ wide.T + floor), flat.mean(axis=(1, 2))


@lru_cache(maxsize=3)
def _blur(cells: float) -> Floats:
    away = np.subtract.outer(np.arange(_GRID), np.arange(_GRID))
    weights = np.exp(-0.5 * (away / cells) ** 2)
    blur: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return blur
