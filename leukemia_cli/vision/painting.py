"""Cells laid on a field as stain planes (S, H, W) with S = eosin, purple (chromatin), blue (ribonucleic acid)."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from leukemia_cli.vision.drawn_kinds import Chromatin, DrawnPatient, Granules, Pair, Recipe
from leukemia_cli.vision.drawn_shapes import Grid, Plane, clouds, inside_nucleus, inside_outline, soft

# Mean density of a nucleus: where the grain has more contrast the mean is less, so that the dark end is alike.
_CHROMATIN_DENSITY: dict[Chromatin, float] = {"fine": 1.50, "lacy": 1.44, "clumped": 1.36, "blocks": 1.46}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A white cell with its place in the field, in micrometres."""

    recipe: Recipe
    x_um: float
    y_um: float
    radius_um: float
    nucleus_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptake:
    """How the cells of one field took the stain, whatever their kind; stains as optical-density units."""

    chromatin: float
    nucleus_eosin: float
    cytoplasm: float
    cytoplasm_eosin: float
    red_cell_blue: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A square of the canvas around one cell; `grid` (h, w) is in micrometres from the cell's centre."""

    grid: Grid
    top: int
    left: int
    px_per_um: float


class Canvas:
    """Stain planes (S, H, W) of one field, on which cells are laid in turn."""

    __slots__ = ("planes", "px_per_um")

    def __init__(self, width_px: int, height_px: int, px_per_um: float) -> None:
        self.planes: Plane = np.zeros((3, height_px, width_px), np.float32)
        self.px_per_um = px_per_um

    def window(self, x_um: float, y_um: float, half_um: float) -> Window:
        x_px, y_px = x_um * self.px_per_um, y_um * self.px_per_um
        half_px = math.ceil(half_um * self.px_per_um) + 2
        left, top = math.floor(x_px) - half_px, math.floor(y_px) - half_px
        steps = np.arange(2 * half_px + 1, dtype=np.float32)
        columns = (left + 0.5 + steps - x_px) / self.px_per_um
        rows = (top + 0.5 + steps - y_px) / self.px_per_um
        grid = (columns[None, :] + 1j * rows[:, None]).astype(np.complex64)
        return Window(grid=grid, top=top, left=left, px_per_um=self.px_per_um)

    def lay(self, window: Window, stains: Plane, cover: Plane | None = None) -> None:
        """Add `stains` (S, h, w); where `cover` (h, w) is 1, what lay there before is hidden."""
        _, height, width = self.planes.shape
        size = window.grid.shape[0]
        top, left = max(window.top, 0), max(window.left, 0)
        bottom, right = min(window.top + size, height), min(window.left + size, width)
        if bottom <= top or right <= left:
            return
        inner = (slice(top - window.top, bottom - window.top), slice(left - window.left, right - window.left))
        target = self.planes[:, top:bottom, left:right]
        if cover is not None:
            target *= 1.0 - cover[inner]
        target += stains[(slice(None), *inner)]


def paint_plasma(canvas: Canvas, rng: np.random.Generator) -> None:
    """A thin uneven film of protein takes a trace of eosin and blue."""
    height, width = canvas.planes.shape[1:]
    film = 1.0 + 0.25 * clouds((height, width), 12.0 * canvas.px_per_um, rng)
    canvas.planes += np.array([rng.uniform(0.0, 0.08), 0.0, rng.uniform(0.0, 0.09)], np.float32)[:, None, None] * film


def paint_red_cells(
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    patient: DrawnPatient,
    blue: float,
    white_cells: list[Placed],
    size_um: Pair,
) -> None:
    width_um, height_um = size_um
    mean_radius_um = 0.5 * patient.red_cell_diameter_um
    white_um2 = sum(math.pi * cell.radius_um**2 for cell in white_cells)
    cover = patient.red_cell_cover * math.exp(rng.normal(0.0, 0.28))
    margin_um = mean_radius_um
    room_um2 = (width_um + 2 * margin_um) * (height_um + 2 * margin_um) - white_um2
    wanted = round(cover * room_um2 / (math.pi * mean_radius_um**2))
    taken = np.array([(c.x_um, c.y_um, c.radius_um) for c in white_cells], np.float64).reshape(-1, 3)
    reds: list[tuple[float, float, float]] = []
    pallor = rng.uniform(0.40, 0.90)
    for _ in range(14 * wanted):
        if len(reds) >= wanted:
            break
        x_um, y_um = rng.uniform(-margin_um, width_um + margin_um), rng.uniform(-margin_um, height_um + margin_um)
        radius_um = mean_radius_um * math.exp(rng.normal(0.0, 0.05))
        if np.any(np.hypot(taken[:, 0] - x_um, taken[:, 1] - y_um) < taken[:, 2] + 0.80 * radius_um):
            continue
        # Red cells may overlap a little, and one in twelve rides well onto its neighbour.
        closest = 1.1 if rng.random() < 1 / 12 else 1.84
        if any(math.hypot(x - x_um, y - y_um) < 0.5 * closest * (r + radius_um) for x, y, r in reds):
            continue
        reds.append((x_um, y_um, radius_um))
    for place_um in reds:
        _paint_red_cell(canvas, place_um, rng, pallor=pallor, blue=blue)


def _paint_red_cell(
    canvas: Canvas,
    place_um: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    pallor: float,
    blue: float,
) -> None:
    x_um, y_um, radius_um = place_um
    window = canvas.window(x_um, y_um, 1.25 * radius_um)
    inside_um = inside_outline(window.grid, radius_um, rng, roughness=0.009, stretch=abs(rng.normal(0.0, 0.04)))
    shape = soft(inside_um, 0.45)
    middle = 1.0 - np.clip(inside_um / radius_um, 0.0, 1.0)
    hollow = np.exp(-((middle / rng.uniform(0.38, 0.54)) ** 2.8))
    profile = 0.66 * (1.0 - pallor * rng.uniform(0.8, 1.15) * hollow) * math.exp(rng.normal(0.0, 0.07))
    tint = max(0.0, rng.normal(blue, 0.03))
    stains = np.zeros((3, *shape.shape), np.float32)
    stains[0] = shape * profile
    stains[2] = shape * profile * tint
    canvas.lay(window, stains)


def paint_platelets(canvas: Canvas, white_cells: list[Placed], size_um: Pair, rng: np.random.Generator) -> None:
    width_um, height_um = size_um
    for _ in range(rng.poisson(width_um * height_um / rng.uniform(500.0, 1500.0))):
        x_um, y_um = rng.uniform(0.0, width_um), rng.uniform(0.0, height_um)
        radius_um = rng.uniform(1.0, 1.7)
        if any(math.hypot(x_um - c.x_um, y_um - c.y_um) < c.radius_um + radius_um for c in white_cells):
            continue
        window = canvas.window(x_um, y_um, 1.6 * radius_um)
        inside_um = inside_outline(window.grid, radius_um, rng, roughness=0.07, stretch=rng.uniform(0.0, 0.2))
        shape = soft(inside_um, 0.5)
        grains = np.maximum(0.2, 1.0 + 0.5 * clouds(shape.shape, 0.5 * window.px_per_um, rng))
        middle = soft(inside_um - 0.25 * radius_um, 0.8)
        stains = np.stack([0.08 * shape, 0.16 * shape + 0.36 * grains * middle, 0.10 * shape])
        canvas.lay(window, stains.astype(np.float32), 0.7 * shape)


def paint_white_cell(canvas: Canvas, cell: Placed, uptake: Uptake, rng: np.random.Generator) -> None:
    recipe, radius_um = cell.recipe, cell.radius_um
    window = canvas.window(cell.x_um, cell.y_um, 1.45 * radius_um)
    grid = window.grid
    turn = cmath.exp(1j * rng.uniform(0.0, 2.0 * math.pi))
    nucleus_radius_um = radius_um * math.sqrt(cell.nucleus_share)
    cell_inside_um = inside_outline(
        grid, radius_um, rng, roughness=recipe.roughness, stretch=abs(rng.normal(0.0, 0.05))
    )
    shift_um = recipe.eccentricity * (radius_um - nucleus_radius_um) * turn
    nucleus_grid = (grid - shift_um) * turn.conjugate()
    nucleus_inside_um = inside_nucleus(nucleus_grid, recipe, radius_um, nucleus_radius_um, rng)
    if recipe.nucleus == "smudge":
        _paint_smudge(canvas, window, nucleus_inside_um, rng)
        return
    nucleus_inside_um = np.minimum(nucleus_inside_um, cell_inside_um - 0.25)
    cell_shape = soft(cell_inside_um, 0.40)
    nucleus_shape = soft(nucleus_inside_um, 0.32)
    cytoplasm_shape = cell_shape * (1.0 - nucleus_shape)
    stains = _cytoplasm(window, recipe, uptake, rng, shape=cell_shape, inside_um=cell_inside_um)
    if recipe.pale_zone:
        # The Golgi zone lies in the nucleus's hollow side and takes little blue.
        centre = shift_um - turn * nucleus_radius_um * 1.05
        pale = np.exp(-(np.abs(grid - centre) ** 2) / (2.0 * (0.30 * radius_um) ** 2))
        stains *= 1.0 - recipe.pale_zone * pale
    for _ in range(recipe.vacuoles and rng.integers(recipe.vacuoles + 1)):
        centre = radius_um * rng.uniform(0.5, 0.9) * cmath.exp(1j * rng.uniform(0.0, 2.0 * math.pi))
        stains *= 1.0 - 0.75 * soft(rng.uniform(0.35, 0.8) - np.abs(grid - centre), 0.4)
    stains *= 1.0 - nucleus_shape
    stains[1] += nucleus_shape * _nucleus_stain(
        window, recipe, uptake, rng, shape=nucleus_shape, inside_um=nucleus_inside_um
    )
    stains[0] += uptake.nucleus_eosin * nucleus_shape
    _paint_nucleoli(
        stains,
        recipe.nucleoli,
        rng,
        nucleus_grid=nucleus_grid,
        nucleus_radius_um=nucleus_radius_um,
        nucleus_shape=nucleus_shape,
    )
    if recipe.granules is not None:
        cover = cell_shape * np.where(nucleus_shape > 0.5, recipe.granules.over_nucleus, 1.0)
        stains += _granule_stains(window, recipe.granules, radius_um, cover.astype(np.float32), rng)
    if rng.random() < recipe.auer_rod_chance:
        for _ in range(rng.integers(1, 3)):
            rod = (
                _auer_rod(grid, turn, rng, hollow_um=nucleus_radius_um - abs(shift_um), radius_um=radius_um)
                * cytoplasm_shape
            )
            stains[0] += 0.75 * rod
            stains[1] += 0.65 * rod
    canvas.lay(window, stains, cell_shape)


def _cytoplasm(
    window: Window, recipe: Recipe, uptake: Uptake, rng: np.random.Generator, *, shape: Plane, inside_um: Plane
) -> Plane:
    """Cytoplasm is a little denser at its rim and uneven within."""
    strength = uptake.cytoplasm * math.exp(rng.normal(0.0, 0.18))
    grain = 1.0 + 0.10 * clouds(shape.shape, 0.5 * window.px_per_um, rng)
    grain += 0.12 * clouds(shape.shape, 2.0 * window.px_per_um, rng)
    rim = 1.0 + 0.30 * np.exp(-((inside_um - 0.3) ** 2) / 0.5)
    density = strength * np.maximum(grain, 0.2) * rim * shape
    eosin, purple, blue = recipe.cytoplasm
    stains = np.array([eosin + uptake.cytoplasm_eosin, purple, blue], np.float32)
    return np.asarray(stains[:, None, None] * density, np.float32)


def _nucleus_stain(
    window: Window, recipe: Recipe, uptake: Uptake, rng: np.random.Generator, *, shape: Plane, inside_um: Plane
) -> Plane:
    """Chromatin differs between cells in its grain; its dark end hardly does, so darkness tells no class."""
    chromatin = _chromatin(window, recipe.chromatin, rng)
    membrane = 1.0 + 0.16 * np.exp(-((inside_um - 0.35) ** 2) / 0.12)
    density = np.maximum(chromatin * membrane, 0.15)
    mean = float((density * shape).sum() / max(float(shape.sum()), 1.0))
    wanted = _CHROMATIN_DENSITY[recipe.chromatin] * uptake.chromatin * math.exp(rng.normal(0.0, 0.07))
    return np.asarray(wanted / mean * density, np.float32)


def _chromatin(window: Window, kind: Chromatin, rng: np.random.Generator) -> Plane:
    shape, scale = window.grid.shape, window.px_per_um
    if kind == "fine":
        return 1.0 + 0.09 * clouds(shape, 0.40 * scale, rng) + 0.05 * clouds(shape, 1.4 * scale, rng)
    if kind == "lacy":
        return 1.0 + 0.17 * clouds(shape, 0.75 * scale, rng) + 0.06 * clouds(shape, 2.0 * scale, rng)
    if kind == "clumped":
        clumps = np.asarray(np.tanh(1.4 * clouds(shape, 0.95 * scale, rng)), np.float32)
        return 1.0 + 0.26 * clumps + 0.04 * clouds(shape, 0.4 * scale, rng)
    # Blocks: dark plates parted by light seams, as on a football; seams lie where two block centres are equally near.
    half_um = float(np.abs(window.grid.real).max())
    spacing_um = rng.uniform(1.7, 2.1)
    steps = np.arange(-half_um, half_um + spacing_um, spacing_um)
    columns, rows = np.meshgrid(steps, steps)
    columns = columns + 0.5 * spacing_um * (np.arange(len(steps)) % 2)[:, None]
    jitter = rng.uniform(-0.32, 0.32, (2, *columns.shape)) * spacing_um
    centres = ((columns + jitter[0]) + 1j * (rows + jitter[1])).ravel().astype(np.complex64)
    nearest = np.full(shape, np.inf, np.float32)
    second = np.full(shape, np.inf, np.float32)
    for centre in centres:
        away = np.abs(window.grid - centre)
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    plate = soft(second - nearest - 0.35, 1.2) * (1.0 + 0.25 * clouds(shape, 0.8 * scale, rng))
    return 0.78 + 0.40 * plate + 0.05 * clouds(shape, 0.4 * scale, rng)


def _paint_nucleoli(
    stains: Plane,
    counts: tuple[int, int],
    rng: np.random.Generator,
    *,
    nucleus_grid: Grid,
    nucleus_radius_um: float,
    nucleus_shape: Plane,
) -> None:
    low, high = counts
    for _ in range(rng.integers(low, high + 1)):
        reach = nucleus_radius_um * rng.uniform(0.1, 0.62)
        centre = reach * cmath.exp(1j * rng.uniform(0.0, 2.0 * math.pi))
        away = inside_outline(nucleus_grid - centre, rng.uniform(0.75, 1.25), rng, roughness=0.06, stretch=0.1)
        spot = soft(away, 0.5) * nucleus_shape
        rim = np.exp(-((away + 0.15) ** 2) / 0.07) * nucleus_shape
        stains[1] *= 1.0 - 0.42 * spot + 0.16 * rim
        stains[2] += 0.30 * spot


def _granule_stains(
    window: Window, granules: Granules, radius_um: float, cover: Plane, rng: np.random.Generator
) -> Plane:
    """Spots are placed by the square micrometre of the whole cell and kept where `cover` (h, w) allows."""
    density = np.zeros(cover.shape, np.float32)
    size = cover.shape[0]
    count = rng.poisson(granules.per_um2 * math.pi * radius_um**2 * rng.uniform(0.7, 1.3))
    reach = granules.radius_um * window.px_per_um
    half = math.ceil(2.2 * reach)
    steps = np.arange(-half, half + 1, dtype=np.float32)
    for _ in range(count):
        away = radius_um * math.sqrt(rng.random()) * window.px_per_um
        angle = rng.uniform(0.0, 2.0 * math.pi)
        column, row = 0.5 * size + away * math.cos(angle), 0.5 * size + away * math.sin(angle)
        left, top = int(column), int(row)
        if min(left, top) < half or max(left, top) >= size - half or cover[top, left] < 0.05:
            continue
        across, down = steps - (column - left - 0.5), steps - (row - top - 0.5)
        width = reach * rng.uniform(0.8, 1.2)
        squared = across[None, :] ** 2 + down[:, None] ** 2
        spot = rng.uniform(0.5, 1.2) * np.clip((width + 1.0 - np.sqrt(squared)) / 2.0, 0.0, 1.0)
        part = density[top - half : top + half + 1, left - half : left + half + 1]
        np.maximum(part, spot, out=part)
    density *= cover
    return np.array(granules.stains, np.float32)[:, None, None] * density


def _auer_rod(grid: Grid, turn: complex, rng: np.random.Generator, *, hollow_um: float, radius_um: float) -> Plane:
    """A needle along the nucleus in the wide side of the cytoplasm, `hollow_um` to `radius_um` from the centre."""
    middle_um = 0.5 * (hollow_um + radius_um)
    direction = -turn * cmath.exp(1j * rng.uniform(-0.7, 0.7))
    centre = direction * middle_um
    along = 1j * direction * cmath.exp(1j * rng.uniform(-0.35, 0.35))
    half_um = rng.uniform(1.6, 2.6)
    local = (grid - centre) * along.conjugate()
    beyond = np.maximum(np.abs(local.real) - half_um, 0.0)
    away = np.hypot(beyond, local.imag)
    return soft((0.24 - away).astype(np.float32), 0.25)


def _paint_smudge(canvas: Canvas, window: Window, inside_um: Plane, rng: np.random.Generator) -> None:
    """A burst nucleus: no cytoplasm, frayed edge, streaked pale chromatin."""
    scale = window.px_per_um
    frayed = inside_um - 0.4 + 0.70 * clouds(inside_um.shape, 1.1 * scale, rng)
    shape = soft(frayed, 1.8)
    streaks = 1.0 + 0.28 * np.tanh(1.3 * clouds(inside_um.shape, 1.0 * scale, rng, stretch=1.7))
    streaks += 0.10 * clouds(inside_um.shape, 0.5 * scale, rng)
    density = 0.85 * math.exp(rng.normal(0.0, 0.15)) * np.maximum(streaks, 0.1) * shape
    stains = np.stack([0.10 * shape, density, 0.05 * shape]).astype(np.float32)
    canvas.lay(window, stains, 0.8 * shape)
