"""A white cell's body is its nucleus and the cytoplasm around it: masks of bodies and their outlines as polygons.

Letters: h, w height and width in working px.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.vision.stain import Plane

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

MOST_OUTLINE_POINTS = 64


def label_bodies(
    nuclei: Labels, score: Plane, *, threshold: float, reach_px: float, rim_px: float, smallest_px: float
) -> Labels:
    """Number the cells (h, w) like their nuclei: nucleus, its hull and the stained ground around it, to the nearest nucleus."""
    from scipy import ndimage

    if not nuclei.any():
        return np.zeros_like(nuclei)
    hulls = nuclei.copy()
    for number, window in enumerate(ndimage.find_objects(nuclei), start=1):
        hull = _hull(nuclei[window] == number)
        free = hull & (hulls[window] == 0)
        hulls[window][free] = number
    distance, nearest = ndimage.distance_transform_edt(hulls == 0, return_indices=True)
    owner = hulls[tuple(nearest)]
    stained = (score > threshold) & (distance <= reach_px)
    stained |= distance <= rim_px
    radius = max(1, round(smallest_px))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    smooth = ndimage.binary_opening(stained, x * x + y * y <= radius * radius) | (hulls > 0)
    return np.where(smooth, owner, 0).astype(np.int32)


def _hull(mask: Mask) -> Mask:
    """Fill the convex hull of a mask (h, w)."""
    from skimage.morphology import convex_hull_image

    if min(mask.shape) < 3:
        return mask
    hull: Mask = convex_hull_image(mask, offset_coordinates=False)
    return hull | mask


def largest_part(mask: Mask) -> Mask:
    """Keep of a mask (h, w) only its largest connected part."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return largest


def outline(mask: Mask) -> list[tuple[float, float]]:
    """Give the outer outline of a mask (h, w) as at most 64 points x, y, the middle of the first pixel being (0, 0)."""
    from skimage.measure import approximate_polygon, find_contours

    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    longest = max(contours, key=len) - 1.0
    tolerance = 0.4
    points = approximate_polygon(longest, tolerance)
    while len(points) - 1 > MOST_OUTLINE_POINTS:
        tolerance *= 1.5
        points = approximate_polygon(longest, tolerance)
    return [(float(x), float(y)) for y, x in points[:-1]]
