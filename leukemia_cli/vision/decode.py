"""The one door for images: a file goes in, 8-bit RGB pixels come out, or a plain reason why not.

Requirements met here:
- A file is read once; what is hashed is what is decoded, and it is decoded whole: no truncated file is half an image.
- What cannot be meant as one still photograph (animations, stacks, floating-point planes) is refused, never guessed at.
- The size limit is checked on the header, before a pixel is decoded; only formats of `catalog.IMAGE_SUFFIXES` are read.
- No exception of Pillow's and no warning of its comes through, and nothing global stays changed.

How pixels become 8-bit RGB: EXIF orientation is applied; 16-bit greyscale is scaled by its full range (value / 257),
16-bit colour keeps its upper byte (as Pillow reads it); what is transparent lies over white, as a smear's ground is;
colour profiles are not applied. Only for the crops of cells that leuk makes is the transparency itself of use (`alpha`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from leukemia_cli.catalog import IMAGE_SUFFIXES
from leukemia_cli.domain import Fit
from leukemia_cli.errors import DataError
from leukemia_cli.remote import Unreachable, is_remote, read_remote, shown

Pixels = NDArray[np.uint8]
Done = TypeVar("Done")
MAX_MEGAPIXELS = 200.0
LEAST_SIDE_PX = 16

LEAST_UM, MOST_UM = 0.02, 5.0
"""Sides of a pixel that a microscope gives."""

_DESCRIPTION, _RESOLUTIONS, _MOST_WORDS = 270, (282, 283), 100_000
_SIDES_DIFFER = 0.02
_OME_SIDE = {axis: re.compile(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"') for axis in "XY"}
_OME_UNIT = {axis: re.compile(rf'\bPhysicalSize{axis}Unit="([^"]+)"') for axis in "XY"}
_IMAGEJ_UNIT = re.compile(r"^unit=(\S+)$", re.MULTILINE)
_UM = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "\\u00B5m": 1.0,
    "&#181;m": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
}
_MOST_PIXEL_BYTES, _MOST_HEAD_BYTES = 8, 1e8
"""A pixel of four 16-bit channels, as it may be stored; and what may lie around all of them."""
_MOST_JPEG_SCANS = 500
"""Each scan of a progressive JPEG costs a pass over the whole image, and a few bytes of the file; cameras write up to 12.

Source: `-maxscans 500` as libjpeg-turbo's own fuzzers and djpeg's manual have it.
"""
_FORMATS = tuple(dict.fromkeys(IMAGE_SUFFIXES.values()))
_STILL_FORMATS = {"MPO"}  # its further pictures are previews or the other eye's view; the first is the photograph
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class BadImage(DataError):
    """A file that cannot be used as an image; `reason` is why, without the file's name."""

    def __init__(self, path: str, reason: str, hint: str) -> None:
        super().__init__(f"cannot use image {path}: {reason}", hint)
        self.path = path
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An upright image: `pixels` (H, W, 3) RGB; `sha256` of the file's bytes; `mode` is Pillow's for what is stored."""

    pixels: Pixels
    sha256: str
    width: int
    height: int
    format: str
    mode: str
    content: bytes
    """The file, as it was read."""
    um_per_px: float | None
    """Side of a pixel in µm, where the file states one that a microscope gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What is kept of an image once it was decoded whole; equal `pixels_digest` means equal size and pixels."""

    sha256: str
    pixels_digest: str
    width: int
    height: int
    format: str
    mode: str


def decode(
    path_or_bytes: str | Path | bytes,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    least_side_px: int = LEAST_SIDE_PX,
    alpha: bool = False,
    enough_px: int | None = None,
) -> Decoded:
    """Decode one still image whole; raises BadImage, a DataError that names the file and the reason.

    With `alpha` the pixels of an image that has transparency are (H, W, 4), and nothing is laid over white. With `enough_px` a
    JPEG comes at a half, a quarter or an eighth of its size, as small as leaves both sides that long: its coefficients of
    high frequency are not decoded, which takes a quarter of the time (of 5 megapixels). Limits are still those of the full size.
    """
    if isinstance(path_or_bytes, bytes):
        name, content = "(bytes)", path_or_bytes
    else:
        name = os.fspath(path_or_bytes)
        content = _read(name, _MOST_HEAD_BYTES + _MOST_PIXEL_BYTES * max_megapixels * 1e6)
    if not content:
        raise BadImage(name, "it is empty (0 bytes)", "Copy it again from where it came, or leave it out")
    limit = _Limit(name=name, max_megapixels=max_megapixels, least_side_px=least_side_px)
    try:
        with _pillow_quiet():
            pixels, kind, mode, um_per_px = _pixels(content, limit, alpha, enough_px)
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage(
            name, f"not enough memory to decode it ({len(content):,} bytes)", "Use fewer --workers, or a smaller image"
        ) from error
    except Exception as error:  # Pillow documents no closed list; the cause is kept for --debug
        raise BadImage(name, _damage(error), "Copy it again from where it came, or leave it out") from error
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(content).hexdigest()
    return Decoded(
        pixels=pixels,
        sha256=digest,
        width=width,
        height=height,
        format=kind,
        mode=mode,
        content=content,
        um_per_px=um_per_px,
    )


def inspect(
    path: str | Path, *, max_megapixels: float = MAX_MEGAPIXELS, least_side_px: int = LEAST_SIDE_PX
) -> ImageFacts:
    """Decode an image whole and keep what identifies it; raises as `decode` does."""
    return facts_of(decode(path, max_megapixels=max_megapixels, least_side_px=least_side_px))


def facts_of(decoded: Decoded) -> ImageFacts:
    """Give what is kept of a decoded image."""
    return ImageFacts(
        sha256=decoded.sha256,
        pixels_digest=pixels_digest(decoded.pixels),
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        mode=decoded.mode,
    )


def pixels_digest(pixels: Pixels) -> str:
    """Hash size and pixels (H, W, 3): the same whatever file format held them."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def fit_pixels(
    pixels: Pixels | Image.Image,
    size_px: int,
    interpolation: Literal["bilinear", "bicubic"],
    fit: Fit,
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Resize (H, W, 3) to (size, size, 3), antialiased; `box` (left, top, right, bottom, in px) takes a region of it.

    squash: the whole region, its sides scaled apart. crop: the shorter side becomes `size_px`, the centre is kept.
    pad: the longer side becomes `size_px`, centred on the median colour of the region's outermost pixels.
    Raises ValueError for a box that is empty or reaches outside.
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    if image.mode != "RGB":
        raise ValueError(f"fit_pixels takes RGB, got {image.mode}")
    left, top, right, bottom = box or (0.0, 0.0, float(image.width), float(image.height))
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ValueError(f"box {box} is empty or reaches outside {image.width}×{image.height} px")
    width, height = right - left, bottom - top
    resample = _RESAMPLING[interpolation]
    if fit == "squash":
        return np.array(image.resize((size_px, size_px), resample, box=(left, top, right, bottom)))
    if fit == "crop":
        side = min(width, height)
        left, top = left + (width - side) / 2, top + (height - side) / 2
        return np.array(image.resize((size_px, size_px), resample, box=(left, top, left + side, top + side)))
    longest = max(width, height)
    inner = (max(1, round(size_px * width / longest)), max(1, round(size_px * height / longest)))
    canvas = Image.new("RGB", (size_px, size_px), _border_colour(image, (left, top, right, bottom)))
    canvas.paste(
        image.resize(inner, resample, box=(left, top, right, bottom)),
        ((size_px - inner[0]) // 2, (size_px - inner[1]) // 2),
    )
    return np.array(canvas)


def _border_colour(image: Image.Image, box: tuple[float, float, float, float]) -> tuple[int, int, int]:
    left, top, right, bottom = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
    sides = (
        (left, top, right, top + 1),
        (left, bottom - 1, right, bottom),
        (left, top, left + 1, bottom),
        (right - 1, top, right, bottom),
    )
    border = np.concatenate([np.asarray(image.crop(side)).reshape(-1, 3) for side in sides])
    red, green, blue = np.median(border, axis=0)
    return int(red), int(green), int(blue)


# ------------------------------------------------------------------------------------------------------- the file


def _read(name: str, most_bytes: float) -> bytes:
    if is_remote(name):
        try:
            return read_remote(name, int(most_bytes))
        except Unreachable as error:
            raise BadImage(shown(name), error.reason, error.hint) from error
    try:
        facts = os.stat(name)
        mode = facts.st_mode
        if stat.S_ISDIR(mode):
            raise BadImage(name, "it is a folder", "Name the images in it, or the folder where folders are taken")
        if not stat.S_ISREG(mode):
            raise BadImage(name, "it is not a regular file", "Name an image file")
        if facts.st_size > most_bytes:  # a whole slide named .tif would fill the memory before its header is looked at
            raise BadImage(
                name,
                f"it has {facts.st_size:,} bytes, more than an image of the megapixels allowed",
                "Scale it down, or allow more with --max-megapixels",
            )
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        reason, hint = "there is no such file", "Check the path"
        if os.path.islink(name):
            reason, hint = "it is a link to a file that does not exist", "Restore the file it points to"
        raise BadImage(name, reason, hint) from None
    except PermissionError as error:
        raise BadImage(name, "no permission to read it", "Make it readable: chmod +r") from error
    except MemoryError as error:
        raise BadImage(name, "not enough memory to read it", "Leave it out, or use a smaller image") from error
    except ValueError as error:  # a NUL in the name
        raise BadImage(repr(name), "no file can have this name", "Check the path") from error
    except OSError as error:
        reason = "the path runs through a file" if error.errno == errno.ENOTDIR else os.strerror(error.errno or 0)
        raise BadImage(name, reason, "Check the path and the disk it is on") from error


# ----------------------------------------------------------------------------------------------------- its pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    name: str
    max_megapixels: float
    least_side_px: int

    def check(self, width: int, height: int) -> None:
        """Raise BadImage for a size outside the limits, going by the header alone."""
        megapixels = width * height / 1e6
        if megapixels > self.max_megapixels:
            raise BadImage(
                self.name,
                f"{width}×{height} px are {megapixels:,.1f} megapixels, more than {self.max_megapixels:g}",
                f"Scale it down, or allow more with --max-megapixels {int(megapixels) + 1}",
            )
        if min(width, height) < self.least_side_px:
            raise BadImage(
                self.name,
                f"{width}×{height} px are too few: {self.least_side_px} px a side are the least",
                "Leave it out, or use the original image",
            )


def _pixels(content: bytes, limit: _Limit, alpha: bool, enough_px: int | None) -> tuple[Pixels, str, str, float | None]:
    """Give upright RGB pixels (H, W, 3), or (H, W, 4) with `alpha`, the format, the stored mode and µm per px."""
    try:
        image = _open(content, limit.name)
    except Image.DecompressionBombError:  # Pillow's own limit; ours is checked on the next line
        with _pillow_unlimited():
            image = _open(content, limit.name)
    with image:
        limit.check(*image.size)
        kind, mode = image.format or "", image.mode
        um_per_px = _stated_um(image)
        frames = 1 if kind in _STILL_FORMATS else int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise BadImage(
                limit.name,
                f"it holds {frames} frames; a still image is needed",
                "Save the frame that is meant as an image of its own",
            )
        if mode == "F":
            raise BadImage(
                limit.name,
                "its pixels are floating-point numbers of no known range",
                "Save it as 8-bit or 16-bit PNG or TIFF",
            )
        if kind in ("JPEG", "MPO") and content.count(b"\xff\xda") > _MOST_JPEG_SCANS:
            raise BadImage(
                limit.name, f"it is stored in more than {_MOST_JPEG_SCANS} scans", "Save it again as a plain JPEG"
            )
        if kind == "PNG":  # Pillow decodes without looking at the checksums of the pixel data
            with _open(content, limit.name) as twin:
                twin.verify()
        if kind == "JPEG" and enough_px is not None:
            image.draft(None, (enough_px, enough_px))
        with _pillow_unlimited() if _over_pillow_limit(image) else contextlib.nullcontext():
            image.load()
        with contextlib.suppress(ValueError, SyntaxError, TypeError, KeyError, OSError, EOFError, struct.error):
            ImageOps.exif_transpose(image, in_place=True)  # what EXIF data say is void where they are damaged
        if alpha and image.mode == "RGBA":
            return np.array(image), kind, mode, um_per_px
        return _to_rgb(image, limit.name), kind, mode, um_per_px


def plausible_um(value: float | None) -> float | None:
    """Give a pixel's side in µm back where a microscope gives such; what else is stated is for printers or a default."""
    return value if value is not None and LEAST_UM <= value <= MOST_UM else None


def _stated_um(image: Image.Image) -> float | None:
    """Read µm per px from OME-XML or ImageJ's words in a TIFF, else from the resolution; None where sides differ.

    Source: OME data model, Pixels/PhysicalSizeX; ImageJ, ij.io.TiffEncoder (unit= in the description, px per unit in the
    resolution); TIFF 6.0 XResolution, PNG pHYs and JFIF density as Pillow's `dpi` (25.4 mm to the inch).
    """
    words = str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))[:_MOST_WORDS]
    sides: list[float] = []
    with contextlib.suppress(ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError):
        ome = [_OME_SIDE[axis].search(words) for axis in "XY"]
        units = [_OME_UNIT[axis].search(words) for axis in "XY"]
        if any(ome):
            sides = [
                float(side.group(1)) * _UM[unit.group(1) if unit else "µm"]
                for side, unit in zip(ome, units, strict=True)
                if side
            ]
        elif words.startswith("ImageJ="):
            unit = _IMAGEJ_UNIT.search(words)
            tags = getattr(image, "tag_v2", {})
            sides = [_UM[unit.group(1)] / float(tags[tag]) for tag in _RESOLUTIONS] if unit else []
        elif "dpi" in image.info:
            sides = [25_400.0 / float(value) for value in image.info["dpi"]]
    if len(sides) != 2 or abs(sides[0] - sides[1]) > _SIDES_DIFFER * max(sides):
        return None
    return plausible_um((sides[0] + sides[1]) / 2)


def _open(content: bytes, name: str) -> ImageFile.ImageFile:
    """Read the header with the first format that knows it; Image.open would apply Pillow's own global size limit."""
    Image.init()
    prefix = content[:16]
    broken: Exception | None = None
    for kind in _FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[kind]
        accepted = True if accepts is None else accepts(prefix)
        if accepted is not True and (isinstance(accepted, str) or not accepted):  # a str says why not
            continue
        try:
            return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error) as error:
            broken = broken or error
    if broken is not None:
        raise BadImage(
            name, f"its header is damaged ({broken})", "Copy it again from where it came, or leave it out"
        ) from broken
    raise BadImage(name, f"it is not an image of a known format ({_looks_like(content)})", _KNOWN_FORMATS)


_KNOWN_FORMATS = f"Known formats: {', '.join(sorted(set(_FORMATS)))}"


def _looks_like(content: bytes) -> str:
    head = content[:512]
    if not any(content[:4096]):
        return "it begins with zeros"
    if head.lstrip()[:1] == b"<":
        return "it looks like HTML or XML"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head):
        return "it looks like text"
    return f"it begins with {head[:8].hex(' ')}"


def _to_rgb(image: Image.Image, name: str) -> Pixels:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
            raise BadImage(name, "its pixels are 32-bit numbers of no known range", "Save it as 8-bit or 16-bit PNG")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        flat = Image.new("RGB", image.size, (255, 255, 255))
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)


def _damage(error: Exception) -> str:
    said = str(error).strip()
    if "truncated" in said.lower() or isinstance(error, EOFError):
        return "it is truncated: the file ends before the image does"
    if isinstance(error, zlib.error | SyntaxError | struct.error):
        return f"its data are damaged ({said or type(error).__name__})"
    return f"it cannot be decoded ({said or type(error).__name__})"


# --------------------------------------------------------------------------------------- Pillow's global settings


def _over_pillow_limit(image: Image.Image) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and image.width * image.height > limit


_LIMIT_LOCK = threading.RLock()


@contextlib.contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """Lift Pillow's own limit for one large image at a time, which also keeps threads from holding several."""
    with _LIMIT_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


class _Quiet:
    """Pillow's warnings are ignored while a thread is inside; the filters come back when the last one leaves.

    `warnings.catch_warnings` alone is not safe between threads: the last to leave would restore another's filters.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.caught = contextlib.ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.caught.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.caught.close()


_QUIET = _Quiet()


@contextlib.contextmanager
def _pillow_quiet() -> Iterator[None]:
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


@dataclass(frozen=True, slots=True)
class Unusable:
    """What is kept of a BadImage: the error itself would hold on to the bytes of the file."""

    reason: str
    hint: str


def decode_each(
    paths: Iterable[str], work: Callable[[int, Decoded], Done], *, workers: int, max_megapixels: float
) -> Iterator[Done | Unusable]:
    """Yield what `work` makes of each image and its place, in order; no more images are held than there are workers.

    `work` runs in the workers' threads; a BadImage that it raises makes its image unusable, like one of decoding.
    """

    def look(place: int, path: str) -> Done | Unusable:
        try:
            return work(place, decode(path, max_megapixels=max_megapixels))
        except BadImage as error:
            return Unusable(error.reason, error.hint)

    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    waiting: deque[Future[Done | Unusable]] = deque()
    try:
        for place, path in enumerate(paths):
            waiting.append(pool.submit(look, place, path))
            if len(waiting) > 4 * max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
