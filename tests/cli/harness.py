"""What the tests of the command line hand to one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Read stdout as exactly one JSON document."""
        return json.loads(self.out)

    @property
    def error_lines(self) -> list[str]:
        """Give the last two lines of stderr, after checking that they are problem and hint and that none is a traceback."""
        lines = self.err.splitlines()
        assert "Traceback" not in self.err
        assert [line.split(":")[0] for line in lines[-2:]] == ["error", "hint"], self.err
        assert sum(line.startswith(("error:", "hint:")) for line in lines) == 2, self.err
        return lines[-2:]


Leuk = Callable[..., Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A workspace with one run, features and a report; `documents` holds what each command printed with --json."""

    root: Path
    run: str
    pictures: Path
    documents: dict[str, Any]

    @property
    def run_folder(self) -> Path:
        """Give the folder of the run."""
        return self.root / "runs" / self.run

    @property
    def image(self) -> Path:
        """Give one image."""
        return self.pictures / "ALL" / "all-patient-01" / "field-01.jpg"
