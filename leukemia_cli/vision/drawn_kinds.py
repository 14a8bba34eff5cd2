"""The drawn classes: which white cells each shows, what these look like to textbooks, and what differs between patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leukemia_cli.errors import UsageError

KINDS: tuple[str, ...] = ("ALL", "AML", "CLL", "CML", "HTL")

Pair = tuple[float, float]
Stains = tuple[float, float, float]
Chromatin = Literal["fine", "lacy", "clumped", "blocks"]
NucleusShape = Literal["round", "cleft", "dented", "kidney", "band", "lobes", "smudge"]


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
class Granules:
    """Spots in the cytoplasm: spots per square micrometre, their radius and their stains."""

    per_um2: float
    radius_um: float
    stains: Stains
    over_nucleus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One kind of white cell; lengths in micrometres, stains as optical-density units, chances in 0..1."""

    diameter_um: Pair
    nucleus: NucleusShape
    nucleus_share: Pair
    chromatin: Chromatin
    cytoplasm: Stains
    eccentricity: float = 0.3
    lobes: tuple[int, ...] = ()
    nucleoli: tuple[int, int] = (0, 0)
    granules: Granules | None = None
    auer_rod_chance: float = 0.0
    vacuoles: int = 0
    pale_zone: float = 0.0
    roughness: float = 0.025


_AZURE = Granules(per_um2=0.30, radius_um=0.27, stains=(0.30, 0.85, 0.0))
_COARSE_AZURE = Granules(per_um2=0.55, radius_um=0.30, stains=(0.35, 1.0, 0.0), over_nucleus=0.25)
_FINE_PINK = Granules(per_um2=1.1, radius_um=0.20, stains=(0.16, 0.20, 0.0))
_MIXED_PINK = Granules(per_um2=0.8, radius_um=0.24, stains=(0.22, 0.40, 0.0))
_ORANGE = Granules(per_um2=0.95, radius_um=0.42, stains=(0.95, 0.05, 0.0))
_DARK = Granules(per_um2=0.50, radius_um=0.48, stains=(0.05, 1.7, 0.35), over_nucleus=0.8)


CELLS: dict[str, Recipe] = {
    "lymphoblast": Recipe(
        diameter_um=(10.0, 13.0),
        nucleus="cleft",
        nucleus_share=(0.76, 0.86),
        chromatin="fine",
        cytoplasm=(0.03, 0.08, 0.48),
        eccentricity=0.55,
        nucleoli=(0, 2),
    ),
    "myeloblast": Recipe(
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
    "promyelocyte": Recipe(
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
    "myelocyte": Recipe(
        diameter_um=(13.0, 16.0),
        nucleus="round",
        nucleus_share=(0.34, 0.42),
        chromatin="clumped",
        cytoplasm=(0.14, 0.08, 0.20),
        eccentricity=0.85,
        granules=_MIXED_PINK,
        pale_zone=0.3,
    ),
    "metamyelocyte": Recipe(
        diameter_um=(12.5, 15.0),
        nucleus="dented",
        nucleus_share=(0.34, 0.40),
        chromatin="clumped",
        cytoplasm=(0.17, 0.06, 0.10),
        eccentricity=0.45,
        granules=_FINE_PINK,
    ),
    "band": Recipe(
        diameter_um=(12.0, 14.0),
        nucleus="band",
        nucleus_share=(0.32, 0.37),
        chromatin="clumped",
        cytoplasm=(0.18, 0.06, 0.06),
        eccentricity=0.1,
        granules=_FINE_PINK,
    ),
    "neutrophil": Recipe(
        diameter_um=(12.0, 14.5),
        nucleus="lobes",
        nucleus_share=(0.29, 0.34),
        chromatin="clumped",
        cytoplasm=(0.18, 0.06, 0.05),
        eccentricity=0.1,
        lobes=(3, 3, 4, 4, 5),
        granules=_FINE_PINK,
    ),
    "eosinophil": Recipe(
        diameter_um=(12.5, 15.0),
        nucleus="lobes",
        nucleus_share=(0.26, 0.31),
        chromatin="clumped",
        cytoplasm=(0.22, 0.03, 0.05),
        eccentricity=0.3,
        lobes=(2,),
        granules=_ORANGE,
    ),
    "basophil": Recipe(
        diameter_um=(11.0, 13.5),
        nucleus="lobes",
        nucleus_share=(0.34, 0.40),
        chromatin="clumped",
        cytoplasm=(0.10, 0.14, 0.12),
        eccentricity=0.2,
        lobes=(2, 3),
        granules=_DARK,
    ),
    "monocyte": Recipe(
        diameter_um=(15.5, 19.0),
        nucleus="kidney",
        nucleus_share=(0.40, 0.48),
        chromatin="lacy",
        cytoplasm=(0.06, 0.12, 0.26),
        eccentricity=0.3,
        granules=Granules(per_um2=0.35, radius_um=0.18, stains=(0.15, 0.25, 0.0)),
        vacuoles=4,
        roughness=0.06,
    ),
    "lymphocyte": Recipe(
        diameter_um=(8.5, 11.5),
        nucleus="round",
        nucleus_share=(0.58, 0.72),
        chromatin="clumped",
        cytoplasm=(0.02, 0.03, 0.38),
        eccentricity=0.7,
    ),
    "small mature lymphocyte": Recipe(
        diameter_um=(7.8, 9.6),
        nucleus="round",
        nucleus_share=(0.78, 0.88),
        chromatin="blocks",
        cytoplasm=(0.02, 0.03, 0.36),
        eccentricity=0.6,
    ),
    "smudge": Recipe(
        diameter_um=(11.0, 15.0),
        nucleus="smudge",
        nucleus_share=(0.50, 0.60),
        chromatin="lacy",
        cytoplasm=(0.0, 0.0, 0.0),
        roughness=0.16,
    ),
}


MEANINGS: dict[str, str] = {
    "ALL": "acute lymphoblastic leukaemia",
    "AML": "acute myeloid leukaemia",
    "CLL": "chronic lymphocytic leukaemia",
    "CML": "chronic myeloid leukaemia",
    "HTL": "healthy",
}


# Which white cells a class shows. The first name is in every field; the rest are drawn by weight.
MIXTURES: dict[str, tuple[tuple[str, float], ...]] = {
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


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"no drawn smears of class {kind!r}", f"Choose one of {', '.join(KINDS)}.")
