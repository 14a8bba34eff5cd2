"""A set of drawn smears in folders, as a data set would lie: `CLASS/PATIENT/field-NN.jpg`, a slide and a README.

Requirements met here:
- Nothing in size, format or file name tells more than the class folder and the patient folder do.
- A file that this module did not draw is never overwritten or deleted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leukemia_cli.domain import Track, silent
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.vision.drawing import FIELD_SIZE_PX, draw_field, draw_patient
from leukemia_cli.vision.drawn_kinds import KINDS, MEANINGS

SLIDE_SIZE_PX = (1024, 768)
_JPEG_QUALITY = 90
_SLIDE_STEP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The files of one drawn set, in the order class, patient, field."""

    root: Path
    images: tuple[Path, ...]
    slide: Path
    readme: Path
    seed: int


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
    rows = "\n".join(f"| {kind} | {MEANINGS[kind]} | {patients_per_class} | {each} |" for kind in KINDS)
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
