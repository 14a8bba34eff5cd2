"""Images of any size are read a region at a time: what is held in memory grows with a tile, never with the image.

Requirements met here:
- Whole-slide formats are read by OpenSlide; PNG, JPEG and TIFF above the limit by libvips, from top to bottom; the rest by
  `decode`, whole. What lies in a region is the same whoever reads it.
- Both libraries are extras: without them, one line says how to get them. Neither writes to the terminal.
- A damaged or cut-off file is a BadImage when the damage is reached, not before: results of earlier tiles are void.
- What cannot be read a few rows at a time (interlaced PNG, progressive JPEG) or as it was meant (turned by EXIF, other
  colours than grey, RGB and palettes, a stack) is refused above the limit, never half-read or guessed at.

Pixels become 8-bit RGB as in `decode`: 16-bit grey / 257, the upper byte of 16-bit colour and of grey with opacity,
transparency over white.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from leukemia_cli.errors import MachineError
from leukemia_cli.vision.decode import LEAST_SIDE_PX, BadImage, _pillow_quiet, decode, plausible_um

Pixels = NDArray[np.uint8]

SLIDE_SUFFIXES: Mapping[str, str] = {
    ".svs": "Aperio",
    ".svslide": "Sakura",
    ".ndpi": "Hamamatsu",
    ".vms": "Hamamatsu",
    ".vmu": "Hamamatsu",
    ".mrxs": "3DHISTECH",
    ".scn": "Leica",
    ".bif": "Ventana",
    ".czi": "Zeiss",
}
"""Ends of file names (in lower case) that mark a whole slide, and whose format it is; pyramidal TIFF is told by content."""

_STRIP_ROWS = 64
"""Rows decoded at a time; a multiple of every `_shrink`."""
_PIECE_PX = 1_000_000
_MOST_THUMBNAIL_PX = 4096
_MOST_PAGES = 64
_PHOTOMETRIC, _COMPRESSION, _YCBCR, _JPEG = 262, 259, 6, 7
"""Two tags of TIFF and a value of each. Source: TIFF 6.0, section 21; TIFF Technical Note 2."""
_PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa"})
_GREY_16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_READ_IN_ROWS = _PLAIN_MODES | _GREY_16
_READ_BY_OPENSLIDE = _PLAIN_MODES | {"CMYK"}
"""Pillow's modes that each library makes the same RGB of as Pillow does, to the last bit or two."""
_EXTRA = "Install the extra: pip install 'leukemia-cli[slides]'"
_COPY = "Copy it again from where it came, or leave it out"


class Slide(Protocol):
    """An image that is read a region at a time, in px of its full resolution; `reader` names the library that does it."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def um_per_px(self) -> float | None: ...
    @property
    def reader(self) -> str: ...

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        """Give the region (height, width, 3); raises ValueError outside the image, BadImage where the file is damaged."""
        ...

    def thumbnail(self, longest_px: int) -> Pixels:
        """Give the whole image, its longer side at most `longest_px` (and 4,096); raises BadImage as `read` does."""
        ...

    def close(self) -> None:
        """Free the file and what is held of it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def needs_slide(path: str | Path, max_megapixels: float) -> bool:
    """Say by name and header alone whether `decode` would refuse the file and `open_slide` reads it in regions.

    Files that cannot be read or are of another format give False: `decode` says what is wrong with them.
    """
    name = os.fspath(path)
    if _suffix(name) in SLIDE_SUFFIXES:
        return os.path.isfile(name)  # noqa: PTH113 - Path raises for a name that is too long
    header = _header(name)
    return header is not None and (header.pyramid or header.megapixels > max_megapixels)


def open_slide(path: str | Path, *, max_megapixels: float, workers: int = 1) -> Slide:
    """Open an image of any size: whole-slide formats and large images in regions, others decoded whole.

    Raises BadImage for what cannot be used, MachineError where the library for it is not installed. `workers` is the most
    threads that libvips may take, in this process.
    """
    name = os.fspath(path)
    if not needs_slide(name, max_megapixels):
        return held(decode(name, max_megapixels=max_megapixels).pixels)
    header = _header(name)
    if _suffix(name) in SLIDE_SUFFIXES or (header is not None and header.pyramid):
        if header is not None and header.mode not in _READ_BY_OPENSLIDE:
            raise BadImage(name, f"its pixels are {_named(header.mode)}", "Save it as 8-bit RGB")
        return _Levels(name)
    assert header is not None
    _refuse_whole_only(name, header)
    return _Rows(name, header, workers)


def held(pixels: Pixels) -> Slide:
    """Treat pixels (H, W, 3) that lie in memory as a slide."""
    return _Held(pixels)


# --------------------------------------------------------------------------------------------------------- headers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    kind: str
    mode: str
    """Pillow's name for what is stored."""
    width: int
    height: int
    frames: int
    pyramid: bool
    scattered: str
    """Why it cannot be read from top to bottom; empty where it can."""

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _header(name: str) -> _Header | None:
    """Read the header of a PNG, JPEG or TIFF; None for anything else, and for what `decode` is to complain about."""
    try:
        if not Path(name).is_file():
            return None
        with Path(name).open("rb") as file, _pillow_quiet():
            start = file.read(4)
            file.seek(0)
            if start == b"\x89PNG":
                with PngImagePlugin.PngImageFile(file, "") as png:
                    scattered = "it is interlaced" if png.info.get("interlace") else ""
                    return _facts(png, "PNG", getattr(png, "n_frames", 1), scattered=scattered)
            if start[:3] == b"\xff\xd8\xff":
                with JpegImagePlugin.JpegImageFile(file, "") as jpeg:
                    scattered = "it is a progressive JPEG" if jpeg.info.get("progressive") else ""
                    return _facts(jpeg, "JPEG", 1, scattered=scattered)
            if start in TiffImagePlugin.PREFIXES:
                with TiffImagePlugin.TiffImageFile(file, "") as tiff:
                    frames, pyramid = _pages(tiff)
                    facts = _facts(tiff, "TIFF", frames, pyramid=pyramid)
                    # Pillow turns them into RGB as it decodes; libvips does so within JPEG data alone.
                    ycbcr = tiff.tag_v2.get(_PHOTOMETRIC) == _YCBCR and tiff.tag_v2.get(_COMPRESSION) != _JPEG
                    return replace(facts, mode="YCbCr") if ycbcr else facts
    except MemoryError:
        raise
    except Exception:  # damaged in one of the many ways that Pillow leaves open: decode() finds words for it
        return None
    return None


def _facts(image: Image.Image, kind: str, frames: int, *, scattered: str = "", pyramid: bool = False) -> _Header:
    width, height = image.size
    return _Header(
        kind=kind, mode=image.mode, width=width, height=height, frames=frames, pyramid=pyramid, scattered=scattered
    )


def _pages(tiff: TiffImagePlugin.TiffImageFile) -> tuple[int, bool]:
    """Count pages, and say whether the first is tiled and a later one is a smaller tiled copy of it."""
    tiled_tag = 322
    size, tiled = tiff.size, tiled_tag in tiff.tag_v2
    frames = min(tiff.n_frames, _MOST_PAGES)
    pyramid = False
    if tiled:
        for page in range(1, frames):
            tiff.seek(page)
            width, height = tiff.size
            alike = abs(width * size[1] - height * size[0]) <= max(size) * 2
            pyramid = pyramid or (tiled_tag in tiff.tag_v2 and width < size[0] and alike)
        tiff.seek(0)
    return frames, pyramid


def _refuse_whole_only(name: str, header: _Header) -> None:
    allow = f"or allow it to be decoded whole with --max-megapixels {int(header.megapixels) + 1}"
    size = f"{header.width}×{header.height} px"
    if header.scattered:
        raise BadImage(
            name,
            f"{header.scattered}, which at {size} cannot be read a part at a time",
            f"Save it anew without that, {allow}",
        )
    if header.frames > 1:
        raise BadImage(
            name,
            f"it holds {header.frames} frames; a still image is needed",
            "Save the frame that is meant as an image of its own",
        )
    if header.mode not in _READ_IN_ROWS:
        whole = "" if header.mode == "F" else f", {allow}"  # those are refused whole, too
        raise BadImage(
            name,
            f"its pixels are {_named(header.mode)}, which at {size} cannot be read a part at a time",
            f"Save it as 8-bit or 16-bit RGB{whole}",
        )


def _named(mode: str) -> str:
    """Give what Pillow's mode means."""
    if mode in _GREY_16:
        return "16-bit grey"
    return {"F": "floating-point numbers of no known range", "I": "32-bit numbers"}.get(mode, f"{mode} colours")


def _library(module: str, title: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: the package is there, the library it wraps is not
        raise MachineError(f"cannot read {name}: {title} is not installed", _EXTRA) from error


def _check_region(slide: Slide, left: int, top: int, width: int, height: int) -> None:
    inside = left >= 0 and top >= 0 and left + width <= slide.width and top + height <= slide.height
    if width < 1 or height < 1 or not inside:
        raise ValueError(f"{width}×{height} px at ({left}, {top}) reach outside {slide.width}×{slide.height} px")


def _check_thumbnail(longest_px: int) -> int:
    if longest_px < 1:
        raise ValueError(f"a thumbnail of {longest_px} px cannot be made")
    return min(longest_px, _MOST_THUMBNAIL_PX)


def _scaled(image: Image.Image, width: int, height: int, longest_px: int) -> Pixels:
    """Resize what is already small to the size that (width, height) has at `longest_px`; nothing is enlarged."""
    scale = min(1.0, longest_px / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(image if image.size == size else image.resize(size, Image.Resampling.BOX))


# --------------------------------------------------------------------------------------------------------- readers


class _Closing:
    """Close when a `with` block is left."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Held(_Closing):
    """An image in memory."""

    def __init__(self, pixels: Pixels) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.um_per_px: float | None = None
        self.reader = "memory"

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        _check_region(self, left, top, width, height)
        return self._pixels[top : top + height, left : left + width]

    def thumbnail(self, longest_px: int) -> Pixels:
        longest_px = _check_thumbnail(longest_px)
        return _scaled(Image.fromarray(np.ascontiguousarray(self._pixels)), self.width, self.height, longest_px)

    def close(self) -> None:
        pass


class _Rows(_Closing):
    """An image that libvips decodes from top to bottom; the strips from the last region's top on are held.

    Reading above them starts the file again: right, but as slow as the first time. The thumbnail is gathered as the strips
    pass, so it costs nothing once all tiles have been read, and a reading of its own before that.
    """

    def __init__(self, name: str, header: _Header, workers: int) -> None:
        self._vips = _library("pyvips", "pyvips", name)
        logging.getLogger("pyvips").addHandler(logging.NullHandler())  # else its warnings reach the terminal
        self._vips.concurrency_set(max(1, workers))
        self._vips.cache_set_max(0)  # else a file that is read again is held twice, with all that was decoded ahead
        self._name = name
        # Of a void part of a JPEG or TIFF, libvips only warns; PNG has checksums, and harmless warnings.
        self._strictness = "error" if header.kind == "PNG" else "warning"
        self._strips: dict[int, Pixels] = {}
        self._spare: list[Pixels] = []
        self._small: dict[int, Pixels] = {}
        self._image: Any
        self._region: Any
        self._next: int
        self._open()
        self.width, self.height = int(self._image.width), int(self._image.height)
        self._shrink = 1
        while max(self.width, self.height) > _MOST_THUMBNAIL_PX * self._shrink:
            self._shrink *= 2
        self._piece = _STRIP_ROWS
        while self._piece > self._shrink and self._piece * self.width > _PIECE_PX:
            self._piece //= 2
        _check_side(name, self.width, self.height)
        self.um_per_px = plausible_um(1000.0 / self._image.xres if self._image.xres > 0 else None)
        self.reader = "pyvips"

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        _check_region(self, left, top, width, height)
        first, last = top // _STRIP_ROWS, (top + height - 1) // _STRIP_ROWS
        for strip in [strip for strip in self._strips if strip < first]:
            self._spare.append(self._strips.pop(strip))
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        for strip in range(first, last + 1):
            rows = self._strip(strip)
            at = strip * _STRIP_ROWS - top
            begin, end = max(0, -at), min(_STRIP_ROWS, height - at)
            pixels[at + begin : at + end] = rows[begin:end, left : left + width]
        return pixels

    def thumbnail(self, longest_px: int) -> Pixels:
        longest_px = _check_thumbnail(longest_px)
        for strip in range(-(-self.height // _STRIP_ROWS)):
            if strip not in self._small:
                self._strip(strip)
                self._spare.append(self._strips.pop(strip))
        whole = np.concatenate([self._small[strip] for strip in sorted(self._small)])
        return _scaled(Image.fromarray(whole), self.width, self.height, longest_px)

    def close(self) -> None:
        self._region = self._image = None
        self._strips, self._spare, self._small = {}, [], {}

    def _strip(self, strip: int) -> Pixels:
        """Give the rows (64, W, 3) of a strip; those below the image are void."""
        if strip not in self._strips:
            if self._region is None or strip < self._next:
                self._spare += self._strips.values()  # else those of the last reading's end are held through this one
                self._strips = {}
                self._open()
            rows = self._spare.pop() if self._spare else self._fresh()
            while self._next <= strip:  # what lies above is decoded in any case; it is kept for the thumbnail
                self._decode(self._next, rows)
                self._next += 1
            self._strips[strip] = rows
        return self._strips[strip]

    def _fresh(self) -> Pixels:
        try:
            return np.empty((_STRIP_ROWS, self.width, 3), dtype=np.uint8)
        except MemoryError as error:
            raise BadImage(
                self._name,
                f"not enough memory for rows of {self.width} px",
                "Use a machine with more memory, or save it as tiled pyramidal TIFF",
            ) from error

    def _decode(self, strip: int, into: Pixels) -> None:
        """Decode the next strip, some rows at a time into memory that is used again.

        What libvips hands over is freed at once: blocks as large as a strip, taken anew each time, leave holes in the heap
        that nothing fits into, and the process grows to the size of the image.
        """
        top = strip * _STRIP_ROWS
        rows = min(_STRIP_ROWS, self.height - top)
        small = []
        for start in range(0, rows, self._piece):
            end = min(rows, start + self._piece)
            into[start:end] = self._fetch(top + start, end - start)
            if strip not in self._small:
                small.append(np.asarray(Image.fromarray(into[start:end]).reduce(self._shrink)))
        if small:
            self._small[strip] = np.concatenate(small)

    def _fetch(self, top: int, rows: int) -> Pixels:
        try:
            content = self._region.fetch(0, top, self.width, rows)
        except self._vips.Error as error:
            self._region = None
            self._fail(error)
        kind: type[np.uint8 | np.uint16] = np.uint8 if self._image.format == "uchar" else np.uint16
        values: NDArray[Any] = np.frombuffer(content, dtype=kind).reshape(rows, self.width, self._image.bands)
        return _as_rgb(values)

    def _open(self) -> None:
        vips = self._vips
        self._region = self._image = None
        try:
            image = vips.Image.new_from_file(self._name, access="sequential", fail_on=self._strictness, revalidate=True)
            oriented = image.get("orientation") if image.get_typeof("orientation") else 1
            self._region = vips.Region.new(image)
        except vips.Error as error:
            self._fail(error)
        if oriented not in (0, 1):
            raise BadImage(
                self._name,
                f"its EXIF data say that it is turned (orientation {oriented}), and it is too large to be turned whole",
                "Save it upright",
            )
        colours = image.interpretation in ("srgb", "rgb", "rgb16", "b-w", "grey16", "multiband")
        if not colours or image.format not in ("uchar", "ushort") or image.bands > 4:
            raise BadImage(
                self._name,
                f"its pixels are {image.interpretation}, {image.bands} bands of {image.format}",
                "Save it as 8-bit or 16-bit RGB",
            )
        self._image, self._next = image, 0

    def _fail(self, error: Exception) -> NoReturn:
        said = " ".join(str(getattr(error, "detail", "") or error).split())
        cut = any(word in said.lower() for word in ("premature", "truncated", "end of file", "read error"))
        reason = "it is truncated or damaged" if cut else "its data are damaged"
        raise BadImage(self._name, f"{reason} ({said[:200]})", _COPY) from error


class _Levels(_Closing):
    """A whole slide with copies at smaller scales, read by OpenSlide in any order."""

    def __init__(self, name: str) -> None:
        library = _library("openslide", "OpenSlide", name)
        self._errors: type[Exception] = library.OpenSlideError
        self._name = name
        try:
            self._slide = library.OpenSlide(name)
        except library.OpenSlideUnsupportedFormatError as error:
            raise BadImage(
                name, "it is not a whole slide of a format that OpenSlide knows", "Save it as PNG or TIFF"
            ) from error
        except self._errors as error:
            self._fail(error)
        self.width, self.height = self._slide.dimensions
        _check_side(name, self.width, self.height)
        values = [self._slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        sizes = [plausible_um(_number(value)) for value in values]
        known = [size for size in sizes if size is not None]
        self.um_per_px = sum(known) / len(known) if len(known) == len(sizes) else None
        self.reader = f"openslide ({self._slide.properties.get('openslide.vendor')})"

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        _check_region(self, left, top, width, height)
        return np.array(self._region(left, top, 0, width, height))

    def thumbnail(self, longest_px: int) -> Pixels:
        longest_px = _check_thumbnail(longest_px)
        level = self._slide.get_best_level_for_downsample(max(1.0, max(self.width, self.height) / longest_px))
        width, height = self._slide.level_dimensions[level]
        scale = self._slide.level_downsamples[level]
        shrink = max(1, max(width, height) // longest_px)
        rows = shrink * max(1, _STRIP_ROWS // shrink)
        bands = []
        for top in range(0, height, rows):
            band = self._region(0, int(top * scale), level, width, min(rows, height - top))
            bands.append(np.array(band.reduce(shrink)))
        return _scaled(Image.fromarray(np.concatenate(bands)), self.width, self.height, longest_px)

    def close(self) -> None:
        self._slide.close()

    def _region(self, left: int, top: int, level: int, width: int, height: int) -> Image.Image:
        try:
            region = self._slide.read_region((left, top), level, (width, height))
        except self._errors as error:
            self._fail(error)
        flat = Image.new("RGB", region.size, (255, 255, 255))
        flat.paste(region, mask=region.getchannel("A"))
        return flat

    def _fail(self, error: Exception) -> NoReturn:
        raise BadImage(self._name, f"OpenSlide cannot read it ({str(error)[:200]})", _COPY) from error


def _check_side(name: str, width: int, height: int) -> None:
    if min(width, height) < LEAST_SIDE_PX:
        raise BadImage(
            name,
            f"{width}×{height} px are too few: {LEAST_SIDE_PX} px a side are the least",
            "Leave it out, or use the original image",
        )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _as_rgb(values: NDArray[np.uint8] | NDArray[np.uint16]) -> Pixels:
    """Make (H, W, 1 to 4) bands, the last of 2 or 4 being opacity, 8-bit RGB over white."""
    bands = values.shape[2]
    if values.dtype == np.uint8:
        pixels = np.asarray(values, dtype=np.uint8)
    elif bands == 1:
        pixels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        pixels = (values >> 8).astype(np.uint8)
    if bands in (2, 4):
        image = Image.fromarray(pixels, mode="LA" if bands == 2 else "RGBA").convert("RGBA")
        flat = Image.new("RGB", image.size, (255, 255, 255))
        flat.paste(image, mask=image.getchannel("A"))
        return np.array(flat)
    return np.repeat(pixels, 3, axis=2) if bands == 1 else pixels
