"""Drawn blood smears look like Wright-Giemsa fields and tell the class by shape, not by colour.

Requirements this module meets:

- Five classes differ by cell morphology as textbooks describe it; stain, light, magnification, red-cell density and the
  share of the field that nuclei cover come from one distribution for every class.
- One seed gives one set of bytes, and patient k of a class is the same however many patients are drawn.

A field is a stack of stain planes (S, H, W), on which cells are laid at twice the final resolution with soft edges; the
planes become light through optical density (Beer-Lambert).
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from leukemia_cli.vision.drawn_kinds import CELLS, KINDS, MIXTURES, DrawnPatient, Pair, Stains, check_kind
from leukemia_cli.vision.drawn_shapes import Plane
from leukemia_cli.vision.painting import (
    Canvas,
    Placed,
    Uptake,
    paint_plasma,
    paint_platelets,
    paint_red_cells,
    paint_white_cell,
)

FIELD_SIZE_PX = 224


_OVERSAMPLING = 2
_PATIENTS_PER_SPREAD = 6
# Optical density of eosin, chromatin purple and cytoplasm blue in red, green, blue; unit vectors near those that stain
# separation finds on Romanowsky smears.
_STAIN_VECTORS: tuple[Stains, Stains, Stains] = ((0.14, 0.68, 0.72), (0.50, 0.80, 0.33), (0.82, 0.56, 0.12))


def draw_patient(kind: str, number: int, seed: int = 0) -> DrawnPatient:
    """Patient `number` of a class depends on nothing but seed, class and number.

    Every six consecutive patients of a class spread evenly over each property (a Latin hypercube), so that no class is
    stained or lit differently by the luck of few draws.
    """
    check_kind(kind)
    block, place = divmod(number, _PATIENTS_PER_SPREAD)
    spread = np.random.default_rng([seed, KINDS.index(kind), block, 0])
    property_count = 40
    strata = np.array([spread.permutation(_PATIENTS_PER_SPREAD) for _ in range(property_count)])
    inside = spread.random((property_count, _PATIENTS_PER_SPREAD))
    shares = iter(((strata + inside)[:, place] / _PATIENTS_PER_SPREAD).tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(next(shares))

    def stained(vector: Stains, weakest: float, strongest: float) -> Stains:
        strength = between(weakest, strongest)
        red, green, blue = (part * between(0.86, 1.16) + between(0.0, 0.05) for part in vector)
        scale = strength / math.hypot(red, green, blue)
        return red * scale, green * scale, blue * scale

    eosin, purple, blue = _STAIN_VECTORS
    warmth, tint = between(-0.09, 0.09), between(-0.03, 0.03)
    angle = between(0.0, 2.0 * math.pi)
    quality = between(58.0, 112.0)
    return DrawnPatient(
        stain_vectors=(stained(eosin, 0.70, 1.25), stained(purple, 0.78, 1.22), stained(blue, 0.70, 1.30)),
        white_balance=(1.0 + warmth, 1.0 + tint, 1.0 - warmth),
        brightness=between(0.64, 0.82),
        contrast=between(0.85, 1.20),
        vignetting=between(0.02, 0.20),
        light_centre=(0.5 + 0.22 * math.cos(angle), 0.5 + 0.22 * math.sin(angle)),
        px_per_um=between(4.4, 6.6),
        red_cell_cover=between(0.25, 0.58),
        red_cell_diameter_um=between(7.0, 7.9),
        nuclear_cover=between(0.07, 0.15),
        blur_px=between(0.30, 0.80),
        noise=between(0.004, 0.012),
        jpeg_quality=round(quality) if quality <= 95.0 else None,
    )


def draw_field(
    kind: str,
    patient: DrawnPatient,
    rng: np.random.Generator,
    width_px: int = FIELD_SIZE_PX,
    height_px: int = FIELD_SIZE_PX,
) -> Image.Image:
    """Draw one RGB field of a patient's smear; the same generator state gives the same field."""
    check_kind(kind)
    canvas = Canvas(width_px * _OVERSAMPLING, height_px * _OVERSAMPLING, patient.px_per_um * _OVERSAMPLING)
    size_um = (width_px / patient.px_per_um, height_px / patient.px_per_um)
    white_cells = _place_white_cells(kind, patient.nuclear_cover, size_um, rng)
    uptake = Uptake(
        chromatin=math.exp(rng.normal(0.0, 0.13)),
        nucleus_eosin=rng.uniform(0.0, 0.35),
        cytoplasm=math.exp(rng.normal(0.0, 0.20)),
        cytoplasm_eosin=rng.uniform(0.0, 0.10),
        red_cell_blue=rng.uniform(0.0, 0.22),
    )
    paint_plasma(canvas, rng)
    paint_red_cells(canvas, rng, patient=patient, blue=uptake.red_cell_blue, white_cells=white_cells, size_um=size_um)
    paint_platelets(canvas, white_cells, size_um, rng)
    for cell in white_cells:
        paint_white_cell(canvas, cell, uptake, rng)
    return _photograph(canvas.planes, patient, rng)


def _place_white_cells(kind: str, nuclear_cover: float, size_um: Pair, rng: np.random.Generator) -> list[Placed]:
    """Nuclei cover the same share of the field for every class: small cells are many, large cells few."""
    width_um, height_um = size_um
    wanted_um2 = nuclear_cover * math.exp(rng.normal(0.0, 0.30)) * width_um * height_um
    names = [name for name, _ in MIXTURES[kind]]
    weights = np.array([weight for _, weight in MIXTURES[kind]])
    placed: list[Placed] = []
    covered_um2 = 0.0
    for attempt in range(400):
        name = names[0] if attempt == 0 else str(rng.choice(names, p=weights / weights.sum()))
        recipe = CELLS[name]
        radius_um = 0.5 * rng.uniform(*recipe.diameter_um)
        share = rng.uniform(*recipe.nucleus_share)
        nucleus_um2 = math.pi * radius_um**2 * share
        # Stopping by chance in proportion to the overshoot keeps the mean cover at what was wanted for any cell size.
        if placed and rng.random() < (covered_um2 + nucleus_um2 - wanted_um2) / nucleus_um2:
            break
        inset_um = min(0.55 * radius_um, 0.5 * width_um, 0.5 * height_um)
        for _ in range(30):
            x_um, y_um = rng.uniform(inset_um, width_um - inset_um), rng.uniform(inset_um, height_um - inset_um)
            if all(math.hypot(x_um - c.x_um, y_um - c.y_um) > 0.97 * (radius_um + c.radius_um) for c in placed):
                placed.append(Placed(recipe=recipe, x_um=x_um, y_um=y_um, radius_um=radius_um, nucleus_share=share))
                covered_um2 += nucleus_um2
                break
    return placed


def _photograph(planes: Plane, patient: DrawnPatient, rng: np.random.Generator) -> Image.Image:
    """Turn stain (S, H, W) into 8-bit colour through light, lens, sensor and the camera's own compression."""
    # A smear is nowhere stained or lit quite as it is one field away.
    drift = np.exp(rng.normal(0.0, 0.10, (3, 1)) + rng.normal(0.0, 0.06, (3, 3)))
    vectors = (np.array(patient.stain_vectors) * drift).astype(np.float32)
    fine = np.exp(-np.tensordot(vectors.T, planes, axes=1))
    step = _OVERSAMPLING
    parts = [fine[:, row::step, column::step] for row in range(step) for column in range(step)]
    light = np.asarray(sum(parts) / np.float32(step * step), np.float32)
    light = _blurred(light, patient.blur_px * math.exp(rng.normal(0.0, 0.15)))
    height, width = light.shape[1:]
    across = np.linspace(0.0, 1.0, width, dtype=np.float32) - patient.light_centre[0]
    down = np.linspace(0.0, 1.0, height, dtype=np.float32) - patient.light_centre[1]
    light *= 1.0 - patient.vignetting * 2.0 * (across[None, :] ** 2 + down[:, None] ** 2)
    light *= (np.array(patient.white_balance) * np.exp(rng.normal(0.0, 0.02, 3))).astype(np.float32)[:, None, None]
    light **= np.float32(patient.contrast * math.exp(rng.normal(0.0, 0.10)))
    # The camera meters: whatever is in the field, its mean comes out as the patient's brightness.
    light *= patient.brightness * math.exp(rng.normal(0.0, 0.03)) / float(light.mean())
    light += patient.noise * rng.standard_normal(light.shape, np.float32)
    # A shoulder keeps bright background from clipping hard.
    light = np.where(light > 0.85, 0.85 + 0.15 * np.tanh((light - 0.85) / 0.15), light)
    pixels = np.clip(light * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if patient.jpeg_quality is None:
        return image
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=patient.jpeg_quality)
    with Image.open(stream) as compressed:
        return compressed.convert("RGB")


def _blurred(light: Plane, sigma_px: float) -> Plane:
    reach = math.ceil(3.0 * sigma_px)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    height, width = light.shape[1:]
    wide = np.pad(light, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    rows = sum((part * wide[:, at : at + height] for at, part in enumerate(kernel)), np.zeros((), np.float32))
    columns = sum((part * rows[:, :, at : at + width] for at, part in enumerate(kernel)), np.zeros((), np.float32))
    return np.asarray(columns, np.float32)
