"""Whether two images show the same, told by their thumbnails laid over one another.

A pair is called only where the two thumbnails agree in what is finer than cells are apart: equal stain, equal background or a
cell in the middle of both are not enough. What a pair is called depends on its two images alone.

Letters: N images, H hypotheses "this part is that part".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

LEAST_LIKENESS = 0.8
WHOLE_OVERLAP = 0.94
"""Of either image's area; less is a crop or an overlap."""
LEAST_OVERLAP = 0.3
"""Of the smaller image's area: what two pictures must share."""

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
class Hypotheses:
    """Places (x, y, 1) in the unit square of image `first` (H,) lie at `maps` (H, 2, 3) in that of image `second` (H,)."""

    first: Rows
    second: Rows
    maps: Floats

    def at(self, chosen: NDArray[Any]) -> Hypotheses:
        return Hypotheses(first=self.first[chosen], second=self.second[chosen], maps=self.maps[chosen])

    def moved(self, maps: Floats) -> Hypotheses:
        return Hypotheses(first=self.first, second=self.second, maps=maps)


def judge(prints: Prints, hypotheses: Hypotheses, found: dict[tuple[int, int], NearPair], *, refine: bool) -> None:
    """Add the pairs whose thumbnails agree to `found`; `refine` first moves and zooms maps that nearly fit."""
    for start in range(0, len(hypotheses.first), _PORTION):
        whole = hypotheses.at(np.arange(start, min(start + _PORTION, len(hypotheses.first))))
        rows, place = np.unique(np.concatenate([whole.first, whole.second]), return_inverse=True)
        thumbnails = prints[rows]["thumbnail"].astype(np.float32)
        first, second = np.split(place, 2)
        part = Hypotheses(first=first, second=second, maps=whole.maps)
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


def _refined(thumbnails: Floats, hypotheses: Hypotheses) -> tuple[Floats, Floats]:
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


def _likeness(thumbnails: Floats, hypotheses: Hypotheses) -> tuple[Floats, Floats]:
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
