"""`leuk sample-images`: drawn smears to try leuk on; not real, and good for no medical conclusion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukemia_cli.domain import Track, silent
from leukemia_cli.errors import UsageError
from leukemia_cli.vision.sample_set import SampleSet, write_sample_images


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleImagesWritten:
    """Where the drawn smears lie."""

    out: Path
    drawn: SampleSet

    def as_json(self) -> dict[str, Any]:
        """Give the folder and what it holds."""
        return {"out": str(self.out), "images": len(self.drawn.images), "slide": str(self.drawn.slide), "drawn": True}


def sample_images(out: Path, *, patients: int = 6, seed: int = 0, track: Track = silent) -> SampleImagesWritten:
    """Draw smears of `patients` for each class into `out`; the same seed draws the same pictures."""
    if patients < 1:
        raise UsageError(f"--patients {patients} is too small", "Use at least 1")
    return SampleImagesWritten(out=out, drawn=write_sample_images(out, patients_per_class=patients, seed=seed))
