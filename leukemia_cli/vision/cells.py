"""Find the white cells of a blood smear by their nuclei, without trained weights and with one setting for all laboratories.

Requirements this module meets:

- Every length is in red-cell diameters and every stain in units of the image's own nuclei; nothing is in px or in grey levels.
- The same pixels give the same cells, in order of y, then x; an image that holds no smear gives no cells, not an error.
- Memory is bounded: the picture that is worked on never exceeds `Finder.most_working_px`.

Letters: H, W height and width of the original in px, h, w those at working scale. Places are in px of the original, measured from
its top left corner, so that the middle of the first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia_cli.vision.bodies import label_bodies, largest_part, outline
from leukemia_cli.vision.red_cells import Ruler, measure
from leukemia_cli.vision.stain import NuclearStain, Plane, densities, ground_colour, nuclear_stain

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One white cell: its nucleus's centroid, the box and outline of nucleus and cytoplasm, clipped to the image."""

    x: float
    y: float
    left: int
    top: int
    width: int
    height: int
    nucleus_area_px: float
    cell_area_px: float
    outline: tuple[tuple[float, float], ...]
    at_border: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finder:
    """Every constant of the method; lengths in red-cell diameters, areas in red-cell areas, stain in mean nuclei.

    The default was chosen on blocks A1 and H1 of ALL-IDB1, the even-numbered files of BCCD and drawn smears, by eye on others.
    """

    version: int = 3
    look_side_px: int = 650
    most_look_shrink: int = 4
    least_look_diameter_px: float = 12.0
    most_windows: int = 8
    density_noise: float = 0.015
    most_spread: float = 0.32
    look_threshold: float = 0.4
    least_red_share: float = 0.02
    coarse_diameter_px: float = 28.0
    nucleus_ratio: float = 1.0
    nucleus_ratio_spread: float = 0.6
    white_cell_ratio: float = 1.7
    working_diameter_px: float = 24.0
    most_working_px: int = 16_000_000
    smoothing: float = 0.04
    nuclear_threshold: float = 0.5
    least_fragment: float = 0.04
    most_hole: float = 0.25
    split_least_area: float = 1.0
    split_depth: float = 0.08
    split_ratio_from: float = 0.6
    seam_width: float = 0.15
    seam_depth: float = 0.2
    lobe_most_area: float = 1.0
    lobe_reach: float = 2.2
    part_most_area: float = 1.2
    part_reach: float = 1.9
    lobe_gap: float = 0.2
    bridged_gap: float = 0.6
    one_cell_reach: float = 2.4
    one_cell_filled: float = 0.8
    least_bridge: float = 0.2
    least_nucleus: float = 0.33
    least_nucleus_at_border: float = 0.33
    least_lobed: float = 2.4
    hue_quantile: float = 0.75
    least_for_hue: int = 3
    least_blue: float = 0.75
    most_blue: float = 0.8
    blue_spreads: float = 1.0
    cytoplasm_weight: float = 0.4
    cytoplasm_from: float = 0.06
    cytoplasm_to: float = 0.15
    cytoplasm_blue: float = 1.4
    least_blue_density: float = 0.05
    most_irregular: float = 1.35
    most_uneven_disc: float = 1.2
    least_clothed: float = 0.2
    most_lobe_radius: float = 0.35
    cytoplasm_threshold: float = 0.18
    cytoplasm_reach: float = 0.5
    rim: float = 0.1
    smallest_branch: float = 0.1
    central_share: float = 0.12
    least_cell_share: float = 0.2
    most_red_cells_wide: float = 6.5

    def as_json(self) -> dict[str, Any]:
        """Give all constants by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Finder:
        """Undo `as_json`; raises ValueError for a name that is missing, unknown or of another version."""
        names = {field.name for field in fields(cls)}
        if set(facts) != names:
            raise ValueError(f"finder's constants do not fit: {sorted(set(facts) ^ names)}")
        if facts["version"] != cls().version:
            raise ValueError(f"finder of version {facts['version']!r}, not {cls().version}")
        return cls(**{name: facts[name] for name in names})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundCells:
    """The white cells of one image, in order of y, then x; masks (h, w) are at `scale` working px per original px.

    `red_cell_diameter_px` is None where no red cell is to be seen. `unit` is "cell" where the image is itself the picture of
    one cell. `bodies` are nuclei with their cytoplasm.
    """

    cells: tuple[Cell, ...]
    red_cell_diameter_px: float | None
    unit: Literal["field", "cell"]
    scale: float
    nuclei: Mask
    bodies: Mask


DEFAULT_FINDER = Finder()


def find_cells(pixels: NDArray[np.uint8], finder: Finder = DEFAULT_FINDER) -> FoundCells:
    """Find the white cells of RGB pixels (H, W, 3), each once; raises ValueError for another shape or type, or no pixels."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    shrink = max(1, min(finder.most_look_shrink, -(-max(image.size) // finder.look_side_px)))
    look = np.asarray(image.reduce(shrink) if shrink > 1 else image)
    ground = ground_colour(look)
    planes = densities(look, ground)
    stain, ruler = _looked_at(planes, finder)
    red_px = None if ruler.red_cell_px is None else ruler.red_cell_px * shrink
    finer = shrink
    # A shrunk red cell of few px is not measured but guessed: the same is looked at in less shrunk windows.
    while finer > 1 and (red_px is None or red_px < finder.least_look_diameter_px * finer):
        finer = -(-finer // 2)
        windows = _windows(pixels, _score(planes, stain) if stain else planes.sum(axis=0), shrink, finer, finder)
        seen_stain, seen = _looked_at(densities(windows, ground), finder)
        if seen_stain is not None and seen.red_cell_px is not None:
            stain, red_px = seen_stain, seen.red_cell_px * finer
    unit_px = red_px
    if unit_px is None and ruler.white_cell_px is not None:
        unit_px = ruler.white_cell_px * shrink / finder.white_cell_ratio
    if stain is None or unit_px is None:
        nothing = np.zeros(look.shape[:2], np.bool_)
        return FoundCells(
            cells=(), red_cell_diameter_px=red_px, unit="field", scale=1 / shrink, nuclei=nothing, bodies=nothing
        )
    scale = min(finder.working_diameter_px / unit_px, math.sqrt(finder.most_working_px / (image.width * image.height)))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    worked = densities(np.asarray(image.resize(size, Image.Resampling.BILINEAR)), ground)
    diameter = unit_px * scale
    score = _smoothed(_score(worked, stain), finder.smoothing * diameter)
    nuclei = _without_ruptured(_label_nuclei(score, worked.sum(axis=0), diameter, finder), worked, diameter, finder)
    bodies = label_bodies(
        nuclei,
        score,
        threshold=finder.cytoplasm_threshold,
        reach_px=finder.cytoplasm_reach * diameter,
        rim_px=finder.rim * diameter,
        smallest_px=finder.smallest_branch * diameter,
    )
    cells = _describe(nuclei, bodies, scale, image.size)
    return FoundCells(
        cells=cells,
        red_cell_diameter_px=red_px,
        unit="cell" if _is_picture_of_one(cells, red_px, image.size, finder) else "field",
        scale=scale,
        nuclei=nuclei > 0,
        bodies=bodies > 0,
    )


def cut_crop(pixels: NDArray[np.uint8], x: float, y: float, *, side_px: float, size_px: int) -> NDArray[np.uint8]:
    """Give the square of `side_px` original px around (x, y) as (size_px, size_px, 3), whatever else is cut.

    What lies beyond the image's edge has the colour of the image's light ground. Resampled with a triangle filter, which
    averages over areas when shrinking. Raises ValueError for a side or size that is not positive, or pixels not (H, W, 3).
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    if not (side_px > 0 and math.isfinite(side_px) and math.isfinite(x) and math.isfinite(y)) or size_px < 1:
        raise ValueError(f"cannot cut a square of {side_px} px around ({x}, {y}) to {size_px} px")
    height, width = pixels.shape[:2]
    # The filter reaches one output pixel, and at least one input pixel, beyond the square.
    margin = math.ceil(max(1.0, side_px / size_px)) + 1
    left, top = math.floor(x - side_px / 2) - margin, math.floor(y - side_px / 2) - margin
    right, bottom = math.ceil(x + side_px / 2) + margin, math.ceil(y + side_px / 2) + margin
    inner = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if left < 0 or top < 0 or right > width or bottom > height:
        patch = np.empty((bottom - top, right - left, 3), np.uint8)
        patch[:] = ground_colour(pixels)
        row, column = max(-top, 0), max(-left, 0)
        patch[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
    else:
        patch = np.ascontiguousarray(inner)
    corner = (x - side_px / 2 - left, y - side_px / 2 - top)
    box = (*corner, corner[0] + side_px, corner[1] + side_px)
    return np.asarray(Image.fromarray(patch).resize((size_px, size_px), Image.Resampling.BILINEAR, box=box))


# ---------------------------------------------------------------------------------- scale and stain


def _looked_at(planes: Plane, finder: Finder) -> tuple[NuclearStain | None, Ruler]:
    stain = nuclear_stain(planes, noise=finder.density_noise)
    if stain is not None and stain.spread > finder.most_spread:
        stain = None
    return stain, _measured(planes, stain, finder)


def _windows(pixels: NDArray[np.uint8], worth: Plane, shrink: int, finer: int, finder: Finder) -> NDArray[np.uint8]:
    """Lay windows of the original, `finer` times shrunk, side by side: from all over the half that is worth most.

    `worth` (h, w) is that of the original `shrink` times shrunk.
    """
    side = finder.look_side_px // 2 * finer
    height, width = pixels.shape[:2]
    places = []
    for top in range(0, max(height - side, 0) + 1, side):
        for left in range(0, max(width - side, 0) + 1, side):
            seen = worth[top // shrink : (top + side) // shrink, left // shrink : (left + side) // shrink]
            places.append((float(np.clip(seen, 0, 1).mean()), top, left))
    places = sorted(sorted(places, reverse=True)[: (len(places) + 1) // 2], key=lambda place: place[1:])
    count = min(finder.most_windows, len(places))
    chosen = [places[turn * len(places) // count] for turn in range(count)]
    cut = [Image.fromarray(pixels[top : top + side, left : left + side]).reduce(finer) for _, top, left in chosen]
    return np.concatenate([np.asarray(one) for one in cut], axis=1)


def _measured(planes: Plane, stain: NuclearStain | None, finder: Finder) -> Ruler:
    density, score = planes.sum(axis=0), _score(planes, stain)
    ruler = Ruler(red_cell_px=None, white_cell_px=None)
    for sigma in (1.0, 2.0):
        ruler = measure(
            _smoothed(density, sigma),
            _smoothed(score, sigma) > finder.look_threshold,
            least_share=finder.least_red_share,
            nucleus_ratio=finder.nucleus_ratio,
            ratio_spread=finder.nucleus_ratio_spread,
        )
        # Large cells show their grain, which the second, smoother look takes away.
        if ruler.red_cell_px is None or ruler.red_cell_px < finder.coarse_diameter_px:
            break
    return ruler


def _score(planes: Plane, stain: NuclearStain | None) -> Plane:
    """Give the nuclear stain (h, w), 1 at the mean nucleus; 0 everywhere where nothing is stained so."""
    if stain is None:
        return np.zeros(planes.shape[1:], np.float32)
    red, green, blue = (np.float32(weight) for weight in stain.weights)
    score: Plane = red * planes[0] + green * planes[1] + blue * planes[2]
    return score


def _smoothed(plane: Plane, sigma: float) -> Plane:
    from scipy import ndimage

    smooth: Plane = ndimage.gaussian_filter(plane, sigma, truncate=3.0)
    return smooth


def _label_nuclei(score: Plane, density: Plane, diameter: float, finder: Finder) -> Labels:
    """Number the nuclei (h, w) from 1, lobes of one nucleus alike, specks and platelets left out."""
    from scipy import ndimage

    red_area = math.pi / 4 * diameter**2
    mask = score > finder.nuclear_threshold
    mask = _with_small_holes_filled(mask, finder.most_hole * red_area)
    pieces, count = ndimage.label(mask)
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    fragments = np.zeros(pieces.shape, np.int32)
    number = 0
    for piece, window in enumerate(ndimage.find_objects(pieces), start=1):
        if window is None or area[piece] < finder.least_fragment * red_area:
            continue
        inside = pieces[window] == piece
        parts = (
            _split(inside, score[window], diameter, finder)
            if area[piece] >= finder.split_least_area * red_area
            else inside.astype(np.int32)
        )
        fragments[window][inside] = parts[inside] + number
        number += int(parts.max())
    joined = _join_lobes(fragments, number, score, density, diameter, finder)
    cut = np.zeros(number + 1, np.bool_)
    cut[np.unique(np.concatenate([joined[0], joined[-1], joined[:, 0], joined[:, -1]]))] = True
    area = np.bincount(joined.ravel(), minlength=number + 1)
    return _kept(joined, area >= np.where(cut, finder.least_nucleus_at_border, finder.least_nucleus) * red_area)


def _with_small_holes_filled(mask: Mask, most_area: float) -> Mask:
    from scipy import ndimage

    holes, count = ndimage.label(~mask)
    area = np.bincount(holes.ravel(), minlength=count + 1)
    small = area < most_area
    small[0] = False
    small[np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))] = False
    filled: Mask = mask | small[holes]
    return filled


def _split(inside: Mask, score: Plane, diameter: float, finder: Finder) -> Labels:
    """Number the touching nuclei of one piece (h, w) from 1: one for each clear summit of the distance to outside and seams."""
    from scipy import ndimage
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    padded = np.pad(inside, 1)
    distance = ndimage.distance_transform_edt(padded)
    if np.count_nonzero(inside) <= finder.most_irregular * math.pi * float(distance.max()) ** 2:
        return inside.astype(np.int32)
    distance = ndimage.distance_transform_edt(padded & ~np.pad(_seams(inside, score, diameter, finder), 1))
    depth = ndimage.gaussian_filter(distance, 1.0) * padded
    # A neck is judged by what it lacks to the nucleus's width, and in large nuclei by the ratio of the two.
    usual = finder.split_ratio_from * diameter
    height = np.where(depth > usual, usual * (1.0 + np.log(np.maximum(depth, usual) / usual)), depth)
    summits = h_maxima(height, finder.split_depth * diameter)
    markers, count = ndimage.label(summits, structure=np.ones((3, 3)))
    if count < 2:
        return inside.astype(np.int32)
    parts = watershed(-depth, markers, mask=padded)
    numbered: Labels = parts[1:-1, 1:-1].astype(np.int32)
    return numbered


def _seams(inside: Mask, score: Plane, diameter: float, finder: Finder) -> Mask:
    """Give the narrow pale lines (h, w) that run into one piece from its outside; pale spots within a nucleus are none."""
    from scipy import ndimage

    side = 2 * round(finder.seam_width * diameter) + 1
    paler = ndimage.grey_closing(score, size=(side, side)) - score > finder.seam_depth
    labels, count = ndimage.label(paler & inside, structure=np.ones((3, 3)))
    outside = ndimage.binary_dilation(np.pad(~inside, 1, constant_values=True), np.ones((3, 3)))[1:-1, 1:-1]
    from_outside = np.zeros(count + 1, np.bool_)
    from_outside[np.unique(labels[outside])] = True
    from_outside[0] = False
    seams: Mask = from_outside[labels]
    return seams


def _join_lobes(fragments: Labels, count: int, score: Plane, density: Plane, diameter: float, finder: Finder) -> Labels:
    """Give one number to fragments of one cell, nearest first.

    Fragments too small for nuclei are joined while what is joined is no wider than a cell, any while together they fill one.
    """
    from scipy import ndimage
    from scipy.spatial import KDTree

    if count < 2:
        return fragments
    red_area = math.pi / 4 * diameter**2
    radius, area = _shapes(fragments)
    # A nucleus that is itself lobed is no round cell that lies beside another: what touches it may be one more lobe.
    lobed = area >= finder.least_lobed * math.pi * radius**2
    small = (area < finder.part_most_area * red_area) | lobed
    reach = diameter * np.where(lobed | (area < finder.lobe_most_area * red_area), finder.lobe_reach, finder.part_reach)
    least_bridge = finder.least_bridge * float(density[fragments > 0].mean())
    rims = [
        _rim_points(fragments[window] == number, window)
        for number, window in enumerate(ndimage.find_objects(fragments, max_label=count), start=1)
    ]
    centres = np.array([points.mean(axis=0) for points in rims])
    widest = diameter * max(finder.lobe_reach, finder.part_reach, finder.one_cell_reach)
    near = [
        (*_gap(rims[one], rims[other], density), one, other)
        for one, other in sorted(KDTree(centres).query_pairs(widest))
    ]
    group = list(range(count))
    for gap, bridge, one, other in sorted(near):
        first, second = sorted((group[one], group[other]))
        # Between lobes farther apart there must be stained cytoplasm, not ground.
        most = finder.lobe_gap if bridge < least_bridge else finder.bridged_gap
        if first == second or gap > most * diameter:
            continue
        members = [member for member, root in enumerate(group) if root in (first, second)]
        points = np.concatenate([rims[member] for member in members])
        if float(np.ptp(points, axis=0).max()) > widest:
            continue
        extent, middle = _extent(points)
        lobes = bool(small[members].all()) and extent <= float(reach[members].min())
        if lobes or (
            extent <= finder.one_cell_reach * diameter
            and _filled_share(score, middle, extent / 2, finder.cytoplasm_threshold) >= finder.one_cell_filled
        ):
            group = [first if root == second else root for root in group]
    joined: Labels = np.array([0, *(root + 1 for root in group)], np.int32)[fragments]
    return joined


def _rim_points(inside: Mask, window: tuple[slice, slice]) -> NDArray[np.float64]:
    """Give the outermost pixels (N, 2) of each row and column, y and x: all that distances to the outside need."""
    ys, xs = np.nonzero(inside)
    first, last = np.unique(ys, return_index=True)[1], ys.size - 1 - np.unique(ys[::-1], return_index=True)[1]
    turn = np.lexsort((ys, xs))
    top = turn[np.unique(xs[turn], return_index=True)[1]]
    bottom = turn[xs.size - 1 - np.unique(xs[turn][::-1], return_index=True)[1]]
    rim = np.concatenate([first, last, top, bottom])
    return np.column_stack([ys[rim] + window[0].start, xs[rim] + window[1].start]).astype(np.float64)


def _gap(one: NDArray[np.float64], other: NDArray[np.float64], density: Plane) -> tuple[float, float]:
    """Give the least distance between two rims and the least density on the straight line there."""
    away = np.hypot(*(one[:, None] - other[None]).transpose(2, 0, 1))
    i, j = np.unravel_index(int(np.argmin(away)), away.shape)
    steps = np.linspace(0.0, 1.0, math.ceil(float(away[i, j])) + 1)[:, None]
    rows, columns = np.rint(one[i] + (other[j] - one[i]) * steps).astype(np.intp).T
    return float(away[i, j]), float(density[rows, columns].min())


def _extent(points: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Give the greatest distance between two of the points (N, 2), and the middle between these two."""
    away = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    i, j = np.unravel_index(int(np.argmax(away)), away.shape)
    return float(away[i, j]), (points[i] + points[j]) / 2


def _filled_share(score: Plane, middle: NDArray[np.float64], radius: float, threshold: float) -> float:
    """Give the share of a disc, as far as it lies in the image, whose nuclear stain exceeds a threshold, as cytoplasm's does."""
    row, column = middle.tolist()
    top, left = max(math.floor(row - radius), 0), max(math.floor(column - radius), 0)
    part = score[top : math.ceil(row + radius) + 1, left : math.ceil(column + radius) + 1]
    y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    disc = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return float((part[disc] > threshold).mean())


def _without_ruptured(nuclei: Labels, planes: Plane, diameter: float, finder: Finder) -> Labels:
    """Leave out broad nuclei of irregular shape that are redder than the image's round ones and lie bare of cytoplasm.

    Spilt chromatin takes more eosin, and a burst cell has lost its cytoplasm. Redness is judged by the difference of red and blue
    density over green, so that pale and dark nuclei compare. Round nuclei are whole and say how much these vary in this
    image; where too few are seen, and for slender lobes, nothing is left out.
    """
    count = int(nuclei.max())
    if count <= finder.least_for_hue:
        return nuclei
    radius, area = _shapes(nuclei)
    round_ = area <= finder.most_irregular * math.pi * radius**2
    if np.count_nonzero(round_) < finder.least_for_hue:
        return nuclei
    inside = nuclei > 0
    red, green, blue = (np.bincount(nuclei[inside], weights=plane[inside], minlength=count + 1)[1:] for plane in planes)
    hue = (red - blue) / np.maximum(green, 1e-6)
    cytoplasm = _cytoplasm_shares(nuclei, planes, red / np.maximum(green, 1e-6), diameter, finder)
    sound = round_ & (cytoplasm >= finder.least_clothed)
    if np.count_nonzero(sound) < finder.least_for_hue:
        sound = round_
    usual = float(np.quantile(hue[sound], finder.hue_quantile))
    if usual <= 0:
        return nuclei
    whole = hue / usual + finder.cytoplasm_weight * cytoplasm
    middle = float(np.median(whole[sound]))
    spread = _MAD_TO_DEVIATION * float(np.median(np.abs(whole[sound] - middle)))
    low, high = finder.least_blue * middle, min(finder.most_blue * middle, middle - finder.blue_spreads * spread)
    least = _middle_of_widest_gap(whole, low, max(low, high))
    broad = radius >= finder.most_lobe_radius * diameter
    disc = area <= finder.most_uneven_disc * math.pi * radius**2
    return _kept(nuclei, np.concatenate([[False], (whole >= least) | disc | ~broad]))


def _middle_of_widest_gap(values: NDArray[np.float64], low: float, high: float) -> float:
    """Give the middle of the widest stretch between low and high in which none of the values (N,) lies."""
    steps = np.concatenate([[low], np.sort(values[(values > low) & (values < high)]), [high]])
    widest = int(np.argmax(np.diff(steps)))
    return float(steps[widest] + steps[widest + 1]) / 2


def _cytoplasm_shares(
    nuclei: Labels, planes: Plane, nuclear_ratio: NDArray[np.float64], diameter: float, finder: Finder
) -> NDArray[np.float64]:
    """Give the share of the ring around each nucleus that is bluer than that nucleus (N,); 0 where no ring is seen.

    Bluer by the ratio of red to green density, `nuclear_ratio` (N,) being the nuclei's: cytoplasm takes the azure dye alone,
    red cells take none, and what runs out of a nucleus has its colour.
    """
    from scipy import ndimage

    count = int(nuclei.max())
    distance, nearest = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    ring = (distance > finder.cytoplasm_from * diameter) & (distance <= finder.cytoplasm_to * diameter)
    owner = nuclei[nearest[0][ring], nearest[1][ring]]
    red, green = (_smoothed(planes[channel], finder.smoothing * diameter)[ring] for channel in (0, 1))
    bluer = (red > finder.least_blue_density) & (red > finder.cytoplasm_blue * nuclear_ratio[owner - 1] * green)
    seen = np.bincount(owner, minlength=count + 1)[1:]
    shares: NDArray[np.float64] = np.bincount(owner, weights=bluer, minlength=count + 1)[1:] / np.maximum(seen, 1)
    return shares


def _shapes(labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the inscribed radius and the area of each label from 1, in working px; beyond the image's edge nothing is inside."""
    from scipy import ndimage

    shapes = []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            shapes.append((0.0, 0.0))
            continue
        alone = np.pad(labels[window] == number, 1)
        shapes.append((float(ndimage.distance_transform_edt(alone).max()), float(np.count_nonzero(alone))))
    radius, area = np.array(shapes, np.float64).reshape(-1, 2).T
    return radius, area


def _kept(labels: Labels, kept: Mask) -> Labels:
    """Renumber from 1 the labels (h, w) that are kept by their number; 0 never is."""
    table = np.where(kept, np.cumsum(kept) - int(kept[0]), 0).astype(np.int32)
    table[0] = 0
    renumbered: Labels = table[labels]
    return renumbered


# ---------------------------------------------------------------------------------- cells


def _describe(nuclei: Labels, bodies: Labels, scale: float, size: tuple[int, int]) -> tuple[Cell, ...]:
    from scipy import ndimage

    width, height = size
    count = int(nuclei.max())
    if count == 0:
        return ()
    # Rounding to whole working px stretches either side by a little.
    across, down = nuclei.shape[1] / width, nuclei.shape[0] / height
    centres = ndimage.center_of_mass(nuclei > 0, nuclei, np.arange(1, count + 1))
    nucleus_area = np.bincount(nuclei.ravel(), minlength=count + 1)[1:]
    cells = []
    for number, window in enumerate(ndimage.find_objects(bodies, max_label=count), start=1):
        inside = largest_part(bodies[window] == number)
        rows, columns = (slice_.start for slice_ in window)
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        left = max(0, math.floor((columns + xs[0]) / across))
        top = max(0, math.floor((rows + ys[0]) / down))
        right = min(width, math.ceil((columns + xs[-1] + 1) / across))
        bottom = min(height, math.ceil((rows + ys[-1] + 1) / down))
        row, column = centres[number - 1]
        cells.append(
            Cell(
                x=float((column + 0.5) / across),
                y=float((row + 0.5) / down),
                left=left,
                top=top,
                width=right - left,
                height=bottom - top,
                nucleus_area_px=float(nucleus_area[number - 1]) / (across * down),
                cell_area_px=float(inside.sum()) / (across * down),
                outline=tuple(
                    (
                        min(max((columns + x + 0.5) / across, 0.0), float(width)),
                        min(max((rows + y + 0.5) / down, 0.0), float(height)),
                    )
                    for x, y in outline(inside)
                ),
                at_border=left == 0 or top == 0 or right == width or bottom == height,
            )
        )
    return tuple(sorted(cells, key=lambda cell: (cell.y, cell.x)))


def _is_picture_of_one(cells: tuple[Cell, ...], red_px: float | None, size: tuple[int, int], finder: Finder) -> bool:
    """Say whether one white cell lies in the middle of an image that is only few red cells wide, and no other is whole."""
    width, height = size
    side = min(width, height)
    central = [
        cell
        for cell in cells
        if max(abs(cell.x - width / 2), abs(cell.y - height / 2)) <= finder.central_share * side and not cell.at_border
    ]
    others = [cell for cell in cells if not cell.at_border and cell not in central]
    if len(central) != 1 or others or max(central[0].width, central[0].height) < finder.least_cell_share * side:
        return False
    return red_px is None or max(size) <= finder.most_red_cells_wide * red_px
