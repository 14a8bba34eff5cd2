"""Drawn blood smears look like Wright-Giemsa fields and tell the class by shape, not by colour.

Requirements this module meets:

- Five classes differ by cell morphology as textbooks describe it; stain, light, magnification, red-cell density and the
  share of the field that nuclei cover come from one distribution for every class.
- One seed gives one set of bytes, and patient k of a class is the same however many patients are drawn.
- Nothing in size, format or file name tells more than the class folder and the patient folder do.
- A file that this module did not draw is never overwritten or deleted.

A field is a stack of stain planes (S, H, W) with S = eosin, purple (chromatin), blue (ribonucleic acid). Cells are laid
on them at twice the final resolution with soft edges; the planes become light through optical density (Beer-Lambert).
Arrays of one cell are square windows (h, w) in micrometres around the cell's centre, kept as complex numbers x + iy.
"""

from __future__ import annotations

import cmath
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia_cli.domain import Track, silent
from leukemia_cli.errors import MachineError, UsageError

KINDS: tuple[str, ...] = ("ALL", "AML", "CLL", "CML", "HTL")
FIELD_SIZE_PX = 224
SLIDE_SIZE_PX = (1024, 768)

Plane = NDArray[np.float32]
Grid = NDArray[np.complex64]
Pair = tuple[float, float]
Stains = tuple[float, float, float]
Chromatin = Literal["fine", "lacy", "clumped", "blocks"]
NucleusShape = Literal["round", "cleft", "dented", "kidney", "band", "lobes", "smudge"]

_OVERSAMPLING = 2
# Mean density of a nucleus: where the grain has more contrast the mean is less, so that the dark end is alike.
_CHROMATIN_DENSITY: dict[Chromatin, float] = {"fine": 1.50, "lacy": 1.44, "clumped": 1.36, "blocks": 1.46}
_JPEG_QUALITY = 90
_SLIDE_STEP = 3
_PATIENTS_PER_SPREAD = 6
# Optical density of eosin, chromatin purple and cytoplasm blue in red, green, blue; unit vectors near those that stain
# separation finds on Romanowsky smears.
_STAIN_VECTORS: tuple[Stains, Stains, Stains] = ((0.14, 0.68, 0.72), (0.50, 0.80, 0.33), (0.82, 0.56, 0.12))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPatient:
    """All that a patient's smear shares across its fields, besides the disease."""

    stain_vectors: tuple[Stains, Stains, Stains]
    white_balance: Stains
    brightness: float
    contrast: float
    vignetting: float
    light_centre: Pair
    px_per_um: float
    red_cell_cover: float
    red_cell_diameter_um: float
    nuclear_cover: float
    blur_px: float
    noise: float
    jpeg_quality: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The files of one drawn set, in the order class, patient, field."""

    root: Path
    images: tuple[Path, ...]
    slide: Path
    readme: Path
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Granules:
    """Spots in the cytoplasm: spots per square micrometre, their radius and their stains."""

    per_um2: float
    radius_um: float
    stains: Stains
    over_nucleus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """One kind of white cell; lengths in micrometres, stains as optical-density units, chances in 0..1."""

    diameter_um: Pair
    nucleus: NucleusShape
    nucleus_share: Pair
    chromatin: Chromatin
    cytoplasm: Stains
    eccentricity: float = 0.3
    lobes: tuple[int, ...] = ()
    nucleoli: tuple[int, int] = (0, 0)
    granules: _Granules | None = None
    auer_rod_chance: float = 0.0
    vacuoles: int = 0
    pale_zone: float = 0.0
    roughness: float = 0.025


_AZURE = _Granules(per_um2=0.30, radius_um=0.27, stains=(0.30, 0.85, 0.0))
_COARSE_AZURE = _Granules(per_um2=0.55, radius_um=0.30, stains=(0.35, 1.0, 0.0), over_nucleus=0.25)
_FINE_PINK = _Granules(per_um2=1.1, radius_um=0.20, stains=(0.16, 0.20, 0.0))
_MIXED_PINK = _Granules(per_um2=0.8, radius_um=0.24, stains=(0.22, 0.40, 0.0))
_ORANGE = _Granules(per_um2=0.95, radius_um=0.42, stains=(0.95, 0.05, 0.0))
_DARK = _Granules(per_um2=0.50, radius_um=0.48, stains=(0.05, 1.7, 0.35), over_nucleus=0.8)

_CELLS: dict[str, _Recipe] = {
    "lymphoblast": _Recipe(
        diameter_um=(10.0, 13.0),
        nucleus="cleft",
        nucleus_share=(0.76, 0.86),
        chromatin="fine",
        cytoplasm=(0.03, 0.08, 0.48),
        eccentricity=0.55,
        nucleoli=(0, 2),
    ),
    "myeloblast": _Recipe(
        diameter_um=(14.5, 18.0),
        nucleus="round",
        nucleus_share=(0.52, 0.64),
        chromatin="fine",
        cytoplasm=(0.06, 0.10, 0.34),
        eccentricity=0.75,
        nucleoli=(2, 4),
        granules=_AZURE,
        auer_rod_chance=0.22,
        roughness=0.035,
    ),
    "promyelocyte": _Recipe(
        diameter_um=(15.5, 18.5),
        nucleus="round",
        nucleus_share=(0.42, 0.50),
        chromatin="lacy",
        cytoplasm=(0.08, 0.10, 0.40),
        eccentricity=0.85,
        nucleoli=(1, 2),
        granules=_COARSE_AZURE,
        pale_zone=0.5,
    ),
    "myelocyte": _Recipe(
        diameter_um=(13.0, 16.0),
        nucleus="round",
        nucleus_share=(0.34, 0.42),
        chromatin="clumped",
        cytoplasm=(0.14, 0.08, 0.20),
        eccentricity=0.85,
        granules=_MIXED_PINK,
        pale_zone=0.3,
    ),
    "metamyelocyte": _Recipe(
        diameter_um=(12.5, 15.0),
        nucleus="dented",
        nucleus_share=(0.34, 0.40),
        chromatin="clumped",
        cytoplasm=(0.17, 0.06, 0.10),
        eccentricity=0.45,
        granules=_FINE_PINK,
    ),
    "band": _Recipe(
        diameter_um=(12.0, 14.0),
        nucleus="band",
        nucleus_share=(0.32, 0.37),
        chromatin="clumped",
        cytoplasm=(0.18, 0.06, 0.06),
        eccentricity=0.1,
        granules=_FINE_PINK,
    ),
    "neutrophil": _Recipe(
        diameter_um=(12.0, 14.5),
        nucleus="lobes",
        nucleus_share=(0.29, 0.34),
        chromatin="clumped",
        cytoplasm=(0.18, 0.06, 0.05),
        eccentricity=0.1,
        lobes=(3, 3, 4, 4, 5),
        granules=_FINE_PINK,
    ),
    "eosinophil": _Recipe(
        diameter_um=(12.5, 15.0),
        nucleus="lobes",
        nucleus_share=(0.26, 0.31),
        chromatin="clumped",
        cytoplasm=(0.22, 0.03, 0.05),
        eccentricity=0.3,
        lobes=(2,),
        granules=_ORANGE,
    ),
    "basophil": _Recipe(
        diameter_um=(11.0, 13.5),
        nucleus="lobes",
        nucleus_share=(0.34, 0.40),
        chromatin="clumped",
        cytoplasm=(0.10, 0.14, 0.12),
        eccentricity=0.2,
        lobes=(2, 3),
        granules=_DARK,
    ),
    "monocyte": _Recipe(
        diameter_um=(15.5, 19.0),
        nucleus="kidney",
        nucleus_share=(0.40, 0.48),
        chromatin="lacy",
        cytoplasm=(0.06, 0.12, 0.26),
        eccentricity=0.3,
        granules=_Granules(per_um2=0.35, radius_um=0.18, stains=(0.15, 0.25, 0.0)),
        vacuoles=4,
        roughness=0.06,
    ),
    "lymphocyte": _Recipe(
        diameter_um=(8.5, 11.5),
        nucleus="round",
        nucleus_share=(0.58, 0.72),
        chromatin="clumped",
        cytoplasm=(0.02, 0.03, 0.38),
        eccentricity=0.7,
    ),
    "small mature lymphocyte": _Recipe(
        diameter_um=(7.8, 9.6),
        nucleus="round",
        nucleus_share=(0.78, 0.88),
        chromatin="blocks",
        cytoplasm=(0.02, 0.03, 0.36),
        eccentricity=0.6,
    ),
    "smudge": _Recipe(
        diameter_um=(11.0, 15.0),
        nucleus="smudge",
        nucleus_share=(0.50, 0.60),
        chromatin="lacy",
        cytoplasm=(0.0, 0.0, 0.0),
        roughness=0.16,
    ),
}

_MEANINGS: dict[str, str] = {
    "ALL": "acute lymphoblastic leukaemia",
    "AML": "acute myeloid leukaemia",
    "CLL": "chronic lymphocytic leukaemia",
    "CML": "chronic myeloid leukaemia",
    "HTL": "healthy",
}

# Which white cells a class shows. The first name is in every field; the rest are drawn by weight.
_MIXTURES: dict[str, tuple[tuple[str, float], ...]] = {
    "ALL": (("lymphoblast", 0.92), ("lymphocyte", 0.05), ("neutrophil", 0.03)),
    "AML": (
        ("myeloblast", 0.86),
        ("promyelocyte", 0.06),
        ("monocyte", 0.02),
        ("neutrophil", 0.03),
        ("lymphocyte", 0.03),
    ),
    "CLL": (("small mature lymphocyte", 0.79), ("smudge", 0.17), ("lymphocyte", 0.02), ("neutrophil", 0.02)),
    "CML": (
        ("myelocyte", 0.24),
        ("metamyelocyte", 0.22),
        ("band", 0.20),
        ("neutrophil", 0.14),
        ("promyelocyte", 0.07),
        ("basophil", 0.06),
        ("eosinophil", 0.04),
        ("myeloblast", 0.03),
    ),
    "HTL": (("neutrophil", 0.60), ("lymphocyte", 0.24), ("monocyte", 0.11), ("eosinophil", 0.03), ("band", 0.02)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A white cell with its place in the field, in micrometres."""

    recipe: _Recipe
    x_um: float
    y_um: float
    radius_um: float
    nucleus_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A square of the canvas around one cell; `grid` (h, w) is in micrometres from the cell's centre."""

    grid: Grid
    top: int
    left: int
    px_per_um: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uptake:
    """How the cells of one field took the stain, whatever their kind; stains as optical-density units."""

    chromatin: float
    nucleus_eosin: float
    cytoplasm: float
    cytoplasm_eosin: float
    red_cell_blue: float


class _Canvas:
    """Stain planes (S, H, W) of one field, on which cells are laid in turn."""

    __slots__ = ("planes", "px_per_um")

    def __init__(self, width_px: int, height_px: int, px_per_um: float) -> None:
        self.planes: Plane = np.zeros((3, height_px, width_px), np.float32)
        self.px_per_um = px_per_um

    def window(self, x_um: float, y_um: float, half_um: float) -> _Window:
        x_px, y_px = x_um * self.px_per_um, y_um * self.px_per_um
        half_px = math.ceil(half_um * self.px_per_um) + 2
        left, top = math.floor(x_px) - half_px, math.floor(y_px) - half_px
        steps = np.arange(2 * half_px + 1, dtype=np.float32)
        columns = (left + 0.5 + steps - x_px) / self.px_per_um
        rows = (top + 0.5 + steps - y_px) / self.px_per_um
        grid = (columns[None, :] + 1j * rows[:, None]).astype(np.complex64)
        return _Window(grid=grid, top=top, left=left, px_per_um=self.px_per_um)

    def lay(self, window: _Window, stains: Plane, cover: Plane | None = None) -> None:
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


def draw_patient(kind: str, number: int, seed: int = 0) -> DrawnPatient:
    """Patient `number` of a class depends on nothing but seed, class and number.

    Every six consecutive patients of a class spread evenly over each property (a Latin hypercube), so that no class is
    stained or lit differently by the luck of few draws.
    """
    _check_kind(kind)
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
    _check_kind(kind)
    canvas = _Canvas(width_px * _OVERSAMPLING, height_px * _OVERSAMPLING, patient.px_per_um * _OVERSAMPLING)
    size_um = (width_px / patient.px_per_um, height_px / patient.px_per_um)
    white_cells = _place_white_cells(kind, patient.nuclear_cover, size_um, rng)
    uptake = _Uptake(
        chromatin=math.exp(rng.normal(0.0, 0.13)),
        nucleus_eosin=rng.uniform(0.0, 0.35),
        cytoplasm=math.exp(rng.normal(0.0, 0.20)),
        cytoplasm_eosin=rng.uniform(0.0, 0.10),
        red_cell_blue=rng.uniform(0.0, 0.22),
    )
    _paint_plasma(canvas, rng)
    _paint_red_cells(canvas, rng, patient=patient, blue=uptake.red_cell_blue, white_cells=white_cells, size_um=size_um)
    _paint_platelets(canvas, white_cells, size_um, rng)
    for cell in white_cells:
        _paint_white_cell(canvas, cell, uptake, rng)
    return _photograph(canvas.planes, patient, rng)


def write_sample_images(
    out: Path,
    *,
    patients_per_class: int = 6,
    images_per_patient: int = 4,
    seed: int = 0,
    track: Track = silent,
) -> SampleSet:
    """Write `out/CLASS/PATIENT/field-NN.jpg`, `out/slide.png` and `out/README.md`, all drawn before one is written.

    Raises `UsageError`, having written nothing, where `out` holds a file that differs from what this call would draw.
    """
    if patients_per_class < 1 or images_per_patient < 1 or seed < 0:
        raise UsageError(
            f"cannot draw {patients_per_class} patients with {images_per_patient} images each from seed {seed}",
            "Ask for at least one patient and one image; the seed is 0 or larger.",
        )
    wanted = [
        (kind, patient, image)
        for kind in KINDS
        for patient in range(1, patients_per_class + 1)
        for image in range(1, images_per_patient + 1)
    ]
    images = tuple(
        out / kind / _patient_name(kind, patient) / f"field-{image:02}.jpg" for kind, patient, image in wanted
    )
    drawn = SampleSet(root=out, images=images, slide=out / "slide.png", readme=out / "README.md", seed=seed)
    _check_only_ours(out, {*images, drawn.slide, drawn.readme})
    contents = {drawn.readme: _readme(patients_per_class, images_per_patient, seed).encode()}
    _check_unchanged(out, contents)
    for path, (kind, patient, image) in zip(
        images, track(wanted, total=len(wanted), label="drawing fields"), strict=True
    ):
        contents[path] = _draw_jpeg(kind, patient, image, seed)
    contents[drawn.slide] = _draw_slide(seed)
    _check_unchanged(out, contents)
    try:
        for path, content in contents.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_name(f"{path.name}.part")
                unfinished.write_bytes(content)
                unfinished.replace(path)
    except OSError as error:
        raise MachineError(
            f"cannot write to {out}: {error.strerror}", "Choose a folder that can be written."
        ) from error
    return drawn


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"no drawn smears of class {kind!r}", f"Choose one of {', '.join(KINDS)}.")


def _check_only_ours(out: Path, ours: set[Path]) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "Name a new or empty folder for the drawn images.")
    for path in sorted(out.rglob("*")):
        if not path.is_dir() and path not in ours:
            raise _not_ours(out, path)


def _check_unchanged(out: Path, contents: dict[Path, bytes]) -> None:
    for path, content in contents.items():
        if path.exists() and path.read_bytes() != content:
            raise _not_ours(out, path)


def _not_ours(out: Path, path: Path) -> UsageError:
    return UsageError(
        f"{out} holds {path.relative_to(out)}, which this command would not draw",
        "Name a new or empty folder; nothing was written.",
    )


def _patient_name(kind: str, patient: int) -> str:
    return f"{kind.lower()}-patient-{patient:02}"


def _field_rng(kind: str, patient: int, image: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, KINDS.index(kind), patient, image, 1])


def _draw_jpeg(kind: str, patient: int, image: int, seed: int) -> bytes:
    field = draw_field(kind, draw_patient(kind, patient, seed), _field_rng(kind, patient, image, seed))
    stream = io.BytesIO()
    field.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def _draw_slide(seed: int) -> bytes:
    """Patient 0 of ALL is nobody's training patient: the sample folders count from 1.

    A quiet sensor and fewer levels of each colour keep the PNG below a megabyte.
    """
    patient = replace(draw_patient("ALL", 0, seed), nuclear_cover=0.06, noise=0.002, jpeg_quality=None)
    slide = draw_field("ALL", patient, _field_rng("ALL", 0, 1, seed), *SLIDE_SIZE_PX)
    stream = io.BytesIO()
    slide.point([_SLIDE_STEP * (level // _SLIDE_STEP) for level in range(256)] * 3).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _readme(patients_per_class: int, images_per_patient: int, seed: int) -> str:
    each = patients_per_class * images_per_patient
    rows = "\n".join(f"| {kind} | {_MEANINGS[kind]} | {patients_per_class} | {each} |" for kind in KINDS)
    return f"""# Drawn blood smears

These pictures are **drawn by a program, not photographed**: no blood, no patient and no microscope was involved.
They show how the tool works and test it. They prove nothing about its worth on real smears and allow no medical
conclusion whatever.

Made by `leuk sample-images OUT --patients {patients_per_class} --seed {seed}`; the same command draws the same again.

| class | meaning | drawn patients | images |
| --- | --- | ---: | ---: |
{rows}

- `CLASS/PATIENT/field-NN.jpg`: fields of {FIELD_SIZE_PX} × {FIELD_SIZE_PX} px. The folder names the patient, who is the
  group: images of one patient share stain, light and magnification and must stay on one side of a split.
- `slide.png`: {SLIDE_SIZE_PX[0]} × {SLIDE_SIZE_PX[1]} px of one more ALL patient, who is in none of the folders.

Stain, light, magnification and how much of the field nuclei cover follow one distribution for every class, so the
look of the cells tells the classes apart and colour alone hardly does.
White cells are far denser than in most real smears.

```
leuk prepare OUT --task five-class --folds 3
leuk train --backbone efficientnet-lite0 --variant dropout
leuk classify OUT/slide.png
```
"""


def _place_white_cells(kind: str, nuclear_cover: float, size_um: Pair, rng: np.random.Generator) -> list[_Placed]:
    """Nuclei cover the same share of the field for every class: small cells are many, large cells few."""
    width_um, height_um = size_um
    wanted_um2 = nuclear_cover * math.exp(rng.normal(0.0, 0.30)) * width_um * height_um
    names = [name for name, _ in _MIXTURES[kind]]
    weights = np.array([weight for _, weight in _MIXTURES[kind]])
    placed: list[_Placed] = []
    covered_um2 = 0.0
    for attempt in range(400):
        name = names[0] if attempt == 0 else str(rng.choice(names, p=weights / weights.sum()))
        recipe = _CELLS[name]
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
                placed.append(_Placed(recipe=recipe, x_um=x_um, y_um=y_um, radius_um=radius_um, nucleus_share=share))
                covered_um2 += nucleus_um2
                break
    return placed


def _paint_plasma(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A thin uneven film of protein takes a trace of eosin and blue."""
    height, width = canvas.planes.shape[1:]
    film = 1.0 + 0.25 * _clouds((height, width), 12.0 * canvas.px_per_um, rng)
    canvas.planes += np.array([rng.uniform(0.0, 0.08), 0.0, rng.uniform(0.0, 0.09)], np.float32)[:, None, None] * film


def _paint_red_cells(
    canvas: _Canvas,
    rng: np.random.Generator,
    *,
    patient: DrawnPatient,
    blue: float,
    white_cells: list[_Placed],
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
    canvas: _Canvas,
    place_um: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    pallor: float,
    blue: float,
) -> None:
    x_um, y_um, radius_um = place_um
    window = canvas.window(x_um, y_um, 1.25 * radius_um)
    inside_um = _inside_outline(window.grid, radius_um, rng, roughness=0.009, stretch=abs(rng.normal(0.0, 0.04)))
    shape = _soft(inside_um, 0.45)
    middle = 1.0 - np.clip(inside_um / radius_um, 0.0, 1.0)
    hollow = np.exp(-((middle / rng.uniform(0.38, 0.54)) ** 2.8))
    profile = 0.66 * (1.0 - pallor * rng.uniform(0.8, 1.15) * hollow) * math.exp(rng.normal(0.0, 0.07))
    tint = max(0.0, rng.normal(blue, 0.03))
    stains = np.zeros((3, *shape.shape), np.float32)
    stains[0] = shape * profile
    stains[2] = shape * profile * tint
    canvas.lay(window, stains)


def _paint_platelets(canvas: _Canvas, white_cells: list[_Placed], size_um: Pair, rng: np.random.Generator) -> None:
    width_um, height_um = size_um
    for _ in range(rng.poisson(width_um * height_um / rng.uniform(500.0, 1500.0))):
        x_um, y_um = rng.uniform(0.0, width_um), rng.uniform(0.0, height_um)
        radius_um = rng.uniform(1.0, 1.7)
        if any(math.hypot(x_um - c.x_um, y_um - c.y_um) < c.radius_um + radius_um for c in white_cells):
            continue
        window = canvas.window(x_um, y_um, 1.6 * radius_um)
        inside_um = _inside_outline(window.grid, radius_um, rng, roughness=0.07, stretch=rng.uniform(0.0, 0.2))
        shape = _soft(inside_um, 0.5)
        grains = np.maximum(0.2, 1.0 + 0.5 * _clouds(shape.shape, 0.5 * window.px_per_um, rng))
        middle = _soft(inside_um - 0.25 * radius_um, 0.8)
        stains = np.stack([0.08 * shape, 0.16 * shape + 0.36 * grains * middle, 0.10 * shape])
        canvas.lay(window, stains.astype(np.float32), 0.7 * shape)


def _paint_white_cell(canvas: _Canvas, cell: _Placed, uptake: _Uptake, rng: np.random.Generator) -> None:
    recipe, radius_um = cell.recipe, cell.radius_um
    window = canvas.window(cell.x_um, cell.y_um, 1.45 * radius_um)
    grid = window.grid
    turn = cmath.exp(1j * rng.uniform(0.0, 2.0 * math.pi))
    nucleus_radius_um = radius_um * math.sqrt(cell.nucleus_share)
    cell_inside_um = _inside_outline(
        grid, radius_um, rng, roughness=recipe.roughness, stretch=abs(rng.normal(0.0, 0.05))
    )
    shift_um = recipe.eccentricity * (radius_um - nucleus_radius_um) * turn
    nucleus_grid = (grid - shift_um) * turn.conjugate()
    nucleus_inside_um = _inside_nucleus(nucleus_grid, recipe, radius_um, nucleus_radius_um, rng)
    if recipe.nucleus == "smudge":
        _paint_smudge(canvas, window, nucleus_inside_um, rng)
        return
    nucleus_inside_um = np.minimum(nucleus_inside_um, cell_inside_um - 0.25)
    cell_shape = _soft(cell_inside_um, 0.40)
    nucleus_shape = _soft(nucleus_inside_um, 0.32)
    cytoplasm_shape = cell_shape * (1.0 - nucleus_shape)
    stains = _cytoplasm(window, recipe, uptake, rng, shape=cell_shape, inside_um=cell_inside_um)
    if recipe.pale_zone:
        # The Golgi zone lies in the nucleus's hollow side and takes little blue.
        centre = shift_um - turn * nucleus_radius_um * 1.05
        pale = np.exp(-(np.abs(grid - centre) ** 2) / (2.0 * (0.30 * radius_um) ** 2))
        stains *= 1.0 - recipe.pale_zone * pale
    for _ in range(recipe.vacuoles and rng.integers(recipe.vacuoles + 1)):
        centre = radius_um * rng.uniform(0.5, 0.9) * cmath.exp(1j * rng.uniform(0.0, 2.0 * math.pi))
        stains *= 1.0 - 0.75 * _soft(rng.uniform(0.35, 0.8) - np.abs(grid - centre), 0.4)
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
    window: _Window, recipe: _Recipe, uptake: _Uptake, rng: np.random.Generator, *, shape: Plane, inside_um: Plane
) -> Plane:
    """Cytoplasm is a little denser at its rim and uneven within."""
    strength = uptake.cytoplasm * math.exp(rng.normal(0.0, 0.18))
    grain = 1.0 + 0.10 * _clouds(shape.shape, 0.5 * window.px_per_um, rng)
    grain += 0.12 * _clouds(shape.shape, 2.0 * window.px_per_um, rng)
    rim = 1.0 + 0.30 * np.exp(-((inside_um - 0.3) ** 2) / 0.5)
    density = strength * np.maximum(grain, 0.2) * rim * shape
    eosin, purple, blue = recipe.cytoplasm
    stains = np.array([eosin + uptake.cytoplasm_eosin, purple, blue], np.float32)
    return np.asarray(stains[:, None, None] * density, np.float32)


def _nucleus_stain(
    window: _Window, recipe: _Recipe, uptake: _Uptake, rng: np.random.Generator, *, shape: Plane, inside_um: Plane
) -> Plane:
    """Chromatin differs between cells in its grain; its dark end hardly does, so darkness tells no class."""
    chromatin = _chromatin(window, recipe.chromatin, rng)
    membrane = 1.0 + 0.16 * np.exp(-((inside_um - 0.35) ** 2) / 0.12)
    density = np.maximum(chromatin * membrane, 0.15)
    mean = float((density * shape).sum() / max(float(shape.sum()), 1.0))
    wanted = _CHROMATIN_DENSITY[recipe.chromatin] * uptake.chromatin * math.exp(rng.normal(0.0, 0.07))
    return np.asarray(wanted / mean * density, np.float32)


def _chromatin(window: _Window, kind: Chromatin, rng: np.random.Generator) -> Plane:
    shape, scale = window.grid.shape, window.px_per_um
    if kind == "fine":
        return 1.0 + 0.09 * _clouds(shape, 0.40 * scale, rng) + 0.05 * _clouds(shape, 1.4 * scale, rng)
    if kind == "lacy":
        return 1.0 + 0.17 * _clouds(shape, 0.75 * scale, rng) + 0.06 * _clouds(shape, 2.0 * scale, rng)
    if kind == "clumped":
        clumps = np.asarray(np.tanh(1.4 * _clouds(shape, 0.95 * scale, rng)), np.float32)
        return 1.0 + 0.26 * clumps + 0.04 * _clouds(shape, 0.4 * scale, rng)
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
    plate = _soft(second - nearest - 0.35, 1.2) * (1.0 + 0.25 * _clouds(shape, 0.8 * scale, rng))
    return 0.78 + 0.40 * plate + 0.05 * _clouds(shape, 0.4 * scale, rng)


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
        away = _inside_outline(nucleus_grid - centre, rng.uniform(0.75, 1.25), rng, roughness=0.06, stretch=0.1)
        spot = _soft(away, 0.5) * nucleus_shape
        rim = np.exp(-((away + 0.15) ** 2) / 0.07) * nucleus_shape
        stains[1] *= 1.0 - 0.42 * spot + 0.16 * rim
        stains[2] += 0.30 * spot


def _granule_stains(
    window: _Window, granules: _Granules, radius_um: float, cover: Plane, rng: np.random.Generator
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
    return _soft((0.24 - away).astype(np.float32), 0.25)


def _paint_smudge(canvas: _Canvas, window: _Window, inside_um: Plane, rng: np.random.Generator) -> None:
    """A burst nucleus: no cytoplasm, frayed edge, streaked pale chromatin."""
    scale = window.px_per_um
    frayed = inside_um - 0.4 + 0.70 * _clouds(inside_um.shape, 1.1 * scale, rng)
    shape = _soft(frayed, 1.8)
    streaks = 1.0 + 0.28 * np.tanh(1.3 * _clouds(inside_um.shape, 1.0 * scale, rng, stretch=1.7))
    streaks += 0.10 * _clouds(inside_um.shape, 0.5 * scale, rng)
    density = 0.85 * math.exp(rng.normal(0.0, 0.15)) * np.maximum(streaks, 0.1) * shape
    stains = np.stack([0.10 * shape, density, 0.05 * shape]).astype(np.float32)
    canvas.lay(window, stains, 0.8 * shape)


def _inside_nucleus(
    grid: Grid, recipe: _Recipe, radius_um: float, nucleus_radius_um: float, rng: np.random.Generator
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
        body = _inside_outline(
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
        return _inside_outline(grid, full, rng, roughness=recipe.roughness, stretch=rng.uniform(0.05, 0.25))
    inside = _inside_outline(grid, full, rng, roughness=recipe.roughness, stretch=abs(rng.normal(0.0, 0.06)))
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
        lobe = _inside_outline(
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


def _inside_outline(
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


def _soft(inside_um: Plane, width_um: float) -> Plane:
    """1 inside, 0 outside, with an S-shaped edge `width_um` wide."""
    ramp = np.clip(0.5 + inside_um / width_um, 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), np.float32)


def _smooth_minimum(one: Plane, other: Plane, width_um: float) -> Plane:
    blend = np.clip(0.5 + 0.5 * (other - one) / width_um, 0.0, 1.0)
    return np.asarray(other + (one - other) * blend - width_um * blend * (1.0 - blend), np.float32)


def _clouds(shape: tuple[int, ...], grain_px: float, rng: np.random.Generator, stretch: float = 1.0) -> Plane:
    """Smooth noise (h, w) of mean 0 and deviation about 1; its spots are `grain_px` wide, `stretch` times as tall."""
    height, width = shape
    rows, columns = math.ceil(height / (grain_px * stretch)) + 3, math.ceil(width / grain_px) + 3
    seeds = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    left, top = rng.uniform(0.0, 1.0, 2)
    box = (left + 1.0, top + 1.0, left + 1.0 + width / grain_px, top + 1.0 + height / (grain_px * stretch))
    smooth = np.asarray(seeds.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
    return smooth * np.float32(1.35)


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
