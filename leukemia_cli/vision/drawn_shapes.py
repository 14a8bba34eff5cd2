"""Shapes with soft irregular edges, and smooth noise: what drawn cells are made of.

Arrays of one cell are square windows (h, w) in micrometres around the cell's centre, kept as complex numbers x + iy. An
"inside" is the depth below an edge in micrometres, negative outside.
"""

from __future__ import annotations

import cmath
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia_cli.vision.drawn_kinds import Recipe

Plane = NDArray[np.float32]
Grid = NDArray[np.complex64]


def soft(inside_um: Plane, width_um: float) -> Plane:
    """1 inside, 0 outside, with an S-shaped edge `width_um` wide."""
    ramp = np.clip(0.5 + inside_um / width_um, 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), np.float32)


def _smooth_minimum(one: Plane, other: Plane, width_um: float) -> Plane:
    blend = np.clip(0.5 + 0.5 * (other - one) / width_um, 0.0, 1.0)
    return np.asarray(other + (one - other) * blend - width_um * blend * (1.0 - blend), np.float32)


def clouds(shape: tuple[int, ...], grain_px: float, rng: np.random.Generator, stretch: float = 1.0) -> Plane:
    """Smooth noise (h, w) of mean 0 and deviation about 1; its spots are `grain_px` wide, `stretch` times as tall."""
    height, width = shape
    rows, columns = math.ceil(height / (grain_px * stretch)) + 3, math.ceil(width / grain_px) + 3
    seeds = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    left, top = rng.uniform(0.0, 1.0, 2)
    box = (left + 1.0, top + 1.0, left + 1.0 + width / grain_px, top + 1.0 + height / (grain_px * stretch))
    smooth = np.asarray(seeds.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
    return smooth * np.float32(1.35)


def inside_outline(
    grid: Grid,
    radius_um: float,
    rng: np.random.Generator,
    *,
    roughness: float,
    stretch: float = 0.0,
    angle: float | None = None,
) -> Plane:
    """Depth (h, w) below an irregular closed outline in micrometres, negative outside.

    `stretch` is the long axis's gain over a circle of the same area, along `angle`.
    """
    tilt = rng.uniform(0.0, 2.0 * math.pi) if angle is None else angle
    turned = grid * cmath.exp(-1j * tilt)
    squeezed = turned.real / np.float32(1.0 + stretch) + 1j * (turned.imag * np.float32(1.0 + stretch))
    away = np.abs(squeezed) + np.float32(1e-6)
    heading = (squeezed / away).astype(np.complex64)
    outline = np.ones(grid.shape, np.float32)
    power = heading
    for order in range(2, 6):
        power = power * heading
        wave = roughness * 3.2 / order**1.5 * complex(rng.normal(), rng.normal())
        outline += (wave * power).real
    return (radius_um * np.maximum(outline, 0.4) - away).astype(np.float32)


def inside_nucleus(
    grid: Grid, recipe: Recipe, radius_um: float, nucleus_radius_um: float, rng: np.random.Generator
) -> Plane:
    """Depth below the nucleus's edge in micrometres, negative outside; `grid` looks away from the cell's hollow side.

    Every shape covers about pi * nucleus_radius_um**2.
    """
    shape, full = recipe.nucleus, nucleus_radius_um
    if shape == "lobes":
        return _inside_lobes(grid, int(rng.choice(recipe.lobes)), radius_um, full, rng)
    if shape == "band":
        span = rng.uniform(3.3, 4.5)
        bend_um = 0.50 * radius_um
        half_width_um = 0.5 * math.pi * full**2 / (bend_um * span + 0.5 * full)
        angle = np.angle(grid)
        along = np.clip(angle, -0.5 * span, 0.5 * span)
        wobble = 1.0 + 0.10 * np.cos(3.0 * along + rng.uniform(0.0, 6.28))
        return np.asarray(half_width_um * wobble - np.abs(grid - bend_um * np.exp(1j * along)), np.float32)
    if shape in ("dented", "kidney"):
        deep = shape == "kidney"
        body = inside_outline(
            grid,
            full * (1.05 if deep else 1.04),
            rng,
            roughness=0.05 if deep else 0.025,
            stretch=0.14,
            angle=0.5 * math.pi,
        )
        dent_um = full * rng.uniform(0.42, 0.58)
        bite = np.abs(grid + full * rng.uniform(0.98, 1.12) * (1.0 + 0.25j * rng.uniform(-1.0, 1.0))) - dent_um
        return _smooth_minimum(body, bite.astype(np.float32), 0.6)
    if shape == "smudge":
        return inside_outline(grid, full, rng, roughness=recipe.roughness, stretch=rng.uniform(0.05, 0.25))
    inside = inside_outline(grid, full, rng, roughness=recipe.roughness, stretch=abs(rng.normal(0.0, 0.06)))
    if shape == "cleft" and rng.random() < 0.25:
        cleft = grid * cmath.exp(1j * rng.uniform(-0.9, 0.9))
        depth_um = full * rng.uniform(0.20, 0.50)
        opening = np.abs(cleft.imag) - 0.34 * np.clip(-cleft.real - full + depth_um, 0.0, None) + 0.02
        inside = np.minimum(inside, np.where(cleft.real < -full + depth_um, opening, np.inf)).astype(np.float32)
    return inside


def _inside_lobes(
    grid: Grid, count: int, radius_um: float, nucleus_radius_um: float, rng: np.random.Generator
) -> Plane:
    """Lobes on an arc, neighbours joined by a thread."""
    lobe_um = nucleus_radius_um / math.sqrt(count) * 0.98
    bend_um = (0.50 if count > 2 else 0.42) * radius_um
    step = min(2.25 * lobe_um / bend_um, 5.6 / count)
    start = rng.uniform(0.0, 2.0 * math.pi)
    inside = np.full(grid.shape, -np.inf, np.float32)
    before: complex | None = None
    for index in range(count):
        angle = start + index * step + rng.normal(0.0, 0.08)
        centre = bend_um * rng.uniform(0.88, 1.16) * cmath.exp(1j * angle)
        size_um = lobe_um * rng.uniform(0.90, 1.12)
        lobe = inside_outline(
            grid - centre,
            size_um,
            rng,
            roughness=0.06,
            stretch=rng.uniform(0.05, 0.28),
            angle=angle + 0.5 * math.pi + rng.normal(0.0, 0.3),
        )
        inside = np.maximum(inside, lobe)
        if before is not None:
            inside = np.maximum(inside, 0.30 - _distance_to_segment(grid, before, centre))
        before = centre
    return inside


def _distance_to_segment(grid: Grid, start: complex, end: complex) -> Plane:
    length = abs(end - start)
    local = (grid - start) * ((end - start).conjugate() / length)
    beyond = np.maximum(np.maximum(-local.real, local.real - length), 0.0)
    return np.asarray(np.hypot(beyond, local.imag), np.float32)
