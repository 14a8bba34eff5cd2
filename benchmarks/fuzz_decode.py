"""Search, guided by coverage, for images that end `decode` in anything but pixels or a reason why not.

    python benchmarks/fuzz_decode.py [CORPUS] [-max_total_time=60 …]

Needs atheris (Linux). Whatever follows is for libFuzzer; CORPUS is where finds are kept, by default a new temporary folder
with one small image of each format. A find is written beside as crash-*, timeout-* or oom-*.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["PIL", "leukemia_cli"]):
    from leukemia_cli.errors import DataError
    from leukemia_cli.vision.decode import decode

from fuzz import good_images


def one(content: bytes) -> None:
    """Decode bytes; any exception but a DataError is a find."""
    try:
        found = decode(bytes(content), max_megapixels=4)
    except DataError:
        return
    if found.pixels.ndim != 3 or found.pixels.shape[2] != 3:
        raise ValueError(f"pixels of shape {found.pixels.shape}")


def main() -> None:
    """Begin with good images and search until told to stop."""
    given = [word for word in sys.argv[1:] if not word.startswith("-")]
    corpus = Path(given[0]) if given else Path(tempfile.mkdtemp(prefix="leuk-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, content in good_images().items():
        (corpus / name).write_bytes(content)
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    limits = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", f"-artifact_prefix={corpus}-found-"]
    atheris.Setup([sys.argv[0], *limits, *flags, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
