"""Every odd or broken file ends as upright 8-bit RGB or as a plain reason; never as half an image or a traceback."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leukemia_cli.errors import DataError
from leukemia_cli.vision.decode import BadImage, Pixels, decode, fit_pixels, inspect, pixels_digest

RNG = np.random.default_rng(7)


def noise(width: int = 48, height: int = 32) -> Image.Image:
    """Draw an RGB image that compresses badly, so that a cut file lacks pixels."""
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Give the file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Make a tiny PNG that says it is huge."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"patient,label\n1,ALL\n", "looks like text"),
        (b"<!DOCTYPE html><html>not found</html>", "looks like HTML"),
        (b"\0" * 5000, "begins with zeros"),
        (b"\x13\x37\xff\x00" * 40, "begins with 13 37 ff"),
        (b"\xff\xd8\xff\xe0", "header is damaged|truncated|cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "header is damaged|truncated|cannot be decoded"),
        (b"GIF89a", "header is damaged|truncated|cannot be decoded"),
        (b"II*\0\xff\xff\xff\xff", "header is damaged|truncated|cannot be decoded"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "header is damaged|truncated|cannot be decoded"),
        (b"BM" + b"\0" * 60, "header is damaged|truncated|cannot be decoded"),
        (png_header(60_000, 60_000), "60000×60000 px are 3,600.0 megapixels, more than 200"),
        (png_header(100, 100), "truncated|damaged|cannot be decoded"),
        (encoded(noise(1, 1), "PNG"), "1×1 px are too few"),
    ],
)
def test_broken_content_gives_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "cell.jpg"
    file.write_bytes(content)
    with pytest.raises(BadImage, match=reason) as caught:
        decode(file)
    assert str(file) in caught.value.problem
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert str(file) not in caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    whole = encoded(noise(), kind)
    decode(whole)
    with pytest.raises(DataError):
        decode(whole[: int(len(whole) * kept)])


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_deflate"])
def test_a_truncated_compressed_tiff_is_refused(compression: str) -> None:
    whole = encoded(noise(), "TIFF", compression=compression)
    decode(whole)
    with pytest.raises(DataError):
        decode(whole[: int(len(whole) * 0.6)])


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    whole = bytearray(encoded(noise(), "PNG"))
    whole[len(whole) // 2] ^= 0x10
    with pytest.raises(BadImage):
        decode(bytes(whole))


def test_the_limit_names_its_flag_and_can_be_raised() -> None:
    picture = encoded(Image.new("RGB", (300, 200)), "PNG")
    with pytest.raises(BadImage, match=r"0\.1 megapixels, more than 0\.05") as caught:
        decode(picture, max_megapixels=0.05)
    assert "--max-megapixels 1" in caught.value.hint
    assert decode(picture, max_megapixels=0.06).width == 300


def test_pillows_own_limit_is_ours_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for kind in ("PNG", "TIFF", "WEBP", "GIF", "JPEG"):
        assert decode(encoded(noise(), kind)).width == 48
    assert Image.MAX_IMAGE_PIXELS == 500


def test_animations_and_stacks_are_refused_and_their_frames_counted() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(BadImage, match="it holds 3 frames; a still image is needed"):
            decode(content)


def test_of_an_mpo_the_first_picture_is_taken() -> None:
    content = encoded(
        Image.new("RGB", (20, 20), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20))]
    )
    assert decode(content).format == "MPO"
    assert decode(content).pixels[0, 0, 0] > 250


def test_floating_point_and_wide_integers_are_refused() -> None:
    with pytest.raises(BadImage, match="floating-point"):
        decode(encoded(Image.new("F", (20, 20), 0.5), "TIFF"))
    with pytest.raises(BadImage, match="32-bit"):
        decode(encoded(Image.new("I", (20, 20), 70_000), "TIFF"))


# ----------------------------------------------------------------------------------------- where it cannot be read


def test_missing_folder_link_and_special_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in [
        ("none.png", "there is no such file"),
        ("folder.png", "it is a folder"),
        ("link.png", "a link to a file that does not exist"),
        ("pipe.png", "not a regular file"),
        ("file/x.png", "runs through a file"),
        ("nul\0.png", "no file can have this name"),
        ("x" * 300 + ".png", "File name too long"),
    ]:
        with pytest.raises(BadImage, match=reason):
            decode(str(tmp_path / name))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "closed.png"
    file.write_bytes(encoded(noise(), "PNG"))
    if os.geteuid() == 0:  # root may read everything, so the refusal is played

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    else:
        file.chmod(0)
    with pytest.raises(BadImage, match="no permission to read it"):
        decode(file)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff.png")
    Path(name).write_bytes(encoded(noise(), "PNG"))
    assert decode(name).width == 48
    with pytest.raises(BadImage) as caught:
        decode(name + ".gone")
    assert name in caught.value.problem


def test_out_of_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("leukemia_cli.vision.decode._to_rgb", full)
    with pytest.raises(BadImage, match="not enough memory"):
        decode(encoded(noise(), "PNG"))


# ------------------------------------------------------------------------------------------------------ what comes out


def grey(mode: str) -> Image.Image:
    """Draw mid-grey in a Pillow mode."""
    flat = Image.new("RGB", (32, 24), (128, 128, 128))
    if mode.startswith("I"):
        return Image.new(mode, flat.size, 32896)
    if mode == "PA":
        return Image.new("LA", flat.size, (128, 255)).convert("PA")
    if mode == "P":
        return flat.convert("P", palette=Image.Palette.ADAPTIVE)
    return flat.convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I", "RGBX"]
)
def test_every_stored_mode_becomes_rgb(mode: str) -> None:
    saved = 0
    for kind in ("PNG", "TIFF") if mode.startswith("I") else ("PNG", "TIFF", "JPEG", "BMP", "GIF"):
        try:
            content = encoded(grey(mode), kind)
        except (OSError, KeyError, ValueError):
            continue  # a format that cannot hold this mode
        saved += 1
        decoded = decode(content)
        assert decoded.pixels.shape == (24, 32, 3)
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.flags.writeable
        if mode != "1":
            assert np.abs(decoded.pixels.astype(int) - 128).max() <= 4
    assert saved


@pytest.mark.parametrize(
    ("stored", "shown"),
    [((128, 128, 128), (119, 119, 119)), ((136, 208, 195), (255, 0, 0))],  # L* 50 is grey; L* 53, a* 80, b* 67 is red
)
def test_lab_becomes_the_colour_that_it_means(stored: tuple[int, int, int], shown: tuple[int, int, int]) -> None:
    pixels = decode(encoded(Image.new("LAB", (20, 20), stored), "TIFF")).pixels
    assert np.abs(pixels.astype(int) - shown).max() <= 12


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_greyscale_is_scaled_by_its_full_range(mode: str) -> None:
    values = np.array([0, 128, 129, 257, 32896, 65535] * 48, dtype=np.uint16).reshape(16, 18)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        image = Image.frombytes(mode, (18, 16), values.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    got = decode(encoded(image, "TIFF")).pixels
    assert got[0, :6, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert (got[:, :, 0] == got[:, :, 2]).all()
    if mode == "I;16":
        assert decode(encoded(image, "PNG")).pixels[0, :6, 1].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparent_pixels_lie_over_white() -> None:
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    assert (decode(encoded(clear, "PNG")).pixels == 255).all()
    assert decode(encoded(half, "PNG")).pixels[0, 0].tolist() == [127, 127, 127]
    assert (decode(encoded(Image.new("LA", (20, 20), (3, 0)), "PNG")).pixels == 255).all()
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encoded(palette, "PNG")).pixels[0, 0].tolist() == [0, 0, 255]
    assert (decode(encoded(palette, "PNG", transparency=1)).pixels == 255).all()
    assert (decode(encoded(palette, "PNG", transparency=b"\xff\x00")).pixels == 255).all()
    assert (decode(encoded(Image.new("RGB", (20, 20), "red"), "PNG", transparency=(255, 0, 0))).pixels == 255).all()


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    decoded = decode(encoded(Image.new("RGB", (32, 32), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95))
    assert decoded.mode == "CMYK"
    assert np.abs(decoded.pixels[0, 0].astype(int) - (200, 40, 90)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:6, :10] = 255
    # what each orientation says was done to the upright image: (EXIF 2.3, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **lossless))
    assert (decoded.width, decoded.height) == (40, 24)
    assert (decoded.pixels == upright).all()


def test_damaged_exif_data_do_not_cost_the_image() -> None:
    whole = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(whole).width == 48


OME = '<OME><Image><Pixels PhysicalSizeX="{x}" PhysicalSizeY="{y}"{unit} SizeX="48"/></Image></OME>'


@pytest.mark.parametrize(
    ("kind", "stated", "um_per_px"),
    [
        ("PNG", {"dpi": (254_000, 254_000)}, 0.1),
        ("TIFF", {"dpi": (101_600, 101_600)}, 0.25),
        ("TIFF", {"description": OME.format(x="0.065", y="0.065", unit="")}, 0.065),
        (
            "TIFF",
            {"description": OME.format(x="65", y="65", unit=' PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"')},
            0.065,
        ),
        ("TIFF", {"description": "ImageJ=1.53\nunit=micron\n", "tiffinfo": {282: 8.0, 283: 8.0, 296: 1}}, 0.125),
        ("JPEG", {"dpi": (300, 300)}, None),
        ("PNG", {"dpi": (254_000, 200_000)}, None),
        ("PNG", {}, None),
        ("TIFF", {"description": OME.format(x="1e999", y="0", unit="")}, None),
        ("TIFF", {"description": OME.format(x="0.1", y="0.1", unit=' PhysicalSizeXUnit="parsec"')}, None),
        ("TIFF", {"description": "ImageJ=1.53\nunit=inch\n", "dpi": (300, 300)}, None),
        ("TIFF", {"description": "ImageJ=1.53\nunit=micron\n", "tiffinfo": {282: 0.0, 283: 0.0, 296: 1}}, None),
    ],
)
def test_the_side_of_a_pixel_is_read_where_a_microscope_gives_it(
    kind: str, stated: dict[str, object], um_per_px: float | None
) -> None:
    found = decode(encoded(noise(), kind, **stated)).um_per_px
    assert found is None if um_per_px is None else found == pytest.approx(um_per_px, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "kind", "enough", "seen"),
    [
        ((640, 480), "JPEG", 100, (160, 120)),
        ((640, 480), "JPEG", 240, (320, 240)),
        ((640, 480), "JPEG", 241, (640, 480)),
        ((641, 1203), "JPEG", 20, (81, 151)),
        ((640, 480), "PNG", 100, (640, 480)),
        ((60, 40), "JPEG", 100, (60, 40)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_is_enough(
    size: tuple[int, int], kind: str, enough: int, seen: tuple[int, int]
) -> None:
    content = encoded(Image.new("RGB", size, (200, 120, 90)), kind)
    decoded = decode(content, enough_px=enough)
    assert (decoded.width, decoded.height) == seen == decoded.pixels.shape[1::-1]
    assert np.abs(decoded.pixels.astype(int) - (200, 120, 90)).max() <= 3
    with pytest.raises(BadImage, match="megapixels"):
        decode(encoded(noise(400, 300), "JPEG"), enough_px=20, max_megapixels=0.1)


def test_a_smaller_decoding_looks_like_the_whole_one() -> None:
    y, x = np.mgrid[:1200, :1600]
    smooth = (127 + 100 * np.sin(x / 90) * np.cos(y / 70))[..., None] * np.ones(3)
    content = encoded(Image.fromarray(smooth.astype(np.uint8)), "JPEG", quality=95)
    views = [
        fit_pixels(decode(content, enough_px=enough).pixels, 224, "bicubic", "squash").astype(int)
        for enough in (None, 448)
    ]
    assert np.abs(views[0] - views[1]).mean() < 0.5


def test_warning_filters_survive_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    content = encoded(palette, "PNG", transparency=b"\xff\x00")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(content) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_facts_tell_a_copy_saved_anew_from_another_image(tmp_path: Path) -> None:
    image = noise()
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG", compress_level=1))
    (tmp_path / "b.bmp").write_bytes(encoded(image, "BMP"))
    (tmp_path / "c.png").write_bytes(encoded(noise(), "PNG"))
    a, b, c = (inspect(tmp_path / name) for name in ("a.png", "b.bmp", "c.png"))
    assert a.sha256 != b.sha256
    assert a.pixels_digest == b.pixels_digest != c.pixels_digest
    flat: Pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    assert pixels_digest(flat) != pixels_digest(flat.reshape(30, 20, 3))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_ends_as_an_image_or_a_reason(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]))
    content = bytearray(encoded(Image.linear_gradient("L").resize((24, 24)).convert("RGB"), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(content), max_megapixels=2)
    except DataError as error:
        assert error.hint
    else:
        assert decoded.pixels.shape == (decoded.height, decoded.width, 3)


# ---------------------------------------------------------------------------------------------------------- resizing


def test_squash_crop_and_pad_keep_what_they_say() -> None:
    wide = np.full((40, 80, 3), 200, dtype=np.uint8)
    wide[:, :20] = (255, 0, 0)
    wide[:, 60:] = (0, 0, 255)
    squashed = fit_pixels(wide, 20, "bilinear", "squash")
    assert squashed[10, 1].tolist() == [255, 0, 0]
    assert squashed[10, 18].tolist() == [0, 0, 255]
    cropped = fit_pixels(wide, 20, "bicubic", "crop")
    assert (cropped[:, 2:18] == 200).all()
    padded = fit_pixels(wide, 20, "bilinear", "pad")
    assert padded.shape == (20, 20, 3)
    assert (padded[:5] == padded[0, 0]).all()
    assert (padded[15:] == padded[0, 0]).all()
    assert padded[10, 1].tolist() == [255, 0, 0]


def test_pad_fills_with_the_borders_median_colour() -> None:
    image = np.full((10, 40, 3), (230, 210, 220), dtype=np.uint8)
    image[3:7, 10:30] = 0
    assert fit_pixels(image, 20, "bilinear", "pad")[0, 0].tolist() == [230, 210, 220]


def test_a_box_takes_a_region_and_must_lie_within() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[10:30, 10:30] = 255
    for fit in ("squash", "crop", "pad"):
        assert (fit_pixels(image, 8, "bilinear", fit, box=(14, 14, 26, 26)) == 255).all()
    for box in ((0, 0, 41, 40), (-1, 0, 5, 5), (5, 5, 5, 9)):
        with pytest.raises(ValueError, match="box"):
            fit_pixels(image, 8, "bilinear", "squash", box=box)


@given(width=st.integers(1, 60), height=st.integers(1, 60), size=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_shape_becomes_a_square_and_one_colour_stays_one(width: int, height: int, size: int) -> None:
    image = np.full((height, width, 3), (9, 99, 199), dtype=np.uint8)
    for fit in ("squash", "crop", "pad"):
        got = fit_pixels(image, size, "bicubic", fit)
        assert got.shape == (size, size, 3)
        assert (got == (9, 99, 199)).all()
