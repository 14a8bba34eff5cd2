"""Which images are copies of one another though their pixels differ, and which photographs were taken in one go.

Requirements met here:
- A pair is called only where the two thumbnails, laid over one another, agree in what is finer than cells are apart: equal
  stain, equal background or a cell in the middle of both are not enough.
- What a pair is called depends on its two images alone; other images only decide which pairs are looked at.
- Work and memory grow about as the number of images, not its square; the same images in the same order give the same pairs.

Letters: N images, K blobs of an image, E blobs of all images in their upright frames, H hypotheses "this part is that part".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

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
_CHUNK = 1 << 19
_LEAST_WITNESSES = 2
_MISS, _MISS_GROWTH, _ZOOM_SPREAD = 0.02, 0.15, 0.3
_MOST_MATCHES = 48
_MOST_ZOOM = 2.0
_GRID = 24
_FINE_CELLS, _STRENGTH_CELLS, _LEAST_STRENGTH = 1.5, 3.0, 0.2
_FLAT_STRENGTH, _MOST_FLAT, _FLAT_STRICTNESS = 0.1, 0.25, 7.0
_PORTION = 4096
_HOPEFUL_LIKENESS, _FINE_LIKENESS = 0.35, 0.92
_STEPS = (0.03, 0.02, 0.01)
_MOVES = ((0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1), (-1, 0, 0), (1, 0, 0))


class Print(Protocol):
    """What is asked of an image's fingerprint; `vision.fingerprints.Fingerprint` says what each field holds."""

    @property
    def thumbnail(self) -> NDArray[np.uint8]: ...
    @property
    def aspect(self) -> float: ...
    @property
    def places(self) -> NDArray[np.float32]: ...
    @property
    def patches(self) -> NDArray[np.int8]: ...
    @property
    def dark(self) -> NDArray[np.bool_]: ...


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

    `turn` is which of the eight turns was applied, `row` the patch it was applied to.
    """

    vectors: Floats
    turn: NDArray[np.int8]
    row: Rows
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


def find_near(prints: Sequence[Print]) -> list[NearPair]:
    """Give the pairs of images that show the same, whole or in part, ordered by rows; each pair at most once.

    Turned by quarters, mirrored, resized, recoloured or cropped to half the area, a copy is still found; turned by other
    angles it may not be. Candidates have nearly equal patches (random hyperplanes in sorted tables), blobs of a crop must
    besides agree on one map between the images; then thumbnails are compared.
    Source: hyperplanes: Charikar 2002, STOC, 380; canonical turns, votes and limits are our choice.
    """
    if len(prints) < 2:
        return []
    thumbnails = np.stack([p.thumbnail for p in prints]).astype(np.float32)
    found: dict[tuple[int, int], NearPair] = {}
    whole = _whole_hypotheses(thumbnails)
    _judge(thumbnails, whole, found, refine=False)
    seen = np.array([first * len(prints) + second for first, second in found], dtype=np.int64)
    _judge(thumbnails, _part_hypotheses(prints, np.sort(seen)), found, refine=True)
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


def _upright(patches: Floats, dark: NDArray[np.bool_]) -> _Entries:
    """Turn patches (E, 27) so that they brighten to the right and downwards, more so to the right; near ties give several."""
    lengths = np.linalg.norm(patches, axis=1, keepdims=True)
    unit = patches / np.where(lengths == 0, 1, lengths)
    origins, signs, _ = _turns()
    vectors, turns, rows = [], [], []
    for turn in range(8):
        turned = unit[:, origins[turn]] * signs[turn]
        right, down = -turned[:, 0], -turned[:, 6]
        fits = (right >= -_NEAR_TIE) & (down >= -_NEAR_TIE) & (right >= down - _NEAR_TIE) & (lengths[:, 0] > 0)
        vectors.append(turned[fits])
        turns.append(np.full(int(fits.sum()), turn, dtype=np.int8))
        rows.append(np.flatnonzero(fits))
    row = np.concatenate(rows)
    return _Entries(vectors=np.concatenate(vectors), turn=np.concatenate(turns), row=row, dark=dark[row])


def _between(turn_of_first: NDArray[np.int8], turn_of_second: NDArray[np.int8]) -> Floats:
    """Give the maps (H, 2, 2) from the first to the second image's axes of patches that are equal once both are upright."""
    _, _, maps = _turns()
    linked: Floats = maps[turn_of_second].transpose(0, 2, 1) @ maps[turn_of_first]
    return linked


def _turn_number(linear: Floats) -> Rows:
    """Number maps (H, 2, 2) that are turns 0 to 7: the signs of their rows, and whether they swap the axes."""
    numbers: Rows = (linear[:, 0].sum(1) < 0) + 2 * (linear[:, 1].sum(1) < 0) + 4 * (linear[:, 0, 0] == 0)
    return numbers


# ---------------------------------------------------------------------------------- candidates


def _alike(entries: _Entries, owner: Rows, least: float, seen: Rows, count: int) -> tuple[Rows, Rows]:
    """Give pairs of entries of different images with a cosine of at least `least`: those that tables bring together.

    In each table entries are sorted by the signs of their products with random hyperplanes; compared are those at most
    `_WINDOW` apart with equal first bits. Image pairs in `seen` (first × count + second, sorted) are left out.
    """
    random = np.random.default_rng(_SEED)
    powers = np.int64(1) << np.arange(_KEY_BITS, dtype=np.int64)[::-1]
    kept: Rows = np.zeros(0, dtype=np.int64)
    total = len(entries.row)
    for _ in range(_TABLES):
        planes = random.standard_normal((entries.vectors.shape[1], _KEY_BITS)).astype(np.float32)
        keys = np.empty(total, dtype=np.int64)
        for start in range(0, total, _CHUNK):
            part = slice(start, start + _CHUNK)
            keys[part] = ((entries.vectors[part] @ planes) > 0) @ powers
        keys |= entries.dark.astype(np.int64) << _KEY_BITS
        order = np.argsort(keys, kind="stable")
        prefix = keys[order] >> (_KEY_BITS - _PREFIX_BITS)
        brought = [kept]
        for apart in range(1, min(_WINDOW, total - 1) + 1):
            close = np.flatnonzero(prefix[apart:] == prefix[:-apart])
            for start in range(0, len(close), _CHUNK):
                at = close[start : start + _CHUNK]
                one, other = order[at], order[at + apart]
                swap = owner[one] > owner[other]
                one, other = np.where(swap, other, one), np.where(swap, one, other)
                apart_images = owner[one] != owner[other]
                one, other = one[apart_images], other[apart_images]
                near = np.einsum("ij,ij->i", entries.vectors[one], entries.vectors[other]) >= least
                one, other = one[near], other[near]
                if seen.size:
                    pair = owner[one] * count + owner[other]
                    fresh = seen[np.minimum(np.searchsorted(seen, pair), seen.size - 1)] != pair
                    one, other = one[fresh], other[fresh]
                brought.append(one * total + other)
        merged = np.sort(np.concatenate(brought))
        kept = merged[np.r_[True, merged[1:] != merged[:-1]]] if merged.size else merged
    return kept // total, kept % total


def _whole_hypotheses(thumbnails: Floats) -> _Hypotheses:
    """Pair images whose thumbnails have nearly equal coarse cosine coefficients after some turn."""
    count = len(thumbnails)
    entries = _upright(_coarse(thumbnails), np.zeros(count, dtype=bool))
    one, other = _alike(entries, entries.row, _LEAST_ALIKE_WHOLE, np.zeros(0, dtype=np.int64), count)
    linear = _between(entries.turn[one], entries.turn[other])
    first, second = entries.row[one], entries.row[other]
    _, once = np.unique((first * count + second) * 8 + _turn_number(linear), return_index=True)
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


def _part_hypotheses(prints: Sequence[Print], seen: Rows) -> _Hypotheses:
    """Pair images several of whose blobs are alike and agree on one turn, zoom and shift between the two."""
    count = len(prints)
    sizes = [len(p.places) for p in prints]
    image = np.repeat(np.arange(count), sizes)
    places = np.concatenate([p.places for p in prints]).astype(np.float32)
    patches = np.concatenate([p.patches for p in prints]).astype(np.float32)
    entries = _upright(patches, np.concatenate([p.dark for p in prints]))
    owner = image[entries.row]
    one, other = _alike(entries, owner, _LEAST_ALIKE, seen, count)
    linear = _between(entries.turn[one], entries.turn[other])
    zoom = places[entries.row[other], 2] / places[entries.row[one], 2]
    fits = (zoom <= _MOST_ZOOM) & (zoom >= 1 / _MOST_ZOOM)
    one, other, linear = one[fits], other[fits], linear[fits]
    group = (owner[one] * count + owner[other]) * 8 + _turn_number(linear)
    order = np.argsort(group, kind="stable")
    one, other, linear, group = one[order], other[order], linear[order], group[order]
    from_places, to_places = places[entries.row[one]], places[entries.row[other]]
    chosen, scale, shift = _consensus(group, from_places, to_places, linear)
    first, second = owner[one[chosen]], owner[other[chosen]]
    wide = np.sqrt(np.array([p.aspect for p in prints], dtype=np.float32))
    from_unit = np.stack([wide[first], 1 / wide[first]], axis=1)
    to_unit = np.stack([wide[second], 1 / wide[second]], axis=1)
    maps = np.empty((len(chosen), 2, 3), dtype=np.float32)
    maps[:, :, :2] = scale[:, None, None] * linear[chosen] * from_unit[:, None, :] / to_unit[:, :, None]
    maps[:, :, 2] = shift / to_unit
    return _Hypotheses(first=first, second=second, maps=maps)


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


def _judge(
    thumbnails: Floats, hypotheses: _Hypotheses, found: dict[tuple[int, int], NearPair], *, refine: bool
) -> None:
    """Add the pairs whose thumbnails agree to `found`; `refine` first moves and zooms maps that nearly fit."""
    for start in range(0, len(hypotheses.first), _PORTION):
        part = hypotheses.at(np.arange(start, min(start + _PORTION, len(hypotheses.first))))
        likeness, overlap = _likeness(thumbnails, part)
        hopeful = np.flatnonzero((likeness >= _HOPEFUL_LIKENESS) & (likeness < _FINE_LIKENESS))
        if refine and hopeful.size:
            likeness[hopeful], overlap[hopeful] = _refined(thumbnails, part.at(hopeful))
        for index in np.flatnonzero((likeness >= LEAST_LIKENESS) & (overlap.max(axis=1) >= LEAST_OVERLAP)):
            key = int(part.first[index]), int(part.second[index])
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
