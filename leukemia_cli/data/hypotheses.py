"""From fingerprints to patches, and from patches that are alike to how one image may lie in another.

Letters: N images, K blobs of an image, E patches in their upright frames, M matches "this blob is alike to that one", H
hypotheses "this part is that part".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data.likeness import Floats, Hypotheses, Prints, Rows
from leukemia_cli.data.patch_tables import MOST_IMAGES, PAIR_SHIFT, Entries, Matches, taken_apart, turn_number, upright

_IMAGES_AT_ONCE = 1024
_SQUARES_AT_ONCE = 1 << 17

_LEAST_WITNESSES = 2
_MISS, _MISS_GROWTH, _ZOOM_SPREAD = 0.02, 0.15, 0.3
_MOST_MATCHES = 48
_MOST_ZOOM = 2.0


def whole_entries(prints: Prints, used: NDArray[np.bool_]) -> Iterator[Entries]:
    """Give the coarse cosine coefficients of the thumbnails of images that are `used` (N,), upright."""
    for start in range(0, len(prints), _IMAGES_AT_ONCE):
        kept = np.flatnonzero(used[start : start + _IMAGES_AT_ONCE])
        thumbnails = prints[start : start + _IMAGES_AT_ONCE]["thumbnail"][kept].astype(np.float32)
        image = (kept + start).astype(np.uint32)
        nothing = np.zeros(len(image), dtype=np.uint8)
        yield upright(_coarse(thumbnails), image, nothing, nothing.astype(bool))


def blob_entries(prints: Prints, used: NDArray[np.bool_]) -> Iterator[Entries]:
    """Give the patches of blobs of images that are `used` (N,), upright."""
    for start in range(0, len(prints), _IMAGES_AT_ONCE):
        part = prints[start : start + _IMAGES_AT_ONCE]
        count = part["count"] * used[start : start + len(part)]
        row, blob = np.nonzero(np.arange(part["patches"].shape[1]) < count[:, None])
        image = (row + start).astype(np.uint32)
        yield upright(part["patches"][row, blob], image, blob.astype(np.uint8), part["dark"][row, blob])


def blob_count(prints: Prints) -> int:
    """Give how many blobs all images have."""
    starts = range(0, len(prints), _IMAGES_AT_ONCE)
    return sum(int(prints[start : start + _IMAGES_AT_ONCE]["count"].sum()) for start in starts)


def _coarse(thumbnails: Floats) -> Floats:
    """Give cosine coefficients (N, 27) of thumbnails, in the order of patches and weighted as they are."""
    side = thumbnails.shape[1]
    waves = np.cos(np.pi * (np.arange(side)[None, :] + 0.5) * np.arange(7)[:, None] / side).astype(np.float32)
    v, u = np.array([(v, u) for v in range(7) for u in range(7) if 1 <= u + v <= 6]).T
    weighted: Floats = (waves @ thumbnails @ waves.T)[:, v, u] * (u + v).astype(np.float32)
    return weighted


def whole_hypotheses(matches: Matches) -> Hypotheses:
    """Take matches of thumbnails for hypotheses: one whole image is a turn of the other."""
    first, second, _, _, linear = taken_apart(matches)
    _, once = np.unique((first * MOST_IMAGES + second) * 8 + turn_number(linear), return_index=True)
    first, second, linear = first[once], second[once], linear[once]
    # A turn leaves the centre of the unit square where it is.
    shift = 0.5 - linear.sum(axis=2) * 0.5
    return Hypotheses(first=first, second=second, maps=np.concatenate([linear, shift[:, :, None]], axis=2))


def part_hypotheses(matches: Matches, prints: Prints) -> Hypotheses:
    """Pair images several of whose blobs are alike and agree on one turn, zoom and shift between the two."""
    # A pair of images that is brought together by a single match is most of them, and nothing comes of it.
    pair = matches >> np.uint64(PAIR_SHIFT)
    same = pair[1:] == pair[:-1]
    first, second, of_first, of_second, linear = taken_apart(matches[np.r_[same, False] | np.r_[False, same]])
    group = (first * MOST_IMAGES + second) * 8 + turn_number(linear)
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
    return Hypotheses(first=first[chosen], second=second[chosen], maps=maps)


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
    portion = np.cumsum(lengths**2) // _SQUARES_AT_ONCE
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
