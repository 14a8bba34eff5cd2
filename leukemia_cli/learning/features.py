"""Each image and view goes through a frozen backbone once: features are kept by image hash × weights × preprocessing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from leukemia_cli.domain import Note, Preprocessing, Sample, Track, counted, fingerprint, silent, unheard
from leukemia_cli.errors import MachineError, WorkspaceError
from leukemia_cli.learning.arrays import Features
from leukemia_cli.learning.batches import (
    Augmentation,
    Pixels,
    augmented_view,
    batched,
    in_threads,
    plain_view,
    read_sample,
    stack,
    to_input,
    view_rng,
)
from leukemia_cli.learning.machine import Machine, memory_errors, place
from leukemia_cli.vision.remedies import remedied
from leukemia_cli.workspace.files import write_bytes

PLAIN = "plain"
IMAGES_PER_PART = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The plain view of each image and `count` − 1 augmented ones."""

    count: int = 1
    augmentation: Augmentation | None = None
    seed: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Name each view: equal names, equal pixels for an image."""
        if self.count > 1 and self.augmentation is None:
            raise ValueError("views beyond the first need an augmentation")
        mark = fingerprint(self.augmentation.as_json()) if self.augmentation else ""
        return (PLAIN, *(f"{mark}-{self.seed}-{view}" for view in range(1, self.count)))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Hash a network's values: equal values, equal 64 hex digits."""
    hashed = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        hashed.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return hashed.hexdigest()


MOST_CACHE_BYTES = 20_000_000_000
"""What all caches of a workspace may hold together; our choice: some two million images of 2,048 features."""
_IN_USE_S = 86_400.0
"""A cache that was opened within this time may be another process's: it stays."""


def trim_caches(root: Path, keep: Path, most_bytes: int = MOST_CACHE_BYTES) -> list[Path]:
    """Remove caches below `root`, the longest unused first, until all together fit; give those that went.

    `keep` stays, and so does what was opened within a day, whatever the sum is.
    """
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        with contextlib.suppress(OSError):  # gone since, or no folder
            size = sum(part.stat().st_size for part in folder.iterdir())
            found.append((folder.stat().st_mtime, size, folder))
    total, gone = sum(size for _, size, _ in found), []
    for opened, size, folder in sorted(found):
        if total <= most_bytes:
            break
        if folder != keep and time.time() - opened > _IN_USE_S:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
            gone.append(folder)
    return gone


class FeatureCache:
    """Feature rows on disk, by image hash and view, for one set of weights and one preprocessing.

    Opening one marks it as used and trims what else lies beside it, so that a workspace's caches stay bounded.
    Parts are written whole and never changed, so two processes may fill one cache; a part that cannot be read is left out
    and its rows are computed again; one whose values have changed is refused by name.
    """

    def __init__(self, root: Path, digest: str, preprocessing: Preprocessing) -> None:
        self.folder = root / fingerprint([digest, preprocessing.as_json()])
        if self.folder.is_dir():
            with contextlib.suppress(OSError):  # read-only: then nothing is added or trimmed either
                os.utime(self.folder)
                trim_caches(root, self.folder)
        self._places: dict[tuple[str, str], tuple[Path, int]] = {}
        self.unmeasured: set[str] = set()
        """Hashes of images without a ruler, which were seen whole where a scale was asked for."""
        for part in sorted(self.folder.glob("part-*.safetensors")) if self.folder.is_dir() else ():
            try:
                with safe_open(part, framework="numpy") as file:
                    facts = file.metadata()
                rows, _ = json.loads(facts["rows"]), facts["sha256"]
                self.unmeasured.update(json.loads(facts.get("unmeasured", "[]")))
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                continue
            for row, (sha256, view) in enumerate(rows):
                self._places.setdefault((sha256, view), (part, row))

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._places

    def add(self, keys: Sequence[tuple[str, str]], rows: Features, unmeasured: Sequence[str] = ()) -> None:
        """Keep `rows` (n, D) under `keys`, and which of their images were `unmeasured`."""
        facts = {"rows": json.dumps(list(keys)), "sha256": hashlib.sha256(rows.tobytes()).hexdigest()}
        if unmeasured:
            facts["unmeasured"] = json.dumps(sorted(unmeasured))
            self.unmeasured.update(unmeasured)
        content = save({"rows": torch.from_numpy(rows)}, metadata=facts)
        part = self.folder / f"part-{secrets.token_hex(8)}.safetensors"
        write_bytes(part, content)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (part, row))

    def gather(self, keys: Sequence[tuple[str, str]]) -> Features:
        """Give the rows of `keys` in order, (n, D); raises KeyError for one that is not kept, WorkspaceError for damage."""
        by_part: dict[Path, list[tuple[int, int]]] = {}
        for at, key in enumerate(keys):
            part, row = self._places[key]
            by_part.setdefault(part, []).append((at, row))
        gathered: Features | None = None
        for part, places in by_part.items():
            try:
                with safe_open(part, framework="numpy") as file:
                    rows, digest = file.get_tensor("rows"), file.metadata().get("sha256")
            except (SafetensorError, OSError) as error:
                raise WorkspaceError(f"kept features {part} cannot be read: {error}", "Run the same again") from error
            if hashlib.sha256(rows.tobytes()).hexdigest() != digest:
                raise WorkspaceError(
                    f"kept features {part} have changed since they were written",
                    "Delete this file and run the same again",
                )
            if gathered is None:
                gathered = np.empty((len(keys), rows.shape[1]), dtype=np.float32)
            into, source = zip(*places, strict=True)
            gathered[list(into)] = rows[list(source)]
        if gathered is None:
            raise KeyError("no keys were given")
        return gathered


def run_backbone(
    backbone: nn.Module,
    views: Sequence[Pixels],
    spec: Preprocessing,
    machine: Machine,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Features:
    """Give the feature vectors (n, D) of n views; that of a view of several tiles is the mean of theirs.

    A lone tile goes through beside a copy of itself: some convolutions sum a batch of one in another order, and an
    image's features must not depend on its neighbours. No more tiles than views, or than one view has, go through at once.
    `precision` is that of the products inside; sums and what comes out are float32.
    """
    tiles = spec.remedies.tiles
    padded = views if len(views) > 1 or tiles > 1 else [views[0], views[0]]
    halved = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.inference_mode(), torch.autocast(machine.device.type, halved, enabled=halved is not None):
        inputs = to_input(stack(padded, machine.device), spec, machine.device)
        most = max(len(padded), tiles)
        out = torch.cat([backbone(inputs[at : at + most]) for at in range(0, len(inputs), most)]).float().cpu()
        if tiles > 1:
            out = out.reshape(len(views), tiles, -1).mean(dim=1)
    rows: Features = out[: len(views)].numpy()
    return rows


def extract(
    backbone: nn.Module,
    samples: Sequence[Sample],
    spec: Preprocessing,
    *,
    cache: FeatureCache,
    views: Views,
    machine: Machine,
    batch_size: int,
    max_megapixels: float,
    track: Track = silent,
) -> Features:
    """Give the features (N, V, D) of every sample and view; what the cache holds is not computed again.

    Raises DataError for an image that cannot be read or has changed, MachineError for lack of memory or features that
    are not finite.
    """
    keys = views.keys
    missing: dict[str, Sample] = {}
    for sample in samples:
        if any((sample.sha256, key) not in cache for key in keys):
            missing.setdefault(sample.sha256, sample)

    def view(sample: Sample) -> tuple[list[tuple[str, str]], list[Pixels], list[str]]:
        image = remedied(read_sample(sample, max_megapixels, spec.enough_px), spec.remedies)
        wanted = [(i, k) for i, k in enumerate(keys) if (sample.sha256, k) not in cache]
        made = [
            plain_view(image, spec)
            if i == 0 or views.augmentation is None
            else augmented_view(image, spec, views.augmentation, view_rng(views.seed, sample.sha256, i))
            for i, _ in wanted
        ]
        unmeasured = [sample.sha256] if spec.remedies.red_cell_px is not None and image.scale is None else []
        return [(sample.sha256, k) for _, k in wanted], made, unmeasured

    todo: Iterable[Sample] = track(missing.values(), total=len(missing), label="features")
    ahead = max(2 * machine.workers, IMAGES_PER_PART)  # the next part is read while this one is computed
    for part in batched(in_threads(view, todo, machine.workers, ahead), IMAGES_PER_PART):
        names = [name for sample_names, _, _ in part for name in sample_names]
        made = [pixels for _, sample_views, _ in part for pixels in sample_views]
        with memory_errors(batch_size):
            rows = np.concatenate([run_backbone(backbone, batch, spec, machine) for batch in batched(made, batch_size)])
        if not np.isfinite(rows).all():
            raise MachineError(
                "the backbone gave features that are not finite",
                "Check the weights, or try another device or precision",
            )
        cache.add(names, rows, [digest for _, _, unmeasured in part for digest in unmeasured])
    gathered = cache.gather([(sample.sha256, key) for sample in samples for key in keys])
    return gathered.reshape(len(samples), len(keys), -1)


def seen_whole(count: int) -> str:
    """Say that images had no ruler."""
    return f"warning: {counted(count, 'image')} without red cells to measure: seen whole, not at --resolution"


class Rows(Protocol):
    """Feature rows of listed images by one frozen backbone, asked for by their places in the list."""

    def __call__(self, places: Sequence[int], views: Views) -> Features:
        """Give the rows (n, V, D) of the images at `places`, in that order."""
        ...

    def missing(self, views: Views) -> int:
        """Count the views of all images that are still to be computed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """By what features are computed, where they are kept, and who hears of it; none of it changes a feature."""

    machine: Machine
    cache_root: Path
    batch_size: int
    max_megapixels: float
    track: Track = silent
    note: Note = unheard


class FrozenRows:
    """Rows of a manifest's images, computed once and then held in memory for every fold, variant and repeat."""

    def __init__(
        self, samples: Sequence[Sample], backbone: nn.Module, preprocessing: Preprocessing, means: Means
    ) -> None:
        self._samples, self._backbone, self._spec, self._means = samples, backbone, preprocessing, means
        self._told: set[str] = set()
        place(backbone, means.machine)
        backbone.eval()
        self._digest = state_digest(backbone.state_dict())
        self._cache = self._open_cache()
        self._held: dict[tuple[str, ...], dict[int, Features]] = {}

    def _open_cache(self) -> FeatureCache:
        return FeatureCache(self._means.cache_root, self._digest, self._spec)

    def __call__(self, places: Sequence[int], views: Views) -> Features:
        """Give the rows (n, V, D) of the images at `places`; raises as `extract` does."""
        held = self._held.setdefault(views.keys, {})
        missing = [at for at in dict.fromkeys(places) if at not in held]
        if missing:
            rows = extract(
                self._backbone,
                [self._samples[at] for at in missing],
                self._spec,
                cache=self._cache,
                views=views,
                machine=self._means.machine,
                batch_size=self._means.batch_size,
                max_megapixels=self._means.max_megapixels,
                track=self._means.track,
            )
            held.update(zip(missing, rows, strict=True))
            whole = {self._samples[at].sha256 for at in missing} & self._cache.unmeasured - self._told
            if whole:
                self._told |= whole
                self._means.note(seen_whole(len(whole)))
        return np.stack([held[at] for at in places])

    def missing(self, views: Views) -> int:
        """Count the views of all images that are still to be computed."""
        digests = {sample.sha256 for sample in self._samples}
        return sum((digest, key) not in self._cache for digest in digests for key in views.keys)


class CopyRows:
    """Rows of copies that stand in a list of their own: copy `i` is view `i % count` of image `i // count`."""

    def __init__(self, images: Rows, views: Views) -> None:
        self._images, self._views = images, views

    def __call__(self, places: Sequence[int], views: Views) -> Features:
        """Give the one row (n, 1, D) of each copy; raises ValueError where more views of a copy are asked for."""
        if views.count != 1:
            raise ValueError("a copy is a view already: it has no further views")
        count = self._views.count
        images = sorted({at // count for at in places})
        row_of = {image: row for row, image in enumerate(images)}
        rows = self._images(images, self._views)
        return np.stack([rows[row_of[at // count], at % count] for at in places])[:, None]

    def missing(self, views: Views) -> int:
        """Count the copies of all images that are still to be computed."""
        return self._images.missing(self._views)
