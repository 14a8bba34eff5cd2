"""The red cell is the ruler in every smear: its diameter in px is read from the image, however large the image was taken.

Red cells crowd, overlap and are pale in the middle, so none is cut out. The stained area is covered by the largest discs that
fit in it, and the diameter is the one that covers most area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.vision.stain import Plane, otsu

Mask = NDArray[np.bool_]

_KERNEL, _NEAR = 0.12, 0.2
_LEAST_DIAMETER_PX = 4.0
_LEAST_LOBE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """Diameters in px of the planes measured; None where there is nothing to measure.

    `red_cell_px` is the inscribed diameter of most red cells, `white_cell_px` the largest of stained bodies with a nucleus.
    """

    red_cell_px: float | None
    white_cell_px: float | None


def measure(density: Plane, nuclear: Mask, *, least_share: float, nucleus_ratio: float, ratio_spread: float) -> Ruler:
    """Measure red cells in the summed density (H, W), leaving out what is nuclear.

    Where nuclei are seen, diameters are weighed by how usual their ratio to the nuclei's is (log-normal, `ratio_spread`
    wide), so that specks and heaps are not taken for cells. `least_share` of the image must be covered by such discs.
    """
    from scipy import ndimage

    other = density[~nuclear]
    nucleus_px = _usual_thickness(nuclear)
    if other.size == 0:
        return Ruler(red_cell_px=None, white_cell_px=None)
    threshold = 0.8 * otsu(np.minimum(other, np.percentile(other, 98)))
    stained = _with_round_holes_filled((density > max(threshold, 0.02)) | nuclear)
    height, width = stained.shape
    depth = ndimage.distance_transform_edt(np.pad(stained, 1, constant_values=True))[1:-1, 1:-1]
    white_cell_px = None if nucleus_px is None else max(2 * float(depth[nuclear].max()), _lobed_cell_px(nuclear))
    smooth = ndimage.gaussian_filter(depth, 1.0)
    peaks = (ndimage.maximum_filter(smooth, size=5) == smooth) & (depth >= _LEAST_DIAMETER_PX / 2)
    rows, columns = np.nonzero(peaks)
    if rows.size == 0:
        return Ruler(red_cell_px=None, white_cell_px=white_cell_px)
    radii = depth[rows, columns]
    owner = np.full((height, width), -1, np.int32)
    for disc in np.argsort(radii, kind="stable").tolist():
        row, column, radius = int(rows[disc]), int(columns[disc]), float(radii[disc])
        top, left = max(int(row - radius), 0), max(int(column - radius), 0)
        bottom, right = min(int(row + radius) + 1, height), min(int(column + radius) + 1, width)
        y, x = np.ogrid[top:bottom, left:right]
        owner[top:bottom, left:right][(y - row) ** 2 + (x - column) ** 2 <= radius**2] = disc
    owned = owner >= 0
    area = np.bincount(owner[owned], minlength=radii.size).astype(np.float64)
    nuclear_area = np.bincount(owner[owned], weights=nuclear[owned], minlength=radii.size)
    edge = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    red = (area > 0.3 * np.pi * radii**2) & (edge >= 0.8 * radii) & (nuclear_area < 0.15 * area)
    if not red.any():
        return Ruler(red_cell_px=None, white_cell_px=white_cell_px)
    sizes, weights = np.log(2 * radii[red]), area[red]
    grid = np.linspace(np.log(_LEAST_DIAMETER_PX), np.log(max(height, width, 5)), 400)
    cover = (weights[:, None] * np.exp(-0.5 * ((grid - sizes[:, None]) / _KERNEL) ** 2)).sum(axis=0)
    if nucleus_px is not None:
        cover *= np.exp(-0.5 * ((grid - np.log(nucleus_px / nucleus_ratio)) / ratio_spread) ** 2)
    near = np.abs(sizes - grid[int(np.argmax(cover))]) < _NEAR
    if weights[near].sum() < least_share * height * width:
        return Ruler(red_cell_px=None, white_cell_px=white_cell_px)
    return Ruler(red_cell_px=float(np.exp(np.average(sizes[near], weights=weights[near]))), white_cell_px=white_cell_px)


def _usual_thickness(nuclear: Mask) -> float | None:
    """Give the inscribed diameter of nuclear bodies, a mean by area; None where there is none."""
    from scipy import ndimage

    whole = ndimage.binary_fill_holes(nuclear)
    labels, count = ndimage.label(whole)
    if count == 0:
        return None
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    depth = ndimage.distance_transform_edt(np.pad(whole, 1, constant_values=True))[1:-1, 1:-1]
    inscribed = 2 * _greatest(depth, labels, count)[1:]
    return float(np.exp(np.average(np.log(inscribed), weights=area)))


def _greatest(values: NDArray[np.float64], labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Give the greatest of the values (H, W), none below 0, under each label; 0 under label 0."""
    greatest = np.zeros(count + 1)
    inside = labels > 0
    np.maximum.at(greatest, labels[inside], values[inside])
    return greatest


def _lobed_cell_px(nuclear: Mask) -> float:
    """Give the diameter of the one cell whose lobes all nuclear bodies would be; 0 where they lie too far apart for that."""
    from scipy import ndimage

    labels, count = ndimage.label(nuclear)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    area[0] = 0
    bodies = area >= _LEAST_LOBE * area.max()
    rows, columns = np.nonzero(bodies[labels])
    reach = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    # A lobed nucleus fills about half of the circle around its lobes.
    diameter = 2 * float(np.sqrt(2 * area[bodies].sum() / np.pi))
    return float(reach) if reach <= 1.4 * diameter else 0.0


def _with_round_holes_filled(stained: Mask) -> Mask:
    """Fill a red cell's pale middle; a gap between touching cells has three corners and stays open."""
    from scipy import ndimage

    labels, count = ndimage.label(~stained)
    depth = ndimage.distance_transform_edt(~stained)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    inscribed = _greatest(depth, labels, count)
    # Three touching discs leave a gap of 2.1 times its inscribed circle's area.
    filled = (area <= 1.5 * np.pi * inscribed**2) | (area <= 4)
    filled[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = False
    filled[0] = False
    whole: Mask = stained | filled[labels]
    return whole
