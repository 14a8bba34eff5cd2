"""A region is the same whoever reads it, and what cannot be read right is refused in one line."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.errors import MachineError
from leukemia_cli.vision import slides
from leukemia_cli.vision.decode import BadImage, decode
from leukemia_cli.vision.slides import needs_slide, open_slide
from leukemia_cli.vision.tiling import tiles

SMALL = 0.1
"""Megapixels above which the drawn images here count as large."""


def drawn(height: int = 700, width: int = 610) -> np.ndarray:
    """Draw discs on a slope with grain: no two regions are alike."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 200 / height, columns * 200 / width, (rows + columns) % 97], axis=2)
    pixels += rng.integers(0, 40, pixels.shape)
    pixels[((rows % 90) - 45) ** 2 + ((columns % 90) - 45) ** 2 < 400] *= 0.5
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vips():
    return pytest.importorskip("pyvips", reason="the extra leukemia-cli[slides] is not installed: no pyvips")


@pytest.fixture(scope="module")
def openslide():
    return pytest.importorskip("openslide", reason="the extra leukemia-cli[slides] is not installed: no OpenSlide")


@pytest.fixture(scope="module")
def files(tmp_path_factory, vips) -> Path:
    """Write the drawn image in every form that is read in regions."""
    folder = tmp_path_factory.mktemp("slides")
    Image.fromarray(drawn()).save(folder / "plain.png")
    image = vips.Image.new_from_array(drawn())
    image.tiffsave(str(folder / "striped.tif"), compression="deflate")
    image.tiffsave(str(folder / "tiled.tif"), compression="deflate", tile=True, tile_width=128, tile_height=128)
    tiled = {"tile": True, "pyramid": True, "tile_width": 128, "tile_height": 128, "compression": "deflate"}
    image.tiffsave(str(folder / "pyramid.tif"), xres=4000, yres=4000, **tiled)
    aperio = image.copy()
    said = "Aperio Image Library v11.2.1\n610x700 [0,0 610x700] (128x128)|AppMag = 40|MPP = 0.2500"
    aperio.set_type(vips.GValue.gstr_type, "image-description", said)
    aperio.tiffsave(str(folder / "aperio.svs"), **tiled)
    return folder


FORMS = (
    ("plain.png", "pyvips"),
    ("striped.tif", "pyvips"),
    ("tiled.tif", "pyvips"),
    ("pyramid.tif", "openslide (generic-tiff)"),
    ("aperio.svs", "openslide (aperio)"),
)


@pytest.mark.parametrize(("name", "reader"), FORMS)
def test_every_reader_gives_the_pixels_that_were_written(files: Path, openslide, name: str, reader: str) -> None:
    pixels = drawn()
    with open_slide(files / name, max_megapixels=SMALL) as slide:
        assert (slide.width, slide.height, slide.reader) == (610, 700, reader)
        for left, top, width, height in ((0, 0, 610, 10), (5, 250, 100, 20), (600, 500, 10, 200), (0, 0, 610, 700)):
            region = slide.read(left, top, width, height)
            assert region.dtype == np.uint8
            assert np.array_equal(region, pixels[top : top + height, left : left + width])


@pytest.mark.parametrize("name", [name for name, _ in FORMS])
def test_rows_read_upwards_are_right_too(files: Path, openslide, name: str) -> None:
    pixels = drawn()
    with open_slide(files / name, max_megapixels=SMALL) as slide:
        for top in (690, 300, 0, 520, 256):
            assert np.array_equal(slide.read(3, top, 50, 10), pixels[top : top + 10, 3:53])


@pytest.mark.parametrize("name", [name for name, _ in FORMS])
@pytest.mark.parametrize("after", [False, True])
def test_a_thumbnail_shows_the_whole_image_before_and_after_the_tiles(
    files: Path, openslide, name: str, after: bool
) -> None:
    with open_slide(files / name, max_megapixels=SMALL) as slide:
        if after:
            assert len(list(tiles(slide, side_px=200, overlap_px=20))) == 16
        small = slide.thumbnail(70)
        assert np.array_equal(slide.read(0, 0, 610, 30), drawn()[:30])
    assert small.shape == (70, 61, 3)
    blocks = drawn().reshape(70, 10, 61, 10, 3).mean(axis=(1, 3))
    # A copy of another reader's pyramid need not lie on our grid to the px.
    assert np.abs(small.astype(float) - blocks).mean() < 6
    assert np.corrcoef(small.ravel(), blocks.ravel())[0, 1] > 0.98


def test_a_thumbnail_is_never_larger_than_the_image(files: Path) -> None:
    with open_slide(files / "plain.png", max_megapixels=SMALL) as slide:
        assert slide.thumbnail(5000).shape == (700, 610, 3)
        with pytest.raises(ValueError, match="thumbnail of 0 px"):
            slide.thumbnail(0)


def test_a_large_image_is_gathered_into_its_thumbnail_as_it_is_read(tmp_path: Path, vips, monkeypatch) -> None:
    monkeypatch.setattr(slides, "_MOST_THUMBNAIL_PX", 100)
    Image.fromarray(drawn()).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", max_megapixels=SMALL) as slide:
        for _ in tiles(slide, side_px=300, overlap_px=10):
            pass
        assert sum(part.nbytes for part in slide._small.values()) < drawn().nbytes / 50
        assert slide.thumbnail(5000).shape[:2] == (100, 87)


def test_only_the_strips_of_the_last_region_are_held(files: Path) -> None:
    with open_slide(files / "plain.png", max_megapixels=SMALL) as slide:
        slide.read(0, 0, 10, 10)
        slide.read(0, 600, 10, 10)
        assert list(slide._strips) == [600 // slides._STRIP_ROWS]


def test_memory_of_strips_is_used_again(tmp_path: Path, vips) -> None:
    """Taken anew for each strip, it would leave holes in the heap as large as the image together."""
    pixels = drawn(3000, 100)
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    with open_slide(tmp_path / "tall.png", max_megapixels=SMALL) as slide:
        most = 240 // slides._STRIP_ROWS + 2
        twice = itertools.chain.from_iterable(tiles(slide, side_px=200, overlap_px=20) for _ in range(2))
        for tile in twice:
            assert np.array_equal(tile.pixels, pixels[tile.top : tile.top + tile.height])
            assert len(slide._strips) + len(slide._spare) <= most
        slide.thumbnail(10)
        assert len(slide._strips) + len(slide._spare) <= most


def test_sizes_of_pixels_are_told_only_where_a_microscope_could_have_written_them(files: Path, openslide) -> None:
    found = {}
    for name, _ in FORMS:
        with open_slide(files / name, max_megapixels=SMALL) as slide:
            found[name] = slide.um_per_px
    assert found["pyramid.tif"] == pytest.approx(0.25) and found["aperio.svs"] == pytest.approx(0.25)
    assert found["plain.png"] is None and found["striped.tif"] is None


def test_what_needs_regions_is_told_by_name_and_header_alone(files: Path, tmp_path: Path) -> None:
    large = {name: needs_slide(files / name, SMALL) for name, _ in FORMS}
    assert large == dict.fromkeys(large, True)
    within = {name: needs_slide(files / name, 200) for name, _ in FORMS}
    assert within == {name: name in ("pyramid.tif", "aperio.svs") for name in within}
    (tmp_path / "pyramid.png").write_bytes((files / "pyramid.tif").read_bytes())
    assert needs_slide(tmp_path / "pyramid.png", 200)
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "folder.tif").mkdir()
    for name in ("text.tif", "half.png", "folder.tif", "none.svs", "nul\0.tif"):
        assert not needs_slide(tmp_path / name, 0.0)
    Image.fromarray(drawn()).save(tmp_path / "a.bmp")
    assert not needs_slide(tmp_path / "a.bmp", SMALL)


def test_a_header_of_a_gigapixel_image_costs_no_memory(tmp_path: Path, recwarn) -> None:
    """Pillow itself would warn of a bomb, or refuse."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert needs_slide(tmp_path / "a.png", 200)
    assert not list(recwarn)


def test_an_image_within_the_limit_is_decoded_as_ever(files: Path) -> None:
    with open_slide(files / "plain.png", max_megapixels=200) as slide:
        assert slide.reader == "memory" and slide.um_per_px is None
        assert np.array_equal(slide.read(0, 0, 610, 700), decode(files / "plain.png").pixels)
        assert slide.thumbnail(70).shape == (70, 61, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_other_modes_become_what_decode_makes_of_them(tmp_path: Path, vips, mode: str) -> None:
    rng = np.random.default_rng(1)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (300, 400), dtype=np.uint16))
    elif mode in ("LA", "RGBA"):
        image = Image.fromarray(rng.integers(0, 256, (300, 400, len(mode)), dtype=np.uint8), mode=mode)
    else:
        image = Image.fromarray(drawn(300, 400)).convert(mode)
    image.save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", max_megapixels=SMALL) as slide:
        assert slide.reader == "pyvips"
        assert np.array_equal(slide.read(0, 0, 400, 300), decode(tmp_path / "a.png").pixels)


@pytest.mark.parametrize(("bands", "space"), [(2, "grey16"), (3, "rgb16"), (4, "rgb16")])
def test_bands_of_16_bits_become_what_decode_makes_of_them(tmp_path: Path, vips, bands: int, space: str) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (300, 400, bands), dtype=np.uint16)
    vips.Image.new_from_array(values, interpretation=space).pngsave(str(tmp_path / "a.png"))
    with open_slide(tmp_path / "a.png", max_megapixels=SMALL) as slide:
        assert np.array_equal(slide.read(0, 0, 400, 300), decode(tmp_path / "a.png").pixels)


def test_a_jpeg_is_decoded_as_by_pillow(tmp_path: Path, vips) -> None:
    """Both use libjpeg-turbo, with other settings maybe: a few levels are no other image."""
    Image.fromarray(drawn()).save(tmp_path / "a.jpg", quality=90)
    with open_slide(tmp_path / "a.jpg", max_megapixels=SMALL) as slide:
        read = slide.read(0, 0, 610, 700)
    assert np.abs(read.astype(int) - decode(tmp_path / "a.jpg").pixels).max() <= 8


# ------------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, -1, 5, 5), (606, 0, 5, 5), (0, 696, 5, 5), (0, 0, 0, 5)])
@pytest.mark.parametrize("name", ["plain.png", "pyramid.tif"])
def test_a_region_outside_is_refused(files: Path, openslide, name: str, region: tuple[int, int, int, int]) -> None:
    with open_slide(files / name, max_megapixels=SMALL) as slide, pytest.raises(ValueError, match="reach outside"):
        slide.read(*region)


# ------------------------------------------------------------------------------------------------------ damaged files


def read_all(path: Path) -> None:
    with open_slide(path, max_megapixels=SMALL) as slide:
        for _ in tiles(slide, side_px=200, overlap_px=16):
            pass
        slide.thumbnail(100)


@pytest.mark.parametrize("name", [name for name, _ in FORMS] + ["plain.jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_ends_early_is_an_error_and_nothing_is_printed(
    files: Path, tmp_path: Path, openslide, capfd, name: str, share: float
) -> None:
    if name == "plain.jpg":
        Image.fromarray(drawn()).save(tmp_path / "whole.jpg", quality=90)
        content = (tmp_path / "whole.jpg").read_bytes()
    else:
        content = (files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadImage) as caught:
        read_all(path)
    assert str(path) in caught.value.problem and "\n" not in caught.value.problem and caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["plain.png", "striped.tif", "tiled.tif"])
def test_damage_inside_is_an_error_and_nothing_is_printed(files: Path, tmp_path: Path, capfd, name: str) -> None:
    content = bytearray((files / name).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = b"\xff" * 30_000  # several strips: only the start of one is sure to be void
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImage, match="damaged"):
        read_all(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_damage_below_leaves_the_rows_above_to_be_read(files: Path, tmp_path: Path) -> None:
    content = (files / "plain.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) * 9 // 10])
    with open_slide(tmp_path / "a.png", max_megapixels=SMALL) as slide:
        assert np.array_equal(slide.read(0, 0, 610, 100), drawn()[:100])
        with pytest.raises(BadImage, match="truncated or damaged"):
            slide.read(0, 690, 610, 10)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.mrxs", "a.czi"])
def test_a_slide_only_by_its_name_is_refused(tmp_path: Path, openslide, name: str) -> None:
    (tmp_path / name).write_bytes(b"no slide at all" * 100)
    with pytest.raises(BadImage, match="not a whole slide"):
        open_slide(tmp_path / name, max_megapixels=200)


def test_a_slide_that_is_not_there_is_refused_as_any_image(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="no such file"):
        open_slide(tmp_path / "none.svs", max_megapixels=200)


# -------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_read_in_rows_is_refused_with_a_way_out(tmp_path: Path, vips) -> None:
    image = vips.Image.new_from_array(drawn())
    image.pngsave(str(tmp_path / "interlaced.png"), interlace=True)
    image.jpegsave(str(tmp_path / "progressive.jpg"), interlace=True)
    for name, said in (("interlaced.png", "interlaced"), ("progressive.jpg", "progressive JPEG")):
        with pytest.raises(BadImage, match=said) as caught:
            open_slide(tmp_path / name, max_megapixels=SMALL)
        assert "--max-megapixels 1" in caught.value.hint
        assert open_slide(tmp_path / name, max_megapixels=1).reader == "memory"


def test_an_image_turned_by_exif_is_refused_not_read_lying(tmp_path: Path, vips) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(drawn()).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(BadImage, match="turned"):
        open_slide(tmp_path / "a.jpg", max_megapixels=SMALL)


def test_rows_too_wide_for_the_memory_are_an_error_of_that_image(files: Path, monkeypatch) -> None:
    with open_slide(files / "plain.png", max_megapixels=SMALL) as slide:

        def full(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(
            slides.np, "empty", lambda shape, dtype: full() if shape[1] == 610 else np.zeros(shape, dtype)
        )
        with pytest.raises(BadImage, match="rows of 610 px"):
            slide.read(0, 0, 10, 10)


def test_colours_of_print_and_stacks_are_refused(tmp_path: Path, vips) -> None:
    for mode, name in (("CMYK", "print.jpg"), ("CMYK", "print.tif"), ("YCbCr", "apart.tif"), ("LAB", "lab.tif")):
        as_rgb = Image.fromarray(drawn())
        image = Image.merge("LAB", as_rgb.split()) if mode == "LAB" else as_rgb.convert(mode)
        image.save(tmp_path / name, **({"compression": "tiff_adobe_deflate"} if name.endswith("tif") else {}))
        with pytest.raises(BadImage, match=f"its pixels are {mode} colours") as caught:
            open_slide(tmp_path / name, max_megapixels=SMALL)
        assert "--max-megapixels 1" in caught.value.hint
        with open_slide(tmp_path / name, max_megapixels=1) as slide:
            assert slide.reader == "memory"
    page = Image.fromarray(drawn())
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(BadImage, match="3 frames"):
        open_slide(tmp_path / "stack.tif", max_megapixels=SMALL)
    vips.Image.new_from_array(drawn().astype(np.float32)).tiffsave(str(tmp_path / "float.tif"))
    with pytest.raises(BadImage, match=r"3 bands of float|floating-point|header is damaged"):
        open_slide(tmp_path / "float.tif", max_megapixels=SMALL)
    Image.fromarray(drawn()[..., 0].astype(np.float32)).save(tmp_path / "plane.tif")
    with pytest.raises(BadImage, match="floating-point numbers") as caught:
        open_slide(tmp_path / "plane.tif", max_megapixels=SMALL)
    assert "--max-megapixels" not in caught.value.hint, "it is refused whole, too"


def test_a_jpeg_within_a_tiff_has_colours_apart_and_is_read_as_ever(tmp_path: Path, vips) -> None:
    smooth = np.linspace(0, 200, 610).astype(np.uint8)[None, :, None].repeat(700, axis=0).repeat(3, axis=2)
    Image.fromarray(smooth).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    with open_slide(tmp_path / "a.tif", max_megapixels=SMALL) as slide:
        read = slide.read(0, 0, 610, 700)
    assert np.abs(read.astype(int) - decode(tmp_path / "a.tif").pixels).max() <= 8


def test_a_pyramid_of_16_bit_grey_is_refused_not_read_wrong(tmp_path: Path, vips, openslide) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (300, 400), dtype=np.uint16)
    form = {"tile": True, "pyramid": True, "tile_width": 128, "tile_height": 128}
    vips.Image.new_from_array(values, interpretation="grey16").tiffsave(str(tmp_path / "grey.tif"), **form)
    with pytest.raises(BadImage, match="16-bit grey"):
        open_slide(tmp_path / "grey.tif", max_megapixels=200)
    colour = np.random.default_rng(1).integers(0, 65536, (300, 400, 3), dtype=np.uint16)
    vips.Image.new_from_array(colour, interpretation="rgb16").tiffsave(str(tmp_path / "colour.tif"), **form)
    with open_slide(tmp_path / "colour.tif", max_megapixels=200) as slide:
        assert np.abs(slide.read(0, 0, 400, 300).astype(int) - (colour >> 8)).max() <= 1


@pytest.mark.parametrize(("module", "name"), [("pyvips", "plain.png"), ("openslide", "pyramid.tif")])
@pytest.mark.parametrize("error", [ModuleNotFoundError("none"), OSError("library not found")])
def test_a_missing_library_is_told_in_one_line_with_the_extra(
    files: Path, monkeypatch, module: str, name: str, error: Exception
) -> None:
    real = slides.importlib.import_module

    def fail(wanted: str):
        if wanted == module:
            raise error
        return real(wanted)

    monkeypatch.setattr(slides.importlib, "import_module", fail)
    with pytest.raises(MachineError, match="is not installed") as caught:
        open_slide(files / name, max_megapixels=SMALL)
    assert "leukemia-cli[slides]" in caught.value.hint
    assert "\n" not in caught.value.problem + caught.value.hint


def test_neither_library_is_loaded_until_it_is_needed() -> None:
    import subprocess
    import sys

    code = "import sys, leukemia_cli.vision.slides; print([m for m in ('pyvips', 'openslide') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_are_limited_to_those_granted(files: Path, vips) -> None:
    for workers in (3, 1):
        with open_slide(files / "plain.png", max_megapixels=SMALL, workers=workers):
            assert vips.concurrency_get() == workers


def test_two_slides_of_one_file_do_not_disturb_each_other(files: Path) -> None:
    pixels = drawn()
    with (
        open_slide(files / "plain.png", max_megapixels=SMALL) as one,
        open_slide(files / "plain.png", max_megapixels=SMALL) as other,
    ):
        for slide, top in itertools.product((one, other), (0, 300, 600)):
            assert np.array_equal(slide.read(0, top, 20, 20), pixels[top : top + 20, :20])
