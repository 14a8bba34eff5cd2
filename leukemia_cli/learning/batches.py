"""From image files to the network's input: the plain view of every command and the augmented view of training, side by side.

A view of T tiles is one array (T·S, S, 3): they lie below each other, and `run_backbone` takes them apart again.
Decoding runs in threads (Pillow releases the interpreter lock); what a view looks like depends only on its image and its
seed, never on threads, order or batch. Importing this loads no torch.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from leukemia_cli.domain import Preprocessing, Sample
from leukemia_cli.errors import DataError
from leukemia_cli.vision.decode import BadImage, Decoded, decode
from leukemia_cli.vision.remedies import Remedied, cut, remedied

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pixels = NDArray[np.uint8]
Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far a training view may stray from its image; every default is our choice."""

    flips: bool = True
    quarter_turns: bool = True
    least_side: float = 0.85
    """Shortest side of the region kept, as a share of the image's: small changes of scale and place."""
    stain: float = 0.10
    """Spread of the factor on each stain's optical density."""
    light: float = 0.05
    """Spread of each colour channel's gain, as a change of lamp and white balance."""
    blur_chance: float = 0.2
    blur_px: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return asdict(self)


# Optical-density directions of haematoxylin, eosin and a residual: Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23.
# Jittering densities along them: Tellez et al. 2018, IEEE TMI 37(9).
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], dtype=np.float32)
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1.0) / 256.0)
_UNSTAIN = np.linalg.inv(_STAINS).astype(np.float32)


def plain_view(image: Pixels | Decoded | Remedied, spec: Preprocessing) -> Pixels:
    """Make (T·S, S, 3) of an image (H, W, 3 or 4): what evaluation, classification and the first training view see."""
    return _stacked(cut(_ready(image, spec), spec))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """The plain view of an image, and the view that its novelty is told by: the same where no remedy hides its origin."""

    view: Pixels
    as_photographed: Pixels


def look_at(image: Pixels | Decoded, spec: Preprocessing) -> Look:
    """Make both views of an image (H, W, 3 or 4)."""
    view, plain = plain_view(image, spec), spec.as_photographed
    return Look(view=view, as_photographed=view if plain == spec else plain_view(image, plain))


def augmented_view(
    image: Pixels | Decoded | Remedied, spec: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> Pixels:
    """Turn, flip, crop a little, shift stain and light, sometimes blur; (H, W, 3) to (T·S, S, 3).

    All tiles of an image are turned, shifted and blurred alike.
    """
    image = _ready(image, spec)
    height, width = image.pixels.shape[:2]
    share = rng.uniform(augmentation.least_side, 1.0)
    left, top = rng.uniform(0, 1 - share, 2)
    turn, flip = int(rng.integers(4)), bool(rng.integers(2))
    stain = rng.normal(1.0, augmentation.stain, 3).clip(0.5, 1.5)
    light = rng.normal(1.0, augmentation.light, 3).clip(0.8, 1.2)
    blur = rng.uniform(0, augmentation.blur_px) if rng.uniform() < augmentation.blur_chance else 0.0
    box = (left * width, top * height, min((left + share) * width, width), min((top + share) * height, height))
    if image.scale is not None:
        image = replace(image, scale=image.scale / share)
    tiles = []
    for tile in cut(image, spec, box):
        view = tile
        if augmentation.quarter_turns:
            view = np.rot90(view, turn)
        if augmentation.flips and flip:
            view = view[:, ::-1]
        if augmentation.stain or augmentation.light:
            lit = np.matmul(_DENSITY[view], (_UNSTAIN * -stain.astype(np.float32)) @ _STAINS)
            np.exp(lit, out=lit)
            lit *= 256.0 * light.astype(np.float32)
            lit -= 1.0
            view = np.rint(lit.clip(0, 255, out=lit), out=lit).astype(np.uint8)
        if blur > 0.2:
            view = np.asarray(Image.fromarray(np.ascontiguousarray(view)).filter(ImageFilter.GaussianBlur(blur)))
        tiles.append(view)
    return np.ascontiguousarray(_stacked(tiles))


def _ready(image: Pixels | Decoded | Remedied, spec: Preprocessing) -> Remedied:
    return image if isinstance(image, Remedied) else remedied(image, spec.remedies)


def _stacked(tiles: Sequence[Pixels]) -> Pixels:
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles)


def view_rng(seed: int, sha256: str, view: int) -> np.random.Generator:
    """Give the random numbers of one view of one image."""
    return np.random.default_rng([seed, view, int(sha256[:16], 16)])


def to_input(views: Tensor, spec: Preprocessing, device: torch.device) -> Tensor:
    """Normalise uint8 (B, T·S, S, 3) on the device to float32 (B·T, 3, S, S), channels last in memory."""
    import torch

    mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1) * 255.0
    std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1) * 255.0
    count, height, width = views.shape[:3]
    tiles = spec.remedies.tiles
    apart = views.to(device, non_blocking=True).reshape(count * tiles, height // tiles, width, 3)
    moved = apart.permute(0, 3, 1, 2)
    return ((moved.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def stack(views: Sequence[Pixels], device: torch.device) -> Tensor:
    """Stack views to uint8 (B, T·S, S, 3), pinned where the device is CUDA."""
    import torch

    batch = torch.from_numpy(np.stack(views))
    return batch.pin_memory() if device.type == "cuda" else batch


def read_sample(sample: Sample, max_megapixels: float, enough_px: int | None = None) -> Decoded:
    """Decode a manifest's image, pixels (H, W, 3), or a cell of a photograph, (H, W, 4) with where the cell is.

    `enough_px` is as in `decode`. Raises DataError where it cannot be read or its bytes are no longer those of the manifest.
    """
    of_photograph = bool(sample.field) and sample.path != sample.field
    try:
        decoded = decode(sample.path, max_megapixels=max_megapixels, alpha=of_photograph, enough_px=enough_px)
    except BadImage as error:
        if not of_photograph:
            raise
        raise BadImage(
            sample.path, error.reason, "It is a crop that leuk prepare made: run leuk prepare again"
        ) from error
    if sample.sha256 and decoded.sha256 != sample.sha256:
        raise DataError(f"{sample.path} has changed since leuk prepare", "Restore the image, or run leuk prepare again")
    return decoded


def in_threads(work: Callable[[Work], Done], items: Iterable[Work], workers: int, ahead: int) -> Generator[Done]:
    """Do `work` on items in `workers` threads, at most `ahead` in flight, and yield the results in order."""
    with ThreadPoolExecutor(workers, thread_name_prefix="leuk-decode") as pool:
        flying: collections.deque[Future[Done]] = collections.deque()
        try:
            for item in items:
                flying.append(pool.submit(work, item))
                if len(flying) >= ahead:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def batched(items: Iterable[Work], size: int) -> Iterator[list[Work]]:
    """Gather items into lists of `size`; the last may be shorter."""
    batch: list[Work] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
